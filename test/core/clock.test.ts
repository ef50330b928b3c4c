import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HostClock, type HostClockPort, SimClock, WallClock } from '#core/clock';

describe('simulated time', () => {
  it('fires timers in deadline order, each at its deadline, ties in arming order', () => {
    const clock = new SimClock();
    const fired: string[] = [];
    const make = (name: string) => clock.timer(() => fired.push(`${name}@${clock.now()}`));
    const [a, b, c, d] = [make('a'), make('b'), make('c'), make('d')];
    b.arm(20);
    a.arm(20);
    c.arm(10);
    d.arm(31);
    expect(clock.nextDeadline).toBe(10);
    clock.advance(30);
    expect(fired).toEqual(['c@10', 'b@20', 'a@20']);
    expect(clock.now()).toBe(30);
    expect(d.deadline).toBe(31);
    expect(a.deadline).toBeUndefined();
  });

  it('moves a re-armed timer, behind others of the same deadline', () => {
    const clock = new SimClock();
    const fired: string[] = [];
    const a = clock.timer(() => fired.push('a'));
    const b = clock.timer(() => fired.push('b'));
    a.arm(5);
    b.arm(9);
    a.arm(9);
    clock.advanceTo(9);
    expect(fired).toEqual(['b', 'a']);
  });

  it('fires what a callback arms or cancels in the same advance', () => {
    const clock = new SimClock();
    const fired: number[] = [];
    const victim = clock.timer(() => fired.push(-1));
    const again = clock.timer(() => {
      fired.push(clock.now());
      victim.cancel();
      if (clock.now() < 30) again.arm(clock.now() + 10);
    });
    again.arm(10);
    victim.arm(25);
    clock.advance(100);
    expect(fired).toEqual([10, 20, 30]);
    expect(clock.nextDeadline).toBeUndefined();
  });

  it('fires a past deadline at the next advance, not inside arm, and not in the past', () => {
    const clock = new SimClock(1000);
    const fired: number[] = [];
    clock.timer(() => fired.push(clock.now())).arm(1);
    expect(fired).toEqual([]);
    clock.advance(0);
    expect(fired).toEqual([1000]);
  });

  it('never goes back, not even when a callback moves it on', () => {
    const clock = new SimClock();
    clock.timer(() => clock.advance(100)).arm(10);
    clock.advanceTo(50);
    expect(clock.now()).toBe(110);
    expect(() => clock.advanceTo(109)).toThrow(RangeError);
    expect(() => clock.advance(-1)).toThrow(RangeError);
    expect(() => clock.advance(Number.NaN)).toThrow(RangeError);
    expect(() => clock.timer(() => {}).arm(Number.NaN)).toThrow(RangeError);
  });

  it('agrees with sorting (property)', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 50 }), { maxLength: 30 }), (deadlines) => {
        const clock = new SimClock();
        const fired: number[] = [];
        deadlines.forEach((deadline, i) => {
          clock.timer(() => fired.push(deadline * 100 + i)).arm(deadline);
        });
        clock.advance(50);
        expect(fired).toEqual(deadlines.map((deadline, i) => deadline * 100 + i).sort((a, b) => a - b));
      }),
    );
  });
});

/** A host whose timers are called by hand, also after they were cancelled. */
function host() {
  const asked: { deadline: number; fire: () => void; cancelled: boolean }[] = [];
  const port: HostClockPort = {
    now: () => 0,
    setTimer(deadline, fire) {
      const timer = { deadline, fire, cancelled: false };
      asked.push(timer);
      return () => {
        timer.cancelled = true;
      };
    },
  };
  return { asked, port };
}

describe("a host's clock", () => {
  it('is asked for one call a deadline, and ignored when it calls late or twice', () => {
    const { asked, port } = host();
    const clock = new HostClock(port);
    let fired = 0;
    const timer = clock.timer(() => fired++);
    timer.arm(10);
    timer.arm(10);
    expect(asked.map((t) => t.cancelled)).toEqual([true, false]);
    asked[0]?.fire();
    expect(fired).toBe(0);
    asked[1]?.fire();
    asked[1]?.fire();
    expect(fired).toBe(1);
    expect(timer.deadline).toBeUndefined();
  });

  it('may call back at once, even when the callback arms again', () => {
    let depth = 0;
    const cancelled: number[] = [];
    const clock = new HostClock({
      now: () => 0,
      setTimer(deadline, fire) {
        if (depth++ === 0) fire();
        return () => cancelled.push(deadline);
      },
    });
    const timer = clock.timer(() => timer.arm(20));
    timer.arm(10);
    expect(timer.deadline).toBe(20);
    timer.cancel();
    expect(cancelled).toEqual([20]);
  });

  it('close cancels what is armed', () => {
    const { asked, port } = host();
    const clock = new HostClock(port);
    const timer = clock.timer(() => {});
    timer.arm(5);
    clock.close();
    expect(asked[0]?.cancelled).toBe(true);
    expect(timer.deadline).toBeUndefined();
  });
});

describe('wall time', () => {
  it('moves on and fires, never early', async () => {
    const clock = new WallClock();
    const deadline = clock.now() + 3e6;
    const at = await new Promise<number>((resolve) => clock.timer(() => resolve(clock.now())).arm(deadline));
    expect(at).toBeGreaterThanOrEqual(deadline);
  });

  it('fires a past deadline, not inside arm', async () => {
    const clock = new WallClock();
    let inside = true;
    const late = new Promise<boolean>((resolve) => clock.timer(() => resolve(inside)).arm(-5));
    inside = false;
    expect(await late).toBe(false);
  });
});
