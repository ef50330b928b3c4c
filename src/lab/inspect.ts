// What a lab's machines look like to their guests: enumerated by the synthetic guest, then read through configuration space alone, as lspci does.

import { InlineSegment } from '#backends/inline-backend';
import { enumeratePci } from '#guest-sim/pci-enumerate';
import { DirectLink } from '#net/direct-link';
import { LearningSwitch } from '#net/learning-switch';
import { Segment } from '#net/segment';
import type { Machine } from '#nicbox/machine';
import { lspci, lspciTree, lspciVerbose, toHexDump } from '#pci/lspci';
import { type LabDescription, LabError } from './lab-file.ts';
import { buildMachine } from './topology.ts';

export type ListingFormat = 'list' | 'tree' | 'verbose' | 'hex';

/** Lists an enumerated machine. Sizes of BARs come from what decodes now, as they cannot be read without disturbing them. */
export function listMachine(machine: Machine, format: ListingFormat): string {
  const { fabric } = machine;
  const sizes = new Map(fabric.decoded().map((d) => [d.bdf * 8 + d.bar, d.size]));
  // From outside: a look around is no request of the guest's, which devices that are not there would refuse (and others log).
  const read = (bdf: number, offset: number, size: 1 | 2 | 4): number => fabric.functionAt(bdf)?.configRead(offset, size) ?? 2 ** (8 * size) - 1;
  const options = { barSize: (bdf: number, bar: number): number | undefined => sizes.get(bdf * 8 + bar) };
  return { list: lspci, tree: lspciTree, verbose: lspciVerbose, hex: toHexDump }[format](read, options);
}

/** Builds the lab's machines (without starting anything), lets a guest enumerate each and lists them by name. @throws LabError for a guest that is not there. */
export async function inspectLab(lab: LabDescription, format: ListingFormat, only?: string): Promise<{ readonly name: string; readonly listing: string }[]> {
  if (only !== undefined && !lab.guests.some((g) => g.name === only))
    throw new LabError(`there is no guest "${only}" in this lab: ${lab.guests.map((g) => g.name).join(', ')}`);
  const segments = new Map(lab.links.map((l) => [l.name, new InlineSegment(new Segment(l.type === 'direct' ? new DirectLink() : new LearningSwitch()))]));
  const listings: { name: string; listing: string }[] = [];
  for (const [index, guest] of lab.guests.entries()) {
    if (only !== undefined && guest.name !== only) continue;
    const { machine } = buildMachine(guest, index, {
      backend: (device) => (segments.get(device.link) as InlineSegment).port(`${guest.name}-${device.link}`, device.queuePairs),
    });
    enumeratePci(machine.localBus());
    listings.push({ name: guest.name, listing: listMachine(machine, format) });
    await machine.close();
  }
  return listings;
}
