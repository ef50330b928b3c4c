// A virtio-net device in its smallest form, for driver tests: registers over one BAR, rings by ring-model.ts, transmitted frames looped back to the
// same receive queue. It records every access, so that a test can tell in which order and with what width the driver did things.

import { GuestArena } from '#guest-sim/arena';
import { TreeBus, TreeFunction } from './config-tree.ts';
import { type ModelChain, type ModelRing, PackedModel, SplitModel } from './ring-model.ts';

const COMMON = 0x0000;
const ISR = 0x1000;
const DEVICE = 0x2000;
const NOTIFY = 0x3000;
const TABLE = 0x8000;
const MULTIPLIER = 4;

interface ModelQueue {
  size: number;
  vector: number;
  enabled: number;
  resetting: number;
  readonly addresses: number[];
  ring: ModelRing | undefined;
}

export interface ModelOptions {
  readonly features: bigint;
  readonly pairs?: number;
  readonly queueSize?: number;
  readonly vectors?: number;
  /** Vectors the device refuses to map. */
  readonly refuseVectors?: readonly number[];
  readonly refuseFeatures?: boolean;
  readonly link?: number;
  /** Administration queues behind the control queue. */
  readonly adminQueues?: number;
  /** What the device does when it is told to suspend or resume; default: it does. */
  readonly stubborn?: boolean;
}

/** What the model answers a control command with beyond its ack: the result, or undefined for VIRTIO_NET_ERR. */
export type Answer = (data: readonly number[], room: number) => readonly number[] | undefined;

export class VirtioModel extends TreeBus {
  readonly options: ModelOptions;
  readonly fn: TreeFunction;
  /** 'w status 1 = 3' and so on, in the order they came. */
  readonly log: string[] = [];
  readonly commands: number[][] = [];
  readonly queues: ModelQueue[] = [];
  readonly registers = new DataView(new ArrayBuffer(64));
  readonly config = new DataView(new ArrayBuffer(28));
  readonly table = new DataView(new ArrayBuffer(4096));
  features = [0, 0, 0, 0];
  /** By 'class.command'; a command that is not here is answered OK. */
  readonly answers = new Map<string, Answer>();
  /** Takes a command of an administration queue: the readable bytes in, the writable bytes out. */
  onAdmin: ((command: Uint8Array, room: number) => Uint8Array) | undefined;
  status = 0;
  isr = 0;
  /** Called on every read of the device configuration: a config that changes while it is read. */
  onConfigRead: (() => void) | undefined;
  generation = 0;
  readonly #select = { offered: 0, accepted: 0, queue: 0 };
  #configVector = 0xffff;

  constructor(options: ModelOptions) {
    const fn = new TreeFunction('device', 0x1041_1af4)
      .set(8, 4, 0x0200_0001)
      .set(0x3d, 1, 1)
      .capability(9, 0x40, 0x50)
      .capability(9, 0x50, 0x60)
      .capability(9, 0x60, 0x70)
      .capability(9, 0x70, 0x88)
      .capability(0x11, 0x88, 0x98)
      .capability(9, 0x98)
      .bar(0x10, 0x10000, 4);
    const structure = (at: number, length: number, type: number, offset: number, size: number): void =>
      void fn
        .set(at + 2, 1, length)
        .set(at + 3, 1, type)
        .set(at + 8, 4, offset)
        .set(at + 12, 4, size);
    structure(0x40, 16, 1, COMMON, 64);
    structure(0x50, 16, 3, ISR, 1);
    structure(0x60, 16, 4, DEVICE, 28);
    structure(0x70, 20, 2, NOTIFY, 0x1000);
    fn.set(0x80, 4, MULTIPLIER);
    fn.set(0x8a, 2, (options.vectors ?? 16) - 1)
      .allow(0x8a, 2, 0xc000)
      .set(0x8c, 4, TABLE);
    // One of a type no driver knows, and with a BAR that does not exist.
    structure(0x98, 24, 77, 0, 4096);
    fn.set(0x9c, 1, 7);
    super(new Map([[3 << 3, fn]]), 8 * 2 ** 20);
    this.options = options;
    this.fn = fn;
    const pairs = options.pairs ?? 1;
    for (let i = 0; i < 2 * pairs + 1 + (options.adminQueues ?? 0); i++) this.queues.push(this.#fresh());
    for (const [i, byte] of [2, 0, 0, 0xaa, 0xbb, 0xcc].entries()) this.config.setUint8(i, byte);
    this.config.setUint16(6, options.link ?? 1, true);
    this.config.setUint16(8, pairs, true);
    this.config.setUint16(10, 1500, true);
    this.config.setUint8(17, 40);
    this.config.setUint16(18, 512, true);
    this.config.setUint32(20, 0xffff_ffff, true);
    this.config.setUint32(24, 0xffff_ffff, true);
  }

  #fresh(): ModelQueue {
    return { size: this.options.queueSize ?? 64, vector: 0xffff, enabled: 0, resetting: 0, addresses: [0, 0, 0, 0, 0, 0], ring: undefined };
  }

