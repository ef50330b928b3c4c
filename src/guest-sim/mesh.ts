// One of several guests who all send to each other: unicast frames to every peer in turn, and a check that only what was meant for this one arrives, in order by sender, whole.

import { copyBytes } from '#core/copy';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import type { GuestArena } from './arena.ts';
import { LinearFrame } from './linear.ts';
import type { ReceivedFrame } from './net-receive.ts';
import type { Nic, NicTransmitQueue } from './nic.ts';
import { checksumsHold, Headers } from './packets.ts';
import { buildFrame, readFlow, readSequence, SHORTEST_FRAME, stampSequence, UDP_PAYLOAD } from './test-frame.ts';
import { drained, Tallied, type Workload, type WorkloadResult } from './workload.ts';

export interface MeshJob {
  readonly kind: 'mesh';
  /** This guest's number, below 64, and everybody's address by number; its own is left out. Undefined: nobody has that number. */
  readonly self: number;
  readonly stations: readonly (readonly number[] | undefined)[];
  /** Frames to each peer. */
  readonly count: number;
  /** Done when everything is sent and so many have come. Default: as many as are sent. */
  readonly expect?: number;
  /** Frame size without FCS, at most 1514. Default 60. */
  readonly size?: number;
  /** Frames to a peer before it is the next one's turn. Default 8. */
  readonly burst?: number;
}

const MOST_STATIONS = 64;
const LONGEST = 1514;

export class Mesh extends Tallied implements Workload {
  readonly #job: MeshJob;
  readonly #arena: GuestArena;
  readonly #peers: readonly number[];
  readonly #linear = new LinearFrame();
  readonly #headers = new Headers();
  /** By station: the next frame to it, and the next one expected of it. */
  readonly #next = new Float64Array(MOST_STATIONS);
  readonly #expected = new Float64Array(MOST_STATIONS);
  readonly #templates: (ByteViews | undefined)[] = [];
  /** By station: frames of it that are missing between those that came. */
  readonly #lost = new Float64Array(MOST_STATIONS);
  readonly #received = new Float64Array(MOST_STATIONS);
  #turn = 0;
  #others = 0;
  readonly nextDue = Infinity;
  done = false;

  /** @throws RangeError */
  constructor(job: MeshJob, arena: GuestArena) {
    super();
    const { size = SHORTEST_FRAME, stations, self } = job;
    if (!(Number.isInteger(size) && size >= SHORTEST_FRAME && size <= LONGEST))
      throw new RangeError(`frame size ${size} is not in ${SHORTEST_FRAME}..${LONGEST}`);
    if (stations.length > MOST_STATIONS || self >= MOST_STATIONS) throw new RangeError(`at most ${MOST_STATIONS} stations`);
    this.#job = job;
    this.#arena = arena;
    this.#peers = stations.flatMap((address, i) => (address && i !== self ? [i] : []));
  }

  step(net: Nic): boolean {
    const total = this.#peers.length * this.#job.count;
    if (this.tally.framesSent >= total) {
      if (this.tally.framesReceived >= (this.#job.expect ?? total)) this.done = drained(net);
      return this.done;
    }
    const peer = this.#peers[this.#turn] as number;
    this.#turn = (this.#turn + 1) % this.#peers.length;
    const queue = net.transmit[peer % net.transmit.length];
    if (!queue) return false;
    return this.#send(net, queue, peer) || queue.awaitRoom();
  }

  #send(net: Nic, queue: NicTransmitQueue, peer: number): boolean {
    const { size = SHORTEST_FRAME, burst = 8, count } = this.#job;
    const most = Math.min(burst, count - (this.#next[peer] as number));
    let sent = 0;
    for (; sent < most; sent++) {
      const at = queue.reserve();
      if (at < 0) break;
      copyBytes(this.#arena.views, at, this.#template(net, peer, size), 0, size);
      stampSequence(this.#arena.views, at, UDP_PAYLOAD, this.#next[peer] as number);
      this.#next[peer] = (this.#next[peer] as number) + 1;
      queue.send(size);
    }
    queue.flush();
    this.tally.framesSent += sent;
    this.tally.bytesSent += sent * size;
    return sent > 0 || most === 0;
  }

  #template(net: Nic, peer: number, size: number): ByteViews {
    const known = this.#templates[peer];
    if (known) return known;
    const views = viewsOf(new SharedArrayBuffer(Math.ceil(size / 8) * 8));
    const destination = Uint8Array.from(this.#job.stations[peer] ?? []);
    buildFrame(views.u8, 0, { size, tcp: false, flow: (this.#job.self << 6) | peer, source: net.configuration.mac, destination, unfilled: false });
    this.#templates[peer] = views;
    return views;
  }

  receive(frame: ReceivedFrame): void {
    if (!this.#linear.load(frame)) return;
    const { views, offset } = this.#linear;
    const h = this.#headers;
    const sequence = frame.length < SHORTEST_FRAME ? -1 : readSequence(views, offset + UDP_PAYLOAD);
    if (sequence === -1 || !h.parse(views.u8, offset, frame.length)) {
      this.#others++;
      return;
    }
    this.tally.framesReceived++;
    this.tally.bytesReceived += frame.length;
    const flow = readFlow(views, offset + UDP_PAYLOAD);
    const from = (flow >>> 6) & (MOST_STATIONS - 1);
    const to = flow & (MOST_STATIONS - 1);
    if (sequence < 0 || !checksumsHold(views.u8, offset, h)) this.tally.fail(() => `a damaged frame of station ${from}`);
    else if (to !== this.#job.self) this.tally.fail(() => `station ${this.#job.self} got a frame of ${from} to ${to}`);
    else if (sequence < (this.#expected[from] as number))
      this.tally.fail(() => `station ${from}: frame ${sequence} after ${(this.#expected[from] as number) - 1}: repeated or out of order`);
    else {
      this.#lost[from] = (this.#lost[from] as number) + sequence - (this.#expected[from] as number);
      this.#expected[from] = sequence + 1;
      this.#received[from] = (this.#received[from] as number) + 1;
    }
  }

  result(): WorkloadResult {
    const lost = this.#peers.map((peer) => [`lost of ${peer}`, this.#lost[peer] as number] as const);
    const received = this.#peers.map((peer) => [`received of ${peer}`, this.#received[peer] as number] as const);
    return this.tally.result('mesh', this.done, { others: this.#others, ...Object.fromEntries([...lost, ...received]) });
  }
}
