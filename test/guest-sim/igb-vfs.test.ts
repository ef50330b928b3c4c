// The guest's drivers for an 82576's physical and virtual functions on the device, each written apart from the datasheet: seven guests with memory of their own, all to all through
// the embedded switch, and what may happen meanwhile.

import { afterEach, describe, expect, it } from 'vitest';
import type { IgbOptions, IgbvfOptions } from '#guest-sim/igb-options';
import type { MeshJob } from '#guest-sim/mesh';
import { VfGuests, type VfGuestsOptions } from '#lab/vf-guests';

const open: VfGuests[] = [];

afterEach(async () => {
  for (const lab of open.splice(0)) await lab.close();
});

function start(options: Partial<VfGuestsOptions> = {}): VfGuests {
  const lab = new VfGuests({ vfs: 7, ...options });
  open.push(lab);
  lab.until(() => [lab.host, ...lab.guests].every((guest) => guest.nic.configuration.linkUp), 'the link');
  return lab;
}

/** Everybody sends to everybody; returns the reports, virtual functions' first. */
function mesh(lab: VfGuests, job: Partial<MeshJob> = {}) {
  const { stations } = lab;
  const all = [...lab.guests, lab.host];
  const works = all.map((guest, self) => guest.start({ kind: 'mesh', self, stations, count: 200, ...job }));
  lab.until(() => works.every((work) => work.done), 'all to have sent and received');
  return all.map((guest) => guest.report());
}

const WAYS: readonly (readonly [string, IgbOptions, IgbvfOptions])[] = [
  ['nothing special', {}, {}],
  ['two pairs everywhere', { pairs: 2 }, { pairs: 2 }],
  ['split headers and head write-back', { splitHeaders: true, headWriteBack: true }, { splitHeaders: true, headWriteBack: true }],
  ['moderated interrupts', { itr: 10 }, { itr: 10 }],
];

describe.each(WAYS)('seven guests on virtual functions, %s', (_name, host, guest) => {
  it('are up with addresses their physical function gave them', () => {
    const lab = start({ host, guest });
    expect(lab.functions.length).toBe(7);
    const addresses = lab.stations.map((mac) => mac.join(':'));
    expect(new Set(addresses).size).toBe(8);
    lab.guests.forEach((g, i) => {
      expect([...g.nic.configuration.mac]).toEqual([...(lab.host.igb.vfs?.mac(i) ?? [])]);
    });
  });

  it('and their host send to each other, all to all, and each gets what is its own', () => {
    const lab = start({ host, guest });
    for (const report of mesh(lab)) {
      expect(report.errors).toEqual([]);
      expect(report.framesReceived).toBe(7 * 200);
      expect(report.malformed).toBe(0);
    }
    expect(lab.iommu.takeFaults()).toEqual({ records: [], lost: 0 });
    expect(lab.host.igb.vfs?.spoofs).toEqual([0, 0, 0, 0, 0, 0, 0]);
  });

  it('hear each other’s broadcasts, and not their own', () => {
    const lab = start({ host, guest });
    const [first, ...others] = lab.guests as [(typeof lab.guests)[0], ...(typeof lab.guests)[0][]];
    const sinks = [...others, lab.host].map((g) => g.start({ kind: 'sink', count: 100 }));
    const work = first.start({ kind: 'generate', count: 100, burst: 10 });
    lab.until(() => work.done && sinks.every((sink) => sink.done), 'the broadcasts');
    lab.step();
    for (const g of [...others, lab.host]) expect(g.report().errors).toEqual([]);
    expect(work.framesReceived).toBe(0);
  });
});

