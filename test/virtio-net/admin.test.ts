// The administration virtqueue and the self group (virtio 1.4 2.12, 2.13), over registers and rings.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RestoreError } from '#core/saved';
import { AdminCommands, type AdminGroup, adminDone } from '#virtio/admin';
import { NET_DATA_PLANE_FEATURES } from '#virtio/net-features';
import { NEEDS_RESET, NUM_QUEUES, QUEUE_SELECT, QUEUE_SIZE, RecordingBackend, VirtioBench } from '../virtio-pci/bench.ts';
import * as a from './admin-bench.ts';
import { ControlBench, OK, u16, u32 } from './control-bench.ts';

class FilteringBackend extends RecordingBackend {
  readonly flowFilter = true;
}

function up(options: { packed?: boolean; net?: Parameters<typeof a.withAdmin>[0] } = {}): { bench: ControlBench; admin: a.AdminDriver } {
  const bench = new ControlBench({ net: a.withAdmin({ queuePairs: 2, ...options.net }), backend: new FilteringBackend(), packed: options.packed ?? false });
  return { bench, admin: new a.AdminDriver(bench) };
}

describe('the queue', () => {
  it('lies behind the others, is not counted with them, and is there only when negotiated', () => {
    const { bench, admin } = up();
    expect([bench.get(NUM_QUEUES, 2), bench.get(60, 2), bench.get(62, 2)]).toEqual([5, 5, 1]);
    expect(admin.index).toBe(5);
    bench.status = 0;
    expect([bench.get(60, 2), bench.get(62, 2)]).toEqual([0, 0]);
    bench.negotiate(
      bench
        .offered()
        .without(a.SPLIT_ONLY)
        .without(new VirtioBench({ net: a.withAdmin() }).net.offered.without(new VirtioBench().net.offered)),
    );
    bench.set(QUEUE_SELECT, 2, 5);
    expect([bench.get(QUEUE_SIZE, 2), bench.get(60, 2), bench.get(62, 2)]).toEqual([0, 0, 0]);
    expect(new VirtioBench().net.offered.has(41)).toBe(false);
  });

  it('breaks the device when its ring is broken, and a queue reset starts it over', () => {
    const { bench, admin } = up();
    expect(admin.status(a.LIST_QUERY)).toBe(OK);
    bench.set(QUEUE_SELECT, 2, admin.index);
    bench.set(58, 2, 1);
    expect(bench.get(58, 2)).toBe(0);
    bench.bytes.fill(0, 0x60000, 0x70000);
    const again = new a.AdminDriver(bench);
    expect(again.status(a.LIST_QUERY)).toBe(OK);
    again.driver.add(9, [{ address: 0x7000_0000, length: 24 }]);
    again.driver.expose();
    bench.kick(again.index);
    expect(bench.status & NEEDS_RESET).toBe(NEEDS_RESET);
  });
});

