// A direct link: whatever one port sends goes to the other, unlooked at. A full receiver holds the sender back for as long as it takes; a missing one is a
// cable that hangs in the air.

import { DROP_LINK_DOWN } from './counters.ts';
import type { FrameBatch } from './port.ts';
import type { Forwarding, Segment } from './segment.ts';

export class DirectLink implements Forwarding {
  readonly maximumPorts = 2;

  relay(batch: FrameBatch, needs: number, source: number, segment: Segment): number {
    const first = segment.ports[0];
    const peer = first?.index === source ? segment.ports[1] : first;
    if (peer === undefined) {
      segment.dropSent(batch, 0, batch.count, source, DROP_LINK_DOWN);
      return batch.count;
    }
    return segment.offer(batch, needs, 0, batch.count, source, peer.index);
  }

  detach(): void {}
}
