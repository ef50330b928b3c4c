// One PCI function behind user-mode Linux's PCI-over-virtio device, as a vhost-user back end with two queues: the guest's accesses to configuration space and BARs arrive on the first,
// in order, and are carried out inside the machine; interrupts leave on the second. While the first queue runs, the function reaches the guest's memory.

import type { Doorbell } from '#core/doorbell';
import type { Call } from '#core/interrupts';
import type { Iommu, IommuDomain } from '#core/iommu';
import type { Log } from '#core/log';
import { widestPiece } from '#core/region';
import { SegmentList } from '#core/segments';
import type { Machine } from '#nicbox/machine';
import { FeatureSet } from '#virtio/features';
import { ChainReader } from '#virtio/net-control/chain-reader';
import { ChainWriter } from '#virtio/net-control/chain-writer';
import { openQueue } from '#virtio/open-queue';
import type { VhostBackend, VhostEvent, VhostSession, VringState } from '#virtio/vhost';
import { QUEUE_BROKEN, QUEUE_EMPTY, type QueueSetup, type VirtQueue, type VringPosition } from '#virtio/virtqueue';
import { type AccessWatch, bytesThrough, type GuestBytes } from './access-watch.ts';
import type { MemoryArena } from './memory-arena.ts';
import { PcidevInterrupts } from './pcidev-interrupts.ts';
import { CFG_READ, CFG_WRITE, HEADER_BYTES, MMIO_MEMSET, MMIO_READ } from './pcidev-messages.ts';

const COMMANDS = 0;
const INTERRUPTS = 1;
/** Bytes that one message may move: whole BARs of what drivers copy to and from. */
const MOST_BYTES = 65536;
/** As much as the largest BAR has. */
const MOST_SET_BYTES = 2 ** 17;
/** A chain is a header, perhaps data, perhaps a place for an answer. */
const MOST_SEGMENTS = 256;
/** Messages served before everybody else gets a turn. */
const MESSAGES_PER_TURN = 512;
/** The guest waits for each answer without sleeping, and asks again soon: so long, in milliseconds, its next message is looked for. */
const LOOK_ON = 0.03;
const TURN = 2;

export interface PcidevFunctionParts {
  readonly machine: Machine;
  readonly arena: MemoryArena;
  readonly iommu: Iommu;
  readonly bdf: number;
  readonly log: Log;
  readonly watch?: ((bdf: number, memory: GuestBytes) => AccessWatch | undefined) | undefined;
}

export interface PcidevStatistics {
  readonly configAccesses: number;
  readonly memoryAccesses: number;
  /** INTx messages sent, and message-signalled ones. */
  readonly pins: number;
  readonly messages: number;
  /** What was no message. */
  readonly badMessages: number;
}

export class PcidevFunction implements VhostBackend {
  readonly name: string;
  readonly features = new FeatureSet();
  readonly maxQueuePairs = 1;
  onEvent: ((event: VhostEvent) => void) | undefined;
  readonly #parts: PcidevFunctionParts;
  readonly #domain: IommuDomain;
  readonly #queues: (VirtQueue | undefined)[] = [undefined, undefined];
  readonly #positions: VringPosition[] = [];
  readonly #calls: (Call | undefined)[] = [];
  readonly #interrupts: PcidevInterrupts;
  /** Of the message in hand. */
  readonly #segments: SegmentList;
  readonly #reader: ChainReader;
  readonly #watch: AccessWatch | undefined;
  #session: VhostSession | undefined;
  #writer: ChainWriter | undefined;
  #serving = false;
  #soon: NodeJS.Immediate | undefined;
  readonly #counts = { configAccesses: 0, memoryAccesses: 0, badMessages: 0 };

