// The SR-IOV group (virtio 1.4 2.12, group type 1): commands on a PF's virtual functions, members 1 to NumVFs while VF Enable is set - their legacy interface (2.12.1.1), and their state as
// device parts (2.12.1.4). What a member does about it is the member's (pci-member.ts).

import * as admin from './admin.ts';
import { type AdminData, type AdminGroup, type AdminOutcome, adminDone, adminFailed, adminInvalid } from './admin.ts';
import { OBJECT_OPCODES, type ObjectOpcodes, runObjectCommand } from './admin-objects.ts';
import { type DevicePart, decodeParts, decodeSelection, encodeParts, PART_HEADER, selectParts } from './device-parts.ts';
import { type PartObject, PartObjects, VIRTIO_RESOURCE_OBJ_DEV_PARTS } from './part-objects.ts';

const VIRTIO_ADMIN_GROUP_SRIOV = 1;

const VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE = 2;
const VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ = 3;
const VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_WRITE = 4;
const VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ = 5;
const VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO = 6;
const VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET = 0xe;
const VIRTIO_ADMIN_CMD_DEV_PARTS_GET = 0xf;
const VIRTIO_ADMIN_CMD_DEV_PARTS_SET = 0x10;
const VIRTIO_ADMIN_CMD_DEV_MODE_SET = 0x11;

const LEGACY_DATA = 8;
const NOTIFY_ENTRY = 16;
const NOTIFY_ENTRIES = 4;
const NOTIFY_MEMBER = 2;

const OBJECT_HEADER = 8;
const METADATA_SIZE = 0;
const METADATA_COUNT = 1;
const METADATA_LIST = 2;
const METADATA_BYTES = 8;
const GET_SELECTED = 0;
const GET_ALL = 1;
const GET_SELECTION = OBJECT_HEADER + 8;
const MODE_F_STOPPED = 1;

export type LegacyArea = 'common' | 'device';

/** A VF as its PF's commands reach it. 'later': it waits for a reset, or for a data plane that still stops, and is to be asked again. */
export interface AdminMember {
  /** undefined: not one field of the structure. */
  readLegacy(area: LegacyArea, offset: number, length: number): Uint8Array | undefined;
  writeLegacy(area: LegacyArea, offset: number, data: Uint8Array): boolean;
  /** A reset of it is under way. */
  readonly busy: boolean;
  /** Where a legacy driver's notifications may be written. */
  readonly legacyNotify: { readonly bar: number; readonly offset: number };
  /** Its state in order, or as it was set. */
  parts(): readonly DevicePart[] | 'later';
  setParts(parts: readonly DevicePart[]): 'done' | 'running' | 'refused' | 'later';
  setStopped(stopped: boolean): 'done' | 'refused' | 'unreachable' | 'later';
  /** The most that `parts` can come to, headers included. */
  readonly partsBound: number;
}

export interface SriovMembers {
  /** VF Enable. */
  readonly exists: boolean;
  /** NumVFs. */
  readonly count: number;
  /** TotalVFs. */
  readonly most: number;
  /** Member `id`, 1 to `count`; undefined: it could not be made. */
  member(id: number): AdminMember | 'later' | undefined;
  /** Set by the owner's device: told that a member is gone. */
  onGone: ((id: number) => void) | undefined;
}

export interface SriovGroupOptions {
  readonly members: SriovMembers;
  readonly legacy: boolean;
  /** The most bytes that a member's parts come to. */
  readonly partsBound: number;
  readonly opcodes: ObjectOpcodes;
}

export class SriovGroup implements AdminGroup {
  readonly type = VIRTIO_ADMIN_GROUP_SRIOV;
  readonly opcodes: readonly number[];
  readonly longestData: number;
  readonly objects = new PartObjects();
  readonly #members: SriovMembers;
  readonly #numbering: ObjectOpcodes;

  constructor({ members, legacy, partsBound, opcodes }: SriovGroupOptions) {
    this.#members = members;
    this.#numbering = opcodes;
    this.longestData = OBJECT_HEADER + partsBound;
    this.opcodes = [
      ...(legacy ? [2, 3, 4, 5, VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO] : []),
      ...OBJECT_OPCODES,
      VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET,
      VIRTIO_ADMIN_CMD_DEV_PARTS_GET,
      VIRTIO_ADMIN_CMD_DEV_PARTS_SET,
      VIRTIO_ADMIN_CMD_DEV_MODE_SET,
    ];
  }

  get exists(): boolean {
    return this.#members.exists;
  }

