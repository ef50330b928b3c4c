// The rings of one front end: what it said of each, and from that which of them the data plane serves. A ring runs when it has been given its size, addresses and kick,
// is enabled, and there is memory; anything that changes under a running ring stops it first and starts it again from where it stood.

import type { DmaSpace } from '#core/dma-space';
import type { Doorbell } from '#core/doorbell';
import type { Log } from '#core/log';
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_RING_PACKED } from '#virtio/features';
import { NetPolicy } from '#virtio/net-policy';
import type { QueueSetup, VringPosition } from '#virtio/virtqueue';
import type { EventPoll } from './event-poll.ts';
import { FrontDevice } from './front-device.ts';
import type { FrontMemory } from './front-memory.ts';
import { type FrontBackend, type FrontRing, modernHeader, newRing, untilStopped } from './front-ring.ts';
import type { InflightArea } from './inflight-area.ts';
import type { Native } from './native.ts';
import { logRing, ringReachable, ringSetup } from './ring-areas.ts';
import { RingDescriptors } from './ring-descriptors.ts';
import { RingSurvivals } from './ring-survival.ts';
import type { PortTurns } from './turn-file.ts';
import { ProtocolError, type VringAddresses } from './vhost-user-protocol.ts';

export const MOST_ENTRIES = 32768;

export interface FrontRingsParts {
  readonly native: Native;
  readonly poll: EventPoll;
  /** Who serves the data rings, of a network device or any other. */
  readonly backend: FrontBackend;
  readonly memory: FrontMemory;
  readonly offered: FeatureSet;
  /** undefined: no network device, its data rings are all there is. */
  readonly mac: Uint8Array | undefined;
  readonly mtu: number | undefined;
  readonly log: Log;
  /** Rung for calls that go to the front end as messages. */
  readonly relay: Doorbell;
  /** What a process before this one left undone. */
  readonly turns?: PortTurns | undefined;
  /** What the front end said before turns out not to be servable: the connection is to end. */
  readonly fail: (reason: string) => void;
  /** A ring broke for which the front end gave no descriptor to tell it by. */
  readonly broken: (index: number) => void;
}

export class FrontRings {
  /** What there is of a network device besides its data rings. */
  readonly device: FrontDevice | undefined;
  readonly #parts: FrontRingsParts;
  readonly #rings: readonly FrontRing[];
  readonly #policy = new NetPolicy();
  #features = new FeatureSet();
  /** What the backend was opened with is out of date. */
  #stale = true;
  readonly #survivals: RingSurvivals;

  constructor(parts: FrontRingsParts) {
    const { backend, mac } = parts;
    this.#parts = parts;
    this.#survivals = new RingSurvivals(parts.turns);
    // The last one can only be a control queue.
    this.#rings = Array.from({ length: 2 * backend.maxQueuePairs + 1 }, (_, index) =>
      newRing(index, new RingDescriptors({ ...parts, kicked: () => this.kick(index), betweenTurns: (write) => this.#betweenTurns(write) })),
    );
    if (mac !== undefined)
      this.device = new FrontDevice({
        ...parts,
        mac,
        queuePairs: backend.maxQueuePairs,
        setup: (index) => this.#setup(this.#ring(index)),
        call: (index) => this.#ring(index).descriptors.call,
        enabled: (index) => this.#rings[index]?.running === true,
        changed: () => this.#setPolicy(),
        broken: (reason) => this.#broke(this.#controlIndex, reason),
      });
    backend.onEvent = (event) => {
      if (event.kind === 'broken') this.#broke(event.index, event.reason);
      else this.#restartLost(event.reason);
    };
  }

  /** -1: there is no control queue. */
  get #controlIndex(): number {
    return this.device?.controlIndex ?? -1;
  }

  #ring(index: number): FrontRing {
    const ring = this.#rings[index];
    if (ring === undefined) throw new ProtocolError(`ring ${index}: there are ${this.#rings.length}`);
    return ring;
  }

  /** Rings there are, the control queue's included. */
  get count(): number {
    return this.#rings.length;
  }

  get packed(): boolean {
    return this.#features.has(VIRTIO_F_RING_PACKED);
  }

  // ---- what the front end says; each @throws ProtocolError ----

  /** Positions are kept here from now on, and rings that nobody said goodbye to go on from where it says. The area is owned here. */
  async setInflight(area: InflightArea): Promise<void> {
    let old: InflightArea | undefined;
    await this.change(() => {
      old = this.#survivals.use(area);
    }).finally(() => old?.unmap());
  }

