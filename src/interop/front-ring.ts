// One ring of a front end: what was said of it and what became of it; and who serves it.

import type { RingSurvival } from '#backends/vhost-net';
import type { Call } from '#core/interrupts';
import type { Log } from '#core/log';
import { type FeatureSet, VIRTIO_F_VERSION_1 } from '#virtio/features';
import { VIRTIO_NET_F_MRG_RXBUF } from '#virtio/net-features';
import type { VhostBackend } from '#virtio/vhost';
import type { QueueSetup, VringPosition } from '#virtio/virtqueue';
import type { RingDescriptors } from './ring-descriptors.ts';
import type { VringAddresses } from './vhost-user-protocol.ts';

/** How long a ring may take to stop before it is told of, in milliseconds. */
const LONG = 5000;
/** Looks that follow each other at once: a turn is short. */
const QUICK_LOOKS = 50;

export interface FrontRing {
  readonly index: number;
  readonly descriptors: RingDescriptors;
  size: number;
  addresses: VringAddresses | undefined;
  base: number;
  enabled: boolean;
  running: boolean;
  /** Where it goes on; undefined: where `base` says. */
  position: VringPosition | undefined;
  broken: boolean;
}

export function newRing(index: number, descriptors: RingDescriptors): FrontRing {
  return { index, descriptors, size: 0, addresses: undefined, base: 0, enabled: false, running: false, position: undefined, broken: false };
}

/** Who serves the rings; what a network device's worker can do besides may be missing elsewhere. */
export interface FrontBackend extends VhostBackend {
  /** Keeps `survival` up to date, if it can. */
  startVring(index: number, setup: QueueSetup, position: VringPosition, call: Call, survival?: RingSurvival): void;
  /** Rings wait for translations. */
  onMiss?: (() => void) | undefined;
  /** The driver is expected back, or no longer: what is sent to it meanwhile is held. */
  expect?(expected: boolean): void;
}

/** The header is that of 12 bytes (virtio 1.4 5.1.9: always with VERSION_1; a legacy one had it with mergeable buffers). */
export function modernHeader(features: FeatureSet): boolean {
  return features.has(VIRTIO_F_VERSION_1) || features.has(VIRTIO_NET_F_MRG_RXBUF);
}

/** Resolves when a ring that was asked to stop has. */
export async function untilStopped(backend: VhostBackend, index: number, log: Log): Promise<void> {
  const since = performance.now();
  let told = false;
  for (let look = 0; ; look++) {
    const state = backend.vringState(index);
    if (state !== 'running' && state !== 'stopping') return;
    // Later it leaves the processor to the thread that is to stop.
    await new Promise<void>((resolve) => void (look < QUICK_LOOKS ? setImmediate(resolve) : setTimeout(resolve, 1)));
    if (told || performance.now() - since < LONG) continue;
    told = true;
    log.guestError(`ring ${index} has been asked to stop for 5 s: its memory stays mapped until it does`);
  }
}
