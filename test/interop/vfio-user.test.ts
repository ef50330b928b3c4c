// vfio-user servers against a client of our own: every command, both kinds of memory, interrupts, dirty pages, migration, and clients that break the rules.

import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import { Log, type LogRecord, type Machine, Msix, msixBar, PciFunction } from 'nicbox';
import { serveVfioUser, type VfioUserServer } from 'nicbox/interop';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { givePollBack, takePoll } from '#interop/event-poll';
import { attachAdder, ADDER_REGISTERS as R } from '../../examples/vfio-user-toy.ts';
import { COMMAND, CONFIG, FEATURE, frame, IRQ, MEMORY_BYTES, pack, STATE, VfioClient, versionPayload } from './vfio-client.ts';

const folder = mkdtempSync(join(tmpdir(), 'nbv-'));
const servers: VfioUserServer[] = [];
const clients: VfioClient[] = [];
let sockets = 0;

afterEach(async () => {
  for (const client of clients.splice(0)) client.close();
  await Promise.all(servers.splice(0).map((server) => server.close()));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function serve(device: Parameters<typeof serveVfioUser>[0] = attachAdder, log = new Log()): Promise<VfioUserServer> {
  const server = await serveVfioUser(device, { socket: join(folder, `s${sockets++}`), log });
  servers.push(server);
  return server;
}

function connect(server: VfioUserServer): VfioClient {
  const client = new VfioClient(server.path);
  clients.push(client);
  return client;
}

async function greeted(server: VfioUserServer): Promise<VfioClient> {
  const client = connect(server);
  await client.hello();
  return client;
}

const MASTER_AND_MEMORY = 6;
const IOVA = 0x8000_0000;

/** A client whose adder may reach memory: a mapped one at IOVA, one by message at its remote base. */
async function started(server: VfioUserServer): Promise<VfioClient> {
  const client = await greeted(server);
  client.makeMemory(IOVA);
  await client.mapDma(IOVA, MEMORY_BYTES, { fd: client.memoryFd });
  await client.mapRemote();
  await client.store(CONFIG, 4, 2, MASTER_AND_MEMORY);
  return client;
}

function word(client: VfioClient, at: number): number {
  return new DataView(client.remote.buffer).getUint32(at, true);
}

async function eventually(what: string, holds: () => boolean): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error(`waited 10 s for ${what}`);
    await turn();
  }
}

const openDescriptors = (): number => readdirSync('/proc/self/fd').length;

describe('information', () => {
  it('agrees on a version, lowering what it must and leaving out what was not offered', async () => {
    const server = await serve();
    const { capabilities } = await (await connect(server)).hello();
    expect(capabilities).toEqual({
      max_msg_fds: 16,
      max_data_xfer_size: 1_048_576,
      pgsizes: 4096,
      max_dma_maps: 4096,
      write_multiple: true,
      migration: { pgsize: 4096, max_bitmap_size: 1_048_576 },
    });
    const plain = connect(await serve());
    expect((await plain.hello({ max_data_xfer_size: 4096 })).capabilities).toEqual({
      max_msg_fds: 1,
      max_data_xfer_size: 4096,
      pgsizes: 4096,
      max_dma_maps: 4096,
    });
  });

  it('describes device, regions and interrupts', async () => {
    const client = await greeted(await serve());
    const info = await client.ask(COMMAND.GET_INFO, pack(16, 0, 0, 0));
    expect([0, 4, 8, 12].map((at) => info.getUint32(at, true))).toEqual([16, 3, 9, 5]);
    const region = async (index: number): Promise<[number, number]> => {
      const reply = await client.ask(COMMAND.GET_REGION_INFO, pack(32, 0, index, 0, 0n, 0n));
      return [reply.getUint32(4, true), Number(reply.getBigUint64(16, true))];
    };
    expect(await region(0)).toEqual([3, 4096]);
    expect(await region(1)).toEqual([0, 0]);
    expect(await region(CONFIG)).toEqual([3, 4096]);
    const irq = async (index: number): Promise<[number, number]> => {
      const reply = await client.ask(COMMAND.GET_IRQ_INFO, pack(16, 0, index, 0));
      return [reply.getUint32(4, true), reply.getUint32(12, true)];
    };
    expect(await Promise.all([0, 1, 2, 3, 4].map(irq))).toEqual([
      [7, 1],
      [3, 1],
      [3, 0],
      [1, 1],
      [1, 1],
    ]);
    for (const command of [COMMAND.GET_REGION_INFO, COMMAND.GET_IRQ_INFO])
      await expect(client.ask(command, pack(32, 0, 9, 0, ...(command === COMMAND.GET_REGION_INFO ? [0n, 0n] : [])))).rejects.toThrow('refused with 22');
    await expect(client.ask(COMMAND.GET_REGION_IO_FDS, pack(16, 0, 0, 0))).rejects.toThrow('refused with 95');
    await expect(client.ask(99)).rejects.toThrow('refused with 95');
  });
});

