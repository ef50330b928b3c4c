// Sequence-numbered frames from one guest to another, whatever serves them: every frame must arrive once and in order.

import type { VhostPool } from '#backends/vhost-pool';
import type { VhostBackend } from '#virtio/vhost';
import { eventually } from './eventually.ts';
import { frameOf, sequenceOf, type TestGuest } from './guest.ts';

export class Stream {
  sent = 0;
  received = 0;
  completed = 0;
  readonly #from: TestGuest;
  readonly #to: TestGuest;

  constructor(from: TestGuest, to: TestGuest) {
    this.#from = from;
    this.#to = to;
  }

  /** One step of both drivers: completions, new frames up to `limit` in all, what arrived, fresh buffers. @throws when a frame is lost, repeated or changed. */
  step(limit: number, burst = 16): void {
    this.completed += this.#from.reap();
    let queued = 0;
    while (queued < burst && this.sent < limit && this.#from.queue(frameOf(18 + ((this.sent * 37) % 1400), this.sent))) {
      this.sent++;
      queued++;
    }
    if (queued > 0) this.#from.show();
    this.take();
    this.#to.post();
  }

  take(): void {
    for (const { frame } of this.#to.receive()) {
      const sequence = sequenceOf(frame);
      if (sequence !== this.received)
        throw new Error(`frame ${sequence} came where ${this.received} was due (${sequence < this.received ? 'repeated' : 'lost'})`);
      const expected = frameOf(18 + ((sequence * 37) % 1400), sequence);
      if (frame.length !== expected.length || Buffer.compare(frame, expected) !== 0) throw new Error(`frame ${sequence} came changed`);
      this.received++;
    }
  }
}

/** Frames both ways while the thread that serves them dies `kills` times; rings that are lost are started again where they stood. @throws when a frame is lost, repeated or changed. */
export async function streamThroughDeaths(a: TestGuest, b: TestGuest, pool: VhostPool, kills: number): Promise<void> {
  let lost = 0;
  for (const guest of [a, b])
    (guest.backend as VhostBackend).onEvent = (event) => {
      guest.events.push(event);
      if (event.kind === 'lost') {
        lost++;
        guest.start(guest.positions());
      }
    };
  const [there, back] = [new Stream(a, b), new Stream(b, a)];
  for (let kill = 1; kill <= kills; kill++) {
    const goal = there.received + 300 + ((kill * 7919) % 500);
    await eventually(`traffic before kill ${kill}`, () => {
      there.step(1e9, 1 + (kill % 16));
      back.step(1e9, 16);
      return there.received > goal;
    });
    const killed = pool.kill();
    await eventually(`both devices told of loss ${kill}`, () => {
      there.step(1e9);
      back.step(1e9);
      return lost === 2 * kill;
    });
    await killed;
  }
  const goal = there.sent + 200;
  await eventually('traffic after the last kill', () => {
    there.step(goal);
    back.step(back.sent);
    return there.received === goal && there.completed === goal && back.received === back.sent;
  });
}
