// Flow control of the 82576, what it counts, and frames with two tags.
import { describe, expect, it } from 'vitest';
import { BROADCAST, frame, list, packet } from '../../e1000/bench.ts';
import { R, RCTL_BAM, RCTL_EN, RCTL_SECRC, wired } from './bench.ts';

const ON = RCTL_EN | RCTL_BAM | RCTL_SECRC;
const RFCE = 1 << 27;
const TFCE = 1 << 28;
const CTRL_VME = 1 << 30;
const EXT_VLAN = 1 << 26;

const pause = (quanta: number): number[] => [1, 0x80, 0xc2, 0, 0, 1, 2, 2, 2, 2, 2, 2, 0x88, 8, 0, 1, quanta >>> 8, quanta & 0xff, ...new Array(42).fill(0)];

describe('flow control', () => {
  it('a PAUSE stops the transmitter for its time, another with 0 lets it go', () => {
    const { nic, inject, outbox } = wired();
    nic.start({ ctrl: RFCE });
    inject(pause(100));
    nic.send(frame(64));
    expect([outbox().length, nic.read(R.STATUS) & 0x10, nic.read(R.XOFFRXC)]).toEqual([0, 0x10, 1]);
    nic.clock.advance(100 * 512 - 1);
    expect(outbox()).toEqual([]);
    nic.clock.advance(1);
    expect(outbox()).toHaveLength(1);
    inject(pause(0xffff));
    nic.send(frame(64));
    inject(pause(0));
    expect(outbox()).toHaveLength(1);
    // It goes no further than the MAC.
    expect(nic.received()).toEqual([]);
  });

  it('without RFCE it is a frame that nobody asked for', () => {
    const { nic, inject, outbox } = wired();
    nic.start();
    inject(pause(100));
    nic.send(frame(64));
    expect([outbox().length, nic.read(R.XOFFRXC)]).toEqual([1, 0]);
  });

  it('frames that wait for buffers hold their sender back: XOFF with FCTTV, XON when there is room', () => {
    const { nic, inject, outbox } = wired();
    nic.start({ ctrl: TFCE, buffers: 1 });
    nic.write(R.FCTTV, 0x1234);
    nic.write(R.FCRTH, 0x1000);
    nic.write(R.FCRTL, 0x8000_0800);
    inject(frame(64), frame(65));
    const [xoff] = outbox();
    expect(list(xoff?.subarray(0, 18))).toEqual([1, 0x80, 0xc2, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 0xa, 0x88, 8, 0, 1, 0x12, 0x34]);
    nic.write(R.RDT, 8);
    const [xon] = outbox();
    expect(list(xon?.subarray(14, 18))).toEqual([0, 1, 0, 0]);
    expect([nic.read(R.XOFFTXC), nic.read(R.XONTXC), nic.read(R.GPTC), nic.received().length]).toEqual([1, 1, 0, 2]);
  });
});

describe('statistics', () => {
  it('count each way by size and kind, 64 bits wide, and clear when they are read', () => {
    const { nic, inject } = wired();
    nic.start();
    nic.send(frame(64, BROADCAST));
    nic.send(frame(100, [1, 0, 0x5e, 0, 0, 1]));
    inject(frame(60), frame(100), frame(64, BROADCAST));
    expect([nic.read(R.GPTC), nic.read(R.BPTC), nic.read(R.MPTC), nic.read(R.PTC127), nic.read(R.TPT)]).toEqual([2, 1, 1, 2, 2]);
    expect([nic.read(R.GPRC), nic.read(R.BPRC), nic.read(R.PRC64), nic.read(R.PRC127), nic.read(R.RPTHC)]).toEqual([3, 1, 1, 2, 3]);
    expect([nic.read(R.GORCL), nic.read(R.GORCL), nic.read(R.GORCH), nic.read(R.GORCL)]).toEqual([236, 236, 0, 0]);
    expect([nic.read(R.GPTC), nic.read(R.GPRC), nic.read(R.PRC64)]).toEqual([0, 0, 0]);
  });

  it('frames too short in loopback are undersized', () => {
    const { nic } = wired();
    nic.start({ rctl: ON | 0x40, tctl: 0xf2 });
    nic.send(frame(40, BROADCAST));
    expect([nic.read(R.RUC), nic.received().length]).toEqual([1, 0]);
  });
});

describe('two tags', () => {
  const double = (inner: number): number[] => {
    const bytes = packet({ tag: inner, filled: true });
    return [...bytes.slice(0, 12), 0x88, 0xa8, 0, 0x21, ...bytes.slice(12)];
  };

  it('the inner one is filtered and stripped; VEXT says that there is an outer one', () => {
    const { nic, inject } = wired();
    nic.start({ ctrl: CTRL_VME, rctl: ON | 0x4_0000 });
    nic.write(R.CTRL_EXT, EXT_VLAN);
    nic.write(R.VET, 0x88a8_8100);
    nic.write(R.VFTA + 4 * (7 >>> 5), 1 << 7);
    inject(double(7), double(8));
    const [got, more] = nic.received();
    expect(more).toBeUndefined();
    expect([got?.tag, (got?.status ?? 0) & 0x208]).toEqual([7, 0x208]);
    expect(list(got?.bytes.subarray(12, 20))).toEqual([0x88, 0xa8, 0, 0x21, 8, 0, 0x45, 0]);
  });

  it('may be eight octets longer', () => {
    const { nic, inject } = wired();
    nic.start();
    nic.write(R.CTRL_EXT, EXT_VLAN);
    nic.write(R.VET, 0x88a8_8100);
    const bytes = packet({ tag: 7, payload: 1460 });
    const both = [...bytes.slice(0, 12), 0x88, 0xa8, 0, 1, ...bytes.slice(12)];
    inject(both, [...both, 0]);
    expect(nic.received().map(({ bytes: b }) => b.length)).toEqual([1522]);
  });
});
