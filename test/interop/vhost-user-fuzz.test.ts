// Streams of messages that no front end would send, made up and mutated from a real one's, against a live server with other connections going on: whatever they do, those others
// keep their frames, the socket takes the next front end, and nothing is left behind.

import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { serveVhostUser, type VhostUserServer } from '#interop/index';
import { openNative } from '#interop/native';
import { eventually } from '../backends/eventually.ts';
import { concat, FEATURE, FrontEnd, FrontSocket, frame, longs, message, PROTOCOL, REQUEST, u64, words } from './front-end.ts';

const native = openNative();
const MiB = 2 ** 20;
let directory: string;
let server: VhostUserServer;
let good: FrontEnd;
let other: FrontEnd;
let sequence = 0;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'nicbox-fuzz-'));
  server = await serveVhostUser({ sockets: ['bad', 'good', 'other'].map((name) => join(directory, name)), queuePairs: 2, accessPlatform: true, inBand: true });
  good = await new FrontEnd(join(directory, 'good')).start();
  other = await new FrontEnd(join(directory, 'other'), { packed: true }).start();
});

afterAll(async () => {
  good?.close();
  other?.close();
  await server?.close();
  rmSync(directory, { recursive: true, force: true });
});

const bad = (): string => join(directory, 'bad');
const count = (folder: string): number => readdirSync(folder).length;
const kept = (): object => ({
  descriptors: count('/proc/self/fd'),
  threads: count('/proc/self/task'),
  mappings: readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes('memfd:')).length,
});

async function othersPass(): Promise<void> {
  const sent = frame(1, 2, sequence++);
  for (;;) {
    // The connection in between may have sent frames to everybody, and what is flooded to a full ring is dropped: those are taken, and this one is sent again.
    await good.sendFrames([sent]);
    const got = await other.receiveFrames(1);
    if (got.some((bytes) => Buffer.compare(bytes, sent) === 0)) return;
  }
}

const over = (): Promise<void> => eventually('the connection to end', () => server.statistics[0]?.session === undefined);

type Passed = 'memory' | 'event' | 'file' | 'socket';

/** A descriptor to pass, which is ours to close. */
function make(kind: Passed): number {
  if (kind === 'memory') return native.memory.memfd('fuzz', MiB);
  if (kind === 'event') return native.events.eventfd();
  if (kind === 'file') return openSync('/dev/null', 'r+');
  const [ours, theirs] = good.socketPair(join(directory, 'pair'));
  native.close(theirs);
  return ours;
}

function send(socket: FrontSocket, bytes: Uint8Array, kinds: readonly Passed[]): void {
  const fds = kinds.map(make);
  socket.send(bytes, fds);
  for (const fd of fds) closeSync(fd);
}

/** Runs a connection, which the server may end at any time. */
async function attack(messages: readonly { readonly bytes: Uint8Array; readonly passed: readonly Passed[] }[]): Promise<void> {
  const socket = new FrontSocket(bad());
  const sink = new Uint8Array(new ArrayBuffer(4096));
  for (const { bytes, passed } of messages) {
    send(socket, bytes, passed);
    const fds: number[] = [];
    native.sockets.receive(socket.fd, sink, 0, sink.length, fds);
    for (const fd of fds) closeSync(fd);
  }
  // What was sent has been looked at when this side is closed and the other has seen that.
  native.sockets.shutdownWrite(socket.fd);
  await eventually('the server to hang up', () => {
    const fds: number[] = [];
    const got = native.sockets.receive(socket.fd, sink, 0, sink.length, fds);
    for (const fd of fds) closeSync(fd);
    return got === 0 || (got < 0 && got !== -11);
  });
  socket.close();
  await over();
}

const passed = fc.array(fc.constantFrom<Passed>('memory', 'memory', 'event', 'event', 'file', 'socket'), { maxLength: 3 });
/** Numbers that a check may be wrong about. */
const number = fc.oneof(
  fc.nat(8),
  fc.constantFrom(63, 64, 255, 256, 0x100, 0x101, 4095, 4096, 8192, MiB, MiB - 1, MiB + 4096, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 52, 2 ** 53),
);
const payload = fc.oneof(
  fc.uint8Array({ maxLength: 64 }),
  fc.array(number, { minLength: 1, maxLength: 8 }).map((values) => longs(...values)),
  fc.tuple(number, number).map(([a, b]) => words(a % 2 ** 32, b % 2 ** 32)),
  fc.tuple(number, number, number, number).map((values) => concat(words(1, 0), longs(...values))),
  fc.tuple(fc.nat(5), number, number, number).map(([index, ...rest]) => concat(words(index, 0), longs(...rest, 0))),
);
/** Not the one that waits, for seconds, for whoever passed a descriptor that nobody writes to. */
const requests = Object.values(REQUEST).filter((request) => request !== REQUEST.CHECK_DEVICE_STATE);
const anyMessage = fc
  .record({
    request: fc.oneof(fc.constantFrom(...requests), fc.nat(41)),
    payload,
    flags: fc.constantFrom(1, 1, 1, 9, 9, 2, 5),
    passed,
    lie: fc.nat(19),
  })
  .map(({ request, payload: body, flags, passed: kinds, lie }) => ({
    bytes: message(request, body, flags, lie === 0 ? body.length + 1 : body.length),
    passed: kinds,
  }));

