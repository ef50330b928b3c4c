// A virtio-net device's data rings over a vDPA device with shadow virtqueues in between: the guest's rings are served on the machine's thread, each forwarded to a ring in memory of
// the host's own that the device serves. So every page the device writes is known, whatever the device, and the guest's rings and the device's may differ in format
// (the device's is split, without event index and indirect tables). A kick is a doorbell of this thread's, so this too takes no exit.

import { BellLoop } from '#core/bell-loop';
import { type Timer, WallClock } from '#core/clock';
import type { DmaMapping, DmaSpace } from '#core/dma-space';
import { type Bell, Doorbell } from '#core/doorbell';
import { Call } from '#core/interrupts';
import { FeatureSet, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED } from '#virtio/features';
import { IovaTree } from '#virtio/iova-tree';
import { VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_NOTF_COAL, VIRTIO_NET_F_VQ_NOTF_COAL } from '#virtio/net-features';
import { openQueue } from '#virtio/open-queue';
import { ShadowQueue } from '#virtio/shadow-queue';
import { ShadowRing } from '#virtio/shadow-ring';
import type { VdpaDevice, VdpaEvent } from '#virtio/vdpa';
import type { VhostBackend, VhostEvent, VhostSession, VringState } from '#virtio/vhost';
import type { QueueSetup, VringPosition } from '#virtio/virtqueue';
import { Moderation, type ModerationTime } from './moderation.ts';
import { VdpaFront } from './vdpa-front.ts';
import { reachable, rights } from './vdpa-reach.ts';

/** A shadow ring takes any chain a guest's of up to this size can have, and a whole packet in one indirect table. */
const MOST = 4096;
const LEAST = 1024;
/** Laps of a ring in one look at it: what is left is looked at again once the event loop has had its turn. */
const ROUNDS = 4;
const FIRST: VringPosition = { available: 0, used: 0 };
/** The driver's ring is what interrupts are moderated by, and a card that did would keep the shadow from what it used. */
const COALESCING = FeatureSet.of(VIRTIO_NET_F_NOTF_COAL, VIRTIO_NET_F_VQ_NOTF_COAL);
const OWN_FORMAT = FeatureSet.of(VIRTIO_F_RING_PACKED, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC);
const NOT_THE_CARDS = OWN_FORMAT.or(COALESCING);

interface Shadow {
  state: VringState;
  /** `broken`, as soon as the device has let go of the guest's buffers. */
  breach: string | undefined;
  position: VringPosition;
  queue: ShadowQueue | undefined;
  call: Call | undefined;
  /** Looked at in part. */
  again: boolean;
  /** Of the driver's interrupts. */
  moderation: Moderation | undefined;
  readonly kick: Doorbell;
  readonly called: Doorbell;
  readonly calls: Call;
}

export class VdpaShadow implements VhostBackend {
  readonly name: string;
  readonly device: VdpaDevice;
  readonly features: FeatureSet;
  readonly maxQueuePairs: number;
  readonly flowFilter: boolean;
  onEvent: ((event: VhostEvent) => void) | undefined;
  onDeviceEvent: ((event: Extract<VdpaEvent, { kind: 'fault' | 'config' }>) => void) | undefined;
  readonly #front: VdpaFront;
  readonly #loop: BellLoop;
  readonly #ownLoop: boolean;
  readonly #rings: readonly Shadow[];
  readonly #unhook: () => void;
  readonly #most: number;
  #session: VhostSession | undefined;
  // Of the session: the shadow rings' memory, and which device addresses it and the guest's RAM have.
  #buffer = new SharedArrayBuffer(0);
  #iovas = new IovaTree();
  #base = 0;
  #time: ModerationTime = { clock: new WallClock(), next: Infinity };
  #timer: Timer | undefined;

