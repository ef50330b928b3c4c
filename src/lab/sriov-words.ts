// The SR-IOV experiment's results in words: what shares what, what the figures are, and what (iii) brings.

import { COST_SOURCES, type OffloadCosts } from './sriov-costs.ts';
import {
  baseOf,
  guestCpuRatio,
  limitOf,
  type Mode,
  type OffloadRow,
  ratio,
  type SoftwareSwitch,
  sameSetting,
  settingName,
  settingsOf,
  sizeName,
} from './sriov-offload.ts';

export interface Circumstances {
  readonly modes: readonly Mode[];
  readonly software: SoftwareSwitch;
  /** As SriovOffloadOptions has them. */
  readonly bridgeCost: number;
  readonly costs: OffloadCosts;
  readonly processors: number;
  readonly load: number;
}

export function notesFor({ modes, software, bridgeCost, costs, processors, load }: Circumstances): string[] {
  const kind = software === 'vale' ? 'a VALE switch' : 'a learning switch';
  return [
    `(i): containers on a bridge in their guest; between two guests, each guest's bridge, its one virtio-net NIC, and on the host a vhost-net worker with ${kind}. (ii): a virtual function for each container, rings served by a vhost-net worker, ${kind}. (iii): the same functions over vDPA, and a NIC's embedded switch in legacy mode, which knows each function's address from the host.`,
    'Exits, interrupts, kicks and CPU time are for each frame of the streams; round trips are of one request at a time in every pair, all pairs at once. Guest CPU is that of all guests together, host CPU what switches in software and what serves exits.',
    ...(modes.includes('wall') ? wallNotes(bridgeCost, processors, load) : []),
    ...(modes.includes('model') ? modelNotes(costs) : []),
  ];
}

function wallNotes(bridgeCost: number, processors: number, load: number): string[] {
  const besides =
    bridgeCost > 0 ? `, and then takes ${bridgeCost} ns more for each, as was asked (--bridge-cost) for what a kernel does besides` : ', at no cost but that';
  return [
    `Wall clock: the code here in real time. All containers and guests take turns on one thread, what switches has another, and the machines' thread serves exits. A guest's bridge copies each frame once${besides}. On (iii) a thread does in software what a NIC does in silicon, and is what limits it: compare guest CPU time, exits and wakes there, and throughput in the model. Guest CPU time leaves out looks in vain.`,
    `Measured at a load of ${load.toFixed(1)} on ${processors} processor${processors === 1 ? '' : 's'}.`,
  ];
}

function modelNotes(costs: OffloadCosts): string[] {
  const declared = Object.entries(COST_SOURCES).map(([name, source]) => `${name} ${costs[name as keyof OffloadCosts]} (${source})`);
  return [
    "Model: the same drivers, rings and switches in simulated time, where what each step takes is declared and the code's own speed counts for nothing: the rates follow from these costs. A guest's processors, one processor of the host's for all that is switched in software, and a NIC, which takes no CPU time. 'Busiest' says whose time the rate is bound by.",
    `Costs in nanoseconds: ${declared.join('; ')}.`,
  ];
}

/** The rows of path (iii) with the most pairs, for each setting and size, that can be told against (i). */
export function comparisons(all: readonly OffloadRow[]): OffloadRow[] {
  return settingsOf(all).flatMap((setting) =>
    [...new Set(all.map((row) => row.size))].flatMap((size) => {
      const rows = all.filter((r) => sameSetting(r, setting) && r.size === size && r.path === 'offload' && r.errors.length === 0);
      const most = rows.reduce<OffloadRow | undefined>((best, r) => (best === undefined || r.pairs > best.pairs ? r : best), undefined);
      return most !== undefined && Number.isFinite(ratio(all, most)) ? [most] : [];
    }),
  );
}

export function headline(all: readonly OffloadRow[]): string[] {
  return comparisons(all).map((row) => {
    const base = baseOf(all, row);
    const cpu = guestCpuRatio(all, row);
    const guest = Number.isFinite(cpu) ? `, for ${cpu.toFixed(2)} x the guest CPU time a frame` : '';
    const bounds = base && limitOf(row) !== '' ? ` (busiest: ${limitOf(base)} on (i), ${limitOf(row)} on (iii))` : '';
    return `${settingName(row)}, ${sizeName(row.size)}, ${row.pairs} pair${row.pairs === 1 ? '' : 's'}: (iii) moves ${ratio(all, row).toFixed(2)} x the frames of (i)${guest}${bounds}.`;
  });
}
