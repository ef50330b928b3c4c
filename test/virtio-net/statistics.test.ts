// Device statistics (virtio 1.4 5.1.9.5.11) by the control queue: which types there are, the shape of replies, what is refused.
import { describe, expect, it } from 'vitest';
import { RestoreError } from '#core/saved';
import { FeatureSet } from '#virtio/features';
import * as count from '#virtio/net-statistics';
import { ControlBench, ERR, OK, u16, u32 } from './control-bench.ts';

const two = { net: { queuePairs: 2 } } as const;
const CVQ = 4;
const RX = 0xf;
const TX = 0xf0000;

const request = (queue: number, low: number, high = 0, reserved = 0): number[] => [...u16(queue), ...u16(reserved), 0, 0, 0, 0, ...u32(low), ...u32(high)];

interface Reply {
  readonly type: number;
  readonly queue: number;
  readonly size: number;
  readonly counters: number[];
}

function ask(bench: ControlBench, bytes: readonly number[], writable: readonly number[] = [1, 1024]): { ack: number; used: number; result: DataView } {
  const at = bench.post(bytes, { writable });
  bench.kickControl();
  const used = bench.driver.reap()[0]?.length ?? -1;
  return { ack: bench.bytes[at] as number, used, result: new DataView(bench.ram, at + 1, Math.max(0, used - 1)) };
}

function get(bench: ControlBench, ...requests: number[][]): Reply[] {
  const { ack, result } = ask(bench, [8, 1, ...requests.flat()]);
  expect(ack).toBe(OK);
  const replies: Reply[] = [];
  for (let at = 0; at < result.byteLength; ) {
    const size = result.getUint16(at + 6, true);
    const counters = [];
    for (let i = 8; i < size; i += 8) counters.push(Number(result.getBigUint64(at + i, true)));
    replies.push({ type: result.getUint8(at), queue: result.getUint16(at + 2, true), size, counters });
    expect([result.getUint8(at + 1), result.getUint16(at + 4, true)]).toEqual([0, 0]);
    at += size;
  }
  return replies;
}

/** What a data plane might have counted: no more special cases than frames. */
const value = (counter: number, queue: number): number => 1000 * 2 ** (16 - counter) + queue;

function counted(bench: ControlBench): void {
  const statistics = bench.backend.session?.statistics;
  if (statistics === undefined) throw new Error('the data plane was given nothing to count in');
  for (let queue = 0; queue < 4; queue++) {
    for (let counter = 1; counter < count.COUNT_OWN_LOOKS; counter++) statistics.add(queue, counter, value(counter, queue));
    // The device's own look at each new ring arrives there as a notification.
    statistics.add(queue, count.COUNT_NOTIFICATIONS, statistics.get(queue, count.COUNT_OWN_LOOKS) + 40 + queue);
  }
}

describe('QUERY', () => {
  it('names every type', () => {
    const { ack, used, result } = ask(new ControlBench(two), [8, 0]);
    expect([ack, used]).toEqual([OK, 9]);
    expect([result.getUint32(0, true), result.getUint32(4, true)]).toEqual([RX | TX, 1]);
  });

  it('answers as much as there is room for', () => {
    const bench = new ControlBench(two);
    expect(ask(bench, [8, 0], [1, 2, 2])).toMatchObject({ ack: OK, used: 5 });
    expect(ask(bench, [8, 0], [1])).toMatchObject({ ack: OK, used: 1 });
  });
});

