// Commands for members of the SR-IOV group (virtio 1.4 2.13): while virtual functions are enabled, for those there are; device parts of a stopped one, with room for the answer; accesses
// to a member's legacy registers, one field at a time.

import { ADMIN } from '../admin-bench.ts';
import { NET_CONFIG } from '../layout.ts';
import { LEGACY } from '../legacy-bench.ts';
import type { AdminRequest } from './admin-judge.ts';
import type { NetState } from './judge.ts';

const MODE_STOPPED = 1;
const METADATA = { SIZE: 0, COUNT: 1, LIST: 2 } as const;
const GET_ALL = 1;
const PART_HEADER = 16;
/** Offset and size of what one access may cover; of the address, also its bytes. */
const COMMON_FIELDS = Object.values(LEGACY);
const DEVICE_FIELDS = [...Object.values(NET_CONFIG), ...Array.from({ length: 6 }, (_, i) => [i, 1] as const)];
/** Members that are remembered. */
const REMEMBERED = 4096;

export class MemberJudge {
  readonly #net: NetState;
  readonly #stopped = new Set<number>();
  readonly #sizes = new Map<number, number>();
  readonly #counts = new Map<number, number>();

  constructor(net: NetState) {
    this.#net = net;
  }

  reset(): void {
    this.#stopped.clear();
    this.#sizes.clear();
    this.#counts.clear();
  }

  command({ opcode, member, data, room }: AdminRequest): void {
    const { findings, virtualFunctions } = this.#net;
    const what = `command ${opcode} for member ${member}`;
    if (virtualFunctions) {
      findings.check('sriov.9', `${what}: VF Enable`, virtualFunctions.enabled, true);
      findings.that('sriov.D2', what, member >= 1 && member <= virtualFunctions.count, `a member from 1 to ${virtualFunctions.count}`, member);
    }
    if (opcode === ADMIN.PARTS_SET) {
      findings.check('parts.31', `${what}: the member was stopped before`, this.#stopped.has(member), true);
      const order = partTypes(data);
      findings.check(
        'parts.32',
        `${what}: parts in the order of their table`,
        order,
        [...order].sort((a, b) => a - b),
      );
    }
    if (opcode === ADMIN.PARTS_METADATA && data.byteLength > 8 && data.getUint8(8) === METADATA.LIST)
      this.#room('parts.34', what, this.#counts.get(member), 8, room);
    if (opcode === ADMIN.PARTS_GET && data.byteLength > 8 && data.getUint8(8) === GET_ALL) this.#room('parts.35', what, this.#sizes.get(member), 0, room);
    this.#access(opcode, data, room, what);
  }

  #room(clause: string, what: string, known: number | undefined, head: number, room: number): void {
    if (known === undefined) return;
    const least = clause === 'parts.34' ? head + PART_HEADER * known : known;
    this.#net.findings.that(clause, `${what}: bytes for the answer`, room >= least, `at least ${least}`, room);
  }

  #access(opcode: number, data: DataView, room: number, what: string): void {
    const writes = opcode === ADMIN.LEGACY_COMMON_WRITE || opcode === ADMIN.LEGACY_DEVICE_WRITE;
    if (data.byteLength < 1 || !(writes || opcode === ADMIN.LEGACY_COMMON_READ || opcode === ADMIN.LEGACY_DEVICE_READ)) return;
    const common = opcode === ADMIN.LEGACY_COMMON_WRITE || opcode === ADMIN.LEGACY_COMMON_READ;
    const offset = data.getUint8(0);
    const length = writes ? data.byteLength - 8 : room;
    this.#net.findings.check(
      common ? 'admin-legacy.19' : 'admin-legacy.20',
      `${what}: ${length} bytes at ${offset} are one field`,
      (common ? COMMON_FIELDS : DEVICE_FIELDS).some(([at, size]) => at === offset && size === length),
      true,
    );
  }

  done({ opcode, member, data }: AdminRequest, result: DataView): void {
    if (data.byteLength < 1 || this.#counts.size + this.#stopped.size > REMEMBERED) return;
    if (opcode === ADMIN.MODE_SET) {
      if ((data.getUint8(0) & MODE_STOPPED) !== 0) this.#stopped.add(member);
      else this.#stopped.delete(member);
    }
    if (opcode !== ADMIN.PARTS_METADATA || data.byteLength < 9 || result.byteLength < 4) return;
    const type = data.getUint8(8);
    if (type === METADATA.SIZE) this.#sizes.set(member, result.getUint32(0, true));
    if (type === METADATA.COUNT) this.#counts.set(member, result.getUint32(0, true));
  }
}

/** Types of the parts of a DEV_PARTS_SET, as far as they are whole. */
function partTypes(data: DataView): number[] {
  const types: number[] = [];
  for (let at = 8; at + PART_HEADER <= data.byteLength; ) {
    const type = data.getUint16(at, true);
    if (type === 0) break;
    types.push(type);
    at += PART_HEADER + data.getUint32(at + 12, true);
  }
  return types;
}
