// An embedded switch with memory ports on all of its sides, and frames for it.

import { SimClock } from '#core/clock';
import { EmbeddedSwitch, type EmbeddedSwitchOptions } from '#net/embedded-switch/embedded-switch';
import { Segment } from '#net/segment';
import { ethernet } from '../frames.ts';
import { type Frame, MemoryPort } from '../memory-port.ts';

export interface Rig {
  readonly nic: EmbeddedSwitch;
  readonly clock: SimClock;
  readonly segment: Segment;
  /** The port of that name, attached when first asked for. */
  port(name: string): MemoryPort;
  /** Serves until nothing moves. */
  run(): void;
  /** Sends frames from a port, and returns what arrived where, by name. */
  send(from: string, ...frames: (Frame | Uint8Array)[]): Record<string, Uint8Array[]>;
}

export function rig(options: Partial<EmbeddedSwitchOptions> = {}, extra: readonly string[] = []): Rig {
  const clock = new SimClock(1e9);
  const nic = new EmbeddedSwitch({ functions: 3, clock, ...options });
  const segment = new Segment(nic.forwarding(), { clock });
  const ports = new Map<string, MemoryPort>();
  const made: Rig = {
    nic,
    clock,
    segment,
    port(name) {
      const known = ports.get(name);
      if (known !== undefined) return known;
      const port = new MemoryPort(name);
      ports.set(name, port);
      segment.addPort(port);
      return port;
    },
    run() {
      for (const { index } of segment.ports) segment.wake(index);
      for (let round = 0; round < 1000 && segment.service(); round++);
    },
    send(from, ...frames) {
      for (const port of ports.values()) port.inbox.length = 0;
      made.port(from).outbox.push(...frames.map((frame) => (frame instanceof Uint8Array ? { bytes: frame } : frame)));
      made.run();
      return Object.fromEntries([...ports].filter(([, port]) => port.inbox.length > 0).map(([name, port]) => [name, port.inbox.map(({ bytes }) => bytes)]));
    },
  };
  for (const name of [...nic.ports, ...extra]) made.port(name);
  return made;
}

/** The address of a function: 02:00:00:00:01:<number>. */
export const macOf = (vf: number): string => `02:00:00:00:01:${vf.toString(16).padStart(2, '0')}`;
export const bytesOf = (mac: string): number[] => mac.split(':').map((byte) => Number.parseInt(byte, 16));

export interface To {
  readonly to?: string;
  readonly from?: string;
  readonly vlans?: readonly number[];
}

/** A frame of an EtherType that nobody knows, with a number in it. */
export function plain(n: number, { to = 'ff:ff:ff:ff:ff:ff', from = macOf(0), vlans = [] }: To = {}): Uint8Array {
  return ethernet(0x88b5, [n >> 8, n & 0xff, ...new Array(46).fill(n & 0xff)], { to: bytesOf(to), from: bytesOf(from), vlans });
}

/** Which frames arrived where: lengths of the lists by port. */
export const counts = (arrived: Record<string, Uint8Array[]>): Record<string, number> =>
  Object.fromEntries(Object.entries(arrived).map(([name, list]) => [name, list.length]));
