// docs/virtio-net.md has a row for each feature bit the device can offer: number, when it is offered and whether the guest takes it from the code, the rest from the
// table here. `NICBOX_WRITE_DOCS=1 npx vitest run test/virtio-net/docs.test.ts` writes it anew.
import { existsSync } from 'node:fs';
import { expect, it } from 'vitest';
import { VirtioNet, type VirtioNetOptions } from '#devices/virtio-net/device';
import { NET_FEATURES } from '#devices/virtio-net/features';
import { DRIVER_FEATURES, OPTIONAL_FEATURES } from '#guest-sim/features';
import { VIRTIO_F_ANY_LAYOUT, VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_NOTIFICATION_DATA, VIRTIO_F_SR_IOV, VIRTIO_F_VERSION_1 } from '#virtio/features';
import { RecordingBackend } from '../virtio-pci/bench.ts';
import { writtenPart } from '../written-part.ts';

const ROOT = new URL('../../', import.meta.url);
const FILE = new URL('docs/virtio-net.md', ROOT);
const BEGIN = '<!-- features: written by test/virtio-net/docs.test.ts -->\n';
const END = '<!-- end of features -->\n';

/** What the transport adds to the device's own bits, and when. */
const TRANSPORT: Readonly<Record<string, [bit: number, offered: string]>> = {
  ANY_LAYOUT: [VIRTIO_F_ANY_LAYOUT, '`transitional`, to a legacy driver'],
  VERSION_1: [VIRTIO_F_VERSION_1, 'always'],
  SR_IOV: [VIRTIO_F_SR_IOV, 'by physical functions: `sriov`'],
  NOTIFICATION_DATA: [VIRTIO_F_NOTIFICATION_DATA, '`notificationData`'],
  NOTIF_CONFIG_DATA: [VIRTIO_F_NOTIF_CONFIG_DATA, '`notifConfigData`'],
};

type Row = readonly [section: string, code: string, tests: string];
const offloads = 'backends/offloads integration/offloads';
const control = 'virtio-net/control integration/virtio-net';
const rings = 'virtio/ring-traffic integration/virtio-net';
const steering = 'backends/rss integration/steering';
const tunnels = 'net/tunnel-offload integration/offloads';

