// The in-flight area that a front end keeps for its back ends: the first one makes it, each that follows gets it back, and when one dies it tells where a packed ring stood.

import type { DmaSpace } from '#core/dma-space';
import type { QueueSetup } from '#virtio/virtqueue';
import { type AreaShape, InflightArea } from './inflight-area.ts';
import type { Native } from './native.ts';
import type { RequestChannel } from './request-channel.ts';
import { packedPosition } from './ring-position.ts';
import { GET_INFLIGHT_FD, ProtocolError, readInflight, SET_INFLIGHT_FD } from './vhost-user-protocol.ts';

const DESCRIPTION_BYTES = 24;

export class KeptArea {
  readonly #native: Native;
  #area: { readonly area: InflightArea; readonly fd: number; readonly description: Uint8Array } | undefined;
  /** The connection that has been given the area. */
  #told: RequestChannel | undefined;
  #asked: RequestChannel | undefined;

  constructor(native: Native) {
    this.#native = native;
  }

  /** Whether the back end has an area for rings of this shape; if not, it is given the one that is kept or asked for one, and `ready` is called when it has it. */
  has(channel: RequestChannel, shape: AreaShape, ready: () => void): boolean {
    const kept = this.#area?.area.shape;
    const fits = kept !== undefined && kept.packed === shape.packed && kept.queues === shape.queues && kept.size >= shape.size;
    if (fits && this.#told !== channel) this.#give(channel);
    if (fits) return true;
    if (this.#asked !== channel) this.#ask(channel, shape, ready);
    return false;
  }

  #give(channel: RequestChannel): void {
    const { description, fd } = this.#area as { description: Uint8Array; fd: number };
    this.#told = channel;
    channel.tell(SET_INFLIGHT_FD, description, [fd], 'its in-flight area');
  }

  #ask(channel: RequestChannel, shape: AreaShape, ready: () => void): void {
    this.#asked = channel;
    const payload = new DataView(new ArrayBuffer(DESCRIPTION_BYTES));
    payload.setUint16(16, shape.queues, true);
    payload.setUint16(18, shape.size, true);
    channel.askForDescriptor(GET_INFLIGHT_FD, new Uint8Array(payload.buffer), DESCRIPTION_BYTES, (reply, fd) => {
      this.#asked = undefined;
      if (fd === undefined) return 'sent an in-flight area without its descriptor';
      try {
        const { offset, bytes } = readInflight(reply);
        const area = InflightArea.take(this.#native, shape, fd, offset, bytes);
        this.drop();
        this.#area = { area, fd, description: new Uint8Array(reply.buffer, reply.byteOffset, reply.byteLength) };
      } catch (error) {
        this.#native.close(fd);
        if (error instanceof ProtocolError) return `sent an in-flight area that is none: ${error.message}`;
        throw error;
      }
      this.#give(channel);
      ready();
      return undefined;
    });
  }

  /** Where the back end that died left a packed ring; undefined: it kept no record, or not a true one. */
  position(index: number, setup: QueueSetup, memory: DmaSpace): number | undefined {
    const region = this.#area?.area.region(index, setup.size);
    return region?.packed === true ? packedPosition(region, memory, setup) : undefined;
  }

  /** Rings start anew: what it says is over. */
  drop(): void {
    this.#area?.area.unmap();
    if (this.#area !== undefined) this.#native.close(this.#area.fd);
    this.#area = undefined;
    this.#told = undefined;
  }
}
