// The listing against golden dumps (set NICBOX_WRITE_GOLDEN=1 to write them anew after looking at the difference), and against hostile configuration space.
import { readFileSync, writeFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { AccessSize } from '#core/region';
import { lspci, lspciTree, lspciVerbose, toHexDump } from '#pci/lspci';
import { barSizes, makeGoldenMachine } from './golden-machine.ts';

function expectGolden(name: string, text: string): void {
  const file = new URL(`./golden/${name}.txt`, import.meta.url);
  if (process.env.NICBOX_WRITE_GOLDEN === '1') writeFileSync(file, text);
  expect(text).toBe(readFileSync(file, 'utf8'));
}

describe('lspci', () => {
  const { fabric } = makeGoldenMachine();
  const read = (bdf: number, offset: number, size: AccessSize) => fabric.functionAt(bdf)?.configRead(offset, size) ?? 2 ** (8 * size) - 1;

  it('lists the functions', () => expectGolden('list', lspci(read)));
  it('shows the tree', () => expectGolden('tree', lspciTree(read)));
  it('decodes every capability', () => expectGolden('verbose', lspciVerbose(read, barSizes(fabric))));
  it('dumps what the real lspci reads', () => expectGolden('dump', toHexDump(read)));

  it('reads and never writes, so a second look is the same', () => {
    expect(lspciVerbose(read)).toBe(lspciVerbose(read));
    expect(lspciVerbose(read, { only: 0x100 }).startsWith('01:00.0')).toBe(true);
  });

  it('ends, whatever configuration space says', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 4096, maxLength: 4096 }), fc.integer({ min: 0, max: 255 }), (noise, header) => {
        noise[0] = 0x34;
        noise[14] = header;
        const hostile = (bdf: number, offset: number, size: AccessSize): number => {
          let value = 0;
          for (let i = 0; i < size; i++) value += (noise[(offset + i + (bdf & 0xff) * 4) & 0xfff] as number) * 2 ** (8 * i);
          return value;
        };
        expect(typeof lspciTree(hostile)).toBe('string');
        expect(typeof lspciVerbose(hostile, { only: 0 })).toBe('string');
      }),
      { numRuns: 20 },
    );
  });
});
