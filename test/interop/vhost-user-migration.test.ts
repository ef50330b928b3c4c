// What a live migration asks of a back end besides its log: the announcement of the new place, and the device's state, which comes as bytes of somebody else's making.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Log, type LogRecord } from '#core/log';
import { serveVhostUser, type VhostUserServer } from '#interop/index';
import { concat, FEATURE, FrontEnd, type FrontEndOptions, frame, message, PROTOCOL, REQUEST, u64, words } from './front-end.ts';

let directory: string;
const servers: VhostUserServer[] = [];
const fronts: FrontEnd[] = [];
const said: LogRecord[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'nicbox-migration-'));
  said.length = 0;
});

afterEach(async () => {
  for (const front of fronts.splice(0)) front.close();
  for (const server of servers.splice(0)) await server.close();
  rmSync(directory, { recursive: true, force: true });
});

async function pair(name: string, options: FrontEndOptions): Promise<[near: FrontEnd, far: FrontEnd]> {
  const log = new Log();
  log.listen((record) => said.push(record), ['guest-error']);
  const sockets = ['near', 'far'].map((end) => join(directory, `${name}-${end}`));
  servers.push(await serveVhostUser({ sockets, queuePairs: 2, macs: ['02:00:00:00:00:01'], topology: 'link', log }));
  const [near, far] = [new FrontEnd(sockets[0] as string, options), new FrontEnd(sockets[1] as string)];
  fronts.push(near, far);
  await far.start();
  return [near, far];
}

describe('SEND_RARP', () => {
  it.each([true, false])('sends the announcement on the segment (rings running: %s), else when they do', async (running) => {
    const [near, far] = await pair('rarp', { protocol: [PROTOCOL.RARP] });
    if (running) await near.start();
    else await near.negotiate();
    await near.tell(REQUEST.SEND_RARP, concat(Uint8Array.of(0x52, 0x54, 0, 1, 2, 3), new Uint8Array(2)));
    const mac = [0x52, 0x54, 0, 1, 2, 3];
    if (!running) await near.begin();
    // RFC 903: Ethernet, IPv4, lengths 6 and 4, request reverse, and the address as sender's and target's.
    const announcement = [...Array(6).fill(0xff), ...mac, 0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3, ...mac, 0, 0, 0, 0, ...mac, 0, 0, 0, 0];
    expect([...((await far.receiveFrames(1))[0] as Uint8Array)]).toEqual([...announcement, ...Array(60 - announcement.length).fill(0)]);
    expect(servers[0]?.statistics[0]?.counters.transmitFrames).toBe(1);
    await near.sendFrames([frame(1, 2, 5)]);
    expect(await far.receiveFrames(1)).toEqual([frame(1, 2, 5)]);
  });
});

const CONTROL: FrontEndOptions = {
  pairs: 2,
  control: true,
  protocol: [PROTOCOL.DEVICE_STATE, PROTOCOL.CONFIG],
  features: [FEATURE.MAC, FEATURE.CTRL_VQ, FEATURE.CTRL_RX, FEATURE.CTRL_VLAN, FEATURE.CTRL_MAC],
};
const NO_FD = 0x100;
const SAVE = 0;
const LOAD = 1;

/** Asks for a transfer; returns our end of the pipe and the reply. */
async function transfer(front: FrontEnd, direction: number): Promise<[fd: number, reply: number]> {
  const [ours, theirs] = front.socketPair(join(directory, 'pipe'));
  front.send(message(REQUEST.SET_DEVICE_STATE_FD, words(direction, 0)), [theirs]);
  front.native.close(theirs);
  return [ours, (await front.reply())?.getUint32(0, true) as number];
}

async function check(front: FrontEnd): Promise<number> {
  return (await front.ask(REQUEST.CHECK_DEVICE_STATE)).getUint32(0, true);
}

async function readAll(front: FrontEnd, fd: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(new ArrayBuffer(1 << 16));
  let have = 0;
  for (let looks = 0; looks < 1e6; looks++) {
    const got = front.native.sockets.receive(fd, bytes, have, bytes.length - have, []);
    if (got === 0) return bytes.slice(0, have);
    if (got > 0) have += got;
    else await new Promise((resolve) => setImmediate(resolve));
  }
  throw new Error(`the state did not end after ${have} bytes`);
}

async function save(front: FrontEnd): Promise<Uint8Array> {
  const [fd, reply] = await transfer(front, SAVE);
  expect(reply).toBe(NO_FD);
  const state = await readAll(front, fd);
  front.native.close(fd);
  expect(await check(front)).toBe(0);
  return state;
}

/** Returns what CHECK_DEVICE_STATE says of it. */
async function load(front: FrontEnd, state: Uint8Array): Promise<number> {
  const [fd, reply] = await transfer(front, LOAD);
  expect(reply).toBe(NO_FD);
  const copy = new Uint8Array(new ArrayBuffer(state.length));
  copy.set(state);
  for (let sent = 0; sent < copy.length; ) {
    const taken = front.native.sockets.send(fd, copy.subarray(sent));
    if (taken > 0) sent += taken;
    else if (taken !== -11) break;
    else await new Promise((resolve) => setImmediate(resolve));
  }
  front.native.close(fd);
  return check(front);
}

async function stopAll(front: FrontEnd): Promise<void> {
  for (let index = 0; index < front.queues.length; index++) await front.stopRing(index);
}

