// An administration virtqueue's driver side (virtio 1.4 2.13, 2.14): one command at a time, its answer waited for; which commands there are, capabilities and
// resource objects of the device itself (the self group). What a device leaves unwritten counts as zero.

import type { GuestArena } from './arena.ts';
import type { DriverRing } from './ring.ts';
import { pollUntil, type QueueKick, VirtioError } from './virtio-pci.ts';

export const ADMIN_OPCODE = {
  LIST_QUERY: 0,
  LIST_USE: 1,
  LEGACY_COMMON_CFG_WRITE: 2,
  LEGACY_COMMON_CFG_READ: 3,
  LEGACY_DEV_CFG_WRITE: 4,
  LEGACY_DEV_CFG_READ: 5,
  LEGACY_NOTIFY_INFO: 6,
  CAP_ID_LIST_QUERY: 7,
  DEVICE_CAP_GET: 8,
  DRIVER_CAP_SET: 9,
  RESOURCE_OBJ_CREATE: 0xa,
  RESOURCE_OBJ_DESTROY: 0xd,
  DEV_PARTS_METADATA_GET: 0xe,
  DEV_PARTS_GET: 0xf,
  DEV_PARTS_SET: 0x10,
  DEV_MODE_SET: 0x11,
} as const;

/** The table of opcodes and the text on the two commands number them the other way round; the table is the default. */
const OBJECT_OPCODES = { table: { modify: 0xc, query: 0xb }, text: { modify: 0xb, query: 0xc } } as const;

export const ADMIN_STATUS = { OK: 0, ENXIO: 6, EAGAIN: 11, ENOMEM: 12, EBUSY: 16, EEXIST: 17, EINVAL: 22, ENOSPC: 28 } as const;
export const ADMIN_GROUP = { SELF: 0, SRIOV: 1 } as const;

const READABLE_HEADER = 24;
const WRITABLE_HEADER = 8;
/** Device parts of a member with many queues are the longest: 72 bytes a queue. */
const ROOM = 65536;
const RETRIES = 100;
/** Capability identifiers end below this. */
const CAPABILITY_IDS = 0x1000;
const OPCODES = 128;
const NOTHING = new Uint8Array(0);

export interface AdminAnswer {
  /** ADMIN_STATUS, or another number, which counts as EINVAL. */
  readonly status: number;
  readonly qualifier: number;
  /** As long as was asked for: zeros where the device wrote nothing. */
  readonly result: Uint8Array;
}

/** Whom a command is about: the device itself, or a member of a group it owns. */
export interface GroupMember {
  /** ADMIN_GROUP. Default SELF. */
  readonly group?: number;
  readonly member?: number;
}

const SELF: GroupMember = {};

export interface AdminCommand extends GroupMember {
  readonly opcode: number;
  readonly data?: Uint8Array;
  /** Bytes of result wanted. Default 0. */
  readonly room?: number;
  /** Neither part is filled up: a legacy access is as long as its buffer, although 2.14.2 wants multiples of 8 bytes. */
  readonly exact?: boolean;
}

export class AdminQueue {
  readonly ring: DriverRing;
  kick: QueueKick | undefined;
  broken = '';
  /** Called between looks at an answer that takes its time: a driver on the machine's thread lets the machine get on with it. */
  whileWaiting: (() => void) | undefined;
  /** The device is suspended: no command may be sent. */
  held = false;
  readonly #arena: GuestArena;
  readonly #at: number;
  readonly #objects: { readonly modify: number; readonly query: number };
  readonly #offsets = new Int32Array(2);
  readonly #lengths = new Int32Array(2);
  readonly #tokens = new Int32Array(1);
  readonly #written = new Int32Array(1);

  constructor(arena: GuestArena, ring: DriverRing, objectOpcodes: 'table' | 'text' = 'table') {
    this.#arena = arena;
    this.ring = ring;
    this.#objects = OBJECT_OPCODES[objectOpcodes];
    this.#at = arena.allocate(2 * ROOM, 64);
  }

