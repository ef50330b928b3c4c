// What two guests do to each other, as shell scripts: one answers, the other asks. They say what they sent and got; the test compares.

import { expect } from 'vitest';
import type { Child } from './host.ts';

const ANSWERING = '10.0.0.1';
const ASKING = '10.0.0.2';

/** Offloads as ethtool names them, on and off. */
const OFFLOADS = 'rx tx sg tso gso gro';

const bringUp = (address: string, setUp: string): string => `
[ -e /sys/class/net/eth0 ] || { echo GUEST-PROBLEM no network device; dmesg | grep -i virtio; return; }
ip link set lo up
ip link set eth0 up
ip addr add ${address}/24 dev eth0
${setUp}
mkfifo /tmp/idle
exec 3<>/tmp/idle
`;
// nc ends when either side does: its input is a pipe that never ends wherever only the other direction is meant.

/** Serves a file, takes what it is sent, until it is told to end. */
export function answeringScript(kibibytes: number, setUp = ''): string {
  return `${bringUp(ANSWERING, setUp)}
mkdir /served
dd if=/dev/urandom of=/served/file bs=1024 count=${kibibytes} 2>/dev/null
echo SERVED $(sha1sum < /served/file)
(while :; do nc -l -p 5001 <&3 > /tmp/taken; echo TAKEN $(sha1sum < /tmp/taken); done) &
(while :; do nc -l -p 5002 < /served/file > /dev/null; done) &
echo ANSWERING
nc -l -p 5999 <&3
sleep 1
`;
}

export interface Asking {
  readonly kibibytes: number;
  readonly pings: number;
  readonly setUp?: string;
  /** Commands between the traffic and its end. */
  readonly after?: string;
  /** The transfers once more with offloads off. */
  readonly offloadsOff?: boolean;
}

/** Pings, then moves files both ways over TCP. */
export function askingScript({ kibibytes, pings, setUp = '', after = '', offloadsOff = true }: Asking): string {
  const off = OFFLOADS.split(' ')
    .map((name) => `${name} off`)
    .join(' ');
  return `${bringUp(ASKING, setUp)}
dd if=/dev/urandom of=/tmp/file bs=1024 count=${kibibytes} 2>/dev/null
tries=0
until ping -c 1 -W 1 -q ${ANSWERING} > /dev/null 2>&1; do tries=$((tries+1)); [ $tries -lt 200 ] || break; done
echo PING $(ping -A -q -c ${pings} -w 120 ${ANSWERING} | grep received)
now() { cut -d ' ' -f 1 /proc/uptime; }
transfer() {
  tries=0
  begin=$(now)
  until nc -w 60 ${ANSWERING} 5002 <&3 > /tmp/back; do tries=$((tries+1)); [ $tries -lt 100 ] || break; sleep 0.5; begin=$(now); done
  echo DOWN $1 $(sha1sum < /tmp/back | cut -c 1-40) $begin $(now)
  tries=0
  begin=$(now)
  until nc -w 60 ${ANSWERING} 5001 < /tmp/file; do tries=$((tries+1)); [ $tries -lt 100 ] || break; sleep 0.5; begin=$(now); done
  echo UP $1 $(sha1sum < /tmp/file | cut -c 1-40) $begin $(now)
}
transfer offloads-as-negotiated
${offloadsOff ? `ethtool -K eth0 ${off} > /dev/null 2>&1\ntransfer offloads-off` : ''}
${after}
echo bye | nc -w 60 ${ANSWERING} 5999
`;
}

export interface Exchange {
  readonly name: string;
  readonly down: number;
  readonly up: number;
}

/** Checks both guests' words against each other; returns megabytes a second of each transfer, by the asking guest's clock. */
export function checkTraffic(answering: Child, asking: Child, { kibibytes, pings }: Pick<Asking, 'kibibytes' | 'pings'>): Exchange[] {
  const said = (child: Child, word: string): string[][] =>
    child.lines.flatMap((line) =>
      line.startsWith(`${word} `)
        ? [
            line
              .slice(word.length + 1)
              .trim()
              .split(' '),
          ]
        : [],
    );
  const context = `${answering.name}:\n${answering.tail}\n${asking.name}:\n${asking.tail}`;
  expect(said(asking, 'PING')[0]?.join(' '), context).toContain(`${pings} packets transmitted, ${pings} packets received`);
  const served = said(answering, 'SERVED')[0]?.[0];
  const down = said(asking, 'DOWN');
  const up = said(asking, 'UP');
  const taken = said(answering, 'TAKEN').map(([sum]) => sum);
  expect(down.length, context).toBeGreaterThan(0);
  expect(up.length, context).toBe(down.length);
  const rate = (begin = '', end = ''): number => kibibytes / 1024 / Math.max(0.01, Number(end) - Number(begin));
  return down.map(([name = '', sum, ...times], i) => {
    expect(sum, `${name}: what came down is what was served\n${context}`).toBe(served);
    expect(taken, `${name}: what went up was taken whole\n${context}`).toContain(up[i]?.[1]);
    return { name, down: rate(...times), up: rate(...(up[i] ?? []).slice(2)) };
  });
}
