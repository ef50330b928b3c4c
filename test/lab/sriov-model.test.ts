// The three paths in simulated time: the same numbers every time, and what has to follow from the costs.

import { describe, expect, it } from 'vitest';
import { runSriovOffload, type SriovOffloadOptions } from '#lab/run-sriov-offload';
import { DEFAULT_COSTS, type OffloadCosts } from '#lab/sriov-costs';
import { limitOf, type OffloadRow, PATHS, type Path } from '#lab/sriov-offload';

const options: SriovOffloadOptions = {
  modes: ['model'],
  guests: [1, 2],
  paths: PATHS,
  pairs: [4],
  sizes: [64],
  seconds: 1,
  software: 'switch',
  vcpus: [1],
  costs: DEFAULT_COSTS,
  signal: new AbortController().signal,
  on: { starts() {} },
};

async function measure(change: Partial<SriovOffloadOptions> = {}, costs: Partial<OffloadCosts> = {}): Promise<OffloadRow[]> {
  const rows = await runSriovOffload({ ...options, ...change, costs: { ...DEFAULT_COSTS, ...costs } });
  expect(rows.flatMap(({ errors }) => errors)).toEqual([]);
  return rows;
}

const find = (rows: readonly OffloadRow[], guests: number, path: Path): OffloadRow =>
  rows.find((row) => row.guests === guests && row.path === path) as OffloadRow;
const expected = (row: OffloadRow, nanos: number): void => {
  expect(row.framesPerSecond * nanos).toBeGreaterThan(0.9e9);
  expect(row.framesPerSecond * nanos).toBeLessThan(1.1e9);
};

describe('the modelled paths', { timeout: 120_000 }, () => {
  it('give the same numbers twice', async () => {
    const change = { sizes: [64, 65_536], vcpus: [2] };
    expect(await measure(change)).toEqual(await measure(change));
  });

  it('are bound by what the costs say, one processor a guest', async () => {
    const rows = await measure();
    const { send, receive, veth, bridge, driverSend, driverReceive, hostFrame } = DEFAULT_COSTS;
    // In one guest its processor does it all; the host's where it switches and takes longer.
    expected(find(rows, 1, 'bridge'), send + 2 * veth + bridge + receive);
    expected(find(rows, 1, 'software'), hostFrame);
    expected(find(rows, 1, 'offload'), send + driverSend + driverReceive + receive);
    // In two the slowest of the three.
    expected(find(rows, 2, 'bridge'), hostFrame);
    expected(find(rows, 2, 'software'), hostFrame);
    expected(find(rows, 2, 'offload'), driverReceive + receive);
    expect(rows.map(limitOf).map((limit) => limit.replace(/ \d+ %$/, ''))).toEqual(['guest', 'host', 'guest', 'host', 'host', 'receiving guest']);
  });

  it('take what is switched off the host, and what bridges off guests', async () => {
    const rows = await measure();
    for (const guests of [1, 2]) {
      const [bridge, software, offload] = PATHS.map((path) => find(rows, guests, path).cpu) as NonNullable<OffloadRow['cpu']>[];
      expect([offload?.host, bridge?.nic, software?.nic]).toEqual([0, 0, 0]);
      expect(offload?.nic).toBeGreaterThan(0);
      expect(software?.host).toBeGreaterThan(DEFAULT_COSTS.hostFrame);
      expect(offload?.guest).toBeLessThan(bridge?.guest as number);
    }
    expect(find(rows, 1, 'bridge').cpu?.host).toBe(0);
    expect(find(rows, 2, 'bridge').cpu?.host).toBeGreaterThan(DEFAULT_COSTS.hostFrame);
    for (const row of rows) expect(row.exitsPerFrame).toBe(0);
  });

  it('let processors count where no single one switches for all', async () => {
    const rows = await measure({ guests: [2], vcpus: [1, 4] });
    const gain = (path: Path): number => {
      const [one, four] = rows.filter((row) => row.path === path) as [OffloadRow, OffloadRow];
      return four.framesPerSecond / one.framesPerSecond;
    };
    expect(gain('offload')).toBeGreaterThan(3);
    expect(gain('bridge')).toBeLessThan(1.2);
    expect(gain('software')).toBeLessThan(1.2);
  });

  it('follow the costs that are changed, and the NIC its line', async () => {
    const [cheap] = await measure({ guests: [1], paths: ['software'] }, { hostFrame: 100 });
    expect(limitOf(cheap as OffloadRow)).toMatch(/^guest /);
    const [slow] = await measure({ guests: [2], paths: ['offload'], sizes: [65_536] }, { nicByte: 0.8 });
    // 10 Gbit/s, and what is left of a turn at the end.
    expect(slow?.gigabitsPerSecond).toBeGreaterThan(9);
    expect(slow?.gigabitsPerSecond).toBeLessThan(11.5);
  });

  it('have round trips that waking and the way across PCIe are part of', async () => {
    const [quick] = await measure({ guests: [2], paths: ['offload'], pairs: [1] });
    const [late] = await measure({ guests: [2], paths: ['offload'], pairs: [1] }, { nicLatency: 20_000 });
    const { nicLatency, wake } = DEFAULT_COSTS;
    expect(quick?.roundTrip?.p50).toBeGreaterThan(2 * (nicLatency + wake));
    expect(late?.roundTrip?.p50).toBeGreaterThan(40_000);
  });
});
