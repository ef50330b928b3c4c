// Does the steady data path allocate? Ten million frames through a worker and as many inline, over both rings, in a process that prints every garbage collection
// of every thread (--trace-gc): counted between the marks that say that warming up is over and that the frames are through. Beside it what the heap and the process hold
// before and after. No collection and no growth means nothing is allocated per frame; a control that allocates one small object a frame shows what that would look like.

import { spawn } from 'node:child_process';
import { writeSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { InlineSegment } from '#backends/inline-backend';
import { VhostPool } from '#backends/vhost-pool';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import type { VhostBackend } from '#virtio/vhost';
import { printTable } from './measure.js';
import { BenchGuest } from './ring-drivers.js';

const FRAMES = 10_000_000;
const WARM = 1_000_000;
const BATCH = 64;
const MARK = '#mark ';

interface Mark {
  readonly name: string;
  readonly heap: number;
  readonly resident: number;
}

/** Written at once, so that it stands among the lines of --trace-gc where it happened. */
function mark(name: string): void {
  const { heapUsed, rss } = process.memoryUsage();
  writeSync(1, `${MARK}${JSON.stringify({ name, heap: heapUsed, resident: rss } satisfies Mark)}\n`);
}

const kept: object[] = [];

function pass(port: (name: string) => VhostBackend, packed: boolean, allocate: boolean): void {
  const options = { packed, size: 1024, frame: 64, buffer: 128 };
  const a = new BenchGuest(options);
  const b = new BenchGuest(options);
  const backends = [port('a'), port('b')] as const;
  a.attach(backends[0]);
  b.attach(backends[1]);
  b.receiver.fill();
  const run = (frames: number): void => {
    let last = performance.now();
    for (let received = 0, spins = 0; received < frames; ) {
      a.transmitter.send(BATCH);
      const got = b.receiver.receive();
      if (allocate) for (let i = 0; i < got; i++) kept[i] = { at: received + i };
      received += got;
      if (got > 0) spins = 0;
      else if ((++spins & 0xffff) === 0) {
        if (performance.now() - last > 20_000) throw new Error('no frame for a long time');
      }
      if ((received & 0xfff) === 0) last = performance.now();
    }
  };
  run(WARM);
  mark('start');
  run(FRAMES);
  mark('end');
}

async function child(what: string): Promise<void> {
  const [plane, ring, allocate] = what.split(' ');
  if (plane === 'inline') {
    const segment = new InlineSegment(new Segment(new DirectLink()), { defer: () => {} });
    pass((name) => segment.port(name), ring === 'packed', allocate === 'control');
    return;
  }
  const pool = new VhostPool();
  const segment = pool.worker().segment();
  pass((name) => segment.port(name), ring === 'packed', false);
  await pool.close();
}

async function observe(what: string): Promise<{ collections: number; start: Mark; end: Mark }> {
  const process_ = spawn(process.execPath, ['--trace-gc', fileURLToPath(import.meta.url), what], { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  process_.stdout.on('data', (chunk: Buffer) => {
    output += chunk.toString();
  });
  const code = await new Promise<number | null>((resolve) => process_.on('close', resolve));
  if (code !== 0) throw new Error(`${what}: exit code ${code}`);
  const lines = output.split('\n');
  const from = lines.findIndex((line) => line.startsWith(MARK));
  const to = lines.findLastIndex((line) => line.startsWith(MARK));
  const read = (line: number): Mark => JSON.parse((lines[line] as string).slice(MARK.length)) as Mark;
  return { collections: lines.slice(from + 1, to).filter((line) => /Scavenge|Mark-Compact|Mark-sweep/.test(line)).length, start: read(from), end: read(to) };
}

const asked = process.argv[2];
if (asked !== undefined) await child(asked);
else {
  const kib = (bytes: number): string => (bytes / 1024).toFixed(0);
  const rows: (string | number)[][] = [];
  for (const what of ['inline split', 'inline packed', 'worker split', 'worker packed', 'inline split control']) {
    const { collections, start, end } = await observe(what);
    rows.push([what, collections, kib(start.heap), kib(end.heap), kib(start.resident), kib(end.resident)]);
  }
  console.log(`${FRAMES} frames of 64 bytes each, after ${WARM} to warm up; "control" allocates one small object a frame on purpose`);
  printTable(['data plane and ring', 'collections', 'heap KiB before', 'after', 'process KiB before', 'after'], rows);
}
