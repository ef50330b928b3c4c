// Who acts in the model of the SR-IOV experiment, each with a time of its own: the processors of the guests, and what switches, a processor of the host's or a NIC. What an actor does happens at once when its turn begins, and then costs it time.

import type { SegmentServer } from '#backends/segment-server';
import type { Nanos } from '#core/clock';
import type { Nic } from '#guest-sim/nic';
import type { FrameBatch, NetPort } from '#net/port';
import type { Forwarding, Segment, ServiceBudget } from '#net/segment';
import type { Container, ContainerGuest } from './container-guest.ts';
import type { OffloadCosts } from './sriov-costs.ts';

/** Of one ring in a turn: what a turn does shows at its beginning, so turns are to be short. */
export const HOST_BUDGET: ServiceBudget = { frames: 16, bytes: 65_536 };
export const NIC_BUDGET: ServiceBudget = { frames: 64, bytes: 65_536 };

export interface Actor {
  readonly name: string;
  /** When its next turn is due. */
  time: Nanos;
  asleep: boolean;
  /** Busy so far. */
  spent: Nanos;
  step(): void;
}

/** Counts what a switch deals with. */
export class MeteredForwarding implements Forwarding {
  readonly maximumPorts: number;
  frames = 0;
  bytes = 0;
  readonly #inner: Forwarding;

  constructor(inner: Forwarding) {
    this.#inner = inner;
    this.maximumPorts = inner.maximumPorts;
  }

  relay(batch: FrameBatch, needs: number, source: number, segment: Segment): number {
    const done = this.#inner.relay(batch, needs, source, segment);
    this.frames += done;
    for (let i = 0; i < done; i++) this.bytes += batch.length[i] as number;
    return done;
  }

  attach(index: number, port: NetPort): void {
    this.#inner.attach?.(index, port);
  }

  detach(index: number): void {
    this.#inner.detach(index);
  }
}

export interface Switching extends Actor {
  /** Woken so far. */
  readonly wakes: number;
  /** A doorbell of its was rung. Returns what that costs who rang, beside the doorbell. */
  rung(at: Nanos): Nanos;
}

/** Serves a segment while there is something to do; what a turn takes is the deriving class's. */
abstract class Switch implements Switching {
  abstract readonly name: string;
  time: Nanos = 0;
  /** Not at first: a ring asks to be told only once it was looked at. */
  asleep = false;
  spent: Nanos = 0;
  wakes = 0;
  protected readonly costs: OffloadCosts;
  readonly #server: SegmentServer;
  readonly #meter: MeteredForwarding;

  constructor(server: SegmentServer, meter: MeteredForwarding, costs: OffloadCosts) {
    this.#server = server;
    this.#meter = meter;
    this.costs = costs;
  }

  abstract rung(at: Nanos): Nanos;

