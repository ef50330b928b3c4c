// Interrupts of the 82576: the level, MSI, messages of their own; masks that set themselves; moderation in its unit, with its counter and no message too many; immediate interrupts; the TCP timer.
import { describe, expect, it } from 'vitest';
import { frame, packet } from '../../e1000/bench.ts';
import { INTA, LSC, R, RXDW, Station, TXDW, wired } from './bench.ts';

const OTHER_VECTOR = 0x8300;
const EIAME = 0x4000_0000;
const CNT_IGNR = 0x8000_0000;

describe('ICR and its masks', () => {
  it('set, masked, read and cleared', () => {
    const nic = new Station();
    nic.read(R.ICR);
    nic.write(R.ICS, LSC | 0x80);
    expect([nic.line, nic.read(R.ICR)]).toEqual([false, LSC | 0x80]);
    // Nothing is enabled: reading cleared it.
    expect(nic.read(R.ICR)).toBe(0);
    nic.write(R.IMS, LSC);
    expect(nic.read(R.IMS)).toBe(LSC);
    nic.write(R.ICS, LSC | 0x80);
    expect(nic.line).toBe(true);
    expect(nic.read(R.ICR)).toBe((INTA | LSC | 0x80) >>> 0);
    expect([nic.line, nic.read(R.ICR)]).toEqual([false, 0]);
    nic.write(R.ICS, 0x80);
    // Enabled, and no interrupt: reading clears only with NSICR.
    expect([nic.read(R.ICR), nic.read(R.ICR)]).toEqual([0x80, 0x80]);
    nic.write(R.GPIE, 1);
    expect([nic.read(R.ICR), nic.read(R.ICR)]).toEqual([0x80, 0]);
    nic.write(R.ICS, LSC);
    nic.write(R.ICR, LSC);
    expect(nic.line).toBe(false);
    nic.write(R.IMC, LSC);
    expect(nic.read(R.IMS)).toBe(0);
  });

  it('IAM masks when ICR is read after an interrupt, and when it is written', () => {
    const nic = new Station();
    nic.write(R.IMS, LSC | 0x10);
    nic.write(R.IAM, LSC);
    nic.write(R.ICS, LSC);
    nic.read(R.ICR);
    expect(nic.read(R.IMS)).toBe(0x10);
    nic.write(R.IMS, LSC);
    nic.write(R.ICR, 0);
    expect(nic.read(R.IMS)).toBe(0x10);
  });

  it('each cause of the interrupt test of Linux, raised by ICS alone', () => {
    const nic = new Station();
    for (let bit = 0; bit < 31; bit++) {
      const mask = 2 ** bit;
      if ((mask & 0x77d4_fbfd) === 0) continue;
      nic.write(R.ICR, 0xffff_ffff);
      nic.write(R.IMC, 0xffff_ffff);
      nic.write(R.ICS, mask);
      expect([bit, nic.line]).toEqual([bit, false]);
      nic.write(R.ICR, 0xffff_ffff);
      nic.write(R.IMS, mask);
      nic.write(R.ICS, mask);
      expect([bit, nic.line, nic.read(R.ICR) & mask]).toEqual([bit, true, mask | 0]);
    }
  });

  it('the level and MSI are moderated by EITR0: not before its counter has ended', () => {
    for (const msi of [false, true]) {
      const nic = new Station();
      if (msi) nic.msi();
      const interrupts = (): number => (msi ? nic.messages.length : nic.rises);
      nic.write(R.GPIE, 1);
      nic.write(R.IMS, RXDW);
      nic.write(R.EITR, 50 << 2);
      nic.write(R.ICS, RXDW);
      nic.read(R.ICR);
      nic.write(R.ICS, RXDW);
      expect(interrupts()).toBe(1);
      nic.clock.advance(49_000);
      expect(interrupts()).toBe(1);
      nic.clock.advance(1000);
      expect(interrupts()).toBe(2);
      nic.read(R.ICR);
      // The end of a counter for which nothing waits is no event.
      nic.clock.advance(1e6);
      expect(interrupts()).toBe(2);
    }
  });

  it('one vector of MSI-X for everything, without Multiple_MSIX', () => {
    const nic = new Station().msix(1, 0);
    nic.write(R.IMS, LSC);
    nic.write(R.ICS, LSC);
    expect(nic.messages).toEqual([0]);
    nic.read(R.ICR);
    nic.write(R.ICS, LSC);
    expect(nic.messages).toEqual([0, 0]);
  });
});

