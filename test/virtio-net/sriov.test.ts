// SR-IOV of a virtio-net PF: what is offered, VFs coming and going with settings of their own, the SR-IOV group's checks, and the legacy interface through it (virtio 1.4 2.12, 6).
import { describe, expect, it } from 'vitest';
import { Iommu } from '#core/iommu';
import type { VfPortSettings } from '#net/vf-ports';
import { Machine } from '#nicbox/machine';
import { RecordingBackend } from '../virtio-pci/bench.ts';
import * as k from './sriov-kit.ts';

const { OK, EINVAL } = k;
const PF_MAC = [0x52, 0x54, 0, 0, 0, 1];

describe('what a PF offers', () => {
  it('is SR_IOV and an administration queue, and only where there are VFs', () => {
    const host = new k.Host();
    expect([host.pf.offered().has(37), host.pf.offered().has(41)]).toEqual([true, true]);
    expect(host.pf.config(host.sriov + 12, 2)).toBe(4);
    expect(host.pf.config(host.sriov + 26, 2)).toBe(0x1041);
    const machine = new Machine({ memory: 2 ** 20 });
    const { net, vfs } = machine.addVirtioNet({ mac: '52:54:00:00:00:01', backend: new RecordingBackend() });
    expect([net.offered.has(37), net.offered.has(41), vfs]).toEqual([false, false, undefined]);
    const [vf] = host.enable(1) as [k.Fn];
    expect([vf.offered().has(37), vf.offered().has(41)]).toEqual([false, false]);
  });

  it.each([
    [{ totalVfs: 0 }, 'NICBOX_SRIOV'],
    [{ totalVfs: 256 }, 'NICBOX_SRIOV'],
    [{ queuePairs: 2, maxQueuePairs: 1 }, 'NICBOX_QUEUE_PAIRS'],
    [{ settings: () => ({ vlan: 5 }) }, 'NICBOX_VF_SETTINGS'],
    [{ settings: () => ({ mac: 'no' }) }, 'NICBOX_MAC'],
    [{ settings: () => ({ features: { ADMIN_VQ: true } }) }, 'NICBOX_VF_SETTINGS'],
  ])('cannot be %j', (options, code) => {
    expect(() => new k.Host(options)).toThrow(expect.objectContaining({ code }));
  });
});

