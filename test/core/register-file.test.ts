import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { AccessSize } from '#core/region';
import { RegisterFile, type RegisterTable } from '#core/register-file';
import { RestoreError } from '#core/saved';

/** 32-bit registers in the manner of an Intel controller. */
const intel = {
  CTRL: { offset: 0x00, reset: 0x0000_0a09, writable: 0x7fff_ffff, sticky: 0xf000_0000, fields: { FD: [0, 1], SPEED: [8, 2] } },
  STATUS: { offset: 0x08, reset: 0x8000_0003 },
  ICR: { offset: 0xc0, writeOneToClear: 0xffff_ffff, clearOnRead: 0xffff_ffff },
  RA: { offset: 0x5400, count: 4, stride: 8, writable: 0xffff_ffff },
  RA_ALIAS: { offset: 0x40, aliasOf: 'RA' },
} as const;

/** Mixed widths in the manner of virtio's common configuration. */
const common = {
  feature_select: { offset: 0, writable: 0xffff_ffff },
  msix_config: { offset: 4, size: 2, reset: 0xffff, writable: 0xffff },
  num_queues: { offset: 6, size: 2, reset: 3 },
  device_status: { offset: 8, size: 1, writable: 0xff },
  config_generation: { offset: 9, size: 1 },
  queue_select: { offset: 10, size: 2, writable: 0xffff },
} as const;

describe('a table of 32-bit registers', () => {
  it('resets, takes writable bits only, and ignores writes to the rest', () => {
    const file = new RegisterFile(intel);
    expect(file.read(0, 4)).toBe(0x0a09);
    file.write(0, 4, 0xffff_fffe);
    expect(file.read(0, 4)).toBe(0x7fff_fffe);
    file.write(8, 4, 0);
    expect(file.read(8, 4)).toBe(0x8000_0003);
    file.reset('warm');
    expect(file.read(0, 4)).toBe(0x7000_0a09);
    file.reset();
    expect(file.read(0, 4)).toBe(0x0a09);
  });

  it('clears by writing ones, and by reading the full width only', () => {
    const file = new RegisterFile(intel);
    file.set('ICR', 0xf0f0_0ff1);
    file.write(0xc0, 4, 0x0000_0001);
    expect(file.get('ICR')).toBe(0xf0f0_0ff0);
    file.write(0xc3, 1, 0xf0);
    expect(file.get('ICR')).toBe(0x00f0_0ff0);
    expect(file.read(0xc1, 1)).toBe(0x0f);
    expect(file.read(0xc2, 2)).toBe(0x00f0);
    expect(file.get('ICR')).toBe(0x00f0_0ff0);
    expect(file.read(0xc0, 4)).toBe(0x00f0_0ff0);
    expect(file.read(0xc0, 4)).toBe(0);
  });

  it('merges a narrow write with what is stored', () => {
    const file = new RegisterFile(intel);
    file.write(0x5400, 4, 0x1122_3344);
    file.write(0x5401, 1, 0xaa);
    file.write(0x5402, 2, 0xbbcc);
    expect(file.read(0x5400, 4)).toBe(0xbbcc_aa44);
  });

  it('reaches array elements and their aliases as one state', () => {
    const file = new RegisterFile(intel);
    file.write(0x5408, 4, 7);
    expect(file.read(0x48, 4)).toBe(7);
    file.write(0x58, 4, 9);
    expect(file.get('RA', 3)).toBe(9);
    expect(file.state[file.index('RA_ALIAS', 3)]).toBe(9);
    expect(() => file.get('RA', 4)).toThrow(RangeError);
  });

  it('names bit fields', () => {
    const file = new RegisterFile(intel);
    expect(file.fields('CTRL')).toEqual({ FD: 1, SPEED: 2 });
    expect(file.field('CTRL', 'SPEED')).toBe(2);
  });

  it('calls hooks with the element and the written bytes', () => {
    const calls: string[] = [];
    const file: RegisterFile<typeof intel> = new RegisterFile(intel, {
      hooks: {
        STATUS: { read: () => 0x8000_00ff, afterRead: () => calls.push('status read') },
        CTRL: { afterWrite: () => calls.push(`ctrl ${file.get('CTRL')}`) },
        RA: {
          write: (value, element, lanes) => {
            calls.push(`ra ${element} ${value.toString(16)} ${lanes.toString(16)}`);
            file.store('RA', value, element, lanes);
          },
        },
      },
    });
    expect(file.read(8, 4)).toBe(0x8000_00ff);
    expect(file.read(8, 1)).toBe(0xff);
    file.write(0, 4, 5);
    file.write(0x5410, 4, 0x1234_5678);
    file.write(0x5412, 1, 0xee);
    expect(calls).toEqual(['status read', 'ctrl 5', 'ra 2 12345678 ffffffff', 'ra 2 12ee5678 ff0000']);
    expect(file.get('RA', 2)).toBe(0x12ee_5678);
  });
});

