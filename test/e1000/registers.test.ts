// Registers by their modes, EEPROM, PHY, the I/O window, interrupts and their throttle, resets, wake-up. Every register of the device's table is written and read as the table in docs/e1000.md says.
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { E1000_REGISTERS } from '#devices/e1000/registers';
import { COUNTED } from '#devices/intel/statistics';
import { frame, LSC, MDAC, R, RCTL_BAM, RCTL_EN, RCTL_SECRC, RXT0, STATION, Station, TXDW, wired } from './bench.ts';

interface Spec {
  readonly offset: number;
  readonly count?: number;
  readonly stride?: number;
  readonly reset?: number;
  readonly writable?: number;
  readonly aliasOf?: string;
}
const TABLE = Object.entries(E1000_REGISTERS) as [string, Spec][];
/** Registers that do something when written; each has tests of its own. */
const ACTIVE = new Set(['CTRL', 'CTRL_DUP', 'EECD', 'EERD', 'MDIC', 'ICR', 'ICS', 'IMS', 'IMC', 'TCTL', 'PBA', 'WUC', 'WUS', 'CSBAL', 'CSBAH']);
const PATTERNS = [0x5a5a_5a5a, 0xa5a5_a5a5, 0, 0xffff_ffff];

describe('the table', () => {
  it.each(TABLE.filter(([name]) => !ACTIVE.has(name)))('%s stores what is writable and nothing else', (_, spec) => {
    const nic = new Station();
    const target = (spec.aliasOf === undefined ? spec : E1000_REGISTERS[spec.aliasOf as keyof typeof E1000_REGISTERS]) as Spec;
    const count = target.count ?? 1;
    for (const element of new Set([0, count >> 1, count - 1])) {
      const offset = spec.offset + element * (target.stride ?? 4);
      const fixed = nic.read(offset) & ~(target.writable ?? 0);
      for (const pattern of PATTERNS) {
        nic.write(offset, pattern);
        expect(nic.read(offset)).toBe(((pattern & (target.writable ?? 0)) | fixed) >>> 0);
      }
    }
  });

  it('after power-on and after CTRL.RST every register reads its reset value, but for the address', () => {
    const nic = new Station();
    const check = (): void => {
      for (const [name, spec] of TABLE) {
        if (['STATUS', 'EECD', 'RAL', 'RAH', 'RAL_82542', 'RAH_82542'].includes(name)) continue;
        const target = (spec.aliasOf === undefined ? spec : E1000_REGISTERS[spec.aliasOf as keyof typeof E1000_REGISTERS]) as Spec;
        expect([name, nic.read(spec.offset)]).toEqual([name, (target.reset ?? 0) >>> 0]);
      }
      expect([nic.read(R.RAL), nic.read(R.RAH), nic.read(R.RAH + 8)]).toEqual([0x0000_5452, 0x8000_0a00, 0]);
    };
    check();
    nic.start();
    nic.write(R.RDTR, 5);
    nic.write(R.VFTA, 5);
    nic.write(R.CTRL, 0x0400_0000);
    check();
  });

  it('the second addresses of the 82542 reach the same registers', () => {
    const nic = new Station();
    nic.write(0x0438, 17);
    nic.write(0x0128, 18);
    nic.write(0x0200 + 4 * 127, 19);
    expect([nic.read(R.TDT), nic.read(R.RDT), nic.read(R.MTA + 4 * 127)]).toEqual([17, 18, 19]);
  });

  it('CTRL resets by its second address as well', () => {
    const nic = new Station({ model: '82545GM' });
    nic.write(R.RDTR, 5);
    nic.write(0x0004, 0x0400_0000);
    expect([nic.read(R.RDTR), nic.read(R.CTRL)]).toEqual([0, 0x0010_0200]);
  });

  it('nothing else in the BAR stores anything', () => {
    const nic = new Station();
    const used = new Set(
      TABLE.flatMap(([, { offset, count = 1, stride = 4, aliasOf }]) => {
        const target =
          aliasOf === undefined ? { count, stride } : { count: 1, stride: 4, ...(E1000_REGISTERS[aliasOf as keyof typeof E1000_REGISTERS] as Spec) };
        return Array.from({ length: target.count ?? 1 }, (_, i) => offset + i * (target.stride ?? 4));
      }),
    );
    for (let offset = 0; offset < 0x1_0000; offset += 4) {
      if (used.has(offset)) continue;
      nic.write(offset, 0xffff_ffff);
      expect([offset, nic.read(offset)]).toEqual([offset, 0]);
    }
  });

  it('every count has a register, and clears when it is read', () => {
    for (const name of COUNTED) expect(`${name}` in E1000_REGISTERS || `${name}L` in E1000_REGISTERS).toBe(true);
    const { nic, inject } = wired();
    nic.start();
    nic.send(frame());
    inject(frame());
    for (const offset of [R.GPTC, R.GPRC, R.TPR, R.TPT, R.PTC64, R.PRC64])
      expect([nic.read(offset), nic.read(offset)]).toEqual([offset === R.PTC64 || offset === R.PRC64 ? 0 : 1, 0]);
  });

  it('the packet buffer is memory', () => {
    const nic = new Station();
    nic.write(0x1_0000, 0x1234_5678);
    nic.write(0x1_fffc, 0x9abc_def0);
    expect([nic.read(0x1_0000), nic.read(0x1_0001, 1), nic.read(0x1_fffc)]).toEqual([0x1234_5678, 0x56, 0x9abc_def0]);
  });

  it('takes any accesses of any size without throwing', () => {
    const { nic, inject } = wired();
    nic.start();
    const access = fc.record({
      offset: fc.integer({ min: 0, max: 0x1_ffff }),
      size: fc.constantFrom(1, 2, 4),
      value: fc.integer({ min: 0, max: 0xffff_ffff }),
      read: fc.boolean(),
    });
    const near = access.map((a) => ({ ...a, offset: TABLE[a.offset % TABLE.length]?.[1].offset ?? 0 }));
    fc.assert(
      fc.property(fc.array(fc.oneof(access, near), { maxLength: 60 }), (accesses) => {
        for (const { offset, size, value, read } of accesses) {
          if (read) {
            const got = nic.read(offset, size as 1 | 2 | 4);
            expect(got >= 0 && got < 2 ** (8 * size)).toBe(true);
          } else nic.write(offset, value % 2 ** (8 * size), size as 1 | 2 | 4);
          inject(frame(60 + (value % 100)));
        }
        nic.clock.advance(1e6);
      }),
      { numRuns: 100 },
    );
  });
});

