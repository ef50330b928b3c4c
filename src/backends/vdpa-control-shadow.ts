// The shadow control virtqueue: through it the emulated control plane says to a vDPA network device what it has settled with its driver. The guest's own control queue ends in the emulated device; this one
// lies in memory of the host's that is mapped in an address space which has nothing else, and which no data ring has: so a guest can neither say anything to the card nor see what is said, and the card's
// control queue cannot reach a guest. What is said is the difference between the policy words and what was said before, as many commands at a time as the ring has room for.

import { DMA_READ, DMA_WRITE, type DmaMapping } from '#core/dma-space';
import { HASH_KEY_BYTES, type HashParameters } from '#net/hash-types';
import { FeatureSet } from '#virtio/features';
import { offloadsAccepted, RX_MODES } from '#virtio/net-control/receive-state';
import * as wire from '#virtio/net-control/wire';
import * as net from '#virtio/net-features';
import { type NetPolicy, POLICY_MAC_ENTRIES } from '#virtio/net-policy';
import type { RssLimits, RssPolicy } from '#virtio/rss-policy';
import { ShadowRing } from '#virtio/shadow-ring';
import type { VdpaDevice } from '#virtio/vdpa';

const PAGE = 4096;
/** With its areas it takes no more pages than the smallest would. */
const RING_SIZE = 128;
/** A command's and its answer's. */
const DESCRIPTORS = 2;
/** No answer yet. */
const SILENCE = 0xff;

/** What the card is to have so that everything a driver with these features may set can be said to it. */
export function controlFeatures(driver: FeatureSet, device: VdpaDevice): FeatureSet {
  const bits = [net.VIRTIO_NET_F_CTRL_VQ, net.VIRTIO_NET_F_CTRL_RX, net.VIRTIO_NET_F_CTRL_RX_EXTRA, net.VIRTIO_NET_F_CTRL_MAC_ADDR];
  for (const bit of [net.VIRTIO_NET_F_CTRL_VLAN, net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS]) if (driver.has(bit)) bits.push(bit);
  if (device.controlVring > 2) bits.push(net.VIRTIO_NET_F_MQ);
  if (driver.has(net.VIRTIO_NET_F_NOTF_COAL)) bits.push(net.VIRTIO_NET_F_VQ_NOTF_COAL);
  return FeatureSet.of(...bits);
}

const commandBytes = ({ tableLength }: RssLimits): number =>
  Math.ceil((2 + Math.max(8 + 2 * 6 * POLICY_MAC_ENTRIES, 8 + wire.rssConfigBytes(tableLength, HASH_KEY_BYTES))) / PAGE) * PAGE;

/** As bytes: class, command, what it says. */
type Command = readonly number[];

const same = (a: Int32Array, b: Int32Array): boolean => a.every((word, i) => word === b[i]);

/** What the emulated device had answered well was refused, or not answered. */
export class ControlRefusedError extends Error {
  readonly code = 'NICBOX_VDPA_CONTROL';
}

export class ControlShadow {
  readonly #device: VdpaDevice;
  readonly #features: FeatureSet;
  readonly #ring: ShadowRing;
  readonly #bytes: Uint8Array;
  readonly #iova: number;
  readonly #command: number;
  readonly #ack: number;
  /** The words as they were said last; cleared, what a card has after a reset. */
  readonly #said: NetPolicy;
  #fresh = true;
  /** Nothing more is said: what the card has is not what it should have, and the device in front of it is to be reset. */
  #refused = false;

  /** Bytes of whole pages. */
  static bytes(limits: RssLimits): number {
    return ShadowRing.bytes(RING_SIZE) + commandBytes(limits) + PAGE;
  }

  /**
   * @param said cleared words with the session's limits, to remember what was said
   * @param buffer of `bytes` of these limits
   */
  constructor(device: VdpaDevice, features: FeatureSet, said: NetPolicy, buffer: SharedArrayBuffer) {
    this.#device = device;
    this.#features = features;
    this.#said = said;
    this.#iova = Math.ceil(device.iovaRange.first / PAGE) * PAGE;
    this.#command = ShadowRing.bytes(RING_SIZE);
    this.#ack = this.#command + commandBytes(said.rss.limits);
    this.#bytes = new Uint8Array(buffer);
    // A card's longest ring need not be a power of two, nor as long.
    const size = Math.max(DESCRIPTORS, Math.min(RING_SIZE, 2 ** Math.floor(Math.log2(device.maxVringSize))));
    this.#ring = new ShadowRing({ size, buffer, offset: 0, iova: this.#iova, inOrder: false });
  }

