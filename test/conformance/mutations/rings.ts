// Faults of virtqueues: what is in the rings, what is taken from them, and when is notified.

import { type Fault, type Mutant, type Mutation, mutation, type RingSpot } from '../mutant.ts';

const get16 = (bytes: Uint8Array, at: number): number => (bytes[at] as number) | ((bytes[at + 1] as number) << 8);
const put16 = (bytes: Uint8Array, at: number, value: number): void => {
  bytes[at] = value & 0xff;
  bytes[at + 1] = (value >>> 8) & 0xff;
};
const put32 = (bytes: Uint8Array, at: number, value: number): void => {
  put16(bytes, at, value & 0xffff);
  put16(bytes, at + 2, value >>> 16);
};
const get32 = (bytes: Uint8Array, at: number): number => (get16(bytes, at) | (get16(bytes, at + 2) << 16)) >>> 0;

/** What the suite reads of a ring is otherwise. */
const ringRead = (change: (spot: RingSpot, bytes: Uint8Array, m: Mutant) => void): Fault => ({
  memoryRead(m, address, bytes) {
    const spot = m.spot(address);
    if (spot) change(spot, bytes, m);
    return bytes;
  },
});

/** What the suite writes to a ring arrives otherwise, or not at all. */
const ringWrite = (change: (spot: RingSpot, bytes: Uint8Array, m: Mutant) => Uint8Array | undefined): Fault => ({
  memoryWrite(m, address, bytes) {
    const spot = m.spot(address);
    return spot ? change(spot, bytes, m) : bytes;
  },
});

/** Alters id, length and flags of each used entry; packed: of each descriptor that shows as used. */
export const usedEntry = (change: (entry: { id: number; length: number; flags: number }, spot: RingSpot) => void): Fault =>
  ringRead((spot, bytes) => {
    if (!spot.packed) {
      if (spot.area !== 'device' || spot.offset < 4 || bytes.length !== 8) return;
      const entry = { id: get32(bytes, 0), length: get32(bytes, 4), flags: 0 };
      change(entry, spot);
      put32(bytes, 0, entry.id);
      put32(bytes, 4, entry.length);
      return;
    }
    if (spot.area !== 'descriptors' || bytes.length !== 16) return;
    const flags = get16(bytes, 14);
    if (((flags & 0x80) !== 0) !== ((flags & 0x8000) !== 0)) return;
    const entry = { id: get16(bytes, 12), length: get32(bytes, 8), flags };
    change(entry, spot);
    put16(bytes, 12, entry.id);
    put32(bytes, 8, entry.length);
    put16(bytes, 14, entry.flags);
  });

/** The used index does not move; packed: no descriptor shows as used. */
export const neverUsed = ringRead((spot, bytes) => {
  if (!spot.packed && spot.area === 'device' && spot.offset === 2 && bytes.length === 2) put16(bytes, 0, 0);
  if (spot.packed && spot.area === 'descriptors' && bytes.length === 16) put16(bytes, 14, get16(bytes, 14) ^ 0x80);
});

/** Descriptor flags as the suite writes them: 16 bytes at once, or (packed heads) two. */
const descriptorFlags = (change: (flags: number, spot: RingSpot, m: Mutant) => number): Fault =>
  ringWrite((spot, bytes, m) => {
    if (spot.area !== 'descriptors') return bytes;
    const at = spot.packed ? 14 : 12;
    if (bytes.length === 16) put16(bytes, at, change(get16(bytes, at), spot, m));
    else if (bytes.length === 2 && spot.offset % 16 === 14) put16(bytes, 0, change(get16(bytes, 0), spot, m));
    return bytes;
  });

/** Frames the device sends come out otherwise. */
const sent = (change: (frames: Uint8Array[], m: Mutant) => Uint8Array[]): Fault => ({ sent: (m, frames) => change(frames, m) });

const lost = sent(() => []);
const corrupt = sent((frames) =>
  frames.map((frame) => {
    frame[20] = (frame[20] as number) ^ 0xff;
    return frame;
  }),
);

