// A network device's data rings over a `VhostBackend`: which the driver wants served, where each stands, and the changes that need a stop first - queue reset, device reset,
// pause, moving to another backend, a lost worker. A stop is asked for and then observed, so every method here returns at once; `settle` brings what is under
// way as far as it goes and is called from whatever may wait for it.

import type { Doorbell } from '#core/doorbell';
import { BusyError, type VirtioHost, VirtioOptionError } from '#virtio/device';
import { FeatureSet } from '#virtio/features';
import { NET_DATA_PLANE_FEATURES } from '#virtio/net-features';
import type { NetPolicy } from '#virtio/net-policy';
import { COUNT_OWN_LOOKS, type NetStatistics } from '#virtio/net-statistics';
import { initialPosition } from '#virtio/open-queue';
import type { VhostBackend } from '#virtio/vhost';
import type { VringPosition } from '#virtio/virtqueue';

/** Starts again after losing a worker this often between two resets; then the device needs a reset, as whatever kills workers will go on doing so. */
const RESTART_LIMIT = 16;

/** Who keeps every ring stopped where it is. */
export const HELD_BY_EMBEDDER = 1;
export const HELD_BY_DRIVER = 2;
export const HELD_BY_OWNER = 4;

interface Ring {
  /** The driver has it enabled and live. */
  wanted: boolean;
  /** Started on the present backend and not seen to have stopped. */
  running: boolean;
  /** A stop was asked for. */
  stopping: boolean;
  position: VringPosition;
}

export class DataPlane {
  /** Starts again on the same backend what a lost worker left; false: the device needs a reset instead. */
  restartLost = true;
  readonly #rings: Ring[];
  readonly #policy: NetPolicy;
  readonly #statistics: NetStatistics;
  #backend: VhostBackend;
  #next: VhostBackend | undefined;
  #host: VirtioHost | undefined;
  #open = false;
  /** The present backend knows the policy words. */
  #introduced = false;
  #holds = 0;
  #restarts = 0;
  /** What the backend said of the ring it gave up last. */
  #breach: { readonly index: number; readonly reason: string } | undefined;
  #settling = false;

  constructor(backend: VhostBackend, policy: NetPolicy, statistics: NetStatistics) {
    this.#backend = backend;
    this.#policy = policy;
    this.#statistics = statistics;
    this.#rings = Array.from({ length: statistics.queues }, () => ({ wanted: false, running: false, stopping: false, position: { available: 0, used: 0 } }));
  }

  attach(host: VirtioHost): void {
    this.#host = host;
    this.#listen(this.#backend);
  }

  #listen(backend: VhostBackend): void {
    backend.onEvent = (event) => {
      if (backend !== this.#backend) return;
      if (event.kind === 'broken') this.#breach = event;
      else this.#host?.log.trace('data plane lost', { reason: event.reason });
      this.settle();
    };
  }

  get backend(): VhostBackend {
    return this.#backend;
  }

  /** Workers lost and replaced since the last reset. */
  get restarts(): number {
    return this.#restarts;
  }

  /** A change of backend is under way. */
  get handingOver(): boolean {
    return this.#next !== undefined;
  }

  /** HELD_* bits. */
  get holds(): number {
    return this.#holds;
  }

  get anyRunning(): boolean {
    return this.#rings.some((ring) => ring.running);
  }

  /** Receive rings that the driver has: bit `pair & 31` of word `pair >>> 5`. */
  get liveReceivers(): [number, number] {
    const live: [number, number] = [0, 0];
    for (let pair = 0; 2 * pair < this.#rings.length; pair++) if (this.#rings[2 * pair]?.wanted) live[pair >>> 5 === 0 ? 0 : 1] |= 1 << (pair & 31);
    return live;
  }

  // ---- what the driver wants ----

  /** DRIVER_OK: the session the rings will start in. */
  begin(): void {
    this.#open = true;
    if (!this.#next) this.#openSession();
  }

  #openSession(): void {
    const host = this.#host as VirtioHost;
    const { features, memory, clock } = host;
    this.#introduced = this.#guard(() => this.#backend.open({ features, memory, policy: this.#policy, clock, statistics: this.#statistics }));
  }

  /** A backend that throws has no place to throw to: this is inside a guest's access. */
  #guard(action: () => void): boolean {
    try {
      action();
      return true;
    } catch (error) {
      this.#host?.needsReset(`backend ${this.#backend.name}: ${error instanceof Error ? error.message : String(error)}`);
      return false;
    }
  }

