// Parts of documents that tests write: what the code says, between two marks.

import { readFileSync, writeFileSync } from 'node:fs';

/** What stands between the marks; with NICBOX_WRITE_DOCS=1 that is `made` from now on. */
export function writtenPart(file: URL, begin: string, end: string, made: string): string {
  const text = readFileSync(file, 'utf8');
  const [before, rest] = text.split(begin) as [string, string];
  const [old, after] = rest.split(end) as [string, string];
  if (process.env.NICBOX_WRITE_DOCS !== '1') return old;
  writeFileSync(file, `${before}${begin}${made}${end}${after}`);
  return made;
}
