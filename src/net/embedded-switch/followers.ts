// Frames that follow one of the same flow, taken together: their headers copied into private memory, held against those of the one they follow, and ready to be sent on, in one loop without a call. What a
// sender has just written lies in another processor's cache, and only in such a loop is more than one frame's way from there under way (measured: `lab run sriov-offload`, and on one thread bench/embedded-switch.ts).

import type { ByteViews } from '#core/guest-memory';
import { swap16 } from '../checksum.ts';
import { ETHERTYPE_QINQ, ETHERTYPE_VLAN, PROTOCOL_TCP } from '../headers.ts';
import { ACCEPTS_CSUM, FRAME_NEEDS_CSUM, type FrameBatch, GSO_NONE } from '../port.ts';
import { ETHERTYPE_IPV4 } from './frame-key.ts';
import { CHECKSUM_SIGHT, IPV4_PLAIN, isTransportSum } from './soundness.ts';
import { FIRST_LOOK, HEADROOM, SLOT, WHOLE, WORK_FRAMES, type WorkFrames } from './work-frames.ts';

const SHORTEST = 14;
/** Bytes 12 to 14 of a frame with an IPv4 header without options, as the low bytes of a word. */
const PLAIN_IPV4 = swap16(ETHERTYPE_IPV4) | (IPV4_PLAIN << 16);
const LOW_HALF = 0xffff;
const HIGH_HALF = -0x10000;
/** In the last byte of a word. */
const TCP_FLAGS = -0x1000000;
// As they lie in the low half of a word.
const VLAN = swap16(ETHERTYPE_VLAN);
const QINQ = swap16(ETHERTYPE_QINQ);

// What decided about the frame that others follow.
export const FOLLOW_NOTHING = 0;
/** Its Ethernet header alone. */
export const FOLLOW_LINK = 1;
/** Something behind it as well: of TCP and UDP over IPv4 without options all that a key is made of (frame-key.ts) is held against it. */
export const FOLLOW_FLOW = 2;

export class Followers {
  /** OR of what those of the last `take` need. */
  needs = 0;
  readonly #work: WorkFrames;

  constructor(work: WorkFrames) {
    this.#work = work;
  }

