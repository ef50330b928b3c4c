// The control queue of a vDPA device: everything the emulated control plane settles reaches the card through it, and it has an address space that no guest is in.

import { afterEach, describe, expect, it } from 'vitest';
import { VdpaBackend } from '#backends/vdpa-backend';
import { ControlRefusedError } from '#backends/vdpa-control-shadow';
import { VdpaNet, type VdpaNetOptions } from '#backends/vdpa-net';
import { VdpaShadow } from '#backends/vdpa-shadow';
import { VhostPool } from '#backends/vhost-pool';
import { DMA_READ, DMA_WRITE, type DmaMapping } from '#core/dma-space';
import type { GuestMemory } from '#core/guest-memory';
import { VirtioNet } from '#devices/virtio-net/device';
import { FeatureSet, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1 } from '#virtio/features';
import { CoalescingState } from '#virtio/net-control/coalescing';
import { ReceiveState } from '#virtio/net-control/receive-state';
import { SteeringState } from '#virtio/net-control/steering-state';
import * as wire from '#virtio/net-control/wire';
import * as net from '#virtio/net-features';
import { type NetPolicy, POLICY_ACTIVE, POLICY_ALL_UNICAST, POLICY_PROMISCUOUS } from '#virtio/net-policy';
import type { VdpaEvent, VdpaOwner } from '#virtio/vdpa';
import type { VhostSession } from '#virtio/vhost';
import { ControlBench } from '../virtio-net/control-bench.ts';
import { eventually, eventuallyBlocking } from './eventually.ts';
import { frameOf, TestGuest } from './guest.ts';

const BOTH = DMA_READ | DMA_WRITE;
const DATA = 0;
const CONTROL = 1;
const RSS = { tableLength: 16, contexts: 2 };

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});

interface Card {
  readonly device: VdpaNet;
  /** What its data path goes by. */
  readonly policy: () => NetPolicy;
  /** What was mapped since its owner took it, by address space, and in which memory. */
  readonly mapped: DmaMapping[][];
  readonly memory: () => GuestMemory;
}

function cards(pairs = 1, options: VdpaNetOptions = {}): { a: Card; b: Card } {
  const pool = new VhostPool();
  closing.push(() => pool.close());
  const segment = pool.worker().segment();
  const make = (name: string): Card => {
    const port = segment.port(name, pairs);
    let session: VhostSession | undefined;
    const open = port.open.bind(port);
    port.open = (s) => {
      session = s;
      open(s);
    };
    const device = new VdpaNet(port, options);
    const mapped: DmaMapping[][] = [[], []];
    let memory: GuestMemory | undefined;
    const [setOwner, map] = [device.setOwner.bind(device), device.map.bind(device)];
    device.setOwner = (owner, m) => {
      for (const list of mapped) list.length = 0;
      memory = m;
      setOwner(owner, m);
    };
    device.map = (space, mapping) => {
      mapped[space]?.push(mapping);
      map(space, mapping);
    };
    return { device, policy: () => (session as VhostSession).policy, mapped, memory: () => memory as GuestMemory };
  };
  return { a: make('a'), b: make('b') };
}

/** All of it but the generation. */
const wordsOf = (policy: NetPolicy): number[] => [...new Int32Array(policy.buffer)].slice(1);

describe('the contract', () => {
  it('two groups of rings, each with an address space that can be chosen before DRIVER_OK, and 0 after a reset', () => {
    const { device } = cards(2).a;
    expect([device.vringCount, device.controlVring, device.groups, device.addressSpaces]).toEqual([5, 4, 2, 2]);
    expect([0, 1, 2, 3, 4].map((index) => device.vringGroup(index))).toEqual([0, 0, 0, 0, 1]);
    expect(() => device.vringGroup(5)).toThrow(RangeError);
    device.setOwner({ vdpaEvent: () => {} }, new TestGuest().memory);
    device.setGroupAddressSpace(1, 1);
    expect([device.groupAddressSpace(0), device.groupAddressSpace(1)]).toEqual([0, 1]);
    expect(() => device.groupAddressSpace(2)).toThrow(/groups/);
    expect(() => device.setGroupAddressSpace(1, 2)).toThrow(/address spaces/);
    expect(() => device.vringDoorbell(4)).toThrow(/doorbell/);
    device.status = 0;
    expect(device.groupAddressSpace(1)).toBe(0);
  });
});

