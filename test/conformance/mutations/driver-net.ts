// Drivers that send, take and command wrongly.

import { CFG_TYPE, GSO, HDR } from '#conformance/layout';
import { buffers, type DriverMutation, deaf, descriptors, FLAGS, flagsAt, found, put16, put32, sees, u16, u32 } from './driver-fault.ts';

const OFFLOADS = 'driver/offloads';
const NO_TUNNELS = 'driver/no-tunnels';
const NO_OUTER = 'driver/tunnels-without-outer-checksum';
const NO_CUTS = 'driver/no-segmentation';
const NO_CHECKSUMS = 'driver/no-checksums';
const HEADERS = 'driver/receive-headers';
const TUNNELS = 'driver/tunnel-headers';
const COMMANDS = 'driver/commands';
const LITTLE = 'driver/commands-not-negotiated';
const RSS = 'driver/receive-side-scaling';
const PAIRS = 'driver/queue-pairs';
const CWR_ACK = 0x90;
const TUNNEL = GSO.TUNNEL_V4 | GSO.TUNNEL_V6;

/** Changes headers of frames to be sent; with `size`, the frame begins there. */
const sends = (name: string, breaks: readonly string[], scenario: string, change: (bytes: Uint8Array) => void): DriverMutation =>
  buffers(name, breaks, 'transmit', (bytes) => void (bytes.length > 60 && change(bytes)), scenario);
/** The same of frames to be cut. */
const cuts = (
  name: string,
  breaks: readonly string[],
  scenario: string,
  change: (bytes: Uint8Array) => void,
  tunnel: boolean | undefined = undefined,
): DriverMutation =>
  sends(name, breaks, scenario, (bytes) => {
    const type = bytes[1] as number;
    if (type !== GSO.NONE && (tunnel === undefined || ((type & TUNNEL) !== 0) === tunnel)) change(bytes);
  });
const typed = (scenario: string, gso: number, breaks: readonly string[]): DriverMutation =>
  sends(`asks for gso_type ${gso} in ${scenario}`, breaks, scenario, (bytes) => bytes.set([gso], 1));
/** Changes commands of one class (and number); in others, the class itself. */
const commands = (
  name: string,
  breaks: readonly string[],
  scenario: string,
  kind: number,
  command: number | undefined,
  change: (bytes: Uint8Array) => void,
): DriverMutation =>
  buffers(name, breaks, 'control', (bytes) => void (bytes[0] === kind && (command === undefined || bytes[1] === command) && change(bytes)), scenario);
const VLAN = 2;
/** Says something else where it would add a VLAN. */
const says = (kind: number, command: number, breaks: readonly string[]): DriverMutation =>
  commands(`sends command ${kind}.${command} without its feature`, breaks, LITTLE, VLAN, undefined, (bytes) => bytes.set([kind, command]));
const LONG_HEADER = 24;
const flip = (bytes: Uint8Array, at: number): void => bytes.set([(bytes[at] as number) ^ 1], at);
const word = (bytes: Uint8Array, at: number): number => (bytes[at] as number) | ((bytes[at + 1] as number) << 8);

