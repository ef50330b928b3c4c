// A virtual function stopped, saved and moved through its PF: device parts, their objects and capability, the mode (virtio 1.4 2.12.1.4, 2.14, 5.1.8); and what of it a machine's saved state has.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { VhostPool } from '#backends/vhost-pool';
import { WallClock } from '#core/clock';
import { FeatureSet } from '#virtio/features';
import { eventually } from '../backends/eventually.ts';
import { RecordingBackend } from '../virtio-pci/bench.ts';
import * as k from './sriov-kit.ts';

const { OK, EINVAL } = k;
const BROADCAST = [255, 255, 255, 255, 255, 255];
const PF_MAC = [0x52, 0x54, 0, 0, 0, 1];
const RX_PROMISC = [0, 0, 1];

function up(options: k.HostOptions = {}, vfs = 2): { host: k.Host; fns: k.Fn[] } {
  const host = new k.Host(options).startPf();
  const fns = host.enable(vfs);
  host.useAll();
  return { host, fns };
}

const selectors = (parts: readonly k.Part[]): string[] => parts.map(({ type, selector }) => `${type.toString(16)} ${selector.slice(0, 2).join('.')}`);
const header = (id: number): number[] => [...k.le(0, 4), ...k.le(id, 4)];

describe('the capability and its objects', () => {
  it('is the self group’s number 0: so many to get and to set with, set by the driver before any is made', () => {
    const host = new k.Host().startPf();
    host.enable(2);
    for (const group of [k.SELF, k.SRIOV]) host.admin(1, group, 0, host.admin(0, group, 0).result);
    expect(host.admin(7, k.SELF, 0).result.slice(0, 8)).toEqual(k.bits(0));
    expect(host.admin(8, k.SELF, 0, k.le(0, 8)).result.slice(0, 2)).toEqual([255, 255]);
    expect(host.object(1, 0, 'get').status).toBe(k.ENOSPC);
    expect(host.admin(9, k.SELF, 0, [...k.le(0, 8), 2, 1]).status).toBe(OK);
    expect([host.object(1, 0, 'get'), host.object(2, 0, 'get'), host.object(1, 1, 'set')].map(({ status }) => status)).toEqual([OK, OK, OK]);
    expect([host.object(1, 0, 'set').status, host.object(1, 2, 'get').status, host.object(2, 2, 'set').status]).toEqual([k.EEXIST, k.ENOSPC, k.ENOSPC]);
    expect(host.admin(9, k.SELF, 0, [...k.le(0, 8), 1, 1]).status).toBe(k.EBUSY);
    const query = (member: number, id: number) => host.admin(0xb, k.SRIOV, member, header(id));
    expect([query(1, 0).result[0], query(1, 1).result[0], query(1, 2).status]).toEqual([0, 1, k.ENXIO]);
    expect(host.admin(0xd, k.SRIOV, 1, header(1)).status).toBe(OK);
    expect(host.admin(0xd, k.SRIOV, 1, header(1)).status).toBe(k.ENXIO);
    // Past the last id; and no other type of object, or of use.
    expect(host.object(1, 3, 'set')).toMatchObject({ status: EINVAL, qualifier: k.Q_FIELD });
    expect(host.admin(0xa, k.SRIOV, 1, [1, 0, 0, 0, ...k.le(1, 4), ...k.le(0, 8), 0])).toMatchObject({ status: EINVAL, qualifier: k.Q_FIELD });
    expect(host.admin(0xa, k.SRIOV, 1, [...header(1), ...k.le(0, 8), 2])).toMatchObject({ status: EINVAL, qualifier: k.Q_FIELD });
    // MODIFY makes another kind of it.
    expect(host.admin(0xc, k.SRIOV, 2, [...header(0), ...k.le(0, 8), 1]).status).toBe(OK);
    expect(query(2, 0).result[0]).toBe(1);
  });

  it('go with the function that they were made for', () => {
    const { host } = up();
    expect([host.object(1, 0, 'get').status, host.object(2, 0, 'get').status]).toEqual([OK, OK]);
    host.disable();
    host.enable(1);
    const query = (member: number) => host.admin(0xb, k.SRIOV, member, header(0)).status;
    expect(query(1)).toBe(k.ENXIO);
    // Nothing that nobody can reach stands in the way of new limits.
    expect(host.admin(9, k.SELF, 0, [...k.le(0, 8), 1, 1]).status).toBe(OK);
    expect(host.object(1, 0, 'get').status).toBe(OK);
  });

  it('go with it also after a state has been looked at, and not taken', async () => {
    const { host } = up();
    expect(host.object(1, 0, 'get').status).toBe(OK);
    const saved = structuredClone(await host.machine.save()) as unknown as {
      state: { parts: { name: string; state: { state: { control: { device: unknown; negotiated: number[] } } } }[] };
    };
    const { device, negotiated } = saved.state.parts.find(({ name }) => name === 'virtio-net at 1.0')?.state.state.control ?? expect.fail('no such part');
    // What it returns would put it in force.
    host.net.restore(device, new FeatureSet(negotiated));
    const query = () => host.admin(0xb, k.SRIOV, 1, header(0)).status;
    expect(query()).toBe(OK);
    host.disable();
    host.enable(1);
    expect(query()).toBe(k.ENXIO);
    await host.machine.close();
  });

  it('are what the part commands go through: to get with one kind, to set with the other', () => {
    const { host } = up();
    host.object(1, 0, 'get');
    host.object(1, 1, 'set');
    host.mode(1, true);
    const get = (id: number) => host.admin(0xf, k.SRIOV, 1, [...header(id), 1]);
    expect([get(0).status, get(1).status, get(2).status]).toEqual([OK, EINVAL, k.ENXIO]);
    expect([host.setParts(1, [], 1).status, host.setParts(1, [], 0).status, host.setParts(1, [], 2).status]).toEqual([OK, EINVAL, k.ENXIO]);
    expect(host.admin(0xf, k.SRIOV, 2, [...header(0), 1]).status).toBe(k.ENXIO);
    expect(host.admin(0xe, k.SRIOV, 1, [7, 0, 0, 0, ...k.le(0, 4), 0])).toMatchObject({ status: EINVAL, qualifier: k.Q_FIELD });
  });
});

