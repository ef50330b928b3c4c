// What an embedder may ask of a network device, and what of it cannot be.

import type { ObjectOpcodes } from '#virtio/admin-objects';
import type { SriovGroupOptions } from '#virtio/admin-sriov';
import { VirtioOptionError } from '#virtio/device';
import { isPowerOfTwo, VIRTIO_QUEUE_SIZE_LIMIT } from '#virtio/device-status';
import { type FeatureSet, VIRTIO_F_ADMIN_VQ } from '#virtio/features';
import { FLOW_RULES } from '#virtio/flow-rules';
import type { SteeringLimits } from '#virtio/net-control/steering-state';
import { VIRTIO_NET_F_RSS_CONTEXT } from '#virtio/net-features';
import type { VhostBackend } from '#virtio/vhost';
import { checkMac, checkMtu, checkRss, checkSpeed, type LinkSpeed, type RssOptions } from './config.ts';
import { checkBackend } from './data-plane.ts';
import { type NetFeatureName, offer } from './features.ts';
import { FLOW_FILTER_LIMITS, type FlowFilterLimits } from './flow-filter.ts';

export const MOST_QUEUE_PAIRS = 64;
const DEFAULT_QUEUE_SIZE = 256;

export interface VirtioNetOptions {
  /** "52:54:00:12:34:56" or six bytes; unicast. */
  readonly mac: Uint8Array | string;
  readonly backend: VhostBackend;
  /** Receive and transmit queue pairs, 1 (default) to 64. */
  readonly queuePairs?: number;
  /** Largest size of a data queue, a power of two (default 256). */
  readonly queueSize?: number;
  /** Offers MTU: 68 to 65535. */
  readonly mtu?: number;
  /** Offers SPEED_DUPLEX. */
  readonly link?: LinkSpeed;
  /** Default true. */
  readonly linkUp?: boolean;
  readonly rss?: RssOptions;
  /** Features to insist on (true) or leave out (false). */
  readonly features?: { readonly [name in NetFeatureName]?: boolean };
  /** When a worker is lost: start its rings again where they stood (default), or tell the driver to reset the device. */
  readonly onLost?: 'restart' | 'needs-reset';
  /**
   * With the STANDBY feature (off by default): called on the machine's thread, inside the driver's access, with true when a driver has negotiated it, and with false when a
   * reset ends that: the moments to plug in and to pull the primary device, which must have the same MAC address.
   */
  readonly onStandby?: (standby: boolean) => void;
  /**
   * With the ADMIN_VQ feature (off by default): how much of a flow filter drivers may set up; false: none. Default: 16 groups, 32 classifiers and 64 rules, where the backend
   * follows flow rules.
   */
  readonly flowFilter?: Partial<FlowFilterLimits> | false;
  /** virtio 1.4 numbers MODIFY and QUERY of resource objects twice: as its opcode table does (default: 0xc, 0xb), or as the commands' text does (0xb, 0xc). */
  readonly adminOpcodes?: ObjectOpcodes;
  /** A physical function's: what its administration queue, offered then, can do about its virtual functions. `NetVfs` makes it. */
  readonly owner?: Omit<SriovGroupOptions, 'opcodes'>;
  /** False: the driver may not change the address (a virtual function that is not trusted). Asked for each command. Default: it may. */
  readonly mayChangeMac?: () => boolean;
  /** The cable was plugged or pulled: what hangs on it may follow. */
  readonly onLink?: (up: boolean) => void;
  /** Another address is in use: the driver's, or the permanent one again. */
  readonly onMac?: (mac: Uint8Array) => void;
}

/** What a device is made to. */
export interface NetModel {
  /** The permanent address. */
  readonly mac: Uint8Array;
  readonly offered: FeatureSet;
  readonly queuePairs: number;
  readonly queueSize: number;
  /** undefined: there is none. */
  readonly flowFilter: FlowFilterLimits | undefined;
  readonly steering: SteeringLimits;
}

/** @throws VirtioOptionError for what cannot be, or cannot be together. */
export function checkOptions(options: VirtioNetOptions): NetModel {
  const { backend, owner } = options;
  const { queuePairs, queueSize } = checkQueues(options);
  const mac = checkMac(options.mac);
  const rss = checkRss(options.rss ?? {});
  const offered = offer({
    features: owner ? { ADMIN_VQ: true, ...options.features } : (options.features ?? {}),
    backend: backend.features,
    queuePairs,
    hasMtu: options.mtu !== undefined,
    hasSpeed: options.link !== undefined,
    rssContexts: rss.contexts,
  });
  const administered = offered.has(VIRTIO_F_ADMIN_VQ);
  const flowFilter = checkFlowFilter(options.flowFilter, administered, backend);
  checkBackend(backend, offered, queuePairs, flowFilter !== undefined);
  if (owner && !administered)
    throw new VirtioOptionError('NICBOX_FEATURE_DEPENDENCY', 'virtual functions are administered through ADMIN_VQ, which is left out');
  const steering = { ...rss, contexts: offered.has(VIRTIO_NET_F_RSS_CONTEXT) ? rss.contexts : 0, pairs: queuePairs };
  return { mac, offered, queuePairs, queueSize, flowFilter, steering };
}

/** @throws VirtioOptionError */
function checkQueues({ queuePairs = 1, queueSize = DEFAULT_QUEUE_SIZE, mtu, link }: VirtioNetOptions): {
  readonly queuePairs: number;
  readonly queueSize: number;
} {
  checkQueuePairs(queuePairs);
  if (!Number.isInteger(queueSize) || !isPowerOfTwo(queueSize) || queueSize > VIRTIO_QUEUE_SIZE_LIMIT)
    throw new VirtioOptionError('NICBOX_QUEUE_SIZE', `queue size ${queueSize}: give a power of two up to ${VIRTIO_QUEUE_SIZE_LIMIT}`);
  if (mtu !== undefined) checkMtu(mtu);
  if (link !== undefined) checkSpeed(link);
  return { queuePairs, queueSize };
}

/** @throws VirtioOptionError */
export function checkQueuePairs(queuePairs: number, most = MOST_QUEUE_PAIRS): void {
  if (!Number.isInteger(queuePairs) || queuePairs < 1 || queuePairs > most)
    throw new VirtioOptionError('NICBOX_QUEUE_PAIRS', `${queuePairs} queue pairs: give 1 to ${most}`);
}

/** @throws VirtioOptionError */
function checkFlowFilter(asked: VirtioNetOptions['flowFilter'], offered: boolean, backend: VhostBackend): FlowFilterLimits | undefined {
  if (asked === false) return undefined;
  if (asked === undefined) return offered && backend.flowFilter === true ? FLOW_FILTER_LIMITS : undefined;
  if (!offered) throw new VirtioOptionError('NICBOX_FEATURE_DEPENDENCY', 'a flow filter needs the ADMIN_VQ feature');
  const limits = { ...FLOW_FILTER_LIMITS, ...asked };
  for (const [name, limit] of Object.entries(limits))
    if (!(Number.isInteger(limit) && limit >= 1 && limit <= FLOW_RULES))
      throw new VirtioOptionError('NICBOX_FLOW_FILTER', `${limit} ${name}: give 1 to ${FLOW_RULES}`);
  return limits;
}
