// Shadow virtqueues as a guest and a migration see them: what the device wrote is known to the page, whatever the device; a driver that breaks a rule breaks its own ring and nothing else.

import { afterEach, describe, expect, it } from 'vitest';
import type { VdpaNetOptions } from '#backends/vdpa-net';
import { VhostPool } from '#backends/vhost-pool';
import { WallClock } from '#core/clock';
import { DMA_READ, DMA_WRITE } from '#core/dma-space';
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED } from '#virtio/features';
import { VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_NOTF_COAL } from '#virtio/net-features';
import { eventually, eventuallyBlocking } from './eventually.ts';
import { frameOf, type GuestOptions, HEADER, listen, sequenceOf, TestGuest } from './guest.ts';
import { Stream } from './stream.ts';
import { type Nic, type Nics, nicsOn } from './vdpa-nics.ts';

const endings: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});

function nics(options: VdpaNetOptions = {}): Nics {
  const pool = new VhostPool();
  endings.push(() => pool.close());
  return nicsOn(pool.worker(), endings, options);
}

interface Pair extends Nics {
  readonly left: TestGuest;
  readonly right: TestGuest;
}

/** Two guests over their NICs. Nothing moves before `resume`. */
function pair(ways: readonly ['direct' | 'shadow', 'direct' | 'shadow'], guest: GuestOptions = {}, options: VdpaNetOptions = {}): Pair {
  const { a, b, resume } = nics(options);
  const [left, right] = [new TestGuest({ ...guest, name: 'a' }), new TestGuest({ ...guest, name: 'b' })];
  left.attach(a[ways[0]]);
  right.attach(b[ways[1]]);
  return { a, b, resume, left, right };
}

/** The same with frames under way. */
async function busyPair(): Promise<Pair & { readonly stream: Stream }> {
  const made = pair(['direct', 'direct']);
  made.resume();
  const stream = new Stream(made.left, made.right);
  await eventually('traffic', () => {
    stream.step(1e9);
    return stream.received > 100;
  });
  return { ...made, stream };
}

const PAGE = 4096;

function changedPages(before: Uint8Array, after: Uint8Array): number[] {
  const pages: number[] = [];
  for (let page = 0; page < after.length; page += PAGE)
    if (Buffer.compare(before.subarray(page, page + PAGE), after.subarray(page, page + PAGE)) !== 0) pages.push(page);
  return pages;
}

function stop(...guests: TestGuest[]): void {
  for (const guest of guests) guest.stop();
  eventuallyBlocking('all rings to stop', () => guests.every((guest) => guest.states().every((state) => state === 'stopped')));
}

/** Posted buffers hold what no frame does, so that every write changes something. */
function stain(guest: TestGuest): void {
  guest.bytes.fill(0xc3, 0x10000 + 0x20000, 0x10000 + 0x20000 + guest.size * 2048);
}

describe.each([
  ['split', []],
  ['split, event index, merged', [VIRTIO_F_EVENT_IDX, VIRTIO_NET_F_MRG_RXBUF]],
  ['split, in order', [VIRTIO_F_IN_ORDER]],
  ['packed', [VIRTIO_F_RING_PACKED]],
  ['packed, event index, merged', [VIRTIO_F_RING_PACKED, VIRTIO_F_EVENT_IDX, VIRTIO_NET_F_MRG_RXBUF]],
] as [string, number[]][])('dirty pages, %s', (_name, features) => {
  it.each([
    ['logged by the device', 'direct', true],
    ['found by shadow virtqueues over a device that logs nothing', 'shadow', false],
  ] as const)('%s are those that changed', async (_what, mode, dirtyTracking) => {
    const { a, b, resume } = nics({ dirtyTracking });
    const merged = features.includes(VIRTIO_NET_F_MRG_RXBUF);
    const [left, right] = [new TestGuest({ name: 'a', features }), new TestGuest({ name: 'b', features, size: 256, bufferSize: merged ? 1000 : 2048 })];
    left.attach(a[mode]);
    right.attach(b[mode]);
    stain(right);
    right.post(64);
    for (let i = 0; i < 5; i++) right.queue(frameOf(200 + i, i));
    left.post();
    for (let i = 0; i < 20; i++) left.queue(frameOf(i % 2 === 0 ? 100 : 1400, i));
    left.show();
    right.show();
    right.memory.dirty.start();
    // From here on the driver stands still.
    const before = Uint8Array.from(right.bytes);
    resume();
    const received = (nic: Nic): number => nic.device.port.counters.snapshot().receiveFrames;
    await eventually('frames both ways', () => received(a) === 5 && received(b) === 20);
    stop(right);
    const after = Uint8Array.from(right.bytes);
    const changed = changedPages(before, after);
    const dirty = right.memory.dirty.take();
    expect(changed.length).toBeGreaterThan(10);
    expect(changed.filter((page) => !dirty.includes(page))).toEqual([]);
    // Rings may be written with what was there. No more than that is marked in vain, and no buffer the device did not fill.
    const vain = dirty.filter((page) => !changed.includes(page));
    expect(vain.length).toBeLessThanOrEqual(6);
    expect(dirty.length).toBeLessThan(40);
    right.memory.dirty.stop();
  });
});

