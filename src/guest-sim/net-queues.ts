// Sizing the queues of a network device: how large rings and buffers are under the features that were negotiated (virtio 1.4 5.1.9.3.1), and how many fit.

import type { GuestArena } from './arena.ts';
import { hasFeature } from './features.ts';
import type { VirtioNetOptions } from './net-options.ts';
import { ReceiveQueue } from './net-receive.ts';
import { TransmitQueue } from './net-transmit.ts';
import { PackedRing } from './packed-ring.ts';
import type { DriverRing } from './ring.ts';
import { SplitRing } from './split-ring.ts';
import {
  NET_GSO_TCPV4,
  NET_GSO_TCPV6,
  NET_GSO_UDP,
  NET_GSO_UDP_L4,
  NET_HEADER_SIZE,
  NET_HEADER_SIZE_HASH,
  NET_HEADER_SIZE_LEGACY,
  NET_HEADER_SIZE_TUNNEL,
  VIRTIO_F,
  VIRTIO_NET_F,
} from './virtio-constants.ts';
import { type QueueKick, VirtioError, type VirtioTransport } from './virtio-pci.ts';

const TRANSMIT_BUFFER = 2048;
const PIECE = 4096;
/** virtio 1.4 5.1.9.3.1 (driver SHOULD): what a buffer has to hold behind its header without MRG_RXBUF, with and without receive segmentation offloads. */
const BIG_BUFFER = 65_589;
const PLAIN_BUFFER = 1514;
const BIG_BUFFERS = 64;
const DEFAULT_MTU = 1500;
const LONGEST_GSO_FRAME = 65_550;

/** Bytes of struct virtio_net_hdr up to the last field that the features bring (virtio 1.4 5.1.9.3.1, driver MUST). */
function headerSize(features: bigint): number {
  const has = (bit: number): boolean => hasFeature(features, bit);
  if (!has(VIRTIO_F.VERSION_1) && !has(VIRTIO_NET_F.MRG_RXBUF)) return NET_HEADER_SIZE_LEGACY;
  if (has(VIRTIO_NET_F.HOST_UDP_TUNNEL_GSO) || has(VIRTIO_NET_F.GUEST_UDP_TUNNEL_GSO)) return NET_HEADER_SIZE_TUNNEL;
  return has(VIRTIO_NET_F.HASH_REPORT) ? NET_HEADER_SIZE_HASH : NET_HEADER_SIZE;
}

export class QueueMaker {
  readonly #transport: VirtioTransport;
  readonly #arena: GuestArena;
  readonly #features: bigint;
  readonly #options: VirtioNetOptions;
  readonly #mtu: number;
  readonly headerSize: number;

  constructor(transport: VirtioTransport, arena: GuestArena, features: bigint, options: VirtioNetOptions, mtu: number) {
    this.#transport = transport;
    this.#arena = arena;
    this.#features = features;
    this.#options = options;
    this.#mtu = mtu;
    this.headerSize = headerSize(features);
  }

  #has(feature: number): boolean {
    return hasFeature(this.#features, feature);
  }

  /** Legacy without ANY_LAYOUT: the header has a descriptor of its own, and commands are cut as 5.1.9.8 asks. */
  get separateHeaders(): boolean {
    return !this.#has(VIRTIO_F.VERSION_1) && !this.#has(VIRTIO_F.ANY_LAYOUT);
  }

