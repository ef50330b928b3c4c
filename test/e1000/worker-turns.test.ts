// The e1000 as a worker serves it, with the worker's turns taken by hand: what the engine asks for between two turns of the other side, in every order, comes to an interrupt.
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SegmentServer } from '#backends/segment-server';
import { SimClock } from '#core/clock';
import { Bell, Doorbell } from '#core/doorbell';
import { openE1000Port } from '#devices/e1000/worker-port';
import { DirectLink } from '#net/direct-link';
import type { RemotePort, RemotePortHost, RemotePortSpec, TurnPort } from '#net/port';
import { Segment } from '#net/segment';
import { MemoryPort } from '../net/memory-port.ts';
import { EOP, frame, IFCS, R, RING, RXT0, Station, TXDW } from './bench.ts';

const BLOCK = 0x8_0000;
const [TDT, NEED_TXKICK, NEED_RXKICK, ON, RDT, TXKICK_AT] = [0, 1, 2, 3, 4, 5] as const;
const HOST_NEED_TXKICK = 17;
/** 51.2 us. */
const ITR = 200;
const WINDOW = ITR * 256;

/** A worker that does nothing by itself. */
class HandWorker implements RemotePortHost {
  readonly clock = new SimClock();
  readonly server = new SegmentServer(new Segment(new DirectLink(), { clock: this.clock, idleRounds: 1 }));
  readonly kick = new Doorbell(new Bell());
  port: TurnPort | undefined;

  openPort(spec: RemotePortSpec): RemotePort {
    const { server, clock } = this;
    const port = openE1000Port(spec.share, { name: spec.name, counters: spec.counters, clock, wake: () => server.wake(port), commit: () => {} });
    this.port = port;
    server.addRings(port);
    return { doorbell: this.kick, close: () => server.remove(port) };
  }

  turn(): void {
    if (this.kick.take() !== 0) this.server.wake(this.port as TurnPort);
    this.server.turn();
  }

  /** As before it sleeps. */
  rest(): void {
    if (this.kick.take() !== 0) this.server.wake(this.port as TurnPort);
    this.server.rest();
  }
}

class Rig {
  readonly worker = new HandWorker();
  readonly peer = new MemoryPort('peer');
  readonly nic: Station;
  sent = 0;
  tail = 0;

  constructor() {
    this.nic = new Station({ segment: this.worker, sharedBlock: true });
    this.worker.server.add(this.peer);
    const { nic } = this;
    nic.start();
    nic.write(R.CSBAL, BLOCK);
    this.set(RDT, RING - 1);
    this.set(ON, 1);
    nic.write(R.ITR, ITR);
    nic.write(R.IMS, RXT0 | TXDW);
    this.worker.turn();
    this.worker.rest();
  }

  get(word: number): number {
    return this.nic.view.getUint32(BLOCK + 4 * word, true);
  }

  set(word: number, value: number): void {
    this.nic.view.setUint32(BLOCK + 4 * word, value, true);
  }

  arrive(): void {
    this.peer.outbox.push({ bytes: Uint8Array.from(frame()) });
    this.worker.server.wake(this.peer);
  }

  /** As the protocol has it. True: it had to kick. */
  send(): boolean {
    this.nic.legacy(frame(), EOP | IFCS);
    this.tail = (this.tail + 1) % RING;
    this.set(TDT, this.tail);
    const asleep = this.get(HOST_NEED_TXKICK) !== 0;
    if (asleep) this.nic.write(R.TDT, this.tail);
    return asleep;
  }
}

