// A request that a bridge passed down and nobody below claimed, by address or by bus, device and function number. Reads return all ones, writes are gone; and who noticed says so: on a conventional bus the bridge by
// Received Master Abort (P2P bridge 1.2 3.2.5.7), on a link the function it reached, or the port itself when nobody is there, by an Unsupported Request
// (PCIe 4.0 2.2.8, 2.3.1). Requests that no bridge claims end in the root complex, which says nothing.

import { type AccessSize, allOnes, type Region } from '#core/region';
import { reportError } from './aer.ts';
import { UncorrectableError } from './aer-errors.ts';
import type { PciFunction } from './function.ts';
import type { DeadEnd } from './routing.ts';

const SECONDARY_STATUS = 0x1e;
const RECEIVED_MASTER_ABORT = 0x2000;
const TYPE_IO = 0x0200_0000;
const TYPE_CONFIG = 0x0400_0000;
const TYPE_CONFIG_1 = 0x0100_0000;
const FORMAT_DATA = 0x4000_0000;
const FORMAT_64_BIT = 0x2000_0000;

type Header = readonly [number, number, number, number];

/** What `bridge` passed down, or would have, has no taker; `reached` is who had it last. */
function refuse(bridge: PciFunction, reached: PciFunction, advisory: boolean, header: Header): void {
  const kind = bridge.secondaryBus?.kind;
  if (kind === 'conventional') {
    bridge.config.set16(SECONDARY_STATUS, bridge.config.get16(SECONDARY_STATUS) | RECEIVED_MASTER_ABORT);
    return;
  }
  const detector = kind === 'link' && bridge.forwards ? reached : bridge;
  reportError(detector, { kind: 'uncorrectable', error: UncorrectableError.unsupportedRequest, advisory, header });
}

/** A configuration request for `bdf` that ended at `place`. */
export function refuseConfig({ bridge, arrived }: DeadEnd, bdf: number, offset: number, size: AccessSize, writes: boolean): void {
  // 7.3.1: a port without ARI forwarding passes device 0 only, and refuses the others itself.
  const held = arrived && (bdf & 0xff) >= 8 && !bridge.ariForwarding;
  const reached = held ? bridge : (bridge.secondaryBus?.functions[0] ?? bridge);
  const first = TYPE_CONFIG | (arrived ? 0 : TYPE_CONFIG_1) | (writes ? FORMAT_DATA : 0) | 1;
  const enables = ((2 ** size - 1) << (offset & 3)) & 15;
  refuse(bridge, reached, true, [first, enables, ((bdf << 16) | (offset & 0xffc)) >>> 0, 0]);
}

/** A bridge's window where nothing below decodes. Offsets are addresses. */
export class UnclaimedWindow implements Region {
  readonly size = Number.MAX_SAFE_INTEGER;
  readonly #bridge: PciFunction;
  readonly #io: boolean;

  constructor(bridge: PciFunction, space: 'memory' | 'io') {
    this.#bridge = bridge;
    this.#io = space === 'io';
  }

  read(address: number, size: AccessSize): number {
    this.#abort(address, size, false);
    return allOnes(size);
  }

  write(address: number, size: AccessSize, _value: number): void {
    this.#abort(address, size, true);
  }

  #abort(address: number, size: AccessSize, writes: boolean): void {
    const bridge = this.#bridge;
    // 6.2.3.2.4.1: all but memory writes are answered with a completion, so the requester is the one to judge.
    const advisory = !(writes && !this.#io);
    refuse(bridge, bridge.secondaryBus?.functions[0] ?? bridge, advisory, this.#header(address, size, writes));
  }

  /** The request's header (2.2.1, 2.2.7): one dword from requester 0, the root complex. */
  #header(address: number, size: AccessSize, writes: boolean): Header {
    const enables = (2 ** size - 1) << (address & 3);
    const low = (address & ~3) >>> 0;
    const high = Math.floor(address / 2 ** 32);
    const first = (this.#io ? TYPE_IO : 0) | (writes ? FORMAT_DATA : 0) | (high !== 0 ? FORMAT_64_BIT : 0) | 1;
    return high === 0 ? [first, enables, low, 0] : [first, enables, high, low];
  }
}
