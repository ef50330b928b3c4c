// Device configuration of a network device (virtio 1.4 5.1.4): mac, status, max_virtqueue_pairs, mtu, speed, duplex. Fields of features that are not offered read 0. The driver
// cannot write any of them; mac changes through the control queue only.

import { VirtioOptionError } from '#virtio/device';
import type { FeatureSet } from '#virtio/features';
import { VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MTU, VIRTIO_NET_F_SPEED_DUPLEX, VIRTIO_NET_F_STATUS } from '#virtio/net-features';

const VIRTIO_NET_S_LINK_UP = 1;
const VIRTIO_NET_S_ANNOUNCE = 2;
export const MAC_BYTES = 6;
/** Through duplex at 16, rounded up. */
export const NET_CONFIG_BYTES = 20;

/** Mbit/s, or 'unknown'. Duplex is coded as the field's description has it (1 full, 0 half); the device clause says the reverse (virtio-spec issue 75). */
export interface LinkSpeed {
  readonly speed: number | 'unknown';
  readonly duplex: 'full' | 'half' | 'unknown';
}

const DUPLEX = { half: 0, full: 1, unknown: 0xff } as const;
const LOWEST_MTU = 68;
const HIGHEST_MTU = 65535;
const HIGHEST_SPEED = 0x7fffffff;

/** @throws VirtioOptionError */
export function checkMac(mac: Uint8Array | string): Uint8Array {
  const bytes = typeof mac === 'string' ? parseMac(mac) : mac;
  if (bytes?.length !== MAC_BYTES || ((bytes[0] as number) & 1) !== 0 || bytes.every((b) => b === 0))
    throw new VirtioOptionError('NICBOX_MAC', `MAC address ${String(mac)}: give six bytes of a unicast address, such as 52:54:00:12:34:56`);
  return bytes.slice();
}

function parseMac(text: string): Uint8Array | undefined {
  return /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(text) ? Uint8Array.from(text.split(':'), (part) => Number.parseInt(part, 16)) : undefined;
}

/** virtio 1.4 5.1.4.1 (device MUST): 68 to 65535. @throws VirtioOptionError */
export function checkMtu(mtu: number): void {
  if (!Number.isInteger(mtu) || mtu < LOWEST_MTU || mtu > HIGHEST_MTU)
    throw new VirtioOptionError('NICBOX_MTU', `mtu ${mtu}: give ${LOWEST_MTU} to ${HIGHEST_MTU}`);
}

/** virtio 1.4 5.1.4.1 (device MUST): 0 to 0x7fffffff, or all ones. @throws VirtioOptionError */
export function checkSpeed({ speed, duplex }: LinkSpeed): void {
  if (speed !== 'unknown' && !(Number.isInteger(speed) && speed >= 0 && speed <= HIGHEST_SPEED))
    throw new VirtioOptionError('NICBOX_SPEED', `speed ${speed}: give Mbit/s up to ${HIGHEST_SPEED}, or 'unknown'`);
  if (!(duplex in DUPLEX)) throw new VirtioOptionError('NICBOX_SPEED', `duplex ${String(duplex)}: give 'full', 'half' or 'unknown'`);
}

export class NetConfig {
  readonly #bytes = new Uint8Array(NET_CONFIG_BYTES);
  readonly #view = new DataView(this.#bytes.buffer);
  readonly #offered: FeatureSet;

  constructor(offered: FeatureSet, options: { readonly queuePairs: number; readonly mtu: number | undefined; readonly link: LinkSpeed | undefined }) {
    this.#offered = offered;
    if (offered.has(VIRTIO_NET_F_MQ)) this.#view.setUint16(8, options.queuePairs, true);
    if (offered.has(VIRTIO_NET_F_MTU)) this.#view.setUint16(10, options.mtu as number, true);
    if (offered.has(VIRTIO_NET_F_SPEED_DUPLEX) && options.link) {
      const { speed, duplex } = options.link;
      this.#view.setUint32(12, speed === 'unknown' ? 0xffffffff : speed, true);
      this.#view.setUint8(16, DUPLEX[duplex]);
    }
  }

  set mac(mac: Uint8Array) {
    if (this.#offered.has(VIRTIO_NET_F_MAC)) this.#bytes.set(mac, 0);
  }

  set linkUp(up: boolean) {
    this.#setStatus(VIRTIO_NET_S_LINK_UP, up);
  }

  /** The driver is asked to announce itself (virtio 1.4 5.1.6.5.4). */
  set announce(asked: boolean) {
    this.#setStatus(VIRTIO_NET_S_ANNOUNCE, asked);
  }

  /** What the status field says now. */
  get shown(): { readonly linkUp: boolean; readonly announce: boolean } {
    const status = this.#view.getUint16(6, true);
    return { linkUp: (status & VIRTIO_NET_S_LINK_UP) !== 0, announce: (status & VIRTIO_NET_S_ANNOUNCE) !== 0 };
  }

  #setStatus(bit: number, on: boolean): void {
    if (!this.#offered.has(VIRTIO_NET_F_STATUS)) return;
    const status = this.#view.getUint16(6, true);
    this.#view.setUint16(6, on ? status | bit : status & ~bit, true);
  }

  read(offset: number, size: number): number {
    let value = 0;
    for (let i = 0; i < size; i++) value += (this.#bytes[offset + i] ?? 0) * 2 ** (8 * i);
    return value;
  }
}
