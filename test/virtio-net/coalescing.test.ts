// Notification coalescing by the control queue (virtio 1.4 5.1.9.5.10): what each command sets, what is refused, and what survives.
import { describe, expect, it } from 'vitest';
import { FeatureSet } from '#virtio/features';
import { QUEUE_ENABLE, QUEUE_RESET, QUEUE_SELECT } from '../virtio-pci/bench.ts';
import { ControlBench, ERR, OK, u16, u32 } from './control-bench.ts';

const NOTF_COAL = 53;
const VQ_NOTF_COAL = 52;
const two = { net: { queuePairs: 2 } } as const;

const txSet = (packets: number, usecs: number): number[] => [6, 0, ...u32(packets), ...u32(usecs)];
const rxSet = (packets: number, usecs: number): number[] => [6, 1, ...u32(packets), ...u32(usecs)];
const vqSet = (queue: number, packets: number, usecs: number, reserved = 0): number[] => [
  6,
  2,
  ...u16(queue),
  ...u16(reserved),
  ...u32(packets),
  ...u32(usecs),
];
const inForce = (bench: ControlBench): number[][] => [0, 1, 2, 3].map((i) => [bench.net.policy.maxPackets(i), bench.net.policy.maxUsecs(i)]);

/** VQ_GET: what is answered behind the ack. */
function get(bench: ControlBench, queue: number, writable: readonly number[] = [9]): { ack: number; used: number; values: number[] } {
  const at = bench.post([6, 3, ...u16(queue), ...u16(0xbeef)], { writable });
  bench.kickControl();
  const used = bench.driver.reap()[0]?.length ?? -1;
  const view = new DataView(bench.ram);
  return { ack: view.getUint8(at), used, values: [view.getUint32(at + 1, true), view.getUint32(at + 5, true)] };
}

function without(...bits: number[]): ControlBench {
  const offered = new ControlBench(two).offered();
  return new ControlBench({ ...two, features: offered.without(FeatureSet.of(34, 35, ...bits)) });
}

