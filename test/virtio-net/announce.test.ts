// GUEST_ANNOUNCE (virtio 1.4 5.1.9.5.4) and STANDBY (5.1.4.1): what the embedder asks for, what the driver sees of it.
import { describe, expect, it } from 'vitest';
import { FeatureSet } from '#virtio/features';
import { CONFIG, CONFIG_VECTOR, GENERATION, ISR, RecordingBackend, VirtioBench } from '../virtio-pci/bench.ts';
import { ControlBench, ERR, OK } from './control-bench.ts';

const LINK_UP = 1;
const ANNOUNCE = 2;
const status = (bench: VirtioBench): number => bench.read(CONFIG + 6, 2);
const ACK = [3, 0];

describe('announcement', () => {
  it('sets the status bit, moves the generation and notifies; the acknowledgement takes the bit away before its buffer is used', () => {
    const bench = new ControlBench();
    expect(status(bench)).toBe(LINK_UP);
    const generation = bench.get(GENERATION, 1);
    bench.read(ISR, 1);
    expect(bench.net.announce()).toBe(true);
    expect(bench.read(ISR, 1) & 2).toBe(2);
    expect(bench.get(GENERATION, 1)).not.toBe(generation);
    expect([status(bench), bench.net.announcing]).toEqual([LINK_UP | ANNOUNCE, true]);
    // A change of the link meanwhile keeps the request.
    bench.net.setLink(false);
    expect(status(bench)).toBe(ANNOUNCE);
    const seen = bench.get(GENERATION, 1);
    expect(bench.command(ACK)).toEqual({ ack: OK, used: 1 });
    expect([status(bench), bench.net.announcing]).toEqual([0, false]);
    expect(bench.get(GENERATION, 1)).not.toBe(seen);
  });

  it('with MSI-X comes on the configuration vector', () => {
    const bench = new ControlBench();
    bench.enableMsix();
    bench.programVector(1, 0x41);
    bench.set(CONFIG_VECTOR, 2, 1);
    expect(bench.net.announce()).toBe(true);
    expect(bench.messages.map(({ message }) => message.data)).toEqual([0x41]);
  });

  it.each([
    ['GUEST_ANNOUNCE', 21],
    ['STATUS', 16],
  ])('is not asked of a driver without %s', (_, bit) => {
    const bench = new ControlBench({ features: new VirtioBench().offered().without(FeatureSet.of(34, 35, bit)) });
    expect(bench.net.announce()).toBe(false);
    expect(status(bench)).toBe(LINK_UP);
    expect(bench.command(ACK).ack).toBe(bit === 21 ? ERR : OK);
  });

  it('is not asked of nobody, and ends with a reset', () => {
    const bench = new ControlBench();
    bench.net.announce();
    bench.status = 0;
    expect([status(bench), bench.net.announcing, bench.net.announce()]).toEqual([LINK_UP, false, false]);
    expect(() => new VirtioBench({ net: { features: { GUEST_ANNOUNCE: true, STATUS: false } } })).toThrow(
      expect.objectContaining({ code: 'NICBOX_FEATURE_DEPENDENCY' }),
    );
    expect(new VirtioBench({ net: { features: { STATUS: false } } }).net.offered.has(21)).toBe(false);
  });

  it('is asked after a restore, or lives through one', () => {
    const source = new ControlBench();
    source.net.announce();
    source.net.pause();
    const saved = structuredClone({ pci: source.pci.save(), ram: source.bytes.slice(), fabric: source.fabric.save() });
    const target = new ControlBench();
    target.status = 0;
    target.bytes.set(saved.ram);
    target.fabric.restore(saved.fabric as never);
    target.pci.restore(saved.pci);
    expect([status(target), target.net.announcing]).toEqual([LINK_UP | ANNOUNCE, true]);
    target.read(ISR, 1);
    expect(target.net.announce()).toBe(true);
    expect(target.read(ISR, 1) & 2).toBe(2);
    target.net.resume();
    const at = source.post(ACK);
    source.driver.expose();
    target.bytes.set(source.bytes);
    target.kick(target.index);
    expect([target.bytes[at], status(target)]).toEqual([OK, LINK_UP]);
  });
});

describe('standby', () => {
  it('is offered on demand; the embedder hears when a driver takes it and when that ends', () => {
    expect(new VirtioBench().net.offered.has(62)).toBe(false);
    const heard: boolean[] = [];
    const bench = new VirtioBench({ net: { features: { STANDBY: true }, onStandby: (standby) => heard.push(standby) } });
    bench.bringUp(FeatureSet.of(32));
    expect([heard, bench.net.standby]).toEqual([[], false]);
    bench.bringUp(FeatureSet.of(32, 62));
    expect([heard, bench.net.standby]).toEqual([[true], true]);
    bench.status = 0;
    expect([heard, bench.net.standby]).toEqual([[true, false], false]);
  });

  it('is heard of when a device with such a driver is restored', () => {
    const net = { features: { STANDBY: true } } as const;
    const source = new VirtioBench({ net });
    source.bringUp(FeatureSet.of(32, 62));
    source.net.pause();
    const heard: boolean[] = [];
    const target = new VirtioBench({ net: { ...net, onStandby: (standby) => heard.push(standby) }, backend: new RecordingBackend('other') });
    target.pci.restore(structuredClone(source.pci.save()));
    expect(heard).toEqual([true]);
  });
});
