// Commands of the control virtqueue (virtio 1.4 5.1.9.5): RX modes, MAC table and address, VLAN filter, announcement, guest offloads; queue pairs and RSS in control-mq.ts, notification
// coalescing and statistics in control-notify.ts. A command is read once, front to back,
// checked as it is read and taken over only when all of it was right. Commands of features that were not negotiated fail, as do classes nobody offers.

import { FeatureSet } from '../features.ts';
import * as net from '../net-features.ts';
import { POLICY_ALL_MULTICAST, POLICY_ALL_UNICAST, POLICY_MAC_ENTRIES } from '../net-policy.ts';
import type { ChainReader } from './chain-reader.ts';
import type { ChainWriter } from './chain-writer.ts';
import { runHashTunnelCommand, runMqCommand, runRssContextCommand, type SteeringContext } from './control-mq.ts';
import { type NotifyContext, runCoalescingCommand, runStatisticsCommand } from './control-notify.ts';
import { type ReceiveState, RX_MODES } from './receive-state.ts';
import {
  ANNOUNCE_ACK,
  CLASS_ANNOUNCE,
  CLASS_GUEST_OFFLOADS,
  CLASS_HASH_TUNNEL,
  CLASS_MAC,
  CLASS_MQ,
  CLASS_NOTF_COAL,
  CLASS_RSS_CTX,
  CLASS_RX,
  CLASS_STATS,
  CLASS_VLAN,
  GUEST_OFFLOADS_SET,
  MAC_ADDR_SET,
  MAC_TABLE_SET,
  RX_ALLMULTI,
  VLAN_ADD,
  VLAN_DEL,
} from './wire.ts';

/** Of the offloads mask: bits 46 and 47 of it are features 65 and 66. */
const OFFLOADS_MOVED = 3 << 14;

export interface CommandContext extends SteeringContext, NotifyContext {
  setMac(mac: Uint8Array): void;
  /** Whether the driver may have this address; absent: any. */
  allowsMac?(mac: Uint8Array): boolean;
  /** The driver has announced itself, or will. */
  announced?(): void;
}

/** Runs one command, which writes what it answers besides the ack into `reply`; false is answered as VIRTIO_NET_ERR and has changed nothing. */
export function runCommand(reader: ChainReader, reply: ChainWriter, context: CommandContext): boolean {
  const commandClass = reader.u8();
  const command = reader.u8();
  if (command < 0) return false;
  const { features } = context;
  switch (commandClass) {
    case CLASS_RX:
      return features.has(command <= RX_ALLMULTI ? net.VIRTIO_NET_F_CTRL_RX : net.VIRTIO_NET_F_CTRL_RX_EXTRA) && setMode(reader, command, context.state);
    case CLASS_MAC:
      if (command === MAC_TABLE_SET) return features.has(net.VIRTIO_NET_F_CTRL_RX) && setMacTable(reader, context.state);
      return command === MAC_ADDR_SET && features.has(net.VIRTIO_NET_F_CTRL_MAC_ADDR) && setMacAddress(reader, context);
    case CLASS_VLAN:
      return (command === VLAN_ADD || command === VLAN_DEL) && features.has(net.VIRTIO_NET_F_CTRL_VLAN) && setVlan(reader, command === VLAN_ADD, context.state);
    case CLASS_ANNOUNCE:
      return command === ANNOUNCE_ACK && features.has(net.VIRTIO_NET_F_GUEST_ANNOUNCE) && acknowledgeAnnounce(context);
    case CLASS_MQ:
      return runMqCommand(reader, command, context);
    case CLASS_GUEST_OFFLOADS:
      return command === GUEST_OFFLOADS_SET && features.has(net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) && setOffloads(reader, context);
    case CLASS_HASH_TUNNEL:
      return runHashTunnelCommand(reader, command, context);
    case CLASS_RSS_CTX:
      return runRssContextCommand(reader, reply, command, context);
    case CLASS_NOTF_COAL:
      return runCoalescingCommand(reader, reply, command, context);
    case CLASS_STATS:
      return runStatisticsCommand(reader, reply, command, context);
    default:
      return false;
  }
}

function setMode(reader: ChainReader, command: number, state: ReceiveState): boolean {
  const bit = RX_MODES[command];
  const on = reader.u8();
  if (bit === undefined || on < 0) return false;
  state.modes = on !== 0 ? state.modes | bit : state.modes & ~bit;
  return true;
}

function setMacTable(reader: ChainReader, state: ReceiveState): boolean {
  const addresses: Uint8Array[] = [];
  let overflow = 0;
  for (const all of [POLICY_ALL_UNICAST, POLICY_ALL_MULTICAST]) {
    const entries = reader.u32();
    // Compared, not multiplied into 32 bits: the count is the guest's.
    if (entries < 0 || entries * net.MAC_BYTES > reader.remaining) return false;
    // A list longer than the filter holds lets all of its kind pass, rather than some of them.
    if (entries > POLICY_MAC_ENTRIES) {
      overflow |= all;
      reader.skip(entries * net.MAC_BYTES);
      continue;
    }
    for (let i = 0; i < entries; i++) addresses.push(reader.bytes(net.MAC_BYTES) as Uint8Array);
  }
  if (reader.remaining !== 0) return false;
  state.setTables(addresses, overflow);
  return true;
}

function setMacAddress(reader: ChainReader, context: CommandContext): boolean {
  const mac = reader.bytes(net.MAC_BYTES);
  // A group address can be nobody's own.
  if (mac === undefined || ((mac[0] as number) & 1) !== 0 || context.allowsMac?.(mac) === false) return false;
  context.state.addressKnown = true;
  context.setMac(mac);
  return true;
}

function setVlan(reader: ChainReader, on: boolean, state: ReceiveState): boolean {
  const id = reader.u16();
  if (id < 0 || id > 0xfff) return false;
  state.setVlan(id, on);
  return true;
}

/** virtio 1.4 5.1.9.5.4.2 (device MUST): the request is gone before the buffer is used. */
function acknowledgeAnnounce(context: CommandContext): boolean {
  context.announced?.();
  return true;
}

function setOffloads(reader: ChainReader, context: CommandContext): boolean {
  const low = reader.u32();
  const high = reader.u32();
  if (high < 0) return false;
  // The mask has the features' own numbers, but for those beyond its 64 bits, which have some that no network feature has.
  const offloads = new FeatureSet([low, high & ~OFFLOADS_MOVED, (high & OFFLOADS_MOVED) >>> 13]);
  if (!offloads.without(context.features.and(net.GUEST_OFFLOADS)).empty) return false;
  context.state.offloads = offloads;
  return true;
}
