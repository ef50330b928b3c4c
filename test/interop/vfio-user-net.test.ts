// Our virtio-net behind vfio-user, driven by the synthetic guest through a client: rings in the client's memory, served inline and by a worker, interrupts by event
// descriptors through a table that the client writes; and moved to another server while frames flow.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { InlineSegment, LearningSwitch, Log, type LogRecord, Segment, type VhostBackend } from 'nicbox';
import { DATA_PLANE_WORKER, serveVfioUser, type VfioUserServer } from 'nicbox/interop';
import { VhostPool } from 'nicbox/vhost-net';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { type DriverWatch, watchDriver } from '#cli/driver-watch';
import { Guest, type GuestOptions } from '#guest-sim/guest';
import { VIRTIO_F } from '#guest-sim/virtio-constants';
import { CONFIG, MEMORY_BYTES, STATE, VfioClient } from './vfio-client.ts';
import { GUEST_RAM, VfioGuestBus } from './vfio-guest.ts';

const folder = mkdtempSync(join(tmpdir(), 'nbn-'));
const ends: (() => void | Promise<void>)[] = [];
let sockets = 0;

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

type Plane = 'inline' | 'worker';

function makeSwitch(plane: Plane): (name: string) => VhostBackend {
  if (plane === 'inline') {
    const segment = new InlineSegment(new Segment(new LearningSwitch()));
    return (name) => segment.port(name);
  }
  const pool = new VhostPool({ entry: DATA_PLANE_WORKER });
  ends.push(() => pool.close());
  const segment = pool.worker().segment({ kind: 'switch' });
  return (name) => segment.port(name, 1);
}

async function serve(backend: VhostBackend, mac: string, plane: Plane, log = new Log(), watches?: DriverWatch[]): Promise<VfioUserServer> {
  const socket = join(folder, `s${sockets++}`);
  const server = await serveVfioUser((machine) => machine.addVirtioNet({ mac, backend }).pci.fn, {
    ...{ socket, log, directInterrupts: plane === 'worker' },
    ...(watches && { watch: (machine, bdf, memory) => watchDriver(machine, bdf, memory, watches, 'watched') }),
  });
  ends.push(() => server.close());
  return server;
}

async function connect(server: VfioUserServer): Promise<VfioClient> {
  const client = new VfioClient(server.path);
  ends.push(() => client.close());
  await client.hello();
  return client;
}

async function boot(server: VfioUserServer, options?: GuestOptions): Promise<{ guest: Guest; bus: VfioGuestBus; client: VfioClient }> {
  const client = await connect(server);
  const bus = new VfioGuestBus(client, client.makeMemory(0, GUEST_RAM));
  await bus.arm(client, client.memoryFd);
  return { guest: new Guest(bus, options), bus, client };
}

interface Side {
  readonly guest: Guest;
  readonly bus: VfioGuestBus;
}

