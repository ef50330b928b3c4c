// This project's own driver (guest-sim) under the driver scenarios.

import { viewsOf } from '#core/guest-memory';
import { FlowFilter, flowMatch } from '#guest-sim/flow-filter';
import { Guest } from '#guest-sim/guest';
import type { VirtioNetOptions } from '#guest-sim/net-options';
import { CHECKSUM_PARTIAL, CHECKSUM_VALID, type ReceivedFrame } from '#guest-sim/net-receive';
import { TransmitOffload } from '#guest-sim/net-transmit';
import { requestOffload } from '#guest-sim/offload';
import type { PciDevice } from '#guest-sim/pci-enumerate';
import { SriovGroup } from '#guest-sim/sriov-group';
import type { VirtioNet } from '#guest-sim/virtio-net';
import { runScenarios, type ScenarioOptions } from '../driver/run.ts';
import type {
  DriverAdministration,
  DriverControl,
  DriverFilter,
  DriverHandle,
  DriverMembers,
  DriverWish,
  FrameTaken,
  SendRequest,
} from '../driver/scenario.ts';
import { SCENARIOS } from '../driver/scenarios.ts';
import type { BusWrap, DriverSideBus } from '../driver/stage.ts';
import { FEATURE } from '../features.ts';
import type { Report } from '../runner.ts';
import { openStageDevice } from './stage-device.ts';

const LINK_BYTES = 14;
const ADDRESSES = { ipv4: [[192, 0, 2, 7]], ipv6: [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]] };

class OwnDriver implements DriverHandle {
  readonly #guest: Guest;
  readonly #net: VirtioNet;
  #taken: FrameTaken[] = [];
  readonly #offload = new TransmitOffload();

  constructor(ring: 'split' | 'packed', wish: DriverWish, bus: DriverSideBus) {
    const net: VirtioNetOptions = {
      ring,
      pairs: wish.pairs ?? 1,
      with: (wish.features ?? []).map((name) => FEATURE[name]),
      interrupts: wish.interrupts ?? 'per-queue',
      addresses: ADDRESSES,
      sriov: wish.sriov ?? false,
      legacy: wish.legacy ?? false,
      ...(wish.rss && { rss: { ...(wish.tunnels && { tunnels: ~0 }) } }),
    };
    this.#guest = new Guest(bus, { net });
    this.#net = this.#guest.net;
    this.#guest.tap = { receive: (frame) => void this.#taken.push(copyOf(frame)) };
  }

