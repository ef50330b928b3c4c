// The lab that `nicbox tour` and `nicbox lspci` use when no file is given: two guests on one direct link, one behind a root port, one behind a switch.

import { type LabDescription, readLab } from './lab-file.ts';

export const TOUR_LAB: LabDescription = readLab({
  guests: [
    { name: 'a', memory: '64 MiB', devices: [{ type: 'virtio-net', link: 'wire', under: 'root-port' }] },
    { name: 'b', memory: '64 MiB', devices: [{ type: 'virtio-net', link: 'wire', under: 'switch' }] },
  ],
  links: [{ name: 'wire', type: 'direct' }],
});
