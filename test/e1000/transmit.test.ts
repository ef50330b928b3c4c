// Transmit, from descriptors to frames on the cable: each kind of descriptor, each offload, the write-back rules and their causes.
import { describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { DirectLink } from '#net/direct-link';
import { ACCEPTS_CSUM, ACCEPTS_TSO4, ACCEPTS_USO4, FRAME_NEEDS_CSUM, GSO_TCPV4, GSO_UDP_L4 } from '#net/port';
import { Segment } from '#net/segment';
import type { MemoryPort } from '../net/memory-port.ts';
import {
  BROADCAST,
  checkSums,
  EOP,
  frame,
  IC,
  IDE,
  IFCS,
  list,
  packet,
  R,
  RING,
  RS,
  Station,
  slowCrc,
  sum16,
  TCTL_ON,
  TSE,
  TXD_LOW,
  TXDW,
  TXQE,
  VLE,
  wired,
} from './bench.ts';

const CTRL_VME = 0x4000_0000;
const IXSM = 1;
const TXSM = 2;

function outbox(peer: MemoryPort): Uint8Array[] {
  return peer.inbox.splice(0).map(({ bytes }) => bytes);
}

describe('descriptors', () => {
  it('sends a legacy descriptor, sets DD and counts', () => {
    const { nic, peer } = wired();
    nic.start();
    const index = nic.send(frame(64));
    expect(outbox(peer)).toEqual([Uint8Array.from(frame(64))]);
    expect(nic.sent(index)).toBe(1);
    expect(nic.read(R.TDH)).toBe(1);
    expect(nic.read(R.ICR) & ~TXD_LOW).toBe(TXDW | TXQE);
    expect([nic.read(R.GPTC), nic.read(R.GPTC)]).toEqual([1, 0]);
    expect([nic.read(R.TPT), nic.read(R.GOTCL), nic.read(R.GOTCH), nic.read(R.GOTCL)]).toEqual([1, 68, 0, 0]);
  });

  it('writes nothing back without RS, and raises no TXDW', () => {
    const { nic, peer } = wired();
    nic.start();
    const index = nic.send(frame(64), EOP | IFCS);
    expect(outbox(peer)).toHaveLength(1);
    expect([nic.sent(index), nic.read(R.ICR) & (TXDW | TXQE)]).toEqual([0, TXQE]);
  });

  it('puts a packet of several descriptors together, of both kinds', () => {
    const { nic, peer } = wired();
    nic.start();
    const whole = frame(300);
    nic.legacy(whole.slice(0, 20), IFCS);
    nic.legacy([], IFCS);
    nic.legacy(whole.slice(20), EOP | IFCS | RS);
    nic.data(whole.slice(0, 100), IFCS);
    nic.data(whole.slice(100), EOP | IFCS | RS);
    nic.go();
    expect(outbox(peer)).toEqual([Uint8Array.from(whole), Uint8Array.from(whole)]);
  });

  it('waits for the end of a packet that is not all there', () => {
    const { nic, peer } = wired();
    nic.start();
    const whole = frame(100);
    nic.legacy(whole.slice(0, 50), IFCS);
    nic.go();
    expect([outbox(peer).length, nic.read(R.TDH)]).toEqual([0, 0]);
    nic.legacy(whole.slice(50), EOP | IFCS | RS);
    nic.go();
    expect(outbox(peer)).toEqual([Uint8Array.from(whole)]);
  });

  it('does context descriptors by themselves', () => {
    const { nic } = wired();
    nic.start();
    const index = nic.context({ command: RS });
    nic.go();
    expect([nic.sent(index) & 1, nic.read(R.TDH)]).toEqual([1, 1]);
  });

  it('goes round the ring many times', () => {
    const { nic, peer } = wired();
    nic.start();
    for (let i = 0; i < 5 * RING; i++) nic.send(frame(60 + (i % 40)));
    expect(outbox(peer)).toHaveLength(5 * RING);
    expect(nic.read(R.GPTC)).toBe(5 * RING);
  });

  it('holds what a full peer refuses, and goes on in order', () => {
    const { nic, peer, segment } = wired();
    nic.start();
    peer.room = 3;
    for (let i = 0; i < 8; i++) nic.legacy(frame(64 + i));
    nic.go();
    expect([peer.inbox.length, nic.read(R.TDH)]).toEqual([3, 3]);
    peer.room = Infinity;
    segment.wake(peer);
    expect(peer.inbox.map(({ bytes }) => bytes.length)).toEqual([64, 65, 66, 67, 68, 69, 70, 71]);
    expect(nic.read(R.TDH)).toBe(8);
  });

  it('sends nothing while TCTL.EN is clear or the link is down', () => {
    const { nic, peer } = wired();
    nic.start({ tctl: TCTL_ON & ~2 });
    nic.send(frame());
    expect(outbox(peer)).toHaveLength(0);
    nic.nic.cable = false;
    nic.write(R.TCTL, TCTL_ON);
    expect(outbox(peer)).toHaveLength(0);
    nic.nic.cable = true;
    nic.clock.advance(1e9);
    expect(outbox(peer)).toHaveLength(1);
  });
});

describe('checksums', () => {
  it.each([
    ['TCP', false],
    ['UDP', true],
  ])('IP and %s by a data descriptor and its context', (_, udp) => {
    const { nic, peer } = wired();
    nic.start();
    nic.context({ tucso: udp ? 40 : 50, command: udp ? 2 : 3 });
    const plain = packet({ udp, payload: 77 });
    const bytes = [...plain];
    const pseudo = sum16([...bytes.slice(26, 34), 0, udp ? 17 : 6]) + (bytes.length - 34);
    const seed = sum16([], pseudo);
    bytes[udp ? 40 : 50] = seed >>> 8;
    bytes[udp ? 41 : 51] = seed & 0xff;
    nic.data(bytes, EOP | IFCS | RS, IXSM | TXSM);
    nic.go();
    const [sent] = outbox(peer);
    checkSums(sent as Uint8Array);
    expect(sent?.length).toBe(plain.length);
  });

  it('leaves a TCP checksum to a peer that takes it so', () => {
    const { nic, peer } = wired();
    peer.accepts = ACCEPTS_CSUM;
    nic.start();
    nic.context({ command: 3 });
    nic.data(packet({ seed: true }), EOP | IFCS | RS, IXSM | TXSM);
    nic.go();
    const [sent] = peer.inbox;
    expect([sent?.flags, sent?.csumStart, sent?.csumOffset]).toEqual([FRAME_NEEDS_CSUM, 34, 16]);
  });

  it('stops a checksum where the context says', () => {
    const { nic, peer } = wired();
    nic.start();
    const bytes = frame(100);
    nic.context({ tucss: 20, tucso: 60, tucse: 39, command: 3 });
    nic.data(bytes, EOP | IFCS | RS, TXSM);
    nic.go();
    const [sent] = outbox(peer);
    const expected = ~sum16(bytes.slice(20, 40)) & 0xffff;
    expect(((sent?.[60] as number) << 8) | (sent?.[61] as number)).toBe(expected);
  });

  it('keeps the contexts of single frames and of segmentation apart', () => {
    const { nic, peer } = wired();
    nic.start();
    nic.context({ command: 3 });
    nic.context({ tucso: 30, tucss: 20, ipcso: 16, command: 3 | TSE, mss: 500, hdrlen: 54 });
    nic.data(packet({ seed: true, payload: 6 }), EOP | IFCS | RS, IXSM);
    nic.go();
    expect(sum16([...(outbox(peer)[0] as Uint8Array).subarray(14, 34)])).toBe(0xffff);
  });
});

describe('segmentation', () => {
  const cases = [
    { version: 4, udp: false },
    { version: 6, udp: false },
    { version: 4, udp: true },
    { version: 6, udp: true },
  ] as const;

  it.each(cases)('cuts IPv$version, UDP $udp', ({ version, udp }) => {
    const { nic, peer } = wired();
    nic.start();
    const transport = version === 4 ? 34 : 54;
    const hdrlen = transport + (udp ? 8 : 20);
    const bytes = packet({ version, udp, payload: 2500, seed: true });
    const command = (udp ? 0 : 1) | (version === 4 ? 2 : 0);
    nic.context({ tucss: transport, tucso: transport + (udp ? 6 : 16), command: command | TSE, paylen: 2500, mss: 1000, hdrlen, ipcss: 14 });
    nic.data(bytes, EOP | IFCS | RS | TSE, (version === 4 ? IXSM : 0) | TXSM);
    nic.go();
    const frames = outbox(peer);
    expect(frames.map((f) => f.length - hdrlen)).toEqual([1000, 1000, 500]);
    const body = frames.flatMap((f) => [...f.subarray(hdrlen)]);
    expect(body).toEqual(bytes.slice(hdrlen));
    frames.forEach((f, n) => {
      checkSums(f);
      if (version === 4) expect(((f[18] as number) << 8) | (f[19] as number)).toBe(0x1234 + n);
      if (udp) expect(((f[transport + 4] as number) << 8) | (f[transport + 5] as number)).toBe(f.length - transport);
      else {
        expect(new DataView(f.buffer, f.byteOffset).getUint32(transport + 4)).toBe(0x1000_fff0 + 1000 * n);
        expect((f[transport + 13] as number) & 9).toBe(n === 2 ? 9 : 0);
      }
    });
    expect([nic.read(R.GPTC), nic.read(R.TSCTC)]).toEqual([3, 1]);
  });

  it.each([
    ['TCP', false, GSO_TCPV4, ACCEPTS_TSO4],
    ['UDP', true, GSO_UDP_L4, ACCEPTS_USO4],
  ])('gives large %s to a peer that takes it, whole and with sound headers', (_, udp, type, accepts) => {
    const { nic, peer } = wired();
    peer.accepts = ACCEPTS_CSUM | accepts;
    nic.start();
    const hdrlen = udp ? 42 : 54;
    nic.context({ tucso: udp ? 40 : 50, command: (udp ? 2 : 3) | TSE, paylen: 5000, mss: 1448, hdrlen });
    nic.data(packet({ udp, payload: 5000, seed: true }), EOP | IFCS | RS | TSE, IXSM | TXSM);
    nic.go();
    const [large] = peer.inbox;
    expect([large?.gsoType, large?.gsoSize, large?.bytes.length, large?.csumStart]).toEqual([type, 1448, hdrlen + 5000, 34]);
    expect(sum16(list(large?.bytes.subarray(14, 34)))).toBe(0xffff);
    expect([nic.read(R.GPTC), nic.read(R.TSCTC), nic.read(R.GOTCL)]).toEqual([4, 1, 5000 + 4 * (hdrlen + 4)]);
  });

  it('cuts a packet of more pieces than a segment makes of one', () => {
    const { nic, peer } = wired();
    nic.start();
    const bytes = packet({ payload: 5000, seed: true });
    nic.context({ command: 3 | TSE, paylen: 5000, mss: 2, hdrlen: 54 });
    const index = nic.data(bytes, EOP | IFCS | RS | TSE, IXSM | TXSM);
    nic.go();
    // What one access may do is bounded: the rest comes with the next.
    for (let looks = 0; looks < 20 && nic.sent(index) === 0; looks++) nic.go();
    const frames = outbox(peer);
    expect(frames.length).toBe(2500);
    expect(frames.flatMap((f) => [...f.subarray(54, 56)])).toEqual(bytes.slice(54));
    expect([nic.sent(index), nic.read(R.GPTC), nic.read(R.TSCTC), nic.nic.counters.snapshot().transmitDrops]).toEqual([1, 2500, 1, {}]);
  });

  it('cuts what no parser knows by the offsets of its context: SNAP', () => {
    const { nic, peer } = wired();
    nic.start();
    const plain = packet({ payload: 1500, seed: true });
    const bytes = [...plain.slice(0, 12), 0x05, 0xdc, 0xaa, 0xaa, 3, 0, 0, 0, ...plain.slice(12)];
    nic.context({ ipcss: 22, ipcso: 32, ipcse: 41, tucss: 42, tucso: 58, command: 3 | TSE | 0x40, paylen: 1500, mss: 600, hdrlen: 62 });
    nic.data(bytes, EOP | IFCS | RS | TSE, IXSM | TXSM);
    nic.go();
    const frames = outbox(peer);
    expect(frames.map((f) => f.length)).toEqual([662, 662, 362]);
    for (const f of frames) checkSums(Uint8Array.from([...f.subarray(0, 12), ...f.subarray(20)]));
  });

  it('goes on with the pieces of a packet where a full peer stopped it', () => {
    const { nic, peer, segment } = wired();
    nic.start();
    peer.room = 2;
    const plain = packet({ payload: 3000, seed: true });
    const bytes = [...plain.slice(0, 12), 0x05, 0xdc, 0xaa, 0xaa, 3, 0, 0, 0, ...plain.slice(12)];
    nic.context({ ipcss: 22, ipcso: 32, ipcse: 41, tucss: 42, tucso: 58, command: 3 | TSE, paylen: 3000, mss: 600, hdrlen: 62 });
    const index = nic.data(bytes, EOP | IFCS | RS | TSE, IXSM | TXSM);
    nic.go();
    expect([peer.inbox.length, nic.sent(index)]).toEqual([2, 0]);
    peer.room = Infinity;
    segment.wake(peer);
    expect(peer.inbox.map(({ bytes: f }) => f.length)).toEqual([662, 662, 662, 662, 662]);
    expect(peer.inbox.flatMap(({ bytes: f }) => [...f.subarray(62)])).toEqual(bytes.slice(62));
    expect([nic.sent(index), nic.read(R.GPTC), nic.read(R.TSCTC)]).toEqual([1, 5, 1]);
  });
});

describe('tags, padding, check sequence', () => {
  it('inserts a tag where CTRL.VME and VLE say so, with the type in VET', () => {
    const { nic, peer } = wired();
    nic.start({ ctrl: CTRL_VME });
    nic.send(frame(64), EOP | IFCS | RS | VLE, { special: 0x6123 });
    nic.send(frame(64), EOP | IFCS | RS, { special: 0x6123 });
    nic.write(R.VET, 0x88a8);
    nic.send(frame(64), EOP | IFCS | RS | VLE, { special: 5 });
    const plain = frame(64);
    const [tagged, bare, outer] = outbox(peer);
    expect([...(tagged as Uint8Array)]).toEqual([...plain.slice(0, 12), 0x81, 0, 0x61, 0x23, ...plain.slice(12)]);
    expect([...(bare as Uint8Array)]).toEqual(plain);
    expect([...(outer as Uint8Array).subarray(12, 16)]).toEqual([0x88, 0xa8, 0, 5]);
    nic.write(R.CTRL, 0x40);
    nic.send(frame(64), EOP | IFCS | RS | VLE, { special: 5 });
    expect([...(outbox(peer)[0] as Uint8Array)]).toEqual(plain);
  });

  it('tags segments and leaves the tag out of their checksums', () => {
    const { nic, peer } = wired();
    nic.start({ ctrl: CTRL_VME });
    nic.context({ command: 3 | TSE, paylen: 2000, mss: 1000, hdrlen: 54 });
    nic.data(packet({ payload: 2000, seed: true }), EOP | IFCS | RS | TSE | VLE, IXSM | TXSM, 0x7001);
    nic.go();
    const frames = outbox(peer);
    expect(frames.map((f) => f.length)).toEqual([1058, 1058]);
    for (const f of frames) {
      expect([...f.subarray(12, 16)]).toEqual([0x81, 0, 0x70, 1]);
      checkSums(f);
    }
  });

  it('pads to the least length with TCTL.PSP, and not without', () => {
    const { nic, peer } = wired();
    nic.start();
    nic.send(frame(20));
    nic.write(R.TCTL, TCTL_ON & ~8);
    nic.send(frame(20));
    const [padded, bare] = outbox(peer);
    expect([...(padded as Uint8Array)]).toEqual([...frame(20), ...new Array(40).fill(0)]);
    expect(bare?.length).toBe(20);
  });

  it('takes the FCS of a driver that makes its own, and sends no frame whose FCS is wrong', () => {
    const { nic, peer } = wired();
    nic.start();
    const bytes = frame(80);
    const crc = slowCrc(bytes);
    nic.send([...bytes, crc & 0xff, (crc >>> 8) & 0xff, (crc >>> 16) & 0xff, crc >>> 24], EOP | RS);
    nic.send([...bytes, 1, 2, 3, 4], EOP | RS);
    expect(outbox(peer)).toEqual([Uint8Array.from(bytes)]);
    expect(nic.nic.counters.snapshot().transmitDrops).toEqual({ malformed: 1 });
  });

  it('inserts a legacy checksum (CSO, CSS, IC)', () => {
    const { nic, peer } = wired();
    nic.start();
    const bytes = frame(100);
    nic.send(bytes, EOP | IFCS | RS | IC, { css: 34, cso: 50 });
    const [sent] = outbox(peer);
    const value = ~sum16(bytes.slice(34)) & 0xffff;
    expect([sent?.[50], sent?.[51]]).toEqual([value >>> 8, value & 0xff]);
  });
});

describe('reporting', () => {
  it('delays TXDW by TIDV with IDE, at most by TADV', () => {
    const { nic } = wired();
    nic.start();
    nic.write(R.TIDV, 100);
    nic.write(R.TADV, 150);
    const index = nic.send(frame(), EOP | IFCS | RS | IDE);
    expect([nic.sent(index), nic.read(R.ICR) & TXDW]).toEqual([1, 0]);
    nic.clock.advance(99 * 1024);
    nic.send(frame(), EOP | IFCS | RS | IDE);
    nic.clock.advance(50 * 1024);
    expect(nic.read(R.ICR) & TXDW).toBe(0);
    nic.clock.advance(1 * 1024);
    expect(nic.read(R.ICR) & TXDW).toBe(TXDW);
    nic.clock.advance(1e6);
    expect(nic.read(R.ICR) & TXDW).toBe(0);
  });

  it('a descriptor without IDE reports at once and stops the timers', () => {
    const { nic } = wired();
    nic.start();
    nic.write(R.TIDV, 100);
    nic.send(frame(), EOP | IFCS | RS | IDE);
    nic.send(frame(), EOP | IFCS | RS);
    expect(nic.read(R.ICR) & TXDW).toBe(TXDW);
    nic.clock.advance(1e6);
    expect(nic.read(R.ICR)).toBe(0);
  });

  it('collects write-backs up to WTHRESH, or until the timer', () => {
    const { nic } = wired();
    nic.start();
    nic.write(R.TIDV, 100);
    nic.write(R.TXDCTL, 0x0104_0000);
    const first = [0, 1, 2].map(() => nic.send(frame(), EOP | IFCS | RS));
    expect([first.map((i) => nic.sent(i)), nic.read(R.ICR) & TXDW]).toEqual([[0, 0, 0], 0]);
    const fourth = nic.send(frame(), EOP | IFCS);
    expect([...first, fourth].map((i) => nic.sent(i))).toEqual([1, 1, 1, 1]);
    expect(nic.read(R.ICR) & TXDW).toBe(TXDW);
    const late = nic.send(frame(), EOP | IFCS | RS);
    expect(nic.sent(late)).toBe(0);
    nic.clock.advance(100 * 1024);
    expect([nic.sent(late), nic.read(R.ICR) & TXDW]).toEqual([1, TXDW]);
  });

  it('raises TXD_LOW when the work left falls to LWTHRESH', () => {
    const { nic, peer, segment } = wired();
    nic.start();
    nic.write(R.TXDCTL, 2 << 25);
    peer.room = 0;
    for (let i = 0; i < 20; i++) nic.legacy(frame(), EOP | IFCS);
    nic.go();
    const serve = (room: number): number => {
      peer.room = room;
      segment.wake(peer);
      return nic.read(R.ICR) & TXD_LOW;
    };
    expect([serve(3), serve(4), serve(5)]).toEqual([0, TXD_LOW, 0]);
  });

  it('counts kinds and sizes', () => {
    const { nic } = wired();
    nic.start();
    nic.send(frame(60));
    nic.send(frame(1514, BROADCAST));
    nic.send(frame(200, [1, 0, 0x5e, 0, 0, 1]));
    expect([nic.read(R.PTC64), nic.read(R.PTC1522), nic.read(R.BPTC), nic.read(R.MPTC), nic.read(R.TOTL)]).toEqual([1, 1, 1, 1, 60 + 1514 + 200 + 12]);
  });
});

describe('two stations', () => {
  it('a frame goes from ring to ring', () => {
    const segment = new InlineSegment(new Segment(new DirectLink()), { defer: () => {} });
    const a = new Station({ segment, mac: '52:54:00:00:00:0b' });
    const b = new Station({ segment });
    a.start();
    b.start();
    for (let i = 0; i < 40; i++) a.send(frame(60 + i));
    expect(b.received().map(({ bytes }) => [...bytes])).toEqual(Array.from({ length: 40 }, (_, i) => frame(60 + i)));
  });
});