  step(): void {
    const { frames, bytes } = this.#meter;
    if (!this.#server.turn() && !this.#server.rest()) this.asleep = true;
    else this.took(this.#meter.frames - frames, this.#meter.bytes - bytes);
  }

  /** A turn dealt with so much: charges it. */
  protected abstract took(frames: number, bytes: number): void;
}

/** vhost-net and the switch behind it, on one processor of the host's: sleeps as soon as there is nothing to do. */
export class HostProcessor extends Switch {
  readonly name = 'host';

  rung(at: Nanos): Nanos {
    if (!this.asleep) return 0;
    this.asleep = false;
    this.wakes++;
    this.time = at + this.costs.wake;
    return this.costs.notify;
  }

  protected took(frames: number, bytes: number): void {
    const { hostTurn, hostFrame, hostByte } = this.costs;
    const cost = hostTurn + frames * hostFrame + bytes * hostByte;
    this.spent += cost;
    this.time += cost;
  }
}

/** A NIC's embedded switch: frames and bytes at its pipeline's rate. It looks at its rings again after its latency, so that what comes while it works is not taken at once. */
export class NicPipeline extends Switch {
  readonly name = 'NIC';

  rung(at: Nanos): Nanos {
    if (this.asleep) {
      this.asleep = false;
      this.time = Math.max(this.time, at + this.costs.nicLatency);
    }
    return 0;
  }

  protected took(frames: number, bytes: number): void {
    const { nicFrame, nicByte, nicLatency } = this.costs;
    const cost = Math.max(frames * nicFrame, bytes * nicByte);
    this.spent += cost;
    this.time += Math.max(cost, nicLatency);
  }
}

/** One processor of a guest: some of its containers, and of the first one the NIC below a bridge as well. */
export class GuestProcessor implements Actor {
  readonly name: string;
  time: Nanos = 0;
  asleep = false;
  spent: Nanos = 0;
  readonly #guest: ContainerGuest;
  /** The physical function is this one's to look after. */
  readonly #first: boolean;
  readonly #containers: readonly Container[];
  readonly #switching: Switching;
  readonly #costs: OffloadCosts;
  #next = 0;
  /** Interrupts charged so far. */
  #interrupts = 0;

  constructor(name: string, guest: ContainerGuest, first: boolean, containers: readonly Container[], switching: Switching, costs: OffloadCosts) {
    this.name = name;
    this.#guest = guest;
    this.#first = first;
    this.#containers = containers;
    this.#switching = switching;
    this.#costs = costs;
  }

  step(): void {
    const interrupts = this.#taken;
    let cost = (interrupts - this.#interrupts) * this.#costs.interrupt;
    this.#interrupts = interrupts;
    // A turn for each that it looks after, until one had something to do.
    const turns = this.#containers.length + 1;
    let busy = cost > 0;
    for (let i = 0; i < turns && !busy; i++) {
      const turn = this.#next;
      this.#next = turn + 1 === turns ? 0 : turn + 1;
      const took = turn === 0 ? this.#lookAtNic() : this.#serve(this.#containers[turn - 1] as Container);
      if (took >= 0) {
        cost += took;
        busy = true;
      }
    }
    if (!busy) {
      this.asleep = true;
      return;
    }
    this.spent += cost;
    this.time += Math.max(cost, 1);
  }

  /** An interrupt of a device that it looks after is not dealt with yet. */
  get interrupted(): boolean {
    return this.#taken !== this.#interrupts;
  }

  get #taken(): number {
    let taken = this.#first ? this.#guest.guest.nic.interrupts : 0;
    for (const { nic } of this.#containers) taken += nic.interrupts;
    return taken;
  }

  /** Another processor has left it something to do: a frame for a container of its own, or room. */
  get called(): boolean {
    const { bridge, guest } = this.#guest;
    if (bridge === undefined) return false;
    const [receive] = guest.net.receive;
    const [transmit] = guest.net.transmit;
    if (this.#first && receive?.refused) return true;
    const room = transmit !== undefined && transmit.outstanding < transmit.buffers;
    for (const { bridged } of this.#containers) {
      if (bridged === undefined) continue;
      if (bridged.arrived.frames > 0 || (room && bridged.transmit[0].outstanding > 0)) return true;
    }
    return false;
  }

  /** Nanoseconds; -1: there was nothing. */
  #lookAtNic(): Nanos {
    if (!this.#first) return -1;
    const { guest, bridge } = this.#guest;
    const arrived = bridge?.arrived ?? 0;
    const rung = this.#rings(guest.nic);
    this.#guest.stepNic();
    const frames = (bridge?.arrived ?? 0) - arrived;
    const { driverReceive, bridge: bridged, veth } = this.#costs;
    const busy = frames > 0 || guest.nic.kicks !== rung.kicks;
    return busy ? this.#left(guest.nic, rung, frames * (driverReceive + bridged + veth)) : -1;
  }

  #serve(container: Container): Nanos {
    const { bridge, guest } = this.#guest;
    const { workload } = container;
    const uplink = bridge === undefined ? container.nic : guest.nic;
    const rung = this.#rings(uplink);
    const [sent, sentBytes, received, receivedBytes] = [workload.framesSent, workload.bytesSent, workload.framesReceived, workload.bytesReceived];
    let busy = this.#guest.step(container);
    const { send, receive, userByte, veth, driverSend, driverReceive, bridge: bridged } = this.#costs;
    let cost =
      (workload.framesSent - sent) * send +
      (workload.framesReceived - received) * receive +
      (workload.bytesSent - sentBytes + workload.bytesReceived - receivedBytes) * userByte;
    if (bridge === undefined) cost += (workload.framesSent - sent) * driverSend + (workload.framesReceived - received) * driverReceive;
    else {
      const [forwarded, departed] = [bridge.forwarded, bridge.departed];
      if (bridge.stepPort(container.number)) busy = true;
      const [passed, left] = [bridge.forwarded - forwarded, bridge.departed - departed];
      cost += (workload.framesSent - sent) * veth + passed * bridged + left * driverSend + (passed - left) * veth;
    }
    return busy || uplink.kicks !== rung.kicks ? this.#left(uplink, rung, cost) : -1;
  }

  #rings(nic: Nic): { readonly kicks: number; readonly exits: number } {
    return { kicks: nic.kicks, exits: this.#guest.guest.bus.counts.exits };
  }

  /** With what leaving the guest took: doorbells, and exits other than by them. */
  #left(nic: Nic, before: { readonly kicks: number; readonly exits: number }, cost: Nanos): Nanos {
    const after = this.#rings(nic);
    const kicks = after.kicks - before.kicks;
    const all = cost + kicks * this.#costs.kick + (after.exits - before.exits - kicks) * this.#costs.exit;
    return kicks === 0 ? all : all + this.#switching.rung(this.time + all);
  }
}
