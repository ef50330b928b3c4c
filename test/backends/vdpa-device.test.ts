// The vDPA contract as its owner sees it: order of status bits, translations and their faults, positions, suspension, configuration space, doorbells.

import { afterEach, describe, expect, it } from 'vitest';
import { VdpaBackend } from '#backends/vdpa-backend';
import { VdpaNet, type VdpaNetOptions } from '#backends/vdpa-net';
import { VdpaShadow } from '#backends/vdpa-shadow';
import { VhostPool } from '#backends/vhost-pool';
import { DMA_READ, DMA_WRITE } from '#core/dma-space';
import type { GuestMemory } from '#core/guest-memory';
import { FeatureSet, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1 } from '#virtio/features';
import type { VdpaEvent } from '#virtio/vdpa';
import type { QueueSetup } from '#virtio/virtqueue';
import { eventually, eventuallyBlocking } from './eventually.ts';
import { frameOf, TestGuest } from './guest.ts';
import { Stream } from './stream.ts';

const ACKNOWLEDGE = 1;
const DRIVER = 2;
const DRIVER_OK = 4;
const FEATURES_OK = 8;
const BOTH = DMA_READ | DMA_WRITE;

const pools: VhostPool[] = [];
afterEach(async () => {
  for (const p of pools.splice(0)) await p.close();
});

function nics(optionsA: VdpaNetOptions = {}, optionsB: VdpaNetOptions = {}): { a: VdpaNet; b: VdpaNet; pool: VhostPool; resume: () => void } {
  const pool = new VhostPool();
  pools.push(pool);
  const segment = pool.worker().segment({ paused: true });
  return { a: new VdpaNet(segment.port('a'), optionsA), b: new VdpaNet(segment.port('b'), optionsB), pool, resume: () => segment.resume() };
}

/** What a hypervisor of its own would do: no VhostBackend in between. */
class Host {
  readonly events: VdpaEvent[] = [];
  readonly guest: TestGuest;
  readonly device: VdpaNet;

  constructor(device: VdpaNet, guest: TestGuest) {
    this.device = device;
    this.guest = guest;
    device.setOwner(this, guest.memory);
  }

  vdpaEvent(event: VdpaEvent): void {
    this.events.push(event);
  }

  negotiate(): void {
    const { device, guest } = this;
    device.setControl({ policy: guest.policy, statistics: guest.statistics });
    device.status = ACKNOWLEDGE | DRIVER;
    device.driverFeatures = guest.features;
    device.status |= FEATURES_OK;
  }

  rings(): void {
    this.guest.setups.forEach((setup, index) => {
      this.device.setVringSize(index, (setup as QueueSetup).size);
      this.device.setVringAddresses(index, setup);
      this.device.setVringCall(index, this.guest.calls[index] as never);
      this.device.setVringReady(index, true);
    });
  }

  /** The guest's kicks go where it may write itself. */
  wire(): void {
    this.guest.backend = { kickDoorbell: (index: number) => this.device.vringDoorbell(index) } as never;
  }

  up(): void {
    this.negotiate();
    this.device.map(0, { iova: 0, address: 0, size: this.guest.memory.size, permissions: BOTH });
    this.rings();
    this.device.status |= DRIVER_OK;
    this.wire();
  }

  states(): string[] {
    return this.guest.setups.map((_, index) => this.device.vringState(index));
  }
}

/** Two of them, and all runs. */
function up(): { a: VdpaNet; b: VdpaNet; left: Host; right: Host } {
  const { a, b, resume } = nics();
  const [left, right] = [new Host(a, new TestGuest({ name: 'a' })), new Host(b, new TestGuest({ name: 'b' }))];
  left.up();
  right.up();
  resume();
  return { a, b, left, right };
}

