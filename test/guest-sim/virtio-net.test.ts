import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DRIVER_FEATURES, featureMask } from '#guest-sim/features';
import { Guest } from '#guest-sim/guest';
import type { VirtioNetOptions } from '#guest-sim/net-options';
import { VIRTIO_F, VIRTIO_NET_F } from '#guest-sim/virtio-constants';
import { ModelError } from './ring-model.ts';
import { type ModelOptions, VirtioModel } from './virtio-model.ts';

const F = VIRTIO_NET_F;
const ALL = featureMask(DRIVER_FEATURES) | (1n << 37n) | (1n << 57n) | (1n << 44n);
const without = (...bits: number[]): bigint => ALL & ~featureMask(bits);

function bringUp(model: Partial<ModelOptions> = {}, net: VirtioNetOptions = {}): { device: VirtioModel; guest: Guest } {
  const device = new VirtioModel({ features: ALL, ...model });
  return { device, guest: new Guest(device, { net }) };
}

function settle(guest: Guest, steps = 50): void {
  for (let i = 0; i < steps; i++) guest.step();
}

describe('bringing a device up', () => {
  it('goes through the steps of 3.1.1 in their order', () => {
    const { device } = bringUp();
    const at = (entry: string | RegExp, from = 0): number =>
      device.log.findIndex((l, i) => i >= from && (typeof entry === 'string' ? l === entry : entry.test(l)));
    const order = [
      at('w status = 0'),
      at('w status = 1'),
      at('w status = 3'),
      at(/w features/),
      at('w status = 11'),
      at(/w size/),
      at('w enable = 1'),
      at('w status = 15'),
      at(/^kick/),
    ];
    expect(order).toEqual([...order].sort((a, b) => a - b));
    expect(order[0]).toBe(0);
    // Nothing else was ever written to the status; features not after FEATURES_OK; queues not after DRIVER_OK, enabled once each and never disabled.
    expect(device.log.filter((l) => l.startsWith('w status'))).toEqual(['w status = 0', 'w status = 1', 'w status = 3', 'w status = 11', 'w status = 15']);
    expect(at(/w (features|accepted)/, order[4])).toBe(-1);
    expect(at(/w (size|address|enable|vector)/, order[7])).toBe(-1);
    expect(device.log.filter((l) => l.startsWith('w enable'))).toEqual(['w enable = 1', 'w enable = 1', 'w enable = 1']);
  });

  it('accepts what it knows of what is offered, and nothing else', () => {
    const { device, guest } = bringUp();
    const accepted = BigInt(device.features[0] as number) | (BigInt(device.features[1] as number) << 32n);
    expect(accepted).toBe(featureMask(DRIVER_FEATURES));
    expect(guest.net.features).toBe(accepted);
    expect(guest.net.packed).toBe(true);
  });

  it.each([
    ['CSUM', [F.CSUM], [F.HOST_TSO4, F.HOST_TSO6, F.HOST_USO, F.HOST_UFO, F.HOST_ECN]],
    ['GUEST_CSUM', [F.GUEST_CSUM], [F.GUEST_TSO4, F.GUEST_TSO6, F.GUEST_USO4, F.GUEST_USO6, F.GUEST_UFO, F.GUEST_ECN]],
    [
      'CTRL_VQ',
      [F.CTRL_VQ],
      [
        ...[F.CTRL_RX, F.CTRL_VLAN, F.CTRL_RX_EXTRA, F.MQ, F.CTRL_MAC_ADDR, F.GUEST_ANNOUNCE, F.CTRL_GUEST_OFFLOADS],
        ...[F.NOTF_COAL, F.VQ_NOTF_COAL, F.DEVICE_STATS],
      ],
    ],
    ['TSO both', [F.HOST_TSO4, F.HOST_TSO6], [F.HOST_ECN]],
  ])('does without what needs %s when the device offers that without its base', (_name, missing, gone) => {
    const { guest } = bringUp({ features: without(...missing) });
    for (const bit of [...missing, ...gone]) expect(guest.net.has(bit)).toBe(false);
    expect(guest.net.features).toBe(featureMask(DRIVER_FEATURES) & ~featureMask([...missing, ...gone]));
  });

  it.each([
    ['the device lacks VERSION_1', { features: without(VIRTIO_F.VERSION_1) }, {}, /feature bits 32/],
    ['the device takes FEATURES_OK back', { refuseFeatures: true }, {}, /refused the feature set/],
    ['a packed ring is asked for and not offered', { features: without(VIRTIO_F.RING_PACKED) }, { ring: 'packed' as const }, /feature bits 34/],
    ['a queue has size 0', { queueSize: 0 }, {}, /queue 0 has size 0/],
    ['the device says it has no pairs', { pairs: 0 }, {}, /max_virtqueue_pairs reads 0/],
  ])('sets FAILED and stops when %s', (_name, model, net, message) => {
    const device = new VirtioModel({ features: ALL, ...model });
    expect(() => new Guest(device, { net })).toThrow(message);
    expect(device.log.at(-1)).toMatch(/^w status = 1(31|39|2[89]|3)/);
    expect(device.log.some((l) => l.startsWith('kick'))).toBe(false);
  });

  it('reads the configuration again until two generations agree', () => {
    const device = new VirtioModel({ features: ALL });
    let changes = 5;
    device.onConfigRead = () => {
      if (changes === 0) return;
      changes--;
      device.generation++;
      device.config.setUint8(5, changes);
    };
    const guest = new Guest(device);
    expect([...guest.net.configuration.mac]).toEqual([2, 0, 0, 0xaa, 0xbb, 0]);
    const restless = new VirtioModel({ features: ALL });
    restless.onConfigRead = () => void restless.generation++;
    expect(() => new Guest(restless)).toThrow('changed during each');
  });

  it('uses a local address and a link that is up where the device says nothing', () => {
    const { guest } = bringUp({ features: without(F.MAC, F.STATUS), link: 0 });
    expect(guest.net.configuration).toMatchObject({ linkUp: true });
    expect((guest.net.configuration.mac[0] as number) & 3).toBe(2);
    expect(bringUp({ link: 0 }).guest.net.configuration.linkUp).toBe(false);
  });

  it.each([
    ['enough vectors', {}, [0, 1, 2, 0xffff]],
    ['too few for each queue', { vectors: 2 }, [0, 1, 1, 0xffff]],
    ['one vector', { vectors: 1 }, [0, 0, 0, 0xffff]],
    ['a device that refuses vector 2', { refuseVectors: [2] }, [0, 1, 1, 0xffff]],
    ['a device that refuses all but 0', { refuseVectors: [1, 2] }, [0, 0, 0, 0xffff]],
    ['a device that refuses all', { refuseVectors: [0, 1, 2] }, undefined],
  ] as [string, Partial<ModelOptions>, number[] | undefined][])('maps interrupts with %s, and frames still arrive', (_name, model, mapping) => {
    const { device, guest } = bringUp(model);
    expect(guest.net.usesIntx).toBe(mapping === undefined);
    if (mapping) expect(device.queues.map((q) => q.vector)).toEqual(mapping.slice(1));
    const sink = guest.start({ kind: 'generate', count: 100 });
    settle(guest);
    expect(sink.framesReceived).toBe(100);
    expect(device.log.includes('r isr')).toBe(mapping === undefined);
  });

  it.each([
    ['neither', [VIRTIO_F.NOTIFICATION_DATA, VIRTIO_F.NOTIF_CONFIG_DATA], /^kick 1 2 = 1$/],
    ['configuration data', [VIRTIO_F.NOTIFICATION_DATA], /^kick 1 2 = 16385$/],
    ['notification data', [VIRTIO_F.NOTIF_CONFIG_DATA], /^kick 1 4 = 65537$/],
    ['both', [], /^kick 1 4 = 81921$/],
  ])('kicks as 4.1.5.2 says with %s negotiated', (_name, less, kick) => {
    const { device, guest } = bringUp({}, { ring: 'split', without: less });
    guest.start({ kind: 'generate', count: 1 });
    settle(guest, 3);
    expect(device.log.filter((l) => l.startsWith('kick 1'))[0]).toMatch(kick);
  });
});

