// The memory BAR: registers in the lower half, the packet buffer's memory in the upper one (8254x 13.8.11), which a driver may read and write for diagnosis. Frames do not pass through it here.

import type { AccessSize, Region } from '#core/region';
import { PACKET_BUFFER, PACKET_BUFFER_WORDS, REGISTER_SPACE } from './registers.ts';

export class RegisterSpace implements Region {
  readonly size = REGISTER_SPACE;
  readonly packetBuffer = new Uint32Array(PACKET_BUFFER_WORDS);
  readonly #bytes = new Uint8Array(this.packetBuffer.buffer);
  readonly #registers: Region;

  constructor(registers: Region) {
    this.#registers = registers;
  }

  read(offset: number, size: AccessSize): number {
    if (offset < PACKET_BUFFER) return this.#registers.read(offset, size);
    let value = 0;
    for (let i = 0; i < size; i++) value |= (this.#bytes[offset - PACKET_BUFFER + i] as number) << (8 * i);
    return value >>> 0;
  }

  write(offset: number, size: AccessSize, value: number): void {
    if (offset < PACKET_BUFFER) {
      this.#registers.write(offset, size, value);
      return;
    }
    for (let i = 0; i < size; i++) this.#bytes[offset - PACKET_BUFFER + i] = value >>> (8 * i);
  }
}
