// Receive descriptors as a driver sees them that looks while the device works: Linux's igb takes a descriptor for complete when its length is not 0, others when DD is set.
import { expect, it } from 'vitest';
import { DmaSpace } from '#core/dma-space';
import { GuestMemory } from '#core/guest-memory';
import { ReceiveQueue } from '#devices/igb/receive-queue';
import { AT } from '#devices/igb/registers';

const RING = 0x1000;
const BUFFERS = 0x4000;
const ENTRIES = 8;
const ONE_BUFFER = 1 << 25;

it('no word of a descriptor that a driver polls shows before the others', () => {
  const dma = DmaSpace.create(GuestMemory.pc(0x10_0000));
  const words = new Uint32Array(Math.max(...Object.values(AT)) + 64);
  words[AT.RDBAL] = RING;
  words[AT.RDLEN] = ENTRIES * 16;
  words[AT.RDT] = ENTRIES - 1;
  words[AT.RXDCTL] = ONE_BUFFER;
  words[AT.SRRCTL] = ONE_BUFFER | 2;
  for (let i = 0; i < ENTRIES; i++) dma.store32(RING + i * 16, BUFFERS + i * 2048);
  const queue = new ReceiveQueue(0, words, dma);
  queue.look(1);
  const polled = (i: number): number[] => [dma.load32(RING + i * 16 + 8), dma.load32(RING + i * 16 + 12)];
  for (let i = 0; i < 3; i++) {
    expect(queue.hasBuffer(100 + i)).toBe(true);
    queue.put(0x31, 0x1234, 3 + 16 * i, 100 + i);
  }
  expect([0, 1, 2].map(polled)).toEqual([
    [0, 0],
    [0, 0],
    [0, 0],
  ]);
  queue.publish();
  expect([0, 1, 2, 3].map(polled)).toEqual([
    [3, 100],
    [19, 101],
    [35, 102],
    [0, 0],
  ]);
  expect([dma.load32(RING), dma.load32(RING + 4)]).toEqual([0x31, 0x1234]);
});
