// VIRTIO 1.4 numbers as the driver needs them, typed from the specification independently of the device's own constants: a slip in either
// shows as a disagreement. Rings (2.7, 2.8), status (2.1), feature bits (6, 5.1.3) and the PCI transport's structures (4.1.4).

/** Device status bits. */
export const VIRTIO_STATUS = { ACKNOWLEDGE: 1, DRIVER: 2, DRIVER_OK: 4, FEATURES_OK: 8, SUSPEND: 16, NEEDS_RESET: 64, FAILED: 128 } as const;

/** Feature bit numbers that belong to no device type. */
export const VIRTIO_F = {
  /** Legacy only: frames and commands may be cut into descriptors anyhow. */
  ANY_LAYOUT: 27,
  INDIRECT_DESC: 28,
  EVENT_IDX: 29,
  VERSION_1: 32,
  ACCESS_PLATFORM: 33,
  RING_PACKED: 34,
  IN_ORDER: 35,
  ORDER_PLATFORM: 36,
  SR_IOV: 37,
  NOTIFICATION_DATA: 38,
  NOTIF_CONFIG_DATA: 39,
  RING_RESET: 40,
  ADMIN_VQ: 41,
  SUSPEND: 43,
} as const;

/** virtio-net feature bit numbers this driver knows. */
export const VIRTIO_NET_F = {
  CSUM: 0,
  GUEST_CSUM: 1,
  CTRL_GUEST_OFFLOADS: 2,
  MTU: 3,
  MAC: 5,
  GUEST_TSO4: 7,
  GUEST_TSO6: 8,
  GUEST_ECN: 9,
  GUEST_UFO: 10,
  HOST_TSO4: 11,
  HOST_TSO6: 12,
  HOST_ECN: 13,
  HOST_UFO: 14,
  MRG_RXBUF: 15,
  STATUS: 16,
  CTRL_VQ: 17,
  CTRL_RX: 18,
  CTRL_VLAN: 19,
  CTRL_RX_EXTRA: 20,
  GUEST_ANNOUNCE: 21,
  MQ: 22,
  CTRL_MAC_ADDR: 23,
  DEVICE_STATS: 50,
  HASH_TUNNEL: 51,
  VQ_NOTF_COAL: 52,
  NOTF_COAL: 53,
  GUEST_USO4: 54,
  GUEST_USO6: 55,
  HOST_USO: 56,
  HASH_REPORT: 57,
  GUEST_HDRLEN: 59,
  RSS: 60,
  RSC_EXT: 61,
  STANDBY: 62,
  SPEED_DUPLEX: 63,
  RSS_CONTEXT: 64,
  GUEST_UDP_TUNNEL_GSO: 65,
  GUEST_UDP_TUNNEL_GSO_CSUM: 66,
  HOST_UDP_TUNNEL_GSO: 67,
  HOST_UDP_TUNNEL_GSO_CSUM: 68,
} as const;

export const VIRTIO_VENDOR = 0x1af4;
export const VIRTIO_NET_DEVICE = 0x1041;
export const VIRTIO_NET_TRANSITIONAL_DEVICE = 0x1000;

/** cfg_type of the vendor capabilities. */
export const VIRTIO_PCI_CAP = { COMMON_CFG: 1, NOTIFY_CFG: 2, ISR_CFG: 3, DEVICE_CFG: 4, PCI_CFG: 5 } as const;

/** Offsets in the common configuration structure. */
export const COMMON_CFG = {
  device_feature_select: 0,
  device_feature: 4,
  driver_feature_select: 8,
  driver_feature: 12,
  config_msix_vector: 16,
  num_queues: 18,
  device_status: 20,
  config_generation: 21,
  queue_select: 22,
  queue_size: 24,
  queue_msix_vector: 26,
  queue_enable: 28,
  queue_notify_off: 30,
  queue_desc: 32,
  queue_driver: 40,
  queue_device: 48,
  queue_notif_config_data: 56,
  queue_reset: 58,
  admin_queue_index: 60,
  admin_queue_num: 62,
} as const;

/** The part of the common structure every device has; the fields after it come with features. */
export const COMMON_CFG_MINIMUM = 56;

/** Descriptor flags: the first three mean the same in both ring formats. */
export const DESC_NEXT = 1;
export const DESC_WRITE = 2;
export const DESC_INDIRECT = 4;
export const PACKED_AVAIL = 0x80;
export const PACKED_USED = 0x8000;
/** Packed event suppression: low two bits of an event area's second half-word. */
export const PACKED_EVENT_ENABLE = 0;
export const PACKED_EVENT_DISABLE = 1;
export const PACKED_EVENT_DESC = 2;
/** Split ring flags. */
export const AVAIL_NO_INTERRUPT = 1;
export const USED_NO_NOTIFY = 1;
export const QUEUE_SIZE_LIMIT = 32768;

