// The control virtqueue's driver side (virtio 1.4 5.1.9.5): one command at a time, its answer waited for. Each method sends only what was negotiated
// and says whether the device accepted it.

import type { GuestArena } from './arena.ts';
import { hasFeature } from './features.ts';
import { encodeHash, encodeRss, encodeRssContext, type RssConfig } from './net-rss.ts';
import { decodeStatistics, encodeStatisticsRequest, type QueueStatistics, replyRoom, type StatisticsRequest } from './net-stats.ts';
import type { DriverRing } from './ring.ts';
import { NET_CTRL, VIRTIO_F, VIRTIO_NET_F } from './virtio-constants.ts';
import { pollUntil, type QueueKick, VirtioError } from './virtio-pci.ts';

const FIRST_ROOM = 4096;
const NOTHING = new Uint8Array(0);

export type ReceiveMode = 'promiscuous' | 'all-multicast' | 'all-unicast' | 'no-multicast' | 'no-unicast' | 'no-broadcast';

/** When a queue's notifications are sent: after so many packets or so long after the first, whichever comes first; either 0: at once. */
export interface Coalescing {
  readonly maxPackets: number;
  readonly maxUsecs: number;
}

/** Bits of VIRTIO_NET_CTRL_GUEST_OFFLOADS: feature numbers, but for the two that lie beyond 63. */
const OFFLOAD_BITS = new Map<number, number>([
  ...[
    VIRTIO_NET_F.GUEST_CSUM,
    VIRTIO_NET_F.GUEST_TSO4,
    VIRTIO_NET_F.GUEST_TSO6,
    VIRTIO_NET_F.GUEST_ECN,
    VIRTIO_NET_F.GUEST_UFO,
    VIRTIO_NET_F.GUEST_USO4,
    VIRTIO_NET_F.GUEST_USO6,
  ].map((bit): [number, number] => [bit, bit]),
  [VIRTIO_NET_F.GUEST_UDP_TUNNEL_GSO, 46],
  [VIRTIO_NET_F.GUEST_UDP_TUNNEL_GSO_CSUM, 47],
]);

const MODES: Record<ReceiveMode, { command: number; feature: number }> = {
  promiscuous: { command: NET_CTRL.RX_PROMISC, feature: VIRTIO_NET_F.CTRL_RX },
  'all-multicast': { command: NET_CTRL.RX_ALLMULTI, feature: VIRTIO_NET_F.CTRL_RX },
  'all-unicast': { command: NET_CTRL.RX_ALLUNI, feature: VIRTIO_NET_F.CTRL_RX_EXTRA },
  'no-multicast': { command: NET_CTRL.RX_NOMULTI, feature: VIRTIO_NET_F.CTRL_RX_EXTRA },
  'no-unicast': { command: NET_CTRL.RX_NOUNI, feature: VIRTIO_NET_F.CTRL_RX_EXTRA },
  'no-broadcast': { command: NET_CTRL.RX_NOBCAST, feature: VIRTIO_NET_F.CTRL_RX_EXTRA },
};

export class ControlQueue {
  readonly ring: DriverRing;
  kick: QueueKick | undefined;
  broken = '';
  /** The device is suspended: no command may be sent. */
  held = false;
  readonly #arena: GuestArena;
  readonly #features: bigint;
  /** Command block: room for class, command and data, then for the answer. */
  #at: number;
  #room = FIRST_ROOM;
  /** RSS contexts that exist, and what was asked of the device once. */
  readonly #contexts = new Set<number>();
  #mostContexts: number | undefined;
  #supported: bigint | undefined;
  readonly #offsets = new Int32Array(4);
  readonly #lengths = new Int32Array(4);
  readonly #framed: boolean;
  readonly #tokens = new Int32Array(1);
  readonly #written = new Int32Array(1);

  /** `framed`: commands are cut into descriptors as the legacy interface wants it without ANY_LAYOUT (virtio 1.4 5.1.9.8). */
  constructor(arena: GuestArena, ring: DriverRing, features: bigint, framed = false) {
    this.#framed = framed;
    this.#arena = arena;
    this.ring = ring;
    this.#features = features;
    this.#at = arena.allocate(2 * FIRST_ROOM, 64);
  }

