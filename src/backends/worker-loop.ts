// The loop of a worker thread: rounds over its segments while there is work, a polling time that adapts to how useful polling has been, then sleep on its bell.
// Control comes as messages, looked at only when the run block's attention word has moved.

import { receiveMessageOnPort } from 'node:worker_threads';
import { type TimeSource, ToldTime, WallClock } from '#core/clock';
import { DmaSpace } from '#core/dma-space';
import { Bell, Doorbell } from '#core/doorbell';
import { Call } from '#core/interrupts';
import { NAP, SharedProcessor } from '#core/shared-processor';
import { PortCounters } from '#net/counters';
import type { NetPort, PortOpeners } from '#net/port';
import { Segment } from '#net/segment';
import { FeatureSet } from '#virtio/features';
import { InflightRegion } from '#virtio/inflight';
import { NetPolicy } from '#virtio/net-policy';
import { NetStatistics } from '#virtio/net-statistics';
import { PortBlock } from './port-block.ts';
import { RingLink } from './ring-link.ts';
import { RingPort } from './ring-port.ts';
import { RunBlock } from './run-block.ts';
import { SegmentServer } from './segment-server.ts';
import { TurnJournal } from './turn-journal.ts';
import { makeForwarding, type RunResult, type WorkerEvent, type WorkerJob, type WorkerMessage } from './worker-job.ts';

/** Rounds between looks at the time while polling. */
const POLL_CHECK = 16;
/** The least time to poll for, where polling is allowed and nobody says otherwise: a fraction of what falling asleep and being woken costs. */
const LEAST_BUDGET = 10_000;
/** A sleep shorter than this would have been better spent polling: a wake costs about as much (performance.md 7). */
const SHORT_SLEEP = 100_000;
/** No sleep is longer: what no doorbell tells (bus mastering switched on) is noticed then. Milliseconds. */
const LONGEST_SLEEP = 250;

interface Served {
  readonly port: NetPort;
  readonly server: Group;
  readonly doorbells: Doorbell[];
}

interface Group {
  readonly server: SegmentServer;
  paused: boolean;
}

export class WorkerLoop {
  readonly #job: WorkerJob;
  readonly #openers: PortOpeners;
  readonly #run: RunBlock;
  readonly #bell: Bell;
  readonly #journal: TurnJournal;
  readonly #groups = new Map<number, Group>();
  readonly #ports = new Map<number, Served>();
  /** The same as arrays, for the loop. */
  #servers: Group[] = [];
  #served: Served[] = [];
  readonly #clock: TimeSource;
  #attention = -1;
  #turns = 0;
  #sleeps = 0;
  #empty = 0;
  readonly #shared = new SharedProcessor();
  readonly #least: number;
  #budget: number;

  /** @param openers for devices that are ports of their own, by kind: the thread's entry module knows them */
  constructor(job: WorkerJob, openers: PortOpeners = {}) {
    this.#job = job;
    this.#openers = openers;
    this.#run = new RunBlock(job.run);
    this.#bell = new Bell(job.bell);
    this.#journal = new TurnJournal(job.journal);
    this.#clock = job.time === undefined ? new WallClock() : new ToldTime(job.time);
    this.#least = job.poll.minimum ?? LEAST_BUDGET;
    this.#budget = Math.min(2 * this.#least, job.poll.maximum);
  }

