// Saved state as bytes and back: JSON, with typed arrays (and undefined) as tagged objects. What comes back is plain data and nothing else, whoever sent it; whether it makes
// sense is for the parts to check.

import { RestoreError } from '#core/saved';

const KINDS = { Uint8Array, Uint16Array, Uint32Array, Int32Array, Float64Array } as const;
type Kind = keyof typeof KINDS;
const TAG = '$nicbox';

/** @throws TypeError on what is no plain data. */
export function encodeState(state: unknown): Uint8Array {
  return Buffer.from(
    JSON.stringify(state, (_key, value: unknown) => {
      if (value === undefined) return { [TAG]: 'undefined' };
      if (typeof value !== 'object' || value === null || Array.isArray(value)) {
        if (typeof value === 'bigint' || typeof value === 'function' || typeof value === 'symbol') throw new TypeError(`saved state holds a ${typeof value}`);
        return value;
      }
      if (ArrayBuffer.isView(value)) {
        const name = value.constructor.name;
        if (!(name in KINDS)) throw new TypeError(`saved state holds a ${name}`);
        return { [TAG]: name, data: Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('base64') };
      }
      if (Object.getPrototypeOf(value) !== Object.prototype) throw new TypeError(`saved state holds a ${value.constructor?.name}`);
      return value;
    }),
  );
}

/** @throws RestoreError */
export function decodeState(bytes: Uint8Array): unknown {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    return untag(JSON.parse(text));
  } catch (error) {
    if (error instanceof RestoreError) throw error;
    throw new RestoreError(`saved state cannot be read: ${(error as Error).message}`);
  }
}

function untag(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value)) return value.map(untag);
  const { [TAG]: kind, data } = value as { [TAG]?: unknown; data?: unknown };
  if (kind === undefined) return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, untag(entry)]));
  if (kind === 'undefined') return undefined;
  if (typeof kind !== 'string' || !Object.hasOwn(KINDS, kind) || typeof data !== 'string') throw new RestoreError('saved state has a malformed array');
  const raw = Uint8Array.from(Buffer.from(data, 'base64'));
  const View = KINDS[kind as Kind];
  if (raw.length % View.BYTES_PER_ELEMENT !== 0) throw new RestoreError(`saved state has ${raw.length} bytes for a ${kind}`);
  return new View(raw.buffer);
}
