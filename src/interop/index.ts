// Real processes as peers (nicbox/interop): QEMU's netdev protocols, vhost-user back ends, vfio-user servers (Linux, with the optional package koffi). Node only.

export { DatagramNetdev, type DatagramNetdevOptions } from './datagram-netdev.ts';
export type { SessionState } from './front-session.ts';
export { InteropError, type InteropErrorCode } from './interop-error.ts';
export { MemoryFile } from './memory-file.ts';
export { attachNetdev, attachNetdevToWorker, type NetdevPort } from './netdev-port.ts';
export { AddressError, formatAddress, type InternetAddress, parseDatagramAddress, parseStreamAddress, type StreamAddress } from './peer-address.ts';
export { type Backoff, StreamNetdev, type StreamNetdevOptions } from './stream-netdev.ts';
export { Tap, type TapOptions } from './tap.ts';
export { serveUmlPci, type UmlPciOptions, UmlPciServer, type UmlPciSocketStatistics, umlPciMachine } from './uml-pci-server.ts';
export { DATA_PLANE_WORKER, type ServedDevice, serveVfioUser, type VfioUserOptions, VfioUserServer, type VfioUserStatistics } from './vfio-user-server.ts';
export { VHOST_USER_NET_FEATURES, VhostUserBackend, type VhostUserFrontEndOptions } from './vhost-user-front-end.ts';
export { serveVhostUser, type VhostUserOptions, VhostUserServer, type VhostUserSocketStatistics } from './vhost-user-server.ts';
