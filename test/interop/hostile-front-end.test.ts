// Front ends that break the protocol (hostile-inputs 8.3): each ends its own connection with a line that says why, and nothing else: the other connection's frames keep
// passing, and neither descriptors nor mappings are left behind.

import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Log, type LogRecord } from '#core/log';
import { serveVhostUser, type VhostUserServer } from '#interop/index';
import { openNative } from '#interop/native';
import { eventually } from '../backends/eventually.ts';
import { concat, FEATURE, FrontEnd, FrontSocket, frame, longs, message, REQUEST, u64, words } from './front-end.ts';

const native = openNative();
const MiB = 2 ** 20;

let directory: string;
let server: VhostUserServer;
let good: FrontEnd;
let other: FrontEnd;
const said: LogRecord[] = [];
let sequence = 0;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'nicbox-hostile-'));
  const log = new Log();
  log.listen((record) => said.push(record), ['guest-error']);
  server = await serveVhostUser({ sockets: ['bad', 'good', 'other'].map((name) => join(directory, name)), log });
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
const descriptors = (): number => readdirSync('/proc/self/fd').length;
const mappings = (): string[] =>
  readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes('memfd:'));

/** The other connections are as they were. */
async function othersPass(): Promise<void> {
  const sent = frame(1, 2, sequence++);
  await good.sendFrames([sent]);
  expect(await other.receiveFrames(1)).toEqual([sent]);
}

/** Runs `attack` on a connection of its own, and expects it to be closed for `reason`. */
async function expectClosed(reason: RegExp, attack: (socket: FrontSocket) => Promise<void> | void, socket = new FrontSocket(bad())): Promise<void> {
  const before = { refused: server.statistics[0]?.refused ?? 0, said: said.length };
  try {
    await attack(socket);
    await socket.hangUp();
  } finally {
    socket.close();
  }
  await eventually('the connection to be counted', () => server.statistics[0]?.refused === before.refused + 1 && server.statistics[0].session === undefined);
  expect(said.slice(before.said).map((record) => record.message)).toEqual([expect.stringMatching(reason)]);
  await othersPass();
}

