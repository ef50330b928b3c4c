// What an 82576 counts beside what every Intel part does (82576 8.18): the host's view, interrupts, spoofed frames, what each queue dropped.

import { COUNT as COMMON } from '#devices/intel/statistics';

const BEYOND = Object.keys(COMMON).length;

export const COUNT = {
  ...COMMON,
  IAC: BEYOND,
  RPTHC: BEYOND + 1,
  HGPTC: BEYOND + 2,
  RXDMTC: BEYOND + 3,
  HGORC: BEYOND + 4,
  HGOTC: BEYOND + 5,
  LENERRS: BEYOND + 6,
  SSVPC: BEYOND + 7,
} as const;

export const COUNTS = Object.keys(COUNT).length;
