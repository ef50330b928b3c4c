import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { inspectLab, parseLab } from '#lab/index';

const DIST = new URL('../../dist/lab/index.js', import.meta.url);
const EXAMPLE = new URL('../../examples/pairs.lab.json', import.meta.url);

/** What a process prints that does this and has nothing else to do. It has to end by itself. */
function run(code: string): string {
  const script = `import { Lab, inspectLab, readLab } from ${JSON.stringify(DIST.href)};\n${code}`;
  return execFileSync(process.execPath, ['--input-type=module', '-e', script], { cwd: fileURLToPath(new URL('.', DIST)), timeout: 20_000, encoding: 'utf8' });
}

// The second guest cannot be built: a group address is nobody's own.
const BAD = `readLab({
  guests: ['52:54:00:00:00:01', '01:00:5e:00:00:01'].map((mac, i) => ({ name: 'g' + i, devices: [{ type: 'virtio-net', link: 'w', mac }] })),
  links: [{ name: 'w', type: 'direct' }],
})`;

it.each(['inline', 'vhost-net', 'vdpa', 'vdpa-shadow'])(
  'a lab over %s that cannot be built leaves no thread or machine behind',
  (plane) => {
    expect(run(`try { new Lab(${BAD}, '${plane}'); } catch (error) { console.log(error.code); }`)).toBe('NICBOX_MAC\n');
  },
  30_000,
);

it('nor does one that is only looked at', () => {
  expect(run(`await inspectLab(${BAD}, 'list').catch((error) => console.log(error.code));`)).toBe('NICBOX_MAC\n');
}, 30_000);

it('the example lab can be built', async () => {
  const listings = await inspectLab(parseLab(readFileSync(EXAMPLE, 'utf8')), 'list');
  expect(listings.length).toBeGreaterThan(1);
  for (const { listing } of listings) expect(listing).toContain('Virtio network device');
});
