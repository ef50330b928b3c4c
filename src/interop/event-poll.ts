// The descriptors a thread's event loop waits for - sockets, kick eventfds - in one epoll set, so that libuv knows of one descriptor however many there are.
// Edge-triggered: nobody has to read an eventfd that the other process may be reading too.

import { errorName, InteropError } from './interop-error.ts';
import type { Native } from './native.ts';

/** A watched descriptor. `remove` before closing it. */
export interface Watch {
  remove(): void;
}

export class EventPoll {
  readonly #native: Native;
  readonly #epoll: number;
  readonly #handlers = new Map<number, () => void>();
  readonly #ids: number[] = [];
  readonly #stop: () => void;
  #next = 1;

  constructor(native: Native) {
    this.#native = native;
    this.#epoll = native.events.epollCreate();
    if (this.#epoll < 0) throw new InteropError('NICBOX_NATIVE_CALL', `epoll_create1: ${errorName(this.#epoll)}`);
    this.#stop = native.events.poll(this.#epoll, () => this.#take());
  }

  /**
   * Calls `ready` whenever `fd` becomes readable (with `output`, or writable), or is made so again. Returns why it cannot be watched, as a number below 0.
   */
  add(fd: number, ready: () => void, output = false): Watch | number {
    const id = this.#next++;
    const result = this.#native.events.epollAdd(this.#epoll, fd, id, true, output);
    if (result < 0) return result;
    this.#handlers.set(id, ready);
    return {
      remove: () => {
        if (this.#handlers.delete(id)) this.#native.events.epollRemove(this.#epoll, fd);
      },
    };
  }

  close(): void {
    this.#handlers.clear();
    this.#stop();
    this.#native.close(this.#epoll);
  }

  /**
   * For whoever has to wait inside a call: keeps the thread until something is ready, or so many milliseconds, and serves everybody meanwhile. May be nested.
   */
  wait(milliseconds: number): void {
    this.#take([], milliseconds);
  }

  #take(ids = this.#ids, milliseconds = 0): void {
    const count = this.#native.events.epollTake(this.#epoll, ids, milliseconds);
    // A handler may have removed one that comes later.
    for (let i = 0; i < count; i++) this.#handlers.get(ids[i] as number)?.();
  }
}

let shared: { readonly poll: EventPoll; users: number } | undefined;

/** This thread's set, for those that wait inside calls (`wait`): each serves all the others meanwhile. Give it back. */
export function takePoll(native: Native): EventPoll {
  shared ??= { poll: new EventPoll(native), users: 0 };
  shared.users++;
  return shared.poll;
}

export function givePollBack(): void {
  if (shared === undefined || --shared.users > 0) return;
  shared.poll.close();
  shared = undefined;
}
