// The state of a port with live VFs, taken in the middle of traffic and put into another machine (QEMU's igbvf has none).

import { describe, expect, test } from 'vitest';
import { BROADCAST, frame, H, Host, macOf, messageOf, P, RING, V, vfAt, WIRE_MAC } from './hypervisor.ts';

interface IgbRecord {
  virtual: { banks?: Uint32Array; paid?: Float64Array; storm?: number };
  registers: { V2PMAILBOX: number[]; STATUS: number[] };
}

/** Into a machine made the same way, whose guests go on where they were. */
async function moved(host: Host): Promise<Host> {
  const saved = structuredClone(await host.machine.save({ memory: true, stay: 'paused' }));
  const next = new Host();
  next.clock.advance(host.clock.now());
  await next.machine.restore(saved);
  for (const [n, guest] of host.guests.entries()) next.guests[n]?.goOn(guest);
  next.pf.goOn(host.pf);
  return next;
}

describe('saved state with live VFs', () => {
  test('frames that wait for room, for time and in rings come once, at the other end', async () => {
    const host = new Host().start();
    // VF 1 has no room left; VF 0's next frame waits for it.
    for (let n = 0; n < RING - 1; n++) host.guests[0]?.describe(frame(macOf(1), macOf(0), { fill: n }));
    host.guests[0]?.go();
    host.guests[4]?.send(frame(macOf(1), macOf(4), { fill: 0x44 }));
    // VF 3's queue is slow: one of three is out.
    host.write(H.RTTDQSEL, 3);
    host.write(H.RTTBCNRC, 0x8000_0000 | (100 << 14));
    for (let n = 0; n < 3; n++) host.guests[3]?.describe(frame(macOf(5), macOf(3), { fill: 0x30 + n }));
    host.guests[3]?.go();
    const next = await moved(host);
    expect(next.guests[1]?.received().map(({ bytes }) => bytes[20])).toEqual(Array.from({ length: RING - 1 }, (_, n) => n));
    next.guests[1]?.refill();
    expect(next.guests[1]?.received().map(({ bytes }) => bytes[20])).toEqual([0x44]);
    expect(next.guests[5]?.received().map(({ bytes }) => bytes[20])).toEqual([0x30]);
    next.clock.advance(1e6);
    expect(next.guests[5]?.received().map(({ bytes }) => bytes[20])).toEqual([0x31, 0x32]);
  });

  test('broadcasts that pools have and the network refused come out there, and to no pool again', async () => {
    const host = new Host().start();
    host.wire.room = 1;
    for (let n = 0; n < 5; n++) host.guests[0]?.describe(frame(n === 3 ? macOf(1) : BROADCAST, macOf(0), { fill: n }));
    host.guests[0]?.go();
    expect(host.guests[1]?.received().map(({ bytes }) => bytes[20])).toEqual([0, 1, 2, 3, 4]);
    expect(host.guests[0]?.sent()).toBe(1);
    const next = await moved(host);
    expect(next.outside().map((bytes) => bytes[20])).toEqual([1, 2, 4]);
    expect(next.guests[1]?.received()).toEqual([]);
    expect(next.guests[0]?.sent()).toBe(5);
  });

  test('VFs are as they were: enabled, with their vectors, messages, windows and mailboxes', async () => {
    const host = new Host().start();
    host.vfWrite(1, V.IVAR, 0x8281_8180);
    host.vfWrite(1, V.IVAR_MISC, 0x82);
    host.vfWrite(1, V.EITR(0), 50 << 2);
    host.vfWrite(2, V.V2PMAILBOX, 4);
    host.vfWrite(2, V.VMBMEM, 0xabcd);
    host.write(P.P2VMAILBOX(3), 8);
    host.guests[0]?.send(frame(macOf(1), macOf(0)));
    host.guests[0]?.send(frame(macOf(1), macOf(0)));
    expect(host.heard().length).toBe(1);
    const next = await moved(host);
    next.heard();
    expect((next.read(P.STATUS) >>> 14) & 31).toBe(7 | 16);
    // What waited for EITR comes when it should have.
    next.clock.advance(50e3);
    expect(next.heard()).toEqual([{ requester: vfAt(1), data: messageOf(1, 0) }]);
    next.write(P.P2VMAILBOX(1), 1);
    expect(next.heard()).toEqual([{ requester: vfAt(1), data: messageOf(1, 2) }]);
    // Ownership stands.
    next.write(P.P2VMAILBOX(2), 8);
    next.vfWrite(3, V.V2PMAILBOX, 4);
    expect([next.read(P.P2VMAILBOX(2)), next.read(P.P2VMAILBOX(3)), next.read(P.VMBMEM(2))]).toEqual([4, 8, 0xabcd]);
    for (const n of [0, 6]) {
      next.guests[n]?.send(frame(macOf(1), macOf(n), { fill: n }));
      next.pf.send(frame(macOf(n), macOf(7)));
      expect(next.guests[n]?.received().length).toBe(1);
    }
    expect(next.guests[1]?.received().length).toBe(4);
  });

  test('into a machine with other VFs enabled, and back to one with none', async () => {
    const host = new Host({ vfs: 2 }).start();
    const saved = structuredClone(await host.machine.save());
    const none = structuredClone(await new Host().machine.save());
    const other = new Host().start();
    await other.machine.restore(saved);
    expect((other.read(P.STATUS) >>> 14) & 15).toBe(2);
    expect(other.machine.configRead(vfAt(2), 8, 4)).toBe(0xffff_ffff);
    await other.machine.restore(none);
    expect((other.read(P.STATUS) >>> 14) & 31).toBe(0);
  });

  test('restoring is no event: no mailbox interrupt, no cause, whichever VFs were enabled before', async () => {
    const saved = structuredClone(await new Host({ vfs: 2 }).start().machine.save());
    const none = structuredClone(await new Host().machine.save());
    const host = new Host().start();
    // Its driver is told of everything.
    host.write(P.EIMS, 1);
    host.write(0x1514, 0x11);
    host.write(0x1740, 0x8000);
    host.write(P.IMS, 0x77ff_ffff);
    host.read(P.ICR);
    host.write(P.EICR, 1);
    host.heard();
    for (const record of [saved, none, saved]) {
      await host.machine.restore(record);
      expect(host.heard()).toEqual([]);
    }
    const igb = saved.state.parts.find(({ name }) => name.startsWith('igb')) as { state: { state: IgbRecord & { registers: { ICR: number[] } } } };
    expect(host.registers[host.nic.registers.index('ICR')]).toBe(igb.state.state.registers.ICR[0]);
  });

  test('STATUS says how many VFs there are, whatever the record’s says', async () => {
    const host = new Host({ vfs: 2 }).start();
    const saved = structuredClone(await host.machine.save());
    const igb = saved.state.parts.find(({ name }) => name.startsWith('igb')) as { state: { state: IgbRecord } };
    igb.state.state.registers.STATUS = [0x400];
    await host.machine.restore(saved);
    expect((host.read(P.STATUS) >>> 14) & 31).toBe(2 | 16);
    // VFRE is asked of enabled VFs: none may have slipped out.
    host.write(P.VFRE, 0xfe);
    host.inject(frame(macOf(0), WIRE_MAC));
    expect(host.guests[0]?.received()).toEqual([]);
  });

  test('a record that does not fit is refused, and nothing has changed (CVE-2025-54566)', async () => {
    const host = new Host().start();
    const sound = await host.machine.save();
    const spoilt = (change: (igb: IgbRecord) => void): unknown => {
      const copy = structuredClone(sound);
      const igb = copy.state.parts.find(({ name }) => name.startsWith('igb')) as { state: { state: IgbRecord } };
      change(igb.state.state);
      return copy;
    };
    const records = [
      spoilt((igb) => {
        igb.virtual = {};
      }),
      spoilt((igb) => {
        igb.virtual.banks = new Uint32Array(16).fill(0xffff_ffff);
      }),
      spoilt((igb) => {
        igb.virtual.paid = new Float64Array(16).fill(Number.NaN);
      }),
      spoilt((igb) => {
        igb.virtual.storm = Number.POSITIVE_INFINITY;
      }),
      spoilt((igb) => {
        igb.registers.V2PMAILBOX = new Array(8).fill(0x1000);
      }),
    ];
    for (const record of records) await expect(host.machine.restore(record)).rejects.toMatchObject({ code: 'NICBOX_RESTORE' });
    host.guests[0]?.send(frame(macOf(1), macOf(0)));
    expect(host.everyone()).toEqual({ 1: 1 });
  });
});
