// The data planes that serve this project's device under test: on the suite's own thread, or on a worker. Time is told to all of them, and "until there is nothing more to do" is
// something each of them knows: no case waits by the clock on the wall.

import { InlineSegment } from '#backends/inline-backend';
import type { RingLink } from '#backends/ring-link';
import { VdpaBackend } from '#backends/vdpa-backend';
import { VdpaNet } from '#backends/vdpa-net';
import { VdpaShadow } from '#backends/vdpa-shadow';
import type { VhostNet } from '#backends/vhost-net';
import { VhostPool } from '#backends/vhost-pool';
import type { VhostSegment, VhostWorker } from '#backends/vhost-worker';
import { BellLoop } from '#core/bell-loop';
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
  /** Until no frame moves without more time, buffers or frames. */
  settle(): Awaitable<void>;
  /** The device is gone: nothing of its memory is in use once this is over. */
  close(): Awaitable<void>;
}

/** Makes one device's after another. */
export interface DataPlane {
  /** For the devices of one machine. */
  clock(): SimClock;
  wire(clock: SimClock, pairs: number): Wiring;
  close?(): Awaitable<void>;
}

/** The end of a wire that is on the suite's thread. */
class NearEnd {
  readonly cable = new Cable();
  readonly segment: InlineSegment;
  readonly #deferred: (() => void)[] = [];

  constructor(clock: SimClock) {
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
  clock(): SimClock {
    return new SimClock();
  }

  wire(clock: SimClock, pairs: number): Wiring {
    const end = new NearEnd(clock);
    const backend = end.segment.port('device', pairs);
    return { backend, cable: end.cable, settle: () => end.serve(), close: () => backend.detach() };
  }
}

/** What a device's rings are given to, made of a port on the worker. */
type Attach = (port: VhostNet, loop: BellLoop) => VhostBackend;

/** So often do frames go to and fro before the suite looks on: each time the worker has taken all that the link holds. */
const ROUNDS = 64;

interface Line {
  readonly segment: VhostSegment;
  readonly link: RingLink;
}

/** Served by a vhost worker: one thread for all devices, one after the other. */
class WorkerPlane implements DataPlane {
  readonly #time = new ToldTime();
  readonly #pool = new VhostPool({ poll: { maximum: 0 }, time: this.#time });
  readonly #worker: VhostWorker = this.#pool.worker();
  /** Served by what stands between device and worker on the suite's thread. */
  readonly #loop = new BellLoop();
  readonly #attach: Attach;
  /** Segments that no device hangs on. */
  readonly #free: Line[] = [];

  constructor(attach: Attach) {
    this.#attach = attach;
  }

  clock(): SimClock {
    return new SimClock(this.#time.now());
  }

  #line(): Line {
    const segment = this.#worker.segment();
    return { segment, link: segment.link('cable', new Bell()) };
  }

  wire(clock: SimClock, pairs: number): Wiring {
    const line = this.#free.pop() ?? this.#line();
    const { link } = line;
    const end = new NearEnd(clock);
    const { segment } = end;
    segment.addPort(link);
    const port = line.segment.port('device', pairs);
    const backend = this.#attach(port, this.#loop);
    const settle = async (): Promise<void> => {
      this.#time.tell(clock.now());
      for (let n = 0; n < ROUNDS; n++) {
        const before = moved(link);
        end.serve();
        for (let i = 0; i < ROUNDS && this.#loop.runOnce(); i++);
        // What the worker has for this thread from here on rings its bell, whoever hears it first.
        const { ticket } = this.#loop.bell;
        await this.#worker.quiesce();
        segment.wake(link);
        end.serve();
        if (moved(link) === before && this.#loop.bell.ticket === ticket) return;
      }
    };
    return {
      backend,
      cable: end.cable,
      settle,
      close: async () => {
        port.detach();
        await settle();
        if (backend instanceof VdpaShadow) backend.close();
        segment.removePort(link);
        this.#free.push(line);
      },
    };
  }

  close(): Promise<void> {
    this.#loop.close();
    return this.#pool.close();
  }
}

/** Frames that went over a link, either way. */
function moved(link: RingLink): number {
  const { transmitFrames, receiveFrames } = link.counters.snapshot();
  return transmitFrames + receiveFrames;
}

/** By name, as `--target inproc:NAME` has it. */
export const DATA_PLANES = {
  inline: () => new InlinePlane(),
  worker: () => new WorkerPlane((port) => port),
  vdpa: () => new WorkerPlane((port) => new VdpaBackend(new VdpaNet(port))),
  'vdpa-shadow': () => new WorkerPlane((port, loop) => new VdpaShadow(new VdpaNet(port), loop)),
} satisfies Readonly<Record<string, () => DataPlane>>;

export type DataPlaneName = keyof typeof DATA_PLANES;
export const DATA_PLANE_NAMES = Object.keys(DATA_PLANES) as readonly DataPlaneName[];
