// Replays a capture: as fast as the ring takes frames, or at the capture's own pace. Frames longer than the MTU are what a sender with segmentation
// offload hands to its device, and go out that way; without the offload the guest's own stack segments them first.

import type { TimeSource } from '#core/clock';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import { TransmitOffload } from './net-transmit.ts';
import type { Nic, NicTransmitQueue } from './nic.ts';
import {
  checksumUnfilled,
  ETHERTYPE_IPV4,
  fold,
  get16,
  get32,
  Headers,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  pseudoHeaderSum,
  set16,
  set32,
  sumBytes,
  transportChecksum,
} from './packets.ts';
import { NET_GSO_ECN, NET_GSO_TCPV4, NET_GSO_TCPV6, NET_GSO_UDP_L4, NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_F } from './virtio-constants.ts';
import { drained, type PackedFrames, Tallied, type Workload, type WorkloadResult } from './workload.ts';

export interface ReplayJob {
  readonly kind: 'replay';
  readonly frames: PackedFrames;
  /** How often the whole capture is sent. Default 1. */
  readonly repeat?: number;
  /** Send at the capture's times, divided by this; without it as fast as the ring takes frames. */
  readonly speed?: number;
}

const BURST = 64;
const DEFAULT_MTU = 1500;
const TCP_FIN_PSH = 0x09;
const TCP_CWR = 0x80;

export class Replay extends Tallied implements Workload {
  readonly #job: ReplayJob;
  readonly #views: ByteViews;
  readonly #times: Float64Array | undefined;
  readonly #headers = new Headers();
  readonly #offload = new TransmitOffload();
  readonly #scratch = viewsOf(new SharedArrayBuffer(2 ** 17));
  readonly #repeat: number;
  #index = 0;
  #round = 0;
  #start = -1;
  /** Payload bytes of the present frame that software segmentation has sent. */
  #segmented = 0;
  #offloaded = 0;
  #unfilled = 0;
  nextDue = Infinity;
  done = false;

  constructor(job: ReplayJob) {
    super();
    this.#job = job;
    this.#views = viewsOf(job.frames.buffer);
    this.#times = job.speed !== undefined ? job.frames.time : undefined;
    this.#repeat = job.repeat ?? 1;
    if (job.frames.count === 0) this.#round = this.#repeat;
  }

  receive(frame: { length: number }): void {
    this.tally.framesReceived++;
    this.tally.bytesReceived += frame.length;
  }

