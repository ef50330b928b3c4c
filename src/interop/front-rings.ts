// The rings of one front end: what it said of each, and from that which of them the data plane serves. A ring runs when it has been given its size, addresses and kick,
// is enabled, and there is memory; anything that changes under a running ring stops it first and starts it again from where it stood.

import { fstatSync, readlinkSync } from 'node:fs';
import type { VhostNet } from '#backends/vhost-net';
import type { Doorbell } from '#core/doorbell';
import { Call } from '#core/interrupts';
import { ACCEPTS_CSUM, ACCEPTS_ECN, ACCEPTS_TSO4, ACCEPTS_TSO6, ACCEPTS_USO4, ACCEPTS_USO6 } from '#net/port';
import { FeatureSet, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1 } from '#virtio/features';
import * as net from '#virtio/net-features';
import { NetPolicy, POLICY_ACTIVE, POLICY_LINK_UP, POLICY_PROMISCUOUS } from '#virtio/net-policy';
import type { QueueSetup, VringPosition } from '#virtio/virtqueue';
import type { EventPoll, Watch } from './event-poll.ts';
import type { FrontMemory } from './front-memory.ts';
import { errorName, type Native } from './native.ts';
import { ProtocolError, type VringAddresses } from './vhost-user-protocol.ts';

const MOST_ENTRIES = 32768;
const HEADER_BYTES = 12;
/** How often a ring is looked at whose front end sends no kicks, in milliseconds. */
const POLLED_EVERY = 1;
const NO_FD = -1;

interface FrontRing {
  size: number;
  addresses: VringAddresses | undefined;
  base: number;
  /** undefined: not started. NO_FD: polled. */
  kick: number | undefined;
  watch: Watch | undefined;
  pollTimer: NodeJS.Timeout | undefined;
  callFd: number;
  errFd: number;
  readonly call: Call;
  enabled: boolean;
  running: boolean;
  /** Where it goes on; undefined: where `base` says. */
  position: VringPosition | undefined;
  broken: boolean;
}

export interface FrontRingsParts {
  readonly native: Native;
  readonly poll: EventPoll;
  readonly backend: VhostNet;
  readonly memory: FrontMemory;
  /** Of the machine's thread. */
  readonly relay: Doorbell;
  /** The driver broke a ring, or the data plane was lost. */
  readonly report: (message: string) => void;
  /** What the front end said before turns out not to be servable: the connection is to end. */
  readonly fail: (reason: string) => void;
}

export class FrontRings {
  readonly #parts: FrontRingsParts;
  readonly #rings: FrontRing[];
  readonly #policy = new NetPolicy();
  #features = new FeatureSet();
  /** What the backend was opened with is out of date. */
  #stale = true;

