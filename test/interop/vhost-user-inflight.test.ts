// A back end that dies: with the in-flight area that the front end keeps, and the record of turns beside the sockets, the next process goes on where it was, frame for frame.

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { TurnJournal } from '#backends/turn-journal';
import type { TransmitQueue } from '#guest-sim/net-transmit';
import { serveVhostUser } from '#interop/index';
import { InflightArea } from '#interop/inflight-area';
import { MappedRegion } from '#interop/mapped-memory';
import { openNative } from '#interop/native';
import { TurnFile } from '#interop/turn-file';
import { eventually } from '../backends/eventually.ts';
import { concat, FrontEnd, frame, longs, message, PROTOCOL, REQUEST } from './front-end.ts';

const native = openNative();
const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
let directory: string;
let server: ChildProcess | undefined;
const fronts: FrontEnd[] = [];
const descriptors: number[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'nicbox-inflight-'));
});

afterEach(async () => {
  for (const front of fronts.splice(0)) front.close();
  for (const fd of descriptors.splice(0)) native.close(fd);
  await kill();
  rmSync(directory, { recursive: true, force: true });
});

const path = (name: string): string => join(directory, name);

/** The command, in a process that can be killed. */
async function serve(): Promise<void> {
  let said = '';
  const args = [main, 'serve', 'vhost-user', '--link', '--socket', path('a'), '--socket', path('b')];
  server = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  server.stderr?.on('data', (piece: Buffer) => {
    said += piece;
  });
  await eventually('its sockets', () => said.includes('listening on'));
}

async function kill(): Promise<void> {
  const dying = server;
  server = undefined;
  if (dying === undefined || dying.exitCode !== null) return;
  const over = new Promise((resolve) => dying.once('exit', resolve));
  dying.kill('SIGKILL');
  await over;
}

const OPTIONS = { protocol: [PROTOCOL.INFLIGHT, PROTOCOL.BASE_INFLIGHT] };

interface Kept {
  readonly description: Uint8Array;
  readonly fd: number;
}

async function getInflight(front: FrontEnd, queues = 2, size = front.options.size): Promise<Kept> {
  front.send(message(REQUEST.GET_INFLIGHT_FD, concat(longs(0, 0), new Uint8Array(Uint16Array.of(queues, size, 0, 0).buffer))));
  const { payload, fd } = await front.replyWithFd();
  expect(fd).toBeGreaterThan(0);
  descriptors.push(fd);
  return { description: new Uint8Array(payload.buffer.slice(payload.byteOffset, payload.byteOffset + 24)), fd };
}

const setInflight = (front: FrontEnd, { description, fd }: Kept): Promise<void> => front.tell(REQUEST.SET_INFLIGHT_FD, description, [fd]);

async function startRings(front: FrontEnd): Promise<void> {
  // A base that was right once: no front end can know a better one.
  for (let index = 0; index < front.queues.length; index++) await front.startRing(index);
  for (let index = 0; index < front.queues.length; index++) await front.enable(index);
}

/** First time: asks for an area, and starts. */
async function begin(front: FrontEnd): Promise<Kept> {
  await front.negotiate();
  const kept = await getInflight(front);
  await setInflight(front, kept);
  await front.setMemory();
  front.makeQueues();
  await startRings(front);
  return kept;
}

/** Another time, with another process: gives the area back. */
async function again(front: FrontEnd, socket: string, kept: Kept): Promise<void> {
  front.reconnect(socket);
  await front.negotiate();
  await setInflight(front, kept);
  await front.setMemory();
  await startRings(front);
}

/** Sends frames as room comes and takes what has come; says which frames arrived. */
class Traffic {
  readonly arrived: number[] = [];
  sent = 0;
  readonly #from: FrontEnd;
  readonly #to: FrontEnd;

  constructor(from: FrontEnd, to: FrontEnd) {
    this.#from = from;
    this.#to = to;
  }

