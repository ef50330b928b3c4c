// The judge of drivers on rings laid out by hand: seen now and then, as another process's are; and on rings that are nonsense, which it must outlive.

import { describe, expect, it } from 'vitest';
import { Findings } from '#conformance/driver/findings';
import { DriverJudge } from '#conformance/driver/judge';
import { FEATURE } from '#conformance/features';

const SIZE = 4;
const RING = { size: SIZE, desc: 0x100, driver: 0x200, device: 0x300 };
const BUFFERS = 0x1000;

/** A driver's memory, with the transmit queue of a network device in it. */
function laidOut(exact: boolean, bits: readonly number[] = [FEATURE.VERSION_1]) {
  const memory = new Uint8Array(0x4000);
  const view = new DataView(memory.buffer);
  const findings = new Findings();
  const bytes = (address: number, length: number): Uint8Array | undefined =>
    address + length <= memory.length ? memory.subarray(address, address + length) : undefined;
  const judge = new DriverJudge({ bytes }, findings, exact);
  judge.negotiated(undefined, new Set(bits));
  judge.queueEnabled(1, RING);
  judge.started();
  let available = 0;
  let used = 0;
  return {
    view,
    findings,
    judge,
    /** Makes a plain frame of 60 bytes available, in descriptor `head`. */
    send(head: number, flags = 0): void {
      const at = BUFFERS + 0x100 * head;
      memory.fill(0, at, at + 72);
      view.setUint16(at + 24, 0x88b5);
      view.setUint32(RING.desc + 16 * head, at, true);
      view.setUint32(RING.desc + 16 * head + 8, 72, true);
      view.setUint16(RING.desc + 16 * head + 12, flags, true);
      view.setUint16(RING.driver + 4 + 2 * (available % SIZE), head, true);
      view.setUint16(RING.driver + 2, ++available & 0xffff, true);
    },
    give(head: number): void {
      view.setUint32(RING.device + 4 + 8 * (used % SIZE), head, true);
      view.setUint16(RING.device + 2, ++used & 0xffff, true);
    },
  };
}

describe('rings that are looked at now and then', () => {
  it('may go round between two looks', () => {
    const { judge, findings, send, give } = laidOut(false);
    judge.look();
    for (let n = 0; n < 3 * SIZE; n++) {
      send(n % SIZE);
      if (n < 3 * SIZE - 2) give(n % SIZE);
    }
    judge.look();
    expect(findings.failures).toEqual([]);
    expect(judge.ring(1)?.inFlight).toBe(2);
  });

  it('are not judged by what was given back since', () => {
    const { judge, findings, view, send, give } = laidOut(false);
    send(0);
    view.setUint16(BUFFERS + 10, 1, true);
    give(0);
    send(1);
    judge.look();
    expect(findings.failures).toEqual([]);
    expect(findings.looked.get('net-tx.5')).toBe(1);
  });

  it('are judged by what the device still has', () => {
    const { judge, findings, view, send } = laidOut(false);
    send(0);
    view.setUint16(BUFFERS + 10, 1, true);
    judge.look();
    expect(findings.failures.map(({ clause }) => clause)).toEqual(['net-tx.5']);
  });

  it('owe no notification that can be told', () => {
    const { judge, findings, send } = laidOut(false);
    send(0);
    judge.quiet();
    expect(findings.looked.has('split.35')).toBe(false);
  });

  it('have indices that wrap', () => {
    const { judge, findings, send, give } = laidOut(false);
    for (let n = 0; n < 0x10010; n++) {
      send(n % SIZE);
      if (n % 1000 === 0) judge.look();
      give(n % SIZE);
    }
    judge.look();
    expect(findings.failures).toEqual([]);
  });
});

describe('packed rings that are looked at now and then', () => {
  const AVAIL = 0x80;
  const USED = 0x8000;
  const NEXT = 1;

  /** The transmit queue, packed, whose frames say that they were merged of `buffers`. */
  function packed(bits: readonly number[] = [FEATURE.INDIRECT_DESC]) {
    const made = laidOut(false, [FEATURE.VERSION_1, FEATURE.RING_PACKED, ...bits]);
    const { view } = made;
    return {
      ...made,
      put(slot: number, flags: number, buffers = 0): void {
        const at = BUFFERS + 0x100 * slot;
        view.setUint16(at + 10, buffers, true);
        view.setUint16(at + 24, 0x88b5);
        view.setUint32(RING.desc + 16 * slot, at, true);
        view.setUint32(RING.desc + 16 * slot + 8, 72, true);
        view.setUint16(RING.desc + 16 * slot + 14, flags, true);
      },
    };
  }
  const broken = ({ findings }: ReturnType<typeof packed>): string[] => findings.failures.map(({ clause }) => clause);

  it('are judged by what the device has, wherever it stands, and each buffer once', () => {
    const made = packed();
    made.put(2, AVAIL, 1);
    made.judge.look();
    made.judge.look();
    expect(broken(made)).toEqual(['net-tx.5']);
    expect(made.findings.looked.get('net-tx.5')).toBe(1);
    // A turn later it is another buffer, whose bits are the other way round.
    made.put(2, USED);
    made.judge.look();
    expect(made.findings.looked.get('net-tx.5')).toBe(2);
  });

  it('are not judged by what came back', () => {
    const made = packed();
    made.put(1, AVAIL | USED, 1);
    made.put(3, 0, 1);
    made.judge.look();
    expect(made.findings.looked.has('net-tx.5')).toBe(false);
  });

  it('are not judged where a descriptor that came back can look as if it had not', () => {
    const lists = packed();
    lists.put(0, AVAIL | NEXT, 1);
    lists.put(1, AVAIL, 1);
    lists.judge.look();
    lists.put(0, AVAIL | USED, 1);
    lists.judge.look();
    const inOrder = packed([FEATURE.INDIRECT_DESC, FEATURE.IN_ORDER]);
    const withoutTables = packed([]);
    for (const made of [inOrder, withoutTables]) {
      made.put(0, AVAIL, 1);
      made.judge.look();
    }
    for (const made of [lists, inOrder, withoutTables]) expect(made.findings.looked.has('net-tx.5')).toBe(false);
  });
});

