// Decodes the extended capabilities: AER, device serial number, ACS, ARI, SR-IOV (PCIe 4.0 7.8.4, 7.9.3, 7.7.8, 7.8.7, 9.3.3); others by id.

import { barText } from './bars.ts';
import { bdfText, type FlagList, type FunctionView, flagText, hex } from './text.ts';

export function extendedLines(f: FunctionView, at: number, barSize?: (bar: number) => number | undefined): string[] {
  const head = `Capabilities: [${hex(at, 3)} v${(f.u32(at) >>> 16) & 15}] `;
  const [title, ...rest] = decode(f, at, barSize);
  return [head + title, ...rest.map((line) => `\t${line}`)];
}

function decode(f: FunctionView, at: number, barSize: ((bar: number) => number | undefined) | undefined): string[] {
  switch (f.u16(at)) {
    case 0x01:
      return aer(f, at);
    case 0x03:
      return [`Device Serial Number ${serial(f, at)}`];
    case 0x07:
      return ['Root Complex Event Collector Endpoint Association', `RCiEPBitmap: ${hex(f.u32(at + 4), 8)}`];
    case 0x0b:
      return [`Vendor Specific Information: ID=${hex(f.u16(at + 4), 4)} Rev=${f.u16(at + 6) & 15} Len=${hex(f.u16(at + 6) >>> 4, 3)}`];
    case 0x0d:
      return acs(f, at);
    case 0x0e:
      return ari(f, at);
    case 0x10:
      return sriov(f, at, barSize);
    default:
      return [`Extended capability id ${hex(f.u16(at), 4)}`];
  }
}

function serial(f: FunctionView, at: number): string {
  const bytes: string[] = [];
  for (let i = 7; i >= 0; i--) bytes.push(hex(f.u8(at + 4 + i), 2));
  return bytes.join('-');
}

const UNCORRECTABLE: FlagList = [
  [4, 'DLP'],
  [5, 'SDES'],
  [12, 'TLP'],
  [13, 'FCP'],
  [14, 'CmpltTO'],
  [15, 'CmpltAbrt'],
  [16, 'UnxCmplt'],
  [17, 'RxOF'],
  [18, 'MalfTLP'],
  [19, 'ECRC'],
  [20, 'UnsupReq'],
  [21, 'ACSViol'],
  [22, 'UncorrIntErr'],
];
const CORRECTABLE: FlagList = [
  [0, 'RxErr'],
  [6, 'BadTLP'],
  [7, 'BadDLLP'],
  [8, 'Rollover'],
  [12, 'Timeout'],
  [13, 'AdvNonFatalErr'],
  [14, 'CorrIntErr'],
  [15, 'HeaderOF'],
];

function aer(f: FunctionView, at: number): string[] {
  const control = f.u32(at + 24);
  const lines = [
    'Advanced Error Reporting',
    `UESta:\t${flagText(f.u32(at + 4), UNCORRECTABLE)}`,
    `UEMsk:\t${flagText(f.u32(at + 8), UNCORRECTABLE)}`,
    `UESvrt:\t${flagText(f.u32(at + 12), UNCORRECTABLE)}`,
    `CESta:\t${flagText(f.u32(at + 16), CORRECTABLE)}`,
    `CEMsk:\t${flagText(f.u32(at + 20), CORRECTABLE)}`,
    `AERCap:\tFirst Error Pointer: ${hex(control & 31, 2)}, ${flagText(control, [
      [5, 'ECRCGenCap'],
      [6, 'ECRCGenEn'],
      [7, 'ECRCChkCap'],
      [8, 'ECRCChkEn'],
    ])}`,
    `\t${flagText(control, [
      [9, 'MultHdrRecCap'],
      [10, 'MultHdrRecEn'],
      [11, 'TLPPfxPres'],
    ])}`,
    `HeaderLog: ${[28, 32, 36, 40].map((o) => hex(f.u32(at + o), 8)).join(' ')}`,
  ];
  const express = f.capability(0x10);
  const type = express === 0 ? -1 : (f.u16(express + 2) >>> 4) & 15;
  if (type !== 4 && type !== 10) return lines;
  const status = f.u32(at + 48);
  lines.push(
    `RootCmd: ${flagText(f.u32(at + 44), [
      [0, 'CERptEn'],
      [1, 'NFERptEn'],
      [2, 'FERptEn'],
    ])}`,
    `RootSta: ${flagText(status, [
      [0, 'CERcvd'],
      [1, 'MultCERcvd'],
      [2, 'UERcvd'],
      [3, 'MultUERcvd'],
      [4, 'FirstFatal'],
      [5, 'NonFatalMsg'],
      [6, 'FatalMsg'],
    ])} IntMsgNum ${status >>> 27}`,
    `ErrorSrc: ERR_COR: ${hex(f.u16(at + 52), 4)} ERR_FATAL/NONFATAL: ${hex(f.u16(at + 54), 4)}`,
  );
  return lines;
}