describe('offloads between virtual functions', () => {
  it('checksums are filled in and large frames cut', () => {
    const lab = start({ vfs: 2 });
    const [a, b] = lab.guests as [(typeof lab.guests)[0], (typeof lab.guests)[0]];
    const sizes = [200, 1514, 4000];
    const sink = b.start({ kind: 'sink', count: 100 * 5 });
    a.start({ kind: 'generate', count: 300, sizes, burst: 3, checksumOffload: true, destination: [...b.nic.configuration.mac] });
    lab.until(() => sink.done, 'all pieces');
    expect(b.report().errors).toEqual([]);
    expect(b.report().details.lost).toBe(0);
  });

  it('long frames pass once both asked for them', () => {
    const lab = start({ vfs: 2, host: { mtu: 9000 }, guest: { mtu: 9000 } });
    const [a, b] = lab.guests as [(typeof lab.guests)[0], (typeof lab.guests)[0]];
    const sink = b.start({ kind: 'sink', count: 100 });
    a.start({ kind: 'generate', count: 100, sizes: [9014], burst: 2, destination: [...b.nic.configuration.mac] });
    lab.until(() => sink.done, 'long frames');
    expect(b.report().errors).toEqual([]);
  });

  it('a guest that did not ask for long frames gets none', () => {
    const lab = start({ vfs: 2, host: { mtu: 9000 } });
    const [a, b] = lab.guests as [(typeof lab.guests)[0], (typeof lab.guests)[0]];
    const sink = lab.host.start({ kind: 'sink', count: 10 });
    const quiet = b.start({ kind: 'sink', count: 10 });
    expect(a.igbvf.ask([5, 9018])).toBe(true);
    const queue = a.igbvf.transmit[0] as (typeof a.igbvf.transmit)[0];
    for (let i = 0; i < 10; i++) {
      const views = a.arena.views;
      const from = a.arena.allocate(9014);
      views.u8.fill(0xff, from, from + 6);
      views.u8.set(a.nic.configuration.mac, from + 6);
      views.u8.set([0x88, 0xb5], from + 12);
      queue.copy(views, from, 9014);
      a.arena.free(from);
      queue.flush();
      for (let n = 0; n < 20; n++) lab.step();
    }
    expect(sink.framesReceived).toBe(10);
    expect(quiet.framesReceived).toBe(0);
  });
});

describe('a virtual function that does what it may not', () => {
  function spoof(lab: VfGuests, source: readonly number[]): void {
    const [a] = lab.guests as [(typeof lab.guests)[0]];
    const queue = a.igbvf.transmit[0] as (typeof a.igbvf.transmit)[0];
    const at = queue.reserve();
    a.arena.u8.fill(0xff, at, at + 6);
    a.arena.u8.set(source, at + 6);
    a.arena.u8.set([0x88, 0xb5], at + 12);
    queue.send(60);
    queue.flush();
    for (let i = 0; i < 20; i++) lab.step();
  }

  it('sends with another’s address: nobody hears it, and it is caught', () => {
    const lab = start({ vfs: 3 });
    const sinks = [lab.guests[1], lab.guests[2], lab.host].map((g) => g?.start({ kind: 'sink', count: 1 }));
    spoof(lab, lab.stations[1] as number[]);
    lab.host.igb.watchdog();
    expect(sinks.map((sink) => sink?.framesReceived)).toEqual([0, 0, 0]);
    expect(lab.host.igb.vfs?.spoofs).toEqual([1, 0, 0]);
    spoof(lab, lab.stations[0] as number[]);
    expect(sinks.map((sink) => sink?.framesReceived)).toEqual([1, 1, 1]);
    lab.host.igb.setVf(0, { spoofCheck: false });
    spoof(lab, lab.stations[1] as number[]);
    lab.host.igb.watchdog();
    expect(lab.host.igb.vfs?.spoofs).toEqual([1, 0, 0]);
    expect(sinks.map((sink) => sink?.framesReceived)).toEqual([2, 2, 2]);
  });

  it('asks for an address it was not given: refused until it is trusted', () => {
    const lab = start({ vfs: 2 });
    const [a] = lab.guests as [(typeof lab.guests)[0]];
    const mine = Uint8Array.of(2, 0, 0, 0, 0, 0x77);
    lab.host.igb.setVf(0, { mac: Uint8Array.of(2, 0, 0, 0, 0, 0x55) });
    lab.until(() => a.nic.configuration.mac[5] === 0x55 && a.igbvf.isUp, 'the guest to come back with its new address');
    expect(a.igbvf.setMac(mine)).toBe(false);
    expect(a.igbvf.addMac(mine)).toBe(false);
    expect(a.igbvf.setPromiscuous(true)).toBe(false);
    expect(a.igbvf.extensions).toEqual({ multicast: undefined, promiscuous: false, moreAddresses: false });
    lab.host.igb.setVf(0, { trust: true });
    expect(a.igbvf.setMac(mine)).toBe(true);
    expect(a.igbvf.setPromiscuous(true)).toBe(true);
    expect([...a.nic.configuration.mac]).toEqual([...mine]);
    expect(a.igbvf.setMac(Uint8Array.from(lab.stations[1] as number[]))).toBe(false);
  });

  it('sends messages that mean nothing: refused, and it goes on', () => {
    const lab = start({ vfs: 2 });
    const [a] = lab.guests as [(typeof lab.guests)[0]];
    for (const words of [[0x99], [0], [0xffff], [3 | (31 << 16)], [4, 0x1000], [5, 20_000], [5, 0], [6 | (0xff << 16)]]) expect(a.igbvf.ask(words)).toBe(false);
    for (const report of mesh(lab, { count: 50 })) expect(report.errors).toEqual([]);
  });
});

