// Little-endian fields, as lists of bytes.

export const le16 = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff];
export const le32 = (value: number): number[] => [...le16(value & 0xffff), ...le16(value >>> 16)];

export const get16le = (bytes: Uint8Array, at: number): number => (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8);
export const get32le = (bytes: Uint8Array, at: number): number => (get16le(bytes, at) | (get16le(bytes, at + 2) << 16)) >>> 0;