  /** Serve ring `index` from its beginning, or from `position`. */
  start(index: number, position: VringPosition = initialPosition((this.#host as VirtioHost).features)): void {
    const ring = this.#rings[index];
    if (ring === undefined) return;
    ring.wanted = true;
    ring.position = position;
  }

  /** Starts what is wanted and not running, and has each new ring looked at once: what was made available meanwhile has no other kick. */
  launch(): void {
    if (!this.#open || this.#holds !== 0 || this.#next) return;
    const host = this.#host as VirtioHost;
    const fresh: number[] = [];
    for (let index = 0; index < this.#rings.length; index++) {
      const ring = this.#rings[index] as Ring;
      if (!ring.wanted || ring.running) continue;
      // Set first: a ring may be found broken inside the call.
      ring.running = true;
      ring.stopping = false;
      if (!this.#guard(() => this.#backend.startVring(index, host.queueSetup(index), ring.position, host.call(index)))) ring.running = false;
      // A device that needs a reset has stopped everything: nothing more may start.
      if (!this.#open) return;
      fresh.push(index);
    }
    if (fresh.length === 0) return;
    for (const index of fresh) {
      if (!this.#rings[index]?.running) continue;
      this.#statistics.add(index, COUNT_OWN_LOOKS, 1);
      this.#backend.kick(index);
    }
  }

  kick(index: number): void {
    if (this.#rings[index]?.running) this.#backend.kick(index);
  }

  kickDoorbell(index: number): Doorbell | undefined {
    const ring = this.#rings[index];
    return ring?.running && !ring.stopping ? this.#backend.kickDoorbell(index) : undefined;
  }

  /** Queue reset. */
  stop(index: number): void {
    const ring = this.#rings[index];
    if (ring === undefined) return;
    ring.wanted = false;
    this.#ask(index, ring);
    this.settle();
  }

  /** Reset, NEEDS_RESET, FAILED: nothing is wanted any more. */
  stopAll(): void {
    this.#open = false;
    this.#holds &= ~HELD_BY_DRIVER;
    this.#rings.forEach((ring, index) => {
      ring.wanted = false;
      this.#ask(index, ring);
    });
  }

  #ask(index: number, ring: Ring): void {
    if (!ring.running || ring.stopping) return;
    ring.stopping = true;
    // Before a new owner can look at the queue, guests stop ringing this one's doorbell.
    this.#backend.kickDoorbell(index)?.revoke();
    this.#backend.stopVring(index);
  }

  stopped(index: number): boolean {
    this.settle();
    return this.#rings[index]?.running !== true;
  }

  /** After a reset, when nothing runs. */
  clear(): void {
    this.#restarts = 0;
  }

  // ---- pauses and moves ----

  /** Stops every ring where it is; over when `anyRunning` is false. */
  hold(by: number): void {
    this.#holds |= by;
    this.#rings.forEach((ring, index) => {
      this.#ask(index, ring);
    });
    this.settle();
  }

  release(by: number): void {
    this.#holds &= ~by;
    this.settle();
    this.launch();
  }

  /** Moves the rings to `next` as they stand. @throws VirtioOptionError, BusyError */
  handOver(next: VhostBackend, offered: FeatureSet, flowFilter: boolean): void {
    if (this.#next) throw new BusyError('a hand-over is under way');
    if (next === this.#backend) return;
    checkBackend(next, offered, this.#rings.length / 2, flowFilter);
    this.#next = next;
    this.#rings.forEach((ring, index) => {
      this.#ask(index, ring);
    });
    this.settle();
  }

  // ---- what the backend says ----

  /** Observes stops, broken rings and lost workers, and goes on with what waited for them. */
  settle(): void {
    // An event may come out of a call made here.
    if (this.#settling) return;
    this.#settling = true;
    try {
      const broken = this.#observe();
      if (broken !== undefined) this.#host?.needsReset(broken);
    } finally {
      this.#settling = false;
    }
    if (this.#next && !this.anyRunning) this.#change(this.#next);
    this.launch();
  }

  /** Returns why the device needs a reset, if it does. */
  #observe(): string | undefined {
    let lost = 0;
    let reason: string | undefined;
    for (let index = 0; index < this.#rings.length; index++) {
      const ring = this.#rings[index] as Ring;
      if (!ring.running) continue;
      const state = this.#backend.vringState(index);
      if (state === 'running' || state === 'stopping') continue;
      ring.running = false;
      if (!ring.stopping) this.#backend.kickDoorbell(index)?.revoke();
      if (state === 'broken') {
        if (ring.wanted) reason ??= this.#breach?.index === index ? `queue ${index}: ${this.#breach.reason}` : `the driver broke queue ${index}`;
        ring.wanted = false;
      } else ring.position = this.#backend.vringPosition(index);
      // A ring that stopped unasked has lost whoever served it, whatever it is called.
      if (ring.wanted && !ring.stopping) lost++;
      ring.stopping = false;
    }
    if (lost > 0 && reason === undefined) {
      if (!this.restartLost) return 'its data plane was lost';
      if (++this.#restarts > RESTART_LIMIT) return `its data plane was lost ${this.#restarts} times`;
    }
    return reason;
  }

  #change(next: VhostBackend): void {
    this.#backend.onEvent = undefined;
    this.#backend = next;
    this.#next = undefined;
    this.#introduced = false;
    this.#listen(next);
    if (this.#open) this.#openSession();
  }

  // ---- positions ----

  /** Final once nothing runs; null for a ring that is not live. */
  positions(): (VringPosition | null)[] {
    return this.#rings.map(({ wanted, position }) => (wanted ? { available: position.available, used: position.used } : null));
  }

  policyChanged(): void {
    if (this.#introduced) this.#guard(() => this.#backend.policyChanged());
  }
}

/** @throws VirtioOptionError when `backend` cannot carry what the device offers. */
export function checkBackend(backend: VhostBackend, offered: FeatureSet, pairs: number, flowFilter: boolean): void {
  if (flowFilter && backend.flowFilter !== true)
    throw new VirtioOptionError('NICBOX_BACKEND_FEATURES', `backend ${backend.name} follows no flow filter, which the device has`);
  if (backend.maxQueuePairs < pairs)
    throw new VirtioOptionError('NICBOX_BACKEND_QUEUES', `backend ${backend.name} serves ${backend.maxQueuePairs} queue pairs; the device has ${pairs}`);
  const missing = offered
    .and(NET_DATA_PLANE_FEATURES)
    .without(backend.features)
    .or(backend.lacks?.(offered) ?? new FeatureSet());
  if (!missing.empty)
    throw new VirtioOptionError('NICBOX_BACKEND_FEATURES', `backend ${backend.name} lacks feature bits ${missing.bits().join(', ')}, which the device needs`);
}