  has(bit: number): boolean {
    return (((this.features[bit >>> 5] as number) >>> (bit & 31)) & 1) === 1;
  }

  #offset(address: number): number {
    if ((this.fn.get(4, 2) & 2) === 0) return -1;
    const base = this.fn.get(0x14, 4) * 2 ** 32 + (this.fn.get(0x10, 4) & ~15) / 1;
    const at = address - (base < 0 ? base + 2 ** 32 : base);
    return at >= 0 && at < 0x10000 ? at : -1;
  }

  override mmioRead(address: number, size: 1 | 2 | 4): number {
    const at = this.#offset(address);
    if (at < 0) return super.mmioRead(address, size);
    if (at >= TABLE) return this.table.getUint32(at - TABLE, true);
    if (at >= DEVICE && at < DEVICE + 28) {
      this.onConfigRead?.();
      const i = at - DEVICE;
      return size === 1 ? this.config.getUint8(i) : size === 2 ? this.config.getUint16(i, true) : this.config.getUint32(i, true);
    }
    if (at === ISR) {
      const isr = this.isr;
      this.isr = 0;
      this.lines.set(0, false);
      this.log.push('r isr');
      return isr;
    }
    return this.#register(at, size);
  }

  #register(at: number, size: number): number {
    const q = this.queues[this.#select.queue];
    const check = (wanted: number, value: number): number => {
      if (size !== wanted) throw new Error(`read of ${size} bytes at ${at}`);
      return value;
    };
    switch (at) {
      case 4:
        return check(4, this.#select.offered < 4 ? Number((this.options.features >> BigInt(32 * this.#select.offered)) & 0xffffffffn) : 0);
      case 16:
        return check(2, this.#configVector);
      case 18:
        return check(2, this.queues.length - (this.options.adminQueues ?? 0));
      case 20:
        return check(1, this.status);
      case 21:
        return check(1, this.generation & 0xff);
      case 24:
        return check(2, q?.size ?? 0);
      case 26:
        return check(2, q?.vector ?? 0xffff);
      case 28:
        return check(2, q?.enabled ?? 0);
      case 30:
        return check(2, this.#select.queue);
      case 56:
        return check(2, 0x4000 + this.#select.queue);
      case 58:
        return check(2, q?.resetting ?? 0);
      case 60:
        return check(2, this.queues.length - (this.options.adminQueues ?? 0));
      case 62:
        return check(2, this.options.adminQueues ?? 0);
      default:
        throw new Error(`read of ${size} bytes at ${at}`);
    }
  }

  override mmioWrite(address: number, size: 1 | 2 | 4, value: number): void {
    const at = this.#offset(address);
    if (at < 0) super.mmioWrite(address, size, value);
    else if (at >= TABLE) this.table.setUint32(at - TABLE, value, true);
    else if (at >= NOTIFY) this.#kicked((at - NOTIFY) / MULTIPLIER, size, value);
    else this.#write(at, size, value);
  }

  #write(at: number, size: number, value: number): void {
    const q = this.queues[this.#select.queue];
    const NAMES: Record<number, [string, number]> = {
      0: ['offered', 4],
      8: ['accepted', 4],
      12: ['features', 4],
      16: ['config vector', 2],
      20: ['status', 1],
      22: ['select', 2],
      24: ['size', 2],
      26: ['vector', 2],
      28: ['enable', 2],
      58: ['reset', 2],
    };
    const [name, width] = at >= 32 && at < 56 ? ['address', 4] : (NAMES[at] ?? ['?', 0]);
    if (size !== width) throw new Error(`write of ${size} bytes at ${at}`);
    this.log.push(`w ${name} = ${value}`);
    const mapped = this.options.refuseVectors?.includes(value) ? 0xffff : value;
    if (name === 'offered') this.#select.offered = value;
    else if (name === 'accepted') this.#select.accepted = value;
    else if (name === 'features') this.features[this.#select.accepted] = value;
    else if (name === 'config vector') this.#configVector = mapped;
    else if (name === 'select') this.#select.queue = value;
    else if (name === 'status') {
      const before = this.status;
      this.status = value;
      if (value === 0) {
        for (let i = 0; i < this.queues.length; i++) this.queues[i] = this.#fresh();
        this.#configVector = 0xffff;
        this.features = [0, 0, 0, 0];
      } else if ((value & 8) !== 0 && this.options.refuseFeatures) this.status &= ~8;
      else if ((value & 16) !== 0) {
        // Written while running: stop. Written while stopped, with DRIVER_OK: run.
        if (this.options.stubborn) this.status |= 64;
        else if ((before & 16) === 0) this.status &= ~4;
        else if ((value & 4) !== 0) this.status &= ~16;
      }
    } else if (q && name === 'size') q.size = value;
    else if (q && name === 'vector') q.vector = mapped;
    else if (q && name === 'address') q.addresses[(at - 32) >>> 2] = value;
    else if (q && name === 'enable') this.#enable(q);
    else if (q && name === 'reset') this.queues[this.#select.queue] = this.#fresh();
  }

  #enable(q: ModelQueue): void {
    const arena = new GuestArena(this.memory);
    const options = { arena, size: q.size, eventIdx: this.has(29), indirect: this.has(28), inOrder: this.has(35), maxSegments: 64 };
    const pick = (i: number): number => (q.addresses[i] as number) + (q.addresses[i + 1] as number) * 2 ** 32;
    const ring = { addresses: { desc: pick(0), driver: pick(2), device: pick(4) } };
    q.ring = this.has(34) ? new PackedModel(ring, options) : new SplitModel(ring, options);
    q.enabled = 1;
  }

  #kicked(index: number, size: number, value: number): void {
    this.log.push(`kick ${index} ${size} = ${value}`);
    if ((this.status & 4) === 0) throw new Error('a notification before DRIVER_OK');
    const control = this.queues.length - 1 - (this.options.adminQueues ?? 0);
    if (index > control) this.#admin(index);
    else if (index === control) this.#command(index);
    else if (index % 2 === 1) this.#loop(index);
  }

  #command(index: number): void {
    const q = this.queues[index] as ModelQueue;
    for (let chain = q.ring?.take(); chain; chain = q.ring?.take()) {
      const [command, writable] = this.#halves(chain);
      this.commands.push([...command]);
      const answer = this.answers.get(`${command[0]}.${command[1]}`);
      const result = answer ? answer([...command.subarray(2)], writable - 1) : [];
      q.ring?.use(chain, this.#fill(chain, Uint8Array.from(result ? [0, ...result] : [1])));
    }
    q.ring?.await(0);
  }

  #admin(index: number): void {
    const q = this.queues[index] as ModelQueue;
    for (let chain = q.ring?.take(); chain; chain = q.ring?.take()) {
      const [command, writable] = this.#halves(chain);
      // virtio 1.4 2.14.2 (driver MUST): both parts there, in whole 64-bit words.
      if (command.length === 0 || writable === 0 || command.length % 8 !== 0 || writable % 8 !== 0)
        throw new Error('an administration command of a forbidden length');
      q.ring?.use(chain, this.#fill(chain, this.onAdmin?.(command, writable) ?? new Uint8Array(8)));
    }
    q.ring?.await(0);
  }

  #ram(): Uint8Array {
    return new Uint8Array(this.memory.slabs[0]?.views.u8.buffer as SharedArrayBuffer);
  }

  /** A chain's readable bytes, and how many it can take. */
  #halves(chain: ModelChain): [Uint8Array, number] {
    const u8 = this.#ram();
    const readable = chain.segments.filter((s) => !s.writable).flatMap((s) => [...u8.subarray(s.offset, s.offset + s.length)]);
    return [Uint8Array.from(readable), chain.segments.filter((s) => s.writable).reduce((n, s) => n + s.length, 0)];
  }

  #fill(chain: ModelChain, bytes: Uint8Array): number {
    let done = 0;
    for (const s of chain.segments) {
      if (!s.writable) continue;
      const part = bytes.subarray(done, done + s.length);
      this.#ram().set(part, s.offset);
      done += part.length;
    }
    return done;
  }

  #loop(index: number): void {
    const tx = this.queues[index] as ModelQueue;
    for (let chain = tx.ring?.take(); chain; chain = tx.ring?.take()) {
      const u8 = new Uint8Array(this.memory.slabs[0]?.views.u8.buffer as SharedArrayBuffer);
      const bytes = chain.segments.flatMap((s) => [...u8.subarray(s.offset, s.offset + s.length)]);
      bytes[10] = 1;
      this.deliver(index - 1, bytes);
      tx.ring?.use(chain, 0);
    }
    tx.ring?.await(0);
    if (tx.ring?.callDue()) this.interrupt(tx.vector, 1);
  }

  /** Puts header and frame into the next receive buffer. False when there is none. `length`: what the used entry claims. */
  deliver(queue: number, bytes: readonly number[], length = bytes.length): boolean {
    const rx = this.queues[queue] as ModelQueue;
    const chain: ModelChain | undefined = rx.ring?.take();
    if (!chain) return false;
    const u8 = new Uint8Array(this.memory.slabs[0]?.views.u8.buffer as SharedArrayBuffer);
    let done = 0;
    for (const s of chain.segments) {
      const part = bytes.slice(done, done + s.length);
      u8.set(part, s.offset);
      done += part.length;
    }
    rx.ring?.use(chain, length);
    if (rx.ring?.callDue()) this.interrupt(rx.vector, 1);
    return true;
  }

  /** A configuration change: `change` the fields, then tell the driver. */
  changeConfig(change: () => void): void {
    change();
    this.generation++;
    this.interrupt(this.#configVector, 2);
  }

  interrupt(entry: number, isr: number): void {
    if ((this.fn.get(0x8a, 2) & 0xc000) === 0x8000) {
      if (entry !== 0xffff && this.table.getUint32(entry * 16 + 12, true) === 0) this.vectors.post(this.table.getUint32(entry * 16 + 8, true) & 0xff);
      return;
    }
    this.isr |= isr;
    if (this.lines.set(0, true)) this.vectors.post(0x20);
  }
}
