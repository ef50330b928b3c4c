// PCI functions for user-mode Linux, driven by a small guest of ours: accesses, interrupts, memory, virtual functions, guests that come and go.

import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Log, type LogRecord } from '#core/log';
import { RegisterFile } from '#core/register-file';
import type { AccessWatch, GuestBytes } from '#interop/access-watch';
import { serveUmlPci, type UmlPciServer, umlPciMachine } from '#interop/index';
import { Machine } from '#nicbox/machine';
import { PciFunction, type PciFunctionOptions } from '#pci/function';
import { Msix, msixBar, msixOwnBar } from '#pci/msix';
import type { FunctionServices } from '#pci/ports';
import { Sriov } from '#pci/sriov';
import { eventually } from '../backends/eventually.ts';
import { concat, FrontSocket, MEMORY_BYTES, message, REQUEST, u64, words } from './front-end.ts';
import { header, OP, PcidevGuest } from './pcidev-guest.ts';

const COPIER = {
  SOURCE: { offset: 0, writable: 0xffffffff },
  TARGET: { offset: 4, writable: 0xffffffff },
  GO: { offset: 8 },
  LINE: { offset: 12, writable: 1 },
  REFUSED: { offset: 16 },
} as const;
const VENDOR = 0x1234;
const MASTER_AND_MEMORY = 6;

/** Copies four bytes from SOURCE to TARGET and raises vector 0 when GO is written; LINE is its INTx pin. */
function copier(capabilities: PciFunctionOptions['capabilities'] = [], deviceId = 1): PciFunctionOptions {
  let services: FunctionServices | undefined;
  const registers: RegisterFile<typeof COPIER> = new RegisterFile(COPIER, {
    hooks: {
      GO: {
        write: () => {
          const bytes = new Uint8Array(4);
          const done = services?.dma.read(registers.get('SOURCE'), bytes) && services.dma.write(registers.get('TARGET'), bytes);
          if (done) services?.interrupts.raise(0);
          else registers.set('REFUSED', registers.get('REFUSED') + 1);
        },
      },
      LINE: { afterWrite: () => services?.interrupts.setLine(registers.get('LINE') === 1) },
    },
  });
  const msix = new Msix(msixOwnBar(2, 4));
  return {
    name: 'copier',
    identity: { vendorId: VENDOR, deviceId, classCode: 0xff0000, interruptPin: 2, pcieType: 'root-complex-endpoint' },
    bars: [
      { index: 0, kind: 'memory32', region: registers },
      { index: 2, kind: 'memory32', region: msixBar(msix, 2) },
    ],
    capabilities: [msix, ...capabilities],
    onAttach: (given) => {
      services = given;
    },
    onReset: () => registers.reset(),
  };
}

let directory: string;
let machine: Machine;
let server: UmlPciServer | undefined;
const said: LogRecord[] = [];
const guests: PcidevGuest[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'nicbox-uml-pci-'));
  said.length = 0;
  const log = new Log();
  log.listen((record) => said.push(record), ['guest-error']);
  machine = new Machine({ ...umlPciMachine(2 ** 26), log });
});

afterEach(async () => {
  for (const guest of guests.splice(0)) guest.close();
  await server?.close();
  server = undefined;
  await machine.close();
  rmSync(directory, { recursive: true, force: true });
});

const socket = (slot: number): string => join(directory, `s${slot}`);

async function serve(slots: number): Promise<UmlPciServer> {
  server = await serveUmlPci(machine, { sockets: Array.from({ length: slots }, (_, i) => socket(i)), log: machine.log });
  return server;
}

async function guest(slot: number, base?: number): Promise<PcidevGuest> {
  const made = await new PcidevGuest(socket(slot), base).start();
  guests.push(made);
  return made;
}

/** Finds the MSI-X capability, programs vector 0 and enables it. */
async function enableMsix(at: PcidevGuest, data: number): Promise<void> {
  let capability = await at.configRead(0x34, 1);
  while ((await at.configRead(capability, 1)) !== 0x11) capability = await at.configRead(capability + 1, 1);
  await at.barWrite(2, 0, 0xa0000);
  await at.barWrite(2, 4, 0);
  await at.barWrite(2, 8, data);
  await at.barWrite(2, 12, 0);
  await at.configWrite(capability + 2, 2, 0x8000);
}

