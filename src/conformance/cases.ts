// All cases.

import type { Case } from './case.ts';
import { BASIC_CASES } from './cases/basic.ts';
import { MSIX_CASES } from './cases/msix.ts';
import { PCI_CASES } from './cases/pci.ts';

export const CASES: readonly Case[] = [...BASIC_CASES, ...PCI_CASES, ...MSIX_CASES];
