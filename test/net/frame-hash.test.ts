// Receive hashes: the published RSS verification vectors, a second implementation over frames of every kind, cut anywhere and in any pieces, and whose hash a column holds.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { viewsOf } from '#core/guest-memory';
import { FrameHasher } from '#net/frame-hash';
import { acquireHashIdentity, releaseHashIdentity } from '#net/hash-identity';
import { FrameBatch } from '#net/port';
import { appendFrame } from './memory-port.ts';
import { colons, dotted, ethernet, ip, ipv4, ipv6, transport, u16 } from './packets.ts';
import { expectedHash, MICROSOFT_KEY, toeplitz } from './toeplitz.ts';

const ALL = 0x1ff;

function hashOf(
  frame: Uint8Array,
  types = ALL,
  tunnels = 0,
  options: { key?: Uint8Array; pieces?: readonly number[]; misaligned?: number } = {},
): [number, number] {
  const hasher = new FrameHasher();
  hasher.configure({ types, tunnels, key: options.key ?? MICROSOFT_KEY });
  const batch = new FrameBatch(viewsOf(new ArrayBuffer(8)));
  appendFrame(batch, { bytes: frame, pieces: options.pieces ?? [], misaligned: options.misaligned ?? 0 });
  hasher.hash(batch, 0, 1);
  hasher.configure(undefined);
  return [(batch.hash[0] as number) >>> 0, batch.hashReport[0] as number];
}

/** The suite that comes with the definition of RSS: [destination, source, ports (destination, source), hash of addresses, hash with TCP ports]. */
const VECTORS4 = [
  ['161.142.100.80', '66.9.149.187', [1766, 2794], 0x323e8fc2, 0x51ccc178],
  ['65.69.140.83', '199.92.111.2', [4739, 14230], 0xd718262a, 0xc626b0ea],
  ['12.22.207.184', '24.19.198.95', [38024, 12898], 0xd2d0a5de, 0x5c2b394a],
  ['209.142.163.6', '38.27.205.30', [2217, 48228], 0x82989176, 0xafc7327f],
  ['202.188.127.2', '153.39.163.191', [1303, 44251], 0x5d1809c5, 0x10e828a2],
] as const;
const VECTORS6 = [
  ['3ffe:2501:200:3::1', '3ffe:2501:200:1fff::7', [1766, 2794], 0x2cc18cd5, 0x40207d3d],
  ['ff02::1', '3ffe:501:8::260:97ff:fe40:efab', [4739, 14230], 0x0f0c461c, 0xdde51bbf],
  ['fe80::200:f8ff:fe21:67cf', '3ffe:1900:4545:3:200:f8ff:fe21:67cf', [38024, 44251], 0x4b61e985, 0x02d1feef],
] as const;

describe('the published verification vectors', () => {
  it.each(VECTORS4)('IPv4 %s from %s', (to, from, [toPort, fromPort], addresses, ports) => {
    const packet = ip(ipv4(dotted(from), dotted(to), 6, transport(6, [fromPort, toPort])));
    expect(toeplitz(MICROSOFT_KEY, [...dotted(from), ...dotted(to)])).toBe(addresses);
    expect(hashOf(packet)).toEqual([ports, 2]);
    expect(hashOf(packet, 1)).toEqual([addresses, 1]);
    expect(hashOf(ip(ipv4(dotted(from), dotted(to), 17, transport(17, [fromPort, toPort]))))).toEqual([ports, 3]);
  });

  it.each(VECTORS6)('IPv6 %s from %s', (to, from, [toPort, fromPort], addresses, ports) => {
    const packet = ip(ipv6(colons(from), colons(to), 6, transport(6, [fromPort, toPort])));
    expect(hashOf(packet)).toEqual([ports, 5]);
    expect(hashOf(packet, 0x1cf)).toEqual([addresses, 4]);
    expect(hashOf(ip(ipv6(colons(from), colons(to), 17, transport(17, [fromPort, toPort]))))).toEqual([ports, 6]);
  });
});

