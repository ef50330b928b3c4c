// A UNIX socket to listen on: its path taken over from a server that was killed, and removed at the end.

import { lstatSync, unlinkSync } from 'node:fs';
import { errorName, InteropError } from './interop-error.ts';
import type { Native } from './native.ts';

const ECONNREFUSED = 111;

/** A listening socket. @throws InteropError when the path is somebody else's */
export function listenAt(native: Native, path: string): number {
  clearStale(native, path);
  const fd = native.sockets.listen(path);
  if (fd < 0) throw new InteropError('NICBOX_SOCKET', `cannot listen on ${path}: ${errorName(fd)}`);
  return fd;
}

/** A socket that nobody listens on is what a killed server left behind. */
function clearStale(native: Native, path: string): void {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return;
  if (!stat.isSocket()) throw new InteropError('NICBOX_SOCKET', `${path} exists and is not a socket`);
  const fd = native.sockets.connect(path);
  if (fd >= 0) native.close(fd);
  if (fd !== -ECONNREFUSED) throw new InteropError('NICBOX_SOCKET', `${path} is in use by another process`);
  unlinkSync(path);
}

export function removeSocket(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Somebody else has removed it.
  }
}
