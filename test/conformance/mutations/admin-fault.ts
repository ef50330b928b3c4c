// Faults of administration commands: what the device is asked, and what it answers, otherwise than it was. A command is known by what the suite writes before it: a writable part
// full of filler.

import { ADMIN_FILLER } from '#conformance/admin-bench';
import type { Fault } from '../mutant.ts';

export interface Asked {
  readonly opcode: number;
  readonly group: number;
  /** The readable part as the suite wrote it; what is changed here arrives so. */
  readonly bytes: Uint8Array;
}

export const get16 = (bytes: Uint8Array, at: number): number => (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8);
export const put16 = (bytes: Uint8Array, at: number, value: number): void => {
  bytes[at] = value & 0xff;
  bytes[at + 1] = (value >>> 8) & 0xff;
};

/** Where things are in the readable part. */
export const DATA = 24;
export const OBJECT_ID = DATA + 4;
export const OBJECT_VALUE = DATA + 16;

export interface AdminHooks {
  /** Changes what the device is asked. */
  asked?(command: Asked): void;
  /** Changes the writable part as the suite reads it. */
  told?(reply: Uint8Array, command: Asked): void;
}

export function adminFault(hooks: () => AdminHooks): () => Fault {
  return () => {
    const { asked, told } = hooks();
    const commands = new Map<number, Asked>();
    let place = -1;
    return {
      memoryWrite(m, address, bytes) {
        if (m.spot(address)) return bytes;
        if (bytes.length >= 8 && bytes.every((byte) => byte === ADMIN_FILLER)) place = address;
        else if (place >= 0) {
          const command = { opcode: get16(bytes, 0), group: get16(bytes, 2), bytes };
          commands.set(place, { ...command, bytes: bytes.slice() });
          place = -1;
          asked?.(command);
        }
        return bytes;
      },
      memoryRead(_m, address, bytes) {
        const command = commands.get(address);
        if (command !== undefined) told?.(bytes, command);
        return bytes;
      },
    };
  };
}

/** Replies have another status, and perhaps qualifier, where this says so. */
export const answers = (change: (status: number, command: Asked) => number | readonly [number, number] | undefined): (() => Fault) =>
  adminFault(() => ({
    told(reply, command) {
      const changed = change(get16(reply, 0), command);
      if (changed === undefined) return;
      const [status, qualifier] = typeof changed === 'number' ? [changed, get16(reply, 2)] : changed;
      put16(reply, 0, status);
      put16(reply, 2, qualifier);
    },
  }));

export const asks = (change: (command: Asked) => void): (() => Fault) => adminFault(() => ({ asked: change }));
export const tells = (change: (reply: Uint8Array, command: Asked) => void): (() => Fault) => adminFault(() => ({ told: change }));
