// Numbers that stand for hash parameters within one thread: two receivers with equal parameters have the same number, so a frame's column can say whose hash it carries. Exact, not a
// digest: a number is never given to other parameters again.

import { HASH_KEY_BYTES, type HashParameters } from './hash-types.ts';

interface Known {
  readonly identity: number;
  readonly contents: string;
  users: number;
}

const byContents = new Map<string, Known>();
const byIdentity = new Map<number, Known>();
let last = 0;

/**
 * The number for these parameters, above 0, valid until as many releases. A port that knows the hashes of the frames it gives sets `FrameBatch.hashedBy` to it, beside `hash` and
 * `hashReport`: receivers with the same parameters take them as they are.
 */
export function acquireHashIdentity({ types, tunnels, key }: HashParameters): number {
  let end = Math.min(key.length, HASH_KEY_BYTES);
  // Zeros at the end say what a key that stops before them says.
  while (end > 0 && key[end - 1] === 0) end--;
  const contents = `${types} ${tunnels} ${key.subarray(0, end).join(' ')}`;
  let known = byContents.get(contents);
  if (known === undefined) {
    known = { identity: ++last, contents, users: 0 };
    byContents.set(contents, known);
    byIdentity.set(known.identity, known);
  }
  known.users++;
  return known.identity;
}

export function releaseHashIdentity(identity: number): void {
  const known = byIdentity.get(identity);
  if (known === undefined || --known.users > 0) return;
  byIdentity.delete(identity);
  byContents.delete(known.contents);
}
