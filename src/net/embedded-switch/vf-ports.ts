// What a device with virtual functions says of their ports (net/vf-ports.ts), carried into an embedded switch: port vf<n> for each. What the switch refuses (an address that is another port's in the same VLAN,
// a share of the transmit scheduler that is not left) the port does not have, and why is kept to be asked for. All the rest is in force: by the address that its driver may choose a function would else keep what
// the host says of its VLAN, its link, its rate and its spoof check from its port.

import type { VfPortSettings, VfPorts } from '../vf-ports.ts';
import type { EmbeddedSwitch } from './embedded-switch.ts';
import { EmbeddedSwitchError } from './errors.ts';
import { functionName } from './port-names.ts';
import type { PortSettings } from './port-settings.ts';

const MBIT = 1e6;
/** What the host set of the port besides (VLANs it is in, mirrors) is there for the function that comes next. */
const GONE: Partial<PortSettings> = {
  mac: undefined,
  addresses: [],
  multicast: [],
  vlan: undefined,
  minimumRate: 0,
  maximumRate: 0,
  spoofCheck: false,
  trust: false,
  link: 'disable',
};

export class SwitchVfPorts implements VfPorts {
  readonly #nic: EmbeddedSwitch;
  /** What was said last of functions of which the switch did not take all, and why not. */
  readonly #refused = new Map<number, { readonly settings: VfPortSettings; readonly why: EmbeddedSwitchError }>();

  constructor(nic: EmbeddedSwitch) {
    this.#nic = nic;
  }

  /** Why the switch did not take what was said of this function last; undefined: it did. */
  refusal(vf: number): EmbeddedSwitchError | undefined {
    return this.#refused.get(vf)?.why;
  }

  configure(vf: number, settings: VfPortSettings | undefined): void {
    this.#refused.delete(vf);
    // A function that is gone has no address in the switch, and nobody behind its port.
    if (settings === undefined) this.#nic.configurePort(functionName(vf), GONE);
    else this.#set(vf, settings);
    // What this one gave up may be what another wants.
    for (const [other, { settings: wanted }] of [...this.#refused]) if (other !== vf) this.#set(other, wanted);
  }

  #set(vf: number, settings: VfPortSettings): void {
    let why: EmbeddedSwitchError | undefined;
    for (const without of [{}, { mac: undefined }, { minimumRate: 0 }, { mac: undefined, minimumRate: 0 }]) {
      try {
        this.#nic.configurePort(functionName(vf), { ...portSettings(settings), ...without });
        break;
      } catch (error) {
        if (!(error instanceof EmbeddedSwitchError)) throw error;
        why ??= error;
      }
    }
    if (why === undefined) this.#refused.delete(vf);
    else this.#refused.set(vf, { settings, why });
  }
}

function portSettings({ mac, vlan, minRate, maxRate, linkState, spoofCheck, trust }: VfPortSettings): Partial<PortSettings> {
  return {
    mac: Array.from(mac, (byte) => byte.toString(16).padStart(2, '0')).join(':'),
    vlan: vlan ?? undefined,
    minimumRate: minRate * MBIT,
    maximumRate: maxRate * MBIT,
    link: linkState,
    spoofCheck,
    trust,
  };
}
