// The control virtqueue: receive filtering, MAC and VLAN tables, announcements, offloads (virtio 1.4 5.1.9.5).

import type { Bench } from '../bench.ts';
import type { Case } from '../case.ts';
import { FEATURE } from '../features.ts';
import { ACK_ERR, ACK_OK, CTRL, GSO, HDR } from '../layout.ts';
import { BROADCAST, MULTICAST, plainFrame, pseudoSum, put16, STRANGER, taggedFrame, tcpFrame, udpFrame } from './frames.ts';

const ANNOUNCE = 2;

async function mode(b: Bench, command: number, on: boolean): Promise<number> {
  return (await b.net.command(CTRL.RX, command, [on ? 1 : 0])).ack;
}

let serial = 0;

/** Whether a frame to this address is delivered. */
async function hears(b: Bench, destination: readonly number[], vid?: number): Promise<boolean> {
  serial = (serial + 1) & 0xff;
  const frame = vid === undefined ? plainFrame(serial, destination) : taggedFrame(serial, vid, destination);
  const received = await b.net.inject(frame);
  return received.length === 1;
}

/** In operation with these, promiscuous mode off. */
async function listening(b: Bench, features: readonly ('CTRL_RX' | 'CTRL_RX_EXTRA' | 'CTRL_VLAN' | 'CTRL_MAC_ADDR' | 'MAC')[]): Promise<readonly number[]> {
  await b.start({ features: ['MAC', 'CTRL_RX', ...features], buffers: 32 });
  await b.net.commanded(CTRL.RX, CTRL.PROMISC, [0]);
  return [...(await b.mac())];
}

function table(unicast: readonly (readonly number[])[], multicast: readonly (readonly number[])[]): number[] {
  return [unicast, multicast].flatMap((list) => [list.length, 0, 0, 0, ...list.flat()]);
}

const u64 = (bits: readonly number[]): number[] => {
  const bytes = [0, 0, 0, 0, 0, 0, 0, 0];
  for (const bit of bits) bytes[bit >>> 3] = (bytes[bit >>> 3] as number) | (1 << (bit & 7));
  return bytes;
};

