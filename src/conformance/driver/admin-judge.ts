// Administration commands (virtio 1.4 2.13, 2.14) as a device sees them come: which commands a driver says it uses, and that it keeps to them; how it lays them out. What they are about is
// judged by others: capabilities and objects, members of the SR-IOV group.

import { ADMIN, ADMIN_REPLY_HEAD, ADMIN_STATUS, GROUP } from '../admin-bench.ts';
import type { NetState } from './judge.ts';
import { MemberJudge } from './member-judge.ts';
import { ObjectJudge } from './object-judge.ts';
import { type Chain, gather } from './view.ts';

/** Bytes of a command, or an answer, that are looked at. */
const MOST = 65_536;
const HEAD = 24;
/** Commands in flight that are remembered. */
const REMEMBERED = 256;
/** virtio 1.4 2.13.1: the opcodes it defines. */
const DEFINED: ReadonlySet<number> = new Set(Object.values(ADMIN));
/** Their data is as long as the access, which the lengths of the buffer say (see the readings). */
const ACCESSES: readonly number[] = [ADMIN.LEGACY_COMMON_WRITE, ADMIN.LEGACY_COMMON_READ, ADMIN.LEGACY_DEVICE_WRITE, ADMIN.LEGACY_DEVICE_READ];
/** Bytes of command_specific_data that every command of the kind has. */
const DATA: ReadonlyMap<number, number> = new Map([
  [ADMIN.LIST_USE, 8],
  [ADMIN.LEGACY_COMMON_WRITE, 9],
  [ADMIN.LEGACY_COMMON_READ, 1],
  [ADMIN.LEGACY_DEVICE_WRITE, 9],
  [ADMIN.LEGACY_DEVICE_READ, 1],
  [ADMIN.CAP_GET, 8],
  [ADMIN.CAP_SET, 8],
  [ADMIN.CREATE, 16],
  [ADMIN.QUERY, 16],
  [ADMIN.MODIFY, 16],
  [ADMIN.DESTROY, 8],
  [ADMIN.PARTS_METADATA, 16],
  [ADMIN.PARTS_GET, 16],
  [ADMIN.PARTS_SET, 8],
  [ADMIN.MODE_SET, 1],
]);

/** A command as it was sent. */
export interface AdminRequest {
  readonly opcode: number;
  readonly group: number;
  readonly member: number;
  /** command_specific_data. */
  readonly data: DataView;
  /** Bytes for command_specific_result. */
  readonly room: number;
}

export class AdminJudge {
  readonly #net: NetState;
  readonly #objects: ObjectJudge;
  readonly #members: MemberJudge;
  readonly #pending = new Map<Chain, AdminRequest>();
  /** By group type: opcodes LIST_QUERY was answered with; and those that LIST_USE said, once it was answered. */
  readonly #reported = new Map<number, ReadonlySet<number>>();
  readonly #enabled = new Map<number, ReadonlySet<number>>();
  readonly #asked = new Set<number>();

  constructor(net: NetState) {
    this.#net = net;
    this.#objects = new ObjectJudge(net.findings);
    this.#members = new MemberJudge(net);
  }

  reset(): void {
    this.#pending.clear();
    this.#reported.clear();
    this.#enabled.clear();
    this.#asked.clear();
    this.#objects.reset();
    this.#members.reset();
  }

  /** Opcodes the driver enabled for a group; undefined: it did not. */
  enabled(group: number): ReadonlySet<number> | undefined {
    return this.#enabled.get(group);
  }

  /** Commands for a group that the device has not answered. */
  inFlight(group: number): number {
    let count = 0;
    for (const request of this.#pending.values()) if (request.group === group) count++;
    return count;
  }

  command(chain: Chain): void {
    const { findings, memory } = this.#net;
    const bytes = new Uint8Array(Math.max(HEAD, Math.min(MOST, chain.readable)));
    bytes.set(gather(memory, chain, false, MOST));
    const head = new DataView(bytes.buffer);
    const request: AdminRequest = {
      opcode: head.getUint16(0, true),
      group: head.getUint16(2, true),
      member: head.getUint32(16, true) + 2 ** 32 * head.getUint32(20, true),
      data: new DataView(bytes.buffer, HEAD),
      room: Math.max(0, chain.writable - ADMIN_REPLY_HEAD),
    };
    const { opcode } = request;
    const what = `administration command ${opcode}`;
    findings.that('admin.49', `${what}: its two parts`, chain.readable > 0 && chain.writable > 0, 'not empty', [chain.readable, chain.writable]);
    if (!ACCESSES.includes(opcode))
      findings.check('admin.48', `${what}: bytes of its two parts over multiples of 8`, [chain.readable % 8, chain.writable % 8], [0, 0]);
    const least = HEAD + (DATA.get(opcode) ?? 0);
    findings.that('admin.47', `${what}: bytes of its readable part`, chain.readable >= least, `at least ${least}`, chain.readable);
    this.#legal(request, what);
    if (request.group === GROUP.SRIOV && opcode > ADMIN.LIST_USE) this.#members.command(request);
    this.#objects.command(request);
    if (this.#pending.size < REMEMBERED) this.#pending.set(chain, request);
  }

  #legal({ opcode, group, data }: AdminRequest, what: string): void {
    const { findings } = this.#net;
    if (opcode > ADMIN.LIST_USE) {
      findings.check('admin.31', `${what}: LIST_USE sent for group ${group} before`, this.#asked.has(group), true);
      findings.check('admin.26', `${what}: LIST_USE for group ${group} carried out before`, this.#enabled.has(group), true);
    }
    if (opcode !== ADMIN.LIST_USE) return;
    const used = [...bitsOf(data)];
    const reported = this.#reported.get(group);
    const unknown = used.filter((bit) => !DEFINED.has(bit));
    findings.check('admin.28', `LIST_USE for group ${group}: other commands in flight`, this.#pending.size, 0);
    findings.check('admin.29', `LIST_USE for group ${group}: opcodes without a meaning`, unknown, []);
    findings.check(
      'admin.30',
      `LIST_USE for group ${group}: opcodes that were not reported`,
      used.filter((bit) => !reported?.has(bit)),
      [],
    );
    this.#asked.add(group);
  }

  /** The device gave the command back, having written so many bytes. */
  answered(chain: Chain, length: number): void {
    const request = this.#pending.get(chain);
    if (request === undefined) return;
    this.#pending.delete(chain);
    const reply = new Uint8Array(Math.max(ADMIN_REPLY_HEAD, Math.min(MOST, length, chain.writable)));
    reply.set(gather(this.#net.memory, chain, true, Math.min(MOST, length)));
    const status = (reply[0] as number) | ((reply[1] as number) << 8);
    if (status !== ADMIN_STATUS.OK) return;
    const result = new DataView(reply.buffer, ADMIN_REPLY_HEAD);
    if (request.opcode === ADMIN.LIST_QUERY) this.#reported.set(request.group, bitsOf(result));
    if (request.opcode === ADMIN.LIST_USE) this.#enabled.set(request.group, bitsOf(request.data));
    if (request.group === GROUP.SRIOV) this.#members.done(request, result);
    this.#objects.done(request, result);
  }
}

function bitsOf(view: DataView): Set<number> {
  const bits = new Set<number>();
  for (let bit = 0; bit < 8 * view.byteLength; bit++) if (((view.getUint8(bit >>> 3) >>> (bit & 7)) & 1) === 1) bits.add(bit);
  return bits;
}