describe('regions', () => {
  it('reads and writes configuration space and BARs in pieces of any size', async () => {
    const client = await greeted(await serve());
    expect(await client.load(CONFIG, 0, 4)).toBe(0xad0d_1234);
    expect(await client.load(CONFIG, 1, 2)).toBe(0x0d12);
    await client.store(CONFIG, 0x10, 4, 0xffff_ffff);
    expect(await client.load(CONFIG, 0x10, 4)).toBe(0xffff_f000);
    await client.store(0, R.ADDRESS.offset, 4, 0x1234_5678);
    const all = await client.ask(COMMAND.REGION_READ, pack(0n, 0, 4096));
    expect([all.byteLength, all.getUint32(16, true)]).toEqual([16 + 4096, 0x1234_5678]);
    await client.store(0, R.ADDRESS.offset + 1, 2, 0xabcd);
    expect(await client.load(0, R.ADDRESS.offset, 4)).toBe(0x12ab_cd78);
  });

  it('refuses what is not inside a region, and goes on', async () => {
    const client = await greeted(await serve());
    for (const [region, offset, count] of [
      [0, 4096n, 1],
      [0, 4093n, 4],
      [1, 0n, 1],
      [9, 0n, 1],
      [0, 0xffff_ffff_ffff_ffffn, 1],
      [CONFIG, 0n, 0x10_0001],
    ] as const)
      await expect(client.ask(COMMAND.REGION_READ, pack(offset, region, count)), `${region} ${offset} ${count}`).rejects.toThrow('refused with 22');
    await expect(client.ask(COMMAND.REGION_WRITE, pack(0n, 0, 8, 1))).rejects.toThrow('refused with 22');
    expect(await client.load(CONFIG, 0, 2)).toBe(0x1234);
  });

  it('takes posted writes in order before the read that follows them', async () => {
    const client = await greeted(await serve());
    for (let i = 1; i <= 200; i++) client.postStore(0, R.ADDRESS.offset, 4, 4 * i);
    expect(await client.load(0, R.ADDRESS.offset, 4)).toBe(800);
    client.postStore(5, 0, 4, 1);
    expect(await client.load(0, R.ADDRESS.offset, 4)).toBe(800);
  });

  it('takes many writes in one message, all or none', async () => {
    const client = await greeted(await serve());
    const write = (offset: number, value: number, count = 4): Uint8Array => pack(BigInt(offset), 0, count, BigInt(value));
    const reply = await client.ask(COMMAND.WRITE_MULTI, pack(2n, write(0, 0x10), write(0, 0x20)));
    expect(reply.getBigUint64(0, true)).toBe(2n);
    expect(await client.load(0, 0, 4)).toBe(0x20);
    await expect(client.ask(COMMAND.WRITE_MULTI, pack(2n, write(0, 0x30), write(5000, 1)))).rejects.toThrow('refused with 22');
    await expect(client.ask(COMMAND.WRITE_MULTI, pack(1n, write(0, 0x30, 9)))).rejects.toThrow('refused with 22');
    await expect(client.ask(COMMAND.WRITE_MULTI, pack(0xffff_ffffn, write(0, 0x30)))).rejects.toThrow('refused with 22');
    expect(await client.load(0, 0, 4)).toBe(0x20);
  });

  it('resets the device', async () => {
    const client = await started(await serve());
    await client.store(0, 0, 4, 0x40);
    await client.ask(COMMAND.RESET);
    expect(await client.load(0, 0, 4)).toBe(0);
    expect(await client.load(CONFIG, 4, 2)).toBe(0);
  });
});

