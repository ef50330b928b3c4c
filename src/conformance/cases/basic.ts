// Status, features, configuration space and resets (virtio 1.4 2.1, 2.2, 2.4, 2.5, 2.6.1, 3.1, 6).

import type { Bench } from '../bench.ts';
import type { Case } from '../case.ts';
import { DEPENDENCIES, FEATURE, FEATURE_NAMES, type FeatureName, LEGACY_BITS, nameOfBit } from '../features.ts';
import { type NET_CONFIG, STATUS } from '../layout.ts';
import type { Session } from '../session.ts';
import { plainFrame } from './frames.ts';

const RUNNING = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK | STATUS.DRIVER_OK;

/** Feature bits of the catalogue that a network device over PCI may show: 24 to 40 and 43 are anybody's, 41 PCI's, and so on (virtio 1.4 2.2). */
const DEFINED: ReadonlySet<number> = new Set([...FEATURE_NAMES.map((name) => FEATURE[name]), ...LEGACY_BITS]);

/** Sets FEATURES_OK for these; returns whether it stayed. */
async function negotiate(b: Bench, bits: ReadonlySet<number>): Promise<boolean> {
  await b.reset();
  await b.addStatus(STATUS.ACKNOWLEDGE);
  await b.addStatus(STATUS.DRIVER);
  await b.writeFeatures(bits);
  return ((await b.addStatus(STATUS.FEATURES_OK)) & STATUS.FEATURES_OK) !== 0;
}

/** Makes an unrecoverable error: with the target's help, or by a transmit chain that runs in a circle. Returns once it shows. */
async function breakDown(b: Bench, s: Session): Promise<void> {
  const hands = s.target.hands;
  if (hands?.breakDown) await hands.breakDown();
  else {
    const queue = b.net.transmitQueue();
    const { place } = queue.ring;
    const address = s.allocate(64);
    // A descriptor that names itself as the next, or (packed) a list as long as the ring without an end.
    const count = b.has('RING_PACKED') ? place.size : 1;
    for (let slot = 0; slot < count; slot++) {
      const bytes = new Uint8Array(16);
      const view = new DataView(bytes.buffer);
      view.setUint32(0, address, true);
      view.setUint32(8, 64, true);
      view.setUint16(b.has('RING_PACKED') ? 14 : 12, b.has('RING_PACKED') ? 0x81 : 1, true);
      await s.write(place.descriptors + 16 * slot, bytes);
    }
    if (!b.has('RING_PACKED')) {
      await s.write16(place.driver + 4, 0);
      await s.write16(place.driver + 2, 1);
    }
    await b.notify(queue);
  }
  for (let n = 0; n < 100; n++) {
    await s.target.settle();
    if (((await b.get('device_status')) & STATUS.NEEDS_RESET) !== 0) return;
  }
}

