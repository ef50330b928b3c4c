// A machine's saved state: its devices, its fabric, its pending interrupts and, if wanted, its RAM, as one plain cloneable record. Taken and put back while every
// part stands still. Not in it: the guest's CPU, data planes (they hold nothing between turns), IOMMU domains, and time, which are the embedder's.

import type { GuestMemory } from '#core/guest-memory';
import type { PendingVectors } from '#core/interrupts';
import { type Envelope, RestoreError, seal, unseal } from '#core/saved';
import type { Fabric } from '#pci/fabric';
import type { PciFunction } from '#pci/function';

/** A device with state besides its configuration registers, which are the fabric's to save. All on the machine's thread. */
export interface MachinePart {
  /** What it is and where: the same in the machine it is restored into. */
  readonly name: string;
  /** Plain cloneable data. Called while paused. */
  save(): unknown;
  /** Throws RestoreError, having changed nothing, when `state` does not fit. Called while paused. */
  restore(state: unknown): void;
  /** Stops whatever runs behind the registers (another thread's data plane), unseen by the guest. Without it the part stands still between accesses anyway. */
  pause?(): void;
  /** True once nothing runs any more. */
  readonly paused?: boolean;
  resume?(): void;
}

export interface MachineParts {
  readonly memory: GuestMemory;
  readonly fabric: Fabric;
  readonly vectors: PendingVectors;
  readonly parts: readonly MachinePart[];
}

/** The device and function numbers from the root bus down to `fn`: "1.0/0.0". */
export function placeOf(fn: PciFunction): string {
  const path: string[] = [];
  for (let at: PciFunction | undefined = fn; at; at = at.upstream) path.unshift(`${(at.devfn >>> 3).toString(16)}.${at.devfn & 7}`);
  return path.join('/');
}

const PART = 'machine';
const VERSION = 1;
const CHUNK = 2 ** 18;

interface RamState {
  readonly ranges: readonly { readonly base: number; readonly size: number }[];
  /** What is not zero, in order. */
  readonly chunks: readonly { readonly address: number; readonly bytes: Uint8Array }[];
}

export interface MachineState {
  readonly parts: readonly { readonly name: string; readonly state: unknown }[];
  readonly fabric: Envelope;
  readonly vectors: readonly number[];
  readonly memory: RamState | null;
}

export function saveMachine(machine: MachineParts, options: { readonly memory: boolean }): Envelope<MachineState> {
  // Devices first: they deliver interrupts under way, which may become pending in the fabric, then in the CPU, then in RAM.
  const parts = machine.parts.map((part) => ({ name: part.name, state: part.save() }));
  const fabric = machine.fabric.save();
  const vectors = machine.vectors.save();
  return seal(PART, VERSION, { parts, fabric, vectors, memory: options.memory ? saveRam(machine.memory) : null });
}

/** @throws RestoreError, with the machine as it was. */
export function restoreMachine(machine: MachineParts, envelope: unknown): void {
  const state = checkMachine(machine, unseal(envelope, PART, VERSION));
  const before = saveMachine(machine, { memory: false }).state;
  try {
    apply(machine, state);
  } catch (error) {
    apply(machine, before);
    throw error;
  }
  if (state.memory !== null) restoreRam(machine.memory, state.memory);
}

function apply(machine: MachineParts, state: MachineState): void {
  machine.fabric.restore(state.fabric);
  machine.parts.forEach((part, i) => {
    part.restore(state.parts[i]?.state);
  });
  // Last: restored levels made vectors pending that the saved CPU may have taken already.
  machine.vectors.load(state.vectors);
}

function checkMachine(machine: MachineParts, value: unknown): MachineState {
  const state = value as Partial<MachineState> | null;
  if (typeof state !== 'object' || state === null || !Array.isArray(state.parts)) throw new RestoreError('saved machine state is malformed');
  const { parts, vectors, memory, fabric } = state;
  const names = parts.map((part: { name?: unknown } | null) => part?.name);
  const expected = machine.parts.map((part) => part.name);
  if (names.length !== expected.length || names.some((name, i) => name !== expected[i]))
    throw new RestoreError(`saved state is of a machine with [${names.join(', ')}]; this one has [${expected.join(', ')}]`);
  const isWord = (n: unknown): boolean => Number.isInteger(n) && (n as number) >= 0 && (n as number) < 2 ** 32;
  if (!Array.isArray(vectors) || vectors.length !== 8 || !vectors.every(isWord)) throw new RestoreError('saved pending interrupts are malformed');
  if (fabric === undefined || memory === undefined) throw new RestoreError('saved machine state is incomplete');
  if (memory !== null) checkRam(machine.memory, memory);
  return state as MachineState;
}

// ---- RAM ----

function saveRam(memory: GuestMemory): RamState {
  memory.refresh();
  const chunks: { address: number; bytes: Uint8Array }[] = [];
  for (const { base, size, views } of memory.slabs) {
    for (let at = 0; at < size; at += CHUNK) {
      const end = Math.min(at + CHUNK, size);
      if (anySet(views.i32, at / 4, end / 4)) chunks.push({ address: base + at, bytes: views.u8.slice(at, end) });
    }
  }
  return { ranges: memory.slabs.map(({ base, size }) => ({ base, size })), chunks };
}

function anySet(words: Int32Array, from: number, to: number): boolean {
  for (let i = from; i < to; i++) if (words[i] !== 0) return true;
  return false;
}

function checkRam(memory: GuestMemory, saved: Partial<RamState>): void {
  const { ranges, chunks } = saved;
  const { slabs } = memory;
  if (!Array.isArray(ranges) || !Array.isArray(chunks)) throw new RestoreError('saved RAM is malformed');
  if (ranges.length !== slabs.length || slabs.some(({ base, size }, i) => ranges[i]?.base !== base || ranges[i]?.size !== size))
    throw new RestoreError('saved RAM is laid out differently from this machine’s');
  for (const chunk of chunks as Partial<RamState['chunks'][number]>[]) {
    const { address, bytes } = chunk;
    const slab = Number.isInteger(address) ? memory.slabAt(address as number) : undefined;
    if (!(bytes instanceof Uint8Array) || slab === undefined || (address as number) + bytes.length > slab.base + slab.size)
      throw new RestoreError(`saved RAM has bytes at ${address}, where this machine has no room for them`);
  }
}

function restoreRam(memory: GuestMemory, saved: RamState): void {
  memory.refresh();
  for (const slab of memory.slabs) slab.views.u8.fill(0);
  for (const { address, bytes } of saved.chunks) {
    const slab = memory.slabAt(address);
    slab?.views.u8.set(bytes, address - slab.base);
  }
}
