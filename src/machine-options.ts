// What a machine is made of and where devices go: options, the default platform, and the errors an embedder can make.

import type { Clock } from '#core/clock';
import type { PlatformDescription } from '#core/guest-bus';
import type { GuestMemory } from '#core/guest-memory';
import type { Iommu } from '#core/iommu';
import type { Log } from '#core/log';
import type { PciFunction } from '#pci/function';
import type { IntxSink, MsiMessage, MsiSink } from '#pci/ports';
import type { VirtioPciOptions } from '#virtio/pci-transport';
import type { MachinePart } from './machine-state.ts';

/**
 * NICBOX_RAM_LAYOUT: RAM lies where devices are. NICBOX_BACKEND_TAKEN: another device has the backend. NICBOX_BUS_FULL: no free device number. NICBOX_CLOSED: the machine was closed. NICBOX_NOT_QUIET: a data plane did not
 * stop in time.
 */
export type MachineErrorCode = 'NICBOX_RAM_LAYOUT' | 'NICBOX_BACKEND_TAKEN' | 'NICBOX_BUS_FULL' | 'NICBOX_CLOSED' | 'NICBOX_NOT_QUIET';

/** An embedder asked for what cannot be; the message says what to do. `code` is stable. */
export class MachineError extends Error {
  readonly code: MachineErrorCode;

  constructor(code: MachineErrorCode, message: string) {
    super(message);
    this.name = 'MachineError';
    this.code = code;
  }
}

/**
 * A host's own interrupt controller. Both are called inside accesses and timers, must not call back into the machine, and may deliver later - but a lowered line must be
 * seen low at once.
 */
export interface HostInterrupts extends MsiSink, IntxSink {
  /** The event descriptor that data planes on other threads may write in place of `message`; their threads need an event writer then (core/interrupts.ts). */
  event?(message: MsiMessage, requester: number): number | undefined;
}

export interface MachineOptions {
  /** For logs. */
  readonly name?: string;
  /** RAM (over buffers of the host's, which it may replace), or bytes of it (a multiple of 4 KiB) to lay out as on a PC. */
  readonly memory: GuestMemory | number;
  /** Default: real time. A host's own: `new HostClock({ now, setTimer })`. */
  readonly clock?: Clock;
  readonly log?: Log;
  /** Puts every function behind this IOMMU. Default: device addresses are guest-physical. */
  readonly iommu?: Iommu;
  /** Whether virtio devices behind the IOMMU insist on ACCESS_PLATFORM unless told otherwise (default true). False: the guest's addresses are what the IOMMU translates anyway. */
  readonly accessPlatform?: boolean;
  /** Takes every interrupt in place of `vectors` and `lines`. */
  readonly interrupts?: HostInterrupts;
  /** Addresses, where they are not a PC's. */
  readonly platform?: Partial<PlatformDescription>;
  /** Message interrupts go to this range. Default: 1 MiB from the platform's `msiAddress`. */
  readonly msiWindow?: { readonly base: number; readonly size: number };
}

/** Addresses as on a PC with the PCIe memory-mapped configuration window (q35-like): RAM below 2 GiB and from 4 GiB, the holes for devices. */
export const PC_PLATFORM: PlatformDescription = {
  ecam: { base: 0xb000_0000, firstBus: 0, lastBus: 255 },
  memory32: { base: 0xc000_0000, size: 0x3e00_0000 },
  memory64: { base: 2 ** 40, size: 2 ** 40 },
  io: { base: 0x1000, size: 0xf000 },
  msiAddress: 0xfee0_0000,
  intxVectors: [0x20, 0x21, 0x22, 0x23],
};
/** Message interrupts go to this many bytes from the platform's `msiAddress`. */
export const MSI_WINDOW_SIZE = 2 ** 20;

export interface DevicePlace {
  /** The port or bridge to put it under; absent: the root bus. */
  readonly under?: PciFunction;
  /** Device number where there are several (default: the first free one). */
  readonly deviceNumber?: number;
  /** What else there is to save of it. */
  readonly part?: MachinePart;
}

export interface VirtioNetPlace extends Omit<VirtioPciOptions, 'device' | 'routing'>, Omit<DevicePlace, 'part'> {}

/** @throws MachineError when RAM lies where devices are. */
export function checkRamLayout(memory: GuestMemory, { ecam, memory32, memory64 }: PlatformDescription): void {
  const low = Math.min(ecam.base, memory32.base);
  for (const { base, size } of memory.slabs) {
    const at = `RAM at 0x${base.toString(16)} reaches into the`;
    if (base < 2 ** 32 && base + size > low)
      throw new MachineError('NICBOX_RAM_LAYOUT', `${at} device range 0x${low.toString(16)}..4 GiB: put it below, or from 4 GiB`);
    if (base < memory64.base + memory64.size && base + size > memory64.base)
      throw new MachineError('NICBOX_RAM_LAYOUT', `${at} 64-bit device range from 0x${memory64.base.toString(16)}: give less, or move \`platform.memory64\``);
  }
}
