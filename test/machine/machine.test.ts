import { afterEach, describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { SimClock } from '#core/clock';
import { DMA_READ, DMA_WRITE } from '#core/dma-space';
import { GuestMemory } from '#core/guest-memory';
import { Iommu, PAGE_2M } from '#core/iommu';
import { Log, type LogRecord } from '#core/log';
import { Guest } from '#guest-sim/guest';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { Machine, type MachineOptions } from '#nicbox/machine';
import { pciBridge, rootPort } from '#pci/bridges';
import { PciFunction } from '#pci/function';
import { makeLink, type Plane, RAM_SIZE } from './pair.ts';

const closing: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

function machine(options: Partial<MachineOptions> = {}): Machine {
  const made = new Machine({ memory: RAM_SIZE, ...options });
  closing.push(() => made.close());
  return made;
}

async function stepUntil(guests: readonly Guest[], what: string, condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`waited 20 s for ${what}`);
    let busy = false;
    for (const guest of guests) if (guest.step()) busy = true;
    if (!busy) await new Promise((resolve) => setImmediate(resolve));
  }
}

function plainFunction(name = 'nothing'): PciFunction {
  return new PciFunction({ name, identity: { vendorId: 0x1234, deviceId: 1, classCode: 0xff0000, pcieType: 'conventional' } });
}

describe('an embedder’s mistakes', () => {
  it('RAM where devices are', () => {
    expect(() => new Machine({ memory: new GuestMemory([{ base: 0xbfff_f000, size: 4096 }]) })).toThrow(expect.objectContaining({ code: 'NICBOX_RAM_LAYOUT' }));
    for (const base of [2 ** 40 - 4096, 2 ** 40 + 4096])
      expect(() => new Machine({ memory: new GuestMemory([{ base, size: 8192 }]) })).toThrow(expect.objectContaining({ code: 'NICBOX_RAM_LAYOUT' }));
    expect(() => new Machine({ memory: 12345 })).toThrow(RangeError);
  });

  it('one backend for two devices, in one machine or two', async () => {
    const segment = new InlineSegment(new Segment(new DirectLink()));
    const [backend, other] = [segment.port('a'), segment.port('b')];
    const taken = expect.objectContaining({ code: 'NICBOX_BACKEND_TAKEN' });
    const first = machine();
    const { net, pci } = first.addVirtioNet({ mac: '52:54:00:00:00:01', backend });
    for (const m of [first, machine()]) expect(() => m.addVirtioNet({ mac: '52:54:00:00:00:02', backend })).toThrow(taken);
    // Free again once its device uses another, is taken away, or its machine is closed.
    net.handOver(other);
    expect(net.handingOver).toBe(false);
    const second = machine();
    second.addVirtioNet({ mac: '52:54:00:00:00:02', backend });
    expect(() => machine().addVirtioNet({ mac: '52:54:00:00:00:03', backend: other })).toThrow(taken);
    first.detach(pci.fn);
    machine().addVirtioNet({ mac: '52:54:00:00:00:03', backend: other });
    await second.close();
    machine().addVirtioNet({ mac: '52:54:00:00:00:04', backend });
  });

  it('too many devices on a bus', () => {
    const m = machine();
    for (let i = 1; i < 32; i++) m.attach(plainFunction());
    expect(() => m.attach(plainFunction())).toThrow(expect.objectContaining({ code: 'NICBOX_BUS_FULL' }));
    expect(() => m.attach(plainFunction(), { deviceNumber: 7 })).toThrow(RangeError);
  });

  it('RAM that a guest thread cannot see', () => {
    const m = machine({ memory: new GuestMemory([{ base: 0, size: RAM_SIZE, source: new ArrayBuffer(RAM_SIZE) }]) });
    expect(() => m.threadBus()).toThrow(/SharedArrayBuffer/);
  });

  it('anything after close', async () => {
    const m = machine();
    await m.close();
    await m.close();
    for (const use of [() => m.threadBus(), () => m.attach(plainFunction())]) expect(use).toThrow(expect.objectContaining({ code: 'NICBOX_CLOSED' }));
    await expect(m.save()).rejects.toMatchObject({ code: 'NICBOX_CLOSED' });
    // A CPU that has not noticed yet does no harm.
    expect(m.mmioRead(0xc000_0000, 4)).toBe(0xffff_ffff);
  });
});

