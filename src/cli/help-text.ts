// What help texts have beside commander's own: it wraps descriptions, and prints what is added after them as it is.

import { type Command, Help, type Option } from 'commander';

const COLUMNS = 80;

/** Broken into lines of a terminal's width. */
export const paragraph = (text: string): string => new Help().boxWrap(text, COLUMNS);

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