async function run(sides: readonly Side[], done: () => boolean): Promise<void> {
  const deadline = performance.now() + 30_000;
  while (!done()) {
    for (const { guest, bus } of sides) {
      bus.collect();
      guest.step();
    }
    if (performance.now() > deadline) throw new Error(`not done in 30 s: ${JSON.stringify(sides.map(({ guest }) => guest.report()))}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

describe.each(['inline', 'worker'] as const)('virtio-net over vfio-user, %s', { timeout: 60_000 }, (plane) => {
  it.each([false, true])('carries frames both ways, packed %s', async (packed) => {
    const port = makeSwitch(plane);
    const a = await boot(await serve(port('a'), '52:54:00:00:00:0a', plane), { net: { ring: packed ? 'packed' : 'split' } });
    const b = await boot(await serve(port('b'), '52:54:00:00:00:0b', plane), { net: { ring: packed ? 'packed' : 'split' } });
    // Fewer than there are buffers: to whom it does not know a switch floods, and drops where there is no room.
    const sending = a.guest.start({ kind: 'generate', count: 100, sizes: [64, 1514] });
    const sink = b.guest.start({ kind: 'sink', count: 100 });
    await run([a, b], () => sending.done && sink.done);
    const back = a.guest.start({ kind: 'sink', count: 300 });
    const other = b.guest.start({ kind: 'generate', count: 300, sizes: [200], destination: [0x52, 0x54, 0, 0, 0, 0x0a] });
    await run([a, b], () => back.done && other.done);
    expect([a.guest.report().framesReceived, a.guest.report().errors, b.guest.report().broken]).toEqual([300, [], '']);
    expect(a.guest.report().interrupts).toBeGreaterThan(0);
  });

  it.each(['split', 'packed'] as const)('shows a judge what the driver does, one client after the other, %s rings', async (ring) => {
    const port = makeSwitch(plane);
    const watches: DriverWatch[] = [];
    const server = await serve(port('a'), '52:54:00:00:00:0a', plane, new Log(), watches);
    for (let clients = 0; clients < 2; clients++) {
      // In order, a packed ring cannot be followed by looking now and then.
      const one = await boot(server, { net: { ring, without: [VIRTIO_F.IN_ORDER] } });
      const job = one.guest.start({ kind: 'generate', count: 200, sizes: [64, 1514] });
      await run([one], () => job.done);
      one.client.close();
      await run([], () => !server.statistics.connected);
    }
    const [judged] = watches.map(({ json }) => JSON.parse(json));
    // Told to use split rings, it refuses the others (SHOULD accept).
    expect(judged.driver).toBe('watched');
    expect(judged.failures.map(({ clause }: { clause: string }) => clause)).toEqual(ring === 'split' ? ['features.22'] : []);
    // Accesses, and the rings as they lie in the client's memory.
    expect(judged.held).toEqual(expect.arrayContaining(['init.11', 'pci.51', 'net.12', 'vq.6', 'net-rx.3']));
  });

  it('moves to another server while frames flow: none is lost, repeated or out of order', async () => {
    const port = makeSwitch(plane);
    const source = await serve(port('a'), '52:54:00:00:00:0a', plane);
    const a = await boot(source);
    const b = await boot(await serve(port('b'), '52:54:00:00:00:0b', plane));
    const count = 3000;
    // The switch has to know where b is: what it floods it drops where there is no room.
    const first = a.guest.start({ kind: 'sink', count: 1 });
    b.guest.start({ kind: 'generate', count: 1 });
    await run([a, b], () => first.done);
    const sink = b.guest.start({ kind: 'sink', count });
    const sending = a.guest.start({ kind: 'generate', count, sizes: [64, 700], destination: [0x52, 0x54, 0, 0, 0, 0x0b] });
    await run([a, b], () => sink.framesReceived > count / 4);
    await a.client.setState(STATE.PRE_COPY);
    const early = await a.client.takeState();
    await run([a, b], () => sink.framesReceived > count / 2);
    await a.client.setState(STATE.STOP_COPY);
    const late = await a.client.takeState();
    expect(sending.done).toBe(false);
    const watches: DriverWatch[] = [];
    const target = await connect(await serve(port('c'), '52:54:00:00:00:0a', plane, new Log(), watches));
    await a.bus.arm(target, a.client.memoryFd);
    await target.setState(STATE.RESUMING);
    await target.giveState(early);
    await target.giveState(late);
    await target.setState(STATE.RUNNING);
    await run([a, b], () => sending.done && sink.done);
    expect([b.guest.report().framesReceived, b.guest.report().errors, a.guest.report().broken]).toEqual([count, [], '']);
    // Its judge has not seen how it came to where it is, and accuses it of nothing.
    expect(JSON.parse((watches[0] as DriverWatch).json)).toMatchObject({ broken: {}, failures: [], loaded: 1 });
  });

  it('says that it needs a reset, and why, when its rings lie in memory without a descriptor', async () => {
    const records: LogRecord[] = [];
    const log = new Log();
    log.listen((record) => void records.push(record), ['guest-error']);
    const port = makeSwitch(plane);
    const server = await serve(port('a'), '52:54:00:00:00:0a', plane, log);
    const client = await connect(server);
    client.makeMemory(0);
    await client.mapDma(0, MEMORY_BYTES, { fd: client.memoryFd });
    await client.mapRemote();
    await client.store(CONFIG, 4, 2, 6);
    const common = (offset: number, size: number, value: number): Promise<unknown> => client.store(0, offset, size, value);
    await common(0x14, 1, 1);
    await common(0x14, 1, 3);
    await common(0x08, 4, 1);
    await common(0x0c, 4, 1);
    await common(0x14, 1, 11);
    await common(0x16, 2, 1);
    for (const [field, at] of [
      [0x20, 0],
      [0x28, 0x2000],
      [0x30, 0x4000],
    ] as const)
      await common(field, 4, client.remoteBase + at);
    await common(0x1c, 2, 1);
    await common(0x14, 1, 15);
    const deadline = performance.now() + 10_000;
    while (((await client.load(0, 0x14, 1)) & 0x40) === 0) if (performance.now() > deadline) throw new Error('waited 10 s for DEVICE_NEEDS_RESET');
    expect(records.map(({ message }) => message).join('\n')).toMatch(/needs reset: .*queue 1/);
    expect(client.dmaReads).toBe(0);
  });

  it('refuses its features where no memory has a descriptor: a driver that has none of it yet gives up', async () => {
    const records: LogRecord[] = [];
    const log = new Log();
    log.listen((record) => void records.push(record), ['guest-error', 'trace']);
    const client = await connect(await serve(makeSwitch(plane)('a'), '52:54:00:00:00:0a', plane, log));
    await client.mapRemote();
    await client.store(CONFIG, 4, 2, 6);
    const accepts = async (): Promise<number> => {
      await client.store(0, 0x14, 1, 0);
      while ((await client.load(0, 0x14, 1)) !== 0);
      await client.store(0, 0x14, 1, 1);
      await client.store(0, 0x14, 1, 3);
      await client.store(0, 0x08, 4, 1);
      await client.store(0, 0x0c, 4, 1);
      await client.store(0, 0x14, 1, 11);
      return client.load(0, 0x14, 1);
    };
    expect(await accepts()).toBe(3);
    expect(records.filter(({ kind, message }) => kind === 'trace' && message.includes('share=on'))).toHaveLength(1);
    expect(records.map(({ message }) => message).join('\n')).toMatch(/features refused: all memory is reached by message/);
    client.makeMemory(0);
    await client.mapDma(0, MEMORY_BYTES, { fd: client.memoryFd });
    expect(await accepts()).toBe(11);
  });
});
