// What the guest asks a device to finish, what it cuts itself, and what it believes of large and tunnelled frames it is handed.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DRIVER_FEATURES, featureMask, OPTIONAL_FEATURES } from '#guest-sim/features';
import { composeFrame, composeTunnel, type FrameSpec } from '#guest-sim/frames';
import { Guest } from '#guest-sim/guest';
import type { ReceivedFrame } from '#guest-sim/net-receive';
import { TransmitOffload } from '#guest-sim/net-transmit';
import { requestOffload, segmentPlan } from '#guest-sim/offload';
import { checksumsHold, Headers } from '#guest-sim/packets';
import { ReceivedCheck } from '#guest-sim/received-check';
import { Segmenter } from '#guest-sim/segment';
import { VIRTIO_F, VIRTIO_NET_F } from '#guest-sim/virtio-constants';
import { VirtioModel } from './virtio-model.ts';

const F = VIRTIO_NET_F;
const everything = (): boolean => true;

function pieces(bytes: Uint8Array, plan: NonNullable<ReturnType<typeof segmentPlan>>): Uint8Array[] {
  const out: Uint8Array[] = [];
  new Segmenter().cut(bytes, 0, bytes.length, plan, (u8, at, length) => void out.push(u8.slice(at, at + length)));
  return out;
}

/** Every checksum of the frame, the inner ones of a tunnel included, by the receiver's own code. */
function holds(frame: Uint8Array, inner = 0): boolean {
  const h = new Headers();
  if (!h.parse(frame, 0, frame.length) || !checksumsHold(frame, 0, h)) return false;
  if (inner === 0) return true;
  const version = (frame[inner] as number) >> 4;
  const shell = Uint8Array.from([...Array(12).fill(0), ...(version === 4 ? [8, 0] : [0x86, 0xdd]), ...frame.subarray(inner)]);
  return h.parse(shell, 0, shell.length) && checksumsHold(shell, 0, h);
}

describe('frames to order', () => {
  const spec = fc.record({
    version: fc.constantFrom(4 as const, 6 as const),
    protocol: fc.constantFrom('tcp' as const, 'udp' as const),
    payload: fc.nat(1400),
    tags: fc.nat(2),
    options: fc.nat(3),
    extensions: fc.nat(2),
  });
  const build = (s: { version: 4 | 6; protocol: 'tcp' | 'udp'; payload: number; tags: number; options: number; extensions: number }): FrameSpec => ({
    ...s,
    vlans: Array.from({ length: s.tags }, (_, i) => ({ type: 0x8100, tci: i })),
    options: Array(4 * s.options).fill(1),
    extensions: Array.from({ length: s.extensions }, () => ({ protocol: 60, bytes: [0, 0, 1, 4, 0, 0, 0, 0] })),
  });

  it('have right lengths and checksums, and lie where the layout says', () => {
    fc.assert(
      fc.property(spec, (s) => {
        const { bytes, layout } = composeFrame(build(s));
        const h = new Headers();
        expect(h.parse(bytes, 0, bytes.length)).toBe(true);
        expect([h.version, h.network, h.transport, h.payload, h.end]).toEqual([s.version, layout.network, layout.transport, layout.payload, bytes.length]);
        expect(checksumsHold(bytes, 0, h)).toBe(true);
        expect(bytes.length - layout.payload).toBe(s.payload);
      }),
    );
  });

  it.each(['vxlan', 'vxlan-gpe', 'geneve', 'gre', 'gre-key', 'gre-udp', 'nvgre', 'ipip'] as const)('lie in a %s tunnel', (kind) => {
    for (const outer of [4, 6] as const)
      for (const version of kind === 'ipip' ? [4 as const] : [4 as const, 6 as const]) {
        const { bytes, layout } = composeTunnel(kind, { version: outer }, { version, protocol: 'tcp', payload: 100 });
        expect(holds(bytes, layout.innerNetwork)).toBe(true);
        expect([(bytes[layout.innerNetwork] as number) >> 4, bytes.length - layout.payload]).toEqual([version, 100]);
      }
  });
});

