// The registers of the 82576's physical function as chapter 8 of its datasheet lists them: offsets, reset values, what a driver can write, what outlives a software reset. What a register does is in hooks.
// Statistics keep their counts elsewhere (statistics.ts) and are read through hooks. Registers with a second offset (8.1.3: those an 82575 or an 8254x has elsewhere) are aliases.
// Left out, and read as 0: MACsec, IPsec, SerDes/SGMII, manageability, data centre bridging but for the rate limiter, diagnostics.

import { registerLayout } from '#core/register-file';
import { COMMON_REGISTERS, STATISTICS_REGISTERS, WAKE_UP_REGISTERS } from '#devices/intel/registers';

const ALL = 0xffff_ffff;
const LOW16 = 0xffff;

export const QUEUES = 16;
export const POOLS = 8;
/** The PF's own vectors of the 25 there are; the others are the VFs'. */
export const VECTORS = 25;

/** A register of each queue (8.10, 8.12): sixteen blocks of 40h; the first four also where an 82575 has them, 100h apart. */
const EACH_QUEUE = { count: QUEUES, stride: 0x40 } as const;
const FIRST_QUEUES = { count: 4, stride: 0x100 } as const;
/** A register of each VF in the PF's window onto it (8.26). */
const EACH_VF = { count: POOLS, stride: 0x100 } as const;

const THRESHOLDS = { PTHRESH: [0, 5], HTHRESH: [8, 5], WTHRESH: [16, 5], ENABLE: [25, 1], SWFLSH: [26, 1] } as const;

