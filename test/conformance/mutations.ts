// All seeded faults.

import type { Mutation } from './mutant.ts';
import { PCI_MUTATIONS } from './mutations/pci.ts';

export const MUTATIONS: readonly Mutation[] = [...PCI_MUTATIONS];