describe('a function on a socket', () => {
  it('has its configuration space and BARs, and reaches the memory that the guest shared, at the address it gave', async () => {
    machine.attach(new PciFunction(copier()), { deviceNumber: 0 });
    await serve(1);
    const base = 0x4000_0000;
    const one = await guest(0, base);
    expect(await one.configRead(0, 4)).toBe(0x0001_1234);
    expect(await one.configRead(0, 2)).toBe(VENDOR);
    await one.configWrite(0x10, 4, 0xffff_ffff);
    expect(await one.configRead(0x10, 4)).toBe(0xffff_ffe0);
    await one.configWrite(0x10, 4, 0xe000_0000);
    await one.configWrite(4, 2, MASTER_AND_MEMORY);
    const at = one.arena.allocate(8);
    one.arena.u32[at / 4] = 0xcafe_f00d;
    await enableMsix(one, 33);
    await one.barWrite(0, 0, base + at);
    await one.barWrite(0, 4, base + at + 4);
    await one.barWrite(0, 8, 1);
    expect(one.arena.u32[at / 4 + 1]).toBe(0xcafe_f00d);
    expect(one.interrupts()).toEqual([{ op: OP.MSI, value: 33 }]);
    expect(server?.statistics[0]).toMatchObject({ connections: 1, refused: 0, badMessages: 0, messages: 1, pins: 0 });
  });

  it('tells a watch of each access, in order, and shows it the memory at the addresses the guest gives', async () => {
    machine.attach(new PciFunction(copier()), { deviceNumber: 0 });
    const told: (string | number)[][] = [];
    let memory: GuestBytes = () => undefined;
    const watch: AccessWatch = {
      configRead: (offset, size, value) => void told.push(['config read', offset, size, value]),
      configWrite: (offset, size, value) => void told.push(['config write', offset, size, value]),
      barRead: (bar, offset, size, value) => void told.push(['read', bar, offset, size, value]),
      barWrite: (bar, offset, size, value) => void told.push(['write', bar, offset, size, value]),
      gone: () => void told.push(['gone']),
      moved: () => void told.push(['moved']),
    };
    server = await serveUmlPci(machine, {
      sockets: [socket(0)],
      watch: (_bdf, bytes) => {
        memory = bytes;
        return watch;
      },
    });
    const base = 0x4000_0000;
    const one = await guest(0, base);
    await one.configRead(0, 4);
    await one.configWrite(4, 2, MASTER_AND_MEMORY);
    await one.barWrite(0, 0, 77);
    await one.barRead(0, 0);
    expect(told).toEqual([
      ['config read', 0, 4, 0x0001_1234],
      ['config write', 4, 2, MASTER_AND_MEMORY],
      ['write', 0, 0, 4, 77],
      ['read', 0, 0, 4, 77],
    ]);
    const at = one.arena.allocate(8);
    one.arena.u32[at / 4] = 0xcafe_f00d;
    expect([...(memory(base + at, 4) ?? [])]).toEqual([0x0d, 0xf0, 0xfe, 0xca]);
    expect([memory(at, 4), memory(base + MEMORY_BYTES - 2, 4)]).toEqual([undefined, undefined]);
  });

  it('refuses addresses outside the memory of its own guest, also where another guest has some', async () => {
    machine.attach(new PciFunction(copier()), { deviceNumber: 0 });
    machine.attach(new PciFunction(copier()), { deviceNumber: 1 });
    await serve(2);
    const low = await guest(0, 0);
    const high = await guest(1, 0x4000_0000);
    for (const [index, target] of [0x4070_0000, MEMORY_BYTES, 0xffff_fffc].entries()) {
      await low.configWrite(4, 2, MASTER_AND_MEMORY);
      await low.configWrite(0x10, 4, 0xe000_0000);
      const at = low.arena.allocate(4);
      low.arena.u32[at / 4] = 1;
      await low.barWrite(0, 0, at);
      await low.barWrite(0, 4, target);
      await low.barWrite(0, 8, 1);
      expect(await low.barRead(0, 16)).toBe(index + 1);
    }
    expect(high.arena.u32[0x70_0000 / 4]).toBe(0);
  });

  it('says a level that stands until it falls', async () => {
    machine.attach(new PciFunction(copier()), { deviceNumber: 0 });
    await serve(1);
    const one = await guest(0);
    await one.configWrite(4, 2, MASTER_AND_MEMORY);
    await one.configWrite(0x10, 4, 0xe000_0000);
    await one.barWrite(0, 12, 1);
    const taken: number[] = [];
    await eventually('the level to be said three times', () => {
      for (const { op, value } of one.interrupts()) taken.push(op, value);
      return taken.length >= 6;
    });
    expect(taken.slice(0, 6)).toEqual([OP.INT, 2, OP.INT, 2, OP.INT, 2]);
    await one.barWrite(0, 12, 0);
    one.interrupts();
    const { pins } = (server as UmlPciServer).statistics[0] as { pins: number };
    await new Promise((resolve) => machine.clock.timer(() => resolve(undefined)).arm(machine.clock.now() + 5_000_000));
    expect(server?.statistics[0]?.pins).toBe(pins);
  });

  it('moves what is longer or shorter than a register, and fills', async () => {
    machine.attach(new PciFunction(copier()), { deviceNumber: 0 });
    await serve(1);
    const one = await guest(0);
    await one.configWrite(4, 2, MASTER_AND_MEMORY);
    await one.configWrite(0x10, 4, 0xe000_0000);
    await one.exchange(concat(header(OP.WRITE, 8, 0), words(0x11223344, 0x55667788)));
    expect(await one.exchange(header(OP.READ, 7, 1), 7)).toEqual(Uint8Array.of(0x33, 0x22, 0x11, 0x88, 0x77, 0x66, 0x55));
    await one.exchange(concat(header(OP.SET, 8, 0), Uint8Array.of(0xa5)));
    expect(await one.barRead(0, 4)).toBe(0xa5a5_a5a5);
    expect(await one.exchange(header(OP.CONFIG_READ, 8, 0), 8)).toHaveLength(8);
  });
});

