// Device parts of a network device (virtio 1.4 5.1.8): what its driver has set up through the control queue, one part for each kind of command, whose value is what the command would say. Parts
// are read from a saved state, and written to one by running the commands, so that nothing gets in that a driver could not have said.
//
// Our readings. A VLAN table is the ids in it, two bytes each (5.1.8.1: "the whole table", in the format of a command that has one id). The table of selectors leaves out four classes that
// change what a driver gets to see: guest offloads, notification coalescing, tunnel hashing and RSS contexts; they are parts by the same rule, there only when they differ from what
// negotiation alone brings; coalescing of single queues and contexts are whole tables, as VLANs are.

import { viewsOf } from '#core/guest-memory';
import { type Envelope, seal } from '#core/saved';
import { SegmentList } from '#core/segments';
import type { DevicePartsSource } from '#virtio/device';
import { DEVICE_TYPE_PARTS, type DevicePart, partSelector } from '#virtio/device-parts';
import type { FeatureSet } from '#virtio/features';
import { ChainReader } from '#virtio/net-control/chain-reader';
import { ChainWriter } from '#virtio/net-control/chain-writer';
import { type CoalescingParameters, CoalescingState } from '#virtio/net-control/coalescing';
import { runCommand } from '#virtio/net-control/control-commands';
import { runRssContextCommand } from '#virtio/net-control/control-mq';
import { ReceiveState, RX_MODES, VLAN_WORDS } from '#virtio/net-control/receive-state';
import { ControlStatistics } from '#virtio/net-control/statistics';
import { type SteeringLimits, SteeringState } from '#virtio/net-control/steering-state';
import {
  CLASS_ANNOUNCE,
  CLASS_GUEST_OFFLOADS,
  CLASS_HASH_TUNNEL,
  CLASS_MAC,
  CLASS_MQ,
  CLASS_NOTF_COAL,
  CLASS_RSS_CTX,
  CLASS_RX,
  CLASS_VLAN,
  CTX_ADD,
  contextHeader,
  hashConfig,
  MAC_ADDR_SET,
  MAC_TABLE_SET,
  MQ_HASH_CONFIG,
  MQ_RSS_CONFIG,
  MQ_VQ_PAIRS_SET,
  macTable,
  NOTF_COAL_RX_SET,
  NOTF_COAL_TX_SET,
  NOTF_COAL_VQ_SET,
  offloadsMask,
  rssConfig,
  rssConfigBytes,
  u16,
  u32,
} from '#virtio/net-control/wire';
import * as net from '#virtio/net-features';
import { POLICY_ALL_MULTICAST, POLICY_ALL_UNICAST, POLICY_MAC_ENTRIES } from '#virtio/net-policy';
import { NetStatistics } from '#virtio/net-statistics';
import type { VringPosition } from '#virtio/virtqueue';
import { NET_STATE_VERSION, type NetState } from './saved-net.ts';

const VIRTIO_NET_DEV_PART_CVQ_CFG_PART = DEVICE_TYPE_PARTS;

const VLANS = 32 * VLAN_WORDS;
const COALESCING_BYTES = 8;
const VQ_COALESCING_BYTES = 12;
const CONTEXT_HEADER = 8;
const MOST_PARTS = 18;
const FULL_MAC_TABLE = 4 + (POLICY_MAC_ENTRIES + 1) * net.MAC_BYTES;
/** RX_PROMISC, RX_ALLMULTI: CTRL_RX; those above: CTRL_RX_EXTRA. */
const RX_BASIC = 2;

export interface NetPartsOptions {
  readonly state: () => Envelope<NetState>;
  readonly pairs: (features: FeatureSet) => number;
  readonly permanentMac: () => Uint8Array;
  /** Whether its driver may set this address. */
  readonly allowsMac: (mac: Uint8Array) => boolean;
  readonly queuePairs: number;
  readonly steering: SteeringLimits;
  readonly position: (index: number) => VringPosition | undefined;
}

