// 82576 7.10.2, 8.26, 9.7: virtual functions as their drivers and the PF's find them.

import { describe, expect, test } from 'vitest';
import { SimClock } from '#core/clock';
import { Machine } from '#nicbox/machine';
import { Bench, CTRL_RST, messageOf, P, PF, SRIOV, V, VMMB, vfAt } from './vf-bench.ts';

const RSTI = 0x40;
const RSTD = 0x80;
const ENABLE = 1 << 25;

describe('what a VF is', () => {
  test('the SR-IOV capability: at 160h, eight VFs of 10CA from 80h by 2', () => {
    const { machine } = new Bench();
    const at = (offset: number, size: 1 | 2 | 4) => machine.configRead(PF, SRIOV + offset, size);
    expect(at(0, 4) & 0xf_ffff).toBe(0x1_0010);
    expect([at(12, 2), at(14, 2), at(20, 2), at(22, 2), at(26, 2)]).toEqual([8, 8, 0x80, 2, 0x10ca]);
  });

  test('there can be fewer, or none and then no capability', () => {
    const found = (vfs: number): number => {
      const machine = new Machine({ memory: 2 ** 20, clock: new SimClock() });
      machine.addIgb({ mac: '52:54:00:00:00:01', vfs }, { deviceNumber: 1 });
      return machine.configRead(8, SRIOV, 2) === 0x10 ? machine.configRead(8, SRIOV + 14, 2) : -1;
    };
    expect([found(0), found(1), found(8)]).toEqual([-1, 1, 8]);
    expect(() => found(9)).toThrow('0 to 8 is possible');
  });

  test('its configuration space: no ids, MSI-X with three vectors, Express with FLR, AER, ARI', () => {
    const bench = new Bench();
    bench.enable(8);
    const at = (offset: number, size: 1 | 2 | 4) => bench.machine.configRead(vfAt(7), offset, size);
    expect(at(0, 4)).toBe(0xffff_ffff);
    expect([at(0x70, 1), at(0x72, 2) & 0x7ff, at(0x74, 4), at(0x78, 4)]).toEqual([0x11, 2, 3, 0x2003]);
    expect([at(0xa0, 1), (at(0xa4, 4) >>> 28) & 1]).toEqual([0x10, 1]);
    expect([at(0x100, 2), at(0x150, 2)]).toEqual([1, 0xe]);
    expect([at(0x10, 4), at(0x3d, 1)]).toEqual([0, 0]);
  });

  test('BARs 0 and 3 are 16 KiB of the PF’s VF BARs each, while VF MSE is set', () => {
    const bench = new Bench();
    bench.enable(3);
    bench.vfWrite(2, V.VMBMEM, 0x1234_5678);
    expect(bench.machine.mmioRead(0xd000_0000 + 2 * 0x4000 + V.VMBMEM, 4)).toBe(0x1234_5678);
    expect(bench.machine.mmioRead(0xd000_0000 + 3 * 0x4000, 4)).toBe(0xffff_ffff);
    bench.config(PF, SRIOV + 8, 2, 1);
    expect(bench.vfRead(2, V.VMBMEM)).toBe(0xffff_ffff);
  });
});

describe('pending bits', () => {
  test('of a VF are its own: PBACL in its window, GPIE.PBA_support, and not the PF’s PBACL', () => {
    const bench = new Bench();
    bench.enable(2);
    for (const n of [0, 1]) {
      bench.openVf(n);
      for (let j = 0; j < 3; j++) bench.machine.barWrite(vfAt(n), 3, 16 * j + 12, 4, 1);
      bench.vfWrite(n, V.EICS, 7);
    }
    const pending = (): number[] => [0, 1].map((n) => bench.vfRead(n, 0x0f04));
    expect([pending(), bench.read(0x5b68), bench.heard()]).toEqual([[7, 7], 0, []]);
    bench.write(0x5b68, 0xffff_ffff);
    expect(pending()).toEqual([7, 7]);
    bench.vfWrite(1, 0x0f04, 0xfffa);
    expect(pending()).toEqual([7, 5]);
    // Of the bits written here, and only with the PF's consent.
    bench.vfWrite(0, V.EIMS, 1);
    expect(pending()).toEqual([7, 5]);
    bench.write(0x1514, 0x8000_0000);
    bench.vfWrite(0, V.EIMS, 1);
    expect(pending()).toEqual([6, 5]);
    for (const n of [0, 1]) for (let j = 0; j < 3; j++) bench.machine.barWrite(vfAt(n), 3, 16 * j + 12, 4, 0);
    expect(bench.heard().map(({ data }) => data)).toEqual([messageOf(0, 1), messageOf(0, 2), messageOf(1, 0), messageOf(1, 2)]);
  });
});

