// A virtio device as a PCI function (virtio 1.4 4.1): identity, capabilities, the BAR with the virtio structures, the MSI-X BAR. What is behind them is made when the function has a
// device (pci-plugged.ts): from the start, or, of a virtual function, when it is enabled. Left out: shared memory.

import type { AccessSize, FastDoorbell, Region } from '#core/region';
import { type Envelope, RestoreError, seal, unseal } from '#core/saved';
import { Express } from '#pci/express';
import { type PcieType, PciFunction, type PlacedCapability } from '#pci/function';
import { Msix, msixBar, msixOwnBar } from '#pci/msix';
import { PowerManagement } from '#pci/pm';
import type { FunctionServices } from '#pci/ports';
import type { AdminMember } from './admin-sriov.ts';
import { BusyError, type VirtioDevice, VirtioOptionError } from './device.ts';
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_NOTIFICATION_DATA, VIRTIO_F_SR_IOV } from './features.ts';
import { PciAccess } from './pci-access.ts';
import type { CallRouting } from './pci-interrupts.ts';
import * as layout from './pci-layout.ts';
import { PluggedDevice } from './pci-plugged.ts';
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
}

/** What all VFs of a PF have in common, whatever device each gets: enough to lay BARs and capabilities out. */
export interface VirtualShape {
  readonly name: string;
  readonly type: number;
  /** The most there can be. */
  readonly queueCount: number;
  readonly configSize: number;
}

/** A virtual function: its `fn` goes to `new Sriov`, has neither INTx nor power states, and gets its device later, by `plug`. */
export interface VirtioVfOptions extends Omit<VirtioPciOptions, 'device' | 'transitional'> {
  readonly shape: VirtualShape;
  /** It has a legacy interface, which its PF's administration commands reach: VF BAR 0 is then no BAR (virtio 1.4 2.12.1.1.6, device MUST). */
  readonly legacyByOwner: boolean;
}

/** @throws VirtioOptionError */
function checkTransitional(device: VirtioDevice): void {
  if (device.type !== VIRTIO_ID_NETWORK)
    throw new VirtioOptionError('NICBOX_TRANSITIONAL', `${device.name}: only network devices have a legacy interface here`);
  if (device.offered.has(VIRTIO_F_ACCESS_PLATFORM))
    throw new VirtioOptionError('NICBOX_TRANSITIONAL', 'a legacy driver cannot accept ACCESS_PLATFORM: leave one of the two out');
}

export class VirtioPci {
  readonly fn: PciFunction;
  readonly #shape: VirtualShape;
  readonly #layout: layout.PciLayout;
  readonly #features: FeatureSet;
  readonly #routing: CallRouting;
  readonly #transitional: boolean;
  readonly #legacyByOwner: boolean;
  /** The function's device; undefined: it has none now. */
  #device: VirtioDevice | undefined;
  #services: FunctionServices | undefined;
  #plugged: PluggedDevice | undefined;

