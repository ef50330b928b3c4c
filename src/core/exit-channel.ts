// The way from a guest on its own thread to its machine: one request at a time in shared words, as a KVM exit is. The guest's side blocks (it is a CPU: nothing
// else of it can run); the machine's side is a source of a BellLoop. A reply may name the doorbell that a written address stands for; the
// guest then rings that in place of an exit, as long as neither the machine's decoding nor the doorbell has moved (KVM's ioeventfd).

import type { BellLoop } from './bell-loop.ts';
import type { Nanos } from './clock.ts';
import { Bell, type BellShare, Doorbell } from './doorbell.ts';
import { ANY_VALUE, FastKicks } from './fast-kicks.ts';
import type { BusCounts, BusTarget, GuestBus, PlatformDescription } from './guest-bus.ts';
import { GuestMemory, type GuestMemoryShare } from './guest-memory.ts';
import { IntxLines, PendingVectors, type PendingVectorsShare } from './interrupts.ts';
import type { AccessSize, FastDoorbell } from './region.ts';
import { allocateWords, type SharedWords } from './word-arena.ts';

// Layout, in 32-bit words.
const STATE = 0;
const KIND = 1;
const ADDRESS_LOW = 2;
const ADDRESS_HIGH = 3;
const SIZE = 4;
const VALUE = 5;
/** What the reply says of a doorbell: FAST_NONE, FAST_ADDRESS, FAST_VALUE, and where it is in the arena. */
const FAST = 6;
const FAST_DOORBELL = 7;
const FAST_BELL = 8;
const FAST_REVOCATIONS = 9;
const FAST_GENERATION = 10;
/** 1 while the guest sleeps for its reply. */
const SLEEPING = 11;
/** Where the doorbell's revocations are counted. */
const FAST_REVOKED = 12;

const IDLE = 0;
const REQUEST = 1;
const REPLY = 2;
const CLOSED = 3;

const MMIO_READ = 0;
const MMIO_WRITE = 1;
const IO_READ = 2;
const IO_WRITE = 3;

const FAST_NONE = 0;
const FAST_ADDRESS = 1;
const FAST_VALUE = 2;

/** Looks at the reply word before sleeping: about as long as a served exit takes (measured: bench/exits). */
const POLLS = 4000;

/** The machine did not answer, or closed. `code` is stable. */
export class MachineGoneError extends Error {
  readonly code = 'NICBOX_MACHINE_GONE';
}

/** What a guest thread needs to open its bus: structured-cloneable, to be posted to it. */
export interface GuestBusShare {
  readonly platform: PlatformDescription;
  readonly memory: GuestMemoryShare;
  readonly vectors: PendingVectorsShare;
  readonly lines: SharedArrayBuffer;
  readonly words: SharedWords;
  readonly bell: BellShare;
  /** Moves whenever what an address decodes to may have changed. */
  readonly generation: SharedWords;
  /** Epoch milliseconds of the guest's time zero. */
  readonly timeZero: number;
}

export interface ExitTarget extends BusTarget {
  /** The doorbell that this write stands for, asked after the write was served. */
  doorbell(address: number, size: AccessSize, value: number): FastDoorbell | undefined;
}

/** The machine's side of one guest thread's exits. */
export class ExitServer {
  readonly #words: SharedWords = allocateWords();
  readonly #state: Int32Array;
  readonly #target: ExitTarget;
  readonly #generation: Int32Array;
  readonly #parts: Omit<GuestBusShare, 'words' | 'bell'>;
  readonly #bell: Bell;
  readonly #remove: () => void;
  /** Exits served. */
  exits = 0;

  constructor(loop: BellLoop, target: ExitTarget, parts: Omit<GuestBusShare, 'words' | 'bell'>) {
    this.#state = new Int32Array(this.#words.buffer, this.#words.index * 4, 16);
    this.#generation = new Int32Array(parts.generation.buffer, parts.generation.index * 4, 1);
    this.#target = target;
    this.#parts = parts;
    this.#bell = loop.bell;
    this.#remove = loop.add(() => this.#poll());
  }

