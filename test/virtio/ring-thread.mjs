// The other thread of the ring tests: a driver that sends numbered buffers and checks what comes back, or one that rewrites descriptors as fast as it can.
// Written from virtio 1.4 2.7 and 2.8, apart from the drivers of the other tests.
import { workerData } from 'node:worker_threads';

const { task, ram, words: buffer, desc, driver, device, data, size, packed, eventIdx, count } = workerData;
/** [kicks, calls, chains back, what went wrong, stop, driver sleeps] */
const words = new Int32Array(buffer);
const KICK = 0;
const CALL = 1;
const BACK = 2;
const WRONG = 3;
const STOP = 4;
const SLEEPS = 5;
const u16 = new Uint16Array(ram);
const u32 = new Uint32Array(ram);
const i32 = new Int32Array(ram);
/** Chains of two descriptors, each with 16 bytes to read and 16 to write. */
const CHAINS = Math.floor(size / 2);

function kick() {
  Atomics.add(words, KICK, 1);
  Atomics.notify(words, KICK);
}

function put(at, address, length) {
  u32[at / 4] = address;
  u32[at / 4 + 1] = 0;
  u32[at / 4 + 2] = length;
}

function splitDriver() {
  let avail = 0;
  let used = 0;
  let shown = 0;
  for (let k = 0; k < CHAINS; k++) {
    put(desc + 32 * k, data + 32 * k, 16);
    put(desc + 32 * k + 16, data + 32 * k + 16, 16);
    u16[(desc + 32 * k) / 2 + 6] = 1;
    u16[(desc + 32 * k) / 2 + 7] = 2 * k + 1;
    u16[(desc + 32 * k) / 2 + 14] = 2;
  }
  return {
    add(k) {
      u16[driver / 2 + 2 + (avail % size)] = 2 * k;
      avail = (avail + 1) & 0xffff;
    },
    expose() {
      Atomics.store(u16, driver / 2 + 1, avail);
      const before = shown;
      shown = avail;
      if (!eventIdx) return (Atomics.load(u16, device / 2) & 1) === 0;
      const event = Atomics.load(u16, device / 2 + 2 + 4 * size);
      return ((avail - event - 1) & 0xffff) < ((avail - before) & 0xffff);
    },
    take() {
      if (Atomics.load(u16, device / 2 + 1) === used) return -1;
      const at = device / 4 + 1 + 2 * (used % size);
      used = (used + 1) & 0xffff;
      if (u32[at + 1] !== 16) return -2;
      return u32[at] / 2;
    },
    quiet() {
      if (!eventIdx) Atomics.store(u16, driver / 2, 1);
    },
    listen() {
      if (eventIdx) Atomics.store(u16, driver / 2 + 2 + size, used);
      else Atomics.store(u16, driver / 2, 0);
      return Atomics.load(u16, device / 2 + 1) === used;
    },
  };
}