describe('list commands', () => {
  it('say what there is; nothing else is legal before LIST_USE, and after it what it lists', () => {
    const { admin } = up();
    const listed = admin.send(a.LIST_QUERY);
    expect(listed).toMatchObject({ status: OK, qualifier: 0, result: a.bitmap(...a.ALL_OPCODES), used: 16 });
    expect(admin.send(a.CAP_LIST)).toMatchObject({ status: a.EINVAL, qualifier: a.Q_OPCODE, result: [] });
    admin.use([0, 1, 7]);
    expect(admin.status(a.CAP_LIST)).toBe(OK);
    expect(admin.send(a.CAP_GET, [...u16(a.ACTIONS)])).toMatchObject({ status: a.EINVAL, qualifier: a.Q_OPCODE });
    // A driver may lock the list commands out.
    admin.use([1, 8]);
    expect([admin.status(a.LIST_QUERY), admin.status(a.CAP_LIST), admin.status(a.CAP_GET, u16(a.ACTIONS))]).toEqual([a.EINVAL, a.EINVAL, OK]);
    admin.use([]);
    expect(admin.send(a.LIST_USE, a.bitmap(0, 1))).toMatchObject({ status: a.EINVAL, qualifier: a.Q_OPCODE });
  });

  it('LIST_USE of what is not offered fails and changes nothing, however far out it lies; zeros behind are fine', () => {
    const { admin } = up();
    admin.use([0, 1, 7]);
    for (const opcode of [2, 0xe, 63, 64, 1000, 0xffff])
      expect(admin.send(a.LIST_USE, a.bitmap(0, 1, opcode))).toMatchObject({ status: a.EINVAL, qualifier: a.Q_FIELD, used: 8 });
    expect(admin.status(a.CAP_LIST)).toBe(OK);
    expect(admin.status(a.LIST_USE, [...a.bitmap(0, 1, 8), ...new Array(9000).fill(0)])).toBe(OK);
    expect([admin.status(a.CAP_LIST), admin.status(a.CAP_GET, u16(a.ACTIONS))]).toEqual([a.EINVAL, OK]);
  });

  it('a reset forgets what was used, and the same list is accepted again', () => {
    const { bench, admin } = up();
    admin.enable();
    bench.status = 0;
    bench.bytes.fill(0, 0x10000, 0x80000);
    bench.bringUp(bench.offered().without(a.SPLIT_ONLY), [0, 1]);
    const again = new a.AdminDriver(bench);
    expect(again.status(a.CAP_LIST)).toBe(a.EINVAL);
    again.use();
    expect(again.status(a.CREATE, a.object(a.GROUP, 0, u16(1)))).toBe(a.EINVAL);
  });
});

describe('what is looked at first', () => {
  it.each([
    ['an unknown group, whatever else is wrong', 99, 7, 5, a.Q_GROUP],
    ['the SR-IOV group, which a function without it does not have', 0, 1, 1, a.Q_GROUP],
    ['an unknown opcode', 99, 0, 5, a.Q_OPCODE],
    ['a legacy command, which the self group does not have', 2, 0, 0, a.Q_OPCODE],
    ['a member there is none of', a.CAP_LIST, 0, 5, a.Q_MEMBER],
  ])('%s', (_, opcode, group, member, qualifier) => {
    const { admin } = up();
    admin.use();
    expect(admin.send(opcode, [], { group, member })).toEqual({ status: a.EINVAL, qualifier, result: [], used: 8 });
  });

  it('a second group is one more entry: its own commands, its own list, members of its own, and absent at times', () => {
    const seen: string[] = [];
    let exists = true;
    const other: AdminGroup = {
      type: 1,
      get exists() {
        return exists;
      },
      opcodes: [6, 70],
      hasMember: (_opcode, member) => member >= 1 && member <= 4,
      execute: (opcode, member) => {
        seen.push(`${opcode} ${member}`);
        return adminDone(Uint8Array.of(1));
      },
    };
    const commands = new AdminCommands([{ type: 0, exists: true, opcodes: [], hasMember: () => true, execute: () => adminDone() }, other]);
    const run = (opcode: number, group: number, member: number, data: number[] = []) =>
      commands.execute(Uint8Array.from([...u16(opcode), ...u16(group), ...new Array(12).fill(0), ...u32(member), ...u32(0), ...data]), 512) ?? {
        status: -1,
        result: [],
      };
    expect([...run(0, 1, 1).result]).toEqual(a.bitmap(0, 1, 6, 70));
    expect([...run(0, 0, 0).result]).toEqual(a.bitmap(0, 1));
    expect(run(1, 1, 1, a.bitmap(0, 1, 6, 70)).status).toBe(OK);
    expect(run(70, 1, 4).status).toBe(OK);
    expect(run(70, 0, 0)).toMatchObject({ status: a.EINVAL, qualifier: a.Q_OPCODE });
    expect(run(70, 1, 5)).toMatchObject({ status: a.EINVAL, qualifier: a.Q_MEMBER });
    exists = false;
    expect(run(70, 1, 4)).toMatchObject({ status: a.EINVAL, qualifier: a.Q_GROUP });
    expect(seen).toEqual(['70 4']);
  });
});

