// The software slow path: a learning bridge over the representors that installs rules, takes them out again, and counts; a program in its place.

import { describe, expect, it } from 'vitest';
import { EmbeddedSwitchError } from '#net/embedded-switch/errors';
import { type Decision, SlowPath, type SlowPathOptions } from '#net/embedded-switch/slow-path';
import { Segment } from '#net/segment';
import { type Frame, MemoryPort } from '../memory-port.ts';
import { counts, macOf, plain, type Rig, rig, type To } from './rig.ts';

interface Slow extends Rig {
  readonly slow: SlowPath;
}

/** A switch whose representors end in a slow path on this thread. */
function software(options: SlowPathOptions = {}, functions = 3): Slow {
  const names = ['uplink0', 'pf', ...Array.from({ length: functions }, (_, i) => `vf${i}`)];
  const made = rig(
    { mode: 'switchdev', functions },
    names.map((name) => `${name}-rep`),
  );
  const slow = new SlowPath(made.nic, options);
  const segment = new Segment(slow, { clock: made.clock });
  const ends = names.map((name) => {
    const far = new MemoryPort(`${name}-rep`);
    segment.addPort(far);
    return { near: made.port(`${name}-rep`), far };
  });
  const pump = (): boolean => {
    let moved = false;
    for (const { near, far } of ends) {
      for (const [from, to] of [
        [near, far],
        [far, near],
      ] as const) {
        moved ||= from.inbox.length > 0;
        to.outbox.push(...(from.inbox.splice(0) as Frame[]));
      }
    }
    return moved;
  };
  const run = (): void => {
    do {
      made.run();
      for (const { index } of segment.ports) segment.wake(index);
      pump();
      for (let round = 0; round < 100 && segment.service(); round++);
    } while (pump());
  };
  const send: Rig['send'] = (from, ...frames) => {
    for (const name of names) made.port(name).inbox.length = 0;
    made.port(from).outbox.push(...frames.map((frame) => (frame instanceof Uint8Array ? { bytes: frame } : frame)));
    run();
    return Object.fromEntries(names.map((name) => [name, made.port(name).inbox.map(({ bytes }) => bytes)] as const).filter(([, list]) => list.length > 0));
  };
  return { ...made, slow, run, send };
}

const between = (from: number, to: number, more: To = {}): Uint8Array => plain(1, { from: macOf(from), to: macOf(to), ...more });
/** Two stations that have heard of each other. */
function acquainted(options: SlowPathOptions = {}): Slow {
  const made = software(options);
  made.send('vf0', between(0, 1));
  made.send('vf1', between(1, 0));
  made.send('vf0', between(0, 1));
  return made;
}

