// The type 1 header's own part: bus numbers, windows, secondary status, bridge control. PCIe 4.0 7.5.1.3; windows and the ISA and VGA bits as in the
// P2P bridge 1.2 3.2.5 and 12.1. What the fields make reachable is derived in decode.ts and routing.ts.

import { EFFECT_DECODE, EFFECT_MASTERING, EFFECT_NONE, EFFECT_ROUTING, EFFECT_SECONDARY_RESET } from './capability.ts';
import type { ConfigSpace } from './config-space.ts';

export interface BridgeOptions {
  /** I/O window: none, 16-bit or 32-bit addresses (default 32). */
  readonly io?: 'none' | 16 | 32;
  /** Prefetchable window: none, 32-bit or 64-bit addresses (default 64). */
  readonly prefetchable?: 'none' | 32 | 64;
}

/** An address range, end exclusive. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

const PRIMARY = 0x18;
const SECONDARY = 0x19;
const SUBORDINATE = 0x1a;
const IO_BASE = 0x1c;
const MEMORY_BASE = 0x20;
const PREFETCHABLE_BASE = 0x24;
const PREFETCHABLE_UPPER = 0x28;
const PREFETCHABLE_UPPER_LIMIT = 0x2c;
const IO_UPPER = 0x30;
const BRIDGE_CONTROL = 0x3e;
const CONTROL_ISA = 4;
const CONTROL_VGA = 8;
const CONTROL_VGA_16_BIT = 16;
const CONTROL_SECONDARY_RESET = 64;

export class BridgeRegisters {
  readonly #config: ConfigSpace;

  constructor(config: ConfigSpace, options: BridgeOptions, express: boolean) {
    this.#config = config;
    config.permitWrite(PRIMARY, 4, express ? 0x00ff_ffff : 0xf8ff_ffff);
    const io = options.io ?? 32;
    if (io !== 'none') {
      const width = io === 32 ? 1 : 0;
      config.set16(IO_BASE, width | (width << 8));
      config.permitWrite(IO_BASE, 2, 0xf0f0);
      if (io === 32) config.permitWrite(IO_UPPER, 4, 0xffff_ffff);
    }
    // Secondary status: every bit that may be set is cleared by writing one (7.5.1.3.7).
    config.permitClear(0x1e, 2, 0xf900);
    config.permitWrite(MEMORY_BASE, 4, 0xfff0_fff0);
    const prefetchable = options.prefetchable ?? 64;
    if (prefetchable !== 'none') {
      const width = prefetchable === 64 ? 1 : 0;
      config.set32(PREFETCHABLE_BASE, width | (width << 16));
      config.permitWrite(PREFETCHABLE_BASE, 4, 0xfff0_fff0);
      if (prefetchable === 64) {
        config.permitWrite(PREFETCHABLE_UPPER, 4, 0xffff_ffff);
        config.permitWrite(PREFETCHABLE_UPPER_LIMIT, 4, 0xffff_ffff);
      }
    }
    // Parity, SERR, ISA, VGA, VGA 16-bit, secondary bus reset; a conventional bridge also has master-abort mode and the discard timers.
    config.permitWrite(BRIDGE_CONTROL, 2, express ? 0x005f : 0x0b7f);
    if (!express) config.permitClear(BRIDGE_CONTROL, 2, 0x0400);
  }

  get secondary(): number {
    return this.#config.get8(SECONDARY);
  }

  get subordinate(): number {
    return this.#config.get8(SUBORDINATE);
  }

  /** True when configuration requests for `bus` are forwarded to the secondary side. Bus 0 is never below a bridge: it is what reset leaves in the registers. */
  claims(bus: number): boolean {
    const secondary = this.secondary;
    return secondary !== 0 && bus >= secondary && bus <= this.subordinate;
  }

  get inReset(): boolean {
    return (this.#config.get16(BRIDGE_CONTROL) & CONTROL_SECONDARY_RESET) !== 0;
  }

  /** Memory ranges forwarded downstream (while Memory Space Enable is set). */
  memoryWindows(): Span[] {
    const spans: Span[] = [];
    const memory = this.#config.get32(MEMORY_BASE);
    pushWindow(spans, (memory & 0xfff0) * 2 ** 16, (memory >>> 20) * 2 ** 20 + 2 ** 20);
    const prefetchable = this.#config.get32(PREFETCHABLE_BASE);
    // A bridge without the window has all its registers 0, which would read as one at address 0 but for the masks.
    if (this.#config.writable[PREFETCHABLE_BASE] !== 0) {
      const base = (prefetchable & 0xfff0) * 2 ** 16 + this.#config.get32(PREFETCHABLE_UPPER) * 2 ** 32;
      const limit = (prefetchable >>> 20) * 2 ** 20 + this.#config.get32(PREFETCHABLE_UPPER_LIMIT) * 2 ** 32;
      pushWindow(spans, base, limit + 2 ** 20);
    }
    if ((this.#config.get16(BRIDGE_CONTROL) & CONTROL_VGA) !== 0) spans.push({ start: 0xa_0000, end: 0xc_0000 });
    return spans;
  }

  /** I/O ranges forwarded downstream (while I/O Space Enable is set). */
  ioWindows(): Span[] {
    const spans: Span[] = [];
    const control = this.#config.get16(BRIDGE_CONTROL);
    if (this.#config.writable[IO_BASE] !== 0) {
      const registers = this.#config.get16(IO_BASE);
      const upper = this.#config.get32(IO_UPPER);
      const base = (registers & 0xf0) * 2 ** 8 + (upper & 0xffff) * 2 ** 16;
      const end = (registers >>> 12) * 2 ** 12 + (upper >>> 16) * 2 ** 16 + 2 ** 12;
      if ((control & CONTROL_ISA) === 0 || base >= 0x1_0000) pushWindow(spans, base, end);
      else {
        // ISA Enable: of each 1 KiB below 64 KiB only the first 256 bytes go down.
        for (let at = base; at < Math.min(end, 0x1_0000); at += 0x400) spans.push({ start: at, end: at + 0x100 });
        if (end > 0x1_0000) pushWindow(spans, 0x1_0000, end);
      }
    }
    if ((control & CONTROL_VGA) !== 0) {
      // Without 16-bit decoding the VGA ports alias every 1 KiB (only address bits 9:0 are looked at).
      const aliases = (control & CONTROL_VGA_16_BIT) !== 0 ? 1 : 64;
      for (let i = 0; i < aliases; i++) spans.push({ start: i * 0x400 + 0x3b0, end: i * 0x400 + 0x3bc }, { start: i * 0x400 + 0x3c0, end: i * 0x400 + 0x3e0 });
    }
    return spans;
  }

  afterWrite(register: number, old: number): number {
    const changed = (this.#config.get32(register) ^ old) >>> 0;
    if (changed === 0) return EFFECT_NONE;
    if (register === PRIMARY) return (changed & 0x00ff_ff00) !== 0 ? EFFECT_ROUTING | EFFECT_MASTERING : EFFECT_NONE;
    if (register === IO_BASE) return (changed & 0xffff) !== 0 ? EFFECT_DECODE : EFFECT_NONE;
    if (register >= MEMORY_BASE && register <= IO_UPPER) return EFFECT_DECODE;
    if (register === 0x3c) {
      let effects = (changed & ((CONTROL_ISA | CONTROL_VGA | CONTROL_VGA_16_BIT) << 16)) !== 0 ? EFFECT_DECODE : EFFECT_NONE;
      if ((changed & (CONTROL_SECONDARY_RESET << 16)) !== 0) {
        effects |= EFFECT_DECODE | EFFECT_ROUTING | EFFECT_MASTERING;
        if (this.inReset) effects |= EFFECT_SECONDARY_RESET;
      }
      return effects;
    }
    return EFFECT_NONE;
  }
}

function pushWindow(spans: Span[], start: number, end: number): void {
  if (start < end) spans.push({ start, end });
}
