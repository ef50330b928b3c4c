// `nicbox serve vhost-user`: nicbox as the network back end of somebody else's guests, until Ctrl-C. Events go to stderr as they happen, counters to stdout: a table
// redrawn every second on a terminal, a line of JSON for each socket with --json, and one table at the end otherwise.

import { closeSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import Table from 'cli-table3';
import { Command, InvalidArgumentError } from 'commander';
import { Log } from '#core/log';
import { serveVhostUser, type VhostUserSocketStatistics } from '#interop/vhost-user-server';
import { type DriverWatch, watchRings } from './driver-watch.ts';
import { openCapture, print } from './output.ts';
import { umlPciCommand } from './serve-uml-pci.ts';
import { vfioUserCommand } from './serve-vfio-user.ts';

const INTERVAL_MS = 1000;

const EXAMPLES = `
Two QEMU guests on one switch (QEMU connects to us; the guest's RAM has to be shared memory):
  nicbox serve vhost-user --socket /tmp/a.sock --socket /tmp/b.sock
  qemu-system-x86_64 ... -object memory-backend-memfd,id=m0,share=on,size=512M -numa node,memdev=m0 -m 512M \\
    -chardev socket,id=c0,path=/tmp/a.sock,reconnect-ms=500 -netdev vhost-user,chardev=c0,id=n0 -device virtio-net-pci,netdev=n0
With several queue pairs: --queues 2 here, and -netdev vhost-user,...,queues=2 -device virtio-net-pci,...,mq=on,vectors=6 there.
Where QEMU listens (-chardev socket,...,server=on): the same with --client.
Behind an emulated IOMMU: --iommu here, and -device intel-iommu,device-iotlb=on -device virtio-net-pci,...,disable-legacy=on,iommu_platform=on,ats=on there.

Two DPDK applications on one link (no huge pages needed):
  nicbox serve vhost-user --link --socket /tmp/a.sock --socket /tmp/b.sock
  dpdk-testpmd --lcores '0@0,1@0' --no-huge -m 256 --file-prefix=a --no-pci \\
    --vdev net_virtio_user0,path=/tmp/a.sock,queues=1 -- --nb-cores=1 --forward-mode=txonly --auto-start --total-num-mbufs=16384 --stats-period 1
  (the other: --file-prefix=b, path=/tmp/b.sock, --forward-mode=rxonly; packed rings: ,packed_vq=1)

A guest and this host (as root; tap0 is there while nicbox runs):
  nicbox serve vhost-user --socket /tmp/a.sock --tap tap0 &
  ip addr add 10.0.0.1/24 dev tap0 && ip link set tap0 up
With --queues 4 the TAP has four queues as well.

A socket alone on its switch swallows and counts what it is sent.`;

interface Flags {
  readonly socket: readonly string[];
  readonly tap?: readonly string[];
  readonly link?: boolean;
  readonly pcap?: string;
  readonly queues: number;
  readonly client?: boolean;
  readonly inBand?: boolean;
  readonly iommu?: boolean;
  readonly hashReport?: boolean;
  readonly requireSeals?: boolean;
  readonly mtu?: number;
  readonly watch?: boolean;
  readonly verbose?: boolean;
  readonly json?: boolean;
}

function queues(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1 || value > 64) throw new InvalidArgumentError('give a whole number from 1 to 64.');
  return value;
}

function mtu(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 68 || value > 65535) throw new InvalidArgumentError('give a whole number from 68 to 65535.');
  return value;
}

/** @param signal ends it. @param done gets the exit code of what ends by itself */
export function serveCommand(signal: AbortSignal, done: (code: number) => void): Command {
  const vhostUser = new Command('vhost-user')
    .description('Serves virtio-net devices of other processes (QEMU, DPDK, user-mode Linux) over vhost-user sockets, joined by a switch or by links.')
    .requiredOption('--socket <path...>', 'UNIX socket of a device; give it once for each device')
    .option('--tap <interface...>', "TAP interfaces of this host as further ports: its own network stack (root, or one made for you with 'ip tuntap add')")
    .option('--switch', 'join all sockets by one learning switch (the default)')
    .option('--link', 'join the sockets two by two, in the order given, by direct links')
    .option('--pcap <file>', 'capture every frame into a pcapng file')
    .option('--queues <pairs>', 'queue pairs of each device, and queues of each TAP', queues, 1)
    .option('--client', 'connect to the sockets, again whenever a connection ends, in place of listening')
    .option('--in-band', "offer kicks and calls by messages (user-mode Linux's time-travel modes need them; slow)")
    .option('--iommu', "let guests put their devices behind an IOMMU (QEMU's iommu_platform=on); not for drivers that have none: they would get no memory")
    .option('--hash-report', 'offer hashes of received frames in their headers, which get 8 bytes longer for it')
    .option('--require-seals', 'take no memory that its owner could cut short, which would end this process (not for DPDK and user-mode Linux)')
    .option('--mtu <bytes>', 'offer this MTU, 68 to 65535', mtu)
    .option('--watch', 'judge the drivers whose split rings are served by VIRTIO 1.4, and say at the end what they broke (with --json as lines of JSON)')
    .option('--verbose', 'print every message of the protocol')
    .option('--json', 'print counters as a line of JSON for each socket, every second and at the end')
    .addHelpText('after', EXAMPLES)
    .exitOverride()
    .action(async (flags: Flags & { readonly switch?: boolean }, command: Command) => {
      if (flags.switch && flags.link) command.error("error: '--switch' and '--link' exclude each other");
      await serve(flags, signal);
    });
  return new Command('serve')
    .description('Serves other processes until interrupted.')
    .addCommand(vhostUser)
    .addCommand(umlPciCommand(signal, done))
    .addCommand(vfioUserCommand(signal));
}

