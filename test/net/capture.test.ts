import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Capture, openCapture } from '#net/capture';
import { type CapturedPacket, CaptureError } from '#net/captured-packet';
import { PcapWriter } from '#net/pcap';
import { PcapngWriter } from '#net/pcapng';

// A copy: a Buffer's slice would share its bytes.
const fixture = (name: string): Uint8Array => new Uint8Array(readFileSync(new URL(`./fixtures/${name}`, import.meta.url)));
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const describePacket = (p: CapturedPacket): string =>
  [`${p.seconds}.${String(p.nanoseconds).padStart(9, '0')}`, p.interface, p.originalLength, hex(p.bytes)].join('\t');
const packets = (bytes: Uint8Array): CapturedPacket[] => [...openCapture(bytes).packets];

function errorOf(read: () => unknown): CaptureError {
  try {
    read();
  } catch (error) {
    if (error instanceof CaptureError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

function written(make: (write: (chunk: Uint8Array) => void) => { flush(): void }): Uint8Array {
  const chunks: Uint8Array[] = [];
  make((chunk) => chunks.push(chunk)).flush();
  return Buffer.concat(chunks);
}

describe('captures that tools wrote', () => {
  it.each(['microseconds.pcap', 'nanoseconds.pcap', 'two-interfaces.pcapng'])('%s reads as tshark reads it', (name) => {
    const expected = Buffer.from(fixture(`${name}.tsv`))
      .toString()
      .trimEnd()
      .split('\n');
    expect(packets(fixture(name)).map(describePacket)).toEqual(expected);
  });

  it('reads big-endian pcap', () => {
    const little = fixture('nanoseconds.pcap');
    const big = little.slice();
    const from = new DataView(little.buffer, little.byteOffset, little.length);
    const to = new DataView(big.buffer, big.byteOffset, big.length);
    const swap32 = (at: number): void => to.setUint32(at, from.getUint32(at, true), false);
    for (const at of [0, 8, 12, 16, 20]) swap32(at);
    for (const at of [4, 6]) to.setUint16(at, from.getUint16(at, true), false);
    for (const { offset } of packets(little)) for (const at of [0, 4, 8, 12]) swap32(offset + at);
    expect(packets(big).map(describePacket)).toEqual(packets(little).map(describePacket));
  });

  it('reads a file of the repository whole, in one byte order and packet sizes up to 64 KiB', () => {
    const all = packets(readFileSync(new URL('../../captures/real.pcapng', import.meta.url)));
    expect(all.length).toBeGreaterThan(100);
    expect(Math.max(...all.map((p) => p.bytes.length))).toBeGreaterThan(30_000);
    expect(all.every((p) => p.bytes.length === p.originalLength && p.linkType === 1)).toBe(true);
  });
});

/** pcapng put together by hand, in either byte order. */
class Blocks {
  readonly #little: boolean;
  readonly #parts: Buffer[] = [];

  constructor(little: boolean) {
    this.#little = little;
  }

  u32(...values: number[]): Buffer {
    const out = Buffer.alloc(values.length * 4);
    values.forEach((value, i) => {
      if (this.#little) out.writeUInt32LE(value, i * 4);
      else out.writeUInt32BE(value, i * 4);
    });
    return out;
  }

  u16(...values: number[]): Buffer {
    const out = Buffer.alloc(values.length * 2);
    values.forEach((value, i) => {
      if (this.#little) out.writeUInt16LE(value, i * 2);
      else out.writeUInt16BE(value, i * 2);
    });
    return out;
  }

  block(type: number, ...body: Uint8Array[]): this {
    const bytes = Buffer.concat(body);
    const padding = Buffer.alloc(-bytes.length & 3);
    const length = this.u32(12 + bytes.length + padding.length);
    this.#parts.push(Buffer.concat([this.u32(type), length, bytes, padding, length]));
    return this;
  }

  section(): this {
    return this.block(0x0a0d0d0a, this.u32(0x1a2b3c4d), this.u16(1, 0), this.u32(0xffffffff, 0xffffffff));
  }

  interface(snapLength = 0, ...options: Uint8Array[]): this {
    return this.block(1, this.u16(1, 0), this.u32(snapLength), ...options);
  }

  packet(bytes: Uint8Array, { on = 0, ticks = 0n, captured = bytes.length, original = bytes.length } = {}): this {
    return this.block(6, this.u32(on, Number(ticks >> 32n), Number(ticks & 0xffffffffn), captured, original), bytes);
  }

  get bytes(): Uint8Array {
    return Buffer.concat(this.#parts);
  }
}

const frame = Uint8Array.from({ length: 61 }, (_, i) => i);

describe.each([true, false])('pcapng, little-endian %s', (little) => {
  const blocks = (): Blocks => new Blocks(little).section();

  it('understands if_tsresol in powers of ten and two, if_tsoffset and FCS', () => {
    const b = blocks();
    b.interface(0)
      .interface(0, b.u16(9, 1), Buffer.from([3, 0, 0, 0]))
      .interface(0, b.u16(9, 1), Buffer.from([0x80 | 20, 0, 0, 0]), b.u16(13, 1), Buffer.from([4, 0, 0, 0]));
    const offset = Buffer.alloc(8);
    if (little) offset.writeBigInt64LE(-100n);
    else offset.writeBigInt64BE(-100n);
    b.interface(0, b.u16(14, 8), offset, b.u16(0, 0));
    b.packet(frame, { ticks: 1_700_000_000_123_456n });
    b.packet(frame, { on: 1, ticks: 1_700_000_000_123n });
    b.packet(frame, { on: 2, ticks: (7n << 20n) | (1n << 19n) });
    b.packet(frame, { on: 3, ticks: 500_000_000n });
    expect(packets(b.bytes).map((p) => [p.seconds, p.nanoseconds, p.interface, p.bytes.length])).toEqual([
      [1_700_000_000, 123_456_000, 0, 61],
      [1_700_000_000, 123_000_000, 1, 61],
      [7, 500_000_000, 2, 57],
      [400, 0, 3, 61],
    ]);
  });

  it('reads simple and old packet blocks, skips what it does not know, and starts anew with each section', () => {
    const b = blocks().interface(40).block(0xbad, Buffer.from('whatever this is')).block(4, Buffer.alloc(8));
    b.block(3, b.u32(61), frame.subarray(0, 40)).block(2, b.u16(0, 9), b.u32(0, 5_000_000, 61, 61), frame);
    const other = new Blocks(!little).section().interface().packet(frame, { ticks: 1_000_000n });
    const read = packets(Buffer.concat([b.bytes, other.bytes]));
    expect(read.map((p) => [p.seconds, p.bytes.length, p.originalLength, p.interface])).toEqual([
      [0, 40, 61, 0],
      [5, 61, 61, 0],
      [1, 61, 61, 1],
    ]);
    expect(hex((read[1] as CapturedPacket).bytes)).toBe(hex(frame));
  });

  it.each<[string, (b: Blocks) => Blocks, string, RegExp]>([
    ['a packet of an interface nobody described', (b) => b.packet(frame), 'CORRUPT', /names interface 0, of 0/],
    ['a packet longer than its block', (b) => b.interface().packet(frame, { captured: 65 }), 'CORRUPT', /more than its block holds/],
    ['a packet longer than any', (b) => b.interface().packet(frame, { captured: 0xffffffff }), 'CORRUPT', /4294967295 bytes/],
    ['a packet block without its header', (b) => b.interface().block(6, b.u32(0, 0)), 'CORRUPT', /too short for its header/],
    ['a resolution finer than any clock', (b) => b.interface(0, b.u16(9, 1), Buffer.from([19, 0, 0, 0])), 'CORRUPT', /if_tsresol/],
    ['an option past its block', (b) => b.interface(0, b.u16(2, 400), Buffer.alloc(4)), 'CORRUPT', /option reaches past/],
    ['an interface description cut short', (b) => b.block(1, b.u16(1, 0)), 'CORRUPT', /interface description is too short/],
    ['a later version', () => new Blocks(little).block(0x0a0d0d0a, blocks().u32(0x1a2b3c4d), blocks().u16(2, 0), blocks().u32(0, 0)), 'FORMAT', /version 2.0/],
    ['no byte-order mark', () => new Blocks(little).block(0x0a0d0d0a, Buffer.alloc(16)), 'CORRUPT', /byte-order mark/],
  ])('says what is wrong with %s', (_, make, problem, message) => {
    const error = errorOf(() => packets(make(blocks()).bytes));
    expect([error.code, error.message]).toEqual([`NICBOX_CAPTURE_${problem}`, expect.stringMatching(message)]);
    expect(error.message).toContain(`(at byte ${error.offset})`);
  });
});

describe('damaged files', () => {
  it.each<[string, Uint8Array, string]>([
    ['empty', new Uint8Array(0), 'TRUNCATED'],
    ['three bytes', Uint8Array.of(0x0a, 0x0d, 0x0d), 'TRUNCATED'],
    ['text', Buffer.from('hello, this is no capture'), 'FORMAT'],
    ['gzip', Uint8Array.of(0x1f, 0x8b, 8, 0, 0), 'FORMAT'],
    ['a pcap header cut short', fixture('microseconds.pcap').subarray(0, 20), 'TRUNCATED'],
  ])('%s', (_, bytes, problem) => expect(errorOf(() => packets(bytes)).code).toBe(`NICBOX_CAPTURE_${problem}`));

  it.each(['nanoseconds.pcap', 'two-interfaces.pcapng'])('%s cut anywhere gives the packets before the cut, then says where', (name) => {
    const whole = fixture(name);
    const all = packets(whole);
    for (let length = 24; length < whole.length; length++) {
      const got: CapturedPacket[] = [];
      let error: unknown;
      try {
        for (const packet of openCapture(whole.subarray(0, length)).packets) got.push(packet);
      } catch (e) {
        error = e;
      }
      expect(got.map(describePacket)).toEqual(all.slice(0, got.length).map(describePacket));
      if (error !== undefined) expect(error).toMatchObject({ code: 'NICBOX_CAPTURE_TRUNCATED' });
    }
  });

  it('with any bytes changed, end in packets or a CaptureError, never in anything else', () => {
    const files = ['microseconds.pcap', 'two-interfaces.pcapng'].map(fixture);
    fc.assert(
      fc.property(fc.nat(1), fc.array(fc.tuple(fc.nat(1000), fc.nat(255)), { minLength: 1, maxLength: 8 }), (which, pokes) => {
        const bytes = (files[which] as Uint8Array).slice();
        for (const [at, value] of pokes) bytes[at % bytes.length] = value;
        let read = 0;
        try {
          for (const packet of openCapture(bytes).packets) read += packet.bytes.length;
        } catch (error) {
          expect(error).toBeInstanceOf(CaptureError);
        }
        expect(read).toBeLessThanOrEqual(bytes.length);
      }),
      { numRuns: 2000 },
    );
  });
});

describe('writers', () => {
  const contents = fc.array(
    fc.record({ bytes: fc.uint8Array({ minLength: 1, maxLength: 3000 }), seconds: fc.nat(0xffffffff), nanoseconds: fc.nat(999_999_999), on: fc.nat(1) }),
    { maxLength: 60 },
  );

  it('what is written reads back, to the nanosecond', () => {
    fc.assert(
      fc.property(contents, fc.boolean(), fc.integer({ min: 1, max: 3000 }), (list, classic, snapLength) => {
        const bytes = written((write) => {
          if (classic) {
            const writer = new PcapWriter(write, { snapLength });
            for (const p of list) writer.packet(p.bytes, p.seconds, p.nanoseconds);
            return writer;
          }
          const writer = new PcapngWriter(write, { snapLength, interfaces: ['one', ''] });
          for (const p of list) writer.packet(p.bytes, p.seconds, p.nanoseconds, p.on);
          return writer;
        });
        const capture: Capture = openCapture(bytes);
        expect(capture.format).toBe(classic ? 'pcap' : 'pcapng');
        expect([...capture.packets].map((p) => [p.seconds, p.nanoseconds, p.interface, p.originalLength, hex(p.bytes)])).toEqual(
          list.map((p) => [p.seconds, p.nanoseconds, classic ? 0 : p.on, p.bytes.length, hex(p.bytes.subarray(0, snapLength))]),
        );
      }),
      { numRuns: 40 },
    );
  });

  it('stream: a large capture comes out in pieces while it is written', () => {
    const chunks: number[] = [];
    const writer = new PcapngWriter((chunk) => chunks.push(chunk.length));
    for (let i = 0; i < 100; i++) writer.packet(new Uint8Array(9000), i, 0);
    expect(chunks.length).toBeGreaterThan(10);
    writer.flush();
    expect(chunks.reduce((a, b) => a + b)).toBeGreaterThan(900_000);
  });

  it('refuse options that cannot be', () => {
    expect(() => new PcapWriter(() => {}, { snapLength: 0 })).toThrow(RangeError);
    expect(() => new PcapngWriter(() => {}, { interfaces: [] })).toThrow(RangeError);
    expect(() => new PcapngWriter(() => {}).packet(frame, 0, 0, 1)).toThrow(RangeError);
  });

  const tshark = spawnSync('tshark', ['--version']).status === 0;
  it.skipIf(!tshark)(`tshark reads what is written${tshark ? '' : ' (skipped: no tshark on this machine)'}`, () => {
    const folder = mkdtempSync(join(tmpdir(), 'nicbox-capture-'));
    try {
      const source = packets(fixture('two-interfaces.pcapng'));
      for (const kind of ['pcap', 'pcapng']) {
        const file = join(folder, `out.${kind}`);
        const bytes = written((write) => {
          const writer = kind === 'pcap' ? new PcapWriter(write) : new PcapngWriter(write, { interfaces: ['guest a', 'guest b'] });
          for (const p of source) writer.packet(p.bytes, p.seconds, p.nanoseconds, p.interface);
          return writer;
        });
        writeFileSync(file, bytes);
        const output = execFileSync('tshark', ['-n', '-r', file, '-T', 'fields', '-e', 'frame.time_epoch', '-e', 'frame.len', '-e', 'frame.interface_name'], {
          stdio: ['ignore', 'pipe', 'ignore'],
        });
        const expected = source.map((p) => {
          const name = kind === 'pcap' ? '' : p.interface === 0 ? 'guest a' : 'guest b';
          return `${p.seconds}.${String(p.nanoseconds).padStart(9, '0')}\t${p.bytes.length}\t${name}`;
        });
        expect(
          output
            .toString()
            .trimEnd()
            .split('\n')
            .map((line) => line.trimEnd()),
        ).toEqual(expected.map((line) => line.trimEnd()));
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
