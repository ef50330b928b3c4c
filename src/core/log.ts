// Logs and trace points. The kinds are kept apart: a guest erred, a guest asked for what is not modelled, and plain tracing. Cheap when nobody
// listens: a point with no sink is one property load and a branch; the message and its data are only built for a listener.

export type LogKind = 'guest-error' | 'unimplemented' | 'trace';

export interface LogRecord {
  readonly kind: LogKind;
  /** Who speaks: "virtio-net 00:03.0". */
  readonly source: string;
  readonly message: string;
  readonly data?: Readonly<Record<string, number | string | boolean>>;
}

export type LogSink = (record: LogRecord) => void;

/**
 * Where a machine's parts speak. `log.guestError?.(...)`-style calls cost nothing unheard: each kind is undefined until somebody listens.
 * Counting is separate and always on: `counts` tells how often a guest erred even when nobody listened.
 */
export class Log {
  readonly source: string;
  readonly #root: LogRoot;

  constructor(source = 'nicbox', root = new LogRoot()) {
    this.source = source;
    this.#root = root;
  }

  /** A log for a part, with the same listeners. */
  child(source: string): Log {
    return new Log(source, this.#root);
  }

  /** Starts listening; returns a function that stops. */
  listen(sink: LogSink, kinds: readonly LogKind[] = ['guest-error', 'unimplemented', 'trace']): () => void {
    return this.#root.listen(sink, kinds);
  }

  get counts(): Readonly<Record<LogKind, number>> {
    return this.#root.counts;
  }

  /** True while somebody listens to traces: guard costly trace data with it. */
  get tracing(): boolean {
    return this.#root.sinks.trace.length > 0;
  }

  guestError(message: string, data?: LogRecord['data']): void {
    this.#root.emit('guest-error', this.source, message, data);
  }

  unimplemented(message: string, data?: LogRecord['data']): void {
    this.#root.emit('unimplemented', this.source, message, data);
  }

  trace(message: string, data?: LogRecord['data']): void {
    if (this.#root.sinks.trace.length > 0) this.#root.emit('trace', this.source, message, data);
  }
}

class LogRoot {
  readonly sinks: Record<LogKind, LogSink[]> = { 'guest-error': [], unimplemented: [], trace: [] };
  readonly counts: Record<LogKind, number> = { 'guest-error': 0, unimplemented: 0, trace: 0 };

  listen(sink: LogSink, kinds: readonly LogKind[]): () => void {
    for (const kind of kinds) this.sinks[kind].push(sink);
    return () => {
      for (const kind of kinds) this.sinks[kind] = this.sinks[kind].filter((s) => s !== sink);
    };
  }

  emit(kind: LogKind, source: string, message: string, data: LogRecord['data']): void {
    this.counts[kind]++;
    const sinks = this.sinks[kind];
    if (sinks.length === 0) return;
    const record: LogRecord = data === undefined ? { kind, source, message } : { kind, source, message, data };
    for (const sink of sinks) sink(record);
  }
}
