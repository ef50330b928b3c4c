// Virtio over PCI: discovery, capabilities, the common configuration structure (virtio 1.4 4.1).

import type { Bench } from '../bench.ts';
import type { Case } from '../case.ts';
import { FEATURE, fromWords } from '../features.ts';
import { CFG_TYPE, NO_VECTOR, PCI, STATUS } from '../layout.ts';
import type { Session } from '../session.ts';
import type { AccessBytes } from '../target.ts';

const NETWORK = 1;
const isPowerOfTwo = (n: number): boolean => n > 0 && (n & (n - 1)) === 0;

/** Bytes of the memory BAR with this number; 0: there is none. Puts everything back as it was. */
async function barSize(s: Session, bar: number): Promise<number> {
  const register = PCI.BAR0 + 4 * bar;
  const command = await s.configRead(PCI.COMMAND, 2);
  const before = await s.configRead(register, 4);
  await s.configWrite(PCI.COMMAND, 2, command & ~2);
  await s.configWrite(register, 4, 0xffff_ffff);
  const low = await s.configRead(register, 4);
  await s.configWrite(register, 4, before);
  await s.configWrite(PCI.COMMAND, 2, command);
  return low === 0 ? 0 : (~(low & ((low & 1) !== 0 ? ~3 : ~15)) >>> 0) + 1;
}

/** Aims the configuration access window. */
async function aim(s: Session, at: number, bar: number, offset: number, length: number): Promise<void> {
  await s.configWrite(at + 4, 1, bar);
  await s.configWrite(at + 8, 4, offset);
  await s.configWrite(at + 12, 4, length);
}

function window(b: Bench): number {
  return b.session.found(b.structure(CFG_TYPE.PCI), 'no PCI_CFG capability').at;
}

/** virtio 1.4 4.1.4.4.1, for each queue there is: `width` bytes at its doorbell lie inside the region. */
async function notifyRegion(
  b: Bench,
  s: Session,
  clauses: {
    readonly multiplier: string;
    readonly align: string;
    readonly length: string;
    readonly long: string;
    readonly covers: string;
    readonly unit: number;
  },
): Promise<void> {
  const place = s.found(b.structure(CFG_TYPE.NOTIFY), 'no NOTIFY_CFG capability');
  const multiplier = await b.notifyMultiplier();
  const { unit } = clauses;
  // An "even power of 2" is read as any power of two from 2; with NOTIFICATION_DATA it has to be divisible by 4.
  s.checkThat(
    clauses.multiplier,
    'notify_off_multiplier',
    multiplier === 0 || (isPowerOfTwo(multiplier) && multiplier % unit === 0),
    `0 or a power of two divisible by ${unit}`,
    multiplier,
  );
  s.check(clauses.align, `offset of NOTIFY_CFG modulo ${unit}`, place.offset % unit, 0);
  s.checkThat(clauses.length, 'length of NOTIFY_CFG', place.length >= unit, `at least ${unit}`, place.length);
  const size = await barSize(s, place.bar);
  s.checkThat(clauses.long, `end of NOTIFY_CFG in BAR ${place.bar}`, place.offset + place.length <= size, `at most ${size}`, place.offset + place.length);
  const count = await b.get('num_queues');
  for (let queue = 0; queue < count; queue++) {
    const end = (await b.getQueue(queue, 'queue_notify_off')) * multiplier + unit;
    s.checkThat(clauses.covers, `end of queue ${queue}'s doorbell`, end <= place.length, `at most ${place.length}`, end);
  }
}