it('every page it can write counts as written over a device that logs nothing, until shadow virtqueues are in between', async () => {
  const { b, right, stream } = await busyPair();
  const all = Array.from({ length: right.memory.size / PAGE }, (_, i) => i * PAGE);
  right.memory.dirty.start();
  expect(right.memory.dirty.take()).toEqual(all);
  stop(right);
  const positions = right.positions();
  // What it wrote since: once more, when the device leaves this backend; then nothing that was not written.
  right.attach(b.shadow, positions);
  expect(right.memory.dirty.take()).toEqual(all);
  const goal = stream.received + 4;
  await eventually('a few frames', () => {
    stream.step(stream.sent);
    stream.take();
    return stream.received >= Math.min(goal, stream.sent);
  });
  const some = right.memory.dirty.take();
  expect(some.length).toBeLessThan(all.length / 2);
});

it('what a device that logs nothing wrote through a mapping that its guest has taken away since counts as well', async () => {
  const { a, b, resume } = nics();
  const [left, right] = [new TestGuest({ name: 'a' }), new TestGuest({ name: 'b' })];
  const { size } = right.memory;
  const BOTH = DMA_READ | DMA_WRITE;
  right.dma.translate([{ iova: 0, address: 0, size, permissions: BOTH }]);
  left.attach(a.direct);
  right.attach(b.direct);
  right.post(4);
  right.show();
  left.queue(frameOf(200, 1));
  left.show();
  const { dirty } = right.memory;
  dirty.start();
  resume();
  await eventually('a frame', () => b.device.port.counters.snapshot().receiveFrames === 1);
  // Its buffer, the driver's last slot, is unmapped, as drivers do with what has come in; the rings stay.
  const buffer = 0x10000 + 0x20000 + (right.size - 2) * 2048;
  right.dma.translate([
    { iova: 0, address: 0, size: buffer, permissions: BOTH },
    { iova: buffer + PAGE, address: buffer + PAGE, size: size - buffer - PAGE, permissions: BOTH },
  ]);
  expect(right.bytes.subarray(buffer, buffer + PAGE).some((byte) => byte !== 0)).toBe(true);
  expect(dirty.take()).toContain(buffer);
  expect(dirty.take()).not.toContain(buffer);
  stop(right);
  dirty.stop();
});

it.each(['stopped', 'handed over to a vhost worker'] as const)('pages that a device which logs nothing wrote come to an end when it is %s', async (way) => {
  const { right } = await busyPair();
  const { dirty } = right.memory;
  const all = right.memory.size / PAGE;
  dirty.start();
  expect([dirty.take().length, dirty.take().length]).toEqual([all, all]);
  stop(right);
  if (way !== 'stopped') {
    const pool = new VhostPool();
    endings.push(() => pool.close());
    right.attach(pool.worker().segment().port('b'), right.positions());
  }
  // Once more, as it may have written since.
  expect([dirty.take().length, dirty.take().length]).toEqual([all, 0]);
  dirty.stop();
});

