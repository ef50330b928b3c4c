import { describe, expect, it } from 'vitest';
import { copyBytes } from '#core/copy';
import { viewsOf } from '#core/guest-memory';

const NAN_WORDS = [0x7ff00001, 0xfff7ffff, 0xfff00001, 0x7fffffff, 0xfff80000];

type Memory = typeof SharedArrayBuffer | typeof ArrayBuffer;

describe.each<[string, Memory, Memory]>([
  ['in shared memory', SharedArrayBuffer, SharedArrayBuffer],
  ['in private memory', ArrayBuffer, ArrayBuffer],
  ['into shared memory', ArrayBuffer, SharedArrayBuffer],
  ['out of shared memory', SharedArrayBuffer, ArrayBuffer],
])('copyBytes %s', (_name, Source, Target) => {
  it('copies every length and alignment exactly, and nothing beside', () => {
    const from = viewsOf(new Source(4096));
    const between = viewsOf(new Target(4096));
    for (let i = 0; i < 4096; i++) from.u8[i] = (i * 131 + 7) & 0xff;
    for (const length of [0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 31, 47, 48, 60, 64, 95, 96, 127, 128, 255, 256, 447, 448, 1023, 1024, 1500, 2047, 2048])
      for (let s = 0; s < 8; s++)
        for (let t = 0; t < 8; t++) {
          between.u8.fill(0xee);
          copyBytes(between, 64 + t, from, 16 + s, length);
          const expected = new Uint8Array(4096).fill(0xee);
          expected.set(from.u8.subarray(16 + s, 16 + s + length), 64 + t);
          expect(Buffer.compare(between.u8, expected), `length ${length} from ${s} to ${t}`).toBe(0);
        }
  });

  it('copies within one view as between two', () => {
    const views = viewsOf(new Source(8192));
    for (const length of [3, 60, 200, 1500])
      for (let t = 0; t < 8; t++) {
        for (let i = 0; i < 8192; i++) views.u8[i] = (i * 29) & 0xff;
        const expected = Uint8Array.from(views.u8.subarray(3, 3 + length));
        copyBytes(views, 4096 + t, views, 3, length);
        expect(Buffer.compare(views.u8.subarray(4096 + t, 4096 + t + length), expected)).toBe(0);
        expect(views.u8[4096 + t + length]).toBe(((4096 + t + length) * 29) & 0xff);
      }
  });

  it('keeps NaN bit patterns, before and after the loop is optimised', () => {
    const from = viewsOf(new Source(512));
    const to = viewsOf(new Target(512));
    for (let i = 0; i < 64; i++) {
      from.u32[2 * i] = 0xffffffff - i;
      from.u32[2 * i + 1] = NAN_WORDS[i % NAN_WORDS.length] as number;
    }
    for (let round = 0; round < 20000; round++) {
      if (round % 500 === 0) to.u8.fill(0);
      copyBytes(to, 4, from, 4, 300);
      if (round % 500 === 0) expect(Buffer.compare(to.u8.subarray(4, 304), from.u8.subarray(4, 304)), `round ${round}`).toBe(0);
    }
  });
});
