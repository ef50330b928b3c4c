// The SR-IOV capability (PCIe 9.3.3) as the driver of a physical function uses it, and the functions it brings about.

import { ADMIN_STATUS, type AdminBench, type AdminCommand, type AdminReply, GROUP, outcome } from './admin-bench.ts';
import { Bench } from './bench.ts';
import { Session } from './session.ts';

/** Its identifier, registers and bits. */
export const SRIOV = { ID: 0x10, CONTROL: 0x08, TOTAL_VFS: 0x0e, NUM_VFS: 0x10, VF_BAR0: 0x24, VF_ENABLE: 1, VF_MSE: 8 } as const;
const { CONTROL, TOTAL_VFS, NUM_VFS, VF_BAR0, VF_ENABLE, VF_MSE } = SRIOV;
/** PCIe 9.3.3.3.1: so long the functions may take to be there, in nanoseconds. */
const READY = 1e9;
const FIRST_EXTENDED = 0x100;

export class SriovBench {
  readonly owner: Bench;
  readonly at: number;
  readonly total: number;

  constructor(owner: Bench, at: number, total: number) {
    this.owner = owner;
    this.at = at;
    this.total = total;
  }

  /** undefined: the device has no such capability. Skips the case where nobody can tell. */
  static async find(owner: Bench): Promise<SriovBench | undefined> {
    const s = owner.session;
    if (s.target.extendedConfig !== true) s.skip('the target does not reach extended configuration space');
    for (let at = FIRST_EXTENDED, n = 0; at >= FIRST_EXTENDED && n < 64; n++) {
      const head = await s.configRead(at, 4);
      if ((head & 0xffff) === SRIOV.ID) return new SriovBench(owner, at, await s.configRead(at + TOTAL_VFS, 2));
      at = head >>> 20;
    }
    return undefined;
  }

  /** The same for cases that are about virtual functions. */
  static async need(owner: Bench, count = 2): Promise<SriovBench> {
    const s = owner.session;
    const found = (await SriovBench.find(owner)) ?? s.skip('the device has no SR-IOV capability');
    if (s.target.virtualFunction === undefined) s.skip('the target does not show its virtual functions');
    if (found.total < count) s.skip(`the device has ${found.total} virtual functions`);
    return found;
  }

  async enable(count = 2): Promise<void> {
    const s = this.owner.session;
    await s.configWrite(this.at + NUM_VFS, 2, count);
    await s.configWrite(this.at + CONTROL, 2, VF_ENABLE | VF_MSE);
    await s.target.advance(READY);
    await s.target.settle();
  }

  async disable(): Promise<void> {
    const s = this.owner.session;
    await s.configWrite(this.at + CONTROL, 2, 0);
    await s.target.advance(READY);
    await s.target.settle();
  }

  /** VF BAR `n`, as it reads. */
  bar(n: number): Promise<number> {
    return this.owner.session.configRead(this.at + VF_BAR0 + 4 * n, 4);
  }

  session(n: number): Session {
    const s = this.owner.session;
    return new Session(s.found(s.target.virtualFunction?.(n), `virtual function ${n} is not there`), s);
  }

  /** Virtual function `n`, its structures found. */
  async member(n: number): Promise<Bench> {
    // What a case runs over are features of the owner.
    const bench = new Bench(this.session(n), { ring: this.owner.variant.ring, features: [] });
    await bench.discover();
    return bench;
  }

  // ---- its group ----

  get #admin(): AdminBench {
    return this.owner.admin;
  }

  /** Goes into business with all the group has; skips the case unless it has all of `needed`. */
  open(needed: readonly number[]): Promise<ReadonlySet<number>> {
    return this.#admin.open(needed, GROUP.SRIOV);
  }

  command(member: number, command: Omit<AdminCommand, 'group' | 'member'>): Promise<AdminReply> {
    return this.#admin.command({ ...command, group: GROUP.SRIOV, member });
  }

  async done(member: number, command: Omit<AdminCommand, 'group' | 'member'>): Promise<AdminReply> {
    const reply = await this.command(member, command);
    this.owner.session.ensure(reply.status === ADMIN_STATUS.OK, `command ${command.opcode} for member ${member} was refused`, outcome(reply));
    return reply;
  }
}