describe('messages that are wrong', () => {
  const wrong: [name: string, reason: RegExp, bytes: Uint8Array, room: number][] = [
    ['no bytes of a header', /15 bytes/, header(OP.CONFIG_READ, 4, 0).slice(0, 15), 4],
    ['operation 0', /operation 0/, header(0, 4, 0), 4],
    ['an interrupt from the guest', /operation 7/, concat(header(OP.MSI, 4, 0), words(1)), 0],
    ['operation 255', /operation 255/, header(255, 4, 0), 4],
    ['no size', /of 0 bytes/, header(OP.READ, 0, 0), 4],
    ['a size of 4 GiB', /of 4294967295 bytes/, header(OP.READ, 0xffffffff, 0), 4],
    ['9 bytes of configuration space', /of 9 bytes/, header(OP.CONFIG_READ, 9, 0), 9],
    ['an address above 4 GiB', /operation 3 at/, header(OP.READ, 4, 2n ** 32n), 4],
    ['an address that wraps', /operation 3 at/, header(OP.READ, 8, 2n ** 32n - 4n), 8],
    ['an address of 2^64 - 1', /operation 1 at/, header(OP.CONFIG_READ, 1, 2n ** 64n - 1n), 1],
    ['BAR 6', /BAR 6/, header(OP.READ, 4, 0, 6), 4],
    ['no room for the answer', /room for 3/, header(OP.READ, 4, 0), 3],
    ['fewer bytes than are to be written', /4 bytes to write, and 3/, concat(header(OP.WRITE, 4, 0), Uint8Array.of(1, 2, 3)), 0],
    ['nothing to fill with', /1 bytes to write, and 0/, header(OP.SET, 16, 0), 0],
    ['a fill of a gigabyte', /operation 5 of/, concat(header(OP.SET, 2 ** 30, 0), Uint8Array.of(1)), 0],
    ['a fill of more than any BAR', /operation 5 of/, concat(header(OP.SET, 2 ** 17 + 4, 0), Uint8Array.of(1)), 0],
  ];

  it.each(wrong)('%s: answered with ones, said once, and everybody goes on', async (_, reason, bytes, room) => {
    machine.attach(new PciFunction(copier()), { deviceNumber: 0 });
    machine.attach(new PciFunction(copier()), { deviceNumber: 1 });
    await serve(2);
    const [bad, good] = [await guest(0), await guest(1)];
    expect(await bad.exchange(bytes, room)).toEqual(new Uint8Array(room).fill(0xff));
    expect(said.map((record) => record.message)).toEqual([expect.stringMatching(reason)]);
    expect(await bad.configRead(0, 2)).toBe(VENDOR);
    expect(await good.configRead(0, 2)).toBe(VENDOR);
    expect(server?.statistics.map(({ badMessages }) => badMessages)).toEqual([1, 0]);
  });

  it('many large fills at once keep the others waiting no longer than one', async () => {
    machine.attach(new PciFunction(copier()), { deviceNumber: 0 });
    await serve(1);
    const one = await guest(0);
    await one.configWrite(4, 2, MASTER_AND_MEMORY);
    await one.configWrite(0x10, 4, 0xe000_0000);
    const before = server?.statistics[0]?.memoryAccesses ?? 0;
    const queue = one.queues[0] as (typeof one.queues)[number];
    const fill = concat(header(OP.SET, 2 ** 17, 0), Uint8Array.of(1));
    const at = one.arena.allocate(fill.length);
    one.arena.u8.set(fill, at);
    for (let i = 0; i < 60; i++) queue.ring.addOne(at, fill.length, false, i);
    queue.ring.publish();
    queue.kick.ring();
    const served: number[] = [];
    while (served.at(-1) !== 60 && served.length < 100_000) {
      await new Promise((resolve) => setImmediate(resolve));
      served.push((server?.statistics[0]?.memoryAccesses ?? 0) - before);
    }
    expect(served.at(-1)).toBe(60);
    expect(served.some((count) => count > 0 && count < 60)).toBe(true);
  });

  it('reads of what is not there are ones, writes do nothing', async () => {
    machine.attach(new PciFunction(copier()), { deviceNumber: 0 });
    await serve(2);
    const [one, nobody] = [await guest(0), await guest(1)];
    expect(await nobody.configRead(0, 4)).toBe(0xffff_ffff);
    await nobody.configWrite(4, 2, 7);
    expect(await one.configRead(0x1000, 4)).toBe(0xffff_ffff);
    // Memory is not enabled yet.
    expect(await one.barRead(0, 0)).toBe(0xffff_ffff);
    await one.configWrite(4, 2, MASTER_AND_MEMORY);
    expect(await one.barRead(5, 0)).toBe(0xffff_ffff);
    expect(await one.barRead(0, 0x7fff_0000)).toBe(0xffff_ffff);
    expect(said).toEqual([]);
  });

  it('a broken queue is an error of that socket alone; a socket that breaks the protocol is closed', async () => {
    machine.attach(new PciFunction(copier()), { deviceNumber: 0 });
    machine.attach(new PciFunction(copier()), { deviceNumber: 1 });
    await serve(2);
    const good = await guest(1);
    const bad = await guest(0);
    // The head of a chain that is not in the table.
    const { ring, kick } = bad.queues[0] as (typeof bad.queues)[number];
    const driver = ring.addresses.driver - bad.arena.base;
    bad.arena.u16[driver / 2 + 2] = 0xffff;
    bad.arena.u16[driver / 2 + 1] = 1;
    kick.ring();
    await eventually('the ring to be broken', () => said.some(({ message: text }) => /ring 0 is broken/.test(text)));
    bad.close();
    guests.splice(guests.indexOf(bad), 1);
    await eventually('the guest to be gone', () => server?.statistics[0]?.session === undefined);
    const raw = new FrontSocket(socket(0));
    raw.send(message(REQUEST.SET_FEATURES, u64(1n << 63n)));
    await raw.hangUp();
    raw.close();
    expect(await good.configRead(0, 2)).toBe(VENDOR);
    const next = await guest(0);
    expect(await next.configRead(0, 2)).toBe(VENDOR);
  });
});

