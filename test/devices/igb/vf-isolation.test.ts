// A hostile VF: whatever it does to its window, no bit of the PF's registers changes that is not its own, and nothing is thrown.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { AT, IGB_REGISTERS, type IgbRegister } from '#devices/igb/registers';
import { Bench, vfAt } from './vf-bench.ts';

const HOSTILE = 3;
const OWN_QUEUES = [HOSTILE, HOSTILE + 8];
const OWN_VECTORS = 7 << (22 - 3 * HOSTILE);
const ALL = 0xffff_ffff;

/** Bits of each register's element that VF 3 may change. */
function ownBits(name: IgbRegister, element: number): number {
  if (/^(RD|TD|SRRCTL|RX(CTL|DCTL)|TX(CTL|DCTL)|RQDPC)/.test(name)) return OWN_QUEUES.includes(element) ? ALL : 0;
  switch (name) {
    case 'VTIVAR':
    case 'VTIVAR_MISC':
    case 'IVAR':
    case 'PSRTYPE':
    case 'V2PMAILBOX':
      return element === HOSTILE ? ALL : 0;
    case 'VMBMEM':
      return element >> 4 === HOSTILE ? ALL : 0;
    case 'EITR':
      return element >= 13 && element <= 15 ? ALL : 0;
    case 'MBVFICR':
      return 0x1_0001 << HOSTILE;
    case 'VFLRE':
    case 'VFRE':
    case 'VFTE':
    case 'MDFB':
      return 1 << HOSTILE;
    case 'EICR':
    case 'EIMS':
    case 'EIAC':
    case 'EIAM':
      return OWN_VECTORS;
    case 'ICR':
      // It may knock, and be reset.
      return 1 << 8;
    default:
      return 0;
  }
}

function trespasses(before: Uint32Array, after: Uint32Array): string[] {
  const found: string[] = [];
  for (const [name, spec] of Object.entries(IGB_REGISTERS)) {
    if ('aliasOf' in spec) continue;
    for (let i = 0; i < ('count' in spec ? spec.count : 1); i++) {
      const at = AT[name as IgbRegister] + i;
      const changed = (before[at] as number) ^ (after[at] as number);
      if ((changed & ~ownBits(name as IgbRegister, i)) !== 0) found.push(`${name}[${i}]: ${changed.toString(16)}`);
    }
  }
  return found;
}

function bench(): Bench {
  const made = new Bench();
  made.enable(8);
  for (let n = 0; n < 8; n++) made.openVf(n);
  made.write(0x0c8c, 0xff);
  made.write(0x0c90, 0xff);
  for (let n = 0; n < 8; n++) {
    made.vfWrite(n, 0x1700, 0x8180_8180);
    made.vfWrite(n, 0x0800, 0x1000 + n);
  }
  return made;
}

const size = fc.constantFrom(1 as const, 2 as const, 4 as const);
const value = fc.oneof(fc.nat(0xffff_ffff), fc.constantFrom(0, 0xffff_ffff, 0x0400_0000, 0x0200_0000, 0x80));
const access = fc.record({ offset: fc.nat(0x3fff), size, value, write: fc.boolean() });

describe('a hostile VF', () => {
  test('writes every offset of its window with everything, and reads it', () => {
    for (const pattern of [0xffff_ffff, 0, 0xa5a5_a5a5, 0x0400_0000]) {
      const made = bench();
      const before = made.registers.slice();
      for (let offset = 0; offset < 0x4000; offset += 4) {
        made.vfWrite(HOSTILE, offset, pattern);
        made.vfRead(HOSTILE, offset);
      }
      expect(trespasses(before, made.registers)).toEqual([]);
      for (let n = 0; n < 8; n++) if (n !== HOSTILE) expect(made.vfRead(n, 0x0800)).toBe(0x1000 + n);
    }
  });

  test('in any order and width', () => {
    fc.assert(
      fc.property(fc.array(access, { maxLength: 200 }), (accesses) => {
        const made = bench();
        const before = made.registers.slice();
        for (const a of accesses) {
          if (a.write) made.vfWrite(HOSTILE, a.offset, a.value, a.size);
          else made.vfRead(HOSTILE, a.offset, a.size);
        }
        expect(trespasses(before, made.registers)).toEqual([]);
      }),
      { numRuns: 60 },
    );
  });

  test('its messages carry its own id, whatever it programs', () => {
    fc.assert(
      fc.property(fc.array(access, { maxLength: 100 }), (accesses) => {
        const made = bench();
        made.heard();
        for (const a of accesses) {
          made.vfWrite(HOSTILE, a.offset, a.value, a.size);
          made.vfWrite(HOSTILE, 0x1740, 0x82);
          made.vfWrite(HOSTILE, 0x1520, 7);
        }
        for (const { requester } of made.heard()) expect([vfAt(HOSTILE), 8]).toContain(requester);
      }),
      { numRuns: 30 },
    );
  });
});
