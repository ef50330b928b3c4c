// The 82576 driver's rings over plain memory, and its two mailbox ends over plain words: the test plays the device by hand, from the datasheet (7.1, 7.2, 8.14), and lies to the driver.

import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { GuestMemory } from '#core/guest-memory';
import { type AdvancedFrame, AdvancedReceiveQueue } from '#guest-sim/advanced-receive';
import { AdvancedTransmitQueue } from '#guest-sim/advanced-transmit';
import { GuestArena } from '#guest-sim/arena';
import { PfMailbox, VfMailbox } from '#guest-sim/igb-mailbox';
import type { RegisterBlock } from '#guest-sim/intel-registers';
import { TransmitOffload } from '#guest-sim/net-transmit';

const RX = 0xc000;
const TX = 0xe000;
const SIZE = 32;

/** Registers that keep what is written and remember in which order. */
class Region implements RegisterBlock {
  readonly words = new Map<number, number>();
  readonly order: number[] = [];
  read(offset: number): number {
    return this.words.get(offset) ?? 0;
  }
  write(offset: number, value: number): void {
    this.words.set(offset, value >>> 0);
    this.order.push(offset);
  }
}

let arena: GuestArena;
let region: Region;

beforeEach(() => {
  // Above 4 GiB would be out of an arena's reach; the last page below shows addresses whose sign bit is set.
  arena = new GuestArena(new GuestMemory([{ base: 0xf000_0000, size: 4 * 2 ** 20 }]));
  region = new Region();
});

/** Word `word` of descriptor `index` of the ring whose base register is `block`. */
function at(block: number, index: number, word: number): number {
  return (region.read(block) - arena.base + 16 * index + 4 * word) >>> 2;
}
const get = (block: number, index: number, word: number): number => arena.u32[at(block, index, word)] as number;
function put(block: number, index: number, words: readonly number[]): void {
  for (const [word, value] of words.entries()) arena.u32[at(block, index, word)] = value;
}

