// A worker thread as its host sees it: what it serves, how it is told, and what happens when it dies. Its run is one long task of a piscina pool; when the task
// is rejected, what the thread had committed is carried out, the devices are told that their rings are lost, and a new run begins on another thread.

import { MessageChannel, type MessagePort, receiveMessageOnPort } from 'node:worker_threads';
import { Bell, Doorbell } from '#core/doorbell';
import { PortCounters } from '#net/counters';
import { DirectLink } from '#net/direct-link';
import { MAXIMUM_SEGMENT_PORTS } from '#net/embedded-switch/forwarding';
import { SwitchTables } from '#net/embedded-switch/layout';
import { LearningSwitch } from '#net/learning-switch';
import type { RemotePort, RemotePortHost, RemotePortSpec } from '#net/port';
import type { ServiceBudget } from '#net/segment';
import { ValeSwitch } from '#net/vale-switch';
import { MAX_QUEUE_PAIRS } from './carried-features.ts';
import { createRingLink, RingLink, type RingLinkOptions, type RingLinkShare, recoverRingLink } from './ring-link.ts';
import { RunBlock, type WorkerStatistics } from './run-block.ts';
import { TurnJournal } from './turn-journal.ts';
import { VhostNet } from './vhost-net.ts';
import type { LinkRole, PollOptions, RunResult, SegmentKind, WorkerEvent, WorkerJob, WorkerMessage } from './worker-job.ts';

export type RunTask = (job: WorkerJob, transfer: MessagePort[]) => Promise<RunResult>;

interface SegmentSpec {
  readonly kind: SegmentKind;
  /** Whom to expel from an embedded switch's tables when a run has ended. */
  readonly reader: Int32Array;
  readonly budget: ServiceBudget | undefined;
  paused: boolean;
}

interface LinkSpec {
  readonly segment: number;
  readonly name: string;
  readonly share: RingLinkShare;
  readonly counters: PortCounters;
  readonly firstSlot: number;
  readonly role: LinkRole;
}

interface DeviceSpec {
  readonly segment: number;
  readonly spec: RemotePortSpec;
  readonly doorbell: Doorbell;
}

export interface AttachedLink {
  /** This thread's end. */
  readonly ring: RingLink;
  /** The other end's: what the worker gave to the ring, and what it had no room for. */
  readonly counters: PortCounters;
}

const MAXIMUM_PORTS = {
  link: new DirectLink().maximumPorts,
  switch: new LearningSwitch().maximumPorts,
  vale: new ValeSwitch().maximumPorts,
  embedded: MAXIMUM_SEGMENT_PORTS,
};

/** So many runs in a row that died without moving a frame, and no more are begun. */
const VAIN_RUNS = 5;

export interface SegmentSettings {
  /** How frames are forwarded: a direct link of two ports, a learning switch, one that batches by destination, or an embedded switch (`EmbeddedSwitch.share`). */
  readonly kind?: SegmentKind;
  readonly budget?: ServiceBudget;
  /** Serve nothing before `resume`: for a hand-over, in which every port of a segment moves before any frame does. */
  readonly paused?: boolean;
}

export class VhostWorker {
  /** What the thread sleeps on. */
  readonly bell = new Bell();
  /** Told when a run ended by itself: why. The worker has recovered by then, and, unless `again` is false, a new run has begun. */
  onLost: ((reason: string, again: boolean) => void) | undefined;
  readonly #task: RunTask;
  readonly #poll: PollOptions;
  readonly #time: SharedArrayBuffer | undefined;
  readonly #run = new RunBlock();
  readonly #journal: TurnJournal;
  readonly #segments: SegmentSpec[] = [];
  readonly #ports = new Map<number, VhostNet>();
  readonly #links = new Map<number, LinkSpec>();
  readonly #devices = new Map<number, DeviceSpec>();
  #nextPort = 0;
  #nextSlot = 0;
  #channel: MessagePort | undefined;
  #ended: Promise<void> = Promise.resolve();
  #movedBefore = 0;
  #vainRuns = 0;

  /** Made by `VhostPool.worker`. */
  constructor(
    task: RunTask,
    poll: PollOptions,
    options: { readonly journal?: SharedArrayBuffer | undefined; readonly time?: SharedArrayBuffer | undefined } = {},
  ) {
    this.#journal = new TurnJournal(options.journal);
    this.#time = options.time;
    this.#task = task;
    this.#poll = poll;
    this.#begin();
  }