  step(limit = Number.POSITIVE_INFINITY): void {
    const [transmit] = this.#from.transmit as [TransmitQueue];
    transmit.reclaim();
    for (let at = 0; this.sent < limit; this.sent++) {
      at = transmit.reserve();
      if (at < 0) break;
      this.#from.arena.u8.set(frame(1, 2, this.sent), at);
      transmit.send(64);
    }
    transmit.flush();
    const [receive] = this.#to.receive;
    receive?.poll(256, {
      receive: (got) => {
        let sequence = 0;
        for (let i = 14; i < 18; i++) sequence = sequence * 256 + got.byte(i);
        this.arrived.push(sequence);
      },
    });
    if (receive?.broken !== '') throw new Error(receive?.broken);
  }

  async until(what: string, holds: () => boolean, limit?: number): Promise<void> {
    for (const deadline = performance.now() + 20_000; !holds(); await turn()) {
      this.step(limit);
      if (performance.now() > deadline) throw new Error(`waited 20 s for ${what}: ${this.sent} sent, ${this.arrived.length} arrived`);
    }
  }
}

describe.each([false, true])('a process that is killed (packed %s)', (packed) => {
  it('is followed by one that loses and repeats no frame', async () => {
    await serve();
    const [a, b] = [new FrontEnd(path('a'), { ...OPTIONS, packed }), new FrontEnd(path('b'), { ...OPTIONS, packed, size: 128 })];
    fronts.push(a, b);
    const kept = [await begin(a), await begin(b)] as const;
    const traffic = new Traffic(a, b);
    for (let round = 0; round < 4; round++) {
      const from = traffic.arrived.length;
      await traffic.until(`frames in round ${round}`, () => traffic.arrived.length > from + 3000 + 517 * round);
      await kill();
      expect(existsSync(path('a.turns'))).toBe(true);
      await serve();
      // In either order.
      const back = [() => again(a, path('a'), kept[0]), () => again(b, path('b'), kept[1])];
      if (round % 2 === 1) back.reverse();
      for (const one of back) await one();
    }
    const total = traffic.sent + 1000;
    await traffic.until('all frames', () => traffic.arrived.at(-1) === total - 1, total);
    await traffic.until('all buffers to come back', () => (a.transmit[0] as TransmitQueue).ring.outstanding === 0, total);
    const wrong = traffic.arrived.findIndex((sequence, i) => sequence !== i);
    expect(wrong, `frame ${traffic.arrived[wrong]} came as number ${wrong}`).toBe(-1);
    expect(traffic.arrived.length).toBe(total);
  }, 240_000);

  it('between commit and publish is followed by one that publishes, once', { timeout: 120_000 }, async () => {
    await serve();
    const [a, b] = [new FrontEnd(path('a'), { ...OPTIONS, packed }), new FrontEnd(path('b'), { ...OPTIONS, packed })];
    fronts.push(a, b);
    const kept = await begin(a);
    await b.start();
    await a.sendFrames([frame(1, 2, 0)]);
    expect(await b.receiveFrames(1)).toEqual([frame(1, 2, 0)]);
    await kill();
    // A frame is waiting, and the record says that it was delivered and its buffer was to be returned.
    const [transmit] = a.transmit as [TransmitQueue];
    a.arena.u8.set(frame(1, 2, 1), transmit.reserve());
    transmit.send(64);
    transmit.ring.publish();
    const wrap = packed ? 0x8000 : 0;
    const record = readFileSync(path('a.turns'));
    // Ring 1 of port 0: slot, available, used from, used.
    new Int32Array(record.buffer, record.byteOffset, 1).set([1]);
    new Int32Array(record.buffer, record.byteOffset + 64, 4).set([1, wrap | 2, wrap | 1, wrap | 2]);
    writeFileSync(path('a.turns'), record);
    const size = a.options.size;
    const bytes = new DataView(kept.description.buffer).getUint32(0, true);
    const area = InflightArea.take(native, { queues: 2, size, packed }, kept.fd, 0, bytes);
    // The used entry was written where nobody looks yet, or staged: which buffer, nothing written.
    const { addresses } = (a.queues[1] as FrontEnd['queues'][0]).ring;
    const { u16, u32 } = (a.memory.slabs[0] as { views: { u16: Uint16Array; u32: Uint32Array } }).views;
    const half = (address: number): number => u16[(address - a.options.base) / 2] as number;
    if (packed) area.staging(1)?.set([half(addresses.desc + 16 + 12), 0]);
    else u32.set([half(addresses.driver + 4 + 2), 0], (addresses.device + 4 + 8 - a.options.base) / 4);
    area.unmap();
    await serve();
    await again(a, path('a'), kept);
    await eventually('the buffer to come back', () => {
      transmit.reclaim();
      return transmit.ring.outstanding === 0;
    });
    // Not delivered again, and the ring goes on.
    b.reconnect(path('b'));
    await b.negotiate();
    await b.setMemory();
    await b.startRing(0, packed ? 0x80018001 : 1);
    await b.startRing(1);
    for (const index of [0, 1]) await b.enable(index);
    await a.sendFrames([frame(1, 2, 2)]);
    expect(await b.receiveFrames(1)).toEqual([frame(1, 2, 2)]);
  });
});