  /**
   * Frames from batch[frame] on, below `to`, that go where the one at `place` goes: put, assembled, into the places after it. Returns how many.
   * @param needs OR of the batch's
   * @param by FOLLOW_LINK or FOLLOW_FLOW
   */
  take(batch: FrameBatch, frame: number, to: number, place: number, needs: number, by: number): number {
    const work = this.#work;
    const { memory, output } = work;
    const { i32, f64, u8 } = memory;
    this.needs = 0;
    const leader = work.start[place] as number;
    // In words, so it has to lie on one.
    if (frame >= to || (leader & 3) !== 0) return 0;
    const first = i32[leader >> 2] as number;
    const second = i32[(leader >> 2) + 1] as number;
    const third = i32[(leader >> 2) + 2] as number;
    const leaderKind = i32[(leader >> 2) + 3] as number;
    const type = leaderKind & 0xffff;
    // The tag is not looked at here.
    if (type === VLAN || type === QINQ) return 0;
    const flow = by === FOLLOW_FLOW;
    if (flow && ((leaderKind & 0xffffff) !== PLAIN_IPV4 || (work.consumed[place] as number) < CHECKSUM_SIGHT)) return 0;
    const leaderIp = i32[(leader >> 2) + 5] as number;
    const leaderFrom = i32[(leader >> 2) + 6] as number;
    const leaderFromTo = i32[(leader >> 2) + 7] as number;
    const leaderToPort = i32[(leader >> 2) + 8] as number;
    const leaderPort = i32[(leader >> 2) + 9] as number;
    const leaderFlags = i32[(leader >> 2) + 11] as number;
    const flagBits = leaderIp >>> 24 === PROTOCOL_TCP ? TCP_FLAGS : 0;
    const {
      segments,
      firstSegment,
      segmentCount,
      length: lengths,
      flags,
      gsoType,
      csumStart,
      csumOffset,
      hash,
      hashReport,
      hashedBy,
      token,
      needs: needed,
    } = batch;
    const { offset: offsets, length: sizes, views } = segments;
    const source = views[firstSegment[frame] as number] as ByteViews;
    const from32 = source.i32;
    const from64 = source.f64;
    const from8 = source.u8;
    const pieces = output.segments;
    let piece = pieces.count;
    const last = Math.min(to - frame, WORK_FRAMES - 1 - place, (pieces.capacity - piece) >> 1);
    let asked = 0;
    let k = 0;
    // No call inside, though `WorkFrames` loads and assembles a single frame: the JIT then keeps all of the above in registers (measured: bench/inline-cost.ts).
    while (k < last) {
      const f = (frame + k) | 0;
      const s = firstSegment[f] as number;
      const length = lengths[f] as number;
      const flag = flags[f] as number;
      let c = offsets[s] as number;
      if (length < SHORTEST || segmentCount[f] !== 1 || (sizes[s] as number) < length) break;
      if ((gsoType[f] as number) !== GSO_NONE || (c & 3) !== 0 || views[s] !== source) break;
      const need = needs === 0 ? 0 : (needed[f] as number);
      if ((need & ~ACCEPTS_CSUM) !== 0) break;
      const n = (place + 1 + k) | 0;
      const at = (n * SLOT + HEADROOM + (c & 7)) | 0;
      let t = at;
      const looked = length > WHOLE ? FIRST_LOOK : length;
      let left = looked;
      if ((t & 4) !== 0) {
        i32[t >> 2] = from32[c >> 2] as number;
        t = (t + 4) | 0;
        c = (c + 4) | 0;
        left = (left - 4) | 0;
      }
      let a = t >> 3;
      let b = c >> 3;
      const end = (a + (left >> 3)) | 0;
      for (; ((a + 6) | 0) <= end; a = (a + 6) | 0, b = (b + 6) | 0) {
        const w0 = from64[b] as number;
        const w1 = from64[(b + 1) | 0] as number;
        const w2 = from64[(b + 2) | 0] as number;
        const w3 = from64[(b + 3) | 0] as number;
        const w4 = from64[(b + 4) | 0] as number;
        const w5 = from64[(b + 5) | 0] as number;
        f64[a] = w0;
        f64[(a + 1) | 0] = w1;
        f64[(a + 2) | 0] = w2;
        f64[(a + 3) | 0] = w3;
        f64[(a + 4) | 0] = w4;
        f64[(a + 5) | 0] = w5;
      }
      for (; a < end; a = (a + 1) | 0, b = (b + 1) | 0) f64[a] = from64[b] as number;
      if ((left & 4) !== 0) i32[a << 1] = from32[b << 1] as number;
      for (let rest = left & 3; rest > 0; rest = (rest - 1) | 0) u8[(t + left - rest) | 0] = from8[(c + left - rest) | 0] as number;
      // From here on only what was copied is looked at: the sender may change its own.
      const w = at >> 2;
      const kind = i32[(w + 3) | 0] as number;
      if (i32[w] !== first || i32[(w + 1) | 0] !== second || i32[(w + 2) | 0] !== third || (kind & 0xffff) !== type) break;
      if (flow) {
        if (length < CHECKSUM_SIGHT || kind !== leaderKind || i32[(w + 5) | 0] !== leaderIp || (((i32[(w + 6) | 0] as number) ^ leaderFrom) & HIGH_HALF) !== 0)
          break;
        if (i32[(w + 7) | 0] !== leaderFromTo || i32[(w + 8) | 0] !== leaderToPort || (((i32[(w + 9) | 0] as number) ^ leaderPort) & LOW_HALF) !== 0) break;
        if ((((i32[(w + 11) | 0] as number) ^ leaderFlags) & flagBits) !== 0) break;
      }
      if (need !== 0) {
        if (length < CHECKSUM_SIGHT || (kind & 0xffffff) !== PLAIN_IPV4 || (flag & FRAME_NEEDS_CSUM) === 0) break;
        const ip = i32[(w + 5) | 0] as number;
        if (!isTransportSum(ip & 0xffff, ip >>> 24, csumStart[f] as number, csumOffset[f] as number, GSO_NONE)) break;
      }
      output.length[n] = length;
      output.flags[n] = flag;
      output.gsoType[n] = GSO_NONE;
      output.csumStart[n] = csumStart[f] as number;
      output.csumOffset[n] = csumOffset[f] as number;
      output.hash[n] = hash[f] as number;
      output.hashReport[n] = hashReport[f] as number;
      output.hashedBy[n] = hashedBy[f] as number;
      output.token[n] = token[f] as number;
      output.needs[n] = need;
      output.firstSegment[n] = piece;
      if (pieces.window[piece] !== null || pieces.views[piece] !== memory) {
        pieces.views[piece] = memory;
        pieces.window[piece] = null;
      }
      pieces.offset[piece] = at;
      pieces.length[piece] = looked;
      piece = (piece + 1) | 0;
      if (length > looked) {
        // As the sender has it.
        if (pieces.window[piece] !== null || pieces.views[piece] !== source) {
          pieces.views[piece] = source;
          pieces.window[piece] = null;
        }
        pieces.offset[piece] = ((offsets[s] as number) + looked) | 0;
        pieces.length[piece] = (length - looked) | 0;
        piece = (piece + 1) | 0;
      }
      output.segmentCount[n] = (piece - (output.firstSegment[n] as number)) | 0;
      asked |= need;
      k = (k + 1) | 0;
    }
    pieces.count = piece;
    this.needs = asked;
    return k;
  }
}
