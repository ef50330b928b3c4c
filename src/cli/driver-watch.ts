// `serve ... --watch`: a judge for the driver of each virtio-net function that a guest drives, and what it says at the end.

import { DriverJudge, Findings, findClause, PciJudge } from '#conformance/index';
import type { AccessWatch, GuestBytes } from '#interop/pcidev-function';
import type { Machine } from '#nicbox/machine';

const VIRTIO_NET = 0x1041_1af4;

export class DriverWatch {
  readonly #slot: number;
  readonly #findings: Findings;

  constructor(slot: number, findings: Findings) {
    this.#slot = slot;
    this.#findings = findings;
  }

  /** Whether a driver was there at all. */
  get silent(): boolean {
    return this.#findings.looked.size === 0;
  }

  get json(): string {
    const { held, failures, looked, broken } = this.#findings;
    const counts = Object.fromEntries([...broken].map(([clause, times]) => [clause, { broken: times, looked: looked.get(clause) }]));
    return JSON.stringify({ slot: this.#slot, held: [...held].sort(), broken: counts, failures });
  }

  get text(): string {
    const { held, failures, looked, broken } = this.#findings;
    const lines = [`slot ${this.#slot}: the driver was judged by ${looked.size} clauses, of which ${held.length} held`];
    for (const clause of broken.keys()) {
      const { strength = '', summary = '' } = findClause(clause) ?? {};
      lines.push(`  ${clause} ${strength}: ${summary} (broken ${broken.get(clause)} times of ${looked.get(clause)})`);
      for (const { what, expected, seen } of failures.filter((check) => check.clause === clause)) lines.push(`    ${what}: expected ${expected}, saw ${seen}`);
    }
    return lines.join('\n');
  }
}

/** A judge for the function there, if it is a virtio-net; it goes into `watches`. */
export function watchDriver(machine: Machine, bdf: number, memory: GuestBytes, watches: DriverWatch[]): AccessWatch | undefined {
  if (machine.configRead(bdf, 0, 4) !== VIRTIO_NET) return undefined;
  const findings = new Findings();
  // The data plane is a worker's, and the guest another process: nothing stands still.
  const rings = new DriverJudge({ bytes: memory }, findings, false);
  const judge = new PciJudge({ config: (offset, size) => machine.configRead(bdf, offset, size), bar: (bar, offset, size) => machine.barRead(bdf, bar, offset, size) }, rings);
  watches.push(new DriverWatch(bdf >>> 3, findings));
  const small = (size: number): size is 1 | 2 | 4 => size <= 4;
  return {
    configRead: (offset, size) => judge.configRead(offset, size),
    configWrite: (offset, size, value) => judge.configWrite(offset, size, value),
    barRead: (bar, offset, size, value) => void (small(size) && judge.barRead(bar, offset, size, value)),
    barWrite: (bar, offset, size, value) => void (small(size) && judge.barWrite(bar, offset, size, value)),
  };
}
