// The virtio network device (virtio 1.4 5.1) between its parts: configuration space, control queue, data rings over a backend, and the policy words the data plane
// reads. Queues are receiveq1, transmitq1, ..., and the control queue after the last pair.

import type { Doorbell } from '#core/doorbell';
import { type Envelope, seal } from '#core/saved';
import { BusyError } from '#virtio/control';
import { type VirtioDevice, type VirtioHost, VirtioOptionError } from '#virtio/device';
import { isPowerOfTwo, VIRTIO_QUEUE_SIZE_LIMIT } from '#virtio/device-status';
import { type FeatureSet, VIRTIO_F_ACCESS_PLATFORM } from '#virtio/features';
import { hasQueuePairs, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_STATUS } from '#virtio/net-features';
import { NetPolicy } from '#virtio/net-policy';
import type { VhostBackend } from '#virtio/vhost';
import type { VringPosition } from '#virtio/virtqueue';
import type { ChainReader } from './chain-reader.ts';
import type { ChainWriter } from './chain-writer.ts';
import { checkMac, checkMtu, checkRss, checkSpeed, type LinkSpeed, NET_CONFIG_BYTES, NetConfig, type RssOptions } from './config.ts';
import { runCommand } from './control-commands.ts';
import { ControlQueue } from './control-queue.ts';
import { checkBackend, DataPlane } from './data-plane.ts';
import { missingDependency, type NetFeatureName, offer } from './features.ts';
import { ReceiveState } from './receive-state.ts';
import { checkNetState, NET_STATE_VERSION, type NetState } from './saved-net.ts';
import { SteeringState } from './steering-state.ts';

const MOST_QUEUE_PAIRS = 64;
const DEFAULT_QUEUE_SIZE = 256;
const CONTROL_QUEUE_SIZE = 64;
const VIRTIO_ID_NETWORK = 1;

export interface VirtioNetOptions {
  /** "52:54:00:12:34:56" or six bytes; unicast. */
  readonly mac: Uint8Array | string;
  readonly backend: VhostBackend;
  /** Receive and transmit queue pairs, 1 (default) to 64. */
  readonly queuePairs?: number;
  /** Largest size of a data queue, a power of two (default 256). */
  readonly queueSize?: number;
  /** Offers MTU: 68 to 65535. */
  readonly mtu?: number;
  /** Offers SPEED_DUPLEX. */
  readonly link?: LinkSpeed;
  /** Default true. */
  readonly linkUp?: boolean;
  readonly rss?: RssOptions;
  /** Features to insist on (true) or leave out (false). */
  readonly features?: { readonly [name in NetFeatureName]?: boolean };
  /** When a worker is lost: start its rings again where they stood (default), or tell the driver to reset the device. */
  readonly onLost?: 'restart' | 'needs-reset';
}

export class VirtioNet implements VirtioDevice {
  readonly name = 'virtio-net';
  readonly type = VIRTIO_ID_NETWORK;
  readonly offered: FeatureSet;
  readonly queueCount: number;
  readonly configSize = NET_CONFIG_BYTES;
  /** The words the data plane reads. */
  readonly policy: NetPolicy;
  readonly queuePairs: number;
  readonly #queueSize: number;
  readonly #mtu: number;
  readonly #permanentMac: Uint8Array;
  readonly #config: NetConfig;
  readonly #receive = new ReceiveState();
  readonly #steering: SteeringState;
  readonly #data: DataPlane;
  #mac: Uint8Array;
  #linkUp: boolean;
  #host: VirtioHost | undefined;
  #control: ControlQueue | undefined;
  #controlPosition: VringPosition | undefined;
  #restored: readonly (VringPosition | null)[] = [];

