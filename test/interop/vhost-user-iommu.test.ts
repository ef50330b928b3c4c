// A device behind the front end's IOMMU: every address is one to be translated, by messages, when it is first met. What is missing is asked for once and waited for; what was
// taken away is not used any more once that is answered.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Log, type LogRecord } from '#core/log';
import type { TransmitQueue } from '#guest-sim/net-transmit';
import { serveVhostUser, type VhostUserServer } from '#interop/index';
import { eventually } from '../backends/eventually.ts';
import { concat, FEATURE, FrontEnd, frame, longs, MEMORY_BYTES, message, PROTOCOL, REQUEST, words } from './front-end.ts';

const PAGE = 4096;
const MISS = 1;
const UPDATE = 2;
const INVALIDATE = 3;
const ACCESS_FAIL = 4;
const READ = 1;
const WRITE = 2;

let directory: string;
let server: VhostUserServer;
const fronts: FrontEnd[] = [];
const said: LogRecord[] = [];

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'nicbox-iommu-'));
  said.length = 0;
  const log = new Log();
  log.listen((record) => said.push(record), ['guest-error']);
  server = await serveVhostUser({ sockets: [join(directory, 'near'), join(directory, 'far')], topology: 'link', accessPlatform: true, log });
});

afterEach(async () => {
  for (const front of fronts.splice(0)) front.close();
  await server.close();
  rmSync(directory, { recursive: true, force: true });
});

const OPTIONS = { protocol: [PROTOCOL.BACKEND_REQ], features: [FEATURE.ACCESS_PLATFORM], physical: 0x4000_0000 };

const iotlb = (iova: number, size: number, user: number, permissions: number, type: number): Uint8Array =>
  concat(longs(iova, size, user), words(permissions | (type << 8), 0));

interface Request {
  readonly iova: number;
  readonly permissions: number;
  readonly type: number;
}

/** The front end's IOMMU: pages of its memory at the driver's addresses, told as they are asked for. */
class Translator {
  readonly misses: Request[] = [];
  readonly failures: Request[] = [];
  /** Pages that have moved to another place in memory. */
  readonly moved = new Map<number, number>();
  readonly #front: FrontEnd;
  readonly #channel: number;

  private constructor(front: FrontEnd, channel: number) {
    this.#front = front;
    this.#channel = channel;
  }

  static async connect(front: FrontEnd): Promise<Translator> {
    const [ours, theirs] = front.socketPair(join(directory, 'channel'));
    await front.tell(REQUEST.SET_BACKEND_REQ_FD, undefined, [theirs]);
    front.native.close(theirs);
    return new Translator(front, ours);
  }

  /** What the back end asks for now, without answering. */
  take(): Request[] {
    const taken: Request[] = [];
    const bytes = new Uint8Array(new ArrayBuffer(44));
    while (this.#front.native.sockets.receive(this.#channel, bytes, 0, 44, []) === 44) {
      const view = new DataView(bytes.buffer);
      expect([view.getUint32(0, true), view.getUint32(8, true)]).toEqual([1, 32]);
      const request = { iova: Number(view.getBigUint64(12, true)), permissions: view.getUint8(36), type: view.getUint8(37) };
      expect(view.getUint32(4, true)).toBe(request.type === MISS ? 9 : 1);
      (request.type === MISS ? this.misses : this.failures).push(request);
      taken.push(request);
    }
    return taken;
  }

  async update({ iova, permissions }: Request): Promise<void> {
    const { base, userBase } = this.#front.options;
    await this.#front.tell(REQUEST.IOTLB_MSG, iotlb(iova, PAGE, (this.moved.get(iova) ?? iova - base) + userBase, permissions, UPDATE));
  }

  answer(result: number): void {
    this.#front.native.sockets.send(this.#channel, message(1, longs(result), 5));
  }

  /** Answers everything that is asked. */
  async serve(): Promise<void> {
    for (const request of this.take()) {
      if (request.type !== MISS) continue;
      await this.update(request);
      this.answer(0);
    }
  }

  /** Answers until `work` is done. */
  async during<T>(work: Promise<T>): Promise<T> {
    let over = false;
    const done = work.finally(() => {
      over = true;
    });
    while (!over) {
      await this.serve();
      await turn();
    }
    return done;
  }

  close(): void {
    this.#front.native.close(this.#channel);
  }
}

async function pair(options: object = {}): Promise<[near: FrontEnd, far: FrontEnd, translator: Translator]> {
  const near = new FrontEnd(join(directory, 'near'), { ...OPTIONS, ...options });
  const far = new FrontEnd(join(directory, 'far'));
  fronts.push(near, far);
  await near.negotiate();
  const translator = await Translator.connect(near);
  await far.start();
  await near.begin();
  return [near, far, translator];
}

