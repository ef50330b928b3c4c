// Faults of a network device: configuration, frames and their headers, control commands and what they do.

import { type Fault, type Mutant, type Mutation, mutation } from '../mutant.ts';
import { without } from './pci.ts';

const FILL = 0xa5;
const ANSWER = 0xff;

/** A byte, half-word or word of the device configuration reads otherwise. */
const config = (offset: number, change: (value: number, m: Mutant) => number): Fault => ({
  barRead: (m, place, value) => (place.structure === 'device' && place.offset === offset ? change(value, m) : value),
});

/** Receive buffers, from their start: where header and frame lie unless the frame began in the buffer before. */
const received = (change: (bytes: Uint8Array, m: Mutant) => void): (() => Fault) => {
  return () => {
    const buffers = new Set<number>();
    return {
      memoryWrite(_m, address, bytes) {
        if (bytes.length > 0 && bytes.every((byte) => byte === FILL)) buffers.add(address);
        return bytes;
      },
      memoryRead(m, address, bytes) {
        if (buffers.has(address) && bytes.length >= 12) change(bytes, m);
        return bytes;
      },
    };
  };
};

/** What is written into transmit buffers, header first. */
const transmitted = (change: (bytes: Uint8Array, m: Mutant) => 'lost' | undefined): (() => Fault) => {
  return () => ({
    memoryWrite(m, address, bytes) {
      if (m.spot(address) === undefined && bytes.length > 40 && bytes.some((byte) => byte !== bytes[0]) && change(bytes, m) === 'lost') m.memo.lost = 1;
      return bytes;
    },
    sent(m, frames) {
      const lost = m.memo.lost === 1;
      m.memo.lost = 0;
      return lost ? [] : frames;
    },
  });
};

interface Control {
  /** Another command, or another content, arrives. */
  command?(group: number, command: number, data: Uint8Array, m: Mutant): readonly [group: number, command: number, data: Uint8Array];
  /** The answer, ack first, as the suite sees it. */
  answer?(group: number, command: number, bytes: Uint8Array, data: Uint8Array): void;
}

/** Control commands as the bench writes them: class and command, then the data, then room for the answer. */
const control =
  ({ command, answer }: Control): (() => Fault) =>
  () => {
    let asked: readonly [number, number] = [-1, -1];
    let head = -1;
    let data = new Uint8Array(0);
    let at = -1;
    let next: 'head' | 'data' | 'answer' = 'head';
    /** What arrives in place of the command: its head has been written already. */
    const change = (m: Mutant): Uint8Array => {
      const [group, number, content] = command?.(asked[0], asked[1], data.slice(), m) ?? [...asked, data];
      if (group !== asked[0] || number !== asked[1]) void m.inner.memoryWrite(head, Uint8Array.of(group, number));
      return content;
    };
    return {
      memoryWrite(m, address, bytes) {
        if (m.spot(address)) return bytes;
        const room = bytes.length > 0 && bytes.every((byte) => byte === ANSWER);
        if (room) {
          if (next === 'data') change(m);
          at = address;
          next = 'head';
        } else if (next === 'data') {
          data = bytes.slice();
          next = 'answer';
          return change(m);
        } else if (next === 'head' && bytes.length === 2) {
          asked = [bytes[0] as number, bytes[1] as number];
          head = address;
          data = new Uint8Array(0);
          next = 'data';
        }
        return bytes;
      },
      memoryRead(_m, address, bytes) {
        if (address === at && asked[0] >= 0) answer?.(asked[0], asked[1], bytes, data);
        return bytes;
      },
    };
  };

const refuses = (group: number, number?: number, only: (data: Uint8Array) => boolean = () => true): (() => Fault) =>
  control({
    answer(asked, command, bytes, data) {
      if (asked === group && (number === undefined || command === number) && only(data)) bytes[0] = 1;
    },
  });

/** Says OK and does nothing. The device is sent a class it does not know. */
const ignores = (group: number, number: number, only: (data: Uint8Array) => boolean = () => true): (() => Fault) =>
  control({
    command: (asked, command, data) => [asked === group && command === number && only(data) ? 200 : asked, command, data],
    answer(asked, command, bytes, data) {
      if (asked === group && command === number && only(data)) bytes[0] = 0;
    },
  });

const agrees = control({
  answer(_group, _command, bytes) {
    bytes[0] = 0;
  },
});

