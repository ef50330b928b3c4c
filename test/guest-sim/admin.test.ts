// Administration commands, capabilities, objects and flow filters as the driver sends them, against a device of these tests that checks every byte.

import { describe, expect, it } from 'vitest';
import type { AdminQueue } from '#guest-sim/admin-queue';
import { DRIVER_FEATURES, featureMask } from '#guest-sim/features';
import { FlowFilter, flowMatch } from '#guest-sim/flow-filter';
import { Guest } from '#guest-sim/guest';
import { VIRTIO_F } from '#guest-sim/virtio-constants';
import { VirtioModel } from './virtio-model.ts';

const FEATURES = featureMask([...DRIVER_FEATURES, VIRTIO_F.ADMIN_VQ]);

interface Seen {
  readonly opcode: number;
  readonly group: number;
  readonly data: number[];
  readonly room: number;
}

class AdminModel {
  readonly seen: Seen[] = [];
  readonly objects = new Map<string, number[]>();
  used: number[] = [0, 1];
  /** Statuses to answer with before anything else. */
  readonly trouble: number[] = [];
  /** Bytes of the answer that are written; default all. */
  cut = Infinity;
  readonly selectors = [1, 2, 3, 4, 5].flatMap((type) => {
    const length = [0, 14, 20, 40, 20, 8][type] as number;
    return [type, type === 5 ? 0 : 1, 0, 0, length, 0, 0, 0, ...Array<number>(length).fill(0xff)];
  });

  take(command: Uint8Array, writable: number): Uint8Array {
    const v = new DataView(command.buffer, command.byteOffset, command.length);
    const opcode = v.getUint16(0, true);
    const data = [...command.subarray(24)];
    this.seen.push({ opcode, group: v.getUint16(2, true), data, room: writable - 8 });
    const trouble = this.trouble.shift();
    const [status, result] = trouble !== undefined ? [trouble, []] : this.answer(opcode, v.getUint16(2, true), data);
    const bytes = new Uint8Array(Math.min(writable, 8 + result.length, this.cut));
    bytes.set([status, 0, status === 0 ? 0 : 1, 0, 0, 0, 0, 0, ...result].slice(0, bytes.length));
    return bytes;
  }

  answer(opcode: number, group: number, data: number[]): [number, number[]] {
    if (group !== 0) return [22, []];
    if (!this.used.includes(opcode)) return [22, []];
    const id = `${data[0]}.${data[1]}:${data[4]}`;
    switch (opcode) {
      case 0:
        return [0, [0x83, 0x3f, 0, 0, 0, 0, 0, 0]];
      case 1:
        this.used = Array.from({ length: 64 }, (_, i) => i).filter((i) => (((data[i >> 3] ?? 0) >> (i & 7)) & 1) === 1);
        return this.used.every((i) => i < 2 || (i >= 7 && i < 14)) ? [0, []] : [22, []];
      case 7: {
        const bits = Array<number>(0x808 / 8).fill(0);
        bits[0x100] = 7;
        return [0, bits];
      }
      case 8:
        if (data[0] === 0 && data[1] === 8) return [0, [4, 0, 0, 0, 3, 0, 0, 0, 6, 0, 0, 0, 2, 0, 0, 0, 10, 3, 0, 0]];
        if (data[0] === 1 && data[1] === 8) return [0, [5, 0, 0, 0, 0, 0, 0, 0, ...this.selectors]];
        if (data[0] === 2 && data[1] === 8) return [0, [3, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]];
        return [6, []];
      case 9:
        return [0, []];
      case 10:
        if (this.objects.has(id)) return [17, []];
        this.objects.set(id, data.slice(16));
        return [0, []];
      case 11:
        return this.objects.has(id) ? [0, this.objects.get(id) as number[]] : [6, []];
      case 12:
        this.objects.set(id, data.slice(16));
        return [0, []];
      case 13:
        return [this.objects.delete(id) ? 0 : 6, []];
      default:
        return [22, []];
    }
  }
}

