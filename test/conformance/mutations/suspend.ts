// Faults of a device that is suspended, and of its statistics.

import { type Fault, type Mutation, mutation } from '../mutant.ts';

const STATS = 8;

/** Answers of STATS commands, ack first, as the suite sees them. */
const answers =
  (change: (bytes: Uint8Array) => void): (() => Fault) =>
  () => {
    let asked = -1;
    let at = -1;
    return {
      memoryWrite(m, address, bytes) {
        if (m.spot(address)) return bytes;
        if (bytes.length === 2) asked = bytes[0] as number;
        else if (bytes.length > 0 && bytes.every((byte) => byte === 0xff)) at = address;
        return bytes;
      },
      memoryRead(_m, address, bytes) {
        if (address === at && asked === STATS) change(bytes);
        return bytes;
      },
    };
  };

const status = (change: (value: number) => number | undefined): Fault => ({
  barWrite: (_m, place, value) => (place.field === 'device_status' ? change(value) : value),
});

export const SUSPEND_MUTATIONS: readonly Mutation[] = [
  mutation('SUSPEND shows before initialisation', ['suspend.7'], () => {
    let written = 0;
    return {
      barWrite(_m, place, value) {
        if (place.field === 'device_status') written = value;
        return value;
      },
      barRead: (_m, place, value) => (place.field === 'device_status' ? value | (written & 16) : value),
    };
  }),
  mutation(
    'SUSPEND does nothing',
    ['suspend.12', 'suspend.D1'],
    status((value) => value & ~16),
  ),
  mutation(
    'DRIVER_OK does not resume',
    ['suspend.13', 'suspend.D1', 'suspend.11'],
    status((value) => ((value & 16) !== 0 && (value & 4) !== 0 ? value & ~4 : value)),
  ),
  mutation('says it is suspended and goes on', ['suspend.8', 'suspend.9', 'suspend.10', 'suspend.14'], () => {
    let pretends = false;
    return {
      barWrite(_m, place, value) {
        if (place.field !== 'device_status') return value;
        pretends = (value & 16) !== 0;
        return value & ~16;
      },
      barRead: (_m, place, value) => (place.field === 'device_status' && pretends && (value & 4) !== 0 ? (value & ~4) | 16 : value),
    };
  }),
  mutation('what was taken is not done', ['suspend.15'], {
    memoryRead(m, address, bytes) {
      const spot = m.spot(address);
      if (spot && !spot.packed && spot.area === 'device' && spot.offset === 2 && bytes.length === 2) bytes.fill(0);
      if (spot?.packed && spot.area === 'descriptors' && bytes.length === 16) bytes[14] = (bytes[14] as number) ^ 0x80;
      return bytes;
    },
  }),
  mutation('what was done is not told', ['suspend.16', 'suspend.11'], { messages: () => [] }),
  mutation(
    'statistics are refused',
    ['net-stats.1', 'net-stats.7'],
    answers((bytes) => void bytes.fill(1, 0, 1)),
  ),
  mutation(
    'statistics are never refused',
    ['net-stats.2', 'net-stats.3', 'net-stats.4', 'net-stats.5', 'net-stats.6'],
    answers((bytes) => void bytes.fill(0, 0, 1)),
  ),
  mutation(
    'headers of replies are empty',
    ['net-stats.7', 'net-stats.8'],
    answers((bytes) => {
      bytes.fill(0, 7, 9);
      bytes[1] = 9;
    }),
  ),
  mutation('replies are as long as their buffers', ['net-stats.9'], {
    memoryRead(m, address, bytes) {
      const spot = m.spot(address);
      if (spot && !spot.packed && spot.area === 'device' && bytes.length === 8) bytes[4] = 200;
      return bytes;
    },
  }),
  mutation(
    'counters stand still',
    ['net-stats.D1'],
    answers((bytes) => void bytes.fill(0, 9, 17)),
  ),
  mutation(
    'drops leave overruns out',
    ['net-stats.D2'],
    answers((bytes) => {
      if (bytes.length > 50) bytes[49] = 5;
    }),
  ),
];