describe('Linux’s register test, as ethtool -t offline does it', () => {
  it('patterns come back through the masks it uses', () => {
    const nic = new Station();
    nic.start();
    const status = nic.read(R.STATUS);
    nic.write(R.STATUS, 0xffff_f833);
    expect(nic.read(R.STATUS)).toBe(status);
    const pattern = (offset: number, mask: number, writes: number): void => {
      for (const test of PATTERNS) {
        nic.write(offset, test & writes);
        expect([offset, nic.read(offset)]).toEqual([offset, (test & writes & mask) >>> 0]);
      }
    };
    const all = 0xffff_ffff;
    pattern(R.FCAL, all, all);
    for (const offset of [R.FCAH, R.FCT, R.VET]) pattern(offset, 0xffff, all);
    pattern(R.RDTR, 0xffff, all);
    pattern(R.RDBAH, all, all);
    pattern(R.RDLEN, 0xfff80, 0xfffff);
    pattern(R.RDH, 0xffff, 0xffff);
    pattern(R.RDT, 0xffff, 0xffff);
    pattern(R.FCRTH, 0xfff8, 0xfff8);
    pattern(R.FCTTV, 0xffff, 0xffff);
    pattern(R.TIPG, 0x3fff_ffff, 0x3fff_ffff);
    pattern(R.TDBAH, all, all);
    pattern(R.TDLEN, 0xfff80, 0xfffff);
    nic.write(R.RCTL, 0);
    expect(nic.read(R.RCTL)).toBe(0);
    nic.write(R.RCTL, 0x06df_b3fe);
    expect(nic.read(R.RCTL)).toBe(0x06df_b3fe);
    nic.write(R.TCTL, 0);
    expect(nic.read(R.TCTL)).toBe(0);
    pattern(R.RCTL, 0x06df_b3fe, 0x003f_fffb);
    pattern(R.RDBAL, 0xffff_fff0, all);
    pattern(R.TXCW, 0xc000_ffff, 0x0000_ffff);
    pattern(R.TDBAL, 0xffff_fff0, all);
    pattern(R.TIDV, 0xffff, 0xffff);
    for (let i = 0; i < 16; i++) pattern(R.RAH + 8 * i, 0x8003_ffff, all);
    for (let i = 0; i < 128; i++) pattern(R.MTA + 4 * i, all, all);
  });
});