/** Messages that are wrong by themselves, or for a connection that has said nothing yet. */
const messages: [name: string, reason: RegExp, bytes: Uint8Array, fds?: () => number[]][] = [
  ['another version', /GET_FEATURES: protocol version 2/, message(REQUEST.GET_FEATURES, undefined, 2)],
  ['a reply nobody asked for', /a reply, and nothing was asked/, message(REQUEST.GET_FEATURES, undefined, 5)],
  ['an unknown request', /request 200, which was not offered/, message(200)],
  ['request 0', /request 0, which was not offered/, message(0)],
  ['a payload of 4 GiB', /payload of 4294967295 bytes/, message(REQUEST.SET_FEATURES, u64(0n), 1, 0xffffffff)],
  ['a payload where none belongs', /GET_FEATURES: payload of 8 bytes/, message(REQUEST.GET_FEATURES, u64(0n))],
  ['a short payload', /SET_VRING_ADDR: payload of 39 bytes/, message(REQUEST.SET_VRING_ADDR, new Uint8Array(39))],
  ['features that were not offered', /feature bits 63 were not offered/, message(REQUEST.SET_FEATURES, u64(1n << 63n))],
  ['protocol features that were not offered', /protocol feature bits 40 were not offered/, message(REQUEST.SET_PROTOCOL_FEATURES, u64(1n << 40n))],
  ['a queue number without MQ', /GET_QUEUE_NUM: protocol feature bit 0 was not negotiated/, message(REQUEST.GET_QUEUE_NUM)],
  ['a descriptor with a message that has none', /GET_FEATURES: 1 descriptors/, message(REQUEST.GET_FEATURES), () => [native.events.eventfd()]],
  [
    '253 descriptors',
    /SET_MEM_TABLE: 253 descriptors/,
    message(REQUEST.SET_MEM_TABLE, words(0, 0)),
    () => Array.from({ length: 253 }, () => native.events.eventfd()),
  ],
  ['a table of no regions', /0 regions/, message(REQUEST.SET_MEM_TABLE, words(0, 0))],
  ['a table of 2^32 - 1 regions', /4294967295 regions/, message(REQUEST.SET_MEM_TABLE, words(0xffffffff, 0))],
  ['more regions than payload', /2 regions in 40 bytes/, message(REQUEST.SET_MEM_TABLE, concat(words(2, 0), longs(0, MiB, 0, 0)))],
  ['a region without its descriptor', /1 regions with 0 descriptors/, message(REQUEST.SET_MEM_TABLE, concat(words(1, 0), longs(0, MiB, 0, 0)))],
  ['a ring that does not exist', /ring 3: there are 3/, message(REQUEST.SET_VRING_NUM, words(3, 256))],
  ['ring 2^32 - 1', /ring 4294967295: there are 3/, message(REQUEST.SET_VRING_BASE, words(0xffffffff, 0))],
  ['a ring of no entries', /size 0 is not/, message(REQUEST.SET_VRING_NUM, words(0, 0))],
  ['a ring of 65536 entries', /size 65536 is not/, message(REQUEST.SET_VRING_NUM, words(0, 65536))],
  [
    'a ring address above 2^53',
    /descriptor table address 0xffffffffffffffff is out of range/,
    message(REQUEST.SET_VRING_ADDR, concat(words(0, 0), longs(-1, 0, 0, 0))),
  ],
  ['a kick without descriptor', /SET_VRING_KICK: no descriptor/, message(REQUEST.SET_VRING_KICK, longs(0))],
  [
    'a kick with a descriptor and the bit that there is none',
    /the bit that there is none/,
    message(REQUEST.SET_VRING_KICK, longs(0x100)),
    () => [native.events.eventfd()],
  ],
  ['a kick with unknown bits', /unknown bits/, message(REQUEST.SET_VRING_KICK, longs(0x10000)), () => [native.events.eventfd()]],
  ['a kick for a ring that does not exist', /ring 77/, message(REQUEST.SET_VRING_KICK, longs(77)), () => [native.events.eventfd()]],
  ['a kick that is a file', /cannot be waited for/, message(REQUEST.SET_VRING_KICK, longs(0)), () => [openSync(file(), 'r')]],
  ['a call that is a file', /neither an eventfd nor/, message(REQUEST.SET_VRING_CALL, longs(1)), () => [openSync(file(), 'r+')]],
  ['an error descriptor that is a device', /neither an eventfd nor/, message(REQUEST.SET_VRING_ERR, longs(1)), () => [openSync('/dev/zero', 'r+')]],
  ['enabling before features were set', /not without protocol features/, message(REQUEST.SET_VRING_ENABLE, words(0, 1))],
];

function file(): string {
  const path = join(directory, 'file');
  writeFileSync(path, 'x');
  return path;
}

const page = 4096;
const regions: [name: string, reason: RegExp, table: Uint8Array[], bytes?: number][] = [
  ['beyond the end of its file', /too short/, [longs(0, MiB + page, 0, 0)]],
  ['at an offset beyond the end of its file', /too short/, [longs(0, page, 0, MiB)]],
  ['whose offset and size wrap around', /out of range|wrap/, [longs(0, page, 0, -page)]],
  ['whose address and size wrap around', /out of range|wrap/, [longs(-page, 2 * page, 0, 0)]],
  ['that ends above 2^52', /wrap/, [longs(2 ** 52 - page, 2 * page, 0, 0)]],
  ['of no bytes', /not whole pages/, [longs(0, 0, 0, 0)]],
  ['of half a page', /not whole pages/, [longs(0, 2048, 0, 0)]],
  ['at an odd guest address', /not whole pages/, [longs(1, page, 0, 0)]],
  ['that overlaps another in guest addresses', /overlap at guest/, [longs(0, 2 * page, 0, 0), longs(page, page, MiB, 0)]],
  ['that overlaps another in user addresses', /overlap at user/, [longs(0, page, 0, 0), longs(MiB, page, 0, 0)]],
  ['of a petabyte', /at most/, [longs(0, 2 ** 50, 0, 0)], 2 ** 50],
];

