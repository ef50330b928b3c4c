// The file system of a test guest: busybox, ethtool and other tools with their libraries and the drivers' modules, out of Debian's packages, as one initramfs.
// A test's script is a second archive behind it, so the first is made once and kept in the cache.

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { type ArchiveEntry, archive } from './cpio.ts';
import { cache, mustRun, Unavailable, unpacked } from './host.ts';

/** First process of the guest: file systems, modules, the test, off. User-mode Linux (it has an exit code file) takes a reboot as a wish to start again. */
const INIT = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/bin:/sbin LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu
# This shell prefers its own applets, also to a program that comes first in PATH.
for f in /usr/sbin/* /usr/bin/*; do [ ! -f $f ] || eval "$(basename $f)() { $f \\"\\$@\\"; }"; done
# A module and all it depends on.
load() { for m in $(cat /modules/$1.order); do [ -d /sys/module/\${m%.ko} ] || insmod /modules/$m || echo "GUEST-PROBLEM insmod $m"; done; }
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
for m in $(cat /modules/order); do insmod /modules/$m || echo "GUEST-PROBLEM insmod $m"; done
echo GUEST-READY
. /test.sh
echo GUEST-DONE
# To set a terminal waits until it has written everything; a reboot would not, and a serial line has kilobytes to go.
stty cs8
[ -e /proc/exitcode ] && poweroff -f
reboot -f
`;

/** Of this file's own doing: another number where it makes another image of the same things. */
const LAYOUT = 5;

const directory = (path: string): ArchiveEntry => ({ path, mode: 0o040755 });
const program = (path: string, content: Uint8Array): ArchiveEntry => ({ path, mode: 0o100755, content });

export interface ImageOptions {
  /** Modules that `load NAME` loads. */
  readonly carried?: readonly string[];
  /** Programs, each with the package it is in; `ethtool` is there in any case. */
  readonly tools?: Readonly<Record<string, string>>;
}

/** The initramfs, not packed (an emulated processor unpacks slowly), for a kernel whose modules lie under `modules` (a folder lib/modules/VERSION or the like), with those `wanted`, loaded at boot, and all they depend on. */
export async function guestImage(name: string, modules: string, wanted: readonly string[], { carried = [], tools = {} }: ImageOptions = {}): Promise<Buffer> {
  const busybox = find(await unpacked('busybox-static'), 'busybox', 'bin');
  const programs = { ethtool: 'ethtool', ...tools };
  // Whatever it is made of is in its name: checkouts that differ keep out of each other's way.
  const key = createHash('sha256')
    .update(JSON.stringify([INIT, wanted, carried, modules, busybox, programs, LAYOUT]))
    .digest('hex')
    .slice(0, 12);
  const file = join(cache, `initramfs-${name}-${key}.cpio`);
  if (existsSync(file)) return readFileSync(file);
  const entries: ArchiveEntry[] = [];
  const folders = new Set<string>();
  const put = (entry: ArchiveEntry): void => {
    for (let path = dirname(entry.path); path !== '.' && !folders.has(path); path = dirname(path)) {
      folders.add(path);
      entries.push(directory(path));
    }
    entries.push(entry);
  };
  for (const path of ['proc', 'sys', 'dev', 'tmp', 'bin', 'run']) {
    folders.add(path);
    entries.push(directory(path));
  }
  put(program('init', Buffer.from(INIT)));
  put(program('bin/busybox', readFileSync(busybox)));
  const libraries = new Map<string, string>();
  for (const [tool, package_] of Object.entries(programs)) {
    const file = find(await unpacked(package_), tool, 'bin');
    put(program(`usr/sbin/${tool}`, readFileSync(file)));
    await addLibraries(file, package_, libraries);
  }
  for (const [path, file] of libraries) put(program(path, readFileSync(file)));
  const files = new Map<string, Module>();
  const orders = [['order', wanted], ...carried.map((one) => [`${one}.order`, [one]] as const)] as const;
  for (const [file, names] of orders) {
    const order = await moduleOrder(modules, names);
    for (const module of order) files.set(module.name, module);
    put({ path: `modules/${file}`, mode: 0o100644, content: Buffer.from(order.map((module) => `${module.name}.ko\n`).join('')) });
  }
  for (const module of files.values()) put({ path: `modules/${module.name}.ko`, mode: 0o100644, content: module.content });
  // Parents first: the kernel makes no folder by itself.
  entries.sort((a, b) => Number(b.mode === 0o040755) - Number(a.mode === 0o040755) || (a.path < b.path ? -1 : 1));
  const image = archive(entries);
  mkdirSync(cache, { recursive: true });
  const work = `${file}.${process.pid}`;
  writeFileSync(work, image);
  renameSync(work, file);
  return image;
}

