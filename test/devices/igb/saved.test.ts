// An igb saved in the middle of things goes on elsewhere as if nothing had happened; a record that is not exact is refused and changes nothing.
import { describe, expect, it } from 'vitest';
import { frame, packet } from '../../e1000/bench.ts';
import { ENABLE, EOP, IFCS, IXSM, R, RS, type Station, TSE, TXSM, VLE, wired } from './bench.ts';

function moved(from: Station, to: Station): void {
  to.clock.advanceTo(Math.max(to.clock.now(), from.clock.now()));
  const saved = structuredClone(from.nic.save());
  to.bytes.set(from.bytes);
  to.nic.restore(saved);
}

describe('mid-traffic', () => {
  it('a packet that is cut goes on with the next piece', () => {
    const a = wired();
    a.nic.start({ ctrl: 0x4000_0000 });
    a.peer.room = 2;
    // A tag of its own in the packet, so that it is cut here.
    const plain = packet({ payload: 3000, seed: true });
    const bytes = [...plain.slice(0, 12), 0x81, 0, 0, 9, ...plain.slice(12)];
    a.nic.context({ mac: 18, mss: 600 });
    const index = a.nic.data(bytes, EOP | IFCS | RS | TSE, { popts: IXSM | TXSM });
    a.nic.go();
    expect(a.peer.inbox).toHaveLength(2);
    const b = wired();
    b.nic.start();
    moved(a.nic, b.nic);
    b.nic.nic.resume();
    expect([a.peer.inbox.length, b.peer.inbox.length]).toEqual([2, 3]);
    expect([...a.peer.inbox, ...b.peer.inbox].flatMap(({ bytes: f }) => [...f.subarray(58)])).toEqual(bytes.slice(58));
    expect([b.nic.sent(index), b.nic.read(R.TSCTC), b.nic.read(R.GPTC)]).toEqual([1, 1, 5]);
  });

  it('contexts, moderation, causes, statistics, reports that wait, time, the TCP timer', () => {
    const a = wired();
    a.nic.start({ ctrl: 0x4000_0000 });
    a.nic.write(R.GPIE, 0x11);
    a.nic.write(R.IVAR, 0x8180);
    a.nic.write(R.IVAR_MISC, 0x82);
    a.nic.write(R.EIMS, 7);
    a.nic.write(R.EIAC, 7);
    a.nic.write(R.EITR, 100 << 2);
    a.nic.write(R.EITR + 4, 200 << 2);
    a.nic.write(R.TIMINCA, (1 << 24) | 1);
    a.nic.write(R.TCPTIMER, 1 | (1 << 8) | (1 << 9));
    a.nic.write(R.TXDCTL, ENABLE | (8 << 16));
    a.nic.context({ tag: 77 });
    a.inject(frame(), frame());
    a.inject(frame());
    a.nic.send(frame());
    const waiting = a.nic.send(frame());
    a.nic.clock.advance(40_000);
    const b = wired();
    moved(a.nic, b.nic);
    b.nic.msix();
    expect([b.nic.read(R.GPRC), b.nic.read(R.GPTC), b.nic.read(R.SYSTIML), b.nic.sent(waiting)]).toEqual([3, 2, a.nic.read(R.SYSTIML), 0]);
    b.nic.clock.advance(59_999);
    expect(b.nic.messages).toEqual([]);
    b.nic.clock.advance(1);
    expect(b.nic.messages).toEqual([0]);
    b.nic.clock.advance(100_000);
    expect([b.nic.messages, b.nic.sent(waiting)]).toEqual([[0, 1], 1]);
    b.nic.clock.advance(1e6);
    expect(b.nic.messages).toEqual([0, 1, 2]);
    const again = wired();
    moved(b.nic, again.nic);
    expect(again.nic.nic.save()).toEqual(b.nic.nic.save());
  });

  it('contexts in force', () => {
    const a = wired();
    a.nic.start({ ctrl: 0x4000_0000 });
    a.nic.context({ tag: 77 });
    a.nic.go();
    const b = wired();
    b.nic.start();
    b.nic.context({});
    moved(a.nic, b.nic);
    b.nic.data(frame(), EOP | IFCS | RS | VLE);
    b.nic.go();
    expect(b.outbox()[0]?.[15]).toBe(77);
  });

  it('autonegotiation that was under way', () => {
    const a = wired();
    a.nic.write(R.CTRL, 0x40);
    a.nic.clock.advance(300e6);
    const b = wired();
    moved(a.nic, b.nic);
    b.nic.clock.advance(199e6);
    expect(b.nic.read(R.STATUS) & 2).toBe(0);
    b.nic.clock.advance(1e6);
    expect(b.nic.read(R.STATUS) & 2).toBe(2);
  });

  it('through the machine, frames standing still meanwhile', async () => {
    const a = wired();
    a.nic.start();
    a.nic.nic.pause();
    a.nic.send(frame(99));
    expect(a.outbox()).toEqual([]);
    const saved = await a.nic.machine.save({ memory: true });
    const b = wired();
    b.nic.clock.advanceTo(a.nic.clock.now());
    await b.nic.machine.restore(saved);
    expect(b.outbox().map(({ length }) => length)).toEqual([99]);
  });
});

