// The bits a driver accepted, against those it was offered (virtio 1.4 2.2, 5.1.3, 6).

import { DEPENDENCIES, FEATURE, FEATURE_NAMES, type FeatureBits, type FeatureName, LEGACY_BITS } from '../features.ts';
import type { Findings } from './findings.ts';

const DEFINED: ReadonlySet<number> = new Set([...FEATURE_NAMES.map((name) => FEATURE[name]), ...LEGACY_BITS]);

/** To be accepted whenever it is offered. */
const WANTED: readonly (readonly [clause: string, FeatureName])[] = [
  ['features.17', 'VERSION_1'],
  ['features.19', 'ACCESS_PLATFORM'],
  ['features.22', 'RING_PACKED'],
  ['features.23', 'ORDER_PLATFORM'],
  ['features.25', 'NOTIF_CONFIG_DATA'],
  ['net.12', 'MAC'],
  ['net.17', 'MTU'],
  ['net.20', 'STANDBY'],
  ['net-tx.47', 'GUEST_HDRLEN'],
];

export function judgeNegotiation(findings: Findings, offered: FeatureBits, accepted: FeatureBits): void {
  findings.check(
    'features.1',
    'bits accepted that were not offered',
    [...accepted].filter((bit) => !offered.has(bit)),
    [],
  );
  const unknown = [...accepted].filter((bit) => !DEFINED.has(bit));
  for (const clause of ['features.5', 'features.6', 'features.7', 'features.8'])
    findings.check(clause, 'bits accepted that a network device over PCI does not have', unknown, []);
  const strange = [...offered].filter((bit) => !DEFINED.has(bit));
  if (strange.length > 0)
    findings.check(
      'features.4',
      'bits offered without a meaning, of which these were accepted',
      strange.filter((bit) => accepted.has(bit)),
      [],
    );
  const lacking = (bits: FeatureBits): string[] =>
    DEPENDENCIES.filter(([name, groups]) => bits.has(FEATURE[name]) && groups.some((group) => !group.some((need) => bits.has(FEATURE[need])))).map(
      ([name]) => name,
    );
  findings.check('features.2', 'bits accepted without what they need', lacking(accepted), []);
  const odd = lacking(offered);
  if (odd.length > 0)
    findings.check(
      'features.3',
      'bits offered without what they need, of which these were accepted',
      odd.filter((name) => accepted.has(FEATURE[name as FeatureName])),
      [],
    );
  for (const [clause, name] of WANTED)
    if (offered.has(FEATURE[name])) findings.check(clause, `${name} accepted, as it was offered`, accepted.has(FEATURE[name]), true);
  for (const [clause, name] of [
    ['net-ctrl.2', 'CTRL_RX_EXTRA'],
    ['net-hash.2', 'HASH_REPORT'],
  ] as const)
    if (offered.has(FEATURE[name]))
      findings.check(clause, `${name} accepted without CTRL_VQ`, accepted.has(FEATURE[name]) && !accepted.has(FEATURE.CTRL_VQ), false);
}
