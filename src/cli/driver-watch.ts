// `serve ... --watch`: a judge for the driver of each virtio-net function that a guest drives, and what it says at the end.

import { DriverJudge, Findings, findClause, PciJudge } from '#conformance/index';
import type { AccessWatch, GuestBytes } from '#interop/access-watch';
import type { VringWatch } from '#interop/watched-backend';
import type { Machine } from '#nicbox/machine';

const VIRTIO_NET = 0x1041_1af4;

export class DriverWatch {
  readonly #where: string;
  readonly #findings: Findings;
  /** How often a driver's state came from another machine: what it does from there on is not judged, until it is gone. */
  loaded = 0;

  constructor(where: string, findings: Findings) {
    this.#where = where;
    this.#findings = findings;
  }

  get json(): string {
    const { held, failures, looked, broken } = this.#findings;
    const counts = Object.fromEntries([...broken].map(([clause, times]) => [clause, { broken: times, looked: looked.get(clause) }]));
    return JSON.stringify({ driver: this.#where, held: [...held].sort(), broken: counts, failures, loaded: this.loaded });
  }

  get text(): string {
    const { held, failures, looked, broken } = this.#findings;
    const lines = [`${this.#where}: the driver was judged by ${looked.size} clauses, of which ${held.length} held`];
    for (const clause of broken.keys()) {
      const { strength = '', summary = '' } = findClause(clause) ?? {};
      lines.push(`  ${clause} ${strength}: ${summary} (broken ${broken.get(clause)} times of ${looked.get(clause)})`);
      for (const { what, expected, seen } of failures.filter((check) => check.clause === clause)) lines.push(`    ${what}: expected ${expected}, saw ${seen}`);
    }
    if (this.loaded > 0) lines.push(`  ${this.loaded} times a state was loaded: what its driver did from there on was not judged`);
    return lines.join('\n');
  }
}

/** A judge for the function there, if it is a virtio-net; it goes into `watches`, under the name `where`. */
export function watchDriver(machine: Machine, bdf: number, memory: GuestBytes, watches: DriverWatch[], where = `slot ${bdf >>> 3}`): AccessWatch | undefined {
  if (machine.configRead(bdf, 0, 4) !== VIRTIO_NET) return undefined;
  const findings = new Findings();
  // The data plane is a worker's, and the guest another process: nothing stands still.
  const judged = (): PciJudge =>
    new PciJudge(
      { config: (offset, size) => machine.configRead(bdf, offset, size), bar: (bar, offset, size) => machine.barRead(bdf, bar, offset, size) },
      new DriverJudge({ bytes: memory }, findings, false),
    );
  let judge: PciJudge | undefined = judged();
  const driver = new DriverWatch(where, findings);
  watches.push(driver);
  return {
    configRead: (offset, size) => judge?.configRead(offset, size),
    configWrite: (offset, size, value) => judge?.configWrite(offset, size, value),
    barRead: (bar, offset, size, value) => judge?.barRead(bar, offset, size, value),
    barWrite: (bar, offset, size, value) => judge?.barWrite(bar, offset, size, value),
    gone() {
      judge = judged();
    },
    moved() {
      judge = undefined;
      driver.loaded++;
    },
  };
}

const LOOK_EVERY_MS = 1;

/**
 * A judge for the driver whose rings a front end hands over. Nobody tells when it makes buffers available: its rings are looked at again and again, as long as this process has nothing
 * better to do, until `ends` are called.
 */
export function watchRings(path: string, watches: DriverWatch[], ends: (() => void)[]): VringWatch {
  const findings = new Findings();
  watches.push(new DriverWatch(path, findings));
  let rings: DriverJudge | undefined;
  const look = (): void => {
    rings?.look();
    rings?.served();
  };
  const timer = setInterval(look, LOOK_EVERY_MS);
  ends.push(() => clearInterval(timer));
  return {
    opened(features, memory) {
      rings = new DriverJudge({ bytes: memory }, findings, false);
      rings.negotiated(
        undefined,
        new Set(
          features.flatMap((word, window) =>
            Array.from({ length: 32 }, (_, bit) => bit)
              .filter((bit) => (word >>> bit) & 1)
              .map((bit) => 32 * window + bit),
          ),
        ),
      );
      rings.started();
    },
    started(index, { size, descriptorArea, driverArea, deviceArea }, { available, used }) {
      rings?.queueEnabled(index, {
        size,
        desc: descriptorArea,
        driver: driverArea,
        device: deviceArea,
        ...(available !== 0 && { from: available, usedFrom: used }),
      });
      look();
    },
    stopped(index) {
      look();
      rings?.queueStopped(index);
    },
  };
}
