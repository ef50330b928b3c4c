// A network driver at work: frames it leaves to the device to finish, frames it takes and what it makes of their headers, buffers, its address, the link.

import { composeTunnel } from '#guest-sim/frames';
import { tcpFrame, udpFrame } from '../cases/frames.ts';
import { CFG_TYPE, GSO, HDR, NET_CONFIG } from '../layout.ts';
import type { WireOffload } from '../target.ts';
import type { DriverScenario, FrameTaken } from './scenario.ts';
import type { Stage } from './stage.ts';

const SENT_BY_DRIVER = [0x52, 0x54, 0, 0xc0, 0xff, 0xee];
const CWR = 0x90;
const tunnel = (outer: 4 | 6, inner: 4 | 6, protocol: 'tcp' | 'udp', payload = 3000) =>
  composeTunnel('vxlan', { version: outer }, { version: inner, protocol, payload });

/** Everything that can be left to a device, each kind of packet once. Says how many the driver sent. */
function sendAll(stage: Stage): number {
  const { driver } = stage;
  let sent = 0;
  for (const version of [4, 6] as const) {
    sent += Number(driver.send({ frame: udpFrame({ version, payload: 200 }), plain: true }));
    sent += Number(driver.send({ frame: tcpFrame({ version, payload: 200 }) }));
    sent += Number(driver.send({ frame: udpFrame({ version, payload: 200 }) }));
    sent += Number(driver.send({ frame: tcpFrame({ version, payload: 5000 }), gsoSize: 1000 }));
    sent += Number(driver.send({ frame: tcpFrame({ version, payload: 5000, flags: CWR }), gsoSize: 1000 }));
    sent += Number(driver.send({ frame: udpFrame({ version, payload: 5000 }), gsoSize: 1000 }));
    sent += Number(driver.send({ frame: udpFrame({ version, payload: 5000 }), gsoSize: 1000, fragments: true }));
    for (const inner of [4, 6] as const)
      for (const outerChecksum of [false, true])
        for (const protocol of ['tcp', 'udp'] as const) sent += Number(driver.send({ frame: tunnel(version, inner, protocol), gsoSize: 1000, outerChecksum }));
    stage.turns(4);
  }
  return sent;
}

/** Takes one frame whose header is changed on the way, and says what the driver made of it. */
function takes(stage: Stage, frame: Uint8Array, change?: (header: Uint8Array) => void, offload?: WireOffload): FrameTaken[] {
  stage.driver.taken();
  stage.received(change);
  stage.put(frame, offload);
  stage.turns(4);
  stage.received(undefined);
  return stage.driver.taken();
}

function set16(header: Uint8Array, at: number, value: number): void {
  header[at] = value & 0xff;
  header[at + 1] = value >>> 8;
}

const plain = udpFrame({ payload: 120 }).bytes;

/** A TCP frame in a tunnel, to be cut: the header it has when all is well. */
function tunnelled(): { bytes: Uint8Array; offload: WireOffload } {
  const { bytes, layout } = tunnel(4, 4, 'tcp');
  const { transport, payload, outerTransport, innerNetwork } = layout;
  return {
    bytes,
    offload: {
      flags: HDR.NEEDS_CSUM,
      gsoType: GSO.TCPV4 | GSO.TUNNEL_V4,
      headerLength: payload,
      gsoSize: 1000,
      csumStart: transport,
      csumOffset: 16,
      outerTransport,
      innerNetwork,
    },
  };
}

const TUNNELS = ['GUEST_UDP_TUNNEL_GSO', 'GUEST_UDP_TUNNEL_GSO_CSUM', 'HOST_UDP_TUNNEL_GSO', 'HOST_UDP_TUNNEL_GSO_CSUM'] as const;

