// The tour: what nicbox is, shown. Prints the PCIe trees of a lab's guests, replays a capture from the first to the second over each data plane and ring format,
// compares every byte, and reports what it cost; then spreads the capture over several queues and checks every hash; then seven guests on virtual functions of an 82576.

import type { FrameStore, PackedFrames } from '#guest-sim/index';
import { type Capture, openCapture } from '#net/capture';
import { CaptureError, LINKTYPE_ETHERNET } from '#net/captured-packet';
import { inspectLab } from './inspect.ts';
import type { DataPlane } from './lab.ts';
import { type LabDescription, LabError } from './lab-file.ts';
import { pcapngFile } from './pcapng-file.ts';
import { type PassResult, runPass } from './replay.ts';
import { runSpread, type SpreadResult } from './spread.ts';
import { runVfTour, type VfTourResult } from './vf-tour.ts';

export interface TourOptions {
  readonly lab: LabDescription;
  /** Bytes of a pcap or pcapng file. */
  readonly capture: Uint8Array;
  readonly planes: readonly DataPlane[];
  readonly rings: readonly ('split' | 'packed')[];
  /** Times the capture is sent in each pass. */
  readonly repeat: number;
  readonly pings: number;
  readonly signal: AbortSignal;
  readonly on: TourListener;
}

export interface TourListener {
  tree(guest: string, listing: string): void;
  passStarts(plane: DataPlane, ring: 'split' | 'packed', frames: number): void;
  progress(done: number, total: number): void;
  passEnds(result: PassResult): void;
  spreadStarts(plane: DataPlane, ring: 'split' | 'packed', frames: number): void;
  spreadEnds(result: SpreadResult): void;
  virtualFunctionsStart(count: number): void;
  virtualFunctionsEnd(result: VfTourResult): void;
}

export interface TourResult {
  readonly capture: { readonly format: Capture['format']; readonly frames: number; readonly bytes: number; readonly longest: number };
  readonly passes: readonly PassResult[];
  readonly spread: readonly SpreadResult[];
  readonly virtualFunctions: VfTourResult;
  /** Everything arrived as it was sent, in every pass, every hash and queue was the guest's own, and virtual functions did as they should. */
  readonly verified: boolean;
}

/** All but one of the eight pools of an 82576, which its physical function keeps. */
const VFS = 7;
/** Rounds of the capture that are spread: each frame's hash is computed a second time, by the guest, and one round would do. */
const SPREAD_ROUNDS = 100;

/** The longest frame a guest can send: 64 KiB of payload with its headers. */
const LONGEST_FRAME = 65_550;
const SHORTEST_FRAME = 14;

const ALIGNMENT = 8;

function aligned(length: number): number {
  return Math.ceil(length / ALIGNMENT) * ALIGNMENT;
}

/** A capture's frames one behind the other (each on a multiple of 8), for guest threads to share. @throws CaptureError when it is damaged or holds what cannot be replayed. */
export function packFrames(capture: Capture): PackedFrames & { readonly longest: number; readonly total: number } {
  let count = 0;
  let size = 0;
  let total = 0;
  let longest = 0;
  for (const packet of capture.packets) {
    const { length } = packet.bytes;
    if (packet.linkType !== LINKTYPE_ETHERNET)
      throw new CaptureError('LINKTYPE', packet.offset, `packet ${count + 1} has link type ${packet.linkType}, not Ethernet: capture on an Ethernet interface`);
    if (length < packet.originalLength)
      throw new CaptureError(
        'FORMAT',
        packet.offset,
        `packet ${count + 1} was cut to ${length} of ${packet.originalLength} bytes: capture with full packets (tcpdump -s 0)`,
      );
    if (length < SHORTEST_FRAME || length > LONGEST_FRAME)
      throw new CaptureError('FORMAT', packet.offset, `packet ${count + 1} has ${length} bytes; a frame to replay has ${SHORTEST_FRAME} to ${LONGEST_FRAME}`);
    count++;
    size += aligned(length);
    total += length;
    longest = Math.max(longest, length);
  }
  if (count === 0) throw new CaptureError('FORMAT', 0, 'the capture has no packets: nothing to replay');
  const buffer = new SharedArrayBuffer(Math.max(size, ALIGNMENT));
  const bytes = new Uint8Array(buffer);
  const offset = new Uint32Array(count);
  const length = new Int32Array(count);
  const time = new Float64Array(count);
  let at = 0;
  let i = 0;
  let first: { seconds: number; nanoseconds: number } | undefined;
  for (const packet of capture.packets) {
    first ??= packet;
    bytes.set(packet.bytes, at);
    offset[i] = at;
    length[i] = packet.bytes.length;
    time[i] = (packet.seconds - first.seconds) * 1e9 + packet.nanoseconds - first.nanoseconds;
    at += aligned(packet.bytes.length);
    i++;
  }
  return { count, buffer, offset, length, time, longest, total };
}

