// A running lab: the machines of a lab file, the data plane of its links (on this thread, or on a worker), and a guest thread a machine. Everything it starts, `close`
// ends.

import { InlineSegment } from '#backends/inline-backend';
import { VdpaBackend } from '#backends/vdpa-backend';
import { VdpaNet } from '#backends/vdpa-net';
import { VdpaShadow } from '#backends/vdpa-shadow';
import { VhostPool } from '#backends/vhost-pool';
import type { VhostSegment } from '#backends/vhost-worker';
import { GuestThread, type GuestThreadOptions } from '#guest-sim/guest-thread';
import { DirectLink } from '#net/direct-link';
import { LearningSwitch } from '#net/learning-switch';
import { Segment } from '#net/segment';
import type { VhostBackend } from '#virtio/vhost';
import type { LabDescription } from './lab-file.ts';
import { buildMachine, type LabMachine } from './topology.ts';

/**
 * inline: served in the machine's thread, inside the guest's kick. vhost-net: by a worker thread that polls, then sleeps. vdpa: by a NIC on such a thread, with the guest's own
 * rings, or (vdpa-shadow) with shadow virtqueues of the machine's thread in between.
 */
export type DataPlane = 'inline' | 'vhost-net' | 'vdpa' | 'vdpa-shadow';

interface LinkPlane {
  port(name: string, pairs: number): VhostBackend;
}

export class Lab {
  readonly machines: readonly LabMachine[];
  readonly #pool: VhostPool | undefined;
  readonly #guests: GuestThread[] = [];
  readonly #shadows: VdpaShadow[] = [];

  /** Builds everything but the guests. @throws the typed errors of what it is made of. */
  constructor(description: LabDescription, plane: DataPlane) {
    this.#pool = plane === 'inline' ? undefined : new VhostPool();
    const worker = this.#pool?.worker();
    const links = new Map(
      description.links.map((link): [string, LinkPlane] => [
        link.name,
        worker
          ? this.#onWorker(worker.segment({ kind: link.type === 'direct' ? 'link' : 'switch' }), plane)
          : new InlineSegment(new Segment(link.type === 'direct' ? new DirectLink() : new LearningSwitch())),
      ]),
    );
    const machines: LabMachine[] = [];
    this.machines = machines;
    try {
      for (const [index, guest] of description.guests.entries())
        machines.push(
          buildMachine(guest, index, {
            backend: (device, { name }) => (links.get(device.link) as LinkPlane).port(`${name}-${device.link}`, device.queuePairs),
          }),
        );
    } catch (error) {
      // Nobody will have a lab to close: its threads would keep the process alive.
      this.close().catch(() => {});
      throw error;
    }
  }

  #onWorker(segment: VhostSegment, plane: DataPlane): LinkPlane {
    if (plane === 'vhost-net') return segment;
    return {
      port: (name, pairs) => {
        const device = new VdpaNet(segment.port(name, pairs));
        if (plane === 'vdpa') return new VdpaBackend(device);
        const shadow = new VdpaShadow(device);
        this.#shadows.push(shadow);
        return shadow;
      },
    };
  }

  /** Starts a guest thread on machine `index`; resolves when its device is up. */
  async guest(index: number, options: GuestThreadOptions): Promise<GuestThread> {
    const { machine } = this.machines[index] as LabMachine;
    const guest = await GuestThread.start(machine.threadBus().share, options);
    this.#guests.push(guest);
    return guest;
  }

  /** Guests first, then machines, then the data plane's threads; all of them, also when one does not end as it should. @throws what that one threw. */
  async close(): Promise<void> {
    const guests = await Promise.allSettled(this.#guests.map((guest) => guest.close()));
    const machines = await Promise.allSettled(this.machines.map(({ machine }) => machine.close()));
    for (const shadow of this.#shadows) shadow.close();
    await this.#pool?.close();
    for (const end of [...guests, ...machines]) if (end.status === 'rejected') throw end.reason;
  }
}
