// Group administration commands (virtio 1.4 2.12.1, 2.13): struct virtio_admin_cmd, status and qualifier, the checks every command goes through, and the two list commands. What
// else a group can do is the group's: admin-self.ts, admin-sriov.ts. Knows no queues: bytes come in, an outcome goes out.

export const VIRTIO_ADMIN_STATUS_OK = 0;
export const VIRTIO_ADMIN_STATUS_ENXIO = 6;
/** Without side effects: to be sent again. */
export const VIRTIO_ADMIN_STATUS_EAGAIN = 11;
export const VIRTIO_ADMIN_STATUS_ENOMEM = 12;
export const VIRTIO_ADMIN_STATUS_EBUSY = 16;
/** virtio 1.4 2.12.1.3 asks for it without giving it a value: the one of errno, as the others. */
export const VIRTIO_ADMIN_STATUS_EEXIST = 17;
const VIRTIO_ADMIN_STATUS_EINVAL = 22;
export const VIRTIO_ADMIN_STATUS_ENOSPC = 28;

const VIRTIO_ADMIN_STATUS_Q_OK = 0;
const VIRTIO_ADMIN_STATUS_Q_INVALID_COMMAND = 1;
export const VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE = 2;
const VIRTIO_ADMIN_STATUS_Q_INVALID_FIELD = 3;
const VIRTIO_ADMIN_STATUS_Q_INVALID_GROUP = 4;
const VIRTIO_ADMIN_STATUS_Q_INVALID_MEMBER = 5;
export const VIRTIO_ADMIN_STATUS_Q_NORESOURCE = 6;
export const VIRTIO_ADMIN_STATUS_Q_TRYAGAIN = 7;

const VIRTIO_ADMIN_CMD_LIST_QUERY = 0;
export const VIRTIO_ADMIN_CMD_LIST_USE = 1;

const COMMAND_HEADER = 24;
const STATUS_BYTES = 8;
/** Bytes of a list that names every opcode there can be. */
const LONGEST_LIST = 0x10000 / 8;
export interface AdminOutcome {
  readonly status: number;
  readonly qualifier: number;
  /** command_specific_result. */
  readonly result: Uint8Array;
}

const NOTHING = new Uint8Array(0);

export function adminDone(result: Uint8Array = NOTHING): AdminOutcome {
  return { status: VIRTIO_ADMIN_STATUS_OK, qualifier: VIRTIO_ADMIN_STATUS_Q_OK, result };
}

export function adminFailed(status: number, qualifier = VIRTIO_ADMIN_STATUS_Q_INVALID_COMMAND): AdminOutcome {
  return { status, qualifier, result: NOTHING };
}

export function adminInvalid(qualifier = VIRTIO_ADMIN_STATUS_Q_INVALID_FIELD): AdminOutcome {
  return adminFailed(VIRTIO_ADMIN_STATUS_EINVAL, qualifier);
}

/** What a driver supplied, little-endian. virtio 1.4 2.13.1 (device MUST): what is missing reads as zero. */
export class AdminData {
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get length(): number {
    return this.#bytes.length;
  }

  u8(at: number): number {
    return this.#bytes[at] ?? 0;
  }

  u16(at: number): number {
    return this.u8(at) | (this.u8(at + 1) << 8);
  }

  u32(at: number): number {
    return this.u16(at) + this.u16(at + 2) * 0x10000;
  }

