// Decodes the type 0 and type 1 headers: command, status, interrupt pin, BARs, bridge buses and windows.

import { barText } from './bars.ts';
import { className, deviceName } from './names.ts';
import { type FlagList, type FunctionView, flagText, hex, sizeText } from './text.ts';

const COMMAND: FlagList = [
  [0, 'I/O'],
  [1, 'Mem'],
  [2, 'BusMaster'],
  [3, 'SpecCycle'],
  [4, 'MemWINV'],
  [5, 'VGASnoop'],
  [6, 'ParErr'],
  [7, 'Stepping'],
  [8, 'SERR'],
  [9, 'FastB2B'],
  [10, 'DisINTx'],
];
const STATUS_BEFORE: FlagList = [
  [5, '66MHz'],
  [6, 'UDF'],
  [7, 'FastB2B'],
  [8, 'ParErr'],
];
const STATUS_AFTER: FlagList = [
  [11, '>TAbort'],
  [12, '<TAbort'],
  [13, '<MAbort'],
  [14, '>SERR'],
  [15, '<PERR'],
];
const DEVSEL = ['fast', 'medium', 'slow', '??'];

export type BarSize = (bar: number) => number | undefined;

export interface Identity {
  readonly vendor: number;
  readonly device: number;
}

export function titleText(f: FunctionView, identity: Identity): string {
  const code = f.u16(0x0a);
  const revision = f.u8(0x08);
  const interfaceCode = f.u8(0x09);
  const ids = `[${hex(identity.vendor, 4)}:${hex(identity.device, 4)}]`;
  const rev = revision ? ` (rev ${hex(revision, 2)})` : '';
  const prog = f.headerType === 1 ? ` (prog-if ${hex(interfaceCode, 2)} [${interfaceCode === 1 ? 'Subtractive decode' : 'Normal decode'}])` : '';
  return `${className(code)} [${hex(code, 4)}]: ${deviceName(identity.vendor, identity.device)} ${ids}${rev}${prog}`;
}

export function headerLines(f: FunctionView, barSize: BarSize | undefined): string[] {
  const type1 = f.headerType === 1;
  const command = f.u16(0x04);
  const lines: string[] = [];
  if (!type1 && f.u32(0x2c) !== 0) lines.push(`Subsystem: ${hex(f.u16(0x2c), 4)}:${hex(f.u16(0x2e), 4)}`);
  lines.push(
    `Control: ${flagText(command, COMMAND)}`,
    `Status: ${flagText(f.u16(0x06), [[4, 'Cap']])} ${statusText(f.u16(0x06))} ${flagText(f.u16(0x06), [[3, 'INTx']])}`,
  );
  const pin = f.u8(0x3d);
  if (pin >= 1 && pin <= 4) lines.push(`Interrupt: pin ${'ABCD'[pin - 1]} routed to IRQ ${f.u8(0x3c)}`);
  for (let bar = 0; bar < (type1 ? 2 : 6); bar++) {
    const low = f.u32(0x10 + bar * 4);
    const decoding = (command & (low & 1 ? 1 : 2)) !== 0;
    const text = barText(low, () => f.u32(0x14 + bar * 4), barSize?.(bar), decoding);
    if (text !== undefined) lines.push(`Region ${bar}: ${text}`);
    if ((low & 7) === 4) bar++;
  }
  if (type1) lines.push(...bridgeLines(f));
  const rom = f.u32(type1 ? 0x38 : 0x30);
  const romSize = barSize?.(6);
  if (rom !== 0 || romSize !== undefined) {
    const size = romSize === undefined ? '' : ` [size=${sizeText(romSize)}]`;
    lines.push(`Expansion ROM at ${hex((rom & ~0x7ff) >>> 0, 8)}${rom & 1 && command & 2 ? '' : ' [disabled]'}${size}`);
  }
  return lines;
}

function statusText(status: number): string {
  return `${flagText(status, STATUS_BEFORE)} DEVSEL=${DEVSEL[(status >>> 9) & 3]} ${flagText(status, STATUS_AFTER)}`;
}

function bridgeLines(f: FunctionView): string[] {
  const io = f.u16(0x1c);
  const ioWide = (io & 15) === 1;
  const ioBase = ((io & 0xf0) << 8) + (ioWide ? f.u16(0x30) * 0x10000 : 0);
  const ioLimit = (io & 0xf000) + 0xfff + (ioWide ? f.u16(0x32) * 0x10000 : 0);
  const memory = f.u32(0x20);
  const prefetch = f.u32(0x24);
  const wide = (prefetch & 15) === 1;
  const prefetchBase = (prefetch & 0xfff0) * 0x10000 + (wide ? f.u32(0x28) * 2 ** 32 : 0);
  const prefetchLimit = ((prefetch >>> 20) & 0xfff) * 0x100000 + 0xfffff + (wide ? f.u32(0x2c) * 2 ** 32 : 0);
  return [
    `Bus: primary=${hex(f.u8(0x18), 2)}, secondary=${hex(f.u8(0x19), 2)}, subordinate=${hex(f.u8(0x1a), 2)}, sec-latency=${f.u8(0x1b)}`,
    `I/O behind bridge: ${windowText(ioBase, ioLimit, 8)}`,
    `Memory behind bridge: ${windowText((memory & 0xfff0) * 0x10000, ((memory >>> 20) & 0xfff) * 0x100000 + 0xfffff, 8)}`,
    `Prefetchable memory behind bridge: ${windowText(prefetchBase, prefetchLimit, 16)}`,
    `Secondary status: ${statusText(f.u16(0x1e))}`,
    `BridgeCtl: ${flagText(f.u16(0x3e), [
      [0, 'Parity'],
      [1, 'SERR'],
      [2, 'NoISA'],
      [3, 'VGA'],
      [4, 'VGA16'],
      [5, 'MAbort'],
      [6, '>Reset'],
      [7, 'FastB2B'],
    ])}`,
  ];
}

function windowText(base: number, limit: number, digits: number): string {
  const range = `${hex(base, digits)}-${hex(limit, digits)}`;
  return base > limit ? `${range} [disabled]` : `${range} [size=${sizeText(limit - base + 1)}]`;
}
