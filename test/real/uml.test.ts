// User-mode Linux against `nicbox serve vhost-user`: the unmodified virtio_net driver, with config space and control queue served by us.

import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { available, endChildren, PATIENCE, scratch } from './host.ts';
import { VhostUserServer } from './server.ts';
import { answeringScript, askingScript, checkTraffic } from './traffic.ts';
import { findUml } from './uml.ts';

const { client: uml, missing } = await available(findUml);

afterEach(endChildren);

/** What the device offers, as ethtool reports it, one line each. */
const ABOUT = `
echo FEATURES $(cat /sys/class/net/eth0/device/features)
ethtool -l eth0 2>/dev/null | sed -n 's/^Combined:[^0-9]*/COMBINED /p'
ethtool -x eth0 2>/dev/null | sed -n 's/^RSS hash key.*/RSS key/p'
`;

describe.skipIf(missing !== undefined)(`user-mode Linux${missing === undefined ? '' : ` (skipped: ${missing})`}`, () => {
  it.each([1, 2])('two kernels talk through our switch, %i queue pairs: ping, TCP with offloads on and off, ethtool -L', async (pairs) => {
    if (uml === undefined) return;
    const folder = scratch();
    const sockets = ['a', 'b'].map((name) => join(folder, name));
    const server = await VhostUserServer.start(sockets, ['--queues', String(pairs)]);
    const size = { kibibytes: 8192, pings: 200 };
    // As many queues as the device has, then one, then all again: each a command to the control queue, with traffic behind it.
    const channels = `
queues=$(ethtool -l eth0 2>/dev/null | sed -n 's/^Combined:[^0-9]*//p' | head -n 1)
for n in \${queues:-1} 1 \${queues:-1}; do
  [ \${queues:-1} -eq 1 ] || ethtool -L eth0 combined $n || echo PROBLEM ethtool -L $n
  echo CHANNELS $n $(ping -A -q -c 50 -w 120 10.0.0.1 | grep received)
done`;
    const answering = uml.boot('answering', answeringScript(size.kibibytes, ABOUT), [sockets[0] as string]);
    const asking = uml.boot('asking', askingScript({ ...size, setUp: ABOUT, after: channels }), [sockets[1] as string]);
    await asking.line(/^GUEST-DONE/, PATIENCE).catch((error: unknown) => {
      throw new Error(`${error}\nserver:\n${server.child.tail}`);
    });
    for (const { name, down, up } of checkTraffic(answering, asking, size))
      console.log(`user-mode Linux, ${pairs} queue pairs, ${name}: ${down.toFixed(0)} MB/s down, ${up.toFixed(0)} MB/s up`);
    console.log(asking.lines.filter((line) => /^(FEATURES|COMBINED|RSS|CHANNELS)/.test(line)).join('\n'));
    expect(asking.lines.filter((line) => line.startsWith('CHANNELS')).map((line) => /50 packets received/.test(line))).toEqual([true, true, true]);
    expect(asking.lines.filter((line) => line.includes('PROBLEM'))).toEqual([]);
    await endGuests(answering, asking);
    expect(await server.stop()).toBe(130);
  });
});

async function endGuests(...guests: readonly { kill(): Promise<void> }[]): Promise<void> {
  for (const guest of guests) await guest.kill();
}
