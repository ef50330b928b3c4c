// What an embedder may ask of a network device, and the configuration space that follows (virtio 1.4 5.1.3, 5.1.4).
import { describe, expect, it } from 'vitest';
import { VirtioNet, type VirtioNetOptions } from '#devices/virtio-net/device';
import { FeatureSet } from '#virtio/features';
import { NET_DATA_PLANE_FEATURES, NET_FEATURE_DEPENDENCIES, netHeaderBytes } from '#virtio/net-features';
import { CONFIG, RecordingBackend, VirtioBench } from '../virtio-pci/bench.ts';

const make = (options: Partial<VirtioNetOptions> = {}): VirtioNet => new VirtioNet({ mac: '52:54:00:12:34:56', backend: new RecordingBackend(), ...options });

describe('offered features', () => {
  it('by default: all that the backend carries and that needs no option', () => {
    expect(make().offered.bits()).toEqual([
      0, 1, 2, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 23, 28, 29, 32, 34, 35, 40, 43, 50, 52, 53, 54, 55, 56, 59, 61,
    ]);
  });

  it('with pairs, mtu and link: MQ, MTU and SPEED_DUPLEX as well', () => {
    const all = make({ queuePairs: 2, mtu: 1500, link: { speed: 10000, duplex: 'full' } }).offered;
    for (const bit of [3, 22, 63]) expect(all.has(bit)).toBe(true);
  });

  it('with pairs RSS and what goes with it; hash reports for who asks', () => {
    const bits = (options: Partial<VirtioNetOptions>): number[] =>
      make(options)
        .offered.bits()
        .filter((bit) => [51, 57, 60, 64].includes(bit));
    expect(bits({})).toEqual([]);
    expect(bits({ queuePairs: 2 })).toEqual([51, 60, 64]);
    expect(bits({ features: { HASH_REPORT: true } })).toEqual([51, 57]);
    expect(bits({ features: { RSS: true } })).toEqual([51, 60, 64]);
    expect(bits({ queuePairs: 2, rss: { contexts: 0 }, features: { HASH_REPORT: true, HASH_TUNNEL: false } })).toEqual([57, 60]);
    // RSS alone brings pairs too.
    expect(make({ queuePairs: 4, features: { MQ: false } }).queueCount).toBe(9);
    expect(bits({ queuePairs: 2, backend: new RecordingBackend('x', FeatureSet.of(60)) })).toEqual([60]);
  });

  it('never a bit without what it needs, whatever is turned off', () => {
    for (const off of ['CSUM', 'GUEST_CSUM', 'CTRL_VQ', 'HOST_TSO4', 'GUEST_TSO6'] as const) {
      const { offered } = make({ features: { [off]: false } });
      for (const { bit, needs } of NET_FEATURE_DEPENDENCIES)
        expect(!offered.has(bit) || needs.some((n) => offered.has(n)), `${off} off, bit ${bit}`).toBe(true);
    }
    const bare = make({ features: { CTRL_VQ: false } });
    expect(bare.queueCount).toBe(2);
    expect(bare.offered.has(2)).toBe(false);
  });

  it('tunnels only when asked for, each direction by itself and with its checksum', () => {
    const all = make({ features: { GUEST_UDP_TUNNEL_GSO: true, HOST_UDP_TUNNEL_GSO: true } }).offered;
    expect([65, 66, 67, 68].map((bit) => all.has(bit))).toEqual([true, true, true, true]);
    const one = make({ features: { HOST_UDP_TUNNEL_GSO: true, HOST_UDP_TUNNEL_GSO_CSUM: false } }).offered;
    expect([65, 66, 67, 68].map((bit) => one.has(bit))).toEqual([false, false, true, false]);
    expect(netHeaderBytes(one)).toBe(24);
  });

  it('OUT_NET_HEADER only when asked for, with the longest header', () => {
    const { offered } = make({ features: { OUT_NET_HEADER: true } });
    expect([make().offered.has(69), offered.has(69), netHeaderBytes(offered)]).toEqual([false, true, 32]);
  });

  it('keeps ECN while one TSO is left', () => {
    expect(make({ features: { HOST_TSO4: false } }).offered.has(13)).toBe(true);
    expect(make({ features: { HOST_TSO4: false, HOST_TSO6: false } }).offered.has(13)).toBe(false);
  });

  it('offers no data-plane bit that the backend lacks', () => {
    const { offered } = make({ backend: new RecordingBackend('small', FeatureSet.of(15, 28)) });
    expect(offered.and(NET_DATA_PLANE_FEATURES).bits()).toEqual([15, 28]);
  });

  it.each<[string, Partial<VirtioNetOptions>, string]>([
    ['a feature whose need is off', { features: { GUEST_TSO4: true, GUEST_CSUM: false } }, 'NICBOX_FEATURE_DEPENDENCY'],
    ['a feature whose need falls with another', { features: { HOST_ECN: true, CSUM: false } }, 'NICBOX_FEATURE_DEPENDENCY'],
    ['MQ with one pair', { features: { MQ: true } }, 'NICBOX_FEATURE_DEPENDENCY'],
    ['MTU without an mtu', { features: { MTU: true } }, 'NICBOX_FEATURE_DEPENDENCY'],
    ['pairs without the control queue', { queuePairs: 2, features: { CTRL_VQ: false } }, 'NICBOX_FEATURE_DEPENDENCY'],
    ['what the backend lacks', { backend: new RecordingBackend('x', FeatureSet.of()), features: { RING_PACKED: true } }, 'NICBOX_FEATURE_UNSUPPORTED'],
    ['a table of 64 entries', { rss: { tableLength: 64 } }, 'NICBOX_RSS'],
    ['a table that is no power of two', { rss: { tableLength: 384 } }, 'NICBOX_RSS'],
    ['a table longer than its field says', { rss: { tableLength: 65536 } }, 'NICBOX_RSS'],
    ['a key of 39 bytes', { rss: { keySize: 39 } }, 'NICBOX_RSS'],
    ['a key longer than its field says', { rss: { keySize: 256 } }, 'NICBOX_RSS'],
    ['RSS contexts without number', { rss: { contexts: Number.POSITIVE_INFINITY } }, 'NICBOX_RSS'],
    ['RSS_CONTEXT without contexts', { queuePairs: 2, rss: { contexts: 0 }, features: { RSS_CONTEXT: true } }, 'NICBOX_FEATURE_DEPENDENCY'],
    ['HASH_TUNNEL with nothing to hash for', { features: { HASH_TUNNEL: true } }, 'NICBOX_FEATURE_DEPENDENCY'],
    ['a name nobody knows', { features: { IPSEC: true } as never }, 'NICBOX_FEATURE_UNKNOWN'],
    ['a group address', { mac: '01:00:5e:00:00:01' }, 'NICBOX_MAC'],
    ['no address', { mac: 'nonsense' }, 'NICBOX_MAC'],
    ['five bytes', { mac: new Uint8Array(5) }, 'NICBOX_MAC'],
    ['mtu 67', { mtu: 67 }, 'NICBOX_MTU'],
    ['mtu 65536', { mtu: 65536 }, 'NICBOX_MTU'],
    ['65 pairs', { queuePairs: 65 }, 'NICBOX_QUEUE_PAIRS'],
    ['no pairs', { queuePairs: 0 }, 'NICBOX_QUEUE_PAIRS'],
    ['queue size 100', { queueSize: 100 }, 'NICBOX_QUEUE_SIZE'],
    ['queue size 65536', { queueSize: 65536 }, 'NICBOX_QUEUE_SIZE'],
    ['a negative speed', { link: { speed: -1, duplex: 'full' } }, 'NICBOX_SPEED'],
  ])('%s is refused with a code', (_, options, code) => {
    expect(() => make(options)).toThrow(expect.objectContaining({ code }));
  });

  it('ACCESS_PLATFORM is offered on request, and then insisted on', () => {
    const bench = new VirtioBench({ net: { features: { ACCESS_PLATFORM: true } } });
    expect(bench.offered().has(33)).toBe(true);
    expect(bench.negotiate(FeatureSet.of(32)) & 8).toBe(0);
    expect(bench.negotiate(FeatureSet.of(32, 33)) & 8).toBe(8);
  });
});

