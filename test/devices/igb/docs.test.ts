// docs/igb.md has the register table of the code. `NICBOX_WRITE_DOCS=1 npx vitest run test/devices/igb/docs.test.ts` writes it anew.
import { expect, it } from 'vitest';
import type { RegisterSpec } from '#core/register-file';
import { IGB_REGISTERS } from '#devices/igb/registers';
import { COUNT } from '#devices/igb/statistics';
import { writtenPart } from '../../written-part.ts';
import { hex, modes, type RegisterKinds } from '../register-docs.ts';

const FILE = new URL('../../../docs/igb.md', import.meta.url);
const BEGIN = '<!-- registers: written by test/devices/igb/docs.test.ts -->\n';
const END = '<!-- end of registers -->\n';
const COUNTS = new Set<string>(Object.keys(COUNT).flatMap((name) => (`${name}L` in IGB_REGISTERS ? [`${name}L`, `${name}H`] : [name])));

/** Which tests look at what a register does; every one is in the table test. */
const TESTS: readonly (readonly [test: string, names: string])[] = [
  ['registers', 'CTRL STATUS CTRL_EXT EECD EERD MDIC FLA EEMNGCTL SWSM SW_FW_SYNC FACTPS FRTIMER RXPBS'],
  ['interrupts', 'ICR ICS IMS IMC IAM GPIE EICS EIMS EIMC EIAC EIAM EICR EITR IVAR IVAR_MISC TCPTIMER IMIR IMIREXT IMIRVP PBACL'],
  [
    'receive',
    'RCTL RXCSUM RLPML RFCTL MTA RAL RAH RAL2 RAH2 PSRTYPE VFTA MRQC RETA RSSRK RDBAL RDBAH RDLEN SRRCTL RDH RDT RXDCTL RQDPC SYNQF SAQF DAQF SPQF FTQF ETQF VET',
  ],
  ['flow', 'FCAL FCAH FCT FCTTV FCRTL FCRTH'],
  ['transmit', 'TCTL DTXTCPFLGL DTXTCPFLGH TDBAL TDBAH TDLEN TDH TDT TXDCTL TDWBAL TDWBAH'],
  ['time', 'TSYNCRXCFG SYSTIML SYSTIMH TIMINCA TIMADJL TIMADJH TSYNCTXCTL TXSTMPL TXSTMPH TSYNCRXCTL RXSTMPL RXSTMPH RXSATRL RXSATRH'],
  ['time-events', 'TSAUXC TRGTTIM FREQOUT AUXSTMP TSSDP'],
  ['wake-up', 'WUC WUFC WUS IPAV IP4AT IP6AT WUPL WUPM FHFT FHFT_EXT'],
  ['mailbox, vf', 'VMBMEM P2VMAILBOX V2PMAILBOX MBVFICR MBVFIMR VFLRE VFRE VFTE VTCTRL VTEICS VTEIMS VTEIMC VTEIAC VTEIAM VTEICR VTIVAR VTIVAR_MISC'],
  [
    'switch/terms, vf-traffic',
    'QDE DTXSWC LVMMC WVBR MDFB RTTDQSEL RTTBCNRM RTTBCNRC VMVIR VT_CTL VMOLR RPLOLR VLVF VMRCTL VMRVLAN VMRVM SCCRL SCSTS BSCTRH MSCTRH BSCCNT MSCCNT UTA DTXCTL',
  ],
  ['vf-traffic', 'PVFGPRC PVFGPTC PVFGORC PVFGOTC PVFMPRC PVFGPRLBC PVFGPTLBC PVFGORLBC PVFGOTLBC'],
];
const TEST_OF = new Map(TESTS.flatMap(([test, names]) => names.split(' ').map((name) => [name, test] as const)));
/** Kept, and nothing comes of it. */
const STORED = new Set(['LEDCTL', 'GCR', 'RXCTL', 'TXCTL', 'TCTL_EXT', 'TIPG', 'SWPBS', 'TXPBS', 'RXPBS', 'DTXMXSZRQ', 'FWSM']);
/** What the device alone writes. */
const ACTIVE = new Set([
  'ICR',
  'ICS',
  'IMS',
  'IMC',
  'EICS',
  'EIMS',
  'EIMC',
  'EICR',
  'PBACL',
  'P2VMAILBOX',
  'V2PMAILBOX',
  'VTCTRL',
  'VTEICS',
  'VTEIMS',
  'VTEIMC',
  'VTEIAC',
  'VTEIAM',
  'VTEICR',
]);

const KINDS: RegisterKinds = { counts: COUNTS, stored: STORED, isActive: (name) => ACTIVE.has(name) };

function table(): string {
  const lines = ['| offset | name | reset | modes (bits) | tests |', '|---|---|---|---|---|'];
  const sorted = (Object.entries(IGB_REGISTERS) as [string, RegisterSpec][]).sort(([, a], [, b]) => a.offset - b.offset);
  for (const [name, spec] of sorted) {
    const original: RegisterSpec = spec.aliasOf === undefined ? spec : IGB_REGISTERS[spec.aliasOf as keyof typeof IGB_REGISTERS];
    const count = spec.count ?? original.count ?? 1;
    const stride = spec.stride ?? original.stride ?? 4;
    const place = count === 1 ? hex(spec.offset, 5) : `${hex(spec.offset, 5)} + ${stride.toString(16)}n, n < ${count}`;
    if (spec.aliasOf !== undefined) lines.push(`| ${place} | ${spec.aliasOf} |  | the same register, where an older part has it | registers |`);
    else {
      const tests = COUNTS.has(name)
        ? 'counts'
        : TEST_OF.has(name)
          ? `registers; ${TEST_OF.get(name)}`.replace(/^registers; registers$/, 'registers')
          : 'registers';
      lines.push(`| ${place} | ${name} | ${hex(spec.reset ?? 0)} | ${modes(name, spec, KINDS)} | ${tests} |`);
    }
  }
  return `${lines.join('\n')}\n`;
}

it('the register table in docs/igb.md is that of the code', () => {
  expect(writtenPart(FILE, BEGIN, END, table())).toBe(table());
});

it('names only registers that are there', () => {
  for (const name of [...TEST_OF.keys(), ...STORED, ...ACTIVE]) expect([name, name in IGB_REGISTERS]).toEqual([name, true]);
});
