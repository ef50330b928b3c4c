// Selectors of the flow filter (virtio 1.4 5.1.9.6.2.2, 5.1.9.6.3.2): what can be matched, of a device, a driver or a classifier. This device matches any bits of the Ethernet,
// IPv4, IPv6, TCP and UDP headers. ESP is left out: the driver clause that lists what may come third does not name it.

import type { AdminData } from '#virtio/admin';
import { FLOW_ETHERNET_WORD, FLOW_NETWORK_WORD, FLOW_TRANSPORT_WORD } from '#virtio/flow-rules';

const TYPE_ETH = 1;
export const TYPE_IPV4 = 2;
export const TYPE_IPV6 = 3;
const TYPE_TCP = 4;
const TYPE_UDP = 5;
const PARTIAL_MASK = 1;
const HEADER = 8;

export interface Selector {
  readonly type: number;
  readonly flags: number;
  readonly mask: Uint8Array;
}

interface Kind {
  /** Bytes of the header that can be matched. */
  readonly length: number;
  /** Word of a flow rule where that header begins. */
  readonly word: number;
  /** What the header before it says of it: EtherType, or IP protocol. */
  readonly named: number;
}

export const SELECTOR_KINDS: ReadonlyMap<number, Kind> = new Map([
  [TYPE_ETH, { length: 14, word: FLOW_ETHERNET_WORD, named: 0 }],
  [TYPE_IPV4, { length: 20, word: FLOW_NETWORK_WORD, named: 0x0800 }],
  [TYPE_IPV6, { length: 40, word: FLOW_NETWORK_WORD, named: 0x86dd }],
  [TYPE_TCP, { length: 20, word: FLOW_TRANSPORT_WORD, named: 6 }],
  [TYPE_UDP, { length: 8, word: FLOW_TRANSPORT_WORD, named: 17 }],
]);

/** Where an IP header names its payload. */
export const PROTOCOL_AT: ReadonlyMap<number, number> = new Map([
  [TYPE_IPV4, 9],
  [TYPE_IPV6, 6],
]);
export const ETHERTYPE_AT = 12;

/** Everything of every kind. */
export const DEVICE_SELECTORS: readonly Selector[] = [...SELECTOR_KINDS].map(([type, { length }]) => ({
  type,
  flags: PARTIAL_MASK,
  mask: new Uint8Array(length).fill(0xff),
}));

/** struct virtio_net_ff_cap_mask_data, and of a classifier the same. */
export function encodeSelectors(selectors: readonly Selector[]): Uint8Array {
  const bytes = new Uint8Array(HEADER + selectors.reduce((sum, { mask }) => sum + HEADER + mask.length, 0));
  bytes[0] = selectors.length;
  let at = HEADER;
  for (const { type, flags, mask } of selectors) {
    bytes.set([type, flags, 0, 0, mask.length], at);
    bytes.set(mask, at + HEADER);
    at += HEADER + mask.length;
  }
  return bytes;
}

/**
 * The selectors in `data`, and the bytes they take, if there are at most `limit` and each is within one of `allowed`: of a known type and its length, with no flag
 * and no mask bit that is not there. Otherwise undefined.
 */
export function decodeSelectors(
  data: AdminData,
  limit: number,
  allowed: readonly Selector[],
): { readonly selectors: readonly Selector[]; readonly length: number } | undefined {
  const count = data.u8(0);
  if (count > limit) return undefined;
  const selectors: Selector[] = [];
  let at = HEADER;
  for (let i = 0; i < count; i++) {
    const type = data.u8(at);
    const flags = data.u8(at + 1);
    const length = data.u8(at + 4);
    const permitted = allowed.find((selector) => selector.type === type);
    if (permitted === undefined || length !== permitted.mask.length || (flags & ~permitted.flags) !== 0) return undefined;
    const mask = data.bytes(at + HEADER, length);
    if (mask.some((bits, byte) => (bits & ~(permitted.mask[byte] as number)) !== 0)) return undefined;
    selectors.push({ type, flags, mask });
    at += HEADER + length;
  }
  return { selectors, length: at };
}

/** A classifier: Ethernet, then perhaps one of IP, then perhaps TCP or UDP, each named wholly by the mask of the one before. */
export function isClassifier(selectors: readonly Selector[]): boolean {
  const [ethernet, network, transport] = selectors;
  if (ethernet?.type !== TYPE_ETH || selectors.length > 3) return false;
  if (network === undefined) return true;
  const protocol = PROTOCOL_AT.get(network.type);
  if (protocol === undefined || ethernet.mask[ETHERTYPE_AT] !== 0xff || ethernet.mask[ETHERTYPE_AT + 1] !== 0xff) return false;
  if (transport === undefined) return true;
  return (transport.type === TYPE_TCP || transport.type === TYPE_UDP) && network.mask[protocol] === 0xff;
}
