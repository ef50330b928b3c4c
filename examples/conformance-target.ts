// Pointing the conformance suite at a device of one's own: the port is what a driver and the other end of the cable see. Here the device is one in a machine of an emulator; for
// another, each method becomes whatever reaches it. `runCases(CASES, { name: 'mine', open: () => new MyTarget() })` runs the suite, `judge` says what holds.
import { DirectLink, InlineSegment, Machine, Segment, SimClock } from 'nicbox';
import { type AccessBytes, Cable, type Target } from 'nicbox/conformance';

const MESSAGES = 0xfee0_0000;
const MEMORY = 16 * 2 ** 20;

export class MyTarget implements Target {
  readonly ram = { base: 2 ** 20, size: MEMORY - 2 ** 20 };
  readonly countsMessages = true;
  readonly #clock = new SimClock();
  readonly #later: (() => void)[] = [];
  readonly #wire = new Cable();
  readonly #segment = new InlineSegment(new Segment(new DirectLink(), { clock: this.#clock }), { defer: (work) => void this.#later.push(work) });
  readonly #taken: number[] = [];
  readonly #level = [false];
  readonly #machine = new Machine({
    memory: MEMORY,
    clock: this.#clock,
    interrupts: { message: ({ data }) => void this.#taken.push(data), setIntx: (_line, level) => this.#level.splice(0, 1, level) },
  });
  readonly #rid: number;

  constructor() {
    this.#segment.addPort(this.#wire);
    const { pci } = this.#machine.addVirtioNet({ mac: '52:54:00:00:00:01', backend: this.#segment.port('mine') });
    this.#rid = pci.fn.requesterId;
    // What firmware does: BAR 0 (64 bits wide) and BAR 2 somewhere in the window for devices.
    for (const [register, address] of [
      [0x10, 0xc000_0000],
      [0x14, 0],
      [0x18, 0xc010_0000],
    ] as const)
      this.configWrite(register, 4, address);
  }

  configRead = (offset: number, size: AccessBytes): number => this.#machine.configRead(this.#rid, offset, size);
  configWrite = (offset: number, size: AccessBytes, value: number): void => this.#machine.configWrite(this.#rid, offset, size, value);
  barRead = (bar: number, offset: number, size: AccessBytes): number => this.#machine.barRead(this.#rid, bar, offset, size);
  barWrite = (bar: number, offset: number, size: AccessBytes, value: number): void => this.#machine.barWrite(this.#rid, bar, offset, size, value);
  #bytes = (address: number, length: number): Uint8Array => this.#machine.memory.slabs[0]?.views.u8.subarray(address, address + length) ?? new Uint8Array(0);
  memoryRead = (address: number, length: number): Uint8Array => this.#bytes(address, length).slice();
  memoryWrite = (address: number, bytes: Uint8Array): void => this.#bytes(address, bytes.length).set(bytes);
  message = (n: number): { address: number; data: number } => ({ address: MESSAGES, data: n });
  messages = (): number[] => this.#taken.splice(0);
  intx = (): boolean => this.#level[0] === true;
  send = (frame: Uint8Array): void => this.#wire.put(frame);
  sent = (): Uint8Array[] => this.#wire.take();
  advance = (nanos: number): void => this.#clock.advance(nanos);
  settle = (): void => {
    this.#segment.wake(this.#wire);
    for (let work = this.#later.shift(); work; work = this.#later.shift()) work();
    this.#machine.service();
  };
  close = (): Promise<void> => this.#machine.close();
}
