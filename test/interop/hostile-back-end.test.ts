// Back ends that break the protocol: whatever one answers, or does not, ends that connection with a reason, throws nowhere, and leaves the next one to go on.

import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Log } from '#core/log';
import { Guest, type GuestOptions } from '#guest-sim/guest';
import { MemoryFile, VhostUserBackend } from '#interop/index';
import { Machine } from '#nicbox/machine';
import { eventually, eventuallyBlocking } from '../backends/eventually.ts';

const GET_FEATURES = 1;
const GET_VRING_BASE = 11;
const GET_PROTOCOL_FEATURES = 15;
const GET_QUEUE_NUM = 17;
const GET_INFLIGHT_FD = 31;
/** VERSION_1 and bit 30. */
const FEATURES = (1n << 32n) | (1n << 30n);

const closing: (() => unknown)[] = [];
let directory: string;
let ram: MemoryFile;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'nicbox-hostile-'));
  ram = new MemoryFile(64 * 2 ** 20);
  closing.push(() => ram.close());
});

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
  rmSync(directory, { recursive: true, force: true });
});

/** One reply: request, flags, payload. */
function reply(request: number, payload: bigint, flags = 5, size = 8): Buffer {
  const bytes = Buffer.alloc(20);
  bytes.writeUInt32LE(request, 0);
  bytes.writeUInt32LE(flags, 4);
  bytes.writeUInt32LE(size, 8);
  bytes.writeBigUInt64LE(payload, 12);
  return bytes;
}

/** An in-flight area of two queues of 256. */
function inflightReply(bytes: number, offset: number): Buffer {
  const message = Buffer.alloc(36);
  message.writeUInt32LE(GET_INFLIGHT_FD, 0);
  message.writeUInt32LE(5, 4);
  message.writeUInt32LE(24, 8);
  message.writeUInt32LE(bytes, 12);
  message.writeUInt32LE(offset, 20);
  message.writeUInt16LE(2, 28);
  message.writeUInt16LE(256, 30);
  return message;
}

type Answer = (request: number, payload: Buffer, socket: Socket) => Buffer | undefined;

/** What a sound back end without rings answers. */
const sound: Answer = (request, payload) => {
  if (request === GET_FEATURES) return reply(request, FEATURES);
  if (request === GET_PROTOCOL_FEATURES) return reply(request, 9n);
  if (request === GET_QUEUE_NUM) return reply(request, 1n);
  if (request === GET_VRING_BASE) return reply(request, BigInt(payload.readUInt32LE(0)));
  return undefined;
};

