// Our igb beside QEMU's: the same accesses to both, register by register, descriptor by descriptor. What differs is listed here with the reason, and in docs/igb.md; anything else is a failure.
import { afterEach, describe, expect, it } from 'vitest';
import { IGB_REGISTERS } from '#devices/igb/registers';
import { ENABLE, EOP, IFCS, IXSM, R, RCTL_BAM, RCTL_EN, RCTL_SECRC, RS, SRRCTL, Station, TSE, TXSM, VLE, type Wired, wired } from '../devices/igb/bench.ts';
import { BROADCAST, checkSums, frame, packet, STATION, sum16 } from '../e1000/bench.ts';
import { available, endChildren } from './host.ts';
import { findNewQemu } from './qemu.ts';
import { QtestNic } from './qtest.ts';

const { client: qemu, missing } = await available(findNewQemu);

afterEach(endChildren);

interface Spec {
  readonly offset: number;
  readonly aliasOf?: string;
}
const TABLE = (Object.entries(IGB_REGISTERS) as [string, Spec][]).filter(([, { aliasOf }]) => aliasOf === undefined);

/** Values after power-on that differ, and why ours is what it is. */
const RESET_DIFFERENCES: Readonly<Record<string, string>> = {
  CTRL: 'QEMU sets the reserved bit 3 (82576 8.2.1)',
  STATUS: 'QEMU sets bit 31 and no ASDV; ours shows the speed the PHY would negotiate (82576 8.2.2)',
  EECD: 'QEMU has no AUTO_RD, by which a driver sees that the NVM was loaded, and another size (82576 8.4.1)',
  MDIC: 'ready before the first command (82576 8.2.4)',
  FCAL: 'the flow control address is there after reset (82576 8.3.1)',
  FCAH: 'the same',
  FCT: 'the same: 8808h',
  EEMNGCTL: 'configuration done, both ports, which a driver waits for (82576 8.4.7)',
  GCR: 'QEMU shows completion timeout bits; ours only that the capability is of version 2',
  FACTPS: 'LAN 0 is there and in D0 (82576 8.7.12)',
  SRRCTL: 'BSIZEHEADER is 4 after reset (82576 8.10.2)',
  RXCTL: 'relaxed ordering as after reset (82576 8.13.1)',
  FTQF: 'every field is masked after reset (82576 8.11.3)',
  TCTL: 'QEMU sets bits of other parts (31, 29, 26); 82576 8.12.1: PSP, CT, COLD',
  TIPG: 'IPGR1 is 0Ah (82576 8.12.3)',
  SWPBS: 'QEMU does not have the register',
  DTXMXSZRQ: 'QEMU does not have the register',
  DTXTCPFLGL: 'QEMU does not have the register: no TCP flag is cleared but FIN and PSH',
  DTXTCPFLGH: 'the same',
  WUC: 'the NVM of our board has advanced power management on (82576 6.2.21)',
};

const ON = RCTL_EN | RCTL_BAM | RCTL_SECRC;
const TX = 0x1_0000;
const RX = 0x1_0800;
const DATA = 0x40_0000;
const SLOT = 0x4000;
const RX_DATA = 0x80_0000;
const RX_SLOT = 0x1000;

async function start(): Promise<QtestNic> {
  if (qemu === undefined) throw new Error('no QEMU');
  return QtestNic.start(qemu, 'igb,mac=52:54:00:00:00:0a');
}

