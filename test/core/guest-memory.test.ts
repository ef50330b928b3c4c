import { describe, expect, it } from 'vitest';
import { ADDRESS_LIMIT, GuestMemory } from '#core/guest-memory';
import { wasmMemory } from './wasm-memory.ts';

const PAGE = 4096;
const GIB = 2 ** 30;

describe('guest memory', () => {
  it('leaves the hole of a PC below 4 GiB and goes on above it', () => {
    const memory = GuestMemory.pc(2 * GIB + 16 * PAGE);
    expect(memory.size).toBe(2 * GIB + 16 * PAGE);
    expect(memory.slabs.map((s) => [s.base, s.size])).toEqual([
      [0, GIB],
      [GIB, GIB],
      [4 * GIB, 16 * PAGE],
    ]);
    expect(memory.slabAt(2 * GIB)).toBeUndefined();
    expect(memory.slabAt(4 * GIB - 1)).toBeUndefined();
    expect(memory.slabAt(4 * GIB)?.base).toBe(4 * GIB);
    expect(memory.slabAt(GIB)?.base).toBe(GIB);
    expect(memory.slabAt(GIB - 1)?.base).toBe(0);
  });

  it('takes ranges in any order, up to the last page below 2^52', () => {
    const memory = new GuestMemory([
      { base: ADDRESS_LIMIT - PAGE, size: PAGE },
      { base: 8 * PAGE, size: PAGE },
    ]);
    expect(memory.slabAt(ADDRESS_LIMIT - 1)?.base).toBe(ADDRESS_LIMIT - PAGE);
    expect(memory.slabAt(ADDRESS_LIMIT)).toBeUndefined();
    expect(memory.slabAt(Number.NaN)).toBeUndefined();
    expect(memory.slabAt(-1)).toBeUndefined();
  });

  it.each([
    ['nothing', []],
    [
      'an overlap',
      [
        { base: 0, size: 2 * PAGE },
        { base: PAGE, size: PAGE },
      ],
    ],
    ['an unaligned base', [{ base: 12, size: PAGE }]],
    ['an unaligned size', [{ base: 0, size: PAGE + 1 }]],
    ['no size', [{ base: 0, size: 0 }]],
    ['a negative base', [{ base: -PAGE, size: PAGE }]],
    ['NaN', [{ base: Number.NaN, size: PAGE }]],
    ['an end above 2^52', [{ base: ADDRESS_LIMIT - PAGE, size: 2 * PAGE }]],
    ['a source that is too small', [{ base: 0, size: 2 * PAGE, source: new ArrayBuffer(2 * PAGE - 1) }]],
    ['a source offset that is not a multiple of 8', [{ base: 0, size: PAGE, source: new ArrayBuffer(2 * PAGE), sourceOffset: 4 }]],
  ])('refuses %s', (_, ranges) => {
    expect(() => new GuestMemory(ranges)).toThrow(RangeError);
  });

  it('looks at the same bytes as the buffer it was handed, from its offset', () => {
    const source = new ArrayBuffer(3 * PAGE);
    const memory = new GuestMemory([{ base: 0x10000, size: PAGE, source, sourceOffset: PAGE }]);
    memory.slabAt(0x10000)?.views.u8.set([1, 2, 3], 8);
    expect([...new Uint8Array(source, PAGE + 8, 3)]).toEqual([1, 2, 3]);
    expect(memory.shared).toBe(false);
    expect(() => memory.share()).toThrow(/SharedArrayBuffer/);
  });

  it('finds a grown WebAssembly memory again, and keeps nothing of the old one', () => {
    const wasm = wasmMemory(1, 4);
    const memory = new GuestMemory([{ base: 0, size: 65536, source: () => wasm.buffer }]);
    memory.slabs[0]?.views.u32.set([0xfeed], 3);
    wasm.grow(1);
    expect(memory.slabs[0]?.views.u8.length).toBe(0);
    expect(memory.refresh()).toBe(true);
    expect(memory.slabs[0]?.views.u32[3]).toBe(0xfeed);
    expect(memory.refresh()).toBe(false);
  });

  it('stays without views while the host has nothing big enough', () => {
    let buffer = new ArrayBuffer(PAGE);
    const memory = new GuestMemory([{ base: 0, size: PAGE, source: () => buffer }]);
    structuredClone(buffer, { transfer: [buffer] });
    buffer = new ArrayBuffer(8);
    expect(memory.refresh()).toBe(false);
    expect(memory.slabs[0]?.views.u8.length).toBe(0);
    buffer = new ArrayBuffer(PAGE);
    expect(memory.refresh()).toBe(true);
    expect(memory.slabs[0]?.views.u8.length).toBe(PAGE);
  });

  it('is the same memory when opened from a share', () => {
    const memory = new GuestMemory([{ base: 0, size: PAGE }]);
    const other = GuestMemory.open(structuredClone(memory.share()));
    memory.slabs[0]?.views.u8.set([42], 17);
    expect(other.slabs[0]?.views.u8[17]).toBe(42);
  });
});
