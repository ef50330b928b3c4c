// The embedded switch beyond where frames go: guards against spoofing, tags, stripping, full rings, rates, storms, reflective relay, counters.

import { describe, expect, test } from 'vitest';
import { SPOOFED, TO_WIRE, WIRE } from '#devices/igb/pools';
import { AT, ICR_DOUTSYNC, ICR_SCE } from '#devices/igb/registers';
import { EmbeddedSwitch } from '#devices/igb/switch/embedded-switch';
import { DROP_FILTERED, DROP_NOT_READY, DROP_TOO_LONG } from '#net/counters';
import { frameBytes, type ModelConfig, type ModelFrame, type ModelPool, registersOf } from './model.ts';

const A = '02:00:00:00:00:0a';
const B = '02:00:00:00:00:0b';
const C = '02:00:00:00:00:0c';
const BROADCAST = 'ff:ff:ff:ff:ff:ff';
const GROUP = '01:00:5e:00:00:07';

const PLAIN: ModelPool = {
  untagged: true,
  multicastHash: false,
  unicastHash: false,
  broadcast: true,
  multicast: false,
  longest: null,
  hearsItself: false,
  macGuard: false,
  vlanGuard: false,
};

/** VF 0 has address A and VLAN 10, VF 1 B and VLAN 10 and 20, the PF pool 7 and C. */
function bench(change: Partial<ModelConfig> = {}, options: { readonly between?: 'reflective-relay'; readonly pools?: readonly Partial<ModelPool>[] } = {}) {
  const config: ModelConfig = {
    replication: true,
    ignoreMac: false,
    defaultPool: 7,
    noDefaultPool: true,
    unicastPromiscuous: false,
    multicastPromiscuous: false,
    broadcastAccept: true,
    offset: 0,
    vlanFilter: true,
    vfta: [0, 10, 20],
    vlvf: [
      { vlan: 10, pools: [0, 1], local: false, valid: true },
      { vlan: 20, pools: [1], local: false, valid: true },
    ],
    exact: [
      { mac: A, pools: [0], bySource: false, valid: true },
      { mac: B, pools: [1], bySource: false, valid: true },
      { mac: C, pools: [7], bySource: false, valid: true },
    ],
    multicastHash: [],
    unicastHash: [],
    pools: Array.from({ length: 8 }, (_, i) => ({ ...PLAIN, ...options.pools?.[i] })),
    vfs: 2,
    vfre: [0, 1],
    loopback: true,
    rules: [],
    ...change,
  };
  const words = registersOf(config);
  let now = 0;
  const sw = new EmbeddedSwitch({ words, now: () => now, speed: () => 2, ...(options.between !== undefined && { between: options.between }) });
  return {
    sw,
    words,
    at: (time: number) => {
      now = time;
    },
    send: (queue: number, f: Partial<ModelFrame>) => {
      const frame = { to: B, from: A, vlan: null, length: 60, ...f };
      return sw.transmit(frameBytes(frame), 0, frame.length, queue);
    },
    hear: (f: Partial<ModelFrame>, source = WIRE) => {
      const frame = { to: A, from: '02:99:00:00:00:01', vlan: null, length: 60, ...f };
      return sw.receive(frameBytes(frame), 0, frame.length, source);
    },
  };
}

