// Drivers that do one thing wrong: what becomes of their accesses, and of what they put into memory, on the way to the watch; or of what the device did, on the way to them.

import type { Role } from '#conformance/driver/judge';
import type { Place } from '#conformance/driver/pci-places';
import type { RingWatch } from '#conformance/driver/ring-watch';
import type { DriverSideBus, Stage } from '#conformance/driver/stage';
import type { Chain } from '#conformance/driver/view';
import { CFG_TYPE, type CommonField } from '#conformance/layout';

type AccessSize = 1 | 2 | 4;
export interface Access {
  readonly address: number;
  readonly size: AccessSize;
  readonly value: number;
  readonly place: Place | undefined;
  readonly field: CommonField | undefined;
}
export interface PortAccess {
  readonly offset: number;
  readonly size: AccessSize;
  readonly value: number;
}
export type Forward = (address: number, size: AccessSize, value: number) => void;

/** Absent: nothing is changed. */
export interface DriverFault {
  readonly write?: (access: Access, forward: Forward, stage: Stage) => void;
  /** What the driver sees of a value that was read. */
  readonly read?: (place: Place, value: number, stage: Stage) => number;
  /** A store to the I/O BAR, by its offset there. */
  readonly writePort?: (access: PortAccess, forward: Forward, stage: Stage) => void;
  /** What the driver sees of a load from it. */
  readonly readPort?: (access: PortAccess, stage: Stage) => number;
  /** Before a ring is looked at: what the driver wrote there. */
  readonly look?: (queue: number, ring: RingWatch, stage: Stage) => void;
  /** Before a buffer is judged: what the driver wrote into it. */
  readonly chain?: (role: Role | undefined, chain: Chain, stage: Stage) => void;
  /** What the driver will find in a buffer that came back. */
  readonly used?: (role: Role | undefined, chain: Chain, lengthAt: number, stage: Stage) => void;
  readonly before?: (stage: Stage) => void;
  readonly quiet?: (stage: Stage) => void;
}

export interface DriverMutation {
  readonly name: string;
  readonly breaks: readonly string[];
  readonly scenario: string;
  /** Default: each the scenario runs over. */
  readonly ring?: 'split' | 'packed';
  readonly fault: () => DriverFault;
}

export function faultyBus(stage: Stage, fault: DriverFault): DriverSideBus {
  const { watched } = stage;
  const { rings } = watched;
  rings.onLook = (queue, ring) => fault.look?.(queue, ring, stage);
  rings.onChain = (_queue, role, chain) => fault.chain?.(role, chain, stage);
  rings.onUsed.push((_queue, role, chain, lengthAt) => fault.used?.(role, chain, lengthAt, stage));
  const forward: Forward = (address, size, value) => watched.mmioWrite(address, size, value);
  return new Proxy<DriverSideBus>(watched, {
    get(target, name) {
      if (name === 'mmioWrite')
        return (address: number, size: AccessSize, value: number) => {
          const place = watched.placeAt(address);
          if (fault.write) fault.write({ address, size, value, place, field: place?.field }, forward, stage);
          else forward(address, size, value);
        };
      if (name === 'mmioRead')
        return (address: number, size: AccessSize) => {
          const value = watched.mmioRead(address, size);
          const place = fault.read && watched.placeAt(address);
          return place && fault.read ? fault.read(place, value, stage) >>> 0 : value;
        };
      if (name === 'ioWrite')
        return (port: number, size: AccessSize, value: number) => {
          const offset = watched.portOffset(port);
          if (offset < 0 || !fault.writePort) watched.ioWrite(port, size, value);
          else fault.writePort({ offset, size, value }, (at, width, changed) => watched.ioWrite(port - offset + at, width, changed), stage);
        };
      if (name === 'ioRead')
        return (port: number, size: AccessSize) => {
          const value = watched.ioRead(port, size);
          const offset = watched.portOffset(port);
          return offset >= 0 && fault.readPort ? fault.readPort({ offset, size, value }, stage) >>> 0 : value;
        };
      if (name === 'before') return () => fault.before?.(stage);
      if (name === 'quiet')
        return () => {
          fault.quiet?.(stage);
          watched.quiet();
        };
      const member = Reflect.get(target, name, target);
      return typeof member === 'function' ? member.bind(target) : member;
    },
  });
}

