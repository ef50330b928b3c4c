// An igb driven by hand: registers by offset, rings in memory, time that is stepped. Offsets and bits are typed here from the datasheet, not taken from the device.

import type { InlineSegment } from '#backends/inline-backend';
import type { SimClock } from '#core/clock';
import type { Igb } from '#devices/igb/device';
import type { IgbOptions } from '#devices/igb/options';
import { BDF, COMMON, EOP, IFCS, IntelStation, RCTL_BAM, RCTL_EN, RCTL_SECRC, RS, type Wired as WiredStation, wire } from '../intel-station.ts';

export {
  EOP,
  IC,
  IFCS,
  LSC,
  RCTL_BAM,
  RCTL_EN,
  RCTL_LBM,
  RCTL_LPE,
  RCTL_MPE,
  RCTL_SECRC,
  RCTL_UPE,
  RCTL_VFE,
  RS,
  RXDMT0,
  TXDW,
  VLE,
} from '../intel-station.ts';

export const R = {
  ...COMMON,
  FLA: 0x1c,
  TSSDP: 0x3c,
  EEMNGCTL: 0x1010,
  FRTIMER: 0x1048,
  TCPTIMER: 0x104c,
  ICR: 0x1500,
  ICS: 0x1504,
  IMS: 0x1508,
  IMC: 0x150c,
  IAM: 0x1510,
  GPIE: 0x1514,
  EICS: 0x1520,
  EIMS: 0x1524,
  EIMC: 0x1528,
  EIAC: 0x152c,
  EIAM: 0x1530,
  EICR: 0x1580,
  EITR: 0x1680,
  IVAR: 0x1700,
  IVAR_MISC: 0x1740,
  RXPBS: 0x2404,
  DTXCTL: 0x3590,
  PTC127: 0x40dc,
  IAC: 0x4100,
  RPTHC: 0x4104,
  RXDMTC: 0x4120,
  RLPML: 0x5004,
  RFCTL: 0x5008,
  PSRTYPE: 0x5480,
  RAL2: 0x54e0,
  RAH2: 0x54e4,
  SYNQF: 0x55fc,
  WUC: 0x5800,
  WUFC: 0x5808,
  WUS: 0x5810,
  MRQC: 0x5818,
  IPAV: 0x5838,
  IP4AT: 0x5840,
  IP6AT: 0x5880,
  WUPL: 0x5900,
  SAQF: 0x5980,
  DAQF: 0x59a0,
  SPQF: 0x59c0,
  FTQF: 0x59e0,
  WUPM: 0x5a00,
  IMIR: 0x5a80,
  IMIREXT: 0x5aa0,
  IMIRVP: 0x5ac0,
  SWSM: 0x5b50,
  SW_FW_SYNC: 0x5b5c,
  PBACL: 0x5b68,
  RETA: 0x5c00,
  RSSRK: 0x5c80,
  ETQF: 0x5cb0,
  TSYNCRXCFG: 0x5f50,
  FHFT: 0x9000,
  FHFT_EXT: 0x9a00,
  SYSTIML: 0xb600,
  SYSTIMH: 0xb604,
  TIMINCA: 0xb608,
  TIMADJL: 0xb60c,
  TIMADJH: 0xb610,
  TSYNCTXCTL: 0xb614,
  TXSTMPL: 0xb618,
  TXSTMPH: 0xb61c,
  TSYNCRXCTL: 0xb620,
  RXSTMPL: 0xb624,
  RXSTMPH: 0xb628,
  RXSATRL: 0xb62c,
  RXSATRH: 0xb630,
  TSAUXC: 0xb640,
  TRGTTIM: 0xb644,
  FREQOUT: 0xb654,
  AUXSTMP: 0xb65c,
  RDBAL: 0xc000,
  RDBAH: 0xc004,
  RDLEN: 0xc008,
  SRRCTL: 0xc00c,
  RDH: 0xc010,
  RDT: 0xc018,
  RXDCTL: 0xc028,
  RQDPC: 0xc030,
  TDBAL: 0xe000,
  TDBAH: 0xe004,
  TDLEN: 0xe008,
  TDH: 0xe010,
  TDT: 0xe018,
  TXDCTL: 0xe028,
  TDWBAL: 0xe038,
  TDWBAH: 0xe03c,
} as const;

/** Of a queue's register. */
export const of = (register: number, queue: number): number => register + 0x40 * queue;

export const RXDW = 0x80;
export const INTA = 0x8000_0000;

const DEXT = 0x20;
export const TSE = 0x80;
export const IXSM = 1;
export const TXSM = 2;

export const ENABLE = 1 << 25;
/** SRRCTL: 2 KiB packet buffers, 256 byte header buffers, one of the descriptor types. */
export const SRRCTL = {
  legacy: 2,
  one: 2 | (1 << 25),
  split: 2 | (4 << 8) | (2 << 25),
  replicate: 2 | (4 << 8) | (3 << 25),
  replicateLarge: 2 | (4 << 8) | (4 << 25),
  always: 2 | (4 << 8) | (5 << 25),
};
export const DROP_EN = 0x8000_0000;

