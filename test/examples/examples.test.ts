import { readFileSync } from 'node:fs';
import { Machine } from 'nicbox';
import { CASES, judge, runCases } from 'nicbox/conformance';
import { describe, expect, it } from 'vitest';
import { MyTarget } from '../../examples/conformance-target.ts';
import { FakeEmulator } from '../../examples/embed.ts';
import { attachToy, TOY_REGISTERS as TOY } from '../../examples/toy-device.ts';

/** Lines that are neither blank nor comment. */
function codeLines(file: string): number {
  const text = readFileSync(new URL(`../../examples/${file}`, import.meta.url), 'utf8');
  return text.split('\n').filter((line) => line.trim() !== '' && !line.trim().startsWith('//')).length;
}

describe('examples/toy-device.ts', () => {
  const BAR = 0xc000_0000;

  function plugged() {
    const machine = new Machine({ memory: 2 ** 20 });
    const bdf = attachToy(machine).routingId;
    machine.configWrite(bdf, 0x10, 4, BAR);
    const ram = machine.memory.slabs[0]?.views.u8 as Uint8Array;
    const copy = (source: number, target: number, length: number) => {
      machine.mmioWrite(BAR + TOY.SOURCE.offset, 4, source);
      machine.mmioWrite(BAR + TOY.TARGET.offset, 4, target);
      machine.mmioWrite(BAR + TOY.LENGTH.offset, 4, length);
      machine.mmioWrite(BAR + TOY.GO.offset, 4, 1);
      return machine.mmioRead(BAR + TOY.STATUS.offset, 4);
    };
    return { machine, bdf, ram, copy };
  }

  it('is short', () => {
    expect(codeLines('toy-device.ts')).toBeLessThan(60);
  });

  it('copies, counts, and interrupts by level until told to stop', async () => {
    const { machine, bdf, ram, copy } = plugged();
    machine.configWrite(bdf, 4, 2, 6);
    ram.set([1, 2, 3, 4, 5], 0x100);
    expect(copy(0x100, 0x203, 5)).toBe(1);
    expect([...ram.subarray(0x203, 0x208)]).toEqual([1, 2, 3, 4, 5]);
    // Pin INTA of device 1 ends at the root's second line.
    expect(machine.lines.asserted(1)).toBe(true);
    expect(machine.vectors.take()).toBe(machine.platform.intxVectors[1]);
    machine.mmioWrite(BAR + TOY.STATUS.offset, 1, 1);
    expect(machine.lines.asserted(1)).toBe(false);
    expect(machine.mmioRead(BAR + TOY.COPIES.offset, 1)).toBe(1);
    expect(machine.mmioRead(BAR + TOY.COPIES.offset, 4)).toBe(1);
    expect(machine.mmioRead(BAR + TOY.COPIES.offset, 4)).toBe(0);
    await machine.close();
  });

  it('sends a message in place of the level once MSI is on', async () => {
    const { machine, bdf, copy } = plugged();
    machine.configWrite(bdf, 4, 2, 6);
    const msi = machine.configRead(bdf, 0x34, 1);
    expect(machine.configRead(bdf, msi, 1)).toBe(5);
    const wide = (machine.configRead(bdf, msi + 2, 2) & 0x80) !== 0;
    machine.configWrite(bdf, msi + 4, 4, 0xfee0_0000);
    machine.configWrite(bdf, msi + (wide ? 12 : 8), 2, 0x41);
    machine.configWrite(bdf, msi + 2, 2, 1);
    copy(0, 0x1000, 16);
    expect(machine.lines.asserted(1)).toBe(false);
    expect(machine.vectors.take()).toBe(0x41);
    await machine.close();
  });

  it('fails what memory refuses, and all of it without bus mastering', async () => {
    const { machine, bdf, copy } = plugged();
    machine.configWrite(bdf, 4, 2, 2);
    expect(copy(0, 0x1000, 4)).toBe(3);
    machine.configWrite(bdf, 4, 2, 6);
    machine.mmioWrite(BAR + TOY.STATUS.offset, 4, 3);
    expect(copy(2 ** 20 - 2, 0x1000, 4)).toBe(3);
    expect(copy(BAR, 0x1000, 4)).toBe(3);
    expect(copy(0, 0x1000, 0x1_ffff)).toBe(3);
    await machine.close();
  });

  it('is saved and restored with its machine', async () => {
    const { machine, bdf, copy } = plugged();
    machine.configWrite(bdf, 4, 2, 6);
    copy(0, 0x1000, 16);
    const saved = structuredClone(await machine.save());
    await machine.close();
    const other = plugged();
    await other.machine.restore(saved);
    expect(other.machine.mmioRead(BAR + TOY.STATUS.offset, 4)).toBe(1);
    expect(other.machine.lines.asserted(1)).toBe(true);
    other.machine.reset();
    expect(other.machine.lines.asserted(1)).toBe(false);
    expect(other.machine.mmioRead(BAR + TOY.STATUS.offset, 4)).toBe(0xffff_ffff);
    await other.machine.close();
  });
});

