// Suspending a device (virtio 1.4 3.4), and its statistics (5.1.9.5.12).

import type { Bench } from '../bench.ts';
import { le16 } from '../bytes.ts';
import type { Case } from '../case.ts';
import { ACK_ERR, ACK_OK, CTRL, STATUS } from '../layout.ts';
import type { Session } from '../session.ts';
import { plainFrame } from './frames.ts';

const BOTH = STATUS.SUSPEND | STATUS.DRIVER_OK;

async function awaitStatus(b: Bench, wanted: number): Promise<number> {
  let status = 0;
  for (let n = 0; n < 100; n++) {
    status = await b.get('device_status');
    if ((status & BOTH) === wanted || (status & STATUS.NEEDS_RESET) !== 0) break;
    await b.session.target.settle();
  }
  return status;
}

async function suspend(b: Bench): Promise<number> {
  await b.set('device_status', (await b.get('device_status')) | STATUS.SUSPEND);
  return awaitStatus(b, STATUS.SUSPEND);
}

async function resume(b: Bench): Promise<number> {
  await b.set('device_status', (await b.get('device_status')) | STATUS.DRIVER_OK);
  return awaitStatus(b, STATUS.DRIVER_OK);
}

async function suspended(b: Bench, s: Session): Promise<void> {
  const status = await suspend(b);
  s.ensure((status & BOTH) === STATUS.SUSPEND, 'the device did not suspend', status);
}

/** Bits of types_bitmap, by number. */
const types = (...bits: readonly number[]): number[] => {
  const bytes = [0, 0, 0, 0, 0, 0, 0, 0];
  for (const bit of bits) bytes[bit >>> 3] = (bytes[bit >>> 3] as number) | (1 << (bit & 7));
  return bytes;
};
const entry = (queue: number, ...bits: readonly number[]): number[] => [...le16(queue), 0, 0, 0, 0, 0, 0, ...types(...bits)];
const RX_BASIC = 0;
const RX_CSUM = 1;
const TX_BASIC = 16;
const CVQ = 32;
const RX_BASIC_BYTES = 56;
const CVQ_BYTES = 24;

async function stats(
  b: Bench,
  entries: readonly number[],
  result = 256,
): Promise<{ readonly ack: number; readonly result: Uint8Array; readonly length: number }> {
  return b.net.command(CTRL.STATS, CTRL.STATS_GET, entries, { result });
}

const u64 = (bytes: Uint8Array, at: number): number => Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(at, true));

