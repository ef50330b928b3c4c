// Two machines with a virtio-net device each, joined by a link, for guests that drive them: the whole path from a driver's ring to the other's.

import { readFileSync } from 'node:fs';
import { InlineSegment } from '#backends/inline-backend';
import { VdpaBackend } from '#backends/vdpa-backend';
import { VdpaNet } from '#backends/vdpa-net';
import { VdpaShadow } from '#backends/vdpa-shadow';
import { VhostPool } from '#backends/vhost-pool';
import type { VhostWorker } from '#backends/vhost-worker';
import type { GuestMemory } from '#core/guest-memory';
import type { VirtioNetOptions as DeviceOptions, VirtioNet } from '#devices/virtio-net/device';
import { Guest, type GuestOptions, type GuestReport } from '#guest-sim/guest';
import type { Job, PackedFrames } from '#guest-sim/workload';
import { openCapture } from '#net/capture';
import { loadFrames } from '#net/capture-frames';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { Machine } from '#nicbox/machine';
import type { PciFunction } from '#pci/function';
import type { VhostBackend } from '#virtio/vhost';

export interface Setup {
  readonly guest?: GuestOptions;
  readonly device?: Partial<DeviceOptions>;
  readonly place?: Omit<NonNullable<Parameters<Machine['addVirtioNet']>[1]>, 'under'>;
  /** Default 96 MiB from address 0. */
  readonly memory?: () => GuestMemory;
  /** Attaches whatever the device is to sit under, and returns it. */
  readonly under?: (machine: Machine) => PciFunction;
}

export interface Side {
  readonly machine: Machine;
  readonly net: VirtioNet;
  readonly setup: Setup;
}

/** What joins the two devices, and on which thread its frames move. */
export interface Wire {
  port(name: string, pairs: number): VhostBackend;
}

export const WIRES = ['inline', 'vhost-net worker', 'vdpa', 'vdpa shadow'] as const;

let pool: VhostPool | undefined;
let worker: VhostWorker | undefined;
const shadows: VdpaShadow[] = [];

/** A new direct link; worker links of one test file share a thread. Call `closeWires` at the end. */
export function makeWire(kind: (typeof WIRES)[number]): Wire {
  if (kind === 'inline') return new InlineSegment(new Segment(new DirectLink()));
  pool ??= new VhostPool({ threads: 1 });
  worker ??= pool.worker();
  const segment = worker.segment();
  if (kind === 'vhost-net worker') return segment;
  return {
    port: (name, pairs) => {
      const device = new VdpaNet(segment.port(name, pairs));
      if (kind === 'vdpa') return new VdpaBackend(device);
      const shadow = new VdpaShadow(device);
      shadows.push(shadow);
      return shadow;
    },
  };
}

export async function closeWires(): Promise<void> {
  for (const shadow of shadows.splice(0)) shadow.close();
  await pool?.close();
  pool = undefined;
  worker = undefined;
}

export function makeMachine(segment: Wire, name: string, setup: Setup): Side {
  const machine = new Machine({ name, memory: setup.memory?.() ?? 96 * 2 ** 20 });
  const under = setup.under?.(machine);
  const pairs = setup.device?.queuePairs ?? 1;
  const { net } = machine.addVirtioNet(
    { mac: name === 'a' ? '52:54:00:00:00:0a' : '52:54:00:00:00:0b', ...setup.device, backend: segment.port(name, pairs) },
    { ...setup.place, ...(under && { under }) },
  );
  return { machine, net, setup };
}

/** Both guests on this thread, stepping in turn until both jobs are done. @throws Error with both reports when they do not get there. */
export async function runBoth(a: Guest, b: Guest, jobA: Job, jobB: Job, patience = 20_000): Promise<{ a: GuestReport; b: GuestReport }> {
  const workB = b.start(jobB);
  const workA = a.start(jobA);
  const deadline = performance.now() + patience;
  while (!workA.done || !workB.done) {
    const busyA = a.step();
    const busyB = b.step();
    if (a.net.broken !== '' || b.net.broken !== '' || performance.now() > deadline)
      throw new Error(`the jobs did not finish: ${JSON.stringify([a.report(), b.report()])}`);
    // Deferred turns of the inline segment need the event loop.
    if (!busyA && !busyB) await new Promise((resolve) => setTimeout(resolve, 0));
  }
  b.step();
  return { a: a.report(), b: b.report() };
}

export async function withTwoGuests(
  kind: (typeof WIRES)[number],
  setup: Setup | { a: Setup; b: Setup },
  use: (a: Guest, b: Guest) => Promise<void> | void,
): Promise<void> {
  const segment = makeWire(kind);
  const [setupA, setupB] = 'a' in setup ? [setup.a, setup.b] : [setup, setup];
  const sides = [makeMachine(segment, 'a', setupA), makeMachine(segment, 'b', setupB)] as const;
  try {
    const [a, b] = sides.map((s) => new Guest(s.machine.localBus(), s.setup.guest)) as [Guest, Guest];
    await use(a, b);
  } finally {
    for (const s of sides) await s.machine.close();
  }
}

export function realCapture(): PackedFrames {
  return loadFrames(openCapture(readFileSync(new URL('../../captures/real.pcapng', import.meta.url))));
}
