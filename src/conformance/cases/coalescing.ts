// Notifications coalescing (virtio 1.4 5.1.9.5.11). Devices MAY notify more or less often than told: the rows about when are descriptive, and read as exactly so.

import type { Bench } from '../bench.ts';
import { le16, le32 } from '../bytes.ts';
import type { Case } from '../case.ts';
import { ACK_ERR, ACK_OK, CTRL } from '../layout.ts';
import { plainFrame } from './frames.ts';

const MICROSECOND = 1000;
/** Long enough never to come in a case. */
const NEVER = 1_000_000;

const coal = (packets: number, micros: number): number[] => [...le32(packets), ...le32(micros)];

async function setAll(b: Bench, command: number, packets: number, micros: number): Promise<number> {
  return (await b.net.command(CTRL.COAL, command, coal(packets, micros))).ack;
}

async function setQueue(b: Bench, queue: number, packets: number, micros: number, reserved = 0): Promise<number> {
  return (await b.net.command(CTRL.COAL, CTRL.COAL_VQ_SET, [...le16(queue), ...le16(reserved), ...coal(packets, micros)])).ack;
}

/** [max_packets, max_usecs] of a queue. The reply may stand before the ack or behind it. */
async function getQueue(b: Bench, queue: number): Promise<readonly [ack: number, values: readonly number[]]> {
  const { ack, result } = await b.net.command(CTRL.COAL, CTRL.COAL_VQ_GET, [...le16(queue), 0, 0], { result: 8 });
  const bytes = Uint8Array.of(ack, ...result);
  const view = new DataView(bytes.buffer);
  const before = [view.getUint32(0, true), view.getUint32(4, true)];
  const behind = [view.getUint32(1, true), view.getUint32(5, true)];
  // An ack of 0 or 1 in front with an answer behind it, or the ack last.
  if (bytes[8] !== 0xff || ack === ACK_ERR) {
    if (ack <= 1 && !(bytes[8] === ACK_OK && before[0] === ack && before.some((value) => value > 1))) return [ack, behind];
  }
  return [bytes[8] as number, before];
}

/** Sends `count` frames one after the other; returns the number of messages after each. */
async function sendEach(b: Bench, count: number): Promise<number[]> {
  const seen: number[] = [];
  for (let n = 0; n < count; n++) {
    await b.net.transmit(plainFrame(n));
    await b.net.transmitQueue().ring.used();
    seen.push((await b.messages()).filter((message) => message === b.vectorOf(1)).length);
  }
  return seen;
}

async function receiveEach(b: Bench, count: number): Promise<number[]> {
  const seen: number[] = [];
  for (let n = 0; n < count; n++) {
    await b.net.inject(plainFrame(n));
    seen.push((await b.messages()).filter((message) => message === b.vectorOf(0)).length);
  }
  return seen;
}

