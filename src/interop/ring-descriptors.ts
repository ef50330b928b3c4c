// The descriptors of one ring: where kicks come from, where calls and errors go. Owns them from the moment they are given, closes each exactly once, and never while the data
// plane may still write to it.

import type { Doorbell } from '#core/doorbell';
import { Call } from '#core/interrupts';
import type { EventPoll, Watch } from './event-poll.ts';
import { errorName } from './interop-error.ts';
import type { Native } from './native.ts';
import { ProtocolError } from './vhost-user-protocol.ts';

/** How often a ring is looked at whose front end sends no kicks, in milliseconds. */
const POLLED_EVERY = 1;

export interface RingDescriptorsParts {
  readonly native: Native;
  readonly poll: EventPoll;
  /** Rung for calls that have no descriptor. */
  readonly relay: Doorbell;
  /** A kick arrived. */
  readonly kicked: () => void;
  /** Runs a change while the data plane is between turns. */
  readonly betweenTurns: (write: () => void) => void;
}

export class RingDescriptors {
  readonly call: Call;
  readonly #parts: RingDescriptorsParts;
  /** undefined: no kick was set. */
  #kick: { readonly fd: number | undefined; readonly stop: () => void } | undefined;
  #callFd: number | undefined;
  #errFd: number | undefined;
  #callsRelayed = 0;

  constructor(parts: RingDescriptorsParts) {
    this.#parts = parts;
    this.call = new Call(parts.relay, null);
  }

  /** The ring was started. */
  get hasKick(): boolean {
    return this.#kick !== undefined;
  }

  /** @param mode 'polled': the front end will not kick. 'in-band': it kicks by messages. @throws ProtocolError, with the descriptor closed */
  setKick(mode: number | 'polled' | 'in-band'): void {
    this.closeKick();
    const { poll, native, kicked } = this.#parts;
    if (mode === 'in-band') this.#kick = { fd: undefined, stop: () => {} };
    else if (mode === 'polled') {
      const timer = setInterval(kicked, POLLED_EVERY).unref();
      this.#kick = { fd: undefined, stop: () => clearInterval(timer) };
    } else {
      const watch: Watch | number = poll.add(mode, kicked);
      if (typeof watch === 'number') {
        native.close(mode);
        throw new ProtocolError(`its kick descriptor cannot be waited for (${errorName(watch)})`);
      }
      this.#kick = { fd: mode, stop: () => watch.remove() };
    }
  }

  closeKick(): void {
    const kick = this.#kick;
    if (kick === undefined) return;
    this.#kick = undefined;
    kick.stop();
    if (kick.fd !== undefined) this.#parts.native.close(kick.fd);
  }

  /** @param relay calls without a descriptor go through the relay. @throws ProtocolError, with the descriptor closed */
  setCall(fd: number | undefined, relay = false): void {
    this.#check(fd);
    const old = this.#callFd;
    this.#callFd = fd;
    this.#callsRelayed = this.call.counts.signals;
    // The data plane must not write to a descriptor that is closed, and whose number may be another's by then.
    this.#parts.betweenTurns(() => {
      if (fd !== undefined) this.call.routeEvent(fd);
      else if (relay) this.call.routeRelay();
      else this.call.routeOff();
    });
    if (old !== undefined) this.#parts.native.close(old);
  }

  /** Until a descriptor is given. */
  relayCalls(): void {
    if (this.#callFd === undefined) this.setCall(undefined, true);
  }

  setErr(fd: number | undefined): void {
    this.#check(fd);
    if (this.#errFd !== undefined) this.#parts.native.close(this.#errFd);
    this.#errFd = fd;
  }

  /** Tells the front end that the ring is broken. False when it has given no descriptor for that. */
  signalError(): boolean {
    if (this.#errFd === undefined) return false;
    this.#parts.native.events.writeEvent(this.#errFd);
    return true;
  }

  /** Calls went to the relay since this was last asked. */
  takeRelayed(): boolean {
    const { signals } = this.call.counts;
    if (this.#callFd !== undefined || signals === this.#callsRelayed) return false;
    this.#callsRelayed = signals;
    return true;
  }

  close(): void {
    this.closeKick();
    this.setCall(undefined);
    this.setErr(undefined);
  }

  #check(fd: number | undefined): void {
    const { native } = this.#parts;
    if (fd === undefined || (native.events.isEvent(fd) && native.events.setNonBlocking(fd) >= 0)) return;
    native.close(fd);
    throw new ProtocolError('its descriptor for events is neither an eventfd nor a socket');
  }
}
