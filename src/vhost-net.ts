// The worker-thread data plane, for Node: what the root export leaves out so that it runs in a browser (nicbox/vhost-net).

export { VhostNet } from '#backends/vhost-net';
export { VhostPool, type VhostPoolOptions } from '#backends/vhost-pool';
export { type SegmentSettings, VhostSegment, VhostWorker } from '#backends/vhost-worker';
export type { PollOptions } from '#backends/worker-job';