describe('configuration space', () => {
  const fields = { queuePairs: 64, mtu: 9000, link: { speed: 25000, duplex: 'full' } } as const;

  it('shows fields of offered features before FEATURES_OK, byte by byte or wide', () => {
    const bench = new VirtioBench({ net: fields });
    expect([0, 1, 2, 3, 4, 5].map((i) => bench.read(CONFIG + i, 1))).toEqual([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    expect([bench.read(CONFIG + 6, 2), bench.read(CONFIG + 8, 2), bench.read(CONFIG + 10, 2)]).toEqual([1, 64, 9000]);
    expect([bench.read(CONFIG + 12, 4), bench.read(CONFIG + 16, 1)]).toEqual([25000, 1]);
    expect(bench.read(CONFIG + 8, 4)).toBe(9000 * 65536 + 64);
  });

  it('shows 0 for features that are not offered', () => {
    const bench = new VirtioBench({ net: { features: { STATUS: false, MAC: false } } });
    for (let i = 0; i < 20; i += 4) expect(bench.read(CONFIG + i, 4)).toBe(0);
    expect(bench.read(CONFIG + 20, 4)).toBe(0);
  });

  it.each([
    ['unknown', 'unknown', 0xffffffff, 0xff],
    [100, 'half', 100, 0],
  ] as const)('speed %s, duplex %s', (speed, duplex, speedField, duplexField) => {
    const bench = new VirtioBench({ net: { link: { speed, duplex } } });
    expect([bench.read(CONFIG + 12, 4), bench.read(CONFIG + 16, 1)]).toEqual([speedField, duplexField]);
  });

  it('is read-only', () => {
    const bench = new VirtioBench({ net: fields });
    bench.bringUp(bench.offered());
    for (let i = 0; i < 20; i++) bench.write(CONFIG + i, 1, 0xff);
    expect(bench.read(CONFIG, 1)).toBe(0x52);
    expect(bench.read(CONFIG + 8, 2)).toBe(64);
    expect(bench.log.counts['guest-error']).toBeGreaterThanOrEqual(20);
  });

  it('limits frames to the MTU only when it was negotiated', () => {
    const bench = new VirtioBench({ net: fields });
    bench.bringUp(FeatureSet.of(32, 3));
    expect(bench.net.policy.maximumFrame).toBe(9018);
    bench.bringUp(FeatureSet.of(32));
    expect(bench.net.policy.maximumFrame).toBe(0);
  });
});
