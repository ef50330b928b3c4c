// The 82576's transmit queue (7.2), of a physical or a virtual function: advanced data descriptors, and context descriptors for what frames have in common: where their headers
// are, the tag to insert, the size of segments. Two contexts stay in force at a time (IDX): the first for checksums and tags, the second for segmentation.

import type { ByteViews } from '#core/guest-memory';
import type { GuestArena } from './arena.ts';
import * as k from './igb-constants.ts';
import { IgbError } from './igb-registers.ts';
import { lookFor, type RegisterBlock } from './intel-registers.ts';
import type { TransmitOffload } from './net-transmit.ts';
import type { NicTransmitQueue } from './nic.ts';
import { ETHERTYPE_IPV4, get16, Headers } from './packets.ts';
import { seedSegmentation } from './segmentation-seed.ts';
import { TRANSMIT_BUFFER, TransmitRing } from './transmit-ring.ts';
import { NET_GSO_ECN, NET_GSO_NONE, NET_GSO_UDP_L4, NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_F } from './virtio-constants.ts';

export interface AdvancedTransmitParts {
  readonly arena: GuestArena;
  readonly registers: RegisterBlock;
  /** Offset of the queue's registers. */
  readonly block: number;
  /** Number of the queue to whoever sends through it. */
  readonly index: number;
  readonly size: number;
  /** The device tells its head in memory (TDWBAL), and leaves descriptors alone. */
  readonly headWriteBack: boolean;
}

const SEGMENTATION = 1;
const CHECKSUM_OFFSET_TCP = 16;
const CHECKSUM_OFFSET_SCTP = 8;
const ETHERNET_BYTES = 14;
const UDP_HEADER = 8;
const PTHRESH = 8;
const HTHRESH = 1;

/** What the queue does for frames (7.2.4, 7.2.5), asked for as of a virtio device: checksums, SCTP's too, and cutting of TCP and UDP. */
export const ADVANCED_OFFLOADS: ReadonlySet<number> = new Set([
  VIRTIO_NET_F.CSUM,
  VIRTIO_NET_F.HOST_TSO4,
  VIRTIO_NET_F.HOST_TSO6,
  VIRTIO_NET_F.HOST_ECN,
  VIRTIO_NET_F.HOST_USO,
]);

/** Layer 4 of a context, by where the checksum lies in its header. */
function layer4(csumOffset: number): number {
  if (csumOffset === CHECKSUM_OFFSET_TCP) return k.CONTEXT_TCP;
  return csumOffset === CHECKSUM_OFFSET_SCTP ? k.CONTEXT_SCTP : k.CONTEXT_UDP;
}

export class AdvancedTransmitQueue implements NicTransmitQueue {
  readonly index: number;
  readonly frameRoom = TRANSMIT_BUFFER;
  readonly buffers: number;
  frames = 0;
  bytes = 0;
  /** Writes of the tail, and context descriptors. */
  kicks = 0;
  contexts = 0;
  /** The VLAN tag the device inserts into what is sent, or -1. */
  vlan = -1;
  /** The device is being reset: the queue counts as full, and nothing is announced. */
  held = false;
  readonly #parts: AdvancedTransmitParts;
  readonly #ring: TransmitRing;
  readonly #headers = new Headers();
  /** Where the device writes its head, or -1. */
  readonly #head: number;
  #unannounced = false;
  /** The contexts the device has: the three words of each that may differ. */
  readonly #context = new Int32Array([-1, -1, -1, -1, -1, -1]);

  constructor(parts: AdvancedTransmitParts) {
    this.#parts = parts;
    this.index = parts.index;
    this.buffers = parts.size;
    this.#ring = new TransmitRing(parts.arena, parts.size);
    // 7.2.3.2: on a 16 byte boundary, as the address register's low bits are flags.
    this.#head = parts.headWriteBack ? parts.arena.allocate(16, 16) : -1;
  }

