// Transmit of the 82576, from descriptors to frames on the cable: each kind of descriptor, each offload, the write-back rules.
import { describe, expect, it } from 'vitest';
import { checkSums, frame, packet, sum16 } from '../../e1000/bench.ts';
import { ENABLE, EOP, IC, IFCS, IXSM, of, R, RS, TSE, TXDW, TXSM, VLE, wired } from './bench.ts';

const CTRL_VME = 0x4000_0000;
const EXT_VLAN = 1 << 26;

/** CRC-32c bit by bit, RFC 9260 appendix A. */
function crc32c(bytes: readonly number[]): number {
  let crc = 0xffff_ffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let i = 0; i < 8; i++) crc = (crc & 1) !== 0 ? (crc >>> 1) ^ 0x82f6_3b78 : crc >>> 1;
  }
  return ~crc >>> 0;
}

describe('descriptors', () => {
  it('sends an advanced descriptor, sets DD and counts', () => {
    const { nic, outbox } = wired();
    nic.start();
    const index = nic.send(frame(64));
    expect(outbox()).toEqual([Uint8Array.from(frame(64))]);
    expect(nic.sent(index)).toBe(1);
    expect(nic.read(R.TDH)).toBe(1);
    expect(nic.read(R.ICR) & TXDW).toBe(TXDW);
    expect([nic.read(R.GPTC), nic.read(R.GPTC)]).toEqual([1, 0]);
    expect([nic.read(R.TPT), nic.read(R.GOTCL), nic.read(R.GOTCH), nic.read(R.GOTCL)]).toEqual([1, 68, 0, 0]);
  });

  it('writes nothing back without RS, and raises no TXDW', () => {
    const { nic, outbox } = wired();
    nic.start();
    const index = nic.send(frame(64), EOP | IFCS);
    expect(outbox()).toHaveLength(1);
    expect([nic.sent(index), nic.read(R.ICR) & TXDW]).toEqual([0, 0]);
  });

  it('puts a packet of several descriptors together, of both kinds', () => {
    const { nic, outbox } = wired();
    nic.start();
    const whole = frame(300);
    nic.legacy(whole.slice(0, 20), IFCS);
    nic.legacy([], IFCS);
    nic.legacy(whole.slice(20), EOP | IFCS | RS);
    nic.data(whole.slice(0, 100), IFCS);
    nic.data(whole.slice(100));
    nic.go();
    expect(outbox()).toEqual([Uint8Array.from(whole), Uint8Array.from(whole)]);
  });

  it('a legacy descriptor after an advanced packet asks for what it says itself, and no more', () => {
    const { nic, outbox } = wired();
    nic.start({ ctrl: CTRL_VME });
    nic.context({ tag: 5 });
    nic.data(packet({ seed: true }), EOP | IFCS | RS | VLE, { popts: IXSM | TXSM });
    const plain = packet({ seed: true });
    nic.legacy(plain);
    nic.go();
    const [, second] = outbox();
    expect(second).toEqual(Uint8Array.from(plain));
  });

  it('inserts a legacy checksum and a legacy tag', () => {
    const { nic, outbox } = wired();
    nic.start({ ctrl: CTRL_VME });
    const bytes = packet({ udp: true });
    nic.legacy(bytes, EOP | IFCS | RS | IC | VLE, { css: 34, cso: 40, tag: 0x2007 });
    nic.go();
    const [sent] = outbox();
    expect(Array.from(sent?.subarray(12, 18) ?? [])).toEqual([0x81, 0, 0x20, 0x07, 8, 0]);
    expect(((sent?.[44] as number) << 8) | (sent?.[45] as number)).toBe(~sum16(bytes.slice(34)) & 0xffff);
  });

  it('queues take turns, each with its own ring', () => {
    const { nic, outbox } = wired();
    nic.start({ queues: 16 });
    for (const queue of [15, 3, 0]) nic.send(frame(60 + queue), undefined, { queue });
    expect(outbox().map(({ length }) => length)).toEqual([75, 63, 60]);
    for (const queue of [15, 3, 0]) expect(nic.read(of(R.TDH, queue))).toBe(1);
    expect(nic.sent(0, 15)).toBe(1);
  });

  it('serves only a queue that is enabled, and starts it at its beginning', () => {
    const { nic, outbox } = wired();
    nic.start();
    nic.send(frame(64));
    nic.write(R.TXDCTL, 0);
    nic.send(frame(65));
    expect(outbox().map(({ length }) => length)).toEqual([64]);
    nic.write(R.TXDCTL, ENABLE);
    expect(nic.read(R.TDH)).toBe(2);
  });

  it('pads short packets where TCTL says so', () => {
    const { nic, outbox } = wired();
    nic.start();
    nic.send(frame(20));
    expect(outbox()).toEqual([Uint8Array.from([...frame(20), ...new Array(40).fill(0)])]);
  });
});

