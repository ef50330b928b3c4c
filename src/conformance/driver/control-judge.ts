// The control virtqueue's commands (virtio 1.4 5.1.9.5) as a device sees them come: sent only for what was negotiated, with values in the bounds the device gave.

import type { FeatureName } from '../features.ts';
import { CTRL, type NET_CONFIG } from '../layout.ts';
import type { NetState } from './judge.ts';
import { type Chain, gather } from './view.ts';

const MOST = 65_536;
/** Offload bits of VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET. */
const OFFLOADS: readonly (readonly [bit: number, FeatureName])[] = [
  [1, 'GUEST_CSUM'],
  [7, 'GUEST_TSO4'],
  [8, 'GUEST_TSO6'],
  [9, 'GUEST_ECN'],
  [10, 'GUEST_UFO'],
  [46, 'GUEST_UDP_TUNNEL_GSO'],
  [47, 'GUEST_UDP_TUNNEL_GSO_CSUM'],
  [54, 'GUEST_USO4'],
  [55, 'GUEST_USO6'],
];
/** Kinds of statistics that are about one queue's direction: bits of types_bitmap (5.1.9.5.11). */
const STATS = { control: 1n << 32n, receive: 0b1111n, transmit: 0b1111n << 16n } as const;

export class ControlJudge {
  readonly #net: NetState;
  readonly #contexts = new Set<number>();
  /** What queries were answered with. Undefined: not asked, or not told. */
  #mostContexts: number | undefined;
  #statistics: bigint | undefined;
  /** Takes the answer to the query under way. */
  #pending: ((answer: Uint8Array) => void) | undefined;

  constructor(net: NetState) {
    this.#net = net;
  }

  reset(): void {
    this.#contexts.clear();
    this.#mostContexts = undefined;
    this.#statistics = undefined;
  }

  /** The device gave the command back. */
  answered(chain: Chain): void {
    this.#pending?.(gather(this.#net.memory, chain, true, 16));
    this.#pending = undefined;
  }

  command(chain: Chain): void {
    const { memory } = this.#net;
    this.#pending = undefined;
    const bytes = gather(memory, chain, false, MOST);
    if (bytes.length < 2) return;
    const [kind, command] = bytes as unknown as [number, number];
    const data = bytes.subarray(2);
    const view = new DataView(data.buffer, data.byteOffset, data.length);
    switch (kind) {
      case CTRL.RX:
        this.#receiveMode(command);
        break;
      case CTRL.MAC:
        this.#mac(command, data, view);
        break;
      case CTRL.ANNOUNCE:
        this.#net.findings.check('net-ctrl.34', 'ANNOUNCE_ACK sent', command, CTRL.ANNOUNCE_ACK);
        break;
      case CTRL.MQ:
        this.#queues(command, view);
        break;
      case CTRL.OFFLOADS:
        this.#offloads(view);
        break;
      case CTRL.COAL:
        this.#coalescing(command, view);
        break;
      case CTRL.TUNNEL:
        this.#tunnels(view);
        break;
      case CTRL.CONTEXT:
        this.#context(command, view);
        break;
      case CTRL.STATS:
        this.#stats(command, view, chain);
        break;
      default:
    }
  }

