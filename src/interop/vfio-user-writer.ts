// Whole vfio-user messages into a socket that takes as much as it has room for. What it does not take waits, up to a bound: a peer may well not read.

import { EAGAIN, errorName } from './interop-error.ts';
import type { Native } from './native.ts';
import { ProtocolError } from './vfio-user-protocol.ts';

/** Bytes of answers that a client does not read. */
const MOST_WAITING = 8 * 2 ** 20;

export class MessageWriter {
  readonly #native: Native;
  readonly #fd: number;
  #waiting: Uint8Array[] = [];
  #bytes = 0;

  /** Writes to `fd`, which stays its owner's. */
  constructor(native: Native, fd: number) {
    this.#native = native;
    this.#fd = fd;
  }

  /** The socket has not taken everything. */
  get waits(): boolean {
    return this.#waiting.length > 0;
  }

  /** @throws ProtocolError */
  send(bytes: Uint8Array): void {
    if (this.#bytes + bytes.length > MOST_WAITING) throw new ProtocolError('the client does not read its answers');
    this.#waiting.push(bytes);
    this.#bytes += bytes.length;
    this.flush();
  }

  /** Has the socket take what it will. @throws ProtocolError */
  flush(): void {
    for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
      const sent = this.#native.sockets.send(this.#fd, first);
      if (sent === -EAGAIN) return;
      if (sent < 0) throw new ProtocolError(`an answer was not taken: ${errorName(sent)}`);
      this.#bytes -= sent;
      if (sent < first.length) this.#waiting[0] = first.subarray(sent);
      else this.#waiting.shift();
    }
  }
}
