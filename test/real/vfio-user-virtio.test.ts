// Our virtio-net under Linux's virtio_pci and virtio_net, in QEMU: pci-devices.ts says which, pci-suite.ts how.

import { testVfioUser } from './pci-suite.ts';

await testVfioUser('virtio');
