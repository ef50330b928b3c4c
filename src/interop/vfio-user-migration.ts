// Migration of a device over vfio-user: the device's states (the kernel's VFIO migration, version 2, without P2P) and the stream that a client carries from one server
// to another. The stream is records: who this is, a saved state (in PRE_COPY an early one, for the other side to refuse early and so that an unchanged device has nothing
// more to send), and an end. The other side's stream is not trusted.

import { RestoreError } from '#core/saved';
import type { Machine } from '#nicbox/machine';
import { decodeState, encodeState } from './state-codec.ts';
import { EINVAL, Refusal } from './vfio-user-protocol.ts';

const ERROR = 0;
const STOP = 1;
const RUNNING = 2;
const STOP_COPY = 3;
const RESUMING = 4;
const PRE_COPY = 6;

const STATE_NAMES: Readonly<Record<number, string>> = {
  [ERROR]: 'ERROR',
  [STOP]: 'STOP',
  [RUNNING]: 'RUNNING',
  [STOP_COPY]: 'STOP_COPY',
  [RESUMING]: 'RESUMING',
  [PRE_COPY]: 'PRE_COPY',
};

/** The arcs there are; longer ways are made of them. */
const ARCS: Readonly<Record<number, readonly number[]>> = {
  [STOP]: [RUNNING, STOP_COPY, RESUMING],
  [RUNNING]: [STOP, PRE_COPY],
  [STOP_COPY]: [STOP],
  [RESUMING]: [STOP],
  [PRE_COPY]: [RUNNING, STOP_COPY],
};

const EBUSY = 16;

const RECORD_IDENTITY = 1;
const RECORD_STATE = 2;
/** As the last state record. */
const RECORD_SAME = 3;
const RECORD_END = 4;
const RECORD_HEADER = 8;
/** Many times what the largest device takes; text of this length cannot become more objects than there is memory for. */
const MOST_STREAM = 8 * 2 ** 20;

export interface MigrationParts {
  readonly machine: Machine;
  /** What a stream has to be of. */
  readonly identity: string;
  /** What there is to save besides the machine. */
  readonly interrupts: { save(): unknown; restore(state: unknown): void; resume(): void };
  /** A state was loaded. */
  readonly onLoaded: () => void;
}

export class VfioUserMigration {
  readonly #parts: MigrationParts;
  #state = RUNNING;
  #paused = false;
  #output: Uint8Array = new Uint8Array(0);
  // Grown as it fills: a client may bring it in any number of pieces.
  #input = new Uint8Array(0);
  #received = 0;
  #early: Uint8Array | undefined;

  constructor(parts: MigrationParts) {
    this.#parts = parts;
  }

  /** A VFIO device state. */
  get state(): number {
    return this.#state;
  }