  step(): void {
    // What one call leaves undone the next does: it never waits.
    for (let n = 0; n < 8 && this.#guest.step(); n++);
  }

  get gaveUp(): string {
    return this.#net.broken;
  }

  taken(): FrameTaken[] {
    const taken = this.#taken;
    this.#taken = [];
    return taken;
  }

  echo(): void {
    if (this.#guest.workload === undefined) this.#guest.start({ kind: 'echo' });
  }

  send({ frame, gsoSize = 0, fragments = false, outerChecksum = false, plain = false, queue = 0 }: SendRequest): boolean {
    const to = this.#net.transmit[queue];
    if (to === undefined) return false;
    const bytes = frame.bytes.slice();
    const asked = !plain && requestOffload(bytes, frame.layout, { gsoSize, fragments, outerChecksum }, (bit) => this.#net.has(bit), this.#offload);
    if (!asked && bytes.length > (this.#net.configuration.mtu || 1500) + LINK_BYTES) return false;
    const padded = new Uint8Array(Math.ceil(bytes.length / 8) * 8);
    padded.set(bytes);
    const done = to.copy(viewsOf(padded.buffer), 0, bytes.length, asked ? this.#offload : undefined);
    to.flush();
    return done;
  }

  get linkUp(): boolean {
    return this.#net.configuration.linkUp;
  }

  get mac(): Uint8Array {
    return this.#net.configuration.mac;
  }

  get speed(): DriverHandle['speed'] {
    return this.#net.configuration;
  }

  get control(): DriverControl {
    const net = this.#net;
    const { control } = net;
    if (control === undefined) return NO_CONTROL;
    return {
      receiveMode: (mode, on) => control.setReceiveMode(mode, on),
      macTable: (unicast, multicast) => control.setMacTable(unicast, multicast),
      macAddress: (mac) => control.setMacAddress(mac),
      vlan: (vid, pass) => control.filterVlan(vid, pass),
      pairs: (count) => control.setQueuePairs(count),
      rss: () => net.has(FEATURE.RSS) && net.steering.configureRss({}),
      rssContext: (id) => net.steering.rss !== undefined && control.setRssContext(id, net.steering.rss),
      hashTunnels: (types) => control.setHashTunnels(types & net.configuration.tunnelTypes),
      offloads: (bits) => control.setGuestOffloads(bits.filter((bit) => net.has(bit))),
      coalescing: (direction, maxPackets, maxUsecs) => control.setCoalescing(direction, { maxPackets, maxUsecs }),
      queueCoalescing: (queue, maxPackets, maxUsecs) => control.setQueueCoalescing(queue, { maxPackets, maxUsecs }),
      coalescingOf: (queue) => control.queueCoalescing(queue),
      statistics: (queue) => {
        const types = queue === 2 * net.configuration.maxPairs ? 1n << 32n : queue % 2 === 0 ? 15n : 15n << 16n;
        return control.statistics([{ queue, types }]) !== undefined;
      },
    };
  }

  get administration(): DriverAdministration | undefined {
    const { admin } = this.#net;
    if (admin === undefined) return undefined;
    return {
      filter: () => {
        const filter = FlowFilter.open(admin);
        return filter && filterOf(filter);
      },
      members: (count) => {
        const pf = this.#guest.tree.devices.find(({ sriov }) => sriov !== undefined);
        if (pf === undefined) return undefined;
        const functions = this.#guest.enableVirtualFunctions(pf, count, () => undefined);
        const group = SriovGroup.open(admin);
        const sizes = (bars: PciDevice['bars']): number[] => Array.from({ length: 6 }, (_, n) => bars.find(({ index }) => index === n)?.size ?? 0);
        return group && membersOf(group, { owner: sizes(pf.bars), member: sizes(functions[0]?.bars ?? []) });
      },
    };
  }

  resetPair(index: number): void {
    this.#net.resetPair(index);
  }
  suspend(): void {
    this.#net.suspend();
  }
  resume(): void {
    this.#net.resume();
  }
  recover(): void {
    this.#net.recover();
  }
  shutDown(): void {
    this.#net.shutDown();
  }
}

function filterOf(filter: FlowFilter): DriverFilter {
  return {
    group: (priority) => filter.addGroup(priority),
    classifier: (match) => filter.addClassifier(flowMatch(match)),
    rule: ({ match, queue, ...rule }) => filter.addRule({ ...rule, selectors: flowMatch(match), action: queue }),
    removeRule: (id) => filter.removeRule(id),
    removeGroup: (id) => filter.removeGroup(id),
    removeClassifier: (id) => filter.removeClassifier(id),
  };
}

function membersOf(group: SriovGroup, barSizes: { readonly owner: readonly number[]; readonly member: readonly number[] }): DriverMembers {
  return {
    stop: (member) => group.stop(member),
    resume: (member) => group.resume(member),
    copyParts(from, to) {
      const parts = group.parts(from);
      group.setParts(to, parts);
      return parts.length;
    },
    countParts: (member) => group.partHeaders(member).length,
    legacyRead: (...access) => group.legacyRead(...access),
    legacyWrite: (...access) => group.legacyWrite(...access),
    notifyAddresses: (member) => group.notifyAddresses(member, barSizes),
  };
}

const no = (): boolean => false;
const NO_CONTROL: DriverControl = {
  receiveMode: no,
  macTable: no,
  macAddress: no,
  vlan: no,
  pairs: no,
  rss: no,
  rssContext: no,
  hashTunnels: no,
  offloads: no,
  coalescing: no,
  queueCoalescing: no,
  coalescingOf: () => undefined,
  statistics: no,
};

function copyOf(frame: ReceivedFrame): FrameTaken {
  const bytes = new Uint8Array(frame.length);
  let at = 0;
  for (let i = 0; i < frame.segmentCount; i++) {
    const offset = frame.offsets[i] as number;
    const length = frame.lengths[i] as number;
    bytes.set(frame.views.u8.subarray(offset, offset + length), at);
    at += length;
  }
  const { queue, csumStart, csumOffset } = frame;
  const checksum = frame.checksum === CHECKSUM_PARTIAL ? 'partial' : frame.checksum === CHECKSUM_VALID ? 'valid' : 'unknown';
  const inTunnel = frame.tunnel !== 0;
  return {
    bytes,
    queue,
    checksum,
    csumStart,
    csumOffset,
    outerTransport: inTunnel ? frame.outerTransport : 0,
    innerNetwork: inTunnel ? frame.innerNetwork : 0,
  };
}

/** The driver's report: a result for each scenario and ring format. `wrap` may put a faulty bus between driver and watch. */
export function watchOwnDriver(options: ScenarioOptions = {}, wrap?: BusWrap): Promise<Report> {
  return runScenarios(SCENARIOS, "nicbox's driver", openStageDevice, (ring, wish, bus) => new OwnDriver(ring, wish, bus), options, wrap);
}