describe('virtual functions', () => {
  const sriov = (): Sriov =>
    new Sriov({
      totalVfs: 2,
      vfDeviceId: 2,
      layout: { firstOffset: 8, stride: 8 },
      virtualFunction: () => ({ ...copier([], 2), identity: { ...copier().identity, interruptPin: 0 } }),
    });

  it('wait on dormant sockets until VF Enable, and are gone after it is cleared', async () => {
    const capability = sriov();
    const pf = new PciFunction(copier([capability]));
    machine.attach(pf, { deviceNumber: 0 });
    await serve(3);
    const [physical, first, second] = [await guest(0), await guest(1), await guest(2)];
    expect(await first.configRead(0, 4)).toBe(0xffff_ffff);
    const at = pf.offsetOf(capability);
    expect(await physical.configRead(at + 0x14, 2)).toBe(8);
    expect(await physical.configRead(at + 0x16, 2)).toBe(8);
    await physical.configWrite(at + 0x24, 4, 0xe100_0000);
    await physical.configWrite(at + 0x2c, 4, 0xe200_0000);
    await physical.configWrite(at + 0x10, 2, 2);
    await physical.configWrite(at + 8, 2, 9);
    for (const vf of [first, second]) {
      expect(await vf.configRead(4, 2)).toBe(0);
      await vf.configWrite(4, 2, 4);
      const place = vf.arena.allocate(8);
      vf.arena.u32[place / 4] = 77;
      await enableMsix(vf, 40);
      await vf.barWrite(0, 0, place);
      await vf.barWrite(0, 4, place + 4);
      await vf.barWrite(0, 8, 1);
      expect(vf.arena.u32[place / 4 + 1]).toBe(77);
      expect(vf.interrupts()).toEqual([{ op: OP.MSI, value: 40 }]);
    }
    await physical.configWrite(at + 8, 2, 0);
    expect(await second.configRead(4, 2)).toBe(0xffff);
  });
});

