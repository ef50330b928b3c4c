// QEMU as an oracle: its device models driven register by register over the qtest protocol (one line each way), with memory, a clock that is stepped, and a stream netdev whose frames carry a length of four bytes.

import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { type Child, PATIENCE, scratch } from './host.ts';
import type { Qemu } from './qemu.ts';

const DEVFN = 4 << 3;
const BAR = 0xe000_0000;

/** The other end of the device's cable. */
interface Peer {
  socket: Socket | undefined;
  readonly frames: Uint8Array[];
}

export class QtestNic {
  readonly #child: Child;
  readonly #peer: Peer;
  #cursor = 0;

  private constructor(child: Child, peer: Peer) {
    this.#child = child;
    this.#peer = peer;
  }

  static async start(qemu: Qemu, device: string): Promise<QtestNic> {
    const path = join(scratch(), 's');
    const peer: Peer = { socket: undefined, frames: [] };
    const server = createServer((socket) => {
      peer.socket = socket;
      let pending = Buffer.alloc(0);
      socket.on('data', (piece) => {
        pending = Buffer.concat([pending, piece]);
        while (pending.length >= 4 && pending.length >= 4 + pending.readUInt32BE(0)) {
          const length = pending.readUInt32BE(0);
          peer.frames.push(Uint8Array.from(pending.subarray(4, 4 + length)));
          pending = pending.subarray(4 + length);
        }
      });
      socket.on('error', () => {});
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    server.unref();
    const netdev = `stream,id=n0,server=off,addr.type=unix,addr.path=${path}`;
    const child = qemu.qtest('qtest', ['-netdev', netdev, '-device', `${device},netdev=n0,addr=4,romfile=`]);
    const nic = new QtestNic(child, peer);
    await nic.config(0x10, BAR);
    await nic.config(0x14, 0xc001);
    await nic.config(4, 7);
    await child.until('the netdev to connect', PATIENCE, () => peer.socket);
    return nic;
  }

  /** Sends one command and waits for its answer; returns what follows OK. */
  async #command(text: string): Promise<string> {
    this.#child.write(`${text}\n`);
    const answer = await this.#child.until(`an answer to ${text}`, PATIENCE, () => {
      while (this.#cursor < this.#child.lines.length) {
        const line = this.#child.lines[this.#cursor++] as string;
        if (/^(OK|FAIL|ERR)/.test(line)) return line;
      }
      return undefined;
    });
    if (!answer.startsWith('OK')) throw new Error(`qtest: ${text}: ${answer}`);
    return answer.slice(3);
  }

  async config(register: number, value: number): Promise<void> {
    await this.#command(`outl 0xcf8 ${(0x8000_0000 | (DEVFN << 8) | register) >>> 0}`);
    await this.#command(`outl 0xcfc ${value >>> 0}`);
  }

  async read(register: number): Promise<number> {
    return Number(await this.#command(`readl ${BAR + register}`)) >>> 0;
  }

  async write(register: number, value: number): Promise<void> {
    await this.#command(`writel ${BAR + register} ${value >>> 0}`);
  }

  async load(address: number, length: number): Promise<Uint8Array> {
    return Uint8Array.from(Buffer.from((await this.#command(`read ${address} ${length}`)).slice(2), 'hex'));
  }

  async store(address: number, bytes: Uint8Array): Promise<void> {
    await this.#command(`write ${address} ${bytes.length} 0x${Buffer.from(bytes).toString('hex')}`);
  }

  async step(nanos: number): Promise<void> {
    await this.#command(`clock_step ${nanos}`);
  }

  /** Frames that came out, once there are `count`. */
  async sent(count: number): Promise<Uint8Array[]> {
    await this.#child.until(`${count} frames`, 5, () => (this.#peer.frames.length >= count ? true : undefined));
    return this.#peer.frames.splice(0);
  }

  async inject(frame: Uint8Array): Promise<void> {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(frame.length);
    this.#peer.socket?.write(Buffer.concat([length, frame]));
    // Handled by QEMU's main loop: some turns of it.
    for (let i = 0; i < 20; i++) await this.read(8);
  }

  kill(): Promise<void> {
    return this.#child.kill();
  }
}