describe('memory', () => {
  it('is used where a descriptor came with it, and not after it was taken away', async () => {
    const server = await serve();
    const client = await started(server);
    const ram = client.memory?.slabs[0]?.views.u32 as Uint32Array;
    ram[4] = 40;
    await client.store(0, R.ADDRESS.offset, 4, IOVA + 16);
    await client.store(0, R.ADD.offset, 4, 2);
    expect([await client.load(0, R.STATUS.offset, 4), ram[4], client.dmaReads]).toEqual([1, 42, 0]);
    expect(server.statistics.regions).toEqual({ mapped: 1, byMessage: 1 });
    await client.unmapDma(IOVA, MEMORY_BYTES);
    await client.store(0, R.STATUS.offset, 4, 3);
    await client.store(0, R.ADD.offset, 4, 2);
    expect([await client.load(0, R.STATUS.offset, 4), ram[4]]).toEqual([3, 42]);
  });

  it('maps pieces of one file at their offsets, read-only ones too', async () => {
    const client = await greeted(await serve());
    const ram = client.makeMemory(0).slabs[0]?.views.u32 as Uint32Array;
    await client.store(CONFIG, 4, 2, MASTER_AND_MEMORY);
    await client.mapDma(0x10000, 0x1000, { fd: client.memoryFd, offset: 0x3000 });
    await client.mapDma(0x11000, 0x1000, { fd: client.memoryFd, offset: 0x1000, flags: 1 });
    await client.store(0, R.ADDRESS.offset, 4, 0x10008);
    await client.store(0, R.ADD.offset, 4, 7);
    expect(ram[0x3008 / 4]).toBe(7);
    await client.store(0, R.STATUS.offset, 4, 3);
    await client.store(0, R.ADDRESS.offset, 4, 0x11008);
    await client.store(0, R.ADD.offset, 4, 7);
    expect([await client.load(0, R.STATUS.offset, 4), ram[0x1008 / 4]]).toEqual([3, 0]);
  });

  it('is asked for by message where no descriptor came with it', async () => {
    const client = await started(await serve());
    new DataView(client.remote.buffer).setUint32(0x100, 5, true);
    await client.store(0, R.ADDRESS.offset, 4, client.remoteBase + 0x100);
    await client.store(0, R.ADD.offset, 4, 6);
    expect([word(client, 0x100), await client.load(0, R.STATUS.offset, 4), client.dmaReads, client.dmaWrites]).toEqual([11, 1, 1, 1]);
  });

  it('goes on answering register accesses while it waits for memory, and takes posted writes in their order', async () => {
    const client = await started(await serve());
    await client.store(0, R.ADDRESS.offset, 4, client.remoteBase);
    const seen: number[] = [];
    let asked = false;
    client.onDma = (request) => {
      if (asked) return true;
      asked = true;
      // As QEMU does: a CPU reads a register, and holds what the answer to the DMA needs until it has it.
      client.postStore(0, R.ADDRESS.offset, 4, client.remoteBase + 64);
      const id = client.post(COMMAND.REGION_READ, pack(BigInt(R.ADDRESS.offset), 0, 4));
      client.whenAnswered(id, ({ payload }) => {
        seen.push(payload.getUint32(16, true));
        client.sendBytes(frame(request.id, request.command, 1, pack(request.payload.getBigUint64(0, true), 4n, 9)));
      });
      return false;
    };
    await client.store(0, R.ADD.offset, 4, 1);
    expect(seen).toEqual([client.remoteBase + 64]);
    // The sum of what was read (9) and added (1), at the address the addition began with.
    expect([word(client, 0), word(client, 64)]).toEqual([10, 0]);
  });

  it('lets additions inside additions go eight deep and refuses more', async () => {
    const records: LogRecord[] = [];
    const log = new Log();
    log.listen((record) => void records.push(record), ['guest-error']);
    const client = await started(await serve(attachAdder, log));
    await client.store(0, R.ADDRESS.offset, 4, client.remoteBase);
    let depth = 0;
    client.onDma = (request) => {
      if (request.command !== COMMAND.DMA_READ || depth >= 12) return true;
      depth++;
      client.whenAnswered(client.post(COMMAND.REGION_WRITE, client.storePayload(0, R.ADD.offset, 4, 1)), () => {
        client.sendBytes(frame(request.id, request.command, 1, pack(request.payload.getBigUint64(0, true), 4n, word(client, 0))));
      });
      return false;
    };
    await client.store(0, R.ADD.offset, 4, 1);
    expect(depth).toBe(8);
    expect(records.some(({ message }) => message.includes('8 are under way'))).toBe(true);
    expect(await client.load(CONFIG, 0, 2)).toBe(0x1234);
  });

  it('gives up a device call that waits for memory when the device is reset, then resets it', async () => {
    const client = await started(await serve());
    await client.store(0, R.ADDRESS.offset, 4, client.remoteBase);
    let late: (() => void) | undefined;
    client.onDma = (request) => {
      late = () => client.sendBytes(frame(request.id, request.command, 1, pack(request.payload.getBigUint64(0, true), 4n, 1)));
      void client.post(COMMAND.RESET);
      return false;
    };
    await client.store(0, R.ADD.offset, 4, 1);
    expect(await client.load(0, R.ADDRESS.offset, 4)).toBe(0);
    late?.();
    expect(await client.load(CONFIG, 0, 2)).toBe(0x1234);
  });

  it('a client that goes on and on while its memory is waited for keeps nobody else out', async () => {
    const server = await serve();
    const client = await started(server);
    await client.store(0, R.ADDRESS.offset, 4, client.remoteBase);
    const poll = takePoll(client.native);
    const bell = client.eventfd();
    let seen = -1;
    const watch = poll.add(bell, () => {
      seen = server.machine.barRead(server.fn.routingId, 0, R.ADDRESS.offset, 4);
    });
    client.onDma = (request) => {
      client.native.events.writeEvent(bell);
      client.sendBytes(
        pack(...Array.from({ length: 1000 }, (_, i) => frame(0x8000 + i, COMMAND.REGION_WRITE, 0, client.storePayload(0, R.ADDRESS.offset, 4, 4 * i)))),
      );
      client.sendBytes(frame(request.id, request.command, 0x21, undefined, 16, 14));
      return false;
    };
    await client.store(0, R.ADD.offset, 4, 1);
    expect(seen).toBeGreaterThanOrEqual(0);
    expect(seen).toBeLessThan(4 * 200);
    if (typeof watch !== 'number') watch.remove();
    givePollBack();
  });

  it('does not keep long posted writes until a device has its memory', async () => {
    let refused = 0;
    const log = new Log();
    const client = await started(await serve(attachAdder, log));
    await client.store(0, R.ADDRESS.offset, 4, client.remoteBase);
    let answer = (): void => {};
    log.listen(() => {
      if (refused++ === 0) answer();
    }, ['guest-error']);
    client.onDma = (request) => {
      answer = () => client.sendBytes(frame(request.id, request.command, 0x21, undefined, 16, 14));
      client.post(COMMAND.REGION_WRITE, pack(0n, 0, 16384, new Uint8Array(16384)), [], 0x10);
      return false;
    };
    await client.store(0, R.ADD.offset, 4, 1);
    expect(refused).toBeGreaterThan(0);
  });

  it('splits what is larger than a client takes in one message', async () => {
    const bytes = Uint8Array.from({ length: 10_000 }, (_, i) => i * 7);
    const into = new Uint8Array(10_000);
    let ok = false;
    const server = await serve((machine) => {
      const fn = attachAdder(machine);
      return fn;
    });
    const client = connect(server);
    await client.hello({ max_data_xfer_size: 1000 });
    await client.mapRemote();
    await client.store(CONFIG, 4, 2, MASTER_AND_MEMORY);
    client.remote.set(bytes, 5);
    // The server waits on this thread: the client has to answer from another stack. Its answers are sent before the question.
    const { dma } = server.fn.services as NonNullable<PciFunction['services']>;
    for (let i = 0; i < 10; i++)
      client.sendBytes(frame(2 + i, COMMAND.DMA_READ, 1, pack(BigInt(client.remoteBase + 5 + 1000 * i), 1000n, bytes.slice(1000 * i, 1000 * i + 1000))));
    ok = dma.read(client.remoteBase + 5, into);
    expect([ok, into]).toEqual([true, bytes]);
    expect(server.statistics.dmaMessages).toBe(10);
  });

  it('refuses regions that overlap, wrap around, are not whole pages, or have a descriptor that does not do', async () => {
    const client = await greeted(await serve());
    client.makeMemory(0);
    const fd = client.memoryFd;
    await client.mapDma(0x10000, 0x2000, { fd });
    const cases: [number, number, Parameters<VfioClient['mapDma']>[2], number][] = [
      [0x11000, 0x1000, { fd }, 17],
      [0xf000, 0x2000, {}, 17],
      [0, 2 ** 40, {}, 17],
      [0x20001, 0x1000, { fd }, 22],
      [0x20000, 0x1001, { fd }, 22],
      [0x20000, 0, { fd }, 22],
      [2 ** 52 - 4096, 0x2000, {}, 22],
      [0x20000, 0x1000, { fd, offset: MEMORY_BYTES }, 22],
      [0x20000, MEMORY_BYTES + 4096, { fd }, 22],
      [0x20000, 0x1000, { fd, offset: 1 }, 22],
      [0x20000, 0x1000, { fd, flags: 0 }, 22],
      [0x20000, 0x1000, { fd, flags: 7 }, 22],
      [0x20000, 0x1000, { fd: client.eventfd() }, 22],
      [0x20000, 2 ** 45, { fd }, 22],
      [0x20000, 2 ** 41, {}, 28],
    ];
    for (const [iova, size, options, errno] of cases)
      await expect(client.mapDma(iova, size, options), `${iova} ${size}`).rejects.toThrow(`refused with ${errno}`);
    await expect(client.ask(COMMAND.DMA_MAP, pack(32, 3, 0n, 0xffff_ffff_ffff_f000n, 0x1000n))).rejects.toThrow('refused with 22');
    await expect(client.ask(COMMAND.DMA_MAP, pack(32, 3, 0n, 0x20000n, 0x1000n), [fd, fd])).rejects.toThrow('refused with 22');
    for (const [iova, size] of [
      [0x10000, 0x1000],
      [0x11000, 0x1000],
      [0x10000, 0x3000],
      [0, 0x1000],
    ] as const)
      await expect(client.unmapDma(iova, size)).rejects.toThrow('refused with 2');
    await client.unmapDma(0x10000, 0x2000);
    await client.mapDma(0x10000, 0x2000, { fd });
  });
});

