// All drivers that do one thing wrong.

import { ADMIN_FAULTS } from './driver-admin.ts';
import type { DriverMutation } from './driver-fault.ts';
import { LEGACY_FAULTS } from './driver-legacy.ts';
import { NET_FAULTS } from './driver-net.ts';
import { RING_FAULTS } from './driver-rings.ts';
import { STARTUP_FAULTS } from './driver-startup.ts';

export const DRIVER_MUTATIONS: readonly DriverMutation[] = [...STARTUP_FAULTS, ...RING_FAULTS, ...NET_FAULTS, ...ADMIN_FAULTS, ...LEGACY_FAULTS];