describe('offloads', () => {
  it.each([
    { version: 4, udp: false },
    { version: 4, udp: true },
    { version: 6, udp: false },
    { version: 6, udp: true },
  ] as const)('fills in checksums: IPv$version, UDP $udp', ({ version, udp }) => {
    const { nic, outbox } = wired();
    nic.start();
    const bytes = packet({ version, udp });
    // Without segmentation the driver puts the pseudo header's whole sum there.
    const transport = version === 4 ? 34 : 54;
    const addresses = version === 4 ? bytes.slice(26, 34) : bytes.slice(22, 54);
    const seed = sum16([...addresses, 0, udp ? 17 : 6]) + bytes.length - transport;
    const folded = (seed & 0xffff) + (seed >>> 16);
    const field = transport + (udp ? 6 : 16);
    bytes[field] = folded >>> 8;
    bytes[field + 1] = folded & 0xff;
    nic.context({ ip: version === 4 ? 20 : 40, l4: udp ? 8 : 20, ipv4: version === 4, kind: udp ? 'udp' : 'tcp' });
    nic.data(bytes, undefined, { popts: version === 4 ? IXSM | TXSM : TXSM });
    nic.go();
    const [sent] = outbox();
    expect(sent?.length).toBe(bytes.length);
    checkSums(sent as Uint8Array);
  });

  it('fills in the CRC-32c of SCTP, over headers in pieces and a long payload', () => {
    const { nic, outbox } = wired();
    nic.start();
    const bytes = packet({ udp: true, payload: 900 });
    bytes[23] = 132;
    bytes.splice(34, 12, 0, 1, 0, 2, 9, 9, 9, 9, 0, 0, 0, 0);
    nic.context({ l4: 12, kind: 'sctp' });
    nic.data(bytes.slice(0, 40), IFCS, { popts: TXSM });
    nic.data(bytes.slice(40));
    nic.go();
    const [sent] = outbox();
    const crc = crc32c(bytes.slice(34));
    expect(Array.from(sent?.subarray(42, 46) ?? [])).toEqual([crc & 0xff, (crc >>> 8) & 0xff, (crc >>> 16) & 0xff, crc >>> 24]);
    expect(sent?.length).toBe(bytes.length);
  });

  it.each([
    { version: 4, tag: undefined },
    { version: 6, tag: undefined },
    { version: 4, tag: 0x2009 },
  ] as const)('cuts large packets: IPv$version, tag $tag', ({ version, tag }) => {
    const { nic, outbox } = wired();
    nic.start({ ctrl: CTRL_VME });
    const bytes = packet({ version, payload: 3500, seed: true });
    nic.context({ ip: version === 4 ? 20 : 40, ipv4: version === 4, mss: 1000, ...(tag !== undefined && { tag }) });
    nic.data(bytes, EOP | IFCS | RS | TSE | (tag === undefined ? 0 : VLE), { popts: version === 4 ? IXSM | TXSM : TXSM });
    nic.go();
    const frames = outbox();
    const headers = (version === 4 ? 54 : 74) + (tag === undefined ? 0 : 4);
    expect(frames.map(({ length }) => length - headers)).toEqual([1000, 1000, 1000, 500]);
    for (const sent of frames) checkSums(sent);
    const payload = frames.flatMap((sent) => [...sent.subarray(headers)]);
    expect(payload).toEqual(bytes.slice(headers - (tag === undefined ? 0 : 4)));
    expect(nic.read(R.TSCTC)).toBe(1);
  });

  it('passes TCP flags by DTXTCPFLG: CWR in the first segment only, FIN and PSH in the last', () => {
    const { nic, outbox } = wired();
    nic.start();
    const bytes = packet({ payload: 3000, seed: true });
    bytes[47] = 0x99;
    nic.context({ mss: 1000 });
    nic.data(bytes, EOP | IFCS | RS | TSE, { popts: IXSM | TXSM });
    nic.go();
    expect(outbox().map((sent) => sent[47])).toEqual([0x90, 0x10, 0x19]);
  });

  it('keeps two contexts for each queue, chosen by IDX', () => {
    const { nic, outbox } = wired();
    nic.start({ ctrl: CTRL_VME, queues: 2 });
    for (const queue of [0, 1]) for (const index of [0, 1]) nic.context({ queue, index, tag: 16 * queue + index + 1 });
    for (const queue of [0, 1])
      for (const index of [1, 0, 1]) {
        nic.data(frame(64), EOP | IFCS | RS | VLE, { queue, index });
        nic.go(queue);
      }
    expect(outbox().map((sent) => sent[15])).toEqual([2, 1, 2, 18, 17, 18]);
  });

  it('inserts the inner tag behind the outer one that the driver put there', () => {
    const { nic, outbox } = wired();
    nic.start({ ctrl: CTRL_VME });
    nic.write(R.CTRL_EXT, EXT_VLAN);
    nic.write(R.VET, 0x88a8_8100);
    nic.context({ tag: 7 });
    const [to, from] = [frame(64).slice(0, 12), [0x88, 0xa8, 0, 9, 0x88, 0xb5, ...new Array(60).fill(1)]];
    nic.data([...to, ...from], EOP | IFCS | RS | VLE);
    nic.go();
    expect(Array.from(outbox()[0]?.subarray(12, 22) ?? [])).toEqual([0x88, 0xa8, 0, 9, 0x81, 0, 0, 7, 0x88, 0xb5]);
  });
});