describe('82576 7.10.3.8: anti-spoofing (QEMU stores DTXSWC and enforces nothing)', () => {
  const guarded = [{ macGuard: true, vlanGuard: true }];

  test('a frame from another’s address goes nowhere; WVBR names the queue, LVMMC the pool', () => {
    const { send, words } = bench({}, { pools: guarded });
    expect(send(8, { from: B })).toBe(SPOOFED);
    expect([words[AT.WVBR], words[AT.LVMMC]]).toEqual([1 << 8, 1]);
    expect(send(0, { from: A })).toBe(1 << 1);
  });

  test('a tag of a VLAN the pool is not in, too; an untagged frame says nothing of a VLAN', () => {
    const { send, words } = bench({}, { pools: guarded });
    expect(send(0, { vlan: 20 })).toBe(SPOOFED);
    expect(words[AT.LVMMC]).toBe(2);
    expect(send(0, { vlan: 10 })).toBe(1 << 1);
    expect(send(0, { vlan: null })).toBe(1 << 1);
  });

  test('the pool that is not guarded sends as whom it likes', () => {
    const { send, words } = bench({}, { pools: guarded });
    expect(send(1, { from: A, to: C })).toBe(1 << 7);
    expect(words[AT.WVBR]).toBe(0);
  });

  test('DTXCTL.SPOOF_INT: ICR.DOUTSYNC; ENABLE_SPOOF_QUEUE: the pool stands still in MDFB', () => {
    const { send, sw, words } = bench({}, { pools: guarded });
    words[AT.DTXCTL] = 0;
    send(0, { from: C });
    expect([sw.causes, words[AT.MDFB]]).toEqual([0, 0]);
    words[AT.DTXCTL] = (1 << 6) | (1 << 1);
    send(8, { from: C });
    expect([sw.causes, words[AT.MDFB]]).toEqual([ICR_DOUTSYNC, 1]);
  });

  test('DTXCTL.MDP_EN: so do descriptors that no driver writes', () => {
    const { sw, words } = bench();
    sw.misbehaved(9);
    expect([sw.causes, words[AT.MDFB], words[AT.WVBR]]).toEqual([0, 0, 0]);
    words[AT.DTXCTL] = 1 << 5;
    sw.misbehaved(9);
    expect([sw.causes, words[AT.MDFB], words[AT.LVMMC]]).toEqual([ICR_DOUTSYNC, 2, ((1 << 29) | 4) >>> 0]);
  });
});

describe('82576 7.10.3.4: what goes where', () => {
  test('no pool hears its own broadcast, unless LLE lets it (QEMU ignores LLE)', () => {
    expect(bench().send(0, { to: BROADCAST }) & 0xff).toBe(0b1111_1110);
    expect(bench({}, { pools: [{ hearsItself: true }] }).send(0, { to: BROADCAST }) & 0xff).toBe(0xff);
  });

  test('a neighbour’s address in a VLAN it is not in leads to the wire, not to nowhere', () => {
    expect(bench().send(1, { from: B, to: A, vlan: 20 })).toBe(TO_WIRE);
    expect(bench().send(1, { from: B, to: A, vlan: 10 })).toBe(1);
  });

  test('with a neighbour whose VF may not receive the frame is lost, and not on the wire', () => {
    const { send, sw } = bench({ vfre: [0] });
    expect(send(0, {})).toBe(0);
    expect(sw.reason).toBe(DROP_FILTERED);
  });

  test('VLVF.LVLAN keeps a VLAN inside', () => {
    const vlvf = [{ vlan: 10, pools: [0, 1], local: true, valid: true }];
    expect(bench({ vlvf }).send(0, { to: BROADCAST, vlan: 10 })).toBe(1 << 1);
  });

  test('without RXEN nothing turns around', () => {
    const { sw, words, send } = bench();
    words[AT.RCTL] = (words[AT.RCTL] as number) & ~2;
    sw.rebuild();
    expect(send(0, {})).toBe(TO_WIRE);
  });

  test('reflective relay: everything leaves, and what comes back does not reach who sent it', () => {
    const { send, hear } = bench({}, { between: 'reflective-relay' });
    expect(send(0, {})).toBe(TO_WIRE);
    expect(send(0, { to: BROADCAST })).toBe(TO_WIRE);
    expect(hear({ from: A, to: BROADCAST })).toBe(0b1111_1110);
    expect(hear({ from: A, to: B })).toBe(1 << 1);
  });
});

describe('why a frame went to nobody', () => {
  test('filtered, disabled, too long', () => {
    const off = bench({ vfre: [] });
    expect([off.hear({}), off.sw.reason]).toEqual([0, DROP_NOT_READY]);
    const on = bench();
    expect([on.hear({ to: '02:77:00:00:00:01' }), on.sw.reason]).toEqual([0, DROP_FILTERED]);
    expect([on.hear({ length: 1515 }), on.sw.reason]).toEqual([0, DROP_TOO_LONG]);
    expect(on.hear({ length: 1518, vlan: 10 })).toBe(1);
  });
});

