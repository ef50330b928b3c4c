// An e1000 saved in the middle of things goes on elsewhere as if nothing had happened; a record that is not exact is refused and changes nothing.
import { describe, expect, it } from 'vitest';
import { EOP, frame, IDE, IFCS, packet, R, RS, RXT0, type Station, TSE, TXDW, wired } from './bench.ts';

function moved(from: Station, to: Station): void {
  to.clock.advanceTo(Math.max(to.clock.now(), from.clock.now()));
  const saved = structuredClone(from.nic.save());
  to.bytes.set(from.bytes);
  to.nic.restore(saved);
}

describe('mid-traffic', () => {
  it('frames held in a segmented packet go on with the next piece', () => {
    const a = wired();
    a.nic.start();
    a.peer.room = 2;
    const plain = packet({ payload: 3000, seed: true });
    const bytes = [...plain.slice(0, 12), 0x05, 0xdc, 0xaa, 0xaa, 3, 0, 0, 0, ...plain.slice(12)];
    a.nic.context({ ipcss: 22, ipcso: 32, ipcse: 41, tucss: 42, tucso: 58, command: 3 | TSE, paylen: 3000, mss: 600, hdrlen: 62 });
    const index = a.nic.data(bytes, EOP | IFCS | RS | TSE, 3);
    a.nic.go();
    expect(a.peer.inbox).toHaveLength(2);
    const b = wired();
    b.nic.start();
    moved(a.nic, b.nic);
    b.nic.nic.resume();
    expect([...a.peer.inbox, ...b.peer.inbox].flatMap(({ bytes: f }) => [...f.subarray(62)])).toEqual(bytes.slice(62));
    expect([b.nic.sent(index), b.nic.read(R.TSCTC), b.nic.read(R.GPTC)]).toEqual([1, 1, 5]);
  });

  it('timers, throttle, causes, statistics, contexts, threshold, PHY and EEPROM', () => {
    const a = wired();
    a.nic.start();
    a.nic.write(R.IMS, RXT0 | TXDW);
    a.nic.write(R.RDTR, 100);
    a.nic.write(R.TIDV, 300);
    a.nic.write(R.TXDCTL, 0x0108_0000);
    a.nic.context({ command: 3 });
    a.inject(frame());
    const index = a.nic.send(frame(), EOP | IFCS | RS | IDE);
    a.nic.clock.advance(50 * 1024);
    const b = wired();
    moved(a.nic, b.nic);
    expect([b.nic.line, b.nic.read(R.GPRC), b.nic.read(R.GPTC), b.nic.read(R.STATUS)]).toEqual([false, 1, 1, a.nic.read(R.STATUS)]);
    b.nic.clock.advance(50 * 1024);
    expect([b.nic.line, b.nic.read(R.ICR) & RXT0, b.nic.sent(index)]).toEqual([true, RXT0, 0]);
    b.nic.clock.advance(200 * 1024);
    expect([b.nic.read(R.ICR) & TXDW, b.nic.sent(index)]).toEqual([TXDW, 1]);
    const again = wired();
    moved(b.nic, again.nic);
    expect(again.nic.nic.save()).toEqual(b.nic.nic.save());
  });

  it('autonegotiation that was under way', () => {
    const a = wired();
    a.nic.write(R.CTRL, 0x40);
    a.nic.clock.advance(300e6);
    const b = wired();
    moved(a.nic, b.nic);
    b.nic.clock.advance(199e6);
    expect(b.nic.read(R.STATUS) & 2).toBe(0);
    b.nic.clock.advance(1e6);
    expect(b.nic.read(R.STATUS) & 2).toBe(2);
  });

  it('through the machine', async () => {
    const a = wired();
    a.nic.start();
    a.nic.send(frame(99));
    a.nic.nic.pause();
    a.inject(frame(77));
    expect(a.nic.received()).toHaveLength(0);
    a.nic.nic.resume();
    expect(a.nic.received()).toHaveLength(1);
    const b = wired();
    b.nic.clock.advanceTo(a.nic.clock.now());
    await b.nic.machine.restore(await a.nic.machine.save({ memory: true }));
    expect([b.nic.read(R.GPTC), b.nic.read(R.TDT), b.nic.read(R.RDH)]).toEqual([1, 1, 1]);
    b.inject(frame(88));
    expect(b.nic.read(R.RDH)).toBe(2);
  });
});

