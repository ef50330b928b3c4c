// QEMU with Debian's kernel under TCG (no KVM is assumed): Debian's own QEMU, and a newer one out of trixie-backports in a folder of the cache, run on the
// host's files by its own loader.

import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { find, guestImage, type ImageOptions, scriptArchive, uncompressedKernel } from './guest-image.ts';
import { Child, cache, exclusively, installed, mustRun, onPath, progress, run, scratch, Unavailable, unpacked } from './host.ts';

export interface Qemu {
  readonly version: string;
  /** The program itself: its file, arguments to put in front, and environment. */
  readonly program: Program;
  /** Boots a guest that runs `script`; `args` bring its devices. */
  boot(name: string, script: string, args: readonly string[], cpus?: number): Child;
  /** The same as a command: what to run, with which environment. */
  command(
    script: string,
    args: readonly string[],
    cpus?: number,
  ): { readonly file: string; readonly args: readonly string[]; readonly env: Readonly<Record<string, string>> };
  /** Runs no guest: devices alone, spoken to over the qtest protocol on its standard input and output. */
  qtest(name: string, args: readonly string[]): Child;
}

/** What the guest has besides the usual: modules it may load in place of those loaded at boot, programs. */
export interface GuestImage extends ImageOptions {
  readonly name: string;
}

