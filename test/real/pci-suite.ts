// Devices and all of their checks by one path. Groups of devices have a test file each, so that they run side by side; at the end their columns of the path's table in docs/real-guests.md are
// written anew.

import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { available, endChildren } from './host.ts';
import type { PathKind } from './pci-checks.ts';
import { PCI_DEVICES, type PciGroup, shown } from './pci-devices.ts';
import { type GuestReport, type PciPath, runChecks, umlPciPath, vfioUserPath } from './pci-guest.ts';
import { type DeviceResult, writeReport } from './pci-report.ts';

/** In user-mode Linux, through `nicbox serve uml-pci`: no virtual machine, about a second to boot. */
export async function testUmlPci(group: PciGroup): Promise<void> {
  testDevices('uml-pci', group, 'PCI functions in user-mode Linux', await available(umlPciPath), async (device, { lspci }) => {
    await expect(lspci).toMatchFileSnapshot(`golden/uml-pci ${device}.txt`);
  });
}

/** In QEMU, through `nicbox serve vfio-user`: the same checks, but what QEMU does not show a guest. */
export async function testVfioUser(group: PciGroup): Promise<void> {
  testDevices('vfio-user', group, 'PCI functions in QEMU over vfio-user', await available(() => vfioUserPath()));
}

/** @param also what else is expected of a device's run */
function testDevices(
  kind: PathKind,
  group: PciGroup,
  title: string,
  { client: path, missing }: { readonly client?: PciPath | undefined; readonly missing?: string | undefined },
  also: (device: string, report: GuestReport) => Promise<void> = async () => {},
): void {
  const devices = shown(PCI_DEVICES, kind).filter((device) => device.group === group);
  const results: DeviceResult[] = [];
  afterEach(endChildren);

  describe.skipIf(missing !== undefined)(`${title}${missing === undefined ? '' : ` (skipped: ${missing})`}`, () => {
    afterAll(async () => {
      if (results.length === devices.length) await writeReport(kind, results);
    });

    it.each(devices)('$name', { timeout: 4_000_000 }, async (device) => {
      if (path === undefined) return;
      const asked = shown(device.checks, kind);
      const report = await runChecks(path, { ...device, checks: asked });
      const { checks } = report;
      results.push({ device: device.name, checks });
      console.log(checks.map(({ name, ok, seconds }) => `${ok ? 'ok' : 'FAILED'} ${seconds.toFixed(1)} s ${name}`).join('\n'));
      expect(checks.filter(({ ok }) => !ok)).toEqual([]);
      expect(checks.map(({ name }) => name)).toEqual(asked.map(({ name }) => name));
      await also(device.name, report);
    });
  });
}
