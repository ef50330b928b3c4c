// All cases.

import type { Case } from './case.ts';
import { BASIC_CASES } from './cases/basic.ts';
import { MSIX_CASES } from './cases/msix.ts';
import { PACKED_CASES } from './cases/packed.ts';
import { PCI_CASES } from './cases/pci.ts';
import { RING_CASES } from './cases/rings.ts';
import { SPLIT_CASES } from './cases/split.ts';

export const CASES: readonly Case[] = [...BASIC_CASES, ...RING_CASES, ...SPLIT_CASES, ...PACKED_CASES, ...PCI_CASES, ...MSIX_CASES];