describe('times of another clock, or of nobody', () => {
  /** A record of a station that is up, with everything that has a time in the far future. */
  const distant = (): unknown => {
    const { nic } = wired();
    nic.start();
    nic.write(R.GPIE, 0x11);
    nic.write(R.EITR, 100 << 2);
    const saved = structuredClone(nic.nic.save()) as {
      state: {
        interrupts: { moderation: { free: number[]; counted: number[] } };
        link: { pauseEnds: number };
        time: [bigint, number, number];
        tcpTimer: [number, number];
      };
    };
    const { state } = saved;
    state.interrupts.moderation.free.fill(1e18);
    state.interrupts.moderation.counted.fill(1e18);
    state.link.pauseEnds = 1e18;
    state.time = [1000n, 1e18, 0];
    state.tcpTimer = [0, 1e18];
    return saved;
  };

  it('are brought within what the hardware can count', () => {
    const { nic, outbox } = wired();
    nic.start();
    nic.nic.restore(distant());
    nic.msix();
    nic.write(R.TIMINCA, (1 << 24) | 1);
    nic.write(R.IVAR_MISC, 0x8082);
    nic.write(R.EIMS, 7);
    nic.write(R.EIAC, 7);
    // SYSTIM runs on from what it was.
    expect(nic.read(R.SYSTIML)).toBe(1000);
    nic.clock.advance(1600);
    expect(nic.read(R.SYSTIML)).toBe(1100);
    // 13 bits of microseconds.
    nic.write(R.EICS, 1);
    nic.clock.advance(8_191_000 - 1600 - 1);
    expect(nic.messages).toEqual([]);
    nic.clock.advance(1);
    expect(nic.messages).toEqual([0]);
    // 255 milliseconds of the TCP timer.
    nic.clock.advance(255e6);
    expect(nic.messages).toEqual([0, 2]);
    // The longest pause, at 10 Mb/s.
    nic.send(frame(64));
    expect(outbox()).toEqual([]);
    nic.clock.advance(0xffff * 512 * 100);
    expect(outbox()).toHaveLength(1);
  });
});

describe('records that are not exact', () => {
  const change = (edit: (state: Record<string, never>) => void): unknown => {
    const { nic } = wired();
    nic.start();
    const saved = structuredClone(nic.nic.save()) as { state: Record<string, never> };
    edit(saved.state);
    return saved;
  };

  it.each([
    ['a register with a bit it cannot have', (s: never) => ((s as { registers: { TDLEN: number[] } }).registers.TDLEN[0] = 0xffff_ffff)],
    ['a register that is missing', (s: never) => delete (s as { registers: { TDLEN?: unknown } }).registers.TDLEN],
    ['a head beyond 16 bits', (s: never) => ((s as { registers: { TDH: number[] } }).registers.TDH[3] = 0x1_0000)],
    ['a register of too few elements', (s: never) => ((s as { registers: { RDH: number[] } }).registers.RDH.length = 3)],
    ['queues that are missing', (s: never) => ((s as { queues: unknown[] }).queues.length = 3)],
    ['a count of pieces that is none', (s: never) => ((s as { queues: { pieces: number }[] }).queues[0] = { pieces: -1 })],
    ['a time that is none', (s: never) => ((s as { time: unknown[] }).time[0] = 5)],
    ['moderation of too few vectors', (s: never) => ((s as { interrupts: { moderation: { free: number[] } } }).interrupts.moderation.free.length = 2)],
    ['waiting vectors that are not there', (s: never) => ((s as { interrupts: { waiting: number } }).interrupts.waiting = 0xffff_ffff)],
    ['statistics that are no numbers', (s: never) => ((s as { statistics: unknown[] }).statistics[0] = 'many')],
    ['virtual functions that are missing', (s: never) => ((s as { virtual: unknown }).virtual = null)],
  ] as [string, (state: never) => void][])('%s', (_, edit) => {
    const { nic } = wired();
    nic.start();
    nic.send(frame());
    const before = nic.nic.save();
    expect(() => nic.nic.restore(change(edit as (state: Record<string, never>) => void))).toThrow(/saved/);
    expect(nic.nic.save()).toEqual(before);
  });
});
