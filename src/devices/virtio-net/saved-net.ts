// A network device's saved state and its checks: everything in it may have been made up, so lengths, bounds and what the features allow are looked at before any of it is used.

import { RestoreError, unseal } from '#core/saved';
import { FeatureSet, VIRTIO_F_ADMIN_VQ } from '#virtio/features';
import type { CoalescingParameters, CoalescingSnapshot } from '#virtio/net-control/coalescing';
import { type ReceiveSnapshot, RX_MODES, VLAN_WORDS } from '#virtio/net-control/receive-state';
import type { SteeringLimits, SteeringSnapshot } from '#virtio/net-control/steering-state';
import { GUEST_OFFLOADS, MAC_BYTES, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_ANNOUNCE } from '#virtio/net-features';
import { POLICY_ALL_MULTICAST, POLICY_ALL_UNICAST, POLICY_MAC_ENTRIES } from '#virtio/net-policy';
import { COUNTERS_PER_QUEUE } from '#virtio/net-statistics';
import { savedBoolean, savedInteger, savedIntegers, savedRecord } from '#virtio/saved-control';
import type { VringPosition } from '#virtio/virtqueue';
import type { NetAdmin, NetAdminState } from './net-admin.ts';
import { savedSteering } from './saved-steering.ts';
import type { ShownState } from './shown-config.ts';

export const NET_STATE_VERSION = 3;

export interface NetState extends ShownState {
  /** The address the device was made with: a saved state is of that device. */
  readonly permanentMac: Uint8Array;
  readonly receive: ReceiveSnapshot;
  readonly steering: SteeringSnapshot;
  readonly coalescing: CoalescingSnapshot;
  readonly statistics: StatisticsSnapshot;
  /** Where each data ring stands; null: not live. */
  readonly positions: readonly (VringPosition | null)[];
  readonly control: VringPosition | null;
  /** null: the device has no administration queue. */
  readonly admin: ({ readonly position: VringPosition | null } & NetAdminState) | null;
}

/** Checked, and what can be taken over as it is. */
export interface CheckedNetState extends Omit<NetState, 'admin'> {
  readonly admin: { readonly position: VringPosition | null; readonly admin: NetAdmin } | undefined;
}

export interface StatisticsSnapshot {
  /** The words of `NetStatistics`. */
  readonly queues: Float64Array;
  readonly commands: number;
  readonly succeeded: number;
}

export interface NetExpectations {
  /** As the saved control plane negotiated them. */
  readonly features: FeatureSet;
  readonly permanentMac: Uint8Array;
  /** Queue pairs under those features. */
  readonly pairs: number;
  readonly rings: number;
  readonly admin: NetAdmin | undefined;
  readonly steering: SteeringLimits;
}

/** @throws RestoreError */
export function checkNetState(saved: unknown, expected: NetExpectations): CheckedNetState {
  const state = savedRecord(unseal(saved, 'virtio-net', NET_STATE_VERSION), 'network device');
  const permanentMac = savedMac(state.permanentMac, 'permanent address');
  if (!permanentMac.every((byte, i) => byte === expected.permanentMac[i])) throw new RestoreError('saved state is of a device with another MAC address');
  if (!Array.isArray(state.positions) || state.positions.length !== expected.rings)
    throw new RestoreError(`saved state must have ${expected.rings} ring positions`);
  const positions = state.positions.map((position: unknown, index) => {
    if (position !== null && index >= 2 * expected.pairs) throw new RestoreError(`saved ring ${index} is live, but not among ${expected.pairs} queue pairs`);
    return position === null ? null : savedPosition(position, `position of ring ${index}`);
  });
  const control = state.control === null ? null : savedPosition(state.control, 'position of the control queue');
  if (control !== null && !expected.features.has(VIRTIO_NET_F_CTRL_VQ)) throw new RestoreError('saved state has a control queue without CTRL_VQ');
  const announcing = savedBoolean(state.announcing, 'announcement');
  if (announcing && !expected.features.has(VIRTIO_NET_F_GUEST_ANNOUNCE))
    throw new RestoreError('saved state asks a driver to announce that did not negotiate it');
  const shown = savedRecord(state.shown, 'status field');
  const behind = state.behind;
  if (behind !== 'no' && behind !== 'moved' && behind !== 'changed') throw new RestoreError(`saved configuration state ${String(behind)} is none there is`);
  return {
    permanentMac,
    mac: savedMac(state.mac, 'address'),
    linkUp: savedBoolean(state.linkUp, 'link state'),
    announcing,
    shown: { linkUp: savedBoolean(shown.linkUp, 'shown link state'), announce: savedBoolean(shown.announce, 'shown announcement') },
    behind,
    receive: savedReceive(state.receive, expected),
    steering: savedSteering(state.steering, expected.steering, expected.features),
    coalescing: savedCoalescing(state.coalescing, expected.rings),
    statistics: savedStatistics(state.statistics, expected.rings),
    positions,
    control,
    admin: savedAdmin(state.admin, expected),
  };
}

