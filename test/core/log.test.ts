import diagnostics from 'node:diagnostics_channel';
import { describe, expect, it } from 'vitest';
import { Log, type LogRecord } from '#core/log';
import { RestoreError, seal, unseal } from '#core/saved';

describe('logs', () => {
  it('keep kinds apart, name who speaks, and count errors nobody heard', () => {
    const log = new Log('machine');
    const part = log.child('virtio-net 00:03.0');
    part.guestError('unheard');
    const heard: LogRecord[] = [];
    const stop = log.listen((record) => heard.push(record), ['guest-error', 'trace']);
    part.guestError('queue size 3', { queue: 1 });
    part.unimplemented('not modelled');
    part.trace('kick');
    stop();
    part.guestError('again unheard');
    expect(heard).toEqual([
      { kind: 'guest-error', source: 'virtio-net 00:03.0', message: 'queue size 3', data: { queue: 1 } },
      { kind: 'trace', source: 'virtio-net 00:03.0', message: 'kick' },
    ]);
    expect(log.counts).toEqual({ 'guest-error': 3, unimplemented: 1, trace: 1 });
  });

  it('reach node:diagnostics_channel while somebody subscribes', () => {
    const log = new Log('nic');
    const name = (kind: string) => `nicbox-test:${kind}`;
    const stop = log.publishTo((kind) => diagnostics.channel(name(kind)));
    expect(log.tracing).toBe(false);
    const heard: unknown[] = [];
    const listener = (message: unknown) => heard.push(message);
    diagnostics.subscribe(name('trace'), listener);
    expect(log.tracing).toBe(true);
    log.trace('one');
    log.guestError('no subscriber of this kind');
    diagnostics.unsubscribe(name('trace'), listener);
    log.trace('two');
    diagnostics.subscribe(name('trace'), listener);
    stop();
    log.trace('three');
    diagnostics.unsubscribe(name('trace'), listener);
    expect(heard).toEqual([{ kind: 'trace', source: 'nic', message: 'one' }]);
  });

  it('a trace nobody hears makes nothing', () => {
    const log = new Log('nic');
    log.publishTo((kind) => diagnostics.channel(`nicbox-test-unheard:${kind}`));
    const speak = (times: number) => {
      for (let i = 0; i < times; i++) log.trace('kick');
    };
    speak(200_000);
    const before = process.memoryUsage().heapUsed;
    speak(1_000_000);
    // One object a trace would be 16 MB or more. Reading the usage itself allocates a little.
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(2_000_000);
  });

  it('a listener that throws does not throw into the device, and the others still hear', async () => {
    const log = new Log();
    const heard: string[] = [];
    log.listen(() => {
      throw new Error('listener failed');
    });
    log.listen((record) => heard.push(record.message));
    const listeners = process.listeners('uncaughtException');
    process.removeAllListeners('uncaughtException');
    const surfaced = new Promise<Error>((resolve) => process.once('uncaughtException', resolve));
    log.guestError('bad descriptor');
    expect(heard).toEqual(['bad descriptor']);
    expect((await surfaced).message).toBe('listener failed');
    for (const listener of listeners) process.on('uncaughtException', listener);
  });
});

describe('saved state', () => {
  it('opens only as what it was sealed as', () => {
    const envelope = seal('fabric', 2, { a: 1 });
    expect(unseal(structuredClone(envelope), 'fabric', 2)).toEqual({ a: 1 });
    for (const [value, part, version] of [
      [envelope, 'device', 2],
      [envelope, 'fabric', 1],
      [null, 'fabric', 2],
      ['fabric', 'fabric', 2],
      [undefined, 'fabric', 2],
      [{}, 'fabric', 2],
    ] as const)
      expect(() => unseal(value, part, version)).toThrow(RestoreError);
  });
});
