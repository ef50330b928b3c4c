// One client on a vfio-user socket: reads its messages one after the other, has them carried out and answers; and asks it for memory that it lends by message only (DMA_READ,
// DMA_WRITE). A device waits for that inside its own call, and the client may be waiting for us meanwhile, so messages go on being served there: in order, nested, to a
// bounded depth. The peer is not trusted: what breaks the protocol ends this connection and nobody else's.

import type { Log } from '#core/log';
import type { EventPoll, Watch } from './event-poll.ts';
import { errorName } from './interop-error.ts';
import type { Native } from './native.ts';
import * as wire from './vfio-user-protocol.ts';
import { type Client, type Message, ProtocolError, payloadOf, Refusal, writeU64 } from './vfio-user-protocol.ts';
import { MessageReader } from './vfio-user-reader.ts';
import { MessageWriter } from './vfio-user-writer.ts';
import type { Ending } from './vhost-user-connection.ts';

/** Messages handled before everybody else gets a turn. */
const MESSAGES_PER_TURN = 64;
/** How long a client may keep a device waiting for its memory, in milliseconds, in however many messages: as long as QEMU gives us. */
const DMA_TIMEOUT = 5000;
/** DMA inside a register access inside DMA ...: a device that goes on like that is refused its memory. */
const MOST_NESTED = 8;
/** Posted writes that wait for a device to have its memory, and bytes of each: what is more does not wait. */
const MOST_POSTED = 4096;
const MOST_POSTED_BYTES = 4096;
/** Refused commands on one connection: who does not listen is sent away. */
const MOST_REFUSED = 10_000;
const HUNG_UP = 'the client closed it';

/** Answers to DMA that nobody waits for any more. */
const MOST_ABANDONED = 64;

/** Why serving is over: the connection ends. */
type Served = string | undefined;

export interface Commands {
  /** Does what a message asks; the payload of its answer. @throws Refusal */
  carryOut(message: Message): Uint8Array | undefined | Promise<Uint8Array | undefined>;
  /** The connection is over: nothing of it is left when the promise settles. */
  close(): Promise<void>;
}

export interface ConnectionParts {
  readonly native: Native;
  readonly poll: EventPoll;
  readonly log: Log;
}

export class VfioUserConnection {
  /** Settles when everything is given back. */
  readonly closed: Promise<Ending>;
  /** DMA messages sent. */
  dmaMessages = 0;
  readonly #fd: number;
  readonly #parts: ConnectionParts;
  readonly #commands: Commands;
  readonly #watch: Watch | undefined;
  #resolve: (ending: Ending) => void = () => {};
  #client: Client | undefined;
  readonly #reader: MessageReader;
  readonly #writer: MessageWriter;
  // What is to be done before more is received.
  #waiting: Message[] = [];
  #busy = false;
  #again = false;
  #refused = 0;
  // DMA under way: answers by message number, undefined until they are there.
  readonly #asked = new Map<number, Message | undefined>();
  readonly #abandoned = new Set<number>();
  #nextId = 1;
  /** No DMA any more until the device's calls have returned: what has to be done cannot be done inside them. */
  #abandon = false;
  #closing = false;
  #cleaning = false;
  #ending: Ending = { reason: '', fault: false };

