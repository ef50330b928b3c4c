// Group administration commands (virtio 1.4 2.12.1, 2.13) over the administration virtqueue of a bench, laid out as a case wants them: parts that are too short or too long, too.

import type { Bench } from './bench.ts';
import { le16, le32 } from './bytes.ts';
import { concat } from './net-bench.ts';
import type { Part, Used } from './raw-ring.ts';

export const ADMIN = {
  LIST_QUERY: 0,
  LIST_USE: 1,
  LEGACY_COMMON_WRITE: 2,
  LEGACY_COMMON_READ: 3,
  LEGACY_DEVICE_WRITE: 4,
  LEGACY_DEVICE_READ: 5,
  LEGACY_NOTIFY_INFO: 6,
  CAP_ID_LIST: 7,
  CAP_GET: 8,
  CAP_SET: 9,
  CREATE: 10,
  QUERY: 11,
  MODIFY: 12,
  DESTROY: 13,
  PARTS_METADATA: 14,
  PARTS_GET: 15,
  PARTS_SET: 16,
  MODE_SET: 17,
} as const;

export const ADMIN_STATUS = { OK: 0, ENXIO: 6, EAGAIN: 11, ENOMEM: 12, EBUSY: 16, EEXIST: 17, EINVAL: 22, ENOSPC: 28 } as const;
export const QUALIFIER = { OK: 0, INVALID_COMMAND: 1, INVALID_OPCODE: 2, INVALID_FIELD: 3, INVALID_GROUP: 4, INVALID_MEMBER: 5 } as const;
export const GROUP = { SELF: 0, SRIOV: 1 } as const;
export type Group = (typeof GROUP)[keyof typeof GROUP];

/** What the writable part is filled with, so that what is not written shows. */
export const ADMIN_FILLER = 0x5a;
/** Before command_specific_result. */
export const ADMIN_REPLY_HEAD = 8;
/** Room for the bits of all 4096 capabilities there can be, and one that should not. */
const CAP_ID_BYTES = 520;
/** Between two looks at a command that takes its time, in nanoseconds. */
const A_WHILE = 200_000;
/** Opcodes a list of 64 bits has room for. */
const LIST_BITS = 64;

export interface AdminCommand {
  readonly opcode: number;
  /** Group type (default: self) and member identifier (default 0). */
  readonly group?: number;
  readonly member?: number;
  /** command_specific_data. */
  readonly data?: readonly number[] | Uint8Array;
  /** Bytes of command_specific_result there is room for. Default 256. */
  readonly result?: number;
  /** The reserved bytes of the readable part are not zero. */
  readonly junk?: boolean;
  /** Cuts the readable part off, or zero-fills it, at this length; the writable part has this length in all. */
  readonly readable?: number;
  readonly writable?: number;
}

export interface AdminReply {
  readonly status: number;
  readonly qualifier: number;
  /** Used length. */
  readonly length: number;
  /** The whole writable part, as it is in memory: filler where nothing was written. */
  readonly bytes: Uint8Array;
  /** command_specific_result, as far as it was written. */
  readonly result: Uint8Array;
}

/** Status and qualifier, for comparisons. */
export const outcome = ({ status, qualifier }: AdminReply): [number, number] => [status, qualifier];

export class AdminBench {
  readonly #bench: Bench;

  constructor(bench: Bench) {
    this.#bench = bench;
  }

  /** The queue's index. */
  index(): Promise<number> {
    return this.#bench.get('admin_queue_index');
  }

  /** Adds a command to the ring, not exposed yet: where its reply will be, and the buffer it is. */
  async add({ opcode, group = 0, member = 0, data = [], result = 256, junk = false, readable, writable }: AdminCommand): Promise<{
    readonly token: number;
    readonly reply: Part;
  }> {
    const { session } = this.#bench;
    const queue = this.#bench.queue(await this.index());
    const reserved = new Uint8Array(12).fill(junk ? 0xee : 0);
    const whole = concat([Uint8Array.from([...le16(opcode), ...le16(group)]), reserved, Uint8Array.from([...le32(member), 0, 0, 0, 0]), Uint8Array.from(data)]);
    const bytes = new Uint8Array(readable ?? whole.length);
    bytes.set(whole.subarray(0, bytes.length));
    const space = writable ?? ADMIN_REPLY_HEAD + result;
    const reply = { address: session.allocate(space), length: space, writable: true };
    await session.write(reply.address, new Uint8Array(space).fill(ADMIN_FILLER));
    const command = { address: session.allocate(bytes.length), length: bytes.length };
    await session.write(command.address, bytes);
    const token = await queue.ring.add([command, reply]);
    session.note(`administration command ${opcode}, group ${group}, member ${member}`);
    return { token, reply };
  }

  async read(reply: Part, length: number): Promise<AdminReply> {
    const bytes = await this.#bench.session.read(reply.address, reply.length);
    const at = (offset: number): number => (bytes[offset] ?? 0) | ((bytes[offset + 1] ?? 0) << 8);
    this.#bench.session.note(`status ${at(0)}, qualifier ${at(2)}`);
    return { status: at(0), qualifier: at(2), length, bytes, result: bytes.slice(ADMIN_REPLY_HEAD, Math.max(length, ADMIN_REPLY_HEAD)) };
  }

