// Bytes of a frame into a guest's buffer, which may lie in several windows.

import { copyBytes } from '#core/copy';
import { DMA_WRITE, type DmaSpace } from '#core/dma-space';
import type { ByteViews } from '#core/guest-memory';

/** What cannot be reached is not written, and recorded as a fault. */
export function copyOut(dma: DmaSpace, address: number, from: ByteViews, source: number, length: number): void {
  const window = dma.window(address, length, DMA_WRITE);
  if (window !== null) {
    copyBytes(window.slab.views, address + window.bias, from, source, length);
    dma.markDirty(window, address, length);
    return;
  }
  for (let done = 0; done < length; ) {
    const part = dma.window(address + done, 0, DMA_WRITE);
    if (part === null) {
      dma.fault(address + done, length - done, DMA_WRITE);
      return;
    }
    const run = Math.min(length - done, part.end - address - done);
    copyBytes(part.slab.views, address + done + part.bias, from, source + done, run);
    dma.markDirty(part, address + done, run);
    done += run;
  }
}
