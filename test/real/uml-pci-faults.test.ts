// What goes wrong between `nicbox serve uml-pci` and its guests: either is killed in the middle of traffic, or told to stop. Whoever is left goes on or ends, and nothing stays behind.

import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { available, Child, endChildren, PATIENCE, project, scratch } from './host.ts';
import { trafficScript } from './pci-checks.ts';
import { umlPciPath } from './pci-guest.ts';

const { client: path, missing } = await available(umlPciPath);

afterEach(endChildren);

const DEVICES = ['--device', 'virtio-net,queues=2', '--device', 'virtio-net'];

async function serve(sockets: readonly string[]): Promise<Child> {
  const server = new Child('nicbox serve uml-pci', process.execPath, [
    join(project, 'dist/cli/main.js'),
    'serve',
    'uml-pci',
    ...DEVICES,
    '--socket',
    ...sockets,
  ]);
  await server.line(/listening on/, PATIENCE);
  return server;
}

/** Processes with this word in their command line. */
const processesOf = (word: string): string[] =>
  readdirSync('/proc').filter((pid) => {
    try {
      return /^\d+$/.test(pid) && Number(pid) !== process.pid && readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(word);
    } catch {
      return false;
    }
  });

describe.skipIf(missing !== undefined)(`user-mode Linux and our PCI devices in trouble${missing === undefined ? '' : ` (skipped: ${missing})`}`, () => {
  it('guests are killed in mid-traffic; the next one finds the devices as new', { timeout: 900_000 }, async () => {
    if (path === undefined) return;
    const folder = scratch();
    const sockets = ['a', 'b'].map((name) => join(folder, name));
    const server = await serve(sockets);
    const descriptors = (): number => readdirSync(`/proc/${server.process.pid}/fd`).length;
    const threads = (): number => readdirSync(`/proc/${server.process.pid}/task`).length;
    const maps = (): number =>
      readFileSync(`/proc/${server.process.pid}/maps`, 'utf8')
        .split('\n')
        .filter((line) => line.includes('vm_file') || line.includes('memfd:')).length;
    let before: readonly number[] | undefined;
    for (let i = 0; i < 3; i++) {
      const guest = path.guest(trafficScript([path.slot(0), path.slot(1)]), sockets);
      await guest.line(/^TRAFFIC$/, PATIENCE);
      await new Promise((resolve) => setTimeout(resolve, 300));
      await guest.kill();
      await server.until(
        'the guest to be gone',
        PATIENCE,
        () => server.lines.filter((line) => line.includes('connection closed')).length >= 2 * (i + 1) || undefined,
      );
      const now = [descriptors(), threads(), maps()];
      before ??= now;
      expect(now).toEqual(before);
    }
    server.signal('SIGTERM');
    expect(await server.ended).toBe(130);
    expect(sockets.filter((socket) => existsSync(socket))).toEqual([]);
    expect(server.lines.filter((line) => /internal error/.test(line))).toEqual([]);
  });

  it('the server is killed in mid-traffic; another takes its sockets and serves a new guest', { timeout: 900_000 }, async () => {
    if (path === undefined) return;
    const folder = scratch();
    const sockets = ['a', 'b'].map((name) => join(folder, name));
    for (let i = 0; i < 2; i++) {
      const server = await serve(sockets);
      const guest = path.guest(trafficScript([path.slot(0), path.slot(1)]), sockets);
      await guest.line(/^TRAFFIC$/, PATIENCE);
      await server.kill();
      await guest.kill();
    }
    const server = await serve(sockets);
    const guest = path.guest(trafficScript([path.slot(0), path.slot(1)]), sockets);
    await guest.line(/^TRAFFIC$/, PATIENCE);
    await guest.kill();
    server.signal('SIGTERM');
    expect(await server.ended).toBe(130);
  });

  it('told to stop, it ends its guest with all of its processes and leaves no file', { timeout: 900_000 }, async () => {
    if (path === undefined) return;
    const child = path.boot(trafficScript([path.slot(0), path.slot(1)]), { devices: ['virtio-net', 'virtio-net'] });
    const [, folder = ''] = await child.line(/listening on (\S+)\/slot0/, PATIENCE);
    await child.line(/^TRAFFIC$/, PATIENCE);
    expect(processesOf(folder).length).toBeGreaterThan(1);
    child.signal('SIGTERM');
    expect(await child.ended).toBe(130);
    expect(processesOf(folder)).toEqual([]);
    expect(existsSync(folder)).toBe(false);
  });

  it('killed, it does not leave its guest behind', { timeout: 900_000 }, async () => {
    if (path === undefined) return;
    const child = path.boot(trafficScript([path.slot(0), path.slot(1)]), { devices: ['virtio-net', 'virtio-net'] });
    const [, folder = ''] = await child.line(/listening on (\S+)\/slot0/, PATIENCE);
    await child.line(/^TRAFFIC$/, PATIENCE);
    child.signal('SIGKILL');
    await child.ended;
    await expect.poll(() => processesOf(folder), { timeout: PATIENCE * 1000 }).toEqual([]);
    rmSync(folder, { recursive: true, force: true });
  });
});