const A = dotted('66.9.149.187');
const B = dotted('161.142.100.80');
const A6 = colons('3ffe:2501:200:1fff::7');
const B6 = colons('3ffe:2501:200:3::1');
const HOME = colons('2001:db8::77');
const ROUTED = colons('2001:db8::99');
const destinationOptions = (next: number): number[] => [next, 2, 1, 2, 0, 0, 0xc9, 16, ...HOME];
const routing2 = (next: number): number[] => [next, 2, 2, 1, 0, 0, 0, 0, ...ROUTED];

describe('which fields', () => {
  it('home address and type 2 routing header stand for source and destination in the _EX types', () => {
    const packet = ip(ipv6(A6, B6, 60, [...destinationOptions(43), ...routing2(6), ...transport(6, [1, 2])]));
    expect(hashOf(packet)).toEqual([toeplitz(MICROSOFT_KEY, [...HOME, ...ROUTED, 0, 1, 0, 2]), 8]);
    expect(hashOf(packet, 0x17f)).toEqual([toeplitz(MICROSOFT_KEY, [...HOME, ...ROUTED]), 7]);
    // No _EX type: as if there were no extension headers.
    expect(hashOf(packet, 0x3f)).toEqual([toeplitz(MICROSOFT_KEY, [...A6, ...B6, 0, 1, 0, 2]), 5]);
    expect(hashOf(packet, 0x108)).toEqual([toeplitz(MICROSOFT_KEY, [...A6, ...B6]), 4]);
    const udp = ip(ipv6(A6, B6, 0, [17, 0, 1, 4, 0, 0, 0, 0, ...transport(17, [1, 2])]));
    expect(hashOf(udp)).toEqual([toeplitz(MICROSOFT_KEY, [...A6, ...B6, 0, 1, 0, 2]), 9]);
  });

  it('a fragment is hashed by its addresses, the first like the others; an atomic one is none', () => {
    for (const fragment of [0x2000, 0x2001, 5]) expect(hashOf(ip(ipv4(A, B, 6, transport(6, [1, 2]), { fragment })))).toEqual([0x323e8fc2, 1]);
    expect(hashOf(ip(ipv4(A, B, 6, transport(6, [1, 2]), { fragment: 0x2000 })), 2)).toEqual([0, 0]);
    expect(hashOf(ip(ipv4(A, B, 6, transport(6, [2794, 1766]), { fragment: 0x4000 })))).toEqual([0x51ccc178, 2]);
    const six = (offset: number): Uint8Array => ip(ipv6(A6, B6, 44, [6, 0, ...u16(offset), 0, 0, 0, 9, ...transport(6, [1, 2])]));
    expect(hashOf(six(1))[1]).toBe(7);
    expect(hashOf(six(8))[1]).toBe(7);
    expect(hashOf(six(0))[1]).toBe(8);
  });

  it('VLAN tags are passed over, up to two', () => {
    const payload = ipv4(A, B, 6, transport(6, [2794, 1766]));
    expect(hashOf(ethernet(0x0800, payload, [[0x81, 0, 0, 5]]))).toEqual([0x51ccc178, 2]);
    expect(
      hashOf(
        ethernet(0x0800, payload, [
          [0x88, 0xa8, 0, 5],
          [0x81, 0, 0, 6],
        ]),
      ),
    ).toEqual([0x51ccc178, 2]);
    expect(
      hashOf(
        ethernet(0x0800, payload, [
          [0x88, 0xa8, 0, 5],
          [0x81, 0, 0, 6],
          [0x81, 0, 0, 7],
        ]),
      ),
    ).toEqual([0, 0]);
  });

  it('options before TCP, other protocols, what is no IP', () => {
    expect(hashOf(ip(ipv4(A, B, 6, transport(6, [2794, 1766]), { words: 9 })))).toEqual([0x51ccc178, 2]);
    expect(hashOf(ip(ipv4(A, B, 1, [8, 0, 0, 0])))).toEqual([0x323e8fc2, 1]);
    expect(hashOf(ethernet(0x0806, new Array(28).fill(1)))).toEqual([0, 0]);
    expect(hashOf(ethernet(0x86dd, ipv4(A, B, 6, transport(6, [1, 2]))))).toEqual([0, 0]);
    expect(hashOf(ip(ipv4(A, B, 6, transport(6, [1, 2]), { words: 4 })))).toEqual([0, 0]);
  });

  it('only the first forty bytes of a key count, and a short one goes on with zeros', () => {
    const packet = ip(ipv6(A6, B6, 6, transport(6, [2794, 1766])));
    expect(hashOf(packet, ALL, 0, { key: Uint8Array.from([...MICROSOFT_KEY, 1, 2, 3]) })).toEqual([0x40207d3d, 5]);
    const short = MICROSOFT_KEY.slice(0, 7);
    expect(hashOf(packet, ALL, 0, { key: short })).toEqual([toeplitz(short, [...A6, ...B6, ...u16(2794), ...u16(1766)]), 5]);
  });
});