describe('parts', () => {
  it('are listed in order, each with its length; size is enough, and an answer without room is refused', () => {
    const { host, fns } = up();
    new k.Station(host, fns[0] as k.Fn, 0x10_0000);
    host.object(1, 0, 'get');
    const metadata = (type: number, room?: number) => host.admin(0xe, k.SRIOV, 1, [...header(0), type], room);
    const parts = k.parse(host.parts(1));
    const list = metadata(2);
    expect(k.number(list.result.slice(0, 4))).toBe(parts.length);
    expect(selectors(k.parse(list.result.slice(8), false))).toEqual(selectors(parts));
    expect(k.number(metadata(1).result.slice(0, 4))).toBe(parts.length);
    expect(k.number(metadata(0).result.slice(0, 4))).toBeGreaterThanOrEqual(host.parts(1).length);
    for (const [type, room] of [
      [0, 0],
      [1, 4],
      [2, 8],
      [2, 8 + 16 * parts.length - 1],
    ] as const)
      expect(metadata(type, room)).toMatchObject({ status: k.ENOMEM, used: 8 });
    expect(metadata(2, 8 + 16 * parts.length).status).toBe(OK);
    expect(metadata(3)).toMatchObject({ status: EINVAL, qualifier: k.Q_FIELD });
    expect(parts.map(({ type }) => type)).toEqual(parts.map(({ type }) => type).sort((a, z) => a - z));
    expect(parts.filter(({ optional }) => optional).map(({ type }) => type)).toEqual([0x100]);
    expect(selectors(parts).slice(0, 15)).toEqual([
      ...['100 0.0', '101 0.0', '102 0.0', '102 8.0', '102 16.0', '102 18.0', '102 21.0', '102 22.0', '103 0.0'],
      ...['104 0.0', '104 1.0', '104 2.0', '105 0.0', '105 1.0', '105 2.0'],
    ]);
    expect(parts.find(({ type }) => type === 0x103)?.value).toEqual([15]);
    const queue = parts.find(({ type, selector }) => type === 0x104 && selector[0] === 1)?.value as number[];
    expect([k.number(queue.slice(0, 2)), k.number(queue.slice(2, 4)), k.number(queue.slice(4, 6)), k.number(queue.slice(8, 16))]).toEqual([
      64, 0xffff, 1, 0x10_4000,
    ]);
  });

  it('are selected by type and selector, in the order of the table, with what has to precede them; what is not there is passed over', () => {
    const { host, fns } = up();
    new k.Station(host, fns[0] as k.Fn, 0x10_0000);
    host.object(1, 0, 'get');
    const select = (...list: number[][]) => selectors(k.parse(host.admin(0xf, k.SRIOV, 1, [...header(0), 0, 0, 0, 0, 0, 0, 0, 0, ...list.flat()]).result));
    expect(select(k.part(0x104, [1], []), k.part(0x104, [0], []), k.part(0x104, [9], []), k.part(0x999, [], []))).toEqual(['104 0.0', '104 1.0']);
    expect(select(k.part(0x103, [], []))).toEqual(['100 0.0', '101 0.0', '103 0.0']);
    expect(select(k.part(0x102, [16], []))).toEqual(['100 0.0', '101 0.0', '102 16.0']);
    expect(select()).toEqual([]);
  });

  it('are set only while the device is stopped, all or none of them, and are in force when it goes on', () => {
    const { host, fns } = up();
    const [vf] = fns as [k.Fn];
    host.object(1, 0, 'get');
    host.object(1, 1, 'set');
    const status = k.part(0x103, [], [3]);
    expect(host.setParts(1, status, 1)).toMatchObject({ status: k.EBUSY });
    host.mode(1, true);
    expect(host.setParts(1, [...k.part(0x102, [0], k.le(1, 4)), ...k.part(0x102, [18], k.le(99, 2))], 1)).toMatchObject({
      status: EINVAL,
      qualifier: k.Q_FIELD,
    });
    expect(vf.get(0, 4)).toBe(0);
    expect(
      host.setParts(
        1,
        [...k.part(0x102, [0], k.le(1, 4)), ...status, ...k.part(0x104, [0], [...k.le(32, 2), ...k.le(0xffff, 2), ...k.le(0, 4), ...k.le(0x5000, 24)])],
        1,
      ).status,
    ).toBe(OK);
    // Seen by the owner at once, by the driver later.
    expect(k.parse(host.parts(1)).find(({ type }) => type === 0x103)?.value).toEqual([3]);
    expect([vf.status, vf.get(0, 4)]).toEqual([0, 0]);
    expect(host.mode(1, false).status).toBe(OK);
    expect([vf.status, vf.get(0, 4), vf.get(24, 2), vf.get(32, 4)]).toEqual([3, 1, 32, 0x5000]);
  });

  it.each([
    ['features of another device', (p: number[]) => [...k.part(0x100, [], [...p.slice(16, 31), 0x80], 1)]],
    ['a length of another device', () => k.part(0x101, [], k.le(0, 8))],
    ['a status of two bytes', () => k.part(0x103, [], [3, 0])],
    ['a length past the end', () => k.part(0x103, [], [3], 0, 9)],
    ['a length of 2^32 - 1', () => k.part(0x103, [], [3], 0, 0xffff_ffff)],
    ['a part twice', () => [...k.part(0x103, [], [3]), ...k.part(0x103, [], [3])]],
    ['parts out of order', () => [...k.part(0x103, [], [3]), ...k.part(0x102, [0], k.le(0, 4))]],
    ['a field that is none', () => k.part(0x102, [1], k.le(0, 4))],
    ['another number of queues', () => k.part(0x102, [18], k.le(5, 2))],
    ['a vector there is not', () => k.part(0x102, [16], k.le(9, 2))],
    ['a queue there is not', () => k.part(0x104, [7], k.le(0, 32))],
    ['a queue of size 3', () => k.part(0x104, [0], [...k.le(512, 2), ...k.le(0, 30)])],
    ['another notification address', () => k.part(0x105, [0], k.le(1, 8))],
    ['a part nobody knows', () => k.part(0x106, [], [])],
    ['control commands before negotiation', () => k.part(0x200, [0, 0], [1])],
    ['a status that claims features nobody wrote', () => [...k.part(0x101, [], k.le(0, 16)), ...k.part(0x103, [], [15])]],
    ['features that are not offered', () => [...k.part(0x101, [], [...new Array(15).fill(0), 0x80]), ...k.part(0x103, [], [15])]],
    ['junk behind the last part', () => [...k.part(0x103, [], [3]), 1]],
  ])('refuses %s, having changed nothing', (_, parts) => {
    const { host } = up();
    host.object(1, 0, 'get');
    host.object(1, 1, 'set');
    host.mode(1, true);
    const before = host.parts(1);
    expect(host.setParts(1, parts(before), 1)).toMatchObject({ status: EINVAL, qualifier: k.Q_FIELD, used: 8 });
    expect(host.parts(1)).toEqual(before);
  });

  it('may be optional: one that is, and is not known, is passed over', () => {
    const { host } = up();
    host.object(1, 1, 'set');
    host.mode(1, true);
    expect(host.setParts(1, [...k.part(0x103, [], [1]), ...k.part(0x1ff, [], [1, 2, 3], 1), 0, 0, 0], 1).status).toBe(OK);
  });

  it('are back to their defaults when the device is reset, by its driver or as a function, and the function’s reset ends the stop', () => {
    const { host, fns } = up();
    const [vf] = fns as [k.Fn];
    host.object(1, 0, 'get');
    host.object(1, 1, 'set');
    const fresh = host.parts(1);
    new k.Station(host, vf, 0x10_0000);
    host.mode(1, true);
    host.setParts(1, k.part(0x102, [0], k.le(1, 4)), 1);
    vf.status = 0;
    const without = (parts: number[]): k.Part[] => k.parse(parts).filter(({ type, selector }) => !(type === 0x102 && selector[0] !== 16 && selector[0] !== 18));
    expect(without(host.parts(1))).toEqual(without(fresh));
    expect(host.setParts(1, k.part(0x103, [], [1]), 1).status).toBe(OK);
    vf.reset();
    vf.setConfig(4, 2, 4);
    expect(without(host.parts(1))).toEqual(without(fresh));
    expect(host.setParts(1, k.part(0x103, [], [1]), 1).status).toBe(k.EBUSY);
    // A driver may go on at once.
    const again = new k.Station(host, vf, 0x10_0000);
    again.send(k.frame(BROADCAST, vf.mac, 1));
    expect(again.transmit.reap()).toHaveLength(1);
  });
});