describe('the in-flight area', () => {
  it.each([false, true])('has the layout of version 1, and the positions (packed %s)', async (packed) => {
    const running = await serveVhostUser({ sockets: [path('a'), path('b')], topology: 'link' });
    try {
      const [a, b] = [new FrontEnd(path('a'), { ...OPTIONS, packed, size: 64 }), await new FrontEnd(path('b')).start()];
      fronts.push(a, b);
      const kept = await begin(a);
      const description = new DataView(kept.description.buffer);
      const bytes = description.getUint32(0, true);
      expect([description.getUint32(8, true), description.getUint16(16, true), description.getUint16(18, true)]).toEqual([0, 2, 64]);
      const mapped = new MappedRegion(native, kept.fd, 0, bytes);
      const part = mapped.parts[0] as { buffer: SharedArrayBuffer; byteOffset: number };
      const stride = packed ? 32 + 64 * 32 : 64 * Math.ceil((16 + 64 * 16) / 64);
      const halves = (queue: number): Uint16Array => new Uint16Array(part.buffer, part.byteOffset + queue * Math.ceil(stride / 64) * 64, 16);
      for (const queue of [0, 1]) expect([...halves(queue).subarray(0, 6)]).toEqual([0, 0, 0, 0, 1, 64]);
      for (let i = 0; i < 100; i++) await a.sendFrames([frame(1, 2, i)]);
      await b.receiveFrames(100);
      // 100 of 64: once round, and 36. Used, old used, wrap counters.
      const position = packed ? [...halves(1).subarray(8, 11)] : [halves(1)[7]];
      expect(position).toEqual(packed ? [36, 36, 0] : [100]);
      expect(packed ? [...halves(0).subarray(8, 11)] : [halves(0)[7]]).toEqual(packed ? [0, 0, 0x101] : [0]);
      mapped.unmap();
    } finally {
      await running.close();
    }
    expect(existsSync(path('a.turns'))).toBe(false);
  });

  it('of another kind of back end is taken over in order, and not otherwise', async () => {
    const errors: number[] = [];
    const running = await serveVhostUser({ sockets: [path('a'), path('b')], topology: 'link' });
    try {
      const b = await new FrontEnd(path('b')).start();
      fronts.push(b);
      for (const inOrder of [true, false]) {
        const a = new FrontEnd(path('a'), { ...OPTIONS, size: 64 });
        await a.negotiate();
        await a.setMemory();
        a.makeQueues();
        const [transmit] = a.transmit as [TransmitQueue];
        a.arena.u8.set(frame(1, 2, 7), transmit.reserve());
        transmit.send(64);
        transmit.ring.publish();
        // Exactly two split regions, no more.
        const stride = 64 * Math.ceil((16 + 64 * 16) / 64);
        const fd = native.memory.memfd('foreign', 2 * stride);
        descriptors.push(fd);
        const mapped = new MappedRegion(native, fd, 0, 2 * stride);
        const part = mapped.parts[0] as { buffer: SharedArrayBuffer; byteOffset: number };
        for (const queue of [0, 1]) new Uint16Array(part.buffer, part.byteOffset + queue * stride, 8).set([0, 0, 0, 0, 1, 64, 0, 0]);
        const { addresses } = (a.queues[1] as FrontEnd['queues'][0]).ring;
        const head = a.memory.slabs[0]?.views.u16[(addresses.driver - a.options.base + 4) / 2] as number;
        const flags = new Uint8Array(part.buffer, part.byteOffset + stride);
        flags[16 + 16 * (inOrder ? head : (head + 1) % 64)] = 1;
        await setInflight(a, { description: concat(longs(2 * stride, 0), new Uint8Array(Uint16Array.of(2, 64, 0, 0).buffer)), fd });
        const failed = native.events.eventfd();
        descriptors.push(failed);
        await a.tell(REQUEST.SET_VRING_ERR, longs(1), [failed]);
        await startRings(a);
        errors.push(native.events.readEvent(failed, new Uint8Array(new ArrayBuffer(8))));
        if (inOrder) {
          expect(await b.receiveFrames(1)).toEqual([frame(1, 2, 7)]);
          expect(flags[16 + 16 * head]).toBe(0);
        }
        mapped.unmap();
        a.close();
        await eventually('the connection to end', () => running.statistics[0]?.session === undefined);
      }
      expect(errors).toEqual([-11, 8]);
      expect(running.statistics[0]?.refused).toBe(0);
    } finally {
      await running.close();
    }
  });

  it.each([
    ['of no queues', 0, 64, 1 << 20, 0],
    ['of more queues than there are', 4, 64, 1 << 20, 0],
    ['of no descriptors', 2, 0, 1 << 20, 0],
    ['of 65535 descriptors', 2, 65535, 1 << 20, 0],
    ['that is too small', 2, 64, 2 * 1024, 0],
    ['beyond its file', 2, 64, 2 << 20, 0],
    ['of 2^52 bytes', 2, 64, 2 ** 52, 0],
    ['at an odd offset', 2, 64, 1 << 19, 100],
  ])('%s ends the connection', async (_, queues, size, bytes, offset) => {
    const running = await serveVhostUser({ sockets: [path('a')] });
    try {
      const a = new FrontEnd(path('a'), OPTIONS);
      fronts.push(a);
      await a.negotiate();
      const fd = native.memory.memfd('area', 1 << 20);
      descriptors.push(fd);
      a.send(message(REQUEST.SET_INFLIGHT_FD, concat(longs(bytes, offset), new Uint8Array(Uint16Array.of(queues, size, 0, 0).buffer))), [fd]);
      await a.hangUp();
    } finally {
      await running.close();
    }
  });

  it('full of garbage harms nobody', async () => {
    const running = await serveVhostUser({ sockets: [path('a'), path('b')], topology: 'link' });
    try {
      const b = await new FrontEnd(path('b')).start();
      fronts.push(b);
      for (const packed of [false, true])
        for (let seed = 1; seed < 20; seed++) {
          const a = new FrontEnd(path('a'), { ...OPTIONS, packed, size: 64 });
          await a.negotiate();
          const kept = await getInflight(a);
          const bytes = new DataView(kept.description.buffer).getUint32(0, true);
          const mapped = new MappedRegion(native, kept.fd, 0, bytes);
          const part = mapped.parts[0] as { buffer: SharedArrayBuffer; byteOffset: number };
          const garbage = new Uint32Array(part.buffer, part.byteOffset, bytes >>> 2);
          for (let i = 0, x = seed; i < garbage.length; i++) {
            x = (Math.imul(x, 1103515245) + 12345) >>> 0;
            // Half of them leave the head of our own part as it is, so that it counts as ours.
            if (seed % 2 === 0 && i >= (2 * Math.ceil((packed ? 2080 : 1040) / 64) * 64) / 4) garbage[i] = i % 7 === 0 ? 1 : (garbage[i] as number);
            else garbage[i] = x;
          }
          await setInflight(a, kept);
          await a.setMemory();
          a.makeQueues();
          await startRings(a);
          await a.ask(REQUEST.GET_FEATURES);
          mapped.unmap();
          a.close();
          await eventually('the connection to end', () => running.statistics[0]?.session === undefined);
        }
      const a = await new FrontEnd(path('a')).start();
      fronts.push(a);
      await a.sendFrames([frame(1, 2, 3)]);
      expect(await b.receiveFrames(1)).toEqual([frame(1, 2, 3)]);
      await running.close();
    } finally {
      await running.close();
    }
  });

  it('GET_VRING_BASE_INFLIGHT needs it', async () => {
    const running = await serveVhostUser({ sockets: [path('a')] });
    try {
      const a = new FrontEnd(path('a'), { protocol: [PROTOCOL.BASE_INFLIGHT] });
      fronts.push(a);
      await a.ask(REQUEST.GET_FEATURES);
      a.send(message(REQUEST.SET_PROTOCOL_FEATURES, longs(1 << PROTOCOL.BASE_INFLIGHT)));
      await a.hangUp();
    } finally {
      await running.close();
    }
  });
});

