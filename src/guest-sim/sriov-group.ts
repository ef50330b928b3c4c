// The SR-IOV group's commands as a physical function's driver uses them (virtio 1.4 2.13, 2.14): stopping a member, taking its parts and setting them in another, and a legacy driver's
// accesses on behalf of a member. Member identifiers are VF numbers, from 1; the group is there while VF Enable is set. What the device reports is checked before it is used.

import { ADMIN_GROUP, ADMIN_OPCODE, ADMIN_STATUS, type AdminAnswer, type AdminQueue, type GroupMember, objectHeader } from './admin-queue.ts';
import { VirtioError } from './virtio-pci.ts';

const DEV_PARTS_CAP = 0;
const DEV_PARTS_OBJECT = 0;
const OBJECT_TYPE = { GET: 0, SET: 1 } as const;
const METADATA = { SIZE: 0, COUNT: 1, LIST: 2 } as const;
const GET_SELECTED = 0;
const GET_ALL = 1;
const MODE_STOPPED = 1;
const PART_HEADER = 16;
const PART_OPTIONAL = 1;
const NOTIFY_ENTRY = 16;
const NOTIFY_ENTRIES = 4;
const NOTIFY_OWNER = 1;
const NOTIFY_MEMBER = 2;
/** Most bytes of parts this driver takes. */
const MOST_BYTES = 65000;

export const DEV_PART = {
  DEV_FEATURES: 0x100,
  DRV_FEATURES: 0x101,
  PCI_COMMON_CFG: 0x102,
  DEVICE_STATUS: 0x103,
  VQ_CFG: 0x104,
  VQ_NOTIFY_CFG: 0x105,
  NET_CVQ_CFG: 0x200,
} as const;

/** virtio 1.4 2.12: one part of a device's state. */
export interface DevicePart {
  /** DEV_PART. */
  readonly type: number;
  readonly optional: boolean;
  /** Eight bytes: a field's offset, a virtqueue's index, or what the type of device says. */
  readonly selector: Uint8Array;
  readonly value: Uint8Array;
}

/** Where a member's legacy driver may notify without a command. */
export interface NotifyAddress {
  readonly of: 'owner' | 'member';
  readonly bar: number;
  readonly offset: number;
}

/** Which commands a group has is the same for all of its members. */
export class SriovGroup {
  readonly commands: ReadonlySet<number>;
  readonly #admin: AdminQueue;

  private constructor(admin: AdminQueue, commands: ReadonlySet<number>) {
    this.#admin = admin;
    this.commands = commands;
  }

  /** With VFs enabled. Undefined when the device has no such group, or no commands for it. @throws VirtioError */
  static open(admin: AdminQueue): SriovGroup | undefined {
    // Capabilities are the owner's own affair: the limit of parts objects is said before any is made.
    if (admin.useAll()?.has(ADMIN_OPCODE.DRIVER_CAP_SET) && admin.capabilities().has(DEV_PARTS_CAP)) {
      const limits = admin.deviceCapability(DEV_PARTS_CAP, 2);
      if (limits) admin.setDriverCapability(DEV_PARTS_CAP, limits);
    }
    const { LEGACY_COMMON_CFG_WRITE, LEGACY_COMMON_CFG_READ, LEGACY_DEV_CFG_WRITE, LEGACY_DEV_CFG_READ, LEGACY_NOTIFY_INFO } = ADMIN_OPCODE;
    const { DEV_PARTS_METADATA_GET, DEV_PARTS_GET, DEV_PARTS_SET, DEV_MODE_SET } = ADMIN_OPCODE;
    const legacy = [LEGACY_COMMON_CFG_WRITE, LEGACY_COMMON_CFG_READ, LEGACY_DEV_CFG_WRITE, LEGACY_DEV_CFG_READ, LEGACY_NOTIFY_INFO];
    const parts = [DEV_PARTS_METADATA_GET, DEV_PARTS_GET, DEV_PARTS_SET, DEV_MODE_SET, ...admin.objectCommands];
    const used = admin.use([...legacy, ...parts], ADMIN_GROUP.SRIOV);
    return used && used.size > 2 ? new SriovGroup(admin, used) : undefined;
  }

  /** Stops a member: when this returns it neither reads nor writes its driver's memory, and tells it nothing. @throws VirtioError */
  stop(member: number): void {
    this.#mode(member, MODE_STOPPED);
  }

  /** @throws VirtioError */
  resume(member: number): void {
    this.#mode(member, 0);
  }

