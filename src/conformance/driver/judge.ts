// Judges a driver of a network device by what it puts into its memory: who each queue is for, and on whose behalf each buffer is looked at. It serves any driver that a transport can
// tell about (`DriverEvents`) and whose memory can be read.

import { FEATURE, type FeatureBits, type FeatureName } from '../features.ts';
import { NET_CONFIG } from '../layout.ts';
import { AdminJudge } from './admin-judge.ts';
import { ControlJudge } from './control-judge.ts';
import type { Findings } from './findings.ts';
import { LegacyFraming } from './legacy-framing.ts';
import { judgeNegotiation } from './negotiation.ts';
import { PackedWatch } from './packed-watch.ts';
import type { RingContext, RingWatch } from './ring-watch.ts';
import { SplitWatch } from './split-watch.ts';
import { TransmitJudge } from './transmit-judge.ts';
import { type Chain, type DriverEvents, DriverMemory, type DriverView, type QueueSetup } from './view.ts';

export type Role = 'receive' | 'transmit' | 'control' | 'admin';
const NONE: FeatureBits = new Set();
/** virtio 1.4 5.1.9.3.1: what a receive buffer holds behind its header when it cannot be merged with others. */
const BIG = 65_589;
const PLAIN = 1514;
const GUEST_GSO: readonly FeatureName[] = ['GUEST_TSO4', 'GUEST_TSO6', 'GUEST_UFO', 'GUEST_USO4', 'GUEST_USO6'];

/** Virtual functions of the device. */
export interface VirtualFunctions {
  readonly enabled: boolean;
  readonly count: number;
}

/** What the judges of each kind of buffer go by. */
export interface NetState {
  readonly memory: DriverMemory;
  readonly findings: Findings;
  has(name: FeatureName): boolean;
  /** The same of a bit that has no name here any more. */
  hasBit(bit: number): boolean;
  readonly headerSize: number;
  /** Device configuration; zeros where it is not known. */
  config(field: Exclude<keyof typeof NET_CONFIG, 'mac'>): number;
  readonly mac: Uint8Array;
  readonly knowsConfig: boolean;
  isEnabled(queue: number): boolean;
  role(queue: number): Role | undefined;
  /** undefined: not known. */
  readonly virtualFunctions: VirtualFunctions | undefined;
  /** Pairs the driver asked for; 1 before it did. */
  pairs: number;
}

export class DriverJudge implements DriverEvents, NetState {
  readonly memory: DriverMemory;
  readonly findings: Findings;
  pairs = 1;
  accepted: FeatureBits = NONE;
  adminQueues: readonly number[] = [];
  virtualFunctions: VirtualFunctions | undefined;
  readonly admin: AdminJudge;
  readonly #exact: boolean;
  #config: Uint8Array | undefined;
  readonly #rings = new Map<number, RingWatch>();
  readonly #control: ControlJudge;
  readonly #transmit: TransmitJudge;
  readonly #legacy: LegacyFraming;
  #started = false;
  #suspended = false;
  #atSuspend = new Map<number, number>();
  /** Called before a ring is looked at, and before a buffer that was made available is judged. */
  onLook: ((queue: number, ring: RingWatch) => void) | undefined;
  onChain: ((queue: number, role: Role | undefined, chain: Chain) => void) | undefined;

  /** Called in turn for each buffer that came back, before the driver can look at it. */
  readonly onUsed: ((queue: number, role: Role | undefined, chain: Chain, lengthAt: number) => void)[] = [];

  /** @param exact the device is at work only between `look` and `served`, on the same thread */
  constructor(view: DriverView, findings: Findings, exact: boolean) {
    this.memory = new DriverMemory(view);
    this.findings = findings;
    this.#exact = exact;
    this.admin = new AdminJudge(this);
    this.#control = new ControlJudge(this);
    this.#transmit = new TransmitJudge(this);
    this.#legacy = new LegacyFraming(this);
  }

  has(name: FeatureName): boolean {
    return this.accepted.has(FEATURE[name]);
  }

  hasBit(bit: number): boolean {
    return this.accepted.has(bit);
  }

  /** virtio 1.4 5.1.9.3.1: up to the last field that was negotiated. */
  get headerSize(): number {
    if (!this.has('VERSION_1')) return this.has('MRG_RXBUF') ? 12 : 10;
    if (this.has('OUT_NET_HEADER')) return 32;
    if (this.has('GUEST_UDP_TUNNEL_GSO') || this.has('HOST_UDP_TUNNEL_GSO')) return 24;
    return this.has('HASH_REPORT') ? 20 : 12;
  }

  get knowsConfig(): boolean {
    return this.#config !== undefined;
  }

  get mac(): Uint8Array {
    return this.#config?.subarray(0, 6) ?? new Uint8Array(6);
  }

