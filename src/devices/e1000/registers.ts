// The registers of the 8254x family as its manual's tables list them (8254x 13.2 to 13.8), with the 82542-compatible second addresses. `R`, `R/W`, `R/clr` and so on are data here; what a register
// does is in the hooks of device.ts. Statistics keep their counts elsewhere (statistics.ts) and are read through hooks.

import { registerLayout, registerWords } from '#core/register-file';
import { COMMON_REGISTERS, STATISTICS_REGISTERS, WAKE_UP_REGISTERS } from '#devices/intel/registers';

const ALL = 0xffff_ffff;
const LOW16 = 0xffff;
/** Lengths of descriptor rings: a multiple of 128 bytes. */
const RING_LENGTH = 0x000f_ff80;

export const E1000_REGISTERS = {
  ...COMMON_REGISTERS,
  // ---- general ----
  CTRL: {
    offset: 0x0000,
    reset: 0x0010_0200,
    // RST (26) and PHY_RST (31) clear themselves.
    writable: 0x787c_1be9,
    fields: {
      FD: [0, 1],
      LRST: [3, 1],
      ASDE: [5, 1],
      SLU: [6, 1],
      ILOS: [7, 1],
      SPEED: [8, 2],
      FRCSPD: [11, 1],
      FRCDPLX: [12, 1],
      RFCE: [27, 1],
      TFCE: [28, 1],
      VME: [30, 1],
    },
  },
  STATUS: { offset: 0x0008, fields: { FD: [0, 1], LU: [1, 1], TXOFF: [4, 1], SPEED: [6, 2], ASDV: [8, 2], PCI66: [11, 1], BUS64: [12, 1] } },
  EECD: {
    offset: 0x0010,
    writable: 0x0000_0077,
    reset: 0x10,
    fields: { SK: [0, 1], CS: [1, 1], DI: [2, 1], DO: [3, 1], FWE: [4, 2], EE_REQ: [6, 1], EE_GNT: [7, 1], EE_PRES: [8, 1], EE_SIZE: [9, 1] },
  },
  EERD: { offset: 0x0014, writable: 0xff00, fields: { START: [0, 1], DONE: [4, 1], ADDR: [8, 8], DATA: [16, 16] } },
  CTRL_EXT: { offset: 0x0018, writable: 0x00c2_8ff7, fields: { ASDCHK: [12, 1], EE_RST: [13, 1], SPD_BYPS: [15, 1], RO_DIS: [17, 1], LINK_MODE: [22, 2] } },
  FLA: { offset: 0x001c },
  FCAL: { offset: 0x0028, writable: ALL },
  FCAH: { offset: 0x002c, writable: LOW16 },
  FCT: { offset: 0x0030, writable: LOW16 },
  VET: { offset: 0x0038, reset: 0x8100, writable: LOW16 },
  TXCW: { offset: 0x0178, writable: 0xc000_ffff },
  RXCW: { offset: 0x0180 },
  // ---- interrupts ----
  ICR: { offset: 0x00c0, writeOneToClear: ALL, clearOnRead: ALL },
  ITR: { offset: 0x00c4, writable: LOW16 },
  ICS: { offset: 0x00c8 },
  IMS: { offset: 0x00d0 },
  IMC: { offset: 0x00d8 },
  // ---- receive ----
  RCTL: {
    offset: 0x0100,
    writable: 0x06df_b3fe,
    fields: {
      EN: [1, 1],
      SBP: [2, 1],
      UPE: [3, 1],
      MPE: [4, 1],
      LPE: [5, 1],
      LBM: [6, 2],
      RDMTS: [8, 2],
      MO: [12, 2],
      BAM: [15, 1],
      BSIZE: [16, 2],
      VFE: [18, 1],
      CFIEN: [19, 1],
      CFI: [20, 1],
      DPF: [22, 1],
      PMCF: [23, 1],
      BSEX: [25, 1],
      SECRC: [26, 1],
    },
  },
  FCRTL: { offset: 0x2160, writable: 0x8000_fff8, fields: { RTL: [3, 13], XONE: [31, 1] } },
  FCRTH: { offset: 0x2168, writable: 0x0000_fff8, fields: { RTH: [3, 13] } },
  RDBAL: { offset: 0x2800, writable: 0xffff_fff0 },
  RDBAH: { offset: 0x2804, writable: ALL },
  RDLEN: { offset: 0x2808, writable: RING_LENGTH },
  RDH: { offset: 0x2810, writable: LOW16 },
  RDT: { offset: 0x2818, writable: LOW16 },
  RDTR: { offset: 0x2820, writable: LOW16, fields: { DELAY: [0, 16], FPD: [31, 1] } },
  RXDCTL: { offset: 0x2828, reset: 0x0101_0000, writable: 0x013f_3f3f, fields: { PTHRESH: [0, 6], HTHRESH: [8, 6], WTHRESH: [16, 6], GRAN: [24, 1] } },
  RADV: { offset: 0x282c, writable: LOW16 },
  RSRPD: { offset: 0x2c00, writable: 0x0fff },
  // ---- transmit ----
  TCTL: {
    offset: 0x0400,
    // SWXOFF (22) clears itself.
    writable: 0x033f_fffa,
    fields: { EN: [1, 1], PSP: [3, 1], CT: [4, 8], COLD: [12, 10], SWXOFF: [22, 1], RTLC: [24, 1], NRTU: [25, 1] },
  },
  TIPG: { offset: 0x0410, reset: 0x0060_2008, writable: 0x3fff_ffff, fields: { IPGT: [0, 10], IPGR1: [10, 10], IPGR2: [20, 10] } },
  AIT: { offset: 0x0458, writable: LOW16 },
  TXDMAC: { offset: 0x3000, writable: 1 },
  TDBAL: { offset: 0x3800, writable: 0xffff_fff0 },
  TDBAH: { offset: 0x3804, writable: ALL },
  TDLEN: { offset: 0x3808, writable: RING_LENGTH },
  TDH: { offset: 0x3810, writable: LOW16 },
  TDT: { offset: 0x3818, writable: LOW16 },
  TIDV: { offset: 0x3820, writable: LOW16 },
  TXDCTL: { offset: 0x3828, writable: 0xff3f_3f3f, fields: { PTHRESH: [0, 6], HTHRESH: [8, 6], WTHRESH: [16, 6], GRAN: [24, 1], LWTHRESH: [25, 7] } },
  TADV: { offset: 0x382c, writable: LOW16 },
  TSPMT: { offset: 0x3830, reset: 0x0100_0400, writable: ALL },
  // ---- paravirtual extension: where the shared communication block is (docs/e1000.md) ----
  CSBAL: { offset: 0x2830, writable: ALL },
  CSBAH: { offset: 0x2834, writable: ALL },
  // ---- receive filter and checksum ----
  RXCSUM: { offset: 0x5000, writable: 0x07ff, fields: { PCSS: [0, 8], IPOFLD: [8, 1], TUOFLD: [9, 1], IPV6OFL: [10, 1] } },
  RAH: { offset: 0x5404, count: 16, stride: 8, writable: 0x8003_ffff },
  // ---- wake-up and management ----
  ...WAKE_UP_REGISTERS,
  WUFC: { offset: 0x5808, writable: 0x000f_80ff, sticky: 0x000f_80ff },
  WUS: { offset: 0x5810, writeOneToClear: 0x000f_00ff, sticky: 0x000f_00ff },
  MANC: { offset: 0x5820, writable: ALL },
  FFLT: { offset: 0x5f00, count: 4, stride: 8, writable: 0x07ff, sticky: 0x07ff },
  FFMT: { offset: 0x9000, count: 128, stride: 8, writable: 0x0f, sticky: 0x0f },
  FFVT: { offset: 0x9800, count: 128, stride: 8, writable: ALL, sticky: ALL },
  // ---- LEDs, packet buffer, diagnostics ----
  LEDCTL: { offset: 0x0e00, reset: 0x0706_1302, writable: 0xcfcf_cfcf },
  PBA: { offset: 0x1000, reset: 0x0010_0030, writable: 0x003f, fields: { RXA: [0, 16], TXA: [16, 16] } },
  PBS: { offset: 0x1008, writable: LOW16 },
  RDFH: { offset: 0x2410, writable: 0x1fff },
  RDFT: { offset: 0x2418, writable: 0x1fff },
  RDFHS: { offset: 0x2420, writable: 0x1fff },
  RDFTS: { offset: 0x2428, writable: 0x1fff },
  RDFPC: { offset: 0x2430, writable: 0x1fff },
  TDFH: { offset: 0x3410, writable: 0x1fff },
  TDFT: { offset: 0x3418, writable: 0x1fff },
  TDFHS: { offset: 0x3420, writable: 0x1fff },
  TDFTS: { offset: 0x3428, writable: 0x1fff },
  TDFPC: { offset: 0x3430, writable: 0x1fff },
  // ---- statistics: cleared by reading ----
  ...STATISTICS_REGISTERS,
  SEC: { offset: 0x4038 },
  CEXTERR: { offset: 0x403c },
  MGTPRC: { offset: 0x40b4 },
  MGTPDC: { offset: 0x40b8 },
  MGTPTC: { offset: 0x40bc },
  TSCTFC: { offset: 0x40fc },
  // ---- the same registers where an 82542 has them (8254x 13.2, "alias offset") ----
  RAL_82542: { offset: 0x0040, aliasOf: 'RAL' },
  RAH_82542: { offset: 0x0044, aliasOf: 'RAH' },
  RDTR_82542: { offset: 0x0108, aliasOf: 'RDTR' },
  RDBAL_82542: { offset: 0x0110, aliasOf: 'RDBAL' },
  RDBAH_82542: { offset: 0x0114, aliasOf: 'RDBAH' },
  RDLEN_82542: { offset: 0x0118, aliasOf: 'RDLEN' },
  RDH_82542: { offset: 0x0120, aliasOf: 'RDH' },
  RDT_82542: { offset: 0x0128, aliasOf: 'RDT' },
  FCRTH_82542: { offset: 0x0160, aliasOf: 'FCRTH' },
  FCRTL_82542: { offset: 0x0168, aliasOf: 'FCRTL' },
  MTA_82542: { offset: 0x0200, aliasOf: 'MTA' },
  TDBAL_82542: { offset: 0x0420, aliasOf: 'TDBAL' },
  TDBAH_82542: { offset: 0x0424, aliasOf: 'TDBAH' },
  TDLEN_82542: { offset: 0x0428, aliasOf: 'TDLEN' },
  TDH_82542: { offset: 0x0430, aliasOf: 'TDH' },
  TDT_82542: { offset: 0x0438, aliasOf: 'TDT' },
  TIDV_82542: { offset: 0x0440, aliasOf: 'TIDV' },
  VFTA_82542: { offset: 0x0600, aliasOf: 'VFTA' },
  RDFH_82542: { offset: 0x8000, aliasOf: 'RDFH' },
  RDFT_82542: { offset: 0x8008, aliasOf: 'RDFT' },
  TDFH_82542: { offset: 0x8010, aliasOf: 'TDFH' },
  TDFT_82542: { offset: 0x8018, aliasOf: 'TDFT' },
} as const;

