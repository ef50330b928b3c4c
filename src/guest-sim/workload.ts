// What a guest does with its network device: sends from `step`, takes frames in `receive`, and tells how it went as a plain record. The jobs are
// plain cloneable data, so that they can be posted to a guest's thread.

import type { TimeSource } from '#core/clock';
import type { CompareJob } from './compare.ts';
import type { EchoJob, PingJob } from './echo.ts';
import type { GenerateJob } from './generator.ts';
import type { MeshJob } from './mesh.ts';
import type { FrameSink } from './net-receive.ts';
import type { Nic } from './nic.ts';
import type { ReplayJob } from './replay.ts';
import type { SinkJob } from './sink.ts';
import type { SpreadJob } from './spread.ts';

export type Job = ReplayJob | CompareJob | GenerateJob | SinkJob | EchoJob | PingJob | SpreadJob | MeshJob;

/** Frames in one block of shared memory, and where each lies in it. Plain cloneable data; whatever else a capture loader knows may ride along. */
export interface PackedFrames {
  readonly count: number;
  readonly buffer: SharedArrayBuffer;
  readonly offset: Float64Array | Uint32Array;
  readonly length: Int32Array;
  /** Nanoseconds from any zero; without it frames have no times. */
  readonly time?: Float64Array;
}

export interface WorkloadResult {
  readonly kind: Job['kind'];
  readonly done: boolean;
  /** Frames and bytes that this workload sent, and that it took. */
  readonly framesSent: number;
  readonly bytesSent: number;
  readonly framesReceived: number;
  readonly bytesReceived: number;
  /** Why the workload counts as failed: the first things that went wrong, in words. Empty when all is well. */
  readonly errors: readonly string[];
  /** Whatever else this kind counts. */
  readonly details: Readonly<Record<string, number>>;
}

export interface Workload extends FrameSink {
  /** Sends what it can now. True when it got anywhere; false: wait for an interrupt (or for `nextDue`). @param time the guest's; a look at it costs as much as a frame */
  step(net: Nic, time: TimeSource): boolean;
  /** When a timed workload wants to be called next (the bus's nanoseconds); Infinity when it waits for frames only. */
  readonly nextDue: number;
  readonly done: boolean;
  readonly framesSent: number;
  readonly framesReceived: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  result(): WorkloadResult;
}

const REMEMBERED_ERRORS = 8;

/** Counts and errors, which every workload has. */
class Tally {
  framesSent = 0;
  bytesSent = 0;
  framesReceived = 0;
  bytesReceived = 0;
  errorCount = 0;
  readonly errors: string[] = [];

  /** The message is only made while it will be kept. */
  fail(describe: () => string): void {
    if (this.errorCount++ < REMEMBERED_ERRORS) this.errors.push(describe());
  }

  result(kind: Job['kind'], done: boolean, details: Record<string, number> = {}): WorkloadResult {
    return {
      kind,
      done,
      framesSent: this.framesSent,
      bytesSent: this.bytesSent,
      framesReceived: this.framesReceived,
      bytesReceived: this.bytesReceived,
      errors: this.errorCount > this.errors.length ? [...this.errors, `and ${this.errorCount - this.errors.length} more`] : [...this.errors],
      details: { errors: this.errorCount, ...details },
    };
  }
}

/** What every workload tells of itself while it runs. */
export abstract class Tallied {
  protected readonly tally = new Tally();

  get framesSent(): number {
    return this.tally.framesSent;
  }
  get bytesSent(): number {
    return this.tally.bytesSent;
  }
  get framesReceived(): number {
    return this.tally.framesReceived;
  }
  get bytesReceived(): number {
    return this.tally.bytesReceived;
  }
}

/** After the last frame: true once the device gave every transmit buffer back; until then asks for an interrupt. */
export function drained(net: Nic): boolean {
  let left = 0;
  for (const queue of net.transmit) {
    queue.reclaim();
    left += queue.outstanding;
    if (queue.outstanding > 0) queue.awaitRoom();
  }
  return left === 0;
}
