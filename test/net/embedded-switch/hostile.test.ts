// Frames as nobody would send them, with requests that make no sense: nothing throws, nothing is lost count of, and what arrives has passed the checks as it arrives.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { FlowAction } from '#net/embedded-switch/actions';
import {
  ACCEPTS_EVERYTHING,
  FRAME_NEEDS_CSUM,
  FRAME_UDP_TUNNEL_CSUM,
  GSO_ECN,
  GSO_TCPV4,
  GSO_TCPV6,
  GSO_UDP,
  GSO_UDP_L4,
  GSO_UDP_TUNNEL_IPV4,
  GSO_UDP_TUNNEL_IPV6,
} from '#net/port';
import { ethernet, ipv4, ipv6, tcp, udp } from '../frames.ts';
import type { Frame } from '../memory-port.ts';
import { bytesOf, macOf, rig } from './rig.ts';

const one = <T>(...values: T[]): fc.Arbitrary<T> => fc.constantFrom(...values);
const number = (max: number): fc.Arbitrary<number> => fc.integer({ min: 0, max });
const ADDRESSES = { to: bytesOf(macOf(1)), from: bytesOf(macOf(0)) };

const vxlan = (inner: readonly number[]): number[] => {
  const datagram = udp([8, 0, 0, 0, 0, 0, 1, 0, ...inner]);
  datagram.splice(2, 2, 0x12, 0xb5);
  return datagram;
};
const geneve = (options: number): number[] => {
  const datagram = udp([options & 63, 0, 0x65, 0x58, 0, 0, 1, 0, ...new Array<number>(200).fill(7)]);
  datagram.splice(2, 2, 6081 >> 8, 6081 & 255);
  return datagram;
};
const payload = number(2000).map((length) => new Array<number>(length).fill(0x5a));
const base = fc.oneof(
  fc.uint8Array({ minLength: 0, maxLength: 200 }).map((bytes) => [...bytes]),
  payload.map((bytes) => [...ethernet(0x0800, ipv4(6, tcp(bytes)), ADDRESSES)]),
  payload.map((bytes) => [...ethernet(0x86dd, ipv6(17, udp(bytes)), ADDRESSES)]),
  payload.map((bytes) => [...ethernet(0x0800, ipv4(17, vxlan([...ethernet(0x0800, ipv4(6, tcp(bytes)), ADDRESSES)])), ADDRESSES)]),
  number(63).map((options) => [...ethernet(0x0800, ipv4(17, geneve(options)), ADDRESSES)]),
  number(20).map((headers) => [
    ...ethernet(
      0x86dd,
      ipv6(
        6,
        tcp([1, 2, 3]),
        Array.from({ length: headers }, () => [60, 0, 1, 4, 0, 0, 0, 0]),
      ),
      ADDRESSES,
    ),
  ]),
);
const frame: fc.Arbitrary<Frame> = fc
  .record({
    bytes: base,
    flips: fc.oneof(fc.constant<[number, number][]>([]), fc.array(fc.tuple(number(120), number(255)), { maxLength: 4 })),
    cut: fc.option(number(150), { freq: 4 }),
    flags: one(0, 0, FRAME_NEEDS_CSUM, FRAME_NEEDS_CSUM, FRAME_NEEDS_CSUM | FRAME_UDP_TUNNEL_CSUM, 255),
    gsoType: fc.oneof(
      { weight: 3, arbitrary: fc.constant(0) },
      one(0, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_UDP_L4, GSO_TCPV4 | GSO_UDP_TUNNEL_IPV4, GSO_UDP_L4 | GSO_UDP_TUNNEL_IPV6, GSO_TCPV4 | GSO_ECN),
      number(255),
    ),
    gsoSize: one(0, 1, 8, 500, 65535),
    csumStart: one(0, 6, 14, 34, 54, 84, 300, 65535),
    csumOffset: one(0, 6, 16, 65535),
    outerTransport: one(0, 34, 54),
    innerNetwork: one(0, 64, 84, 65535),
    pieces: fc.array(one(1, 13, 34, 100), { maxLength: 4 }),
  })
  .map(({ bytes, flips, cut, ...rest }): Frame => {
    const made = bytes.slice(0, cut ?? bytes.length);
    for (const [at, value] of flips) if (at < made.length) made[at] = value;
    // A port never collects a frame of nothing.
    return { bytes: Uint8Array.from(made.length === 0 ? [0] : made), ...rest };
  });
