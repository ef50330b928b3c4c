// The self group's commands (virtio 1.4 2.12.1.2, 2.12.1.3): capabilities and resource objects of the device itself. What they are is the device type's: it hands in a table
// of capabilities and one of object types.

import {
  type AdminData,
  type AdminGroup,
  type AdminOutcome,
  adminBitmap,
  adminDone,
  adminFailed,
  VIRTIO_ADMIN_CMD_LIST_USE,
  VIRTIO_ADMIN_STATUS_ENXIO,
} from './admin.ts';
import { type AdminObjects, OBJECT_OPCODES, type ObjectOpcodes, runObjectCommand } from './admin-objects.ts';

const VIRTIO_ADMIN_GROUP_SELF = 0;

const VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY = 7;
const VIRTIO_ADMIN_CMD_DEVICE_CAP_GET = 8;
const VIRTIO_ADMIN_CMD_DRIVER_CAP_SET = 9;

export interface AdminCapability {
  readonly id: number;
  /** cap_specific_data of the device capability. */
  readonly device: Uint8Array;
  /** DRIVER_CAP_SET. */
  set(data: AdminData): AdminOutcome;
}

const CAPABILITY_DATA = 8;

export class SelfGroup implements AdminGroup {
  readonly type = VIRTIO_ADMIN_GROUP_SELF;
  readonly exists = true;
  readonly opcodes: readonly number[];
  readonly #capabilities: readonly AdminCapability[];
  readonly #objects: readonly AdminObjects[];
  readonly #numbering: ObjectOpcodes;

  constructor(capabilities: readonly AdminCapability[], objects: readonly AdminObjects[], opcodes: ObjectOpcodes = 'table') {
    this.#capabilities = capabilities;
    this.#objects = objects;
    this.#numbering = opcodes;
    this.opcodes = [
      ...(capabilities.length > 0 ? [VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY, VIRTIO_ADMIN_CMD_DEVICE_CAP_GET, VIRTIO_ADMIN_CMD_DRIVER_CAP_SET] : []),
      ...(objects.length > 0 ? OBJECT_OPCODES : []),
    ];
  }

  /** The list commands leave the member id unused; for the others it is 0. */
  hasMember(opcode: number, member: number): boolean {
    return opcode <= VIRTIO_ADMIN_CMD_LIST_USE || member === 0;
  }

  execute(opcode: number, _member: number, data: AdminData): AdminOutcome {
    if (opcode === VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY) return adminDone(adminBitmap(this.#capabilities.map(({ id }) => id)));
    if (!OBJECT_OPCODES.includes(opcode)) {
      const capability = this.#capabilities.find(({ id }) => id === data.u16(0));
      // (device SHOULD): ENXIO for an id that is not in the list.
      if (capability === undefined) return adminFailed(VIRTIO_ADMIN_STATUS_ENXIO);
      return opcode === VIRTIO_ADMIN_CMD_DEVICE_CAP_GET ? adminDone(capability.device) : capability.set(data.from(CAPABILITY_DATA));
    }
    return runObjectCommand(opcode, this.#numbering, this.#objects, data);
  }
}