/** Room for one round of the capture, also when it arrives in MSS-sized pieces. */
function makeStore(frames: PackedFrames): FrameStore {
  const pieces = frames.count + Math.ceil(frames.buffer.byteLength / 500);
  return {
    bytes: new SharedArrayBuffer(frames.buffer.byteLength + pieces * 128),
    offsets: new SharedArrayBuffer((pieces + 1) * 4),
    times: new SharedArrayBuffer(pieces * 8),
    count: new SharedArrayBuffer(4),
  };
}

/**
 * A capture holds both directions of its conversations, all of which the tour sends from one side: a learning switch would come to know both ends there and, rightly,
 * not forward between them. So the two guests have to be on a direct link. @throws LabError
 */
function checkLab(lab: LabDescription): void {
  const [a, b] = lab.guests;
  if (a === undefined || b === undefined) throw new LabError('the tour replays from the first guest to the second: this lab has one guest');
  const name = a.devices[0]?.link;
  if (name !== b.devices[0]?.link)
    throw new LabError(`the tour replays from "${a.name}" to "${b.name}", whose first devices are on different links ("${name}" and "${b.devices[0]?.link}")`);
  if (lab.links.find((link) => link.name === name)?.type !== 'direct')
    throw new LabError(
      `the tour replays both directions of a capture from one side, which link "${name}", a learning switch, would not forward: make it "direct"`,
    );
}

/**
 * Runs the tour. Returns the result, what the receiver got in the last pass, as a pcapng file, and one for each virtual function.
 * @throws LabError, CaptureError, and the typed errors of what cannot be built
 */
export async function runTour(
  options: TourOptions,
): Promise<{ readonly result: TourResult; readonly received: Uint8Array; readonly receivedByVf: readonly Uint8Array[] }> {
  const { lab, on, signal } = options;
  checkLab(lab);
  const capture = openCapture(options.capture);
  const frames = packFrames(capture);
  for (const { name, listing } of await inspectLab(lab, 'tree')) on.tree(name, listing);
  const passes: PassResult[] = [];
  let store = makeStore(frames);
  for (const plane of options.planes) {
    for (const ring of options.rings) {
      signal.throwIfAborted();
      store = makeStore(frames);
      on.passStarts(plane, ring, frames.count * options.repeat);
      const result = await runPass({ lab, plane, ring, frames, repeat: options.repeat, pings: options.pings, store, signal, onProgress: on.progress });
      passes.push(result);
      on.passEnds(result);
    }
  }
  const spread: SpreadResult[] = [];
  const rounds = Math.min(options.repeat, SPREAD_ROUNDS);
  for (const plane of options.planes) {
    for (const ring of options.rings) {
      signal.throwIfAborted();
      on.spreadStarts(plane, ring, frames.count * rounds);
      const result = await runSpread({ lab, plane, ring, frames, repeat: rounds, signal, onProgress: on.progress });
      spread.push(result);
      on.spreadEnds(result);
    }
  }
  signal.throwIfAborted();
  on.virtualFunctionsStart(VFS);
  const vfs = await runVfTour(VFS);
  on.virtualFunctionsEnd(vfs.result);
  return {
    result: {
      capture: { format: capture.format, frames: frames.count, bytes: frames.total, longest: frames.longest },
      passes,
      spread,
      virtualFunctions: vfs.result,
      verified: [...passes, ...spread, vfs.result].every(({ errors }) => errors.length === 0),
    },
    received: writePcapng(store, (lab.guests[1] as { name: string }).name),
    receivedByVf: vfs.captures,
  };
}

function writePcapng(store: FrameStore, receiver: string): Uint8Array {
  const bytes = new Uint8Array(store.bytes);
  const offsets = new Uint32Array(store.offsets);
  const times = new Float64Array(store.times);
  const count = new Int32Array(store.count)[0] as number;
  const started = Date.now() / 1000;
  const first = times[0] ?? 0;
  return pcapngFile(`guest ${receiver}`, (writer) => {
    for (let i = 0; i < count; i++) {
      const time = started + ((times[i] as number) - first) / 1e9;
      const seconds = Math.floor(time);
      writer.packet(bytes.slice(offsets[i], offsets[i + 1]), seconds, Math.floor((time - seconds) * 1e9));
    }
  });
}