describe('a table of mixed widths', () => {
  it('keeps neighbours apart, and reads several under one load', () => {
    const file = new RegisterFile(common);
    file.write(8, 1, 0x0f);
    file.write(10, 2, 2);
    expect(file.read(8, 4)).toBe(0x0002_000f);
    expect(file.read(4, 4)).toBe(0x0003_ffff);
    file.write(4, 4, 0x1234_0001);
    expect(file.read(4, 2)).toBe(1);
    expect(file.read(6, 2)).toBe(3);
    file.write(8, 4, 0xaaaa_bb11);
    expect([file.get('device_status'), file.get('config_generation'), file.get('queue_select')]).toEqual([0x11, 0, 0xaaaa]);
  });

  it('tells which accesses met no register', () => {
    const missed: string[] = [];
    const file = new RegisterFile(
      { A: { offset: 0, size: 2, reset: 0x1234 } },
      { size: 16, unmapped: 0xff, onUnmapped: (...what) => missed.push(what.join(' ')) },
    );
    expect(file.read(0, 4)).toBe(0xffff_1234);
    expect(file.read(8, 2)).toBe(0xffff);
    file.write(12, 4, 1);
    file.write(0, 2, 1);
    expect(missed).toEqual(['0 4 read', '8 2 read', '12 4 write']);
  });
});

describe('hostile accesses', () => {
  it.each([Number.NaN, -1, 1.5, 0x5420, 2 ** 32, 2 ** 60, Infinity])('at %d: all ones, dropped', (offset) => {
    const file = new RegisterFile(intel);
    const before = file.save();
    for (const size of [1, 2, 4] as const) {
      expect(file.read(offset, size)).toBe(2 ** (8 * size) - 1);
      file.write(offset, size, 0xffff_ffff);
    }
    expect(file.save()).toEqual(before);
  });

  it('unaligned and crossing ones do what their bytes do (property)', () => {
    const word = fc.record({ offset: fc.integer({ min: 0, max: 16 }), size: fc.constantFrom<AccessSize>(1, 2, 4), value: fc.nat(0xffff_ffff) });
    fc.assert(
      fc.property(fc.array(word, { maxLength: 20 }), (writes) => {
        const whole = new RegisterFile(common);
        const bytewise = new RegisterFile(common);
        for (const { offset, size, value } of writes) {
          if (offset + size > whole.size) continue;
          whole.write(offset, size, value);
          for (let i = 0; i < size; i++) bytewise.write(offset + i, 1, (value >>> (8 * i)) & 0xff);
          expect(whole.read(offset, size)).toBe(bytewise.read(offset, size));
        }
        expect(whole.save()).toEqual(bytewise.save());
      }),
    );
  });
});

describe('tables that cannot be', () => {
  it.each([
    ['overlap', { A: { offset: 0 }, B: { offset: 2, size: 2 } }],
    ['misaligned', { A: { offset: 2 } }],
    ['negative', { A: { offset: -4 } }],
    ['alias of nothing', { A: { offset: 0, aliasOf: 'Z' } }],
    ['alias longer than its target', { A: { offset: 0 }, B: { offset: 8, aliasOf: 'A', count: 2 } }],
    ['stride below size', { A: { offset: 0, count: 2, stride: 2 } }],
  ] as [string, RegisterTable][])('are refused: %s', (_, table) => {
    expect(() => new RegisterFile(table)).toThrow(RangeError);
  });
});

describe('saved registers', () => {
  it('come back exactly', () => {
    const file = new RegisterFile(intel);
    file.write(0x5408, 4, 0xdead_beef);
    file.write(0, 4, 0x11);
    const other = new RegisterFile(intel);
    other.restore(structuredClone(file.save()));
    expect(other.state).toEqual(file.state);
  });

  it.each([
    ['a missing register', (s: Record<string, number[]>) => delete s.CTRL],
    ['an unknown one', (s: Record<string, number[]>) => (s.CTRLX = [1])],
    ['too few elements', (s: Record<string, number[]>) => s.RA?.pop()],
    ['a value out of range', (s: Record<string, number[]>) => (s.CTRL = [2 ** 32])],
    ['a negative value', (s: Record<string, number[]>) => (s.CTRL = [-1])],
  ])('are refused with %s, and nothing changes', (_, spoil) => {
    const file = new RegisterFile(intel);
    const saved = file.save();
    saved.RA = [1, 2, 3, 4];
    spoil(saved);
    expect(() => file.restore(saved)).toThrow(RestoreError);
    expect(file.get('RA')).toBe(0);
  });
});
