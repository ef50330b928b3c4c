// What is remembered of frames' ways: by which words, for how long, and within which bounds.

import { describe, expect, it } from 'vitest';
import { EmbeddedSwitch, type EmbeddedSwitchOptions } from '#net/embedded-switch/embedded-switch';
import { FlowCache } from '#net/embedded-switch/flow-cache';
import * as k from '#net/embedded-switch/layout';

const NO_RULES = new Int32Array(k.KEY_WORDS).subarray(0, 4);

function cacheOf(options: Partial<EmbeddedSwitchOptions> = {}): { nic: EmbeddedSwitch; cache: FlowCache } {
  const nic = new EmbeddedSwitch({ functions: 3, ...options });
  const cache = new FlowCache(new k.SwitchTables(nic.share));
  cache.refresh();
  return { nic, cache };
}

function keyOf(words: Record<number, number>): Int32Array {
  const key = new Int32Array(k.KEY_WORDS);
  for (const [word, value] of Object.entries(words)) key[Number(word)] = value;
  return key;
}

/** Sought and not found, and kept. */
function remember(cache: FlowCache, key: Int32Array, target: number): void {
  expect(cache.find(key)).toBe(-1);
  cache.keep(target, NO_RULES, 0);
}

describe('the flow cache', () => {
  it('goes by all of layer 2 in legacy mode, and by nothing else without rules', () => {
    const { cache } = cacheOf();
    expect(cache.off).toBe(false);
    expect(cache.deep).toBe(false);
    const flow = { [k.KEY_PORT]: 2, [k.KEY_TO_LOW]: 5, [k.KEY_FROM_LOW]: 6, [k.KEY_HIGHS]: 7, [k.KEY_TAGS]: 0x6005, [k.KEY_TYPE]: (k.HAS_TAG << 16) | 0x800 };
    remember(cache, keyOf(flow), 3);
    expect(cache.find(keyOf({ ...flow, [k.KEY_PORTS]: 99, [k.KEY_SOURCE]: 1, [k.KEY_TYPE]: ((k.HAS_TAG | k.HAS_IPV4) << 16) | 0x86dd }))).toBe(3);
    for (const word of [k.KEY_PORT, k.KEY_TO_LOW, k.KEY_FROM_LOW, k.KEY_HIGHS, k.KEY_TAGS]) expect(cache.find(keyOf({ ...flow, [word]: 8 }))).toBe(-1);
    for (const tags of [0, k.HAS_TAG | k.HAS_SERVICE_TAG, k.HAS_TAG | k.HAS_INNER_TAG])
      expect(cache.find(keyOf({ ...flow, [k.KEY_TYPE]: tags << 16 }))).toBe(-1);
  });

  it('goes by what some rule looks at in switchdev mode', () => {
    const { nic, cache } = cacheOf({ mode: 'switchdev' });
    const rule = nic.root.addRule({ match: { port: 'vf0', destination: '10.0.0.0/8' }, actions: [{ kind: 'forward', to: 'vf1' }] });
    cache.refresh();
    expect(cache.deep).toBe(true);
    const flow = { [k.KEY_PORT]: 2, [k.KEY_TYPE]: (k.HAS_IPV4 | k.HAS_IP) << 16, [k.KEY_DESTINATION]: 0x0a000001 };
    remember(cache, keyOf(flow), 3);
    // Of the address its first byte; stations, ports, and the rest do not matter.
    expect(cache.find(keyOf({ ...flow, [k.KEY_DESTINATION]: 0x0a020304, [k.KEY_TO_LOW]: 7, [k.KEY_PORTS]: 8 }))).toBe(3);
    expect(cache.find(keyOf({ ...flow, [k.KEY_DESTINATION]: 0x0b000001 }))).toBe(-1);
    rule.remove();
    cache.refresh();
    expect(cache.deep).toBe(false);
    expect(cache.find(keyOf(flow))).toBe(-1);
  });

  it('forgets with every change of the tables, and when ports come or go', () => {
    const { nic, cache } = cacheOf();
    const key = keyOf({ [k.KEY_PORT]: 2, [k.KEY_TO_LOW]: 5 });
    remember(cache, key, 3);
    cache.refresh();
    expect(cache.find(key)).toBe(3);
    nic.configurePort('vf2', { hairpin: true });
    cache.refresh();
    remember(cache, key, 4);
    cache.forget();
    expect(cache.find(key)).toBe(-1);
  });

  it('is off where more than headers and tables decides', () => {
    expect(cacheOf({ learning: true }).cache.off).toBe(true);
    expect(cacheOf({ learning: true, mode: 'switchdev' }).cache.off).toBe(false);
    expect(cacheOf({ uplinks: 2, lag: { mode: 'hash' } }).cache.off).toBe(true);
  });

  it('keeps to its places, whatever passes', () => {
    const { cache } = cacheOf();
    const FLOWS = 20_000;
    let kept = 0;
    for (let flow = 0; flow < FLOWS; flow++) remember(cache, keyOf({ [k.KEY_PORT]: 2, [k.KEY_TO_LOW]: flow }), flow & 7);
    for (let flow = 0; flow < FLOWS; flow++) {
      const target = cache.find(keyOf({ [k.KEY_PORT]: 2, [k.KEY_TO_LOW]: flow }));
      if (target < 0) continue;
      expect(target).toBe(flow & 7);
      kept++;
    }
    expect(kept).toBeGreaterThan(512);
    expect(kept).toBeLessThanOrEqual(1024);
  });
});