  /** The ring of queue `queue`, as large as the device and the guest both allow. @throws VirtioError */
  ring(queue: number, maxSegments: number, wanted = this.#options.queueSize ?? 256): DriverRing {
    const most = this.#transport.queueSize(queue);
    if (most === 0 || most > 32768) throw new VirtioError('ERR_VIRTIO_QUEUE', `queue ${queue} has size ${most}`);
    const legacy = !this.#has(VIRTIO_F.VERSION_1);
    // The legacy interface leaves the size to the device.
    let size = legacy ? most : Math.max(1, Math.min(most, wanted));
    // virtio 1.4 4.1.4.3.2 (driver MUST NOT): no other than powers of two for split rings.
    if (!this.#has(VIRTIO_F.RING_PACKED)) size = 2 ** (31 - Math.clz32(size));
    const options = {
      arena: this.#arena,
      size,
      eventIdx: this.#has(VIRTIO_F.EVENT_IDX),
      indirect: this.#has(VIRTIO_F.INDIRECT_DESC),
      inOrder: this.#has(VIRTIO_F.IN_ORDER),
      maxSegments: Math.min(maxSegments, size),
      legacy,
    };
    return this.#has(VIRTIO_F.RING_PACKED) ? new PackedRing(options) : new SplitRing(options);
  }

  /** Hands a ring to the device. @throws VirtioError */
  enable(queue: number, ring: DriverRing): QueueKick {
    return this.#transport.enableQueue(queue, ring.size, ring.addresses, {
      notificationData: this.#has(VIRTIO_F.NOTIFICATION_DATA),
      notifyConfigData: this.#has(VIRTIO_F.NOTIF_CONFIG_DATA),
    });
  }

  receive(index: number, size?: number): ReceiveQueue {
    const F = VIRTIO_NET_F;
    const mergeable = this.#has(F.MRG_RXBUF);
    let gsoTypes = 0;
    if (this.#has(F.GUEST_TSO4)) gsoTypes |= 1 << NET_GSO_TCPV4;
    if (this.#has(F.GUEST_TSO6)) gsoTypes |= 1 << NET_GSO_TCPV6;
    if (this.#has(F.GUEST_UFO)) gsoTypes |= 1 << NET_GSO_UDP;
    if (this.#has(F.GUEST_USO4) || this.#has(F.GUEST_USO6)) gsoTypes |= 1 << NET_GSO_UDP_L4;
    // One frame of the MTU with an Ethernet header and a VLAN tag: a little more than the spec asks for.
    const plain = this.headerSize + Math.max(PLAIN_BUFFER, 18 + (this.#mtu || DEFAULT_MTU));
    const bufferSize = mergeable ? Math.max(64, this.#options.receiveBuffer ?? 2048) : gsoTypes !== 0 ? this.headerSize + BIG_BUFFER : plain;
    const separateHeader = this.separateHeaders;
    const pieces = (mergeable ? 1 : Math.ceil(bufferSize / PIECE)) + (separateHeader ? 1 : 0);
    const ring = this.ring(2 * index, pieces, size);
    const indirect = this.#has(VIRTIO_F.INDIRECT_DESC) && pieces <= ring.size;
    const pieceSize = pieces <= ring.size ? PIECE : bufferSize;
    const fit = pieces === 1 || indirect || pieceSize === bufferSize ? ring.size : Math.floor(ring.size / pieces);
    return new ReceiveQueue({
      arena: this.#arena,
      ring,
      index,
      mergeable,
      bufferSize,
      pieceSize,
      buffers: pieces > 2 ? Math.min(fit, BIG_BUFFERS) : fit,
      separateHeader,
      gsoTypes,
      checksum: this.#has(F.GUEST_CSUM),
      ecn: this.#has(F.GUEST_ECN),
      headerSize: this.headerSize,
      hashReport: this.#has(F.HASH_REPORT),
      tunnels: this.#has(F.GUEST_UDP_TUNNEL_GSO),
      tunnelChecksum: this.#has(F.GUEST_UDP_TUNNEL_GSO_CSUM),
      coalescing: this.#has(F.RSC_EXT),
    });
  }

  transmit(index: number, size?: number): TransmitQueue {
    const separateHeader = this.separateHeaders || (this.#options.separateHeader ?? false);
    const segments = Math.ceil((LONGEST_GSO_FRAME + this.headerSize) / TRANSMIT_BUFFER) + (separateHeader ? 2 : 1);
    const ring = this.ring(2 * index + 1, segments, size);
    return new TransmitQueue({
      arena: this.#arena,
      ring,
      index,
      bufferSize: TRANSMIT_BUFFER,
      buffers: ring.size,
      maxSegments: Math.min(segments, ring.size),
      separateHeader,
      headerSize: this.headerSize,
    });
  }
}