describe('where VFs are', () => {
  test('8 and 8, for a bus that has a function 0 only in each device', () => {
    const bench = new Bench({ vfLayout: { firstOffset: 8, stride: 8 } });
    bench.enable(8);
    for (let n = 0; n < 8; n++) expect(bench.machine.configRead(PF + 8 + 8 * n, 8, 4)).toBe(0x0200_0001);
    expect(bench.machine.barRead(PF + 8 + 8 * 5, 0, V.V2PMAILBOX, 4)).toBe(RSTD);
  });

  test('two ports have eight each, apart', () => {
    const machine = new Machine({ memory: 2 ** 20, clock: new SimClock() });
    machine.addIgbPair({ mac: '52:54:00:00:00:0a' }, { mac: '52:54:00:00:00:0b' });
    for (const port of [0, 1]) {
      const pf = PF + port;
      machine.configWrite(pf, SRIOV + 16, 2, 8);
      machine.configWrite(pf, SRIOV + 8, 2, 9);
    }
    const names = new Set<string>();
    for (const port of [0, 1]) for (let n = 0; n < 8; n++) names.add(machine.fabric.functionAt(PF + port + 0x80 + 2 * n)?.name ?? 'nobody');
    expect(names.size).toBe(16);
    expect(names.has('nobody')).toBe(false);
    // The second port's mailbox is not the first one's.
    machine.barWrite(PF + 0x80, 0, V.VMBMEM, 4, 0x1111);
    machine.barWrite(PF + 1 + 0x80, 0, V.VMBMEM, 4, 0x2222);
    expect(machine.barRead(PF + 0x80, 0, V.VMBMEM, 4)).toBe(0x1111);
  });
});

describe('enabling and disabling', () => {
  test('STATUS says how many; each is announced in VFLRE with VMMB, up and down', () => {
    const bench = new Bench();
    expect(bench.read(P.STATUS) & 0x7_c000).toBe(0);
    bench.read(P.ICR);
    bench.enable(5);
    expect(bench.read(P.STATUS) & 0x7_c000).toBe((1 << 18) | (5 << 14));
    expect(bench.read(P.VFLRE)).toBe(0x1f);
    expect(bench.read(P.ICR) & VMMB).toBe(VMMB);
    bench.write(P.VFLRE, 0x1f);
    bench.enable(0);
    expect([bench.read(P.STATUS) & 0x7_c000, bench.read(P.VFLRE)]).toEqual([0, 0x1f]);
  });

  test('NumVFs above TotalVFs, and VF Enable beside other bytes, do nothing strange (CVE-2024-26327, CVE-2025-54567)', () => {
    const bench = new Bench();
    bench.config(PF, SRIOV + 16, 2, 0xffff);
    bench.config(PF, SRIOV + 8, 2, 9);
    expect(bench.read(P.STATUS) & 0x7_c000).toBe(0);
    bench.config(PF, SRIOV + 8, 2, 0);
    bench.enable(2);
    bench.config(PF, SRIOV + 9, 1, 0xff);
    bench.config(PF, SRIOV + 10, 2, 0xffff);
    expect((bench.read(P.STATUS) >>> 14) & 15).toBe(2);
  });

  test('a VF that comes back finds nothing of the one before', () => {
    const bench = new Bench();
    bench.enable(1);
    bench.vfWrite(0, V.VMBMEM, 0xdead_beef);
    bench.vfWrite(0, V.RDBAL(1), 0x1000);
    bench.vfWrite(0, V.IVAR, 0x8080);
    bench.vfWrite(0, V.EITR(2), 0x100);
    for (const register of [V.EIMS, V.EIAC, V.EIAM, V.EICS]) bench.vfWrite(0, register, 7);
    bench.enable(0);
    bench.enable(1);
    expect([V.VMBMEM, V.RDBAL(1), V.IVAR, V.EITR(2), V.EIMS, V.EIAC, V.EIAM, V.EICR].map((register) => bench.vfRead(0, register))).toEqual([
      0, 0, 0, 0, 0, 0, 0, 0,
    ]);
    expect(bench.read(P.IVAR(0))).toBe(0);
  });
});

