// What help texts have beside commander's own: it wraps descriptions, and prints what is added after them as it is.

import type { Command, Option } from 'commander';

const COLUMNS = 80;

/** Broken into lines of a terminal's width. */
export function paragraph(text: string): string {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(/\s+/)) {
    if (line !== '' && line.length + 1 + word.length > COLUMNS) {
      lines.push(line);
      line = word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line].join('\n');
}

/** Commander shows a default that is a list or a record as JSON; shown is what one would type. */
export function tellDefaults(command: Command): void {
  for (const option of command.options as Option[]) {
    const { defaultValue: value } = option;
    if (option.defaultValueDescription !== undefined || typeof value !== 'object' || value === null) continue;
    option.defaultValueDescription = Array.isArray(value)
      ? value.join(',')
      : Object.entries(value)
          .map(([name, of]) => `${name}=${of}`)
          .join(', ');
  }
}
