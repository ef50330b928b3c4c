// One shadow virtqueue: takes chains from the guest's ring, whatever its format, and hands them to a device on a ring of the host's own, with addresses of the device's
// own space; brings back what the device used, marking what it wrote. The guest's ring is served by the same queues as any data plane's (openQueue), so it is
// read once and bounded as there, and a driver that breaks a rule breaks its own ring alone.

import type { DmaSpace } from '#core/dma-space';
import { SegmentList } from '#core/segments';
import type { IovaTree } from './iova-tree.ts';
import type { ShadowRing } from './shadow-ring.ts';
import { QUEUE_BROKEN, type VirtQueue } from './virtqueue.ts';

/** Chains of one plain buffer taken at a time. */
const RUN = 256;
/** Buffers of a lap: those of length 0 cost no descriptor of the device's ring, and are to be walked all the same. */
const MOST_BUFFERS = 8192;
/** In struct virtio_net_hdr. */
const NUM_BUFFERS = 10;
const NO_LIMIT = 0x7fffffff;

export class ShadowQueue {
  readonly queue: VirtQueue;
  readonly ring: ShadowRing;
  /** Why the device's side takes no part any more, or undefined. */
  broken: string | undefined;
  /** Packets of what `bringBack` brought last: of one that is merged over several buffers, the first counts. */
  packets = 0;
  readonly #dma: DmaSpace;
  readonly #iovas: IovaTree;
  /** Its buffers are for the device to write: a receive queue. */
  readonly #writable: boolean;
  /** A packet may be merged over several. */
  readonly #merges: boolean;
  /** Buffers still to come of the packet at hand. */
  #rest = 0;
  readonly #segments: SegmentList;
  readonly #tokens = new Int32Array(RUN);
  /** A chain waits for descriptors that the device has. */
  #full = false;

  constructor(parts: { queue: VirtQueue; ring: ShadowRing; dma: DmaSpace; iovas: IovaTree; writable: boolean; merges: boolean }) {
    this.queue = parts.queue;
    this.ring = parts.ring;
    this.#dma = parts.dma;
    this.#iovas = parts.iovas;
    this.#writable = parts.writable;
    this.#merges = parts.merges;
    this.#segments = new SegmentList(parts.ring.size, (parts.dma.memory.slabs[0] as { views: SegmentList['views'][number] }).views);
  }

  /** Hands over what the guest made available: a lap of its ring at most, as the driver can make more available meanwhile. Returns how many chains. */
  forward(): number {
    const { queue, ring } = this;
    const segments = this.#segments;
    const tokens = this.#tokens;
    const writable = this.#writable;
    let chains = 0;
    let buffers = 0;
    this.#full = false;
    while (chains < queue.size && this.broken === undefined) {
      if (ring.room === 0) {
        this.#full = true;
        break;
      }
      segments.truncate(0);
      const run = queue.popRun(segments, tokens, 0, Math.min(ring.room, queue.size - chains, RUN), NO_LIMIT, writable);
      for (let i = 0; i < run; i++) this.#put(tokens[i] as number, i, i + 1, writable ? i : i + 1);
      chains += run;
      if (run > 0) continue;
      const token = queue.pop(segments);
      if (token < 0) break;
      // virtio 1.4 allows a chain of nothing but buffers of length 0: the device is to see one.
      if (Math.max(1, segments.count) > ring.room) {
        queue.unpop(1);
        this.#full = true;
        break;
      }
      this.#put(token, 0, segments.count, queue.readableSegments);
      chains++;
      buffers += queue.buffers;
      if (buffers > MOST_BUFFERS) break;
    }
    return chains;
  }

  /** Segments from .. to - 1 as one chain; those before `readable` are for the device to read. */
  #put(token: number, from: number, to: number, readable: number): void {
    const { ring } = this;
    const { window, address, length } = this.#segments;
    ring.begin(token);
    if (from === to) ring.add(ring.setup.descriptorArea, -1, 0, this.#writable);
    for (let i = from; i < to; i++) {
      const physical = (address[i] as number) + (window[i]?.guestBias ?? 0);
      const iova = this.#iovas.iovaOf(physical, length[i] as number);
      if (iova < 0) this.broken = `no device address for ${length[i]} bytes at 0x${physical.toString(16)}`;
      ring.add(iova < 0 ? 0 : iova, physical, iova < 0 ? 0 : (length[i] as number), i >= readable);
    }
    ring.end();
  }

  /** Brings back what the device used, not visible to the guest before `queue.publish`. Returns how many chains. */
  bringBack(): number {
    const { queue, ring } = this;
    const log = this.#dma.logging ? this.#dma.memory.dirty : undefined;
    let chains = 0;
    this.packets = 0;
    for (; chains < ring.size; chains++) {
      const head = ring.take(log);
      if (head < 0) {
        if (head === QUEUE_BROKEN) this.broken = 'the device returned a buffer it did not have';
        break;
      }
      queue.push(ring.token, ring.written);
      if (this.#rest > 0) this.#rest--;
      else {
        this.packets++;
        if (this.#merges) this.#rest = Math.max(0, this.#buffersOfPacket() - 1);
      }
    }
    return chains;
  }

  /** virtio 1.4 5.1.9.4: num_buffers, which the device has written. The driver may have, too: no more hangs on it than when that one is interrupted. */
  #buffersOfPacket(): number {
    const { firstAddress, firstLength } = this.ring;
    if (firstLength < NUM_BUFFERS + 2) return 1;
    const slab = this.#dma.memory.slabs.find(({ base, size }) => firstAddress >= base && firstAddress + NUM_BUFFERS + 2 <= base + size);
    const at = firstAddress + NUM_BUFFERS - (slab?.base ?? 0);
    return slab === undefined ? 1 : (slab.views.u8[at] as number) | ((slab.views.u8[at + 1] as number) << 8);
  }

  /** Asks both sides to say when there is work. True when there is some already. */
  arm(): boolean {
    const used = this.ring.awaitCall();
    // Who waits for descriptors need not be told of further chains.
    return (this.#full ? false : this.queue.awaitKick()) || used;
  }

  /** Asks neither. */
  disarm(): void {
    this.ring.suppressCalls();
    this.queue.suppressKicks();
  }

  /**
   * The device has stopped, at `available` of its ring: brings back what it returned, and gives the guest's ring back what the device did not take. Returns whether the driver wants to
   * be called; its ring stands at its final position then. A ring that cannot be reached any more (no bus mastering) gets everything back as if the device had never had it.
   */
  finish(available: number): boolean {
    const { queue, ring } = this;
    this.#dma.sync();
    let call = false;
    if (queue.resync()) {
      this.bringBack();
      call = queue.publish();
      if (ring.untaken(available) !== ring.outstanding) this.broken ??= 'the device stopped with buffers that it took and did not return';
    }
    queue.unpop(ring.outstanding);
    return call;
  }
}