/** A front end that has agreed on everything, so that requests are looked at and not refused at once. */
const opening = [
  { bytes: message(REQUEST.GET_FEATURES), passed: [] },
  {
    bytes: message(REQUEST.SET_PROTOCOL_FEATURES, u64(Object.values(PROTOCOL).reduce((all, bit) => all | (1n << BigInt(bit)), 0n))),
    passed: [],
  },
  { bytes: message(REQUEST.SET_FEATURES, u64((1n << BigInt(FEATURE.PROTOCOL)) | (1n << BigInt(FEATURE.VERSION_1)))), passed: [] },
  { bytes: message(REQUEST.SET_MEM_TABLE, concat(words(1, 0), longs(0, MiB, 0, 0))), passed: ['memory'] as Passed[] },
];

/** The messages of a front end that starts its rings, as bytes. */
class Recorder extends FrontEnd {
  readonly recorded: { bytes: Uint8Array; passed: Passed[] }[] = [];

  override send(bytes: Uint8Array, fds: readonly number[] = []): void {
    const kinds = fds.map((fd): Passed => (fd === this.memoryFd ? 'memory' : 'event'));
    this.recorded.push({ bytes: bytes.slice(), passed: kinds });
    super.send(bytes, fds);
  }
}

describe('a front end that sends anything', () => {
  it('harms nobody and leaves nothing', async () => {
    await othersPass();
    await attack(opening);
    const before = kept();
    let runs = 0;
    await fc.assert(
      fc.asyncProperty(fc.boolean(), fc.array(anyMessage, { minLength: 1, maxLength: 25 }), async (polite, messages) => {
        await attack(polite ? [...opening, ...messages] : messages);
        if (++runs % 10 === 0) await othersPass();
      }),
      { numRuns: 200, timeout: 20_000 },
    );
    expect(kept()).toEqual(before);
    await othersPass();
  }, 120_000);

  it.each([false, true])(
    'or almost what is right (packed %s) harms nobody and leaves nothing',
    async (packed) => {
      const recorder = new Recorder(bad(), { packed, protocol: [PROTOCOL.INFLIGHT, PROTOCOL.SLOTS, PROTOCOL.STATUS, PROTOCOL.CONFIG, PROTOCOL.RESET] });
      await recorder.start();
      await recorder.stopRing(0);
      const { recorded } = recorder;
      recorder.close();
      await over();
      await attack(recorded);
      const before = kept();
      let runs = 0;
      const change = fc.record({ at: fc.nat(recorded.length - 1), byte: fc.nat(60), value: fc.nat(255), what: fc.nat(9) });
      await fc.assert(
        fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 4 }), async (changes) => {
          const messages = recorded.map(({ bytes, passed: kinds }) => ({ bytes: bytes.slice(), passed: [...kinds] }));
          for (const { at, byte, value, what } of changes) {
            const one = messages[at];
            if (one === undefined) continue;
            if (what === 0) messages.splice(at, 1);
            else if (what === 1) messages.push({ bytes: one.bytes.slice(), passed: [...one.passed] });
            else if (what === 2) one.passed = one.passed.length === 0 ? ['event'] : [];
            else if (what === 3) one.bytes = one.bytes.slice(0, byte);
            else one.bytes[byte % one.bytes.length] = value;
          }
          await attack(messages);
          if (++runs % 10 === 0) await othersPass();
        }),
        { numRuns: 100, timeout: 20_000 },
      );
      expect(kept()).toEqual(before);
      await othersPass();
    },
    120_000,
  );

  it('leaves nothing of areas, channels, states and translations either', async () => {
    const one = async (): Promise<void> => {
      const socket = new FrontSocket(bad());
      for (const { bytes, passed: kinds } of opening) send(socket, bytes, kinds);
      send(socket, message(REQUEST.SET_BACKEND_REQ_FD), ['socket']);
      socket.send(message(REQUEST.GET_INFLIGHT_FD, concat(longs(0, 0), new Uint8Array(Uint16Array.of(4, 256, 0, 0).buffer))));
      send(socket, message(REQUEST.SET_DEVICE_STATE_FD, words(1, 0)), ['socket']);
      socket.send(
        message(REQUEST.SET_FEATURES, u64((1n << BigInt(FEATURE.PROTOCOL)) | (1n << BigInt(FEATURE.VERSION_1)) | (1n << BigInt(FEATURE.ACCESS_PLATFORM)))),
      );
      for (let i = 0; i < 4; i++) socket.send(message(REQUEST.IOTLB_MSG, concat(longs(i * 4096, 4096, i * 4096), words(3 | (2 << 8), 0))));
      await socket.ask(REQUEST.GET_QUEUE_NUM).catch(() => {});
      socket.close();
      await over();
    };
    for (let i = 0; i < 20; i++) await one();
    // Descriptors of replies that nobody read go with the socket.
    const before = kept();
    for (let i = 0; i < 150; i++) await one();
    expect(kept()).toEqual(before);
    await othersPass();
  }, 60_000);
});