export const NET_FAULTS: readonly DriverMutation[] = [
  sends('forgets half its header', ['net-tx.4', 'net-rx.4'], 'driver/longer-headers', (bytes) => void bytes.copyWithin(12, 20)),
  sends('asks for checksums without CSUM', ['net-tx.6'], NO_CHECKSUMS, (bytes) => bytes.set([HDR.NEEDS_CSUM])),
  sends('leaves checksums out without CSUM', ['net-tx.7'], NO_CHECKSUMS, (bytes) => flip(bytes, bytes.length - 1)),
  typed(NO_CUTS, GSO.TCPV4, ['net-tx.10', 'net-tx.34']),
  typed(NO_CUTS, GSO.TCPV6, ['net-tx.12']),
  typed(NO_CUTS, GSO.UDP, ['net-tx.14']),
  typed(NO_CUTS, GSO.UDP_L4, ['net-tx.16']),
  typed(NO_TUNNELS, GSO.TCPV4 | GSO.TUNNEL_V4, ['net-tx.20', 'net-tx.45']),
  sends('asks for outer checksums without the feature', ['net-tx.23', 'net-tx.25', 'net-tx.26', 'net-tx.46'], NO_TUNNELS, (bytes) =>
    bytes.set([HDR.NEEDS_CSUM | HDR.UDP_TUNNEL_CSUM]),
  ),
  sends('asks for outer checksums without a tunnel', ['net-tx.24', 'net-tx.29'], OFFLOADS, (bytes) => bytes.set([HDR.NEEDS_CSUM | HDR.UDP_TUNNEL_CSUM, 0])),
  cuts('has frames cut with CWR without HOST_ECN', ['net-tx.17'], NO_OUTER, (bytes) => {
    if (bytes[1] === GSO.TCPV4) bytes.set([CWR_ACK], LONG_HEADER + 47);
  }),
  cuts('does not tell of CWR', ['net-tx.18'], OFFLOADS, (bytes) => bytes.set([(bytes[1] as number) & ~GSO.ECN], 1)),
  cuts('takes one tunnel bit for the other', ['net-tx.21', 'net-tx.22'], OFFLOADS, (bytes) => bytes.set([(bytes[1] as number) ^ TUNNEL], 1), true),
  cuts('has datagrams in tunnels cut into fragments', ['net-tx.27'], OFFLOADS, (bytes) => bytes.set([GSO.UDP | GSO.TUNNEL_V4], 1), true),
  cuts('sets both tunnel bits', ['net-tx.28'], OFFLOADS, (bytes) => bytes.set([(bytes[1] as number) | TUNNEL], 1), true),
  sends('breaks the IP header', ['net-tx.31'], OFFLOADS, (bytes) => flip(bytes, LONG_HEADER + 14 + 10)),
  sends('does not prepare the checksum', ['net-tx.32'], OFFLOADS, (bytes) => {
    if (bytes[0] !== 0) flip(bytes, LONG_HEADER + word(bytes, 6) + word(bytes, 8));
  }),
  sends('puts the checksum elsewhere', ['net-tx.33'], OFFLOADS, (bytes) => bytes.set([(bytes[8] as number) + 2], 8)),
  cuts('has frames cut without NEEDS_CSUM', ['net-tx.35'], OFFLOADS, (bytes) => bytes.set([0])),
  cuts('does not say where to cut', ['net-tx.36'], OFFLOADS, (bytes) => bytes.set([0, 0], 4)),
  cuts('tells a hdr_len that is not exact', ['net-tx.37'], OFFLOADS, (bytes) => flip(bytes, 2)),
  cuts('tells a hdr_len that is too short', ['net-tx.38'], NO_OUTER, (bytes) => bytes.set([10, 0], 2)),
  cuts('does not say where a tunnel is', ['net-tx.40'], OFFLOADS, (bytes) => bytes.set([0, 0], 20), true),
  cuts('does not prepare the outer checksum', ['net-tx.42'], OFFLOADS, (bytes) => flip(bytes, LONG_HEADER + word(bytes, 20) + 6), true),
  cuts(
    'leaves the outer checksum to nobody',
    ['net-tx.43', 'net-tx.44'],
    NO_OUTER,
    (bytes) => bytes.set([0x12, 0x34], LONG_HEADER + word(bytes, 20) + 6),
    true,
  ),
  cuts('vouches for what it sends', ['net-tx.48', 'net-tx.49'], OFFLOADS, (bytes) => bytes.set([(bytes[0] as number) | HDR.DATA_VALID]), true),
  // ---- buffers ----
  descriptors('sends more than the mtu', ['net.19'], 1, (stage, descriptor) => put32(stage, descriptor + 8, 1700)),
  ...(
    [
      ['driver/traffic', ['net-rx.3', 'net.18']],
      ['driver/plain-buffers', ['net-rx.2', 'net.18']],
      ['driver/big-buffers', ['net-rx.1']],
    ] as const
  ).map(
    ([scenario, breaks]): DriverMutation => ({
      name: `makes its buffers small in ${scenario}`,
      breaks,
      scenario,
      ring: 'split',
      fault: () => ({
        look: (queue, { setup }, stage) => {
          if (queue !== 0) return;
          for (let slot = 0; slot < setup.size; slot++) {
            const descriptor = setup.desc + 16 * slot;
            const table = (u16(stage, flagsAt(stage, descriptor)) & FLAGS.INDIRECT) !== 0;
            put32(stage, (table ? u32(stage, descriptor) : descriptor) + 8, 4);
          }
        },
      }),
    }),
  ),
  {
    name: 'leaves a queue without buffers',
    breaks: ['net-rx.5'],
    scenario: PAIRS,
    ring: 'split',
    fault: () => ({
      look: (queue, { setup }, stage) => {
        if (queue === 2) put16(stage, setup.driver + 2, 0);
      },
    }),
  },
  // ---- what a header says ----
  ...(
    [
      [HEADERS, ['net-rx.9', 'net-rx.27', 'net-rx.42', 'net-rx.48', 'net-rx.51', 'net-rx.52', 'net-rx.53']],
      [TUNNELS, ['net-rx.10', 'net-rx.45', 'net-rx.56']],
    ] as const
  ).map(([scenario, breaks]) => found(`drops what it takes in ${scenario}`, breaks, 'receive', (header) => header.set([0, 0x7f]), scenario)),
  found('vouches for what it takes', ['net-rx.50', 'net-rx.54'], 'receive', (header) => header.set([HDR.DATA_VALID]), HEADERS),
  found(
    'takes any tunnel',
    ['net-rx.55', 'net-rx.57', 'net-rx.58', 'net-rx.59'],
    'receive',
    (header) => {
      if (((header[1] as number) & TUNNEL) !== 0) header.set([HDR.NEEDS_CSUM, GSO.TCPV4 | GSO.TUNNEL_V4]);
    },
    TUNNELS,
  ),
  found('passes outer checksums by', ['net-rx.60'], 'receive', (header) => header.set([(header[0] as number) & ~HDR.UDP_TUNNEL_CSUM]), TUNNELS),
  // ---- configuration ----
  sends('makes up an address', ['net.13'], 'driver/announcement', (bytes) => flip(bytes, 12 + 6 + 5)),
  sends('makes up an address of a maker', ['net.14'], 'driver/no-mac', (bytes) => bytes.set([0x00], 12 + 6)),
  deaf('driver/no-status', ['net.15']),
  sees('does not see the link go down', ['net.16'], 'driver/link', ({ type, offset }, value) => (type === CFG_TYPE.DEVICE && offset === 6 ? value | 1 : value)),
  deaf('driver/link', ['net.22']),
  sees('believes in any speed', ['net.21'], 'driver/speed-unknown', ({ type, offset }, value) => (type === CFG_TYPE.DEVICE && offset === 12 ? 1000 : value)),
  sees('does not announce itself', ['net-ctrl.33', 'net-ctrl.34'], 'driver/announcement', ({ type, offset }, value) =>
    type === CFG_TYPE.DEVICE && offset === 6 ? value & ~2 : value,
  ),
  // ---- commands ----
  says(0, 0, ['net-ctrl.20']),
  says(0, 2, ['net-ctrl.21']),
  says(1, 1, ['net-ctrl.26']),
  says(4, 1, ['net-rss.3']),
  says(6, 0, ['net-coal.2']),
  says(6, 2, ['net-coal.3']),
  says(7, 0, ['net-hash.9']),
  says(9, 1, ['net-rss.14']),
  commands('sets another address', ['net-ctrl.27'], COMMANDS, 1, 1, (bytes) => flip(bytes, 7)),
  commands('counts its addresses wrongly', ['net-ctrl.28'], COMMANDS, 1, 0, (bytes) => flip(bytes, 2)),
  commands('turns offloads on that were not negotiated', ['net-ctrl.36'], COMMANDS, 5, 0, (bytes) => flip(bytes, 2 + 4)),
  commands('moderates a queue that there is not', ['net-coal.1'], COMMANDS, 6, 2, (bytes) => bytes.set([77], 2)),
  commands('asks for statistics that there are not', ['net-stats.11', 'net-stats.12'], COMMANDS, 8, 1, (bytes) => bytes.set([0xf0], 2 + 8 + 2)),
  descriptors(
    'leaves no room for statistics',
    ['net-stats.13'],
    2,
    (stage, descriptor) => {
      const table = u32(stage, descriptor);
      if (u16(stage, u32(stage, table)) === 8 + 256) put32(stage, table + 16 + 8, 4);
    },
    COMMANDS,
    'split',
  ),
  found('reads a refused answer', ['net-coal.4'], 'control', (bytes) => bytes.set([0]), 'driver/coalescing-refused'),
  deaf('driver/coalescing-refused', ['net-coal.11']),
  // ---- queues ----
  deaf(PAIRS, ['net-mq.8']),
  commands('asks for more pairs than there are', ['net-mq.9', 'net-mq.10'], PAIRS, 4, 0, (bytes) => bytes.set([9], 2)),
  commands('asks for one pair and uses four', ['net-mq.11'], PAIRS, 4, 0, (bytes) => bytes.set([1], 2)),
  commands('asks for two pairs and uses four', ['net-mq.12'], PAIRS, 4, 0, (bytes) => bytes.set([2], 2)),
  commands('names a queue that is not enabled', ['net-rss.4'], RSS, 4, 1, (bytes) => bytes.set([9], 10)),
  commands('makes a table of three', ['net-rss.5'], RSS, 4, 1, (bytes) => bytes.set([2, 0], 6)),
  commands('makes a table too large', ['net-rss.6'], RSS, 4, 1, (bytes) => bytes.set([0xff, 0xff], 6)),
  commands('asks for hashes that there are not', ['net-rss.7'], RSS, 4, 1, (bytes) => flip(bytes, 5)),
  commands('makes a context beyond the last', ['net-rss.15'], RSS, 9, 1, (bytes) => bytes.set([9, 9], 2)),
  {
    name: 'changes pairs while there are contexts',
    breaks: ['net-rss.16'],
    scenario: RSS,
    fault: () => {
      let contexts = false;
      return {
        chain: (role, { pieces }, stage) => {
          const bytes = role === 'control' && pieces[0] ? stage.watched.rings.memory.view.bytes(pieces[0].address, pieces[0].length) : undefined;
          if (bytes?.[0] === 9 && bytes[1] === 1) contexts = true;
          else if (contexts && bytes?.[0] === 7) bytes.set([4, 0]);
        },
      };
    },
  },
  commands('asks for tunnels that there are not', ['net-hash.10'], RSS, 7, 0, (bytes) => flip(bytes, 3 + 1)),
  commands('asks for tunnels that mean nothing', ['net-hash.11'], RSS, 7, 0, (bytes) => flip(bytes, 5)),
  commands('leaves rubbish in a hash configuration', ['net-hash.13'], 'driver/hash-report', 4, 2, (bytes) => flip(bytes, 2 + 4)),
];
