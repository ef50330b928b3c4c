// A guest of ours behind a vfio-user client, on the client's thread: its accesses become messages, and the server, on the same thread, answers each before it returns. The client
// decodes addresses, hands MSI-X table writes on, and turns event descriptors into the guest's vectors.

import { LocalGuestBus } from '#core/guest-bus';
import type { GuestMemory } from '#core/guest-memory';
import { IntxLines, PendingVectors } from '#core/interrupts';
import { type AccessSize, allOnes } from '#core/region';
import { PC_PLATFORM } from '#nicbox/machine-options';
import { COMMAND, CONFIG, IRQ, pack, type VfioClient } from './vfio-client.ts';

const VECTORS = 8;
const TABLE_BAR = 2;
const ECAM_DEVICE_1 = 8;
export const GUEST_RAM = 32 * 2 ** 20;

export class VfioGuestBus extends LocalGuestBus {
  client: VfioClient;
  readonly #events: number[] = [];
  readonly #sizes = new Map<number, number>();

  constructor(client: VfioClient, memory: GuestMemory) {
    const target = {
      mmioRead: (address: number, size: AccessSize) => this.#read(address, size),
      mmioWrite: (address: number, size: AccessSize, value: number) => this.#write(address, size, value),
      ioRead: (_port: number, size: AccessSize) => allOnes(size),
      ioWrite: () => {},
    };
    const clock = { now: () => performance.now() * 1e6, timer: () => ({ arm() {}, cancel() {}, deadline: undefined }) };
    super({ platform: PC_PLATFORM, memory, vectors: new PendingVectors(), lines: new IntxLines(), target, clock });
    this.client = client;
  }

  /** Memory mapped, descriptors for every vector. */
  async arm(client: VfioClient, memoryFd: number): Promise<void> {
    this.client = client;
    for (const region of [0, 2]) {
      const reply = await client.ask(COMMAND.GET_REGION_INFO, pack(32, 0, region, 0, 0n, 0n));
      this.#sizes.set(region, Number(reply.getBigUint64(16, true)));
    }
    await client.mapDma(0, GUEST_RAM, { fd: memoryFd });
    this.#events.length = 0;
    for (let i = 0; i < VECTORS; i++) this.#events.push(client.eventfd());
    const info = await client.ask(COMMAND.GET_IRQ_INFO, pack(16, 0, 2, 0));
    const count = Math.min(VECTORS, info.getUint32(12, true));
    await client.setIrqs(IRQ.EVENTFD | IRQ.TRIGGER, 2, 0, count, this.#events.slice(0, count));
  }

  /** What was signalled becomes pending, as the table has it. */
  collect(): void {
    this.#events.forEach((event, i) => {
      if (this.client.count(event) > 0) this.vectors.post(this.client.loadNow(TABLE_BAR, 16 * i + 8, 4) & 0xff);
    });
  }

  #place(address: number): { region: number; offset: number } | undefined {
    const { base } = this.platform.ecam;
    if (address >= base && address < base + 2 ** 28) {
      const offset = address - base;
      return offset >>> 12 === ECAM_DEVICE_1 ? { region: CONFIG, offset: offset & 0xfff } : undefined;
    }
    if ((this.client.loadNow(CONFIG, 4, 2) & 2) === 0) return undefined;
    for (const [region, size] of this.#sizes) {
      const low = this.client.loadNow(CONFIG, 0x10 + 4 * region, 4);
      const high = (low & 6) === 4 ? this.client.loadNow(CONFIG, 0x14 + 4 * region, 4) : 0;
      const at = address - (high * 2 ** 32 + ((low & ~15) >>> 0));
      if (at >= 0 && at < size) return { region, offset: at };
    }
    return undefined;
  }

  #read(address: number, size: AccessSize): number {
    const place = this.#place(address);
    return place === undefined ? allOnes(size) : this.client.loadNow(place.region, place.offset, size);
  }

  #write(address: number, size: AccessSize, value: number): void {
    const place = this.#place(address);
    if (place !== undefined) this.client.askNow(COMMAND.REGION_WRITE, this.client.storePayload(place.region, place.offset, size, value));
  }
}
