// Linux's own virtio_net under the eyes of the driver judge, in user-mode Linux on `nicbox serve uml-pci --watch`: what it keeps and what it breaks is what docs/driver-findings.md says, and the
// column of docs/conformance.md. With NICBOX_WRITE_DOCS=1 the verdicts are written anew.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { available, endChildren, PATIENCE, scratch } from './host.ts';
import { checkScript } from './pci-checks.ts';
import { PCI_DEVICES } from './pci-devices.ts';
import { umlPciPath } from './pci-guest.ts';
import { VhostUserServer } from './server.ts';
import { findDpdk } from './testpmd.ts';

const FILE = new URL('../conformance/driver-verdicts.json', import.meta.url);
/** Long ones show nothing more. */
const CHECKS = ['ping', 'TCP', 'ethtool -L', 'ethtool -K', 'MTU', 'unbound and bound', 'link'];

interface Watched {
  readonly driver: string;
  readonly held: readonly string[];
  readonly broken: Readonly<Record<string, { readonly broken: number; readonly looked: number }>>;
  readonly failures: readonly { readonly clause: string; readonly what: string; readonly expected: string; readonly seen: string }[];
}

/** Against what is written down, or writes it. */
function compare(name: string, judged: readonly Watched[]): void {
  const broken = new Set(judged.flatMap((watch) => Object.keys(watch.broken)));
  const held = new Set(judged.flatMap((watch) => watch.held));
  const seen = Object.fromEntries([...new Set([...held, ...broken])].sort().map((key) => [key, broken.has(key) ? 'fail' : 'pass']));
  console.log(
    judged.flatMap(({ driver, failures }) => failures.map((f) => `${driver} ${f.clause}: ${f.what}: expected ${f.expected}, saw ${f.seen}`)).join('\n'),
  );
  const known = JSON.parse(readFileSync(FILE, 'utf8'));
  if (process.env.NICBOX_WRITE_DOCS) writeFileSync(FILE, `${JSON.stringify({ ...known, [name]: seen }, null, 2)}\n`);
  else {
    const fails = (verdicts: Readonly<Record<string, string>>): string[] => Object.keys(verdicts).filter((key) => verdicts[key] === 'fail');
    expect(fails(seen)).toEqual(fails(known[name]));
    // What comes to be looked at depends a little on when.
    expect(Object.keys(seen).length).toBeGreaterThan(0.85 * Object.keys(known[name]).length);
  }
}

const judgedIn = (lines: readonly string[]): Watched[] => lines.filter((line) => line.startsWith('{"driver":')).map((line) => JSON.parse(line) as Watched);

const { client: path, missing } = await available(umlPciPath);
afterEach(endChildren);

describe.skipIf(missing !== undefined)(`Linux's virtio_net, judged${missing === undefined ? '' : ` (skipped: ${missing})`}`, () => {
  it.each([
    ['Linux 6.1', 'virtio-net, split rings, 4 queue pairs'],
    ['Linux 6.1, packed rings', 'virtio-net, packed rings, 2 queue pairs'],
  ])('has the verdicts that are written down, %s', { timeout: 2_000_000 }, async (column, name) => {
    const device = PCI_DEVICES.find((known) => known.name === name);
    if (path === undefined || device === undefined) throw new Error('there is no such device');
    const checks = device.checks.filter((check) => CHECKS.some((wanted) => check.name.startsWith(wanted)));
    const guest = path.boot(checkScript([path.slot(0), path.slot(1)], device.modules, checks, { divisor: 8, packets: 1 }), {
      devices: [`${device.device},mtu=1500`, `${device.peer},packed=off`],
      append: device.append ?? [],
      args: ['--watch', '--json'],
    });
    await guest.line(/^GUEST-DONE/, 3 * PATIENCE);
    await guest.until('its end', PATIENCE, () => guest.over || undefined);
    const judged = judgedIn(guest.lines);
    expect(guest.lines.filter((line) => line.startsWith('CHECK failed'))).toEqual([]);
    expect(judged.map(({ driver }) => driver)).toEqual(['slot 0', 'slot 1']);
    compare(column, judged);
  });
});

const { client: dpdk, missing: noDpdk } = await available(findDpdk);
const LAYOUTS = ['', ',mrg_rxbuf=0', ',in_order=1', ',in_order=1,mrg_rxbuf=0', ',packed_vq=1', ',packed_vq=1,mrg_rxbuf=0'] as const;

describe.skipIf(noDpdk !== undefined)(`DPDK's virtio-user, judged${noDpdk === undefined ? '' : ` (skipped: ${noDpdk})`}`, () => {
  it('has the verdicts that are written down', { timeout: 300_000 }, async () => {
    if (dpdk === undefined) return;
    const judged: Watched[] = [];
    for (const layout of LAYOUTS) {
      const folder = scratch();
      const [a, b] = ['a', 'b'].map((name) => join(folder, name)) as [string, string];
      const server = await VhostUserServer.start([a, b], ['--link', '--json', '--watch', '--mtu', '1500']);
      const vdev = (i: number, socket: string): string => `net_virtio_user${i},path=${socket},queues=1,queue_size=256,mac=02:00:00:00:00:0${i + 1}${layout}`;
      const receiver = await dpdk.start('receiver', { vdevs: [vdev(1, b)], mode: 'macswap', core: 0 });
      const sender = await dpdk.start('sender', { vdevs: [vdev(0, a)], mode: 'txonly' });
      await receiver.command('start');
      await sender.command('start');
      await receiver.rates(2);
      await sender.command('stop');
      await sender.quit();
      await receiver.quit();
      await server.stop();
      judged.push(...judgedIn(server.child.lines));
    }
    expect(judged).toHaveLength(2 * LAYOUTS.length);
    compare(`DPDK ${dpdk.version}`, judged);
  });
});
