// The virtual functions of a virtio-net PF (virtio 1.4 6 SR_IOV, 2.12; PCIe 4.0 9). The PCI functions lie ready, hidden, all of one shape; a device comes into being behind one when VF Enable
// is set, with the settings it has then and a data plane of its own, and goes when VF Enable is cleared or the PF is reset. What belongs to the device is in it, what belongs to its port
// is said to the embedded switch.

import type { Nanos, Timer } from '#core/clock';
import { RestoreError } from '#core/saved';
import type { VfPorts } from '#net/vf-ports';
import { Ari } from '#pci/ari';
import type { PcieType } from '#pci/function';
import { Sriov, type VfLayout } from '#pci/sriov';
import type { AdminMember, SriovGroupOptions } from '#virtio/admin-sriov';
import { BusyError, VirtioOptionError } from '#virtio/device';
import type { CallRouting } from '#virtio/pci-interrupts';
import { VIRTIO_PCI_DEVICE_BASE } from '#virtio/pci-layout';
import { memberPartsBound } from '#virtio/pci-member';
import { VirtioPci } from '#virtio/pci-transport';
import { savedRecord } from '#virtio/saved-control';
import type { VhostBackend } from '#virtio/vhost';
import { checkMac, checkRss, NET_CONFIG_BYTES } from './config.ts';
import { VIRTIO_ID_NETWORK, VirtioNet } from './device.ts';
import { MOST_QUEUE_PAIRS, type VirtioNetOptions } from './net-options.ts';
import { netPartsBounds } from './net-parts.ts';
import { changeSettings, defaultSettings, defaultVfMac, sameShape, savedSettings, type VfChanges, type VfSettings, type VfShape } from './vf-settings.ts';

const MOST_VFS = 255;
/** How soon to look again whether the device that was there before has stopped. */
const LOOK_AGAIN: Nanos = 1_000_000;
/** On a bus of 32 slots each VF has one to itself; below a port they follow the PF with ARI, and are on the next bus without. */
const SLOTS: VfLayout = { firstOffset: 8, stride: 8 };
const NEXT_BUS: VfLayout = { firstOffset: 0x100, stride: 1 };
const FOLLOWING: VfLayout = { firstOffset: 1, stride: 1 };

export interface NetSriovOptions {
  /** TotalVFs: 1 to 255. */
  readonly totalVfs: number;
  /** The data plane of VF `vf` (from 0), asked for once, when it is first enabled. It needs to carry what a virtio-net device offers; one backend serves one VF. */
  readonly backend: (vf: number) => VhostBackend;
  /** Queue pairs of each VF, unless set otherwise (default 1), and the most one can be set to (default: the same). */
  readonly queuePairs?: number;
  readonly maxQueuePairs?: number;
  /** What a VF starts with; `configure` changes it. */
  readonly settings?: (vf: number) => VfChanges;
  /** The embedded switch. Without one, VLAN, rates and spoof checking have nobody to see to them and are refused. */
  readonly ports?: VfPorts;
  /** So many VFs are enabled now: inside the PF driver's access. */
  readonly onEnabled?: (count: number) => void;
  /** The legacy interface of VFs through the PF's administration queue (default true); VF BAR 0 is then no BAR. */
  readonly legacy?: boolean;
  /** MSI-X vectors of each VF (default: one for each queue there can be, and one for configuration changes). */
  readonly vectors?: number;
  /** Where VFs are; by default fitting the bus that the PF is on. */
  readonly layout?: VfLayout;
  /** While ARI Capable Hierarchy is set. */
  readonly ariLayout?: VfLayout;
  /** From VF Enable until VFs answer (default 0; software waits 100 ms). */
  readonly readyAfter?: Nanos;
}

/** What the machine does for it. */
export interface VfSite {
  readonly pcieType: PcieType;
  readonly routing: CallRouting;
  /** Behind an IOMMU whose use drivers have to acknowledge. */
  readonly insists: boolean;
  /** A device came into being: throws if it cannot be had. */
  readonly made: (net: VirtioNet) => void;
  readonly gone: (net: VirtioNet) => void;
}

interface Entry {
  readonly pci: VirtioPci;
  settings: VfSettings;
  /** VF Enable is set, and reaches this one. */
  enabled: boolean;
  net: VirtioNet | undefined;
  /** What `net` was made with. */
  shape: VfShape;
  /** The device before, which may still have to stop. */
  leaving: VirtioNet | undefined;
  backend: VhostBackend | undefined;
  /** Why there is no device though it is enabled. */
  fault: unknown;
}

