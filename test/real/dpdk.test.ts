// DPDK's virtio-user driver against `nicbox serve vhost-user`: every ring layout it knows, counters compared with the server's own, payload byte for byte.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { available, endChildren, PATIENCE, scratch } from './host.ts';
import { VhostUserServer } from './server.ts';
import { findDpdk } from './testpmd.ts';

const { client: dpdk, missing } = await available(findDpdk);

afterEach(endChildren);

/** virtio-user's arguments for a layout. */
const layouts = [
  ['split', ''],
  ['split without mergeable buffers', ',mrg_rxbuf=0'],
  ['split, in order', ',in_order=1'],
  ['split, in order, without mergeable buffers', ',in_order=1,mrg_rxbuf=0'],
  ['packed', ',packed_vq=1'],
  ['packed without mergeable buffers', ',packed_vq=1,mrg_rxbuf=0'],
  ['packed, in order', ',packed_vq=1,in_order=1'],
] as const;

const virtioUser = (index: number, socket: string, layout: string, queues = 1): string =>
  `net_virtio_user${index},path=${socket},queues=${queues},queue_size=256,mac=02:00:00:00:00:0${index + 1}${layout}`;

/** A pcap file of frames that differ in length and in every byte. */
function captureOf(frames: readonly Uint8Array[]): Buffer {
  const header = Buffer.alloc(24);
  header.writeUInt32LE(0xa1b2c3d4, 0);
  header.writeUInt16LE(2, 4);
  header.writeUInt16LE(4, 6);
  header.writeUInt32LE(65535, 16);
  header.writeUInt32LE(1, 20);
  const records = frames.flatMap((frame, i) => {
    const record = Buffer.alloc(16);
    record.writeUInt32LE(1, 0);
    record.writeUInt32LE(i, 4);
    record.writeUInt32LE(frame.length, 8);
    record.writeUInt32LE(frame.length, 12);
    return [record, frame];
  });
  return Buffer.concat([header, ...records]);
}

function framesOf(capture: Buffer): Buffer[] {
  const frames: Buffer[] = [];
  for (let at = 24; at + 16 <= capture.length; ) {
    const length = capture.readUInt32LE(at + 8);
    frames.push(capture.subarray(at + 16, at + 16 + length));
    at += 16 + length;
  }
  return frames;
}

