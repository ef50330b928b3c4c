// An interrupt made of events inside a port (hot plug, PME, link bandwidth, AER): one level that is the wired-or of status bits and their enables. In INTx
// mode the level itself goes to the pin; with MSI or MSI-X a message is sent each time it rises. PCIe 4.0 6.7.3.4, 6.2.4.1.2, 6.1.6.

import type { FunctionHost, MessageInterrupts } from './capability.ts';

/** The message capability in use, or undefined in INTx mode. */
function activeMessages(host: FunctionHost): MessageInterrupts | undefined {
  let active: MessageInterrupts | undefined;
  for (const { messages } of host.capabilities) {
    if (!messages?.enabled) continue;
    if (messages.mode === 'msix') return messages;
    active = messages;
  }
  return active;
}

export class EventInterrupt {
  readonly #host: FunctionHost;
  readonly #vector: number;
  #level = false;

  constructor(host: FunctionHost, vector: number) {
    this.#host = host;
    this.#vector = vector;
  }

  get level(): boolean {
    return this.#level;
  }

  /** The level as the registers have it now. */
  set(level: boolean): void {
    if (level === this.#level) return;
    this.#level = level;
    this.#host.setIntxSource(this, level);
    if (level) activeMessages(this.#host)?.raise(this.#vector);
  }

  /** Takes a restored level: the message it once sent is not sent again. */
  adopt(level: boolean): void {
    this.#level = level;
    this.#host.setIntxSource(this, level);
  }
}
