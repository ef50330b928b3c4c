// A TAP interface of Linux (/dev/net/tun) as descriptors: one for each queue, reads and writes of whole frames behind a virtio_net_hdr of 12 bytes. Opening, naming,
// what the kernel can do for it. How frames go through is tap.ts's.

import { closeSync, constants, openSync } from 'node:fs';
import { errorName, InteropError } from './interop-error.ts';
import type { Native } from './native.ts';

const TUNSETIFF = 0x400454ca;
const TUNSETOFFLOAD = 0x400454d0;
const TUNSETVNETHDRSZ = 0x400454d8;
const IFF_TAP = 0x0002;
const IFF_MULTI_QUEUE = 0x0100;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
const IFREQ_BYTES = 40;
const NAME_BYTES = 16;
const MOST_QUEUES = 64;

const TUN_F_CSUM = 1;
const TUN_F_TSO4 = 2;
const TUN_F_TSO6 = 4;
const TUN_F_TSO_ECN = 8;
const TUN_F_USO4 = 0x20;
const TUN_F_USO6 = 0x40;

/** virtio_net_hdr with num_buffers, as virtio 1.x has it. */
export const TAP_HEADER_BYTES = 12;

export interface TapDevice {
  /** As the kernel has it. */
  readonly name: string;
  readonly fds: readonly number[];
  /** What its kernel side sends us unfinished, and takes so: 'none', checksums and TCP segmentation, or UDP segmentation as well (Linux 6.2). */
  readonly offloads: 'none' | 'tcp' | 'tcp and udp';
}

/** @throws InteropError */
export function openTap(native: Native, wanted: string, queues: number, offloads: boolean): TapDevice {
  const fail = (message: string): never => {
    throw new InteropError('NICBOX_TAP', `TAP ${wanted}: ${message}`);
  };
  if (wanted.length === 0 || new TextEncoder().encode(wanted).length >= NAME_BYTES || /[\s/]/.test(wanted))
    fail(`an interface's name has 1 to ${NAME_BYTES - 1} bytes, no slash and no space`);
  if (!Number.isInteger(queues) || queues < 1 || queues > MOST_QUEUES) fail(`${queues} queues: 1 to ${MOST_QUEUES}`);
  const fds: number[] = [];
  let name = wanted;
  try {
    for (let queue = 0; queue < queues; queue++) {
      const fd = openSync('/dev/net/tun', constants.O_RDWR | constants.O_NONBLOCK);
      fds.push(fd);
      name = attach(native, fd, name, queues > 1, fail);
      const header = new Uint8Array(new ArrayBuffer(4));
      header[0] = TAP_HEADER_BYTES;
      const sized = native.files.ioctl(fd, TUNSETVNETHDRSZ, header);
      if (sized < 0) fail(`no header of ${TAP_HEADER_BYTES} bytes: ${errorName(sized)}`);
    }
    return { name, fds, offloads: offloads ? setOffloads(native, fds[0] as number, fail) : 'none' };
  } catch (error) {
    for (const fd of fds) closeSync(fd);
    if (error instanceof InteropError) throw error;
    return fail(`cannot open /dev/net/tun (${(error as Error).message}): load the kernel's module tun, or give the container that device`);
  }
}

/** Returns the interface's name, which the kernel chooses for "tap%d". */
function attach(native: Native, fd: number, name: string, several: boolean, fail: (message: string) => never): string {
  const request = new Uint8Array(new ArrayBuffer(IFREQ_BYTES));
  request.set(new TextEncoder().encode(name));
  new DataView(request.buffer).setUint16(NAME_BYTES, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (several ? IFF_MULTI_QUEUE : 0), true);
  const result = native.files.ioctl(fd, TUNSETIFF, request);
  if (result < 0) {
    const kind = several ? ' multi_queue' : '';
    const advice: Readonly<Record<string, string>> = {
      EPERM: `not allowed: run as root, or have root make it for you: ip tuntap add dev ${name} mode tap user $USER vnet_hdr${kind}`,
      EBUSY: 'another process has it',
      EINVAL: `it exists and is of another kind: make it with ip tuntap add dev ${name} mode tap vnet_hdr${kind}, or give another name`,
    };
    fail(advice[errorName(result)] ?? errorName(result));
  }
  return new TextDecoder().decode(request.subarray(0, request.indexOf(0)));
}

/** Kernels refuse what they do not know. They are one interface's, whichever queue says them. */
function setOffloads(native: Native, fd: number, fail: (message: string) => never): TapDevice['offloads'] {
  const tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
  if (native.files.ioctlValue(fd, TUNSETOFFLOAD, tcp | TUN_F_USO4 | TUN_F_USO6) >= 0) return 'tcp and udp';
  const result = native.files.ioctlValue(fd, TUNSETOFFLOAD, tcp);
  return result >= 0 ? 'tcp' : fail(`no offloads: ${errorName(result)}`);
}
