// Intel 82576 registers, bits and descriptor fields as the guest's drivers know them, typed from the "Intel 82576EB Gigabit Ethernet Controller Datasheet" (rev. 2.7, chapters 7
// and 8) independently of src/devices. Only what the drivers touch. The mailbox's messages are an agreement of drivers (SR-IOV companion guide) and lie in igb-mailbox.ts.

/** Physical functions (9.4.2: copper, and the others of the family that differ in their link only), and the virtual function. */
export const IGB_DEVICES: ReadonlySet<number> = new Set([0x10c9, 0x10e6, 0x10e7, 0x10e8, 0x1526, 0x150a, 0x1518, 0x150d]);
export const IGBVF_DEVICES: ReadonlySet<number> = new Set([0x10ca, 0x152d]);

/** Register offsets in a physical function's BAR 0 (8.1.3). */
export const REG = {
  CTRL: 0x0000,
  STATUS: 0x0008,
  EECD: 0x0010,
  EERD: 0x0014,
  CTRL_EXT: 0x0018,
  MDIC: 0x0020,
  FCAL: 0x0028,
  FCAH: 0x002c,
  FCT: 0x0030,
  VET: 0x0038,
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
  RCTL: 0x0100,
  FCTTV: 0x0170,
  TCTL: 0x0400,
  TIPG: 0x0410,
  P2VMAILBOX: 0x0c00,
  VMBMEM: 0x0800,
  MBVFICR: 0x0c80,
  MBVFIMR: 0x0c84,
  VFLRE: 0x0c88,
  VFRE: 0x0c8c,
  VFTE: 0x0c90,
  EEMNGCTL: 0x1010,
  FCRTL: 0x2160,
  FCRTH: 0x2168,
  QDE: 0x2408,
  DTXSWC: 0x3500,
  LVMMC: 0x3548,
  WVBR: 0x3554,
  RTTDQSEL: 0x3604,
  RTTBCNRM: 0x3690,
  RTTBCNRC: 0x36b0,
  VMVIR: 0x3700,
  RXCSUM: 0x5000,
  RLPML: 0x5004,
  RFCTL: 0x5008,
  MTA: 0x5200,
  RAL: 0x5400,
  RAH: 0x5404,
  PSRTYPE: 0x5480,
  RAL2: 0x54e0,
  RAH2: 0x54e4,
  VFTA: 0x5600,
  MRQC: 0x5818,
  VT_CTL: 0x581c,
  VMOLR: 0x5ad0,
  RPLOLR: 0x5af0,
  SWSM: 0x5b50,
  SW_FW_SYNC: 0x5b5c,
  RETA: 0x5c00,
  RSSRK: 0x5c80,
  VLVF: 0x5d00,
  UTA: 0xa000,
  RX_QUEUE: 0xc000,
  TX_QUEUE: 0xe000,
} as const;
/** Bytes from one queue's registers to the next one's, in the physical function (8.10, 8.12). */
export const QUEUE_STRIDE = 0x40;

/** Register offsets in a virtual function's BAR 0 (8.27): named alike, fewer. */
export const VF_REG = {
  CTRL: 0x0000,
  STATUS: 0x0008,
  VMBMEM: 0x0800,
  V2PMAILBOX: 0x0c40,
  PSRTYPE: 0x0f0c,
  EICS: 0x1520,
  EIMS: 0x1524,
  EIMC: 0x1528,
  EIAC: 0x152c,
  EIAM: 0x1530,
  EICR: 0x1580,
  EITR: 0x1680,
  IVAR: 0x1700,
  IVAR_MISC: 0x1740,
  RX_QUEUE: 0x2800,
  TX_QUEUE: 0x3800,
} as const;
export const VF_QUEUE_STRIDE = 0x100;

/** Within a queue's registers, receive (8.10) and transmit (8.12): the same places in both kinds of function. */
export const RING = { BAL: 0x00, BAH: 0x04, LEN: 0x08, HEAD: 0x10, TAIL: 0x18, DCTL: 0x28 } as const;
export const SRRCTL = 0x0c;
export const TDWBAL = 0x38;
export const TDWBAH = 0x3c;

// CTRL (8.2.1), STATUS (8.2.2), CTRL_EXT (8.2.3)
export const CTRL_FD = 1 << 0;
export const CTRL_GIO_MASTER_DISABLE = 1 << 2;
export const CTRL_SLU = 1 << 6;
export const CTRL_ILOS = 1 << 7;
export const CTRL_FRCSPD = 1 << 11;
export const CTRL_FRCDPLX = 1 << 12;
export const CTRL_RST = 1 << 26;
export const CTRL_RFCE = 1 << 27;
export const CTRL_TFCE = 1 << 28;
export const CTRL_VME = 1 << 30;
export const CTRL_PHY_RST = 0x8000_0000;
export const STATUS_LU = 1 << 1;
export const STATUS_LAN_ID_SHIFT = 2;
export const STATUS_GIO_MASTER = 1 << 19;
export const CTRL_EXT_PFRSTD = 1 << 14;
export const CTRL_EXT_DRV_LOAD = 1 << 28;
// EECD (8.4.1), EERD (8.4.2), EEMNGCTL (8.4.4), semaphores (8.8.1, 8.8.3)
export const EECD_AUTO_RD = 1 << 9;
export const EERD_START = 1 << 0;
export const EERD_DONE = 1 << 1;
export const EERD_ADDRESS_SHIFT = 2;
/** The sum of words 0 to 0x3f (6.2.25). */
export const EEPROM_SUM = 0xbaba;
export const EEPROM_WORDS = 64;
/** Of port 0; port 1's is one bit up. */
export const EEMNGCTL_CFG_DONE = 1 << 18;
export const SWSM_SMBI = 1 << 0;
export const SWSM_SWESMBI = 1 << 1;
export const SW_FW_EEPROM = 1 << 0;
/** Of port 0; port 1's is one bit up. The firmware's own bits are 16 up. */
export const SW_FW_PHY = 1 << 1;

