// What the 82576's clock does by itself: target times and clocks on software-definable pins, times noted of inputs and by software; and the pins as such.
import { describe, expect, it } from 'vitest';
import { R, Station, wired } from './bench.ts';

const PACE_1 = (1 << 24) | 1;
const EN_TT0 = 1;
const EN_TT1 = 2;
const EN_CLK0 = 4;
const SAMP_AUT0 = 8;
const ST0 = 0x10;
const SAMP_AUT1 = 0x40;
const EN_TS0 = 0x100;
const AUTT0 = 0x200;
const EN_TS1 = 0x400;
const AUTT1 = 0x800;
const SDP0_DATA = 1 << 18;
const SDP0_OUT = 1 << 22;
const SDP1_OUT = 1 << 23;
const SDP2_DATA = 1 << 6;
const SDP3_DATA = 1 << 7;
const SDP2_OUT = 1 << 10;
const SDP3_OUT = 1 << 11;
/** TSSDP: pin n is time's, by a target time (0, 1) or a clock (2, 3). */
const timed = (pin: number, selection: number): number => (4 | selection) << (6 + 3 * pin);
const auxiliary = (channel: number, pin: number): number => (4 | pin) << (3 * channel);

interface Edge {
  readonly at: number;
  readonly pin: number;
  readonly level: boolean;
}

/** SYSTIM counts ticks of 16 ns. */
function board(): { nic: Station; edges: Edge[] } {
  const edges: Edge[] = [];
  const nic = new Station({ onPin: (pin, level) => edges.push({ at: nic === undefined ? 0 : nic.clock.now(), pin, level }) });
  nic.write(R.TIMINCA, PACE_1);
  return { nic, edges };
}

function target(nic: Station, channel: number, ticks: number): void {
  nic.write(R.TRGTTIM + 8 * channel, ticks);
  nic.write(R.TRGTTIM + 8 * channel + 4, 0);
}

const stamp = (nic: Station, channel: number): number => nic.read(R.AUXSTMP + 8 * channel);

describe('pins', () => {
  it('outputs have the level that is written, inputs the one the board drives', () => {
    const { nic, edges } = board();
    nic.write(R.CTRL, SDP0_OUT);
    nic.write(R.CTRL, SDP0_OUT | SDP0_DATA);
    nic.write(R.CTRL_EXT, SDP3_OUT | SDP3_DATA);
    expect(edges.map(({ pin, level }) => [pin, level])).toEqual([
      [0, false],
      [0, true],
      [3, true],
    ]);
    expect([0, 1, 2, 3].map((pin) => nic.nic.pinLevel(pin))).toEqual([true, false, false, true]);
    nic.nic.drivePin(2, true);
    expect([nic.read(R.CTRL_EXT) & (SDP2_DATA | SDP3_DATA), nic.nic.pinLevel(2)]).toEqual([SDP2_DATA | SDP3_DATA, true]);
    // What is written to an input's data is its level as an output, later.
    nic.write(R.CTRL_EXT, 0);
    expect(nic.read(R.CTRL_EXT) & SDP2_DATA).toBe(SDP2_DATA);
    nic.write(R.CTRL_EXT, SDP2_OUT);
    expect(nic.read(R.CTRL_EXT) & SDP2_DATA).toBe(0);
    nic.write(R.CTRL_EXT, 0);
    expect(nic.read(R.CTRL_EXT) & SDP2_DATA).toBe(SDP2_DATA);
    expect(() => nic.nic.drivePin(4, true)).toThrow(RangeError);
  });

  it('a rising input is a cause of ICR where CTRL_EXT says so; a falling one, an output, the others are not', () => {
    const { nic } = board();
    nic.write(R.CTRL_EXT, 0b1010 | SDP3_OUT);
    nic.nic.drivePin(0, true);
    nic.nic.drivePin(1, true);
    nic.nic.drivePin(3, true);
    expect(nic.read(R.ICR)).toBe(1 << 12);
    nic.nic.drivePin(1, true);
    nic.nic.drivePin(1, false);
    expect(nic.read(R.ICR)).toBe(0);
  });

  it('a reset makes inputs of them', () => {
    const { nic } = board();
    nic.write(R.CTRL, SDP0_OUT | SDP0_DATA);
    nic.write(R.CTRL, 1 << 26);
    expect([nic.read(R.CTRL) & (SDP0_OUT | SDP0_DATA), nic.nic.pinLevel(0)]).toEqual([0, false]);
  });
});

