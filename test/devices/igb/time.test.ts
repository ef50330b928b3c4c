// IEEE 1588 on the 82576: the clock, its pace and steps, stamps of frames sent and received, over Ethernet and UDP.
import { describe, expect, it } from 'vitest';
import { frame, packet } from '../../e1000/bench.ts';
import { EOP, IFCS, R, RS, type Station, wired } from './bench.ts';

const STATUS_TS = 1 << 16;
const TSTAMP = 1 << 19;
/** As Linux sets it: 16 ns shifted up by 19, every 16 ns. */
const PACE = (1 << 24) | (16 << 19);

function now(nic: Station): bigint {
  const low = nic.read(R.SYSTIML);
  return (BigInt(nic.read(R.SYSTIMH)) << 32n) | BigInt(low);
}

function stamp(nic: Station, low: number): bigint {
  return (BigInt(nic.read(low + 4)) << 32n) | BigInt(nic.read(low));
}

/** A message of version 2: type, from whom, sequence. */
function message(type: number, sequence: number): number[] {
  const bytes = new Array<number>(44).fill(0);
  bytes[0] = type;
  bytes[1] = 2;
  for (let i = 0; i < 10; i++) bytes[20 + i] = 0xa0 + i;
  bytes[30] = sequence >>> 8;
  bytes[31] = sequence & 0xff;
  return bytes;
}

const overEthernet = (type: number, sequence = 0x1234): number[] => [...frame(14, [1, 0x1b, 0x19, 0, 0, 0], [0x88, 0xf7]), ...message(type, sequence)];

function overUdp(body: number[], port = 319): number[] {
  const bytes = packet({ udp: true, payload: body.length });
  bytes[36] = port >>> 8;
  bytes[37] = port & 0xff;
  bytes.splice(42, body.length, ...body);
  return bytes;
}

describe('SYSTIM', () => {
  it('counts INCVALUE every INCPERIOD ticks, can be set, paced anew and stepped both ways', () => {
    const { nic } = wired();
    expect(now(nic)).toBe(0n);
    nic.write(R.TIMINCA, PACE);
    nic.clock.advance(1600);
    expect(now(nic)).toBe(1600n << 19n);
    nic.write(R.TIMINCA, (2 << 24) | 5);
    nic.clock.advance(320);
    expect(now(nic)).toBe((1600n << 19n) + 50n);
    nic.write(R.SYSTIML, 0xffff_fffe);
    nic.write(R.SYSTIMH, 7);
    nic.clock.advance(32);
    expect(now(nic)).toBe((8n << 32n) + 3n);
    nic.write(R.TIMADJL, 3);
    nic.write(R.TIMADJH, 1);
    expect(now(nic)).toBe((9n << 32n) + 6n);
    nic.write(R.TIMADJL, 10);
    nic.write(R.TIMADJH, 0x8000_0000);
    expect(now(nic)).toBe((8n << 32n) + 0xffff_fffcn);
    nic.write(R.CTRL, 1 << 26);
    nic.clock.advance(1e6);
    expect(now(nic)).toBe(0n);
  });

  it('the high half is the one that belongs to the low half read before', () => {
    const { nic } = wired();
    nic.write(R.TIMINCA, (1 << 24) | 1);
    nic.write(R.SYSTIML, 0xffff_ffff);
    expect(nic.read(R.SYSTIML)).toBe(0xffff_ffff);
    nic.clock.advance(16);
    expect(nic.read(R.SYSTIMH)).toBe(0);
    expect([nic.read(R.SYSTIML), nic.read(R.SYSTIMH)]).toEqual([0, 1]);
  });
});

