// The embedded switch with frames in it: guests with VFs, the physical function and the network, each in memory of its own (82576 7.10.3).

import { describe, expect, test } from 'vitest';
import { AUPE, BAM, BROADCAST, frame, H, Host, macOf, messageOf, P, RCTL_ON, RING, STRVLAN, V, VFE, VLE, vfAt, WIRE_MAC } from './hypervisor.ts';

const TO = (n: number, from = 0, fill = 0) => frame(macOf(n), macOf(from), { fill });
const LB = 1 << 18;

describe('who gets a frame', () => {
  test('VF to VF: the one it is for, once, and nobody else', () => {
    const host = new Host().start();
    const sent = TO(1, 0, 0x5a);
    host.guests[0]?.send(sent);
    expect(host.guests[1]?.received().map(({ bytes, status }) => [bytes, (status & LB) !== 0])).toEqual([[sent, true]]);
    expect(host.everyone()).toEqual({});
    expect(host.guests[0]?.sent()).toBe(1);
  });

  test('VF to PF, PF to VF, wire to VF and PF, and what nobody here has goes out', () => {
    const host = new Host().start();
    host.guests[3]?.send(TO(7, 3));
    expect(host.everyone()).toEqual({ pf: 1 });
    host.pf.send(TO(6, 7));
    expect(host.everyone()).toEqual({ 6: 1 });
    host.inject(frame(macOf(2), WIRE_MAC), frame(macOf(7), WIRE_MAC), frame([2, 0, 0, 0, 5, 5], WIRE_MAC));
    expect(host.everyone()).toEqual({ 2: 1, pf: 1 });
    host.guests[4]?.send(frame(WIRE_MAC, macOf(4)));
    expect(host.everyone()).toEqual({ wire: 1 });
  });

  test('a broadcast: one copy for each but its sender, and for the wire (QEMU: the sender hears it too)', () => {
    const host = new Host().start();
    host.guests[2]?.send(frame(BROADCAST, macOf(2)));
    expect(host.everyone()).toEqual({ 0: 1, 1: 1, 3: 1, 4: 1, 5: 1, 6: 1, pf: 1, wire: 1 });
    host.inject(frame(BROADCAST, WIRE_MAC));
    expect(host.everyone()).toEqual({ 0: 1, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1, pf: 1 });
  });

  test('frames told of together, some for both sides: each goes where it should, in order', () => {
    const host = new Host().start();
    const one = (to: readonly number[], fill: number) => host.guests[2]?.describe(frame(to, macOf(2), { fill }));
    one(BROADCAST, 1);
    one(BROADCAST, 2);
    one(macOf(3), 3);
    one(WIRE_MAC, 4);
    one(macOf(3), 5);
    one(BROADCAST, 6);
    host.guests[2]?.go();
    expect(host.guests[3]?.received().map(({ bytes }) => bytes[20])).toEqual([1, 2, 3, 5, 6]);
    expect(host.pf.received().map(({ bytes }) => bytes[20])).toEqual([1, 2, 6]);
    expect(host.outside().map((bytes) => bytes[20])).toEqual([1, 2, 4, 6]);
    expect(host.guests[2]?.sent()).toBe(6);
  });

  test('a VF without its bit in VFRE gets nothing, one without VFTE sends nothing until it has it', () => {
    const host = new Host().start();
    host.write(P.VFRE, 0xfd);
    host.guests[0]?.send(TO(1));
    expect(host.everyone()).toEqual({});
    host.write(P.VFTE, 0xfe);
    host.guests[0]?.send(TO(2));
    expect(host.everyone()).toEqual({});
    host.write(P.VFTE, 0xff);
    expect(host.everyone()).toEqual({ 2: 1 });
  });

  test('reflective relay: all goes to the bridge outside; what it sends back spares the sender', () => {
    const host = new Host({ between: 'reflective-relay' }).start();
    host.guests[0]?.send(TO(1));
    host.guests[0]?.send(frame(BROADCAST, macOf(0)));
    const out = host.outside();
    expect(out.length).toBe(2);
    expect(host.everyone()).toEqual({});
    host.inject(...out);
    expect(host.everyone()).toEqual({ 1: 2, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1, pf: 1 });
  });

  test('mirroring: the PF looks on at what a VF gets', () => {
    const host = new Host().start();
    host.write(H.VMRCTL(0), 1 | (7 << 8));
    host.write(H.VMRVM(0), 1 << 1);
    host.guests[0]?.send(TO(1));
    host.guests[0]?.send(TO(2));
    expect(host.everyone()).toEqual({ 1: 1, 2: 1, pf: 1 });
  });
});

