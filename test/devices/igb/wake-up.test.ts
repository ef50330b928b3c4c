// An 82576 that sleeps and the frames that wake it: by WUFC and its tables, by APM, by the link; PME as the power management capability has it; what is there to be read afterwards.
import { describe, expect, it } from 'vitest';
import { frame } from '../../e1000/bench.ts';
import { R, Station, type StationOptions, type Wired, wired } from './bench.ts';

const PMCSR = 0x44;
const PME_ENABLE = 0x100;
const PME_STATUS = 0x8000;
const STATION = [0x52, 0x54, 0, 0, 0, 0x0a];
const OTHER = [2, 0, 0, 0, 0, 1];
const EVERYBODY = [255, 255, 255, 255, 255, 255];

const magic = (): number[] => [...STATION, ...OTHER, 8, 0x42, ...EVERYBODY, ...new Array(16).fill(STATION).flat()];

function asleep(wufc: number, wuc = 2, prepare: (nic: Station) => void = () => {}): Wired {
  const rig = wired();
  rig.nic.start();
  prepare(rig.nic);
  rig.nic.write(R.WUFC, wufc);
  rig.nic.write(R.WUC, wuc);
  rig.nic.config(PMCSR, 2, 3 | ((wuc & 2) !== 0 ? PME_ENABLE : 0));
  return rig;
}

const woke = ({ nic }: Wired): boolean => (nic.readConfig(PMCSR, 2) & PME_STATUS) !== 0;

function back({ nic }: Wired): void {
  nic.config(PMCSR, 2, PME_ENABLE);
  nic.config(0x10, 4, 0xc000_0000);
  nic.config(4, 2, 7);
}

