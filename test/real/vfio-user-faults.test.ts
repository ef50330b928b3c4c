// QEMU on `nicbox serve vfio-user` other than as usual: no posted writes, RAM that comes without a descriptor, the toy device of examples/, guests and servers that are
// killed in the middle of traffic. Whoever is left goes on or ends, and nothing stays behind.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { VfioUserServer } from 'nicbox/interop';
import { afterEach, describe, expect, it } from 'vitest';
import { serveAdder } from '../../examples/vfio-user-toy.ts';
import { available, Child, endChildren, PATIENCE, project, scratch } from './host.ts';
import { trafficScript } from './pci-checks.ts';
import { PCI_DEVICES, type PciDevice } from './pci-devices.ts';
import { runChecks, vfioUserPath } from './pci-guest.ts';

const { client: path, missing } = await available(() => vfioUserPath());
const skipped = missing === undefined ? '' : ` (skipped: ${missing})`;
const toys: VfioUserServer[] = [];

afterEach(async () => {
  await endChildren();
  for (const toy of toys.splice(0)) await toy.close();
});

const DEVICES = ['--device', 'virtio-net,queues=2', '--device', 'virtio-net'];

async function serve(sockets: readonly string[]): Promise<Child> {
  const main = join(project, 'dist/cli/main.js');
  const server = new Child('nicbox serve vfio-user', process.execPath, [main, 'serve', 'vfio-user', ...DEVICES, '--socket', ...sockets]);
  await server.line(/listening on/, PATIENCE);
  return server;
}

/** The guest's kernel is kept out of this RAM, so that its devmem may write there. */
const RESERVED = { append: ['mem=192M'], address: 224 * 2 ** 20 };

/** Adds 2 to 40 in guest memory by the toy's DMA, with and without Bus Master Enable. While it asks for memory by message its registers are read as they are then: not done yet. */
const toyScript = (pci: string): string => `
pci=${pci}
[ "$(cat /sys/bus/pci/devices/$pci/vendor)" = 0x1234 ] && echo TOY-FOUND
echo 1 > /sys/bus/pci/devices/$pci/enable
bar=$(head -n 1 /sys/bus/pci/devices/$pci/resource | cut -d ' ' -f 1)
ram=${RESERVED.address}
devmem $ram 32 40
devmem $bar 32 $ram
add() { devmem $((bar + 4)) 32 2; tries=0; until [ $(devmem $((bar + 8)) 32) != 0x00000000 ] || [ $tries -gt 200 ]; do tries=$((tries + 1)); sleep 0.05; done; }
add
echo TOY-WITHOUT-MASTER $(devmem $((bar + 8)) 32) $(devmem $ram 32)
devmem $((bar + 8)) 32 3
setpci -s $pci COMMAND=6:6
add
echo TOY-WITH-MASTER $(devmem $((bar + 8)) 32) $(devmem $ram 32)
`;