describe('a message that is wrong', () => {
  it.each(messages)('%s', async (_, reason, bytes, fds) => {
    const before = descriptors();
    await expectClosed(reason, (socket) => {
      const passed = fds?.() ?? [];
      socket.send(bytes, passed);
      for (const fd of passed) closeSync(fd);
    });
    expect(descriptors()).toBe(before);
  });

  it('that stops half way and hangs up', async () => {
    await expectClosed(/ended inside a message/, (socket) => {
      const fd = native.events.eventfd();
      socket.send(message(REQUEST.SET_FEATURES, u64(0n)).slice(0, 15), [fd]);
      closeSync(fd);
      // Half a close: the reading side stays, to see the other end hang up.
      native.sockets.shutdownWrite(socket.fd);
    });
  });

  it('in pieces of a byte is not wrong', async () => {
    const socket = new FrontSocket(bad());
    const bytes = message(REQUEST.GET_FEATURES);
    for (let i = 0; i < bytes.length; i++) socket.send(bytes.slice(i, i + 1));
    expect((await socket.reply())?.byteLength).toBe(8);
    socket.close();
    await eventually('the connection to be over', () => server.statistics[0]?.session === undefined);
  });
});

describe('a memory region', () => {
  it.each(regions)('%s', async (_, reason, table, bytes = MiB) => {
    const before = { descriptors: descriptors(), mappings: mappings() };
    await expectClosed(reason, (socket) => {
      const fds = table.map(() => native.memory.memfd('hostile', bytes));
      socket.send(message(REQUEST.SET_MEM_TABLE, concat(words(table.length, 0), ...table)), fds);
      for (const fd of fds) closeSync(fd);
    });
    expect(descriptors()).toBe(before.descriptors);
    expect(mappings()).toEqual(before.mappings);
  });

  it('that is an eventfd, a directory, a device', async () => {
    for (const open of [() => native.events.eventfd(), () => openSync('/tmp', 'r'), () => openSync('/dev/zero', 'r+')])
      await expectClosed(/not a memory file/, (socket) => {
        const fd = open();
        socket.send(message(REQUEST.SET_MEM_TABLE, concat(words(1, 0), longs(0, page, 0, 0))), [fd]);
        closeSync(fd);
      });
  });

  it('of a file that may not be written', async () => {
    await expectClosed(/cannot map/, (socket) => {
      writeFileSync(join(directory, 'read-only'), new Uint8Array(page));
      const fd = openSync(join(directory, 'read-only'), 'r');
      socket.send(message(REQUEST.SET_MEM_TABLE, concat(words(1, 0), longs(0, page, 0, 0))), [fd]);
      closeSync(fd);
    });
  });
});

/** A front end with memory and rings, not enabled yet. */
async function prepared(packed = false): Promise<FrontEnd> {
  const made = new FrontEnd(bad(), { packed });
  await made.negotiate();
  await made.setMemory();
  made.makeQueues();
  return made;
}

describe('a ring', () => {
  it.each([
    ['outside of memory', 0x1000],
    ['over the end of a region', 0x7f00_1234_5000 + 8 * MiB - 64],
  ])('%s', async (_, address) => {
    const socket = await prepared();
    await expectClosed(
      /not in any memory region/,
      async () => {
        await socket.startRing(0);
        socket.send(message(REQUEST.SET_VRING_ADDR, concat(words(0, 0), longs(address, address, address, 0))));
        socket.send(message(REQUEST.SET_VRING_ENABLE, words(0, 1)));
      },
      socket,
    );
  });

  it.each([false, true])('whose descriptors lead outside of memory breaks, and the connection stays (packed %s)', async (packed) => {
    const socket = await new FrontEnd(bad(), { packed }).start();
    const before = said.length;
    const queue = socket.transmit[0];
    // A buffer that the device was never given.
    queue?.ring.addOne(2 ** 31, 64, false, 1);
    queue?.flush();
    await eventually('the ring to be reported', () => said.length > before);
    expect(said.slice(before).map((record) => record.message)).toEqual([expect.stringMatching(/ring 1 is broken/)]);
    await socket.ask(REQUEST.GET_FEATURES);
    await othersPass();
    socket.close();
    await eventually('the connection to be over', () => server.statistics[0]?.session === undefined);
  });

  it('given another size while it runs', async () => {
    const socket = await new FrontEnd(bad()).start();
    const before = mappings().length;
    await expectClosed(/ring 0: another size while it runs/, () => socket.send(message(REQUEST.SET_VRING_NUM, words(0, 32768))), socket);
    expect(mappings().length).toBeLessThan(before);
  });

  it('given everything 2000 times over leaves nothing behind', async () => {
    const socket = await prepared();
    const before = descriptors();
    for (let i = 0; i < 2000; i++) {
      const [kick, call, err] = [native.events.eventfd(), native.events.eventfd(), native.events.eventfd()];
      socket.send(message(REQUEST.SET_VRING_NUM, words(0, 256)));
      socket.send(message(REQUEST.SET_VRING_KICK, longs(0)), [kick]);
      socket.send(message(REQUEST.SET_VRING_CALL, longs(0)), [call]);
      socket.send(message(REQUEST.SET_VRING_ERR, longs(0)), [err]);
      for (const fd of [kick, call, err]) closeSync(fd);
      if (i % 16 === 0) await socket.ask(REQUEST.GET_FEATURES);
    }
    await socket.setMemory();
    expect(descriptors()).toBe(before + 3);
    expect(mappings()).toHaveLength(2 * 3);
    socket.close();
    await eventually('the connection to be over', () => server.statistics[0]?.session === undefined);
  });
});