/** Lets the worker and both loops do all that they would. */
async function settle(front: FrontEnd): Promise<void> {
  for (let i = 0; i < 20; i++) {
    await front.ask(REQUEST.GET_FEATURES);
    await turn();
  }
}

describe.each([false, true])('packed %s', (packed) => {
  it('asks for each page once and serves the rings', async () => {
    const [near, far, translator] = await pair({ packed });
    const frames = Array.from({ length: 600 }, (_, i) => frame(1, 2, i, 60 + 2 * i));
    const back = Array.from({ length: 600 }, (_, i) => frame(2, 1, i, 60 + 2 * i));
    const [, received] = await translator.during(Promise.all([near.sendFrames(frames), far.receiveFrames(600)]));
    expect(received).toEqual(frames);
    const [, other] = await translator.during(Promise.all([far.sendFrames(back), near.receiveFrames(600)]));
    expect(other).toEqual(back);
    const asked = translator.misses.map(({ iova, permissions }) => `${iova} ${permissions}`);
    expect(new Set(asked).size).toBe(asked.length);
    expect(asked.length).toBeGreaterThan(20);
    for (const { iova } of translator.misses) expect(iova - near.options.base).toBeGreaterThanOrEqual(0);
    expect(server.statistics[0]?.refused).toBe(0);
    expect(said).toEqual([]);
    translator.close();
  });

  it('waits with a ring for as long as it takes, and goes on', async () => {
    const [near, far, translator] = await pair({ packed });
    // The rings' own pages, until they run.
    for (const deadline = performance.now() + 10_000; server.statistics[0]?.session?.running.includes(false) && performance.now() < deadline; await turn())
      await translator.serve();
    const [transmit] = near.transmit as [TransmitQueue];
    // Of pages that nobody has asked for yet.
    const frames = Array.from({ length: 20 }, (_, i) => frame(1, 2, i));
    for (const one of frames) {
      near.arena.u8.set(one, transmit.reserve());
      transmit.send(64);
    }
    transmit.flush();
    const waiting = translator.take();
    const isTransmit = ({ permissions }: Request): boolean => permissions === READ;
    await eventually('the transmit ring to wait', () => {
      waiting.push(...translator.take());
      return waiting.some(isTransmit);
    });
    for (let i = 0; i < 10; i++) {
      await settle(near);
      near.queues[1]?.kick.ring();
    }
    waiting.push(...translator.take());
    // The driver kicked again and again: nothing is asked for twice.
    expect(new Set(waiting.map(({ iova }) => iova)).size).toBe(waiting.length);
    expect(transmit.ring.outstanding).toBe(20);
    for (const request of waiting) {
      await translator.update(request);
      translator.answer(0);
    }
    expect(await translator.during(far.receiveFrames(20))).toEqual(frames);
    expect(said).toEqual([]);
    translator.close();
  });

  it('uses nothing any more of what was invalidated', async () => {
    const [near, far, translator] = await pair({ packed });
    await translator.during(Promise.all([near.sendFrames([frame(1, 2, 0)]), far.receiveFrames(1)]));
    const [transmit] = near.transmit as [TransmitQueue];
    const spare = MEMORY_BYTES - 16 * PAGE;
    for (let round = 1; round < 30; round++) {
      const at = transmit.reserve();
      const iova = Math.floor((at + near.options.base) / PAGE) * PAGE;
      const offset = iova - near.options.base;
      // The page moves: the bytes are at its new place, what is at the old one is somebody else's now.
      const place = round % 2 === 1 ? spare : offset;
      const size = [PAGE, 0, 2 ** 50][round % 3] as number;
      await near.tell(REQUEST.IOTLB_MSG, iotlb(size === PAGE ? iova : 0, size, 0, 0, INVALIDATE));
      translator.moved.set(iova, place);
      near.arena.u8.fill(0xee, offset, offset + PAGE);
      near.arena.u8.fill(0, place, place + PAGE);
      near.arena.u8.set(frame(1, 2, round), place + (at - offset));
      transmit.send(64);
      transmit.flush();
      expect(await translator.during(far.receiveFrames(1))).toEqual([frame(1, 2, round)]);
      await translator.during(
        (async () => {
          while (transmit.ring.outstanding > 0) {
            transmit.reclaim();
            await turn();
          }
        })(),
      );
      translator.moved.clear();
      await near.tell(REQUEST.IOTLB_MSG, iotlb(0, 0, 0, 0, INVALIDATE));
    }
    expect(said).toEqual([]);
    translator.close();
  });

  it('says so when it is refused a translation, and goes on waiting', async () => {
    const [near, far, translator] = await pair({ packed });
    await settle(near);
    const pages = (requests: readonly Request[]): Set<number> => new Set(requests.map(({ iova }) => iova));
    const all = (): boolean => translator.failures.length > 2 && translator.failures.length === pages(translator.misses).size;
    for (const deadline = performance.now() + 10_000; !all() && performance.now() < deadline; await settle(near))
      for (const { type } of translator.take()) if (type === MISS) translator.answer(1);
    const refused = translator.failures.map(({ iova, permissions }) => ({ iova, permissions, type: MISS }));
    expect(pages(translator.failures)).toEqual(pages(translator.misses));
    // Asked again, a few times: with everybody's access and with one's own, and as the first refusal may be of a page that nobody needs any more.
    expect(translator.misses.length).toBeLessThanOrEqual(5 * refused.length);
    expect(translator.failures.map(({ type }) => type)).toEqual(refused.map(() => ACCESS_FAIL));
    expect(said.length).toBe(refused.length);
    expect(server.statistics[0]?.session?.running).toEqual([false, false]);
    // Better late than never.
    for (const request of refused) await translator.update(request);
    await translator.during(Promise.all([near.sendFrames([frame(1, 2, 1)]), far.receiveFrames(1)]));
    expect(server.statistics[0]?.refused).toBe(0);
    translator.close();
  });
});

