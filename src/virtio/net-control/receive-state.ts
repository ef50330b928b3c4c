// What the control queue has set up for reception (virtio 1.4 5.1.9.5.1 to 5.1.9.5.6, 5.1.9.5.9): modes, address and VLAN tables, guest offloads, active queue pairs; and its
// translation into the words the data plane reads.
//
// Our reading of the defaults: without CTRL_RX a driver has no way to ask for frames, so it gets them all. With it, the address table is empty after reset and
// frames that match neither mac, table nor broadcast are held back (device SHOULD) until a mode says otherwise. Without MAC or CTRL_MAC_ADDR negotiated the
// device cannot know the driver's address and lets every unicast frame pass.

import * as port from '#net/port';
import { FeatureSet } from '../features.ts';
import type { FlowRule } from '../flow-rules.ts';
import * as net from '../net-features.ts';
import type { NetPolicy } from '../net-policy.ts';
import * as words from '../net-policy.ts';
import type { SteeringState } from './steering-state.ts';

const ETHERNET_HEADER_AND_TAG = 18;
export const VLAN_WORDS = 128;

const RECEIVE_OFFLOADS = [
  [net.VIRTIO_NET_F_GUEST_TSO4, port.ACCEPTS_TSO4],
  [net.VIRTIO_NET_F_GUEST_TSO6, port.ACCEPTS_TSO6],
  [net.VIRTIO_NET_F_GUEST_ECN, port.ACCEPTS_ECN],
  [net.VIRTIO_NET_F_GUEST_UFO, port.ACCEPTS_UFO],
  [net.VIRTIO_NET_F_GUEST_USO4, port.ACCEPTS_USO4],
  [net.VIRTIO_NET_F_GUEST_USO6, port.ACCEPTS_USO6],
  [net.VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO, port.ACCEPTS_UDP_TUNNEL],
  [net.VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_CSUM, port.ACCEPTS_UDP_TUNNEL_CSUM],
] as const;

/** The guest offloads that a driver has on whose receive path accepts this: what of `ACCEPTS_*` follows from other features is left out. */
export function offloadsAccepted(accepts: number): FeatureSet {
  if ((accepts & port.ACCEPTS_CSUM) === 0) return new FeatureSet();
  return FeatureSet.of(net.VIRTIO_NET_F_GUEST_CSUM, ...RECEIVE_OFFLOADS.filter(([, bit]) => (accepts & bit) !== 0).map(([feature]) => feature));
}

/** The RX class's modes, in command order. */
export const RX_MODES = [
  words.POLICY_PROMISCUOUS,
  words.POLICY_ALL_MULTICAST,
  words.POLICY_ALL_UNICAST,
  words.POLICY_NO_MULTICAST,
  words.POLICY_NO_UNICAST,
  words.POLICY_NO_BROADCAST,
] as const;

export interface ReceiveSnapshot {
  readonly modes: number;
  readonly tables: readonly Uint8Array[];
  readonly overflow: number;
  readonly vlans: Uint32Array;
  readonly offloads: readonly number[];
  readonly pairs: number;
  readonly addressKnown: boolean;
}

export class ReceiveState {
  /** POLICY_* bits set by RX commands. */
  modes = 0;
  /** POLICY_ALL_UNICAST, POLICY_ALL_MULTICAST: tables that were longer than there is room for. */
  overflow = 0;
  unicast: readonly Uint8Array[] = [];
  multicast: readonly Uint8Array[] = [];
  /** One bit a VLAN id. */
  readonly vlans = new Uint32Array(VLAN_WORDS);
  /** Guest offloads in force. */
  offloads = new FeatureSet();
  pairs = 1;
  /** The driver said which address it uses. */
  addressKnown = false;

  /** virtio 1.4 5.1.9.5.2.1, 5.1.9.5.6.2 (device MUST): after reset tables are empty and receiveq1 is the only active one. */
  clear(features = new FeatureSet()): void {
    this.modes = 0;
    this.overflow = 0;
    this.unicast = [];
    this.multicast = [];
    this.vlans.fill(0);
    // virtio 1.4 5.1.9.5.9.1: negotiated guest offloads start enabled.
    this.offloads = features.and(net.GUEST_OFFLOADS);
    this.pairs = 1;
    this.addressKnown = features.has(net.VIRTIO_NET_F_MAC);
  }