const inner4 = ipv4(A, B, 6, transport(6, [2794, 1766]));
const inner6 = ipv6(A6, B6, 17, transport(17, [2794, 1766]));
const innerFrame = [...ethernet(0x0800, inner4)];
const OUTER = [dotted('10.0.0.1'), dotted('10.0.0.2')] as const;
const OUTER6 = [colons('fd00::1'), colons('fd00::2')] as const;
const over4 = (protocol: number, payload: readonly number[]): Uint8Array => ip(ipv4(...OUTER, protocol, payload));
const over6 = (protocol: number, payload: readonly number[]): Uint8Array => ip(ipv6(...OUTER6, protocol, payload));
const udpTo = (port: number, payload: readonly number[]): number[] => transport(17, [55555, port], payload);

/** A packet of each kind: [name, bits it matches, the frame, hash and report of what is inside]. */
const TUNNELS: [string, number, Uint8Array, [number, number]][] = [
  ['GRE', 1, over4(47, [0, 0, 8, 0, ...inner4]), [0x51ccc178, 2]],
  ['GRE with a checksum', 1, over4(47, [0x80, 0, 8, 0, 0, 0, 0, 0, ...inner4]), [0x51ccc178, 2]],
  ['GRE with a key', 2, over4(47, [0x20, 0, 8, 0, 0, 0, 0, 1, ...inner4]), [0x51ccc178, 2]],
  ['GRE with key and sequence number', 2, over4(47, [0x30, 0, 8, 0, 0, 0, 0, 1, 0, 0, 0, 2, ...inner4]), [0x51ccc178, 2]],
  ['GRE over IPv6', 4 | 1, over6(47, [0, 0, 8, 0, ...inner4]), [0x51ccc178, 2]],
  ['IPv6 in GRE', 4 | 1, over4(47, [0, 0, 0x86, 0xdd, ...inner6]), [0x40207d3d, 6]],
  ['GRE in UDP', 8, over4(17, udpTo(4754, [0, 0, 8, 0, ...inner4])), [0x51ccc178, 2]],
  ['VXLAN', 16, over4(17, udpTo(4789, [8, 0, 0, 0, 0, 0, 5, 0, ...innerFrame])), [0x51ccc178, 2]],
  ['VXLAN over IPv6', 16, over6(17, udpTo(4789, [8, 0, 0, 0, 0, 0, 5, 0, ...innerFrame])), [0x51ccc178, 2]],
  ['VXLAN-GPE with IPv4', 32, over4(17, udpTo(4790, [12, 0, 0, 1, 0, 0, 5, 0, ...inner4])), [0x51ccc178, 2]],
  ['VXLAN-GPE with IPv6', 32, over4(17, udpTo(4790, [12, 0, 0, 2, 0, 0, 5, 0, ...inner6])), [0x40207d3d, 6]],
  ['VXLAN-GPE with Ethernet', 32, over4(17, udpTo(4790, [12, 0, 0, 3, 0, 0, 5, 0, ...innerFrame])), [0x51ccc178, 2]],
  ['Geneve', 64, over4(17, udpTo(6081, [2, 0, 0x65, 0x58, 0, 0, 5, 0, 1, 2, 3, 4, 5, 6, 7, 8, ...innerFrame])), [0x51ccc178, 2]],
  ['Geneve with IPv6', 64, over6(17, udpTo(6081, [0, 0, 0x86, 0xdd, 0, 0, 5, 0, ...inner6])), [0x40207d3d, 6]],
  ['IP in IP', 128, over4(4, inner4), [0x51ccc178, 2]],
  ['NVGRE', 256 | 2, over4(47, [0x20, 0, 0x65, 0x58, 0, 0, 5, 0, ...innerFrame]), [0x51ccc178, 2]],
];

