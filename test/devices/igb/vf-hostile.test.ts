// What a guest with a VF can do to others: nothing. Each VF is a requester of its own behind the IOMMU; whatever its rings, descriptors and registers say reaches its own memory or faults in its own name.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BROADCAST, frame, H, Host, macOf, messageOf, P, PF, RAM, RING, V, vfAt, WIRE_MAC } from './hypervisor.ts';

const CTRL_RST = 1 << 26;

/** A byte of everybody's memory that nobody should touch. */
const CANARY = 0xc5;

function withCanaries(host: Host): () => number[] {
  const at = host.guests.map((guest) => guest.base + 0xf_0000);
  at.push(host.pf.base + 0xf_0000, 0x800);
  for (const place of at) host.bytes.fill(CANARY, place, place + 0x400);
  return () => at.filter((place) => host.bytes.subarray(place, place + 0x400).some((byte) => byte !== CANARY));
}

/** Others' frames still come and go. */
function othersWork(host: Host, hostile: number): void {
  const [from, to] = [0, 1, 2, 3].filter((n) => n !== hostile) as [number, number];
  for (const n of [from, to]) {
    host.guests[n]?.received();
    host.guests[n]?.refill();
  }
  const sent = frame(macOf(to), macOf(from), { fill: 0x77 });
  host.guests[from]?.send(sent);
  expect(host.guests[to]?.received().map(({ bytes }) => bytes)).toContainEqual(sent);
  host.inject(frame(macOf(to), WIRE_MAC, { fill: 0x66 }));
  expect(host.guests[to]?.received().length).toBe(1);
}

describe('memory', () => {
  test('a descriptor that points outside the guest’s memory faults in the VF’s name, and nothing is sent (f4fdaf009c: not in the PF’s)', () => {
    const host = new Host().start();
    host.bytes.fill(0xee, host.pf.base, host.pf.base + 0x100);
    host.iommu.takeFaults();
    // What only the physical function has mapped.
    host.guests[2]?.send(frame(WIRE_MAC, macOf(2)), { address: host.pf.base });
    expect(host.everyone()).toEqual({});
    const { records } = host.iommu.takeFaults();
    expect(records.map(({ requester }) => requester)).toEqual([vfAt(2)]);
    othersWork(host, 2);
  });

  test('receive buffers and rings outside it are not written', () => {
    const host = new Host().start();
    const spoilt = withCanaries(host);
    for (let i = 0; i < RING; i++) host.guests[2]?.buffer(i, host.pf.base + 0xf_0000);
    host.inject(frame(macOf(2), WIRE_MAC, { fill: 1 }));
    expect(spoilt()).toEqual([]);
    // A ring in the neighbour's memory.
    host.guests[3]?.write('rx', 0x28, 0, 0);
    host.guests[3]?.write('rx', 0x00, 0, host.pf.base + 0xf_0000);
    host.guests[3]?.write('rx', 0x28, 0, 1 << 25);
    host.guests[3]?.write('rx', 0x18, 0, RING - 1);
    host.inject(frame(macOf(3), WIRE_MAC, { fill: 1 }));
    host.guests[4]?.write('tx', 0x38, 0, (host.pf.base + 0xf_0000) | 1);
    host.guests[4]?.send(frame(WIRE_MAC, macOf(4)));
    expect(spoilt()).toEqual([]);
    othersWork(host, 3);
  });

  test('without Bus Master Enable a VF moves nothing, and its neighbours do', () => {
    const host = new Host().start();
    host.config(vfAt(2), 4, 2, 0);
    host.guests[2]?.send(frame(WIRE_MAC, macOf(2)));
    host.inject(frame(macOf(2), WIRE_MAC));
    expect(host.everyone()).toEqual({});
    othersWork(host, 2);
    host.config(vfAt(2), 4, 2, 4);
    expect(host.outside().length).toBe(1);
  });

  test('the physical function’s own Bus Master Enable is no business of a VF’s', () => {
    const host = new Host().start();
    host.config(PF, 4, 2, 2);
    host.guests[0]?.send(frame(macOf(1), macOf(0)));
    expect(host.guests[1]?.received().length).toBe(1);
  });
});

