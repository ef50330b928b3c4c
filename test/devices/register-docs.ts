// Cells of the register tables in docs/e1000.md and docs/igb.md.

import type { RegisterSpec } from '#core/register-file';

/** What is known of registers beside their specs. */
export interface RegisterKinds {
  readonly counts: ReadonlySet<string>;
  /** Kept, and nothing comes of it. */
  readonly stored: ReadonlySet<string>;
  /** What the device alone writes, if it has no modes. */
  isActive(name: string): boolean;
}

export function hex(value: number, digits = 8): string {
  return (value >>> 0).toString(16).padStart(digits, '0');
}

export function modes(name: string, spec: RegisterSpec, { counts, stored, isActive }: RegisterKinds): string {
  if (counts.has(name)) return name.endsWith('L') && counts.has(`${name.slice(0, -1)}H`) ? 'read only; clears with its high half' : 'read clears';
  const found: string[] = [];
  if (spec.writable !== undefined) found.push(`write ${hex(spec.writable)}`);
  if (spec.writeOneToClear !== undefined) found.push(`1 clears ${hex(spec.writeOneToClear)}`);
  if (spec.clearOnRead !== undefined) found.push('read clears');
  if (spec.sticky !== undefined) found.push(`outlives CTRL.RST ${hex(spec.sticky)}`);
  if (stored.has(name)) found.push('kept, no effect');
  if (found.length === 0) found.push(isActive(name) ? 'by what it does' : 'read only');
  return found.join(', ');
}