describe('target times', () => {
  it('turn over the pins that are theirs, once each time they are enabled', () => {
    const { nic, edges } = board();
    nic.write(R.CTRL, SDP0_OUT | SDP1_OUT);
    nic.write(R.TSSDP, timed(0, 0) | timed(1, 1));
    edges.length = 0;
    target(nic, 0, 1000);
    target(nic, 1, 500);
    nic.write(R.TSAUXC, EN_TT0 | EN_TT1);
    nic.clock.advance(1e6);
    expect(edges).toEqual([
      { at: 500 * 16, pin: 1, level: true },
      { at: 1000 * 16, pin: 0, level: true },
    ]);
    expect(nic.read(R.TSAUXC)).toBe(0);
    // A time that has passed is now.
    nic.write(R.TSAUXC, EN_TT0);
    expect(edges.slice(2)).toEqual([{ at: 1e6, pin: 0, level: false }]);
    // The 82576 has no cause for it.
    expect(nic.read(R.ICR)).toBe(0);
  });

  it('follow SYSTIM: its pace, steps and standstill', () => {
    const { nic, edges } = board();
    nic.write(R.CTRL, SDP0_OUT);
    nic.write(R.TSSDP, timed(0, 0));
    edges.length = 0;
    target(nic, 0, 1000);
    nic.write(R.TSAUXC, EN_TT0);
    nic.write(R.TIMINCA, (2 << 24) | 1);
    nic.clock.advance(16 * 1000);
    expect(edges).toEqual([]);
    nic.write(R.TIMINCA, 0);
    nic.clock.advance(1e9);
    expect(edges).toEqual([]);
    nic.write(R.TIMINCA, PACE_1);
    nic.clock.advance(16 * 100);
    // 600 of 1000.
    nic.write(R.TIMADJL, 399);
    nic.write(R.TIMADJH, 0);
    expect(edges).toEqual([]);
    nic.clock.advance(16);
    expect(edges).toHaveLength(1);
    target(nic, 0, 5000);
    nic.write(R.TSAUXC, EN_TT0);
    nic.write(R.SYSTIML, 5000);
    expect(edges).toHaveLength(2);
  });

  it('one that is a hundred years away keeps, and is nobody’s after a reset', () => {
    const { nic, edges } = board();
    nic.write(R.CTRL, SDP0_OUT);
    nic.write(R.TSSDP, timed(0, 0));
    edges.length = 0;
    nic.write(R.TRGTTIM, 0);
    nic.write(R.TRGTTIM + 4, 0xffff_ffff);
    nic.write(R.TSAUXC, EN_TT0);
    nic.clock.advance(1e12);
    expect([edges, nic.read(R.TSAUXC)]).toEqual([[], EN_TT0]);
    nic.write(R.CTRL, 1 << 26);
    expect([nic.read(R.TSAUXC), nic.clock.nextDeadline]).toEqual([0, undefined]);
  });
});

describe('clocks', () => {
  it('turn their pin over every FREQOUT of SYSTIM, from when they are enabled', () => {
    const { nic, edges } = board();
    nic.write(R.CTRL, SDP0_OUT);
    nic.write(R.TSSDP, timed(0, 2));
    nic.write(R.FREQOUT, 6250);
    edges.length = 0;
    nic.clock.advance(1600);
    nic.write(R.TSAUXC, EN_CLK0);
    nic.clock.advance(350_000);
    const half = 6250 * 16;
    expect(edges).toEqual([1, 2, 3].map((n) => ({ at: 1600 + n * half, pin: 0, level: n % 2 === 1 })));
    nic.write(R.TSAUXC, 0);
    nic.clock.advance(1e6);
    expect(edges).toHaveLength(3);
  });

  it('from a target time, where ST says so', () => {
    const { nic, edges } = board();
    nic.write(R.CTRL, SDP0_OUT);
    nic.write(R.TSSDP, timed(0, 2));
    nic.write(R.FREQOUT, 1000);
    target(nic, 0, 10_000);
    edges.length = 0;
    nic.write(R.TSAUXC, EN_CLK0 | ST0);
    nic.clock.advance(16 * 12_500);
    expect(edges.map(({ at }) => at / 16)).toEqual([11_000, 12_000]);
  });

  it('one too fast to follow costs little and keeps its phase; one with no period stands', () => {
    const { nic, edges } = board();
    nic.write(R.CTRL, SDP0_OUT);
    nic.write(R.TSSDP, timed(0, 2));
    nic.write(R.FREQOUT, 1);
    edges.length = 0;
    nic.write(R.TSAUXC, EN_CLK0);
    nic.clock.advance(1e6);
    expect(edges.length).toBeLessThanOrEqual(101);
    // Looked at every 625 ticks.
    expect(nic.read(R.TRGTTIM)).toBeGreaterThan(62_500 - 625);
    nic.write(R.FREQOUT, 0);
    edges.length = 0;
    nic.clock.advance(1e6);
    expect([edges.length <= 1, nic.clock.nextDeadline]).toEqual([true, undefined]);
  });
});