describe.each([[false], [true]])('a device that is stopped (packed: %s)', (packed) => {
  it('touches nothing and says nothing, takes notifications, and goes on where it was', () => {
    const { host, fns } = up();
    const [vf, other] = fns as [k.Fn, k.Fn];
    const a = new k.Station(host, vf, 0x10_0000, { packed, vectors: true });
    const b = new k.Station(host, other, 0x20_0000, { packed });
    a.send(k.frame(BROADCAST, vf.mac, 1));
    b.send(k.frame(BROADCAST, other.mac, 2));
    expect([a.received().length, b.received().length]).toEqual([1, 1]);
    expect(host.mode(1, true).status).toBe(OK);
    expect(host.mode(1, true).status).toBe(OK);
    host.vectors();
    const before = host.bytes(0x10_0000, 0x4_0000).slice();
    b.send(k.frame(BROADCAST, other.mac, 3));
    host.vfs.configure(0, { linkState: 'disable' });
    vf.kick(0);
    vf.kick(1);
    expect(Buffer.compare(host.bytes(0x10_0000, 0x4_0000), before)).toBe(0);
    expect(host.vectors()).toEqual([]);
    // Reads are answered, and configuration space stands still.
    expect([vf.status, vf.get(0x2006, 2) & 1]).toEqual([15, 1]);
    host.vfs.configure(0, { linkState: 'enable' });
    a.send(k.frame(BROADCAST, vf.mac, 4));
    expect(b.received()).toEqual([]);
    expect(host.mode(1, false).status).toBe(OK);
    expect(b.received()).toEqual([k.frame(BROADCAST, vf.mac, 4)]);
    // The link changed twice: the driver is told to look.
    expect(host.vectors()).toContain(0x42);
    b.send(k.frame(BROADCAST, other.mac, 5));
    expect(a.received()).toEqual([k.frame(BROADCAST, other.mac, 5)]);
    expect(host.mode(1, false).status).toBe(OK);
    expect(host.admin(0x11, k.SRIOV, 1, [2])).toMatchObject({ status: EINVAL, qualifier: k.Q_FIELD });
  });

  it('moves to another VF of another machine: rings, features, status and what the control queue set up, under traffic, and no frame is lost or repeated', () => {
    const source = up();
    const [vf, peerFn] = source.fns as [k.Fn, k.Fn];
    const a = new k.Station(source.host, vf, 0x10_0000, { packed, vectors: true });
    const peer = new k.Station(source.host, peerFn, 0x20_0000, { packed });
    const multicast = [1, 0, 0x5e, 0, 0, 9];
    for (const command of [
      RX_PROMISC,
      [0, 5, 1],
      [1, 0, ...k.le(1, 4), 2, 0, 0, 0, 0, 0x99, ...k.le(1, 4), ...multicast],
      [1, 1, 2, 0, 0, 0, 0, 0x42],
      [2, 0, ...k.le(100, 2)],
      [2, 0, ...k.le(4095, 2)],
      [5, 0, ...k.le(2, 8)],
      [6, 1, ...k.le(3, 4), ...k.le(9, 4)],
      [6, 2, ...k.le(1, 2), 0, 0, ...k.le(5, 4), ...k.le(0, 4)],
    ])
      expect([command, a.command(command)]).toEqual([command, 0]);
    // More than a lap of the rings, so that wrap counters and indices count.
    for (let n = 0; n < 150; n++) {
      a.send(k.frame(PF_MAC, vf.mac, n));
      peer.send(k.frame(vf.mac, peerFn.mac, n));
      expect(a.received()).toEqual([k.frame(vf.mac, peerFn.mac, n)]);
    }
    const vfMac = vf.mac;
    a.send(k.frame(peerFn.mac, vfMac, 1000), false);
    source.host.object(1, 0, 'get');
    expect(source.host.mode(1, true).status).toBe(OK);
    const image = source.host.parts(1);
    expect(selectors(k.parse(image)).filter((name) => name.startsWith('200'))).toEqual(
      ['0.0', '0.1', '0.2', '0.3', '0.4', '0.5', '1.0', '1.1', '2.0', '3.0', '5.0', '6.1', '6.2'].map((name) => `200 ${name}`),
    );
    // The guest's memory is there already; the VF left behind is reset, and sees none of it any more.
    vf.setConfig(4, 2, 0);
    const target = up({ memory: source.host.memory }, 3);
    const [, peerThere, moved] = target.fns as [k.Fn, k.Fn, k.Fn];
    target.host.object(3, 0, 'set');
    target.host.object(3, 1, 'get');
    expect(target.host.mode(3, true).status).toBe(OK);
    moved.programVector(0, 0x50);
    moved.programVector(1, 0x51);
    moved.programVector(2, 0x52);
    moved.setConfig(4, 2, 0);
    expect(target.host.setParts(3, image).status).toBe(OK);
    expect(target.host.parts(3, 1)).toEqual(image);
    // Not before it may look at memory again.
    expect(target.host.mode(3, false)).toMatchObject({ status: k.EAGAIN, qualifier: 7 });
    moved.setConfig(4, 2, 4);
    const other = new k.Station(target.host, peerThere, 0x30_0000, { packed });
    expect(target.host.mode(3, false).status).toBe(OK);
    a.fn = moved;
    expect([moved.status, moved.mac[5], moved.get(16, 2)]).toEqual([15, 0x42, 2]);
    expect(target.host.vectors()).toContain(0x52);
    // What was made available and never seen is sent now; then everything goes on, either way.
    expect(a.transmit.reap()).toHaveLength(1);
    expect(other.received()).toEqual([k.frame(peerFn.mac, vfMac, 1000)]);
    for (let n = 0; n < 150; n++) {
      a.send(k.frame(peerThere.mac, moved.mac, n));
      other.send(k.frame(multicast, peerThere.mac, n));
      expect(other.received()).toEqual([k.frame(peerThere.mac, moved.mac, n)]);
      expect(a.received()).toEqual([k.frame(multicast, peerThere.mac, n)]);
    }
    expect(a.command([0, 0, 0])).toBe(0);
    // As promiscuous mode is off now: the VLAN table came along.
    const tagged = (id: number): number[] => [...moved.mac, ...peerThere.mac, 0x81, 0, id >> 8, id & 0xff, 8, 0, ...new Array(60).fill(1)];
    for (const id of [100, 101, 4095]) other.send(tagged(id));
    expect(a.received().map((bytes) => ((bytes[14] as number) << 8) | (bytes[15] as number))).toEqual([100, 4095]);
    target.host.mode(3, true);
    const again = k.parse(target.host.parts(3, 1));
    const rx = again.find(({ type, selector }) => type === 0x200 && selector[0] === 0 && selector[1] === 0);
    expect(rx?.value).toEqual([0]);
    expect(selectors(again)).toEqual(selectors(k.parse(image)));
  });

  it('leaves nothing of another driver that the device had, of the same features', () => {
    const { host, fns } = up();
    const [first, second] = fns as [k.Fn, k.Fn];
    const a = new k.Station(host, first, 0x10_0000, { packed });
    const b = new k.Station(host, second, 0x20_0000, { packed });
    // Offloads to what negotiation does not bring, and coalescing: parts that are there only when they differ.
    expect(b.command([5, 0, ...k.le(0, 8)])).toBe(0);
    expect(b.command([6, 0, ...k.le(9, 4), ...k.le(90, 4)])).toBe(0);
    host.object(1, 0, 'get');
    host.object(2, 0, 'set');
    host.object(2, 1, 'get');
    host.mode(1, true);
    host.mode(2, true);
    const own = (parts: readonly number[]): string[] => selectors(k.parse(parts).filter(({ type }) => type === 0x200));
    const image = host.parts(1);
    expect(own(host.parts(2, 1)).length).toBeGreaterThan(own(image).length);
    expect(host.setParts(2, image).status).toBe(OK);
    expect(own(host.parts(2, 1))).toEqual(own(image));
    expect(a.fn.status).toBe(15);
  });

  it('cannot give a function an address that its driver may not have', () => {
    const { host, fns } = up();
    new k.Station(host, fns[0] as k.Fn, 0x10_0000, { packed });
    host.vfs.configure(0, { mac: '52:54:00:00:00:77', trust: false });
    host.object(1, 0, 'set');
    host.mode(1, true);
    const address = (last: number): number[] => k.part(0x200, [1, 1], [0x52, 0x54, 0, 0, 0, last]);
    expect(host.setParts(1, address(0x66)).status).not.toBe(OK);
    expect(host.setParts(1, address(0x77)).status).toBe(OK);
    host.vfs.configure(0, { trust: true });
    expect(host.setParts(1, address(0x66)).status).toBe(OK);
  });

  it('carries RSS, its contexts and a full address table as well', () => {
    const { host, fns } = up({ queuePairs: 4 });
    const [vf] = fns as [k.Fn];
    const a = new k.Station(host, vf, 0x10_0000, { packed });
    const key = Array.from({ length: 40 }, (_, i) => i);
    const rss = (table: readonly number[]): number[] => [
      ...k.le(0x3f, 4),
      ...k.le(table.length - 1, 2),
      ...k.le(0, 2),
      ...table.flatMap((pair) => k.le(pair, 2)),
      ...k.le(4, 2),
      40,
      ...key,
    ];
    for (const command of [
      [4, 0, ...k.le(2, 2)],
      [4, 1, ...rss([0, 1, 2, 3])],
      [9, 1, ...k.le(3, 2), 0, 0, 0, 0, 0, 0, ...rss([3, 2])],
      [9, 1, ...k.le(1, 2), 0, 0, 0, 0, 0, 0, ...rss([1, 1])],
      [1, 0, ...k.le(65, 4), ...Array.from({ length: 65 }, (_, i) => [2, 0, 0, 0, 0, i]).flat(), ...k.le(0, 4)],
    ])
      expect(a.command(command)).toBe(0);
    host.object(1, 0, 'get');
    host.object(2, 0, 'set');
    host.object(2, 1, 'get');
    host.mode(1, true);
    host.mode(2, true);
    const image = host.parts(1);
    // Again and again is the same.
    for (let times = 0; times < 2; times++) expect(host.setParts(2, image).status).toBe(OK);
    expect(host.parts(2, 1)).toEqual(image);
    expect(host.mode(2, false).status).toBe(OK);
    // But for the generation: the driver is told to look at the link.
    const others = (parts: readonly number[]): k.Part[] => k.parse(parts).filter(({ type, selector }) => !(type === 0x102 && selector[0] === 21));
    expect(others(host.parts(2, 1))).toEqual(others(image));
  });
});