/** Content of a command is otherwise. */
const alters = (group: number, number: number, change: (data: Uint8Array, m: Mutant) => Uint8Array): (() => Fault) =>
  control({
    command: (asked, command, data, m) => [asked, command, asked === group && command === number && data.length > 0 ? change(data.slice(), m) : data],
  });

const results = (group: number, number: number, change: (bytes: Uint8Array) => void): (() => Fault) =>
  control({
    answer(asked, command, bytes) {
      if (asked === group && command === number) change(bytes);
    },
  });

const set =
  (at: number, value: number): ((data: Uint8Array) => Uint8Array) =>
  (data) => {
    data[at] = value;
    return data;
  };
const flip =
  (at: number, mask = 0xff): ((bytes: Uint8Array) => void) =>
  (bytes) => {
    if (at < bytes.length) bytes[at] = (bytes[at] as number) ^ mask;
  };

const byte =
  (at: number, change: (value: number) => number): ((bytes: Uint8Array) => void) =>
  (bytes) => {
    if (at < bytes.length) bytes[at] = change(bytes[at] as number);
  };

const frameAt = 12;
const long = (bytes: Uint8Array): boolean => bytes.length > 60;
const isBroadcast = (frame: Uint8Array): boolean => frame.subarray(0, 6).every((byte) => byte === 0xff);
const isTagged = (frame: Uint8Array): boolean => frame[12] === 0x81 && frame[13] === 0;
const untag = (frame: Uint8Array): Uint8Array => Uint8Array.from([...frame.subarray(0, 12), ...frame.subarray(16)]);
const RX = 0;
const MAC = 1;
const VLAN = 2;
const MQ = 4;
const OFFLOADS = 5;
const COAL = 6;
const TUNNEL = 7;
const CONTEXT = 9;
const on = (data: Uint8Array): boolean => data[0] === 1;

/** Frames that were put on the wire while a queue was under reset come once it is enabled again. */
const held = (): Fault => {
  let kept: Uint8Array | undefined;
  let resetting = false;
  return {
    barWrite(_m, place, value) {
      if (place.field === 'queue_reset') resetting = true;
      if (place.field === 'queue_enable') resetting = false;
      return value;
    },
    send(_m, frame, offload) {
      if (resetting) kept = frame;
      return [frame, offload];
    },
    async settled(m) {
      if (resetting || kept === undefined || !m.queues.has(0)) return;
      const frame = kept;
      kept = undefined;
      await m.inner.send(frame);
      await m.inner.settle();
    },
  };
};

const corrupt: Fault = {
  sent: (_m, frames) =>
    frames.map((frame) => {
      flip(24)(frame);
      flip(frame.length - 1)(frame);
      return frame;
    }),
};
const loseFrames = (each: number) => (): Fault => {
  let count = 0;
  return { send: (_m, frame, offload) => (++count % each === 0 ? undefined : [frame, offload]) };
};

const word = (bytes: Uint8Array, at: number): number => (bytes[at] as number) | ((bytes[at + 1] as number) << 8);

