// A real Linux's PCI core and drivers on our devices in QEMU, through `nicbox serve vfio-user`: the same checks as in user-mode Linux, but what QEMU does not show a guest.

import { available } from './host.ts';
import { vfioUserPath } from './pci-guest.ts';
import { testDevices } from './pci-suite.ts';

testDevices('vfio-user', 'PCI functions in QEMU over vfio-user', await available(() => vfioUserPath()));
