// The experiment of "Unleashing SR-IOV (Offload) on Virtual Machines" (Washizu, Netdev 0x17 and KVM Forum 2024): pairs of containers in guests of one host, and three ways for a frame from one to the other. What the ways are, where the
// containers are placed, and what is measured; container-pairs.ts does the measuring.

export const PATHS = ['bridge', 'software', 'offload'] as const;
export type Path = (typeof PATHS)[number];
export const PATH_NAMES: Record<Path, string> = {
  bridge: '(i) guest bridge',
  software: '(ii) VF + software switch',
  offload: '(iii) VF + offloaded switch',
};

/** What switches on path (ii), and between two guests' NICs on path (i). */
export const SWITCHES = ['switch', 'vale'] as const;
export type SoftwareSwitch = (typeof SWITCHES)[number];

/** Real threads and time, or declared costs in simulated time. */
export const MODES = ['wall', 'model'] as const;
export type Mode = (typeof MODES)[number];

/** One guest with both containers of each pair, or a pair's sender in one and its receiver in the other. */
export const GUESTS = [1, 2] as const;
export type Guests = (typeof GUESTS)[number];

/** What rows are compared within. */
export interface Setting {
  readonly mode: Mode;
  readonly guests: Guests;
  /** Processors of each guest; in real time one thread is all of them, and both guests take turns on it. */
  readonly vcpus: number;
}

export const FCS = 4;
/** A request is one frame of one buffer: of longer frames no round trip is measured. */
export const LONGEST_REQUEST = 1514;
export const MOST_PAIRS = 64;
export const MOST_VCPUS = 64;
export const DEFAULT_PAIRS: readonly number[] = [1, 8, 64];
/** With FCS. The last are TCP segmentation offload frames, which no one on the way cuts. */
export const DEFAULT_SIZES: readonly number[] = [64, 1500, 65_536];
/** Of the model. */
export const DEFAULT_VCPUS: readonly number[] = [1, 4];

/** Nanoseconds for each frame. */
export interface Cost {
  /** CPU time of all guests. */
  readonly guest: number;
  /** CPU time of the host: what switches in software, and what serves exits. */
  readonly host: number;
  /** What the NIC takes: a thread's time where one stands for it, a pipeline's in the model. No CPU time where there is a NIC. */
  readonly nic: number;
}

/** Everything is of all containers together; costs are for each frame of the stream. */
export interface Measured {
  /** Bytes on the wire, with the FCS. */
  readonly size: number;
  readonly pairs: number;
  readonly frames: number;
  readonly seconds: number;
  readonly framesPerSecond: number;
  readonly gigabitsPerSecond: number;
  /** null: this system does not say what a thread used. */
  readonly cpu: Cost | null;
  /** The part of the time that each was busy; of real time nothing is known. */
  readonly busy: readonly { readonly who: string; readonly share: number }[];
  readonly exitsPerFrame: number;
  readonly interruptsPerFrame: number;
  /** Doorbells rung without an exit, and how many found who serves them asleep. */
  readonly kicksPerFrame: number;
  readonly wakesPerFrame: number;
  /** Round trips of one request at a time in each pair, in nanoseconds; null where none are measured. */
  readonly roundTrip: { readonly p50: number; readonly p99: number; readonly count: number } | null;
  /** Why the row does not count; empty: every frame that was sent arrived, once, in its flow's order and whole. */
  readonly errors: readonly string[];
}

export interface OffloadRow extends Setting, Measured {
  readonly path: Path;
}

export interface OffloadListener {
  starts(setting: Setting, path: Path, pairs: number, done: number, total: number): void;
}

/** Of a path that did not get to its end: none of its figures count. */
export function failedRow(setting: Setting, path: Path, size: number, pairs: number, error: string): OffloadRow {
  const nothing = {
    frames: 0,
    seconds: 0,
    framesPerSecond: 0,
    gigabitsPerSecond: 0,
    exitsPerFrame: 0,
    interruptsPerFrame: 0,
    kicksPerFrame: 0,
    wakesPerFrame: 0,
  };
  return { ...setting, path, size, pairs, ...nothing, cpu: null, busy: [], roundTrip: null, errors: [error] };
}

export function gigabits(framesPerSecond: number, size: number): number {
  return (framesPerSecond * size * 8) / 1e9;
}

export const sizeName = (size: number): string => (size % 1024 === 0 ? `${size / 1024} KiB` : `${size} B`);

const settingKey = ({ mode, guests, vcpus }: Setting): string => `${mode} ${guests} ${vcpus}`;
export const sameSetting = (a: Setting, b: Setting): boolean => settingKey(a) === settingKey(b);

/** Each once, in the order of their first rows. */
export function settingsOf(rows: readonly OffloadRow[]): Setting[] {
  return [...new Map(rows.map(({ mode, guests, vcpus }) => [settingKey({ mode, guests, vcpus }), { mode, guests, vcpus }])).values()];
}

export function settingName({ mode, guests, vcpus }: Setting): string {
  const processors =
    mode === 'wall'
      ? guests === 1
        ? ', one thread'
        : ' in turns on one thread'
      : ` of ${vcpus} processor${vcpus === 1 ? '' : 's'}${guests === 2 ? ' each' : ''}`;
  return `${mode === 'wall' ? 'Wall clock' : 'Model'}, ${guests === 1 ? 'one guest' : 'two guests'}${processors}`;
}

/** Path (i)'s row that this one is told against. */
export function baseOf(all: readonly OffloadRow[], row: OffloadRow): OffloadRow | undefined {
  return all.find((r) => r.path === 'bridge' && sameSetting(r, row) && r.size === row.size && r.pairs === row.pairs && r.errors.length === 0);
}

/** Frames per second against path (i)'s, same setting, size and pairs; NaN where that row is missing or does not count. */
export function ratio(all: readonly OffloadRow[], row: OffloadRow): number {
  return row.framesPerSecond / (baseOf(all, row)?.framesPerSecond ?? Number.NaN);
}

/** The same of guest CPU time for each frame: what a path takes off the guest. */
export function guestCpuRatio(all: readonly OffloadRow[], row: OffloadRow): number {
  return (row.cpu?.guest ?? Number.NaN) / (baseOf(all, row)?.cpu?.guest ?? Number.NaN);
}

/** Who was busiest, which is what the rate follows from; '' where that is not known. */
export function limitOf({ busy }: OffloadRow): string {
  const [most] = [...busy].sort((a, b) => b.share - a.share);
  return most === undefined ? '' : `${most.who} ${Math.min(100, Math.round(most.share * 100))} %`;
}
