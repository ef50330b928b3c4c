// Intel 8254x registers and bits as the guest's driver knows them, typed from the "PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual"
// (317453) independently of src/devices. Only what the driver touches. The shared block (CSB) is Rizzo's extension; its words are listed at the end.

export const INTEL_VENDOR = 0x8086;
/** 82540EM, 82544EI/GC copper, 82545EM copper. */
export const E1000_DEVICES: ReadonlySet<number> = new Set([0x100e, 0x1015, 0x1008, 0x100c, 0x100f]);
/** Those without EERD: their EEPROM is read a bit at a time. */
export const E1000_WITHOUT_EERD: ReadonlySet<number> = new Set([0x1008, 0x100c]);

/** Register offsets in BAR 0 (13.4). */
export const REG = {
  CTRL: 0x0000,
  STATUS: 0x0008,
  EECD: 0x0010,
  EERD: 0x0014,
  FCAL: 0x0028,
  FCAH: 0x002c,
  FCT: 0x0030,
  VET: 0x0038,
  ICR: 0x00c0,
  ITR: 0x00c4,
  ICS: 0x00c8,
  IMS: 0x00d0,
  IMC: 0x00d8,
  RCTL: 0x0100,
  FCTTV: 0x0170,
  TCTL: 0x0400,
  TIPG: 0x0410,
  FCRTL: 0x2160,
  FCRTH: 0x2168,
  RDBAL: 0x2800,
  RDBAH: 0x2804,
  RDLEN: 0x2808,
  RDH: 0x2810,
  RDT: 0x2818,
  RDTR: 0x2820,
  CSBAL: 0x2830,
  CSBAH: 0x2834,
  RADV: 0x282c,
  TDBAL: 0x3800,
  TDBAH: 0x3804,
  TDLEN: 0x3808,
  TDH: 0x3810,
  TDT: 0x3818,
  TIDV: 0x3820,
  TXDCTL: 0x3828,
  TADV: 0x382c,
  RXCSUM: 0x5000,
  MTA: 0x5200,
  RAL: 0x5400,
  RAH: 0x5404,
  VFTA: 0x5600,
  WUC: 0x5800,
} as const;

// CTRL (13.4.1)
export const CTRL_FD = 1 << 0;
export const CTRL_LRST = 1 << 3;
export const CTRL_ASDE = 1 << 5;
export const CTRL_SLU = 1 << 6;
export const CTRL_ILOS = 1 << 7;
export const CTRL_RST = 1 << 26;
export const CTRL_RFCE = 1 << 27;
export const CTRL_TFCE = 1 << 28;
export const CTRL_VME = 1 << 30;
export const CTRL_PHY_RST = 0x8000_0000;
// STATUS (13.4.2)
export const STATUS_LU = 1 << 1;
// EECD (13.4.3), EERD (13.4.4)
export const EECD_SK = 1 << 0;
export const EECD_CS = 1 << 1;
export const EECD_DI = 1 << 2;
export const EECD_DO = 1 << 3;
export const EECD_REQ = 1 << 6;
export const EECD_GNT = 1 << 7;
export const EECD_SIZE = 1 << 9;
export const EERD_START = 1 << 0;
export const EERD_DONE = 1 << 4;
/** The sum of words 0 to 0x3f (5.6.32). */
export const EEPROM_SUM = 0xbaba;
export const EEPROM_WORDS = 64;
/** Interrupt causes (13.4.17). */
export const CAUSE = {
  TXDW: 1 << 0,
  LSC: 1 << 2,
  RXSEQ: 1 << 3,
  RXDMT0: 1 << 4,
  RXO: 1 << 6,
  RXT0: 1 << 7,
} as const;
export const INTERRUPT_ALL = 0xffff_ffff;

// RCTL (13.4.22)
export const RCTL_EN = 1 << 1;
export const RCTL_UPE = 1 << 3;
export const RCTL_MPE = 1 << 4;
export const RCTL_LPE = 1 << 5;
export const RCTL_BAM = 1 << 15;
export const RCTL_VFE = 1 << 18;
export const RCTL_SECRC = 1 << 26;
// TCTL (13.4.33); collision threshold and distance as 14.5 recommends for full duplex.
export const TCTL_EN = 1 << 1;
export const TCTL_PSP = 1 << 3;
export const TCTL_CT = 0x0f << 4;
export const TCTL_COLD_FD = 0x40 << 12;
/** IPGT 10, IPGR1 8, IPGR2 6 (13.4.34, copper). */
export const TIPG_COPPER = 10 | (8 << 10) | (6 << 20);
// RXCSUM (13.4.52)
export const RXCSUM_IPOFL = 1 << 8;
export const RXCSUM_TUOFL = 1 << 9;
/** RAH: address valid. */
export const RAH_AV = 0x8000_0000;

