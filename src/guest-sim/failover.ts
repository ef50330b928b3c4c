// A fail-over pair (virtio 1.4 5.1.3, VIRTIO_NET_F_STANDBY): a virtio-net device that stays, and a primary with the same address that comes and goes, such as a
// virtual function that is unplugged for a migration. Frames leave through the primary while there is one, and are taken from both.

import { type ByteViews, viewsOf } from '#core/guest-memory';
import { announcements, type GuestAddresses } from './net-announce.ts';
import type { FrameSink } from './net-receive.ts';
import type { TransmitOffload } from './net-transmit.ts';
import type { Nic } from './nic.ts';
import { VIRTIO_NET_F } from './virtio-constants.ts';
import type { VirtioNet } from './virtio-net.ts';

/** Link up, the driver content with its device. */
function usable(nic: Nic): boolean {
  return nic.configuration.linkUp && nic.broken === '';
}

/** Frames handed over and not yet known to be sent. */
function outstanding(nic: Nic): number {
  let total = 0;
  for (const queue of nic.transmit) {
    queue.reclaim();
    total += queue.outstanding;
  }
  return total;
}

export class FailoverPair {
  readonly standby: VirtioNet;
  /** Frames that were in a primary's ring when it went: the only ones that can be lost. */
  atRisk = 0;
  /** Times traffic moved. */
  moves = 0;
  readonly #addresses: GuestAddresses;
  #primary: Nic | undefined;
  #active: Nic;
  readonly #frame = viewsOf(new SharedArrayBuffer(128));

  /** `standby` has to have negotiated VIRTIO_NET_F_STANDBY. `addresses`: announced where traffic goes each time it moves. @throws RangeError */
  constructor(standby: VirtioNet, addresses: GuestAddresses = {}) {
    if (!standby.has(VIRTIO_NET_F.STANDBY)) throw new RangeError('the device did not offer to be a standby (VIRTIO_NET_F_STANDBY)');
    this.standby = standby;
    this.#active = this.standby;
    this.#addresses = addresses;
  }

  get primary(): Nic | undefined {
    return this.#primary;
  }
  /** Where frames leave now. */
  get active(): Nic {
    return this.#active;
  }
  get mac(): Uint8Array {
    return this.standby.configuration.mac;
  }

  /** A primary appeared. @throws RangeError when its address is another, or there is one already: the pair is told by the address */
  attach(primary: Nic): void {
    if (this.#primary) throw new RangeError('there is a primary already: detach it first');
    if (primary.configuration.mac.some((byte, i) => byte !== this.mac[i])) throw new RangeError('a primary has the same address as its standby');
    this.#primary = primary;
    this.#choose();
  }

  /** The primary is going, or gone. What it has received is taken first if it still answers (`sink`). */
  detach(sink?: FrameSink): void {
    const primary = this.#primary;
    if (!primary) return;
    if (sink && usable(primary)) primary.poll(sink);
    this.atRisk += outstanding(primary);
    this.#primary = undefined;
    this.#choose();
  }

  /** Traffic goes where the link is up, to the primary first. */
  #choose(): void {
    const next = this.#primary && usable(this.#primary) ? this.#primary : this.standby;
    if (next === this.#active) return;
    // What was added there becomes visible before anything leaves elsewhere.
    if (usable(this.#active)) this.flush();
    this.#active = next;
    this.moves++;
    this.#announce();
  }

  #announce(): void {
    for (const frame of announcements(this.mac, this.#addresses)) {
      this.#frame.u8.set(frame, 0);
      this.#copy(this.#frame, 0, frame.length);
    }
    this.flush();
  }

  /** Copies a frame out, each flow to one queue; false when there is no room for it now. Visible to the device at the next `flush`. */
  send(from: ByteViews, start: number, length: number, offload?: TransmitOffload): boolean {
    if (!usable(this.#active) || this.#active !== (this.#primary ?? this.standby)) this.#choose();
    return this.#copy(from, start, length, offload);
  }

  #copy(from: ByteViews, start: number, length: number, offload?: TransmitOffload): boolean {
    return this.standby.steering.transmitQueue(this.#active.transmit, from.u8, start, length).copy(from, start, length, offload);
  }

  flush(): void {
    for (const queue of this.#active.transmit) queue.flush();
  }

  /** Both are listened to: frames may be on their way to the one that traffic just left. */
  poll(sink: FrameSink): boolean {
    const more = this.#primary?.poll(sink) ?? false;
    return this.standby.poll(sink) || more;
  }
}
