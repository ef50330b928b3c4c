// Our device as driver scenarios set it up: served on the same thread, with everything offered that drivers are judged by.

import { InlineSegment } from '#backends/inline-backend';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { Machine } from '#nicbox/machine';
import type { VhostBackend } from '#virtio/vhost';
import type { DeviceWish } from '../driver/scenario.ts';
import type { StageDevice } from '../driver/stage.ts';
import { Cable } from './cable.ts';

const MEMORY = 64 * 2 ** 20;
const DEVICE = {
  mac: '52:54:00:c0:ff:ee',
  link: { speed: 10_000, duplex: 'full' },
  rss: { contexts: 4 },
  features: { HASH_REPORT: true, GUEST_UDP_TUNNEL_GSO: true, HOST_UDP_TUNNEL_GSO: true, ADMIN_VQ: true },
} as const;

/** A port of a virtual function, whose frames go nowhere. */
const unconnected = (vf: number): VhostBackend => new InlineSegment(new Segment(new DirectLink())).port(`vf${vf}`);

export function openStageDevice({
  pairs = 1,
  mtu = 1500,
  vectors,
  notificationData = false,
  notifConfigData = false,
  vfs = 0,
  transitional = false,
}: DeviceWish): StageDevice {
  const deferred: (() => void)[] = [];
  const cable = new Cable();
  const segment = new InlineSegment(new Segment(new DirectLink()), { defer: (work) => void deferred.push(work) });
  segment.addPort(cable);
  const machine = new Machine({ memory: MEMORY });
  const sriov = { totalVfs: vfs, queuePairs: 1, layout: { firstOffset: 8, stride: 8 }, backend: unconnected };
  const { net, pci } = machine.addVirtioNet(
    { ...DEVICE, ...(vfs > 0 && { sriov }), queuePairs: pairs, mtu, backend: segment.port('watched', pairs) },
    { notificationData, notifConfigData, transitional, ...(vectors !== undefined && { vectors }) },
  );
  return {
    bus: machine.localBus(),
    rid: pci.fn.requesterId,
    work() {
      for (const later of deferred.splice(0)) later();
    },
    deliver: () => machine.service(),
    put(frame, offload) {
      cable.put(frame, offload);
      segment.wake(cable);
    },
    sent: () => cable.take(),
    setLink: (up) => net.setLink(up),
    announce: () => void net.announce(),
    close: () => machine.close(),
  };
}