export const COALESCING_CASES: readonly Case[] = [
  {
    name: 'net-coal/packets',
    clauses: ['net-coal.D3', 'net-coal.D5'],
    over: [['NOTF_COAL']],
    async run(b, s) {
      await b.start({ features: ['CTRL_VQ'], buffers: 32 });
      s.ensure((await setAll(b, CTRL.COAL_TX_SET, 3, NEVER)) === ACK_OK, 'TX_SET was refused');
      s.ensure((await setAll(b, CTRL.COAL_RX_SET, 2, NEVER)) === ACK_OK, 'RX_SET was refused');
      await b.messages();
      s.check('net-coal.D3', 'messages after each of seven frames sent, with max_packets 3', await sendEach(b, 7), [0, 0, 1, 0, 0, 1, 0]);
      s.check('net-coal.D5', 'messages after each of five frames received, with max_packets 2', await receiveEach(b, 5), [0, 1, 0, 1, 0]);
    },
  },
  {
    name: 'net-coal/time',
    clauses: ['net-coal.D3', 'net-coal.D5'],
    over: [['NOTF_COAL']],
    async run(b, s) {
      await b.start({ features: ['CTRL_VQ'], buffers: 32 });
      s.ensure((await setAll(b, CTRL.COAL_RX_SET, 100, 50)) === ACK_OK, 'RX_SET was refused');
      await b.messages();
      // The command starts no timer: a long while later the first frame still waits its 50 microseconds.
      await s.target.advance(500 * MICROSECOND);
      await b.net.inject(plainFrame(1));
      s.check('net-coal.D3', 'messages when the first frame came', await b.messages(), []);
      await s.target.advance(30 * MICROSECOND);
      await b.net.inject(plainFrame(2));
      s.check('net-coal.D3', 'messages 30 microseconds after the first frame', await b.messages(), []);
      await s.target.advance(25 * MICROSECOND);
      s.check('net-coal.D3', 'messages 55 microseconds after the first frame', await b.messages(), [b.vectorOf(0)]);
      await s.target.advance(200 * MICROSECOND);
      s.check('net-coal.D5', 'messages later, with no further frame', await b.messages(), []);
      await b.net.inject(plainFrame(3));
      await s.target.advance(45 * MICROSECOND);
      s.check('net-coal.D5', 'messages 45 microseconds after the next frame', await b.messages(), []);
      await s.target.advance(10 * MICROSECOND);
      s.check('net-coal.D5', 'messages 55 microseconds after the next frame', await b.messages(), [b.vectorOf(0)]);
    },
  },
  {
    name: 'net-coal/zero-is-immediate',
    clauses: ['net-coal.D4', 'net-coal.13'],
    over: [['NOTF_COAL']],
    async run(b, s) {
      await b.start({ features: ['CTRL_VQ'], buffers: 32 });
      await b.messages();
      s.check('net-coal.13', 'messages after each of three frames sent, with nothing set', await sendEach(b, 3), [1, 1, 1]);
      for (const [packets, micros] of [
        [5, 0],
        [0, 500],
      ] as const) {
        s.ensure((await setAll(b, CTRL.COAL_TX_SET, packets, micros)) === ACK_OK, 'TX_SET was refused');
        await b.messages();
        s.check('net-coal.D4', `messages after each of three frames with max_packets ${packets}, max_usecs ${micros}`, await sendEach(b, 3), [1, 1, 1]);
      }
      s.ensure((await setAll(b, CTRL.COAL_TX_SET, 5, NEVER)) === ACK_OK, 'TX_SET was refused');
      await b.start({ features: ['CTRL_VQ'] });
      await b.messages();
      s.check('net-coal.13', 'messages after each of three frames sent after a reset', await sendEach(b, 3), [1, 1, 1]);
    },
  },
  {
    name: 'net-coal/change',
    clauses: ['net-coal.D6'],
    over: [['NOTF_COAL']],
    async run(b, s) {
      await b.start({ features: ['CTRL_VQ'] });
      s.ensure((await setAll(b, CTRL.COAL_TX_SET, 15, NEVER)) === ACK_OK, 'TX_SET was refused');
      await b.messages();
      await sendEach(b, 10);
      s.check('net-coal.D6', 'ack of TX_SET with fewer than were sent', await setAll(b, CTRL.COAL_TX_SET, 8, NEVER), ACK_OK);
      const messages = (await b.messages()).filter((message) => message === b.vectorOf(1));
      s.check('net-coal.D6', 'messages of transmitq1 when max_packets fell to 8 with 10 frames sent', messages.length, 1);
    },
  },
  {
    name: 'net-coal/suppressed',
    clauses: ['net-coal.12'],
    over: [['NOTF_COAL']],
    async run(b, s) {
      await b.start({ features: ['CTRL_VQ'] });
      s.ensure((await setAll(b, CTRL.COAL_TX_SET, 2, 50)) === ACK_OK, 'TX_SET was refused');
      await b.messages();
      await b.net.transmitQueue().ring.setInterrupts('never');
      s.check('net-coal.12', 'messages after each of four frames with max_packets 2, suppressed by the driver', await sendEach(b, 4), [0, 0, 0, 0]);
      await b.net.transmit(plainFrame(9));
      await s.target.advance(100 * MICROSECOND);
      s.check('net-coal.12', 'messages when the time was up, suppressed by the driver', await b.messages(), []);
    },
  },
  {
    name: 'net-coal/queues',
    clauses: ['net-coal.5', 'net-coal.D1', 'net-coal.D2', 'net-coal.13'],
    over: [['NOTF_COAL', 'VQ_NOTF_COAL']],
    async run(b, s) {
      await b.start({ features: ['MQ'], pairs: 2 });
      s.check('net-coal.13', 'answer of VQ_GET with nothing set', await getQueue(b, 0), [ACK_OK, [0, 0]]);
      s.check('net-coal.5', 'ack of VQ_SET with something in the reserved field', await setQueue(b, 0, 7, 70, 0xffff), ACK_OK);
      s.check('net-coal.5', 'answer of VQ_GET after that', await getQueue(b, 0), [ACK_OK, [7, 70]]);
      s.check('net-coal.D2', 'answer of VQ_GET of another queue', await getQueue(b, 2), [ACK_OK, [0, 0]]);
      s.ensure((await setAll(b, CTRL.COAL_RX_SET, 9, 90)) === ACK_OK, 'RX_SET was refused');
      for (const queue of [0, 2]) s.check('net-coal.D1', `answer of VQ_GET of queue ${queue} after RX_SET`, await getQueue(b, queue), [ACK_OK, [9, 90]]);
      s.check('net-coal.D1', 'answer of VQ_GET of transmitq1 after RX_SET', await getQueue(b, 1), [ACK_OK, [0, 0]]);
      s.ensure((await setQueue(b, 2, 4, 40)) === ACK_OK, 'VQ_SET was refused');
      s.check('net-coal.D2', 'answer of VQ_GET after VQ_SET', await getQueue(b, 2), [ACK_OK, [4, 40]]);
      s.check('net-coal.D2', 'answer of VQ_GET of the queue that was not named', await getQueue(b, 0), [ACK_OK, [9, 90]]);
      await b.start({ features: ['MQ'], pairs: 2 });
      s.check('net-coal.13', 'answer of VQ_GET after a reset', await getQueue(b, 2), [ACK_OK, [0, 0]]);
    },
  },
  {
    name: 'net-coal/wrong-queues',
    clauses: ['net-coal.7', 'net-coal.8'],
    over: [['VQ_NOTF_COAL']],
    async run(b, s) {
      await b.start({ features: ['MQ'], pairs: 1 });
      const most = await b.config('max_virtqueue_pairs');
      s.check('net-coal.7', 'ack of VQ_SET for a queue there is not', await setQueue(b, 0x7ffe, 1, 1), ACK_ERR);
      s.check('net-coal.8', 'ack of VQ_SET for controlq', await setQueue(b, b.net.controlIndex, 1, 1), ACK_ERR);
      s.check('net-coal.8', 'ack of VQ_GET for controlq', (await getQueue(b, b.net.controlIndex))[0], ACK_ERR);
      if (most > 1) {
        s.check('net-coal.8', 'ack of VQ_SET for a queue that is not enabled', await setQueue(b, 2, 1, 1), ACK_ERR);
        s.check('net-coal.8', 'ack of VQ_GET for a queue that is not enabled', (await getQueue(b, 2))[0], ACK_ERR);
      }
      s.check('net-coal.7', 'ack of VQ_SET for a queue there is', await setQueue(b, 0, 1, 1), ACK_OK);
    },
  },
  {
    name: 'net-coal/short-commands',
    clauses: ['net-coal.6'],
    over: [['NOTF_COAL']],
    async run(b, s) {
      await b.start({ features: ['CTRL_VQ'] });
      s.check('net-coal.6', 'ack of a TX_SET that is cut short', (await b.net.command(CTRL.COAL, CTRL.COAL_TX_SET, le32(5))).ack, ACK_ERR);
      s.check('net-coal.6', 'ack of an RX_SET that is cut short', (await b.net.command(CTRL.COAL, CTRL.COAL_RX_SET, le32(5))).ack, ACK_ERR);
      s.check('net-coal.6', 'ack of a TX_SET that is right', await setAll(b, CTRL.COAL_TX_SET, 1, 1), ACK_OK);
    },
  },
  {
    name: 'net-coal/enabled-again',
    clauses: ['net-coal.9', 'net-coal.10'],
    over: [['NOTF_COAL', 'VQ_NOTF_COAL', 'RING_RESET']],
    async run(b, s) {
      await b.start({ features: ['CTRL_VQ'] });
      const again = async (queue: number): Promise<void> => {
        await b.setQueue(queue, 'queue_reset', 1);
        await b.until(`queue_reset of queue ${queue} to read 0`, async () => (await b.getQueue(queue, 'queue_reset')) === 0);
        await b.setUpQueue(queue);
      };
      for (const [queue, clause, command] of [
        [1, 'net-coal.9', CTRL.COAL_TX_SET],
        [0, 'net-coal.10', CTRL.COAL_RX_SET],
      ] as const) {
        s.ensure((await setQueue(b, queue, 3, 33)) === ACK_OK, 'VQ_SET was refused');
        await again(queue);
        s.check(clause, `answer of VQ_GET of queue ${queue}, enabled again with nothing set for its direction`, await getQueue(b, queue), [ACK_OK, [0, 0]]);
        s.ensure((await setAll(b, command, 6, 66)) === ACK_OK, 'the command for all queues was refused');
        s.ensure((await setQueue(b, queue, 3, 33)) === ACK_OK, 'VQ_SET was refused');
        await again(queue);
        s.check(clause, `answer of VQ_GET of queue ${queue}, enabled again after the command for all queues`, await getQueue(b, queue), [ACK_OK, [6, 66]]);
      }
    },
  },
];
