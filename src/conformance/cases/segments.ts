// What becomes of large frames on a wire that carries only complete ones: segments or fragments whose payload is put together again and whose every checksum is right.

import type { Session } from '../session.ts';
import { checksumHolds, fold, get16, sumBytes } from './frames.ts';

export interface Large {
  readonly bytes: Uint8Array;
  readonly network: number;
  readonly transport: number;
  /** Where the payload begins. */
  readonly payload: number;
  readonly protocol: number;
  readonly segmentSize: number;
}

function ipv4HeaderHolds(bytes: Uint8Array, network: number): boolean {
  const length = ((bytes[network] as number) & 15) * 4;
  return fold(sumBytes(bytes, network, length)) === 0xffff;
}

/** Checks that `frames` are the segments of `large` (TCP, or UDP by USO), by this clause. */
export function checkSegments(s: Session, clause: string, frames: readonly Uint8Array[], large: Large): void {
  const { network, transport, payload, protocol, segmentSize } = large;
  const whole = large.bytes.subarray(payload);
  s.check(clause, `frames for ${whole.length} bytes of payload in segments of ${segmentSize}`, frames.length, Math.ceil(whole.length / segmentSize));
  const pieces: number[] = [];
  for (const [i, frame] of frames.entries()) {
    const last = i === frames.length - 1;
    s.checkThat(
      clause,
      `payload of segment ${i}`,
      last ? frame.length - payload <= segmentSize : frame.length - payload === segmentSize,
      `${last ? 'at most ' : ''}${segmentSize} bytes`,
      frame.length - payload,
    );
    s.check(clause, `transport checksum of segment ${i}`, checksumHolds(frame, network, transport, protocol), true);
    if ((frame[network] as number) >>> 4 === 4) s.check(clause, `IPv4 header checksum of segment ${i}`, ipv4HeaderHolds(frame, network), true);
    pieces.push(...frame.subarray(payload));
  }
  s.check(clause, 'the payload of the segments put together', Uint8Array.from(pieces), whole);
}

/** Checks that `frames` are IPv4 fragments of a UDP datagram with this payload. */
export function checkFragments(s: Session, clause: string, frames: readonly Uint8Array[], large: Large): void {
  const { network, transport } = large;
  const datagram = new Uint8Array(large.bytes.length - transport);
  let bytes = 0;
  for (const frame of frames) {
    const offset = (get16(frame, network + 6) & 0x1fff) * 8;
    const end = network + get16(frame, network + 2);
    datagram.set(frame.subarray(transport, end), offset);
    bytes += end - transport;
    s.check(clause, 'IPv4 header checksum of a fragment', ipv4HeaderHolds(frame, network), true);
  }
  s.checkThat(clause, 'fragments', frames.length > 1, 'more than 1', frames.length);
  s.check(clause, 'bytes in all fragments', bytes, datagram.length);
  s.check(clause, 'the payload of the fragments put together', datagram.slice(8), large.bytes.slice(large.payload));
}
