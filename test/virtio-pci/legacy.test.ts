// The legacy interface of a transitional device (virtio 1.4 4.1.4.10 and the legacy sections elsewhere), driven as a driver from before VIRTIO 1.0 does: I/O registers, page numbers,
// no FEATURES_OK. Register offsets and the ring's layout are typed from the text.
import { describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { RestoreError } from '#core/saved';
import type { VirtioNetOptions } from '#devices/virtio-net/device';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { FeatureSet } from '#virtio/features';
import { POLICY_ACTIVE, POLICY_ALL_MULTICAST } from '#virtio/net-policy';
import { SplitDriver } from '../virtio/driver-split.ts';
import * as b from './bench.ts';

const IO = 0xc000;
const [DEVICE_FEATURES, DRIVER_FEATURES, PAGE_NUMBER, SIZE, SELECT, NOTIFY, STATUS, ISR] = [0, 4, 8, 12, 14, 16, 18, 19] as const;
const LIVE = b.ACKNOWLEDGE | b.DRIVER | b.DRIVER_OK;
const MRG_RXBUF = 1 << 15;
const CTRL_VQ = 1 << 17;
const CTRL_RX = 1 << 18;
const CTRL_MAC_ADDR = 1 << 23;

class LegacyBench extends b.VirtioBench {
  constructor(options: { net?: Partial<VirtioNetOptions>; backend?: b.RecordingBackend; transitional?: boolean } = {}) {
    super({ ...options, pci: { transitional: options.transitional ?? true } });
  }

  override configure(): void {
    this.configWrite(0x10, 4, IO);
    this.configWrite(0x18, 4, b.BAR2);
    this.configWrite(0x20, 4, b.BAR0 % 2 ** 32);
    this.configWrite(0x24, 4, Math.floor(b.BAR0 / 2 ** 32));
    this.configWrite(4, 2, 0x7);
    for (let at = this.configRead(0x34, 1); at !== 0; at = this.configRead(at + 1, 1)) {
      const id = this.configRead(at, 1);
      if (id === 9) this.caps.set(this.configRead(at + 3, 1), at);
      if (id === 0x11) this.msix = at;
    }
  }

  in(offset: number, size: 1 | 2 | 4): number {
    return this.fabric.ioRead(IO + offset, size);
  }

  out(offset: number, size: 1 | 2 | 4, value: number): void {
    this.fabric.ioWrite(IO + offset, size, value);
  }

  /** Places queue `index` at a page of its own; returns a driver over it. */
  place(index: number): SplitDriver {
    const at = 0x10000 * (index + 1);
    this.out(SELECT, 2, index);
    const size = this.in(SIZE, 2);
    this.out(PAGE_NUMBER, 4, at / 4096);
    const avail = at + 16 * size;
    const used = Math.ceil((avail + 4 + 2 * size + 2) / 4096) * 4096;
    return new SplitDriver(this.ram, { size, desc: at, avail, used });
  }

  up(features: number, queues: readonly number[] = [0, 1]): SplitDriver[] {
    this.out(STATUS, 1, 0);
    this.out(STATUS, 1, b.ACKNOWLEDGE);
    this.out(STATUS, 1, b.ACKNOWLEDGE | b.DRIVER);
    this.out(DRIVER_FEATURES, 4, features);
    const drivers = queues.map((index) => this.place(index));
    this.out(STATUS, 1, LIVE);
    return drivers;
  }
}

describe('identity', () => {
  it('is that of a transitional network device, with I/O registers first and the virtio structures elsewhere', () => {
    const bench = new LegacyBench();
    expect(bench.configRead(0, 4)).toBe(0x1000_1af4);
    expect(bench.configRead(8, 1)).toBe(0);
    expect(bench.configRead(0x2e, 2)).toBe(1);
    expect(bench.configRead(0x10, 4)).toBe(IO | 1);
    for (const type of [1, 2, 3, 4]) expect(bench.configRead((bench.caps.get(type) as number) + 4, 1)).toBe(4);
    const modern = new b.VirtioBench();
    expect([modern.configRead(0, 4), modern.configRead(8, 1), modern.configRead(0x10, 4) & 1]).toEqual([0x1041_1af4, 1, 0]);
    expect(() => new LegacyBench({ net: { features: { ACCESS_PLATFORM: true } } })).toThrow(expect.objectContaining({ code: 'NICBOX_TRANSITIONAL' }));
  });
});

describe('registers', () => {
  it('show the low features and ANY_LAYOUT, which the modern interface does not have', () => {
    const bench = new LegacyBench();
    const [low] = bench.offered().words;
    expect(bench.in(DEVICE_FEATURES, 4)).toBe((low | (1 << 27)) >>> 0);
    expect(low & (1 << 27)).toBe(0);
    expect(bench.offered().has(32)).toBe(true);
  });

  it('queues: size as given, 0 for none; a page number places one, 0 takes it away', () => {
    const bench = new LegacyBench();
    const [, transmit] = bench.up(MRG_RXBUF);
    expect(bench.in(SIZE, 2)).toBe(256);
    expect(bench.in(PAGE_NUMBER, 4)).toBe(0x20);
    expect(bench.backend.ring(1).setup).toEqual({ size: 256, descriptorArea: 0x20000, driverArea: 0x21000, deviceArea: 0x22000 });
    expect(transmit?.layout.used).toBe(0x22000);
    bench.out(SIZE, 2, 16);
    expect(bench.in(SIZE, 2)).toBe(256);
    bench.out(PAGE_NUMBER, 4, 0x50);
    expect(bench.in(PAGE_NUMBER, 4)).toBe(0x20);
    bench.out(PAGE_NUMBER, 4, 0);
    expect([bench.in(PAGE_NUMBER, 4), bench.backend.running()]).toEqual([0, [0]]);
    bench.out(PAGE_NUMBER, 4, 0x60);
    expect(bench.backend.ring(1).setup.descriptorArea).toBe(0x60000);
    for (const index of [2, 9, 0xffff]) {
      bench.out(SELECT, 2, index);
      expect(bench.in(SIZE, 2)).toBe(0);
      bench.out(PAGE_NUMBER, 4, 0x70);
      expect(bench.in(PAGE_NUMBER, 4)).toBe(0);
      bench.out(NOTIFY, 2, index);
    }
    expect(bench.status & b.NEEDS_RESET).toBe(0);
  });

  it('the highest page number there is lies outside memory: the queue is broken, and nothing else', () => {
    const bench = new LegacyBench({ net: { features: { CTRL_VQ: true } } });
    bench.up(CTRL_VQ, [0, 1]);
    bench.out(SELECT, 2, 2);
    bench.out(PAGE_NUMBER, 4, 0xffffffff);
    expect(bench.in(STATUS, 1) & b.NEEDS_RESET).toBe(b.NEEDS_RESET);
    bench.out(STATUS, 1, 0);
    expect(bench.in(STATUS, 1)).toBe(0);
  });

  it('the device configuration lies behind them, and moves when MSI-X is switched on; any width reads the same', () => {
    const bench = new LegacyBench({ net: { mtu: 1500 } });
    const at = (base: number) => [bench.in(base, 4), bench.in(base + 4, 2), bench.in(base + 6, 2), bench.in(base + 10, 2), bench.in(base + 3, 4)];
    const values = [0x12005452, 0x5634, 1, 1500, 0x01563412];
    expect(at(20)).toEqual(values);
    bench.enableMsix();
    expect(at(24)).toEqual(values);
    bench.up(0);
    bench.programVector(1, 0x51);
    bench.out(20, 2, 1);
    bench.out(SELECT, 2, 0);
    bench.out(22, 2, 2);
    expect([bench.in(20, 2), bench.in(22, 2)]).toEqual([1, 2]);
    bench.out(22, 2, 99);
    expect(bench.in(22, 2)).toBe(0xffff);
    bench.enableMsix(false);
    expect(at(20)).toEqual(values);
    expect([...new Array(64).keys()].map((i) => bench.in(i, 1)).every((v) => v >= 0 && v <= 255)).toBe(true);
  });

  it('interrupts: the ISR byte reads and clears, the line follows', () => {
    const bench = new LegacyBench();
    bench.up(1 << 16);
    bench.net.setLink(false);
    expect(bench.lines.some(Boolean)).toBe(true);
    expect([bench.in(ISR, 1), bench.in(ISR, 1), bench.lines.some(Boolean)]).toEqual([2, 0, false]);
  });

  it('the address is written byte by byte, also before features are; with CTRL_MAC_ADDR it is not', () => {
    const bench = new LegacyBench();
    bench.out(STATUS, 1, b.ACKNOWLEDGE);
    const mac = [0x52, 0x54, 0, 9, 8, 7];
    for (const [i, byte] of mac.entries()) bench.out(20 + i, 1, byte);
    expect([...bench.net.mac]).toEqual(mac);
    bench.out(20, 4, 0x55545352);
    expect([...bench.net.mac]).toEqual([0x52, 0x53, 0x54, 0x55, 8, 7]);
    bench.up(CTRL_VQ | CTRL_MAC_ADDR, [0, 1]);
    bench.out(25, 1, 1);
    expect([...bench.net.mac]).toEqual([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    bench.out(26, 2, 0);
    expect(bench.in(26, 2)).toBe(1);
  });
});

describe('features and status', () => {
  it('of what was acknowledged, what goes together is taken; FEATURES_OK and SUSPEND mean nothing', () => {
    const bench = new LegacyBench();
    // HOST_TSO4 without CSUM, GUEST_ECN without a TSO, CTRL_RX without CTRL_VQ, a bit nobody has, MRG_RXBUF.
    bench.up((1 << 11) | (1 << 9) | CTRL_RX | (1 << 30) | MRG_RXBUF);
    expect(bench.backend.session?.features.bits()).toEqual([15]);
    bench.out(STATUS, 1, LIVE | b.FEATURES_OK | b.SUSPEND);
    expect(bench.in(STATUS, 1)).toBe(LIVE);
    bench.out(DRIVER_FEATURES, 4, 0);
    expect(bench.backend.session?.features.bits()).toEqual([15]);
  });

  it('without MRG_RXBUF the header has ten bytes', () => {
    for (const [features, length] of [
      [0, 10],
      [MRG_RXBUF, 12],
    ] as const) {
      const bench = new LegacyBench();
      bench.up(features);
      expect(bench.net.policy.headerLength).toBe(length);
    }
  });

  it('the device is used before DRIVER_OK, even before features: first use settles them', () => {
    const bench = new LegacyBench();
    bench.out(STATUS, 1, b.ACKNOWLEDGE | b.DRIVER);
    bench.place(0);
    bench.place(1);
    expect(bench.backend.calls).toEqual([]);
    bench.out(NOTIFY, 2, 1);
    expect(bench.backend.running()).toEqual([0, 1]);
    expect(bench.net.policy.flags & POLICY_ACTIVE).toBe(POLICY_ACTIVE);
    bench.backend.calls.length = 0;
    bench.out(DRIVER_FEATURES, 4, MRG_RXBUF);
    expect(bench.backend.session?.features.empty).toBe(true);
    bench.out(STATUS, 1, LIVE);
    expect([bench.backend.calls, bench.in(STATUS, 1)]).toEqual([[], LIVE]);
    bench.out(STATUS, 1, LIVE | b.FAILED);
    expect(bench.backend.running()).toEqual([]);
    bench.out(STATUS, 1, 0);
    expect([bench.in(STATUS, 1), bench.in(PAGE_NUMBER, 4), bench.in(DRIVER_FEATURES, 4)]).toEqual([0, 0, 0]);
  });

  it('whichever interface is used first owns the device until a reset; the other writes nothing', () => {
    const bench = new LegacyBench();
    const modern = bench.offered().without(FeatureSet.of(34, 35));
    bench.up(MRG_RXBUF);
    bench.status = LIVE | b.FEATURES_OK;
    bench.writeFeatures(modern);
    bench.setUpQueue(1);
    expect([bench.status, bench.backend.session?.features.bits(), bench.backend.ring(1).setup.driverArea]).toEqual([LIVE, [15], 0x21000]);
    bench.status = 0;
    expect(bench.in(STATUS, 1)).toBe(0);
    bench.bringUp(modern, [0, 1]);
    const { calls } = bench.backend;
    const before = calls.length;
    bench.out(STATUS, 1, b.FAILED);
    bench.out(DRIVER_FEATURES, 4, 0);
    bench.out(SELECT, 2, 1);
    bench.out(PAGE_NUMBER, 4, 0);
    bench.out(20, 1, 0x66);
    expect([calls.length, bench.status, bench.net.mac[0]]).toEqual([before, LIVE | b.FEATURES_OK, 0x52]);
    bench.out(STATUS, 1, 0);
    expect(bench.status).toBe(0);
  });
});

describe('traffic', () => {
  function pair(features: number): { a: LegacyBench; z: LegacyBench; transmit: SplitDriver; receive: SplitDriver; control: SplitDriver } {
    const segment = new InlineSegment(new Segment(new DirectLink()), { defer: () => {} });
    const [a, z] = (['a', 'b'] as const).map((name) => new LegacyBench({ net: { mac: `52:54:00:00:00:0${name}`, backend: segment.port(name) } })) as [
      LegacyBench,
      LegacyBench,
    ];
    const [, transmit] = a.up(features);
    const [receive, , control] = z.up(features, [0, 1, 2]);
    return { a, z, transmit: transmit as SplitDriver, receive: receive as SplitDriver, control: control as SplitDriver };
  }

  const frame = [0x52, 0x54, 0, 0, 0, 0xb, 0x52, 0x54, 0, 0, 0, 0xa, 0x12, 0x34, ...Array.from({ length: 50 }, (_, i) => i + 1)];

  it.each([
    ['ten-byte headers, header and frame apart', CTRL_VQ | CTRL_RX, 10, [10, 64]],
    ['ten-byte headers in one buffer', CTRL_VQ | CTRL_RX, 10, [74]],
    ['mergeable buffers', CTRL_VQ | CTRL_RX | MRG_RXBUF, 12, [12, 64]],
  ])('with %s', (_, features, header, buffers) => {
    const { a, z, transmit, receive, control } = pair(features);
    const bytes = new Uint8Array(z.ram);
    const room = (at: number) => buffers.map((length, i) => ({ address: at + (i === 0 ? 0 : (buffers[0] as number)), length, write: true }));
    if (features & MRG_RXBUF) receive.add(0, [{ address: 0x100000, length: 200, write: true }]);
    else receive.add(0, room(0x100000));
    receive.expose();
    z.out(NOTIFY, 2, 0);
    bytes.fill(0xee, 0x100000, 0x100100);
    const from = new Uint8Array(a.ram);
    from.fill(0, 0x100000, 0x100000 + header);
    from.set(frame, 0x100000 + header);
    transmit.add(0, [
      { address: 0x100000, length: header },
      { address: 0x100000 + header, length: frame.length },
    ]);
    transmit.expose();
    a.out(NOTIFY, 2, 1);
    expect(transmit.reap()).toHaveLength(1);
    expect(receive.reap()).toEqual([{ cookie: 0, length: header + frame.length }]);
    expect([...bytes.subarray(0x100000 + header, 0x100000 + header + frame.length)]).toEqual(frame);
    expect([...bytes.subarray(0x100000, 0x100000 + header)]).toEqual(header === 10 ? new Array(10).fill(0) : [...new Array(10).fill(0), 1, 0]);
    expect(bytes[0x100000 + header + frame.length]).toBe(0xee);
    expect(z.in(ISR, 1) & 1).toBe(1);
    // The control queue, as that driver lays commands out.
    bytes.set([0, 1, 1], 0x110000);
    control.add(0, [
      { address: 0x110000, length: 2 },
      { address: 0x110002, length: 1 },
      { address: 0x110010, length: 1, write: true },
    ]);
    control.expose();
    z.out(NOTIFY, 2, 2);
    expect([control.reap().length, bytes[0x110010], z.net.policy.flags & POLICY_ALL_MULTICAST]).toEqual([1, 0, POLICY_ALL_MULTICAST]);
  });
});

describe('saved state', () => {
  function saved(): { state: unknown; fabric: unknown; source: LegacyBench } {
    const source = new LegacyBench();
    source.out(STATUS, 1, b.ACKNOWLEDGE | b.DRIVER);
    source.out(DRIVER_FEATURES, 4, MRG_RXBUF);
    source.place(0);
    source.place(1);
    source.out(NOTIFY, 2, 1);
    source.out(21, 1, 0x77);
    source.backend.ring(1).position = { available: 77, used: 75 };
    source.net.pause();
    return { state: structuredClone(source.pci.save()), fabric: structuredClone(source.fabric.save()), source };
  }

  it('comes back as it was, in use before DRIVER_OK', () => {
    const { state, fabric, source } = saved();
    const target = new LegacyBench();
    new Uint8Array(target.ram).set(new Uint8Array(source.ram));
    target.fabric.restore(fabric as never);
    target.pci.restore(state);
    expect(structuredClone(target.pci.save())).toEqual(state);
    target.net.resume();
    expect(target.backend.ring(1).start).toEqual({ available: 77, used: 75 });
    expect([target.in(STATUS, 1), target.in(SELECT, 2), target.in(PAGE_NUMBER, 4), target.net.mac[1]]).toEqual([3, 1, 0x20, 0x77]);
    target.out(STATUS, 1, LIVE);
    expect(target.in(STATUS, 1)).toBe(LIVE);
    target.status = LIVE | b.FAILED;
    expect(target.in(STATUS, 1)).toBe(LIVE);
  });

  it.each([
    ['an interface nobody has', { interface: 'other' }],
    ['FEATURES_OK', { status: 11 }],
    ['DRIVER_OK without use', { status: 7, legacyLive: false }],
    ['a feature past bit 31', { negotiated: [1 << 15, 1, 0, 0] }],
    ['use, of the modern interface', { interface: 'modern' }],
  ])('with %s is refused', (_, lie) => {
    const { state, source } = saved();
    Object.assign((state as { state: { control: object } }).state.control, lie);
    expect(() => source.pci.restore(state)).toThrow(RestoreError);
  });

  it('of a legacy driver is refused by a device without that interface', () => {
    const { state } = saved();
    expect(() => new b.VirtioBench().pci.restore(state)).toThrow(RestoreError);
  });
});