describe('messages of their own', () => {
  it('IVAR: both ways of sixteen queues, other causes', () => {
    const { nic, inject } = wired();
    nic.start({ queues: 10 });
    nic.msix();
    nic.write(R.IVAR_MISC, OTHER_VECTOR);
    // Queue 1: receive 4, transmit 5. Queue 9: receive 6, transmit 7.
    nic.write(R.IVAR + 4, 0x8786_8584);
    nic.write(R.EIMS, 0x1ff);
    nic.write(R.EIAC, 0x1ff);
    nic.write(R.IMS, LSC);
    nic.write(R.MRQC, 1 << 3);
    inject(frame(64));
    nic.send(frame(64), undefined, { queue: 1 });
    nic.send(frame(64), undefined, { queue: 9 });
    nic.write(R.MRQC, 0);
    nic.write(R.ICS, LSC);
    expect(nic.messages).toEqual([4, 5, 7, 3]);
    expect(nic.read(R.ICR) & (RXDW | TXDW | LSC)).toBe(RXDW | TXDW | LSC);
    expect(nic.read(R.EICR)).toBe(0);
    expect(nic.read(R.IAC)).toBe(4);
  });

  it('a cause that is not cleared makes no second message; EIAC clears it as it is sent, and EIAC can be taken back', () => {
    const nic = new Station().msix();
    nic.write(R.EIMS, 3);
    nic.write(R.EIAC, 3);
    expect(nic.read(R.EIAC)).toBe(3);
    nic.write(R.EIAC, 1);
    nic.write(R.EICS, 3);
    nic.write(R.EICS, 3);
    expect(nic.messages).toEqual([0, 1, 0]);
    expect(nic.read(R.EICR)).toBe(2);
    nic.write(R.EICR, 2);
    nic.write(R.EICS, 2);
    expect(nic.messages).toEqual([0, 1, 0, 1]);
  });

  it('EIAM masks what was sent, with EIAME; unmasking sends what came meanwhile', () => {
    const nic = new Station().msix(10, EIAME | 0x11);
    nic.write(R.EIMS, 7);
    nic.write(R.EIAM, 1);
    nic.write(R.EIAC, 7);
    nic.write(R.EICS, 3);
    expect([nic.messages.splice(0), nic.read(R.EIMS)]).toEqual([[0, 1], 6]);
    nic.write(R.EICS, 1);
    expect(nic.messages).toEqual([]);
    nic.write(R.EIMS, 1);
    expect(nic.messages.splice(0)).toEqual([0]);
    // Without EIAME the mask follows accesses of EICR.
    nic.write(R.GPIE, 0x11);
    nic.write(R.EIMS, 7);
    nic.write(R.EICR, 1);
    expect(nic.read(R.EIMS)).toBe(6);
  });

  it('EIMC masks; a cause from before is sent when it is enabled', () => {
    const nic = new Station().msix();
    nic.write(R.EICS, 4);
    expect(nic.messages).toEqual([]);
    nic.write(R.EIMS, 4);
    expect(nic.messages).toEqual([2]);
    nic.write(R.EIMC, 4);
    nic.write(R.EICR, 4);
    nic.write(R.EICS, 4);
    expect(nic.messages).toEqual([2]);
  });
});