describe.skipIf(missing !== undefined)(`DPDK ${dpdk?.version ?? `(skipped: ${missing})`} virtio-user`, () => {
  it.each(layouts)('%s: carries every byte', async (_name, layout) => {
    if (dpdk === undefined) return;
    const folder = scratch();
    const [a, b] = ['a', 'b'].map((name) => join(folder, name)) as [string, string];
    const server = await VhostUserServer.start([a, b], ['--link', '--json']);
    const frames = Array.from({ length: 2000 }, (_, i) => Uint8Array.from({ length: 60 + ((i * 37) % 1455) }, (_byte, at) => (i * 13 + at * 7) & 0xff));
    writeFileSync(join(folder, 'in.pcap'), captureOf(frames));
    const receiver = await dpdk.start('receiver', { vdevs: [virtioUser(1, b, layout), `net_pcap1,tx_pcap=${folder}/out.pcap`], mode: 'io', core: 0 });
    await receiver.command('start');
    const sender = await dpdk.start('sender', { vdevs: [`net_pcap0,rx_pcap=${folder}/in.pcap`, virtioUser(0, a, layout)], mode: 'io' });
    // A full ring is tried again: io mode by itself drops what does not fit.
    await sender.command('set fwd io retry');
    await sender.command('set burst tx delay 100 retry 100000');
    await sender.command('start');
    const written = await eventuallyOf(async () => {
      // The receiver writes a frame out once it has it; all of it is in the file when it has ended.
      const [, out] = await receiver.counters();
      return (out?.sent ?? 0) >= frames.length ? out : undefined;
    });
    const context = JSON.stringify({ sender: await sender.counters(), receiver: await receiver.counters() });
    expect(written?.sent, context).toBe(frames.length);
    await sender.quit();
    await receiver.quit();
    const got = framesOf(readFileSync(join(folder, 'out.pcap')));
    expect(got.length).toBe(frames.length);
    expect(got.findIndex((frame, i) => !frame.equals(frames[i] as Uint8Array))).toBe(-1);
    await server.stop();
    expect(server.counters()).toEqual([
      { transmitFrames: frames.length, receiveFrames: 0, drops: {} },
      { transmitFrames: 0, receiveFrames: frames.length, drops: {} },
    ]);
  });

  it.each([
    ['split', '', 1],
    ['packed', ',packed_vq=1', 1],
    ['split, two queue pairs', '', 2],
    ['packed, in order, two queue pairs', ',packed_vq=1,in_order=1', 2],
  ] as const)('%s: txonly to rxonly loses nothing; its counters and ours agree', async (name, layout, queues) => {
    if (dpdk === undefined) return;
    const folder = scratch();
    const [a, b] = ['a', 'b'].map((name) => join(folder, name)) as [string, string];
    const server = await VhostUserServer.start([a, b], ['--link', '--json', '--queues', String(queues)]);
    const receiver = await dpdk.start('receiver', { vdevs: [virtioUser(1, b, layout, queues)], mode: 'rxonly', core: 0, queues });
    const sender = await dpdk.start('sender', { vdevs: [virtioUser(0, a, layout, queues)], mode: 'txonly', queues });
    await receiver.command('start');
    await sender.command('start');
    const rates = await receiver.rates(1);
    await eventuallyOf(async () => ((await sender.counters())[0]?.sent ?? 0) > 10_000 || undefined);
    await sender.command('stop');
    const sent = (await sender.counters())[0]?.sent ?? 0;
    const received = await eventuallyOf(async () => {
      const count = (await receiver.counters())[0]?.received ?? 0;
      return count >= sent ? count : undefined;
    });
    console.log(`DPDK ${name}: ${(rates.received / 1e6).toFixed(2)} Mpps of 64 B from one client to the other through us`);
    expect(sent).toBeGreaterThan(10_000);
    expect(received, server.child.tail).toBe(sent);
    await sender.quit();
    await receiver.quit();
    await server.stop();
    expect(server.counters()).toEqual([
      { transmitFrames: sent, receiveFrames: 0, drops: {} },
      { transmitFrames: 0, receiveFrames: sent, drops: {} },
    ]);
  });

  it.each(['io', 'mac'])('%s mode: frames go round between two ports, none gets lost', async (mode) => {
    if (dpdk === undefined) return;
    const folder = scratch();
    const [a, b] = ['a', 'b'].map((name) => join(folder, name)) as [string, string];
    const server = await VhostUserServer.start([a, b], ['--link', '--json']);
    const client = await dpdk.start('client', { vdevs: [virtioUser(0, a, ''), virtioUser(1, b, '')], mode });
    await client.command('start tx_first 4');
    const rates = await client.rates(1);
    await eventuallyOf(async () => ((await client.counters())[0]?.received ?? 0) > 10_000 || undefined);
    await client.command('stop');
    const [first, second] = await client.counters();
    console.log(`DPDK ${mode} loop: ${(rates.received / 1e6).toFixed(2)} Mpps`);
    expect(first?.received).toBeGreaterThan(10_000);
    await client.quit();
    await server.stop();
    const [ours, others] = server.counters();
    expect([ours?.transmitFrames, others?.transmitFrames]).toEqual([first?.sent, second?.sent]);
    // What was under way when it stopped stays in the rings: 4 bursts of 32 each way at most.
    expect((first?.sent ?? 0) - (second?.received ?? 0)).toBeLessThanOrEqual(256);
    expect((second?.sent ?? 0) - (first?.received ?? 0)).toBeLessThanOrEqual(256);
  });
});

/** Asks until there is an answer, for a while; then the test's own expectation says what is missing. */
async function eventuallyOf<T>(ask: () => Promise<T | undefined>): Promise<T | undefined> {
  const deadline = performance.now() + PATIENCE * 1000;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined || performance.now() > deadline) return answer;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
