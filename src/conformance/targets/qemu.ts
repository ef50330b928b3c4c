// QEMU's virtio-net-pci, with a stream netdev as the wire: the proof that the suite is not shaped around this project's own device. One process serves a whole run; between cases
// its machine is reset.

import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import type { AccessBytes, Hands, Model, Target, TargetSource } from '../target.ts';
import { QemuError, type QemuProgram, Qmp, QtestLink } from './qtest-link.ts';

const DEVFN = 4 << 3;
const ISA_DEVFN = 1 << 3;
const RAM_BASE = 2 ** 20;
const RAM_SIZE = 24 * 2 ** 20;
/** Messages are words of memory here: what a message is, after all. */
const MESSAGES = 48 * 2 ** 20;
const MESSAGE_COUNT = 64;
const FIRST_BAR = 0xe000_0000;
const FIRST_PORT = 0xc000;
const IRQ = 10;
/** QEMU's main loop takes what a socket has brought, and runs its bottom halves, between two commands: this many turns of it are enough for both. */
const TURNS = 12;
const WORDS: Readonly<Record<AccessBytes, string>> = { 1: 'b', 2: 'w', 4: 'l' };

export interface QemuOptions extends QemuProgram {
  /** Properties of the device. Those the program does not know are left out. */
  readonly device?: readonly string[];
}

const DEVICE = [
  'packed=on',
  'rss=on',
  'hash=on',
  'mq=on',
  'queue_reset=on',
  'guest_announce=on',
  'host_mtu=1500',
  'speed=10000',
  'duplex=full',
  'in_order=on',
  'guest_rsc_ext=on',
  'vectors=8',
];

interface PlacedBar {
  readonly io: boolean;
  readonly address: number;
}

class QemuTarget implements Target {
  readonly ram = { base: RAM_BASE, size: RAM_SIZE };
  readonly countsMessages = false;
  readonly hands: Hands;
  readonly #link: QtestLink;
  readonly #wire: Wire;
  readonly #bars: readonly PlacedBar[];
  readonly #stepped: boolean;

  constructor({ link, wire, qmp, stepped }: Running, bars: readonly PlacedBar[]) {
    this.#link = link;
    this.#wire = wire;
    this.#bars = bars;
    this.#stepped = stepped;
    this.hands = {
      setLink: async (up) => void (await qmp.execute('set_link', { name: 'nic', up })),
      async announce() {
        await qmp.execute('announce-self', { initial: 50, max: 100, rounds: 1, step: 50 });
        // By a timer of real time.
        await sleep(20);
      },
    };
  }