describe.each(['passed through', 'shadowed'] as const)('what the control plane settles, rings %s', (way) => {
  it('is in the card when policyChanged returns, word for word: modes, tables, VLANs, offloads, pairs, RSS and its contexts', () => {
    const features = [
      net.VIRTIO_NET_F_CTRL_VQ,
      net.VIRTIO_NET_F_CTRL_RX,
      net.VIRTIO_NET_F_CTRL_VLAN,
      net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
      net.VIRTIO_NET_F_GUEST_CSUM,
      net.VIRTIO_NET_F_GUEST_TSO4,
      net.VIRTIO_NET_F_GUEST_TSO6,
      net.VIRTIO_NET_F_MQ,
      net.VIRTIO_NET_F_RSS,
      net.VIRTIO_NET_F_HASH_REPORT,
      net.VIRTIO_NET_F_HASH_TUNNEL,
      net.VIRTIO_NET_F_RSS_CONTEXT,
      ...(way === 'passed through' ? [net.VIRTIO_NET_F_NOTF_COAL] : []),
    ];
    const { a } = cards(4);
    const guest = new TestGuest({ features, pairs: 4, rss: RSS });
    const backend = way === 'passed through' ? new VdpaBackend(a.device) : new VdpaShadow(a.device);
    if (backend instanceof VdpaShadow) closing.push(() => backend.close());
    const receive = new ReceiveState();
    const steering = new SteeringState({ ...RSS, keySize: 40, pairs: 4 });
    const coalescing = new CoalescingState(8);
    receive.clear(guest.features);
    steering.clear(guest.features);
    const station = { mac: Uint8Array.of(0x52, 0x54, 0, 1, 2, 3), mtu: 1500, linkUp: true, active: true };
    const publish = (): void => {
      coalescing.publish(guest.policy);
      receive.publish(guest.policy, steering, { features: guest.features, live: [5, 0], ...station });
    };
    publish();
    backend.open({ features: guest.features, memory: guest.dma, policy: guest.policy });
    const same = (): void => expect(wordsOf(a.policy())).toEqual(wordsOf(guest.policy));
    same();
    const rss = { types: 3, key: Uint8Array.from({ length: 40 }, (_, i) => i), table: Uint16Array.of(0, 3, 2, 1), unclassified: 2, maxTxVq: 3 };
    const other = { ...rss, types: 1, table: new Uint16Array(16).fill(1), maxTxVq: 1 };
    const steps: (() => void)[] = [
      () => {
        receive.modes = POLICY_PROMISCUOUS;
      },
      () => {
        receive.modes = 0x3c;
        receive.addressKnown = true;
      },
      () => receive.setTables([Uint8Array.of(2, 0, 0, 0, 0, 9), Uint8Array.of(1, 0, 0x5e, 0, 0, 1)], 0),
      // More addresses than there is room for.
      () => receive.setTables([], POLICY_ALL_UNICAST),
      () => {
        for (const id of [0, 31, 32, 4095]) receive.setVlan(id, true);
      },
      () => {
        receive.setVlan(31, false);
        receive.setVlan(33, true);
      },
      () => {
        receive.offloads = FeatureSet.of(net.VIRTIO_NET_F_GUEST_CSUM, net.VIRTIO_NET_F_GUEST_TSO6);
      },
      () => {
        receive.offloads = new FeatureSet();
      },
      () => {
        receive.pairs = 4;
      },
      () => {
        steering.hash = { types: 7, key: rss.key };
        steering.tunnels = 1;
      },
      () => {
        steering.rss = rss;
        steering.hash = rss;
      },
      () => {
        steering.contexts.set(1, other);
        steering.contexts.set(2, rss);
      },
      () => {
        steering.contexts.set(2, other);
      },
      // Back to hashing alone, while there are contexts.
      () => {
        steering.rss = undefined;
      },
      () => {
        steering.contexts.delete(1);
      },
      () => {
        steering.contexts.clear();
        receive.pairs = 2;
      },
      () => {
        if (way === 'passed through') coalescing.setAll('receive', { maxPackets: 8, maxUsecs: 50 });
      },
      () => {
        if (way === 'passed through') coalescing.setQueue(2, { maxPackets: 0, maxUsecs: 0 });
      },
      () => {
        station.linkUp = false;
        station.mac = Uint8Array.of(2, 4, 6, 8, 10, 12);
      },
      // A legacy driver's address, half written.
      () => {
        station.mac = Uint8Array.of(3, 4, 6, 8, 10, 12);
      },
      () => {
        station.active = false;
      },
    ];
    for (const [i, step] of steps.entries()) {
      step();
      const before = wordsOf(guest.policy);
      publish();
      if (i < 16) expect(wordsOf(guest.policy), `step ${i} changes something`).not.toEqual(before);
      backend.policyChanged();
      same();
    }
    // The next driver has nothing of this one's.
    const next = new TestGuest({ features, pairs: 4, rss: RSS });
    receive.clear(next.features);
    steering.clear(next.features);
    receive.publish(next.policy, steering, { features: next.features, live: [5, 0], ...station });
    backend.open({ features: next.features, memory: next.dma, policy: next.policy });
    expect(wordsOf(a.policy())).toEqual(wordsOf(next.policy));
  });

  it('is said as the difference, worked out while the rings go on, and published once for many commands', () => {
    const { a } = cards();
    const { device } = a;
    const guest = new TestGuest({ features: [net.VIRTIO_NET_F_CTRL_VQ, net.VIRTIO_NET_F_CTRL_VLAN] });
    const backend = way === 'passed through' ? new VdpaBackend(device) : new VdpaShadow(device);
    if (backend instanceof VdpaShadow) closing.push(() => backend.close());
    guest.attach(backend);
    const [kick, between, attention] = [device.kickControl.bind(device), device.betweenTurns.bind(device), device.port.policyChanged.bind(device.port)];
    const count = { kicks: 0, attentions: 0 };
    let inside = false;
    device.kickControl = () => {
      count.kicks++;
      kick();
    };
    device.port.policyChanged = () => {
      count.attentions++;
      attention();
    };
    device.betweenTurns = (write) =>
      between(() => {
        inside = true;
        write();
        inside = false;
      });
    const readInside: boolean[] = [];
    const table = guest.policy.table.bind(guest.policy);
    guest.policy.table = (kind) => {
      readInside.push(inside);
      return table(kind);
    };
    const change = (write: (policy: NetPolicy) => void): { kicks: number; attentions: number } => {
      Object.assign(count, { kicks: 0, attentions: 0 });
      guest.policy.update(write);
      backend.policyChanged();
      return { ...count };
    };
    const vlans = (on: boolean) => (p: NetPolicy) => {
      for (let id = 0; id < 4096; id++) p.setVlan(id, on);
    };
    expect(change(() => {})).toEqual({ kicks: 0, attentions: 1 });
    expect(change((p) => p.setVlan(7, true))).toEqual({ kicks: 1, attentions: 2 });
    expect(readInside).toEqual([]);
    expect(change((p) => p.setTable('unicast', [Uint8Array.of(2, 0, 0, 0, 0, 9)]))).toEqual({ kicks: 1, attentions: 2 });
    expect(readInside).toEqual([false, false]);
    const { generation } = a.policy();
    // 4095 commands, 64 at a time; the card's words move twice a publish.
    expect(change(vlans(true))).toEqual({ kicks: 64, attentions: 65 });
    expect(a.policy().generation - generation).toBe(4 * 65);
    expect([...a.policy().vlanWords]).toEqual(new Array(128).fill(-1));
    // Out of use it hears of that alone; of what changed meanwhile when it is in use again.
    const gone = change((p) => {
      p.flags &= ~POLICY_ACTIVE;
      vlans(false)(p);
    });
    expect(gone).toEqual({ kicks: 0, attentions: 1 });
    expect(a.policy().flags & POLICY_ACTIVE).toBe(0);
    const back = change((p) => {
      p.flags |= POLICY_ACTIVE;
      vlans(true)(p);
      p.setVlan(7, false);
    });
    expect(back).toEqual({ kicks: 1, attentions: 2 });
    expect(a.policy().flags & POLICY_ACTIVE).toBe(POLICY_ACTIVE);
    expect([...a.policy().vlanWords]).toEqual([...guest.policy.vlanWords]);
  });

  it('of a device that is reset is not unsaid command by command, and the next driver has nothing of it', () => {
    const { a } = cards();
    const backend = way === 'passed through' ? new VdpaBackend(a.device) : new VdpaShadow(a.device);
    if (backend instanceof VdpaShadow) closing.push(() => backend.close());
    const bench = new ControlBench({ net: { backend } });
    const same = (): void => expect([...a.policy().vlanWords]).toEqual([...bench.net.policy.vlanWords]);
    for (const id of [1, 7, 4095]) expect(bench.command([wire.CLASS_VLAN, wire.VLAN_ADD, ...wire.u16(id)]).ack).toBe(wire.VIRTIO_NET_OK);
    same();
    expect([...a.policy().vlanWords].filter((word) => word !== 0)).toHaveLength(2);
    const kick = a.device.kickControl.bind(a.device);
    let kicks = 0;
    a.device.kickControl = () => {
      kicks++;
      kick();
    };
    bench.status = 0;
    eventuallyBlocking('the reset to be over', () => bench.status === 0);
    expect(kicks).toBe(0);
    expect(a.policy().flags & POLICY_ACTIVE).toBe(0);
    bench.bringUp(bench.offered().without(FeatureSet.of(VIRTIO_F_RING_PACKED)));
    expect(kicks).toBeGreaterThan(0);
    expect(a.policy().flags & POLICY_ACTIVE).toBe(POLICY_ACTIVE);
    expect([...bench.net.policy.vlanWords]).toEqual(new Array(128).fill(0));
    same();
  });

  it('is in the address space of the control queue alone, and nothing of the guest is there', () => {
    const { a } = cards();
    const guest = new TestGuest();
    const backend = way === 'passed through' ? new VdpaBackend(a.device) : new VdpaShadow(a.device);
    if (backend instanceof VdpaShadow) closing.push(() => backend.close());
    guest.attach(backend);
    const { size } = guest.memory;
    const [data, control] = [a.mapped[DATA] as DmaMapping[], a.mapped[CONTROL] as DmaMapping[]];
    const overlap = (x: DmaMapping, y: DmaMapping): boolean => x.address < y.address + y.size && y.address < x.address + x.size;
    expect(control.length).toBeGreaterThan(0);
    expect(data.some((mapping) => mapping.address < size)).toBe(true);
    expect(control.filter(({ address }) => address < size)).toEqual([]);
    expect(data.filter((x) => control.some((y) => overlap(x, y)))).toEqual([]);
  });
});

