// Where received frames go: automatic steering and RSS (virtio 1.4 5.1.9.5.5 to 5.1.9.5.8).

import { FlowHash } from '#guest-sim/flow-hash';
import { DEFAULT_RSS_KEY } from '#guest-sim/toeplitz';
import type { Bench } from '../bench.ts';
import { le16, le32 } from '../bytes.ts';
import type { Case } from '../case.ts';
import { ACK_ERR, ACK_OK, CTRL } from '../layout.ts';
import type { Session } from '../session.ts';
import { plainFrame, udpFrame } from './frames.ts';

export const HASH = { IPv4: 1, TCPv4: 2, UDPv4: 4, IPv6: 8, TCPv6: 16, UDPv6: 32, IP_EX: 64, TCP_EX: 128, UDP_EX: 256 } as const;

export interface Rss {
  readonly hashTypes: number;
  readonly table: readonly number[];
  readonly unclassified?: number;
  readonly maxTransmit?: number;
  readonly key?: Uint8Array;
}

/** struct virtio_net_rss_config. */
export function rssConfig({ hashTypes, table, unclassified = 0, maxTransmit = 4, key = DEFAULT_RSS_KEY }: Rss): number[] {
  return [...le32(hashTypes), ...le16(table.length - 1), ...le16(unclassified), ...table.flatMap(le16), ...le16(maxTransmit), key.length, ...key];
}

/** struct virtio_net_hash_config. */
export function hashConfig(hashTypes: number, key: Uint8Array = DEFAULT_RSS_KEY): number[] {
  return [...le32(hashTypes), 0, 0, 0, 0, 0, 0, 0, 0, key.length, ...key];
}

const pairsCommand = (b: Bench, pairs: number): Promise<{ ack: number }> => b.net.command(CTRL.MQ, CTRL.VQ_PAIRS_SET, le16(pairs));

/** Frames of flow `n`. */
const flow = (n: number, reversed = false): Uint8Array =>
  udpFrame(reversed ? { from: [198, 19, 0, 1], to: [198, 18, 0, 1], fromPort: 9, toPort: 2000 + n } : { fromPort: 2000 + n }).bytes;

/** How many frames came in on each pair since the last call. */
async function counts(b: Bench): Promise<number[]> {
  const out: number[] = [];
  for (let pair = 0; pair < b.net.pairs; pair++) out.push((await b.net.received(pair)).length);
  return out;
}

/** The pair a frame came in on; undefined: none, or more than one. */
async function pairOf(b: Bench, frame: Uint8Array): Promise<number | undefined> {
  await b.session.send(frame);
  const seen = await counts(b);
  return seen.reduce((sum, n) => sum + n, 0) === 1 ? seen.indexOf(1) : undefined;
}

function several(b: Bench, s: Session): void {
  if (b.net.pairs < 2) s.skip('the device has one queue pair only');
}

async function resetQueue(b: Bench, index: number): Promise<void> {
  await b.setQueue(index, 'queue_reset', 1);
  await b.until(`queue_reset of queue ${index} to read 0`, async () => (await b.getQueue(index, 'queue_reset')) === 0);
}

