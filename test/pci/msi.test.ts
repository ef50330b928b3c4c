// MSI: vectors and the low data bits, masks and pending, layouts, mastering.
import { describe, expect, it } from 'vitest';
import { Msi, type MsiOptions } from '#pci/msi';
import { findCapability, makeLoneBench } from './capability-kit.ts';
import { bdf, COMMAND, makeBench, makeDevice } from './fabric-kit.ts';

const AT = bdf(0, 3);

function makeMsi(options: MsiOptions = {}, enable = 0) {
  const msi = new Msi(options);
  const bench = makeLoneBench([msi]);
  const { fabric, fn } = bench;
  const cap = findCapability(fabric, AT, 5);
  const wide = options.address64 ?? true;
  fabric.configWrite(AT, cap + 4, 4, 0xfee0_1000);
  fabric.configWrite(AT, cap + (wide ? 12 : 8), 2, 0x4047);
  fabric.configWrite(AT, cap + 2, 2, 1 | (enable << 4));
  const mask = cap + (wide ? 16 : 12);
  const sent = () => bench.messages.map((m) => m.message.data);
  return { ...bench, msi, cap, mask, sent, port: fn.interrupts };
}

describe('MSI', () => {
  it.each([
    ['in the window, an interrupt', 0x8000, 1, 0],
    ['outside it, a write to memory', 0x9000, 0, 0x41],
  ])('is a write, %s', (_, address, interrupts, written) => {
    const { fabric, messages, memory } = makeBench({ msiWindow: { base: 0x8000, size: 0x1000 } });
    const fn = makeDevice('toy', [], { capabilities: [new Msi()] });
    fabric.attach(fabric.root, fn, 3);
    const cap = findCapability(fabric, AT, 5);
    fabric.configWrite(AT, cap + 4, 4, address);
    fabric.configWrite(AT, cap + 12, 2, 0x41);
    fabric.configWrite(AT, cap + 2, 2, 1);
    fabric.configWrite(AT, COMMAND, 2, 4);
    fn.interrupts.raise(0);
    expect(messages).toHaveLength(interrupts);
    expect(memory.slabs[0]?.views.u8[address]).toBe(written);
  });

  it('lays itself out in the four sizes the specification has', () => {
    for (const [address64, maskable, size] of [
      [false, false, 12],
      [true, false, 16],
      [false, true, 20],
      [true, true, 24],
    ] as const) {
      const msi = new Msi({ address64, maskable });
      expect(msi.size).toBe(size);
      const { fabric } = makeLoneBench([msi]);
      const cap = findCapability(fabric, AT, 5);
      expect(fabric.configRead(AT, cap + 2, 2)).toBe((address64 ? 0x80 : 0) | (maskable ? 0x100 : 0));
    }
    expect(() => new Msi({ vectors: 3 as 4 })).toThrow(RangeError);
  });

  it('sends the function’s requester id, with the vector in as many low bits as were granted', () => {
    for (const [granted, data] of [
      [0, [0x4047, 0x4047, 0x4047]],
      [1, [0x4046, 0x4047, 0x4047]],
      [5, [0x4040, 0x4049, 0x405f]],
      [7, [0x4040, 0x4049, 0x405f]],
    ] as const) {
      const { port, sent, messages } = makeMsi({ vectors: 32 }, granted);
      for (const vector of [0, 9, 31]) port.raise(vector);
      expect(sent(), `Multiple Message Enable ${granted}`).toEqual(data);
      expect(messages.every((m) => m.requester === AT)).toBe(true);
    }
  });

  it('drops vectors it does not have and never throws', () => {
    const { port, sent, log } = makeMsi({ vectors: 4 }, 2);
    for (const vector of [4, -1, 1.5, Number.NaN, 2 ** 40]) {
      port.raise(vector);
      expect(port.message(vector)).toBeNull();
    }
    expect(sent()).toEqual([]);
    expect(log.counts['guest-error']).toBeGreaterThan(0);
  });

  it('holds masked vectors as pending and sends each once on unmask', () => {
    const { port, fabric, mask, sent } = makeMsi({ vectors: 4 }, 2);
    fabric.configWrite(AT, mask, 4, 0xffff_ffff);
    expect(fabric.configRead(AT, mask, 4)).toBe(15);
    port.raise(1);
    port.raise(1);
    port.raise(3);
    expect(port.message(1)).toBeNull();
    expect(fabric.configRead(AT, mask + 4, 4)).toBe(0b1010);
    fabric.configWrite(AT, mask + 4, 4, 0);
    expect(fabric.configRead(AT, mask + 4, 4)).toBe(0b1010);
    fabric.configWrite(AT, mask, 1, 0b1000);
    expect(sent()).toEqual([0x4045]);
    expect(fabric.configRead(AT, mask + 4, 4)).toBe(0b1000);
    fabric.configWrite(AT, mask, 4, 0);
    expect(sent()).toEqual([0x4045, 0x4047]);
    expect(port.message(1)).toEqual({ addressLow: 0xfee0_1000, addressHigh: 0, data: 0x4045 });
  });

  it('keeps what came up while the bus could not be mastered, with or without pending bits', () => {
    for (const maskable of [true, false]) {
      const { port, fabric, sent } = makeMsi({ vectors: 2, maskable }, 1);
      fabric.configWrite(AT, COMMAND, 2, 2);
      port.raise(1);
      expect(port.message(1)).toBeNull();
      expect(sent()).toEqual([]);
      fabric.configWrite(AT, COMMAND, 2, 6);
      expect(sent()).toEqual([0x4047]);
    }
  });

  it('sends 32 bits of data only where they are offered and enabled', () => {
    const { port, fabric, cap, sent } = makeMsi({ extendedData: true, vectors: 2 }, 1);
    fabric.configWrite(AT, cap + 12, 4, 0xabcd_4047);
    port.raise(0);
    fabric.configWrite(AT, cap + 3, 1, 0x06);
    expect(fabric.configRead(AT, cap + 2, 2) & 0x600).toBe(0x600);
    port.raise(0);
    expect(sent()).toEqual([0x4046, 0xabcd_4046]);
    const plain = makeMsi();
    plain.fabric.configWrite(AT, plain.cap + 12, 4, 0xabcd_4047);
    plain.fabric.configWrite(AT, plain.cap + 3, 1, 0x04);
    plain.port.raise(0);
    expect(plain.sent()).toEqual([0x4047]);
  });

  it('takes the place of the pin, and gives it back', () => {
    const { port, fabric, cap, lines } = makeMsi();
    port.setLine(true);
    expect(port.mode).toBe('msi');
    expect(lines).not.toContain(true);
    fabric.configWrite(AT, cap + 2, 2, 0);
    expect(port.mode).toBe('intx');
    expect(lines).toContain(true);
  });

  it('tells when a route changed, and only then', () => {
    const { port, fabric, cap, mask } = makeMsi({ vectors: 2 });
    let changes = 0;
    port.onRouteChange = () => changes++;
    fabric.configWrite(AT, cap + 4, 4, 0xfee0_1000);
    expect(changes).toBe(0);
    fabric.configWrite(AT, cap + 4, 4, 0xfee0_2000);
    fabric.configWrite(AT, mask, 4, 1);
    fabric.configWrite(AT, cap + 2, 2, 0);
    expect(changes).toBe(3);
  });
});
