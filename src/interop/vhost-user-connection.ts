// One front end on a vhost-user socket: reads its messages one after the other, checks them, carries them out and answers. The peer is not trusted: whatever breaks the
// protocol ends this connection, with every descriptor closed and every mapping gone, and nobody else's.

import type { VhostNet } from '#backends/vhost-net';
import type { Doorbell } from '#core/doorbell';
import { FeatureSet } from '#virtio/features';
import type { EventPoll, Watch } from './event-poll.ts';
import { FrontMemory } from './front-memory.ts';
import { FrontRings } from './front-rings.ts';
import { EAGAIN, errorName, type Native } from './native.ts';
import * as wire from './vhost-user-protocol.ts';
import { type Message, ProtocolError } from './vhost-user-protocol.ts';

/** Messages handled before everybody else gets a turn. */
const MESSAGES_PER_TURN = 64;
const HUNG_UP = 'the front end closed it';
const NO_FD_BIT = 0x100;
const KNOWN_INDEX_BITS = 0x1ff;

export interface ConnectionParts {
  readonly native: Native;
  readonly poll: EventPoll;
  readonly backend: VhostNet;
  readonly relay: Doorbell;
  /** Device features to offer, bit 30 included. */
  readonly features: FeatureSet;
  /** Protocol feature bits to offer. */
  readonly protocolFeatures: readonly number[];
  readonly report: (message: string) => void;
}

/** Why a connection is over, and whether the peer broke the protocol. */
export interface Ending {
  readonly reason: string;
  readonly fault: boolean;
}

/** What a connection has agreed on. */
export interface SessionState {
  readonly features: readonly number[];
  readonly protocolFeatures: readonly number[];
  readonly regions: number;
  readonly running: readonly boolean[];
}

export class VhostUserConnection {
  /** Settles when everything is given back. */
  readonly closed: Promise<Ending>;
  readonly #fd: number;
  readonly #parts: ConnectionParts;
  readonly #memory: FrontMemory;
  readonly #rings: FrontRings;
  readonly #watch: Watch | undefined;
  readonly #header = new DataView(new ArrayBuffer(wire.HEADER_BYTES));
  #resolve: (ending: Ending) => void = () => {};
  #features = new FeatureSet();
  #protocolFeatures = new FeatureSet();
  // The message being received.
  #parsed: wire.Header | undefined;
  #bytes: Uint8Array;
  #have = 0;
  #fds: number[] = [];
  #busy = false;
  #again = false;
  #closing = false;
  #ending: Ending = { reason: '', fault: false };

