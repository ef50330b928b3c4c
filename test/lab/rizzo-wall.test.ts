// The four techniques in real time, for moments: that every frame and request is accounted for, whatever the machine is busy with. No figure is looked at.

import { describe, expect, it, vi } from 'vitest';
import { COMBINATIONS, loadsFor, nameOf, POLLING } from '#lab/rizzo';
import { measureWall } from '#lab/rizzo-wall';

vi.setConfig({ testTimeout: 120_000 });

const NEVER = new AbortController().signal;

describe('the experiment in real time', () => {
  // Requests come last: what a stream left in the rings would be answered first, and counted as theirs.
  it.each([...[0, 3, 5, 12, 15].map((n) => COMBINATIONS[n] as (typeof COMBINATIONS)[number]), POLLING].map((t) => [nameOf(t), t] as const))(
    'loses nothing and leaves nothing to the next measurement: %s',
    async (_name, techniques) => {
      const loads = loadsFor([64, 1500]);
      const measured = await measureWall(techniques, loads, 0.02, NEVER);
      expect(measured.map(({ load }) => load)).toEqual(loads);
      expect(measured.flatMap(({ errors }) => errors)).toEqual([]);
      for (const m of measured) {
        expect(m.frames).toBeGreaterThan(0);
        if (m.load.burst === 0) expect(m.p50).toBeGreaterThan(0);
      }
    },
  );

  it('ends when it is told to', async () => {
    const abort = new AbortController();
    abort.abort(new Error('enough'));
    await expect(measureWall(POLLING, loadsFor([64]), 0.02, abort.signal)).rejects.toThrow('enough');
  });

  it.each([COMBINATIONS[0], COMBINATIONS[15], POLLING].map((t) => [nameOf(t as typeof POLLING), t as typeof POLLING] as const))(
    'ends in the middle of a measurement of minutes: %s',
    async (_name, techniques) => {
      const abort = new AbortController();
      setTimeout(() => abort.abort(new Error('enough')), 1000);
      await expect(measureWall(techniques, loadsFor([64]), 600, abort.signal)).rejects.toThrow('enough');
    },
  );
});