describe('moderation', () => {
  const armed = (microseconds: number): Station => {
    const nic = new Station().msix();
    nic.write(R.EIMS, 3);
    nic.write(R.EIAC, 3);
    nic.write(R.EITR, microseconds << 2);
    return nic;
  };

  it('counts microseconds: at once, then not before the interval has passed', () => {
    const nic = armed(125);
    nic.write(R.EICS, 1);
    nic.write(R.EICS, 1);
    nic.clock.advance(124_999);
    expect(nic.messages.length).toBe(1);
    nic.clock.advance(1);
    expect(nic.messages.length).toBe(2);
    // The second opened a window of its own.
    nic.write(R.EICS, 1);
    nic.clock.advance(124_999);
    expect(nic.messages.length).toBe(2);
    nic.clock.advance(1);
    expect(nic.messages.length).toBe(3);
  });

  it('sends nothing at the end of a window in which nothing happened, or what is masked or cleared by then', () => {
    const nic = armed(100);
    nic.write(R.EICS, 1);
    nic.clock.advance(1e6);
    expect(nic.messages.length).toBe(1);
    nic.write(R.EICS, 1);
    nic.write(R.EICS, 1);
    nic.write(R.EIMC, 1);
    nic.clock.advance(1e6);
    expect(nic.messages.length).toBe(2);
    nic.write(R.EIMS, 1);
    expect(nic.messages.length).toBe(3);
    nic.write(R.EICS, 1);
    nic.write(R.EICR, 1);
    nic.clock.advance(1e6);
    expect(nic.messages.length).toBe(3);
  });

  it('vectors are moderated each for itself, and 0 does not moderate', () => {
    const nic = armed(100);
    nic.write(R.EITR + 4, 0);
    for (let i = 0; i < 3; i++) nic.write(R.EICS, 3);
    expect(nic.messages).toEqual([0, 1, 1, 1]);
  });

  it('the counter can be read and set; with CNT_INGR it runs on', () => {
    const nic = armed(800);
    nic.write(R.EICS, 1);
    nic.clock.advance(400_000);
    expect(nic.read(R.EITR) >>> 21).toBe(50);
    nic.write(R.EITR, ((100 << 2) | CNT_IGNR) >>> 0);
    expect([(nic.read(R.EITR) >>> 21) & 0x3ff, nic.read(R.EITR) & 0x7ffc]).toEqual([50, 400]);
    nic.write(R.EICS, 1);
    nic.write(R.EITR, 100 << 2);
    nic.clock.advance(0);
    expect(nic.messages.length).toBe(2);
  });

  it('outlives a software reset, its counter does not', () => {
    const nic = armed(125);
    nic.write(R.EICS, 1);
    nic.write(R.CTRL, 1 << 26);
    expect(nic.read(R.EITR)).toBe(500);
  });
});

describe('immediate interrupts', () => {
  it('a frame that a filter marks does not wait; others do', () => {
    const { nic, inject } = wired();
    nic.start();
    nic.msix();
    nic.write(R.IVAR, 0x80);
    nic.write(R.EIMS, 1);
    nic.write(R.EIAC, 1);
    nic.write(R.EITR, 1000 << 2);
    nic.write(R.IMIR, 0x5000 | (1 << 16));
    nic.write(R.IMIREXT, (1 << 12) | (1 << 19));
    inject(frame(64));
    inject(frame(64));
    expect(nic.messages.length).toBe(1);
    inject(packet({ filled: true }));
    expect(nic.messages.length).toBe(2);
    expect(nic.received().map(({ status }) => (status >>> 11) & 1)).toEqual([0, 0, 1]);
  });

  it('by VLAN priority, and bound by credits', () => {
    const { nic, inject } = wired();
    nic.start();
    // LL_INTERVAL 10: a credit every 40 us.
    nic.msix(10, 0x11 | (10 << 7));
    nic.write(R.IVAR, 0x80);
    nic.write(R.EIMS, 1);
    nic.write(R.EIAC, 1);
    nic.write(R.EITR, (1000 << 2) | (1 << 15) | (1 << 16));
    nic.write(R.IMIRVP, 8 | 5);
    const urgent = (): void => inject(packet({ tag: 0xa001 }));
    urgent();
    urgent();
    expect(nic.messages.length).toBe(2);
    urgent();
    expect(nic.messages.length).toBe(2);
    nic.clock.advance(40_000);
    urgent();
    expect(nic.messages.length).toBe(3);
    inject(packet({ tag: 0x8001 }));
    expect(nic.messages.length).toBe(3);
  });
});

