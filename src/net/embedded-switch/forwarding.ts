// The data side of an embedded switch, on the thread that serves its segment: takes a batch, finds out for each frame what becomes of it (pipeline.ts), and deals frames out in order. Frames that follow each other to
// one port go as a run, and hold their sender back when that port is full; a frame for several ports is copied to each that has room. Ports are known by their names.

import { type Nanos, type TimeSource, WallClock } from '#core/clock';
import { DROP_FILTERED, DROP_LINK_DOWN, DROP_MALFORMED, DROP_NOT_READY } from '../counters.ts';
import { ACCEPTS_CSUM, FRAME_NEEDS_CSUM, type FrameBatch, type NetPort, NOT_SENT } from '../port.ts';
import type { Forwarding, Segment } from '../segment.ts';
import { SoftwareOffload } from '../software-offload.ts';
import { Effects } from './effects.ts';
import { FOLLOW_NOTHING, Followers } from './followers.ts';
import {
  ACCOUNT_DROPPED,
  ACCOUNT_FLOATS,
  ACCOUNT_FORWARDED,
  ACCOUNT_FRAMES,
  ACCOUNT_SENT_DROPS,
  CONFIG_RATES,
  type SwitchShare,
  SwitchTables,
  WHY_LINK_DOWN,
  WHY_MALFORMED,
  WHY_NO_PORT,
} from './layout.ts';
import { LinkGroup } from './link-group.ts';
import { Pacer } from './pacer.ts';
import { Patience } from './patience.ts';
import { Pipeline, type Reach } from './pipeline.ts';
import { representorOf } from './port-names.ts';
import { WORK_FRAMES, WorkFrames } from './work-frames.ts';

export const MAXIMUM_SEGMENT_PORTS = 1024;
/** Places that one frame finds free at least: what a rule's program can make of it. */
const PLACES_A_FRAME = 40;

export class EmbeddedForwarding implements Forwarding, Reach {
  readonly maximumPorts = MAXIMUM_SEGMENT_PORTS;
  readonly #tables: SwitchTables;
  readonly #clock: TimeSource;
  readonly #work = new WorkFrames();
  readonly #effects: Effects;
  readonly #pipeline: Pipeline;
  readonly #followers = new Followers(this.#work);
  readonly #pacer: Pacer;
  readonly #patience: Patience;
  readonly #offload = new SoftwareOffload();
  /** Ports and representors by name. */
  readonly #numbers = new Map<string, number>();
  /** Of each port and representor: its index on the segment, -1 while it is not there. */
  readonly #index: Int32Array;
  readonly #attached: (NetPort | undefined)[];
  /** Of each index on the segment: which port it is, -1 none of ours. */
  #port = new Int32Array(64).fill(-1);
  // The run: frames for one port, in places next to each other.
  #runPort = -1;
  #runFrom = 0;
  #runTo = 0;
  #runFrame = 0;
  #runNeeds = 0;
  #source = -1;
  /** Whose frames are looked at, if an uplink's; -1. */
  #uplink = -1;
  #now: Nanos = 0;

