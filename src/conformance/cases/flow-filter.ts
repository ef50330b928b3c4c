// What the flow filter does with frames and with what it is asked (virtio 1.4 5.1.6.6).

import { ADMIN_STATUS, outcome, QUALIFIER } from '../admin-bench.ts';
import type { Bench } from '../bench.ts';
import { le16 } from '../bytes.ts';
import type { Case } from '../case.ts';
import type { FeatureName } from '../features.ts';
import { ACK_OK, CTRL } from '../layout.ts';
import type { Session } from '../session.ts';
import {
  BY_ADDRESSES,
  BY_SOURCE,
  CAP_COMMANDS,
  classifierBytes,
  counts,
  FF_ACTION,
  FF_CAP,
  FF_OBJECT,
  FF_PARTIAL,
  FF_TYPE,
  frameFrom,
  make,
  OBJECT_COMMANDS,
  openFlowFilter,
  pairOf,
  parseSelectors,
  type Rule,
  ruleBytes,
  sourceKey,
} from './flow-filter-bench.ts';
import { STRANGER, udpFrame } from './frames.ts';
import { HASH, rssConfig } from './steering.ts';

const { OK, EINVAL } = ADMIN_STATUS;
const { GROUP, CLASSIFIER, RULE } = FF_OBJECT;
const SEVERAL: readonly (readonly FeatureName[])[] = [['ADMIN_VQ', 'MQ']];

/** Everything open, and classifier 0 by source address; groups by their priorities. */
async function filter(b: Bench, s: Session, ...priorities: readonly number[]): Promise<void> {
  if (b.net.pairs < 3) s.skip('the device has fewer than three queue pairs');
  await openFlowFilter(b, s);
  await make(b, s, CLASSIFIER, 0, classifierBytes(BY_SOURCE));
  for (const [id, priority] of priorities.entries()) await make(b, s, GROUP, id, le16(priority));
  // RSS turns pairs on by its own command.
  if (b.has('MQ')) s.ensure((await b.net.command(CTRL.MQ, CTRL.VQ_PAIRS_SET, le16(b.net.pairs))).ack === ACK_OK, 'VQ_PAIRS_SET was refused');
}

/** Makes rule `id` for frames of station `from`. */
const rule = (b: Bench, s: Session, id: number, from: number, rest: Partial<Rule> = {}): Promise<void> =>
  make(b, s, RULE, id, ruleBytes({ group: 0, classifier: 0, key: sourceKey(from), ...rest }));

