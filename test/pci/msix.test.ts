// MSI-X: table and pending bits as a guest sees them, function and vector masks, pending and re-send, widths, 2048 vectors, saved state.
import { describe, expect, it } from 'vitest';
import { Msi } from '#pci/msi';
import { Msix, type MsixOptions, msixBar, msixOwnBar } from '#pci/msix';
import { findCapability, makeTimedBench } from './capability-kit.ts';
import { Bytes, bdf, COMMAND, makeDevice } from './fabric-kit.ts';

const AT = bdf(0, 3);
const BASE = 0xf000_0000;

function makeMsix(options: MsixOptions = msixOwnBar(0, 4)) {
  const bench = makeTimedBench();
  const msix = new Msix(options);
  const rest = new Bytes(0x200);
  const region = msixBar(msix, options.table.bar, rest);
  const fn = makeDevice('toy', [{ index: options.table.bar, kind: 'memory32', region }], {
    pcieType: 'root-complex-endpoint',
    capabilities: [msix, new Msi()],
  });
  const { fabric } = bench;
  fabric.attach(fabric.root, fn, 3);
  fabric.configWrite(AT, 0x10 + 4 * options.table.bar, 4, BASE);
  fabric.configWrite(AT, COMMAND, 2, 6);
  const cap = findCapability(fabric, AT, 0x11);
  const table = BASE + options.table.offset;
  const pba = BASE + options.pendingBits.offset;
  const control = (value: number) => fabric.configWrite(AT, cap + 2, 2, value);
  const set = (vector: number, data: number, masked = 0) => {
    fabric.mmioWrite(table + 16 * vector, 4, 0xfee0_0000);
    fabric.mmioWrite(table + 16 * vector + 8, 8, data + masked * 2 ** 32);
  };
  const sent = () => bench.messages.map((m) => m.message.data);
  return { ...bench, msix, rest, fn, cap, table, pba, control, set, sent, port: fn.interrupts };
}

describe('MSI-X table', () => {
  it('comes up masked, with reserved bits read-only', () => {
    const { fabric, table } = makeMsix();
    for (let v = 0; v < 4; v++) expect(fabric.mmioRead(table + 16 * v + 12, 4)).toBe(1);
    fabric.mmioWrite(table, 4, 0xffff_ffff);
    fabric.mmioWrite(table + 12, 4, 0xffff_fffe);
    expect(fabric.mmioRead(table, 4)).toBe(0xffff_fffc);
    expect(fabric.mmioRead(table + 12, 4)).toBe(0);
  });

  it('takes 8-byte accesses, and merges narrow ones into their dword', () => {
    const { fabric, table } = makeMsix();
    fabric.mmioWrite(table, 8, 0x1234_5678 + 0xabcd * 2 ** 32);
    expect(fabric.mmioRead(table, 8)).toBe(0x1234_5678 + 0xabcd * 2 ** 32);
    fabric.mmioWrite(table + 5, 1, 0x99);
    fabric.mmioWrite(table + 6, 2, 0x7766);
    expect(fabric.mmioRead(table + 4, 4)).toBe(0x7766_99cd);
    expect(fabric.mmioRead(table + 6, 2)).toBe(0x7766);
    expect(fabric.mmioRead(table + 5, 1)).toBe(0x99);
  });

  it('shares a BAR with other registers', () => {
    const { fabric, rest, table } = makeMsix({ vectors: 2, table: { bar: 0, offset: 0x200 }, pendingBits: { bar: 0, offset: 0x100 } });
    fabric.mmioWrite(BASE + 0x10, 4, 0x55);
    fabric.mmioWrite(BASE + 0x100, 4, 0x66);
    fabric.mmioWrite(table + 8, 4, 0x77);
    expect([rest.bytes[0x10], rest.bytes[0x100], rest.bytes.every((b, i) => b === 0 || i === 0x10)]).toEqual([0x55, 0, true]);
    expect(fabric.mmioRead(table + 8, 4)).toBe(0x77);
  });

  it('refuses layouts that cannot be', () => {
    expect(() => new Msix({ vectors: 2049, table: { bar: 0, offset: 0 }, pendingBits: { bar: 1, offset: 0 } })).toThrow(RangeError);
    expect(() => new Msix({ vectors: 0, table: { bar: 0, offset: 0 }, pendingBits: { bar: 1, offset: 0 } })).toThrow(RangeError);
    expect(() => new Msix({ vectors: 8, table: { bar: 0, offset: 4 }, pendingBits: { bar: 1, offset: 0 } })).toThrow(RangeError);
    expect(() => new Msix({ vectors: 8, table: { bar: 6, offset: 0 }, pendingBits: { bar: 1, offset: 0 } })).toThrow(RangeError);
    expect(() => new Msix({ vectors: 8, table: { bar: 0, offset: 0 }, pendingBits: { bar: 0, offset: 64 } })).toThrow(RangeError);
  });
});

