// A host with an 82576 whose VFs belong to guests, driven by hand: the physical function set up as a hypervisor's driver does it, each guest with rings in memory of its own that it sees from address 0 on, an IOMMU in between.

import { InlineSegment } from '#backends/inline-backend';
import { SimClock } from '#core/clock';
import { Iommu } from '#core/iommu';
import type { IgbOptions } from '#devices/igb/options';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { MemoryPort } from '../../net/memory-port.ts';
import { Bench, P, PF, vfAt } from './vf-bench.ts';

export const RAM = 32 * 2 ** 20;
const GUEST_BYTES = 2 ** 20;
export const RING = 32;
/** Advanced descriptors with one buffer of 2 KiB. */
const ONE_BUFFER = 2 | (1 << 25);
const ENABLE = 1 << 25;
const EOP_IFCS_RS = 0x0b;
const DEXT = 0x20;
export const VLE = 0x40;

// In a guest's memory, by queue.
const TX_RING = 0x1000;
const RX_RING = 0x2000;
const TX_DATA = 0x1_0000;
const RX_DATA = 0x4_0000;
const SLOT = 0x800;
const QUEUE = 0x8_0000;

/** The PF's registers that only a hypervisor writes. */
export const H = {
  RCTL: 0x0100,
  TCTL: 0x0400,
  QDE: 0x2408,
  DTXSWC: 0x3500,
  LVMMC: 0x3548,
  WVBR: 0x3554,
  MDFB: 0x3558,
  DTXCTL: 0x3590,
  RTTDQSEL: 0x3604,
  RTTBCNRC: 0x36b0,
  VMVIR: (n: number) => 0x3700 + 4 * n,
  SSVPC: 0x41a0,
  RXCSUM: 0x5000,
  RAL: (i: number) => 0x5400 + 8 * i,
  RAH: (i: number) => 0x5404 + 8 * i,
  VFTA: (i: number) => 0x5600 + 4 * i,
  MRQC: 0x5818,
  VT_CTL: 0x581c,
  VMOLR: (n: number) => 0x5ad0 + 4 * n,
  RPLOLR: 0x5af0,
  RETA: (i: number) => 0x5c00 + 4 * i,
  RSSRK: (i: number) => 0x5c80 + 4 * i,
  VLVF: (i: number) => 0x5d00 + 4 * i,
  VMRCTL: (i: number) => 0x5d80 + 4 * i,
  VMRVM: (i: number) => 0x5da0 + 4 * i,
  SRRCTL: (q: number) => 0xc00c + 0x40 * q,
  RQDPC: (q: number) => 0xc030 + 0x40 * q,
} as const;

export const RCTL_ON = 0x2 | 0x20 | 0x8000 | 0x400_0000;
export const VFE = 1 << 18;
export const AUPE = 1 << 24;
export const BAM = 1 << 27;
export const STRVLAN = 1 << 30;

export const macOf = (n: number): number[] => [2, 0, 0, 0, 1, n];
export const WIRE_MAC = [2, 0, 0, 0, 9, 9];
export const BROADCAST = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff];

export function frame(to: readonly number[], from: readonly number[], options: { length?: number; fill?: number; tag?: number } = {}): number[] {
  const tag = options.tag === undefined ? [] : [0x81, 0, options.tag >> 8, options.tag & 0xff];
  const head = [...to, ...from, ...tag, 0x88, 0xb5];
  return [...head, ...new Array<number>((options.length ?? 64) - head.length).fill(options.fill ?? 0)];
}

export interface Taken {
  readonly bytes: number[];
  readonly status: number;
  readonly tag: number;
}

/** Rings of one pool, two queues at most. VFs reach theirs through their own window; the physical function's pool lies in the identity domain. */
export class Guest {
  readonly host: Host;
  readonly pool: number;
  readonly virtual: boolean;
  /** Where its memory really is. */
  readonly base: number;
  readonly #txTail = [0, 0];
  readonly #rxHead = [0, 0];

  constructor(host: Host, pool: number, virtual: boolean) {
    this.host = host;
    this.pool = pool;
    this.virtual = virtual;
    this.base = GUEST_BYTES * (pool + 1);
  }

