// A real Linux's PCI core and drivers on our devices in QEMU, through `nicbox serve vfio-user`: the same checks as in user-mode Linux, but what QEMU does not show a guest.

import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { available, endChildren } from './host.ts';
import { PCI_DEVICES } from './pci-devices.ts';
import { runChecks, vfioUserPath } from './pci-guest.ts';
import { type DeviceResult, writeReport } from './pci-report.ts';

const { client: path, missing } = await available(() => vfioUserPath());

afterEach(endChildren);

/** What takes an emulated CPU minutes. User-mode Linux does it for virtio-net; for the e1000, which cannot have its INTx there, nobody does yet. */
const ELSEWHERE = ['a million packets', 'VLAN, tags by the device and by software', 'frames of 9000 bytes', 'ethtool -G', 'ethtool -C'];
const feasible = ({ name }: { readonly name: string }): boolean => !ELSEWHERE.includes(name);

/** QEMU shows no virtual functions. */
const DEVICES = PCI_DEVICES.filter(({ device }) => !device.includes('vfs='));

describe.skipIf(missing !== undefined)(`PCI functions in QEMU over vfio-user${missing === undefined ? '' : ` (skipped: ${missing})`}`, () => {
  const results: DeviceResult[] = [];

  afterAll(() => {
    if (results.length === DEVICES.length) writeReport('vfio-user', results);
  });

  it.each(DEVICES)('$name', { timeout: 420_000 }, async (device) => {
    if (path === undefined) return;
    const { checks } = await runChecks(path, { ...device, checks: device.checks.filter(feasible) });
    results.push({ device: device.name, checks });
    console.log(checks.map(({ name, ok, seconds }) => `${ok ? 'ok' : 'FAILED'} ${seconds.toFixed(1)} s ${name}`).join('\n'));
    expect(checks.filter(({ ok }) => !ok)).toEqual([]);
    expect(checks.map(({ name }) => name)).toEqual(device.checks.filter(feasible).map(({ name }) => name));
  });
});
