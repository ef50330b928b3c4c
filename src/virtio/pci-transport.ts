// A virtio device as a PCI function (virtio 1.4 4.1): identity, capabilities, the BAR with the virtio structures, the MSI-X BAR. Wires the
// parts: pci-common.ts, pci-notify.ts, pci-interrupts.ts, pci-access.ts in front of control.ts. Left out: shared memory.

import type { AccessSize, FastDoorbell, Region } from '#core/region';
import { type Envelope, seal, unseal } from '#core/saved';
import { Express } from '#pci/express';
import { type PcieType, PciFunction, type PlacedCapability } from '#pci/function';
import { Msix, msixBar, msixOwnBar } from '#pci/msix';
import { PowerManagement } from '#pci/pm';
import type { FunctionServices } from '#pci/ports';
import { BusyError, type ControlTransport, VirtioControl } from './control.ts';
import { type VirtioDevice, VirtioOptionError } from './device.ts';
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_NOTIFICATION_DATA, VIRTIO_F_SR_IOV } from './features.ts';
import { PciAccess } from './pci-access.ts';
import { CommonConfig } from './pci-common.ts';
import { type CallRouting, PciInterrupts } from './pci-interrupts.ts';
import * as layout from './pci-layout.ts';
import { LegacyRegisters } from './pci-legacy.ts';
import { NotifyArea } from './pci-notify.ts';
import { structureCapability } from './pci-structure.ts';
import { checkPciState, PCI_STATE_VERSION, type PciState } from './saved-pci.ts';

const DEFAULT_MULTIPLIER = 4;
const NETWORK_CLASS = 0x020000;
const OTHER_CLASS = 0xff0000;
const VIRTIO_ID_NETWORK = 1;

export interface VirtioPciOptions {
  readonly device: VirtioDevice;
  /** How calls reach the platform. */
  readonly routing: CallRouting;
  /** Bytes from one queue's notification address to the next, a power of two (default 4); 0: all queues share one. */
  readonly notifyMultiplier?: number;
  /** Offer NOTIFICATION_DATA (default false). */
  readonly notificationData?: boolean;
  /** Offer NOTIF_CONFIG_DATA (default false). */
  readonly notifConfigData?: boolean;
  /** Also the legacy interface (virtio 1.4 1.3.1), for drivers from before VIRTIO 1.0: network devices only; needs I/O space for its BAR 0. Default false. */
  readonly transitional?: boolean;
  /** MSI-X vectors (default: one for each queue and one for configuration changes). */
  readonly vectors?: number;
  /** Default 'endpoint'; 'root-complex-endpoint' on a root bus; 'conventional' leaves the PCI Express capability out. */
  readonly pcieType?: PcieType;
  /** Further capabilities: AER, ARI, serial number, SR-IOV (with which VIRTIO_F_SR_IOV is offered). */
  readonly capabilities?: readonly PlacedCapability[];
  /** A virtual function: its `fn` goes to `new Sriov`, and has neither INTx nor power states. */
  readonly virtual?: boolean;
}

/** @throws VirtioOptionError */
function checkTransitional(device: VirtioDevice, virtual: boolean): void {
  if (virtual) throw new VirtioOptionError('NICBOX_TRANSITIONAL', 'a virtual function has no I/O space: it cannot be transitional');
  if (device.type !== VIRTIO_ID_NETWORK)
    throw new VirtioOptionError('NICBOX_TRANSITIONAL', `${device.name}: only network devices have a legacy interface here`);
  if (device.offered.has(VIRTIO_F_ACCESS_PLATFORM))
    throw new VirtioOptionError('NICBOX_TRANSITIONAL', 'a legacy driver cannot accept ACCESS_PLATFORM: leave one of the two out');
}

export class VirtioPci {
  readonly device: VirtioDevice;
  readonly fn: PciFunction;
  readonly #layout: layout.PciLayout;
  readonly #features: FeatureSet;
  readonly #transitional: boolean;
  readonly #interrupts: PciInterrupts;
  #attached:
    | { readonly control: VirtioControl; readonly common: CommonConfig; readonly notify: NotifyArea; readonly legacy: LegacyRegisters | undefined }
    | undefined;

