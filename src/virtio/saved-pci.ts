// Checks of the PCI transport's saved registers.

import { RestoreError } from '#core/saved';
import type { InterruptState } from './pci-interrupts.ts';
import { VIRTIO_ISR_CONFIG, VIRTIO_ISR_QUEUE, VIRTIO_MSI_NO_VECTOR } from './pci-layout.ts';
import { type ControlState, savedInteger, savedIntegers, savedRecord } from './saved-control.ts';

export const PCI_STATE_VERSION = 3;

export interface PciState {
  readonly control: ControlState;
  readonly interrupts: InterruptState;
  readonly selectors: { readonly deviceFeature: number; readonly driverFeature: number; readonly queue: number };
  /** queue_select of the legacy interface; 0 without. */
  readonly legacyQueue: number;
  /** What the owner of its group has set of it, to be in force when it goes on; null: nothing. */
  readonly staged: PciState | null;
}

/** `control` is checked by the control plane. @throws RestoreError */
export function checkPciState(saved: unknown, queueCount: number, vectors: number): PciState {
  const state = savedRecord(saved, 'transport');
  const interrupts = savedRecord(state.interrupts, 'interrupt state');
  const selectors = savedRecord(state.selectors, 'selectors');
  const vector = (value: number): number => {
    if (value >= vectors && value !== VIRTIO_MSI_NO_VECTOR) throw new RestoreError(`saved vector ${value} is past the ${vectors} there are`);
    return value;
  };
  return {
    staged: state.staged === null ? null : checkStaged(state.staged, queueCount, vectors),
    legacyQueue: savedInteger(state.legacyQueue, 0xffff, 'selector'),
    control: state.control as ControlState,
    interrupts: {
      isr: savedInteger(interrupts.isr, VIRTIO_ISR_QUEUE | VIRTIO_ISR_CONFIG, 'ISR status'),
      configVector: vector(savedInteger(interrupts.configVector, 0xffff, 'configuration vector')),
      queueVectors: savedIntegers(interrupts.queueVectors, queueCount, 0xffff, 'queue vectors').map(vector),
    },
    selectors: {
      deviceFeature: savedInteger(selectors.deviceFeature, 0xffffffff, 'selector'),
      driverFeature: savedInteger(selectors.driverFeature, 0xffffffff, 'selector'),
      queue: savedInteger(selectors.queue, 0xffff, 'selector'),
    },
  };
}

function checkStaged(saved: unknown, queueCount: number, vectors: number): PciState {
  if (savedRecord(saved, 'staged state').staged !== null) throw new RestoreError('saved staged state has one of its own');
  return checkPciState(saved, queueCount, vectors);
}
