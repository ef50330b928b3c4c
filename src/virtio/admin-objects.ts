// Commands on resource objects (virtio 1.4 2.12.1.3), of whichever group has them: the header that says which object, and what is answered for types and objects there are not.

import { type AdminData, type AdminOutcome, adminFailed, adminInvalid, VIRTIO_ADMIN_STATUS_ENXIO } from './admin.ts';

const VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE = 0xa;
const VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY = 0xd;
/** With MODIFY and QUERY between them, in either numbering. */
export const OBJECT_OPCODES: readonly number[] = [VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE, 0xb, 0xc, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY];

/** MODIFY and QUERY have two numberings: the opcode table's (QUERY 0xb, MODIFY 0xc) and that of the commands' own text (the reverse). */
export type ObjectOpcodes = 'table' | 'text';

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

export function runObjectCommand(opcode: number, numbering: ObjectOpcodes, kinds: readonly AdminObjects[], data: AdminData): AdminOutcome {
  const objects = kinds.find(({ type }) => type === data.u16(0));
  const id = data.u32(OBJECT_ID);
  // No object of an unknown type exists; nor can one be made.
  if (objects === undefined) return opcode === VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE ? adminInvalid() : adminFailed(VIRTIO_ADMIN_STATUS_ENXIO);
  if (opcode === VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE) return objects.create(id, data.from(OBJECT_DATA));
  if (opcode === VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY) return objects.destroy(id);
  return opcode === (numbering === 'table' ? 0xc : 0xb) ? objects.modify(id, data.from(OBJECT_DATA)) : objects.query(id);
}
