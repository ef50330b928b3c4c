// The tables of docs/real-guests.md that say which check passed on which device by which path: written from the run, one section for each path, between markers, columns of devices that did
// not run as they were. What a path cannot show has its reason below the table.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cache, exclusively, project } from './host.ts';
import type { PathKind } from './pci-checks.ts';
import { PCI_DEVICES } from './pci-devices.ts';
import type { CheckResult } from './pci-guest.ts';

const FILE = join(project, 'docs/real-guests.md');

export interface DeviceResult {
  readonly device: string;
  readonly checks: readonly CheckResult[];
}

/** Both paths' tables are in one file, and their tests may end at the same time. @param path names the section; its markers have to be in the file */
export async function writeReport(path: PathKind, results: readonly DeviceResult[]): Promise<void> {
  await exclusively(join(cache, 'report.lock'), async () => write(path, results));
}

const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;

/** What a table says of a device's check. */
function cellOf(table: string, device: string, check: string): string | undefined {
  const [head = [], ...rows] = table.split('\n').map((line) => line.split('|').map((cell) => cell.trim()));
  const column = head.indexOf(device);
  return column < 0 ? undefined : rows.find(([, name]) => name === check)?.[column];
}

function write(path: PathKind, results: readonly DeviceResult[]): void {
  const [begin, end] = [`<!-- ${path}: begin -->`, `<!-- ${path}: end -->`];
  const text = readFileSync(FILE, 'utf8');
  const [from, to] = [text.indexOf(begin), text.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`${FILE} has no markers ${begin} and ${end}`);
  const before = text.slice(from + begin.length + 1, to);
  const reasons: string[] = [];
  const note = (reason: string): string => {
    if (!reasons.includes(reason)) reasons.push(reason);
    return `(${reasons.indexOf(reason) + 1})`;
  };
  const names = [...new Set(PCI_DEVICES.flatMap(({ checks }) => checks.map(({ name }) => name)))];
  const columns = PCI_DEVICES.map(({ name: device, checks, not }) => {
    const ran = results.find((result) => result.device === device)?.checks;
    return names.map((name) => {
      const asked = checks.find((check) => check.name === name);
      if (asked === undefined) return '-';
      const why = not?.[path] ?? asked.not?.[path];
      if (why !== undefined) return note(why);
      if (ran === undefined) return cellOf(before, device, name) ?? '-';
      // A check that failed has the guest's line for a name.
      return ran.some((check) => check.ok && check.name === name) ? 'ok' : 'failed';
    });
  });
  const table = [
    row(['check', ...PCI_DEVICES.map(({ name }) => name)]),
    row(['---', ...PCI_DEVICES.map(() => '---')]),
    ...names.map((name, i) => row([name, ...columns.map((column) => column[i] as string)])),
    ...(reasons.length === 0 ? [] : ['', reasons.map((reason, i) => `(${i + 1}) ${reason}.`).join(' ')]),
  ];
  const written = `${text.slice(0, from + begin.length)}\n${table.join('\n')}\n${text.slice(to)}`;
  if (written !== text) writeFileSync(FILE, written);
}
