// The file system of a test guest: busybox, ethtool with its libraries and the network driver's modules, out of Debian's packages, as one initramfs.
// A test's script is a second archive behind it, so the first is made once and kept in the cache.

import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { type ArchiveEntry, archive } from './cpio.ts';
import { cache, mustRun, Unavailable, unpacked } from './host.ts';

/** First process of the guest: file systems, modules, the test, off. User-mode Linux (it has an exit code file) takes a reboot as a wish to start again. */
const INIT = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/sbin LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
for m in $(cat /modules/order); do insmod /modules/$m || echo "GUEST-PROBLEM insmod $m"; done
echo GUEST-READY
. /test.sh
echo GUEST-DONE
sync
[ -e /proc/exitcode ] && poweroff -f
reboot -f
`;

const directory = (path: string): ArchiveEntry => ({ path, mode: 0o040755 });
const program = (path: string, content: Uint8Array): ArchiveEntry => ({ path, mode: 0o100755, content });

/** The initramfs for a kernel whose modules lie under `modules` (a folder lib/modules/VERSION or the like), with those `wanted` and all they depend on. */
export async function guestImage(name: string, modules: string, wanted: readonly string[]): Promise<Buffer> {
  const file = join(cache, `initramfs-${name}.cpio.gz`);
  const busybox = find(await unpacked('busybox-static'), 'busybox', 'bin');
  const tool = await unpacked('ethtool');
  const ethtool = find(tool, 'ethtool', 'sbin');
  const mnl = find(await unpacked('libmnl0'), 'libmnl.so.0');
  const key = JSON.stringify([INIT, wanted, modules, busybox, ethtool, 2]);
  if (existsSync(file) && existsSync(`${file}.key`) && readFileSync(`${file}.key`, 'utf8') === key) return readFileSync(file);
  const entries: ArchiveEntry[] = [];
  const folders = new Set<string>();
  const put = (entry: ArchiveEntry): void => {
    for (let path = dirname(entry.path); path !== '.' && !folders.has(path); path = dirname(path)) {
      folders.add(path);
      entries.push(directory(path));
    }
    entries.push(entry);
  };
  for (const path of ['proc', 'sys', 'dev', 'tmp', 'bin']) {
    folders.add(path);
    entries.push(directory(path));
  }
  put(program('init', Buffer.from(INIT)));
  put(program('bin/busybox', readFileSync(busybox)));
  put(program('usr/sbin/ethtool', readFileSync(ethtool)));
  put(program('usr/lib/x86_64-linux-gnu/libmnl.so.0', readFileSync(mnl)));
  // The C library is the host's: the packages are of the same Debian.
  for (const [, path] of (await mustRun('ldd', [ethtool])).matchAll(/(?:=> |^\s*)(\/\S+)/gm))
    if (path !== undefined && !path.includes('libmnl')) put(program(path.slice(1), readFileSync(path)));
  const order: string[] = [];
  for (const module of await moduleOrder(modules, wanted)) {
    put({ path: `modules/${module.name}.ko`, mode: 0o100644, content: module.content });
    order.push(`${module.name}.ko\n`);
  }
  put({ path: 'modules/order', mode: 0o100644, content: Buffer.from(order.join('')) });
  // Parents first: the kernel makes no folder by itself.
  entries.sort((a, b) => Number(b.mode === 0o040755) - Number(a.mode === 0o040755) || (a.path < b.path ? -1 : 1));
  const image = gzipSync(archive(entries), { level: 6 });
  mkdirSync(cache, { recursive: true });
  const work = `${file}.${process.pid}`;
  writeFileSync(work, image);
  renameSync(work, file);
  writeFileSync(`${file}.key`, key);
  return image;
}

/** A test's script as an archive to put behind the image. */
export function scriptArchive(script: string): Buffer {
  return gzipSync(archive([{ path: 'test.sh', mode: 0o100644, content: Buffer.from(script) }]));
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
