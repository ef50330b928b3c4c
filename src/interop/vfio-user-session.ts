// What a vfio-user client asks of a device, command by command: information, regions, interrupts, memory, dirty pages, features. All of it happens at once, on the machine's
// thread, but changes of the migration state. Reading messages is vfio-user-connection.ts's.

import type { Log } from '#core/log';
import type { Machine } from '#nicbox/machine';
import type { PciFunction } from '#pci/function';
import type { AccessWatch } from './access-watch.ts';
import { IRQ_KINDS, type VfioUserIrqs } from './vfio-user-irqs.ts';
import type { VfioUserMemory } from './vfio-user-memory.ts';
import type { VfioUserMigration } from './vfio-user-migration.ts';
import * as wire from './vfio-user-protocol.ts';
import {
  bytesOf,
  EINVAL,
  ENOTTY,
  EOPNOTSUPP,
  fitting,
  type Message,
  MOST_DATA,
  payloadOf,
  Refusal,
  readU64,
  requireBytes,
  writeU64,
} from './vfio-user-protocol.ts';
import { REGIONS, VfioUserRegions } from './vfio-user-regions.ts';

const DEVICE_RESETTABLE = 1;
const DEVICE_PCI = 2;

const UNMAP_DIRTY = 1;
const UNMAP_ALL = 2;

const DIRTY_START = 1;
const DIRTY_STOP = 2;
const DIRTY_GET = 4;

const FEATURE_INDEX = 0xffff;
const FEATURE_GET = 0x1_0000;
const FEATURE_SET = 0x2_0000;
const FEATURE_PROBE = 0x4_0000;
const FEATURE_MIGRATION = 1;
const FEATURE_DEVICE_STATE = 2;
const FEATURE_LOGGING_START = 6;
const FEATURE_LOGGING_STOP = 7;
const FEATURE_LOGGING_REPORT = 8;

/** What may be done with each feature. */
const FEATURES: Readonly<Record<number, number>> = {
  [FEATURE_MIGRATION]: FEATURE_GET,
  [FEATURE_DEVICE_STATE]: FEATURE_GET | FEATURE_SET,
  [FEATURE_LOGGING_START]: FEATURE_SET,
  [FEATURE_LOGGING_STOP]: FEATURE_SET,
  [FEATURE_LOGGING_REPORT]: FEATURE_GET,
};
const MIGRATION_STOP_COPY = 1;
const MIGRATION_PRE_COPY = 4;
const PAGE = 4096;

export interface SessionParts {
  readonly machine: Machine;
  readonly fn: PciFunction;
  readonly irqs: VfioUserIrqs;
  readonly memory: VfioUserMemory;
  readonly migration: VfioUserMigration;
  readonly log: Log;
  readonly watch: AccessWatch | undefined;
}

/** The payload of an answer. */
type Answer = Uint8Array | undefined;

export class VfioUserSession {
  readonly #parts: SessionParts;
  readonly #regions: VfioUserRegions;
  #saidSlow = false;