describe('rings where nothing moves in between', () => {
  it('owe a notification', () => {
    const { judge, findings, send } = laidOut(true);
    send(0);
    judge.quiet();
    expect(findings.failures.map(({ clause }) => clause)).toEqual(['split.35']);
  });

  it('are not to be touched while the device has them', () => {
    const { judge, findings, view, send } = laidOut(true);
    send(2);
    judge.look();
    view.setUint32(RING.desc + 32 + 8, 71, true);
    judge.look();
    expect(findings.failures.map(({ clause }) => clause)).toEqual(['init.15']);
  });
});

describe('nonsense', () => {
  const NONSENSE: readonly (readonly [string, (made: ReturnType<typeof laidOut>) => void])[] = [
    [
      'a chain without an end',
      ({ send, view }) => {
        send(0, 1);
        view.setUint16(RING.desc + 14, 0, true);
      },
    ],
    [
      'a chain that leaves the table',
      ({ send, view }) => {
        send(0, 1);
        view.setUint16(RING.desc + 14, 0x7777, true);
      },
    ],
    [
      'a head outside of the table',
      ({ send, view }) => {
        send(0);
        view.setUint16(RING.driver + 4, 0xffff, true);
      },
    ],
    [
      'a buffer outside of memory',
      ({ send, view }) => {
        send(0);
        view.setUint32(RING.desc + 4, 0xffff_ffff, true);
      },
    ],
    [
      'a buffer of 4 GiB',
      ({ send, view }) => {
        send(0);
        view.setUint32(RING.desc + 8, 0xffff_ffff, true);
      },
    ],
    [
      'a table outside of memory',
      ({ send, view }) => {
        send(0, 4);
        view.setUint32(RING.desc + 8, 0xffff_fff0, true);
      },
    ],
    ['an index that jumps', ({ view }) => view.setUint16(RING.driver + 2, 0x8000, true)],
    [
      'a used index that jumps',
      ({ send, view }) => {
        send(0);
        view.setUint16(RING.device + 2, 0x9999, true);
      },
    ],
  ];

  it.each(NONSENSE)('is outlived: %s', (_name, spoil) => {
    for (const exact of [true, false]) {
      const made = laidOut(exact, [FEATURE.VERSION_1, FEATURE.INDIRECT_DESC]);
      spoil(made);
      for (let n = 0; n < 3; n++) {
        made.judge.look();
        made.judge.notified(1, 1, 2);
        made.judge.served();
        made.judge.quiet();
      }
      made.judge.reset();
      expect(made.judge.ring(1)).toBeUndefined();
    }
  });

  it('is outlived: rings outside of memory, and of no size', () => {
    const { judge } = laidOut(true);
    for (const [queue, setup] of [
      { size: 256, desc: 2 ** 40, driver: 2 ** 41, device: 2 ** 42 },
      { size: 0, desc: 0, driver: 0, device: 0 },
      { size: 0xffff, desc: 0, driver: 0, device: 0 },
    ].entries()) {
      judge.queueEnabled(queue, setup);
      judge.quiet();
      judge.served();
    }
    expect(judge.ring(1)).toBeDefined();
  });

  it('is outlived: packed rings of any content', () => {
    const { judge, view } = laidOut(true, [FEATURE.VERSION_1, FEATURE.RING_PACKED, FEATURE.INDIRECT_DESC]);
    for (let seed = 1; seed < 200; seed++) {
      for (let at = 0; at < 0x400; at += 4) view.setUint32(at, Math.imul(seed * 2654435761, at + 1) >>> 0, true);
      judge.look();
      judge.served();
      judge.quiet();
    }
    expect(judge.ring(1)?.inFlight).toBeLessThanOrEqual(SIZE);
  });
});
