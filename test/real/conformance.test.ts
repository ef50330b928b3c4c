// The conformance suite against QEMU's virtio-net-pci: the verdicts that docs/conformance.md shows, and docs/qemu-findings.md explains. With NICBOX_WRITE_DOCS=1 they are
// written anew.

import { readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { CASES } from '#conformance/cases';
import { judge, runCases } from '#conformance/runner';
import { qemuSource } from '#conformance/targets/qemu';
import { available } from './host.ts';
import { findDebianQemu, findNewQemu } from './qemu.ts';

const FILE = new URL('../conformance/qemu-verdicts.json', import.meta.url);

describe.each([
  ['of Debian', await available(findDebianQemu)],
  ['newer', await available(findNewQemu)],
] as const)('the conformance suite against QEMU %s', (_which, { client, missing }) => {
  it.skipIf(missing !== undefined)(`${client?.version ?? `(skipped: ${missing})`} has the verdicts that are written down`, async () => {
    if (client === undefined) return;
    const name = `QEMU ${client.version}`;
    const source = qemuSource(name, client.program);
    try {
      const verdicts = judge(await runCases(CASES, source));
      const seen = Object.fromEntries([...verdicts].filter(([, { verdict }]) => verdict !== 'none').map(([key, { verdict }]) => [key, verdict]));
      const known = JSON.parse(readFileSync(FILE, 'utf8'));
      if (process.env.NICBOX_WRITE_DOCS) writeFileSync(FILE, `${JSON.stringify({ ...known, [name]: seen }, null, 2)}\n`);
      else if (known[name] === undefined)
        console.log(
          `${name}: no verdicts are written down; fails: ${Object.keys(seen)
            .filter((key) => seen[key] === 'fail')
            .join(' ')}`,
        );
      else expect(seen).toEqual(known[name]);
    } finally {
      await source.close?.();
    }
  });
});
