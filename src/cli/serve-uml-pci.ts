// `nicbox serve uml-pci`: devices of a machine for user-mode Linux guests, until Ctrl-C or until the guest it started itself ends. Events go to stderr, the guest's console and the counters
// to stdout.

import { closeSync, mkdtempSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import Table from 'cli-table3';
import { Command } from 'commander';
import { BellLoop } from '#core/bell-loop';
import { Log } from '#core/log';
import { SegmentCapture } from '#interop/segment-capture';
import { serveUmlPci, type UmlPciServer, umlPciMachine } from '#interop/uml-pci-server';
import { EmbeddedSwitch } from '#net/embedded-switch/embedded-switch';
import { Machine } from '#nicbox/machine';
import { VhostPool } from '#nicbox/vhost-net';
import { addDevice, type DeviceSpec, deviceKinds, functionsOf, parseDevice, placesOn, slotsOf } from './device-specs.ts';
import { type DriverWatch, watchDriver } from './driver-watch.ts';
import { openCapture, print } from './output.ts';
import { UmlGuest, umlCommand } from './uml-guest.ts';

const MOST_SLOTS = 8;

const EXAMPLES = `
Devices, in slots in the order given (virtual functions in those behind their device):
${deviceKinds('with virtual functions')}

Two network cards in one guest, on one switch, the kernel started by nicbox and its console shown:
  nicbox serve uml-pci --device virtio-net,queues=2 --device virtio-net --guest ./linux --initrd guest.cpio.gz
A card whose virtual functions ride its embedded switch, and a station on its wire:
  nicbox serve uml-pci --nic --device virtio-net,vfs=2 --device virtio-net --guest ./linux --initrd guest.cpio.gz
The same for a guest started by hand (its command line is printed):
  nicbox serve uml-pci --device virtio-net --socket /tmp/a.sock

The kernel needs CONFIG_UML_PCI_OVER_VIRTIO with device id 1234, which Debian's user-mode-linux has not: docs/real-guests.md.`;

interface Flags {
  readonly device?: readonly DeviceSpec[];
  readonly socket?: readonly string[];
  readonly link?: boolean;
  readonly switch?: boolean;
  readonly nic?: boolean;
  readonly pcap?: string;
  readonly guest?: string;
  readonly initrd?: string;
  readonly memory: string;
  readonly append?: readonly string[];
  readonly inBand?: boolean;
  readonly watch?: boolean;
  readonly verbose?: boolean;
  readonly json?: boolean;
}

const collect = (text: string, before: readonly DeviceSpec[] | undefined): readonly DeviceSpec[] => [...(before ?? []), parseDevice(text)];

/** @param signal ends it. @param done gets the guest's exit code, if it ended by itself */
export function umlPciCommand(signal: AbortSignal, done: (code: number) => void): Command {
  return new Command('uml-pci')
    .description(
      'Serves PCI devices to a user-mode Linux kernel over vhost-user sockets, as its PCI-over-virtio device expects them, joined by a switch or by links.',
    )
    .option('--device <device>', 'a device and its options; give it once for each (default: virtio-net)', collect)
    .option('--socket <path...>', 'UNIX sockets, one for each slot (default: made in a temporary folder)')
    .option('--switch', 'join all devices by one learning switch (the default)')
    .option('--link', 'join the devices two by two, in the order given, by direct links')
    .option('--nic', "the first device is a NIC with an embedded switch that joins its functions; a second one is on its wire (a virtio-net's, with vfs)")
    .option('--pcap <file>', 'capture every frame into a pcapng file')
    .option('--guest <kernel>', 'start this kernel, and end with it')
    .option('--initrd <file>', "the guest's initial file system")
    .option('--memory <size>', "the guest's memory, as its kernel takes it", '256M')
    .option('--append <word...>', "further words of the guest's command line")
    .option('--in-band', 'offer kicks and calls by messages (time-travel modes need them; slow)')
    .option('--watch', 'judge the guest drivers of virtio-net devices by VIRTIO 1.4, and say at the end what they broke (with --json as lines of JSON)')
    .option('--verbose', 'print every message of the protocol')
    .option('--json', 'print counters as a line of JSON for each slot at the end')
    .addHelpText('after', EXAMPLES)
    .exitOverride()
    .action(async (flags: Flags, command: Command) => {
      const devices = flags.device ?? [parseDevice('virtio-net')];
      const wanted = devices.reduce((sum, device) => sum + slotsOf(device), 0);
      if ([flags.switch, flags.link, flags.nic].filter(Boolean).length > 1) command.error("error: '--switch', '--link' and '--nic' exclude each other");
      if (flags.nic && (devices[0]?.kind !== 'virtio-net' || functionsOf(devices[0]) === 0))
        command.error("error: '--nic' is for a first device with virtual functions: --device virtio-net,vfs=2");
      if (flags.nic && devices.length > 2) command.error(`error: '--nic' has one device on its wire, not ${devices.length - 1}`);
      if (flags.link && devices.length % 2 !== 0) command.error(`error: ${devices.length} devices cannot be joined in pairs`);
      if (wanted > MOST_SLOTS) command.error(`error: ${wanted} slots are needed, and there are ${MOST_SLOTS}`);
      if (flags.socket !== undefined && flags.socket.length !== wanted) command.error(`error: ${flags.socket.length} sockets for ${wanted} slots`);
      if (flags.guest === undefined && (flags.initrd !== undefined || flags.append !== undefined))
        command.error("error: '--initrd' and '--append' go with '--guest'");
      await serve(flags, devices, wanted, signal, done);
    });
}

async function serve(flags: Flags, devices: readonly DeviceSpec[], wanted: number, signal: AbortSignal, done: (code: number) => void): Promise<void> {
  const log = new Log();
  log.listen(({ kind, source, message, data }) => {
    if (data === undefined) console.error(`${source}: ${kind === 'trace' ? '' : 'error: '}${message}`);
    else if (flags.verbose) console.error(`${source}: ${message} ${JSON.stringify(data)}`);
  });
  const folder = flags.socket === undefined ? mkdtempSync(join(tmpdir(), 'nicbox-')) : undefined;
  const sockets = flags.socket ?? Array.from({ length: wanted }, (_, i) => join(folder as string, `slot${i}`));
  // What was begun, in the order in which it ends.
  const ends: (() => void | Promise<void>)[] = [() => folder === undefined || rmSync(folder, { recursive: true, force: true })].map((end) => () => void end());
  try {
    const pool = new VhostPool();
    ends.unshift(() => pool.close());
    const machine = new Machine({ ...umlPciMachine(), name: 'machine', log });
    ends.unshift(() => machine.close());
    const worker = pool.worker();
    // Nobody tells it which groups a driver listens to: the devices filter by themselves.
    const nic = flags.nic ? new EmbeddedSwitch({ functions: functionsOf(devices[0] as DeviceSpec), learning: true, multicast: 'flood' }) : undefined;
    const kind = nic?.share ?? (flags.link ? 'link' : 'switch');
    const segments = Array.from({ length: flags.link ? devices.length / 2 : 1 }, () => worker.segment({ kind }));
    const bells = new BellLoop();
    ends.push(() => bells.close());
    let deviceNumber = 0;
    devices.forEach((spec, i) => {
      const segment = segments[flags.link ? i >>> 1 : 0] as (typeof segments)[number];
      const place = placesOn(segment, bells, ends, nic && i > 0 ? 'uplink0' : undefined);
      addDevice({ machine, deviceNumber, ...place, ...(nic && i === 0 && { nic }) }, spec);
      deviceNumber += slotsOf(spec);
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
    const watches: DriverWatch[] = [];
    const server = await serveUmlPci(machine, {
      sockets,
      inBand: flags.inBand ?? false,
      log,
      ...(flags.watch && { watch: (bdf, memory) => watchDriver(machine, bdf, memory, watches) }),
    });
    ends.unshift(() => server.close());
    console.error(`nicbox: listening on ${sockets.join(', ')}; Ctrl-C stops`);
    const guest = { kernel: flags.guest ?? './linux', initrd: flags.initrd ?? 'guest.cpio.gz', memory: flags.memory, append: flags.append ?? [], sockets };
    if (flags.guest === undefined) console.error(`nicbox: for a guest: ${umlCommand(guest).join(' ')}`);
    else await runGuest(guest, flags.initrd, signal, done);
    while (flags.guest === undefined && !signal.aborted) await sleep(2 ** 30, undefined, { signal }).catch(() => {});
    report(server, flags.json ?? false);
    for (const watch of watches) print(flags.json ? watch.json : watch.text);
  } finally {
    for (const end of ends) await end();
  }
}

async function runGuest(
  options: ConstructorParameters<typeof UmlGuest>[0],
  initrd: string | undefined,
  signal: AbortSignal,
  done: (code: number) => void,
): Promise<void> {
  const { initrd: _, ...rest } = options;
  const chosen = { ...rest, ...(initrd !== undefined && { initrd }) };
  console.error(`nicbox: starting ${umlCommand(chosen).join(' ')}`);
  const guest = new UmlGuest(chosen, (line) => void process.stdout.write(`${line}\n`));
  const stop = (): void => guest.kill();
  signal.addEventListener('abort', stop);
  const code = await guest.ended;
  signal.removeEventListener('abort', stop);
  if (!signal.aborted) done(code);
}

function report(server: UmlPciServer, json: boolean): void {
  const { statistics } = server;
  if (json) {
    for (const slot of statistics) process.stdout.write(`${JSON.stringify(slot)}\n`);
    return;
  }
  const table = new Table({
    head: ['slot', 'guests', 'refused', 'config accesses', 'memory accesses', 'INTx', 'messages'],
    style: { head: [], border: [], compact: true },
  });
  statistics.forEach(({ connections, refused, configAccesses, memoryAccesses, pins, messages }, slot) => {
    table.push([slot, connections, refused, configAccesses, memoryAccesses, pins, messages]);
  });
  console.log(table.toString());
}
