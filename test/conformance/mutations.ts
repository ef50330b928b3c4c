// All seeded faults.

import type { Mutation } from './mutant.ts';
import { ABSENT_MUTATIONS } from './mutations/absent.ts';
import { ADMIN_MUTATIONS } from './mutations/admin.ts';
import { FLOW_FILTER_MUTATIONS } from './mutations/flow-filter.ts';
import { LEGACY_MUTATIONS } from './mutations/legacy.ts';
import { NET_MUTATIONS } from './mutations/net.ts';
import { PCI_MUTATIONS } from './mutations/pci.ts';
import { RING_MUTATIONS } from './mutations/rings.ts';
import { SRIOV_MUTATIONS } from './mutations/sriov.ts';
import { SUSPEND_MUTATIONS } from './mutations/suspend.ts';

export const MUTATIONS: readonly Mutation[] = [
  ...PCI_MUTATIONS,
  ...RING_MUTATIONS,
  ...NET_MUTATIONS,
  ...SUSPEND_MUTATIONS,
  ...ADMIN_MUTATIONS,
  ...FLOW_FILTER_MUTATIONS,
  ...LEGACY_MUTATIONS,
  ...ABSENT_MUTATIONS,
  ...SRIOV_MUTATIONS,
];