export const SUSPEND_CASES: readonly Case[] = [
  {
    name: 'suspend/before-initialisation',
    clauses: ['suspend.7'],
    over: [['SUSPEND']],
    async run(b, s) {
      await b.start({ before: 'FEATURES_OK' });
      await b.set('device_status', (await b.get('device_status')) | STATUS.SUSPEND);
      s.check('suspend.7', 'SUSPEND written before FEATURES_OK', (await b.get('device_status')) & STATUS.SUSPEND, 0);
      await b.start({ before: 'DRIVER_OK' });
      await b.set('device_status', (await b.get('device_status')) | STATUS.SUSPEND);
      s.check('suspend.7', 'SUSPEND written before DRIVER_OK', (await b.get('device_status')) & STATUS.SUSPEND, 0);
    },
  },
  {
    name: 'suspend/there-and-back',
    clauses: ['suspend.12', 'suspend.13', 'suspend.D1', 'suspend.8'],
    over: [['SUSPEND']],
    async run(b, s) {
      await b.start();
      const down = await suspend(b);
      s.checkThat(
        'suspend.12',
        'device_status after SUSPEND was written',
        (down & BOTH) === STATUS.SUSPEND || (down & STATUS.NEEDS_RESET) !== 0,
        'SUSPEND without DRIVER_OK, or DEVICE_NEEDS_RESET',
        down,
      );
      s.check('suspend.D1', 'SUSPEND and DRIVER_OK of a suspended device', down & BOTH, STATUS.SUSPEND);
      const vector = await b.get('config_msix_vector');
      await b.set('config_msix_vector', 1);
      s.check('suspend.8', 'config_msix_vector written while suspended', await b.get('config_msix_vector'), vector);
      const up = await resume(b);
      s.checkThat(
        'suspend.13',
        'device_status after DRIVER_OK was written',
        (up & BOTH) === STATUS.DRIVER_OK || (up & STATUS.NEEDS_RESET) !== 0,
        'DRIVER_OK without SUSPEND, or DEVICE_NEEDS_RESET',
        up,
      );
      s.check('suspend.D1', 'SUSPEND and DRIVER_OK of a resumed device', up & BOTH, STATUS.DRIVER_OK);
      s.check('suspend.13', 'a frame sent after the device was resumed', await b.net.transmit(plainFrame(1)), [plainFrame(1)]);
    },
  },
  {
    name: 'suspend/quiet',
    clauses: ['suspend.9', 'suspend.14', 'suspend.15', 'suspend.16'],
    over: [['SUSPEND']],
    async run(b, s) {
      await b.start();
      await b.messages();
      // Taken before: done, and told, by the time the device says it is suspended.
      await b.net.addFrame(plainFrame(1));
      const queue = b.net.transmitQueue();
      await queue.ring.expose();
      await b.notify(queue);
      await suspended(b, s);
      // A device that is quick has it all done; one that had not come to it yet leaves it for later. Nothing in between.
      const taken = (await s.sent()).length;
      s.check('suspend.15', `transmit buffers used, ${taken} frames having been sent`, (await queue.ring.used()).length, taken);
      s.check('suspend.16', `messages, ${taken} frames having been sent`, await b.messages(), taken === 0 ? [] : [b.vectorOf(1)]);
      await b.net.addFrame(plainFrame(2));
      await queue.ring.expose();
      await b.notify(queue);
      await s.send(plainFrame(3));
      await s.target.settle();
      s.check('suspend.14', 'frames sent of buffers made available while suspended', (await s.sent()).length, 0);
      s.check('suspend.9', 'buffers used while suspended', [(await queue.ring.used()).length, (await b.net.receiveQueue().ring.used()).length], [0, 0]);
      s.check('suspend.9', 'messages while suspended', await b.messages(), []);
      await resume(b);
      await b.notify(queue);
      s.check('suspend.14', 'frames sent in all, once the device was resumed', taken + (await s.sent()).length, 2);
    },
  },
  {
    name: 'suspend/configuration-change',
    clauses: ['suspend.10', 'suspend.11', 'suspend.9'],
    over: [['SUSPEND', 'STATUS']],
    async run(b, s) {
      await b.start();
      const { hands } = s.target;
      if (hands?.setLink === undefined) return s.skip('the target has no way to change the configuration from outside');
      await suspended(b, s);
      await b.messages();
      const before = await b.config('status');
      await hands.setLink(false);
      s.check('suspend.10', 'messages for a configuration change while suspended', await b.messages(), []);
      s.check('suspend.9', 'status of the configuration while suspended', await b.config('status'), before);
      await resume(b);
      s.check('suspend.11', 'messages once the device was resumed', await b.messages(), [0]);
    },
  },
  {
    name: 'net-stats/query',
    clauses: ['net-stats.1', 'net-stats.7', 'net-stats.8', 'net-stats.9'],
    over: [['DEVICE_STATS']],
    async run(b, s) {
      await b.start();
      const query = await b.net.command(CTRL.STATS, CTRL.STATS_QUERY, [], { result: 8 });
      s.check('net-stats.1', 'ack of STATS_QUERY', query.ack, ACK_OK);
      s.checkThat(
        'net-stats.1',
        'supported_stats_types',
        ((query.result[0] as number) & 1) === 1 || (query.result[4] as number) !== 0 || (query.result[2] as number) !== 0,
        'some type',
        query.result,
      );
      if (((query.result[0] as number) & 1) === 0) s.skip('the device has no basic receive statistics');
      const { ack, result, length } = await stats(b, entry(0, RX_BASIC));
      s.check('net-stats.7', 'ack of STATS_GET', ack, ACK_OK);
      s.check('net-stats.7', 'size in the header of the reply', (result[6] as number) | ((result[7] as number) << 8), RX_BASIC_BYTES);
      s.check('net-stats.8', 'type and vq_index in the header of the reply', [result[0], result[2]], [RX_BASIC, 0]);
      s.check('net-stats.9', 'used length of a reply in a buffer that is too long', length, 1 + RX_BASIC_BYTES);
      const short = await stats(b, entry(0, RX_BASIC), 16);
      s.checkThat('net-stats.9', 'used length of a reply in a buffer that is too short', short.length <= 17, 'at most 17', short.length);
    },
  },
  {
    name: 'net-stats/refused',
    clauses: ['net-stats.2', 'net-stats.3', 'net-stats.4', 'net-stats.5', 'net-stats.6'],
    over: [['DEVICE_STATS']],
    async run(b, s) {
      await b.start();
      s.ensure((await stats(b, entry(0, RX_BASIC))).ack === ACK_OK, 'STATS_GET was refused');
      s.check('net-stats.2', 'ack for a queue there is not', (await stats(b, entry(0x7000, RX_BASIC))).ack, ACK_ERR);
      s.check('net-stats.3', 'ack for a type there is not', (await stats(b, entry(0, 60))).ack, ACK_ERR);
      s.check('net-stats.4', 'ack for a transmit type of a receive queue', (await stats(b, entry(0, TX_BASIC))).ack, ACK_ERR);
      s.check('net-stats.5', 'ack for RX_CSUM without GUEST_CSUM', (await stats(b, entry(0, RX_CSUM))).ack, ACK_ERR);
      s.check('net-stats.6', 'ack for a right entry and a wrong one', (await stats(b, [...entry(0, RX_BASIC), ...entry(0, 60)])).ack, ACK_ERR);
    },
  },
  {
    name: 'net-stats/counters',
    clauses: ['net-stats.D1', 'net-stats.D2'],
    over: [['DEVICE_STATS']],
    async run(b, s) {
      await b.start();
      for (const expected of [1, 2, 3]) {
        const { result } = await stats(b, entry(b.net.controlIndex, CVQ), CVQ_BYTES);
        s.check('net-stats.D1', `command_num after ${expected} commands, this one among them`, u64(result, 8), expected);
      }
      const { result } = await stats(b, entry(0, RX_BASIC), RX_BASIC_BYTES);
      const [drops, overruns] = [u64(result, 40), u64(result, 48)];
      s.checkThat('net-stats.D2', 'rx_drops', drops >= overruns, `at least rx_drop_overruns, ${overruns}`, drops);
    },
  },
];