function savedAdmin(value: unknown, { admin, features, pairs }: NetExpectations): CheckedNetState['admin'] {
  if (admin === undefined) {
    if (value !== null) throw new RestoreError('saved state has an administration queue; this device has none');
    return undefined;
  }
  const { position } = savedRecord(value, 'administration');
  if (position !== null && !features.has(VIRTIO_F_ADMIN_VQ)) throw new RestoreError('saved state has an administration queue without ADMIN_VQ');
  return { position: position === null ? null : savedPosition(position, 'position of the administration queue'), admin: admin.restored(value, pairs) };
}

/** @throws RestoreError */
export function savedMac(value: unknown, what: string): Uint8Array {
  if (!(value instanceof Uint8Array) || value.length !== MAC_BYTES) throw new RestoreError(`saved ${what} must be ${MAC_BYTES} bytes`);
  return value.slice();
}

function savedPosition(value: unknown, what: string): VringPosition {
  const position = savedRecord(value, what);
  return { available: savedInteger(position.available, 0xffff, what), used: savedInteger(position.used, 0xffff, what) };
}

/** @throws RestoreError */
export function savedReceive(value: unknown, expected: Pick<NetExpectations, 'features' | 'pairs'>): ReceiveSnapshot {
  const state = savedRecord(value, 'receive state');
  const modes = savedInteger(state.modes, 0xffff, 'receive modes');
  const allModes = RX_MODES.reduce<number>((all, mode) => all | mode, 0);
  const overflow = savedInteger(state.overflow, 0xffff, 'table overflow');
  if ((modes & ~allModes) !== 0 || (overflow & ~(POLICY_ALL_UNICAST | POLICY_ALL_MULTICAST)) !== 0)
    throw new RestoreError('saved receive modes have unknown bits');
  if (!Array.isArray(state.tables) || state.tables.length > 2 * POLICY_MAC_ENTRIES) throw new RestoreError('saved address tables are too long');
  if (!(state.vlans instanceof Uint32Array) || state.vlans.length !== VLAN_WORDS) throw new RestoreError('saved VLAN table has the wrong size');
  const offloads = savedIntegers(state.offloads, 4, 0xffffffff, 'guest offloads');
  if (!new FeatureSet(offloads).without(expected.features.and(GUEST_OFFLOADS)).empty) throw new RestoreError('saved guest offloads were not negotiated');
  const pairs = savedInteger(state.pairs, expected.pairs, 'queue pairs');
  if (pairs === 0) throw new RestoreError('saved state has no active queue pair');
  return {
    modes,
    tables: state.tables.map((address: unknown) => savedMac(address, 'table address')),
    overflow,
    vlans: state.vlans.slice(),
    offloads,
    pairs,
    addressKnown: savedBoolean(state.addressKnown, 'address flag'),
  };
}

/** @throws RestoreError */
export function savedCoalescing(value: unknown, rings: number): CoalescingSnapshot {
  const state = savedRecord(value, 'notification coalescing');
  if (!Array.isArray(state.queues) || state.queues.length !== rings) throw new RestoreError(`saved state must have coalescing parameters of ${rings} queues`);
  return {
    receive: savedParameters(state.receive),
    transmit: savedParameters(state.transmit),
    queues: state.queues.map(savedParameters),
  };
}

function savedParameters(value: unknown): CoalescingParameters {
  const { maxPackets, maxUsecs } = savedRecord(value, 'coalescing parameters');
  return { maxPackets: savedInteger(maxPackets, 0xffffffff, 'max_packets'), maxUsecs: savedInteger(maxUsecs, 0xffffffff, 'max_usecs') };
}

/** @throws RestoreError */
export function savedStatistics(value: unknown, rings: number): StatisticsSnapshot {
  const { queues, commands, succeeded } = savedRecord(value, 'statistics');
  if (!(queues instanceof Float64Array) || queues.length !== rings * COUNTERS_PER_QUEUE) throw new RestoreError('saved statistics have the wrong size');
  if (!queues.every((word) => Number.isSafeInteger(word) && word >= 0)) throw new RestoreError('saved statistics are no counts');
  return {
    queues: queues.slice(),
    commands: savedInteger(commands, Number.MAX_SAFE_INTEGER, 'commands'),
    succeeded: savedInteger(succeeded, Number.MAX_SAFE_INTEGER, 'commands that succeeded'),
  };
}