describe('interrupts', () => {
  it('ICR clears by reading or by ones; ICS sets; IMS and IMC mask; the line is a level', () => {
    const nic = new Station();
    nic.write(R.ICS, 0x85);
    expect([nic.line, nic.read(R.ICS), nic.read(R.ICS)]).toEqual([false, 0x85, 0x85]);
    nic.write(R.IMS, 0x81);
    expect([nic.line, nic.read(R.IMS), nic.read(R.IMC)]).toEqual([true, 0x81, 0]);
    nic.write(R.ICR, 0x80);
    expect([nic.line, nic.read(R.ICS)]).toEqual([true, 5]);
    nic.write(R.IMC, 1);
    expect([nic.line, nic.read(R.IMS)]).toEqual([false, 0x80]);
    nic.write(R.ICS, 0x80);
    expect(nic.line).toBe(true);
    expect([nic.read(R.ICR), nic.line, nic.read(R.ICR)]).toEqual([0x85, false, 0]);
  });

  it('each cause by itself, as ethtool’s interrupt test has it', () => {
    const nic = new Station();
    for (let i = 0; i < 10; i++) {
      const bit = 1 << i;
      nic.write(R.IMC, bit);
      nic.write(R.ICS, bit);
      expect(nic.line).toBe(false);
      nic.write(R.IMS, bit);
      nic.write(R.ICS, bit);
      expect([nic.line, nic.read(R.ICR) & bit]).toEqual([true, bit]);
      nic.write(R.IMC, 0xffff_ffff);
    }
  });

  it('a byte read of ICR clears nothing', () => {
    const nic = new Station();
    nic.write(R.ICS, 1);
    expect([nic.read(R.ICR, 1), nic.read(R.ICR)]).toEqual([1, 1]);
  });

  it('ITR 0 throttles nothing; else so many intervals lie between two interrupts', () => {
    const { nic, inject } = wired();
    nic.start();
    nic.write(R.IMS, RXT0 | TXDW);
    for (let i = 0; i < 5; i++) {
      inject(frame());
      expect(nic.line).toBe(true);
      nic.read(R.ICR);
    }
    expect(nic.rises).toBe(5);
    nic.write(R.ITR, 1000);
    nic.rises = 0;
    const start = nic.clock.now();
    for (let i = 0; i < 100; i++) {
      inject(frame());
      if (nic.line) nic.read(R.ICR);
      nic.received();
      nic.refill(1);
      nic.clock.advance(25_600);
    }
    // 100 frames in 2.56 ms, an interrupt each 256 us.
    expect([nic.clock.now() - start, nic.rises]).toEqual([2_560_000, 10]);
  });

  it('by MSI, a message for each rise', () => {
    const messages: number[] = [];
    const { nic, inject } = wired();
    nic.start();
    nic.machine.configWrite(0x0008, 0xf4, 4, 0xfee0_0000);
    nic.machine.configWrite(0x0008, 0xfc, 2, 0x41);
    nic.machine.configWrite(0x0008, 0xf2, 2, 1);
    nic.onMessage = (data) => messages.push(data);
    nic.write(R.IMS, RXT0);
    inject(frame());
    nic.read(R.ICR);
    inject(frame());
    expect([messages, nic.line]).toEqual([[0x41, 0x41], false]);
  });
});

