// The packed virtqueue (virtio 1.4 2.8).

import type { Bench } from '../bench.ts';
import type { Case } from '../case.ts';
import { headerBytes } from '../layout.ts';
import { concat } from '../net-bench.ts';
import { PACKED_AVAIL, PACKED_USED, type RawPacked } from '../raw-packed.ts';
import type { Part } from '../raw-ring.ts';
import type { Session } from '../session.ts';
import { plainFrame } from './frames.ts';

const BOTH = PACKED_AVAIL | PACKED_USED;
const transmitRing = (b: Bench): RawPacked => b.net.transmitQueue().ring as RawPacked;

/** A frame with its header in memory, in three parts. */
async function threeParts(b: Bench, s: Session, frame: Uint8Array): Promise<Part[]> {
  const bytes = concat([headerBytes({}, b.net.headerSize), frame]);
  const address = s.allocate(bytes.length);
  await s.write(address, bytes);
  const first = b.net.headerSize;
  return [
    { address, length: first },
    { address: address + first, length: 20 },
    { address: address + first + 20, length: bytes.length - first - 20 },
  ];
}

export const PACKED_CASES: readonly Case[] = [
  {
    name: 'packed/wrap-counters',
    clauses: ['packed.D1', 'packed.D2', 'packed.D3', 'packed.D4', 'packed.D5'],
    rings: 'packed',
    async run(b, s) {
      await b.start({ size: 4 });
      const ring = transmitRing(b);
      const { size } = ring.place;
      // Five laps: each turns both counters over.
      for (let n = 0; n < 5 * size; n++) {
        const lap = Math.floor(n / size);
        const frame = plainFrame(n);
        const sent = await b.net.transmit(frame);
        const [used] = await ring.used();
        s.check('packed.D1', `slot of use ${n}`, used?.slot, n % size);
        s.check('packed.D1', `frames sent for buffer ${n}`, sent, [frame]);
        const expected = lap % 2 === 0 ? BOTH : 0;
        if (lap === 0) s.check('packed.D2', 'AVAIL and USED of a used descriptor in the first lap', used && used.flags & BOTH, BOTH);
        s.check('packed.D3', `AVAIL and USED of a used descriptor in lap ${lap}`, used && used.flags & BOTH, expected);
        s.check('packed.D5', `AVAIL and USED of use ${n}`, used && used.flags & BOTH, expected);
      }
      // Position 0, in a lap whose wrap counter is 0: AVAIL set and USED clear would be available in the lap before.
      const [part] = await threeParts(b, s, plainFrame(7));
      const descriptor = await s.read(ring.place.descriptors, 16);
      const view = new DataView(descriptor.buffer, descriptor.byteOffset, 16);
      view.setUint32(0, part?.address ?? 0, true);
      view.setUint32(8, 60, true);
      view.setUint16(14, PACKED_AVAIL, true);
      await s.write(ring.place.descriptors, descriptor);
      await b.notify(b.net.transmitQueue());
      s.check('packed.D4', 'frames sent for a descriptor whose AVAIL is not the wrap counter', (await s.sent()).length, 0);
      view.setUint16(14, PACKED_USED, true);
      await s.write(ring.place.descriptors, descriptor);
      await b.notify(b.net.transmitQueue());
      s.check('packed.D4', 'frames sent once AVAIL is the wrap counter and USED is not', (await s.sent()).length, 1);
    },
  },
  {
    name: 'packed/untouched-until-available',
    clauses: ['packed.7'],
    rings: 'packed',
    async run(b, s) {
      await b.start({ buffers: 0 });
      const queue = b.net.receiveQueue();
      await b.net.add(0, [2048]);
      await b.net.add(0, [2048]);
      const before = await s.read(queue.ring.place.descriptors, 48);
      await b.notify(queue);
      await s.send(plainFrame(1));
      await s.target.settle();
      s.check('packed.7', 'descriptors whose head is not available yet, with a frame waiting', await s.read(queue.ring.place.descriptors, 48), before);
      await b.kick(0);
      s.ensure((await b.net.received()).length === 1, 'the frame did not arrive once there were buffers');
    },
  },
  {
    name: 'packed/lists-and-tables',
    clauses: ['packed.D6', 'packed.D9', 'packed.D13', 'packed.D14', 'packed.D15'],
    rings: 'packed',
    over: [['INDIRECT_DESC']],
    async run(b, s) {
      await b.start({ size: 16 });
      const ring = transmitRing(b);
      let slot = 0;
      for (let n = 0; n < 12; n++) {
        const frame = plainFrame(n, undefined, 100 + n);
        const parts = await threeParts(b, s, frame);
        const table = n % 2 === 1;
        const token = await ring.add(parts, table ? { indirect: 'all', tableFlags: 2, entryJunk: true } : {});
        await b.kick(1);
        const sent = await s.sent();
        const [used] = await ring.used();
        s.check('packed.D9', `a frame in ${table ? 'a table' : 'a list'}, after one in ${table ? 'a list' : 'a table'}`, sent, [frame]);
        s.check('packed.D6', 'slot of its used descriptor', used?.slot, slot);
        slot = (slot + (table ? 1 : 3)) % 16;
        if (!table) continue;
        s.check('packed.D13', 'order of the parts of a table without NEXT that means anything', sent, [frame]);
        s.check('packed.D14', 'its id, with others in the entries', used?.token, token);
        s.check('packed.D15', 'a table whose descriptor has WRITE set', sent, [frame]);
      }
    },
  },
  {
    name: 'packed/buffer-ids',
    clauses: ['packed.D11'],
    rings: 'packed',
    async run(b, s) {
      await b.start();
      for (const pieces of [[12], [12, 20], [1, 2, 3, 4]]) {
        const token = await b.net.addFrame(plainFrame(pieces.length), { pieces, strayIds: true });
        await b.kick(1);
        const used = await transmitRing(b).used();
        s.check(
          'packed.D11',
          `ids used for a list of ${pieces.length + 1} descriptors, whose last one holds it`,
          used.map((entry) => entry.token),
          [token],
        );
        if (used[0]?.token !== token) return;
      }
    },
  },
  {
    name: 'packed/device-event-area',
    clauses: ['packed.D22'],
    rings: 'packed',
    over: [[], ['EVENT_IDX']],
    async run(b, s) {
      await b.start();
      for (let n = 0; n < 4; n++) {
        await b.net.transmit(plainFrame(n));
        await b.net.arrives(plainFrame(n));
        for (const { ring, index } of [b.net.transmitQueue(), b.net.receiveQueue()]) {
          const { flags } = await (ring as RawPacked).deviceEvent();
          const most = b.has('EVENT_IDX') ? 2 : 1;
          s.checkThat('packed.D22', `flags of the device event area of queue ${index}`, (flags & 3) <= most, `at most ${most}`, flags & 3);
        }
      }
    },
  },
  {
    name: 'packed/odd-sizes',
    clauses: ['packed.D23'],
    rings: 'packed',
    async run(b, s) {
      await b.start({ before: 'DRIVER_OK', size: 7 });
      s.check('packed.D23', 'queue_size as written', await b.getQueue(1, 'queue_size'), 7);
      await b.set('device_status', (await b.get('device_status')) | 4);
      await b.net.post(5, 2048);
      for (let n = 0; n < 20; n++) {
        const frame = plainFrame(n);
        s.check('packed.D23', `frame ${n} through a ring of 7`, await b.net.transmit(frame), [frame]);
        s.check('packed.D23', 'buffers used', (await transmitRing(b).used()).length, 1);
      }
    },
  },
  {
    name: 'packed/merged-buffers-together',
    clauses: ['packed.D18'],
    rings: 'packed',
    over: [['MRG_RXBUF']],
    reading: 'That the first entry is written last cannot be seen after the fact; that no entry is missing when the first one shows can.',
    async run(b, s) {
      await b.start({ bufferSize: 128 });
      const [received] = await b.net.inject(plainFrame(1, undefined, 600));
      s.check('packed.D18', 'buffers used when the first one of a frame shows as used', received?.used.length, Math.ceil((600 + b.net.headerSize) / 128));
      s.check('packed.D18', 'the frame in them', received?.bytes, plainFrame(1, undefined, 600));
    },
  },
];
