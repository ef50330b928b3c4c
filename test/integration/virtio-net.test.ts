// Two guests that know only the specifications, two machines, one link: every byte the one sends is checked by the other, over ring formats, features
// and places in the tree.

import { afterAll, describe, expect, it } from 'vitest';
import { GuestMemory } from '#core/guest-memory';
import type { GuestOptions } from '#guest-sim/guest';
import { VIRTIO_F, VIRTIO_NET_F } from '#guest-sim/virtio-constants';
import { downstreamPort, pciBridge, rootPort, upstreamPort } from '#pci/bridges';
import { closeWires, realCapture, runBoth, type Setup, WIRES, withTwoGuests } from './two-guests.ts';

const { INDIRECT_DESC, EVENT_IDX, IN_ORDER, NOTIFICATION_DATA } = VIRTIO_F;
const { MRG_RXBUF, CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, GUEST_USO4, GUEST_USO6, GUEST_ECN, CTRL_VQ } = VIRTIO_NET_F;

afterAll(closeWires);

const RING_FEATURES: readonly (readonly [string, readonly number[]])[] = [
  ['all offered ring features', []],
  ['no event index', [EVENT_IDX]],
  ['no indirect descriptors', [INDIRECT_DESC]],
  ['neither', [EVENT_IDX, INDIRECT_DESC]],
  ['no in-order use', [IN_ORDER]],
];
const GUEST_GSO = [GUEST_TSO4, GUEST_TSO6, GUEST_USO4, GUEST_USO6, GUEST_ECN];

const MATRIX = WIRES.flatMap((wire) => (['split', 'packed'] as const).map((ring) => ({ wire, ring })));

