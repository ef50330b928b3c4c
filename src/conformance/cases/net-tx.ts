// Packet transmission (virtio 1.4 5.1.9.2).

import { composeFrame, composeTunnel, type FrameSpec } from '#guest-sim/frames';
import type { Bench } from '../bench.ts';
import type { Case } from '../case.ts';
import { GSO, HDR, type NetHeader } from '../layout.ts';
import type { Session } from '../session.ts';
import { checksumHolds, plainFrame, pseudoSum, put16, tcpFrame, udpFrame } from './frames.ts';
import { checkFragments, checkSegments, type Large } from './segments.ts';

const TCP = 6;
const UDP = 17;
const TCP_CHECKSUM = 16;
const UDP_CHECKSUM = 6;
const MSS = 1000;

interface Request {
  readonly large: Large;
  readonly frame: Uint8Array;
  readonly header: Partial<NetHeader>;
}

/** A large frame with what asks for its segmentation: the checksum field holds the pseudo header's sum. */
function request(spec: FrameSpec, gsoType: number): Request {
  const { bytes, layout } = composeFrame(spec);
  const protocol = spec.protocol === 'tcp' ? TCP : UDP;
  const offset = protocol === TCP ? TCP_CHECKSUM : UDP_CHECKSUM;
  const frame = bytes.slice();
  put16(frame, layout.transport + offset, pseudoSum(frame, layout.network, layout.transport, protocol));
  return {
    large: { bytes, network: layout.network, transport: layout.transport, payload: layout.payload, protocol, segmentSize: MSS },
    frame,
    header: { flags: HDR.NEEDS_CSUM, gsoType, gsoSize: MSS, headerLength: layout.payload, csumStart: layout.transport, csumOffset: offset },
  };
}

const tcp4 = (): Request => request({ version: 4, protocol: 'tcp', payload: 3500 }, GSO.TCPV4);

/** A TCP frame in VXLAN, ready to be cut into segments. `inner` is the IP version in the tunnel. */
function tunnel(inner: 4 | 6, outerChecksum = false): Request {
  const { bytes, layout } = composeTunnel('vxlan', { version: 4, noChecksum: !outerChecksum }, { version: inner, protocol: 'tcp', payload: 2500 });
  const frame = bytes.slice();
  put16(frame, layout.transport + TCP_CHECKSUM, pseudoSum(frame, layout.innerNetwork, layout.transport, TCP));
  if (outerChecksum) put16(frame, layout.outerTransport + UDP_CHECKSUM, pseudoSum(frame, layout.network, layout.outerTransport, UDP));
  return {
    large: { bytes, network: layout.innerNetwork, transport: layout.transport, payload: layout.payload, protocol: TCP, segmentSize: MSS },
    frame,
    header: {
      flags: HDR.NEEDS_CSUM | (outerChecksum ? HDR.UDP_TUNNEL_CSUM : 0),
      gsoType: (inner === 4 ? GSO.TCPV4 : GSO.TCPV6) | (inner === 4 ? GSO.TUNNEL_V4 : GSO.TUNNEL_V6),
      gsoSize: MSS,
      headerLength: layout.payload,
      csumStart: layout.transport,
      csumOffset: TCP_CHECKSUM,
      outerTransport: layout.outerTransport,
      innerNetwork: layout.innerNetwork,
    },
  };
}

async function segments(b: Bench, s: Session, clause: string, { frame, header, large }: Request): Promise<Uint8Array[]> {
  const sent = await b.net.transmit(frame, { header });
  checkSegments(s, clause, sent, large);
  return sent;
}

/** Not accepted: nothing goes out, the buffer comes back, and the next frame goes. */
async function refused(b: Bench, s: Session, clause: string, what: string, { frame, header }: Request): Promise<void> {
  s.check(clause, `frames sent for ${what}`, (await b.net.transmit(frame, { header })).length, 0);
  s.ensure((await b.net.transmit(plainFrame(1))).length === 1, 'the frame after one that was not accepted did not go out');
}

