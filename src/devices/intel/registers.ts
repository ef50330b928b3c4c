// Register rows that Intel's Gigabit parts have at the same place and with the same bits, from the 8254x to the 82576 (8254x 13.2 to 13.8, 82576 8): spread into each part's own table, where what differs stands.

const ALL = 0xffff_ffff;

/** Of the link, the filters, the pause timer. */
export const COMMON_REGISTERS = {
  MDIC: {
    offset: 0x0020,
    reset: 0x1000_0000,
    writable: 0x2fff_ffff,
    fields: { DATA: [0, 16], REGADD: [16, 5], PHYADD: [21, 5], OP: [26, 2], R: [28, 1], I: [29, 1], E: [30, 1] },
  },
  FCTTV: { offset: 0x0170, writable: 0xffff },
  MTA: { offset: 0x5200, count: 128, writable: ALL },
  RAL: { offset: 0x5400, count: 16, stride: 8, writable: ALL },
  VFTA: { offset: 0x5600, count: 128, writable: ALL },
  /** By this second address Linux resets an 82545GM (seen); an 82576's datasheet lists it. */
  CTRL_DUP: { offset: 0x0004, aliasOf: 'CTRL' },
} as const;

/** Wake-up (8254x 13.9, 82576 8.20) but for WUFC, WUS and the flexible filters. It outlives resets: the system sleeps through some. */
export const WAKE_UP_REGISTERS = {
  WUC: {
    offset: 0x5800,
    writable: 0x000b,
    writeOneToClear: 0x0004,
    sticky: 0x0006,
    fields: { APME: [0, 1], PME_EN: [1, 1], PME_STATUS: [2, 1], APMPME: [3, 1] },
  },
  IPAV: { offset: 0x5838, writable: 0x0001_000f, sticky: 0x0001_000f },
  IP4AT: { offset: 0x5840, count: 4, stride: 8, writable: ALL, sticky: ALL },
  IP6AT: { offset: 0x5880, count: 4, writable: ALL, sticky: ALL },
  WUPL: { offset: 0x5900, sticky: 0x0fff },
  WUPM: { offset: 0x5a00, count: 32, sticky: ALL },
} as const;

/** Statistics (8254x 13.7, 82576 8.18): cleared by reading. */
export const STATISTICS_REGISTERS = {
  CRCERRS: { offset: 0x4000 },
  ALGNERRC: { offset: 0x4004 },
  SYMERRS: { offset: 0x4008 },
  RXERRC: { offset: 0x400c },
  MPC: { offset: 0x4010 },
  SCC: { offset: 0x4014 },
  ECOL: { offset: 0x4018 },
  MCC: { offset: 0x401c },
  LATECOL: { offset: 0x4020 },
  COLC: { offset: 0x4028 },
  DC: { offset: 0x4030 },
  TNCRS: { offset: 0x4034 },
  RLEC: { offset: 0x4040 },
  XONRXC: { offset: 0x4048 },
  XONTXC: { offset: 0x404c },
  XOFFRXC: { offset: 0x4050 },
  XOFFTXC: { offset: 0x4054 },
  FCRUC: { offset: 0x4058 },
  PRC64: { offset: 0x405c },
  PRC127: { offset: 0x4060 },
  PRC255: { offset: 0x4064 },
  PRC511: { offset: 0x4068 },
  PRC1023: { offset: 0x406c },
  PRC1522: { offset: 0x4070 },
  GPRC: { offset: 0x4074 },
  BPRC: { offset: 0x4078 },
  MPRC: { offset: 0x407c },
  GPTC: { offset: 0x4080 },
  GORCL: { offset: 0x4088 },
  GORCH: { offset: 0x408c },
  GOTCL: { offset: 0x4090 },
  GOTCH: { offset: 0x4094 },
  RNBC: { offset: 0x40a0 },
  RUC: { offset: 0x40a4 },
  RFC: { offset: 0x40a8 },
  ROC: { offset: 0x40ac },
  RJC: { offset: 0x40b0 },
  TORL: { offset: 0x40c0 },
  TORH: { offset: 0x40c4 },
  TOTL: { offset: 0x40c8 },
  TOTH: { offset: 0x40cc },
  TPR: { offset: 0x40d0 },
  TPT: { offset: 0x40d4 },
  PTC64: { offset: 0x40d8 },
  PTC127: { offset: 0x40dc },
  PTC255: { offset: 0x40e0 },
  PTC511: { offset: 0x40e4 },
  PTC1023: { offset: 0x40e8 },
  PTC1522: { offset: 0x40ec },
  MPTC: { offset: 0x40f0 },
  BPTC: { offset: 0x40f4 },
  TSCTC: { offset: 0x40f8 },
} as const;
