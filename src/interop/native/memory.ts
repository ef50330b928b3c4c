// Memory that processes share: memory files, mapped where the engine already has memory of its own.

import type { Libc } from './libc.ts';

const NO_SUCH = 2;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
const MFD_CLOEXEC_SEALING = 3;
const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;
const F_SEAL_SHRINK = 2;

export class Memory {
  readonly #libc: Libc;

  constructor(libc: Libc) {
    this.#libc = libc;
  }

  memfd(name: string, size: number): number {
    const fd = this.#libc.call('memfd', name, MFD_CLOEXEC_SEALING);
    if (fd < 0) return fd;
    const sized = this.truncate(fd, size);
    if (sized >= 0) return fd;
    this.#libc.close(fd);
    return sized;
  }

  truncate(fd: number, size: number): number {
    return this.#libc.call('ftruncate', fd, size);
  }

  /** Keeps a memory file from being made shorter under a mapping; false: the file does not allow that. */
  sealShrink(fd: number): boolean {
    this.#libc.call('fcntl', fd, F_ADD_SEALS, F_SEAL_SHRINK);
    const seals = this.#libc.call('fcntl', fd, F_GET_SEALS, 0);
    return seals >= 0 && (seals & F_SEAL_SHRINK) !== 0;
  }

  /** Puts `length` bytes of a file from `offset` on at `address`, in place of what was mapped there. 0, or minus the error. */
  mapAt(address: number, length: number, fd: number, offset: number): number {
    const result = this.#libc.call('mmap', address, length, PROT_READ_WRITE, MAP_SHARED | MAP_FIXED, fd, offset);
    return result === address ? 0 : Math.min(result, -NO_SUCH);
  }

  /** Puts fresh zeroed memory at `address`: what was mapped there is unmapped, and the range stays valid for whoever owns it. */
  unmapAt(address: number, length: number): number {
    const result = this.#libc.call('mmap', address, length, PROT_READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    return result === address ? 0 : Math.min(result, -NO_SUCH);
  }
}
