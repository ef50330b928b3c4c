// What a receive hash is computed over and how it is reported (virtio 1.4 5.1.9.4.3, 5.1.9.4.4, 5.1.9.4.5). Bits as the specification numbers them.

/** VIRTIO_NET_HASH_TYPE_*. The report of type `1 << n` is `n + 1`. */
export const HASH_TYPE_IPv4 = 1 << 0;
export const HASH_TYPE_TCPv4 = 1 << 1;
export const HASH_TYPE_UDPv4 = 1 << 2;
export const HASH_TYPE_IPv6 = 1 << 3;
export const HASH_TYPE_TCPv6 = 1 << 4;
export const HASH_TYPE_UDPv6 = 1 << 5;
export const HASH_TYPE_IP_EX = 1 << 6;
export const HASH_TYPE_TCP_EX = 1 << 7;
export const HASH_TYPE_UDP_EX = 1 << 8;
export const ALL_HASH_TYPES = 0x1ff;

/** VIRTIO_NET_HASH_REPORT_*. */
export const HASH_REPORT_NONE = 0;
export const HASH_REPORT_IPv4 = 1;
export const HASH_REPORT_TCPv4 = 2;
export const HASH_REPORT_UDPv4 = 3;
export const HASH_REPORT_IPv6 = 4;
export const HASH_REPORT_TCPv6 = 5;
export const HASH_REPORT_UDPv6 = 6;
export const HASH_REPORT_IPv6_EX = 7;
export const HASH_REPORT_TCPv6_EX = 8;
export const HASH_REPORT_UDPv6_EX = 9;

/** VIRTIO_NET_HASH_TUNNEL_TYPE_*. */
export const HASH_TUNNEL_GRE_2784 = 1 << 0;
export const HASH_TUNNEL_GRE_2890 = 1 << 1;
export const HASH_TUNNEL_GRE_7676 = 1 << 2;
export const HASH_TUNNEL_GRE_UDP = 1 << 3;
export const HASH_TUNNEL_VXLAN = 1 << 4;
export const HASH_TUNNEL_VXLAN_GPE = 1 << 5;
export const HASH_TUNNEL_GENEVE = 1 << 6;
export const HASH_TUNNEL_IPIP = 1 << 7;
export const HASH_TUNNEL_NVGRE = 1 << 8;
export const ALL_HASH_TUNNELS = 0x1ff;

/** Bytes of a key that the longest input (two IPv6 addresses, two ports) can reach: later ones change nothing. */
export const HASH_KEY_BYTES = 40;

/** What decides a frame's hash. Equal contents give equal hashes. */
export interface HashParameters {
  /** HASH_TYPE_* bits. */
  readonly types: number;
  /** HASH_TUNNEL_* bits: frames of these kinds are hashed by their inner headers. */
  readonly tunnels: number;
  /** Up to HASH_KEY_BYTES count; a shorter key goes on with zeros. */
  readonly key: Uint8Array;
}