  /** @throws VirtioOptionError */
  constructor(options: VirtioPciOptions | VirtioVfOptions) {
    const { notificationData = false, notifConfigData = false, pcieType = 'endpoint', capabilities = [] } = options;
    const virtual = 'shape' in options;
    this.#device = virtual ? undefined : options.device;
    this.#shape = virtual ? options.shape : options.device;
    this.#legacyByOwner = virtual && options.legacyByOwner;
    this.#routing = options.routing;
    this.#transitional = !virtual && options.transitional === true;
    if (!virtual && this.#transitional) checkTransitional(options.device);
    const physical = capabilities.some((placed) => ('capability' in placed ? placed.capability : placed).virtualFunctions !== undefined);
    this.#features = FeatureSet.of(
      ...(notificationData ? [VIRTIO_F_NOTIFICATION_DATA] : []),
      ...(notifConfigData ? [VIRTIO_F_NOTIF_CONFIG_DATA] : []),
      // virtio 1.4 6 (device SHOULD): where there is an SR-IOV capability.
      ...(physical ? [VIRTIO_F_SR_IOV] : []),
    );
    const { queueCount, configSize, name, type } = this.#shape;
    this.#layout = layout.planLayout({
      queueCount,
      configSize,
      notifyMultiplier: options.notifyMultiplier ?? DEFAULT_MULTIPLIER,
      notificationData,
      vectors: options.vectors,
    });
    const structures = this.#structures();
    const msix = new Msix(msixOwnBar(layout.MSIX_BAR, this.#layout.vectors));
    const transitional = this.#transitional;
    const id = transitional ? layout.TRANSITIONAL_NETWORK_ID : layout.VIRTIO_PCI_DEVICE_BASE + type;
    this.fn = new PciFunction({
      name,
      virtual,
      identity: {
        vendorId: layout.VIRTIO_PCI_VENDOR,
        deviceId: id,
        // virtio 1.4 4.1.2.1 (device SHOULD): 1 or higher without the legacy interface, and a subsystem id from 0x40.
        revision: transitional ? 0 : 1,
        classCode: type === VIRTIO_ID_NETWORK ? NETWORK_CLASS : OTHER_CLASS,
        subsystemVendorId: layout.VIRTIO_PCI_VENDOR,
        // virtio 1.4 4.1.2.3 (transitional device MUST): the device type.
        subsystemId: transitional ? type : id,
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
        this.#plugged?.interrupts.reroute();
        if (granted) this.#plugged?.control.queues.notifyAll();
      },
    });
  }

  get #structuresBar(): number {
    return this.#transitional || this.#legacyByOwner ? layout.TRANSITIONAL_STRUCTURES_BAR : layout.STRUCTURES_BAR;
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
    if (this.#shape.configSize > 0)
      list.push(structureCapability({ type: layout.VIRTIO_PCI_CAP_DEVICE_CFG, bar, offset: layout.DEVICE_OFFSET, length: this.#shape.configSize }));
    return list;
  }

  /** The BAR: what lies between the structures reads 0. */
  #structures(): Region {
    const pick = (offset: number): [region: Region | undefined, start: number] => {
      if (offset >= layout.NOTIFY_OFFSET) return [this.#plugged?.notify, layout.NOTIFY_OFFSET];
      if (offset >= layout.DEVICE_OFFSET) return [this.#deviceConfig, layout.DEVICE_OFFSET];
      if (offset >= layout.LEGACY_NOTIFY_OFFSET && this.#legacyByOwner) return [this.#plugged?.legacyNotify, layout.LEGACY_NOTIFY_OFFSET];
      if (offset >= layout.ISR_OFFSET) return [this.#plugged?.interrupts.isrRegion, layout.ISR_OFFSET];
      return [this.#plugged?.common, layout.COMMON_OFFSET];
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
        return transport.#shape.configSize;
      },
      read: (offset: number, size: AccessSize) => this.#plugged?.control.readConfig(offset, size) ?? 0,
      write: (offset: number, size: AccessSize, value: number) => this.#plugged?.control.writeConfig(offset, size, value),
    };
  })();

  readonly #legacyRegion: Region = (() => {
    const transport = this;
    return {
      get size() {
        return layout.LEGACY_HEADER_BYTES + transport.#shape.configSize;
      },
      read: (offset: number, size: AccessSize) => this.#plugged?.legacy?.read(offset, size) ?? 0,
      write: (offset: number, size: AccessSize, value: number) => this.#plugged?.legacy?.write(offset, size, value),
    };
  })();

  // ---- life ----

  /** The function's device; of a virtual function, while it is enabled. */
  get device(): VirtioDevice {
    return this.#require().device;
  }

  #attach(services: FunctionServices): void {
    this.#services = services;
    if (this.#device) this.plug(this.#device);
  }

  #detach(): void {
    this.unplug();
    this.#services = undefined;
  }

  /** @throws BusyError while the device's data plane still stops */
  plug(device: VirtioDevice): void {
    const services = this.#services;
    if (services === undefined) throw new BusyError(`${device.name}: its function is not attached to a fabric`);
    if (!device.stopped) throw new BusyError(`${device.name}: its data plane still stops; attach it when that is over`);
    this.#plugged = new PluggedDevice({
      device,
      services,
      features: this.#features,
      layout: this.#layout,
      routing: this.#routing,
      legacy: this.#transitional || this.#legacyByOwner,
      bar: this.#structuresBar,
      requester: () => this.fn.requesterId,
      mayMaster: () => this.fn.mayMaster,
    });
  }

  /** The device is asked to stop, and is over when it says so. */
  unplug(): void {
    this.#plugged?.unplug();
    this.#plugged = undefined;
  }

  #reset(): void {
    this.#plugged?.reset();
  }

  /** The machine's thread: delivers relayed calls. Returns whether there were any. */
  service(): boolean {
    return this.#plugged?.interrupts.serviceRelays() ?? false;
  }

  /** As its PF's administration commands reach it. */
  get member(): AdminMember | undefined {
    return this.#plugged?.member;
  }

  // ---- saved state: of the transport and the device; configuration registers and MSI-X tables are the function's ----

  /** @throws BusyError while a reset or the data plane runs. */
  save(): Envelope<PciState> {
    const plugged = this.#require();
    return seal('virtio-pci', PCI_STATE_VERSION, { ...plugged.state(plugged.control.save()), staged: plugged.member.staged });
  }

  /** Leaves the device paused. Nothing has changed when it throws. @throws RestoreError, BusyError */
  restore(saved: unknown): void {
    const plugged = this.#require();
    const state = checkPciState(unseal(saved, 'virtio-pci', PCI_STATE_VERSION), plugged.device.queueCount, this.#layout.vectors);
    if (!this.fn.virtual && (state.staged !== null || (state.control as { frozen?: unknown } | undefined)?.frozen === true))
      throw new RestoreError('saved state is of a function stopped by its owner; this one has none');
    if (state.staged !== null && (state.control as { frozen?: unknown } | undefined)?.frozen !== true)
      throw new RestoreError('saved device parts wait in a function that is not stopped');
    const staged = state.staged && { ...state.staged, control: plugged.control.checkForm(state.staged.control) };
    plugged.control.restore(state.control);
    plugged.registers = state;
    plugged.member.restore(staged);
  }

  #require(): PluggedDevice {
    if (this.#plugged === undefined) throw new BusyError(`${this.#shape.name} is not attached to a fabric`);
    return this.#plugged;
  }
}
