// `nicbox lspci`: the PCI functions of a lab's guests.

import { readFile } from 'node:fs/promises';
import { Command, Option } from 'commander';
import { inspectLab, type ListingFormat } from '#lab/inspect';
import { type LabDescription, LabError, parseLab } from '#lab/lab-file';
import { TOUR_LAB } from '#lab/tour-lab';
import { print } from './output.ts';

/** Reads a lab file, or takes the tour's lab. @throws LabError */
export async function loadLab(path: string | undefined): Promise<LabDescription> {
  if (path === undefined) return TOUR_LAB;
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw new LabError(`cannot read lab file ${path}: ${(error as Error).message}`);
  }
  try {
    return parseLab(text);
  } catch (error) {
    throw new LabError(`${path}: ${(error as Error).message}`);
  }
}

export function lspciCommand(): Command {
  return new Command('lspci')
    .description('Build the machines of a lab, let a guest enumerate them, and list their PCI functions by reading configuration space alone.')
    .option('--lab <file>', 'a lab file (default: the lab of "nicbox tour")')
    .option('--guest <name>', 'only this guest')
    .addOption(new Option('-t, --tree', 'the tree of buses').conflicts(['verbose', 'hex']))
    .addOption(new Option('-v, --verbose', 'every capability decoded, as lspci -vvv').conflicts('hex'))
    .addOption(new Option('-x, --hex', 'all configuration bytes, in the form "lspci -F FILE" reads'))
    .option('--json', 'print [{ name, listing }]')
    .addHelpText('after', '\nExamples:\n  nicbox lspci -t\n  nicbox lspci -v --guest b\n  nicbox lspci -x --guest a > a.hex; lspci -F a.hex -vvv')
    .action(async (options: { lab?: string; guest?: string; tree?: boolean; verbose?: boolean; hex?: boolean; json?: boolean }) => {
      const format: ListingFormat = options.hex ? 'hex' : options.verbose ? 'verbose' : options.tree ? 'tree' : 'list';
      const listings = await inspectLab(await loadLab(options.lab), format, options.guest);
      if (options.json) print(JSON.stringify(listings, null, 2));
      // Real lspci reads the bytes only: no headings between them.
      else if (format === 'hex' || listings.length === 1) print(listings.map(({ listing }) => listing).join('\n'));
      else print(listings.map(({ name, listing }) => `guest ${name}\n${listing}`).join('\n'));
    });
}