  get stateName(): string {
    return STATE_NAMES[this.#state] as string;
  }

  /** Whether the device can be migrated at all. */
  get possible(): boolean {
    return this.#parts.machine.saveable;
  }

  // ---- states ----

  /** Goes to `target` over the shortest way. @throws Refusal, in the state it got to */
  async setState(target: number): Promise<void> {
    const path = this.#path(target);
    if (path === undefined) throw new Refusal(EINVAL, `no way from state ${this.stateName} to ${STATE_NAMES[target] ?? target}`);
    for (const next of path) {
      await this.#arc(next);
      this.#state = next;
    }
  }

  /** States to pass, the last one `target`; none of a saving state in between. */
  #path(target: number): number[] | undefined {
    if (target === this.#state && target !== ERROR) return [];
    if (this.#state === STOP_COPY && target === PRE_COPY) return undefined;
    const ways: number[][] = [[this.#state]];
    for (let way = ways.shift(); way !== undefined; way = ways.shift()) {
      const last = way.at(-1) as number;
      if (way.length > 1 && (last === PRE_COPY || last === STOP_COPY)) continue;
      for (const next of ARCS[last] ?? []) {
        if (next === target) return [...way.slice(1), next];
        if (!way.includes(next)) ways.push([...way, next]);
      }
    }
    return undefined;
  }

  async #arc(next: number): Promise<void> {
    const { machine, interrupts } = this.#parts;
    try {
      if (next === PRE_COPY) {
        this.#early = encodeState({ machine: await machine.save(), interrupts: interrupts.save() });
        this.#output = Buffer.concat([this.#identity, record(RECORD_STATE, this.#early)]);
      } else if (next === STOP_COPY) {
        const state = encodeState({ machine: await machine.save({ stay: 'paused' }), interrupts: interrupts.save() });
        this.#paused = true;
        const early = this.#state === PRE_COPY ? this.#early : undefined;
        const last = early !== undefined && Buffer.compare(early, state) === 0 ? record(RECORD_SAME) : record(RECORD_STATE, state);
        this.#output = Buffer.concat([early === undefined ? this.#identity : this.#output, last, record(RECORD_END)]);
        this.#early = undefined;
      } else if (next === RUNNING) {
        this.#drop();
        if (this.#paused) machine.resume();
        this.#paused = false;
      } else if (next === RESUMING) {
        this.#drop();
      } else {
        if (this.#state === RESUMING) await this.#resume();
        else await machine.pause();
        this.#paused = true;
        this.#drop();
      }
    } catch (error) {
      if (error instanceof Refusal) throw error;
      throw new Refusal(EBUSY, `state ${STATE_NAMES[next]}: ${(error as Error).message}`);
    }
  }

  get #identity(): Uint8Array {
    return record(RECORD_IDENTITY, Buffer.from(this.#parts.identity));
  }

  #drop(): void {
    this.#output = new Uint8Array(0);
    this.#input = new Uint8Array(0);
    this.#received = 0;
    this.#early = undefined;
  }

  async #resume(): Promise<void> {
    const { machine, interrupts, onLoaded } = this.#parts;
    try {
      const state = decodeState(readStream(Buffer.from(this.#input.buffer, 0, this.#received), this.#parts.identity)) as {
        machine?: unknown;
        interrupts?: unknown;
      } | null;
      await machine.restore(state?.machine, { stay: 'paused' });
      interrupts.restore(state?.interrupts);
      interrupts.resume();
      onLoaded();
    } catch (error) {
      if (!(error instanceof RestoreError)) throw error;
      // Nothing has changed, but what the client wants cannot be had any more.
      this.#drop();
      await machine.pause();
      this.#paused = true;
      this.#state = ERROR;
      throw new Refusal(EINVAL, `migration data refused: ${error.message}`);
    }
  }

  /** The device was reset: it runs, whatever its state was. */
  reset(): void {
    this.#drop();
    this.#state = RUNNING;
    if (this.#paused) this.#parts.machine.resume();
    this.#paused = false;
  }

  // ---- data ----

  /** At most so many bytes; fewer: there are no more for now. @throws Refusal outside the saving states */
  read(bytes: number): Uint8Array {
    if (this.#state !== PRE_COPY && this.#state !== STOP_COPY) throw new Refusal(EINVAL, `no migration data in state ${this.stateName}`);
    const piece = this.#output.subarray(0, bytes);
    this.#output = this.#output.subarray(piece.length);
    return piece;
  }

  /** @throws Refusal outside RESUMING, or when it is more than any device has */
  write(bytes: Uint8Array): void {
    if (this.#state !== RESUMING) throw new Refusal(EINVAL, `migration data in state ${this.stateName}`);
    if (this.#received + bytes.length > MOST_STREAM) throw new Refusal(EINVAL, `more than ${MOST_STREAM} bytes of migration data`);
    const needed = this.#received + bytes.length;
    if (needed > this.#input.length) {
      const larger = new Uint8Array(Math.max(needed, Math.min(2 * this.#input.length, MOST_STREAM)));
      larger.set(this.#input.subarray(0, this.#received));
      this.#input = larger;
    }
    this.#input.set(bytes, this.#received);
    this.#received = needed;
  }
}

function record(kind: number, payload: Uint8Array = new Uint8Array(0)): Uint8Array {
  const bytes = Buffer.alloc(RECORD_HEADER + payload.length);
  bytes.writeUInt32LE(kind, 0);
  bytes.writeUInt32LE(payload.length, 4);
  bytes.set(payload, RECORD_HEADER);
  return bytes;
}

/** The state that a whole stream ends with. @throws RestoreError */
function readStream(stream: Buffer, identity: string): Uint8Array {
  let identified = false;
  let state: Uint8Array | undefined;
  for (let at = 0; at + RECORD_HEADER <= stream.length; ) {
    const kind = stream.readUInt32LE(at);
    const length = stream.readUInt32LE(at + 4);
    at += RECORD_HEADER;
    if (at + length > stream.length) throw new RestoreError('the stream ends inside a record');
    const payload = stream.subarray(at, at + length);
    at += length;
    if (kind === RECORD_IDENTITY) {
      const theirs = payload.toString();
      if (theirs !== identity) throw new RestoreError(`the stream is of "${theirs.slice(0, 200)}", this is "${identity}"`);
      identified = true;
    } else if (!identified) throw new RestoreError('the stream does not say whose it is');
    else if (kind === RECORD_STATE) state = payload;
    else if (kind === RECORD_END) {
      if (state === undefined || at !== stream.length) throw new RestoreError('the stream has no state before its end, or something behind it');
      return state;
    } else if (kind !== RECORD_SAME) throw new RestoreError(`the stream has a record of kind ${kind}`);
  }
  throw new RestoreError('the stream has no end');
}