describe.each(['split', 'packed'] as const)('frames over %s rings', (ring) => {
  it.each([[[]], [[VIRTIO_F.IN_ORDER]], [[VIRTIO_F.EVENT_IDX, VIRTIO_F.INDIRECT_DESC]], [[F.MRG_RXBUF]]])('loop through the model without %j', (less) => {
    const { guest } = bringUp({}, { ring, without: less });
    const work = guest.start({ kind: 'generate', count: 1000, sizes: [60, 800, 1514] });
    settle(guest, 500);
    expect(work.done).toBe(true);
    expect(guest.report()).toMatchObject({ framesReceived: 1000, broken: '', malformed: 0 });
  });

  it('sends control commands only for what was negotiated, and in the right shape', () => {
    const { device, guest } = bringUp({ pairs: 2 }, { ring, pairs: 2 });
    const c = guest.net.control;
    c?.setReceiveMode('promiscuous', true);
    c?.setReceiveMode('no-broadcast', false);
    c?.setMacTable([Uint8Array.of(1, 2, 3, 4, 5, 6)], []);
    c?.setMacAddress(Uint8Array.of(6, 5, 4, 3, 2, 1));
    c?.filterVlan(0x123, true);
    c?.filterVlan(0x123, false);
    c?.setGuestOffloads([F.GUEST_CSUM, F.GUEST_TSO4, F.GUEST_USO4]);
    expect(device.commands).toEqual([
      [4, 0, 2, 0],
      [0, 0, 1],
      [0, 5, 0],
      [1, 0, 1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0],
      [1, 1, 6, 5, 4, 3, 2, 1],
      [2, 0, 0x23, 1],
      [2, 1, 0x23, 1],
      [5, 0, 0x82, 0, 0, 0, 0, 0, 0x40, 0],
    ]);
    const bare = bringUp({}, { ring, without: [F.CTRL_RX, F.CTRL_RX_EXTRA, F.CTRL_VLAN, F.CTRL_GUEST_OFFLOADS] });
    const b = bare.guest.net.control;
    const answers = [
      b?.setReceiveMode('promiscuous', true),
      b?.setReceiveMode('no-unicast', true),
      b?.setMacTable([], []),
      b?.setMacAddress(new Uint8Array(6)),
      b?.filterVlan(1, true),
    ];
    expect([...answers, b?.setGuestOffloads([]), b?.setQueuePairs(1)].slice(0, 6)).toEqual(Array(6).fill(false));
    expect(bare.device.commands).toEqual([[4, 0, 1, 0]]);
  });

  it('follows link changes, acknowledges an announcement, and resets a device that asks for it', () => {
    const { device, guest } = bringUp({}, { ring });
    device.changeConfig(() => device.config.setUint16(6, 0, true));
    settle(guest, 2);
    expect(guest.net.configuration.linkUp).toBe(false);
    device.changeConfig(() => device.config.setUint16(6, 3, true));
    settle(guest, 2);
    expect(guest.net.configuration.linkUp).toBe(true);
    expect(device.commands).toEqual([[3, 0]]);
    // The announcement itself, looped back by the model.
    settle(guest, 3);
    expect(guest.net.receive[0]?.frames).toBe(1);
    device.changeConfig(() => {
      device.status |= 64;
    });
    settle(guest, 2);
    expect([guest.net.needsReset, guest.net.broken]).toEqual([true, 'the device set DEVICE_NEEDS_RESET']);
    expect(device.log.at(-1)).toBe('w status = 143');
    guest.net.recover();
    expect(device.log.filter((l) => l.startsWith('w status')).slice(-5)).toEqual([
      'w status = 0',
      'w status = 1',
      'w status = 3',
      'w status = 11',
      'w status = 15',
    ]);
    const work = guest.start({ kind: 'generate', count: 50 });
    settle(guest);
    expect(work.framesReceived).toBe(50);
  });

  it('keeps a frame that its sink has no room for, and what is behind it, in order and without giving buffers back', () => {
    const { device, guest } = bringUp({}, { ring });
    const [queue] = guest.net.receive;
    const seen: number[] = [];
    let room = 3;
    guest.tap = {
      takes: () => room > 0,
      receive(frame) {
        room--;
        seen.push(frame.views.u8[frame.offsets[0] as number] as number);
      },
    };
    for (let n = 0; n < 10; n++) device.deliver(0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, n, ...new Array(59).fill(0)]);
    // It stays with the poll: no interrupt tells when a sink has room.
    for (let i = 0; i < 5; i++) expect(guest.step()).toBe(true);
    expect([seen, queue?.frames, queue?.refused]).toEqual([[0, 1, 2], 3, true]);
    // More comes meanwhile; all the driver holds back is still the device's to miss.
    for (let n = 10; n < 20; n++) device.deliver(0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, n, ...new Array(59).fill(0)]);
    room = 9;
    guest.step();
    expect(seen).toEqual(Array.from({ length: 12 }, (_, n) => n));
    room = 100;
    settle(guest, 5);
    expect([seen, queue?.refused, guest.net.broken]).toEqual([Array.from({ length: 20 }, (_, n) => n), false, '']);
    // The ring is whole again.
    let taken = 0;
    for (; device.deliver(0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, ...new Array(60).fill(0)]); taken++);
    expect(taken).toBe(queue?.ring.size);
  });

  it.each([
    ['a used length shorter than the header', 11, 1, 'less than a header'],
    ['a used length beyond the buffer', 5000, 1, 'exceeds the'],
    ['no buffers at all', 72, 0, 'num_buffers 0'],
    ['more buffers than it used', 72, 2, 'only 1 of them'],
    ['more buffers than there are', 72, 60000, 'num_buffers 60000'],
  ])('gives up a device that claims %s', (_name, length, buffers, message) => {
    const { device, guest } = bringUp({}, { ring });
    const bytes = Array.from({ length: 72 }, () => 0);
    bytes[10] = buffers & 0xff;
    bytes[11] = buffers >>> 8;
    device.deliver(0, bytes, length);
    settle(guest, 3);
    expect(guest.net.broken).toContain(message);
    expect(device.status & 128).toBe(128);
    expect(guest.step()).toBe(false);
    guest.net.recover();
    expect(guest.net.broken).toBe('');
  });

  it('never throws, spins or reads outside its buffers, whatever a device delivers', () => {
    const delivery = fc.record({
      header: fc.array(fc.oneof(fc.constant(0), fc.nat(5), fc.nat(255)), { minLength: 12, maxLength: 12 }),
      size: fc.nat(200),
      length: fc.oneof(fc.constant(-1), fc.nat(300), fc.nat(0xffffffff)),
      scribble: fc.option(fc.record({ at: fc.nat(0xffff), value: fc.nat(255) }), { freq: 4 }),
    });
    fc.assert(
      fc.property(fc.array(delivery, { minLength: 1, maxLength: 30 }), fc.boolean(), (deliveries, mergeable) => {
        const { device, guest } = bringUp({}, { ring, without: mergeable ? [] : [F.MRG_RXBUF] });
        const queue = guest.net.receive[0];
        const ram = guest.arena.u8.length;
        const seen: string[] = [];
        guest.start({ kind: 'sink' });
        const workload = guest.workload as { receive(frame: unknown): void };
        const receive = workload.receive.bind(workload);
        workload.receive = (frame) => {
          const f = frame as NonNullable<typeof queue>['frame'];
          let total = 0;
          for (let i = 0; i < f.segmentCount; i++) {
            const [at, length] = [f.offsets[i] as number, f.lengths[i] as number];
            if (at < 2 ** 20 || at + length > ram || length < 0) seen.push(`segment ${at} +${length}`);
            total += length;
          }
          if (total !== f.length || (f.checksum === 2 && f.csumStart + f.csumOffset + 2 > f.length)) seen.push('a header that cannot be true');
          receive(frame);
        };
        for (const d of deliveries) {
          const bytes = [...d.header, ...Array.from({ length: d.size }, (_, i) => i & 0xff)];
          try {
            device.deliver(0, bytes, d.length < 0 ? bytes.length : d.length);
          } catch {
            // The model noticed that its own ring was scribbled over; the driver still has to live with it.
          }
          if (d.scribble && queue) {
            const base = ring === 'split' ? queue.ring.addresses.device : queue.ring.addresses.desc;
            guest.arena.u8[base + (d.scribble.at % (ring === 'split' ? 6 + 8 * queue.ring.size : 16 * queue.ring.size))] = d.scribble.value;
          }
          let steps = 0;
          try {
            while (guest.step() && steps < 500) steps++;
          } catch (error) {
            // What the device's model throws inside a kick is the model's; the driver's own errors fail the test.
            if (!(error instanceof ModelError) && !String(error).includes('bounds of the DataView')) throw error;
          }
          expect(steps).toBeLessThan(500);
        }
        expect(seen).toEqual([]);
      }),
      { numRuns: 60 },
    );
  });
});