describe('VLANs', () => {
  /** VLAN 10: VFs 0 and 1; VLAN 20: VFs 1 and 2. */
  function host(): Host {
    const made = new Host().start({ rctl: RCTL_ON | VFE });
    made.vlan(0, 10, [0, 1]);
    made.vlan(1, 20, [1, 2]);
    return made;
  }

  test('a broadcast in a VLAN reaches who is in it', () => {
    const made = host();
    made.guests[0]?.send(frame(BROADCAST, macOf(0), { tag: 10 }));
    expect(made.everyone()).toEqual({ 1: 1, wire: 1 });
    made.inject(frame(BROADCAST, WIRE_MAC, { tag: 20 }));
    expect(made.everyone()).toEqual({ 1: 1, 2: 1 });
    // Of which VFTA knows nothing.
    made.inject(frame(BROADCAST, WIRE_MAC, { tag: 30 }));
    expect(made.everyone()).toEqual({});
  });

  test('VMVIR: a port VLAN that its guest does not see', () => {
    const made = host();
    made.write(H.VMVIR(1), 0x4000_0014);
    for (const n of [1, 2]) made.write(H.VMOLR(n), BAM | STRVLAN | 0x2600);
    made.guests[1]?.send(frame(BROADCAST, macOf(1), { fill: 7 }));
    expect(made.outside()).toEqual([frame(BROADCAST, macOf(1), { tag: 20, length: 68, fill: 7 })]);
    // A group frame keeps or loses its tag by RPLOLR.
    expect(made.guests[2]?.received().map(({ bytes }) => bytes.length)).toEqual([68]);
    made.write(H.RPLOLR, STRVLAN);
    made.guests[1]?.send(frame(BROADCAST, macOf(1), { fill: 7 }));
    expect(made.guests[2]?.received().map(({ bytes, tag }) => [bytes.length, tag])).toEqual([[64, 20]]);
    made.inject(frame(macOf(1), WIRE_MAC, { tag: 20, length: 68 }));
    expect(made.guests[1]?.received().map(({ bytes, tag }) => [bytes.length, tag])).toEqual([[64, 20]]);
  });

  test('VMVIR never: a descriptor’s VLE inserts nothing', () => {
    const made = host();
    made.write(P.CTRL, 0x4000_0040);
    made.write(H.VMVIR(0), 0x8000_0000);
    made.guests[0]?.send(frame(WIRE_MAC, macOf(0)), { command: 0x0b | VLE });
    expect(made.outside().map((bytes) => bytes.length)).toEqual([64]);
  });

  test('untagged frames are for pools with AUPE', () => {
    const made = host();
    made.write(H.VMOLR(3), BAM | 0x2600);
    made.write(H.VMOLR(4), BAM | AUPE | 0x2600);
    made.inject(frame(BROADCAST, WIRE_MAC));
    const got = made.everyone();
    expect([got[3], got[4]]).toEqual([undefined, 1]);
  });
});

