// Frames and control commands over the rings of a bench.

import type { Bench, Queue } from './bench.ts';
import { ACK_ERR, headerBytes, type NetHeader, parseHeader } from './layout.ts';
import type { Part, Used } from './raw-ring.ts';
import type { WireOffload } from './target.ts';

/** A frame as the device wrote it into receive buffers. */
export interface Received {
  readonly header: NetHeader;
  readonly bytes: Uint8Array;
  /** The buffers it came in: used entries, and how large each was. */
  readonly used: readonly Used[];
  readonly capacities: readonly number[];
}

export interface TransmitOptions {
  readonly header?: Partial<NetHeader>;
  /** Queue pair, from 0. */
  readonly pair?: number;
  /** Lengths of the first pieces that header and frame are cut into; the rest is one. Default: one piece. */
  readonly pieces?: readonly number[];
  readonly indirect?: 'all' | 'tail';
  readonly strayIds?: boolean;
}

export interface Answer {
  /** 0 OK, 1 ERR; 255: not written. */
  readonly ack: number;
  readonly result: Uint8Array;
  /** Used length. */
  readonly length: number;
}

export interface CommandOptions {
  /** Bytes of writable space after the ack. */
  readonly result?: number;
  /** How to cut class, command and data. Default: the header and the data apart. */
  readonly pieces?: readonly number[];
  readonly indirect?: 'all' | 'tail';
}

export class NetBench {
  readonly #bench: Bench;
  pairs = 1;
  controlIndex = -1;
  /** Receive buffers by queue and token. */
  readonly #posted = new Map<number, Map<number, readonly Part[]>>();

  constructor(bench: Bench) {
    this.#bench = bench;
  }

  /** virtio 1.4 5.1.9: as far as the last field that was negotiated. */
  get headerSize(): number {
    const b = this.#bench;
    // virtio 1.4 5.1.9.1: by the legacy interface num_buffers is there with MRG_RXBUF only.
    if (!b.has('VERSION_1')) return b.has('MRG_RXBUF') ? 12 : 10;
    if (b.has('OUT_NET_HEADER') || b.has('IPSEC')) return 32;
    if (b.has('HOST_UDP_TUNNEL_GSO') || b.has('GUEST_UDP_TUNNEL_GSO')) return 24;
    return b.has('HASH_REPORT') ? 20 : 12;
  }

  receiveQueue(pair = 0): Queue {
    return this.#bench.queue(2 * pair);
  }

  transmitQueue(pair = 0): Queue {
    return this.#bench.queue(2 * pair + 1);
  }

  // ---- receive ----

  /** `count` buffers of one piece for each receive queue. */
  async post(count: number, size: number): Promise<void> {
    for (let pair = 0; pair < this.pairs; pair++) {
      const most = this.receiveQueue(pair).ring.place.size;
      for (let n = 0; n < Math.min(count, most); n++) await this.add(pair, [size]);
      await this.#bench.kick(2 * pair);
    }
  }

  /** Adds one buffer of these pieces, not exposed yet. Each is filled with a pattern, so that what is not written shows. */
  async add(pair: number, sizes: readonly number[], indirect?: 'all' | 'tail'): Promise<number> {
    const { session } = this.#bench;
    const parts = await Promise.all(
      sizes.map(async (length) => {
        const address = session.allocate(length);
        await session.target.memoryWrite(address, new Uint8Array(length).fill(0xa5));
        return { address, length, writable: true };
      }),
    );
    const queue = this.receiveQueue(pair);
    const token = await queue.ring.add(parts, indirect ? { indirect } : {});
    this.#buffers(queue.index).set(token, parts);
    return token;
  }

