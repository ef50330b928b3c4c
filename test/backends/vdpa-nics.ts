// Two vDPA NICs on a wire that is not plugged in yet, each with both ways to a guest's rings: as they are, and with shadow virtqueues in between.

import { VdpaBackend } from '#backends/vdpa-backend';
import { VdpaNet, type VdpaNetOptions } from '#backends/vdpa-net';
import { VdpaShadow } from '#backends/vdpa-shadow';
import type { VhostWorker } from '#backends/vhost-worker';

export interface Nic {
  readonly device: VdpaNet;
  readonly direct: VdpaBackend;
  readonly shadow: VdpaShadow;
}

export interface Nics {
  readonly a: Nic;
  readonly b: Nic;
  /** Plugs the wire in. */
  readonly resume: () => void;
}

/** @param endings gets what is to be done at the end */
export function nicsOn(worker: VhostWorker, endings: (() => unknown)[], options: VdpaNetOptions = {}): Nics {
  const segment = worker.segment({ paused: true });
  const nic = (name: string): Nic => {
    const device = new VdpaNet(segment.port(name), options);
    const shadow = new VdpaShadow(device);
    endings.push(() => shadow.close());
    return { device, direct: new VdpaBackend(device), shadow };
  };
  return { a: nic('a'), b: nic('b'), resume: () => segment.resume() };
}
