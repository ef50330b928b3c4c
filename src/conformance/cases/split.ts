// The split virtqueue (virtio 1.4 2.7).

import type { Bench } from '../bench.ts';
import type { Case } from '../case.ts';
import { headerBytes } from '../layout.ts';
import { concat } from '../net-bench.ts';
import type { RawSplit } from '../raw-split.ts';
import { plainFrame } from './frames.ts';

const transmitRing = (b: Bench): RawSplit => b.net.transmitQueue().ring as RawSplit;

export const SPLIT_CASES: readonly Case[] = [
  {
    name: 'split/indirect-tables',
    clauses: ['split.13', 'split.14'],
    rings: 'split',
    over: [['INDIRECT_DESC']],
    async run(b, s) {
      await b.start();
      const ring = transmitRing(b);
      const frame = plainFrame(1, undefined, 120);
      const bytes = concat([headerBytes({}, b.net.headerSize), frame]);
      const address = s.allocate(bytes.length);
      await s.write(address, bytes);
      const parts = [
        { address, length: b.net.headerSize },
        { address: address + b.net.headerSize, length: 20 },
        { address: address + b.net.headerSize + 20, length: bytes.length - b.net.headerSize - 20 },
      ];
      await ring.add(parts, { indirect: 'all', tableFlags: 2 });
      await b.kick(1);
      s.check('split.13', 'a frame in an indirect table whose descriptor has WRITE set', await s.sent(), [frame]);
      await ring.add(parts, { indirect: 'tail' });
      await b.kick(1);
      s.check('split.14', 'a frame in a plain descriptor and an indirect table', await s.sent(), [frame]);
      s.check('split.14', 'buffers used', (await ring.used()).length, 2);
    },
  },
  {
    name: 'split/flags-with-event-index',
    clauses: ['split.24', 'split.41'],
    rings: 'split',
    over: [['EVENT_IDX']],
    async run(b, s) {
      await b.start();
      await b.messages();
      const ring = transmitRing(b);
      for (let n = 0; n < 3; n++) {
        await ring.setInterrupts({ at: n });
        await ring.setAvailFlags(1);
        await b.net.transmit(plainFrame(n));
        s.check('split.24', 'messages at used_event with avail.flags 1', await b.messages(), [b.vectorOf(1)]);
        s.check('split.41', 'used.flags of transmitq1', await ring.usedFlags(), 0);
        await b.net.arrives(plainFrame(n));
        await b.messages();
        s.check('split.41', 'used.flags of receiveq1', await (b.net.receiveQueue().ring as RawSplit).usedFlags(), 0);
      }
    },
  },
  {
    name: 'split/used-flags',
    clauses: ['split.39'],
    rings: 'split',
    async run(b, s) {
      await b.start();
      for (let n = 0; n < 3; n++) {
        await b.net.transmit(plainFrame(n));
        await b.net.arrives(plainFrame(n));
        for (const { ring, index } of [b.net.transmitQueue(), b.net.receiveQueue()]) {
          const flags = await (ring as RawSplit).usedFlags();
          s.checkThat('split.39', `used.flags of queue ${index}`, flags <= 1, '0 or 1', flags);
        }
      }
    },
  },
  {
    name: 'split/indices-wrap',
    clauses: ['split.D2', 'split.D4'],
    rings: 'split',
    async run(b, s) {
      await b.start();
      const ring = transmitRing(b);
      const { size, descriptors, driver, device } = ring.place;
      // The same buffer in every slot, so that a lap costs no more than an index: 65536 is reached soon.
      const frame = plainFrame(1);
      const bytes = concat([headerBytes({}, b.net.headerSize), frame]);
      const address = s.allocate(bytes.length);
      await s.write(address, bytes);
      const table = new Uint8Array(16 * size);
      const slots = new Uint8Array(2 * size);
      for (let i = 0; i < size; i++) {
        const view = new DataView(table.buffer, 16 * i);
        view.setUint32(0, address % 2 ** 32, true);
        view.setUint32(4, Math.floor(address / 2 ** 32), true);
        view.setUint32(8, bytes.length, true);
        new DataView(slots.buffer).setUint16(2 * i, i, true);
      }
      await s.write(descriptors, table);
      await s.write(driver + 4, slots);
      s.check('split.D4', 'used index before anything was used', await s.read16(device + 2), 0);
      let sent = 0;
      for (let index = size; index <= 65536 + 2 * size; index += size) {
        await s.write16(driver + 2, index & 0xffff);
        await b.notify(b.net.transmitQueue());
        sent += (await s.sent()).length;
        const used = await s.read16(device + 2);
        if (used !== (index & 0xffff) || sent !== index || index >= 65536 - size) {
          s.check('split.D2', `frames sent for an available index of ${index}`, sent, index);
          s.check('split.D4', `used index after ${index} buffers`, used, index & 0xffff);
          if (used !== (index & 0xffff)) return;
        }
      }
    },
  },
];