describe('times noted', () => {
  it('of an input that changes, either way, until they are read', () => {
    const { nic } = board();
    nic.write(R.TSSDP, auxiliary(0, 1) | auxiliary(1, 2));
    nic.write(R.TSAUXC, EN_TS0 | EN_TS1);
    nic.clock.advance(1600);
    nic.nic.drivePin(1, true);
    nic.clock.advance(1600);
    nic.nic.drivePin(1, false);
    nic.nic.drivePin(2, true);
    nic.nic.drivePin(3, true);
    expect(nic.read(R.TSAUXC)).toBe(EN_TS0 | EN_TS1 | AUTT0 | AUTT1);
    expect([stamp(nic, 0), stamp(nic, 1)]).toEqual([100, 200]);
    expect(nic.read(R.AUXSTMP + 4)).toBe(0);
    expect(nic.read(R.TSAUXC)).toBe(EN_TS0 | EN_TS1 | AUTT1);
    nic.clock.advance(1600);
    nic.nic.drivePin(1, true);
    expect(stamp(nic, 0)).toBe(300);
    // Outputs, and channels that are off, note nothing.
    nic.read(R.AUXSTMP + 4);
    nic.write(R.TSAUXC, EN_TS1);
    nic.nic.drivePin(1, false);
    expect(nic.read(R.TSAUXC)).toBe(EN_TS1 | AUTT1);
  });

  it('by software', () => {
    const { nic } = board();
    nic.clock.advance(16 * 77);
    nic.write(R.TSAUXC, SAMP_AUT0 | SAMP_AUT1);
    expect([stamp(nic, 0), stamp(nic, 1), nic.read(R.TSAUXC)]).toEqual([77, 77, AUTT0 | AUTT1]);
    nic.clock.advance(1600);
    nic.write(R.TSAUXC, SAMP_AUT0);
    expect(stamp(nic, 0)).toBe(77);
    nic.read(R.AUXSTMP + 4);
    nic.write(R.TSAUXC, SAMP_AUT0);
    expect(stamp(nic, 0)).toBe(177);
  });
});

it('all of it goes on elsewhere', () => {
  const a = wired();
  a.nic.write(R.TIMINCA, PACE_1);
  a.nic.write(R.CTRL, SDP0_OUT | SDP1_OUT);
  a.nic.write(R.TSSDP, timed(0, 2) | timed(1, 1));
  a.nic.write(R.FREQOUT, 6250);
  target(a.nic, 1, 20_000);
  a.nic.write(R.TSAUXC, EN_CLK0 | EN_TT1 | SAMP_AUT0);
  a.nic.clock.advance(150_000);
  const edges: [number, number, boolean][] = [];
  const b: Station = wired({ onPin: (pin, level) => edges.push([b === undefined ? 0 : b.clock.now(), pin, level]) }).nic;
  b.clock.advanceTo(a.nic.clock.now());
  b.nic.restore(structuredClone(a.nic.nic.save()));
  expect([b.nic.pinLevel(0), b.nic.pinLevel(1), b.read(R.TSAUXC) & AUTT0]).toEqual([true, false, AUTT0]);
  edges.length = 0;
  b.clock.advance(200_000);
  expect(edges).toEqual([
    [200_000, 0, false],
    [300_000, 0, true],
    [320_000, 1, true],
  ]);
});
