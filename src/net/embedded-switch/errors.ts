// What an embedder of the embedded switch got wrong, with a stable code.

export type EmbeddedSwitchErrorCode =
  /** No port, rule, meter, counter or tunnel of that name. */
  | 'unknown'
  | 'bad-option'
  | 'bad-setting'
  | 'bad-match'
  | 'bad-action'
  /** Another port has that address in the same VLAN. */
  | 'address-in-use'
  /** A rule still refers to it. */
  | 'in-use'
  /** A table is full: rules, masks of a chain, chains, meters, counters, tunnels, words of a rule's actions. */
  | 'limit'
  /** It is another control domain's. */
  | 'not-owner'
  /** Forwarding rules are for switchdev mode. */
  | 'mode';

export class EmbeddedSwitchError extends Error {
  readonly code: EmbeddedSwitchErrorCode;

  constructor(code: EmbeddedSwitchErrorCode, message: string) {
    super(message);
    this.name = 'EmbeddedSwitchError';
    this.code = code;
  }
}
