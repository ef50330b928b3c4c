// vhost-user from the front end's side: a virtio-net device of ours whose frames another process moves (DPDK's vhost, any vhost-user-net daemon). Requests are pipelined and no
// call waits; a ring that was asked to stop has stopped when its GET_VRING_BASE is answered, which `vringState` looks for itself. When the back end dies, split
// rings go on with the next one from their used index, so a frame in flight may be sent twice; a packed ring goes on where the back end
// noted in the in-flight area (INFLIGHT_SHMFD) that it stood; of one that keeps none it does not tell, and the device needs a reset. Left to the other process, as no message tells it: receive filters, bus mastering, dirty pages, IOMMU translation (refused).

import type { DmaSpace } from '#core/dma-space';
import type { Doorbell } from '#core/doorbell';
import type { GuestMemory } from '#core/guest-memory';
import type { Call } from '#core/interrupts';
import { Log } from '#core/log';
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1 } from '#virtio/features';
import { NET_DATA_PLANE_FEATURES, NET_POLICY_FEATURES, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MTU } from '#virtio/net-features';
import { type NetPolicy, POLICY_ACTIVE, POLICY_LINK_UP } from '#virtio/net-policy';
import type { VhostBackend, VhostEvent, VhostSession, VringState } from '#virtio/vhost';
import type { QueueSetup, VringPosition } from '#virtio/virtqueue';
import { BackEnds } from './back-ends.ts';
import type { Watch } from './event-poll.ts';
import { descriptorsOf, type FrontEndRing, makeRings, memoryTable, ringAddresses, ringBase } from './front-end-rings.ts';
import { errorName, InteropError } from './interop-error.ts';
import { KeptArea } from './kept-area.ts';
import { placed, type SharedRegion, sharedRegions } from './memory-file.ts';
import type { Native } from './native.ts';
import type { RequestChannel } from './request-channel.ts';
import { type Peer, unfit, words } from './vhost-user-peer.ts';
import * as wire from './vhost-user-protocol.ts';

const MOST_PAIRS = 64;
/** How long the first back end may take to be there, in milliseconds. */
const DEFAULT_PATIENCE = 10_000;
/** Ethernet header and a VLAN tag: what the longest frame has besides the MTU. */
const HEADER_AND_TAG = 18;
/** What a back end needs to know of what the driver accepted. */
const SESSION_FEATURES = NET_DATA_PLANE_FEATURES.or(FeatureSet.of(VIRTIO_F_VERSION_1, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MTU));

/**
 * For `VirtioNetOptions.features`: leaves out what the device answers for and only its data plane could keep, which a vhost-user back end is not told: receive filters,
 * and offloads that the driver switches while it runs.
 */
export const VHOST_USER_NET_FEATURES = { CTRL_RX: false, CTRL_RX_EXTRA: false, CTRL_VLAN: false, CTRL_GUEST_OFFLOADS: false } as const;

export interface VhostUserFrontEndOptions {
  /** Path of the UNIX socket. */
  readonly path: string;
  /** The RAM of the machine the device will be in: a MemoryFile's, or what else consists of such. */
  readonly memory: GuestMemory;
  /** Wait for the back end to connect (DPDK's client=1), in place of connecting to it. */
  readonly listen?: boolean;
  /** Queue pairs wanted. Default 1. */
  readonly queuePairs?: number;
  /** Milliseconds until the first back end has to be there. */
  readonly patience?: number;
  /** Device feature bits not to use. */
  readonly withoutFeatures?: readonly number[];
  readonly log?: Log;
}

export class VhostUserBackend implements VhostBackend {
  readonly name: string;
  readonly features: FeatureSet;
  readonly maxQueuePairs: number;
  onEvent: ((event: VhostEvent) => void) | undefined;
  readonly #native: Native;
  readonly #back: BackEnds;
  readonly #log: Log;
  readonly #rings: readonly FrontEndRing[];
  readonly #watches: Watch[] = [];
  readonly #kept: KeptArea;
  #channel: RequestChannel | undefined;
  #peer: Peer | undefined;
  #connections = 0;
  #closed = false;
  // Of the session.
  #negotiated = new FeatureSet();
  #memory: DmaSpace | undefined;
  #policy: NetPolicy | undefined;
  #regions: readonly SharedRegion[] = [];