async function serve(flags: Flags, signal: AbortSignal): Promise<void> {
  const log = new Log();
  log.listen(({ kind, source, message, data }) => {
    // What carries data is every message of the protocol.
    if (data === undefined) console.error(`${source}: ${kind === 'trace' ? '' : 'error: '}${message}`);
    else if (flags.verbose) console.error(`${source}: ${message} ${JSON.stringify(data)}`);
  });
  const file = flags.pcap === undefined ? undefined : openCapture(flags.pcap);
  const watches: DriverWatch[] = [];
  const ends: (() => void)[] = [];
  const server = await serveVhostUser({
    sockets: flags.socket,
    taps: flags.tap ?? [],
    topology: flags.link ? 'link' : 'switch',
    queuePairs: flags.queues,
    client: flags.client ?? false,
    inBand: flags.inBand ?? false,
    accessPlatform: flags.iommu ?? false,
    hashReport: flags.hashReport ?? false,
    requireSeals: flags.requireSeals ?? false,
    ...(file !== undefined && { capture: (chunk: Uint8Array) => void writeSync(file, chunk) }),
    ...(flags.mtu !== undefined && { mtu: flags.mtu }),
    ...(flags.watch && { watch: (path: string) => watchRings(path, watches, ends) }),
    log,
  });
  const show = flags.json ? printJson : process.stdout.isTTY ? redraw() : undefined;
  try {
    console.error(`nicbox: ${flags.client ? 'calling' : 'listening on'} ${flags.socket.join(', ')}; Ctrl-C stops`);
    const { taps } = server;
    if (taps.length > 0) console.error(`nicbox: TAP ${taps.map((tap) => tap.name).join(', ')}`);
    let before = server.statistics;
    while (!signal.aborted) {
      await sleep(INTERVAL_MS, undefined, { signal }).catch(() => {});
      const now = server.statistics;
      if (!signal.aborted) show?.(now, before);
      before = now;
    }
    const last = server.statistics;
    if (flags.json) printJson(last);
    else console.log(table(last, last));
    for (const watch of watches) print(flags.json ? watch.json : watch.text);
    if (server.captureMissed > 0) console.error(`nicbox: ${server.captureMissed} frames came too fast to be captured`);
  } finally {
    for (const end of ends) end();
    await server.close();
    if (file !== undefined) closeSync(file);
  }
}

type Statistics = readonly VhostUserSocketStatistics[];

function printJson(now: Statistics): void {
  for (const socket of now) process.stdout.write(`${JSON.stringify(socket)}\n`);
}

/** Draws over what it drew last. */
function redraw(): (now: Statistics, before: Statistics) => void {
  let lines = 0;
  return (now, before) => {
    const text = `${table(now, before)}\n`;
    process.stdout.write(`${lines > 0 ? `\u001b[${lines}A\u001b[J` : ''}${text}`);
    lines = text.split('\n').length - 1;
  };
}

const rate = (value: number): string => (value >= 1e6 ? `${(value / 1e6).toFixed(2)} M` : value >= 1e3 ? `${(value / 1e3).toFixed(1)} k` : String(value));
const drops = (reasons: Readonly<Record<string, number>>): string =>
  Object.entries(reasons)
    .map(([reason, count]) => `${reason} ${count}`)
    .join(', ');

function table(now: Statistics, before: Statistics): string {
  const t = new Table({
    head: ['socket', 'front end', 'rings', 'sent', 'sent/s', 'received', 'received/s', 'kicks', 'calls', 'drops'],
    colAligns: ['left', 'left', 'right', 'right', 'right', 'right', 'right', 'right', 'right', 'left'],
    style: { head: [], border: [], compact: true },
  });
  now.forEach((socket, i) => {
    const { counters, session, rings } = socket;
    const old = before[i]?.counters ?? counters;
    t.push([
      socket.path,
      session === undefined ? 'none' : 'connected',
      `${session?.running.filter((running) => running).length ?? 0}/${rings.length}`,
      counters.transmitFrames,
      rate(counters.transmitFrames - old.transmitFrames),
      counters.receiveFrames,
      rate(counters.receiveFrames - old.receiveFrames),
      rings.reduce((sum, ring) => sum + ring.kicks, 0),
      rings.reduce((sum, ring) => sum + ring.calls, 0),
      drops({ ...counters.transmitDrops, ...counters.receiveDrops }),
    ]);
  });
  return t.toString();
}
