// QEMU's datagram netdev protocol (`-netdev dgram,...`, `-netdev socket,udp=` of older versions) as a port: one frame in each UDP datagram, between two
// fixed addresses. Node has no UNIX datagram sockets and a multicast bus has no peer to hold to, so both are left out. A datagram that finds no room is
// dropped and counted, as on any such link; frames towards the peer are held back while the socket is behind.

import { createSocket, type Socket } from 'node:dgram';
import { isIPv6 } from 'node:net';
import { copyBytes } from '#core/copy';
import type { ByteViews } from '#core/guest-memory';
import { Log } from '#core/log';
import { DROP_LINK_DOWN, DROP_MALFORMED, DROP_RING_FULL, DROP_TOO_LONG, PortCounters } from '#net/counters';
import type { FrameBatch } from '#net/port';
import { FrameStore } from './frame-store.ts';
import type { NetdevPort } from './netdev-port.ts';
import type { InternetAddress } from './peer-address.ts';

export interface DatagramNetdevOptions {
  /** Where the peer sends to. Port 0: any free one, see `address`. */
  readonly local: InternetAddress;
  /** The peer. Datagrams from anywhere else are not seen. */
  readonly remote: InternetAddress;
  readonly log?: Log;
}

/** Of a UDP datagram over IPv4. */
const LONGEST_DATAGRAM = 65507;

export class DatagramNetdev implements NetdevPort {
  readonly name: string;
  readonly accepts = 0;
  readonly counters = new PortCounters();
  onReady: (() => void) | undefined;
  readonly #local: InternetAddress;
  readonly #remote: InternetAddress;
  readonly #log: Log;
  readonly #inbox = new FrameStore();
  readonly #outbox = new FrameStore();
  /** Of the outbox's frames, those the socket has. */
  #sending = 0;
  #refused = false;
  #socket: Socket | undefined;

  constructor(name: string, options: DatagramNetdevOptions) {
    this.name = name;
    this.#local = options.local;
    this.#remote = options.remote;
    this.#log = options.log ?? new Log(name);
  }

  /** Binds the local address. Rejects when it cannot be had. */
  async open(): Promise<void> {
    const socket = createSocket(isIPv6(this.#local.host) ? 'udp6' : 'udp4');
    await settled(socket, 'listening', () => socket.bind({ address: this.#local.host, port: this.#local.port, exclusive: true }));
    // Connected: the kernel lets only the peer's datagrams through.
    await settled(socket, 'connect', () => socket.connect(this.#remote.port, this.#remote.host));
    socket.on('error', (error) => this.#log.trace(error.message));
    socket.on('message', (bytes) => this.#receive(bytes));
    this.#socket = socket;
    this.onReady?.();
  }

  get address(): InternetAddress | undefined {
    const bound = this.#socket?.address();
    return bound === undefined ? undefined : { host: bound.address, port: bound.port };
  }

  async close(): Promise<void> {
    const socket = this.#socket;
    if (socket === undefined) return;
    this.#socket = undefined;
    await new Promise<void>((resolve) => socket.close(() => resolve()));
    this.onReady?.();
  }

  #receive(bytes: Uint8Array): void {
    if (bytes.length === 0) {
      this.counters.transmitDropped(DROP_MALFORMED, 1);
      return;
    }
    const offset = this.#inbox.reserve(bytes.length);
    if (offset < 0) {
      this.counters.transmitDropped(DROP_RING_FULL, 1);
      return;
    }
    this.#inbox.views.u8.set(bytes, offset);
    this.#inbox.commit(bytes.length);
    this.onReady?.();
  }

  get linkUp(): boolean {
    return this.#socket !== undefined;
  }

  collect(batch: FrameBatch, frames: number, bytes: number): number {
    return this.#inbox.append(batch, frames, bytes);
  }

  complete(batch: FrameBatch, done: number): void {
    let bytes = 0;
    for (let f = 0; f < done; f++) bytes += batch.length[f] as number;
    this.counters.transmitted(done, bytes);
    this.#inbox.release(done);
  }

  deliver(batch: FrameBatch, from: number, to: number): number {
    const outbox = this.#outbox;
    let frames = 0;
    let bytes = 0;
    let f = from;
    this.#refused = false;
    for (; f < to; f++) {
      const length = batch.length[f] as number;
      if (length > LONGEST_DATAGRAM) {
        this.counters.receiveDropped(DROP_TOO_LONG, 1);
        continue;
      }
      let at = outbox.reserve(length);
      if (at < 0) {
        this.#refused = true;
        break;
      }
      const { segments } = batch;
      const first = batch.firstSegment[f] as number;
      const end = first + (batch.segmentCount[f] as number);
      for (let s = first; s < end; s++) {
        const run = segments.length[s] as number;
        copyBytes(outbox.views, at, segments.views[s] as ByteViews, segments.offset[s] as number, run);
        at += run;
      }
      outbox.commit(length);
      frames++;
      bytes += length;
    }
    this.counters.received(frames, bytes);
    return f - from;
  }

  flush(): void {
    const socket = this.#socket;
    if (socket === undefined) return;
    const outbox = this.#outbox;
    for (; this.#sending < outbox.count; this.#sending++) {
      const from = outbox.offsetOf(this.#sending);
      // Node keeps the bytes until it calls back, in order; one view and one call each is what its API asks.
      socket.send(outbox.views.u8, from, outbox.lengthOf(this.#sending), this.#sent);
    }
  }

  readonly #sent = (error: Error | null): void => {
    // Nobody is there (yet): the datagram is lost as it would be on a wire without a peer.
    if (error !== null) this.counters.receiveDropped(DROP_LINK_DOWN, 1);
    this.#sending--;
    this.#outbox.release(1);
    if (this.#refused && this.hasRoom) this.onReady?.();
  };

  get hasRoom(): boolean {
    return this.#outbox.hasRoom;
  }

  awaitFrames(): boolean {
    return this.#inbox.count > 0;
  }

  awaitRoom(): boolean {
    return this.hasRoom;
  }
}

function settled(socket: Socket, event: string, begin: () => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const failed = (error: Error): void => {
      socket.close();
      reject(error);
    };
    socket.once('error', failed);
    socket.once(event, () => {
      socket.off('error', failed);
      resolve();
    });
    begin();
  });
}
