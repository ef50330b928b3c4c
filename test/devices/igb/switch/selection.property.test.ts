// The embedded switch against the model, over arbitrary registers and frames.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { SPOOFED, TO_WIRE, WIRE } from '#devices/igb/pools';
import { AT } from '#devices/igb/registers';
import { EmbeddedSwitch } from '#devices/igb/switch/embedded-switch';
import { frameBytes, MACS, type ModelConfig, modelReceive, modelTransmit, registersOf, SINGLE } from './model.ts';

const pool = fc.integer({ min: 0, max: 7 });
const pools = fc.uniqueArray(pool, { maxLength: 4 });
const vlan = fc.constantFrom(0, 1, 100, 4095);
const often = fc.boolean();
const seldom = fc.integer({ min: 0, max: 5 }).map((n) => n === 0);
const nearlyAlways = seldom.map((no) => !no);

const config: fc.Arbitrary<ModelConfig> = fc.record({
  replication: nearlyAlways,
  ignoreMac: seldom,
  defaultPool: pool,
  noDefaultPool: often,
  unicastPromiscuous: often,
  multicastPromiscuous: often,
  broadcastAccept: often,
  offset: fc.constantFrom(0, 1, 2, 3),
  vlanFilter: often,
  vfta: fc.uniqueArray(vlan, { maxLength: 4 }),
  vlvf: fc.array(fc.record({ vlan, pools, local: seldom, valid: nearlyAlways }), { maxLength: 6 }),
  exact: fc.array(fc.record({ mac: fc.constantFrom(...MACS.slice(0, 6)), pools, bySource: seldom, valid: nearlyAlways }), { maxLength: 8 }),
  multicastHash: fc.array(fc.constantFrom(...MACS), { maxLength: 2 }),
  unicastHash: fc.array(fc.constantFrom(...MACS), { maxLength: 2 }),
  pools: fc.array(
    fc.record({
      untagged: often,
      multicastHash: often,
      unicastHash: often,
      broadcast: often,
      multicast: seldom,
      longest: fc.constantFrom(null, null, 100, 1600, 9000),
      hearsItself: seldom,
      macGuard: seldom,
      vlanGuard: seldom,
    }),
    { minLength: 8, maxLength: 8 },
  ),
  vfs: fc.integer({ min: 0, max: 8 }),
  vfre: fc.uniqueArray(pool, { maxLength: 8, minLength: 4 }),
  loopback: nearlyAlways,
  rules: fc.array(
    fc.record({
      pools: fc.option(pools),
      vlanEntries: fc.option(fc.uniqueArray(fc.integer({ min: 0, max: 5 }), { maxLength: 3 })),
      uplink: seldom,
      downlink: seldom,
      observer: pool,
    }),
    { maxLength: 4 },
  ),
});

const frame = fc.record({
  to: fc.constantFrom(...MACS),
  from: fc.constantFrom(...SINGLE),
  vlan: fc.option(vlan),
  length: fc.constantFrom(60, 60, 96, 97, 1514, 1515, 1518, 1519, 1596, 1597, 8996, 8997),
});

function listOf(mask: number): number[] {
  return [0, 1, 2, 3, 4, 5, 6, 7].filter((p) => ((mask >> p) & 1) === 1);
}

function switchOver(c: ModelConfig): EmbeddedSwitch {
  return new EmbeddedSwitch({ words: registersOf(c), now: () => 0, speed: () => 2 });
}

describe('82576 7.10.3: the switch agrees with the model', () => {
  test('on which pools a frame from the network is for', () => {
    fc.assert(
      fc.property(config, frame, (c, f) => {
        expect(listOf(switchOver(c).receive(frameBytes(f), 0, f.length, WIRE))).toEqual(modelReceive(c, f));
      }),
      { numRuns: 1000 },
    );
  });

  test('on where a frame that a pool sends goes', () => {
    fc.assert(
      fc.property(config, frame, fc.integer({ min: 0, max: 15 }), (c, f, queue) => {
        const answer = switchOver(c).transmit(frameBytes(f), 0, f.length, queue);
        const expected = modelTransmit(c, f, queue % 8);
        expect(answer === SPOOFED).toBe(expected.spoofed);
        if (expected.spoofed) return;
        expect({ pools: listOf(answer), wire: (answer & TO_WIRE) !== 0 }).toEqual({ pools: expected.pools, wire: expected.wire });
      }),
      { numRuns: 1000 },
    );
  });

  test('whatever was in the registers before, a rebuild leaves nothing of it', () => {
    fc.assert(
      fc.property(config, config, frame, (before, after, f) => {
        const words = registersOf(before);
        const reused = new EmbeddedSwitch({ words, now: () => 0, speed: () => 2 });
        reused.receive(frameBytes(f), 0, f.length, WIRE);
        words.set(registersOf(after));
        reused.rebuild();
        expect(listOf(reused.receive(frameBytes(f), 0, f.length, WIRE))).toEqual(modelReceive(after, f));
      }),
      { numRuns: 200 },
    );
  });

  test('of a stream every frame goes where a first one would, whatever came between, VFs that may no longer receive among it', () => {
    // Few streams, so that they meet again what changed between.
    const streams = fc.array(fc.record({ frame, queue: fc.integer({ min: 0, max: 15 }) }), { minLength: 1, maxLength: 2 });
    const sent = fc.record({ which: fc.nat(), vfre: fc.option(fc.uniqueArray(pool), { freq: 2 }) });
    fc.assert(
      fc.property(
        config,
        config,
        streams,
        fc.array(sent, { minLength: 2, maxLength: 12 }),
        fc.integer({ min: 0, max: 5 }),
        (before, after, of, all, changes) => {
          // Copies of one for many are stripped, others not.
          const replicated = (c: ModelConfig): Uint32Array => {
            const words = registersOf(c);
            words[AT.RPLOLR] = 0xc000_0000;
            return words;
          };
          const words = replicated(before);
          const used = new EmbeddedSwitch({ words, now: () => 0, speed: () => 2 });
          let current = before;
          for (const [i, { which, vfre }] of all.entries()) {
            const { frame: f, queue } = of[which % of.length] as (typeof of)[number];
            if (i === changes) {
              current = after;
              words.set(replicated(after));
              used.rebuild();
            }
            if (vfre !== null) {
              current = { ...current, vfre };
              words[AT.VFRE] = registersOf(current)[AT.VFRE] as number;
            }
            const expected = modelTransmit(current, f, queue % 8);
            const answer = used.transmit(frameBytes(f), 0, f.length, queue);
            expect(answer === SPOOFED).toBe(expected.spoofed);
            if (expected.spoofed) continue;
            expect({ pools: listOf(answer), wire: (answer & TO_WIRE) !== 0 }).toEqual({ pools: expected.pools, wire: expected.wire });
            // What is asked of the copies then is as after a judgement: as one for many, or not.
            const fresh = new EmbeddedSwitch({ words, now: () => 0, speed: () => 2 });
            fresh.transmit(frameBytes(f), 0, f.length, queue);
            for (const p of expected.pools) expect([used.stripsVlan(p), used.stripsCrc(p)]).toEqual([fresh.stripsVlan(p), fresh.stripsCrc(p)]);
          }
        },
      ),
      { numRuns: 300 },
    );
  });
});