describe('VLANs of virtual functions', () => {
  it('chosen by guests keep them apart, and those in one hear each other', () => {
    const lab = start({ vfs: 3 });
    const [a, b, c] = lab.guests as [(typeof lab.guests)[0], (typeof lab.guests)[0], (typeof lab.guests)[0]];
    expect(a.igbvf.setVlan(7, true)).toBe(true);
    expect(b.igbvf.setVlan(7, true)).toBe(true);
    const queue = a.igbvf.transmit[0] as (typeof a.igbvf.transmit)[0];
    queue.vlan = 7;
    const sinks = [b, c].map((g) => g.start({ kind: 'sink', count: 50, verify: 'none' }));
    a.start({ kind: 'generate', count: 50, burst: 10 });
    lab.until(() => sinks[0]?.done === true, 'the frames in VLAN 7');
    for (let i = 0; i < 50; i++) lab.step();
    expect(sinks[1]?.framesReceived).toBe(0);
    expect(b.igbvf.setVlan(7, false)).toBe(true);
  });

  it('given by the host are not seen by guests, and not theirs to leave', () => {
    const lab = start({ vfs: 3 });
    const [a, b, c] = lab.guests as [(typeof lab.guests)[0], (typeof lab.guests)[0], (typeof lab.guests)[0]];
    for (const vf of [0, 1]) lab.host.igb.setVf(vf, { vlan: 100, priority: 3 });
    lab.until(() => a.igbvf.restarts === 1 && b.igbvf.restarts === 1 && a.igbvf.isUp && b.igbvf.isUp, 'both to come back');
    expect(a.igbvf.setVlan(7, true)).toBe(false);
    const sinks = [b, c].map((g) => g.start({ kind: 'sink', count: 50 }));
    a.start({ kind: 'generate', count: 50, burst: 10 });
    lab.until(() => sinks[0]?.done === true, 'the frames in VLAN 100');
    for (let i = 0; i < 50; i++) lab.step();
    expect(b.report().errors).toEqual([]);
    expect(sinks[1]?.framesReceived).toBe(0);
  });
});

describe('group addresses of virtual functions', () => {
  it('are received by those who asked', () => {
    const lab = start({ vfs: 3 });
    const [a, b, c] = lab.guests as [(typeof lab.guests)[0], (typeof lab.guests)[0], (typeof lab.guests)[0]];
    const group = [0x01, 0x00, 0x5e, 0x01, 0x02, 0x03];
    expect(b.igbvf.setMulticast([Uint8Array.from(group)])).toBe(true);
    const sinks = [b, c].map((g) => g.start({ kind: 'sink', count: 20 }));
    a.start({ kind: 'generate', count: 20, burst: 10, destination: group });
    lab.until(() => sinks[0]?.done === true, 'the group’s frames');
    for (let i = 0; i < 50; i++) lab.step();
    expect(sinks[1]?.framesReceived).toBe(0);
  });
});