/** The same set-up as `Station.start` makes. */
async function begin(theirs: QtestNic, options: { ctrl?: number; rxcsum?: number; srrctl?: number } = {}): Promise<void> {
  await theirs.write(R.CTRL, 0x40 | (options.ctrl ?? 0));
  // QEMU negotiates when it is told to.
  await theirs.write(R.MDIC, 0x1340 | (1 << 21) | (1 << 26));
  await theirs.step(1e9);
  const steps: [number, number][] = [
    [R.TXDCTL, 0],
    [R.RXDCTL, 0],
    [R.TDBAL, TX],
    [R.TDLEN, 512],
    [R.TXDCTL, ENABLE],
    [R.RDBAL, RX],
    [R.RDLEN, 512],
    [R.SRRCTL, options.srrctl ?? SRRCTL.one],
    [R.RXDCTL, ENABLE],
    [R.RXCSUM, options.rxcsum ?? 0x2300],
    [R.TCTL, 0xfa],
    [R.RCTL, ON],
  ];
  for (const [register, value] of steps) await theirs.write(register, value);
}

/** Copies what our station's memory has of a ring and its frames to QEMU's. */
async function mirror(ours: Station, theirs: QtestNic, descriptors: number): Promise<void> {
  await theirs.store(TX, ours.bytes.slice(TX, TX + 16 * descriptors));
  for (let i = 0; i < descriptors; i++) await theirs.store(DATA + i * SLOT, ours.bytes.slice(DATA + i * SLOT, DATA + i * SLOT + 4096));
}

/** With the whole pseudo header's sum in the checksum field, as drivers hand over a packet that is not cut. */
function seeded(version: 4 | 6, udp: boolean): number[] {
  const bytes = packet({ version, udp });
  const transport = version === 4 ? 34 : 54;
  const sum = sum16([...bytes.slice(version === 4 ? 26 : 22, transport), 0, udp ? 17 : 6], bytes.length - transport);
  bytes[transport + (udp ? 6 : 16)] = sum >>> 8;
  bytes[transport + (udp ? 7 : 17)] = sum & 0xff;
  return bytes;
}

/** Where 82576 8.12.10 lets FIN and PSH pass in the last segment QEMU clears them; makes that, and the checksum that goes with it, the same. */
function withoutFlags(frames: readonly Uint8Array[]): number[][] {
  return frames.map((each) => {
    const bytes = [...each];
    const at = bytes[12] === 0x81 ? 18 : 14;
    const tcp = at + ((bytes[at] as number) >>> 4 === 4 ? 20 : 40);
    bytes[tcp + 13] = (bytes[tcp + 13] as number) & ~9;
    bytes[tcp + 16] = 0;
    bytes[tcp + 17] = 0;
    return bytes;
  });
}