/** Section of virtio 1.4; files below src and below test, where to start. */
const ROWS: Readonly<Record<string, Row>> = {
  CSUM: ['5.1.9.2', 'net/offload-request net/software-offload', offloads],
  GUEST_CSUM: ['5.1.9.4', 'backends/frame-writer', offloads],
  CTRL_GUEST_OFFLOADS: ['5.1.9.5.9', 'virtio/net-control/control-commands', control],
  MTU: ['5.1.4', 'devices/virtio-net/config', 'virtio-net/options'],
  MAC: ['5.1.4', 'devices/virtio-net/config', 'virtio-net/options'],
  GUEST_TSO4: ['5.1.9.4', 'net/software-offload net/segment', offloads],
  GUEST_TSO6: ['5.1.9.4', 'net/software-offload net/segment', offloads],
  GUEST_ECN: ['5.1.9.4', 'net/segment', offloads],
  GUEST_UFO: ['5.1.9.4', 'net/fragmentation', offloads],
  HOST_TSO4: ['5.1.9.2', 'net/offload-request net/segment', offloads],
  HOST_TSO6: ['5.1.9.2', 'net/offload-request net/segment', offloads],
  HOST_ECN: ['5.1.9.2', 'net/offload-request', offloads],
  HOST_UFO: ['5.1.9.2', 'net/fragmentation', offloads],
  MRG_RXBUF: ['5.1.9.3, 5.1.9.4', 'backends/frame-writer', 'backends/inline backends/hostile-rows integration/virtio-net'],
  STATUS: ['5.1.4', 'devices/virtio-net/config', 'virtio-net/inline virtio-net/data-plane'],
  CTRL_VQ: ['5.1.9.5', 'devices/virtio-net/control-queue', 'virtio-net/control virtio-net/control-random virtio-net/turns'],
  CTRL_RX: ['5.1.9.5.1', 'virtio/net-control/receive-state backends/receive-filter', `${control} virtio-net/inline`],
  CTRL_VLAN: ['5.1.9.5.3', 'virtio/net-control/receive-state backends/receive-filter', `${control} virtio-net/inline`],
  CTRL_RX_EXTRA: ['5.1.9.5.1', 'virtio/net-control/receive-state backends/receive-filter', control],
  GUEST_ANNOUNCE: ['5.1.9.5.4', 'devices/virtio-net/device', 'virtio-net/announce integration/pairs'],
  MQ: ['5.1.9.5.5, 5.1.9.5.6', 'backends/steering virtio/net-control/control-mq', 'backends/ring-port integration/steering'],
  CTRL_MAC_ADDR: ['5.1.9.5.2', 'virtio/net-control/control-commands', control],
  ANY_LAYOUT: ['5.1.9.8, 2.7.4.3', 'virtio/pci-legacy', 'virtio-pci/legacy integration/pairs'],
  INDIRECT_DESC: ['2.7.5.3, 2.8.7', 'virtio/split virtio/packed', `virtio/ring-breaks ${rings}`],
  EVENT_IDX: ['2.7.7, 2.7.10, 2.8.10', 'virtio/split virtio/packed', `virtio/ring-notify ${rings}`],
  VERSION_1: ['6', 'virtio/negotiation', 'virtio-pci/status'],
  ACCESS_PLATFORM: ['6', 'core/iommu core/dma-space', 'core/iommu machine/machine'],
  RING_PACKED: ['2.8', 'virtio/packed virtio/packed-used', rings],
  IN_ORDER: ['2.7.9, 2.8.8', 'virtio/split virtio/packed', `virtio/ring-order ${rings}`],
  SR_IOV: [
    '6, 2.12, PCIe 4.0 9',
    'pci/sriov devices/virtio-net/virtual-functions virtio/admin-sriov',
    'virtio-net/sriov virtio-net/device-parts machine/virtual-net',
  ],
  NOTIFICATION_DATA: ['2.9, 4.1.5.2', 'virtio/pci-notify', 'virtio-pci/registers integration/virtio-net'],
  NOTIF_CONFIG_DATA: ['4.1.4.4, 4.1.5.2', 'virtio/pci-notify', 'virtio-pci/registers integration/virtio-net'],
  RING_RESET: ['2.6.1', 'virtio/driver-queues', 'virtio-net/ring-reset integration/features integration/pairs'],
  ADMIN_VQ: [
    '2.12, 2.13, 5.1.9.6',
    'virtio/admin-self devices/virtio-net/flow-filter backends/flow-matcher',
    'virtio-net/admin virtio-net/flow-filter integration/features',
  ],
  SUSPEND: ['3.4', 'virtio/control', 'virtio-net/suspend integration/suspend integration/pairs'],
  DEVICE_STATS: ['5.1.9.5.11', 'virtio/net-statistics virtio/net-control/statistics', 'virtio-net/statistics backends/offloads integration/offloads'],
  HASH_TUNNEL: ['5.1.9.4.4', 'net/hash-headers', `net/frame-hash ${steering}`],
  VQ_NOTF_COAL: ['5.1.9.5.10', 'backends/moderation virtio/net-control/coalescing', 'backends/moderation virtio-net/coalescing integration/pairs'],
  NOTF_COAL: ['5.1.9.5.10', 'backends/moderation virtio/net-control/coalescing', 'backends/moderation virtio-net/coalescing integration/pairs'],
  GUEST_USO4: ['5.1.9.4', 'net/software-offload net/segment', offloads],
  GUEST_USO6: ['5.1.9.4', 'net/software-offload net/segment', offloads],
  HOST_USO: ['5.1.9.2', 'net/offload-request net/segment', offloads],
  HASH_REPORT: ['5.1.9.4.5', 'net/frame-hash backends/receive-steering', `net/frame-hash ${steering}`],
  GUEST_HDRLEN: ['5.1.9.4', 'net/offload-request', 'backends/offloads backends/ring-port'],
  RSS: ['5.1.9.5.7', 'backends/receive-steering virtio/net-control/steering-state', `virtio-net/rss ${steering} integration/pairs`],
  RSC_EXT: ['5.1.9.4', 'net/receive-coalescing', 'net/receive-coalescing backends/offloads integration/pairs'],
  STANDBY: ['5.1.3', 'devices/virtio-net/device', 'virtio-net/announce integration/pairs'],
  SPEED_DUPLEX: ['5.1.4', 'devices/virtio-net/config', 'virtio-net/options'],
  RSS_CONTEXT: ['5.1.9.5.8', 'virtio/net-control/steering-state', 'virtio-net/rss integration/steering'],
  GUEST_UDP_TUNNEL_GSO: ['5.1.9.4', 'net/software-offload net/segment', tunnels],
  GUEST_UDP_TUNNEL_GSO_CSUM: ['5.1.9.4', 'net/software-offload', tunnels],
  HOST_UDP_TUNNEL_GSO: ['5.1.9.2', 'net/offload-request net/segment', tunnels],
  HOST_UDP_TUNNEL_GSO_CSUM: ['5.1.9.2', 'net/offload-request', tunnels],
  OUT_NET_HEADER: ['5.1.9.2', 'virtio/net-features', 'backends/offloads virtio-net/options'],
};

