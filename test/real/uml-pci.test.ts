// A real Linux's PCI core and drivers on our devices, through `nicbox serve uml-pci`: no virtual machine, about a second to boot.

import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { available, endChildren } from './host.ts';
import { PCI_DEVICES } from './pci-devices.ts';
import { runChecks, umlPciPath } from './pci-guest.ts';
import { type DeviceResult, writeReport } from './pci-report.ts';

const { client: path, missing } = await available(umlPciPath);

afterEach(endChildren);

const DEVICES = PCI_DEVICES.filter(({ pins }) => pins !== true);

describe.skipIf(missing !== undefined)(`PCI functions in user-mode Linux${missing === undefined ? '' : ` (skipped: ${missing})`}`, () => {
  const results: DeviceResult[] = [];

  afterAll(() => {
    if (results.length === DEVICES.length) writeReport('uml-pci', results);
  });

  it.each(DEVICES)('$name', { timeout: 450_000 }, async (device) => {
    if (path === undefined) return;
    const { checks, lspci } = await runChecks(path, device);
    results.push({ device: device.name, checks });
    console.log(checks.map(({ name, ok, seconds }) => `${ok ? 'ok' : 'FAILED'} ${seconds.toFixed(1)} s ${name}`).join('\n'));
    expect(checks.filter(({ ok }) => !ok)).toEqual([]);
    expect(checks.map(({ name }) => name)).toEqual(device.checks.map(({ name }) => name));
    await expect(lspci).toMatchFileSnapshot(`golden/uml-pci ${device.name}.txt`);
  });
});