describe.skipIf(missing !== undefined)(`igb beside QEMU ${qemu?.version ?? `(skipped: ${missing})`}`, () => {
  it('reset values', async () => {
    const theirs = await start();
    const ours = new Station();
    const differ: string[] = [];
    for (const [name, { offset }] of TABLE) if ((await theirs.read(offset)) !== ours.read(offset)) differ.push(name);
    expect(differ.sort()).toEqual(Object.keys(RESET_DIFFERENCES).sort());
  });

  /** Describes packets, the same in both; compares frames, heads and reports. */
  async function transmits(describe: (nic: Station) => number, ctrl = 0): Promise<{ theirs: Uint8Array[]; ours: Uint8Array[] }> {
    const theirs = await start();
    const our: Wired = wired();
    our.nic.start({ ctrl });
    await begin(theirs, { ctrl });
    const descriptors = describe(our.nic);
    await mirror(our.nic, theirs, descriptors);
    our.nic.go();
    await theirs.write(R.TDT, descriptors);
    const out = our.outbox();
    const sent = await theirs.sent(out.length);
    expect(await theirs.read(R.TDH)).toBe(our.nic.read(R.TDH));
    const report = await theirs.load(TX, 16 * descriptors);
    for (let i = 0; i < descriptors; i++) expect([i, (report[16 * i + 12] as number) & 1]).toEqual([i, (our.nic.bytes[TX + 16 * i + 12] as number) & 1]);
    await theirs.kill();
    return { theirs: sent, ours: out };
  }

  it('plain frames, in pieces, short ones', async () => {
    const { theirs, ours } = await transmits((nic) => {
      nic.data(frame(64));
      nic.data(frame(300).slice(0, 100), IFCS);
      nic.data(frame(300).slice(100));
      return nic.data(frame(1514)) + 1;
    });
    expect(ours).toEqual(theirs);
  });

  it('checksums of IPv4 and IPv6, TCP and UDP', async () => {
    const { theirs, ours } = await transmits((nic) => {
      let last = 0;
      for (const [version, udp] of [
        [4, false],
        [4, true],
        [6, false],
        [6, true],
      ] as const) {
        nic.context({ ip: version === 4 ? 20 : 40, ipv4: version === 4, kind: udp ? 'udp' : 'tcp' });
        last = nic.data(seeded(version, udp), EOP | IFCS | RS, { popts: version === 4 ? IXSM | TXSM : TXSM });
      }
      return last + 1;
    });
    expect(ours).toEqual(theirs);
  });

  it('segmentation, tags', async () => {
    const { theirs, ours } = await transmits((nic) => {
      nic.context({ mss: 1000, tag: 0x2007 });
      nic.data(packet({ payload: 3500, seed: true }), EOP | IFCS | RS | TSE | VLE, { popts: IXSM | TXSM, length: 3500 });
      nic.context({ mss: 1000, ip: 40, ipv4: false });
      return nic.data(packet({ version: 6, payload: 2100, seed: true }), EOP | IFCS | RS | TSE, { popts: TXSM, length: 2100 }) + 1;
    }, 0x4000_0000);
    expect(withoutFlags(ours)).toEqual(withoutFlags(theirs));
    for (const each of ours) checkSums(each);
  });

  /** Frames from the cable, the same to both; compares descriptors and buffers. */
  async function receives(
    frames: number[][],
    options: { ctrl?: number; rxcsum?: number; srrctl?: number; setup?: [number, number][] } = {},
  ): Promise<[number[][], number[][]]> {
    const theirs = await start();
    const our = wired();
    our.nic.start({ ...options, rctl: ON });
    await begin(theirs, options);
    await theirs.store(RX, our.nic.bytes.slice(RX, RX + 512));
    for (const [register, value] of options.setup ?? []) {
      our.nic.write(register, value);
      await theirs.write(register, value);
    }
    await theirs.write(R.RDT, 31);
    for (const each of frames) {
      our.inject(each);
      await theirs.inject(Uint8Array.from(each));
    }
    const [own, their]: [number[][], number[][]] = [[], []];
    const view = new DataView((await theirs.load(RX, 512)).buffer);
    for (let i = 0; i < frames.length; i++) {
      own.push(our.nic.descriptor(i));
      their.push([0, 4, 8, 12].map((at) => view.getUint32(16 * i + at, true)));
      const length = (own[i]?.[3] ?? 0) & 0xffff;
      expect([...(await theirs.load(RX_DATA + i * RX_SLOT, Math.max(1, length)))]).toEqual([
        ...our.nic.bytes.slice(RX_DATA + i * RX_SLOT, RX_DATA + i * RX_SLOT + Math.max(1, length)),
      ]);
    }
    await theirs.kill();
    return [own, their];
  }

  const MIX = [
    frame(64, STATION),
    frame(64, BROADCAST),
    packet({ filled: true }),
    packet({ udp: true, filled: true }),
    packet({ version: 6, filled: true }),
    packet({ version: 6, udp: true, filled: true }),
  ];

  it('advanced descriptors: packet types, checksums', async () => {
    const [ours, theirs] = await receives(MIX);
    expect(ours).toEqual(theirs);
  });

  it('tags, and the receive hash', async () => {
    const setup: [number, number][] = Array.from({ length: 10 }, (_, i) => [R.RSSRK + 4 * i, 0x0102_0304 * (i + 1)]);
    setup.push([R.MRQC, 2 | (0x37 << 16)]);
    const [ours, theirs] = await receives([packet({ tag: 0x2005, filled: true }), ...MIX], { ctrl: 0x4000_0000, setup });
    expect(ours).toEqual(theirs);
  });
});
