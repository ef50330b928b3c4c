// Receive buffers and processing of incoming packets (virtio 1.4 5.1.9.3, 5.1.9.4).

import { type ComposedFrame, composeFrame, composeTunnel, type FrameSpec } from '#guest-sim/frames';
import type { Bench } from '../bench.ts';
import type { Case } from '../case.ts';
import { GSO, HDR } from '../layout.ts';
import type { Received } from '../net-bench.ts';
import type { Session } from '../session.ts';
import type { WireOffload } from '../target.ts';
import { checksumHolds, fold, get16, plainFrame, pseudoSum, put16, sumBytes, tcpFrame, udpFrame } from './frames.ts';
import { checkFragments, checkSegments } from './segments.ts';

const TCP = 6;
const UDP = 17;
const MSS = 1000;
const CWR = 0x80;
const ACK = 0x10;
const ANY_TUNNEL = GSO.TUNNEL_V4 | GSO.TUNNEL_V6;

interface Large {
  readonly composed: ComposedFrame;
  /** As on the wire between two who leave segmentation and checksums to each other. */
  readonly frame: Uint8Array;
  readonly offload: WireOffload;
  readonly protocol: number;
}

function large(spec: FrameSpec, gsoType: number): Large {
  const composed = composeFrame(spec);
  const { layout } = composed;
  const protocol = spec.protocol === 'tcp' ? TCP : UDP;
  const csumOffset = protocol === TCP ? 16 : 6;
  const frame = composed.bytes.slice();
  put16(frame, layout.transport + csumOffset, pseudoSum(frame, layout.network, layout.transport, protocol));
  return {
    composed,
    frame,
    protocol,
    offload: { flags: HDR.NEEDS_CSUM, gsoType, gsoSize: MSS, headerLength: layout.payload, csumStart: layout.transport, csumOffset },
  };
}

function largeTunnel(inner: 4 | 6, outerChecksum: boolean): Large {
  const composed = composeTunnel('vxlan', { version: 4, noChecksum: !outerChecksum }, { version: inner, protocol: 'tcp', payload: 2500 });
  const { layout } = composed;
  const frame = composed.bytes.slice();
  put16(frame, layout.transport + 16, pseudoSum(frame, layout.innerNetwork, layout.transport, TCP));
  if (outerChecksum) put16(frame, layout.outerTransport + 6, pseudoSum(frame, layout.network, layout.outerTransport, UDP));
  return {
    composed,
    frame,
    protocol: TCP,
    offload: {
      flags: HDR.NEEDS_CSUM | (outerChecksum ? HDR.UDP_TUNNEL_CSUM : 0),
      gsoType: inner === 4 ? GSO.TCPV4 | GSO.TUNNEL_V4 : GSO.TCPV6 | GSO.TUNNEL_V6,
      gsoSize: MSS,
      headerLength: layout.payload,
      csumStart: layout.transport,
      csumOffset: 16,
      outerTransport: layout.outerTransport,
      innerNetwork: layout.innerNetwork,
    },
  };
}

function needOffloads(s: Session): void {
  if (s.target.wireOffloads !== true) s.skip('the wire of this target carries complete frames only');
}

/** Receives what a large frame becomes for a driver that takes no such frames: complete ones, none of this type. */
async function receivedWhole(b: Bench, s: Session, clause: string, { composed, frame, offload, protocol }: Large, type: number): Promise<Received[]> {
  const received = await b.net.inject(frame, offload);
  for (const { header } of received) s.checkThat(clause, 'gso_type', (header.gsoType & ~GSO.ECN) !== type, `not ${type}`, header.gsoType);
  const { layout } = composed;
  const pieces = received.map(({ bytes }) => bytes);
  const whole = {
    bytes: composed.bytes,
    network: layout.innerNetwork || layout.network,
    transport: layout.transport,
    payload: layout.payload,
    protocol,
    segmentSize: MSS,
  };
  if (type === GSO.UDP) checkFragments(s, clause, pieces, whole);
  else checkSegments(s, clause, pieces, whole);
  return received;
}

/** A delivered frame that leaves checksums to the driver: what filling it in makes of it. */
function filled(bytes: Uint8Array, start: number, offset: number): Uint8Array {
  const copy = bytes.slice();
  const sum = ~fold(sumBytes(copy, start, copy.length - start)) & 0xffff;
  put16(copy, start + offset, sum);
  return copy;
}

