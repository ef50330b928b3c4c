// A user-mode Linux of our own: Debian's has no PCI. Built once from Debian's linux-source with real NIC drivers as modules and PCI over virtio, and kept in the cache under
// the configuration and the version it is made of. The drivers are as they come; faults of user-mode Linux's own PCI bus are mended, and it runs on hosts with AMX.

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, join } from 'node:path';
import { find } from './guest-image.ts';
import { Child, cache, exclusively, installed, mustRun, onPath, progress, run, Unavailable } from './host.ts';

/** Drivers that tests load and unload. */
const MODULES = 'VIRTIO_PCI VIRTIO_NET E1000 E1000E IGB IGBVF PCI_PF_STUB NET_PKTGEN'.split(' ');
const BUILT_IN = [
  'MODULES MODULE_UNLOAD BLK_DEV_INITRD RD_GZIP DEVTMPFS TMPFS NAMESPACES NET_NS HIGH_RES_TIMERS PM SUSPEND PM_DEBUG PM_SLEEP_DEBUG UML_TIME_TRAVEL_SUPPORT DYNAMIC_DEBUG',
  'VIRTIO_MENU VIRTIO VIRTIO_UML UML_PCI_OVER_VIRTIO PCI PCI_IOV PCI_MSI VIRTIO_PCI_LEGACY NETDEVICES ETHERNET NET_CORE NET_VENDOR_INTEL PTP_1588_CLOCK NETWORK_PHY_TIMESTAMPING',
  'PACKET UNIX INET IPV6 VLAN_8021Q BRIDGE VETH DUMMY TUN MACVLAN MACVTAP VXLAN NET_IPIP NET_IPGRE_DEMUX NET_IPGRE',
  'NET_SCHED NET_SCH_MQPRIO NET_SCH_ETF NET_SCH_CBS NET_SCH_FQ NET_SCH_INGRESS NET_CLS NET_CLS_ACT NET_CLS_FLOWER NET_CLS_MATCHALL NET_ACT_GACT NET_ACT_MIRRED',
].flatMap((line) => line.split(' '));
/** Whatever takes long to build and is not looked at. */
const LEFT_OUT = [
  'DEBUG_INFO DEBUG_KERNEL SOUND WIRELESS WLAN USB_SUPPORT BTRFS_FS REISERFS_FS XFS_FS UML_NET UML_SOUND SCSI ATA MD HID INPUT VGA_CONSOLE FB DRM MEDIA_SUPPORT HWMON IGB_HWMON',
  'BLOCK EXT4_FS JBD2 QUOTA AUTOFS_FS AUTOFS4_FS ISO9660_FS FUSE_FS CGROUPS BPF_SYSCALL AUDIT SECURITY PROFILING BSD_PROCESS_ACCT TASKSTATS IKCONFIG KALLSYMS_ALL NETFILTER',
  'NETWORK_FILESYSTEMS MISC_FILESYSTEMS DNOTIFY PHYLIB THERMAL RFKILL HW_RANDOM UML_WATCHDOG SSL',
  // Stacks in lazily mapped memory: an interrupt while such memory is unmapped copies what lies at the stack's beginning, faults there, and faults for ever, as the mapping under way counts as done.
  'VMAP_STACK',
].flatMap((line) => line.split(' '));
/** A piece of the kernel's text, replaced wherever it stands in its file. */
type Mending = readonly [from: string, to: string];
/**
 * Four faults of user-mode Linux's PCI bus (6.1), none of any driver.
 *
 * 1. A function's interrupt pin gets a number with nothing behind it: request_irq says ENOSYS to every driver without MSI, though messages for pins arrive and are handed to that number.
 * 2. Messages to the device, and the one buffer they are made in, are not guarded against interrupts: a handler that reads or writes a register while another access is under way
 *    uses the same buffer and breaks the virtqueue. There is one processor, so interrupts are held off meanwhile.
 * 3. An answer is given up on after 40000 looks, which a busy host needs now and then.
 * 4. A message that finds the queue full of writes nobody waits for (256 of them; drivers clear tables of more) is dropped: a write gets lost, a read says all ones, which igb takes for a
 *    card that was pulled out. It waits for room.
 */