/** A function that interrupts when told to, in whichever mode it is. */
function interrupter(vectors: number): { readonly device: (machine: Machine) => PciFunction; readonly fn: () => PciFunction } {
  const msix = new Msix({ vectors, table: { bar: 0, offset: 0 }, pendingBits: { bar: 0, offset: 0x800 } });
  const fn = new PciFunction({
    name: 'interrupter',
    identity: { vendorId: 0x1234, deviceId: 1, classCode: 0xff0000, interruptPin: 1, pcieType: 'root-complex-endpoint' },
    bars: [{ index: 0, kind: 'memory32', region: msixBar(msix, 0), size: 4096 }],
    capabilities: [msix],
  });
  return {
    fn: () => fn,
    device: (machine) => {
      machine.attach(fn);
      return fn;
    },
  };
}

describe('interrupts', () => {
  it('INTx masks itself and comes again after unmasking while the level is there', async () => {
    const client = await started(await serve());
    const event = client.eventfd();
    await client.setIrqs(IRQ.EVENTFD | IRQ.TRIGGER, 0, 0, 1, [event]);
    await client.store(0, R.ADDRESS.offset, 4, IOVA);
    await client.store(0, R.ADD.offset, 4, 1);
    await client.store(0, R.ADD.offset, 4, 1);
    expect(client.count(event)).toBe(1);
    await client.setIrqs(IRQ.NONE | IRQ.UNMASK, 0, 0, 1);
    expect(client.count(event)).toBe(1);
    await client.store(0, R.STATUS.offset, 4, 3);
    await client.setIrqs(IRQ.NONE | IRQ.UNMASK, 0, 0, 1);
    expect(client.count(event)).toBe(0);
    await client.setIrqs(IRQ.NONE | IRQ.MASK, 0, 0, 1);
    await client.store(0, R.ADD.offset, 4, 1);
    expect(client.count(event)).toBe(0);
    await client.setIrqs(IRQ.BOOL | IRQ.UNMASK, 0, 0, 1, [], new Uint8Array([0]));
    expect(client.count(event)).toBe(0);
    await client.setIrqs(IRQ.BOOL | IRQ.UNMASK, 0, 0, 1, [], new Uint8Array([1]));
    expect(client.count(event)).toBe(1);
    const resample = client.eventfd();
    await client.setIrqs(IRQ.EVENTFD | IRQ.UNMASK, 0, 0, 1, [resample]);
    client.native.events.writeEvent(resample);
    await eventually('the level after resampling', () => client.count(event) === 1);
    await client.setIrqs(IRQ.NONE | IRQ.TRIGGER, 0, 0, 0);
    await client.store(0, R.ADD.offset, 4, 1);
    expect(client.count(event)).toBe(0);
  });

  it('MSI waits for its descriptor', async () => {
    const client = await started(await serve());
    const msi = await client.load(CONFIG, 0x34, 1);
    await client.store(CONFIG, msi + 4, 4, 0xfee0_1000);
    await client.store(CONFIG, msi + 12, 2, 0x31);
    await client.store(CONFIG, msi + 2, 2, 1);
    await client.store(0, R.ADDRESS.offset, 4, IOVA);
    await client.store(0, R.ADD.offset, 4, 1);
    const event = client.eventfd();
    await client.setIrqs(IRQ.EVENTFD | IRQ.TRIGGER, 1, 0, 1, [event]);
    expect(client.count(event)).toBe(1);
    await client.store(0, R.ADD.offset, 4, 1);
    expect(client.count(event)).toBe(1);
  });

  it('MSI-X goes by descriptors alone when the client keeps the table, in chunks, with none for some', async () => {
    const { device, fn } = interrupter(8);
    const client = await greeted(await serve(device));
    const cap = await client.load(CONFIG, 0x34, 1);
    await client.store(CONFIG, 4, 2, MASTER_AND_MEMORY);
    await client.store(CONFIG, cap + 2, 2, 0x8000);
    const events = Array.from({ length: 8 }, () => client.eventfd());
    await client.setIrqs(IRQ.EVENTFD | IRQ.TRIGGER, 2, 0, 1);
    await client.setIrqs(IRQ.EVENTFD | IRQ.TRIGGER, 2, 0, 3, events.slice(0, 3));
    await client.setIrqs(IRQ.EVENTFD | IRQ.TRIGGER, 2, 3, 4, events.slice(3, 7));
    for (let vector = 0; vector < 8; vector++) fn().interrupts.raise(vector);
    expect(events.map((event) => client.count(event))).toEqual([1, 1, 1, 1, 1, 1, 1, 0]);
    // What had no descriptor is pending, as the client can see, and comes when it has one.
    expect(await client.load(0, 0x800, 8)).toBe(0x80);
    await client.setIrqs(IRQ.EVENTFD | IRQ.TRIGGER, 2, 7, 1, events.slice(7));
    expect([client.count(events[7] as number), await client.load(0, 0x800, 8)]).toEqual([1, 0]);
    await client.setIrqs(IRQ.NONE | IRQ.MASK, 2, 1, 1);
    fn().interrupts.raise(1);
    expect(client.count(events[1] as number)).toBe(0);
    await client.setIrqs(IRQ.NONE | IRQ.UNMASK, 2, 1, 1);
    expect(client.count(events[1] as number)).toBe(1);
    await client.setIrqs(IRQ.BOOL | IRQ.TRIGGER, 2, 0, 3, [], new Uint8Array([1, 0, 1]));
    expect(events.slice(0, 3).map((event) => client.count(event))).toEqual([1, 0, 1]);
    await client.setIrqs(IRQ.NONE | IRQ.TRIGGER, 2, 0, 0);
    fn().interrupts.raise(0);
    expect(client.count(events[0] as number)).toBe(0);
  });

  it('a client that writes the table is obeyed: reads see what it wrote, masks hold, and an FLR forgets it', async () => {
    const { device, fn } = interrupter(2);
    const client = await greeted(await serve(device));
    const cap = await client.load(CONFIG, 0x34, 1);
    await client.store(CONFIG, 4, 2, MASTER_AND_MEMORY);
    await client.store(CONFIG, cap + 2, 2, 0x8000);
    const event = client.eventfd();
    await client.setIrqs(IRQ.EVENTFD | IRQ.TRIGGER, 2, 0, 1, [event]);
    await client.store(0, 0, 4, 0xfee0_2000);
    await client.store(0, 8, 4, 0x55);
    expect(await client.load(0, 0, 4)).toBe(0xfee0_2000);
    fn().interrupts.raise(0);
    expect([client.count(event), await client.load(0, 0x800, 4)]).toEqual([0, 1]);
    await client.store(0, 12, 4, 0);
    expect([client.count(event), await client.load(0, 0x800, 4)]).toEqual([1, 0]);
    await client.ask(COMMAND.RESET);
    expect(await client.load(0, 12, 4)).toBe(1);
    expect(await client.load(0, 8, 4)).toBe(0);
  });

  it('tells of failures and of wanting the device back', async () => {
    const server = await serve();
    const client = await greeted(server);
    expect([server.requestRelease(), server.reportError()]).toEqual([false, false]);
    const [error, release] = [client.eventfd(), client.eventfd()];
    await client.setIrqs(IRQ.EVENTFD | IRQ.TRIGGER, 3, 0, 1, [error]);
    await client.setIrqs(IRQ.EVENTFD | IRQ.TRIGGER, 4, 0, 1, [release]);
    expect([server.requestRelease(), client.count(release), client.count(error)]).toEqual([true, 1, 0]);
    expect([server.reportError(), client.count(release), client.count(error)]).toEqual([true, 0, 1]);
  });

  it('refuses what makes no sense', async () => {
    const client = await greeted(await serve());
    const cases: [number, number, number, number, number[], number][] = [
      [IRQ.NONE, 0, 0, 1, [], 0],
      [IRQ.NONE | IRQ.BOOL | IRQ.TRIGGER, 0, 0, 1, [], 0],
      [IRQ.NONE | IRQ.MASK | IRQ.TRIGGER, 0, 0, 1, [], 0],
      [IRQ.NONE | IRQ.TRIGGER | 64, 0, 0, 1, [], 0],
      [IRQ.NONE | IRQ.TRIGGER, 5, 0, 1, [], 0],
      [IRQ.NONE | IRQ.TRIGGER, 0, 1, 1, [], 0],
      [IRQ.NONE | IRQ.TRIGGER, 0, 0xffff_ffff, 2, [], 0],
      [IRQ.NONE | IRQ.TRIGGER, 0, 1, 0, [], 0],
      [IRQ.BOOL | IRQ.TRIGGER, 0, 0, 1, [], 0],
      [IRQ.NONE | IRQ.TRIGGER, 0, 0, 1, [1], 0],
      [IRQ.EVENTFD | IRQ.TRIGGER, 0, 0, 1, [1, 1], 0],
      [IRQ.NONE | IRQ.MASK, 3, 0, 1, [], 0],
      [IRQ.EVENTFD | IRQ.UNMASK, 1, 0, 1, [1], 0],
      [IRQ.NONE | IRQ.TRIGGER, 0, 0, 1, [], 4],
    ];
    const event = client.eventfd();
    const before = openDescriptors();
    for (const [flags, index, start, count, fds, data] of cases)
      await expect(
        client.setIrqs(
          flags,
          index,
          start,
          count,
          fds.map(() => event),
          new Uint8Array(data),
        ),
        `${flags} ${index} ${start} ${count}`,
      ).rejects.toThrow('refused with 22');
    expect(openDescriptors()).toBe(before);
  });
});