describe('a VF that lies', () => {
  test('is caught: dropped, named in WVBR once, counted, told as DOUTSYNC; its neighbours do not notice', () => {
    const host = new Host().start();
    host.write(H.DTXSWC, 0x8000_00ff);
    host.write(H.DTXCTL, 1 << 6);
    host.guests[5]?.send(TO(1, 2));
    host.guests[0]?.send(TO(1));
    expect(host.everyone()).toEqual({ 1: 1 });
    expect([host.read(H.WVBR), host.read(H.WVBR), host.read(H.SSVPC), host.read(H.LVMMC) >>> 29]).toEqual([1 << 5, 0, 1, 5]);
    expect(host.read(P.ICR) & (1 << 28)).toBe(1 << 28);
    // Its ring goes on.
    host.guests[5]?.send(TO(1, 5));
    expect([host.everyone(), host.guests[5]?.sent()]).toEqual([{ 1: 1 }, 2]);
  });

  test('stands still until it is let go, where DTXCTL says so', () => {
    const host = new Host().start();
    host.write(H.DTXSWC, 0x8000_00ff);
    host.write(H.DTXCTL, 1 << 1);
    host.guests[5]?.send(TO(1, 2));
    host.guests[5]?.send(TO(1, 5));
    expect([host.everyone(), host.read(H.MDFB)]).toEqual([{}, 1 << 5]);
    host.write(H.MDFB, 1 << 5);
    expect(host.everyone()).toEqual({ 1: 1 });
  });
});

describe('full rings', () => {
  test('with QDE one guest that takes nothing loses its own frames, counted in RQDPC, and holds nobody up', () => {
    const host = new Host().start();
    host.write(H.QDE, 0xffff);
    for (let i = 0; i < 2; i++) {
      for (let n = 0; n < 20; n++) host.inject(frame(macOf(1), WIRE_MAC), frame(macOf(2), WIRE_MAC));
      expect(host.guests[2]?.received().length).toBe(20);
      host.guests[2]?.refill();
    }
    expect(host.guests[1]?.received().length).toBe(RING - 1);
    expect(host.read(H.RQDPC(1))).toBe(40 - (RING - 1));
    expect(host.wire.outbox.length).toBe(0);
  });

  test('without it a local sender is held back until there is room, and the frame comes once', () => {
    const host = new Host().start();
    for (let n = 0; n < RING - 1; n++) host.guests[0]?.describe(TO(1));
    host.guests[0]?.go();
    expect(host.guests[0]?.sent()).toBe(RING - 1);
    host.guests[4]?.send(frame(BROADCAST, macOf(4)));
    expect([host.guests[4]?.sent(), host.everyone()[1]]).toEqual([0, RING - 1]);
    // Others go on meanwhile.
    host.guests[5]?.send(TO(6, 5));
    expect(host.guests[6]?.received().length).toBe(1);
    host.guests[1]?.refill();
    expect(host.guests[4]?.sent()).toBe(1);
    expect(host.everyone()).toMatchObject({ 0: 1, 1: 1, 2: 1, 3: 1, 5: 1, 6: 1, pf: 1, wire: 1 });
  });
});

