// Faults of registers, capabilities and interrupts.

import { FEATURE } from '#conformance/features';
import { CFG_TYPE, type CommonField } from '#conformance/layout';
import { type Fault, type Mutant, type Mutation, mutation } from '../mutant.ts';

/** A field of the common configuration reads otherwise. */
const reads = (field: CommonField, change: (value: number, m: Mutant) => number): Fault => ({
  barRead: (m, place, value) => (place.field === field ? change(value, m) : value),
});

/** What is written to a field is lost, or arrives otherwise. */
const writes = (field: CommonField, change: (value: number, m: Mutant) => number | undefined): Fault => ({
  barWrite: (m, place, value) => (place.field === field ? change(value, m) : value),
});

const config = (at: number, change: (value: number) => number): Fault => ({
  configRead: (_m, offset, _size, value) => (offset === at ? change(value) : value),
});

/** A byte or word of the capability of this type, `from` bytes into it. */
const capability = (type: number, from: number, change: (value: number) => number): Fault => ({
  configRead: (m, offset, _size, value) => (m.known.some((found) => found.type === type && offset === found.at + from) ? change(value) : value),
});

/** No capability of this type: it looks like one of a type that is reserved. */
const hidden = (type: number): Fault => capability(type, 3, () => 0x7f);

/** Another set of features is offered. */
export function offers(window: number, change: (word: number) => number): Fault {
  return {
    barWrite(m, place, value) {
      if (place.field === 'device_feature_select') m.memo.selector = value;
      return value;
    },
    barRead: (m, place, value) => (place.field === 'device_feature' && (m.memo.selector ?? 0) === window ? change(value) : value),
  };
}

export const without = (bit: number): Fault => offers(bit >>> 5, (word) => word & ~(1 << (bit & 31)));

const NEEDS: readonly (readonly [string, number])[] = [
  ['features.D1', 1],
  ['features.D2', 1],
  ['features.D4', 1],
  ['features.D5', 1],
  ['features.D6', 1],
  ['features.D7', 7],
  ['features.D8', 65],
  ['features.D9', 0],
  ['features.D10', 0],
  ['features.D12', 0],
  ['features.D13', 0],
  ['features.D14', 56],
  ['features.D15', 67],
  ['features.D16', 17],
  ['features.D17', 17],
  ['features.D18', 17],
  ['features.D19', 17],
  ['features.D20', 17],
  ['features.D21', 17],
  ['features.D23', 17],
  ['features.D24', 17],
  ['features.D25', 17],
  ['features.D26', 60],
];

const sets = (field: CommonField, and: number, or: number): Fault => writes(field, (value) => (value & and) | or);

