// Control commands made up of anything, in any slicing: a refused command has changed nothing, an answered one wrote its ack, and the queue goes on (virtio 1.4 5.1.9.5, 2.7.4.1).
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FeatureSet } from '#virtio/features';
import { CONFIG, NEEDS_RESET, STATUS } from '../virtio-pci/bench.ts';
import { ControlBench, ERR, OK, u32 } from './control-bench.ts';

const MAC = fc.array(fc.integer({ min: 0, max: 255 }), { minLength: 6, maxLength: 6 });
const byte = fc.integer({ min: 0, max: 255 });
/** Commands that are nearly right, cut short or lengthened, and plain noise. */
const shaped = fc.oneof(
  fc.tuple(fc.constant(0), fc.integer({ min: 0, max: 7 }), byte),
  fc.tuple(fc.constant(2), fc.integer({ min: 0, max: 2 }), byte, byte),
  fc.tuple(fc.constant(3), fc.integer({ min: 0, max: 1 })),
  fc.tuple(fc.constant(4), fc.constant(0), fc.integer({ min: 0, max: 4 }), fc.integer({ min: 0, max: 1 })),
  MAC.map((mac) => [1, 1, ...mac]),
  fc
    .tuple(fc.array(MAC, { maxLength: 4 }), fc.array(MAC, { maxLength: 4 }))
    .map(([a, z]) => [1, 0, ...u32(a.length), ...a.flat(), ...u32(z.length), ...z.flat()]),
  fc.array(byte, { minLength: 8, maxLength: 8 }).map((mask) => [5, 0, ...mask]),
  fc.array(byte, { maxLength: 40 }),
);
const command = fc
  .tuple(shaped, fc.constantFrom(0, 0, 0, -3, -1, 1, 5), fc.array(byte, { minLength: 5, maxLength: 5 }))
  .map(([bytes, change, more]) => (change < 0 ? bytes.slice(0, Math.max(0, bytes.length + change)) : [...bytes, ...more.slice(0, change)]));
const slices = fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 8 });
const writable = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 4 });

/** All a command could change: the policy words but their generation, configuration space, and what would be saved. */
function stateOf(bench: ControlBench): string {
  const words = [...new Int32Array(bench.net.policy.buffer).slice(1)];
  const config = Array.from({ length: bench.net.configSize }, (_, i) => bench.read(CONFIG + i, 1));
  return JSON.stringify([words, config, bench.net.announcing, bench.get(STATUS, 1)]);
}

describe('control commands', () => {
  it.each([false, true])('change nothing when refused, whatever they are (packed: %s)', (packed) => {
    const options = { net: { queuePairs: 3, mtu: 1500 } };
    const features = packed ? {} : { features: new ControlBench(options).offered().without(FeatureSet.of(34, 35)) };
    const bench = new ControlBench({ ...options, ...features, packed });
    const acks = { [OK]: 0, [ERR]: 0 };
    fc.assert(
      fc.property(command, slices, writable, fc.boolean(), (bytes, cuts, room, indirect) => {
        const before = stateOf(bench);
        const { ack, used } = bench.command(bytes, { slices: cuts, writable: room, indirect });
        expect(used).toBe(1);
        expect([OK, ERR]).toContain(ack);
        acks[ack as 0 | 1]++;
        if (ack === ERR) expect(stateOf(bench)).toBe(before);
        expect(bench.status & NEEDS_RESET).toBe(0);
      }),
      { numRuns: 400 },
    );
    // Both kinds were met, or the test is about nothing.
    expect(Math.min(acks[OK], acks[ERR])).toBeGreaterThan(20);
  });
});
