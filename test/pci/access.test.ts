// Configuration accesses by every way in, BAR sizing, enables, moves, overlaps, sizes and alignments.
import { describe, expect, it } from 'vitest';
import { Log } from '#core/log';
import { Bytes, bdf, COMMAND, ECAM_BASE, makeBench, makeDevice } from './fabric-kit.ts';

const AT = bdf(0, 3);

function withBars() {
  const log = new Log();
  const bench = makeBench({ log });
  const memory = new Bytes(0x1000);
  const large = new Bytes(0x4000);
  const io = new Bytes(0x20);
  const rom = new Bytes(0x800);
  const device = makeDevice(
    'toy',
    [
      { index: 0, kind: 'memory32', region: memory },
      { index: 1, kind: 'io', region: io },
      { index: 2, kind: 'memory64', prefetchable: true, region: large },
    ],
    { rom },
  );
  bench.fabric.attach(bench.fabric.root, device, 3);
  return { ...bench, device, memory, large, io, rom, log };
}

describe('configuration space', () => {
  it('has no ports at CF8 where the machine has none', () => {
    const { fabric } = makeBench({ configPorts: false });
    fabric.attach(fabric.root, makeDevice('toy'), 3);
    fabric.ioWrite(0xcf8, 4, 0x8000_0000 | (AT << 8));
    expect([fabric.ioRead(0xcf8, 4), fabric.ioRead(0xcfc, 4)]).toEqual([0xffff_ffff, 0xffff_ffff]);
    expect(fabric.mmioRead(ECAM_BASE + (AT << 12), 4)).toBe(0x1111_1234);
    expect(fabric.configPorts).toBeUndefined();
  });

  it('is the same through configRead, ECAM and CF8/CFC', () => {
    const { fabric } = withBars();
    expect(fabric.configRead(AT, 0, 4)).toBe(0x1111_1234);
    expect(fabric.mmioRead(ECAM_BASE + (AT << 12), 4)).toBe(0x1111_1234);
    fabric.ioWrite(0xcf8, 4, 0x8000_0000 | (AT << 8));
    expect(fabric.ioRead(0xcf8, 4)).toBe(0x8000_0000 + (AT << 8));
    expect(fabric.ioRead(0xcfc, 4)).toBe(0x1111_1234);
    expect(fabric.ioRead(0xcfe, 2)).toBe(0x1111);
    expect(fabric.ioRead(0xcff, 1)).toBe(0x11);
    fabric.ioWrite(0xcf8, 4, 0x8000_003c | (AT << 8));
    fabric.ioWrite(0xcfc, 1, 0x55);
    expect(fabric.mmioRead(ECAM_BASE + (AT << 12) + 0x3c, 1)).toBe(0x55);
  });

  it('latches CONFIG_ADDRESS by dwords only and answers all ones while disabled', () => {
    const { fabric } = withBars();
    fabric.ioWrite(0xcf8, 4, AT << 8);
    expect(fabric.ioRead(0xcfc, 4)).toBe(0xffff_ffff);
    fabric.ioWrite(0xcf9, 1, 6);
    fabric.ioWrite(0xcf8, 2, 0x1234);
    expect(fabric.ioRead(0xcf8, 4)).toBe(AT << 8);
    expect(fabric.ioRead(0xcf8, 2)).toBe(0xffff);
  });

  it('reads all ones and drops writes where nobody is', () => {
    const { fabric } = withBars();
    for (const nobody of [bdf(0, 4), bdf(0, 3, 1), bdf(1, 0), bdf(255, 31, 7)]) {
      fabric.configWrite(nobody, 4, 4, 7);
      expect(fabric.configRead(nobody, 0, 4)).toBe(0xffff_ffff);
      expect(fabric.configRead(nobody, 2, 2)).toBe(0xffff);
      expect(fabric.configRead(nobody, 3, 1)).toBe(0xff);
    }
    for (const [offset, size] of [
      [4096, 4],
      [4094, 4],
      [-4, 4],
      [Number.NaN, 1],
      [0, 3],
    ] as const) {
      expect(() => fabric.configWrite(AT, offset, size as 4, 0xffff_ffff)).not.toThrow();
      expect(fabric.configRead(AT, offset, size as 4)).toBe(size === 3 ? 0xff_ffff : 2 ** (8 * size) - 1);
    }
  });

  it('gives an express function 4096 bytes and a conventional one 256', () => {
    const { fabric } = withBars();
    fabric.attach(fabric.root, makeDevice('old', [], { pcieType: 'conventional' }), 5);
    expect(fabric.configRead(AT, 0x100, 4)).toBe(0);
    expect(fabric.configRead(bdf(0, 5), 0xfc, 4)).toBe(0);
    expect(fabric.configRead(bdf(0, 5), 0x100, 4)).toBe(0xffff_ffff);
    expect(fabric.configRead(bdf(0, 5), 0xfe, 4)).toBe(0xffff_ffff);
  });

  it('writes only what is writable, by bytes, whatever the size and alignment', () => {
    const { fabric } = withBars();
    fabric.configWrite(AT, 0, 4, 0);
    expect(fabric.configRead(AT, 0, 4)).toBe(0x1111_1234);
    // A dword that starts in the latency timer and ends in BAR 0: the pieces land in their own registers.
    fabric.configWrite(AT, 0x0f, 4, 0xaabb_ccdd);
    expect(fabric.configRead(AT, 0x10, 4)).toBe(0x00aa_b000);
    expect(fabric.configRead(AT, 0x11, 2)).toBe(0xaab0);
  });

  it('narrows the buses to the window: 1 bus from bus 0x20', () => {
    const { fabric } = makeBench({ ecam: { base: ECAM_BASE, firstBus: 0x20, buses: 1 } });
    fabric.attach(fabric.root, makeDevice('toy'), 0);
    expect(fabric.mmioRead(ECAM_BASE, 2)).toBe(0x1234);
    expect(fabric.configRead(bdf(0x20, 0), 0, 2)).toBe(0x1234);
    expect(fabric.configRead(0, 0, 2)).toBe(0xffff);
    expect(fabric.mmioRead(ECAM_BASE + 2 ** 20, 4)).toBe(0xffff_ffff);
  });
});