describe('the I/O window', () => {
  it('reaches every register, by whole double words', () => {
    const nic = new Station();
    nic.ioWrite(0, R.FCAL);
    nic.ioWrite(4, 0x1234_5678);
    expect([nic.read(R.FCAL), nic.ioRead(4), nic.ioRead(0)]).toEqual([0x1234_5678, 0x1234_5678, R.FCAL]);
    nic.machine.barWrite(0x0008, 2, 4, 2, 1);
    expect(nic.read(R.FCAL)).toBe(0x1234_5678);
    nic.ioWrite(0, 0x8000_0000);
    nic.ioWrite(4, 1);
    expect(nic.ioRead(4)).toBe(0);
  });

  it('resets through it, as drivers of these parts do', () => {
    const nic = new Station();
    nic.write(R.RDTR, 7);
    nic.ioWrite(0, R.CTRL);
    nic.ioWrite(4, 0x0400_0000);
    expect(nic.read(R.RDTR)).toBe(0);
  });
});

describe('EEPROM', () => {
  /** Clocks bits out to the part and reads as many back. */
  const bits = (nic: Station, value: number, count: number): number => {
    let got = 0;
    for (let i = count - 1; i >= 0; i--) {
      const di = (value >>> i) & 1 ? 4 : 0;
      nic.write(R.EECD, 0x42 | di);
      nic.write(R.EECD, 0x43 | di);
      got = (got << 1) | ((nic.read(R.EECD) >>> 3) & 1);
    }
    nic.write(R.EECD, 0x42);
    return got;
  };
  const command = (nic: Station, opcode: number, address: number, data?: number): number => {
    nic.write(R.EECD, 0x42);
    bits(nic, 4 | opcode, 3);
    bits(nic, address, 6);
    const got = bits(nic, data ?? 0, 16);
    nic.write(R.EECD, 0x40);
    return got;
  };
  const byRead = (nic: Station, address: number): number => {
    nic.write(R.EERD, (address << 8) | 1);
    expect(nic.read(R.EERD) & 0x10).toBe(0x10);
    return nic.read(R.EERD) >>> 16;
  };

  it('the same by pins and by EERD, and it adds up', () => {
    const nic = new Station();
    nic.write(R.EECD, 0x40);
    expect(nic.read(R.EECD) & 0x180).toBe(0x180);
    const words = Array.from({ length: 64 }, (_, i) => byRead(nic, i));
    expect(words.map((_, i) => command(nic, 2, i))).toEqual(words);
    expect(words.reduce((a, b) => a + b, 0) & 0xffff).toBe(0xbaba);
    expect(words.slice(0, 3)).toEqual([0x5452, 0x0000, 0x0a00]);
  });

  it('writes and erases after write enable, word by word and as a whole', () => {
    const nic = new Station();
    command(nic, 1, 0x20, 0x1234);
    expect(byRead(nic, 0x20)).toBe(0);
    command(nic, 0, 0x30);
    command(nic, 1, 0x20, 0x1234);
    expect(byRead(nic, 0x20)).toBe(0x1234);
    command(nic, 3, 0x20);
    expect(byRead(nic, 0x20)).toBe(0xffff);
    command(nic, 0, 0x10, 0x5555);
    expect([byRead(nic, 0), byRead(nic, 63)]).toEqual([0x5555, 0x5555]);
    command(nic, 0, 0x20);
    expect(byRead(nic, 5)).toBe(0xffff);
    command(nic, 0, 0x00);
    command(nic, 1, 5, 1);
    expect(byRead(nic, 5)).toBe(0xffff);
  });

  it('a changed address is the station’s after a reset', () => {
    const nic = new Station();
    command(nic, 0, 0x30);
    command(nic, 1, 2, 0x0c00);
    nic.write(R.CTRL, 0x0400_0000);
    expect(nic.read(R.RAH)).toBe(0x8000_0c00);
  });

  it('answers only to who has been granted it', () => {
    const nic = new Station();
    nic.write(R.EECD, 0);
    expect(nic.read(R.EECD) & 0x80).toBe(0);
    for (const pins of [2, 3, 2, 7, 6]) nic.write(R.EECD, pins);
    expect(command(nic, 2, 0)).toBe(0x5452);
  });
});

