// The control virtqueue of a vDPA network device, on the device's side (virtio 1.4 5.1.9.5): served by the card's firmware, for which the machine's thread stands, in an address space that its
// data rings do not have. It runs the commands of any control queue and writes what comes of them to policy words of the card's own, which are what its data path goes by. What no control
// queue carries - link, MTU, flow rules, which rings there are - the owner says in the words it gives.

import type { DmaSpace } from '#core/dma-space';
import { SegmentList } from '#core/segments';
import { HASH_KEY_BYTES } from '#net/hash-types';
import { FeatureSet, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED } from '#virtio/features';
import { ChainReader } from '#virtio/net-control/chain-reader';
import { ChainWriter } from '#virtio/net-control/chain-writer';
import { CoalescingState } from '#virtio/net-control/coalescing';
import { runCommand } from '#virtio/net-control/control-commands';
import { ReceiveState } from '#virtio/net-control/receive-state';
import { ControlStatistics } from '#virtio/net-control/statistics';
import { SteeringState } from '#virtio/net-control/steering-state';
import { VIRTIO_NET_ERR, VIRTIO_NET_OK } from '#virtio/net-control/wire';
import { MAC_BYTES } from '#virtio/net-features';
import { NetPolicy, POLICY_ACTIVE, POLICY_LINK_UP } from '#virtio/net-policy';
import { NetStatistics } from '#virtio/net-statistics';
import { openQueue } from '#virtio/open-queue';
import type { VdpaControl } from '#virtio/vdpa';
import type { VringState } from '#virtio/vhost';
import { QUEUE_BROKEN, QUEUE_EMPTY, type QueueSetup, type VirtQueue, type VringPosition } from '#virtio/virtqueue';
import type { NetConfig } from './vdpa-net-config.ts';

/** Features of the data rings alone: the control ring is a plain split one. */
const RING_FEATURES = FeatureSet.of(VIRTIO_F_RING_PACKED, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_IN_ORDER);
const MOST_SEGMENTS = 1024;

/** Between two resets of the card. */
export interface ControlSession {
  readonly features: FeatureSet;
  readonly control: VdpaControl;
  readonly config: NetConfig;
  readonly pairs: number;
}

export class VdpaControlQueue {
  /** The words that the data path goes by. */
  policy = new NetPolicy();
  #session: ControlSession | undefined;
  readonly #receive = new ReceiveState();
  #steering = new SteeringState({ tableLength: 1, contexts: 0, keySize: HASH_KEY_BYTES, pairs: 1 });
  #coalescing = new CoalescingState(0);
  readonly #counts = new ControlStatistics();
  #queue: VirtQueue | undefined;
  #segments: SegmentList | undefined;
  #memory: DmaSpace | undefined;
  #broken = false;
  #parked: VringPosition = { available: 0, used: 0 };

  /** DRIVER_OK: everything as after a reset (virtio 1.4 5.1.9.5). */
  begin(session: ControlSession): void {
    const { features, control, pairs } = session;
    const { limits } = control.policy.rss;
    // No ring is served: nobody goes by the words of the driver before.
    this.policy = this.policy.cleared(limits);
    this.#session = session;
    this.#counts.clear();
    this.#steering = new SteeringState({ ...limits, keySize: HASH_KEY_BYTES, pairs });
    this.#coalescing = new CoalescingState(2 * pairs);
    this.#receive.clear(features);
    this.#steering.clear(features);
    this.publish();
  }

  end(): void {
    this.close();
    this.#session = undefined;
  }

  /** The owner's words or the configuration space changed. Between turns. */
  publish(): void {
    const session = this.#session;
    if (session === undefined) return;
    const { features, config } = session;
    const given = session.control.policy;
    this.#coalescing.publish(this.policy);
    this.#receive.publish(this.policy, this.#steering, {
      features,
      mac: config.read(0, MAC_BYTES),
      mtu: 0,
      linkUp: (given.flags & POLICY_LINK_UP) !== 0,
      active: (given.flags & POLICY_ACTIVE) !== 0,
      live: given.rss.live,
    });
    this.policy.update((p) => {
      p.maximumFrame = given.maximumFrame;
      p.flowRules.set(given.flowRules);
    });
  }

  // ---- the ring ----

  /** Returns why it cannot be served, or undefined. */
  open(setup: QueueSetup, position: VringPosition, memory: DmaSpace): string | undefined {
    const features = (this.#session?.features ?? new FeatureSet()).without(RING_FEATURES);
    this.#parked = position;
    const queue = openQueue(setup, position, features, memory);
    this.#broken = typeof queue === 'string';
    if (typeof queue === 'string') return queue;
    this.#queue = queue;
    this.#memory = memory;
    this.#segments = new SegmentList(MOST_SEGMENTS, (memory.memory.slabs[0] as { views: SegmentList['views'][number] }).views);
    return undefined;
  }

  /** Stands still where it is. */
  close(): void {
    this.#parked = this.position;
    this.#queue = undefined;
  }

  get state(): VringState {
    if (this.#queue !== undefined) return 'running';
    return this.#broken ? 'broken' : 'stopped';
  }

  get position(): VringPosition {
    return this.#queue?.position ?? this.#parked;
  }

  /** Runs the commands that are there, a lap of the ring at most. Between turns. Returns why the ring is broken, or undefined. */
  serve(): string | undefined {
    const [queue, segments, memory, session] = [this.#queue, this.#segments, this.#memory, this.#session];
    if (queue === undefined || segments === undefined || memory === undefined || session === undefined) return undefined;
    memory.sync();
    if (queue.resync()) {
      let ran = 0;
      for (; ran < queue.size; ran++) {
        segments.truncate(0);
        const token = queue.pop(segments);
        if (token === QUEUE_EMPTY || token === QUEUE_BROKEN) break;
        queue.push(token, this.#answer(queue, segments, memory, session));
        queue.publish();
      }
      // virtio 1.4 5.1.9.5: what a command says is in force when its buffer is used: no turn begins before this.
      if (ran > 0) this.publish();
    }
    const { broken } = queue;
    if (broken !== undefined) {
      this.close();
      this.#broken = true;
    }
    return broken;
  }

  #answer(queue: VirtQueue, segments: SegmentList, memory: DmaSpace, { features, control, config, pairs }: ControlSession): number {
    // Nothing to answer in: it is not run.
    if (queue.writableBytes < 1) return 0;
    const reader = new ChainReader(segments);
    reader.begin(queue.readableSegments, queue.readableBytes);
    const reply = new ChainWriter(segments, memory);
    reply.begin(queue.readableSegments, queue.writableBytes);
    reply.skipOne();
    const dataQueues = 2 * pairs;
    this.#counts.commands++;
    const ok = runCommand(reader, reply, {
      features,
      state: this.#receive,
      steering: this.#steering,
      coalescing: this.#coalescing,
      statistics: { queues: control.statistics ?? new NetStatistics(dataQueues), control: this.#counts, dataQueues },
      dataQueueEnabled: (index) => index < dataQueues,
      setMac: (mac) => config.write(0, mac),
    });
    if (ok) this.#counts.succeeded++;
    const ack = new ChainWriter(segments, memory);
    ack.begin(queue.readableSegments, queue.writableBytes);
    ack.u8(ok ? VIRTIO_NET_OK : VIRTIO_NET_ERR);
    return ok ? 1 + reply.written : 1;
  }
}