describe('a hostile guest', () => {
  /** The card's control queue memory, as guest-physical addresses that the guest has no RAM at. */
  const controlAddress = (card: Card): number => Math.min(...(card.mapped[CONTROL] as DmaMapping[]).map(({ address }) => address));

  it('with translations of its own to where the control queue lies reaches nothing: not as ring, not as buffer', async () => {
    const { a, b } = cards();
    const [guest, peer] = [new TestGuest(), new TestGuest()];
    const backend = new VdpaBackend(a.device);
    const faults: unknown[] = [];
    backend.onDeviceEvent = (event) => event.kind === 'fault' && faults.push(event.addressSpace);
    guest.attach(backend);
    peer.attach(new VdpaBackend(b.device));
    const at = controlAddress(a);
    // All its own memory, and 64 KiB behind it, which an IOMMU lets it name.
    guest.dma.translate([
      { iova: 0, address: 0, size: guest.memory.size, permissions: BOTH },
      { iova: 2 ** 32, address: at, size: 0x10000, permissions: BOTH },
    ]);
    expect((a.mapped[DATA] as DmaMapping[]).filter(({ address }) => address >= guest.memory.size)).toEqual([]);
    const seen = (): Uint8Array => {
      const slab = a.memory().slabs.find(({ base }) => base === at);
      return Uint8Array.from(slab?.views.u8 ?? []);
    };
    const before = seen();
    expect(before.some((byte) => byte !== 0)).toBe(true);
    // Send what is there; receive into it.
    peer.post();
    guest.queueChain([{ address: 2 ** 32 + 0x1000, length: 64 }]);
    guest.show();
    await eventually('its ring to break', () => guest.events.length > 0);
    expect(guest.events).toMatchObject([{ kind: 'broken', index: 1 }]);
    guest.drivers[0]?.add(1, [{ address: 2 ** 32, length: 2048, write: true }]);
    guest.drivers[0]?.expose();
    guest.kick(0);
    peer.send(frameOf(100, 1));
    await eventually('the other one too', () => guest.events.length > 1);
    expect(faults).toEqual([DATA, DATA]);
    expect(peer.receive()).toEqual([]);
    expect(seen()).toEqual(before);
    // And the control queue goes on.
    guest.policy.update((p) => p.setVlan(7, true));
    guest.policy.update((p) => p.setMac(Uint8Array.of(2, 0, 0, 0, 0, 1)));
    backend.policyChanged();
    expect([...a.policy().mac]).toEqual([2, 0, 0, 0, 0, 1]);
  });

  it('that clears Bus Master stops its data queues, not what the control plane says', async () => {
    const { a } = cards();
    const guest = new TestGuest();
    const backend = new VdpaBackend(a.device);
    guest.attach(backend);
    guest.dma.busMaster = false;
    expect(a.device.busMaster).toBe(false);
    guest.policy.update((p) => p.setMac(Uint8Array.of(2, 0, 0, 0, 0, 5)));
    backend.policyChanged();
    expect([...a.policy().mac]).toEqual([2, 0, 0, 0, 0, 5]);
  });
});