describe('dirty pages and features', () => {
  it('logs by range and page size, and forgets what it reported', async () => {
    const client = await started(await serve());
    await expect(client.feature(FEATURE.GET | FEATURE.LOG_REPORT, pack(BigInt(IOVA), 4096n, 4096n))).rejects.toThrow('refused with 22');
    const reply = await client.feature(FEATURE.SET | FEATURE.LOG_START, pack(65536n, 1, 0, BigInt(IOVA), BigInt(MEMORY_BYTES)));
    expect(reply.getBigUint64(8, true)).toBe(4096n);
    const add = async (address: number): Promise<void> => {
      await client.store(0, R.ADDRESS.offset, 4, address);
      await client.store(0, R.ADD.offset, 4, 1);
    };
    await add(IOVA + 3 * 4096);
    await add(IOVA + 70 * 4096 + 8);
    await add(client.remoteBase + 4096);
    const report = async (iova: number, length: number, page: number): Promise<bigint[]> => {
      const view = await client.feature(FEATURE.GET | FEATURE.LOG_REPORT, pack(BigInt(iova), BigInt(length), BigInt(page)));
      return Array.from({ length: (view.byteLength - 32) / 8 }, (_, i) => view.getBigUint64(32 + 8 * i, true));
    };
    expect(await report(IOVA, 64 * 4096, 4096)).toEqual([8n]);
    expect(await report(IOVA, 128 * 4096, 4096)).toEqual([0n, 64n]);
    expect(await report(client.remoteBase, 8192, 2048)).toEqual([0b1100n]);
    await add(IOVA + 33 * 4096);
    expect(await report(IOVA, MEMORY_BYTES, 2 ** 16)).toEqual([1n << 2n]);
    await client.feature(FEATURE.SET | FEATURE.LOG_STOP);
    await expect(client.feature(FEATURE.SET | FEATURE.LOG_STOP)).rejects.toThrow('refused with 22');
  });

  it('does the same the old way, and with an unmap', async () => {
    const client = await started(await serve());
    await client.ask(COMMAND.DIRTY_PAGES, pack(8, 1));
    await client.store(0, R.ADDRESS.offset, 4, IOVA + 5 * 4096);
    await client.store(0, R.ADD.offset, 4, 1);
    const reply = await client.ask(COMMAND.DIRTY_PAGES, pack(4096, 4, BigInt(IOVA), 65536n, 4096n, 8n, 0n));
    expect([reply.getUint32(0, true), reply.byteLength, reply.getBigUint64(48, true)]).toEqual([56, 56, 32n]);
    await client.store(0, R.ADD.offset, 4, 1);
    const short = await client.ask(COMMAND.DIRTY_PAGES, pack(4096, 4, BigInt(IOVA), 65536n, 4096n, 8n));
    expect([short.byteLength, short.getBigUint64(40, true)]).toEqual([48, 32n]);
    await client.store(0, R.ADD.offset, 4, 1);
    const small = await client.ask(COMMAND.DIRTY_PAGES, pack(48, 4, BigInt(IOVA + 2 ** 20), 65536n, 4096n, 8n, 0n));
    expect([small.getUint32(0, true), small.byteLength]).toEqual([56, 48]);
    const gone = await client.ask(COMMAND.DMA_UNMAP, pack(4096, 1, BigInt(IOVA), BigInt(MEMORY_BYTES), 4096n, 128n));
    expect(gone.getBigUint64(40, true)).toBe(32n);
    await client.ask(COMMAND.DIRTY_PAGES, pack(8, 2));
    await expect(client.ask(COMMAND.DIRTY_PAGES, pack(4096, 4, 0n, 65536n, 4096n, 8n, 0n))).rejects.toThrow('refused with 22');
  });

  it('says which features there are: no migration of what has not told its state', async () => {
    const client = await greeted(await serve());
    expect((await client.feature(FEATURE.GET | FEATURE.MIGRATION)).getBigUint64(8, true)).toBe(5n);
    for (const flags of [
      FEATURE.MIGRATION | FEATURE.GET,
      FEATURE.STATE | FEATURE.GET | FEATURE.SET,
      FEATURE.LOG_START | FEATURE.SET,
      FEATURE.LOG_STOP | FEATURE.SET,
      FEATURE.LOG_REPORT | FEATURE.GET,
    ])
      await client.feature(FEATURE.PROBE | flags);
    for (const flags of [FEATURE.MIGRATION | FEATURE.SET, FEATURE.LOG_START | FEATURE.GET, 3 | FEATURE.GET, 0x80000])
      await expect(client.feature(flags)).rejects.toThrow('refused with 25');
    const other = await greeted(await serve(interrupter(1).device));
    await expect(other.feature(FEATURE.GET | FEATURE.MIGRATION)).rejects.toThrow('refused with 25');
    await expect(other.setState(STATE.STOP)).rejects.toThrow('refused with 25');
  });
});

