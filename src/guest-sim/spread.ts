// A receiver that checks how frames were spread over its queues: each frame's hash computed anew from its bytes, compared with the one the device reports
// (HASH_REPORT, or a descriptor), and with the queue the frame came on (RSS).

import { LinearFrame } from './linear.ts';
import type { ReceivedFrame } from './net-receive.ts';
import type { Nic } from './nic.ts';
import { NET_HASH_TYPE } from './virtio-constants.ts';
import { Tallied, type Workload, type WorkloadResult } from './workload.ts';

export interface SpreadJob {
  readonly kind: 'spread';
  /** Done after this many frames; without it the receiver runs until it is stopped. */
  readonly count?: number;
}

/** By report value: no hash, then the hash types in the order of their bits. */
const KINDS = ['none', ...Object.keys(NET_HASH_TYPE)];

export class Spread extends Tallied implements Workload {
  readonly #count: number;
  readonly #net: Nic;
  readonly #linear = new LinearFrame();
  readonly #queues: number[];
  readonly #kinds = KINDS.map(() => 0);
  #hashed = 0;
  #agreed = 0;
  readonly nextDue = Infinity;

  constructor(job: SpreadJob, net: Nic) {
    super();
    this.#count = job.count ?? Infinity;
    this.#net = net;
    this.#queues = new Array<number>(net.receive.length).fill(0);
  }

  get done(): boolean {
    return this.tally.framesReceived >= this.#count;
  }
  step(): boolean {
    return false;
  }

  receive(frame: ReceivedFrame): void {
    const number = this.tally.framesReceived++;
    this.tally.bytesReceived += frame.length;
    this.#queues[frame.queue] = (this.#queues[frame.queue] as number) + 1;
    const { steering } = this.#net;
    const hash = steering?.flowHash;
    if (!steering || !hash) return;
    if (!this.#linear.load(frame)) {
      this.tally.fail(() => `frame ${number} has ${frame.length} bytes`);
      return;
    }
    if (hash.compute(this.#linear.views.u8, this.#linear.offset, frame.length)) this.#hashed++;
    this.#kinds[hash.report] = (this.#kinds[hash.report] as number) + 1;
    const told = !steering.reportsHashes || (hash.report === frame.hashReport && hash.value === frame.hashValue);
    const queue = steering.receiveQueue(hash.value, hash.report);
    if (told && (queue < 0 || queue === frame.queue)) this.#agreed++;
    else {
      const { report, value } = hash;
      const { hashReport, hashValue, queue: at } = frame;
      this.tally.fail(
        () => `frame ${number}: kind ${report} hash ${value} queue ${queue} here, kind ${hashReport} hash ${hashValue} queue ${at} from the device`,
      );
    }
  }

  result(): WorkloadResult {
    const queues = Object.fromEntries(this.#queues.map((n, i) => [`queue${i}`, n]));
    const kinds = Object.fromEntries(this.#kinds.map((n, i) => [`hash ${KINDS[i]}`, n]));
    return this.tally.result('spread', this.done, { hashed: this.#hashed, agreed: this.#agreed, ...queues, ...kinds });
  }
}