/** An owner that drives the control queue itself, in the guest's memory behind its rings. */
class Owner implements VdpaOwner {
  readonly events: VdpaEvent[] = [];
  readonly guest = new TestGuest();
  readonly card: Card;

  constructor(card: Card, features: readonly number[]) {
    this.card = card;
    const { device } = card;
    device.setOwner(this, this.guest.memory);
    device.setControl({ policy: this.guest.policy });
    device.status = 3;
    device.driverFeatures = FeatureSet.of(VIRTIO_F_VERSION_1, ...features);
    device.status |= 8;
    device.setGroupAddressSpace(1, CONTROL);
    // A command's page to read, the ring and the answer to write.
    device.map(CONTROL, { iova: 0x10000, address: 0x10000, size: 0x20000, permissions: BOTH });
    device.map(CONTROL, { iova: 0x1000, address: 0x1000, size: 0x1000, permissions: DMA_READ });
    device.setVringSize(2, 64);
    device.setVringAddresses(2, this.guest.setups[0] as never);
    device.setVringReady(2, true);
    device.status |= 4;
  }

  vdpaEvent(event: VdpaEvent): void {
    this.events.push(event);
  }

  /** The ack, or undefined: no answer. */
  run(bytes: readonly number[], at = 0x1000, room = 1): number | undefined {
    const { guest } = this;
    guest.bytes.set(bytes, 0x1000);
    guest.bytes[0x20000] = 0xee;
    guest.drivers[0]?.add(1, [
      { address: at, length: bytes.length },
      { address: 0x20000, length: room, write: true },
    ]);
    guest.drivers[0]?.expose();
    this.card.device.kickControl();
    return guest.drivers[0]?.reap().length === 1 ? guest.bytes[0x20000] : undefined;
  }
}

