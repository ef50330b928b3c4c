// Notifications both ways: what publish answers against a second reading of the rules entry by entry, what the driver finds in the suppression words, and that
// no kick is missed between the last look at the ring and going to sleep.

import { describe, expect, test } from 'vitest';
import { QUEUE_EMPTY } from '#virtio/virtqueue';
import { DATA, DEVICE, DRIVER, World, type WorldOptions } from './ring-world.ts';

const BUFFER = [{ address: DATA, length: 16 }];

/** Puts `count` chains through the ring and returns what publish said. */
function batch(world: World, count: number): boolean {
  for (let i = 0; i < count; i++) if (!world.driver.add(i, BUFFER)) throw new Error('the driver has no room');
  world.driver.expose();
  for (let i = 0; i < count; i++) world.queue.push(world.pop(), 0);
  const notify = world.queue.publish();
  world.driver.reap();
  return notify;
}

describe('split: used buffer notifications', () => {
  test('without EVENT_IDX avail.flags decides and used_event means nothing (virtio 1.4 2.7.7.2)', () => {
    const world = new World();
    world.split.setUsedEvent(5);
    expect(batch(world, 2)).toBe(true);
    world.split.setInterruptFlag(true);
    expect(batch(world, 5)).toBe(false);
    world.split.setInterruptFlag(false);
    expect(batch(world, 1)).toBe(true);
  });

  test('with EVENT_IDX a batch notifies exactly when it wrote the entry numbered used_event; avail.flags means nothing', () => {
    const world = new World({ eventIdx: true, start: 65530 });
    world.split.setInterruptFlag(true);
    let used = 65530;
    for (let step = 0; step < 600; step++) {
      const count = 1 + (step % 8);
      const event = (used + (step % 13) - 3) & 0xffff;
      world.split.setUsedEvent(event);
      let crossed = false;
      for (let i = 0; i < count; i++) crossed ||= ((used + i) & 0xffff) === event;
      expect(batch(world, count), `used ${used} count ${count} event ${event}`).toBe(crossed);
      used = (used + count) & 0xffff;
    }
  });

  test('publishing nothing notifies nobody', () => {
    const world = new World();
    expect(world.queue.publish()).toBe(false);
  });
});

describe('packed: used buffer notifications', () => {
  test('ENABLE and DISABLE; DESC and the reserved value without EVENT_IDX count as ENABLE', () => {
    const world = new World({ packed: true });
    for (const [mode, notify] of [
      [0, true],
      [1, false],
      [2, true],
      [3, true],
    ] as const) {
      world.packed.setEvent(mode, 7, 0);
      expect(batch(world, 3)).toBe(notify);
    }
  });

  test.each([1, 2, 5, 8])('DESC compares offset and wrap counter: exactly when the batch passed that slot on that lap (size %i)', (size) => {
    const world = new World({ packed: true, eventIdx: true, size });
    let slot = 0;
    let wrap = 1;
    for (let step = 0; step < 1500; step++) {
      const count = 1 + (step % size);
      const offset = (step * 7) % size;
      const eventWrap = (step >> 2) & 1;
      world.packed.setEvent(2, offset, eventWrap);
      let crossed = false;
      for (let i = 0; i < count; i++) {
        crossed ||= slot === offset && wrap === eventWrap;
        slot++;
        if (slot === size) {
          slot = 0;
          wrap ^= 1;
        }
      }
      expect(batch(world, count), `step ${step}`).toBe(crossed);
    }
  });

  test('an offset past the ring notifies nobody and breaks nothing', () => {
    const world = new World({ packed: true, eventIdx: true });
    world.packed.setEvent(2, 0x7fff, 1);
    expect(batch(world, 3)).toBe(false);
    expect(world.queue.broken).toBeUndefined();
  });
});

const KINDS: readonly WorldOptions[] = [{ packed: false }, { packed: false, eventIdx: true }, { packed: true }, { packed: true, eventIdx: true }];

describe.each(KINDS)('available buffer notifications %o', (options) => {
  test('a driver that heeds suppression kicks once per sleep and never too seldom', () => {
    const world = new World({ ...options, size: 16 });
    for (let step = 0; step < 500; step++) {
      world.queue.suppressKicks();
      for (let i = 0; i < step % 4; i++) world.driver.add(i, BUFFER);
      const kickedAwake = world.driver.expose();
      // Without EVENT_IDX suppression is a flag; with it, in a split ring, an avail_event left behind, which nothing crosses.
      expect(kickedAwake).toBe(false);
      for (let token = world.pop(); token !== QUEUE_EMPTY; token = world.pop()) world.queue.push(token, 0);
      world.queue.publish();
      world.driver.reap();
      expect(world.queue.awaitKick()).toBe(false);
      world.driver.add(0, BUFFER);
      expect(world.driver.expose()).toBe(true);
      expect(world.queue.ready).toBe(true);
      world.queue.push(world.pop(), 0);
      world.queue.publish();
      world.driver.reap();
    }
  });

  test('what slips in between the last pop and awaitKick is reported by it (d682e526d7)', () => {
    const world = new World(options);
    // Past entry 0, which a fresh avail_event asks a kick for.
    batch(world, 1);
    world.queue.suppressKicks();
    expect(world.pop()).toBe(QUEUE_EMPTY);
    world.driver.add(1, BUFFER);
    expect(world.driver.expose()).toBe(false);
    expect(world.queue.awaitKick()).toBe(true);
    expect(world.pop()).toBeGreaterThanOrEqual(0);
  });
});

describe('the suppression words', () => {
  test('split without EVENT_IDX: used.flags is 1 or 0 and avail_event does not exist', () => {
    const world = new World();
    const beyond = DEVICE + 4 + 8 * 8;
    world.view.setUint16(beyond, 0xabcd, true);
    world.queue.suppressKicks();
    expect(world.split.usedFlags).toBe(1);
    world.queue.awaitKick();
    expect(world.split.usedFlags).toBe(0);
    expect(world.view.getUint16(beyond, true)).toBe(0xabcd);
  });

  test('split with EVENT_IDX: used.flags stays 0 (virtio 1.4 2.7.10)', () => {
    const world = new World({ eventIdx: true });
    world.queue.suppressKicks();
    expect(world.split.usedFlags).toBe(0);
    batch(world, 3);
    world.queue.awaitKick();
    expect(world.split.usedFlags).toBe(0);
    expect(world.view.getUint16(DEVICE + 4 + 8 * 8, true)).toBe(3);
  });

  test('packed: never the reserved value, and DESC only with EVENT_IDX', () => {
    const plain = new World({ packed: true });
    plain.queue.suppressKicks();
    expect(plain.packed.deviceEvent).toBe(1 << 16);
    plain.queue.awaitKick();
    expect(plain.packed.deviceEvent).toBe(0);
    const events = new World({ packed: true, eventIdx: true });
    batch(events, 5);
    events.queue.awaitKick();
    expect(events.packed.deviceEvent).toBe((2 << 16) | 0x8000 | 5);
    batch(events, 5);
    events.queue.awaitKick();
    expect(events.packed.deviceEvent).toBe((2 << 16) | 2);
  });

  test('the driver’s words are never written', () => {
    for (const options of KINDS) {
      const world = new World(options);
      const before = world.view.getUint32(DRIVER, true);
      world.queue.suppressKicks();
      world.queue.awaitKick();
      expect(world.view.getUint32(DRIVER, true)).toBe(before);
    }
  });
});
