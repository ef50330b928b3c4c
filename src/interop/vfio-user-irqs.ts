// Interrupts of a device that a vfio-user client drives: each is an event descriptor of the client's (SET_IRQS). INTx is a level that masks itself when signalled. MSI-X:
// our real table is programmed here - vector n sends a message that stands for descriptor n, or is masked and stays pending while there is none - and what a
// client writes to "the table" goes to a copy, whose mask bits count once it has written them. QEMU never does: it keeps the guest's table to itself.

import type { Region } from '#core/region';
import { RestoreError } from '#core/saved';
import type { PciFunction } from '#pci/function';
import { Msi } from '#pci/msi';
import { Msix } from '#pci/msix';
import { MSIX_ENTRY_BYTES, MsixTable } from '#pci/msix-table';
import type { MsiMessage } from '#pci/ports';
import type { EventPoll, Watch } from './event-poll.ts';
import type { Native } from './native.ts';
import { EINVAL, Refusal } from './vfio-user-protocol.ts';

const INTX = 0;
const MSI = 1;
const MSIX = 2;
export const ERR = 3;
export const REQ = 4;
export const IRQ_KINDS = 5;

const INFO_EVENTFD = 1;
const INFO_MASKABLE = 2;
const INFO_AUTOMASKED = 4;

const DATA_NONE = 1;
const DATA_BOOL = 2;
const DATA_EVENTFD = 4;
const DATA = 7;
const ACTION_MASK = 8;
const ACTION_TRIGGER = 32;
/** Mask, unmask (16), trigger. */
const ACTION = 56;

const NONE = -1;
const MESSAGE_ADDRESS = 0xfee0_0000;

/** One interrupt: who is told, and whether it may be told now. */
interface Line {
  event: number;
  masked: boolean;
  /** MSI only: raised while it could not be sent. (MSI-X has its pending bits, INTx its level.) */
  pending: boolean;
}

export interface IrqParts {
  readonly native: Native;
  readonly poll: EventPoll;
}

export class VfioUserIrqs {
  readonly #parts: IrqParts;
  readonly #kinds: readonly (readonly Line[])[];
  readonly #fn: PciFunction;
  readonly #msi: Msi | undefined;
  readonly #msix: Msix | undefined;
  /** What the client wrote to the table. */
  readonly #copy: MsixTable | undefined;
  readonly #written: boolean[];
  #level = false;
  /** Descriptors by which the client unmasks (and masks) INTx. */
  readonly #switches = new Map<number, { readonly fd: number; readonly watch: Watch }>();
  readonly #count = new Uint8Array(new ArrayBuffer(8));

