// What front ends may ask for besides rings: memory in slots, configuration, the control queue, status, MTU, notifications by message, the log that migration needs; and the
// several ways in which they say where a ring starts.

import { closeSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { serveVhostUser, type VhostUserOptions, type VhostUserServer } from '#interop/index';
import { MappedRegion } from '#interop/mapped-memory';
import { eventually } from '../backends/eventually.ts';
import { concat, FEATURE, FrontEnd, type FrontEndOptions, frame, longs, MEMORY_BYTES, message, PROTOCOL, REQUEST, u64, words } from './front-end.ts';

const PAGE = 4096;
let directory: string;
let server: VhostUserServer;
const fronts: FrontEnd[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'nicbox-requests-'));
});

afterEach(async () => {
  for (const front of fronts.splice(0)) front.close();
  await server?.close();
  rmSync(directory, { recursive: true, force: true });
});

const socket = (name: string): string => join(directory, name);

function front(name: string, options?: FrontEndOptions): FrontEnd {
  const made = new FrontEnd(socket(name), options);
  fronts.push(made);
  return made;
}

/** A server of a link, a front end on its near side with `options`, and a plain one on the far side. */
async function pair(options: FrontEndOptions, serve: Partial<VhostUserOptions> = {}): Promise<[near: FrontEnd, far: FrontEnd]> {
  server = await serveVhostUser({ sockets: [socket('near'), socket('far')], topology: 'link', ...serve });
  return [front('near', options), await front('far').start()];
}

async function exchange(a: FrontEnd, b: FrontEnd, sequence: number): Promise<void> {
  await Promise.all([a.sendFrames([frame(1, 2, sequence)]), b.sendFrames([frame(2, 1, sequence)])]);
  expect(await b.receiveFrames(1)).toEqual([frame(1, 2, sequence)]);
  expect(await a.receiveFrames(1)).toEqual([frame(2, 1, sequence)]);
}

async function startAll(front: FrontEnd): Promise<void> {
  for (let index = 0; index < front.queues.length; index++) await front.startRing(index);
  for (let index = 0; index < front.queues.length; index++) await front.enable(index);
}

describe('memory slots', () => {
  it('come and go under running rings', async () => {
    const [near, far] = await pair({ protocol: [PROTOCOL.SLOTS] });
    await near.negotiate();
    expect((await near.ask(REQUEST.GET_MAX_MEM_SLOTS)).getUint32(0, true)).toBe(512);
    const slot = (payload: Uint8Array): Uint8Array => concat(longs(0), payload);
    await near.tell(REQUEST.ADD_MEM_REG, slot(near.regionPayload), [near.memoryFd]);
    near.makeQueues();
    await startAll(near);
    await exchange(near, far, 0);
    const more = near.native.memory.memfd('more', MEMORY_BYTES);
    for (let i = 1; i < 20; i++) {
      const region = longs((i + 100) * 2 ** 32, MEMORY_BYTES, i * 2 ** 40, 0);
      await near.tell(REQUEST.ADD_MEM_REG, slot(region), [more]);
      await exchange(near, far, i);
      expect(server.statistics[0]?.session?.regions).toBe(2);
      await near.tell(REQUEST.REM_MEM_REG, slot(region));
      await exchange(near, far, 1000 + i);
    }
    closeSync(more);
    expect(server.statistics[0]?.session?.regions).toBe(1);
    // The one that the rings lie in: nothing can be served any more.
    near.send(message(REQUEST.REM_MEM_REG, slot(near.regionPayload)));
    await near.ask(REQUEST.GET_FEATURES);
    expect(server.statistics[0]?.session).toMatchObject({ regions: 0, running: [false, false] });
  });

  it('that were never added end the connection', async () => {
    const [near] = await pair({ protocol: [PROTOCOL.SLOTS] });
    await near.negotiate();
    near.send(message(REQUEST.REM_MEM_REG, concat(longs(0), near.regionPayload)));
    await near.hangUp();
    await eventually('the connection to be counted', () => server.statistics[0]?.refused === 1);
  });
});