describe('virtual functions', () => {
  it('come into being at VF Enable, each over a backend of its own, and go when it is cleared', () => {
    const asked: number[] = [];
    const enabled: number[] = [];
    const host = new k.Host({
      backend: (vf) => {
        asked.push(vf);
        return new RecordingBackend(`vf${vf}`);
      },
      onEnabled: (count) => enabled.push(count),
    });
    expect([asked, host.vfs.net(0), host.vfs.enabled]).toEqual([[], undefined, 0]);
    const fns = host.enable(2);
    expect(asked).toEqual([0, 1]);
    expect(fns.map((fn) => fn.mac.join())).toEqual([0, 1].map((vf) => [...host.vfs.settings(vf).mac].join()));
    expect(fns.map((fn) => fn.bdf - host.pf.bdf)).toEqual([8, 16]);
    const first = host.vfs.net(0);
    host.disable();
    expect([host.vfs.net(0), host.vfs.enabled]).toEqual([undefined, 0]);
    expect(fns[0]?.get(0, 4)).toBe(0xffff_ffff);
    host.enable(3);
    // Another device, over the same backend.
    expect(asked).toEqual([0, 1, 2]);
    expect(host.vfs.net(0)).not.toBe(first);
    expect(host.vfs.net(0)?.backend).toBe(first?.backend);
    expect(enabled).toEqual([2, 0, 3]);
    // Moved meanwhile, it comes again where it was moved to.
    const elsewhere = new RecordingBackend('elsewhere');
    host.vfs.net(0)?.handOver(elsewhere);
    host.disable();
    host.enable(1);
    expect(host.vfs.net(0)?.backend).toBe(elsewhere);
  });

  it('whose backend cannot be had are there without a device, and say why; nothing is thrown into the access', () => {
    const host = new k.Host({
      backend: (vf) => {
        if (vf === 1) throw new Error('no more ports');
        return new RecordingBackend();
      },
    });
    const fns = host.startPf().enable(2);
    host.useAll();
    expect([host.vfs.net(1), String(host.vfs.fault(1)), host.vfs.fault(0)]).toEqual([undefined, 'Error: no more ports', undefined]);
    expect(fns[1]?.get(20, 1)).toBe(0);
    expect(host.mode(2, true)).toMatchObject({ status: k.ENOMEM, qualifier: 6 });
  });

  it('wait for a data plane that still stops before they come again', () => {
    const backend = new RecordingBackend();
    const host = new k.Host({ backend: () => backend, totalVfs: 1 });
    const [vf] = host.startPf().enable(1) as [k.Fn];
    host.useAll();
    new k.Station(host, vf, 0x10_0000);
    backend.slow = true;
    host.disable();
    host.enable(1);
    expect(host.vfs.net(0)).toBeUndefined();
    // Its PF's commands wait with it.
    host.post(0x11, k.SRIOV, 1, [1]);
    expect(host.reply()).toBeUndefined();
    backend.finishStops();
    host.simulated.advance(2_000_000);
    expect(host.vfs.net(0)).toBeDefined();
    expect(host.reply()).toMatchObject({ status: OK });
    expect(backend.violations).toEqual([]);
  });

  it('are requesters of their own: one of them gets at no memory that only another has', () => {
    const iommu = new Iommu();
    const machine = new Machine({ memory: 2 ** 20, iommu });
    const { vfs } = machine.addVirtioNet(
      { mac: '52:54:00:00:00:01', backend: new RecordingBackend(), sriov: { totalVfs: 2, backend: () => new RecordingBackend() } },
      { deviceNumber: 1 },
    );
    const ids = [0, 1].map((vf) => vfs.pci(vf).fn.requesterId);
    expect(ids).toEqual([0x10, 0x18]);
    const spaces = [0, 1].map((vf) => vfs.pci(vf).fn.services?.dma);
    expect(spaces.map((dma) => dma?.requester)).toEqual(ids);
    expect(spaces[0]).not.toBe(spaces[1]);
  });

  it('255 of them enumerate below a port, without ARI on the next bus, with it right behind the PF, and each carries a frame to the PF and one back', () => {
    const host = new k.Host({ totalVfs: 255, port: true });
    const plain = host.enable(255);
    expect([plain[0]?.bdf, plain[254]?.bdf]).toEqual([0x200, 0x2fe]);
    expect(plain.every((fn) => fn.get(18, 2) === 3)).toBe(true);
    host.disable();
    const fns = host.enable(255, true);
    expect([fns[0]?.bdf, fns[254]?.bdf]).toEqual([0x101, 0x1ff]);
    host.pf.offered();
    const pf = new k.Station(host, host.pf, 0x8_0000, { buffers: 32 });
    const macs = fns.map((fn) => fn.mac);
    expect(new Set(macs.map((mac) => mac.join())).size).toBe(255);
    for (const [vf, fn] of fns.entries()) {
      const station = new k.Station(host, fn, 0x10_0000, { size: 16, buffers: 8 });
      station.send(k.frame(PF_MAC, macs[vf] as number[], vf));
      expect(pf.received()).toEqual([k.frame(PF_MAC, macs[vf] as number[], vf)]);
      pf.send(k.frame(macs[vf] as number[], PF_MAC, vf));
      expect(station.received()).toEqual([k.frame(macs[vf] as number[], PF_MAC, vf)]);
      // The next one uses the same memory.
      fn.status = 0;
    }
  });
});

