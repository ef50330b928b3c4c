// The three paths between containers in one guest and in two, in real time, for moments: that every frame and request is accounted for on each, whatever the machine is busy with, and that what the paths are about shows. No
// rate is looked at.

import { describe, expect, it, vi } from 'vitest';
import { runSriovOffload, type SriovOffloadOptions } from '#lab/run-sriov-offload';
import { DEFAULT_COSTS } from '#lab/sriov-costs';
import { failedRow, GUESTS, gigabits, guestCpuRatio, type OffloadRow, PATHS, ratio } from '#lab/sriov-offload';
import { sriovPage } from '#lab/sriov-page';
import { headline } from '#lab/sriov-words';

vi.setConfig({ testTimeout: 120_000 });

const options: SriovOffloadOptions = {
  modes: ['wall'],
  guests: [1],
  paths: PATHS,
  pairs: [1],
  sizes: [64, 1500, 65_536],
  seconds: 0.05,
  software: 'switch',
  vcpus: [1],
  costs: DEFAULT_COSTS,
  signal: new AbortController().signal,
  on: { starts() {} },
};

describe.each(GUESTS)('containers of %i guests', (guests) => {
  it.each([...PATHS.map((path) => [path, 'switch'] as const), ['software', 'vale'] as const])(
    'lose nothing and leave nothing to the next measurement: %s, %s',
    async (path, software) => {
      const rows = await runSriovOffload({ ...options, guests: [guests], paths: [path], software });
      expect(rows.map(({ size }) => size)).toEqual(options.sizes);
      expect(rows.flatMap(({ errors }) => errors)).toEqual([]);
      for (const row of rows) {
        expect([row.mode, row.guests]).toEqual(['wall', guests]);
        expect(row.frames).toBeGreaterThan(0);
        expect(row.gigabitsPerSecond).toBeCloseTo((row.frames / row.seconds) * row.size * 8e-9, 6);
        // Whichever way: nothing in the steady state needs the machine.
        expect(row.exitsPerFrame).toBeLessThan(0.05);
        if (row.size > 1518) expect(row.roundTrip).toBeNull();
        else expect(row.roundTrip?.count).toBeGreaterThan(0);
        // A bridge in the one guest rings nobody, and nobody interrupts it.
        if (path === 'bridge' && guests === 1) expect([row.kicksPerFrame, row.interruptsPerFrame, row.wakesPerFrame]).toEqual([0, 0, 0]);
        if (process.platform === 'linux') expect(row.cpu?.guest).toBeGreaterThan(0);
      }
    },
  );

  it('keep pairs apart: several at once, each to its own', async () => {
    const rows = await runSriovOffload({ ...options, guests: [guests], pairs: [5], sizes: [64] });
    expect(rows.map(({ path, pairs }) => [path, pairs])).toEqual(PATHS.map((path) => [path, 5]));
    expect(rows.flatMap(({ errors }) => errors)).toEqual([]);
  });

  it('take the time for a frame on each bridge that they are told', async () => {
    const COST = 20_000;
    const rows = await runSriovOffload({ ...options, guests: [guests], paths: ['bridge'], sizes: [64], bridgeCost: COST });
    expect(rows.flatMap(({ errors }) => errors)).toEqual([]);
    // No faster than that: a bound that no machine can miss.
    for (const row of rows) expect(row.framesPerSecond).toBeLessThan(1.1 * (1e9 / (guests * COST)));
  });
});

describe('the experiment', () => {
  it('end when they are told to, before and within a measurement', async () => {
    const before = new AbortController();
    before.abort(new Error('enough'));
    await expect(runSriovOffload({ ...options, signal: before.signal })).rejects.toThrow('enough');
    const within = new AbortController();
    const long = runSriovOffload({ ...options, paths: ['bridge'], seconds: 600, signal: within.signal });
    setTimeout(() => within.abort(new Error('enough')), 1500);
    await expect(long).rejects.toThrow('enough');
  });
});

describe('what the numbers say', () => {
  const row = (path: OffloadRow['path'], pairs: number, framesPerSecond: number, guest: number): OffloadRow => ({
    mode: 'model',
    guests: 1,
    vcpus: 1,
    path,
    size: 1500,
    pairs,
    frames: framesPerSecond,
    seconds: 1,
    framesPerSecond,
    gigabitsPerSecond: gigabits(framesPerSecond, 1500),
    cpu: { guest, host: 0, nic: 0 },
    busy: [
      { who: 'guest', share: 0.5 },
      { who: 'NIC', share: path === 'offload' ? 1.001 : 0 },
    ],
    exitsPerFrame: 0,
    interruptsPerFrame: 0,
    kicksPerFrame: 0,
    wakesPerFrame: 0,
    roundTrip: null,
    errors: [],
  });
  const all = [row('bridge', 1, 1e6, 400), row('offload', 1, 2e6, 300), row('bridge', 4, 1e6, 400), row('offload', 4, 3e6, 100)];

  it('is told against the bridge with the same pairs, at the most pairs there are', () => {
    expect(all.map((r) => ratio(all, r))).toEqual([1, 2, 1, 3]);
    expect(guestCpuRatio(all, all[3] as OffloadRow)).toBe(0.25);
    expect(headline(all)).toEqual([
      'Model, one guest of 1 processor, 1500 B, 4 pairs: (iii) moves 3.00 x the frames of (i), for 0.25 x the guest CPU time a frame (busiest: guest 50 % on (i), NIC 100 % on (iii)).',
    ]);
    // Another placement is another comparison.
    expect(ratio(all, { ...(all[3] as OffloadRow), guests: 2 })).toBeNaN();
    expect(headline(all.filter(({ path }) => path === 'offload'))).toEqual([]);
  });

  it('is not told of a row that failed, nor plotted', () => {
    const setting = { mode: 'model', guests: 1, vcpus: 1 } as const;
    const failed = failedRow(setting, 'offload', 1500, 4, 'frames are missing');
    expect(headline([...all.slice(0, 3), failed])[0]).toContain('1 pair: (iii) moves 2.00 x the frames of (i), for 0.75 x');
    // Nor does one count against which others are told.
    expect(ratio([failedRow(setting, 'bridge', 1500, 4, 'no answer')], all[3] as OffloadRow)).toBeNaN();
    expect(sriovPage([failed], [])).toContain('(iii) VF + offloaded switch: failed');
  });

  it('says where CPU time is not to be had', () => {
    const page = sriovPage([{ ...(all[0] as OffloadRow), cpu: null }], ['a <note>']);
    expect(page).toContain('<td class="n">n/a</td>');
    expect(page).toContain('a &#60;note&#62;');
    expect(page).not.toContain('guest CPU, ns a frame');
  });
});
