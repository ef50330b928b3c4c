// A packet generator: frames of given sizes as fast as the rings take them, a flow and its own sequence numbers on each queue (sink.ts checks them).

import { copyBytes } from '#core/copy';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import type { GuestArena } from './arena.ts';
import type { ReceivedFrame } from './net-receive.ts';
import { TransmitOffload } from './net-transmit.ts';
import type { Nic, NicTransmitQueue } from './nic.ts';
import { buildFrame, LONGEST_FRAME, SHORTEST_FRAME, stampSequence, TCP_PAYLOAD, UDP_PAYLOAD } from './test-frame.ts';
import { NET_GSO_TCPV4, NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_F } from './virtio-constants.ts';
import { drained, Tallied, type Workload, type WorkloadResult } from './workload.ts';

const DEFAULT_MTU = 1500;

export interface GenerateJob {
  readonly kind: 'generate';
  readonly count: number;
  /** Frame sizes without FCS, used in turn; beyond the MTU they go out as TCP segmentation offload frames. Default [60]. */
  readonly sizes?: readonly number[];
  /** Default: broadcast, which every receiver takes. */
  readonly destination?: readonly number[];
  /** Leave the checksum to the device (needs VIRTIO_NET_F_CSUM). */
  readonly checksumOffload?: boolean;
  /** Frames added between two looks at the device. Default 64. */
  readonly burst?: number;
}

/** Frames that one buffer does not hold, or one packet of the MTU, are TCP and take the way of large sends. */
function isLong(queue: NicTransmitQueue, size: number, mtu: number): boolean {
  return size > queue.frameRoom || size - 14 > mtu;
}

export class Generate extends Tallied implements Workload {
  readonly #job: GenerateJob;
  readonly #arena: GuestArena;
  readonly #sizes: readonly number[];
  readonly #burst: number;
  readonly #offload = new TransmitOffload();
  readonly #templates: (ByteViews | undefined)[] = [];
  /** Which frame shape each transmit buffer of a queue already holds, plus 1. */
  #prepared: Int32Array[] = [];
  #sequences: Int32Array = new Int32Array(0);
  #queue = 0;
  #turn = 0;
  readonly nextDue = Infinity;
  done = false;