export const IGB_REGISTERS = {
  ...COMMON_REGISTERS,
  // ---- general (8.2) ----
  CTRL: {
    offset: 0x0000,
    reset: 0x0010_0201,
    // RST (26) and PHY_RST (31) clear themselves. 21:20 GIO master disable is bit 2.
    writable: 0x78fc_1b45,
    fields: {
      FD: [0, 1],
      GIO_MASTER_DISABLE: [2, 1],
      SLU: [6, 1],
      SPEED: [8, 2],
      FRCSPD: [11, 1],
      FRCDPLX: [12, 1],
      SDP0_DATA: [18, 1],
      SDP1_DATA: [19, 1],
      SDP0_IODIR: [22, 1],
      SDP1_IODIR: [23, 1],
      RFCE: [27, 1],
      TFCE: [28, 1],
      VME: [30, 1],
    },
  },
  STATUS: {
    offset: 0x0008,
    reset: 0x0000_0400,
    fields: {
      FD: [0, 1],
      LU: [1, 1],
      LAN_ID: [2, 2],
      TXOFF: [4, 1],
      SPEED: [6, 2],
      ASDV: [8, 2],
      PHYRA: [10, 1],
      NUM_VFS: [14, 4],
      IOV: [18, 1],
      GIO_MASTER: [19, 1],
    },
  },
  EECD: {
    offset: 0x0010,
    writable: 0x0000_0077,
    fields: {
      SK: [0, 1],
      CS: [1, 1],
      DI: [2, 1],
      DO: [3, 1],
      FWE: [4, 2],
      EE_REQ: [6, 1],
      EE_GNT: [7, 1],
      EE_PRES: [8, 1],
      AUTO_RD: [9, 1],
      EE_ADDR_SIZE: [10, 1],
      EE_SIZE: [11, 4],
    },
  },
  EERD: { offset: 0x0014, writable: 0xfffc, fields: { START: [0, 1], DONE: [1, 1], ADDR: [2, 14], DATA: [16, 16] } },
  CTRL_EXT: {
    offset: 0x0018,
    // EE_RST (13) clears itself, PFRSTD (14) is a command.
    writable: 0x15c7_8fff,
    fields: {
      SDP_GPIEN: [0, 4],
      SDP2_DATA: [6, 1],
      SDP3_DATA: [7, 1],
      SDP2_IODIR: [10, 1],
      SDP3_IODIR: [11, 1],
      RO_DIS: [17, 1],
      LINK_MODE: [22, 2],
      EXT_VLAN: [26, 1],
      DRV_LOAD: [28, 1],
    },
  },
  FLA: {
    offset: 0x001c,
    writable: 0x0000_0017,
    fields: { FL_SCK: [0, 1], FL_CE: [1, 1], FL_SI: [2, 1], FL_SO: [3, 1], FL_REQ: [4, 1], FL_GNT: [5, 1] },
  },
  FCAL: { offset: 0x0028, reset: 0x00c2_8001, writable: ALL },
  FCAH: { offset: 0x002c, reset: 0x0100, writable: LOW16 },
  FCT: { offset: 0x0030, reset: 0x8808, writable: LOW16 },
  VET: { offset: 0x0038, reset: 0x8100_8100, writable: ALL, fields: { VET: [0, 16], VET_EXT: [16, 16] } },
  TSSDP: {
    offset: 0x003c,
    writable: 0x0003_ffff,
    fields: { AUX0_SDP_SEL: [0, 2], AUX0_TS_SDP_EN: [2, 1], AUX1_SDP_SEL: [3, 2], AUX1_TS_SDP_EN: [5, 1], TS_SDP: [6, 12] },
  },
  LEDCTL: { offset: 0x0e00, reset: 0x0706_8302, writable: 0xcfcf_cfcf },
  // ---- NVM and semaphores (8.4, 8.7.16 to 8.7.18) ----
  EEMNGCTL: { offset: 0x1010, reset: 0x000c_0000, writable: 0 },
  FRTIMER: { offset: 0x1048 },
  TCPTIMER: { offset: 0x104c, writable: 0x0000_0bff, fields: { DURATION: [0, 8], KICK_START: [8, 1], ENABLE: [9, 1], FINISH: [10, 1], LOOP: [11, 1] } },
  GCR: { offset: 0x5b00, reset: 0x0004_0000, writable: 0xfffb_ffff },
  FACTPS: { offset: 0x5b30, fields: { FUNC0_POWER: [0, 2], LAN0_VALID: [2, 1], FUNC1_POWER: [6, 2], LAN1_VALID: [8, 1], LAN_FUNCTION_SEL: [30, 1] } },
  SWSM: { offset: 0x5b50, writable: 0x0000_0003, sticky: 0x0000_0003, fields: { SMBI: [0, 1], SWESMBI: [1, 1] } },
  FWSM: { offset: 0x5b54, fields: { EEP_FW_SEMAPHORE: [0, 1] } },
  SW_FW_SYNC: { offset: 0x5b5c, writable: ALL, sticky: ALL },
  // ---- interrupts (8.8) ----
  ICR: { offset: 0x1500, writeOneToClear: ALL },
  ICS: { offset: 0x1504 },
  IMS: { offset: 0x1508 },
  IMC: { offset: 0x150c },
  IAM: { offset: 0x1510, writable: ALL },
  ICR_8254X: { offset: 0x00c0, aliasOf: 'ICR' },
  ICS_8254X: { offset: 0x00c8, aliasOf: 'ICS' },
  IMS_8254X: { offset: 0x00d0, aliasOf: 'IMS' },
  IMC_8254X: { offset: 0x00d8, aliasOf: 'IMC' },
  IAM_8254X: { offset: 0x00e0, aliasOf: 'IAM' },
  GPIE: {
    offset: 0x1514,
    writable: 0xc000_0f91,
    fields: { NSICR: [0, 1], MULTIPLE_MSIX: [4, 1], LL_INTERVAL: [7, 5], EIAME: [30, 1], PBA_SUPPORT: [31, 1] },
  },
  EICS: { offset: 0x1520 },
  EIMS: { offset: 0x1524 },
  EIMC: { offset: 0x1528 },
  EIAC: { offset: 0x152c, writable: 0x01ff_ffff },
  EIAM: { offset: 0x1530, writable: 0xc1ff_ffff },
  EICR: { offset: 0x1580, writeOneToClear: ALL },
  PBACL: { offset: 0x5b68 },
  EITR: {
    offset: 0x1680,
    count: VECTORS,
    writable: 0x7fff_fffc,
    sticky: 0x7fff_fffc,
    fields: { INTERVAL: [2, 13], LLI_EN: [15, 1], LL_COUNTER: [16, 5], COUNTER: [21, 10], CNT_IGNR: [31, 1] },
  },
  IVAR: { offset: 0x1700, count: 8, writable: 0x9f9f_9f9f },
  IVAR_MISC: { offset: 0x1740, writable: 0x0000_9f9f, fields: { TCP_TIMER: [0, 5], TCP_TIMER_VALID: [7, 1], OTHER: [8, 5], OTHER_VALID: [15, 1] } },
  // ---- receive (8.10) ----
  RCTL: {
    offset: 0x0100,
    writable: 0x04ff_b0fe,
    fields: {
      RXEN: [1, 1],
      SBP: [2, 1],
      UPE: [3, 1],
      MPE: [4, 1],
      LPE: [5, 1],
      LBM: [6, 2],
      MO: [12, 2],
      BAM: [15, 1],
      BSIZE: [16, 2],
      VFE: [18, 1],
      CFIEN: [19, 1],
      CFI: [20, 1],
      PSP: [21, 1],
      DPF: [22, 1],
      PMCF: [23, 1],
      SECRC: [26, 1],
    },
  },
  FCRTL: { offset: 0x2160, writable: 0x8000_fff0, fields: { RTL: [4, 12], XONE: [31, 1] } },
  FCRTH: { offset: 0x2168, writable: 0x0000_fff0, fields: { RTH: [4, 12] } },
  RXPBS: { offset: 0x2404, reset: 0x0000_0040, writable: 0x0000_007f, sticky: 0x0000_007f },
  RXCSUM: {
    offset: 0x5000,
    reset: 0x0000_0300,
    writable: 0x0000_3fff,
    fields: { PCSS: [0, 8], IPOFLD: [8, 1], TUOFLD: [9, 1], CRCOFL: [11, 1], IPPCSE: [12, 1], PCSD: [13, 1] },
  },
  RLPML: { offset: 0x5004, reset: 0x0000_2600, writable: 0x0000_3fff },
  RFCTL: { offset: 0x5008, writable: 0x0008_0000, fields: { SYNQFP: [19, 1] } },
  RAH: { offset: 0x5404, count: 16, stride: 8, writable: 0x83ff_ffff, fields: { ADDRESS: [0, 16], ASEL: [16, 2], POOLSEL: [18, 8], AV: [31, 1] } },
  RAL2: { offset: 0x54e0, count: 8, stride: 8, writable: ALL },
  RAH2: { offset: 0x54e4, count: 8, stride: 8, writable: 0x83ff_ffff },
  PSRTYPE: { offset: 0x5480, count: 8, writable: 0x0007_ffff },
  MRQC: { offset: 0x5818, writable: 0xffff_003f, fields: { ENABLE: [0, 3], DEFAULT_QUEUE: [3, 3], RSS_FIELDS: [16, 16] } },
  RETA: { offset: 0x5c00, count: 32, writable: 0x0f0f_0f0f },
  RSSRK: { offset: 0x5c80, count: 10, writable: ALL },
  RDBAL: { offset: 0xc000, ...EACH_QUEUE, writable: 0xffff_ff80 },
  RDBAH: { offset: 0xc004, ...EACH_QUEUE, writable: ALL },
  RDLEN: { offset: 0xc008, ...EACH_QUEUE, writable: 0x000f_fff0 },
  SRRCTL: {
    offset: 0xc00c,
    ...EACH_QUEUE,
    reset: 0x0000_0400,
    writable: 0x8ff0_3f7f,
    fields: { BSIZEPACKET: [0, 7], BSIZEHEADER: [8, 6], RDMTS: [20, 5], DESCTYPE: [25, 3], DROP_EN: [31, 1] },
  },
  RDH: { offset: 0xc010, ...EACH_QUEUE },
  RXCTL: { offset: 0xc014, ...EACH_QUEUE, reset: 0x0000_a200, writable: 0xff00_f7e0 },
  RDT: { offset: 0xc018, ...EACH_QUEUE, writable: LOW16 },
  RXDCTL: { offset: 0xc028, ...EACH_QUEUE, reset: 0x0001_0000, writable: 0x021f_1f1f, fields: THRESHOLDS },
  RQDPC: { offset: 0xc030, ...EACH_QUEUE, clearOnRead: 0x0fff },
  RDBAL_82575: { offset: 0x2800, aliasOf: 'RDBAL', ...FIRST_QUEUES },
  RDBAH_82575: { offset: 0x2804, aliasOf: 'RDBAH', ...FIRST_QUEUES },
  RDLEN_82575: { offset: 0x2808, aliasOf: 'RDLEN', ...FIRST_QUEUES },
  SRRCTL_82575: { offset: 0x280c, aliasOf: 'SRRCTL', ...FIRST_QUEUES },
  RDH_82575: { offset: 0x2810, aliasOf: 'RDH', ...FIRST_QUEUES },
  RXCTL_82575: { offset: 0x2814, aliasOf: 'RXCTL', ...FIRST_QUEUES },
  RDT_82575: { offset: 0x2818, aliasOf: 'RDT', ...FIRST_QUEUES },
  RXDCTL_82575: { offset: 0x2828, aliasOf: 'RXDCTL', ...FIRST_QUEUES },
  RQDPC_82575: { offset: 0x2830, aliasOf: 'RQDPC', ...FIRST_QUEUES },
  // ---- filters that choose a queue or an immediate interrupt (8.10.16 to 8.11) ----
  SYNQF: { offset: 0x55fc, writable: 0x0000_001f, fields: { ENABLE: [0, 1], QUEUE: [1, 4] } },
  SAQF: { offset: 0x5980, count: 8, writable: ALL },
  DAQF: { offset: 0x59a0, count: 8, writable: ALL },
  SPQF: { offset: 0x59c0, count: 8, writable: LOW16 },
  FTQF: {
    offset: 0x59e0,
    count: 8,
    reset: 0xf000_0000,
    writable: 0xf80f_ffff,
    fields: { PROTOCOL: [0, 8], QUEUE_ENABLE: [8, 1], POOL: [12, 3], VF_MASK: [15, 1], QUEUE: [16, 4], TIMESTAMP: [27, 1], MASK: [28, 4] },
  },
  IMIR: { offset: 0x5a80, count: 8, writable: 0xe003_ffff, fields: { PORT: [0, 16], PORT_IM_EN: [16, 1], PORT_BP: [17, 1], PRIORITY: [29, 3] } },
  IMIREXT: { offset: 0x5aa0, count: 8, writable: 0x000f_ffff, fields: { SIZE_THRESH: [0, 12], SIZE_BP: [12, 1], CTRL_BITS: [13, 6], CTRL_BP: [19, 1] } },
  IMIRVP: { offset: 0x5ac0, writable: 0x0000_000f, fields: { VLAN_PRIORITY: [0, 3], ENABLE: [3, 1] } },
  ETQF: {
    offset: 0x5cb0,
    count: 8,
    writable: 0xe47f_ffff,
    fields: { ETYPE: [0, 16], QUEUE: [16, 4], FILTER_ENABLE: [26, 1], IMM_INT: [29, 1], TIMESTAMP: [30, 1], QUEUE_ENABLE: [31, 1] },
  },
  // ---- transmit (8.12) ----
  TCTL: {
    offset: 0x0400,
    reset: 0x0004_00f8,
    // SWXOFF (22) clears itself.
    writable: 0x037f_fffa,
    fields: { EN: [1, 1], PSP: [3, 1], CT: [4, 8], COLD: [12, 10], SWXOFF: [22, 1], RTLC: [24, 1] },
  },
  TCTL_EXT: { offset: 0x0404, reset: 0x0001_0840, writable: 0x000f_fc00 },
  TIPG: { offset: 0x0410, reset: 0x0060_2808, writable: 0x3fff_ffff, fields: { IPGT: [0, 10], IPGR1: [10, 10], IPGR2: [20, 10] } },
  SWPBS: { offset: 0x3004, reset: 0x0000_0014, writable: 0x0000_007f, sticky: 0x0000_007f },
  TXPBS: { offset: 0x3404, reset: 0x0000_0028, writable: 0x0000_007f, sticky: 0x0000_007f },
  DTXMXSZRQ: { offset: 0x3540, reset: 0x0000_0010, writable: 0x0000_0fff },
  DTXCTL: {
    offset: 0x3590,
    reset: 0x0000_0044,
    writable: 0x0000_007e,
    fields: { ENABLE_SPOOF_QUEUE: [1, 1], OUT_OF_SYNC: [4, 1], MDP_EN: [5, 1], SPOOF_INT: [6, 1] },
  },
  DTXTCPFLGL: { offset: 0x359c, reset: 0x0f76_0ff6, writable: 0x0fff_0fff, fields: { FIRST: [0, 12], MIDDLE: [16, 12] } },
  DTXTCPFLGH: { offset: 0x35a0, reset: 0x0000_0f7f, writable: 0x0000_0fff, fields: { LAST: [0, 12] } },
  TDBAL: { offset: 0xe000, ...EACH_QUEUE, writable: 0xffff_ff80 },
  TDBAH: { offset: 0xe004, ...EACH_QUEUE, writable: ALL },
  TDLEN: { offset: 0xe008, ...EACH_QUEUE, writable: 0x000f_fff0 },
  TDH: { offset: 0xe010, ...EACH_QUEUE },
  TXCTL: { offset: 0xe014, ...EACH_QUEUE, reset: 0x0000_2a00, writable: 0xff00_2ae0 },
  TDT: { offset: 0xe018, ...EACH_QUEUE, writable: LOW16 },
  TXDCTL: { offset: 0xe028, ...EACH_QUEUE, writable: 0x0a1f_1f1f, fields: { ...THRESHOLDS, PRIORITY: [27, 1] } },
  TDWBAL: { offset: 0xe038, ...EACH_QUEUE, writable: 0xffff_fffd, fields: { HEAD_WB_EN: [0, 1], WB_ON_EITR: [1, 1] } },
  TDWBAH: { offset: 0xe03c, ...EACH_QUEUE, writable: ALL },
  TDBAL_82575: { offset: 0x3800, aliasOf: 'TDBAL', ...FIRST_QUEUES },
  TDBAH_82575: { offset: 0x3804, aliasOf: 'TDBAH', ...FIRST_QUEUES },
  TDLEN_82575: { offset: 0x3808, aliasOf: 'TDLEN', ...FIRST_QUEUES },
  TDH_82575: { offset: 0x3810, aliasOf: 'TDH', ...FIRST_QUEUES },
  TXCTL_82575: { offset: 0x3814, aliasOf: 'TXCTL', ...FIRST_QUEUES },
  TDT_82575: { offset: 0x3818, aliasOf: 'TDT', ...FIRST_QUEUES },
  TXDCTL_82575: { offset: 0x3828, aliasOf: 'TXDCTL', ...FIRST_QUEUES },
  TDWBAL_82575: { offset: 0x3838, aliasOf: 'TDWBAL', ...FIRST_QUEUES },
  TDWBAH_82575: { offset: 0x383c, aliasOf: 'TDWBAH', ...FIRST_QUEUES },
  // ---- virtualization (8.14) ----
  VMBMEM: { offset: 0x0800, count: 128, writable: ALL, sticky: ALL },
  P2VMAILBOX: { offset: 0x0c00, count: POOLS, fields: { STS: [0, 1], ACK: [1, 1], VFU: [2, 1], PFU: [3, 1], RVFU: [4, 1] } },
  V2PMAILBOX: {
    offset: 0x0c40,
    count: POOLS,
    fields: { REQ: [0, 1], ACK: [1, 1], VFU: [2, 1], PFU: [3, 1], PFSTS: [4, 1], PFACK: [5, 1], RSTI: [6, 1], RSTD: [7, 1] },
  },
  MBVFICR: { offset: 0x0c80, writeOneToClear: 0x00ff_00ff, fields: { VFREQ: [0, 8], VFACK: [16, 8] } },
  MBVFIMR: { offset: 0x0c84, reset: 0xff, writable: 0xff, fields: { VFIM: [0, 8] } },
  VFLRE: { offset: 0x0c88, writeOneToClear: 0x0000_00ff },
  VFRE: { offset: 0x0c8c, reset: 0x0000_00ff, writable: 0x0000_00ff },
  VFTE: { offset: 0x0c90, reset: 0x0000_00ff, writable: 0x0000_00ff },
  QDE: { offset: 0x2408, writable: LOW16 },
  DTXSWC: { offset: 0x3500, writable: 0x80ff_ffff, fields: { MACAS: [0, 8], VLANAS: [8, 8], LLE: [16, 8], LOOPBACK_EN: [31, 1] } },
  LVMMC: { offset: 0x3548 },
  WVBR: { offset: 0x3554 },
  MDFB: { offset: 0x3558, writeOneToClear: 0x0000_00ff },
  RTTDQSEL: { offset: 0x3604, writable: 0x0000_000f },
  RTTBCNRM: { offset: 0x3690, writable: 0x0000_3fff },
  RTTBCNRC: { offset: 0x36b0, writable: 0x8fff_ffff },
  VMVIR: { offset: 0x3700, count: POOLS, writable: 0xc000_ffff, fields: { DEFAULT_TAG: [0, 16], VLANA: [30, 2] } },
  VT_CTL: { offset: 0x581c, writable: 0x7000_0380, fields: { DEF_PL: [7, 3], IGNORE_MAC: [28, 1], DIS_DEF_POOL: [29, 1], REPL_EN: [30, 1] } },
  VMOLR: {
    offset: 0x5ad0,
    count: POOLS,
    reset: 0x8000_2600,
    writable: 0xdf83_3fff,
    fields: {
      RLPML: [0, 14],
      LPE: [16, 1],
      RSSE: [17, 1],
      AUPE: [24, 1],
      ROMPE: [25, 1],
      ROPE: [26, 1],
      BAM: [27, 1],
      MPME: [28, 1],
      STRVLAN: [30, 1],
      STRCRC: [31, 1],
    },
  },
  RPLOLR: { offset: 0x5af0, reset: 0x8000_0000, writable: 0xc000_0000, fields: { STRVLAN: [30, 1], STRCRC: [31, 1] } },
  VLVF: { offset: 0x5d00, count: 32, writable: 0x801f_ffff, fields: { VLAN_ID: [0, 12], POOLSEL: [12, 8], LVLAN: [20, 1], VI_EN: [31, 1] } },
  VMRCTL: { offset: 0x5d80, count: 4, writable: 0x0000_070f, fields: { VPME: [0, 1], UPME: [1, 1], DPME: [2, 1], VLME: [3, 1], MP: [8, 3] } },
  VMRVLAN: { offset: 0x5d90, count: 4, writable: ALL },
  VMRVM: { offset: 0x5da0, count: 4, writable: 0x0000_00ff },
  SCCRL: { offset: 0x5db0, writable: 0x0003_ff1f, fields: { MDIPW: [0, 1], MDICW: [1, 1], BDIPW: [2, 1], BDICW: [3, 1], RDIPW: [4, 1], INTERVAL: [8, 10] } },
  SCSTS: { offset: 0x5db4 },
  BSCTRH: { offset: 0x5db8, writable: 0x003f_ffff },
  MSCTRH: { offset: 0x5dbc, writable: 0x003f_ffff },
  BSCCNT: { offset: 0x5dc0 },
  MSCCNT: { offset: 0x5dc4 },
  UTA: { offset: 0xa000, count: 128, writable: ALL },
  // The PF's windows onto what its VFs have (8.26).
  VTCTRL: { offset: 0x1_0000, ...EACH_VF },
  VTEICS: { offset: 0x1_0020, ...EACH_VF },
  VTEIMS: { offset: 0x1_0024, ...EACH_VF },
  VTEIMC: { offset: 0x1_0028, ...EACH_VF },
  VTEIAC: { offset: 0x1_002c, ...EACH_VF },
  VTEIAM: { offset: 0x1_0030, ...EACH_VF },
  VTEICR: { offset: 0x1_0080, ...EACH_VF },
  PVFGPRC: { offset: 0x1_0010, ...EACH_VF },
  PVFGPTC: { offset: 0x1_0014, ...EACH_VF },
  PVFGORC: { offset: 0x1_0018, ...EACH_VF },
  PVFGOTC: { offset: 0x1_0034, ...EACH_VF },
  PVFMPRC: { offset: 0x1_0038, ...EACH_VF },
  PVFGPRLBC: { offset: 0x1_0040, ...EACH_VF },
  PVFGPTLBC: { offset: 0x1_0044, ...EACH_VF },
  PVFGORLBC: { offset: 0x1_0048, ...EACH_VF },
  PVFGOTLBC: { offset: 0x1_0050, ...EACH_VF },
  VTIVAR: { offset: 0x1_1700, count: POOLS, writable: 0x8383_8383 },
  VTIVAR_MISC: { offset: 0x1_1720, count: POOLS, writable: 0x0000_0083 },
  // ---- statistics (8.18): cleared by reading ----
  ...STATISTICS_REGISTERS,
  HTDPMC: { offset: 0x403c },
  IAC: { offset: 0x4100 },
  RPTHC: { offset: 0x4104 },
  HGPTC: { offset: 0x4118 },
  RXDMTC: { offset: 0x4120 },
  HGORCL: { offset: 0x4128 },
  HGORCH: { offset: 0x412c },
  HGOTCL: { offset: 0x4130 },
  HGOTCH: { offset: 0x4134 },
  LENERRS: { offset: 0x4138 },
  SSVPC: { offset: 0x41a0 },
  // ---- time synchronization (8.16) ----
  TSYNCRXCFG: { offset: 0x5f50, writable: LOW16, fields: { CTRLT: [0, 8], MSGT: [8, 8] } },
  SYSTIML: { offset: 0xb600, writable: ALL },
  SYSTIMH: { offset: 0xb604, writable: ALL },
  TIMINCA: { offset: 0xb608, writable: ALL, fields: { INCVALUE: [0, 24], INCPERIOD: [24, 8] } },
  TIMADJL: { offset: 0xb60c, writable: ALL },
  TIMADJH: { offset: 0xb610, writable: ALL, fields: { VALUE: [0, 31], SIGN: [31, 1] } },
  TSYNCTXCTL: { offset: 0xb614, writable: 0x0000_0010, fields: { VALID: [0, 1], EN: [4, 1] } },
  TXSTMPL: { offset: 0xb618 },
  TXSTMPH: { offset: 0xb61c },
  TSYNCRXCTL: { offset: 0xb620, writable: 0x0000_001e, fields: { VALID: [0, 1], TYPE: [1, 3], EN: [4, 1] } },
  RXSTMPL: { offset: 0xb624 },
  RXSTMPH: { offset: 0xb628 },
  RXSATRL: { offset: 0xb62c },
  RXSATRH: { offset: 0xb630 },
  TSAUXC: {
    offset: 0xb640,
    // SAMP_AUT0, 1 (3, 6) clear themselves.
    writable: 0x0000_05b7,
    fields: {
      EN_TT0: [0, 1],
      EN_TT1: [1, 1],
      EN_CLK0: [2, 1],
      SAMP_AUT0: [3, 1],
      ST0: [4, 1],
      EN_CLK1: [5, 1],
      SAMP_AUT1: [6, 1],
      ST1: [7, 1],
      EN_TS0: [8, 1],
      AUTT0: [9, 1],
      EN_TS1: [10, 1],
      AUTT1: [11, 1],
    },
  },
  // Low and high half of each of two.
  TRGTTIM: { offset: 0xb644, count: 4, writable: ALL },
  FREQOUT: { offset: 0xb654, count: 2, writable: ALL },
  AUXSTMP: { offset: 0xb65c, count: 4 },
  // ---- wake-up (8.20) ----
  ...WAKE_UP_REGISTERS,
  WUFC: { offset: 0x5808, writable: 0x003f_80ff, sticky: 0x003f_80ff },
  WUS: { offset: 0x5810, writeOneToClear: 0x003f_00ff, sticky: 0x003f_00ff },
  FHFT: { offset: 0x9000, count: 256, writable: ALL, sticky: ALL },
  FHFT_EXT: { offset: 0x9a00, count: 128, writable: ALL, sticky: ALL },
} as const;

