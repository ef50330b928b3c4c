// The virtio network device (virtio 1.4 5.1) between its parts: configuration space, its queues over a backend, what the driver sets up by command, and the policy words the data plane
// reads.

import type { Doorbell } from '#core/doorbell';
import { type Envelope, seal } from '#core/saved';
import { BusyError, type VirtioDevice, type VirtioHost } from '#virtio/device';
import { type FeatureSet, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_ADMIN_VQ } from '#virtio/features';
import type { ChainReader } from '#virtio/net-control/chain-reader';
import type { ChainWriter } from '#virtio/net-control/chain-writer';
import {
  MAC_BYTES,
  VIRTIO_NET_F_CTRL_MAC_ADDR,
  VIRTIO_NET_F_GUEST_ANNOUNCE,
  VIRTIO_NET_F_MAC,
  VIRTIO_NET_F_STANDBY,
  VIRTIO_NET_F_STATUS,
} from '#virtio/net-features';
import { NetPolicy } from '#virtio/net-policy';
import type { VhostBackend } from '#virtio/vhost';
import { checkMac, NET_CONFIG_BYTES, NET_CONFIG_FIELDS, NetConfig } from './config.ts';
import { DataPlane, HELD_BY_DRIVER, HELD_BY_EMBEDDER, HELD_BY_OWNER } from './data-plane.ts';
import { DriverSettings } from './driver-settings.ts';
import { missingDependency } from './features.ts';
import { NetAdmin } from './net-admin.ts';
import { checkOptions, type VirtioNetOptions } from './net-options.ts';
import { NetParts } from './net-parts.ts';
import { NetQueues } from './queues.ts';
import { checkNetState, NET_STATE_VERSION, type NetState } from './saved-net.ts';
import { ShownConfig } from './shown-config.ts';

export type { VirtioNetOptions } from './net-options.ts';

export const VIRTIO_ID_NETWORK = 1;

export class VirtioNet implements VirtioDevice {
  readonly name = 'virtio-net';
  readonly type = VIRTIO_ID_NETWORK;
  readonly offered: FeatureSet;
  readonly configSize = NET_CONFIG_BYTES;
  readonly configFields = NET_CONFIG_FIELDS;
  readonly parts: NetParts;
  /** The words the data plane reads. */
  readonly policy: NetPolicy;
  readonly queuePairs: number;
  #permanentMac: Uint8Array;
  readonly #config: ShownConfig;
  readonly #settings: DriverSettings;
  readonly #data: DataPlane;
  readonly #queues: NetQueues;
  #standby = false;
  readonly #options: VirtioNetOptions;
  #host: VirtioHost | undefined;
  #admin: NetAdmin | undefined;
  readonly #hasFlowFilter: boolean;

