// What a register access costs by the ways a guest reaches one: through ECAM, through a BAR (the whole fabric decode), and of a 32-bit register file behind it,
// beside a bare typed-array load in a call of the same shape. Goal: under 30 ns through ECAM and BAR decode.

import { RegisterFile } from '#core/register-file';
import { enumeratePci } from '#guest-sim/pci-enumerate';
import { Machine } from '#nicbox/machine';
import { rootPort } from '#pci/bridges';
import { PciFunction } from '#pci/function';
import { nanosPerCall, printTable } from './measure.ts';

const registers = new RegisterFile({
  CTRL: { offset: 0x0, writable: 0xffffffff },
  STATUS: { offset: 0x8, reset: 0x80080783 },
  RDT: { offset: 0x2818, writable: 0xffff },
  RAL: { offset: 0x5400, count: 16, stride: 8, writable: 0xffffffff },
});
const device = new PciFunction({
  name: 'bench device',
  identity: { vendorId: 0x1234, deviceId: 0x5678, classCode: 0x020000 },
  bars: [{ index: 0, kind: 'memory32', region: registers, size: 0x8000 }],
});
const machine = new Machine({ memory: 2 ** 24 });
// Neighbours, so that the decode table is that of a real machine.
for (let i = 0; i < 8; i++) {
  const port = rootPort();
  machine.attach(port);
  if (i === 4) machine.attach(device, { under: port });
}
const tree = enumeratePci(machine.localBus());
const bar = tree.devices.find((d) => d.vendor === 0x1234)?.bars[0]?.address as number;
const rid = device.routingId;
const { fabric, platform } = machine;
const ecam = platform.ecam.base + rid * 4096;
const words = new Uint32Array(0x2000);
const bare = (offset: number): number => words[offset >>> 2] as number;

const bound = nanosPerCall((i) => bare((i & 7) << 2));
const row = (what: string, nanos: number): [string, string, string] => [what, nanos.toFixed(1), (nanos / bound).toFixed(1)];
printTable(
  ['access', 'ns', 'x bound'],
  [
    row('bound: typed-array load in a call', bound),
    row(
      'register file read, 32 bits',
      nanosPerCall(() => registers.read(0x8, 4)),
    ),
    row(
      'register file write, 32 bits',
      nanosPerCall((i) => {
        registers.write(0x2818, 4, i & 0xffff);
        return 0;
      }),
    ),
    row(
      'BAR read through the fabric',
      nanosPerCall(() => fabric.mmioRead(bar + 0x8, 4)),
    ),
    row(
      'BAR write through the fabric',
      nanosPerCall((i) => {
        fabric.mmioWrite(bar + 0x2818, 4, i & 0xffff);
        return 0;
      }),
    ),
    row(
      'ECAM read, same function',
      nanosPerCall(() => fabric.mmioRead(ecam, 4)),
    ),
    row(
      'alternating BAR and ECAM',
      nanosPerCall((i) => fabric.mmioRead((i & 1) === 0 ? ecam : bar + 0x8, 4)),
    ),
    row(
      'nobody there',
      nanosPerCall(() => fabric.mmioRead(0xdead_0000, 4)),
    ),
  ],
);
await machine.close();