export const NET_CTRL_CASES: readonly Case[] = [
  {
    name: 'net-ctrl/offered-with-control-queue',
    clauses: ['net-ctrl.1', 'net-hash.1'],
    rings: 'any',
    async run(b, s) {
      const control = b.offered.has(FEATURE.CTRL_VQ);
      b.session.ensure(b.offered.size > 0, 'the device offers nothing');
      if (b.offered.has(FEATURE.CTRL_RX_EXTRA)) s.check('net-ctrl.1', 'CTRL_VQ offered beside CTRL_RX_EXTRA', control, true);
      if (b.offered.has(FEATURE.HASH_REPORT)) s.check('net-hash.1', 'CTRL_VQ offered beside HASH_REPORT', control, true);
      if (!b.offered.has(FEATURE.CTRL_RX_EXTRA) && !b.offered.has(FEATURE.HASH_REPORT)) s.skip('not offered: CTRL_RX_EXTRA, HASH_REPORT');
    },
  },
  {
    name: 'net-ctrl/answers',
    clauses: ['net-ctrl.D1', 'net-ctrl.D2'],
    async run(b, s) {
      await b.start({ features: ['CTRL_RX'] });
      const good = await b.net.command(CTRL.RX, CTRL.PROMISC, [1]);
      s.check('net-ctrl.D1', 'ack of a command that is right', good.ack, ACK_OK);
      const unknown = await b.net.command(200, 0, [1]);
      s.check('net-ctrl.D1', 'ack of a class there is not', unknown.ack, ACK_ERR);
      s.check('net-ctrl.D2', 'ack of a class there is not', unknown.ack, ACK_ERR);
      s.check('net-ctrl.D2', 'ack of a command there is not', (await b.net.command(CTRL.RX, 77, [1])).ack, ACK_ERR);
      s.check('net-ctrl.D2', 'ack of a command that is right, after that', (await b.net.command(CTRL.RX, CTRL.PROMISC, [1])).ack, ACK_OK);
    },
  },
  {
    name: 'net-ctrl/promiscuous',
    clauses: ['net-ctrl.3', 'net-ctrl.4', 'net-ctrl.25'],
    async run(b, s) {
      const mac = await listening(b, []);
      s.check('net-ctrl.25', 'a frame to a strange address with promiscuous mode off', await hears(b, STRANGER), false);
      s.check('net-ctrl.25', 'a frame to the own address', await hears(b, mac), true);
      s.check('net-ctrl.25', 'a frame to a group nobody joined', await hears(b, MULTICAST), false);
      s.check('net-ctrl.3', 'ack of PROMISC 1', await mode(b, CTRL.PROMISC, true), ACK_OK);
      for (const [what, address] of [
        ['a strange address', STRANGER],
        ['a group', MULTICAST],
        ['everybody', BROADCAST],
        ['the own address', mac],
      ] as const)
        s.check('net-ctrl.4', `a frame to ${what} in promiscuous mode`, await hears(b, address), true);
      s.check('net-ctrl.3', 'ack of PROMISC 0', await mode(b, CTRL.PROMISC, false), ACK_OK);
      s.check('net-ctrl.3', 'a frame to a strange address after PROMISC 0', await hears(b, STRANGER), false);
    },
  },
  {
    name: 'net-ctrl/all-multicast',
    clauses: ['net-ctrl.6', 'net-ctrl.7'],
    async run(b, s) {
      await listening(b, []);
      s.check('net-ctrl.6', 'ack of ALLMULTI 1', await mode(b, CTRL.ALLMULTI, true), ACK_OK);
      s.check('net-ctrl.7', 'a frame to a group with ALLMULTI', await hears(b, MULTICAST), true);
      s.check('net-ctrl.7', 'a frame to another group with ALLMULTI', await hears(b, [0x33, 0x33, 0, 0, 0, 7]), true);
      s.check('net-ctrl.6', 'a frame to a strange address with ALLMULTI', await hears(b, STRANGER), false);
      s.check('net-ctrl.6', 'ack of ALLMULTI 0', await mode(b, CTRL.ALLMULTI, false), ACK_OK);
      s.check('net-ctrl.6', 'a frame to a group after ALLMULTI 0', await hears(b, MULTICAST), false);
    },
  },
  {
    name: 'net-ctrl/extra-modes',
    clauses: [
      'net-ctrl.8',
      'net-ctrl.9',
      'net-ctrl.10',
      'net-ctrl.11',
      'net-ctrl.12',
      'net-ctrl.13',
      'net-ctrl.14',
      'net-ctrl.15',
      'net-ctrl.16',
      'net-ctrl.17',
      'net-ctrl.18',
      'net-ctrl.19',
    ],
    async run(b, s) {
      const mac = await listening(b, ['CTRL_RX_EXTRA']);
      s.check('net-ctrl.8', 'ack of ALLUNI 1', await mode(b, CTRL.ALLUNI, true), ACK_OK);
      s.check('net-ctrl.9', 'a frame to a strange address with ALLUNI', await hears(b, STRANGER), true);
      s.check('net-ctrl.14', 'ack of NOUNI 1', await mode(b, CTRL.NOUNI, true), ACK_OK);
      s.check('net-ctrl.15', 'a frame to the own address with NOUNI', await hears(b, mac), false);
      s.check('net-ctrl.16', 'a frame to a strange address with NOUNI and ALLUNI', await hears(b, STRANGER), false);
      s.check('net-ctrl.14', 'ack of NOUNI 0', await mode(b, CTRL.NOUNI, false), ACK_OK);
      s.check('net-ctrl.8', 'ack of ALLUNI 0', await mode(b, CTRL.ALLUNI, false), ACK_OK);
      s.check('net-ctrl.14', 'a frame to the own address after NOUNI 0', await hears(b, mac), true);
      s.check('net-ctrl.8', 'a frame to a strange address after ALLUNI 0', await hears(b, STRANGER), false);
      s.ensure((await mode(b, CTRL.ALLMULTI, true)) === ACK_OK, 'ALLMULTI was refused');
      s.check('net-ctrl.10', 'ack of NOMULTI 1', await mode(b, CTRL.NOMULTI, true), ACK_OK);
      s.check('net-ctrl.12', 'a frame to a group with NOMULTI and ALLMULTI', await hears(b, MULTICAST), false);
      s.check('net-ctrl.11', 'a frame to a group with NOMULTI', await hears(b, [0x33, 0x33, 0, 0, 0, 7]), false);
      s.check('net-ctrl.13', 'a frame to everybody with NOMULTI', await hears(b, BROADCAST), true);
      s.check('net-ctrl.10', 'ack of NOMULTI 0', await mode(b, CTRL.NOMULTI, false), ACK_OK);
      s.check('net-ctrl.10', 'a frame to a group after NOMULTI 0', await hears(b, MULTICAST), true);
      s.check('net-ctrl.17', 'ack of NOBCAST 1', await mode(b, CTRL.NOBCAST, true), ACK_OK);
      s.check('net-ctrl.19', 'a frame to everybody with NOBCAST and ALLMULTI', await hears(b, BROADCAST), false);
      s.ensure((await mode(b, CTRL.ALLMULTI, false)) === ACK_OK, 'ALLMULTI was refused');
      s.check('net-ctrl.18', 'a frame to everybody with NOBCAST', await hears(b, BROADCAST), false);
      s.check('net-ctrl.17', 'ack of NOBCAST 0', await mode(b, CTRL.NOBCAST, false), ACK_OK);
      s.check('net-ctrl.17', 'a frame to everybody after NOBCAST 0', await hears(b, BROADCAST), true);
    },
  },
  {
    name: 'net-ctrl/promiscuous-overrides',
    clauses: ['net-ctrl.5'],
    async run(b, s) {
      const mac = await listening(b, ['CTRL_RX_EXTRA']);
      for (const command of [CTRL.NOUNI, CTRL.NOMULTI, CTRL.NOBCAST])
        s.ensure((await mode(b, command, true)) === ACK_OK, `receive mode ${command} was refused`);
      s.ensure((await mode(b, CTRL.PROMISC, true)) === ACK_OK, 'PROMISC was refused');
      for (const [what, address] of [
        ['the own address', mac],
        ['a strange address', STRANGER],
        ['a group', MULTICAST],
        ['everybody', BROADCAST],
      ] as const)
        s.check('net-ctrl.5', `a frame to ${what} with PROMISC beside NOUNI, NOMULTI and NOBCAST`, await hears(b, address), true);
    },
  },
  {
    name: 'net-ctrl/mac-table',
    clauses: ['net-ctrl.22', 'net-ctrl.23', 'net-ctrl.29', 'net-ctrl.25'],
    async run(b, s) {
      await listening(b, []);
      const other = [0x52, 0x54, 0, 0, 1, 1];
      s.check('net-ctrl.22', 'a frame to a strange address before any table', await hears(b, STRANGER), false);
      await b.net.commanded(CTRL.MAC, CTRL.TABLE_SET, table([STRANGER], [MULTICAST]));
      s.check('net-ctrl.23', 'a frame to the unicast address of the table', await hears(b, STRANGER), true);
      s.check('net-ctrl.23', 'a frame to the group of the table', await hears(b, MULTICAST), true);
      s.check('net-ctrl.25', 'a frame to an address that is not in the table', await hears(b, other), false);
      await b.net.commanded(CTRL.MAC, CTRL.TABLE_SET, table([other], []));
      s.check('net-ctrl.23', 'a frame to an address of the table before', await hears(b, STRANGER), false);
      s.check('net-ctrl.29', 'a frame to the address of a table without groups', await hears(b, other), true);
      s.check('net-ctrl.29', 'a frame to a group with a table without groups', await hears(b, MULTICAST), false);
      s.check('net-ctrl.29', 'ack of a table without anything', (await b.net.command(CTRL.MAC, CTRL.TABLE_SET, table([], []))).ack, ACK_OK);
      await b.net.commanded(CTRL.MAC, CTRL.TABLE_SET, table([STRANGER], []));
      await listening(b, []);
      s.check('net-ctrl.22', 'a frame to an address of the table of before a reset', await hears(b, STRANGER), false);
    },
  },
  {
    name: 'net-ctrl/mac-address',
    clauses: ['net-ctrl.24', 'net-ctrl.D4'],
    async run(b, s) {
      const mac = await listening(b, ['CTRL_MAC_ADDR', 'MAC']);
      await b.net.commanded(CTRL.MAC, CTRL.ADDR_SET, STRANGER);
      s.check('net-ctrl.24', 'mac in the configuration when the command came back', await b.mac(), Uint8Array.from(STRANGER));
      s.check('net-ctrl.D4', 'a frame to the new address', await hears(b, STRANGER), true);
      s.check('net-ctrl.D4', 'a frame to the old address', await hears(b, mac), false);
    },
  },
  {
    name: 'net-ctrl/vlan-off',
    clauses: ['net-ctrl.30'],
    async run(b, s) {
      await b.start({ features: ['CTRL_RX'] });
      for (const vid of [0, 1, 100, 4095]) s.check('net-ctrl.30', `a frame of VLAN ${vid} without CTRL_VLAN`, await hears(b, BROADCAST, vid), true);
    },
  },
  {
    name: 'net-ctrl/vlan-table',
    clauses: ['net-ctrl.31', 'net-ctrl.32', 'net-ctrl.D3'],
    async run(b, s) {
      await listening(b, ['CTRL_VLAN']);
      s.check('net-ctrl.D3', 'a frame of VLAN 100 with an empty table', await hears(b, BROADCAST, 100), false);
      s.check('net-ctrl.D3', 'an untagged frame with an empty table', await hears(b, BROADCAST), true);
      for (const vid of [100, 4094]) await b.net.commanded(CTRL.VLAN, CTRL.VLAN_ADD, [vid & 0xff, vid >>> 8]);
      for (const vid of [100, 4094]) s.check('net-ctrl.31', `a frame of VLAN ${vid}, which was added`, await hears(b, BROADCAST, vid), true);
      s.check('net-ctrl.32', 'a frame of VLAN 101, which was not added', await hears(b, BROADCAST, 101), false);
      await b.net.commanded(CTRL.VLAN, CTRL.VLAN_DEL, [100, 0]);
      s.check('net-ctrl.32', 'a frame of VLAN 100 after it was taken away', await hears(b, BROADCAST, 100), false);
      s.check('net-ctrl.31', 'a frame of VLAN 4094 after another was taken away', await hears(b, BROADCAST, 4094), true);
      s.check('net-ctrl.D3', 'an untagged frame with a table', await hears(b, BROADCAST), true);
    },
  },
  {
    name: 'net-ctrl/announce',
    clauses: ['net-ctrl.35'],
    async run(b, s) {
      await b.start({ features: ['GUEST_ANNOUNCE', 'STATUS'] });
      const { hands } = s.target;
      if (hands?.announce === undefined) return s.skip('the target has no way to ask for an announcement');
      await hands.announce();
      await s.target.settle();
      s.ensure(((await b.config('status')) & ANNOUNCE) !== 0, 'the device does not ask for an announcement');
      await b.net.commanded(CTRL.ANNOUNCE, CTRL.ANNOUNCE_ACK);
      s.check('net-ctrl.35', 'ANNOUNCE of status when ANNOUNCE_ACK came back', (await b.config('status')) & ANNOUNCE, 0);
    },
  },
  {
    name: 'net-ctrl/guest-offloads',
    clauses: ['net-ctrl.D5', 'net-ctrl.D6'],
    over: [['CTRL_GUEST_OFFLOADS', 'GUEST_TSO4', 'MRG_RXBUF']],
    async run(b, s) {
      if (s.target.wireOffloads !== true) s.skip('the wire of this target carries complete frames only');
      await b.start({ features: ['CTRL_VQ'], buffers: 32 });
      const { bytes, layout } = tcpFrame({ payload: 2500 });
      const frame = bytes.slice();
      put16(frame, layout.transport + 16, pseudoSum(frame, layout.network, layout.transport, 6));
      const offload = { flags: HDR.NEEDS_CSUM, gsoType: GSO.TCPV4, gsoSize: 1000, headerLength: layout.payload, csumStart: layout.transport, csumOffset: 16 };
      const types = async (): Promise<number[]> => (await b.net.inject(frame, offload)).map(({ header }) => header.gsoType);
      s.check('net-ctrl.D5', 'gso_type of a large frame before any OFFLOADS_SET', await types(), [GSO.TCPV4]);
      await b.net.commanded(CTRL.OFFLOADS, CTRL.OFFLOADS_SET, u64([FEATURE.GUEST_CSUM]));
      s.check('net-ctrl.D6', 'gso_type of its segments with TSO4 switched off', await types(), [0, 0, 0]);
      await b.net.commanded(CTRL.OFFLOADS, CTRL.OFFLOADS_SET, u64([]));
      const { bytes: small } = udpFrame();
      s.check('net-ctrl.D6', 'flags with everything switched off', (await b.net.arrives(small)).header.flags, 0);
      await b.net.commanded(CTRL.OFFLOADS, CTRL.OFFLOADS_SET, u64([FEATURE.GUEST_CSUM, FEATURE.GUEST_TSO4]));
      s.check('net-ctrl.D6', 'gso_type with TSO4 switched on again', await types(), [GSO.TCPV4]);
    },
  },
  {
    name: 'net-ctrl/tunnel-offload-bits',
    clauses: ['net-ctrl.D7'],
    over: [['CTRL_GUEST_OFFLOADS', 'GUEST_UDP_TUNNEL_GSO', 'GUEST_UDP_TUNNEL_GSO_CSUM']],
    async run(b, s) {
      await b.start({ features: ['CTRL_VQ'] });
      const all = [FEATURE.GUEST_CSUM, FEATURE.GUEST_TSO4, FEATURE.GUEST_TSO6, FEATURE.GUEST_USO4, FEATURE.GUEST_USO6];
      s.check('net-ctrl.D7', 'ack of a mask with bits 46 and 47', (await b.net.command(CTRL.OFFLOADS, CTRL.OFFLOADS_SET, u64([...all, 46, 47]))).ack, ACK_OK);
    },
  },
];
