// A new PCI device in one file: a block copier with one BAR of registers, a DMA engine and an interrupt (INTx or MSI). Write SOURCE, TARGET and LENGTH, then GO; when the
// copy is done DONE is set and an interrupt is raised; writing 1 to DONE clears it. `attachToy(machine)` plugs one in.
import { type FunctionServices, type Machine, Msi, PciFunction, RegisterFile } from 'nicbox';

const LONGEST = 65_536;
const DONE = 1;
const FAILED = 2;

export const TOY_ID = { vendorId: 0x1234, deviceId: 0x5f5f } as const;

/** Offsets, widths and what a guest may do with each bit: data, as in a datasheet. */
export const TOY_REGISTERS = {
  SOURCE: { offset: 0x00, writable: 0xffff_ffff },
  TARGET: { offset: 0x04, writable: 0xffff_ffff },
  LENGTH: { offset: 0x08, writable: 0x1_ffff },
  GO: { offset: 0x0c },
  STATUS: { offset: 0x10, writeOneToClear: DONE | FAILED },
  COPIES: { offset: 0x14, clearOnRead: 0xffff_ffff },
} as const;

export function attachToy(machine: Machine): PciFunction {
  const buffer = new Uint8Array(LONGEST);
  let services: FunctionServices | undefined;

  const registers: RegisterFile<typeof TOY_REGISTERS> = new RegisterFile(TOY_REGISTERS, {
    hooks: { GO: { write: () => copy() }, STATUS: { afterWrite: () => updateLine() } },
  });

  function copy(): void {
    const length = registers.get('LENGTH');
    // Refused addresses are values, not exceptions; the fabric has recorded the fault.
    const dma = services?.dma;
    const ok = length <= LONGEST && dma?.read(registers.get('SOURCE'), buffer, 0, length) && dma.write(registers.get('TARGET'), buffer, 0, length);
    if (!ok) services?.log.guestError('copy refused', { length });
    registers.set('STATUS', DONE | (ok ? 0 : FAILED));
    registers.set('COPIES', registers.get('COPIES') + 1);
    services?.interrupts.raise(0);
    updateLine();
  }

  const updateLine = (): void => services?.interrupts.setLine(registers.get('STATUS') !== 0);

  const fn = new PciFunction({
    name: 'toy',
    identity: { ...TOY_ID, classCode: 0xff0000, interruptPin: 1, pcieType: 'root-complex-endpoint' },
    bars: [{ index: 0, kind: 'memory32', region: registers }],
    capabilities: [new Msi()],
    onAttach: (given) => {
      services = given;
    },
    onReset: () => registers.reset(),
  });
  machine.attach(fn, {
    part: { name: 'toy', save: () => registers.save(), restore: (state) => registers.restore(state as ReturnType<typeof registers.save>) },
  });
  return fn;
}