  /** All that the address space of the control queue has. @param address of the buffer */
  mappings(address: number): DmaMapping[] {
    const iova = this.#iova;
    return [
      ...ShadowRing.mappings(this.#ring.size, iova, address),
      { iova: iova + this.#command, address: address + this.#command, size: this.#ack - this.#command, permissions: DMA_READ },
      { iova: iova + this.#ack, address: address + this.#ack, size: PAGE, permissions: DMA_READ | DMA_WRITE },
    ];
  }

  /** The ring for the device. Before DRIVER_OK. */
  setUp(): void {
    const device = this.#device;
    const index = device.controlVring;
    device.setVringSize(index, this.#ring.size);
    device.setVringAddresses(index, this.#ring.setup);
    device.setVringPosition(index, { available: 0, used: 0 });
    device.setVringReady(index, true);
  }

  /** The commands that say what is new in these words, for `say`: they count as said. */
  difference(policy: NetPolicy): Command[] {
    const commands: Command[] = [];
    if (this.#refused) return commands;
    const [features, said, fresh] = [this.#features, this.#said, this.#fresh];
    const flags = policy.flags ^ said.flags;
    RX_MODES.forEach((mode, command) => {
      if (fresh || (flags & mode) !== 0) commands.push([wire.CLASS_RX, command, (policy.flags & mode) !== 0 ? 1 : 0]);
    });
    if (fresh || !same(policy.tableWords, said.tableWords)) {
      const tables = [...wire.macTable(policy.table('unicast'), false), ...wire.macTable(policy.table('multicast'), false)];
      commands.push([wire.CLASS_MAC, wire.MAC_TABLE_SET, ...tables]);
    }
    if (fresh || policy.macLow !== said.macLow || policy.macHigh !== said.macHigh) {
      const { mac } = policy;
      // A legacy driver writes its address byte by byte: what is none between two bytes is no command's, but the configuration space takes it.
      if (((mac[0] as number) & 1) === 0) commands.push([wire.CLASS_MAC, wire.MAC_ADDR_SET, ...mac]);
      else this.#device.writeConfig(0, mac);
    }
    if (features.has(net.VIRTIO_NET_F_CTRL_VLAN)) this.#vlans(policy, commands);
    if (features.has(net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) && (fresh || policy.accepts !== said.accepts))
      commands.push([wire.CLASS_GUEST_OFFLOADS, wire.GUEST_OFFLOADS_SET, ...wire.offloadsMask(offloadsAccepted(policy.accepts))]);
    this.#steering(policy, commands);
    if (features.has(net.VIRTIO_NET_F_VQ_NOTF_COAL)) this.#coalescing(policy, commands);
    said.copy(policy);
    this.#fresh = false;
    return commands;
  }

  #vlans({ vlanWords }: NetPolicy, commands: Command[]): void {
    const said = this.#said.vlanWords;
    for (let word = 0; word < vlanWords.length; word++) {
      const bits = vlanWords[word] as number;
      const changed = bits ^ (said[word] as number);
      for (let bit = 0; changed !== 0 && bit < 32; bit++)
        if ((changed & (1 << bit)) !== 0)
          commands.push([wire.CLASS_VLAN, (bits & (1 << bit)) !== 0 ? wire.VLAN_ADD : wire.VLAN_DEL, ...wire.u16(32 * word + bit)]);
    }
  }

  #steering({ rss, activePairs }: NetPolicy, commands: Command[]): void {
    const [features, said, fresh] = [this.#features, this.#said, this.#fresh];
    if (features.has(net.VIRTIO_NET_F_HASH_TUNNEL) && (fresh || rss.tunnels !== said.rss.tunnels))
      commands.push([wire.CLASS_HASH_TUNNEL, wire.HASH_TUNNEL_SET, ...wire.u32(rss.tunnels)]);
    const contexts = features.has(net.VIRTIO_NET_F_RSS_CONTEXT) ? rss.limits.contexts : 0;
    // virtio 1.4 5.1.9.5.8 (driver MUST NOT): pairs are not set while there is a context, so contexts go first and come last.
    const anew = fresh || activePairs !== said.activePairs || !same(rss.configuration(0), said.rss.configuration(0));
    if (anew) {
      for (let id = 1; id <= contexts; id++) if (said.rss.spreads(id)) commands.push(removal(id));
      const hash = rss.parameters(0);
      if (features.has(net.VIRTIO_NET_F_RSS) && rss.spreads(0)) commands.push([wire.CLASS_MQ, wire.MQ_RSS_CONFIG, ...configuration(rss, 0, activePairs)]);
      else {
        if (features.has(net.VIRTIO_NET_F_MQ)) commands.push([wire.CLASS_MQ, wire.MQ_VQ_PAIRS_SET, ...wire.u16(activePairs)]);
        if (features.has(net.VIRTIO_NET_F_HASH_REPORT) && hash !== undefined) commands.push([wire.CLASS_MQ, wire.MQ_HASH_CONFIG, ...wire.hashConfig(hash)]);
      }
    }
    for (let id = 1; id <= contexts; id++) {
      const there = !anew && said.rss.spreads(id);
      if (!rss.spreads(id)) {
        if (there) commands.push(removal(id));
      } else if (!there || !same(rss.configuration(id), said.rss.configuration(id)))
        commands.push([wire.CLASS_RSS_CTX, there ? wire.CTX_MOD : wire.CTX_ADD, ...wire.contextHeader(id), ...configuration(rss, id, 1)]);
    }
  }

  #coalescing(policy: NetPolicy, commands: Command[]): void {
    const said = this.#said;
    for (let index = 0; index < this.#device.controlVring; index++) {
      const [packets, usecs] = [policy.maxPackets(index), policy.maxUsecs(index)];
      if (packets !== said.maxPackets(index) || usecs !== said.maxUsecs(index))
        commands.push([wire.CLASS_NOTF_COAL, wire.NOTF_COAL_VQ_SET, ...wire.u16(index), 0, 0, ...wire.u32(packets), ...wire.u32(usecs)]);
    }
  }

  /** Has the card run these, in their order. Between turns. @throws ControlRefusedError */
  say(commands: readonly Command[]): void {
    for (let said = 0; said < commands.length; ) said += this.#sayFrom(commands, said);
  }

  /** Those from `first` on that there is room for; returns how many. */
  #sayFrom(commands: readonly Command[], first: number): number {
    const [ring, bytes, iova] = [this.#ring, this.#bytes, this.#iova];
    let at = this.#command;
    let count = 0;
    for (; ring.room >= DESCRIPTORS; count++) {
      const command = commands[first + count];
      if (command === undefined || at + command.length > this.#ack) break;
      const ack = this.#ack + count;
      bytes.set(command, at);
      bytes[ack] = SILENCE;
      ring.begin(0);
      ring.add(iova + at, -1, command.length, false);
      ring.add(iova + ack, -1, 1, true);
      ring.end();
      at += command.length;
    }
    ring.expose();
    this.#device.kickControl();
    let answered = 0;
    while (answered < count && ring.take(undefined) >= 0) answered++;
    for (let i = 0; i < count; i++) {
      const ack = bytes[this.#ack + i];
      if (i < answered && ack === wire.VIRTIO_NET_OK) continue;
      this.#refused = true;
      const [commandClass, number] = commands[first + i] as Command;
      const what = `command ${commandClass}.${number}`;
      throw new ControlRefusedError(`${this.#device.name} ${i < answered ? `answered ${what} with ${ack}` : `did not answer ${what}`}`);
    }
    return count;
  }
}

const removal = (id: number): Command => [wire.CLASS_RSS_CTX, wire.CTX_DEL, ...wire.u16(id)];

/** Of a configuration that spreads. */
function configuration(rss: RssPolicy, id: number, maxTxVq: number): number[] {
  const { types, key } = rss.parameters(id) as HashParameters;
  return wire.rssConfig({ types, key, table: rss.table(id), unclassified: rss.unclassified(id), maxTxVq });
}
