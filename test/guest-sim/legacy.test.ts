// The legacy interface, against a transitional device of these tests: registers in an I/O BAR, one block of memory for each queue, headers of 10 and 12 bytes,
// and the framing that ANY_LAYOUT does away with.

import { describe, expect, it } from 'vitest';
import { GuestArena } from '#guest-sim/arena';
import { Guest } from '#guest-sim/guest';
import type { VirtioNetOptions } from '#guest-sim/net-options';
import { ReceivedCheck } from '#guest-sim/received-check';
import { VIRTIO_F, VIRTIO_NET_F } from '#guest-sim/virtio-constants';
import { TreeBus, TreeFunction } from './config-tree.ts';
import { type ModelChain, SplitModel } from './ring-model.ts';

const F = VIRTIO_NET_F;
const SIZES = [64, 128, 64];

class LegacyModel extends TreeBus {
  readonly fn: TreeFunction;
  readonly log: string[] = [];
  readonly commands: number[][] = [];
  readonly rings: (SplitModel | undefined)[] = [];
  readonly pages = [0, 0, 0];
  readonly vectors16 = [0xffff, 0xffff, 0xffff];
  readonly offered: number;
  readonly table = new DataView(new ArrayBuffer(256));
  features = 0;
  status = 0;
  isr = 0;
  select = 0;
  configVector = 0xffff;
  /** What used entries of transmit and control buffers claim to have written: old devices said all sorts of things. */
  claim = 0;

  constructor(features: readonly number[], msix: boolean) {
    const fn = new TreeFunction('device', 0x1000_1af4).set(8, 4, 0x0200_0000).set(0x3d, 1, 1).bar(0x10, 64, 1).bar(0x14, 4096, 0);
    if (msix) fn.capability(0x11, 0x40).set(0x42, 2, 7).allow(0x42, 2, 0xc000).set(0x44, 4, 1);
    super(new Map([[3 << 3, fn]]), 8 * 2 ** 20);
    this.fn = fn;
    this.offered = features.reduce((mask, bit) => (mask | (1 << bit)) >>> 0, 0);
  }

  has(bit: number): boolean {
    return ((this.features >>> bit) & 1) === 1;
  }