describe('the learning bridge', () => {
  it('floods what it does not know, learns, and offloads each direction', () => {
    const { nic, send, slow } = software();
    expect(counts(send('vf0', between(0, 1)))).toEqual({ uplink0: 1, pf: 1, vf1: 1, vf2: 1 });
    expect(counts(send('vf1', between(1, 0)))).toEqual({ vf0: 1 });
    expect(nic.root.rules.length).toBe(1);
    expect(counts(send('vf0', between(0, 1)))).toEqual({ vf1: 1 });
    expect(nic.root.rules.length).toBe(2);
    const misses = nic.portStatistics('vf0').misses;
    expect(counts(send('vf0', ...new Array<Uint8Array>(20).fill(between(0, 1))))).toEqual({ vf1: 20 });
    expect(nic.portStatistics('vf0').misses).toBe(misses);
    expect(slow.flows.get(`vf0 ${macOf(0)} > ${macOf(1)} 0`)).toEqual({
      slow: { frames: 1, bytes: 62 },
      fast: { frames: 20, bytes: 20 * 62 },
      offloaded: true,
    });
    slow.close();
    expect(nic.root.rules).toEqual([]);
  });

  it('keeps VLANs apart', () => {
    const { nic, send } = acquainted();
    expect(counts(send('vf1', between(1, 0, { vlans: [5] })))).toEqual({ uplink0: 1, pf: 1, vf0: 1, vf2: 1 });
    expect(counts(send('vf0', between(0, 1, { vlans: [5] })))).toEqual({ vf1: 1 });
    expect(nic.root.rules.length).toBe(3);
    // And what is not bridged goes nowhere.
    expect(send('vf0', plain(1, { to: '01:80:c2:00:00:0e' }))).toEqual({});
  });

  it('takes out the rules to a station that moved', () => {
    const { nic, send } = acquainted();
    expect(counts(send('vf2', between(1, 0)))).toEqual({ vf0: 1 });
    expect(counts(send('vf0', between(0, 1)))).toEqual({ vf2: 1 });
    expect(counts(send('vf0', between(0, 1)))).toEqual({ vf2: 1 });
    expect(nic.root.rules.filter(({ spec }) => spec.match.port === 'vf0').map(({ spec }) => spec.actions)).toEqual([[{ kind: 'forward', to: 'vf2' }]]);
  });

  it('does not look for a station that moved where its flows went before', () => {
    const { clock, send } = acquainted({ idleTimeout: 10e9 });
    send('vf0', between(0, 1));
    // Somebody is announced at another port; the flow from the old one has been met since its rule was last looked at.
    send('vf2', plain(1, { to: 'ff:ff:ff:ff:ff:ff', from: macOf(0) }));
    clock.advance(3e9);
    expect(counts(send('uplink0', between(9, 0)))).toEqual({ vf2: 1 });
  });

  it('takes out rules that nothing meets, by itself, and only those; its counts add up over both ways', () => {
    const { nic, clock, send, slow } = acquainted({ idleTimeout: 10e9 });
    for (let i = 0; i < 10; i++) {
      clock.advance(3e9);
      send('vf0', between(0, 1), between(0, 1));
    }
    // vf1 has said nothing for half a minute.
    expect(nic.root.rules.map(({ spec }) => spec.match.port)).toEqual(['vf0']);
    expect([...slow.flows.keys()]).toEqual([`vf0 ${macOf(0)} > ${macOf(1)} 0`]);
    clock.advance(30e9);
    expect(nic.root.rules).toEqual([]);
    expect(clock.nextDeadline).toBe(undefined);
    const { slow: software, fast, rules } = slow.totals;
    expect(rules).toBe(0);
    // Three to get acquainted, of which the first was flooded and is no flow's; twenty after that.
    expect(software.frames + fast.frames).toBe(2 + 20);
    expect(fast).toEqual({ frames: 20, bytes: 20 * 62 });
  });

  it('takes them out however much else comes through here', () => {
    const { nic, clock, send } = acquainted({ idleTimeout: 10e9 });
    send('vf0', between(0, 1));
    expect(nic.root.rules.map(({ spec }) => spec.match.port)).toContain('vf0');
    for (let i = 0; i < 30; i++) {
      clock.advance(1e9);
      send('vf2', plain(i, { to: 'ff:ff:ff:ff:ff:ff', from: macOf(2) }));
    }
    expect(nic.root.rules.map(({ spec }) => spec.match.port)).not.toContain('vf0');
  });

  it('goes on in software when there is no room for a rule', () => {
    const { nic, send, slow } = software({ maximumRules: 1 });
    for (let i = 0; i < 3; i++)
      for (const [from, to] of [
        [0, 1],
        [1, 0],
      ] as const)
        send(`vf${from}`, between(from, to));
    expect(nic.root.rules.length).toBe(1);
    expect(slow.totals.refused).toBeGreaterThan(0);
    expect(counts(send('vf0', between(0, 1)))).toEqual({ vf1: 1 });
  });

  it('one port that makes up stations without end leaves rules for the others', () => {
    const { nic, send, slow } = software({ maximumRules: 16 });
    send('vf1', between(1, 0));
    const madeUp = Array.from({ length: 100 }, (_, i) => plain(i, { from: `02:00:00:00:09:${i.toString(16)}`, to: macOf(1) }));
    send('vf2', ...madeUp);
    expect(nic.root.rules.filter(({ spec }) => spec.match.port === 'vf2').length).toBe(8);
    send('vf0', between(0, 1));
    expect(slow.flows.get(`vf0 ${macOf(0)} > ${macOf(1)} 0`)).toMatchObject({ offloaded: true });
    for (const rule of nic.root.rules) rule.remove();
    send('vf2', ...madeUp);
    expect(nic.root.rules.length).toBe(8);
    slow.close();
    expect(nic.root.rules).toEqual([]);
  });

  it('takes out a rule of a batch that was held back behind it', () => {
    const { nic, clock, send, slow } = acquainted({ idleTimeout: 10e9 });
    slow.close();
    // The first frame of the two makes a flow; the other one's port takes nothing any more.
    const segment = new Segment(slow, { clock });
    const ports = ['vf0-rep', 'vf1-rep', 'vf2-rep'].map((name) => new MemoryPort(name));
    for (const port of ports) segment.addPort(port);
    for (const [from, port] of ports.entries()) port.outbox.push({ bytes: plain(1, { from: macOf(from) }) });
    for (let round = 0; round < 10; round++) segment.service();
    (ports[2] as MemoryPort).room = 0;
    ports[0]?.outbox.push({ bytes: between(0, 1) }, { bytes: between(0, 2) });
    for (let round = 0; round < 10; round++) segment.service();
    expect(ports[0]?.outbox.length).toBe(1);
    expect(nic.root.rules.length).toBe(1);
    clock.advance(30e9);
    expect(nic.root.rules).toEqual([]);
    expect(send('vf0', plain(1, { to: '01:80:c2:00:00:0e' }))).toEqual({});
  });

  it('offloads again what somebody else took out', () => {
    const { nic, send, slow } = acquainted();
    send('vf0', between(0, 1));
    for (const rule of nic.root.rules) rule.remove();
    expect(counts(send('vf0', between(0, 1)))).toEqual({ vf1: 1 });
    expect(nic.root.rules.length).toBe(1);
    expect(slow.flows.get(`vf0 ${macOf(0)} > ${macOf(1)} 0`)).toMatchObject({ slow: { frames: 2 }, fast: { frames: 1 } });
  });

  it('forgets a port that leaves', () => {
    const made = acquainted();
    made.slow.detach(3);
    expect(made.nic.root.rules).toEqual([]);
  });
});

