// All driver scenarios, and what is watched in every one of them.

import { ADMIN_SCENARIOS } from './admin-scenarios.ts';
import { CONTROL_SCENARIOS } from './control-scenarios.ts';
import { LEGACY_SCENARIOS } from './legacy-scenarios.ts';
import { NET_SCENARIOS } from './net-scenarios.ts';
import { RING_SCENARIOS } from './rings-scenarios.ts';
import type { DriverScenario } from './scenario.ts';
import { STARTUP_SCENARIOS } from './startup-scenarios.ts';

export const SCENARIOS: readonly DriverScenario[] = [
  ...STARTUP_SCENARIOS,
  ...RING_SCENARIOS,
  ...NET_SCENARIOS,
  ...CONTROL_SCENARIOS,
  ...ADMIN_SCENARIOS,
  ...LEGACY_SCENARIOS,
];

const from = (area: string, ...ordinals: (number | string)[]): string[] => ordinals.map((n) => `${area}.${n}`);

/** Clauses that the watch itself judges, in whatever a driver does. */
export const WATCHED: readonly string[] = [
  ...from('status', 1, 2, 3),
  ...from('init', 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16),
  ...from('features', 1, 2, 3, 4, 5, 6, 7, 8, 17, 19, 22, 23, 25),
  ...from('config', 1, 2, 3),
  ...from('reset', 3, 6, 9),
  ...from('suspend', 1, 2, 3, 4, 5, 6),
  ...from('vq', 5, 6),
  ...from('split', 1, 6, 7, 8, 9, 10, 11, 12, 15, 16, 18, 32, 34, 35, 37, 38),
  ...from('packed', 1, 9, 10, 11, 14, 15, 16, 17, 18, 21, 22, 24),
  ...from('notify', 1, 2, 3, 4, 5, 6, 'D1', 'D2'),
  ...from('pci', 13, 27, 48, 49, 50, 51, 52, 53, 54, 57, 75, 84, 85, 89, 90, 91, 'D8'),
  ...from('msix', 13, 14),
  ...from('net', 11, 12, 17, 18, 19, 20),
  ...from('net-tx', 4, 5, 6, 7, 10, 12, 14, 16, 17, 18, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29),
  ...from('net-tx', 31, 32, 33, 34, 35, 36, 37, 38, 40, 42, 43, 44, 45, 46, 47, 48, 49),
  ...from('net-rx', 1, 2, 3, 4, 5),
  ...from('net-ctrl', 2, 20, 21, 26, 28, 34, 36),
  ...from('net-mq', 9, 10, 11, 12),
  ...from('net-rss', 3, 4, 5, 6, 7, 14, 15, 16),
  ...from('net-hash', 2, 9, 10, 11, 13),
  ...from('net-coal', 1, 2, 3),
  ...from('net-stats', 11, 12, 13),
  ...from('admin', 26, 28, 29, 30, 31, 47, 48, 49),
  ...from('admin-legacy', 19, 20),
  ...from('caps', 11, 12, 13, 14, 15),
  ...from('objs', 13, 14, 15, 16, 17, 18, 19),
  ...from('net-ff', 27, 28, 29, 30, 31, 32, 34, 35, 36, 37, 38, 39, 40, 41),
  ...from('sriov', 2, 3, 9, 'D2'),
  ...from('parts', 31, 32, 34, 35),
  ...from('legacy', 8, 14, 16, 31, 32, 34, 36, 41, 44, 57, 60, 64, 66, 68, 69, 70, 71, 72, 73, 74, 75),
];

/** Judged once a driver does such a thing; ours never does. */
export const UNUSED: readonly string[] = from('pci', 84, 85, 89, 90, 91);

/** Why a driver's clause has no check, for those a driver could be tested for in principle. */
export const UNJUDGED: Readonly<Record<string, string>> = {
  'vq.4': 'nothing tells a driver what length of chain a device caps it at: there is nothing to bear with',
  'packed.13': 'no field says what length of list a network device allows, other than the queue size (packed.14)',
  'packed.20': 'nothing tells a driver what length of list a device caps it at: there is nothing to bear with',
  'packed.23': 'no field says what length of table a network device allows',
  'admin.53': 'this driver sends commands over one administration queue, one after the other: there is no order to keep between queues',
  'admin.44': 'this driver sends commands over one administration queue, one after the other',
  'net-ff.22': 'a driver that keeps to net-ff.32 has no rules whose order this leaves open',
  'parts.12': 'nothing this driver does with parts depends on it',
  'admin-legacy.21': 'this driver passes accesses to a member on, and drives no queue of one through its legacy interface: it never kicks',
  'parts.33': "a member's configuration is for its own driver, and the one that is watched is its owner's",
  ...Object.fromEntries(
    from('legacy', 1, 50, 51).map((key) => [key, 'this driver is told which interface to use: it is a legacy driver or a non-transitional one, never both']),
  ),
  'pci.24': 'a mapping leaves no trace on the bus',
  'pci.26': 'a permission: a driver that checks and one that does not are both right',
  'net-rx.8': 'this driver does not take OUT_NET_HEADER',
  'net-rx.25': 'this driver does not take OUT_NET_HEADER',
  'net-rx.49': 'this driver does not take OUT_NET_HEADER',
};

/** Clauses that some scenario checks or the watch judges. */
export const JUDGED: ReadonlySet<string> = new Set([...WATCHED, ...SCENARIOS.flatMap(({ clauses }) => clauses)]);