describe('a host’s interrupt controller', () => {
  it.each<[Plane, 'per-queue' | 'intx']>([
    ['inline', 'per-queue'],
    ['inline', 'intx'],
    ['vhost-net', 'per-queue'],
    ['vhost-net', 'intx'],
    ['vdpa', 'per-queue'],
    ['vdpa-shadow', 'intx'],
  ])('gets every message and level, over %s, %s', async (plane, interrupts) => {
    const link = makeLink(plane);
    closing.push(() => link.close());
    const messages: number[] = [];
    const levels: string[] = [];
    const hosts: Machine[] = [];
    const sides = ['a', 'b'].map((name) => {
      const m = machine({
        interrupts: {
          message: ({ addressLow, data }, requester) => {
            expect(addressLow).toBe(0xfee0_0000);
            messages.push(requester);
            hosts[name === 'a' ? 0 : 1]?.vectors.post(data & 0xff);
          },
          setIntx: (line, asserted) => {
            levels.push(`${name}${line}${asserted ? '+' : '-'}`);
            const host = hosts[name === 'a' ? 0 : 1] as Machine;
            if (host.lines.set(line, asserted)) host.vectors.post(host.platform.intxVectors[line] as number);
          },
        },
      });
      hosts.push(m);
      m.addVirtioNet({ mac: `52:54:00:00:00:0${name}`, backend: link.port(name) });
      return new Guest(m.localBus(), { net: { interrupts } });
    }) as [Guest, Guest];
    const sink = sides[1].start({ kind: 'sink', count: 2000 });
    sides[0].start({ kind: 'generate', count: 2000 });
    await stepUntil(sides, 'all frames', () => sink.done);
    expect(sides[1].report().errors).toEqual([]);
    if (interrupts === 'intx') {
      expect(messages).toEqual([]);
      expect(levels).toContain('b1+');
      // A level alternates: never told twice.
      for (const name of ['a1', 'b1']) {
        const changes = levels.filter((l) => l.startsWith(name));
        expect(changes).toEqual(changes.map((_, i) => name + (i % 2 === 0 ? '+' : '-')));
      }
    } else {
      expect(levels).toEqual([]);
      expect(messages.length).toBeGreaterThan(0);
      expect(messages.every((requester) => requester === 0x0008)).toBe(true);
    }
  });
});

describe('behind an IOMMU', () => {
  it.each<Plane>(['inline', 'vhost-net', 'vdpa', 'vdpa-shadow'])(
    'devices reach what is mapped for them, and nothing once it is taken away, over %s',
    async (plane) => {
      const link = makeLink(plane);
      closing.push(() => link.close());
      const iommus = [new Iommu(), new Iommu()] as const;
      const machines = iommus.map((iommu, i) => {
        const m = machine({ iommu });
        m.addVirtioNet({ mac: `52:54:00:00:00:0${i + 1}`, backend: link.port(String(i)) });
        return m;
      }) as [Machine, Machine];
      const domains = iommus.map((iommu) => {
        const domain = iommu.domain();
        domain.map(0, 0, RAM_SIZE, DMA_READ | DMA_WRITE);
        iommu.attach(0x0008, domain);
        return domain;
      });
      expect(domains[1]?.pages).toEqual({ large: RAM_SIZE / PAGE_2M, small: 0 });
      const [a, b] = machines.map((m) => new Guest(m.localBus())) as [Guest, Guest];
      const sink = b.start({ kind: 'sink', count: 1000 });
      a.start({ kind: 'generate', count: 1000 });
      await stepUntil([a, b], 'all frames', () => sink.done);
      expect(b.report().errors).toEqual([]);
      expect(iommus[1].takeFaults()).toEqual({ records: [], lost: 0 });

      a.start({ kind: 'generate', count: 1_000_000 });
      await stepUntil([a], 'some more to be sent', () => (a.workload?.framesSent ?? 0) > 100);
      expect(domains[1]?.unmap(0, RAM_SIZE)).toBe(RAM_SIZE);
      const ram = machines[1].memory.slabs[0]?.views.u8 as Uint8Array;
      const before = ram.slice();
      for (let i = 0; i < 50; i++) {
        a.step();
        await new Promise((resolve) => setImmediate(resolve));
      }
      expect(Buffer.compare(before, ram)).toBe(0);
    },
  );
});

