// Set-up shared by the PCI tests: a fabric that records its interrupts, a toy function whose BARs are plain bytes, a port of each kind.
import { SimClock } from '#core/clock';
import { GuestMemory } from '#core/guest-memory';
import type { AccessSize, Region } from '#core/region';
import type { BarOptions } from '#pci/bars';
import type { Capability } from '#pci/capability';
import { Fabric, type FabricOptions } from '#pci/fabric';
import { type PcieType, PciFunction, type PciFunctionOptions } from '#pci/function';
import type { MsiMessage } from '#pci/ports';

export const ECAM_BASE = 0xb000_0000;

export interface Bench {
  readonly fabric: Fabric;
  readonly memory: GuestMemory;
  readonly lines: boolean[];
  readonly edges: string[];
  readonly messages: { message: MsiMessage; requester: number }[];
}

export function makeBench(options: Partial<FabricOptions> = {}): Bench {
  const lines = [false, false, false, false];
  const edges: string[] = [];
  const messages: Bench['messages'] = [];
  const memory = new GuestMemory([{ base: 0, size: 0x1_0000 }]);
  const fabric = new Fabric({
    memory,
    clock: new SimClock(),
    ecam: { base: ECAM_BASE },
    msi: { message: (message, requester) => messages.push({ message, requester }) },
    intx: {
      setIntx(line, asserted) {
        lines[line] = asserted;
        edges.push(`${'ABCD'[line]}${asserted ? '+' : '-'}`);
      },
    },
    ...options,
  });
  return { fabric, memory, lines, edges, messages };
}

/** Plain bytes behind a BAR, counting accesses. */
export class Bytes implements Region {
  readonly size: number;
  readonly bytes: Uint8Array;
  reads = 0;
  writes: string[] = [];

  constructor(size: number) {
    this.size = size;
    this.bytes = new Uint8Array(size);
  }

  read(offset: number, size: AccessSize): number {
    this.reads++;
    let value = 0;
    for (let i = 0; i < size; i++) value += (this.bytes[offset + i] as number) * 2 ** (8 * i);
    return value;
  }

  write(offset: number, size: AccessSize, value: number): void {
    this.writes.push(`${offset.toString(16)}/${size}=${value.toString(16)}`);
    for (let i = 0; i < size; i++) this.bytes[offset + i] = Math.floor(value / 2 ** (8 * i));
  }
}

export function makeDevice(
  name: string,
  bars: readonly BarOptions[] = [],
  more: Partial<PciFunctionOptions> & { pcieType?: PcieType; pin?: number } = {},
): PciFunction {
  const { pcieType, pin, ...rest } = more;
  return new PciFunction({
    name,
    identity: { vendorId: 0x1234, deviceId: 0x1111, classCode: 0x020000, interruptPin: pin ?? 1, pcieType: pcieType ?? 'endpoint' },
    bars,
    ...rest,
  });
}

export function makePort(pcieType: PcieType = 'root-port', capabilities: readonly Capability[] = []): PciFunction {
  return new PciFunction({
    name: pcieType,
    identity: { vendorId: 0x1b36, deviceId: 0x000c, classCode: 0x060400, interruptPin: 1, pcieType },
    bridge: {},
    capabilities,
  });
}

export const bdf = (bus: number, device: number, fn = 0): number => (bus << 8) | (device << 3) | fn;

export const COMMAND = 4;

/** Programs a bridge as firmware does. Windows are [base, limit] in bytes, limit inclusive; undefined closes one. */
export function programBridge(
  fabric: Fabric,
  at: number,
  numbers: readonly [primary: number, secondary: number, subordinate: number],
  windows: { memory?: readonly [number, number]; prefetchable?: readonly [number, number]; io?: readonly [number, number] } = {},
): void {
  fabric.configWrite(at, 0x18, 4, numbers[0] | (numbers[1] << 8) | (numbers[2] << 16));
  const [memory, memoryLimit] = windows.memory ?? [0xfff0_0000, 0];
  fabric.configWrite(at, 0x20, 4, ((memory >>> 16) | (memoryLimit & 0xfff0_0000)) >>> 0);
  const [prefetchable, prefetchableLimit] = windows.prefetchable ?? [0xfff0_0000, 0];
  fabric.configWrite(at, 0x24, 4, (((prefetchable % 2 ** 32) >>> 16) | ((prefetchableLimit % 2 ** 32) & 0xfff0_0000)) >>> 0);
  fabric.configWrite(at, 0x28, 4, Math.floor(prefetchable / 2 ** 32));
  fabric.configWrite(at, 0x2c, 4, Math.floor(prefetchableLimit / 2 ** 32));
  const [io, ioLimit] = windows.io ?? [0xf000, 0];
  fabric.configWrite(at, 0x1c, 2, ((io >>> 8) & 0xf0) | (ioLimit & 0xf000));
  fabric.configWrite(at, 0x30, 4, ((io >>> 16) | (ioLimit & 0xffff_0000)) >>> 0);
  fabric.configWrite(at, COMMAND, 2, 7);
}