describe('reporting', () => {
  it('writes the head instead of descriptors where TDWBAL says so', () => {
    const { nic, outbox } = wired();
    nic.start();
    nic.write(R.TDWBAH, 0);
    nic.write(R.TDWBAL, 0x9000 | 1);
    const index = nic.send(frame(64));
    expect(outbox()).toHaveLength(1);
    expect([nic.view.getUint32(0x9000, true), nic.sent(index)]).toEqual([1, 0]);
    expect(nic.read(R.ICR) & TXDW).toBe(TXDW);
  });

  it('collects reports up to the threshold while the counter of the vector runs, and writes them at its end', () => {
    const { nic } = wired();
    nic.start();
    nic.write(R.IVAR, 0x8000);
    nic.msix();
    nic.write(R.EITR, 100 << 2);
    nic.write(R.EIMS, 1);
    nic.write(R.EIAC, 1);
    nic.write(R.TXDCTL, ENABLE | (4 << 16));
    const first = nic.send(frame(64));
    // The counter stood at zero: at once.
    expect([nic.sent(first), nic.messages.length]).toEqual([1, 1]);
    const some = [nic.send(frame(64)), nic.send(frame(64))];
    expect(some.map((index) => nic.sent(index))).toEqual([0, 0]);
    nic.clock.advance(100e3);
    expect(some.map((index) => nic.sent(index))).toEqual([1, 1]);
    expect(nic.messages.length).toBe(2);
    const four = [1, 2, 3, 4].map(() => nic.send(frame(64)));
    expect(four.map((index) => nic.sent(index))).toEqual([1, 1, 1, 1]);
  });

  it('the end of a counter is for the queues of its own vector', () => {
    const { nic } = wired();
    nic.start({ queues: 2 });
    // Queue 0 has vector 0, queue 1 vector 1, whose counter runs longer.
    nic.write(R.IVAR, 0x8000);
    nic.write(R.IVAR + 4, 0x8100);
    nic.msix();
    nic.write(R.EITR, 100 << 2);
    nic.write(R.EITR + 4, 300 << 2);
    nic.write(R.EIMS, 3);
    nic.write(R.EIAC, 3);
    for (const queue of [0, 1]) {
      nic.write(of(R.TXDCTL, queue), ENABLE | (4 << 16));
      nic.send(frame(64), undefined, { queue });
    }
    const waiting = [0, 1].map((queue) => nic.send(frame(64), undefined, { queue }));
    nic.clock.advance(100e3);
    expect([nic.sent(waiting[0] as number, 0), nic.sent(waiting[1] as number, 1)]).toEqual([1, 0]);
    nic.clock.advance(200e3);
    expect(nic.sent(waiting[1] as number, 1)).toBe(1);
    // All causes one level: EITR0 is everybody's counter.
    nic.write(R.GPIE, 0);
    nic.read(R.ICR);
    nic.write(R.EICR, 0xffff_ffff);
    nic.write(R.EIMC, 0xffff_ffff);
    nic.write(R.IMS, TXDW);
    const first = [0, 1].map((queue) => nic.send(frame(64), undefined, { queue }));
    expect(nic.sent(first[0] as number, 0)).toBe(1);
    const more = [0, 1].map((queue) => nic.send(frame(64), undefined, { queue }));
    expect(more.map((index, queue) => nic.sent(index, queue))).toEqual([0, 0]);
    nic.clock.advance(100e3);
    expect(more.map((index, queue) => nic.sent(index, queue))).toEqual([1, 1]);
  });

  it('does not lose a frame that its receiver refuses', () => {
    const { nic, peer, segment, outbox } = wired();
    nic.start();
    peer.room = 1;
    nic.data(frame(64));
    nic.data(frame(65));
    nic.data(frame(66));
    nic.go();
    expect(outbox().map(({ length }) => length)).toEqual([64]);
    expect(nic.read(R.TDH)).toBe(1);
    peer.room = 10;
    segment.wake(peer);
    expect(outbox().map(({ length }) => length)).toEqual([65, 66]);
    expect(nic.read(R.TDH)).toBe(3);
  });
});