it.each([
  ['split', []],
  ['packed', [VIRTIO_F_RING_PACKED]],
  ['packed, in order', [VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER]],
] as [string, number[]][])("a device with shorter rings than the guest's serves it through shadow virtqueues, not directly: %s", async (_name, features) => {
  const { a, b, resume } = nics({ maxVringSize: 8 });
  const [left, right] = [new TestGuest({ name: 'a', features }), new TestGuest({ name: 'b', features })];
  left.attach(a.direct);
  expect(left.states()).toEqual(['broken', 'broken']);
  expect(left.events).toMatchObject([
    { kind: 'broken', index: 0 },
    { kind: 'broken', index: 1 },
  ]);
  left.events.length = 0;
  left.attach(a.shadow);
  right.attach(b.shadow);
  resume();
  const [there, back] = [new Stream(left, right), new Stream(right, left)];
  await eventually('frames both ways', () => {
    there.step(600, 40);
    back.step(600, 40);
    return there.received === 600 && back.received === 600 && there.completed === 600;
  });
  // Both move on with their rings full and the device's in use.
  stop(left, right);
  const positions = [left.positions(), right.positions()];
  left.attach(a.shadow, positions[0]);
  right.attach(b.shadow, positions[1]);
  await eventually('more of them', () => {
    there.step(1200, 40);
    back.step(1200, 40);
    return there.received === 1200 && back.received === 1200;
  });
  expect([...left.events, ...right.events]).toEqual([]);
});

describe('a memory that moves while the device works', () => {
  it.each([
    ['logged by the device', 'direct', true],
    ['found by shadow virtqueues', 'shadow', false],
  ] as const)('is complete at the destination when the last pages have been copied: %s', async (_what, mode, dirtyTracking) => {
    const { b, left, right, resume } = pair([mode, mode], { size: 256 }, { dirtyTracking });
    stain(right);
    // All buffers posted beforehand: from here on only the device writes there.
    right.post();
    right.memory.dirty.start();
    resume();
    const destination = Uint8Array.from(right.bytes);
    const copied = (pages: number[]): void => {
      for (const page of pages) destination.set(right.bytes.subarray(page, page + PAGE), page);
    };
    let sent = 0;
    for (let round = 0; round < 8; round++) {
      for (let i = 0; i < 25; i++) left.queue(frameOf(300 + 11 * i, sent++));
      left.show();
      const goal = sent - 10;
      await eventually('most of the round', () => {
        left.reap();
        return b.device.port.counters.snapshot().receiveFrames >= goal;
      });
      copied(right.memory.dirty.take());
    }
    await eventually('the rest', () => b.device.port.counters.snapshot().receiveFrames === sent);
    stop(right);
    copied(right.memory.dirty.take());
    expect(Buffer.compare(destination, right.bytes)).toBe(0);
    // And it was the device's writing that mattered.
    expect(right.receive().length).toBe(sent);
  });
});

