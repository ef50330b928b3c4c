// The four techniques in simulated time: the same numbers every time, and what has to hold whatever the costs.

import { describe, expect, it } from 'vitest';
import { COMBINATIONS, gains, loadsFor, type Measurement, nameOf, ratio, type Techniques } from '#lab/rizzo';
import { DEFAULT_COSTS, measureModel } from '#lab/rizzo-model';

const [BASELINE, ALL] = [COMBINATIONS[0], COMBINATIONS[15]] as [Techniques, Techniques];
const [UDP, NETMAP, REQUESTS] = loadsFor([64]) as [Measurement['load'], Measurement['load'], Measurement['load']];
const only = (technique: keyof Techniques): Techniques => ({ ...BASELINE, [technique]: true });

describe('the modelled experiment', () => {
  it('has sixteen combinations, from nothing to all four', () => {
    expect(new Set(COMBINATIONS.map(nameOf)).size).toBe(16);
    expect([nameOf(BASELINE), nameOf(ALL)]).toEqual(['baseline', 'all four']);
  });

  it('gives the same numbers twice', async () => {
    const twice = [await measureModel(ALL, UDP, DEFAULT_COSTS), await measureModel(ALL, UDP, DEFAULT_COSTS)];
    expect(twice[1]).toEqual(twice[0]);
    expect(twice[0]?.errors).toEqual([]);
  });

  it('is bounded by the exits of the baseline, and by none with all four', async () => {
    const base = await measureModel(BASELINE, UDP, DEFAULT_COSTS);
    const all = await measureModel(ALL, UDP, DEFAULT_COSTS);
    // A tail write a frame, and its interrupts.
    expect(base.exitsPerFrame).toBeGreaterThan(1);
    expect(base.framesPerSecond).toBeLessThan(1e9 / DEFAULT_COSTS.exit);
    expect(all.exitsPerFrame).toBeLessThan(0.1);
    expect(ratio([base, all], all)).toBeGreaterThan(20);
    expect([...base.errors, ...all.errors]).toEqual([]);
  });

  it.each(['mitigation', 'csb'] as const)('%s alone brings more frames for fewer exits', async (technique) => {
    const base = await measureModel(BASELINE, UDP, DEFAULT_COSTS);
    const with1 = await measureModel(only(technique), UDP, DEFAULT_COSTS);
    expect(with1.framesPerSecond).toBeGreaterThan(base.framesPerSecond);
    expect(with1.interruptsPerFrame).toBeLessThan(base.interruptsPerFrame);
  });

  it('a batching client needs no send combining, and exits cost what they are said to', async () => {
    const cheap = await measureModel(BASELINE, NETMAP, { ...DEFAULT_COSTS, exit: 100 });
    const dear = await measureModel(BASELINE, NETMAP, { ...DEFAULT_COSTS, exit: 50_000 });
    expect(cheap.framesPerSecond).toBeGreaterThan(dear.framesPerSecond);
    expect(cheap.exitsPerFrame).toBeLessThan(1);
  });

  it('answers every request with all four', async () => {
    const round = await measureModel(ALL, REQUESTS, DEFAULT_COSTS);
    expect(round.errors).toEqual([]);
    expect(round.p99).toBeGreaterThanOrEqual(round.p50);
    expect(round.p50).toBeGreaterThan(0);
  });

  it('says what each technique brings, alone and on top', async () => {
    const all: Measurement[] = [];
    for (const techniques of COMBINATIONS) all.push(await measureModel(techniques, UDP, DEFAULT_COSTS));
    const csb = gains(all).find((g) => g.technique === 'csb');
    expect(csb?.alone).toBeCloseTo((all[4]?.framesPerSecond as number) / (all[0]?.framesPerSecond as number), 6);
    expect(csb?.onTop).toBeCloseTo((all[15]?.framesPerSecond as number) / (all[11]?.framesPerSecond as number), 6);
  });
});