describe('BARs', () => {
  it('size by writing ones: I/O, 32-bit, 64-bit prefetchable, ROM', () => {
    const { fabric } = withBars();
    for (const offset of [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24]) fabric.configWrite(AT, offset, 4, 0xffff_ffff);
    fabric.configWrite(AT, 0x30, 4, 0xffff_f800);
    expect(fabric.configRead(AT, 0x10, 4)).toBe(0xffff_f000);
    expect(fabric.configRead(AT, 0x14, 4)).toBe(0xffff_ffe1);
    expect(fabric.configRead(AT, 0x18, 4)).toBe(0xffff_c00c);
    expect(fabric.configRead(AT, 0x1c, 4)).toBe(0xffff_ffff);
    expect(fabric.configRead(AT, 0x20, 4)).toBe(0);
    expect(fabric.configRead(AT, 0x24, 4)).toBe(0);
    expect(fabric.configRead(AT, 0x30, 4)).toBe(0xffff_f800);
  });

  it('decode under their enables alone', () => {
    const { fabric, memory, io, rom } = withBars();
    memory.bytes[8] = 0x42;
    io.bytes[4] = 0x17;
    rom.bytes.set([0x55, 0xaa]);
    fabric.configWrite(AT, 0x10, 4, 0xe000_0000);
    fabric.configWrite(AT, 0x14, 4, 0xc000);
    fabric.configWrite(AT, 0x30, 4, 0xe010_0000);
    expect(fabric.mmioRead(0xe000_0008, 1)).toBe(0xff);
    fabric.configWrite(AT, COMMAND, 2, 2);
    expect(fabric.mmioRead(0xe000_0008, 1)).toBe(0x42);
    expect(fabric.ioRead(0xc004, 1)).toBe(0xff);
    expect(fabric.mmioRead(0xe010_0000, 2)).toBe(0xffff);
    fabric.configWrite(AT, 0x30, 4, 0xe010_0001);
    expect(fabric.mmioRead(0xe010_0000, 2)).toBe(0xaa55);
    fabric.configWrite(AT, COMMAND, 2, 1);
    expect(fabric.ioRead(0xc004, 1)).toBe(0x17);
    expect(fabric.mmioRead(0xe000_0008, 1)).toBe(0xff);
  });

  it('move while enabled, and the old place is empty at once', () => {
    const { fabric, memory } = withBars();
    memory.bytes[0] = 9;
    fabric.configWrite(AT, 0x10, 4, 0xe000_0000);
    fabric.configWrite(AT, COMMAND, 2, 2);
    const generation = fabric.decodeGeneration;
    let told = 0;
    fabric.onDecodeChange(() => told++);
    fabric.configWrite(AT, 0x10, 4, 0xe123_4000);
    expect(fabric.mmioRead(0xe000_0000, 1)).toBe(0xff);
    expect(fabric.mmioRead(0xe123_4000, 1)).toBe(9);
    // By bytes it passes through the places in between.
    fabric.configWrite(AT, 0x13, 1, 0xd1);
    expect(fabric.mmioRead(0xd123_4000, 1)).toBe(9);
    expect(told).toBe(2);
    expect(fabric.decodeGeneration).toBe(generation + 2);
  });

  it('reach above 4 GiB and nowhere from a sizing probe or from address 0', () => {
    const { fabric, large } = withBars();
    large.bytes[0x3fff] = 0x77;
    fabric.configWrite(AT, COMMAND, 2, 3);
    expect(fabric.decoded()).toEqual([]);
    fabric.configWrite(AT, 0x18, 4, 0xffff_ffff);
    fabric.configWrite(AT, 0x10, 4, 0xffff_ffff);
    expect(fabric.decoded()).toEqual([]);
    fabric.configWrite(AT, 0x1c, 4, 0xffff_ffff);
    expect(fabric.decoded()).toEqual([]);
    fabric.configWrite(AT, 0x1c, 4, 0x7f);
    expect(fabric.decoded()).toEqual([{ space: 'memory', base: 0x7f_ffff_c000, size: 0x4000, bdf: AT, bar: 2 }]);
    expect(fabric.mmioRead(0x7f_ffff_ffff, 1)).toBe(0x77);
    expect(fabric.lookup('memory', 0x7f_ffff_ffff)).toEqual({ bdf: AT, bar: 2, offset: 0x3fff });
  });

  it('decode at 0 where the machine says that 0 is an address', () => {
    const { fabric } = makeBench({ zeroDecodes: true });
    fabric.attach(fabric.root, makeDevice('toy', [{ index: 0, kind: 'memory32', region: new Bytes(16) }]), 0);
    fabric.configWrite(0, COMMAND, 2, 2);
    expect(fabric.decoded()).toEqual([{ space: 'memory', base: 0, size: 16, bdf: 0, bar: 0 }]);
  });

  it('that overlap: the first in bus order answers, and the guest is told on', () => {
    const { fabric, memory, log } = withBars();
    const other = new Bytes(0x2000);
    memory.bytes.fill(0x11);
    other.bytes.fill(0x22);
    fabric.attach(fabric.root, makeDevice('other', [{ index: 0, kind: 'memory32', region: other }]), 1);
    const errors: string[] = [];
    log.listen((record) => errors.push(record.message), ['guest-error']);
    fabric.configWrite(AT, 0x10, 4, 0xe000_1000);
    fabric.configWrite(bdf(0, 1), 0x10, 4, 0xe000_0000);
    fabric.configWrite(AT, COMMAND, 2, 2);
    fabric.configWrite(bdf(0, 1), COMMAND, 2, 2);
    expect(fabric.mmioRead(0xe000_1000, 4)).toBe(0x2222_2222);
    expect(errors).toHaveLength(1);
    expect(errors[0]).toContain('toy BAR 0');
    fabric.configWrite(bdf(0, 1), COMMAND, 2, 0);
    expect(fabric.mmioRead(0xe000_1000, 4)).toBe(0x1111_1111);
  });

  it('split accesses that are wide or unaligned, low part first', () => {
    const { fabric, memory } = withBars();
    fabric.configWrite(AT, 0x10, 4, 0xe000_0000);
    fabric.configWrite(AT, COMMAND, 2, 2);
    fabric.mmioWrite(0xe000_0008, 8, 0x0001_2233_4455_6677);
    fabric.mmioWrite(0xe000_0021, 4, 0xaabb_ccdd);
    fabric.mmioWrite(0xe000_0fff, 4, 0x0403_0201);
    expect(memory.writes).toEqual(['8/4=44556677', 'c/4=12233', '21/1=dd', '22/1=cc', '23/1=bb', '24/1=aa', 'fff/1=1']);
    expect(fabric.mmioRead(0xe000_0008, 8)).toBe(0x0001_2233_4455_6677);
    expect(fabric.mmioRead(0xe000_0021, 4)).toBe(0xaabb_ccdd);
    expect(fabric.mmioRead(0xe000_0fff, 4)).toBe(0xffff_ff01);
  });

  it('answer by function, BAR and offset for hosts that decode themselves', () => {
    const { fabric, memory } = withBars();
    memory.bytes[4] = 5;
    expect(fabric.barRead(AT, 0, 4, 1)).toBe(0xff);
    fabric.configWrite(AT, COMMAND, 2, 2);
    expect(fabric.barRead(AT, 0, 4, 1)).toBe(5);
    fabric.barWrite(AT, 0, 6, 2, 0x1_beef);
    expect(fabric.barRead(AT, 0, 4, 8)).toBe(0xbeef_0005);
    expect(fabric.barRead(AT, 1, 0, 4)).toBe(0xffff_ffff);
    expect(fabric.barRead(AT, 5, 0, 2)).toBe(0xffff);
    expect(fabric.barRead(AT, 0, 0x1000, 4)).toBe(0xffff_ffff);
    expect(fabric.barRead(bdf(9, 9), 0, 0, 4)).toBe(0xffff_ffff);
  });

  it('that no register can describe are refused at construction', () => {
    const region = new Bytes(64);
    expect(() => makeDevice('bad', [{ index: 5, kind: 'memory64', region }])).toThrow(RangeError);
    expect(() => makeDevice('bad', [{ index: 0, kind: 'memory32', region, size: 48 }])).toThrow(RangeError);
    expect(() => makeDevice('bad', [{ index: 0, kind: 'io', region: new Bytes(512) }])).toThrow(RangeError);
    expect(() =>
      makeDevice('bad', [
        { index: 0, kind: 'memory64', region },
        { index: 1, kind: 'memory32', region },
      ]),
    ).toThrow(RangeError);
  });
});