describe('inner header hash', () => {
  it.each(TUNNELS)('%s', (_, kinds, packet, inside) => {
    const outside = hashOf(packet);
    expect(outside).toEqual(expectedHash(packet, MICROSOFT_KEY, ALL));
    expect(outside).not.toEqual(inside);
    for (let bit = 0; bit < 9; bit++) expect(hashOf(packet, ALL, 1 << bit)).toEqual((kinds >> bit) & 1 ? inside : outside);
    expect(hashOf(packet, ALL, ALL)).toEqual(inside);
  });

  it('a tunnel with no IP inside has no hash; one whose outer headers do not match is hashed by those', () => {
    expect(hashOf(over4(47, [0, 0, 8, 6, ...new Array(28).fill(1)]), ALL, ALL)).toEqual([0, 0]);
    for (const packet of [
      over4(47, [0x40, 0, 8, 0, 0, 0, 0, 0, ...inner4]), // source routing
      over4(47, [0, 1, 8, 0, ...inner4]), // version 1
      over4(17, udpTo(4789, [0, 0, 0, 0, 0, 0, 5, 0, ...innerFrame])), // no valid identifier
      over4(17, udpTo(6081, [0x40, 0, 0x65, 0x58, 0, 0, 5, 0, ...innerFrame])), // version 1
      over6(4, inner4), // IP in IPv6 is not RFC 2003
      ip(ipv4(...OUTER, 47, [0, 0, 8, 0, ...inner4], { fragment: 0x2000 })),
    ])
      expect(hashOf(packet, ALL, ALL)).toEqual(expectedHash(packet, MICROSOFT_KEY, ALL));
  });

  it('only one level is looked into', () => {
    const twice = over4(4, ipv4(...OUTER, 4, inner4));
    expect(hashOf(twice, ALL, 128)).toEqual([toeplitz(MICROSOFT_KEY, [...OUTER[0], ...OUTER[1]]), 1]);
  });
});

// ---- any frame ----

const bytes = (length: number): fc.Arbitrary<number[]> => fc.array(fc.integer({ min: 0, max: 255 }), { minLength: length, maxLength: length });
const anyTransport = fc
  .record({
    protocol: fc.constantFrom(6, 17, 1, 4, 47, 50, 59),
    ports: fc.tuple(fc.integer({ min: 0, max: 65535 }), fc.constantFrom(80, 4754, 4789, 4790, 6081)),
    payload: fc.array(fc.integer({ min: 0, max: 255 }), { maxLength: 40 }),
  })
  .map(({ protocol, ports, payload }) => ({ protocol, payload: transport(protocol, ports, payload) }));
const any4 = fc
  .record({ from: bytes(4), to: bytes(4), upper: anyTransport, words: fc.integer({ min: 4, max: 15 }), fragment: fc.constantFrom(0, 0, 0, 0x4000, 0x2000, 7) })
  .map(({ from, to, upper, words, fragment }) => ipv4(from, to, upper.protocol, upper.payload, { words: Math.max(words, 5), fragment }));
const anyExtension = fc.oneof(
  fc.record({ kind: fc.constantFrom(0, 60, 43, 51, 135, 139, 140), units: fc.integer({ min: 0, max: 3 }), fill: bytes(40) }),
  fc.record({ kind: fc.constant(44), units: fc.constant(0), fill: fc.constantFrom([0, 0, 0, 0, 0, 1], [0, 1, 0, 0, 0, 1], [0, 8, 0, 0, 0, 1]) }),
  fc.record({ kind: fc.constant(60), units: fc.constant(2), fill: bytes(16).map((home) => [1, 2, 0, 0, 0xc9, 16, ...home]) }),
  fc.record({ kind: fc.constant(43), units: fc.constant(2), fill: bytes(16).map((home) => [2, 1, 0, 0, 0, 0, ...home]) }),
);
const any6 = fc
  .record({ from: bytes(16), to: bytes(16), upper: anyTransport, extensions: fc.array(anyExtension, { maxLength: 5 }) })
  .map(({ from, to, upper, extensions }) => {
    let next: number = upper.protocol;
    let payload = upper.payload;
    for (const { kind, units, fill } of [...extensions].reverse()) {
      const size = kind === 44 ? 8 : kind === 51 ? (units + 2) * 4 : (units + 1) * 8;
      payload = [next, units, ...[...fill, ...new Array(64).fill(0)].slice(0, size - 2), ...payload];
      next = kind;
    }
    return ipv6(from, to, next, payload);
  });
