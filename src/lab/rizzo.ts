// The experiment of "Lightning fast networking in your virtual machine" (Rizzo, Lettieri and Maffione, 2013): an e1000 at each of two guests, and four techniques that can each be
// on or off. What the techniques are, what is measured, and what it means; rizzo-wall.ts and rizzo-model.ts do the measuring.

import type { Nanos } from '#core/clock';
import type { E1000Options } from '#guest-sim/e1000-options';
import type { Job } from '#guest-sim/workload';
import type { ServiceBudget } from '#net/segment';

export interface Techniques {
  /** 1: interrupts at most every ITR. */
  readonly mitigation: boolean;
  /** 2: while a transmit interrupt is due the driver leaves the tail to it. */
  readonly combining: boolean;
  /** 3: driver and device share a block of memory, and a worker serves the rings. */
  readonly csb: boolean;
  /** 4: a switch that forwards batches, in place of a link that forwards and notifies frame by frame. */
  readonly vale: boolean;
  /** No technique of the paper: guests that look all the time, and take no interrupt for it. */
  readonly polling?: true;
}

const TECHNIQUES = ['mitigation', 'combining', 'csb', 'vale'] as const satisfies readonly (keyof Techniques)[];
export const MODES = ['wall', 'model'] as const;
export type Mode = (typeof MODES)[number];

/** All sixteen; the baseline first, all four last. */
export const COMBINATIONS: readonly Techniques[] = Array.from({ length: 16 }, (_, bits) => ({
  mitigation: (bits & 1) !== 0,
  combining: (bits & 2) !== 0,
  csb: (bits & 4) !== 0,
  vale: (bits & 8) !== 0,
}));

/** All four, with nobody ever asleep: what is left when waking costs nothing. Measured in real time only. */
export const POLLING: Techniques = { mitigation: true, combining: true, csb: true, vale: true, polling: true };

export function nameOf(techniques: Techniques): string {
  const on = TECHNIQUES.filter((t) => techniques[t]);
  if (on.length === 0) return 'baseline';
  return `${on.length === TECHNIQUES.length ? 'all four' : on.join(' + ')}${techniques.polling ? ', polling' : ''}`;
}

export interface Load {
  readonly name: string;
  /** Bytes on the wire, with the FCS. */
  readonly size: number;
  /** Frames added between two looks at the device; 0: one request at a time. */
  readonly burst: number;
}

const BATCH = 128;
const FCS = 4;

/** A socket-like sender (a tail write a frame), a netmap-like one (a tail write a batch) and requests, for each size. */
export function loadsFor(sizes: readonly number[]): Load[] {
  const loads = sizes.flatMap((size) => [
    { name: `UDP ${size} B`, size, burst: 1 },
    { name: `netmap ${size} B`, size, burst: BATCH },
  ]);
  return [...loads, { name: 'request/response', size: Math.min(...sizes), burst: 0 }];
}

/** Of a request: on a machine that has other things to do an answer may take its time, and is not lost. */
const PATIENCE: Nanos = 10e9;

export function jobOf({ size, burst }: Load, count: number, destination: readonly number[]): Job {
  return burst === 0
    ? { kind: 'ping', count, size: size - FCS, destination, patience: PATIENCE }
    : { kind: 'generate', count, sizes: [size - FCS], burst, destination };
}

/** 51.2 us between interrupts: about 20,000 a second. */
const ITR = 200;
/** Descriptors in each ring: of the model, and in real time, where the millisecond after which the event loop's timers fire is to be bridged too. */
const RING: Record<Mode, number> = { model: 1024, wall: 4096 };

const FOR_EVER = 2 ** 31;

export function driverFor(mode: Mode, { mitigation, combining, csb, polling }: Techniques): E1000Options {
  return {
    ringSize: polling ? RING.model : RING[mode],
    sendCombining: combining,
    csb,
    flowControl: false,
    ...(mitigation && { moderation: { itr: ITR } }),
    ...(polling && { busyPolls: FOR_EVER }),
  };
}

/** Technique 4's opposite, a TAP's way: one frame a turn, and a notification for each. */
export const FRAME_BY_FRAME: ServiceBudget = { frames: 1, bytes: 65_536 };

export const MAC_A = [0x52, 0x54, 0, 0, 0, 1] as const;
export const MAC_B = [0x52, 0x54, 0, 0, 0, 2] as const;

