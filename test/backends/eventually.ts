// Waiting for another thread: bounded, with the event loop running, and saying what was waited for.

import { setImmediate as turn } from 'node:timers/promises';

export async function eventually(what: string, holds: () => boolean, milliseconds = 10_000): Promise<void> {
  const deadline = performance.now() + milliseconds;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error(`waited ${milliseconds} ms for: ${what}`);
    await turn();
  }
}

/** The same with no event loop: what a guest that polls a register on the machine's thread sees. */
export function eventuallyBlocking(what: string, holds: () => boolean, milliseconds = 10_000): void {
  const deadline = performance.now() + milliseconds;
  while (!holds()) if (performance.now() > deadline) throw new Error(`waited ${milliseconds} ms for: ${what}`);
}
