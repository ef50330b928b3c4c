// A netdev on one end of a segment and plain memory on the other; raw sockets as its peer, framed here a second time.

import { once } from 'node:events';
import { mkdtempSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { InlineSegment } from '#backends/inline-backend';
import { attachNetdev, type NetdevPort } from '#interop/netdev-port';
import type { StreamAddress } from '#interop/peer-address';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { MemoryPort } from '../net/memory-port.ts';

export function scratch(): string {
  return mkdtempSync(join(tmpdir(), 'nicbox-netdev-'));
}

export interface Cable {
  readonly segment: InlineSegment;
  readonly guest: MemoryPort;
  /** Makes the guest's side send what is in its outbox, or take what waits. */
  look(): void;
  readonly unplug: () => void;
}

export function cable(port: NetdevPort): Cable {
  const segment = new InlineSegment(new Segment(new DirectLink(), { idleRounds: 1 }));
  const guest = new MemoryPort('guest');
  segment.addPort(guest);
  const unplug = attachNetdev(segment, port);
  return { segment, guest, look: () => segment.wake(guest), unplug };
}

/** Length, big endian, then the frame. */
export function framed(...frames: readonly Uint8Array[]): Buffer {
  return Buffer.concat(
    frames.flatMap((frame) => {
      const prefix = Buffer.alloc(4);
      prefix.writeUInt32BE(frame.length);
      return [prefix, frame];
    }),
  );
}

/** A raw peer and all it has read. */
export class RawPeer {
  readonly socket: Socket;
  readonly #pieces: Buffer[] = [];
  bytes = 0;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('error', () => {});
    socket.on('data', (piece: Buffer) => {
      this.#pieces.push(piece);
      this.bytes += piece.length;
    });
  }

  static async call(address: StreamAddress): Promise<RawPeer> {
    const socket = createConnection({ ...address, noDelay: true });
    await once(socket, 'connect');
    return new RawPeer(socket);
  }

  /** The whole frames read so far. */
  get frames(): Buffer[] {
    const read = Buffer.concat(this.#pieces);
    const frames: Buffer[] = [];
    let at = 0;
    while (at + 4 <= read.length) {
      const length = read.readUInt32BE(at);
      if (at + 4 + length > read.length) break;
      frames.push(read.subarray(at + 4, at + 4 + length));
      at += 4 + length;
    }
    return frames;
  }
}

/** A frame of `length` bytes whose every byte depends on `seed` and its place. */
export function patterned(length: number, seed: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 7 + seed * 31 + (i >>> 8)) & 0xff);
}
