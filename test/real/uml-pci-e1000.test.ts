// Our e1000s under Linux's e1000, in user-mode Linux: pci-devices.ts says which, pci-suite.ts how.

import { testUmlPci } from './pci-suite.ts';

await testUmlPci('e1000');
