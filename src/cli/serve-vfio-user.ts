// `nicbox serve vfio-user`: our PCI devices in other virtual machines (QEMU's vfio-user-pci), one on each socket, joined by a switch or by links, until Ctrl-C. Events go to
// stderr, the state of each socket to stdout: a line of JSON every second with --json, and a table at the end otherwise.

import { closeSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import Table from 'cli-table3';
import { Command } from 'commander';
import { BellLoop } from '#core/bell-loop';
import { Log } from '#core/log';
import type { GuestBytes } from '#interop/access-watch';
import { attachNetdevToWorker } from '#interop/netdev-port';
import { SegmentCapture } from '#interop/segment-capture';
import { Tap } from '#interop/tap';
import { DATA_PLANE_WORKER, serveVfioUser, type VfioUserServer } from '#interop/vfio-user-server';
import type { Machine } from '#nicbox/machine';
import { VhostPool } from '#nicbox/vhost-net';
import type { PciFunction } from '#pci/function';
import { addDevice, type DeviceSpec, deviceKinds, parseDevice, placesOn, slotsOf } from './device-specs.ts';
import { type DriverWatch, watchDriver } from './driver-watch.ts';
import { openCapture } from './output.ts';

const INTERVAL_MS = 1000;

const EXAMPLES = `
Devices, one for each socket in the order given:
${deviceKinds('physical only')}

A network card of two queue pairs in a QEMU guest (QEMU 10.1 or later; the guest's RAM has to be shared memory for virtio devices):
  nicbox serve vfio-user --socket /tmp/a.sock --device virtio-net,queues=2 --tap tap0
  qemu-system-x86_64 -machine q35 -m 512M -object memory-backend-memfd,id=m0,share=on,size=512M -numa node,memdev=m0 ... \\
    -device '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"/tmp/a.sock"}}'
  (and on this host, as root: ip addr add 10.0.0.1/24 dev tap0 && ip link set tap0 up)

Two guests on one link, the second by default a virtio-net, too:
  nicbox serve vfio-user --link --socket /tmp/a.sock --socket /tmp/b.sock
  (the second QEMU: "path":"/tmp/b.sock")

A QEMU that connects before nicbox listens, or again after nicbox has ended, fails to start: start nicbox first. Virtual functions do not pass through QEMU.`;

interface Flags {
  readonly socket: readonly string[];
  readonly device?: readonly DeviceSpec[];
  readonly link?: boolean;
  readonly switch?: boolean;
  readonly tap?: readonly string[];
  readonly pcap?: string;
  readonly requireSeals?: boolean;
  readonly watch?: boolean;
  readonly json?: boolean;
}

const collect = (text: string, before: readonly DeviceSpec[] | undefined): readonly DeviceSpec[] => [...(before ?? []), parseDevice(text)];

/** @param signal ends it */
export function vfioUserCommand(signal: AbortSignal): Command {
  return new Command('vfio-user')
    .description("Serves PCI devices to other processes' virtual machines over vfio-user sockets, joined by a switch or by links.")
    .requiredOption('--socket <path...>', 'UNIX socket of a device; give it once for each device')
    .option('--device <device>', 'a device and its options; give it once for each socket (default: virtio-net)', collect)
    .option('--tap <interface...>', "TAP interfaces of this host as further ports: its own network stack (root, or one made for you with 'ip tuntap add')")
    .option('--switch', 'join all devices by one learning switch (the default)')
    .option('--link', 'join the devices two by two, in the order given, by direct links')
    .option('--pcap <file>', 'capture every frame into a pcapng file')
    .option('--require-seals', 'take no memory that its owner could cut short, which would end this process')
    .option('--watch', 'judge the guest drivers of virtio-net devices by VIRTIO 1.4, and say at the end what they broke (with --json as lines of JSON)')
    .option('--json', 'print the state of each socket as a line of JSON, every second and at the end')
    .addHelpText('after', EXAMPLES)
    .exitOverride()
    .action(async (flags: Flags, command: Command) => {
      const devices = flags.socket.map((_, i) => flags.device?.[i] ?? parseDevice('virtio-net'));
      if (flags.switch && flags.link) command.error("error: '--switch' and '--link' exclude each other");
      if ((flags.device?.length ?? 0) > flags.socket.length) command.error(`error: ${flags.device?.length} devices for ${flags.socket.length} sockets`);
      if (new Set(flags.socket).size !== flags.socket.length) command.error('error: each socket path may be given once');
      if (flags.link && (flags.socket.length + (flags.tap?.length ?? 0)) % 2 !== 0)
        command.error('error: an odd number of devices and TAPs cannot be joined in pairs');
      if (devices.some((device) => slotsOf(device) > 1)) command.error('error: virtual functions cannot be shown over vfio-user');
      await serve(flags, devices, signal);
    });
}

async function serve(flags: Flags, devices: readonly DeviceSpec[], signal: AbortSignal): Promise<void> {
  const log = new Log();
  log.listen(({ kind, source, message }) => void console.error(`${source}: ${kind === 'trace' ? '' : 'error: '}${message}`));
  const servers: VfioUserServer[] = [];
  const watches: DriverWatch[] = [];
  // What was begun, in the order in which it ends.
  const ends: (() => void | Promise<void>)[] = [];
  try {
    const pool = new VhostPool({ entry: DATA_PLANE_WORKER });
    ends.unshift(() => pool.close());
    const worker = pool.worker();
    const taps = flags.tap ?? [];
    const kind = flags.link ? 'link' : 'switch';
    const segments = Array.from({ length: flags.link ? (devices.length + taps.length) / 2 : 1 }, () => worker.segment({ kind }));
    const segmentOf = (i: number): (typeof segments)[number] => segments[flags.link ? i >>> 1 : 0] as (typeof segments)[number];
    const bells = new BellLoop();
    ends.push(() => bells.close());
    for (const [i, spec] of devices.entries()) {
      const mac = `52:54:00:00:00:${(i + 1).toString(16).padStart(2, '0')}`;
      const add = (machine: Machine): PciFunction => {
        addDevice(
          { machine, deviceNumber: 1, ...placesOn(segmentOf(i), bells, ends, flags.socket[i] as string) },
          { ...spec, options: { mac, ...spec.options } },
        );
        return machine.fabric.functions()[0] as PciFunction;
      };
      const server = await serveVfioUser(add, {
        ...{ socket: flags.socket[i] as string, log, directInterrupts: true },
        requireSeals: flags.requireSeals ?? false,
        ...(flags.watch && { watch: (machine: Machine, bdf: number, memory: GuestBytes) => watchDriver(machine, bdf, memory, watches, flags.socket[i]) }),
      });
      servers.push(server);
      ends.unshift(() => server.close());
    }
    taps.forEach((name, i) => {
      const tap = new Tap({ name, log });
      const detach = attachNetdevToWorker(segmentOf(devices.length + i), tap, bells);
      ends.unshift(() => {
        detach();
        tap.close();
      });
    });
    if (flags.pcap !== undefined) {
      const file = openCapture(flags.pcap);
      const capture = new SegmentCapture(segments, bells, (chunk) => void writeSync(file, chunk));
      // Behind the worker: what it has captured by then is in the rings.
      ends.splice(ends.length - 1, 0, () => {
        capture.close();
        closeSync(file);
        if (capture.missed > 0) console.error(`nicbox: ${capture.missed} frames came too fast to be captured`);
      });
    }
    console.error(`nicbox: listening on ${flags.socket.join(', ')}; Ctrl-C stops`);
    while (!signal.aborted) {
      await sleep(INTERVAL_MS, undefined, { signal }).catch(() => {});
      if (flags.json && !signal.aborted) printJson(servers);
    }
    if (flags.json) printJson(servers);
    else console.log(table(servers));
    for (const watch of watches) console.log(flags.json ? watch.json : watch.text);
  } finally {
    for (const end of ends) await end();
  }
}

function printJson(servers: readonly VfioUserServer[]): void {
  for (const { statistics } of servers) process.stdout.write(`${JSON.stringify(statistics)}\n`);
}

function table(servers: readonly VfioUserServer[]): string {
  const t = new Table({
    head: ['socket', 'device', 'client', 'clients', 'refused', 'regions', 'DMA messages', 'state'],
    style: { head: [], border: [], compact: true },
  });
  for (const { statistics: s } of servers)
    t.push([s.path, s.device, s.connected ? 'connected' : 'none', s.connections, s.refused, s.regions.mapped + s.regions.byMessage, s.dmaMessages, s.state]);
  return t.toString();
}