const anyIp = fc.oneof(any4, any6);
const typeOf = (packet: readonly number[]): number => ((packet[0] as number) >> 4 === 6 ? 0x86dd : 0x0800);
const anyFrame = fc.record({ packet: anyIp, tags: fc.array(fc.constantFrom([0x81, 0, 0, 5], [0x88, 0xa8, 0, 6]), { maxLength: 3 }) }).map(({ packet, tags }) =>
  ethernet(
    typeOf(packet),
    packet,
    tags.map((tag) => [...tag]),
  ),
);
const anyTunnel = fc
  .record({ inner: anyIp, frame: anyFrame, kind: fc.integer({ min: 0, max: 6 }), flags: bytes(16), six: fc.boolean() })
  .map(({ inner, frame, kind, flags, six }) => {
    const over = six ? over6 : over4;
    const type = u16(typeOf(inner));
    const gre = [
      (flags[0] as number) & 0xb0,
      0,
      ...type,
      ...flags.slice(0, 4 * [0x80, 0x20, 0x10].filter((bit) => ((flags[0] as number) & bit) !== 0).length),
      ...inner,
    ];
    switch (kind) {
      case 0:
        return over(47, gre);
      case 1:
        return over(47, [0x20, 0, 0x65, 0x58, 0, 0, 0, 1, ...frame]);
      case 2:
        return over(17, udpTo(4754, gre));
      case 3:
        return over(17, udpTo(4789, [flags[1] as number, 0, 0, 0, 0, 0, 5, 0, ...frame]));
      case 4:
        return over(
          17,
          udpTo(4790, [(flags[1] as number) & 0x1f, 0, 0, (flags[2] as number) % 5, 0, 0, 5, 0, ...((flags[2] as number) % 5 === 3 ? frame : inner)]),
        );
      case 5:
        return over(17, udpTo(6081, [(flags[1] as number) & 3, 0, ...type, 0, 0, 5, 0, ...flags.slice(0, 4 * ((flags[1] as number) & 3)), ...inner]));
      default:
        return over(4, inner);
    }
  });

describe('any frame, anywhere in memory', () => {
  const any = fc.record({
    bytes: fc.oneof(anyFrame, anyTunnel, fc.uint8Array({ minLength: 1, maxLength: 90 })),
    cut: fc.option(fc.double({ min: 0, max: 1, noNaN: true }), { nil: undefined }),
    types: fc.integer({ min: 0, max: 0x1ff }),
    tunnels: fc.oneof(fc.constant(0), fc.constant(0x1ff), fc.integer({ min: 0, max: 0x1ff })),
    pieces: fc.array(fc.integer({ min: 1, max: 60 }), { maxLength: 6 }),
    misaligned: fc.integer({ min: 0, max: 7 }),
    key: fc.uint8Array({ minLength: 0, maxLength: 52 }),
  });

  it('is hashed as the second implementation has it, whole or cut short, in any pieces', () => {
    fc.assert(
      fc.property(any, ({ bytes: whole, cut, types, tunnels, pieces, misaligned, key }) => {
        const packet = cut === undefined ? whole : whole.slice(0, Math.max(1, Math.floor(cut * whole.length)));
        expect(hashOf(packet, types, tunnels, { key, pieces, misaligned })).toEqual(expectedHash(packet, key, types, tunnels));
      }),
      { numRuns: 3000 },
    );
  });

  it('never depends on a byte past its end', () => {
    fc.assert(
      fc.property(any, fc.uint8Array({ minLength: 100, maxLength: 100 }), ({ bytes: whole, cut, types, tunnels }, after) => {
        const length = Math.max(1, Math.floor((cut ?? 0.5) * whole.length));
        const hasher = new FrameHasher();
        hasher.configure({ types, tunnels, key: MICROSOFT_KEY });
        const of = (rest: Uint8Array): [number, number] => {
          const memory = new Uint8Array(Math.ceil((length + rest.length) / 8) * 8);
          memory.set(whole.subarray(0, length));
          memory.set(rest, length);
          const batch = new FrameBatch(viewsOf(memory.buffer));
          batch.segments.addHost(viewsOf(memory.buffer), 0, length);
          batch.segmentCount[0] = 1;
          batch.length[0] = length;
          batch.count = 1;
          hasher.hash(batch, 0, 1);
          return [batch.hash[0] as number, batch.hashReport[0] as number];
        };
        expect(of(after)).toEqual(of(whole.slice(length)));
        hasher.configure(undefined);
      }),
      { numRuns: 1000 },
    );
  });
});

