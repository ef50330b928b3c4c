// A data plane with a port that stays in the middle of the first batch that it is offered, for good.
import { WorkerLoop } from '#backends/worker-loop';

class StuckPort {
  linkUp = true;
  accepts = 0;
  hasRoom = true;
  deadline = Number.POSITIVE_INFINITY;

  constructor(words, site) {
    this.words = words;
    this.name = site.name;
    this.counters = site.counters;
  }
  enter() {}
  leave() {}
  close() {}
  collect() {
    return 0;
  }
  complete() {}
  deliver(_batch, from, to) {
    if (Atomics.compareExchange(this.words, 0, 0, 1) === 0) Atomics.wait(this.words, 0, 1);
    return to - from;
  }
  flush() {}
  awaitFrames() {
    return false;
  }
  awaitRoom() {
    return false;
  }
}

export default (job) => new WorkerLoop(job, { stuck: (words, site) => new StuckPort(words, site) }).run();
