// Our e1000s under Linux's e1000, in QEMU: pci-devices.ts says which, pci-suite.ts how.

import { testVfioUser } from './pci-suite.ts';

await testVfioUser('e1000');