describe('82576 8.12, 8.14: terms', () => {
  test('VMVIR inserts the port’s tag, forbids tags, or leaves it to the descriptor', () => {
    const { sw, words } = bench();
    words[AT.VMVIR] = 0x4000_a064;
    words[AT.VMVIR + 1] = 0x8000_a064;
    expect([sw.tagFor(0, false, 5), sw.tagFor(0, true, 5)]).toEqual([0xa064, 0xa064]);
    expect([sw.tagFor(1, false, 5), sw.tagFor(1, true, 5)]).toEqual([-1, -1]);
    expect([sw.tagFor(2, false, 5), sw.tagFor(2, true, 5)]).toEqual([-1, 5]);
  });

  test('one copy is stripped as its pool says, replicated ones as RPLOLR says', () => {
    const { sw, words, hear } = bench();
    words[AT.VMOLR] = (words[AT.VMOLR] as number) | (1 << 30);
    words[AT.VMOLR + 1] = (words[AT.VMOLR + 1] as number) | 0x8000_0000;
    sw.rebuild();
    hear({});
    expect([sw.stripsVlan(0), sw.stripsCrc(0), sw.stripsVlan(1), sw.stripsCrc(1)]).toEqual([true, false, false, true]);
    words[AT.RPLOLR] = 0;
    hear({ to: BROADCAST });
    expect([sw.stripsVlan(0), sw.stripsCrc(1)]).toEqual([false, false]);
    words[AT.RPLOLR] = 0xc000_0000;
    expect([sw.stripsVlan(5), sw.stripsCrc(5)]).toEqual([true, true]);
    words[AT.RPLOLR] = 0;
    words[AT.RCTL] = (words[AT.RCTL] as number) | (1 << 26);
    expect(sw.stripsCrc(5)).toBe(true);
  });

  test('a group frame to one pool without replication is stripped as that pool says', () => {
    const { sw, words, hear } = bench({ replication: false, noDefaultPool: false });
    words[AT.VMOLR + 7] = (words[AT.VMOLR + 7] as number) | (1 << 30);
    expect(hear({ to: GROUP })).toBe(0);
    expect(hear({ to: BROADCAST })).toBe(1 << 7);
    expect(sw.stripsVlan(7)).toBe(true);
  });

  test('RSS in a pool needs MRQC 101b and VMOLR.RSSE (QEMU cannot have both)', () => {
    const { sw, words } = bench();
    words[AT.VMOLR + 1] = (words[AT.VMOLR + 1] as number) | (1 << 17);
    sw.rebuild();
    expect(sw.rssIn(1)).toBe(false);
    words[AT.MRQC] = 5;
    sw.rebuild();
    expect([sw.on, sw.rssIn(0), sw.rssIn(1)]).toEqual([true, false, true]);
    words[AT.MRQC] = 2;
    sw.rebuild();
    expect(sw.on).toBe(false);
  });

  test('QDE names the queues that lose frames when full', () => {
    const { sw, words } = bench();
    words[AT.QDE] = 0x8001;
    expect([0, 1, 8, 15].map((queue) => sw.dropsWhenFull(queue))).toEqual([true, false, false, true]);
  });
});