// ---- the usual ways to be wrong ----

const TRAFFIC = 'driver/traffic';

/** Writes to this field are replaced by what `act` forwards; others pass. */
export const at = (
  name: string,
  breaks: readonly string[],
  field: CommonField,
  act: (access: Access, forward: Forward, stage: Stage) => void,
  scenario = TRAFFIC,
): DriverMutation => ({
  name,
  breaks,
  scenario,
  fault: () => ({
    write: (access, forward, stage) => {
      if (access.field === field) act(access, forward, stage);
      else forward(access.address, access.size, access.value);
    },
  }),
});

/** Another value is written; undefined: none. */
export const writes = (
  name: string,
  breaks: readonly string[],
  field: CommonField,
  change: (value: number) => number | undefined,
  scenario = TRAFFIC,
): DriverMutation =>
  at(
    name,
    breaks,
    field,
    ({ address, size, value }, forward) => {
      const changed = change(value);
      if (changed !== undefined) forward(address, size, changed);
    },
    scenario,
  );

export const common = (stage: Stage): number => stage.watched.addressOf(CFG_TYPE.COMMON).structure;
export const notify = (stage: Stage): number => stage.watched.addressOf(CFG_TYPE.NOTIFY).structure;

/** Does something else as well when it writes this to the status; before it, with `first`. */
export const besides = (
  name: string,
  breaks: readonly string[],
  when: number,
  act: (stage: Stage, forward: Forward) => void,
  scenario = TRAFFIC,
): DriverMutation =>
  at(
    name,
    breaks,
    'device_status',
    ({ address, size, value }, forward, stage) => {
      forward(address, size, value);
      if (value === when) act(stage, forward);
    },
    scenario,
  );

export const notifications = (
  name: string,
  breaks: readonly string[],
  act: (access: Access, forward: Forward, stage: Stage) => void,
  scenario = TRAFFIC,
  ring?: 'split' | 'packed',
): DriverMutation => ({
  name,
  breaks,
  scenario,
  ...(ring && { ring }),
  fault: () => ({
    write: (access, forward, stage) => {
      if (access.place?.type === CFG_TYPE.NOTIFY) act(access, forward, stage);
      else forward(access.address, access.size, access.value);
    },
  }),
});

/** Leaves a feature out, or takes one, of window `bit >> 5`. */
export const features = (
  name: string,
  breaks: readonly string[],
  change: { readonly refuse?: number; readonly accept?: number },
  scenario = TRAFFIC,
  ring?: 'split' | 'packed',
): DriverMutation => ({
  name,
  breaks,
  scenario,
  ...(ring && { ring }),
  fault: () => {
    let window = 0;
    const word = (bit: number | undefined): number => (bit !== undefined && bit >>> 5 === window ? 1 << (bit & 31) : 0);
    return {
      write: ({ address, size, value, field }, forward) => {
        if (field === 'driver_feature_select') window = value;
        forward(address, size, field === 'driver_feature' ? ((value | word(change.accept)) & ~word(change.refuse)) >>> 0 : value);
      },
    };
  },
});

/** Sets FAILED where it should set DRIVER_OK. */
export const givesUp = (scenario: string, breaks: readonly string[]): DriverMutation =>
  writes(`gives up in ${scenario}`, breaks, 'device_status', (value) => ((value & 4) !== 0 ? value | 0x80 : value), scenario);

/** Does not hear of anything. */
export const deaf = (scenario: string, breaks: readonly string[]): DriverMutation => ({
  name: `takes no interrupts in ${scenario}`,
  breaks,
  scenario,
  fault: () => ({
    before: (stage) => {
      for (let n = 0; n < 256 && stage.watched.vectors.take() >= 0; n++);
    },
  }),
});

// ---- memory ----

export function bytes(stage: Stage, address: number, length: number): Uint8Array {
  const found = stage.watched.rings.memory.view.bytes(address, length);
  if (found === undefined) throw new RangeError(`no memory at ${address}`);
  return found;
}

