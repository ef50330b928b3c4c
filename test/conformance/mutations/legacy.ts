// Faults of the legacy interface: BAR 0 is its register block.

import { LEGACY, type LegacyField } from '#conformance/legacy-bench';
import { type Fault, type Mutation, mutation, type Place } from '../mutant.ts';

const config = (at: number, change: (value: number) => number): Fault => ({
  configRead: (_m, offset, _size, value) => (offset === at ? change(value) : value),
});

const isField = (place: Place, field: LegacyField): boolean =>
  place.structure === 'other' && place.bar === 0 && place.offset === LEGACY[field][0] && place.size === LEGACY[field][1];

const reads = (field: LegacyField, change: (value: number) => number): Fault => ({
  barRead: (_m, place, value) => (isField(place, field) ? change(value) : value),
});

/** From 20 on, MSI-X off. */
const deviceReads = (change: (value: number, at: number, size: number) => number): Fault => ({
  barRead: (_m, place, value) => (place.structure === 'other' && place.bar === 0 && place.offset >= 20 ? change(value, place.offset - 20, place.size) : value),
});

/** Data of a control command in the other byte order: a run of one, two or four bytes, and what follows. */
const swapped =
  (group: number, widths: readonly number[]): (() => Fault) =>
  () => {
    let asked = -1;
    return {
      memoryWrite(m, address, bytes) {
        if (m.spot(address)) return bytes;
        const out = bytes.slice();
        if (asked === group && bytes.length > 1) {
          let at = 0;
          for (const width of widths) {
            if (width > 0) out.set(bytes.slice(at, at + width).reverse(), at);
            at += Math.abs(width);
          }
        }
        asked = bytes.length === 2 && asked < 0 ? (bytes[0] as number) : -1;
        return out;
      },
    };
  };

export const LEGACY_MUTATIONS: readonly Mutation[] = [
  mutation(
    'revision 1 of a transitional device',
    ['legacy.37'],
    config(8, () => 1),
  ),
  mutation(
    'the subsystem id of something else',
    ['legacy.38'],
    config(0x2e, () => 2),
  ),
  mutation(
    'a modern device id beside revision 0',
    ['legacy.39'],
    config(2, () => 0x1041),
  ),
  mutation(
    'the legacy interface in memory space',
    ['legacy.40', 'legacy.49'],
    config(0x10, (value) => value & ~3),
  ),
  mutation(
    'no ANY_LAYOUT',
    ['legacy.13'],
    reads('device_features', (value) => value & ~(1 << 27)),
  ),
  mutation('bit 30 negotiated', ['legacy.15'], {
    barRead: (_m, place, value) => (isField(place, 'driver_features') || isField(place, 'device_features') ? value | (1 << 30) : value),
  }),
  mutation(
    'driver features cannot be read',
    ['legacy.D1'],
    reads('driver_features', () => 0),
  ),
  mutation(
    'the ISR is not cleared',
    ['legacy.D1'],
    reads('isr', () => 1),
  ),
  mutation('queue_address is one for all queues', ['legacy.D2'], () => {
    let last = 0;
    return {
      barWrite(_m, place, value) {
        if (isField(place, 'queue_address')) last = value;
        return value;
      },
      barRead: (_m, place, value) => (isField(place, 'queue_address') ? last : value),
    };
  }),
  mutation(
    'four bytes of configuration come in the other order',
    ['legacy.42', 'legacy.43'],
    deviceReads((value, _at, size) => (size === 4 ? ((value << 16) | (value >>> 16)) >>> 0 : value)),
  ),
  mutation(
    'vectors are not kept',
    ['legacy.45'],
    reads('config_vector', () => 0xffff),
  ),
  mutation(
    'status in the other byte order',
    ['legacy.54'],
    deviceReads((value, at) => (at === 6 ? ((value & 0xff) << 8) | (value >>> 8) : value)),
  ),
  mutation('mac cannot be written', ['legacy.9', 'legacy.61', 'legacy.62', 'legacy.D3'], {
    barWrite: (_m, place, value) => (place.structure === 'other' && place.bar === 0 && place.offset >= 20 && place.size === 1 ? undefined : value),
  }),
  mutation('two bytes of each frame are taken for header', ['legacy.2', 'legacy.33', 'legacy.35', 'legacy.D4'], {
    sent: (_m, frames) => frames.map((frame) => frame.slice(2)),
  }),
  mutation('frames that come in are damaged', ['legacy.46', 'legacy.10', 'legacy.D4'], {
    send(_m, frame, offload) {
      frame[20] = (frame[20] as number) ^ 0xff;
      return [frame, offload];
    },
  }),
  mutation('checksums are left as they were', ['legacy.56'], {
    sent: (_m, frames) =>
      frames.map((frame) => {
        frame[41] = (frame[41] as number) ^ 0xff;
        return frame;
      }),
  }),
  mutation('sizes of tables in the other byte order', ['legacy.59'], swapped(1, [4])),
  mutation('VLAN ids in the other byte order', ['legacy.63'], swapped(2, [2])),
  mutation('pairs in the other byte order', ['legacy.65'], swapped(4, [2])),
  mutation('offloads in the other byte order', ['legacy.67'], swapped(5, [8])),
];
