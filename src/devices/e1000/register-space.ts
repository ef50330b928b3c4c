// The memory BAR: registers in the lower half, the packet buffer's memory in the upper one (8254x 13.8.11), which a driver may read and write for diagnosis. Frames do not pass through it here.

import type { Doorbell } from '#core/doorbell';
import type { AccessSize, FastDoorbell, Region } from '#core/region';
import { E1000_REGISTERS, PACKET_BUFFER, PACKET_BUFFER_WORDS, REGISTER_SPACE } from './registers.ts';

const { EECD, EERD, ICR, ICS, IMC, IMS, ITR, MDIC, RADV, RDT, RDTR, TADV, TDT, TIDV } = E1000_REGISTERS;
const TAILS: readonly number[] = [TDT.offset, RDT.offset];
/** Writes that are no matter of the ring engine's, or that it may see at any moment. */
const APART: ReadonlySet<number> = new Set([...TAILS, ...[EECD, EERD, ICR, ICS, IMC, IMS, ITR, MDIC, RADV, RDTR, TADV, TIDV].map(({ offset }) => offset)]);

export interface RegisterSpaceHost {
  /** Runs a write that the ring engine is to see between two turns of its. */
  change(write: () => void): void;
  /** What may be rung in place of a write of a tail, now. */
  tailDoorbell(): Doorbell | undefined;
}

export class RegisterSpace implements Region {
  readonly size = REGISTER_SPACE;
  readonly packetBuffer = new Uint32Array(PACKET_BUFFER_WORDS);
  readonly #bytes = new Uint8Array(this.packetBuffer.buffer);
  readonly #registers: Region;
  readonly #host: RegisterSpaceHost;

  constructor(registers: Region, host: RegisterSpaceHost) {
    this.#registers = registers;
    this.#host = host;
  }

  read(offset: number, size: AccessSize): number {
    if (offset < PACKET_BUFFER) return this.#registers.read(offset, size);
    let value = 0;
    for (let i = 0; i < size; i++) value |= (this.#bytes[offset - PACKET_BUFFER + i] as number) << (8 * i);
    return value >>> 0;
  }

  write(offset: number, size: AccessSize, value: number): void {
    if (offset < PACKET_BUFFER) {
      if (APART.has(offset)) this.#registers.write(offset, size, value);
      else this.#host.change(() => this.#registers.write(offset, size, value));
      return;
    }
    for (let i = 0; i < size; i++) this.#bytes[offset - PACKET_BUFFER + i] = value >>> (8 * i);
  }

  /** With the shared block in force a write of a tail says no more than that it was moved there. */
  doorbell(offset: number, size: AccessSize): FastDoorbell | undefined {
    const doorbell = size === 4 && TAILS.includes(offset) ? this.#host.tailDoorbell() : undefined;
    return doorbell && { doorbell, match: 'address' };
  }
}