  /** @throws VirtioOptionError */
  constructor(options: VirtioNetOptions) {
    const { mac, offered, queuePairs, queueSize, flowFilter, steering } = checkOptions(options);
    this.#options = options;
    this.#permanentMac = mac;
    this.offered = offered;
    this.queuePairs = queuePairs;
    this.#hasFlowFilter = flowFilter !== undefined;
    if (offered.has(VIRTIO_F_ADMIN_VQ))
      this.#admin = new NetAdmin({
        flowFilter,
        opcodes: options.adminOpcodes ?? 'table',
        receiveQueues: () => this.#queues.pairs(this.#host?.features),
        ...(options.owner && { owner: options.owner }),
      });
    // Whichever administration is in force by then: a restored one takes this one's place.
    if (options.owner) options.owner.members.onGone = (id) => this.#admin?.memberGone(id);
    const config = new NetConfig(offered, { queuePairs, mtu: options.mtu, link: options.link, rss: steering });
    this.#config = new ShownConfig(config, mac, options.linkUp ?? true);
    this.#settings = new DriverSettings(steering);
    this.policy = new NetPolicy(steering);
    this.#data = new DataPlane(options.backend, this.policy, this.#settings.statistics);
    this.#queues = new NetQueues({ offered, pairs: queuePairs, size: queueSize }, this.#data);
    this.#data.restartLost = options.onLost !== 'needs-reset';
    this.parts = new NetParts({
      state: () => this.#state(),
      pairs: (features) => this.#queues.pairs(features),
      permanentMac: () => this.#permanentMac,
      allowsMac: (mac) => this.#allowsMac(mac),
      queuePairs,
      steering,
      position: (index) => this.#queues.position(index),
    });
    this.#publishPolicy();
  }

  attach(host: VirtioHost): void {
    this.#host = host;
    this.#config.host = host;
    this.#queues.attach(host, {
      control: (reader, reply) => this.#command(reader, reply),
      administration: this.#admin && { longest: this.#admin.readableBytes, run: (readable, room) => this.#administer(readable, room) },
    });
  }

  // ---- features and queues ----

  get queueCount(): number {
    return this.#queues.count;
  }

  get adminQueueCount(): number {
    return this.#queues.adminCount;
  }

  queueMaxSize(index: number, features: FeatureSet | undefined): number {
    return this.#queues.maxSize(index, features);
  }

  refuses(features: FeatureSet, legacy: boolean): string | undefined {
    // virtio 1.4 6.2 (device MAY): without it the driver would use addresses that this device's memory does not have. A legacy driver cannot say so; whoever passes its accesses on to a
    // VF has seen to the translation.
    if (!legacy && this.offered.has(VIRTIO_F_ACCESS_PLATFORM) && !features.has(VIRTIO_F_ACCESS_PLATFORM)) return 'ACCESS_PLATFORM is needed behind an IOMMU';
    return missingDependency(features);
  }

  negotiated(): void {
    const { features } = this.#host as VirtioHost;
    this.#settings.negotiated(features);
    this.#publishPolicy();
    this.#setStandby(features.has(VIRTIO_NET_F_STANDBY));
  }

  // ---- configuration ----

  configRead(offset: number, size: number): number {
    return this.#config.read(offset, size);
  }

  // virtio 1.4 5.1.9.5.2.3: a legacy driver without CTRL_MAC_ADDR sets its address here, before or after it has negotiated; each byte takes effect at once.
  configWrite(offset: number, size: number, value: number): void {
    const host = this.#host;
    if (!host?.legacy || offset + size > MAC_BYTES || host.features.has(VIRTIO_NET_F_CTRL_MAC_ADDR)) {
      host?.log.guestError('that of a network device configuration is read-only', { offset });
      return;
    }
    if (this.#options.mayChangeMac?.() === false) return;
    const mac = this.#config.mac.slice();
    for (let i = 0; i < size; i++) mac[offset + i] = Math.floor(value / 2 ** (8 * i)) & 0xff;
    this.#settings.addressKnown();
    this.#setMac(mac, false);
    this.#publishPolicy();
  }

  get linkUp(): boolean {
    return this.#config.linkUp;
  }

  /** Plugs or pulls the cable. The driver is told if it negotiated STATUS; frames stop and go either way. */
  setLink(up: boolean): void {
    if (up === this.#config.linkUp) return;
    this.#config.linkUp = up;
    this.#publishPolicy();
    // A driver that did not negotiate STATUS may look at the field all the same: the generation is right for it too, but it is not interrupted.
    this.#config.show(this.#host?.features.has(VIRTIO_NET_F_STATUS) === true);
    this.#options.onLink?.(up);
  }

  #setMac(mac: Uint8Array, notify: boolean): void {
    this.#config.mac = mac;
    this.#config.show(notify);
    this.#options.onMac?.(mac.slice());
  }

  /**
   * Gives the device another permanent address, in force at once, whatever address its driver had set, and tells the driver by a configuration change. For who administers a virtual
   * function. @throws VirtioOptionError
   */
  assignMac(mac: Uint8Array | string): void {
    this.#permanentMac = checkMac(mac);
    this.#setMac(this.#permanentMac, this.#host?.features.has(VIRTIO_NET_F_MAC) === true);
    this.#publishPolicy();
  }

  /**
   * Asks the driver to announce itself to the network (virtio 1.4 5.1.9.5.4), as after it has moved to another place; also between `restore` and `resume`. `announcing` tells
   * when it has acknowledged. One that did not negotiate GUEST_ANNOUNCE and STATUS is not asked: the data plane announces its address in its place, if it can. Returns false when
   * nobody will: no driver is up, or neither can.
   */
  announce(): boolean {
    const host = this.#host;
    if (host === undefined || !(host.driverOk || host.suspended)) return false;
    if (!host.features.has(VIRTIO_NET_F_GUEST_ANNOUNCE) || !host.features.has(VIRTIO_NET_F_STATUS))
      return this.backend.announceStation?.(this.#config.mac) === true;
    this.#config.announcing = true;
    this.#config.show(true);
    return true;
  }

  get announcing(): boolean {
    return this.#config.announcing;
  }

  /** A driver has negotiated STANDBY: the device is the standby of a fail-over pair. */
  get standby(): boolean {
    return this.#standby;
  }

  #setStandby(standby: boolean): void {
    if (standby === this.#standby) return;
    this.#standby = standby;
    this.#options.onStandby?.(standby);
  }

  get permanentMac(): Uint8Array {
    return this.#permanentMac.slice();
  }

  /** The address in use: the permanent one, or what the driver set. */
  get mac(): Uint8Array {
    return this.#config.mac.slice();
  }

  #publishPolicy(): void {
    const host = this.#host;
    const publish = (): void => {
      this.#settings.publish(this.policy, {
        features: host?.features ?? this.offered,
        mac: this.#config.mac,
        mtu: this.#options.mtu ?? 0,
        linkUp: this.#config.linkUp,
        live: this.#data.liveReceivers,
        flowRules: this.#admin?.flowRules() ?? [],
        active: host?.driverOk === true && (this.#data.holds & (HELD_BY_DRIVER | HELD_BY_OWNER)) === 0,
      });
    };
    // With no turn under way: no frame meets half a change, and none the former state once this has returned.
    if (host) host.memory.betweenTurns(publish);
    else publish();
    this.#data.policyChanged();
  }

  // ---- life ----

  start(): void {
    this.#queues.startAll();
    this.#publishPolicy();
    this.#data.launch();
  }

  startQueue(index: number): void {
    this.#settings.restartQueue(index);
    this.#queues.start(index);
    this.#publishPolicy();
    this.#data.launch();
  }

  notify(index: number): void {
    this.#queues.notify(index);
  }

  stopQueue(index: number): void {
    // virtio 1.4 5.1.9.5.6.2, 5.1.9.5.7.3 (device MUST): frames for a receive queue under reset are not kept for it.
    if (this.#queues.stop(index)) this.#publishPolicy();
  }

  queueStopped(index: number): boolean {
    return this.#queues.stopped(index);
  }

  // virtio 1.4 3.4.2: the data rings stop between turns, when all they have taken has been used.
  suspend(): void {
    this.#queues.hold(HELD_BY_DRIVER);
    this.#publishPolicy();
  }

  get quiet(): boolean {
    this.#data.settle();
    return !this.#data.anyRunning;
  }

  unsuspend(): void {
    this.#goOn(HELD_BY_DRIVER);
    this.#config.catchUp();
  }

  // virtio 1.4 2.12.1.4.3: as a suspend, but that the driver sees nothing of it.
  freeze(): void {
    this.#config.frozen = true;
    this.#queues.hold(HELD_BY_OWNER);
    this.#publishPolicy();
  }

  thaw(): void {
    this.#config.frozen = false;
    this.#goOn(HELD_BY_OWNER);
    this.#config.catchUp();
  }

  /** One reason to hold still is gone. */
  #goOn(reason: number): void {
    // Set already, but for a device that was restored into it.
    this.#queues.hold(reason);
    if (this.#queues.restored && this.#host?.driverOk) this.start();
    this.#queues.release(reason);
    this.#publishPolicy();
    this.#queues.resumeCommands();
  }

  stop(): void {
    this.#queues.stopAll();
    this.#publishPolicy();
  }

  get stopped(): boolean {
    this.#data.settle();
    return !this.#data.anyRunning;
  }

  reset(): void {
    this.#data.clear();
    this.#settings.reset();
    this.#admin?.reset();
    this.#config.restart(this.#permanentMac);
    this.#options.onMac?.(this.#permanentMac.slice());
    this.#publishPolicy();
    this.#setStandby(false);
  }

  poll(): void {
    this.#data.settle();
  }

  kickDoorbell(index: number): Doorbell | undefined {
    return this.#data.kickDoorbell(index);
  }

  #command(reader: ChainReader, reply: ChainWriter): boolean {
    const host = this.#host as VirtioHost;
    const dataQueues = 2 * this.#queues.pairs(host.features);
    const ok = this.#settings.run(reader, reply, {
      features: host.features,
      dataQueues,
      dataQueueEnabled: (index) => index < dataQueues && host.queueEnabled(index),
      allowsMac: (mac) => this.#allowsMac(mac),
      setMac: (mac) => this.#setMac(mac, false),
      announced: () => {
        this.#config.announcing = false;
        this.#config.show(false);
      },
    });
    // virtio 1.4 5.1.9.5.2.1 and others (device MUST): in force before the buffer is used.
    if (ok) this.#publishPolicy();
    return ok;
  }

  #administer(readable: Uint8Array, room: number): Uint8Array | undefined {
    const reply = (this.#admin as NetAdmin).execute(readable, room);
    // A rule is in force when its command is answered.
    if (this.#hasFlowFilter) this.#publishPolicy();
    return reply;
  }

  // ---- the embedder's side ----

  get backend(): VhostBackend {
    return this.#data.backend;
  }

  /** Workers lost and replaced since the last reset. */
  get restarts(): number {
    return this.#data.restarts;
  }

  /**
   * Moves the data rings to another backend while the driver goes on: each stops, and starts there where it stood; no frame is lost or repeated. Returns at once;
   * over when `handingOver` is false, which reading it brings about. @throws VirtioOptionError, BusyError
   */
  handOver(backend: VhostBackend): void {
    this.#data.handOver(backend, this.offered, this.#hasFlowFilter);
  }

  get handingOver(): boolean {
    this.#data.settle();
    return this.#data.handingOver;
  }

  /** Stops all queues where they are, unseen by the driver; over when `paused`. For saving. */
  pause(): void {
    this.#queues.hold(HELD_BY_EMBEDDER);
  }

  get paused(): boolean {
    this.#data.settle();
    return (this.#data.holds & HELD_BY_EMBEDDER) !== 0 && !this.#data.anyRunning;
  }

  /** Goes on after `pause` or `restore`. */
  resume(): void {
    if ((this.#data.holds & HELD_BY_EMBEDDER) !== 0) this.#goOn(HELD_BY_EMBEDDER);
  }

  // ---- saved state ----

  save(): Envelope<NetState> {
    if (this.#data.anyRunning || this.#data.handingOver) throw new BusyError('the data plane runs: pause the device and wait until it is paused, then save');
    return this.#state();
  }

  #state(): Envelope<NetState> {
    const { positions, control, admin } = this.#queues.save();
    return seal('virtio-net', NET_STATE_VERSION, {
      permanentMac: this.#permanentMac.slice(),
      ...this.#config.save(),
      ...this.#settings.save(),
      positions,
      control,
      admin: this.#admin ? { position: admin, ...this.#admin.save() } : null,
    });
  }

  /** Whether the driver may set this address: the host may have said that it keeps the one it was given. */
  #allowsMac(mac: Uint8Array): boolean {
    return this.#options.mayChangeMac?.() !== false || mac.every((byte, i) => byte === this.#permanentMac[i]);
  }

  restore(saved: unknown, features: FeatureSet): (paused: boolean) => void {
    const state = checkNetState(saved, {
      features,
      permanentMac: this.#permanentMac,
      pairs: this.#queues.pairs(features),
      rings: 2 * this.queuePairs,
      admin: this.#admin,
      steering: this.#settings.limits,
    });
    return (paused) => {
      this.stop();
      if (paused) this.#queues.hold(HELD_BY_EMBEDDER);
      this.#data.clear();
      this.#config.load(state);
      this.#options.onMac?.(state.mac.slice());
      this.#settings.load(state, features);
      this.#setStandby(features.has(VIRTIO_NET_F_STANDBY));
      if (state.admin) this.#admin = state.admin.admin;
      this.#queues.restore({ ...state, admin: state.admin?.position ?? null });
      // The owner's hold, or the driver's, is what it stays under otherwise.
      this.#publishPolicy();
    };
  }
}
