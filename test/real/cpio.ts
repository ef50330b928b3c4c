// Writes an archive of the "newc" format (cpio -H newc), which is what Linux unpacks as its initial file system. Several may follow each other.

export interface ArchiveEntry {
  readonly path: string;
  /** Type and permissions, as stat's mode: 0o100755 a program, 0o040755 a directory, 0o120777 a symbolic link (content: its target). */
  readonly mode: number;
  readonly content?: Uint8Array;
}

export function archive(entries: readonly ArchiveEntry[]): Buffer {
  const parts: Buffer[] = [];
  let inode = 1;
  const add = (path: string, mode: number, content: Uint8Array): void => {
    const name = Buffer.from(`${path}\0`);
    const fields = [inode++, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, name.length, 0];
    const header = Buffer.from(`070701${fields.map((value) => value.toString(16).padStart(8, '0')).join('')}`);
    for (const part of [Buffer.concat([header, name]), Buffer.from(content)]) parts.push(part, Buffer.alloc(-part.length & 3));
  };
  for (const { path, mode, content } of entries) add(path, mode, content ?? new Uint8Array(0));
  add('TRAILER!!!', 0, new Uint8Array(0));
  return Buffer.concat(parts);
}
