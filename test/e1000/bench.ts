// An e1000 driven by hand: registers by offset, rings in memory, time that is stepped. Offsets and bits are typed here from the manual, not taken from the device.

import { expect } from 'vitest';
import type { InlineSegment } from '#backends/inline-backend';
import type { SimClock } from '#core/clock';
import type { E1000 } from '#devices/e1000/device';
import type { E1000Options } from '#devices/e1000/options';
import { COMMON, EOP, IFCS, IntelStation, RCTL_BAM, RCTL_EN, RCTL_SECRC, RS, type Wired, wire } from '../devices/intel-station.ts';

export {
  EOP,
  IC,
  IFCS,
  LSC,
  link,
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
} from '../devices/intel-station.ts';

export const R = {
  ...COMMON,
  ICR: 0xc0,
  ITR: 0xc4,
  ICS: 0xc8,
  IMS: 0xd0,
  IMC: 0xd8,
  TXCW: 0x178,
  TIPG: 0x410,
  LEDCTL: 0xe00,
  PBA: 0x1000,
  RDBAL: 0x2800,
  RDBAH: 0x2804,
  RDLEN: 0x2808,
  RDH: 0x2810,
  RDT: 0x2818,
  RDTR: 0x2820,
  CSBAL: 0x2830,
  CSBAH: 0x2834,
  RXDCTL: 0x2828,
  RADV: 0x282c,
  RSRPD: 0x2c00,
  TDBAL: 0x3800,
  TDBAH: 0x3804,
  TDLEN: 0x3808,
  TDH: 0x3810,
  TDT: 0x3818,
  TIDV: 0x3820,
  TXDCTL: 0x3828,
  TADV: 0x382c,
  CRCERRS: 0x4000,
  RLEC: 0x4040,
  XONRXC: 0x4048,
  FCRUC: 0x4058,
  PRC1522: 0x4070,
  RFC: 0x40a8,
  TORL: 0x40c0,
  TORH: 0x40c4,
  TOTL: 0x40c8,
  TOTH: 0x40cc,
  PTC64: 0x40d8,
  PTC1522: 0x40ec,
  WUC: 0x5800,
  WUFC: 0x5808,
  WUS: 0x5810,
  IPAV: 0x5838,
  IP4AT: 0x5840,
  WUPL: 0x5900,
  WUPM: 0x5a00,
} as const;

export const TXQE = 2;
export const RXO = 0x40;
export const RXT0 = 0x80;
export const MDAC = 0x200;
export const TXD_LOW = 0x8000;
export const SRPD = 0x1_0000;

export const TSE = 4;
const DEXT = 0x20;
export const IDE = 0x80;

export const RCTL_SBP = 4;
export const TCTL_ON = 0x2 | 0x8 | 0x0f0 | 0x40000;

const TX_RING = 0x1_0000;
const RX_RING = 0x2_0000;
const TX_DATA = 0x10_0000;
const RX_DATA = 0x20_0000;
const SLOT = 0x4000;
export const RING = 64;

export interface Received {
  readonly bytes: Uint8Array;
  readonly status: number;
  readonly errors: number;
  readonly special: number;
  readonly checksum: number;
  /** Lengths of its descriptors. */
  readonly lengths: number[];
}

/** A machine with one e1000 at 00:01.0. */
export class Station extends IntelStation<E1000> {
  #txTail = 0;
  #rxHead = 0;

  constructor(options: Partial<E1000Options> & { clock?: SimClock } = {}) {
    const { clock, ...device } = options;
    super((machine) => machine.addE1000({ mac: '52:54:00:00:00:0a', ...device }), clock);
  }

  ioRead(port: number): number {
    return this.machine.barRead(0x0008, 2, port, 4);
  }

  ioWrite(port: number, value: number): void {
    this.machine.barWrite(0x0008, 2, port, 4, value >>> 0);
  }

  /** Link, rings, receive buffers: as a driver has it when it runs. */
  start(options: { rctl?: number; tctl?: number; ctrl?: number; buffers?: number } = {}): this {
    this.write(R.CTRL, 0x40 | (options.ctrl ?? 0));
    this.clock.advance(1e9);
    this.write(R.TDBAL, TX_RING);
    this.write(R.TDBAH, 0);
    this.write(R.TDLEN, RING * 16);
    this.write(R.TDH, 0);
    this.write(R.TDT, 0);
    this.write(R.TCTL, options.tctl ?? TCTL_ON);
    this.write(R.RDBAL, RX_RING);
    this.write(R.RDBAH, 0);
    this.write(R.RDLEN, RING * 16);
    this.write(R.RDH, 0);
    for (let i = 0; i < RING; i++) this.buffer(i, RX_DATA + i * SLOT);
    this.write(R.RCTL, options.rctl ?? RCTL_EN | RCTL_BAM | RCTL_SECRC);
    this.write(R.RDT, options.buffers ?? RING - 1);
    this.read(R.ICR);
    this.#txTail = 0;
    this.#rxHead = 0;
    return this;
  }

