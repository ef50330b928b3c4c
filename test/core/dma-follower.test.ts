// What else goes by a device's DMA space and its memory's dirty log: followers of its translations, and logs of a device's own.

import { describe, expect, it } from 'vitest';
import { DMA_READ, DMA_WRITE, type DmaFollower, DmaSpace } from '#core/dma-space';
import { GuestMemory } from '#core/guest-memory';

const PAGE = 4096;

describe('a follower', () => {
  it('hears of every change of mappings and of bus mastering after it is in force, and is between turns when the space is', () => {
    const space = DmaSpace.create(new GuestMemory([{ base: 0, size: 16 * PAGE }]));
    const heard: unknown[] = [];
    const follower: DmaFollower = {
      leaving: () => heard.push(['leaving', space.busMaster]),
      moved: () => heard.push([space.mappings?.length, space.busMaster]),
      betweenTurns: (write) => {
        heard.push('in');
        write();
        heard.push('out');
      },
    };
    space.followers.add(follower);
    const mapping = { iova: 4 * PAGE, size: PAGE, address: 0, permissions: DMA_READ | DMA_WRITE };
    space.translate([{ ...mapping, iova: 8 * PAGE, address: PAGE }, mapping]);
    space.busMaster = false;
    space.betweenTurns(() => heard.push('write'));
    expect(heard).toEqual([[2, true], ['leaving', true], [2, false], 'in', 'write', 'out']);
    expect(space.mappings).toEqual([mapping, { ...mapping, iova: 8 * PAGE, address: PAGE }]);
    space.followers.delete(follower);
    space.translate(undefined);
    expect([space.mappings, heard.length]).toEqual([undefined, 6]);
  });
});

describe('a dirty log', () => {
  it('asks logs of devices before it is taken, while it is on', () => {
    const memory = new GuestMemory([
      { base: 0, size: 2 * PAGE },
      { base: 2 ** 32, size: 4 * PAGE },
    ]);
    let logged: [number, number][] = [[2 ** 32 + PAGE - 1, 2]];
    const writer = {
      logging: false,
      collect(): void {
        for (const [address, length] of logged) memory.dirty.markAddress(address, length);
        logged = [];
      },
    };
    memory.dirty.join(writer);
    expect(memory.dirty.take()).toEqual([]);
    memory.dirty.start();
    expect(writer.logging).toBe(true);
    expect(memory.dirty.take()).toEqual([2 ** 32, 2 ** 32 + PAGE]);
    // A range over a hole, and past the end.
    logged = [[PAGE, 2 ** 32]];
    expect(memory.dirty.take()).toEqual([PAGE, 2 ** 32]);
    logged = [[2 ** 32 + 3 * PAGE, 2 ** 40]];
    expect(memory.dirty.take()).toEqual([2 ** 32 + 3 * PAGE]);
    memory.dirty.stop();
    expect(writer.logging).toBe(false);
  });
});
