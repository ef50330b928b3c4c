// A standby and a primary with one address: where frames go, what is announced, and that nothing is lost but what a vanished device held.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import { FailoverPair } from '#guest-sim/failover';
import { DRIVER_FEATURES, featureMask } from '#guest-sim/features';
import { Guest } from '#guest-sim/guest';
import type { Nic, NicTransmitQueue } from '#guest-sim/nic';
import { VIRTIO_NET_F } from '#guest-sim/virtio-constants';
import { VirtioModel } from './virtio-model.ts';

const ALL = featureMask(DRIVER_FEATURES);

function card(ring: 'split' | 'packed'): { guest: Guest; device: VirtioModel } {
  const device = new VirtioModel({ features: ALL });
  return { device, guest: new Guest(device, { net: { ring } }) };
}

function frames(n: number): ByteViews {
  const views = viewsOf(new SharedArrayBuffer(64));
  views.u8.set([2, 0, 0, 0xaa, 0xbb, 0xcc, 2, 0, 0, 0xaa, 0xbb, 0xcc, 0x88, 0xb5, n >> 8, n & 0xff]);
  return views;
}

/** A card of another make: a queue that is emptied when told. */
class OtherNic implements Nic, NicTransmitQueue {
  readonly configuration = { mac: Uint8Array.of(2, 0, 0, 0xaa, 0xbb, 0xcc), mtu: 0, linkUp: true };
  readonly transmit = [this];
  readonly receive = [];
  readonly index = 0;
  readonly buffers = 0;
  readonly frameRoom = 2048;
  readonly longestFrame = 2048;
  readonly reservedBuffer = 0;
  readonly usesIntx = false;
  readonly steering = undefined;
  readonly kicks = 0;
  readonly interrupts = 0;
  readonly broken = '';
  readonly held: number[] = [];
  readonly sent: number[] = [];
  announced = 0;
  get outstanding(): number {
    return this.held.length;
  }
  has(): boolean {
    return false;
  }
  onIntx(): void {}
  shutDown(): void {}
  reserve(): number {
    return -1;
  }
  send(): void {}
  copy(from: ByteViews, start: number): boolean {
    if (from.u8[start + 12] !== 0x88) this.announced++;
    else this.held.push(((from.u8[start + 14] as number) << 8) | (from.u8[start + 15] as number));
    return true;
  }
  flush(): void {}
  reclaim(): number {
    return 0;
  }
  awaitRoom(): boolean {
    return false;
  }
  emit(count: number): void {
    this.sent.push(...this.held.splice(0, count));
  }
  poll(): boolean {
    return false;
  }
}

describe.each(['split', 'packed'] as const)('a fail-over pair over %s rings', (ring) => {
  it('needs STANDBY, one address, and one primary at a time', () => {
    const device = new VirtioModel({ features: ALL & ~(1n << BigInt(VIRTIO_NET_F.STANDBY)) });
    expect(() => new FailoverPair(new Guest(device, { net: { ring } }).net)).toThrow('standby');
    const pair = new FailoverPair(card(ring).guest.net);
    const other = new OtherNic();
    other.configuration.mac.fill(7);
    expect(() => pair.attach(other)).toThrow('same address');
    pair.attach(new OtherNic());
    expect(() => pair.attach(new OtherNic())).toThrow('already');
  });

  it('moves to a primary that appears and back when it goes, between two virtio devices', () => {
    const [a, b] = [card(ring), card(ring)];
    const got: number[] = [];
    const sink = { receive: (f: { byte(i: number): number; length: number }): void => void (f.byte(12) === 0x88 && got.push((f.byte(14) << 8) | f.byte(15))) };
    const pair = new FailoverPair(a.guest.net);
    const run = (from: number, to: number): void => {
      for (let n = from; n < to; n++) expect(pair.send(frames(n), 0, 60)).toBe(true);
      pair.flush();
      for (const { guest } of [a, b]) for (let v = guest.bus.vectors.take(); v >= 0; v = guest.bus.vectors.take()) guest.vectors.handlers[v]?.();
      pair.poll(sink as never);
    };
    run(0, 20);
    const primary = b.guest.net;
    pair.attach(primary);
    expect(pair.active).toBe(primary);
    run(20, 40);
    const standbyFrames = a.guest.net.transmit[0]?.frames;
    pair.detach(sink as never);
    expect(pair.active).toBe(pair.standby);
    run(40, 60);
    expect(got).toEqual(Array.from({ length: 60 }, (_, i) => i));
    expect([standbyFrames, pair.moves, pair.atRisk]).toEqual([20, 2, 0]);
    // Each move was announced where traffic then went: 20 frames and one reverse ARP on the primary.
    expect(b.guest.net.transmit[0]?.frames).toBe(21);
  });

  it('leaves a primary whose link falls and returns to it', () => {
    const pair = new FailoverPair(card(ring).guest.net);
    const primary = new OtherNic();
    pair.attach(primary);
    pair.send(frames(1), 0, 60);
    primary.configuration.linkUp = false;
    pair.send(frames(2), 0, 60);
    expect(pair.active).toBe(pair.standby);
    primary.configuration.linkUp = true;
    pair.send(frames(3), 0, 60);
    expect([primary.held, primary.announced, pair.moves]).toEqual([[1, 3], 2, 3]);
  });

  it('loses nothing but what a vanished primary still held', () => {
    const step = fc.oneof(
      fc.record({ what: fc.constant('send' as const), count: fc.integer({ min: 1, max: 8 }) }),
      fc.record({ what: fc.constant('emit' as const), count: fc.nat(10) }),
      fc.record({ what: fc.constantFrom('attach' as const, 'detach' as const, 'fall' as const, 'rise' as const), count: fc.constant(0) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const { guest } = card(ring);
        const pair = new FailoverPair(guest.net);
        const arrived: number[] = [];
        const sink = { receive: (f: { byte(i: number): number }): void => void (f.byte(12) === 0x88 && arrived.push((f.byte(14) << 8) | f.byte(15))) };
        const gone: OtherNic[] = [];
        let primary: OtherNic | undefined;
        let n = 0;
        for (const s of steps) {
          if (s.what === 'send') {
            for (let i = 0; i < s.count; i++) if (pair.send(frames(n), 0, 60)) n++;
            pair.flush();
          } else if (s.what === 'emit') primary?.emit(s.count);
          else if (s.what === 'attach' && !primary) {
            primary = new OtherNic();
            pair.attach(primary);
          } else if (s.what === 'detach' && primary) {
            pair.detach();
            gone.push(primary);
            primary = undefined;
          } else if (primary) primary.configuration.linkUp = s.what !== 'fall';
          for (let v = guest.bus.vectors.take(); v >= 0; v = guest.bus.vectors.take()) guest.vectors.handlers[v]?.();
          while (pair.poll(sink as never));
        }
        primary?.emit(Infinity);
        const lost = gone.flatMap((g) => g.held);
        const sent = [...arrived, ...gone.flatMap((g) => g.sent), ...(primary?.sent ?? []), ...lost].sort((x, y) => x - y);
        expect(sent).toEqual(Array.from({ length: n }, (_, i) => i));
        expect(pair.atRisk).toBe(lost.length);
      }),
      { numRuns: 60 },
    );
  });
});