describe('life of a machine', () => {
  it('a platform reset puts every function back, and nothing stays pending', async () => {
    const segment = new InlineSegment(new Segment(new DirectLink()));
    const m = machine();
    m.addVirtioNet({ mac: '52:54:00:00:00:0a', backend: segment.port('a') });
    const cold = m.fabric.save();
    const guest = new Guest(m.localBus());
    guest.step();
    m.vectors.post(0x77);
    expect(m.decoded().length).toBeGreaterThan(0);
    m.reset();
    expect(m.decoded()).toEqual([]);
    expect(m.vectors.any).toBe(false);
    expect(m.fabric.save()).toEqual(cold);
    // And a guest that boots again finds all as it was.
    expect(new Guest(m.localBus()).net.broken).toBe('');
  });

  it('devices come and go, with what is below them and what is saved of them', async () => {
    const segment = new InlineSegment(new Segment(new DirectLink()));
    const m = machine();
    const port = rootPort();
    m.attach(port);
    const bridge = pciBridge();
    m.attach(bridge, { under: port });
    m.addVirtioNet({ mac: '52:54:00:00:00:0a', backend: segment.port('a') }, { under: bridge });
    const names = async () => (await m.save()).state.parts.map((part) => part.name);
    expect(await names()).toEqual(['virtio-net at 1.0/0.0/0.0']);
    m.detach(port);
    expect(await names()).toEqual([]);
    expect(m.fabric.functions()).toEqual([]);
    m.addVirtioNet({ mac: '52:54:00:00:00:0b', backend: segment.port('b') });
    expect(await names()).toEqual(['virtio-net at 1.0']);
  });

  it('takes a clock, a log and a name', () => {
    const heard: LogRecord[] = [];
    const log = new Log('lab');
    log.listen((record) => heard.push(record));
    const clock = new SimClock(77);
    const m = machine({ name: 'left', clock, log });
    expect([m.name, m.localBus().now()]).toEqual(['left', 77]);
    m.attach(plainFunction('mute'));
    m.log.guestError('spoken');
    expect(heard).toContainEqual({ kind: 'guest-error', source: 'lab', message: 'spoken' });
  });

  it('addresses other than a PC’s are where the guest finds everything', async () => {
    const segment = new InlineSegment(new Segment(new DirectLink()));
    const platform = {
      ecam: { base: 0xe000_0000, firstBus: 64, lastBus: 95 },
      memory32: { base: 0xd000_0000, size: 0x1000_0000 },
      memory64: { base: 2 ** 36, size: 2 ** 32 },
      io: { base: 0x2000, size: 0x1000 },
      msiAddress: 0xfe00_0000,
      intxVectors: [0x40, 0x41, 0x42, 0x43] as const,
    };
    const machines = ['a', 'b'].map((name) => {
      const m = machine({ platform });
      const port = rootPort();
      m.attach(port);
      m.addVirtioNet({ mac: `52:54:00:00:00:0${name}`, backend: segment.port(name) }, { under: port });
      return m;
    }) as [Machine, Machine];
    const guests = machines.map((m, i) => new Guest(m.localBus(), { net: { interrupts: i === 0 ? 'per-queue' : 'intx' } })) as [Guest, Guest];
    const sink = guests[1].start({ kind: 'sink', count: 500 });
    guests[0].start({ kind: 'generate', count: 500 });
    await stepUntil(guests, 'all frames', () => sink.done);
    expect(guests[1].report().errors).toEqual([]);
    expect(machines[0].fabric.functions().map((fn) => fn.routingId >>> 8)).toEqual([64, 65]);
    for (const { space, base, size } of machines[0].decoded()) {
      const homes = [platform.memory32, platform.memory64, platform.io];
      expect(
        homes.some((home) => base >= home.base && base + size <= home.base + home.size),
        `${space} 0x${base.toString(16)}`,
      ).toBe(true);
    }
  });

  it('answers hosts that decode for themselves and those that do not alike', async () => {
    const segment = new InlineSegment(new Segment(new DirectLink()));
    const m = machine();
    m.addVirtioNet({ mac: '52:54:00:00:00:0a', backend: segment.port('a') });
    const changes: number[] = [];
    const stop = m.onDecodeChange(() => changes.push(m.decoded().length));
    new Guest(m.localBus());
    stop();
    expect(changes.length).toBeGreaterThan(0);
    const [bar] = m.decoded().filter((d) => d.size >= 0x3000);
    if (bar === undefined) throw new Error('no virtio structures decode');
    const { base, bdf, bar: index } = bar;
    expect(m.lookup('memory', base + 0x14)).toEqual({ bdf, bar: index, offset: 0x14 });
    for (const offset of [0, 4, 0x12, 0x14, 0x2000]) {
      expect(m.barRead(bdf, index, offset, 4)).toBe(m.mmioRead(base + offset, 4));
      const split = [0, 1].map((i) => m.mmioRead(base + offset + i, 1));
      expect((split[0] as number) | ((split[1] as number) << 8)).toBe(m.mmioRead(base + offset, 2));
    }
    expect(m.configRead(bdf, 0, 4)).toBe(m.mmioRead(m.platform.ecam.base + bdf * 4096, 4));
    m.ioWrite(0xcf8, 4, 0x8000_0000 | (bdf << 8));
    expect(m.ioRead(0xcfc, 4)).toBe(m.configRead(bdf, 0, 4));
    for (const [b, i, o] of [
      [0xffff, 0, 0],
      [bdf, 5, 0],
      [bdf, index, -1],
      [bdf, index, Number.NaN],
      [-1, 0, 0],
    ] as const) {
      expect(m.barRead(b, i, o, 4)).toBe(0xffff_ffff);
      m.barWrite(b, i, o, 4, 1);
      m.configWrite(b, 8192, 4, 1);
    }
  });
});