export const BASIC_CASES: readonly Case[] = [
  {
    name: 'status/nothing-before-DRIVER_OK',
    clauses: ['status.5'],
    async run(b, s) {
      await b.start({ before: 'DRIVER_OK' });
      await b.net.post(4, 2048);
      await b.net.addFrame(plainFrame(1));
      await b.kick(1);
      await s.send(plainFrame(2));
      await s.target.settle();
      s.check('status.5', 'transmit buffers used before DRIVER_OK', (await b.net.transmitQueue().ring.used()).length, 0);
      s.check('status.5', 'receive buffers used before DRIVER_OK', (await b.net.receiveQueue().ring.used()).length, 0);
      s.check('status.5', 'frames sent before DRIVER_OK', (await s.sent()).length, 0);
      s.check('status.5', 'messages before DRIVER_OK', await b.messages(), []);
    },
  },
  {
    name: 'status/error-shows',
    clauses: ['status.6', 'status.7', 'config.D2'],
    reading: 'What a device cannot recover from is its own affair; a descriptor list without an end is taken to be such an error.',
    async run(b, s) {
      await b.start();
      await b.messages();
      await breakDown(b, s);
      const status = await b.get('device_status');
      s.check('status.6', 'DEVICE_NEEDS_RESET after an error the device cannot recover from', status & STATUS.NEEDS_RESET, STATUS.NEEDS_RESET);
      if ((status & STATUS.NEEDS_RESET) === 0) return;
      const messages = await b.messages();
      s.checkThat('status.7', 'messages when DEVICE_NEEDS_RESET was set under DRIVER_OK', messages.includes(0), 'one for a configuration change, 0', messages);
      s.checkThat('config.D2', 'messages when DEVICE_NEEDS_RESET was set', messages.includes(0), 'one for a configuration change, 0', messages);
    },
  },
  {
    name: 'features/defined',
    clauses: ['features.15'],
    rings: 'any',
    async run(b, s) {
      const unknown = [...b.offered].filter((bit) => !DEFINED.has(bit));
      s.check('features.15', 'offered bits that a network device over PCI does not have', unknown, []);
      s.check('features.15', 'bit 30, which nobody offers', b.offered.has(30) && !b.offered.has(24), false);
    },
  },
  {
    name: 'features/dependencies',
    clauses: ['features.12', ...DEPENDENCIES.map(([name]) => dependencyClause(name))],
    rings: 'any',
    async run(b, s) {
      for (const [name, groups] of DEPENDENCIES) {
        if (!b.offered.has(FEATURE[name])) continue;
        const lacking = groups.filter((group) => !group.some((need) => b.offered.has(FEATURE[need]))).map((group) => group.join(' or '));
        s.check('features.12', `prerequisites of ${name} that are not offered with it`, lacking, []);
        s.check(dependencyClause(name), `prerequisites of ${name} that are not offered with it`, lacking, []);
      }
    },
  },
  {
    name: 'features/VERSION_1',
    clauses: ['features.26', 'features.27'],
    rings: 'any',
    async run(b, s) {
      s.check('features.26', 'VERSION_1 offered', b.offered.has(FEATURE.VERSION_1), true);
      const accepted = await negotiate(b, new Set());
      s.checkThat(
        'features.27',
        'FEATURES_OK without VERSION_1',
        typeof accepted === 'boolean' && (await b.get('device_status')) !== 0,
        'set or clear, and a device that still answers',
        accepted,
      );
      s.check('features.27', 'FEATURES_OK with VERSION_1 after that', await negotiate(b, b.choose()), true);
    },
  },
  {
    name: 'features/platform',
    clauses: ['features.29', 'features.30'],
    rings: 'any',
    async run(b, s) {
      const insisted = (['ACCESS_PLATFORM', 'ORDER_PLATFORM'] as const).filter((name) => b.offered.has(FEATURE[name]));
      if (insisted.length === 0) s.skip('not offered: ACCESS_PLATFORM, ORDER_PLATFORM');
      for (const name of insisted) {
        const bits = new Set(b.choose());
        bits.delete(FEATURE[name]);
        await negotiate(b, bits);
        s.check(
          name === 'ACCESS_PLATFORM' ? 'features.29' : 'features.30',
          `FEATURES_OK with ${name}, after it was declined`,
          await negotiate(b, b.choose()),
          true,
        );
      }
    },
  },
  {
    name: 'features/subsets',
    clauses: ['features.13', 'net-mq.3'],
    async run(b, s) {
      for (const name of FEATURE_NAMES) {
        if (!b.offered.has(FEATURE[name]) || name === 'RING_PACKED') continue;
        s.check('features.13', `FEATURES_OK for ${name} and what it depends on`, await negotiate(b, b.choose([name])), true);
      }
      s.check('features.13', 'FEATURES_OK for VERSION_1 and the ring format alone', await negotiate(b, b.choose()), true);
      const several = (['MQ', 'RSS', 'HASH_REPORT'] as const).filter((name) => b.offered.has(FEATURE[name]));
      for (let choice = 0; choice < 2 ** several.length; choice++) {
        const names = several.filter((_, i) => ((choice >>> i) & 1) === 1);
        s.check('net-mq.3', `FEATURES_OK for ${names.join(', ') || 'neither MQ, RSS nor HASH_REPORT'}`, await negotiate(b, b.choose(names)), true);
      }
    },
  },
  {
    name: 'features/unacceptable',
    clauses: ['features.14'],
    rings: 'any',
    async run(b, s) {
      const never = [49, 44, 45, 100].find((bit) => !b.offered.has(bit) && bit < 96) ?? 49;
      s.check('features.14', `FEATURES_OK with bit ${never}, which was not offered`, await negotiate(b, new Set([...b.choose(), never])), false);
      s.check('features.14', 'FEATURES_OK with an acceptable set after that', await negotiate(b, b.choose()), true);
    },
  },
  {
    name: 'features/accepted-again',
    clauses: ['features.16'],
    async run(b, s) {
      const bits = b.choose([...b.offered].map(nameOfBit).filter((name) => name in FEATURE && name !== 'RING_PACKED' && name !== 'STANDBY') as FeatureName[]);
      s.ensure(await negotiate(b, bits), 'FEATURES_OK did not stay set for everything that is offered');
      s.check('features.16', 'FEATURES_OK for the same set after a reset', await negotiate(b, bits), true);
      s.check('features.16', 'the offer after resets', await b.readOffered(), b.offered);
    },
  },
  {
    name: 'config/readable-before-FEATURES_OK',
    clauses: ['config.6', 'init.5'],
    rings: 'any',
    async run(b, s) {
      const fields: readonly [keyof typeof NET_CONFIG, FeatureName, (value: number) => boolean, string][] = [
        ['max_virtqueue_pairs', 'MQ', (value) => value >= 1 && value <= 0x8000, '1 to 0x8000'],
        ['mtu', 'MTU', (value) => value >= 68, 'at least 68'],
        ['rss_max_key_size', 'RSS', (value) => value >= 40, 'at least 40'],
        ['rss_max_indirection_table_length', 'RSS', (value) => value >= 128, 'at least 128'],
        ['status', 'STATUS', (value) => (value & ~3) === 0, 'bits 0 and 1 at most'],
      ];
      await b.start({ before: 'features' });
      const early = new Map<string, number>();
      for (const [field, feature, valid, expected] of fields) {
        if (!b.offered.has(FEATURE[feature])) continue;
        const value = await b.config(field as 'mtu');
        early.set(field, value);
        s.checkThat('config.6', `${field} before FEATURES_OK`, valid(value), expected, value);
      }
      if (b.offered.has(FEATURE.MAC)) {
        const mac = await b.mac();
        s.checkThat('config.6', 'mac before FEATURES_OK', ((mac[0] as number) & 1) === 0 && mac.some((byte) => byte !== 0), 'a unicast address', mac);
      }
      s.ensure(early.size > 0 || b.offered.has(FEATURE.MAC), 'the device offers nothing with a configuration field');
      const bits = b.choose((['MQ', 'MTU', 'RSS', 'STATUS', 'MAC'] as const).filter((name) => b.offered.has(FEATURE[name])));
      s.check('init.5', 'FEATURES_OK after configuration was read', await negotiate(b, bits), true);
      for (const [field, value] of early) s.check('config.6', `${field} after FEATURES_OK`, await b.config(field as 'mtu'), value);
    },
  },
  {
    name: 'pci/config_generation',
    clauses: ['pci.36'],
    rings: 'any',
    async run(b, s) {
      await b.start({ features: ['STATUS'] });
      const { hands } = s.target;
      if (hands?.setLink === undefined) return s.skip('the target has no way to change the configuration from outside');
      for (const up of [false, true, false]) {
        const before = await b.get('config_generation');
        const link = (await b.config('status')) & 1;
        await hands.setLink(up);
        await s.target.settle();
        s.ensure(((await b.config('status')) & 1) !== link, 'the link state did not change');
        const after = await b.get('config_generation');
        s.checkThat('pci.36', `config_generation after status went ${up ? 'up' : 'down'}`, after !== before, `other than ${before}`, after);
      }
    },
  },
  {
    name: 'reset/quiet-afterwards',
    clauses: ['reset.2'],
    async run(b, s) {
      await b.start();
      await b.net.transmit(plainFrame(1));
      await b.net.transmitQueue().ring.used();
      const receive = b.net.receiveQueue();
      const transmit = b.net.transmitQueue();
      const areas = await Promise.all([receive, transmit].map(({ ring }) => s.read(ring.place.device, 4)));
      await b.net.addFrame(plainFrame(2));
      await transmit.ring.expose();
      await b.set('device_status', 0);
      await b.until('device_status to read 0', async () => (await b.get('device_status')) === 0);
      await b.messages();
      await s.sent();
      await s.send(plainFrame(3));
      await b.notify(transmit);
      s.check('reset.2', 'frames sent after the reset', (await s.sent()).length, 0);
      s.check('reset.2', 'messages after the reset', await b.messages(), []);
      s.check('reset.2', 'INTx line after the reset', await s.target.intx(), false);
      for (const [i, { ring, index }] of [receive, transmit].entries()) {
        if (ring.place.size > 0 && i === 1) continue;
        s.check('reset.2', `device area of queue ${index} after the reset`, await s.read(ring.place.device, 4), areas[i]);
        s.check('reset.2', `buffers of queue ${index} used after the reset`, (await ring.used()).length, 0);
      }
      s.check('reset.2', 'device_status after all that', await b.get('device_status'), 0);
    },
  },
  {
    name: 'reset/queue',
    clauses: ['reset.4', 'reset.5', 'reset.7', 'pci.41', 'pci.42', 'pci.43'],
    async run(b, s) {
      await b.start({ features: ['RING_RESET'] });
      await b.net.transmit(plainFrame(1));
      await b.net.transmitQueue().ring.used();
      const queue = b.net.transmitQueue();
      await b.setQueue(1, 'queue_reset', 1);
      // A device that is done at once has never been seen busy: that is 1 while it is, and 0 afterwards.
      const busy = await b.get('queue_reset');
      s.checkThat(
        'pci.42',
        'queue_reset right after 1 was written',
        busy === 1 || (busy === 0 && (await b.get('queue_enable')) === 0),
        '1, or 0 with queue_enable 0',
        busy,
      );
      await b.until('queue_reset to read 0', async () => (await b.getQueue(1, 'queue_reset')) === 0);
      s.check('pci.43', 'queue_reset when it is done', await b.get('queue_reset'), 0);
      s.check('pci.43', 'queue_enable when it is done', await b.get('queue_enable'), 0);
      s.check('pci.41', 'queue_enable of the queue that was reset', await b.get('queue_enable'), 0);
      s.check('pci.41', 'queue_enable of another queue', await b.getQueue(0, 'queue_enable'), 1);
      await b.messages();
      // Its memory is the driver's again.
      const pattern = Uint8Array.from({ length: 16 }, (_, i) => 0x60 + i);
      await s.write(queue.ring.place.descriptors, pattern);
      await s.write(queue.ring.place.device, pattern.subarray(0, 4));
      await b.net.addFrame(plainFrame(2));
      await queue.ring.expose();
      await s.write(queue.ring.place.device, pattern.subarray(0, 4));
      await b.notify(queue);
      s.check('reset.4', 'frames sent from a queue that was reset', (await s.sent()).length, 0);
      s.check('reset.4', 'messages of a queue that was reset', await b.messages(), []);
      s.check('reset.7', 'memory of the device area after the reset', await s.read(queue.ring.place.device, 4), pattern.subarray(0, 4));
      // Other queues go on.
      s.check('pci.41', 'frames received meanwhile', (await b.net.inject(plainFrame(3))).length, 1);
      await b.setUpQueue(1);
      s.check('reset.5', 'frames sent after the queue was enabled again with empty rings', (await b.net.transmit(plainFrame(4))).length, 1);
      s.check(
        'reset.5',
        'buffers used, from the first slot on',
        (await b.net.transmitQueue().ring.used()).map(({ slot }) => slot),
        [0],
      );
    },
  },
  {
    name: 'reset/queue-enabled-again',
    clauses: ['reset.8', 'pci.40', 'pci.55', 'pci.56', 'pci.39'],
    async run(b, s) {
      await b.start({ features: ['RING_RESET'], size: 32 });
      await b.setQueue(1, 'queue_reset', 1);
      await b.until('queue_reset to read 0', async () => (await b.getQueue(1, 'queue_reset')) === 0);
      await b.setUpQueue(1, { size: 8 });
      s.check('pci.40', 'queue_reset after the queue was enabled again', await b.getQueue(1, 'queue_reset'), 0);
      s.check('pci.55', 'queue_enable after the queue was enabled again', await b.get('queue_enable'), 1);
      s.check('pci.56', 'queue_size as written for it', await b.get('queue_size'), 8);
      // More than one lap of the smaller ring.
      const frames = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11].map((number) => plainFrame(number));
      for (const frame of frames) {
        s.check('reset.8', 'a frame sent through the smaller ring', await b.net.transmit(frame), [frame]);
        s.check('reset.8', 'buffers used', (await b.net.transmitQueue().ring.used()).length, 1);
      }
      await b.reset();
      s.check('pci.39', 'queue_reset after a device reset', await b.getQueue(1, 'queue_reset'), 0);
    },
  },
  {
    name: 'status/operation',
    clauses: ['features.13'],
    async run(b, s) {
      await b.start();
      s.check('features.13', 'device_status in operation', await b.get('device_status'), RUNNING);
    },
  },
];

/** The DESC row about a feature's prerequisites: they stand in the order of the specification's list, as DEPENDENCIES does. */
function dependencyClause(name: FeatureName): string {
  return `features.D${DEPENDENCIES.findIndex(([other]) => other === name) + 1}`;
}
