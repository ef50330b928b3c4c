// Feature bits (virtio 1.4 6, 5.1.3) as the suite reads them, and sets of them. Not guest-sim's: the suite judges that driver, and a wrong number there must not agree with itself.

export const FEATURE = {
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
  OUT_NET_HEADER: 69,
  IPSEC: 70,
} as const;

export type FeatureName = keyof typeof FEATURE;
export const FEATURE_NAMES = Object.keys(FEATURE) as readonly FeatureName[];

/** Bits that only a device with a legacy interface may offer; 30 was never used. */
export const LEGACY_BIT = { GSO: 6, NOTIFY_ON_EMPTY: 24, ANY_LAYOUT: 27, BAD_FEATURE: 30 } as const;
export const LEGACY_BITS: readonly number[] = Object.values(LEGACY_BIT);

/** Windows of 32 bits that the feature selectors can show something defined in. */
export const FEATURE_WINDOWS = 3;

/** virtio 1.4 5.1.3.1: each bit, and those of which one at least (each inner list) has to come with it. */
export const DEPENDENCIES: readonly (readonly [FeatureName, readonly (readonly FeatureName[])[]])[] = [
  ['GUEST_TSO4', [['GUEST_CSUM']]],
  ['GUEST_TSO6', [['GUEST_CSUM']]],
  ['GUEST_ECN', [['GUEST_TSO4', 'GUEST_TSO6']]],
  ['GUEST_UFO', [['GUEST_CSUM']]],
  ['GUEST_USO4', [['GUEST_CSUM']]],
  ['GUEST_USO6', [['GUEST_CSUM']]],
  ['GUEST_UDP_TUNNEL_GSO', [['GUEST_TSO4'], ['GUEST_TSO6'], ['GUEST_USO4'], ['GUEST_USO6']]],
  ['GUEST_UDP_TUNNEL_GSO_CSUM', [['GUEST_UDP_TUNNEL_GSO']]],
  ['HOST_TSO4', [['CSUM']]],
  ['HOST_TSO6', [['CSUM']]],
  ['HOST_ECN', [['HOST_TSO4', 'HOST_TSO6']]],
  ['HOST_UFO', [['CSUM']]],
  ['HOST_USO', [['CSUM']]],
  ['HOST_UDP_TUNNEL_GSO', [['HOST_TSO4'], ['HOST_TSO6'], ['HOST_USO']]],
  ['HOST_UDP_TUNNEL_GSO_CSUM', [['HOST_UDP_TUNNEL_GSO']]],
  ['CTRL_RX', [['CTRL_VQ']]],
  ['CTRL_VLAN', [['CTRL_VQ']]],
  ['GUEST_ANNOUNCE', [['CTRL_VQ']]],
  ['MQ', [['CTRL_VQ']]],
  ['CTRL_MAC_ADDR', [['CTRL_VQ']]],
  ['NOTF_COAL', [['CTRL_VQ']]],
  // The table says HOST_TSO, the prose elsewhere GUEST_TSO: either satisfies the suite.
  ['RSC_EXT', [['HOST_TSO4', 'HOST_TSO6', 'GUEST_TSO4', 'GUEST_TSO6']]],
  ['RSS', [['CTRL_VQ']]],
  ['VQ_NOTF_COAL', [['CTRL_VQ']]],
  ['HASH_TUNNEL', [['CTRL_VQ'], ['RSS', 'HASH_REPORT']]],
  ['RSS_CONTEXT', [['CTRL_VQ'], ['RSS']]],
];

/**
 * Features that work through the control queue although 5.1.3.1 does not list it as their prerequisite. A device may refuse them without it: the suite takes that for a set that is
 * not valid, and negotiates it with them.
 */
const IMPLIED: readonly (readonly [FeatureName, readonly (readonly FeatureName[])[]])[] = (
  ['CTRL_GUEST_OFFLOADS', 'CTRL_RX_EXTRA', 'DEVICE_STATS', 'HASH_REPORT'] as const
).map((name) => [name, [['CTRL_VQ']]]);

/** By bit number. */
export type FeatureBits = ReadonlySet<number>;

export function fromWords(words: readonly number[]): FeatureBits {
  const bits = new Set<number>();
  for (const [window, word] of words.entries()) for (let bit = 0; bit < 32; bit++) if ((word >>> bit) & 1) bits.add(32 * window + bit);
  return bits;
}

/** The 32 bits of window `window`. */
export function wordOf(bits: FeatureBits, window: number): number {
  let word = 0;
  for (const bit of bits) if (bit >>> 5 === window) word |= 1 << (bit & 31);
  return word >>> 0;
}

export function nameOfBit(bit: number): string {
  return FEATURE_NAMES.find((name) => FEATURE[name] === bit) ?? `bit ${bit}`;
}

/** `wanted` with everything `offered` that it depends on; what cannot be satisfied is told by `missing`. */
export function withDependencies(wanted: readonly FeatureName[], offered: FeatureBits): FeatureBits {
  const bits = new Set(wanted.map((name) => FEATURE[name] as number));
  for (let grew = true; grew; ) {
    grew = false;
    for (const [name, groups] of [...DEPENDENCIES, ...IMPLIED]) {
      if (!bits.has(FEATURE[name])) continue;
      for (const group of groups) {
        if (group.some((need) => bits.has(FEATURE[need]))) continue;
        const choice = group.find((need) => offered.has(FEATURE[need]));
        if (choice === undefined) continue;
        bits.add(FEATURE[choice]);
        grew = true;
      }
    }
  }
  return bits;
}