/** Of a device with so many pairs, whatever it offers. */
export function netPartsBounds(pairs: number, { tableLength, keySize, contexts }: SteeringLimits): DevicePartsSource['bounds'] {
  const rss = rssConfigBytes(tableLength, keySize);
  const small = RX_MODES.length + net.MAC_BYTES + 2 + 13 + keySize + 8 + 2 * COALESCING_BYTES + 4;
  const bytes = small + 2 * FULL_MAC_TABLE + 2 * VLANS + rss + contexts * (CONTEXT_HEADER + rss) + 2 * pairs * VQ_COALESCING_BYTES;
  return { bytes, parts: MOST_PARTS };
}

function readerOf(bytes: Uint8Array): ChainReader {
  const list = new SegmentList(1, viewsOf(new ArrayBuffer(0)));
  if (bytes.length > 0) list.addHost(viewsOf(bytes.slice().buffer), 0, bytes.length);
  const reader = new ChainReader(list);
  reader.begin(list.count, bytes.length);
  return reader;
}

const NO_REPLY = new ChainWriter(new SegmentList(0, viewsOf(new ArrayBuffer(0))), { markDirty: () => {} });

/** What the control queue has set up, taken out of a saved state. */
class Draft {
  readonly receive = new ReceiveState();
  readonly steering: SteeringState;
  readonly coalescing: CoalescingState;
  mac: Uint8Array;
  announcing: boolean;

  constructor(saved: NetState, features: FeatureSet, options: NetPartsOptions) {
    this.receive.load(saved.receive);
    this.steering = new SteeringState(options.steering);
    this.steering.load(saved.steering, features);
    this.coalescing = new CoalescingState(2 * options.queuePairs);
    this.coalescing.load(saved.coalescing);
    this.mac = saved.mac;
    this.announcing = saved.announcing;
  }
}

export class NetParts implements DevicePartsSource {
  readonly bounds: DevicePartsSource['bounds'];
  readonly #options: NetPartsOptions;
  /** No part is a command that looks at them. */
  readonly #statistics: { readonly queues: NetStatistics; readonly control: ControlStatistics };

  constructor(options: NetPartsOptions) {
    this.#options = options;
    this.#statistics = { queues: new NetStatistics(2 * options.queuePairs), control: new ControlStatistics() };
    this.bounds = netPartsBounds(options.queuePairs, options.steering);
  }

  state(): Envelope {
    return this.#options.state();
  }

  position(index: number): VringPosition | undefined {
    return this.#options.position(index);
  }

  // ---- reading ----