describe('settings of a virtual function', () => {
  function withPorts(): { host: k.Host; said: [number, VfPortSettings | undefined][]; last: (vf: number) => VfPortSettings | undefined } {
    const said: [number, VfPortSettings | undefined][] = [];
    const ports = { configure: (vf: number, settings: VfPortSettings | undefined) => void said.push([vf, settings]) };
    const host = new k.Host({ ports, maxQueuePairs: 4 });
    return { host, said, last: (vf) => said.filter(([which]) => which === vf).at(-1)?.[1] };
  }

  it('before it is enabled are its own from the start; while it runs they are in force at once', () => {
    const { host, said, last } = withPorts();
    host.vfs.configure(0, { mac: '02:00:00:00:00:0a', vlan: { id: 7, priority: 3 }, maxRate: 100, minRate: 10, trust: true });
    expect(said).toEqual([]);
    const [vf] = host.enable(1) as [k.Fn];
    expect(vf.mac).toEqual([2, 0, 0, 0, 0, 0xa]);
    expect(last(0)).toEqual({
      mac: Uint8Array.of(2, 0, 0, 0, 0, 0xa),
      vlan: { id: 7, priority: 3, protocol: '802.1Q' },
      maxRate: 100,
      minRate: 10,
      linkState: 'auto',
      spoofCheck: true,
      trust: true,
    });
    new k.Station(host, vf, 0x10_0000, { vectors: true });
    expect(vf.mac[5]).toBe(0xa);
    const generation = vf.get(21, 1);
    host.vfs.configure(0, { mac: '02:00:00:00:00:0b', vlan: 0, spoofCheck: false });
    expect(vf.mac).toEqual([2, 0, 0, 0, 0, 0xb]);
    expect(vf.get(21, 1)).not.toBe(generation);
    expect(host.vectors()).toContain(0x42);
    expect(last(0)).toMatchObject({ mac: Uint8Array.of(2, 0, 0, 0, 0, 0xb), vlan: null, spoofCheck: false });
    host.disable();
    expect(last(0)).toBeUndefined();
  });

  it('link state follows the PF, or is what it is set to', () => {
    const { host } = withPorts();
    const [a, b, c] = host.enable(3) as [k.Fn, k.Fn, k.Fn];
    host.vfs.configure(1, { linkState: 'enable' });
    host.vfs.configure(2, { linkState: 'disable' });
    const links = (): number[] => [a, b, c].map((fn) => fn.get(0x2006, 2) & 1);
    expect(links()).toEqual([1, 1, 0]);
    host.net.setLink(false);
    expect(links()).toEqual([0, 1, 0]);
  });

  it('a VF that is not trusted keeps the address it was given, and one without one, or trusted, may change it', () => {
    const { host, last } = withPorts();
    host.vfs.configure(0, { mac: '02:00:00:00:00:0a' });
    const [given, free] = host.enable(2) as [k.Fn, k.Fn];
    const a = new k.Station(host, given, 0x10_0000);
    const b = new k.Station(host, free, 0x20_0000);
    const set = [1, 1, 2, 0, 0, 0, 0, 0x77];
    expect([a.command(set), b.command(set), a.command([1, 1, ...given.mac])]).toEqual([1, 0, 0]);
    expect([given.mac[5], free.mac[5], last(1)?.mac[5]]).toEqual([0x0a, 0x77, 0x77]);
    host.vfs.configure(0, { trust: true });
    expect(a.command(set)).toBe(0);
    expect(last(0)?.mac[5]).toBe(0x77);
    given.reset();
    expect([given.mac[5], last(0)?.mac[5]]).toEqual([0x0a, 0x0a]);
  });

  it('queue pairs, features, MTU and speed are those of the next time it is enabled', () => {
    const { host } = withPorts();
    let [vf] = host.enable(1) as [k.Fn];
    expect([vf.get(18, 2), vf.offered().has(3), vf.offered().has(22)]).toEqual([3, false, false]);
    host.vfs.configure(0, { queuePairs: 4, mtu: 9000, features: { CSUM: false }, speed: { speed: 10_000, duplex: 'full' } });
    expect(vf.get(18, 2)).toBe(3);
    host.disable();
    [vf] = host.enable(1) as [k.Fn];
    expect([vf.get(18, 2), vf.get(0x2008, 2), vf.get(0x200a, 2), vf.get(0x200c, 4), vf.offered().has(0)]).toEqual([9, 4, 9000, 10_000, false]);
  });

  it.each([
    [{ vlan: 4095 }],
    [{ vlan: { id: 1, priority: 8 } }],
    [{ maxRate: -1 }],
    [{ minRate: 20, maxRate: 10 }],
    [{ linkState: 'up' as never }],
    [{ queuePairs: 5 }],
    [{ mtu: 67 }],
    [{ colour: 1 } as never],
    [{ features: { NONSENSE: true } as never }],
  ])('%j is refused, and changes nothing', (changes) => {
    const { host } = withPorts();
    const before = host.vfs.settings(0);
    expect(() => host.vfs.configure(0, changes)).toThrow(expect.objectContaining({ code: expect.stringMatching(/^NICBOX_/) }));
    expect(host.vfs.settings(0)).toBe(before);
    expect(() => host.vfs.configure(4, {})).toThrow(expect.objectContaining({ code: 'NICBOX_VF' }));
  });
});

