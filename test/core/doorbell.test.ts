import { afterEach, describe, expect, it } from 'vitest';
import { BellLoop } from '#core/bell-loop';
import { Bell, Doorbell } from '#core/doorbell';
import { Call, IntxLines, PendingVectors } from '#core/interrupts';
import { Thread } from './thread.ts';

const threads: Thread[] = [];

function start(task: string, data: Record<string, unknown>): Thread {
  const thread = new Thread(task, data);
  threads.push(thread);
  return thread;
}

afterEach(async () => {
  for (const thread of threads.splice(0)) await thread.end();
});

/** Rejects, saying what it waited for, if `promise` takes more than ten seconds. */
async function within<T>(what: string, promise: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited 10 s for ${what}`)), 10_000);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

function signal(): { promise: Promise<void>; resolve: () => void } {
  let resolve = (): void => {};
  const promise = new Promise<void>((r) => {
    resolve = r;
  });
  return { promise, resolve };
}

describe('doorbells', () => {
  it('remember a ring until taken, the newest value, and count as one', () => {
    const bell = new Bell();
    const doorbell = new Doorbell(bell);
    const before = bell.ticket;
    expect(doorbell.take()).toBe(0);
    doorbell.ring(5);
    doorbell.ring(7);
    expect(doorbell.pending).toBe(true);
    expect(bell.ticket).toBe(before + 1);
    expect(doorbell.take()).toBe(7);
    expect(doorbell.pending).toBe(false);
  });

  it('have words of their own, in one buffer, whichever kind they are', () => {
    const bell = new Bell();
    const [a, b] = [new Doorbell(bell), new Doorbell(bell)];
    a.ring();
    a.revoke();
    expect(b.pending).toBe(false);
    expect(b.revocations).toBe(0);
    for (const { pending, revocations } of [a.share(), b.share()]) for (const { buffer } of [pending, revocations]) expect(buffer).toBe(bell.share().buffer);
    const opened = Doorbell.open(a.share());
    expect(opened.revocations).toBe(1);
    expect(opened.take()).toBe(1);
    expect(a.pending).toBe(false);
  });

  it('the first of a bell are in its own line, no two in one word, the others in lines of their own; an opened bell gives out none of its line', () => {
    const bell = new Bell();
    const doorbells = Array.from({ length: 20 }, () => new Doorbell(bell));
    const words = doorbells.map((doorbell) => doorbell.share().pending.index);
    const line = bell.index >>> 4;
    expect(new Set(words).size).toBe(20);
    expect(words.map((word) => word >>> 4 === line)).toEqual(Array.from({ length: 20 }, (_, i) => i < 14));
    expect(words.every((word) => word > bell.index + 1)).toBe(true);
    expect(new Set(words.map((word) => word >>> 4)).size).toBe(7);
    expect(new Doorbell(new Bell(bell.share())).share().pending.index >>> 4).not.toBe(line);
    // What is polled is in no line with what whoever rings reads first.
    for (const doorbell of doorbells) expect(words.map((word) => word >>> 4)).not.toContain(doorbell.share().revocations.index >>> 4);
  });

  it('a wait whose bell rang since the ticket does not sleep', () => {
    const bell = new Bell();
    const ticket = bell.ticket;
    bell.ring();
    bell.wait(ticket, 100_000);
    expect(bell.ring()).toBe(false);
  });

  it('wake a sleeping thread, every time', () => {
    const doorbell = new Doorbell(new Bell());
    const thread = start('sleeper', { share: doorbell.share(), rings: 2000 });
    for (let ring = 1; ring <= 2000; ring++) {
      thread.reached(ring);
      doorbell.ring(ring);
    }
    thread.reached(2001);
  });
});

describe('waiting on the event loop', () => {
  it('a ring of another thread arrives although nothing else goes on here', async () => {
    const bell = new Bell();
    const thread = start('ringer', { share: bell.share(), rings: 1000 });
    thread.reached(1);
    for (let step = 1; step <= 1000; step++) {
      const ticket = bell.ticket;
      thread.release(step);
      await within(`ring ${step}`, bell.waitAsync(ticket));
      expect(bell.ticket).toBe(ticket + 1);
    }
  });

  it('a bell loop serves sources that come and go, a doorbell by its value, and ends', async () => {
    const loop = new BellLoop();
    const heard: number[] = [];
    const served = signal();
    const { doorbell, remove } = loop.doorbell((value) => {
      heard.push(value);
      served.resolve();
    });
    const thread = start('ringer', { share: loop.bell.share(), rings: 1 });
    doorbell.ring(3);
    await within('the first doorbell', served.promise);
    remove();
    doorbell.ring(4);

    const polled = signal();
    let look = false;
    loop.add(() => {
      if (look) polled.resolve();
      return false;
    });
    thread.reached(1);
    look = true;
    thread.release(1);
    await within('a ring of the worker', polled.promise);
    expect(heard).toEqual([3]);
    loop.close();
    await within('the loop to end', loop.done);
  });

  it('a bell loop that always has work lets timers run', async () => {
    const loop = new BellLoop();
    let turns = 0;
    loop.add(() => {
      turns++;
      return true;
    });
    await within('a timer', new Promise((resolve) => setTimeout(resolve, 20)));
    expect(turns).toBeGreaterThan(0);
    loop.close();
    await within('the loop to end', loop.done);
  });

  it('a bell that never stops ringing lets timers run, whatever the sources make of it', async () => {
    const loop = new BellLoop();
    let seen = loop.bell.ticket;
    let served = 0;
    loop.add(() => {
      const ticket = loop.bell.ticket;
      const rung = ticket !== seen;
      seen = ticket;
      if (rung) served++;
      return rung;
    });
    const thread = start('storm', { share: loop.bell.share() });
    thread.reached(1);
    let turns = 0;
    for (; turns < 20; turns++) await within('a timer', new Promise((resolve) => setTimeout(resolve, 1)));
    thread.release(1);
    thread.reached(2);
    expect(served).toBeGreaterThan(20);
    loop.close();
    await within('the loop to end', loop.done);
  });

  it('what a source throws ends the loop and is told', async () => {
    const loop = new BellLoop();
    loop.add(() => {
      throw new Error('source failed');
    });
    await expect(within('the loop to fail', loop.done)).rejects.toThrow('source failed');
  });
});

describe('pending vectors', () => {
  it('hold each of 256 once, highest first, posted from another thread', () => {
    const vectors = new PendingVectors();
    start('poster', { share: vectors.share() }).reached(1);
    for (let vector = 255; vector >= 0; vector--) expect(vectors.take()).toBe(vector);
    expect(vectors.take()).toBe(-1);
    expect(vectors.any).toBe(false);
  });

  it('ring the CPU only when a vector becomes pending', () => {
    const vectors = new PendingVectors();
    const ticket = vectors.bell.ticket;
    vectors.post(33);
    vectors.post(33);
    expect(vectors.bell.ticket).toBe(ticket + 1);
    expect(vectors.take()).toBe(33);
    vectors.post(33 + 256);
    expect(vectors.take()).toBe(33);
  });

  it('lines rise once and stay until lowered', () => {
    const lines = new IntxLines();
    expect(lines.set(2, true)).toBe(true);
    expect(lines.set(2, true)).toBe(false);
    expect(new IntxLines(lines.buffer).asserted(2)).toBe(true);
    expect(lines.asserted(1)).toBe(false);
    expect(lines.any).toBe(true);
    expect(lines.set(2, false)).toBe(false);
    expect(lines.asserted(2)).toBe(false);
  });
});

describe('calls', () => {
  it('go where they are routed, and count', () => {
    const relay = new Doorbell(new Bell());
    const vectors = new PendingVectors();
    const call = Call.open(new Call(relay, vectors).share());
    call.signal();
    expect(vectors.any || relay.pending).toBe(false);
    call.routeDirect(48);
    call.signal();
    expect(vectors.take()).toBe(48);
    expect(relay.pending).toBe(false);
    call.routeRelay();
    call.signal();
    expect(relay.take()).toBe(1);
    call.routeOff();
    call.signal();
    expect(vectors.any || relay.pending).toBe(false);
    expect(call.counts.signals).toBe(2);
  });

  it('take the relay when there is no direct target', () => {
    const relay = new Doorbell(new Bell());
    const call = new Call(relay, null);
    call.routeDirect(48);
    call.signal();
    expect(relay.pending).toBe(true);
  });
});
