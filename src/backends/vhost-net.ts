// One device's rings on a worker's segment: VhostBackend by shared memory. Setups go over as messages, but what is wanted of a ring and what has become of it are
// words in the port's block, so a stop is asked for and observed without any event loop running.

import type { DmaSpaceShare } from '#core/dma-space';
import { Doorbell } from '#core/doorbell';
import type { Call } from '#core/interrupts';
import { PortCounters } from '#net/counters';
import { rarpAnnouncement } from '#net/rarp';
import type { InflightRegion } from '#virtio/inflight';
import { replayPublish, stagingBytes } from '#virtio/open-queue';
import type { VhostBackend, VhostEvent, VhostSession, VringState } from '#virtio/vhost';
import type { QueueSetup, VringPosition } from '#virtio/virtqueue';
import { BACKEND_FEATURES } from './carried-features.ts';
import { PortBlock, RING_BROKEN, RING_RUNNING, RING_STOPPED, type RingStatistics } from './port-block.ts';
import type { JournalEntry } from './turn-journal.ts';
import type { VhostWorker } from './vhost-worker.ts';
import type { WorkerMessage } from './worker-job.ts';

interface Started {
  readonly start: number;
  readonly setup: QueueSetup;
  readonly call: Call;
  readonly staging: Int32Array | undefined;
}

/** What lets another process go on where this one died. */
export interface RingSurvival {
  readonly inflight: InflightRegion;
  /** Memory of `stagingBytes`, if the ring needs any, that outlives the process as well. */
  readonly staging: Int32Array | undefined;
}

export class VhostNet implements VhostBackend {
  readonly name: string;
  /** Of the port on its segment: an embedded switch knows its ports by it. */
  readonly #portName: string;
  readonly features = BACKEND_FEATURES;
  readonly flowFilter = true;
  readonly maxQueuePairs: number;
  /** The port's number on its worker, and the first of its slots in the worker's journal. */
  readonly port: number;
  readonly firstSlot: number;
  readonly segment: number;
  onEvent: ((event: VhostEvent) => void) | undefined;
  /** Rings wait for translations that the session's memory was asked for (DmaSpace.takeFaults). On the machine's thread. */
  onMiss: (() => void) | undefined;
  readonly #worker: VhostWorker;
  readonly #block: PortBlock;
  readonly #counters = new PortCounters();
  readonly #kicks: readonly Doorbell[];
  readonly #started: (Started | undefined)[];
  /** Rings whose worker died while it served them. */
  readonly #lost: boolean[];
  #session: VhostSession | undefined;
  #memory: DmaSpaceShare | undefined;
  #starts = 0;

  /** Made by `VhostSegment.port`. */
  constructor(worker: VhostWorker, parts: { name: string; pairs: number; port: number; firstSlot: number; segment: number }) {
    this.name = `vhost-net ${parts.name}`;
    this.#portName = parts.name;
    this.maxQueuePairs = parts.pairs;
    this.port = parts.port;
    this.firstSlot = parts.firstSlot;
    this.segment = parts.segment;
    this.#worker = worker;
    const rings = 2 * parts.pairs;
    this.#block = new PortBlock(rings);
    this.#kicks = Array.from({ length: rings }, () => new Doorbell(worker.bell));
    this.#started = new Array<Started | undefined>(rings).fill(undefined);
    this.#lost = new Array<boolean>(rings).fill(false);
  }

  // ---- VhostBackend ----

  open(session: VhostSession): void {
    this.#session = session;
    this.#memory = session.memory.share();
    this.#worker.post(this.#openMessage(session, this.#memory));
  }

