// The table of docs/real-guests.md that says which check passed on which device by which path: written from the run, one section for each path, between markers.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { project } from './host.ts';
import type { CheckResult } from './pci-guest.ts';

const FILE = join(project, 'docs/real-guests.md');

export interface DeviceResult {
  readonly device: string;
  readonly checks: readonly CheckResult[];
}

/** @param path names the section; its markers have to be in the file */
export function writeReport(path: string, results: readonly DeviceResult[]): void {
  const names = [...new Set(results.flatMap(({ checks }) => checks.filter(({ ok }) => ok).map(({ name }) => name)))];
  const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  // A check that failed has the guest's line for a name. What a device was not asked is neither.
  const cell = ({ checks }: DeviceResult, name: string): string => {
    if (checks.some((check) => check.ok && check.name === name)) return 'ok';
    return checks.some((check) => !check.ok && check.name.includes(` ${name}:`)) ? 'failed' : '-';
  };
  const table = [
    row(['check', ...results.map(({ device }) => device)]),
    row(['---', ...results.map(() => '---')]),
    ...names.map((name) => row([name, ...results.map((result) => cell(result, name))])),
  ];
  const [begin, end] = [`<!-- ${path}: begin -->`, `<!-- ${path}: end -->`];
  const text = readFileSync(FILE, 'utf8');
  const [from, to] = [text.indexOf(begin), text.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`${FILE} has no markers ${begin} and ${end}`);
  const written = `${text.slice(0, from + begin.length)}\n${table.join('\n')}\n${text.slice(to)}`;
  if (written !== text) writeFileSync(FILE, written);
}
