// Counting an eventfd of somebody else's up without ever waiting. A write to one that is full waits unless its open file says O_NONBLOCK, and that is for every holder of the descriptor
// to change; so the kernel does it: an asynchronous request (io_submit(2)) tells of its completion by an eventfd, and that never waits. The request is whether that eventfd can be read or
// written, which is always so.

const [IO_SETUP, IO_GETEVENTS, IO_SUBMIT] = process.arch === 'x64' ? [206, 208, 209] : [0, 4, 2];
const EAGAIN = 11;
/** Requests asked for: the kernel makes room for a page of them, and counts so many against its limit, as long as the process lives. */
const ASKED = 1;
/** Completions taken at a time. */
const MOST_TAKEN = 64;
const EVENT_BYTES = 32;
const REQUEST_BYTES = 64;
/** Offsets in struct iocb; all else is 0. */
const OPERATION = 16;
const DESCRIPTOR = 20;
const EVENTS = 24;
const FLAGS = 56;
const RESULT_EVENT = 60;
const IOCB_CMD_POLL = 5;
const IOCB_FLAG_RESFD = 1;
const POLLIN_POLLOUT = 1 | 4;

/** As `syscall(2)`; minus the error. */
type SystemCall = (number: number, ...parameters: number[]) => number;

export class EventSignals {
  readonly #call: SystemCall;
  readonly #context: number;
  readonly #request = new DataView(new ArrayBuffer(REQUEST_BYTES));
  readonly #list: number;
  readonly #events: number;
  /** Whatever the kernel has the addresses of has to stay. */
  readonly #kept: readonly Uint8Array[];

  /** Of this thread, while the process lives. undefined: this kernel, or who rules over this process, allows no such thing. */
  static open(call: SystemCall, addressOf: (bytes: Uint8Array) => number): EventSignals | undefined {
    const context = new DataView(new ArrayBuffer(8));
    if (call(IO_SETUP, ASKED, addressOf(new Uint8Array(context.buffer))) < 0) return undefined;
    return new EventSignals(call, addressOf, Number(context.getBigUint64(0, true)));
  }

  private constructor(call: SystemCall, addressOf: (bytes: Uint8Array) => number, context: number) {
    const request = new Uint8Array(this.#request.buffer);
    const list = new DataView(new ArrayBuffer(8));
    const events = new Uint8Array(new ArrayBuffer(EVENT_BYTES * MOST_TAKEN));
    this.#call = call;
    this.#context = context;
    list.setBigUint64(0, BigInt(addressOf(request)), true);
    this.#request.setUint16(OPERATION, IOCB_CMD_POLL, true);
    this.#request.setUint16(EVENTS, POLLIN_POLLOUT, true);
    this.#request.setUint32(FLAGS, IOCB_FLAG_RESFD, true);
    this.#kept = [request, new Uint8Array(list.buffer), events];
    this.#list = addressOf(this.#kept[1] as Uint8Array);
    this.#events = addressOf(events);
  }

  /** Adds one to an eventfd. Below 0: minus the error, EINVAL when it is none. */
  add(eventfd: number): number {
    this.#request.setUint32(DESCRIPTOR, eventfd, true);
    this.#request.setUint32(RESULT_EVENT, eventfd, true);
    for (;;) {
      const result = this.#call(IO_SUBMIT, this.#context, 1, this.#list);
      // No place for a completion: those that are there go.
      if (result !== -EAGAIN || this.#call(IO_GETEVENTS, this.#context, 0, MOST_TAKEN, this.#events, 0) <= 0) return result;
    }
  }
}
