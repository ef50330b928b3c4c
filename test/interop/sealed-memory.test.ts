// Memory files that their owner could cut short under a mapping, where every access would be a bus error.

import { mkdtempSync, openSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Log } from '#core/log';
import { MappedRegion, SEALED } from '#interop/mapped-memory';
import { MemoryArena } from '#interop/memory-arena';
import { openNative } from '#interop/native';
import { serveVhostUser } from '#interop/vhost-user-server';
import { eventually } from '../backends/eventually.ts';
import { concat, FrontEnd, MEMORY_BYTES, message, REQUEST, words } from './front-end.ts';

const BYTES = 65_536;
const EPERM = 1;
let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'nicbox-sealed-'));
});

afterEach(() => rmSync(directory, { recursive: true, force: true }));

function ordinaryFile(): number {
  const path = join(directory, 'file');
  writeFileSync(path, '');
  truncateSync(path, MEMORY_BYTES);
  return openSync(path, 'r+');
}

it('a memfd is sealed before it is looked at, and stays as long as it is', () => {
  const native = openNative();
  const fd = native.memory.memfd('sealed-test', BYTES);
  const region = new MappedRegion(native, fd, 0, BYTES, SEALED);
  expect(native.memory.truncate(fd, 4096)).toBe(-EPERM);
  region.unmap();
  native.close(fd);
});

it.each(['anywhere', 'arena'] as const)('what cannot be sealed is refused where that is asked for, and mapped where it is not (%s)', (where) => {
  const native = openNative();
  const fd = ordinaryFile();
  const [strict, easy] = where === 'anywhere' ? [SEALED, undefined] : [new MemoryArena(BYTES * 16, true), new MemoryArena(BYTES * 16)];
  expect(() => new MappedRegion(native, fd, 0, BYTES, strict)).toThrow(/sealed/);
  new MappedRegion(native, fd, 0, BYTES, easy).unmap();
  native.close(fd);
});

it('a server that requires seals serves a memfd, and hangs up on a file', async () => {
  const log = new Log();
  const said: string[] = [];
  log.listen(({ message }) => said.push(message));
  const sockets = ['good', 'bad'].map((name) => join(directory, name)) as [string, string];
  const server = await serveVhostUser({ sockets, requireSeals: true, log });
  const good = new FrontEnd(sockets[0]);
  await good.start();
  await good.close();
  const bad = new FrontEnd(sockets[1]);
  await bad.negotiate();
  bad.send(message(REQUEST.SET_MEM_TABLE, concat(words(1, 0), bad.regionPayload)), [ordinaryFile()]);
  await eventually('the refusal', () => said.some((line) => line.includes('sealed')));
  await bad.close();
  await server.close();
});
