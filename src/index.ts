// The public face: what an embedder needs. Runs in a browser; the worker-thread backend, which needs Node, is its own entry point.

export { Machine, MachineError, type MachineOptions, type VirtioNetPlace } from './machine.ts';
