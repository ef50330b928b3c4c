// Available buffer notifications over PCI (virtio 1.4 2.9, 4.1.5.2): how wide they are, and how they name their queue.

import type { Findings } from './findings.ts';
import type { DriverJudge } from './judge.ts';

export class NotifyJudge {
  /** Where each queue is notified, and what it is called then, as the driver read it. */
  readonly offsets = new Map<number, number>();
  readonly data = new Map<number, number>();
  readonly #findings: Findings;
  readonly #rings: DriverJudge;

  constructor(findings: Findings, rings: DriverJudge) {
    this.#findings = findings;
    this.#rings = rings;
  }

  notified(offset: number, size: number, value: number, known: (queue: number) => boolean): void {
    const wide = this.#rings.has('NOTIFICATION_DATA');
    const named = this.#rings.has('NOTIF_CONFIG_DATA');
    if (!wide) this.#findings.check('notify.1', 'bytes of a notification', size, 2);
    const queue = this.#queueAt(offset, value & 0xffff);
    const low = value & 0xffff;
    const clause = named ? (wide ? 'notify.6' : 'notify.5') : wide ? 'notify.4' : 'notify.3';
    this.#findings.check(clause, `queue ${queue} named by a notification at ${offset}`, low, named ? this.data.get(queue) : queue);
    if (!named) this.#findings.check(clause, `a queue that was set up, named by a notification`, known(low), true);
    this.#rings.notified(queue, value, size);
  }

  /** By its address, where every queue has one of its own; else by what the notification says. */
  #queueAt(offset: number, named: number): number {
    const there = [...this.offsets].filter(([, at]) => at === offset).map(([queue]) => queue);
    return there.length === 1 ? (there[0] as number) : named;
  }
}
