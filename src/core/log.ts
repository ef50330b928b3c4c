// Logs and trace points. The kinds are kept apart: a guest erred, a guest asked for what is not modelled, and plain tracing. Cheap when nobody
// listens: a trace is then two loads and a branch and makes nothing, as long as its data is built behind `if (log.tracing)`.

export type LogKind = 'guest-error' | 'unimplemented' | 'trace';

export interface LogRecord {
  readonly kind: LogKind;
  /** Who speaks: "virtio-net 00:03.0". */
  readonly source: string;
  readonly message: string;
  readonly data?: Readonly<Record<string, number | string | boolean>>;
}

export type LogSink = (record: LogRecord) => void;

const LOG_KINDS: readonly LogKind[] = ['guest-error', 'unimplemented', 'trace'];

/** What is needed of a channel of node:diagnostics_channel, so that this layer need not import it. */
export interface DiagnosticsChannel {
  readonly hasSubscribers: boolean;
  publish(record: LogRecord): void;
}

/** Where a machine's parts speak. Counting is always on: `counts` tells how often a guest erred even when nobody listened. */
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
  listen(sink: LogSink, kinds: readonly LogKind[] = LOG_KINDS): () => void {
    return this.#root.listen(sink, kinds);
  }

  /**
   * Publishes to channels, such as node:diagnostics_channel's: `log.publishTo((kind) => diagnostics_channel.channel('nicbox:' + kind))`. A channel without
   * subscribers costs a look at `hasSubscribers`. Returns a function that stops.
   */
  publishTo(channelOf: (kind: LogKind) => DiagnosticsChannel): () => void {
    return this.#root.publishTo(channelOf);
  }

  /** How often each kind was said, heard or not (traces: heard ones only). */
  get counts(): Readonly<Record<LogKind, number>> {
    return this.#root.counts;
  }

  /** True while somebody listens to traces: guard costly trace data with it. */
  get tracing(): boolean {
    return this.#root.heard('trace');
  }

  guestError(message: string, data?: LogRecord['data']): void {
    this.#root.emit('guest-error', this.source, message, data);
  }

  unimplemented(message: string, data?: LogRecord['data']): void {
    this.#root.emit('unimplemented', this.source, message, data);
  }

  trace(message: string, data?: LogRecord['data']): void {
    if (this.#root.heard('trace')) this.#root.emit('trace', this.source, message, data);
  }
}

class LogRoot {
  readonly counts: Record<LogKind, number> = { 'guest-error': 0, unimplemented: 0, trace: 0 };
  readonly #sinks: Record<LogKind, LogSink[]> = { 'guest-error': [], unimplemented: [], trace: [] };
  readonly #channels: Record<LogKind, DiagnosticsChannel[]> = { 'guest-error': [], unimplemented: [], trace: [] };

  listen(sink: LogSink, kinds: readonly LogKind[]): () => void {
    for (const kind of kinds) this.#sinks[kind] = [...this.#sinks[kind], sink];
    return () => {
      for (const kind of kinds) this.#sinks[kind] = this.#sinks[kind].filter((s) => s !== sink);
    };
  }

  publishTo(channelOf: (kind: LogKind) => DiagnosticsChannel): () => void {
    const added = LOG_KINDS.map((kind) => ({ kind, channel: channelOf(kind) }));
    for (const { kind, channel } of added) this.#channels[kind] = [...this.#channels[kind], channel];
    return () => {
      for (const { kind, channel } of added) this.#channels[kind] = this.#channels[kind].filter((c) => c !== channel);
    };
  }

  heard(kind: LogKind): boolean {
    if (this.#sinks[kind].length > 0) return true;
    const channels = this.#channels[kind];
    for (let i = 0; i < channels.length; i++) if ((channels[i] as DiagnosticsChannel).hasSubscribers) return true;
    return false;
  }

  emit(kind: LogKind, source: string, message: string, data: LogRecord['data']): void {
    this.counts[kind]++;
    if (!this.heard(kind)) return;
    const record: LogRecord = data === undefined ? { kind, source, message } : { kind, source, message, data };
    for (const sink of this.#sinks[kind]) {
      try {
        sink(record);
      } catch (error) {
        // A listener's mistake is not the device's: nothing may throw out of a bus access. It surfaces as an uncaught error.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
    for (const channel of this.#channels[kind]) if (channel.hasSubscribers) channel.publish(record);
  }
}
