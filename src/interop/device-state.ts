// A device's state on its way to or from another process (SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE): one transfer at a time, while no ring runs.

import type { Log } from '#core/log';
import { RestoreError } from '#core/saved';
import type { FrontDevice } from './front-device.ts';
import type { Native } from './native.ts';
import { decodeState, encodeState } from './state-codec.ts';
import { StateStream } from './state-stream.ts';
import * as wire from './vhost-user-protocol.ts';
import { ProtocolError } from './vhost-user-protocol.ts';

export interface StateRequest {
  readonly direction: number;
  readonly phase: number;
  /** The pipe; owned from here on. */
  readonly fd: number;
  /** Rings are running. */
  readonly running: boolean;
  /** A state has arrived. */
  readonly arrived: () => void;
}

export class DeviceStateTransfer {
  readonly #native: Native;
  readonly #log: Log;
  #stream: StateStream | undefined;
  /** undefined: it went well. */
  #result: Promise<string | undefined> | undefined;

  constructor(native: Native, log: Log) {
    this.#native = native;
    this.#log = log;
  }

  /** Begins to write the device's state to a pipe, or to read it from one. Returns the reply: whether it could begin, and that no other descriptor comes back. @throws ProtocolError */
  begin(device: FrontDevice | undefined, { direction, phase, fd, running, arrived }: StateRequest): number {
    if (device === undefined || direction > wire.STATE_LOAD || phase !== wire.STATE_PHASE_STOPPED) {
      this.#native.close(fd);
      throw new ProtocolError(device === undefined ? 'there is no state' : `direction ${direction} in phase ${phase}`);
    }
    this.cancel();
    if (running) {
      this.#native.close(fd);
      this.#log.guestError('device state: rings are running');
      return wire.STATE_NO_FD | 1;
    }
    if (direction === wire.STATE_SAVE) {
      this.#stream = StateStream.write(this.#native, fd, encodeState(device.save()));
      this.#result = this.#stream.result;
    } else {
      const stream = StateStream.read(this.#native, fd);
      this.#stream = stream;
      this.#result = stream.result.then((trouble) => {
        if (trouble !== undefined) return trouble;
        try {
          device.restore(decodeState(stream.bytes));
        } catch (error) {
          return error instanceof RestoreError ? error.message : `internal error, please report it: ${(error as Error).stack}`;
        }
        arrived();
        return undefined;
      });
    }
    return wire.STATE_NO_FD;
  }

  /** Waits for the transfer to end; the reply says whether it went well. */
  async check(): Promise<number> {
    const trouble = this.#result === undefined ? 'no state was moved' : await this.#result;
    this.#result = undefined;
    if (trouble !== undefined) this.#log.guestError(`device state: ${trouble}`);
    return trouble === undefined ? 0 : 1;
  }

  cancel(): void {
    this.#stream?.cancel();
    this.#stream = undefined;
    this.#result = undefined;
  }
}