describe.each(MATRIX)('$wire, $ring rings', ({ wire, ring }) => {
  describe.each(RING_FEATURES)('%s', (_name, without) => {
    it.each([
      ['mergeable receive buffers', []],
      ['big receive buffers', [MRG_RXBUF]],
      ['no receive segmentation offload', GUEST_GSO],
      ['plain receive buffers, no receive offloads', [MRG_RXBUF, GUEST_CSUM]],
      ['no transmit offloads', [CSUM]],
    ] as const)('replays the real capture byte for byte with %s', async (_what, less) => {
      const net = { ring, without: [...without, ...less], promiscuous: true };
      await withTwoGuests(wire, { guest: { net } }, async (a, b) => {
        expect(a.net.packed).toBe(ring === 'packed');
        const frames = realCapture();
        const { a: sent, b: got } = await runBoth(a, b, { kind: 'replay', frames, repeat: 3 }, { kind: 'compare', frames, repeat: 3 });
        expect([...sent.errors, ...got.errors]).toEqual([]);
        expect(got.details.expected).toBe(3 * frames.count);
        expect(got.malformed).toBe(0);
      });
    });
  });

  it.each([
    ['a header descriptor of its own', { guest: { net: { ring, separateHeader: true } } }],
    ['a header descriptor of its own and no indirect tables', { guest: { net: { ring, separateHeader: true, without: [INDIRECT_DESC] } } }],
    ['one vector for all queues', { guest: { net: { ring, interrupts: 'shared' } } }],
    ['no vectors to spare', { guest: { net: { ring } }, place: { vectors: 2 } }],
    ['the legacy interrupt line', { guest: { net: { ring, interrupts: 'intx' } } }],
    ['notification data', { guest: { net: { ring, require: [NOTIFICATION_DATA] } }, place: { notificationData: true } }],
    ['notification configuration data', { guest: { net: { ring } }, place: { notifConfigData: true } }],
    ['all queues notified at one address', { guest: { net: { ring } }, place: { notifyMultiplier: 0 } }],
    ['tiny rings', { guest: { net: { ring, queueSize: 4 } } }],
    ['no control queue', { guest: { net: { ring, without: [CTRL_VQ] } } }],
    ['small mergeable buffers', { guest: { net: { ring, receiveBuffer: 128 } } }],
    ['configuration through ports', { guest: { net: { ring }, config: 'ports' } }],
  ] as [string, Setup][])('carries every size both ways with %s', async (_name, setup) => {
    await withTwoGuests(wire, setup, async (a, b) => {
      const sizes = [60, 61, 63, 64, 127, 128, 129, 590, 1499, 1513, 1514];
      const count = 3000;
      for (const [from, to] of [
        [a, b],
        [b, a],
      ] as const) {
        const reports = await runBoth(from, to, { kind: 'generate', count, sizes, checksumOffload: true }, { kind: 'sink', count });
        expect([...reports.a.errors, ...reports.b.errors]).toEqual([]);
        expect(reports.b.details).toMatchObject({ lost: 0, unmarked: 0 });
      }
    });
  });

  it('rounds trip through an echo', async () => {
    await withTwoGuests(wire, { guest: { net: { ring } } }, async (a, b) => {
      const { a: ping, b: echo } = await runBoth(a, b, { kind: 'ping', count: 500, size: 333 }, { kind: 'echo', count: 500 });
      expect([...ping.errors, ...echo.errors]).toEqual([]);
      expect(ping.framesReceived).toBe(500);
      expect(ping.details.p99).toBeGreaterThanOrEqual(ping.details.p50 as number);
    });
  });

  it('hands 64 KiB frames over whole, or cut into segments for a guest that wants no others', async () => {
    for (const [less, frames] of [
      [[], 200],
      [GUEST_GSO, 200 * 45],
    ] as const) {
      const plain: GuestOptions = { net: { ring } };
      await withTwoGuests(wire, { a: { guest: plain }, b: { guest: { net: { ring, without: less } } } }, async (a, b) => {
        const reports = await runBoth(a, b, { kind: 'generate', count: 200, sizes: [65_549] }, { kind: 'sink', count: frames });
        expect([...reports.a.errors, ...reports.b.errors]).toEqual([]);
        expect(reports.b.details.lost).toBe(0);
        // 65495 payload bytes: whole, or 45 segments of at most 1460 with 54 bytes of headers each.
        expect(reports.b.bytesReceived).toBe(200 * 65_549 + (frames - 200) * 54);
      });
    }
  });

  it('uses four queue pairs', async () => {
    await withTwoGuests(wire, { guest: { net: { ring, pairs: 4 } }, device: { queuePairs: 4 } }, async (a, b) => {
      expect([a.net.pairs, b.net.pairs]).toEqual([4, 4]);
      const { a: sent, b: got } = await runBoth(a, b, { kind: 'generate', count: 4000, sizes: [200] }, { kind: 'sink', count: 4000 });
      expect([...sent.errors, ...got.errors]).toEqual([]);
      expect(got.details.lost).toBe(0);
      // How the turns fall depends on timing; that each queue had some does not.
      expect(a.net.transmit.every((q) => q.frames >= 64)).toBe(true);
    });
  });

  it('uses sixty-four queue pairs, the most there are', async () => {
    await withTwoGuests(wire, { guest: { net: { ring, pairs: 64, queueSize: 64 } }, device: { queuePairs: 64 } }, async (a, b) => {
      expect([a.net.pairs, b.net.pairs]).toEqual([64, 64]);
      const count = 64 * 64;
      const { a: sent, b: got } = await runBoth(a, b, { kind: 'generate', count, sizes: [200] }, { kind: 'sink', count });
      expect([...sent.errors, ...got.errors]).toEqual([]);
      expect(got.details.lost).toBe(0);
      expect(a.net.transmit.filter((q) => q.frames > 0)).toHaveLength(64);
    });
  });

  it('works out of RAM just below 8 GiB: every ring and buffer address needs 33 bits', async () => {
    const size = 96 * 2 ** 20;
    const memory = (): GuestMemory => new GuestMemory([{ base: 2 ** 33 - size, size }]);
    await withTwoGuests(wire, { guest: { net: { ring, promiscuous: true } }, memory }, async (a, b) => {
      expect(a.arena.base).toBeGreaterThan(2 ** 32);
      const frames = realCapture();
      const { a: sent, b: got } = await runBoth(a, b, { kind: 'replay', frames }, { kind: 'compare', frames });
      expect([...sent.errors, ...got.errors]).toEqual([]);
      expect(got.framesReceived).toBe(frames.count);
    });
  });

  it('takes a queue reset between bursts, and a device reset', async () => {
    await withTwoGuests(wire, { guest: { net: { ring } } }, async (a, b) => {
      const burst = async (): Promise<void> => {
        const { a: sent, b: got } = await runBoth(a, b, { kind: 'generate', count: 700, sizes: [99] }, { kind: 'sink', count: 700 });
        expect([...sent.errors, ...got.errors]).toEqual([]);
      };
      await burst();
      const memory = a.arena.bytesInUse;
      for (let i = 0; i < 3; i++) {
        a.net.resetPair(0);
        b.net.resetPair(0);
        await burst();
      }
      for (let i = 0; i < 3; i++) {
        a.net.recover();
        b.net.recover();
        await burst();
      }
      expect(a.arena.bytesInUse).toBe(memory);
    });
  });

  it('obeys the control queue', async () => {
    await withTwoGuests(wire, { guest: { net: { ring } } }, async (a, b) => {
      const arrives = async (destination: number[]): Promise<boolean> => {
        // A frame to somebody else, then one to everybody: only the second is sure to come, and it comes last.
        const before = b.net.receive[0]?.frames ?? 0;
        const sink = b.start({ kind: 'sink' });
        const sender = a.start({ kind: 'generate', count: 1, destination });
        for (let i = 0; i < 100 && !sender.done; i++) {
          a.step();
          b.step();
          await new Promise((resolve) => setTimeout(resolve, 0));
        }
        for (let i = 0; i < 10; i++) b.step();
        expect(sink.result().errors).toEqual([]);
        return (b.net.receive[0]?.frames ?? 0) > before;
      };
      const control = b.net.control;
      expect(control).toBeDefined();
      const other = [0x52, 0x54, 0, 1, 2, 3];
      const group = [0x01, 0, 0x5e, 1, 2, 3];
      expect(await arrives(other)).toBe(false);
      expect(control?.setReceiveMode('promiscuous', true)).toBe(true);
      expect(await arrives(other)).toBe(true);
      expect(control?.setReceiveMode('promiscuous', false)).toBe(true);
      expect(await arrives(other)).toBe(false);
      expect(control?.setMacTable([Uint8Array.from(other)], [Uint8Array.from(group)])).toBe(true);
      expect(await arrives(other)).toBe(true);
      expect(await arrives(group)).toBe(true);
      expect(control?.setMacTable([], [])).toBe(true);
      expect(await arrives(other)).toBe(false);
      expect(control?.setReceiveMode('all-multicast', true)).toBe(true);
      expect(await arrives(group)).toBe(true);
      expect(control?.setReceiveMode('all-multicast', false)).toBe(true);
      expect(await arrives(group)).toBe(false);
      expect(control?.setMacAddress(Uint8Array.from(other))).toBe(true);
      expect(await arrives(other)).toBe(true);
      expect(control?.setReceiveMode('no-broadcast', true)).toBe(true);
      expect(await arrives([255, 255, 255, 255, 255, 255])).toBe(false);
    });
  });
});