interface Program {
  readonly file: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

const MEMORY = '256M';
/** All that QEMU has, but for fast string instructions: Linux would copy with them, and emulated they go byte by byte. */
const CPU = 'max,erms=off,fsrm=off';

/** What a vhost-user netdev of `pairs` queue pairs needs: shared memory, a socket QEMU connects to, the device. */
export function vhostUserArgs(socket: string, pairs: number, mac: string, options: { readonly packed?: boolean; readonly reconnect?: boolean } = {}): string[] {
  const reconnect = options.reconnect === true ? ',reconnect-ms=200' : '';
  const device = `virtio-net-pci,netdev=n0,mac=${mac},mq=${pairs > 1 ? 'on' : 'off'},vectors=${2 * pairs + 2},packed=${options.packed === true ? 'on' : 'off'},romfile=`;
  return [
    ...['-object', `memory-backend-memfd,id=m0,share=on,size=${MEMORY}`, '-numa', 'node,memdev=m0'],
    ...['-chardev', `socket,id=c0,path=${socket}${reconnect}`, '-netdev', `vhost-user,chardev=c0,id=n0,queues=${pairs}`, '-device', device],
  ];
}

/** Debian's QEMU. */
export async function findDebianQemu(): Promise<Qemu> {
  return qemu({ file: await installed('qemu-system-x86_64', ['qemu-system-x86']), args: [], env: {} });
}

/** A QEMU of 11 or later: the host's if it is that new, else from trixie-backports (25 s or more, 200 MB, needs root for debootstrap). */
export async function findNewQemu(image?: GuestImage): Promise<Qemu> {
  const host = onPath('qemu-system-x86_64');
  if (host !== undefined) {
    const own = await qemu({ file: host, args: [], env: {} }, image);
    if (major(own.version) >= 11) return own;
  }
  const root = join(cache, 'qemu-newer');
  if (!existsSync(join(root, 'usr/bin/qemu-system-x86_64'))) await exclusively(`${root}.lock`, () => bootstrap(root));
  const libraries = join(root, 'usr/lib/x86_64-linux-gnu');
  const own = join(root, 'usr/bin/qemu-system-x86_64');
  const data = ['usr/share/qemu', 'usr/share/seabios', 'usr/lib/ipxe/qemu'].flatMap((folder) => ['-L', join(root, folder)]);
  return qemu(
    {
      file: join(root, 'lib64/ld-linux-x86-64.so.2'),
      args: ['--library-path', libraries, own, ...data],
      env: { QEMU_MODULE_DIR: join(libraries, 'qemu') },
    },
    image,
  );
}

async function bootstrap(root: string): Promise<void> {
  if (existsSync(root)) return;
  if (process.getuid?.() !== 0) throw new Unavailable('no QEMU of 11 or later, and fetching one (debootstrap) needs root');
  const sources = ['/etc/apt/sources.list.d/debian.sources', '/etc/apt/sources.list']
    .filter((file) => existsSync(file))
    .map((file) => readFileSync(file, 'utf8'));
  const mirror = /^URIs: *(\S+)/m.exec(sources.join('\n'))?.[1] ?? /^deb (?:\[[^\]]*\] )?(\S+)/m.exec(sources.join('\n'))?.[1];
  if (mirror === undefined) throw new Unavailable('no Debian mirror is configured in /etc/apt');
  const debootstrap = await installed('debootstrap', ['debootstrap']);
  progress("fetching a newer QEMU from Debian's backports (about a minute, 200 MB)");
  const work = `${root}.work-${process.pid}`;
  mkdirSync(work, { recursive: true });
  try {
    await mustRun(debootstrap, ['--variant=minbase', 'trixie', work, mirror], { seconds: 300 });
    writeFileSync(join(work, 'etc/apt/sources.list.d/backports.list'), `deb ${mirror} trixie-backports main\n`);
    // A mirror that is a snapshot may be past its own expiry date.
    await mustRun('chroot', [work, 'apt-get', '-q', '-o', 'Acquire::Check-Valid-Until=false', 'update'], { seconds: 120 });
    await mustRun('chroot', [work, 'apt-get', 'install', '-q', '-y', '--no-install-recommends', '-t', 'trixie-backports', 'qemu-system-x86'], { seconds: 300 });
    await run('chroot', [work, 'apt-get', 'clean']);
    renameSync(work, root);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function major(version: string): number {
  return Number.parseInt(version, 10);
}

async function qemu(program: Program, guest?: GuestImage): Promise<Qemu> {
  const { output } = await run('env', [...Object.entries(program.env).map(([name, value]) => `${name}=${value}`), program.file, ...program.args, '--version']);
  const version = /version (\d+\.\d+\.\d+)/.exec(output)?.[1];
  if (version === undefined) throw new Unavailable(`${program.file} does not say its version: ${output.slice(0, 200)}`);
  const { kernel, image } = await linux(guest);
  const command: Qemu['command'] = (script, args, cpus = 1) => {
    const initrd = join(scratch(), 'initrd');
    writeFileSync(initrd, Buffer.concat([image, scriptArchive(script)]));
    return {
      file: program.file,
      args: [
        ...program.args,
        ...['-machine', 'q35', '-accel', 'tcg', '-cpu', CPU, '-m', MEMORY, '-smp', String(cpus), '-nodefaults', '-no-user-config', '-display', 'none'],
        ...['-serial', 'stdio', '-no-reboot', '-kernel', kernel, '-initrd', initrd],
        ...['-append', 'console=ttyS0 quiet panic=-1 reboot=t tsc=reliable mitigations=off nokaslr net.ifnames=0 cryptomgr.notests rodata=off'],
        ...args,
      ],
      env: program.env,
    };
  };
  return {
    version,
    program,
    command,
    qtest(name, args) {
      const quiet = ['-nodefaults', '-no-user-config', '-display', 'none', '-qtest', 'stdio', '-qtest-log', 'none'];
      return new Child(name, program.file, [...program.args, '-machine', 'pc', '-accel', 'qtest', '-m', '64M', ...quiet, ...args], program.env);
    },
    boot(name, script, args, cpus) {
      const { file, args: all, env } = command(script, args, cpus);
      return new Child(name, file, all, env);
    },
  };
}

/** The package of the kernel that an earlier run fetched: it does, also when Debian has a newer one meanwhile. */
function fetchedKernel(): string | undefined {
  const packages = join(cache, 'packages');
  return existsSync(packages) ? readdirSync(packages).find((name) => name.startsWith('linux-image-')) : undefined;
}

/** Debian's kernel and a guest around it. */
async function linux(guest?: GuestImage): Promise<{ kernel: string; image: Buffer }> {
  const name = fetchedKernel() ?? /Depends: (linux-image-\S+)/.exec(await mustRun('apt-cache', ['depends', 'linux-image-amd64']))?.[1];
  if (name === undefined) throw new Unavailable('apt knows no linux-image-amd64');
  const files = await unpacked(name);
  const version = name.slice('linux-image-'.length);
  const kernel = await uncompressedKernel(find(files, `vmlinuz-${version}`));
  const modules = join(files, 'lib/modules', version);
  const image = guest
    ? await guestImage(`${basename(name)}-${guest.name}`, modules, [], guest)
    : await guestImage(basename(name), modules, ['virtio_pci', 'virtio_net', 'e1000']);
  return { kernel, image };
}