/** Causes of ICR (8.8.9). With MSI-X those matter that are no queue's and share IVAR_MISC's vector; without, all of them. */
export const CAUSE = {
  TXDW: 1 << 0,
  LSC: 1 << 2,
  RXDMT0: 1 << 4,
  RXDW: 1 << 7,
  VMMB: 1 << 8,
  DOUTSYNC: 1 << 28,
  INT_ASSERTED: 1 << 31,
} as const;
export const INTERRUPT_ALL = 0xffff_ffff;
// GPIE (8.8.19)
export const GPIE_NSICR = 1 << 0;
export const GPIE_MULTIPLE_MSIX = 1 << 4;
export const GPIE_EIAME = 1 << 30;
export const GPIE_PBA = 0x8000_0000;
/** IVAR entries (8.8.13): a vector, and whether it counts. */
export const IVAR_VALID = 0x80;
/** EITR (8.8.14): microseconds in bits 14:2. */
export const EITR_SHIFT = 2;
export const EITR_MOST = 0x1fff;

// RCTL (8.10.1)
export const RCTL_EN = 1 << 1;
export const RCTL_UPE = 1 << 3;
export const RCTL_MPE = 1 << 4;
export const RCTL_LPE = 1 << 5;
export const RCTL_BAM = 1 << 15;
export const RCTL_VFE = 1 << 18;
export const RCTL_SECRC = 1 << 26;
// TCTL (8.12.1)
export const TCTL_EN = 1 << 1;
export const TCTL_PSP = 1 << 3;
export const TCTL_CT = 0x0f << 4;
export const TCTL_COLD_FD = 0x40 << 12;
// RXCSUM (8.10.4)
export const RXCSUM_IPOFLD = 1 << 8;
export const RXCSUM_TUOFLD = 1 << 9;
export const RXCSUM_CRCOFL = 1 << 11;
export const RXCSUM_PCSD = 1 << 13;
// SRRCTL (8.10.2)
export const SRRCTL_HEADER_SHIFT = 8;
export const SRRCTL_ADVANCED = 1 << 25;
export const SRRCTL_SPLIT = 2 << 25;
export const SRRCTL_DROP_EN = 0x8000_0000;
// RXDCTL, TXDCTL (8.10.14, 8.12.14)
export const DCTL_PTHRESH_SHIFT = 0;
export const DCTL_HTHRESH_SHIFT = 8;
export const DCTL_WTHRESH_SHIFT = 16;
export const DCTL_ENABLE = 1 << 25;
export const TDWBAL_ENABLE = 1 << 0;
/** PSRTYPE (8.10.3): split behind IPv4; IPv4 TCP; IPv4 UDP; IPv4 IPv6, with TCP, with UDP; IPv6, with TCP, with UDP. */
export const PSRTYPE_ALL = 0x3fe;
/** RAH (8.10.16). */
export const RAH_AV = 0x8000_0000;
export const RAH_POOL_SHIFT = 18;
export const ADDRESS_ENTRIES = 24;
const FIRST_TABLE = 16;
export function addressEntry(index: number): number {
  return index < FIRST_TABLE ? REG.RAL + 8 * index : REG.RAL2 + 8 * (index - FIRST_TABLE);
}

// MRQC (8.10.18): which queues, and what is hashed.
export const MRQC_RSS = 2;
export const MRQC_POOLS_RSS = 5;
export const MRQC_TCP_IPV4 = 1 << 16;
export const MRQC_IPV4 = 1 << 17;
export const MRQC_TCP_IPV6_EX = 1 << 18;
export const MRQC_IPV6_EX = 1 << 19;
export const MRQC_IPV6 = 1 << 20;
export const MRQC_TCP_IPV6 = 1 << 21;
export const MRQC_UDP_IPV4 = 1 << 22;
export const MRQC_UDP_IPV6 = 1 << 23;
export const MRQC_UDP_IPV6_EX = 1 << 24;
export const RETA_ENTRIES = 128;
export const RSS_KEY_BYTES = 40;

