// Offloads, moderation and statistics, driver against device: what is asked of one device arrives whole at a guest that takes it, and in the pieces the guest
// would have cut itself at one that does not.

import { afterAll, describe, expect, it } from 'vitest';
import { viewsOf } from '#core/guest-memory';
import { type ComposedFrame, composeFrame, composeTunnel, type FrameSpec } from '#guest-sim/frames';
import type { Guest } from '#guest-sim/guest';
import type { VirtioNetOptions } from '#guest-sim/net-options';
import type { ReceivedFrame } from '#guest-sim/net-receive';
import { CVQ_STATISTICS, RX_STATISTICS, TX_STATISTICS } from '#guest-sim/net-stats';
import { TransmitOffload } from '#guest-sim/net-transmit';
import { type OffloadRequest, requestOffload, segmentPlan } from '#guest-sim/offload';
import { ReceivedCheck } from '#guest-sim/received-check';
import { Segmenter } from '#guest-sim/segment';
import { VIRTIO_NET_F } from '#guest-sim/virtio-constants';
import { closeWires, runBoth, type Setup, WIRES, withTwoGuests } from './two-guests.ts';

const F = VIRTIO_NET_F;
const TUNNELS = [F.GUEST_UDP_TUNNEL_GSO, F.GUEST_UDP_TUNNEL_GSO_CSUM, F.HOST_UDP_TUNNEL_GSO, F.HOST_UDP_TUNNEL_GSO_CSUM];
const DEVICE: Setup['device'] = {
  features: { GUEST_UDP_TUNNEL_GSO: true, GUEST_UDP_TUNNEL_GSO_CSUM: true, HOST_UDP_TUNNEL_GSO: true, HOST_UDP_TUNNEL_GSO_CSUM: true, HASH_REPORT: true },
};
const MATRIX = WIRES.flatMap((wire) => (['split', 'packed'] as const).map((ring) => ({ wire, ring })));

afterAll(closeWires);

const both = (spec: FrameSpec): FrameSpec[] => [
  { ...spec, version: 4 },
  { ...spec, version: 6 },
];

/** What is sent: the frame, and what the device is asked for. */
function orders(): { name: string; frame: ComposedFrame; request: OffloadRequest }[] {
  const list: { name: string; frame: ComposedFrame; request: OffloadRequest }[] = [];
  const add = (name: string, frame: ComposedFrame, request: OffloadRequest): void => void list.push({ name, frame, request });
  for (const tcp of both({ version: 4, protocol: 'tcp', payload: 5000, flags: 0x19, sequence: 0xffff_f000, id: 7 })) {
    add(`checksum v${tcp.version}`, composeFrame({ ...tcp, payload: 301 }), {});
    add(`TSO${tcp.version}`, composeFrame(tcp), { gsoSize: 1000 });
    add(`TSO${tcp.version} with CWR`, composeFrame({ ...tcp, flags: 0x99 }), { gsoSize: 1428 });
    add(`TSO${tcp.version} under a tag`, composeFrame({ ...tcp, vlans: [{ type: 0x8100, tci: 5 }] }), { gsoSize: 1400 });
    add(`long TSO${tcp.version}`, composeFrame({ ...tcp, payload: 60_000 }), { gsoSize: 1400 });
  }
  add('TSO behind options', composeFrame({ version: 4, protocol: 'tcp', payload: 3000, options: [1, 1, 1, 1] }), { gsoSize: 1000 });
  add(
    'TSO behind hop-by-hop options',
    composeFrame({ version: 6, protocol: 'tcp', payload: 3000, extensions: [{ protocol: 0, bytes: [0, 0, 1, 4, 0, 0, 0, 0] }] }),
    { gsoSize: 1000 },
  );
  for (const udp of both({ version: 4, protocol: 'udp', payload: 4000 })) {
    add(`UDP checksum v${udp.version}`, composeFrame({ ...udp, payload: 300 }), {});
    add(`USO v${udp.version}`, composeFrame(udp), { gsoSize: 900 });
    add(`UFO v${udp.version}`, composeFrame(udp), { gsoSize: 1448, fragments: true });
  }
  for (const kind of ['vxlan', 'geneve'] as const)
    for (const outer of [4, 6] as const)
      for (const inner of [...both({ version: 4, protocol: 'tcp', payload: 4000, flags: 0x10 }), ...both({ version: 4, protocol: 'udp', payload: 4000 })])
        for (const outerChecksum of [false, true])
          add(
            `${inner.protocol}${inner.version} in ${kind}${outer}${outerChecksum ? ' with outer checksum' : ''}`,
            composeTunnel(kind, { version: outer }, inner),
            {
              gsoSize: 1200,
              outerChecksum,
            },
          );
  return list;
}

