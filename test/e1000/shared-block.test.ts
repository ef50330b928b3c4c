// The shared communication block: a driver that uses it makes and gets only the kicks and interrupts that somebody asked for.
import { describe, expect, it } from 'vitest';
import { EOP, frame, IFCS, R, RING, RXT0, type Station, TXDW, wired } from './bench.ts';

const BLOCK = 0x8_0000;
const TDT = 0;
const NEED_TXKICK = 1;
const NEED_RXKICK = 2;
const ON = 3;
const RDT = 4;
const TXKICK_AT = 5;
const TDH = 16;
const HOST_NEED_TXKICK = 17;
const RDH = 20;
const HOST_NEED_RXKICK = 21;
const ISR = 22;
const RXKICK_AT = 23;

class Driver {
  readonly nic: Station;
  tail = 0;
  kicks = 0;

  constructor(nic: Station) {
    this.nic = nic;
    nic.start();
    nic.write(R.CSBAH, 0);
    nic.write(R.CSBAL, BLOCK);
    this.set(RDT, nic.read(R.RDT));
    this.set(ON, 1);
    nic.write(R.TDT, 0);
  }

  get(word: number): number {
    return this.nic.view.getUint32(BLOCK + 4 * word, true);
  }

  set(word: number, value: number): void {
    this.nic.view.setUint32(BLOCK + 4 * word, value, true);
  }

  /** As the protocol has it: the index, then a register write only if the device asked for one. */
  send(...lengths: number[]): void {
    for (const length of lengths) this.nic.legacy(frame(length), EOP | IFCS);
    this.tail = (this.tail + lengths.length) % RING;
    this.set(TDT, this.tail);
    if (this.get(HOST_NEED_TXKICK) === 0) return;
    this.kicks++;
    this.nic.write(R.TDT, this.tail);
  }

  give(buffers: number): void {
    const from = this.get(RDT);
    const to = (from + buffers) % RING;
    this.set(RDT, to);
    const at = this.get(RXKICK_AT);
    if (this.get(HOST_NEED_RXKICK) === 0 || (at - from + RING) % RING >= buffers) return;
    this.kicks++;
    this.nic.write(R.RDT, to);
  }
}

const rig = (): ReturnType<typeof wired> & { driver: Driver } => {
  const made = wired({ sharedBlock: true });
  return { ...made, driver: new Driver(made.nic) };
};

describe('discovery', () => {
  it('by the subsystem id; without it there are no such registers', () => {
    const { nic } = wired({ sharedBlock: true });
    expect(nic.machine.configRead(0x0008, 0x2e, 2)).toBe(0x1101);
    const plain = wired().nic;
    plain.write(R.CSBAL, BLOCK);
    plain.write(R.CSBAH, 1);
    expect([plain.read(R.CSBAL), plain.read(R.CSBAH), plain.machine.configRead(0x0008, 0x2e, 2)]).toEqual([0, 0, 0x001e]);
  });
});

describe('transmit', () => {
  it('goes by the index in the block, tells how far it is, and asks for the next kick', () => {
    const { driver, peer } = rig();
    expect(driver.get(HOST_NEED_TXKICK)).toBe(1);
    driver.send(60, 61, 62);
    expect([peer.inbox.length, driver.get(TDH), driver.get(HOST_NEED_TXKICK), driver.kicks]).toEqual([3, 3, 1, 1]);
  });

  it('needs no kick while it is being served', () => {
    const { driver, peer, nic } = rig();
    // The peer's handler runs inside the device's turn; what the driver adds there is found without a register access.
    let more = 5;
    const deliver = peer.deliver.bind(peer);
    peer.deliver = (...args) => {
      if (more-- > 0) driver.send(100);
      return deliver(...args);
    };
    driver.send(100);
    expect([peer.inbox.length, driver.kicks, driver.get(TDH)]).toEqual([6, 1, 6]);
    expect(nic.read(R.TDH)).toBe(6);
  });

  it('interrupts only behind the index the driver named, and only if it needs to', () => {
    const { driver, nic } = rig();
    nic.read(R.ICR);
    nic.write(R.IMS, TXDW);
    driver.send(60, 60);
    expect([nic.line, nic.read(R.ICR)]).toEqual([false, 0]);
    driver.set(NEED_TXKICK, 1);
    driver.set(TXKICK_AT, 5);
    driver.send(60, 60, 60);
    expect(nic.line).toBe(false);
    driver.send(60);
    expect([nic.line, driver.get(ISR)]).toEqual([true, TXDW]);
  });
});

describe('receive', () => {
  it('interrupts only if the driver needs it', () => {
    const { driver, inject, nic } = rig();
    nic.read(R.ICR);
    inject(frame());
    expect([nic.read(R.ICR), driver.get(RDH)]).toEqual([0, 1]);
    driver.set(NEED_RXKICK, 1);
    inject(frame());
    expect([nic.read(R.ICR), driver.get(RDH), driver.get(ISR) & RXT0]).toEqual([RXT0, 2, RXT0]);
  });

  it('asks for a kick when buffers run out, once there are more', () => {
    const { driver, inject, peer } = rig();
    const frames = Array.from({ length: RING + 5 }, () => frame());
    inject(...frames);
    expect([driver.get(RDH), peer.outbox.length, driver.get(HOST_NEED_RXKICK), driver.get(RXKICK_AT)]).toEqual([RING - 1, 6, 1, RING - 1]);
    driver.give(4);
    expect([driver.kicks, peer.outbox.length]).toEqual([1, 2]);
    driver.give(4);
    expect([peer.outbox.length, driver.get(HOST_NEED_RXKICK)]).toEqual([0, 0]);
    driver.give(4);
    inject(frame());
    expect(driver.kicks).toBe(2);
  });
});

describe('a driver that misuses it', () => {
  it('an address that is not there, or not on a line, leaves registers in force', () => {
    const { nic, peer } = wired({ sharedBlock: true });
    nic.start();
    for (const [low, high] of [
      [0xfff0_0000, 0xffff_ffff],
      [BLOCK + 4, 0],
      [16 * 2 ** 20 - 64, 0],
      [0xc000_0000, 0],
    ] as const) {
      nic.write(R.CSBAH, high);
      nic.write(R.CSBAL, low);
      nic.send(frame());
    }
    expect(peer.inbox).toHaveLength(4);
  });

  it('indices of any value', () => {
    const { driver, nic, inject, peer } = rig();
    for (const value of [RING, 0xffff_ffff, 0x8000_0000]) {
      driver.set(TDT, value);
      driver.set(RDT, value);
      driver.set(TXKICK_AT, value);
      driver.set(NEED_TXKICK, value);
      nic.write(R.TDT, 0);
      inject(frame());
    }
    driver.set(RDT, 10);
    driver.set(TXKICK_AT, 0xffff_ffff);
    driver.send(60);
    expect(peer.inbox).toHaveLength(1);
  });

  it('switched off, the registers count again', () => {
    const { driver, nic, peer } = rig();
    driver.send(60);
    driver.set(ON, 0);
    nic.send(frame(61));
    expect(peer.inbox.map(({ bytes }) => bytes.length)).toEqual([60, 61]);
  });
});