describe('the device', () => {
  it('shows its configuration in pieces of any size, and keeps it', async () => {
    const [near] = await pair({ protocol: [PROTOCOL.CONFIG] }, { macs: ['52:54:00:ab:cd:ef'], mtu: 9000, queuePairs: 4 });
    await near.negotiate();
    const read = async (offset: number, bytes: number): Promise<number[]> => {
      const reply = await near.ask(REQUEST.GET_CONFIG, concat(words(offset, bytes, 0), new Uint8Array(bytes)));
      expect([reply.getUint32(0, true), reply.getUint32(4, true)]).toEqual([offset, bytes]);
      return [...new Uint8Array(reply.buffer, 12)];
    };
    // MAC, link up, four pairs, MTU 9000.
    const config = [0x52, 0x54, 0, 0xab, 0xcd, 0xef, 1, 0, 4, 0, 0x28, 0x23];
    for (let bytes = 1; bytes <= 12; bytes++) expect(await read(0, bytes)).toEqual(config.slice(0, bytes));
    expect(await read(8, 2)).toEqual([4, 0]);
    expect(await read(200, 56)).toEqual(new Array(56).fill(0));
    await expect(near.tell(REQUEST.SET_CONFIG, concat(words(0, 6, 0), new Uint8Array(6)))).rejects.toThrow('refused with 1');
    expect(await read(0, 6)).toEqual(config.slice(0, 6));
  });

  it('keeps its status, and stops its rings when that is cleared or the device is reset', async () => {
    const [near, far] = await pair({ protocol: [PROTOCOL.STATUS, PROTOCOL.RESET] });
    await near.start();
    for (const reset of [REQUEST.SET_STATUS, REQUEST.RESET_DEVICE] as const) {
      await near.tell(REQUEST.SET_STATUS, u64(15n));
      expect((await near.ask(REQUEST.GET_STATUS)).getUint32(0, true)).toBe(15);
      await exchange(near, far, reset);
      const bases = [await near.stopRing(0), await near.stopRing(1)];
      await near.tell(reset, reset === REQUEST.SET_STATUS ? u64(0n) : undefined);
      expect((await near.ask(REQUEST.GET_STATUS)).getUint32(0, true)).toBe(0);
      expect(server.statistics[0]?.session?.running).toEqual([false, false]);
      for (const index of [0, 1]) {
        await near.startRing(index, bases[index]);
        await near.enable(index);
      }
    }
    await exchange(near, far, 99);
  });

  it('gives no frame beyond the MTU it was told', async () => {
    const [near, far] = await pair({ protocol: [PROTOCOL.MTU], features: [FEATURE.MTU] }, { mtu: 9000 });
    await near.start();
    await near.tell(REQUEST.NET_SET_MTU, longs(1000));
    const short = frame(2, 1, 1, 1018);
    await far.sendFrames([frame(2, 1, 0, 1019), short]);
    expect(await near.receiveFrames(1)).toEqual([short]);
    expect(server.statistics[0]?.counters.receiveDrops).toEqual({ 'too-long': 1 });
    near.send(message(REQUEST.NET_SET_MTU, longs(67)));
    await near.hangUp();
  });

  it.each([false, true])('serves the control queue (packed %s)', async (packed) => {
    const features = [FEATURE.MAC, FEATURE.CTRL_VQ, FEATURE.CTRL_RX];
    const [near, far] = await pair({ packed, pairs: 2, control: true, features }, { queuePairs: 2, macs: ['02:00:00:00:00:01'] });
    await near.start();
    // Filters are on until told otherwise: only what is for 02:00:00:00:00:01.
    await far.sendFrames([frame(2, 9, 0), frame(2, 1, 1)]);
    expect(await near.receiveFrames(1)).toEqual([frame(2, 1, 1)]);
    expect(server.statistics[0]?.counters.receiveDrops).toEqual({ filtered: 1 });
    // RX class, promiscuous on.
    expect(await near.command(0, 0, 1)).toBe(0);
    await far.sendFrames([frame(2, 9, 2)]);
    expect(await near.receiveFrames(1)).toEqual([frame(2, 9, 2)]);
    // MQ class: two pairs, and three, which there are not.
    expect(await near.command(4, 0, 2, 0)).toBe(0);
    expect(await near.command(4, 0, 3, 0)).toBe(1);
    expect(await near.command(99, 0)).toBe(1);
    // The second pair transmits only now.
    await near.sendFrames([frame(1, 2, 3)], 1);
    expect(await far.receiveFrames(1)).toEqual([frame(1, 2, 3)]);
  });
});

