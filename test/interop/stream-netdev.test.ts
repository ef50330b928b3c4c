// QEMU's stream netdev protocol against raw sockets: whole and cut frames, lengths no frame has, peers that do not read, connections that end and come back.

import { writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { SimClock } from '#core/clock';
import { Log } from '#core/log';
import { FrameStore } from '#interop/frame-store';
import { formatAddress, parseDatagramAddress, parseStreamAddress, type StreamAddress } from '#interop/peer-address';
import { LONGEST_STREAM_FRAME, StreamDecoder } from '#interop/stream-frames';
import { StreamNetdev, type StreamNetdevOptions } from '#interop/stream-netdev';
import { eventually } from '../backends/eventually.ts';
import { cable, framed, patterned, RawPeer, scratch } from './netdev-kit.ts';

const open: StreamNetdev[] = [];

async function netdev(options: StreamNetdevOptions): Promise<StreamNetdev> {
  const port = new StreamNetdev('netdev', options);
  open.push(port);
  await port.open();
  return port;
}

afterEach(async () => {
  for (const port of open.splice(0)) await port.close();
});

const localTcp: StreamAddress = { host: '127.0.0.1', port: 0 };

describe.each([
  ['TCP', () => localTcp],
  ['UNIX', () => ({ path: join(scratch(), 's') })],
] as const)('stream netdev over %s', (_kind, address) => {
  it('carries frames of every size both ways', async () => {
    const port = await netdev({ listen: address() });
    const { guest, look } = cable(port);
    const peer = await RawPeer.call(port.address as StreamAddress);
    const sizes = [1, 14, 59, 60, 64, 1514, 9018, 65550, LONGEST_STREAM_FRAME];
    const frames = sizes.map((size, i) => patterned(size, i));
    peer.socket.write(framed(...frames));
    await eventually('the frames at the guest', () => guest.inbox.length === frames.length);
    expect(Buffer.concat(guest.inbox.map((f) => f.bytes)).equals(Buffer.concat(frames))).toBe(true);
    expect(guest.inbox.map((f) => f.bytes.length)).toEqual(sizes);
    for (const bytes of frames) guest.outbox.push({ bytes, pieces: [3, 5], misaligned: 1 });
    look();
    await eventually('the frames at the peer', () => peer.frames.length === frames.length);
    expect(Buffer.concat(peer.frames).equals(Buffer.concat(frames))).toBe(true);
    expect(port.counters.snapshot()).toMatchObject({ transmitFrames: frames.length, receiveFrames: frames.length, transmitDrops: {}, receiveDrops: {} });
    peer.socket.destroy();
  });

  it('drops and counts what is sent while nobody is connected', async () => {
    const port = await netdev({ listen: address() });
    const { guest, look } = cable(port);
    expect(port.linkUp).toBe(false);
    guest.outbox.push({ bytes: patterned(64, 1) }, { bytes: patterned(64, 2) });
    look();
    expect(guest.outbox).toHaveLength(0);
    expect(port.counters.snapshot().receiveDrops).toEqual({ 'link-down': 2 });
  });

  it('serves one peer after another, one at a time', async () => {
    const log = new Log();
    const said: string[] = [];
    log.listen((record) => said.push(record.message), ['guest-error']);
    const port = await netdev({ listen: address(), log });
    const { guest } = cable(port);
    const first = await RawPeer.call(port.address as StreamAddress);
    await eventually('the first peer', () => port.connected);
    const second = await RawPeer.call(port.address as StreamAddress);
    await eventually('the second peer to be sent away', () => second.socket.destroyed);
    expect(said.join()).toMatch(/second peer/);
    first.socket.write(framed(patterned(60, 1)));
    await eventually('a frame of the first', () => guest.inbox.length === 1);
    first.socket.destroy();
    await eventually('the link to go down', () => !port.connected);
    const third = await RawPeer.call(port.address as StreamAddress);
    third.socket.write(framed(patterned(60, 3)));
    await eventually('a frame of the third', () => guest.inbox.length === 2);
    third.socket.destroy();
  });

  it('holds its senders back while the peer does not read, and loses nothing', async () => {
    const port = await netdev({ listen: address() });
    const { guest, look } = cable(port);
    const peer = await RawPeer.call(port.address as StreamAddress);
    await eventually('the peer', () => port.connected);
    peer.socket.pause();
    // Far more than the buffers of both ends: 12 MB.
    const total = 1536;
    for (let i = 0; i < total; i++) guest.outbox.push({ bytes: patterned(8000, i) });
    let left = -1;
    await eventually('the sender to be held back', () => {
      look();
      const held = guest.outbox.length === left;
      left = guest.outbox.length;
      return held;
    });
    expect(left).toBeGreaterThan(0);
    peer.socket.resume();
    await eventually('every frame at the peer', () => peer.bytes === total * 8004, 30_000);
    expect(peer.frames.every((frame, i) => frame.equals(patterned(8000, i)))).toBe(true);
    expect(port.counters.snapshot().receiveDrops).toEqual({});
    peer.socket.destroy();
  });

  it('stops reading while its frames find no room, and loses nothing', async () => {
    const port = await netdev({ listen: address() });
    const { guest, look } = cable(port);
    guest.room = 0;
    const peer = await RawPeer.call(port.address as StreamAddress);
    const total = 1536;
    for (let i = 0; i < total; i++) peer.socket.write(framed(patterned(8000, i)));
    let waiting = -1;
    await eventually('the peer to be held back', () => {
      const held = port.connected && peer.socket.writableLength > 0 && peer.socket.writableLength === waiting;
      waiting = peer.socket.writableLength;
      return held;
    });
    expect(guest.inbox).toHaveLength(0);
    for (let room = 100; guest.inbox.length < total; room += 100) {
      guest.room = room;
      look();
      await eventually(`${room} frames at the guest`, () => guest.inbox.length === Math.min(room, total));
    }
    expect(guest.inbox.every((frame, i) => Buffer.compare(frame.bytes, patterned(8000, i)) === 0)).toBe(true);
    expect(port.counters.snapshot().transmitDrops).toEqual({});
    peer.socket.destroy();
  });

  it('closes a connection that announces a length no frame has', async () => {
    const log = new Log();
    const said: string[] = [];
    log.listen((record) => said.push(record.message), ['guest-error']);
    const port = await netdev({ listen: address(), log });
    const { guest } = cable(port);
    for (const length of [LONGEST_STREAM_FRAME + 1, 0x7fffffff, 0x80000000, 0xffffffff]) {
      const before = guest.inbox.length;
      const peer = await RawPeer.call(port.address as StreamAddress);
      const hostile = Buffer.alloc(4);
      hostile.writeUInt32BE(length);
      peer.socket.write(Buffer.concat([framed(patterned(60, 1)), hostile, Buffer.alloc(100)]));
      await eventually(`the connection with length ${length} to end`, () => peer.socket.destroyed);
      expect(guest.inbox.length).toBe(before + 1);
      expect(said.at(-1)).toContain(String(length));
      await eventually('the port to be free again', () => !port.connected);
    }
    expect(port.counters.snapshot().transmitDrops).toEqual({ malformed: 4 });
  });

  it('survives a peer that goes away in the middle of a frame', async () => {
    const port = await netdev({ listen: address() });
    const { guest } = cable(port);
    const stream = framed(patterned(60, 1), patterned(300, 2));
    for (const cut of [64, 65, 66, 67, 68, 69, 200, stream.length - 1]) {
      guest.inbox.length = 0;
      const peer = await RawPeer.call(port.address as StreamAddress);
      peer.socket.end(stream.subarray(0, cut));
      await eventually(`the whole frame before the cut at ${cut}`, () => guest.inbox.length === 1);
      await eventually('the connection to end', () => !port.connected);
      expect(guest.inbox).toHaveLength(1);
    }
    // Cut exactly between frames, nothing was lost; the other seven cuts lost one each.
    expect(port.counters.snapshot().transmitDrops).toEqual({ 'link-down': 7 });
    const peer = await RawPeer.call(port.address as StreamAddress);
    peer.socket.write(stream);
    await eventually('frames of the next peer', () => guest.inbox.length === 3);
    peer.socket.destroy();
  });

  it('calls its peer again, with growing pauses, until it is there and whenever it went away', async () => {
    const where = address();
    const clock = new SimClock();
    // A server that is there, then not: its address must stay the same.
    const calls: RawPeer[] = [];
    const server = createServer((socket) => calls.push(new RawPeer(socket)));
    await new Promise<void>((resolve) => server.listen(where, resolve));
    const bound = server.address();
    const at: StreamAddress = typeof bound === 'string' ? { path: bound } : { host: '127.0.0.1', port: bound?.port ?? 0 };
    const port = await netdev({ connect: at, clock, backoff: { first: 100e6, limit: 350e6 } });
    const { guest } = cable(port);
    await eventually('the first call', () => calls.length === 1 && port.connected);
    await new Promise<void>((resolve) => {
      server.close(() => resolve());
      calls[0]?.socket.destroy();
    });
    const pauses: number[] = [];
    for (let attempt = 0; attempt < 4; attempt++) {
      await eventually('a pause to begin', () => clock.nextDeadline !== undefined);
      pauses.push((clock.nextDeadline as number) - clock.now());
      clock.advanceTo(clock.nextDeadline as number);
    }
    expect(pauses).toEqual([100e6, 200e6, 350e6, 350e6]);
    await eventually('the next pause', () => clock.nextDeadline !== undefined);
    const again = createServer((socket) => calls.push(new RawPeer(socket)));
    await new Promise<void>((resolve) => again.listen(at, resolve));
    clock.advanceTo(clock.nextDeadline as number);
    await eventually('the second call', () => calls.length === 2 && port.connected);
    calls[1]?.socket.write(framed(patterned(60, 9)));
    await eventually('a frame', () => guest.inbox.length === 1);
    calls[1]?.socket.destroy();
    await eventually('the pause after a connection that worked', () => clock.nextDeadline !== undefined);
    expect((clock.nextDeadline as number) - clock.now()).toBe(100e6);
    await port.close();
    expect(clock.nextDeadline).toBeUndefined();
    again.close();
  });
});

it('takes over a UNIX socket that a dead process left, and not one that is served', async () => {
  const path = join(scratch(), 's');
  const first = await netdev({ listen: { path } });
  await expect(netdev({ listen: { path } })).rejects.toMatchObject({ code: 'EADDRINUSE' });
  const left = join(scratch(), 'left');
  writeFileSync(left, '');
  const second = await netdev({ listen: { path: left } });
  expect(second.address).toEqual({ path: left });
  expect(first.address).toEqual({ path });
});

describe('the stream decoder', () => {
  const frames = [patterned(1, 1), patterned(60, 2), patterned(0, 3), patterned(300, 4), patterned(2, 5)];
  const stream = framed(...frames);

  /** The store's frames as one string: comparing that is quick. */
  function contents(store: FrameStore): string {
    return Array.from({ length: store.count }, (_, i) => hex(store.views.u8.subarray(store.offsetOf(i), store.offsetOf(i) + store.lengthOf(i)))).join(' ');
  }

  function hex(bytes: Uint8Array): string {
    return Buffer.from(bytes).toString('hex');
  }
  const expected = frames
    .filter((frame) => frame.length > 0)
    .map(hex)
    .join(' ');

  it('does not mind where the stream is cut: at every byte, and once more behind it', () => {
    for (let first = 0; first <= stream.length; first++)
      for (let second = first; second <= stream.length; second += 29) {
        const store = new FrameStore(1 << 18);
        const decoder = new StreamDecoder(store);
        let taken = 0;
        for (const piece of [stream.subarray(0, first), stream.subarray(first, second), stream.subarray(second)]) taken += decoder.decode(piece, 0);
        if (taken !== stream.length || decoder.emptyFrames !== 1 || decoder.midFrame || contents(store) !== expected)
          expect.fail(`cut at ${first} and ${second}: took ${taken} of ${stream.length} bytes, frames ${contents(store)}`);
      }
  });

  it('takes single bytes', () => {
    const store = new FrameStore();
    const decoder = new StreamDecoder(store);
    for (const byte of stream) expect(decoder.decode(Uint8Array.of(byte), 0)).toBe(1);
    expect(contents(store)).toBe(expected);
  });

  it('stops where the store is full and goes on there', () => {
    const store = new FrameStore(1 << 18);
    const decoder = new StreamDecoder(store);
    const long = Array.from({ length: 12 }, (_, i) => patterned(50_000, i));
    const all = framed(...long);
    const seen: string[] = [];
    let at = 0;
    while (at < all.length) {
      const next = decoder.decode(all, at);
      expect(next).toBeGreaterThan(at);
      at = next;
      seen.push(contents(store));
      store.release(store.count);
    }
    expect(seen.length).toBeGreaterThan(1);
    expect(seen.join(' ')).toBe(long.map(hex).join(' '));
  });
});

describe('addresses', () => {
  it.each([
    ['unix:/run/a b', { path: '/run/a b' }],
    ['tcp:127.0.0.1:5000', { host: '127.0.0.1', port: 5000 }],
    ['example.org:80', { host: 'example.org', port: 80 }],
    [':7', { host: '127.0.0.1', port: 7 }],
    ['[::1]:9', { host: '::1', port: 9 }],
  ])('%s', (text, address) => {
    expect(parseStreamAddress(text)).toEqual(address);
    expect(parseStreamAddress(formatAddress(address as StreamAddress))).toEqual(address);
  });

  it.each(['', 'unix:', 'host', 'host:', 'host:65536', 'host:1x', '::1:9'])("refuses '%s' and says how to write one", (text) => {
    expect(() => parseStreamAddress(text)).toThrow(expect.objectContaining({ code: 'ERR_NICBOX_ADDRESS' }));
  });

  it('reads datagram addresses', () => {
    expect(parseDatagramAddress('udp:127.0.0.1:9')).toEqual({ host: '127.0.0.1', port: 9 });
  });
});