function bringUp(ring: 'split' | 'packed', net: object = {}): { model: AdminModel; device: VirtioModel; guest: Guest; admin: AdminQueue } {
  const device = new VirtioModel({ features: FEATURES, adminQueues: 1 });
  const model = new AdminModel();
  device.onAdmin = (command, room) => model.take(command, room);
  const guest = new Guest(device, { net: { ring, with: [VIRTIO_F.ADMIN_VQ], ...net } });
  return { model, device, guest, admin: guest.net.admin as AdminQueue };
}

describe.each(['split', 'packed'] as const)('administration over %s rings', (ring) => {
  it('is set up only where it was asked for, beyond the queues num_queues counts', () => {
    expect(new Guest(new VirtioModel({ features: FEATURES, adminQueues: 1 }), { net: { ring } }).net.admin).toBeUndefined();
    const { device, guest } = bringUp(ring);
    expect(device.queues.map((q) => q.enabled)).toEqual([1, 1, 1, 1]);
    const memory = guest.arena.bytesInUse;
    guest.net.recover();
    expect(guest.arena.bytesInUse).toBe(memory);
    expect(() => new Guest(new VirtioModel({ features: FEATURES }), { net: { ring, with: [VIRTIO_F.ADMIN_VQ] } })).toThrow('no administration queue');
  });

  it('uses only commands that were reported, in whole 64-bit words', () => {
    const { model, admin } = bringUp(ring);
    expect([...(admin.use([1, 7, 9, 40, 16]) ?? [])]).toEqual([0, 1, 7, 9]);
    expect(model.used).toEqual([0, 1, 7, 9]);
    expect(admin.commands(1)).toBeUndefined();
    expect(admin.use([7], 1)).toBeUndefined();
    expect(model.seen.every((s) => s.data.length % 8 === 0 && s.room % 8 === 0)).toBe(true);
  });

  it('takes what the device left unwritten as zero, tries again on EAGAIN, and gives up in the end', () => {
    const { model, admin } = bringUp(ring);
    admin.useAll();
    model.cut = 12;
    expect([...(admin.deviceCapability(0x800, 20) as Uint8Array)]).toEqual([4, 0, 0, 0, ...Array(16).fill(0)]);
    model.cut = Infinity;
    model.trouble.push(11, 11);
    expect(admin.queryObject(0x200, 5, 8)).toMatchObject({ status: 6, qualifier: 1 });
    model.trouble.push(...Array(500).fill(11));
    expect(admin.queryObject(0x200, 5, 8).status).toBe(11);
    expect(model.trouble.length).toBe(400);
    model.trouble.length = 0;
    model.cut = 2;
    expect(() => admin.capabilities()).toThrow('less than a status');
    expect(() => admin.capabilities()).toThrow('less than a status');
  });

  it.each([
    ['table', 11, 12],
    ['text', 12, 11],
  ] as const)('numbers query and modify by the %s', (objectOpcodes, query, modify) => {
    const { model, admin } = bringUp(ring, { objectOpcodes });
    admin.useAll();
    admin.createObject(0x200, 1, Uint8Array.of(7));
    admin.queryObject(0x200, 1, 8);
    admin.modifyObject(0x200, 1, Uint8Array.of(8));
    admin.destroyObject(0x200, 1);
    expect(model.seen.slice(-4).map((s) => s.opcode)).toEqual([10, query, modify, 13]);
    expect(model.seen.at(-4)?.data).toEqual([0, 2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
  });

  it('is not used while the device is suspended', () => {
    const { guest, admin } = bringUp(ring);
    guest.net.suspend();
    expect(() => admin.commands()).toThrow('resume it first');
    guest.net.resume();
    expect(admin.commands()?.has(10)).toBe(true);
  });

  it('opens the flow filter within what the device has, and makes groups, classifiers and rules of the right bytes', () => {
    const { model, admin } = bringUp(ring);
    const filter = FlowFilter.open(admin) as FlowFilter;
    const set = model.seen.filter((s) => s.opcode === 9).map((s) => s.data);
    expect(set.map((d) => d.slice(0, 2))).toEqual([
      [0, 8],
      [1, 8],
      [2, 8],
    ]);
    expect(set[0]?.slice(8, 26)).toEqual([4, 0, 0, 0, 3, 0, 0, 0, 6, 0, 0, 0, 2, 0, 0, 0, 10, 3]);
    expect(set[1]?.slice(8, 16 + model.selectors.length)).toEqual([5, 0, 0, 0, 0, 0, 0, 0, ...model.selectors]);
    // An action that is not known here is not asked for.
    expect(set[2]?.slice(8, 18)).toEqual([2, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
    const match = flowMatch({ version: 4, to: [10, 0, 0, 1], protocol: 'udp', toPort: 53 });
    const group = filter.addGroup(0x102);
    const classifier = filter.addClassifier(match);
    const rule = filter.addRule({ group, classifier, priority: 9, selectors: match, action: 3 });
    expect([group, classifier, rule]).toEqual([0, 0, 0]);
    expect(model.objects.get('0.2:0')?.slice(0, 2)).toEqual([2, 1]);
    const eth = [...Array(12).fill(0), 0xff, 0xff];
    const ip = [...Array(9).fill(0), 0xff, ...Array(6).fill(0), 0xff, 0xff, 0xff, 0xff];
    const udp = [0, 0, 0xff, 0xff, 0, 0, 0, 0];
    const head = (type: number, flags: number, length: number): number[] => [type, flags, 0, 0, length, 0, 0, 0];
    expect(model.objects.get('1.2:0')?.slice(0, 74)).toEqual([
      3,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
      ...head(1, 1, 14),
      ...eth,
      ...head(2, 1, 20),
      ...ip,
      ...head(5, 0, 8),
      ...udp,
    ]);
    const key = [...Array(12).fill(0), 8, 0, ...Array(9).fill(0), 17, ...Array(6).fill(0), 10, 0, 0, 1, 0, 0, 0, 53, 0, 0, 0, 0];
    expect(model.objects.get('2.2:0')?.slice(0, 58)).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 9, 42, 2, 0, 6, 0, 0, 0, ...key]);
  });

  it('keeps the order of dependence, the limits, and what a driver must not ask', () => {
    const { model, admin } = bringUp(ring);
    const filter = FlowFilter.open(admin) as FlowFilter;
    const match = flowMatch({ etherType: 0x806 });
    const group = filter.addGroup(1);
    const classifier = filter.addClassifier(match);
    const rule = { group, classifier, priority: 1, selectors: match, action: 'drop' as const };
    expect([filter.addRule(rule), filter.addRule({ ...rule, priority: 2 }), filter.addRule({ ...rule, priority: 3 })]).toEqual([0, 1, -1]);
    expect([filter.removeGroup(group), filter.removeClassifier(classifier)]).toEqual([false, false]);
    expect(() => filter.addRule({ ...rule, priority: 10 })).toThrow('not below 10');
    expect(() => filter.addRule({ ...rule, selectors: [] })).toThrow('key of 0 bytes');
    expect(() => filter.addRule({ ...rule, group: 3 })).toThrow('no group 3');
    const [eth, ip, udp] = flowMatch({ version: 6, protocol: 'udp' });
    for (const bad of [[], [ip], [eth, udp], [eth, ip, eth], [flowMatch({})[0], ip], [eth, flowMatch({ version: 6 })[1], udp]])
      expect(() => filter.addClassifier(bad as never)).toThrow(RangeError);
    expect([filter.removeRule(0), filter.removeRule(0), filter.removeRule(1)]).toEqual([true, false, true]);
    expect([filter.removeGroup(group), filter.removeGroup(group), filter.removeClassifier(classifier)]).toEqual([true, false, true]);
    expect(model.objects.size).toBe(0);
    model.trouble.push(28);
    expect([filter.addGroup(5), filter.refusal?.status]).toEqual([-1, 28]);
  });

  it('says that a device has no flow filter when it lacks one of the three capabilities', () => {
    const { model, admin } = bringUp(ring);
    const answer = model.answer.bind(model);
    model.answer = (opcode, group, data) => (opcode === 7 ? [0, [1]] : answer(opcode, group, data));
    expect(FlowFilter.open(admin)).toBeUndefined();
  });
});
