// Runs the benchmarks one after another, each in a process of its own so that one's heap and compiled code do not colour the next.
// `npm run bench` runs all, `npm run bench -- data-plane` those whose name contains the word.

import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { availableParallelism, cpus } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const notBenches = new Set(['run.js', 'measure.js']);
const wanted = process.argv.slice(2);
const names = readdirSync(here)
  .filter((f) => f.endsWith('.js') && !f.endsWith('-worker.js') && !notBenches.has(f))
  .map((f) => f.slice(0, -3))
  .sort();
const chosen = names.filter((n) => wanted.length === 0 || wanted.some((w) => n.includes(w)));
if (chosen.length === 0) {
  console.error(`bench: nothing is called ${wanted.join(' ')}; there are: ${names.join(', ')}`);
  process.exit(2);
}
console.log(
  `Node ${process.version}, ${availableParallelism()} x ${cpus()[0]?.model ?? 'unknown CPU'}. Rates depend on the machine and its neighbours; the ratios are to bounds measured in the same run.`,
);
let failed = 0;
for (const name of chosen) {
  console.log(`\n== ${name}`);
  const { status } = spawnSync(process.execPath, [join(here, `${name}.js`)], { stdio: 'inherit' });
  if (status !== 0) failed++;
}
process.exitCode = failed === 0 ? 0 : 1;