describe.each(MATRIX)('$wire, $ring rings', ({ wire, ring }) => {
  interface Got {
    readonly bytes: Uint8Array;
    readonly problem: string;
    readonly gsoType: number;
    readonly gsoSize: number;
    readonly tunnel: number;
    readonly partial: boolean;
  }

  /** Sends one order and gives back what came. */
  const carry = async (a: Guest, b: Guest, order: ReturnType<typeof orders>[0], pieces: number): Promise<Got[]> => {
    const got: Got[] = [];
    const check = new ReceivedCheck();
    const sink = b.start({ kind: 'sink', verify: 'none' });
    sink.receive = (f: ReceivedFrame): void => {
      const bytes = Uint8Array.from({ length: f.length }, (_, i) => f.byte(i));
      got.push({ bytes, problem: check.check(bytes, 0, f), gsoType: f.gsoType, gsoSize: f.gsoSize, tunnel: f.tunnel, partial: f.checksum === 2 });
    };
    const { bytes } = order.frame;
    const views = viewsOf(new SharedArrayBuffer(Math.ceil(bytes.length / 8) * 8));
    const offload = new TransmitOffload();
    expect(requestOffload(bytes, order.frame.layout, order.request, (f) => a.net.has(f), offload)).toBe(true);
    views.u8.set(bytes);
    const queue = a.net.transmit[0] as NonNullable<(typeof a.net.transmit)[0]>;
    expect(queue.copy(views, 0, bytes.length, offload)).toBe(true);
    queue.flush();
    for (let i = 0; i < 2000 && got.length < pieces; i++) {
      a.step();
      b.step();
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
    for (let i = 0; i < 3; i++) b.step();
    return got;
  };

  const cut = (order: ReturnType<typeof orders>[0]): Uint8Array[] => {
    const { layout } = order.frame;
    const bytes = order.frame.bytes.slice();
    // An outer checksum that nobody fills in is none.
    if (layout.outerTransport > 0 && !order.request.outerChecksum) bytes.fill(0, layout.outerTransport + 6, layout.outerTransport + 8);
    const plan = segmentPlan(bytes, layout, order.request);
    const out: Uint8Array[] = [];
    if (!plan || plan.gsoSize === 0) {
      // One piece, whose checksum is filled in: the same as a single segment.
      new Segmenter().cut(
        bytes,
        0,
        bytes.length,
        { ...(plan as NonNullable<typeof plan>), gsoSize: 65_535 },
        (u8, at, n) => void out.push(u8.slice(at, at + n)),
      );
      return out;
    }
    new Segmenter().cut(bytes, 0, bytes.length, plan, (u8, at, n) => void out.push(u8.slice(at, at + n)));
    return out;
  };

  it.each([
    ['mergeable buffers', {}],
    ['big buffers', { without: [F.MRG_RXBUF] }],
    ['hash reports in the header', { hashReport: {} }],
    ['a header descriptor of its own', { separateHeader: true }],
  ] as [string, VirtioNetOptions][])('hands large frames over whole to a guest that takes them: %s', async (_name, net) => {
    const options: VirtioNetOptions = { ring, with: TUNNELS, require: TUNNELS, ...net };
    await withTwoGuests(wire, { guest: { net: options }, device: DEVICE }, async (a, b) => {
      expect(b.net.control?.filterVlan(5, true)).toBe(true);
      for (const order of orders()) {
        const [got, ...more] = await carry(a, b, order, 1);
        expect([order.name, got?.problem, more.length, b.nic.broken]).toEqual([order.name, '', 0, '']);
        expect([order.name, got?.bytes.length, got?.gsoSize]).toEqual([order.name, order.frame.bytes.length, order.request.gsoSize ?? 0]);
        expect([order.name, got?.bytes]).toEqual([order.name, order.frame.bytes]);
      }
      expect(b.net.receive[0]?.malformed).toBe(0);
    });
  });

  it.each([
    ['nothing at all', [F.GUEST_CSUM]],
    ['nothing, in plain buffers', [F.GUEST_CSUM, F.MRG_RXBUF]],
    ['checksums to fill in only', [F.GUEST_TSO4, F.GUEST_TSO6, F.GUEST_USO4, F.GUEST_USO6, F.GUEST_UFO]],
  ] as [string, number[]][])('cuts them as the guest would for one that takes %s', async (_name, without) => {
    const sender: VirtioNetOptions = { ring, with: TUNNELS };
    const setup = { a: { guest: { net: sender }, device: DEVICE }, b: { guest: { net: { ring, without } }, device: DEVICE } };
    await withTwoGuests(wire, setup, async (a, b) => {
      expect(b.net.control?.filterVlan(5, true)).toBe(true);
      const wrong: string[] = [];
      for (const order of orders()) {
        const expected = cut(order);
        const got = await carry(a, b, order, expected.length);
        if (got.length !== expected.length) wrong.push(`${order.name}: ${got.length} pieces in place of ${expected.length}`);
        for (const [i, piece] of got.entries()) {
          if (piece.problem !== '') wrong.push(`${order.name}: piece ${i}: ${piece.problem}`);
          if (piece.gsoType !== 0) wrong.push(`${order.name}: piece ${i} is to be cut`);
          const ours = expected[i];
          if (piece.partial || !ours) continue;
          // The identification of IPv6 fragments is the cutter's to choose.
          const chosen = order.name === 'UFO v6' ? 58 : Infinity;
          const at = piece.bytes.findIndex((byte, k) => byte !== ours[k] && !(k >= chosen && k < chosen + 4));
          if (at >= 0 || piece.bytes.length !== ours.length)
            wrong.push(`${order.name}: piece ${i} of ${piece.bytes.length} differs from ours of ${ours.length} at ${at}`);
        }
      }
      expect(wrong).toEqual([]);
    });
  });

  it('keeps and reads back moderation as 5.1.9.5.10 tells, over queue resets too', async () => {
    await withTwoGuests(wire, { guest: { net: { ring, pairs: 2 } }, device: { queuePairs: 2 } }, async (a) => {
      const control = a.net.control as NonNullable<typeof a.net.control>;
      const read = (): number[] => [0, 1, 2, 3].map((q) => control.queueCoalescing(q)?.maxPackets ?? -1);
      expect(read()).toEqual([0, 0, 0, 0]);
      expect(control.setCoalescing('receive', { maxPackets: 5, maxUsecs: 50 })).toBe(true);
      expect(control.setQueueCoalescing(0, { maxPackets: 7, maxUsecs: 70 })).toBe(true);
      expect(control.setQueueCoalescing(1, { maxPackets: 9, maxUsecs: 90 })).toBe(true);
      expect(read()).toEqual([7, 9, 5, 0]);
      expect(control.queueCoalescing(1)).toEqual({ maxPackets: 9, maxUsecs: 90 });
      expect(control.setCoalescing('transmit', { maxPackets: 3, maxUsecs: 30 })).toBe(true);
      expect(read()).toEqual([7, 3, 5, 3]);
      a.net.resetPair(0);
      expect(read()).toEqual([5, 3, 5, 3]);
      expect([control.queueCoalescing(4), control.setQueueCoalescing(4, { maxPackets: 1, maxUsecs: 1 }), control.queueCoalescing(77)]).toEqual([
        undefined,
        false,
        undefined,
      ]);
      a.net.recover();
      expect([0, 1].map((q) => a.net.control?.queueCoalescing(q)?.maxPackets)).toEqual([0, 0]);
    });
  });

  it("moves frames with moderation on, by the guest's own choice and by hand", async () => {
    await withTwoGuests(wire, { guest: { net: { ring, moderation: 'adaptive' } } }, async (a, b) => {
      for (const value of [undefined, { maxPackets: 16, maxUsecs: 500 }, { maxPackets: 0, maxUsecs: 0 }]) {
        if (value) expect(b.net.control?.setCoalescing('receive', value)).toBe(true);
        const { a: sent, b: got } = await runBoth(a, b, { kind: 'generate', count: 3000 }, { kind: 'sink', count: 3000 });
        expect([...sent.errors, ...got.errors, got.details.lost]).toEqual([0]);
      }
    });
  });

  it('counts what both sides counted', async () => {
    await withTwoGuests(wire, { guest: { net: { ring } } }, async (a, b) => {
      const count = 500;
      await runBoth(a, b, { kind: 'generate', count, sizes: [100, 1000], checksumOffload: true }, { kind: 'sink', count });
      const named = (guest: Guest): Record<string, bigint> => {
        const replies = guest.net.control?.statistics([
          { queue: 0, types: RX_STATISTICS },
          { queue: 1, types: TX_STATISTICS },
          { queue: 2, types: CVQ_STATISTICS },
        ]);
        expect(replies).toBeDefined();
        return Object.assign({}, ...(replies ?? []).map((r) => r.counters));
      };
      const sent = named(a);
      const got = named(b);
      expect([sent.tx_packets, sent.tx_bytes, sent.tx_needs_csum, sent.tx_drops]).toEqual([500n, 275_000n, 500n, 0n]);
      expect([got.rx_packets, got.rx_bytes, got.rx_needs_csum]).toEqual([500n, 275_000n, 500n]);
      expect([got.rx_drops, got.rx_drop_overruns, got.rx_gso_packets]).toEqual([0n, 0n, 0n]);
      // This GET is the second command each guest ever sent, the QUERY before it the first.
      expect([got.command_num, got.ok_num]).toEqual([2n, 2n]);
    });
  });
});
