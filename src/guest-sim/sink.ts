// The sink that checks what a generator sent: order and loss by sequence number per flow, content by checksum.

import { LinearFrame } from './linear.ts';
import { CHECKSUM_PARTIAL, type ReceivedFrame } from './net-receive.ts';
import { checksumsHold, Headers, set16, transportChecksum } from './packets.ts';
import { ReceivedCheck } from './received-check.ts';
import { readFlow, readSequence, TCP_PAYLOAD, UDP_PAYLOAD } from './test-frame.ts';
import { Tallied, type Workload, type WorkloadResult } from './workload.ts';

export interface SinkJob {
  readonly kind: 'sink';
  /** Done after this many frames; without it the sink runs until it is stopped. */
  readonly count?: number;
  /** 'full': headers and checksums of every byte; 'sequence': only the marker; 'sampled': marker and length, and one frame in 64 in full; 'none': counts. Default 'full'. */
  readonly verify?: 'full' | 'sampled' | 'sequence' | 'none';
}

const SAMPLE = 64;
/** Bytes of a frame up to the end of its marker, at most. */
const MARKED = TCP_PAYLOAD + 12;

export class Sink extends Tallied implements Workload {
  readonly #count: number;
  readonly #verify: 'full' | 'sampled' | 'sequence' | 'none';
  readonly #linear = new LinearFrame();
  readonly #headers = new Headers();
  readonly #check = new ReceivedCheck();
  /** Next sequence number by flow; as long as the flows that came need it. */
  #expected = new Float64Array(16);
  #lost = 0;
  #unmarked = 0;
  #partial = 0;
  #tunnels = 0;
  readonly nextDue = Infinity;

  constructor(job: SinkJob) {
    super();
    this.#count = job.count ?? Infinity;
    this.#verify = job.verify ?? 'full';
  }

  get done(): boolean {
    return this.tally.framesReceived >= this.#count;
  }
  step(): boolean {
    return false;
  }

  receive(frame: ReceivedFrame): void {
    this.tally.framesReceived++;
    this.tally.bytesReceived += frame.length;
    if (this.#verify === 'none') return;
    let payload = UDP_PAYLOAD;
    const inFull = this.#verify === 'full' || (this.#verify === 'sampled' && this.tally.framesReceived % SAMPLE === 0);
    // In several pieces too, as long as headers and marker are in the first.
    if (!inFull && (frame.segmentCount === 1 || (frame.lengths[0] as number) >= MARKED)) {
      const at = frame.offsets[0] as number;
      const { u8 } = frame.views;
      if (u8[at + 23] === 6) payload = TCP_PAYLOAD;
      // The IPv4 length is that of what was sent; shorter frames than a medium takes are padded.
      const length = Math.max(60, 14 + ((u8[at + 16] as number) << 8) + (u8[at + 17] as number));
      if (this.#verify === 'sampled' && frame.length !== length) this.tally.fail(() => `a frame of ${frame.length} bytes that says ${length}`);
      if (frame.length >= payload + 12) this.#sequence(frame.views, at + payload);
      else this.#unmarked++;
      return;
    }
    const partial = frame.checksum === CHECKSUM_PARTIAL;
    if (partial) this.#partial++;
    if (!this.#linear.load(frame, partial)) {
      this.tally.fail(() => `a frame of ${frame.length} bytes`);
      return;
    }
    const { views, offset } = this.#linear;
    if (frame.tunnel !== 0) {
      const problem = this.#check.check(views.u8, offset, frame);
      if (problem !== '') this.tally.fail(() => `frame ${this.tally.framesReceived}: ${problem}`);
      this.#tunnels++;
      return;
    }
    const h = this.#headers;
    if (!h.parse(views.u8, offset, frame.length) || h.transport === 0) {
      this.#unmarked++;
      return;
    }
    if (partial && frame.csumStart > h.transport + 8) {
      const problem = this.#check.check(views.u8, offset, frame);
      if (problem !== '') this.tally.fail(() => `frame ${this.tally.framesReceived}: ${problem}`);
      this.#tunnels++;
      return;
    }
    if (partial) {
      if (frame.csumStart !== 0 && (frame.csumStart !== h.transport || frame.csumOffset !== h.checksumOffset))
        this.tally.fail(() => `an unfilled checksum at ${frame.csumStart} + ${frame.csumOffset}`);
      set16(views.u8, offset + h.transport + h.checksumOffset, transportChecksum(views.u8, offset, h));
    }
    if (!checksumsHold(views.u8, offset, h)) this.tally.fail(() => `a wrong checksum in frame ${this.tally.framesReceived} of ${frame.length} bytes`);
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
      this.tally.fail(() => `a damaged marker in frame ${this.tally.framesReceived}`);
      return;
    }
    const flow = readFlow(views, at);
    if (flow >= this.#expected.length) this.#grow(flow);
    const expected = this.#expected[flow] as number;
    if (sequence < expected) this.tally.fail(() => `flow ${flow}: frame ${sequence} after ${expected - 1}: repeated or out of order`);
    else {
      this.#lost += sequence - expected;
      this.#expected[flow] = sequence + 1;
    }
  }

  #grow(flow: number): void {
    const expected = new Float64Array(2 ** (32 - Math.clz32(flow)));
    expected.set(this.#expected);
    this.#expected = expected;
  }

  result(): WorkloadResult {
    return this.tally.result('sink', this.done, { lost: this.#lost, unmarked: this.#unmarked, unfilled: this.#partial, tunnels: this.#tunnels });
  }
}