export const u16 = (stage: Stage, address: number): number => stage.watched.rings.memory.u16(address);
export const u32 = (stage: Stage, address: number): number => stage.watched.rings.memory.u32(address);
export const put16 = (stage: Stage, address: number, value: number): void => bytes(stage, address, 2).set([value & 0xff, (value >>> 8) & 0xff]);
export const put32 = (stage: Stage, address: number, value: number): void =>
  bytes(stage, address, 4).set([value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24]);

export const FLAGS = { NEXT: 1, WRITE: 2, INDIRECT: 4, AVAIL: 0x80, USED: 0x8000 } as const;

/** Descriptors at which buffers begin that the watch has not seen yet, and where their flags are. */
function fresh(stage: Stage, ring: RingWatch): number[] {
  const { desc, driver, size } = ring.setup;
  if (stage.ring === 'packed') {
    const flags = u16(stage, desc + 16 * ring.next + 14);
    return ((flags & FLAGS.AVAIL) !== 0) !== ((flags & FLAGS.USED) !== 0) && ring.inFlight < size ? [desc + 16 * ring.next] : [];
  }
  const added = (u16(stage, driver + 2) - ring.next) & 0xffff;
  return Array.from({ length: Math.min(added, size) }, (_, i) => desc + 16 * u16(stage, driver + 4 + 2 * ((ring.next + i) % size)));
}

export const flagsAt = (stage: Stage, descriptor: number): number => descriptor + (stage.ring === 'packed' ? 14 : 12);

/** Changes each descriptor at which a new buffer of this queue begins. */
export const descriptors = (
  name: string,
  breaks: readonly string[],
  queue: number,
  change: (stage: Stage, descriptor: number, ring: RingWatch) => void,
  scenario = TRAFFIC,
  ring?: 'split' | 'packed',
): DriverMutation => ({
  name,
  breaks,
  scenario,
  ...(ring && { ring }),
  fault: () => ({
    look: (looked, watch, stage) => {
      if (looked === queue && stage.running) for (const descriptor of fresh(stage, watch)) change(stage, descriptor, watch);
    },
  }),
});

/** Changes the ring as it lies there, once buffers are in flight. */
export const ringed = (
  name: string,
  breaks: readonly string[],
  queue: number,
  change: (stage: Stage, ring: RingWatch) => void,
  scenario = TRAFFIC,
  ring?: 'split' | 'packed',
): DriverMutation => ({
  name,
  breaks,
  scenario,
  ...(ring && { ring }),
  fault: () => ({
    look: (looked, watch, stage) => {
      if (looked === queue && watch.inFlight > 0) change(stage, watch);
    },
  }),
});

/** Changes the bytes of the first piece of each buffer of this kind: a header with its frame, or a command. */
export const buffers = (
  name: string,
  breaks: readonly string[],
  role: Role,
  change: (first: Uint8Array, stage: Stage) => void,
  scenario = TRAFFIC,
  ring?: 'split' | 'packed',
): DriverMutation => ({
  name,
  breaks,
  scenario,
  ...(ring && { ring }),
  fault: () => ({
    chain: (whose, { pieces }, stage) => {
      const [first] = pieces;
      if (whose === role && first && !first.writable) change(bytes(stage, first.address, first.length), stage);
    },
  }),
});

/** Changes what the driver finds in buffers that come back. */
export const found = (
  name: string,
  breaks: readonly string[],
  role: Role,
  change: (first: Uint8Array, lengthAt: number, stage: Stage) => void,
  scenario: string,
): DriverMutation => ({
  name,
  breaks,
  scenario,
  fault: () => ({
    used: (whose, { pieces }, lengthAt, stage) => {
      const first = pieces.find(({ writable }) => writable);
      if (whose === role && first) change(bytes(stage, first.address, first.length), lengthAt, stage);
    },
  }),
});

export const sees = (name: string, breaks: readonly string[], scenario: string, read: (place: Place, value: number) => number): DriverMutation => ({
  name,
  breaks,
  scenario,
  fault: () => ({ read }),
});
