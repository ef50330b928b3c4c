// The register table of the 82576 as a driver's self test sees it, NVM, PHY and link, semaphores, resets, the I/O window, configuration space.
import { describe, expect, it } from 'vitest';
import { SimClock } from '#core/clock';
import { IGB_REGISTERS } from '#devices/igb/registers';
import { Machine } from '#nicbox/machine';
import { frame } from '../../e1000/bench.ts';
import { ENABLE, LSC, of, R, Station, wired } from './bench.ts';

const PATTERNS = [0x5a5a_5a5a, 0xa5a5_a5a5, 0x0000_0000, 0xffff_ffff];

/** What Linux's register test of this part writes and expects to read: offset, stride, count, bits compared, bits written. */
const LINUX: readonly [offset: number, stride: number, count: number, mask: number, write: number][] = [
  [0x28, 0, 1, 0xffff_ffff, 0xffff_ffff],
  [0x2c, 0, 1, 0xffff, 0xffff_ffff],
  [0x30, 0, 1, 0xffff, 0xffff_ffff],
  [0x38, 0, 1, 0xffff_ffff, 0xffff_ffff],
  [0x2800, 0x100, 4, 0xffff_ff80, 0xffff_ffff],
  [0x2804, 0x100, 4, 0xffff_ffff, 0xffff_ffff],
  [0x2808, 0x100, 4, 0x000f_fff0, 0x000f_ffff],
  [0xc100, 0x40, 12, 0xffff_ff80, 0xffff_ffff],
  [0xc104, 0x40, 12, 0xffff_ffff, 0xffff_ffff],
  [0xc108, 0x40, 12, 0x000f_fff0, 0x000f_ffff],
  [0x2818, 0x100, 4, 0xffff, 0xffff],
  [0xc118, 0x40, 12, 0xffff, 0xffff],
  [0x2168, 0, 1, 0xfff0, 0xfff0],
  [0x170, 0, 1, 0xffff, 0xffff],
  [0x410, 0, 1, 0x3fff_ffff, 0x3fff_ffff],
  [0x3800, 0x100, 4, 0xffff_ff80, 0xffff_ffff],
  [0x3804, 0x100, 4, 0xffff_ffff, 0xffff_ffff],
  [0x3808, 0x100, 4, 0x000f_fff0, 0x000f_ffff],
  [0xe100, 0x40, 12, 0xffff_ff80, 0xffff_ffff],
  [0xe104, 0x40, 12, 0xffff_ffff, 0xffff_ffff],
  [0xe108, 0x40, 12, 0x000f_fff0, 0x000f_ffff],
  [0x5400, 8, 16, 0xffff_ffff, 0xffff_ffff],
  [0x5404, 8, 16, 0x83ff_ffff, 0xffff_ffff],
  [0x54e0, 8, 8, 0xffff_ffff, 0xffff_ffff],
  [0x54e4, 8, 8, 0x83ff_ffff, 0xffff_ffff],
  [0x5200, 4, 128, 0xffff_ffff, 0xffff_ffff],
];

