// The configuration space of a vDPA network device (virtio 1.4 5.1.4): its address, its link's state, how many pairs of queues it has, its MTU.

const STATUS = 6;
const BYTES = 12;
const VIRTIO_NET_S_LINK_UP = 1;
const MAC_BYTES = 6;

export class NetConfig {
  readonly #bytes = new Uint8Array(BYTES);
  readonly #permanentMac: Uint8Array;
  #generation = 0;

  constructor(pairs: number, { mac, mtu = 1500 }: { readonly mac?: Uint8Array; readonly mtu?: number }) {
    if (mac !== undefined && mac.length !== MAC_BYTES) throw new RangeError(`a MAC address has ${MAC_BYTES} bytes, not ${mac.length}`);
    if (!(Number.isInteger(mtu) && mtu >= 68 && mtu <= 65535)) throw new RangeError(`MTU ${mtu}: 68 to 65535`);
    this.#permanentMac = mac?.slice() ?? new Uint8Array(MAC_BYTES);
    this.#bytes.set(this.#permanentMac);
    this.#bytes.set([VIRTIO_NET_S_LINK_UP, 0, pairs & 0xff, pairs >>> 8, mtu & 0xff, mtu >>> 8], STATUS);
  }

  get generation(): number {
    return this.#generation;
  }

  read(offset: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    bytes.set(this.#bytes.subarray(offset, offset + length));
    return bytes;
  }

  /** What a driver set is forgotten. */
  reset(): void {
    this.#bytes.set(this.#permanentMac);
  }

  /** Only the address is the driver's to write. */
  write(offset: number, bytes: Uint8Array): void {
    for (let i = 0; i < bytes.length && offset + i < MAC_BYTES; i++) this.#bytes[offset + i] = bytes[i] as number;
  }

  /** Whether that changes anything. */
  setLink(up: boolean): boolean {
    const status = up ? VIRTIO_NET_S_LINK_UP : 0;
    if (this.#bytes[STATUS] === status) return false;
    this.#bytes[STATUS] = status;
    this.#generation++;
    return true;
  }
}
