// Decodes the PCI Express capability (PCIe 4.0 7.5.3): device, link, slot, root and their second halves.

import { type FlagList, type FunctionView, flagText, hex } from './text.ts';

const TYPES: Readonly<Record<number, string>> = {
  0: 'Endpoint',
  1: 'Legacy Endpoint',
  4: 'Root Port',
  5: 'Upstream Port',
  6: 'Downstream Port',
  7: 'PCI-Express to PCI/PCI-X Bridge',
  8: 'PCI/PCI-X to PCI-Express Bridge',
  9: 'Root Complex Integrated Endpoint',
  10: 'Root Complex Event Collector',
};

const SPEEDS = ['unknown', '2.5GT/s', '5GT/s', '8GT/s', '16GT/s', '32GT/s', '64GT/s'];
const ERROR_REPORTING: FlagList = [
  [0, 'CorrErr'],
  [1, 'NonFatalErr'],
  [2, 'FatalErr'],
  [3, 'UnsupReq'],
];

const speed = (code: number): string => SPEEDS[code & 15] ?? 'unknown';
const payload = (code: number): string => `${128 << (code & 7)} bytes`;
/** Values above 0xEF stand for 250, 275 and 300 W and beyond (PCIe 4.0 7.5.3.9). */
function watts(capabilities: number): string {
  const value = (capabilities >>> 7) & 0xff;
  if (value >= 0xf0) return `${250 + 25 * (value - 0xf0)}W`;
  return `${Number((value * 10 ** -((capabilities >>> 15) & 3)).toFixed(3))}W`;
}

export function expressTitle(f: FunctionView, at: number): string {
  const flags = f.u16(at + 2);
  const type = (flags >>> 4) & 15;
  const slot = type === 4 || type === 6 ? ` (Slot${(flags >>> 8) & 1 ? '+' : '-'})` : '';
  return `Express (v${flags & 15}) ${TYPES[type] ?? `type ${type}`}${slot}, IntMsgNum ${(flags >>> 9) & 31}`;
}

export function expressLines(f: FunctionView, at: number): string[] {
  const flags = f.u16(at + 2);
  const type = (flags >>> 4) & 15;
  const second = (flags & 15) >= 2;
  const lines = deviceLines(f, at, type);
  // A root complex integrated endpoint has no link (PCIe 4.0 7.5.3.6).
  if (type !== 9 && type !== 10) lines.push(...linkLines(f, at));
  if ((type === 4 || type === 6) && (flags & 0x100) !== 0) lines.push(...slotLines(f, at));
  if (type === 4 || type === 10) lines.push(...rootLines(f, at));
  if (second) lines.push(...secondLines(f, at, type));
  return lines;
}

function deviceLines(f: FunctionView, at: number, type: number): string[] {
  const capability = f.u32(at + 4);
  const control = f.u16(at + 8);
  const status = f.u16(at + 10);
  const endpoint = type === 0 || type === 1 || type === 9;
  const reset = endpoint ? ` ${flagText(capability, [[28, 'FLReset']])}` : '';
  return [
    `DevCap:\tMaxPayload ${payload(capability)}, PhantFunc ${(capability >>> 3) & 3}`,
    `\t${flagText(capability, [
      [5, 'ExtTag'],
      [15, 'RBE'],
    ])}${reset}`,
    `DevCtl:\t${flagText(control, ERROR_REPORTING)}`,
    `\t${flagText(control, [
      [4, 'RlxdOrd'],
      [8, 'ExtTag'],
      [9, 'PhantFunc'],
      [10, 'AuxPwr'],
      [11, 'NoSnoop'],
    ])}`,
    `\tMaxPayload ${payload(control >>> 5)}, MaxReadReq ${payload(control >>> 12)}`,
    `DevSta:\t${flagText(status, [...ERROR_REPORTING, [4, 'AuxPwr'], [5, 'TransPend']])}`,
  ];
}

function linkLines(f: FunctionView, at: number): string[] {
  const capability = f.u32(at + 12);
  const control = f.u16(at + 16);
  const status = f.u16(at + 18);
  const aspm = ['Disabled', 'L0s Enabled', 'L1 Enabled', 'L0s L1 Enabled'];
  const support = ['not supported', 'L0s', 'L1', 'L0s L1'];
  return [
    `LnkCap:\tPort #${capability >>> 24}, Speed ${speed(capability)}, Width x${(capability >>> 4) & 63}, ASPM ${support[(capability >>> 10) & 3]}`,
    `\t${flagText(capability, [
      [18, 'ClockPM'],
      [19, 'Surprise'],
      [20, 'LLActRep'],
      [21, 'BwNot'],
      [22, 'ASPMOptComp'],
    ])}`,
    `LnkCtl:\tASPM ${aspm[control & 3]}; RCB ${control & 8 ? 128 : 64} bytes, ${flagText(control, [
      [4, 'LnkDisable'],
      [6, 'CommClk'],
    ])}`,
    `\t${flagText(control, [
      [7, 'ExtSynch'],
      [8, 'ClockPM'],
      [9, 'AutWidDis'],
      [10, 'BWInt'],
      [11, 'AutBWInt'],
    ])}`,
    `LnkSta:\tSpeed ${speed(status)}, Width x${(status >>> 4) & 63}`,
    `\t${flagText(status, [
      [11, 'Train'],
      [12, 'SlotClk'],
      [13, 'DLActive'],
      [14, 'BWMgmt'],
      [15, 'ABWMgmt'],
    ])}`,
  ];
}