  async setFeatures(features: FeatureSet): Promise<void> {
    if (features.equals(this.#features)) return;
    if (!features.empty && !modernHeader(features))
      this.#parts.log.guestError('a legacy driver without mergeable buffers (a header of 10 bytes): its rings are not served');
    await this.change(() => {
      this.#features = features;
      if (this.device !== undefined) this.device.features = features;
      this.#parts.memory.translated = features.has(VIRTIO_F_ACCESS_PLATFORM);
    });
  }

  setSize(index: number, size: number): void {
    const ring = this.#ring(index);
    if (size < 1 || size > MOST_ENTRIES) throw new ProtocolError(`ring ${index}: size ${size} is not 1 to ${MOST_ENTRIES}`);
    // Where it lies was checked for the size that it has.
    if (ring.running && size !== ring.size) throw new ProtocolError(`ring ${index}: another size while it runs`);
    ring.size = size;
  }

  async setAddresses(index: number, addresses: VringAddresses): Promise<void> {
    const ring = this.#ring(index);
    await this.#stop([ring]);
    ring.addresses = addresses;
    ring.broken = false;
    this.#update();
  }

  setBase(index: number, base: number): void {
    const ring = this.#ring(index);
    if (ring.running) throw new ProtocolError(`ring ${index}: a base while it runs`);
    ring.base = base;
    ring.position = undefined;
  }

  /** @param mode of RingDescriptors.setKick; a descriptor is owned here from now on */
  async setKick(index: number, mode: number | 'polled' | 'in-band'): Promise<void> {
    const ring = this.#own(index, typeof mode === 'number' ? mode : undefined);
    await this.#stop([ring]);
    ring.descriptors.setKick(mode);
    ring.broken = false;
    this.#update();
  }

  setCall(index: number, fd: number | undefined, relay: boolean): void {
    this.#own(index, fd).descriptors.setCall(fd, relay);
  }

  setErr(index: number, fd: number | undefined): void {
    this.#own(index, fd).descriptors.setErr(fd);
  }

  /** The driver's notification. */
  kick(index: number): void {
    if (index === this.#controlIndex) this.device?.serveControl();
    else this.#parts.backend.kick(index);
  }

  /** A notification in a message of its own: sound only for a ring that exists. @throws ProtocolError */
  kickFromMessage(index: number): void {
    if (this.#ring(index).running) this.kick(index);
  }

  /** The device's part of the policy changed. */
  policyChanged(): void {
    this.#setPolicy();
  }

  /** Calls go to the front end as messages wherever it gives no descriptor for them. */
  relayCalls(): void {
    for (const { descriptors } of this.#rings) descriptors.relayCalls();
  }

  /** Rings whose calls are to go to the front end as messages. */
  takeRelayed(): number[] {
    return this.#rings.filter((ring) => ring.descriptors.takeRelayed()).map((ring) => ring.index);
  }

  /** Takes a descriptor for ring `index`; one for a ring that does not exist is closed. */
  #own(index: number, fd: number | undefined): FrontRing {
    const ring = this.#rings[index];
    if (ring !== undefined) return ring;
    if (fd !== undefined) this.#parts.native.close(fd);
    return this.#ring(index);
  }

  async setEnabled(index: number, enabled: boolean): Promise<void> {
    const ring = this.#ring(index);
    ring.enabled = enabled;
    if (!enabled) await this.#stop([ring]);
    this.#update();
  }

  enableAll(): void {
    for (const ring of this.#rings) ring.enabled = true;
    this.#update();
  }

  /** Stops a ring and returns its base, for GET_VRING_BASE. */
  async stop(index: number): Promise<number> {
    const ring = this.#ring(index);
    await this.#stop([ring]);
    ring.descriptors.closeKick();
    const position = ring.position;
    ring.position = undefined;
    this.#survivals.forget(index);
    if (position !== undefined) ring.base = this.packed ? (position.available | (position.used << 16)) >>> 0 : position.available;
    this.#update();
    return ring.base;
  }

  async stopAll(): Promise<void> {
    await this.#stop(this.#rings);
    for (const ring of this.#rings) {
      ring.descriptors.closeKick();
      ring.enabled = false;
      ring.position = undefined;
      this.#survivals.forget(ring.index);
    }
    this.device?.reset();
    this.#update();
  }

  /** Runs `write` with every ring at rest: it changes memory or features under them. They go on from where they stood. */
  async change(write: () => void): Promise<void> {
    await this.#stop(this.#rings);
    try {
      write();
    } finally {
      this.#stale = true;
    }
    this.#update();
  }

  /** Everything stops and every descriptor is closed. What the in-flight area says stays true. */
  async close(): Promise<void> {
    await this.#stop(this.#rings);
    this.#parts.backend.onEvent = undefined;
    for (const ring of this.#rings) ring.descriptors.close();
    this.#update();
    this.#survivals.close();
  }

  /** Whether each data ring runs. */
  get running(): readonly boolean[] {
    return this.#rings.slice(0, -1).map((ring) => ring.running);
  }

  // ---- starting and stopping ----

  #wanted(ring: FrontRing): boolean {
    const { memory, backend } = this.#parts;
    const exists = ring.index < 2 * backend.maxQueuePairs || ring.index === this.#controlIndex;
    const complete = ring.descriptors.hasKick && ring.addresses !== undefined && ring.size > 0;
    return memory.space !== undefined && exists && complete && ring.enabled && !ring.broken && modernHeader(this.#features);
  }

  /** Starts what is to run, and says so in the policy. */
  #update(): void {
    const { space } = this.#parts.memory;
    const wanted = this.#rings.filter((ring) => this.#wanted(ring));
    if (space !== undefined && wanted.length > 0 && this.#stale) {
      this.#stale = false;
      this.#parts.backend.open({ features: this.#features, memory: space, policy: this.#policy, statistics: this.device?.statistics });
    }
    this.#setPolicy();
    for (const ring of wanted) if (!ring.running) this.#start(ring);
  }

  /** By what is to run, so that a ring that rests for a moment loses no frames. Takes effect before this returns. */
  #setPolicy(): void {
    const data = this.#rings.filter((ring) => ring.index !== this.#controlIndex && this.#wanted(ring));
    const pairs = Math.max(1, ...data.map((ring) => (ring.index >>> 1) + 1));
    if (data.length > 0) this.#parts.backend.expect?.(false);
    const live: [number, number] = [0, 0];
    for (const { index } of data) if ((index & 1) === 0) live[index >>> 6 === 0 ? 0 : 1] |= 1 << ((index >>> 1) & 31);
    this.#betweenTurns(() => this.device?.publish(this.#policy, data.length > 0, pairs, live));
    this.#parts.backend.policyChanged();
  }

  #betweenTurns(write: () => void): void {
    const { space } = this.#parts.memory;
    if (space === undefined) write();
    else space.betweenTurns(write);
  }

  #start(ring: FrontRing): void {
    const { index } = ring;
    const { memory, backend } = this.#parts;
    const setup = this.#setup(ring);
    // It starts when its areas can be reached: each translation that comes is a reason to try again.
    if (!ringReachable(setup, this.packed, memory)) return;
    const position = ring.position ?? this.#firstPosition(ring, setup);
    if (typeof position === 'string') {
      this.#markBroken(ring, position);
      return;
    }
    ring.running = true;
    const survival = this.#survivals.start(index, ring.size, position);
    if (index === this.#controlIndex) this.device?.openControl(index, position, survival?.inflight);
    else backend.startVring(index, setup, position, ring.descriptors.call, survival);
  }

  #setup({ index, size, addresses }: FrontRing): QueueSetup {
    return ringSetup(index, size, addresses as VringAddresses, this.packed, this.#parts.memory);
  }

  #firstPosition({ index, base, descriptors }: FrontRing, setup: QueueSetup): VringPosition | string {
    const { position, remained } = this.#survivals.firstPosition({ index, setup, base, features: this.#features, space: this.#parts.memory.space as DmaSpace });
    // The one who died may have published and not called.
    if (remained && typeof position !== 'string') descriptors.call.repeat();
    return position;
  }

  /** Translations have moved: whoever waited for one looks again. */
  translationsMoved(): void {
    this.#update();
    this.#parts.backend.policyChanged();
    this.device?.serveControl();
  }

  /** The same, where nothing has moved but some request for one was lost. */
  lookAgain(): void {
    this.#betweenTurns(() => {});
    this.#updateUnasked();
    this.#parts.backend.policyChanged();
    this.device?.serveControl();
  }

  async #stop(rings: readonly FrontRing[]): Promise<void> {
    const { backend, log } = this.#parts;
    const stopping = rings.filter((ring) => ring.running);
    for (const ring of stopping) {
      if (ring.index !== this.#controlIndex) backend.stopVring(ring.index);
      else {
        ring.running = false;
        ring.position = this.device?.closeControl();
      }
    }
    for (const ring of stopping) {
      if (!ring.running) continue;
      await untilStopped(backend, ring.index, log);
      if (!ring.running) continue;
      ring.running = false;
      ring.position = backend.vringPosition(ring.index);
    }
    for (const ring of stopping) logRing(this.#setup(ring), this.packed, this.#parts.memory);
  }

  // ---- what the data plane says ----

  #broke(index: number, reason: string): void {
    const ring = this.#rings[index];
    if (ring === undefined || !ring.running) return;
    ring.running = false;
    ring.position = index === this.#controlIndex ? this.device?.closeControl() : this.#parts.backend.vringPosition(index);
    this.#markBroken(ring, reason);
    this.#updateUnasked();
  }

  #markBroken(ring: FrontRing, reason: string): void {
    ring.broken = true;
    if (!ring.descriptors.signalError()) this.#parts.broken(ring.index);
    this.#parts.log.guestError(`ring ${ring.index} is broken: ${reason}`);
  }

  #restartLost(reason: string): void {
    const { backend, log } = this.#parts;
    log.guestError(`the data plane was lost and starts again: ${reason}`);
    for (const ring of this.#rings) {
      if (!ring.running || ring.index === this.#controlIndex || backend.vringState(ring.index) !== 'lost') continue;
      ring.running = false;
      ring.position = backend.vringPosition(ring.index);
    }
    this.#updateUnasked();
  }

  /** Outside of any request. */
  #updateUnasked(): void {
    try {
      this.#update();
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#parts.fail(error.message);
    }
  }
}