describe('interrupts and counters', () => {
  test('a VF’s receive and transmit vectors come through its own function, of both queues', () => {
    const host = new Host().start();
    host.vfWrite(1, V.IVAR, 0x8281_8180);
    host.guests[1]?.start(1);
    host.guests[0]?.send(TO(1));
    expect(host.heard()).toEqual([{ requester: vfAt(1), data: messageOf(1, 0) }]);
    host.guests[1]?.send(TO(0, 1));
    expect(host.heard()).toEqual([{ requester: vfAt(1), data: messageOf(1, 1) }]);
    host.guests[1]?.send(TO(0, 1), { queue: 1 });
    expect(host.heard()).toEqual([{ requester: vfAt(1), data: messageOf(1, 2) }]);
  });

  test('EITR of a VF holds its messages back, and sends one for what waits', () => {
    const host = new Host().start();
    host.vfWrite(1, V.IVAR, 0x80);
    host.vfWrite(1, V.EITR(0), 100 << 2);
    for (let i = 0; i < 3; i++) host.guests[0]?.send(TO(1));
    expect(host.heard().length).toBe(1);
    host.clock.advance(99e3);
    expect(host.heard().length).toBe(0);
    host.clock.advance(1e3);
    expect(host.heard().length).toBe(1);
    host.clock.advance(1e6);
    expect(host.heard().length).toBe(0);
  });

  test('VFGPRC and its kin: wire and inside apart, with the FCS, and reading clears nothing', () => {
    const host = new Host().start();
    host.inject(frame(macOf(1), WIRE_MAC), frame(BROADCAST, WIRE_MAC));
    host.guests[1]?.send(TO(0, 1));
    host.guests[0]?.send(TO(1));
    host.guests[1]?.send(frame(WIRE_MAC, macOf(1)));
    for (let twice = 0; twice < 2; twice++) {
      const [gprc, gorc, gprlbc, gorlbc] = [0xf10, 0xf18, 0xf40, 0xf48].map((at) => host.vfRead(1, at));
      expect([gprc, gorc, gprlbc, gorlbc]).toEqual([2, 136, 1, 68]);
      const [gptc, gotc, gptlbc, gotlbc] = [0xf14, 0xf34, 0xf44, 0xf50].map((at) => host.vfRead(1, at));
      expect([gptc, gotc, gptlbc, gotlbc]).toEqual([1, 68, 1, 68]);
    }
    expect(host.vfRead(2, 0xf14)).toBe(0);
  });
});

describe('terms of a pool', () => {
  test('each has its own longest frame', () => {
    const host = new Host().start();
    host.write(H.VMOLR(1), BAM | AUPE | (1 << 16) | 1900);
    const long = (n: number) => frame(macOf(n), WIRE_MAC, { length: 1896 });
    host.inject(long(1), long(2), frame(macOf(1), WIRE_MAC, { length: 1897 }));
    expect(host.everyone()).toEqual({ 1: 1 });
  });

  test('RSS inside a pool uses both of its queues (QEMU: never)', () => {
    const host = new Host().start({ mrqc: 5 | (3 << 16) });
    host.guests[1]?.start(1);
    host.write(H.VMOLR(1), BAM | AUPE | (1 << 17) | 0x2600);
    for (let i = 0; i < 10; i++) host.write(H.RSSRK(i), 0x1234_5679 * (i + 1));
    for (let i = 0; i < 32; i++) host.write(H.RETA(i), 0x0800_0800);
    const ip = (source: number) => [0x45, 0, 0, 20 + 26, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, source, 10, 0, 0, 99];
    const flows = Array.from({ length: 24 }, (_, i) => [...macOf(1), ...WIRE_MAC, 8, 0, ...ip(i), ...new Array<number>(26).fill(0)]);
    host.inject(...flows);
    const [first, second] = [host.guests[1]?.received(0).length, host.guests[1]?.received(1).length] as [number, number];
    expect(first + second).toBe(24);
    expect(Math.min(first, second)).toBeGreaterThan(0);
    // A pool without RSSE has all in its first queue.
    host.inject(...flows.map((bytes) => [...macOf(2), ...bytes.slice(6)]));
    expect(host.guests[2]?.received(0).length).toBe(24);
  });

  test('RTTBCNRC slows one queue down, by the clock, and no other', () => {
    const host = new Host().start();
    host.write(H.RTTDQSEL, 3);
    // A tenth of 1 Gb/s.
    host.write(H.RTTBCNRC, 0x8000_0000 | (10 << 14));
    for (let i = 0; i < 10; i++) host.guests[3]?.describe(TO(1, 3));
    host.guests[3]?.go();
    for (let i = 0; i < 10; i++) host.guests[4]?.send(TO(2, 4));
    expect(host.everyone()).toEqual({ 1: 1, 2: 10 });
    // 64 octets, FCS, preamble, gap.
    const each = (64 + 4 + 8 + 12) * 8 * 10;
    host.clock.advance(4 * each);
    expect(host.everyone()).toEqual({ 1: 4 });
    host.clock.advance(1e6);
    expect(host.everyone()).toEqual({ 1: 5 });
  });
});