describe('the SR-IOV group', () => {
  it('is there while VF Enable is set, its members are 1 to NumVFs, and what it was told to use outlasts VF Enable', () => {
    const host = new k.Host().startPf();
    expect(host.admin(0, k.SRIOV, 0)).toMatchObject({ status: EINVAL, qualifier: k.Q_GROUP, used: 8 });
    host.enable(2);
    expect(host.admin(0, k.SRIOV, 0)).toMatchObject({ status: OK, result: k.bits(...k.SRIOV_OPCODES) });
    expect(host.admin(0x11, k.SRIOV, 1, [0])).toMatchObject({ status: EINVAL, qualifier: k.Q_OPCODE });
    host.useAll();
    for (const member of [0, 3, 4, 0xffff, 2 ** 32 + 1])
      expect(host.admin(0x11, k.SRIOV, member, [0])).toMatchObject({ status: EINVAL, qualifier: k.Q_MEMBER });
    for (const member of [1, 2]) expect(host.mode(member, false).status).toBe(OK);
    host.disable();
    for (const opcode of [0, 1, 2, 0x11, 99]) expect(host.admin(opcode, k.SRIOV, 1)).toMatchObject({ status: EINVAL, qualifier: k.Q_GROUP });
    host.enable(1);
    expect([host.mode(1, false).status, host.mode(2, false).qualifier]).toEqual([OK, k.Q_MEMBER]);
    // The group is looked at first, then the opcode, then the member. Capabilities are the self group's.
    expect(host.admin(99, k.SRIOV, 9).qualifier).toBe(k.Q_OPCODE);
    for (const opcode of [7, 8, 9]) expect(host.admin(opcode, k.SRIOV, 1)).toMatchObject({ status: EINVAL, qualifier: k.Q_OPCODE });
    for (const opcode of [2, 3, 6, 0xe, 0x11]) expect(host.admin(opcode, k.SELF, 0)).toMatchObject({ status: EINVAL, qualifier: k.Q_OPCODE });
  });

  it('with no VF in NumVFs exists and has no member', () => {
    const host = new k.Host().startPf();
    host.enable(0);
    expect(host.admin(0, k.SRIOV, 0).status).toBe(OK);
    host.useAll();
    expect(host.mode(1, true)).toMatchObject({ status: EINVAL, qualifier: k.Q_MEMBER });
  });

  it('a reset of the PF by its driver leaves VFs running and forgets lists, limits and objects; a reset of the function takes VFs away', () => {
    const host = new k.Host().startPf();
    const [vf] = host.enable(1) as [k.Fn];
    host.useAll();
    expect(host.object(1, 0, 'get').status).toBe(OK);
    const station = new k.Station(host, vf, 0x10_0000);
    host.startPf();
    expect(vf.status).toBe(15);
    expect(host.mode(1, false)).toMatchObject({ status: EINVAL, qualifier: k.Q_OPCODE });
    host.useAll();
    expect(host.admin(0xd, k.SRIOV, 1, k.le(0, 8)).status).toBe(k.ENXIO);
    station.send(k.frame([255, 255, 255, 255, 255, 255], vf.mac, 1));
    expect(station.transmit.reap()).toHaveLength(1);
    host.pf.reset();
    expect([host.vfs.enabled, vf.config(0x34, 1)]).toEqual([0, 0xff]);
  });
});