describe('GET', () => {
  it('gives each type of a queue, in order of type, with its size and queue', () => {
    const bench = new ControlBench(two);
    counted(bench);
    const c = value;
    expect(get(bench, request(2, RX, 0, 0xffff), request(1, TX))).toEqual([
      { type: 0, queue: 2, size: 56, counters: [42, c(2, 2), c(3, 2), c(1, 2), c(4, 2), c(5, 2)] },
      { type: 1, queue: 2, size: 40, counters: [c(7, 2), c(6, 2), c(2, 2) - c(7, 2) - c(6, 2), 0] },
      { type: 2, queue: 2, size: 40, counters: [c(8, 2), c(9, 2), c(10, 2), c(11, 2)] },
      { type: 3, queue: 2, size: 24, counters: [0, 0] },
      { type: 16, queue: 1, size: 56, counters: [41, c(2, 1) - c(10, 1) + c(12, 1), c(3, 1) - c(11, 1) + c(13, 1), c(1, 1), c(4, 1), c(5, 1)] },
      { type: 17, queue: 1, size: 24, counters: [c(2, 1) - c(6, 1), c(6, 1)] },
      { type: 18, queue: 1, size: 56, counters: [c(8, 1), c(9, 1), c(12, 1), c(13, 1), c(8, 1) - c(10, 1), c(9, 1) - c(11, 1)] },
      { type: 19, queue: 1, size: 24, counters: [0, 0] },
    ]);
  });

  it('counts control commands, the one under way too', () => {
    const bench = new ControlBench(two);
    bench.command([0, 0, 1]);
    bench.command([0, 99, 1]);
    expect(get(bench, request(CVQ, 0, 1))).toEqual([{ type: 32, queue: CVQ, size: 24, counters: [3, 2] }]);
    expect(get(bench, request(CVQ, 0, 1))[0]?.counters).toEqual([4, 3]);
  });

  it('fills the reply up to its end and no further, however it is sliced', () => {
    const bench = new ControlBench(two);
    counted(bench);
    const whole = ask(bench, [8, 1, ...request(0, 1), ...request(2, 1)]);
    expect(whole.used).toBe(1 + 112);
    const bytes = [...new Uint8Array(whole.result.buffer, whole.result.byteOffset, 112)];
    for (const writable of [
      [1, 112],
      [1, 3, 60, 49],
      [2, 111],
      [1, 70],
      [1, 9],
      [1, 3],
    ]) {
      const { ack, used, result } = ask(bench, [8, 1, ...request(0, 1), ...request(2, 1)], writable);
      const room = writable.reduce((a, b) => a + b, 0);
      expect([ack, used]).toEqual([OK, Math.min(113, room)]);
      expect([...new Uint8Array(result.buffer, result.byteOffset, used - 1)]).toEqual(bytes.slice(0, used - 1));
    }
  });

  it('a whole command of requests costs no more than the reply holds', () => {
    const bench = new ControlBench(two);
    const many = Array.from({ length: 4000 }, () => request(0, RX)).flat();
    const { ack, used } = ask(bench, [8, 1, ...many], [1, 1000]);
    expect([ack, used]).toEqual([OK, 1001]);
  });

  it.each([
    ['a queue past the control queue', request(5, 1)],
    ['queue 65535', request(0xffff, 1)],
    ['an unknown type', request(0, 1 << 4)],
    ['an unknown type of the high half', request(CVQ, 0, 2)],
    ['types of transmission for a receive queue', request(0, 1 << 16)],
    ['types of reception for a transmit queue', request(1, 1)],
    ['the control queue type for a data queue', request(0, 1, 1)],
    ['data queue types for the control queue', request(CVQ, 1, 1)],
    ['half a request', request(0, 1).slice(0, 8)],
    ['a request and a byte', [...request(0, 1), 0]],
    ['no request', []],
  ])('fails as a whole for %s', (_what, bytes) => {
    const bench = new ControlBench(two);
    expect(ask(bench, [8, 1, ...bytes])).toMatchObject({ ack: ERR, used: 1 });
    expect(ask(bench, [8, 1, ...request(0, 1), ...bytes]).ack).toBe(bytes.length === 0 ? OK : ERR);
  });

  it.each([
    ['GUEST_CSUM', [1, 7, 8, 9, 10, 54, 55, 61, 65, 66], request(0, 2)],
    ['a GUEST_TSO', [7, 8, 9, 61, 65, 66], request(0, 4)],
    ['CSUM', [0, 11, 12, 13, 14, 56, 67, 68], request(1, 1 << 17)],
    ['a HOST_TSO or USO', [11, 12, 13, 56, 61, 67, 68], request(1, 1 << 18)],
  ])('fails for a type that needs %s', (_what, bits, bytes) => {
    const offered = new ControlBench(two).offered();
    const bench = new ControlBench({ ...two, features: offered.without(FeatureSet.of(34, 35, ...bits)) });
    expect(ask(bench, [8, 1, ...bytes]).ack).toBe(ERR);
    expect(ask(bench, [8, 1, ...request(0, 9), ...request(1, 0x90000)]).ack).toBe(OK);
  });

  it('fails without the feature, as does an unknown command with it', () => {
    const offered = new ControlBench(two).offered();
    const bench = new ControlBench({ ...two, features: offered.without(FeatureSet.of(34, 35, 50)) });
    expect([ask(bench, [8, 0]).ack, ask(bench, [8, 1, ...request(0, 1)]).ack]).toEqual([ERR, ERR]);
    expect(ask(new ControlBench(two), [8, 2]).ack).toBe(ERR);
  });
});

describe('a life', () => {
  const restored = (
    change: (statistics: { queues: unknown; commands: unknown; succeeded: unknown }) => void,
  ): { bench: ControlBench; target: ControlBench; restore: () => void } => {
    const bench = new ControlBench(two);
    counted(bench);
    bench.command([0, 0, 1]);
    bench.net.pause();
    const saved = structuredClone({ pci: bench.pci.save(), fabric: bench.fabric.save() });
    const state = (saved.pci as unknown as { state: { transport: { device: { state: { statistics: never } } } } }).state;
    change(find(state, 'statistics') as never);
    const target = new ControlBench(two);
    target.status = 0;
    target.bytes.set(bench.bytes);
    target.fabric.restore(saved.fabric as never);
    return { bench, target, restore: () => target.pci.restore(saved.pci) };
  };

  it('goes on over save and restore, without the looks of the device itself', () => {
    const { target, restore } = restored(() => {});
    restore();
    target.net.resume();
    const statistics = target.backend.session?.statistics;
    expect([0, 1, 2, 3].map((queue) => statistics?.notifications(queue))).toEqual([39, 40, 41, 42]);
    expect(statistics?.get(3, count.COUNT_BYTES)).toBe(value(count.COUNT_BYTES, 3));
  });

  it.each<[string, (statistics: { queues: unknown; commands: unknown; succeeded: unknown }) => void]>([
    ['of another size', (s) => (s.queues = new Float64Array(3))],
    ['that are no numbers', (s) => (s.queues = [])],
    ['below zero', (s) => ((s.queues as Float64Array)[3] = -1)],
    ['not whole', (s) => ((s.queues as Float64Array)[3] = 0.5)],
    ['not finite', (s) => ((s.queues as Float64Array)[3] = Number.NaN)],
    ['of commands that are no count', (s) => (s.commands = -1)],
  ])('refuses saved statistics %s', (_what, change) => {
    const { restore } = restored(change);
    expect(restore).toThrow(RestoreError);
  });

  it('a reset clears all of it', () => {
    const bench = new ControlBench(two);
    counted(bench);
    const statistics = bench.backend.session?.statistics;
    bench.status = 0;
    expect(statistics?.save().every((word) => word === 0)).toBe(true);
  });
});

/** The value of the first property of that name, wherever it is. */
function find(value: unknown, name: string): unknown {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return undefined;
  for (const [key, inner] of Object.entries(value)) {
    if (key === name) return inner;
    const found = find(inner, name);
    if (found !== undefined) return found;
  }
  return undefined;
}
