// Access control services (PCIe 4.0 7.7.8, 6.12). Offered is only what the fabric carries out in full. Source validation, on root and downstream ports: requests from
// below whose requester id is on no bus below are blocked. Requests go to the root complex in any case and it forwards none to another port: that is what P2P
// request redirect, completion redirect and upstream forwarding ask for, set or clear, in a root port and between the functions of one device, which are
// free not to forward to peers; so they are offered there. A switch that has them clear must route between its ports, which this fabric does not: a
// downstream port offers source validation alone. What is blocked ends at the function's own DMA space; no ACS violation is logged for it. Not offered at all: translation blocking (no ATS), egress control, direct translated P2P.

import { type Capability, type CapabilityArea, EFFECT_MASTERING, EFFECT_NONE } from './capability.ts';

const SOURCE_VALIDATION = 1;
const REQUEST_REDIRECT = 4;
const COMPLETION_REDIRECT = 8;
const UPSTREAM_FORWARDING = 16;
const CAPABILITIES = 4;
const CONTROL = 6;
const SECONDARY = 0x19;
const SUBORDINATE = 0x1a;

export class Acs implements Capability {
  readonly id = 0x0d;
  readonly extended = true;
  readonly version = 1;
  readonly size = 8;
  #area!: CapabilityArea;

  /** @throws TypeError where the specification has no such capability: switch upstream ports, bridges, conventional functions. */
  install(area: CapabilityArea): void {
    this.#area = area;
    const offered = offeredBy(area.host.pcieType);
    if (offered === undefined) throw new TypeError(`a ${area.host.pcieType} has no access control services`);
    area.set16(CAPABILITIES, offered);
    area.permitWrite(CONTROL, 2, offered);
  }

  afterWrite(register: number, old: number, _written: number, _lanes: number): number {
    return register === 4 && this.#area.get32(4) !== old ? EFFECT_MASTERING : EFFECT_NONE;
  }

  /** 6.12.1.1: the bus number of a request from below must be within what the port forwards. */
  blocksRequester(requester: number): boolean {
    if ((this.#area.get16(CONTROL) & SOURCE_VALIDATION) === 0) return false;
    const { config } = this.#area.host;
    const bus = requester >>> 8;
    return bus < config.get8(SECONDARY) || bus > config.get8(SUBORDINATE);
  }
}

function offeredBy(type: string): number | undefined {
  if (type === 'root-port') return SOURCE_VALIDATION | REQUEST_REDIRECT | COMPLETION_REDIRECT | UPSTREAM_FORWARDING;
  if (type === 'downstream-port') return SOURCE_VALIDATION;
  if (type === 'endpoint' || type === 'root-complex-endpoint') return REQUEST_REDIRECT | COMPLETION_REDIRECT;
  return undefined;
}
