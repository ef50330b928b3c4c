// Our vhost-user back end and DPDK's own (C) behind the same client, DPDK's virtio-user driver, one after the other in one run. The ratio is the point: the rates
// depend on the machine, and on two cores the client has one and the back end the other. `node out/bench/vhost-user.js packed one` measures the rows with those words.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { endChildren, onPath, scratch } from '../test/real/host.ts';
import { VhostUserServer } from '../test/real/server.ts';
import { type Dpdk, findDpdk } from '../test/real/testpmd.ts';
import { printTable } from './measure.ts';

const SIZES = [64, 1500] as const;
const SECONDS = 3;
const MODES = { txonly: 'one port sends', io: 'loop between two ports' } as const;
type Mode = keyof typeof MODES;
const words = process.argv.slice(2);

interface BackEnd {
  readonly name: string;
  start(dpdk: Dpdk, sockets: readonly string[]): Promise<unknown>;
}

const backEnds: readonly BackEnd[] = [
  {
    name: "DPDK's vhost",
    async start(dpdk, sockets) {
      const mode = sockets.length === 1 ? 'rxonly' : 'io';
      const server = await dpdk.start('dpdk back end', { vdevs: sockets.map((socket, i) => `net_vhost${i},iface=${socket},queues=1`), mode, core: 0 });
      await server.command('start');
    },
  },
  { name: 'nicbox', start: (_dpdk, sockets) => VhostUserServer.start(sockets, sockets.length === 2 ? ['--link'] : []) },
];

/** Frames a second at each size: sent by one port that only sends, or going round between two. */
async function measure(dpdk: Dpdk, backEnd: BackEnd, layout: string, mode: Mode): Promise<number[]> {
  const folder = scratch();
  const sockets = (mode === 'io' ? ['a', 'b'] : ['a']).map((name) => join(folder, name));
  try {
    await backEnd.start(dpdk, sockets);
    if (!sockets.every((socket) => existsSync(socket))) throw new Error(`${backEnd.name} made no sockets`);
    const client = await dpdk.start('client', {
      vdevs: sockets.map((socket, i) => `net_virtio_user${i},path=${socket},queues=1,queue_size=256${layout}`),
      mode,
    });
    const rates: number[] = [];
    for (const size of SIZES) {
      await client.command(`set txpkts ${size}`);
      await client.command(mode === 'io' ? 'start tx_first 8' : 'start');
      const { sent } = await client.rates(SECONDS);
      rates.push(sent);
      await client.command('stop');
    }
    return rates;
  } finally {
    await endChildren();
  }
}

// A benchmark installs nothing.
const dpdk = onPath('dpdk-testpmd') === undefined ? undefined : await findDpdk();

if (dpdk === undefined) console.log('not measured: dpdk not installed (apt-get install --no-install-recommends dpdk-dev)');
else {
  const rows: (string | number)[][] = [];
  for (const [layoutName, layout] of [
    ['split', ''],
    ['packed', ',packed_vq=1'],
  ] as const)
    for (const mode of ['txonly', 'io'] as const) {
      const name = `${layoutName}, ${MODES[mode]}`;
      if (!words.every((word) => name.includes(word))) continue;
      const rates: number[][] = [];
      for (const backEnd of backEnds) rates.push(await measure(dpdk, backEnd, layout, mode));
      SIZES.forEach((size, i) => {
        const [theirs = 0, ours = 0] = rates.map((of) => of[i]);
        rows.push([name, size, (theirs / 1e6).toFixed(2), (ours / 1e6).toFixed(2), (ours / theirs).toFixed(2)]);
      });
    }
  printTable(['DPDK virtio-user client', 'bytes', "DPDK's vhost Mpps", 'nicbox Mpps', 'ratio'], rows);
}
process.exit(0);
