// What a vhost-user front end learns of a back end when they meet, and whether that will do.

import { FeatureSet, VIRTIO_F_VERSION_1 } from '#virtio/features';
import type { RequestChannel } from './request-channel.ts';
import * as wire from './vhost-user-protocol.ts';

/** What a back end said of itself. */
export interface Peer {
  /** Device features, with bit 30 if protocol features can be negotiated. */
  readonly features: FeatureSet;
  /** Protocol features in force. */
  readonly protocol: FeatureSet;
  readonly queuePairs: number;
}

/** Protocol features that a front end of ours makes use of. */
const SPOKEN = FeatureSet.of(wire.PROTOCOL_F_MQ, wire.PROTOCOL_F_RARP, wire.PROTOCOL_F_REPLY_ACK, wire.PROTOCOL_F_MTU, wire.PROTOCOL_F_INFLIGHT_SHMFD);
const NOTHING = new Uint8Array(0);

/** A payload of two 32-bit words. */
export function words(low: number, high: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(8));
  view.setUint32(0, low, true);
  view.setUint32(4, high, true);
  return new Uint8Array(view.buffer);
}

function featuresOf(reply: DataView): FeatureSet {
  return new FeatureSet([reply.getUint32(0, true), reply.getUint32(4, true)]);
}

/** Asks a back end what it can do, and becomes its owner. */
export function introduce(channel: RequestChannel, done: (peer: Peer) => void): void {
  channel.ask(wire.GET_FEATURES, NOTHING, 8, (reply) => {
    const features = featuresOf(reply);
    const finish = (protocol: FeatureSet, queuePairs: number): void => {
      channel.tell(wire.SET_OWNER, NOTHING);
      done({ features, protocol, queuePairs });
    };
    if (!features.has(wire.VHOST_USER_F_PROTOCOL_FEATURES)) {
      finish(new FeatureSet(), 1);
      return;
    }
    channel.ask(wire.GET_PROTOCOL_FEATURES, NOTHING, 8, (offered) => {
      const protocol = featuresOf(offered).and(SPOKEN);
      channel.tell(wire.SET_PROTOCOL_FEATURES, words(protocol.words[0], 0));
      if (!protocol.has(wire.PROTOCOL_F_MQ)) finish(protocol, 1);
      else channel.ask(wire.GET_QUEUE_NUM, NOTHING, 8, (pairs) => finish(protocol, pairs.getUint32(0, true)));
    });
  });
}

/** Why this back end will not do. */
export function unfit(peer: Peer, queuePairs: number): string | undefined {
  if (!peer.features.has(VIRTIO_F_VERSION_1)) return 'is a legacy one: it lacks VIRTIO_F_VERSION_1';
  return peer.queuePairs < queuePairs ? `serves ${peer.queuePairs} queue pairs, and ${queuePairs} are wanted` : undefined;
}