  /** Sends a command; EAGAIN is tried again a while. @throws VirtioError when the device does not answer or breaks the ring, RangeError for one too long. */
  command(command: AdminCommand): AdminAnswer {
    for (let tries = 1; ; tries++) {
      const answer = this.#once(command);
      if (answer.status !== ADMIN_STATUS.EAGAIN || tries === RETRIES) return answer;
    }
  }

  #once({ opcode, data = NOTHING, room = 0, group = ADMIN_GROUP.SELF, member = 0, exact = false }: AdminCommand): AdminAnswer {
    if (this.broken !== '') throw new VirtioError('ERR_VIRTIO_ADMIN', this.broken);
    if (this.held) throw new VirtioError('ERR_VIRTIO_SUSPENDED', 'a suspended device takes no command: resume it first');
    // virtio 1.4 2.14.2 (driver MUST): both parts are multiples of 8 bytes.
    const unit = exact ? 1 : 8;
    const readable = Math.ceil((READABLE_HEADER + data.length) / unit) * unit;
    const writable = Math.ceil((WRITABLE_HEADER + room) / unit) * unit;
    if (readable > ROOM || writable > ROOM)
      throw new RangeError(`an administration command of ${data.length} bytes for ${room} is longer than there is room for`);
    const { u8 } = this.#arena;
    const answer = this.#at + ROOM;
    u8.fill(0, this.#at, this.#at + readable);
    u8.fill(0, answer, answer + writable);
    const view = new DataView(u8.buffer, u8.byteOffset + this.#at, readable);
    view.setUint16(0, opcode, true);
    view.setUint16(2, group, true);
    view.setUint32(16, member, true);
    u8.set(data, this.#at + READABLE_HEADER);
    this.#offsets[0] = this.#at;
    this.#lengths[0] = readable;
    this.#offsets[1] = answer;
    this.#lengths[1] = writable;
    if (!this.ring.addList(this.#offsets, this.#lengths, 1, 1, 0)) return this.#fail('has no room for a command');
    if (this.ring.publish()) this.kick?.ring(this.ring.notificationData);
    const answered = pollUntil(() => {
      if (this.ring.harvest(this.#tokens, this.#written, 1) === 1 || this.ring.broken !== '') return true;
      this.whileWaiting?.();
      return false;
    });
    if (this.ring.broken !== '') return this.#fail(this.ring.broken);
    if (!answered) return this.#fail(`did not answer opcode ${opcode}`);
    const used = this.#written[0] as number;
    const bytes = new Uint8Array(WRITABLE_HEADER + room);
    bytes.set(u8.subarray(answer, answer + Math.min(used, bytes.length)));
    if (used < 4) return this.#fail(`answered opcode ${opcode} with ${used} bytes, less than a status`);
    const reply = new DataView(bytes.buffer);
    return { status: reply.getUint16(0, true), qualifier: reply.getUint16(2, true), result: bytes.subarray(WRITABLE_HEADER) };
  }

  #fail(why: string): never {
    this.broken = `administration queue: ${why}`;
    throw new VirtioError('ERR_VIRTIO_ADMIN', this.broken);
  }

  /** Opcodes the device has for a group; undefined when it has no such group. */
  commands(group: number = ADMIN_GROUP.SELF): Set<number> | undefined {
    const { status, result } = this.command({ opcode: ADMIN_OPCODE.LIST_QUERY, room: OPCODES / 8, group });
    return status === ADMIN_STATUS.OK ? bits(result) : undefined;
  }

  /** Says which commands will be used: those of `wanted` that the device has, and the list commands. Returns them, or undefined when it refused. */
  use(wanted: readonly number[], group: number = ADMIN_GROUP.SELF): Set<number> | undefined {
    const known = this.commands(group);
    if (!known) return undefined;
    // virtio 1.4 2.13.1.2 (driver MUST NOT): none that was not reported.
    const used = new Set([ADMIN_OPCODE.LIST_QUERY, ADMIN_OPCODE.LIST_USE, ...wanted].filter((opcode) => known.has(opcode)));
    const data = new Uint8Array(OPCODES / 8);
    for (const opcode of used) data[opcode >>> 3] = (data[opcode >>> 3] as number) | (1 << (opcode & 7));
    return this.command({ opcode: ADMIN_OPCODE.LIST_USE, data, group }).status === ADMIN_STATUS.OK ? used : undefined;
  }

  /** Every command this driver knows: capabilities and objects. */
  useAll(): Set<number> | undefined {
    return this.use([ADMIN_OPCODE.CAP_ID_LIST_QUERY, ADMIN_OPCODE.DEVICE_CAP_GET, ADMIN_OPCODE.DRIVER_CAP_SET, ...this.objectCommands]);
  }

  /** Opcodes of the commands on resource objects. */
  get objectCommands(): readonly number[] {
    return [ADMIN_OPCODE.RESOURCE_OBJ_CREATE, this.#objects.modify, this.#objects.query, ADMIN_OPCODE.RESOURCE_OBJ_DESTROY];
  }

  /** Identifiers of the capabilities the device has. */
  capabilities(): Set<number> {
    const { status, result } = this.command({ opcode: ADMIN_OPCODE.CAP_ID_LIST_QUERY, room: CAPABILITY_IDS / 8 });
    return status === ADMIN_STATUS.OK ? bits(result) : new Set();
  }

  /** What the device says of a capability, `room` bytes of it; undefined when it has none. */
  deviceCapability(id: number, room: number): Uint8Array | undefined {
    const { status, result } = this.command({ opcode: ADMIN_OPCODE.DEVICE_CAP_GET, data: Uint8Array.of(id & 0xff, id >>> 8, 0, 0, 0, 0, 0, 0), room });
    return status === ADMIN_STATUS.OK ? result : undefined;
  }

  /** Says what of a capability the driver uses; its status. */
  setDriverCapability(id: number, value: Uint8Array): number {
    const data = new Uint8Array(8 + value.length);
    data[0] = id;
    data[1] = id >>> 8;
    data.set(value, 8);
    return this.command({ opcode: ADMIN_OPCODE.DRIVER_CAP_SET, data }).status;
  }

  createObject(type: number, id: number, value: Uint8Array, whose: GroupMember = SELF): AdminAnswer {
    return this.command({ opcode: ADMIN_OPCODE.RESOURCE_OBJ_CREATE, data: objectCommand(type, id, value), ...whose });
  }

  modifyObject(type: number, id: number, value: Uint8Array): AdminAnswer {
    return this.command({ opcode: this.#objects.modify, data: objectCommand(type, id, value) });
  }

  /** The first `room` bytes of an object as the device keeps it. */
  queryObject(type: number, id: number, room: number): AdminAnswer {
    return this.command({ opcode: this.#objects.query, data: objectCommand(type, id, NOTHING), room });
  }

  destroyObject(type: number, id: number, whose: GroupMember = SELF): AdminAnswer {
    return this.command({ opcode: ADMIN_OPCODE.RESOURCE_OBJ_DESTROY, data: objectHeader(type, id), ...whose });
  }

  dispose(): void {
    this.ring.dispose();
    this.#arena.free(this.#at);
  }
}

/** What every command on a resource object begins with. */
export function objectHeader(type: number, id: number): Uint8Array {
  const data = new Uint8Array(8);
  const view = new DataView(data.buffer);
  view.setUint16(0, type, true);
  view.setUint32(4, id, true);
  return data;
}

/** That header, flags of zero, and what the type defines. */
function objectCommand(type: number, id: number, value: Uint8Array): Uint8Array {
  return Uint8Array.from([...objectHeader(type, id), 0, 0, 0, 0, 0, 0, 0, 0, ...value]);
}

function bits(bytes: Uint8Array): Set<number> {
  const set = new Set<number>();
  for (let i = 0; i < 8 * bytes.length; i++) if ((((bytes[i >>> 3] as number) >>> (i & 7)) & 1) === 1) set.add(i);
  return set;
}