describe('resets', () => {
  it('of a virtual function under load do not disturb its neighbours', () => {
    const lab = start({ vfs: 7 });
    const { stations } = lab;
    const all = [...lab.guests, lab.host];
    // Number 3 is reset over and over: nobody counts on its frames.
    const works = all.map((guest, self) => guest.start({ kind: 'mesh', self, stations, count: 500, expect: self === 3 ? 0 : 6 * 500 }));
    const victim = lab.guests[3] as (typeof lab.guests)[0];
    let resets = 0;
    lab.until(() => {
      if (victim.igbvf.isUp && resets < 5 && works[0] && works[0].framesSent > 600 * resets) {
        victim.igbvf.beginRecovery();
        resets++;
      }
      return works.every((work, i) => i === 3 || work.done);
    }, 'the neighbours to have sent and received');
    expect(resets).toBe(5);
    for (const [i, guest] of all.entries()) {
      if (i === 3) continue;
      const { errors, details } = guest.report();
      expect(errors).toEqual([]);
      for (const peer of all.keys()) if (peer !== i && peer !== 3) expect(details[`received of ${peer}`]).toBe(500);
    }
    lab.until(() => victim.igbvf.isUp, 'the victim');
    expect(victim.nic.broken).toBe('');
  });

  it('of the physical function are survived by its virtual ones', () => {
    const lab = start({ vfs: 7 });
    for (const report of mesh(lab, { count: 50 })) expect(report.errors).toEqual([]);
    lab.host.igb.setVf(2, { vlan: 0, spoofCheck: false, rate: 100 });
    lab.host.igb.recover();
    // Their interrupts went with the reset: the watchdog finds out (V2PMAILBOX.RSTD).
    lab.pass(3e9);
    lab.until(
      () => lab.guests.every((guest) => guest.igbvf.restarts > 0 && guest.igbvf.isUp && guest.nic.configuration.linkUp) && lab.host.nic.configuration.linkUp,
      'all to be back',
    );
    for (const report of mesh(lab, { count: 50 })) expect(report.errors).toEqual([]);
  });

  it('leave no memory behind', () => {
    const lab = start({ vfs: 2 });
    const before = lab.guests.map((guest) => guest.arena.bytesInUse);
    for (const guest of lab.guests) guest.igbvf.recover();
    expect(lab.guests.map((guest) => guest.arena.bytesInUse)).toEqual(before);
    for (const guest of lab.guests) guest.nic.shutDown();
    expect(lab.guests.map((guest) => guest.arena.bytesInUse)).toEqual([0, 0]);
  });
});

describe('the cable', () => {
  it('pulled and plugged in again is seen by all guests', () => {
    const lab = start({ vfs: 3 });
    lab.device.cable = false;
    lab.until(() => [lab.host, ...lab.guests].every((guest) => !guest.nic.configuration.linkUp), 'all to see the link go');
    lab.device.cable = true;
    lab.until(() => [lab.host, ...lab.guests].every((guest) => guest.nic.configuration.linkUp), 'all to see the link come');
  });
});

describe('enabling', () => {
  it('refuses what cannot be', () => {
    const lab = start({ vfs: 1 });
    expect(() => lab.host.igb.enableVfs(1, () => {})).toThrow('enabled already');
    lab.host.igb.disableVfs((nanos) => lab.pass(nanos));
    expect(() => lab.host.igb.enableVfs(8, () => {})).toThrow(RangeError);
  });

  it('and disabling, over and over, leaves a physical function that works', () => {
    const lab = start({ vfs: 3 });
    for (let i = 1; i <= 3; i++) {
      lab.host.igb.disableVfs((nanos) => lab.pass(nanos));
      expect(lab.host.igb.enableVfs(i, (nanos) => lab.pass(nanos)).length).toBe(i);
    }
    expect(lab.host.nic.broken).toBe('');
  });
});