export const PCI_CASES: readonly Case[] = [
  {
    name: 'pci/identity',
    clauses: ['pci.3', 'pci.4', 'pci.6', 'pci.7', 'pci.8'],
    rings: 'any',
    async run(_b, s) {
      s.check('pci.3', 'vendor id', await s.configRead(PCI.VENDOR_ID, 2), 0x1af4);
      const device = await s.configRead(PCI.DEVICE_ID, 2);
      s.checkThat('pci.4', 'device id', device === 0x1040 + NETWORK || device === 0x1000, '0x1041, or 0x1000 when transitional', device);
      if (device === 0x1000) return;
      s.checkThat('pci.6', 'device id', device >= 0x1040 && device <= 0x107f, '0x1040 to 0x107f', device);
      const revision = await s.configRead(PCI.REVISION, 1);
      s.checkThat('pci.7', 'revision id', revision >= 1, 'at least 1', revision);
      const subsystem = await s.configRead(PCI.SUBSYSTEM_ID, 2);
      s.checkThat('pci.8', 'subsystem id', subsystem >= 0x40, 'at least 0x40', subsystem);
    },
  },
  {
    name: 'pci/configuration-space-and-bars',
    clauses: ['pci.1'],
    rings: 'any',
    reading:
      'Of all that PCI demands: identity registers are read-only, BARs size as powers of two aligned to their size, and nothing decodes while Memory Space Enable is off.',
    async run(b, s) {
      const identity = await s.configRead(0, 4);
      await s.configWrite(0, 4, 0x5555_aaaa);
      s.check('pci.1', 'vendor and device id after a write to them', await s.configRead(0, 4), identity);
      for (const bar of new Set(b.structures.filter(({ type }) => type <= CFG_TYPE.DEVICE).map((place) => place.bar))) {
        const size = await barSize(s, bar);
        s.checkThat('pci.1', `size of BAR ${bar}`, isPowerOfTwo(size), 'a power of two', size);
      }
      const common = s.found(b.structure(CFG_TYPE.COMMON), 'no COMMON_CFG capability');
      const command = await s.configRead(PCI.COMMAND, 2);
      await b.set('device_feature_select', 1);
      await s.configWrite(PCI.COMMAND, 2, command & ~2);
      // Who answers in its place is the platform's affair: all ones, or 0.
      const elsewhere = await s.barRead(common.bar, common.offset, 4);
      s.checkThat('pci.1', 'device_feature_select while memory decoding is off', elsewhere !== 1, 'not the 1 that was written', elsewhere);
      await s.configWrite(PCI.COMMAND, 2, command);
      s.check('pci.1', 'device_feature_select once it is on again', await b.get('device_feature_select'), 1);
    },
  },
  {
    name: 'pci/structures',
    clauses: ['pci.28', 'pci.31', 'pci.32', 'pci.59', 'pci.70', 'pci.76', 'pci.77', 'pci.86'],
    rings: 'any',
    async run(b, s) {
      const count = (type: number): number => b.structures.filter((found) => found.type === type).length;
      s.checkThat('pci.32', 'COMMON_CFG capabilities', count(CFG_TYPE.COMMON) >= 1, 'at least 1', count(CFG_TYPE.COMMON));
      s.checkThat('pci.59', 'NOTIFY_CFG capabilities', count(CFG_TYPE.NOTIFY) >= 1, 'at least 1', count(CFG_TYPE.NOTIFY));
      s.checkThat('pci.70', 'ISR_CFG capabilities', count(CFG_TYPE.ISR) >= 1, 'at least 1', count(CFG_TYPE.ISR));
      s.checkThat('pci.76', 'DEVICE_CFG capabilities', count(CFG_TYPE.DEVICE) >= 1, 'at least 1', count(CFG_TYPE.DEVICE));
      s.checkThat('pci.86', 'PCI_CFG capabilities', count(CFG_TYPE.PCI) >= 1, 'at least 1', count(CFG_TYPE.PCI));
      const least: Record<number, number> = { [CFG_TYPE.NOTIFY]: 20, [CFG_TYPE.PCI]: 20, [CFG_TYPE.SHARED_MEMORY]: 24 };
      for (const { type, capLength, offset } of b.structures) {
        if (type === CFG_TYPE.VENDOR) continue;
        s.checkThat('pci.28', `cap_len of a capability of type ${type}`, capLength >= (least[type] ?? 16), `at least ${least[type] ?? 16}`, capLength);
        if (type === CFG_TYPE.COMMON) s.check('pci.31', 'offset of COMMON_CFG modulo 4', offset % 4, 0);
        if (type === CFG_TYPE.DEVICE) s.check('pci.77', 'offset of DEVICE_CFG modulo 4', offset % 4, 0);
      }
    },
  },
  {
    name: 'pci/several-of-a-type',
    clauses: ['pci.30'],
    rings: 'any',
    reading: 'What a device prefers cannot be seen; that the first of each type works can: its common configuration answers, and its region lies in a BAR.',
    async run(b, s) {
      for (const type of [CFG_TYPE.COMMON, CFG_TYPE.NOTIFY, CFG_TYPE.ISR, CFG_TYPE.DEVICE]) {
        const first = s.found(b.structure(type), `no capability of type ${type}`);
        const size = await barSize(s, first.bar);
        s.checkThat(
          'pci.30',
          `the first capability of type ${type}: end in BAR ${first.bar}`,
          first.offset + first.length <= size,
          `at most ${size}`,
          first.offset + first.length,
        );
      }
      await b.set('device_feature_select', 2);
      s.check('pci.30', 'device_feature_select through the first COMMON_CFG', await b.get('device_feature_select'), 2);
    },
  },
  {
    name: 'pci/notify-region',
    clauses: ['pci.60', 'pci.61', 'pci.62', 'pci.63', 'pci.64'],
    rings: 'any',
    async run(b, s) {
      await notifyRegion(b, s, { multiplier: 'pci.61', align: 'pci.60', length: 'pci.62', long: 'pci.63', covers: 'pci.64', unit: 2 });
    },
  },
  {
    name: 'pci/notify-region-of-notification-data',
    clauses: ['pci.65', 'pci.66', 'pci.67', 'pci.68', 'pci.69'],
    rings: 'any',
    model: 'notification-data',
    async run(b, s) {
      b.needs('NOTIFICATION_DATA');
      await notifyRegion(b, s, { multiplier: 'pci.65', align: 'pci.66', length: 'pci.67', long: 'pci.68', covers: 'pci.69', unit: 4 });
    },
  },
  {
    name: 'pci/vendor-capabilities',
    clauses: ['pci.78', 'pci.81', 'pci.82', 'pci.83'],
    rings: 'any',
    async run(b, s) {
      const vendor = b.structures.filter(({ type }) => type === CFG_TYPE.VENDOR);
      if (vendor.length === 0) s.skip('the device has no vendor data capability');
      for (const { at, capLength } of vendor) {
        const id = await s.configRead(at + 4, 2);
        s.checkThat('pci.81', 'vendor_id of a vendor data capability', id !== 0x1af4, 'not 0x1af4', id);
        s.check('pci.82', 'its cap_len modulo 4', capLength % 4, 0);
        const read = async (): Promise<number[]> => {
          const words: number[] = [];
          for (let i = 0; i < capLength; i += 4) words.push(await s.configRead(at + i, 4));
          return words;
        };
        const status = await b.get('device_status');
        const before = await read();
        s.check('pci.83', 'its contents when read again', await read(), before);
        s.check('pci.78', 'device_status after it was read', await b.get('device_status'), status);
      }
    },
  },
  {
    name: 'pci/feature-windows',
    clauses: ['pci.33', 'pci.D2'],
    rings: 'any',
    async run(b, s) {
      const words: number[] = [];
      for (const window of [2, 0, 1]) {
        await b.set('device_feature_select', window);
        s.check('pci.33', 'device_feature_select as written', await b.get('device_feature_select'), window);
        words[window] = await b.get('device_feature');
      }
      // VERSION_1 is bit 32: it shows in window 1 and nowhere else, which tells the windows apart.
      s.check('pci.33', 'bit 0 of window 1 (VERSION_1)', (words[1] as number) & 1, 1);
      s.check('pci.33', 'windows 0 to 2 when read again', await b.readOffered(), fromWords(words));
      for (const window of [3, 4, 0x7fff_ffff, 0xffff_ffff]) {
        await b.set('device_feature_select', window);
        s.check('pci.33', 'device_feature_select as written', await b.get('device_feature_select'), window);
        s.check('pci.D2', `device_feature in window ${window}`, await b.get('device_feature'), 0);
      }
    },
  },
  {
    name: 'pci/driver-features-read-back',
    clauses: ['pci.34', 'pci.35'],
    rings: 'any',
    async run(b, s) {
      await b.start({ before: 'features' });
      const bits = b.choose((['MAC', 'CSUM', 'MRG_RXBUF', 'STATUS'] as const).filter((name) => b.offered.has(FEATURE[name])));
      await b.writeFeatures(bits);
      const words: number[] = [];
      for (const window of [0, 1, 2]) {
        await b.set('driver_feature_select', window);
        words[window] = await b.get('driver_feature');
      }
      s.check('pci.34', 'driver_feature as written, in windows 0 to 2', fromWords(words), bits);
      await b.set('driver_feature_select', 1);
      await b.set('driver_feature', 0xffff_ffff);
      s.check('pci.35', 'driver_feature_select after bits that were not offered', await b.get('driver_feature_select'), 1);
      // Either echo is allowed; the valid ones are there.
      s.check('pci.35', 'VERSION_1 among bits that were not offered', (await b.get('driver_feature')) & 1, 1);
    },
  },
  {
    name: 'pci/reset-by-status',
    clauses: ['pci.37', 'reset.1', 'pci.38', 'msix.7', 'pci.D3'],
    async run(b, s) {
      const most = await b.getQueue(0, 'queue_size');
      await b.start({ size: 8 });
      s.check('pci.38', 'queue_enable before the reset', await b.getQueue(0, 'queue_enable'), 1);
      s.check('pci.D3', 'queue_size the driver lowered', await b.getQueue(0, 'queue_size'), Math.min(8, most));
      await b.set('device_status', 0);
      await b.until('device_status to read 0', async () => (await b.get('device_status')) === 0);
      s.check('pci.37', 'device_status after 0 was written', await b.get('device_status'), 0);
      s.check('reset.1', 'device_status after the reset', await b.get('device_status'), 0);
      s.check('msix.7', 'config_msix_vector after the reset', await b.get('config_msix_vector'), NO_VECTOR);
      for (const queue of [0, 1]) {
        s.check('pci.38', `queue_enable of queue ${queue} after the reset`, await b.getQueue(queue, 'queue_enable'), 0);
        s.check('msix.7', `queue_msix_vector of queue ${queue} after the reset`, await b.get('queue_msix_vector'), NO_VECTOR);
      }
      s.check('pci.D3', 'queue_size after the reset', await b.getQueue(0, 'queue_size'), most);
    },
  },
  {
    name: 'pci/queue-registers-halves',
    clauses: ['pci.14', 'pci.15'],
    rings: 'any',
    async run(b, s) {
      await b.start({ before: 'features' });
      await b.writeFeatures(b.choose());
      await b.addStatus(STATUS.FEATURES_OK);
      const fields = ['queue_desc', 'queue_driver', 'queue_device'] as const;
      for (const [i, field] of fields.entries()) {
        await b.setQueue(0, `${field}_hi`, 0x11 + i);
        await b.set(`${field}_lo`, 0x1000_2000 + 0x100 * i);
      }
      for (const [i, field] of fields.entries()) {
        s.check('pci.14', `${field}: low half, written after the high one`, await b.getQueue(0, `${field}_lo`), 0x1000_2000 + 0x100 * i);
        s.check('pci.14', `${field}: high half, written first`, await b.get(`${field}_hi`), 0x11 + i);
        await b.set(`${field}_lo`, 0x4000_0000);
        s.check('pci.15', `${field}: high half after only the low one was written`, await b.get(`${field}_hi`), 0x11 + i);
        await b.set(`${field}_hi`, 0x22);
        s.check('pci.15', `${field}: low half after only the high one was written`, await b.get(`${field}_lo`), 0x4000_0000);
      }
    },
  },
  {
    name: 'pci/queue-sizes',
    clauses: ['pci.44', 'pci.45', 'split.D1'],
    rings: 'split',
    async run(b, s) {
      await b.start({ before: 'DRIVER_OK' });
      const count = await b.get('num_queues');
      for (let queue = 0; queue < count; queue++) {
        const size = await b.getQueue(queue, 'queue_size');
        s.checkThat('pci.45', `queue_size of queue ${queue}`, size === 0 || isPowerOfTwo(size), '0 or a power of two', size);
        s.checkThat('split.D1', `queue_size of queue ${queue}`, size <= 32768, 'at most 32768', size);
      }
      for (const queue of [count + 64, 0x7fff, 0xfffe])
        s.check('pci.44', `queue_size of queue ${queue}, which there is not`, await b.getQueue(queue, 'queue_size'), 0);
    },
  },
  {
    name: 'pci/admin-queues',
    clauses: ['pci.46', 'pci.47', 'pci.58', 'pci.D1'],
    rings: 'any',
    async run(b, s) {
      await b.start({ features: ['ADMIN_VQ', 'CTRL_VQ'], before: 'DRIVER_OK' });
      const [first, number, count] = [await b.get('admin_queue_index'), await b.get('admin_queue_num'), await b.get('num_queues')];
      s.checkThat('pci.46', 'admin_queue_index', first >= count, `at least num_queues, ${count}`, first);
      s.checkThat(
        'pci.47',
        'admin_queue_index + admin_queue_num',
        number >= 1 && first + number <= 0x1_0000,
        'at least one queue, and at most 65536',
        first + number,
      );
      s.check('pci.D1', 'admin queues that num_queues counts', Math.max(0, count - first), 0);
      // Only the first one is set up, and the device goes into operation all the same.
      await b.set('device_status', (await b.get('device_status')) | STATUS.DRIVER_OK);
      s.check(
        'pci.58',
        'device_status with one admin queue set up',
        await b.get('device_status'),
        STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK | STATUS.DRIVER_OK,
      );
    },
  },
  {
    name: 'pci/configuration-window-reads-and-writes',
    clauses: ['pci.87', 'pci.88'],
    rings: 'any',
    async run(b, s) {
      const at = window(b);
      const { bar, offset } = s.found(b.structure(CFG_TYPE.COMMON), 'no COMMON_CFG capability');
      await b.set('device_feature_select', 0);
      for (const [field, length, value] of [
        [0, 4, 1],
        [22, 2, 1],
        [16, 2, 0],
        [20, 1, 1],
      ] as const) {
        const size = length as AccessBytes;
        await aim(s, at, bar, offset + field, length);
        await s.configWrite(at + 16, size, value);
        s.check('pci.87', `the field at offset ${field} of COMMON_CFG, written through the window`, await s.barRead(bar, offset + field, size), value);
      }
      await b.set('queue_select', 0);
      for (const [field, length] of [
        [0, 4],
        [4, 4],
        [18, 2],
        [24, 2],
        [20, 1],
      ] as const) {
        const size = length as AccessBytes;
        await aim(s, at, bar, offset + field, length);
        s.check(
          'pci.88',
          `the field at offset ${field} of COMMON_CFG, read through the window`,
          await s.configRead(at + 16, size),
          await s.barRead(bar, offset + field, size),
        );
      }
    },
  },
  {
    name: 'pci/configuration-window-registers',
    clauses: ['pci.D6'],
    rings: 'any',
    async run(b, s) {
      const at = window(b);
      const head = await s.configRead(at, 4);
      await s.configWrite(at, 4, ~head);
      s.check('pci.D6', 'id, next, cap_len and cfg_type after a write to them', await s.configRead(at, 4), head);
      await aim(s, at, 4, 0x14, 2);
      s.check('pci.D6', 'cap.bar as written', await s.configRead(at + 4, 1), 4);
      s.check('pci.D6', 'cap.offset as written', await s.configRead(at + 8, 4), 0x14);
      s.check('pci.D6', 'cap.length as written', await s.configRead(at + 12, 4), 2);
    },
  },
  {
    name: 'pci/configuration-window-side-effects',
    clauses: ['pci.D7'],
    async run(b, s) {
      await b.start({ msix: false });
      const at = window(b);
      const queue = b.net.transmitQueue();
      await b.net.addFrame(Uint8Array.from({ length: 60 }, (_, i) => (i < 6 ? 0xff : i)));
      await queue.ring.expose();
      const notify = s.found(b.structure(CFG_TYPE.NOTIFY), 'no NOTIFY_CFG capability');
      await aim(s, at, notify.bar, queue.notifyOffset, 2);
      await s.configWrite(at + 16, 2, queue.index);
      s.check('pci.D7', 'frames sent after a notification through the window', (await s.sent()).length, 1);
      const isr = s.found(b.structure(CFG_TYPE.ISR), 'no ISR_CFG capability');
      await aim(s, at, isr.bar, isr.offset, 1);
      s.check('pci.D7', 'ISR status read through the window', (await s.configRead(at + 16, 1)) & 1, 1);
      s.check('pci.D7', 'ISR status after that', await b.isr(), 0);
    },
  },
  {
    name: 'pci/shared-memory-regions',
    clauses: ['shm.2', 'shm.3'],
    rings: 'any',
    async run(b, s) {
      const regions = b.structures.filter(({ type }) => type === CFG_TYPE.SHARED_MEMORY);
      if (regions.length === 0) s.skip('the device has no shared memory region');
      s.check('shm.3', 'different ids among the regions', new Set(regions.map(({ id }) => id)).size, regions.length);
      for (const { at, bar, offset, length, id } of regions) {
        const end = offset + length + 2 ** 32 * ((await s.configRead(at + 16, 4)) + (await s.configRead(at + 20, 4)));
        const size = await barSize(s, bar);
        s.checkThat('shm.2', `end of region ${id} in BAR ${bar}`, end <= size, `at most ${size}`, end);
      }
    },
  },
];
