// Rings whose device does what it may: it suppresses notifications or moves the event index, writes beyond the length it tells, lets used buffers show late, interrupts for nothing; and
// notifications that carry data.

import { udpFrame } from '../cases/frames.ts';
import type { DriverScenario } from './scenario.ts';
import type { Stage } from './stage.ts';

const AVAIL = 1 << 7;
const USED = 1 << 15;

/** Addresses of a queue's device area fields (split). */
function suppression(stage: Stage, queue: number): { flags: Uint8Array; event: Uint8Array } | undefined {
  const setup = stage.watched.rings.ring(queue)?.setup;
  if (setup === undefined) return undefined;
  const { view } = stage.watched.rings.memory;
  const flags = view.bytes(setup.device, 2);
  const event = view.bytes(setup.device + 4 + 8 * setup.size, 2);
  return flags && event && { flags, event };
}

const words = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff];

/** Sends frames one by one and says how many came out at once, without any turn of the device's own. */
function sentAtOnce(stage: Stage, count: number): number {
  stage.stalled = true;
  stage.sent();
  for (let i = 0; i < count; i++) {
    stage.driver.send({ frame: udpFrame({ payload: 80 + i }), plain: true });
    stage.turn();
  }
  stage.stalled = false;
  return stage.sent().length;
}

