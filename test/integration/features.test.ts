// The driver's newer features against the device: suspension under traffic, queue resets of either side alone, administration commands and flow filters.

import { afterAll, describe, expect, it } from 'vitest';
import { FF_SELECTOR, FlowFilter, flowMatch } from '#guest-sim/flow-filter';
import { composeFrame, type FrameSpec } from '#guest-sim/frames';
import type { Guest } from '#guest-sim/guest';
import { VIRTIO_F, VIRTIO_NET_F } from '#guest-sim/virtio-constants';
import { closeWires, runBoth, WIRES, withTwoGuests } from './two-guests.ts';

const F = VIRTIO_NET_F;
const MATRIX = WIRES.flatMap((wire) => (['split', 'packed'] as const).map((ring) => ({ wire, ring })));

afterAll(closeWires);

/** Steps both guests until `done`, a bounded number of times. */
async function settle(a: Guest, b: Guest, what: string, done: () => boolean): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!done()) {
    a.step();
    b.step();
    if (performance.now() > deadline) throw new Error(`waited for ${what}: ${a.nic.broken} ${b.nic.broken}`);
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
}

describe.each(MATRIX)('$wire, $ring rings', ({ wire, ring }) => {
  const steps = async (guests: readonly Guest[], count: number): Promise<void> => {
    for (let i = 0; i < count; i++) {
      for (const guest of guests) guest.step();
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
  };

  it('loses nothing over suspensions of the sender under way, whose rings are not touched meanwhile', async () => {
    await withTwoGuests(wire, { guest: { net: { ring, require: [VIRTIO_F.SUSPEND] } } }, async (a, b) => {
      const sink = b.start({ kind: 'sink', count: 4000 });
      const work = a.start({ kind: 'generate', count: 4000, sizes: [60, 700, 1514] });
      for (let round = 0; round < 6; round++) {
        await steps([a, b], 2);
        a.net.suspend();
        const held = a.net.transmitOutstanding;
        const sent = work.framesSent;
        await steps([a, b], 5);
        const before = b.net.receive[0]?.frames;
        await steps([a, b], 5);
        expect([b.net.receive[0]?.frames, work.framesSent]).toEqual([before, sent]);
        expect(a.net.transmitOutstanding).toBeLessThanOrEqual(held);
        a.net.resume();
      }
      await settle(a, b, 'all frames', () => work.done && sink.done);
      expect([...sink.result().errors, a.nic.broken, b.nic.broken]).toEqual(['', '']);
      expect(sink.result().details).toMatchObject({ lost: 0, unmarked: 0 });
    });
  });

  it('takes no frame while the receiver is suspended, and takes them in order again after it', async () => {
    await withTwoGuests(wire, { guest: { net: { ring } } }, async (a, b) => {
      const sink = b.start({ kind: 'sink' });
      const work = a.start({ kind: 'generate', count: 4000 });
      for (let round = 0; round < 3; round++) {
        await steps([a, b], 2);
        b.net.suspend();
        // Those it had been given before are its own.
        await steps([b], 5);
        const before = sink.framesReceived;
        await steps([a, b], 5);
        expect(sink.framesReceived).toBe(before);
        b.net.resume();
      }
      await settle(a, b, 'the last frame', () => work.done);
      await steps([a, b], 20);
      const { errors, details } = sink.result();
      expect([...errors, a.nic.broken, b.nic.broken, details.unmarked]).toEqual(['', '', 0]);
      // Who is to keep what is sent to a suspended device is not for the specification to say; what came after it is all there.
      expect(sink.framesReceived + (details.lost as number)).toBe(4000);
    });
  });

  it('takes resets of a receive or transmit queue alone, with other sizes, and still carries everything after each', async () => {
    await withTwoGuests(wire, { guest: { net: { ring } } }, async (a, b) => {
      for (const size of [16, 64, 256]) {
        a.net.resetTransmit(0, size);
        b.net.resetReceive(0, size);
        expect([a.net.transmit[0]?.ring.size, b.net.receive[0]?.ring.size]).toEqual([size, size]);
        const { a: sent, b: got } = await runBoth(a, b, { kind: 'generate', count: 500 }, { kind: 'sink', count: 500 });
        expect([...sent.errors, ...got.errors, got.details.lost]).toEqual([0]);
      }
    });
  });

  const withAdmin = { queuePairs: 4, features: { ADMIN_VQ: true } } as const;
  const offer = async (use: (a: Guest, b: Guest) => Promise<void>): Promise<void> => {
    const net = { ring, pairs: 4, promiscuous: true, require: [VIRTIO_F.ADMIN_VQ, F.RSS] };
    await withTwoGuests(wire, { a: { guest: { net: { ring } } }, b: { guest: { net }, device: withAdmin } }, use);
  };
  /** Sends one frame and says on which queue it came; -1: on none, although one that follows it did. */
  const arrives = async (a: Guest, b: Guest, spec: FrameSpec): Promise<number> => {
    const before = b.net.receive.map((q) => q.frames);
    const send = ({ bytes }: { bytes: Uint8Array }): void => {
      const queue = a.net.transmit[0] as NonNullable<(typeof a.net.transmit)[0]>;
      a.arena.u8.set(bytes, queue.reserve());
      queue.send(bytes.length);
      queue.flush();
    };
    send(composeFrame(spec));
    const marker = b.net.receive.map((q) => q.bytes);
    send({ bytes: Uint8Array.from({ length: 61 }, (_, i) => (i < 6 ? 255 : i === 12 ? 0x88 : i === 13 ? 0xb5 : i < 12 ? 2 : 0)) });
    const total = (): number => b.net.receive.reduce((n, q, i) => n + q.bytes - (marker[i] as number), 0);
    const length = composeFrame(spec).bytes.length;
    await settle(a, b, 'the frame behind', () => total() === 61 || total() === 61 + length);
    const first = b.net.receive.map((q, i) => q.bytes - (marker[i] as number)).findIndex((n) => n === length || n === length + 61);
    expect(b.net.receive.reduce((n, q, i) => n + q.frames - (before[i] as number), 0)).toBe(first < 0 ? 1 : 2);
    return first;
  };

  it('speaks the administration commands', async () => {
    await offer(async (_a, b) => {
      const admin = b.net.admin as NonNullable<typeof b.net.admin>;
      const used = admin.useAll();
      expect([...(used ?? [])].sort((x, y) => x - y)).toEqual([0, 1, 7, 8, 9, 10, 11, 12, 13]);
      expect(admin.commands(1)).toBeUndefined();
      expect([0x800, 0x801, 0x802].every((id) => admin.capabilities().has(id))).toBe(true);
      expect(admin.deviceCapability(0x7ff, 8)).toBeUndefined();
      expect(admin.queryObject(0x200, 0, 8).status).not.toBe(0);
    });
  });

  it('steers and drops by flow filters, before RSS, by group and rule priority, and stops when they go', async () => {
    await offer(async (a, b) => {
      const filter = FlowFilter.open(b.net.admin as NonNullable<typeof b.net.admin>) as FlowFilter;
      expect(filter).toBeDefined();
      for (const type of Object.values(FF_SELECTOR)) expect(filter.selectors.has(type)).toBe(true);
      const udp = (toPort: number, version: 4 | 6 = 4): FrameSpec => ({ version, protocol: 'udp', payload: 40, toPort });
      const rss = async (spec: FrameSpec): Promise<number> => {
        const { bytes } = composeFrame(spec);
        const hash = b.net.steering.flowHash as NonNullable<typeof b.net.steering.flowHash>;
        hash.compute(bytes, 0, bytes.length);
        return b.net.steering.receiveQueue(hash.value, hash.report);
      };
      const plain = await rss(udp(53));
      expect(await arrives(a, b, udp(53))).toBe(plain);
      const other = (plain + 1) % 4;
      const match = flowMatch({ version: 4, protocol: 'udp', toPort: 53 });
      const low = filter.addGroup(1);
      const classifier = filter.addClassifier(match);
      const direct = filter.addRule({ group: low, classifier, priority: 1, selectors: match, action: other });
      expect([low, classifier, direct, filter.refusal]).toEqual([0, 0, 0, undefined]);
      expect(await arrives(a, b, udp(53))).toBe(other);
      expect(await arrives(a, b, udp(54))).toBe(await rss(udp(54)));
      expect(await arrives(a, b, udp(53, 6))).toBe(await rss(udp(53, 6)));
      // A higher rule of the group wins, and a higher group over both.
      const third = (plain + 2) % 4;
      const winner = filter.addRule({ group: low, classifier, priority: 2, selectors: match, action: third });
      expect(await arrives(a, b, udp(53))).toBe(third);
      const high = filter.addGroup(9);
      const dropped = filter.addRule({ group: high, classifier, priority: 1, selectors: match, action: 'drop' });
      expect(await arrives(a, b, udp(53))).toBe(-1);
      expect([filter.removeRule(dropped), filter.removeRule(winner), filter.removeRule(direct)]).toEqual([true, true, true]);
      expect(await arrives(a, b, udp(53))).toBe(plain);
      expect([filter.removeGroup(high), filter.removeGroup(low), filter.removeClassifier(classifier)]).toEqual([true, true, true]);
      b.net.recover();
      expect(await arrives(a, b, udp(53))).toBe(plain);
    });
  });
});