describe('status', () => {
  it('goes up in order, keeps bits until a reset, and reads 0 once rings have stopped', async () => {
    const { a } = nics();
    expect([a.deviceId, a.vringCount, a.maxVringSize, a.groups, a.addressSpaces]).toEqual([1, 3, 32768, 2, 2]);
    const host = new Host(a, new TestGuest());
    expect(() => {
      a.status = FEATURES_OK | DRIVER_OK;
    }).toThrow(/control words/);
    host.negotiate();
    expect(a.status).toBe(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    expect(() => {
      a.driverFeatures = new FeatureSet();
    }).toThrow(/settled/);
    expect(() => {
      a.status = DRIVER;
    }).toThrow(/reset/);
    a.map(0, { iova: 0, address: 0, size: host.guest.memory.size, permissions: BOTH });
    host.rings();
    // virtio 1.4 3.1.1: nothing is served before DRIVER_OK.
    expect(host.states()).toEqual(['stopped', 'stopped']);
    a.status |= DRIVER_OK;
    await eventually('both rings to run', () => host.states().every((state) => state === 'running'));
    expect(() => a.setVringSize(0, 8)).toThrow(/in use/);
    expect(() => a.setGroupAddressSpace(0, 1)).toThrow(/before DRIVER_OK/);
    a.status = 0;
    eventuallyBlocking('the reset to be over', () => a.status === 0);
    expect(host.states()).toEqual(['stopped', 'stopped']);
    expect(a.driverFeatures.empty).toBe(true);
    expect(host.events).toEqual([]);
  });

  it('does not accept features it does not have', () => {
    const { a } = nics({ withoutFeatures: [VIRTIO_F_RING_PACKED] });
    const host = new Host(a, new TestGuest({ features: [VIRTIO_F_RING_PACKED] }));
    host.negotiate();
    expect(a.status & FEATURES_OK).toBe(0);
    expect(() => {
      a.status |= DRIVER_OK;
    }).toThrow(/FEATURES_OK/);
    a.driverFeatures = FeatureSet.of(VIRTIO_F_VERSION_1);
    a.status |= FEATURES_OK;
    expect(a.status & FEATURES_OK).toBe(FEATURES_OK);
  });

  it('passes to a new owner whole: the old one hears of it and its mappings are gone; not while rings run', async () => {
    const { a } = nics();
    const first = new Host(a, new TestGuest());
    first.up();
    await eventually('rings to run', () => first.states().every((state) => state === 'running'));
    expect(() => new Host(a, new TestGuest())).toThrow(/stop its rings/);
    a.status = 0;
    eventuallyBlocking('the reset to be over', () => a.status === 0);
    const second = new Host(a, new TestGuest());
    expect(first.events).toEqual([{ kind: 'released' }]);
    expect(second.events).toEqual([]);
    expect(a.unmap(0, 0, 2 ** 52)).toBe(0);
  });
});

describe('translations', () => {
  it("are the device's own: rings and buffers at other addresses than the guest's, each address space by itself", async () => {
    const { a, b, resume } = nics();
    const [left, right] = [new Host(a, new TestGuest({ name: 'a' })), new Host(b, new TestGuest({ name: 'b' }))];
    left.up();
    // All of B's memory one page up in space 1; space 0 maps nothing.
    right.negotiate();
    b.setGroupAddressSpace(b.vringGroup(0), 1);
    b.map(1, { iova: 4096, address: 0, size: right.guest.memory.size, permissions: BOTH });
    const shift = (setup: QueueSetup): QueueSetup => ({
      size: setup.size,
      descriptorArea: setup.descriptorArea + 4096,
      driverArea: setup.driverArea + 4096,
      deviceArea: setup.deviceArea + 4096,
    });
    right.guest.setups.forEach((setup, index) => {
      right.guest.setups[index] = shift(setup);
    });
    right.rings();
    b.status |= DRIVER_OK;
    right.wire();
    resume();
    // The guest still writes descriptors with its own addresses; a buffer of its first page's is outside.
    right.guest.post(4);
    left.guest.send(frameOf(100, 7));
    await eventually('the frame, one page further down than its descriptor says', () => right.guest.drivers[0]?.reap().length === 1);
    const at = 0x10000 + 0x20000;
    const shown = right.guest.bytes.subarray(at - 4096, at + 0x40000);
    expect(Buffer.from(shown).indexOf(Buffer.from(frameOf(100, 7)))).toBeGreaterThanOrEqual(0);
    expect(right.events).toEqual([]);
  });

  it('are refused where they overlap, are out of range or not of pages, and take effect together at the end of a batch', async () => {
    const { a } = nics({ iovaRange: { first: 0x1000, last: 0xffff_ffff } });
    const host = new Host(a, new TestGuest());
    const page = { size: 4096, address: 0, permissions: BOTH };
    a.map(0, { ...page, iova: 0x1000 });
    expect(() => a.map(0, { ...page, iova: 0x1000 })).toThrow(RangeError);
    expect(() => a.map(0, { ...page, iova: 0 })).toThrow(/outside its range/);
    expect(() => a.map(0, { ...page, iova: 2 ** 32 })).toThrow(/outside its range/);
    expect(() => a.map(0, { ...page, iova: 0x1800 })).toThrow(RangeError);
    expect(() => a.map(2, { ...page, iova: 0x1000 })).toThrow(/address spaces/);
    expect(() => a.endBatch()).toThrow(/no batch/);
    expect(a.unmap(0, 0, 0x10000)).toBe(4096);
    expect(host.events).toEqual([]);
  });

  it('in a batch leave a running device what it has, to its end', async () => {
    const { a, left, right } = up();
    const stream = new Stream(left.guest, right.guest);
    a.beginBatch();
    a.unmap(0, 0, 2 ** 52);
    await eventually('300 frames through translations that are to go', () => {
      stream.step(300);
      return stream.received === 300;
    });
    a.map(0, { iova: 0, address: 0, size: left.guest.memory.size, permissions: BOTH });
    a.endBatch();
    await eventually('300 more', () => {
      stream.step(600);
      return stream.received === 600;
    });
    expect(left.events).toEqual([]);
  });

  it('that are missing are events with the address, and break only the ring that needed them', async () => {
    const { a, left, right } = up();
    left.guest.queueChain([{ address: 2 ** 41, length: 64 }]);
    left.guest.show();
    await eventually('the events', () => left.events.length >= 2);
    expect(left.events).toMatchObject([
      { kind: 'fault', addressSpace: 0, count: 1, faults: [{ address: 2 ** 41, length: 64, access: DMA_READ }] },
      { kind: 'broken', index: 1 },
    ]);
    expect(left.states()).toEqual(['running', 'broken']);
    // Set up anew it may be served again; the one that runs may not be touched.
    a.setVringSize(1, 64);
    expect(() => a.setVringSize(0, 64)).toThrow(/in use/);
    right.guest.send(frameOf(60, 1));
    left.guest.post();
    await eventually('the other direction', () => left.guest.receive().length === 1);
  });

  it('are taken away in time: after unmap nothing of the device is in that memory', async () => {
    const { b, left, right } = up();
    const stream = new Stream(left.guest, right.guest);
    await eventually('traffic', () => {
      stream.step(1e9);
      return stream.received > 200;
    });
    b.unmap(0, 0, 2 ** 52);
    const before = Uint8Array.from(right.guest.bytes);
    await eventually('the rings of B to break, or find nothing to do', () => {
      left.guest.show();
      return right.events.some((event) => event.kind === 'broken');
    });
    expect(Buffer.compare(before, right.guest.bytes)).toBe(0);
  });
});

describe('suspension', () => {
  it('stops where it is, holds what comes, and goes on without loss', async () => {
    const { a, b, left, right } = up();
    const [there, back] = [new Stream(left.guest, right.guest), new Stream(right.guest, left.guest)];
    for (let round = 1; round <= 6; round++) {
      await eventually('traffic', () => {
        there.step(1e9);
        back.step(1e9);
        return there.received > 200 * round;
      });
      const device = round % 2 === 0 ? a : b;
      device.suspend();
      eventuallyBlocking('it to be suspended', () => device.suspended);
      const positions = [0, 1].map((index) => device.vringPosition(index));
      // The other side goes on sending into the wall; nothing of the suspended one moves.
      for (let i = 0; i < 50; i++) (device === a ? back : there).step(1e9, 4);
      expect([0, 1].map((index) => device.vringPosition(index))).toEqual(positions);
      expect(positions.every(({ available, used }) => available === used)).toBe(true);
      device.resume();
      for (const ring of [0, 1]) device.vringDoorbell(ring).ring();
    }
    const [goal, backGoal] = [there.sent, back.sent];
    await eventually('the rest', () => {
      there.step(goal);
      back.step(backGoal);
      return there.received === goal && back.received === backGoal;
    });
    expect([...left.events, ...right.events]).toEqual([]);
  });
});

it('shows a configuration space with a generation, and says when it changed', () => {
  const mac = Uint8Array.of(0x52, 0x54, 0, 0, 0, 9);
  const { a } = nics({ mac, mtu: 9000 });
  const host = new Host(a, new TestGuest());
  expect([...a.readConfig(0, 14)]).toEqual([...mac, 1, 0, 1, 0, 0x28, 0x23, 0, 0]);
  const before = a.configGeneration;
  a.setLink(true);
  expect([a.configGeneration, host.events.length]).toEqual([before, 0]);
  a.setLink(false);
  expect(a.configGeneration).not.toBe(before);
  expect(a.readConfig(6, 2)[0]).toBe(0);
  expect(host.events).toEqual([{ kind: 'config' }]);
  // Only the address can be written, whatever else is in the same write.
  a.writeConfig(4, Uint8Array.of(1, 2, 3, 4, 5, 6));
  expect([...a.readConfig(0, 10)]).toEqual([...mac.subarray(0, 4), 1, 2, 0, 0, 1, 0]);
});

it('a driver may reset and start it as often as it likes: translations take no more of the process', async () => {
  const { a, b, resume } = nics();
  resume();
  const [left, right] = [new TestGuest({ name: 'a' }), new TestGuest({ name: 'b' })];
  const [backend, shadow] = [new VdpaBackend(a), new VdpaShadow(b)];
  const bound = new Set<GuestMemory>();
  for (const device of [a, b]) {
    const setOwner = device.setOwner.bind(device);
    device.setOwner = (owner, memory) => {
      bound.add(memory);
      setOwner(owner, memory);
    };
  }
  for (let i = 0; i < 30; i++) {
    left.attach(backend);
    right.attach(shadow);
    for (const guest of [left, right]) guest.stop();
    eventuallyBlocking('the rings to stop', () => [...left.states(), ...right.states()].every((state) => state === 'stopped'));
  }
  // One each, with its address spaces.
  expect(bound.size).toBe(2);
  left.attach(backend);
  right.attach(shadow);
  const stream = new Stream(left, right);
  await eventually('frames', () => {
    stream.step(100);
    return stream.received === 100;
  });
  shadow.close();
});

it('tells of what is behind a backend: a fault of its translations beside the broken ring', async () => {
  const { a, b, resume } = nics();
  const [left, right] = [new TestGuest({ name: 'a' }), new TestGuest({ name: 'b' })];
  const backend = new VdpaBackend(a);
  const events: unknown[] = [];
  backend.onDeviceEvent = (event) => events.push(event);
  left.attach(backend);
  right.attach(new VdpaBackend(b));
  resume();
  left.queueChain([{ address: 2 ** 41, length: 64 }]);
  left.show();
  await eventually('the event', () => left.events.length > 0);
  expect(left.events).toMatchObject([{ kind: 'broken', index: 1 }]);
  expect(events).toMatchObject([{ kind: 'fault', addressSpace: 0 }]);
});

it('follows the function in front of it: without bus mastering it touches no memory, and goes on afterwards', async () => {
  const { a, b, resume } = nics();
  const [left, right] = [new TestGuest({ name: 'a' }), new TestGuest({ name: 'b' })];
  left.attach(new VdpaBackend(a));
  right.attach(new VdpaBackend(b));
  resume();
  const stream = new Stream(left, right);
  await eventually('traffic', () => {
    stream.step(300);
    return stream.received === 300;
  });
  left.dma.busMaster = false;
  const before = Uint8Array.from(left.bytes);
  for (let i = 0; i < 8; i++) left.queue(frameOf(60, 300 + i));
  left.show();
  const queued = Uint8Array.from(left.bytes);
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(Buffer.compare(queued, left.bytes)).toBe(0);
  expect(Buffer.compare(before, queued)).not.toBe(0);
  expect(a.busMaster).toBe(false);
  left.dma.busMaster = true;
  left.kick(1);
  await eventually('the frames', () => right.receive().length > 0);
  expect([...left.events, ...right.events]).toEqual([]);
});