  /** @param survival kept up to date for a process that takes over */
  startVring(index: number, setup: QueueSetup, position: VringPosition, call: Call, survival?: RingSurvival): void {
    const record = this.#block.records[index];
    const session = this.#session;
    if (record === undefined) throw new RangeError(`${this.name} has ${this.#block.rings} data rings: no ring ${index}`);
    if (session === undefined) throw new TypeError(`${this.name}: open before startVring`);
    // Nobody would ever take it up, nor the stop that a reset waits for.
    if (!this.#worker.serving) throw new Error(`${this.name}: its worker has ended; hand the device over to another backend`);
    const start = ++this.#starts;
    const bytes = stagingBytes(setup.size, session.features);
    // A driver's size is not checked yet: a staging area only for one that can be.
    const staging = survival?.staging ?? (bytes > 0 && bytes <= 8 * 32768 ? new Int32Array(new SharedArrayBuffer(bytes)) : undefined);
    const inflight = survival && { bytes: survival.inflight.bytes, packed: survival.inflight.packed };
    this.#started[index] = { start, setup, call, staging };
    this.#lost[index] = false;
    record.setPosition(position.available, position.used);
    record.state = RING_STOPPED;
    record.wanted = start;
    const kick = (this.#kicks[index] as Doorbell).share();
    this.#worker.post({ op: 'start', port: this.port, index, start, setup, position, call: call.share(), kick, staging, inflight });
  }

  stopVring(index: number): void {
    const record = this.#block.records[index];
    if (record === undefined) return;
    // Guests that ring the doorbell themselves go through the register again, and so to whoever serves the ring next.
    (this.#kicks[index] as Doorbell).revoke();
    if (record.wanted === 0) return;
    record.wanted = 0;
    this.#worker.callAttention();
  }

  vringState(index: number): VringState {
    const record = this.#block.records[index];
    const started = this.#started[index];
    if (record === undefined || started === undefined) return 'stopped';
    if (this.#lost[index]) return 'lost';
    const over = record.taken === started.start;
    if (over && record.state === RING_BROKEN) return 'broken';
    if (record.wanted !== 0) return 'running';
    return over && record.state !== RING_RUNNING ? 'stopped' : 'stopping';
  }

  vringPosition(index: number): VringPosition {
    return this.#block.records[index]?.position ?? { available: 0, used: 0 };
  }

  kick(index: number): void {
    this.#kicks[index]?.ring();
  }

  kickDoorbell(index: number): Doorbell | undefined {
    return this.#kicks[index];
  }

  policyChanged(): void {
    this.#worker.callAttention();
  }

  // ---- for embedders ----

  /** Live; any time. */
  get counters(): PortCounters {
    return this.#counters;
  }

  ringStatistics(index: number): RingStatistics | undefined {
    return this.#block.records[index]?.statistics;
  }

  /** A driver that was here is expected back: until it is, or is no longer expected, what is sent to it is held (on a switch, for as long as a stuck port holds its senders). */
  expect(expected: boolean): void {
    if (this.#block.expected === expected) return;
    this.#block.expected = expected;
    this.#worker.callAttention();
  }

  /** Leaves once the driver is there. */
  announceStation(mac: Uint8Array): boolean {
    this.#worker.post({ op: 'send', port: this.port, frame: rarpAnnouncement(mac) });
    return true;
  }

  /** Takes the device off the segment, after its rings have stopped. */
  detach(): void {
    this.#worker.remove(this);
  }

  // ---- for the worker's host ----

  /** What makes a fresh worker know this port; rings are started again by the device. */
  announce(): WorkerMessage[] {
    const messages: WorkerMessage[] = [
      {
        op: 'port',
        segment: this.segment,
        port: this.port,
        name: this.#portName,
        rings: this.#block.rings,
        block: this.#block.buffer,
        counters: this.#counters.buffer,
        firstSlot: this.firstSlot,
      },
    ];
    if (this.#session !== undefined && this.#memory !== undefined) messages.push(this.#openMessage(this.#session, this.#memory));
    return messages;
  }

  #openMessage(session: VhostSession, memory: DmaSpaceShare): WorkerMessage {
    const { features, policy, statistics } = session;
    return { op: 'open', port: this.port, features: features.words, memory, policy: policy.buffer, statistics: statistics?.buffer };
  }

  /** The worker is dead. Carries out what it had committed of these rings, and frees what it held. */
  recover(entries: readonly JournalEntry[]): void {
    const session = this.#session;
    if (session === undefined) return;
    session.memory.expel(this.#block.reader);
    this.#block.reader = -1;
    this.#started.forEach((started, index) => {
      const record = this.#block.records[index];
      if (started === undefined || record === undefined) return;
      const entry = entries.find((e) => e.slot === this.firstSlot + index);
      const served = record.taken === started.start && record.state === RING_RUNNING;
      if (entry !== undefined && record.taken === started.start) {
        replayPublish(started.setup, session.features, session.memory, entry.usedFrom, entry.used, started.staging);
        record.setPosition(entry.available, entry.used);
      }
      const asked = record.wanted !== 0;
      record.wanted = 0;
      record.taken = started.start;
      if (record.state !== RING_BROKEN) {
        record.state = RING_STOPPED;
        this.#lost[index] = asked;
      }
      (this.#kicks[index] as Doorbell).revoke();
      // The dead thread may have published and not interrupted.
      if (served || entry !== undefined) started.call.repeat();
    });
  }

  lost(reason: string): void {
    if (this.#lost.includes(true)) this.onEvent?.({ kind: 'lost', reason });
  }

  broken(index: number, reason: string): void {
    this.onEvent?.({ kind: 'broken', index, reason });
  }
}