  /** @throws VirtioOptionError */
  constructor(options: VirtioNetOptions) {
    const { backend, queuePairs = 1, queueSize = DEFAULT_QUEUE_SIZE } = options;
    if (!Number.isInteger(queuePairs) || queuePairs < 1 || queuePairs > MOST_QUEUE_PAIRS)
      throw new VirtioOptionError('NICBOX_QUEUE_PAIRS', `${queuePairs} queue pairs: give 1 to ${MOST_QUEUE_PAIRS}`);
    if (!Number.isInteger(queueSize) || !isPowerOfTwo(queueSize) || queueSize > VIRTIO_QUEUE_SIZE_LIMIT)
      throw new VirtioOptionError('NICBOX_QUEUE_SIZE', `queue size ${queueSize}: give a power of two up to ${VIRTIO_QUEUE_SIZE_LIMIT}`);
    this.#permanentMac = checkMac(options.mac);
    this.#mac = this.#permanentMac;
    if (options.mtu !== undefined) checkMtu(options.mtu);
    if (options.link !== undefined) checkSpeed(options.link);
    const rss = checkRss(options.rss ?? {});
    this.queuePairs = queuePairs;
    this.#queueSize = queueSize;
    this.#mtu = options.mtu ?? 0;
    this.#linkUp = options.linkUp ?? true;
    this.offered = offer({
      features: options.features ?? {},
      backend: backend.features,
      queuePairs,
      hasMtu: options.mtu !== undefined,
      hasSpeed: options.link !== undefined,
      rssContexts: rss.contexts,
    });
    checkBackend(backend, this.offered, queuePairs);
    this.queueCount = 2 * queuePairs + (this.offered.has(VIRTIO_NET_F_CTRL_VQ) ? 1 : 0);
    this.#config = new NetConfig(this.offered, { queuePairs, mtu: options.mtu, link: options.link, rss });
    this.#config.mac = this.#mac;
    this.#config.linkUp = this.#linkUp;
    this.#steering = new SteeringState({ ...rss, pairs: queuePairs });
    this.policy = new NetPolicy(this.#steering.limits);
    this.#data = new DataPlane(backend, this.policy, 2 * queuePairs);
    this.#data.restartLost = options.onLost !== 'needs-reset';
    this.#publishPolicy();
  }

  attach(host: VirtioHost): void {
    this.#host = host;
    this.#data.attach(host);
    this.#control = new ControlQueue(host, CONTROL_QUEUE_SIZE, (reader, reply) => this.#command(reader, reply));
  }

  // ---- features and queues ----

  #pairs(features: FeatureSet | undefined): number {
    return features === undefined || hasQueuePairs(features) ? this.queuePairs : 1;
  }

