// Saved state: everything comes back, and state that was made up is refused with nothing changed.
import { describe, expect, it } from 'vitest';
import { RestoreError } from '#core/saved';
import { FeatureSet } from '#virtio/features';
import * as p from '#virtio/net-policy';
import {
  CONFIG,
  CONFIG_VECTOR,
  DRIVER_FEATURE_SELECT,
  QUEUE_ENABLE,
  QUEUE_SELECT,
  QUEUE_SIZE,
  QUEUE_VECTOR,
  RecordingBackend,
  type VirtioBench,
} from '../virtio-pci/bench.ts';
import { ControlBench, OK, rss, u16, u32 } from './control-bench.ts';

const options = { net: { queuePairs: 2, mtu: 1500 } } as const;

/** A device in the middle of things. */
function busy(): ControlBench {
  const bench = new ControlBench(options);
  bench.command([0, 1, 1]);
  bench.command([1, 1, 0x52, 0, 0, 0, 0, 7]);
  bench.command([1, 0, 1, 0, 0, 0, 0x52, 0, 0, 0, 0, 9, 0, 0, 0, 0]);
  bench.command([2, 0, ...u16(77)]);
  bench.command([4, 0, ...u16(2)]);
  bench.command([5, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
  bench.command([4, 1, ...rss({ types: 0x3f, table: [1, 0, 1, 1], unclassified: 1, maxTx: 2 })]);
  bench.command([7, 0, ...u32(0x11)]);
  bench.command([9, 1, ...u16(3), 0, 0, 0, 0, 0, 0, ...rss({ types: 2, table: [0], unclassified: 0, maxTx: 1 })]);
  bench.set(CONFIG_VECTOR, 2, 4);
  bench.set(QUEUE_SELECT, 2, 3);
  bench.set(QUEUE_VECTOR, 2, 1);
  bench.set(DRIVER_FEATURE_SELECT, 4, 1);
  bench.backend.ring(3).position = { available: 0x1234, used: 0x1230 };
  return bench;
}

function saveOf(bench: VirtioBench): { pci: unknown; fabric: unknown; ram: Uint8Array } {
  bench.net.pause();
  if (!bench.net.paused) throw new Error('not paused');
  return structuredClone({ pci: bench.pci.save(), fabric: bench.fabric.save(), ram: new Uint8Array(bench.ram).slice() });
}

/** Another machine of the same make, with nothing brought up. */
function fresh(): ControlBench {
  const bench = new ControlBench(options);
  bench.status = 0;
  return bench;
}

describe('save and restore', () => {
  it('brings back registers, negotiation, queues, positions, filters and the control queue, and goes on from there', () => {
    const source = busy();
    const saved = saveOf(source);
    const target = fresh();
    target.bytes.set(saved.ram);
    target.fabric.restore(saved.fabric as never);
    target.pci.restore(saved.pci);
    expect(target.backend.running()).toEqual([]);
    target.net.resume();
    expect(target.status).toBe(15);
    expect(target.get(CONFIG_VECTOR, 2)).toBe(4);
    expect([target.get(QUEUE_SELECT, 2), target.get(QUEUE_VECTOR, 2), target.get(QUEUE_SIZE, 2), target.get(QUEUE_ENABLE, 2)]).toEqual([3, 1, 256, 1]);
    expect(target.get(DRIVER_FEATURE_SELECT, 4)).toBe(1);
    expect(target.read(CONFIG + 5, 1)).toBe(7);
    expect(target.backend.running()).toEqual([0, 1, 2, 3]);
    expect(target.backend.ring(3).start).toEqual({ available: 0x1234, used: 0x1230 });
    const { policy } = target.net;
    expect(policy.flags).toBe(source.net.policy.flags | p.POLICY_ACTIVE);
    expect(policy.flags & p.POLICY_ALL_MULTICAST).toBe(p.POLICY_ALL_MULTICAST);
    expect([policy.hasVlan(77), policy.hasVlan(78), policy.activePairs, policy.accepts, policy.maximumFrame]).toEqual([true, false, 2, 1, 1518]);
    expect(policy.inTable(0x52, 0x0900)).toBe(true);
    expect([[...policy.rss.table(0)], policy.rss.unclassified(0)]).toEqual([[1, 0, 1, 1], 1]);
    expect([policy.rss.parameters(0), policy.rss.parameters(3)]).toEqual([source.net.policy.rss.parameters(0), source.net.policy.rss.parameters(3)]);
    expect([policy.rss.parameters(0)?.types, policy.rss.parameters(0)?.tunnels, policy.rss.parameters(3)?.types, policy.rss.parameters(2)]).toEqual([
      0x3f,
      0x11,
      2,
      undefined,
    ]);
    // The next command is the driver's tenth: the rings of the source go on in the target.
    const at = source.post([0, 1, 0]);
    source.driver.expose();
    target.bytes.set(source.bytes);
    target.kick(target.index);
    expect(target.bytes[at]).toBe(OK);
    expect(policy.flags & p.POLICY_ALL_MULTICAST).toBe(0);
  });

  it('the source goes on as well after saving', () => {
    const bench = busy();
    saveOf(bench);
    bench.net.resume();
    expect(bench.backend.ring(3).start).toEqual({ available: 0x1234, used: 0x1230 });
    expect(bench.command([0, 1, 0]).ack).toBe(OK);
  });

  it('is the same when saved again without going on', () => {
    const saved = saveOf(busy());
    const target = fresh();
    target.bytes.set(saved.ram);
    target.fabric.restore(saved.fabric as never);
    target.pci.restore(saved.pci);
    target.net.resume();
    expect(saveOf(target).pci).toEqual(saved.pci);
  });

  it.each([0, 1, 3, 11])('of a device that is not live (status %i)', (status) => {
    const source = fresh();
    if (status === 11) source.negotiate(FeatureSet.of(32, 34));
    else source.status = status;
    const saved = saveOf(source);
    const target = fresh();
    target.pci.restore(saved.pci);
    target.net.resume();
    expect(target.status).toBe(status);
    expect(target.backend.running()).toEqual([]);
    if (status !== 11) return;
    target.setUpQueue(0);
    target.status = 15;
    expect(target.backend.ring(0).start).toEqual({ available: 0x8000, used: 0x8000 });
  });

  it('needs the data plane stopped', () => {
    const bench = busy();
    expect(() => bench.pci.save()).toThrow(expect.objectContaining({ code: 'NICBOX_BUSY' }));
    bench.backend.slow = true;
    bench.status = 0;
    expect(() => bench.pci.save()).toThrow(expect.objectContaining({ code: 'NICBOX_BUSY' }));
    const saved = saveOf(busy());
    const running = busy();
    expect(() => running.pci.restore(saved.pci)).toThrow(expect.objectContaining({ code: 'NICBOX_BUSY' }));
    expect(running.backend.running()).toEqual([0, 1, 2, 3]);
  });

  it('can be restored over a hand-over target', () => {
    const saved = saveOf(busy());
    const target = fresh();
    const other = new RecordingBackend('other');
    target.net.handOver(other);
    target.bytes.set(saved.ram);
    target.fabric.restore(saved.fabric as never);
    target.pci.restore(saved.pci);
    target.net.resume();
    expect(other.running()).toEqual([0, 1, 2, 3]);
  });
});

type Mutable = Record<string, never>;
const path = (root: unknown, ...keys: (string | number)[]): Mutable => keys.reduce((at, key) => (at as Record<string, unknown>)[key] as never, root) as Mutable;

describe('made-up state is refused, and nothing changes', () => {
  const control = ['state', 'control'] as const;
  const net = [...control, 'device', 'state'] as const;
  const cases: [string, (saved: unknown) => void][] = [
    ['another part', (s) => Object.assign(s as object, { part: 'e1000' })],
    ['another version', (s) => Object.assign(s as object, { version: 99 })],
    ['no state', (s) => Object.assign(s as object, { state: null })],
    ['other offered features', (s) => Object.assign(path(s, ...control), { offered: [0, 1, 0, 0] })],
    ['negotiated what is not offered', (s) => Object.assign(path(s, ...control), { negotiated: [0, 1, 0, 1] })],
    ['negotiated without VERSION_1', (s) => Object.assign(path(s, ...control), { negotiated: [1, 0, 0, 0] })],
    ['negotiated a bit without its need', (s) => Object.assign(path(s, ...control), { negotiated: [1 << 11, 1, 0, 0] })],
    ['negotiated words that are no words', (s) => Object.assign(path(s, ...control), { negotiated: [Number.NaN, 1, 0, 0] })],
    ['DRIVER_OK without FEATURES_OK', (s) => Object.assign(path(s, ...control), { status: 7 })],
    ['negotiated without FEATURES_OK', (s) => Object.assign(path(s, ...control), { status: 3 })],
    ['an unknown status bit', (s) => Object.assign(path(s, ...control), { status: 31 })],
    ['a status out of range', (s) => Object.assign(path(s, ...control), { status: 1000 })],
    ['too few queues', (s) => (path(s, ...control, 'queues') as unknown as unknown[]).pop()],
    ['a queue size of 0', (s) => Object.assign(path(s, ...control, 'queues', 0), { size: 0 })],
    ['a queue size that is no power of two', (s) => Object.assign(path(s, ...control, 'queues', 0), { size: 100 })],
    ['a queue size above the maximum', (s) => Object.assign(path(s, ...control, 'queues', 4), { size: 128 })],
    ['a queue address too wide', (s) => Object.assign(path(s, ...control, 'queues', 1), { addresses: [2 ** 32, 0, 0, 0, 0, 0] })],
    ['a queue with five address words', (s) => Object.assign(path(s, ...control, 'queues', 1), { addresses: [0, 0, 0, 0, 0] })],
    ['enable that is no boolean', (s) => Object.assign(path(s, ...control, 'queues', 1), { enabled: 1 })],
    ['a generation of 256', (s) => Object.assign(path(s, ...control), { generation: 256 })],
    ['a vector past the table', (s) => Object.assign(path(s, 'state', 'interrupts'), { configVector: 6 })],
    ['a queue vector past the table', (s) => Object.assign(path(s, 'state', 'interrupts', 'queueVectors'), { 0: 0x7ff })],
    ['too many queue vectors', (s) => (path(s, 'state', 'interrupts', 'queueVectors') as unknown as number[]).push(0)],
    ['ISR bits that do not exist', (s) => Object.assign(path(s, 'state', 'interrupts'), { isr: 4 })],
    ['a selector too wide', (s) => Object.assign(path(s, 'state', 'selectors'), { queue: 0x10000 })],
    ['the device of another kind', (s) => Object.assign(path(s, ...control, 'device'), { part: 'virtio-blk' })],
    ['no device', (s) => Object.assign(path(s, ...control), { device: undefined })],
    ['another permanent MAC', (s) => Object.assign(path(s, ...net), { permanentMac: new Uint8Array(6) })],
    ['a MAC of seven bytes', (s) => Object.assign(path(s, ...net), { mac: new Uint8Array(7) })],
    ['a ring position too wide', (s) => Object.assign(path(s, ...net, 'positions'), { 0: { available: 0x10000, used: 0 } })],
    ['a ring position that is no number', (s) => Object.assign(path(s, ...net, 'positions'), { 0: { available: '1', used: 0 } })],
    ['a ring too many', (s) => (path(s, ...net, 'positions') as unknown as unknown[]).push(null)],
    ['more pairs than there are', (s) => Object.assign(path(s, ...net, 'receive'), { pairs: 3 })],
    ['no pair', (s) => Object.assign(path(s, ...net, 'receive'), { pairs: 0 })],
    ['a VLAN table of the wrong size', (s) => Object.assign(path(s, ...net, 'receive'), { vlans: new Uint32Array(1) })],
    ['an address table without end', (s) => Object.assign(path(s, ...net, 'receive'), { tables: new Array(1000).fill(new Uint8Array(6)) })],
    ['modes that do not exist', (s) => Object.assign(path(s, ...net, 'receive'), { modes: p.POLICY_ACTIVE })],
    ['no steering state', (s) => Object.assign(path(s, ...net), { steering: undefined })],
    ['hash types that do not exist', (s) => Object.assign(path(s, ...net, 'steering', 'rss'), { types: 0x200 })],
    ['a hash key too long', (s) => Object.assign(path(s, ...net, 'steering', 'hash'), { key: new Uint8Array(41) })],
    ['hash types without a key', (s) => Object.assign(path(s, ...net, 'steering', 'hash'), { key: new Uint8Array(0) })],
    ['an indirection table of no entries (32a90850e1)', (s) => Object.assign(path(s, ...net, 'steering', 'rss'), { table: new Uint16Array(0) })],
    ['an indirection table of three entries', (s) => Object.assign(path(s, ...net, 'steering', 'rss'), { table: new Uint16Array(3) })],
    ['an indirection table too long', (s) => Object.assign(path(s, ...net, 'steering', 'rss'), { table: new Uint16Array(256) })],
    ['an indirection table of bytes', (s) => Object.assign(path(s, ...net, 'steering', 'rss'), { table: new Uint8Array(2) })],
    ['an entry beyond the pairs', (s) => Object.assign(path(s, ...net, 'steering', 'rss'), { table: Uint16Array.of(0, 2) })],
    ['an unclassified queue beyond the pairs', (s) => Object.assign(path(s, ...net, 'steering', 'rss'), { unclassified: 2 })],
    ['max_tx_vq of 0', (s) => Object.assign(path(s, ...net, 'steering', 'rss'), { maxTxVq: 0 })],
    ['RSS with no hash parameters', (s) => Object.assign(path(s, ...net, 'steering'), { hash: null })],
    ['tunnel types that do not exist', (s) => Object.assign(path(s, ...net, 'steering'), { tunnels: 0x200 })],
    ['an RSS context beyond the last', (s) => Object.assign(path(s, ...net, 'steering', 'contexts', 0), { id: 17 })],
    ['an RSS context 0', (s) => Object.assign(path(s, ...net, 'steering', 'contexts', 0), { id: 0 })],
    ['an RSS context twice', (s) => (path(s, ...net, 'steering', 'contexts') as unknown as unknown[]).push(path(s, ...net, 'steering', 'contexts', 0))],
    ['steering state of features that were not negotiated', (s) => Object.assign(path(s, ...control), { negotiated: [1 << 17, 1, 0, 0] })],
    ['offloads that were not negotiated', (s) => Object.assign(path(s, ...net, 'receive'), { offloads: [1 << 11, 0, 0, 0] })],
  ];

  it.each(cases)('%s', (_, spoil) => {
    const { pci: saved } = saveOf(busy());
    spoil(saved);
    const target = fresh();
    target.net.pause();
    const before = target.pci.save();
    expect(() => target.pci.restore(saved)).toThrow(RestoreError);
    expect(target.pci.save()).toEqual(before);
  });

  it('nothing at all, or anything else', () => {
    const target = fresh();
    for (const junk of [undefined, null, 0, 'x', [], {}, { part: 'virtio-pci', version: 1, state: {} }])
      expect(() => target.pci.restore(junk)).toThrow(RestoreError);
  });
});
