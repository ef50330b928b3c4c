import { describe, expect, it } from 'vitest';
import { SharedProcessor } from '#core/shared-processor';

describe('a thread that polls', () => {
  it('naps while others were seen on its processor, and for a while after', () => {
    const shared = new SharedProcessor();
    shared.begin(0);
    expect(shared.inVain(5_000)).toBe(false);
    expect(shared.inVain(10_000)).toBe(false);
    // Three milliseconds of somebody else's.
    expect(shared.inVain(3_010_000)).toBe(true);
    // A nap, as short as it was asked for, says nothing new; what was seen holds.
    expect(shared.inVain(3_110_000)).toBe(true);
    let now = 3_110_000;
    while (shared.inVain(now)) now += 100_000;
    expect(now).toBe(103_010_000);
  });

  it('does not take its own work for that', () => {
    const shared = new SharedProcessor();
    shared.begin(0);
    expect(shared.inVain(5_000)).toBe(false);
    shared.begin(50_000_000);
    expect(shared.inVain(50_005_000)).toBe(false);
  });
});
