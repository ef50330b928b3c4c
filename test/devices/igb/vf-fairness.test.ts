// What one VF's packets may take of everyone's time, and what it may change of them once the switch has looked: a turn is bounded, a slow queue costs its owner only, the header that was judged is the header that leaves.

import { describe, expect, test } from 'vitest';
import { frame, H, Host, macOf, messageOf, V, WIRE_MAC } from './hypervisor.ts';

const TX_RING = 0x1000;
const TX_DATA = 0x1_0000;
const PVFGPTLBC = (n: number): number => 0x1_0044 + 0x100 * n;
const TSE = 0x80;

/** A context, and data to cut into steps of one octet: headers of 54 octets, `payload` behind. */
function cutSmall(host: Host, n: number, to: number, payload: number): void {
  const guest = host.guests[n] as Host['guests'][number];
  const headers = [...macOf(to), ...macOf(n), 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
  headers.push(0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0);
  guest.describe([]);
  guest.word(TX_RING, (14 << 9) | 20);
  guest.word(TX_RING + 4, 0);
  guest.word(TX_RING + 8, (2 << 20) | (0x20 << 24) | (1 << 11) | (1 << 10));
  guest.word(TX_RING + 12, (1 << 16) | (20 << 8));
  guest.describe(headers, { command: 0x0b | TSE });
  guest.word(TX_RING + 16 + 8, (54 + payload) | (3 << 20) | ((0x2b | TSE) << 24));
  guest.word(TX_RING + 16 + 12, payload << 14);
}

describe('one VF among others', () => {
  test('a large packet for a neighbour, in steps of an octet, is many turns: a round’s frames each', () => {
    const host = new Host().start();
    host.write(H.QDE, 0xffff);
    host.vfWrite(1, V.IVAR, 0x80);
    const seen: number[] = [];
    host.onMessage = ({ data }) => {
      if (data === messageOf(1, 0)) seen.push(host.read(PVFGPTLBC(0)));
      host.guests[1]?.received();
      host.guests[1]?.refill();
    };
    cutSmall(host, 0, 1, 5000);
    host.guests[0]?.go();
    // A segment serves so many rounds in one call, and asks to be called again.
    for (let call = 0; call < 100 && host.guests[0]?.sent() === 0; call++) host.segment.service();
    expect(host.read(PVFGPTLBC(0))).toBe(5000);
    expect(seen.length).toBeGreaterThanOrEqual(5000 / 64);
    for (const [i, count] of seen.entries()) expect(count - (seen[i - 1] ?? 0)).toBeLessThanOrEqual(64);
    expect(host.guests[0]?.sent()).toBe(1);
  });

  test('a queue that is slower than another does not make it wait', () => {
    const host = new Host().start();
    for (const [queue, factor] of [[3, 10], [5, 1000]] as const) {
      host.write(H.RTTDQSEL, queue);
      host.write(H.RTTBCNRC, 0x8000_0000 | (factor << 14));
      for (let i = 0; i < 4; i++) host.guests[queue]?.describe(frame(macOf(queue - 2), macOf(queue)));
    }
    host.guests[5]?.go();
    host.guests[3]?.go();
    // 64 octets, FCS, preamble, gap: ten times their time on the wire.
    host.clock.advance(4 * (64 + 4 + 8 + 12) * 8 * 10);
    expect(host.everyone()).toEqual({ 1: 4, 3: 1 });
    // Held by time alone: nobody need look until then.
    expect(host.segment.server.rest()).toBe(false);
  });

  test('what was judged is what is sent, though its memory changes meanwhile', () => {
    for (const length of [60, 64, 300]) {
      const host = new Host().start();
      host.write(H.DTXSWC, 0x8000_00ff);
      const guest = host.guests[0] as Host['guests'][number];
      const deliver = host.wire.deliver.bind(host.wire);
      host.wire.deliver = (batch, from, to) => {
        host.bytes.set(macOf(4), guest.base + TX_DATA + 6);
        return deliver(batch, from, to);
      };
      guest.send(frame(WIRE_MAC, macOf(0), { length, fill: 0x33 }));
      expect(host.outside()).toEqual([frame(WIRE_MAC, macOf(0), { length, fill: 0x33 })]);
    }
  });

  test('descriptors without a buffer are passed over up to a bound, not the whole of a large ring for each frame', () => {
    const host = new Host().start();
    const guest = host.guests[2] as Host['guests'][number];
    guest.write('rx', 0x28, 0, 0);
    guest.write('rx', 0x08, 0, 512 * 16);
    for (let i = 0; i < 512; i++) guest.buffer(i, i < 400 ? 0 : 0x4_0000);
    guest.write('rx', 0x0c, 0, 2 | (1 << 25) | 0x8000_0000);
    guest.write('rx', 0x28, 0, 1 << 25);
    guest.write('rx', 0x18, 0, 511);
    host.inject(frame(macOf(2), WIRE_MAC));
    expect(host.vfRead(2, 0x2810)).toBe(0);
    expect(host.read(H.RQDPC(2))).toBe(1);
  });
});