describe('the device state', () => {
  it('carries what the control queue set up to another process', async () => {
    const [source, sender] = await pair('source', CONTROL);
    await source.start();
    // MAC class: address 02:..:07; tables of one unicast and one multicast address. VLAN class: 5. MQ class: two pairs.
    expect(await source.command(1, 1, 2, 0, 0, 0, 0, 7)).toBe(0);
    expect(await source.command(1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 8, 1, 0, 0, 0, 3, 0, 0, 0, 0, 9)).toBe(0);
    expect(await source.command(2, 0, 5, 0)).toBe(0);
    expect(await source.command(4, 0, 2, 0)).toBe(0);
    await sender.sendFrames([frame(2, 1, 0), frame(2, 7, 1), frame(2, 8, 2)]);
    expect(await source.receiveFrames(2)).toEqual([frame(2, 7, 1), frame(2, 8, 2)]);
    await stopAll(source);
    const state = await save(source);
    const [target, other] = await pair('target', CONTROL);
    await target.ask(REQUEST.GET_FEATURES);
    await target.ask(REQUEST.GET_PROTOCOL_FEATURES);
    target.send(message(REQUEST.SET_PROTOCOL_FEATURES, u64(CONTROL.protocol?.reduce((all, bit) => all | (1n << BigInt(bit)), 9n) as bigint)));
    expect(await load(target, state)).toBe(0);
    await target.start();
    const config = await target.ask(REQUEST.GET_CONFIG, concat(words(0, 6, 0), new Uint8Array(6)));
    expect([...new Uint8Array(config.buffer, 12)]).toEqual([2, 0, 0, 0, 0, 7]);
    // Before any command: the filters are those of the source, and the second pair transmits.
    await other.sendFrames([frame(2, 1, 0), frame(2, 7, 1), frame(2, 8, 2)]);
    expect(await target.receiveFrames(2)).toEqual([frame(2, 7, 1), frame(2, 8, 2)]);
    await target.sendFrames([frame(1, 2, 3)], 1);
    expect(await other.receiveFrames(1)).toEqual([frame(1, 2, 3)]);
    await stopAll(target);
    // All but what has been counted since.
    const settled = (bytes: Uint8Array): unknown => {
      const { part, version, state: whole } = JSON.parse(new TextDecoder().decode(bytes));
      const { statistics: _, ...rest } = whole;
      return { part, version, rest };
    };
    expect(settled(await save(target))).toEqual(settled(state));
  });

  it('is refused while rings run, and when none was asked for', async () => {
    const [near] = await pair('near', CONTROL);
    await near.start();
    const [fd, reply] = await transfer(near, SAVE);
    expect(reply).toBe(NO_FD | 1);
    near.native.close(fd);
    expect(await check(near)).toBe(1);
    expect(said.map(({ message }) => message)).toEqual(['device state: rings are running', 'device state: no state was moved']);
  });

  it('is checked: what is not exact is refused, the device goes on as it was, and the connection too', async () => {
    const [near, far] = await pair('near', CONTROL);
    await near.negotiate();
    const good = JSON.parse(new TextDecoder().decode(await save(near)));
    const bytes = (...values: number[]): object => ({ $nicbox: 'Uint8Array', data: Buffer.from(values).toString('base64') });
    const encode = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));
    const change = (key: string, value: unknown): Uint8Array => encode({ ...good, state: { ...good.state, [key]: value } });
    const receive = (key: string, value: unknown): Uint8Array => change('receive', { ...good.state.receive, [key]: value });
    const bad: [string, RegExp, Uint8Array][] = [
      ['nothing', /cannot be read/, new Uint8Array(0)],
      ['no JSON', /cannot be read/, new TextEncoder().encode('{"part"')],
      ['no text', /cannot be read/, Uint8Array.of(0xff, 0xfe)],
      ['null', /not of "vhost-user-net"/, encode(null)],
      ['another part', /not of "vhost-user-net"/, encode({ ...good, part: 'e1000' })],
      ['another version', /version 2; this build reads version 1/, encode({ ...good, version: 2 })],
      ['no state', /missing/, encode({ ...good, state: 7 })],
      ['features that are not offered', /not offered here/, change('features', [0, 1 << 30, 0, 0])],
      ['a MAC of five bytes', /6 bytes/, change('mac', bytes(1, 2, 3, 4, 5))],
      ['an MTU that is none', /MTU/, change('mtu', -1)],
      ['more pairs than there are', /pairs/, receive('pairs', 3)],
      ['no VLAN table', /VLAN table/, receive('vlans', { $nicbox: 'Uint32Array', data: 'AAAAAA==' })],
      ['unknown modes', /unknown bits/, receive('modes', 0x8000)],
      ['a table of 10000 addresses', /too long/, receive('tables', Array(10_000).fill(bytes(2, 0, 0, 0, 0, 1)))],
      ['deep nesting', /cannot be read|not of/, new TextEncoder().encode('['.repeat(100_000))],
      ['two megabytes', /more than 1048576 bytes/, new Uint8Array(2 << 20).fill(0x20)],
    ];
    for (const [name, reason, state] of bad) {
      said.length = 0;
      expect(await load(near, state), name).toBe(1);
      expect(said.map(({ message }) => message)).toEqual([expect.stringMatching(reason)]);
    }
    expect(JSON.parse(new TextDecoder().decode(await save(near)))).toEqual(good);
    expect(await load(near, encode(good))).toBe(0);
    await far.sendFrames([frame(2, 1, 1)]);
  });

  it.each([
    ['another direction', words(2, 0)],
    ['another phase', words(0, 1)],
  ])('%s ends the connection', async (_, payload) => {
    const [near] = await pair('near', CONTROL);
    await near.negotiate();
    const [ours, theirs] = near.socketPair(join(directory, 'pipe'));
    near.send(message(REQUEST.SET_DEVICE_STATE_FD, payload), [theirs]);
    await near.hangUp();
    near.native.close(ours);
    near.native.close(theirs);
  });
});
