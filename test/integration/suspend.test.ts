// The driver and the device, each from its own reading of the text, in suspensions under traffic (virtio 1.4 3.4).

import { afterAll, describe, expect, it } from 'vitest';
import { closeWires, WIRES, withTwoGuests } from './two-guests.ts';

afterAll(closeWires);

const MATRIX = WIRES.flatMap((wire) => (['split', 'packed'] as const).map((ring) => ({ wire, ring })));

describe.each(MATRIX)('$wire, $ring rings', ({ wire, ring }) => {
  it('a sender that suspends its device again and again loses and repeats nothing', async () => {
    await withTwoGuests(wire, { guest: { net: { ring } } }, async (a, b) => {
      const count = 600;
      const got = b.start({ kind: 'sink', count });
      const sent = a.start({ kind: 'generate', count, sizes: [60, 300, 1514], burst: 8 });
      const deadline = performance.now() + 20_000;
      let suspensions = 0;
      for (let step = 0; !sent.done || !got.done; step++) {
        if (performance.now() > deadline) throw new Error(`waited 20 s for ${count} frames; ${b.report().framesReceived} came`);
        if (step % 7 === 3 && !sent.done) {
          a.net.suspend();
          expect(a.net.suspended).toBe(true);
          b.step();
          a.net.resume();
          suspensions++;
        }
        const busy = [a.step(), b.step()];
        if (!busy.includes(true)) await new Promise((resolve) => setTimeout(resolve, 0));
      }
      expect(suspensions).toBeGreaterThan(3);
      expect([...a.report().errors, ...b.report().errors]).toEqual([]);
      expect([a.report().framesSent, b.report().framesReceived, b.report().details.lost]).toEqual([count, count, 0]);
    });
  });
});