const device = (options: Partial<VirtioNetOptions> = {}): VirtioNet => new VirtioNet({ mac: '52:54:00:12:34:56', backend: new RecordingBackend(), ...options });
const WHEN = [
  ['by default', device()],
  ['`queuePairs` above 1', device({ queuePairs: 2 })],
  ['`mtu`', device({ mtu: 1500 })],
  ['`link`', device({ link: { speed: 10_000, duplex: 'full' } })],
] as const;

function when(name: string, bit: number): string {
  return TRANSPORT[name]?.[1] ?? WHEN.find(([, { offered }]) => offered.has(bit))?.[0] ?? '`features`';
}

function guest(bit: number): string {
  if (bit === VIRTIO_F_SR_IOV) return '`sriov`';
  if (bit === VIRTIO_F_ANY_LAYOUT) return '`legacy`';
  return DRIVER_FEATURES.includes(bit) ? 'takes it' : OPTIONAL_FEATURES.includes(bit) ? 'when told' : 'no';
}

const BITS: readonly (readonly [string, number])[] = [
  ...Object.entries(NET_FEATURES),
  ...Object.entries(TRANSPORT).map(([name, [bit]]) => [name, bit] as const),
].sort(([, a], [, b]) => a - b);

const list = (names: string, suffix: string): string =>
  names
    .split(' ')
    .map((name) => `${name}${suffix}`)
    .join(', ');

function table(): string {
  const lines = ['| bit | VIRTIO_ | section | offered | src/ | test/ | guest-sim |', '|---|---|---|---|---|---|---|'];
  for (const [name, bit] of BITS) {
    const [section, code, tests] = ROWS[name] as Row;
    const prefix = name in TRANSPORT || (bit >= 24 && bit < 50) ? 'F_' : 'NET_F_';
    lines.push(`| ${bit} | ${prefix}${name} | ${section} | ${when(name, bit)} | ${list(code, '.ts')} | ${list(tests, '.test.ts')} | ${guest(bit)} |`);
  }
  return `${lines.join('\n')}\n`;
}

it('has a row for each bit that can be offered, and for no other', () => {
  const all = device({
    queuePairs: 2,
    mtu: 1500,
    link: { speed: 1, duplex: 'full' },
    features: Object.fromEntries(Object.keys(NET_FEATURES).map((name) => [name, true])),
  });
  const bits = new Set([...all.offered.bits(), ...Object.values(TRANSPORT).map(([bit]) => bit)]);
  expect(BITS.map(([, bit]) => bit)).toEqual([...bits].sort((a, b) => a - b));
  expect(Object.keys(ROWS).sort()).toEqual(BITS.map(([name]) => name).sort());
});

it('names files that exist', () => {
  for (const [, code, tests] of Object.values(ROWS)) {
    for (const name of code.split(' ')) expect(existsSync(new URL(`src/${name}.ts`, ROOT)), name).toBe(true);
    for (const name of tests.split(' ')) expect(existsSync(new URL(`test/${name}.test.ts`, ROOT)), name).toBe(true);
  }
});

it('is what docs/virtio-net.md says', () => {
  expect(writtenPart(FILE, BEGIN, END, table())).toBe(table());
});
