// The engine on another thread: what it is made from, and the opener for that thread's entry module. Registers, contexts and positions are shared words, so neither side keeps anything the other
// needs; what the engine has to say goes into the state's event word, and its owner's doorbell is rung for the first of it.

import { DmaSpace, type DmaSpaceShare } from '#core/dma-space';
import { Doorbell, type DoorbellShare } from '#core/doorbell';
import type { PortSite, TurnPort } from '#net/port';
import { Engine } from './engine.ts';
import { EngineState } from './engine-state.ts';

/** Names the opener to who serves the segment. */
export const E1000_PORT = 'e1000';

export interface EngineShare {
  readonly state: SharedArrayBuffer;
  readonly dma: DmaSpaceShare;
  readonly hasLow: boolean;
  /** Rung when there are events. */
  readonly events: DoorbellShare;
}

/** @param share an EngineShare */
export function openE1000Port(share: unknown, site: PortSite): TurnPort {
  const { state: buffer, dma, hasLow, events } = share as EngineShare;
  const state = new EngineState(buffer);
  const doorbell = Doorbell.open(events);
  return new Engine({
    name: site.name,
    state,
    dma: DmaSpace.open(dma),
    counters: site.counters,
    hasLow,
    signal: (bits) => {
      if (state.post(bits)) doorbell.ring();
    },
    wake: site.wake,
    commit: site.commit,
  });
}