  /** As its device sees its memory. */
  #seen(at: number): number {
    return this.virtual ? at : this.base + at;
  }

  write(register: 'rx' | 'tx', offset: number, queue: number, value: number): void {
    if (this.virtual) this.host.vfWrite(this.pool, (register === 'rx' ? 0x2800 : 0x3800) + 0x100 * queue + offset, value);
    else this.host.write((register === 'rx' ? 0xc000 : 0xe000) + 0x40 * (this.pool + 8 * queue) + offset, value);
  }

  word(at: number, value: number): void {
    this.host.view.setUint32(this.base + at, value >>> 0, true);
  }

  start(queue = 0, options: { buffers?: number; srrctl?: number } = {}): this {
    const shift = QUEUE * queue;
    this.write('tx', 0x00, queue, this.#seen(TX_RING + shift));
    this.write('tx', 0x04, queue, 0);
    this.write('tx', 0x08, queue, RING * 16);
    this.write('tx', 0x28, queue, ENABLE);
    this.write('tx', 0x18, queue, 0);
    this.write('rx', 0x00, queue, this.#seen(RX_RING + shift));
    this.write('rx', 0x04, queue, 0);
    this.write('rx', 0x08, queue, RING * 16);
    this.write('rx', 0x0c, queue, options.srrctl ?? ONE_BUFFER);
    this.write('rx', 0x28, queue, ENABLE);
    for (let i = 0; i < RING; i++) this.buffer(i, this.#seen(RX_DATA + shift + i * SLOT), queue);
    this.write('rx', 0x18, queue, options.buffers ?? RING - 1);
    this.#txTail[queue] = 0;
    this.#rxHead[queue] = 0;
    return this;
  }

  buffer(index: number, address: number, queue = 0): void {
    const at = RX_RING + QUEUE * queue + 16 * index;
    this.word(at, address);
    this.word(at + 4, 0);
    this.word(at + 8, 0);
    this.word(at + 12, 0);
  }

  /** One descriptor, without telling the device. */
  describe(bytes: ArrayLike<number>, options: { queue?: number; command?: number; address?: number } = {}): void {
    const { queue = 0, command = EOP_IFCS_RS } = options;
    const index = (this.#txTail[queue] as number) % RING;
    const data = TX_DATA + QUEUE * queue + index * SLOT;
    this.host.bytes.set(bytes, this.base + data);
    const at = TX_RING + QUEUE * queue + 16 * index;
    this.word(at, options.address ?? this.#seen(data));
    this.word(at + 4, 0);
    this.word(at + 8, bytes.length | (3 << 20) | ((command | DEXT) << 24));
    this.word(at + 12, bytes.length << 14);
    this.#txTail[queue] = (this.#txTail[queue] as number) + 1;
  }

  go(queue = 0): void {
    this.write('tx', 0x18, queue, (this.#txTail[queue] as number) % RING);
  }

  send(bytes: ArrayLike<number>, options: Parameters<Guest['describe']>[1] = {}): void {
    this.describe(bytes, options);
    this.go(options.queue);
  }

  /** Descriptors that came back with DD. */
  sent(queue = 0): number {
    let done = 0;
    for (let i = 0; i < RING; i++) done += (this.host.bytes[this.base + TX_RING + QUEUE * queue + 16 * i + 12] as number) & 1;
    return done;
  }

  received(queue = 0): Taken[] {
    const taken: Taken[] = [];
    for (let guard = 0; guard < RING; guard++) {
      const index = (this.#rxHead[queue] as number) % RING;
      const at = this.base + RX_RING + QUEUE * queue + 16 * index;
      const status = this.host.view.getUint32(at + 8, true);
      if ((status & 1) === 0) break;
      const last = this.host.view.getUint32(at + 12, true);
      const data = this.base + RX_DATA + QUEUE * queue + index * SLOT;
      taken.push({ bytes: [...this.host.bytes.subarray(data, data + (last & 0xffff))], status, tag: last >>> 16 });
      this.buffer(index, this.#seen(RX_DATA + QUEUE * queue + index * SLOT), queue);
      this.#rxHead[queue] = (this.#rxHead[queue] as number) + 1;
    }
    return taken;
  }

  /** The same driver, after its machine was saved and restored. */
  goOn(before: Guest): void {
    for (const queue of [0, 1]) {
      this.#txTail[queue] = before.#txTail[queue] as number;
      this.#rxHead[queue] = before.#rxHead[queue] as number;
    }
  }

  /** Gives all buffers it has taken back. */
  refill(queue = 0): void {
    this.write('rx', 0x18, queue, ((this.#rxHead[queue] as number) + RING - 1) % RING);
  }
}

export interface HostOptions extends Partial<IgbOptions> {
  readonly vfs?: number;
  readonly clock?: SimClock;
}

/** The machine; guests 0 to n - 1 have VFs, pool 7 (or the last guest) is the physical function's own. */
export class Host extends Bench {
  readonly iommu: Iommu;
  readonly wire: MemoryPort;
  readonly segment: InlineSegment;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly vfs: number;
  readonly guests: Guest[];
  readonly pf: Guest;

  constructor(options: HostOptions = {}) {
    const { vfs = 7, clock = new SimClock(), ...device } = options;
    const iommu = new Iommu();
    const segment = new InlineSegment(new Segment(new DirectLink()), { defer: () => {} });
    const wire = new MemoryPort('wire');
    segment.addPort(wire);
    super({ ...device, segment, clock, iommu, memory: RAM });
    this.iommu = iommu;
    this.segment = segment;
    this.wire = wire;
    this.vfs = vfs;
    const slab = this.machine.memory.slabs[0] as { views: { u8: Uint8Array } };
    this.bytes = slab.views.u8;
    this.view = new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.byteLength);
    const own = iommu.domain();
    own.map(0, 0, RAM);
    iommu.attach(PF, own);
    for (let n = 0; n < vfs; n++) {
      const domain = iommu.domain();
      domain.map(0, GUEST_BYTES * (n + 1), GUEST_BYTES);
      iommu.attach(vfAt(n), domain);
    }
    this.guests = Array.from({ length: vfs }, (_, n) => new Guest(this, n, true));
    this.pf = new Guest(this, 7, false);
  }

  /** As a hypervisor has it when all is up. */
  start(options: { rctl?: number; mrqc?: number; guests?: boolean } = {}): this {
    const { vfs } = this;
    this.write(P.CTRL, 0x40);
    this.clock.advance(1e9);
    this.enable(vfs);
    this.write(H.RXCSUM, 0x2300);
    this.write(H.MRQC, options.mrqc ?? 3);
    this.write(H.VT_CTL, (1 << 30) | (7 << 7));
    this.write(H.DTXSWC, 0x8000_0000);
    this.address(0, macOf(7), 7);
    for (let n = 0; n < vfs; n++) this.address(n + 1, macOf(n), n);
    for (let n = 0; n < 8; n++) this.write(H.VMOLR(n), BAM | AUPE | 0x2600);
    this.write(P.VFRE, 0xff);
    this.write(P.VFTE, 0xff);
    this.write(H.TCTL, 0xfa);
    this.write(H.RCTL, options.rctl ?? RCTL_ON);
    this.pf.start();
    if (options.guests !== false)
      for (const guest of this.guests) {
        this.openVf(guest.pool);
        guest.start();
      }
    this.read(P.ICR);
    this.heard();
    return this;
  }

  address(index: number, mac: readonly number[], pool: number): void {
    const [a, b, c, d, e, f] = mac as [number, number, number, number, number, number];
    this.write(H.RAL(index), a | (b << 8) | (c << 16) | (d << 24));
    this.write(H.RAH(index), e | (f << 8) | (1 << (18 + pool)) | 0x8000_0000);
  }

  /** Entry `index` of VLVF, and the tag's bit of VFTA. */
  vlan(index: number, id: number, pools: readonly number[], local = false): void {
    const mask = pools.reduce((bits, pool) => bits | (1 << pool), 0);
    this.write(H.VLVF(index), id | (mask << 12) | (local ? 1 << 20 : 0) | 0x8000_0000);
    this.write(H.VFTA(id >> 5), this.read(H.VFTA(id >> 5)) | (1 << (id & 31)));
  }

  /** Frames from the network. */
  inject(...frames: ArrayLike<number>[]): void {
    for (const one of frames) this.wire.outbox.push({ bytes: Uint8Array.from(one) });
    this.segment.wake(this.wire);
  }

  /** Frames that went out to it since the last time. */
  outside(): number[][] {
    return this.wire.inbox.splice(0).map(({ bytes }) => [...bytes]);
  }

  /** What everyone got since the last time, by pool; nobody is left out. */
  everyone(): Record<string, number> {
    const counts: Record<string, number> = { wire: this.outside().length };
    for (const guest of [...this.guests, this.pf]) counts[guest.virtual ? guest.pool : 'pf'] = guest.received().length;
    return Object.fromEntries(Object.entries(counts).filter(([, count]) => count > 0));
  }
}

export { messageOf, P, PF, V, vfAt } from './vf-bench.ts';