/** Saved state of one VF. */
interface VfState {
  readonly settings: VfSettings;
  /** null: not enabled. */
  readonly device: unknown;
}

export class NetVfs {
  /** For the PF's `capabilities`. */
  readonly capability: Sriov;
  /** For the PF's `owner`. */
  readonly owner: Omit<SriovGroupOptions, 'opcodes'>;
  readonly total: number;
  readonly #options: NetSriovOptions;
  readonly #site: VfSite;
  readonly #entries: readonly Entry[];
  readonly #mostPairs: number;
  #pfLink: boolean;
  #timer: Timer | undefined;

  /** @throws VirtioOptionError, RangeError */
  constructor(options: NetSriovOptions, pf: Pick<VirtioNetOptions, 'mac' | 'linkUp'>, site: VfSite) {
    const { totalVfs, queuePairs = 1, maxQueuePairs = queuePairs, legacy = true } = options;
    if (!Number.isInteger(totalVfs) || totalVfs < 1 || totalVfs > MOST_VFS)
      throw new VirtioOptionError('NICBOX_SRIOV', `${totalVfs} virtual functions: give 1 to ${MOST_VFS}`);
    if (site.pcieType === 'conventional')
      throw new VirtioOptionError('NICBOX_SRIOV', 'a conventional PCI function has no virtual functions: put it below a port, or on the root bus');
    if (!Number.isInteger(maxQueuePairs) || maxQueuePairs < 1 || maxQueuePairs > MOST_QUEUE_PAIRS)
      throw new VirtioOptionError('NICBOX_QUEUE_PAIRS', `maxQueuePairs ${maxQueuePairs}: give 1 to ${MOST_QUEUE_PAIRS}`);
    this.total = totalVfs;
    this.#options = options;
    this.#site = site;
    this.#mostPairs = maxQueuePairs;
    this.#pfLink = pf.linkUp ?? true;
    const pfMac = checkMac(pf.mac);
    const onLink = site.pcieType === 'endpoint';
    const queueCount = 2 * maxQueuePairs + 1;
    const shape = { name: 'virtio-net', type: VIRTIO_ID_NETWORK, queueCount, configSize: NET_CONFIG_BYTES };
    this.#entries = Array.from({ length: totalVfs }, (_, vf): Entry => {
      const settings = this.#changed(defaultSettings(defaultVfMac(pfMac, vf), queuePairs, options.ports !== undefined), options.settings?.(vf) ?? {});
      const pci = new VirtioPci({
        shape,
        legacyByOwner: legacy,
        routing: site.routing,
        pcieType: site.pcieType,
        ...(options.vectors !== undefined && { vectors: options.vectors }),
        capabilities: onLink ? [new Ari()] : [],
      });
      return { pci, settings, enabled: false, net: undefined, shape: settings, leaving: undefined, backend: undefined, fault: undefined };
    });
    this.capability = new Sriov({
      totalVfs,
      vfDeviceId: VIRTIO_PCI_DEVICE_BASE + VIRTIO_ID_NETWORK,
      layout: options.layout ?? (onLink ? NEXT_BUS : SLOTS),
      ariLayout: options.ariLayout ?? options.layout ?? (onLink ? FOLLOWING : SLOTS),
      ...(options.readyAfter !== undefined && { readyAfter: options.readyAfter }),
      virtualFunction: (vf) => (this.#entries[vf] as Entry).pci.fn,
      onEnabled: (count) => this.#enable(count),
    });
    const { capability } = this;
    this.owner = {
      members: {
        get exists() {
          return capability.vfEnable;
        },
        get count() {
          return capability.numVfs;
        },
        most: totalVfs,
        member: (id) => this.#member(id - 1),
        onGone: undefined,
      },
      legacy,
      partsBound: memberPartsBound(queueCount, netPartsBounds(maxQueuePairs, { ...checkRss({}), pairs: maxQueuePairs })),
    };
  }

  // ---- the host's side ----

  /** How many are enabled. */
  get enabled(): number {
    return this.#entries.reduce((count, { enabled }) => count + (enabled ? 1 : 0), 0);
  }

  /** The device behind VF `vf` (from 0) while it is enabled. */
  net(vf: number): VirtioNet | undefined {
    return this.#entry(vf).net;
  }

  pci(vf: number): VirtioPci {
    return this.#entry(vf).pci;
  }

  /** Why VF `vf` is enabled and has no device: what its backend's factory, or its device's making, threw. */
  fault(vf: number): unknown {
    return this.#entry(vf).fault;
  }

  settings(vf: number): VfSettings {
    return this.#entry(vf).settings;
  }

  /**
   * Sets what belongs to VF `vf`, enabled or not. The address is in force at once, in its configuration space too (its driver gets a configuration change), as are link state, trust and all
   * that is its port's; queue pairs, features, MTU and speed from the next time it is enabled. @throws VirtioOptionError, having changed nothing
   */
  configure(vf: number, changes: VfChanges): void {
    const entry = this.#entry(vf);
    entry.settings = this.#changed(entry.settings, changes);
    if (changes.mac !== undefined) entry.net?.assignMac(entry.settings.mac);
    entry.net?.setLink(this.#linkOf(entry));
    this.#tellPort(vf, entry);
  }

  #changed(settings: VfSettings, changes: VfChanges): VfSettings {
    const next = changeSettings(settings, changes, this.#mostPairs);
    if (this.#options.ports === undefined && (next.vlan !== null || next.minRate !== 0 || next.maxRate !== 0 || next.spoofCheck))
      throw new VirtioOptionError('NICBOX_VF_SETTINGS', 'VLANs, rates and spoof checking are for an embedded switch to see to: give one as `sriov.ports`');
    return next;
  }

  #entry(vf: number): Entry {
    const entry = this.#entries[vf];
    if (entry === undefined) throw new VirtioOptionError('NICBOX_VF', `no virtual function ${vf}: there are 0 to ${this.total - 1}`);
    return entry;
  }

  /** The PF's cable was plugged or pulled: VFs whose link is `auto` follow. */
  followLink(up: boolean): void {
    this.#pfLink = up;
    for (const entry of this.#entries) entry.net?.setLink(this.#linkOf(entry));
  }

  #linkOf({ settings }: Entry): boolean {
    return settings.linkState === 'auto' ? this.#pfLink : settings.linkState === 'enable';
  }

  #tellPort(vf: number, { enabled, net, settings }: Entry): void {
    if (!enabled || net === undefined) return;
    const { vlan, minRate, maxRate, linkState, spoofCheck, trust } = settings;
    this.#options.ports?.configure(vf, { mac: net.mac, vlan, minRate, maxRate, linkState, spoofCheck, trust });
  }

  // ---- coming and going ----

  #enable(count: number): void {
    for (const [vf, entry] of this.#entries.entries()) {
      if (entry.enabled === vf < count) continue;
      entry.enabled = vf < count;
      if (entry.enabled) this.#make(vf, entry);
      else {
        this.#drop(vf, entry);
        this.owner.members.onGone?.(vf + 1);
      }
    }
    this.#options.onEnabled?.(count);
  }

  /** Once what was there before has let go of the backend and of memory. */
  #make(vf: number, entry: Entry): void {
    if (entry.leaving?.stopped === false) {
      this.#lookAgain(entry);
      return;
    }
    entry.leaving = undefined;
    try {
      entry.backend ??= this.#options.backend(vf);
      const net = new VirtioNet(this.#netOptions(vf, entry, entry.backend));
      this.#site.made(net);
      try {
        entry.pci.plug(net);
      } catch (error) {
        this.#site.gone(net);
        throw error;
      }
      entry.net = net;
      entry.shape = entry.settings;
      entry.fault = undefined;
    } catch (error) {
      // Inside the PF driver's access, where nothing is thrown to: the VF has no device, and says why when asked.
      entry.fault = error ?? new Error('the backend could not be made');
      entry.pci.fn.services?.log.trace(`virtual function ${vf} could not be made`, { reason: error instanceof Error ? error.message : String(error) });
    }
    this.#tellPort(vf, entry);
  }

  #netOptions(vf: number, entry: Entry, backend: VhostBackend): VirtioNetOptions {
    const { mac, queuePairs, mtu, speed, features } = entry.settings;
    return {
      mac,
      backend,
      queuePairs,
      ...(mtu !== null && { mtu }),
      ...(speed !== null && { link: speed }),
      linkUp: this.#linkOf(entry),
      features: { ...(this.#site.insists && { ACCESS_PLATFORM: true }), ...features },
      mayChangeMac: () => entry.settings.trust || !entry.settings.assigned,
      onMac: () => this.#tellPort(vf, entry),
    };
  }

  #drop(vf: number, entry: Entry): void {
    entry.fault = undefined;
    if (entry.net === undefined) return;
    entry.pci.unplug();
    this.#site.gone(entry.net);
    // It may have been moved to another since.
    entry.backend = entry.net.backend;
    entry.leaving = entry.net;
    entry.net = undefined;
    this.#options.ports?.configure(vf, undefined);
  }

  #lookAgain({ pci }: Entry): void {
    const clock = pci.fn.services?.clock;
    if (clock === undefined) return;
    this.#timer ??= clock.timer(() => {
      for (const [vf, entry] of this.#entries.entries()) if (entry.enabled && entry.net === undefined && entry.fault === undefined) this.#make(vf, entry);
    });
    this.#timer.arm(clock.now() + LOOK_AGAIN);
  }

  #member(vf: number): AdminMember | 'later' | undefined {
    const entry = this.#entries[vf];
    if (entry?.net !== undefined) return entry.pci.member;
    // VF Enable is set, and it is on its way.
    return entry === undefined || entry.fault !== undefined ? undefined : 'later';
  }

  // ---- for the machine ----

  /** Delivers what data planes on other threads relayed. */
  service(): boolean {
    let any = false;
    for (const { net, pci } of this.#entries) if (net !== undefined) any = pci.service() || any;
    return any;
  }

  /** Nothing of what was unplugged still runs, nor of what there is. */
  get stopped(): boolean {
    return this.#entries.every(({ net, leaving }) => net?.stopped !== false && leaving?.stopped !== false);
  }

  /** The machine closes, or the PF is taken away. */
  close(): void {
    this.#timer?.cancel();
    for (const [vf, entry] of this.#entries.entries()) this.#drop(vf, entry);
  }

  pause(vf: number): void {
    this.#entry(vf).net?.pause();
  }

  paused(vf: number): boolean {
    const { net, leaving } = this.#entry(vf);
    return net?.paused !== false && leaving?.stopped !== false;
  }

  resume(vf: number): void {
    this.#entry(vf).net?.resume();
  }

  /** @throws BusyError while a device comes or goes. */
  save(vf: number): VfState {
    const { settings, enabled, net, pci, fault } = this.#entry(vf);
    if (enabled && net === undefined && fault === undefined) throw new BusyError(`virtual function ${vf} waits for the device before it to stop`);
    return { settings: structuredClone(settings), device: net ? pci.save() : null };
  }

  /** After the fabric's state, which has set VF Enable. @throws RestoreError, BusyError */
  restore(vf: number, saved: unknown): void {
    const entry = this.#entry(vf);
    const state = savedRecord(saved, 'virtual function');
    const settings = savedSettings(state.settings, this.#mostPairs);
    if (entry.enabled && entry.net === undefined && entry.fault === undefined)
      throw new BusyError(`virtual function ${vf} waits for the device before it to stop`);
    if ((state.device !== null) !== (entry.net !== undefined)) throw new RestoreError(`saved state of virtual function ${vf} does not go with VF Enable`);
    const before = entry.settings;
    entry.settings = settings;
    if (entry.net === undefined) return;
    try {
      if (!sameShape(entry.shape, settings)) {
        this.#drop(vf, entry);
        this.#make(vf, entry);
        if (entry.net === undefined)
          throw new RestoreError(`virtual function ${vf} cannot be made as it was saved: ${String(entry.fault ?? 'it is still stopping')}`);
      } else if (!settings.mac.every((byte, i) => byte === entry.net?.permanentMac[i])) entry.net.assignMac(settings.mac);
      entry.pci.restore(state.device);
    } catch (error) {
      entry.settings = before;
      // The device that was there, or one like it, with the address it had.
      if (!sameShape(entry.shape, before)) {
        this.#drop(vf, entry);
        this.#make(vf, entry);
      } else if (entry.net !== undefined && !before.mac.every((byte, i) => byte === entry.net?.permanentMac[i])) entry.net.assignMac(before.mac);
      throw error;
    }
    this.#tellPort(vf, entry);
  }
}