  /** @param loop of the machine's thread; without one it has its own, until `close`. */
  constructor(device: VdpaDevice, loop?: BellLoop) {
    this.device = device;
    this.name = `shadow ${device.name}`;
    // The ring's format is between the guest and this.
    this.features = device.features.or(OWN_FORMAT);
    this.maxQueuePairs = device.vringCount >>> 1;
    this.flowFilter = device.flowFilter;
    this.#most = 2 ** Math.floor(Math.log2(Math.min(MOST, device.maxVringSize)));
    this.#ownLoop = loop === undefined;
    this.#loop = loop ?? new BellLoop();
    const { bell } = this.#loop;
    this.#rings = Array.from({ length: 2 * this.maxQueuePairs }, () => makeShadow(bell));
    this.#unhook = this.#loop.add(() => this.#serveAll());
    this.#front = new VdpaFront(device, {
      plan: (memory) => this.#plan(memory),
      event: (event) => this.#deviceEvent(event),
      leaving: () => this.#bringAllBack(),
    });
  }

  /** Stops looking after the rings, when they have stopped. */
  close(): void {
    this.#timer?.cancel();
    this.#unhook();
    if (this.#ownLoop) this.#loop.close();
  }

  // ---- memory ----

  #ringBytes(): number {
    return ShadowRing.bytes(this.#most);
  }

  open(session: VhostSession): void {
    const { slabs } = session.memory.memory;
    this.#session = session;
    const clock = session.clock ?? new WallClock();
    this.#timer?.cancel();
    this.#time = { clock, next: Infinity };
    this.#timer = clock.timer(() => this.#expire());
    this.#iovas = new IovaTree(this.device.iovaRange);
    for (const { base, size } of slabs) this.#iovas.allocate(base, size);
    const bytes = this.#rings.length * this.#ringBytes();
    // The same for every driver: one may come and go as often as it likes.
    if (this.#buffer.byteLength !== bytes) this.#buffer = new SharedArrayBuffer(bytes);
    this.#base = Math.max(...slabs.map(({ base, size }) => base + size));
    this.#iovas.allocate(this.#base, bytes);
    this.#front.open(session, session.features.without(NOT_THE_CARDS), [{ base: this.#base, size: bytes, source: this.#buffer }]);
  }

  /** The guest's RAM as far as the function may reach it, and the shadow rings. */
  #plan(memory: DmaSpace): DmaMapping[] {
    const mappings: DmaMapping[] = [];
    const access = reachable(memory);
    for (const { base, size } of memory.memory.slabs)
      for (const run of rights(access, base, base + size)) mappings.push({ ...run, iova: this.#iovas.iovaOf(run.address, run.size) });
    const each = this.#ringBytes();
    for (const [index, { queue }] of this.#rings.entries()) {
      if (queue === undefined) continue;
      const address = this.#base + index * each;
      mappings.push(...ShadowRing.mappings(queue.ring.size, this.#iovas.iovaOf(address, each), address));
    }
    return mappings;
  }

  // ---- VhostBackend ----

  lacks(offered: FeatureSet): FeatureSet {
    return this.#front.lacks(offered.without(NOT_THE_CARDS));
  }

  startVring(index: number, setup: QueueSetup, position: VringPosition, call: Call): void {
    const shadow = this.#rings[index];
    const session = this.#session;
    if (shadow === undefined) throw new RangeError(`${this.name} has ${this.#rings.length} data rings: no ring ${index}`);
    if (session === undefined || !this.#front.held) throw new TypeError(`${this.name}: open before startVring`);
    const { device } = this;
    const { memory, features } = session;
    shadow.position = position;
    shadow.breach = undefined;
    shadow.call = call;
    const queue = openQueue(setup, position, features, memory);
    if (typeof queue === 'string') {
      shadow.state = 'broken';
      this.onEvent?.({ kind: 'broken', index, reason: queue });
      return;
    }
    const size = Math.min(this.#most, Math.max(LEAST, 2 ** Math.ceil(Math.log2(setup.size))));
    const each = this.#ringBytes();
    const ring = new ShadowRing({
      size,
      buffer: this.#buffer,
      offset: index * each,
      iova: this.#iovas.iovaOf(this.#base + index * each, each),
      inOrder: features.has(VIRTIO_F_IN_ORDER),
    });
    const writable = (index & 1) === 0;
    shadow.queue = new ShadowQueue({ queue, ring, dma: memory, iovas: this.#iovas, writable, merges: writable && features.has(VIRTIO_NET_F_MRG_RXBUF) });
    shadow.moderation = new Moderation(queue, this.#time, () => call.signal());
    this.#moderate(index);
    shadow.state = 'running';
    this.#front.moved();
    device.setVringSize(index, size);
    device.setVringAddresses(index, ring.setup);
    device.setVringPosition(index, FIRST);
    device.setVringCall(index, shadow.calls);
    device.setVringReady(index, true);
    this.#look(index);
  }

  stopVring(index: number): void {
    const shadow = this.#rings[index];
    if (shadow?.state !== 'running') return;
    shadow.kick.revoke();
    shadow.state = 'stopping';
    this.device.setVringReady(index, false);
    this.#settle(index, shadow);
  }

  vringState(index: number): VringState {
    const shadow = this.#rings[index];
    if (shadow === undefined) return 'stopped';
    this.#settle(index, shadow);
    return shadow.state;
  }

  vringPosition(index: number): VringPosition {
    return this.#rings[index]?.position ?? FIRST;
  }

  kick(index: number): void {
    this.#look(index);
  }

  kickDoorbell(index: number): Doorbell | undefined {
    return this.#rings[index]?.kick;
  }

  announceStation(mac: Uint8Array): boolean {
    return this.device.announceStation(mac);
  }

  policyChanged(): void {
    if (!this.#front.held) return;
    for (let index = 0; index < this.#rings.length; index++) this.#moderate(index);
    this.#front.policyChanged();
  }

  // ---- relaying ----

  /** True when there was anything to do, or is still. */
  #serveAll(): boolean {
    let worked = false;
    const rings = this.#rings;
    for (let index = 0; index < rings.length; index++) {
      const shadow = rings[index] as Shadow;
      const kicked = shadow.kick.take() !== 0;
      const called = shadow.called.take() !== 0;
      // Nothing rings when the device has let go of a ring.
      if (shadow.breach !== undefined || shadow.state === 'stopping') {
        this.#settle(index, shadow);
        if (shadow.state === 'running' || shadow.state === 'stopping') worked = true;
      } else if (kicked || called || shadow.again) {
        worked = true;
        this.#look(index);
      }
    }
    return worked;
  }

  #look(index: number): void {
    const shadow = this.#rings[index];
    const relay = shadow?.queue;
    const session = this.#session;
    if (shadow?.state !== 'running' || shadow.breach !== undefined || relay === undefined || session === undefined || !this.#front.held) return;
    shadow.again = false;
    session.memory.sync();
    if (relay.queue.resync()) {
      for (let round = 0; ; round++) {
        if (round === ROUNDS) {
          shadow.again = true;
          this.#loop.bell.ring();
          break;
        }
        relay.disarm();
        const { shown } = relay.queue;
        const used = relay.bringBack();
        if (used > 0) this.#show(shadow, relay, shown);
        const sent = relay.forward();
        if (sent > 0 && relay.ring.expose()) this.device.vringDoorbell(index).ring();
        if (relay.queue.broken !== undefined || relay.broken !== undefined) break;
        if (used + sent === 0 && !relay.arm()) break;
      }
    }
    const breach = relay.queue.broken ?? relay.broken;
    if (breach !== undefined) this.#break(index, shadow, breach);
  }

  /** Bus mastering goes: what the device has used is shown while the guest's rings can be written, as they will stop where they stand then. */
  #bringAllBack(): void {
    this.#session?.memory.sync();
    for (const shadow of this.#rings) {
      const relay = shadow.queue;
      if (relay === undefined || !relay.queue.resync()) continue;
      const { shown } = relay.queue;
      if (relay.bringBack() > 0) this.#show(shadow, relay, shown);
    }
  }

  /** What came back becomes visible, and is counted. */
  #show(shadow: Shadow, relay: ShadowQueue, shown: number): void {
    const wanted = relay.queue.publish();
    const places = (relay.queue.shown - shown) | 0;
    if (places !== 0) shadow.moderation?.count(relay.packets, places, wanted);
    this.#arm();
  }

  /** The timer goes off when the first of what was put off is due. */
  #arm(): void {
    const { next } = this.#time;
    if (next !== Infinity && next !== this.#timer?.deadline) this.#timer?.arm(next);
  }

  /** Sends what was put off until now. */
  #expire(): void {
    const now = this.#time.clock.now();
    this.#time.next = Infinity;
    for (const shadow of this.#rings) {
      const { moderation } = shadow;
      if (moderation === undefined) continue;
      if (moderation.deadline > now) this.#time.next = Math.min(this.#time.next, moderation.deadline);
      else if (this.#reaches(shadow)) moderation.fire();
      else moderation.stop();
    }
    this.#arm();
  }

  /** The driver's ring can be looked at. */
  #reaches({ queue }: Shadow): boolean {
    this.#session?.memory.sync();
    return queue?.queue.resync() === true;
  }

  #moderate(index: number): void {
    const session = this.#session;
    const shadow = this.#rings[index];
    if (shadow?.moderation === undefined || session === undefined || !COALESCING.bits().some((bit) => session.features.has(bit))) return;
    // New parameters are judged by what was counted: that looks whether the driver still wants it, if it can.
    if (!this.#reaches(shadow)) shadow.moderation.stop();
    shadow.moderation.set(session.policy.maxPackets(index), session.policy.maxUsecs(index));
    this.#arm();
  }

  /** Nothing more is taken from the guest's ring; it counts as broken once the device has let go of what it has. */
  #break(index: number, shadow: Shadow, reason: string): void {
    shadow.breach = reason;
    shadow.kick.revoke();
    this.device.setVringReady(index, false);
    this.#loop.bell.ring();
  }

  /** A ring that is to stop: sees whether the device has let go of it. */
  #settle(index: number, shadow: Shadow): void {
    if ((shadow.state !== 'stopping' && shadow.breach === undefined) || shadow.queue === undefined) return;
    const state = this.device.vringState(index);
    if (state === 'running' || state === 'stopping') return;
    this.#finish(index, shadow, state === 'broken' || shadow.breach !== undefined ? 'broken' : state);
  }

  #finish(index: number, shadow: Shadow, state: VringState): void {
    const relay = shadow.queue as ShadowQueue;
    shadow.queue = undefined;
    if (relay.finish(this.device.vringPosition(index).available)) shadow.call?.signal();
    shadow.moderation?.stop();
    shadow.moderation = undefined;
    shadow.again = false;
    shadow.breach ??= relay.broken;
    shadow.position = relay.queue.position;
    shadow.state = shadow.breach === undefined ? state : 'broken';
    if (shadow.breach !== undefined) this.onEvent?.({ kind: 'broken', index, reason: shadow.breach });
  }

  #deviceEvent(event: Exclude<VdpaEvent, { kind: 'released' }>): void {
    if (event.kind === 'fault' || event.kind === 'config') this.onDeviceEvent?.(event);
    else if (event.kind === 'broken') {
      const shadow = this.#rings[event.index];
      if (shadow?.queue === undefined) return;
      shadow.breach ??= event.reason;
      this.#settle(event.index, shadow);
    } else {
      let lost = false;
      this.#rings.forEach((shadow, index) => {
        if (shadow.queue === undefined || this.device.vringState(index) !== 'lost') return;
        const stopping = shadow.state === 'stopping';
        shadow.kick.revoke();
        this.#finish(index, shadow, 'lost');
        if (!stopping) lost = true;
      });
      if (lost) this.onEvent?.(event);
    }
  }
}

function makeShadow(bell: Bell): Shadow {
  const [kick, called] = [new Doorbell(bell), new Doorbell(bell)];
  const calls = new Call(called, null);
  calls.routeRelay();
  return {
    state: 'stopped',
    breach: undefined,
    position: FIRST,
    queue: undefined,
    call: undefined,
    again: false,
    moderation: undefined,
    kick,
    called,
    calls,
  };
}
