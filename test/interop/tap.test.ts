// TAP interfaces against the kernel's own network stack, in network namespaces: UDP to a synthetic guest and back, TCP from namespace to namespace with the kernel's offloads
// passed on or done here, interfaces that go down and away. Needs root and /dev/net/tun.

import { execFile, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { VhostPool } from '#backends/vhost-pool';
import { BellLoop } from '#core/bell-loop';
import { Guest } from '#guest-sim/guest';
import { VIRTIO_NET_F } from '#guest-sim/virtio-constants';
import {
  attachNetdev,
  attachNetdevToWorker,
  MemoryFile,
  serveVhostUser,
  Tap,
  type TapOptions,
  VHOST_USER_NET_FEATURES,
  VhostUserBackend,
} from '#interop/index';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { Machine } from '#nicbox/machine';
import { eventually } from '../backends/eventually.ts';
import { MemoryPort } from '../net/memory-port.ts';

const closing: (() => unknown)[] = [];
let made = 0;

function ip(...args: string[]): string {
  return execFileSync('ip', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

function whyNot(): string | undefined {
  if (process.platform !== 'linux') return 'TAP is Linux';
  if (process.getuid?.() !== 0) return 'not root';
  if (!existsSync('/dev/net/tun')) return 'there is no /dev/net/tun';
  try {
    const name = `nicbox-probe-${process.pid}`;
    ip('netns', 'add', name);
    ip('netns', 'del', name);
    new Tap({ name: `nbp${process.pid}` }).close();
    return undefined;
  } catch (error) {
    return (error as Error).message.split('\n')[0];
  }
}

const missing = whyNot();

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

interface Host {
  readonly tap: Tap;
  /** Runs in its namespace; resolves with what it printed. */
  node(script: string, ...args: string[]): Promise<string>;
  ip(...args: string[]): void;
}

/** A network namespace whose one interface is a TAP of ours, with an address. */
function host(address: string, options: Partial<TapOptions> = {}): Host {
  const id = `nb${process.pid}x${made++}`;
  const tap = new Tap({ name: id, ...options });
  closing.push(() => tap.close());
  ip('netns', 'add', id);
  closing.push(() => ip('netns', 'del', id));
  ip('link', 'set', id, 'netns', id);
  const inside = (...args: string[]): void => void ip('-n', id, ...args);
  inside('addr', 'add', `${address}/24`, 'dev', id);
  inside('link', 'set', id, 'up');
  return {
    tap,
    ip: inside,
    node: (script, ...args) =>
      new Promise((resolve, reject) => {
        const child = spawn('ip', ['netns', 'exec', id, process.execPath, '-e', script, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
        let text = '';
        child.stdout.on('data', (piece) => {
          text += piece;
        });
        closing.push(() => child.kill('SIGKILL'));
        child.once('exit', (code) => (code === 0 ? resolve(text.trim()) : reject(new Error(`in ${id}: ended with ${code}: ${text}`))));
      }),
  };
}

/** Sends `count` datagrams one after the other, each when the last one's echo is back; prints how many came back as they were. */
const UDP_CLIENT = `
const [peer, count] = process.argv.slice(1);
const socket = require('dgram').createSocket('udp4');
let sent = 0, good = 0, timer;
const payload = (i) => Buffer.from(Uint8Array.from({ length: 1 + (i * 97) % 1472 }, (_, j) => (i * 7 + j) & 255));
const next = () => {
  clearTimeout(timer);
  if (sent === +count) { console.log(good); process.exit(0); }
  socket.send(payload(sent++), 7, peer);
  timer = setTimeout(next, 2000);
};
socket.on('message', (m) => { if (m.equals(payload(sent - 1))) good++; next(); });
next();
`;

const TCP_SERVER = `
const { createHash } = require('crypto');
require('net').createServer((s) => {
  const hash = createHash('sha256');
  s.on('data', (d) => hash.update(d));
  s.on('end', () => { s.end(hash.digest('hex')); });
  s.on('close', () => process.exit(0));
}).listen(5000);
`;
const TCP_CLIENT = `
const [peer, size] = process.argv.slice(1);
const data = require('crypto').randomBytes(+size);
const hash = require('crypto').createHash('sha256').update(data).digest('hex');
const attempt = () => {
  const s = require('net').connect(5000, peer, () => s.end(data));
  let text = '';
  s.on('data', (d) => { text += d; });
  s.on('error', () => setTimeout(attempt, 100));
  s.on('end', () => { console.log(text === hash ? 'same' : 'different'); process.exit(0); });
};
attempt();
`;

function link(): InlineSegment {
  return new InlineSegment(new Segment(new DirectLink(), { idleRounds: 1 }));
}

describe.skipIf(missing !== undefined)(`TAP${missing === undefined ? '' : ` (skipped: ${missing})`}`, () => {
  it.each([
    ['as they come', []],
    ['with checksums and segmentation done here', [VIRTIO_NET_F.GUEST_CSUM, VIRTIO_NET_F.CSUM, VIRTIO_NET_F.MRG_RXBUF]],
  ] as const)('a guest answers what the kernel sends it, %s', async (_, without) => {
    const peer = host('10.77.0.1', { queues: 2 });
    peer.ip('neigh', 'add', '10.77.0.2', 'lladdr', '52:54:00:00:00:0a', 'dev', peer.tap.name);
    const segment = link();
    const machine = new Machine({ memory: 96 * 2 ** 20 });
    closing.push(() => machine.close());
    // The echo hands a frame back as it is: one whose checksum the kernel left to fill in would go back unfinished.
    const less = without.length > 0 ? without : [VIRTIO_NET_F.GUEST_CSUM];
    machine.addVirtioNet({ mac: '52:54:00:00:00:0a', backend: segment.port('guest') });
    closing.push(attachNetdev(segment, peer.tap));
    const guest = new Guest(machine.localBus(), { net: { without: less } });
    guest.start({ kind: 'echo' });
    let result: string | undefined;
    void peer.node(UDP_CLIENT, '10.77.0.2', '300').then((text) => {
      result = text;
    });
    await eventually(
      'all echoes',
      () => {
        guest.step();
        return result !== undefined;
      },
      20_000,
    );
    expect(result).toBe('300');
  });

  it.each([
    ['passes on what the kernel leaves to its receiver', {}, {}, true],
    ['segments for a receiver that takes only whole frames', {}, { offloads: false }, false],
    ['takes whole frames', { offloads: false }, {}, false],
    ['uses several queues', { queues: 3 }, { queues: 2 }, true],
  ] as const)('TCP between namespaces: %s', async (_, ours, theirs, large) => {
    const [a, b] = [host('10.77.0.1', ours), host('10.77.0.2', theirs)];
    const segment = link();
    closing.push(attachNetdev(segment, a.tap), attachNetdev(segment, b.tap));
    const size = 20_000_000;
    void b.node(TCP_SERVER).catch(() => {});
    expect(await a.node(TCP_CLIENT, '10.77.0.2', String(size))).toBe('same');
    const { receiveFrames, receiveBytes, receiveDrops } = b.tap.counters.snapshot();
    expect(receiveBytes).toBeGreaterThan(size);
    // Sent in pieces of up to 64 KiB where both kernels can.
    if (large) expect(receiveBytes / receiveFrames).toBeGreaterThan(3000);
    else expect(receiveBytes / receiveFrames).toBeLessThan(1515);
    expect(receiveDrops).toEqual({});
  });

  it('serves a segment of a worker', async () => {
    const [a, b] = [host('10.77.0.1'), host('10.77.0.2')];
    const pool = new VhostPool({ threads: 1 });
    closing.push(() => pool.close());
    const loop = new BellLoop();
    closing.push(() => loop.close());
    const segment = pool.worker().segment();
    closing.push(attachNetdevToWorker(segment, a.tap, loop), attachNetdevToWorker(segment, b.tap, loop));
    void b.node(TCP_SERVER).catch(() => {});
    expect(await a.node(TCP_CLIENT, '10.77.0.2', '20000000')).toBe('same');
  });

  it('holds the kernel back while nobody takes its frames, and goes on', async () => {
    const peer = host('10.77.0.1');
    peer.ip('neigh', 'add', '10.77.0.2', 'lladdr', '52:54:00:00:00:0a', 'dev', peer.tap.name);
    const segment = link();
    const guest = new MemoryPort('guest');
    guest.room = 0;
    segment.addPort(guest);
    closing.push(attachNetdev(segment, peer.tap));
    const flood = `const s = require('dgram').createSocket('udp4'); let n = 0;
      const next = () => { if (n++ === 5000) process.exit(0); s.send(Buffer.alloc(1400, n & 255), 9, '10.77.0.2', next); }; next();`;
    await peer.node(flood);
    expect(guest.inbox).toHaveLength(0);
    guest.room = Infinity;
    segment.wake(guest);
    // A megabyte waited here and some hundred frames in the kernel; the rest the kernel dropped, as a full queue does.
    await eventually('what waited', () => guest.inbox.filter((frame) => frame.bytes.length === 1442).length > 600);
    expect(peer.tap.counters.snapshot().transmitDrops).toEqual({});
  });

  it('drops and says so while the interface is down, and notices when it is taken away', async () => {
    const peer = host('10.77.0.1');
    const segment = link();
    const guest = new MemoryPort('guest');
    segment.addPort(guest);
    closing.push(attachNetdev(segment, peer.tap));
    peer.ip('link', 'set', peer.tap.name, 'down');
    guest.outbox.push({ bytes: new Uint8Array(60) });
    segment.wake(guest);
    expect(peer.tap.counters.snapshot().receiveDrops).toEqual({ 'link-down': 1 });
    let gone = false;
    peer.tap.onGone = () => {
      gone = true;
    };
    peer.ip('link', 'del', peer.tap.name);
    await eventually('the removal to be noticed', () => gone);
    expect(peer.tap.linkUp).toBe(false);
    guest.outbox.push({ bytes: new Uint8Array(60) });
    segment.wake(guest);
    expect(guest.outbox).toHaveLength(0);
  });

  it.each(['switch', 'link'] as const)('is a port of a vhost-user server: guests of other processes and this host on one %s', async (topology) => {
    const directory = mkdtempSync(join(tmpdir(), 'nicbox-tap-'));
    closing.push(() => rmSync(directory, { recursive: true, force: true }));
    const path = join(directory, 's');
    const name = `nbs${process.pid}`;
    const server = await serveVhostUser({ sockets: [path], taps: [name], topology });
    closing.push(() => server.close());
    const namespace = `${name}n`;
    ip('netns', 'add', namespace);
    closing.push(() => ip('netns', 'del', namespace));
    ip('link', 'set', name, 'netns', namespace);
    ip('-n', namespace, 'addr', 'add', '10.77.0.1/24', 'dev', name);
    ip('-n', namespace, 'link', 'set', name, 'up');
    ip('-n', namespace, 'neigh', 'add', '10.77.0.2', 'lladdr', '52:54:00:00:00:0a', 'dev', name);
    const ram = new MemoryFile(96 * 2 ** 20);
    closing.push(() => ram.close());
    const backend = await VhostUserBackend.connect({ path, memory: ram.memory });
    closing.push(() => backend.close());
    const machine = new Machine({ memory: ram.memory });
    closing.push(() => machine.close());
    machine.addVirtioNet({ mac: '52:54:00:00:00:0a', backend, features: VHOST_USER_NET_FEATURES });
    const guest = new Guest(machine.localBus(), { net: { without: [VIRTIO_NET_F.GUEST_CSUM] } });
    guest.start({ kind: 'echo' });
    await eventually('the ring to run', () => backend.ready);
    let result = '';
    execFile('ip', ['netns', 'exec', namespace, process.execPath, '-e', UDP_CLIENT, '10.77.0.2', '100'], (_, text) => {
      result = text.trim() || 'nothing';
    });
    await eventually(
      'all echoes',
      () => {
        guest.step();
        return result !== '';
      },
      20_000,
    );
    expect(result).toBe('100');
    expect(server.taps[0]?.counters.transmitFrames).toBeGreaterThanOrEqual(100);
    await server.close();
    expect(() => ip('-n', namespace, 'link', 'show', name)).toThrow();
  });

  it('leaves nothing behind', () => {
    const count = (): number => readdirSync('/proc/self/fd').length;
    const name = `nbl${process.pid}`;
    const before = count();
    for (let i = 0; i < 50; i++) new Tap({ name, queues: 4 }).close();
    expect(count()).toBe(before);
    expect(existsSync(`/sys/class/net/${name}`)).toBe(false);
  });

  it('says what to do about an interface it cannot have', () => {
    const name = `nbk${process.pid}`;
    ip('tuntap', 'add', 'dev', name, 'mode', 'tap');
    closing.push(() => ip('link', 'del', name));
    expect(() => new Tap({ name, queues: 2 })).toThrow(expect.objectContaining({ code: 'NICBOX_TAP', message: expect.stringContaining('multi_queue') }));
    const first = new Tap({ name });
    closing.push(() => first.close());
    expect(() => new Tap({ name })).toThrow(expect.objectContaining({ code: 'NICBOX_TAP', message: expect.stringContaining('another process has it') }));
    expect(() => new Tap({ name: 'a name that is too long' })).toThrow(expect.objectContaining({ code: 'NICBOX_TAP' }));
  });
});
