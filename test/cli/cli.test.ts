// The `nicbox` command as a person meets it: a process, its output, its exit code.

import { execFile, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openCapture } from '#net/capture';

const root = fileURLToPath(new URL('../..', import.meta.url));
const main = join(root, 'dist/cli/main.js');
let scratch: string;

beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'nicbox-cli-'));
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function nicbox(...args: string[]): Promise<Outcome> {
  return new Promise((resolve) => {
    execFile(process.execPath, [main, ...args], { cwd: scratch, timeout: 60_000 }, (error, stdout, stderr) => {
      resolve({ code: error ? ((error as { code?: number }).code ?? null) : 0, stdout, stderr });
    });
  });
}

function file(name: string, content: string | Uint8Array): string {
  const path = join(scratch, name);
  writeFileSync(path, content);
  return path;
}

const real = readFileSync(join(root, 'captures/real.pcapng'));

describe('nicbox tour', () => {
  it('replays the capture over both data planes and both rings, and verifies every byte', async () => {
    const { code, stdout, stderr } = await nicbox('tour', '--repeat', '2', '--pings', '50');
    expect(stderr).not.toContain('WRONG');
    expect(code).toBe(0);
    expect(stdout).toContain('Virtio network device');
    expect(stdout.match(/all equal/g)).toHaveLength(4);
    expect(stdout.match(/all agree/g)).toHaveLength(4);

    const result = JSON.parse(readFileSync(join(scratch, 'out/tour.json'), 'utf8'));
    expect(result.verified).toBe(true);
    expect(result.passes.map((p: { plane: string; ring: string }) => `${p.plane} ${p.ring}`)).toEqual([
      'inline split',
      'inline packed',
      'vhost-net split',
      'vhost-net packed',
    ]);
    for (const pass of result.passes) {
      expect(pass.frames).toBe(2 * result.capture.frames);
      expect(pass.bytes).toBe(2 * result.capture.bytes);
      expect(pass.roundTrip.count).toBe(50);
    }
    expect(result.spread.map((s: { plane: string; ring: string }) => `${s.plane} ${s.ring}`)).toEqual([
      'inline split',
      'inline packed',
      'vhost-net split',
      'vhost-net packed',
    ]);
    const sum = (numbers: Record<string, number>): number => Object.values(numbers).reduce((n, m) => n + m, 0);
    for (const { frames, agreed, queues, hashTypes, errors } of result.spread) {
      expect([frames, agreed, sum(queues), sum(hashTypes)]).toEqual(new Array(4).fill(2 * result.capture.frames));
      expect(errors).toEqual([]);
      expect(queues).toHaveLength(4);
      expect(queues.every((n: number) => n > 0)).toBe(true);
      expect([hashTypes.TCPv4 > 0, hashTypes.UDPv6 > 0, hashTypes.none > 0]).toEqual([true, true, true]);
    }
    // The worker's kicks are doorbells: next to no exits once the guests are up.
    expect(result.passes[2].exitsPerFrame).toBeLessThan(result.passes[0].exitsPerFrame);

    const sent = [...openCapture(real).packets].map((p) => Buffer.from(p.bytes).toString('hex'));
    const received = [...openCapture(readFileSync(join(scratch, 'out/tour.pcapng'))).packets].map((p) => Buffer.from(p.bytes).toString('hex'));
    expect(received.slice(0, sent.length)).toEqual(sent);
  }, 60_000);

  it('prints nothing but JSON with --json', async () => {
    const { code, stdout } = await nicbox('tour', '--json', '--plane', 'inline', '--ring', 'packed', '--repeat', '1', '--pings', '1');
    expect(code).toBe(0);
    expect(JSON.parse(stdout).passes).toHaveLength(1);
  });

  it('takes a lab file, with several queue pairs and a guest that only looks on', async () => {
    const device = { type: 'virtio-net', queuePairs: 4, under: 'switch', mtu: 9000 };
    const lab = file(
      'pairs.lab.json',
      JSON.stringify({
        guests: [
          { name: 'one', memory: '3 GiB', devices: [{ ...device, link: 'wire' }] },
          {
            name: 'two',
            devices: [
              { ...device, link: 'wire' },
              { ...device, link: 'lan' },
            ],
          },
          { name: 'three', devices: [{ ...device, link: 'lan' }] },
        ],
        links: [
          { name: 'wire', type: 'direct' },
          { name: 'lan', type: 'switch' },
        ],
      }),
    );
    const { code, stderr } = await nicbox('tour', '--lab', lab, '--ring', 'split', '--repeat', '1', '--pings', '10');
    expect(stderr).not.toContain('WRONG');
    expect(code).toBe(0);
  }, 60_000);

  it('runs the example lab', async () => {
    const lab = join(root, 'examples/pairs.lab.json');
    const { code, stdout } = await nicbox('tour', '--lab', lab, '--plane', 'vhost-net', '--ring', 'packed', '--repeat', '1', '--pings', '5', '--json');
    expect(code).toBe(0);
    expect(JSON.parse(stdout).verified).toBe(true);
  }, 60_000);

  it('stops cleanly on Ctrl-C: exit code 130, one line, no output file', async () => {
    const child = spawn(process.execPath, [main, 'tour', '--repeat', '1000000', '--out', join(scratch, 'stopped')], { cwd: scratch });
    let stderr = '';
    let interrupted = false;
    const code = await new Promise<number | null>((resolve) => {
      child.stderr.on('data', (text: Buffer) => {
        stderr += text;
        // Once: another one while the process ends meets the default action, which kills it.
        if (interrupted || !stderr.includes('replaying over')) return;
        interrupted = true;
        child.kill('SIGINT');
      });
      child.on('exit', resolve);
    });
    expect(code).toBe(130);
    expect(stderr).toContain('nicbox: stopped');
    expect(stderr).not.toContain('    at ');
    expect(() => readFileSync(join(scratch, 'stopped/tour.json'))).toThrow('ENOENT');
  });

  it.each(['stdout', 'stderr'] as const)(
    'whoever reads %s may leave early: no stack trace, no hang',
    async (stream) => {
      const child = spawn(process.execPath, [main, 'tour', '--repeat', '1', '--pings', '1', '--plane', 'inline', '--json'], { cwd: scratch });
      child[stream].destroy();
      let said = '';
      const other = stream === 'stdout' ? child.stderr : child.stdout;
      other.on('data', (text: Buffer) => (said += text));
      const code = await new Promise<number | null>((resolve) => child.on('close', resolve));
      expect(said).not.toContain('    at ');
      // As other programs do: 128 + SIGPIPE without a reader of the result; without one of the progress the result is what counts.
      expect(code).toBe(stream === 'stdout' ? 141 : 0);
      if (stream === 'stderr') expect(JSON.parse(said).verified).toBe(true);
    },
    60_000,
  );

  it('a server whose reader leaves stops as on Ctrl-C: its socket is gone', async () => {
    const socket = join(scratch, 'left.sock');
    const child = spawn(process.execPath, [main, 'serve', 'vhost-user', '--socket', socket, '--json'], { cwd: scratch });
    child.stdout.destroy();
    expect(await new Promise<number | null>((resolve) => child.on('close', resolve))).toBe(141);
    expect(() => readFileSync(socket)).toThrow('ENOENT');
  }, 30_000);

  it('says so when the output cannot be written', async () => {
    const child = spawn('sh', ['-c', 'exec "$0" "$1" lspci > /dev/full', process.execPath, main], { cwd: scratch });
    let stderr = '';
    child.stderr.on('data', (text: Buffer) => (stderr += text));
    expect(await new Promise<number | null>((resolve) => child.on('close', resolve))).toBe(2);
    expect(stderr).toMatch(/^nicbox: cannot write the output: ENOSPC.*\n$/);
  });

  const device = { type: 'virtio-net', link: 'w' };
  it.each<[what: string, args: () => string[], says: string]>([
    ['no such capture', () => ['tour', '--capture', 'missing.pcap'], 'cannot read capture missing.pcap'],
    ['a truncated capture', () => ['tour', '--capture', file('cut.pcapng', real.subarray(0, 1000))], 'at byte'],
    ['a file that is no capture', () => ['tour', '--capture', file('text.pcap', 'hello, world')], 'text.pcap: not a pcap or pcapng file'],
    ['an empty capture', () => ['tour', '--capture', file('empty.pcapng', '')], 'the file is empty'],
    ['an unknown option', () => ['tour', '--frobnicate'], "unknown option '--frobnicate'"],
    ['an unknown command', () => ['frobnicate'], "unknown command 'frobnicate'"],
    ['a count that is none', () => ['tour', '--repeat', 'many'], 'give a whole number'],
    ['a directory that cannot be made', () => ['tour', '--out', 'not/there'], 'cannot make directory not/there'],
    ['a lab file that is not JSON', () => ['tour', '--lab', file('a.json', '{')], 'not JSON'],
    [
      'a lab with a misspelt key',
      () => ['tour', '--lab', file('b.json', JSON.stringify({ guests: [{ name: 'a', devices: [{ ...device, mtuu: 1 }] }], links: [] }))],
      'mtuu',
    ],
    [
      'a direct link with one end',
      () => ['tour', '--lab', file('c.json', JSON.stringify({ guests: [{ name: 'a', devices: [device] }], links: [{ name: 'w', type: 'direct' }] }))],
      'joins exactly two devices',
    ],
    [
      'a device on a link that is not there',
      () => ['tour', '--lab', file('d.json', JSON.stringify({ guests: [{ name: 'a', devices: [device] }], links: [{ name: 'x', type: 'switch' }] }))],
      'on link "w", which is not in "links"',
    ],
    [
      'a device that cannot be built',
      () => [
        'tour',
        '--lab',
        file(
          'e.json',
          JSON.stringify({
            guests: ['a', 'b'].map((name) => ({ name, devices: [{ ...device, mac: '01:00:5e:00:00:01' }] })),
            links: [{ name: 'w', type: 'direct' }],
          }),
        ),
      ],
      'unicast',
    ],
    [
      'a tour over a learning switch',
      () => [
        'tour',
        '--lab',
        file('f.json', JSON.stringify({ guests: ['a', 'b'].map((name) => ({ name, devices: [device] })), links: [{ name: 'w', type: 'switch' }] })),
      ],
      'make it "direct"',
    ],
    ['an option missing two commands deep', () => ['serve', 'vhost-user'], '(nicbox serve vhost-user --help shows what there is)'],
    [
      'more on the wire of a NIC than it has',
      () => ['serve', 'uml-pci', '--nic', ...['virtio-net,vfs=2', 'virtio-net', 'virtio-net'].flatMap((kind) => ['--device', kind])],
      'one device on its wire',
    ],
    ['a switch that is neither on nor off', () => ['serve', 'vfio-user', '--socket', 's', '--device', 'virtio-net,packed=maybe'], 'packed is on or off'],
    ['a guest that is not in the lab', () => ['lspci', '--guest', 'zoe'], 'there is no guest "zoe"'],
  ])('%s: one clear line and exit code 2', async (_what, args, says) => {
    const { code, stdout, stderr } = await nicbox(...args());
    expect(code).toBe(2);
    expect(stderr).toContain(says);
    expect(stderr).not.toContain('    at ');
    expect(stderr).not.toContain('internal error');
    expect(stdout).toBe('');
  });
});

