// All cases.

import type { Case } from './case.ts';
import { ADMIN_CASES } from './cases/admin.ts';
import { ADMIN_LEGACY_CASES } from './cases/admin-legacy.ts';
import { BASIC_CASES } from './cases/basic.ts';
import { COALESCING_CASES } from './cases/coalescing.ts';
import { FLOW_FILTER_CASES } from './cases/flow-filter.ts';
import { HASH_CASES } from './cases/hash.ts';
import { LEGACY_CASES } from './cases/legacy.ts';
import { MSIX_CASES } from './cases/msix.ts';
import { NET_CASES } from './cases/net.ts';
import { NET_CTRL_CASES } from './cases/net-ctrl.ts';
import { NET_RX_CASES } from './cases/net-rx.ts';
import { NET_TX_CASES } from './cases/net-tx.ts';
import { OBJECT_CASES } from './cases/objects.ts';
import { PACKED_CASES } from './cases/packed.ts';
import { PARTS_CASES } from './cases/parts.ts';
import { PCI_CASES } from './cases/pci.ts';
import { RING_CASES } from './cases/rings.ts';
import { SPLIT_CASES } from './cases/split.ts';
import { SRIOV_CASES } from './cases/sriov.ts';
import { STEERING_CASES } from './cases/steering.ts';
import { SUSPEND_CASES } from './cases/suspend.ts';

export const CASES: readonly Case[] = [
  ...BASIC_CASES,
  ...RING_CASES,
  ...SPLIT_CASES,
  ...PACKED_CASES,
  ...PCI_CASES,
  ...MSIX_CASES,
  ...NET_CASES,
  ...NET_TX_CASES,
  ...NET_RX_CASES,
  ...NET_CTRL_CASES,
  ...STEERING_CASES,
  ...HASH_CASES,
  ...COALESCING_CASES,
  ...SUSPEND_CASES,
  ...ADMIN_CASES,
  ...OBJECT_CASES,
  ...FLOW_FILTER_CASES,
  ...LEGACY_CASES,
  ...SRIOV_CASES,
  ...ADMIN_LEGACY_CASES,
  ...PARTS_CASES,
];
