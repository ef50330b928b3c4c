// How the device configuration is read (virtio 1.4 2.5.1): a field that takes several accesses between two equal generations, and again when they differ.

import { FEATURE, type FeatureBits, type FeatureName } from '../features.ts';
import { CFG_TYPE, NET_CONFIG } from '../layout.ts';
import type { Findings } from './findings.ts';
import type { Place } from './pci-places.ts';

const MAC_END = 6;
/** Fields of the device configuration that come with a feature; any of them is enough. */
const OPTIONAL: readonly (readonly [field: keyof typeof NET_CONFIG, features: readonly FeatureName[]])[] = [
  ['mac', ['MAC']],
  ['status', ['STATUS']],
  ['max_virtqueue_pairs', ['MQ', 'RSS']],
  ['mtu', ['MTU']],
  ['speed', ['SPEED_DUPLEX']],
  ['duplex', ['SPEED_DUPLEX']],
  ['rss_max_key_size', ['RSS', 'HASH_REPORT']],
  ['rss_max_indirection_table_length', ['RSS']],
  ['supported_hash_types', ['RSS', 'HASH_REPORT']],
  ['supported_tunnel_types', ['HASH_TUNNEL']],
];

/** 2.5.1: a field is read only where its feature was offered. */
export function judgeOptional(findings: Findings, offset: number, offered: FeatureBits): void {
  const [name, features] = OPTIONAL.find(([found]) => offset >= NET_CONFIG[found][0] && offset < NET_CONFIG[found][0] + NET_CONFIG[found][1]) ?? [];
  const comes = features?.some((need) => offered.has(FEATURE[need]));
  if (features) findings.check('config.3', `a feature offered that brings ${name}, which is read`, comes, true);
}

export class ConfigReads {
  readonly #findings: Findings;
  /** The generation that was read right before the fields were. */
  #before: number | undefined;
  #macReads = 0;
  #reads = 0;
  #again = false;

  constructor(findings: Findings) {
    this.#findings = findings;
  }

  /** Any access to the device's structures. */
  access({ type, field, offset }: Place, value: number): void {
    if (type === CFG_TYPE.DEVICE) {
      if (this.#again) this.#reread(true);
      this.#reads++;
      if (offset < MAC_END) this.#macReads++;
      return;
    }
    const generation = field === 'config_generation';
    // The MAC address is the one field wider than a register.
    if (this.#macReads > 1)
      this.#findings.check('config.2', 'a MAC address read between two reads of config_generation', this.#before !== undefined && generation, true);
    if (generation && this.#reads > 0 && this.#before !== undefined && value !== this.#before) this.#again = true;
    else if (!generation && this.#again) this.#reread(false);
    this.#before = generation ? value : undefined;
    this.#macReads = 0;
    this.#reads = 0;
  }

  #reread(done: boolean): void {
    this.#again = false;
    for (const clause of ['config.1', 'config.2'] as const)
      this.#findings.check(clause, 'configuration read again after its generation had changed meanwhile', done, true);
  }
}