describe('the record of turns', () => {
  const participant = (slot: number, from: number, to: number, apply: () => void) => ({ slot, nextAvailable: to, usedFrom: from, nextUsed: to, apply });

  it('has what was committed and not carried out, for the same front end alone, also for the process after the next', () => {
    const file = TurnFile.open(native, path('turns'), 'key');
    if (typeof file === 'string') throw new Error(file);
    const tags = [
      [1, 2],
      [3, 4],
    ] as const;
    expect(file.port(0, 0, 2).take(tags[0]).size).toBe(0);
    expect(file.port(1, 2, 2).take(tags[1]).size).toBe(0);
    expect(TurnFile.open(native, path('turns'), 'key')).toMatch(/in use/);
    const journal = new TurnJournal(file.journal);
    journal.stage(participant(1, 10, 12, () => {}));
    journal.stage(
      participant(2, 20, 22, () => {
        throw new Error('killed');
      }),
    );
    expect(() => journal.commit()).toThrow('killed');
    const dead = readFileSync(path('turns'));
    file.close();
    for (const [first, second] of [
      [0, 1],
      [1, 0],
    ] as const) {
      writeFileSync(path('turns'), dead);
      const one = TurnFile.open(native, path('turns'), 'key');
      if (typeof one === 'string') throw new Error(one);
      const entry = [
        { slot: 1, available: 12, usedFrom: 10, used: 12 },
        { slot: 2, available: 22, usedFrom: 20, used: 22 },
      ];
      const ring = [1, 0];
      expect([...one.port(first, 2 * first, 2).take(tags[first])]).toEqual([[ring[first], entry[first]]]);
      expect(one.port(first, 2 * first, 2).take(tags[first]).size).toBe(0);
      // Killed again before the other came back.
      const deadAgain = readFileSync(path('turns'));
      one.close();
      writeFileSync(path('turns'), deadAgain);
      const two = TurnFile.open(native, path('turns'), 'key');
      if (typeof two === 'string') throw new Error(two);
      expect([...two.port(second, 2 * second, 2).take(tags[second])]).toEqual([[ring[second], entry[second]]]);
      two.close();
    }
    writeFileSync(path('turns'), dead);
    const stranger = TurnFile.open(native, path('turns'), 'key');
    if (typeof stranger === 'string') throw new Error(stranger);
    expect(stranger.port(0, 0, 2).take([5, 6]).size).toBe(0);
    stranger.close();
    writeFileSync(path('turns'), dead);
    const other = TurnFile.open(native, path('turns'), 'another key');
    if (typeof other === 'string') throw new Error(other);
    expect(other.port(0, 0, 2).take(tags[0]).size).toBe(0);
    other.close();
    expect(existsSync(path('turns'))).toBe(false);
    expect(TurnFile.open(native, join(dirname(path('turns')), 'missing', 'turns'), 'key')).toMatch(/ENOENT/);
  });
});