describe('the throttle, and causes that another thread has', () => {
  it('a cause that comes while it is closed interrupts when it opens, and not before', () => {
    const rig = new Rig();
    const { nic, worker } = rig;
    rig.set(NEED_RXKICK, 1);
    rig.arrive();
    worker.turn();
    nic.machine.service();
    expect(nic.line).toBe(true);
    expect([nic.read(R.ICR), nic.line]).toEqual([RXT0, false]);
    rig.arrive();
    worker.turn();
    nic.machine.service();
    expect(nic.line).toBe(false);
    nic.clock.advance(WINDOW - 1);
    expect(nic.line).toBe(false);
    nic.clock.advance(1);
    expect([nic.line, nic.read(R.ICR)]).toEqual([true, RXT0]);
  });

  it('the machine is woken by the time the throttle opens, whether or not it looks in between', () => {
    const rig = new Rig();
    const { nic, worker } = rig;
    const { bell } = nic.machine.loop;
    rig.set(NEED_RXKICK, 1);
    rig.arrive();
    worker.turn();
    nic.machine.service();
    nic.read(R.ICR);
    const before = bell.ticket;
    rig.arrive();
    worker.turn();
    // By real time it may be open already.
    expect(worker.server.nextDeadline - worker.clock.now() <= WINDOW || bell.ticket !== before).toBe(true);
    worker.clock.advance(WINDOW);
    worker.turn();
    expect(bell.ticket).not.toBe(before);
    expect(worker.server.nextDeadline).toBe(Infinity);
  });

  it('a cause that the driver read from ICR before it was told is not told twice', () => {
    const rig = new Rig();
    const { nic, worker } = rig;
    rig.set(NEED_RXKICK, 1);
    rig.arrive();
    worker.turn();
    expect(nic.read(R.ICR)).toBe(RXT0);
    worker.clock.advance(WINDOW);
    worker.turn();
    nic.machine.service();
    nic.clock.advance(WINDOW);
    expect([nic.line, nic.read(R.ICR)]).toEqual([false, 0]);
  });

  it('a worker that leaves tells what it has kept back', () => {
    const rig = new Rig();
    const { nic, worker } = rig;
    rig.set(NEED_RXKICK, 1);
    rig.arrive();
    worker.turn();
    nic.machine.service();
    nic.read(R.ICR);
    const before = nic.machine.loop.bell.ticket;
    rig.arrive();
    worker.turn();
    worker.server.remove(worker.port as TurnPort);
    expect(nic.machine.loop.bell.ticket).not.toBe(before);
    nic.machine.service();
    nic.clock.advance(WINDOW);
    expect(nic.read(R.ICR)).toBe(RXT0);
  });
});

it('whatever the order of turns, rests, sends, arrivals, interrupts and time: nobody is left waiting', () => {
  const action = fc.constantFrom('turn', 'rest', 'send', 'arrive', 'poll', 'sleep', 'ask', 'interrupt', 'time');
  fc.assert(
    fc.property(fc.array(action, { minLength: 5, maxLength: 80 }), (actions) => {
      const rig = new Rig();
      const { nic, worker, peer } = rig;
      let [arrived, taken, sent, scheduled, wantsRoom] = [0, 0, 0, true, false];
      const poll = (): void => {
        const got = nic.received().length;
        taken += got;
        rig.set(RDT, (rig.get(RDT) + got) % RING);
      };
      // A driver in the manner of NAPI: polls while it is scheduled, then asks for an interrupt and looks once more.
      const sleep = (): void => {
        if (!scheduled) return;
        scheduled = false;
        rig.set(NEED_RXKICK, 1);
        if ((nic.bytes[0x2_0000 + 16 * (taken % RING) + 12] as number) & 1) schedule();
      };
      const schedule = (): void => {
        scheduled = true;
        rig.set(NEED_RXKICK, 0);
      };
      const interrupt = (): void => {
        nic.machine.service();
        if (!nic.line) return;
        const causes = nic.read(R.ICR);
        if ((causes & TXDW) !== 0) {
          rig.set(NEED_TXKICK, 0);
          wantsRoom = false;
        }
        if ((causes & RXT0) !== 0) schedule();
      };
      for (const what of actions) {
        if (what === 'turn') worker.turn();
        else if (what === 'rest') worker.rest();
        else if (what === 'send' && sent < RING / 2) {
          rig.send();
          sent++;
        } else if (what === 'arrive' && arrived < RING / 2) {
          rig.arrive();
          arrived++;
        } else if (what === 'poll' && scheduled) poll();
        else if (what === 'sleep') sleep();
        else if (what === 'ask' && !wantsRoom && sent > peer.inbox.length) {
          rig.set(TXKICK_AT, sent - 1);
          rig.set(NEED_TXKICK, 1);
          wantsRoom = true;
        } else if (what === 'interrupt') interrupt();
        else if (what === 'time') {
          nic.clock.advance(WINDOW / 3);
          worker.clock.advance(WINDOW / 3);
        }
      }
      // From here on everybody does only what he was told to.
      sleep();
      for (let round = 0; round < 4; round++) {
        worker.turn();
        worker.rest();
        interrupt();
        nic.clock.advance(WINDOW);
        interrupt();
        if (scheduled) poll();
        sleep();
      }
      expect({ taken, sent: peer.inbox.length, wantsRoom }).toEqual({ taken: arrived, sent, wantsRoom: false });
    }),
    { numRuns: 100 },
  );
});
