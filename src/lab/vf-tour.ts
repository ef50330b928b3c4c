// The tour's last part: an 82576 whose seven virtual functions belong to guests with memory of their own. All of them and their host send to each other through the embedded
// switch; one pretends to be another and is caught; one is reset again and again under load, and its neighbours must not notice.

import type { Guest } from '#guest-sim/guest';
import type { ReceivedFrame } from '#guest-sim/net-receive';
import type { Workload } from '#guest-sim/workload';
import { pcapngFile } from './pcapng-file.ts';
import { VfGuests } from './vf-guests.ts';

/** Frames of each station to each other, in each of both rounds. */
const FRAMES = 500;
const SPOOFED = 10;
const RESETS = 5;
/** Steps after which a frame that was sent has arrived or never will. */
const SETTLE = 100;

export interface VfRow {
  /** By number of the virtual function; the host's comes last. */
  readonly station: string;
  readonly mac: string;
  readonly sent: number;
  readonly received: number;
  readonly lost: number;
  /** Spoofed frames heard; times its physical function caught it. */
  readonly spoofsHeard: number;
  readonly caught: number;
  /** While another virtual function was being reset: times this one was, and frames of the others that it missed. */
  readonly resets: number;
  readonly missed: number;
  readonly interrupts: number;
}

export interface VfTourResult {
  readonly vfs: number;
  readonly frames: number;
  readonly seconds: number;
  readonly framesPerSecond: number;
  readonly rows: readonly VfRow[];
  /** Accesses the IOMMU refused. */
  readonly faults: number;
  /** What was not as it should be; empty when all was. */
  readonly errors: readonly string[];
}

const text = (mac: Iterable<number>): string => [...mac].map((byte) => byte.toString(16).padStart(2, '0')).join(':');

/** Keeps what a guest receives. */
class Recorder {
  readonly frames: Uint8Array[] = [];

  receive(frame: ReceivedFrame): void {
    this.frames.push(Uint8Array.from({ length: frame.length }, (_, i) => frame.byte(i)));
  }
}

/** Runs this part. Returns its numbers and, by virtual function, what it received as a pcapng file. @throws IgbError when a driver does not come up */
export async function runVfTour(vfs: number): Promise<{ readonly result: VfTourResult; readonly captures: readonly Uint8Array[] }> {
  const lab = new VfGuests({ vfs });
  try {
    const stations = [...lab.guests, lab.host];
    lab.until(() => stations.every((guest) => guest.nic.configuration.linkUp), 'the link of all functions');
    const recorders = lab.guests.map((guest) => {
      const recorder = new Recorder();
      guest.tap = recorder;
      return recorder;
    });
    const errors: string[] = [];

    const began = performance.now();
    mesh(lab, stations, -1);
    lab.until(() => stations.every((guest) => guest.workload?.done), 'everybody’s frames');
    const seconds = (performance.now() - began) / 1000;
    const first = stations.map((guest) => guest.report());
    for (const [i, { errors: wrong }] of first.entries()) errors.push(...wrong.map((what) => `${nameOf(i, vfs)}: ${what}`));

    const heard = spoof(lab, stations);
    lab.host.igb.watchdog();
    const caught = lab.host.igb.vfs?.spoofs ?? [];
    if (heard.some((count) => count > 0)) errors.push('frames from another’s address were delivered');
    if ((caught[0] ?? 0) === 0) errors.push('the virtual function that pretended to be another was not caught');

    const victim = vfs >> 1;
    const { resets, missed } = resetUnderLoad(lab, stations, victim);
    for (const [i, count] of missed.entries())
      if (count > 0) errors.push(`${nameOf(i, vfs)} missed ${count} frames of its neighbours while ${nameOf(victim, vfs)} was reset`);
    for (const [i, guest] of stations.entries()) {
      if (guest.nic.broken !== '') errors.push(`${nameOf(i, vfs)}: ${guest.nic.broken}`);
      if (i !== victim) errors.push(...guest.report().errors.map((what) => `${nameOf(i, vfs)}: ${what}`));
    }
    const { records, lost } = lab.iommu.takeFaults();
    if (records.length + lost > 0) errors.push(`the IOMMU refused ${records.length + lost} accesses`);

    const frames = first.reduce((sum, { framesSent }) => sum + framesSent, 0);
    const rows = first.map(({ framesSent: sent, framesReceived: received, interrupts }, i) => ({
      station: nameOf(i, vfs),
      mac: text(stations[i]?.nic.configuration.mac ?? []),
      sent,
      received,
      lost: vfs * FRAMES - received,
      spoofsHeard: heard[i] ?? 0,
      caught: caught[i] ?? 0,
      resets: i === victim ? resets : 0,
      missed: missed[i] ?? 0,
      interrupts,
    }));
    const captures = recorders.map((recorder, i) =>
      pcapngFile(nameOf(i, vfs), (writer) => {
        for (const [n, bytes] of recorder.frames.entries()) writer.packet(bytes, Math.floor(n / 1e6), (n % 1e6) * 1000);
      }),
    );
    return { result: { vfs, frames, seconds, framesPerSecond: frames / seconds, rows, faults: records.length + lost, errors }, captures };
  } finally {
    await lab.close();
  }
}

function nameOf(station: number, vfs: number): string {
  return station < vfs ? `VF ${station}` : 'PF';
}

/** Everybody sends to everybody; nobody waits for frames of `victim`. */
function mesh(lab: VfGuests, stations: readonly Guest[], victim: number): Workload[] {
  const addresses = lab.stations;
  const others = stations.length - (victim < 0 ? 1 : 2);
  return stations.map((guest, self) => guest.start({ kind: 'mesh', self, stations: addresses, count: FRAMES, expect: self === victim ? 0 : others * FRAMES }));
}

/** The first virtual function sends broadcasts with the second one's address. Returns how many each station heard. */
function spoof(lab: VfGuests, stations: readonly Guest[]): number[] {
  const [liar] = lab.guests as [Guest];
  const works = stations.map((guest) => guest.start({ kind: 'sink', verify: 'none' }));
  const queue = liar.nic.transmit[0];
  for (let i = 0; queue && i < SPOOFED; i++) {
    const at = queue.reserve();
    if (at < 0) break;
    liar.arena.u8.fill(0, at, at + 60);
    liar.arena.u8.fill(0xff, at, at + 6);
    liar.arena.u8.set(lab.stations[1] ?? [], at + 6);
    liar.arena.u8.set([0x88, 0xb5], at + 12);
    queue.send(60);
    queue.flush();
  }
  for (let i = 0; i < SETTLE; i++) lab.step();
  return works.map((work) => work.framesReceived);
}

function resetUnderLoad(lab: VfGuests, stations: readonly Guest[], victim: number): { resets: number; missed: number[] } {
  const works = mesh(lab, stations, victim);
  const { igbvf } = lab.guests[victim] as Guest;
  const share = (lab.guests.length * FRAMES) / (RESETS + 1);
  let resets = 0;
  lab.until(() => {
    if (resets < RESETS && igbvf.isUp && (works[0]?.framesSent ?? 0) > share * resets) {
      igbvf.beginRecovery();
      resets++;
    }
    return works.every((work, i) => i === victim || work.done);
  }, 'the neighbours of a virtual function being reset');
  lab.until(() => igbvf.isUp, 'the virtual function that was reset');
  const missed = stations.map((guest, i) => {
    if (i === victim) return 0;
    const { details } = guest.report();
    return stations.reduce((sum, _, peer) => (peer === i || peer === victim ? sum : sum + FRAMES - (details[`received of ${peer}`] ?? 0)), 0);
  });
  return { resets, missed };
}
