// The engine on another thread: what it is made from, and the opener for that thread's entry module. Registers, contexts and positions are shared words, so neither side keeps anything the other
// needs; what the engine has to say goes into the state's event word, and its owner's doorbell is rung for the first of it.

import type { Nanos, TimeSource } from '#core/clock';
import { DmaSpace, type DmaSpaceShare } from '#core/dma-space';
import { Doorbell, type DoorbellShare } from '#core/doorbell';
import type { PortSite, TurnPort } from '#net/port';
import { Engine, type LateEvents } from './engine.ts';
import { EngineState, EVENT_RECEIVED, EVENT_SENT_DELAYED, EVENT_TAKEN } from './engine-state.ts';
import { ICR_RXDMT0, ICR_RXT0, ICR_SRPD, ICR_TXD_LOW, ICR_TXDW, ICR_TXQE } from './registers.ts';

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
  const bell = new ThrottledBell(state, Doorbell.open(events), site.clock);
  const engine = new Engine({
    name: site.name,
    state,
    dma: DmaSpace.open(dma),
    counters: site.counters,
    hasLow,
    signal: (bits) => bell.signal(bits),
    wake: site.wake,
    commit: site.commit,
    late: bell,
  });
  // It is on its segment before this thread's next turn, so frames may come from now on: the link can rise.
  bell.signal(EVENT_TAKEN);
  return engine;
}

/** What comes of frames, and waits for the throttle like the interrupt it is for. */
const OF_FRAMES = ICR_TXDW | ICR_TXQE | ICR_TXD_LOW | ICR_RXT0 | ICR_RXDMT0 | ICR_SRPD | EVENT_RECEIVED | EVENT_SENT_DELAYED;

/**
 * Tells the control plane. Events are there for it at once, whenever it looks; it is only woken for those of frames no sooner than an interrupt may follow, since this thread waits more exactly than its event
 * loop does, whose timers fire a millisecond late.
 */
class ThrottledBell implements LateEvents {
  deadline: Nanos = Infinity;
  readonly #state: EngineState;
  readonly #doorbell: Doorbell;
  readonly #clock: TimeSource;

  constructor(state: EngineState, doorbell: Doorbell, clock: TimeSource) {
    this.#state = state;
    this.#doorbell = doorbell;
    this.#clock = clock;
  }

  signal(bits: number): void {
    const first = this.#state.post(bits);
    if ((bits & ~OF_FRAMES) !== 0) this.end();
    else if (!first || this.deadline !== Infinity) return;
    const left = (bits & ~OF_FRAMES) === 0 ? this.#state.throttled : 0;
    if (left > 0) this.deadline = this.#clock.now() + left * 1e6;
    else if (first) this.#doorbell.ring();
  }

  look(): void {
    if (this.deadline !== Infinity && this.#clock.now() >= this.deadline) this.end();
  }

  end(): void {
    if (this.deadline === Infinity) return;
    this.deadline = Infinity;
    this.#doorbell.ring();
  }
}