  constructor(parts: IrqParts, fn: PciFunction) {
    this.#parts = parts;
    this.#fn = fn;
    this.#msi = fn.capabilities.find((c) => c instanceof Msi);
    this.#msix = fn.capabilities.find((c) => c instanceof Msix);
    const vectors = this.#msix?.vectors ?? 0;
    const counts = [fn.config.get8(0x3d) === 0 ? 0 : 1, this.#msi?.vectors ?? 0, vectors, 1, 1];
    this.#kinds = counts.map((count) => Array.from({ length: count }, () => ({ event: NONE, masked: false, pending: false })));
    this.#written = new Array<boolean>(vectors).fill(false);
    this.#copy =
      this.#msix &&
      new MsixTable(vectors, {
        send: () => false,
        changed: (vector) => {
          this.#written[vector] = true;
          this.#program(vector);
        },
      });
  }

  info(kind: number): { readonly flags: number; readonly count: number } | undefined {
    const lines = this.#kinds[kind];
    if (lines === undefined) return undefined;
    const more = kind === INTX ? INFO_MASKABLE | INFO_AUTOMASKED : kind === MSI || kind === MSIX ? INFO_MASKABLE : 0;
    return { flags: INFO_EVENTFD | more, count: lines.length };
  }

  // ---- what the device says ----

  message(message: MsiMessage): void {
    if (this.#fn.interrupts.mode === 'msix') this.#signal(this.#kinds[MSIX]?.[message.data]);
    else if (this.#msi !== undefined) this.#raiseMsi(this.#kinds[MSI]?.[message.data & (this.#msi.allocated - 1)]);
  }

  #raiseMsi(line: Line | undefined): void {
    if (line === undefined) return;
    line.pending = line.event === NONE || line.masked;
    if (!line.pending) this.#signal(line);
  }

  /** The descriptor that stands for a message as long as the route holds. */
  eventOf(message: MsiMessage): number | undefined {
    if (this.#fn.interrupts.mode !== 'msix') return undefined;
    const event = this.#kinds[MSIX]?.[message.data]?.event ?? NONE;
    return event === NONE ? undefined : event;
  }

  setIntx(asserted: boolean): void {
    this.#level = asserted;
    this.#offerIntx();
  }

  #offerIntx(): void {
    const line = this.#kinds[INTX]?.[0];
    if (line === undefined || !this.#level || line.masked || line.event === NONE) return;
    // A level is told once, and again when the client has dealt with it and it is still there.
    line.masked = true;
    this.#signal(line);
  }

  /** Tells the client that the device failed (ERR), or that it is wanted back (REQ). Returns whether the client wants to know. */
  notify(kind: typeof ERR | typeof REQ): boolean {
    const line = this.#kinds[kind]?.[0];
    this.#signal(line);
    return line !== undefined && line.event !== NONE;
  }

  #signal(line: Line | undefined): void {
    if (line !== undefined && line.event !== NONE) this.#parts.native.events.writeEvent(line.event);
  }

  // ---- SET_IRQS ----

  /** Takes what it keeps out of `fds`. @throws Refusal, with nothing changed */
  set(flags: number, kind: number, start: number, count: number, data: DataView, fds: number[]): void {
    const type = flags & DATA;
    const action = flags & ACTION;
    const lines = this.#kinds[kind];
    const what = `interrupts ${start} to ${start + count} of kind ${kind}, flags 0x${flags.toString(16)}`;
    if (lines === undefined || (flags & ~(DATA | ACTION)) !== 0 || !oneBit(type) || !oneBit(action)) throw new Refusal(EINVAL, what);
    if (start + count > lines.length || (count === 0 && (start !== 0 || type !== DATA_NONE || action !== ACTION_TRIGGER)))
      throw new Refusal(EINVAL, `${what}: there are ${lines.length}`);
    if (action !== ACTION_TRIGGER && kind > MSIX) throw new Refusal(EINVAL, `${what}: they have no mask`);
    if (type === DATA_BOOL ? data.byteLength < count : data.byteLength > 0 && type === DATA_NONE)
      throw new Refusal(EINVAL, `${what}: ${data.byteLength} bytes of data`);
    if (fds.length > 0 && (type !== DATA_EVENTFD || fds.length !== count)) throw new Refusal(EINVAL, `${what}: with ${fds.length} descriptors`);
    if (!fds.every((fd) => this.#parts.native.events.isEvent(fd))) throw new Refusal(EINVAL, `${what}: a descriptor is neither an eventfd nor a socket`);
    if (count === 0) this.#tearDown(kind, lines);
    else if (type === DATA_EVENTFD && action === ACTION_TRIGGER)
      for (let i = start; i < start + count; i++) this.#connect(kind, i, lines[i] as Line, fds.shift() ?? NONE);
    else if (type === DATA_EVENTFD) this.#setSwitch(kind, action, fds.shift() ?? NONE, what);
    else
      for (let i = 0; i < count; i++) {
        if (type === DATA_BOOL && data.getUint8(i) === 0) continue;
        this.#act(kind, start + i, lines[start + i] as Line, action);
      }
  }

  #act(kind: number, index: number, line: Line, action: number): void {
    if (action === ACTION_TRIGGER) {
      this.#signal(line);
      return;
    }
    line.masked = action === ACTION_MASK;
    this.#changed(kind, index, line);
  }

  /** What follows when who is told, or whether, has changed. */
  #changed(kind: number, index: number, line: Line): void {
    if (kind === MSIX) this.#program(index);
    else if (kind === INTX) this.#offerIntx();
    else if (line.pending) this.#raiseMsi(line);
  }

  #connect(kind: number, index: number, line: Line, event: number): void {
    const { native } = this.#parts;
    // Writes to it must never keep this thread, whatever it is.
    if (event !== NONE) native.events.setNonBlocking(event);
    const old = line.event;
    line.event = NONE;
    if (old !== NONE) {
      this.#changed(kind, index, line);
      // A thread that still has it in hand is done with it when its turn is over.
      if (kind === MSIX) this.#fn.services?.dma.betweenTurns(() => {});
      native.close(old);
    }
    line.event = event;
    if (kind === INTX && event === NONE) line.masked = false;
    this.#changed(kind, index, line);
  }

  #tearDown(kind: number, lines: readonly Line[]): void {
    if (kind === INTX) for (const action of [...this.#switches.keys()]) this.#dropSwitch(action);
    lines.forEach((line, index) => {
      line.masked = false;
      line.pending = false;
      if (line.event !== NONE) this.#connect(kind, index, line, NONE);
    });
  }

  /** A descriptor whose every signal masks or unmasks INTx, as the kernel's VFIO has it (resampling). */
  #setSwitch(kind: number, action: number, fd: number, what: string): void {
    if (kind !== INTX) {
      if (fd !== NONE) this.#parts.native.close(fd);
      throw new Refusal(EINVAL, `${what}: only INTx is masked by descriptors`);
    }
    this.#dropSwitch(action);
    if (fd === NONE) return;
    const { native, poll } = this.#parts;
    native.events.setNonBlocking(fd);
    const line = this.#kinds[INTX]?.[0] as Line;
    const watch = poll.add(fd, () => {
      if (native.events.readEvent(fd, this.#count) > 0) this.#act(INTX, 0, line, action);
    });
    if (typeof watch === 'number') {
      native.close(fd);
      throw new Refusal(EINVAL, `${what}: the descriptor cannot be waited for`);
    }
    this.#switches.set(action, { fd, watch });
  }

  #dropSwitch(action: number): void {
    const old = this.#switches.get(action);
    if (old === undefined) return;
    this.#switches.delete(action);
    old.watch.remove();
    this.#parts.native.close(old.fd);
  }

  // ---- the MSI-X table ----

  /** BAR `index` as the client sees it: with the copy in place of the table. */
  bar(index: number, region: Region): Region {
    const copy = this.#copy;
    const place = this.#msix?.options.table;
    if (copy === undefined || place?.bar !== index) return region;
    const { table } = copy;
    const inside = (offset: number): boolean => offset >= place.offset && offset < place.offset + table.size;
    return {
      size: region.size,
      read: (offset, size) => (inside(offset) ? table.read(offset - place.offset, size) : region.read(offset, size)),
      write: (offset, size, value) => {
        if (inside(offset)) table.write(offset - place.offset, size, value);
        else region.write(offset, size, value);
      },
    };
  }

  /** Brings the real table into line, and the copy with a table that was reset. Call after whatever may have reset the function. */
  sync(): void {
    for (let vector = 0; vector < this.#written.length; vector++) this.#program(vector);
  }

  #program(vector: number): void {
    const real = this.#msix?.table;
    const line = this.#kinds[MSIX]?.[vector];
    if (real === undefined || line === undefined) return;
    const at = vector * MSIX_ENTRY_BYTES;
    const put = (offset: number, value: number): void => {
      if (real.read(at + offset, 4) !== value) real.write(at + offset, 4, value);
    };
    put(0, MESSAGE_ADDRESS);
    put(4, 0);
    put(8, vector);
    put(12, line.event === NONE || line.masked || (this.#written[vector] && this.#copy?.masked(vector)) ? 1 : 0);
  }

  /** The function was reset: the table is as after power-on for the client too. */
  reset(): void {
    this.#copy?.reset();
    this.#written.fill(false);
    for (const line of this.#kinds[MSI] ?? []) line.pending = false;
    const intx = this.#kinds[INTX]?.[0];
    if (intx !== undefined) intx.masked = false;
    this.sync();
  }

  /** The client is gone. */
  close(): void {
    this.#kinds.forEach((lines, kind) => {
      this.#tearDown(kind, lines);
    });
    this.reset();
  }

  // ---- saved state: what the client wrote; descriptors belong to a connection ----

  save(): unknown {
    return { table: this.#copy?.save() ?? null, written: [...this.#written], pending: (this.#kinds[MSI] ?? []).map(({ pending }) => pending) };
  }

  /** @throws RestoreError */
  restore(state: unknown): void {
    const { table, written, pending } = (state ?? {}) as { table?: unknown; written?: unknown; pending?: unknown };
    const flags = (value: unknown, length: number): value is boolean[] =>
      Array.isArray(value) && value.length === length && value.every((v) => typeof v === 'boolean');
    const msi = this.#kinds[MSI] ?? [];
    if (!flags(written, this.#written.length) || !flags(pending, msi.length) || (this.#copy === undefined ? table !== null : !this.#copy.accepts(table)))
      throw new RestoreError('saved interrupt state does not fit this function');
    this.#copy?.restore(table as ReturnType<MsixTable['save']>);
    written.forEach((value, i) => {
      this.#written[i] = value;
    });
    msi.forEach((line, i) => {
      line.pending = pending[i] as boolean;
    });
  }

  /** After a restore: what the new client is owed. */
  resume(): void {
    this.sync();
    this.#offerIntx();
    for (const line of this.#kinds[MSI] ?? []) if (line.pending) this.#raiseMsi(line);
  }
}

function oneBit(value: number): boolean {
  return value !== 0 && (value & (value - 1)) === 0;
}