describe('PHY and link', () => {
  const mdic = (nic: Station, register: number, write?: number, phy = 1): number => {
    nic.write(R.MDIC, (write ?? 0) | (register << 16) | (phy << 21) | ((write === undefined ? 2 : 1) << 26));
    const got = nic.read(R.MDIC);
    expect(got & 0x1000_0000).toBe(0x1000_0000);
    return got;
  };
  const phy = (nic: Station, register: number): number => mdic(nic, register) & 0xffff;

  it('has its ids, and nobody at other addresses', () => {
    const nic = new Station();
    expect([phy(nic, 2), phy(nic, 3)]).toEqual([0x0141, 0x0c20]);
    expect([mdic(nic, 2, undefined, 1) & 0x4000_0000, mdic(nic, 2, undefined, 2) & 0x4000_0000]).toEqual([0, 0x4000_0000]);
    expect(mdic(new Station({ model: '82544GC' }), 3) & 0xffff).toBe(0x0c30);
  });

  it('MDIC.I raises MDAC', () => {
    const nic = new Station();
    nic.write(R.MDIC, 0x2821_0000);
    expect(nic.read(R.ICR) & MDAC).toBe(MDAC);
  });

  it('negotiates on the clock: link, speed and LSC once SLU is set', () => {
    const { nic } = wired();
    expect([phy(nic, 1) & 0x24, nic.read(R.STATUS) & 2]).toEqual([0, 0]);
    nic.write(R.CTRL, 0x40);
    nic.clock.advance(499e6);
    expect(nic.read(R.STATUS) & 2).toBe(0);
    nic.clock.advance(1e6);
    expect(nic.read(R.STATUS) & 0xc3).toBe(0x83);
    expect(nic.read(R.ICR) & LSC).toBe(LSC);
    // Latched low: the first read still tells of the time without a link.
    expect([phy(nic, 1) & 0x24, phy(nic, 1) & 0x24]).toEqual([0x20, 0x24]);
    expect([phy(nic, 17) & 0xec00, phy(nic, 5) !== 0]).toEqual([0xac00, true]);
  });

  it('what is advertised is what comes out', () => {
    const { nic } = wired();
    nic.write(R.CTRL, 0x40);
    mdic(nic, 9, 0);
    mdic(nic, 4, 0x0181);
    mdic(nic, 0, 0x1200);
    nic.clock.advance(1e9);
    expect(nic.read(R.STATUS) & 0xc3).toBe(0x43);
    mdic(nic, 4, 0x0021);
    mdic(nic, 0, 0x1200);
    nic.clock.advance(1e9);
    expect(nic.read(R.STATUS) & 0xc3).toBe(0x02);
  });

  it('a pulled cable takes the link and its return brings it back', () => {
    const { nic } = wired();
    nic.start();
    nic.nic.cable = false;
    expect([nic.read(R.STATUS) & 2, nic.read(R.ICR) & LSC, phy(nic, 1) & 4]).toEqual([0, LSC, 0]);
    nic.nic.cable = true;
    nic.clock.advance(1e9);
    expect([nic.read(R.STATUS) & 2, nic.read(R.ICR) & LSC]).toEqual([2, LSC]);
  });

  it('forced speed needs no negotiation; power down and reset', () => {
    const { nic } = wired();
    nic.write(R.CTRL, 0x40);
    mdic(nic, 0, 0x2100);
    expect(nic.read(R.STATUS) & 0xc3).toBe(0x43);
    mdic(nic, 0, 0x2900);
    expect(nic.read(R.STATUS) & 2).toBe(0);
    nic.write(R.CTRL, 0x8000_0040);
    expect(phy(nic, 0)).toBe(0x1140);
    nic.clock.advance(1e9);
    expect(nic.read(R.STATUS) & 2).toBe(2);
  });

  it('CTRL.RST leaves the PHY alone', () => {
    const { nic } = wired();
    nic.start();
    nic.write(R.CTRL, 0x0400_0000);
    expect(nic.read(R.STATUS) & 2).toBe(0);
    nic.write(R.CTRL, 0x40);
    expect(nic.read(R.STATUS) & 2).toBe(2);
  });
});

