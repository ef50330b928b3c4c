import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const DIST = new URL('../../dist/', import.meta.url);
const LAYERS = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')).imports as Record<string, { default: string }>;

/** The file an import of ours means, or undefined for what is not ours. */
function resolve(specifier: string, from: URL): URL | undefined {
  if (specifier.startsWith('.')) return new URL(specifier, from);
  const layer = Object.keys(LAYERS).find((pattern) => specifier.startsWith(pattern.slice(0, -1)));
  if (layer === undefined) return undefined;
  const target = (LAYERS[layer] as { default: string }).default.replace('*', specifier.slice(layer.length - 1));
  return new URL(target.replace(/^\.\/dist\//, ''), DIST);
}

/** Every module reached from `entry`, and the imports that lead out of the package. */
function graph(entry: URL): { modules: Set<string>; foreign: string[] } {
  const modules = new Set<string>();
  const foreign: string[] = [];
  const queue = [entry];
  for (let file = queue.pop(); file !== undefined; file = queue.pop()) {
    if (modules.has(file.href)) continue;
    modules.add(file.href);
    const code = readFileSync(file, 'utf8');
    for (const [, specifier = ''] of code.matchAll(/(?:\bfrom|\bimport)\s*\(?\s*['"]([^'"]+)['"]/g)) {
      const target = resolve(specifier, file);
      if (target === undefined) foreign.push(`${fileURLToPath(file)}: ${specifier}`);
      else queue.push(target);
    }
    if (/(?<![#.\w])(?:process|Buffer|require|__dirname)\b\s*[.(]/.test(code.replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, '')))
      foreign.push(`${fileURLToPath(file)}: a global of Node`);
  }
  return { modules, foreign };
}

it('the root export reaches nothing that a browser lacks', () => {
  const entry = new URL('index.js', DIST);
  expect(existsSync(entry)).toBe(true);
  const { modules, foreign } = graph(entry);
  expect(modules.size).toBeGreaterThan(50);
  expect(foreign).toEqual([]);
});

it('the same search does find what the guest’s thread imports of Node', () => {
  expect(graph(new URL('guest-sim/index.js', DIST)).foreign.some((f) => f.endsWith('node:worker_threads'))).toBe(true);
});