  config(field: Exclude<keyof typeof NET_CONFIG, 'mac'>): number {
    const [offset, size] = NET_CONFIG[field];
    let value = 0;
    for (let i = size - 1; i >= 0; i--) value = value * 256 + (this.#config?.[offset + i] ?? 0);
    return value;
  }

  isEnabled(queue: number): boolean {
    return this.#rings.has(queue);
  }

  ring(queue: number): RingWatch | undefined {
    return this.#rings.get(queue);
  }

  role(queue: number): Role | undefined {
    if (this.adminQueues.includes(queue)) return 'admin';
    if (queue === this.#controlIndex) return 'control';
    return queue % 2 === 0 ? 'receive' : 'transmit';
  }

  get #controlIndex(): number {
    if (!this.has('CTRL_VQ')) return -1;
    if (!this.has('MQ') && !this.has('RSS')) return 2;
    return this.knowsConfig ? 2 * this.config('max_virtqueue_pairs') : -1;
  }

  // ---- what happens ----

  reset(): void {
    if (this.#started) for (const ring of this.#rings.values()) ring.intact('when the device was reset');
    this.#rings.clear();
    this.accepted = NONE;
    this.#config = undefined;
    this.#started = false;
    this.#suspended = false;
    this.pairs = 1;
    this.#control.reset();
    this.admin.reset();
  }

  negotiated(offered: FeatureBits | undefined, accepted: FeatureBits): void {
    this.accepted = accepted;
    if (offered) judgeNegotiation(this.findings, offered, accepted);
  }

  configured(bytes: Uint8Array): void {
    this.#config = bytes;
  }

  queueEnabled(queue: number, setup: QueueSetup): void {
    if (!(setup.size >= 1 && setup.size <= 0x8000)) return;
    const context: RingContext = {
      queue,
      memory: this.memory,
      features: this.accepted,
      findings: this.findings,
      exact: this.#exact,
      chain: (chain) => this.#chain(queue, chain),
      used: (chain, lengthAt) => {
        const role = this.role(queue);
        for (const hook of this.onUsed) hook(queue, role, chain, lengthAt);
        if (role === 'control') this.#control.answered(chain);
        else if (role === 'admin') this.admin.answered(chain, this.memory.u32(lengthAt));
      },
    };
    this.#rings.set(queue, this.has('RING_PACKED') ? new PackedWatch(context, setup) : new SplitWatch(context, setup));
  }

  queueStopped(queue: number): void {
    this.#rings.get(queue)?.intact('when the queue was reset');
    this.#rings.delete(queue);
  }

  started(): void {
    this.#started = true;
  }

  suspended(on: boolean): void {
    this.#suspended = on;
    if (on) this.#atSuspend = new Map([...this.#rings].map(([queue, ring]) => [queue, ring.exposed]));
  }

  notified(queue: number, value: number, width: number): void {
    this.look();
    const { findings } = this;
    // Clauses about a feature stand here only once that is negotiated.
    if (this.has('SUSPEND')) findings.check('suspend.4', `queue ${queue} notified while the device is suspended`, this.#suspended, false);
    const wide = this.has('NOTIFICATION_DATA');
    if (width > 0 && wide) findings.check('notify.2', `queue ${queue}: bytes of a notification with NOTIFICATION_DATA`, width, 4);
    this.#rings.get(queue)?.notified(width === 4 && wide ? value >>> 16 : undefined);
  }

  look(): void {
    for (const [queue, ring] of this.#rings) {
      const before = ring.exposed;
      this.onLook?.(queue, ring);
      ring.look();
      if (this.#suspended && ring.exposed !== before) judgeSuspended(this.findings, queue, ring.exposed - (this.#atSuspend.get(queue) ?? 0));
    }
  }

  served(): void {
    for (const ring of this.#rings.values()) ring.served();
  }

  /** The driver has done what it had to do for now, and the device has not been at work since. */
  quiet(): void {
    this.look();
    if (this.#suspended) for (const [queue, ring] of this.#rings) judgeSuspended(this.findings, queue, ring.exposed - (this.#atSuspend.get(queue) ?? 0));
    if (!this.#started || this.#suspended) return;
    for (const [queue, ring] of this.#rings) {
      ring.quiet();
      if (this.role(queue) === 'receive' && this.has('MQ') && queue < 2 * this.pairs)
        this.findings.that('net-rx.5', `receive queue ${queue} in use: buffers made available`, ring.exposed > 0, 'some', ring.exposed);
    }
  }

  // ---- buffers ----

  #chain(queue: number, chain: Chain): void {
    const role = this.role(queue);
    this.onChain?.(queue, role, chain);
    if (!this.has('VERSION_1')) {
      this.#legacyChain(queue, role, chain);
      return;
    }
    if (role === 'receive') this.#received(queue, chain);
    else if (role === 'transmit') this.#transmit.frame(queue, chain);
    else if (role === 'control') this.#control.command(chain);
    else if (role === 'admin') this.admin.command(chain);
  }

  /** What a driver of before VIRTIO 1.0 lays out otherwise. */
  #legacyChain(queue: number, role: Role | undefined, chain: Chain): void {
    this.#legacy.placed(queue, chain);
    if (role === 'receive') this.#legacy.received(chain);
    else if (role === 'transmit') this.#legacy.frame(chain);
    else if (role === 'control') this.#legacy.command(chain);
  }

  #received(queue: number, chain: Chain): void {
    const { findings, headerSize } = this;
    const what = `receive queue ${queue}: bytes of a buffer`;
    const mtu = this.has('MTU') ? this.config('mtu') : 0;
    const ring = this.#rings.get(queue);
    if (this.has('MRG_RXBUF')) {
      findings.that('net-rx.3', what, chain.writable >= headerSize, `at least the header's ${headerSize}`, chain.writable);
      if (mtu > 0 && ring)
        findings.that(
          'net.18',
          `${what}, times its ${ring.setup.size} of them`,
          chain.writable * ring.setup.size >= headerSize + 14 + mtu,
          `a frame of mtu ${mtu}`,
          chain.writable,
        );
      return;
    }
    const big = GUEST_GSO.some((name) => this.has(name));
    findings.that(
      big ? 'net-rx.1' : 'net-rx.2',
      what,
      chain.writable >= headerSize + (big ? BIG : PLAIN),
      `at least ${headerSize + (big ? BIG : PLAIN)}`,
      chain.writable,
    );
    if (mtu > 0) findings.that('net.18', what, chain.writable >= headerSize + 14 + mtu, `a frame of mtu ${mtu}`, chain.writable);
  }
}

function judgeSuspended(findings: Findings, queue: number, more: number): void {
  findings.check('suspend.3', `queue ${queue}: buffers made available while the device is suspended`, more, 0);
}
