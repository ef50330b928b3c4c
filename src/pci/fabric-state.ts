// The fabric's saved state: configuration bytes, capability state and the device's INTx level of every function, in tree order, with what identifies each. A record
// of another tree is refused before anything is changed; register bits the guest cannot have set are refused too.

import { type Envelope, RestoreError, seal, unseal } from '#core/saved';
import type { Fabric } from './fabric.ts';
import type { PciFunction } from './function.ts';

const PART = 'pci-fabric';
const VERSION = 1;

interface FunctionState {
  /** Where and what: a restore into anything else is refused. */
  readonly identity: string;
  readonly bytes: Uint8Array;
  readonly capabilities: readonly unknown[];
  readonly line: boolean;
}

interface FabricState {
  readonly configAddress: number;
  readonly functions: readonly FunctionState[];
}

/** The path of device and function numbers from the root, ids, sizes and capability layout. */
function identityOf(fn: PciFunction): string {
  const path: string[] = [];
  let at: PciFunction | undefined = fn.physical ?? fn;
  for (; at; at = at.upstream) path.unshift(at.attachment ? at.attachment.devfn.toString(16) : '?');
  if (fn.physical) path.push(`vf${fn.physical.virtualFunctions?.functions.indexOf(fn)}`);
  const { vendorId, deviceId } = fn.identity;
  const bars = fn.bars.list.map((bar) => `${bar.index}:${bar.kind}:${bar.size}`).join(',');
  const capabilities = fn.capabilities.map((c) => `${c.extended ? 'x' : ''}${c.id.toString(16)}@${fn.offsetOf(c).toString(16)}`).join(',');
  return `${path.join('/')} ${vendorId.toString(16)}:${deviceId.toString(16)} ${fn.pcieType} [${bars}] [${capabilities}]`;
}

export function saveFabric(fabric: Fabric): Envelope {
  const functions = fabric.functions().map((fn): FunctionState => {
    return {
      identity: identityOf(fn),
      bytes: fn.config.bytes.slice(),
      capabilities: fn.capabilities.map((capability) => capability.save?.()),
      line: fn.interrupts.line,
    };
  });
  return seal<FabricState>(PART, VERSION, { configAddress: fabric.configPorts?.address ?? 0, functions });
}

/** @throws RestoreError */
export function restoreFabric(fabric: Fabric, envelope: Envelope): void {
  const state = unseal(envelope, PART, VERSION) as Partial<FabricState> | null;
  const functions = fabric.functions();
  const saved = state?.functions;
  if (!Array.isArray(saved) || !Number.isInteger(state?.configAddress)) throw new RestoreError('saved fabric state is malformed');
  if (saved.length !== functions.length) throw new RestoreError(`saved state is of ${saved.length} PCI functions; this fabric has ${functions.length}`);
  functions.forEach((fn, i) => {
    check(fn, saved[i]);
  });
  const before = unseal(saveFabric(fabric), PART, VERSION) as FabricState;
  try {
    apply(fabric, functions, state as FabricState);
  } catch (error) {
    // A capability refused its record: back to where we were, so that a refused restore changes nothing.
    apply(fabric, functions, before);
    throw error;
  }
}

function apply(fabric: Fabric, functions: readonly PciFunction[], state: FabricState): void {
  if (fabric.configPorts) fabric.configPorts.address = (state.configAddress & 0x80ff_fffc) >>> 0;
  functions.forEach((fn, i) => {
    fn.interrupts.clear();
    fn.config.bytes.set((state.functions[i] as FunctionState).bytes);
  });
  functions.forEach((fn, i) => {
    const { capabilities, line } = state.functions[i] as FunctionState;
    fn.capabilities.forEach((capability, n) => {
      capability.restore?.(capabilities[n]);
    });
    fn.interrupts.setLine(line);
  });
}

function check(fn: PciFunction, saved: Partial<FunctionState> | undefined): void {
  const identity = identityOf(fn);
  if (saved?.identity !== identity) throw new RestoreError(`saved state is of "${saved?.identity}" where this fabric has "${identity}"`);
  const { bytes, capabilities, line } = saved;
  if (!(bytes instanceof Uint8Array) || bytes.length !== fn.config.size)
    throw new RestoreError(`${identity}: configuration bytes are missing or of another size`);
  if (!Array.isArray(capabilities) || capabilities.length !== fn.capabilities.length || typeof line !== 'boolean')
    throw new RestoreError(`${identity}: capability state is missing`);
  // The header apart from its status bits is what the masks let a guest write; the rest is the function's own.
  for (let at = 0; at < 0x40; at++) {
    const free = (fn.config.writable[at] as number) | (fn.config.clearable[at] as number) | (at === 6 ? 8 : 0);
    if ((((bytes[at] as number) ^ fn.config.initial8(at)) & ~free) !== 0)
      throw new RestoreError(`${identity}: configuration byte 0x${at.toString(16)} does not fit this function`);
  }
  for (const capability of fn.capabilities) {
    const at = fn.offsetOf(capability);
    const header = capability.extended ? 4 : 2;
    for (let i = 0; i < header; i++)
      if (bytes[at + i] !== fn.config.initial8(at + i)) throw new RestoreError(`${identity}: capability header at 0x${at.toString(16)} does not fit`);
  }
}