  /** Resolves when a back end is there and has said what it can do. @throws InteropError */
  static async connect(options: VhostUserFrontEndOptions): Promise<VhostUserBackend> {
    const { path, memory, listen = false, queuePairs = 1, patience = DEFAULT_PATIENCE } = options;
    if (!Number.isInteger(queuePairs) || queuePairs < 1 || queuePairs > MOST_PAIRS)
      throw new InteropError('NICBOX_VHOST_USER_OPTION', `queue pairs ${queuePairs}: 1 to ${MOST_PAIRS}`);
    sharedRegions(memory, wire.MOST_REGIONS);
    const log = (options.log ?? new Log()).child(`vhost-user ${path}`);
    return BackEnds.first({ path, listen, patience, log, lacking: (peer) => unfit(peer, queuePairs) }, (back, channel, peer) => {
      const backend = new VhostUserBackend(options, back, log, peer);
      back.owner = { adopt: (other, its) => backend.#adopt(other, its), lose: (other, why) => backend.#lose(other, why) };
      backend.#adopt(channel, peer);
      return backend;
    });
  }

  private constructor(options: VhostUserFrontEndOptions, back: BackEnds, log: Log, peer: Peer) {
    this.name = `vhost-user ${options.path}`;
    this.maxQueuePairs = options.queuePairs ?? 1;
    // What is set up through the policy words the other process cannot know of.
    const carried = peer.features.and(NET_DATA_PLANE_FEATURES).without(NET_POLICY_FEATURES);
    this.features = carried.without(FeatureSet.of(...(options.withoutFeatures ?? [])));
    this.#native = back.native;
    this.#kept = new KeptArea(back.native);
    this.#back = back;
    this.#log = log;
    this.#rings = makeRings(back.native, 2 * this.maxQueuePairs, this.name);
    this.#rings.forEach((ring, index) => {
      this.#watch(ring.called, () => ring.call?.signal());
      this.#watch(ring.failed, () => this.#break(index, 'the back end found the ring broken'));
    });
  }

  #watch(fd: number, ready: () => void): void {
    const watch = this.#back.poll.add(fd, ready);
    if (typeof watch === 'number') throw new InteropError('NICBOX_NATIVE_CALL', `${this.name}: cannot wait for an event descriptor: ${errorName(watch)}`);
    this.#watches.push(watch);
  }

  /** A back end is there now. */
  get connected(): boolean {
    return this.#channel !== undefined;
  }

  /** A back end is there and has carried out all it was told (one without REPLY_ACK: was told all): frames sent to the device now arrive. */
  get ready(): boolean {
    this.#channel?.pump();
    return this.#channel?.settled ?? false;
  }

  /** Back ends so far. */
  get connections(): number {
    return this.#connections;
  }

  /** Hangs up for good. Rings that run from here on hold still, as with a back end that never comes. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#channel?.close();
    this.#channel = undefined;
    for (const watch of this.#watches) watch.remove();
    this.#back.close();
    this.#abandon('it was closed');
    this.#kept.drop();
    for (const { kick, called, failed } of this.#rings) for (const fd of [kick, called, failed]) this.#native.close(fd);
  }

  // ---- connections ----

  #adopt(channel: RequestChannel, peer: Peer): void {
    const lacking =
      unfit(peer, this.maxQueuePairs) ?? (this.features.without(peer.features).empty ? undefined : 'offers fewer features than the one before it');
    if (lacking !== undefined) {
      this.#log.guestError(`the back end ${lacking}: hanging up`);
      channel.close();
      this.#back.next();
      return;
    }
    this.#channel = channel;
    this.#peer = peer;
    this.#connections++;
    this.#log.trace('a back end is there');
    if (this.#memory !== undefined) this.#describe();
    this.#rings.forEach((ring, index) => {
      if (ring.state !== 'running') return;
      this.#begin(index, ring);
      this.kick(index);
      // What the last back end returned may not have been told any more.
      ring.call?.repeat();
    });
  }

  #lose(channel: RequestChannel, reason: string): void {
    // One that never got through its introduction has no rings.
    if (this.#channel === channel) {
      this.#channel = undefined;
      this.#peer = undefined;
      this.#log.guestError(`the connection ended: ${reason}`);
      this.#abandon(reason);
    }
    this.#back.next();
  }

  /** Nobody serves the rings any more. */
  #abandon(reason: string): void {
    let lost = false;
    this.#rings.forEach((ring, index) => {
      if (!ring.told) return;
      ring.told = false;
      if (ring.state !== 'running' && ring.state !== 'stopping') return;
      if (this.#recover(index, ring)) {
        ring.state = 'lost';
        lost = true;
      } else this.#break(index, `${reason}, and a packed ring does not tell where it stood`);
    });
    if (lost) this.onEvent?.({ kind: 'lost', reason });
  }

  /** Where a ring stands whose back end is gone: what it took and did not return is taken again. */
  #recover(index: number, ring: FrontEndRing): boolean {
    const { setup } = ring;
    const packed = this.#negotiated.has(VIRTIO_F_RING_PACKED);
    const used = !packed ? this.#usedIndex(ring) : setup && this.#memory && this.#kept.position(index, setup, this.#memory);
    if (used === undefined || used < 0) return false;
    ring.position = { available: used, used };
    return true;
  }

  #usedIndex({ setup }: FrontEndRing): number {
    return setup === undefined ? -1 : (this.#memory?.load16(setup.deviceArea + 2) ?? -1);
  }

  // ---- VhostBackend ----

  open({ features, memory, policy }: VhostSession): void {
    if (features.has(VIRTIO_F_ACCESS_PLATFORM))
      throw new InteropError(
        'NICBOX_VHOST_USER_OPTION',
        'a vhost-user back end cannot be behind an IOMMU: give the device ACCESS_PLATFORM: false, or the machine no IOMMU',
      );
    this.#regions = sharedRegions(memory.memory, wire.MOST_REGIONS);
    this.#memory = memory;
    this.#policy = policy;
    this.#negotiated = features.and(SESSION_FEATURES);
    this.#kept.drop();
    if (this.#channel !== undefined) this.#describe();
  }

  /** Features and memory, to a back end that serves no ring. */
  #describe(): void {
    const peer = this.#peer as Peer;
    const features = this.#negotiated.and(peer.features).or(peer.features.and(PROTOCOL_FEATURES));
    this.#tell(wire.SET_FEATURES, words(features.words[0], features.words[1]), [], 'the features');
    this.#tell(wire.SET_MEM_TABLE, memoryTable(this.#regions), descriptorsOf(this.#regions), 'the memory table');
    if (!features.has(VIRTIO_NET_F_MTU) || !peer.protocol.has(wire.PROTOCOL_F_MTU)) return;
    this.#tell(wire.NET_SET_MTU, words((this.#policy as NetPolicy).maximumFrame - HEADER_AND_TAG, 0), [], 'the MTU');
  }

  startVring(index: number, setup: QueueSetup, position: VringPosition, call: Call): void {
    const ring = this.#rings[index];
    if (ring === undefined) throw new RangeError(`${this.name} has ${this.#rings.length} data rings: no ring ${index}`);
    ring.setup = setup;
    ring.position = position;
    ring.call = call;
    ring.state = 'running';
    ring.told = false;
    if (!placed(this.#regions, setup, this.#negotiated.has(VIRTIO_F_RING_PACKED))) {
      this.#break(index, 'its areas are not in RAM');
      return;
    }
    if (this.#channel !== undefined) this.#begin(index, ring);
  }

  /** Begins the rings that run and that the back end has not been told of. */
  #beginAll(): void {
    this.#rings.forEach((ring, index) => {
      if (ring.state !== 'running' || ring.told) return;
      this.#begin(index, ring);
      this.kick(index);
    });
  }

  /** The back end keeps the rings' positions where they outlive it, if it can; false: it will have the memory for that later. */
  get #areaReady(): boolean {
    const channel = this.#channel;
    if (channel === undefined || this.#peer?.protocol.has(wire.PROTOCOL_F_INFLIGHT_SHMFD) !== true) return true;
    const size = Math.max(...this.#rings.map(({ setup }) => setup?.size ?? 1));
    const shape = { queues: this.#rings.length, size, packed: this.#negotiated.has(VIRTIO_F_RING_PACKED) };
    return this.#kept.has(channel, shape, () => this.#beginAll());
  }

  #begin(index: number, ring: FrontEndRing): void {
    if (!this.#areaReady) return;
    const setup = ring.setup as QueueSetup;
    // Of an earlier run.
    this.#native.events.readEvent(ring.failed, new Uint8Array(new ArrayBuffer(8)));
    ring.told = true;
    ring.enabled = false;
    this.#tell(wire.SET_VRING_NUM, words(index, setup.size));
    this.#tell(wire.SET_VRING_BASE, words(index, ringBase(ring.position, this.#negotiated.has(VIRTIO_F_RING_PACKED))));
    this.#tell(wire.SET_VRING_ADDR, ringAddresses(index, setup), [], `the addresses of ring ${index}`);
    this.#tell(wire.SET_VRING_ERR, words(index, 0), [ring.failed]);
    this.#tell(wire.SET_VRING_CALL, words(index, 0), [ring.called]);
    this.#tell(wire.SET_VRING_KICK, words(index, 0), [ring.kick], `ring ${index}`);
    this.#enable(index, ring);
  }

  /** A ring that is not enabled swallows what is sent and receives nothing: a cable that is pulled, a pair that is not in use. */
  #enable(index: number, ring: FrontEndRing): void {
    const policy = this.#policy;
    const up = POLICY_LINK_UP | POLICY_ACTIVE;
    const wanted = policy !== undefined && (policy.flags & up) === up && index >>> 1 < policy.activePairs;
    if (wanted === ring.enabled || !ring.told || this.#peer?.features.has(wire.VHOST_USER_F_PROTOCOL_FEATURES) !== true) return;
    ring.enabled = wanted;
    this.#tell(wire.SET_VRING_ENABLE, words(index, wanted ? 1 : 0), [], `to ${wanted ? 'enable' : 'disable'} ring ${index}`);
    if (wanted) this.kick(index);
  }

  /** @param acknowledged what it is called when the back end refuses it, which it says if it can. */
  #tell(request: number, payload: Uint8Array, fds: readonly number[] = [], acknowledged?: string): void {
    const asked = this.#peer?.protocol.has(wire.PROTOCOL_F_REPLY_ACK) === true ? acknowledged : undefined;
    this.#channel?.tell(request, payload, fds, asked);
  }

  stopVring(index: number): void {
    const ring = this.#rings[index];
    if (ring === undefined || ring.state !== 'running') return;
    const channel = this.#channel;
    if (channel === undefined || !ring.told) {
      ring.state = 'stopped';
      return;
    }
    ring.state = 'stopping';
    channel.ask(wire.GET_VRING_BASE, words(index, 0), 8, (reply) => this.#stopped(index, ring, reply.getUint32(4, true)));
  }

  #stopped(index: number, ring: FrontEndRing, base: number): void {
    ring.told = false;
    if (ring.state !== 'stopping') return;
    // DPDK gives the available half alone and means both.
    if (this.#negotiated.has(VIRTIO_F_RING_PACKED)) ring.position = { available: base & 0xffff, used: base >>> 16 || base & 0xffff };
    else {
      const used = this.#usedIndex(ring);
      if (used < 0) {
        this.#break(index, 'its used index cannot be read');
        return;
      }
      ring.position = { available: base & 0xffff, used };
    }
    ring.state = 'stopped';
  }

  #break(index: number, reason: string): void {
    const ring = this.#rings[index];
    if (ring === undefined || (ring.state !== 'running' && ring.state !== 'stopping')) return;
    ring.state = 'broken';
    this.onEvent?.({ kind: 'broken', index, reason });
  }

  vringState(index: number): VringState {
    const ring = this.#rings[index];
    if (ring === undefined) return 'stopped';
    // The answer may be there, and whoever asks may not let the event loop run.
    if (ring.state === 'stopping') this.#channel?.pump();
    return ring.state;
  }

  vringPosition(index: number): VringPosition {
    return this.#rings[index]?.position ?? { available: 0, used: 0 };
  }

  kick(index: number): void {
    const ring = this.#rings[index];
    if (ring?.state !== 'running') return;
    // What the back end has to say first may be there, and whoever kicks may not let the event loop run.
    if (!ring.told) this.#channel?.pump();
    if (ring.told) this.#native.events.writeEvent(ring.kick);
  }

  /** None: what another process waits for is no word of memory, so guest threads kick by exits. */
  kickDoorbell(_index: number): Doorbell | undefined {
    return undefined;
  }

  announceStation(mac: Uint8Array): boolean {
    if (this.#channel === undefined || this.#peer?.protocol.has(wire.PROTOCOL_F_RARP) !== true) return false;
    const payload = new Uint8Array(8);
    payload.set(mac);
    this.#tell(wire.SEND_RARP, payload, [], 'to announce the station');
    return true;
  }

  policyChanged(): void {
    this.#rings.forEach((ring, index) => {
      if (ring.state === 'running') this.#enable(index, ring);
    });
  }
}

const PROTOCOL_FEATURES = FeatureSet.of(wire.VHOST_USER_F_PROTOCOL_FEATURES);
