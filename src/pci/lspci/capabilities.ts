// Decodes the standard capabilities: power management, MSI, MSI-X, PCI Express, and vendor-specific ones, virtio's in full (virtio 1.4 4.1.4).

import { expressLines, expressTitle } from './express.ts';
import { type FunctionView, flagText, hex } from './text.ts';

export function capabilityLines(f: FunctionView, at: number): string[] {
  const head = `Capabilities: [${hex(at, 2)}] `;
  const [title, ...rest] = decode(f, at);
  return [head + title, ...rest.map((line) => `\t${line}`)];
}

function decode(f: FunctionView, at: number): string[] {
  switch (f.u8(at)) {
    case 0x01:
      return powerManagement(f, at);
    case 0x05:
      return msi(f, at);
    case 0x09:
      return vendor(f, at);
    case 0x0d:
      return [`Subsystem: vendor ${hex(f.u16(at + 4), 4)} device ${hex(f.u16(at + 6), 4)}`];
    case 0x10:
      return [expressTitle(f, at), ...expressLines(f, at)];
    case 0x11:
      return msix(f, at);
    default:
      return [`Capability id ${hex(f.u8(at), 2)}`];
  }
}

function powerManagement(f: FunctionView, at: number): string[] {
  const capability = f.u16(at + 2);
  const control = f.u16(at + 4);
  const pme = ['D0', 'D1', 'D2', 'D3hot', 'D3cold'].map((state, i) => state + ((capability >>> (11 + i)) & 1 ? '+' : '-')).join(',');
  const auxiliary = [0, 55, 100, 160, 220, 270, 320, 375][(capability >>> 6) & 7];
  return [
    `Power Management version ${capability & 7}`,
    `Flags: ${flagText(capability, [
      [3, 'PMEClk'],
      [5, 'DSI'],
      [9, 'D1'],
      [10, 'D2'],
    ])} AuxCurrent=${auxiliary}mA PME(${pme})`,
    `Status: D${control & 3} ${flagText(control, [
      [3, 'NoSoftRst'],
      [8, 'PME-Enable'],
    ])} DSel=${(control >>> 9) & 15} DScale=${(control >>> 13) & 3} ${flagText(control, [[15, 'PME']])}`,
  ];
}

function msi(f: FunctionView, at: number): string[] {
  const control = f.u16(at + 2);
  const wide = (control & 0x80) !== 0;
  const data = at + (wide ? 12 : 8);
  const dataText = control & 0x400 ? hex(f.u32(data), 8) : hex(f.u16(data), 4);
  const lines = [
    `MSI: ${flagText(control, [[0, 'Enable']])} Count=${1 << ((control >>> 4) & 7)}/${1 << ((control >>> 1) & 7)} ${flagText(control, [
      [8, 'Maskable'],
      [7, '64bit'],
    ])}`,
    `Address: ${wide ? hex(f.u32(at + 8), 8) : ''}${hex(f.u32(at + 4), 8)}  Data: ${dataText}`,
  ];
  if ((control & 0x100) !== 0) {
    const mask = at + (wide ? 16 : 12);
    lines.push(`Masking: ${hex(f.u32(mask), 8)}  Pending: ${hex(f.u32(mask + 4), 8)}`);
  }
  return lines;
}

function msix(f: FunctionView, at: number): string[] {
  const control = f.u16(at + 2);
  const table = f.u32(at + 4);
  const pending = f.u32(at + 8);
  return [
    `MSI-X: ${flagText(control, [[15, 'Enable']])} Count=${(control & 0x7ff) + 1} ${flagText(control, [[14, 'Masked']])}`,
    `Vector table: BAR=${table & 7} offset=${hex((table & ~7) >>> 0, 8)}`,
    `PBA: BAR=${pending & 7} offset=${hex((pending & ~7) >>> 0, 8)}`,
  ];
}

const VIRTIO_VENDOR = 0x1af4;
const VIRTIO_STRUCTURES: Readonly<Record<number, string>> = {
  1: 'CommonCfg',
  2: 'Notify',
  3: 'ISR',
  4: 'DeviceCfg',
  5: 'PciCfgAccess',
  8: 'SharedMemory',
  9: 'Vendor',
};

function vendor(f: FunctionView, at: number): string[] {
  const length = f.u8(at + 2);
  // A virtual function's own vendor id reads as FFFF; its subsystem vendor id is its physical function's maker (PCIe 4.0 9.3.4.1.1).
  const maker = f.u16(0) === 0xffff ? f.u16(0x2c) : f.u16(0);
  if (maker !== VIRTIO_VENDOR || length < 16) return [`Vendor Specific Information: Len=${hex(length, 2)}`];
  const type = f.u8(at + 3);
  const wide = type === 8 && length >= 24;
  const offset = f.u32(at + 8) + (wide ? f.u32(at + 16) * 2 ** 32 : 0);
  const size = f.u32(at + 12) + (wide ? f.u32(at + 20) * 2 ** 32 : 0);
  const lines = [
    `Vendor Specific Information: VirtIO: ${VIRTIO_STRUCTURES[type] ?? `<unknown ${hex(type, 2)}>`}`,
    `BAR=${f.u8(at + 4)} offset=${hex(offset, 8)} size=${hex(size, 8)}${type === 8 ? ` id=${f.u8(at + 5)}` : ''}`,
  ];
  if (type === 2 && length >= 20) lines[1] += ` multiplier=${hex(f.u32(at + 16), 8)}`;
  return lines;
}
