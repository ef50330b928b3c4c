// The part of the configuration header that every function has: ids, command, status, interrupt pin. PCIe 4.0 7.5.1.1; for VFs, which have little of it,
// PCIe 4.0 9.3.4.1. BARs are bars.ts, what bridges add is bridge-registers.ts.

import { EFFECT_DECODE, EFFECT_INTERRUPTS, EFFECT_MASTERING, EFFECT_NONE } from './capability.ts';
import type { ConfigSpace } from './config-space.ts';
import type { PciIdentity } from './function.ts';

export const COMMAND = 4;
export const COMMAND_IO = 1;
export const COMMAND_MEMORY = 2;
export const COMMAND_MASTER = 4;
export const COMMAND_INTX_DISABLE = 0x400;
const COMMAND_PARITY = 0x40;
const COMMAND_SERR = 0x100;
export const STATUS_INTERRUPT = 8;
export const STATUS_CAPABILITIES = 0x10;
const STATUS_ERRORS = 0xf900;
export const HEADER_MULTI_FUNCTION = 0x80;

export interface HeaderShape {
  readonly express: boolean;
  readonly isBridge: boolean;
  readonly virtual: boolean;
  readonly hasIo: boolean;
  readonly hasMemory: boolean;
}

export function installHeader(config: ConfigSpace, identity: PciIdentity, { express, isBridge, virtual, hasIo, hasMemory }: HeaderShape): void {
  config.set16(0, virtual ? 0xffff : identity.vendorId);
  config.set16(2, virtual ? 0xffff : identity.deviceId);
  config.set8(8, identity.revision ?? 0);
  config.set8(9, identity.classCode);
  config.set16(10, identity.classCode >>> 8);
  config.set8(14, isBridge ? 1 : 0);
  config.permitClear(6, 2, STATUS_ERRORS);
  if (!isBridge) {
    config.set16(0x2c, identity.subsystemVendorId ?? (virtual ? 0 : identity.vendorId));
    config.set16(0x2e, identity.subsystemId ?? 0);
  }
  if (virtual) {
    // PCIe 4.0 9.3.4.1.3: of a VF's Command register only Bus Master Enable is its own; the PF's VF MSE governs memory.
    config.permitWrite(COMMAND, 2, COMMAND_MASTER);
    return;
  }
  const pin = identity.interruptPin ?? 0;
  const command =
    COMMAND_MASTER |
    COMMAND_PARITY |
    COMMAND_SERR |
    (isBridge || hasIo ? COMMAND_IO : 0) |
    (isBridge || hasMemory ? COMMAND_MEMORY : 0) |
    (isBridge || pin !== 0 ? COMMAND_INTX_DISABLE : 0);
  config.permitWrite(COMMAND, 2, command);
  // Cache line size and interrupt line are storage for software; the latency timer only counts on a conventional bus.
  config.permitWrite(12, 1, 0xff);
  if (!express) config.permitWrite(13, 1, 0xf8);
  config.permitWrite(0x3c, 1, 0xff);
  config.set8(0x3d, pin);
}

/** Effects of Command bits that changed. */
export function commandEffects(changed: number): number {
  let effects = EFFECT_NONE;
  if ((changed & (COMMAND_IO | COMMAND_MEMORY)) !== 0) effects |= EFFECT_DECODE;
  if ((changed & COMMAND_MASTER) !== 0) effects |= EFFECT_MASTERING;
  if ((changed & COMMAND_INTX_DISABLE) !== 0) effects |= EFFECT_INTERRUPTS;
  return effects;
}