  configRead(offset: number, size: AccessBytes): Promise<number> {
    return configRead(this.#link, DEVFN, offset, size);
  }

  async configWrite(offset: number, size: AccessBytes, value: number): Promise<void> {
    await configWrite(this.#link, DEVFN, offset, size, value);
  }

  barRead(bar: number, offset: number, size: AccessBytes): Promise<number> {
    const { io, address } = this.#bars[bar] ?? { io: false, address: 0 };
    return this.#link.number(`${io ? 'in' : 'read'}${WORDS[size]} ${address + offset}`).then((value) => (size === 4 ? value >>> 0 : value));
  }

  async barWrite(bar: number, offset: number, size: AccessBytes, value: number): Promise<void> {
    const { io, address } = this.#bars[bar] ?? { io: false, address: 0 };
    await this.#link.command(`${io ? 'out' : 'write'}${WORDS[size]} ${address + offset} ${value}`);
  }

  async memoryRead(address: number, length: number): Promise<Uint8Array> {
    if (length === 0) return new Uint8Array(0);
    return Uint8Array.from(Buffer.from((await this.#link.command(`read ${address} ${length}`)).slice(2), 'hex'));
  }

  async memoryWrite(address: number, bytes: Uint8Array): Promise<void> {
    if (bytes.length > 0) await this.#link.command(`write ${address} ${bytes.length} 0x${Buffer.from(bytes).toString('hex')}`);
  }

  message(n: number): { address: number; data: number } {
    return { address: MESSAGES + 4 * n, data: n + 1 };
  }

  async messages(): Promise<number[]> {
    const words = await this.memoryRead(MESSAGES, 4 * MESSAGE_COUNT);
    const numbers = Array.from({ length: MESSAGE_COUNT }, (_, n) => n).filter((n) => words[4 * n] !== 0);
    if (numbers.length > 0) await this.memoryWrite(MESSAGES, new Uint8Array(4 * MESSAGE_COUNT));
    return numbers;
  }

  async intx(): Promise<boolean> {
    await this.#link.command('readb 0');
    return this.#link.levels.get(IRQ) ?? false;
  }

  send(frame: Uint8Array): void {
    this.#wire.send(frame);
  }

  sent(): Uint8Array[] {
    return this.#wire.frames.splice(0);
  }

  async advance(nanos: number): Promise<void> {
    if (this.#stepped) await this.#link.command(`clock_step ${Math.round(nanos)}`);
    else await sleep(Math.ceil(nanos / 1e6));
  }

  async settle(): Promise<void> {
    await turn();
    for (let n = 0; n < TURNS; n++) await this.#link.command('readb 0');
    await turn();
  }

  async close(): Promise<void> {}
}

/** The other end of the netdev's connection: frames with their length in front. */
class Wire {
  readonly frames: Uint8Array[] = [];
  readonly #server: Server;
  #socket: Socket | undefined;

  constructor(path: string) {
    this.#server = createServer((socket) => {
      this.#socket = socket;
      let pending = Buffer.alloc(0);
      socket.on('error', () => {});
      socket.on('data', (piece) => {
        pending = Buffer.concat([pending, piece]);
        while (pending.length >= 4 && pending.length >= 4 + pending.readUInt32BE(0)) {
          const length = pending.readUInt32BE(0);
          this.frames.push(Uint8Array.from(pending.subarray(4, 4 + length)));
          pending = pending.subarray(4 + length);
        }
      });
    });
    this.#server.listen(path);
    this.#server.unref();
  }

  async connected(link: QtestLink): Promise<void> {
    for (let attempt = 0; this.#socket === undefined; attempt++) {
      if (attempt >= 400 || !link.alive) throw new QemuError(link.ended ?? "QEMU's netdev does not connect");
      await sleep(25);
    }
  }

  send(frame: Uint8Array): void {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(frame.length);
    this.#socket?.write(Buffer.concat([length, frame]));
  }

  close(): void {
    this.#socket?.destroy();
    this.#server.close();
  }
}

async function configRead(link: QtestLink, devfn: number, offset: number, size: AccessBytes): Promise<number> {
  await link.command(`outl 0xcf8 ${(0x8000_0000 | (devfn << 8) | (offset & 0xfc)) >>> 0}`);
  return (await link.number(`in${WORDS[size]} ${0xcfc + (offset & 3)}`)) >>> 0;
}

async function configWrite(link: QtestLink, devfn: number, offset: number, size: AccessBytes, value: number): Promise<void> {
  await link.command(`outl 0xcf8 ${(0x8000_0000 | (devfn << 8) | (offset & 0xfc)) >>> 0}`);
  await link.command(`out${WORDS[size]} ${0xcfc + (offset & 3)} ${value}`);
}

/** Gives every BAR an address, as firmware would. */
async function placeBars(link: QtestLink): Promise<PlacedBar[]> {
  const bars: PlacedBar[] = [];
  let at = FIRST_BAR;
  let port = FIRST_PORT;
  for (let bar = 0; bar < 6; bar++) {
    const register = 0x10 + 4 * bar;
    await configWrite(link, DEVFN, register, 4, 0xffff_ffff);
    const low = await configRead(link, DEVFN, register, 4);
    if (low === 0) continue;
    if ((low & 1) !== 0) {
      const size = (~(low & ~3) >>> 0) + 1;
      port = Math.ceil(port / size) * size;
      bars[bar] = { io: true, address: port };
      await configWrite(link, DEVFN, register, 4, port);
      port += size;
      continue;
    }
    const size = (~(low & ~15) >>> 0) + 1;
    at = Math.ceil(at / size) * size;
    bars[bar] = { io: false, address: at };
    await configWrite(link, DEVFN, register, 4, at);
    if ((low & 6) === 4) await configWrite(link, DEVFN, 0x10 + 4 * ++bar, 4, 0);
    at += size;
  }
  return bars;
}

interface Running {
  readonly link: QtestLink;
  readonly qmp: Qmp;
  readonly wire: Wire;
  readonly folder: string;
  /** Time stands still unless it is stepped. */
  readonly stepped: boolean;
}

/** A BIOS that halts: for a QEMU whose device models run only while its CPU does, without the accelerator that has none. */
function haltingBios(): Uint8Array {
  const bios = new Uint8Array(0x1_0000).fill(0x90);
  // cli; hlt; jmp to the hlt, at the reset vector.
  bios.set([0xfa, 0xf4, 0xeb, 0xfd], 0xfff0);
  return bios;
}

async function start(options: QemuOptions, device: readonly string[], stepped: boolean): Promise<Running> {
  const folder = mkdtempSync(join(tmpdir(), 'nicbox-conformance-'));
  const wire = new Wire(join(folder, 'wire'));
  if (!stepped) writeFileSync(join(folder, 'bios'), haltingBios());
  const link = new QtestLink(options, [
    ...['-machine', 'pc', '-m', '64M', '-nodefaults', '-no-user-config', '-display', 'none'],
    ...(stepped ? ['-accel', 'qtest'] : ['-accel', 'tcg', '-bios', join(folder, 'bios')]),
    ...['-qmp', `unix:${join(folder, 'qmp')},server=on,wait=off`],
    ...['-netdev', `stream,id=n0,server=off,addr.type=unix,addr.path=${join(folder, 'wire')}`],
    ...['-device', `virtio-net-pci,id=nic,netdev=n0,addr=4,mac=52:54:00:c0:ff:ee,romfile=,${device.join(',')}`],
  ]);
  try {
    await wire.connected(link);
    const qmp = await Qmp.connect(join(folder, 'qmp'));
    await link.command('irq_intercept_in ioapic');
    return { link, qmp, wire, folder, stepped };
  } catch (error) {
    await link.close();
    wire.close();
    rmSync(folder, { recursive: true, force: true });
    throw error;
  }
}

async function stop({ link, qmp, wire, folder }: Running): Promise<void> {
  qmp.close();
  await link.close();
  wire.close();
  rmSync(folder, { recursive: true, force: true });
}

async function help(options: QemuOptions, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) =>
    execFile(options.file, [...(options.args ?? []), ...args], { env: { ...process.env, ...options.env } }, (error, stdout) =>
      error ? reject(new QemuError(`cannot run ${options.file}: ${error.message}`)) : resolve(stdout),
    ),
  );
}

/** Which of the properties this QEMU knows, and whether its time can be stepped. */
async function inspect(options: QemuOptions): Promise<{ readonly device: readonly string[]; readonly stepped: boolean }> {
  const properties = await help(options, ['-device', 'virtio-net-pci,help']);
  const device = (options.device ?? DEVICE).filter((property) => new RegExp(`^ *${property.split('=')[0]}=`, 'm').test(properties));
  return { device, stepped: /^qtest$/m.test(await help(options, ['-accel', 'help'])) };
}

/** @throws QemuError, when it is opened and QEMU cannot be had. */
export function qemuSource(name: string, options: QemuOptions): TargetSource {
  // The legacy interface is a property of the device, and so of the process.
  const programs = new Map<boolean, Running>();
  let found: { readonly device: readonly string[]; readonly stepped: boolean } | undefined;
  return {
    name,
    async open(model?: Model) {
      found ??= await inspect(options);
      const legacy = model === 'transitional';
      let running = programs.get(legacy);
      if (running !== undefined && !running.link.alive) {
        await stop(running);
        running = undefined;
      }
      running ??= await start(options, [`disable-legacy=${legacy ? 'off' : 'on'}`, ...found.device], found.stepped);
      programs.set(legacy, running);
      const { link, qmp, wire } = running;
      await qmp.execute('set_link', { name: 'nic', up: true });
      await qmp.execute('system_reset');
      link.levels.clear();
      // Firmware's part: interrupt routing of the PC's chip set, and addresses.
      for (let pin = 0; pin < 4; pin++) await configWrite(link, ISA_DEVFN, 0x60 + pin, 1, IRQ);
      const bars = await placeBars(link);
      const target = new QemuTarget(running, bars);
      await target.memoryWrite(MESSAGES, new Uint8Array(4 * MESSAGE_COUNT));
      await target.settle();
      wire.frames.length = 0;
      return target;
    },
    async close() {
      for (const running of programs.values()) await stop(running);
      programs.clear();
    },
  };
}