it('times of another clock, or of nobody, are brought within what the hardware can count', () => {
  const a = wired();
  a.nic.start();
  a.nic.write(R.RDTR, 100);
  a.nic.write(R.ITR, 1000);
  a.inject(frame());
  const saved = structuredClone(a.nic.nic.save()) as { state: { interrupts: { timers: number[]; rose: number }; link: { pauseEnds: number } } };
  saved.state.interrupts.timers[0] = 1e18;
  saved.state.interrupts.rose = 1e18;
  saved.state.link.pauseEnds = 1e18;
  const b = wired();
  b.nic.start();
  b.nic.nic.restore(saved);
  b.nic.write(R.IMS, RXT0);
  // Sixteen bits of 1.024 us.
  b.nic.clock.advance(0xffff * 1024 - 1);
  expect([b.nic.line, b.nic.read(R.ICS) & RXT0]).toEqual([false, 0]);
  b.nic.clock.advance(1);
  expect([b.nic.line, b.nic.read(R.ICS) & RXT0]).toEqual([true, RXT0]);
  b.nic.send(frame());
  expect(b.peer.inbox).toEqual([]);
  b.nic.clock.advance(0xffff * 512 * 100);
  expect(b.peer.inbox).toHaveLength(1);
});

describe('a record that does not fit', () => {
  type Envelope = { part: string; version: number; state: { [key: string]: unknown } };
  const broken: [string, (record: Envelope) => void][] = [
    ['of another part', (r) => Object.assign(r, { part: 'igb' })],
    ['of another version', (r) => Object.assign(r, { version: 99 })],
    ['of another model', (r) => Object.assign(r.state, { model: '82544GC' })],
    ['without registers', (r) => Object.assign(r.state, { registers: undefined })],
    ['with a ring length that no driver can write', (r) => Object.assign(r.state.registers as { [k: string]: number[] }, { TDLEN: [0xffff_ffff] })],
    ['with masks of causes there are not', (r) => Object.assign(r.state.registers as { [k: string]: number[] }, { IMS: [0xffff_ffff] })],
    ['with a register too few', (r) => Object.assign(r.state.registers as { [k: string]: number[] }, { MTA: [1] })],
    ['with half the statistics', (r) => Object.assign(r.state, { statistics: [1] })],
    ['with negative counts', (r) => Object.assign(r.state, { statistics: (r.state.statistics as number[]).map(() => -1) })],
    ['with another EEPROM', (r) => Object.assign(r.state, { eeprom: { words: new Uint16Array(3), wire: [] } })],
    ['with pins that cannot be', (r) => Object.assign(r.state.eeprom as { wire: number[] }, { wire: [0, 0, 0, 99, 0, 0, 0, 0, 0] })],
    ['with a PHY of other size', (r) => Object.assign((r.state.link as { phy: object }).phy, { registers: new Uint16Array(4) })],
    ['with time that is none', (r) => Object.assign(r.state.interrupts as object, { timers: [Number.NaN, 0, 0, 0, 0] })],
    ['with contexts missing', (r) => Object.assign(r.state.transmit as object, { contexts: [] })],
    ['with pieces beyond any packet', (r) => Object.assign(r.state.transmit as object, { pieces: 1e9 })],
    ['with write-backs beyond any ring', (r) => Object.assign(r.state.transmit as object, { waiting: [0, 1e9] })],
    ['with an address that is no word', (r) => Object.assign(r.state, { ioAddress: -1 })],
    ['with a short packet buffer', (r) => Object.assign(r.state, { packetBuffer: new Uint32Array(1) })],
    ['that is nothing', (r) => Object.assign(r, { state: null })],
  ];
  it.each(broken)('%s is refused', (_, spoil) => {
    const a = wired();
    a.nic.start();
    const record = structuredClone(a.nic.nic.save()) as Envelope;
    spoil(record);
    const b = wired();
    b.nic.start();
    b.nic.write(R.VET, 0x1234);
    const before = b.nic.nic.save();
    expect(() => b.nic.nic.restore(record)).toThrowError(expect.objectContaining({ code: 'NICBOX_RESTORE' }));
    expect(b.nic.nic.save()).toEqual(before);
  });
});
