// Buffers of a driver that uses the legacy interface (virtio 1.4 5.1.9 and its legacy sections): numbers in the guest's byte order, which is little-endian here; and without ANY_LAYOUT, which
// descriptor holds what.

import { LEGACY_BIT } from '../features.ts';
import { CTRL } from '../layout.ts';
import type { NetState } from './judge.ts';
import { type Chain, type DriverMemory, gather, type Piece } from './view.ts';

const MOST = 66_000;
const NEEDS_CSUM = 1;
/** Bytes of command-specific-data of the commands there are. */
const PAYLOAD: ReadonlyMap<string, number> = new Map([
  [`${CTRL.MAC}.${CTRL.ADDR_SET}`, 6],
  [`${CTRL.VLAN}.${CTRL.VLAN_ADD}`, 2],
  [`${CTRL.VLAN}.${CTRL.VLAN_DEL}`, 2],
  [`${CTRL.ANNOUNCE}.${CTRL.ANNOUNCE_ACK}`, 0],
  [`${CTRL.MQ}.${CTRL.VQ_PAIRS_SET}`, 2],
  [`${CTRL.OFFLOADS}.${CTRL.OFFLOADS_SET}`, 8],
]);
/** Bits that OFFLOADS_SET can name on a legacy device. */
const OFFLOADS = (1n << 1n) | (0b1111n << 7n);

export class LegacyFraming {
  readonly #net: NetState;

  constructor(net: NetState) {
    this.#net = net;
  }

  get #anyLayout(): boolean {
    return this.#net.hasBit(LEGACY_BIT.ANY_LAYOUT);
  }

  /** Descriptors in another byte order lead nowhere. */
  placed(queue: number, chain: Chain): void {
    const { findings, memory } = this.#net;
    const nowhere = chain.pieces.filter(({ address, length }) => memory.view.bytes(address, length) === undefined);
    findings.check('legacy.36', `queue ${queue}: descriptors that lead out of memory`, nowhere, []);
  }

  received({ pieces }: Chain): void {
    if (!this.#anyLayout) this.#net.findings.check('legacy.69', 'first descriptor of a receive buffer: bytes', pieces[0]?.length, this.#net.headerSize);
  }

  frame(chain: Chain): void {
    const { findings, headerSize, memory } = this.#net;
    if (!this.#anyLayout) findings.check('legacy.69', 'first descriptor of a frame: bytes', chain.pieces[0]?.length, headerSize);
    const bytes = gather(memory, chain, false, MOST);
    if (bytes.length < headerSize) return;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const frame = bytes.length - headerSize;
    const [gsoType, headerLength, gsoSize, start, offset] = [bytes[1], ...[2, 4, 6, 8].map((at) => view.getUint16(at, true))] as unknown as [
      number,
      number,
      number,
      number,
      number,
    ];
    if (((bytes[0] ?? 0) & NEEDS_CSUM) !== 0)
      findings.that('legacy.57', 'csum_start and csum_offset of a frame', start + offset + 2 <= frame, `within its ${frame} bytes`, [start, offset]);
    if (gsoType !== 0)
      findings.that('legacy.57', 'hdr_len and gso_size of a frame', headerLength <= frame && gsoSize > 0 && gsoSize < frame, `within its ${frame} bytes`, [
        headerLength,
        gsoSize,
      ]);
  }

  command(chain: Chain): void {
    const { memory } = this.#net;
    const head = gather(memory, chain, false, MOST);
    if (head.length < 2) return;
    const [kind, command] = [head[0] as number, head[1] as number];
    const data = head.subarray(2);
    const tables = kind === CTRL.MAC && command === CTRL.TABLE_SET;
    this.#numbers(kind, command, data);
    if (!this.#anyLayout) this.#descriptors(chain, tables, PAYLOAD.get(`${kind}.${command}`) ?? (kind === CTRL.RX ? 1 : undefined), memory);
  }

  #numbers(kind: number, command: number, data: Uint8Array): void {
    const { findings, knowsConfig } = this.#net;
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    if (kind === CTRL.MAC && command === CTRL.TABLE_SET) {
      let at = 0;
      for (let list = 0; list < 2; list++) at = at + 4 <= data.length ? at + 4 + 6 * view.getUint32(at, true) : Infinity;
      findings.that('legacy.60', `TABLE_SET: its two lists end at ${at}`, at === data.length, 'the end of the data', data.length);
    }
    if (data.length < 2) return;
    const first = view.getUint16(0, true);
    if (kind === CTRL.VLAN) findings.that('legacy.64', 'VLAN of a command', first < 4096, 'below 4096', first);
    if (kind === CTRL.MQ && command === CTRL.VQ_PAIRS_SET) {
      const most = knowsConfig ? this.#net.config('max_virtqueue_pairs') : 0x80;
      findings.that('legacy.66', 'pairs asked for', first >= 1 && first <= most, `1 to ${most}`, first);
    }
    if (kind === CTRL.OFFLOADS && data.length >= 8)
      findings.check('legacy.68', 'offload bits that a legacy device does not have', view.getBigUint64(0, true) & ~OFFLOADS, 0n);
  }

  #descriptors({ pieces }: Chain, tables: boolean, payload: number | undefined, memory: DriverMemory): void {
    const { findings } = this.#net;
    const first = pieces[0];
    const last = pieces.at(-1);
    const middle = pieces.slice(1, -1);
    const lengths = middle.map(({ length }) => length);
    findings.check('legacy.70', 'class and command: bytes of their descriptor', first?.length, 2);
    findings.check('legacy.75', 'ack: bytes of its descriptor', last?.writable && last.length, 1);
    if (!tables) {
      if (payload !== undefined) findings.check('legacy.71', 'data of a command: bytes of its descriptors', lengths, payload === 0 ? [] : [payload]);
      return;
    }
    const lists = middle.map((piece) => addresses(memory, piece));
    findings.check(
      'legacy.72',
      'tables of addresses: bytes of their descriptors',
      lengths,
      lists.map((list) => 4 + 6 * list.count),
    );
    findings.check('legacy.72', 'tables of addresses: descriptors', middle.length, 2);
    for (const [i, clause] of (['legacy.73', 'legacy.74'] as const).entries())
      findings.check(
        clause,
        `table ${i}: addresses that are not ${i === 0 ? 'of one station' : 'of a group'}`,
        lists[i]?.firsts.filter((byte) => (byte & 1) !== i),
        [],
      );
  }
}

/** Of a list of addresses: how many, and the first byte of each, as far as they lie there. */
function addresses(memory: DriverMemory, { address, length }: Piece): { readonly count: number; readonly firsts: readonly number[] } {
  const count = memory.u32(address);
  const there = Math.min(count, Math.floor(Math.max(0, Math.min(length, MOST) - 4) / 6));
  return { count, firsts: Array.from({ length: there }, (_, i) => memory.u8(address + 4 + 6 * i)) };
}