describe("the card's side", () => {
  it("has nothing of the owner's before after a reset, not even of its counters, and takes no more memory for it", () => {
    const { a } = cards();
    const features = [net.VIRTIO_NET_F_CTRL_VQ, net.VIRTIO_NET_F_CTRL_RX, net.VIRTIO_NET_F_CTRL_VLAN, net.VIRTIO_NET_F_DEVICE_STATS];
    const first = new Owner(a, features);
    const { buffer } = a.policy();
    const asNew = wordsOf(a.policy());
    for (const command of [
      [wire.CLASS_RX, 0, 1],
      [wire.CLASS_MAC, wire.MAC_TABLE_SET, ...wire.macTable([Uint8Array.of(2, 0, 0, 0, 0, 9)], false), ...wire.macTable([], false)],
      [wire.CLASS_VLAN, wire.VLAN_ADD, ...wire.u16(7)],
    ])
      expect(first.run(command)).toBe(wire.VIRTIO_NET_OK);
    expect(wordsOf(a.policy())).not.toEqual(asNew);
    const next = new Owner(a, features);
    expect(a.policy().buffer).toBe(buffer);
    expect(wordsOf(a.policy())).toEqual(asNew);
    // virtio 1.4 5.1.9.5.11.3: of the control queue, the command under way counted.
    expect(next.run([wire.CLASS_STATS, wire.STATS_GET, ...wire.u16(2), 0, 0, 0, 0, 0, 0, ...wire.u32(0), ...wire.u32(1)], 0x1000, 25)).toBe(wire.VIRTIO_NET_OK);
    const counts = new DataView(next.guest.bytes.buffer, 0x20000 + 9, 16);
    expect([counts.getBigUint64(0, true), counts.getBigUint64(8, true)]).toEqual([1n, 1n]);
  });

  it('answers commands it does not have, cut short or out of bounds with ERR, and changes nothing', () => {
    const { a } = cards();
    const owner = new Owner(a, [net.VIRTIO_NET_F_CTRL_VQ, net.VIRTIO_NET_F_CTRL_RX]);
    const before = wordsOf(a.policy());
    const bad = [
      [wire.CLASS_RX],
      [wire.CLASS_RX, 0],
      [wire.CLASS_RX, 4, 1],
      [wire.CLASS_VLAN, wire.VLAN_ADD, 1, 0],
      [wire.CLASS_MAC, wire.MAC_TABLE_SET, ...wire.u32(0xffffffff), 0],
      [wire.CLASS_MAC, wire.MAC_ADDR_SET, 2, 0, 0, 0, 0, 1],
      [wire.CLASS_MQ, wire.MQ_VQ_PAIRS_SET, 9, 0],
      [0x7f, 0],
    ];
    for (const command of bad) expect(owner.run(command), command.join()).toBe(wire.VIRTIO_NET_ERR);
    expect(wordsOf(a.policy())).toEqual(before);
    expect(owner.run([wire.CLASS_RX, 0, 1])).toBe(wire.VIRTIO_NET_OK);
    expect(a.policy().flags & POLICY_PROMISCUOUS).toBe(POLICY_PROMISCUOUS);
    expect(owner.events).toEqual([]);
  });

  it('serves a ring that is split and begins at 0 where packed data rings were negotiated', () => {
    const { a } = cards();
    const owner = new Owner(a, [net.VIRTIO_NET_F_CTRL_VQ, net.VIRTIO_NET_F_CTRL_RX, VIRTIO_F_RING_PACKED]);
    expect(owner.run([wire.CLASS_RX, 0, 1])).toBe(wire.VIRTIO_NET_OK);
    expect([a.device.vringPosition(0), a.device.vringPosition(2)]).toEqual([
      { available: 0x8000, used: 0x8000 },
      { available: 1, used: 1 },
    ]);
    expect(owner.events).toEqual([]);
  });

  it('reaches nothing outside its address space: the ring breaks, with a fault of that space, and a data queue does not', () => {
    const { a } = cards();
    const owner = new Owner(a, [net.VIRTIO_NET_F_CTRL_VQ, net.VIRTIO_NET_F_CTRL_RX]);
    a.device.beginBatch();
    a.device.map(DATA, { iova: 0, address: 0, size: owner.guest.memory.size, permissions: BOTH });
    a.device.endBatch();
    const before = wordsOf(a.policy());
    // There in space 0; not in space 1.
    expect(owner.run([wire.CLASS_RX, 0, 1], 0x2000)).toBeUndefined();
    expect(owner.events).toMatchObject([
      { kind: 'fault', addressSpace: CONTROL, count: 1, faults: [{ address: 0x2000, length: 3, access: DMA_READ }] },
      { kind: 'broken', index: 2 },
    ]);
    expect(a.device.vringState(2)).toBe('broken');
    expect(wordsOf(a.policy())).toEqual(before);
  });
});

