// The front end's side of a vhost-user socket: requests go out without waiting, their replies come in the same order and are taken either by the event loop or, by a caller
// that polls, with `pump`. The back end is another process and is not trusted: anything but the reply that is due ends the connection.

import type { EventPoll, Watch } from './event-poll.ts';
import { EAGAIN, errorName } from './interop-error.ts';
import type { Native } from './native.ts';
import { HEADER_BYTES, requestName } from './vhost-user-protocol.ts';

const VERSION = 1;
const FLAG_REPLY = 4;
const FLAG_NEED_REPLY = 8;
/** A back end that owes an answer for so long is taken for dead, in milliseconds. */
const PATIENCE = 5000;
/** Until the socket takes more, in milliseconds. */
const SEND_AGAIN = 1;
/** Messages that may wait for the socket: more than any state of 64 queue pairs takes to describe. */
const MOST_WAITING = 4096;

interface Due {
  readonly request: number;
  readonly bytes: number;
  /** Returns what the back end did wrong with the reply, if anything. The descriptor is its own. */
  readonly take: (payload: DataView, fd: number | undefined) => string | undefined;
  readonly withFd: boolean;
}

interface Outgoing {
  bytes: Uint8Array;
  fds: readonly number[];
}

export class RequestChannel {
  readonly #native: Native;
  readonly #fd: number;
  readonly #onEnd: (reason: string) => void;
  readonly #watch: Watch | undefined;
  readonly #header = new Uint8Array(new ArrayBuffer(HEADER_BYTES));
  readonly #due: Due[] = [];
  readonly #waiting: Outgoing[] = [];
  readonly #fds: number[] = [];
  #payload: Uint8Array | undefined;
  #have = 0;
  #timer: NodeJS.Timeout | undefined;
  #deadline = 0;
  #again: NodeJS.Timeout | undefined;
  #open = true;
  #pumping = false;

