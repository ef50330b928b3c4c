// The experiment of "Unleashing SR-IOV (Offload) on Virtual Machines" (Washizu, KVM Forum 2024): pairs of containers in one guest, and three ways for a frame from one to the other. What the
// ways are, what is measured, and what it means; sriov-guest-worker.ts does the measuring inside the guest.

export const PATHS = ['bridge', 'software', 'offload'] as const;
export type Path = (typeof PATHS)[number];
export const PATH_NAMES: Record<Path, string> = {
  bridge: '(i) guest bridge',
  software: '(ii) VF + software switch',
  offload: '(iii) VF + offloaded switch',
};

/** What switches on path (ii). */
export const SWITCHES = ['switch', 'vale'] as const;
export type SoftwareSwitch = (typeof SWITCHES)[number];

export const FCS = 4;
/** A request is one frame of one buffer: of longer frames no round trip is measured. */
export const LONGEST_REQUEST = 1514;
export const MOST_PAIRS = 64;
export const DEFAULT_PAIRS: readonly number[] = [1, 4, 16, 64];
/** With FCS. The last are TCP segmentation offload frames, which no one on the way cuts. */
export const DEFAULT_SIZES: readonly number[] = [64, 1500, 65_536];

/** Nanoseconds of CPU time for each frame. */
export interface Cost {
  /** The guest's thread. */
  readonly guest: number;
  /** The machine's thread, which serves exits. */
  readonly exits: number;
  /** All the rest of the process: the thread that switches, and the engine's own. */
  readonly switching: number;
}

/** Everything is of all containers together; costs are for each frame of the stream. */
export interface OffloadRow {
  readonly path: Path;
  /** Bytes on the wire, with the FCS. */
  readonly size: number;
  readonly pairs: number;
  readonly frames: number;
  readonly seconds: number;
  readonly framesPerSecond: number;
  readonly gigabitsPerSecond: number;
  /** null: this system does not say what a thread used. */
  readonly cpu: Cost | null;
  readonly exitsPerFrame: number;
  readonly interruptsPerFrame: number;
  /** Doorbells rung without an exit, and how many found the switch's worker asleep. */
  readonly kicksPerFrame: number;
  readonly wakesPerFrame: number;
  /** Round trips of one request at a time in each pair, in nanoseconds; null where none are measured. */
  readonly roundTrip: { readonly p50: number; readonly p99: number; readonly count: number } | null;
  /** Why the row does not count; empty: every frame that was sent arrived, once, in its flow's order and whole. */
  readonly errors: readonly string[];
}

export interface OffloadListener {
  starts(path: Path, pairs: number, done: number, total: number): void;
}

/** Of a path that did not get to its end: none of its figures count. */
export function failedRow(path: Path, size: number, pairs: number, error: string): OffloadRow {
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
  return { path, size, pairs, ...nothing, cpu: null, roundTrip: null, errors: [error] };
}

export function gigabits(framesPerSecond: number, size: number): number {
  return (framesPerSecond * size * 8) / 1e9;
}

export const sizeName = (size: number): string => (size % 1024 === 0 ? `${size / 1024} KiB` : `${size} B`);

function baseOf(all: readonly OffloadRow[], row: OffloadRow): OffloadRow | undefined {
  return all.find((r) => r.path === 'bridge' && r.size === row.size && r.pairs === row.pairs && r.errors.length === 0);
}

/** Frames per second against path (i)'s, same size and pairs; NaN where that row is missing or does not count. */
export function ratio(all: readonly OffloadRow[], row: OffloadRow): number {
  return row.framesPerSecond / (baseOf(all, row)?.framesPerSecond ?? Number.NaN);
}

/** The same of guest CPU time for each frame: what a path takes off the guest. */
export function guestCpuRatio(all: readonly OffloadRow[], row: OffloadRow): number {
  return (row.cpu?.guest ?? Number.NaN) / (baseOf(all, row)?.cpu?.guest ?? Number.NaN);
}

/**
 * In words: what shares what, and what the figures are.
 * @param bridgeCost nanoseconds, as SriovOffloadOptions has it
 */
export function notesFor(software: SoftwareSwitch, bridgeCost: number, processors: number, load: number): string[] {
  return [
    "One guest on one thread: all its containers, senders and receivers, their drivers, and on path (i) the bridge share that one processor. On paths (ii) and (iii) a worker's thread switches, on another. The machine's own thread serves exits, and sleeps while there are none.",
    `(i): containers on a bridge in the guest, which copies each frame once, from its sender's memory to its receiver's${bridgeCost > 0 ? `, and then takes ${bridgeCost} ns of the guest's processor more for each, as was asked (--bridge-cost) for what a kernel does besides` : ', at no cost but that'}. (ii): a virtual function for each container, rings served by a vhost-net worker, ${software === 'vale' ? 'a VALE switch' : 'a learning switch'}. (iii): the same functions over vDPA, and a NIC's embedded switch in legacy mode, which knows each function's address from the host.`,
    "CPU time a frame: of the guest's thread and of the machine's (exits), as the kernel accounts threads; 'switching' is all the rest of the process, which is the worker's thread but for what the engine's own take. On (ii) that thread looks for work for a moment before it sleeps. On (iii) it stands for the NIC: it never sleeps, and what it takes is no host's CPU time where the NIC is one.",
    `Measured at a load of ${load.toFixed(1)} on ${processors} processor${processors === 1 ? '' : 's'}. Exits, interrupts, kicks and CPU time are for each frame of the streams; round trips are of one request at a time in every pair, all pairs at once.`,
  ];
}

/** What (iii) brings, at the most pairs of each size, in words. */
export function headline(all: readonly OffloadRow[]): string[] {
  return [...new Set(all.map((r) => r.size))].flatMap((size) => {
    const rows = all.filter((r) => r.size === size && r.path === 'offload' && r.errors.length === 0);
    const row = rows.reduce<OffloadRow | undefined>((best, r) => (best === undefined || r.pairs > best.pairs ? r : best), undefined);
    if (row === undefined || !Number.isFinite(ratio(all, row))) return [];
    const cpu = guestCpuRatio(all, row);
    const guest = Number.isFinite(cpu) ? `, for ${cpu.toFixed(2)} x the guest CPU time a frame` : '';
    return [`${sizeName(size)}, ${row.pairs} pair${row.pairs === 1 ? '' : 's'}: (iii) moves ${ratio(all, row).toFixed(2)} x the frames of (i)${guest}.`];
  });
}
