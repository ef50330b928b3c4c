// The data planes that serve this project's device under test: on the suite's own thread, or on a worker. Time is told to all of them, and "until there is nothing more to do" is
// something each of them knows: no case waits by the clock on the wall.

import { InlineSegment } from '#backends/inline-backend';
import { VhostPool } from '#backends/vhost-pool';
import type { VhostSegment, VhostWorker } from '#backends/vhost-worker';
import { SimClock, ToldTime } from '#core/clock';
import { Bell } from '#core/doorbell';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import type { VhostBackend } from '#virtio/vhost';
import type { Awaitable } from '../target.ts';
import { Cable } from './cable.ts';

/** One device's data plane, with the cable it hangs on. */
export interface Wiring {
  readonly backend: VhostBackend;
  readonly cable: Cable;
  readonly clock: SimClock;
  /** Until no frame moves without more time, buffers or frames. */
  settle(): Awaitable<void>;
  /** The device is gone: nothing of its memory is in use once this is over. */
  close(): Awaitable<void>;
}

/** Makes one device's after another. */
export interface DataPlane {
  wire(pairs: number): Wiring;
  close?(): Awaitable<void>;
}

/** The end of a wire that is on the suite's thread. */
class NearEnd {
  readonly clock: SimClock;
  readonly cable = new Cable();
  readonly segment: InlineSegment;
  readonly #deferred: (() => void)[] = [];

  constructor(clock: SimClock) {
    this.clock = clock;
    this.segment = new InlineSegment(new Segment(new DirectLink(), { clock }), { defer: (work) => void this.#deferred.push(work) });
    this.segment.addPort(this.cable);
  }

  /** Moves what can be moved. Bounded: what each deferred turn leaves undone asks for another one. */
  serve(): void {
    this.segment.wake(this.cable);
    for (let n = 0; n < 10_000 && this.#deferred.length > 0; n++) (this.#deferred.shift() as () => void)();
  }
}

/** Served inside the access that kicks. */
class InlinePlane implements DataPlane {
  wire(pairs: number): Wiring {
    const end = new NearEnd(new SimClock());
    const backend = end.segment.port('device', pairs);
    return { backend, cable: end.cable, clock: end.clock, settle: () => end.serve(), close: () => backend.detach() };
  }
}

/** So often do frames go to and fro before the suite looks on: each time the worker has taken all that the link holds. */
const ROUNDS = 64;

/** Served by a vhost worker: one thread for all devices, one after the other. */
class WorkerPlane implements DataPlane {
  readonly #time = new ToldTime();
  readonly #pool = new VhostPool({ poll: { maximum: 0 }, time: this.#time });
  readonly #worker: VhostWorker = this.#pool.worker();
  readonly #segment: VhostSegment = this.#worker.segment();
  readonly #link = this.#segment.link('cable', new Bell());

  wire(pairs: number): Wiring {
    const clock = new SimClock(this.#time.now());
    const end = new NearEnd(clock);
    const { segment } = end;
    segment.addPort(this.#link);
    const backend = this.#segment.port('device', pairs);
    const settle = async (): Promise<void> => {
      this.#time.tell(clock.now());
      for (let n = 0; n < ROUNDS; n++) {
        const before = this.#moved();
        end.serve();
        await this.#worker.quiesce();
        segment.wake(this.#link);
        end.serve();
        if (this.#moved() === before) return;
      }
    };
    return {
      backend,
      cable: end.cable,
      clock,
      settle,
      close: async () => {
        backend.detach();
        await settle();
        segment.removePort(this.#link);
      },
    };
  }

  /** Frames that went over the link, either way. */
  #moved(): number {
    const { transmitFrames, receiveFrames } = this.#link.counters.snapshot();
    return transmitFrames + receiveFrames;
  }

  close(): Promise<void> {
    return this.#pool.close();
  }
}

/** By name, as `--target inproc:NAME` has it. */
export const DATA_PLANES = {
  inline: () => new InlinePlane(),
  worker: () => new WorkerPlane(),
} satisfies Readonly<Record<string, () => DataPlane>>;

export type DataPlaneName = keyof typeof DATA_PLANES;
export const DATA_PLANE_NAMES = Object.keys(DATA_PLANES) as readonly DataPlaneName[];