  get #msixOn(): boolean {
    return (this.fn.get(0x42, 2) & 0x8000) !== 0;
  }

  #register(port: number): number {
    const base = this.fn.get(0x10, 4) & ~3;
    return (this.fn.get(4, 2) & 1) !== 0 && base !== 0 && port >= base && port < base + 64 ? port - base : -1;
  }

  override ioRead(port: number, size: 1 | 2 | 4): number {
    const at = this.#register(port);
    if (at < 0) return super.ioRead(port, size);
    const config = at - (this.#msixOn ? 24 : 20);
    if (config >= 0) return this.#config(config, size);
    switch (at) {
      case 0:
        return this.offered;
      case 8:
        return this.pages[this.select] ?? 0;
      case 12:
        return SIZES[this.select] ?? 0;
      case 18:
        return this.status;
      case 19: {
        const isr = this.isr;
        this.isr = 0;
        this.lines.set(0, false);
        return isr;
      }
      case 20:
        return this.configVector;
      case 22:
        return this.vectors16[this.select] ?? 0xffff;
    }
    throw new Error(`read of ${size} bytes at ${at}`);
  }

  #config(at: number, size: number): number {
    const bytes = [2, 0, 0, 0xaa, 0xbb, 0xcc, 1, 0, 1, 0];
    return Array.from({ length: size }, (_, i) => (bytes[at + i] ?? 0) * 256 ** i).reduce((a, b) => a + b, 0);
  }

  override ioWrite(port: number, size: 1 | 2 | 4, value: number): void {
    const at = this.#register(port);
    if (at < 0) {
      super.ioWrite(port, size, value);
      return;
    }
    this.log.push(`w ${at} ${size} = ${value}`);
    if (at === 4) this.features = value;
    else if (at === 8) this.#place(value);
    else if (at === 14) this.select = value;
    else if (at === 16) this.#kicked(value);
    else if (at === 18) {
      this.status = value;
      if (value === 0) {
        this.pages.fill(0);
        this.rings.length = 0;
      }
    } else if (at === 20) this.configVector = value;
    else if (at === 22) this.vectors16[this.select] = value;
    else throw new Error(`write of ${size} bytes at ${at}`);
  }

  #place(page: number): void {
    const size = SIZES[this.select] as number;
    const desc = page * 4096;
    const driver = desc + 16 * size;
    const device = Math.ceil((driver + 6 + 2 * size) / 4096) * 4096;
    const options = { arena: new GuestArena(this.memory), size, eventIdx: this.has(29), indirect: this.has(28), inOrder: false, maxSegments: 64 };
    this.pages[this.select] = page;
    this.rings[this.select] = new SplitModel({ addresses: { desc, driver, device } }, options);
  }

  #ram(): Uint8Array {
    return new Uint8Array(this.memory.slabs[0]?.views.u8.buffer as SharedArrayBuffer);
  }

  #readable(chain: ModelChain): number[] {
    return chain.segments.filter((s) => !s.writable).flatMap((s) => [...this.#ram().subarray(s.offset, s.offset + s.length)]);
  }

  get header(): number {
    return this.has(F.MRG_RXBUF) ? 12 : 10;
  }

  #kicked(queue: number): void {
    if ((this.status & 4) === 0) throw new Error('a notification before DRIVER_OK');
    const ring = this.rings[queue];
    for (let chain = queue > 0 ? ring?.take() : undefined; chain; chain = ring?.take()) {
      const lengths = chain.segments.map((s) => s.length);
      const bytes = this.#readable(chain);
      if (queue === 1) {
        if (!this.has(VIRTIO_F.ANY_LAYOUT) && lengths[0] !== this.header) throw new Error(`a header in a descriptor of ${lengths[0]} bytes`);
        if (this.header === 12) bytes[10] = 1;
        ring?.use(chain, this.claim);
        this.deliver(bytes);
      } else {
        if (!this.has(VIRTIO_F.ANY_LAYOUT) && (lengths[0] !== 2 || lengths.at(-1) !== 1)) throw new Error(`a command in descriptors of ${lengths}`);
        this.commands.push([...bytes, ...lengths]);
        this.#ram()[chain.segments.at(-1)?.offset as number] = 0;
        ring?.use(chain, this.claim);
      }
    }
    ring?.await(0);
    if (queue === 1 && ring?.callDue()) this.#interrupt(1);
  }

  deliver(bytes: readonly number[]): void {
    const ring = this.rings[0];
    const chain = ring?.take();
    if (!chain) throw new Error('no receive buffer');
    if (!this.has(VIRTIO_F.ANY_LAYOUT) && chain.segments[0]?.length !== this.header) throw new Error('a receive header that shares its descriptor');
    let done = 0;
    for (const s of chain.segments) {
      const part = bytes.slice(done, done + s.length);
      this.#ram().set(part, s.offset);
      done += part.length;
    }
    ring?.use(chain, bytes.length);
    if (ring?.callDue()) this.#interrupt(0);
  }

  #interrupt(queue: number): void {
    if (this.#msixOn) {
      const entry = this.vectors16[queue] as number;
      if (entry < 8) this.vectors.post(this.table.getUint32(entry * 16 + 8, true) & 0xff);
      return;
    }
    this.isr |= 1;
    if (this.lines.set(0, true)) this.vectors.post(0x20);
  }

  override mmioRead(address: number, size: 1 | 2 | 4): number {
    const at = address - (this.fn.get(0x14, 4) & ~15);
    return at >= 0 && at < 256 ? this.table.getUint32(at, true) : super.mmioRead(address, size);
  }

  override mmioWrite(address: number, size: 1 | 2 | 4, value: number): void {
    const at = (address - (this.fn.get(0x14, 4) & ~15)) % 2 ** 32;
    if (at >= 0 && at < 256) this.table.setUint32(at, value, true);
    else super.mmioWrite(address, size, value);
  }
}

const BITS = [F.CSUM, F.GUEST_CSUM, F.MAC, F.MRG_RXBUF, F.STATUS, F.CTRL_VQ, F.CTRL_RX, VIRTIO_F.ANY_LAYOUT, VIRTIO_F.INDIRECT_DESC, VIRTIO_F.EVENT_IDX];
const bringUp = (less: readonly number[] = [], msix = false, net: VirtioNetOptions = {}): { device: LegacyModel; guest: Guest } => {
  const device = new LegacyModel(
    [...BITS, 30].filter((bit) => !less.includes(bit)),
    msix,
  );
  return { device, guest: new Guest(device, { net: { legacy: true, ...net } }) };
};