describe.skipIf(missing !== undefined)(`QEMU over vfio-user, otherwise than usual${skipped}`, () => {
  it.each([true, false])('the toy device adds in guest memory; shared: %s', { timeout: 900_000 }, async (sharedMemory) => {
    if (path === undefined) return;
    const own = await vfioUserPath({ sharedMemory });
    const toy = await serveAdder(join(scratch(), 'toy'));
    toys.push(toy);
    const guest = own.guest(toyScript(own.slot(0)), [toy.path], RESERVED.append);
    await guest.line(/^GUEST-DONE/, PATIENCE);
    expect(guest.lines.filter((line) => line.startsWith('TOY-'))).toEqual([
      'TOY-FOUND',
      'TOY-WITHOUT-MASTER 0x00000003 0x00000028',
      'TOY-WITH-MASTER 0x00000001 0x0000002A',
    ]);
    expect(toy.statistics.dmaMessages).toBe(sharedMemory ? 0 : 2);
    await guest.until('its end', PATIENCE, () => guest.over || undefined);
    await expect.poll(() => toy.statistics.connected, { timeout: PATIENCE * 1000 }).toBe(false);
    expect(toy.statistics).toMatchObject({ connected: false, refused: 0, regions: { mapped: 0, byMessage: 0 } });
  });

  it('without posted writes all is the same', { timeout: 900_000 }, async () => {
    if (path === undefined) return;
    const row = PCI_DEVICES[1] as PciDevice;
    const wanted = ['200 pings', 'TCP, offloads on', 'unbind, bind'];
    const { checks } = await runChecks(await vfioUserPath({ postedWrites: false }), { ...row, checks: row.checks.filter(({ name }) => wanted.includes(name)) });
    expect(checks.map(({ name, ok }) => [name, ok])).toEqual(wanted.map((name) => [name, true]));
  });

  it('virtio-net in RAM without a descriptor is refused by its driver at once; the next guests, killed in mid-traffic, find the devices as new', {
    timeout: 900_000,
  }, async () => {
    if (path === undefined) return;
    const sockets = ['a', 'b'].map((name) => join(scratch(), name));
    const server = await serve(sockets);
    const own = await vfioUserPath({ sharedMemory: false });
    const script = `for m in virtio_pci virtio_net; do load $m; done
echo DRIVER $(basename $(readlink /sys/bus/pci/devices/${own.slot(0)}/virtio*/driver)) $(ls /sys/class/net)
dmesg | grep -i virtio`;
    const refused = own.guest(script, sockets);
    await refused.line(/^GUEST-DONE/, PATIENCE);
    expect(refused.lines.filter((line) => line.startsWith('DRIVER'))).toEqual(['DRIVER lo']);
    await server.line(/features refused: all memory is reached by message/, PATIENCE);
    await refused.until('its end', PATIENCE, () => refused.over || undefined);

    const count = (what: string): number => readdirSync(`/proc/${server.process.pid}/${what}`).length;
    const maps = (): number =>
      readFileSync(`/proc/${server.process.pid}/maps`, 'utf8')
        .split('\n')
        .filter((line) => line.includes('memory-backend-memfd')).length;
    let before: readonly number[] | undefined;
    for (let guests = 2; guests < 4; guests++) {
      const guest = path.guest(trafficScript([path.slot(0), path.slot(1)]), sockets);
      await guest.line(/^TRAFFIC$/, PATIENCE);
      await new Promise((resolve) => setTimeout(resolve, 500));
      expect(maps()).toBeGreaterThan(0);
      await guest.kill();
      const gone = (): boolean => server.lines.filter((line) => line.includes('connection closed')).length >= 2 * guests;
      await server.until('the guest to be gone', PATIENCE, () => gone() || undefined);
      const now = [count('fd'), count('task'), maps()];
      before ??= now;
      expect(now).toEqual(before);
      expect(maps()).toBe(0);
    }
    server.signal('SIGTERM');
    expect(await server.ended).toBe(130);
    expect(sockets.filter((socket) => existsSync(socket))).toEqual([]);
    expect(server.lines.filter((line) => /internal error/.test(line))).toEqual([]);
  });

  it('the server is killed, then told to stop, in mid-traffic; another takes its sockets and serves a new guest', { timeout: 900_000 }, async () => {
    if (path === undefined) return;
    const sockets = ['a', 'b'].map((name) => join(scratch(), name));
    for (const [signal, code] of [
      ['SIGKILL', null],
      ['SIGTERM', 130],
      ['SIGTERM', 130],
    ] as const) {
      const server = await serve(sockets);
      const guest = path.guest(trafficScript([path.slot(0), path.slot(1)]), sockets);
      await guest.line(/^TRAFFIC$/, PATIENCE);
      server.signal(signal);
      expect(await server.ended).toBe(code);
      await guest.kill();
    }
    expect(sockets.filter((socket) => existsSync(socket))).toEqual([]);
  });
});
