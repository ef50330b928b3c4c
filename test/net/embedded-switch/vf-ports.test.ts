// What is set of virtual functions, carried into the switch that joins them.

import { describe, expect, it } from 'vitest';
import { EmbeddedSwitch } from '#net/embedded-switch/embedded-switch';
import { SwitchVfPorts } from '#net/embedded-switch/vf-ports';
import type { VfPortSettings } from '#net/vf-ports';

function settings(last: number, change: Partial<VfPortSettings> = {}): VfPortSettings {
  return {
    mac: Uint8Array.of(0x52, 0x54, 0, 0, 1, last),
    vlan: null,
    minRate: 0,
    maxRate: 0,
    linkState: 'auto',
    spoofCheck: false,
    trust: false,
    ...change,
  };
}

describe('ports of virtual functions', () => {
  it('have what is set of the functions, rates in bits a second', () => {
    const nic = new EmbeddedSwitch({ functions: 2 });
    const ports = new SwitchVfPorts(nic);
    ports.configure(
      1,
      settings(0xa, { vlan: { id: 7, priority: 3, protocol: '802.1ad' }, minRate: 10, maxRate: 100, linkState: 'enable', spoofCheck: true, trust: true }),
    );
    expect(nic.settings('vf1')).toMatchObject({
      mac: '52:54:00:00:01:0a',
      vlan: { id: 7, priority: 3, protocol: '802.1ad' },
      minimumRate: 10e6,
      maximumRate: 100e6,
      link: 'enable',
      spoofCheck: true,
      trust: true,
    });
    ports.configure(1, settings(0xa));
    expect(nic.settings('vf1')).toMatchObject({ vlan: undefined, minimumRate: 0, maximumRate: 0, link: 'auto', spoofCheck: false, trust: false });
    expect(nic.settings('vf0').mac).toBeUndefined();
  });

  it('of one that is gone have no address, which is free for others, and no link', () => {
    const nic = new EmbeddedSwitch({ functions: 2 });
    const ports = new SwitchVfPorts(nic);
    ports.configure(0, settings(1, { linkState: 'enable' }));
    ports.configure(0, undefined);
    expect(nic.settings('vf0')).toMatchObject({ mac: undefined, link: 'disable' });
    expect(nic.linkUp('vf0')).toBe(false);
    ports.configure(1, settings(1));
    expect(ports.refusal(1)).toBeUndefined();
  });

  it('have all that the switch does not refuse, and it says why until it takes something', () => {
    const nic = new EmbeddedSwitch({ functions: 2, transmitRate: 100e6 });
    const ports = new SwitchVfPorts(nic);
    ports.configure(0, settings(1, { minRate: 60 }));
    ports.configure(1, settings(2));
    // A driver that may choose its address takes its neighbour's: it then has none, and what the host says of its port holds all the same.
    ports.configure(1, settings(1));
    expect(ports.refusal(1)).toMatchObject({ code: 'address-in-use' });
    ports.configure(1, settings(1, { spoofCheck: true, maxRate: 10, linkState: 'disable' }));
    expect(ports.refusal(1)).toMatchObject({ code: 'address-in-use' });
    expect(nic.settings('vf1')).toMatchObject({ mac: undefined, spoofCheck: true, maximumRate: 10e6, link: 'disable' });
    // More than the scheduler has left, with and without the address.
    ports.configure(1, settings(2, { minRate: 50, spoofCheck: true }));
    expect(ports.refusal(1)).toMatchObject({ code: 'bad-setting' });
    expect(nic.settings('vf1')).toMatchObject({ mac: '52:54:00:00:01:02', minimumRate: 0, spoofCheck: true });
    ports.configure(1, settings(1, { minRate: 50, trust: true }));
    expect(nic.settings('vf1')).toMatchObject({ mac: undefined, minimumRate: 0, trust: true });
    // In another VLAN it is another station.
    ports.configure(1, settings(1, { minRate: 40, vlan: { id: 2, priority: 0, protocol: '802.1Q' } }));
    expect(ports.refusal(1)).toBeUndefined();
    expect(nic.settings('vf1')).toMatchObject({ mac: '52:54:00:00:01:01', minimumRate: 40e6 });
  });

  it('get what they were refused once the other one gives it up', () => {
    const nic = new EmbeddedSwitch({ functions: 2 });
    const ports = new SwitchVfPorts(nic);
    ports.configure(0, settings(1));
    ports.configure(1, settings(2));
    // Two that change addresses with each other: for a moment both would have the same.
    ports.configure(0, settings(2));
    ports.configure(1, settings(1));
    expect([nic.settings('vf0').mac, nic.settings('vf1').mac]).toEqual(['52:54:00:00:01:02', '52:54:00:00:01:01']);
    expect([ports.refusal(0), ports.refusal(1)]).toEqual([undefined, undefined]);
    ports.configure(1, settings(2));
    ports.configure(0, undefined);
    expect(nic.settings('vf1').mac).toBe('52:54:00:00:01:02');
  });
});