  #needs(clause: string, what: string, name: FeatureName): void {
    this.#net.findings.check(clause, `${what}: ${name} negotiated`, this.#net.has(name), true);
  }

  #receiveMode(command: number): void {
    if (command <= CTRL.ALLMULTI) this.#needs('net-ctrl.20', `receive mode ${command} sent`, 'CTRL_RX');
    else this.#needs('net-ctrl.21', `receive mode ${command} sent`, 'CTRL_RX_EXTRA');
  }

  #mac(command: number, data: Uint8Array, view: DataView): void {
    this.#needs('net-ctrl.26', `MAC command ${command} sent`, 'CTRL_RX');
    if (command !== CTRL.TABLE_SET) return;
    // Two lists, one after the other, each a count and so many addresses; nothing else.
    let at = 0;
    for (let list = 0; list < 2; list++) at = at + 4 <= data.length ? at + 4 + 6 * view.getUint32(at, true) : Infinity;
    this.#net.findings.that('net-ctrl.28', `TABLE_SET: its two lists end at ${at}`, at === data.length, 'the end of the data', data.length);
  }

  #queues(command: number, view: DataView): void {
    if (command === CTRL.RSS_CONFIG) this.#rss(view, 0);
    else if (command === CTRL.VQ_PAIRS_SET) this.#pairs(view);
    else if (command === CTRL.HASH_CONFIG && view.byteLength >= 13)
      this.#net.findings.check(
        'net-hash.13',
        'reserved words of a hash configuration',
        [0, 1, 2, 3].map((i) => view.getUint16(4 + 2 * i, true)),
        [0, 0, 0, 0],
      );
  }

  #pairs(view: DataView): void {
    const net = this.#net;
    if (view.byteLength < 2) return;
    const pairs = view.getUint16(0, true);
    const most = net.config('max_virtqueue_pairs');
    if (net.knowsConfig) net.findings.that('net-mq.10', 'pairs asked for', pairs >= 1 && pairs <= most, `1 to ${most}`, pairs);
    this.#enabled('net-mq.9', pairs, `${pairs} pairs asked for`);
    if (net.has('RSS_CONTEXT')) net.findings.check('net-rss.16', 'RSS contexts there are when VQ_PAIRS_SET is sent', this.#contexts.size, 0);
    net.pairs = Math.max(1, pairs);
  }

  #enabled(clause: string, pairs: number, what: string): void {
    const missing = Array.from({ length: 2 * Math.min(pairs, 0x8000) }, (_, queue) => queue).filter((queue) => !this.#net.isEnabled(queue));
    this.#net.findings.check(clause, `${what}: queues of them that were not set up`, missing, []);
  }

  /** struct virtio_net_rss_config at `start`. */
  #rss(view: DataView, start: number): void {
    const { findings } = this.#net;
    this.#needs('net-rss.3', 'an RSS configuration sent', 'RSS');
    if (view.byteLength < start + 8) return;
    const mask = view.getUint16(start + 4, true);
    const entries = mask + 1;
    findings.that('net-rss.5', 'entries of an indirection table', (entries & mask) === 0, 'a power of two', entries);
    this.#bound('net-rss.6', 'mask of an indirection table', mask, 'rss_max_indirection_table_length');
    this.#subset('net-rss.7', 'hash types asked for', view.getUint32(start, true), 'supported_hash_types');
    const tail = start + 8 + 2 * entries;
    if (tail > view.byteLength) return;
    const queues = [view.getUint16(start + 6, true), ...Array.from({ length: entries }, (_, i) => view.getUint16(start + 8 + 2 * i, true))];
    findings.check(
      'net-rss.4',
      'receive queues of an indirection table that are not enabled',
      [...new Set(queues)].filter((queue) => !this.#net.isEnabled(2 * queue)),
      [],
    );
    // 5.1.9.5.7: it enables the queues it names, and so many transmit queues.
    if (start === 0 && tail + 2 <= view.byteLength) this.#net.pairs = Math.max(1, view.getUint16(tail, true), ...queues.map((queue) => queue + 1));
  }

  #bound(clause: string, what: string, value: number, field: Exclude<keyof typeof NET_CONFIG, 'mac'>): void {
    if (!this.#net.knowsConfig) return;
    const most = this.#net.config(field);
    this.#net.findings.that(clause, what, value < most, `below ${most}`, value);
  }

  #subset(clause: string, what: string, value: number, field: Exclude<keyof typeof NET_CONFIG, 'mac'>): void {
    if (!this.#net.knowsConfig) return;
    const most = this.#net.config(field);
    this.#net.findings.that(clause, what, (value & ~most) === 0, `among 0x${most.toString(16)}`, value);
  }

  #offloads(view: DataView): void {
    if (view.byteLength < 8) return;
    const bits = view.getBigUint64(0, true);
    const other = [...Array(64).keys()].filter(
      (bit) => ((bits >> BigInt(bit)) & 1n) === 1n && !OFFLOADS.some(([known, name]) => known === bit && this.#net.has(name)),
    );
    this.#net.findings.check('net-ctrl.36', 'offload bits enabled that were not negotiated', other, []);
  }

  #coalescing(command: number, view: DataView): void {
    if (command === CTRL.COAL_TX_SET || command === CTRL.COAL_RX_SET) {
      this.#needs('net-coal.2', `coalescing command ${command} sent`, 'NOTF_COAL');
      return;
    }
    this.#needs('net-coal.3', `coalescing command ${command} sent`, 'VQ_NOTF_COAL');
    if (view.byteLength < 2) return;
    const queue = view.getUint16(0, true);
    const role = this.#net.role(queue);
    const known = (role === 'receive' || role === 'transmit') && this.#net.isEnabled(queue);
    this.#net.findings.that('net-coal.1', 'queue of a coalescing command', known, 'an enabled receive or transmit queue', queue);
  }

  #tunnels(view: DataView): void {
    this.#needs('net-hash.9', 'HASH_TUNNEL_SET sent', 'HASH_TUNNEL');
    if (view.byteLength < 4) return;
    const types = view.getUint32(0, true);
    this.#subset('net-hash.10', 'tunnel types asked for', types, 'supported_tunnel_types');
    // 5.1.9.5.8 defines bits 0 to 8.
    const strange = this.#net.config('supported_tunnel_types') & ~0x1ff;
    if (strange !== 0) this.#net.findings.check('net-hash.11', 'tunnel types asked for that have no meaning', types & ~0x1ff, 0);
  }

  #context(command: number, view: DataView): void {
    const { findings } = this.#net;
    this.#needs('net-rss.14', `RSS context command ${command} sent`, 'RSS_CONTEXT');
    if (command === CTRL.CONTEXT_CAP_GET) {
      // The reply and the ack may stand either way round: the larger reading, so as to accuse nobody falsely.
      this.#pending = (answer) => {
        this.#mostContexts = Math.max((answer[0] ?? 0) | ((answer[1] ?? 0) << 8), (answer[1] ?? 0) | ((answer[2] ?? 0) << 8));
      };
      return;
    }
    if (view.byteLength < 2) return;
    const id = view.getUint16(0, true);
    const most = this.#mostContexts;
    if (most !== undefined) findings.that('net-rss.15', 'id of an RSS context', id >= 1 && id <= most, `1 to ${most}`, id);
    if (command === CTRL.CONTEXT_ADD) this.#contexts.add(id);
    if (command === CTRL.CONTEXT_DEL) this.#contexts.delete(id);
    if (command !== CTRL.CONTEXT_DEL) this.#rss(view, 8);
  }

  #stats(command: number, view: DataView, chain: Chain): void {
    const { findings } = this.#net;
    if (command === CTRL.STATS_QUERY) {
      this.#pending = (answer) => {
        const words = new DataView(answer.buffer);
        if (answer.length >= 9) this.#statistics = words.getBigUint64(0, true) | words.getBigUint64(1, true);
      };
      return;
    }
    const supported = this.#statistics;
    let room = 0;
    // struct virtio_net_ctrl_queue_stats: vq_index, reserved, types_bitmap; 16 bytes each.
    for (let at = 0; at + 16 <= view.byteLength; at += 16) {
      const queue = view.getUint16(at, true);
      const types = view.getBigUint64(at + 8, true);
      const role = this.#net.role(queue);
      const suits = role === 'control' ? STATS.control : role === 'receive' ? STATS.receive : role === 'transmit' ? STATS.transmit : 0n;
      if (supported !== undefined)
        findings.that('net-stats.11', `statistics of queue ${queue} asked for`, (types & ~supported) === 0n, `among 0x${supported.toString(16)}`, types);
      findings.that('net-stats.12', `statistics of queue ${queue} (${role}) asked for`, (types & ~suits) === 0n, `among 0x${suits.toString(16)}`, types);
      for (const [bit, size] of REPLIES) if ((types >> BigInt(bit)) & 1n) room += size;
    }
    findings.that('net-stats.13', 'bytes for an answer to STATS_GET', chain.writable >= room + 1, `at least ${room} and the ack`, chain.writable);
  }
}

/** Type number and bytes of each kind of reply, with its header of 8 bytes (5.1.9.5.11). */
const REPLIES: readonly (readonly [number, number])[] = [
  [32, 24],
  [0, 56],
  [1, 40],
  [2, 40],
  [3, 24],
  [16, 56],
  [17, 24],
  [18, 56],
  [19, 24],
];