const BUS: readonly Mending[] = [
  ['dev->irq = irq_alloc_desc(numa_node_id());', '$&\n\tif (dev->irq >= 0) irq_set_chip_and_handler(dev->irq, &dummy_irq_chip, handle_simple_irq);'],
  ['get_cpu_var(um_pci_msg_bufs)', 'nicbox_hold()'],
  ['put_cpu_var(um_pci_msg_bufs)', 'nicbox_release()'],
  [
    'static struct um_pci_message_buffer __percpu *um_pci_msg_bufs;',
    `$&
static unsigned long nicbox_flags;
static unsigned int nicbox_holders;

static void *nicbox_hold(void)
{
	unsigned long flags;

	local_irq_save(flags);
	if (nicbox_holders++ == 0)
		nicbox_flags = flags;
	return (void *)um_pci_msg_bufs;
}

static void nicbox_release(void)
{
	if (--nicbox_holders == 0)
		local_irq_restore(nicbox_flags);
}`,
  ],
  [
    'static int um_pci_send_cmd(',
    `static void nicbox_room(struct virtqueue *vq)
{
	unsigned int looks = 0, len;

	while (vq->num_free < 3 && !virtqueue_is_broken(vq) && ++looks < UM_VIRT_PCI_MAXDELAY) {
		void *completed = virtqueue_get_buf(vq, &len);

		if (completed && !HANDLE_IS_NO_FREE(completed))
			kfree(completed);
		else
			udelay(1);
	}
}

$&`,
  ],
  ['ret = virtqueue_add_sgs(dev->cmd_vq, sgs_list,', 'nicbox_room(dev->cmd_vq);\n\t$&'],
  ['#define UM_VIRT_PCI_MAXDELAY 40000', '#define UM_VIRT_PCI_MAXDELAY 4000000'],
];
/**
 * The host takes the state of a process's vector registers back only whole (PTRACE_SETREGSET), which with AMX's tiles is 11,008 bytes; 6.1 keeps 2,696, and on such a host cannot start its first
 * program ("ptrace set fp regs failed"). One of the copies is on the kernel's stack, which is made larger (KERNEL_STACK_ORDER).
 */
const REGISTERS: readonly Mending[] = [['DEFINE_LONGS(HOST_FP_SIZE, 2696);', 'DEFINE_LONGS(HOST_FP_SIZE, 12288);']];
const MENDED: Readonly<Record<string, readonly Mending[]>> = { 'arch/um/drivers/virt-pci.c': BUS, 'arch/x86/um/user-offsets.c': REGISTERS };
/** The virtio device id under which user-mode Linux takes a vhost-user socket for a PCI function: one that nothing else has. */
export const PCI_OVER_VIRTIO = 1234;
const NUMBERS: readonly (readonly [string, number])[] = [
  ['UML_PCI_OVER_VIRTIO_DEVICE_ID', PCI_OVER_VIRTIO],
  ['KERNEL_STACK_ORDER', 3],
];

export interface UmlKernel {
  readonly kernel: string;
  /** Folder of *.ko files. */
  readonly modules: string;
  readonly version: string;
}

/** @throws Unavailable */
export async function umlKernel(): Promise<UmlKernel> {
  const key = createHash('sha256')
    .update(JSON.stringify([MODULES, BUILT_IN, LEFT_OUT, NUMBERS, MENDED]))
    .digest('hex')
    .slice(0, 12);
  if (built(key) === undefined) await build(key);
  const folder = built(key) as string;
  return { kernel: join(folder, 'linux'), modules: join(folder, 'modules'), version: basename(folder).slice('uml-'.length) };
}

/** Of whichever version: one that was built before does, also when Debian has a newer one meanwhile. */
function built(key: string): string | undefined {
  const name = existsSync(cache) ? readdirSync(cache).find((entry) => entry.startsWith(`uml-${key}-`)) : undefined;
  return name && join(cache, name);
}

/** In a folder that stays when it is interrupted: the next attempt goes on from there. */
async function build(key: string): Promise<void> {
  for (const program of ['gcc', 'make', 'xz', 'flex', 'bison', 'bc'])
    if (onPath(program) === undefined) await installed(program, ['gcc', 'libc6-dev', 'make', 'xz-utils', 'flex', 'bison', 'bc']);
  const work = join(cache, `.uml-${key}`);
  await exclusively(join(work, 'lock'), async () => {
    // Whoever was at it before has finished it.
    if (built(key) !== undefined) return;
    const source = /Depends: (linux-source-\S+)/.exec((await run('apt-cache', ['depends', 'linux-source'])).output)?.[1] ?? 'linux-source-6.1';
    const tree = join(work, source);
    if (!existsSync(join(work, 'configured'))) {
      rmSync(tree, { recursive: true, force: true });
      progress(`fetching Debian's ${source} (140 MB)`);
      const package_ = await download(source, work);
      progress(`unpacking ${basename(package_)}`);
      const unpack = `dpkg-deb --fsys-tarfile "$1" | tar -xO ./usr/src/${source}.tar.xz | xz -dc | tar -x -C "$2"`;
      await mustRun('nice', ['-n', '10', 'sh', '-c', unpack, 'sh', package_, work], { seconds: 600 });
      mend(tree);
      await configure(tree);
      writeFileSync(join(work, 'configured'), basename(package_).split('_')[1] as string);
    }
    const version = readFileSync(join(work, 'configured'), 'utf8');
    await make(tree, version);
    const result = join(work, 'result');
    rmSync(result, { recursive: true, force: true });
    mkdirSync(join(result, 'modules'), { recursive: true });
    await mustRun('strip', ['-o', join(result, 'linux'), join(tree, 'linux')]);
    for (const path of readdirSync(tree, { recursive: true, encoding: 'utf8' }))
      if (path.endsWith('.ko')) await mustRun('strip', ['--strip-debug', '-o', join(result, 'modules', basename(path)), join(tree, path)]);
    renameSync(result, join(cache, `uml-${key}-${version}`));
  });
  rmSync(work, { recursive: true, force: true });
}

