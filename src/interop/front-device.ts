// What a front end may leave to us of the device besides its data rings: configuration space, the control queue and what that sets up (user-mode Linux does; QEMU and DPDK keep
// them to themselves). The same parts as the in-process device's.

import { WallClock } from '#core/clock';
import type { Call } from '#core/interrupts';
import type { Log } from '#core/log';
import { RestoreError, seal, unseal } from '#core/saved';
import { checkRss, NetConfig } from '#devices/virtio-net/config';
import { ControlQueue } from '#devices/virtio-net/control-queue';
import { type StatisticsSnapshot, savedCoalescing, savedMac, savedReceive, savedStatistics } from '#devices/virtio-net/saved-net';
import { savedSteering } from '#devices/virtio-net/saved-steering';
import { FeatureSet } from '#virtio/features';
import type { InflightRegion } from '#virtio/inflight';
import { type CoalescingSnapshot, CoalescingState } from '#virtio/net-control/coalescing';
import { runCommand } from '#virtio/net-control/control-commands';
import { type ReceiveSnapshot, ReceiveState } from '#virtio/net-control/receive-state';
import { ControlStatistics } from '#virtio/net-control/statistics';
import { type SteeringSnapshot, SteeringState } from '#virtio/net-control/steering-state';
import * as net from '#virtio/net-features';
import type { NetPolicy } from '#virtio/net-policy';
import { NetStatistics } from '#virtio/net-statistics';
import { savedInteger, savedIntegers, savedRecord } from '#virtio/saved-control';
import type { QueueSetup, VringPosition } from '#virtio/virtqueue';
import type { FrontMemory } from './front-memory.ts';

const CONTROL_QUEUE_SIZE = 64;
const STATE_PART = 'vhost-user-net';
const STATE_VERSION = 1;
/** Useless without the control queue, except that HASH_REPORT also makes headers longer. A front end that serves that queue itself may accept them all the same, for its driver. */
const CONTROL_FEATURES = FeatureSet.of(
  ...net.NET_FEATURE_DEPENDENCIES.filter(({ bit, needs }) => needs.includes(net.VIRTIO_NET_F_CTRL_VQ) && bit !== net.VIRTIO_NET_F_HASH_REPORT).map(
    ({ bit }) => bit,
  ),
);
const RSS = checkRss({ contexts: 0 });

export interface FrontDeviceParts {
  readonly offered: FeatureSet;
  readonly queuePairs: number;
  readonly mac: Uint8Array;
  readonly mtu: number | undefined;
  readonly memory: FrontMemory;
  readonly log: Log;
  /** Of ring `index`. */
  readonly setup: (index: number) => QueueSetup;
  readonly call: (index: number) => Call;
  /** Ring `index` is one the driver has enabled. */
  readonly enabled: (index: number) => boolean;
  /** A command changed what the policy says; in force before this returns. */
  readonly changed: () => void;
  /** The driver broke the control queue. */
  readonly broken: (reason: string) => void;
}

/** What a migration brings, checked. */
interface Arriving {
  readonly features: FeatureSet;
  readonly receive: ReceiveSnapshot;
  readonly steering: SteeringSnapshot;
  readonly coalescing: CoalescingSnapshot;
  readonly statistics: StatisticsSnapshot;
}

export class FrontDevice {
  readonly #parts: FrontDeviceParts;
  readonly #config: NetConfig;
  readonly #receive = new ReceiveState();
  readonly #steering: SteeringState;
  readonly #coalescing: CoalescingState;
  /** What the data plane counts in. */
  readonly statistics: NetStatistics;
  readonly #controlStatistics = new ControlStatistics();
  readonly #clock = new WallClock();
  #control: ControlQueue | undefined;
  #controlInflight: InflightRegion | undefined;
  #features = new FeatureSet();
  #mac: Uint8Array;
  #mtu: number;
  /** Came with a migration, for when the driver's features are set. */
  #arriving: Arriving | undefined;

  constructor(parts: FrontDeviceParts) {
    this.#parts = parts;
    this.#coalescing = new CoalescingState(2 * parts.queuePairs);
    this.statistics = new NetStatistics(2 * parts.queuePairs);
    this.#mac = parts.mac;
    this.#mtu = parts.mtu ?? 0;
    this.#config = new NetConfig(parts.offered, { queuePairs: parts.queuePairs, mtu: parts.mtu, link: undefined, rss: RSS });
    this.#steering = new SteeringState({ ...RSS, pairs: parts.queuePairs });
    this.#config.mac = parts.mac;
    this.#config.linkUp = true;
  }

  readConfig(offset: number, into: Uint8Array): void {
    for (let i = 0; i < into.length; i++) into[i] = this.#config.read(offset + i, 1);
  }

  /** The front end said how long frames may get. False when that is no MTU. */
  setMtu(mtu: number): boolean {
    if (mtu < 68 || mtu > 65535) return false;
    this.#mtu = mtu;
    return true;
  }

