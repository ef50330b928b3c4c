// The PCI devices that real Linux is given are run by files of test/real, one for each group and way into a guest: a group without its file would run nowhere, and nothing would say so.

import { existsSync, readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { PCI_DEVICES, shown } from './real/pci-devices.ts';

it.each(['uml-pci', 'vfio-user'] as const)('every device that %s shows is in a file that runs it', (kind) => {
  const groups = [...new Set(shown(PCI_DEVICES, kind).map(({ group }) => group))];
  expect(groups.length).toBeGreaterThan(2);
  for (const group of groups) {
    const file = new URL(`real/${kind}-${group}.test.ts`, import.meta.url);
    expect([group, existsSync(file) && readFileSync(file, 'utf8').includes(`('${group}')`)]).toEqual([group, true]);
  }
});