  /** Runs until told to stop. */
  run(): RunResult {
    let seen = this.#bell.ticket;
    let idle = 0;
    let idleSince = 0;
    for (;;) {
      if (this.#run.attention !== this.#attention) {
        this.#look();
        // What that took was work.
        idle = 0;
        if (this.#run.stop) break;
      }
      const ticket = this.#bell.ticket;
      if (ticket !== seen) {
        seen = ticket;
        this.#takeKicks();
      }
      if (this.#turn()) {
        idle = 0;
        continue;
      }
      this.#empty++;
      if (idle++ % POLL_CHECK !== 0) continue;
      const now = performance.now() * 1e6;
      if (idle === 1) {
        idleSince = now;
        this.#shared.begin(now);
      }
      if (now - idleSince < this.#budget) {
        if (this.#shared.inVain(now)) this.#bell.wait(seen, NAP);
        continue;
      }
      this.#publishCounters();
      this.#sleep(seen, now);
      idle = 0;
    }
    this.#publishCounters();
    for (const { port, server } of this.#served) server.server.remove(port);
    return { turns: this.#turns };
  }

  #turn(): boolean {
    this.#turns++;
    if ((this.#turns & 0xfff) === 0) this.#publishCounters();
    let worked = false;
    const servers = this.#servers;
    for (let i = 0; i < servers.length; i++) {
      const group = servers[i] as Group;
      if (!group.paused && group.server.turn()) worked = true;
    }
    return worked;
  }

  /** @param ticket of the bell when kicks were last taken: a ring since then ends the sleep at once. */
  #sleep(ticket: number, now: number): void {
    let work = false;
    let deadline = LONGEST_SLEEP;
    for (const { server, paused } of this.#servers) {
      if (paused) continue;
      if (server.rest()) work = true;
      const ends = server.nextDeadline;
      // Of told time one hears by a ring.
      if (ends !== Infinity && this.#job.time === undefined) deadline = Math.min(deadline, Math.max(0, (ends - this.#clock.now()) / 1e6));
    }
    if (work || this.#run.attention !== this.#attention) return;
    this.#sleeps++;
    this.#publishCounters();
    this.#run.rested(this.#attention);
    this.#bell.wait(ticket, deadline);
    const slept = performance.now() * 1e6 - now;
    this.#budget = Math.min(this.#job.poll.maximum, slept < SHORT_SLEEP ? 2 * this.#budget : Math.max(this.#least, 0.75 * this.#budget));
    // Nobody rang: look everywhere.
    if (this.#bell.ticket === ticket) for (const { server } of this.#servers) server.wakeAll();
  }

  /** Doorbells that were rung: their ports go back into the rounds. */
  #takeKicks(): void {
    for (const served of this.#served) {
      const { port, server } = served;
      if (port instanceof RingPort ? port.takeKicks() : takeAny(served.doorbells)) server.server.wake(port);
    }
  }

  #publishCounters(): void {
    this.#run.counted(this.#turns, this.#sleeps, this.#empty, this.#budget);
  }

  // ---- control ----

  #look(): void {
    this.#attention = this.#run.attention;
    for (;;) {
      const received = receiveMessageOnPort(this.#job.port);
      if (received === undefined) break;
      this.#handle(received.message as WorkerMessage);
    }
    for (const { port, server } of this.#served) {
      if (port instanceof RingPort) port.stopUnwanted();
      server.server.wake(port);
    }
  }

  #handle(message: WorkerMessage): void {
    switch (message.op) {
      case 'segment': {
        const forwarding = makeForwarding(message.kind, this.#clock, message.reader);
        this.#groups.set(message.segment, {
          server: new SegmentServer(new Segment(forwarding, { clock: this.#clock }), message.budget),
          paused: message.paused,
        });
        this.#servers = [...this.#groups.values()];
        return;
      }
      case 'resume': {
        const group = this.#groups.get(message.segment);
        if (group !== undefined) group.paused = false;
        return;
      }
      case 'port':
        this.#addPort(message);
        return;
      case 'link': {
        const group = this.#groups.get(message.segment);
        if (group === undefined) return;
        const counters = new PortCounters(message.counters);
        const link = new RingLink(message.name, message.share, { journal: this.#journal, firstSlot: message.firstSlot, counters });
        if (message.role === 'monitor') group.server.segment.monitor = link;
        else group.server.add(link);
        this.#serve(message.port, { port: link, server: group, doorbells: [...link.doorbells] });
        return;
      }
      case 'device':
        this.#openDevice(message);
        return;
      case 'open': {
        const port = this.#ring(message.port);
        port?.open({
          features: new FeatureSet(message.features),
          memory: DmaSpace.open(message.memory),
          policy: new NetPolicy(message.policy),
          clock: this.#clock,
          statistics: message.statistics && NetStatistics.open(message.statistics),
        });
        return;
      }
      case 'start': {
        const { index, start, setup, position, staging, inflight: share } = message;
        const inflight = share === undefined ? undefined : new InflightRegion(share.bytes, share.packed);
        const port = this.#ring(message.port);
        port?.start({ index, start, setup, position, staging, inflight, call: Call.open(message.call), kick: Doorbell.open(message.kick) });
        return;
      }
      case 'send':
        this.#ring(message.port)?.sendOwn(message.frame);
        return;
      case 'remove': {
        const served = this.#ports.get(message.port);
        if (served === undefined) return;
        served.server.server.remove(served.port);
        this.#ports.delete(message.port);
        this.#served = [...this.#ports.values()];
        return;
      }
    }
  }

  #addPort(message: Extract<WorkerMessage, { op: 'port' }>): void {
    const group = this.#groups.get(message.segment);
    if (group === undefined) return;
    const id = message.port;
    const block = new PortBlock(message.rings, message.block);
    const port = new RingPort({
      name: message.name,
      block,
      counters: new PortCounters(message.counters),
      journal: this.#journal,
      firstSlot: message.firstSlot,
      controlPending: () => this.#run.attention !== this.#attention || block.expected,
      onMiss: () => this.#job.port.postMessage({ op: 'missed', port: id } satisfies WorkerEvent),
      onBroken: (index, reason) => this.#job.port.postMessage({ op: 'broken', port: id, index, reason } satisfies WorkerEvent),
    });
    group.server.addRings(port);
    this.#serve(id, { port, server: group, doorbells: [] });
  }

  #openDevice(message: Extract<WorkerMessage, { op: 'device' }>): void {
    const group = this.#groups.get(message.segment);
    const open = this.#openers[message.kind];
    if (group === undefined) return;
    if (open === undefined) throw new TypeError(`this thread's entry module has no opener for ports of kind ${message.kind}`);
    const { server } = group;
    const port = open(message.share, {
      name: message.name,
      counters: new PortCounters(message.counters),
      clock: this.#clock,
      wake: () => server.wake(port),
      commit: () => this.#journal.commit(),
    });
    const kick = Doorbell.open(message.kick);
    // One that was rung before there was a port to be woken would stay so, and swallow every later one.
    kick.take();
    server.addRings(port);
    this.#serve(message.port, { port, server: group, doorbells: [kick] });
  }

  #serve(id: number, served: Served): void {
    this.#ports.set(id, served);
    this.#served = [...this.#ports.values()];
  }

  #ring(id: number): RingPort | undefined {
    const port = this.#ports.get(id)?.port;
    return port instanceof RingPort ? port : undefined;
  }
}

function takeAny(doorbells: readonly Doorbell[]): boolean {
  let any = false;
  for (const doorbell of doorbells) if (doorbell.take() !== 0) any = true;
  return any;
}
