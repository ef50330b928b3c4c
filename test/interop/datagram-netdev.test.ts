// QEMU's datagram netdev protocol against a raw UDP socket, and over a worker's segment between two of our own.

import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { afterEach, expect, it } from 'vitest';
import { VhostPool } from '#backends/vhost-pool';
import { BellLoop } from '#core/bell-loop';
import { DatagramNetdev } from '#interop/datagram-netdev';
import { attachNetdevToWorker } from '#interop/netdev-port';
import type { InternetAddress, StreamAddress } from '#interop/peer-address';
import { StreamNetdev } from '#interop/stream-netdev';
import { eventually } from '../backends/eventually.ts';
import { cable, framed, patterned, RawPeer } from './netdev-kit.ts';

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function udp(): Promise<{ socket: Socket; port: number; got: Buffer[] }> {
  const socket = createSocket('udp4');
  const got: Buffer[] = [];
  socket.on('message', (bytes: Buffer) => got.push(bytes));
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  ends.push(() => socket.close());
  return { socket, port: socket.address().port, got };
}

async function netdev(remote: number): Promise<DatagramNetdev> {
  const port = new DatagramNetdev('netdev', { local: { host: '127.0.0.1', port: 0 }, remote: { host: '127.0.0.1', port: remote } });
  await port.open();
  ends.push(() => port.close());
  return port;
}

it('carries one frame in each datagram, both ways', async () => {
  const peer = await udp();
  const port = await netdev(peer.port);
  const { guest, look } = cable(port);
  const frames = [1, 60, 64, 1514, 9018, 60_000].map(patterned);
  for (const frame of frames) {
    peer.socket.send(frame, port.address?.port);
    const expected = guest.inbox.length + 1;
    await eventually('a frame at the guest', () => guest.inbox.length === expected);
  }
  expect(guest.inbox.every((f, i) => Buffer.compare(f.bytes, frames[i] as Uint8Array) === 0)).toBe(true);
  for (const bytes of frames) {
    guest.outbox.push({ bytes, pieces: [5], misaligned: 3 });
    look();
    const expected = peer.got.length + 1;
    await eventually('a frame at the peer', () => peer.got.length === expected);
  }
  expect(peer.got.every((f, i) => f.equals(frames[i] as Uint8Array))).toBe(true);
});

it('hears its peer alone', async () => {
  const peer = await udp();
  const stranger = await udp();
  const port = await netdev(peer.port);
  const { guest } = cable(port);
  stranger.socket.send(patterned(60, 1), port.address?.port);
  peer.socket.send(patterned(60, 2), port.address?.port);
  await eventually("the peer's frame", () => guest.inbox.length > 0);
  expect(guest.inbox.map((f) => f.bytes)).toEqual([patterned(60, 2)]);
});

it('drops and counts what no datagram holds, what nobody takes, and empty datagrams', async () => {
  const peer = await udp();
  const port = await netdev(peer.port);
  const { guest, look } = cable(port);
  guest.outbox.push({ bytes: patterned(65_508, 1) }, { bytes: patterned(60, 2) });
  look();
  await eventually('the frame behind the long one', () => peer.got.length === 1);
  expect(port.counters.snapshot().receiveDrops).toEqual({ 'too-long': 1 });
  peer.socket.send('', port.address?.port);
  await eventually('the empty one to be counted', () => port.counters.snapshot().transmitDrops.malformed === 1);
  guest.room = 0;
  // More than the store has places for; the kernel may drop some before that, so send until one was refused.
  await eventually('a full store to drop', () => {
    for (let i = 0; i < 64; i++) peer.socket.send(patterned(1000, i), port.address?.port);
    return (port.counters.snapshot().transmitDrops['ring-full'] ?? 0) > 0;
  });
});

it('goes on when nobody is at the other end, and when somebody comes', async () => {
  const gone = await udp();
  const { port: where } = gone;
  gone.socket.close();
  ends.length = 0;
  const port = await netdev(where);
  const { guest, look } = cable(port);
  for (let i = 0; i < 10; i++) {
    guest.outbox.push({ bytes: patterned(60, i) });
    look();
    await new Promise(setImmediate);
  }
  const socket = createSocket('udp4');
  let got = 0;
  socket.on('message', () => got++);
  socket.bind(where, '127.0.0.1');
  await once(socket, 'listening');
  ends.push(() => socket.close());
  await eventually('frames at whoever came', () => {
    guest.outbox.push({ bytes: patterned(60, 1) });
    look();
    return got > 0;
  });
});

it("joins a stream and a datagram peer on a worker's segment", async () => {
  const pool = new VhostPool({ threads: 1 });
  ends.push(() => pool.close());
  const loop = new BellLoop();
  ends.push(() => loop.close());
  const segment = pool.worker().segment({ kind: 'switch' });
  const peer = await udp();
  const datagram = await netdev(peer.port);
  const stream = new StreamNetdev('stream', { listen: { host: '127.0.0.1', port: 0 } });
  await stream.open();
  ends.push(() => stream.close());
  ends.push(attachNetdevToWorker(segment, datagram, loop), attachNetdevToWorker(segment, stream, loop));
  const raw = await RawPeer.call(stream.address as StreamAddress);
  ends.push(() => raw.socket.destroy());
  const there = Uint8Array.from([...[2, 0, 0, 0, 0, 0xb], ...[2, 0, 0, 0, 0, 0xa], 8, 0, ...patterned(100, 1)]);
  const back = Uint8Array.from([...[2, 0, 0, 0, 0, 0xa], ...[2, 0, 0, 0, 0, 0xb], 8, 0, ...patterned(100, 2)]);
  await eventually('a flooded frame at the datagram peer', () => {
    if (peer.got.length === 0) raw.socket.write(framed(there));
    return peer.got.length > 0;
  });
  expect(new Uint8Array(peer.got[0] as Buffer)).toEqual(there);
  const address = datagram.address as InternetAddress;
  await eventually('a switched frame at the stream peer', () => {
    if (raw.frames.length === 0) peer.socket.send(back, address.port);
    return raw.frames.length > 0;
  });
  expect(new Uint8Array(raw.frames[0] as Buffer)).toEqual(back);
});