describe('stamps', () => {
  it('of a frame sent that asks for it: one until it is read', () => {
    const { nic, outbox } = wired();
    nic.start();
    nic.write(R.TIMINCA, (1 << 24) | 1);
    nic.write(R.TSYNCTXCTL, 0x10);
    nic.clock.advance(160);
    const at = now(nic);
    nic.send(frame(64), EOP | IFCS | RS, { mac: TSTAMP });
    nic.clock.advance(1600);
    nic.send(frame(64), EOP | IFCS | RS, { mac: TSTAMP });
    nic.send(frame(64));
    expect(outbox()).toHaveLength(3);
    expect(nic.read(R.TSYNCTXCTL)).toBe(0x11);
    expect(stamp(nic, R.TXSTMPL)).toBe(at);
    expect(nic.read(R.TSYNCTXCTL)).toBe(0x10);
    nic.send(frame(64), EOP | IFCS | RS, { mac: TSTAMP });
    expect(stamp(nic, R.TXSTMPL)).toBe(at + 100n);
  });

  it('of what comes over Ethernet, version 2: an Ethertype filter, one kind of message, who sent it', () => {
    const { nic, inject } = wired();
    nic.start({ rctl: 0x0400_8012 });
    nic.write(R.TIMINCA, (1 << 24) | 1);
    nic.write(R.ETQF + 12, 0x88f7 | (1 << 26) | (1 << 30));
    nic.write(R.TSYNCRXCTL, 0x10);
    nic.write(R.TSYNCRXCFG, 1 << 8);
    const at = now(nic);
    inject(overEthernet(0), overEthernet(1), overEthernet(1, 0x5678));
    expect(nic.received().map(({ status }) => status & STATUS_TS)).toEqual([0, STATUS_TS, 0]);
    expect(nic.read(R.TSYNCRXCTL)).toBe(0x11);
    expect([nic.read(R.RXSATRL), nic.read(R.RXSATRH)]).toEqual([0xa3a2_a1a0, 0x3412_a5a4]);
    expect(stamp(nic, R.RXSTMPL)).toBe(at);
    expect(nic.read(R.TSYNCRXCTL)).toBe(0x10);
    inject(overUdp(message(1, 1)));
    expect(nic.received().map(({ status }) => status & STATUS_TS)).toEqual([0]);
  });

  it('of what comes over UDP: version 1 by its control field, version 2 by its type, any event', () => {
    const { nic, inject } = wired();
    nic.start({ rctl: 0x0400_8012 });
    nic.write(R.TSYNCRXCFG, (3 << 8) | 1);
    const stamped = (type: number, bytes: number[]): boolean => {
      nic.write(R.TSYNCRXCTL, 0x10 | (type << 1));
      inject(bytes);
      const [got] = nic.received();
      nic.read(R.RXSTMPL + 4);
      return ((got?.status ?? 0) & STATUS_TS) !== 0;
    };
    const v1 = (control: number): number[] => {
      const bytes = new Array<number>(60).fill(0);
      bytes[32] = control;
      return overUdp(bytes);
    };
    expect([stamped(1, v1(1)), stamped(1, v1(0))]).toEqual([true, false]);
    expect([stamped(2, overUdp(message(3, 1))), stamped(2, overUdp(message(0, 1))), stamped(2, overUdp(message(3, 1), 320))]).toEqual([true, false, false]);
    expect([stamped(5, overUdp(message(2, 1))), stamped(5, overUdp(message(8, 1)))]).toEqual([true, false]);
    expect([stamped(4, frame(64)), stamped(0, overUdp(message(3, 1)))]).toEqual([true, false]);
  });

  it('by a 5-tuple filter, as Linux sets it up', () => {
    const { nic, inject } = wired();
    nic.start({ rctl: 0x0400_8012 });
    nic.write(R.TSYNCRXCTL, 0x10 | (2 << 1));
    nic.write(R.IMIR + 12, 0x3f01);
    nic.write(R.IMIREXT + 12, (1 << 12) | (1 << 19));
    nic.write(R.SPQF + 12, 0x3f01);
    nic.write(R.FTQF + 12, 17 | 0x8000 | (1 << 27) | 0x6000_0000);
    const bytes = overUdp(message(0, 9));
    bytes[34] = 1;
    bytes[35] = 0x3f;
    inject(bytes);
    expect(nic.received().map(({ status }) => status & STATUS_TS)).toEqual([STATUS_TS]);
  });

  it('a message cut short is nobody’s', () => {
    const { nic, inject } = wired();
    nic.start({ rctl: 0x0400_8012 });
    nic.write(R.ETQF, 0x88f7 | (1 << 26) | (1 << 30));
    nic.write(R.TSYNCRXCTL, 0x10);
    inject(overEthernet(0).slice(0, 47), overUdp(message(0, 1)).slice(0, 60));
    expect(nic.received().map(({ status }) => status & STATUS_TS)).toEqual([0, 0]);
  });
});
