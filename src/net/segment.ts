// A segment: ports joined by a direct link or a switch, served by exactly one thread. `service` runs one round: each port that may have something gets one turn
// of collect, forward, deliver, flush, complete, within a budget. Nothing is kept between turns: what a full destination refuses goes back to its source
// (hold-back, in place of dropping late), and the source is left alone until there is room. Ports with nothing to do cost nothing: they are not in the round.

import { type Nanos, type TimeSource, WallClock } from '#core/clock';
import { viewsOf } from '#core/guest-memory';
import { DROP_LINK_DOWN, DROP_MALFORMED, DROP_RING_FULL } from './counters.ts';
import { framesWithin, inspectOffloads } from './offload-request.ts';
import { ACCEPTS_CSUM, FRAME_MALFORMED, FrameBatch, type NetPort, NOT_SENT, NOT_SENT_MALFORMED } from './port.ts';
import { SoftwareOffload } from './software-offload.ts';

/** What one port may move in one turn. */
export interface ServiceBudget {
  readonly frames: number;
  readonly bytes: number;
}

/** vhost-net's limits: one port cannot keep the thread from the others. */
const DEFAULT_BUDGET: ServiceBudget = { frames: 256, bytes: 512 * 1024 };

export interface SegmentOptions {
  readonly clock?: TimeSource;
  /**
   * On a segment of more than two ports: how long a port may refuse everything while it holds others back. After that it is stuck, and frames for it are dropped and
   * counted (ring-full) until it takes one again, so that its senders' other traffic goes on. Infinity: hold for ever.
   */
  readonly holdLimit?: Nanos;
  /** Rounds in which a port had nothing before it is left alone until woken. */
  readonly idleRounds?: number;
}

/** A port as a segment knows it. */
export interface Member {
  readonly index: number;
  readonly port: NetPort;
}

/** Decides where frames go. */
export interface Forwarding {
  readonly maximumPorts: number;
  /**
   * Deals with a batch that port `source` sent (`needs`: OR of batch.needs), through the segment's offer, copy and dropSent, in order. Returns how many leading
   * frames were dealt with.
   */
  relay(batch: FrameBatch, needs: number, source: number, segment: Segment): number;
  /** A port joined, at this index. */
  attach?(index: number, port: NetPort): void;
  /** Forgets what it knew of a port that leaves. */
  detach(index: number): void;
}

/** A list whose memory is kept when it empties: shortening an array frees it, and every turn would allocate it anew (measured). */
class MemberList {
  readonly items: SegmentMember[] = [];
  count = 0;

  add(member: SegmentMember): void {
    if (this.count === this.items.length) this.items.push(member);
    else this.items[this.count] = member;
    this.count++;
  }
}

class SegmentMember implements Member {
  readonly index: number;
  readonly port: NetPort;
  attached = true;
  /** In the round. */
  ready = false;
  idle = 0;
  /** Has deliveries that are not flushed yet. */
  touched = false;
  /** The port that refused this one's frames last. */
  blockedBy: SegmentMember | null = null;
  /** Its frames stay with it until then. */
  pausedUntil: Nanos = 0;
  /** Since when this port has taken nothing of what it was offered; -1: it takes frames. */
  fullSince: Nanos = -1;
  /** Of the frame this port offers next, converted: how many of its frames `partialTo` has already. */
  partial = 0;
  partialTo = -1;
  /** Which frame that is: after a reset of the source another one comes first, perhaps with the same token. */
  partialToken = 0;
  partialLength = 0;
  partialHeaders = 0;

  constructor(index: number, port: NetPort) {
    this.index = index;
    this.port = port;
  }
}

/** Frames that the GSO frames of one turn may become: the byte budget in segments of 128 bytes. */
const SEGMENTS_PER_TURN = 4096;
const DEFAULT_HOLD_LIMIT: Nanos = 1e9;
const DEFAULT_IDLE_ROUNDS = 4096;

export class Segment {
  readonly #forwarding: Forwarding;
  readonly #clock: TimeSource;
  readonly #holdLimit: Nanos;
  readonly #idleRounds: number;
  readonly #members: (SegmentMember | undefined)[] = [];
  readonly #attached: SegmentMember[] = [];
  /** The ready members, each once, in the order of their turns. */
  #next = new MemberList();
  /** The last round's list, kept for its memory. */
  #previous = new MemberList();
  readonly #touched = new MemberList();
  #serving = false;
  readonly #batch = new FrameBatch(viewsOf(new ArrayBuffer(8)));
  readonly #offload = new SoftwareOffload();
  #monitor: NetPort | undefined;