function slotLines(f: FunctionView, at: number): string[] {
  const capability = f.u32(at + 20);
  const control = f.u16(at + 24);
  const status = f.u16(at + 26);
  const indicator = ['Unknown', 'On', 'Blink', 'Off'];
  return [
    `SltCap:\t${flagText(capability, [
      [0, 'AttnBtn'],
      [1, 'PwrCtrl'],
      [2, 'MRL'],
      [3, 'AttnInd'],
      [4, 'PwrInd'],
      [6, 'HotPlug'],
      [5, 'Surprise'],
    ])}`,
    `\tSlot #${capability >>> 19}, PowerLimit ${watts(capability)}; ${flagText(capability, [
      [17, 'Interlock'],
      [18, 'NoCompl'],
    ])}`,
    `SltCtl:\tEnable: ${flagText(control, [
      [0, 'AttnBtn'],
      [1, 'PwrFlt'],
      [2, 'MRL'],
      [3, 'PresDet'],
      [4, 'CmdCplt'],
      [5, 'HPIrq'],
      [12, 'LinkChg'],
    ])}`,
    `\tControl: AttnInd ${indicator[(control >>> 6) & 3]}, PwrInd ${indicator[(control >>> 8) & 3]}, Power ${control & 0x400 ? 'Off' : 'On'}, ${flagText(control, [[11, 'Interlock']])}`,
    `SltSta:\tStatus: ${flagText(status, [
      [0, 'AttnBtn'],
      [1, 'PowerFlt'],
      [5, 'MRL'],
      [4, 'CmdCplt'],
      [6, 'PresDet'],
      [7, 'Interlock'],
    ])}`,
    `\tChanged: ${flagText(status, [
      [2, 'MRL'],
      [3, 'PresDet'],
      [8, 'LinkState'],
    ])}`,
  ];
}

function rootLines(f: FunctionView, at: number): string[] {
  const status = f.u32(at + 32);
  return [
    `RootCap: ${flagText(f.u16(at + 30), [[0, 'CRSVisible']])}`,
    `RootCtl: ${flagText(f.u16(at + 28), [
      [0, 'ErrCorrectable'],
      [1, 'ErrNon-Fatal'],
      [2, 'ErrFatal'],
      [3, 'PMEIntEna'],
      [4, 'CRSVisible'],
    ])}`,
    `RootSta: PME ReqID ${hex(status & 0xffff, 4)}, ${flagText(status, [
      [16, 'PMEStatus'],
      [17, 'PMEPending'],
    ])}`,
  ];
}

const TIMEOUT_RANGES = ['Not Supported', 'Range A', 'Range B', 'Range AB', '', '', 'Range BC', 'Range ABC', '', '', '', '', '', '', 'Range BCD', 'Range ABCD'];

function secondLines(f: FunctionView, at: number, type: number): string[] {
  const capability = f.u32(at + 36);
  const control = f.u16(at + 40);
  const port = type === 4 || type === 6;
  const forwardCap = port ? ` ${flagText(capability, [[5, 'ARIFwd']])}` : '';
  const forward = port ? ` ${flagText(control, [[5, 'ARIFwd']])}` : '';
  const lines = [
    `DevCap2: Completion Timeout: ${TIMEOUT_RANGES[capability & 15]}, ${flagText(capability, [
      [4, 'TimeoutDis'],
      [11, 'LTR'],
    ])}${forwardCap}`,
    `DevCtl2: ${flagText(control, [
      [4, 'TimeoutDis'],
      [10, 'LTR'],
    ])}${forward}`,
  ];
  if (type !== 9 && type !== 10) {
    const speeds = (f.u32(at + 44) >>> 1) & 0x7f;
    const list = SPEEDS.filter((_, i) => i > 0 && (speeds >>> (i - 1)) & 1).join(' ');
    lines.push(`LnkCap2: Supported Link Speeds: ${list || 'none listed'}`, `LnkCtl2: Target Link Speed: ${speed(f.u16(at + 48))}`);
  }
  return lines;
}