describe('cutting a frame in software', () => {
  const body = (n: number): Uint8Array => Uint8Array.from({ length: n }, (_, i) => (i * 13) ^ (i >> 8));

  it.each([4, 6] as const)('TCP over IPv%i: sequence numbers, flags, identification, and every byte once', (version) => {
    const { bytes, layout } = composeFrame({ version, protocol: 'tcp', payload: body(3500), flags: 0x80 | 0x10 | 0x09, sequence: 0xffff_fc00, id: 0xfffe });
    const plan = segmentPlan(bytes, layout, { gsoSize: 1000 });
    const cut = pieces(bytes, plan as NonNullable<typeof plan>);
    expect(cut.map((p) => p.length - layout.payload)).toEqual([1000, 1000, 1000, 500]);
    expect(cut.every((p) => holds(p))).toBe(true);
    expect(cut.map((p) => p[layout.transport + 13])).toEqual([0x90, 0x10, 0x10, 0x19]);
    expect(cut.map((p) => new DataView(p.buffer).getUint32(layout.transport + 4))).toEqual([0xffff_fc00, 0xffff_ffe8, 0x3d0, 0x7b8]);
    if (version === 4) expect(cut.map((p) => new DataView(p.buffer).getUint16(layout.network + 4))).toEqual([0xfffe, 0xffff, 0, 1]);
    expect(Uint8Array.from(cut.flatMap((p) => [...p.subarray(layout.payload)]))).toEqual(body(3500));
  });

  it.each([4, 6] as const)('UDP over IPv%i into datagrams, or into fragments that add up to the one that was sent', (version) => {
    const { bytes, layout } = composeFrame({ version, protocol: 'udp', payload: body(2500) });
    const datagrams = pieces(bytes, segmentPlan(bytes, layout, { gsoSize: 800 }) as never);
    expect(datagrams.map((p) => p.length - layout.payload)).toEqual([800, 800, 800, 100]);
    expect(datagrams.every((p) => holds(p))).toBe(true);
    const fragments = pieces(bytes, segmentPlan(bytes, layout, { gsoSize: 1004, fragments: true }) as never);
    const extra = version === 4 ? 0 : 8;
    expect(fragments.map((p) => p.length - layout.transport - extra)).toEqual([1000, 1000, 508]);
    const whole = Uint8Array.from([...bytes.subarray(0, layout.transport), ...fragments.flatMap((p) => [...p.subarray(layout.transport + extra)])]);
    expect(whole).toEqual(bytes);
    expect(fragments.every((p) => holds(p))).toBe(true);
  });

  it.each([
    ['vxlan', 4, 4],
    ['vxlan', 4, 6],
    ['geneve', 6, 4],
    ['geneve', 6, 6],
  ] as const)('TCP and UDP in %s over IPv%i around IPv%i, outer checksum or none', (kind, outer, version) => {
    for (const protocol of ['tcp', 'udp'] as const)
      for (const noChecksum of [false, true]) {
        const { bytes, layout } = composeTunnel(kind, { version: outer, noChecksum }, { version, protocol, payload: body(2100) });
        const cut = pieces(bytes, segmentPlan(bytes, layout, { gsoSize: 1000 }) as never);
        expect(cut.map((p) => p.length - layout.payload)).toEqual([1000, 1000, 100]);
        for (const p of cut) {
          expect(new DataView(p.buffer).getUint16(layout.outerTransport + 6) === 0).toBe(noChecksum);
          expect(new DataView(p.buffer).getUint16(layout.outerTransport + 4)).toBe(p.length - layout.outerTransport);
          if (!(noChecksum && outer === 6)) expect(holds(p, layout.innerNetwork)).toBe(true);
        }
      }
  });

  it('never throws and never reads past its frame, whatever the plan says', () => {
    const number = fc.oneof(fc.nat(200), fc.nat(70000));
    const plan = fc.record({
      gsoType: fc.nat(6),
      gsoSize: number,
      network: number,
      transport: number,
      payload: number,
      outerNetwork: number,
      outerTransport: number,
    });
    const segmenter = new Segmenter();
    fc.assert(
      fc.property(plan, fc.uint8Array({ minLength: 14, maxLength: 300 }), (p, bytes) => {
        let most = 0;
        segmenter.cut(bytes, 0, bytes.length, p, (_u8, _at, length) => {
          most = Math.max(most, length);
        });
        expect(most).toBeLessThanOrEqual(bytes.length + 8);
      }),
      { numRuns: 2000 },
    );
  });
});

