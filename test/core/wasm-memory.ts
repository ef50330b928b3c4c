// A WebAssembly memory: growing it replaces and detaches its buffer, as it does under an emulator. (Its types belong to the DOM library.)
export interface WasmMemory {
  readonly buffer: ArrayBuffer;
  grow(pages: number): number;
}

const wasm = (globalThis as unknown as { WebAssembly: { Memory: new (limits: { initial: number; maximum: number }) => WasmMemory } }).WebAssembly;

export function wasmMemory(initial: number, maximum: number): WasmMemory {
  return new wasm.Memory({ initial, maximum });
}
