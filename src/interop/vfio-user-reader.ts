// Whole vfio-user messages out of what a socket brings: a peer may send one in any number of pieces, with descriptors beside any of them. Nothing is allocated for a
// message before its header was judged.

import { EAGAIN, errorName } from './interop-error.ts';
import type { Native } from './native.ts';
import * as wire from './vfio-user-protocol.ts';
import { type Header, type Message, ProtocolError } from './vfio-user-protocol.ts';

export class MessageReader {
  readonly #native: Native;
  readonly #fd: number;
  readonly #header = new DataView(new ArrayBuffer(wire.HEADER_BYTES));
  #parsed: Header | undefined;
  #bytes = new Uint8Array(this.#header.buffer);
  #have = 0;
  #fds: number[] = [];

  /** Reads from `fd`, which stays its owner's. */
  constructor(native: Native, fd: number) {
    this.#native = native;
    this.#fd = fd;
  }

  /**
   * The next message, if all of it is there; 'end': the peer has closed. Its descriptors are the caller's.
   * @param agreed a version was agreed on: messages may be long
   * @throws ProtocolError
   */
  next(agreed: boolean): Message | 'nothing' | 'end' {
    for (;;) {
      const wanted = this.#bytes.length - this.#have;
      if (wanted > 0) {
        const received = this.#native.sockets.receive(this.#fd, this.#bytes, this.#have, wanted, this.#fds);
        if (received === -EAGAIN) return 'nothing';
        if (received === 0 && this.#have === 0 && this.#parsed === undefined) return 'end';
        if (received <= 0) throw new ProtocolError(received === 0 ? 'the connection ended inside a message' : `receiving failed: ${errorName(received)}`);
        this.#have += received;
        if (this.#fds.length > wire.MOST_FDS) throw new ProtocolError(`more than ${wire.MOST_FDS} descriptors in a message`);
        if (this.#have < this.#bytes.length) continue;
      }
      if (this.#parsed === undefined) {
        this.#parsed = wire.readHeader(this.#header, agreed);
        this.#bytes = new Uint8Array(new ArrayBuffer(this.#parsed.bytes));
        this.#have = 0;
        if (this.#parsed.bytes > 0) continue;
      }
      const message: Message = { ...this.#parsed, payload: new DataView(this.#bytes.buffer), fds: this.#fds };
      this.#parsed = undefined;
      this.#bytes = new Uint8Array(this.#header.buffer);
      this.#have = 0;
      this.#fds = [];
      return message;
    }
  }

  /** Closes the descriptors of a message that is not whole, and will not be. */
  drop(): void {
    for (const fd of this.#fds.splice(0)) this.#native.close(fd);
  }
}
