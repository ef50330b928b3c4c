// A live migration between two QEMUs (11 or later), both on our switch, while the guest pings and loads files from another guest: what we write into its memory meanwhile is in the
// dirty log or is lost to it. Rings move by GET_VRING_BASE, the device's state through a pipe.

import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { available, endChildren, PATIENCE, scratch } from './host.ts';
import { findNewQemu, vhostUserArgs } from './qemu.ts';
import { Qmp } from './qmp.ts';
import { VhostUserServer } from './server.ts';
import { answeringScript, askingScript } from './traffic.ts';

const { client: qemu, missing } = await available(findNewQemu);

afterEach(endChildren);

const MACS = ['02:00:00:00:00:01', '02:00:00:00:00:02'] as const;
const KIBIBYTES = 8192;

describe.skipIf(missing !== undefined)(`QEMU ${qemu?.version ?? `(skipped: ${missing})`} live migration`, () => {
  it.each([false, true])('a guest goes on at another place while it loads files (packed %s)', async (packed) => {
    if (qemu === undefined) return;
    const folder = scratch();
    const [a, b, c] = ['a', 'b', 'c'].map((name) => join(folder, name)) as [string, string, string];
    const server = await VhostUserServer.start([a, b, c], ['--verbose']);
    // Between two files nobody listens for a moment.
    const rounds = `
load_file() { tries=0; until nc -w 60 10.0.0.1 5002 <&3 > /tmp/round; do tries=$((tries + 1)); [ $tries -lt 50 ] || break; sleep 0.1; done; sha1sum < /tmp/round | cut -c 1-40; }
for i in $(seq 1 5000); do
  ping=$(ping -c 1 -W 1 -q 10.0.0.1 2>/dev/null | grep -c '1 packets received')
  echo ROUND $i $ping $(load_file)
done`;
    const monitor = (name: string): string[] => ['-qmp', `unix:${join(folder, name)},server=on,wait=off`];
    const answering = qemu.boot('answering', answeringScript(KIBIBYTES), vhostUserArgs(a, 1, MACS[0], { packed }));
    const script = askingScript({ kibibytes: 64, pings: 10, offloadsOff: false, after: rounds });
    const source = qemu.boot('source', script, [...vhostUserArgs(b, 1, MACS[1], { packed }), ...monitor('source')]);
    const [, served] = await answering.line(/^SERVED (\S+)/, PATIENCE);
    await source.line(/^ROUND 2 /, PATIENCE);
    const target = qemu.boot('target', script, [
      ...vhostUserArgs(c, 1, MACS[1], { packed }),
      ...monitor('target'),
      '-incoming',
      `unix:${join(folder, 'move')}`,
    ]);
    const context = (): string => `server:\n${server.child.tail}\nsource:\n${source.tail}\ntarget:\n${target.tail}`;
    const targetMonitor = await Qmp.connect(join(folder, 'target'));
    const monitored = await Qmp.connect(join(folder, 'source'));
    // Slow enough that pages are sent, written by us and sent again.
    await monitored.ask('migrate-set-parameters', { 'max-bandwidth': 24 << 20, 'downtime-limit': 1000 });
    const from = server.child.lines.length;
    const { ram } = (await monitored.migrate(`unix:${join(folder, 'move')}`, PATIENCE).catch((error: unknown) => expect.fail(`${error}\n${context()}`))) as {
      ram: Record<string, number>;
    };
    console.log(`migration, ${packed ? 'packed' : 'split'}: ${ram['dirty-sync-count']} passes, ${Math.round((ram.transferred ?? 0) / 2 ** 20)} MiB`);
    await target.line(/^ROUND \d+ 1/, PATIENCE).catch((error: unknown) => expect.fail(`${error}\n${context()}`));
    await target.line(/^ROUND \d+ 1/, PATIENCE, target.lines.length).catch((error: unknown) => expect.fail(`${error}\n${context()}`));
    for (const child of [monitored, targetMonitor]) child.close();
    // Every file came whole, before, during and after; the first line of the target may have begun at the source.
    const sums = [...source.lines, ...target.lines].flatMap((line) => /ROUND \d+ [01] (\S{40})/.exec(line)?.slice(1) ?? []);
    expect(sums.length, context()).toBeGreaterThan(3);
    expect(new Set(sums), context()).toEqual(new Set([served]));
    const requests = server.child.lines.slice(from);
    for (const request of ['SET_LOG_BASE', 'SET_DEVICE_STATE_FD', 'CHECK_DEVICE_STATE'])
      expect(
        requests.some((line) => line.includes(request)),
        `${request}\n${context()}`,
      ).toBe(true);
  });
});