export type IgbRegister = keyof typeof IGB_REGISTERS;

/** The memory BAR. */
export const REGISTER_SPACE = 0x2_0000;

/** Where each register's first element is in the state. */
export const AT = registerLayout(IGB_REGISTERS);

export const CTRL_GIO_MASTER_DISABLE = 1 << 2;
export const CTRL_RST = 1 << 26;
export const CTRL_TFCE = 1 << 28;
export const CTRL_VME = 1 << 30;
export const CTRL_PHY_RST = 1 << 31;

export const CTRL_EXT_EE_RST = 1 << 13;
export const CTRL_EXT_PFRSTD = 1 << 14;
export const CTRL_EXT_EXT_VLAN = 1 << 26;

export const RCTL_RXEN = 1 << 1;
export const RCTL_SBP = 1 << 2;
export const RCTL_LPE = 1 << 5;
export const RCTL_VFE = 1 << 18;
export const RCTL_SECRC = 1 << 26;

export const TCTL_EN = 1 << 1;
export const TCTL_PSP = 1 << 3;
export const TCTL_SWXOFF = 1 << 22;

/** MRQC bits 2:0 (8.10.17, Multiple Receive Queues Enable). */
export const MRQC_NONE = 0;
export const MRQC_RSS = 2;
export const MRQC_VMDQ = 3;
export const MRQC_DEFAULT_QUEUE = 4;
export const MRQC_VMDQ_RSS = 5;

export const GPIE_NSICR = 1 << 0;
export const GPIE_MULTIPLE_MSIX = 1 << 4;
export const GPIE_EIAME = 1 << 30;
export const GPIE_PBA_SUPPORT = 1 << 31;

export const ICR_TXDW = 1 << 0;
export const ICR_LSC = 1 << 2;
export const ICR_RXDMT0 = 1 << 4;
export const ICR_RXMISS = 1 << 6;
export const ICR_RXDW = 1 << 7;
/** A VF wrote to its mailbox, or was reset (8.8.9, SWMB). */
export const ICR_VMMB = 1 << 8;
/** A command of MDIC is done. */
export const ICR_MDAC = 1 << 9;
export const ICR_GPHY = 1 << 10;
/** The first of four, a rising edge on a pin. */
export const ICR_GPI_SDP0 = 1 << 11;
/** Storm control changed its mind. */
export const ICR_SCE = 1 << 25;
/** Spoofing or malicious traffic was seen (DTXCTL). */
export const ICR_DOUTSYNC = 1 << 28;
export const ICR_TCP_TIMER = 1 << 30;
export const ICR_INT_ASSERTED = 1 << 31;