  /** The list commands leave the member id unused. */
  hasMember(opcode: number, member: number): boolean {
    return opcode <= admin.VIRTIO_ADMIN_CMD_LIST_USE || (member >= 1 && member <= this.#members.count);
  }

  execute(opcode: number, id: number, data: AdminData, room: number): AdminOutcome | undefined {
    if (OBJECT_OPCODES.includes(opcode)) return runObjectCommand(opcode, this.#numbering, [this.objects.of(id)], data);
    const member = this.#members.member(id);
    if (member === 'later') return undefined;
    if (member === undefined) return adminFailed(admin.VIRTIO_ADMIN_STATUS_ENOMEM, admin.VIRTIO_ADMIN_STATUS_Q_NORESOURCE);
    // A legacy driver's reset is over when its write is: whoever does not wait for that waits here, and the machine's thread does not, access after access.
    if (opcode <= VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ && member.busy) return undefined;
    switch (opcode) {
      case VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE:
        return writeLegacy(member, 'common', data);
      case VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ:
        return readLegacy(member, 'common', data, room);
      case VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_WRITE:
        return writeLegacy(member, 'device', data);
      case VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ:
        return readLegacy(member, 'device', data, room);
      case VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO:
        return adminDone(notifyInfo(member));
      case VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET:
        return this.#object(id, 'get', data) ?? getMetadata(member, data, room);
      case VIRTIO_ADMIN_CMD_DEV_PARTS_GET:
        return this.#object(id, 'get', data) ?? getParts(member, data);
      case VIRTIO_ADMIN_CMD_DEV_PARTS_SET:
        return this.#object(id, 'set', data) ?? setParts(member, data);
      default:
        return setMode(member, data.u8(0));
    }
  }

  /** What is wrong with the object a command names. */
  #object(member: number, kind: PartObject, data: AdminData): AdminOutcome | undefined {
    if (data.u16(0) !== VIRTIO_RESOURCE_OBJ_DEV_PARTS) return adminInvalid();
    const found = this.objects.find(member, data.u32(4));
    if (found === undefined) return adminFailed(admin.VIRTIO_ADMIN_STATUS_ENXIO);
    return found === kind ? undefined : adminInvalid();
  }
}

function writeLegacy(member: AdminMember, area: LegacyArea, data: AdminData): AdminOutcome {
  const length = Math.max(0, data.length - LEGACY_DATA);
  // No field is longer: nothing is copied for one that cannot be.
  if (length > LEGACY_DATA) return adminInvalid();
  return member.writeLegacy(area, data.u8(0), data.bytes(LEGACY_DATA, length)) ? adminDone() : adminInvalid();
}

/** "The length of the data read is simply the length of data": as much as the driver has room for. */
function readLegacy(member: AdminMember, area: LegacyArea, data: AdminData, room: number): AdminOutcome {
  const result = member.readLegacy(area, data.u8(0), room);
  return result === undefined ? adminInvalid() : adminDone(result);
}

/** One entry, in the member's own BAR; the last has flags of zero (device MUST). */
function notifyInfo({ legacyNotify }: AdminMember): Uint8Array {
  const result = new Uint8Array(NOTIFY_ENTRY * NOTIFY_ENTRIES);
  result[0] = NOTIFY_MEMBER;
  result[1] = legacyNotify.bar;
  new DataView(result.buffer).setUint32(8, legacyNotify.offset, true);
  return result;
}

function getMetadata(member: AdminMember, data: AdminData, room: number): AdminOutcome | undefined {
  const type = data.u8(OBJECT_HEADER);
  if (type !== METADATA_SIZE && type !== METADATA_COUNT && type !== METADATA_LIST) return adminInvalid();
  const parts = member.parts();
  if (parts === 'later') return undefined;
  const result = type === METADATA_LIST ? encodeParts(parts, 'headers', METADATA_BYTES) : new Uint8Array(METADATA_BYTES);
  // 2.12.1.4.3.1: this command says so, where others cut their answer.
  if (result.length > room) return adminFailed(admin.VIRTIO_ADMIN_STATUS_ENOMEM);
  new DataView(result.buffer).setUint32(0, type === METADATA_SIZE ? member.partsBound : parts.length, true);
  return adminDone(result);
}

function getParts(member: AdminMember, data: AdminData): AdminOutcome | undefined {
  const type = data.u8(OBJECT_HEADER);
  if (type !== GET_SELECTED && type !== GET_ALL) return adminInvalid();
  const parts = member.parts();
  if (parts === 'later') return undefined;
  return adminDone(encodeParts(type === GET_ALL ? parts : selectParts(parts, decodeSelection(data, GET_SELECTION)), 'whole'));
}

function setParts(member: AdminMember, data: AdminData): AdminOutcome | undefined {
  const parts = decodeParts(data.from(OBJECT_HEADER));
  if (parts === undefined) return adminInvalid();
  const set = member.setParts(parts);
  if (set === 'later') return undefined;
  if (set === 'running') return adminFailed(admin.VIRTIO_ADMIN_STATUS_EBUSY);
  return set === 'done' ? adminDone() : adminInvalid();
}

function setMode(member: AdminMember, flags: number): AdminOutcome | undefined {
  if ((flags & ~MODE_F_STOPPED) !== 0) return adminInvalid();
  const set = member.setStopped((flags & MODE_F_STOPPED) !== 0);
  if (set === 'later') return undefined;
  if (set === 'unreachable') return adminFailed(admin.VIRTIO_ADMIN_STATUS_EAGAIN, admin.VIRTIO_ADMIN_STATUS_Q_TRYAGAIN);
  return set === 'done' ? adminDone() : adminInvalid();
}

/** For `partsBound`: `parts` headers and the bytes of their values. */
export function partsBound(parts: number, bytes: number): number {
  return parts * PART_HEADER + bytes;
}