  /** @throws VirtioOptionError */
  constructor(options: VirtioPciOptions) {
    const { device, notificationData = false, notifConfigData = false, pcieType = 'endpoint', virtual = false, capabilities = [] } = options;
    this.device = device;
    this.#transitional = options.transitional ?? false;
    if (this.#transitional) checkTransitional(device, virtual);
    const physical = capabilities.some((placed) => ('capability' in placed ? placed.capability : placed).virtualFunctions !== undefined);
    this.#features = FeatureSet.of(
      ...(notificationData ? [VIRTIO_F_NOTIFICATION_DATA] : []),
      ...(notifConfigData ? [VIRTIO_F_NOTIF_CONFIG_DATA] : []),
      // virtio 1.4 6 (device SHOULD): where there is an SR-IOV capability.
      ...(physical ? [VIRTIO_F_SR_IOV] : []),
    );
    this.#layout = layout.planLayout({
      queueCount: device.queueCount,
      configSize: device.configSize,
      notifyMultiplier: options.notifyMultiplier ?? DEFAULT_MULTIPLIER,
      notificationData,
      vectors: options.vectors,
    });
    this.#interrupts = new PciInterrupts(device.queueCount, this.#layout.vectors, options.routing, () => this.fn.requesterId);
    const structures = this.#structures();
    const msix = new Msix(msixOwnBar(layout.MSIX_BAR, this.#layout.vectors));
    const transitional = this.#transitional;
    const id = transitional ? layout.TRANSITIONAL_NETWORK_ID : layout.VIRTIO_PCI_DEVICE_BASE + device.type;
    this.fn = new PciFunction({
      name: device.name,
      virtual,
      identity: {
        vendorId: layout.VIRTIO_PCI_VENDOR,
        deviceId: id,
        // virtio 1.4 4.1.2.1 (device SHOULD): 1 or higher without the legacy interface, and a subsystem id from 0x40.
        revision: transitional ? 0 : 1,
        classCode: device.type === VIRTIO_ID_NETWORK ? NETWORK_CLASS : OTHER_CLASS,
        subsystemVendorId: layout.VIRTIO_PCI_VENDOR,
        // virtio 1.4 4.1.2.3 (transitional device MUST): the device type.
        subsystemId: transitional ? device.type : id,
        interruptPin: virtual ? 0 : 1,
        pcieType,
      },
      bars: [
        ...(transitional ? [{ index: layout.LEGACY_BAR, kind: 'io', region: this.#legacyRegion } as const] : []),
        { index: this.#structuresBar, kind: 'memory64', prefetchable: true, region: structures, size: this.#layout.barSize },
        { index: layout.MSIX_BAR, kind: 'memory32', region: msixBar(msix, layout.MSIX_BAR) },
      ],
      capabilities: [
        ...this.#structureCapabilities(),
        new PciAccess((index) => this.fn.bars.list.find((bar) => bar.index === index)?.region),
        msix,
        ...(virtual ? [] : [new PowerManagement({ noSoftReset: true })]),
        ...(pcieType === 'conventional' ? [] : [new Express()]),
        ...capabilities,
      ],
      onAttach: (services) => this.#attach(services),
      onDetach: () => this.#detach(),
      onReset: () => this.#reset(),
      onMastering: (granted) => {
        this.#interrupts.reroute();
        if (granted) this.#attached?.control.notifyAll();
      },
    });
  }

  get #structuresBar(): number {
    return this.#transitional ? layout.TRANSITIONAL_STRUCTURES_BAR : layout.STRUCTURES_BAR;
  }

  #structureCapabilities(): PlacedCapability[] {
    const bar = this.#structuresBar;
    const { notifyLength, notifyMultiplier } = this.#layout;
    const list = [
      structureCapability({ type: layout.VIRTIO_PCI_CAP_COMMON_CFG, bar, offset: layout.COMMON_OFFSET, length: layout.COMMON_LENGTH }),
      structureCapability({ type: layout.VIRTIO_PCI_CAP_NOTIFY_CFG, bar, offset: layout.NOTIFY_OFFSET, length: notifyLength, notifyMultiplier }),
      structureCapability({ type: layout.VIRTIO_PCI_CAP_ISR_CFG, bar, offset: layout.ISR_OFFSET, length: 1 }),
    ];
    // virtio 1.4 4.1.4.6: only for device types that have any.
    if (this.device.configSize > 0)
      list.push(structureCapability({ type: layout.VIRTIO_PCI_CAP_DEVICE_CFG, bar, offset: layout.DEVICE_OFFSET, length: this.device.configSize }));
    return list;
  }

  /** The BAR: what lies between the structures reads 0. */
  #structures(): Region {
    const pick = (offset: number): [region: Region | undefined, start: number] => {
      if (offset >= layout.NOTIFY_OFFSET) return [this.#attached?.notify, layout.NOTIFY_OFFSET];
      if (offset >= layout.DEVICE_OFFSET) return [this.#deviceConfig, layout.DEVICE_OFFSET];
      if (offset >= layout.ISR_OFFSET) return [this.#interrupts.isrRegion, layout.ISR_OFFSET];
      return [this.#attached?.common, layout.COMMON_OFFSET];
    };
    return {
      size: this.#layout.barSize,
      read(offset: number, size: AccessSize): number {
        const [region, start] = pick(offset);
        return region !== undefined && offset - start + size <= region.size ? region.read(offset - start, size) : 0;
      },
      write(offset: number, size: AccessSize, value: number): void {
        const [region, start] = pick(offset);
        if (region !== undefined && offset - start + size <= region.size) region.write(offset - start, size, value);
      },
      doorbell(offset: number, size: AccessSize, value: number): FastDoorbell | undefined {
        const [region, start] = pick(offset);
        return region?.doorbell?.(offset - start, size, value);
      },
    };
  }

  readonly #deviceConfig: Region = (() => {
    const transport = this;
    return {
      get size() {
        return transport.device.configSize;
      },
      read: (offset: number, size: AccessSize) => this.#attached?.control.readConfig(offset, size) ?? 0,
      write: (offset: number, size: AccessSize, value: number) => this.#attached?.control.writeConfig(offset, size, value),
    };
  })();

  readonly #legacyRegion: Region = (() => {
    const transport = this;
    return {
      get size() {
        return layout.LEGACY_HEADER_BYTES + transport.device.configSize;
      },
      read: (offset: number, size: AccessSize) => this.#attached?.legacy?.read(offset, size) ?? 0,
      write: (offset: number, size: AccessSize, value: number) => this.#attached?.legacy?.write(offset, size, value),
    };
  })();

  // ---- life ----

  #attach(services: FunctionServices): void {
    if (!this.device.stopped) throw new BusyError(`${this.device.name}: its data plane still stops; attach it when that is over`);
    const interrupts = this.#interrupts;
    const transport: ControlTransport = {
      memory: services.dma,
      clock: services.clock,
      log: services.log,
      features: this.#features,
      transitional: this.#transitional,
      call: (index) => interrupts.call(index),
      notifyConfig: () => interrupts.notifyConfig(),
      deliverCalls: () => void interrupts.serviceRelays(),
      queueCleared: (index) => interrupts.clearQueue(index),
      cleared: () => {
        interrupts.clear();
        this.#attached?.common.clear();
        this.#attached?.legacy?.clear();
      },
    };
    const control = new VirtioControl(this.device, transport);
    // Power-on state, also for a device that was taken out of another slot.
    this.device.reset();
    this.#attached = {
      control,
      common: new CommonConfig(control, interrupts, this.#layout.notifyMultiplier > 0),
      notify: new NotifyArea(control, this.#layout, () => this.service()),
      legacy: this.#transitional ? new LegacyRegisters(control, interrupts, () => this.service()) : undefined,
    };
    interrupts.attach(services.interrupts);
  }

  #detach(): void {
    this.device.stop();
    this.#interrupts.clear();
    this.#interrupts.detach();
    this.#attached = undefined;
  }

  #reset(): void {
    // Interrupts cease at once; the rest when the data plane has let go of memory.
    this.#interrupts.clear();
    this.#attached?.common.clear();
    this.#attached?.legacy?.clear();
    this.#attached?.control.beginReset();
  }

  /** The machine's thread: delivers relayed calls. Returns whether there were any. */
  service(): boolean {
    return this.#interrupts.serviceRelays();
  }

  // ---- saved state: of the transport and the device; configuration registers and MSI-X tables are the function's ----

  /** @throws BusyError while a reset or the data plane runs. */
  save(): Envelope<PciState> {
    const { control, common, legacy } = this.#require();
    const registers = { selectors: common.selectors, legacyQueue: legacy?.queue ?? 0 };
    return seal('virtio-pci', PCI_STATE_VERSION, { control: control.save(), interrupts: this.#interrupts.save(), ...registers });
  }

  /** Leaves the device paused. Nothing has changed when it throws. @throws RestoreError, BusyError */
  restore(saved: unknown): void {
    const { control, common, legacy } = this.#require();
    const state = checkPciState(unseal(saved, 'virtio-pci', PCI_STATE_VERSION), this.device.queueCount, this.#layout.vectors);
    control.restore(state.control);
    common.selectors = state.selectors;
    if (legacy) legacy.queue = state.legacyQueue;
    this.#interrupts.restore(state.interrupts);
  }

  #require(): { readonly control: VirtioControl; readonly common: CommonConfig; readonly legacy: LegacyRegisters | undefined } {
    if (this.#attached === undefined) throw new BusyError(`${this.device.name} is not attached to a fabric`);
    return this.#attached;
  }
}