/** Offsets in virtio-net's device configuration. */
export const NET_CFG = {
  mac: 0,
  status: 6,
  max_virtqueue_pairs: 8,
  mtu: 10,
  speed: 12,
  duplex: 16,
  rss_max_key_size: 17,
  rss_max_indirection_table_length: 18,
  supported_hash_types: 20,
  supported_tunnel_types: 24,
} as const;
export const NET_STATUS_LINK_UP = 1;
export const NET_STATUS_ANNOUNCE = 2;

/**
 * struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers; then what features add: hash_value, hash_report and
 * padding with HASH_REPORT, outer_th_offset and inner_nh_offset with UDP tunnel offloads. A later part keeps its place when an earlier one is not negotiated.
 */
export const NET_HEADER_SIZE = 12;
/** Through the legacy interface without MRG_RXBUF: no num_buffers. */
export const NET_HEADER_SIZE_LEGACY = 10;
export const NET_HEADER_SIZE_HASH = 20;
export const NET_HEADER_SIZE_TUNNEL = 24;
export const NET_HDR_F_NEEDS_CSUM = 1;
export const NET_HDR_F_DATA_VALID = 2;
export const NET_HDR_F_RSC_INFO = 4;
export const NET_HDR_F_UDP_TUNNEL_CSUM = 8;
export const NET_GSO_NONE = 0;
export const NET_GSO_TCPV4 = 1;
export const NET_GSO_UDP = 3;
export const NET_GSO_TCPV6 = 4;
export const NET_GSO_UDP_L4 = 5;
export const NET_GSO_UDP_TUNNEL_IPV4 = 0x20;
export const NET_GSO_UDP_TUNNEL_IPV6 = 0x40;
export const NET_GSO_ECN = 0x80;

/** Hash types (5.1.9.4.3.1): a report value is the bit number plus 1, 0 is no hash. */
export const NET_HASH_TYPE = { IPv4: 1, TCPv4: 2, UDPv4: 4, IPv6: 8, TCPv6: 16, UDPv6: 32, IP_EX: 64, TCP_EX: 128, UDP_EX: 256 } as const;
export const NET_HASH_REPORT_NONE = 0;
/** Every type the specification defines: unknown bits a device supports are ignored. */
export const NET_HASH_TYPES_ALL = 0x1ff;

/** Encapsulations whose inner header can be hashed (5.1.9.4.4.2). */
export const NET_HASH_TUNNEL = {
  GRE_2784: 1,
  GRE_2890: 2,
  GRE_7676: 4,
  GRE_UDP: 8,
  VXLAN: 16,
  VXLAN_GPE: 32,
  GENEVE: 64,
  IPIP: 128,
  NVGRE: 256,
} as const;
export const NET_HASH_TUNNELS_ALL = 0x1ff;

/** Control virtqueue classes and commands. */
export const NET_CTRL = {
  RX: 0,
  RX_PROMISC: 0,
  RX_ALLMULTI: 1,
  RX_ALLUNI: 2,
  RX_NOMULTI: 3,
  RX_NOUNI: 4,
  RX_NOBCAST: 5,
  MAC: 1,
  MAC_TABLE_SET: 0,
  MAC_ADDR_SET: 1,
  VLAN: 2,
  VLAN_ADD: 0,
  VLAN_DEL: 1,
  ANNOUNCE: 3,
  ANNOUNCE_ACK: 0,
  MQ: 4,
  MQ_VQ_PAIRS_SET: 0,
  MQ_RSS_CONFIG: 1,
  MQ_HASH_CONFIG: 2,
  GUEST_OFFLOADS: 5,
  GUEST_OFFLOADS_SET: 0,
  NOTF_COAL: 6,
  NOTF_COAL_TX_SET: 0,
  NOTF_COAL_RX_SET: 1,
  NOTF_COAL_VQ_SET: 2,
  NOTF_COAL_VQ_GET: 3,
  HASH_TUNNEL: 7,
  HASH_TUNNEL_SET: 0,
  STATS: 8,
  STATS_QUERY: 0,
  STATS_GET: 1,
  RSS_CTX: 9,
  RSS_CTX_CAP_GET: 0,
  RSS_CTX_ADD: 1,
  RSS_CTX_MOD: 2,
  RSS_CTX_DEL: 3,
  OK: 0,
  ERR: 1,
} as const;
