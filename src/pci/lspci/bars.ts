// Writes base address registers. Their sizes are not in configuration space without writing to it, so they come from the caller's decode list.

import { hex, sizeText } from './text.ts';

/** The text of a BAR, or undefined for one that is not there (reads zero). `high` is only read for a 64-bit BAR. */
export function barText(low: number, high: () => number, size: number | undefined, decoding = true): string | undefined {
  if (low === 0 && size === undefined) return undefined;
  const tail = `${decoding ? '' : ' [disabled]'}${size === undefined ? '' : ` [size=${sizeText(size)}]`}`;
  if ((low & 1) === 1) return `I/O ports at ${hex((low & ~3) >>> 0, 4)}${tail}`;
  const wide = (low & 6) === 4;
  const address = wide ? hex(high(), 8) + hex((low & ~15) >>> 0, 8) : hex((low & ~15) >>> 0, 8);
  return `Memory at ${address} (${wide ? '64' : '32'}-bit, ${low & 8 ? '' : 'non-'}prefetchable)${tail}`;
}
