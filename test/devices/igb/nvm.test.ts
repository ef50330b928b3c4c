// The NVM of an 82576 driven pin by pin through EECD, as Linux's igb does for `ethtool -E`: read status, enable, write pages, read back, the checksum; and what is not let through.
import { describe, expect, it } from 'vitest';
import { IgbOptionError } from '#devices/igb/options';
import { R, Station, wired } from './bench.ts';

const SK = 1;
const CS = 2;
const DI = 4;
const DO = 8;
const REQ = 0x40;
const GNT = 0x80;

const WRSR = 1;
const WRITE = 2;
const READ = 3;
const WRDI = 4;
const RDSR = 5;
const WREN = 6;
const PAGE = 32;

/** A driver that shifts bits: data with the clock low, then a pulse. */
class Pins {
  readonly #nic: Station;
  #pins = 0;

  constructor(nic: Station) {
    this.#nic = nic;
  }

  #set(pins: number): void {
    this.#pins = pins;
    this.#nic.write(R.EECD, pins);
    this.#nic.read(R.STATUS);
  }

  acquire(): boolean {
    this.#set(REQ | CS);
    return (this.#nic.read(R.EECD) & GNT) !== 0;
  }

  release(): void {
    this.#set(0);
  }

  #out(value: number, bits = 8): void {
    for (let bit = bits - 1; bit >= 0; bit--) {
      const pins = (this.#pins & ~(SK | DI)) | (((value >>> bit) & 1) !== 0 ? DI : 0);
      this.#set(pins);
      this.#set(pins | SK);
      this.#set(pins);
    }
  }

  #in(bits: number): number {
    let value = 0;
    for (let i = 0; i < bits; i++) {
      this.#set((this.#pins & ~DI) | SK);
      value = (value << 1) | ((this.#nic.read(R.EECD) & DO) !== 0 ? 1 : 0);
      this.#set(this.#pins & ~SK);
    }
    return value;
  }

  /** One command: selected, its octets out, some in, deselected. */
  command(out: readonly number[], bitsIn = 0): number {
    this.#set((this.#pins | CS) & ~SK);
    this.#set(this.#pins & ~(CS | SK));
    for (const octet of out) this.#out(octet);
    const value = this.#in(bitsIn);
    this.#set(this.#pins | CS);
    return value;
  }

  partial(bits: number): void {
    this.#set(this.#pins & ~(CS | SK));
    this.#out(WREN, bits);
    this.#set(this.#pins | CS);
  }
}

const address = (word: number): [number, number] => [(2 * word) >>> 8, (2 * word) & 0xff];
const swap = (word: number): number => ((word & 0xff) << 8) | (word >>> 8);

function readWord(nic: Station, word: number): number {
  nic.write(R.EERD, (word << 2) | 1);
  return nic.read(R.EERD) >>> 16;
}

/** Words as Linux writes them: enabled and cut anew at each page. */
function writeWords(pins: Pins, first: number, words: readonly number[]): void {
  for (let done = 0; done < words.length; ) {
    expect(pins.command([RDSR], 8) & 1).toBe(0);
    pins.command([WREN]);
    const octets: number[] = [];
    const from = first + done;
    do {
      const word = words[done++] as number;
      octets.push(word & 0xff, word >>> 8);
    } while (done < words.length && ((first + done) * 2) % PAGE !== 0);
    pins.command([WRITE, ...address(from), ...octets]);
  }
}

function opened(options = {}): { nic: Station; pins: Pins } {
  const nic = new Station(options);
  const pins = new Pins(nic);
  expect(pins.acquire()).toBe(true);
  return { nic, pins };
}

describe('the pins of EECD', () => {
  it('read words, on and on, as EERD has them', () => {
    const { nic, pins } = opened();
    const expected = Array.from({ length: 4 }, (_, i) => readWord(nic, 0x0b + i));
    const first = pins.command([READ, ...address(0x0b)], 16);
    expect(swap(first)).toBe(expected[0]);
    const both = pins.command([READ, ...address(0x0b)], 32) >>> 0;
    expect([swap(both >>> 16), swap(both & 0xffff)]).toEqual(expected.slice(0, 2));
    // Behind the last octet comes the first.
    expect(pins.command([READ, 0x07, 0xff], 16)).toBe(((readWord(nic, 1023) >>> 8) << 8) | (readWord(nic, 0) & 0xff));
  });

  it('write as ethtool -E does, over pages, and then the checksum', () => {
    const { nic, pins } = opened();
    const words = Array.from({ length: 40 }, (_, i) => 0x1100 + i);
    writeWords(pins, 0x59, words);
    writeWords(pins, 0x30, [0xbeef]);
    let sum = 0;
    for (let i = 0; i < 0x3f; i++) sum += readWord(nic, i);
    expect((sum + readWord(nic, 0x3f)) & 0xffff).not.toBe(0xbaba);
    writeWords(pins, 0x3f, [(0xbaba - sum) & 0xffff]);
    pins.release();
    expect(Array.from({ length: 40 }, (_, i) => readWord(nic, 0x59 + i))).toEqual(words);
    expect([readWord(nic, 0x58), readWord(nic, 0x59 + 40)]).toEqual([0xffff, 0xffff]);
    sum = 0;
    for (let i = 0; i < 0x40; i++) sum += readWord(nic, i);
    expect(sum & 0xffff).toBe(0xbaba);
    // It outlives every reset.
    nic.write(R.CTRL, 1 << 26);
    nic.config(0xa8, 2, 0x8000);
    nic.config(0x10, 4, 0xc000_0000);
    nic.config(4, 2, 7);
    expect([readWord(nic, 0x30), nic.nic.nvm[0x30]]).toEqual([0xbeef, 0xbeef]);
  });

  it('the station address is taken with EE_RST and CTRL.RST, and not before', () => {
    const { nic, pins } = opened();
    writeWords(pins, 0, [0x5452, 0, 0x0b00]);
    expect(nic.read(R.RAH)).toBe(0x8000_0a00);
    nic.write(R.CTRL_EXT, 1 << 13);
    expect(nic.read(R.RAH)).toBe(0x8000_0b00);
    writeWords(pins, 2, [0x0c00]);
    nic.write(R.CTRL, 1 << 26);
    expect(nic.read(R.RAH)).toBe(0x8000_0c00);
  });

  it('a write stays in its page, and needs an enable of its own', () => {
    const { nic, pins } = opened();
    pins.command([WREN]);
    pins.command([WRITE, 0x00, 0xbe, 1, 2, 3, 4]);
    expect([readWord(nic, 0x5f), readWord(nic, 0x50), readWord(nic, 0x60)]).toEqual([0x0201, 0x0403, 0xffff]);
    pins.command([WRITE, ...address(0x70), 1, 2]);
    expect(readWord(nic, 0x70)).toBe(0xffff);
    pins.command([WREN]);
    expect(pins.command([RDSR], 8)).toBe(2);
    pins.command([WRDI]);
    expect(pins.command([RDSR], 8)).toBe(0);
    pins.command([WRITE, ...address(0x70), 1, 2]);
    // An address and nothing to write; half an octet of a command.
    pins.command([WREN]);
    pins.command([WRITE, ...address(0x70)]);
    pins.command([WRDI]);
    pins.partial(4);
    pins.command([WRITE, ...address(0x70), 1, 2]);
    expect(readWord(nic, 0x70)).toBe(0xffff);
  });

  it('block protection: a quarter, a half, all of it', () => {
    for (const [level, open, shut] of [
      [1, 0x2f0, 0x300],
      [2, 0x1f0, 0x200],
      [3, undefined, 0x40],
    ] as const) {
      const { nic, pins } = opened();
      pins.command([WREN]);
      pins.command([WRSR, level << 2]);
      expect(pins.command([RDSR], 8)).toBe(level << 2);
      for (const word of [open, shut])
        if (word !== undefined) {
          pins.command([WREN]);
          pins.command([WRITE, ...address(word), 1, 2]);
        }
      expect([open === undefined ? 0x0201 : readWord(nic, open), readWord(nic, shut)]).toEqual([0x0201, 0xffff]);
      // Not without an enable.
      pins.command([WRDI]);
      pins.command([WRSR, 0]);
      expect(pins.command([RDSR], 8)).toBe(level << 2);
    }
  });

  it('are not software’s without the grant', () => {
    const nic = new Station();
    const pins = new Pins(nic);
    pins.release();
    pins.command([WREN]);
    pins.command([WRITE, ...address(0x70), 1, 2]);
    expect(readWord(nic, 0x70)).toBe(0xffff);
    // DO is pulled up.
    expect(nic.read(R.EECD) & DO).toBe(DO);
  });
});

describe('contents', () => {
  it('can be the embedder’s, who finds what was written; the address and the checksum are set', () => {
    const nvm = new Uint16Array(1024).fill(0x1234);
    const { nic } = opened({ nvm });
    expect([readWord(nic, 0), readWord(nic, 0x50), nvm[0]]).toEqual([0x5452, 0x1234, 0x1234]);
    expect(nic.nic.nvm.subarray(0, 64).reduce((sum, word) => (sum + word) & 0xffff, 0)).toBe(0xbaba);
    expect(() => new Station({ nvm: new Uint16Array(64) })).toThrow(IgbOptionError);
  });

  it('travel in saved state, a command under way with them', () => {
    const a = wired();
    const pins = new Pins(a.nic);
    pins.acquire();
    writeWords(pins, 0x60, [0xcafe]);
    pins.command([WREN]);
    const b = wired();
    b.nic.nic.restore(structuredClone(a.nic.nic.save()));
    expect(readWord(b.nic, 0x60)).toBe(0xcafe);
    const next = new Pins(b.nic);
    next.acquire();
    next.command([WRITE, ...address(0x61), 0xfe, 0xca]);
    expect(readWord(b.nic, 0x61)).toBe(0xcafe);
  });

  it('no flash is fitted: FLA grants its pins, nobody answers on them, BAR 1 reads ones', () => {
    const nic = new Station();
    expect(nic.read(R.FLA)).toBe(0);
    nic.write(R.FLA, 0xffff_ffff);
    expect(nic.read(R.FLA)).toBe(0x37);
    nic.write(R.FLA, 0);
    expect([nic.read(R.FLA), nic.machine.barRead(0x0008, 1, 0x100, 4)]).toEqual([0, 0xffff_ffff]);
  });
});
