// Faults of what the device under test does not have: the fault gives it, and gets it wrong.

import { FEATURE } from '#conformance/features';
import { CFG_TYPE } from '#conformance/layout';
import { type Fault, type Mutant, type Mutation, mutation } from '../mutant.ts';

const PLATFORM = (1 << (FEATURE.ACCESS_PLATFORM - 32)) | (1 << (FEATURE.ORDER_PLATFORM - 32));
const STATUS_FEATURES_OK = 8;

/** Offset in the capability of this type, as the device has it; undefined: not there. */
function within(m: Mutant, type: number, offset: number): number | undefined {
  const found = m.known.find((known) => known.type === type);
  return found !== undefined && offset >= found.at && offset < found.at + 24 ? offset - found.at : undefined;
}

/** The PCI_CFG capability looks like one of vendor data, of which some bytes read otherwise. */
const vendorData = (change: (at: number, value: number, m: Mutant) => number, rest: Fault = {}): Fault => ({
  configRead(m, offset, _size, value) {
    const at = within(m, CFG_TYPE.PCI, offset);
    if (at === undefined) return value;
    return at === 3 ? CFG_TYPE.VENDOR : change(at, value, m);
  },
  ...rest,
});

const sharedMemory: Fault = {
  // Of the notification capability the multiplier becomes the upper half of an offset.
  configRead: (m, offset, _size, value) =>
    within(m, CFG_TYPE.NOTIFY, offset) === 3 || within(m, CFG_TYPE.PCI, offset) === 3
      ? CFG_TYPE.SHARED_MEMORY
      : within(m, CFG_TYPE.NOTIFY, offset) === 5 || within(m, CFG_TYPE.PCI, offset) === 5
        ? 1
        : value,
};

const EMPTY = 1 << 24;
/** NOTIFY_ON_EMPTY is offered, and the device never hears that it was taken. */
const notifyOnEmpty = (rest: Fault = {}): Fault => ({
  barRead: (_m, place, value) => (place.structure === 'other' && place.bar === 0 && place.offset === 0 && place.size === 4 ? value | EMPTY : value),
  barWrite: (_m, place, value) => (place.structure === 'other' && place.bar === 0 && place.offset === 4 ? value & ~EMPTY : value),
  ...rest,
});

export const ABSENT_MUTATIONS: readonly Mutation[] = [
  mutation('NOTIFY_ON_EMPTY that tells nothing', ['legacy.12'], () => notifyOnEmpty()),
  mutation('NOTIFY_ON_EMPTY that keeps frames back', ['legacy.11'], () => notifyOnEmpty({ sent: () => [] })),
  mutation('platform features that are never taken once they were declined', ['features.29', 'features.30'], () => {
    let shown = 0;
    let chosen = 0;
    let declined = false;
    return {
      barWrite(_m, place, value) {
        if (place.field === 'device_feature_select') shown = value;
        if (place.field === 'driver_feature_select') chosen = value;
        if (place.field !== 'driver_feature' || chosen !== 1) return value;
        if ((value & PLATFORM) !== PLATFORM) declined = true;
        return value & ~PLATFORM;
      },
      barRead(_m, place, value) {
        if (place.field === 'device_feature' && shown === 1) return value | PLATFORM;
        return place.field === 'device_status' && declined ? value & ~STATUS_FEATURES_OK : value;
      },
    };
  }),
  mutation("vendor data of virtio's own vendor", ['pci.81'], () => vendorData((at, value) => (at === 4 ? 0x1af4 : value))),
  mutation('vendor data of 21 bytes', ['pci.82'], () => vendorData((at, value) => (at === 2 ? 21 : value))),
  mutation('vendor data that counts its reads', ['pci.83'], () => {
    let reads = 0;
    return vendorData((at, value) => (at === 8 ? reads++ : value));
  }),
  mutation('vendor data whose reads start the device', ['pci.78'], () => {
    let read = false;
    return vendorData(
      (at, value) => {
        // The suite looks there for the first time once it has seen the status.
        if (at === 16) read = true;
        return value;
      },
      { barRead: (_m, place, value) => (place.field === 'device_status' && read ? value | 1 : value) },
    );
  }),
  mutation('shared memory regions of one id, beyond their BAR', ['shm.2', 'shm.3'], sharedMemory),
];