describe('whose hash it is', () => {
  const packet = ip(ipv4(A, B, 6, transport(6, [2794, 1766])));

  it('parameters that are equal share a number, and others never get it', () => {
    const key = MICROSOFT_KEY;
    const one = acquireHashIdentity({ types: 3, tunnels: 0, key });
    expect(acquireHashIdentity({ types: 3, tunnels: 0, key: key.slice() })).toBe(one);
    expect(acquireHashIdentity({ types: 3, tunnels: 0, key: Uint8Array.from([...key, 7]) })).toBe(one);
    const others = [
      { types: 1, tunnels: 0, key },
      { types: 3, tunnels: 1, key },
      { types: 3, tunnels: 0, key: key.slice(1) },
      { types: 31, tunnels: 0, key: new Uint8Array(0) },
    ].map(acquireHashIdentity);
    expect(new Set([one, ...others]).size).toBe(5);
    for (let i = 0; i < 3; i++) releaseHashIdentity(one);
    for (const other of others) releaseHashIdentity(other);
    const again = acquireHashIdentity({ types: 3, tunnels: 0, key });
    expect([one, ...others]).not.toContain(again);
    releaseHashIdentity(again);
  });

  it('a known hash is taken as it is by who has the same parameters, and by nobody else', () => {
    const source = acquireHashIdentity({ types: 2, tunnels: 0, key: MICROSOFT_KEY });
    const batch = new FrameBatch(viewsOf(new ArrayBuffer(8)));
    appendFrame(batch, { bytes: packet });
    batch.hash[0] = 0x1234;
    batch.hashReport[0] = 2;
    batch.hashedBy[0] = source;
    const same = new FrameHasher();
    same.configure({ types: 2, tunnels: 0, key: MICROSOFT_KEY });
    same.hash(batch, 0, 1);
    expect([batch.hash[0], batch.hashReport[0]]).toEqual([0x1234, 2]);
    const other = new FrameHasher();
    other.configure({ types: 3, tunnels: 0, key: MICROSOFT_KEY });
    other.hash(batch, 0, 1);
    expect([(batch.hash[0] as number) >>> 0, batch.hashReport[0]]).toEqual([0x51ccc178, 2]);
    // The column holds the other's now, though the value would do.
    batch.hash[0] = 0x4321;
    same.hash(batch, 0, 1);
    expect((batch.hash[0] as number) >>> 0).toBe(0x51ccc178);
    same.configure(undefined);
    other.configure(undefined);
    releaseHashIdentity(source);
  });

  it('a batch forgets its hashes when it is cleared', () => {
    const batch = new FrameBatch(viewsOf(new ArrayBuffer(8)));
    const hasher = new FrameHasher();
    hasher.configure({ types: 2, tunnels: 0, key: MICROSOFT_KEY });
    for (let i = 0; i < 3; i++) appendFrame(batch, { bytes: packet });
    hasher.hash(batch, 0, 3);
    batch.clear();
    expect([...batch.hashedBy.subarray(0, 4)]).toEqual([0, 0, 0, 0]);
    hasher.configure(undefined);
  });

  it('a change of types alone is a change', () => {
    const hasher = new FrameHasher();
    hasher.configure({ types: 2, tunnels: 0, key: MICROSOFT_KEY });
    const before = hasher.identity;
    hasher.configure({ types: 2, tunnels: 0, key: MICROSOFT_KEY.slice() });
    expect(hasher.identity).toBe(before);
    hasher.configure({ types: 1, tunnels: 0, key: MICROSOFT_KEY });
    expect(hasher.identity).not.toBe(before);
    const batch = new FrameBatch(viewsOf(new ArrayBuffer(8)));
    appendFrame(batch, { bytes: packet });
    hasher.hash(batch, 0, 1);
    expect([(batch.hash[0] as number) >>> 0, batch.hashReport[0]]).toEqual([0x323e8fc2, 1]);
    hasher.configure(undefined);
  });
});

