// Every device, every check, by one path: what both test files are made of. At the end the path's table in docs/real-guests.md is written anew.

import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { endChildren } from './host.ts';
import type { PathKind } from './pci-checks.ts';
import { PCI_DEVICES, shown } from './pci-devices.ts';
import { type GuestReport, type PciPath, runChecks } from './pci-guest.ts';
import { type DeviceResult, writeReport } from './pci-report.ts';

/** @param also what else is expected of a device's run */
export function testDevices(
  kind: PathKind,
  title: string,
  { client: path, missing }: { readonly client?: PciPath | undefined; readonly missing?: string | undefined },
  also: (device: string, report: GuestReport) => Promise<void> = async () => {},
): void {
  const devices = shown(PCI_DEVICES, kind);
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