const ACS_BITS: FlagList = [
  [0, 'SrcValid'],
  [1, 'TransBlk'],
  [2, 'ReqRedir'],
  [3, 'CmpltRedir'],
  [4, 'UpstreamFwd'],
  [5, 'EgressCtrl'],
  [6, 'DirectTrans'],
];

function acs(f: FunctionView, at: number): string[] {
  return ['Access Control Services', `ACSCap:\t${flagText(f.u16(at + 4), ACS_BITS)}`, `ACSCtl:\t${flagText(f.u16(at + 6), ACS_BITS)}`];
}

function ari(f: FunctionView, at: number): string[] {
  const capability = f.u16(at + 4);
  const control = f.u16(at + 6);
  return [
    'Alternative Routing-ID Interpretation (ARI)',
    `ARICap:\t${flagText(capability, [
      [0, 'MFVC'],
      [1, 'ACS'],
    ])}, Next Function: ${capability >>> 8}`,
    `ARICtl:\t${flagText(control, [
      [0, 'MFVC'],
      [1, 'ACS'],
    ])}, Function Group: ${(control >>> 4) & 7}`,
  ];
}

function sriov(f: FunctionView, at: number, barSize: ((bar: number) => number | undefined) | undefined): string[] {
  const control = f.u16(at + 8);
  const offset = f.u16(at + 20);
  const stride = f.u16(at + 22);
  const enabled = (control & 1) !== 0;
  const first = enabled && f.u16(at + 16) > 0 ? `, first VF ${bdfText((f.bdf + offset) & 0xffff)}` : '';
  const lines = [
    'Single Root I/O Virtualization (SR-IOV)',
    `IOVCap:\t${flagText(f.u32(at + 4), [
      [0, 'Migration'],
      [1, 'ARIHierarchyPreserved'],
      [2, '10BitTagReq'],
    ])}`,
    `IOVCtl:\t${flagText(control, [
      [0, 'Enable'],
      [1, 'Migration'],
      [2, 'MigrationInt'],
      [3, 'MSE'],
      [4, 'ARIHierarchy'],
    ])}`,
    `IOVSta:\t${flagText(f.u16(at + 10), [[0, 'Migration']])}`,
    `Initial VFs: ${f.u16(at + 12)}, Total VFs: ${f.u16(at + 14)}, Number of VFs: ${f.u16(at + 16)}, Function Dependency Link: ${hex(f.u8(at + 18), 2)}`,
    `VF offset: ${offset}, stride: ${stride}, Device ID: ${hex(f.u16(at + 26), 4)}${first}`,
    `Supported Page Size: ${hex(f.u32(at + 28), 8)}, System Page Size: ${hex(f.u32(at + 32), 8)}`,
  ];
  for (let bar = 0; bar < 6; bar++) {
    const low = f.u32(at + 36 + bar * 4);
    const text = barText(low, () => f.u32(at + 40 + bar * 4), barSize?.(bar));
    if (text !== undefined) lines.push(`Region ${bar}: ${text}`);
    if ((low & 7) === 4) bar++;
  }
  return lines;
}
