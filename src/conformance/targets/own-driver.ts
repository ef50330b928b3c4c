// This project's own driver (guest-sim), watched while it sets a device up, sends and receives.

import { InlineSegment } from '#backends/inline-backend';
import type { GuestBus } from '#core/guest-bus';
import { Guest } from '#guest-sim/guest';
import { DirectLink } from '#net/direct-link';
import { Segment } from '#net/segment';
import { Machine } from '#nicbox/machine';
import { WATCHED, WatchedBus } from '../driver-watch.ts';
import type { CaseResult, Report } from '../runner.ts';
import { Cable } from './cable.ts';

const FRAMES = 40;
const STEPS = 20_000;

/** Where a fault may sit: between the driver and who watches it. */
export type BusWrap = (watched: WatchedBus) => GuestBus;

async function scenario(ring: 'split' | 'packed', wrap: BusWrap): Promise<CaseResult> {
  const started = performance.now();
  const deferred: (() => void)[] = [];
  const segment = new InlineSegment(new Segment(new DirectLink()), { defer: (work) => void deferred.push(work) });
  const cable = new Cable();
  segment.addPort(cable);
  const machine = new Machine({ memory: 64 * 2 ** 20 });
  const { pci } = machine.addVirtioNet({ mac: '52:54:00:c0:ff:ee', backend: segment.port('watched') });
  const watched = new WatchedBus(machine.localBus(), pci.fn.requesterId);
  let reason: string | undefined;
  try {
    const guest = new Guest(wrap(watched), { net: { ring } });
    const work = guest.start({ kind: 'generate', count: FRAMES, sizes: [60, 1514], checksumOffload: false });
    for (let n = 0; n < STEPS && !work.done; n++) {
      guest.step();
      for (const later of deferred.splice(0)) later();
      machine.service();
    }
    if (cable.take().length < FRAMES) reason = 'the driver did not send what it was to send';
  } catch (error) {
    reason = (error as Error).message;
  }
  await machine.close();
  const failures = watched.checks.filter((check) => !check.holds);
  const broken = new Set(failures.map(({ clause }) => clause));
  const name = `driver/initialisation-and-traffic [${ring}]`;
  return {
    case: 'driver/initialisation-and-traffic',
    name,
    clauses: WATCHED,
    verdict: failures.length > 0 || reason !== undefined ? 'fail' : 'pass',
    held: [...new Set(watched.checks.filter(({ clause }) => !broken.has(clause)).map(({ clause }) => clause))],
    failures,
    ...(reason !== undefined && { reason }),
    milliseconds: performance.now() - started,
  };
}

/** The driver's report: a result for each ring format. */
export async function watchOwnDriver(wrap: BusWrap = (watched) => watched): Promise<Report> {
  const started = performance.now();
  const results = [await scenario('split', wrap), await scenario('packed', wrap)];
  return { target: "nicbox's driver", results, milliseconds: performance.now() - started };
}
