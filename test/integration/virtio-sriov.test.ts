// A virtio-net physical function whose virtual functions belong to guests and ride a NIC's embedded switch: their control plane is emulated on this thread, their rings are a vDPA device's on a worker's.

import { afterEach, describe, expect, it } from 'vitest';
import { VdpaBackend } from '#backends/vdpa-backend';
import { VdpaNet } from '#backends/vdpa-net';
import { VhostPool } from '#backends/vhost-pool';
import type { VhostSegment } from '#backends/vhost-worker';
import type { Guest } from '#guest-sim/guest';
import { SriovGroup } from '#guest-sim/sriov-group';
import { NetVfGuests, type NetVfGuestsOptions } from '#lab/net-vf-guests';
import { EmbeddedSwitch } from '#net/embedded-switch/embedded-switch';
import { SwitchVfPorts } from '#net/embedded-switch/vf-ports';

let pool: VhostPool | undefined;
let world: NetVfGuests | undefined;

afterEach(async () => {
  await world?.close();
  await pool?.close();
  world = undefined;
  pool = undefined;
});

interface Nic {
  readonly world: NetVfGuests;
  readonly embedded: EmbeddedSwitch;
  readonly ports: SwitchVfPorts;
  readonly segment: VhostSegment;
}

/** The physical function's own address is the switch's to know like any other. */
const PF_MAC = '52:54:00:af:00:01';

function build(vfs: number, options: Partial<NetVfGuestsOptions> & { settings?: NetVfGuestsOptions['sriov']['settings'] } = {}): Nic {
  pool = new VhostPool({ threads: 1 });
  const embedded = new EmbeddedSwitch({ functions: vfs });
  embedded.configurePort('pf', { mac: PF_MAC });
  const segment = pool.worker().segment({ kind: embedded.share });
  const ports = new SwitchVfPorts(embedded);
  const offloaded = (name: string): VdpaBackend => new VdpaBackend(new VdpaNet(segment.port(name)));
  const { settings, ...rest } = options;
  world = new NetVfGuests({
    vfs,
    mac: PF_MAC,
    backend: offloaded('pf'),
    sriov: { backend: (vf) => offloaded(`vf${vf}`), ports, ...(settings && { settings }) },
    ...rest,
  });
  return { world, embedded, ports, segment };
}

const macOf = (guest: Guest): number[] => [...guest.nic.configuration.mac];
const allDone = (guests: readonly Guest[]): boolean => guests.every((guest) => guest.workload?.done === true);

/** Everybody sends to everybody, and checks what comes. */
async function mesh(world: NetVfGuests, guests: readonly Guest[], count: number): Promise<void> {
  const stations = guests.map(macOf);
  guests.forEach((guest, self) => void guest.start({ kind: 'mesh', self, stations, count }));
  await world.until(() => allDone(guests), 'every frame of the mesh');
  for (const guest of guests) {
    const report = guest.report();
    expect(report.errors).toEqual([]);
    expect(report.framesReceived).toBe(count * (guests.length - 1));
  }
}

describe.each(['split', 'packed'] as const)('virtual functions over a vDPA NIC, %s rings', (ring) => {
  it('talk to each other and to the physical function, each from memory of its own', async () => {
    const { world, embedded } = build(4, { host: { ring }, guest: { ring } });
    await mesh(world, [...world.guests, world.host], 200);
    for (const port of ['vf0', 'vf1', 'vf2', 'vf3', 'pf']) {
      const { frames, forwarded, dropped } = embedded.portStatistics(port);
      expect({ port, frames, forwarded, dropped }).toEqual({ port, frames: 800, forwarded: 800, dropped: 0 });
    }
    // What a function could reach beyond its guest's memory would be the host's.
    expect(world.iommu.takeFaults().records).toEqual([]);
  });

  it('are stopped under traffic, taken apart, reset, given their parts back, and go on without loss', async () => {
    const { world } = build(2, { host: { ring }, guest: { ring } });
    const [a, b] = world.guests as [Guest, Guest];
    const group = SriovGroup.open(world.host.net.admin ?? expect.fail('the physical function has no administration queue')) ?? expect.fail('no SR-IOV group');
    const count = 30_000;
    b.start({ kind: 'sink', count });
    a.start({ kind: 'generate', count, destination: macOf(b) });
    await world.until(() => b.report().framesReceived > 1000, 'traffic');
    // 1 is the first: its sender is stopped in the midst of it.
    group.stop(1);
    const parts = group.parts(1);
    expect(group.partHeaders(1).map(({ type }) => type)).toEqual(parts.map(({ type }) => type));
    const standstill = b.report().framesReceived;
    const [device] = world.functions;
    const { config } = world.host;
    const rid = device?.rid ?? 0;
    const command = config.read(rid, 4, 2);
    const messages = messageTable(world, rid);
    flr(world, rid);
    // 2.14.2 leaves configuration space and the MSI-X table to the hypervisor.
    config.write(rid, 4, 2, command);
    messages.restore();
    group.stop(1);
    group.setParts(1, parts);
    expect(standstill).toBeLessThan(count);
    group.resume(1);
    await world.until(() => allDone([a, b]), 'the rest of it');
    expect(b.report().errors).toEqual([]);
    expect(b.report().details.lost).toBe(0);
  });
});