describe('82576 RTTBCNRC: a queue’s rate', () => {
  /** As Linux computes it for 100 Mb/s of 1 Gb/s: 10 and no fraction. */
  const TENTH = (0x8000_0000 | (10 << 14)) >>> 0;

  test('a limited queue sends its share of the link’s time, others are not held', () => {
    const { sw, words } = bench();
    words[AT.RTTDQSEL] = 3;
    sw.limiter.program(TENTH, 0);
    // 1514 octets and 24 around them at 8 ns, ten times.
    const each = 1538 * 8 * 10;
    for (let sent = 0; sent < 100; sent++) {
      if (sent > 0) expect(sw.allowance(3, sent * each - 1)).toBe(false);
      expect(sw.allowance(3, sent * each)).toBe(true);
      sw.spent(3, 1518);
    }
    expect(sw.allowance(3, 10)).toBe(false);
    expect(sw.nextAllowed).toBe(100 * each);
    expect(sw.allowance(4, 10)).toBe(true);
  });

  test('a fraction of the factor counts: 1.5', () => {
    const { sw } = bench();
    sw.limiter.program((0x8000_0000 | (1 << 14) | 0x2000) >>> 0, 0);
    sw.allowance(0, 0);
    sw.spent(0, 1004);
    expect(sw.allowance(0, 0)).toBe(false);
    expect(sw.nextAllowed).toBe(1024 * 8 * 1.5);
  });

  test('who was idle catches up by as much as RTTBCNRM lets it', () => {
    const { sw, words } = bench();
    words[AT.RTTBCNRM] = 4;
    sw.limiter.program(TENTH, 0);
    let burst = 0;
    const later = 1e9;
    while (sw.allowance(0, later)) {
      sw.spent(0, 1004);
      burst++;
    }
    expect(burst).toBe(5);
  });

  test('the bank of each queue is its own, and RS_ENA off ends the limit', () => {
    const { sw, words } = bench();
    words[AT.RTTDQSEL] = 1;
    sw.limiter.program(TENTH, 0);
    words[AT.RTTDQSEL] = 2;
    expect(sw.limiter.shown()).toBe(0);
    words[AT.RTTDQSEL] = 1;
    expect(sw.limiter.shown()).toBe(TENTH);
    sw.allowance(1, 0);
    sw.spent(1, 64);
    expect(sw.allowance(1, 0)).toBe(false);
    sw.limiter.program(0, 0);
    expect(sw.allowance(1, 0)).toBe(true);
  });
});

describe('82576 SCCRL: storm control', () => {
  const WINDOW = 500e3;
  const BDICW = 8;
  const BDIPW = 4;

  test('BDICW: above the threshold broadcasts are dropped to the end of the window; the turn is told', () => {
    const { sw, words, hear, at } = bench();
    words[AT.BSCTRH] = 4;
    words[AT.SCCRL] = BDICW | (1 << 8);
    sw.rebuild();
    const taken = () => [1, 2, 3, 4, 5, 6].map(() => hear({ to: BROADCAST }) !== 0);
    expect(taken()).toEqual([true, true, true, true, false, false]);
    expect(sw.causes).toBe(ICR_SCE);
    expect([words[AT.SCSTS], words[AT.BSCCNT]]).toEqual([1, 6]);
    // Others pass, and broadcasts from inside are no storm.
    expect(hear({ to: A })).not.toBe(0);
    expect(hear({ to: BROADCAST }, 1) & 1).toBe(1);
    at(WINDOW);
    expect(taken()).toEqual([true, true, true, true, false, false]);
  });

  test('BDIPW: a window after one with a storm takes none at all', () => {
    const { sw, words, hear, at } = bench();
    words[AT.BSCTRH] = 1;
    words[AT.SCCRL] = BDIPW | (1 << 8);
    sw.rebuild();
    expect([1, 2, 3].map(() => hear({ to: BROADCAST }) !== 0)).toEqual([true, true, true]);
    at(WINDOW);
    expect(hear({ to: BROADCAST })).toBe(0);
    at(2 * WINDOW);
    expect(hear({ to: BROADCAST })).not.toBe(0);
  });

  test('a quiet window in between and all is forgotten; multicast is counted apart', () => {
    const { sw, words, hear, at } = bench({}, { pools: [{ multicast: true }] });
    words[AT.BSCTRH] = 0;
    words[AT.MSCTRH] = 100;
    words[AT.SCCRL] = BDIPW | 1 | (1 << 8);
    sw.rebuild();
    hear({ to: BROADCAST });
    expect(hear({ to: GROUP })).toBe(1);
    expect(words[AT.MSCCNT]).toBe(1);
    at(2.5 * WINDOW);
    sw.storms.advance(2.5 * WINDOW);
    expect([words[AT.SCSTS], words[AT.BSCCNT], words[AT.MSCCNT]]).toEqual([0, 0, 0]);
    expect(hear({ to: BROADCAST })).not.toBe(0);
  });
});