describe('capabilities', () => {
  it('are listed, and can be read', () => {
    const { admin } = up({ net: { flowFilter: { rules: 40 } } });
    admin.use();
    expect(admin.send(a.CAP_LIST)).toMatchObject({ status: OK, result: a.bitmap(a.RESOURCES, a.SELECTORS, a.ACTIONS) });
    expect(admin.send(a.CAP_GET, u16(a.RESOURCES)).result).toEqual([...a.resources(16, 32, 40), 0, 0, 0, 0]);
    // 150 bytes, filled up to a multiple of eight.
    expect(admin.send(a.CAP_GET, u16(a.SELECTORS)).result).toEqual([...a.everything, ...new Array(2).fill(0)]);
    expect(admin.send(a.CAP_GET, u16(a.ACTIONS)).result).toEqual([...a.actions(1, 2), ...new Array(6).fill(0)]);
    for (const id of [0, 0x7ff, 0x803, 0xffff]) for (const opcode of [a.CAP_GET, a.CAP_SET]) expect(admin.status(opcode, u16(id))).toBe(a.ENXIO);
  });

  it.each([
    ['anything up to the limits', a.RESOURCES, a.resources(16, 32, 64), OK],
    ['less', a.RESOURCES, a.resources(1, 1, 1, 1, 1, 1), OK],
    ['nothing', a.RESOURCES, [], OK],
    ['more groups', a.RESOURCES, a.resources(17, 32, 64), a.EINVAL],
    ['more classifiers', a.RESOURCES, a.resources(16, 33, 64), a.EINVAL],
    ['more rules', a.RESOURCES, a.resources(16, 32, 65), a.EINVAL],
    ['2^32 - 1 rules in a group', a.RESOURCES, a.resources(16, 32, 64, 0xffffffff), a.EINVAL],
    ['more selectors', a.RESOURCES, a.resources(16, 32, 64, 64, 255, 4), a.EINVAL],
    ['one selector', a.SELECTORS, a.selectors({ type: a.ETH, on: [12, 13] }), OK],
    ['no selector', a.SELECTORS, a.selectors(), OK],
    ['ESP', a.SELECTORS, a.selectors({ type: 6, mask: new Array(8).fill(1) }), a.EINVAL],
    ['a flag nobody knows', a.SELECTORS, a.selectors({ type: a.ETH, flags: 2 }), a.EINVAL],
    ['a mask of another length', a.SELECTORS, a.selectors({ type: a.ETH, mask: [1] }), a.EINVAL],
    ['a selector twice', a.SELECTORS, a.selectors({ type: a.ETH }, { type: a.ETH }), a.EINVAL],
    ['selectors out of order', a.SELECTORS, a.selectors({ type: a.IPV4 }, { type: a.ETH }), a.EINVAL],
    ['a count past the data', a.SELECTORS, [255], a.EINVAL],
    ['one action', a.ACTIONS, a.actions(2), OK],
    ['IPsec', a.ACTIONS, a.actions(3), a.EINVAL],
    ['an action twice', a.ACTIONS, a.actions(1, 1), a.EINVAL],
  ])('the driver may set %s: %s', (_, id, data, status) => {
    const { admin } = up();
    admin.use();
    expect(admin.status(a.CAP_SET, a.capSet(id, data))).toBe(status);
  });
});

