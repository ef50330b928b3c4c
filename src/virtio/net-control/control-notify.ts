// Commands about notifications and statistics: VIRTIO_NET_CTRL_NOTF_COAL (virtio 1.4 5.1.9.5.10) and VIRTIO_NET_CTRL_STATS (5.1.9.5.11). What a command answers stands behind its ack, as
// for every command here, though the structure of VQ_GET could be read otherwise (virtio-spec.md trap 9).

import type { FeatureSet } from '../features.ts';
import * as net from '../net-features.ts';
import type { ChainReader } from './chain-reader.ts';
import type { ChainWriter } from './chain-writer.ts';
import type { CoalescingParameters, CoalescingState } from './coalescing.ts';
import { getStatistics, queryStatistics, type StatisticsSource } from './statistics.ts';
import { NOTF_COAL_RX_SET, NOTF_COAL_TX_SET, NOTF_COAL_VQ_GET, NOTF_COAL_VQ_SET, STATS_GET, STATS_QUERY } from './wire.ts';

export interface NotifyContext {
  readonly features: FeatureSet;
  readonly coalescing: CoalescingState;
  readonly statistics: StatisticsSource;
  /** `index` is a transmit or receive queue that the driver has enabled. */
  dataQueueEnabled(index: number): boolean;
}

export function runStatisticsCommand(reader: ChainReader, reply: ChainWriter, command: number, { features, statistics }: NotifyContext): boolean {
  if (!features.has(net.VIRTIO_NET_F_DEVICE_STATS)) return false;
  if (command === STATS_QUERY) return queryStatistics(reply);
  return command === STATS_GET && getStatistics(reader, reply, features, statistics);
}

export function runCoalescingCommand(reader: ChainReader, reply: ChainWriter, command: number, context: NotifyContext): boolean {
  const { features, coalescing } = context;
  switch (command) {
    case NOTF_COAL_TX_SET:
    case NOTF_COAL_RX_SET: {
      const parameters = features.has(net.VIRTIO_NET_F_NOTF_COAL) ? readParameters(reader) : undefined;
      if (parameters === undefined) return false;
      coalescing.setAll(command === NOTF_COAL_RX_SET ? 'receive' : 'transmit', parameters);
      return true;
    }
    case NOTF_COAL_VQ_SET: {
      const index = readQueue(reader, context);
      const parameters = index < 0 ? undefined : readParameters(reader);
      if (parameters === undefined) return false;
      coalescing.setQueue(index, parameters);
      return true;
    }
    case NOTF_COAL_VQ_GET: {
      const index = readQueue(reader, context);
      if (index < 0) return false;
      const { maxPackets, maxUsecs } = coalescing.queue(index);
      reply.u32(maxPackets);
      reply.u32(maxUsecs);
      return true;
    }
    default:
      return false;
  }
}

/** virtio 1.4 5.1.9.5.10.6 (device MUST): only an enabled transmit or receive queue; -1 for another. The reserved field is passed over. */
function readQueue(reader: ChainReader, { features, dataQueueEnabled }: NotifyContext): number {
  const index = reader.u16();
  reader.skip(2);
  return index >= 0 && features.has(net.VIRTIO_NET_F_VQ_NOTF_COAL) && dataQueueEnabled(index) ? index : -1;
}

function readParameters(reader: ChainReader): CoalescingParameters | undefined {
  const maxPackets = reader.u32();
  const maxUsecs = reader.u32();
  return maxUsecs < 0 ? undefined : { maxPackets, maxUsecs };
}
