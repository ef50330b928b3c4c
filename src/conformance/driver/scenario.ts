// What a scenario for drivers is: a device that behaves in some way it may, or should not, and what a driver has to make of it. And what a driver's owner offers a scenario to work with.

import type { FlowMatch } from '#guest-sim/flow-filter';
import type { ComposedFrame } from '#guest-sim/frames';
import type { FeatureName } from '../features.ts';
import type { Stage } from './stage.ts';

/** The device of a scenario. */
export interface DeviceWish {
  /** Offered to the driver besides, whether the device has it or not: what it does not have it does not hear of. */
  readonly offer?: readonly (FeatureName | number)[];
  /** Not offered. */
  readonly withhold?: readonly FeatureName[];
  /** Queue pairs. Default 1. */
  readonly pairs?: number;
  /** MSI-X vectors. Default: enough. */
  readonly vectors?: number;
  readonly notificationData?: boolean;
  readonly notifConfigData?: boolean;
  /** Default 1500. */
  readonly mtu?: number;
  /** A physical function with so many virtual ones. Default 0: an ordinary device. */
  readonly vfs?: number;
  /** It has a legacy interface besides. */
  readonly transitional?: boolean;
}

/** How the driver is to be set up, as far as its owner can choose. */
export interface DriverWish {
  readonly pairs?: number;
  /** Taken besides what it takes anyway. */
  readonly features?: readonly FeatureName[];
  readonly rss?: boolean;
  readonly tunnels?: boolean;
  readonly interrupts?: 'per-queue' | 'shared' | 'intx';
  /** It means to enable virtual functions. */
  readonly sriov?: boolean;
  /** It goes by the legacy interface. */
  readonly legacy?: boolean;
}

export interface DriverScenario {
  /** "driver/what-it-is-about"; unique. */
  readonly name: string;
  /** Clauses it checks beside those that every scenario watches. */
  readonly clauses: readonly string[];
  /** Ring formats it runs over. Default: each. 'any': split. */
  readonly rings?: 'each' | 'split' | 'packed' | 'any';
  readonly device?: DeviceWish;
  readonly driver?: DriverWish;
  /** Why a clause is read the way it is. */
  readonly reading?: string;
  run(stage: Stage): void;
}

/** A frame that the driver handed to its user. */
export interface FrameTaken {
  readonly bytes: Uint8Array;
  readonly queue: number;
  /** What the driver says of its transport checksum. */
  readonly checksum: 'unknown' | 'valid' | 'partial';
  readonly csumStart: number;
  readonly csumOffset: number;
  /** Offsets in a tunnel, where it goes by them; 0 otherwise. */
  readonly outerTransport: number;
  readonly innerNetwork: number;
}

export interface SendRequest {
  readonly frame: ComposedFrame;
  /** Payload of a piece; 0 or absent: only the checksum is left to the device. */
  readonly gsoSize?: number;
  readonly fragments?: boolean;
  readonly outerChecksum?: boolean;
  /** Complete: nothing is left to the device. */
  readonly plain?: boolean;
  readonly queue?: number;
}

/** What can be asked of a driver by commands to its device. True: it was done, as far as the driver knows. */
export interface DriverControl {
  receiveMode(mode: 'promiscuous' | 'all-multicast' | 'all-unicast' | 'no-multicast' | 'no-unicast' | 'no-broadcast', on: boolean): boolean;
  macTable(unicast: readonly Uint8Array[], multicast: readonly Uint8Array[]): boolean;
  macAddress(mac: Uint8Array): boolean;
  vlan(vid: number, pass: boolean): boolean;
  pairs(count: number): boolean;
  rss(): boolean;
  rssContext(id: number): boolean;
  hashTunnels(types: number): boolean;
  offloads(bits: readonly number[]): boolean;
  coalescing(direction: 'receive' | 'transmit', packets: number, microseconds: number): boolean;
  queueCoalescing(queue: number, packets: number, microseconds: number): boolean;
  /** What the device says is in force; undefined: it did not say. */
  coalescingOf(queue: number): { readonly maxPackets: number; readonly maxUsecs: number } | undefined;
  statistics(queue: number): boolean;
}

/** The flow filter, by the identifiers the driver gives; -1 and false: it was not done. */
export interface DriverFilter {
  group(priority: number): number;
  /** A classifier for what the match looks at. */
  classifier(match: FlowMatch): number;
  rule(rule: { readonly group: number; readonly classifier: number; readonly priority: number; readonly match: FlowMatch; readonly queue: number }): number;
  removeRule(id: number): boolean;
  removeGroup(id: number): boolean;
  removeClassifier(id: number): boolean;
}

/** Members of the SR-IOV group, from 1. What does not come about throws. */
export interface DriverMembers {
  stop(member: number): void;
  resume(member: number): void;
  /** Takes the parts of one and sets them in another, stopped, one. How many they are. */
  copyParts(from: number, to: number): number;
  /** Headers alone: how many. */
  countParts(member: number): number;
  legacyRead(member: number, where: 'common' | 'device', offset: number, size: 1 | 2 | 4): number;
  legacyWrite(member: number, where: 'common' | 'device', offset: number, size: 1 | 2 | 4, value: number): void;
  /** Where the driver would notify, best first: whose BAR, which, and where. */
  notifyAddresses(member: number): readonly { readonly of: 'owner' | 'member'; readonly bar: number; readonly offset: number }[];
}

/** What can be asked of a driver by commands of its administration queue. */
export interface DriverAdministration {
  /** undefined: the device has no flow filter, as far as the driver knows. */
  filter(): DriverFilter | undefined;
  /** Enables so many virtual functions, and opens their group. undefined: there is none. */
  members(count: number): DriverMembers | undefined;
}

/** A driver, brought up on a scenario's device. */
export interface DriverHandle {
  /** Takes interrupts, polls, sends what is to be sent. */
  step(): void;
  /** Why it gave its device up; '' while it has not. */
  readonly gaveUp: string;
  /** Frames taken since the last call. */
  taken(): FrameTaken[];
  /** Sends frames it takes back where they came from, from now on. */
  echo(): void;
  /** False: it cannot be sent so, and is not. */
  send(request: SendRequest): boolean;
  readonly linkUp: boolean;
  readonly mac: Uint8Array;
  /** Mbit/s and duplex; undefined: unknown. */
  readonly speed: { readonly speed: number | undefined; readonly fullDuplex: boolean | undefined };
  readonly control: DriverControl;
  /** undefined: it has no administration queue. */
  readonly administration: DriverAdministration | undefined;
  /** Resets a pair of queues and sets them up again. */
  resetPair(index: number): void;
  suspend(): void;
  resume(): void;
  /** Resets the device and brings it up again. */
  recover(): void;
  shutDown(): void;
}

/** Brings a driver up on the bus it is given. @throws Error when it does not come up. */
export type DriverMaker = (ring: 'split' | 'packed', wish: DriverWish, bus: Stage['bus']) => DriverHandle;
