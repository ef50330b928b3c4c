// What a user-mode Linux kernel does on the socket of one PCI function: accesses as messages on its first queue, buffers for interrupts on its second. Written from the protocol's description,
// with its own constants.

import { setImmediate as turn } from 'node:timers/promises';
import { SplitRing } from '#guest-sim/split-ring';
import { concat, FEATURE, FrontEnd, longs, message, PROTOCOL, REQUEST, u64, words } from './front-end.ts';

export const OP = { CONFIG_READ: 1, CONFIG_WRITE: 2, READ: 3, WRITE: 4, SET: 5, INT: 6, MSI: 7, PME: 8 } as const;
const BUFFERS = 16;
const BUFFER = 64;
const FIRST_PROTOCOL = [PROTOCOL.REPLY_ACK, PROTOCOL.BACKEND_REQ, PROTOCOL.CONFIG];

/** A message's header. */
export function header(op: number, size: number, address: number | bigint, bar = 0): Uint8Array {
  return concat(Uint8Array.of(op, bar, 0, 0), words(size), longs(address));
}

export class PcidevGuest extends FrontEnd {
  #buffers = 0;

  constructor(path: string, base = 0) {
    super(path, { base, size: 64, eventIdx: false, features: [] });
  }

  override async negotiate(): Promise<void> {
    await this.ask(REQUEST.GET_FEATURES);
    await this.ask(REQUEST.GET_PROTOCOL_FEATURES);
    this.send(message(REQUEST.SET_PROTOCOL_FEATURES, u64(FIRST_PROTOCOL.reduce((all, bit) => all | (1n << BigInt(bit)), 0n))));
    await this.tell(REQUEST.SET_OWNER);
    const bits = [FEATURE.PROTOCOL, FEATURE.VERSION_1, FEATURE.INDIRECT];
    await this.tell(REQUEST.SET_FEATURES, u64(bits.reduce((all, bit) => all | (1n << BigInt(bit)), 0n)));
  }

  override makeQueues(): void {
    super.makeQueues();
    // Neither is a network queue.
    for (const queue of this.queues.splice(0)) {
      const ring = new SplitRing({ arena: this.arena, size: this.options.size, eventIdx: false, indirect: true, inOrder: false, maxSegments: 4 });
      this.queues.push({ ...queue, ring });
    }
    this.#buffers = this.arena.allocate(BUFFERS * BUFFER);
    for (let i = 0; i < BUFFERS; i++) this.#post(i);
    this.#ring(1).publish();
  }

  #ring(index: number): SplitRing {
    return this.queues[index]?.ring as SplitRing;
  }

  #post(i: number): void {
    this.#ring(1).addOne(this.#buffers + i * BUFFER, BUFFER, true, i);
  }

  /** Sends a message of these bytes with `room` bytes for an answer; returns the answer. */
  async exchange(bytes: Uint8Array, room = 0): Promise<Uint8Array> {
    const at = this.arena.allocate(bytes.length + room + 1);
    this.arena.u8.set(bytes, at);
    const ring = this.#ring(0);
    const two = room > 0 ? 1 : 0;
    if (!ring.addList(Int32Array.of(at, at + bytes.length), Int32Array.of(bytes.length, room), 1, two, 1)) throw new Error('the ring is full');
    if (ring.publish()) this.queues[0]?.kick.ring();
    const lengths = new Int32Array(1);
    const deadline = performance.now() + 10_000;
    while (ring.harvest(new Int32Array(1), lengths, 1) === 0) {
      if (performance.now() > deadline || ring.broken !== '') throw new Error(`a message was not taken: ${ring.broken}`);
      await turn();
    }
    const answer = this.arena.u8.slice(at + bytes.length, at + bytes.length + (lengths[0] as number));
    this.arena.free(at);
    return answer;
  }

  async configRead(offset: number, size: number): Promise<number> {
    return number(await this.exchange(header(OP.CONFIG_READ, size, offset), size));
  }

  async configWrite(offset: number, size: number, value: number): Promise<void> {
    await this.exchange(concat(header(OP.CONFIG_WRITE, size, offset), words(value).slice(0, size)));
  }

  async barRead(bar: number, offset: number, size = 4): Promise<number> {
    return number(await this.exchange(header(OP.READ, size, offset, bar), size));
  }

  async barWrite(bar: number, offset: number, value: number, size = 4): Promise<void> {
    await this.exchange(concat(header(OP.WRITE, size, offset, bar), words(value).slice(0, size)));
  }

  /** Interrupts that have arrived, each as its operation and its data (INTx: the pin); their buffers are posted again. */
  interrupts(): { readonly op: number; readonly value: number }[] {
    const tokens = new Int32Array(BUFFERS);
    const lengths = new Int32Array(BUFFERS);
    const ring = this.#ring(1);
    const count = ring.harvest(tokens, lengths, BUFFERS);
    const taken = Array.from({ length: count }, (_, i) => {
      const at = this.#buffers + (tokens[i] as number) * BUFFER;
      const op = this.arena.u8[at] as number;
      const value = op === OP.MSI ? number(this.arena.u8.slice(at + 16, at + 20)) : (this.arena.u8[at + 8] as number);
      this.#post(tokens[i] as number);
      return { op, value };
    });
    if (count > 0 && ring.publish()) this.queues[1]?.kick.ring();
    return taken;
  }
}

function number(bytes: Uint8Array): number {
  return bytes.reduceRight((value, byte) => value * 256 + byte, 0);
}
