// A Linux guest whose network device is behind an emulated IOMMU (QEMU 11 or later): the kernel maps and unmaps pages for each frame, and all we may touch is what QEMU tells us when we ask
// (IOTLB messages).

import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { available, endChildren, PATIENCE, scratch } from './host.ts';
import { findNewQemu, vhostUserArgs } from './qemu.ts';
import { VhostUserServer } from './server.ts';
import { answeringScript, askingScript, checkTraffic } from './traffic.ts';

const { client: qemu, missing } = await available(findNewQemu);

afterEach(endChildren);

const MACS = ['02:00:00:00:00:01', '02:00:00:00:00:02'] as const;

describe.skipIf(missing !== undefined)(`QEMU ${qemu?.version ?? `(skipped: ${missing})`} with an IOMMU`, () => {
  it.each([false, true])('two guests talk (packed %s): ping, TCP', async (packed) => {
    if (qemu === undefined) return;
    const folder = scratch();
    const [a, b] = ['a', 'b'].map((name) => join(folder, name)) as [string, string];
    const server = await VhostUserServer.start([a, b], ['--iommu']);
    const size = { kibibytes: 512, pings: 20 };
    const behind = (socket: string, mac: string): string[] => [
      ...['-device', 'intel-iommu,intremap=off,device-iotlb=on'],
      ...vhostUserArgs(socket, 1, mac, { packed }).map((arg) => (arg.startsWith('virtio-net-pci') ? `${arg},disable-legacy=on,iommu_platform=on,ats=on` : arg)),
      ...['-append', 'console=ttyS0 quiet panic=-1 reboot=t tsc=reliable mitigations=off nokaslr net.ifnames=0 intel_iommu=on iommu.strict=1'],
    ];
    const translated = 'echo IOMMU-GROUPS $(ls /sys/kernel/iommu_groups | wc -l)';
    const answering = qemu.boot('answering', answeringScript(size.kibibytes), behind(a, MACS[0]));
    const asking = qemu.boot('asking', askingScript({ ...size, setUp: translated, offloadsOff: false }), behind(b, MACS[1]));
    await asking.line(/^GUEST-DONE/, PATIENCE).catch((error: unknown) => {
      throw new Error(`${error}\nserver:\n${server.child.tail}`);
    });
    for (const { down, up } of checkTraffic(answering, asking, size))
      console.log(`QEMU with an IOMMU, ${packed ? 'packed' : 'split'}: ${down.toFixed(1)} MB/s down, ${up.toFixed(1)} MB/s up`);
    expect(asking.lines.find((line) => line.startsWith('IOMMU-GROUPS'))).toMatch(/IOMMU-GROUPS [1-9]/);
    expect(
      server.child.lines.filter((line) => line.includes('error:')),
      server.child.tail,
    ).toEqual([]);
  });
});
