// Where things lie (virtio 1.4 4.1.4, PCI 3.0 6): the suite's own reading of the structures it drives.

/** Common configuration structure: offset and size of each field; 64-bit ones by halves. */
export const COMMON = {
  device_feature_select: [0, 4],
  device_feature: [4, 4],
  driver_feature_select: [8, 4],
  driver_feature: [12, 4],
  config_msix_vector: [16, 2],
  num_queues: [18, 2],
  device_status: [20, 1],
  config_generation: [21, 1],
  queue_select: [22, 2],
  queue_size: [24, 2],
  queue_msix_vector: [26, 2],
  queue_enable: [28, 2],
  queue_notify_off: [30, 2],
  queue_desc_lo: [32, 4],
  queue_desc_hi: [36, 4],
  queue_driver_lo: [40, 4],
  queue_driver_hi: [44, 4],
  queue_device_lo: [48, 4],
  queue_device_hi: [52, 4],
  queue_notif_config_data: [56, 2],
  queue_reset: [58, 2],
  admin_queue_index: [60, 2],
  admin_queue_num: [62, 2],
} as const;

export type CommonField = keyof typeof COMMON;
export const COMMON_FIELDS = Object.keys(COMMON) as readonly CommonField[];

/** Network device configuration (virtio 1.4 5.1.4): offset and size. */
export const NET_CONFIG = {
  mac: [0, 6],
  status: [6, 2],
  max_virtqueue_pairs: [8, 2],
  mtu: [10, 2],
  speed: [12, 4],
  duplex: [16, 1],
  rss_max_key_size: [17, 1],
  rss_max_indirection_table_length: [18, 2],
  supported_hash_types: [20, 4],
  supported_tunnel_types: [24, 4],
} as const;

export type NetField = Exclude<keyof typeof NET_CONFIG, 'mac'>;

export const STATUS = { ACKNOWLEDGE: 1, DRIVER: 2, DRIVER_OK: 4, FEATURES_OK: 8, SUSPEND: 16, NEEDS_RESET: 64, FAILED: 128 } as const;
export const NO_VECTOR = 0xffff;

export const CFG_TYPE = { COMMON: 1, NOTIFY: 2, ISR: 3, DEVICE: 4, PCI: 5, SHARED_MEMORY: 8, VENDOR: 9 } as const;

/** Configuration space. */
export const PCI = {
  VENDOR_ID: 0,
  DEVICE_ID: 2,
  COMMAND: 4,
  STATUS: 6,
  REVISION: 8,
  HEADER_TYPE: 14,
  BAR0: 0x10,
  SUBSYSTEM_VENDOR: 0x2c,
  SUBSYSTEM_ID: 0x2e,
  CAPABILITIES: 0x34,
  INTERRUPT_PIN: 0x3d,
} as const;
export const PCI_COMMAND = { IO: 1, MEMORY: 2, MASTER: 4, INTX_DISABLE: 0x400 } as const;
export const PCI_STATUS = { INTERRUPT: 8, CAPABILITIES: 16 } as const;
export const CAP_ID = { VENDOR: 9, MSIX: 0x11 } as const;

/** A vendor-specific capability that names a virtio structure. */
export interface Structure {
  readonly at: number;
  readonly capLength: number;
  readonly type: number;
  readonly bar: number;
  readonly id: number;
  readonly offset: number;
  readonly length: number;
}

export interface MsixPlace {
  readonly at: number;
  readonly vectors: number;
  readonly bar: number;
  readonly offset: number;
}

/** Control commands: class and command numbers (virtio 1.4 5.1.9.5). */
export const CTRL = {
  RX: 0,
  PROMISC: 0,
  ALLMULTI: 1,
  ALLUNI: 2,
  NOMULTI: 3,
  NOUNI: 4,
  NOBCAST: 5,
  MAC: 1,
  TABLE_SET: 0,
  ADDR_SET: 1,
  VLAN: 2,
  VLAN_ADD: 0,
  VLAN_DEL: 1,
  ANNOUNCE: 3,
  ANNOUNCE_ACK: 0,
  MQ: 4,
  VQ_PAIRS_SET: 0,
  RSS_CONFIG: 1,
  HASH_CONFIG: 2,
  OFFLOADS: 5,
  OFFLOADS_SET: 0,
  COAL: 6,
  COAL_TX_SET: 0,
  COAL_RX_SET: 1,
  COAL_VQ_SET: 2,
  COAL_VQ_GET: 3,
  TUNNEL: 7,
  TUNNEL_SET: 0,
  STATS: 8,
  STATS_QUERY: 0,
  STATS_GET: 1,
  CONTEXT: 9,
  CONTEXT_CAP_GET: 0,
  CONTEXT_ADD: 1,
  CONTEXT_MOD: 2,
  CONTEXT_DEL: 3,
} as const;
export const ACK_OK = 0;
export const ACK_ERR = 1;

/** struct virtio_net_hdr flags and gso_type. */
export const HDR = { NEEDS_CSUM: 1, DATA_VALID: 2, RSC_INFO: 4, UDP_TUNNEL_CSUM: 8 } as const;
export const GSO = { NONE: 0, TCPV4: 1, UDP: 3, TCPV6: 4, UDP_L4: 5, TUNNEL_V4: 0x20, TUNNEL_V6: 0x40, ECN: 0x80 } as const;

export interface NetHeader {
  readonly flags: number;
  readonly gsoType: number;
  readonly headerLength: number;
  readonly gsoSize: number;
  readonly csumStart: number;
  readonly csumOffset: number;
  readonly numBuffers: number;
  /** 0 where the header has no such field. */
  readonly hashValue: number;
  readonly hashReport: number;
  readonly outerTransport: number;
  readonly innerNetwork: number;
  readonly outerNetwork: number;
}

export function parseHeader(bytes: Uint8Array, size: number): NetHeader {
  const padded = new Uint8Array(32);
  padded.set(bytes.subarray(0, size));
  const view = new DataView(padded.buffer);
  return {
    flags: view.getUint8(0),
    gsoType: view.getUint8(1),
    headerLength: view.getUint16(2, true),
    gsoSize: view.getUint16(4, true),
    csumStart: view.getUint16(6, true),
    csumOffset: view.getUint16(8, true),
    numBuffers: view.getUint16(10, true),
    hashValue: view.getUint32(12, true),
    hashReport: view.getUint16(16, true),
    outerTransport: view.getUint16(20, true),
    innerNetwork: view.getUint16(22, true),
    outerNetwork: view.getUint16(24, true),
  };
}

export function headerBytes(fields: Partial<NetHeader>, size: number): Uint8Array {
  const padded = new Uint8Array(32);
  const view = new DataView(padded.buffer);
  view.setUint8(0, fields.flags ?? 0);
  view.setUint8(1, fields.gsoType ?? 0);
  view.setUint16(2, fields.headerLength ?? 0, true);
  view.setUint16(4, fields.gsoSize ?? 0, true);
  view.setUint16(6, fields.csumStart ?? 0, true);
  view.setUint16(8, fields.csumOffset ?? 0, true);
  view.setUint16(10, fields.numBuffers ?? 0, true);
  view.setUint32(12, fields.hashValue ?? 0, true);
  view.setUint16(16, fields.hashReport ?? 0, true);
  view.setUint16(20, fields.outerTransport ?? 0, true);
  view.setUint16(22, fields.innerNetwork ?? 0, true);
  view.setUint16(24, fields.outerNetwork ?? 0, true);
  return padded.subarray(0, size);
}
