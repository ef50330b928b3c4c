// TCP between two Linux guests in QEMU (TCG: the guests' processors are emulated, and set most of the pace), through nicbox over vhost-user and through QEMU's own way for two
// QEMUs, a stream netdev over a UNIX socket. One after the other in one run; the ratio is the point.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type Child, cache, endChildren, scratch } from '../test/real/host.ts';
import { findNewQemu, type Qemu, vhostUserArgs } from '../test/real/qemu.ts';
import { VhostUserServer } from '../test/real/server.ts';
import { answeringScript, askingScript } from '../test/real/traffic.ts';
import { printTable } from './measure.ts';

/** Each guest keeps two such files in its memory. */
const KIBIBYTES = 4096;
const MACS = ['02:00:00:00:00:01', '02:00:00:00:00:02'] as const;

const device = (mac: string): string[] => ['-device', `virtio-net-pci,netdev=n0,mac=${mac},romfile=`];

/** Megabytes a second down and up, with offloads on and off. */
function rates(asking: Child): number[] {
  return asking.lines.flatMap((line) => {
    const match = /^(?:DOWN|UP) \S+ \S+ (\S+) (\S+)/.exec(line);
    return match === null ? [] : [KIBIBYTES / 1024 / Math.max(0.01, Number(match[2]) - Number(match[1]))];
  });
}

async function measure(qemu: Qemu, ours: boolean): Promise<number[]> {
  const folder = scratch();
  try {
    const [a, b] = ['a', 'b'].map((name) => join(folder, name)) as [string, string];
    const stream = (server: string): string[] => ['-netdev', `stream,id=n0,server=${server},addr.type=unix,addr.path=${a}`];
    if (ours) await VhostUserServer.start([a, b], ['--link']);
    const args = ours
      ? [vhostUserArgs(a, 1, MACS[0]), vhostUserArgs(b, 1, MACS[1])]
      : [
          [...stream('on'), ...device(MACS[0])],
          [...stream('off'), ...device(MACS[1])],
        ];
    const answering = qemu.boot('answering', answeringScript(KIBIBYTES), args[0] as string[]);
    await answering.line(/^ANSWERING/, 120);
    const asking = qemu.boot('asking', askingScript({ kibibytes: KIBIBYTES, pings: 100 }), args[1] as string[]);
    await asking.line(/^GUEST-DONE/, 200);
    return rates(asking);
  } finally {
    await endChildren();
  }
}

// A benchmark fetches nothing.
if (!existsSync(join(cache, 'qemu-newer'))) console.log('not measured: no QEMU of 11 or later in the cache (npm run test:real fetches it)');
else {
  const qemu = await findNewQemu();
  const theirs = await measure(qemu, false);
  const ours = await measure(qemu, true);
  const names = ['down', 'up', 'down, offloads off', 'up, offloads off'];
  printTable(
    [`TCP between two guests, QEMU ${qemu.version}`, 'QEMU stream netdev MB/s', 'nicbox vhost-user MB/s', 'ratio'],
    names.map((name, i) => [name, (theirs[i] ?? 0).toFixed(1), (ours[i] ?? 0).toFixed(1), ((ours[i] ?? 0) / (theirs[i] ?? 0)).toFixed(2)]),
  );
}
process.exit(0);
