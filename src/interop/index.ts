// Real processes as peers (nicbox/interop): QEMU's netdev protocols. Node only.

export { DatagramNetdev, type DatagramNetdevOptions } from './datagram-netdev.ts';
export { attachNetdev, attachNetdevToWorker, type NetdevPort } from './netdev-port.ts';
export { AddressError, formatAddress, type InternetAddress, parseDatagramAddress, parseStreamAddress, type StreamAddress } from './peer-address.ts';
export { type Backoff, StreamNetdev, type StreamNetdevOptions } from './stream-netdev.ts';