describe('a receive ring', () => {
  function open(splitHeaders = false): AdvancedReceiveQueue {
    const queue = new AdvancedReceiveQueue({ arena, registers: region, block: RX, index: 2, size: SIZE, splitHeaders, drop: false });
    queue.start();
    queue.stock();
    return queue;
  }
  const seen: Partial<AdvancedFrame>[] = [];
  const sink = {
    receive: (f: unknown) => {
      const { length, vlan, hashValue, hashReport, packetType, checksum, badChecksum, badIpChecksum, splitHeader, segmentCount } = f as AdvancedFrame;
      seen.push({ length, vlan, hashValue, hashReport, packetType, checksum, badChecksum, badIpChecksum, splitHeader, segmentCount });
    },
  };
  beforeEach(() => {
    seen.length = 0;
  });

  it('is programmed before it is turned on, and stocked after (4.5.9)', () => {
    open();
    expect(region.order.at(-1)).toBe(RX + 0x18);
    expect(region.order.at(-2)).toBe(RX + 0x28);
    expect(region.read(RX + 0x08)).toBe(SIZE * 16);
    expect(region.read(RX + 0x0c)).toBe((1 << 25) | 2);
    expect(region.read(RX + 0x18)).toBe(SIZE - 1);
    expect(region.read(RX) % 128).toBe(0);
    const buffers = new Set(Array.from({ length: SIZE }, (_, i) => get(RX, i, 0)));
    expect(buffers.size).toBe(SIZE);
    for (let i = 0; i < SIZE; i++) expect(get(RX, i, 2) & 1).toBe(0);
  });

  it('reads hash, type, tag and checksum out of a descriptor (7.1.5.2)', () => {
    const queue = open();
    // RSS type 1 (TCP over IPv4), packet type IPv4 and TCP; DD, EOP, VP, L4I, IPCS.
    put(RX, 0, [(0x11 << 4) | 1, 0xdead_beef, 0x6b, (0x7005 << 16) | 60]);
    // Type 0: the second word is no hash. L4E and IPE.
    put(RX, 1, [0, 0x1234_5678, 0x6000_0063, 64]);
    expect(queue.pending).toBe(true);
    expect(queue.poll(64, sink)).toBe(2);
    expect(seen).toEqual([
      {
        length: 60,
        vlan: 0x7005,
        hashValue: 0xdead_beef,
        hashReport: 2,
        packetType: 0x11,
        checksum: 1,
        badChecksum: false,
        badIpChecksum: false,
        splitHeader: 0,
        segmentCount: 1,
      },
      {
        length: 64,
        vlan: -1,
        hashValue: 0,
        hashReport: 0,
        packetType: 0,
        checksum: 0,
        badChecksum: true,
        badIpChecksum: true,
        splitHeader: 0,
        segmentCount: 1,
      },
    ]);
    expect(region.read(RX + 0x18)).toBe(1);
    expect(get(RX, 0, 2) & 1).toBe(0);
  });

  it('waits for a frame’s last descriptor, and arms all of them anew', () => {
    const queue = open();
    const before = [0, 1, 2].map((i) => get(RX, i, 0));
    put(RX, 0, [0, 0, 1, 2048]);
    put(RX, 1, [0, 0, 1, 2048]);
    expect(queue.poll(64, sink)).toBe(0);
    put(RX, 2, [0, 0, 3, 100]);
    expect(queue.poll(64, sink)).toBe(1);
    expect(seen[0]).toMatchObject({ length: 4196, segmentCount: 3 });
    expect([0, 1, 2].map((i) => get(RX, i, 0))).toEqual(before);
  });

  it('takes a split header, one that did not fit (HBO), and a frame that is all header', () => {
    const queue = open(true);
    expect(region.read(RX + 0x0c)).toBe((2 << 25) | (4 << 8) | 2);
    expect(get(RX, 0, 2)).not.toBe(0);
    put(RX, 0, [(0x8000_0000 | (54 << 21)) >>> 0, 0, 3, 100]);
    put(RX, 1, [(0x8000_0000 | (300 << 21)) >>> 0, 0, 3 | (1 << 23), 400]);
    put(RX, 2, [(0x8000_0000 | (60 << 21)) >>> 0, 0, 3, 0]);
    queue.poll(64, sink);
    expect(seen).toMatchObject([
      { length: 154, splitHeader: 54, segmentCount: 2 },
      { length: 400, splitHeader: 0, segmentCount: 1 },
      { length: 60, splitHeader: 60, segmentCount: 1 },
    ]);
  });

  it.each([
    ['more bytes than a buffer holds', [0, 0, 3, 2049], 'came back with 2049 bytes'],
    ['a header longer than its buffer', [(0x8000_0000 | (257 << 21)) >>> 0, 0, 3, 10], 'a header of 257 bytes'],
  ])('breaks on %s', (_what, words, why) => {
    const queue = open(true);
    put(RX, 0, words);
    expect(queue.poll(64, sink)).toBe(0);
    expect(queue.broken).toContain(why);
  });

  it('breaks on a ring without the end of a frame', () => {
    const queue = open();
    for (let i = 0; i < SIZE; i++) put(RX, i, [0, 0, 1, 10]);
    queue.poll(64, sink);
    expect(queue.broken).toContain('without the end of a frame');
  });

  it('drops damaged frames and those shorter than a header', () => {
    const queue = open();
    put(RX, 0, [0, 0, 0x8000_0003, 60]);
    put(RX, 1, [0, 0, 3, 13]);
    expect(queue.poll(64, sink)).toBe(2);
    expect(queue.malformed).toBe(2);
    expect(seen).toEqual([]);
  });

  it('survives whatever a device writes back', () => {
    const word = fc.integer({ min: 0, max: 0xffff_ffff });
    fc.assert(
      fc.property(fc.array(fc.tuple(word, word, word, word), { minLength: 1, maxLength: 100 }), fc.boolean(), (lies, split) => {
        const queue = open(split);
        let i = 0;
        for (const lie of lies) {
          put(RX, i, lie);
          i = (i + 1) % SIZE;
          queue.poll(8, { receive: (f) => void f.byte(f.length - 1) });
        }
        expect(queue.frame.length).toBeLessThanOrEqual(SIZE * 2048 + 256);
        queue.dispose();
      }),
    );
    expect(arena.bytesInUse).toBe(0);
  });
});

