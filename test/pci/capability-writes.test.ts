// Property tests: whatever is written to any capability of any kind of function, in any width, nothing throws, read-only bits stay, the machine still lists itself, and its
// state can be saved and restored exactly. MSI-X tables likewise.
import { serialize } from 'node:v8';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { AccessSize } from '#core/region';
import type { Fabric } from '#pci/fabric';
import type { PciFunction } from '#pci/function';
import { lspciTree } from '#pci/lspci';
import { MsixTable } from '#pci/msix-table';
import { makeGoldenMachine } from './golden-machine.ts';

type Step = { fn: number; capability: number; offset: number; size: AccessSize; value: number; time: number };

const step: fc.Arbitrary<Step> = fc.record({
  fn: fc.nat(30),
  capability: fc.nat(10),
  offset: fc.nat(70),
  size: fc.constantFrom<AccessSize>(1, 2, 4),
  value: fc.oneof(fc.integer({ min: 0, max: 0xffff_ffff }), fc.constantFrom(0, 1, 0xffff_ffff, 0x8000_8000, 9, 0x10)),
  time: fc.constantFrom(0, 0, 0, 50e3, 200e6),
});

/** Bits that neither a guest's write nor the function's own life may change: the capability header. */
function headers(fn: PciFunction): string {
  return fn.capabilities.map((c) => fn.config.get32(fn.offsetOf(c)) & (c.extended ? 0xffff_ffff : 0xffff)).join();
}

function run(fabric: Fabric, clock: { advance(duration: number): void }, steps: readonly Step[]): void {
  for (const { fn: index, capability, offset, size, value, time } of steps) {
    const functions = fabric.functions();
    const fn = functions[index % functions.length] as PciFunction;
    if (fn.capabilities.length === 0) continue;
    const chosen = fn.capabilities[capability % fn.capabilities.length];
    if (chosen === undefined) continue;
    const at = fn.offsetOf(chosen) + (offset % (chosen.size + 3));
    const before = headers(fn);
    const bytes = fn.config.bytes.slice();
    // By way of the fabric where the function answers, so that the effects are acted on; hidden ones are written to directly.
    const routed = fabric.functionAt(fn.routingId) === fn;
    if (routed) fabric.configWrite(fn.routingId, at, size, value);
    else fn.configWrite(at, size, value);
    expect(headers(fn)).toBe(before);
    // The identity, and all that lies outside header and capabilities, is as it was.
    expect(fn.config.get32(0)).toBe(new DataView(bytes.buffer).getUint32(0, true));
    const read = fn.configRead(at, size);
    expect(Number.isInteger(read) && read >= 0 && read <= 0xffff_ffff).toBe(true);
    clock.advance(time);
  }
}

describe('random writes to capabilities', () => {
  it('leave a machine that lists itself and can be saved and restored', () => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 60 }), (steps) => {
        const a = makeGoldenMachine();
        run(a.fabric, a.clock, steps);
        const read = (machine: typeof a) => (bdf: number, offset: number, size: AccessSize) => machine.fabric.configRead(bdf, offset, size);
        const tree = lspciTree(read(a));
        const saved = structuredClone(a.fabric.save());
        const b = makeGoldenMachine();
        b.fabric.restore(saved);
        expect(lspciTree(read(b))).toBe(tree);
        expect(b.fabric.decoded()).toEqual(a.fabric.decoded());
        expect(b.fabric.functions().map((fn) => [fn.mayMaster, fn.interrupts.mode])).toEqual(
          a.fabric.functions().map((fn) => [fn.mayMaster, fn.interrupts.mode]),
        );
        // Compared as bytes: an element-wise comparison of 25 configuration spaces takes a hundred times as long.
        expect(serialize(structuredClone(b.fabric.save())).equals(serialize(saved))).toBe(true);
      }),
      { numRuns: 60 },
    );
  });

  it('change only bits that are declared writable, unless a reset or an event follows', () => {
    const { fabric } = makeGoldenMachine();
    fc.assert(
      fc.property(step, ({ fn: index, capability, offset, size, value }) => {
        const functions = fabric.functions().filter((fn) => fn.capabilities.length > 0);
        const fn = functions[index % functions.length] as PciFunction;
        const chosen = fn.capabilities[capability % fn.capabilities.length];
        if (chosen === undefined) return;
        const at = fn.offsetOf(chosen) + (offset % chosen.size);
        // Not written here: registers whose writes make others move by design (power state, link, slot, FLR, SR-IOV control, AER status).
        if (![0x05, 0x11, 0x0d, 0x0e, 0x03].includes(chosen.id)) return;
        const before = fn.config.bytes.slice();
        fn.configWrite(at, size, value);
        for (let i = 0; i < before.length; i++) {
          const free = (fn.config.writable[i] as number) | (fn.config.clearable[i] as number);
          const changed = ((before[i] as number) ^ (fn.config.bytes[i] as number)) & ~free;
          // MSI pending bits are the function's own: a write can only ever clear them by sending.
          if (changed !== 0) expect({ id: chosen.id, byte: i, changed }).toEqual({ id: 0x05, byte: i, changed: before[i] });
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe('random accesses to an MSI-X table', () => {
  it('keep reserved bits, lose no pending message and send none twice', () => {
    const access = fc.record({
      kind: fc.constantFrom('write', 'raise', 'flush', 'pba'),
      vector: fc.nat(7),
      offset: fc.nat(15),
      size: fc.constantFrom<AccessSize>(1, 2, 4),
      value: fc.integer({ min: 0, max: 0xffff_ffff }),
    });
    fc.assert(
      fc.property(fc.array(access, { maxLength: 100 }), (accesses) => {
        const waiting = new Set<number>();
        const table: MsixTable = new MsixTable(8, {
          send(vector) {
            expect(table.masked(vector)).toBe(false);
            expect(waiting.delete(vector)).toBe(true);
            return true;
          },
          changed: () => undefined,
        });
        for (const { kind, vector, offset, size, value } of accesses) {
          const at = vector * 16 + (offset & ~(size - 1));
          if (kind === 'write') table.table.write(at, size, value);
          else if (kind === 'pba') table.pendingBits.write(0, 4, value);
          else if (kind === 'flush') table.flush();
          else if (table.masked(vector)) {
            table.setPending(vector, true);
            waiting.add(vector);
          }
        }
        for (let v = 0; v < 8; v++) {
          expect(table.pending(v)).toBe(waiting.has(v));
          expect(table.table.read(v * 16, 4) & 3).toBe(0);
          expect(table.table.read(v * 16 + 12, 4) & ~1).toBe(0);
        }
        expect(table.accepts(table.save())).toBe(true);
      }),
    );
  });
});