export type E1000Register = keyof typeof E1000_REGISTERS;

/** The memory BAR. */
export const REGISTER_SPACE = 0x2_0000;
/** PBM: its upper half, 64 KiB of packet buffer. */
export const PACKET_BUFFER = 0x1_0000;
export const PACKET_BUFFER_WORDS = 0x4000;

/** Where each register is in the shared state; engines on any thread index it. */
export const AT = registerLayout(E1000_REGISTERS);
export const REGISTER_WORDS = registerWords(E1000_REGISTERS);

export const CTRL_RST = 1 << 26;
export const CTRL_TFCE = 1 << 28;
export const CTRL_VME = 1 << 30;
export const CTRL_PHY_RST = 1 << 31;

export const RCTL_EN = 1 << 1;
export const RCTL_SBP = 1 << 2;
export const RCTL_LPE = 1 << 5;
export const RCTL_BSEX = 1 << 25;
export const RCTL_SECRC = 1 << 26;

export const TCTL_EN = 1 << 1;
export const TCTL_PSP = 1 << 3;
export const TCTL_SWXOFF = 1 << 22;

export const ICR_TXDW = 1 << 0;
export const ICR_TXQE = 1 << 1;
export const ICR_LSC = 1 << 2;
export const ICR_RXDMT0 = 1 << 4;
export const ICR_RXO = 1 << 6;
export const ICR_RXT0 = 1 << 7;
export const ICR_MDAC = 1 << 9;
export const ICR_PHYINT = 1 << 12;
export const ICR_TXD_LOW = 1 << 15;
export const ICR_SRPD = 1 << 16;
/** Every cause these parts have (GPI is 14:13, RXSEQ 3, RXCFG 10), and bits 5 and 8, reserved: Linux's interrupt test sets and expects each of the lower ten. */
export const ICR_ALL = 0x0001_f7ff;
