// Meters (RFC 2697, a single rate three colour marker, colour-blind): a committed and an excess bucket filled at one rate, in bytes or in frames. What a frame of each colour comes to is the meter's: pass, drop,
// or pass with another DSCP. A meter without an excess bucket has two colours. A frame counts with its length as it is here; one that is still to be cut as one frame of its whole length.

import type { Nanos } from '#core/clock';
import type { Effects } from './effects.ts';
import { EmbeddedSwitchError } from './errors.ts';
import {
  METER_BURST,
  METER_COMMITTED,
  METER_COUNTS_FRAMES,
  METER_DROP,
  METER_EXCEED,
  METER_EXCESS,
  METER_EXCESS_BURST,
  METER_FLOATS,
  METER_GREEN,
  METER_PASS,
  METER_RATE,
  METER_RED,
  METER_REMARK,
  METER_STAMP,
  METER_VIOLATE,
  METER_YELLOW,
  type SwitchTables,
} from './layout.ts';

export type MeterAction = 'pass' | 'drop' | { readonly dscp: number };

export interface MeterSettings {
  /** Bits a second; or with `unit: 'frames'` frames a second. */
  readonly rate: number;
  /** Bytes, or frames, that may come at once. */
  readonly burst: number;
  /** More of them, from what the rate left over. Default 0. */
  readonly excessBurst?: number;
  readonly unit?: 'bits' | 'frames';
  /** Of a frame from the excess bucket (yellow). Default pass. */
  readonly exceed?: MeterAction;
  /** Of a frame beyond both (red). Default drop. */
  readonly violate?: MeterAction;
}

/** Writes a meter, its buckets full. @throws EmbeddedSwitchError */
export function writeMeter(tables: SwitchTables, meter: number, settings: MeterSettings): void {
  const { rate, burst, excessBurst = 0, unit = 'bits', exceed = 'pass', violate = 'drop' } = settings;
  if (!(Number.isFinite(rate) && rate > 0)) throw bad(`rate ${rate}: above 0, in ${unit === 'bits' ? 'bits' : 'frames'} a second`);
  if (!(Number.isFinite(burst) && burst >= 1)) throw bad(`burst ${burst}: at least 1`);
  if (!(Number.isFinite(excessBurst) && excessBurst >= 0)) throw bad(`excessBurst ${excessBurst}: 0 or more`);
  const actions = [actionWord(exceed), actionWord(violate)] as const;
  const { meters } = tables;
  const at = meter * METER_FLOATS;
  tables.change(() => {
    meters.fill(0, at, at + METER_FLOATS);
    // A nanosecond's worth.
    meters[at + METER_RATE] = unit === 'bits' ? rate / 8e9 : rate / 1e9;
    meters[at + METER_BURST] = burst;
    meters[at + METER_EXCESS_BURST] = excessBurst;
    meters[at + METER_EXCEED] = actions[0];
    meters[at + METER_VIOLATE] = actions[1];
    meters[at + METER_COUNTS_FRAMES] = unit === 'frames' ? 1 : 0;
    meters[at + METER_COMMITTED] = burst;
    meters[at + METER_EXCESS] = excessBurst;
    meters[at + METER_STAMP] = -1;
  });
}

function actionWord(action: MeterAction): number {
  if (action === 'pass') return METER_PASS;
  if (action === 'drop') return METER_DROP;
  if (!(Number.isInteger(action.dscp) && action.dscp >= 0 && action.dscp <= 63)) throw bad(`dscp ${action.dscp}: 0 to 63`);
  return METER_REMARK | (action.dscp << 8);
}

function bad(message: string): EmbeddedSwitchError {
  return new EmbeddedSwitchError('bad-setting', `meter: ${message}`);
}

/** Charges a meter for a frame. Returns what happens to it: METER_*, with a DSCP above. */
export function charge(tables: SwitchTables, meter: number, bytes: number, now: Nanos, effects: Effects): number {
  const { meters } = tables;
  const at = meter * METER_FLOATS;
  const amount = meters[at + METER_COUNTS_FRAMES] === 0 ? bytes : 1;
  const stamp = meters[at + METER_STAMP] as number;
  if (stamp >= 0 && now > stamp) {
    // What the committed bucket has no room for goes into the other one.
    const filled = (meters[at + METER_COMMITTED] as number) + (now - stamp) * (meters[at + METER_RATE] as number);
    const burst = meters[at + METER_BURST] as number;
    meters[at + METER_COMMITTED] = Math.min(burst, filled);
    if (filled > burst) meters[at + METER_EXCESS] = Math.min(meters[at + METER_EXCESS_BURST] as number, (meters[at + METER_EXCESS] as number) + filled - burst);
  }
  // A clock of another thread's (a new run of a worker) has its own zero.
  meters[at + METER_STAMP] = now;
  if ((meters[at + METER_COMMITTED] as number) >= amount) {
    meters[at + METER_COMMITTED] = (meters[at + METER_COMMITTED] as number) - amount;
    effects.charged(meter, amount, false);
    effects.colour(at + METER_GREEN);
    return METER_PASS;
  }
  if ((meters[at + METER_EXCESS] as number) >= amount) {
    meters[at + METER_EXCESS] = (meters[at + METER_EXCESS] as number) - amount;
    effects.charged(meter, amount, true);
    effects.colour(at + METER_YELLOW);
    return meters[at + METER_EXCEED] as number;
  }
  effects.colour(at + METER_RED);
  return meters[at + METER_VIOLATE] as number;
}
