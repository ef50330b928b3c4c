// Device parts (virtio 1.4 2.12.1.5, 2.15) as bytes, and the commands about them.

import { ADMIN, ADMIN_STATUS, type AdminReply, capHead, GROUP, objectHead, outcome } from '../admin-bench.ts';
import type { Bench } from '../bench.ts';
import { get16le, get32le, le16, le32 } from '../bytes.ts';
import type { Session } from '../session.ts';
import { SriovBench } from '../sriov-bench.ts';

export const PART = { DEV_FEATURES: 0x100, DRV_FEATURES: 0x101, COMMON_CFG: 0x102, STATUS: 0x103, VQ_CFG: 0x104, VQ_NOTIFY: 0x105, CVQ: 0x200 } as const;
export const PARTS_COMMANDS: readonly number[] = [
  ADMIN.CREATE,
  ADMIN.QUERY,
  ADMIN.MODIFY,
  ADMIN.DESTROY,
  ADMIN.PARTS_METADATA,
  ADMIN.PARTS_GET,
  ADMIN.PARTS_SET,
  ADMIN.MODE_SET,
];
export const METADATA = { SIZE: 0, COUNT: 1, LIST: 2 } as const;
export const PART_HEAD = 16;
const PARTS_CAP = 0;
const PARTS_OBJECT = 0;
const [GET, SET] = [0, 1];
const SELECTED = 0;
const ALL = 1;
/** More than a device with a few queues has. */
const ROOM = 16_384;

export interface DevicePart {
  readonly type: number;
  readonly flags: number;
  readonly reserved: number;
  readonly selector: readonly number[];
  readonly value: readonly number[];
}

function partBytes({ type, flags, reserved, selector, value }: DevicePart): number[] {
  return [...le16(type), flags, reserved, ...selector, ...le32(value.length), ...value];
}

/** Headers alone say how long a value is and bring none. */
export function parseParts(bytes: Uint8Array, values = true): DevicePart[] {
  const parts: DevicePart[] = [];
  for (let at = 0; at + PART_HEAD <= bytes.length; ) {
    const length = get32le(bytes, at + 12);
    const type = get16le(bytes, at);
    // The end of a result is filled up to whole words.
    if (type === 0) break;
    const from = at + PART_HEAD;
    parts.push({
      type,
      flags: bytes[at + 2] as number,
      reserved: bytes[at + 3] as number,
      selector: [...bytes.subarray(at + 4, at + 12)],
      value: values ? [...bytes.subarray(from, from + length)] : new Array<number>(Math.min(length, ROOM)).fill(0),
    });
    at = from + (values ? length : 0);
  }
  return parts;
}

/** Two objects for parts of a member: 0 to get them, 1 to set them. */
export class PartsBench {
  readonly sriov: SriovBench;
  readonly member: number;
  readonly #ids = [0, 0];

  constructor(sriov: SriovBench, member: number) {
    this.sriov = sriov;
    this.member = member;
  }

  /** In operation as owner, the member enabled and both objects made. Skips the case where the device has none of this. */
  static async open(b: Bench, s: Session, member = 1): Promise<PartsBench> {
    const sriov = await SriovBench.need(b);
    await b.start();
    await b.admin.open([ADMIN.CAP_ID_LIST, ADMIN.CAP_GET, ADMIN.CAP_SET]);
    if (!(await b.admin.capabilities()).has(PARTS_CAP)) s.skip('the device has no device parts');
    await b.admin.done({ opcode: ADMIN.CAP_SET, data: [...capHead(PARTS_CAP), ...(await b.admin.capability(PARTS_CAP))] });
    await sriov.enable();
    await sriov.open(PARTS_COMMANDS);
    const parts = new PartsBench(sriov, member);
    await parts.create();
    return parts;
  }

  /** Whether ids are an owner's or each member's own is not said: those free of both are tried first. */
  async create(): Promise<void> {
    const { owner } = this.sriov;
    for (const type of [GET, SET]) {
      const where = { group: GROUP.SRIOV, member: this.member };
      const value = [type, 0, 0, 0, 0, 0, 0, 0];
      this.#ids[type] = type + 2 * (this.member - 1);
      let reply = await owner.admin.create(PARTS_OBJECT, this.#ids[type], value, where);
      if (reply.status !== ADMIN_STATUS.OK) {
        this.#ids[type] = type;
        reply = await owner.admin.create(PARTS_OBJECT, type, value, where);
      }
      owner.session.ensure(reply.status === ADMIN_STATUS.OK, `creating object ${type} for parts was refused`, outcome(reply));
    }
  }

  #object(type: number): number[] {
    return objectHead(PARTS_OBJECT, this.#ids[type] as number);
  }

  metadata(type: number, result = ROOM): Promise<AdminReply> {
    return this.sriov.command(this.member, { opcode: ADMIN.PARTS_METADATA, data: [...this.#object(GET), type, 0, 0, 0, 0, 0, 0, 0], result });
  }

  getAll(): Promise<AdminReply> {
    return this.sriov.command(this.member, { opcode: ADMIN.PARTS_GET, data: [...this.#object(GET), ALL, 0, 0, 0, 0, 0, 0, 0], result: ROOM });
  }

  /** By headers, without values. */
  getSelected(parts: readonly DevicePart[]): Promise<AdminReply> {
    const heads = parts.flatMap((part) => partBytes(part).slice(0, PART_HEAD));
    return this.sriov.command(this.member, { opcode: ADMIN.PARTS_GET, data: [...this.#object(GET), SELECTED, 0, 0, 0, 0, 0, 0, 0, ...heads], result: ROOM });
  }

  /** What `getAll` brings, where it has to. */
  async all(): Promise<DevicePart[]> {
    const reply = await this.getAll();
    this.sriov.owner.session.ensure(reply.status === ADMIN_STATUS.OK, 'PARTS_GET of all was refused', outcome(reply));
    return parseParts(reply.result);
  }

  set(parts: readonly DevicePart[]): Promise<AdminReply> {
    return this.sriov.command(this.member, { opcode: ADMIN.PARTS_SET, data: [...this.#object(SET), ...parts.flatMap(partBytes)], result: 0 });
  }

  /** Stops the member, or resumes it. */
  mode(stopped: boolean): Promise<AdminReply> {
    return this.sriov.command(this.member, { opcode: ADMIN.MODE_SET, data: [stopped ? 1 : 0, 0, 0, 0, 0, 0, 0, 0], result: 0 });
  }

  async stop(): Promise<void> {
    const reply = await this.mode(true);
    this.sriov.owner.session.ensure(reply.status === ADMIN_STATUS.OK, 'stopping the member was refused', outcome(reply));
  }

  async resume(): Promise<void> {
    const reply = await this.mode(false);
    this.sriov.owner.session.ensure(reply.status === ADMIN_STATUS.OK, 'resuming the member was refused', outcome(reply));
  }
}