  #mode(member: number, flags: number): void {
    this.#must(this.#command(member, ADMIN_OPCODE.DEV_MODE_SET, Uint8Array.of(flags)), `mode ${flags}`, member);
  }

  /** How many parts a member says it has, by their headers. @throws VirtioError */
  partHeaders(member: number): DevicePart[] {
    return this.#withObject(member, OBJECT_TYPE.GET, () => {
      const count = this.#metadata(member, METADATA.COUNT, 8);
      const room = 8 + count * PART_HEADER;
      if (room > MOST_BYTES) throw new VirtioError('ERR_VIRTIO_ADMIN', `VF ${member} says that it has ${count} parts`);
      const answer = this.#must(this.#command(member, ADMIN_OPCODE.DEV_PARTS_METADATA_GET, request(METADATA.LIST), room), 'a list of parts', member);
      const listed = u32(answer.result, 0);
      if (listed > count) throw new VirtioError('ERR_VIRTIO_ADMIN', `VF ${member} lists ${listed} parts where it said ${count}`);
      return Array.from({ length: listed }, (_, i) => header(answer.result, 8 + i * PART_HEADER));
    });
  }

  #metadata(member: number, type: number, room: number): number {
    return u32(this.#must(this.#command(member, ADMIN_OPCODE.DEV_PARTS_METADATA_GET, request(type), room), 'metadata', member).result, 0);
  }

  /** A member's parts, all or those with these headers, in the order the device gives them. @throws VirtioError */
  parts(member: number, selected?: readonly DevicePart[]): DevicePart[] {
    return this.#withObject(member, OBJECT_TYPE.GET, () => {
      const size = this.#metadata(member, METADATA.SIZE, 8);
      if (size > MOST_BYTES) throw new VirtioError('ERR_VIRTIO_ADMIN', `VF ${member} says that its parts are ${size} bytes`);
      const data = selected === undefined ? request(GET_ALL) : join(request(GET_SELECTED), ...selected.map((part) => headerOf(part)));
      return decodeParts(this.#must(this.#command(member, ADMIN_OPCODE.DEV_PARTS_GET, data, size), 'its parts', member).result);
    });
  }

  /** Gives a stopped member these parts, which are in force once it is resumed. @throws VirtioError */
  setParts(member: number, parts: readonly DevicePart[]): void {
    this.#withObject(member, OBJECT_TYPE.SET, () => {
      const data = join(objectHeader(DEV_PARTS_OBJECT, 0), ...parts.map((part) => join(headerOf(part), part.value)));
      this.#must(this.#command(member, ADMIN_OPCODE.DEV_PARTS_SET, data), 'parts', member);
    });
  }

  #withObject<T>(member: number, type: number, work: () => T): T {
    const whose: GroupMember = { group: ADMIN_GROUP.SRIOV, member };
    const value = Uint8Array.of(type, 0, 0, 0, 0, 0, 0, 0);
    this.#must(this.#admin.createObject(DEV_PARTS_OBJECT, 0, value, whose), 'a device parts object', member);
    try {
      return work();
    } finally {
      this.#admin.destroyObject(DEV_PARTS_OBJECT, 0, whose);
    }
  }

  // ---- a legacy driver's accesses, 2.14.1.1 ----

  /** A field: 1, 2 or 4 bytes, little-endian on the way (driver MUST). @throws VirtioError */
  legacyRead(member: number, where: 'common' | 'device', offset: number, size: 1 | 2 | 4): number {
    const opcode = where === 'common' ? ADMIN_OPCODE.LEGACY_COMMON_CFG_READ : ADMIN_OPCODE.LEGACY_DEV_CFG_READ;
    return u32(this.#must(this.#access(member, opcode, legacyAccess(offset), size), `${size} bytes at ${offset}`, member).result, 0);
  }

  /** @throws VirtioError */
  legacyWrite(member: number, where: 'common' | 'device', offset: number, size: 1 | 2 | 4, value: number): void {
    const opcode = where === 'common' ? ADMIN_OPCODE.LEGACY_COMMON_CFG_WRITE : ADMIN_OPCODE.LEGACY_DEV_CFG_WRITE;
    const bytes = Uint8Array.of(value, value >>> 8, value >>> 16, value >>> 24).subarray(0, size);
    this.#must(this.#access(member, opcode, join(legacyAccess(offset), bytes)), `a write at ${offset}`, member);
  }

  #access(member: number, opcode: number, data: Uint8Array, room = 0): AdminAnswer {
    return this.#admin.command({ opcode, data, room, exact: true, group: ADMIN_GROUP.SRIOV, member });
  }

  /** Best first. 2.14.1.1 (driver MUST): what follows the end of the list is ignored, and so is any entry that makes no sense. @param barSizes of the owner and of the member, by number; 0: none */
  notifyAddresses(member: number, barSizes: { readonly owner: readonly number[]; readonly member: readonly number[] }): NotifyAddress[] {
    const { result } = this.#must(
      this.#command(member, ADMIN_OPCODE.LEGACY_NOTIFY_INFO, new Uint8Array(0), NOTIFY_ENTRY * NOTIFY_ENTRIES),
      'notification addresses',
      member,
    );
    const found: NotifyAddress[] = [];
    for (let i = 0; i < NOTIFY_ENTRIES; i++) {
      const at = i * NOTIFY_ENTRY;
      const flags = result[at] as number;
      if (flags === 0) break;
      if (flags !== NOTIFY_OWNER && flags !== NOTIFY_MEMBER) continue;
      const of = flags === NOTIFY_OWNER ? 'owner' : 'member';
      const bar = result[at + 1] as number;
      const offset = u32(result, at + 8) + u32(result, at + 12) * 2 ** 32;
      if (bar >= 1 && bar <= 5 && offset % 2 === 0 && offset + 2 <= (barSizes[of][bar] ?? 0)) found.push({ of, bar, offset });
    }
    return found;
  }

  #command(member: number, opcode: number, data: Uint8Array, room = 0): AdminAnswer {
    return this.#admin.command({ opcode, data, room, group: ADMIN_GROUP.SRIOV, member });
  }

  #must(answer: AdminAnswer, what: string, member: number): AdminAnswer {
    if (answer.status === ADMIN_STATUS.OK) return answer;
    throw new VirtioError('ERR_VIRTIO_ADMIN', `VF ${member}: ${what}: status ${answer.status}, qualifier ${answer.qualifier}`);
  }
}