describe('registers', () => {
  it("store what Linux's self test writes", () => {
    const nic = new Station();
    for (const [offset, stride, count, mask, write] of LINUX)
      for (let i = 0; i < count; i++)
        for (const pattern of PATTERNS) {
          const at = offset + i * stride;
          nic.write(at, pattern & write);
          expect([at, (nic.read(at) & mask) >>> 0]).toEqual([at, (pattern & write & mask) >>> 0]);
        }
    for (const [register, mask, write] of [
      [R.RCTL, 0xffff_ffff, 0],
      [R.RCTL, 0x04cf_b0fe, 0x003f_fffb],
      [R.RCTL, 0x04cf_b0fe, 0xffff_ffff],
      [R.TCTL, 0xffff_ffff, 0],
    ] as const) {
      nic.write(register, write & mask);
      expect((nic.read(register) & mask) >>> 0).toBe((write & mask) >>> 0);
    }
    const toggle = 0x7fff_f3ff;
    const before = nic.read(R.STATUS) & toggle;
    nic.write(R.STATUS, toggle);
    expect(nic.read(R.STATUS) & toggle).toBe(before);
    // PHYRA was cleared by the 0 that was written there.
    expect(nic.read(R.STATUS) & 0x400).toBe(0);
  });

  it('read as the table says after a reset, and read-only ones stay', () => {
    const nic = new Station();
    const active = new Set(['STATUS', 'EECD', 'WUC', 'FRTIMER', 'SWSM', 'FACTPS', 'RAL', 'RAH', 'V2PMAILBOX', 'P2VMAILBOX', 'ICR', 'ICS', 'RXDCTL', 'TXDCTL']);
    for (const [name, spec] of Object.entries(IGB_REGISTERS) as [
      string,
      { offset: number; count?: number; stride?: number; reset?: number; aliasOf?: string },
    ][]) {
      if (spec.aliasOf !== undefined || active.has(name)) continue;
      for (let i = 0; i < (spec.count ?? 1); i++) expect([name, i, nic.read(spec.offset + i * (spec.stride ?? 4))]).toEqual([name, i, spec.reset ?? 0]);
    }
    // Queue 0 is enabled.
    expect([0, 1, 15].map((queue) => [nic.read(of(R.RXDCTL, queue)), nic.read(of(R.TXDCTL, queue))])).toEqual([
      [0x0201_0000, ENABLE],
      [0x0001_0000, 0],
      [0x0001_0000, 0],
    ]);
    // Heads of rings are the device's.
    nic.write(R.RDH, 5);
    nic.write(R.TDH, 5);
    expect([nic.read(R.RDH), nic.read(R.TDH)]).toEqual([0, 0]);
  });

  it('reach through the I/O window', () => {
    const nic = new Station();
    nic.machine.barWrite(0x0008, 2, 0, 4, R.VET);
    nic.machine.barWrite(0x0008, 2, 4, 4, 0x1234_5678);
    expect([nic.read(R.VET), nic.machine.barRead(0x0008, 2, 4, 4)]).toEqual([0x1234_5678, 0x1234_5678]);
    nic.machine.barWrite(0x0008, 2, 0, 4, 0x2_0000);
    expect(nic.machine.barRead(0x0008, 2, 4, 4)).toBe(0);
  });
});

describe('NVM and semaphores', () => {
  const word = (nic: Station, address: number): number => {
    nic.write(R.EERD, (address << 2) | 1);
    const value = nic.read(R.EERD);
    expect(value & 2).toBe(2);
    return value >>> 16;
  };

  it('holds the address, and sums up to BABA', () => {
    const nic = new Station();
    expect([0, 1, 2].map((i) => word(nic, i))).toEqual([0x5452, 0, 0x0a00]);
    let sum = 0;
    for (let i = 0; i < 64; i++) sum += word(nic, i);
    expect(sum & 0xffff).toBe(0xbaba);
    // Present, loaded, 16 address bits, 1024 words; granted to who asks.
    expect(nic.read(R.EECD) & 0x7f00).toBe(0x2700);
    nic.write(R.EECD, 0x40);
    expect(nic.read(R.EECD) & 0xc0).toBe(0xc0);
    expect([nic.read(R.RAL), nic.read(R.RAH)]).toEqual([0x0000_5452, 0x8000_0a00]);
  });

  it('SWSM is taken by reading it; SW_FW_SYNC outlives a software reset', () => {
    const nic = new Station();
    expect([nic.read(R.SWSM) & 1, nic.read(R.SWSM) & 1]).toEqual([0, 1]);
    nic.write(R.SWSM, 2);
    expect(nic.read(R.SWSM)).toBe(2);
    nic.write(R.SWSM, 0);
    nic.write(R.SW_FW_SYNC, 3);
    nic.write(R.CTRL, 1 << 26);
    expect(nic.read(R.SW_FW_SYNC)).toBe(3);
    expect(nic.read(R.EEMNGCTL) & 0xc_0000).toBe(0xc_0000);
  });
});