describe('a peer that', () => {
  it('never reads its replies is closed, and nobody waits for it', async () => {
    const socket = new FrontSocket(bad());
    const before = server.statistics[0]?.refused ?? 0;
    const flood = message(REQUEST.GET_FEATURES);
    await eventually('the connection to be closed', () => {
      for (let i = 0; i < 64; i++) socket.send(flood);
      return (server.statistics[0]?.refused ?? 0) > before;
    });
    socket.close();
    await othersPass();
  });

  it('makes its memory file shorter is stopped from doing so', async () => {
    const socket = await prepared();
    expect(native.memory.truncate(socket.memoryFd, 4096)).toBe(-1);
    socket.close();
    await eventually('the connection to be over', () => server.statistics[0]?.session === undefined);
  });

  it('sets features under running rings stops nobody', async () => {
    const socket = await new FrontEnd(bad()).start();
    for (let i = 0; i < 20; i++)
      await socket.tell(
        REQUEST.SET_FEATURES,
        u64((1n << BigInt(FEATURE.PROTOCOL)) | (1n << BigInt(FEATURE.VERSION_1)) | (BigInt(i & 1) << BigInt(FEATURE.MRG_RXBUF))),
      );
    await othersPass();
    socket.close();
    await eventually('the connection to be over', () => server.statistics[0]?.session === undefined);
  });
});

describe('10,000 connections', () => {
  it('with memory and rings leave no descriptor, mapping or thread', async () => {
    const threads = (): number => readdirSync('/proc/self/task').length;
    const count = async (connections: number): Promise<void> => {
      const memory = native.memory.memfd('many', MiB);
      const event = native.events.eventfd();
      const table = message(REQUEST.SET_MEM_TABLE, concat(words(1, 0), longs(0, MiB, 0, 0)));
      const features = message(REQUEST.SET_FEATURES, u64(1n << BigInt(FEATURE.VERSION_1)));
      for (let i = 0; i < connections; i++) {
        const socket = new FrontSocket(bad());
        socket.send(features);
        socket.send(table, [memory]);
        socket.send(message(REQUEST.SET_VRING_NUM, words(0, 64)));
        socket.send(message(REQUEST.SET_VRING_ADDR, concat(words(0, 0), longs(0, 8192, 4096, 0))));
        socket.send(message(REQUEST.SET_VRING_CALL, longs(0)), [event]);
        socket.send(message(REQUEST.SET_VRING_KICK, longs(0)), [event]);
        if (i % 3 === 0) await socket.ask(REQUEST.GET_VRING_BASE, words(0, 0));
        else if (i % 3 === 1) await socket.ask(REQUEST.GET_FEATURES);
        socket.close();
      }
      closeSync(memory);
      closeSync(event);
      await eventually('the last connection to be over', () => server.statistics[0]?.session === undefined, 60_000);
    };
    await count(200);
    const settled = { descriptors: descriptors(), threads: threads(), mappings: mappings() };
    const maps = readFileSync('/proc/self/maps', 'utf8').split('\n').length;
    const connections = server.statistics[0]?.connections ?? 0;
    await count(10_000);
    // Those that closed at once may have been swept up before they were accepted.
    expect((server.statistics[0]?.connections ?? 0) - connections).toBe(10_000);
    expect({ descriptors: descriptors(), threads: threads(), mappings: mappings() }).toEqual(settled);
    // The engine's own heap comes and goes by some hundreds; one left by each connection would be ten thousand.
    expect(readFileSync('/proc/self/maps', 'utf8').split('\n').length).toBeLessThan(maps + 1000);
    await othersPass();
  }, 180_000);
});