  /** 4.5.10: ring registers, then the queue on, and no tail before it says that it is. @throws IgbError */
  start(): void {
    const { registers, block, arena } = this.#parts;
    this.#ring.program(registers, block);
    registers.write(block + k.TDWBAH, this.#head < 0 ? 0 : Math.floor(arena.address(this.#head) / 2 ** 32));
    registers.write(block + k.TDWBAL, this.#head < 0 ? 0 : (arena.address(this.#head) % 2 ** 32) + k.TDWBAL_ENABLE);
    // WTHRESH 0: what asks for a report gets it at once (7.2.3.1), and head write-back wants it so.
    registers.write(block + k.RING.DCTL, (PTHRESH << k.DCTL_PTHRESH_SHIFT) | (HTHRESH << k.DCTL_HTHRESH_SHIFT) | k.DCTL_ENABLE);
    if (!lookFor(registers, block + k.RING.DCTL, k.DCTL_ENABLE, k.DCTL_ENABLE))
      throw new IgbError('ERR_IGB_QUEUE', `transmit queue ${this.index} does not turn on (TXDCTL.ENABLE)`);
  }

  get longestFrame(): number {
    return this.#ring.longestFrame;
  }

  get broken(): string {
    return this.#ring.broken;
  }

  get outstanding(): number {
    return this.#ring.outstanding;
  }

  /** Descriptors given to the device so far. */
  get descriptors(): number {
    return this.#ring.added;
  }

  #hasRoom(buffers: number): boolean {
    // Two: a frame's own context never displaces its data.
    if (this.#ring.fits(buffers + 1)) return true;
    this.reclaim();
    return this.#ring.fits(buffers + 1);
  }

  reserve(): number {
    return !this.held && this.#hasRoom(1) ? this.#ring.offset : -1;
  }

  get reservedBuffer(): number {
    return this.#ring.buffer;
  }

  send(length: number, offload?: TransmitOffload): void {
    this.#add(length, offload);
  }

  /** Copies a frame of any length up to `longestFrame` out of `from`. False when there is no room now. @throws RangeError when it never fits. */
  copy(from: ByteViews, start: number, length: number, offload?: TransmitOffload): boolean {
    if (length > this.longestFrame) throw new RangeError(`a frame of ${length} bytes is longer than the ${this.longestFrame} this queue can send`);
    if (this.held || !this.#hasRoom(Math.ceil(length / TRANSMIT_BUFFER))) return false;
    this.#ring.fill(from, start, length);
    this.#add(length, offload);
    return true;
  }

  #add(length: number, offload: TransmitOffload | undefined): void {
    let command = k.TX_DATA | k.TX_DEXT | k.TX_IFCS;
    let options = 0;
    let payload = length;
    if (offload !== undefined && (offload.flags & NET_HDR_F_NEEDS_CSUM) !== 0) {
      if ((offload.gsoType & ~NET_GSO_ECN) !== NET_GSO_NONE) {
        command |= k.TX_TSE;
        const { u8 } = this.#parts.arena;
        const at = this.#ring.offset;
        const h = this.#headers;
        const ipBytes = seedSegmentation(u8, at, length, offload, h);
        const udp = (offload.gsoType & ~NET_GSO_ECN) === NET_GSO_UDP_L4;
        const header = udp ? UDP_HEADER : ((u8[at + offload.csumStart + 12] as number) >> 4) * 4;
        const v4 = h.version === 4;
        options = (SEGMENTATION << 4) | k.TX_TXSM | (v4 ? k.TX_IXSM : 0);
        payload = length - offload.csumStart - header;
        this.#setContext(
          SEGMENTATION,
          this.#lengths(h.network, ipBytes),
          (v4 ? k.CONTEXT_IPV4 : 0) | (udp ? k.CONTEXT_UDP : k.CONTEXT_TCP),
          (header << k.CONTEXT_L4LEN_SHIFT) | (offload.gsoSize << k.CONTEXT_MSS_SHIFT),
        );
      } else {
        options = k.TX_TXSM;
        this.#checksumContext(offload);
      }
    } else if (this.vlan >= 0) this.#setContext(0, this.#lengths(ETHERNET_BYTES, 0), 0, 0);
    // 7.2.2.3.4: the tag itself is the context's.
    if (this.vlan >= 0) command |= k.TX_VLE;
    this.#ring.addFrame(length, command, options | (payload << k.TX_PAYLEN_SHIFT));
    this.frames++;
    this.bytes += length;
    this.#unannounced = true;
  }

  /** TCP, UDP (7.2.5.1) or SCTP (7.2.5.2, the whole of its CRC): told from where the checksum lies. */
  #checksumContext(offload: TransmitOffload): void {
    const { u8 } = this.#parts.arena;
    const at = this.#ring.offset;
    let network = ETHERNET_BYTES;
    let type = get16(u8, at + 12);
    for (let tags = 0; (type === 0x8100 || type === 0x88a8) && tags < 2; tags++) {
      type = get16(u8, at + network + 2);
      network += 4;
    }
    this.#setContext(0, this.#lengths(network, offload.csumStart - network), (type === ETHERTYPE_IPV4 ? k.CONTEXT_IPV4 : 0) | layer4(offload.csumOffset), 0);
  }

  /** VLAN, MACLEN, IPLEN. */
  #lengths(network: number, ipBytes: number): number {
    return (this.vlan >= 0 ? this.vlan << k.CONTEXT_VLAN_SHIFT : 0) | (network << k.CONTEXT_MACLEN_SHIFT) | ipBytes;
  }

  /** A context descriptor, unless the device has that one already (7.2.2.2: it stays in force until the next of its index). */
  #setContext(index: number, lengths: number, type: number, sizes: number): void {
    const known = this.#context;
    const at = 3 * index;
    if (known[at] === lengths && known[at + 1] === type && known[at + 2] === sizes) return;
    known[at] = lengths;
    known[at + 1] = type;
    known[at + 2] = sizes;
    this.contexts++;
    this.#ring.addContext(lengths, 0, type | k.TX_CONTEXT | k.TX_DEXT, sizes | (index << 4));
  }

  flush(): void {
    if (!this.#unannounced || this.held) return;
    this.#unannounced = false;
    this.#ring.report();
    this.kicks++;
    this.#parts.registers.write(this.#parts.block + k.RING.TAIL, this.#ring.next);
  }

  reclaim(): number {
    if (this.#head < 0) return this.#ring.reclaim();
    return this.#ring.reclaimTo(Atomics.load(this.#parts.arena.i32, this.#head >>> 2) >>> 0);
  }

  /** The last descriptor of each flush asks for a report, whose interrupt polls: nothing is to be asked for. */
  awaitRoom(): boolean {
    return this.reclaim() > 0;
  }

  /** Frees ring and buffers. Only after the device or the queue was reset. */
  dispose(): void {
    this.#ring.dispose();
    if (this.#head >= 0) this.#parts.arena.free(this.#head);
  }
}