  buffer(index: number, address: number): void {
    this.words(RX_RING + 16 * index, address, 0, 0, 0);
  }

  /** One descriptor of four words, without telling the device. */
  describe(w0: number, w1: number, w2: number, w3: number): number {
    const index = this.#txTail % RING;
    this.words(TX_RING + 16 * index, w0, w1, w2, w3);
    this.#txTail++;
    return index;
  }

  place(bytes: ArrayLike<number>, slot = this.#txTail): number {
    const at = TX_DATA + (slot % RING) * SLOT;
    this.bytes.set(bytes, at);
    return at;
  }

  legacy(bytes: ArrayLike<number>, command = EOP | IFCS | RS, extra: { cso?: number; css?: number; special?: number } = {}): number {
    const at = this.place(bytes);
    return this.describe(at, 0, bytes.length | ((extra.cso ?? 0) << 16) | (command << 24), ((extra.css ?? 0) << 8) | ((extra.special ?? 0) << 16));
  }

  context(context: {
    ipcss?: number;
    ipcso?: number;
    ipcse?: number;
    tucss?: number;
    tucso?: number;
    tucse?: number;
    paylen?: number;
    mss?: number;
    hdrlen?: number;
    command?: number;
  }): number {
    const c = { ipcss: 14, ipcso: 24, ipcse: 33, tucss: 34, tucso: 50, tucse: 0, paylen: 0, mss: 0, hdrlen: 0, command: 0, ...context };
    return this.describe(
      c.ipcss | (c.ipcso << 8) | (c.ipcse << 16),
      c.tucss | (c.tucso << 8) | (c.tucse << 16),
      c.paylen | ((c.command | DEXT) << 24),
      (c.hdrlen << 8) | (c.mss << 16),
    );
  }

  data(bytes: ArrayLike<number>, command = EOP | IFCS | RS, popts = 0, special = 0): number {
    const at = this.place(bytes);
    return this.describe(at, 0, bytes.length | (1 << 20) | ((command | DEXT) << 24), (popts << 8) | (special << 16));
  }