  hasVlan(id: number): boolean {
    return ((this.vlans[id >>> 5] as number) & (1 << (id & 31))) !== 0;
  }

  setVlan(id: number, on: boolean): void {
    const word = this.vlans[id >>> 5] as number;
    this.vlans[id >>> 5] = on ? word | (1 << (id & 31)) : word & ~(1 << (id & 31));
  }

  /** Files addresses by what they are, whichever list they came in. */
  setTables(addresses: readonly Uint8Array[], overflow: number): void {
    this.unicast = addresses.filter((a) => ((a[0] as number) & 1) === 0);
    this.multicast = addresses.filter((a) => ((a[0] as number) & 1) === 1);
    this.overflow = overflow;
  }

  /** Call between turns. */
  publish(
    policy: NetPolicy,
    steering: SteeringState,
    device: {
      readonly features: FeatureSet;
      readonly mac: Uint8Array;
      readonly mtu: number;
      readonly linkUp: boolean;
      readonly active: boolean;
      /** Receive queues that the driver has, a bit a pair. */
      readonly live: readonly [number, number];
      /** In the order in which they are tried. */
      readonly flowRules?: readonly FlowRule[];
    },
  ): void {
    const { features } = device;
    let flags = this.modes | this.overflow;
    // Not promiscuous mode, which would pass by the VLAN table as well.
    if (!features.has(net.VIRTIO_NET_F_CTRL_RX)) flags |= words.POLICY_ALL_UNICAST | words.POLICY_ALL_MULTICAST;
    else if (!this.addressKnown) flags |= words.POLICY_ALL_UNICAST;
    if (this.unicast.length > words.POLICY_MAC_ENTRIES) flags |= words.POLICY_ALL_UNICAST;
    if (this.multicast.length > words.POLICY_MAC_ENTRIES) flags |= words.POLICY_ALL_MULTICAST;
    if (features.has(net.VIRTIO_NET_F_CTRL_VLAN)) flags |= words.POLICY_VLAN_FILTER;
    if (device.linkUp) flags |= words.POLICY_LINK_UP;
    if (device.active) flags |= words.POLICY_ACTIVE;
    policy.update((p) => {
      p.flags = flags;
      p.accepts = this.#accepts(features.has(net.VIRTIO_NET_F_RSC_EXT));
      p.headerLength = net.netHeaderBytes(features);
      steering.publish(p, this.pairs, device.live);
      p.maximumFrame = features.has(net.VIRTIO_NET_F_MTU) ? device.mtu + ETHERNET_HEADER_AND_TAG : 0;
      p.setMac(device.mac);
      p.setTable('unicast', this.unicast);
      p.setTable('multicast', this.multicast);
      p.setVlans(this.vlans);
      p.setFlowRules(device.flowRules ?? []);
    });
  }

  /** @param rsc RSC_EXT was negotiated */
  #accepts(rsc: boolean): number {
    // Segments without checksum offload would need a finished checksum that no sender of a GSO frame has computed.
    if (!this.offloads.has(net.VIRTIO_NET_F_GUEST_CSUM)) return 0;
    let accepts = port.ACCEPTS_CSUM;
    for (const [feature, bit] of RECEIVE_OFFLOADS) if (this.offloads.has(feature)) accepts |= bit;
    if (rsc && accepts !== port.ACCEPTS_CSUM) accepts |= port.ACCEPTS_RSC;
    return accepts;
  }

  save(): ReceiveSnapshot {
    return {
      modes: this.modes,
      tables: [...this.unicast, ...this.multicast].map((a) => a.slice()),
      overflow: this.overflow,
      vlans: this.vlans.slice(),
      offloads: [...this.offloads.words],
      pairs: this.pairs,
      addressKnown: this.addressKnown,
    };
  }

  /** `snapshot` has been checked. */
  load(snapshot: ReceiveSnapshot): void {
    this.modes = snapshot.modes;
    this.setTables(snapshot.tables, snapshot.overflow);
    this.vlans.set(snapshot.vlans);
    this.offloads = new FeatureSet(snapshot.offloads);
    this.pairs = snapshot.pairs;
    this.addressKnown = snapshot.addressKnown;
  }
}