describe('a program', () => {
  it('decides in the bridge’s place, with rules of its own', () => {
    const { nic, send, slow } = software({
      program: ({ port, header }): Decision | undefined =>
        header[5] === 9
          ? {
              to: ['uplink0'],
              flow: 'nine',
              rule: {
                match: { port, destinationMac: macOf(9) },
                actions: [
                  { kind: 'push-vlan', id: 99 },
                  { kind: 'forward', to: 'uplink0' },
                ],
              },
            }
          : undefined,
    });
    expect(send('vf0', between(0, 9))).toEqual({ uplink0: [between(0, 9)] });
    expect(send('vf0', between(0, 9))).toEqual({ uplink0: [between(0, 9, { vlans: [99] })] });
    expect(slow.flows.get('nine')).toMatchObject({ slow: { frames: 1 }, fast: { frames: 1 } });
    // What it leaves open the bridge decides.
    expect(counts(send('vf0', between(0, 1)))).toEqual({ uplink0: 1, pf: 1, vf1: 1, vf2: 1 });
    expect(nic.root.rules.length).toBe(1);
  });

  it('that throws, or says what cannot be, costs its frame or its rule and no more', () => {
    const errors: unknown[] = [];
    const { send } = software({
      onError: (error) => errors.push(error),
      program: ({ header }) => {
        if (header[5] === 9) throw new Error('no');
        return { to: ['vf2', 'nobody'], flow: 'bad', rule: { match: { port: 'nobody' }, actions: [] } };
      },
    });
    expect(send('vf0', between(0, 9))).toEqual({});
    expect(counts(send('vf0', between(0, 1)))).toEqual({ vf2: 1 });
    expect(errors.map((error) => (error as Error).message.slice(0, 5))).toEqual(['no', 'there']);
  });

  it('is for switchdev mode', () => {
    expect(() => new SlowPath(rig().nic)).toThrow(EmbeddedSwitchError);
  });
});