describe.each([
  ['split', []],
  ['packed', [VIRTIO_F_RING_PACKED]],
] as [string, number[]][])('a driver over shadow virtqueues, %s', (name, features) => {
  const INDIRECT = [...features, VIRTIO_F_INDIRECT_DESC];

  async function served(extra = features): Promise<Pair> {
    const made = pair(['shadow', 'shadow'], { features: extra });
    made.resume();
    await eventually('the device to serve', () => [made.a, made.b].every(({ device }) => [0, 1].every((i) => device.vringState(i) === 'running')));
    return made;
  }

  it.each([
    ['a buffer where no memory is', (guest: TestGuest) => guest.queueChain([{ address: 2 ** 41, length: 64 }])],
    [
      'a readable buffer behind a writable one',
      (guest: TestGuest) =>
        guest.queueChain([
          { address: 0, length: 64, write: true },
          { address: 0, length: 64 },
        ]),
    ],
    ['a buffer over the end of memory', (guest: TestGuest) => guest.queueChain([{ address: guest.memory.size - 10, length: 64 }])],
  ])('that makes available %s breaks that ring alone, and the device never sees it', async (_what, spoil) => {
    const { left, right, a } = await served();
    spoil(left);
    left.show();
    await eventually('the event', () => left.events.length > 0);
    expect(left.events).toMatchObject([{ kind: 'broken', index: 1 }]);
    expect(left.states()).toEqual(['running', 'broken']);
    expect(a.device.vringState(1)).toBe('stopped');
    left.post();
    right.send(frameOf(60, 3));
    await eventually('the other direction', () => left.receive().length === 1);
  });

  it('may use up its descriptors in long chains and in indirect tables; empty buffers are none', async () => {
    const { left, right } = await served(INDIRECT);
    right.post();
    const frame = frameOf(1000, 5);
    const at = 0x8000;
    left.bytes.fill(0, at, at + HEADER);
    left.bytes.set(frame, at + HEADER);
    const pieces = Array.from({ length: 40 }, (_, i) => ({ address: at + HEADER + 25 * i, length: 25 }));
    left.queueChain([{ address: at, length: HEADER }, ...pieces, { address: at, length: 0 }]);
    left.show();
    const got: Uint8Array[] = [];
    await eventually('the frame', () => {
      got.push(...right.receive().map((r) => r.frame));
      return got.length === 1;
    });
    expect(Buffer.compare(got[0] as Uint8Array, frame)).toBe(0);
    expect(left.events).toEqual([]);
  });

  it("may make its ring up at random: rings break or not, the device's never by a fault, and nothing hangs", async () => {
    let seed = 12345;
    const random = (n: number): number => {
      seed = (seed * 1103515245 + 12345) & 0x7fffffff;
      return seed % n;
    };
    for (let round = 0; round < 5; round++) {
      const { left, a } = await served();
      const faults: unknown[] = [];
      a.shadow.onDeviceEvent = (event) => faults.push(event);
      const { descriptorArea, driverArea } = left.setups[1] as { descriptorArea: number; driverArea: number };
      for (let i = 0; i < 64 * 16; i++) left.bytes[descriptorArea + i] = random(4) === 0 ? random(256) : random(3);
      if (name === 'split') {
        for (let i = 4; i < 4 + 128; i += 2) left.bytes[driverArea + i] = random(80);
        left.bytes[driverArea + 2] = random(64);
      }
      left.kick(1);
      await new Promise((resolve) => setTimeout(resolve, 5));
      left.stop();
      eventuallyBlocking('the rings to be done with', () => left.states().every((state) => state === 'stopped' || state === 'broken'));
      expect(faults).toEqual([]);
    }
  });

  it('behind an IOMMU is followed page by page; what was unmapped the device cannot reach when unmap returns', async () => {
    const { a, b, resume } = nics();
    const [left, right] = [new TestGuest({ name: 'a', features }), new TestGuest({ name: 'b', features })];
    const pages = (guest: TestGuest): { iova: number; address: number; size: number; permissions: number }[] =>
      Array.from({ length: guest.memory.size / PAGE }, (_, i) => ({ iova: i * PAGE, address: i * PAGE, size: PAGE, permissions: DMA_READ | DMA_WRITE }));
    right.dma.translate(pages(right));
    left.attach(a.shadow);
    right.attach(b.shadow);
    resume();
    const [there, back] = [new Stream(left, right), new Stream(right, left)];
    await eventually('traffic', () => {
      there.step(300);
      back.step(300);
      return there.received === 300 && back.received === 300;
    });
    // Its receive buffers go, under load.
    left.queue(frameOf(100, 300));
    const first = 0x10000 + 0x20000;
    right.dma.translate(pages(right).filter(({ iova }) => iova < first || iova >= first + 64 * 2048));
    const before = Uint8Array.from(right.bytes.subarray(first, first + 64 * 2048));
    left.show();
    await eventually('the ring to break', () => right.events.some((event) => event.kind === 'broken' && event.index === 0));
    expect(Buffer.compare(before, right.bytes.subarray(first, first + 64 * 2048))).toBe(0);
    expect(right.states()[1]).toBe('running');
  });
});

describe.each([
  ['split', []],
  ['split, event index', [VIRTIO_F_EVENT_IDX]],
  ['packed', [VIRTIO_F_RING_PACKED]],
  ['packed, event index', [VIRTIO_F_RING_PACKED, VIRTIO_F_EVENT_IDX]],
] as [string, number[]][])('interrupts through shadow virtqueues, %s', (_name, features) => {
  const interrupts = (guest: TestGuest): number => guest.calls[0]?.counts.signals ?? -1;

  it('are put off as the driver asked, and what came in is there meanwhile', async () => {
    const { b, left, right, resume } = pair(['shadow', 'shadow'], { features: [...features, VIRTIO_NET_F_NOTF_COAL] });
    resume();
    right.post();
    // Longer than the test may take.
    right.dma.betweenTurns(() => right.policy.update((p) => p.setCoalescing(0, 15, 0xffffffff)));
    b.shadow.policyChanged();
    for (let i = 0; i < 14; i++) left.send(frameOf(64, i));
    await eventually('14 frames', () => b.device.port.counters.snapshot().receiveFrames === 14);
    // A driver that looks by itself sees them at once; it is not told.
    let received = 0;
    await eventually("14 frames in the guest's ring", () => {
      received += right.receive().length;
      return received === 14;
    });
    expect(interrupts(right)).toBe(0);
    left.send(frameOf(64, 14));
    await eventually('an interrupt for 15', () => interrupts(right) === 1);
    expect(received + right.receive().length).toBe(15);
    // No more than its ring holds are waited for, however long the shadow's is; and a time that is over is enough.
    right.post();
    right.dma.betweenTurns(() => right.policy.update((p) => p.setCoalescing(0, 1000, 0xffffffff)));
    b.shadow.policyChanged();
    listen(right, 0);
    const before = interrupts(right);
    for (let i = 0; i < 64; i++) await eventually('room to send', () => left.reap() >= 0 && left.send(frameOf(64, 20 + i)));
    await eventually('an interrupt for a whole ring', () => interrupts(right) > before);
    right.receive();
    right.post();
    right.dma.betweenTurns(() => right.policy.update((p) => p.setCoalescing(0, 1000, 2000)));
    b.shadow.policyChanged();
    listen(right, 0);
    const then = interrupts(right);
    await eventually('room to send', () => left.reap() >= 0 && left.send(frameOf(64, 99)));
    await eventually('an interrupt by time', () => interrupts(right) > then);
  });
});