describe('82576 7.4.5: double VLAN', () => {
  test('the tag behind the outer one is the frame’s VLAN', () => {
    const { sw, words } = bench();
    words[AT.CTRL_EXT] = (words[AT.CTRL_EXT] as number) | (1 << 26);
    words[AT.VET] = 0x88a8_8100;
    sw.rebuild();
    const head = [...frameBytes({ to: BROADCAST, from: C, vlan: null, length: 60 }).slice(0, 12)];
    const double = Uint8Array.from([...head, 0x88, 0xa8, 0, 5, 0x81, 0, 0, 10, 8, 0]);
    expect(sw.receive(double, 0, 1522, WIRE)).toBe(0b11);
    const outer = Uint8Array.from([...head, 0x81, 0, 0, 10, 8, 0, 0, 0, 0, 0]);
    expect(sw.receive(outer, 0, 60, WIRE)).toBe(0xff);
  });
});

describe('a stream: frames of one pool with the same two addresses, one after the other', () => {
  const STRIP = 0xc000_0000;

  test('goes where its first frame went', () => {
    const { send } = bench();
    expect([send(0, {}), send(0, {}), send(8, {})]).toEqual([2, 2, 2]);
  });

  test('ends where its receiver may no longer receive, and goes on when it may', () => {
    const { send, words } = bench();
    send(0, {});
    words[AT.VFRE] = 0;
    expect(send(0, {})).toBe(0);
    words[AT.VFRE] = 3;
    expect(send(0, {})).toBe(2);
  });

  test('follows an address to another pool', () => {
    const { send, words, sw } = bench();
    send(0, {});
    words[AT.RAH2 + 1] = ((words[AT.RAH2 + 1] as number) & ~(0xff << 18)) | (1 << 25);
    sw.rebuild();
    expect(send(0, {})).toBe(1 << 7);
  });

  test('is judged anew from another pool, to or from another address, with a tag or at another size', () => {
    const { send } = bench({}, { pools: [{ macGuard: true }, { macGuard: true, longest: 1000 }] });
    expect(send(0, {})).toBe(2);
    expect(send(1, {})).toBe(SPOOFED);
    expect(send(0, { to: C })).toBe(1 << 7);
    expect(send(0, {})).toBe(2);
    expect(send(0, { from: C })).toBe(SPOOFED);
    // The last two octets are in a register of their own.
    expect(send(0, { to: '02:99:00:00:00:0b' })).toBe(TO_WIRE);
    expect(send(0, {})).toBe(2);
    expect(send(0, { from: '02:99:00:00:00:0a' })).toBe(SPOOFED);
    expect(send(0, { vlan: 20 })).toBe(2);
    expect(send(0, { length: 997 })).toBe(0);
    expect(send(0, {})).toBe(2);
  });

  test('is no replicated packet after a broadcast, nor after what came from the network', () => {
    const { send, hear, sw, words } = bench();
    words[AT.RPLOLR] = STRIP;
    send(0, {});
    send(0, { to: BROADCAST });
    expect(sw.stripsVlan(1)).toBe(true);
    send(0, {});
    expect(sw.stripsVlan(1)).toBe(false);
    hear({ to: BROADCAST });
    send(0, {});
    expect(sw.stripsCrc(1)).toBe(false);
  });

  test('to a pool and one that looks on are two copies each time', () => {
    const { send, sw, words } = bench({ rules: [{ pools: [1], vlanEntries: null, uplink: false, downlink: false, observer: 7 }] });
    words[AT.RPLOLR] = STRIP;
    for (let n = 0; n < 2; n++) {
      expect(send(0, {})).toBe(2 | (1 << 7));
      expect(sw.stripsVlan(1)).toBe(true);
    }
  });
});
