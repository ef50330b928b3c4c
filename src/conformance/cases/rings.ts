// What holds for virtqueues of both formats (virtio 1.4 2.6, 2.7.4, 2.8.4) and notifications to the device (2.9, 4.1.5.2).

import type { Bench } from '../bench.ts';
import type { Case } from '../case.ts';
import { CTRL, headerBytes } from '../layout.ts';
import { concat } from '../net-bench.ts';
import type { Session } from '../session.ts';
import { plainFrame, tcpFrame } from './frames.ts';

/** The clause of this format. */
const of = (b: Bench, split: string, packed: string): string => (b.variant.ring === 'split' ? split : packed);

/** Sends one frame out of memory the case can look at; returns where it lies. */
async function sendFrom(b: Bench, s: Session, frame: Uint8Array): Promise<{ address: number; bytes: Uint8Array }> {
  const bytes = concat([headerBytes({}, b.net.headerSize), frame]);
  const address = s.allocate(bytes.length);
  await s.write(address, bytes);
  await b.net.transmitQueue().ring.add([{ address, length: bytes.length }]);
  await b.kick(1);
  return { address, bytes };
}

export const RING_CASES: readonly Case[] = [
  {
    name: 'rings/readable-buffers-stay',
    clauses: ['split.2', 'packed.5'],
    async run(b, s) {
      await b.start({ features: ['CSUM'] });
      const clause = of(b, 'split.2', 'packed.5');
      // One that leaves a checksum to the device: what it fills in goes to the wire, not into the driver's buffer.
      const { bytes: frame, layout } = tcpFrame();
      const header = headerBytes({ flags: 1, csumStart: layout.transport, csumOffset: 16 }, b.net.headerSize);
      const bytes = concat([header, frame]);
      const address = s.allocate(bytes.length);
      await s.write(address, bytes);
      await b.net.transmitQueue().ring.add([{ address, length: bytes.length }]);
      await b.kick(1);
      s.ensure((await s.sent()).length === 1, 'the frame was not sent');
      s.check(clause, 'a transmit buffer after the device has used it', await s.read(address, bytes.length), bytes);
    },
  },
  {
    name: 'vq/slicing',
    clauses: ['vq.3', 'packed.19', 'packed.25'],
    over: [[], ['INDIRECT_DESC']],
    async run(b, s) {
      await b.start({ features: ['CTRL_VQ', 'CTRL_RX'], buffers: 0 });
      const indirect = b.has('INDIRECT_DESC') ? ({ indirect: 'all' } as const) : {};
      const frame = plainFrame(1, undefined, 200);
      const size = b.net.headerSize;
      for (const pieces of [[], [size], [1], [size + 14], [2, 3, size], [size, 14, 50], [size - 1, 2, 1, 1, 60], [5, 5, 5, 5, 5, 5]]) {
        const sent = await b.net.transmit(frame, { pieces, ...indirect });
        await b.net.transmitQueue().ring.used();
        s.check('vq.3', `a frame sent in pieces of ${pieces.join(', ') || 'all'} bytes`, sent, [frame]);
        if (b.variant.ring === 'packed') {
          s.check('packed.19', `order of the pieces of a frame cut after ${pieces.join(', ') || 'all'} bytes`, sent, [frame]);
          if (pieces.length > 0 && !b.has('INDIRECT_DESC')) s.check('packed.25', `a list of ${pieces.length + 1} descriptors, its head last`, sent.length, 1);
        }
      }
      for (const sizes of [[2048], [size, 2048], [1, 2048], [size + 3, 40, 2048], [4, 4, 4, 4, 400]]) {
        await b.net.add(0, sizes, indirect.indirect);
        await b.kick(0);
        const [received] = await b.net.inject(frame);
        s.check('vq.3', `a frame received into pieces of ${sizes.join(', ')} bytes`, received?.bytes, frame);
      }
      for (const pieces of [[2], [1], [3], [], [1, 1]]) {
        const { ack } = await b.net.command(CTRL.RX, CTRL.PROMISC, [1], { pieces, ...indirect });
        s.check('vq.3', `ack of a command sent in pieces of ${pieces.join(', ') || 'all'} bytes`, ack, 0);
      }
    },
  },
  {
    name: 'vq/in-order',
    clauses: ['vq.2', 'split.D6', 'split.D7', 'split.D8', 'packed.D16', 'packed.D17'],
    over: [['IN_ORDER']],
    reading: 'A device may use one entry for a batch or one for each buffer; either way all of them come back, in order, at the places the format says.',
    async run(b, s) {
      await b.start();
      const { ring } = b.net.transmitQueue();
      for (const round of [0, 1]) {
        const tokens: number[] = [];
        for (let n = 0; n < 5; n++) tokens.push(await b.net.addFrame(plainFrame(10 * round + n), n === 2 ? { pieces: [12, 20] } : {}));
        await b.kick(1);
        const used = await ring.used();
        const order = used.map(({ token }) => tokens.indexOf(token));
        s.checkThat(
          'vq.2',
          'places of the used buffers in the order they were supplied',
          order.every((place, i) => place > (order[i - 1] ?? -1)),
          'rising',
          order,
        );
        s.check('vq.2', 'frames sent', (await s.sent()).length, 5);
        s.check(of(b, 'split.D6', 'packed.D16'), 'the last buffer that came back', used.at(-1)?.token, tokens.at(-1));
        // The next entry lies behind what the batch took: another buffer comes back there.
        const next = await b.net.addFrame(plainFrame(99));
        await b.kick(1);
        s.check(
          of(b, 'split.D7', 'packed.D17'),
          'the buffer that comes back after the batch',
          (await ring.used()).map(({ token }) => token),
          [next],
        );
        await s.sent();
      }
      if (b.variant.ring === 'split') {
        await s.send(plainFrame(50, undefined, 100));
        await s.send(plainFrame(51, undefined, 60));
        const lengths = (await b.net.received()).map(({ used }) => used[0]?.length);
        s.check('split.D8', 'used lengths of two frames received at once, neither of which fills its buffer', lengths, [
          b.net.headerSize + 100,
          b.net.headerSize + 60,
        ]);
      }
    },
  },
  {
    name: 'rings/many-at-once',
    clauses: ['split.44', 'split.46', 'split.D3', 'packed.2', 'packed.3', 'packed.D10', 'packed.D12'],
    async run(b, s) {
      await b.start();
      const frames = [1, 2, 3, 4, 5, 6].map((number) => plainFrame(number));
      const tokens: number[] = [];
      for (const [i, frame] of frames.entries()) tokens.push(await b.net.addFrame(frame, i % 2 === 1 ? { pieces: [b.net.headerSize, 10 + i] } : {}));
      await b.kick(1);
      const sent = await s.sent();
      const used = await b.net.transmitQueue().ring.used();
      const back = used.map(({ token }) => token);
      if (b.variant.ring === 'split') {
        s.check('split.44', 'frames sent of six made available by one index update', sent.length, 6);
        s.check('split.46', 'frames sent, in order', sent, frames);
        s.check(
          'split.D3',
          'ids of the used elements',
          [...back].sort((x, y) => x - y),
          [...tokens].sort((x, y) => x - y),
        );
        return;
      }
      s.check('packed.2', 'frames sent, in ring order', sent, frames);
      s.check('packed.3', 'ids in the order buffers were completed', back, tokens);
      s.check('packed.D10', 'used descriptors for six lists of one and three descriptors', used.length, 6);
      s.check(
        'packed.D12',
        'slots of the used descriptors',
        used.map(({ slot }) => slot),
        [0, 1, 4, 5, 8, 9],
      );
    },
  },
  {
    name: 'rings/one-at-a-time',
    clauses: ['split.45', 'split.D5', 'split.27', 'split.28', 'packed.D7', 'packed.D8'],
    reading: 'That an element is written before the index cannot be seen from outside after the fact; that it is there when the index shows it can.',
    async run(b, s) {
      await b.start({ features: ['CTRL_VQ', 'CTRL_RX'] });
      const [length, written] = [of(b, 'split.D5', 'packed.D8'), b.variant.ring === 'packed'];
      for (const number of [1, 2, 3]) {
        const frame = plainFrame(number);
        const sent = await b.net.transmit(frame);
        if (!written) s.check('split.45', 'a frame made available by an index update of its own', sent, [frame]);
        const [used] = await b.net.transmitQueue().ring.used();
        if (written) s.check('packed.D7', 'WRITE flag of a used transmit descriptor', (used?.flags ?? 0) & 2, 0);
        else s.check(length, 'used length of a transmit buffer', used?.length, 0);
      }
      const frame = plainFrame(9, undefined, 77);
      const received = await b.net.arrives(frame);
      const [entry] = received.used;
      s.check(length, 'used length of a receive buffer', entry?.length, b.net.headerSize + 77);
      if (written) s.check('packed.D7', 'WRITE flag of a used receive descriptor', (entry?.flags ?? 0) & 2, 2);
      else {
        s.check('split.27', 'used length when the index shows the element', entry?.length, b.net.headerSize + 77);
        s.check('split.28', 'bytes written when the index shows the element', received.bytes, frame);
      }
      s.check(length, 'used length of a control command', (await b.net.command(CTRL.RX, CTRL.PROMISC, [1])).length, 1);
    },
  },
  {
    name: 'rings/idle-kicks',
    clauses: ['split.43', 'packed.12'],
    async run(b, s) {
      await b.start();
      const clause = of(b, 'split.43', 'packed.12');
      const queue = b.net.transmitQueue();
      for (let n = 0; n < 3; n++) await b.notify(queue);
      s.check(clause, 'frames sent after kicks with nothing new', (await s.sent()).length, 0);
      s.check(clause, 'buffers used after kicks with nothing new', (await queue.ring.used()).length, 0);
      const frame = plainFrame(1);
      s.check(clause, 'a frame after that', await b.net.transmit(frame), [frame]);
      for (let n = 0; n < 3; n++) await b.notify(queue);
      s.check(clause, 'frames sent again by kicks with nothing new', (await s.sent()).length, 0);
      s.check(clause, 'device_status', (await b.get('device_status')) & 0x40, 0);
    },
  },
  {
    name: 'rings/masked-while-draining',
    clauses: ['split.51', 'split.17', 'split.22', 'packed.30', 'packed.D19'],
    async run(b, s) {
      await b.start();
      const { ring } = b.net.transmitQueue();
      await b.messages();
      await ring.setInterrupts('never');
      const sent = await b.net.transmit(plainFrame(1));
      const quiet = await b.messages();
      if (b.variant.ring === 'split') {
        s.check('split.17', 'frames sent with interrupts discouraged', sent.length, 1);
        s.check('split.22', 'messages with avail.flags 1', quiet, []);
      } else s.check('packed.D19', 'messages with driver event flags DISABLE', quiet, []);
      const clause = of(b, 'split.51', 'packed.30');
      s.check(clause, 'buffers found while interrupts were masked', (await ring.used()).length, 1);
      await ring.setInterrupts('always');
      await b.net.transmit(plainFrame(2));
      s.check(clause, 'messages once they are wanted again', await b.messages(), [b.vectorOf(1)]);
    },
  },
  {
    name: 'rings/every-use-notified',
    clauses: ['split.23', 'split.21', 'packed.D20'],
    async run(b, s) {
      await b.start();
      await b.messages();
      const { ring } = b.net.transmitQueue();
      for (let n = 0; n < 4; n++) {
        await b.net.transmit(plainFrame(n));
        s.check(of(b, 'split.23', 'packed.D20'), `messages after use ${n + 1}`, await b.messages(), [b.vectorOf(1)]);
        await ring.used();
      }
      if (b.variant.ring !== 'split' || !('setUsedEvent' in ring)) return;
      // Not negotiated: whatever stands there means nothing.
      await (ring as { setUsedEvent(value: number): Promise<void> }).setUsedEvent(1000);
      await b.net.transmit(plainFrame(9));
      s.check('split.21', 'messages with a used_event far away', await b.messages(), [b.vectorOf(1)]);
    },
  },
  {
    name: 'rings/interrupt-at',
    clauses: ['split.19', 'split.25', 'split.26', 'packed.D21'],
    over: [['EVENT_IDX']],
    async run(b, s) {
      await b.start();
      await b.messages();
      const { ring } = b.net.transmitQueue();
      const fires = of(b, 'split.25', 'packed.D21');
      const quiet = of(b, 'split.26', 'packed.D21');
      let used = 0;
      for (const ahead of [0, 2, 1, 3]) {
        const at = used + ahead;
        await ring.setInterrupts({ at });
        for (; used < at; used++) {
          await b.net.transmit(plainFrame(used));
          s.check(quiet, `messages after entry ${used}, wanted at ${at}`, await b.messages(), []);
        }
        await b.net.transmit(plainFrame(used));
        s.check(fires, `messages after entry ${used}, where one was wanted`, await b.messages(), [b.vectorOf(1)]);
        used++;
        // Passed: until it is moved there is nothing to tell.
        await b.net.transmit(plainFrame(used++));
        s.check(quiet, `messages after entry ${used - 1}, wanted at ${at}`, await b.messages(), []);
        await ring.used();
      }
      if (b.variant.ring === 'split') {
        // Several uses in one go that cross it.
        await ring.setInterrupts({ at: used + 1 });
        for (let n = 0; n < 3; n++) await b.net.addFrame(plainFrame(n));
        await b.kick(1);
        s.check('split.25', 'messages after three uses at once that cross used_event', await b.messages(), [b.vectorOf(1)]);
        s.check('split.19', 'buffers used while interrupts were put off', (await ring.used()).length, 3);
      }
    },
  },
  {
    name: 'notify/doorbells',
    clauses: ['notify.D4'],
    async run(b, s) {
      await b.start({ features: ['CTRL_VQ', 'CTRL_RX'], buffers: 0 });
      const frame = plainFrame(1);
      s.check('notify.D4', 'a frame after a notification at the doorbell of transmitq1', await b.net.transmit(frame), [frame]);
      s.check('notify.D4', 'ack of a command after a notification at the doorbell of controlq', (await b.net.command(CTRL.RX, CTRL.PROMISC, [1])).ack, 0);
      await s.send(frame);
      await b.net.add(0, [2048]);
      await b.kick(0);
      s.check('notify.D4', 'frames received after a notification at the doorbell of receiveq1', (await b.net.received()).length, 1);
    },
  },
  {
    name: 'notify/data-repeated',
    clauses: ['notify.D3'],
    model: 'notification-data',
    async run(b, s) {
      await b.start({ features: ['NOTIFICATION_DATA'] });
      const frames = [1, 2, 3].map((number) => plainFrame(number));
      for (const frame of frames) await b.net.addFrame(frame);
      await b.kick(1);
      for (let n = 0; n < 3; n++) await b.notify(b.net.transmitQueue());
      s.check('notify.D3', 'frames sent after the same notification four times', await s.sent(), frames);
      const next = plainFrame(4);
      s.check('notify.D3', 'a frame after that', await b.net.transmit(next), [next]);
    },
  },
  {
    name: 'rings/transmit-buffer-content',
    clauses: ['split.5', 'packed.8'],
    async run(b, s) {
      await b.start();
      const { ring } = b.net.transmitQueue();
      const table = ring.place.descriptors;
      if (b.variant.ring === 'split') {
        await b.net.addFrame(plainFrame(1), { pieces: [12, 30] });
        const before = await s.read(table, 16 * ring.place.size);
        const receive = b.net.receiveQueue().ring.place;
        const other = await s.read(receive.descriptors, 16 * receive.size);
        await b.kick(1);
        await b.net.arrives(plainFrame(2));
        s.check('split.5', 'descriptor table of transmitq1 after a chain was used', await s.read(table, 16 * ring.place.size), before);
        s.check('split.5', 'descriptor table of receiveq1 after a buffer was used', await s.read(receive.descriptors, 16 * receive.size), other);
        return;
      }
      await sendFrom(b, s, plainFrame(1));
      s.ensure((await ring.used()).length === 1, 'the buffer was not used');
      const before = await s.read(table, 16);
      await sendFrom(b, s, plainFrame(2));
      await b.net.arrives(plainFrame(3));
      s.check('packed.8', 'a descriptor after it was used, when others had been used too', await s.read(table, 16), before);
    },
  },
];
