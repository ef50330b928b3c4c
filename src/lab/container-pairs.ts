// Pairs of containers and what is measured between them, whoever lets their guests run: streams and round trips, in which every frame has to arrive once, in order and whole, before the next one begins.

import type { Nanos } from '#core/clock';
import { Echo, Ping } from '#guest-sim/echo';
import { Generate } from '#guest-sim/generator';
import { Histogram } from '#guest-sim/histogram';
import { Sink } from '#guest-sim/sink';
import { type Container, type ContainerGuest, idle } from './container-guest.ts';
import { type Cost, FCS, gigabits, LONGEST_REQUEST, type Measured } from './sriov-offload.ts';

const ENDLESS = 2 ** 30;
/** An answer may take so long; a machine that has other things to do is not at fault. */
const ANSWER: Nanos = 10e9;
/** Of the first requests, which a switch that is still coming up loses. */
const FIRST_ANSWER: Nanos = 50e6;

/** What was used so far. */
export interface Usage {
  /** Milliseconds. */
  readonly at: number;
  /** Nanoseconds; null where nobody can say. */
  readonly cpu: Cost | null;
  /** How long each of those was busy who may be what limits the rest, in nanoseconds. */
  readonly busy: readonly { readonly who: string; readonly time: Nanos }[];
  readonly exits: number;
  readonly kicks: number;
  readonly wakes: number;
}

/** Lets the guests run, in real time or in simulated time. */
export interface Runner {
  /** What may still be under way has so many milliseconds to arrive. */
  readonly patience: number;
  /** Runs until it is so, or for so many milliseconds. False: it was never so. @throws Error when a driver gave up, or the experiment is to end */
  run(milliseconds: number, so?: () => boolean): boolean;
  usage(): Usage;
}

export interface MeasureRequest {
  /** With FCS. */
  readonly size: number;
  readonly seconds: number;
  readonly warmUp: number;
  /** Of a stream, which may end sooner with so many, and has warmed up after half of them. */
  readonly frames?: number;
  /** Seconds of round trips, where they differ. */
  readonly roundTrips?: number;
}

interface Reading extends Usage {
  readonly frames: number;
  readonly interrupts: number;
}

export class ContainerPairs {
  readonly #guests: readonly ContainerGuest[];
  readonly #runner: Runner;
  /** By pair. */
  readonly #senders: readonly Container[];
  readonly #receivers: readonly Container[];

  /** @param guests one, whose even containers send to the next odd one; or two, whose first one's send to the second one's */
  constructor(guests: readonly ContainerGuest[], runner: Runner) {
    const [a, b] = guests as [ContainerGuest, ContainerGuest | undefined];
    this.#guests = guests;
    this.#runner = runner;
    this.#senders = b ? a.containers : a.containers.filter((_, i) => i % 2 === 0);
    this.#receivers = b ? b.containers : a.containers.filter((_, i) => i % 2 === 1);
  }