describe.each(WIRES)('places in the tree, %s', (wire) => {
  it.each([
    [
      'a root port',
      (m) => {
        const port = rootPort();
        m.attach(port);
        return port;
      },
    ],
    [
      'a switch',
      (m) => {
        const port = rootPort();
        const up = upstreamPort();
        const down = downstreamPort();
        m.attach(port);
        m.attach(up, { under: port });
        m.attach(down, { under: up });
        return down;
      },
    ],
    [
      'a PCIe-to-PCI bridge',
      (m) => {
        const port = rootPort();
        const bridge = pciBridge();
        m.attach(port);
        m.attach(bridge, { under: port });
        return bridge;
      },
    ],
  ] as [string, NonNullable<Setup['under']>][])('work behind %s, with MSI-X and with the line', async (_name, under) => {
    for (const interrupts of ['per-queue', 'intx'] as const) {
      await withTwoGuests(wire, { under, guest: { net: { interrupts } } }, async (a, b) => {
        expect(a.tree.unplaced).toBe(0);
        const { a: sent, b: got } = await runBoth(a, b, { kind: 'generate', count: 2000, sizes: [60, 1000] }, { kind: 'sink', count: 2000 });
        expect([...sent.errors, ...got.errors]).toEqual([]);
        expect(got.interrupts).toBeGreaterThan(0);
      });
    }
  });
});
