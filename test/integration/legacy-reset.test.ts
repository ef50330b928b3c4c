// Legacy drivers do not wait for a reset: they write it and go on (virtio 1.4 2.4.1 speaks of later ones). Also where another thread serves the rings.

import { afterAll, describe, expect, it } from 'vitest';
import { Guest } from '#guest-sim/guest';
import { closeWires, makeMachine, makeWire, runBoth, WIRES } from './two-guests.ts';

afterAll(closeWires);

describe.each(WIRES)('%s', (wire) => {
  it('a legacy driver that finds its device in use resets it and has a working one at once', async () => {
    const segment = makeWire(wire);
    const setup = { guest: { net: { legacy: true } }, place: { transitional: true } };
    const sides = [makeMachine(segment, 'a', setup), makeMachine(segment, 'b', setup)] as const;
    try {
      for (let round = 0; round < 4; round++) {
        const [a, b] = sides.map(({ machine }) => new Guest(machine.localBus(), setup.guest)) as [Guest, Guest];
        const { a: sent, b: got } = await runBoth(a, b, { kind: 'generate', count: 200 }, { kind: 'sink', count: 200 });
        expect([...sent.errors, ...got.errors, sent.framesSent, got.framesReceived]).toEqual([200, 200]);
      }
    } finally {
      for (const { machine } of sides) await machine.close();
    }
  });
});