describe('objects', () => {
  const eth = a.selectors({ type: a.ETH, on: [0, 1, 2, 3, 4, 5] });
  const key = new Array(14).fill(7);

  it('need all three capabilities', () => {
    const { admin } = up();
    admin.use();
    const create = () => admin.send(a.CREATE, a.object(a.GROUP, 0, u16(1)));
    for (const [id, data] of [
      [a.RESOURCES, a.resources(4, 4, 4)],
      [a.SELECTORS, a.everything],
      [a.ACTIONS, a.actions(1)],
    ] as const) {
      expect(create()).toMatchObject({ status: a.EINVAL, qualifier: a.Q_OPCODE });
      expect(admin.status(a.CAP_SET, a.capSet(id, data))).toBe(OK);
    }
    expect(create().status).toBe(OK);
    // With objects there, capabilities stay.
    expect(admin.status(a.CAP_SET, a.capSet(a.ACTIONS, a.actions()))).toBe(a.EBUSY);
    expect(admin.status(a.DESTROY, a.object(a.GROUP, 0))).toBe(OK);
    expect(admin.status(a.CAP_SET, a.capSet(a.ACTIONS, a.actions()))).toBe(OK);
    expect(create().status).toBe(a.EINVAL);
  });

  it('live from create to destroy, say what they were last told, and hold what they depend on', () => {
    const { admin } = up();
    admin.enable();
    const query = (type: number, id: number) => admin.send(a.QUERY, a.object(type, id));
    expect(query(a.GROUP, 3).status).toBe(a.ENXIO);
    expect(admin.status(a.MODIFY, a.object(a.GROUP, 3, u16(9)))).toBe(a.ENXIO);
    expect(admin.status(a.DESTROY, a.object(a.GROUP, 3))).toBe(a.ENXIO);
    expect(admin.status(a.CREATE, a.object(a.GROUP, 3, u16(9)))).toBe(OK);
    expect(admin.status(a.CREATE, a.object(a.GROUP, 3, u16(8)))).toBe(a.EEXIST);
    expect(admin.status(a.MODIFY, a.object(a.GROUP, 3, u16(0x1234)))).toBe(OK);
    expect(query(a.GROUP, 3).result.slice(0, 2)).toEqual(u16(0x1234));
    expect(admin.status(a.CREATE, a.object(a.CLASSIFIER, 31, eth))).toBe(OK);
    expect(query(a.CLASSIFIER, 31).result.slice(0, eth.length)).toEqual(eth);
    const first = a.rule(3, 31, 1, 2, key);
    expect(admin.status(a.CREATE, a.object(a.RULE, 63, first))).toBe(OK);
    expect(query(a.RULE, 63).result.slice(0, first.length)).toEqual(first);
    for (const opcode of [a.MODIFY, a.DESTROY]) {
      expect(admin.status(opcode, a.object(a.GROUP, 3, u16(5)))).toBe(a.EBUSY);
      expect(admin.status(opcode, a.object(a.CLASSIFIER, 31, eth))).toBe(a.EBUSY);
    }
    expect(query(a.GROUP, 3).result.slice(0, 2)).toEqual(u16(0x1234));
    const second = a.rule(3, 31, 200, 'drop', [...key].reverse());
    expect(admin.status(a.MODIFY, a.object(a.RULE, 63, second))).toBe(OK);
    // A modification that fails leaves what there was.
    expect(admin.status(a.MODIFY, a.object(a.RULE, 63, a.rule(4, 31, 1, 2, key)))).toBe(a.EINVAL);
    expect(query(a.RULE, 63).result.slice(0, second.length)).toEqual(second);
    for (const [type, id] of [
      [a.RULE, 63],
      [a.CLASSIFIER, 31],
      [a.GROUP, 3],
    ] as const) {
      expect(admin.status(a.DESTROY, a.object(type, id))).toBe(OK);
      expect(query(type, id).status).toBe(a.ENXIO);
    }
    expect(admin.status(a.CREATE, a.object(a.GROUP, 3, u16(1)))).toBe(OK);
    expect([admin.status(a.CREATE, a.object(0x203, 0)), query(0x203, 0).status, query(0, 0).status]).toEqual([a.EINVAL, a.ENXIO, a.ENXIO]);
  });

  it('can be as many as the driver set, in any order of ids', () => {
    const { admin } = up();
    admin.enable(a.resources(3, 2, 4, 4));
    for (const id of [2, 0, 1]) expect(admin.status(a.CREATE, a.object(a.GROUP, id, u16(10 + id)))).toBe(OK);
    expect(admin.status(a.CREATE, a.object(a.GROUP, 3, u16(99)))).toBe(a.ENOSPC);
    expect(admin.status(a.DESTROY, a.object(a.GROUP, 1))).toBe(OK);
    expect(admin.status(a.CREATE, a.object(a.GROUP, 3, u16(99)))).toBe(a.EINVAL);
    expect(admin.status(a.CREATE, a.object(a.GROUP, 1, u16(12)))).toBe(a.EINVAL);
    for (const id of [1, 0]) expect(admin.status(a.CREATE, a.object(a.CLASSIFIER, id, eth))).toBe(OK);
    expect(admin.status(a.CREATE, a.object(a.CLASSIFIER, 2, eth))).toBe(a.ENOSPC);
    for (const id of [3, 1, 0, 2]) expect(admin.status(a.CREATE, a.object(a.RULE, id, a.rule(0, 0, id, 0, key)))).toBe(OK);
    expect(admin.status(a.CREATE, a.object(a.RULE, 4, a.rule(0, 0, 4, 0, key)))).toBe(a.ENOSPC);
  });

  it.each([
    ['a group that is not there', a.rule(1, 0, 1, 0, key)],
    ['a classifier that is not there', a.rule(0, 1, 1, 0, key)],
    ['a transmit queue', a.rule(0, 0, 1, 1, key)],
    ['a queue past the pairs', a.rule(0, 0, 1, 4, key)],
    ['queue 0xfffe', a.rule(0, 0, 1, 0xfffe, key)],
    ['the control queue', a.rule(0, 0, 1, 4, key)],
    ['last_rule_priority', a.rule(0, 0, 255, 0, key)],
    ['a key too short', a.rule(0, 0, 1, 0, key.slice(1))],
    ['a key too long', a.rule(0, 0, 1, 0, [...key, 1])],
    ['action 0', a.rule(0, 0, 1, 0, key, { action: 0 })],
    ['action 3, IPsec', a.rule(0, 0, 1, 0, key, { action: 3 })],
  ])('a rule with %s is refused', (_, data) => {
    const { admin } = up();
    admin.enable();
    admin.status(a.CREATE, a.object(a.GROUP, 0, u16(1)));
    admin.status(a.CREATE, a.object(a.CLASSIFIER, 0, eth));
    expect(admin.send(a.CREATE, a.object(a.RULE, 0, data))).toMatchObject({ status: a.EINVAL, qualifier: a.Q_FIELD });
    expect(admin.send(a.QUERY, a.object(a.RULE, 0)).status).toBe(a.ENXIO);
  });

  it.each([
    ['no selector', a.selectors()],
    ['IPv4 first', a.selectors({ type: a.IPV4 })],
    ['UDP second', a.selectors({ type: a.ETH, on: [12, 13] }, { type: a.UDP })],
    ['two IPs', a.selectors({ type: a.ETH, on: [12, 13] }, { type: a.IPV4, on: [9] }, { type: a.IPV6 })],
    ['an EtherType that is not wholly in the mask', a.selectors({ type: a.ETH, on: [12] }, { type: a.IPV4 })],
    ['a protocol that is not', a.selectors({ type: a.ETH, on: [12, 13] }, { type: a.IPV6, on: [9] }, { type: a.UDP })],
    ['four selectors', a.selectors({ type: a.ETH, on: [12, 13] }, { type: a.IPV4, on: [9] }, { type: a.UDP }, { type: a.TCP })],
    ['a count past the data', [3]],
  ])('a classifier with %s is refused', (_, data) => {
    const { admin } = up();
    admin.enable();
    expect(admin.send(a.CREATE, a.object(a.CLASSIFIER, 0, data))).toMatchObject({ status: a.EINVAL, qualifier: a.Q_FIELD });
  });

  it('a classifier keeps to the selectors the driver set, and to the number it set', () => {
    const { admin } = up();
    admin.use();
    admin.status(a.CAP_SET, a.capSet(a.RESOURCES, a.resources(1, 4, 4, 4, 255, 1)));
    admin.status(a.CAP_SET, a.capSet(a.SELECTORS, a.selectors({ type: a.ETH, on: [12, 13] }, { type: a.IPV4, on: [9] })));
    admin.status(a.CAP_SET, a.capSet(a.ACTIONS, a.actions(1)));
    const create = (data: number[]) => admin.status(a.CREATE, a.object(a.CLASSIFIER, 0, data));
    expect(create(a.selectors({ type: a.ETH, on: [0] }))).toBe(a.EINVAL);
    expect(create(a.selectors({ type: a.ETH, flags: 1, on: [12] }))).toBe(a.EINVAL);
    expect(create(a.selectors({ type: a.ETH, on: [12, 13] }, { type: a.IPV4 }))).toBe(a.EINVAL);
    expect(create(a.selectors({ type: a.ETH, on: [12, 13] }))).toBe(OK);
  });

  it('MODIFY and QUERY change places for a driver that goes by the text', () => {
    const { admin } = up({ net: { adminOpcodes: 'text' } });
    admin.enable();
    admin.status(a.CREATE, a.object(a.GROUP, 0, u16(1)));
    expect(admin.status(a.QUERY, a.object(a.GROUP, 0, u16(77)))).toBe(OK);
    expect(admin.send(a.MODIFY, a.object(a.GROUP, 0)).result.slice(0, 2)).toEqual(u16(77));
  });
});