describe('nicbox conformance', () => {
  // Its cases never wait for anything, so that nothing would hear the signal by itself.
  it.each(['device', 'driver'])('stops on Ctrl-C, and prints no half report of the %s', async (party) => {
    const child = spawn(process.execPath, [main, 'conformance', '--party', party, '--format', 'json'], { cwd: scratch });
    let [stdout, stderr] = ['', ''];
    child.stdout.on('data', (text: Buffer) => (stdout += text));
    child.stderr.on('data', (text: Buffer) => {
      if (stderr === '') child.kill('SIGINT');
      stderr += text;
    });
    expect(await new Promise<number | null>((resolve) => child.on('close', resolve))).toBe(130);
    expect(stderr).toMatch(/^running .*\nnicbox: stopped\n$/);
    expect(stdout).toBe('');
  });

  it('lists what would run, also for programs', async () => {
    const { code, stdout } = await nicbox('conformance', '--list', '--case', 'reset/queue', '--format', 'json');
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toEqual(['split', 'packed'].map((ring) => ({ name: `reset/queue [${ring}]`, clauses: expect.arrayContaining(['reset.4']) })));
  });

  it.each([
    [['--party', 'driver', '--target', 'qemu'], '--target goes with --party device'],
    [['--party', 'driver', '--seed', '3'], '--seed goes with --party device'],
    [['--list', '--format', 'html'], '--list is for --format table or json'],
    [['--target', 'qmeu'], 'no target is called qmeu'],
    [['--case', 'reset/nothing'], 'no case is selected'],
  ])('says what is wrong with %s', async (flags, what) => {
    const { code, stdout, stderr } = await nicbox('conformance', ...flags);
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toContain(what);
  });
});