function mend(tree: string): void {
  for (const [file, mendings] of Object.entries(MENDED)) {
    const path = join(tree, file);
    let text = readFileSync(path, 'utf8');
    for (const [from, to] of mendings) {
      if (!text.includes(from)) throw new Unavailable(`${file} of this kernel does not say '${from}': what is mended there has to be looked at`);
      text = text.replaceAll(from, to);
    }
    writeFileSync(path, text);
  }
}

async function configure(tree: string): Promise<void> {
  const config = (args: readonly string[]): Promise<string> => mustRun('scripts/config', args, { cwd: tree });
  await mustRun('make', ['-s', 'ARCH=um', 'defconfig'], { cwd: tree, seconds: 120 });
  await mustRun('sed', ['-i', '-e', 's/=m$/=n/', '-e', 's/^\\(CONFIG_NET_VENDOR_.*\\)=y/\\1=n/', '.config'], { cwd: tree });
  await config(LEFT_OUT.flatMap((name) => ['-d', name]));
  await config(BUILT_IN.flatMap((name) => ['-e', name]));
  await config(MODULES.flatMap((name) => ['-m', name]));
  for (const [name, value] of NUMBERS) await config(['--set-val', name, String(value)]);
  // Vendors whose cards nobody here has: only what was not asked about is new, and the answer is no.
  await mustRun(
    'sh',
    [
      '-c',
      'make -s ARCH=um olddefconfig && sed -i "/^CONFIG_NET_VENDOR_INTEL=/!s/^\\(CONFIG_NET_VENDOR_[A-Z0-9_]*\\)=y/\\1=n/" .config && make -s ARCH=um olddefconfig',
    ],
    { cwd: tree, seconds: 120 },
  );
  const missing: string[] = [];
  for (const name of [...BUILT_IN, ...MODULES]) if (!/^[ym]\s*$/.test((await run('scripts/config', ['-s', name], { cwd: tree })).output)) missing.push(name);
  if (missing.length > 0) progress(`this kernel has no ${missing.join(', ')}`);
}

/** A few minutes: says how far it is. */
async function make(tree: string, version: string): Promise<void> {
  const started = Date.now();
  const child = new Child('make', 'nice', ['-n', '10', 'make', '-C', tree, `-j${availableParallelism()}`, 'ARCH=um', 'linux', 'modules']);
  const seconds = (): number => Math.round((Date.now() - started) / 1000);
  const ticker = setInterval(() => {
    const objects = child.lines.filter((line) => /^ {2}(CC|AR|LD)/.test(line)).length;
    progress(`building user-mode Linux ${version} (once; about 4 minutes on 2 cores): ${objects} objects, ${seconds()} s`);
  }, 15_000);
  try {
    if ((await child.ended) !== 0) throw new Unavailable(`user-mode Linux ${version} does not build here:\n${child.tail}`);
  } finally {
    clearInterval(ticker);
  }
  progress(`user-mode Linux ${version} built in ${seconds()} s`);
}

/** A Debian package file in `folder`. */
async function download(name: string, folder: string): Promise<string> {
  const found = (): string | undefined => readdirSync(folder).find((file) => file.endsWith('.deb'));
  await run('apt-get', ['download', '-q', name], { cwd: folder, seconds: 600 });
  if (found() === undefined && process.getuid?.() === 0) {
    await run('apt-get', ['update', '-q'], { seconds: 120 });
    await mustRun('apt-get', ['download', '-q', name], { cwd: folder, seconds: 600 });
  }
  return join(folder, found() ?? find(folder, `${name}.deb`));
}
