// Devices as a command line names them: "virtio-net,queues=2,mac=52:54:00:00:00:01". Each kind is a row of a table.

import { InvalidArgumentError } from 'commander';
import type { BellLoop } from '#core/bell-loop';
import { WorkerPlace } from '#interop/netdev-port';
import type { EmbeddedSwitch } from '#net/embedded-switch/embedded-switch';
import { SwitchVfPorts } from '#net/embedded-switch/vf-ports';
import type { PortHost } from '#net/port';
import type { E1000Options, VhostBackend } from '#nicbox/index';
import type { Machine } from '#nicbox/machine';
import type { VhostSegment } from '#nicbox/vhost-net';
import { Aer } from '#pci/aer';
import { SerialNumber } from '#pci/serial-number';

export interface DeviceSpec {
  readonly kind: string;
  readonly options: Readonly<Record<string, string>>;
}

/** What a device is put into. */
export interface DeviceSite {
  readonly machine: Machine;
  /** On the root bus; virtual functions follow it, one each. */
  readonly deviceNumber: number;
  /** A data plane on the link it is to be joined to. */
  readonly backend: (name: string, queuePairs: number) => VhostBackend;
  /** A port on that link, for a device whose data plane is on this thread. */
  readonly host: (name: string) => PortHost;
  /** What joins its functions: they are the switch's, which is told what is set of them. */
  readonly nic?: EmbeddedSwitch;
}

interface DeviceKind {
  /** Names of its options, with what they take. */
  readonly options: Readonly<Record<string, string>>;
  /** Throws what the device throws on options that cannot be. */
  readonly add: (site: DeviceSite, options: Readonly<Record<string, string>>) => void;
}

/** The guest has one function in each slot. */
const SLOT_LAYOUT = { firstOffset: 8, stride: 8 };
/** Of a data plane on a worker. */
const MOST_QUEUES = 64;
/** Milliseconds. */
const MOST_NEGOTIATION = 60_000;

const KINDS: Readonly<Record<string, DeviceKind>> = {
  'virtio-net': {
    options: {
      mac: 'a MAC address',
      queues: 'queue pairs',
      mtu: 'bytes',
      packed: 'on or off',
      vectors: 'MSI-X vectors',
      vfs: 'virtual functions, up to 255',
      'vf-queues': 'queue pairs of each virtual function',
    },
    add({ machine, deviceNumber, backend, nic }, options) {
      const mac = options.mac ?? defaultMac(deviceNumber);
      const queuePairs = number(options.queues, 1);
      const vfPairs = number(options['vf-queues'], queuePairs);
      const vectors = options.vectors !== undefined && { vectors: number(options.vectors, 0) };
      const totalVfs = number(options.vfs, 0);
      const mtu = options.mtu !== undefined && { mtu: number(options.mtu, 0) };
      const features = { RING_PACKED: options.packed !== 'off' };
      const slot = (vf: number): number => deviceNumber + 1 + vf;
      const sriov = totalVfs !== 0 && {
        sriov: {
          totalVfs,
          queuePairs: vfPairs,
          layout: SLOT_LAYOUT,
          backend: (vf: number) => backend(nic === undefined ? `virtio-net-${slot(vf)}` : `vf${vf}`, vfPairs),
          ...(nic && { ports: new SwitchVfPorts(nic) }),
          // The guest is the host of its virtual functions: they may do as they please.
          settings: (vf: number) => ({ mac: defaultMac(slot(vf)), trust: true, features, ...mtu }),
          ...vectors,
        },
      };
      nic?.configurePort('pf', { mac });
      machine.addVirtioNet(
        { mac, queuePairs, backend: backend(nic === undefined ? `virtio-net-${deviceNumber}` : 'pf', queuePairs), features, ...mtu, ...sriov },
        {
          deviceNumber,
          ...vectors,
          capabilities: [new Aer(), SerialNumber.ofMac(Uint8Array.from(mac.split(':'), (byte) => Number.parseInt(byte, 16)))],
        },
      );
    },
  },
  e1000: {
    options: { mac: 'a MAC address', model: '82540EM, 82544GC, 82545EM or 82545GM', negotiation: 'milliseconds until the link is up' },
    add({ machine, deviceNumber, host }, { mac = defaultMac(deviceNumber), model, negotiation }) {
      const name = `e1000-${deviceNumber}`;
      const which = model !== undefined && { model: model as E1000Options['model'] & string };
      machine.addE1000({ name, mac, segment: host(name), ...which, ...linkTime(negotiation) }, { deviceNumber });
    },
  },
  igb: {
    options: { mac: 'a MAC address', vfs: 'virtual functions', negotiation: 'milliseconds until the link is up' },
    add({ machine, deviceNumber, host }, { mac = defaultMac(deviceNumber), vfs, negotiation }) {
      const name = `igb-${deviceNumber}`;
      machine.addIgb({ name, mac, segment: host(name), vfs: number(vfs, 0), vfLayout: SLOT_LAYOUT, ...linkTime(negotiation) }, { deviceNumber });
    },
  },
};