describe('asking a device to finish a frame', () => {
  const has =
    (...missing: number[]) =>
    (feature: number): boolean =>
      !missing.includes(feature);
  const tcp4: FrameSpec = { version: 4, protocol: 'tcp', payload: 4000, flags: 0x90 };

  it('fills the header exactly: the Geneve example of 5.1.9.2', () => {
    const { bytes, layout } = composeTunnel('geneve', { version: 4 }, { ...tcp4, flags: 0x10 });
    const offload = new TransmitOffload();
    expect(requestOffload(bytes, layout, { gsoSize: 1400 }, everything, offload)).toBe(true);
    expect(offload).toMatchObject({
      flags: 1,
      gsoType: 0x21,
      gsoSize: 1400,
      csumStart: 84,
      csumOffset: 16,
      innerNetwork: 64,
      outerTransport: 34,
      headerLength: 104,
    });
    // The outer UDP header is at 34: the text's 42 is where it ends, and its own clause on the checksum counts from the start.
    expect([...bytes.subarray(40, 42)]).toEqual([0, 0]);
    const { bytes: other, layout: where } = composeTunnel('vxlan', { version: 6 }, { version: 6, protocol: 'udp', payload: 4000 });
    expect(requestOffload(other, where, { gsoSize: 1400, outerChecksum: true }, everything, offload)).toBe(true);
    expect(offload).toMatchObject({ flags: 9, gsoType: 0x45, csumOffset: 6 });
  });

  it.each([
    ['no CSUM', has(F.CSUM), tcp4, { gsoSize: 0 }],
    ['no TSO', has(F.HOST_TSO4), tcp4, { gsoSize: 100 }],
    ['CWR without ECN', has(F.HOST_ECN), tcp4, { gsoSize: 100 }],
    ['no TSO6', has(F.HOST_TSO6), { ...tcp4, version: 6 as const }, { gsoSize: 100 }],
    ['no USO', has(F.HOST_USO), { ...tcp4, protocol: 'udp' as const }, { gsoSize: 100 }],
    ['no UFO', has(F.HOST_UFO), { ...tcp4, protocol: 'udp' as const }, { gsoSize: 100, fragments: true }],
    ['an outer checksum without a tunnel', everything, tcp4, { gsoSize: 100, outerChecksum: true }],
    ['a fragment', everything, { ...tcp4, fragment: { offset: 0, more: true, id: 1 } }, { gsoSize: 0 }],
    ['a later fragment', everything, { ...tcp4, fragment: { offset: 80, more: false, id: 1 } }, { gsoSize: 0 }],
  ] as const)('is not done with %s, and the frame stays as it was', (_name, features, spec, request) => {
    const { bytes, layout } = composeFrame(spec);
    const before = bytes.slice();
    const offload = new TransmitOffload();
    expect(requestOffload(bytes, layout, request, features, offload)).toBe(false);
    expect([bytes, offload]).toEqual([before, new TransmitOffload()]);
  });

  it('keeps tunnels to the features they need, and UFO out of them', () => {
    const make = (protocol: 'tcp' | 'udp') => composeTunnel('vxlan', { version: 4 }, { version: 4, protocol, payload: 3000 });
    const offload = new TransmitOffload();
    const ask = (protocol: 'tcp' | 'udp', request: object, features: (f: number) => boolean): boolean => {
      const { bytes, layout } = make(protocol);
      return requestOffload(bytes, layout, { gsoSize: 1000, ...request }, features, offload);
    };
    expect(ask('tcp', {}, has(F.HOST_UDP_TUNNEL_GSO))).toBe(false);
    expect(ask('tcp', { outerChecksum: true }, has(F.HOST_UDP_TUNNEL_GSO_CSUM))).toBe(false);
    expect(ask('udp', { fragments: true }, everything)).toBe(false);
    expect(ask('tcp', {}, has(F.HOST_UDP_TUNNEL_GSO_CSUM))).toBe(true);
    expect(offload.flags).toBe(1);
  });
});