  /** The switch may not be up yet, and has to learn who is where: asks until everybody has an answer, and lets what came late go by. @throws Error */
  meet(): void {
    const { patience } = this.#runner;
    this.#serve();
    const pings = this.#ask(60, FIRST_ANSWER);
    if (!this.#runner.run(patience, () => pings.every((ping) => ping.framesReceived > 0)))
      throw new Error(`${pings.filter((ping) => ping.framesReceived === 0).length} of ${pings.length} pairs had no answer within ${patience / 1000} s`);
    // Nothing overtakes: who has an answer to a request with a number that was not used before has had all that was under way.
    const sent = pings.map((ping) => ping.framesSent);
    const again = this.#ask(60, ANSWER);
    if (!this.#runner.run(patience, () => again.every((ping, i) => ping.framesReceived > (sent[i] as number))))
      throw new Error(`pairs that had met had no answer within ${patience / 1000} s`);
    this.#finish(again);
  }

  /** @throws Error for frames that do not arrive */
  measure(request: MeasureRequest): Measured {
    const { size, roundTrips: seconds = request.seconds } = request;
    const warmUp = Math.min(seconds, request.warmUp);
    const errors: string[] = [];
    const lost = this.#lost;
    const { before, after } = this.#stream({ ...request, size: size - FCS }, errors);
    const roundTrip = size - FCS <= LONGEST_REQUEST ? this.#roundTrips(size - FCS, seconds, warmUp, errors) : null;
    if (this.#lost !== lost) errors.push(`bridges lost ${this.#lost - lost} frames`);
    const frames = after.frames - before.frames;
    const took = (after.at - before.at) / 1000;
    // Readings of several counters are not of one moment.
    const each = (cost: number): number => Math.max(0, cost) / Math.max(frames, 1);
    if (frames === 0) errors.push('nothing arrived');
    const { cpu: start } = before;
    const { cpu: end } = after;
    return {
      size,
      pairs: this.#senders.length,
      frames,
      seconds: took,
      framesPerSecond: frames / took,
      gigabitsPerSecond: gigabits(frames / took, size),
      cpu: start && end && { guest: each(end.guest - start.guest), host: each(end.host - start.host), nic: each(end.nic - start.nic) },
      busy: after.busy.map(({ who, time }, i) => ({ who, share: (time - (before.busy[i]?.time ?? 0)) / (took * 1e9) })),
      exitsPerFrame: each(after.exits - before.exits),
      interruptsPerFrame: each(after.interrupts - before.interrupts),
      kicksPerFrame: each(after.kicks - before.kicks),
      wakesPerFrame: each(after.wakes - before.wakes),
      roundTrip,
      errors,
    };
  }

  get #lost(): number {
    return this.#guests.reduce((sum, { bridge }) => sum + (bridge?.lost ?? 0), 0);
  }

  #received(containers: readonly Container[]): number {
    let frames = 0;
    for (const { workload } of containers) frames += workload.framesReceived;
    return frames;
  }

  #read(): Reading {
    const interrupts = this.#guests.reduce((sum, guest) => sum + guest.interrupts, 0);
    return { ...this.#runner.usage(), frames: this.#received(this.#receivers), interrupts };
  }

  /** Every sender as fast as it can; then all that left has to arrive. */
  #stream({ size, seconds, warmUp, frames = Infinity }: MeasureRequest, errors: string[]): { readonly before: Reading; readonly after: Reading } {
    const receivers = this.#receivers;
    const senders = this.#senders;
    const sinks = receivers.map((receiver) => {
      const sink = new Sink({ kind: 'sink', verify: 'sampled' });
      receiver.workload = sink;
      return sink;
    });
    const sources = senders.map((sender, i) => {
      const destination = [...(receivers[i] as Container).nic.configuration.mac];
      const source = new Generate({ kind: 'generate', count: ENDLESS, sizes: [size], destination, checksumOffload: true }, sender.guest.guest.arena);
      sender.workload = source;
      return source;
    });
    const enough = (count: number) => (): boolean => this.#received(receivers) >= count;
    this.#runner.run(warmUp * 1000, enough(frames / 2));
    const before = this.#read();
    this.#runner.run(seconds * 1000, enough(before.frames + frames));
    // On a machine that has other things to do a moment may pass without a frame.
    if (this.#received(receivers) === before.frames) this.#runner.run(this.#runner.patience, enough(before.frames + 1));
    const after = this.#read();
    for (const sender of senders) sender.workload = new Generate({ kind: 'generate', count: 0 }, sender.guest.guest.arena);
    const arrived = (): boolean => senders.every(({ workload }) => workload.done) && sinks.every((sink, i) => sink.framesReceived === sources[i]?.framesSent);
    if (!this.#runner.run(this.#runner.patience, arrived)) {
      const sent = sources.reduce((sum, source) => sum + source.framesSent, 0);
      throw new Error(`waited ${this.#runner.patience / 1000} s for ${sent} frames, of which ${this.#received(receivers)} arrived`);
    }
    for (const workload of [...sources, ...sinks]) {
      const { errors: wrong, details } = workload.result();
      errors.push(...wrong);
      if ((details.lost ?? 0) > 0) errors.push(`${details.lost} frames are missing`);
      if ((details.unmarked ?? 0) > 0) errors.push(`${details.unmarked} frames came that nobody sent`);
    }
    return { before, after };
  }

  /** One request at a time in each pair; the last answers have to come as well. */
  #roundTrips(size: number, seconds: number, warmUp: number, errors: string[]): Measured['roundTrip'] {
    this.#serve();
    this.#settle(this.#ask(size, ANSWER), warmUp, errors);
    const pings = this.#ask(size, ANSWER);
    this.#settle(pings, seconds, errors);
    const all = new Histogram();
    for (const ping of pings) all.merge(ping.roundTrips);
    return { p50: all.quantile(0.5), p99: all.quantile(0.99), count: all.count };
  }

  #serve(): void {
    for (const receiver of this.#receivers) receiver.workload = new Echo({ kind: 'echo' }, receiver.guest.guest.arena, receiver.nic);
  }

  #ask(size: number, patience: Nanos): Ping[] {
    return this.#senders.map((sender, i) => {
      const { arena, bus } = sender.guest.guest;
      const destination = [...(this.#receivers[i] as Container).nic.configuration.mac];
      const ping = new Ping({ kind: 'ping', count: ENDLESS, size, destination, patience }, arena, () => bus.now());
      sender.workload = ping;
      return ping;
    });
  }

  #settle(pings: readonly Ping[], seconds: number, errors: string[]): void {
    this.#runner.run(seconds * 1000);
    this.#finish(pings);
    for (const ping of pings) errors.push(...ping.result().errors);
    for (const { workload } of this.#receivers) if ((workload.result().details.refused ?? 0) > 0) errors.push('requests found no room for an answer');
  }

  /** Asks no more, and waits for the last answers. @throws Error */
  #finish(pings: readonly Ping[]): void {
    const { patience } = this.#runner;
    // Each has one request out, which somebody else now waits for: a request that was answered is followed by the next.
    const last = this.#senders.map((sender) => {
      const sink = idle();
      sender.workload = sink;
      return sink;
    });
    const out = pings.map((ping) => ping.framesSent - ping.framesReceived);
    if (!this.#runner.run(patience, () => last.every((sink, i) => sink.framesReceived === out[i])))
      throw new Error(`waited ${patience / 1000} s for ${out.reduce((a, b) => a + b, 0)} answers, of which ${this.#received(this.#senders)} arrived`);
  }
}
