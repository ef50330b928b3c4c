// Native hot plug: events and their interrupts, commands, insertion, orderly and surprise removal.
import { describe, expect, it } from 'vitest';
import { Express } from '#pci/express';
import type { SlotOptions } from '#pci/express-slot';
import { PciFunction } from '#pci/function';
import { HotPlugSlot } from '#pci/hotplug';
import { Msi } from '#pci/msi';
import { Msix, msixBar, msixOwnBar } from '#pci/msix';
import { findCapability, makePortBench, makeTimedBench } from './capability-kit.ts';
import { bdf, COMMAND, makeDevice } from './fabric-kit.ts';

const SLTCTL = 24;
const SLTSTA = 26;
const LNKSTA = 18;
const FULL: SlotOptions = { number: 5, attentionButton: true, powerController: true, mrlSensor: true, attentionIndicator: true, powerIndicator: true };
const OFF = 0x0700;
const ON = 0x0100;
/** Every enable but command completed, and the interrupt. */
const ENABLES = 0x102f;

function makeSlot(slot: SlotOptions = FULL, occupied = false) {
  const device = makeDevice('card', [], { capabilities: [new Express()] });
  const bench = makePortBench(occupied ? device : undefined, { slot, trainingTime: 1000 }, [new Msi()]);
  const { fabric, portAt, portExpress } = bench;
  const control = (value: number) => fabric.configWrite(portAt, portExpress + SLTCTL, 2, value);
  const status = () => fabric.configRead(portAt, portExpress + SLTSTA, 2);
  const clear = (bits = 0x11f) => fabric.configWrite(portAt, portExpress + SLTSTA, 2, bits);
  const answers = () => fabric.configRead(bench.deviceAt, 0, 2) === 0x1234;
  return { ...bench, device, hand: new HotPlugSlot(fabric, bench.port), control, status, clear, answers };
}

describe('slot registers', () => {
  it('describe the slot and give it a number', () => {
    const { fabric, portAt, portExpress } = makeSlot();
    expect(fabric.configRead(portAt, portExpress + 2, 2)).toBe(0x142);
    expect(fabric.configRead(portAt, portExpress + 20, 4)).toBe((5 << 19) | 0x5f);
  });

  it('have room for slot numbers of 13 bits', () => {
    expect(makeSlot({ number: 8191 }).port.name).toBe('root-port');
    for (const number of [-1, 8192, 1.5]) expect(() => makeSlot({ number })).toThrow(RangeError);
  });

  it('start with the power on where a device sits, without any event', () => {
    const { fabric, portAt, portExpress, status, answers, hand } = makeSlot(FULL, true);
    expect(status()).toBe(0x40);
    expect(fabric.configRead(portAt, portExpress + SLTCTL, 2) & 0x7c0).toBe(0x1c0);
    expect(answers()).toBe(true);
    expect([hand.occupied, hand.powered]).toEqual([true, true]);
    const empty = makeSlot();
    expect(empty.status()).toBe(0);
    expect(empty.fabric.configRead(portAt, portExpress + SLTCTL, 2) & 0x7c0).toBe(0x7c0);
  });

  it('have only the controls that the slot has', () => {
    const bare = makeSlot({});
    bare.control(0xffff);
    expect(bare.fabric.configRead(bare.portAt, bare.portExpress + SLTCTL, 2)).toBe(0x1038);
    const full = makeSlot();
    full.control(0xffff);
    expect(full.fabric.configRead(full.portAt, full.portExpress + SLTCTL, 2)).toBe(0x17ff);
  });

  it('take each write to slot control as one command, and none to slot status', () => {
    const { control, status, clear, fabric, portAt, portExpress } = makeSlot();
    clear(0);
    expect(status() & 16).toBe(0);
    control(0);
    expect(status() & 16).toBe(16);
    clear(16);
    expect(status() & 16).toBe(0);
    fabric.configWrite(portAt, portExpress + SLTCTL + 1, 1, 7);
    expect(status() & 16).toBe(16);
    const silent = makeSlot({ ...FULL, noCommandCompleted: true });
    silent.control(0xffff);
    expect(silent.status() & 16).toBe(0);
  });

  it('leave an indicator alone for the reserved value', () => {
    const { control, hand } = makeSlot();
    control(0x0280);
    expect(hand.indicators).toEqual({ power: 2, attention: 2 });
    control(0);
    expect(hand.indicators).toEqual({ power: 2, attention: 2 });
  });
});

