import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { viewsOf } from '#core/guest-memory';
import { SegmentList } from '#core/segments';
import { fold, storeChecksum, sumBytes, sumSegments, swap16 } from '#net/checksum';
import { onesComplementSum } from './frames.ts';

/** 0 and 0xffff are the same number in ones' complement. */
const normal = (sum: number): number => (sum === 0xffff ? 0 : sum);

describe('Internet checksum', () => {
  it('gives the sum of the worked example in RFC 1071', () => {
    const bytes = Uint8Array.from([0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
    expect(swap16(sumBytes(viewsOf(bytes.buffer), 0, 8))).toBe(0xddf2);
  });

  it('does not overflow its accumulators on 128 KiB of ones', () => {
    const bytes = new Uint8Array(131072).fill(0xff);
    expect(sumBytes(viewsOf(bytes.buffer), 0, bytes.length)).toBe(0xffff);
    expect(sumBytes(viewsOf(bytes.buffer), 1, bytes.length - 1)).toBe(fold(0xffff * 2 - 0xff00));
  });

  it('agrees with the word-by-word sum at any offset and length', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 16, maxLength: 600 }), fc.nat(9), fc.nat(9), (source, head, tail) => {
        const bytes = new Uint8Array(Math.ceil(source.length / 8) * 8);
        bytes.set(source);
        const length = Math.max(0, source.length - head - tail);
        const expected = onesComplementSum(bytes.slice(head, head + length));
        expect(normal(swap16(sumBytes(viewsOf(bytes.buffer), head, length)))).toBe(normal(expected));
      }),
    );
  });

  it('sums a frame in pieces like one in one piece, whatever the pieces and the part asked for', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.uint8Array({ minLength: 1, maxLength: 50 }), fc.nat(7)), { minLength: 1, maxLength: 12 }),
        fc.nat(30),
        fc.nat(30),
        (pieces, skip, cut) => {
          const list = new SegmentList(16, viewsOf(new ArrayBuffer(8)));
          for (const [bytes, offset] of pieces) {
            const memory = new Uint8Array(64);
            memory.set(bytes, offset);
            list.addHost(viewsOf(memory.buffer), offset, bytes.length);
          }
          const all = pieces.flatMap(([bytes]) => [...bytes]);
          const length = Math.max(0, all.length - skip - cut);
          expect(normal(swap16(sumSegments(list, 0, skip, length)))).toBe(normal(onesComplementSum(all.slice(skip, skip + length))));
        },
      ),
    );
  });

  it('stores a zero checksum as 0xffff where 0 means none', () => {
    const bytes = new Uint8Array(4);
    storeChecksum(bytes, 0, 0xffff, { zeroIsNone: false });
    storeChecksum(bytes, 2, 0xffff, { zeroIsNone: true });
    expect([...bytes]).toEqual([0, 0, 255, 255]);
  });
});