  constructor(forwarding: Forwarding, options: SegmentOptions = {}) {
    this.#forwarding = forwarding;
    this.#clock = options.clock ?? new WallClock();
    this.#holdLimit = options.holdLimit ?? DEFAULT_HOLD_LIMIT;
    this.#idleRounds = options.idleRounds ?? DEFAULT_IDLE_ROUNDS;
    if (!(this.#holdLimit >= 0)) throw new RangeError(`holdLimit ${this.#holdLimit}: nanoseconds, 0 or more (Infinity holds for ever)`);
    if (!(this.#idleRounds >= 1)) throw new RangeError(`idleRounds ${this.#idleRounds}: at least 1`);
  }

  /** Attaches a port and serves it from the next round on. Returns its index, the lowest free one. @throws RangeError when the segment takes no more. */
  addPort(port: NetPort): number {
    if (this.#attached.length >= this.#forwarding.maximumPorts) throw new RangeError(`this segment joins at most ${this.#forwarding.maximumPorts} ports`);
    let index = this.#members.indexOf(undefined);
    if (index < 0) index = this.#members.length;
    const member = new SegmentMember(index, port);
    this.#members[index] = member;
    this.#attached.push(member);
    this.#forwarding.attach?.(index, port);
    this.wake(index);
    return index;
  }

  /**
   * Detaches a port. When the rest of a converted GSO frame is still at its source, whoever serves the source next sends all of it: its receiver sees the first
   * segments twice (as TCP allows) rather than the last ones never.
   */
  removePort(index: number): void {
    const member = this.#members[index];
    if (member === undefined) return;
    member.attached = false;
    this.#members[index] = undefined;
    this.#attached.splice(this.#attached.indexOf(member), 1);
    // Another port may get this index.
    for (const other of this.#attached) if (other.partialTo === index) other.partialTo = -1;
    this.#forwarding.detach(index);
  }

  /**
   * A port that gets a copy of every frame that was dealt with, as its sender sent it, whether it was delivered or dropped. It sends nothing and holds nobody back: what it does
   * not take is counted there and lost to it. It should accept everything: what it gets is not converted.
   */
  set monitor(port: NetPort | undefined) {
    this.#monitor = port;
  }

  #observe(monitor: NetPort, batch: FrameBatch, done: number): void {
    const taken = monitor.deliver(batch, 0, done);
    if (taken < done) monitor.counters.receiveDropped(DROP_RING_FULL, done - taken);
    monitor.flush();
  }

  /** Attached ports. */
  get ports(): readonly Member[] {
    return this.#attached;
  }

  member(index: number): Member | undefined {
    return this.#members[index];
  }

  /** A port may have frames to send, or room: serve it (and who waits for it) from the next round on. */
  wake(index: number): void {
    const member = this.#members[index];
    if (member === undefined) return;
    member.idle = 0;
    if (member.ready) return;
    member.ready = true;
    this.#next.add(member);
  }

  /**
   * One round over the ready ports, at most one budget each. Returns whether any frame was dealt with. Called from inside a turn (an interrupt that a flush raised
   * made the guest kick, on the same thread), it leaves the work to the call that is under way, which then returns true.
   */
  service(budget: ServiceBudget = DEFAULT_BUDGET): boolean {
    if (this.#serving) return false;
    this.#serving = true;
    try {
      return this.#round(budget);
    } finally {
      this.#serving = false;
    }
  }

  #round(budget: ServiceBudget): boolean {
    const round = this.#next;
    this.#next = this.#previous;
    this.#previous = round;
    let worked = false;
    for (let i = 0; i < round.count; i++) {
      const member = round.items[i] as SegmentMember;
      if (!member.attached) {
        member.ready = false;
        continue;
      }
      if (this.#turn(member, budget)) worked = true;
      // Later rounds go in the order of this one, so every ready port gets its turn before any gets a second.
      if (member.ready) this.#next.add(member);
    }
    round.count = 0;
    return worked;
  }

  #turn(member: SegmentMember, budget: ServiceBudget): boolean {
    if (member.blockedBy !== null) {
      if (!this.#mayGoOn(member.blockedBy)) return false;
      this.#release(member.blockedBy);
    }
    if (this.#paused(member)) return false;
    const batch = this.#batch;
    const { port } = member;
    batch.clear();
    // A pause may end on another thread while the port is asked: it held its frames back if it was paused before or after.
    const paused = isPaused(port);
    if (port.collect(batch, budget.frames, budget.bytes) === 0) {
      if (!paused && !isPaused(port)) member.partialTo = -1;
      if (++member.idle >= this.#idleRounds && !port.awaitFrames()) member.ready = false;
      return false;
    }
    member.idle = 0;
    const collected = batch.count;
    let done = collected;
    if (port.linkUp) {
      const needs = inspectOffloads(batch);
      if ((needs & ~ACCEPTS_CSUM) !== 0) batch.count = framesWithin(batch, SEGMENTS_PER_TURN);
      done = this.#forwarding.relay(batch, needs, member.index, this);
      batch.count = collected;
    } else this.dropSent(batch, 0, done, member.index, DROP_LINK_DOWN);
    if (this.#monitor !== undefined && done > 0) this.#observe(this.#monitor, batch, done);
    try {
      this.#flush();
    } finally {
      // Also when an interrupt sink of the embedder's threw in there: what was collected must go back, or it would be forgotten.
      port.complete(batch, done);
    }
    return done > 0;
  }

  /** A port is off the list before it is flushed: what throws leaves the others to the next turn. */
  #flush(): void {
    while (this.#touched.count > 0) {
      const touched = this.#touched.items[--this.#touched.count] as SegmentMember;
      touched.touched = false;
      touched.port.flush();
    }
  }

  #paused(member: SegmentMember): boolean {
    return member.pausedUntil > 0 && this.#clock.now() < member.pausedUntil;
  }

  #mayGoOn(blocker: SegmentMember): boolean {
    return !blocker.attached || blocker.port.hasRoom || !blocker.port.linkUp || this.#stuck(blocker);
  }

  /** Who waited for a port tries again, all of them: one that has several rings may say only once that one of them has room, not whose. */
  #release(blocker: SegmentMember): void {
    const members = this.#attached;
    for (let i = 0; i < members.length; i++) {
      const member = members[i] as SegmentMember;
      if (member.blockedBy === blocker) member.blockedBy = null;
    }
  }

  #stuck(member: SegmentMember): boolean {
    return member.fullSince >= 0 && this.#attached.length > 2 && this.#clock.now() - member.fullSince >= this.#holdLimit;
  }

  /**
   * Before sleeping: asks every ready port to say when there is work. Returns true when some has work already (then go on). False: sleep until a wake, or until
   * `nextDeadline`, after which `service` finds ports to go on with.
   */
  rest(): boolean {
    let work = false;
    let kept = 0;
    for (let i = 0; i < this.#next.count; i++) {
      const member = this.#next.items[i] as SegmentMember;
      const blocker = member.blockedBy;
      if (!member.attached) {
        member.ready = false;
        continue;
      }
      if (blocker === null) {
        if (this.#paused(member)) {
          this.#next.items[kept++] = member;
          continue;
        }
        if (!member.port.awaitFrames()) {
          member.ready = false;
          continue;
        }
        work = true;
      } else if (this.#mayGoOn(blocker) || blocker.port.awaitRoom()) {
        // A blocked port stays in the round either way: looking at it costs little, and its hold may end by time alone.
        this.#release(blocker);
        work = true;
      }
      this.#next.items[kept++] = member;
    }
    this.#next.count = kept;
    return work;
  }

  /** When the first pause or hold ends, which needs a `service` although nobody woke the segment; undefined when nothing is held, or for ever. */
  get nextDeadline(): Nanos | undefined {
    let deadline = this.nextResume;
    if (this.#holdLimit === Infinity || this.#attached.length <= 2) return deadline;
    for (const { blockedBy } of this.#attached) {
      if (blockedBy === null || blockedBy.fullSince < 0) continue;
      const ends = blockedBy.fullSince + this.#holdLimit;
      if (deadline === undefined || ends < deadline) deadline = ends;
    }
    return deadline;
  }

  /** When the first pause ends, by the segment's clock; undefined: nobody is paused. */
  get nextResume(): Nanos | undefined {
    let first: Nanos | undefined;
    for (const member of this.#attached) if (this.#paused(member) && (first === undefined || member.pausedUntil < first)) first = member.pausedUntil;
    return first;
  }

  get clock(): TimeSource {
    return this.#clock;
  }

  // ---- for forwarding, inside a turn ----

  /** A port's further frames stay with it until then: who sends too much too early. */
  pause(source: number, until: Nanos): void {
    (this.#members[source] as SegmentMember).pausedUntil = until;
  }

  /** batch[from] .. batch[to - 1] go nowhere, counted at their source. @param reason DROP_* */
  dropSent(batch: FrameBatch, from: number, to: number, source: number, reason: number): void {
    this.#members[source]?.port.counters.transmitDropped(reason, to - from);
    for (let f = from; f < to; f++) batch.judge(f, reason === DROP_MALFORMED ? NOT_SENT_MALFORMED : NOT_SENT, 0);
  }

  /**
   * Offers batch[from] .. batch[to - 1] to one port, done in software where it does not accept what they ask. Returns how many were dealt with; fewer than offered
   * hold the source back. A stuck port holds nobody: what it refuses is dropped.
   */
  offer(batch: FrameBatch, needs: number, from: number, to: number, source: number, destination: number): number {
    const sender = this.#members[source] as SegmentMember;
    const receiver = this.#members[destination] as SegmentMember;
    const frames = to - from;
    const { port } = receiver;
    if (!port.linkUp) {
      port.counters.receiveDropped(DROP_LINK_DOWN, frames);
      return frames;
    }
    this.#touch(receiver);
    const dealt = (needs & ~port.accepts) === 0 ? port.deliver(batch, from, to) : this.#deliverMixed(batch, from, to, sender, receiver);
    if (dealt > 0) receiver.fullSince = -1;
    if (dealt === frames) return frames;
    if (receiver.fullSince < 0) receiver.fullSince = this.#clock.now();
    else if (this.#stuck(receiver)) {
      sender.partialTo = -1;
      port.counters.receiveDropped(DROP_RING_FULL, frames - dealt);
      port.overrun?.(batch, from + dealt, to);
      return frames;
    }
    sender.blockedBy = receiver;
    return dealt;
  }

  /** Gives one port its copy of flooded frames. Copies that do not fit are dropped and counted: one full port must not hold up what is meant for all. */
  copy(batch: FrameBatch, needs: number, from: number, to: number, source: number, destination: number): void {
    const sender = this.#members[source] as SegmentMember;
    const receiver = this.#members[destination] as SegmentMember;
    const { port } = receiver;
    if (!port.linkUp) {
      port.counters.receiveDropped(DROP_LINK_DOWN, to - from);
      return;
    }
    this.#touch(receiver);
    const dealt = (needs & ~port.accepts) === 0 ? port.deliver(batch, from, to) : this.#deliverMixed(batch, from, to, sender, receiver);
    if (dealt > 0) receiver.fullSince = -1;
    if (dealt === to - from) return;
    sender.partialTo = -1;
    port.counters.receiveDropped(DROP_RING_FULL, to - from - dealt);
    port.overrun?.(batch, from + dealt, to);
  }

  #touch(member: SegmentMember): void {
    if (member.touched) return;
    member.touched = true;
    this.#touched.add(member);
  }

  /** Runs that the receiver accepts go as they are, the frames between them converted. Returns how many frames were dealt with. */
  #deliverMixed(batch: FrameBatch, from: number, to: number, sender: SegmentMember, receiver: SegmentMember): number {
    const { needs } = batch;
    const { port } = receiver;
    // FRAME_MALFORMED is in no receiver's accepts.
    const refused = ~port.accepts;
    let at = from;
    while (at < to) {
      const need = needs[at] as number;
      if ((need & FRAME_MALFORMED) !== 0) {
        this.dropSent(batch, at, at + 1, sender.index, DROP_MALFORMED);
        at++;
      } else if ((need & refused) !== 0) {
        if (!this.#deliverConverted(batch, at, sender, receiver)) break;
        at++;
      } else {
        let end = at + 1;
        while (end < to && ((needs[end] as number) & refused) === 0) end++;
        at += port.deliver(batch, at, end);
        if (at < end) break;
      }
    }
    return at - from;
  }

  /** Delivers what one frame becomes; false when the receiver filled up on the way: the sender remembers how far it came. */
  #deliverConverted(batch: FrameBatch, frame: number, sender: SegmentMember, receiver: SegmentMember): boolean {
    const offload = this.#offload;
    const { port } = receiver;
    const token = batch.token[frame] as number;
    const length = batch.length[frame] as number;
    // The first of its ring; but a port may have put a frame of its own (PAUSE) before it.
    const resumes = sender.partialTo === receiver.index && sender.partialToken === token && sender.partialLength === length;
    let done = resumes ? sender.partial : 0;
    offload.convert(batch, frame, port.accepts, done);
    if (resumes && offload.headerSum !== sender.partialHeaders) {
      done = 0;
      offload.convert(batch, frame, port.accepts, 0);
    }
    sender.partialTo = -1;
    for (;;) {
      if (offload.total === 0) {
        this.dropSent(batch, frame, frame + 1, sender.index, DROP_MALFORMED);
        return true;
      }
      if (batch.gsoType[frame] !== 0) batch.judge(frame, offload.total, offload.bytes);
      const offered = offload.output.count;
      const taken = port.deliver(offload.output, 0, offered);
      done += taken;
      if (taken > 0) receiver.fullSince = -1;
      if (taken < offered) {
        sender.partial = done;
        sender.partialTo = done > 0 ? receiver.index : -1;
        sender.partialToken = token;
        sender.partialLength = length;
        sender.partialHeaders = offload.headerSum;
        return false;
      }
      if (done >= offload.total) return true;
      offload.convert(batch, frame, port.accepts, done);
    }
  }
}

const isPaused = (port: NetPort): boolean => port.paused === true;
