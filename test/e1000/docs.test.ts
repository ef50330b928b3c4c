// docs/e1000.md has the register table of the code. `NICBOX_WRITE_DOCS=1 npx vitest run test/e1000/docs.test.ts` writes it anew.
import { expect, it } from 'vitest';
import type { RegisterSpec } from '#core/register-file';
import { E1000_REGISTERS } from '#devices/e1000/registers';
import { COUNTED } from '#devices/intel/statistics';
import { hex, modes, type RegisterKinds } from '../devices/register-docs.ts';
import { writtenPart } from '../written-part.ts';

const FILE = new URL('../../docs/e1000.md', import.meta.url);
const BEGIN = '<!-- registers: written by test/e1000/docs.test.ts -->\n';
const END = '<!-- end of registers -->\n';
const COUNTS = new Set<string>([...COUNTED, 'GORCL', 'GORCH', 'GOTCL', 'GOTCH', 'TORL', 'TORH', 'TOTL', 'TOTH']);
/** Registers that do something: what tests them besides the table test. */
const TESTS: Readonly<Record<string, string>> = {
  CTRL: 'resets, PHY and link',
  STATUS: 'PHY and link',
  EECD: 'EEPROM',
  EERD: 'EEPROM',
  MDIC: 'PHY and link',
  ICR: 'interrupts',
  ICS: 'interrupts',
  IMS: 'interrupts',
  IMC: 'interrupts',
  ITR: 'interrupts',
  RCTL: 'receive',
  RDTR: 'receive: causes',
  RADV: 'receive: causes',
  RSRPD: 'receive: causes',
  RXCSUM: 'receive',
  MTA: 'receive: filters',
  RAL: 'receive: filters',
  RAH: 'receive: filters',
  VFTA: 'receive: filters',
  TCTL: 'transmit',
  TIDV: 'transmit: reporting',
  TADV: 'transmit: reporting',
  TXDCTL: 'transmit: reporting',
  FCAL: 'receive: flow control',
  FCAH: 'receive: flow control',
  FCT: 'receive: flow control',
  FCTTV: 'receive: flow control',
  FCRTL: 'receive: flow control',
  FCRTH: 'receive: flow control',
  WUC: 'wake-up',
  WUFC: 'wake-up',
  WUS: 'wake-up',
  IPAV: 'wake-up',
  IP4AT: 'wake-up',
  IP6AT: 'wake-up',
  WUPL: 'wake-up',
  WUPM: 'wake-up',
  FFLT: 'wake-up',
  FFMT: 'wake-up',
  FFVT: 'wake-up',
  CSBAL: 'shared block',
  CSBAH: 'shared block',
  VET: 'transmit, receive',
};

const KINDS: RegisterKinds = { counts: COUNTS, stored: new Set(), isActive: (name) => name in TESTS };

function table(): string {
  const lines = ['| offset | name | reset | modes (bits) | tests |', '|---|---|---|---|---|'];
  const sorted = (Object.entries(E1000_REGISTERS) as [string, RegisterSpec][]).sort(([, a], [, b]) => a.offset - b.offset);
  for (const [name, spec] of sorted) {
    const { count = 1, stride = 4 } = spec;
    const place = count === 1 ? hex(spec.offset, 5) : `${hex(spec.offset, 5)} + ${stride}n, n < ${count}`;
    if (spec.aliasOf !== undefined)
      lines.push(`| ${place} | ${spec.aliasOf} |  | the same register, ${name.endsWith('_82542') ? 'where an 82542 has it' : 'once more'} | table |`);
    else
      lines.push(
        `| ${place} | ${name} | ${hex(spec.reset ?? 0)} | ${modes(name, spec, KINDS)} | ${COUNTS.has(name) ? 'counts' : `table${name in TESTS ? `; ${TESTS[name]}` : ''}`} |`,
      );
  }
  return `${lines.join('\n')}\n`;
}

it('the register table in docs/e1000.md is that of the code', () => {
  expect(writtenPart(FILE, BEGIN, END, table())).toBe(table());
});
