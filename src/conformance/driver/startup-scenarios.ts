// Bringing a device up that is not as usual: what it offers and refuses, how slowly it resets, when its configuration changes, how its capabilities are laid out, how many vectors it has.

import { FEATURE, type FeatureName } from '../features.ts';
import { CFG_TYPE, NO_VECTOR, STATUS } from '../layout.ts';
import type { DriverScenario } from './scenario.ts';
import type { Stage } from './stage.ts';

/** The driver comes up on a device that it has to bear with, and carries frames. */
function bears(stage: Stage, clauses: readonly string[], situation: string): void {
  const works = stage.start() && stage.running && stage.echoes();
  for (const clause of clauses) stage.check(clause, `${situation}: the driver comes up and carries frames`, works, true);
}

/** A driver that cannot go on has set FAILED, and one that can carries frames; nothing between. */
function worksOrFails(stage: Stage, clauses: readonly string[], situation: string): void {
  const works = stage.start() && stage.running && stage.echoes();
  const failed = (stage.watched.judge.status & STATUS.FAILED) !== 0;
  for (const clause of clauses) stage.check(clause, `${situation}: the driver carries frames, or sets FAILED`, works || failed, true);
}

/** Everything a simple device does without. */
const OPTIONAL: readonly FeatureName[] = (Object.keys(FEATURE) as FeatureName[]).filter((name) => name !== 'VERSION_1');
const NONSENSE: readonly number[] = [4, 42, 44, 45, 46, 47, 48, 49, 58, 71, 80, 95];
/** struct virtio_pci_cap: id, next, length, type, bar, id, padding, offset, length. */
const cap = (type: number, bar: number, offset: number, length: number): number[] => [
  ...[9, 0, 16, type, bar, 0, 0, 0],
  ...[0, 8, 16, 24].map((shift) => (offset >>> shift) & 0xff),
  ...[0, 8, 16, 24].map((shift) => (length >>> shift) & 0xff),
];
/** Where in configuration space nothing is. */
const FREE = 0xd8;