describe('PHY and link', () => {
  const mdic = (nic: Station, register: number, value?: number, address = 1): number => {
    nic.write(R.MDIC, (value ?? 0) | (register << 16) | (address << 21) | ((value === undefined ? 2 : 1) << 26));
    return nic.read(R.MDIC);
  };

  it('is the IGP03 of the part at address 1, and nobody elsewhere', () => {
    const nic = new Station();
    expect([mdic(nic, 2) & 0xffff, mdic(nic, 3) & 0xffff]).toEqual([0x02a8, 0x0391]);
    expect((mdic(nic, 2, undefined, 2) >>> 30) & 1).toBe(1);
  });

  it('takes a command of MDIC whole or not at all', () => {
    const nic = new Station();
    mdic(nic, 4, 0x0141);
    // The halves of a write of another value to the same register, and single bytes of it.
    const command = 0x0de1 | (4 << 16) | (1 << 21) | (1 << 26);
    const before = nic.read(R.MDIC);
    nic.write(R.MDIC + 2, command >>> 16, 2);
    nic.write(R.MDIC, command & 0xffff, 2);
    for (let byte = 0; byte < 4; byte++) nic.write(R.MDIC + byte, (command >>> (8 * byte)) & 0xff, 1);
    expect(nic.read(R.MDIC)).toBe(before);
    expect(mdic(nic, 4) & 0xffff).toBe(0x0141);
  });

  it('a link with SLU, after autonegotiation; LSC; speed and duplex; the port status of the PHY', () => {
    const { nic } = wired();
    nic.write(R.IMS, LSC);
    nic.write(R.CTRL, 0x40);
    expect(nic.read(R.STATUS) & 2).toBe(0);
    nic.clock.advance(500e6);
    expect([nic.read(R.STATUS) & 0xc3, nic.line]).toEqual([0x83, true]);
    mdic(nic, 1);
    expect(mdic(nic, 1) & 0x24).toBe(0x24);
    // 1000 Mb/s, link, full duplex.
    expect(mdic(nic, 17) & 0xffff).toBe(0xc600);
    // Another page: the gain of pair A, by which Linux guesses the length of the cable.
    mdic(nic, 31, 0x11b1);
    expect((mdic(nic, 17) >>> 9) & 0x7f).toBe(4);
    nic.nic.cable = false;
    expect(nic.read(R.STATUS) & 2).toBe(0);
  });

  it('GIO master disable stops what it does in memory, and STATUS says so', () => {
    const { nic, outbox } = wired();
    nic.start();
    expect(nic.read(R.STATUS) & (1 << 19)).toBe(1 << 19);
    nic.write(R.CTRL, 0x44);
    expect(nic.read(R.STATUS) & (1 << 19)).toBe(0);
    nic.send(frame(64));
    expect(outbox()).toEqual([]);
    nic.write(R.CTRL, 0x40);
    nic.go();
    expect(outbox()).toHaveLength(1);
  });
});

describe('resets', () => {
  it('CTRL.RST: registers but for EITR and packet buffers; the link comes back at once with SLU; queues stand still', () => {
    const { nic, outbox } = wired();
    nic.start();
    nic.write(R.EITR, 400);
    nic.write(R.RXPBS, 0x20);
    nic.send(frame(64));
    nic.write(R.CTRL, 1 << 26);
    expect([nic.read(R.TDBAL), nic.read(of(R.TXDCTL, 1)), nic.read(R.RCTL), nic.read(R.EITR), nic.read(R.RXPBS), nic.read(R.GPTC)]).toEqual([
      0, 0, 0, 400, 0x20, 0,
    ]);
    expect(nic.read(R.RAL)).toBe(0x5452);
    nic.write(R.CTRL, 0x40);
    expect(nic.read(R.STATUS) & 2).toBe(2);
    outbox();
    nic.start();
    nic.send(frame(70));
    expect(outbox().map(({ length }) => length)).toEqual([70]);
  });

  it('FLR: all of it', () => {
    const { nic } = wired();
    nic.start();
    nic.write(R.EITR, 400);
    nic.write(R.RXPBS, 0x20);
    nic.config(0xa8, 2, 0x8000);
    nic.config(0x10, 4, 0xc000_0000);
    nic.config(4, 2, 6);
    expect([nic.read(R.TDLEN), nic.read(R.EITR), nic.read(R.RXPBS)]).toEqual([0, 0, 0x40]);
  });

  it('D3 and back is a reset', () => {
    const { nic } = wired();
    nic.start();
    nic.config(0x44, 2, 3);
    expect(nic.read(R.TDLEN)).toBe(0xffff_ffff);
    nic.config(0x44, 2, 0);
    nic.config(0x10, 4, 0xc000_0000);
    nic.config(4, 2, 6);
    expect(nic.read(R.TDLEN)).toBe(0);
  });
});

