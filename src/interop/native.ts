// What Node lacks of Linux to speak to other processes, by what it is about: file descriptors over UNIX sockets, event descriptors, shared memory, files and devices. Foreign functions
// are in native/libc.ts alone. Calls return what libc does, or minus the error number.

import { InteropError } from './interop-error.ts';
import { Events } from './native/events.ts';
import { Files } from './native/files.ts';
import { Libc } from './native/libc.ts';
import { Memory } from './native/memory.ts';
import { Sockets } from './native/sockets.ts';

class Native {
  readonly #libc = new Libc();
  readonly sockets = new Sockets(this.#libc);
  readonly events = new Events(this.#libc, this.sockets);
  readonly memory = new Memory(this.#libc);
  readonly files = new Files(this.#libc);

  /** Where the first byte of a view over shared memory, or over an ArrayBuffer of its own, lies. */
  addressOf(view: Uint8Array): number {
    return this.#libc.addressOf(view);
  }

  close(fd: number): void {
    this.#libc.close(fd);
  }
}

export type { Native };

let native: Native | undefined;

/** This thread's binding. @throws InteropError when the platform is not one it knows, or koffi is not installed. */
export function openNative(): Native {
  if (native !== undefined) return native;
  if (process.platform !== 'linux' || (process.arch !== 'x64' && process.arch !== 'arm64'))
    throw new InteropError('NICBOX_NATIVE_PLATFORM', `vhost-user and TAP need Linux on x64 or arm64; this is ${process.platform} on ${process.arch}`);
  native = new Native();
  return native;
}