  step(net: Nic, time: TimeSource): boolean {
    if (this.done) return false;
    const now = time.now();
    if (this.#start < 0) this.#start = now;
    let sent = 0;
    let full = false;
    this.nextDue = Infinity;
    while (sent < BURST && this.#round < this.#repeat) {
      if (this.#times) {
        const due = this.#start + ((this.#times[this.#index] as number) - (this.#times[0] as number)) / (this.#job.speed as number);
        if (due > now) {
          this.nextDue = due;
          break;
        }
      }
      if (!this.#send(net)) {
        full = true;
        break;
      }
      sent++;
      if (++this.#index < this.#job.frames.count) continue;
      this.#index = 0;
      this.#round++;
      this.#start = now;
    }
    const queue = net.transmit[0];
    queue?.flush();
    if (this.#round >= this.#repeat && drained(net)) {
      this.done = true;
      return true;
    }
    // Full, and nothing came back while asking to be told: sleep.
    if (full) return queue?.awaitRoom() === true || sent > 0;
    return sent > 0;
  }

  /** True when the frame is out of the way: sent, or impossible to send and counted. */
  #send(net: Nic): boolean {
    const queue = net.transmit[0];
    if (!queue) return false;
    const start = this.#job.frames.offset[this.#index] as number;
    const length = this.#job.frames.length[this.#index] as number;
    const mtu = net.configuration.mtu || DEFAULT_MTU;
    const h = this.#headers;
    if (!h.parse(this.#views.u8, start, length) || h.end - h.network <= mtu) return this.#sendPlain(net, start, length);
    const type = this.#gsoType(net, start);
    if (type < 0 || mtu - (h.payload - h.network) < 8) return this.#segment(net, start, mtu);
    // Copied aside, since the capture itself is shared and stays as it is: the checksum field becomes the start the device finishes from.
    const { u8 } = this.#scratch;
    u8.set(this.#views.u8.subarray(start, start + length));
    const field = h.transport + h.checksumOffset;
    set16(u8, field, fold(pseudoHeaderSum(u8, 0, h, h.end - h.transport)));
    const offload = this.#offload;
    offload.flags = NET_HDR_F_NEEDS_CSUM;
    offload.gsoType = type;
    offload.headerLength = h.payload;
    offload.gsoSize = mtu - (h.payload - h.network);
    offload.csumStart = h.transport;
    offload.csumOffset = h.checksumOffset;
    // Padding behind the packet would become payload.
    if (!queue.copy(this.#scratch, 0, h.end, offload)) return false;
    this.#offloaded++;
    this.#count(h.end);
    return true;
  }

  /** A frame within the MTU. One recorded before its checksum was filled in is sent as its sender did: for the device to fill, or else filled here. */
  #sendPlain(net: Nic, start: number, length: number): boolean {
    const h = this.#headers;
    const queue = net.transmit[0] as NicTransmitQueue;
    if (length > queue.longestFrame) {
      this.tally.fail(() => `frame ${this.#index} of ${length} bytes is longer than the transmit queue can send`);
      return true;
    }
    if (!checksumUnfilled(this.#views.u8, start, h)) {
      if (!queue.copy(this.#views, start, length)) return false;
      this.#count(length);
      return true;
    }
    if (net.has(VIRTIO_NET_F.CSUM)) {
      const offload = this.#offload;
      offload.clear();
      offload.flags = NET_HDR_F_NEEDS_CSUM;
      offload.csumStart = h.transport;
      offload.csumOffset = h.checksumOffset;
      if (!queue.copy(this.#views, start, h.end, offload)) return false;
      this.#unfilled++;
      this.#count(h.end);
      return true;
    }
    const { u8 } = this.#scratch;
    u8.set(this.#views.u8.subarray(start, start + length));
    set16(u8, h.transport + h.checksumOffset, transportChecksum(u8, 0, h));
    if (!queue.copy(this.#scratch, 0, length)) return false;
    this.#count(length);
    return true;
  }

  #gsoType(net: Nic, start: number): number {
    const h = this.#headers;
    if (h.transport === 0) return -1;
    if (h.protocol === PROTOCOL_UDP) return net.has(VIRTIO_NET_F.HOST_USO) ? NET_GSO_UDP_L4 : -1;
    if (h.protocol !== PROTOCOL_TCP) return -1;
    const v4 = h.etherType === ETHERTYPE_IPV4;
    if (!net.has(v4 ? VIRTIO_NET_F.HOST_TSO4 : VIRTIO_NET_F.HOST_TSO6)) return -1;
    const flags = this.#views.u8[start + h.transport + 13] as number;
    // virtio 1.4 5.1.9.2.1 (driver SHOULD NOT, MUST): CWR frames only with HOST_ECN, and then they say so.
    if ((flags & TCP_CWR) !== 0) return net.has(VIRTIO_NET_F.HOST_ECN) ? (v4 ? NET_GSO_TCPV4 : NET_GSO_TCPV6) | NET_GSO_ECN : -1;
    return v4 ? NET_GSO_TCPV4 : NET_GSO_TCPV6;
  }

  /** Software segmentation of a TCP frame, or of a UDP one into datagrams, as a stack does it for a device without the offload. Resumes where a full queue stopped it. */
  #segment(net: Nic, start: number, mtu: number): boolean {
    const h = this.#headers;
    const source = this.#views.u8;
    const tcp = h.protocol === PROTOCOL_TCP;
    if ((!tcp && h.protocol !== PROTOCOL_UDP) || h.transport === 0) {
      this.tally.fail(() => `frame ${this.#index} is longer than the MTU and is neither TCP nor UDP: no sender has it cut up`);
      return true;
    }
    const queue = net.transmit[0];
    const { u8 } = this.#scratch;
    const mss = mtu - (h.payload - h.network);
    if (mss < 8) {
      this.tally.fail(() => `frame ${this.#index}: its headers leave no room for payload in an MTU of ${mtu}`);
      return true;
    }
    const total = h.end - h.payload;
    const piece = new Headers();
    while (this.#segmented < total) {
      const part = Math.min(mss, total - this.#segmented);
      u8.set(source.subarray(start, start + h.payload));
      u8.set(source.subarray(start + h.payload + this.#segmented, start + h.payload + this.#segmented + part), h.payload);
      const last = this.#segmented + part === total;
      if (h.version === 4) {
        set16(u8, h.network + 2, h.payload - h.network + part);
        set16(u8, h.network + 4, (get16(u8, h.network + 4) + Math.floor(this.#segmented / mss)) & 0xffff);
        set16(u8, h.network + 10, 0);
        set16(u8, h.network + 10, ~fold(sumBytes(u8, h.network, h.transport - h.network)) & 0xffff);
      } else set16(u8, h.network + 4, h.payload - h.network - 40 + part);
      if (tcp) set32(u8, h.transport + 4, (get32(u8, h.transport + 4) + this.#segmented) >>> 0);
      else set16(u8, h.transport + 4, 8 + part);
      if (tcp && !last) u8[h.transport + 13] = (u8[h.transport + 13] as number) & ~TCP_FIN_PSH;
      if (tcp && this.#segmented > 0) u8[h.transport + 13] = (u8[h.transport + 13] as number) & ~TCP_CWR;
      piece.parse(u8, 0, h.payload + part);
      set16(u8, h.transport + h.checksumOffset, transportChecksum(u8, 0, piece));
      if (!queue?.copy(this.#scratch, 0, h.payload + part)) return false;
      this.#count(h.payload + part);
      this.#segmented += part;
    }
    this.#segmented = 0;
    return true;
  }

  #count(length: number): void {
    this.tally.framesSent++;
    this.tally.bytesSent += length;
  }

  result(): WorkloadResult {
    return this.tally.result('replay', this.done, { offloaded: this.#offloaded, unfilled: this.#unfilled });
  }
}
