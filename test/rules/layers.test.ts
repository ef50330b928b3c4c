// The layer rules of ARCHITECTURE.md are lint rules. This proves each one by breaking it: a file that imports what its layer may not
// must fail the same lint that `npm run check` runs, and one that keeps to the rule must pass.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const biome = join(root, 'node_modules/@biomejs/biome/bin/biome');
let scratch: string;

beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'nicbox-layers-'));
  const config = JSON.parse(readFileSync(join(root, 'biome.json'), 'utf8'));
  delete config.$schema;
  config.vcs = { enabled: false };
  writeFileSync(join(scratch, 'biome.json'), JSON.stringify(config));
});

afterAll(() => rmSync(scratch, { recursive: true, force: true }));

async function lint(file: string, source: string): Promise<string> {
  const path = join(scratch, file);
  await mkdir(dirname(path), { recursive: true });
  writeFileSync(path, source);
  try {
    execFileSync(process.execPath, [biome, 'lint', '--max-diagnostics=50', file], { cwd: scratch, stdio: 'pipe' });
    return '';
  } catch (error) {
    const { stdout, stderr } = error as { stdout: Buffer; stderr: Buffer };
    return `${stdout}${stderr}`;
  } finally {
    rmSync(path);
  }
}

const forbidden: [layer: string, specifier: string][] = [
  ['core', '#net/port'],
  ['core', '../net/port.ts'],
  ['net', '#pci/ports'],
  ['net/embedded-switch', '#virtio/net-policy'],
  ['net/embedded-switch', '../../core/clock.ts'],
  ['pci', '#net/port'],
  ['virtio', '#backends/inline'],
  ['virtio', '#devices/virtio-net/device'],
  ['backends', '#devices/virtio-net/device'],
  ['backends', '#pci/fabric'],
  ['devices/virtio-net', '#backends/inline'],
  ['devices/virtio-net', '../../backends/inline.ts'],
  ['guest-sim', '#virtio/features'],
  ['guest-sim', '#nicbox/machine'],
  ['lab', '#cli/main'],
  ['backends', '#interop/stream-netdev'],
  ['interop', '#lab/tour'],
  ['interop', '#guest-sim/packets'],
  ['conformance', '#virtio/features'],
  ['conformance/cases', '#nicbox/machine'],
  ['conformance/cases', '../../virtio/features.ts'],
  ['conformance/targets', '#lab/tour'],
  ['lab', '#cli/conformance'],
  ['interop', '#conformance/target'],
  ['interop', 'node:module'],
  ['interop/native', '../../net/port.ts'],
  ['interop/native', '#lab/tour'],
];

const allowed: [layer: string, specifier: string][] = [
  ['core', './memory.ts'],
  ['net', '#core/segments'],
  ['net/embedded-switch', '../port.ts'],
  ['virtio', '#pci/ports'],
  ['devices/virtio-net', '#virtio/features'],
  ['guest-sim', '#core/guest-memory'],
  ['lab', '#nicbox/machine'],
  ['interop', '#backends/vhost-worker'],
  ['interop/native', '../interop-error.ts'],
  ['interop/native', 'node:module'],
  ['cli', '#lab/tour'],
  ['conformance/cases', '#guest-sim/frames'],
  ['conformance/targets', '#nicbox/machine'],
  ['cli', '#conformance/index'],
];

describe('layer rules', () => {
  it.each(forbidden)('src/%s must not import %s, not even a type', async (layer, specifier) => {
    expect(await lint(`src/${layer}/violation.ts`, `import type { Thing } from '${specifier}';\nexport type { Thing };\n`)).toContain('noRestrictedImports');
  });

  it.each(allowed)('src/%s may import %s', async (layer, specifier) => {
    expect(await lint(`src/${layer}/fine.ts`, `import type { Thing } from '${specifier}';\nexport type { Thing };\n`)).toBe('');
  });

  it.each(['core', 'net', 'pci', 'virtio', 'devices/virtio-net'])('src/%s runs in a browser: no node: imports', async (layer) => {
    expect(await lint(`src/${layer}/violation.ts`, `import { readFileSync } from 'node:fs';\nexport { readFileSync };\n`)).toContain('noNodejsModules');
  });
});
