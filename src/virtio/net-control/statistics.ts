// Device statistics (virtio 1.4 5.1.9.5.11): which there are for which queue, and what each reply holds, from the words the data plane counts in.

import type { FeatureSet } from '../features.ts';
import * as net from '../net-features.ts';
import * as count from '../net-statistics.ts';
import type { ChainReader } from './chain-reader.ts';
import type { ChainWriter } from './chain-writer.ts';

const TYPE_CVQ = 32;
const REPLY_HEADER_BYTES = 8;
/** Of one queue in a GET: vq_index, reserved, types_bitmap. */
const REQUEST_BYTES = 16;

/** One kind of reply. */
interface StatisticsType {
  readonly type: number;
  readonly queue: 'receive' | 'transmit';
  /** One of these has to be negotiated; none: always there. */
  readonly needs: readonly number[];
  /** Its 64-bit fields, in order. */
  readonly fields: (words: (counter: number) => number) => readonly number[];
}

/** Where nothing limits the rate, nothing exceeds it. */
const NOTHING_EXCEEDED = [0, 0] as const;

const TYPES: readonly StatisticsType[] = [
  {
    type: 0, // RX_BASIC
    queue: 'receive',
    needs: [],
    fields: (words) => [
      words(count.COUNT_NOTIFICATIONS),
      words(count.COUNT_FRAMES),
      words(count.COUNT_BYTES),
      words(count.COUNT_INTERRUPTS),
      words(count.COUNT_DROPS),
      words(count.COUNT_SPECIAL_DROPS),
    ],
  },
  {
    type: 1, // RX_CSUM
    queue: 'receive',
    needs: [net.VIRTIO_NET_F_GUEST_CSUM],
    fields: (words) => [
      words(count.COUNT_DATA_VALID),
      words(count.COUNT_NEEDS_CSUM),
      words(count.COUNT_FRAMES) - words(count.COUNT_DATA_VALID) - words(count.COUNT_NEEDS_CSUM),
      // Frames whose checksum nobody vouches for are handed on unlooked at.
      0,
    ],
  },
  {
    type: 2, // RX_GSO
    queue: 'receive',
    needs: [net.VIRTIO_NET_F_GUEST_TSO4, net.VIRTIO_NET_F_GUEST_TSO6],
    fields: (words) => [words(count.COUNT_GSO_FRAMES), words(count.COUNT_GSO_BYTES), words(count.COUNT_CHANGED_FRAMES), words(count.COUNT_CHANGED_BYTES)],
  },
  { type: 3, queue: 'receive', needs: [], fields: () => NOTHING_EXCEEDED }, // RX_SPEED
  {
    type: 16, // TX_BASIC
    queue: 'transmit',
    needs: [],
    // Packets and bytes as sent, not as the driver gave them.
    fields: (words) => [
      words(count.COUNT_NOTIFICATIONS),
      words(count.COUNT_FRAMES) - words(count.COUNT_CHANGED_FRAMES) + words(count.COUNT_SEGMENTS),
      words(count.COUNT_BYTES) - words(count.COUNT_CHANGED_BYTES) + words(count.COUNT_SEGMENT_BYTES),
      words(count.COUNT_INTERRUPTS),
      words(count.COUNT_DROPS),
      words(count.COUNT_SPECIAL_DROPS),
    ],
  },
  {
    type: 17, // TX_CSUM
    queue: 'transmit',
    needs: [net.VIRTIO_NET_F_CSUM],
    fields: (words) => [words(count.COUNT_FRAMES) - words(count.COUNT_NEEDS_CSUM), words(count.COUNT_NEEDS_CSUM)],
  },
  {
    type: 18, // TX_GSO
    queue: 'transmit',
    needs: [net.VIRTIO_NET_F_HOST_TSO4, net.VIRTIO_NET_F_HOST_TSO6, net.VIRTIO_NET_F_HOST_USO],
    fields: (words) => [
      words(count.COUNT_GSO_FRAMES),
      words(count.COUNT_GSO_BYTES),
      words(count.COUNT_SEGMENTS),
      words(count.COUNT_SEGMENT_BYTES),
      words(count.COUNT_GSO_FRAMES) - words(count.COUNT_CHANGED_FRAMES),
      words(count.COUNT_GSO_BYTES) - words(count.COUNT_CHANGED_BYTES),
    ],
  },
  { type: 19, queue: 'transmit', needs: [], fields: () => NOTHING_EXCEEDED }, // TX_SPEED
];

const SUPPORTED_LOW = TYPES.reduce((bits, { type }) => bits | (1 << type), 0);
const SUPPORTED_HIGH = 1 << (TYPE_CVQ - 32);

/** Counters of the control queue. */
export class ControlStatistics {
  commands = 0;
  succeeded = 0;

  clear(): void {
    this.commands = 0;
    this.succeeded = 0;
  }
}

export interface StatisticsSource {
  readonly queues: count.NetStatistics;
  readonly control: ControlStatistics;
  /** Data queues under what was negotiated; the control queue comes next. */
  readonly dataQueues: number;
}

/** QUERY: every type this device knows. */
export function queryStatistics(reply: ChainWriter): boolean {
  reply.u32(SUPPORTED_LOW);
  reply.u32(SUPPORTED_HIGH);
  return true;
}

interface Wanted {
  readonly queue: number;
  readonly type: StatisticsType | undefined;
}

/**
 * GET: all of the request is checked before anything is answered. What does not fit the reply is left out (virtio 1.4 5.1.9.5.11.12, device MUST: only up to the valid
 * bytes). The work is bounded by the command's own bytes and by the reply's.
 */
export function getStatistics(reader: ChainReader, reply: ChainWriter, features: FeatureSet, source: StatisticsSource): boolean {
  if (reader.remaining === 0 || reader.remaining % REQUEST_BYTES !== 0) return false;
  const wanted: Wanted[] = [];
  // Replies beyond this have no place in the reply.
  const most = Math.ceil(reply.remaining / (REPLY_HEADER_BYTES + 16));
  while (reader.remaining > 0) {
    const queue = reader.u16();
    reader.skip(6);
    const low = reader.u32();
    const high = reader.u32();
    if (queue === source.dataQueues) {
      if (low !== 0 || (high & ~SUPPORTED_HIGH) !== 0) return false;
      if (high !== 0 && wanted.length < most) wanted.push({ queue, type: undefined });
      continue;
    }
    if (queue > source.dataQueues || high !== 0) return false;
    const types = TYPES.filter(({ type }) => ((low >>> type) & 1) === 1);
    const direction = queue % 2 === 0 ? 'receive' : 'transmit';
    if ((low & ~SUPPORTED_LOW) !== 0) return false;
    if (types.some((type) => type.queue !== direction || (type.needs.length > 0 && !type.needs.some((bit) => features.has(bit))))) return false;
    for (const type of types) if (wanted.length < most) wanted.push({ queue, type });
  }
  for (const { queue, type } of wanted) {
    // virtio 1.4 5.1.9.5.11.3: the command under way counts, and succeeds.
    const fields = type?.fields((counter) =>
      counter === count.COUNT_NOTIFICATIONS ? source.queues.notifications(queue) : source.queues.get(queue, counter),
    ) ?? [source.control.commands, source.control.succeeded + 1];
    reply.u8(type?.type ?? TYPE_CVQ);
    reply.u8(0);
    reply.u16(queue);
    reply.u16(0);
    reply.u16(REPLY_HEADER_BYTES + 8 * fields.length);
    for (const field of fields) reply.u64(field);
  }
  return true;
}
