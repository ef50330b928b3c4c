// Receive-side scaling as the 82576 takes it (7.1.2.8, 8.10.18 to 8.10.20): what is hashed, a key of 40 bytes, a table of 128 entries. Hashes come back in descriptors.

import { FlowHash } from './flow-hash.ts';
import * as k from './igb-constants.ts';
import { checkRss, type IgbRssOptions } from './igb-options.ts';
import type { RegisterBlock } from './intel-registers.ts';
import type { ReceiveSteering } from './nic.ts';
import { DEFAULT_RSS_KEY } from './toeplitz.ts';
import { NET_HASH_TYPE } from './virtio-constants.ts';

const T = NET_HASH_TYPE;
const DEFAULT_TYPES = T.IPv4 | T.TCPv4 | T.UDPv4 | T.IPv6 | T.TCPv6 | T.UDPv6;
const FIELDS: readonly (readonly [type: number, field: number])[] = [
  [T.IPv4, k.MRQC_IPV4],
  [T.TCPv4, k.MRQC_TCP_IPV4],
  [T.UDPv4, k.MRQC_UDP_IPV4],
  [T.IPv6, k.MRQC_IPV6],
  [T.TCPv6, k.MRQC_TCP_IPV6],
  [T.UDPv6, k.MRQC_UDP_IPV6],
  [T.IP_EX, k.MRQC_IPV6_EX],
  [T.TCP_EX, k.MRQC_TCP_IPV6_EX],
  [T.UDP_EX, k.MRQC_UDP_IPV6_EX],
];

export class IgbRss implements ReceiveSteering {
  readonly reportsHashes = true;
  readonly flowHash: FlowHash;
  /** Pair by the low seven bits of the hash. */
  readonly table: Uint8Array;
  readonly #key: Uint8Array;
  readonly #types: number;

  /** @throws RangeError */
  constructor(options: IgbRssOptions, pairs: number) {
    checkRss(options, pairs);
    const { key = DEFAULT_RSS_KEY, hashTypes = DEFAULT_TYPES, table = Array.from({ length: k.RETA_ENTRIES }, (_, i) => i % pairs) } = options;
    this.#key = key;
    this.#types = hashTypes;
    this.table = Uint8Array.from({ length: k.RETA_ENTRIES }, (_, i) => table[i % table.length] as number);
    this.flowHash = new FlowHash({ key, hashTypes });
  }

  /** MRQC's field enable bits. */
  get fields(): number {
    let fields = 0;
    for (const [type, field] of FIELDS) if ((this.#types & type) !== 0) fields |= field;
    return fields;
  }

  /** Key and table. `step` is from one pair's queue to the next one's: with pools the entry's upper bit tells which of a pool's two queues (7.1.2.8.2). */
  program(registers: RegisterBlock, step: number): void {
    for (let i = 0; i < this.#key.length; i += 4) {
      const [a = 0, b = 0, c = 0, d = 0] = this.#key.subarray(i, i + 4);
      registers.write(k.REG.RSSRK + i, a | (b << 8) | (c << 16) | (d << 24));
    }
    const entry = (i: number): number => (this.table[i] as number) * step;
    for (let i = 0; i < k.RETA_ENTRIES; i += 4) registers.write(k.REG.RETA + i, entry(i) | (entry(i + 1) << 8) | (entry(i + 2) << 16) | (entry(i + 3) << 24));
  }

  /** What is no IP packet has no hash, and goes to the first queue (MRQC.Def_Q). */
  receiveQueue(hashValue: number, hashReport: number): number {
    return hashReport === 0 ? 0 : (this.table[hashValue & (k.RETA_ENTRIES - 1)] as number);
  }
}
