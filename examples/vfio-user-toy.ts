// A PCI device written in TypeScript, in a QEMU guest: a counter that adds itself up in guest memory. Start it, then QEMU (10.1 or later; no shared memory is needed):
//   npx tsx vfio-user-toy.ts /tmp/toy.sock        (Node 22.18 and later run it as it is: node vfio-user-toy.ts /tmp/toy.sock)
//   qemu-system-x86_64 ... -device '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"/tmp/toy.sock"}}'
// In the guest it is 1234:ad0d with one BAR: write an address to ADDRESS and a number to ADD, and the device adds it to the 32-bit word there, by DMA, and interrupts (MSI or INTx).
import { type FunctionServices, type Machine, Msi, PciFunction, RegisterFile } from 'nicbox';
import { serveVfioUser, type VfioUserServer } from 'nicbox/interop';

const DONE = 1;
const FAILED = 2;

export const ADDER_REGISTERS = {
  ADDRESS: { offset: 0x00, writable: 0xffff_fffc },
  ADD: { offset: 0x04, writable: 0xffff_ffff },
  STATUS: { offset: 0x08, writeOneToClear: DONE | FAILED },
} as const;

export function attachAdder(machine: Machine): PciFunction {
  let services: FunctionServices | undefined;
  const registers: RegisterFile<typeof ADDER_REGISTERS> = new RegisterFile(ADDER_REGISTERS, {
    hooks: { ADD: { afterWrite: () => add() }, STATUS: { afterWrite: () => updateLine() } },
  });
  const updateLine = (): void => services?.interrupts.setLine(registers.get('STATUS') !== 0);

  function add(): void {
    const address = registers.get('ADDRESS');
    // Wherever the guest's memory is: mapped, or asked for by messages while this call waits. -1 and false are refusals, by a bad address or by Bus Master Enable.
    const word = services?.dma.load32(address) ?? -1;
    const ok = word >= 0 && services?.dma.store32(address, word + registers.get('ADD'));
    registers.set('STATUS', DONE | (ok ? 0 : FAILED));
    services?.interrupts.raise(0);
    updateLine();
  }

  const fn = new PciFunction({
    name: 'adder',
    identity: { vendorId: 0x1234, deviceId: 0xad0d, classCode: 0xff0000, interruptPin: 1, pcieType: 'root-complex-endpoint' },
    bars: [{ index: 0, kind: 'memory32', region: registers, size: 4096 }],
    capabilities: [new Msi()],
    onAttach: (given) => {
      services = given;
    },
    onReset: () => registers.reset(),
  });
  // With its state told, it can be migrated.
  machine.attach(fn, {
    part: { name: 'adder', save: () => registers.save(), restore: (state) => registers.restore(state as ReturnType<typeof registers.save>) },
  });
  return fn;
}

export function serveAdder(socket: string): Promise<VfioUserServer> {
  return serveVfioUser(attachAdder, { socket });
}

const [, program, socket] = process.argv;
if (program?.includes('vfio-user-toy') === true && socket !== undefined) await serveAdder(socket);