describe('RSS by the control queue', () => {
  it('spreads over the queues that there are, and shows its limits in configuration space', async () => {
    const RSS = 60;
    const features = [FEATURE.MAC, FEATURE.CTRL_VQ, RSS];
    const [near, far] = await pair({ pairs: 2, control: true, features, protocol: [PROTOCOL.CONFIG] }, { queuePairs: 2, macs: ['02:00:00:00:00:01'] });
    await near.start();
    const config = await near.ask(REQUEST.GET_CONFIG, concat(words(0, 28, 0), new Uint8Array(28)));
    expect([config.getUint16(12 + 8, true), config.getUint8(12 + 17), config.getUint16(12 + 18, true), config.getUint32(12 + 20, true)]).toEqual([
      2, 40, 128, 0x1ff,
    ]);
    const key = Array.from({ length: 40 }, (_, i) => i);
    const spread = (...table: number[]): number[] => [4, 1, 0xff, 1, 0, 0, table.length - 1, 0, 1, 0, ...table.flatMap((pair) => [pair, 0]), 2, 0, 40, ...key];
    const flows = Array.from({ length: 40 }, (_, i) => {
      const bytes = frame(2, 1, i);
      bytes.set([8, 0, 0x45, 0, 0, 50, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, i, 10, 0, 0, 9, 0, i, 0, 80, 0, 30], 12);
      return bytes;
    });
    const chains = (): number[] => [0, 2].map((ring) => server.statistics[0]?.rings[ring]?.chains ?? 0);
    // No command yet: only the first queue.
    await far.sendFrames(flows);
    await near.receiveFrames(40);
    expect(chains()).toEqual([40, 0]);
    expect(await near.command(...spread(1, 1))).toBe(0);
    await far.sendFrames(flows);
    await near.receiveFrames(40);
    expect(chains()).toEqual([40, 40]);
    expect(await near.command(...spread(0, 1))).toBe(0);
    await far.sendFrames(flows);
    expect((await near.receiveFrames(40)).length).toBe(40);
    expect(Math.min(...chains())).toBeGreaterThan(44);
    expect(await near.command(...spread(0, 2))).toBe(1);
    // A queue that the front end takes back is under reset: its frames go nowhere.
    await near.command(...spread(1, 1));
    await near.stopRing(2);
    await far.sendFrames(flows);
    expect(server.statistics[0]?.counters.receiveDrops).toEqual({ 'not-ready': 40 });
  });

  it('is offered where there are queues, HASH_REPORT to who asks for it', async () => {
    server = await serveVhostUser({ sockets: [socket('plain')], queuePairs: 2 });
    const offered = async (name: string): Promise<bigint> => (await front(name).ask(REQUEST.GET_FEATURES)).getBigUint64(0, true);
    const plain = await offered('plain');
    await server.close();
    server = await serveVhostUser({ sockets: [socket('asked')], hashReport: true });
    const asked = await offered('asked');
    expect([51n, 57n, 60n].map((bit) => [(plain >> bit) & 1n, (asked >> bit) & 1n])).toEqual([
      [1n, 1n],
      [0n, 1n],
      [1n, 0n],
    ]);
  });
});

describe('notifications by message', () => {
  it('kick and call in place of descriptors', async () => {
    const [near, far] = await pair({ protocol: [PROTOCOL.BACKEND_REQ, PROTOCOL.INBAND] }, { inBand: true, poll: { maximum: 0 } });
    const { native } = near;
    const listener = native.sockets.listen(socket('channel'));
    const ours = native.sockets.connect(socket('channel'));
    const theirs = native.sockets.accept(listener);
    await near.negotiate();
    await near.tell(REQUEST.SET_BACKEND_REQ_FD, undefined, [theirs]);
    for (const fd of [theirs, listener]) native.close(fd);
    await near.setMemory();
    near.makeQueues();
    for (const index of [0, 1]) {
      await near.tell(REQUEST.SET_VRING_NUM, words(index, near.options.size));
      await near.tell(REQUEST.SET_VRING_ADDR, near.addressPayload(index));
      await near.tell(REQUEST.SET_VRING_KICK, longs(index + 0x100));
      await near.enable(index);
    }
    const queue = near.transmit[0];
    queue?.ring.disableCalls();
    for (let i = 0; i < 5; i++) {
      const at = queue?.reserve() ?? -1;
      near.arena.u8.set(frame(1, 2, i), at);
      queue?.send(64);
      queue?.ring.publish();
      near.receive[0]?.ring.enableCalls();
      await near.tell(REQUEST.VRING_KICK, words(1, 0));
      expect(await far.receiveFrames(1)).toEqual([frame(1, 2, i)]);
      await far.sendFrames([frame(2, 1, i)]);
      const call = new Uint8Array(new ArrayBuffer(20));
      await eventually('a message that calls', () => native.sockets.receive(ours, call, 0, 20, []) === 20);
      // VRING_CALL of ring 0, version 1, 8 bytes.
      expect([...new Uint32Array(call.buffer)]).toEqual([4, 1, 8, 0, 0]);
      expect(await near.receiveFrames(1)).toEqual([frame(2, 1, i)]);
    }
    native.close(ours);
  });

  it('are not needed at all: a ring without a kick is looked at all the time', async () => {
    const [near, far] = await pair({}, { poll: { maximum: 0 } });
    await near.start();
    for (const index of [0, 1]) await near.tell(REQUEST.SET_VRING_KICK, longs(index + 0x100));
    const queue = near.transmit[0];
    for (let i = 0; i < 5; i++) {
      near.arena.u8.set(frame(1, 2, i), queue?.reserve() ?? -1);
      queue?.send(64);
      queue?.ring.publish();
      expect(await far.receiveFrames(1)).toEqual([frame(1, 2, i)]);
    }
  });

  it('are not offered unless asked for', async () => {
    const [near] = await pair({});
    expect((await near.ask(REQUEST.GET_PROTOCOL_FEATURES)).getUint32(0, true) & (1 << PROTOCOL.INBAND)).toBe(0);
  });
});

