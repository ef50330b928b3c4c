// Drivers that use the legacy interface wrongly, or take a device for what it is not.

import type { Role } from '#conformance/driver/judge';
import type { Stage } from '#conformance/driver/stage';
import { CTRL, PCI } from '#conformance/layout';
import { LEGACY, type LegacyField } from '#conformance/legacy-bench';
import { bytes, type DriverMutation, descriptors, FLAGS, type Forward, found, type PortAccess, put32, u16, u32 } from './driver-fault.ts';

const WHOLE = 'driver/legacy';
const PAIRS = 'driver/legacy-queue-pairs';
const CUT = 'driver/legacy-without-any-layout';
const CONTROL = 2;
/** Behind the registers, while MSI-X is off. */
const CONFIG = 20;
const STATUS_AT = CONFIG + 6;

/** Writes to a register become what `act` forwards. */
const stores = (
  name: string,
  breaks: readonly string[],
  field: LegacyField,
  act: (access: PortAccess, forward: Forward) => void,
  scenario = WHOLE,
): DriverMutation => ({
  name,
  breaks,
  scenario,
  fault: () => ({
    writePort: (access, forward) => {
      if (access.offset === LEGACY[field][0]) act(access, forward);
      else forward(access.offset, access.size, access.value);
    },
  }),
});

/** What is read becomes something else. */
const loads = (name: string, breaks: readonly string[], readPort: (access: PortAccess) => number, scenario: string): DriverMutation => ({
  name,
  breaks,
  scenario,
  fault: () => ({ readPort }),
});

const swapped = (value: number): number => ((value & 0xff) << 8) | (value >>> 8);

/** All readable bytes of a buffer, as if they lay in one piece: changes are written back. */
const contents = (name: string, breaks: readonly string[], role: Role, change: (all: Uint8Array) => void, scenario = WHOLE): DriverMutation => ({
  name,
  breaks,
  scenario,
  fault: () => ({
    chain: (whose, { pieces }, stage) => {
      if (whose !== role) return;
      const parts = pieces.filter(({ writable }) => !writable).map(({ address, length }) => bytes(stage, address, length));
      const all = Uint8Array.from(parts.flatMap((part) => [...part]));
      change(all);
      let at = 0;
      for (const part of parts) {
        part.set(all.subarray(at, at + part.length));
        at += part.length;
      }
    },
  }),
});

/** The same of commands of one kind: their data. */
const commands = (name: string, breaks: readonly string[], kind: number, change: (data: Uint8Array) => void, scenario = WHOLE): DriverMutation =>
  contents(name, breaks, 'control', (all) => (all[0] === kind ? change(all.subarray(2)) : undefined), scenario);

/** Where the nth descriptor of a chain stands, in its table if it has one; -1: the last. */
function nth(stage: Stage, table: number, first: number, n: number): number {
  const indirect = (u16(stage, first + 12) & FLAGS.INDIRECT) !== 0;
  const base = indirect ? u32(stage, first) : table;
  let at = indirect ? base : first;
  for (let i = 0; (n < 0 || i < n) && (u16(stage, at + 12) & FLAGS.NEXT) !== 0; i++) at = base + 16 * u16(stage, at + 14);
  return at;
}

/** The length of the nth descriptor of each command is changed; of those of one kind. */
const pieces = (name: string, breaks: readonly string[], n: number, change: (length: number) => number, kind?: number): DriverMutation =>
  descriptors(
    name,
    breaks,
    CONTROL,
    (stage, descriptor, { setup }) => {
      const head = bytes(stage, u32(stage, nth(stage, setup.desc, descriptor, 0)), 2);
      if (kind !== undefined && head[0] !== kind) return;
      const at = nth(stage, setup.desc, descriptor, n);
      put32(stage, at + 8, change(u32(stage, at + 8)));
    },
    CUT,
  );