export const RING = 32;
const RINGS = 0x1_0000;
const TX_DATA = 0x40_0000;
const RX_DATA = 0x80_0000;
const HEADERS = 0x3_0000;
const SLOT = 0x4000;
const RX_SLOT = 0x1000;

export interface Received {
  readonly bytes: Uint8Array;
  /** What lies in the header buffer, as long as HDR_LEN says. */
  readonly header: Uint8Array;
  readonly status: number;
  readonly tag: number;
  readonly hash: number;
  readonly rssType: number;
  readonly packetType: number;
  readonly headerLength: number;
  readonly split: boolean;
  readonly lengths: number[];
}

export interface StationOptions extends Partial<IgbOptions> {
  readonly clock?: SimClock;
}

const MSIX_BAR = 0xc010_0000;

/** A machine with one igb at 00:01.0. */
export class Station extends IntelStation<Igb> {
  readonly #txTail = new Array<number>(16).fill(0);
  readonly #rxHead = new Array<number>(16).fill(0);

  constructor(options: StationOptions = {}) {
    const { clock, ...device } = options;
    super((machine) => machine.addIgb({ mac: '52:54:00:00:00:0a', ...device }), clock);
    this.config(0x14, 4, 0xc002_0000);
    this.config(0x1c, 4, MSIX_BAR);
  }

  /** MSI-X on, `vectors` of its vectors unmasked: vector n sends n. And the part in the mode that has many. */
  msix(vectors = 10, gpie = 0x4000_0011): this {
    for (let n = 0; n < vectors; n++) {
      this.machine.barWrite(BDF, 3, 16 * n, 4, 0xfee0_0000);
      this.machine.barWrite(BDF, 3, 16 * n + 4, 4, 0);
      this.machine.barWrite(BDF, 3, 16 * n + 8, 4, n);
      this.machine.barWrite(BDF, 3, 16 * n + 12, 4, 0);
    }
    this.config(0x72, 2, 0x8000);
    this.write(R.GPIE, gpie);
    return this;
  }

  msi(): this {
    this.config(0x54, 4, 0xfee0_0000);
    this.config(0x5c, 2, 0x55);
    this.config(0x52, 2, 1);
    return this;
  }

  ringOf(queue: number): { tx: number; rx: number } {
    return { tx: RINGS + queue * 0x1000, rx: RINGS + queue * 0x1000 + 0x800 };
  }

  /** Link, rings, receive buffers: as a driver has it when it runs. */
  start(options: { rctl?: number; tctl?: number; ctrl?: number; queues?: number; srrctl?: number; buffers?: number; rxcsum?: number } = {}): this {
    this.write(R.CTRL, 0x40 | (options.ctrl ?? 0));
    this.clock.advance(1e9);
    for (let queue = 0; queue < (options.queues ?? 1); queue++) this.startQueue(queue, options);
    this.write(R.RXCSUM, options.rxcsum ?? 0x2300);
    this.write(R.TCTL, options.tctl ?? 0xfa);
    this.write(R.RCTL, options.rctl ?? RCTL_EN | RCTL_BAM | RCTL_SECRC);
    this.read(R.ICR);
    return this;
  }

  startQueue(queue: number, options: { srrctl?: number; buffers?: number } = {}): void {
    const { tx, rx } = this.ringOf(queue);
    this.write(of(R.TXDCTL, queue), 0);
    this.write(of(R.RXDCTL, queue), 0);
    this.write(of(R.TDBAL, queue), tx);
    this.write(of(R.TDBAH, queue), 0);
    this.write(of(R.TDLEN, queue), RING * 16);
    this.write(of(R.TXDCTL, queue), ENABLE);
    this.write(of(R.TDT, queue), 0);
    this.write(of(R.RDBAL, queue), rx);
    this.write(of(R.RDBAH, queue), 0);
    this.write(of(R.RDLEN, queue), RING * 16);
    this.write(of(R.SRRCTL, queue), options.srrctl ?? SRRCTL.one);
    this.write(of(R.RXDCTL, queue), ENABLE);
    for (let i = 0; i < RING; i++) this.buffer(queue, i);
    this.write(of(R.RDT, queue), options.buffers ?? RING - 1);
    this.#txTail[queue] = 0;
    this.#rxHead[queue] = 0;
  }

  bufferAddress(queue: number, index: number): number {
    return RX_DATA + (queue * RING + index) * RX_SLOT;
  }

  headerAddress(queue: number, index: number): number {
    return HEADERS + (queue * RING + index) * 0x400;
  }

  buffer(queue: number, index: number, address = this.bufferAddress(queue, index), header = this.headerAddress(queue, index)): void {
    this.words(this.ringOf(queue).rx + 16 * index, address, 0, header, 0);
  }

  // ---- transmit ----

