// What goes wrong between us and other processes: errors of embedders and the platform, and the names of the system's.

export type InteropErrorCode =
  | 'NICBOX_NATIVE_MISSING'
  | 'NICBOX_NATIVE_PLATFORM'
  | 'NICBOX_NATIVE_CALL'
  | 'NICBOX_SOCKET'
  | 'NICBOX_VHOST_USER_OPTION'
  | 'NICBOX_VHOST_USER_PEER'
  | 'NICBOX_RAM_NOT_SHAREABLE'
  | 'NICBOX_TAP'
  | 'NICBOX_UML_PCI_OPTION';

/** What an embedder or the platform got wrong; `code` is stable. */
export class InteropError extends Error {
  readonly code: InteropErrorCode;

  constructor(code: InteropErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}

/** There is nothing now. */
export const EAGAIN = 11;

const ERROR_NAMES: Readonly<Record<number, string>> = {
  1: 'EPERM',
  2: 'ENOENT',
  9: 'EBADF',
  11: 'EAGAIN',
  12: 'ENOMEM',
  13: 'EACCES',
  16: 'EBUSY',
  19: 'ENODEV',
  22: 'EINVAL',
  24: 'EMFILE',
  32: 'EPIPE',
  98: 'EADDRINUSE',
  104: 'ECONNRESET',
  111: 'ECONNREFUSED',
};

/** "EINVAL" for what a call here returned. */
export function errorName(result: number): string {
  return ERROR_NAMES[-result] ?? `error ${-result}`;
}
