// Our 82576's queues, counters and clock under Linux's igb, in QEMU: pci-devices.ts says which, pci-suite.ts how.

import { testVfioUser } from './pci-suite.ts';

await testVfioUser('igb-queues');