const action: fc.Arbitrary<FlowAction> = one<FlowAction>(
  { kind: 'push-vlan', id: 5 },
  { kind: 'pop-vlan' },
  { kind: 'set-vlan', id: 6 },
  { kind: 'set', destinationMac: macOf(5), source: '10.1.2.3', destination: 'fd00::5', sourcePort: 1, destinationPort: 2, dscp: 3, ttl: 4 },
  { kind: 'decrement-ttl' },
  { kind: 'encapsulate', tunnel: 'four' },
  { kind: 'encapsulate', tunnel: 'six' },
  { kind: 'decapsulate' },
  { kind: 'mirror', to: 'vf2' },
  { kind: 'forward', to: 'pf' },
);

describe('hostile frames', () => {
  it('throw nothing and stay accounted for, whatever is done to them', () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(action, { maxLength: 7, selector: (made) => JSON.stringify(made) }),
        fc.array(frame, { minLength: 1, maxLength: 12 }),
        one(0, ACCEPTS_EVERYTHING),
        (actions, frames, accepts) => {
          const made = rig({ mode: 'switchdev' }, ['vf0-rep']);
          const about = { kind: 'vxlan', vni: 1, sourceMac: macOf(8), destinationMac: macOf(9), checksum: true } as const;
          made.nic.root.addTunnel('four', { ...about, source: '192.0.2.1', destination: '192.0.2.2' });
          made.nic.root.addTunnel('six', { ...about, source: 'fd00::1', destination: 'fd00::2' });
          made.nic.root.addRule({ match: { port: 'vf0' }, actions: [...actions, { kind: 'forward', to: 'vf1' }] });
          for (const name of ['vf1', 'vf2', 'pf']) made.port(name).accepts = accepts;
          made.send('vf0', ...frames);
          expect(made.port('vf0').outbox).toEqual([]);
          const { frames: looked, forwarded, dropped, drops } = made.nic.portStatistics('vf0');
          expect(looked).toBeGreaterThanOrEqual(frames.length);
          expect(forwarded + dropped).toBe(looked);
          expect(Object.values(drops).reduce((sum, count) => sum + count, 0)).toBe(dropped);
        },
      ),
      { numRuns: 500 },
    );
  });

  it('cannot be from another address than the check let through', () => {
    let arrived = 0;
    fc.assert(
      fc.property(fc.array(frame, { minLength: 1, maxLength: 12 }), one(0, ACCEPTS_EVERYTHING), (frames, accepts) => {
        const made = rig();
        made.nic.configurePort('vf0', { mac: macOf(0), spoofCheck: true, vlans: [5] });
        made.nic.configurePort('vf1', { mac: macOf(1) });
        for (const name of made.nic.ports) made.port(name).accepts = accepts;
        for (const bytes of Object.values(made.send('vf0', ...frames)).flat()) {
          arrived++;
          expect([...bytes.slice(6, 12)]).toEqual(bytesOf(macOf(0)));
          if ((bytes[12] === 0x81 && bytes[13] === 0) || (bytes[12] === 0x88 && bytes[13] === 0xa8))
            expect([0, 5]).toContain((((bytes[14] as number) & 15) << 8) | (bytes[15] as number));
        }
      }),
      { numRuns: 500 },
    );
    expect(arrived).toBeGreaterThan(200);
  });
});