  /** Index of the control queue under the negotiated features, or -1. */
  get #controlIndex(): number {
    const features = this.#host?.features;
    return features?.has(VIRTIO_NET_F_CTRL_VQ) ? 2 * this.#pairs(features) : -1;
  }

  // virtio 1.4 5.1.2: the control queue follows the last pair that was negotiated, and is there only with CTRL_VQ.
  queueMaxSize(index: number, features: FeatureSet | undefined): number {
    const dataQueues = 2 * this.#pairs(features);
    if (index < dataQueues) return this.#queueSize;
    return index === dataQueues && (features ?? this.offered).has(VIRTIO_NET_F_CTRL_VQ) ? CONTROL_QUEUE_SIZE : 0;
  }

  refuses(features: FeatureSet): string | undefined {
    // virtio 1.4 6.2 (device MAY): without it the driver would use addresses that this device's memory does not have.
    if (this.offered.has(VIRTIO_F_ACCESS_PLATFORM) && !features.has(VIRTIO_F_ACCESS_PLATFORM)) return 'ACCESS_PLATFORM is needed behind an IOMMU';
    return missingDependency(features);
  }

  negotiated(): void {
    const { features } = this.#host as VirtioHost;
    this.#receive.clear(features);
    this.#steering.clear(features);
    this.#publishPolicy();
  }

  // ---- configuration ----

  configRead(offset: number, size: number): number {
    return this.#config.read(offset, size);
  }

  configWrite(): void {
    this.#host?.log.guestError('the configuration of a network device is read-only');
  }

  get linkUp(): boolean {
    return this.#linkUp;
  }

  /** Plugs or pulls the cable. The driver is told if it negotiated STATUS; frames stop and go either way. */
  setLink(up: boolean): void {
    if (up === this.#linkUp) return;
    this.#linkUp = up;
    this.#config.linkUp = up;
    this.#publishPolicy();
    const host = this.#host;
    // A driver that did not negotiate STATUS may look at the field all the same: the generation is right for it too, but it is not interrupted.
    if (host?.features.has(VIRTIO_NET_F_STATUS)) host.configChanged();
    else host?.configMoved();
  }

  /** The address in use: the permanent one, or what the driver set. */
  get mac(): Uint8Array {
    return this.#mac.slice();
  }

  #publishPolicy(): void {
    const host = this.#host;
    const publish = (): void =>
      this.#receive.publish(this.policy, this.#steering, {
        features: host?.features ?? this.offered,
        mac: this.#mac,
        mtu: this.#mtu,
        linkUp: this.#linkUp,
        active: host?.driverOk === true,
        live: this.#data.liveReceivers,
      });
    // With no turn under way: no frame meets half a change, and none the former state once this has returned.
    if (host) host.memory.betweenTurns(publish);
    else publish();
    this.#data.policyChanged();
  }

  // ---- life ----

  start(): void {
    const host = this.#host as VirtioHost;
    this.#data.begin();
    for (let index = 0; index < this.queueCount; index++) if (host.queueEnabled(index)) this.#startQueue(index);
    this.#restored = [];
    this.#publishPolicy();
    this.#data.launch();
  }

  startQueue(index: number): void {
    this.#startQueue(index);
    this.#publishPolicy();
    this.#data.launch();
  }

  #startQueue(index: number): void {
    if (index !== this.#controlIndex) this.#data.start(index, this.#restored[index] ?? undefined);
    // While held it opens on `resume`, where it stood.
    else if (!this.#data.held) this.#control?.open(index);
  }

  notify(index: number): void {
    if (index !== this.#controlIndex) this.#data.kick(index);
    else if (!this.#data.held) this.#control?.serve();
  }

  stopQueue(index: number): void {
    if (index === this.#controlIndex) this.#closeControl();
    else {
      this.#data.stop(index);
      // virtio 1.4 5.1.6.5.5.2, 5.1.6.5.6.3 (device MUST): frames for a receive queue under reset are not kept for it.
      this.#publishPolicy();
    }
  }

  #closeControl(): void {
    this.#control?.close();
    this.#controlPosition = undefined;
  }

  queueStopped(index: number): boolean {
    return index === this.#controlIndex || this.#data.stopped(index);
  }

  stop(): void {
    this.#closeControl();
    this.#restored = [];
    this.#data.stopAll();
    this.#publishPolicy();
  }

  get stopped(): boolean {
    this.#data.settle();
    return !this.#data.anyRunning;
  }

  reset(): void {
    this.#data.clear();
    this.#receive.clear();
    this.#steering.clear();
    this.#mac = this.#permanentMac;
    this.#config.mac = this.#mac;
    this.#host?.configMoved();
    this.#publishPolicy();
  }

  poll(): void {
    this.#data.settle();
  }

  kickDoorbell(index: number): Doorbell | undefined {
    return this.#data.kickDoorbell(index);
  }

  #command(reader: ChainReader, reply: ChainWriter): boolean {
    const ok = runCommand(reader, reply, {
      features: (this.#host as VirtioHost).features,
      state: this.#receive,
      steering: this.#steering,
      setMac: (mac) => {
        this.#mac = mac;
        this.#config.mac = mac;
        this.#host?.configMoved();
      },
    });
    // virtio 1.4 5.1.6.5.2.1 and others (device MUST): in force before the buffer is used.
    if (ok) this.#publishPolicy();
    return ok;
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
    this.#data.handOver(backend, this.offered);
  }

  get handingOver(): boolean {
    this.#data.settle();
    return this.#data.handingOver;
  }

  /** Stops all queues where they are, unseen by the driver; over when `paused`. For saving. */
  pause(): void {
    if (!this.#data.held) {
      this.#controlPosition = this.#control?.position ?? this.#controlPosition;
      this.#control?.close();
    }
    this.#data.hold();
  }

  get paused(): boolean {
    this.#data.settle();
    return this.#data.held && !this.#data.anyRunning;
  }

  /** Goes on after `pause` or `restore`. */
  resume(): void {
    if (!this.#data.held) return;
    const host = this.#host;
    if (this.#restored.length > 0 && host?.driverOk) this.start();
    this.#restored = [];
    this.#data.release();
    const control = this.#controlIndex;
    if (control < 0 || !host?.driverOk || !host.queueEnabled(control)) return;
    this.#control?.open(control, this.#controlPosition);
    this.#control?.serve();
  }

  // ---- saved state ----

  save(): Envelope<NetState> {
    if (this.#data.anyRunning || this.#data.handingOver) throw new BusyError('the data plane runs: pause the device and wait until it is paused, then save');
    const control = this.#control?.position ?? this.#controlPosition;
    return seal('virtio-net', NET_STATE_VERSION, {
      permanentMac: this.#permanentMac.slice(),
      mac: this.#mac.slice(),
      linkUp: this.#linkUp,
      receive: this.#receive.save(),
      steering: this.#steering.save(),
      positions: this.#data.positions(),
      control: control ? { available: control.available, used: control.used } : null,
    });
  }

  restore(saved: unknown, features: FeatureSet): () => void {
    const state = checkNetState(saved, {
      features,
      permanentMac: this.#permanentMac,
      pairs: this.#pairs(features),
      rings: 2 * this.queuePairs,
      steering: this.#steering.limits,
    });
    return () => {
      this.stop();
      this.#data.hold();
      this.#data.clear();
      this.#mac = state.mac;
      this.#config.mac = state.mac;
      this.#linkUp = state.linkUp;
      this.#config.linkUp = state.linkUp;
      this.#receive.load(state.receive);
      this.#steering.load(state.steering, features);
      this.#controlPosition = state.control ?? undefined;
      this.#restored = state.positions;
    };
  }
}