function packedDriver() {
  let slot = 0;
  let wrap = 1;
  let used = 0;
  let usedWrap = 1;
  let from = { slot: 0, wrap: 1 };
  const heads = [];
  const lap = () => (wrap ? 0x80 : 0x8000);
  const step = () => {
    slot++;
    if (slot === size) {
      slot = 0;
      wrap ^= 1;
    }
  };
  const taken = () => {
    const flags = Atomics.load(i32, (desc + 16 * used) / 4 + 3) >>> 16;
    return ((flags >>> 7) & 1) === usedWrap && flags >>> 15 === usedWrap;
  };
  return {
    add(k) {
      heads.push([slot, ((lap() | 1) << 16) | 0x7777]);
      put(desc + 16 * slot, data + 32 * k, 16);
      step();
      put(desc + 16 * slot, data + 32 * k + 16, 16);
      i32[(desc + 16 * slot) / 4 + 3] = ((lap() | 2) << 16) | k;
      step();
    },
    expose() {
      for (const [at, word] of heads.reverse()) Atomics.store(i32, (desc + 16 * at) / 4 + 3, word);
      heads.length = 0;
      const event = Atomics.load(i32, device / 4);
      const mode = (event >>> 16) & 3;
      const before = from;
      from = { slot, wrap };
      if (mode === 1) return false;
      if (mode === 0) return true;
      // Positions on a line two laps long.
      const line = (p) => p.slot + (p.wrap === wrap ? size : 0);
      const wanted = line({ slot: event & 0x7fff, wrap: (event >>> 15) & 1 });
      return wanted >= line(before) && wanted < line(from);
    },
    take() {
      if (!taken()) return -1;
      const at = (desc + 16 * used) / 4;
      const [length, word] = [u32[at + 2], i32[at + 3]];
      used += 2;
      if (used >= size) {
        used -= size;
        usedWrap ^= 1;
      }
      return length !== 16 || (word & 0x20000) === 0 ? -2 : word & 0xffff;
    },
    quiet() {
      Atomics.store(i32, driver / 4, 1 << 16);
    },
    listen() {
      Atomics.store(i32, driver / 4, eventIdx ? (2 << 16) | (usedWrap << 15) | used : 0);
      return !taken();
    },
  };
}

function traffic() {
  const ring = packed ? packedDriver() : splitDriver();
  const free = Array.from({ length: CHAINS }, (_, k) => k);
  const sent = new Map();
  let next = 0;
  let back = 0;
  const fail = (why) => {
    Atomics.store(words, WRONG, why);
    Atomics.store(words, BACK, -1);
    kick();
  };
  while (back < count) {
    for (let n = 1 + (next % 7); n > 0 && free.length > 0 && next < count; n--) {
      const k = free.pop();
      const at = (data + 32 * k) / 4;
      // What the device must see: a number and words made of it. What it must write: the same, otherwise.
      for (let i = 0; i < 4; i++) {
        i32[at + i] = next ^ (i * 0x01010101);
        i32[at + 4 + i] = 0;
      }
      sent.set(k, next++);
      ring.add(k);
    }
    if (ring.expose()) kick();
    const call = Atomics.load(words, CALL);
    let some = false;
    for (let k = ring.take(); k !== -1; k = ring.take()) {
      if (k === -2 || !sent.has(k)) return fail(1);
      const number = sent.get(k);
      sent.delete(k);
      const at = (data + 32 * k) / 4;
      for (let i = 0; i < 4; i++) if (i32[at + 4 + i] !== ~(number + i)) return fail(2);
      free.push(k);
      Atomics.store(words, BACK, ++back);
      some = true;
    }
    if (some || (free.length > 0 && next < count)) continue;
    if (ring.listen()) {
      Atomics.add(words, SLEEPS, 1);
      if (Atomics.wait(words, CALL, call, 10_000) === 'timed-out') return fail(3);
    }
    ring.quiet();
  }
  kick();
}

/** Rewrites one descriptor and one entry of an indirect table until told to stop: lengths, addresses and flags never agree for long. */
function flip() {
  const lows = [data, 0xfffff000, data + 64, ram.byteLength - 8, desc];
  const lengths = [16, 0, 0xffffffff, 32, 4096];
  const flags = packed ? [0x80, 0x81, 0x82, 0x84] : [0, 1, 2, 4];
  for (let n = 0; Atomics.load(words, STOP) === 0; n++) {
    for (const at of [desc, desc + 16, data, data + 16]) {
      u32[at / 4] = lows[n % lows.length];
      u32[at / 4 + 1] = n % 3 === 0 ? 1 : 0;
      u32[at / 4 + 2] = lengths[n % lengths.length];
      const f = flags[n % flags.length];
      u32[at / 4 + 3] = packed ? (f << 16) | (n & 0xff) : f | ((n % 3) << 16);
    }
    if ((n & 0xff) === 0) Atomics.store(words, BACK, n | 1);
  }
  Atomics.store(words, BACK, -1);
}

if (task === 'traffic') traffic();
else flip();