describe('MSI-X messages', () => {
  it('go out while enabled, unmasked and mastering, with the requester id', () => {
    const { port, set, control, sent, messages } = makeMsix();
    set(2, 0x42);
    port.raise(2);
    control(0x8000);
    expect(port.mode).toBe('msix');
    port.raise(2);
    for (const vector of [4, 7, -1, 0.5, Number.NaN]) {
      port.raise(vector);
      expect(port.message(vector)).toBeNull();
    }
    expect(sent()).toEqual([0x42]);
    expect(messages[0]).toEqual({ message: { addressLow: 0xfee0_0000, addressHigh: 0, data: 0x42 }, requester: AT });
  });

  it('stay pending under a vector mask and go once on unmask', () => {
    const { port, set, control, sent, fabric, table, pba } = makeMsix();
    set(3, 0x43, 1);
    control(0x8000);
    port.raise(3);
    port.raise(3);
    expect(fabric.mmioRead(pba, 4)).toBe(8);
    fabric.mmioWrite(pba, 8, 0);
    fabric.mmioWrite(pba, 4, 0xffff_ffff);
    expect(fabric.mmioRead(pba, 8)).toBe(8);
    fabric.mmioWrite(table + 3 * 16 + 12, 1, 0);
    expect(sent()).toEqual([0x43]);
    expect(fabric.mmioRead(pba, 4)).toBe(0);
    fabric.mmioWrite(table + 3 * 16 + 12, 4, 1);
    fabric.mmioWrite(table + 3 * 16 + 12, 4, 0);
    expect(sent()).toEqual([0x43]);
  });

  it('stay pending under the function mask, which a byte write can lift', () => {
    const { port, set, control, sent, fabric, cap } = makeMsix();
    set(0, 0x40);
    set(1, 0x41, 1);
    control(0xc000);
    port.raise(0);
    port.raise(1);
    expect(port.message(0)).toBeNull();
    fabric.configWrite(AT, cap + 3, 1, 0x80);
    expect(sent()).toEqual([0x40]);
    expect(port.message(0)).toEqual({ addressLow: 0xfee0_0000, addressHigh: 0, data: 0x40 });
  });

  it('wait for bus mastering', () => {
    const { port, set, control, sent, fabric } = makeMsix();
    set(0, 0x40);
    control(0x8000);
    fabric.configWrite(AT, COMMAND, 2, 2);
    port.raise(0);
    expect(port.message(0)).toBeNull();
    expect(sent()).toEqual([]);
    fabric.configWrite(AT, COMMAND, 2, 6);
    expect(sent()).toEqual([0x40]);
  });

  it('drop the pin while enabled', () => {
    const { port, control, lines } = makeMsix();
    port.setLine(true);
    expect(lines).toContain(true);
    control(0x8000);
    expect(lines).not.toContain(true);
    control(0);
    expect(lines).toContain(true);
  });

  it('can be taken back while masked', () => {
    const { msix, port, set, control, sent, fabric, table } = makeMsix();
    set(1, 0x41, 1);
    control(0x8000);
    port.raise(1);
    msix.retract(1);
    fabric.mmioWrite(table + 16 + 12, 4, 0);
    expect(sent()).toEqual([]);
  });

  it('work for all 2048 vectors', () => {
    const { port, set, control, sent, fabric, pba } = makeMsix(msixOwnBar(0, 2048));
    for (let v = 0; v < 2048; v++) set(v, v);
    control(0xc000);
    for (let v = 0; v < 2048; v++) port.raise(v);
    for (let word = 0; word < 64; word++) expect(fabric.mmioRead(pba + 4 * word, 4)).toBe(0xffff_ffff);
    control(0x8000);
    expect(sent()).toEqual(Array.from({ length: 2048 }, (_, v) => v));
  });

  it('tell when a route changed', () => {
    const { port, set, control, fabric, table } = makeMsix();
    let changes = 0;
    port.onRouteChange = () => changes++;
    set(0, 0x40);
    expect(changes).toBe(0);
    control(0x8000);
    expect(changes).toBe(1);
    fabric.mmioWrite(table + 12, 4, 1);
    expect(changes).toBe(2);
  });
});

describe('a table and pending bits side by side', () => {
  it('may touch but not overlap', () => {
    const places = (offset: number) => ({ vectors: 8, table: { bar: 0, offset: 0x80 }, pendingBits: { bar: 0, offset } });
    expect(new Msix(places(0x78)).vectors).toBe(8);
    expect(new Msix(places(0x100)).vectors).toBe(8);
    expect(() => new Msix(places(0x80))).toThrow(RangeError);
    expect(() => new Msix(places(0xf8))).toThrow(RangeError);
  });
});

describe('MSI-X state', () => {
  it('survives save and restore, pending bits included, and refuses what does not fit', () => {
    const a = makeMsix();
    a.set(0, 0x40, 1);
    a.control(0x8000);
    a.port.raise(0);
    const saved = structuredClone(a.fabric.save());
    const b = makeMsix();
    b.fabric.restore(saved);
    expect(b.fabric.mmioRead(b.pba, 4)).toBe(1);
    b.fabric.mmioWrite(b.table + 12, 4, 0);
    expect(b.sent()).toEqual([0x40]);
    expect(() => b.msix.restore({ table: new Uint32Array(4), pending: new Uint32Array(2) })).toThrow('MSI-X');
    expect(() => b.msix.restore({ table: new Uint32Array(16), pending: new Uint32Array([0, 1]) })).toThrow('MSI-X');
    expect(() => b.msix.restore(null)).toThrow('MSI-X');
  });

  it('is masked and quiet again after any reset', () => {
    const { fabric, fn, set, control, port, table, pba, sent } = makeMsix();
    set(0, 0x40, 1);
    control(0x8000);
    port.raise(0);
    fabric.resetFunction(fn);
    expect(port.mode).toBe('intx');
    fabric.configWrite(AT, 0x10, 4, BASE);
    fabric.configWrite(AT, COMMAND, 2, 6);
    expect([fabric.mmioRead(table + 12, 4), fabric.mmioRead(table + 8, 4), fabric.mmioRead(pba, 4)]).toEqual([1, 0, 0]);
    expect(sent()).toEqual([]);
  });
});