  /** Carries a command out. What does not come back at all is not what cases are about. */
  async command(command: AdminCommand): Promise<AdminReply> {
    const { token, reply } = await this.add(command);
    const queue = this.#bench.queue(await this.index());
    await this.#bench.kick(queue.index);
    let done: Used | undefined;
    // Some take a while: a device that is to be stopped finishes what it has begun.
    await this.#bench.until(`administration command ${command.opcode} to come back`, async () => {
      done = (await queue.ring.used()).find((used) => used.token === token);
      if (done === undefined) await this.#bench.session.target.advance(A_WHILE);
      return done !== undefined;
    });
    return this.read(reply, done?.length ?? 0);
  }

  /** The same where it has to succeed for the case to go on. */
  async done(command: AdminCommand): Promise<AdminReply> {
    const reply = await this.command(command);
    this.#bench.session.ensure(reply.status === ADMIN_STATUS.OK, `administration command ${command.opcode} was refused`, outcome(reply));
    return reply;
  }

  /** Opcodes the device has for a group; undefined: it does not have the group. */
  async supported(group: Group = GROUP.SELF): Promise<ReadonlySet<number> | undefined> {
    const reply = await this.command({ opcode: ADMIN.LIST_QUERY, group });
    return reply.status === ADMIN_STATUS.OK ? bitsOf(reply.result) : undefined;
  }

  use(opcodes: Iterable<number>, group: Group = GROUP.SELF): Promise<AdminReply> {
    return this.command({ opcode: ADMIN.LIST_USE, group, data: bitmap(opcodes) });
  }

  /** Goes into business with all the device has for a group. Skips the case unless it has all of `needed`. */
  async open(needed: readonly number[] = [], group: Group = GROUP.SELF): Promise<ReadonlySet<number>> {
    const { session } = this.#bench;
    const opcodes = (await this.supported(group)) ?? session.skip(`the device has no group of type ${group}`);
    const missing = needed.filter((opcode) => !opcodes.has(opcode));
    if (missing.length > 0) session.skip(`group ${group} has no administration command ${missing.join(', ')}`);
    const used = await this.use(opcodes, group);
    session.ensure(used.status === ADMIN_STATUS.OK, 'LIST_USE with all that LIST_QUERY told was refused', outcome(used));
    return opcodes;
  }

  // ---- capabilities and objects of the self group ----

  /** Ids of the capabilities. */
  async capabilities(): Promise<ReadonlySet<number>> {
    return bitsOf((await this.done({ opcode: ADMIN.CAP_ID_LIST, result: CAP_ID_BYTES })).result);
  }

  async capability(id: number): Promise<Uint8Array> {
    return (await this.done({ opcode: ADMIN.CAP_GET, data: capHead(id), result: CAP_ID_BYTES })).result;
  }

  setCapability(id: number, value: readonly number[] | Uint8Array): Promise<AdminReply> {
    return this.command({ opcode: ADMIN.CAP_SET, data: [...capHead(id), ...value] });
  }

  create(type: number, id: number, value: readonly number[], where: { readonly group?: Group; readonly member?: number } = {}): Promise<AdminReply> {
    return this.command({ opcode: ADMIN.CREATE, data: [...objectHead(type, id), ...FLAGS, ...value], ...where });
  }

  modify(type: number, id: number, value: readonly number[]): Promise<AdminReply> {
    return this.command({ opcode: ADMIN.MODIFY, data: [...objectHead(type, id), ...FLAGS, ...value] });
  }

  query(type: number, id: number): Promise<AdminReply> {
    return this.command({ opcode: ADMIN.QUERY, data: [...objectHead(type, id), ...FLAGS] });
  }

  destroy(type: number, id: number, where: { readonly group?: Group; readonly member?: number } = {}): Promise<AdminReply> {
    return this.command({ opcode: ADMIN.DESTROY, data: objectHead(type, id), ...where });
  }
}

const FLAGS: readonly number[] = [0, 0, 0, 0, 0, 0, 0, 0];

export const capHead = (id: number): number[] => [...le16(id), 0, 0, 0, 0, 0, 0];

/** struct virtio_admin_cmd_resource_obj_cmd_hdr. */
export const objectHead = (type: number, id: number): number[] => [...le16(type), 0, 0, ...le32(id)];

function bitsOf(bytes: Uint8Array): ReadonlySet<number> {
  const bits = new Set<number>();
  for (let bit = 0; bit < 8 * bytes.length; bit++) if (((bytes[bit >>> 3] as number) >>> (bit & 7)) & 1) bits.add(bit);
  return bits;
}

/** An array of le64 in which these bits are set. */
function bitmap(bits: Iterable<number>): number[] {
  const list = [...bits];
  const words = Math.max(1, Math.ceil((Math.max(0, ...list) + 1) / LIST_BITS));
  const bytes = new Array<number>(8 * words).fill(0);
  for (const bit of list) bytes[bit >>> 3] = (bytes[bit >>> 3] as number) | (1 << (bit & 7));
  return bytes;
}
