// Saved state: plain cloneable records in versioned envelopes. Restoring refuses what is not exact: saved state is untrusted input.

/** A part's state with its name and layout version. `state` is structured-cloneable plain data and typed arrays. */
export interface Envelope<S = unknown> {
  readonly part: string;
  readonly version: number;
  readonly state: S;
}

/** A stateful part. `restore` throws RestoreError, having changed nothing, when the record does not fit. */
export interface Saved<S> {
  save(): S;
  restore(state: S): void;
}

/** A saved record that does not fit. `code` is stable. */
export class RestoreError extends Error {
  readonly code = 'NICBOX_RESTORE';
}

export function seal<S>(part: string, version: number, state: S): Envelope<S> {
  return { part, version, state };
}

/** The state inside, if the envelope is of this part and version. @throws RestoreError */
export function unseal(envelope: unknown, part: string, version: number): unknown {
  const e = envelope as Partial<Envelope> | null;
  if (typeof e !== 'object' || e === null || e.part !== part) throw new RestoreError(`saved state is not of "${part}"`);
  if (e.version !== version) throw new RestoreError(`saved state of "${part}" has version ${e.version}; this build reads version ${version}`);
  return e.state;
}
