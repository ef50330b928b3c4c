// Received frames in one piece: in place when they are, in a scratch buffer when they came in several.

import { copyBytes } from '#core/copy';
import { type ByteViews, viewsOf } from '#core/guest-memory';
import type { ReceivedFrame } from './net-receive.ts';

const LONGEST = 2 ** 17;
const NOTHING = viewsOf(new ArrayBuffer(8));

export class LinearFrame {
  views: ByteViews = NOTHING;
  offset = 0;
  /** Made when it is first needed: most frames are in one piece. */
  #scratch: ByteViews | undefined;

  /** Points at the frame's bytes. `copy` forces them into the scratch buffer, where they may be changed. False when it is too long for that. */
  load(frame: ReceivedFrame, copy = false): boolean {
    if (!copy && frame.segmentCount === 1) {
      this.views = frame.views;
      this.offset = frame.offsets[0] as number;
      return true;
    }
    if (frame.length > LONGEST) return false;
    this.#scratch ??= viewsOf(new SharedArrayBuffer(LONGEST));
    this.views = this.#scratch;
    this.offset = 0;
    let at = 0;
    for (let i = 0; i < frame.segmentCount; i++) {
      const length = frame.lengths[i] as number;
      copyBytes(this.#scratch, at, frame.views, frame.offsets[i] as number, length);
      at += length;
    }
    return true;
  }
}