describe('front ends that tell what cannot be', () => {
  it.each([
    ['beyond their memory', [0, 2 * MEMORY_BYTES, 0x7f00_1234_5000, READ]],
    ['elsewhere', [0, PAGE, 0x1000, READ]],
    ['of half a page', [0, 2048, 0x7f00_1234_5000, READ]],
    ['of no bytes', [0, 0, 0x7f00_1234_5000, READ]],
    ['at an odd address', [1, PAGE, 0x7f00_1234_5000, READ]],
    ['without permission', [0, PAGE, 0x7f00_1234_5000, 0]],
    ['with unknown permissions', [0, PAGE, 0x7f00_1234_5000, 4]],
    ['above 2^52', [2 ** 52, PAGE, 0x7f00_1234_5000, WRITE]],
  ] as const)('%s are told so', async (_, [iova, size, user, permissions]) => {
    const [near, , translator] = await pair();
    await expect(near.tell(REQUEST.IOTLB_MSG, iotlb(iova, size, user, permissions, UPDATE))).rejects.toThrow('refused with 1');
    await near.ask(REQUEST.GET_FEATURES);
    translator.close();
  });

  it('that fill the cache get their translations asked for again', async () => {
    const [near, far, translator] = await pair();
    for (let i = 0; i < 2100; i++) await near.tell(REQUEST.IOTLB_MSG, iotlb(2 ** 40 + i * PAGE, PAGE, near.options.userBase, READ | WRITE, UPDATE));
    await translator.during(Promise.all([near.sendFrames([frame(1, 2, 1)]), far.receiveFrames(1)]));
    translator.close();
  });

  it('or hang up the channel keep their connection', async () => {
    const [near, , translator] = await pair();
    translator.close();
    await settle(near);
    const again = await Translator.connect(near);
    await settle(near);
    expect(again.take().length).toBeGreaterThan(0);
    again.answer(0);
    again.close();
    await near.ask(REQUEST.GET_FEATURES);
  });

  it.each([
    ['an unknown type', iotlb(0, PAGE, 0, 1, 9), true],
    ['any without ACCESS_PLATFORM', iotlb(0, PAGE, 0, 1, INVALIDATE), false],
  ])('%s ends the connection', async (_, payload, platform) => {
    const near = new FrontEnd(join(directory, 'near'), platform ? OPTIONS : { protocol: [PROTOCOL.BACKEND_REQ] });
    fronts.push(near);
    await near.negotiate();
    near.send(message(REQUEST.IOTLB_MSG, payload));
    await near.hangUp();
  });

  it('ACCESS_PLATFORM needs a channel and answers', async () => {
    const near = new FrontEnd(join(directory, 'near'), { features: [FEATURE.ACCESS_PLATFORM] });
    fronts.push(near);
    await expect(near.negotiate()).rejects.toThrow('refused with 1');
  });
});

it('is not offered unless asked for', async () => {
  const path = join(directory, 'plain');
  const plain = await serveVhostUser({ sockets: [path] });
  const front = new FrontEnd(path);
  fronts.push(front);
  expect((await front.ask(REQUEST.GET_FEATURES)).getUint32(4, true) & (1 << (FEATURE.ACCESS_PLATFORM - 32))).toBe(0);
  front.close();
  fronts.pop();
  await plain.close();
});