describe('the legacy interface', () => {
  it('goes through the steps of 3.1.2: no FEATURES_OK, queues told by page, and bit 30 never taken', () => {
    const { device, guest } = bringUp();
    expect(device.log.filter((l) => l.startsWith('w 18'))).toEqual(['w 18 1 = 0', 'w 18 1 = 1', 'w 18 1 = 3', 'w 18 1 = 7']);
    expect([device.has(30), device.has(VIRTIO_F.ANY_LAYOUT), guest.net.has(VIRTIO_F.VERSION_1)]).toEqual([false, true, false]);
    expect(device.pages.every((page) => page > 0)).toBe(true);
    expect(guest.net.receive[0]?.ring.size).toBe(64);
    expect([...guest.net.configuration.mac]).toEqual([2, 0, 0, 0xaa, 0xbb, 0xcc]);
    expect(guest.net.usesIntx).toBe(true);
  });

  const cases = [false, true].flatMap((msix) =>
    [[], [F.MRG_RXBUF], [VIRTIO_F.ANY_LAYOUT], [VIRTIO_F.ANY_LAYOUT, VIRTIO_F.INDIRECT_DESC, VIRTIO_F.EVENT_IDX], [F.MRG_RXBUF, F.CSUM, F.GUEST_CSUM]].map(
      (less) => ({
        msix,
        less,
      }),
    ),
  );
  it.each(cases)('carries frames, MSI-X $msix, without $less', ({ msix, less }) => {
    const { device, guest } = bringUp(less, msix);
    expect(guest.net.usesIntx).toBe(!msix);
    expect(device.header).toBe(guest.net.has(F.MRG_RXBUF) ? 12 : 10);
    // Whatever the device claims to have written into what it could only read does not count.
    device.claim = 1500;
    const work = guest.start({ kind: 'generate', count: 400, sizes: [60, 61, 777, 1514], burst: 16, checksumOffload: true });
    // The model sends every frame back, so its bytes are those of the guest's own frames; sizes tell them apart.
    const sizes = new Set<number>();
    const problems = new Set<string>();
    const check = new ReceivedCheck();
    const count = work.receive.bind(work);
    work.receive = (frame) => {
      count(frame);
      sizes.add(frame.length);
      problems.add(check.check(frame.views.u8, frame.offsets[0] as number, frame));
    };
    for (let i = 0; i < 500 && !work.done; i++) guest.step();
    for (let i = 0; i < 5; i++) guest.step();
    expect([work.done, work.framesReceived, guest.net.broken]).toEqual([true, 400, '']);
    expect(guest.report().malformed).toBe(0);
    expect([[...sizes].sort((a, b) => a - b), [...problems]]).toEqual([[60, 61, 777, 1514], ['']]);
  });

  it('cuts commands as 5.1.9.8 asks without ANY_LAYOUT, and sends them whole with it', () => {
    const mac = (n: number): Uint8Array => Uint8Array.of(2, 0, 0, 0, 0, n);
    const run = (less: readonly number[]): number[][] => {
      const { device, guest } = bringUp(less);
      device.claim = 70_000;
      expect(guest.net.control?.setMacTable([mac(1)], [mac(2), mac(3)])).toBe(true);
      expect(guest.net.control?.setReceiveMode('promiscuous', true)).toBe(true);
      return device.commands;
    };
    const table = [1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 3];
    expect(run([VIRTIO_F.ANY_LAYOUT])).toEqual([
      [...table, 2, 10, 16, 1],
      [0, 0, 1, 2, 1, 1],
    ]);
    expect(run([])).toEqual([
      [...table, 28, 1],
      [0, 0, 1, 3, 1],
    ]);
  });

  it('gives everything back on a reset, and refuses what there is no register for', () => {
    const { guest } = bringUp();
    const memory = guest.arena.bytesInUse;
    guest.net.recover();
    expect(guest.arena.bytesInUse).toBe(memory);
    for (const act of [() => guest.net.resetPair(0), () => guest.net.suspend()]) expect(act).toThrow('was not negotiated');
  });

  it('says so when the device has no I/O BAR', () => {
    const device = new TreeBus(new Map([[3 << 3, new TreeFunction('device', 0x1000_1af4).bar(0x10, 4096, 0)]]), 8 * 2 ** 20);
    expect(() => new Guest(device, { net: { legacy: true } })).toThrow('not a transitional virtio device');
  });
});
