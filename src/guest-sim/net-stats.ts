// Device statistics (virtio 1.4 5.1.9.5.11): the request for several queues at once, and the replies as named counters. Replies are walked by the sizes the
// device gives, so a device with more counters than are known here is understood too.

/** Type numbers: the bit in a request's bitmap and the type of a reply. */
export const STATISTICS = {
  RX_BASIC: 0,
  RX_CSUM: 1,
  RX_GSO: 2,
  RX_SPEED: 3,
  TX_BASIC: 16,
  TX_CSUM: 17,
  TX_GSO: 18,
  TX_SPEED: 19,
  CVQ: 32,
} as const;

const COUNTERS: Readonly<Record<number, readonly string[]>> = {
  [STATISTICS.RX_BASIC]: ['rx_notifications', 'rx_packets', 'rx_bytes', 'rx_interrupts', 'rx_drops', 'rx_drop_overruns'],
  [STATISTICS.RX_CSUM]: ['rx_csum_valid', 'rx_needs_csum', 'rx_csum_none', 'rx_csum_bad'],
  [STATISTICS.RX_GSO]: ['rx_gso_packets', 'rx_gso_bytes', 'rx_gso_packets_coalesced', 'rx_gso_bytes_coalesced'],
  [STATISTICS.RX_SPEED]: ['rx_packets_allowance_exceeded', 'rx_bytes_allowance_exceeded'],
  [STATISTICS.TX_BASIC]: ['tx_notifications', 'tx_packets', 'tx_bytes', 'tx_interrupts', 'tx_drops', 'tx_drop_malformed'],
  [STATISTICS.TX_CSUM]: ['tx_csum_none', 'tx_needs_csum'],
  [STATISTICS.TX_GSO]: ['tx_gso_packets', 'tx_gso_bytes', 'tx_gso_segments', 'tx_gso_segments_bytes', 'tx_gso_packets_noseg', 'tx_gso_bytes_noseg'],
  [STATISTICS.TX_SPEED]: ['tx_packets_allowance_exceeded', 'tx_bytes_allowance_exceeded'],
  [STATISTICS.CVQ]: ['command_num', 'ok_num'],
};

const REPLY_HEADER = 8;

/** Bits of one queue's kinds. */
export const RX_STATISTICS: bigint = 0xfn;
export const TX_STATISTICS: bigint = 0xfn << 16n;
export const CVQ_STATISTICS: bigint = 1n << 32n;

export interface StatisticsRequest {
  /** Virtqueue index. */
  readonly queue: number;
  /** A bit for each type number of STATISTICS. */
  readonly types: bigint;
}

export interface QueueStatistics {
  readonly queue: number;
  readonly type: number;
  /** By the specification's names; they wrap at 2^64. */
  readonly counters: Readonly<Record<string, bigint>>;
}

/** struct virtio_net_ctrl_queue_stats. */
export function encodeStatisticsRequest(requests: readonly StatisticsRequest[]): Uint8Array {
  const data = new Uint8Array(16 * requests.length);
  const view = new DataView(data.buffer);
  for (const [i, { queue, types }] of requests.entries()) {
    view.setUint16(16 * i, queue, true);
    view.setBigUint64(16 * i + 8, types, true);
  }
  return data;
}

/** Bytes that hold every reply to `requests` (virtio 1.4 5.1.9.5.11.13, driver MUST). */
export function replyRoom(requests: readonly StatisticsRequest[]): number {
  let bytes = 0;
  for (const { types } of requests)
    for (const [type, names] of Object.entries(COUNTERS)) if (((types >> BigInt(type)) & 1n) === 1n) bytes += REPLY_HEADER + 8 * names.length;
  return bytes;
}

/** The replies in `result`, as far as they are whole. A size that cannot be true ends the walk. */
export function decodeStatistics(result: Uint8Array): QueueStatistics[] {
  const replies: QueueStatistics[] = [];
  const view = new DataView(result.buffer, result.byteOffset, result.byteLength);
  for (let at = 0; at + REPLY_HEADER <= result.length; ) {
    const size = view.getUint16(at + 6, true);
    if (size < REPLY_HEADER || at + size > result.length) break;
    const type = view.getUint8(at);
    const counters: Record<string, bigint> = {};
    for (const [i, name] of (COUNTERS[type] ?? []).entries())
      if (REPLY_HEADER + 8 * (i + 1) <= size) counters[name] = view.getBigUint64(at + REPLY_HEADER + 8 * i, true);
    replies.push({ queue: view.getUint16(at + 2, true), type, counters });
    at += size;
  }
  return replies;
}
