// The self group's commands (virtio 1.4 2.12.1.2, 2.12.1.3): capabilities and resource objects of the device itself. What they are is the device type's: it hands in a table
// of capabilities and one of object types.

import {
  type AdminData,
  type AdminGroup,
  type AdminOutcome,
  adminBitmap,
  adminDone,
  adminFailed,
  adminInvalid,
  VIRTIO_ADMIN_CMD_LIST_USE,
  VIRTIO_ADMIN_STATUS_ENXIO,
} from './admin.ts';

const VIRTIO_ADMIN_GROUP_SELF = 0;

const VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY = 7;
const VIRTIO_ADMIN_CMD_DEVICE_CAP_GET = 8;
const VIRTIO_ADMIN_CMD_DRIVER_CAP_SET = 9;
const VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE = 0xa;
const VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY = 0xd;

/** MODIFY and QUERY have two numberings: the opcode table's (QUERY 0xb, MODIFY 0xc) and that of the commands' own text (the reverse). */
export type ObjectOpcodes = 'table' | 'text';

export interface AdminCapability {
  readonly id: number;
  /** cap_specific_data of the device capability. */
  readonly device: Uint8Array;
  /** DRIVER_CAP_SET. */
  set(data: AdminData): AdminOutcome;
}

/** Objects of one type. The data is resource_obj_specific_data. */
export interface AdminObjects {
  readonly type: number;
  create(id: number, data: AdminData): AdminOutcome;
  modify(id: number, data: AdminData): AdminOutcome;
  query(id: number): AdminOutcome;
  destroy(id: number): AdminOutcome;
}

const OBJECT_ID = 4;
const OBJECT_DATA = 16;
const CAPABILITY_DATA = 8;

export class SelfGroup implements AdminGroup {
  readonly type = VIRTIO_ADMIN_GROUP_SELF;
  readonly exists = true;
  readonly opcodes: readonly number[];
  readonly #capabilities: readonly AdminCapability[];
  readonly #objects: readonly AdminObjects[];
  readonly #modify: number;

  constructor(capabilities: readonly AdminCapability[], objects: readonly AdminObjects[], opcodes: ObjectOpcodes = 'table') {
    this.#capabilities = capabilities;
    this.#objects = objects;
    this.#modify = opcodes === 'table' ? 0xc : 0xb;
    this.opcodes = [
      ...(capabilities.length > 0 ? [VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY, VIRTIO_ADMIN_CMD_DEVICE_CAP_GET, VIRTIO_ADMIN_CMD_DRIVER_CAP_SET] : []),
      ...(objects.length > 0 ? [VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE, 0xb, 0xc, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY] : []),
    ];
  }

  /** The list commands leave the member id unused; for the others it is 0. */
  hasMember(opcode: number, member: number): boolean {
    return opcode <= VIRTIO_ADMIN_CMD_LIST_USE || member === 0;
  }

  execute(opcode: number, _member: number, data: AdminData): AdminOutcome {
    if (opcode === VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY) return adminDone(adminBitmap(this.#capabilities.map(({ id }) => id)));
    if (opcode < VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE) {
      const capability = this.#capabilities.find(({ id }) => id === data.u16(0));
      // (device SHOULD): ENXIO for an id that is not in the list.
      if (capability === undefined) return adminFailed(VIRTIO_ADMIN_STATUS_ENXIO);
      return opcode === VIRTIO_ADMIN_CMD_DEVICE_CAP_GET ? adminDone(capability.device) : capability.set(data.from(CAPABILITY_DATA));
    }
    const objects = this.#objects.find(({ type }) => type === data.u16(0));
    const id = data.u32(OBJECT_ID);
    // No object of an unknown type exists; nor can one be made.
    if (objects === undefined) return opcode === VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE ? adminInvalid() : adminFailed(VIRTIO_ADMIN_STATUS_ENXIO);
    if (opcode === VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE) return objects.create(id, data.from(OBJECT_DATA));
    if (opcode === VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY) return objects.destroy(id);
    return opcode === this.#modify ? objects.modify(id, data.from(OBJECT_DATA)) : objects.query(id);
  }
}