describe('examples/embed.ts', () => {
  it('is short', () => {
    expect(codeLines('embed.ts')).toBeLessThan(60);
  });

  it('serves a host that replaces its memory, splits accesses, and has interrupt lines, messages and timers of its own', async () => {
    const host = new FakeEmulator();
    const { machine } = host;
    const bdf = attachToy(machine).routingId;
    const bar = 0xfebf_0000;
    const copy = (text: string) => {
      new TextEncoder().encodeInto(text, new Uint8Array(host.ram, 0x1000));
      host.store(bar + TOY.SOURCE.offset, 4, 0x1000);
      host.store(bar + TOY.TARGET.offset, 4, 0x8000);
      host.store(bar + TOY.LENGTH.offset, 4, text.length);
      host.store(bar + TOY.GO.offset, 4, 1);
      return new TextDecoder().decode(new Uint8Array(host.ram, 0x8000, text.length));
    };

    expect(host.load(bar, 4)).toBe(0xffff_ffff);
    machine.configWrite(bdf, 0x10, 4, bar);
    machine.configWrite(bdf, 0x04, 2, 0x0006);
    expect(host.decoded).toContainEqual({ space: 'memory', base: bar, size: 32, bdf, bar: 0 });
    expect(copy('before the buffer went')).toBe('before the buffer went');
    expect(host.levels).toEqual([false, true, false, false]);
    const status = host.load(bar + TOY.STATUS.offset, 2);
    expect(status).toBe(1);
    host.store(bar + TOY.STATUS.offset, 1, status);
    expect(host.levels).toEqual([false, false, false, false]);

    const fired: number[] = [];
    const timer = machine.clock.timer(() => fired.push(host.now));
    timer.arm(5000);
    machine.clock.timer(() => fired.push(-1)).arm(50_000);
    const old = host.ram;
    host.slice(10_000);
    expect(old.byteLength).toBe(0);
    expect(fired).toEqual([10_000]);
    timer.arm(11_000);
    timer.cancel();
    host.slice(10_000);
    expect(fired).toEqual([10_000]);
    expect(copy('and after')).toBe('and after');

    expect(host.dropped).toBe(2);
    expect(machine.dirty.take()).toEqual([0x8000]);

    const msi = machine.configRead(bdf, 0x34, 1);
    host.store(bar + TOY.STATUS.offset, 4, 1);
    machine.configWrite(bdf, msi + 4, 4, 0xfee0_0000);
    machine.configWrite(bdf, msi + ((machine.configRead(bdf, msi + 2, 2) & 0x80) !== 0 ? 12 : 8), 2, 0x4021);
    machine.configWrite(bdf, msi + 2, 2, 1);
    copy('by message');
    expect(host.levels).toEqual([false, false, false, false]);
    expect(host.messages).toEqual([0x4021]);
    expect(machine.vectors.any).toBe(false);

    machine.configWrite(bdf, 0x04, 2, 0);
    expect(host.decoded.some((d) => d.bdf === bdf)).toBe(false);
    await machine.close();
  });
});

describe('examples/conformance-target.ts', () => {
  it('puts the conformance suite on a device of its own in less than 60 lines', async () => {
    expect(codeLines('conformance-target.ts')).toBeLessThan(60);
    const report = await runCases(CASES, { name: 'mine', open: () => new MyTarget() }, { areas: ['status', 'reset', 'net-rx'] });
    const verdicts = [...judge(report).values()];
    expect(verdicts.filter(({ verdict }) => verdict === 'fail')).toEqual([]);
    expect(verdicts.filter(({ verdict }) => verdict === 'pass').length).toBeGreaterThan(20);
  }, 120_000);
});
