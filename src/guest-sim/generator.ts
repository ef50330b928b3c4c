// A packet generator and the sink that checks what arrives: order and loss by sequence number per flow, content by checksum.

import type { GuestArena } from './arena.ts';
import { LinearFrame } from './linear.ts';
import { CHECKSUM_PARTIAL, type ReceivedFrame } from './net-receive.ts';
import { TransmitOffload, type TransmitQueue } from './net-transmit.ts';
import { checksumsHold, Headers, set16, transportChecksum } from './packets.ts';
import { buildFrame, LONGEST_FRAME, readFlow, readSequence, SHORTEST_FRAME, stampSequence, TCP_PAYLOAD, UDP_PAYLOAD } from './test-frame.ts';
import { NET_GSO_TCPV4, NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_F } from './virtio-constants.ts';
import type { VirtioNet } from './virtio-net.ts';
import { drained, Tally, type Workload, type WorkloadResult } from './workload.ts';

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

export interface SinkJob {
  readonly kind: 'sink';
  /** Done after this many frames; without it the sink runs until it is stopped. */
  readonly count?: number;
  /** 'full': headers and checksums of every byte; 'sequence': only the marker; 'none': counts. Default 'full'. */
  readonly verify?: 'full' | 'sequence' | 'none';
}

export class Generate implements Workload {
  readonly #job: GenerateJob;
  readonly #tally = new Tally();
  readonly #arena: GuestArena;
  readonly #sizes: readonly number[];
  readonly #burst: number;
  readonly #offload = new TransmitOffload();
  readonly #long = { views: undefined as LinearFrame['views'] | undefined, size: 0, flow: 0 };
  /** Which frame shape each transmit buffer of a queue already holds, plus 1. */
  #prepared: Int32Array[] = [];
  #sequences: Int32Array = new Int32Array(0);
  #queue = 0;
  #turn = 0;
  readonly nextDue = Infinity;
  done = false;