export const NET_SCENARIOS: readonly DriverScenario[] = [
  {
    name: 'driver/offloads',
    clauses: [],
    driver: { features: TUNNELS },
    run(stage) {
      stage.start();
      stage.check('net-tx.4', 'frames of every kind are sent', sendAll(stage), 30);
    },
  },
  {
    name: 'driver/tunnels-without-outer-checksum',
    clauses: [],
    device: { withhold: ['HOST_UDP_TUNNEL_GSO_CSUM', 'GUEST_UDP_TUNNEL_GSO_CSUM', 'GUEST_HDRLEN', 'HOST_ECN'] },
    driver: { features: TUNNELS },
    run(stage) {
      stage.start();
      sendAll(stage);
      // Its clause stands even where the driver sends no such frame.
      stage.check(
        'net-tx.17',
        'TCP with CWR sent to be cut without HOST_ECN',
        stage.driver.send({ frame: tcpFrame({ payload: 5000, flags: CWR }), gsoSize: 1000 }),
        false,
      );
    },
  },
  {
    name: 'driver/no-tunnels',
    clauses: [],
    run(stage) {
      stage.start();
      sendAll(stage);
    },
  },
  {
    name: 'driver/no-segmentation',
    clauses: [],
    device: { withhold: ['HOST_TSO4', 'HOST_TSO6', 'HOST_UFO', 'HOST_USO'] },
    run(stage) {
      stage.start();
      sendAll(stage);
    },
  },
  {
    name: 'driver/no-checksums',
    clauses: [],
    device: { withhold: ['CSUM'] },
    run(stage) {
      stage.start();
      sendAll(stage);
    },
  },
  // ---- receive buffers ----
  {
    name: 'driver/big-buffers',
    clauses: ['net-rx.1'],
    device: { withhold: ['MRG_RXBUF'] },
    run(stage) {
      stage.start();
      stage.check('net-rx.1', 'frames carried in big buffers', stage.echoes(), true);
    },
  },
  {
    name: 'driver/plain-buffers',
    clauses: ['net-rx.2'],
    device: { withhold: ['MRG_RXBUF', 'GUEST_TSO4', 'GUEST_TSO6', 'GUEST_UFO', 'GUEST_USO4', 'GUEST_USO6'], mtu: 1514 },
    run(stage) {
      stage.start();
      stage.check('net-rx.2', 'frames carried in plain buffers', stage.echoes(), true);
    },
  },
  {
    name: 'driver/longer-headers',
    clauses: ['net-rx.4', 'net-tx.4'],
    driver: { features: ['HASH_REPORT'] },
    run(stage) {
      stage.start();
      const [frame] = takes(stage, plain);
      stage.check('net-rx.4', 'a frame behind a header of 20 bytes', frame?.bytes, plain);
      stage.check('net-tx.4', 'frames carried behind headers of 20 bytes', stage.echoes(), true);
    },
  },
  // ---- what a header says ----
  {
    name: 'driver/receive-headers',
    clauses: ['net-rx.9', 'net-rx.27', 'net-rx.42', 'net-rx.48', 'net-rx.50', 'net-rx.51', 'net-rx.52', 'net-rx.53', 'net-rx.54'],
    run(stage) {
      stage.start();
      const what = (frames: FrameTaken[]): unknown => frames.map(({ bytes, checksum }) => [bytes.length, checksum]);
      const none = [[plain.length, 'unknown']];
      stage.check('net-rx.48', 'a frame with flags that mean nothing', what(takes(stage, plain, (header) => (header[0] = (header[0] as number) | 0xf0))), none);
      const wild = takes(stage, plain, (header) => {
        header[0] = 0;
        set16(header, 6, 0xfff0);
        set16(header, 8, 0xfff0);
      });
      stage.check('net-rx.51', 'a frame without NEEDS_CSUM, whose csum_start and csum_offset are wild', what(wild), none);
      const hint = (header: Uint8Array): void => set16(header, 2, 0xffff);
      for (const clause of ['net-rx.52', 'net-rx.53']) stage.check(clause, 'a frame whose hdr_len is wrong', what(takes(stage, plain, hint)), none);
      const wrong = plain.slice();
      wrong[wrong.length - 1] = (wrong[wrong.length - 1] as number) ^ 0xff;
      stage.check('net-rx.54', 'a wrong checksum without NEEDS_CSUM and DATA_VALID', what(takes(stage, wrong, (header) => (header[0] = 0))), none);
      stage.check('net-rx.50', 'what the driver makes of a header without outer_nh_offset', what(takes(stage, plain)), none);
      const { bytes, layout } = udpFrame({ payload: 120 });
      const partial = takes(stage, bytes, undefined, { flags: HDR.NEEDS_CSUM, csumStart: layout.transport, csumOffset: 6 });
      stage.check('net-rx.27', 'a frame with NEEDS_CSUM', what(partial), [[bytes.length, 'partial']]);
      const valid = takes(stage, plain, (header) => (header[0] = HDR.DATA_VALID));
      stage.check('net-rx.42', 'a frame with DATA_VALID', valid.length, 1);
      const large = tcpFrame({ payload: 4000 });
      const gso = {
        flags: HDR.NEEDS_CSUM,
        gsoType: GSO.TCPV4,
        gsoSize: 1000,
        headerLength: large.layout.payload,
        csumStart: large.layout.transport,
        csumOffset: 16,
      };
      stage.check('net-rx.9', 'a frame to be cut', what(takes(stage, large.bytes, undefined, gso)), [[large.bytes.length, 'partial']]);
      // Offsets count only with NEEDS_CSUM alone.
      const coalesced = takes(stage, plain, (header) => {
        header[0] = HDR.NEEDS_CSUM | HDR.RSC_INFO;
        set16(header, 6, 0xfff0);
        set16(header, 8, 0xfff0);
      });
      stage.check('net-rx.51', 'a frame with RSC_INFO, whose csum_start and csum_offset are counts', coalesced.length, 1);
    },
  },
  {
    name: 'driver/tunnel-headers',
    clauses: ['net-rx.10', 'net-rx.45', 'net-rx.55', 'net-rx.56', 'net-rx.57', 'net-rx.58', 'net-rx.59', 'net-rx.60'],
    driver: { features: TUNNELS },
    run(stage) {
      stage.start();
      const { bytes, offload } = tunnelled();
      const taken = (change?: (header: Uint8Array) => void): number => takes(stage, bytes, change, offload).length;
      stage.check('net-rx.10', 'a frame in a tunnel, to be cut', taken(), 1);
      stage.check(
        'net-rx.45',
        'the same with UDP_TUNNEL_CSUM',
        taken((header) => (header[0] = HDR.NEEDS_CSUM | HDR.UDP_TUNNEL_CSUM)),
        1,
      );
      stage.check(
        'net-rx.55',
        'one with both tunnel bits',
        taken((header) => (header[1] = GSO.TCPV4 | GSO.TUNNEL_V4 | GSO.TUNNEL_V6)),
        0,
      );
      stage.check(
        'net-rx.57',
        'one without NEEDS_CSUM',
        taken((header) => (header[0] = 0)),
        0,
      );
      stage.check(
        'net-rx.58',
        'one with DATA_VALID',
        taken((header) => (header[0] = HDR.NEEDS_CSUM | HDR.DATA_VALID)),
        0,
      );
      stage.check(
        'net-rx.59',
        'one with nothing to be cut',
        taken((header) => (header[1] = GSO.TUNNEL_V4)),
        0,
      );
      const [offsets] = takes(stage, plain, (header) => {
        set16(header, 20, 0xfff0);
        set16(header, 22, 0xfff0);
      });
      stage.check('net-rx.56', 'tunnel offsets of a frame without tunnel bits', offsets && [offsets.outerTransport, offsets.innerNetwork], [0, 0]);
      const { layout } = udpFrame({ payload: 120 });
      const bare = takes(stage, plain, (header) => (header[0] = HDR.NEEDS_CSUM | HDR.UDP_TUNNEL_CSUM), {
        flags: HDR.NEEDS_CSUM,
        csumStart: layout.transport,
        csumOffset: 6,
      });
      stage.check('net-rx.60', 'UDP_TUNNEL_CSUM with NEEDS_CSUM and no tunnel', bare.length, 0);
    },
  },
  // ---- configuration ----
  {
    name: 'driver/no-mac',
    clauses: ['net.14'],
    rings: 'any',
    device: { withhold: ['MAC'] },
    run(stage) {
      stage.start();
      stage.sent();
      stage.announce();
      stage.turns(5);
      const [frame] = stage.sent();
      stage.check('net.14', 'group and local bit of the address of a driver without MAC', frame && (frame[6] as number) & 3, 2);
    },
  },
  {
    name: 'driver/no-status',
    clauses: ['net.15'],
    rings: 'any',
    device: { withhold: ['STATUS'] },
    run(stage) {
      stage.start();
      stage.check('net.15', 'link without STATUS', [stage.driver.linkUp, stage.echoes()], [true, true]);
    },
  },
  {
    name: 'driver/link',
    clauses: ['net.16', 'net.22'],
    rings: 'any',
    run(stage) {
      stage.start();
      const seen = [stage.driver.linkUp];
      const read = new Set<number>();
      stage.answer(({ type, offset }, _size, value) => {
        if (type === CFG_TYPE.DEVICE) read.add(offset);
        return value;
      });
      for (const up of [false, true]) {
        stage.setLink(up);
        stage.turns(4);
        seen.push(stage.driver.linkUp);
      }
      stage.check('net.16', 'link as the driver knows it: at first, pulled, plugged', seen, [true, false, true]);
      stage.check(
        'net.22',
        'speed and duplex read after the configuration changed',
        [read.has(NET_CONFIG.speed[0]), read.has(NET_CONFIG.duplex[0])],
        [true, true],
      );
    },
  },
  {
    name: 'driver/speed-unknown',
    clauses: ['net.21'],
    rings: 'any',
    run(stage) {
      stage.answer(({ type, offset }, _size, value) => {
        if (type !== CFG_TYPE.DEVICE) return value;
        if (offset === NET_CONFIG.speed[0]) return 0x9000_0000;
        return offset === NET_CONFIG.duplex[0] ? 0x33 : value;
      });
      stage.start();
      const { speed, fullDuplex } = stage.driver.speed;
      stage.check('net.21', 'speed 0x90000000 and duplex 0x33, as the driver knows them', [speed, fullDuplex], [undefined, undefined]);
    },
  },
  {
    name: 'driver/announcement',
    clauses: ['net-ctrl.33', 'net-ctrl.34', 'net.13'],
    rings: 'any',
    run(stage) {
      stage.start();
      stage.sent();
      stage.announce();
      stage.turns(5);
      const sent = stage.sent();
      stage.check('net-ctrl.33', 'frames by which the driver announces itself', sent.length > 0, true);
      stage.check('net.13', 'address they come from', sent[0] && [...sent[0].subarray(6, 12)], SENT_BY_DRIVER);
      // Bit 1 of status is ANNOUNCE; it goes with the acknowledgement.
      const at = stage.watched.addressOf(CFG_TYPE.DEVICE).structure + NET_CONFIG.status[0];
      stage.check('net-ctrl.34', 'ANNOUNCE of status afterwards', stage.watched.mmioRead(at, 2) & 2, 0);
    },
  },
];
