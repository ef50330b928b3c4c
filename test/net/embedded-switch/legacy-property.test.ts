// Random settings, changed as frames pass, through the switch in legacy mode and through a plain reading of what they mean (legacy-reference.ts).

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { EmbeddedSwitchError } from '#net/embedded-switch/errors';
import { DEFAULT_SETTINGS, type PortSettings } from '#net/embedded-switch/port-settings';
import { ethernet } from '../frames.ts';
import { type LegacyOptions, LegacyReference } from './legacy-reference.ts';
import { bytesOf, rig } from './rig.ts';

const PORTS = ['uplink0', 'pf', 'vf0', 'vf1', 'vf2'];
const one = <T>(...values: T[]): fc.Arbitrary<T> => fc.constantFrom(...values);
const STATIONS = ['02:00:00:00:00:01', '02:00:00:00:00:02', '02:00:00:00:00:03', '02:00:00:00:00:04'];
const GROUPS = ['01:00:5e:00:00:01', '33:33:00:00:00:01'];

const options: fc.Arbitrary<LegacyOptions> = fc.record({
  bridge: one('veb', 'veb', 'vepa'),
  learning: fc.boolean(),
  multicast: one('filter', 'filter', 'flood'),
});
const change: fc.Arbitrary<Partial<PortSettings>> = fc.record(
  {
    mac: one(...STATIONS, undefined),
    addresses: fc.uniqueArray(one(...STATIONS), { maxLength: 1 }),
    multicast: fc.uniqueArray(one(...GROUPS), { maxLength: 2 }),
    vlan: one<PortSettings['vlan']>(undefined, undefined, { id: 5 }, { id: 6, priority: 3 }, { id: 5, protocol: '802.1ad' }),
    vlans: one<PortSettings['vlans']>('all', [], [5], [5, 6]),
    spoofCheck: fc.boolean(),
    vlanSpoofCheck: fc.boolean(),
    trust: fc.boolean(),
    promiscuous: fc.boolean(),
    allMulticast: fc.boolean(),
    link: one('auto', 'auto', 'enable', 'disable'),
    hairpin: one(false, false, true),
    learning: fc.boolean(),
  },
  { requiredKeys: [] },
);
const uplinkChange: fc.Arbitrary<Partial<PortSettings>> = fc.record(
  { vlans: one<PortSettings['vlans']>('all', [5], [5, 6]), link: one('auto', 'auto', 'disable'), hairpin: fc.boolean(), learning: fc.boolean() },
  { requiredKeys: [] },
);
const step = fc.oneof(
  { weight: 1, arbitrary: one(...PORTS).chain((port) => fc.record({ port: fc.constant(port), change: port === 'uplink0' ? uplinkChange : change })) },
  {
    weight: 3,
    arbitrary: fc
      .record({
        port: one(...PORTS),
        to: one(...STATIONS, ...GROUPS, 'ff:ff:ff:ff:ff:ff', '01:80:c2:00:00:0e'),
        from: one(...STATIONS, GROUPS[0] as string),
        vlans: one<number[]>([], [], [5], [6], [7], [0x6000], [5, 6], [0, 6]),
      })
      .map(({ port, to, from, vlans }) => ({ port, frame: ethernet(0x88b5, [1, 2, 3], { to: bytesOf(to), from: bytesOf(from), vlans }) })),
  },
);

describe('legacy mode', () => {
  it('does what its settings say', () => {
    let delivered = 0;
    let dropped = 0;
    fc.assert(
      fc.property(options, fc.array(step, { minLength: 20, maxLength: 60 }), (chosen, steps) => {
        const made = rig(chosen);
        const reference = new LegacyReference(PORTS, DEFAULT_SETTINGS, chosen);
        for (const one of steps) {
          if ('frame' in one) {
            // Twice: the second time its way may be known.
            for (let time = 0; time < 2; time++) {
              const expected = reference.send(one.port, one.frame);
              const arrived = made.send(one.port, one.frame);
              expect(Object.fromEntries(Object.entries(arrived).map(([port, list]) => [port, list.map((bytes) => [...bytes])]))).toEqual(
                Object.fromEntries([...expected].map(([port, bytes]) => [port, [bytes]])),
              );
              delivered += expected.size;
              if (expected.size === 0) dropped++;
            }
            continue;
          }
          try {
            made.nic.configurePort(one.port, one.change);
            reference.configure(one.port, one.change);
          } catch (error) {
            // Two ports of one address in one VLAN: refused, and nothing has changed.
            if (!(error instanceof EmbeddedSwitchError && error.code === 'address-in-use')) throw error;
          }
        }
        for (const port of PORTS) {
          const { frames, forwarded, dropped: lost } = made.nic.portStatistics(port);
          expect(frames).toBe(forwarded + lost);
        }
      }),
      { numRuns: 200 },
    );
    expect(delivered).toBeGreaterThan(1500);
    expect(dropped).toBeGreaterThan(300);
  });
});