describe('the log', () => {
  it.each([false, true])(
    'has every page that the data plane wrote, and only while it is on (packed %s)',
    async (packed) => {
      const base = 0x20_0000;
      const [near, far] = await pair({ protocol: [PROTOCOL.LOG_SHMFD], packed, base });
      await near.start();
      const pages = (base + MEMORY_BYTES) / PAGE;
      const bytes = Math.ceil(pages / 64) * 8;
      const fd = near.native.memory.memfd('log', bytes);
      const mapped = new MappedRegion(near.native, fd, 0, bytes);
      const part = mapped.parts[0] as { buffer: SharedArrayBuffer; byteOffset: number };
      const log = new Uint8Array(part.buffer, part.byteOffset, bytes);
      const dirty = (): number[] => Array.from({ length: pages }, (_, page) => page).filter((page) => ((log[page >>> 3] as number) & (1 << (page & 7))) !== 0);
      near.send(message(REQUEST.SET_LOG_BASE, longs(bytes, 0)), [fd]);
      expect((await near.reply())?.getUint32(0, true)).toBe(0);
      closeSync(fd);
      await exchange(near, far, 0);
      expect(dirty()).toEqual([]);
      await near.setFeatures(FEATURE.LOG_ALL);
      const sent = Array.from({ length: 40 }, (_, i) => frame(2, 1, i, 1500));
      const before = near.memory.slabs[0]?.views.u8.slice() as Uint8Array;
      await far.sendFrames(sent);
      expect(await near.receiveFrames(sent.length)).toEqual(sent);
      const stopped = await near.stopRing(0);
      const now = near.memory.slabs[0]?.views.u8 as Uint8Array;
      const logged = new Set(dirty());
      // Pages that hold frames now, of those that differ: the driver's own ring pages differ as well, which it need not log.
      const { addresses } = (near.queues[0] as FrontEnd['queues'][0]).ring;
      const driversOwn = packed ? [] : [addresses.desc, addresses.driver];
      for (let page = 0; page < MEMORY_BYTES / PAGE; page++) {
        const differs = before.subarray(page * PAGE, (page + 1) * PAGE).some((byte, i) => byte !== now[page * PAGE + i]);
        const own = driversOwn.some((address) => Math.floor((address - base) / PAGE) === page);
        if (differs && !own) expect(logged, `page ${page}`).toContain(base / PAGE + page);
      }
      expect(logged.size).toBeGreaterThan(20);
      expect(Math.min(...logged)).toBeGreaterThanOrEqual(base / PAGE);
      await near.setFeatures();
      log.fill(0);
      await near.startRing(0, stopped);
      await exchange(near, far, 1);
      expect(dirty()).toEqual([]);
      mapped.unmap();
    },
    60_000,
  );

  it.each([
    ['of no bytes', 0, 0],
    ['of an odd size', 12, 0],
    ['beyond its file', 8192, 0],
    ['of 2^60 bytes', 2 ** 52, 0],
  ])('%s ends the connection', async (_, bytes, offset) => {
    const [near] = await pair({ protocol: [PROTOCOL.LOG_SHMFD] });
    await near.negotiate();
    const fd = near.native.memory.memfd('log', PAGE);
    near.send(message(REQUEST.SET_LOG_BASE, longs(bytes, offset)), [fd]);
    closeSync(fd);
    await near.hangUp();
  });
});

describe('where a packed ring starts', () => {
  it.each([
    ['QEMU says in both halves', 0x80008000],
    ['DPDK says in one half', 0x8000],
    ['user-mode Linux does not say', 0],
  ])('%s', async (_, base) => {
    const [near, far] = await pair({ packed: true });
    await near.negotiate();
    await near.setMemory();
    near.makeQueues();
    for (const index of [0, 1]) {
      await near.startRing(index, base);
      await near.enable(index);
    }
    await exchange(near, far, 1);
  });

  it('may be 0 after an odd number of rounds', async () => {
    const [near, far] = await pair({ packed: true });
    await near.start();
    const frames = Array.from({ length: 256 }, (_, i) => frame(1, 2, i));
    const [received] = await Promise.all([far.receiveFrames(frames.length), near.sendFrames(frames)]);
    expect(received).toEqual(frames);
    expect(await near.stopRing(1)).toBe(0);
    await near.startRing(1, 0);
    await exchange(near, far, 7);
  });
});