describe('the TCP timer', () => {
  it('once, in a loop, paused, and at once', () => {
    const nic = new Station().msix();
    nic.write(R.IVAR_MISC, 0x82);
    nic.write(R.EIMS, 4);
    nic.write(R.EIAC, 4);
    nic.write(R.TCPTIMER, 5 | (1 << 8) | (1 << 9));
    nic.clock.advance(4e6);
    nic.write(R.TCPTIMER, 5);
    nic.clock.advance(9e6);
    expect(nic.messages).toEqual([]);
    nic.write(R.TCPTIMER, 5 | (1 << 9));
    nic.clock.advance(1e6);
    expect(nic.messages).toEqual([2]);
    nic.clock.advance(50e6);
    expect(nic.messages).toEqual([2]);
    nic.write(R.TCPTIMER, 5 | (1 << 8) | (1 << 9) | (1 << 11));
    nic.clock.advance(15e6);
    expect(nic.messages).toEqual([2, 2, 2, 2]);
    nic.write(R.TCPTIMER, 5 | (1 << 9) | (1 << 10));
    expect(nic.messages.length).toBe(5);
    expect(nic.read(R.TCPTIMER)).toBe(5 | (1 << 9));
    nic.clock.advance(50e6);
    expect(nic.messages.length).toBe(5);
  });
});

describe('MSI-X pending bits', () => {
  /** Vectors 0 to 9 masked in the table, or open again: an open one sends what waits. */
  const mask = (nic: Station, on: boolean): void => {
    for (let n = 0; n < 10; n++) nic.machine.barWrite(0x0008, 3, 16 * n + 12, 4, on ? 1 : 0);
  };

  it('show in PBACL and are cleared by ones there: a message that is not wanted does not come', () => {
    const nic = new Station().msix();
    mask(nic, true);
    nic.write(R.EIMS, 0x3f);
    nic.write(R.EIAC, 0x3f);
    nic.write(R.EICS, 0x2d);
    expect([nic.messages, nic.read(R.PBACL), nic.machine.barRead(0x0008, 3, 0x2000, 4)]).toEqual([[], 0x2d, 0x2d]);
    // Zeros do nothing, ones of the written bytes only.
    nic.write(R.PBACL, 0);
    nic.write(R.PBACL + 1, 0xff, 1);
    nic.write(R.PBACL, 0xffff_fff4);
    expect(nic.read(R.PBACL)).toBe(0x09);
    mask(nic, false);
    expect(nic.messages).toEqual([0, 3]);
  });

  it('with GPIE.PBA_support go when their vector is enabled in EIMS, and stay without', () => {
    for (const [gpie, messages] of [
      [0x4000_0011, [2]],
      [0xc000_0011, []],
    ] as const) {
      const nic = new Station().msix(10, gpie);
      mask(nic, true);
      nic.write(R.EIMS, 4);
      nic.write(R.EIAC, 4);
      nic.write(R.EIAM, 4);
      nic.write(R.EICS, 4);
      // It went, cleared its cause, masked itself, and waits in the table. The driver has polled and asks for the next.
      expect([nic.read(R.EICR), nic.read(R.EIMS), nic.read(R.PBACL)]).toEqual([0, 0, 4]);
      nic.write(R.EIMS, 4);
      mask(nic, false);
      expect(nic.messages).toEqual(messages);
      nic.write(R.EICS, 4);
      expect(nic.messages).toEqual([...messages, 2]);
    }
  });
});
