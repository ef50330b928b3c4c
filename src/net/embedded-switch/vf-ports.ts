// What a device with virtual functions says of their ports (net/vf-ports.ts), carried into an embedded switch: port vf<n> for each. What the switch refuses, such as an address that is another port's in the
// same VLAN, leaves the port as it was and is kept to be asked for.

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
  readonly #refusals = new Map<number, EmbeddedSwitchError>();

  constructor(nic: EmbeddedSwitch) {
    this.#nic = nic;
  }

  /** Why the switch did not take what was said of this function last; undefined: it did. */
  refusal(vf: number): EmbeddedSwitchError | undefined {
    return this.#refusals.get(vf);
  }

  configure(vf: number, settings: VfPortSettings | undefined): void {
    this.#refusals.delete(vf);
    try {
      // A function that is gone has no address in the switch, and nobody behind its port.
      if (settings === undefined) this.#nic.configurePort(functionName(vf), GONE);
      else
        this.#nic.configurePort(functionName(vf), {
          mac: Array.from(settings.mac, (byte) => byte.toString(16).padStart(2, '0')).join(':'),
          vlan: settings.vlan ?? undefined,
          minimumRate: settings.minRate * MBIT,
          maximumRate: settings.maxRate * MBIT,
          link: settings.linkState,
          spoofCheck: settings.spoofCheck,
          trust: settings.trust,
        });
    } catch (error) {
      if (!(error instanceof EmbeddedSwitchError)) throw error;
      this.#refusals.set(vf, error);
    }
  }
}