describe('a transmit ring', () => {
  function open(headWriteBack = false): AdvancedTransmitQueue {
    const queue = new AdvancedTransmitQueue({ arena, registers: region, block: TX, index: 0, size: SIZE, headWriteBack });
    queue.start();
    return queue;
  }
  const offload = (values: Partial<TransmitOffload>): TransmitOffload => Object.assign(new TransmitOffload(), { flags: 1 }, values);
  const ETHERNET = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

  it('sends a plain frame by one descriptor, told of when it is flushed', () => {
    const queue = open();
    const offset = queue.reserve();
    queue.send(100);
    expect(region.read(TX + 0x18)).toBe(0);
    queue.flush();
    expect(region.read(TX + 0x18)).toBe(1);
    expect(get(TX, 0, 0)).toBe(arena.address(offset));
    // EOP, IFCS, RS, DEXT, data; PAYLEN.
    expect(get(TX, 0, 2)).toBe(((0x2b << 24) | (3 << 20) | 100) >>> 0);
    expect(get(TX, 0, 3)).toBe(100 << 14);
    expect(queue.reclaim()).toBe(0);
    put(TX, 0, [0, 0, get(TX, 0, 2), 1]);
    expect(queue.reclaim()).toBe(1);
    expect(queue.outstanding).toBe(0);
  });

  it('describes checksums by a context, once for frames that share it (7.2.2.2)', () => {
    const queue = open();
    for (let i = 0; i < 3; i++) {
      const at = queue.reserve();
      arena.u8.set([...ETHERNET, 0x08, 0x00], at);
      queue.send(60, offload({ csumStart: 34, csumOffset: i === 2 ? 6 : 16 }));
    }
    queue.flush();
    expect(queue.contexts).toBe(2);
    // MACLEN 14, IPLEN 20; IPv4, TCP; index 0.
    expect([0, 1, 2, 3].map((w) => get(TX, 0, w))).toEqual([(14 << 9) | 20, 0, ((0x20 << 24) | (2 << 20) | (1 << 10) | (1 << 11)) >>> 0, 0]);
    expect(get(TX, 1, 3)).toBe((60 << 14) | (2 << 8));
    expect(get(TX, 3, 2)).toBe(((0x20 << 24) | (2 << 20) | (1 << 10)) >>> 0);
    expect(region.read(TX + 0x18)).toBe(5);
  });

  it('takes lengths and sums out of a frame to be cut, and counts its payload only (7.2.4)', () => {
    const queue = open();
    const from = arena.allocate(4096);
    arena.u8.set([...ETHERNET, 0x08, 0x00, 0x45, 0, 0x0b, 0xb8, 0, 1, 0, 0, 64, 6, 0xaa, 0xaa, 10, 0, 0, 1, 10, 0, 0, 2], from);
    arena.u8[from + 34 + 12] = 0x80;
    expect(queue.copy(arena.views, from, 3014, offload({ gsoType: 1, gsoSize: 1000, csumStart: 34, csumOffset: 16 }))).toBe(true);
    queue.flush();
    const first = get(TX, 1, 0) - arena.base;
    expect([...arena.u8.subarray(first + 16, first + 18), ...arena.u8.subarray(first + 24, first + 26)]).toEqual([0, 0, 0, 0]);
    // 10.0.0.1, 10.0.0.2 and protocol 6, no length.
    expect([...arena.u8.subarray(first + 50, first + 52)]).toEqual([0x14, 0x09]);
    expect(get(TX, 0, 3)).toBe(((1000 << 16) | (32 << 8) | (1 << 4)) >>> 0);
    expect([get(TX, 1, 2), get(TX, 2, 2)]).toEqual([((0xa2 << 24) | (3 << 20) | 2048) >>> 0, ((0xab << 24) | (3 << 20) | 966) >>> 0]);
    // PAYLEN without the headers; both checksums; index 1.
    expect(get(TX, 1, 3)).toBe((((3014 - 66) << 14) | (3 << 8) | (1 << 4)) >>> 0);
    arena.free(from);
  });

  it('has a tag inserted by its context', () => {
    const queue = open();
    queue.vlan = 0x6005;
    queue.reserve();
    queue.send(60);
    queue.flush();
    expect(get(TX, 0, 0)).toBe(((0x6005 << 16) | (14 << 9)) >>> 0);
    expect(get(TX, 1, 2) & (1 << 30)).not.toBe(0);
  });

  it('is told its head in memory, and believes none that cannot be', () => {
    const queue = open(true);
    const head = (region.read(TX + 0x38) - arena.base) >>> 2;
    expect(region.read(TX + 0x38) & 0xf).toBe(1);
    for (let i = 0; i < 5; i++) {
      queue.reserve();
      queue.send(60);
    }
    queue.flush();
    arena.u32[head] = 3;
    expect(queue.reclaim()).toBe(3);
    arena.u32[head] = 9;
    expect(queue.reclaim()).toBe(0);
    expect(queue.broken).toContain('head 9');
  });

  it('never fills up, and gives every buffer back, whatever is sent and done in whatever portions', () => {
    const step = fc.record({ sizes: fc.array(fc.integer({ min: 60, max: 9000 }), { maxLength: 6 }), done: fc.nat(SIZE), tags: fc.boolean() });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const queue = open();
        const from = arena.allocate(9000);
        let head = 0;
        const finish = (most: number): void => {
          for (let n = 0; n < most && head !== region.read(TX + 0x18); n++) {
            const status = at(TX, head, 3);
            if (((arena.u32[status - 1] as number) & (1 << 27)) !== 0) arena.u32[status] = (arena.u32[status] as number) | 1;
            head = (head + 1) % SIZE;
          }
        };
        for (const { sizes, done, tags } of steps) {
          queue.vlan = tags ? 5 : -1;
          for (const size of sizes) queue.copy(arena.views, from, size);
          queue.flush();
          expect(queue.outstanding).toBeLessThan(SIZE);
          finish(done);
          queue.reclaim();
          expect(queue.broken).toBe('');
        }
        finish(SIZE);
        queue.reclaim();
        expect(queue.outstanding).toBe(0);
        queue.dispose();
        arena.free(from);
      }),
    );
    expect(arena.bytesInUse).toBe(0);
  });
});