describe('resets under traffic', () => {
  test('a VF reset in the middle of everything: its queues are empty, the others lose nothing', () => {
    for (const how of ['CTRL.RST', 'VTCTRL', 'FLR'] as const) {
      const host = new Host().start();
      for (let round = 0; round < 3; round++) {
        for (let i = 0; i < 5; i++) {
          host.guests[0]?.send(frame(macOf(1), macOf(0), { fill: i }));
          host.guests[5]?.send(frame(macOf(2), macOf(5)));
          host.guests[2]?.send(frame(macOf(6), macOf(2)));
        }
        if (how === 'CTRL.RST') host.vfWrite(2, V.CTRL, CTRL_RST);
        else if (how === 'VTCTRL') host.write(P.VTCTRL(2), CTRL_RST);
        else host.config(vfAt(2), 0xa8, 2, 0x8000);
        host.guests[5]?.send(frame(macOf(2), macOf(5)));
        expect(host.guests[1]?.received().length).toBe(5);
        expect(host.guests[6]?.received().length).toBe(5);
        expect(host.read(P.VFLRE)).toBe(round === 0 ? 0x7f : 4);
        host.write(P.VFLRE, 0xff);
        for (const n of [1, 6]) host.guests[n]?.refill();
        // The driver comes back, and the PF lets it.
        host.openVf(2);
        host.guests[2]?.start();
        host.write(P.VFRE, 0x7f);
        host.write(P.VFTE, 0x7f);
        host.guests[5]?.send(frame(macOf(2), macOf(5), { fill: 9 }));
        expect(host.guests[2]?.received().map(({ bytes }) => bytes[20])).toEqual([9]);
      }
    }
  });

  test('VFs come and go while frames pass', () => {
    const host = new Host({ vfs: 4 }).start();
    for (const count of [4, 2, 4, 1, 3]) {
      host.enable(count);
      host.write(P.VFRE, 0xff);
      host.write(P.VFTE, 0xff);
      for (let n = 0; n < count; n++) {
        host.openVf(n);
        host.guests[n]?.start();
      }
      host.pf.received();
      host.pf.refill();
      host.inject(frame(BROADCAST, WIRE_MAC));
      for (let n = 0; n < 4; n++) expect(host.guests[n]?.received().length).toBe(n < count ? 1 : 0);
      host.pf.send(frame(macOf(count - 1), macOf(7)));
      expect(host.guests[count - 1]?.received().length).toBe(1);
    }
    host.enable(0);
    host.guests[0]?.send(frame(WIRE_MAC, macOf(0)));
    expect(host.outside()).toEqual([]);
  });

  test('a port reset stops all, and all can start again', () => {
    const host = new Host().start();
    host.write(P.CTRL, CTRL_RST);
    host.guests[0]?.send(frame(macOf(1), macOf(0)));
    expect(host.everyone()).toEqual({});
    host.start();
    othersWork(host, 6);
  });

  test('a driver that resets its own VF from within its interrupt', () => {
    const host = new Host().start();
    host.vfWrite(1, V.IVAR, 0x8180);
    host.onMessage = ({ data }) => {
      if (data === messageOf(1, 0)) host.vfWrite(1, V.CTRL, CTRL_RST);
    };
    for (let i = 0; i < 3; i++) host.guests[0]?.send(frame(macOf(1), macOf(0)));
    host.onMessage = undefined;
    othersWork(host, 1);
  });
});

