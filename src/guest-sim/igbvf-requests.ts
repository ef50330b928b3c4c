// What a virtual function's driver asks of its physical function's (82576 7.10.2.9, SR-IOV companion guide), and what of it was granted: kept, since a reset of either makes the physical function forget, and asked again then. The
// base set is reset, address, VLAN and frame length; what else a physical function refuses is done without.

import * as m from './igb-mailbox.ts';

/** Header and FCS: what a request for long frames counts. */
const FRAME_OVERHEAD = 18;

/** Requests beyond reset, address, VLAN and frame length: granted, refused, or not asked yet. */
export interface VfExtensions {
  multicast: boolean | undefined;
  promiscuous: boolean | undefined;
  moreAddresses: boolean | undefined;
}

export type Granted = (granted: boolean) => void;

export interface VfRequestsParts {
  readonly mailbox: m.VfMailbox;
  readonly mtu: number;
  /** The address to ask for; undefined: the one the physical function gives. */
  readonly mac: Uint8Array | undefined;
  readonly vlans: readonly number[];
  readonly promiscuous: boolean;
  /** The station address is another one now. */
  readonly onAddress: (mac: Uint8Array) => void;
}

export class VfRequests {
  readonly extensions: VfExtensions = { multicast: undefined, promiscuous: undefined, moreAddresses: undefined };
  /** Requests of the base set that were refused. */
  refused = 0;
  readonly #parts: VfRequestsParts;
  readonly #vlans: Set<number>;
  readonly #moreAddresses: Uint8Array[] = [];
  /** Hashes of group addresses, at most MOST_HASHES, and whether everything is wanted: as the next `ask` says it. */
  multicast: readonly number[] = [];
  promiscuous: boolean;
  #mac: Uint8Array | undefined;

  constructor(parts: VfRequestsParts) {
    this.#parts = parts;
    this.#vlans = new Set(parts.vlans);
    this.promiscuous = parts.promiscuous;
    this.#mac = parts.mac;
  }

  /** The physical function gave no address: this one is asked for, unless another is already. */
  ownAddress(mac: Uint8Array): void {
    this.#mac ??= mac;
  }

  /** Everything that a reset made the physical function forget. */
  askAgain(): void {
    const ignore: Granted = () => {};
    if (this.#mac) this.#askAddress(this.#mac, ignore);
    this.ask([m.MESSAGE.SET_LPE, this.#parts.mtu + FRAME_OVERHEAD], ignore);
    for (const id of this.#vlans) this.ask(vlanRequest(id, true), ignore);
    if (this.multicast.length > 0) this.askMulticast(ignore);
    if (this.promiscuous) this.askPromiscuous(ignore);
    for (const mac of this.#moreAddresses) this.#askMore(mac, ignore);
  }

  /** Any message of the base set. */
  ask(words: readonly number[], answered: Granted): void {
    this.#parts.mailbox.ask(words, (answer) => {
      const granted = answer !== undefined && ((answer[0] as number) & m.MESSAGE_ACK) !== 0;
      if (answer && !granted) this.refused++;
      answered(granted);
    });
  }

  /** A refusal is remembered and does no harm. */
  #askExtension(name: keyof VfExtensions, words: readonly number[], answered: Granted): void {
    this.#parts.mailbox.ask(words, (answer) => {
      const granted = answer !== undefined && ((answer[0] as number) & m.MESSAGE_ACK) !== 0;
      if (answer) this.extensions[name] = granted;
      answered(granted);
    });
  }

  #askAddress(mac: Uint8Array, answered: Granted): void {
    this.ask([m.MESSAGE.SET_MAC_ADDR, ...m.addressWords(mac)], (granted) => {
      if (granted) this.#parts.onAddress(mac);
      else this.#mac = undefined;
      answered(granted);
    });
  }

  #askMore(mac: Uint8Array, answered: Granted): void {
    this.#askExtension('moreAddresses', [m.MESSAGE.SET_MAC_ADDR | (m.INFO_MAC_ADD << m.INFO_SHIFT), ...m.addressWords(mac)], answered);
  }

  askMulticast(answered: Granted): void {
    const words = [m.MESSAGE.SET_MULTICAST | (this.multicast.length << m.INFO_SHIFT)];
    for (let i = 0; i < this.multicast.length; i += 2) words.push((this.multicast[i] as number) | ((this.multicast[i + 1] ?? 0) << 16));
    this.#askExtension('multicast', words, answered);
  }

  setMac(mac: Uint8Array, answered: Granted): void {
    this.#askAddress(mac, (granted) => {
      if (granted) this.#mac = mac;
      answered(granted);
    });
  }

  addMac(mac: Uint8Array, answered: Granted): void {
    this.#askMore(mac, (granted) => {
      if (granted) this.#moreAddresses.push(mac);
      answered(granted);
    });
  }

  setVlan(id: number, on: boolean, answered: Granted): void {
    this.ask(vlanRequest(id, on), (granted) => {
      if (granted && on) this.#vlans.add(id);
      else if (granted) this.#vlans.delete(id);
      answered(granted);
    });
  }

  askPromiscuous(answered: Granted): void {
    const info = this.promiscuous ? m.INFO_PROMISC_UNICAST | m.INFO_PROMISC_MULTICAST : 0;
    this.#askExtension('promiscuous', [m.MESSAGE.SET_PROMISC | (info << m.INFO_SHIFT)], answered);
  }
}

function vlanRequest(id: number, on: boolean): number[] {
  return [m.MESSAGE.SET_VLAN | ((on ? m.INFO_VLAN_ADD : 0) << m.INFO_SHIFT), id];
}
