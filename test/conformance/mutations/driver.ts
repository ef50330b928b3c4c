// Drivers that do one thing wrong: what becomes of their writes on the way to the watched bus.

import type { WatchedBus } from '#conformance/driver-watch';
import { CFG_TYPE, type CommonField } from '#conformance/layout';

type AccessSize = 1 | 2 | 4;
interface Access {
  readonly address: number;
  readonly size: AccessSize;
  readonly value: number;
  readonly field: CommonField | undefined;
}
type Forward = (address: number, size: AccessSize, value: number) => void;
export type DriverFault = (watched: WatchedBus, access: Access, forward: Forward) => void;

interface DriverMutation {
  readonly name: string;
  readonly breaks: readonly string[];
  readonly fault: () => DriverFault;
}

/** Writes to this field are replaced by what `act` forwards; others pass. */
const at = (
  name: string,
  breaks: readonly string[],
  field: CommonField,
  act: (access: Access, forward: Forward, watched: WatchedBus) => void,
): DriverMutation => ({
  name,
  breaks,
  fault: () => (watched, access, forward) => {
    if (access.field === field) act(access, forward, watched);
    else forward(access.address, access.size, access.value);
  },
});

/** Another value is written. */
const writes = (name: string, breaks: readonly string[], field: CommonField, change: (value: number) => number | undefined): DriverMutation =>
  at(name, breaks, field, ({ address, size, value }, forward) => {
    const changed = change(value);
    if (changed !== undefined) forward(address, size, changed);
  });

const common = (watched: WatchedBus): number => watched.addressOf(CFG_TYPE.COMMON).structure;
/** Does something else as well when it sets ACKNOWLEDGE and DRIVER. */
const besides = (name: string, breaks: readonly string[], when: number, act: (watched: WatchedBus, forward: Forward) => void, first = false): DriverMutation =>
  at(name, breaks, 'device_status', ({ address, size, value }, forward, watched) => {
    if (first && value === when) act(watched, forward);
    forward(address, size, value);
    if (!first && value === when) act(watched, forward);
  });

const notifications = (name: string, breaks: readonly string[], act: (access: Access, forward: Forward, watched: WatchedBus) => void): DriverMutation => ({
  name,
  breaks,
  fault: () => (watched, access, forward) => {
    const start = access.field === undefined && access.address > 2 ** 31 ? watched.addressOf(CFG_TYPE.NOTIFY).structure : Infinity;
    if (access.address >= start && access.address < start + 0x1000) act(access, forward, watched);
    else forward(access.address, access.size, access.value);
  },
});

let selected = 0;

export const DRIVER_MUTATIONS: readonly DriverMutation[] = [
  writes('sets two status bits at once', ['status.1', 'init.2', 'init.3'], 'device_status', (value) => (value === 1 ? undefined : value)),
  writes('takes a status bit away', ['status.2'], 'device_status', (value) => ((value & 4) !== 0 ? value & ~1 : value)),
  writes('does not reset first', ['init.1'], 'device_status', (value) => value || undefined),
  besides('answers an offer it has not read', ['init.4'], 3, (watched, forward) => {
    forward(common(watched) + 8, 4, 0);
    forward(common(watched) + 12, 4, 1);
  }),
  besides('writes configuration during negotiation', ['init.6'], 3, (watched, forward) => forward(watched.addressOf(CFG_TYPE.DEVICE).structure, 1, 2)),
  writes('sets FEATURES_OK before DRIVER', ['init.7'], 'device_status', (value) => (value === 3 ? undefined : value === 11 ? 9 : value)),
  besides('changes features after FEATURES_OK', ['init.8'], 11, (watched, forward) => forward(common(watched) + 12, 4, 1)),
  at('goes on without looking at FEATURES_OK', ['init.9', 'init.10'], 'device_status', ({ address, size, value }, forward) => {
    forward(address, size, value);
    if (value === 11) forward(address, size, 15);
  }),
  writes('sets DRIVER_OK without FEATURES_OK', ['init.11'], 'device_status', (value) => (value === 11 ? 7 : value)),
  at('notifies before DRIVER_OK', ['init.14'], 'queue_enable', ({ address, size, value }, forward, watched) => {
    forward(address, size, value);
    forward(watched.addressOf(CFG_TYPE.NOTIFY).structure, 2, 0);
  }),
  at(
    'accepts a reserved bit that was not offered',
    ['features.1', 'features.5', 'features.6', 'features.7', 'features.8'],
    'driver_feature',
    ({ address, size, value }, forward) => forward(address, size, (value & 1) !== 0 ? (value | (1 << 17)) >>> 0 : value),
  ),
  writes('accepts features without the control queue they need', ['features.2'], 'driver_feature', (value) => (value & ~(1 << 17)) >>> 0),
  writes('does not accept VERSION_1', ['features.17'], 'driver_feature', (value) => (value & ~1) >>> 0),
  besides(
    'reads the mtu of a device that has none',
    ['config.3'],
    11,
    (watched) => void watched.mmioRead(watched.addressOf(CFG_TYPE.DEVICE).structure + 10, 2),
  ),
  at('does not wait for a reset', ['reset.3', 'pci.52'], 'device_status', ({ address, size, value }, forward, watched) => {
    forward(address, size, value);
    if (value === 0) forward(common(watched), 4, 0);
  }),
  notifications('notifies with 32 bits', ['notify.1'], ({ address, value }, forward) => forward(address, 4, value)),
  notifications('notifies by another number', ['notify.3'], ({ address, size }, forward) => forward(address, size, 77)),
  at('writes half a register', ['pci.13'], 'driver_feature_select', ({ address, value }, forward) => forward(address, 2, value)),
  besides('writes to a capability', ['pci.27'], 1, (watched, forward) => forward(watched.addressOf(CFG_TYPE.COMMON).capability + 8, 4, 0)),
  besides('writes a read-only register', ['pci.48'], 1, (watched, forward) => forward(common(watched) + 18, 2, 9)),
  writes('asks for a queue of size 0', ['pci.49', 'pci.50'], 'queue_size', () => 0),
  at('enables a queue before it is set up', ['pci.51'], 'queue_select', ({ address, size, value }, forward, watched) => {
    forward(address, size, value);
    forward(common(watched) + 28, 2, 1);
  }),
  writes('writes 0 to queue_enable', ['pci.53'], 'queue_enable', () => 0),
  notifications('reads ISR under MSI-X', ['pci.75'], ({ address, size, value }, forward, watched) => {
    watched.mmioRead(watched.addressOf(CFG_TYPE.ISR).structure, 1);
    forward(address, size, value);
  }),
  {
    name: 'leaves rubbish in a ring',
    breaks: ['pci.D8'],
    fault:
      () =>
      (watched, { address, size, value, field }, forward) => {
        if (field === 'queue_device_lo') selected = value;
        if (field === 'queue_enable') {
          const slab = watched.memory.slabAt(selected);
          slab?.views.u8.fill(0x77, selected - slab.base, selected - slab.base + 4);
        }
        forward(address, size, value);
      },
  },
  writes('maps a vector past the table', ['msix.13'], 'queue_msix_vector', () => 0x7fe),
  at('does not look whether a vector was mapped', ['msix.14'], 'queue_msix_vector', ({ address, size, value }, forward, watched) => {
    forward(address, size, value);
    forward(common(watched), 4, 0);
  }),
];