describe('migration', () => {
  it.each([true, false])('moves a device to another server, pre-copy %s, with its registers and an interrupt that is due', async (early) => {
    const source = await started(await serve());
    await source.store(0, R.ADDRESS.offset, 4, IOVA);
    await source.store(0, R.ADD.offset, 4, 1);
    const pieces: Uint8Array[] = [];
    if (early) {
      await source.setState(STATE.PRE_COPY);
      pieces.push(await source.takeState());
      await source.store(0, R.ADDRESS.offset, 4, IOVA + 4);
    }
    await source.setState(STATE.STOP_COPY);
    pieces.push(await source.takeState());
    expect(await source.state()).toBe(STATE.STOP_COPY);
    const target = await greeted(await serve());
    const event = target.eventfd();
    await target.setIrqs(IRQ.EVENTFD | IRQ.TRIGGER, 0, 0, 1, [event]);
    await target.setState(STATE.RESUMING);
    await target.giveState(pack(...pieces));
    await target.setState(STATE.RUNNING);
    expect(await target.load(0, R.ADDRESS.offset, 4)).toBe(early ? IOVA + 4 : IOVA);
    expect([await target.load(0, R.STATUS.offset, 4), await target.load(CONFIG, 4, 2), target.count(event)]).toEqual([1, MASTER_AND_MEMORY, 1]);
  });

  it('sends nothing twice: a device that did nothing since pre-copy has an end to send only', async () => {
    const source = await started(await serve());
    await source.setState(STATE.PRE_COPY);
    const first = await source.takeState();
    await source.setState(STATE.STOP_COPY);
    const rest = await source.takeState();
    expect(rest.length).toBeLessThan(64);
    const target = await greeted(await serve());
    await target.setState(STATE.RESUMING);
    await target.giveState(pack(first, rest));
    await target.setState(STATE.RUNNING);
    expect(await target.load(CONFIG, 4, 2)).toBe(MASTER_AND_MEMORY);
  });

  it('goes the ways there are and no other', async () => {
    const client = await greeted(await serve());
    for (const state of [STATE.STOP, STATE.STOP_COPY, STATE.RUNNING, STATE.PRE_COPY, STATE.STOP, STATE.RUNNING, STATE.STOP_COPY, STATE.STOP, STATE.RUNNING]) {
      await client.setState(state);
      expect(await client.state()).toBe(state);
    }
    await client.setState(STATE.STOP_COPY);
    await expect(client.setState(STATE.PRE_COPY)).rejects.toThrow('refused with 22');
    for (const state of [STATE.ERROR, 5, 7, 99]) await expect(client.setState(state)).rejects.toThrow('refused with 22');
    await client.ask(COMMAND.RESET);
    expect(await client.state()).toBe(STATE.RUNNING);
    await expect(client.ask(COMMAND.MIG_READ, pack(100, 100))).rejects.toThrow('refused with 22');
    await expect(client.ask(COMMAND.MIG_WRITE, pack(8, 0))).rejects.toThrow('refused with 22');
  });

  it('refuses a stream that is none, is cut short, or is of another device, and can be reset then', async () => {
    const source = await started(await serve());
    await source.setState(STATE.STOP_COPY);
    const stream = await source.takeState();
    const other = await greeted(await serve(interrupter(1).device));
    await expect(other.setState(STATE.RESUMING)).rejects.toThrow('refused with 25');
    const target = await greeted(await serve());
    const spoilt = stream.slice();
    spoilt[60] = 0;
    for (const bad of [new Uint8Array(0), stream.slice(0, 100), stream.slice(40), spoilt, pack(stream, stream), new Uint8Array(100).fill(255)]) {
      await target.setState(STATE.RESUMING);
      await target.giveState(bad);
      await expect(target.setState(STATE.STOP)).rejects.toThrow('refused with 22');
      expect(await target.state()).toBe(STATE.ERROR);
      await expect(target.setState(STATE.RUNNING)).rejects.toThrow('refused with 22');
      await target.ask(COMMAND.RESET);
      expect(await target.state()).toBe(STATE.RUNNING);
    }
  });
});

