// Our virtio-net under Linux's virtio_pci and virtio_net, in user-mode Linux: pci-devices.ts says which, pci-suite.ts how.

import { testUmlPci } from './pci-suite.ts';

await testUmlPci('virtio');
