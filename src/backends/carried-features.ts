// What these backends carry of virtio and of virtio-net, for every kind of thread alike.

import { NET_DATA_PLANE_FEATURES } from '#virtio/net-features';

/** Ring features and offloads the ring loop serves. */
export const BACKEND_FEATURES = NET_DATA_PLANE_FEATURES;
/** virtio 1.4 5.1.4: up to 64 pairs here. */
export const MAX_QUEUE_PAIRS = 64;