describe('connections', () => {
  it('serves one client at a time and the next as a new one', async () => {
    const server = await serve();
    const first = await started(server);
    await first.store(0, R.ADDRESS.offset, 4, 0x40);
    const second = connect(server);
    const hello = second.hello();
    await first.setState(STATE.STOP);
    first.close();
    await hello;
    expect([await second.load(0, R.ADDRESS.offset, 4), await second.load(CONFIG, 4, 2), await second.state()]).toEqual([0, 0, STATE.RUNNING]);
    expect(server.statistics).toMatchObject({ connected: true, connections: 2, refused: 0, regions: { mapped: 0, byMessage: 0 } });
  });

  it('takes messages in pieces of any size', async () => {
    const client = await greeted(await serve());
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 30 }),
        fc.integer({ min: 0, max: 2 ** 32 - 1 }),
        async (sizes, value) => {
          const message = frame(0x7fff, COMMAND.REGION_WRITE, 0, client.storePayload(0, 0, 4, value));
          let at = 0;
          for (const size of sizes) {
            if (at >= message.length) break;
            client.sendBytes(message.slice(at, at + size));
            at += size;
            await turn();
          }
          client.sendBytes(message.slice(at));
          await client.answer(0x7fff);
          expect(await client.load(0, 0, 4)).toBe((value & ~3) >>> 0);
        },
      ),
      { numRuns: 30 },
    );
  });

  it.each([
    ['a command before VERSION', frame(1, COMMAND.GET_INFO, 0, pack(16, 0, 0, 0))],
    ['another major version', frame(1, COMMAND.VERSION, 0, versionPayload({}, 1))],
    ['no version', frame(1, COMMAND.VERSION, 0, new Uint8Array(3))],
    ['version data without an end', frame(1, COMMAND.VERSION, 0, pack(0, new TextEncoder().encode('{}')))],
    ['version data with two ends', frame(1, COMMAND.VERSION, 0, pack(0, new TextEncoder().encode('{}\0\0')))],
    ['version data that is no JSON', frame(1, COMMAND.VERSION, 0, pack(0, new TextEncoder().encode('{\0')))],
    ['capabilities that are none', frame(1, COMMAND.VERSION, 0, versionPayload({ max_msg_fds: 'many' }))],
    ['a message shorter than its header', frame(1, COMMAND.VERSION, 0, new Uint8Array(0), 15)],
    ['a first message that is too long', frame(1, COMMAND.VERSION, 0, new Uint8Array(0), 2 ** 20)],
    ['flags that are none', frame(1, COMMAND.VERSION, 0x40, versionPayload())],
    ['a type that is none', frame(1, COMMAND.VERSION, 2, versionPayload())],
  ])('ends a connection that begins with %s, and serves the next', async (_what, bytes) => {
    const server = await serve();
    const client = connect(server);
    client.sendBytes(bytes);
    await client.hangUp();
    await (await greeted(server)).ask(COMMAND.RESET);
    expect(server.statistics.refused).toBe(1);
  });

  it.each([
    ['a message that is too long', frame(1, COMMAND.REGION_WRITE, 0, new Uint8Array(0), 2 ** 21)],
    ['an answer to nothing', frame(1, COMMAND.DMA_READ, 1, new Uint8Array(16))],
    ['a second VERSION', frame(1, COMMAND.VERSION, 0, versionPayload())],
  ])('ends a connection that goes on with %s', async (_what, bytes) => {
    const server = await serve();
    const client = await greeted(server);
    client.sendBytes(bytes);
    await client.hangUp();
    expect(server.statistics.refused).toBe(1);
  });

  it('ends a connection whose DMA answers are no answers, inside the device call that waits', async () => {
    for (const answer of [pack(0n, 4n), pack(0n, 4n, 1, 1)]) {
      const server = await serve();
      const client = await started(server);
      await client.store(0, R.ADDRESS.offset, 4, client.remoteBase);
      client.onDma = (request) => {
        client.sendBytes(frame(request.id, request.command, 1, answer));
        return false;
      };
      await expect(client.store(0, R.ADD.offset, 4, 1)).rejects.toThrow('hung up');
      await (await greeted(server)).ask(COMMAND.RESET);
    }
  });

  it('sees a client go inside the device call that waits for it', async () => {
    const server = await serve();
    const client = await started(server);
    await client.store(0, R.ADDRESS.offset, 4, client.remoteBase);
    client.onDma = () => {
      client.close();
      return false;
    };
    await client.store(0, R.ADD.offset, 4, 1).catch(() => {});
    await (await greeted(server)).ask(COMMAND.RESET);
    expect(server.statistics.refused).toBe(0);
  });

  it('an error answer to DMA is a refused access of the device', async () => {
    const client = await started(await serve());
    await client.store(0, R.ADDRESS.offset, 4, client.remoteBase);
    client.onDma = (request) => {
      client.sendBytes(frame(request.id, request.command, 0x21, undefined, 16, 14));
      return false;
    };
    await client.store(0, R.ADD.offset, 4, 1);
    expect(await client.load(0, R.STATUS.offset, 4)).toBe(3);
  });

  it('survives whatever is sent', async () => {
    const server = await serve();
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.integer({ min: 0, max: 20 }), fc.constantFrom(0, 0, 0, 0x10, 1), fc.uint8Array({ maxLength: 64 })), {
          minLength: 1,
          maxLength: 12,
        }),
        async (messages) => {
          const client = await greeted(server);
          try {
            for (const [i, [command, flags, payload]] of messages.entries()) client.sendBytes(frame(i, command, flags, payload));
          } catch {
            // It has hung up already.
          }
          client.close();
        },
      ),
      { numRuns: 200 },
    );
    expect(await (await greeted(server)).load(CONFIG, 0, 4)).toBe(0xad0d_1234);
  });

  it('leaks nothing over a thousand clients that map, arm interrupts and vanish', { timeout: 120_000 }, async () => {
    const server = await serve();
    const cycle = async (): Promise<void> => {
      const client = await started(server);
      await client.setIrqs(IRQ.EVENTFD | IRQ.TRIGGER, 0, 0, 1, [client.eventfd()]);
      await client.setIrqs(IRQ.EVENTFD | IRQ.UNMASK, 0, 0, 1, [client.eventfd()]);
      client.close();
      clients.length = 0;
    };
    for (let i = 0; i < 20; i++) await cycle();
    await greeted(server).then((client) => client.close());
    const before = openDescriptors();
    const maps = readMaps();
    for (let i = 0; i < 1000; i++) await cycle();
    await greeted(server).then((client) => client.close());
    expect(openDescriptors()).toBeLessThanOrEqual(before + 2);
    expect(readMaps()).toBe(maps);
    expect(server.statistics.connections).toBe(1022);
  });
});

/** Mappings of the clients' memory files in this process. */
function readMaps(): number {
  return readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes('vfio-client')).length;
}
