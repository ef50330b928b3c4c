// QEMU's stream netdev protocol (`-netdev stream,...`, and `-netdev socket,listen=|connect=` of older versions) as a port: one cable over one TCP or UNIX
// connection, as server or client. The peer is not trusted: what it announces is bounded, what it sends waits in bounded memory, and while that is
// full the connection is not read. A port without a connection is a cable that hangs in the air: link down, what is sent to it is dropped and counted.

import { unlink } from 'node:fs/promises';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { type Clock, type Nanos, type Timer, WallClock } from '#core/clock';
import { Log } from '#core/log';
import { DROP_LINK_DOWN, DROP_MALFORMED, DROP_TOO_LONG, PortCounters } from '#net/counters';
import type { FrameBatch } from '#net/port';
import { FrameStore } from './frame-store.ts';
import type { NetdevPort } from './netdev-port.ts';
import { formatAddress, type StreamAddress } from './peer-address.ts';
import { LONGEST_STREAM_FRAME, StreamDecoder, StreamOutbox } from './stream-frames.ts';

/** How long a client waits before it tries again: doubled from `first` to `limit`, back to `first` once a frame came. */
export interface Backoff {
  readonly first: Nanos;
  readonly limit: Nanos;
}

export interface StreamNetdevOptions {
  /** Wait for the peer here; exactly one of `listen` and `connect`. */
  readonly listen?: StreamAddress;
  /** Call the peer here, again whenever the connection ends. */
  readonly connect?: StreamAddress;
  readonly backoff?: Backoff;
  readonly clock?: Clock;
  readonly log?: Log;
}

const DEFAULT_BACKOFF: Backoff = { first: 100e6, limit: 5e9 };
/** A host that went away without a word is noticed after this and some probes. */
const KEEP_ALIVE_MS = 30_000;

export class StreamNetdev implements NetdevPort {
  readonly name: string;
  readonly accepts = 0;
  readonly counters = new PortCounters();
  onReady: (() => void) | undefined;
  /** Told when a peer has connected (true) or the connection has ended. */
  onLink: ((up: boolean) => void) | undefined;
  readonly #listen: StreamAddress | undefined;
  readonly #connect: StreamAddress | undefined;
  readonly #backoff: Backoff;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #retry: Timer;
  readonly #inbox = new FrameStore();
  #delay: Nanos;
  #server: Server | undefined;
  /** The connection, or the attempt to make one. */
  #calling: Socket | undefined;
  #socket: Socket | undefined;
  #decoder = new StreamDecoder(this.#inbox);
  #outbox: StreamOutbox | undefined;
  /** What was read and found no room in the inbox, from `#heldFrom` on. The connection is paused meanwhile. */
  #held: Uint8Array | undefined;
  #heldFrom = 0;
  #refused = false;
  #closed = false;

  constructor(name: string, options: StreamNetdevOptions) {
    if ((options.listen === undefined) === (options.connect === undefined))
      throw new TypeError(`stream netdev ${name}: give either 'listen' (wait for the peer) or 'connect' (call it)`);
    const backoff = options.backoff ?? DEFAULT_BACKOFF;
    if (!(backoff.first > 0 && backoff.limit >= backoff.first))
      throw new RangeError(`stream netdev ${name}: backoff from ${backoff.first} to ${backoff.limit} ns`);
    this.name = name;
    this.#listen = options.listen;
    this.#connect = options.connect;
    this.#backoff = backoff;
    this.#delay = backoff.first;
    this.#clock = options.clock ?? new WallClock();
    this.#log = options.log ?? new Log(name);
    this.#retry = this.#clock.timer(() => this.#call());
  }