/** Flow control (13.4.5 to 13.4.7): the address and type of a PAUSE frame. */
export const PAUSE_LOW = 0x00c2_8001;
export const PAUSE_HIGH = 0x0100;
export const PAUSE_TYPE = 0x8808;

// Receive descriptor (3.2.3): address, then length and packet checksum, then status, errors and special.
export const DESCRIPTOR_BYTES = 16;
export const RX_DD = 1 << 0;
export const RX_EOP = 1 << 1;
export const RX_IXSM = 1 << 2;
export const RX_VP = 1 << 3;
export const RX_TCPCS = 1 << 5;
export const RX_IPCS = 1 << 6;
/** Within the errors byte. */
const RX_CE = 1 << 0;
const RX_SE = 1 << 1;
const RX_SEQ = 1 << 2;
const RX_CXE = 1 << 4;
export const RX_TCPE = 1 << 5;
export const RX_IPE = 1 << 6;
const RX_RXE = 1 << 7;
export const RX_FRAME_ERRORS = RX_CE | RX_SE | RX_SEQ | RX_CXE | RX_RXE;

// Transmit descriptors (3.3): the command byte is bits 31:24 of the third word.
export const TX_IFCS = 1 << 25;
export const TX_TSE = 1 << 26;
export const TX_DEXT = 1 << 29;
export const TX_VLE = 1 << 30;
export const TX_IDE = 0x8000_0000;
/** DTYP 1 (data); a context descriptor has 0. */
export const TX_DATA = 1 << 20;
/** TUCMD of a context descriptor: the packet is TCP, IPv4. */
export const TX_TCP = 1 << 24;
export const TX_IP = 1 << 25;
/** Packet options of a data descriptor, in the last word. */
export const TX_IXSM = 1 << 8;
export const TX_TXSM = 2 << 8;

/** Subsystem id of a device with the shared block. */
export const CSB_SUBSYSTEM = 0x1101;
/** The shared block: 32-bit words, the guest's on one cache line and the host's on the next. */
export const CSB = {
  guest_tdt: 0,
  guest_need_txkick: 1,
  guest_need_rxkick: 2,
  guest_csb_on: 3,
  guest_rdt: 4,
  guest_txkick_at: 5,
  host_tdh: 16,
  host_need_txkick: 17,
  host_txcycles_lim: 18,
  host_txcycles: 19,
  host_rdh: 20,
  host_need_rxkick: 21,
  host_isr: 22,
  host_rxkick_at: 23,
} as const;
export const CSB_BYTES = 4096;

/** Statistics (13.7): each 32 bits and cleared by reading, those of two registers low word first. */
export const STATISTICS: readonly (readonly [name: string, offset: number, wide?: 'wide'])[] = [
  ['crcErrors', 0x4000],
  ['receiveErrors', 0x400c],
  ['missedPackets', 0x4010],
  ['receiveLengthErrors', 0x4040],
  ['xonReceived', 0x4048],
  ['xonTransmitted', 0x404c],
  ['xoffReceived', 0x4050],
  ['xoffTransmitted', 0x4054],
  ['received64', 0x405c],
  ['received127', 0x4060],
  ['received255', 0x4064],
  ['received511', 0x4068],
  ['received1023', 0x406c],
  ['received1522', 0x4070],
  ['goodReceived', 0x4074],
  ['broadcastReceived', 0x4078],
  ['multicastReceived', 0x407c],
  ['goodTransmitted', 0x4080],
  ['goodOctetsReceived', 0x4088, 'wide'],
  ['goodOctetsTransmitted', 0x4090, 'wide'],
  ['receiveNoBuffers', 0x40a0],
  ['undersized', 0x40a4],
  ['fragments', 0x40a8],
  ['oversized', 0x40ac],
  ['jabber', 0x40b0],
  ['totalOctetsReceived', 0x40c0, 'wide'],
  ['totalOctetsTransmitted', 0x40c8, 'wide'],
  ['totalReceived', 0x40d0],
  ['totalTransmitted', 0x40d4],
  ['transmitted64', 0x40d8],
  ['transmitted127', 0x40dc],
  ['transmitted255', 0x40e0],
  ['transmitted511', 0x40e4],
  ['transmitted1023', 0x40e8],
  ['transmitted1522', 0x40ec],
  ['multicastTransmitted', 0x40f0],
  ['broadcastTransmitted', 0x40f4],
  ['segmentationContexts', 0x40f8],
  ['segmentationContextsFailed', 0x40fc],
];