  /** Sends a command and waits for its answer; true: the device said OK. @throws VirtioError when it does not answer, or answers nonsense. */
  command(kind: number, command: number, data: Uint8Array): boolean {
    return this.query(kind, command, data, 0) !== undefined;
  }

  /**
   * The same for a command with a result of up to `most` bytes, which lies behind the ack (virtio 1.4 5.1.9.5): what the device wrote of it, or undefined when it
   * said ERR. @throws VirtioError
   */
  query(kind: number, command: number, data: Uint8Array, most: number): Uint8Array | undefined {
    if (this.broken !== '') throw new VirtioError('ERR_VIRTIO_CONTROL', this.broken);
    if (this.held) throw new VirtioError('ERR_VIRTIO_SUSPENDED', 'a suspended device takes no command: resume it first');
    this.#makeRoom(Math.max(2 + data.length, 1 + most));
    const { u8 } = this.#arena;
    const ack = this.#at + this.#room;
    u8[this.#at] = kind;
    u8[this.#at + 1] = command;
    u8.set(data, this.#at + 2);
    u8.fill(0, ack + 1, ack + 1 + most);
    u8[ack] = 0xff;
    const readable = this.#cut(kind, command, data);
    this.#offsets[readable] = ack;
    this.#lengths[readable] = 1 + most;
    if (!this.ring.addList(this.#offsets, this.#lengths, readable, 1, 0)) return this.#fail('the control queue has no room for a command');
    if (this.ring.publish()) this.kick?.ring(this.ring.notificationData);
    const answered = pollUntil(() => this.ring.harvest(this.#tokens, this.#written, 1) === 1 || this.ring.broken !== '');
    if (this.ring.broken !== '') return this.#fail(this.ring.broken);
    if (!answered) return this.#fail(`class ${kind} command ${command} was not answered`);
    // The device owns these bytes until it says it wrote them.
    const written = this.#hasLegacyLengths ? 1 + most : (this.#written[0] as number);
    if (written < 1) return this.#fail(`class ${kind} command ${command} was answered with no ack`);
    return u8[ack] === NET_CTRL.OK ? u8.slice(ack + 1, ack + written) : undefined;
  }

  /** 5.1.9.1 (driver SHOULD, legacy): the used length of the control queue does not count. */
  get #hasLegacyLengths(): boolean {
    return !this.#has(VIRTIO_F.VERSION_1);
  }

  /** Lists the readable pieces of a command: one, or class and command apart from the data, and the two address lists apart from each other. */
  #cut(kind: number, command: number, data: Uint8Array): number {
    this.#offsets[0] = this.#at;
    if (!this.#framed) {
      this.#lengths[0] = 2 + data.length;
      return 1;
    }
    this.#lengths[0] = 2;
    if (data.length === 0) return 1;
    this.#offsets[1] = this.#at + 2;
    this.#lengths[1] = data.length;
    if (kind !== NET_CTRL.MAC || command !== NET_CTRL.MAC_TABLE_SET) return 2;
    const unicast = 4 + 6 * new DataView(data.buffer, data.byteOffset).getUint32(0, true);
    this.#lengths[1] = unicast;
    this.#offsets[2] = this.#at + 2 + unicast;
    this.#lengths[2] = data.length - unicast;
    return 3;
  }

  #makeRoom(bytes: number): void {
    if (bytes <= this.#room) return;
    const room = 2 ** (32 - Math.clz32(bytes - 1));
    const at = this.#arena.allocate(2 * room, 64);
    this.#arena.free(this.#at);
    this.#at = at;
    this.#room = room;
  }

  #fail(why: string): never {
    this.broken = `control queue: ${why}`;
    throw new VirtioError('ERR_VIRTIO_CONTROL', this.broken);
  }

  #has(feature: number): boolean {
    return hasFeature(this.#features, feature);
  }

  /** False also when the mode was not negotiated: then nothing is sent. */
  setReceiveMode(mode: ReceiveMode, on: boolean): boolean {
    const { command, feature } = MODES[mode];
    return this.#has(feature) && this.command(NET_CTRL.RX, command, Uint8Array.of(on ? 1 : 0));
  }

  /** Replaces the receive filter's address lists. Each address is 6 bytes. */
  setMacTable(unicast: readonly Uint8Array[], multicast: readonly Uint8Array[]): boolean {
    if (!this.#has(VIRTIO_NET_F.CTRL_RX)) return false;
    const data = new Uint8Array(8 + 6 * (unicast.length + multicast.length));
    const view = new DataView(data.buffer);
    let at = 0;
    for (const list of [unicast, multicast]) {
      view.setUint32(at, list.length, true);
      at += 4;
      for (const mac of list) {
        data.set(mac.subarray(0, 6), at);
        at += 6;
      }
    }
    return this.command(NET_CTRL.MAC, NET_CTRL.MAC_TABLE_SET, data);
  }

  setMacAddress(mac: Uint8Array): boolean {
    // virtio 1.4 5.1.9.5.2.2 (driver MUST NOT): no command of this class without CTRL_RX, although this one has a bit of its own as well.
    return this.#has(VIRTIO_NET_F.CTRL_RX) && this.#has(VIRTIO_NET_F.CTRL_MAC_ADDR) && this.command(NET_CTRL.MAC, NET_CTRL.MAC_ADDR_SET, mac.subarray(0, 6));
  }

  filterVlan(vid: number, pass: boolean): boolean {
    const command = pass ? NET_CTRL.VLAN_ADD : NET_CTRL.VLAN_DEL;
    return this.#has(VIRTIO_NET_F.CTRL_VLAN) && this.command(NET_CTRL.VLAN, command, Uint8Array.of(vid & 0xff, vid >>> 8));
  }

  acknowledgeAnnouncement(): boolean {
    return this.#has(VIRTIO_NET_F.GUEST_ANNOUNCE) && this.command(NET_CTRL.ANNOUNCE, NET_CTRL.ANNOUNCE_ACK, NOTHING);
  }

  /** Refused while RSS contexts exist: virtio 1.4 5.1.9.5.8 (driver MUST NOT). */
  setQueuePairs(pairs: number): boolean {
    if (!this.#has(VIRTIO_NET_F.MQ) || this.#contexts.size > 0) return false;
    return this.command(NET_CTRL.MQ, NET_CTRL.MQ_VQ_PAIRS_SET, Uint8Array.of(pairs & 0xff, pairs >>> 8));
  }

  /** Spreads received frames by their hash; also enables the queues named in the table and the transmit queues. */
  setRss(config: RssConfig): boolean {
    return this.#has(VIRTIO_NET_F.RSS) && this.command(NET_CTRL.MQ, NET_CTRL.MQ_RSS_CONFIG, encodeRss(config));
  }

  /** What is hashed for HASH_REPORT where the device steers by itself. */
  setHash(hashTypes: number, key: Uint8Array): boolean {
    return this.#has(VIRTIO_NET_F.HASH_REPORT) && this.command(NET_CTRL.MQ, NET_CTRL.MQ_HASH_CONFIG, encodeHash(hashTypes, key));
  }

  /** Encapsulations whose inner header is hashed: NET_HASH_TUNNEL bits among those the device supports; 0 for none. */
  setHashTunnels(types: number): boolean {
    if (!this.#has(VIRTIO_NET_F.HASH_TUNNEL)) return false;
    const data = new Uint8Array(4);
    new DataView(data.buffer).setUint32(0, types, true);
    return this.command(NET_CTRL.HASH_TUNNEL, NET_CTRL.HASH_TUNNEL_SET, data);
  }

  /** How many RSS contexts there can be beside the default configuration; 0 when the device does not say. */
  get mostRssContexts(): number {
    if (!this.#has(VIRTIO_NET_F.RSS_CONTEXT)) return 0;
    if (this.#mostContexts === undefined) {
      const result = this.query(NET_CTRL.RSS_CTX, NET_CTRL.RSS_CTX_CAP_GET, NOTHING, 2);
      this.#mostContexts = result?.length === 2 ? (result[0] as number) | ((result[1] as number) << 8) : 0;
    }
    return this.#mostContexts;
  }

  /** Adds context `id`, 1 to `mostRssContexts`, or changes it when there is one. */
  setRssContext(id: number, config: RssConfig): boolean {
    if (id < 1 || id > this.mostRssContexts) return false;
    const command = this.#contexts.has(id) ? NET_CTRL.RSS_CTX_MOD : NET_CTRL.RSS_CTX_ADD;
    const done = this.command(NET_CTRL.RSS_CTX, command, encodeRssContext(id, config));
    if (done) this.#contexts.add(id);
    return done;
  }

  deleteRssContext(id: number): boolean {
    if (!this.#contexts.has(id)) return false;
    const done = this.command(NET_CTRL.RSS_CTX, NET_CTRL.RSS_CTX_DEL, Uint8Array.of(id & 0xff, id >>> 8));
    if (done) this.#contexts.delete(id);
    return done;
  }

  /** For every receive or every transmit queue. */
  setCoalescing(direction: 'receive' | 'transmit', value: Coalescing): boolean {
    const command = direction === 'receive' ? NET_CTRL.NOTF_COAL_RX_SET : NET_CTRL.NOTF_COAL_TX_SET;
    return this.#has(VIRTIO_NET_F.NOTF_COAL) && this.command(NET_CTRL.NOTF_COAL, command, encodeCoalescing(value));
  }

  /** For one queue, by its virtqueue index. */
  setQueueCoalescing(queue: number, value: Coalescing): boolean {
    const data = new Uint8Array(12);
    new DataView(data.buffer).setUint16(0, queue, true);
    data.set(encodeCoalescing(value), 4);
    return this.#has(VIRTIO_NET_F.VQ_NOTF_COAL) && this.command(NET_CTRL.NOTF_COAL, NET_CTRL.NOTF_COAL_VQ_SET, data);
  }

  /** What is in force for one queue; undefined when the device said ERR (virtio 1.4 5.1.9.5.10 (driver MUST): nothing it wrote then counts). */
  queueCoalescing(queue: number): Coalescing | undefined {
    if (!this.#has(VIRTIO_NET_F.VQ_NOTF_COAL)) return undefined;
    const result = this.query(NET_CTRL.NOTF_COAL, NET_CTRL.NOTF_COAL_VQ_GET, Uint8Array.of(queue & 0xff, queue >>> 8, 0, 0), 8);
    if (result?.length !== 8) return undefined;
    const view = new DataView(result.buffer, result.byteOffset);
    return { maxPackets: view.getUint32(0, true), maxUsecs: view.getUint32(4, true) };
  }

  /** Kinds of statistics the device has: a bit for each STATISTICS type number. 0n without DEVICE_STATS. */
  get statisticsTypes(): bigint {
    if (!this.#has(VIRTIO_NET_F.DEVICE_STATS)) return 0n;
    if (this.#supported === undefined) {
      const result = this.query(NET_CTRL.STATS, NET_CTRL.STATS_QUERY, NOTHING, 8);
      this.#supported = result?.length === 8 ? new DataView(result.buffer, result.byteOffset).getBigUint64(0, true) : 0n;
    }
    return this.#supported;
  }

  /** Counters of queues in one command; undefined when the device refused it. Types it did not say it has are left out (virtio 1.4 5.1.9.5.11.13, driver MUST). */
  statistics(requests: readonly StatisticsRequest[]): QueueStatistics[] | undefined {
    const supported = this.statisticsTypes;
    const asked = requests.map(({ queue, types }) => ({ queue, types: types & supported })).filter(({ types }) => types !== 0n);
    if (asked.length === 0) return supported === 0n ? undefined : [];
    const result = this.query(NET_CTRL.STATS, NET_CTRL.STATS_GET, encodeStatisticsRequest(asked), replyRoom(asked));
    return result && decodeStatistics(result);
  }

  /** Which receive offloads are on from now: feature bit numbers, which have to be among the negotiated ones. */
  setGuestOffloads(bits: readonly number[]): boolean {
    if (!this.#has(VIRTIO_NET_F.CTRL_GUEST_OFFLOADS) || !bits.every((b) => this.#has(b) && OFFLOAD_BITS.has(b))) return false;
    const data = new Uint8Array(8);
    let mask = 0n;
    for (const bit of bits) mask |= 1n << BigInt(OFFLOAD_BITS.get(bit) as number);
    new DataView(data.buffer).setBigUint64(0, mask, true);
    return this.command(NET_CTRL.GUEST_OFFLOADS, NET_CTRL.GUEST_OFFLOADS_SET, data);
  }

  dispose(): void {
    this.ring.dispose();
    this.#arena.free(this.#at);
  }
}

function encodeCoalescing(value: Coalescing): Uint8Array {
  const data = new Uint8Array(8);
  const view = new DataView(data.buffer);
  view.setUint32(0, value.maxPackets, true);
  view.setUint32(4, value.maxUsecs, true);
  return data;
}