describe.each(['split', 'packed'] as const)('large and tunnelled frames over %s rings', (ring) => {
  const ALL = featureMask([...DRIVER_FEATURES, ...OPTIONAL_FEATURES].filter((bit) => bit !== VIRTIO_F.ADMIN_VQ));
  const bringUp = (features = ALL, without: number[] = []): { device: VirtioModel; guest: Guest } => {
    const device = new VirtioModel({ features });
    return { device, guest: new Guest(device, { net: { ring, without, with: OPTIONAL_FEATURES } }) };
  };

  it.each([[[]], [[F.MRG_RXBUF]]])('loop through the model as they were sent, header and bytes, without %j', (without) => {
    const { guest } = bringUp(ALL, without);
    const check = new ReceivedCheck();
    const seen: Record<string, unknown>[] = [];
    const problems: string[] = [];
    const sink = {
      receive(f: ReceivedFrame): void {
        const bytes = Uint8Array.from({ length: f.length }, (_, i) => f.byte(i));
        problems.push(check.check(bytes, 0, f));
        seen.push({
          gsoType: f.gsoType,
          gsoEcn: f.gsoEcn,
          gsoSize: f.gsoSize,
          tunnel: f.tunnel,
          inner: f.innerNetwork,
          outer: f.outerTransport,
          hdr: f.headerLength,
          bytes,
        });
      },
    };
    const frames = [
      composeFrame({ version: 4, protocol: 'tcp', payload: 1900, flags: 0x90 }),
      composeFrame({ version: 6, protocol: 'udp', payload: 1900 }),
      composeTunnel('vxlan', { version: 4 }, { version: 6, protocol: 'tcp', payload: 1700 }),
      composeTunnel('geneve', { version: 6 }, { version: 4, protocol: 'udp', payload: 1700 }),
    ];
    const queue = guest.net.transmit[0];
    const offload = new TransmitOffload();
    for (const [i, { bytes, layout }] of frames.entries()) {
      expect(requestOffload(bytes, layout, { gsoSize: 600, outerChecksum: i === 2 }, (f) => guest.net.has(f), offload)).toBe(true);
      const at = queue?.reserve() as number;
      guest.arena.u8.set(bytes, at);
      queue?.send(bytes.length, offload);
    }
    queue?.flush();
    // The model loops one buffer each: frames that fit one receive buffer.
    for (let v = guest.bus.vectors.take(); v >= 0; v = guest.bus.vectors.take()) guest.vectors.handlers[v]?.();
    guest.net.poll(sink);
    expect(problems).toEqual(['', '', '', '']);
    expect(seen.map((s) => [s.gsoType, s.gsoEcn, s.gsoSize, s.tunnel])).toEqual([
      [1, true, 600, 0],
      [5, false, 600, 0],
      [4, false, 600, 6],
      [5, false, 600, 4],
    ]);
    expect(seen.slice(2).map((s) => [s.outer, s.inner, s.hdr])).toEqual(frames.slice(2).map(({ layout: l }) => [l.outerTransport, l.innerNetwork, l.payload]));
    expect(seen.map((s) => s.bytes)).toEqual(frames.map((f) => f.bytes));
  });

  const base = composeTunnel('vxlan', { version: 4 }, { version: 4, protocol: 'tcp', payload: 500 });
  const l = base.layout;
  const good = { flags: 1, gso: 0x21, size: 100, start: l.transport, offset: 16, outer: l.outerTransport, inner: l.innerNetwork };
  it.each([
    ['as it should be', {}, true],
    ['both tunnel bits', { gso: 0x61 }, false],
    ['nothing to cut inside', { gso: 0x20 }, false],
    ['UFO inside', { gso: 0x23 }, false],
    ['no checksum to fill in', { flags: 0 }, false],
    ['DATA_VALID', { flags: 3 }, false],
    ['an inner header before the outer one ends', { inner: l.outerTransport + 4 }, false],
    ['an outer header in the Ethernet header', { outer: 10 }, false],
    ['a checksum before the inner header', { start: l.innerNetwork }, false],
    ['a checksum behind the frame', { start: 60000 }, false],
    ['an outer checksum without a tunnel', { flags: 9, gso: 1, start: 34 }, false],
    ['no size', { size: 0 }, false],
    ['unknown flags', { flags: 0x71 }, true],
  ])('are taken or dropped by the rules of 5.1.9.4.2: %s', (_name, change, taken) => {
    const { device, guest } = bringUp();
    const h = { ...good, ...change };
    const w = (n: number): number[] => [n & 0xff, n >> 8];
    const header = [h.flags, h.gso, ...w(0), ...w(h.size), ...w(h.start), ...w(h.offset), 1, 0, ...Array(8).fill(0), ...w(h.outer), ...w(h.inner)];
    device.deliver(0, [...header, ...base.bytes]);
    for (let i = 0; i < 3; i++) guest.step();
    expect([guest.net.receive[0]?.frames, guest.net.receive[0]?.malformed, guest.net.broken]).toEqual([taken ? 1 : 0, taken ? 0 : 1, '']);
  });

  it('knows how many segments a coalesced frame had, and only then', () => {
    for (const without of [[], [F.RSC_EXT]]) {
      const { device, guest } = bringUp(ALL, without);
      const got: number[][] = [];
      const { bytes } = composeFrame({ version: 4, protocol: 'tcp', payload: 900 });
      for (const flags of [4 | 2, 4 | 1, 2]) device.deliver(0, [flags, 1, 54, 0, 44, 1, 3, 0, 5, 0, 1, 0, ...Array(12).fill(0), ...bytes]);
      for (let v = guest.bus.vectors.take(); v >= 0; v = guest.bus.vectors.take()) guest.vectors.handlers[v]?.();
      guest.net.poll({ receive: (f) => void got.push([f.coalescedSegments, f.duplicateAcks, f.checksum]) });
      expect(got).toEqual(
        without.length === 0
          ? [
              [3, 5, 1],
              [3, 5, 2],
              [0, 0, 1],
            ]
          : [
              [0, 0, 1],
              [0, 0, 0],
              [0, 0, 1],
            ],
      );
    }
  });
});
