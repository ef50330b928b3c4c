// What a front end's requests do: negotiation, memory, rings, device. One request at a time, in order; each is checked before anything changes, and what breaks the protocol
// throws ProtocolError, which ends the connection.

import type { Log } from '#core/log';
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM } from '#virtio/features';
import { BackendChannel } from './backend-channel.ts';
import { DeviceStateTransfer } from './device-state.ts';
import { FrontMemory } from './front-memory.ts';
import { FrontRings, type FrontRingsParts, MOST_ENTRIES } from './front-rings.ts';
import { InflightArea } from './inflight-area.ts';
import { type AddressSource, SEALED } from './mapped-memory.ts';
import { TranslationRequests } from './translation-requests.ts';
import * as wire from './vhost-user-protocol.ts';
import { type Message, ProtocolError } from './vhost-user-protocol.ts';

const NO_FD_BIT = 0x100;
const RING_AND_FLAG_BITS = 0x1ff;
const LOG_ALL = FeatureSet.of(wire.VHOST_F_LOG_ALL);
/** Features that say nothing about the rings. */
const TRANSPORT_FEATURES = FeatureSet.of(wire.VHOST_USER_F_PROTOCOL_FEATURES).or(LOG_ALL);

export interface SessionParts extends Omit<FrontRingsParts, 'memory' | 'broken'> {
  readonly log: Log;
  /** Offers INBAND_NOTIFICATIONS: a front end that takes it kicks and is called by messages alone. */
  readonly inBand: boolean;
  /** Protocol features to offer; default: those of a network device. */
  readonly protocolFeatures?: readonly number[];
  /** Where memory is mapped, if not anywhere. */
  readonly addressSource?: AddressSource;
  /** Memory that another process could cut short is not taken. */
  readonly requireSeals?: boolean;
  /** The front end is gone; called before anything of its is given back. */
  readonly onGone?: () => void;
}

/** An answer; a descriptor that goes with it is the sender's to close. */
export type Reply = Uint8Array | { readonly bytes: Uint8Array; readonly fd: number };

/** What a front end has agreed on. */
export interface SessionState {
  readonly features: readonly number[];
  readonly protocolFeatures: readonly number[];
  /** Memory regions mapped. */
  readonly regions: number;
  /** Whether each data ring runs. */
  readonly running: readonly boolean[];
}

export class FrontSession {
  readonly #parts: SessionParts;
  readonly #memory: FrontMemory;
  readonly #rings: FrontRings;
  #features = new FeatureSet();
  #agreed = new FeatureSet();
  #status = 0;
  /** The channel for messages of ours. */
  #channel: BackendChannel | undefined;
  readonly #requests: TranslationRequests;
  readonly #transfer: DeviceStateTransfer;

  constructor(parts: SessionParts) {
    this.#parts = parts;
    this.#transfer = new DeviceStateTransfer(parts.native, parts.log);
    this.#memory = new FrontMemory(parts.native, parts.requireSeals === true ? SEALED : parts.addressSource);
    this.#requests = new TranslationRequests(this.#memory, parts.log, () => this.#rings.lookAgain());
    this.#memory.onMiss = () => this.#requests.schedule();
    parts.backend.onMiss = () => this.#requests.schedule();
    this.#rings = new FrontRings({ ...parts, memory: this.#memory, broken: (index) => this.#ringBroke(index) });
  }

  get state(): SessionState {
    return {
      features: this.#features.bits(),
      protocolFeatures: this.#agreed.bits(),
      regions: this.#memory.regions.length,
      running: this.#rings.running,
    };
  }

  /** Requests that ask for it get an answer when they have none of their own. */
  get acknowledges(): boolean {
    return this.#agreed.has(wire.PROTOCOL_F_REPLY_ACK);
  }

  /** Everything stops, every descriptor is closed, every mapping gone. */
  async close(): Promise<void> {
    this.#transfer.cancel();
    this.#requests.close();
    this.#parts.backend.onMiss = undefined;
    this.#parts.onGone?.();
    // Whatever goes wrong with the rings, the mappings and the descriptor are not kept.
    try {
      await this.#rings.close();
    } finally {
      this.#memory.close();
      this.#setChannel(undefined);
    }
  }