/**
 * The libraries of a program, by where they go in the image. The host's own where it has one (the packages are of the same Debian), else out of the packages that `package_` depends on.
 */
async function addLibraries(file: string, package_: string, into: Map<string, string>): Promise<void> {
  const folder = join(cache, 'libraries');
  mkdirSync(folder, { recursive: true });
  const missing: string[] = [];
  for (const [, name = '', path = ''] of (await mustRun('env', [`LD_LIBRARY_PATH=${folder}`, 'ldd', file])).matchAll(/^\s*(\S+) => (\/\S+|not found)/gm)) {
    if (path === 'not found') missing.push(name);
    else into.set(path.startsWith(folder) ? `usr/lib/x86_64-linux-gnu/${name}` : path.slice(1), path);
  }
  into.set('lib64/ld-linux-x86-64.so.2', '/lib64/ld-linux-x86-64.so.2');
  if (missing.length === 0) return;
  const depends = [...(await mustRun('apt-cache', ['depends', package_])).matchAll(/^\s*(?:Pre)?Depends: (lib\S+)/gm)].map(([, name]) => name as string);
  for (const name of missing) {
    const owner = await ownerOf(name, depends);
    const copy = join(folder, name);
    writeFileSync(copy, readFileSync(find(await unpacked(owner), name)));
    await addLibraries(copy, owner, into);
  }
  await addLibraries(file, package_, into);
}

async function ownerOf(library: string, packages: readonly string[]): Promise<string> {
  for (const name of packages)
    if (readdirSync(await unpacked(name), { recursive: true, encoding: 'utf8' }).some((path) => basename(path) === library)) return name;
  throw new Unavailable(`no package of ${packages.join(', ')} holds ${library}`);
}

/** A test's script as an archive to put behind the image. */
export function scriptArchive(script: string): Buffer {
  return archive([{ path: 'test.sh', mode: 0o100644, content: Buffer.from(script) }]);
}

/** The first file of that name below a folder, in a folder whose name ends so. */
export function find(folder: string, name: string, within = ''): string {
  const found = readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((path) => basename(path) === name && dirname(path).endsWith(within))
    .map((path) => join(folder, path))
    .find((path) => statSync(path).isFile());
  if (found === undefined) throw new Unavailable(`${folder} holds no ${name}`);
  return found;
}

interface Module {
  readonly name: string;
  readonly content: Uint8Array;
}

/** Modules with what they depend on before them, by what each says of itself (its .modinfo). Names that are no module are built in. */
async function moduleOrder(folder: string, wanted: readonly string[]): Promise<Module[]> {
  const files = new Map<string, string>();
  for (const path of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
    const match = /([^/]+)\.ko(?:\.xz)?$/.exec(path);
    if (match !== null) files.set((match[1] as string).replaceAll('-', '_'), join(folder, path));
  }
  const loaded = new Set<string>();
  const modules: Module[] = [];
  const add = async (name: string): Promise<void> => {
    const file = files.get(name);
    if (file === undefined || loaded.has(name)) return;
    loaded.add(name);
    const content = file.endsWith('.xz') ? await unxz(file) : readFileSync(file);
    const depends = /\0depends=([^\0]*)\0/.exec(content.toString('latin1'))?.[1] ?? '';
    for (const other of depends.split(',')) if (other !== '') await add(other.replaceAll('-', '_'));
    modules.push({ name, content });
  };
  for (const name of wanted) await add(name);
  return modules;
}

async function unxz(file: string): Promise<Buffer> {
  return Buffer.from(await mustRun('xz', ['-dc', '--single-stream', file], { seconds: 60 }), 'latin1');
}

/** The uncompressed kernel inside a vmlinuz: unpacking it in an emulated guest is slow. Debian packs it with xz. */
export async function uncompressedKernel(vmlinuz: string): Promise<string> {
  const file = join(cache, `vmlinux-${basename(vmlinuz)}`);
  if (existsSync(file)) return file;
  const packed = readFileSync(vmlinuz);
  const at = packed.indexOf(Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]));
  if (at < 0) return vmlinuz;
  const work = join(cache, `vmlinux.${process.pid}`);
  writeFileSync(`${work}.xz`, packed.subarray(at));
  const kernel = await unxz(`${work}.xz`);
  if (kernel.subarray(1, 4).toString() !== 'ELF') return vmlinuz;
  writeFileSync(work, kernel);
  renameSync(work, file);
  return file;
}
