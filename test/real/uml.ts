// User-mode Linux: a Linux kernel as an ordinary process, its virtio-net a vhost-user front end of its own (virtio_uml). Ours, of Debian's source: Debian's own does not start on hosts with AMX.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { guestImage, scriptArchive } from './guest-image.ts';
import { Child, scratch } from './host.ts';
import { umlKernel } from './uml-kernel.ts';

export interface Uml {
  /** Boots a guest that runs `script`; each socket becomes a network interface eth0, eth1, ... */
  boot(name: string, script: string, sockets: readonly string[], append?: readonly string[]): Child;
}

export async function findUml(): Promise<Uml> {
  const { kernel, modules, version } = await umlKernel();
  const image = await guestImage(`uml-${version}`, modules, ['virtio_net']);
  return {
    boot(name, script, sockets, append = []) {
      const folder = scratch();
      const initrd = join(folder, 'initrd');
      writeFileSync(initrd, Buffer.concat([image, scriptArchive(script)]));
      const devices = sockets.map((socket, i) => `virtio_uml.device=${socket}:1:${i}`);
      const args = ['mem=256M', `initrd=${initrd}`, 'rdinit=/init', 'con=null', 'con0=null,fd:1', 'quiet', ...append, ...devices];
      // Its memory is a file in TMPDIR, best in memory.
      return new Child(name, kernel, args, { TMPDIR: '/dev/shm' });
    },
  };
}