  constructor(job: GenerateJob, arena: GuestArena) {
    this.#job = job;
    this.#arena = arena;
    this.#sizes = job.sizes ?? [SHORTEST_FRAME];
    this.#burst = job.burst ?? 64;
    for (const size of this.#sizes)
      if (!(Number.isInteger(size) && size >= SHORTEST_FRAME && size <= LONGEST_FRAME))
        throw new RangeError(`frame size ${size} is not in ${SHORTEST_FRAME}..${LONGEST_FRAME}`);
    if (this.#sizes.length === 0) throw new RangeError('a generator needs at least one frame size');
  }

  get framesSent(): number {
    return this.#tally.framesSent;
  }
  get bytesSent(): number {
    return this.#tally.bytesSent;
  }
  get framesReceived(): number {
    return this.#tally.framesReceived;
  }
  get bytesReceived(): number {
    return this.#tally.bytesReceived;
  }

  receive(frame: ReceivedFrame): void {
    this.#tally.framesReceived++;
    this.#tally.bytesReceived += frame.length;
  }

  step(net: VirtioNet): boolean {
    if (this.done) return false;
    if (this.#prepared.length !== net.transmit.length) {
      this.#prepared = net.transmit.map((q) => new Int32Array(q.buffers));
      this.#sequences = new Int32Array(net.transmit.length);
    }
    if (this.#tally.framesSent >= this.#job.count) {
      this.done = drained(net);
      return this.done;
    }
    // One burst a queue and step: a queue that is full leaves the turn to the next.
    let moved = false;
    for (let tries = 0; tries < net.transmit.length && !moved; tries++) {
      moved = this.#fill(net, net.transmit[this.#queue] as TransmitQueue, this.#queue);
      this.#queue = (this.#queue + 1) % net.transmit.length;
    }
    if (moved) return true;
    for (const queue of net.transmit) if (queue.awaitRoom()) moved = true;
    return moved;
  }

  #fill(net: VirtioNet, queue: TransmitQueue, flow: number): boolean {
    const left = this.#job.count - this.#tally.framesSent;
    const most = left < this.#burst ? left : this.#burst;
    const { views } = this.#arena;
    const prepared = this.#prepared[flow] as Int32Array;
    let sent = 0;
    let bytes = 0;
    let sequence = this.#sequences[flow] as number;
    const mtu = net.configuration.mtu || DEFAULT_MTU;
    while (sent < most) {
      const size = this.#sizes[this.#turn] as number;
      if (size > queue.frameRoom || size - 14 > mtu) {
        if (!this.#sendLong(net, queue, flow, size, sequence)) break;
      } else {
        const at = queue.reserve();
        if (at < 0) break;
        const buffer = queue.reservedBuffer;
        if (prepared[buffer] !== this.#turn + 1) {
          buildFrame(views.u8, at, this.#shape(net, flow, size, false, this.#job.checksumOffload === true && net.has(VIRTIO_NET_F.CSUM)));
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
    this.#tally.framesSent += sent;
    this.#tally.bytesSent += bytes;
    queue.flush();
    return sent > 0;
  }

  #shape(net: VirtioNet, flow: number, size: number, tcp: boolean, unfilled: boolean): Parameters<typeof buildFrame>[2] {
    const destination = Uint8Array.from(this.#job.destination ?? [255, 255, 255, 255, 255, 255]);
    return { size, tcp, flow, source: net.configuration.mac, destination, unfilled };
  }

  #checksum(net: VirtioNet, csumOffset: number): TransmitOffload | undefined {
    if (!net.has(VIRTIO_NET_F.CSUM)) return undefined;
    const offload = this.#offload;
    offload.flags = NET_HDR_F_NEEDS_CSUM;
    offload.csumStart = 34;
    offload.csumOffset = csumOffset;
    return offload;
  }

  /** A frame beyond one buffer, TCP. Beyond the MTU as well: handed to the device to segment. Its buffers are written anew each time, since they may be any. */
  #sendLong(net: VirtioNet, queue: TransmitQueue, flow: number, size: number, sequence: number): boolean {
    const mtu = net.configuration.mtu || DEFAULT_MTU;
    const segment = size - 14 > mtu;
    if (segment && !net.has(VIRTIO_NET_F.HOST_TSO4)) {
      this.#tally.fail(() => `frames of ${size} bytes need VIRTIO_NET_F_HOST_TSO4, which was not negotiated`);
      this.#tally.framesSent = this.#job.count;
      return false;
    }
    const linear = this.#longViews();
    if (this.#long.size !== size || this.#long.flow !== flow) {
      buildFrame(linear.u8, 0, this.#shape(net, flow, size, true, segment));
      this.#long.size = size;
      this.#long.flow = flow;
    }
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

  #longViews(): LinearFrame['views'] {
    this.#long.views ??= new LinearFrame().views;
    return this.#long.views;
  }

  result(): WorkloadResult {
    return this.#tally.result('generate', this.done);
  }
}

export class Sink implements Workload {
  readonly #count: number;
  readonly #verify: 'full' | 'sequence' | 'none';
  readonly #tally = new Tally();
  readonly #linear = new LinearFrame();
  readonly #headers = new Headers();
  /** Next sequence number by flow. */
  readonly #expected = new Float64Array(65536);
  #lost = 0;
  #unmarked = 0;
  #partial = 0;
  readonly nextDue = Infinity;

  constructor(job: SinkJob) {
    this.#count = job.count ?? Infinity;
    this.#verify = job.verify ?? 'full';
  }

  get done(): boolean {
    return this.#tally.framesReceived >= this.#count;
  }
  get framesSent(): number {
    return 0;
  }
  get bytesSent(): number {
    return 0;
  }
  get framesReceived(): number {
    return this.#tally.framesReceived;
  }
  get bytesReceived(): number {
    return this.#tally.bytesReceived;
  }

  step(): boolean {
    return false;
  }

  receive(frame: ReceivedFrame): void {
    this.#tally.framesReceived++;
    this.#tally.bytesReceived += frame.length;
    if (this.#verify === 'none') return;
    let payload = UDP_PAYLOAD;
    if (this.#verify === 'sequence' && frame.segmentCount === 1) {
      const at = frame.offsets[0] as number;
      if (frame.views.u8[at + 23] === 6) payload = TCP_PAYLOAD;
      if (frame.length >= payload + 12) this.#sequence(frame.views, at + payload);
      else this.#unmarked++;
      return;
    }
    const partial = frame.checksum === CHECKSUM_PARTIAL;
    if (partial) this.#partial++;
    if (!this.#linear.load(frame, partial)) {
      this.#tally.fail(() => `a frame of ${frame.length} bytes`);
      return;
    }
    const { views, offset } = this.#linear;
    const h = this.#headers;
    if (!h.parse(views.u8, offset, frame.length) || h.transport === 0) {
      this.#unmarked++;
      return;
    }
    if (partial) {
      if (frame.csumStart !== h.transport || frame.csumOffset !== h.checksumOffset)
        this.#tally.fail(() => `an unfilled checksum at ${frame.csumStart} + ${frame.csumOffset}`);
      set16(views.u8, offset + h.transport + h.checksumOffset, transportChecksum(views.u8, offset, h));
    }
    if (!checksumsHold(views.u8, offset, h)) this.#tally.fail(() => `a wrong checksum in frame ${this.#tally.framesReceived} of ${frame.length} bytes`);
    if (h.end - h.payload >= 12 && (h.payload & 1) === 0) this.#sequence(views, offset + h.payload);
    else this.#unmarked++;
  }

  #sequence(views: LinearFrame['views'], at: number): void {
    const sequence = readSequence(views, at);
    if (sequence === -1) {
      this.#unmarked++;
      return;
    }
    if (sequence === -2) {
      this.#tally.fail(() => `a damaged marker in frame ${this.#tally.framesReceived}`);
      return;
    }
    const flow = readFlow(views, at);
    const expected = this.#expected[flow] as number;
    if (sequence < expected) this.#tally.fail(() => `flow ${flow}: frame ${sequence} after ${expected - 1}: repeated or out of order`);
    else {
      this.#lost += sequence - expected;
      this.#expected[flow] = sequence + 1;
    }
  }

  result(): WorkloadResult {
    return this.#tally.result('sink', this.done, { lost: this.#lost, unmarked: this.#unmarked, unfilled: this.#partial });
  }
}
