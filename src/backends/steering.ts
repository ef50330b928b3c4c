// Automatic receive steering (virtio 1.4 5.1.9.5.6): frames of a flow go to the receive queue of the pair the driver last transmitted that flow on. A small
// table by a hash that is the same in both directions; a collision sends a flow to another queue, which costs locality and nothing else.

import type { ByteViews } from '#core/guest-memory';
import type { FrameBatch } from '#net/port';
import { frameByte } from './receive-filter.ts';

const ENTRIES = 4096;
const ETHERTYPE_IPV4 = 0x0800;
const ETHERTYPE_IPV6 = 0x86dd;
const ETHERTYPE_VLAN = 0x8100;
const TCP = 6;
const UDP = 17;

/** Ethernet, IPv4 without options, and the words that ports lie in. */
const PLAIN_HEADERS = 40;

/** Four bytes as a little-endian load has them. */
function word(batch: FrameBatch, f: number, at: number): number {
  return frameByte(batch, f, at) | (frameByte(batch, f, at + 1) << 8) | (frameByte(batch, f, at + 2) << 16) | (frameByte(batch, f, at + 3) << 24);
}

function mix(addresses: number, ports: number, protocol: number): number {
  let hash = addresses ^ ((ports ^ (ports >>> 16)) & 0xffff) ^ (protocol << 16);
  hash = Math.imul(hash ^ (hash >>> 16), 0x45d9f3b);
  return (hash ^ (hash >>> 15)) | 1;
}

/** A number that both directions of a flow share, for the common frame, a word at a time (measured: bench/steering.ts); 0 for any other, whose bytes are looked at one by one to the same effect. */
function plainFlowHash(i32: Int32Array, start: number, size: number): number {
  if ((start & 3) !== 0 || size < PLAIN_HEADERS || ((i32[(start + 12) >> 2] as number) & 0xffffff) !== 0x450008) return 0;
  const middle = i32[(start + 20) >> 2] as number;
  const protocol = middle >>> 24;
  if ((middle & 0xff3f) !== 0 || (protocol !== TCP && protocol !== UDP)) return 0;
  const a = i32[(start + 24) >> 2] as number;
  const b = i32[(start + 28) >> 2] as number;
  const c = i32[(start + 32) >> 2] as number;
  const d = i32[(start + 36) >> 2] as number;
  return mix((a >>> 16) ^ (b << 16) ^ (b >>> 16) ^ (c << 16), (c >>> 16) | (d << 16), protocol);
}

/** 0 for what is not IP. Looks at no byte past the frame. */
function anyFlowHash(batch: FrameBatch, f: number): number {
  const length = batch.length[f] as number;
  let at = 14;
  if (length < at) return 0;
  let type = (frameByte(batch, f, 12) << 8) | frameByte(batch, f, 13);
  if (type === ETHERTYPE_VLAN && length >= 18) {
    type = (frameByte(batch, f, 16) << 8) | frameByte(batch, f, 17);
    at = 18;
  }
  let hash: number;
  let protocol: number;
  let ports: number;
  if (type === ETHERTYPE_IPV4 && length >= at + 20) {
    const first = frameByte(batch, f, at);
    protocol = frameByte(batch, f, at + 9);
    // A later fragment has no ports: all fragments of a flow must hash alike, so none of them uses any.
    const fragment = ((frameByte(batch, f, at + 6) & 0x3f) << 8) | frameByte(batch, f, at + 7);
    hash = word(batch, f, at + 12) ^ word(batch, f, at + 16);
    ports = fragment === 0 ? at + (first & 15) * 4 : -1;
  } else if (type === ETHERTYPE_IPV6 && length >= at + 40) {
    protocol = frameByte(batch, f, at + 6);
    hash = 0;
    for (let i = 8; i < 40; i += 4) hash ^= word(batch, f, at + i);
    ports = at + 40;
  } else return 0;
  const hasPorts = (protocol === TCP || protocol === UDP) && ports > 0 && length >= ports + 4;
  return mix(hash, hasPorts ? word(batch, f, ports) : 0, protocol);
}

export class FlowTable {
  /** Pair + 1 of each slot; 0: nothing learned. */
  readonly #pairs = new Uint8Array(ENTRIES);

  /** The driver transmitted frames from .. to - 1 on `pair`. */
  learn(batch: FrameBatch, from: number, to: number, pair: number): void {
    const { segments, firstSegment } = batch;
    for (let f = from; f < to; f++) {
      const s = firstSegment[f] as number;
      const hash = plainFlowHash((segments.views[s] as ByteViews).i32, segments.offset[s] as number, segments.length[s] as number) || anyFlowHash(batch, f);
      if (hash !== 0) this.#pairs[hash & (ENTRIES - 1)] = pair + 1;
    }
  }

  /**
   * Puts into `pairs` where frames from .. to - 1 to the driver go: what `places` says of the pair learned for each, else of one by the hash, of those below `active`; of pair 0 for what has no
   * flow.
   */
  choose(batch: FrameBatch, from: number, to: number, active: number, places: Int8Array, pairs: Int8Array): void {
    const { segments, firstSegment } = batch;
    const { views, offset, length } = segments;
    const learnedPairs = this.#pairs;
    for (let f = from; f < to; f++) {
      const s = firstSegment[f] as number;
      const hash = plainFlowHash((views[s] as ByteViews).i32, offset[s] as number, length[s] as number) || anyFlowHash(batch, f);
      const learned = learnedPairs[hash & (ENTRIES - 1)] as number;
      const pair = hash === 0 ? 0 : learned !== 0 && learned <= active ? learned - 1 : ((hash >>> 16) * active) >>> 16;
      pairs[f] = places[pair] as number;
    }
  }

  clear(): void {
    this.#pairs.fill(0);
  }
}