export const STEERING_CASES: readonly Case[] = [
  {
    name: 'net-mq/off-until-asked',
    clauses: ['net-mq.13', 'net-mq.D1', 'net-mq.D3'],
    async run(b, s) {
      await b.start({ features: ['MQ'] });
      several(b, s);
      for (let n = 0; n < 8; n++) await s.send(flow(n));
      const before = await counts(b);
      s.check('net-mq.13', 'frames of eight flows by pair before any command', before, [8, ...before.slice(1).map(() => 0)]);
      s.check('net-mq.D1', 'frames of eight flows by pair before any command', before, [8, ...before.slice(1).map(() => 0)]);
      s.ensure((await pairsCommand(b, b.net.pairs)).ack === ACK_OK, 'VQ_PAIRS_SET was refused');
      s.ensure((await pairsCommand(b, 1)).ack === ACK_OK, 'VQ_PAIRS_SET to 1 was refused');
      for (let n = 0; n < 6; n++) await s.send(flow(n));
      s.check('net-mq.D3', 'frames of six flows by pair after VQ_PAIRS_SET to 1', await counts(b), [6, ...before.slice(1).map(() => 0)]);
      await b.start({ features: ['MQ'] });
      for (let n = 0; n < 5; n++) await s.send(flow(n));
      s.check('net-mq.13', 'frames of five flows by pair after a reset', await counts(b), [5, ...before.slice(1).map(() => 0)]);
    },
  },
  {
    name: 'net-mq/flows',
    clauses: ['net-mq.4', 'net-mq.5', 'net-mq.6', 'net-mq.7', 'net-mq.14'],
    async run(b, s) {
      await b.start({ features: ['MQ'], buffers: 60 });
      several(b, s);
      s.check('net-mq.5', 'ack of VQ_PAIRS_SET', (await pairsCommand(b, b.net.pairs)).ack, ACK_OK);
      for (let pair = 0; pair < b.net.pairs; pair++) {
        const frame = flow(pair);
        s.check('net-mq.4', `a frame on transmitq${pair + 1}`, await b.net.transmit(frame, { pair }), [frame]);
        s.check('net-mq.5', `a frame on transmitq${pair + 1}`, (await b.net.transmitQueue(pair).ring.used()).length, 1);
      }
      for (let pair = 0; pair < b.net.pairs; pair++)
        s.check('net-mq.7', `receive pair of the replies to the flow of transmitq${pair + 1}`, await pairOf(b, flow(pair, true)), pair);
      for (const n of [50, 51, 52]) {
        const first = await pairOf(b, flow(n));
        for (const again of [1, 2]) s.check('net-mq.6', `receive pair of frame ${again + 1} of a flow`, await pairOf(b, flow(n)), first);
        s.checkThat('net-mq.6', 'receive pair of a flow', first !== undefined, 'one of them', first);
      }
      const fewer = b.net.pairs - 1;
      s.ensure((await pairsCommand(b, fewer)).ack === ACK_OK, 'VQ_PAIRS_SET was refused');
      for (let pair = 0; pair < b.net.pairs; pair++) await s.send(flow(pair, true));
      for (let n = 0; n < 8; n++) await s.send(flow(n));
      const seen = await counts(b);
      s.check(
        'net-mq.14',
        'frames on pairs above the number that was set',
        seen.slice(fewer),
        seen.slice(fewer).map(() => 0),
      );
      s.check(
        'net-mq.14',
        'frames on the pairs below',
        seen.reduce((sum, n) => sum + n, 0),
        b.net.pairs + 8,
      );
    },
  },
  {
    name: 'net-mq/queue-under-reset',
    clauses: ['net-mq.15', 'net-mq.16'],
    over: [['RING_RESET']],
    async run(b, s) {
      b.needs('MQ');
      if ((await b.config('max_virtqueue_pairs')) < 2) s.skip('the device has one queue pair only');
      await b.start({ features: ['MQ'], pairs: 2, buffers: 30 });
      s.ensure((await pairsCommand(b, 2)).ack === ACK_OK, 'VQ_PAIRS_SET was refused');
      const frame = flow(1);
      await b.net.transmit(frame, { pair: 1 });
      s.ensure((await pairOf(b, flow(1, true))) === 1, 'the flow is not steered to the second pair');
      await resetQueue(b, 2);
      b.net.forget(2);
      await s.send(flow(1, true));
      s.check('net-mq.15', 'frames on the first pair while the second one is under reset', (await b.net.received(0)).length, 1);
      await resetQueue(b, 0);
      b.net.forget(0);
      await s.send(flow(1, true));
      await s.target.settle();
      await b.setUpQueue(0);
      await b.setUpQueue(2);
      await b.net.post(8, 2048);
      s.check('net-mq.16', 'frames delivered later that came while every receive queue was under reset', await counts(b), [0, 0]);
      s.ensure((await pairOf(b, flow(1, true))) !== undefined, 'no frame is received after the queues were enabled again');
    },
  },
  {
    name: 'net-mq/last-command',
    clauses: ['net-mq.D2'],
    async run(b, s) {
      await b.start({ features: ['MQ', 'RSS'], buffers: 40 });
      several(b, s);
      const frame = flow(1);
      const all = { hashTypes: HASH.UDPv4, unclassified: 0 };
      s.ensure((await b.net.command(CTRL.MQ, CTRL.RSS_CONFIG, rssConfig({ ...all, table: [1, 1] }))).ack === ACK_OK, 'RSS_CONFIG was refused');
      s.check('net-mq.D2', 'pair after RSS_CONFIG to the second pair', await pairOf(b, frame), 1);
      s.ensure((await pairsCommand(b, 1)).ack === ACK_OK, 'VQ_PAIRS_SET was refused');
      s.check('net-mq.D2', 'pair after VQ_PAIRS_SET to 1', await pairOf(b, frame), 0);
      s.ensure((await b.net.command(CTRL.MQ, CTRL.RSS_CONFIG, rssConfig({ ...all, table: [1, 1] }))).ack === ACK_OK, 'RSS_CONFIG was refused');
      s.check('net-mq.D2', 'pair after RSS_CONFIG again', await pairOf(b, frame), 1);
    },
  },
  {
    name: 'net-rss/limits',
    clauses: ['net-rss.1', 'net-rss.2'],
    rings: 'any',
    async run(b, s) {
      b.needs('RSS');
      const key = await b.config('rss_max_key_size');
      const table = await b.config('rss_max_indirection_table_length');
      s.checkThat('net-rss.1', 'rss_max_key_size', key >= 40, 'at least 40', key);
      s.checkThat('net-rss.2', 'rss_max_indirection_table_length', table >= 128, 'at least 128', table);
    },
  },
  {
    name: 'net-rss/table',
    clauses: ['net-rss.8', 'net-rss.9', 'net-rss.10', 'net-rss.D1', 'net-rss.D3'],
    over: [['RSS']],
    async run(b, s) {
      await b.start({ buffers: 60 });
      several(b, s);
      const { pairs } = b.net;
      for (const length of [8, 128, 2]) {
        // No entry is its own index: a table that is not looked at shows.
        const table = Array.from({ length }, (_, i) => (i * 3 + (i >>> 2) + 1) % pairs);
        const unclassified = length === 8 ? 1 : pairs - 1;
        const { ack } = await b.net.command(CTRL.MQ, CTRL.RSS_CONFIG, rssConfig({ hashTypes: HASH.UDPv4 | HASH.IPv4, table, unclassified }));
        s.check('net-rss.D3', `ack of RSS_CONFIG with a table of ${length} and the key behind it`, ack, ACK_OK);
        const oracle = new FlowHash({ key: DEFAULT_RSS_KEY, hashTypes: HASH.UDPv4 | HASH.IPv4 });
        for (let n = 0; n < 12; n++) {
          const frame = flow(n * 7);
          oracle.compute(frame, 0, frame.length);
          const entry = (oracle.value >>> 0) & (length - 1);
          const pair = await pairOf(b, frame);
          s.check('net-rss.8', `pair of a frame whose hash is 0x${(oracle.value >>> 0).toString(16)}`, pair, table[entry]);
          s.check('net-rss.10', `pair of a frame whose hash selects entry ${entry} of ${length}`, pair, table[entry]);
          s.check('net-rss.D1', `pair for queue id ${table[entry]}`, pair, table[entry]);
          s.check('net-rss.D3', `pair of a frame, by the key behind a table of ${length}`, pair, table[entry]);
        }
        s.check('net-rss.9', 'pair of a frame that has no hash', await pairOf(b, plainFrame(1)), unclassified);
      }
    },
  },
  {
    name: 'net-rss/queue-under-reset',
    clauses: ['net-rss.11'],
    over: [['RSS', 'RING_RESET']],
    async run(b, s) {
      await b.start({ buffers: 20 });
      several(b, s);
      s.ensure((await b.net.command(CTRL.MQ, CTRL.RSS_CONFIG, rssConfig({ hashTypes: HASH.UDPv4, table: [1, 1] }))).ack === ACK_OK, 'RSS_CONFIG was refused');
      s.ensure((await pairOf(b, flow(1))) === 1, 'the flow is not steered to the second pair');
      await resetQueue(b, 2);
      b.net.forget(2);
      await s.send(flow(1));
      await s.target.settle();
      await b.setUpQueue(2);
      for (let n = 0; n < 8; n++) await b.net.add(1, [2048]);
      await b.kick(2);
      const seen = await counts(b);
      s.check(
        'net-rss.11',
        'frames delivered anywhere that came while their queue was under reset',
        seen,
        seen.map(() => 0),
      );
      s.ensure((await pairOf(b, flow(1))) === 1, 'the flow does not arrive after its queue was enabled again');
    },
  },
  {
    name: 'net-rss/transmit-queues',
    clauses: ['net-rss.D2'],
    over: [['RSS']],
    reading: 'What a device does with a transmit queue beyond max_tx_vq is left open; those up to it work.',
    async run(b, s) {
      await b.start();
      several(b, s);
      s.ensure(
        (await b.net.command(CTRL.MQ, CTRL.RSS_CONFIG, rssConfig({ hashTypes: HASH.UDPv4, table: [0, 1], maxTransmit: 2 }))).ack === ACK_OK,
        'RSS_CONFIG was refused',
      );
      for (const pair of [0, 1])
        s.check('net-rss.D2', `frames sent on transmitq${pair + 1} with max_tx_vq 2`, await b.net.transmit(flow(pair), { pair }), [flow(pair)]);
    },
  },
  {
    name: 'net-rss/contexts',
    clauses: ['net-rss.12', 'net-rss.13', 'net-rss.D4'],
    over: [['RSS_CONTEXT']],
    async run(b, s) {
      const id = (n: number): number[] => [...le16(n), 0xee, 0xee, 0xee, 0xee, 0xee, 0xee];
      const context = (command: number, n: number, data: number[] = []): Promise<{ ack: number }> => b.net.command(CTRL.CONTEXT, command, [...id(n), ...data]);
      const config = rssConfig({ hashTypes: HASH.UDPv4, table: [0, 1] });
      await b.start();
      // The reply may stand before or behind the ack: the text says neither of this command.
      const { ack, result } = await b.net.command(CTRL.CONTEXT, CTRL.CONTEXT_CAP_GET, [], { result: 2 });
      const behind = (result[0] as number) | ((result[1] as number) << 8);
      const before = ack | ((result[0] as number) << 8);
      s.checkThat(
        'net-rss.12',
        'max_rss_contexts, behind the ack or before it',
        (ack === ACK_OK && behind >= 1 && behind !== 0xffff) || (before >= 1 && (result[1] as number) === ACK_OK),
        'at least 1',
        [ack, ...result],
      );
      s.check('net-rss.D4', 'ack of ADD, with reserved bytes that are not 0', (await context(CTRL.CONTEXT_ADD, 1, config)).ack, ACK_OK);
      s.check('net-rss.D4', 'ack of MOD', (await context(CTRL.CONTEXT_MOD, 1, config)).ack, ACK_OK);
      s.check('net-rss.D4', 'ack of DEL', (await context(CTRL.CONTEXT_DEL, 1)).ack, ACK_OK);
      s.check('net-rss.D4', 'ack of MOD of a context that was removed', (await context(CTRL.CONTEXT_MOD, 1, config)).ack, ACK_ERR);
      s.ensure((await context(CTRL.CONTEXT_ADD, 1, config)).ack === ACK_OK, 'ADD was refused');
      await b.start();
      s.check('net-rss.13', 'ack of MOD, after a reset, of a context of before', (await context(CTRL.CONTEXT_MOD, 1, config)).ack, ACK_ERR);
    },
  },
];