  constructor(parts: SessionParts) {
    this.#parts = parts;
    this.#regions = new VfioUserRegions(parts, () => {
      // It may have reset the function, and its table.
      parts.irqs.sync();
      this.#saySlow();
    });
  }

  /** @throws Refusal */
  carryOut(message: Message): Answer | Promise<Answer> {
    const { payload } = message;
    switch (message.command) {
      case wire.DMA_MAP:
        return this.#map(message);
      case wire.DMA_UNMAP:
        return this.#unmap(payload);
      case wire.DEVICE_GET_INFO:
        return this.#info(payload);
      case wire.DEVICE_GET_REGION_INFO:
        return this.#regions.info(payload);
      case wire.DEVICE_GET_IRQ_INFO:
        return this.#irqInfo(payload);
      case wire.DEVICE_SET_IRQS:
        return this.#setIrqs(message);
      case wire.REGION_READ:
        return this.#regions.read(payload);
      case wire.REGION_WRITE:
        return this.#regions.write(payload);
      case wire.REGION_WRITE_MULTI:
        return this.#regions.writeMany(payload);
      case wire.DEVICE_RESET:
        requireBytes(payload, 0);
        this.reset();
        return undefined;
      case wire.DIRTY_PAGES:
        return this.#dirtyPages(payload);
      case wire.DEVICE_FEATURE:
        return this.#feature(payload);
      case wire.MIG_DATA_READ:
        return this.#readState(payload);
      case wire.MIG_DATA_WRITE:
        return this.#writeState(payload);
      default:
        throw new Refusal(EOPNOTSUPP, 'not served');
    }
  }

  /** DEVICE_RESET, and the end of a connection. */
  reset(): void {
    const { machine, irqs, migration } = this.#parts;
    machine.reset();
    this.#parts.watch?.gone();
    irqs.reset();
    migration.reset();
    this.#saidSlow = false;
  }

  // ---- memory ----

  #map({ payload, fds }: Message): Answer {
    requireBytes(payload, 32);
    if (fds.length > 1) throw new Refusal(EINVAL, `${fds.length} descriptors`);
    this.#parts.memory.map(readU64(payload, 16), readU64(payload, 24), payload.getUint32(4, true), fds[0], readU64(payload, 8));
    return undefined;
  }

  #unmap(payload: DataView): Answer {
    requireBytes(payload, 24, true);
    const { memory } = this.#parts;
    const argsz = payload.getUint32(0, true);
    const flags = payload.getUint32(4, true);
    const [iova, size] = [readU64(payload, 8), readU64(payload, 16)];
    if (flags === UNMAP_ALL && iova === 0 && size === 0) memory.unmapAll();
    else if (flags === UNMAP_DIRTY) {
      requireBytes(payload, 40);
      // There is no second time to ask for the pages.
      const bytes = memory.reportBytes(iova, size, readU64(payload, 24));
      if (argsz < 40 + bytes) throw new Refusal(EINVAL, `room for ${argsz} bytes in place of ${40 + bytes}`);
      const bitmap = memory.unmap(iova, size, readU64(payload, 24)) as Uint8Array;
      const reply = payloadOf(40 + bitmap.length);
      bytesOf(reply).set(bytesOf(payload));
      bytesOf(reply).set(bitmap, 40);
      return fitting(reply, argsz, 40);
    } else if (flags === 0) memory.unmap(iova, size);
    else throw new Refusal(EINVAL, `flags 0x${flags.toString(16)}`);
    return bytesOf(payload).slice(0, 24);
  }

  // ---- what it is ----

  #info(payload: DataView): Answer {
    requireBytes(payload, 16);
    const reply = payloadOf(16);
    reply.setUint32(4, DEVICE_RESETTABLE | DEVICE_PCI, true);
    reply.setUint32(8, REGIONS, true);
    reply.setUint32(12, IRQ_KINDS, true);
    return fitting(reply, payload.getUint32(0, true), 16);
  }

  #irqInfo(payload: DataView): Answer {
    requireBytes(payload, 16);
    const index = payload.getUint32(8, true);
    const info = this.#parts.irqs.info(index);
    if (info === undefined) throw new Refusal(EINVAL, `there are no interrupts of kind ${index}`);
    const reply = payloadOf(16);
    reply.setUint32(4, info.flags, true);
    reply.setUint32(8, index, true);
    reply.setUint32(12, info.count, true);
    return fitting(reply, payload.getUint32(0, true), 16);
  }

  #setIrqs({ payload, fds }: Message): Answer {
    requireBytes(payload, 20, true);
    const argsz = payload.getUint32(0, true);
    // A client that passes descriptors may leave room for their numbers, which say nothing here.
    if (argsz < 20 || payload.byteLength > Math.max(argsz, 20)) throw new Refusal(EINVAL, `${payload.byteLength} bytes of payload, argsz ${argsz}`);
    const [flags, index, start, count] = [4, 8, 12, 16].map((at) => payload.getUint32(at, true)) as [number, number, number, number];
    this.#parts.irqs.set(flags, index, start, count, new DataView(payload.buffer, payload.byteOffset + 20, payload.byteLength - 20), fds);
    return undefined;
  }

  /** As the device gets to use memory: whoever forgot to share it looks for the reason here. */
  #saySlow(): void {
    const { fn, memory, log } = this.#parts;
    if (this.#saidSlow || !memory.everything || fn.services?.dma.busMaster !== true) return;
    this.#saidSlow = true;
    log.trace('all memory of the client is reached by message: no rings or frames can be in it (a QEMU guest: share=on for its RAM)');
  }

  // ---- dirty pages, the old way ----

  #dirtyPages(payload: DataView): Answer {
    requireBytes(payload, 8, true);
    const { memory } = this.#parts;
    const flags = payload.getUint32(4, true);
    if (flags === DIRTY_START) memory.startLogging();
    else if (flags === DIRTY_STOP) memory.stopLogging();
    else if (flags === DIRTY_GET) {
      // The fields make 40 bytes, which is what programs send; the specification's own table says 48.
      const fixed = payload.byteLength === 40 ? 40 : 48;
      requireBytes(payload, fixed);
      const reply = this.#report(payload, fixed);
      writeU64(reply, 32, reply.byteLength - fixed);
      return fitting(reply, payload.getUint32(0, true), fixed);
    } else throw new Refusal(EINVAL, `flags 0x${flags.toString(16)}`);
    return undefined;
  }

  /** What was asked (`fixed` bytes, with range and page size at 8), and behind it the dirty pages; these stay dirty when the client has no room for them. */
  #report(payload: DataView, fixed: number): DataView {
    const { memory } = this.#parts;
    const range = [readU64(payload, 8), readU64(payload, 16), readU64(payload, 24)] as const;
    const reply = payloadOf(fixed + memory.reportBytes(...range));
    bytesOf(reply).set(bytesOf(payload));
    if (payload.getUint32(0, true) >= reply.byteLength) bytesOf(reply).set(memory.report(...range), fixed);
    return reply;
  }

  // ---- features ----

  #feature(payload: DataView): Answer | Promise<Answer> {
    requireBytes(payload, 8, true);
    const argsz = payload.getUint32(0, true);
    const flags = payload.getUint32(4, true);
    const index = flags & FEATURE_INDEX;
    const method = flags & (FEATURE_GET | FEATURE_SET);
    const migrates = index === FEATURE_MIGRATION || index === FEATURE_DEVICE_STATE;
    const possible = migrates && !this.#parts.migration.possible ? 0 : (FEATURES[index] ?? 0);
    if ((flags & ~(FEATURE_INDEX | FEATURE_GET | FEATURE_SET | FEATURE_PROBE)) !== 0 || (method & ~possible) !== 0 || possible === 0)
      throw new Refusal(ENOTTY, `device feature ${index}, flags 0x${flags.toString(16)}`);
    if ((flags & FEATURE_PROBE) !== 0) return bytesOf(payload).slice(0, 8);
    if (method === FEATURE_SET) return this.#setFeature(index, payload);
    if (method !== FEATURE_GET) throw new Refusal(EINVAL, `device feature ${index}: neither got nor set`);
    if (index === FEATURE_LOGGING_REPORT) {
      requireBytes(payload, 32);
      return fitting(this.#report(payload, 32), argsz, 8);
    }
    const reply = payloadOf(16);
    reply.setUint32(4, flags, true);
    reply.setUint32(8, index === FEATURE_MIGRATION ? MIGRATION_STOP_COPY | MIGRATION_PRE_COPY : this.#parts.migration.state, true);
    if (index === FEATURE_DEVICE_STATE) reply.setInt32(12, -1, true);
    return fitting(reply, argsz, 8);
  }

  #setFeature(index: number, payload: DataView): Answer | Promise<Answer> {
    const { memory, migration } = this.#parts;
    const echo = bytesOf(payload).slice();
    if (index === FEATURE_DEVICE_STATE) {
      requireBytes(payload, 16);
      return migration.setState(payload.getUint32(8, true)).then(() => echo);
    }
    if (index === FEATURE_LOGGING_STOP) {
      if (!memory.logging) throw new Refusal(EINVAL, 'dirty pages are not logged');
      memory.stopLogging();
      return echo;
    }
    requireBytes(payload, 24, true);
    const ranges = payload.getUint32(16, true);
    requireBytes(payload, 24 + 16 * ranges);
    if (memory.logging) throw new Refusal(EINVAL, 'dirty pages are logged already');
    // Everything is logged, whichever ranges are asked for; each has to be one.
    for (let i = 0; i < ranges; i++)
      if (readU64(payload, 32 + 16 * i) === 0) throw new Refusal(EINVAL, `an empty range at 0x${readU64(payload, 24 + 16 * i).toString(16)}`);
    memory.startLogging();
    writeU64(new DataView(echo.buffer, echo.byteOffset), 8, PAGE);
    return echo;
  }

  // ---- migration data ----

  #readState(payload: DataView): Answer {
    requireBytes(payload, 8);
    const size = payload.getUint32(4, true);
    if (size > MOST_DATA) throw new Refusal(EINVAL, `${size} bytes of migration data at once`);
    const data = this.#parts.migration.read(Math.min(size, Math.max(0, payload.getUint32(0, true) - 8)));
    const reply = payloadOf(8 + data.length);
    reply.setUint32(0, reply.byteLength, true);
    reply.setUint32(4, data.length, true);
    bytesOf(reply).set(data, 8);
    return bytesOf(reply);
  }

  #writeState(payload: DataView): Answer {
    requireBytes(payload, 8, true);
    const size = payload.getUint32(4, true);
    if (size > MOST_DATA) throw new Refusal(EINVAL, `${size} bytes of migration data at once`);
    requireBytes(payload, 8 + size);
    this.#parts.migration.write(bytesOf(payload).subarray(8));
    return undefined;
  }
}
