// Files and devices (TAP) beyond what Node does with them.

import type { Libc } from './libc.ts';

const LOCK_EXCLUSIVE_NOW = 2 | 4;

export class Files {
  readonly #libc: Libc;

  constructor(libc: Libc) {
    this.#libc = libc;
  }

  /** Locks a file against other processes, until the descriptor is closed or this process ends. 0, or minus the error. */
  lockFile(fd: number): number {
    return this.#libc.call('flock', fd, LOCK_EXCLUSIVE_NOW);
  }

  /** @param argument read and written by the driver. 0 or above, or minus the error. */
  ioctl(fd: number, request: number, argument: Uint8Array): number {
    return this.#libc.call('ioctl', fd, request, argument);
  }

  /** The same where the argument is a number. */
  ioctlValue(fd: number, request: number, argument: number): number {
    return this.#libc.call('ioctlValue', fd, request, argument);
  }

  /** Reads once, up to `length` bytes to where `addressOf` says. Bytes read, 0 at the end, or minus the error. */
  readAt(fd: number, address: number, length: number): number {
    return this.#libc.call('readAt', fd, address, length);
  }

  /** Writes once. Bytes written, or minus the error. */
  writeAt(fd: number, address: number, length: number): number {
    return this.#libc.call('writeAt', fd, address, length);
  }
}