describe('wake-up', () => {
  const PMCSR = 0xe0;
  const magic = (): number[] => [...STATION, ...STATION, 8, 0x42, ...new Array(6).fill(0xff), ...new Array(16).fill(STATION).flat()];
  const asleep = (wufc: number, wuc = 2): ReturnType<typeof wired> => {
    const rig = wired();
    rig.nic.start({ rctl: RCTL_EN | RCTL_BAM | RCTL_SECRC });
    rig.nic.write(R.WUFC, wufc);
    rig.nic.write(R.WUC, wuc);
    rig.nic.machine.configWrite(0x0008, PMCSR, 2, 0x103 & (wuc & 2 ? 0xffff : 3));
    return rig;
  };
  const woke = ({ nic }: ReturnType<typeof wired>): boolean => (nic.machine.configRead(0x0008, PMCSR, 2) & 0x8000) !== 0;
  const back = ({ nic }: ReturnType<typeof wired>): number => {
    // D3hot to D0 is a reset: the driver finds its BARs again.
    nic.machine.configWrite(0x0008, PMCSR, 2, 0x100);
    nic.machine.configWrite(0x0008, 0x10, 4, 0xc000_0000);
    nic.machine.configWrite(0x0008, 4, 2, 7);
    return nic.read(R.WUS);
  };

  it('by the magic packet, an exact address, broadcast; not by others', () => {
    for (const [wufc, bytes] of [
      [2, magic()],
      [4, frame(64)],
      [0x10, frame(64, [255, 255, 255, 255, 255, 255])],
    ] as const) {
      const rig = asleep(wufc);
      rig.inject(frame(64, [2, 0, 0, 0, 0, 1]));
      expect(woke(rig)).toBe(false);
      rig.inject(bytes);
      expect(woke(rig)).toBe(true);
      expect(back(rig)).toBe(wufc);
      expect([rig.nic.read(R.WUPL), rig.nic.read(R.WUPM)]).toEqual([bytes.length, new DataView(Uint8Array.from(bytes).buffer).getUint32(0, true)]);
    }
  });

  it('by APM without PME_En, where APMPME is set', () => {
    const rig = asleep(0, 1 | 8);
    rig.inject(magic());
    expect(woke(rig)).toBe(true);
    const deaf = asleep(0, 1);
    deaf.inject(magic());
    expect(woke(deaf)).toBe(false);
  });

  it('by an ARP request for an address in IP4AT', () => {
    const rig = wired();
    rig.nic.start();
    rig.nic.write(R.IPAV, 1);
    rig.nic.write(R.IP4AT, 0x0200_000a);
    rig.nic.write(R.WUFC, 0x20);
    rig.nic.write(R.WUC, 2);
    rig.nic.machine.configWrite(0x0008, PMCSR, 2, 0x103);
    const arp = (last: number): number[] => [
      255,
      255,
      255,
      255,
      255,
      255,
      2,
      0,
      0,
      0,
      0,
      1,
      8,
      6,
      0,
      1,
      8,
      0,
      6,
      4,
      0,
      1,
      2,
      0,
      0,
      0,
      0,
      1,
      10,
      0,
      0,
      9,
      0,
      0,
      0,
      0,
      0,
      0,
      10,
      0,
      0,
      last,
      ...new Array(18).fill(0),
    ];
    rig.inject(arp(3));
    expect(woke(rig)).toBe(false);
    rig.inject(arp(2));
    expect(woke(rig)).toBe(true);
  });

  it('by a flexible filter', () => {
    const rig = wired();
    rig.nic.start();
    rig.nic.write(0x5f08, 16);
    for (const i of [12, 13]) rig.nic.write(0x9000 + 8 * i, 2);
    rig.nic.write(0x9800 + 8 * 12, 0x8800);
    rig.nic.write(0x9800 + 8 * 13, 0xb500);
    rig.nic.write(R.WUFC, 0x2_0000);
    rig.nic.write(R.WUC, 2);
    rig.nic.machine.configWrite(0x0008, PMCSR, 2, 0x103);
    rig.inject(frame(64, STATION, [8, 0]));
    expect(woke(rig)).toBe(false);
    rig.inject(frame(64));
    expect(woke(rig)).toBe(true);
  });

  it('by a link change; WUC shows the capability’s bits and clears the status', () => {
    const rig = asleep(1);
    rig.nic.nic.cable = false;
    expect(woke(rig)).toBe(true);
    back(rig);
    expect(rig.nic.read(R.WUC) & 6).toBe(6);
    rig.nic.write(R.WUC, 6);
    expect([rig.nic.read(R.WUC) & 6, woke(rig)]).toEqual([2, false]);
  });
});