/** One mailbox as the datasheet has it (8.14.2, 8.14.3): who has the memory, what each side is told. */
class Mailbox {
  readonly memory = new Uint32Array(16);
  vfu = false;
  pfu = false;
  /** For the virtual function, cleared by its reading; for the physical one, kept for MBVFICR. */
  told = 0;
  requests = 0;
  acknowledged = 0;

  readonly pf: RegisterBlock = {
    read: (offset) => (offset >= 0x800 && offset < 0x840 ? (this.memory[(offset - 0x800) >>> 2] as number) : (this.vfu ? 4 : 0) | (this.pfu ? 8 : 0)),
    write: (offset, value) => {
      if (offset >= 0x800 && offset < 0x840) {
        if (!this.pfu) throw new Error('the physical function wrote into memory it does not have');
        this.memory[(offset - 0x800) >>> 2] = value;
        return;
      }
      if ((value & 1) !== 0) this.told |= 0x10;
      if ((value & 2) !== 0) this.told |= 0x20;
      if ((value & 16) !== 0) this.vfu = false;
      this.pfu = (value & 8) !== 0 && !this.vfu;
    },
  };
  readonly vf: RegisterBlock = {
    read: (offset) => {
      if (offset >= 0x800 && offset < 0x840) return this.memory[(offset - 0x800) >>> 2] as number;
      const value = (this.vfu ? 4 : 0) | (this.pfu ? 8 : 0) | this.told;
      this.told = 0;
      return value;
    },
    write: (offset, value) => {
      if (offset >= 0x800 && offset < 0x840) {
        if (!this.vfu) throw new Error('the virtual function wrote into memory it does not have');
        this.memory[(offset - 0x800) >>> 2] = value;
        return;
      }
      if ((value & 1) !== 0) this.requests++;
      if ((value & 2) !== 0) this.acknowledged++;
      this.vfu = (value & 4) !== 0 && !this.pfu;
    },
  };
}

describe('both ends of a mailbox', () => {
  it('carry every request and every answer, in order, whoever is quicker, with control messages between', () => {
    const action = fc.constantFrom('ask', 'vf', 'pf', 'answer', 'ping');
    fc.assert(
      fc.property(fc.array(action, { maxLength: 300 }), (actions) => {
        const box = new Mailbox();
        const pf = new PfMailbox(box.pf);
        const answers: number[] = [];
        const vf = new VfMailbox(
          box.vf,
          () => 0,
          () => {},
        );
        let asked = 0;
        const taken: number[] = [];
        let owed: number[] | undefined;
        const turn = (what: string): void => {
          if (what === 'ask') {
            const n = asked++;
            vf.ask([4, n], (answer) => answers.push(answer ? (answer[1] as number) : -1));
          } else if (what === 'vf') vf.service();
          else if (what === 'pf' && box.requests > 0 && pf.take(0)) {
            box.requests--;
            taken.push(pf.message[1] as number);
            owed = [(4 | 0x8000_0000) >>> 0, pf.message[1] as number];
          } else if (what === 'answer' && owed && pf.send(0, owed)) owed = undefined;
          else if (what === 'ping' && box.requests === 0 && !owed && box.told === 0) pf.send(0, [0x2000_0100]);
        };
        for (const what of actions) turn(what);
        for (let i = 0; i < 10 * asked + 10; i++) for (const what of ['vf', 'pf', 'answer']) turn(what);
        expect(taken).toEqual(Array.from({ length: asked }, (_, i) => i));
        expect(answers).toEqual(taken);
      }),
    );
  });

  it('give a request up when no answer comes in two seconds', () => {
    const box = new Mailbox();
    let now = 0;
    const vf = new VfMailbox(
      box.vf,
      () => now,
      () => {},
    );
    const answers: unknown[] = [];
    vf.ask([1], (answer) => answers.push(answer));
    vf.service();
    now = 3e9;
    vf.service();
    expect(answers).toEqual([undefined]);
    expect(vf.pending).toBe(0);
  });
});