it('a device that a legacy driver has, through the PF, moves as well', () => {
  const { host, fns } = up();
  const write = (member: number, offset: number, length: number, value: number) =>
    expect(host.admin(2, k.SRIOV, member, [offset, 0, 0, 0, 0, 0, 0, 0, ...k.le(value, length)]).status).toBe(OK);
  const read = (member: number, offset: number, length: number) => k.number(host.admin(3, k.SRIOV, member, [offset], length).result);
  write(1, 18, 1, 3);
  write(1, 4, 4, (1 << 15) | (1 << 5));
  for (const [queue, at] of [
    [0, 0x10_0000],
    [1, 0x11_0000],
  ] as const) {
    write(1, 14, 2, queue);
    write(1, 8, 4, at / 4096);
  }
  write(1, 18, 1, 7);
  const size = read(1, 12, 2);
  const view = new DataView(host.ram);
  const available = 0x11_0000 + 16 * size;
  const used = Math.ceil((available + 6 + 2 * size) / 4096) * 4096;
  const send = (member: number, n: number): void => {
    host.bytes(0x12_000c, 64).set(k.frame(BROADCAST, (fns[member - 1] as k.Fn).mac, n));
    view.setBigUint64(0x11_0000, 0x12_0000n, true);
    view.setUint32(0x11_0008, 76, true);
    view.setUint16(available + 4 + 2 * n, 0, true);
    view.setUint16(available + 2, n + 1, true);
    write(member, 16, 2, 1);
  };
  send(1, 0);
  expect(view.getUint16(used + 2, true)).toBe(1);
  host.object(1, 0, 'get');
  host.object(2, 0, 'set');
  host.mode(1, true);
  host.mode(2, true);
  expect(host.setParts(2, host.parts(1)).status).toBe(OK);
  (fns[0] as k.Fn).status = 0;
  expect(host.mode(2, false).status).toBe(OK);
  expect([read(2, 18, 1), read(2, 4, 4), read(2, 14, 2), read(2, 8, 4)]).toEqual([7, (1 << 15) | (1 << 5), 1, 0x110]);
  send(2, 1);
  expect(view.getUint16(used + 2, true)).toBe(2);
  // A modern write comes to nothing: the legacy driver has the device.
  (fns[1] as k.Fn).status = 15;
  expect(read(2, 18, 1)).toBe(7);
});