/** For help texts. @param functions whether virtual functions can be had */
export function deviceKinds(functions: 'with virtual functions' | 'physical only'): string {
  return Object.entries(KINDS)
    .map(([name, { options }]) => {
      const shown = Object.entries(options).filter(([option]) => functions === 'with virtual functions' || !option.startsWith('vf'));
      return `  ${name}: ${shown.map(([option, what]) => `${option}=<${what}>`).join(', ')}`;
    })
    .join('\n');
}

/** @throws InvalidArgumentError */
export function parseDevice(text: string): DeviceSpec {
  const [name = '', ...words] = text.split(',');
  const kind = KINDS[name];
  if (kind === undefined) throw new InvalidArgumentError(`no device '${name}'; there are: ${Object.keys(KINDS).join(', ')}.`);
  const options: Record<string, string> = {};
  for (const word of words) {
    const [option = '', ...value] = word.split('=');
    if (!(option in kind.options) || value.length === 0)
      throw new InvalidArgumentError(`${name} has no option '${word}'; there are: ${Object.keys(kind.options).join(', ')}.`);
    options[option] = value.join('=');
  }
  for (const option of ['queues', 'vf-queues']) {
    const queues = number(options[option], 1);
    if (!Number.isInteger(queues) || queues < 1 || queues > MOST_QUEUES)
      throw new InvalidArgumentError(`${option} is a whole number from 1 to ${MOST_QUEUES}.`);
  }
  if (!['on', 'off'].includes(options.packed ?? 'on')) throw new InvalidArgumentError('packed is on or off.');
  const negotiation = number(options.negotiation, 0);
  if (!(negotiation >= 0 && negotiation <= MOST_NEGOTIATION))
    throw new InvalidArgumentError(`negotiation is a time from 0 to ${MOST_NEGOTIATION} milliseconds.`);
  return { kind: name, options };
}

/** Where devices of this thread's machines find the link that a worker serves. @param ends gets what is to be undone @param as the port's name, if not what the device calls it */
export function placesOn(segment: VhostSegment, loop: BellLoop, ends: (() => void | Promise<void>)[], as?: string): Pick<DeviceSite, 'backend' | 'host'> {
  return {
    backend: (name, queuePairs) => segment.port(as ?? name, queuePairs),
    host(name) {
      const place = new WorkerPlace(segment, as ?? name, loop);
      ends.unshift(() => place.close());
      return place.host;
    },
  };
}

/** How many slots it takes: its own, and one for each virtual function. */
export function slotsOf(spec: DeviceSpec): number {
  return 1 + functionsOf(spec);
}

/** Virtual functions that it may have. */
export function functionsOf({ options }: DeviceSpec): number {
  const vfs = number(options.vfs, 0);
  return Number.isInteger(vfs) && vfs > 0 ? vfs : 0;
}

/** @throws the device's errors */
export function addDevice(site: DeviceSite, { kind, options }: DeviceSpec): void {
  (KINDS[kind] as DeviceKind).add(site, options);
}

/** Locally administered, the same every time. */
function defaultMac(deviceNumber: number): string {
  const number = (deviceNumber + 1).toString(16).padStart(4, '0');
  return `52:54:00:00:${number.slice(0, 2)}:${number.slice(2)}`;
}

/** How long autonegotiation takes, if it is said. */
function linkTime(milliseconds: string | undefined): { readonly negotiation?: number } {
  return milliseconds === undefined ? {} : { negotiation: number(milliseconds, 0) * 1e6 };
}

/** Not a number: what the device refuses. */
function number(text: string | undefined, otherwise: number): number {
  return text === undefined ? otherwise : Number(text);
}