describe('buffers', () => {
  it('of any slicing, direct and indirect, over split and packed rings, come to the same', () => {
    for (const packed of [false, true]) {
      const { admin } = up({ packed });
      admin.use();
      const whole = admin.send(a.CAP_GET, u16(a.SELECTORS), { writable: [160] });
      expect(whole.used).toBe(160);
      fc.assert(
        fc.property(
          fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 6 }),
          fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 6 }),
          fc.boolean(),
          (slices, writable, indirect) => {
            const room = writable.reduce((sum, n) => sum + n, 0);
            const { used, result } = admin.send(a.CAP_GET, u16(a.SELECTORS), { slices, writable, indirect });
            expect(used).toBe(Math.min(room, 160));
            expect(result).toEqual(whole.result.slice(0, Math.max(0, used - 8)));
          },
        ),
        { numRuns: 100 },
      );
    }
  });

  it('that are short read as zeros and cut the answer; the command is run all the same', () => {
    const { bench, admin } = up();
    // Of LIST_USE only the opcode: an empty list, which locks everything out.
    expect(admin.raw(u16(a.LIST_USE), { writable: [8] })).toEqual({ status: OK, qualifier: 0, result: [], used: 8 });
    expect(admin.status(a.LIST_QUERY)).toBe(a.EINVAL);
    bench.status = 0;
    bench.bytes.fill(0, 0x10000, 0x80000);
    bench.bringUp(bench.offered().without(a.SPLIT_ONLY), [0, 1]);
    const again = new a.AdminDriver(bench);
    // One byte of opcode: LIST_QUERY; with no room for an answer it is used with length 0.
    expect(again.raw([0]).result).toEqual(a.bitmap(...a.ALL_OPCODES));
    expect(again.raw([], { writable: [4] }).used).toBe(4);
    expect(again.raw([0, 0], { writable: [] }).used).toBe(0);
    again.enable();
    // A group whose priority is missing has priority 0.
    expect(again.status(a.CREATE, a.object(a.GROUP, 5))).toBe(OK);
    expect(again.send(a.QUERY, a.object(a.GROUP, 5)).result.slice(0, 2)).toEqual([0, 0]);
    expect(bench.status & NEEDS_RESET).toBe(0);
  });

  it('of anything at all: EINVAL has changed nothing, and the queue goes on', () => {
    const { bench, admin } = up();
    admin.enable();
    admin.status(a.CREATE, a.object(a.GROUP, 0, u16(1)));
    admin.status(a.CREATE, a.object(a.CLASSIFIER, 0, a.selectors({ type: a.ETH })));
    admin.status(a.CREATE, a.object(a.RULE, 0, a.rule(0, 0, 1, 0, new Array(14).fill(0))));
    const state = () => {
      bench.net.pause();
      const saved = JSON.stringify((bench.net.save().state as { admin: { used: unknown; flow: unknown } }).admin, (key, value) =>
        key === 'position' ? 0 : value,
      );
      bench.net.resume();
      return saved;
    };
    const byte = fc.integer({ min: 0, max: 255 });
    const small = fc.integer({ min: 0, max: 3 });
    const data = fc.oneof(
      fc.array(byte, { maxLength: 60 }),
      fc.tuple(fc.constantFrom(a.GROUP, a.CLASSIFIER, a.RULE), small, fc.array(byte, { maxLength: 40 })).map(([type, id, more]) => a.object(type, id, more)),
      fc.tuple(small, fc.array(small, { minLength: 14, maxLength: 14 })).map(([id, keys]) => a.object(a.RULE, id, a.rule(0, 0, id, 0, keys))),
      fc.tuple(small, small).map(([id, priority]) => a.object(a.GROUP, id, u16(priority))),
      fc.tuple(fc.constantFrom(a.RESOURCES, a.SELECTORS, a.ACTIONS), fc.array(byte, { maxLength: 40 })).map(([id, more]) => a.capSet(id, more)),
    );
    const statuses = new Set<number>();
    fc.assert(
      fc.property(fc.constantFrom(0, 7, 8, 9, 0xa, 0xa, 0xb, 0xc, 0xc, 0xd, 99), data, (opcode, bytes) => {
        const before = state();
        const { status } = admin.send(opcode, bytes);
        statuses.add(status);
        if (status !== OK) expect(state()).toBe(before);
        expect(bench.status & NEEDS_RESET).toBe(0);
      }),
      { numRuns: 300 },
    );
    for (const status of [OK, a.EINVAL, a.ENXIO]) expect(statuses).toContain(status);
  });
});