describe('a stop that takes time', () => {
  it('is answered when the data plane stands still, and the commands behind it after it; a reset that is under way is waited for', () => {
    const backends = [new RecordingBackend('a'), new RecordingBackend('b')];
    const { host, fns } = up({ backend: (vf) => backends[vf] as RecordingBackend });
    const [vf] = fns as [k.Fn];
    const [backend] = backends as [RecordingBackend];
    new k.Station(host, vf, 0x10_0000);
    backend.slow = true;
    host.post(0x11, k.SRIOV, 1, [1]);
    expect(host.reply()).toBeUndefined();
    // What the driver writes over a command that waits is not looked at.
    host.bytes(0x2_0000, 24).fill(0xff);
    host.simulated.advance(60_000);
    expect(host.reply()).toBeUndefined();
    backend.finishStops();
    host.simulated.advance(60_000);
    expect(host.reply()).toMatchObject({ status: OK });
    expect(host.mode(1, false).status).toBe(OK);
    expect(backend.running()).toEqual([0, 1]);
    vf.status = 0;
    host.post(0x11, k.SRIOV, 1, [1]);
    expect(host.reply()).toBeUndefined();
    backend.finishStops();
    host.simulated.advance(60_000);
    expect(host.reply()).toMatchObject({ status: OK });
    // So does a legacy driver's access, which would otherwise wait inside itself.
    host.mode(1, false);
    new k.Station(host, vf, 0x10_0000);
    vf.status = 0;
    host.post(2, k.SRIOV, 1, [18, 0, 0, 0, 0, 0, 0, 0, 0]);
    expect(host.reply()).toBeUndefined();
    backend.finishStops();
    host.simulated.advance(60_000);
    expect(host.reply()).toMatchObject({ status: OK });
    // A PF whose driver resets it meanwhile is asked nothing any more.
    host.mode(1, false);
    new k.Station(host, vf, 0x10_0000);
    host.post(0x11, k.SRIOV, 1, [1]);
    host.pf.status = 0;
    backend.finishStops();
    host.simulated.advance(60_000);
    expect(host.reply()).toBeUndefined();
    expect(backends.flatMap(({ violations }) => violations)).toEqual([]);
  });
});