  read(state: unknown, features: FeatureSet): DevicePart[] {
    if (!features.has(net.VIRTIO_NET_F_CTRL_VQ)) return [];
    const saved = (state as Envelope<NetState>).state;
    const { receive, steering, coalescing, mac, announcing } = new Draft(saved, features, this.#options);
    const parts: DevicePart[] = [];
    const say = (commandClass: number, command: number, bytes: readonly number[]): void => {
      const selector = partSelector(commandClass, command);
      parts.push({ type: VIRTIO_NET_DEV_PART_CVQ_CFG_PART, optional: false, selector, value: Uint8Array.from(bytes) });
    };
    for (const [command, mode] of RX_MODES.entries())
      if (features.has(command < RX_BASIC ? net.VIRTIO_NET_F_CTRL_RX : net.VIRTIO_NET_F_CTRL_RX_EXTRA))
        say(CLASS_RX, command, [(receive.modes & mode) !== 0 ? 1 : 0]);
    if (features.has(net.VIRTIO_NET_F_CTRL_RX))
      say(CLASS_MAC, MAC_TABLE_SET, [
        ...macTable(receive.unicast, (receive.overflow & POLICY_ALL_UNICAST) !== 0),
        ...macTable(receive.multicast, (receive.overflow & POLICY_ALL_MULTICAST) !== 0),
      ]);
    if (features.has(net.VIRTIO_NET_F_CTRL_MAC_ADDR) && receive.addressKnown) say(CLASS_MAC, MAC_ADDR_SET, [...mac]);
    if (features.has(net.VIRTIO_NET_F_CTRL_VLAN))
      say(
        CLASS_VLAN,
        0,
        Array.from({ length: VLANS }, (_, id) => id)
          .filter((id) => receive.hasVlan(id))
          .flatMap(u16),
      );
    if (features.has(net.VIRTIO_NET_F_GUEST_ANNOUNCE) && !announcing) say(CLASS_ANNOUNCE, 0, []);
    if (features.has(net.VIRTIO_NET_F_MQ)) say(CLASS_MQ, MQ_VQ_PAIRS_SET, u16(receive.pairs));
    if (steering.rss !== undefined) say(CLASS_MQ, MQ_RSS_CONFIG, rssConfig(steering.rss));
    else if (steering.hash !== undefined && features.has(net.VIRTIO_NET_F_HASH_REPORT)) say(CLASS_MQ, MQ_HASH_CONFIG, hashConfig(steering.hash));
    if (features.has(net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) && !receive.offloads.equals(features.and(net.GUEST_OFFLOADS))) {
      say(CLASS_GUEST_OFFLOADS, 0, offloadsMask(receive.offloads));
    }
    this.#readCoalescing(coalescing, features, say);
    if (steering.tunnels !== 0) say(CLASS_HASH_TUNNEL, 0, u32(steering.tunnels));
    if (steering.contexts.size > 0)
      say(
        CLASS_RSS_CTX,
        CTX_ADD,
        [...steering.contexts].flatMap(([id, rss]) => [...contextHeader(id), ...rssConfig(rss)]),
      );
    return parts;
  }

  #readCoalescing(coalescing: CoalescingState, features: FeatureSet, say: (commandClass: number, command: number, bytes: readonly number[]) => void): void {
    const { receive, transmit, queues } = coalescing.save();
    const isSet = ({ maxPackets, maxUsecs }: CoalescingParameters): boolean => maxPackets !== 0 || maxUsecs !== 0;
    const bytes = ({ maxPackets, maxUsecs }: CoalescingParameters): number[] => [...u32(maxPackets), ...u32(maxUsecs)];
    if (isSet(transmit)) say(CLASS_NOTF_COAL, NOTF_COAL_TX_SET, bytes(transmit));
    if (isSet(receive)) say(CLASS_NOTF_COAL, NOTF_COAL_RX_SET, bytes(receive));
    const own = queues.flatMap((parameters, index) => {
      const general = index % 2 === 0 ? receive : transmit;
      const same = parameters.maxPackets === general.maxPackets && parameters.maxUsecs === general.maxUsecs;
      return same || index >= 2 * this.#options.pairs(features) ? [] : [...u16(index), 0, 0, ...bytes(parameters)];
    });
    if (own.length > 0) say(CLASS_NOTF_COAL, NOTF_COAL_VQ_SET, own);
  }

  // ---- writing ----