  constructor(tables: SwitchTables, clock: TimeSource) {
    this.#tables = tables;
    this.#clock = clock;
    const { names, uplinks } = tables.share;
    names.forEach((name, port) => {
      this.#numbers.set(name, port);
      this.#numbers.set(representorOf(name), names.length + port);
    });
    this.#index = new Int32Array(2 * names.length).fill(-1);
    this.#attached = new Array<NetPort | undefined>(2 * names.length).fill(undefined);
    this.#effects = new Effects(tables);
    const group = new LinkGroup(tables, (uplink) => uplink < uplinks && this.#attached[uplink]?.linkUp === true);
    this.#pipeline = new Pipeline(tables, this.#work, this.#effects, this, group);
    this.#pacer = new Pacer(tables);
    this.#patience = new Patience(names.length, uplinks);
  }

  /** For a segment on another thread than the switch's. @param reader as SwitchTables has it */
  static open(share: SwitchShare, clock: TimeSource = new WallClock(), reader?: Int32Array): EmbeddedForwarding {
    const tables = new SwitchTables(share, reader);
    // What an earlier thread has learnt is of that thread's time.
    tables.enter();
    tables.stations.clear();
    tables.leave();
    return new EmbeddedForwarding(tables, clock);
  }

  /** A port is known by its name; of two that have the same one, the later. */
  attach(index: number, port: NetPort): void {
    if (index >= this.#port.length) {
      const longer = new Int32Array(2 * index).fill(-1);
      longer.set(this.#port);
      this.#port = longer;
    }
    const number = this.#numbers.get(port.name) ?? -1;
    this.#port[index] = number;
    if (number < 0) return;
    this.#index[number] = index;
    this.#attached[number] = port;
    this.#pipeline.rearranged();
  }

  detach(index: number): void {
    const number = this.#port[index] as number;
    this.#port[index] = -1;
    if (number < 0 || this.#index[number] !== index) return;
    this.#index[number] = -1;
    this.#attached[number] = undefined;
    if (number < this.#tables.ports) this.#tables.stations.forgetPort(number);
    this.#pipeline.rearranged();
  }

  attached(port: number): boolean {
    return (this.#index[port] as number) >= 0;
  }

  relay(batch: FrameBatch, needs: number, source: number, segment: Segment): number {
    const port = this.#port[source] as number;
    if (port < 0) {
      segment.dropSent(batch, 0, batch.count, source, DROP_NOT_READY);
      return batch.count;
    }
    this.#tables.enter();
    try {
      return this.#relay(batch, needs, source, port, segment);
    } finally {
      this.#tables.leave();
    }
  }

  #relay(batch: FrameBatch, needs: number, source: number, port: number, segment: Segment): number {
    // Nothing of a batch before, should a port have thrown in it.
    this.#runPort = -1;
    this.#effects.revoke(0);
    const now = this.#clock.now();
    const { ports, share, config, time } = this.#tables;
    time[0] = now;
    const paced = config[CONFIG_RATES] !== 0 && port >= share.uplinks && port < ports;
    const admitted = paced ? this.#pacer.admit(batch, port, now) : batch.count;
    this.#source = source;
    this.#now = now;
    this.#uplink = port < share.uplinks ? port : -1;
    if (this.#uplink >= 0) this.#patience.goesOn(port, now);
    const dealt = this.#deal(batch, needs, admitted, port, segment, now);
    this.#effects.revoke(dealt);
    this.#runPort = -1;
    if (paced) this.#pacer.charge(batch, dealt, port);
    this.#account(port, ACCOUNT_FRAMES, dealt);
    // The segment's clock need not have begun when ours did.
    if (dealt === admitted && admitted < batch.count) segment.pause(source, segment.clock.now() + this.#pacer.until - now);
    return dealt;
  }

  #deal(batch: FrameBatch, needs: number, admitted: number, port: number, segment: Segment, now: Nanos): number {
    const pipeline = this.#pipeline;
    const work = this.#work;
    const effects = this.#effects;
    pipeline.begin(port, now);
    let place = 0;
    work.reset();
    for (let frame = 0; frame < admitted; frame++) {
      if (place > WORK_FRAMES - PLACES_A_FRAME || !work.hasRoom(batch.segmentCount[frame] as number)) {
        if (!this.#settle(batch, frame, port, segment)) return this.#runFrame;
        place = 0;
        work.reset();
      }
      effects.frame = frame;
      const need = needs === 0 ? 0 : (batch.needs[frame] as number);
      pipeline.take(batch, frame, place, need);
      if (pipeline.copies === 1 && pipeline.primaries === 1 && !pipeline.cut) {
        const target = pipeline.port[0] as number;
        const at = pipeline.placeOf[0] as number;
        if (target !== this.#runPort || at !== this.#runTo) {
          if (!this.#settle(batch, frame, port, segment)) return this.#runFrame;
          this.#runPort = target;
          this.#runFrom = at;
          this.#runFrame = frame;
          this.#runNeeds = 0;
        }
        work.assemble(batch, frame, at);
        this.#runNeeds |= work.needs[at] as number;
        place = at + 1;
        if (pipeline.follow !== FOLLOW_NOTHING) {
          const more = this.#followers.take(batch, frame + 1, admitted, at, needs, pipeline.follow);
          pipeline.followed(frame + 1, place, more);
          this.#runNeeds |= this.#followers.needs;
          place += more;
          frame += more;
        }
        this.#runTo = place;
        continue;
      }
      if (!this.#settle(batch, frame, port, segment)) return this.#runFrame;
      if (pipeline.cut) this.#cut(batch, frame, port, segment);
      else if (!this.#spread(batch, frame, port, segment)) return frame;
      effects.settle(frame + 1);
      place = 0;
      work.reset();
    }
    return this.#settle(batch, admitted, port, segment) ? admitted : this.#runFrame;
  }

  /** Sends the run. False: not all of it was taken, and `#runFrame` is the first frame that was not. */
  #settle(batch: FrameBatch, next: number, account: number, segment: Segment): boolean {
    if (this.#runPort < 0) return true;
    const { output } = this.#work;
    const from = this.#runFrom;
    const to = this.#runTo;
    output.count = to;
    const taken = this.#offer(this.#runNeeds, from, to, this.#runPort, segment);
    if (output.judged) {
      for (let i = 0; i < taken; i++) this.#judge(batch, this.#runFrame + i, from + i);
      output.judged = false;
    }
    this.#account(account, ACCOUNT_FORWARDED, taken);
    this.#runFrame += taken;
    this.#runPort = -1;
    this.#effects.settle(taken === to - from ? next : this.#runFrame);
    return taken === to - from;
  }

  /** Sends a frame's copies, other than the one copy of a run; or counts why there are none. False: its one destination does not take it now. */
  #spread(batch: FrameBatch, frame: number, account: number, segment: Segment): boolean {
    const pipeline = this.#pipeline;
    const single = pipeline.primaries === 1;
    if (single) {
      // The frame first: its mirrors' copies are made once it is away.
      for (let i = 0; i < pipeline.copies; i++)
        if (pipeline.isMirror[i] === 0 && !this.#offerOne(batch, frame, pipeline.port[i] as number, pipeline.placeOf[i] as number, segment)) return false;
    }
    this.#copyAll(batch, frame, segment, single);
    if (pipeline.primaries > 0) this.#account(account, ACCOUNT_FORWARDED, 1);
    else this.#drop(batch, frame, account, segment);
    return true;
  }

  #offerOne(batch: FrameBatch, frame: number, target: number, place: number, segment: Segment): boolean {
    const { output, needs } = this.#work;
    this.#work.reset();
    this.#work.assemble(batch, frame, place);
    output.count = place + 1;
    if (this.#offer(needs[place] as number, place, place + 1, target, segment) === 0) return false;
    this.#judge(batch, frame, place);
    return true;
  }

  /** Offers places from .. to - 1 to a port; returns how many were dealt with. */
  #offer(needs: number, from: number, to: number, target: number, segment: Segment): number {
    const { output } = this.#work;
    const index = this.#index[target] as number;
    const uplink = this.#uplink;
    // Of the software behind representors nobody is a stranger.
    if (uplink < 0 || target >= this.#tables.ports) return segment.offer(output, needs, from, to, this.#source, index);
    if (this.#patience.spent(target, this.#now)) {
      segment.copy(output, needs, from, to, this.#source, index);
      return to - from;
    }
    const taken = segment.offer(output, needs, from, to, this.#source, index);
    if (taken < to - from) this.#patience.held(uplink, target, this.#now);
    return taken;
  }

  #copyAll(batch: FrameBatch, frame: number, segment: Segment, mirrorsOnly: boolean): void {
    const pipeline = this.#pipeline;
    const work = this.#work;
    for (let i = 0; i < pipeline.copies; i++) {
      if (mirrorsOnly && pipeline.isMirror[i] === 0) continue;
      const place = pipeline.placeOf[i] as number;
      work.reset();
      work.assemble(batch, frame, place);
      work.output.count = place + 1;
      segment.copy(work.output, work.needs[place] as number, place, place + 1, this.#source, this.#index[pipeline.port[i] as number] as number);
      if (pipeline.isMirror[i] === 0) this.#judge(batch, frame, place);
    }
  }

  /** A large frame that a tunnel cannot take as a whole: each frame that it becomes goes its way, and is not held back. */
  #cut(batch: FrameBatch, frame: number, account: number, segment: Segment): void {
    const offload = this.#offload;
    const pipeline = this.#pipeline;
    this.#effects.revoke(frame);
    let sent = 0;
    let bytes = 0;
    let done = 0;
    for (;;) {
      offload.convert(batch, frame, ACCEPTS_CSUM, done);
      const pieces = offload.output;
      if (offload.total === 0) {
        pipeline.why = WHY_MALFORMED;
        if (done === 0) {
          this.#drop(batch, frame, account, segment);
          return;
        }
        break;
      }
      for (let piece = 0; piece < pieces.count; piece++) {
        pipeline.take(pieces, piece, 0, (pieces.flags[piece] as number) & FRAME_NEEDS_CSUM ? ACCEPTS_CSUM : 0);
        this.#copyAll(pieces, piece, segment, false);
        if (pipeline.primaries === 0) this.#drop(pieces, piece, account, segment);
        else {
          this.#account(account, ACCOUNT_FORWARDED, 1);
          sent++;
          bytes += pieces.length[piece] as number;
        }
      }
      done += pieces.count;
      if (done >= offload.total) break;
    }
    // As many more as it became were looked at; not as many as its headers say, which its sender can change meanwhile.
    this.#account(account, ACCOUNT_FRAMES, done - 1);
    batch.judge(frame, sent === 0 ? NOT_SENT : sent, bytes);
  }

  #drop(batch: FrameBatch, frame: number, account: number, segment: Segment): void {
    const { why } = this.#pipeline;
    this.#account(account, ACCOUNT_DROPPED, 1);
    this.#account(account, ACCOUNT_SENT_DROPS + why, 1);
    const reason = why === WHY_MALFORMED ? DROP_MALFORMED : why === WHY_LINK_DOWN ? DROP_LINK_DOWN : why === WHY_NO_PORT ? DROP_NOT_READY : DROP_FILTERED;
    segment.dropSent(batch, frame, frame + 1, this.#source, reason);
  }

  /** As how much it was sent is its source's to count. */
  #judge(batch: FrameBatch, frame: number, place: number): void {
    const { output } = this.#work;
    if (output.judged && output.sentAs[place] !== 0) batch.judge(frame, output.sentAs[place] as number, output.sentBytes[place] as number);
  }

  #account(port: number, word: number, amount: number): void {
    const { accounts } = this.#tables;
    const at = port * ACCOUNT_FLOATS + word;
    accounts[at] = (accounts[at] as number) + amount;
  }
}