  /** Begins to listen, or to call. Rejects when the address cannot be listened at; a peer that cannot be reached yet is tried again. */
  async open(): Promise<void> {
    if (this.#listen === undefined) this.#call();
    else this.#server = await listenAt(this.#listen, (socket) => this.#adopt(socket));
  }

  /** Where a listening port can be reached (with the port number it was given). */
  get address(): StreamAddress | undefined {
    const bound = this.#server?.address();
    if (bound === undefined || bound === null) return undefined;
    return typeof bound === 'string' ? { path: bound } : { host: bound.address, port: bound.port };
  }

  get connected(): boolean {
    return this.#socket !== undefined;
  }

  /** Ends the connection and whatever waits for one. What the host's kernel has not taken from us by then is lost, as with a cable that is pulled. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#retry.cancel();
    this.#calling?.destroy();
    this.#socket?.destroy();
    const server = this.#server;
    this.#server = undefined;
    if (server === undefined) return;
    await new Promise<void>((resolve) => server.close(() => resolve()));
  }

  // ---- connections ----

  #call(): void {
    if (this.#closed || this.#connect === undefined) return;
    const address = this.#connect;
    const socket = createConnection({ ...address, noDelay: true });
    this.#calling = socket;
    let reached = false;
    socket.once('connect', () => {
      reached = true;
      this.#calling = undefined;
      this.#adopt(socket);
    });
    socket.on('error', (error) => {
      if (!reached) this.#log.trace(`${formatAddress(address)}: ${error.message}, tried again in ${this.#delay / 1e6} ms`);
    });
    socket.once('close', () => {
      this.#calling = undefined;
      if (this.#closed) return;
      this.#retry.arm(this.#clock.now() + this.#delay);
      this.#delay = Math.min(this.#delay * 2, this.#backoff.limit);
    });
  }

  #adopt(socket: Socket): void {
    socket.on('error', (error) => this.#log.trace(`connection: ${error.message}`));
    if (this.#closed || this.#socket !== undefined) {
      if (!this.#closed) this.#log.guestError('a second peer called: this cable has one other end, closing the newcomer');
      socket.destroy();
      return;
    }
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    this.#socket = socket;
    this.#decoder = new StreamDecoder(this.#inbox);
    this.#held = undefined;
    this.#refused = false;
    this.#outbox = new StreamOutbox(socket, () => {
      if (this.#socket === socket && this.#refused) this.onReady?.();
    });
    socket.on('data', (piece: Uint8Array) => this.#receive(socket, piece, 0));
    socket.once('close', () => this.#lose(socket));
    this.#log.trace('link up');
    this.onLink?.(true);
    this.onReady?.();
  }

  #lose(socket: Socket): void {
    if (this.#socket !== socket) return;
    this.#socket = undefined;
    this.#outbox = undefined;
    this.#held = undefined;
    // The rest of a frame that was cut off will never come.
    if (this.#decoder.midFrame) this.counters.transmitDropped(DROP_LINK_DOWN, 1);
    this.#log.trace('link down');
    this.onLink?.(false);
    // Senders that are held back find the link down, and go on.
    this.onReady?.();
  }

  #receive(socket: Socket, piece: Uint8Array, from: number): void {
    if (this.#socket !== socket) return;
    const before = this.#inbox.count;
    const empty = this.#decoder.emptyFrames;
    const at = this.#decoder.decode(piece, from);
    if (this.#inbox.count > before) this.#delay = this.#backoff.first;
    if (this.#decoder.emptyFrames > empty) this.counters.transmitDropped(DROP_MALFORMED, this.#decoder.emptyFrames - empty);
    if (at < 0) {
      this.counters.transmitDropped(DROP_MALFORMED, 1);
      this.#log.guestError(
        `the peer announced a frame of ${this.#decoder.announced} bytes, the longest has ${LONGEST_STREAM_FRAME}: not a QEMU stream, closing`,
      );
      this.#held = undefined;
      this.#decoder = new StreamDecoder(this.#inbox);
      socket.destroy();
    } else if (at < piece.length) {
      this.#held = piece;
      this.#heldFrom = at;
      socket.pause();
    } else if (this.#held !== undefined) {
      this.#held = undefined;
      socket.resume();
    }
    if (this.#inbox.count > before) this.onReady?.();
  }

  // ---- NetPort ----

  /** Frames that came before the connection ended are still sent. */
  get linkUp(): boolean {
    return this.#socket !== undefined || this.#inbox.count > 0;
  }

  collect(batch: FrameBatch, frames: number, bytes: number): number {
    return this.#inbox.append(batch, frames, bytes);
  }

  complete(batch: FrameBatch, done: number): void {
    let bytes = 0;
    for (let f = 0; f < done; f++) bytes += batch.length[f] as number;
    this.counters.transmitted(done, bytes);
    this.#inbox.release(done);
    if (done > 0 && this.#held !== undefined && this.#socket !== undefined) this.#receive(this.#socket, this.#held, this.#heldFrom);
  }

  deliver(batch: FrameBatch, from: number, to: number): number {
    const outbox = this.#outbox;
    if (outbox === undefined) {
      this.counters.receiveDropped(DROP_LINK_DOWN, to - from);
      return to - from;
    }
    this.#refused = false;
    let frames = 0;
    let bytes = 0;
    let f = from;
    for (; f < to; f++) {
      const length = batch.length[f] as number;
      if (length > LONGEST_STREAM_FRAME) {
        this.counters.receiveDropped(DROP_TOO_LONG, 1);
        continue;
      }
      if (!outbox.append(batch, f)) {
        this.#refused = true;
        break;
      }
      frames++;
      bytes += length;
    }
    this.counters.received(frames, bytes);
    return f - from;
  }

  flush(): void {
    this.#outbox?.flush();
  }

  get hasRoom(): boolean {
    return this.#outbox?.hasRoom ?? true;
  }

  awaitFrames(): boolean {
    return this.#inbox.count > 0;
  }

  awaitRoom(): boolean {
    return this.hasRoom;
  }
}

/** Listens; a UNIX socket file that a dead process left behind is taken over. */
async function listenAt(address: StreamAddress, onConnection: (socket: Socket) => void): Promise<Server> {
  try {
    return await listen(address, onConnection);
  } catch (error) {
    if (!('path' in address) || (error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || (await answers(address.path))) throw error;
    await unlink(address.path);
    return listen(address, onConnection);
  }
}

function listen(address: StreamAddress, onConnection: (socket: Socket) => void): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer({ noDelay: true }, onConnection);
    server.once('error', reject);
    server.listen(address, () => {
      server.off('error', reject);
      resolve(server);
    });
  });
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection({ path });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
