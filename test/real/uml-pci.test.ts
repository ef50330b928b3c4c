// A real Linux's PCI core and drivers on our devices, through `nicbox serve uml-pci`: no virtual machine, about a second to boot.

import { expect } from 'vitest';
import { available } from './host.ts';
import { umlPciPath } from './pci-guest.ts';
import { testDevices } from './pci-suite.ts';

testDevices('uml-pci', 'PCI functions in user-mode Linux', await available(umlPciPath), async (device, { lspci }) => {
  await expect(lspci).toMatchFileSnapshot(`golden/uml-pci ${device}.txt`);
});