it.each([[false], [true]])(
  'a device behind a worker, stopped again and again under load, loses, repeats and reorders nothing of what its driver sends (packed: %s)',
  async (packed) => {
    const pool = new VhostPool({ threads: 1 });
    const clock = new WallClock();
    const segment = pool.worker().segment({ kind: 'switch' });
    const { host, fns } = up({ clock, pfBackend: segment.port('pf'), backend: (vf) => segment.port(`vf${vf}`) });
    try {
      const [vf, peerFn] = fns as [k.Fn, k.Fn];
      const a = new k.Station(host, vf, 0x10_0000, { packed });
      const b = new k.Station(host, peerFn, 0x20_0000, { packed, buffers: 32 });
      host.object(1, 0, 'get');
      const got: number[] = [];
      const take = (): void => void got.push(...b.received().map((bytes) => k.number(bytes.slice(14, 18))));
      let sent = 0;
      for (let round = 0; round < 12; round++) {
        for (let n = 0; n < 8; n++) a.send(k.frame(peerFn.mac, vf.mac, sent++));
        host.post(0x11, k.SRIOV, 1, [1]);
        let reply: k.Reply | undefined;
        await eventually('the stop to be answered', () => {
          take();
          reply = host.reply();
          return reply !== undefined;
        });
        expect(reply?.status).toBe(OK);
        const still = host.bytes(0x10_0000, 0x1_0000).slice();
        await new Promise((resolve) => setTimeout(resolve, 2));
        expect(Buffer.compare(host.bytes(0x10_0000, 0x1_0000), still)).toBe(0);
        // Set to what it is: its queues go on from what their rings say.
        if (round % 2 === 1) {
          expect(host.admin(0xc, k.SRIOV, 1, [...header(0), ...k.le(0, 8), 0]).status).toBe(OK);
          const image = host.parts(1);
          expect(host.admin(0xc, k.SRIOV, 1, [...header(0), ...k.le(0, 8), 1]).status).toBe(OK);
          expect(host.setParts(1, image).status).toBe(OK);
        }
        expect(host.mode(1, false).status).toBe(OK);
        await eventually('every frame to arrive', () => {
          take();
          return got.length >= sent;
        });
      }
      expect(got).toEqual(Array.from({ length: sent }, (_, n) => n));
    } finally {
      await host.machine.close();
      await pool.close();
      clock.close();
    }
  },
);