  /** Takes over `fd`. */
  constructor(fd: number, parts: ConnectionParts, commands: Commands) {
    this.#fd = fd;
    this.#parts = parts;
    this.#commands = commands;
    this.#reader = new MessageReader(parts.native, fd);
    this.#writer = new MessageWriter(parts.native, fd);
    this.closed = new Promise((resolve) => {
      this.#resolve = resolve;
    });
    const watch = parts.poll.add(fd, () => this.#ready(), true);
    if (typeof watch === 'number') {
      this.#watch = undefined;
      this.close(`cannot be waited for: ${errorName(watch)}`);
    } else this.#watch = watch;
  }

  /** VERSION was agreed. */
  get agreed(): boolean {
    return this.#client !== undefined;
  }

  /** Ends the connection; `closed` says when that is done. */
  close(reason: string, fault = false): void {
    if (this.#closing) return;
    this.#closing = true;
    this.#ending = { reason, fault };
    this.#watch?.remove();
    // Whoever is at work on a message, or waits for one, finishes first.
    if (!this.#busy && this.#asked.size === 0) void this.#cleanUp();
  }

  async #cleanUp(): Promise<void> {
    if (this.#cleaning) return;
    this.#cleaning = true;
    this.#reader.drop();
    for (const { fds } of this.#waiting.splice(0)) this.#dropFds(fds);
    await this.#commands.close();
    this.#parts.native.close(this.#fd);
    this.#resolve(this.#ending);
  }

  #dropFds(fds: number[]): void {
    for (const fd of fds.splice(0)) this.#parts.native.close(fd);
  }

  // ---- receiving ----

  #ready(): void {
    this.#again = true;
    // Whoever waits inside a device's call reads for itself.
    if (this.#busy || this.#closing || this.#asked.size > 0) return;
    this.#busy = true;
    this.#settle(this.#serve());
  }

  #settle(served: Served | Promise<Served>): void {
    if (served instanceof Promise) {
      void served.then((reason) => this.#settle(reason));
      return;
    }
    this.#busy = false;
    if (served !== undefined) this.close(served, served !== HUNG_UP);
    if (this.#closing) void this.#cleanUp();
    else if (this.#again) this.#ready();
  }

  /** Serves what there is, at once as far as it can be; why the connection ends, if it does. */
  #serve(): Served | Promise<Served> {
    try {
      while (this.#again) {
        this.#again = false;
        for (let count = 1; ; count++) {
          this.#writer.flush();
          // Who does not read is not served; being able to write again is an event, too.
          if (this.#writer.waits || this.#closing) break;
          const next = this.#waiting.shift() ?? this.#receive();
          if (next === 'nothing') break;
          if (next === 'end') return HUNG_UP;
          this.#abandon = false;
          const result = this.#take(next);
          if (this.#closing && result === undefined) return undefined;
          if (result !== undefined || count === MESSAGES_PER_TURN) return this.#goOn(result ?? new Promise((resolve) => setImmediate(resolve)));
        }
      }
      return undefined;
    } catch (error) {
      return this.#explain(error);
    }
  }

  async #goOn(when: Promise<void>): Promise<Served> {
    try {
      await when;
    } catch (error) {
      return this.#explain(error);
    }
    if (this.#closing) return undefined;
    this.#again = true;
    return this.#serve();
  }

  #explain(error: unknown): string {
    if (error instanceof ProtocolError) return error.message;
    return `internal error, please report it: ${(error as Error).stack ?? String(error)}`;
  }

  #receive(): ReturnType<MessageReader['next']> {
    return this.#reader.next(this.agreed);
  }

  // ---- carrying out ----

  /** Does what a message asks, and answers. @throws ProtocolError */
  #take(message: Message): Promise<void> | undefined {
    if (message.kind === 'reply') {
      this.#takeReply(message);
      return undefined;
    }
    if (this.#client === undefined || message.command === wire.VERSION) {
      this.#agree(message);
      return undefined;
    }
    let result: ReturnType<Commands['carryOut']>;
    try {
      result = this.#commands.carryOut(message);
    } catch (error) {
      this.#refuse(message, error);
      return undefined;
    }
    if (result instanceof Promise)
      return result.then(
        (payload) => this.#answer(message, payload),
        (error: unknown) => this.#refuse(message, error),
      );
    this.#answer(message, result);
    return undefined;
  }

  #agree(message: Message): void {
    this.#dropFds(message.fds);
    if (message.command !== wire.VERSION) throw new ProtocolError(`${wire.commandName(message.command)} before VERSION`);
    if (this.#client !== undefined) throw new ProtocolError('a second VERSION');
    const { client, reply } = wire.readVersion(message.payload);
    this.#client = client;
    this.#answer(message, reply);
  }

  #answer(message: Message, payload: Uint8Array | undefined): void {
    // What the message did not need.
    this.#dropFds(message.fds);
    // A client that went, or was sent away, inside the call.
    if (message.kind === 'command' && !this.#closing) this.#writer.send(wire.makeReply(message, payload));
  }

  #refuse(message: Message, error: unknown): void {
    this.#dropFds(message.fds);
    if (!(error instanceof Refusal)) throw error;
    this.#parts.log.guestError(`${wire.commandName(message.command)} refused: ${error.message}`);
    if (++this.#refused > MOST_REFUSED) throw new ProtocolError(`${MOST_REFUSED} commands were refused`);
    if (message.kind === 'command' && !this.#closing) this.#writer.send(wire.makeErrorReply(message, error.errno));
  }

  // ---- memory by message ----

  /** Bytes of the client's memory. Keeps the caller until they are there; false: they cannot be had. */
  readMemory(address: number, into: Uint8Array, offset: number, length: number): boolean {
    const most = Math.min(wire.MOST_DATA, this.#client?.mostData ?? 0);
    const deadline = performance.now() + DMA_TIMEOUT;
    for (let done = 0; done < length; done += most) {
      const count = Math.min(most, length - done);
      const reply = this.#ask(wire.DMA_READ, address + done, count, undefined, deadline);
      if (reply === undefined) return false;
      if (reply.payload.byteLength !== 16 + count) {
        this.close(`DMA_READ: an answer of ${reply.payload.byteLength} bytes to a question for ${count}`, true);
        return false;
      }
      into.set(new Uint8Array(reply.payload.buffer, 16, count), offset + done);
    }
    return true;
  }

  writeMemory(address: number, from: Uint8Array, offset: number, length: number): boolean {
    const most = Math.min(wire.MOST_DATA, this.#client?.mostData ?? 0);
    const deadline = performance.now() + DMA_TIMEOUT;
    for (let done = 0; done < length; done += most) {
      const count = Math.min(most, length - done);
      if (this.#ask(wire.DMA_WRITE, address + done, count, from.subarray(offset + done, offset + done + count), deadline) === undefined) return false;
    }
    return true;
  }

  #ask(command: number, address: number, count: number, data: Uint8Array | undefined, deadline: number): Message | undefined {
    if (this.#client === undefined || this.#closing || this.#abandon) return undefined;
    if (this.#asked.size >= MOST_NESTED) {
      this.#parts.log.guestError(`${wire.commandName(command)}: refused, ${MOST_NESTED} are under way, one inside the other`);
      return undefined;
    }
    const id = this.#id();
    const payload = payloadOf(16 + (data?.length ?? 0));
    writeU64(payload, 0, address);
    writeU64(payload, 8, count);
    if (data !== undefined) new Uint8Array(payload.buffer).set(data, 16);
    this.#asked.set(id, undefined);
    let reply: Message | undefined;
    try {
      this.#writer.send(wire.makeCommand(id, command, new Uint8Array(payload.buffer)));
      this.dmaMessages++;
      reply = this.#await(id, command, deadline);
    } catch (error) {
      this.close(this.#explain(error), true);
    }
    if (reply === undefined && !this.#closing) {
      this.#abandoned.add(id);
      if (this.#abandoned.size > MOST_ABANDONED) this.close('too many DMA messages are not answered', true);
    }
    this.#asked.delete(id);
    if (this.#asked.size === 0) this.#unwound();
    if (reply === undefined || reply.error === 0) return reply;
    this.#parts.log.guestError(`${wire.commandName(command)} of ${count} bytes at 0x${address.toString(16)}: the client answers with error ${reply.error}`);
    return undefined;
  }

  /** The outermost wait is over: what could not be done inside it is done from the event loop, or by whoever is at work below. */
  #unwound(): void {
    if (this.#busy) {
      this.#again = true;
      return;
    }
    setImmediate(() => {
      if (this.#closing) void this.#cleanUp();
      else this.#ready();
    });
  }

  #id(): number {
    do this.#nextId = (this.#nextId + 1) & 0xffff;
    while (this.#asked.has(this.#nextId) || this.#abandoned.has(this.#nextId));
    return this.#nextId;
  }

  /** Serves messages until the answer is there. @throws ProtocolError */
  #await(id: number, command: number, deadline: number): Message | undefined {
    let late = 0;
    for (let count = 1; ; count++) {
      const reply = this.#asked.get(id);
      if (reply !== undefined) return reply;
      if (this.#abandon || this.#closing) return undefined;
      this.#writer.flush();
      const message = this.#receive();
      if (message === 'end') {
        this.close(HUNG_UP);
        return undefined;
      }
      const left = deadline - performance.now();
      // Others may have kept the thread: what came meanwhile still counts. But nobody talks on and on in place of answering.
      if (left <= 0 && (message === 'nothing' || ++late > MOST_POSTED)) {
        if (message !== 'nothing') this.#dropFds(message.fds);
        throw new ProtocolError(`${wire.commandName(command)} is not answered for ${DMA_TIMEOUT} ms`);
      }
      if (message !== 'nothing') this.#takeNested(message);
      // Everybody else's events are served meanwhile, also when this client goes on and on.
      if (message === 'nothing') this.#parts.poll.wait(Math.ceil(left));
      else if (count % MESSAGES_PER_TURN === 0) this.#parts.poll.wait(0);
    }
  }

  #takeReply(message: Message): void {
    this.#dropFds(message.fds);
    const { id, command } = message;
    if (this.#asked.has(id) && this.#asked.get(id) === undefined) this.#asked.set(id, message);
    else if (!this.#abandoned.delete(id)) throw new ProtocolError(`an answer to ${wire.commandName(command)} ${id}, which nobody asked`);
  }

  #takeNested(message: Message): void {
    if (message.kind === 'reply') {
      this.#takeReply(message);
      return;
    }
    // A change of the whole device, whether its answer is waited for or not: the calls it is in end first, without their memory.
    if (!NESTABLE.has(message.command)) {
      this.#waiting.push(message);
      this.#abandon = true;
      return;
    }
    this.#waiting.push(message);
    // Nobody waits for a posted write, so the device need not be entered again for it.
    const small = message.bytes <= MOST_POSTED_BYTES && message.fds.length === 0;
    if (message.kind === 'posted' && small && this.#waiting.length <= MOST_POSTED) return;
    // In order: a read pushes the writes before it.
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      this.#take(next);
      // A nested wait may have come to an end of all.
      if (this.#abandon || this.#closing) return;
    }
  }
}

/** What a client may wait for while we wait for its memory, and can be done then and there. */
const NESTABLE: ReadonlySet<number> = new Set([
  wire.DMA_MAP,
  wire.DMA_UNMAP,
  wire.DEVICE_GET_INFO,
  wire.DEVICE_GET_REGION_INFO,
  wire.DEVICE_GET_REGION_IO_FDS,
  wire.DEVICE_GET_IRQ_INFO,
  wire.DEVICE_SET_IRQS,
  wire.REGION_READ,
  wire.REGION_WRITE,
  wire.REGION_WRITE_MULTI,
  wire.DIRTY_PAGES,
]);