  #buffers(index: number): Map<number, readonly Part[]> {
    const buffers = this.#posted.get(index) ?? new Map<number, readonly Part[]>();
    this.#posted.set(index, buffers);
    return buffers;
  }

  /** Forgets what was posted to a queue that was reset. */
  forget(index: number): void {
    this.#posted.delete(index);
  }

  /** The bytes of a posted buffer, whether it came back or not. */
  async peek(index: number, token: number): Promise<Uint8Array> {
    const out: Uint8Array[] = [];
    for (const part of this.#buffers(index).get(token) ?? []) out.push(await this.#bench.session.read(part.address, part.length));
    return concat(out);
  }

  /** Frames that came in on a pair since the last call. Their buffers are not posted again. */
  async received(pair = 0): Promise<Received[]> {
    const { session } = this.#bench;
    await session.target.settle();
    const queue = this.receiveQueue(pair);
    const used = await queue.ring.used();
    const buffers = this.#buffers(queue.index);
    const frames: Received[] = [];
    for (let i = 0; i < used.length; ) {
      const first = used[i] as Used;
      const parts = session.found(buffers.get(first.token), `receive queue ${queue.index} gave back buffer ${first.token}, which it was not given`);
      const header = parseHeader(await this.#gather(parts, first.length), this.headerSize);
      const count = this.#bench.has('MRG_RXBUF') ? Math.max(1, header.numBuffers) : 1;
      const members = used.slice(i, i + count);
      const pieces: Uint8Array[] = [];
      const capacities: number[] = [];
      for (const member of members) {
        const list = session.found(buffers.get(member.token), `receive queue ${queue.index} gave back buffer ${member.token}, which it was not given`);
        buffers.delete(member.token);
        capacities.push(list.reduce((sum, part) => sum + part.length, 0));
        pieces.push(await this.#gather(list, member.length));
      }
      frames.push({ header, bytes: concat(pieces).subarray(this.headerSize), used: members, capacities });
      i += Math.max(members.length, 1);
    }
    return frames;
  }

  /** The first `length` bytes of a buffer. */
  async #gather(parts: readonly Part[], length: number): Promise<Uint8Array> {
    const out: Uint8Array[] = [];
    let left = length;
    for (const part of parts) {
      const piece = Math.min(left, part.length);
      if (piece > 0) out.push(await this.#bench.session.read(part.address, piece));
      left -= piece;
    }
    return concat(out);
  }

  /** Puts a frame on the wire and takes what the device delivers on a pair. */
  async inject(frame: Uint8Array, offload?: WireOffload, pair = 0): Promise<Received[]> {
    await this.#bench.session.send(frame, offload);
    return this.received(pair);
  }

  /** The same where it has to arrive: what happens otherwise is not what the case is about. */
  async arrives(frame: Uint8Array, offload?: WireOffload, pair = 0): Promise<Received> {
    return this.#bench.session.found((await this.inject(frame, offload, pair))[0], 'a frame that was put on the wire did not arrive');
  }

  // ---- transmit ----

  /** Adds a frame to a transmit ring, not exposed yet. */
  async addFrame(frame: Uint8Array, options: TransmitOptions = {}): Promise<number> {
    const { session } = this.#bench;
    const bytes = concat([headerBytes(options.header ?? {}, this.headerSize), frame]);
    const token = await this.transmitQueue(options.pair).ring.add(await this.#cut(bytes, options.pieces ?? []), {
      ...(options.indirect && { indirect: options.indirect }),
      ...(options.strayIds && { strayIds: true }),
    });
    session.note(`transmit buffer ${token}: ${bytes.length} bytes`);
    return token;
  }

  /** Lays bytes out in pieces, each in memory of its own. */
  async #cut(bytes: Uint8Array, lengths: readonly number[]): Promise<Part[]> {
    const { session } = this.#bench;
    const parts: Part[] = [];
    let at = 0;
    for (const length of [...lengths, Infinity]) {
      const piece = Math.min(length, bytes.length - at);
      if (piece <= 0) break;
      const address = session.allocate(piece, 2) + (parts.length & 1);
      session.allocate(2, 1);
      await session.target.memoryWrite(address, bytes.subarray(at, at + piece));
      parts.push({ address, length: piece });
      at += piece;
    }
    return parts;
  }

  /** Sends a frame; returns what came out on the wire. */
  async transmit(frame: Uint8Array, options: TransmitOptions = {}): Promise<Uint8Array[]> {
    await this.addFrame(frame, options);
    await this.#bench.kick(2 * (options.pair ?? 0) + 1);
    return this.#bench.session.sent();
  }

  // ---- control ----

  /** Carries a control command out. What does not come back at all is not what cases are about. */
  async command(group: number, command: number, data: Uint8Array | readonly number[] = [], options: CommandOptions = {}): Promise<Answer> {
    const { session } = this.#bench;
    const queue = this.#bench.queue(this.controlIndex);
    const bytes = concat([Uint8Array.of(group, command), Uint8Array.from(data)]);
    const readable = await this.#cut(bytes, options.pieces ?? [2]);
    const space = 1 + (options.result ?? 0);
    const address = session.allocate(space);
    await session.write(address, new Uint8Array(space).fill(0xff));
    const token = await queue.ring.add([...readable, { address, length: space, writable: true }], options.indirect ? { indirect: options.indirect } : {});
    session.note(`control class ${group} command ${command}`);
    await this.#bench.kick(queue.index);
    const done = session.found(
      (await queue.ring.used()).find((used) => used.token === token),
      `control command ${group}/${command} did not come back`,
    );
    const answer = await session.read(address, space);
    session.note(`ack ${answer[0]}`);
    return { ack: answer[0] as number, result: answer.subarray(1), length: done.length };
  }

  /** The same where it has to succeed for the case to go on. */
  async commanded(group: number, command: number, data: Uint8Array | readonly number[] = [], options: CommandOptions = {}): Promise<Answer> {
    const answer = await this.command(group, command, data, options);
    this.#bench.session.ensure(answer.ack !== ACK_ERR && answer.ack !== 0xff, `control command ${group}/${command} was refused`, answer.ack);
    return answer;
  }
}

export function concat(pieces: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}