  /** Takes over `fd`. */
  constructor(fd: number, parts: ConnectionParts) {
    this.#fd = fd;
    this.#parts = parts;
    this.#memory = new FrontMemory(parts.native);
    this.#rings = new FrontRings({ ...parts, memory: this.#memory, fail: (reason) => this.close(reason, true) });
    this.#bytes = new Uint8Array(this.#header.buffer);
    this.closed = new Promise((resolve) => {
      this.#resolve = resolve;
    });
    const watch = parts.poll.add(fd, () => this.#ready());
    if (typeof watch === 'number') {
      this.#watch = undefined;
      this.close(`cannot be waited for: ${errorName(watch)}`);
    } else this.#watch = watch;
  }

  get state(): SessionState {
    return {
      features: this.#features.bits(),
      protocolFeatures: this.#protocolFeatures.bits(),
      regions: this.#memory.regions.length,
      running: this.#rings.running,
    };
  }

  /** Ends the connection; `closed` says when that is done. */
  close(reason: string, fault = false): void {
    if (this.#closing) return;
    this.#closing = true;
    this.#ending = { reason, fault };
    this.#watch?.remove();
    // Whoever is at work on a message finishes first.
    if (!this.#busy) void this.#cleanUp();
  }

  async #cleanUp(): Promise<void> {
    const { native } = this.#parts;
    this.#dropFds(this.#fds);
    await this.#rings.close();
    this.#memory.close();
    native.close(this.#fd);
    this.#resolve(this.#ending);
  }

  #dropFds(fds: number[]): void {
    for (const fd of fds.splice(0)) this.#parts.native.close(fd);
  }

  // ---- receiving ----

  #ready(): void {
    this.#again = true;
    if (this.#busy || this.#closing) return;
    this.#busy = true;
    void this.#serve().then((reason) => {
      this.#busy = false;
      if (this.#closing) void this.#cleanUp();
      else if (reason !== undefined) this.close(reason, reason !== HUNG_UP);
      else if (this.#again) this.#ready();
    });
  }

  /** Serves what there is; returns why the connection ends, if it does. */
  async #serve(): Promise<string | undefined> {
    let message: Message | undefined;
    try {
      while (this.#again) {
        this.#again = false;
        for (let count = 1; ; count++) {
          const received = this.#receive();
          if (received === 'nothing') break;
          if (received === 'end') return HUNG_UP;
          message = received;
          await this.#handle(message);
          // What the message did not need.
          this.#dropFds(message.fds);
          message = undefined;
          if (this.#closing) return undefined;
          if (count % MESSAGES_PER_TURN === 0) await new Promise((resolve) => setImmediate(resolve));
        }
      }
      return undefined;
    } catch (error) {
      if (message !== undefined) {
        this.#dropFds(message.fds);
        if (message.needsReply && this.#protocolFeatures.has(wire.PROTOCOL_F_REPLY_ACK)) this.#acknowledge(message.request, false);
      }
      if (error instanceof ProtocolError) return message === undefined ? error.message : `${wire.requestName(message.request)}: ${error.message}`;
      return `internal error, please report it: ${(error as Error).stack ?? String(error)}`;
    }
  }

  /** One step of a message at a time: a peer may send it in any number of pieces. @throws ProtocolError */
  #receive(): Message | 'nothing' | 'end' {
    for (;;) {
      const wanted = this.#bytes.length - this.#have;
      if (wanted > 0) {
        const received = this.#parts.native.receive(this.#fd, this.#bytes, this.#have, wanted, this.#fds);
        if (received === -EAGAIN) return 'nothing';
        if (received === 0 && this.#have === 0 && this.#parsed === undefined) return 'end';
        if (received <= 0) throw new ProtocolError(received === 0 ? 'the connection ended inside a message' : `receiving failed: ${errorName(received)}`);
        this.#have += received;
        if (this.#have < this.#bytes.length) continue;
      }
      if (this.#parsed === undefined) {
        this.#parsed = wire.readHeader(this.#header);
        this.#bytes = new Uint8Array(new ArrayBuffer(this.#parsed.bytes));
        this.#have = 0;
        if (this.#parsed.bytes > 0) continue;
      }
      const { request, needsReply } = this.#parsed;
      const message: Message = { request, needsReply, payload: new DataView(this.#bytes.buffer), fds: this.#fds };
      this.#parsed = undefined;
      this.#bytes = new Uint8Array(this.#header.buffer);
      this.#have = 0;
      this.#fds = [];
      return message;
    }
  }

  // ---- answering ----

  #send(bytes: Uint8Array): void {
    const sent = this.#parts.native.send(this.#fd, bytes);
    if (sent !== bytes.length)
      throw new ProtocolError(sent === -EAGAIN ? 'the front end does not read its replies' : `a reply was not taken: ${errorName(sent)}`);
  }

  #replyU64(request: number, low: number, high = 0): void {
    const { message, payload } = wire.makeReply(request, 8);
    payload.setUint32(0, low >>> 0, true);
    payload.setUint32(4, high >>> 0, true);
    this.#send(message);
  }

  #acknowledge(request: number, success: boolean): void {
    const { message, payload } = wire.makeReply(request, 8);
    payload.setUint32(0, success ? 0 : 1, true);
    this.#parts.native.send(this.#fd, message);
  }

  // ---- requests ----

  async #handle(message: Message): Promise<void> {
    wire.checkFds(message.request, message.fds.length);
    const replied = await this.#carryOut(message);
    if (!replied && message.needsReply && this.#protocolFeatures.has(wire.PROTOCOL_F_REPLY_ACK)) this.#replyU64(message.request, 0);
  }

  /** Returns whether the request has a reply of its own, which was sent. @throws ProtocolError */
  async #carryOut(message: Message): Promise<boolean> {
    const { request, payload } = message;
    const { features } = this.#parts;
    switch (request) {
      case wire.GET_FEATURES:
        this.#replyU64(request, features.words[0], features.words[1]);
        return true;
      case wire.SET_FEATURES:
        await this.#setFeatures(new FeatureSet([payload.getUint32(0, true), payload.getUint32(4, true)]));
        return false;
      case wire.GET_PROTOCOL_FEATURES:
        this.#replyU64(request, FeatureSet.of(...this.#parts.protocolFeatures).words[0]);
        return true;
      case wire.SET_PROTOCOL_FEATURES:
        this.#setProtocolFeatures(new FeatureSet([payload.getUint32(0, true), payload.getUint32(4, true)]));
        return false;
      case wire.GET_QUEUE_NUM:
        this.#require(wire.PROTOCOL_F_MQ, 'MQ');
        // Of a network device front ends expect pairs (seen with QEMU and DPDK), whatever the request's name says.
        this.#replyU64(request, this.#parts.backend.maxQueuePairs);
        return true;
      case wire.SET_OWNER:
        return false;
      case wire.RESET_OWNER:
        await this.#rings.stopAll();
        return false;
      case wire.SET_MEM_TABLE:
        await this.#setMemoryTable(message);
        return false;
      case wire.SET_VRING_NUM:
        this.#rings.setSize(payload.getUint32(0, true), payload.getUint32(4, true));
        return false;
      case wire.SET_VRING_BASE:
        this.#rings.setBase(payload.getUint32(0, true), payload.getUint32(4, true));
        return false;
      case wire.SET_VRING_ADDR:
        await this.#rings.setAddresses(payload.getUint32(0, true), wire.readVringAddresses(payload));
        return false;
      case wire.GET_VRING_BASE: {
        const index = payload.getUint32(0, true);
        const base = await this.#rings.stop(index);
        this.#replyU64(request, index, base);
        return true;
      }
      case wire.SET_VRING_KICK: {
        const { index, fd } = this.#ringFd(message);
        await this.#rings.setKick(index, fd);
        return false;
      }
      case wire.SET_VRING_CALL: {
        const { index, fd } = this.#ringFd(message);
        this.#rings.setCall(index, fd);
        return false;
      }
      case wire.SET_VRING_ERR: {
        const { index, fd } = this.#ringFd(message);
        this.#rings.setErr(index, fd);
        return false;
      }
      case wire.SET_VRING_ENABLE: {
        if (!this.#features.has(wire.VHOST_USER_F_PROTOCOL_FEATURES) && this.#protocolFeatures.empty) throw new ProtocolError('not without protocol features');
        const on = payload.getUint32(4, true);
        if (on > 1) throw new ProtocolError(`${on} is neither 0 nor 1`);
        await this.#rings.setEnabled(payload.getUint32(0, true), on === 1);
        return false;
      }
      default:
        throw new ProtocolError('not offered');
    }
  }

  #require(bit: number, name: string): void {
    if (!this.#protocolFeatures.has(bit)) throw new ProtocolError(`protocol feature ${name} was not negotiated`);
  }

  async #setFeatures(features: FeatureSet): Promise<void> {
    const extra = features.without(this.#parts.features);
    if (!extra.empty) throw new ProtocolError(`feature bits ${extra.bits().join(', ')} were not offered`);
    this.#features = features;
    // Without protocol features there is no SET_VRING_ENABLE: rings are enabled by being started.
    const enabled = !features.has(wire.VHOST_USER_F_PROTOCOL_FEATURES);
    await this.#rings.setFeatures(features.without(FeatureSet.of(wire.VHOST_USER_F_PROTOCOL_FEATURES)));
    if (enabled) this.#rings.enableAll();
  }

  #setProtocolFeatures(features: FeatureSet): void {
    const extra = features.without(FeatureSet.of(...this.#parts.protocolFeatures));
    if (!extra.empty) throw new ProtocolError(`protocol feature bits ${extra.bits().join(', ')} were not offered`);
    this.#protocolFeatures = features;
  }

  async #setMemoryTable({ payload, fds }: Message): Promise<void> {
    const count = payload.getUint32(0, true);
    if (count < 1 || count > wire.MOST_REGIONS || payload.byteLength !== 8 + count * wire.REGION_BYTES)
      throw new ProtocolError(`${count} regions in ${payload.byteLength} bytes`);
    if (fds.length !== count) throw new ProtocolError(`${count} regions with ${fds.length} descriptors`);
    const regions = Array.from({ length: count }, (_, i) => wire.readRegion(payload, 8 + i * wire.REGION_BYTES));
    await this.#rings.change(() => this.#memory.replace(regions, fds));
    this.#memory.settle();
  }

  /** Ring index and descriptor of KICK, CALL and ERR: exactly one, or the bit that says there is none. The descriptor is the caller's. @throws ProtocolError */
  #ringFd({ payload, fds }: Message): { index: number; fd: number | undefined } {
    const word = wire.readU64(payload, 0, 'ring and flags');
    const none = (word & NO_FD_BIT) !== 0;
    if (word > KNOWN_INDEX_BITS) throw new ProtocolError(`unknown bits in 0x${word.toString(16)}`);
    if (none !== (fds.length === 0)) throw new ProtocolError(none ? 'a descriptor, and the bit that there is none' : 'no descriptor');
    return { index: word & 0xff, fd: fds.pop() };
  }
}