describe('a VF that does anything at all', () => {
  const HOSTILE = 2;
  const word = fc.oneof(fc.nat(0xffff_ffff), fc.constantFrom(0, 0xffff_ffff, 0x1000, 0x2000, 0x200_0000, 0x8180_8180, CTRL_RST));
  const act = fc.oneof(
    fc.record({
      register: fc.oneof(fc.nat(0x3fff), fc.constantFrom(0x2800, 0x2808, 0x280c, 0x2818, 0x2828, 0x3800, 0x3808, 0x3818, 0x3828, 0x3838)),
      value: word,
    }),
    fc.record({ descriptor: fc.nat(RING - 1), ring: fc.constantFrom('rx', 'tx'), words: fc.tuple(word, word, word, word) }),
    fc.record({ kick: fc.integer({ min: 0, max: RING - 1 }) }),
    fc.record({ config: fc.nat(0xfff), value: word, size: fc.constantFrom(1 as const, 2 as const, 4 as const) }),
    fc.constant({ frame: true }),
  );

  test('spoils no memory but its own, throws nothing, and its neighbours’ frames pass', () => {
    fc.assert(
      fc.property(fc.array(act, { maxLength: 80 }), (acts) => {
        const host = new Host().start();
        host.write(H.QDE, 0xffff);
        host.write(H.DTXSWC, 0x8000_00ff);
        const spoilt = withCanaries(host);
        const guest = host.guests[HOSTILE] as Host['guests'][number];
        for (const a of acts) {
          if ('register' in a) host.vfWrite(HOSTILE, a.register & ~3, a.value);
          else if ('descriptor' in a) {
            for (const [i, value] of a.words.entries()) guest.word((a.ring === 'rx' ? 0x2000 : 0x1000) + 16 * a.descriptor + 4 * i, value);
          } else if ('kick' in a) host.vfWrite(HOSTILE, 0x3818, a.kick);
          else if ('config' in a) host.config(vfAt(HOSTILE), a.config & -a.size, a.size, a.value);
          else host.inject(frame(macOf(HOSTILE), WIRE_MAC), frame(BROADCAST, WIRE_MAC));
        }
        const mine = guest.base + 0xf_0000;
        expect(spoilt().filter((at) => at !== mine)).toEqual([]);
        for (const { requester } of host.heard()) expect([vfAt(HOSTILE), PF]).toContain(requester);
        othersWork(host, HOSTILE);
        expect(host.iommu.takeFaults().records.every(({ requester }) => requester === vfAt(HOSTILE))).toBe(true);
      }),
      { numRuns: 80 },
    );
  });

  test('rings whose length, head and tail make no sense cost nobody else anything (CVE-2016-1981, CVE-2024-3567)', () => {
    const host = new Host().start();
    const guest = host.guests[HOSTILE] as Host['guests'][number];
    for (const length of [0, 0x10, 0xf_fff0, 0xffff_ffff])
      for (const tail of [0, 1, 0xffff]) {
        for (const ring of ['rx', 'tx'] as const) {
          guest.write(ring, 0x28, 0, 0);
          guest.write(ring, 0x08, 0, length);
          guest.write(ring, 0x10, 0, 0xffff);
          guest.write(ring, 0x28, 0, 1 << 25);
          for (let byte = 0; byte < 4; byte++) host.vfWrite(HOSTILE, (ring === 'rx' ? 0x2818 : 0x3818) + byte, (tail >>> (8 * byte)) & 0xff, 1);
        }
        host.write(H.QDE, 0xffff);
        host.inject(frame(macOf(HOSTILE), WIRE_MAC));
        othersWork(host, HOSTILE);
      }
    expect(host.bytes.length).toBe(RAM);
  });

  test('a frame of one octet, one of nothing, one of 64 KiB: others do not hear of them (CVE-2025-12464)', () => {
    const host = new Host().start();
    const guest = host.guests[HOSTILE] as Host['guests'][number];
    guest.send([1]);
    guest.send([]);
    guest.word(0x1000 + 16 * 2 + 8, 0);
    guest.describe([]);
    guest.word(0x1000 + 16 * 2 + 8, 0xffff | (3 << 20) | (0x2b << 24));
    guest.go();
    expect(host.guests[0]?.received()).toEqual([]);
    othersWork(host, HOSTILE);
  });
});