export const STARTUP_SCENARIOS: readonly DriverScenario[] = [
  {
    name: 'driver/traffic',
    clauses: ['pci.9', 'split.47', 'packed.26'],
    run(stage) {
      const works = stage.start() && stage.running && stage.echoes(40) && stage.echoes(4, 1400);
      stage.check('pci.9', 'a device 1af4:1041 is driven', works, true);
      stage.check(stage.ring === 'split' ? 'split.47' : 'packed.26', 'buffers that the device takes as soon as they are available', works, true);
      stage.driver.shutDown();
    },
  },
  {
    name: 'driver/features-refused',
    clauses: ['init.12', 'init.13', 'status.3'],
    run(stage) {
      let refuse = true;
      stage.answer(({ field }, _size, value) => (refuse && field === 'device_status' ? value & ~STATUS.FEATURES_OK : value));
      const up = stage.start();
      const failed = (stage.watched.judge.status & STATUS.FAILED) !== 0;
      stage.check('init.12', 'FAILED set after the features were refused', failed, true);
      stage.check('init.13', 'a driver whose features were refused came up', up, false);
      refuse = false;
      stage.check('status.3', 'a device that was given up is reset and comes up', stage.start() && stage.running, true);
    },
  },
  {
    name: 'driver/no-version-1',
    clauses: ['features.10', 'features.18', 'init.12'],
    device: { withhold: ['VERSION_1'] },
    run(stage) {
      const up = stage.start();
      const failed = (stage.watched.judge.status & STATUS.FAILED) !== 0;
      for (const clause of ['features.10', 'features.18', 'init.12'])
        stage.check(clause, 'without VERSION_1: FAILED, or a driver that does without', up || failed, true);
      stage.check('features.10', 'DRIVER_OK after FAILED', failed && stage.running, false);
    },
  },
  {
    name: 'driver/strange-offers',
    clauses: ['features.4', 'features.11'],
    device: { offer: NONSENSE },
    run: (stage) => bears(stage, ['features.4', 'features.11'], 'bits offered that mean nothing'),
  },
  {
    name: 'driver/inconsistent-offers',
    clauses: ['features.3'],
    device: { withhold: ['CSUM', 'GUEST_CSUM', 'CTRL_VQ'] },
    run: (stage) => bears(stage, ['features.3'], 'bits offered without what they need'),
  },
  {
    name: 'driver/bare-device',
    clauses: ['features.9'],
    device: { withhold: OPTIONAL },
    rings: 'split',
    run: (stage) => bears(stage, ['features.9'], 'a device with nothing but VERSION_1'),
  },
  {
    name: 'driver/platform-offers',
    clauses: [],
    device: { offer: ['ACCESS_PLATFORM', 'ORDER_PLATFORM', 'STANDBY'] },
    run: (stage) => bears(stage, [], 'offers of the platform'),
  },
  {
    name: 'driver/torn-configuration',
    clauses: ['config.1', 'config.2', 'net.13'],
    rings: 'any',
    run(stage) {
      // While the address is read for the first time, it changes: its first half is the old one's.
      let reads = 0;
      let generations = 0;
      stage.answer(({ type, field, offset }, _size, value) => {
        if (field === 'config_generation') return ++generations < 2 ? 7 : 8;
        if (type !== CFG_TYPE.DEVICE || offset >= 6) return value;
        return ++reads <= 3 ? 0xaa : value;
      });
      const up = stage.start();
      stage.check('config.1', 'address of a driver that read while it changed', up && [...stage.driver.mac], [0x52, 0x54, 0, 0xc0, 0xff, 0xee]);
    },
  },
  {
    name: 'driver/slow-reset',
    clauses: ['reset.3', 'pci.52'],
    rings: 'any',
    run(stage) {
      let left = 0;
      const before = stage.provocation.write;
      stage.provocation.write = (place, size, value) => {
        if (place.field === 'device_status' && value === 0) left = 5;
        return before ? before(place, size, value) : value;
      };
      stage.answer(({ field }, _size, value) => (field === 'device_status' && left-- > 0 ? STATUS.ACKNOWLEDGE : value));
      bears(stage, ['reset.3', 'pci.52'], 'a reset that takes a while');
    },
  },
  {
    name: 'driver/queue-reset',
    clauses: ['reset.6', 'reset.9', 'pci.54'],
    run(stage) {
      let left = 0;
      stage.answer(({ field }, _size, value) => (field === 'queue_reset' && left-- > 0 ? 1 : value));
      stage.start();
      stage.echoes();
      for (const late of [0, 5]) {
        left = late;
        stage.driver.resetPair(0);
      }
      const works = stage.echoes();
      for (const clause of ['reset.6', 'reset.9', 'pci.54']) stage.check(clause, 'queues carry frames after a reset', works, true);
    },
  },
  {
    name: 'driver/needs-reset',
    clauses: ['status.4', 'status.3'],
    run(stage) {
      stage.start();
      stage.echoes();
      // A device that is at its end: it takes nothing any more, and says so.
      stage.stalled = true;
      let broken = true;
      stage.answer(({ field }, _size, value) => (broken && field === 'device_status' && value !== 0 ? value | STATUS.NEEDS_RESET : value));
      stage.interruptAll();
      stage.turns(20);
      const { status } = stage.watched.judge;
      stage.check('status.4', 'DEVICE_NEEDS_RESET: the driver waits on for what it had asked for', status !== 0 && (status & STATUS.FAILED) === 0, false);
      broken = false;
      stage.stalled = false;
      stage.driver.recover();
      stage.check('status.3', 'a device that was given up is reset and carries frames', stage.running && stage.echoes(), true);
    },
  },
  {
    name: 'driver/shut-down',
    clauses: ['init.16'],
    run(stage) {
      stage.start();
      stage.echoes();
      stage.driver.shutDown();
      stage.check('init.16', 'status after the driver took its buffers back', stage.watched.judge.status, 0);
    },
  },
  {
    name: 'driver/suspend',
    clauses: ['suspend.1', 'suspend.2', 'suspend.3', 'suspend.4', 'suspend.5', 'suspend.6'],
    run(stage) {
      let late = 0;
      const both = STATUS.SUSPEND | STATUS.DRIVER_OK;
      let from: number = STATUS.DRIVER_OK;
      stage.answer(({ field }, _size, value) => (field === 'device_status' && late-- > 0 ? (value & ~both) | from : value));
      stage.start();
      stage.echoes();
      late = 3;
      stage.driver.suspend();
      stage.put(new Uint8Array(64).fill(0xff));
      stage.turns(5);
      stage.check('suspend.3', 'frames on the wire of a suspended driver', stage.sent().length, 0);
      from = STATUS.SUSPEND;
      late = 3;
      stage.driver.resume();
      stage.check('suspend.6', 'the driver carries frames after it has resumed', stage.echoes(), true);
    },
  },
  // ---- PCI ----
  {
    name: 'driver/identity',
    clauses: ['pci.5', 'pci.11', 'pci.12'],
    rings: 'any',
    run(stage) {
      const { config } = stage.provocation;
      config.set(0x08, 0x5a);
      for (const [i, byte] of [0x34, 0x12, 0x78, 0x56].entries()) config.set(0x2c + i, byte);
      bears(stage, ['pci.5', 'pci.11', 'pci.12'], 'another revision and other subsystem ids');
    },
  },
  {
    name: 'driver/transitional-identity',
    clauses: ['pci.2', 'pci.10'],
    rings: 'any',
    run(stage) {
      const { config } = stage.provocation;
      for (const [i, byte] of [0x00, 0x10].entries()) config.set(0x02 + i, byte);
      for (const [i, byte] of [0xf4, 0x1a, 0x01, 0x00].entries()) config.set(0x2c + i, byte);
      bears(stage, ['pci.2', 'pci.10'], 'the device id 0x1000 with subsystem 1');
    },
  },
  {
    name: 'driver/capabilities-of-other-kinds',
    clauses: ['pci.17', 'pci.20', 'pci.21', 'pci.23', 'pci.79', 'pci.80', 'pci.84', 'pci.85'],
    rings: 'any',
    run(stage) {
      // Before the usual ones: a type nobody knows, and each structure over a BAR that is none. Two of vendor data, of other vendors than the device's.
      stage.addCapability(FREE, cap(0x77, 0, 0, 0x1000));
      stage.addCapability(FREE + 16, cap(CFG_TYPE.COMMON, 7, 0, 0x1000));
      for (const [at, vendor] of [
        [0xc8, 0x1234],
        [0xd0, 0x4321],
      ] as const)
        stage.addCapability(at, [9, 0, 8, CFG_TYPE.VENDOR, vendor & 0xff, vendor >>> 8, 0, 0]);
      bears(
        stage,
        ['pci.17', 'pci.20', 'pci.21', 'pci.23', 'pci.79', 'pci.80', 'pci.84', 'pci.85'],
        'capabilities of unknown types, reserved BARs and vendors',
      );
    },
  },
  {
    name: 'driver/larger-structures',
    clauses: ['pci.16', 'pci.18', 'pci.19', 'pci.22', 'pci.25', 'pci.29', 'config.4', 'config.5'],
    rings: 'any',
    run(stage) {
      const { config } = stage.provocation;
      const first = stage.capability(CFG_TYPE.COMMON);
      // Longer structures, as far as the BAR goes: data may follow what is known.
      for (const type of [CFG_TYPE.COMMON, CFG_TYPE.DEVICE, CFG_TYPE.ISR]) {
        const at = stage.capability(type);
        const length = stage.watched.configByte(at + 12) + 256 * stage.watched.configByte(at + 13);
        const longer = Math.max(length, 0x400);
        config.set(at + 12, longer & 0xff);
        config.set(at + 13, longer >>> 8);
      }
      config.set(first + 2, 20);
      bears(stage, ['pci.16', 'pci.18', 'pci.19', 'pci.22', 'pci.25', 'pci.29', 'config.4', 'config.5'], 'capabilities and structures longer than known');
    },
  },
  {
    name: 'driver/administration-queue',
    clauses: ['pci.57'],
    driver: { features: ['ADMIN_VQ'] },
    run: (stage) => bears(stage, ['pci.57'], 'an administration queue'),
  },
  // ---- vectors ----
  ...[1, 2, 2048].map(
    (vectors): DriverScenario => ({
      name: `driver/${vectors}-vectors`,
      clauses: ['msix.10', ...(vectors === 1 ? ['msix.11', 'msix.12', 'msix.17', 'msix.19'] : [])],
      rings: 'any',
      device: { vectors: Math.max(2, vectors) },
      run(stage) {
        if (vectors === 1) {
          // Table Size is one less.
          const at = stage.watched.inspect().msix + 2;
          stage.provocation.config.set(at, 0);
          stage.provocation.config.set(at + 1, stage.watched.configByte(at + 1) & ~7);
        }
        bears(stage, ['msix.10', ...(vectors === 1 ? ['msix.11', 'msix.12'] : [])], `${vectors} vectors`);
        if (vectors !== 1) return;
        // One interrupt for a changed configuration and for used buffers.
        stage.setLink(false);
        stage.turns(3);
        const down = stage.driver.linkUp;
        stage.setLink(true);
        const works = stage.echoes();
        for (const clause of ['msix.17', 'msix.19'])
          stage.check(clause, 'link seen to go down and up, and frames carried, by one interrupt', [down, stage.driver.linkUp, works], [false, true, true]);
      },
    }),
  ),
  {
    name: 'driver/vectors-refused',
    clauses: ['msix.15'],
    rings: 'any',
    run(stage) {
      stage.answer(({ field }, _size, value) => (field === 'queue_msix_vector' || field === 'config_msix_vector' ? NO_VECTOR : value));
      worksOrFails(stage, ['msix.15'], 'no vector can be mapped');
    },
  },
  {
    name: 'driver/intx',
    clauses: [],
    rings: 'any',
    driver: { interrupts: 'intx' },
    run: (stage) => bears(stage, [], 'INTx'),
  },
];
