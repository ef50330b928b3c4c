// QEMU's stream, socket and dgram netdevs against ours: an unmodified QEMU of any version as a peer, no vhost-user. Two Linux guests talk through our switch,
// each over another protocol and another device.

import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { DatagramNetdev } from '#interop/datagram-netdev';
import { attachNetdev, type NetdevPort } from '#interop/netdev-port';
import { StreamNetdev } from '#interop/stream-netdev';
import { LearningSwitch } from '#net/learning-switch';
import { Segment } from '#net/segment';
import { available, endChildren, PATIENCE, scratch } from './host.ts';
import { findDebianQemu } from './qemu.ts';
import { answeringScript, askingScript, checkTraffic } from './traffic.ts';

const { client: qemu, missing } = await available(findDebianQemu);
const ports: { close(): Promise<void> }[] = [];

afterEach(async () => {
  await endChildren();
  for (const port of ports.splice(0)) await port.close();
});

async function freeUdpPort(): Promise<number> {
  const socket = createSocket('udp4');
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  const { port } = socket.address();
  socket.close();
  return port;
}

const kinds = {
  /** QEMU connects to our UNIX socket. */
  async streamClient() {
    const path = join(scratch(), 's');
    const port = new StreamNetdev('stream', { listen: { path } });
    await port.open();
    return { port, netdev: `stream,id=n0,server=off,addr.type=unix,addr.path=${path}` };
  },
  /** QEMU listens; we call it until it is there. */
  async streamServer() {
    const path = join(scratch(), 's');
    const port = new StreamNetdev('stream', { connect: { path } });
    await port.open();
    return { port, netdev: `stream,id=n0,server=on,addr.type=unix,addr.path=${path}` };
  },
  /** The older spelling, over TCP. */
  async socket() {
    const port = new StreamNetdev('socket', { listen: { host: '127.0.0.1', port: 0 } });
    await port.open();
    const { address } = port;
    if (address === undefined || 'path' in address) throw new Error('no TCP address');
    return { port, netdev: `socket,id=n0,connect=127.0.0.1:${address.port}` };
  },
  async dgram() {
    const theirs = await freeUdpPort();
    const port = new DatagramNetdev('dgram', { local: { host: '127.0.0.1', port: 0 }, remote: { host: '127.0.0.1', port: theirs } });
    await port.open();
    const remote = `remote.type=inet,remote.host=127.0.0.1,remote.port=${port.address?.port}`;
    return { port, netdev: `dgram,id=n0,local.type=inet,local.host=127.0.0.1,local.port=${theirs},${remote}` };
  },
} as const;

describe.skipIf(missing !== undefined)(`QEMU ${qemu?.version ?? `(skipped: ${missing})`}: stream and dgram netdevs`, () => {
  it.each([
    ['streamClient', 'virtio-net-pci', 'socket', 'e1000'],
    ['streamServer', 'e1000', 'dgram', 'virtio-net-pci'],
  ] as const)('%s with %s to %s with %s', async (first, firstDevice, second, secondDevice) => {
    const segment = new InlineSegment(new Segment(new LearningSwitch(), { idleRounds: 1 }));
    const attach = async (kind: keyof typeof kinds): Promise<string> => {
      const made: { port: NetdevPort & { close(): Promise<void> }; netdev: string } = await kinds[kind]();
      ports.push(made.port);
      attachNetdev(segment, made.port);
      return made.netdev;
    };
    const size = { kibibytes: 2048, pings: 100 };
    const answering = qemu?.boot('answering', answeringScript(size.kibibytes), [
      ...['-netdev', await attach(first), '-device', `${firstDevice},netdev=n0,mac=02:00:00:00:00:01,romfile=`],
    ]);
    const asking = qemu?.boot('asking', askingScript(size), [
      ...['-netdev', await attach(second), '-device', `${secondDevice},netdev=n0,mac=02:00:00:00:00:02,romfile=`],
    ]);
    if (answering === undefined || asking === undefined) return;
    await asking.line(/^GUEST-DONE/, PATIENCE);
    const exchanges = checkTraffic(answering, asking, size);
    for (const { name, down, up } of exchanges)
      console.log(`${first} ${firstDevice} / ${second} ${secondDevice}, ${name}: ${down.toFixed(1)} MB/s down, ${up.toFixed(1)} MB/s up`);
    expect(exchanges).toHaveLength(2);
  });
});