describe('a machine’s saved state', () => {
  it('has its virtual functions, those that are stopped and half set up too, and what the PF’s driver holds of them', async () => {
    const { host, fns } = up({ maxQueuePairs: 2 }, 3);
    const [vf, second, third] = fns as [k.Fn, k.Fn, k.Fn];
    host.vfs.configure(0, { mac: '02:00:00:00:00:0a', trust: true });
    const a = new k.Station(host, vf, 0x10_0000, { vectors: true });
    new k.Station(host, second, 0x20_0000);
    host.object(1, 0, 'get');
    host.object(3, 1, 'set');
    host.mode(2, true);
    host.mode(3, true);
    expect(host.setParts(3, k.part(0x103, [], [3]), 1).status).toBe(OK);
    const saved = structuredClone(await host.machine.save({ stay: 'paused' }));
    const other = new k.Host({ memory: host.memory, maxQueuePairs: 2 });
    await other.machine.restore(saved);
    expect(structuredClone(await other.machine.save())).toEqual(saved);
    expect([other.vfs.enabled, other.vfs.settings(0).trust, [...other.vfs.settings(0).mac].join()]).toEqual([3, true, '2,0,0,0,0,10']);
    // The third takes over what was set, the second goes on, the first went on.
    a.fn = new k.Fn(other.machine, vf.bdf, vf.base, vf.msixBase);
    const peer = new k.Fn(other.machine, second.bdf, second.base, second.msixBase);
    a.send(k.frame(peer.mac, vf.mac, 1));
    expect(a.transmit.reap()).toHaveLength(1);
    expect(new k.Fn(other.machine, third.bdf, third.base, third.msixBase).status).toBe(0);
    await host.machine.close();
    await other.machine.close();
  });

  it('with VFs of other settings than they start with makes them so; one that was tampered with is refused and changes nothing', async () => {
    const { host } = up({ maxQueuePairs: 2 });
    host.vfs.configure(0, { queuePairs: 2 });
    host.disable();
    host.enable(2);
    expect([host.mode(1, true), host.object(1, 1, 'set'), host.setParts(1, k.part(0x103, [], [1]), 1)].map(({ status }) => status)).toEqual([OK, OK, OK]);
    const saved = structuredClone(await host.machine.save());
    const other = new k.Host({ maxQueuePairs: 2 });
    await other.machine.restore(saved);
    expect(other.vfs.net(0)?.queuePairs).toBe(2);
    // Untyped, as whoever makes one up would have it.
    type Loose = { [name: string]: Loose };
    type Tamper = (of: (name: string) => Loose) => void;
    const [PF, VF0, VF2] = ['virtio-net at 1.0', 'virtio-net VF 0 of 1.0', 'virtio-net VF 2 of 1.0'] as const;
    const put = (record: Loose | undefined, name: string, value: unknown): void => void Object.assign(record as Loose, { [name]: value });
    const tampers: Tamper[] = [
      (of) => put(of(VF0).settings, 'queuePairs', 9),
      (of) => put(of(VF0), 'device', null),
      (of) => put(of(VF2), 'device', {}),
      (of) => put(of(VF0).device?.state?.staged?.control, 'queues', []),
      (of) => put(of(VF0).device?.state?.staged?.control?.device?.state, 'mac', 7),
      // Parts that wait in a function that runs.
      (of) => put(of(VF0).device?.state?.control, 'frozen', false),
      // Settings that would do, with a device that does not.
      (of) => {
        put(of(VF0).settings, 'mac', Uint8Array.of(2, 0, 0, 0, 0, 9));
        put(of(VF0).device?.state?.control, 'queues', []);
      },
      (of) => put(of(PF).state?.control, 'frozen', true),
      (of) => put(of(PF).state?.control?.device?.state?.admin, 'parts', { get: 0, set: 0, objects: [{ member: 1, id: 0, kind: 'get' }] }),
      // Of a function that there cannot be: nobody could ever destroy it.
      (of) => put(of(PF).state?.control?.device?.state?.admin, 'parts', { get: 1, set: 0, objects: [{ member: 255, id: 0, kind: 'get' }] }),
    ];
    const now = structuredClone(await other.machine.save());
    for (const tamper of tampers) {
      const state = structuredClone(saved);
      tamper((name) => state.state.parts.find((each) => each.name === name)?.state as Loose);
      await expect(other.machine.restore(state)).rejects.toMatchObject({ code: 'NICBOX_RESTORE' });
      expect(structuredClone(await other.machine.save())).toEqual(now);
    }
    await host.machine.close();
    await other.machine.close();
  });
});

