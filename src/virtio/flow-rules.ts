// Flow filter rules as the data plane reads them: a table in the policy words, in the order in which they are tried, each with what it is about, a mask and a key. A packet's
// headers and the masks are laid out alike, in 32-bit words: Ethernet at word 0, the IP header at 4, TCP or UDP at 14. One writer (the machine's thread), between turns.

export const FLOW_ETHERNET_WORD = 0;
export const FLOW_NETWORK_WORD = 4;
export const FLOW_TRANSPORT_WORD = 14;
/** Words of headers: 14 bytes of Ethernet, 40 of IPv6, 20 of TCP, each begun on a word. */
export const FLOW_HEADER_WORDS = 19;

/** What a rule does, in place of a queue pair. */
export const FLOW_DROP = -2;
/** No rule applies: steering decides. */
export const FLOW_NONE = -1;

/** Rules there is room for: what bounds the work for one packet. */
export const FLOW_RULES = 64;

// A rule's words.
export const FLOW_ACTION = 0;
/** 0: any; 4, 6: the IP version it is about. */
export const FLOW_NETWORK = 1;
/** 0: any; else the IP protocol number it is about. */
export const FLOW_TRANSPORT = 2;
/** First and last words that its mask has bits in; first above last: it has none. */
export const FLOW_FIRST = 3;
export const FLOW_LAST = 4;
export const FLOW_MASK = 5;
export const FLOW_KEY = FLOW_MASK + FLOW_HEADER_WORDS;
export const FLOW_RULE_WORDS = FLOW_KEY + FLOW_HEADER_WORDS;

/** The count, then the rules. */
export const FLOW_TABLE_WORDS = 1 + FLOW_RULES * FLOW_RULE_WORDS;

export interface FlowRule {
  /** Queue pair, or FLOW_DROP. */
  readonly action: number;
  readonly network: 0 | 4 | 6;
  readonly transport: number;
  /** FLOW_HEADER_WORDS words of bytes. */
  readonly mask: Uint8Array;
  readonly key: Uint8Array;
}

/** Writes `rules`, tried in this order, into a table of FLOW_TABLE_WORDS. */
export function writeFlowRules(table: Int32Array, rules: readonly FlowRule[]): void {
  table[0] = Math.min(rules.length, FLOW_RULES);
  for (let i = 0; i < (table[0] as number); i++) {
    const { action, network, transport, mask, key } = rules[i] as FlowRule;
    const at = 1 + i * FLOW_RULE_WORDS;
    const masks = new DataView(mask.buffer, mask.byteOffset, mask.byteLength);
    const keys = new DataView(key.buffer, key.byteOffset, key.byteLength);
    table[at + FLOW_ACTION] = action;
    table[at + FLOW_NETWORK] = network;
    table[at + FLOW_TRANSPORT] = transport;
    let first = FLOW_HEADER_WORDS;
    let last = -1;
    for (let word = 0; word < FLOW_HEADER_WORDS; word++) {
      const bits = masks.getInt32(4 * word, true);
      table[at + FLOW_MASK + word] = bits;
      table[at + FLOW_KEY + word] = keys.getInt32(4 * word, true) & bits;
      if (bits === 0) continue;
      first = Math.min(first, word);
      last = word;
    }
    table[at + FLOW_FIRST] = first;
    table[at + FLOW_LAST] = last;
  }
}