describe('a VF’s registers are the PF’s at other places', () => {
  test('queues 0 and 1 are the PF’s n and n + 8', () => {
    const bench = new Bench();
    bench.enable(8);
    for (const n of [0, 3, 7]) {
      bench.vfWrite(n, V.RDBAL(0), 0x1000 * (n + 1));
      bench.vfWrite(n, V.RDLEN(1), 0x80 * (n + 1));
      bench.vfWrite(n, V.TDBAL(1), 0x2000 * (n + 1));
      expect([bench.read(P.RDBAL(n)), bench.read(P.RDLEN(n + 8)), bench.read(P.TDBAL(n + 8))]).toEqual([0x1000 * (n + 1), 0x80 * (n + 1), 0x2000 * (n + 1)]);
    }
    expect(bench.read(P.RDBAL(1))).toBe(0);
  });

  test('VTIVAR maps all four entries, of both queues, and can be rewritten (QEMU: queue 0 only, once)', () => {
    const bench = new Bench();
    bench.enable(8);
    bench.vfWrite(2, V.IVAR, 0x8280_8180);
    expect(bench.read(P.IVAR(2))).toBe(0x9290_9190);
    bench.vfWrite(2, V.IVAR, 0x0081_0082);
    expect(bench.read(P.IVAR(2))).toBe(0x0091_0092);
    // There is no fourth vector.
    bench.vfWrite(2, V.IVAR, 0x0000_8083);
    expect(bench.read(P.IVAR(2))).toBe(0x0000_9000);
  });

  test('EITR 0 to 2 are 22 - 3n and up', () => {
    const bench = new Bench();
    bench.enable(8);
    bench.vfWrite(0, V.EITR(0), 0x40);
    bench.vfWrite(7, V.EITR(2), 0x80);
    expect([bench.read(P.EITR(22)) & 0x7ffc, bench.read(P.EITR(3)) & 0x7ffc]).toEqual([0x40, 0x80]);
  });

  test('the extended causes are three bits of its own', () => {
    const bench = new Bench();
    bench.enable(8);
    bench.vfWrite(1, V.EIMS, 0xffff_ffff);
    expect(bench.read(P.EIMS)).toBe(7 << 19);
    expect([bench.vfRead(1, V.EIMS), bench.vfRead(0, V.EIMS), bench.vfRead(2, V.EIMS)]).toEqual([7, 0, 0]);
    bench.vfWrite(1, V.EIMC, 2);
    expect(bench.vfRead(1, V.EIMS)).toBe(5);
  });

  test('STATUS shows the link and not how many VFs there are', () => {
    const bench = new Bench();
    bench.enable(8);
    expect(bench.vfRead(0, V.STATUS) & ~0xdf).toBe(0);
  });
});

describe('the mailbox', () => {
  test('the VF is told by the vector in VTIVAR_MISC, through its own function (QEMU: another vector)', () => {
    for (const vector of [0, 1, 2]) {
      const bench = new Bench();
      bench.enable(2);
      bench.openVf(1);
      bench.vfWrite(1, V.IVAR_MISC, 0x80 | vector);
      bench.heard();
      bench.write(P.P2VMAILBOX(1), 1);
      expect(bench.heard()).toEqual([{ requester: vfAt(1), data: messageOf(1, vector) }]);
    }
  });

  test('not at all without a valid entry', () => {
    const bench = new Bench();
    bench.enable(2);
    bench.openVf(1);
    bench.heard();
    bench.write(P.P2VMAILBOX(1), 1);
    bench.vfWrite(1, V.IVAR_MISC, 0x83);
    bench.write(P.P2VMAILBOX(1), 1);
    expect(bench.heard()).toEqual([]);
    expect(bench.vfRead(1, V.V2PMAILBOX)).toBe(0x10 | RSTD);
  });

  test('a message there and back', () => {
    const bench = new Bench();
    bench.enable(1);
    bench.vfRead(0, V.V2PMAILBOX);
    bench.read(P.ICR);
    // The VF asks.
    bench.vfWrite(0, V.V2PMAILBOX, 4);
    expect(bench.vfRead(0, V.V2PMAILBOX)).toBe(4);
    bench.vfWrite(0, V.VMBMEM, 1);
    bench.vfWrite(0, V.V2PMAILBOX, 1);
    // The PF hears, takes the buffer, answers.
    expect([bench.read(P.ICR) & VMMB, bench.read(P.MBVFICR)]).toEqual([VMMB, 1]);
    bench.write(P.MBVFICR, 1);
    bench.write(P.P2VMAILBOX(0), 8);
    expect(bench.read(P.P2VMAILBOX(0))).toBe(8);
    expect(bench.read(P.VMBMEM(0))).toBe(1);
    bench.write(P.VMBMEM(0), 0x8000_0001);
    bench.write(P.P2VMAILBOX(0), 1 | 2);
    expect(bench.vfRead(0, V.V2PMAILBOX)).toBe(0x30);
    expect(bench.vfRead(0, V.VMBMEM)).toBe(0x8000_0001);
    // And the VF says that it has it.
    bench.vfWrite(0, V.V2PMAILBOX, 2);
    expect(bench.read(P.MBVFICR)).toBe(1 << 16);
  });
});

