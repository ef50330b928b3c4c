// Linux's own virtio_net under the eyes of the driver judge, in user-mode Linux on `nicbox serve uml-pci --watch`: what it keeps and what it breaks is what docs/driver-findings.md says, and the
// column of docs/conformance.md. With NICBOX_WRITE_DOCS=1 the verdicts are written anew.

import { readFileSync, writeFileSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { available, endChildren } from './host.ts';
import { checkScript } from './pci-checks.ts';
import { PCI_DEVICES } from './pci-devices.ts';
import { umlPciPath } from './pci-guest.ts';

const FILE = new URL('../conformance/driver-verdicts.json', import.meta.url);
const NAME = 'Linux 6.1';
/** Long ones show nothing more. */
const CHECKS = ['ping', 'TCP', 'ethtool -L', 'ethtool -K', 'MTU', 'unbound and bound', 'link'];

interface Watched {
  readonly slot: number;
  readonly held: readonly string[];
  readonly broken: Readonly<Record<string, { readonly broken: number; readonly looked: number }>>;
  readonly failures: readonly { readonly clause: string; readonly what: string; readonly expected: string; readonly seen: string }[];
}

const { client: path, missing } = await available(umlPciPath);
afterEach(endChildren);

describe.skipIf(missing !== undefined)(`Linux's virtio_net, judged${missing === undefined ? '' : ` (skipped: ${missing})`}`, () => {
  it('has the verdicts that are written down', { timeout: 600_000 }, async () => {
    const device = PCI_DEVICES.find(({ name }) => name === 'virtio-net, split rings, 4 queue pairs');
    if (path === undefined || device === undefined) throw new Error('there is no such device');
    const checks = device.checks.filter(({ name }) => CHECKS.some((wanted) => name.startsWith(wanted)));
    const guest = path.boot(checkScript([path.slot(0), path.slot(1)], device.modules, checks, 8), {
      devices: [`${device.device},mtu=1500`, `${device.peer},packed=off`],
      append: device.append ?? [],
      args: ['--watch', '--json'],
    });
    await guest.line(/^GUEST-DONE/, 400);
    await guest.until('its end', 20, () => guest.over || undefined);
    const judged = guest.lines.filter((line) => line.startsWith('{"slot":') && line.includes('"held"')).map((line) => JSON.parse(line) as Watched);
    expect(guest.lines.filter((line) => line.startsWith('CHECK failed'))).toEqual([]);
    expect(judged.map(({ slot }) => slot)).toEqual([0, 1]);
    const broken = new Set(judged.flatMap((watch) => Object.keys(watch.broken)));
    const held = new Set(judged.flatMap((watch) => watch.held));
    const seen = Object.fromEntries([...new Set([...held, ...broken])].sort().map((key) => [key, broken.has(key) ? 'fail' : 'pass']));
    console.log(judged.flatMap(({ slot, failures }) => failures.map((f) => `${slot} ${f.clause}: ${f.what}: expected ${f.expected}, saw ${f.seen}`)).join('\n'));
    const known = JSON.parse(readFileSync(FILE, 'utf8'));
    if (process.env.NICBOX_WRITE_DOCS) writeFileSync(FILE, `${JSON.stringify({ ...known, [NAME]: seen }, null, 2)}\n`);
    else expect(seen).toEqual(known[NAME]);
  });
});
