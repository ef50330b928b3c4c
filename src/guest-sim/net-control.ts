// The control virtqueue's driver side (virtio 1.4 5.1.6.5): one command at a time, its answer waited for. Each method sends only what was negotiated
// and says whether the device accepted it.

import type { GuestArena } from './arena.ts';
import { featureMask, hasFeature } from './features.ts';
import type { DriverRing } from './ring.ts';
import { NET_CTRL, VIRTIO_NET_F } from './virtio-constants.ts';
import { pollUntil, type QueueKick, VirtioError } from './virtio-pci.ts';

const COMMAND_ROOM = 4096;

export type ReceiveMode = 'promiscuous' | 'all-multicast' | 'all-unicast' | 'no-multicast' | 'no-unicast' | 'no-broadcast';

const MODES: Record<ReceiveMode, { command: number; feature: number }> = {
  promiscuous: { command: NET_CTRL.RX_PROMISC, feature: VIRTIO_NET_F.CTRL_RX },
  'all-multicast': { command: NET_CTRL.RX_ALLMULTI, feature: VIRTIO_NET_F.CTRL_RX },
  'all-unicast': { command: NET_CTRL.RX_ALLUNI, feature: VIRTIO_NET_F.CTRL_RX_EXTRA },
  'no-multicast': { command: NET_CTRL.RX_NOMULTI, feature: VIRTIO_NET_F.CTRL_RX_EXTRA },
  'no-unicast': { command: NET_CTRL.RX_NOUNI, feature: VIRTIO_NET_F.CTRL_RX_EXTRA },
  'no-broadcast': { command: NET_CTRL.RX_NOBCAST, feature: VIRTIO_NET_F.CTRL_RX_EXTRA },
};

export class ControlQueue {
  readonly ring: DriverRing;
  kick: QueueKick | undefined;
  broken = '';
  readonly #arena: GuestArena;
  readonly #features: bigint;
  readonly #at: number;
  readonly #offsets = new Int32Array(2);
  readonly #lengths = new Int32Array(2);
  readonly #tokens = new Int32Array(1);
  readonly #written = new Int32Array(1);

  constructor(arena: GuestArena, ring: DriverRing, features: bigint) {
    this.#arena = arena;
    this.ring = ring;
    this.#features = features;
    this.#at = arena.allocate(COMMAND_ROOM + 64, 64);
  }

  /** Sends a command and waits for its answer; true: the device said OK. @throws VirtioError when it does not answer, or answers nonsense. */
  command(kind: number, command: number, data: Uint8Array): boolean {
    if (this.broken !== '') throw new VirtioError('ERR_VIRTIO_CONTROL', this.broken);
    if (data.length + 2 > COMMAND_ROOM)
      throw new RangeError(`a control command of ${data.length} bytes is longer than the ${COMMAND_ROOM - 2} there is room for`);
    const { u8 } = this.#arena;
    const ack = this.#at + COMMAND_ROOM;
    u8[this.#at] = kind;
    u8[this.#at + 1] = command;
    u8.set(data, this.#at + 2);
    u8[ack] = 0xff;
    this.#offsets[0] = this.#at;
    this.#lengths[0] = 2 + data.length;
    this.#offsets[1] = ack;
    this.#lengths[1] = 1;
    if (!this.ring.addList(this.#offsets, this.#lengths, 1, 1, 0)) return this.#fail('the control queue has no room for a command');
    if (this.ring.publish()) this.kick?.ring(this.ring.notificationData);
    const answered = pollUntil(() => this.ring.harvest(this.#tokens, this.#written, 1) === 1 || this.ring.broken !== '');
    if (this.ring.broken !== '') return this.#fail(this.ring.broken);
    if (!answered) return this.#fail(`class ${kind} command ${command} was not answered`);
    // The device owns the byte until it says it wrote it.
    if (this.#written[0] !== 1) return this.#fail(`class ${kind} command ${command} was answered with ${this.#written[0]} bytes in place of 1`);
    return u8[ack] === NET_CTRL.OK;
  }

  #fail(why: string): never {
    this.broken = `control queue: ${why}`;
    throw new VirtioError('ERR_VIRTIO_CONTROL', this.broken);
  }

  #has(feature: number): boolean {
    return hasFeature(this.#features, feature);
  }

  /** False also when the mode was not negotiated: then nothing is sent. */
  setReceiveMode(mode: ReceiveMode, on: boolean): boolean {
    const { command, feature } = MODES[mode];
    return this.#has(feature) && this.command(NET_CTRL.RX, command, Uint8Array.of(on ? 1 : 0));
  }

  /** Replaces the receive filter's address lists. Each address is 6 bytes. */
  setMacTable(unicast: readonly Uint8Array[], multicast: readonly Uint8Array[]): boolean {
    if (!this.#has(VIRTIO_NET_F.CTRL_RX)) return false;
    const data = new Uint8Array(8 + 6 * (unicast.length + multicast.length));
    const view = new DataView(data.buffer);
    let at = 0;
    for (const list of [unicast, multicast]) {
      view.setUint32(at, list.length, true);
      at += 4;
      for (const mac of list) {
        data.set(mac.subarray(0, 6), at);
        at += 6;
      }
    }
    return this.command(NET_CTRL.MAC, NET_CTRL.MAC_TABLE_SET, data);
  }

  setMacAddress(mac: Uint8Array): boolean {
    // virtio 1.4 5.1.6.5.2.2 (driver MUST NOT): no command of this class without CTRL_RX, although this one has a bit of its own as well.
    return this.#has(VIRTIO_NET_F.CTRL_RX) && this.#has(VIRTIO_NET_F.CTRL_MAC_ADDR) && this.command(NET_CTRL.MAC, NET_CTRL.MAC_ADDR_SET, mac.subarray(0, 6));
  }

  filterVlan(vid: number, pass: boolean): boolean {
    const command = pass ? NET_CTRL.VLAN_ADD : NET_CTRL.VLAN_DEL;
    return this.#has(VIRTIO_NET_F.CTRL_VLAN) && this.command(NET_CTRL.VLAN, command, Uint8Array.of(vid & 0xff, vid >>> 8));
  }

  acknowledgeAnnouncement(): boolean {
    return this.#has(VIRTIO_NET_F.GUEST_ANNOUNCE) && this.command(NET_CTRL.ANNOUNCE, NET_CTRL.ANNOUNCE_ACK, new Uint8Array(0));
  }

  setQueuePairs(pairs: number): boolean {
    return this.#has(VIRTIO_NET_F.MQ) && this.command(NET_CTRL.MQ, NET_CTRL.MQ_VQ_PAIRS_SET, Uint8Array.of(pairs & 0xff, pairs >>> 8));
  }

  /** Which receive offloads are on from now: feature bit numbers, which have to be among the negotiated ones. */
  setGuestOffloads(bits: readonly number[]): boolean {
    if (!this.#has(VIRTIO_NET_F.CTRL_GUEST_OFFLOADS) || !bits.every((b) => this.#has(b))) return false;
    const data = new Uint8Array(8);
    new DataView(data.buffer).setBigUint64(0, featureMask(bits), true);
    return this.command(NET_CTRL.GUEST_OFFLOADS, NET_CTRL.GUEST_OFFLOADS_SET, data);
  }

  dispose(): void {
    this.ring.dispose();
    this.#arena.free(this.#at);
  }
}