describe('a hostile owner', () => {
  it('whatever it sends is answered, and EINVAL has changed nothing', () => {
    const { host, fns } = up();
    new k.Station(host, fns[0] as k.Fn, 0x10_0000);
    host.object(1, 0, 'get');
    host.object(1, 1, 'set');
    const image = host.parts(1);
    // Through an object that is made again, should it have been hit.
    const look = (): number[][] =>
      [1, 2].map((m) => {
        host.object(m, 7, 'get');
        return host.parts(m, 7);
      });
    const word = fc.oneof(fc.constant(0), fc.constant(1), fc.nat(20), fc.nat(0xffff));
    const mutated = fc.tuple(fc.nat(image.length - 1), fc.nat(255)).map(([at, byte]) => image.map((b, i) => (i === at ? byte : b)));
    const data = fc.oneof(
      fc.array(fc.nat(255), { maxLength: 200 }),
      mutated.map((parts) => [...header(1), ...parts]),
      fc.tuple(fc.nat(2), fc.array(fc.nat(255), { maxLength: 60 })).map(([id, rest]) => [...header(id), ...rest]),
    );
    fc.assert(
      fc.property(fc.constantFrom(...k.SRIOV_OPCODES.filter((opcode) => opcode !== 1)), fc.nat(3), word, data, (opcode, member, room, bytes) => {
        const before = look();
        const { status } = host.admin(opcode, k.SRIOV, member, bytes, room);
        if (status === EINVAL) expect(look()).toEqual(before);
      }),
      { numRuns: 400 },
    );
  });
});