export const NET_TX_CASES: readonly Case[] = [
  {
    name: 'net-tx/checksum',
    clauses: ['net-tx.30'],
    async run(b, s) {
      await b.start({ features: ['CSUM'] });
      for (const [spec, protocol, offset] of [
        [{ protocol: 'tcp', version: 4 }, TCP, TCP_CHECKSUM],
        [{ protocol: 'udp', version: 4 }, UDP, UDP_CHECKSUM],
        [{ protocol: 'tcp', version: 6 }, TCP, TCP_CHECKSUM],
        [{ protocol: 'udp', version: 6 }, UDP, UDP_CHECKSUM],
      ] as const) {
        const { bytes, layout } = composeFrame({ ...spec, payload: 333 });
        const frame = bytes.slice();
        put16(frame, layout.transport + offset, pseudoSum(frame, layout.network, layout.transport, protocol));
        const header = { flags: HDR.NEEDS_CSUM, csumStart: layout.transport, csumOffset: offset };
        s.check('net-tx.30', `an IPv${spec.version} ${spec.protocol} frame whose checksum is left to the device`, await b.net.transmit(frame, { header }), [
          bytes,
        ]);
      }
    },
  },
  {
    name: 'net-tx/unknown-flags',
    clauses: ['net-tx.50'],
    async run(b, s) {
      await b.start();
      for (const flags of [0x80, 0x10, 0x70, 0xf0]) {
        const frame = plainFrame(flags);
        s.check('net-tx.50', `a frame with unknown flags 0x${flags.toString(16)}`, await b.net.transmit(frame, { header: { flags } }), [frame]);
      }
    },
  },
  {
    name: 'net-tx/no-checksum-asked',
    clauses: ['net-tx.51', 'net-tx.63'],
    over: [[], ['CSUM']],
    async run(b, s) {
      await b.start();
      const { bytes, layout } = udpFrame();
      for (const [csumStart, csumOffset] of [
        [layout.transport, UDP_CHECKSUM],
        [0xffff, 0xffff],
        [20, 2],
      ] as const)
        s.check(
          'net-tx.51',
          `a frame with csum_start ${csumStart}, csum_offset ${csumOffset} and no NEEDS_CSUM`,
          await b.net.transmit(bytes, { header: { csumStart, csumOffset } }),
          [bytes],
        );
      const wrong = bytes.slice();
      put16(wrong, layout.transport + UDP_CHECKSUM, 0x1234);
      s.check('net-tx.63', 'a frame with a wrong checksum and no NEEDS_CSUM', await b.net.transmit(wrong), [wrong]);
    },
  },
  {
    name: 'net-tx/TSO4',
    clauses: ['net-tx.9'],
    over: [['HOST_TSO4']],
    async run(b, s) {
      await b.start();
      await segments(b, s, 'net-tx.9', tcp4());
    },
  },
  {
    name: 'net-tx/TSO6',
    clauses: ['net-tx.11'],
    over: [['HOST_TSO6']],
    async run(b, s) {
      await b.start();
      await segments(b, s, 'net-tx.11', request({ version: 6, protocol: 'tcp', payload: 3500 }, GSO.TCPV6));
    },
  },
  {
    name: 'net-tx/UFO',
    clauses: ['net-tx.13'],
    over: [['HOST_UFO']],
    async run(b, s) {
      await b.start();
      const { frame, header, large } = request({ version: 4, protocol: 'udp', payload: 3500 }, GSO.UDP);
      checkFragments(s, 'net-tx.13', await b.net.transmit(frame, { header }), large);
    },
  },
  {
    name: 'net-tx/USO',
    clauses: ['net-tx.15'],
    over: [['HOST_USO']],
    async run(b, s) {
      await b.start();
      for (const version of [4, 6] as const) await segments(b, s, 'net-tx.15', request({ version, protocol: 'udp', payload: 3500 }, GSO.UDP_L4));
    },
  },
  {
    name: 'net-tx/exact-header-length',
    clauses: ['net-tx.54'],
    over: [['HOST_TSO4', 'GUEST_HDRLEN']],
    async run(b, s) {
      await b.start();
      await segments(b, s, 'net-tx.54', tcp4());
    },
  },
  {
    name: 'net-tx/wrong-header-length',
    clauses: ['net-tx.55', 'net-tx.56'],
    over: [['HOST_TSO4']],
    async run(b, s) {
      await b.start();
      const { frame, header, large } = tcp4();
      for (const headerLength of [large.payload + 40, 0, 1, large.payload - 4, 0xffff]) {
        const clause = headerLength > large.payload && headerLength < 200 ? 'net-tx.55' : 'net-tx.56';
        await segments(b, s, clause, { frame, large, header: { ...header, headerLength } });
      }
      s.check('net-tx.56', 'a small frame with an hdr_len beyond its end', await b.net.transmit(plainFrame(1), { header: { headerLength: 1000 } }), [
        plainFrame(1),
      ]);
    },
  },
  {
    name: 'net-tx/outer-header-offset',
    clauses: ['net-tx.1', 'net-tx.8', 'net-tx.52', 'net-tx.53'],
    over: [['OUT_NET_HEADER', 'HOST_TSO4']],
    async run(b, s) {
      await b.start();
      const { frame, header, large } = tcp4();
      const small = tcpFrame().bytes;
      s.check('net-tx.1', 'a frame with outer_nh_offset', await b.net.transmit(small, { header: { outerNetwork: 14 } }), [small]);
      s.check('net-tx.8', 'a frame with outer_nh_offset', await b.net.transmit(small, { header: { outerNetwork: 14 } }), [small]);
      await segments(b, s, 'net-tx.52', { frame, large, header: { ...header, outerNetwork: 14 } });
      await segments(b, s, 'net-tx.53', { frame, large, header: { ...header, outerNetwork: 0 } });
    },
  },
  {
    name: 'net-tx/tunnel',
    clauses: ['net-tx.19', 'net-tx.39'],
    over: [['HOST_UDP_TUNNEL_GSO']],
    async run(b, s) {
      await b.start();
      await segments(b, s, 'net-tx.19', tunnel(4));
      await segments(b, s, 'net-tx.39', tunnel(6));
    },
  },
  {
    name: 'net-tx/tunnel-outer-checksum',
    clauses: ['net-tx.41'],
    over: [['HOST_UDP_TUNNEL_GSO', 'HOST_UDP_TUNNEL_GSO_CSUM']],
    async run(b, s) {
      await b.start();
      const asked = tunnel(4, true);
      const sent = await segments(b, s, 'net-tx.41', asked);
      for (const frame of sent) s.check('net-tx.41', 'outer UDP checksum of a segment', checksumHolds(frame, 14, asked.header.outerTransport ?? 0, UDP), true);
    },
  },
  {
    name: 'net-tx/tunnel-refused',
    clauses: ['net-tx.57', 'net-tx.58', 'net-tx.59', 'net-tx.60', 'net-tx.61'],
    over: [['HOST_UDP_TUNNEL_GSO']],
    async run(b, s) {
      await b.start();
      const asked = tunnel(4);
      const but = (header: Partial<NetHeader>): Request => ({ ...asked, header: { ...asked.header, ...header } });
      const type = asked.header.gsoType ?? 0;
      await refused(b, s, 'net-tx.57', 'a request with both tunnel bits', but({ gsoType: type | GSO.TUNNEL_V6 }));
      await refused(b, s, 'net-tx.59', 'a tunnel request without NEEDS_CSUM', but({ flags: 0 }));
      await refused(b, s, 'net-tx.60', 'a tunnel request with DATA_VALID', but({ flags: HDR.NEEDS_CSUM | HDR.DATA_VALID }));
      await refused(b, s, 'net-tx.61', 'a tunnel request of type NONE', but({ gsoType: GSO.TUNNEL_V4 }));
      const frame = plainFrame(2);
      s.check(
        'net-tx.58',
        'a frame with tunnel offsets and no tunnel bit',
        await b.net.transmit(frame, { header: { outerTransport: 0xfff0, innerNetwork: 0xfff8 } }),
        [frame],
      );
      const plain = tcp4();
      await segments(b, s, 'net-tx.58', { ...plain, header: { ...plain.header, outerTransport: 3, innerNetwork: 1 } });
    },
  },
  {
    name: 'net-tx/tunnel-checksum-alone',
    clauses: ['net-tx.62'],
    over: [['HOST_UDP_TUNNEL_GSO', 'HOST_UDP_TUNNEL_GSO_CSUM']],
    async run(b, s) {
      await b.start();
      s.check(
        'net-tx.62',
        'frames sent for UDP_TUNNEL_CSUM without a tunnel bit',
        (await b.net.transmit(udpFrame().bytes, { header: { flags: HDR.UDP_TUNNEL_CSUM } })).length,
        0,
      );
      s.ensure((await b.net.transmit(plainFrame(1))).length === 1, 'the frame after it did not go out');
    },
  },
];
