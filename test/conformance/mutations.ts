// All seeded faults.

import type { Mutation } from './mutant.ts';
import { PCI_MUTATIONS } from './mutations/pci.ts';
import { RING_MUTATIONS } from './mutations/rings.ts';

export const MUTATIONS: readonly Mutation[] = [...PCI_MUTATIONS, ...RING_MUTATIONS];