describe('events', () => {
  it('interrupt by level on the pin while enabled and not cleared', () => {
    const { hand, control, clear, lines } = makeSlot();
    hand.pressAttention();
    expect(lines).not.toContain(true);
    control(ENABLES | OFF);
    expect(lines).toContain(true);
    clear(1);
    expect(lines).not.toContain(true);
    hand.setLatch('open');
    expect(lines).toContain(true);
    control((ENABLES & ~4) | OFF);
    expect(lines).not.toContain(true);
  });

  it('send a message each time the level rises', () => {
    const { hand, control, clear, messages, fabric, portAt } = makeSlot();
    const msi = findCapability(fabric, portAt, 5);
    fabric.configWrite(portAt, msi + 4, 4, 0xfee0_0000);
    fabric.configWrite(portAt, msi + 12, 2, 0x31);
    fabric.configWrite(portAt, msi + 2, 2, 1);
    control(ENABLES | OFF);
    clear();
    hand.pressAttention();
    hand.powerFault();
    expect(messages).toEqual([{ message: { addressLow: 0xfee0_0000, addressHigh: 0, data: 0x31 }, requester: portAt }]);
    clear(1);
    expect(messages.length).toBe(1);
    clear(2);
    hand.pressAttention();
    expect(messages.length).toBe(2);
  });

  it('go by MSI-X where a port has it enabled', () => {
    const { fabric } = makeTimedBench();
    const msix = new Msix(msixOwnBar(0, 2));
    const port = new PciFunction({
      name: 'port',
      identity: { vendorId: 0x1b36, deviceId: 0x000c, classCode: 0x060400, interruptPin: 1, pcieType: 'root-port' },
      bridge: {},
      bars: [{ index: 0, kind: 'memory32', region: msixBar(msix, 0) }],
      capabilities: [new Express({ slot: FULL }), msix, new Msi()],
    });
    fabric.attach(fabric.root, port, 1);
    fabric.configWrite(8, 0x10, 4, 0xe000_0000);
    fabric.configWrite(8, COMMAND, 2, 6);
    fabric.configWrite(8, port.offsetOf(msix) + 2, 2, 0x8000);
    fabric.configWrite(8, findCapability(fabric, 8, 0x10) + SLTCTL, 2, ENABLES | OFF);
    new HotPlugSlot(fabric, port).pressAttention();
    expect(fabric.mmioRead(0xe000_0800, 4), 'vector 0 is masked: pending').toBe(1);
  });

  it('are refused by slots that cannot have them', () => {
    const { hand } = makeSlot({});
    expect(() => hand.pressAttention()).toThrow(TypeError);
    expect(() => hand.setLatch('open')).toThrow(TypeError);
    expect(() => hand.powerFault()).toThrow(TypeError);
    expect(() => hand.requestRemoval()).toThrow(TypeError);
    expect(() => hand.removeByForce()).toThrow(TypeError);
  });
});

describe('insertion', () => {
  it('announces the card; it answers once the guest has turned the slot on and the link has trained', () => {
    const { hand, device, control, status, clear, clock, answers, lines, fabric, portAt, portExpress } = makeSlot();
    control(ENABLES | OFF);
    clear();
    hand.insert(device);
    expect(status()).toBe(0x48);
    expect(lines).toContain(true);
    expect(answers()).toBe(false);
    clear();
    control(ENABLES | ON);
    expect(answers()).toBe(false);
    expect(fabric.configRead(portAt, portExpress + LNKSTA, 2) & 0x2800).toBe(0x800);
    clock.advance(1000);
    expect(answers()).toBe(true);
    expect(status()).toBe(0x150);
    expect(fabric.configRead(portAt, portExpress + LNKSTA, 2) & 0x2800).toBe(0x2000);
    expect(() => hand.insert(makeDevice('second'))).toThrow(TypeError);
  });

  it('trains at once in a slot without a power controller', () => {
    const { hand, device, status, clock, answers } = makeSlot({ surprise: true });
    hand.insert(device);
    expect(answers()).toBe(false);
    clock.advance(1000);
    expect(answers()).toBe(true);
    expect(status()).toBe(0x148);
  });
});

describe('removal', () => {
  it('by surprise takes link and card away at once, and a card can come back', () => {
    const { hand, device, status, answers, control, clear, clock, fabric, deviceAt } = makeSlot(FULL, true);
    fabric.configWrite(deviceAt, COMMAND, 2, 4);
    expect(device.mayMaster).toBe(true);
    hand.removeByForce();
    expect(answers()).toBe(false);
    expect(device.services).toBeUndefined();
    expect(status()).toBe(0x108);
    clear();
    hand.insert(device);
    control(OFF);
    control(ON);
    clock.advance(1000);
    expect(answers()).toBe(true);
    expect(fabric.configRead(deviceAt, COMMAND, 2)).toBe(0);
  });

  it('in order waits for power and its indicator to go off', () => {
    const { hand, control, status, clear, answers } = makeSlot(FULL, true);
    let removed = 0;
    hand.requestRemoval(() => removed++);
    expect(status()).toBe(0x41);
    expect(hand.removalPending).toBe(true);
    clear();
    control(ENABLES | 0x0200);
    expect(answers()).toBe(true);
    control(ENABLES | 0x0600);
    expect(answers()).toBe(false);
    expect([removed, hand.occupied]).toEqual([0, true]);
    control(ENABLES | OFF);
    expect([removed, hand.occupied, hand.removalPending]).toEqual([1, false, false]);
    expect(status() & 0x48).toBe(8);
  });

  it('in order goes by the indicator alone where there is no power controller', () => {
    const { hand, control } = makeSlot({ attentionButton: true, powerIndicator: true }, true);
    hand.requestRemoval();
    control(ON);
    expect(hand.occupied).toBe(true);
    control(0x0300);
    expect(hand.occupied).toBe(false);
    const blind = makeSlot({ attentionButton: true }, true);
    expect(() => blind.hand.requestRemoval()).toThrow(TypeError);
  });

  it('in order can be called off', () => {
    const { hand, control } = makeSlot(FULL, true);
    hand.requestRemoval();
    hand.cancelRemoval();
    control(ENABLES | OFF);
    expect(hand.occupied).toBe(true);
  });

  it('of power resets the card, and link and interrupt state survive a save', () => {
    const a = makeSlot(FULL, true);
    a.fabric.configWrite(bdf(1, 0), COMMAND, 2, 4);
    a.control(ENABLES | OFF);
    const b = makeSlot(FULL, true);
    b.fabric.restore(structuredClone(a.fabric.save()));
    expect(b.answers()).toBe(false);
    expect(b.lines).toContain(true);
    b.clear();
    b.control(ENABLES | ON);
    b.clock.advance(1000);
    expect(b.answers()).toBe(true);
    expect(b.fabric.configRead(bdf(1, 0), COMMAND, 2)).toBe(0);
  });
});