describe.each(['passed through', 'shadowed'] as const)('a card that cannot be told what the control plane settles, rings %s,', (way) => {
  const over = (bit: number): VdpaBackend | VdpaShadow => {
    const { device } = cards(1, { withoutFeatures: [bit] }).a;
    if (way === 'passed through') return new VdpaBackend(device);
    const shadow = new VdpaShadow(device);
    closing.push(() => shadow.close());
    return shadow;
  };

  it.each([
    ['CTRL_RX_EXTRA', net.VIRTIO_NET_F_CTRL_RX_EXTRA, []],
    ['CTRL_VLAN', net.VIRTIO_NET_F_CTRL_VLAN, [net.VIRTIO_NET_F_CTRL_VLAN]],
    ['CTRL_GUEST_OFFLOADS', net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, [net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS]],
  ] as const)('for want of %s, is not taken', (_name, bit, features) => {
    const guest = new TestGuest({ features: [net.VIRTIO_NET_F_CTRL_VQ, ...features] });
    expect(() => guest.attach(over(bit))).toThrow(new RegExp(`does not accept feature bits ${bit}$`));
  });

  it.each([
    ['CTRL_RX_EXTRA', net.VIRTIO_NET_F_CTRL_RX_EXTRA, false],
    ['CTRL_VLAN', net.VIRTIO_NET_F_CTRL_VLAN, true],
    ['CTRL_GUEST_OFFLOADS', net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, true],
  ] as const)('for want of %s, is no backend of a device that offers it', (name, bit, optional) => {
    const backend = over(bit);
    const lacks = new RegExp(`lacks feature bits ${bit},`);
    expect(() => new VirtioNet({ mac: '52:54:00:00:00:01', backend })).toThrow(lacks);
    const offering = new VirtioNet({ mac: '52:54:00:00:00:01', backend: cards().a.device.port });
    expect(() => offering.handOver(backend)).toThrow(lacks);
    // What no driver can set need not be said.
    const without = (): VirtioNet => new VirtioNet({ mac: '52:54:00:00:00:01', backend, features: { [name]: false } });
    if (optional) expect(without().offered.has(bit)).toBe(false);
    else expect(without).toThrow(lacks);
  });
});