  /** Tells the device of what was described. */
  go(): void {
    this.write(R.TDT, this.#txTail % RING);
  }

  send(bytes: ArrayLike<number>, command?: number, extra?: Parameters<Station['legacy']>[2]): number {
    const index = this.legacy(bytes, command, extra);
    this.go();
    return index;
  }

  /** Status byte of a transmit descriptor. */
  sent(index: number): number {
    return this.bytes[TX_RING + 16 * index + 12] as number;
  }

  /** Takes received frames, as a driver that polls DD. */
  received(): Received[] {
    const frames: Received[] = [];
    let lengths: number[] = [];
    let parts: number[] = [];
    let checksum = 0;
    for (let guard = 0; guard < RING; guard++) {
      const at = RX_RING + 16 * (this.#rxHead % RING);
      const last = this.view.getUint32(at + 12, true);
      if ((last & 1) === 0) break;
      const length = this.view.getUint16(at + 8, true);
      const address = this.view.getUint32(at, true);
      if (lengths.length === 0) checksum = this.view.getUint16(at + 10, true);
      parts.push(...this.bytes.subarray(address, address + length));
      lengths.push(length);
      this.view.setUint32(at + 12, 0, true);
      this.#rxHead++;
      if ((last & 2) === 0) continue;
      frames.push({ bytes: Uint8Array.from(parts), status: last & 0xff, errors: (last >>> 8) & 0xff, special: last >>> 16, checksum, lengths });
      lengths = [];
      parts = [];
    }
    return frames;
  }

  /** Gives `count` more buffers. */
  refill(count: number): void {
    const tail = this.read(R.RDT);
    this.write(R.RDT, (tail + count) % RING);
  }
}

/** A station with a plain port at the other end of its cable. */
export function wired(options: Partial<E1000Options> & { clock?: SimClock } = {}): Wired<Station> {
  return wire((segment: InlineSegment) => new Station({ ...options, segment }));
}

export const STATION = [0x52, 0x54, 0, 0, 0, 0xa];
export const OTHER = [0x52, 0x54, 0, 0, 0, 0xb];
export const BROADCAST = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff];

export function frame(length = 64, to: readonly number[] = STATION, type: readonly number[] = [0x88, 0xb5]): number[] {
  const head = [...to, ...OTHER, ...type];
  return [...head, ...Array.from({ length: length - head.length }, (_, i) => (i * 7 + 3) & 0xff)];
}

/** An IPv4 or IPv6 packet with TCP or UDP, checksums zero or (`seed`) the pseudo header's sum without length, as drivers hand them to this device. */
export function packet(options: { version?: 4 | 6; udp?: boolean; payload?: number; tag?: number; seed?: boolean; filled?: boolean }): number[] {
  const { version = 4, udp = false, payload = 100, tag, seed = false, filled = false } = options;
  const transport = udp ? 8 : 20;
  const ethernet = [...STATION, ...OTHER, ...(tag === undefined ? [] : [0x81, 0, tag >>> 8, tag & 0xff]), ...(version === 4 ? [8, 0] : [0x86, 0xdd])];
  const total = transport + payload;
  const protocol = udp ? 17 : 6;
  const source = version === 4 ? [10, 0, 0, 1] : [0xfe, 0x80, ...new Array(13).fill(0), 1];
  const target = version === 4 ? [10, 0, 0, 2] : [0xfe, 0x80, ...new Array(13).fill(0), 2];
  const ip =
    version === 4
      ? [0x45, 0, (20 + total) >>> 8, (20 + total) & 0xff, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0, ...source, ...target]
      : [0x60, 0, 0, 0, total >>> 8, total & 0xff, protocol, 64, ...source, ...target];
  const l4 = udp ? [0x30, 0x39, 0, 53, total >>> 8, total & 0xff, 0, 0] : [0x30, 0x39, 0, 80, 0x10, 0, 0xff, 0xf0, 0, 0, 0, 1, 0x50, 0x19, 0x20, 0, 0, 0, 0, 0];
  const body = Array.from({ length: payload }, (_, i) => (i * 13 + 5) & 0xff);
  const pseudo = sum16([...source, ...target, 0, protocol]);
  const field = udp ? 6 : 16;
  if (seed) {
    l4[field] = pseudo >>> 8;
    l4[field + 1] = pseudo & 0xff;
  }
  if (filled) {
    const value = ~sum16([...l4, ...body], pseudo + total) & 0xffff;
    l4[field] = value >>> 8;
    l4[field + 1] = value & 0xff;
    if (version === 4) {
      const check = ~sum16(ip) & 0xffff;
      ip[10] = check >>> 8;
      ip[11] = check & 0xff;
    }
  }
  return [...ethernet, ...ip, ...l4, ...body];
}

/** RFC 1071, big-endian, folded. */
export function sum16(bytes: readonly number[], start = 0): number {
  let sum = start;
  for (let i = 0; i < bytes.length; i += 2) sum += ((bytes[i] as number) << 8) | (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return sum;
}

/** Asserts that a frame's IP and TCP or UDP checksums hold, and returns its IP and transport offsets. */
export function checkSums(bytes: Uint8Array): { ip: number; transport: number } {
  const tagged = bytes[12] === 0x81 && bytes[13] === 0;
  const ip = tagged ? 18 : 14;
  const version = (bytes[ip] as number) >>> 4;
  const transport = ip + (version === 4 ? 20 : 40);
  const total =
    version === 4 ? ((bytes[ip + 2] as number) << 8) | (bytes[ip + 3] as number) : 40 + (((bytes[ip + 4] as number) << 8) | (bytes[ip + 5] as number));
  if (version === 4) expect(sum16([...bytes.subarray(ip, transport)])).toBe(0xffff);
  const addresses = version === 4 ? bytes.subarray(ip + 12, ip + 20) : bytes.subarray(ip + 8, ip + 40);
  const protocol = bytes[version === 4 ? ip + 9 : ip + 6] as number;
  const length = ip + total - transport;
  expect(sum16([...bytes.subarray(transport, ip + total)], sum16([...addresses, 0, protocol]) + length)).toBe(0xffff);
  return { ip, transport };
}

/** What a frame that should be there consists of. */
export function list(bytes: Uint8Array | undefined): number[] {
  return Array.from(bytes ?? []);
}

/** Bit by bit, IEEE 802.3 3.2.9. */
export function slowCrc(bytes: ArrayLike<number>): number {
  let crc = 0xffff_ffff;
  for (const byte of Array.from(bytes)) {
    crc ^= byte;
    for (let i = 0; i < 8; i++) crc = (crc & 1) !== 0 ? (crc >>> 1) ^ 0xedb8_8320 : crc >>> 1;
  }
  return ~crc >>> 0;
}
