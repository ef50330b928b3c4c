// Drivers that bring a device up wrongly.

import { FEATURE } from '#conformance/features';
import { CFG_TYPE, STATUS } from '#conformance/layout';
import { at, besides, bytes, common, type DriverMutation, deaf, features, givesUp, notifications, notify, sees, writes } from './driver-fault.ts';

const REFUSED = 'driver/features-refused';
const SUSPEND = 'driver/suspend';
const RESET = 'driver/queue-reset';
const OTHERS = 'driver/capabilities-of-other-kinds';
let selected = 0;

/** Accesses through the access window: what is set, then a store to its data. */
const window = (name: string, breaks: readonly string[], bar: number, offset: number, length: number, size: 1 | 2 | 4): DriverMutation =>
  besides(name, breaks, 1, (stage, forward) => {
    const capability = stage.watched.inspect().capabilities.find(({ type }) => type === CFG_TYPE.PCI);
    const where = stage.watched.configSpace + (capability?.at ?? 0);
    forward(where + 4, 1, bar);
    forward(where + 8, 4, offset);
    forward(where + 12, 4, length);
    forward(where + 16, size, 0);
  });

export const STARTUP_FAULTS: readonly DriverMutation[] = [
  writes('sets two status bits at once', ['status.1', 'init.2', 'init.3'], 'device_status', (value) => (value === 1 ? undefined : value)),
  writes('takes a status bit away', ['status.2'], 'device_status', (value) => ((value & 4) !== 0 ? value & ~1 : value)),
  writes('does not reset first', ['init.1'], 'device_status', (value) => value || undefined),
  besides('answers an offer it has not read', ['init.4'], 3, (stage, forward) => {
    forward(common(stage) + 8, 4, 0);
    forward(common(stage) + 12, 4, 1);
  }),
  besides('writes configuration during negotiation', ['init.6', 'net.11'], 3, (stage, forward) =>
    forward(stage.watched.addressOf(CFG_TYPE.DEVICE).structure, 1, 2),
  ),
  writes('sets FEATURES_OK before DRIVER', ['init.7'], 'device_status', (value) => (value === 3 ? undefined : value === 11 ? 9 : value)),
  besides('changes features after FEATURES_OK', ['init.8'], 11, (stage, forward) => forward(common(stage) + 12, 4, 1)),
  at('goes on without looking at FEATURES_OK', ['init.9', 'init.10'], 'device_status', ({ address, size, value }, forward) => {
    forward(address, size, value);
    if (value === 11) forward(address, size, 15);
  }),
  writes('sets DRIVER_OK without FEATURES_OK', ['init.11'], 'device_status', (value) => (value === 11 ? 7 : value)),
  at('notifies before DRIVER_OK', ['init.14'], 'queue_enable', ({ address, size, value }, forward, stage) => {
    forward(address, size, value);
    forward(notify(stage), 2, 0);
  }),
  writes('goes on after its features were refused', ['init.12', 'init.13'], 'device_status', (value) => value & ~STATUS.FAILED, REFUSED),
  at(
    'tries again without a reset',
    ['status.3'],
    'device_status',
    ({ address, size, value }, forward, stage) => forward(address, size, value === 0 && (stage.watched.judge.status & STATUS.FAILED) !== 0 ? 1 : value),
    REFUSED,
  ),
  writes(
    'gives up without a word',
    ['features.10', 'features.18'],
    'device_status',
    (value) => ((value & STATUS.FAILED) !== 0 ? undefined : value),
    'driver/no-version-1',
  ),
  writes('waits for a broken device', ['status.4'], 'device_status', (value) => ((value & STATUS.FAILED) !== 0 ? undefined : value), 'driver/needs-reset'),
  at(
    'takes its buffers back before a reset',
    ['init.16'],
    'device_status',
    ({ address, size, value }, forward, stage) => {
      const setup = stage.watched.rings.ring(0)?.setup;
      if (value === 0 && setup) bytes(stage, setup.desc, 16 * setup.size).fill(0);
      forward(address, size, value);
    },
    'driver/shut-down',
  ),
  // ---- features ----
  at(
    'accepts a reserved bit that was not offered',
    ['features.1', 'features.5', 'features.6', 'features.7', 'features.8'],
    'driver_feature',
    ({ address, size, value }, forward) => forward(address, size, (value & 1) !== 0 ? (value | (1 << 4)) >>> 0 : value),
  ),
  features('accepts features without the control queue they need', ['features.2', 'net-ctrl.2'], { refuse: FEATURE.CTRL_VQ }),
  features('accepts hash reports without a control queue', ['net-hash.2'], { refuse: FEATURE.CTRL_VQ }, 'driver/hash-report'),
  features('does not accept VERSION_1', ['features.17'], { refuse: FEATURE.VERSION_1 }),
  features('accepts whatever was offered', ['features.3'], { accept: FEATURE.HOST_TSO4 }, 'driver/inconsistent-offers'),
  features('accepts a bit that means nothing', ['features.4'], { accept: 4 }, 'driver/strange-offers'),
  features('does not accept ACCESS_PLATFORM', ['features.19'], { refuse: FEATURE.ACCESS_PLATFORM }, 'driver/platform-offers'),
  features('does not accept ORDER_PLATFORM', ['features.23'], { refuse: FEATURE.ORDER_PLATFORM }, 'driver/platform-offers'),
  features('does not accept STANDBY', ['net.20'], { refuse: FEATURE.STANDBY }, 'driver/platform-offers'),
  features('does not accept RING_PACKED', ['features.22'], { refuse: FEATURE.RING_PACKED }, 'driver/traffic', 'packed'),
  features('does not accept NOTIF_CONFIG_DATA', ['features.25'], { refuse: FEATURE.NOTIF_CONFIG_DATA }, 'driver/notification-names'),
  features('does not accept MAC', ['net.12'], { refuse: FEATURE.MAC }),
  features('does not accept MTU', ['net.17'], { refuse: FEATURE.MTU }),
  features('does not accept GUEST_HDRLEN', ['net-tx.47'], { refuse: FEATURE.GUEST_HDRLEN }),
  // ---- configuration ----
  besides(
    'reads tunnel types of a device that has none',
    ['config.3'],
    11,
    (stage) => void stage.watched.mmioRead(stage.watched.addressOf(CFG_TYPE.DEVICE).structure + 24, 4),
    'driver/bare-device',
  ),
  sees('takes a torn configuration', ['config.1', 'config.2'], 'driver/torn-configuration', ({ field }, value) => (field === 'config_generation' ? 7 : value)),
  // ---- resets ----
  at('does not wait for a reset', ['reset.3', 'pci.52'], 'device_status', ({ address, size, value }, forward, stage) => {
    forward(address, size, value);
    if (value === 0) forward(common(stage), 4, 0);
  }),
  sees('does not wait for a queue reset', ['reset.6', 'pci.54'], RESET, ({ field }, value) => (field === 'queue_reset' ? 0 : value)),
  {
    name: 'sets a queue up by half after its reset',
    breaks: ['reset.9'],
    scenario: RESET,
    fault: () => {
      let reset = false;
      return {
        write: ({ address, size, value, field }, forward) => {
          if (field === 'queue_reset') reset = true;
          if (!(reset && field === 'queue_desc_lo')) forward(address, size, value);
        },
      };
    },
  },
  // ---- suspend ----
  writes('suspends before DRIVER_OK', ['suspend.1'], 'device_status', (value) => (value === 11 ? 11 | STATUS.SUSPEND : value), SUSPEND),
  sees('does not wait for a suspend', ['suspend.2'], SUSPEND, ({ field }, value) =>
    field === 'device_status' && (value & STATUS.DRIVER_OK) !== 0 ? (value & ~STATUS.DRIVER_OK) | STATUS.SUSPEND : value,
  ),
  {
    name: 'makes buffers available while suspended',
    breaks: ['suspend.3'],
    scenario: SUSPEND,
    ring: 'split',
    fault: () => ({
      look: (queue, { setup, next }, stage) => {
        if (queue === 1 && (stage.watched.judge.status & STATUS.SUSPEND) !== 0)
          bytes(stage, setup.driver + 2, 2).set([(next + 1) & 0xff, ((next + 1) >>> 8) & 0xff]);
      },
    }),
  },
  at(
    'notifies and writes configuration while suspended',
    ['suspend.4', 'suspend.5'],
    'device_status',
    ({ address, size, value }, forward, stage) => {
      forward(address, size, value);
      if ((value & STATUS.SUSPEND) === 0) return;
      forward(notify(stage), 2, 0);
      forward(common(stage), 4, 0);
    },
    SUSPEND,
  ),
  at(
    'notifies before the device has resumed',
    ['suspend.6'],
    'device_status',
    ({ address, size, value }, forward, stage) => {
      const suspended = (stage.watched.judge.status & STATUS.SUSPEND) !== 0;
      forward(address, size, value);
      if (suspended && (value & STATUS.DRIVER_OK) !== 0) forward(notify(stage), 2, 0);
    },
    SUSPEND,
  ),
  // ---- notifications ----
  notifications('notifies with 32 bits', ['notify.1'], ({ address, value }, forward) => forward(address, 4, value)),
  notifications('notifies by another number', ['notify.3'], ({ address, size }, forward) => forward(address, size, 77)),
  notifications('notifies with 16 bits', ['notify.2'], ({ address, value }, forward) => forward(address, 2, value & 0xffff), 'driver/notification-data'),
  notifications(
    'notifies by another number and data',
    ['notify.4'],
    ({ address, size, value }, forward) => forward(address, size, (value ^ 0x40) >>> 0),
    'driver/notification-data',
  ),
  notifications(
    'notifies by another name',
    ['notify.5'],
    ({ address, size, value }, forward) => forward(address, size, value ^ 0x40),
    'driver/notification-names',
  ),
  notifications(
    'notifies by another name and data',
    ['notify.6'],
    ({ address, size, value }, forward) => forward(address, size, (value ^ 0x40) >>> 0),
    'driver/notification-data-and-names',
  ),
  notifications(
    'tells another index',
    ['notify.D1'],
    ({ address, size, value }, forward) => forward(address, size, (value ^ 0x10000) >>> 0),
    'driver/notification-data',
    'split',
  ),
  notifications(
    'tells another slot',
    ['notify.D2', 'packed.11'],
    ({ address, size, value }, forward) => forward(address, size, (value ^ 0x8000_0000) >>> 0),
    'driver/notification-data',
    'packed',
  ),
  // ---- PCI ----
  at('writes half a register', ['pci.13'], 'driver_feature_select', ({ address, value }, forward) => forward(address, 2, value)),
  besides('writes to a capability', ['pci.27'], 1, (stage, forward) => forward(stage.watched.addressOf(CFG_TYPE.COMMON).capability + 8, 4, 0)),
  besides('writes a read-only register', ['pci.48'], 1, (stage, forward) => forward(common(stage) + 18, 2, 9)),
  writes('asks for a queue of size 0', ['pci.49', 'pci.50'], 'queue_size', () => 0),
  at('enables a queue before it is set up', ['pci.51'], 'queue_select', ({ address, size, value }, forward, stage) => {
    forward(address, size, value);
    forward(common(stage) + 28, 2, 1);
  }),
  writes('writes 0 to queue_enable', ['pci.53'], 'queue_enable', () => 0),
  {
    name: 'sets up an administration queue that there is not',
    breaks: ['pci.57'],
    scenario: 'driver/administration-queue',
    fault: () => ({
      write: ({ address, size, value, field }, forward, stage) => {
        if (field === 'queue_select') selected = value;
        if (field === 'queue_enable' && stage.watched.rings.adminQueues.length === 0 && selected >= 3) forward(common(stage) + 22, 2, selected + 7);
        if (field === 'queue_enable' && stage.watched.rings.adminQueues.includes(selected)) forward(common(stage) + 22, 2, selected + 7);
        forward(address, size, value);
      },
    }),
  },
  notifications('reads ISR under MSI-X', ['pci.75'], ({ address, size, value }, forward, stage) => {
    stage.watched.mmioRead(stage.watched.addressOf(CFG_TYPE.ISR).structure, 1);
    forward(address, size, value);
  }),
  besides(
    'works through vendor data',
    ['pci.84', 'pci.85'],
    1,
    (stage, forward) => {
      stage.watched.mmioRead(stage.watched.configSpace + 0xd6, 2);
      forward(stage.watched.configSpace + 0xd6, 2, 1);
    },
    OTHERS,
  ),
  window('aims the access window at an odd place', ['pci.89'], 0, 3, 2, 2),
  window('stores more than the access window holds', ['pci.90'], 0, 4, 1, 4),
  window('aims the access window at nothing', ['pci.91'], 5, 0, 4, 4),
  {
    name: 'leaves rubbish in a ring',
    breaks: ['pci.D8', 'split.32'],
    scenario: 'driver/traffic',
    fault: () => {
      let device = 0;
      return {
        write: ({ address, size, value, field }, forward, stage) => {
          if (field === 'queue_device_lo') device = value;
          if (field === 'queue_enable') bytes(stage, device, 4).fill(0x77);
          forward(address, size, value);
        },
      };
    },
  },
  writes('aligns its rings to nothing', ['split.1', 'packed.1'], 'queue_desc_lo', (value) => value | 4),
  writes('maps a vector past the table', ['msix.13'], 'queue_msix_vector', () => 0x7fe),
  at('does not look whether a vector was mapped', ['msix.14'], 'queue_msix_vector', ({ address, size, value }, forward, stage) => {
    forward(address, size, value);
    forward(common(stage), 4, 0);
  }),
  writes(
    'stops without a word when no vector can be mapped',
    ['msix.15'],
    'device_status',
    (value) => ((value & 4) !== 0 ? undefined : value),
    'driver/vectors-refused',
  ),
  // ---- what has to be borne with ----
  givesUp('driver/traffic', ['pci.9', 'split.47', 'packed.26']),
  givesUp('driver/strange-offers', ['features.11']),
  givesUp('driver/bare-device', ['features.9']),
  givesUp('driver/identity', ['pci.5', 'pci.11', 'pci.12']),
  givesUp('driver/transitional-identity', ['pci.2', 'pci.10']),
  givesUp(OTHERS, ['pci.17', 'pci.20', 'pci.21', 'pci.23', 'pci.79', 'pci.80']),
  givesUp('driver/larger-structures', ['pci.16', 'pci.18', 'pci.19', 'pci.22', 'pci.25', 'pci.29', 'config.4', 'config.5']),
  givesUp('driver/1-vectors', ['msix.10', 'msix.11', 'msix.12']),
  deaf('driver/1-vectors', ['msix.17', 'msix.19']),
  givesUp('driver/2048-vectors', ['msix.10']),
];
