// The shadow control virtqueue: through it the emulated control plane says to a vDPA network device what it has settled with its driver. The guest's own control queue ends in the emulated device; this one
// lies in memory of the host's that is mapped in an address space which has nothing else, and which no data ring has: so a guest can neither say anything to the card nor see what is said, and the card's
// control queue cannot reach a guest. What is said is the difference between the policy words and what was said before, command by command, each answered before the next.

import { DMA_READ, DMA_WRITE, type DmaMapping } from '#core/dma-space';
import { FeatureSet } from '#virtio/features';
import { offloadsAccepted, RX_MODES } from '#virtio/net-control/receive-state';
import * as wire from '#virtio/net-control/wire';
import * as net from '#virtio/net-features';
import { type NetPolicy, POLICY_MAC_ENTRIES } from '#virtio/net-policy';
import type { RssLimits } from '#virtio/rss-policy';
import { ShadowRing } from '#virtio/shadow-ring';
import type { VdpaDevice } from '#virtio/vdpa';

const PAGE = 4096;
const RING_SIZE = 4;
const HASH_KEY_BYTES = 40;
const VLANS = 4096;
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

/** What the emulated device had answered well was refused, or not answered. */
export class ControlRefusedError extends Error {
  readonly code = 'NICBOX_VDPA_CONTROL';
}

export class ControlShadow {
  readonly #device: VdpaDevice;
  readonly #features: FeatureSet;
  readonly #limits: RssLimits;
  readonly #ring: ShadowRing;
  readonly #bytes: Uint8Array;
  readonly #iova: number;
  readonly #command: number;
  readonly #ack: number;
  /** What was said last, by what it is about. */
  readonly #said = new Map<string, string>();
  #vlans: Uint32Array = new Uint32Array(VLANS / 32);
  /** Nothing more is said: what the card has is not what it should have, and the device in front of it is to be reset. */
  #refused = false;

  /** Bytes of whole pages. */
  static bytes(limits: RssLimits): number {
    return ShadowRing.bytes(RING_SIZE) + commandBytes(limits) + PAGE;
  }

  /** @param buffer of `bytes(limits)` bytes */
  constructor(device: VdpaDevice, features: FeatureSet, limits: RssLimits, buffer: SharedArrayBuffer) {
    this.#device = device;
    this.#features = features;
    this.#limits = limits;
    this.#iova = Math.ceil(device.iovaRange.first / PAGE) * PAGE;
    this.#command = ShadowRing.bytes(RING_SIZE);
    this.#ack = this.#command + commandBytes(limits);
    this.#bytes = new Uint8Array(buffer);
    this.#ring = new ShadowRing({ size: RING_SIZE, buffer, offset: 0, iova: this.#iova, inOrder: false });
  }

