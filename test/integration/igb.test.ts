// The guest's igb driver without MSI-X: one message, or the line, for all of an 82576's causes. Everything it does with many vectors goes on with one.

import { afterEach, describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { Guest } from '#guest-sim/guest';
import type { IgbOptions } from '#guest-sim/igb-options';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { Machine } from '#nicbox/machine';
import { collect, igbPair, runAll, until } from '../guest-sim/igb-guests.ts';

const open: Machine[] = [];

afterEach(async () => {
  for (const machine of open.splice(0)) await machine.close();
});

const WAYS: readonly (readonly [string, IgbOptions])[] = [
  ['MSI', { interrupts: 'msi' }],
  ['the line', { interrupts: 'intx' }],
  ['MSI, moderated', { interrupts: 'msi', itr: 50 }],
  ['the line, moderated', { interrupts: 'intx', itr: 50 }],
  ['MSI and four pairs', { interrupts: 'msi', pairs: 4 }],
  ['the line, two pairs and head write-back', { interrupts: 'intx', pairs: 2, headWriteBack: true }],
  ['MSI, small rings and busy polling', { interrupts: 'msi', ringSize: 32, busyPolls: 3 }],
];

/** Vectors of the guest's CPU that are in use. */
const vectors = (guest: Guest): number => guest.vectors.handlers.filter((handler) => handler !== undefined).length;

describe.each(WAYS)('the igb driver with %s', (_name, driver) => {
  it('sees the link come and carries frames both ways, each byte checked', async () => {
    const [a, b] = await igbPair(open, { driver });
    expect([a.igb.usesIntx, vectors(a)]).toEqual([driver.interrupts === 'intx', driver.interrupts === 'msi' ? 1 : 0]);
    for (const [from, to] of [
      [a, b],
      [b, a],
    ] as const) {
      const [sent, received] = await runAll(
        [from, to],
        [
          { kind: 'generate', count: 1500, sizes: [60, 64, 255, 1024, 1514] },
          { kind: 'sink', count: 1500 },
        ],
      );
      expect([...(sent?.errors ?? ['none']), ...(received?.errors ?? ['none'])]).toEqual([]);
      expect(received?.details.lost).toBe(0);
    }
  });

  it('answers pings, one at a time', async () => {
    const [a, b] = await igbPair(open, { driver });
    const before = a.igb.interrupts;
    const [ping] = await runAll(
      [a, b],
      [
        { kind: 'ping', count: 100 },
        { kind: 'echo', count: 100 },
      ],
    );
    expect(ping?.errors).toEqual([]);
    expect(ping?.framesReceived).toBe(100);
    if (driver.busyPolls === undefined) expect(a.igb.interrupts).toBeGreaterThan(before);
  });

  it('survives its device’s reset, and gives its vector back', async () => {
    const [a, b] = await igbPair(open, { driver });
    const used = vectors(a);
    for (let i = 0; i < 3; i++) {
      a.igb.recover();
      await until([a, b], () => a.igb.configuration.linkUp, 'the link');
      const [sent, received] = await runAll(
        [a, b],
        [
          { kind: 'generate', count: 200 },
          { kind: 'sink', count: 200 },
        ],
      );
      expect([...(sent?.errors ?? ['none']), ...(received?.errors ?? ['none'])]).toEqual([]);
    }
    expect(vectors(a)).toBe(used);
    a.igb.shutDown();
    expect(vectors(a)).toBe(0);
  });
});

describe('the igb driver without MSI-X', () => {
  it('hears of the link by its interrupt alone', async () => {
    for (const interrupts of ['msi', 'intx'] as const) {
      const machine = new Machine({ memory: 64 * 2 ** 20 });
      open.push(machine);
      const segment = new InlineSegment(new Segment(new DirectLink()));
      const device = machine.addIgb({ mac: '52:54:00:00:00:01', segment, negotiation: 1000 });
      const guest = new Guest(machine.localBus(), { igb: { interrupts } });
      await until([guest], () => guest.igb.configuration.linkUp, 'the link to come');
      device.cable = false;
      await until([guest], () => !guest.igb.configuration.linkUp, 'the link to go', 1500);
      device.cable = true;
      await until([guest], () => guest.igb.configuration.linkUp, 'the link to come back', 1500);
    }
  });

  it('leaves another device’s interrupt on its line alone', async () => {
    const [a, b] = await igbPair(open, { driver: { interrupts: 'intx' } });
    await runAll(
      [a, b],
      [
        { kind: 'generate', count: 10 },
        { kind: 'sink', count: 10 },
      ],
    );
    collect(b, { receive: () => {} });
    const before = b.igb.interrupts;
    for (let i = 0; i < 5; i++) b.igb.onIntx();
    expect(b.igb.interrupts).toBe(before);
    // Nothing was taken or masked by looking.
    const [sent, received] = await runAll(
      [a, b],
      [
        { kind: 'generate', count: 100, burst: 1 },
        { kind: 'sink', count: 100 },
      ],
    );
    expect([...(sent?.errors ?? ['none']), ...(received?.errors ?? ['none'])]).toEqual([]);
  });

  it('is called no sooner than EITR0 lets it', async () => {
    for (const interrupts of ['msi', 'intx'] as const) {
      const [a, b] = await igbPair(open, { driver: { interrupts, itr: 2000 }, peerDriver: {} });
      const before = a.igb.interrupts;
      const start = performance.now();
      for (let i = 0; i < 20; i++) {
        await runAll(
          [b, a],
          [
            { kind: 'generate', count: 1 },
            { kind: 'sink', count: 1 },
          ],
        );
        // Back to where only an interrupt makes it poll.
        while (a.step());
      }
      const called = a.igb.interrupts - before;
      expect(called).toBeGreaterThan(10);
      expect(performance.now() - start).toBeGreaterThan((called - 1) * 2);
    }
  });

  it('has no virtual functions, and takes no style there is not', async () => {
    const [a] = await igbPair(open, { driver: { interrupts: 'msi' } });
    expect(() => a.igb.enableVfs(1, () => {})).toThrow(/MSI-X/);
    await expect(igbPair(open, { driver: { interrupts: 'smoke' as never } })).rejects.toThrow(RangeError);
  });
});