export const FLOW_FILTER_CASES: readonly Case[] = [
  {
    name: 'net-ff/offers',
    clauses: ['net-ff.1', 'net-ff.2', 'net-ff.26'],
    over: [['ADMIN_VQ']],
    async run(b, s) {
      await b.start();
      const opcodes = await b.admin.open(CAP_COMMANDS);
      const ids = await b.admin.capabilities();
      const present = Object.values(FF_CAP).filter((id) => ids.has(id));
      if (present.length === 0) s.skip('the device has no flow filter');
      s.check('net-ff.1', 'flow filter capabilities', present, Object.values(FF_CAP));
      s.check(
        'net-ff.2',
        'object commands in the list',
        OBJECT_COMMANDS.filter((opcode) => opcodes.has(opcode)),
        OBJECT_COMMANDS,
      );
      await openFlowFilter(b, s);
      const values = [
        [GROUP, le16(3), le16(4)],
        [CLASSIFIER, classifierBytes(BY_SOURCE), classifierBytes(BY_ADDRESSES)],
      ] as const;
      for (const [type, first, second] of values) {
        const what = `of an object of type 0x${type.toString(16)}`;
        s.check('net-ff.2', `status of creation ${what}`, (await b.admin.create(type, 1, first)).status, OK);
        s.check('net-ff.2', `status of modification ${what}`, (await b.admin.modify(type, 1, second)).status, OK);
        const query = await b.admin.query(type, 1);
        s.check('net-ff.2', `query ${what}`, [query.status, [...query.result.slice(0, second.length)]], [OK, second]);
      }
      const of = (from: number): number[] => ruleBytes({ group: 1, classifier: 1, key: sourceKey(from), action: FF_ACTION.DROP });
      s.check('net-ff.2', 'status of creation of a rule', (await b.admin.create(RULE, 1, of(1))).status, OK);
      s.check('net-ff.2', 'status of modification of a rule', (await b.admin.modify(RULE, 1, of(2))).status, OK);
      s.check('net-ff.2', 'query of a rule', [...(await b.admin.query(RULE, 1)).result.slice(0, of(2).length)], of(2));
      for (const type of [RULE, CLASSIFIER, GROUP])
        s.check('net-ff.2', `status of destruction of type 0x${type.toString(16)}`, (await b.admin.destroy(type, 1)).status, OK);
      const partial = parseSelectors(await b.admin.capability(FF_CAP.SELECTOR)).find(
        ({ type, flags = 0 }) => type === FF_TYPE.ETH && (flags & FF_PARTIAL) !== 0,
      );
      if (partial === undefined) s.skip('the device has no partial masks of Ethernet headers');
      const full = await b.admin.create(CLASSIFIER, 0, classifierBytes({ ...BY_SOURCE, flags: FF_PARTIAL }));
      s.check('net-ff.26', 'outcome of creating a classifier with PARTIAL_MASK and whole fields', outcome(full), [OK, QUALIFIER.OK]);
    },
  },
  {
    name: 'net-ff/not-enabled',
    clauses: ['net-ff.3'],
    over: [['ADMIN_VQ']],
    async run(b, s) {
      await b.start();
      await b.admin.open([...CAP_COMMANDS, ...OBJECT_COMMANDS]);
      if (!(await b.admin.capabilities()).has(FF_CAP.RESOURCE)) s.skip('the device has no flow filter');
      const values = new Map<number, number[]>([
        [GROUP, le16(3)],
        [CLASSIFIER, classifierBytes(BY_SOURCE)],
        [RULE, ruleBytes({ group: 0, classifier: 0, key: sourceKey(1), action: FF_ACTION.DROP })],
      ]);
      const refused = [EINVAL, QUALIFIER.INVALID_OPCODE];
      for (const [type, value] of values) {
        const what = `of type 0x${type.toString(16)}, no capability being set`;
        s.check('net-ff.3', `outcome of creation ${what}`, outcome(await b.admin.create(type, 0, value)), refused);
        s.check('net-ff.3', `outcome of modification ${what}`, outcome(await b.admin.modify(type, 0, value)), refused);
        s.check('net-ff.3', `outcome of a query ${what}`, outcome(await b.admin.query(type, 0)), refused);
        s.check('net-ff.3', `outcome of destruction ${what}`, outcome(await b.admin.destroy(type, 0)), refused);
      }
    },
  },
  {
    name: 'net-ff/refused',
    clauses: ['net-ff.4', 'net-ff.9', 'net-ff.10', 'net-ff.11', 'net-ff.12', 'net-ff.13'],
    reading: 'last_rule_priority is the highest a rule may have, as its field says; only one above it has to fail',
    over: [['ADMIN_VQ']],
    async run(b, s) {
      await b.start();
      await openFlowFilter(b, s, { rules: 4, rulesPerGroup: 3, lastPriority: 5 });
      await make(b, s, CLASSIFIER, 0, classifierBytes(BY_SOURCE));
      await make(b, s, GROUP, 0, le16(7));
      s.check('net-ff.4', 'status of a second group of priority 7', (await b.admin.create(GROUP, 1, le16(7))).status, EINVAL);
      const good: Rule = { group: 0, classifier: 0, key: sourceKey(1), queue: 0 };
      const refused = async (key: string, what: string, value: Partial<Rule>, id = 0): Promise<void> => {
        const { status } = await b.admin.create(RULE, id, ruleBytes({ ...good, ...value }));
        s.checkThat(key, `status of a rule ${what}`, status !== OK, 'not 0', status);
      };
      for (const queue of [1, 2 * b.net.pairs + 1, 0x7ffe, 0xffff]) await refused('net-ff.9', `to virtqueue ${queue}`, { queue });
      await refused('net-ff.10', 'of priority 6 where the last is 5', { priority: 6 });
      for (const id of [3, 4, 1000]) await refused('net-ff.11', `with id ${id} where there are 4, 3 a group`, {}, id);
      await refused('net-ff.12', 'with a key of 13 bytes', { key: sourceKey(1).slice(1) });
      await refused('net-ff.12', 'with a key of 34 bytes', { key: [...sourceKey(1), ...new Array<number>(20).fill(0)] });
      for (const action of [0, 3, 200]) await refused('net-ff.13', `with action ${action}`, { action });
      s.ensure((await b.admin.create(RULE, 0, ruleBytes(good))).status === OK, 'a rule without fault was refused');
    },
  },
  {
    name: 'net-ff/actions',
    clauses: ['net-ff.15', 'net-ff.20', 'net-ff.21'],
    over: SEVERAL,
    async run(b, s) {
      await b.start();
      await filter(b, s, 1);
      await rule(b, s, 0, 1, { priority: 5, queue: 4 });
      await rule(b, s, 1, 2, { action: FF_ACTION.DROP });
      // The same frames again, by a rule that has nothing left to do.
      await rule(b, s, 2, 1, { priority: 1, queue: 2 });
      for (const n of [1, 2, 3]) {
        await s.send(frameFrom(1, n));
        const seen = await counts(b);
        s.check('net-ff.20', 'frames by pair, of one that a rule directs to virtqueue 4', seen.slice(0, 3), [0, 0, 1]);
        s.check(
          'net-ff.21',
          'copies of a frame that two rules match',
          seen.reduce((sum, count) => sum + count, 0),
          1,
        );
        s.check('net-ff.15', 'frames by pair, of one that a second rule directs to virtqueue 2', seen.slice(0, 3), [0, 0, 1]);
      }
      await s.send(frameFrom(2));
      s.check('net-ff.20', 'frames by pair, of one that a rule drops', await counts(b), new Array(b.net.pairs).fill(0));
      s.ensure((await pairOf(b, frameFrom(3))) !== undefined, 'a frame that no rule matches did not arrive');
    },
  },
  {
    name: 'net-ff/priorities',
    clauses: ['net-ff.16', 'net-ff.17', 'net-ff.18', 'net-ff.19', 'net-ff.33'],
    over: SEVERAL,
    async run(b, s) {
      await b.start();
      await filter(b, s, 100, 200, 50);
      // Made from low to high and from high to low: it is not the order of creation that counts.
      await rule(b, s, 0, 1, { group: 0, queue: 2, priority: 9 });
      await rule(b, s, 1, 1, { group: 1, queue: 4, priority: 0 });
      await rule(b, s, 2, 1, { group: 2, queue: 0, priority: 9 });
      s.check('net-ff.16', 'pair by rules of groups of priority 100, 200 and 50', await pairOf(b, frameFrom(1)), 2);
      await s.send(frameFrom(1));
      s.check('net-ff.17', 'frames by pair', (await counts(b)).slice(0, 3), [0, 0, 1]);
      await rule(b, s, 3, 2, { group: 0, queue: 2 });
      s.check('net-ff.18', 'pair by a rule of the second group only', await pairOf(b, frameFrom(2)), 1);
      await rule(b, s, 4, 3, { group: 2, queue: 4 });
      s.check('net-ff.18', 'pair by a rule of the last group only', await pairOf(b, frameFrom(3)), 2);
      await rule(b, s, 5, 4, { group: 1, queue: 2, priority: 1 });
      await rule(b, s, 6, 4, { group: 1, queue: 4, priority: 3 });
      await rule(b, s, 7, 4, { group: 1, queue: 0, priority: 2 });
      s.check('net-ff.19', 'pair by rules of priority 1, 3 and 2', await pairOf(b, frameFrom(4)), 2);
      await rule(b, s, 8, 5, { group: 1, queue: 2, priority: 4 });
      await rule(b, s, 9, 5, { group: 1, queue: 4, priority: 4 });
      const either = await pairOf(b, frameFrom(5));
      s.checkThat('net-ff.33', 'pair by two rules of one priority', either === 1 || either === 2, 'that of one of them', either);
    },
  },
  {
    name: 'net-ff/order-of-stages',
    clauses: ['net-ff.23', 'net-ff.24', 'net-ff.25'],
    over: [['ADMIN_VQ', 'RSS', 'MAC', 'CTRL_RX', 'CTRL_VLAN']],
    async run(b, s) {
      await b.start();
      await filter(b, s, 1);
      const config = rssConfig({ hashTypes: HASH.IPv4 | HASH.UDPv4, table: [1], unclassified: 1, maxTransmit: b.net.pairs });
      s.ensure((await b.net.command(CTRL.MQ, CTRL.RSS_CONFIG, config)).ack === ACK_OK, 'RSS_CONFIG was refused');
      await rule(b, s, 0, 1, { queue: 4 });
      await rule(b, s, 1, 2, { action: FF_ACTION.DROP });
      // virtio 1.4 5.1.9.5.1: until told otherwise everything passes.
      s.ensure((await b.net.command(CTRL.RX, CTRL.PROMISC, [0])).ack === ACK_OK, 'PROMISC off was refused');
      s.check('net-ff.23', 'pair by a rule, of a frame that RSS has another for', await pairOf(b, frameFrom(1)), 2);
      s.check('net-ff.23', 'pair by RSS, of a frame that no rule matches', await pairOf(b, frameFrom(3)), 1);
      s.check('net-ff.23', 'pair by RSS, of a UDP frame that no rule matches', await pairOf(b, udpFrame().bytes), 1);
      s.check('net-ff.24', 'pair of a frame that a rule drops', await pairOf(b, frameFrom(2)), undefined);
      const own = [...(await b.mac())];
      s.check('net-ff.23', 'pair by a rule, of a frame to the address of the device', await pairOf(b, frameFrom(1, 1, own)), 2);
      for (const key of ['net-ff.24', 'net-ff.25'])
        s.check(key, 'pair by a rule, of a frame to somebody else', await pairOf(b, frameFrom(1, 2, STRANGER)), undefined);
      // With the filter off the same frame comes through, and the rule counts.
      s.ensure((await b.net.command(CTRL.RX, CTRL.PROMISC, [1])).ack === ACK_OK, 'PROMISC was refused');
      s.check('net-ff.23', 'pair by a rule, of a frame to somebody else, in promiscuous mode', await pairOf(b, frameFrom(1, 2, STRANGER)), 2);
    },
  },
  {
    name: 'net-ff/queue-under-reset',
    clauses: ['net-ff.14'],
    over: [['ADMIN_VQ', 'MQ', 'RING_RESET']],
    async run(b, s) {
      await b.start();
      await filter(b, s, 1);
      await rule(b, s, 0, 1, { queue: 4 });
      s.ensure((await pairOf(b, frameFrom(1))) === 2, 'a rule did not direct a frame');
      await b.setQueue(4, 'queue_reset', 1);
      await b.until('queue_reset to read 0', async () => (await b.getQueue(4, 'queue_reset')) === 0);
      await s.send(frameFrom(1));
      s.check('net-ff.14', 'frames by pair, of one directed to a queue that was reset', (await counts(b)).slice(0, 2), [0, 0]);
      b.net.forget(4);
      await b.setUpQueue(4);
      await b.net.add(2, [2048]);
      await b.kick(4);
      s.check('net-ff.14', 'frames held back until the queue is there again', (await b.net.received(2)).length, 0);
      s.ensure((await pairOf(b, frameFrom(1))) === 2, 'the rule is gone with the queue');
    },
  },
];