/** Costs are of both guests together, for each frame (or round trip). */
export interface Measurement {
  readonly mode: Mode;
  readonly techniques: Techniques;
  readonly load: Load;
  readonly frames: number;
  /** Of the model, simulated. */
  readonly seconds: number;
  readonly framesPerSecond: number;
  readonly exitsPerFrame: number;
  readonly interruptsPerFrame: number;
  /** Sleeping guests and, where there is one, sleeping workers that were woken. */
  readonly wakesPerFrame: number;
  /** Round trips, in nanoseconds; 0 for streams. */
  readonly p50: number;
  readonly p99: number;
  readonly errors: readonly string[];
}

export interface RizzoListener {
  starts(mode: Mode, techniques: Techniques, done: number, total: number): void;
}

/** What one technique brings: factors of frames per second. */
export interface Gain {
  readonly mode: Mode;
  readonly load: string;
  readonly technique: keyof Techniques;
  /** It alone against the baseline; all four against the other three. */
  readonly alone: number;
  readonly onTop: number;
}

function find(all: readonly Measurement[], mode: Mode, load: string, techniques: Techniques): Measurement | undefined {
  return all.find((m) => m.mode === mode && m.load.name === load && nameOf(m.techniques) === nameOf(techniques));
}

const [BASELINE, ALL] = [COMBINATIONS[0] as Techniques, COMBINATIONS[15] as Techniques];

/** Frames per second against the baseline's, same mode and load. */
export function ratio(all: readonly Measurement[], m: Measurement): number {
  return m.framesPerSecond / (find(all, m.mode, m.load.name, BASELINE)?.framesPerSecond ?? Number.NaN);
}

export function gains(all: readonly Measurement[]): Gain[] {
  const keys = [...new Set(all.map((m) => `${m.mode}\n${m.load.name}`))].map((key) => key.split('\n') as [Mode, string]);
  return keys.flatMap(([mode, load]) => {
    const rate = (techniques: Techniques): number => find(all, mode, load, techniques)?.framesPerSecond ?? Number.NaN;
    return TECHNIQUES.map((technique) => ({
      mode,
      load,
      technique,
      alone: rate({ ...BASELINE, [technique]: true }) / rate(BASELINE),
      onTop: rate(ALL) / rate({ ...ALL, [technique]: false }),
    }));
  });
}

/** The published comparison: a socket-like sender without any technique (80 Kpps), a netmap-like one with all four (4 Mpps), 64 B; in words, or nothing without those rows. */
export function headline(all: readonly Measurement[], mode: Mode): string[] {
  const base = find(all, mode, 'UDP 64 B', BASELINE);
  const found = base && find(all, mode, 'netmap 64 B', ALL);
  if (base === undefined || found === undefined) return [];
  const kilo = (m: Measurement): string => Math.round(m.framesPerSecond / 1000).toLocaleString('en');
  const against = (m: Measurement): string => `${kilo(m)} K, ${(m.framesPerSecond / base.framesPerSecond).toFixed(0)} x`;
  const polling = find(all, mode, 'netmap 64 B', POLLING);
  const lines = [
    `${mode === 'wall' ? 'Wall clock' : 'Model'}, as published (sockets without any technique to netmap with all four, 64 B; 80 K to 4 M, 50 x): ${kilo(base)} K to ${against(found)}${polling ? `; guests that poll: ${against(polling)}` : ''} frames/s.`,
  ];
  // A sender that makes an exit for each frame is as fast as exits are, its receiver's among them.
  if (mode === 'wall') {
    const exit = 1e6 / (base.framesPerSecond * base.exitsPerFrame);
    lines.push(`An exit is a hand-over to the machine's thread and back; with what it made the device do one took ${exit.toFixed(1)} us in the baseline.`);
  }
  return lines;
}

/** The published figure (BSDCan 2013; 2013 hardware, KVM, C) that a row answers to, or ''. */
export function published({ techniques, load }: Measurement): string {
  const name = nameOf(techniques).replace(', polling', '');
  if (load.burst === 0) return name === 'all four' ? '< 100 us' : '';
  if (load.size !== 64) return '';
  if (name === 'baseline') return load.burst === 1 ? '80 Kpps' : '';
  if (name !== 'all four') return '';
  return load.burst === 1 ? '1 Mpps (sockets)' : '4 Mpps (netmap)';
}
