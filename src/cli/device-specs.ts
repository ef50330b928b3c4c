// Devices as a command line names them: "virtio-net,queues=2,mac=52:54:00:00:00:01". Each kind is a row of a table.

import { InvalidArgumentError } from 'commander';
import type { VhostBackend } from '#nicbox/index';
import type { Machine } from '#nicbox/machine';
import { Aer } from '#pci/aer';
import { SerialNumber } from '#pci/serial-number';

export interface DeviceSpec {
  readonly kind: string;
  readonly options: Readonly<Record<string, string>>;
}

/** What a device is put into. */
export interface DeviceSite {
  readonly machine: Machine;
  /** On the root bus. */
  readonly deviceNumber: number;
  /** A data plane on the link it is to be joined to. */
  readonly backend: (name: string, queuePairs: number) => VhostBackend;
}

interface DeviceKind {
  /** Names of its options, with what they take. */
  readonly options: Readonly<Record<string, string>>;
  /** Throws what the device throws on options that cannot be. */
  readonly add: (site: DeviceSite, options: Readonly<Record<string, string>>) => void;
}

const KINDS: Readonly<Record<string, DeviceKind>> = {
  'virtio-net': {
    options: { mac: 'a MAC address', queues: 'queue pairs', mtu: 'bytes', packed: 'on or off', vectors: 'MSI-X vectors' },
    add({ machine, deviceNumber, backend }, options) {
      const mac = options.mac ?? defaultMac(deviceNumber);
      const queuePairs = number(options.queues, 1);
      machine.addVirtioNet(
        {
          mac,
          queuePairs,
          backend: backend(`virtio-net-${deviceNumber}`, queuePairs),
          ...(options.mtu !== undefined && { mtu: number(options.mtu, 0) }),
          features: { RING_PACKED: options.packed !== 'off' },
        },
        {
          deviceNumber,
          ...(options.vectors !== undefined && { vectors: number(options.vectors, 0) }),
          capabilities: [new Aer(), SerialNumber.ofMac(Uint8Array.from(mac.split(':'), (byte) => Number.parseInt(byte, 16)))],
        },
      );
    },
  },
};

/** For help texts. */
export const DEVICE_KINDS = Object.entries(KINDS)
  .map(
    ([name, { options }]) =>
      `  ${name}: ${Object.entries(options)
        .map(([option, what]) => `${option}=<${what}>`)
        .join(', ')}`,
  )
  .join('\n');

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
  return { kind: name, options };
}

/** @throws the device's errors */
export function addDevice(site: DeviceSite, { kind, options }: DeviceSpec): void {
  (KINDS[kind] as DeviceKind).add(site, options);
}

/** Locally administered, the same every time. */
function defaultMac(deviceNumber: number): string {
  return `52:54:00:00:00:${(deviceNumber + 1).toString(16).padStart(2, '0')}`;
}

/** Not a number: what the device refuses. */
function number(text: string | undefined, otherwise: number): number {
  return text === undefined ? otherwise : Number(text);
}
