// virtio-net functions as virtual functions: dormant until the PF enables them, then devices of their own, whose state is the machine's to save.

import { describe, expect, it } from 'vitest';
import { InlineSegment } from '#backends/inline-backend';
import { SimClock } from '#core/clock';
import type { NetVfs } from '#devices/virtio-net/virtual-functions';
import { Guest } from '#guest-sim/guest';
import type { PciDevice } from '#guest-sim/pci-enumerate';
import { LearningSwitch } from '#net/learning-switch';
import { Segment } from '#net/segment';
import { Machine } from '#nicbox/machine';
import type { PciFunction } from '#pci/function';
import { Sriov } from '#pci/sriov';

const VF_MAC = (i: number): string => `52:54:00:00:01:0${i}`;

function build(): { machine: Machine; clock: SimClock; vfs: NetVfs } {
  const clock = new SimClock();
  const machine = new Machine({ memory: 2 ** 24, clock });
  const segment = new InlineSegment(new Segment(new LearningSwitch()));
  const { vfs } = machine.addVirtioNet(
    {
      mac: '52:54:00:00:00:01',
      backend: segment.port('pf'),
      sriov: { totalVfs: 2, backend: (vf) => segment.port(`vf${vf}`), settings: (vf) => ({ mac: VF_MAC(vf) }) },
    },
    { deviceNumber: 1 },
  );
  return { machine, clock, vfs };
}

describe('virtual network functions', () => {
  it('are driven like any other once they are enabled, and carry frames to the PF', async () => {
    const { machine, clock } = build();
    const guest = new Guest(machine.localBus(), { net: { sriov: true } });
    const pf = guest.tree.devices.find((device) => device.sriov !== undefined) as PciDevice;
    const vfs = guest.enableVirtualFunctions(pf, 2, (nanos) => clock.advance(nanos));
    expect(vfs.map(({ rid, device }) => [rid - pf.rid, device])).toEqual([
      [8, 0x1041],
      [16, 0x1041],
    ]);
    // No pin, no power states.
    expect(guest.config.read(vfs[0]?.rid ?? 0, 0x3d, 1)).toBe(0);
    expect(vfs[0]?.capabilities.some(({ id }) => id === 1)).toBe(false);
    const vf = guest.openNet(vfs[1] as PciDevice);
    expect([...vf.configuration.mac]).toEqual([0x52, 0x54, 0, 0, 1, 1]);
    const frame = Uint8Array.of(0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 1, 1, 0x88, 0xb5, ...new Uint8Array(50).fill(7));
    const queue = vf.transmit[0] as (typeof vf.transmit)[number];
    guest.arena.u8.set(frame, queue.reserve());
    queue.send(frame.length);
    queue.flush();
    const received: number[][] = [];
    for (let vector = guest.bus.vectors.take(); vector >= 0; vector = guest.bus.vectors.take()) guest.vectors.handlers[vector]?.();
    guest.net.poll({ receive: (one) => void received.push(Array.from({ length: one.length }, (_, i) => one.byte(i))) });
    expect(received).toEqual([[...frame]]);
    await machine.close();
  });

  it('are saved and restored with the machine', async () => {
    const { machine, clock } = build();
    const guest = new Guest(machine.localBus(), { net: { sriov: true } });
    const pf = guest.tree.devices.find((device) => device.sriov !== undefined) as PciDevice;
    const [first] = guest.enableVirtualFunctions(pf, 1, (nanos) => clock.advance(nanos));
    guest.openNet(first as PciDevice);
    const saved = structuredClone(await machine.save());
    const other = build();
    await other.machine.restore(saved);
    expect(structuredClone(await other.machine.save())).toEqual(saved);
    expect(other.vfs.pci(0).fn.command).toBe(machine.fabric.functionAt(first?.rid ?? 0)?.command);
    await machine.close();
    await other.machine.close();
  });

  it('belong to one PF', async () => {
    const { machine, vfs } = build();
    const virtualFunction = (i: number): PciFunction => vfs.pci(i).fn;
    expect(() => new Sriov({ totalVfs: 2, vfDeviceId: 0x1041, layout: { firstOffset: 8, stride: 8 }, virtualFunction })).toThrow(/still free/);
    await machine.close();
  });
});