export const RING_MUTATIONS: readonly Mutation[] = [
  mutation('frames are lost', ['split.45', 'split.17', 'split.44', 'packed.D1', 'notify.D4', 'notify.D3', 'packed.D23', 'split.43', 'packed.12', 'vq.2'], lost),
  mutation('frames come out damaged', ['vq.3', 'packed.19', 'split.13', 'split.14', 'split.46', 'packed.2', 'packed.D9', 'packed.D13', 'packed.D15'], corrupt),
  mutation(
    'frames come out in the wrong order',
    ['split.46', 'packed.2'],
    sent((frames) => [...frames].reverse()),
  ),
  mutation('a transmit buffer is written', ['split.2', 'packed.5'], {
    memoryRead(m, address, bytes) {
      if (m.spot(address) === undefined && bytes.length > 100) bytes[90] = (bytes[90] as number) ^ 1;
      return bytes;
    },
  }),
  mutation(
    'NEXT is not followed',
    ['vq.3', 'packed.25'],
    descriptorFlags((flags) => flags & ~1),
  ),
  mutation(
    'every used entry is of buffer 0',
    ['vq.2', 'split.D6', 'split.D7', 'packed.D16', 'packed.D17', 'split.D3', 'packed.3', 'packed.D11'],
    usedEntry((entry) => {
      entry.id = 0;
    }),
  ),
  mutation(
    'the id of the first descriptor of a list',
    ['packed.D11', 'packed.3', 'packed.D14'],
    usedEntry((entry) => {
      entry.id = 0xdead;
    }),
  ),
  mutation(
    'nothing shows as used',
    ['packed.D6', 'packed.D10', 'packed.D12', 'packed.D2', 'packed.D3', 'packed.D5', 'split.19', 'split.51', 'packed.30', 'split.D4'],
    neverUsed,
  ),
  mutation(
    'used lengths are those of the buffers',
    ['split.D8', 'split.D5', 'packed.D8'],
    usedEntry((entry) => {
      entry.length = 2048;
    }),
  ),
  mutation(
    'used lengths are stale',
    ['split.27', 'split.28', 'split.D5', 'packed.D8'],
    usedEntry((entry) => {
      entry.length = 0;
    }),
  ),
  mutation(
    'used WRITE flag the wrong way round',
    ['packed.D7'],
    usedEntry((entry) => {
      entry.flags ^= 2;
    }),
  ),
  mutation('data comes later than the index', ['split.28'], {
    memoryRead: (m, address, bytes) => (m.spot(address) === undefined && bytes.length > 60 ? bytes.fill(0xa5, 12) : bytes),
  }),
  mutation(
    'one buffer an index update',
    ['split.44', 'split.D3', 'split.46'],
    ringWrite((spot, bytes, m) => {
      if (spot.packed || spot.area !== 'driver' || spot.offset !== 2 || spot.queue % 2 === 0) return bytes;
      m.memo.index = (m.memo.index ?? 0) + 1;
      put16(bytes, 0, m.memo.index);
      return bytes;
    }),
  ),
  mutation('a kick without buffers sends again', ['split.43', 'packed.12', 'notify.D3'], () => {
    let last: Uint8Array | undefined;
    let kicks = 0;
    return {
      barWrite(_m, place, value) {
        if (place.structure === 'notify') kicks++;
        return value;
      },
      sent(_m, frames) {
        const more = kicks > frames.length ? [last ?? new Uint8Array(60)] : [];
        last = frames.at(-1) ?? last;
        kicks = 0;
        return [...frames, ...more];
      },
    };
  }),
  mutation('suppression is ignored', ['split.22', 'packed.D19', 'split.26', 'packed.D21'], {
    messages: (m, numbers) => (numbers.length === 0 && m.memo.ran !== undefined ? [2] : numbers),
    sent(m, frames) {
      if (frames.length > 0) m.memo.ran = 1;
      return frames;
    },
  }),
  mutation('no used-buffer messages', ['split.23', 'split.51', 'packed.30', 'packed.D20', 'packed.D21', 'split.25', 'split.24', 'split.21'], {
    messages: () => [],
  }),
  mutation('used_event counts without EVENT_IDX', ['split.21'], {
    memoryWrite(m, address, bytes) {
      const spot = m.spot(address);
      if (spot?.area === 'driver' && !spot.packed && spot.offset === 4 + 2 * spot.size && get16(bytes, 0) !== 0) m.memo.event = 1;
      return bytes;
    },
    messages: (m, numbers) => (m.memo.event === 1 ? [] : numbers),
  }),
  mutation('avail.flags counts with EVENT_IDX', ['split.24'], {
    memoryWrite(m, address, bytes) {
      const spot = m.spot(address);
      if (spot?.area === 'driver' && spot.offset === 0) m.memo.flags = get16(bytes, 0);
      return bytes;
    },
    messages: (m, numbers) => (m.memo.flags === 1 ? [] : numbers),
  }),
  mutation(
    'used.flags in use with EVENT_IDX',
    ['split.41'],
    ringRead((spot, bytes) => {
      if (spot.area === 'device' && spot.offset === 0 && bytes.length === 2) put16(bytes, 0, 1);
    }),
  ),
  mutation(
    'used.flags with other bits',
    ['split.39'],
    ringRead((spot, bytes) => {
      if (spot.area === 'device' && spot.offset === 0 && bytes.length === 2) put16(bytes, 0, 0x8000);
    }),
  ),
  mutation('indices of 15 bits', ['split.D2', 'split.D4'], {
    ...ringWrite((spot, bytes) => {
      if (!spot.packed && spot.area === 'driver' && spot.offset === 2 && (get16(bytes, 0) & 0x8000) !== 0) return undefined;
      return bytes;
    }),
  }),
  mutation(
    'descriptors are looked at before they are available',
    ['packed.7'],
    ringRead((spot, bytes, m) => {
      if (spot.area === 'descriptors' && bytes.length === 48) bytes[40] = m.memo.looked = (m.memo.looked ?? 0) + 1;
    }),
  ),
  mutation('descriptor tables are written', ['split.5'], () => {
    const seen = new Map<number, number>();
    return {
      memoryRead(m, address, bytes) {
        if (m.spot(address)?.area !== 'descriptors' || bytes.length <= 48) return bytes;
        const times = (seen.get(address) ?? 0) + 1;
        seen.set(address, times);
        if (times > 1) bytes[8] = 1 ^ (bytes[8] as number);
        return bytes;
      },
    };
  }),
  mutation('a used descriptor is written again', ['packed.8'], () => {
    let reads = 0;
    return ringRead((spot, bytes) => {
      if (spot.area === 'descriptors' && spot.queue === 1 && spot.offset === 0 && bytes.length === 16 && reads++ >= 2) bytes[8] = 0x55;
    });
  }),
  mutation(
    'the wrap counter does not count',
    ['packed.D4'],
    ringWrite((spot, bytes) => {
      if (spot.packed && spot.area === 'descriptors' && spot.queue === 1 && bytes.length === 16 && spot.offset === 0 && get16(bytes, 14) === 0x80)
        put16(bytes, 14, 0x8000);
      return bytes;
    }),
  ),
  mutation(
    'WRITE on a table descriptor counts',
    ['split.13', 'packed.D15'],
    descriptorFlags((flags) => ((flags & 6) === 6 ? flags & ~4 : flags)),
  ),
  mutation(
    'a table only as the first descriptor',
    ['split.14'],
    descriptorFlags((flags, spot, m) => {
      const after = m.memo.next === 1;
      m.memo.next = !spot.packed && (flags & 1) !== 0 ? 1 : 0;
      return after ? flags & ~4 : flags;
    }),
  ),
  mutation(
    'device event flags 3',
    ['packed.D22'],
    ringRead((spot, bytes) => {
      if (spot.packed && spot.area === 'device' && spot.offset === 2) put16(bytes, 0, 3);
    }),
  ),
  mutation('packed sizes are rounded up', ['packed.D23'], { barWrite: (_m, place, value) => (place.field === 'queue_size' && value === 7 ? 8 : value) }),
  mutation(
    'of merged buffers the first one shows alone',
    ['packed.D18'],
    ringRead((spot, bytes) => {
      if (spot.packed && spot.area === 'descriptors' && spot.queue === 0 && spot.offset > 0 && bytes.length === 16) put16(bytes, 14, get16(bytes, 14) ^ 0x80);
    }),
  ),
  mutation('only the first doorbell rings', ['notify.D4'], {
    barWrite: (_m, place, value) => (place.structure === 'notify' && place.offset > 0 ? undefined : value),
  }),
];
