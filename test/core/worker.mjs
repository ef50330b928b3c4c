// The other thread of the core tests: runs the task it is told to, over what was shared with it. Reports through shared words only.
import { parentPort, workerData } from 'node:worker_threads';
import { DMA_WRITE, DmaSpace } from '#core/dma-space';
import { Bell, Doorbell } from '#core/doorbell';
import { openGuestBus } from '#core/exit-channel';
import { PendingVectors } from '#core/interrupts';

const { task, words: buffer, share } = workerData;
const words = new Int32Array(buffer);
/** words[0]: how far this thread is; words[1]: how far it may go. */
const reach = (step) => {
  Atomics.store(words, 0, step);
  Atomics.notify(words, 0);
};
const await_ = (step) => {
  while (Atomics.load(words, 1) < step) Atomics.wait(words, 1, Atomics.load(words, 1), 1000);
};

const tasks = {
  /** Writes a counter through one window, turn after turn, until the window is gone; words[2] counts turns, words[3] writes after it went. */
  writer() {
    const dma = DmaSpace.open(share);
    const { address } = workerData;
    for (let turn = 1; Atomics.load(words, 1) < 2; turn++) {
      if (dma.enter()) {
        const window = dma.window(address, 4, DMA_WRITE);
        if (window !== null) {
          const at = (address + window.bias) / 4;
          for (let i = 0; i < 50; i++) Atomics.add(window.slab.views.i32, at, 1);
          dma.markDirty(window, address, 4);
        }
      }
      dma.leave();
      Atomics.store(words, 2, turn);
      if (turn === 1) reach(1);
    }
    dma.close();
    reach(2);
  },
  /** Enters a turn and never leaves it. */
  stuck() {
    const dma = DmaSpace.open(share);
    dma.enter();
    words[2] = dma.reader;
    reach(1);
    await_(99);
  },
  /** Faults, then says so. */
  fault() {
    const dma = DmaSpace.open(share);
    dma.enter();
    dma.write(workerData.address, new Uint8Array(8));
    dma.leave();
    dma.close();
    reach(1);
  },
  /** Takes a doorbell until it has seen what words[1] says, sleeping in between; words[2] counts wakes that found nothing. */
  sleeper() {
    const doorbell = Doorbell.open(share);
    reach(1);
    for (let seen = 0; seen < workerData.rings; ) {
      const ticket = doorbell.bell.ticket;
      if (doorbell.take() === 0) {
        doorbell.bell.wait(ticket, 5000);
        continue;
      }
      seen++;
      reach(1 + seen);
    }
  },
  /** Rings a bell of the main thread each time it is told to go on. */
  ringer() {
    const bell = new Bell(share);
    reach(1);
    for (let step = 1; step <= workerData.rings; step++) {
      await_(step);
      bell.ring();
    }
  },
  /** Rings every few microseconds until told to stop. */
  storm() {
    const bell = new Bell(share);
    reach(1);
    while (Atomics.load(words, 1) === 0) {
      const until = performance.now() + 0.05;
      while (performance.now() < until);
      bell.ring();
    }
    reach(2);
  },
  poster() {
    const vectors = PendingVectors.open(share);
    for (let i = 0; i < 256; i++) vectors.post(i);
    reach(1);
  },
  /** A guest that counts in words[2], as a ring index would, kicks each time, and waits until words[3] says that the count was seen. */
  kicker() {
    const bus = openGuestBus(share);
    const lost = [];
    for (let kick = 1; kick <= workerData.kicks && lost.length === 0; kick++) {
      Atomics.store(words, 2, kick);
      bus.mmioWrite(workerData.address, 2, 0);
      // Spins so that the next count and its ring are close together, then sleeps so that a loaded machine's other thread gets the processor. A lost kick
      // stays lost: the machine's side hands over only after two more.
      const deadline = performance.now() + 10_000;
      for (let spin = 0; ; spin++) {
        const seen = Atomics.load(words, 3);
        if (seen >= kick) break;
        if (spin < 20_000) continue;
        if (performance.now() > deadline) {
          lost.push(kick);
          break;
        }
        Atomics.wait(words, 3, seen, 100);
      }
    }
    parentPort.postMessage({ results: lost, counts: bus.counts });
  },
  /** A guest: does the accesses it was given and posts what came back. */
  guest() {
    const bus = openGuestBus(share, { timeout: workerData.timeout ?? 10_000 });
    const results = [];
    try {
      for (const [kind, ...args] of workerData.accesses) {
        if (kind === 'pause') {
          reach(args[0]);
          await_(args[0]);
        } else if (kind === 'repeat') for (let i = 0; i < args[0]; i++) bus.mmioWrite(args[1], args[2], args[3]);
        else results.push(bus[kind](...args) ?? null);
      }
    } catch (error) {
      results.push(error.code);
    }
    parentPort.postMessage({ results, counts: bus.counts });
  },
};

tasks[task]();
