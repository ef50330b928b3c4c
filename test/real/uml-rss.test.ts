// How Linux spreads received frames over our queues (user-mode Linux, whose driver talks to our control queue itself): ethtool's tables, keys and hash types, each seen to take effect in the
// driver's own counters of each queue, and in ours. Once more with hash reports, whose headers are longer.

import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { available, type Child, endChildren, PATIENCE, scratch } from './host.ts';
import { VhostUserServer } from './server.ts';
import { answeringScript, askingScript, checkTraffic } from './traffic.ts';
import { findUml } from './uml.ts';

const { client: uml, missing } = await available(findUml);

afterEach(endChildren);

const CONNECTIONS = 12;
const ZERO_KEY = Array.from({ length: 40 }, () => '00').join(':');

/** Each setting, then connections whose ports differ, then how many frames each queue has got since. */
const SETTINGS = `
rss() {
  name=$1
  shift
  "$@" > /tmp/said 2>&1 || echo "PROBLEM $name: $(cat /tmp/said)"
  before="$(counts)"
  for i in $(seq ${CONNECTIONS}); do nc -w 60 10.0.0.1 5003 <&3 > /dev/null; done
  echo RSS $name $before $(counts)
}
counts() { ethtool -S eth0 | sed -n 's/^ *rx_queue_[01]_packets: //p'; }
table() { ethtool -x eth0 | sed -n 's/^ *[0-9]*: //p' | tr -s ' \\n' ' '; }
key() { ethtool -x eth0 | grep -A 1 '^RSS hash key' | tail -n 1; }
ethtool -L eth0 combined 2 || echo PROBLEM ethtool -L
first=$(key)
# The default of this driver may be another: known, from here on.
rss equal ethtool -X eth0 equal 2
echo TABLE equal $(table)
rss second ethtool -X eth0 weight 0 1
echo TABLE second $(table)
rss first ethtool -X eth0 weight 1 0
echo TABLE first $(table)
rss weighted ethtool -X eth0 weight 1 3
echo TABLE weighted $(table)
ethtool -X eth0 equal 2 || echo PROBLEM equal
rss zero-key ethtool -X eth0 hkey ${ZERO_KEY}
echo KEY $(key)
ethtool -X eth0 hkey $first || echo PROBLEM hkey
# The driver of Linux 6.1 tells of hash types with the next table, unless it has hash reports.
ethtool -N eth0 rx-flow-hash tcp4 sd || echo PROBLEM sd
rss addresses ethtool -X eth0 equal 2
echo TYPES $(ethtool -n eth0 rx-flow-hash tcp4 | tr -s ' \\n' ' ')
ethtool -N eth0 rx-flow-hash tcp4 sdfn || echo PROBLEM sdfn
rss ports ethtool -X eth0 equal 2
echo TYPES $(ethtool -n eth0 rx-flow-hash tcp4 | tr -s ' \\n' ' ')
ethtool -X eth0 weight 1 0 || echo PROBLEM weight
rss one-channel ethtool -L eth0 combined 1
ethtool -L eth0 combined 2 || echo PROBLEM ethtool -L
rss again ethtool -X eth0 equal 2
echo HASHING $(ethtool -k eth0 | grep receive-hashing)
`;

const HASHING = `
ethtool -K eth0 rxhash on || echo PROBLEM rxhash on
echo HASHING $(ethtool -k eth0 | grep receive-hashing)
rss reported ethtool -X eth0 equal 2
# Without rxhash after that Linux asks for no hash of any type: nothing is classified.
ethtool -K eth0 rxhash off || echo PROBLEM rxhash off
rss unreported ethtool -X eth0 equal 2
ethtool -K eth0 rxhash on || echo PROBLEM rxhash on again
for feature in gso tso tx sg gro; do ethtool -K eth0 $feature off > /dev/null 2>&1 || echo PROBLEM $feature off; done
rss plain ethtool -X eth0 weight 0 1
for feature in gro sg tx tso gso; do ethtool -K eth0 $feature on > /dev/null 2>&1 || echo PROBLEM $feature on; done
rss offloaded ethtool -X eth0 weight 1 0
`;