describe('nicbox lspci', () => {
  it('lists, draws, decodes and dumps', async () => {
    const list = (await nicbox('lspci')).stdout;
    expect(list).toContain('01:00.0 Ethernet controller');
    // Every function of the tour has a name, and the listing ends with its last line.
    expect(list).not.toMatch(/Device [0-9a-f]{4}/);
    expect(list.endsWith('\n\n')).toBe(false);
    expect((await nicbox('lspci', '-t', '--guest', 'b')).stdout).toContain('-[0000:00]');
    expect((await nicbox('lspci', '-v', '--guest', 'a')).stdout).toContain('VirtIO: CommonCfg');
    expect((await nicbox('lspci', '-x', '--guest', 'a')).stdout).toMatch(/^00: 36 1b 0c 00/m);
    expect(JSON.parse((await nicbox('lspci', '--json')).stdout)).toHaveLength(2);
  });
});

describe('nicbox lab', () => {
  it('lists its experiments', async () => {
    expect(await nicbox('lab', 'list')).toMatchObject({ code: 0, stdout: expect.stringMatching(/^rizzo .*\nsriov-offload /) });
  });

  it('runs the paths between containers, and leaves a page and a record', async () => {
    const flags = ['--pairs', '2', '--size', '64', '--path', 'bridge,offload', '--seconds', '0.03', '--vcpus', '2', '--out', 'lab', '--json'];
    const { code, stdout } = await nicbox('lab', 'run', 'sriov-offload', ...flags);
    expect(code).toBe(0);
    const result = JSON.parse(stdout);
    const settings = [
      ['wall', 1, 1],
      ['wall', 2, 1],
      ['model', 1, 2],
      ['model', 2, 2],
    ];
    const rows = result.measurements as { mode: string; guests: number; vcpus: number; path: string; errors: string[] }[];
    expect(rows.map(({ mode, guests, vcpus, path, errors }) => [mode, guests, vcpus, path, errors])).toEqual(
      settings.flatMap((setting) => [
        [...setting, 'bridge', []],
        [...setting, 'offload', []],
      ]),
    );
    expect(JSON.parse(readFileSync(join(scratch, 'lab/sriov-offload.json'), 'utf8'))).toEqual(result);
    expect(readFileSync(join(scratch, 'lab/sriov-offload.html'), 'utf8')).toContain('<svg');
  }, 60_000);

  it.each([
    [['--pairs', '65'], 'whole numbers from 1 to 64'],
    [['--size', '65537'], 'whole numbers from 64 to 65536'],
    [['--path', 'bridge,wire'], 'some of bridge,software,offload'],
    [['--switch', 'hub'], 'Allowed choices are switch, vale'],
    [['--guests', '3'], 'whole numbers from 1 to 2'],
    [['--cost', 'hostframe=5'], 'names: send'],
  ])('says what is wrong with %s of sriov-offload', async (flags, what) => {
    const { code, stderr } = await nicbox('lab', 'run', 'sriov-offload', ...flags);
    expect(code).toBe(2);
    expect(stderr).toContain(what);
  });

  it('runs all sixteen combinations in simulated time, and leaves a page and a record', async () => {
    const { code, stdout } = await nicbox('lab', 'run', 'rizzo', '--mode', 'model', '--size', '64', '--out', 'lab', '--json');
    expect(code).toBe(0);
    const result = JSON.parse(stdout);
    expect(result.measurements).toHaveLength(16 * 3);
    expect(JSON.parse(readFileSync(join(scratch, 'lab/rizzo.json'), 'utf8'))).toEqual(result);
    expect(readFileSync(join(scratch, 'lab/rizzo.html'), 'utf8')).toContain('<svg');
  });

  it.each([
    [['--size', '10'], 'whole numbers from 64 to 1518'],
    [['--cost', 'exits=5'], 'names: exit'],
    [['--seconds', '0'], 'above 0'],
  ])('says what is wrong with %s', async (flags, what) => {
    const { code, stderr } = await nicbox('lab', 'run', 'rizzo', ...flags);
    expect(code).toBe(2);
    expect(stderr).toContain(what);
  });
});