describe('the legacy interface through the PF', () => {
  const COMMON_WRITE = 2;
  const COMMON_READ = 3;
  const DEVICE_WRITE = 4;
  const DEVICE_READ = 5;

  function up(options: k.HostOptions = {}): {
    host: k.Host;
    vf: k.Fn;
    read: (offset: number, length: number) => number;
    write: (offset: number, length: number, value: number) => number;
  } {
    const host = new k.Host(options).startPf();
    const [vf] = host.enable(2) as [k.Fn, k.Fn];
    host.useAll();
    const read = (offset: number, length: number): number => {
      const { status, result } = host.admin(COMMON_READ, k.SRIOV, 1, [offset], length);
      if (status !== OK) throw new Error(`status ${status}`);
      return k.number(result);
    };
    const write = (offset: number, length: number, value: number) =>
      host.admin(COMMON_WRITE, k.SRIOV, 1, [offset, 0, 0, 0, 0, 0, 0, 0, ...k.le(value, length)]).status;
    return { host, vf, read, write };
  }

  it('drives a device from reset to frames: features, queues by page number, notification by command and at the address that is told', () => {
    const { host, vf, read, write } = up();
    expect(host.hasBar0).toBe(false);
    expect(read(0, 4) & (1 << 27)).not.toBe(0);
    expect([write(18, 1, 1), write(18, 1, 3), write(4, 4, 1 << 15)]).toEqual([OK, OK, OK]);
    expect([read(18, 1), read(4, 4)]).toEqual([3, 1 << 15]);
    const rings = [0x10_0000, 0x11_0000];
    const drivers = rings.map((at, index) => {
      write(14, 2, index);
      const size = read(12, 2);
      write(8, 4, at / 4096);
      expect(read(8, 4)).toBe(at / 4096);
      const used = Math.ceil((at + 16 * size + 6 + 2 * size) / 4096) * 4096;
      return { size, avail: at + 16 * size, used, at };
    });
    write(18, 1, 7);
    expect(vf.status).toBe(7);
    const [, tx] = drivers as [unknown, { size: number; avail: number; used: number; at: number }];
    const view = new DataView(host.ram);
    const send = (n: number): void => {
      host.bytes(0x12_0000, 12).fill(0);
      host.bytes(0x12_000c, 64).set(k.frame([255, 255, 255, 255, 255, 255], vf.mac, n));
      view.setBigUint64(tx.at, 0x12_0000n, true);
      view.setUint32(tx.at + 8, 76, true);
      view.setUint16(tx.avail + 4 + 2 * n, 0, true);
      view.setUint16(tx.avail + 2, n + 1, true);
    };
    const used = (): number => view.getUint16(tx.used + 2, true);
    send(0);
    expect(used()).toBe(0);
    write(16, 2, 1);
    expect(used()).toBe(1);
    const info = host.admin(6, k.SRIOV, 1);
    expect(info.result.slice(0, 2)).toEqual([2, 4]);
    // The last entry ends the list, and is not the first.
    expect([info.result.length, info.result[48], k.number(info.result.slice(8, 16)) % 2]).toEqual([64, 0, 0]);
    send(1);
    vf.set(k.number(info.result.slice(8, 16)), 2, 1);
    expect(used()).toBe(2);
    // Device configuration, as bytes or as a field.
    expect(host.admin(DEVICE_READ, k.SRIOV, 1, [0], 6).result).toEqual(vf.mac);
    expect(host.admin(DEVICE_READ, k.SRIOV, 1, [3], 1).result).toEqual([vf.mac[3]]);
    expect(host.admin(DEVICE_WRITE, k.SRIOV, 1, [0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 9]).status).toBe(OK);
    expect(vf.mac).toEqual([2, 0, 0, 0, 0, 9]);
    write(18, 1, 0);
    expect([read(18, 1), vf.mac[5]]).not.toEqual([0, 9]);
    // The other VF has seen nothing of it.
    expect(host.admin(COMMON_READ, k.SRIOV, 2, [18], 1).result).toEqual([0]);
  });

  it.each([
    ['across two fields', 2, 4],
    ['none of it', 0, 0],
    ['more than a field', 18, 2],
    ['beyond the structure without MSI-X', 20, 2],
    ['beyond it at all', 24, 1],
    ['far out', 255, 1],
    ['more than there is', 0, 0x8000],
  ])('refuses what is not one field: %s', (_, offset, length) => {
    const { host } = up();
    const data = [offset, 0, 0, 0, 0, 0, 0, 0, ...new Array(length).fill(1)];
    expect(host.admin(COMMON_READ, k.SRIOV, 1, [offset], length)).toMatchObject({ status: EINVAL, qualifier: k.Q_FIELD });
    expect(host.admin(COMMON_WRITE, k.SRIOV, 1, data)).toMatchObject({ status: EINVAL, qualifier: k.Q_FIELD });
  });

  it('has the vectors in the structure with MSI-X on, and refuses the same in device configuration', () => {
    const { host, vf, read, write } = up();
    vf.programVector(0, 0x40);
    write(18, 1, 1);
    expect(write(20, 2, 0)).toBe(OK);
    expect([read(20, 2), read(22, 2)]).toEqual([0, 0xffff]);
    for (const [offset, length] of [
      [4, 4],
      [0, 8],
      [26, 4],
      [28, 1],
      [5, 0],
    ] as const)
      expect(host.admin(DEVICE_READ, k.SRIOV, 1, [offset], length)).toMatchObject({ status: EINVAL, qualifier: k.Q_FIELD });
  });

  it('can be left out: then VF BAR 0 is one, and the commands are not there', () => {
    const host = new k.Host({ legacy: false }).startPf();
    host.enable(1);
    expect(host.hasBar0).toBe(true);
    expect(host.admin(0, k.SRIOV, 0).result).toEqual(k.bits(...k.SRIOV_OPCODES.filter((opcode) => opcode < 2 || opcode > 6)));
    host.useAll();
    expect(host.admin(3, k.SRIOV, 1, [0], 4)).toMatchObject({ status: EINVAL, qualifier: k.Q_OPCODE });
  });
});

describe('buffers of any length', () => {
  it('short ones read as zeros and cut the answer', () => {
    const host = new k.Host().startPf();
    host.enable(1);
    host.useAll();
    expect(host.admin(0, k.SRIOV, 0, [], 0)).toMatchObject({ status: OK, used: 8, result: [] });
    expect(host.admin(6, k.SRIOV, 1, [], 16)).toMatchObject({ status: OK, used: 24 });
    // Mode 0: go on.
    expect(host.admin(0x11, k.SRIOV, 1, []).status).toBe(OK);
  });
});