  constructor(job: GenerateJob, arena: GuestArena) {
    super();
    this.#job = job;
    this.#arena = arena;
    this.#sizes = job.sizes ?? [SHORTEST_FRAME];
    this.#burst = job.burst ?? 64;
    for (const size of this.#sizes)
      if (!(Number.isInteger(size) && size >= SHORTEST_FRAME && size <= LONGEST_FRAME))
        throw new RangeError(`frame size ${size} is not in ${SHORTEST_FRAME}..${LONGEST_FRAME}`);
    if (this.#sizes.length === 0) throw new RangeError('a generator needs at least one frame size');
  }

  receive(frame: ReceivedFrame): void {
    this.tally.framesReceived++;
    this.tally.bytesReceived += frame.length;
  }

  step(net: Nic): boolean {
    if (this.done) return false;
    if (this.#prepared.length !== net.transmit.length) {
      this.#prepared = net.transmit.map((q) => new Int32Array(q.buffers));
      this.#sequences = new Int32Array(net.transmit.length);
    }
    if (this.tally.framesSent >= this.#job.count) {
      this.done = drained(net);
      return this.done;
    }
    // One burst a queue and step: a queue that is full leaves the turn to the next.
    let moved = false;
    for (let tries = 0; tries < net.transmit.length && !moved; tries++) {
      moved = this.#fill(net, net.transmit[this.#queue] as NicTransmitQueue, this.#queue);
      this.#queue = (this.#queue + 1) % net.transmit.length;
    }
    if (moved) return true;
    for (const queue of net.transmit) if (queue.awaitRoom()) moved = true;
    return moved;
  }

  #fill(net: Nic, queue: NicTransmitQueue, flow: number): boolean {
    const left = this.#job.count - this.tally.framesSent;
    const most = left < this.#burst ? left : this.#burst;
    const { views } = this.#arena;
    const prepared = this.#prepared[flow] as Int32Array;
    let sent = 0;
    let bytes = 0;
    let sequence = this.#sequences[flow] as number;
    const mtu = net.configuration.mtu || DEFAULT_MTU;
    while (sent < most) {
      const size = this.#sizes[this.#turn] as number;
      if (isLong(queue, size, mtu)) {
        if (!this.#sendLong(net, queue, flow, size, sequence)) break;
      } else {
        const at = queue.reserve();
        if (at < 0) break;
        const buffer = queue.reservedBuffer;
        if (prepared[buffer] !== this.#turn + 1) {
          copyBytes(views, at, this.#template(net, flow, size), 0, size);
          prepared[buffer] = this.#turn + 1;
        }
        stampSequence(views, at, UDP_PAYLOAD, sequence);
        queue.send(size, this.#job.checksumOffload ? this.#checksum(net, 6) : undefined);
      }
      sequence = (sequence + 1) | 0;
      sent++;
      bytes += size;
      if (++this.#turn === this.#sizes.length) this.#turn = 0;
    }
    this.#sequences[flow] = sequence;
    this.tally.framesSent += sent;
    this.tally.bytesSent += bytes;
    queue.flush();
    return sent > 0;
  }

  /** The frame of this size and flow with sequence number 0, made once. */
  #template(net: Nic, flow: number, size: number): ByteViews {
    const key = flow * this.#sizes.length + this.#turn;
    const known = this.#templates[key];
    if (known) return known;
    const views = viewsOf(new SharedArrayBuffer(Math.ceil(size / 8) * 8));
    const destination = Uint8Array.from(this.#job.destination ?? [255, 255, 255, 255, 255, 255]);
    const mtu = net.configuration.mtu || DEFAULT_MTU;
    const tcp = isLong(net.transmit[0] as NicTransmitQueue, size, mtu);
    const unfilled = tcp ? size - 14 > mtu : this.#job.checksumOffload === true && net.has(VIRTIO_NET_F.CSUM);
    buildFrame(views.u8, 0, { size, tcp, flow, source: net.configuration.mac, destination, unfilled });
    this.#templates[key] = views;
    return views;
  }

  #checksum(net: Nic, csumOffset: number): TransmitOffload | undefined {
    if (!net.has(VIRTIO_NET_F.CSUM)) return undefined;
    const offload = this.#offload;
    offload.flags = NET_HDR_F_NEEDS_CSUM;
    offload.csumStart = 34;
    offload.csumOffset = csumOffset;
    return offload;
  }

  /** A frame beyond one buffer, TCP. Beyond the MTU as well: handed to the device to segment. Its buffers are written anew each time, since they may be any. */
  #sendLong(net: Nic, queue: NicTransmitQueue, flow: number, size: number, sequence: number): boolean {
    const mtu = net.configuration.mtu || DEFAULT_MTU;
    const segment = size - 14 > mtu;
    if (segment && !net.has(VIRTIO_NET_F.HOST_TSO4)) {
      this.tally.fail(() => `frames of ${size} bytes need VIRTIO_NET_F_HOST_TSO4, which was not negotiated`);
      this.tally.framesSent = this.#job.count;
      return false;
    }
    const linear = this.#template(net, flow, size);
    stampSequence(linear, 0, TCP_PAYLOAD, sequence);
    const offload = this.#offload;
    offload.clear();
    if (segment) {
      offload.flags = NET_HDR_F_NEEDS_CSUM;
      offload.gsoType = NET_GSO_TCPV4;
      offload.headerLength = TCP_PAYLOAD;
      offload.gsoSize = mtu - 40;
      offload.csumStart = 34;
      offload.csumOffset = 16;
    }
    const sent = queue.copy(linear, 0, size, offload);
    offload.clear();
    if (sent) (this.#prepared[flow] as Int32Array).fill(0);
    return sent;
  }

  result(): WorkloadResult {
    return this.tally.result('generate', this.done);
  }
}
