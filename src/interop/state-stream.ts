// A device's state as bytes through a pipe (SET_DEVICE_STATE_FD). The other end of the pipe is not trusted:
// it may not read, not write, never end, or send anything at all.

import { EAGAIN, errorName } from './interop-error.ts';
import type { Native } from './native.ts';

/** Much more than the state of a device with full tables takes. */
const MOST_BYTES = 1 << 20;
/** How long the other end may take, in milliseconds. */
const PATIENCE = 5000;
const LOOK_AGAIN = 1;
const CHUNK = 1 << 16;

/** One transfer. Owns its descriptor and closes it when it is done: the end of the state is the end of the pipe. */
export class StateStream {
  readonly #native: Native;
  readonly #fd: number;
  #timer: NodeJS.Timeout | undefined;
  #finish: (result: string | undefined) => void = () => {};
  #over = false;
  /** What was read so far. */
  readonly #chunks: Uint8Array[] = [];
  #bytes = 0;
  /** undefined when all went well, else what went wrong. */
  readonly result: Promise<string | undefined>;

  private constructor(native: Native, fd: number, step: (stream: StateStream) => string | 'more' | undefined) {
    this.#native = native;
    this.#fd = fd;
    native.events.setNonBlocking(fd);
    const deadline = performance.now() + PATIENCE;
    this.result = new Promise((resolve) => {
      this.#finish = resolve;
    });
    const go = (): void => {
      const result = step(this);
      if (result !== 'more') this.#end(result);
      else if (performance.now() > deadline) this.#end(`the other end of the pipe did nothing for ${PATIENCE} ms`);
      else this.#timer = setTimeout(go, LOOK_AGAIN);
    };
    go();
  }

  static write(native: Native, fd: number, bytes: Uint8Array): StateStream {
    // At an address of its own.
    const copy = new Uint8Array(new ArrayBuffer(bytes.length));
    copy.set(bytes);
    const from = native.addressOf(copy);
    let sent = 0;
    return new StateStream(native, fd, () => {
      while (sent < copy.length) {
        const written = native.files.writeAt(fd, from + sent, Math.min(CHUNK, copy.length - sent));
        if (written === -EAGAIN) return 'more';
        if (written <= 0) return `the state was not taken: ${errorName(written)}`;
        sent += written;
      }
      return undefined;
    });
  }

  static read(native: Native, fd: number): StateStream {
    const buffer = new Uint8Array(new ArrayBuffer(CHUNK));
    const into = native.addressOf(buffer);
    return new StateStream(native, fd, (stream) => {
      for (;;) {
        const read = native.files.readAt(fd, into, CHUNK);
        if (read === -EAGAIN) return 'more';
        if (read < 0) return `the state cannot be read: ${errorName(read)}`;
        if (read === 0) return undefined;
        stream.#chunks.push(buffer.slice(0, read));
        stream.#bytes += read;
        if (stream.#bytes > MOST_BYTES) return `a state of more than ${MOST_BYTES} bytes`;
      }
    });
  }

  /** All of a read that went well. */
  get bytes(): Uint8Array {
    return Uint8Array.from(Buffer.concat(this.#chunks));
  }

  /** Gives up, if it is still at work. */
  cancel(): void {
    this.#end('cancelled');
  }

  #end(result: string | undefined): void {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#timer);
    this.#native.close(this.#fd);
    this.#finish(result);
  }
}