describe('saved state', () => {
  const options = () => ({ net: a.withAdmin({ queuePairs: 2 }), backend: new FilteringBackend() });

  function source(): { bench: ControlBench; admin: a.AdminDriver } {
    const bench = new ControlBench(options());
    const admin = new a.AdminDriver(bench);
    admin.enable(a.resources(4, 4, 8));
    admin.status(a.CREATE, a.object(a.GROUP, 2, u16(7)));
    admin.status(a.CREATE, a.object(a.CLASSIFIER, 1, a.selectors({ type: a.ETH, on: [5] })));
    admin.status(a.CREATE, a.object(a.RULE, 0, a.rule(2, 1, 9, 2, new Array(14).fill(3))));
    return { bench, admin };
  }

  it('comes back: the rules are in force, objects and limits are there, and the queue goes on', () => {
    const { bench, admin } = source();
    bench.command([4, 0, 2, 0]);
    bench.net.pause();
    const saved = structuredClone({ pci: bench.pci.save(), fabric: bench.fabric.save() });
    const target = new ControlBench(options());
    target.status = 0;
    target.bytes.set(bench.bytes);
    target.fabric.restore(saved.fabric as never);
    target.pci.restore(saved.pci);
    expect(structuredClone(target.pci.save())).toEqual(saved.pci);
    target.net.resume();
    expect(target.net.policy.flowRules).toEqual(bench.net.policy.flowRules);
    expect(target.net.policy.flowRules[0]).toBe(1);
    // The source's driver goes on in the target.
    const at = bench.post([...u16(a.QUERY), 0, 0, ...new Array(20).fill(0), ...a.object(a.GROUP, 2)], { writable: [64] }, admin.driver);
    admin.driver.expose();
    target.bytes.set(bench.bytes);
    target.kick(admin.index);
    expect([...target.bytes.subarray(at, at + 10)]).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 7, 0]);
  });

  it.each([
    ['a rule of a group that is not there', (s: Flow) => s.groups.splice(0)],
    ['a rule to a queue that is not there', (s: Flow) => (s.rules[0] as Rec).data.set([8], 12)],
    ['an object past the limit', (s: Flow) => Object.assign(s.groups[0] as Rec, { id: 9 })],
    ['a key of another length', (s: Flow) => (s.rules[0] as Rec).data.set([255], 9)],
    ['a capability above the device its own', (s: Flow) => (s.capabilities[0] as Rec).data.set([255], 0)],
    ['a capability nobody knows', (s: Flow) => Object.assign(s.capabilities[0] as Rec, { id: 1 })],
    ['a thousand objects', (s: Flow) => s.groups.push(...new Array(1000).fill(s.groups[0]))],
    ['no filter', (_: Flow, all: Record<string, unknown>) => (all.flow = null)],
    ['an opcode that is not there', (_: Flow, all: Record<string, unknown>) => (all.used = [{ group: 0, opcodes: [2] }])],
    ['a group that is not there', (_: Flow, all: Record<string, unknown>) => (all.used = [{ group: 1, opcodes: [0] }])],
  ])('with %s is refused, and nothing has changed', (_, lie) => {
    const { bench } = source();
    bench.net.pause();
    const before = structuredClone(bench.pci.save());
    const saved = structuredClone(before) as unknown as { state: { control: { device: { state: { admin: Record<string, unknown> } } } } };
    const { admin } = saved.state.control.device.state;
    lie(admin.flow as Flow, admin);
    expect(() => bench.pci.restore(saved)).toThrow(RestoreError);
    expect(structuredClone(bench.pci.save())).toEqual(before);
  });
});

