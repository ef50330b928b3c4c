// Saving and restoring the fabric: the same tree goes on where the other stood; anything else is refused with nothing changed.
import { describe, expect, it } from 'vitest';
import { type Envelope, RestoreError } from '#core/saved';
import { rootPort } from '#pci/bridges';
import { Express } from '#pci/express';
import { Msi } from '#pci/msi';
import { PowerManagement } from '#pci/pm';
import { Bytes, bdf, COMMAND, makeBench, makeDevice, programBridge } from './fabric-kit.ts';

function makeTree(barSize = 0x1000) {
  const bench = makeBench();
  const port = rootPort();
  const region = new Bytes(barSize);
  const device = makeDevice('toy', [{ index: 0, kind: 'memory32', region }], { capabilities: [new PowerManagement(), new Msi(), new Express()] });
  bench.fabric.attach(bench.fabric.root, port, 1);
  bench.fabric.attach(port, device);
  return { ...bench, port, device, region };
}

function program({ fabric, device }: ReturnType<typeof makeTree>): void {
  programBridge(fabric, bdf(0, 1), [0, 1, 1], { memory: [0xe000_0000, 0xe00f_ffff] });
  fabric.configWrite(bdf(1, 0), 0x10, 4, 0xe000_0000);
  fabric.configWrite(bdf(1, 0), COMMAND, 2, 6);
  fabric.ioWrite(0xcf8, 4, 0x8001_0040);
  device.services?.interrupts.setLine(true);
}

/** A record as it comes back from a file or another thread. */
function copy(envelope: Envelope): Envelope {
  return structuredClone(envelope);
}

interface Record {
  functions: { bytes: Uint8Array; identity: string; capabilities: unknown[] }[];
}

describe('saved fabric state', () => {
  it('carries decoding, routing, mastering, interrupt levels and the address port', () => {
    const from = makeTree();
    program(from);
    const saved = copy(from.fabric.save());
    const to = makeTree();
    to.region.bytes[0] = 0x5a;
    const generation = to.fabric.decodeGeneration;
    to.fabric.restore(saved);
    expect(to.fabric.mmioRead(0xe000_0000, 1)).toBe(0x5a);
    expect(to.fabric.decoded()).toEqual(from.fabric.decoded());
    expect(to.fabric.decodeGeneration).toBeGreaterThan(generation);
    expect(to.device.services?.dma.requester).toBe(bdf(1, 0));
    expect(to.device.mayMaster).toBe(true);
    expect(to.lines).toEqual(from.lines);
    expect(to.lines).toContain(true);
    expect(to.fabric.ioRead(0xcf8, 4)).toBe(0x8001_0040);
    for (let at = 0; at < 0x1000; at += 4) expect(to.fabric.configRead(bdf(1, 0), at, 4)).toBe(from.fabric.configRead(bdf(1, 0), at, 4));
    expect(to.fabric.save()).toEqual(from.fabric.save());
  });

  it('takes back what happened since, too', () => {
    const bench = makeTree();
    const saved = copy(bench.fabric.save());
    program(bench);
    bench.fabric.restore(saved);
    expect(bench.fabric.decoded()).toEqual([]);
    expect(bench.device.mayMaster).toBe(false);
    expect(bench.lines).toEqual([false, false, false, false]);
    expect(bench.fabric.configRead(bdf(1, 0), 0, 4)).toBe(0xffff_ffff);
  });

  it('is refused by another tree, another version, or when it claims what no guest could write', () => {
    const from = makeTree();
    program(from);
    const good = from.fabric.save();
    const bad = (change: (state: Record) => void): Envelope => {
      const envelope = copy(good);
      change(envelope.state as Record);
      return envelope;
    };
    const device = 1;
    const refused: [string, Envelope][] = [
      ['no function at all', bad((s) => s.functions.pop())],
      ['another identity', bad((s) => Object.assign(s.functions[device] as object, { identity: 'x' }))],
      ['short bytes', bad((s) => Object.assign(s.functions[device] as object, { bytes: new Uint8Array(256) }))],
      ['another vendor', bad((s) => s.functions[device]?.bytes.fill(0x99, 0, 2))],
      ['a BAR off its alignment', bad((s) => s.functions[device]?.bytes.fill(0x10, 0x10, 0x11))],
      ['a capability list that loops', bad((s) => s.functions[device]?.bytes.fill(0x40, 0x41, 0x42))],
      ['capability state of nobody', bad((s) => s.functions[device]?.capabilities.pop())],
      ['capability state that is no such thing', bad((s) => s.functions[device]?.capabilities.fill('rubbish'))],
      ['another version', { ...copy(good), version: 99 }],
      ['another part', { ...copy(good), part: 'disk' }],
      ['nothing', null as unknown as Envelope],
      ['no state', { ...copy(good), state: null }],
    ];
    for (const [what, envelope] of refused) {
      const to = makeTree();
      program(to);
      const before = to.fabric.save();
      expect(() => to.fabric.restore(envelope), what).toThrow(RestoreError);
      expect(to.fabric.save(), what).toEqual(before);
      expect(to.fabric.mmioRead(0xe000_0000, 1), what).toBe(0);
    }
    const other = makeTree(0x2000);
    expect(() => other.fabric.restore(good)).toThrow(RestoreError);
  });
});