  relayCalls(): void {
    if (this.#channel === undefined) return;
    for (const index of this.#rings.takeRelayed()) this.#channel.send(wire.makeBackendMessage(wire.BACKEND_VRING_CALL, index, 0));
  }

  #ringBroke(index: number): void {
    if (this.#inBand) this.#channel?.send(wire.makeBackendMessage(wire.BACKEND_VRING_ERR, index, 0));
  }

  #setChannel(fd: number | undefined): void {
    this.#channel?.close();
    const { native, poll, log } = this.#parts;
    this.#channel = fd === undefined ? undefined : new BackendChannel(native, poll, fd, log);
    this.#requests.channel = this.#channel;
  }

  /** Returns the reply, if the request has one of its own. @throws ProtocolError */
  async carryOut(message: Message): Promise<Reply | undefined> {
    const { request, payload, fds } = message;
    const { offered, backend, log } = this.#parts;
    if (log.tracing) log.trace(wire.requestName(request), { payload: Buffer.from(payload.buffer).toString('hex'), descriptors: fds.length });
    wire.checkRequest(request, fds.length, this.#agreed);
    const reply = (low: number, high = 0): Uint8Array => wire.makeU64Reply(request, low, high);
    const u32 = (at: number): number => payload.getUint32(at, true);
    const rings = this.#rings;
    switch (request) {
      case wire.GET_FEATURES:
        return reply(offered.words[0], offered.words[1]);
      case wire.SET_FEATURES:
        await this.#setFeatures(new FeatureSet([u32(0), u32(4)]));
        return undefined;
      case wire.GET_PROTOCOL_FEATURES:
        return reply(this.#protocolFeatures.words[0]);
      case wire.SET_PROTOCOL_FEATURES:
        this.#setProtocolFeatures(new FeatureSet([u32(0), u32(4)]));
        return undefined;
      case wire.GET_QUEUE_NUM:
        // Of a network device front ends expect pairs (seen with QEMU and DPDK), whatever the request's name says.
        return reply(backend.maxQueuePairs);
      case wire.SET_OWNER:
        return undefined;
      case wire.RESET_OWNER:
      case wire.RESET_DEVICE:
        this.#status = 0;
        await rings.stopAll();
        return undefined;
      case wire.SET_MEM_TABLE:
        await this.#setMemoryTable(message);
        return undefined;
      case wire.GET_MAX_MEM_SLOTS:
        return reply(wire.MOST_SLOTS);
      case wire.ADD_MEM_REG:
      case wire.REM_MEM_REG:
        await this.#changeRegion(message);
        return undefined;
      case wire.SET_LOG_BASE:
        await this.#setLog(message);
        return reply(0);
      case wire.SET_LOG_FD:
        // Told when pages were logged: what QEMU gives here it never listens to, and no front end may depend on it.
        return undefined;
      case wire.SET_VRING_NUM:
        rings.setSize(u32(0), u32(4));
        return undefined;
      case wire.SET_VRING_BASE:
        rings.setBase(u32(0), u32(4));
        return undefined;
      case wire.SET_VRING_ADDR:
        await rings.setAddresses(u32(0), wire.readVringAddresses(payload));
        return undefined;
      case wire.GET_VRING_BASE:
        return reply(u32(0), await rings.stop(u32(0)));
      case wire.SET_VRING_KICK: {
        const { index, fd } = ringFd(message);
        await rings.setKick(index, fd ?? (this.#inBand ? 'in-band' : 'polled'));
        return undefined;
      }
      case wire.SET_VRING_CALL: {
        const { index, fd } = ringFd(message);
        rings.setCall(index, fd, this.#inBand);
        return undefined;
      }
      case wire.SET_VRING_ERR: {
        const { index, fd } = ringFd(message);
        rings.setErr(index, fd);
        return undefined;
      }
      case wire.SET_VRING_ENABLE: {
        if (!this.#features.has(wire.VHOST_USER_F_PROTOCOL_FEATURES) && this.#agreed.empty) throw new ProtocolError('not without protocol features');
        if (u32(4) > 1) throw new ProtocolError(`${u32(4)} is neither 0 nor 1`);
        await rings.setEnabled(u32(0), u32(4) === 1);
        return undefined;
      }
      case wire.GET_INFLIGHT_FD:
      case wire.SET_INFLIGHT_FD:
        return this.#setInflight(message);
      case wire.VRING_KICK:
        rings.kickFromMessage(u32(0));
        return undefined;
      default:
        return this.#carryOutDevice(message);
    }
  }

  /** Requests about the device, not its rings. */
  async #carryOutDevice({ request, payload, fds, needsReply }: Message): Promise<Reply | undefined> {
    const { device } = this.#rings;
    switch (request) {
      case wire.NET_SET_MTU: {
        const mtu = wire.readU64(payload, 0, 'MTU');
        if (device?.setMtu(mtu) !== true) throw new ProtocolError(`MTU ${mtu} is not 68 to 65535`);
        this.#rings.policyChanged();
        return undefined;
      }
      case wire.IOTLB_MSG:
        return this.#translate(wire.readIotlb(payload), needsReply);
      case wire.SEND_RARP: {
        this.#parts.backend.announceStation?.(new Uint8Array(payload.buffer.slice(payload.byteOffset, payload.byteOffset + 6)));
        return undefined;
      }
      case wire.SET_DEVICE_STATE_FD: {
        const fd = fds.pop();
        if (fd === undefined) throw new ProtocolError('no descriptor');
        const [direction, phase] = [payload.getUint32(0, true), payload.getUint32(4, true)];
        const rings = this.#rings;
        const running = rings.running.includes(true);
        return wire.makeU64Reply(request, this.#transfer.begin(device, { direction, phase, fd, running, arrived: () => rings.policyChanged() }));
      }
      case wire.CHECK_DEVICE_STATE:
        return wire.makeU64Reply(request, await this.#transfer.check());
      case wire.SET_BACKEND_REQ_FD:
        if (fds.length === 0) throw new ProtocolError('no descriptor');
        this.#setChannel(fds.pop());
        return undefined;
      case wire.GET_CONFIG: {
        const { offset, bytes } = wire.readConfigAccess(payload);
        const { message, into } = wire.makeConfigReply(payload, bytes);
        // What is no network device has an empty one.
        device?.readConfig(offset, into);
        return message;
      }
      case wire.SET_CONFIG:
        wire.readConfigAccess(payload);
        this.#parts.log.guestError('the configuration is read-only');
        return needsReply && this.acknowledges ? wire.makeU64Reply(request, 1) : undefined;
      case wire.SET_STATUS: {
        this.#status = payload.getUint32(0, true) & 0xff;
        if (this.#status === 0) await this.#rings.stopAll();
        return undefined;
      }
      case wire.GET_STATUS:
        return wire.makeU64Reply(request, this.#status);
      default:
        throw new ProtocolError('not offered');
    }
  }

  /** An update or an invalidation; answered when it holds: nobody uses what it took away. */
  #translate({ iova, size, userAddress, permissions, type }: wire.IotlbMessage, needsReply: boolean): Reply | undefined {
    const memory = this.#memory;
    if (!memory.translated) throw new ProtocolError('ACCESS_PLATFORM was not negotiated');
    if (type === wire.IOTLB_UPDATE) {
      const address = memory.guestAddress(userAddress, size);
      const entry = { iova, size, address: address ?? 0, permissions };
      if (address === undefined || !memory.iotlb.update(entry)) {
        this.#parts.log.guestError(`a translation of ${size} bytes at 0x${iova.toString(16)} to 0x${userAddress.toString(16)} that cannot be`);
        return needsReply && this.acknowledges ? wire.makeU64Reply(wire.IOTLB_MSG, 1) : undefined;
      }
      this.#requests.answered(entry);
    } else if (type === wire.IOTLB_INVALIDATE) {
      // No size: 2^64, all of it.
      memory.iotlb.invalidate(size === 0 ? 0 : iova, size === 0 ? Number.MAX_SAFE_INTEGER : size);
    } else throw new ProtocolError(`IOTLB message of type ${type}`);
    memory.retranslate();
    this.#rings.translationsMoved();
    return undefined;
  }

  get #inBand(): boolean {
    return this.#agreed.has(wire.PROTOCOL_F_INBAND_NOTIFICATIONS);
  }

  async #setFeatures(features: FeatureSet): Promise<void> {
    const extra = features.without(this.#parts.offered);
    if (!extra.empty) throw new ProtocolError(`feature bits ${extra.bits().join(', ')} were not offered`);
    const needs = FeatureSet.of(wire.PROTOCOL_F_REPLY_ACK, wire.PROTOCOL_F_BACKEND_REQ);
    if (features.has(VIRTIO_F_ACCESS_PLATFORM) && !needs.without(this.#agreed).empty)
      throw new ProtocolError('ACCESS_PLATFORM without REPLY_ACK and BACKEND_REQ');
    this.#features = features;
    this.#memory.logging = features.has(wire.VHOST_F_LOG_ALL);
    await this.#rings.setFeatures(features.without(TRANSPORT_FEATURES));
    // Without protocol features there is no SET_VRING_ENABLE: rings are enabled by being started.
    if (!features.has(wire.VHOST_USER_F_PROTOCOL_FEATURES)) this.#rings.enableAll();
  }

  #setProtocolFeatures(features: FeatureSet): void {
    const extra = features.without(this.#protocolFeatures);
    if (!extra.empty) throw new ProtocolError(`protocol feature bits ${extra.bits().join(', ')} were not offered`);
    const needs = FeatureSet.of(wire.PROTOCOL_F_REPLY_ACK, wire.PROTOCOL_F_BACKEND_REQ);
    if (features.has(wire.PROTOCOL_F_INBAND_NOTIFICATIONS) && !needs.without(features).empty)
      throw new ProtocolError('INBAND_NOTIFICATIONS without REPLY_ACK and BACKEND_REQ');
    if (features.has(wire.PROTOCOL_F_GET_VRING_BASE_INFLIGHT) && !features.has(wire.PROTOCOL_F_INFLIGHT_SHMFD))
      throw new ProtocolError('GET_VRING_BASE_INFLIGHT without INFLIGHT_SHMFD');
    this.#agreed = features;
    if (this.#inBand) this.#rings.relayCalls();
  }

  get #protocolFeatures(): FeatureSet {
    const { protocolFeatures = wire.PROTOCOL_FEATURES } = this.#parts;
    return FeatureSet.of(...protocolFeatures, ...(this.#parts.inBand ? [wire.PROTOCOL_F_INBAND_NOTIFICATIONS] : []));
  }

  // ---- memory ----

  async #setMemoryTable({ payload, fds }: Message): Promise<void> {
    const count = payload.getUint32(0, true);
    // It may be longer than it has to be: user-mode Linux sends room for two regions.
    if (count < 1 || count > wire.MOST_REGIONS || payload.byteLength < 8 + count * wire.REGION_BYTES)
      throw new ProtocolError(`${count} regions in ${payload.byteLength} bytes`);
    if (fds.length !== count) throw new ProtocolError(`${count} regions with ${fds.length} descriptors`);
    const regions = Array.from({ length: count }, (_, i) => wire.readRegion(payload, 8 + i * wire.REGION_BYTES));
    await this.#rings.change(() => this.#memory.replace(regions, fds));
    this.#memory.settle();
  }

  async #changeRegion({ request, payload, fds }: Message): Promise<void> {
    const region = wire.readRegion(payload, 8);
    if (request === wire.REM_MEM_REG) await this.#rings.change(() => this.#memory.remove(region));
    else {
      const fd = fds[0];
      if (fd === undefined) throw new ProtocolError('no descriptor');
      if (this.#memory.regions.length >= wire.MOST_SLOTS) throw new ProtocolError(`more than ${wire.MOST_SLOTS} regions`);
      await this.#rings.change(() => this.#memory.add(region, fd));
    }
    this.#memory.settle();
  }

  /** Makes an in-flight area, or takes one back; it is in use from here on. */
  async #setInflight({ request, payload, fds }: Message): Promise<Reply | undefined> {
    const { bytes, offset, queues, size } = wire.readInflight(payload);
    const rings = this.#rings;
    if (queues < 1 || queues > rings.count || size < 1 || size > MOST_ENTRIES) throw new ProtocolError(`${queues} queues of ${size}`);
    const shape = { queues, size, packed: rings.packed };
    const { native } = this.#parts;
    if (request === wire.SET_INFLIGHT_FD) {
      const [fd] = fds;
      if (fd === undefined) throw new ProtocolError('no descriptor');
      await rings.setInflight(InflightArea.take(native, shape, fd, offset, bytes, this.#parts.requireSeals === true ? SEALED : undefined));
      return undefined;
    }
    const made = InflightArea.make(native, shape);
    await rings.setInflight(made.area);
    return { bytes: wire.makeInflightReply(payload, { bytes: made.bytes, offset: 0, queues, size }), fd: made.fd };
  }

  async #setLog({ payload, fds }: Message): Promise<void> {
    const fd = fds[0];
    if (fd === undefined) throw new ProtocolError('no descriptor');
    const bytes = wire.readU64(payload, 0, 'log size');
    const offset = wire.readU64(payload, 8, 'log offset');
    await this.#rings.change(() => this.#memory.setLog(fd, offset, bytes));
    this.#memory.settle();
  }
}

/** Ring index and descriptor of KICK, CALL and ERR: exactly one, or the bit that says there is none. The descriptor is the caller's. @throws ProtocolError */
function ringFd({ payload, fds }: Message): { index: number; fd: number | undefined } {
  const word = wire.readU64(payload, 0, 'ring and flags');
  const none = (word & NO_FD_BIT) !== 0;
  if (word > RING_AND_FLAG_BITS) throw new ProtocolError(`unknown bits in 0x${word.toString(16)}`);
  if (none !== (fds.length === 0)) throw new ProtocolError(none ? 'a descriptor, and the bit that there is none' : 'no descriptor');
  return { index: word & 0xff, fd: fds.pop() };
}
