// Two machines joined by a link, whose RAM, guests and data planes outlive them: a machine can be saved, thrown away and built again under a guest that goes on.

import { InlineSegment } from '#backends/inline-backend';
import { VdpaBackend } from '#backends/vdpa-backend';
import { VdpaNet } from '#backends/vdpa-net';
import { VdpaShadow } from '#backends/vdpa-shadow';
import { VhostPool } from '#backends/vhost-pool';
import type { BusCounts, GuestBus, PlatformDescription } from '#core/guest-bus';
import { GuestMemory } from '#core/guest-memory';
import type { IntxLines, PendingVectors } from '#core/interrupts';
import type { AccessSize } from '#core/region';
import type { VirtioNet } from '#devices/virtio-net/device';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { Machine } from '#nicbox/machine';
import { rootPort } from '#pci/bridges';
import type { VhostBackend } from '#virtio/vhost';

export type Plane = 'inline' | 'vhost-net' | 'vdpa' | 'vdpa-shadow';

/** A link on some data plane, and how to end it. */
export interface Link {
  port(name: string): VhostBackend;
  readonly pool: VhostPool | undefined;
  close(): Promise<void>;
}

export function makeLink(plane: Plane): Link {
  if (plane === 'inline') {
    const segment = new InlineSegment(new Segment(new DirectLink()));
    return { port: (name) => segment.port(name), pool: undefined, close: async () => {} };
  }
  const pool = new VhostPool({ threads: 1 });
  const segment = pool.worker().segment();
  if (plane === 'vhost-net') return { port: (name) => segment.port(name), pool, close: () => pool.close() };
  const shadows: VdpaShadow[] = [];
  const port = (name: string): VhostBackend => {
    const device = new VdpaNet(segment.port(name), { dirtyTracking: plane === 'vdpa' });
    if (plane === 'vdpa') return new VdpaBackend(device);
    const shadow = new VdpaShadow(device);
    shadows.push(shadow);
    return shadow;
  };
  const close = (): Promise<void> => {
    for (const shadow of shadows) shadow.close();
    return pool.close();
  };
  return { port, pool, close };
}

export const RAM_SIZE = 32 * 2 ** 20;

export interface Side {
  readonly machine: Machine;
  readonly net: VirtioNet;
}

/** A machine with a root port and a virtio-net device below it, over RAM that is somebody else's. */
export function makeSide(link: Link, name: 'a' | 'b', ram: SharedArrayBuffer): Side {
  const machine = new Machine({ name, memory: new GuestMemory([{ base: 0, size: RAM_SIZE, source: ram }]) });
  const port = rootPort();
  machine.attach(port);
  const { net } = machine.addVirtioNet({ mac: `52:54:00:00:00:0${name}`, backend: link.port(name) }, { under: port });
  return { machine, net };
}

/** A bus whose machine can be exchanged under the guest. */
export class MovableBus implements GuestBus {
  #inner: GuestBus;

  constructor(inner: GuestBus) {
    this.#inner = inner;
  }

  move(inner: GuestBus): void {
    this.#inner = inner;
  }

  get platform(): PlatformDescription {
    return this.#inner.platform;
  }
  get memory(): GuestMemory {
    return this.#inner.memory;
  }
  get vectors(): PendingVectors {
    return this.#inner.vectors;
  }
  get lines(): IntxLines {
    return this.#inner.lines;
  }
  get counts(): BusCounts {
    return this.#inner.counts;
  }
  mmioRead(address: number, size: AccessSize): number {
    return this.#inner.mmioRead(address, size);
  }
  mmioWrite(address: number, size: AccessSize, value: number): void {
    this.#inner.mmioWrite(address, size, value);
  }
  ioRead(port: number, size: AccessSize): number {
    return this.#inner.ioRead(port, size);
  }
  ioWrite(port: number, size: AccessSize, value: number): void {
    this.#inner.ioWrite(port, size, value);
  }
  now(): number {
    return this.#inner.now();
  }
  waitForInterrupt(timeout: number): boolean {
    return this.#inner.waitForInterrupt(timeout);
  }
  waitForInterruptAsync(timeout: number): Promise<boolean> {
    return this.#inner.waitForInterruptAsync(timeout);
  }
}