async function backEnd(answer: Answer): Promise<{ readonly path: string; readonly sockets: Socket[] }> {
  const path = join(directory, 's');
  const sockets: Socket[] = [];
  const server: Server = createServer((socket) => {
    sockets.push(socket);
    let bytes = Buffer.alloc(0);
    socket.on('error', () => {});
    socket.on('data', (piece) => {
      bytes = Buffer.concat([bytes, piece]);
      while (bytes.length >= 12 && bytes.length >= 12 + bytes.readUInt32LE(8)) {
        const end = 12 + bytes.readUInt32LE(8);
        const request = bytes.readUInt32LE(0);
        const needsReply = (bytes.readUInt32LE(4) & 8) !== 0;
        const answered = answer(request, bytes.subarray(12, end), socket) ?? (needsReply ? reply(request, 0n) : undefined);
        bytes = bytes.subarray(end);
        if (answered !== undefined && !socket.destroyed) socket.write(answered);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  closing.push(() => {
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => server.close(resolve));
  });
  return { path, sockets };
}

/** A device whose rings that back end serves, and its driver. */
async function deviceOver(path: string, driver: GuestOptions = {}) {
  const log = new Log();
  const said: string[] = [];
  log.listen((record) => said.push(record.message));
  const backend = await VhostUserBackend.connect({ path, memory: ram.memory, log });
  closing.push(() => backend.close());
  const machine = new Machine({ memory: ram.memory, log });
  closing.push(() => machine.close());
  const { net } = machine.addVirtioNet({ mac: '52:54:00:00:00:0a', backend });
  const guest = new Guest(machine.localBus(), driver);
  return { backend, net, guest, said };
}

it.each<[string, Answer, RegExp]>([
  ['another request’s reply', () => reply(GET_QUEUE_NUM, 1n), /the reply to GET_FEATURES is due/],
  ['no reply flag', () => reply(GET_FEATURES, FEATURES, 1), /the reply to GET_FEATURES is due/],
  ['another version', () => reply(GET_FEATURES, FEATURES, 6), /the reply to GET_FEATURES is due/],
  ['a longer payload', () => reply(GET_FEATURES, FEATURES, 5, 0xffffffff), /4294967295 bytes/],
  ['a shorter payload', () => reply(GET_FEATURES, FEATURES, 5, 0), /and 0 bytes/],
  ['an end', (_request, _payload, socket) => void socket.destroy(), /gone|ECONNRESET|EPIPE/],
  ['a legacy device', () => reply(GET_FEATURES, 0n), /legacy/],
  [
    'no queues',
    (request, payload, socket) => (request === GET_QUEUE_NUM ? reply(request, 0n) : sound(request, payload, socket)),
    /serves 0 queue pairs, and 1 are wanted/,
  ],
])('introduced by %s', async (_name, answer, message) => {
  const { path } = await backEnd(answer);
  const before = readdirSync('/proc/self/fd').length;
  await expect(VhostUserBackend.connect({ path, memory: ram.memory, patience: 300 })).rejects.toMatchObject({
    code: 'NICBOX_VHOST_USER_PEER',
    message: expect.stringMatching(message),
  });
  // Node's own ends of the connections go a little later.
  await eventually('nothing to be left', () => readdirSync('/proc/self/fd').length <= before);
});

it.each<[string, Answer, RegExp]>([
  ['refuses the memory table', (request) => (request === 5 ? reply(5, 1n) : undefined), /refused the memory table/],
  ['refuses an address', (request) => (request === 9 ? reply(9, 1n) : undefined), /refused the addresses of ring 0/],
  ['sends what nobody asked for', (request) => (request === 3 ? reply(3, 0n) : undefined), /nothing was asked|is due/],
  ['hangs up in the middle', (request, _payload, socket) => (request === 9 ? void socket.destroy() : undefined), /gone|ECONNRESET|EPIPE/],
])('one that %s leaves the device to the next', async (_name, wrong, message) => {
  let hostile = true;
  const { path } = await backEnd((request, payload, socket) => (hostile ? wrong(request, payload, socket) : undefined) ?? sound(request, payload, socket));
  const { backend, net, guest, said } = await deviceOver(path);
  await eventually('the reason', () => said.some((text) => message.test(text)));
  hostile = false;
  await eventually('a sound one', () => backend.ready);
  guest.step();
  expect(guest.net.broken).toBe('');
  // Every ring is stopped by it as it should be.
  net.pause();
  await eventually('the rings to stop', () => net.paused);
});

it('one that takes packed rings with it and kept no record of them leaves a device that needs a reset', async () => {
  const PACKED = 1n << 34n;
  const { path, sockets } = await backEnd((request, payload, socket) =>
    request === GET_FEATURES ? reply(request, FEATURES | PACKED) : sound(request, payload, socket),
  );
  const { backend, guest, said } = await deviceOver(path, { net: { ring: 'packed' } });
  expect(guest.net.packed).toBe(true);
  await eventually('the rings to run', () => backend.ready);
  for (const socket of sockets) socket.destroy();
  await eventually('the device to say so', () => said.some((message) => message.includes('a packed ring does not tell where it stood')));
});

it.each<[string, () => Buffer, RegExp]>([
  ['no descriptor', () => inflightReply(1 << 20, 4096), /without its descriptor/],
  ['another payload', () => reply(GET_INFLIGHT_FD, 0n), /is due/],
])('one that answers the request for an in-flight area with %s is hung up on', async (_name, answer, message) => {
  const { path } = await backEnd((request, payload, socket) => {
    if (request === GET_PROTOCOL_FEATURES) return reply(request, 9n | (1n << 12n));
    return request === GET_INFLIGHT_FD ? answer() : sound(request, payload, socket);
  });
  const { said } = await deviceOver(path);
  await eventually('the reason', () => said.some((text) => message.test(text)));
});

it('one that never says where a ring stopped is given up after a while', async () => {
  const { path } = await backEnd((request, payload, socket) => (request === GET_VRING_BASE ? undefined : sound(request, payload, socket)));
  const { backend, net } = await deviceOver(path);
  await eventually('the rings to run', () => backend.ready);
  net.pause();
  expect(backend.vringState(0)).toBe('stopping');
  // As a driver that polls a register on this thread sees it: no timer fires meanwhile.
  eventuallyBlocking('the device to be paused all the same', () => net.paused, 20_000);
  expect(backend.vringState(0)).toBe('lost');
});
