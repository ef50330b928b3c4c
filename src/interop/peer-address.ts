// Where a netdev's other end is: a UNIX socket's path or an internet host and port, and the spelling of both on a command line.

export interface InternetAddress {
  /** Name or number; IPv6 without brackets. */
  readonly host: string;
  /** 0 when listening: any free one. */
  readonly port: number;
}

export type StreamAddress = { readonly path: string } | InternetAddress;

export class AddressError extends TypeError {
  readonly code = 'ERR_NICBOX_ADDRESS';
}

/** Reads `unix:PATH`, `tcp:HOST:PORT` or `HOST:PORT` (`[::1]:PORT` for IPv6; an empty HOST is 127.0.0.1). @throws AddressError */
export function parseStreamAddress(text: string): StreamAddress {
  if (text.startsWith('unix:')) {
    const path = text.slice('unix:'.length);
    if (path === '') throw new AddressError(`'${text}' names no path: write unix:/path/to/socket`);
    return { path };
  }
  return parseInternetAddress(text.startsWith('tcp:') ? text.slice('tcp:'.length) : text);
}

/** Reads `HOST:PORT`, with `udp:` before it or not. @throws AddressError */
export function parseDatagramAddress(text: string): InternetAddress {
  return parseInternetAddress(text.startsWith('udp:') ? text.slice('udp:'.length) : text);
}

function parseInternetAddress(text: string): InternetAddress {
  const match = /^(?:\[([^\]]+)\]|([^:]*)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (match === null || port > 65535) throw new AddressError(`'${text}' is no address: write HOST:PORT, [IPV6]:PORT or unix:PATH`);
  return { host: match[1] ?? (match[2] === '' ? '127.0.0.1' : (match[2] as string)), port };
}

export function formatAddress(address: StreamAddress): string {
  if ('path' in address) return `unix:${address.path}`;
  return address.host.includes(':') ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}
