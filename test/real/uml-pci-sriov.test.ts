// Virtual functions of our virtio-net and 82576 under Linux's drivers, in user-mode Linux: pci-devices.ts says which, pci-suite.ts how.

import { testUmlPci } from './pci-suite.ts';

await testUmlPci('sriov');