  /** `count` bytes as a copy. */
  bytes(at: number, count: number): Uint8Array {
    const copy = new Uint8Array(count);
    copy.set(this.#bytes.subarray(at, at + count));
    return copy;
  }

  from(at: number): AdminData {
    return new AdminData(this.#bytes.subarray(at));
  }
}

/** A kind of group that this owner device has. */
export interface AdminGroup {
  /** 0 self, 1 SR-IOV. */
  readonly type: number;
  /** False for the time that there is no such group, as while VF Enable is clear. */
  readonly exists: boolean;
  /** Opcodes besides the two list commands; the same for the device's life. */
  readonly opcodes: readonly number[];
  /** Whether `opcode`, one of a list command or of `opcodes`, may be about `member`. */
  hasMember(opcode: number, member: number): boolean;
  /** Bytes of data that its commands read at most, if more than a list of opcodes. */
  readonly longestData?: number;
  /**
   * A command whose opcode is one of `opcodes`, listed as used, with a member that there is. EINVAL must mean that nothing changed. undefined: it waits for something that runs, and is to
   * be executed again, the same. @param room bytes that the driver has for the result
   */
  execute(opcode: number, member: number, data: AdminData, room: number): AdminOutcome | undefined;
}

/**
 * Numbers below 2^16 as little-endian 64-bit words, long enough for the largest: struct virtio_admin_cmd_list and the list of capabilities. (The text's formula for the length is
 * one word short at multiples of 64; its prose is followed.)
 */
export function adminBitmap(numbers: readonly number[]): Uint8Array {
  const bits = new Uint8Array(8 * Math.ceil((Math.max(0, ...numbers) + 1) / 64));
  for (const n of numbers) bits[n >>> 3] = (bits[n >>> 3] as number) | (1 << (n & 7));
  return bits;
}

const LISTS: readonly number[] = [VIRTIO_ADMIN_CMD_LIST_QUERY, VIRTIO_ADMIN_CMD_LIST_USE];

export class AdminCommands {
  /** No command reads further: longer buffers are the driver's to make, and ours to disregard. */
  readonly readableBytes: number;
  readonly #groups: ReadonlyMap<number, AdminGroup>;
  /** Opcodes each group's driver uses. */
  readonly #used = new Map<number, ReadonlySet<number>>();

  constructor(groups: readonly AdminGroup[]) {
    this.#groups = new Map(groups.map((group) => [group.type, group]));
    this.readableBytes = COMMAND_HEADER + Math.max(LONGEST_LIST, ...groups.map(({ longestData = 0 }) => longestData));
    this.reset();
  }

  /** (device MUST): until a group's driver says otherwise it uses the two list commands. */
  reset(): void {
    for (const type of this.#groups.keys()) this.#used.set(type, new Set(LISTS));
  }

  /** Runs one command: the device-readable part of its buffer. undefined: not yet, to be run again. @param writable length of the other part */
  execute(readable: Uint8Array, writable: number): AdminOutcome | undefined {
    const command = new AdminData(readable);
    const opcode = command.u16(0);
    const group = this.#groups.get(command.u16(2));
    // (device MUST): group, opcode and member are looked at in this order.
    if (group?.exists !== true) return adminInvalid(VIRTIO_ADMIN_STATUS_Q_INVALID_GROUP);
    if (!LISTS.includes(opcode) && !group.opcodes.includes(opcode)) return adminInvalid(VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE);
    if (this.#used.get(group.type)?.has(opcode) !== true) return adminInvalid(VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE);
    const member = command.u32(16) + command.u32(20) * 2 ** 32;
    if (!group.hasMember(opcode, member)) return adminInvalid(VIRTIO_ADMIN_STATUS_Q_INVALID_MEMBER);
    const data = command.from(COMMAND_HEADER);
    if (opcode === VIRTIO_ADMIN_CMD_LIST_QUERY) return adminDone(adminBitmap([...LISTS, ...group.opcodes]));
    if (opcode === VIRTIO_ADMIN_CMD_LIST_USE) return this.#use(group, data);
    return group.execute(opcode, member, data, Math.max(0, writable - STATUS_BYTES));
  }

  #use(group: AdminGroup, list: AdminData): AdminOutcome {
    const used = new Set<number>();
    for (let byte = 0; byte < Math.min(list.length, LONGEST_LIST); byte++) {
      const bits = list.u8(byte);
      for (let bit = 0; bits >>> bit !== 0; bit++) if (((bits >>> bit) & 1) !== 0) used.add(8 * byte + bit);
    }
    for (const opcode of used) if (!LISTS.includes(opcode) && !group.opcodes.includes(opcode)) return adminInvalid();
    this.#used.set(group.type, used);
    return adminDone();
  }

  /** Opcodes in use by group type. */
  get used(): { readonly group: number; readonly opcodes: readonly number[] }[] {
    return [...this.#used].map(([group, opcodes]) => ({ group, opcodes: [...opcodes].sort((a, z) => a - z) }));
  }

  /** Takes over a saved list; false when this device has no such group or opcode. */
  restoreUsed(type: number, opcodes: readonly number[]): boolean {
    const group = this.#groups.get(type);
    if (group === undefined || opcodes.some((opcode) => !LISTS.includes(opcode) && !group.opcodes.includes(opcode))) return false;
    this.#used.set(type, new Set(opcodes));
    return true;
  }
}

/** The device-writable part: status, then the result, which ends on a multiple of 64 bits (2.13.1, device MUST). */
export function adminReply(outcome: AdminOutcome): Uint8Array {
  const reply = new Uint8Array(STATUS_BYTES + 8 * Math.ceil(outcome.result.length / 8));
  const view = new DataView(reply.buffer);
  view.setUint16(0, outcome.status, true);
  view.setUint16(2, outcome.qualifier, true);
  reply.set(outcome.result, STATUS_BYTES);
  return reply;
}