export const LEGACY_FAULTS: readonly DriverMutation[] = [
  stores('sets FEATURES_OK in a legacy status', ['legacy.8'], 'device_status', ({ offset, size, value }, forward) =>
    forward(offset, size, value === 3 ? 11 : value),
  ),
  stores('does not accept ANY_LAYOUT', ['legacy.14'], 'driver_features', ({ offset, size, value }, forward) => forward(offset, size, value & ~(1 << 27))),
  stores(
    'accepts bit 30',
    ['legacy.16'],
    'driver_features',
    ({ offset, size, value }, forward) => forward(offset, size, value | (1 << 30)),
    'driver/legacy-bit-30',
  ),
  stores('chooses the size of its queues', ['legacy.31'], 'queue_address', ({ offset, size, value }, forward) => {
    forward(LEGACY.queue_size[0], 2, 64);
    forward(offset, size, value);
  }),
  stores('has less memory than a queue takes', ['legacy.32'], 'queue_address', ({ offset, size, value }, forward) =>
    forward(offset, size, value === 0 ? 0 : 64 * 256 - 1),
  ),
  stores('says where the available ring is, not the descriptors', ['legacy.34'], 'queue_address', ({ offset, size, value }, forward) =>
    forward(offset, size, value + 1),
  ),
  descriptors(
    'writes addresses the other way round',
    ['legacy.36'],
    1,
    (stage, descriptor) => {
      const address = bytes(stage, descriptor, 8);
      if (address[7] === 0) address.reverse();
    },
    WHOLE,
  ),
  stores('writes registers by halves', ['legacy.41'], 'driver_features', ({ offset, value }, forward) => {
    forward(offset, 2, value & 0xffff);
    forward(offset + 2, 2, value >>> 16);
  }),
  loads('does not find its configuration', ['legacy.44'], ({ offset, value }) => (offset >= CONFIG && offset < CONFIG + 4 ? 0 : value), WHOLE),
  loads('reads status the other way round', ['legacy.55'], ({ offset, size, value }) => (offset === STATUS_AT && size === 2 ? swapped(value) : value), PAIRS),
  contents('writes headers the other way round', ['legacy.57'], 'transmit', (all) => {
    const header = new DataView(all.buffer);
    for (const at of [2, 4, 6, 8]) header.setUint16(at, swapped(header.getUint16(at, true)), true);
  }),
  commands('writes counts the other way round', ['legacy.60'], CTRL.MAC, (data) => (data.length > 6 ? void data.subarray(0, 4).reverse() : undefined)),
  commands('writes VLANs the other way round', ['legacy.64'], CTRL.VLAN, (data) => void data.reverse()),
  commands('writes pairs the other way round', ['legacy.66'], CTRL.MQ, (data) => void data.reverse(), PAIRS),
  commands('writes offloads the other way round', ['legacy.68'], CTRL.OFFLOADS, (data) => void data.reverse()),
  {
    name: 'takes the first reading of its configuration',
    breaks: ['legacy.7'],
    scenario: 'driver/legacy-torn-configuration',
    fault: () => {
      const first = new Map<number, number>();
      return {
        readPort: ({ offset, value }) => {
          if (offset < CONFIG) return value;
          if (!first.has(offset)) first.set(offset, value);
          return first.get(offset) as number;
        },
      };
    },
  },
  found(
    'minds the length of an answered command',
    ['legacy.58'],
    'control',
    (answer, lengthAt, stage) => (u16(stage, lengthAt) !== 1 ? answer.fill(1) : undefined),
    'driver/legacy-odd-lengths',
  ),
  // ---- descriptors without ANY_LAYOUT ----
  descriptors(
    'puts part of the frame behind the header',
    ['legacy.69'],
    1,
    (stage, descriptor, { setup }) => {
      const at = nth(stage, setup.desc, descriptor, 0);
      put32(stage, at + 8, u32(stage, at + 8) + 2);
    },
    CUT,
  ),
  pieces('adds to class and command', ['legacy.70'], 0, (length) => length + 2),
  pieces('pads the data of commands', ['legacy.71'], 1, (length) => length + 3, CTRL.RX),
  pieces('pads its tables', ['legacy.72'], 1, (length) => length + 2, CTRL.MAC),
  pieces('has room for more than an ack', ['legacy.75'], -1, (length) => length + 3),
  contents(
    'lists groups first, and stations second',
    ['legacy.73', 'legacy.74'],
    'control',
    (all) => {
      // One station, two groups: class and command, then count and addresses of each list.
      if (all[0] !== CTRL.MAC || all.length !== 2 + 10 + 16) return;
      for (const at of [6, 16, 22]) all[at] = (all[at] as number) ^ 1;
    },
    CUT,
  ),
  {
    name: 'drives a device without virtio capabilities',
    breaks: ['legacy.52', 'legacy.53'],
    scenario: 'driver/no-capabilities',
    fault: () => ({
      write: ({ address, size, value }, forward, stage) => {
        stage.provocation.config.delete(PCI.CAPABILITIES);
        forward(address, size, value);
      },
    }),
  },
];