it('a packet merged over several buffers counts as one where interrupts are put off by packets', async () => {
  const { b, left, right, resume } = pair(['shadow', 'shadow'], { bufferSize: 128, features: [VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_NOTF_COAL] });
  resume();
  right.post();
  right.dma.betweenTurns(() => right.policy.update((p) => p.setCoalescing(0, 4, 0xffffffff)));
  b.shadow.policyChanged();
  const got: number[] = [];
  const send = async (count: number): Promise<void> => {
    for (let i = 0; i < count; i++) left.send(frameOf(300, i));
    const all = got.length + count;
    await eventually(`${all} frames`, () => {
      got.push(...right.receive().map(({ buffers }) => buffers));
      return got.length === all;
    });
  };
  await send(3);
  expect(got).toEqual([3, 3, 3]);
  expect(right.calls[0]?.counts.signals).toBe(0);
  await send(1);
  await eventually('the interrupt', () => right.calls[0]?.counts.signals === 1);
});

it.each(['split', 'packed'])('a ring that stops without bus mastering stands where the card stands: what was sent is not sent again, %s', async (format) => {
  const { b, left, right, resume } = pair(['direct', 'shadow'], { features: format === 'packed' ? [VIRTIO_F_RING_PACKED] : [] });
  resume();
  left.post();
  await eventually('the rings to run', () => [...left.states(), ...right.states()].every((state) => state === 'running'));
  for (let i = 0; i < 8; i++) right.queue(frameOf(60, i));
  right.show();
  // On this thread now, so that its event loop does not look again: the card has sent them, and the shadow does not know.
  b.shadow.kick(1);
  const got: number[] = [];
  const look = (): boolean => {
    got.push(...left.receive().map(({ frame }) => sequenceOf(frame)));
    return got.length >= 8;
  };
  eventuallyBlocking('the frames', look);
  right.dma.busMaster = false;
  right.stop();
  eventuallyBlocking('the rings to stop', () => right.states().every((state) => state === 'stopped'));
  right.dma.busMaster = true;
  const positions = right.positions();
  right.attach(b.direct, positions);
  right.kick(1);
  right.queue(frameOf(60, 8));
  right.show();
  right.kick(1);
  await eventually('the one that came later', () => look() && got.includes(8));
  expect(got).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
  expect([...left.events, ...right.events]).toEqual([]);
});

it('the timer of interrupts that are put off is armed once for a deadline, however often the ring is looked at', async () => {
  const { a, b, resume } = nics();
  const clock = new WallClock();
  const timer = clock.timer.bind(clock);
  const armed: number[] = [];
  clock.timer = (expire) => {
    const inner = timer(expire);
    return {
      arm: (deadline) => {
        armed.push(deadline);
        inner.arm(deadline);
      },
      cancel: () => inner.cancel(),
      get deadline() {
        return inner.deadline;
      },
    };
  };
  const [left, right] = [new TestGuest({ name: 'a' }), new TestGuest({ name: 'b', clock, features: [VIRTIO_NET_F_NOTF_COAL] })];
  left.attach(a.direct);
  right.attach(b.shadow);
  resume();
  right.post();
  right.dma.betweenTurns(() => right.policy.update((p) => p.setCoalescing(0, 60, 10_000_000)));
  b.shadow.policyChanged();
  let received = 0;
  for (let i = 0; i < 10; i++) {
    left.send(frameOf(64, i));
    await eventually(`frame ${i}`, () => {
      received += right.receive().length;
      return received === i + 1;
    });
  }
  expect(armed.length).toBe(1);
});