  /** A new segment, served by this worker. */
  segment(settings: SegmentSettings = {}): VhostSegment {
    const segment = this.#segments.length;
    const reader = new Int32Array(new SharedArrayBuffer(4));
    const spec: SegmentSpec = { kind: settings.kind ?? 'link', reader, budget: settings.budget, paused: settings.paused ?? false };
    this.#segments.push(spec);
    this.post(segmentMessage(segment, spec));
    return new VhostSegment(this, segment);
  }

  get statistics(): WorkerStatistics {
    return this.#run.statistics;
  }

  /** Ends the run: every ring stops where it stands. Resolves when the thread is free. */
  async stop(): Promise<void> {
    this.#run.stop = true;
    this.callAttention();
    await this.#ended;
  }

  /**
   * Resolves once the thread has acted on everything that was rung and said before this call, has found nothing more to do, and has been heard: for those whose time stands
   * still meanwhile. At once when no run will begin any more.
   */
  async quiesce(): Promise<void> {
    await Promise.race([this.#run.rest(this.callAttention()), this.#ended]);
    const channel = this.#channel;
    for (let next = channel && receiveMessageOnPort(channel); next !== undefined; next = channel && receiveMessageOnPort(channel))
      this.#hear(next.message as WorkerEvent);
  }

  // ---- for this worker's segments and ports ----

  addPort(segment: number, name: string, pairs: number): VhostNet {
    this.#checkRoom(segment);
    const port = this.#nextPort++;
    const backend = new VhostNet(this, { name, pairs, port, firstSlot: this.#takeSlots(2 * pairs), segment });
    this.#ports.set(port, backend);
    for (const message of backend.announce()) this.post(message);
    return backend;
  }

  addLink(segment: number, name: string, near: Bell, options: RingLinkOptions, role: LinkRole): AttachedLink {
    if (role === 'port') this.#checkRoom(segment);
    const port = this.#nextPort++;
    const { near: ours, far } = createRingLink(near, this.bell, options);
    const link: LinkSpec = { segment, name, share: far, counters: new PortCounters(), firstSlot: this.#takeSlots(2), role };
    this.#links.set(port, link);
    this.post(linkMessage(port, link));
    return { ring: new RingLink(name, ours), counters: link.counters };
  }

  addDevice(segment: number, spec: RemotePortSpec): RemotePort {
    this.#checkRoom(segment);
    const port = this.#nextPort++;
    const device: DeviceSpec = { segment, spec, doorbell: new Doorbell(this.bell) };
    this.#devices.set(port, device);
    this.post(deviceMessage(port, device));
    return {
      doorbell: device.doorbell,
      close: () => {
        if (this.#devices.delete(port)) this.post({ op: 'remove', port });
      },
    };
  }

  /** Here, because the thread would have no one to throw to: it serves other segments as well. */
  #checkRoom(segment: number): void {
    const kind = this.#segments[segment]?.kind ?? 'link';
    const most = MAXIMUM_PORTS[typeof kind === 'object' ? 'embedded' : kind];
    let ports = 0;
    for (const backend of this.#ports.values()) if (backend.segment === segment) ports++;
    for (const link of this.#links.values()) if (link.segment === segment && link.role === 'port') ports++;
    for (const device of this.#devices.values()) if (device.segment === segment) ports++;
    if (ports >= most) throw new RangeError(`this segment joins at most ${most} ports: detach one first`);
  }

  /** False once no run will begin any more: stopped, or given up. */
  get serving(): boolean {
    return this.#channel !== undefined;
  }

  resume(segment: number): void {
    const spec = this.#segments[segment];
    if (spec === undefined) return;
    spec.paused = false;
    this.post({ op: 'resume', segment });
  }

  remove(backend: VhostNet): void {
    if (!this.#ports.delete(backend.port)) return;
    this.post({ op: 'remove', port: backend.port });
  }

  post(message: WorkerMessage): void {
    this.#channel?.postMessage(message);
    this.callAttention();
  }

  callAttention(): number {
    const attention = this.#run.callAttention();
    this.bell.ring();
    return attention;
  }

  #takeSlots(count: number): number {
    const first = this.#nextSlot;
    this.#nextSlot += count;
    return first;
  }

  // ---- runs ----

  #begin(): void {
    const { port1, port2 } = new MessageChannel();
    this.#channel = port1;
    port1.on('message', (event: WorkerEvent) => this.#hear(event));
    // The pool keeps the process alive while it should; this port need not.
    port1.unref();
    this.#movedBefore = this.#moved();
    this.#segments.forEach((spec, segment) => {
      port1.postMessage(segmentMessage(segment, spec));
    });
    for (const backend of this.#ports.values()) for (const message of backend.announce()) port1.postMessage(message);
    for (const [port, link] of this.#links) port1.postMessage(linkMessage(port, link));
    for (const [port, device] of this.#devices) port1.postMessage(deviceMessage(port, device));
    const job: WorkerJob = { run: this.#run.buffer, journal: this.#journal.buffer, bell: this.bell.share(), port: port2, poll: this.#poll, time: this.#time };
    this.#ended = this.#task(job, [port2]).then(
      () => this.#finish(port1, 'stopped'),
      (error: unknown) => this.#finish(port1, error instanceof Error ? error.message : String(error)),
    );
  }

  #hear(event: WorkerEvent): void {
    const port = this.#ports.get(event.port);
    if (event.op === 'missed') port?.onMiss?.();
    else port?.broken(event.index, event.reason);
  }

  #moved(): number {
    let frames = 0;
    for (const backend of this.#ports.values()) frames += backend.counters.snapshot().transmitFrames;
    for (const link of this.#links.values()) frames += link.counters.snapshot().transmitFrames;
    for (const { spec } of this.#devices.values()) frames += spec.counters.snapshot().transmitFrames;
    return frames;
  }

  #finish(channel: MessagePort, reason: string): void {
    channel.close();
    this.#channel = undefined;
    this.bell.forgetSleepers();
    const entries = this.#journal.takeCommitted();
    for (const backend of this.#ports.values()) backend.recover(entries);
    for (const { share, firstSlot } of this.#links.values())
      for (const { slot, available } of entries) {
        if (slot === firstSlot) recoverRingLink(share, 'out', available);
        else if (slot === firstSlot + 1) recoverRingLink(share, 'in', available);
      }
    for (const { spec } of this.#devices.values()) spec.recover();
    for (const { kind, reader } of this.#segments) if (typeof kind === 'object') SwitchTables.expel(kind, reader[0] as number);
    if (this.#run.stop) return;
    this.#vainRuns = this.#moved() === this.#movedBefore ? this.#vainRuns + 1 : 0;
    const again = this.#vainRuns < VAIN_RUNS;
    if (again) this.#begin();
    for (const backend of this.#ports.values()) backend.lost(reason);
    for (const { spec } of this.#devices.values()) spec.lost(reason, again);
    this.onLost?.(reason, again);
  }
}

/** A segment on a worker. */
export class VhostSegment implements RemotePortHost {
  readonly #worker: VhostWorker;
  readonly #segment: number;

  constructor(worker: VhostWorker, segment: number) {
    this.#worker = worker;
    this.#segment = segment;
  }

  /** The backend for one device, attached to this segment. */
  port(name: string, pairs = 1): VhostNet {
    if (!(Number.isInteger(pairs) && pairs >= 1 && pairs <= MAX_QUEUE_PAIRS)) throw new RangeError(`queue pairs ${pairs}: 1 to ${MAX_QUEUE_PAIRS}`);
    return this.#worker.addPort(this.#segment, name, pairs);
  }

  /** A port that is a device of its own kind (an e1000), which the worker makes by the opener its entry module has for it. @throws RangeError when the segment is full */
  openPort(spec: RemotePortSpec): RemotePort {
    return this.#worker.addDevice(this.#segment, spec);
  }

  /**
   * Attaches a port of the calling thread: the returned end is a NetPort for a segment (or any loop) there, whose frames come and go on this segment.
   * @param bell what the calling thread sleeps on
   */
  link(name: string, bell: Bell, options: RingLinkOptions = {}): RingLink {
    return this.#worker.addLink(this.#segment, name, bell, options, 'port').ring;
  }

  /**
   * The same for a monitor of this segment (Segment.monitor): the returned end gets a copy of every frame, as long as the ring has room, and sends none. A segment has one at
   * most: the newest.
   */
  monitor(name: string, bell: Bell, options: RingLinkOptions = {}): AttachedLink {
    return this.#worker.addLink(this.#segment, name, bell, options, 'monitor');
  }

  /** Lets frames move on a segment that was made paused. */
  resume(): void {
    this.#worker.resume(this.#segment);
  }
}

function segmentMessage(segment: number, spec: SegmentSpec): WorkerMessage {
  return { op: 'segment', segment, ...spec };
}

function deviceMessage(port: number, device: DeviceSpec): WorkerMessage {
  const { segment, spec, doorbell } = device;
  const { name, kind, share, counters } = spec;
  return { op: 'device', segment, port, name, kind, share, counters: counters.buffer, kick: doorbell.share() };
}

function linkMessage(port: number, link: LinkSpec): WorkerMessage {
  const { segment, name, share, counters, firstSlot, role } = link;
  return { op: 'link', segment, port, name, share, counters: counters.buffer, firstSlot, role };
}