describe('straight to a queue', () => {
  const ROUTES = Int8Array.from({ length: 128 }, (_, i) => (i * 11) % 61);
  const UNCLASSIFIED = 99;
  const STRIDE = 128;
  const flow = (n: number, protocol: number): Uint8Array =>
    ip(ipv4([10, n & 7, n >> 3, 1], [10, 9, 0, n & 0xff], protocol, transport(protocol, [(n * 7919) & 0xffff, 80])));
  const other = [ip(ipv6(colons('fd00::1'), colons('fd00::2'), 6, transport(6, [1, 2]))), ethernet(0x0806, new Array(28).fill(0))];

  function batchOf(frames: readonly Uint8Array[]): FrameBatch {
    const views = viewsOf(new ArrayBuffer(frames.length * STRIDE));
    const batch = new FrameBatch(views, frames.length);
    frames.forEach((bytes, f) => {
      views.u8.set(bytes, f * STRIDE);
      batch.firstSegment[f] = f;
      batch.segmentCount[f] = 1;
      batch.segments.addHost(views, f * STRIDE, bytes.length);
      batch.length[f] = bytes.length;
    });
    batch.count = frames.length;
    return batch;
  }

  const expected = (frames: readonly Uint8Array[], types: number, key: Uint8Array): number[] =>
    frames.map((frame) => {
      const [hash, report] = hashOf(frame, types, 0, { key });
      return report === 0 ? UNCLASSIFIED : (ROUTES[hash & 127] as number);
    });

  it.each([
    ['a few', 5, -1],
    ['many', 200, -1],
    ['many with others among them', 200, 70],
  ])('%s frames go where their hash leads, by turns under two keys', (_, count, odd) => {
    const hashers = [MICROSOFT_KEY, MICROSOFT_KEY.toReversed()].map((key) => ({ key, hasher: new FrameHasher() }));
    for (const types of [ALL, 2, 16, 0])
      for (const { key, hasher } of [...hashers, ...hashers]) {
        hasher.configure({ types, tunnels: 0, key });
        const frames = Array.from({ length: count }, (__, n) => (odd > 0 && n % odd >= odd - 2 ? (other[n & 1] as Uint8Array) : flow(n, n % 3 === 0 ? 17 : 6)));
        const pairs = new Int8Array(count).fill(-9);
        hasher.route(batchOf(frames), 0, count, ROUTES, UNCLASSIFIED, pairs);
        expect([...pairs]).toEqual(expected(frames, types, key));
      }
    for (const { hasher } of hashers) hasher.configure(undefined);
  });

  it('a hash that is known is taken', () => {
    const hasher = new FrameHasher();
    hasher.configure({ types: ALL, tunnels: 0, key: MICROSOFT_KEY });
    const frames = Array.from({ length: 80 }, (_, n) => flow(n, 6));
    const batch = batchOf(frames);
    batch.hash[3] = 0x55;
    batch.hashReport[3] = 2;
    batch.hashedBy[3] = hasher.identity;
    const pairs = new Int8Array(80);
    hasher.route(batch, 0, 80, ROUTES, UNCLASSIFIED, pairs);
    expect([...pairs]).toEqual(expected(frames, ALL, MICROSOFT_KEY).with(3, ROUTES[0x55] as number));
    hasher.configure(undefined);
  });
});