describe('wake-up', () => {
  it('is offered: PME from D0, D3hot and D3cold; APM by the NVM', () => {
    const nic = new Station();
    expect(nic.readConfig(0x42, 2) >>> 11).toBe(0b11001);
    expect(nic.read(R.WUC)).toBe(1);
    const nvm = nic.nic.nvm.slice();
    nvm[0x24] = 0;
    expect(new Station({ nvm }).read(R.WUC)).toBe(0);
  });

  it('by the magic packet, an exact address, broadcast; not by others; what it was by outlives the way back to D0', () => {
    for (const [wufc, bytes] of [
      [2, magic()],
      [4, frame(64, STATION)],
      [0x10, frame(64, EVERYBODY)],
    ] as const) {
      const rig = asleep(wufc);
      rig.inject(frame(64, OTHER));
      expect(woke(rig)).toBe(false);
      rig.inject(bytes);
      expect(woke(rig)).toBe(true);
      back(rig);
      const { nic } = rig;
      expect([nic.read(R.WUS), nic.read(R.WUPL), nic.read(R.WUPM)]).toEqual([
        wufc,
        bytes.length,
        new DataView(Uint8Array.from(bytes).buffer).getUint32(0, true),
      ]);
      // Of the frame nothing went to memory.
      expect(nic.received()).toEqual([]);
      nic.write(R.WUS, wufc);
      expect(nic.read(R.WUS)).toBe(0);
      // WUC's bits are those of PMCSR.
      expect(nic.read(R.WUC) & 6).toBe(6);
      nic.write(R.WUC, 4);
      expect(nic.readConfig(PMCSR, 2)).toBe(0);
    }
  });

  it('by APM without PME_En, where APMPME is set', () => {
    const rig = asleep(0, 1 | 8);
    rig.inject(magic());
    expect(woke(rig)).toBe(true);
    const deaf = asleep(0, 1);
    deaf.inject(magic());
    expect(woke(deaf)).toBe(false);
  });

  it('by a multicast address that is in the table, and by none that is not', () => {
    const group = [1, 0, 0x5e, 0, 0, 1];
    const rig = asleep(8, 2, (nic) => {
      // Bits 47:36 of the address.
      const hash = ((group[4] as number) >>> 4) | ((group[5] as number) << 4);
      nic.write(0x5200 + 4 * (hash >>> 5), 1 << (hash & 31));
    });
    rig.inject(frame(64, [1, 0, 0x5e, 0, 0, 2]));
    expect(woke(rig)).toBe(false);
    rig.inject(frame(64, group));
    expect(woke(rig)).toBe(true);
  });

  it('by an ARP request for an address in IP4AT, a packet to it, a packet to the address in IP6AT', () => {
    const prepare = (nic: Station): void => {
      nic.write(R.IPAV, 0x1_0002);
      nic.write(R.IP4AT + 8, 0x0200_000a);
      for (let i = 0; i < 4; i++) nic.write(R.IP6AT + 4 * i, 0x0101_0101 * (i + 1));
    };
    const arp = (last: number): number[] => {
      const bytes = [...EVERYBODY, ...OTHER, 8, 6, ...new Array(46).fill(0)];
      bytes[21] = 1;
      bytes.splice(38, 4, 10, 0, 0, last);
      return bytes;
    };
    const four = (last: number): number[] => {
      const bytes = frame(64, STATION, [8, 0]);
      bytes.splice(30, 4, 10, 0, 0, last);
      return bytes;
    };
    const six = (last: number): number[] => {
      const bytes = frame(64, STATION, [0x86, 0xdd]);
      bytes.splice(38, 16, ...[1, 2, 3, last].flatMap((n) => [n, n, n, n]));
      return bytes;
    };
    for (const [wufc, make, right, wrong] of [
      [0x20, arp, 2, 3],
      [0x40, four, 2, 3],
      [0x80, six, 4, 5],
    ] as const) {
      const rig = asleep(wufc, 2, prepare);
      rig.inject(make(wrong));
      expect([wufc, woke(rig)]).toEqual([wufc, false]);
      rig.inject(make(right));
      expect([wufc, woke(rig)]).toEqual([wufc, true]);
    }
  });

  it('by a flexible filter: its octets under its mask, as far as its length; the last two are in FHFT_EXT', () => {
    for (const [filter, base] of [
      [0, R.FHFT],
      [3, R.FHFT + 0x300],
      [5, R.FHFT_EXT + 0x100],
    ] as const) {
      const rig = asleep(1 << (16 + filter), 2, (nic) => {
        // Octet 12 and octet 17 count of the first 24.
        nic.write(base + 16 + 4, 0x0000_0088);
        nic.write(base + 16 + 8, 1 << 4);
        nic.write(base + 32, 0x0000_7700);
        nic.write(base + 32 + 8, 1 << 1);
        nic.write(base + 0xfc, 24);
      });
      const bytes = frame(64, OTHER, [0x88, 0xb5]);
      bytes[17] = 0x76;
      rig.inject(bytes);
      expect([filter, woke(rig)]).toEqual([filter, false]);
      bytes[17] = 0x77;
      rig.inject(bytes.slice(0, 20));
      expect([filter, woke(rig)]).toEqual([filter, false]);
      rig.inject(bytes);
      expect([filter, woke(rig)]).toEqual([filter, true]);
      back(rig);
      expect(rig.nic.read(R.WUS)).toBe(1 << (16 + filter));
    }
  });

  it('by the link', () => {
    const rig = asleep(1);
    rig.nic.nic.cable = false;
    expect(woke(rig)).toBe(true);
    const deaf = asleep(0);
    deaf.nic.nic.cable = false;
    expect(woke(deaf)).toBe(false);
  });

  it('not while awake: frames go where they belong', () => {
    const { nic, inject } = wired();
    nic.start();
    nic.write(R.WUFC, 0x1f);
    nic.write(R.WUC, 2);
    inject(magic());
    expect([nic.readConfig(PMCSR, 2) & PME_STATUS, nic.received().length, nic.read(R.WUS)]).toEqual([0, 1, 0]);
  });

  it('a sleeper that was saved wakes elsewhere', () => {
    const rig = asleep(2);
    const options: StationOptions = {};
    const other = wired(options);
    other.nic.start();
    other.nic.clock.advanceTo(rig.nic.clock.now());
    return (async () => {
      await other.nic.machine.restore(await rig.nic.machine.save());
      other.inject(magic());
      expect(woke(other)).toBe(true);
    })();
  });
});
