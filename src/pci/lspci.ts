// A listing of any machine in the manner of `lspci -t` and `lspci -vvv`, made by configuration reads alone, so that it shows what a guest would see.
// Sizes of BARs cannot be read without disturbing them; pass the machine's decode list for those. Nothing here writes.

import { capabilityLines } from './lspci/capabilities.ts';
import { extendedLines } from './lspci/extended.ts';
import { headerLines, type Identity, titleText } from './lspci/header.ts';
import { type FoundBus, type FoundFunction, flatten, scan } from './lspci/scan.ts';
import { bdfText, type ConfigRead, FunctionView, hex } from './lspci/text.ts';

export type { ConfigRead };

export interface LspciOptions {
  /** Root buses; [0] if not given. */
  readonly roots?: readonly number[];
  /** Size in bytes of a function's BAR (0..5, 6 = expansion ROM), if known. */
  readonly barSize?: (bdf: number, bar: number) => number | undefined;
  /** Size in bytes of one virtual function's share of a physical function's VF BAR (0..5), if known. */
  readonly virtualBarSize?: (bdf: number, bar: number) => number | undefined;
}

/** One line a function: "00:03.0 Ethernet controller [0200]: ...". */
export function lspci(read: ConfigRead, options: LspciOptions = {}): string {
  return join(flatten(scan(read, options.roots)).map((f) => `${bdfText(f.bdf)} ${titleText(f.view, identityOf(f, read))}`));
}

/** The tree of buses, one function a line, as `lspci -tv` shows it. */
export function lspciTree(read: ConfigRead, options: LspciOptions = {}): string {
  const lines: string[] = [];
  for (const bus of scan(read, options.roots)) {
    lines.push(`-[0000:${hex(bus.bus, 2)}]`);
    treeLines(read, bus, '  ', lines);
  }
  return join(lines);
}

/** A block of everything decoded for each function, or for `only` one. */
export function lspciVerbose(read: ConfigRead, options: LspciOptions & { readonly only?: number } = {}): string {
  const blocks: string[] = [];
  for (const f of flatten(scan(read, options.roots))) {
    if (options.only !== undefined && options.only !== f.bdf) continue;
    blocks.push(block(read, f, options));
  }
  return blocks.join('\n');
}

/** The dump `lspci -xxxx` writes and `lspci -F` reads: 4096 bytes of each PCI Express function, 256 of the others. */
export function toHexDump(read: ConfigRead, options: LspciOptions = {}): string {
  const lines: string[] = [];
  for (const f of flatten(scan(read, options.roots))) {
    lines.push(`${bdfText(f.bdf)} ${titleText(f.view, identityOf(f, read))}`);
    const length = f.view.capability(0x10) === 0 ? 256 : 4096;
    for (let at = 0; at < length; at += 16) {
      const bytes: string[] = [];
      for (let i = 0; i < 16; i++) bytes.push(hex(f.view.u8(at + i), 2));
      lines.push(`${hex(at, 2)}: ${bytes.join(' ')}`);
    }
    lines.push('');
  }
  return join(lines);
}

function join(lines: readonly string[]): string {
  return lines.map((line) => `${line}\n`).join('');
}

/** A virtual function's ids: its physical function's vendor and the SR-IOV capability's VF Device ID (PCIe 4.0 9.3.3.11, 9.3.4.1.1). */
function identityOf(f: FoundFunction, read: ConfigRead): Identity {
  if (f.virtualOf === undefined) return { vendor: f.view.u16(0), device: f.view.u16(2) };
  const physical = new FunctionView(read, f.virtualOf);
  return { vendor: physical.u16(0), device: physical.u16(physical.extendedCapability(0x10) + 26) };
}

function block(read: ConfigRead, f: FoundFunction, options: LspciOptions): string {
  const { barSize, virtualBarSize } = options;
  // A virtual function has no BAR registers: its physical function's VF BARs place it (PCIe 4.0 9.3.4.1.11).
  const own = barSize && f.virtualOf === undefined ? (bar: number) => barSize(f.bdf, bar) : undefined;
  const virtual = virtualBarSize && ((bar: number) => virtualBarSize(f.bdf, bar));
  const lines = [`${bdfText(f.bdf)} ${titleText(f.view, identityOf(f, read))}`];
  const body = headerLines(f.view, own);
  if (f.virtualOf !== undefined) body.unshift(`Virtual function of ${bdfText(f.virtualOf)}`);
  for (const at of f.view.capabilities()) body.push(...capabilityLines(f.view, at));
  if (f.view.capability(0x10) !== 0) for (const at of f.view.extendedCapabilities()) body.push(...extendedLines(f.view, at, virtual));
  return join([...lines, ...body.map((line) => `\t${line}`)]);
}

function treeLines(read: ConfigRead, bus: FoundBus, indent: string, lines: string[]): void {
  bus.functions.forEach((f, i) => {
    const last = i === bus.functions.length - 1;
    const range = f.below ? `-[${hex(f.below.bus, 2)}${f.below.subordinate > f.below.bus ? `-${hex(f.below.subordinate, 2)}` : ''}]` : '';
    // A virtual function may sit on a bus of its own numbering (PCIe 4.0 9.2.1.2): show it in full there.
    const place = f.bdf >>> 8 === bus.bus ? bdfText(f.bdf).slice(3) : bdfText(f.bdf);
    lines.push(`${indent}${last ? '\\' : '+'}-${place}${range}  ${titleText(f.view, identityOf(f, read))}`);
    if (f.below) treeLines(read, f.below, `${indent}${last ? ' ' : '|'}     `, lines);
  });
}