/** Frames that each queue got under a setting; the driver says nothing of a queue it does not use. */
function spread(asking: Child, name: string): readonly [number, number] {
  const line = asking.lines.find((text) => text.startsWith(`RSS ${name} `));
  const counts = line?.split(' ').slice(2).map(Number) ?? [];
  const [a = Number.NaN, b = Number.NaN, c = Number.NaN, d = Number.NaN] = counts.length === 2 ? [counts[0], 0, counts[1], 0] : counts;
  return [c - a, d - b];
}

const said = (child: Child, word: string): string[] =>
  child.lines.filter((line) => line.startsWith(`${word} `)).map((line) => line.slice(word.length + 1).trim());

describe.skipIf(missing !== undefined)(`user-mode Linux, receive side scaling${missing === undefined ? '' : ` (skipped: ${missing})`}`, () => {
  it.each([false, true])('tables, keys and hash types of ethtool take effect (hash reports: %s)', async (reports) => {
    if (uml === undefined) return;
    const folder = scratch();
    const sockets = ['a', 'b'].map((name) => join(folder, name));
    const server = await VhostUserServer.start(sockets, ['--queues', '2', '--json', ...(reports ? ['--hash-report'] : [])]);
    const size = { kibibytes: 2048, pings: 50 };
    const many = '(while :; do echo some bytes | nc -l -p 5003 > /dev/null; done) &';
    const answering = uml.boot('answering', answeringScript(size.kibibytes, many), [sockets[0] as string]);
    const asking = uml.boot('asking', askingScript({ ...size, after: `${SETTINGS}${reports ? HASHING : ''}` }), [sockets[1] as string]);
    await asking.line(/^GUEST-DONE/, PATIENCE).catch((error: unknown) => {
      throw new Error(`${error}\nserver:\n${server.child.lines.slice(-3).join('\n')}`);
    });
    checkTraffic(answering, asking, size);
    const context = asking.lines.filter((line) => /^(RSS|TABLE|KEY|TYPES|HASHING|PROBLEM)/.test(line)).join('\n');
    expect(asking.lines.filter((line) => line.includes('PROBLEM'))).toEqual([]);
    // Some frames have no hash, or are nobody's: they go to the first queue, and are few.
    const few = CONNECTIONS / 2;
    const onBoth = ['equal', 'ports', 'again', ...(reports ? ['reported'] : [])];
    const onFirst = ['first', 'zero-key', 'one-channel', ...(reports ? ['unreported', 'offloaded'] : [])];
    const onSecond = ['second', ...(reports ? ['plain'] : [])];
    for (const name of onBoth) expect(Math.min(...spread(asking, name)), `${name}\n${context}`).toBeGreaterThan(0);
    for (const name of [...onBoth, 'weighted'])
      expect(spread(asking, name)[0] + spread(asking, name)[1], `${name}\n${context}`).toBeGreaterThanOrEqual(CONNECTIONS);
    for (const name of onFirst) expect(spread(asking, name)[1], `${name}\n${context}`).toBe(0);
    for (const name of onFirst) expect(spread(asking, name)[0], `${name}\n${context}`).toBeGreaterThanOrEqual(CONNECTIONS);
    for (const name of onSecond) expect(spread(asking, name)[0], `${name}\n${context}`).toBeLessThan(few);
    for (const name of onSecond) expect(spread(asking, name)[1], `${name}\n${context}`).toBeGreaterThanOrEqual(CONNECTIONS);
    // By addresses alone all connections are one.
    expect(Math.min(...spread(asking, 'addresses')), context).toBeLessThan(few);
    const tables = Object.fromEntries(said(asking, 'TABLE').map((text) => [text.split(' ')[0], text.split(' ').slice(1).map(Number)]));
    const share = (name: string): number => (tables[name] as number[]).reduce((sum, queue) => sum + queue, 0) / (tables[name] as number[]).length;
    expect([share('equal'), share('second'), share('first'), share('weighted')], context).toEqual([0.5, 1, 0, 0.75]);
    expect(said(asking, 'KEY'), context).toEqual([ZERO_KEY]);
    const [addresses, ports] = said(asking, 'TYPES');
    expect(addresses, context).not.toContain('L4');
    expect(ports, context).toContain('L4');
    expect(
      said(asking, 'HASHING').map((text) => text.replace(/.*: /, '')),
      context,
    ).toEqual(reports ? ['off', 'on'] : ['off']);
    await asking.kill();
    await answering.kill();
    expect(await server.stop()).toBe(130);
    expect(Object.keys(server.counters()[1]?.drops ?? {}), server.child.tail).not.toContain('malformed');
  });
});