describe('configuration space', () => {
  it('is where the datasheet has it', () => {
    const nic = new Station();
    expect(nic.readConfig(0)).toBe(0x10c9_8086);
    const ids: [number, number][] = [];
    for (let at = nic.readConfig(0x34, 1); at !== 0; at = nic.readConfig(at + 1, 1)) ids.push([at, nic.readConfig(at, 1)]);
    expect(ids).toEqual([
      [0x40, 1],
      [0x50, 5],
      [0x70, 0x11],
      [0xa0, 0x10],
    ]);
    const extended: [number, number][] = [];
    for (let at = 0x100; at !== 0; at = nic.readConfig(at) >>> 20) extended.push([at, nic.readConfig(at) & 0xffff]);
    expect(extended).toEqual([
      [0x100, 1],
      [0x140, 3],
      [0x150, 0xe],
      [0x160, 0x10],
    ]);
    // MSI-X: ten vectors, table at 0 and pending bits at 2000h of BAR 3.
    expect([nic.readConfig(0x72, 2) & 0x7ff, nic.readConfig(0x74), nic.readConfig(0x78)]).toEqual([9, 3, 0x2003]);
    // The serial number is made of the address.
    expect([nic.readConfig(0x144), nic.readConfig(0x148)]).toEqual([0xfe00_000a, 0x5254_00ff]);
    // FLR.
    expect(nic.readConfig(0xa4) >>> 28).toBe(1);
    // Sizes of BARs: 128 KiB, 128 KiB, 32, 16 KiB.
    const sizes = [0x10, 0x14, 0x18, 0x1c].map((at) => {
      nic.config(at, 4, 0xffff_ffff);
      return (~(nic.readConfig(at) & ~0xf) + 1) >>> 0;
    });
    expect(sizes).toEqual([0x2_0000, 0x2_0000, 32, 0x4000]);
  });

  it('two ports are two functions of one device, each with its id, its pin and its own registers', () => {
    const machine = new Machine({ memory: 2 ** 20, clock: new SimClock() });
    const [first, second] = machine.addIgbPair({ mac: '52:54:00:00:00:0a' }, { mac: '52:54:00:00:00:0b' });
    const at = (fn: number, offset: number, size: 1 | 2 | 4): number => machine.configRead(0x0008 + fn, offset, size);
    expect([at(0, 0, 4), at(1, 0, 4)]).toEqual([0x10c9_8086, 0x10c9_8086]);
    expect([at(0, 0x0e, 1), at(0, 0x3d, 1), at(1, 0x3d, 1), at(0, 0x154, 4) >>> 8, at(1, 0x154, 4) >>> 8]).toEqual([0x80, 1, 2, 1, 0]);
    for (const fn of [0, 1]) {
      machine.configWrite(0x0008 + fn, 0x10, 4, 0xc000_0000 + fn * 0x2_0000);
      machine.configWrite(0x0008 + fn, 4, 2, 6);
    }
    expect([0, 1].map((fn) => (machine.barRead(0x0008 + fn, 0, R.STATUS, 4) >>> 2) & 3)).toEqual([0, 1]);
    machine.barWrite(0x0009, 0, of(R.RXDCTL, 3), 4, ENABLE);
    expect([first.registers.get('RXDCTL', 3) & ENABLE, second.registers.get('RXDCTL', 3) & ENABLE]).toEqual([0, ENABLE]);
  });
});
