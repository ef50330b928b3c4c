// vDPA: a NIC on a worker thread, driven by status, mappings and ready bits, with the guest's own rings or with shadow virtqueues in between.

import { afterEach, describe, expect, it } from 'vitest';
import { VhostPool } from '#backends/vhost-pool';
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED } from '#virtio/features';
import { VIRTIO_NET_F_MRG_RXBUF } from '#virtio/net-features';
import type { VhostBackend } from '#virtio/vhost';
import { eventually, eventuallyBlocking } from './eventually.ts';
import { TestGuest } from './guest.ts';
import { Stream, streamThroughDeaths } from './stream.ts';
import { nicsOn } from './vdpa-nics.ts';

const FORMATS: [string, number[]][] = [
  ['split', []],
  ['split, event index, indirect', [VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC]],
  ['split, in order', [VIRTIO_F_IN_ORDER, VIRTIO_F_EVENT_IDX]],
  ['packed', [VIRTIO_F_RING_PACKED]],
  ['packed, event index, mergeable', [VIRTIO_F_RING_PACKED, VIRTIO_F_EVENT_IDX, VIRTIO_NET_F_MRG_RXBUF]],
  ['packed, in order', [VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER]],
];

const endings: (() => unknown)[] = [];
function pool(threads = 1): VhostPool {
  const made = new VhostPool({ threads });
  endings.push(() => made.close());
  return made;
}
afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});

const both = (a: TestGuest, b: TestGuest): string[] => [...a.states(), ...b.states()];

describe.each(['direct', 'shadow'] as const)('%s', (mode) => {
  describe.each(FORMATS)('%s', (_name, features) => {
    it('carries frames both ways at once, in order, byte for byte', async () => {
      const nics = nicsOn(pool().worker(), endings);
      const [a, b] = [new TestGuest({ name: 'a', features, bufferSize: 1600 }), new TestGuest({ name: 'b', features, bufferSize: 1600 })];
      a.attach(nics.a[mode]);
      b.attach(nics.b[mode]);
      nics.resume();
      const [there, back] = [new Stream(a, b), new Stream(b, a)];
      await eventually('2000 frames each way', () => {
        there.step(2000);
        back.step(2000);
        return there.received === 2000 && back.received === 2000 && there.completed === 2000;
      });
      expect(a.events.concat(b.events)).toEqual([]);
    });

    it('survives the death of its thread in the middle of traffic: every frame arrives once', async () => {
      const p = pool();
      const nics = nicsOn(p.worker(), endings);
      const [a, b] = [new TestGuest({ name: 'a', features }), new TestGuest({ name: 'b', features })];
      a.attach(nics.a[mode]);
      b.attach(nics.b[mode]);
      nics.resume();
      await streamThroughDeaths(a, b, p, 2);
      expect([...a.events, ...b.events].filter((e) => e.kind === 'broken')).toEqual([]);
    }, 60_000);
  });
});

it('hands a full load over from a vhost worker to vDPA, to shadow virtqueues, back to vDPA: nothing lost, repeated or reordered', async () => {
  for (const [, features] of FORMATS) {
    const p = pool(2);
    const [vhost, hardware] = [p.worker(), p.worker()];
    const [a, b] = [new TestGuest({ name: 'a', features }), new TestGuest({ name: 'b', features })];
    const [there, back] = [new Stream(a, b), new Stream(b, a)];
    const load = async (what: string): Promise<void> => {
      const goals = [there.received + 200, back.received + 200];
      await eventually(`200 frames each way ${what}`, () => {
        there.step(1e9);
        back.step(1e9);
        return there.received >= (goals[0] as number) && back.received >= (goals[1] as number);
      });
    };
    // The load goes on while rings stop and start.
    const move = async (guest: TestGuest, to: VhostBackend): Promise<void> => {
      guest.stop();
      await eventually('its rings to stop', () => {
        there.step(1e9);
        back.step(1e9);
        return guest.states().every((state) => state === 'stopped');
      });
      guest.attach(to, guest.positions());
    };
    const segment = vhost.segment({ paused: true });
    a.attach(segment.port('a'));
    b.attach(segment.port('b'));
    segment.resume();
    await load('over vhost');
    const nics = nicsOn(hardware, endings);
    await move(a, nics.a.direct);
    await move(b, nics.b.direct);
    nics.resume();
    for (let round = 0; round < 2; round++) {
      await load('over vDPA');
      await move(a, nics.a.shadow);
      await load('with a shadow on one side');
      await move(b, nics.b.shadow);
      await load('with a shadow on both');
      await move(a, nics.a.direct);
      await load('with a shadow on the other');
      await move(b, nics.b.direct);
    }
    const [goal, backGoal] = [there.sent + 50, back.sent + 50];
    await eventually('the rest', () => {
      there.step(goal);
      back.step(backGoal);
      return there.received === goal && back.received === backGoal && there.completed === goal && back.completed === backGoal;
    });
    expect(both(a, b)).toEqual(['running', 'running', 'running', 'running']);
    expect(a.events.concat(b.events)).toEqual([]);
    a.stop();
    b.stop();
    eventuallyBlocking('all rings stopped', () => both(a, b).every((state) => state === 'stopped'));
  }
}, 120_000);
