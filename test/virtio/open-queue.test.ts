// What openQueue takes and refuses: the setup is whatever a driver wrote.

import { describe, expect, test } from 'vitest';
import { DmaSpace } from '#core/dma-space';
import { ADDRESS_LIMIT, GuestMemory } from '#core/guest-memory';
import { initialPosition, openQueue } from '#virtio/open-queue';
import type { QueueSetup } from '#virtio/virtqueue';
import { featuresOf, RAM_BYTES, setupOf, type WorldOptions } from './ring-world.ts';

function open(options: WorldOptions, position = initialPosition(featuresOf(options))): string | undefined {
  const dma = DmaSpace.create(new GuestMemory([{ base: 0, size: RAM_BYTES }]));
  const queue = openQueue(setupOf(options), position, featuresOf(options), dma);
  return typeof queue === 'string' ? queue : undefined;
}

describe('sizes', () => {
  test.each([1, 2, 256, 32768])('a split ring of %i is served', (size) => {
    expect(open({ size, setup: { driverArea: 0x120000, deviceArea: 0x180000 } })).toBeUndefined();
  });

  test.each([1, 3, 7, 255, 32767, 32768])('a packed ring of %i is served: no power of two is asked for (virtio 1.4 2.8.10)', (size) => {
    expect(open({ packed: true, size, setup: { driverArea: 0x120000, deviceArea: 0x180000 } })).toBeUndefined();
  });

  test.each([0, 3, 12, 32769, 65536, -8, 1.5, Number.NaN, Number.POSITIVE_INFINITY])('a split ring of %d is refused', (size) => {
    expect(open({ size })).toMatch(/queue size/);
  });

  test.each([0, 32769, 65536, -1, 2.5, Number.NaN])('a packed ring of %d is refused', (size) => {
    expect(open({ packed: true, size })).toMatch(/queue size/);
  });
});

describe('areas', () => {
  const wrong: readonly (readonly [string, boolean, Partial<QueueSetup>, RegExp])[] = [
    ['split descriptors not on 16', false, { descriptorArea: 0x10008 }, /descriptor area .*aligned to 16/],
    ['split available ring not on 2', false, { driverArea: 0x20001 }, /driver area .*aligned to 2/],
    ['split used ring not on 4', false, { deviceArea: 0x30002 }, /device area .*aligned to 4/],
    ['packed ring not on 16', true, { descriptorArea: 0x10004 }, /descriptor area .*aligned to 16/],
    ['packed driver area not on 4', true, { driverArea: 0x20002 }, /driver area .*aligned to 4/],
    ['packed device area not on 4', true, { deviceArea: 0x30001 }, /device area .*aligned to 4/],
    ['outside RAM', false, { descriptorArea: RAM_BYTES }, /descriptor table .*not memory/],
    ['ending past RAM', false, { deviceArea: RAM_BYTES - 64 }, /used ring .*not memory/],
    ['packed ring ending past RAM', true, { descriptorArea: RAM_BYTES - 16 }, /descriptor ring .*not memory/],
    ['packed driver area outside', true, { driverArea: 2 ** 40 }, /driver event area .*not memory/],
    ['packed device area outside', true, { deviceArea: 2 ** 40 }, /device event area .*not memory/],
    ['above 2^52', false, { descriptorArea: ADDRESS_LIMIT }, /outside memory/],
    ['near 2^64', false, { driverArea: 2 ** 64 - 4096 }, /outside memory/],
    ['negative', false, { deviceArea: -4096 }, /outside memory/],
    ['not a number', true, { deviceArea: Number.NaN }, /outside memory/],
  ];
  test.each(wrong)('%s', (_, packed, setup, reason) => {
    expect(open({ packed, setup })).toMatch(reason);
  });

  test('a ring may end with the last byte of RAM; the event words exist only with EVENT_IDX', () => {
    const deviceArea = RAM_BYTES - (4 + 8 * 8);
    expect(open({ setup: { deviceArea } })).toBeUndefined();
    expect(open({ setup: { deviceArea }, eventIdx: true })).toMatch(/used ring/);
  });
});

describe('positions', () => {
  test.each([
    [{ available: 65535, used: 65530 }, false, true],
    [{ available: 3, used: 65531 }, false, true],
    [{ available: 9, used: 0 }, false, false],
    [{ available: 0, used: 1 }, false, false],
    [{ available: 65536, used: 65536 }, false, false],
    [{ available: -1, used: 0 }, false, false],
    [{ available: 0x8003, used: 0x8001 }, true, true],
    [{ available: 0x0001, used: 0x8006 }, true, true],
    [{ available: 0x8001, used: 0x8003 }, true, false],
    [{ available: 0x0006, used: 0x8001 }, true, false],
    [{ available: 0x8008, used: 0x8008 }, true, false],
  ] as const)('%o of a ring of 8 (packed %s) is sound: %s', (position, packed, sound) => {
    expect(open({ packed }, position) === undefined).toBe(sound);
  });
});