export const PCI_MUTATIONS: readonly Mutation[] = [
  // identity
  mutation(
    'vendor id of somebody else',
    ['pci.3'],
    config(0, (value) => (value & 0xffff0000) | 0x1af5),
  ),
  mutation(
    'device id of a block device',
    ['pci.4'],
    config(2, () => 0x1042),
  ),
  mutation(
    'device id out of range',
    ['pci.6'],
    config(2, () => 0x1081),
  ),
  mutation(
    'revision 0',
    ['pci.7'],
    config(8, () => 0),
  ),
  mutation(
    'subsystem id 1',
    ['pci.8'],
    config(0x2e, () => 1),
  ),
  mutation('identity can be written', ['pci.1'], {
    configWrite: (m, offset, _size, value) => {
      if (offset === 0) m.memo.id = value;
      return value;
    },
    configRead: (m, offset, _size, value) => (offset === 0 && m.memo.id !== undefined ? m.memo.id : value),
  }),
  // structures
  mutation('no COMMON_CFG in the list', ['pci.32'], () => ({ ...hidden(CFG_TYPE.COMMON) })),
  mutation('no NOTIFY_CFG', ['pci.59'], () => hidden(CFG_TYPE.NOTIFY)),
  mutation('no ISR_CFG', ['pci.70'], () => hidden(CFG_TYPE.ISR)),
  mutation('no DEVICE_CFG', ['pci.76'], () => hidden(CFG_TYPE.DEVICE)),
  mutation('no PCI_CFG', ['pci.86'], () => hidden(CFG_TYPE.PCI)),
  mutation('cap_len leaves the multiplier out', ['pci.28'], () => capability(CFG_TYPE.NOTIFY, 2, () => 16)),
  mutation('COMMON_CFG at an odd offset', ['pci.31'], () => capability(CFG_TYPE.COMMON, 8, (value) => value + 2)),
  mutation('DEVICE_CFG at an odd offset', ['pci.77'], () => capability(CFG_TYPE.DEVICE, 8, (value) => value + 2)),
  mutation('first COMMON_CFG outside its BAR', ['pci.30'], () => capability(CFG_TYPE.COMMON, 12, () => 0x10_0000)),
  mutation('notify offset odd', ['pci.60', 'pci.66'], () => capability(CFG_TYPE.NOTIFY, 8, (value) => value + 1)),
  mutation('multiplier 3', ['pci.61', 'pci.65'], () => capability(CFG_TYPE.NOTIFY, 16, () => 3)),
  mutation('notify region of 1 byte', ['pci.62', 'pci.64', 'pci.67', 'pci.69'], () => capability(CFG_TYPE.NOTIFY, 12, () => 1)),
  mutation('notify region longer than the BAR', ['pci.63', 'pci.68'], () => capability(CFG_TYPE.NOTIFY, 12, () => 0x10_0000)),
  // features
  mutation(
    'one feature window for every selector',
    ['pci.33', 'pci.D2'],
    writes('device_feature_select', (value) => value & 1),
  ),
  mutation(
    'device_feature_select stays',
    ['pci.33'],
    writes('device_feature_select', () => undefined),
  ),
  mutation(
    'driver features are not kept',
    ['pci.34'],
    reads('driver_feature', () => 0),
  ),
  mutation('driver_feature_select is lost over a bad write', ['pci.35'], {
    barWrite(m, place, value) {
      if (place.field === 'driver_feature' && value === 0xffff_ffff) m.memo.lost = 1;
      return value;
    },
    barRead: (m, place, value) => (m.memo.lost === 1 && (place.field === 'driver_feature_select' || place.field === 'driver_feature') ? 0 : value),
  }),
  mutation('reserved bit 49 offered', ['features.15'], () => offers(1, (word) => word | (1 << 17))),
  mutation('no VERSION_1', ['features.26', 'pci.33'], () => without(FEATURE.VERSION_1)),
  ...NEEDS.map(([clause, bit]) => mutation(`${clause}: its prerequisite is not offered`, [clause, 'features.12'], () => without(bit))),
  mutation('HOST_ECN without TSO', ['features.D11', 'features.12'], () => offers(0, (word) => word & ~((1 << FEATURE.HOST_TSO4) | (1 << FEATURE.HOST_TSO6)))),
  mutation('GUEST_ECN without TSO', ['features.D3', 'features.12'], () => offers(0, (word) => word & ~((1 << FEATURE.GUEST_TSO4) | (1 << FEATURE.GUEST_TSO6)))),
  mutation('RSC_EXT without TSO', ['features.D22'], () =>
    offers(0, (word) => word & ~((1 << FEATURE.HOST_TSO4) | (1 << FEATURE.HOST_TSO6) | (1 << FEATURE.GUEST_TSO4) | (1 << FEATURE.GUEST_TSO6))),
  ),
  mutation('FEATURES_OK whatever was asked', ['features.14'], {
    barWrite(m, place, value) {
      if (place.field === 'device_status') m.memo.status = value;
      return value;
    },
    barRead: (m, place, value) => (place.field === 'device_status' ? value | ((m.memo.status ?? 0) & 8) : value),
  }),
  mutation(
    'FEATURES_OK never',
    ['features.13', 'net-mq.3', 'features.27', 'init.5'],
    reads('device_status', (value) => value & ~8),
  ),
  mutation('accepted once only', ['features.16'], {
    barWrite(m, place, value) {
      if (place.field === 'device_status' && (value & 8) !== 0) m.memo.times = (m.memo.times ?? 0) + 1;
      return value;
    },
    barRead: (m, place, value) => (place.field === 'device_status' && (m.memo.times ?? 0) > 1 ? value & ~8 : value),
  }),
  // reset
  mutation('status is not cleared', ['pci.37', 'reset.1'], {
    barWrite(m, place, value) {
      if (place.field === 'device_status' && value === 0) m.memo.reads = 0;
      return value;
    },
    // The first look shows 0, later ones do not.
    barRead: (m, place, value) => (place.field === 'device_status' && m.memo.reads !== undefined && value === 0 && m.memo.reads++ > 0 ? 1 : value),
  }),
  mutation(
    'queue_enable survives a reset',
    ['pci.38'],
    reads('queue_enable', () => 1),
  ),
  mutation('vectors survive a reset', ['msix.7'], {
    ...reads('config_msix_vector', () => 0),
    barRead: (_m, place, value) => (place.field === 'config_msix_vector' || place.field === 'queue_msix_vector' ? (value === 0xffff ? 0 : value) : value),
  }),
  mutation('queue_size shrinks over a reset', ['pci.D3'], {
    barWrite(m, place, value) {
      if (place.field === 'queue_size') m.memo.size = value;
      return value;
    },
    barRead: (m, place, value) => (place.field === 'queue_size' && m.memo.size !== undefined ? m.memo.size : value),
  }),
  mutation('queue_reset never done', ['pci.39', 'pci.40'], {
    barRead: (m, place, value) => (place.field === 'queue_reset' && m.memo.again === 1 ? 1 : value),
    barWrite(m, place, value) {
      // After the queue was enabled again.
      if (place.field === 'queue_reset') m.memo.reset = 1;
      if (place.field === 'queue_enable' && m.memo.reset === 1) m.memo.again = 1;
      return value;
    },
  }),
  mutation(
    'queue_reset does nothing',
    ['pci.41', 'pci.43', 'reset.4'],
    writes('queue_reset', () => undefined),
  ),
  mutation('queue_reset says it is done before it is', ['pci.42'], { ...writes('queue_reset', () => undefined) }),
  // queues
  mutation('halves share a register', ['pci.14', 'pci.15'], {
    barRead: (m, place, value) => (place.field?.endsWith('_hi') ? (m.memo[place.field.slice(0, -3)] ?? value) : value),
    barWrite(m, place, value) {
      if (place.field?.endsWith('_lo')) m.memo[place.field.slice(0, -3)] = value;
      return value;
    },
  }),
  mutation('high half clears the low one', ['pci.15'], {
    barRead: (m, place, value) => (place.field?.endsWith('_lo') && m.memo.cleared === 1 ? 0 : value),
    barWrite(m, place, value) {
      if (place.field?.endsWith('_hi')) m.memo.cleared = 1;
      if (place.field?.endsWith('_lo')) m.memo.cleared = 0;
      return value;
    },
  }),
  mutation('low half clears the high one', ['pci.14', 'pci.15'], {
    barRead: (m, place, value) => (place.field?.endsWith('_hi') && m.memo.cleared === 1 ? 0 : value),
    barWrite(m, place, value) {
      if (place.field?.endsWith('_lo')) m.memo.cleared = 1;
      if (place.field?.endsWith('_hi')) m.memo.cleared = 0;
      return value;
    },
  }),
  mutation(
    'queue_size 0xc000',
    ['pci.45', 'split.D1'],
    reads('queue_size', () => 0xc000),
  ),
  mutation(
    'queue_size where there is no queue',
    ['pci.44'],
    reads('queue_size', (value) => value || 64),
  ),
  mutation(
    'admin queues among the others',
    ['pci.46'],
    reads('admin_queue_index', () => 1),
  ),
  mutation(
    '65536 admin queues',
    ['pci.47'],
    reads('admin_queue_num', () => 0xffff),
  ),
  mutation(
    'num_queues counts admin queues',
    ['pci.D1'],
    reads('num_queues', (value) => value + 1),
  ),
  mutation('DRIVER_OK waits for every admin queue', ['pci.58'], sets('device_status', ~4, 0)),
  // configuration window
  mutation('window writes nothing', ['pci.87', 'pci.D7'], () => windowFault('write')),
  mutation('window reads nothing', ['pci.88', 'pci.D7'], () => windowFault('read')),
  mutation('window registers cannot be written', ['pci.D6'], () => windowFault('registers')),
  // vectors
  mutation('table of one vector', ['msix.1'], () => msixControl((value) => value & ~0x7ff)),
  mutation('table size off by one', ['msix.2'], () => msixControl((value) => value + 1)),
  mutation(
    'config vector cannot be mapped',
    ['msix.4'],
    reads('config_msix_vector', () => 0xffff),
  ),
  mutation(
    'queue vectors cannot be mapped',
    ['msix.4', 'msix.6', 'msix.8'],
    reads('queue_msix_vector', () => 0xffff),
  ),
  mutation('vectors cannot be unmapped', ['msix.5', 'msix.6'], {
    barRead: (_m, place, value) => (place.field?.endsWith('msix_vector') && value === 0xffff ? 0 : value),
  }),
  mutation('bad vectors are kept', ['msix.9'], {
    barWrite(m, place, value) {
      if (place.field?.endsWith('msix_vector')) m.memo[place.field] = value;
      return value;
    },
    barRead: (m, place, value) => (place.field?.endsWith('msix_vector') && value === 0xffff ? (m.memo[place.field] ?? value) : value),
  }),
  mutation('every message is number 3', ['msix.D3'], { messages: (_m, numbers) => numbers.map(() => 3) }),
  mutation(
    'unmapped queues use vector 0',
    ['msix.16', 'msix.D2'],
    writes('queue_msix_vector', (value) => (value === 0xffff ? 0 : value)),
  ),
  mutation('unmapped events raise INTx', ['msix.16', 'msix.18'], { intx: () => true }),
  mutation(
    'unmapped configuration changes use vector 0',
    ['msix.18'],
    writes('config_msix_vector', (value) => (value === 0xffff ? 0 : value)),
  ),
  mutation('INTx beside MSI-X', ['msix.D1'], { intx: () => true }),
  mutation('ISR beside MSI-X', ['msix.D1', 'pci.D5'], { barRead: (_m, place, value) => (place.structure === 'isr' ? 0xff : value) }),
  // ISR
  mutation('ISR reads 0', ['pci.72', 'pci.71'], { barRead: (_m, place, value) => (place.structure === 'isr' ? 0 : value) }),
  mutation('ISR is not cleared', ['pci.74'], {
    barRead(m, place, value) {
      if (place.structure !== 'isr') return value;
      m.memo.isr = (m.memo.isr ?? 0) | value;
      return m.memo.isr;
    },
  }),
  mutation('INTx stays low', ['pci.72', 'config.D1'], { intx: () => false }),
  mutation('INTx stays high', ['pci.D4'], { intx: () => true }),
  mutation(
    'Interrupt Status reads 0',
    ['pci.73'],
    config(6, (value) => value & ~8),
  ),
  mutation('no messages', ['config.D1', 'config.D2', 'status.7', 'msix.D3'], { messages: () => [] }),
  mutation(
    'config_generation stays',
    ['pci.36'],
    reads('config_generation', () => 7),
  ),
  // status
  mutation('works before DRIVER_OK', ['status.5'], {
    barWrite: (_m, place, value) => (place.field === 'device_status' && (value & 8) !== 0 ? value | 4 : value),
  }),
  mutation(
    'errors do not show',
    ['status.6'],
    reads('device_status', (value) => value & ~0x40),
  ),
  mutation('goes on after a reset', ['reset.2'], {
    barWrite(m, place, value) {
      if (place.field !== 'device_status') return value;
      if (value === 15) m.memo.up = 1;
      return value === 0 && m.memo.up === 1 ? 15 : value;
    },
    barRead: (m, place, value) => (place.field === 'device_status' && value === 15 && m.memo.up === 1 ? 0 : value),
  }),
  mutation('configuration fields hidden until FEATURES_OK', ['config.6'], () => ({
    barWrite(m, place, value) {
      if (place.field === 'device_status') m.memo.status = value;
      return value;
    },
    barRead: (m, place, value) => (place.structure === 'device' && ((m.memo.status ?? 0) & 8) === 0 ? 0 : value),
  })),
  // queue reset
  mutation('a queue that was reset goes on where it was', ['reset.5'], {
    // The second time the queue is enabled, the device sees no reset before.
    barWrite: (_m, place, value) => (place.field === 'queue_reset' || (place.field === 'queue_enable' && value === 1 && _m.memo.on === 9) ? undefined : value),
    barRead: (_m, place, value) => (place.field === 'queue_reset' ? 0 : value),
  }),
  mutation('memory of a queue that was reset is written', ['reset.7'], {
    memoryRead: (m, address, bytes) => (m.memo.reset === 1 && m.spot(address)?.area === 'device' ? bytes.fill(0xee) : bytes),
    barWrite(m, place, value) {
      if (place.field === 'queue_reset') m.memo.reset = 1;
      return value;
    },
  }),
  mutation(
    'an enabled-again queue stays off',
    ['pci.55'],
    reads('queue_enable', () => 0),
  ),
  mutation('an enabled-again queue has its old size', ['pci.56', 'reset.8'], {
    barWrite(m, place, value) {
      if (place.field === 'queue_reset') m.memo.reset = 1;
      return place.field === 'queue_size' && m.memo.reset === 1 && value === 8 ? 32 : value;
    },
  }),
];

function msixControl(change: (value: number) => number): Fault {
  let at = -1;
  return {
    configRead(_m, offset, size, value) {
      if (size === 1 && value === 0x11) at = offset;
      return size === 2 && offset === at + 2 ? change(value) : value;
    },
  };
}

/** The PCI_CFG capability: the data register, or the registers that aim it. */
function windowFault(what: 'read' | 'write' | 'registers'): Fault {
  const inside = (m: Mutant, offset: number): number => {
    const place = m.known.find(({ type }) => type === CFG_TYPE.PCI);
    return place === undefined ? -1 : offset - place.at;
  };
  return {
    configRead(m, offset, _size, value) {
      const at = inside(m, offset);
      return at === 16 && what === 'read' ? 0 : value;
    },
    configWrite(m, offset, _size, value) {
      const at = inside(m, offset);
      return (at === 16 && what === 'write') || (at >= 4 && at < 16 && what === 'registers') ? undefined : value;
    },
  };
}