describe('guests that come and go', () => {
  it('the next one finds the function as after power-on', async () => {
    machine.attach(new PciFunction(copier()), { deviceNumber: 0 });
    await serve(1);
    for (let i = 0; i < 3; i++) {
      const one = await guest(0);
      expect(await one.configRead(4, 2)).toBe(0);
      await one.configWrite(4, 2, MASTER_AND_MEMORY);
      await one.configWrite(0x10, 4, 0xe000_0000);
      await one.barWrite(0, 0, 0x1000);
      await one.barWrite(0, 12, 1);
      one.close();
      guests.length = 0;
      await eventually('the guest to be gone', () => server?.statistics[0]?.session === undefined);
    }
    expect(server?.statistics[0]).toMatchObject({ connections: 3, refused: 0 });
  });

  it('a thousand of them leave no descriptor, mapping or thread', { timeout: 120_000 }, async () => {
    machine.attach(new PciFunction(copier()), { deviceNumber: 0 });
    await serve(1);
    const state = (): { fds: number; maps: number; threads: number } => ({
      fds: readdirSync('/proc/self/fd').length,
      maps: readFileSync('/proc/self/maps', 'utf8')
        .split('\n')
        .filter((line) => line.includes('memfd:')).length,
      threads: readdirSync('/proc/self/task').length,
    });
    const one = async (): Promise<void> => {
      const made = await new PcidevGuest(socket(0)).start();
      expect(await made.configRead(0, 2)).toBe(VENDOR);
      made.close();
      await eventually('the guest to be gone', () => server?.statistics[0]?.session === undefined);
    };
    for (let i = 0; i < 10; i++) await one();
    const before = state();
    for (let i = 0; i < 1000; i++) await one();
    expect(state()).toEqual(before);
    expect(server?.statistics[0]).toMatchObject({ connections: 1010, refused: 0 });
  });
});

describe('what an embedder got wrong', () => {
  it.each([
    ['no sockets', [], /0 sockets/],
    ['nine sockets', Array.from({ length: 9 }, (_, i) => `s${i}`), /9 sockets/],
    ['a socket twice', ['a', 'a'], /different paths/],
  ])('%s', async (_, sockets, reason) => {
    await expect(serveUmlPci(machine, { sockets })).rejects.toThrow(
      expect.objectContaining({ code: 'NICBOX_UML_PCI_OPTION', message: expect.stringMatching(reason) }),
    );
  });

  it('a machine with memory of its own, or one that is served already', async () => {
    const own = new Machine({ memory: 2 ** 20 });
    await expect(serveUmlPci(own, { sockets: [socket(0)] })).rejects.toThrow(/new Machine\(umlPciMachine\(\)\)/);
    await own.close();
    await serve(1);
    await expect(serveUmlPci(machine, { sockets: [socket(1)] })).rejects.toThrow(/served already/);
  });
});