  share(): GuestBusShare {
    return { ...this.#parts, words: this.#words, bell: this.#bell.share() };
  }

  /** The guest's next access, or the one in progress, throws MachineGoneError there. */
  close(): void {
    this.#remove();
    Atomics.store(this.#state, STATE, CLOSED);
    Atomics.notify(this.#state, STATE);
  }

  #poll(): boolean {
    if (Atomics.load(this.#state, STATE) !== REQUEST) return false;
    this.exits++;
    this.#serve();
    // The guest may have given up, or a handler may have closed us: only a request is answered.
    Atomics.compareExchange(this.#state, STATE, REQUEST, REPLY);
    if (Atomics.load(this.#state, SLEEPING) !== 0) Atomics.notify(this.#state, STATE);
    return true;
  }

  #serve(): void {
    const words = this.#state;
    const address = ((words[ADDRESS_LOW] as number) >>> 0) + (words[ADDRESS_HIGH] as number) * 2 ** 32;
    const kind = words[KIND] as number;
    const value = (words[VALUE] as number) >>> 0;
    // A size is 1, 2 or 4 here: the guest's own side put it there (the guest thread is trusted as far as this channel goes, its memory is not).
    const size = words[SIZE] as AccessSize;
    words[FAST] = FAST_NONE;
    if (kind === MMIO_READ) words[VALUE] = this.#target.mmioRead(address, size);
    else if (kind === IO_READ) words[VALUE] = this.#target.ioRead(address, size);
    else if (kind === IO_WRITE) this.#target.ioWrite(address, size, value);
    else {
      this.#target.mmioWrite(address, size, value);
      this.#offerDoorbell(address, size, value);
    }
  }

  #offerDoorbell(address: number, size: AccessSize, value: number): void {
    // Generation first: if decoding changes while we look, the guest's copy is already stale.
    const generation = Atomics.load(this.#generation, 0);
    const fast = this.#target.doorbell(address, size, value);
    if (fast === undefined) return;
    const share = fast.doorbell.share();
    // Only doorbells in the buffer the guest has open can be named to it.
    const { buffer } = this.#words;
    if (share.pending.buffer !== buffer || share.revocations.buffer !== buffer || share.bell.buffer !== buffer) return;
    const words = this.#state;
    words[FAST] = fast.match === 'address' ? FAST_ADDRESS : FAST_VALUE;
    words[FAST_DOORBELL] = share.pending.index;
    words[FAST_REVOKED] = share.revocations.index;
    words[FAST_BELL] = share.bell.index;
    words[FAST_REVOCATIONS] = fast.doorbell.revocations;
    words[FAST_GENERATION] = generation;
  }
}

export interface OpenGuestBusOptions {
  /** Milliseconds an access may take before the machine counts as gone. */
  readonly timeout?: number;
}

/** The bus of a guest on its own thread. @throws MachineGoneError out of an access when the machine closed or does not answer. */
export function openGuestBus(share: GuestBusShare, options: OpenGuestBusOptions = {}): GuestBus {
  return new ThreadGuestBus(share, options.timeout ?? 20_000);
}

class ThreadGuestBus implements GuestBus {
  readonly platform: PlatformDescription;
  readonly memory: GuestMemory;
  readonly vectors: PendingVectors;
  readonly lines: IntxLines;
  readonly counts: BusCounts = { exits: 0, fastKicks: 0, fastKickWakes: 0, halts: 0 };
  readonly #state: Int32Array;
  readonly #bell: Bell;
  readonly #arena: SharedArrayBuffer;
  readonly #generation: Int32Array;
  readonly #timeout: number;
  readonly #timeZero: number;
  readonly #fast = new FastKicks();
  #fastGeneration = 0;

  constructor(share: GuestBusShare, timeout: number) {
    this.platform = share.platform;
    this.memory = GuestMemory.open(share.memory);
    this.vectors = PendingVectors.open(share.vectors);
    this.lines = new IntxLines(share.lines);
    this.#state = new Int32Array(share.words.buffer, share.words.index * 4, 16);
    this.#arena = share.words.buffer;
    this.#bell = new Bell(share.bell);
    this.#generation = new Int32Array(share.generation.buffer, share.generation.index * 4, 1);
    this.#timeout = timeout;
    this.#timeZero = share.timeZero;
  }

  mmioRead(address: number, size: AccessSize): number {
    return this.#exit(MMIO_READ, address, size, 0);
  }

  mmioWrite(address: number, size: AccessSize, value: number): void {
    if (this.#kick(address, size, value)) return;
    this.#exit(MMIO_WRITE, address, size, value);
    this.#learn(address, size, value);
  }

  ioRead(port: number, size: AccessSize): number {
    return this.#exit(IO_READ, port, size, 0);
  }

  ioWrite(port: number, size: AccessSize, value: number): void {
    this.#exit(IO_WRITE, port, size, value);
  }

  now(): Nanos {
    return (performance.timeOrigin - this.#timeZero + performance.now()) * 1e6;
  }

  waitForInterrupt(timeout: number): boolean {
    const { vectors } = this;
    const ticket = vectors.bell.ticket;
    if (vectors.any) return true;
    this.counts.halts++;
    vectors.bell.wait(ticket, timeout);
    return vectors.any;
  }

  async waitForInterruptAsync(timeout: number): Promise<boolean> {
    const ticket = this.vectors.bell.ticket;
    if (this.vectors.any) return true;
    this.counts.halts++;
    await this.vectors.bell.waitAsync(ticket, timeout);
    return this.vectors.any;
  }

  /** Rings the doorbell this write stands for. False when there is none, or when it may no longer be the right one: then the write has to exit. */
  #kick(address: number, size: AccessSize, value: number): boolean {
    if (Atomics.load(this.#generation, 0) !== this.#fastGeneration) {
      this.#fast.clear();
      return false;
    }
    const kick = this.#fast.find(address, value);
    if (kick === undefined || kick.size !== size || kick.doorbell.revocations !== kick.revocations) return false;
    if (kick.doorbell.ring()) this.counts.fastKickWakes++;
    // Look again after ringing. Moved meanwhile: the ring may have come too late for the one and too early for the other, so exit as well
    // (one notification too many does no harm). Not moved: whoever moves it later looks at the queue after that, and sees what we kicked for.
    if (kick.doorbell.revocations !== kick.revocations || Atomics.load(this.#generation, 0) !== this.#fastGeneration) return false;
    this.counts.fastKicks++;
    return true;
  }

  #learn(address: number, size: AccessSize, value: number): void {
    const words = this.#state;
    const fast = words[FAST] as number;
    if (fast === FAST_NONE) return;
    const generation = words[FAST_GENERATION] as number;
    if (generation !== this.#fastGeneration) this.#fast.clear();
    this.#fastGeneration = generation;
    const buffer = this.#arena;
    const doorbell = new Doorbell(new Bell({ buffer, index: words[FAST_BELL] as number }), {
      pending: { buffer, index: words[FAST_DOORBELL] as number },
      revocations: { buffer, index: words[FAST_REVOKED] as number },
    });
    this.#fast.add({ address, value: fast === FAST_ADDRESS ? ANY_VALUE : value, size, doorbell, revocations: words[FAST_REVOCATIONS] as number });
  }

  #exit(kind: number, address: number, size: AccessSize, value: number): number {
    this.counts.exits++;
    const words = this.#state;
    words[KIND] = kind;
    words[ADDRESS_LOW] = address | 0;
    words[ADDRESS_HIGH] = Math.floor(address / 2 ** 32);
    words[SIZE] = size;
    words[VALUE] = value | 0;
    if (Atomics.compareExchange(words, STATE, IDLE, REQUEST) !== IDLE) throw gone();
    this.#bell.ring();
    for (let poll = 0; poll < POLLS; poll++) if (Atomics.load(words, STATE) !== REQUEST) return this.#reply();
    const deadline = performance.now() + this.#timeout;
    Atomics.store(words, SLEEPING, 1);
    while (Atomics.load(words, STATE) === REQUEST) {
      const left = deadline - performance.now();
      if (left <= 0 && Atomics.compareExchange(words, STATE, REQUEST, CLOSED) === REQUEST)
        throw new MachineGoneError(`the machine has not served a bus access within ${this.#timeout} ms: its thread is blocked or gone`);
      Atomics.wait(words, STATE, REQUEST, Math.max(left, 0));
    }
    Atomics.store(words, SLEEPING, 0);
    return this.#reply();
  }

  #reply(): number {
    const value = (this.#state[VALUE] as number) >>> 0;
    if (Atomics.compareExchange(this.#state, STATE, REPLY, IDLE) !== REPLY) throw gone();
    return value;
  }
}

function gone(): MachineGoneError {
  return new MachineGoneError('the machine has closed: detach its guests first, or end the guest thread');
}