  /** Takes over `fd`. @param onEnd called once, when the other side has ended the connection or broken the protocol; not for `close`. */
  constructor(native: Native, poll: EventPoll, fd: number, onEnd: (reason: string) => void) {
    this.#native = native;
    this.#fd = fd;
    this.#onEnd = onEnd;
    const watch = poll.add(fd, () => this.pump());
    if (typeof watch === 'number') queueMicrotask(() => this.#end(`cannot be waited for: ${errorName(watch)}`));
    else this.#watch = watch;
  }

  /** Sends a request that has no reply of its own. @param acknowledged what failed if the back end says so (REPLY_ACK); undefined: not asked. */
  tell(request: number, payload: Uint8Array, fds: readonly number[] = [], acknowledged?: string): void {
    this.#send(request, payload, fds, acknowledged !== undefined);
    if (acknowledged === undefined) return;
    this.#expect(request, 8, (reply) => (reply.getUint32(0, true) !== 0 || reply.getUint32(4, true) !== 0 ? `refused ${acknowledged}` : undefined));
  }

  /** Sends a request whose reply has `bytes` of payload. */
  ask(request: number, payload: Uint8Array, bytes: number, take: (payload: DataView) => void): void {
    this.#send(request, payload, [], false);
    this.#expect(request, bytes, (reply) => {
      take(reply);
      return undefined;
    });
  }

  /** The same where a descriptor comes with the reply, which is the taker's; it returns what is wrong with the reply, which ends the connection. */
  askForDescriptor(request: number, payload: Uint8Array, bytes: number, take: Due['take']): void {
    this.#send(request, payload, [], false);
    this.#expect(request, bytes, take, true);
  }

  #expect(request: number, bytes: number, take: Due['take'], withFd = false): void {
    if (!this.#open) return;
    if (this.#due.length === 0) this.#awaitReply();
    this.#due.push({ request, bytes, take, withFd });
  }

  #awaitReply(): void {
    this.#deadline = performance.now() + PATIENCE;
    this.#timer ??= setTimeout(() => this.pump(), PATIENCE + 1).unref();
    this.#timer.refresh();
  }

  /** Everything said has left, and everything asked was answered. */
  get settled(): boolean {
    return this.#waiting.length === 0 && this.#due.length === 0;
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    clearTimeout(this.#timer);
    clearTimeout(this.#again);
    this.#watch?.remove();
    this.#dropFds();
    this.#native.close(this.#fd);
  }

  #end(reason: string): void {
    if (!this.#open) return;
    this.close();
    this.#onEnd(reason);
  }

  #dropFds(): void {
    for (const fd of this.#fds.splice(0)) this.#native.close(fd);
  }

  // ---- sending ----

  #send(request: number, payload: Uint8Array, fds: readonly number[], needsReply: boolean): void {
    if (!this.#open) return;
    const bytes = new Uint8Array(new ArrayBuffer(HEADER_BYTES + payload.length));
    const view = new DataView(bytes.buffer);
    view.setUint32(0, request, true);
    view.setUint32(4, VERSION | (needsReply ? FLAG_NEED_REPLY : 0), true);
    view.setUint32(8, payload.length, true);
    bytes.set(payload, HEADER_BYTES);
    this.#waiting.push({ bytes, fds });
    this.#flush();
  }

  #flush(): void {
    if (this.#again !== undefined) return;
    for (;;) {
      const [next] = this.#waiting;
      if (next === undefined || !this.#open) return;
      const sent = this.#native.sockets.send(this.#fd, next.bytes, next.fds);
      if (sent === next.bytes.length) {
        this.#waiting.shift();
        continue;
      }
      if (sent < 0 && sent !== -EAGAIN) {
        // Inside a caller that is at work on its rings: it is told afterwards.
        queueMicrotask(() => this.#end(`sending failed: ${errorName(sent)}`));
        return;
      }
      if (sent > 0) {
        // Descriptors go with the first byte.
        next.bytes = next.bytes.slice(sent);
        next.fds = [];
      }
      if (this.#waiting.length > MOST_WAITING) {
        queueMicrotask(() => this.#end('the back end does not read its messages'));
        return;
      }
      this.#again = setTimeout(() => {
        this.#again = undefined;
        this.#flush();
      }, SEND_AGAIN);
      return;
    }
  }

  // ---- receiving ----

  /** Takes what has arrived, without waiting. */
  pump(): void {
    // What a reply leads to may look again.
    if (this.#pumping) return;
    this.#pumping = true;
    while (this.#open && this.#receive());
    const [late] = this.#due;
    // Here and not in a timer alone: who polls may not let one run.
    if (late !== undefined && performance.now() > this.#deadline) this.#end(`no answer to ${requestName(late.request)} within ${PATIENCE} ms`);
    this.#pumping = false;
  }

  /** One step of a message; false when nothing more is there. */
  #receive(): boolean {
    const into = this.#payload ?? this.#header;
    if (this.#have < into.length) {
      const received = this.#native.sockets.receive(this.#fd, into, this.#have, into.length - this.#have, this.#fds);
      if (received === -EAGAIN) return false;
      if (this.#fds.length > (this.#due[0]?.withFd === true ? 1 : 0)) this.#end('the back end sent a descriptor, and none was asked for');
      else if (received <= 0) this.#end(received === 0 ? 'the back end is gone' : `receiving failed: ${errorName(received)}`);
      else this.#have += received;
      if (!this.#open || this.#have < into.length) return this.#open;
    }
    this.#have = 0;
    const [due] = this.#due;
    if (this.#payload !== undefined) {
      const payload = new DataView(this.#payload.buffer);
      this.#payload = undefined;
      this.#due.shift();
      if (this.#due.length > 0) this.#awaitReply();
      const wrong = due?.take(payload, this.#fds.pop());
      if (wrong !== undefined) this.#end(`the back end ${wrong}`);
      return this.#open;
    }
    const view = new DataView(this.#header.buffer);
    const request = view.getUint32(0, true);
    const flags = view.getUint32(4, true);
    const bytes = view.getUint32(8, true);
    if (due === undefined || request !== due.request || (flags & (VERSION | FLAG_REPLY)) !== (VERSION | FLAG_REPLY) || bytes !== due.bytes) {
      const expected = due === undefined ? 'nothing was asked' : `the reply to ${requestName(due.request)} is due`;
      this.#end(`the back end sent ${requestName(request)} with flags 0x${flags.toString(16)} and ${bytes} bytes, where ${expected}`);
      return false;
    }
    this.#payload = new Uint8Array(new ArrayBuffer(bytes));
    return true;
  }
}
