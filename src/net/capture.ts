// Capture files, whichever format: what a packet in one is, what can be wrong with one, and opening one from its bytes. Reading the file is the caller's.

import type { CapturedPacket } from './captured-packet.ts';
import { CaptureError } from './captured-packet.ts';
import { isPcap, readPcap } from './pcap.ts';
import { isPcapng, readPcapng } from './pcapng.ts';

/** Offsets in a file stay small integers. */
const LARGEST_FILE = 2 ** 31 - 1;

export interface Capture {
  readonly format: 'pcap' | 'pcapng';
  /** Packets in file order, read as they are asked for. @throws CaptureError where the file stops making sense; the packets before are good. */
  readonly packets: Iterable<CapturedPacket>;
}

/** @throws CaptureError when the bytes are no capture file of a known format. */
export function openCapture(bytes: Uint8Array): Capture {
  if (bytes.length > LARGEST_FILE) throw new CaptureError('FORMAT', 0, `the file has ${bytes.length} bytes; at most 2 GiB can be read: split it (editcap -c)`);
  if (bytes.length === 0) throw new CaptureError('TRUNCATED', 0, 'the file is empty');
  if (isPcapng(bytes)) return { format: 'pcapng', packets: { [Symbol.iterator]: () => readPcapng(bytes) } };
  if (isPcap(bytes)) return { format: 'pcap', packets: { [Symbol.iterator]: () => readPcap(bytes) } };
  if (bytes.length < 4) throw new CaptureError('TRUNCATED', 0, 'the file ends within its first word');
  const magic = Array.from(bytes.subarray(0, 4), (b) => b.toString(16).padStart(2, '0')).join(' ');
  const known = magic === '1f 8b 08 00' || magic.startsWith('1f 8b') ? 'it is gzip: unpack it first' : 'convert it with editcap -F pcapng';
  throw new CaptureError('FORMAT', 0, `not a pcap or pcapng file (it starts with ${magic}): ${known}`);
}