  /** All that the address space of the control queue has. @param address of the buffer */
  mappings(address: number): DmaMapping[] {
    const iova = this.#iova;
    return [
      ...ShadowRing.mappings(RING_SIZE, iova, address),
      { iova: iova + this.#command, address: address + this.#command, size: this.#ack - this.#command, permissions: DMA_READ },
      { iova: iova + this.#ack, address: address + this.#ack, size: PAGE, permissions: DMA_READ | DMA_WRITE },
    ];
  }

  /** The ring for the device. Before DRIVER_OK. */
  setUp(): void {
    const device = this.#device;
    const index = device.controlVring;
    device.setVringSize(index, RING_SIZE);
    device.setVringAddresses(index, this.#ring.setup);
    device.setVringPosition(index, { available: 0, used: 0 });
    device.setVringReady(index, true);
  }

  /** Says what is new in these words. Between turns. @throws ControlRefusedError */
  tell(policy: NetPolicy): void {
    if (this.#refused) return;
    RX_MODES.forEach((mode, command) => {
      this.#say(`mode ${command}`, [[wire.CLASS_RX, command, (policy.flags & mode) !== 0 ? 1 : 0]]);
    });
    const tables = [...wire.macTable(policy.table('unicast'), false), ...wire.macTable(policy.table('multicast'), false)];
    this.#say('tables', [[wire.CLASS_MAC, wire.MAC_TABLE_SET, ...tables]]);
    const { mac } = policy;
    // A legacy driver writes its address byte by byte: what is none between two bytes is no command's, but the configuration space takes it.
    if (((mac[0] as number) & 1) === 0) this.#say('mac', [[wire.CLASS_MAC, wire.MAC_ADDR_SET, ...mac]]);
    else if (this.#news('mac', [[...mac]])) {
      this.#device.writeConfig(0, mac);
      this.#device.controlChanged();
    }
    if (this.#features.has(net.VIRTIO_NET_F_CTRL_VLAN)) this.#tellVlans(policy.vlans);
    if (this.#features.has(net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS))
      this.#say('offloads', [[wire.CLASS_GUEST_OFFLOADS, wire.GUEST_OFFLOADS_SET, ...wire.offloadsMask(offloadsAccepted(policy.accepts))]]);
    this.#tellSteering(policy);
    if (this.#features.has(net.VIRTIO_NET_F_VQ_NOTF_COAL)) this.#tellCoalescing(policy);
  }

  #tellVlans(vlans: Uint32Array): void {
    vlans.forEach((bits, word) => {
      const changed = bits ^ (this.#vlans[word] as number);
      for (let bit = 0; changed !== 0 && bit < 32; bit++)
        if ((changed & (1 << bit)) !== 0)
          this.#send([wire.CLASS_VLAN, (bits & (1 << bit)) !== 0 ? wire.VLAN_ADD : wire.VLAN_DEL, ...wire.u16(32 * word + bit)]);
    });
    this.#vlans = vlans;
  }

  #tellSteering({ rss, activePairs }: NetPolicy): void {
    const features = this.#features;
    if (features.has(net.VIRTIO_NET_F_HASH_TUNNEL)) this.#say('tunnels', [[wire.CLASS_HASH_TUNNEL, wire.HASH_TUNNEL_SET, ...wire.u32(rss.tunnels)]]);
    const configuration = (id: number): number[] | undefined => {
      const hash = rss.parameters(id);
      const table = rss.table(id);
      if (hash === undefined || table.length === 0) return undefined;
      return wire.rssConfig({ types: hash.types, key: hash.key, table, unclassified: rss.unclassified(id), maxTxVq: id === 0 ? activePairs : 1 });
    };
    const contexts = features.has(net.VIRTIO_NET_F_RSS_CONTEXT) ? Array.from({ length: this.#limits.contexts }, (_, i) => i + 1) : [];
    const spread = features.has(net.VIRTIO_NET_F_RSS) ? configuration(0) : undefined;
    const hash = features.has(net.VIRTIO_NET_F_HASH_REPORT) ? rss.parameters(0) : undefined;
    const mq: number[][] = [];
    if (spread !== undefined) mq.push([wire.CLASS_MQ, wire.MQ_RSS_CONFIG, ...spread]);
    else {
      if (features.has(net.VIRTIO_NET_F_MQ)) mq.push([wire.CLASS_MQ, wire.MQ_VQ_PAIRS_SET, ...wire.u16(activePairs)]);
      if (hash !== undefined) mq.push([wire.CLASS_MQ, wire.MQ_HASH_CONFIG, ...wire.hashConfig(hash)]);
    }
    // virtio 1.4 5.1.9.5.8 (driver MUST NOT): pairs are not set while there is a context, so contexts go first and come last.
    if (this.#news('mq', mq)) {
      for (const id of contexts) this.#forget(id);
      for (const command of mq) this.#send(command);
    }
    for (const id of contexts) {
      const wanted = configuration(id);
      if (wanted === undefined) this.#forget(id);
      else {
        const command = this.#said.has(`context ${id}`) ? wire.CTX_MOD : wire.CTX_ADD;
        if (this.#news(`context ${id}`, [wanted])) this.#send([wire.CLASS_RSS_CTX, command, ...wire.contextHeader(id), ...wanted]);
      }
    }
  }

  #forget(id: number): void {
    if (this.#said.delete(`context ${id}`)) this.#send([wire.CLASS_RSS_CTX, wire.CTX_DEL, ...wire.u16(id)]);
  }

  #tellCoalescing(policy: NetPolicy): void {
    for (let index = 0; index < this.#device.controlVring; index++) {
      const [packets, usecs] = [policy.maxPackets(index), policy.maxUsecs(index)];
      const key = `coalescing ${index}`;
      // virtio 1.4 5.1.9.5.10.6: 0 after a reset.
      if (packets === 0 && usecs === 0 && !this.#said.has(key)) continue;
      this.#say(key, [[wire.CLASS_NOTF_COAL, wire.NOTF_COAL_VQ_SET, ...wire.u16(index), 0, 0, ...wire.u32(packets), ...wire.u32(usecs)]]);
    }
  }

  #news(key: string, commands: readonly number[][]): boolean {
    const text = commands.join(';');
    if (this.#said.get(key) === text) return false;
    this.#said.set(key, text);
    return true;
  }

  #say(key: string, commands: readonly number[][]): void {
    if (this.#news(key, commands)) for (const command of commands) this.#send(command);
  }

  #send(command: readonly number[]): void {
    const ring = this.#ring;
    const bytes = this.#bytes;
    const [ack, at] = [this.#ack, this.#command];
    bytes.set(command, at);
    bytes[ack] = SILENCE;
    ring.begin(0);
    ring.add(this.#iova + at, -1, command.length, false);
    ring.add(this.#iova + ack, -1, 1, true);
    ring.end();
    ring.expose();
    this.#device.kickControl();
    const answered = ring.take(undefined) >= 0;
    if (answered && bytes[ack] === wire.VIRTIO_NET_OK) return;
    this.#refused = true;
    const what = `command ${command[0]}.${command[1]}`;
    throw new ControlRefusedError(`${this.#device.name} ${answered ? `answered ${what} with ${bytes[ack]}` : `did not answer ${what}`}`);
  }
}
