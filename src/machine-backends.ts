// Which device a backend serves: a backend has one set of rings, and two devices on it, of one machine or of two, would serve each other's memory.

import type { VirtioNet } from '#devices/virtio-net/device';
import type { VhostBackend } from '#virtio/vhost';
import { MachineError } from './machine-options.ts';

/** Devices in machines. Machines give them back when they are closed and when a device leaves. */
const devices = new Set<VirtioNet>();

/** @throws MachineError when a device in some machine uses `backend`. */
export function requireFree(backend: VhostBackend): void {
  for (const net of devices)
    if (net.backend === backend)
      throw new MachineError('NICBOX_BACKEND_TAKEN', `backend ${backend.name} serves another device: each needs its own (a segment has a port for each)`);
}

export function claim(net: VirtioNet): void {
  devices.add(net);
}

export function giveBack(net: VirtioNet): void {
  devices.delete(net);
}
