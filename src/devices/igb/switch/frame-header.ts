// What the embedded switch looks at of a frame: both addresses and the VLAN tag. With double VLAN (CTRL_EXT.EXT_VLAN, 82576 7.4.5) every frame is expected to come with an outer tag, and the tag
// that counts is the one behind it; a frame without an outer one counts as untagged then.

import { AT, CTRL_EXT_EXT_VLAN } from '../registers.ts';

const { CTRL_EXT, VET } = AT;

export class FrameHeader {
  /** Octets 0-3 (as a signed word) and 4-5 of each address, the first octet lowest, as RAL and RAH have them. */
  low = 0;
  high = 0;
  sourceLow = 0;
  sourceHigh = 0;
  group = false;
  broadcast = false;
  tagged = false;
  /** The tag: priority, CFI, id. */
  tci = 0;
  vlan = 0;
  /** Octets of tags. */
  tagBytes = 0;
  #tagType = 0x8100;
  #outerType = 0x8100;
  #double = false;

  configure(words: Uint32Array): void {
    const types = words[VET] as number;
    this.#tagType = types & 0xffff;
    this.#outerType = types >>> 16;
    this.#double = ((words[CTRL_EXT] as number) & CTRL_EXT_EXT_VLAN) !== 0;
  }

  /** `bytes[at ..]` holds 18 octets of the frame, 22 with double VLAN. */
  parse(bytes: Uint8Array, at: number): void {
    const first = bytes[at] as number;
    this.low = first | ((bytes[at + 1] as number) << 8) | ((bytes[at + 2] as number) << 16) | ((bytes[at + 3] as number) << 24);
    this.high = (bytes[at + 4] as number) | ((bytes[at + 5] as number) << 8);
    this.sourceLow = (bytes[at + 6] as number) | ((bytes[at + 7] as number) << 8) | ((bytes[at + 8] as number) << 16) | ((bytes[at + 9] as number) << 24);
    this.sourceHigh = (bytes[at + 10] as number) | ((bytes[at + 11] as number) << 8);
    this.group = (first & 1) !== 0;
    this.broadcast = this.low === -1 && this.high === 0xffff;
    let type = ((bytes[at + 12] as number) << 8) | (bytes[at + 13] as number);
    let tag = at + 14;
    this.tagBytes = 0;
    if (this.#double) {
      if (type !== this.#outerType) {
        this.#untagged();
        return;
      }
      type = ((bytes[tag + 2] as number) << 8) | (bytes[tag + 3] as number);
      tag += 4;
      this.tagBytes = 4;
    }
    if (type !== this.#tagType) {
      this.#untagged();
      return;
    }
    this.tagged = true;
    this.tagBytes += 4;
    this.tci = ((bytes[tag] as number) << 8) | (bytes[tag + 1] as number);
    this.vlan = this.tci & 0xfff;
  }

  #untagged(): void {
    this.tagged = false;
    this.tci = 0;
    this.vlan = 0;
  }
}
