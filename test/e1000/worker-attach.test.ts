// The cable of an e1000 whose rings a worker is to serve, before that worker has taken the port: there is no link, whatever time passes, so that nobody sends to where frames would be lost.
import { describe, expect, it } from 'vitest';
import { SegmentServer } from '#backends/segment-server';
import { SimClock } from '#core/clock';
import { Bell, Doorbell } from '#core/doorbell';
import { openE1000Port } from '#devices/e1000/worker-port';
import { DirectLink } from '#net/direct-link';
import type { RemotePort, RemotePortHost, RemotePortSpec, TurnPort } from '#net/port';
import { Segment } from '#net/segment';
import { frame, R, Station } from './bench.ts';

const LU = 2;
const NEGOTIATION = 500e6;
const BMSR_LINK = 4;

interface Waiting {
  readonly spec: RemotePortSpec;
  readonly kick: Doorbell;
}

/** A worker that takes ports when told to, and turns by hand. */
class LateWorker implements RemotePortHost {
  readonly clock = new SimClock();
  readonly server = new SegmentServer(new Segment(new DirectLink(), { clock: this.clock, idleRounds: 1 }));
  readonly #waiting: Waiting[] = [];
  readonly #ports: { readonly port: TurnPort; readonly kick: Doorbell }[] = [];

  openPort(spec: RemotePortSpec): RemotePort {
    const kick = new Doorbell(new Bell());
    this.#waiting.push({ spec, kick });
    return { doorbell: kick, close: () => {} };
  }

  /** The next port that waits. */
  take(): void {
    const { spec, kick } = this.#waiting.shift() as Waiting;
    const { server, clock } = this;
    const port = openE1000Port(spec.share, { name: spec.name, counters: spec.counters, clock, wake: () => server.wake(port), commit: () => {} });
    server.addRings(port);
    this.#ports.push({ port, kick });
  }

  turn(): void {
    for (const { port, kick } of this.#ports) if (kick.take() !== 0) this.server.wake(port);
    this.server.turn();
  }
}

function bmsr(nic: Station): number {
  // Latched low: the second read is the present.
  for (let i = 0; i < 2; i++) nic.write(R.MDIC, (1 << 16) | (1 << 21) | (2 << 26));
  return nic.read(R.MDIC) & 0xffff;
}

describe('an e1000 whose worker is late', () => {
  it('has no link, in STATUS or in the PHY, until the worker has its port, and then after autonegotiation', () => {
    const worker = new LateWorker();
    const nic = new Station({ segment: worker });
    nic.write(R.CTRL, 0x40);
    nic.clock.advance(10 * NEGOTIATION);
    expect([nic.read(R.STATUS) & LU, bmsr(nic) & BMSR_LINK]).toEqual([0, 0]);
    worker.take();
    expect(nic.read(R.STATUS) & LU).toBe(0);
    nic.nic.service();
    nic.clock.advance(NEGOTIATION - 1);
    expect([nic.read(R.STATUS) & LU, bmsr(nic) & BMSR_LINK]).toEqual([0, 0]);
    nic.clock.advance(1);
    expect([nic.read(R.STATUS) & LU, bmsr(nic) & BMSR_LINK]).toEqual([LU, BMSR_LINK]);
  });

  it('loses nothing that is sent once both ends see a link', () => {
    const worker = new LateWorker();
    const clock = new SimClock();
    const [a, b] = [new Station({ segment: worker, clock }), new Station({ segment: worker, clock })];
    const both = (): number[] => [a, b].map((nic) => nic.read(R.STATUS) & LU);
    const late = (): void => {
      for (const nic of [a, b]) nic.nic.service();
      clock.advance(NEGOTIATION);
    };
    for (const nic of [a, b]) nic.start();
    worker.take();
    late();
    // The far port is not there yet: its own driver sees none.
    expect(both()).toEqual([LU, 0]);
    worker.take();
    late();
    expect(both()).toEqual([LU, LU]);
    for (let n = 0; n < 20; n++) a.send(frame(64));
    worker.turn();
    b.nic.service();
    expect(b.received()).toHaveLength(20);
  });

  it('a reset before that forgets nothing: the link comes all the same', () => {
    const worker = new LateWorker();
    const nic = new Station({ segment: worker });
    worker.take();
    // Without an access in between that takes events, the reset does.
    nic.machine.configWrite(0x0008, 4, 2, 7);
    nic.write(R.CTRL, 0x0400_0000);
    nic.write(R.CTRL, 0x40);
    nic.clock.advance(NEGOTIATION);
    expect(nic.read(R.STATUS) & LU).toBe(LU);
  });

  it('a record of before, restored where the worker is there, gets its link', () => {
    const before = new Station({ segment: new LateWorker() });
    before.write(R.CTRL, 0x40);
    before.clock.advance(NEGOTIATION);
    const worker = new LateWorker();
    const nic = new Station({ segment: worker });
    worker.take();
    nic.nic.service();
    nic.clock.advance(NEGOTIATION);
    nic.nic.restore(structuredClone(before.nic.save()));
    expect(nic.read(R.STATUS) & LU).toBe(0);
    nic.clock.advance(NEGOTIATION);
    expect(nic.read(R.STATUS) & LU).toBe(LU);
  });

  it('takes a cable that is pulled meanwhile', () => {
    const worker = new LateWorker();
    const nic = new Station({ segment: worker });
    nic.write(R.CTRL, 0x40);
    nic.nic.cable = false;
    worker.take();
    nic.nic.service();
    nic.clock.advance(NEGOTIATION);
    expect(nic.read(R.STATUS) & LU).toBe(0);
    nic.nic.cable = true;
    nic.clock.advance(NEGOTIATION);
    expect(nic.read(R.STATUS) & LU).toBe(LU);
  });
});