// Virtualisation (8.14).
export const POOLS = 8;
export const VT_CTL_DEFAULT_SHIFT = 7;
export const VT_CTL_NO_DEFAULT = 1 << 29;
export const VT_CTL_REPLICATION = 1 << 30;
export const VMOLR_RLPML = 0x3fff;
export const VMOLR_LPE = 1 << 16;
export const VMOLR_RSSE = 1 << 17;
export const VMOLR_AUPE = 1 << 24;
export const VMOLR_ROMPE = 1 << 25;
export const VMOLR_ROPE = 1 << 26;
export const VMOLR_BAM = 1 << 27;
export const VMOLR_MPME = 1 << 28;
export const VMOLR_STRVLAN = 1 << 30;
export const VMOLR_STRCRC = 0x8000_0000;
export const RPLOLR_STRVLAN = 1 << 30;
export const RPLOLR_STRCRC = 0x8000_0000;
export const VLVF_ENTRIES = 32;
export const VLVF_POOL_SHIFT = 12;
export const VLVF_ENABLE = 0x8000_0000;
export const VMVIR_DEFAULT = 1 << 30;
export const DTXSWC_MAC_SHIFT = 0;
export const DTXSWC_VLAN_SHIFT = 8;
export const DTXSWC_LOOPBACK = 0x8000_0000;
export const RTTBCNRC_ENABLE = 0x8000_0000;
export const RTTBCNRC_INTEGER_SHIFT = 14;
export const RTTBCNRM_WINDOW = 0x14;
/** The second queue of a pool (7.10.1: pool n has queues n and n + 8). */
export const POOL_QUEUE_STEP = 8;

// Mailbox registers (8.14.2, 8.14.3, 8.14.5)
export const P2V_STS = 1 << 0;
export const P2V_ACK = 1 << 1;
export const P2V_PFU = 1 << 3;
export const P2V_RVFU = 1 << 4;
export const V2P_REQ = 1 << 0;
export const V2P_ACK = 1 << 1;
export const V2P_VFU = 1 << 2;
export const V2P_PFSTS = 1 << 4;
export const V2P_RSTI = 1 << 6;
export const V2P_RSTD = 1 << 7;
export const MBVFICR_ACK_SHIFT = 16;
export const MAILBOX_WORDS = 16;
export const MAILBOX_STRIDE = 4 * MAILBOX_WORDS;

export const DESCRIPTOR_BYTES = 16;
// Advanced receive descriptors as written back (7.1.5.2). First word: RSS type, packet type, header length and whether it was split off.
export const RX_RSS_TYPE = 0xf;
export const RX_PACKET_TYPE_SHIFT = 4;
export const RX_PACKET_TYPE = 0x1fff;
export const RX_HEADER_LENGTH_SHIFT = 21;
export const RX_HEADER_LENGTH = 0x3ff;
export const RX_SPH = 0x8000_0000;
/** Third word: status and errors. */
export const RX_DD = 1 << 0;
export const RX_EOP = 1 << 1;
export const RX_VP = 1 << 3;
export const RX_L4I = 1 << 5;
export const RX_IPCS = 1 << 6;
export const RX_HBO = 1 << 23;
export const RX_L4E = 1 << 29;
export const RX_IPE = 1 << 30;
export const RX_RXE = 0x8000_0000;

// Advanced transmit descriptors (7.2.2.2, 7.2.2.3): third and fourth word.
export const TX_CONTEXT = 2 << 20;
export const TX_DATA = 3 << 20;
export const TX_IFCS = 1 << 25;
export const TX_DEXT = 1 << 29;
export const TX_VLE = 1 << 30;
export const TX_TSE = 0x8000_0000;
export const TX_IXSM = 1 << 8;
export const TX_TXSM = 2 << 8;
export const TX_PAYLEN_SHIFT = 14;
/** A context's words: IP header length and MAC header length and tag; command; index, layer 4 header length and MSS. */
export const CONTEXT_MACLEN_SHIFT = 9;
export const CONTEXT_VLAN_SHIFT = 16;
export const CONTEXT_IPV4 = 1 << 10;
export const CONTEXT_UDP = 0 << 11;
export const CONTEXT_TCP = 1 << 11;
export const CONTEXT_SCTP = 2 << 11;
export const CONTEXT_L4LEN_SHIFT = 8;
export const CONTEXT_MSS_SHIFT = 16;

/** Statistics (8.18): each cleared by reading, those of two registers low word first. */
export const STATISTICS: readonly (readonly [name: string, offset: number, wide?: 'wide'])[] = [
  ['crcErrors', 0x4000],
  ['alignmentErrors', 0x4004],
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
  ['receivedToHost', 0x4104],
];

/** A virtual function's counters (8.27.5): 32 bits that wrap and are not cleared by reading. */
export const VF_STATISTICS: readonly (readonly [name: string, offset: number])[] = [
  ['goodReceived', 0x0f10],
  ['goodTransmitted', 0x0f14],
  ['goodOctetsReceived', 0x0f18],
  ['goodOctetsTransmitted', 0x0f34],
  ['multicastReceived', 0x0f3c],
  ['loopbackReceived', 0x0f40],
  ['loopbackTransmitted', 0x0f44],
  ['loopbackOctetsReceived', 0x0f48],
  ['loopbackOctetsTransmitted', 0x0f50],
];