it('of commands that a card ran together, the one it refused is named', () => {
  const { a } = cards();
  const serve = a.device.kickControl.bind(a.device);
  a.device.kickControl = () => {
    serve();
    // Six modes, the tables, the address.
    const slab = a.memory().slabs.at(-1);
    slab?.views.u8.fill(wire.VIRTIO_NET_ERR, slab.size - 4096 + 7, slab.size - 4096 + 8);
  };
  expect(() => new TestGuest().attach(new VdpaBackend(a.device))).toThrow(/answered command 1.1 with 1/);
});

it.each([
  ['does not answer', () => {}, /did not answer command 0.0/],
  [
    'refuses',
    // A card that has forgotten what it negotiated.
    (serve: () => void, memory: GuestMemory) => {
      serve();
      const slab = memory.slabs.at(-1);
      slab?.views.u8.fill(wire.VIRTIO_NET_ERR, slab.size - 4096, slab.size - 4095);
    },
    /answered command 0.0 with 1/,
  ],
] as [string, (serve: () => void, memory: GuestMemory) => void, RegExp][])('a card that %s is told once, and no more', (_what, kick, reason) => {
  const { a } = cards();
  const guest = new TestGuest();
  const backend = new VdpaBackend(a.device);
  guest.attach(backend);
  const serve = a.device.kickControl.bind(a.device);
  let kicks = 0;
  a.device.kickControl = () => {
    kicks++;
    kick(serve, a.memory());
  };
  guest.policy.update((p) => {
    p.flags ^= POLICY_PROMISCUOUS;
  });
  expect(() => backend.policyChanged()).toThrow(ControlRefusedError);
  guest.policy.update((p) => {
    p.flags ^= POLICY_PROMISCUOUS;
  });
  backend.policyChanged();
  expect(kicks).toBe(1);
  a.device.kickControl = serve;
  guest.stop();
  eventuallyBlocking('the rings to stop', () => guest.states().every((state) => state === 'stopped'));
  // Taken anew, it is told everything again.
  guest.attach(backend);
  expect(a.policy().flags & POLICY_PROMISCUOUS).toBe(guest.policy.flags & POLICY_PROMISCUOUS);
  a.device.kickControl = () => kick(serve, a.memory());
  guest.stop();
  eventuallyBlocking('the rings to stop', () => guest.states().every((state) => state === 'stopped'));
  expect(() => guest.attach(backend)).toThrow(reason);
});
