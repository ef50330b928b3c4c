// The switch that batches by destination: order, one delivery each, broadcast, what a full port loses, and the same frames as the learning switch.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SimClock } from '#core/clock';
import { LearningSwitch } from '#net/learning-switch';
import type { FrameBatch } from '#net/port';
import { Segment } from '#net/segment';
import { ValeSwitch } from '#net/vale-switch';
import { BROADCAST, ethernet, MAC_A, MAC_B, MAC_C } from './frames.ts';
import { type Frame, MemoryPort } from './memory-port.ts';

const MACS = [MAC_A, MAC_B, MAC_C];
const numbered = (n: number, addresses = {}): Frame => ({ bytes: ethernet(0x88b5, [n >> 8, n & 0xff, ...new Array(46).fill(n & 0xff)], addresses) });
const numbersIn = (port: MemoryPort): number[] => port.inbox.map(({ bytes }) => ((bytes[14] as number) << 8) | (bytes[15] as number));

class CountingPort extends MemoryPort {
  deliveries = 0;

  override deliver(batch: FrameBatch, from: number, to: number): number {
    this.deliveries++;
    return super.deliver(batch, from, to);
  }
}

/** Three stations, all known already. */
function switched(forwarding: LearningSwitch | ValeSwitch, clock: SimClock): { segment: Segment; ports: [CountingPort, CountingPort, CountingPort] } {
  const segment = new Segment(forwarding, { clock });
  const ports = ['a', 'b', 'c'].map((name) => new CountingPort(name)) as [CountingPort, CountingPort, CountingPort];
  for (const port of ports) segment.addPort(port);
  ports.forEach((port, i) => void port.outbox.push(numbered(0, { from: MACS[i], to: BROADCAST })));
  segment.service();
  for (const port of ports) {
    port.inbox.length = 0;
    port.deliveries = 0;
    port.flushes = 0;
  }
  return { segment, ports };
}

function vale(): { segment: Segment; ports: [CountingPort, CountingPort, CountingPort] } {
  const clock = new SimClock();
  return switched(new ValeSwitch({ clock }), clock);
}

describe('VALE-like switch', () => {
  it('gives each destination its frames of an interleaved batch in order, by one delivery and one flush', () => {
    const {
      segment,
      ports: [a, b, c],
    } = vale();
    for (let n = 0; n < 40; n++) a.outbox.push(numbered(n, { from: MAC_A, to: n % 2 === 0 ? MAC_B : MAC_C }));
    segment.service();
    expect(numbersIn(b)).toEqual(Array.from({ length: 20 }, (_, i) => 2 * i));
    expect(numbersIn(c)).toEqual(Array.from({ length: 20 }, (_, i) => 2 * i + 1));
    expect([b.deliveries, c.deliveries, b.flushes, c.flushes]).toEqual([1, 1, 1, 1]);
    expect(a.outbox).toEqual([]);
  });

  it('keeps broadcasts in their place among unicast frames, for everyone but the sender', () => {
    const {
      segment,
      ports: [a, b, c],
    } = vale();
    a.outbox.push(...[MAC_B, BROADCAST, MAC_C, MAC_B, BROADCAST].map((to, n) => numbered(n, { from: MAC_A, to })));
    segment.service();
    expect([numbersIn(a), numbersIn(b), numbersIn(c)]).toEqual([[], [0, 1, 3, 4], [1, 2, 4]]);
  });

  it('holds a batch that is all for one full port, and loses nothing', () => {
    const {
      segment,
      ports: [a, b],
    } = vale();
    b.room = 3;
    for (let n = 0; n < 10; n++) a.outbox.push(numbered(n, { from: MAC_A, to: MAC_B }));
    segment.service();
    expect([b.inbox.length, a.outbox.length]).toEqual([3, 7]);
    expect(b.counters.snapshot().receiveDrops).toEqual({});
    b.room = Infinity;
    segment.service();
    expect(numbersIn(b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });

  it('drops and counts what a full port does not take of a batch for several, and the others get theirs', () => {
    const {
      segment,
      ports: [a, b, c],
    } = vale();
    b.room = 3;
    for (let n = 0; n < 20; n++) a.outbox.push(numbered(n, { from: MAC_A, to: n % 2 === 0 ? MAC_B : MAC_C }));
    segment.service();
    expect([b.inbox.length, c.inbox.length, a.outbox.length]).toEqual([3, 10, 0]);
    expect(b.counters.snapshot().receiveDrops).toEqual({ 'ring-full': 7 });
  });

  it('sends nothing back where it came from, and counts it', () => {
    const {
      segment,
      ports: [a, b],
    } = vale();
    a.outbox.push(numbered(1, { from: MAC_A, to: MAC_A }), numbered(2, { from: MAC_A, to: MAC_B }));
    segment.service();
    expect([numbersIn(a), numbersIn(b)]).toEqual([[], [2]]);
    expect(a.counters.snapshot().transmitDrops).toEqual({ filtered: 1 });
  });

  it('delivers what the learning switch delivers, whatever is sent by whom to whom', () => {
    const frame = fc.record({ from: fc.nat(2), to: fc.nat(3) });
    fc.assert(
      fc.property(fc.array(frame, { maxLength: 200 }), (frames) => {
        const inboxes = [LearningSwitch, ValeSwitch].map((Kind) => {
          const clock = new SimClock();
          const { segment, ports } = switched(new Kind({ clock }), clock);
          frames.forEach(({ from, to }, n) => {
            ports[from]?.outbox.push(numbered(n, { from: MACS[from], to: MACS[to] ?? BROADCAST }));
          });
          while (segment.service());
          return ports.map(numbersIn);
        });
        expect(inboxes[1]).toEqual(inboxes[0]);
      }),
    );
  });
});
