// What is said to a worker: the job it starts with and the messages that follow on its port, all of it structured-cloneable. Shared memory goes by reference.
// Messages are control only; they are read when the run block's attention word has moved.

import type { MessagePort } from 'node:worker_threads';
import type { TimeSource } from '#core/clock';
import type { DmaSpaceShare } from '#core/dma-space';
import type { BellShare, DoorbellShare } from '#core/doorbell';
import type { CallShare } from '#core/interrupts';
import { DirectLink } from '#net/direct-link';
import { EmbeddedForwarding } from '#net/embedded-switch/forwarding';
import type { SwitchShare } from '#net/embedded-switch/layout';
import { LearningSwitch } from '#net/learning-switch';
import type { Forwarding, ServiceBudget } from '#net/segment';
import { ValeSwitch } from '#net/vale-switch';
import type { QueueSetup, VringPosition } from '#virtio/virtqueue';
import type { RingLinkShare } from './ring-link.ts';

/** A ring's in-flight region, for another thread. */
interface InflightShare {
  readonly bytes: Uint8Array;
  readonly packed: boolean;
}

/** How frames find their way on a segment: by a kind that needs no more said, or through an embedded switch. */
export type SegmentKind = 'link' | 'switch' | 'vale' | SwitchShare;

/** @param reader where an embedded switch's forwarding says what to expel from its tables should this thread die */
export function makeForwarding(kind: SegmentKind, clock: TimeSource, reader: Int32Array): Forwarding {
  if (typeof kind === 'object') return EmbeddedForwarding.open(kind, clock, reader);
  if (kind === 'link') return new DirectLink();
  return kind === 'vale' ? new ValeSwitch() : new LearningSwitch();
}

/** What a frame ring to another thread is to its segment: one of its ports, or its monitor. */
export type LinkRole = 'port' | 'monitor';

export interface PollOptions {
  /** Longest time, in nanoseconds, to look for work before sleeping. 0: never poll. */
  readonly maximum: number;
  /** Shortest: how far the time may adapt down, where polling turns out to be of no use. Default 10 us. */
  readonly minimum?: number;
}

export interface WorkerJob {
  readonly run: SharedArrayBuffer;
  readonly journal: SharedArrayBuffer;
  readonly bell: BellShare;
  readonly port: MessagePort;
  readonly poll: PollOptions;
  /** Of a ToldTime, which the worker goes by. Absent: real time. */
  readonly time?: SharedArrayBuffer | undefined;
}

export type WorkerMessage =
  | {
      readonly op: 'segment';
      readonly segment: number;
      readonly kind: SegmentKind;
      /** One shared word: `makeForwarding`'s. */
      readonly reader: Int32Array;
      readonly budget: ServiceBudget | undefined;
      readonly paused: boolean;
    }
  | { readonly op: 'resume'; readonly segment: number }
  | {
      readonly op: 'port';
      readonly segment: number;
      readonly port: number;
      readonly name: string;
      readonly rings: number;
      readonly block: SharedArrayBuffer;
      readonly counters: SharedArrayBuffer;
      readonly firstSlot: number;
    }
  | {
      readonly op: 'open';
      readonly port: number;
      readonly features: readonly number[];
      readonly memory: DmaSpaceShare;
      readonly policy: SharedArrayBuffer;
      readonly statistics: SharedArrayBuffer | undefined;
    }
  | {
      readonly op: 'start';
      readonly port: number;
      readonly index: number;
      readonly start: number;
      readonly setup: QueueSetup;
      readonly position: VringPosition;
      readonly call: CallShare;
      readonly kick: DoorbellShare;
      readonly staging: Int32Array | undefined;
      readonly inflight: InflightShare | undefined;
    }
  | {
      readonly op: 'link';
      readonly segment: number;
      readonly port: number;
      readonly name: string;
      readonly share: RingLinkShare;
      readonly counters: SharedArrayBuffer;
      readonly firstSlot: number;
      readonly role: LinkRole;
    }
  /** A device's own port, made by the opener of its kind. */
  | {
      readonly op: 'device';
      readonly segment: number;
      readonly port: number;
      readonly name: string;
      readonly kind: string;
      readonly share: unknown;
      readonly counters: SharedArrayBuffer;
      readonly kick: DoorbellShare;
    }
  /** A frame to send in a driver's place. */
  | { readonly op: 'send'; readonly port: number; readonly frame: Uint8Array }
  | { readonly op: 'remove'; readonly port: number };

/** What a worker says, outside of shared memory. */
export type WorkerEvent =
  | { readonly op: 'broken'; readonly port: number; readonly index: number; readonly reason: string }
  /** A ring waits for a translation: the memory's fault ring says which. */
  | { readonly op: 'missed'; readonly port: number };

export interface RunResult {
  readonly turns: number;
}
