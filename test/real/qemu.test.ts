// Linux guests in QEMU (11 or later) against `nicbox serve vhost-user`: the kernel's virtio_net on our rings, one and two queue pairs, split and packed; and our process
// ending and coming back under a running guest.

import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { available, endChildren, PATIENCE, scratch } from './host.ts';
import { findNewQemu, vhostUserArgs } from './qemu.ts';
import { VhostUserServer } from './server.ts';
import { answeringScript, askingScript, checkTraffic } from './traffic.ts';

const { client: qemu, missing } = await available(findNewQemu);

afterEach(endChildren);

const MACS = ['02:00:00:00:00:01', '02:00:00:00:00:02'] as const;

describe.skipIf(missing !== undefined)(`QEMU ${qemu?.version ?? `(skipped: ${missing})`} vhost-user`, () => {
  it.each([
    [1, false],
    [2, true],
  ] as const)('two guests talk, %i queue pairs, packed %s: ping, TCP with offloads on and off', async (pairs, packed) => {
    if (qemu === undefined) return;
    const folder = scratch();
    const [a, b] = ['a', 'b'].map((name) => join(folder, name)) as [string, string];
    const server = await VhostUserServer.start([a, b], ['--queues', String(pairs)]);
    const size = { kibibytes: 4096, pings: 100 };
    const setUp = pairs > 1 ? `ethtool -L eth0 combined ${pairs}; echo CHANNELS $(ethtool -l eth0 | sed -n 's/^Combined:[^0-9]*//p')` : '';
    const answering = qemu.boot('answering', answeringScript(size.kibibytes, setUp), vhostUserArgs(a, pairs, MACS[0], { packed }), pairs);
    const asking = qemu.boot('asking', askingScript({ ...size, setUp }), vhostUserArgs(b, pairs, MACS[1], { packed }), pairs);
    await asking.line(/^GUEST-DONE/, PATIENCE).catch((error: unknown) => {
      throw new Error(`${error}\nserver:\n${server.child.tail}`);
    });
    for (const { name, down, up } of checkTraffic(answering, asking, size))
      console.log(`QEMU vhost-user, ${pairs} queue pairs, ${packed ? 'packed' : 'split'}, ${name}: ${down.toFixed(1)} MB/s down, ${up.toFixed(1)} MB/s up`);
    if (pairs > 1) expect(asking.lines).toContain(`CHANNELS ${pairs} ${pairs}`);
  });

  it('a guest goes on when our process ended and came back', async () => {
    if (qemu === undefined) return;
    const folder = scratch();
    const sockets = ['a', 'b'].map((name) => join(folder, name)) as [string, string];
    let server = await VhostUserServer.start(sockets);
    const keepPinging = `
for i in $(seq 1 100000); do
  echo ROUND $i $(ping -c 1 -W 1 -q 10.0.0.1 2>/dev/null | grep -c '1 packets received')
done`;
    const answering = qemu.boot('answering', answeringScript(64), vhostUserArgs(sockets[0], 1, MACS[0], { reconnect: true }));
    const asking = qemu.boot(
      'asking',
      askingScript({ kibibytes: 64, pings: 10, offloadsOff: false, after: keepPinging }),
      vhostUserArgs(sockets[1], 1, MACS[1], { reconnect: true }),
    );
    await asking.line(/^ROUND 2 1/, PATIENCE);
    await server.stop();
    await asking.line(/^ROUND \d+ 0/, PATIENCE, asking.lines.length);
    server = await VhostUserServer.start(sockets);
    const from = asking.lines.length;
    const context = (): string => `server:\n${server.child.tail}\nasking:\n${asking.tail}\nanswering:\n${answering.tail}`;
    await asking.line(/^ROUND \d+ 1/, PATIENCE, from).catch((error: unknown) => expect.fail(`${error}\n${context()}`));
  });
});