export const RING_SCENARIOS: readonly DriverScenario[] = [
  {
    name: 'driver/plain-rings',
    clauses: [],
    device: { withhold: ['EVENT_IDX', 'INDIRECT_DESC', 'IN_ORDER'] },
    run(stage) {
      stage.start();
      stage.check('vq.5', 'frames are carried over plain rings', stage.echoes(40) && stage.echoes(8, 1400), true);
      for (let i = 0; i < 4; i++) stage.driver.send({ frame: udpFrame({ payload: 20_000 }), gsoSize: 1000 });
      stage.turns(5);
    },
  },
  {
    name: 'driver/unordered-rings',
    clauses: [],
    device: { withhold: ['IN_ORDER', 'MRG_RXBUF'] },
    run(stage) {
      stage.start();
      stage.check('vq.5', 'frames are carried over rings in any order', stage.echoes(20), true);
      for (let i = 0; i < 4; i++) stage.driver.send({ frame: udpFrame({ payload: 9000 }), gsoSize: 1000 });
      stage.turns(5);
    },
  },
  {
    name: 'driver/lists-in-order',
    clauses: ['split.7', 'split.12'],
    device: { withhold: ['MRG_RXBUF'] },
    run(stage) {
      stage.start();
      stage.check(stage.ring === 'split' ? 'split.12' : 'packed.22', 'frames are carried in lists of descriptors', stage.echoes(20), true);
    },
  },
  {
    name: 'driver/lists-in-order-without-tables',
    clauses: ['split.7'],
    device: { withhold: ['INDIRECT_DESC', 'MRG_RXBUF'] },
    run(stage) {
      stage.start();
      stage.check(stage.ring === 'split' ? 'split.7' : 'packed.17', 'frames are carried in lists of descriptors', stage.echoes(20), true);
    },
  },
  {
    name: 'driver/suppressed-by-flag',
    clauses: ['split.33', 'split.34', 'split.35', 'split.40', 'split.49'],
    rings: 'split',
    device: { withhold: ['EVENT_IDX'] },
    run(stage) {
      stage.start();
      stage.echoes();
      const sent = suppression(stage, 1);
      // avail_event does not exist without EVENT_IDX: what stands there has to be passed by.
      sent?.flags.set([0, 0]);
      sent?.event.set([0xcc, 0xcc]);
      stage.check('split.33', 'frames announced while avail_event says otherwise', sentAtOnce(stage, 4), 4);
      stage.check('split.35', 'frames announced with used.flags 0', stage.driver.gaveUp, '');
      stage.provocation.served = () => void suppression(stage, 1)?.flags.set([1, 0]);
      sent?.flags.set([1, 0]);
      stage.check('split.34', 'frames announced with used.flags 1', sentAtOnce(stage, 4), 0);
      stage.provocation.served = undefined;
      suppression(stage, 1)?.flags.set([0, 0]);
      // What waited goes out with the next.
      const late = sentAtOnce(stage, 1);
      for (const clause of ['split.40', 'split.49'])
        stage.check(clause, 'frames that came out once notifications were wanted again, and carried then', [late, stage.echoes()], [5, true]);
    },
  },
  {
    name: 'driver/suppressed-by-event-index',
    clauses: ['split.36', 'split.37', 'split.38', 'split.42', 'split.49'],
    rings: 'split',
    run(stage) {
      stage.start();
      stage.echoes();
      const next = (): number => stage.watched.rings.ring(1)?.next ?? 0;
      const sent = suppression(stage, 1);
      // Bit 0 of used.flags counts for nothing with EVENT_IDX.
      stage.provocation.served = () => void suppression(stage, 1)?.flags.set([1, 0]);
      sent?.flags.set([1, 0]);
      sent?.event.set(words(next()));
      stage.check('split.36', 'a frame announced where avail_event wants it, used.flags being 1', sentAtOnce(stage, 1), 1);
      stage.provocation.served = undefined;
      suppression(stage, 1)?.flags.set([0, 0]);
      // From the third on.
      suppression(stage, 1)?.event.set(words(next() + 2));
      stage.check('split.38', 'frames announced before avail_event is reached', sentAtOnce(stage, 2), 0);
      stage.check('split.37', 'frames that came out with the one avail_event names', sentAtOnce(stage, 1), 3);
      const works = stage.echoes();
      for (const clause of ['split.42', 'split.49']) stage.check(clause, 'frames carried after the event index was put off', works, true);
    },
  },
  {
    name: 'driver/suppressed-packed',
    clauses: ['packed.28'],
    rings: 'packed',
    run(stage) {
      stage.start();
      stage.echoes();
      const area = (): Uint8Array | undefined => {
        const setup = stage.watched.rings.ring(1)?.setup;
        return setup && stage.watched.rings.memory.view.bytes(setup.device, 4);
      };
      area()?.set([0, 0, 1, 0]);
      const before = sentAtOnce(stage, 3);
      area()?.set([0, 0, 0, 0]);
      const after = sentAtOnce(stage, 1);
      stage.check('packed.28', 'frames announced while the device wants no notification, then with the next one', [before, after], [0, 4]);
      stage.check('packed.28', 'frames carried afterwards', stage.echoes(), true);
    },
  },
  {
    name: 'driver/needless-interrupts',
    clauses: ['split.20'],
    run(stage) {
      stage.start();
      stage.echoes();
      for (let n = 0; n < 10; n++) {
        stage.interruptAll();
        stage.turn();
      }
      stage.check(
        stage.ring === 'split' ? 'split.20' : 'packed.28',
        'interrupts for nothing: the driver goes on',
        stage.driver.gaveUp === '' && stage.echoes(),
        true,
      );
    },
  },
  {
    name: 'driver/used-length',
    clauses: ['split.29', 'split.30', 'split.31'],
    rings: 'split',
    run(stage) {
      stage.start();
      // The device wrote 200 bytes of payload and says it wrote the first 100.
      const { headerSize } = stage.watched.rings;
      stage.received((_header, setLength) => setLength(headerSize + 100));
      stage.put(udpFrame({ payload: 158 }).bytes);
      stage.turns(5);
      const lengths = stage.driver.taken().map(({ bytes }) => bytes.length);
      for (const clause of ['split.29', 'split.30', 'split.31']) stage.check(clause, 'length of a frame of which 100 bytes were told', lengths, [100]);
      stage.received(undefined);
      stage.check('split.29', 'frames carried afterwards', stage.echoes(), true);
    },
  },
  {
    name: 'driver/used-out-of-sight',
    clauses: ['packed.4'],
    rings: 'packed',
    run(stage) {
      stage.start();
      stage.echoes();
      stage.driver.taken();
      // The first of several used descriptors shows last.
      const ring = stage.watched.rings.ring(0);
      if (ring === undefined) return;
      const { view } = stage.watched.rings.memory;
      const { desc, size } = ring.setup;
      const copy = view.bytes(desc, 16 * size)?.slice() ?? new Uint8Array(0);
      let hidden: Uint8Array | undefined;
      let was: Uint8Array = new Uint8Array(16);
      stage.provocation.served = () => {
        for (let slot = 0; hidden === undefined && slot < size; slot++) {
          const descriptor = view.bytes(desc + 16 * slot, 16);
          const now = descriptor === undefined ? 0 : (descriptor[14] as number) | ((descriptor[15] as number) << 8);
          const before = (copy[16 * slot + 14] as number) | ((copy[16 * slot + 15] as number) << 8);
          const used = ((now & AVAIL) !== 0) === ((now & USED) !== 0) && ((before & AVAIL) !== 0) !== ((before & USED) !== 0);
          if (!used || descriptor === undefined) continue;
          was = descriptor.slice();
          hidden = descriptor;
          descriptor.set(copy.subarray(16 * slot, 16 * slot + 16));
        }
      };
      for (let i = 0; i < 4; i++) stage.put(udpFrame({ payload: 100 + i }).bytes);
      stage.turns(3);
      const early = stage.driver.taken().length;
      stage.provocation.served = undefined;
      hidden?.set(was);
      stage.watched.rings.served();
      stage.interruptAll();
      stage.turns(5);
      const late = stage.driver.taken().map(({ bytes }) => bytes.length - 42);
      stage.check('packed.4', 'frames taken before the first used descriptor can be seen, and after', [early, late], [0, [100, 101, 102, 103]]);
    },
  },
  ...(
    [
      ['driver/notification-data', { notificationData: true }],
      ['driver/notification-names', { notifConfigData: true }],
      ['driver/notification-data-and-names', { notificationData: true, notifConfigData: true }],
    ] as const
  ).map(
    ([name, device]): DriverScenario => ({
      name,
      clauses: [],
      device,
      run(stage) {
        stage.start();
        const clause = 'notificationData' in device ? 'notify.2' : 'notify.5';
        stage.check(clause, 'frames carried', stage.echoes(40), true);
        stage.driver.control.receiveMode('promiscuous', true);
      },
    }),
  ),
];
