// What is behind the registers of a virtio PCI function while it has a device: the control plane, the register blocks, interrupts. Made when a device meets an attached function, which for
// a VF is when VF Enable is set.

import type { DmaSpace } from '#core/dma-space';
import type { AccessSize, FastDoorbell, Region } from '#core/region';
import type { FunctionServices } from '#pci/ports';
import { type ControlTransport, VirtioControl } from './control.ts';
import type { VirtioDevice } from './device.ts';
import type { FeatureSet } from './features.ts';
import { CommonConfig } from './pci-common.ts';
import { type CallRouting, PciInterrupts } from './pci-interrupts.ts';
import type { PciLayout } from './pci-layout.ts';
import { LegacyRegisters } from './pci-legacy.ts';
import { PciMember } from './pci-member.ts';
import { NotifyArea } from './pci-notify.ts';
import type { ControlState } from './saved-control.ts';
import type { PciState } from './saved-pci.ts';

export interface PlugOptions {
  readonly device: VirtioDevice;
  readonly services: FunctionServices;
  /** Of the transport. */
  readonly features: FeatureSet;
  readonly layout: PciLayout;
  readonly routing: CallRouting;
  /** There is a legacy interface: in a BAR, or through the owner of its group. */
  readonly legacy: boolean;
  /** Of the structures. */
  readonly bar: number;
  readonly requester: () => number;
  readonly mayMaster: () => boolean;
}

export class PluggedDevice {
  readonly device: VirtioDevice;
  readonly control: VirtioControl;
  readonly common: CommonConfig;
  readonly notify: NotifyArea;
  readonly interrupts: PciInterrupts;
  readonly legacy: LegacyRegisters | undefined;
  readonly legacyNotify: Region;
  readonly member: PciMember;
  readonly memory: DmaSpace;

  constructor({ device, services, features, layout, routing, legacy, bar, requester, mayMaster }: PlugOptions) {
    const interrupts = new PciInterrupts(device.queueCount, layout.vectors, routing, requester);
    const served = (): void => void interrupts.serviceRelays();
    const transport: ControlTransport = {
      memory: services.dma,
      clock: services.clock,
      log: services.log,
      features,
      transitional: legacy,
      call: (index) => interrupts.call(index),
      notifyConfig: () => interrupts.notifyConfig(),
      deliverCalls: served,
      queueCleared: (index) => interrupts.clearQueue(index),
      cleared: () => this.#cleared(),
    };
    this.device = device;
    this.memory = services.dma;
    this.interrupts = interrupts;
    this.control = new VirtioControl(device, transport);
    // Power-on state, also for a device that was taken out of another slot.
    device.reset();
    const { control } = this;
    this.common = new CommonConfig(control, interrupts, layout.notifyMultiplier > 0);
    this.notify = new NotifyArea(control, layout, served);
    this.legacy = legacy ? new LegacyRegisters(control, interrupts, served) : undefined;
    this.legacyNotify = legacyNotify(control, served);
    this.member = new PciMember(this, { vectors: layout.vectors, notifyPerQueue: layout.notifyMultiplier > 0, bar, mayMaster });
    interrupts.attach(services.interrupts);
  }

  #cleared(): void {
    this.#clear();
    this.member.cleared();
  }

  #clear(): void {
    this.interrupts.clear();
    this.common.clear();
    this.legacy?.clear();
  }

  /** The function was reset. Interrupts cease at once; the rest when the data plane has let go of memory. */
  reset(): void {
    this.#clear();
    this.control.beginReset();
    this.member.reset();
  }

  /** Its device is gone. */
  unplug(): void {
    this.device.stop();
    this.interrupts.clear();
    this.interrupts.detach();
  }

  // ---- saved state ----

  /** With the control plane as given, and nothing staged. */
  state(control: ControlState): PciState {
    return { control, interrupts: this.interrupts.save(), selectors: this.common.selectors, legacyQueue: this.legacy?.queue ?? 0, staged: null };
  }

  /** Everything but the control plane. */
  set registers({ selectors, legacyQueue, interrupts }: PciState) {
    this.common.selectors = selectors;
    if (this.legacy) this.legacy.queue = legacyQueue;
    this.interrupts.restore(interrupts);
  }
}

/** virtio 1.4 2.12.1.1.5: a queue's number written here is what it is in Queue Notify. */
function legacyNotify(control: VirtioControl, served: () => void): Region {
  return {
    size: 2,
    read: () => 0,
    write(_offset: number, size: AccessSize, value: number): void {
      if (size !== 2) return;
      control.notifyLegacy(value);
      served();
    },
    doorbell(offset: number, size: AccessSize, value: number): FastDoorbell | undefined {
      const doorbell = offset === 0 && size === 2 && control.legacy ? control.queues.kickDoorbell(value) : undefined;
      return doorbell && { doorbell, match: 'value' };
    },
  };
}
