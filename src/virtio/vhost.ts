// The contract between a virtio-net device (control plane) and whoever moves its frames (data plane): inline, a worker thread, another process. It says what the
// vhost protocol says: features, memory, per ring its size, addresses, base, kick and call; start; stop, which gives the base back. Starting and stopping are per ring,
// so that a queue reset, a live hand-over and a migration are the same two calls. Nothing blocks: a stop is asked for and then observed, from shared memory.

import type { Clock } from '#core/clock';
import type { DmaSpace } from '#core/dma-space';
import type { Doorbell } from '#core/doorbell';
import type { Call } from '#core/interrupts';
import type { FeatureSet } from './features.ts';
import type { NetPolicy } from './net-policy.ts';
import type { NetStatistics } from './net-statistics.ts';
import type { QueueSetup, VringPosition } from './virtqueue.ts';

/** stopping: asked to stop, still inside a turn. broken: the driver broke a ring rule. lost: the thread that served it died; its position is recovered. */
export type VringState = 'stopped' | 'running' | 'stopping' | 'broken' | 'lost';

export interface VhostSession {
  readonly features: FeatureSet;
  readonly memory: DmaSpace;
  readonly policy: NetPolicy;
  /** The device's time, for who serves the rings on the machine's thread; another thread goes by wall time. */
  readonly clock?: Clock | undefined;
  /** Where to count what passes each queue; absent: nobody asks. */
  readonly statistics?: NetStatistics | undefined;
}

export type VhostEvent =
  /** The driver broke a rule of this ring: the device sets DEVICE_NEEDS_RESET. */
  | { readonly kind: 'broken'; readonly index: number; readonly reason: string }
  /** The thread serving the rings is gone; every running ring is now `lost` and may be started again from its position. */
  | { readonly kind: 'lost'; readonly reason: string };

export interface VhostBackend {
  readonly name: string;
  /** Feature bits the data plane carries (ring features and offloads); a device offers no data-plane bit that is not here. */
  readonly features: FeatureSet;
  readonly maxQueuePairs: number;
  /** The data plane follows the flow rules in the policy words. */
  readonly flowFilter?: boolean;
  /** Of a data plane that is told of a control queue's settings by commands: the feature bits it has not, and would need in a device that offers these. */
  lacks?(offered: FeatureSet): FeatureSet;
  /** What a driver negotiated; before any ring starts and again after each reset. */
  open(session: VhostSession): void;
  /** Starts serving data ring `index` (receiveqN = 2(N-1), transmitqN = 2N-1) from `position`. A setup that cannot be served makes the ring broken, not a throw. */
  startVring(index: number, setup: QueueSetup, position: VringPosition, call: Call): void;
  /** Asks ring `index` to stop after the batch in hand. Observe with vringState: only 'stopped' (or broken, lost) has a final position. */
  stopVring(index: number): void;
  vringState(index: number): VringState;
  /** Final position once not running. */
  vringPosition(index: number): VringPosition;
  /** The driver's available-buffer notification, from the machine's thread. */
  kick(index: number): void;
  /** The doorbell a guest thread may ring directly in place of an exit, when the data plane waits on one. */
  kickDoorbell(index: number): Doorbell | undefined;
  /** Announces the station at this address in its driver's place, as after a migration (a RARP broadcast). False: it cannot be done now; absent: never. */
  announceStation?(mac: Uint8Array): boolean;
  /** Where events go; called on the machine's thread. */
  onEvent: ((event: VhostEvent) => void) | undefined;
  /**
   * The control plane changed the policy words (filters, offloads, active pairs, link), between two turns (`DmaSpace.betweenTurns`): the next turn reads them. Look
   * whether the change gives something to do. Throws when the data plane will not have it: the device then needs a reset.
   */
  policyChanged(): void;
}
