// What an embedder asks for in an 82576's port, and what is wrong with it.

import type { Nanos } from '#core/clock';
import { parseMac } from '#devices/intel/mac';
import type { PortHost } from '#net/port';
import type { PcieType } from '#pci/function';
import type { VfLayout } from '#pci/sriov';
import { NVM_WORDS } from './nvm.ts';
import { POOLS } from './registers.ts';

export interface IgbOptions {
  /** Six bytes, as "52:54:00:12:34:56". */
  readonly mac: string;
  /** The segment of this thread that the cable goes to. Without one the cable hangs in the air. */
  readonly segment?: PortHost;
  readonly name?: string;
  /** Which of the part's two ports this function is (STATUS.LAN_ID), default 0; and how many ports the device has, each a function of its own: port 1 is function 1. Default 1. */
  readonly port?: 0 | 1;
  readonly ports?: 1 | 2;
  /** How long autonegotiation takes; default 500 ms. */
  readonly negotiation?: Nanos;
  /** What a frame does that finds no buffer in a queue that does not drop (SRRCTL.DROP_EN): hold (default), it waits at its source; drop: it is lost and counted (MPC), as on a wire. */
  readonly fullRing?: 'hold' | 'drop';
  /** Virtual functions there can be (the NVM's IOV Control), 0 to 8: default 8. With 0 the function has no SR-IOV capability. */
  readonly vfs?: number;
  /** Where VFs are: first VF offset 80h and stride 2 as the part has them, unless a bus needs it otherwise. */
  readonly vfLayout?: VfLayout;
  /** Frames between pools: switch (default), inside the port; reflective-relay, by way of the neighbour, which sends them back (802.1Qbg). */
  readonly between?: 'switch' | 'reflective-relay';
  /** The NVM's 1024 words, in place of a board's usual contents; words 0 to 2 and the checksum are set. What software makes of them is in `Igb.nvm`. */
  readonly nvm?: Uint16Array;
  /** A software-definable pin has another level as an output, or became one. Called last in the access or at the time that changed it; it may drive inputs. */
  readonly onPin?: (pin: number, level: boolean) => void;
  /** Default 'endpoint'; 'root-complex-endpoint' on the root bus. */
  readonly pcieType?: PcieType;
}

/** An embedder asked for an igb that cannot be. `code` is stable. */
export class IgbOptionError extends TypeError {
  readonly code = 'NICBOX_IGB_OPTION';
}

/** The station address. @throws IgbOptionError */
export function checkOptions(options: IgbOptions): Uint8Array {
  const { port = 0, ports = 1, pcieType = 'endpoint', vfs = POOLS, nvm } = options;
  if (port >= ports) throw new IgbOptionError(`port ${port} of ${ports}: a part with one port has port 0`);
  if (pcieType === 'conventional') throw new IgbOptionError('an 82576 is a PCI Express function');
  if (!(Number.isInteger(vfs) && vfs >= 0 && vfs <= POOLS)) throw new IgbOptionError(`${vfs} virtual functions: 0 to ${POOLS} is possible`);
  if (nvm !== undefined && nvm.length !== NVM_WORDS) throw new IgbOptionError(`an NVM of ${nvm.length} words: ${NVM_WORDS}`);
  const mac = parseMac(options.mac);
  if (typeof mac === 'string') throw new IgbOptionError(mac);
  return mac;
}
