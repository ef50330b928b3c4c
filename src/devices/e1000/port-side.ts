// Who serves the e1000's port, as its control plane sees it: this thread, inside the access that gives it something to do, or another one, which is rung. The difference is kept here.

import type { DmaSpace } from '#core/dma-space';
import { type Bell, Doorbell } from '#core/doorbell';
import type { PortHost, RemotePort, RemotePortHost } from '#net/port';
import type { Engine } from './engine.ts';
import type { EngineState } from './engine-state.ts';
import { E1000_PORT, type EngineShare } from './worker-port.ts';

export interface PortSide {
  /** Another thread serves the port. */
  readonly remote: boolean;
  /** Frames or room may have come. */
  wake(): void;
  /** Changes what the engine looks at; whole turns see all of it or nothing. */
  change(write: () => void): void;
  /** Events the other thread left since the last time. */
  takeEvents(): number;
  /** What a guest thread may ring in place of a kick. */
  readonly doorbell: Doorbell | undefined;
  close(): void;
}

/** Served on this thread. */
export function localPort(host: PortHost, engine: Engine): PortSide {
  host.addPort(engine);
  return {
    remote: false,
    wake: () => host.wake(engine),
    change: (write) => write(),
    takeEvents: () => 0,
    doorbell: undefined,
    close: () => host.removePort(engine),
  };
}

export interface RemoteSideOptions {
  readonly host: RemotePortHost;
  /** On this thread: for what is repaired here. */
  readonly engine: Engine;
  readonly state: EngineState;
  readonly dma: DmaSpace;
  readonly hasLow: boolean;
  /** Rung when `takeEvents` has something. */
  readonly bell: Bell;
  /** The thread died; `again`: another one goes on. */
  readonly lost: (again: boolean) => void;
}

/** Served by another thread. @throws TypeError when RAM is not shared memory */
export function remotePort(options: RemoteSideOptions): PortSide {
  const { host, engine, state, dma, hasLow } = options;
  const events = new Doorbell(options.bell);
  const share: EngineShare = { state: state.buffer, dma: dma.share(), hasLow, events: events.share() };
  const port: RemotePort = host.openPort({
    name: engine.name,
    kind: E1000_PORT,
    share,
    counters: engine.counters,
    recover: () => {
      dma.expel(state.reader);
      state.reader = -1;
      port.doorbell.revoke();
      engine.recover();
    },
    lost: (_, again) => options.lost(again),
  });
  return {
    remote: true,
    wake: () => void port.doorbell.ring(),
    change: (write) => {
      // Before, as a thread's windows are renewed outside of changes: `write` may touch guest memory.
      dma.sync();
      dma.betweenTurns(write);
    },
    takeEvents: () => {
      events.take();
      return state.take();
    },
    doorbell: port.doorbell,
    close: () => port.close(),
  };
}
