// vDPA, for Node (nicbox/vdpa): a NIC on a worker's segment, and the two data planes a virtio-net device can have over one, its own rings passed through or shadowed.
// Segments come from a VhostPool (nicbox/vhost-net); a device moves from one data plane to another by `VirtioNet.handOver`.

export { VdpaBackend } from '#backends/vdpa-backend';
export { ControlRefusedError } from '#backends/vdpa-control-shadow';
export { VdpaNet, type VdpaNetOptions } from '#backends/vdpa-net';
export { VdpaShadow } from '#backends/vdpa-shadow';
export type { VdpaControl, VdpaDevice, VdpaDirtyLog, VdpaEvent, VdpaOwner } from '#virtio/vdpa';