  constructor(parts: PcidevFunctionParts) {
    const { machine, arena, iommu, bdf } = parts;
    this.#parts = parts;
    this.name = `pcidev ${(bdf >>> 3).toString(16).padStart(2, '0')}.${bdf & 7}`;
    this.#domain = iommu.domain();
    iommu.attach(bdf, this.#domain);
    const { views } = arena.memory.slabs[0] as { views: SegmentList['views'][number] };
    this.#segments = new SegmentList(MOST_SEGMENTS, views);
    this.#interrupts = new PcidevInterrupts(machine.clock, parts.log, views, (reason) => this.#break(INTERRUPTS, reason));
    this.#reader = new ChainReader(this.#segments);
    this.#watch = parts.watch?.(bdf, bytesThrough(this.#domain, parts.arena.memory));
  }

  get statistics(): PcidevStatistics {
    const { pins, messages } = this.#interrupts;
    return { ...this.#counts, pins, messages };
  }

  /** The guest is gone: the function as after power-on, for the next. */
  powerCycle(): void {
    const { machine, bdf } = this.#parts;
    const fn = machine.fabric.functionAt(bdf);
    if (fn !== undefined) machine.fabric.powerCycle(fn);
    this.#watch?.gone();
    this.#interrupts.forget();
  }

  close(): void {
    this.powerCycle();
    clearImmediate(this.#soon);
    this.#parts.iommu.detach(this.#parts.bdf);
  }

  // ---- VhostBackend ----

  open(session: VhostSession): void {
    this.#session = session;
    this.#writer = new ChainWriter(this.#segments, session.memory);
  }

  startVring(index: number, setup: QueueSetup, position: VringPosition, call: Call): void {
    const session = this.#session as VhostSession;
    const queue = openQueue(setup, position, session.features, session.memory);
    this.#positions[index] = position;
    this.#calls[index] = call;
    if (typeof queue === 'string') {
      this.#break(index, queue);
      return;
    }
    this.#queues[index] = queue;
    if (index === COMMANDS) this.#mapMemory(session);
    else this.#interrupts.start(queue, call, session.memory);
    this.#serveSoon();
  }

  stopVring(index: number): void {
    const queue = this.#queues[index];
    if (queue === undefined) return;
    this.#positions[index] = queue.position;
    this.#queues[index] = undefined;
    if (index === COMMANDS) this.#unmapMemory();
    else this.#interrupts.stop();
  }

  vringState(index: number): VringState {
    return this.#queues[index] === undefined ? 'stopped' : 'running';
  }

  vringPosition(index: number): VringPosition {
    return this.#queues[index]?.position ?? this.#positions[index] ?? { available: 0, used: 0 };
  }

  kick(index: number): void {
    if (index === COMMANDS) this.#serve();
    else this.#interrupts.flush();
  }

  kickDoorbell(): Doorbell | undefined {
    return undefined;
  }

  policyChanged(): void {
    // There is no policy: nothing is filtered here.
  }

  #break(index: number, reason: string): void {
    // What is started is told of afterwards, as by any other backend.
    queueMicrotask(() => {
      this.stopVring(index);
      this.onEvent?.({ kind: 'broken', index, reason });
    });
  }

  // ---- the guest's memory ----

  #mapMemory({ memory }: VhostSession): void {
    for (const { base, size, views } of memory.memory.slabs) {
      const address = this.#parts.arena.addressOf(views.u8.buffer, views.u8.byteOffset);
      if (address !== undefined) this.#domain.map(base, address, size);
    }
  }

  /** Returns when no thread moves data there any more. */
  #unmapMemory(): void {
    for (const { iova, size } of [...this.#domain.mappings]) this.#domain.unmap(iova, size);
  }

  // ---- accesses ----

  #serveSoon(): void {
    this.#soon ??= setImmediate(() => {
      this.#soon = undefined;
      this.#serve();
      this.#interrupts.flush();
    });
  }

  #serve(): void {
    const queue = this.#queues[COMMANDS];
    // An access may lead back here only through the event loop.
    if (queue === undefined || this.#serving) return;
    this.#serving = true;
    try {
      this.#serveQueue(queue);
    } finally {
      this.#serving = false;
    }
  }

  #serveQueue(queue: VirtQueue): void {
    if (!queue.resync()) {
      if (queue.broken !== undefined) this.#break(COMMANDS, queue.broken);
      return;
    }
    queue.suppressKicks();
    const start = performance.now();
    let left = MESSAGES_PER_TURN;
    do {
      let last = start;
      for (let look = 1; ; look++) {
        if (queue.ready) {
          const taken = this.#one(queue);
          if (taken === QUEUE_BROKEN) {
            this.#break(COMMANDS, queue.broken ?? 'broken');
            return;
          }
          // Stopped meanwhile: what the message did was the end of it.
          if (this.#queues[COMMANDS] !== queue) return;
          last = 0;
          left--;
        } else if (look % 16 !== 0) continue;
        // After each message: one may be as much work as thousands of others.
        const now = performance.now();
        if (last === 0) last = now;
        if (left === 0 || now - start > TURN) {
          // Guests that never stop asking let others be served in between.
          this.#serveSoon();
          return;
        }
        if (now - last > LOOK_ON) break;
      }
    } while (queue.awaitKick());
  }

  /** Takes one message, carries it out and gives it back. */
  #one(queue: VirtQueue): number {
    this.#segments.truncate(0);
    const token = queue.pop(this.#segments);
    if (token === QUEUE_EMPTY || token === QUEUE_BROKEN) return token;
    const reader = this.#reader;
    const writer = this.#writer as ChainWriter;
    reader.begin(queue.readableSegments, queue.readableBytes);
    writer.begin(queue.readableSegments, queue.writableBytes);
    const wrong = this.#access(reader, writer);
    if (wrong !== undefined) {
      this.#counts.badMessages++;
      this.#parts.log.guestError(`message refused: ${wrong}`);
      // Whoever reads gets what nobody answering looks like.
      while (writer.remaining > 0 && writer.written < MOST_BYTES) writer.u8(0xff);
    }
    queue.push(token, writer.written);
    if (queue.publish()) this.#calls[COMMANDS]?.signal();
    return token;
  }

  /** Returns what is wrong with the message, if something is. */
  #access(reader: ChainReader, writer: ChainWriter): string | undefined {
    const { machine, bdf } = this.#parts;
    if (reader.remaining < HEADER_BYTES) return `${reader.remaining} bytes, and a header has ${HEADER_BYTES}`;
    const op = reader.u8();
    const bar = reader.u8();
    reader.skip(2);
    const size = reader.u32();
    const low = reader.u32();
    const high = reader.u32();
    const config = op === CFG_READ || op === CFG_WRITE;
    if (op < CFG_READ || op > MMIO_MEMSET) return `operation ${op}`;
    if (size === 0 || size > (config ? 8 : op === MMIO_MEMSET ? MOST_SET_BYTES : MOST_BYTES)) return `operation ${op} of ${size} bytes`;
    // virtio's BARs and configuration spaces end far below.
    if (high !== 0 || low + size > 2 ** 32) return `operation ${op} at 0x${(high * 2 ** 32 + low).toString(16)}`;
    if (!config && bar > 5) return `BAR ${bar}`;
    if (config) this.#counts.configAccesses++;
    else this.#counts.memoryAccesses++;
    if (op === CFG_READ || op === MMIO_READ) {
      if (writer.remaining < size) return `${size} bytes wanted, and room for ${writer.remaining}`;
      for (let done = 0; done < size; ) {
        const piece = widestPiece(low + done, size - done);
        const value = config ? machine.configRead(bdf, low + done, piece) : machine.barRead(bdf, bar, low + done, piece);
        if (config) this.#watch?.configRead(low + done, piece, value);
        else this.#watch?.barRead(bar, low + done, piece, value);
        if (piece === 4) writer.u32(value);
        else if (piece === 2) writer.u16(value);
        else writer.u8(value);
        done += piece;
      }
      return undefined;
    }
    const wanted = op === MMIO_MEMSET ? 1 : size;
    if (reader.remaining < wanted) return `operation ${op} at 0x${low.toString(16)}: ${wanted} bytes to write, and ${reader.remaining} are there`;
    const filler = op === MMIO_MEMSET ? reader.u8() * 0x01010101 : 0;
    for (let done = 0; done < size; ) {
      const piece = widestPiece(low + done, size - done);
      const value = op === MMIO_MEMSET ? filler : piece === 4 ? reader.u32() : piece === 2 ? reader.u16() : reader.u8();
      if (config) this.#watch?.configWrite(low + done, piece, value);
      else this.#watch?.barWrite(bar, low + done, piece, value);
      if (config) machine.configWrite(bdf, low + done, piece, value);
      else machine.barWrite(bdf, bar, low + done, piece, value);
      done += piece;
    }
    return undefined;
  }

  // ---- interrupts ----

  /** A message interrupt of the function. */
  message(data: number): void {
    this.#interrupts.message(data);
  }

  /** The level of the function's pin (1..4). */
  setPin(pin: number, asserted: boolean): void {
    this.#interrupts.setPin(pin, asserted);
  }
}
