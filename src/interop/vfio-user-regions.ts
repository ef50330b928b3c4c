// The regions of a vfio-user device: BARs and configuration space, with what a client loads and stores there in pieces of the widest access that is naturally aligned.

import { type Region, readRegion, widestPiece, writeRegion } from '#core/region';
import type { Machine } from '#nicbox/machine';
import type { PciFunction } from '#pci/function';
import { type AccessWatch, watchedRegion } from './access-watch.ts';
import type { VfioUserIrqs } from './vfio-user-irqs.ts';
import { bytesOf, EINVAL, fitting, MOST_DATA, payloadOf, Refusal, readU64, requireBytes, writeU64 } from './vfio-user-protocol.ts';

/** Regions: BAR 0 to 5, then these. */
const ROM = 6;
const CONFIG = 7;
export const REGIONS = 9;
const REGION_READABLE = 1;
const REGION_WRITABLE = 2;

/** Of each write among many: offset, region, count, data. */
const WRITE_BYTES = 24;

export interface RegionParts {
  readonly machine: Machine;
  readonly fn: PciFunction;
  readonly irqs: VfioUserIrqs;
  readonly watch: AccessWatch | undefined;
}

export class VfioUserRegions {
  readonly #machine: Machine;
  readonly #configWritten: () => void;
  readonly #regions: readonly (Region | undefined)[];

  /** @param configWritten called after each write to configuration space */
  constructor({ machine, fn, irqs, watch }: RegionParts, configWritten: () => void) {
    this.#machine = machine;
    this.#configWritten = configWritten;
    const bdf = fn.routingId;
    const config: Region = {
      size: fn.config.size,
      read: (offset, size) => machine.configRead(bdf, offset, size),
      write: (offset, size, value) => machine.configWrite(bdf, offset, size, value),
    };
    this.#regions = Array.from({ length: REGIONS }, (_, index) => {
      if (index === CONFIG)
        return watch ? watchedRegion(config, { read: (...access) => watch.configRead(...access), write: (...access) => watch.configWrite(...access) }) : config;
      const bar = fn.bars.at(index);
      const region = bar && sized(irqs.bar(index, bar.region), bar.size);
      if (!region || !watch) return region;
      return watchedRegion(region, {
        read: (offset, size, value) => watch.barRead(index, offset, size, value),
        write: (offset, size, value) => watch.barWrite(index, offset, size, value),
      });
    });
  }

  /** DEVICE_GET_REGION_INFO. @throws Refusal */
  info(payload: DataView): Uint8Array {
    requireBytes(payload, 32, true);
    const index = payload.getUint32(8, true);
    if (index >= REGIONS) throw new Refusal(EINVAL, `there is no region ${index}`);
    const region = this.#regions[index];
    const reply = payloadOf(32);
    if (region !== undefined) reply.setUint32(4, REGION_READABLE | (index === ROM ? 0 : REGION_WRITABLE), true);
    reply.setUint32(8, index, true);
    writeU64(reply, 16, region?.size ?? 0);
    return fitting(reply, payload.getUint32(0, true), 32);
  }

  /** @throws Refusal unless all of it is inside a region */
  #access(payload: DataView, at: number): { readonly region: Region; readonly index: number; readonly offset: number; readonly count: number } {
    const offset = readU64(payload, at);
    const index = payload.getUint32(at + 8, true);
    const count = payload.getUint32(at + 12, true);
    const region = this.#regions[index];
    if (region === undefined || offset + count > region.size || count > MOST_DATA)
      throw new Refusal(EINVAL, `${count} bytes at 0x${offset.toString(16)} of region ${index}, which has ${region?.size ?? 0}`);
    return { region, index, offset, count };
  }

  /** REGION_READ. @throws Refusal */
  read(payload: DataView): Uint8Array {
    requireBytes(payload, 16);
    const { region, offset, count } = this.#access(payload, 0);
    const reply = new Uint8Array(16 + count);
    reply.set(bytesOf(payload));
    for (let done = 0; done < count; ) {
      const piece = widestPiece(offset + done, count - done);
      const value = readRegion(region, offset + done, piece);
      for (let i = 0; i < piece; i++) reply[16 + done + i] = value >>> (8 * i);
      done += piece;
    }
    this.#machine.service();
    return reply;
  }

  /** REGION_WRITE. @throws Refusal */
  write(payload: DataView): Uint8Array {
    requireBytes(payload, 16, true);
    const { region, index, offset, count } = this.#access(payload, 0);
    requireBytes(payload, 16 + count);
    this.#store(region, index, offset, payload, 16, count);
    return bytesOf(payload).slice(0, 16);
  }

  /** REGION_WRITE_MULTI. @throws Refusal */
  writeMany(payload: DataView): Uint8Array {
    requireBytes(payload, 8, true);
    const writes = readU64(payload, 0);
    requireBytes(payload, 8 + writes * WRITE_BYTES);
    // All of them, or none.
    const accesses = Array.from({ length: writes }, (_, i) => this.#access(payload, 8 + i * WRITE_BYTES));
    for (const { count } of accesses) if (count > 8) throw new Refusal(EINVAL, `a write of ${count} bytes among many`);
    accesses.forEach(({ region, index, offset, count }, i) => {
      this.#store(region, index, offset, payload, 8 + i * WRITE_BYTES + 16, count);
    });
    return bytesOf(payload).slice(0, 8);
  }

  #store(region: Region, index: number, offset: number, data: DataView, at: number, count: number): void {
    if (index === ROM) throw new Refusal(EINVAL, 'the expansion ROM is read-only');
    for (let done = 0; done < count; ) {
      const piece = widestPiece(offset + done, count - done);
      const value = piece === 4 ? data.getUint32(at + done, true) : piece === 2 ? data.getUint16(at + done, true) : data.getUint8(at + done);
      writeRegion(region, offset + done, piece, value);
      done += piece;
    }
    if (index === CONFIG) this.#configWritten();
    this.#machine.service();
  }
}

/** A region with its BAR's size: what is behind its end reads all ones. */
function sized(region: Region, size: number): Region {
  return region.size === size
    ? region
    : { size, read: (offset, width) => readRegion(region, offset, width), write: (offset, width, value) => writeRegion(region, offset, width, value) };
}
