// A vfio-user client that means harm: what it posts while the device waits for its memory, logs that would fill our memory, reports that it has no room for, migration data
// in crumbs. Each is refused or bounded, and a client that behaves goes on or comes next.

import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { serveVfioUser, type VfioUserServer } from 'nicbox/interop';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { givePollBack, takePoll } from '#interop/event-poll';
import { attachAdder, ADDER_REGISTERS as R } from '../../examples/vfio-user-toy.ts';
import { COMMAND, CONFIG, FEATURE, frame, MEMORY_BYTES, pack, STATE, VfioClient } from './vfio-client.ts';

const folder = mkdtempSync(join(tmpdir(), 'nbh-'));
const ends: (() => void | Promise<void>)[] = [];
let sockets = 0;

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function serve(): Promise<VfioUserServer> {
  const server = await serveVfioUser(attachAdder, { socket: join(folder, `s${sockets++}`) });
  ends.push(() => server.close());
  return server;
}

const MASTER_AND_MEMORY = 6;
const IOVA = 0x8000_0000;
const POSTED = 0x10;

/** A client whose adder may reach memory: a mapped one at IOVA, one by message at its remote base, which its address points to. */
async function started(server: VfioUserServer): Promise<VfioClient> {
  const client = new VfioClient(server.path);
  ends.push(() => client.close());
  await client.hello();
  client.makeMemory(IOVA);
  await client.mapDma(IOVA, MEMORY_BYTES, { fd: client.memoryFd });
  await client.mapRemote();
  await client.store(CONFIG, 4, 2, MASTER_AND_MEMORY);
  await client.store(0, R.ADDRESS.offset, 4, client.remoteBase);
  return client;
}

/** Runs `step` again and again, also while the server keeps this thread, until it returns false. */
function meanwhile(client: VfioClient, step: () => boolean): void {
  const { native } = client;
  const fd = native.events.eventfd();
  const poll = takePoll(native);
  const watch = poll.add(fd, () => {
    if (step()) native.events.writeEvent(fd);
  });
  if (typeof watch === 'number') throw new Error(`cannot wait: ${watch}`);
  ends.push(() => {
    watch.remove();
    givePollBack();
    native.close(fd);
  });
  native.events.writeEvent(fd);
}

const descriptors = (): number => readdirSync('/proc/self/fd').length;

describe('while the device waits for memory', () => {
  it.each([
    ['a reset', COMMAND.RESET, new Uint8Array(0)],
    ['a change of the migration state', COMMAND.FEATURE, pack(16, FEATURE.SET | FEATURE.STATE, STATE.STOP, 0xffff_ffff)],
  ])('%s that is posted is not done inside its call', async (_, command, payload) => {
    const server = await serve();
    const client = await started(server);
    let asked = 0;
    client.onDma = () => {
      asked++;
      client.post(command, payload, [], POSTED);
      // Without an answer to the DMA: this read pushes what was posted before it.
      client.whenAnswered(client.post(COMMAND.REGION_READ, pack(BigInt(R.STATUS.offset), 0, 4)), () => {});
      return false;
    };
    await client.store(0, R.ADD.offset, 4, 1);
    client.onDma = undefined;
    const stopped = command !== COMMAND.RESET;
    expect([asked, client.dmaWrites, await client.state()]).toEqual([1, 0, stopped ? STATE.STOP : STATE.RUNNING]);
    // The addition failed, and the reset came after that.
    expect(await client.load(0, R.STATUS.offset, 4)).toBe(stopped ? 3 : 0);
    expect(server.statistics.refused).toBe(0);
  });

  it('descriptors beside posted writes are not kept', async () => {
    const server = await serve();
    const client = await started(server);
    const before = descriptors();
    let [sent, most] = [0, 0];
    client.onDma = (request) => {
      meanwhile(client, () => {
        most = Math.max(most, descriptors());
        if (sent++ < 200) {
          client.post(COMMAND.REGION_WRITE, client.storePayload(0, R.ADDRESS.offset, 4, 0), new Array<number>(8).fill(client.memoryFd), POSTED);
          return true;
        }
        client.sendBytes(frame(request.id, request.command, 1, pack(request.payload.getBigUint64(0, true), 4n, 1)));
        return false;
      });
      client.onDma = undefined;
      return false;
    };
    await client.store(0, R.ADD.offset, 4, 1);
    expect(most).toBeLessThan(before + 20);
  });
});

describe('dirty pages', () => {
  const report = (client: VfioClient, argsz?: number): Promise<DataView> =>
    client.feature(FEATURE.GET | FEATURE.LOG_REPORT, pack(BigInt(IOVA), 65536n, 4096n), argsz);

  /** Page 2 of the mapped memory is dirty. */
  async function logged(server: VfioUserServer): Promise<VfioClient> {
    const client = await started(server);
    await client.ask(COMMAND.DIRTY_PAGES, pack(8, 1));
    await client.store(0, R.ADDRESS.offset, 4, IOVA + 2 * 4096);
    await client.store(0, R.ADD.offset, 4, 1);
    return client;
  }

  it('stay dirty when a report of them finds no room', async () => {
    const client = await logged(await serve());
    const small = await report(client, 39);
    expect([small.byteLength, small.getUint32(0, true)]).toEqual([8, 40]);
    const old = await client.ask(COMMAND.DIRTY_PAGES, pack(48, 4, BigInt(IOVA), 65536n, 4096n, 8n, 0n));
    expect([old.byteLength, old.getUint32(0, true)]).toEqual([48, 56]);
    expect((await report(client)).getBigUint64(32, true)).toBe(4n);
    expect((await report(client)).getBigUint64(32, true)).toBe(0n);
  });

  it('are asked for with an unmap that is refused, and the memory is still the device’s', async () => {
    const client = await logged(await serve());
    const unmap = (argsz: number, unit: bigint): Promise<DataView> =>
      client.ask(COMMAND.DMA_UNMAP, pack(argsz, 1, BigInt(IOVA), BigInt(MEMORY_BYTES), unit, 128n));
    await expect(unmap(4096, 100n)).rejects.toThrow('refused with 22');
    await expect(unmap(167, 4096n)).rejects.toThrow('refused with 22');
    await client.store(0, R.STATUS.offset, 4, 3);
    await client.store(0, R.ADD.offset, 4, 5);
    expect([await client.load(0, R.STATUS.offset, 4), client.memory?.slabs[0]?.views.u32[2048]]).toEqual([1, 6]);
    expect((await unmap(168, 4096n)).getBigUint64(40, true)).toBe(4n);
  });
});

describe('migration data', () => {
  it('is taken in crumbs, and nothing of nothing', async () => {
    const source = await started(await serve());
    await source.setState(STATE.STOP_COPY);
    const stream = await source.takeState();
    const target = await started(await serve());
    await target.store(0, R.ADDRESS.offset, 4, 0x40);
    await target.setState(STATE.RESUMING);
    for (let i = 0; i < 100; i++) await target.ask(COMMAND.MIG_WRITE, pack(8, 0));
    await target.giveState(stream, 3);
    await target.setState(STATE.RUNNING);
    expect(await target.load(0, R.ADDRESS.offset, 4)).toBe(source.remoteBase);
  });
});