export const NET_MUTATIONS: readonly Mutation[] = [
  // configuration
  mutation(
    'no queue pairs',
    ['net.1'],
    config(8, () => 0),
  ),
  mutation(
    'mtu 60',
    ['net.2', 'net.3'],
    config(10, () => 60),
  ),
  mutation('mtu falls', ['net.4'], () => {
    let reads = 0;
    return config(10, (value) => value - reads++);
  }),
  mutation('long frames are cut and delivered', ['net.5'], { send: (_m, frame, offload) => [frame.subarray(0, 1514), offload] }),
  mutation('frames of the full mtu are cut', ['net.6'], { sent: (_m, frames) => frames.map((frame) => frame.subarray(0, 1500)) }),
  mutation(
    'speed with bit 31',
    ['net.8'],
    config(12, () => 0x8000_0000),
  ),
  mutation(
    'duplex 7',
    ['net.9'],
    config(16, () => 7),
  ),
  mutation('speed wanders', ['net.10'], () => {
    let reads = 0;
    return config(12, (value) => value + reads++);
  }),
  mutation(
    'every command is refused',
    ['net.D1', 'net-mq.5', 'net-hash.3', 'net-hash.4', 'net-hash.5', 'net-hash.12', 'net-ctrl.D1', 'vq.3', 'net-rss.D3', 'net-rss.D4', 'net-coal.5'],
    control({
      answer(_group, _command, bytes) {
        bytes[0] = 1;
      },
    }),
  ),
  mutation('a control queue without CTRL_VQ', ['net.D2'], { barRead: (_m, place, value) => (place.field === 'queue_size' ? value || 64 : value) }),
  mutation(
    'mac of a group',
    ['net.D3'],
    config(0, (value) => value | 1),
  ),
  mutation('configuration can be written', ['net.D4'], () => {
    const written = new Map<number, number>();
    return {
      barWrite(_m, place, value) {
        if (place.structure === 'device') written.set(place.offset, value);
        return value;
      },
      barRead: (_m, place, value) => (place.structure === 'device' ? (written.get(place.offset) ?? value) : value),
    };
  }),
  mutation(
    'frames lie elsewhere behind the header',
    ['net.D5', 'net-rx.7', 'net-rx.13'],
    received((bytes) => void bytes.copyWithin(20, 16)),
  ),

  // transmission
  mutation(
    'frames go out damaged',
    [
      'net-tx.1',
      'net-tx.8',
      'net-tx.9',
      'net-tx.11',
      'net-tx.13',
      'net-tx.15',
      'net-tx.19',
      'net-tx.30',
      'net-tx.39',
      'net-tx.41',
      'net-tx.50',
      'net-tx.51',
      'net-tx.52',
      'net-tx.53',
      'net-tx.54',
      'net-tx.55',
      'net-tx.56',
      'net-tx.58',
      'net-tx.63',
      'net-rss.D2',
    ],
    corrupt,
  ),
  mutation(
    'checksums are not filled in',
    ['net-tx.30'],
    transmitted((bytes) => {
      bytes[0] = (bytes[0] as number) & ~1;
      return undefined;
    }),
  ),
  mutation(
    'unknown flags refuse the frame',
    ['net-tx.50'],
    transmitted((bytes) => (((bytes[0] as number) & 0xf0) !== 0 && bytes[1] === 0 ? 'lost' : undefined)),
  ),
  mutation(
    'csum_start counts without NEEDS_CSUM',
    ['net-tx.51'],
    transmitted((bytes) => {
      if (word(bytes, 6) !== 0) bytes[0] = (bytes[0] as number) | 1;
      return undefined;
    }),
  ),
  mutation('wrong checksums are mended', ['net-tx.63'], {
    sent: (_m, frames) => frames.map((frame) => frame.map((byte, i) => (i === 40 && byte === 0x12 ? 0 : byte))),
  }),
  mutation(
    'hdr_len has to be exact',
    ['net-tx.55', 'net-tx.56'],
    transmitted((bytes) => (bytes[1] !== 0 && word(bytes, 2) !== 54 ? 'lost' : undefined)),
  ),
  mutation(
    'exact hdr_len is not believed',
    ['net-tx.54'],
    transmitted((bytes) => (bytes[1] !== 0 && word(bytes, 2) === 54 ? 'lost' : undefined)),
  ),
  mutation(
    'outer_nh_offset refuses the frame',
    ['net-tx.1', 'net-tx.8', 'net-tx.52'],
    transmitted((bytes) => (word(bytes, 24) === 14 ? 'lost' : undefined)),
  ),
  mutation(
    'outer_nh_offset 0 is an offset',
    ['net-tx.53'],
    transmitted((bytes) => (bytes[1] !== 0 && word(bytes, 24) === 0 ? 'lost' : undefined)),
  ),
  mutation(
    'tunnel offsets count without a tunnel',
    ['net-tx.58'],
    transmitted((bytes) => (((bytes[1] as number) & 0x60) === 0 && word(bytes, 20) !== 0 ? 'lost' : undefined)),
  ),
  mutation(
    'what makes no sense is sent as it is',
    ['net-tx.57', 'net-tx.59', 'net-tx.60', 'net-tx.61', 'net-tx.62'],
    transmitted((bytes) => {
      const [flags, type] = bytes as unknown as [number, number];
      const tunnel = type & 0x60;
      const wrong = tunnel === 0x60 || (tunnel !== 0 && ((flags & 1) === 0 || (flags & 2) !== 0 || (type & 0x1f) === 0)) || (tunnel === 0 && (flags & 8) !== 0);
      if (wrong) bytes.fill(0, 0, 12);
      return undefined;
    }),
  ),

  // reception: the header
  mutation(
    'num_buffers 0',
    ['net-rx.6', 'net-rx.11', 'net-rx.12'],
    received((bytes) => void bytes.fill(0, 10, 12)),
  ),
  mutation(
    'num_buffers leaves the header out',
    ['net-rx.12', 'net-rx.14', 'net-rx.6'],
    received((bytes) => {
      if (word(bytes, 10) > 1 && word(bytes, 10) < 30) bytes[10] = (bytes[10] as number) - 1;
    }),
  ),
  mutation('merged buffers are not filled', ['net-rx.13'], {
    memoryRead(m, address, bytes) {
      const spot = m.spot(address);
      const at = spot?.packed ? 8 : 4;
      if (
        spot !== undefined &&
        spot.queue === 0 &&
        (spot.packed ? spot.area === 'descriptors' && bytes.length === 16 : spot.area === 'device' && bytes.length === 8) &&
        bytes[at] === 128
      )
        bytes[at] = 120;
      return bytes;
    },
  }),
  mutation('flags without GUEST_CSUM', ['net-rx.15', 'net-ctrl.D6'], received(byte(0, (value) => value | 2))),
  mutation(
    'delivered checksums are wrong',
    ['net-rx.16'],
    received((bytes) => {
      if (long(bytes)) flip(frameAt + 40)(bytes);
    }),
  ),
  mutation('gso_type without its feature', ['net-rx.17', 'net-rx.36', 'net-rx.23', 'net-ctrl.D6'], received(byte(1, () => 1))),
  mutation('UFO without its feature', ['net-rx.18'], received(byte(1, () => 3))),
  mutation('TSO6 without its feature', ['net-rx.19'], received(byte(1, () => 4))),
  mutation('USO without its feature', ['net-rx.20'], received(byte(1, () => 5))),
  mutation('tunnel bits without their feature', ['net-rx.21', 'net-rx.32'], received(byte(1, (value) => value ^ 0x60))),
  mutation('tunnel requests for a driver that takes none', ['net-rx.21', 'net-rx.31'], received(byte(1, () => 0x21))),
  mutation('UDP_TUNNEL_CSUM without its feature', ['net-rx.22', 'net-rx.34', 'net-rx.35', 'net-rx.47'], received(byte(0, (value) => value | 8))),
  mutation(
    'outer checksum broken',
    ['net-rx.34', 'net-rx.35', 'net-rx.46', 'net-rx.47'],
    received((bytes) => {
      for (const size of [12, 24]) flip(size + 40)(bytes);
    }),
  ),
  mutation('ECN bit lost', ['net-rx.24'], received(byte(1, (value) => value & 0x7f))),
  mutation('outer_nh_offset where there is no header', ['net-rx.26'], received(byte(24, () => 14))),
  mutation(
    'IPv4 header checksum broken',
    ['net-rx.28'],
    received((bytes) => {
      if (long(bytes)) flip(frameAt + 24)(bytes);
    }),
  ),
  mutation(
    'checksum field holds something else',
    ['net-rx.29', 'net-rx.30'],
    received((bytes) => {
      if (!long(bytes)) return;
      flip(frameAt + 40)(bytes);
      flip(frameAt + 50)(bytes);
      flip(frameAt + 70)(bytes);
    }),
  ),
  mutation('csum_start off by two', ['net-rx.30', 'net-rx.39'], received(byte(6, (value) => value + 2))),
  mutation(
    'tunnel offsets missing',
    ['net-rx.33'],
    received((bytes) => void bytes.fill(0, 20, 24)),
  ),
  mutation('large frames without NEEDS_CSUM', ['net-rx.37'], received(byte(0, (value) => value & ~1))),
  mutation('gso_size off by one', ['net-rx.38'], received(byte(4, (value) => value + 1))),
  mutation('RSC_INFO the wrong way round', ['net-rx.39', 'net-rx.40'], received(byte(0, (value) => value ^ 4))),
  mutation(
    'hdr_len 0',
    ['net-rx.41'],
    received((bytes) => void bytes.fill(0, 2, 4)),
  ),
  mutation('DATA_VALID whatever the checksum', ['net-rx.43', 'net-rx.44'], received(byte(0, (value) => value | 2))),

  // control
  mutation('CTRL_RX_EXTRA and HASH_REPORT without CTRL_VQ', ['net-ctrl.1', 'net-hash.1'], () => without(17)),
  mutation('every answer is OK', ['net-ctrl.D1', 'net-ctrl.D2', 'net-hash.7', 'net-coal.6', 'net-coal.7', 'net-coal.8', 'net-rss.13'], agrees),
  ...(
    [
      ['PROMISC', 0, 'net-ctrl.3', ['net-ctrl.4', 'net-ctrl.5']],
      ['ALLMULTI', 1, 'net-ctrl.6', ['net-ctrl.7']],
      ['ALLUNI', 2, 'net-ctrl.8', ['net-ctrl.9']],
      ['NOMULTI', 3, 'net-ctrl.10', ['net-ctrl.11', 'net-ctrl.12']],
      ['NOUNI', 4, 'net-ctrl.14', ['net-ctrl.15', 'net-ctrl.16']],
      ['NOBCAST', 5, 'net-ctrl.17', ['net-ctrl.18', 'net-ctrl.19']],
    ] as const
  ).flatMap(([name, command, implemented, effects]) => [
    mutation(`${name} is refused`, [implemented], refuses(RX, command, on)),
    mutation(`${name} does nothing`, [...effects], ignores(RX, command, on)),
  ]),
  mutation('NOMULTI holds broadcast back', ['net-ctrl.13'], () => {
    const fault = control({
      command(group, command, data, m) {
        if (group === RX && command === 3) m.memo.quiet = data[0] ?? 0;
        return [group, command, data];
      },
    })();
    return { ...fault, send: (m, frame, offload) => (m.memo.quiet === 1 && isBroadcast(frame) ? undefined : [frame, offload]) };
  }),
  mutation('nothing is filtered', ['net-ctrl.25', 'net-ctrl.22', 'net-ctrl.23', 'net-ctrl.29'], alters(RX, 0, set(0, 1))),
  mutation('TABLE_SET does nothing', ['net-ctrl.23', 'net-ctrl.29'], ignores(MAC, 0)),
  mutation('ADDR_SET does nothing', ['net-ctrl.24', 'net-ctrl.D4'], ignores(MAC, 1)),
  mutation('tagged frames are dropped', ['net-ctrl.30', 'net-ctrl.31'], { send: (_m, frame, offload) => (isTagged(frame) ? undefined : [frame, offload]) }),
  mutation('VLAN_ADD does nothing', ['net-ctrl.31'], ignores(VLAN, 0)),
  mutation('VLAN_DEL does nothing', ['net-ctrl.32'], ignores(VLAN, 1)),
  mutation('tags are not looked at', ['net-ctrl.32', 'net-ctrl.D3'], { send: (_m, frame, offload) => [isTagged(frame) ? untag(frame) : frame, offload] }),
  mutation(
    'ANNOUNCE stays',
    ['net-ctrl.35'],
    config(6, (value) => value | 2),
  ),
  mutation('large frames are never delivered as such', ['net-ctrl.D5'], received(byte(1, () => 0))),
  mutation('OFFLOADS_SET does nothing', ['net-ctrl.D6'], ignores(OFFLOADS, 0)),
  mutation(
    'bits 46 and 47 are unknown',
    ['net-ctrl.D7'],
    refuses(OFFLOADS, 0, (data) => ((data[5] as number) & 0xc0) !== 0),
  ),

  // steering
  mutation('frames are lost on the way in', ['net-mq.13', 'net-mq.D1', 'net-mq.D3', 'net-mq.6', 'net-mq.14', 'net-rss.8', 'net-rss.D1'], loseFrames(3)),
  mutation('VQ_PAIRS_SET does nothing', ['net-mq.7', 'net-mq.D2'], ignores(MQ, 0)),
  mutation('VQ_PAIRS_SET always sets all', ['net-mq.14', 'net-mq.D3'], alters(MQ, 0, set(0, 4))),
  mutation('only the first pair sends', ['net-mq.4', 'net-rss.D2'], {
    barWrite(m, place, value) {
      if (place.structure === 'notify') m.memo.other = value > 1 && value % 2 === 1 ? 1 : 0;
      return value;
    },
    sent: (m, frames) => (m.memo.other === 1 ? [] : frames),
  }),
  mutation('frames for a queue under reset are dropped', ['net-mq.15'], () => {
    let resetting = false;
    return {
      barWrite(_m, place, value) {
        if (place.field === 'queue_reset') resetting = true;
        if (place.field === 'queue_enable') resetting = false;
        return value;
      },
      send: (_m, frame, offload) => (resetting ? undefined : [frame, offload]),
    };
  }),
  mutation('flows wander', ['net-mq.6', 'net-mq.7', 'net-rss.8', 'net-rss.10'], () => {
    let n = 0;
    return {
      send(_m, frame, offload) {
        // The port is another each time.
        for (const at of [34, 36]) if (frame.length > 40) frame[at] = (frame[at] as number) ^ ++n;
        return [frame, offload];
      },
    };
  }),
  mutation('frames for a queue under reset are held', ['net-mq.16', 'net-rss.11'], held),
  mutation('RSS_CONFIG does nothing', ['net-mq.D2'], ignores(MQ, 1)),
  mutation(
    'short keys and tables',
    ['net-rss.1'],
    config(17, () => 39),
  ),
  mutation(
    'short tables',
    ['net-rss.2'],
    config(18, () => 64),
  ),
  mutation(
    'another key',
    ['net-rss.8', 'net-rss.D3'],
    alters(MQ, 1, (data) => {
      flip(data.length - 30)(data);
      flip(data.length - 35)(data);
      return data;
    }),
  ),
  mutation(
    'the table is read from its second entry',
    ['net-rss.10', 'net-rss.D1'],
    alters(MQ, 1, (data) => {
      data.copyWithin(8, 10, 8 + 2 * (word(data, 4) + 1));
      return data;
    }),
  ),
  mutation('unclassified frames go to the first pair', ['net-rss.9'], alters(MQ, 1, set(6, 0))),
  mutation(
    'no RSS contexts',
    ['net-rss.12'],
    results(CONTEXT, 0, (bytes) => void bytes.fill(0)),
  ),
  mutation('contexts cannot be made', ['net-rss.D4'], refuses(CONTEXT, 1)),

  // hashes
  mutation(
    'hash values are otherwise',
    [
      'net-hash.D1',
      'net-hash.D2',
      'net-hash.D3',
      'net-hash.D4',
      'net-hash.D5',
      'net-hash.D6',
      'net-hash.D7',
      'net-hash.D8',
      'net-hash.D9',
      'net-hash.6',
      'net-hash.8',
      'net-hash.D11',
      'net-hash.D12',
      'net-hash.4',
    ],
    received((bytes) => flip(13)(bytes)),
  ),
  mutation('hash_report is never 0', ['net-hash.D3', 'net-hash.D6', 'net-hash.D10', 'net-hash.D13'], received(byte(16, (value) => value || 1))),
  mutation(
    'any tunnel type switches all on',
    ['net-hash.6'],
    alters(TUNNEL, 0, (data) => (word(data, 0) === 0 ? data : Uint8Array.of(0xfb, 1, 0, 0))),
  ),
  mutation(
    'tunnel types cannot be switched off',
    ['net-hash.8'],
    alters(TUNNEL, 0, (data) => (word(data, 0) === 0 ? Uint8Array.of(0xfb, 1, 0, 0) : data)),
  ),
  mutation('HASH_TUNNEL_SET does nothing', ['net-hash.D12'], ignores(TUNNEL, 0)),

  // coalescing
  mutation(
    'the reserved field refuses the command',
    ['net-coal.5'],
    refuses(COAL, 2, (data) => word(data, 2) !== 0),
  ),
  mutation(
    'VQ_GET answers what was once',
    ['net-coal.9', 'net-coal.10', 'net-coal.13', 'net-coal.D1', 'net-coal.D2'],
    results(COAL, 3, (bytes) => {
      // Eight bytes of parameters, before the ack or behind it.
      const at = bytes[0] === 0 && bytes.length === 9 ? 1 : 0;
      bytes.fill(0, at, at + 8);
      bytes[at] = 3;
      bytes[at + 4] = 33;
    }),
  ),
  mutation('every use is notified', ['net-coal.D3', 'net-coal.D5', 'net-coal.12'], { messages: (_m, numbers) => (numbers.length === 0 ? [1, 2] : numbers) }),
  mutation('nothing is notified', ['net-coal.D3', 'net-coal.D4', 'net-coal.D5', 'net-coal.D6', 'net-coal.13'], { messages: () => [] }),
  mutation('time runs too slowly', ['net-coal.D3', 'net-coal.D5'], { advance: (_m, nanos) => nanos / 10 }),
];