  describe(queue: number, ...words: [number, number, number, number]): number {
    const index = (this.#txTail[queue] as number) % RING;
    this.words(this.ringOf(queue).tx + 16 * index, ...words);
    this.#txTail[queue] = (this.#txTail[queue] as number) + 1;
    return index;
  }

  place(bytes: ArrayLike<number>, queue = 0): number {
    const at = TX_DATA + ((this.#txTail[queue] as number) % RING) * SLOT;
    this.bytes.set(bytes, at);
    return at;
  }

  legacy(bytes: ArrayLike<number>, command = EOP | IFCS | RS, extra: { cso?: number; css?: number; tag?: number; queue?: number } = {}): number {
    const at = this.place(bytes, extra.queue);
    return this.describe(
      extra.queue ?? 0,
      at,
      0,
      bytes.length | ((extra.cso ?? 0) << 16) | (command << 24),
      ((extra.css ?? 0) << 8) | ((extra.tag ?? 0) << 16),
    );
  }

  context(context: {
    mac?: number;
    ip?: number;
    l4?: number;
    tag?: number;
    mss?: number;
    ipv4?: boolean;
    kind?: 'udp' | 'tcp' | 'sctp';
    index?: number;
    queue?: number;
  }): number {
    const { mac = 14, ip = 20, l4 = 20, tag = 0, mss = 0, ipv4 = true, kind = 'tcp', index = 0, queue = 0 } = context;
    const l4t = { udp: 0, tcp: 1, sctp: 2 }[kind];
    return this.describe(
      queue,
      ip | (mac << 9) | (tag << 16),
      0,
      (ipv4 ? 1 << 10 : 0) | (l4t << 11) | (2 << 20) | (DEXT << 24),
      (index << 4) | (l4 << 8) | (mss << 16),
    );
  }

  data(
    bytes: ArrayLike<number>,
    command = EOP | IFCS | RS,
    options: { popts?: number; index?: number; queue?: number; length?: number; mac?: number } = {},
  ): number {
    const at = this.place(bytes, options.queue);
    const { popts = 0, index = 0, queue = 0, length = bytes.length, mac = 0 } = options;
    return this.describe(queue, at, 0, bytes.length | mac | (3 << 20) | ((command | DEXT) << 24), (index << 4) | (popts << 8) | (length << 14));
  }

  /** Tells the device of what was described. */
  go(queue = 0): void {
    this.write(of(R.TDT, queue), (this.#txTail[queue] as number) % RING);
  }

  send(bytes: ArrayLike<number>, command?: number, options?: Parameters<Station['data']>[2]): number {
    const index = this.data(bytes, command, options);
    this.go(options?.queue);
    return index;
  }

  /** Status byte of a transmit descriptor. */
  sent(index: number, queue = 0): number {
    return this.bytes[this.ringOf(queue).tx + 16 * index + 12] as number;
  }

  // ---- receive ----

  /** Takes received frames of advanced descriptors, as a driver that polls DD. */
  received(queue = 0): Received[] {
    const frames: Received[] = [];
    let lengths: number[] = [];
    let parts: number[] = [];
    let header = new Uint8Array();
    let first = 0;
    for (let guard = 0; guard < RING; guard++) {
      const index = (this.#rxHead[queue] as number) % RING;
      const at = this.ringOf(queue).rx + 16 * index;
      const [w0, w1, w2, w3] = [0, 4, 8, 12].map((i) => this.view.getUint32(at + i, true)) as [number, number, number, number];
      if ((w2 & 1) === 0) break;
      const length = w3 & 0xffff;
      if (lengths.length === 0) {
        first = w0;
        const place = this.headerAddress(queue, index);
        header = this.bytes.slice(place, place + ((w0 >>> 21) & 0x3ff));
      }
      parts.push(...this.bytes.subarray(this.bufferAddress(queue, index), this.bufferAddress(queue, index) + length));
      lengths.push(length);
      this.buffer(queue, index);
      this.#rxHead[queue] = (this.#rxHead[queue] as number) + 1;
      if ((w2 & 2) === 0) continue;
      frames.push({
        bytes: Uint8Array.from(parts),
        header,
        status: w2,
        tag: w3 >>> 16,
        hash: w1,
        rssType: w0 & 15,
        packetType: (w0 >>> 4) & 0xfff,
        headerLength: (first >>> 21) & 0x3ff,
        split: first >>> 31 === 1,
        lengths,
      });
      lengths = [];
      parts = [];
    }
    return frames;
  }

  /** The words of a receive descriptor. */
  descriptor(index: number, queue = 0): number[] {
    return [0, 4, 8, 12].map((i) => this.view.getUint32(this.ringOf(queue).rx + 16 * index + i, true));
  }
}

export type Wired = WiredStation<Station>;

/** A station with a plain port at the other end of its cable. */
export function wired(options: StationOptions = {}): Wired {
  return wire((segment: InlineSegment) => new Station({ ...options, segment }));
}