describe('coalescing commands', () => {
  it('follow the specification: the last command for a queue counts, whichever it was', () => {
    const bench = new ControlBench(two);
    expect(inForce(bench)).toEqual([
      [0, 0],
      [0, 0],
      [0, 0],
      [0, 0],
    ]);
    const { policyChanges } = bench.backend;
    expect(bench.command(rxSet(15, 10))).toEqual({ ack: OK, used: 1 });
    expect(bench.backend.policyChanges).toBeGreaterThan(policyChanges);
    expect(inForce(bench)).toEqual([
      [15, 10],
      [0, 0],
      [15, 10],
      [0, 0],
    ]);
    expect(bench.command(vqSet(0, 7, 8, 0xffff)).ack).toBe(OK);
    expect(inForce(bench)).toEqual([
      [7, 8],
      [0, 0],
      [15, 10],
      [0, 0],
    ]);
    expect(get(bench, 0)).toEqual({ ack: OK, used: 9, values: [7, 8] });
    expect(bench.command(vqSet(1, 3, 4)).ack).toBe(OK);
    expect(inForce(bench)).toEqual([
      [7, 8],
      [3, 4],
      [15, 10],
      [0, 0],
    ]);
    expect(bench.command(txSet(0xffffffff, 0xfffffffe)).ack).toBe(OK);
    expect(get(bench, 1).values).toEqual([0xffffffff, 0xfffffffe]);
    expect(inForce(bench)[3]).toEqual([0xffffffff, 0xfffffffe]);
  });

  it.each([
    ['one piece', {}],
    ['single bytes', { slices: [1, 1, 1, 1, 1, 1, 1, 1, 1] }],
    ['an indirect table', { slices: [2], indirect: true }],
  ])('are read from %s', (_what, options) => {
    const bench = new ControlBench(two);
    expect(bench.command(rxSet(0x01020304, 0x05060708), options).ack).toBe(OK);
    expect(inForce(bench)[0]).toEqual([0x01020304, 0x05060708]);
  });

  it('answer in any slicing of the reply, and only as much as there is room for', () => {
    const bench = new ControlBench(two);
    bench.command(rxSet(0x01020304, 0x05060708));
    expect(get(bench, 0, [1, 3, 5])).toEqual({ ack: OK, used: 9, values: [0x01020304, 0x05060708] });
    expect(get(bench, 0, [1, 4])).toMatchObject({ ack: OK, used: 5 });
    expect(get(bench, 0, [1])).toMatchObject({ ack: OK, used: 1 });
  });

  it.each([
    ['a queue that does not exist', vqSet(77, 1, 1)],
    ['the control queue', vqSet(4, 1, 1)],
    ['queue 65535', vqSet(0xffff, 1, 1)],
    ['too few bytes', vqSet(0, 1, 1).slice(0, -1)],
    ['too few bytes for all', rxSet(1, 1).slice(0, -1)],
    ['none', [6, 0]],
    ['an unknown command', [6, 4, 0, 0, 0, 0]],
  ])('fail for %s, with nothing changed', (_what, bytes) => {
    const bench = new ControlBench(two);
    bench.command(rxSet(15, 10));
    const before = inForce(bench);
    expect(bench.command(bytes)).toEqual({ ack: ERR, used: 1 });
    expect(inForce(bench)).toEqual(before);
  });

  it('fail for a queue that is not enabled (device MUST)', () => {
    const bench = new ControlBench({ ...two, queues: [0, 1, 4] });
    expect(bench.command(vqSet(2, 1, 1)).ack).toBe(ERR);
    expect(get(bench, 2)).toMatchObject({ ack: ERR, used: 1 });
    expect(bench.command(vqSet(1, 1, 1)).ack).toBe(OK);
  });

  it('fail without their features, each with its own', () => {
    const whole = without(VQ_NOTF_COAL);
    expect([whole.command(rxSet(1, 1)).ack, whole.command(vqSet(0, 1, 1)).ack, get(whole, 0).ack]).toEqual([OK, ERR, ERR]);
    const single = without(NOTF_COAL);
    expect([single.command(rxSet(1, 1)).ack, single.command(txSet(1, 1)).ack, single.command(vqSet(0, 1, 1)).ack]).toEqual([ERR, ERR, OK]);
  });

  it('a queue that is enabled again goes by what was set for all, or by 0', () => {
    const bench = new ControlBench(two);
    const restart = (queue: number): void => {
      bench.set(QUEUE_SELECT, 2, queue);
      bench.set(QUEUE_RESET, 2, 1);
      if (bench.get(QUEUE_RESET, 2) !== 0 || bench.get(QUEUE_ENABLE, 2) !== 0) throw new Error('queue reset is not over');
      bench.setUpQueue(queue);
    };
    bench.command(rxSet(15, 10));
    bench.command(vqSet(0, 1, 2));
    bench.command(vqSet(1, 3, 4));
    restart(0);
    restart(1);
    expect(inForce(bench)).toEqual([
      [15, 10],
      [0, 0],
      [15, 10],
      [0, 0],
    ]);
    expect(get(bench, 0).values).toEqual([15, 10]);
  });

  it('are forgotten by a reset, all of them (device MUST)', () => {
    const bench = new ControlBench(two);
    bench.command(rxSet(15, 10));
    bench.command(txSet(15, 10));
    bench.command(vqSet(3, 1, 2));
    bench.status = 0;
    expect(inForce(bench)).toEqual([
      [0, 0],
      [0, 0],
      [0, 0],
      [0, 0],
    ]);
  });

  it('come back with saved state', () => {
    const bench = new ControlBench(two);
    bench.command(rxSet(15, 10));
    bench.command(vqSet(3, 1, 2));
    bench.net.pause();
    const saved = structuredClone({ pci: bench.pci.save(), fabric: bench.fabric.save() });
    const target = new ControlBench(two);
    target.status = 0;
    target.bytes.set(bench.bytes);
    target.fabric.restore(saved.fabric as never);
    target.pci.restore(saved.pci);
    target.net.resume();
    expect(inForce(target)).toEqual([
      [15, 10],
      [0, 0],
      [15, 10],
      [1, 2],
    ]);
  });
});
