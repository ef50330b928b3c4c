// How frames are spread over queues: the device told on the way in (automatic steering, RSS, hashes to report: virtio 1.4 5.1.9.5.6 to 5.1.9.5.8), the
// driver's own choice of a transmit queue on the way out. Made anew at each bring-up, since a reset makes the device forget all of it.

import { FlowHash } from './flow-hash.ts';
import type { ControlQueue } from './net-control.ts';
import type { NetConfiguration, RssOptions, VirtioNetOptions } from './net-options.ts';
import { type RssConfig, rssConfig } from './net-rss.ts';
import type { ReceiveSteering } from './nic.ts';
import { DEFAULT_RSS_KEY, RSS_KEY_LENGTH } from './toeplitz.ts';
import { VIRTIO_NET_F } from './virtio-constants.ts';
import { VirtioError } from './virtio-pci.ts';

const SMALLEST_TABLE = 128;

export class NetSteering implements ReceiveSteering {
  /** The receive-side scaling in force; undefined without it. */
  rss: RssConfig | undefined;
  /** Computes what the device should report for a frame, under the key, types and tunnels it was last told; undefined while it was told none. */
  flowHash: FlowHash | undefined;
  readonly #control: ControlQueue | undefined;
  readonly #configuration: NetConfiguration;
  readonly #has: (feature: number) => boolean;
  readonly #pairs: number;
  readonly #transmit = new FlowHash({ key: DEFAULT_RSS_KEY, hashTypes: ~0 });

  constructor(control: ControlQueue | undefined, configuration: NetConfiguration, has: (feature: number) => boolean, pairs: number) {
    this.#control = control;
    this.#configuration = configuration;
    this.#has = has;
    this.#pairs = pairs;
  }

  /** Received frames carry hashes. */
  get reportsHashes(): boolean {
    return this.#has(VIRTIO_NET_F.HASH_REPORT);
  }

  /** Turns the queues on that were set up, as the options ask for it. @throws VirtioError when the device refuses. */
  enable({ rss, hashReport }: VirtioNetOptions): void {
    const control = this.#control;
    if (!control) return;
    const { rssMaxKeySize, rssMaxTable } = this.#configuration;
    const hashes = this.#has(VIRTIO_NET_F.RSS) || this.#has(VIRTIO_NET_F.HASH_REPORT);
    // virtio 1.4 5.1.4.1 (device MUST): at least these.
    if ((hashes && rssMaxKeySize < RSS_KEY_LENGTH) || (this.#has(VIRTIO_NET_F.RSS) && rssMaxTable < SMALLEST_TABLE))
      throw new VirtioError('ERR_VIRTIO_CONFIG', `the device says it takes RSS keys of ${rssMaxKeySize} bytes and tables of ${rssMaxTable} entries`);
    if (this.#has(VIRTIO_NET_F.RSS)) {
      if (!this.configureRss(rss ?? {})) throw new VirtioError('ERR_VIRTIO_CONTROL', 'the device refused the RSS configuration');
      return;
    }
    if (this.#pairs > 1 && !control.setQueuePairs(this.#pairs)) throw new VirtioError('ERR_VIRTIO_CONTROL', `the device refused ${this.#pairs} queue pairs`);
    if (!this.#has(VIRTIO_NET_F.HASH_REPORT)) return;
    const { key = DEFAULT_RSS_KEY, hashTypes = ~0, tunnels } = hashReport ?? {};
    const types = hashTypes & this.#configuration.hashTypes;
    if (!control.setHash(types, key)) throw new VirtioError('ERR_VIRTIO_CONTROL', 'the device refused the hash configuration');
    this.#hashWith(types, key, tunnels);
  }

  /** Changes the receive-side scaling. False: the device refused, and what held before still holds. @throws RangeError, VirtioError */
  configureRss(options: RssOptions): boolean {
    const config = rssConfig(options, this.#configuration, this.#pairs);
    if (!this.#control?.setRss(config)) return false;
    this.rss = config;
    this.#hashWith(config.hashTypes, config.key, options.tunnels);
    return true;
  }

  #hashWith(hashTypes: number, key: Uint8Array, asked = 0): void {
    const tunnels = asked & this.#configuration.tunnelTypes;
    if (this.#has(VIRTIO_NET_F.HASH_TUNNEL) && !this.#control?.setHashTunnels(tunnels))
      throw new VirtioError('ERR_VIRTIO_CONTROL', `the device refused the tunnel types 0x${tunnels.toString(16)} it says it supports`);
    this.flowHash = new FlowHash({ key, hashTypes, tunnels });
  }

  /** The queue that `rss` sends a frame with this hash and kind to; -1 without RSS. */
  receiveQueue(hashValue: number, hashReport: number): number {
    const { rss } = this;
    if (!rss) return -1;
    return hashReport === 0 ? rss.unclassified : (rss.table[hashValue & (rss.table.length - 1)] as number);
  }

  /** The transmit queue of a frame's flow, so that its frames stay in order and answers come back to the same pair; the first for what has no flow. */
  transmitQueue<Q>(queues: readonly Q[], u8: Uint8Array, at: number, length: number): Q {
    const hashed = queues.length > 1 && this.#transmit.compute(u8, at, length);
    return queues[hashed ? this.#transmit.value % queues.length : 0] as Q;
  }
}