  write(state: unknown, part: DevicePart, features: FeatureSet): unknown | undefined {
    if (part.type !== VIRTIO_NET_DEV_PART_CVQ_CFG_PART || !features.has(net.VIRTIO_NET_F_CTRL_VQ)) return undefined;
    const saved = (state as Envelope<NetState>).state;
    const draft = new Draft(saved, features, this.#options);
    if (!this.#apply(draft, part, features)) return undefined;
    const { receive, steering, coalescing, mac, announcing } = draft;
    return this.#sealed({ ...saved, receive: receive.save(), steering: steering.save(), coalescing: coalescing.save(), mac, announcing });
  }

  #apply(draft: Draft, { selector, value }: DevicePart, features: FeatureSet): boolean {
    const [commandClass, command] = selector as unknown as [number, number];
    const { receive, steering } = draft;
    // virtio 1.4 5.1.8.1: the rest is reserved; parts that differ in it alone would be one and the same.
    if (selector.subarray(2).some((byte) => byte !== 0)) return false;
    switch (commandClass) {
      case CLASS_VLAN:
        if (command !== 0 || value.length % 2 !== 0 || value.length > 2 * VLANS || !features.has(net.VIRTIO_NET_F_CTRL_VLAN)) return false;
        receive.vlans.fill(0);
        return this.#table(draft, CLASS_VLAN, 0, value, 2, features);
      case CLASS_NOTF_COAL:
        if (command !== NOTF_COAL_VQ_SET) break;
        return this.#table(draft, CLASS_NOTF_COAL, command, value, VQ_COALESCING_BYTES, features);
      case CLASS_RSS_CTX: {
        if (command !== CTX_ADD || !features.has(net.VIRTIO_NET_F_RSS_CONTEXT)) return false;
        steering.contexts.clear();
        const reader = readerOf(value);
        while (reader.remaining > 0) if (!runRssContextCommand(reader, NO_REPLY, CTX_ADD, { features, state: receive, steering })) return false;
        return true;
      }
      case CLASS_MQ: {
        if (command !== MQ_VQ_PAIRS_SET) break;
        // Set before the contexts, which would forbid it.
        const contexts = [...steering.contexts];
        steering.contexts.clear();
        const set = this.#run(draft, CLASS_MQ, command, value, features);
        for (const [id, rss] of contexts) steering.contexts.set(id, rss);
        return set;
      }
      case CLASS_RX:
      case CLASS_MAC:
      case CLASS_ANNOUNCE:
      case CLASS_GUEST_OFFLOADS:
      case CLASS_HASH_TUNNEL:
        break;
      default:
        return false;
    }
    return this.#run(draft, commandClass, command, value, features);
  }

  /** One command for each `size` bytes. */
  #table(draft: Draft, commandClass: number, command: number, value: Uint8Array, size: number, features: FeatureSet): boolean {
    if (value.length % size !== 0) return false;
    for (let at = 0; at < value.length; at += size) if (!this.#run(draft, commandClass, command, value.subarray(at, at + size), features)) return false;
    return true;
  }

  #run(draft: Draft, commandClass: number, command: number, value: Uint8Array, features: FeatureSet): boolean {
    const reader = readerOf(Uint8Array.from([commandClass, command, ...value]));
    const dataQueues = 2 * this.#options.pairs(features);
    const ran = runCommand(reader, NO_REPLY, {
      features,
      state: draft.receive,
      steering: draft.steering,
      coalescing: draft.coalescing,
      statistics: { ...this.#statistics, dataQueues },
      dataQueueEnabled: (index) => index < dataQueues,
      allowsMac: this.#options.allowsMac,
      setMac: (mac) => {
        draft.mac = mac;
      },
      announced: () => {
        draft.announcing = false;
      },
    });
    // (device MUST): a value of another length is refused.
    return ran && reader.remaining === 0;
  }

  // ---- whole states ----

  negotiated(state: unknown, features: FeatureSet): unknown {
    const saved = (state as Envelope<NetState>).state;
    const receive = new ReceiveState();
    receive.clear(features);
    const steering = new SteeringState(this.#options.steering);
    return this.#sealed({
      ...saved,
      mac: this.#options.permanentMac().slice(),
      announcing: false,
      receive: receive.save(),
      steering: steering.save(),
      coalescing: new CoalescingState(2 * this.#options.queuePairs).save(),
      statistics: { queues: new NetStatistics(2 * this.#options.queuePairs).save(), commands: 0, succeeded: 0 },
      positions: saved.positions.map(() => null),
      control: null,
    });
  }

  /** Address and link are the device's where it is now; the driver is told to look at them again. */
  place(state: unknown, positions: readonly (VringPosition | null)[], features: FeatureSet): unknown {
    const { state: saved } = state as Envelope<NetState>;
    const { permanentMac, linkUp } = this.#options.state().state;
    const control = features.has(net.VIRTIO_NET_F_CTRL_VQ) ? (positions[2 * this.#options.pairs(features)] ?? null) : null;
    const data = 2 * this.#options.pairs(features);
    return this.#sealed({
      ...saved,
      permanentMac,
      linkUp,
      shown: { linkUp, announce: saved.announcing },
      behind: features.has(net.VIRTIO_NET_F_STATUS) ? 'changed' : 'no',
      positions: saved.positions.map((_, index) => (index < data ? (positions[index] ?? null) : null)),
      control,
    });
  }

  #sealed(state: NetState): Envelope<NetState> {
    return seal('virtio-net', NET_STATE_VERSION, state);
  }
}
