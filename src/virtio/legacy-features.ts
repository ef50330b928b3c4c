// What a legacy driver negotiates (virtio 1.4 2.2.3): it cannot be refused, so of what it acknowledged as much is taken as goes together.

import type { VirtioDevice } from './device.ts';
import { FeatureSet } from './features.ts';

export function acceptableLegacy(acknowledged: number, offered: FeatureSet, device: VirtioDevice): FeatureSet {
  const asked = new FeatureSet([acknowledged]).and(offered).bits();
  let features = new FeatureSet();
  for (let before = -1; before !== features.bits().length; ) {
    before = features.bits().length;
    for (const bit of asked) if (device.refuses(features.or(FeatureSet.of(bit)), true) === undefined) features = features.or(FeatureSet.of(bit));
  }
  return features;
}