/** offset, and seven reserved bytes. */
const legacyAccess = (offset: number): Uint8Array => Uint8Array.of(offset, 0, 0, 0, 0, 0, 0, 0);

/** The object's header, and which kind of answer is wanted. */
function request(type: number): Uint8Array {
  return Uint8Array.from([...objectHeader(DEV_PARTS_OBJECT, 0), type, 0, 0, 0, 0, 0, 0, 0]);
}

function join(...pieces: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

function u32(bytes: Uint8Array, at: number): number {
  return (((bytes[at + 3] ?? 0) << 24) | ((bytes[at + 2] ?? 0) << 16) | ((bytes[at + 1] ?? 0) << 8) | (bytes[at] ?? 0)) >>> 0;
}

function headerOf(part: DevicePart): Uint8Array {
  const bytes = new Uint8Array(PART_HEADER);
  bytes[0] = part.type;
  bytes[1] = part.type >>> 8;
  bytes[2] = part.optional ? PART_OPTIONAL : 0;
  bytes.set(part.selector, 4);
  new DataView(bytes.buffer).setUint32(12, part.value.length, true);
  return bytes;
}

/** A header that says how long the value is, which is not there: as many zeros. */
function header(bytes: Uint8Array, at: number): DevicePart {
  const length = u32(bytes, at + 12);
  if (length > MOST_BYTES) throw new VirtioError('ERR_VIRTIO_ADMIN', `a device part of ${length} bytes`);
  return {
    type: (bytes[at] as number) | ((bytes[at + 1] as number) << 8),
    optional: ((bytes[at + 2] as number) & PART_OPTIONAL) !== 0,
    selector: bytes.slice(at + 4, at + 12),
    value: new Uint8Array(length),
  };
}

/** Parts one after the other; zeros end them. */
function decodeParts(bytes: Uint8Array): DevicePart[] {
  const parts: DevicePart[] = [];
  for (let at = 0; at + PART_HEADER <= bytes.length; ) {
    const part = header(bytes, at);
    if (part.type === 0) break;
    at += PART_HEADER;
    if (at + part.value.length > bytes.length) throw new VirtioError('ERR_VIRTIO_ADMIN', `device part ${part.type.toString(16)} is cut short`);
    part.value.set(bytes.subarray(at, at + part.value.length));
    parts.push(part);
    at += part.value.length;
  }
  return parts;
}
