import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type AccessSize, type Region, readRegion, writeRegion } from '#core/region';

/** Bytes, and a list of what reached it. Refuses, by failing the test, what a region may not be asked. */
class Bytes implements Region {
  readonly size: number;
  readonly bytes: Uint8Array;
  readonly accesses: string[] = [];

  constructor(size: number) {
    this.size = size;
    this.bytes = Uint8Array.from({ length: size }, (_, i) => i + 1);
  }

  #check(offset: number, size: AccessSize): void {
    if (offset % size !== 0 || offset < 0 || offset + size > this.size || ![1, 2, 4].includes(size)) throw new Error(`bad access ${size} at ${offset}`);
  }

  read(offset: number, size: AccessSize): number {
    this.#check(offset, size);
    this.accesses.push(`r${size}@${offset}`);
    let value = 0;
    for (let i = 0; i < size; i++) value |= (this.bytes[offset + i] as number) << (8 * i);
    return value;
  }

  write(offset: number, size: AccessSize, value: number): void {
    this.#check(offset, size);
    if (value < 0 || value >= 2 ** (8 * size)) throw new Error(`value ${value} for ${size} bytes`);
    this.accesses.push(`w${size}@${offset}`);
    for (let i = 0; i < size; i++) this.bytes[offset + i] = value >>> (8 * i);
  }
}

describe('regions', () => {
  it('give an aligned access as it is', () => {
    const region = new Bytes(8);
    expect(readRegion(region, 4, 4)).toBe(0x08070605);
    expect(region.accesses).toEqual(['r4@4']);
  });

  it('split an unaligned access into the widest aligned ones, low first', () => {
    const region = new Bytes(8);
    expect(readRegion(region, 1, 4)).toBe(0x05040302);
    expect(readRegion(region, 2, 4)).toBe(0x06050403);
    expect(readRegion(region, 3, 2)).toBe(0x0504);
    writeRegion(region, 3, 4, 0xaabbccdd);
    expect(region.accesses).toEqual(['r1@1', 'r2@2', 'r1@4', 'r2@2', 'r2@4', 'r1@3', 'r1@4', 'w1@3', 'w2@4', 'w1@6']);
    expect([...region.bytes]).toEqual([1, 2, 3, 0xdd, 0xcc, 0xbb, 0xaa, 8]);
  });

  it('answer all ones outside, drop what is written there, and serve the rest', () => {
    const region = new Bytes(6);
    expect(readRegion(region, 4, 4)).toBe(0xffff0605);
    expect(readRegion(region, 6, 2)).toBe(0xffff);
    expect(readRegion(region, -2, 4)).toBe(0x0201ffff);
    for (const offset of [Number.NaN, Infinity, 1.5, -1, 2 ** 60]) {
      expect(readRegion(region, offset, 1)).toBe(0xff);
      writeRegion(region, offset, 1, 9);
    }
    writeRegion(region, 4, 4, 0x44332211);
    expect([...region.bytes]).toEqual([1, 2, 3, 4, 0x11, 0x22]);
  });

  it('never ask a region what it need not answer (property)', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 16 }),
        fc.integer({ min: -8, max: 24 }),
        fc.constantFrom<AccessSize>(1, 2, 4),
        fc.integer(),
        (size, offset, width, value) => {
          const region = new Bytes(size);
          writeRegion(region, offset, width, value);
          const back = readRegion(region, offset, width);
          for (let i = 0; i < width; i++) {
            const inside = offset + i >= 0 && offset + i < size;
            expect((back >>> (8 * i)) & 0xff).toBe(inside ? (value >>> (8 * i)) & 0xff : 0xff);
          }
          expect(back).toBeGreaterThanOrEqual(0);
        },
      ),
    );
  });
});