export const NET_RX_CASES: readonly Case[] = [
  {
    name: 'net-rx/one-buffer',
    clauses: ['net-rx.7', 'net-rx.11'],
    async run(b, s) {
      await b.start();
      for (const length of [60, 500, 1514]) {
        const received = await b.net.arrives(plainFrame(length, undefined, length));
        s.check('net-rx.11', 'num_buffers without MRG_RXBUF', received.header.numBuffers, 1);
        s.check('net-rx.7', 'buffers of a frame', received.used.length, 1);
        s.check('net-rx.7', 'the frame in its one buffer', received.bytes, plainFrame(length, undefined, length));
      }
    },
  },
  {
    name: 'net-rx/merged-buffers',
    clauses: ['net-rx.6', 'net-rx.12', 'net-rx.13', 'net-rx.14'],
    over: [['MRG_RXBUF']],
    async run(b, s) {
      await b.start({ buffers: 60, bufferSize: 128 });
      for (const length of [60, 128 - b.net.headerSize, 129 - b.net.headerSize, 700, 1514]) {
        const frame = plainFrame(length, undefined, length);
        const received = await b.net.arrives(frame);
        const count = Math.ceil((length + b.net.headerSize) / 128);
        s.check('net-rx.6', `num_buffers of a frame of ${length} bytes in buffers of 128`, received.header.numBuffers, count);
        s.check('net-rx.12', 'num_buffers, header included', received.header.numBuffers, count);
        s.check('net-rx.14', 'buffers that show as used when the first one does', received.used.length, count);
        s.check(
          'net-rx.13',
          'used lengths of all buffers but the last',
          received.used.slice(0, -1).map((used) => used.length),
          Array.from({ length: count - 1 }, () => 128),
        );
        s.check('net-rx.13', 'the frame in its buffers', received.bytes, frame);
      }
    },
  },
  {
    name: 'net-rx/no-offloads',
    clauses: ['net-rx.15', 'net-rx.16', 'net-rx.36'],
    async run(b, s) {
      await b.start();
      for (const spec of [
        { protocol: 'udp', version: 4 },
        { protocol: 'tcp', version: 6 },
      ] as const) {
        const { composed, frame, offload, protocol } = large({ ...spec, payload: 400 }, GSO.NONE);
        // Left to the receiver by the sender where the wire can say so; complete otherwise.
        const { header, bytes } = s.target.wireOffloads ? await b.net.arrives(frame, { ...offload, gsoSize: 0 }) : await b.net.arrives(composed.bytes);
        s.check('net-rx.15', 'flags without GUEST_CSUM', header.flags, 0);
        s.check(
          'net-rx.16',
          'transport checksum of a delivered frame',
          checksumHolds(bytes, composed.layout.network, composed.layout.transport, protocol),
          true,
        );
        s.check('net-rx.16', 'the delivered frame', bytes, composed.bytes);
        s.check('net-rx.36', 'gso_type without guest segmentation offloads', header.gsoType, GSO.NONE);
      }
      if (s.target.wireOffloads !== true) return;
      const { frame, offload } = large({ version: 4, protocol: 'tcp', payload: 2500 }, GSO.TCPV4);
      for (const { header } of await b.net.inject(frame, offload)) {
        s.check('net-rx.36', 'gso_type of a segment', header.gsoType, GSO.NONE);
        s.check('net-rx.15', 'flags of a segment', header.flags, 0);
      }
    },
  },
  {
    name: 'net-rx/without-TSO4',
    clauses: ['net-rx.17'],
    over: [[], ['GUEST_CSUM', 'GUEST_TSO6']],
    async run(b, s) {
      needOffloads(s);
      await b.start();
      await receivedWholeOrPartial(b, s, 'net-rx.17', large({ version: 4, protocol: 'tcp', payload: 3500 }, GSO.TCPV4), GSO.TCPV4);
    },
  },
  {
    name: 'net-rx/without-TSO6',
    clauses: ['net-rx.19'],
    over: [[], ['GUEST_CSUM', 'GUEST_TSO4']],
    async run(b, s) {
      needOffloads(s);
      await b.start();
      await receivedWholeOrPartial(b, s, 'net-rx.19', large({ version: 6, protocol: 'tcp', payload: 3500 }, GSO.TCPV6), GSO.TCPV6);
    },
  },
  {
    name: 'net-rx/without-USO',
    clauses: ['net-rx.20'],
    over: [[], ['GUEST_CSUM', 'GUEST_TSO4']],
    async run(b, s) {
      needOffloads(s);
      await b.start();
      await receivedWholeOrPartial(b, s, 'net-rx.20', large({ version: 4, protocol: 'udp', payload: 3500 }, GSO.UDP_L4), GSO.UDP_L4);
    },
  },
  {
    name: 'net-rx/without-UFO',
    clauses: ['net-rx.18'],
    async run(b, s) {
      needOffloads(s);
      await b.start();
      await receivedWhole(b, s, 'net-rx.18', large({ version: 4, protocol: 'udp', payload: 3500 }, GSO.UDP), GSO.UDP);
    },
  },
  {
    name: 'net-rx/without-tunnels',
    clauses: ['net-rx.21', 'net-rx.22', 'net-rx.31', 'net-rx.35'],
    async run(b, s) {
      needOffloads(s);
      await b.start();
      for (const outer of [false, true]) {
        const received = await receivedWhole(b, s, 'net-rx.31', largeTunnel(4, outer), GSO.TCPV4 | GSO.TUNNEL_V4);
        for (const { header } of received) {
          s.check('net-rx.21', 'tunnel bits of gso_type without GUEST_UDP_TUNNEL_GSO', header.gsoType & ANY_TUNNEL, 0);
          s.check('net-rx.22', 'UDP_TUNNEL_CSUM without GUEST_UDP_TUNNEL_GSO_CSUM', header.flags & HDR.UDP_TUNNEL_CSUM, 0);
        }
        if (outer) for (const { bytes } of received) s.check('net-rx.35', 'outer UDP checksum of a segment', checksumHolds(bytes, 14, 34, UDP), true);
      }
    },
  },
  {
    name: 'net-rx/TSO',
    clauses: ['net-rx.28', 'net-rx.29', 'net-rx.30', 'net-rx.37', 'net-rx.38', 'net-rx.40', 'net-rx.41'],
    over: [['GUEST_TSO4', 'GUEST_TSO6', 'GUEST_USO4', 'MRG_RXBUF']],
    async run(b, s) {
      needOffloads(s);
      await b.start();
      for (const { frame, offload, composed, protocol } of [
        large({ version: 4, protocol: 'tcp', payload: 3500 }, GSO.TCPV4),
        large({ version: 6, protocol: 'tcp', payload: 3500 }, GSO.TCPV6),
        large({ version: 4, protocol: 'udp', payload: 3500 }, GSO.UDP_L4),
      ]) {
        const { header, bytes } = await b.net.arrives(frame, offload);
        const { layout } = composed;
        s.ensure(header.gsoType === offload.gsoType, 'a large frame was not delivered as one', header.gsoType);
        s.check('net-rx.37', 'NEEDS_CSUM of a large frame', header.flags & HDR.NEEDS_CSUM, HDR.NEEDS_CSUM);
        s.check('net-rx.38', 'gso_size', header.gsoSize, MSS);
        s.check('net-rx.40', 'RSC_INFO without RSC_EXT', header.flags & HDR.RSC_INFO, 0);
        s.checkThat('net-rx.41', 'hdr_len', header.headerLength >= layout.payload, `at least ${layout.payload}`, header.headerLength);
        const at = header.csumStart + header.csumOffset;
        s.check('net-rx.30', 'csum_start and csum_offset', [header.csumStart, header.csumOffset], [layout.transport, protocol === TCP ? 16 : 6]);
        s.check(
          'net-rx.29',
          'the checksum field',
          at + 2 <= bytes.length ? get16(bytes, at) : undefined,
          pseudoSum(bytes, layout.network, layout.transport, protocol),
        );
        if (layout.network === 14 && (bytes[14] as number) >>> 4 === 4) s.check('net-rx.28', 'IPv4 header checksum', fold(sumBytes(bytes, 14, 20)), 0xffff);
      }
    },
  },
  {
    name: 'net-rx/checksum-left',
    clauses: ['net-rx.28', 'net-rx.29', 'net-rx.30'],
    over: [['GUEST_CSUM']],
    async run(b, s) {
      needOffloads(s);
      await b.start();
      for (const spec of [
        { protocol: 'udp', version: 4 },
        { protocol: 'tcp', version: 4 },
        { protocol: 'tcp', version: 6 },
      ] as const) {
        const { frame, offload, composed, protocol } = large({ ...spec, payload: 300 }, GSO.NONE);
        const { header, bytes } = await b.net.arrives(frame, { ...offload, gsoSize: 0 });
        const { layout } = composed;
        if ((header.flags & HDR.NEEDS_CSUM) === 0) {
          // The device may also fill it in itself.
          for (const clause of ['net-rx.28', 'net-rx.29', 'net-rx.30']) s.check(clause, 'a frame delivered without NEEDS_CSUM', bytes, composed.bytes);
          continue;
        }
        s.check(
          'net-rx.29',
          'the checksum field',
          get16(bytes, layout.transport + (protocol === TCP ? 16 : 6)),
          pseudoSum(bytes, layout.network, layout.transport, protocol),
        );
        s.check('net-rx.30', 'the frame once its checksum is filled in', filled(bytes, header.csumStart, header.csumOffset), composed.bytes);
        if (spec.version === 4) s.check('net-rx.28', 'IPv4 header checksum', fold(sumBytes(bytes, 14, 20)), 0xffff);
      }
    },
  },
  {
    name: 'net-rx/checksum-vouched-for',
    clauses: ['net-rx.43'],
    over: [['GUEST_CSUM']],
    async run(b, s) {
      await b.start();
      for (const { bytes, layout } of [udpFrame(), tcpFrame()]) {
        const wrong = bytes.slice();
        wrong[layout.payload + 3] = (wrong[layout.payload + 3] as number) ^ 0x40;
        const received = await b.net.inject(wrong);
        for (const { header } of received) s.check('net-rx.43', 'DATA_VALID of a frame whose checksum is wrong', header.flags & HDR.DATA_VALID, 0);
        const right = await b.net.arrives(bytes);
        s.check('net-rx.43', 'a frame whose checksum is right', right.bytes, bytes);
      }
    },
  },
  {
    name: 'net-rx/ECN-not-negotiated',
    clauses: ['net-rx.23'],
    over: [['GUEST_TSO4']],
    async run(b, s) {
      needOffloads(s);
      await b.start({ features: ['MRG_RXBUF'] });
      const { frame, offload } = large({ version: 4, protocol: 'tcp', payload: 2500, flags: ACK | CWR }, GSO.TCPV4 | GSO.ECN);
      const received = await b.net.inject(frame, offload);
      s.checkThat('net-rx.23', 'frames received', received.length >= 1, 'at least 1', received.length);
      for (const { header } of received) s.check('net-rx.23', 'gso_type of a frame with CWR', header.gsoType, GSO.NONE);
    },
  },
  {
    name: 'net-rx/ECN',
    clauses: ['net-rx.24'],
    over: [['GUEST_TSO4', 'GUEST_ECN']],
    async run(b, s) {
      needOffloads(s);
      await b.start({ features: ['MRG_RXBUF'] });
      const { frame, offload } = large({ version: 4, protocol: 'tcp', payload: 2500, flags: ACK | CWR }, GSO.TCPV4 | GSO.ECN);
      const { header } = await b.net.arrives(frame, offload);
      s.check('net-rx.24', 'gso_type of a large frame with CWR', header.gsoType, GSO.TCPV4 | GSO.ECN);
    },
  },
  {
    name: 'net-rx/outer-header-offset',
    clauses: ['net-rx.26'],
    over: [['OUT_NET_HEADER']],
    async run(b, s) {
      await b.start();
      const { header } = await b.net.arrives(plainFrame(1));
      s.check('net-rx.26', 'outer_nh_offset of a frame without a network header', header.outerNetwork, 0);
    },
  },
  {
    name: 'net-rx/tunnels',
    clauses: ['net-rx.32', 'net-rx.33', 'net-rx.34', 'net-rx.44', 'net-rx.35'],
    over: [['GUEST_UDP_TUNNEL_GSO', 'MRG_RXBUF']],
    async run(b, s) {
      needOffloads(s);
      await b.start();
      for (const inner of [4, 6] as const) {
        const { frame, offload, composed } = largeTunnel(inner, false);
        const { header, bytes } = await b.net.arrives(frame, offload);
        const { layout } = composed;
        s.check('net-rx.32', `gso_type with IPv${inner} inside`, header.gsoType, offload.gsoType);
        s.check('net-rx.33', 'outer_th_offset and inner_nh_offset', [header.outerTransport, header.innerNetwork], [layout.outerTransport, layout.innerNetwork]);
        s.check('net-rx.34', 'UDP_TUNNEL_CSUM', header.flags & HDR.UDP_TUNNEL_CSUM, 0);
        const outer = get16(bytes, layout.outerTransport + 6);
        s.checkThat('net-rx.34', 'outer UDP checksum', outer === 0 || checksumHolds(bytes, 14, layout.outerTransport, UDP), '0 or complete', outer);
        s.check('net-rx.44', 'DATA_VALID beside a tunnel bit', header.flags & HDR.DATA_VALID, 0);
      }
      // A sender that leaves the outer checksum to the receiver, too.
      const { frame, offload } = largeTunnel(4, true);
      for (const { header } of await b.net.inject(frame, offload))
        s.check('net-rx.35', 'UDP_TUNNEL_CSUM without its feature', header.flags & HDR.UDP_TUNNEL_CSUM, 0);
    },
  },
  {
    name: 'net-rx/tunnels-outer-checksum',
    clauses: ['net-rx.46', 'net-rx.47'],
    over: [['GUEST_UDP_TUNNEL_GSO', 'GUEST_UDP_TUNNEL_GSO_CSUM', 'MRG_RXBUF']],
    async run(b, s) {
      needOffloads(s);
      await b.start();
      const left = largeTunnel(4, true);
      const { header, bytes } = await b.net.arrives(left.frame, left.offload);
      const { layout } = left.composed;
      s.ensure((header.flags & HDR.UDP_TUNNEL_CSUM) !== 0, 'the outer checksum was not left to the driver', header.flags);
      s.check('net-rx.46', 'outer UDP checksum', get16(bytes, layout.outerTransport + 6), pseudoSum(bytes, layout.network, layout.outerTransport, UDP));
      const none = largeTunnel(4, false);
      const other = await b.net.arrives(none.frame, none.offload);
      const outer = get16(other.bytes, layout.outerTransport + 6);
      s.check('net-rx.47', 'UDP_TUNNEL_CSUM of a frame whose outer checksum is 0', other.header.flags & HDR.UDP_TUNNEL_CSUM, 0);
      s.checkThat('net-rx.47', 'outer UDP checksum', outer === 0 || checksumHolds(other.bytes, 14, layout.outerTransport, UDP), '0 or complete', outer);
    },
  },
  {
    name: 'net-rx/coalesced-segments',
    clauses: ['net-rx.39'],
    over: [['RSC_EXT', 'GUEST_TSO4', 'HOST_TSO4', 'MRG_RXBUF']],
    reading: 'A device need not coalesce; of those that do, the counts are looked at.',
    async run(b, s) {
      await b.start();
      const segments = [0, 1, 2].map((n) => tcpFrame({ payload: 1000, sequence: 5000 + 1000 * n }).bytes);
      for (const segment of segments) await s.send(segment);
      const received = await b.net.received();
      const merged = received.filter(({ header }) => header.gsoType !== GSO.NONE);
      if (merged.length === 0) s.skip('the device coalesced nothing');
      for (const { header, bytes } of merged) {
        s.check('net-rx.39', 'RSC_INFO', header.flags & HDR.RSC_INFO, HDR.RSC_INFO);
        s.check('net-rx.39', 'csum_start, the number of segments', header.csumStart, Math.ceil((bytes.length - 54) / 1000));
        s.check('net-rx.39', 'csum_offset, the number of duplicate acknowledgements', header.csumOffset, 0);
      }
    },
  },
];

/** With GUEST_CSUM segments may come with their checksums left to the driver: they are filled in before they are looked at. */
async function receivedWholeOrPartial(b: Bench, s: Session, clause: string, { composed, frame, offload, protocol }: Large, type: number): Promise<void> {
  const received = await b.net.inject(frame, offload);
  const { layout } = composed;
  const frames = received.map(({ header, bytes }) => {
    s.check(clause, 'gso_type', header.gsoType === type, false);
    return (header.flags & HDR.NEEDS_CSUM) !== 0 ? filled(bytes, header.csumStart, header.csumOffset) : bytes;
  });
  checkSegments(s, clause, frames, {
    bytes: composed.bytes,
    network: layout.network,
    transport: layout.transport,
    payload: layout.payload,
    protocol,
    segmentSize: MSS,
  });
}
