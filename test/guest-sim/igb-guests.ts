// Two guests on this thread, one on either end of a cable, and the loops that step them.

import { InlineSegment } from '#backends/inline-backend';
import { Guest, type GuestOptions, type GuestReport } from '#guest-sim/guest';
import type { IgbOptions } from '#guest-sim/igb-options';
import type { FrameSink } from '#guest-sim/net-receive';
import type { Job } from '#guest-sim/workload';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { Machine } from '#nicbox/machine';

export interface PairSetup {
  readonly driver?: IgbOptions;
  /** What the second guest drives. Default: an igb with the first one's options. */
  readonly peer?: 'igb' | 'e1000' | 'virtio-net';
  readonly peerDriver?: IgbOptions;
}

/** Two guests whose devices share a cable, both up. `open` is to be closed by the caller. */
export async function igbPair(open: Machine[], { driver = {}, peer = 'igb', peerDriver = driver }: PairSetup = {}): Promise<[Guest, Guest]> {
  const segment = new InlineSegment(new Segment(new DirectLink()));
  const guests = [0, 1].map((i) => {
    const machine = new Machine({ name: `m${i}`, memory: 64 * 2 ** 20 });
    open.push(machine);
    const mac = `52:54:00:00:00:0${i + 1}`;
    const kind = i === 0 ? 'igb' : peer;
    let options: GuestOptions = { igb: i === 0 ? driver : peerDriver };
    if (kind === 'igb') machine.addIgb({ mac, segment, negotiation: 1000 });
    else if (kind === 'e1000') {
      machine.addE1000({ mac, segment, negotiation: 1000 });
      options = { e1000: { promiscuous: true } };
    } else {
      machine.addVirtioNet({ mac, backend: segment.port('v', 1) });
      options = { net: { promiscuous: true } };
    }
    return new Guest(machine.localBus(), options);
  }) as [Guest, Guest];
  for (const guest of guests) await until([guest], () => guest.nic.configuration.linkUp, 'the link');
  return guests;
}

/** Steps guests, letting timers run, until it is so. */
export async function until(guests: readonly Guest[], so: () => boolean, what: string, patience = 10_000): Promise<void> {
  const deadline = performance.now() + patience;
  while (!so()) {
    const broken = guests.find((guest) => guest.nic.broken !== '');
    if (broken) throw new Error(`while waiting for ${what}: ${broken.nic.broken}`);
    if (performance.now() > deadline) throw new Error(`waited for ${what}`);
    const busy = guests.map((guest) => guest.step());
    if (!busy.includes(true)) await new Promise((resolve) => setTimeout(resolve, 0));
  }
}

/** Steps guests until all their jobs are done. */
export async function runAll(guests: readonly Guest[], jobs: readonly Job[]): Promise<GuestReport[]> {
  const works = guests.map((guest, i) => guest.start(jobs[i] as Job));
  const reports = (): GuestReport[] => guests.map((guest) => guest.report());
  try {
    await until(guests, () => works.every((work) => work.done), 'all jobs', 25_000);
  } catch (error) {
    throw new Error(`${(error as Error).message}: ${JSON.stringify(reports())}`);
  }
  for (const guest of guests) guest.step();
  return reports();
}

/** Takes a guest's interrupts and hands what has arrived to a sink of the test's own. */
export function collect(guest: Guest, sink: FrameSink): void {
  for (let rounds = 0; rounds < 100; rounds++) {
    for (let v = guest.bus.vectors.take(); v >= 0; v = guest.bus.vectors.take()) guest.vectors.handlers[v]?.();
    guest.nic.poll(sink);
  }
}