describe('resets', () => {
  test('CTRL.RST of the PF: RSTI in every VF until PFRSTD, then RSTD once', () => {
    const bench = new Bench();
    bench.enable(8);
    for (let n = 0; n < 8; n++) expect(bench.vfRead(n, V.V2PMAILBOX)).toBe(RSTD);
    bench.write(P.CTRL, CTRL_RST);
    for (let n = 0; n < 8; n++) expect([bench.vfRead(n, V.V2PMAILBOX), bench.vfRead(n, V.V2PMAILBOX)]).toEqual([RSTI, RSTI]);
    expect((bench.read(P.STATUS) >>> 14) & 15).toBe(8);
    bench.write(P.CTRL_EXT, 1 << 14);
    for (let n = 0; n < 8; n++) expect([bench.vfRead(n, V.V2PMAILBOX), bench.vfRead(n, V.V2PMAILBOX)]).toEqual([RSTD, 0]);
  });

  test('CTRL.RST of a VF: its queues and vectors are gone, the mailbox goes on, the neighbour does not notice', () => {
    const bench = new Bench();
    bench.enable(2);
    bench.write(P.VFLRE, 3);
    bench.write(P.VFRE, 3);
    bench.write(P.VFTE, 3);
    for (const n of [0, 1]) {
      bench.vfWrite(n, V.IVAR, 0x8180);
      bench.vfWrite(n, V.RXDCTL(0), ENABLE);
      bench.vfWrite(n, V.TXDCTL(1), ENABLE);
      bench.vfWrite(n, V.VMBMEM, 77);
    }
    bench.read(P.ICR);
    bench.vfWrite(1, V.CTRL, CTRL_RST);
    expect([bench.read(P.VFRE), bench.read(P.VFTE), bench.read(P.VFLRE), bench.read(P.ICR) & VMMB]).toEqual([1, 1, 2, VMMB]);
    expect([V.IVAR, V.TXDCTL(1)].map((register) => bench.vfRead(1, register))).toEqual([0, 0]);
    expect(bench.vfRead(1, V.RXDCTL(0)) & ENABLE).toBe(0);
    expect(bench.vfRead(1, V.VMBMEM)).toBe(77);
    expect([bench.vfRead(0, V.IVAR), bench.vfRead(0, V.RXDCTL(0)) & ENABLE, bench.vfRead(0, V.TXDCTL(1)) & ENABLE]).toEqual([0x8180, ENABLE, ENABLE]);
  });

  test('the PF can reset a VF by VTCTRL', () => {
    const bench = new Bench();
    bench.enable(3);
    bench.write(P.VFLRE, 7);
    bench.write(P.VTCTRL(2), CTRL_RST);
    expect(bench.read(P.VFLRE)).toBe(4);
    // One that is not enabled is none.
    bench.write(P.VTCTRL(5), CTRL_RST);
    expect(bench.read(P.VFLRE)).toBe(4);
  });

  test('FLR of a VF: the same, its MSI-X off and its mailbox empty', () => {
    const bench = new Bench();
    bench.enable(2);
    bench.openVf(1);
    bench.write(P.VFLRE, 3);
    bench.vfWrite(1, V.VMBMEM, 5);
    bench.vfWrite(1, V.V2PMAILBOX, 4 | 1);
    bench.config(vfAt(1), 0xa8, 2, 0x8000);
    expect([bench.read(P.VFLRE), bench.read(P.MBVFICR)]).toEqual([2, 0]);
    expect(bench.machine.configRead(vfAt(1), 0x72, 2) & 0x8000).toBe(0);
    expect([bench.vfRead(1, V.VMBMEM), bench.vfRead(1, V.V2PMAILBOX) & 4]).toEqual([0, 0]);
    expect((bench.read(P.STATUS) >>> 14) & 15).toBe(2);
  });

  test('FLR of the PF takes the VFs away', () => {
    const bench = new Bench();
    bench.enable(4);
    bench.config(PF, 0xa8, 2, 0x8000);
    bench.config(PF, 0x10, 4, 0xc000_0000);
    bench.config(PF, 4, 2, 6);
    expect([bench.read(P.STATUS) & 0x7_c000, bench.machine.configRead(vfAt(0), 8, 4)]).toEqual([0, 0xffff_ffff]);
  });
});
