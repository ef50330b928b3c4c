// A pcapng file of one interface, in memory.

import { PcapngWriter } from '#net/pcapng';

/** @param fill writes the packets. */
export function pcapngFile(interfaceName: string, fill: (writer: PcapngWriter) => void): Uint8Array {
  const chunks: Uint8Array[] = [];
  const writer = new PcapngWriter((chunk) => chunks.push(chunk), { interfaces: [interfaceName] });
  fill(writer);
  writer.flush();
  const file = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    file.set(chunk, at);
    at += chunk.length;
  }
  return file;
}