  constructor(parts: FrontRingsParts) {
    this.#parts = parts;
    this.#rings = Array.from({ length: 2 * parts.backend.maxQueuePairs }, () => ({
      size: 0,
      addresses: undefined,
      base: 0,
      kick: undefined,
      watch: undefined,
      pollTimer: undefined,
      callFd: NO_FD,
      errFd: NO_FD,
      call: new Call(parts.relay, null),
      enabled: false,
      running: false,
      position: undefined,
      broken: false,
    }));
    parts.backend.onEvent = (event) => {
      if (event.kind === 'broken') this.#broke(event.index, event.reason);
      else this.#restartLost(event.reason);
    };
  }

  #ring(index: number): FrontRing {
    const ring = this.#rings[index];
    if (ring === undefined) throw new ProtocolError(`ring ${index}: there are ${this.#rings.length}`);
    return ring;
  }

  // ---- what the front end says; each @throws ProtocolError ----

  async setFeatures(features: FeatureSet): Promise<void> {
    if (features.equals(this.#features)) return;
    if (!features.empty && !modernHeader(features))
      this.#parts.report('a legacy driver without mergeable buffers (a header of 10 bytes): its rings are not served');
    await this.change(() => {
      this.#features = features;
    });
  }

  setSize(index: number, size: number): void {
    const ring = this.#ring(index);
    if (size < 1 || size > MOST_ENTRIES) throw new ProtocolError(`ring ${index}: size ${size} is not 1 to ${MOST_ENTRIES}`);
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

  /** @param fd now owned here; undefined: the front end will not kick. */
  async setKick(index: number, fd: number | undefined): Promise<void> {
    const ring = this.#own(index, fd);
    await this.#stop([ring]);
    this.#closeKick(ring);
    if (fd === undefined) {
      ring.pollTimer = setInterval(() => this.#parts.backend.kick(index), POLLED_EVERY).unref();
    } else {
      const watch = this.#parts.poll.add(fd, () => this.#parts.backend.kick(index));
      if (typeof watch === 'number') {
        this.#parts.native.close(fd);
        throw new ProtocolError(`ring ${index}: its kick descriptor cannot be waited for (${errorName(watch)})`);
      }
      ring.watch = watch;
    }
    ring.kick = fd ?? NO_FD;
    ring.broken = false;
    this.#update();
  }

  setCall(index: number, fd: number | undefined): void {
    const ring = this.#own(index, fd);
    this.#checkEvent(index, fd);
    const old = ring.callFd;
    ring.callFd = fd ?? NO_FD;
    // Between turns: the data plane must not write to a descriptor that is closed, and whose number may be another's by then.
    this.#betweenTurns(() => {
      if (fd === undefined) ring.call.routeOff();
      else ring.call.routeEvent(fd);
    });
    if (old !== NO_FD) this.#parts.native.close(old);
  }

  setErr(index: number, fd: number | undefined): void {
    const ring = this.#own(index, fd);
    this.#checkEvent(index, fd);
    if (ring.errFd !== NO_FD) this.#parts.native.close(ring.errFd);
    ring.errFd = fd ?? NO_FD;
  }

  /** Takes a descriptor for ring `index`; one for a ring that does not exist is closed. */
  #own(index: number, fd: number | undefined): FrontRing {
    const ring = this.#rings[index];
    if (ring !== undefined) return ring;
    if (fd !== undefined) this.#parts.native.close(fd);
    return this.#ring(index);
  }

  /** A descriptor to write events to: an eventfd, or a pipe or socket in its place. A file would fill up, a terminal would print them. */
  #checkEvent(index: number, fd: number | undefined): void {
    if (fd === undefined) return;
    const { native } = this.#parts;
    const stat = fstatSync(fd);
    const event = stat.isFIFO() || stat.isSocket() || readlinkSync(`/proc/self/fd/${fd}`) === 'anon_inode:[eventfd]';
    // A full one must not stop the data plane.
    const result = event ? native.setNonBlocking(fd) : -1;
    if (event && result >= 0) return;
    native.close(fd);
    throw new ProtocolError(`ring ${index}: its descriptor for events is neither an eventfd nor a pipe nor a socket`);
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
    this.#closeKick(ring);
    const position = ring.position;
    ring.position = undefined;
    if (position !== undefined) ring.base = this.#features.has(VIRTIO_F_RING_PACKED) ? (position.available | (position.used << 16)) >>> 0 : position.available;
    this.#update();
    return ring.base;
  }

  async stopAll(): Promise<void> {
    await this.#stop(this.#rings);
    for (const ring of this.#rings) {
      this.#closeKick(ring);
      ring.enabled = false;
      ring.position = undefined;
    }
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

  /** Everything stops and every descriptor is closed. */
  async close(): Promise<void> {
    await this.stopAll();
    this.#parts.backend.onEvent = undefined;
    const { native } = this.#parts;
    for (const ring of this.#rings) {
      ring.call.routeOff();
      for (const fd of [ring.callFd, ring.errFd]) if (fd !== NO_FD) native.close(fd);
      ring.callFd = NO_FD;
      ring.errFd = NO_FD;
    }
  }

  get running(): readonly boolean[] {
    return this.#rings.map((ring) => ring.running);
  }

  // ---- starting and stopping ----

  #wanted(ring: FrontRing): boolean {
    return ring.enabled && !ring.broken && modernHeader(this.#features) && ring.kick !== undefined && ring.addresses !== undefined && ring.size > 0;
  }

  /** Starts what is to run, and says so in the policy. */
  #update(): void {
    const { space } = this.#parts.memory;
    const wanted = this.#rings.map((ring) => space !== undefined && this.#wanted(ring));
    if (space !== undefined && wanted.includes(true)) {
      if (this.#stale) {
        this.#stale = false;
        this.#parts.backend.open({ features: this.#features, memory: space, policy: this.#policy });
      }
      this.#setPolicy(wanted);
      this.#rings.forEach((ring, index) => {
        if (wanted[index] && !ring.running) this.#start(index, ring);
      });
    } else this.#setPolicy(wanted);
  }

  #setPolicy(wanted: readonly boolean[]): void {
    const flags = wanted.includes(true) ? POLICY_LINK_UP | POLICY_PROMISCUOUS | POLICY_ACTIVE : 0;
    const pairs = (wanted.lastIndexOf(true) >>> 1) + 1 || 1;
    const policy = this.#policy;
    const accepts = receiveOffloads(this.#features);
    if (policy.flags === flags && policy.activePairs === pairs && policy.accepts === accepts) return;
    this.#betweenTurns(() =>
      policy.update((p) => {
        p.flags = flags;
        p.accepts = accepts;
        p.headerLength = HEADER_BYTES;
        p.activePairs = pairs;
        p.maximumFrame = 0;
      }),
    );
    this.#parts.backend.policyChanged();
  }

  #betweenTurns(write: () => void): void {
    const { space } = this.#parts.memory;
    if (space === undefined) write();
    else space.betweenTurns(write);
  }

  #start(index: number, ring: FrontRing): void {
    const setup = this.#setup(index, ring);
    const position = ring.position ?? this.#firstPosition(index, ring, setup);
    ring.running = true;
    this.#parts.backend.startVring(index, setup, position, ring.call);
  }

  #setup(index: number, ring: FrontRing): QueueSetup {
    const { memory } = this.#parts;
    const packed = this.#features.has(VIRTIO_F_RING_PACKED);
    const addresses = ring.addresses as VringAddresses;
    const place = (what: string, address: number, bytes: number): number => {
      const guest = memory.guestAddress(address, bytes);
      if (guest === undefined) throw new ProtocolError(`ring ${index}: ${what} of ${bytes} bytes at 0x${address.toString(16)} is not in any memory region`);
      return guest;
    };
    const { size } = ring;
    return {
      size,
      descriptorArea: place('descriptor table', addresses.descriptor, 16 * size),
      driverArea: place('available ring', addresses.available, packed ? 4 : 6 + 2 * size),
      deviceArea: place('used ring', addresses.used, packed ? 4 : 6 + 8 * size),
    };
  }

  /**
   * From the base. What a former back end took and never returned is taken again, as nobody else will return it: so a ring goes on from its used position, which for
   * a split ring only memory knows.
   */
  #firstPosition(index: number, ring: FrontRing, setup: QueueSetup): VringPosition {
    if (this.#features.has(VIRTIO_F_RING_PACKED)) {
      const used = ring.base >>> 16;
      return { available: used, used };
    }
    const used = this.#parts.memory.space?.load16(setup.deviceArea + 2) ?? -1;
    if (used < 0) throw new ProtocolError(`ring ${index}: its used index cannot be read`);
    return { available: used, used };
  }

  async #stop(rings: readonly FrontRing[]): Promise<void> {
    const { backend } = this.#parts;
    const stopping = rings.filter((ring) => ring.running);
    for (const ring of stopping) backend.stopVring(this.#rings.indexOf(ring));
    for (const ring of stopping) {
      const index = this.#rings.indexOf(ring);
      await this.#untilStopped(index);
      if (!ring.running) continue;
      ring.running = false;
      ring.position = backend.vringPosition(index);
    }
  }

  async #untilStopped(index: number): Promise<void> {
    const since = performance.now();
    let told = false;
    for (let look = 0; ; look++) {
      const state = this.#parts.backend.vringState(index);
      if (state !== 'running' && state !== 'stopping') return;
      // A turn is short: look again at once for a while, then leave the processor to the thread that is to stop.
      await new Promise<void>((resolve) => void (look < 50 ? setImmediate(resolve) : setTimeout(resolve, 1)));
      if (told || performance.now() - since < 5000) continue;
      told = true;
      this.#parts.report(`ring ${index} has been asked to stop for 5 s: its memory stays mapped until it does`);
    }
  }

  #closeKick(ring: FrontRing): void {
    if (ring.kick === undefined) return;
    clearInterval(ring.pollTimer);
    ring.pollTimer = undefined;
    ring.watch?.remove();
    ring.watch = undefined;
    if (ring.kick !== NO_FD) this.#parts.native.close(ring.kick);
    ring.kick = undefined;
  }

  // ---- what the data plane says ----

  #broke(index: number, reason: string): void {
    const ring = this.#rings[index];
    if (ring === undefined || !ring.running) return;
    ring.running = false;
    ring.broken = true;
    ring.position = this.#parts.backend.vringPosition(index);
    if (ring.errFd !== NO_FD) this.#parts.native.writeEvent(ring.errFd);
    this.#parts.report(`ring ${index} is broken: ${reason}`);
    this.#updateUnasked();
  }

  #restartLost(reason: string): void {
    this.#parts.report(`the data plane was lost and starts again: ${reason}`);
    this.#rings.forEach((ring, index) => {
      if (!ring.running || this.#parts.backend.vringState(index) !== 'lost') return;
      ring.running = false;
      ring.position = this.#parts.backend.vringPosition(index);
    });
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

/** The header is that of 12 bytes (virtio 1.4 5.1.6: always with VERSION_1; a legacy one had it with mergeable buffers). */
function modernHeader(features: FeatureSet): boolean {
  return features.has(VIRTIO_F_VERSION_1) || features.has(net.VIRTIO_NET_F_MRG_RXBUF);
}

/** What the driver takes unconverted on receive, as ACCEPTS_* bits. */
function receiveOffloads(features: FeatureSet): number {
  if (!features.has(net.VIRTIO_NET_F_GUEST_CSUM)) return 0;
  let bits = ACCEPTS_CSUM;
  if (features.has(net.VIRTIO_NET_F_GUEST_TSO4)) bits |= ACCEPTS_TSO4;
  if (features.has(net.VIRTIO_NET_F_GUEST_TSO6)) bits |= ACCEPTS_TSO6;
  if (features.has(net.VIRTIO_NET_F_GUEST_ECN)) bits |= ACCEPTS_ECN;
  if (features.has(net.VIRTIO_NET_F_GUEST_USO4)) bits |= ACCEPTS_USO4;
  if (features.has(net.VIRTIO_NET_F_GUEST_USO6)) bits |= ACCEPTS_USO6;
  return bits;
}
