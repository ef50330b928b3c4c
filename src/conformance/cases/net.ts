// The network device: configuration, virtqueues, the header's size (virtio 1.4 5.1.2, 5.1.4, 5.1.9).

import type { Bench } from '../bench.ts';
import type { Case } from '../case.ts';
import { CTRL, NET_CONFIG, STATUS } from '../layout.ts';
import { plainFrame } from './frames.ts';

const ETHERNET = 14;
/** Room for two VLAN tags beyond the MTU, which the specification does not mention. */
const TAGS = 8;

async function mtuOf(b: Bench): Promise<number> {
  return b.config('mtu');
}

export const NET_CASES: readonly Case[] = [
  {
    name: 'net/queue-pairs',
    clauses: ['net.1'],
    rings: 'any',
    async run(b, s) {
      b.needs('MQ');
      const pairs = await b.config('max_virtqueue_pairs');
      s.checkThat('net.1', 'max_virtqueue_pairs', pairs >= 1 && pairs <= 0x8000, '1 to 0x8000', pairs);
    },
  },
  {
    name: 'net/mtu',
    clauses: ['net.2', 'net.3', 'net.4'],
    rings: 'any',
    async run(b, s) {
      b.needs('MTU');
      const mtu = await mtuOf(b);
      s.checkThat('net.2', 'mtu', mtu >= 68 && mtu <= 65535, '68 to 65535', mtu);
      s.checkThat('net.3', 'mtu', mtu >= 1280, 'at least 1280', mtu);
      await b.start({ features: ['MTU'] });
      await b.net.transmit(plainFrame(1));
      s.check('net.4', 'mtu in operation', await mtuOf(b), mtu);
      await s.target.advance(1e9);
      await b.reset();
      s.check('net.4', 'mtu after a reset', await mtuOf(b), mtu);
    },
  },
  {
    name: 'net/frames-and-mtu',
    clauses: ['net.5', 'net.6'],
    async run(b, s) {
      await b.start({ features: ['MTU'], bufferSize: 4096 });
      const mtu = await mtuOf(b);
      if (mtu > 3900) s.skip(`the mtu of ${mtu} leaves no room for longer frames`);
      const largest = plainFrame(1, undefined, mtu + ETHERNET);
      s.check('net.6', `a frame of mtu and Ethernet header, ${largest.length} bytes`, await b.net.transmit(largest), [largest]);
      s.check(
        'net.5',
        'frames received that are longer than mtu and headers',
        (await b.net.inject(plainFrame(2, undefined, mtu + ETHERNET + TAGS + 1))).length,
        0,
      );
      s.ensure((await b.net.inject(largest)).length === 1, 'a frame of exactly mtu and Ethernet header did not arrive');
    },
  },
  {
    name: 'net/speed-and-duplex',
    clauses: ['net.8', 'net.9', 'net.10'],
    rings: 'any',
    reading: 'duplex 1 is full and 0 is half, as the field is described; here any of 0, 1 and 0xff passes.',
    async run(b, s) {
      await b.start({ features: ['SPEED_DUPLEX', 'STATUS'] });
      const speed = await b.config('speed');
      const duplex = await b.config('duplex');
      s.checkThat('net.8', 'speed', speed <= 0x7fff_ffff || speed === 0xffff_ffff, '0 to 0x7fffffff, or 0xffffffff', speed);
      s.checkThat('net.9', 'duplex', duplex === 0 || duplex === 1 || duplex === 0xff, '0, 1 or 0xff', duplex);
      await s.target.advance(5e9);
      await b.net.transmit(plainFrame(1));
      s.check('net.10', 'speed and duplex while the link stayed up', [await b.config('speed'), await b.config('duplex')], [speed, duplex]);
    },
  },
  {
    name: 'net/virtqueue-places',
    clauses: ['net.D1'],
    async run(b, s) {
      await b.start({ features: ['MQ', 'CTRL_RX'] });
      const most = await b.config('max_virtqueue_pairs');
      s.check('net.D1', 'index of controlq with MQ', b.net.controlIndex, 2 * most);
      s.check('net.D1', 'ack of a command on it', (await b.net.command(CTRL.MQ, CTRL.VQ_PAIRS_SET, [b.net.pairs, 0])).ack, 0);
      for (let pair = 0; pair < b.net.pairs; pair++) {
        const frame = plainFrame(pair);
        s.check('net.D1', `a frame on transmitq${pair + 1}, queue ${2 * pair + 1}`, await b.net.transmit(frame, { pair }), [frame]);
      }
      await b.start({ features: ['CTRL_RX'] });
      s.check('net.D1', 'ack of a command on queue 2 without MQ and RSS', (await b.net.command(CTRL.RX, CTRL.PROMISC, [1])).ack, 0);
      s.check('net.D1', 'frames received on queue 0', (await b.net.inject(plainFrame(9))).length, 1);
    },
  },
  {
    name: 'net/no-control-queue',
    clauses: ['net.D2'],
    rings: 'any',
    async run(b, s) {
      await b.start({ before: 'FEATURES_OK' });
      await b.addStatus(STATUS.FEATURES_OK);
      s.check('net.D2', 'queue_size of queue 2 without CTRL_VQ', await b.getQueue(2, 'queue_size'), 0);
    },
  },
  {
    name: 'net/mac-field',
    clauses: ['net.D3'],
    async run(b, s) {
      await b.start({ features: ['MAC', 'CTRL_RX'] });
      const mac = await b.mac();
      s.check('net.D3', 'group bit of the mac at offset 0', (mac[0] as number) & 1, 0);
      await b.net.commanded(CTRL.RX, CTRL.PROMISC, [0]);
      s.check('net.D3', 'frames received for that address', (await b.net.inject(plainFrame(1, [...mac]))).length, 1);
    },
  },
  {
    name: 'net/configuration-is-read-only',
    clauses: ['net.D4'],
    rings: 'any',
    async run(b, s) {
      await b.start();
      const read = async (): Promise<number[]> => {
        const bytes: number[] = [];
        for (let offset = 0; offset < NET_CONFIG.speed[0]; offset++) bytes.push(await b.configBytes(offset, 1));
        return bytes;
      };
      const before = await read();
      for (let offset = 0; offset < NET_CONFIG.speed[0]; offset++) await b.writeConfig(offset, 1, 0x5a ^ (before[offset] as number));
      s.check('net.D4', 'the first 12 bytes of the configuration after writes to them', await read(), before);
    },
  },
  {
    name: 'net/header-sizes',
    clauses: ['net.D5'],
    over: [
      [],
      ['HASH_REPORT'],
      ['GUEST_UDP_TUNNEL_GSO'],
      ['HOST_UDP_TUNNEL_GSO'],
      ['OUT_NET_HEADER'],
      ['HASH_REPORT', 'HOST_UDP_TUNNEL_GSO', 'OUT_NET_HEADER'],
    ],
    async run(b, s) {
      await b.start();
      const frame = plainFrame(1, undefined, 99);
      s.check('net.D5', `a frame sent behind a header of ${b.net.headerSize} bytes`, await b.net.transmit(frame), [frame]);
      const received = await b.net.arrives(frame);
      s.check('net.D5', 'used length of a received frame of 99 bytes', received.used[0]?.length, b.net.headerSize + 99);
      s.check('net.D5', `a frame received behind a header of ${b.net.headerSize} bytes`, received.bytes, frame);
    },
  },
];
