// What an embedder asks for in an e1000, and what is wrong with it.

import type { Nanos } from '#core/clock';
import type { Bell } from '#core/doorbell';
import { parseMac } from '#devices/intel/mac';
import type { PortHost, RemotePortHost } from '#net/port';
import type { PcieType } from '#pci/function';
import type { E1000ModelName } from './models.ts';

export interface E1000Options {
  /** Six bytes, as "52:54:00:12:34:56". */
  readonly mac: string;
  /** Default 82540EM. */
  readonly model?: E1000ModelName;
  /** The segment the cable goes to: one of this thread, or one that a worker serves (VhostSegment). Without one the cable hangs in the air. */
  readonly segment?: PortHost | RemotePortHost;
  /** On a worker's segment: rung when `service` has something to do. A Machine sees to it. */
  readonly bell?: Bell;
  readonly name?: string;
  /** How long autonegotiation takes; default 500 ms. */
  readonly negotiation?: Nanos;
  /** pad (default): frames of less than 60 bytes come as the medium's senders would have padded them; as-is: they are undersized, as 8254x 13.7.34 has it. */
  readonly shortFrames?: 'pad' | 'as-is';
  /** hold (default): a frame that finds no buffer waits at its source; drop: it is lost and counted (MPC, RXO), as on a wire. */
  readonly fullRing?: 'hold' | 'drop';
  /** The EEPROM's 64 or 256 words, in place of a board's usual contents; words 0 to 2 and the checksum are set. */
  readonly eeprom?: Uint16Array;
  /** Offers the shared communication block, by which a driver that knows of it saves register accesses (docs/e1000.md); the subsystem id says so. Default false. */
  readonly sharedBlock?: boolean;
  readonly pcieType?: PcieType;
}

/** An embedder asked for an e1000 that cannot be. `code` is stable. */
export class E1000OptionError extends TypeError {
  readonly code = 'NICBOX_E1000_OPTION';
}

/** @throws E1000OptionError */
export function requireMac(text: string): Uint8Array {
  const mac = parseMac(text);
  if (typeof mac === 'string') throw new E1000OptionError(mac);
  return mac;
}

/** @throws E1000OptionError */
export function checkEeprom(words: Uint16Array | undefined): Uint16Array | undefined {
  if (words !== undefined && words.length !== 64 && words.length !== 256) throw new E1000OptionError(`an EEPROM of ${words.length} words: 64 or 256`);
  return words?.slice();
}
