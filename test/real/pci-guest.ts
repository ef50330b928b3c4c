// A real Linux with PCI functions of ours, and what became of its checks. How the functions get there - user-mode Linux's PCI over virtio, vfio-user - is a path; tests are the same for all.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { guestImage, scriptArchive } from './guest-image.ts';
import { Child, project, scratch } from './host.ts';
import { checkScript } from './pci-checks.ts';
import type { PciDevice } from './pci-devices.ts';
import { umlKernel } from './uml-kernel.ts';

export interface PciPath {
  readonly name: string;
  /** Where the guest finds the function under test, and its peer. */
  readonly slots: readonly string[];
  /** Starts a server of ours and a guest that runs `script`; both are one child, whose lines are the guest's console and what the server says. */
  boot(script: string, options: { readonly devices: readonly string[]; readonly append?: readonly string[]; readonly args?: readonly string[] }): Child;
}

export interface CheckResult {
  readonly name: string;
  readonly ok: boolean;
  readonly seconds: number;
}

export interface GuestReport {
  readonly checks: readonly CheckResult[];
  /** `lspci -vvv` of the function under test. */
  readonly lspci: string;
}

/** Tools every guest of these tests has. */
export const TOOLS = { ip: 'iproute2', lspci: 'pciutils', setpci: 'pciutils' };
const CARRIED = ['virtio_pci', 'virtio_net', 'e1000', 'e1000e', 'igb', 'igbvf', 'pci-pf-stub', 'pktgen'].map((name) => name.replaceAll('-', '_'));

/** @throws Unavailable */
export async function umlPciPath(): Promise<PciPath> {
  const { kernel, modules, version } = await umlKernel();
  const image = await guestImage(`uml-pci-${version}`, modules, [], { carried: CARRIED, tools: TOOLS });
  return {
    name: 'user-mode Linux (uml-pci)',
    slots: ['0000:00:00.0', '0000:00:01.0'],
    boot(script, { devices, append = [], args = [] }) {
      const initrd = join(scratch(), 'initrd');
      writeFileSync(initrd, Buffer.concat([image, scriptArchive(script)]));
      return new Child('nicbox serve uml-pci', process.execPath, [
        join(project, 'dist/cli/main.js'),
        'serve',
        'uml-pci',
        ...devices.flatMap((device) => ['--device', device]),
        ...['--guest', kernel, '--initrd', initrd, '--append', 'quiet', ...append],
        ...args,
      ]);
    },
  };
}

/** Boots a guest with the device and runs all of its checks; returns when it is over. @throws when it does not come to its end in time */
export async function runChecks(path: PciPath, { device, peer, modules, append = [], checks }: PciDevice): Promise<GuestReport> {
  const guest = path.boot(checkScript(path.slots, modules, checks), { devices: [device, peer], append });
  await guest.line(/^GUEST-DONE/, 150);
  const { lines } = guest;
  const from = lines.indexOf('LSPCI-BEGIN');
  const report = {
    checks: lines.flatMap((line) => {
      const [, state, begin, end, name = ''] = /^CHECK (ok|failed) (\S+) (\S+) (.*)$/.exec(line) ?? [];
      return state === undefined ? [] : [{ name: state === 'ok' ? name : line, ok: state === 'ok', seconds: Number(end) - Number(begin) }];
    }),
    lspci: `${lines
      .slice(from + 1, lines.indexOf('LSPCI-END'))
      .join('\n')
      .trim()}\n`,
  };
  const problems = lines.filter((line) => /GUEST-PROBLEM|WARNING:|BUG:|Oops|Call Trace|internal error/.test(line));
  if (problems.length > 0) throw new Error(`the guest complains:\n${lines.join('\n')}`);
  await guest.until('its end', 20, () => guest.over || undefined);
  return report;
}
