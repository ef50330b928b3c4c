// The one module with foreign functions: what Node lacks of Linux to speak to other processes, as a thin layer over libc by koffi, an optional dependency. Calls return what libc does,
// or minus the error number; who calls says what it means.

import { closeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { InteropError } from '../interop-error.ts';

type NativeFunction = (...parameters: unknown[]) => number;

interface PollHandle {
  stop(): void;
  close(): void;
  unref(): void;
}

/** As much of koffi as is used here. */
interface Koffi {
  load(path: string): { func(name: string, result: string, parameters: string[]): NativeFunction };
  errno(): number;
  readonly node: { poll(fd: number, options: { readable: boolean }, callback: () => void): PollHandle };
}

const EINTR = 4;

/** Bytes at an address that stays: a small typed array may live in the engine's heap and move. */
export function fixed(bytes: number): Uint8Array {
  return new Uint8Array(new ArrayBuffer(bytes));
}

export class Libc {
  readonly #koffi: Koffi;
  readonly #functions: Readonly<Record<string, NativeFunction>>;

  /** @throws InteropError when koffi is not installed. */
  constructor() {
    let koffi: Koffi;
    try {
      koffi = createRequire(import.meta.url)('koffi') as Koffi;
    } catch (error) {
      throw new InteropError(
        'NICBOX_NATIVE_MISSING',
        `vhost-user and TAP need the optional package koffi: npm install koffi (${(error as Error).message.split('\n')[0]})`,
      );
    }
    this.#koffi = koffi;
    const libc = koffi.load('libc.so.6');
    const f = (name: string, ...parameters: string[]): NativeFunction => libc.func(name, 'intptr_t', parameters);
    const i = (name: string, ...parameters: string[]): NativeFunction => libc.func(name, 'int', parameters);
    this.#functions = {
      memcpy: f('memcpy', 'void *', 'void *', 'size_t'),
      recvmsg: f('recvmsg', 'int', 'void *', 'int'),
      sendmsg: f('sendmsg', 'int', 'void *', 'int'),
      read: f('read', 'int', 'void *', 'size_t'),
      write: f('write', 'int', 'void *', 'size_t'),
      readAt: libc.func('read', 'intptr_t', ['int', 'intptr_t', 'size_t']),
      writeAt: libc.func('write', 'intptr_t', ['int', 'intptr_t', 'size_t']),
      preadv2: f('preadv2', 'int', 'void *', 'int', 'int64_t', 'int'),
      system: libc.func('syscall', 'intptr_t', ['intptr_t', 'intptr_t', 'intptr_t', 'intptr_t', 'intptr_t', 'intptr_t']),
      mmap: f('mmap', 'intptr_t', 'size_t', 'int', 'int', 'int', 'int64_t'),
      socket: i('socket', 'int', 'int', 'int'),
      bind: i('bind', 'int', 'void *', 'uint32_t'),
      connect: i('connect', 'int', 'void *', 'uint32_t'),
      shutdown: i('shutdown', 'int', 'int'),
      listen: i('listen', 'int', 'int'),
      accept4: i('accept4', 'int', 'void *', 'void *', 'int'),
      eventfd: i('eventfd', 'uint32_t', 'int'),
      memfd: i('memfd_create', 'str', 'uint32_t'),
      ftruncate: i('ftruncate', 'int', 'int64_t'),
      fcntl: i('fcntl', 'int', 'int', 'int'),
      flock: i('flock', 'int', 'int'),
      ioctl: i('ioctl', 'int', 'uintptr_t', 'void *'),
      ioctlValue: libc.func('ioctl', 'int', ['int', 'uintptr_t', 'uintptr_t']),
      epollCreate: i('epoll_create1', 'int'),
      epollCtl: i('epoll_ctl', 'int', 'int', 'int', 'void *'),
      epollWait: i('epoll_wait', 'int', 'void *', 'int', 'int'),
    };
  }

  /** Calls again what a signal broke off. */
  call(name: string, ...parameters: unknown[]): number {
    for (;;) {
      const result = (this.#functions[name] as NativeFunction)(...parameters);
      if (result !== -1) return result;
      const error = this.#koffi.errno();
      if (error !== EINTR) return -error;
    }
  }

  /** Where the first byte of a view over shared memory, or over an ArrayBuffer of its own, lies. */
  addressOf(view: Uint8Array): number {
    return (this.#functions.memcpy as NativeFunction)(view, view, 0);
  }

  close(fd: number): void {
    closeSync(fd);
  }

  /** Calls `ready` from the event loop while `fd` is readable. Returns what ends that; call it before closing `fd`. */
  poll(fd: number, ready: () => void): () => void {
    const handle = this.#koffi.node.poll(fd, { readable: true }, ready);
    return () => {
      handle.stop();
      handle.close();
    };
  }
}
