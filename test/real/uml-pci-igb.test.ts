// Our 82576 under Linux's igb, in user-mode Linux: pci-devices.ts says which, pci-suite.ts how.

import { testUmlPci } from './pci-suite.ts';

await testUmlPci('igb');
