// A real Linux with PCI functions of ours, and what became of its checks. How the functions get there - user-mode Linux's PCI over virtio, vfio-user - is a path; tests are the same for all.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { guestImage, scriptArchive } from './guest-image.ts';
import { Child, PATIENCE, project, scratch } from './host.ts';
import { checkScript, type Workload } from './pci-checks.ts';
import type { PciDevice } from './pci-devices.ts';
import { findNewQemu } from './qemu.ts';
import { PCI_OVER_VIRTIO, umlKernel } from './uml-kernel.ts';

export interface PciPath {
  readonly name: string;
  readonly workload: Workload;
  /** Where the guest finds the function in a slot. */
  slot(number: number): string;
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

/** Takes back the long looks that a kernel as it comes is told to have (they make all of its delays long): ours has patience of its own. */
const OWN_LOOPS = 'lpj=0';

/** User-mode Linux, whose kernel can also be started by itself. */
export interface UmlPciPath extends PciPath {
  /** Starts a guest by hand on sockets that somebody serves. @param append words of its command line */
  guest(script: string, sockets: readonly string[], append?: readonly string[]): Child;
}

/** Tools every guest of these tests has. */
const TOOLS = { ip: 'iproute2', lspci: 'pciutils', setpci: 'pciutils', phc_ctl: 'linuxptp', ptp4l: 'linuxptp', pmc: 'linuxptp', hwstamp_ctl: 'linuxptp' };
const CARRIED = ['virtio_pci', 'virtio_net', 'e1000', 'e1000e', 'igb', 'igbvf', 'pci-pf-stub', 'pktgen', '8021q'].map((name) => name.replaceAll('-', '_'));

/** @throws Unavailable */
export async function umlPciPath(): Promise<UmlPciPath> {
  const { kernel, modules, version } = await umlKernel();
  const image = await guestImage(`uml-pci-${version}`, modules, [], { carried: CARRIED, tools: TOOLS });
  const initrd = (script: string): string => {
    const file = join(scratch(), 'initrd');
    writeFileSync(file, Buffer.concat([image, scriptArchive(script)]));
    return file;
  };
  return {
    name: 'user-mode Linux (uml-pci)',
    workload: { divisor: 1, packets: 1_000_000 },
    slot: (number) => `0000:00:0${number}.0`,
    boot(script, { devices, append = [], args = [] }) {
      return new Child('nicbox serve uml-pci', process.execPath, [
        join(project, 'dist/cli/main.js'),
        'serve',
        'uml-pci',
        ...devices.flatMap((device) => ['--device', device]),
        ...['--guest', kernel, '--initrd', initrd(script), '--append', 'quiet', OWN_LOOPS, ...append],
        ...args,
      ]);
    },
    guest(script, sockets, append = []) {
      const devices = sockets.map((socket, i) => `virtio_uml.device=${socket}:${PCI_OVER_VIRTIO}:${i}`);
      const args = ['mem=256M', `initrd=${initrd(script)}`, 'rdinit=/init', 'con=null', 'con0=null,fd:1', 'quiet', ...append, ...devices];
      return new Child('user-mode Linux', kernel, args, { TMPDIR: '/dev/shm' });
    },
  };
}

/** QEMU, which can also be started by itself. */
export interface VfioUserPath extends UmlPciPath {
  readonly version: string;
}

/** `nicbox serve vfio-user`, each function on a socket, and a QEMU that has them on its root bus. @throws Unavailable */
export async function vfioUserPath(options: { readonly postedWrites?: boolean; readonly sharedMemory?: boolean } = {}): Promise<VfioUserPath> {
  const { postedWrites = true, sharedMemory = true } = options;
  const qemu = await findNewQemu({ name: 'pci', carried: CARRIED, tools: TOOLS });
  const command = (script: string, sockets: readonly string[], append: readonly string[] = []): ReturnType<typeof qemu.command> => {
    const functions = sockets.flatMap((path, i) => [
      '-device',
      JSON.stringify({ driver: 'vfio-user-pci', socket: { type: 'unix', path }, addr: String(8 + i), ...(!postedWrites && { 'x-no-posted-writes': true }) }),
    ]);
    const memory = sharedMemory ? ['-object', 'memory-backend-memfd,id=m0,share=on,size=256M', '-numa', 'node,memdev=m0'] : [];
    const made = qemu.command(script, [...memory, ...functions], 1);
    return { ...made, args: made.args.map((word) => (word.startsWith('console=') ? [word, ...append].join(' ') : word)) };
  };
  return {
    version: qemu.version,
    name: `QEMU ${qemu.version} (vfio-user)`,
    workload: { divisor: 4, packets: 20_000 },
    slot: (number) => `0000:00:${(8 + number).toString(16).padStart(2, '0')}.0`,
    boot(script, { devices, append, args = [] }) {
      const folder = scratch();
      const sockets = devices.map((_, i) => join(folder, `s${i}`));
      const guest = command(script, sockets, append);
      const server = sockets.flatMap((socket, i) => ['--socket', socket, '--device', devices[i] as string]);
      // One process to wait for: the server, then the guest, then the server's end.
      const both = `"$@" & server=$!
until ${sockets.map((socket) => `[ -S ${socket} ]`).join(' && ')} || ! kill -0 $server; do sleep 0.1; done
${[guest.file, ...guest.args].map((word) => `'${word}'`).join(' ')}
kill $server; wait $server; echo SERVER-ENDED $?`;
      const nicbox = [process.execPath, join(project, 'dist/cli/main.js'), 'serve', 'vfio-user', ...server, ...args];
      return new Child(`nicbox serve vfio-user and QEMU`, 'sh', ['-c', both, 'sh', ...nicbox], guest.env);
    },
    guest(script, sockets, append) {
      const guest = command(script, sockets, append);
      return new Child('QEMU', guest.file, guest.args, guest.env);
    },
  };
}

/** Boots a guest with the device and runs all of its checks; returns when it is over. @throws when it does not come to its end in time */
export async function runChecks(path: PciPath, { device, peer, peerSlot = 1, modules, append = [], args = [], checks }: PciDevice): Promise<GuestReport> {
  const guest = path.boot(checkScript([path.slot(0), path.slot(peerSlot)], modules, checks, path.workload), { devices: [device, peer], append, args });
  await guest.line(/^GUEST-DONE/, 12 * PATIENCE);
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
  await guest.until('its end', PATIENCE, () => guest.over || undefined);
  return report;
}