interface Rec {
  id: number;
  data: Uint8Array;
}

interface Flow {
  capabilities: Rec[];
  groups: Rec[];
  rules: Rec[];
}

describe('options', () => {
  const make =
    (net: Parameters<typeof a.withAdmin>[0], backend: RecordingBackend = new FilteringBackend()) =>
    () =>
      new VirtioBench({ net: net as never, backend });

  it.each([
    ['a flow filter without an administration queue', make({ flowFilter: {} }), 'NICBOX_FEATURE_DEPENDENCY'],
    ['65 rules', make(a.withAdmin({ flowFilter: { rules: 65 } })), 'NICBOX_FLOW_FILTER'],
    ['half a group', make(a.withAdmin({ flowFilter: { groups: 0.5 } })), 'NICBOX_FLOW_FILTER'],
    ['a flow filter over a backend without', make(a.withAdmin({ flowFilter: {} }), new RecordingBackend()), 'NICBOX_BACKEND_FEATURES'],
  ])('%s is refused', (_, construct, code) => {
    expect(construct).toThrow(expect.objectContaining({ code }));
  });

  it('without a filter, by wish or for the backend its sake, the self group has the list commands; such a backend cannot take over either', () => {
    for (const bench of [
      new ControlBench({ net: a.withAdmin({ flowFilter: false }), backend: new FilteringBackend() }),
      new ControlBench({ net: a.withAdmin() }),
    ]) {
      const admin = new a.AdminDriver(bench);
      expect(admin.send(a.LIST_QUERY).result).toEqual(a.bitmap(0, 1));
      expect(admin.send(a.CAP_LIST)).toMatchObject({ status: a.EINVAL, qualifier: a.Q_OPCODE });
    }
    const { bench } = up();
    expect(() => bench.net.handOver(new RecordingBackend('plain', NET_DATA_PLANE_FEATURES))).toThrow(
      expect.objectContaining({ code: 'NICBOX_BACKEND_FEATURES' }),
    );
  });
});
