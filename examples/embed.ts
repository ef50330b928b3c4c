// Embedding into an emulator with a loop of its own: it owns RAM (and may replace its buffer at any time), time, the interrupt controller, and address decoding in
// coarse windows; it may split accesses. This is all the glue; test/examples/ runs a guest program on it.
import { type Decoded, GuestMemory, HostClock, Machine } from 'nicbox';

export class FakeEmulator {
  ram = new ArrayBuffer(2 ** 20);
  now = 0;
  readonly levels = [false, false, false, false];
  readonly messages: number[] = [];
  timers: { deadline: number; fire: () => void }[] = [];
  decoded: Decoded[] = [];
  dropped = 0;

  readonly machine = new Machine({
    memory: new GuestMemory([{ base: 0, size: 2 ** 20, source: () => this.ram }]),
    interrupts: {
      setIntx: (line, asserted) => {
        this.levels[line] = asserted;
      },
      message: ({ data }) => this.messages.push(data),
    },
    clock: new HostClock({
      now: () => this.now,
      setTimer: (deadline, fire) => {
        const timer = { deadline, fire };
        this.timers.push(timer);
        return () => this.timers.splice(this.timers.indexOf(timer), 1);
      },
    }),
  });

  constructor() {
    this.machine.onDecodeChange(() => {
      this.decoded = this.machine.decoded();
    });
    // Compiled code on a page that a device writes has to go.
    this.machine.dirty.onWrite = () => this.dropped++;
    this.machine.dirty.start();
  }

  /** A JIT that knows 8-bit and 32-bit loads only, and looks the BAR up itself. */
  load(address: number, size: 1 | 2 | 4): number {
    if (size === 2) return this.load(address, 1) | (this.load(address + 1, 1) << 8);
    const hit = this.decoded.find(({ space, base, size: length }) => space === 'memory' && address >= base && address < base + length);
    return hit ? this.machine.barRead(hit.bdf, hit.bar, address - hit.base, size) : 2 ** (8 * size) - 1;
  }

  store(address: number, size: 1 | 2 | 4, value: number): void {
    this.machine.mmioWrite(address, size, value);
  }

  /** Between slices of guest code: what is due fires, and the memory may grow, which detaches the old buffer. */
  slice(nanoseconds: number): void {
    this.now += nanoseconds;
    for (const due of this.timers.filter((t) => t.deadline <= this.now)) due.fire();
    this.machine.service();
    this.ram = structuredClone(this.ram, { transfer: [this.ram] });
  }
}