  /** A driver negotiated these. */
  set features(features: FeatureSet) {
    this.#features = features.has(net.VIRTIO_NET_F_CTRL_VQ) ? features : features.without(CONTROL_FEATURES);
    this.#receive.clear(this.#features);
    this.#steering.clear(this.#features);
    this.#coalescing.clear();
    this.statistics.clear();
    this.#controlStatistics.clear();
    const arriving = this.#arriving;
    if (arriving === undefined || !arriving.features.equals(this.#features)) return;
    this.#arriving = undefined;
    this.#takeOver(arriving);
  }

  /** The device was reset: what a migration brought is not for what comes now. */
  reset(): void {
    this.#arriving = undefined;
  }

  // ---- migration ----

  /** What the front end knows nothing of: addresses, filters, offloads and pairs that the control queue set up. Rings are at rest. */
  save(): unknown {
    const { words } = this.#features;
    return seal(STATE_PART, STATE_VERSION, {
      features: [...words],
      mac: this.#mac,
      mtu: this.#mtu,
      receive: this.#receive.save(),
      steering: this.#steering.save(),
      coalescing: this.#coalescing.save(),
      statistics: { queues: this.statistics.save(), commands: this.#controlStatistics.commands, succeeded: this.#controlStatistics.succeeded },
    });
  }

  /** Takes over what another process's `save` said; filters come into force once the driver's features are set. @throws RestoreError, having changed nothing */
  restore(saved: unknown): void {
    const state = savedRecord(unseal(saved, STATE_PART, STATE_VERSION), 'device');
    const features = new FeatureSet(savedIntegers(state.features, 4, 0xffffffff, 'features'));
    if (!features.without(this.#parts.offered).empty) throw new RestoreError('saved state negotiated features that are not offered here');
    const receive = savedReceive(state.receive, { features, pairs: this.#parts.queuePairs });
    const steering = savedSteering(state.steering, { ...RSS, pairs: this.#parts.queuePairs }, features);
    const coalescing = savedCoalescing(state.coalescing, 2 * this.#parts.queuePairs);
    const statistics = savedStatistics(state.statistics, 2 * this.#parts.queuePairs);
    const mac = savedMac(state.mac, 'address');
    const mtu = savedInteger(state.mtu, 65535, 'MTU');
    const arriving = { features, receive, steering, coalescing, statistics };
    this.#mac = mac;
    this.#config.mac = mac;
    this.#mtu = mtu;
    if (features.equals(this.#features)) this.#takeOver(arriving);
    else this.#arriving = arriving;
  }

  #takeOver({ features, receive, steering, coalescing, statistics }: Arriving): void {
    this.#receive.load(receive);
    this.#steering.load(steering, features);
    this.#coalescing.load(coalescing);
    this.statistics.load(statistics.queues);
    this.#controlStatistics.commands = statistics.commands;
    this.#controlStatistics.succeeded = statistics.succeeded;
  }

  /** virtio 1.4 5.1.2: behind the last pair, and there only with CTRL_VQ; -1: there is none. */
  get controlIndex(): number {
    if (!this.#features.has(net.VIRTIO_NET_F_CTRL_VQ)) return -1;
    return net.hasQueuePairs(this.#features) ? 2 * this.#parts.queuePairs : 2;
  }

  /** @param live receive queues to be served, a bit a pair. @param pairs in use as far as the rings show: what holds unless a control queue says it. */
  publish(policy: NetPolicy, active: boolean, pairs: number, live: readonly [number, number]): void {
    if (this.controlIndex < 0) this.#receive.pairs = pairs;
    this.#coalescing.publish(policy);
    this.#receive.publish(policy, this.#steering, { features: this.#features, mac: this.#mac, mtu: this.#mtu, linkUp: active, active, live });
  }

  // ---- the control queue ----

  /** @param inflight where its position is kept for a process that takes over */
  openControl(index: number, position: VringPosition, inflight?: InflightRegion): void {
    const { memory, log, setup, call, broken } = this.#parts;
    const { space } = memory;
    if (space === undefined) return;
    const host = {
      memory: space,
      clock: this.#clock,
      log,
      features: this.#features,
      driverOk: true,
      suspended: false,
      legacy: false,
      queueEnabled: () => true,
      queueSetup: setup,
      call,
      configChanged: () => {},
      configMoved: () => {},
      needsReset: broken,
    };
    this.#control = new ControlQueue(host, CONTROL_QUEUE_SIZE, (reader, reply) => {
      const dataQueues = this.controlIndex;
      this.#controlStatistics.commands++;
      const ok = runCommand(reader, reply, {
        features: this.#features,
        state: this.#receive,
        steering: this.#steering,
        coalescing: this.#coalescing,
        statistics: { queues: this.statistics, control: this.#controlStatistics, dataQueues },
        dataQueueEnabled: (index) => index < dataQueues && this.#parts.enabled(index),
        setMac: (mac) => {
          this.#mac = mac;
          this.#config.mac = mac;
        },
      });
      if (!ok) return false;
      this.#controlStatistics.succeeded++;
      this.#parts.changed();
      return true;
    });
    this.#control.open(index, position);
    this.#controlInflight = inflight;
    // Commands may be waiting.
    this.serveControl();
  }

  serveControl(): void {
    this.#control?.serve();
    const position = this.#control?.position;
    if (position !== undefined) this.#controlInflight?.start(position.used);
  }

  /** Returns where it stood. */
  closeControl(): VringPosition | undefined {
    const position = this.#control?.position;
    this.#control?.close();
    this.#control = undefined;
    this.#controlInflight = undefined;
    return position;
  }
}
