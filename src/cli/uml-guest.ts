// A user-mode Linux kernel as a child process. It makes a session of its own, ignores SIGTERM while it waits for a device, may spin when it halts with PCI functions present, and starts
// again when it is to reboot: so it counts as ended when it says it has halted, and is then ended with all of its session.

import { type ChildProcess, spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { killSession } from './process-session.ts';

export interface UmlGuestOptions {
  readonly kernel: string;
  readonly initrd?: string;
  /** As the kernel takes it: "256M". */
  readonly memory: string;
  /** Further words of its command line. */
  readonly append: readonly string[];
  readonly sockets: readonly string[];
}

/** The virtio device id its PCI-over-virtio driver was configured with (CONFIG_UML_PCI_OVER_VIRTIO_DEVICE_ID). */
const PCI_OVER_VIRTIO = 1234;
/**
 * Loops in a tick of 10 ms. The kernel looks 40000 times for the answer to a read, a microsecond by this count apart, and then goes on without: the answer that comes late is written where another
 * message is by then. Measured while the machine is busy, as it does itself, the count can be so low that this is after a few milliseconds; so high, it is after a tenth of a second of its own.
 */
const LOOPS = 100_000_000;
const HALTED = /reboot: (System halted|Power down)/;

/** The guest cannot be started. `code` is stable. */
class GuestError extends Error {
  readonly code = 'NICBOX_GUEST';
}

/** Program and arguments: what a person would type. */
export function umlCommand({ kernel, initrd, memory, append, sockets }: UmlGuestOptions): string[] {
  return [
    kernel,
    `mem=${memory}`,
    ...(initrd === undefined ? [] : [`initrd=${initrd}`, 'rdinit=/init']),
    'con=null',
    'con0=null,fd:1',
    `lpj=${LOOPS}`,
    ...append,
    ...sockets.map((socket, i) => `virtio_uml.device=${socket}:${PCI_OVER_VIRTIO}:${i}`),
  ];
}

export class UmlGuest {
  /** Its exit code; 0 when it has halted. */
  readonly ended: Promise<number>;
  readonly #child: ChildProcess;
  #halted = false;

  /** @param line gets its console's lines. @throws GuestError */
  constructor(options: UmlGuestOptions, line: (text: string) => void) {
    const [program, ...args] = umlCommand(options) as [string, ...string[]];
    try {
      accessSync(program, constants.X_OK);
      if (options.initrd !== undefined) accessSync(options.initrd, constants.R_OK);
    } catch (error) {
      throw new GuestError(`cannot start the guest: ${(error as Error).message}`);
    }
    // Its memory is a file there.
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, TMPDIR: memoryFolder() } });
    this.#child = child;
    const letGo = child.pid === undefined ? undefined : leash(child.pid);
    let partial = '';
    const take = (piece: Buffer): void => {
      const lines = `${partial}${piece.toString('latin1')}`.split(/\r*\n/);
      partial = lines.pop() ?? '';
      for (const text of lines) {
        line(text);
        if (!HALTED.test(text)) continue;
        this.#halted = true;
        this.kill();
      }
    };
    child.stdout?.on('data', take);
    child.stderr?.on('data', take);
    this.ended = new Promise((resolve) => {
      child.once('error', (error) => {
        line(error.message);
        resolve(127);
      });
      child.once('close', (code) => {
        letGo?.();
        if (partial !== '') line(partial);
        resolve(this.#halted ? 0 : (code ?? 1));
      });
    });
  }

  /** Ends it and everything of its session. */
  kill(): void {
    if (this.#child.pid !== undefined) killSession(this.#child.pid);
  }
}

/** A process that ends a guest when this one is gone, however it goes. Returns what lets go of it. */
function leash(pid: number): () => void {
  const program = fileURLToPath(new URL('./guest-leash.js', import.meta.url));
  const child = spawn(process.execPath, [program, String(pid)], { stdio: ['pipe', 'ignore', 'ignore'], detached: true });
  child.on('error', () => {});
  child.unref();
  return () => void child.kill('SIGKILL');
}

function memoryFolder(): string {
  try {
    accessSync('/dev/shm', constants.W_OK);
    return '/dev/shm';
  } catch {
    return tmpdir();
  }
}
