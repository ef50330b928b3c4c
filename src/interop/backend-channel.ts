// The channel on which a back end speaks first (SET_BACKEND_REQ_FD). Messages wait for room and keep their order; answers come in that order too. The other end may not
// read, answer wrongly, or hang up: the main connection then goes on, with nobody to hear us.

import type { Log } from '#core/log';
import type { EventPoll, Watch } from './event-poll.ts';
import { EAGAIN } from './interop-error.ts';
import type { Native } from './native.ts';
import { HEADER_BYTES, isBackendAnswer } from './vhost-user-protocol.ts';

const ANSWER_BYTES = HEADER_BYTES + 8;
/** Until the socket takes more, in milliseconds. */
const SEND_AGAIN = 1;
const MOST_WAITING = 4096;

interface Outgoing {
  readonly bytes: Uint8Array;
  readonly answer: ((failed: boolean) => void) | undefined;
}

export class BackendChannel {
  readonly #native: Native;
  readonly #fd: number;
  readonly #log: Log;
  readonly #watch: Watch | undefined;
  readonly #waiting: Outgoing[] = [];
  readonly #due: { readonly request: number; readonly answer: (failed: boolean) => void }[] = [];
  readonly #answer = new Uint8Array(new ArrayBuffer(ANSWER_BYTES));
  readonly #fds: number[] = [];
  #have = 0;
  #again: NodeJS.Timeout | undefined;
  #open = true;

  /** Takes over `fd`. */
  constructor(native: Native, poll: EventPoll, fd: number, log: Log) {
    this.#native = native;
    this.#fd = fd;
    this.#log = log;
    const watch = poll.add(fd, () => this.#receive());
    if (typeof watch !== 'number') this.#watch = watch;
  }

  /** Sends a message made by `makeBackendMessage`. @param answer gets its answer, for a message that asks for one */
  send(bytes: Uint8Array, answer?: (failed: boolean) => void): void {
    // A front end that reads none of these will find its rings used when it looks.
    if (!this.#open || this.#waiting.length === MOST_WAITING) return;
    this.#waiting.push({ bytes, answer });
    this.#flush();
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    clearTimeout(this.#again);
    this.#watch?.remove();
    this.#native.close(this.#fd);
  }

  #flush(): void {
    if (this.#again !== undefined) return;
    for (;;) {
      const [next] = this.#waiting;
      if (next === undefined || !this.#open) return;
      const sent = this.#native.sockets.send(this.#fd, next.bytes);
      if (sent === -EAGAIN) {
        this.#again = setTimeout(() => {
          this.#again = undefined;
          this.#flush();
        }, SEND_AGAIN);
        return;
      }
      // A UNIX socket takes messages as short as these whole.
      if (sent !== next.bytes.length) {
        this.#fail('takes no messages');
        return;
      }
      this.#waiting.shift();
      if (next.answer !== undefined) this.#due.push({ request: new DataView(next.bytes.buffer).getUint32(0, true), answer: next.answer });
    }
  }

  #receive(): void {
    while (this.#open) {
      const received = this.#native.sockets.receive(this.#fd, this.#answer, this.#have, ANSWER_BYTES - this.#have, this.#fds);
      for (const fd of this.#fds.splice(0)) this.#native.close(fd);
      if (received === -EAGAIN) return;
      if (received <= 0) {
        // The main connection mostly ends a moment later.
        this.#log.trace("the front end's channel for our messages was closed");
        this.close();
        return;
      }
      this.#have += received;
      if (this.#have < ANSWER_BYTES) continue;
      this.#have = 0;
      const view = new DataView(this.#answer.buffer);
      const due = this.#due.shift();
      if (due === undefined || !isBackendAnswer(view, due.request)) {
        this.#fail('answers what was not asked');
        return;
      }
      due.answer(view.getUint32(HEADER_BYTES, true) !== 0 || view.getUint32(HEADER_BYTES + 4, true) !== 0);
    }
  }

  #fail(what: string): void {
    this.#log.guestError(`the front end's channel for our messages ${what}`);
    this.close();
  }
}