describe('what the host says of a function', () => {
  it('separates VLANs, catches a liar, and holds for a driver that is already there', async () => {
    const { world, embedded, ports } = build(3);
    const [a, b, c] = world.guests as [Guest, Guest, Guest];
    await mesh(world, [a, b, c], 20);
    world.vfs.configure(0, { vlan: 5 });
    world.vfs.configure(1, { vlan: 5 });
    expect(ports.refusal(0)).toBeUndefined();
    await mesh(world, [a, b], 20);
    const before = embedded.portStatistics('vf0');
    c.start({ kind: 'sink' });
    a.start({ kind: 'generate', count: 100, destination: macOf(c) });
    await world.until(() => embedded.portStatistics('vf0').frames - before.frames === 100, 'frames into another VLAN');
    await world.until(() => a.workload?.done === true, 'their sender');
    expect(c.report().framesReceived).toBe(0);
    // Spoof checking: frames with the address of somebody else go nowhere.
    world.vfs.configure(2, { spoofCheck: true });
    const liar = embedded.portStatistics('vf2');
    const template = c.nic.configuration.mac;
    const [first] = c.nic.transmit;
    if (!first) expect.fail('no transmit queue');
    for (let i = 0; i < 10; i++) {
      const at = first.reserve();
      c.arena.u8.set([...macOf(b), ...template.slice(0, 5), (template[5] as number) ^ 1, 0x88, 0xb5], at);
      first.send(60);
    }
    first.flush();
    await world.until(() => embedded.portStatistics('vf2').frames - liar.frames === 10, 'the lies');
    expect(embedded.portStatistics('vf2').drops['spoofed-mac']).toBe(10);
  });

  it('gives 255 functions to as many guests, and every one passes traffic', { timeout: 120_000 }, async () => {
    const { world, embedded } = build(255, { guestBytes: 2 ** 20, guest: { queueSize: 16, receiveBuffer: 2048, interrupts: 'shared' } });
    expect(world.guests.length).toBe(255);
    // Each asks the one after it, the last one the first: unicast through the switch, in both directions.
    const ring = world.guests.map((guest, i) => ({ guest, to: macOf(world.guests[(i + 1) % 255] as Guest) }));
    const count = 20;
    for (const { guest } of ring) guest.start({ kind: 'generate', count, destination: ring.find(({ guest: one }) => one === guest)?.to ?? [] });
    await world.until(() => allDone(world.guests) && world.guests.every((guest) => guest.report().framesReceived === count), 'all 255');
    for (let vf = 0; vf < 255; vf++) expect(embedded.portStatistics(`vf${vf}`)).toMatchObject({ frames: count, forwarded: count, dropped: 0 });
    expect(new Set(world.functions.map(({ rid }) => rid)).size).toBe(255);
  });
});

/** Function-level reset (PCIe 4.0 6.6.2) through the PCI Express capability. */
function flr(world: NetVfGuests, rid: number): void {
  const express = world.functions.find((device) => device.rid === rid)?.capabilities.find(({ id }) => id === 0x10)?.offset ?? 0;
  const { config } = world.host;
  config.write(rid, express + 8, 2, config.read(rid, express + 8, 2) | 0x8000);
  world.pass(100e6);
}

/** A function's MSI-X table and control, to be written back. */
function messageTable(world: NetVfGuests, rid: number): { restore: () => void } {
  const device = world.functions.find((one) => one.rid === rid);
  const { config, bus } = world.host;
  const at = device?.capabilities.find(({ id }) => id === 0x11)?.offset ?? 0;
  const control = config.read(rid, at + 2, 2);
  const where = config.read(rid, at + 4, 4);
  const table = (device?.bars.find(({ index }) => index === (where & 7))?.address ?? 0) + (where & ~7);
  const words = 4 * ((control & 0x7ff) + 1);
  const kept = Array.from({ length: words }, (_, i) => bus.mmioRead(table + 4 * i, 4));
  return {
    restore() {
      config.write(rid, at + 2, 2, 0xc000);
      kept.forEach((word, i) => {
        bus.mmioWrite(table + 4 * i, 4, word);
      });
      config.write(rid, at + 2, 2, control & 0xc000);
    },
  };
}
