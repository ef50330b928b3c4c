// Time: absolute nanoseconds as a number (exact for 104 days). Devices know no other time and never sleep.

/** Nanoseconds since the clock's own zero. */
export type Nanos = number;

export interface Timer {
  /** Fires once at `deadline` (absolute; a past one fires at the clock's next opportunity, never inside this call). Re-arming moves it. */
  arm(deadline: Nanos): void;
  cancel(): void;
  /** The armed deadline, or undefined. */
  readonly deadline: Nanos | undefined;
}

/** Time that can be looked at. */
export interface TimeSource {
  now(): Nanos;
}

export interface Clock extends TimeSource {
  timer(onExpire: () => void): Timer;
}

/** Not so time that is only told: whoever tells it calls those who wait for it. */
export function hasTimers(time: TimeSource): time is Clock {
  return 'timer' in time;
}

class SimTimer implements Timer {
  deadline: Nanos | undefined;
  readonly onExpire: () => void;
  readonly #clock: SimClock;
  /** Arming order: timers with one deadline fire in the order they were armed. */
  sequence = 0;

  constructor(clock: SimClock, onExpire: () => void) {
    this.#clock = clock;
    this.onExpire = onExpire;
  }

  arm(deadline: Nanos): void {
    if (Number.isNaN(deadline)) throw new RangeError('a timer needs a deadline that is a number');
    this.cancel();
    this.deadline = deadline;
    this.#clock.insert(this);
  }

  cancel(): void {
    if (this.deadline === undefined) return;
    this.deadline = undefined;
    this.#clock.remove(this);
  }
}

/** Deterministic time that moves only when told to. */
export class SimClock implements Clock {
  #now: Nanos;
  #armed: SimTimer[] = [];
  #sequence = 0;

  constructor(start: Nanos = 0) {
    this.#now = start;
  }

  now(): Nanos {
    return this.#now;
  }

  timer(onExpire: () => void): Timer {
    return new SimTimer(this, onExpire);
  }

  /** Earliest armed deadline, or undefined. */
  get nextDeadline(): Nanos | undefined {
    return this.#armed[0]?.deadline;
  }

  /** Moves time forward by `duration`, firing timers in deadline order, each at its own deadline. Timers armed meanwhile fire too. */
  advance(duration: Nanos): void {
    this.advanceTo(this.#now + duration);
  }

  /** @throws RangeError when `target` is in the past: time does not go back. */
  advanceTo(target: Nanos): void {
    if (!(target >= this.#now)) throw new RangeError(`cannot move time from ${this.#now} back to ${target}`);
    for (;;) {
      const next = this.#armed[0];
      if (!next || (next.deadline as Nanos) > target) break;
      this.#armed.shift();
      this.#now = Math.max(this.#now, next.deadline as Nanos);
      next.deadline = undefined;
      next.onExpire();
    }
    // A callback may itself have moved time on.
    this.#now = Math.max(this.#now, target);
  }

  /** @internal called by timers */
  insert(timer: SimTimer): void {
    timer.sequence = this.#sequence++;
    const at = this.#armed.findIndex((t) => (t.deadline as Nanos) > (timer.deadline as Nanos));
    if (at < 0) this.#armed.push(timer);
    else this.#armed.splice(at, 0, timer);
  }

  /** @internal called by timers */
  remove(timer: SimTimer): void {
    const at = this.#armed.indexOf(timer);
    if (at >= 0) this.#armed.splice(at, 1);
  }
}

/** A clock's time for another thread: what the clock's owner says. Whoever reads it there has no timers, and is to be rung when it moves. */
export class ToldTime implements TimeSource {
  readonly buffer: SharedArrayBuffer;
  readonly #word: Float64Array;

  constructor(buffer = new SharedArrayBuffer(8)) {
    this.buffer = buffer;
    this.#word = new Float64Array(buffer);
  }

  now(): Nanos {
    return this.#word[0] as number;
  }

  tell(now: Nanos): void {
    this.#word[0] = now;
  }
}

/** A host's own clock and timer service, for embedding: one function to read it, one to ask for a call back. */
export interface HostClockPort {
  now(): Nanos;
  /** Calls `fire` once at `deadline`, outside guest execution; returns a function that cancels it. */
  setTimer(deadline: Nanos, fire: () => void): () => void;
}

class HostTimer implements Timer {
  deadline: Nanos | undefined;
  readonly #host: HostClockPort;
  readonly #armed: Set<Timer>;
  readonly #onExpire: () => void;
  #cancel: (() => void) | undefined;
  #arming = 0;

  constructor(host: HostClockPort, armed: Set<Timer>, onExpire: () => void) {
    this.#host = host;
    this.#armed = armed;
    this.#onExpire = onExpire;
  }

  arm(deadline: Nanos): void {
    if (Number.isNaN(deadline)) throw new RangeError('a timer needs a deadline that is a number');
    this.cancel();
    this.deadline = deadline;
    this.#armed.add(this);
    const arming = this.#arming;
    // A host may call back after a cancel, or at once: only this arming's first call counts.
    const cancel = this.#host.setTimer(deadline, () => {
      if (this.#arming !== arming) return;
      this.#forget();
      this.#onExpire();
    });
    if (this.#arming === arming) this.#cancel = cancel;
  }

  cancel(): void {
    if (this.deadline === undefined) return;
    const cancel = this.#cancel;
    this.#forget();
    cancel?.();
  }

  #forget(): void {
    this.#arming++;
    this.deadline = undefined;
    this.#cancel = undefined;
    this.#armed.delete(this);
  }
}

/** Adapts a host's clock to ours. */
export class HostClock implements Clock {
  readonly #host: HostClockPort;
  readonly #armed = new Set<Timer>();

  constructor(host: HostClockPort) {
    this.#host = host;
  }

  now(): Nanos {
    return this.#host.now();
  }

  timer(onExpire: () => void): Timer {
    return new HostTimer(this.#host, this.#armed, onExpire);
  }

  /** Cancels every armed timer: nothing of the host's keeps running on their account. */
  close(): void {
    for (const timer of [...this.#armed]) timer.cancel();
  }
}

const LONGEST_TIMEOUT_MS = 2 ** 31 - 1;

/** Real time, from the moment it was made, on the event loop's timers (so about a millisecond late at worst; never early). */
export class WallClock extends HostClock {
  constructor() {
    const start = performance.now();
    const now = (): Nanos => (performance.now() - start) * 1e6;
    super({
      now,
      setTimer(deadline, fire) {
        let handle: ReturnType<typeof setTimeout>;
        const wait = (): void => {
          const left = (deadline - now()) / 1e6;
          handle = left > 0 ? setTimeout(check, Math.min(Math.ceil(left), LONGEST_TIMEOUT_MS)) : setTimeout(fire, 0);
        };
        const check = (): void => {
          if (now() >= deadline) fire();
          else wait();
        };
        wait();
        return () => clearTimeout(handle);
      },
    });
  }
}
