// The legacy interface of virtual functions, by commands of their owner (virtio 1.4 2.12.1.2). Data is as long as the buffer is: for these the parts are no multiples of 8 bytes.

import { ADMIN, ADMIN_STATUS, GROUP } from '../admin-bench.ts';
import type { Bench } from '../bench.ts';
import { get16le, get32le, le16, le32 } from '../bytes.ts';
import type { Case } from '../case.ts';
import { CFG_TYPE, PCI, STATUS } from '../layout.ts';
import { LEGACY, type LegacyAccess, LegacyBench } from '../legacy-bench.ts';
import type { Session } from '../session.ts';
import { SriovBench } from '../sriov-bench.ts';
import { plainFrame } from './frames.ts';

const { OK } = ADMIN_STATUS;
const FOUR: readonly number[] = [ADMIN.LEGACY_COMMON_WRITE, ADMIN.LEGACY_COMMON_READ, ADMIN.LEGACY_DEVICE_WRITE, ADMIN.LEGACY_DEVICE_READ];
export const NOTIFY_ENTRY_BYTES = 16;
const ENTRIES = 4;
const OWNER = 1;
const MEMBER = 2;

const head = (offset: number): number[] => [offset, 0, 0, 0, 0, 0, 0, 0];
const bytesOf = (value: number, size: number): number[] => le32(value).slice(0, size);
const numberOf = (bytes: Uint8Array, size: number): number => (size === 4 ? get32le(bytes, 0) : size === 2 ? get16le(bytes, 0) : (bytes[0] ?? 0));

/** The group open with the four commands, one VF there. */
async function group(b: Bench, needed: readonly number[] = FOUR): Promise<SriovBench> {
  const sriov = await SriovBench.need(b);
  await b.start();
  await sriov.enable();
  await sriov.open(needed);
  return sriov;
}

function through(sriov: SriovBench, member: number): LegacyAccess {
  const read = (opcode: number) => async (offset: number, size: number) =>
    numberOf((await sriov.done(member, { opcode, data: head(offset), result: size })).result, size);
  const write = (opcode: number) => async (offset: number, size: number, value: number) =>
    void (await sriov.done(member, { opcode, data: [...head(offset), ...bytesOf(value, size)], result: 0 }));
  return {
    read: read(ADMIN.LEGACY_COMMON_READ),
    write: write(ADMIN.LEGACY_COMMON_WRITE),
    configRead: read(ADMIN.LEGACY_DEVICE_READ),
    configWrite: write(ADMIN.LEGACY_DEVICE_WRITE),
  };
}

async function legacyMember(sriov: SriovBench, member: number): Promise<LegacyBench> {
  const legacy = new LegacyBench(sriov.session(member), { ring: 'split', features: [] });
  await legacy.openThrough(through(sriov, member));
  return legacy;
}

interface NotifyEntry {
  readonly flags: number;
  readonly bar: number;
  readonly offset: number;
}

async function notifyEntries(sriov: SriovBench, member: number): Promise<NotifyEntry[]> {
  const { result } = await sriov.done(member, { opcode: ADMIN.LEGACY_NOTIFY_INFO, result: ENTRIES * NOTIFY_ENTRY_BYTES });
  return Array.from({ length: ENTRIES }, (_, i) => {
    const at = NOTIFY_ENTRY_BYTES * i;
    return { flags: result[at] ?? 0, bar: result[at + 1] ?? 0, offset: get32le(result, at + 8) + 2 ** 32 * get32le(result, at + 12) };
  });
}

const valid = (entries: readonly NotifyEntry[]): readonly NotifyEntry[] => {
  const end = entries.findIndex(({ flags }) => flags === 0);
  return end < 0 ? entries : entries.slice(0, end);
};

/** Whether a BAR of the owner (its header) or of members (the capability) takes addresses. */
async function implemented(b: Bench, sriov: SriovBench, { flags, bar }: NotifyEntry): Promise<boolean> {
  return (flags === OWNER ? await b.session.configRead(PCI.BAR0 + 4 * bar, 4) : await sriov.bar(bar)) !== 0;
}

const of = (test: Pick<Case, 'name' | 'clauses' | 'reading'> & { readonly run: (b: Bench, s: Session) => Promise<void> }): Case => ({
  ...test,
  model: 'sr-iov',
  over: [['ADMIN_VQ', 'SR_IOV']],
});

export const ADMIN_LEGACY_CASES: readonly Case[] = [
  of({
    name: 'admin-legacy/offered',
    clauses: ['admin-legacy.1', 'admin-legacy.9', 'admin-legacy.10', 'admin-legacy.12'],
    async run(b, s) {
      const sriov = await SriovBench.need(b);
      await b.start();
      await sriov.enable();
      const all = (await b.admin.supported(GROUP.SRIOV)) ?? s.skip('the device has no SR-IOV group');
      const some = FOUR.filter((opcode) => all.has(opcode));
      const notify = all.has(ADMIN.LEGACY_NOTIFY_INFO);
      if (some.length === 0 && !notify) s.skip('the device gives no legacy access to its members');
      s.check('admin-legacy.1', 'of the four commands, those it has', some, FOUR);
      for (const [name, session] of [['owner', s] as const, ['VF 1', sriov.session(1)] as const]) {
        const revision = await session.configRead(PCI.REVISION, 1);
        s.checkThat('admin-legacy.9', `revision id of the ${name}`, revision >= 1, 'at least 1', revision);
        const subsystem = await session.configRead(PCI.SUBSYSTEM_ID, 2);
        s.checkThat('admin-legacy.9', `subsystem id of the ${name}`, subsystem >= 0x40, 'at least 0x40', subsystem);
      }
      s.check('admin-legacy.10', 'device id of the owner', await s.configRead(PCI.DEVICE_ID, 2), 0x1041);
      if (notify) s.check('admin-legacy.12', 'of the four commands, those it has beside NOTIFY_INFO', some, FOUR);
      else s.skip('the device has no LEGACY_NOTIFY_INFO');
    },
  }),
  of({
    name: 'admin-legacy/fields',
    clauses: ['admin-legacy.2', 'admin-legacy.3', 'admin-legacy.4', 'admin-legacy.5', 'admin-legacy.6', 'admin-legacy.7', 'admin-legacy.8'],
    async run(b, s) {
      const sriov = await group(b);
      const read = (offset: number, size: number): Promise<{ status: number; result: Uint8Array }> =>
        sriov.command(1, { opcode: ADMIN.LEGACY_COMMON_READ, data: head(offset), result: size });
      const write = (offset: number, data: readonly number[]): Promise<{ status: number }> =>
        sriov.command(1, { opcode: ADMIN.LEGACY_COMMON_WRITE, data: [...head(offset), ...data], result: 0 });
      const driver = STATUS.ACKNOWLEDGE | STATUS.DRIVER;
      s.check('admin-legacy.5', 'status of writing device_status', (await write(LEGACY.device_status[0], [driver])).status, OK);
      const status = await read(LEGACY.device_status[0], 1);
      s.check('admin-legacy.6', 'status of reading device_status, and what is read', [status.status, [...status.result]], [OK, [driver]]);
      const offered = (await read(LEGACY.device_features[0], 4)).result;
      s.check('admin-legacy.6', 'VERSION_1 or more among 32 bits of features', offered.length, 4);
      const chosen = get32le(offered, 0) & 0x0001_0020;
      s.check('admin-legacy.5', 'status of writing driver features', (await write(LEGACY.driver_features[0], le32(chosen))).status, OK);
      const features = (await read(LEGACY.driver_features[0], 4)).result;
      for (const key of ['admin-legacy.2', 'admin-legacy.6']) s.check(key, 'driver features as they were written', [...features], le32(chosen));
      s.check('admin-legacy.5', 'status of writing queue_select', (await write(LEGACY.queue_select[0], le16(1))).status, OK);
      const size = get16le((await read(LEGACY.queue_size[0], 2)).result, 0);
      s.checkThat('admin-legacy.2', 'size of queue 1', size > 0 && size <= 32768 && (size & (size - 1)) === 0, 'a power of 2', size);
      s.check('admin-legacy.5', 'status of writing queue_address', (await write(LEGACY.queue_address[0], le32(0x321))).status, OK);
      s.check('admin-legacy.2', 'queue_address as it was written', [...(await read(LEGACY.queue_address[0], 4)).result], le32(0x321));

      const refused = (key: string, what: string, reply: { readonly status: number }): boolean =>
        s.checkThat(key, `status of ${what}`, reply.status !== OK, 'not 0', reply.status);
      for (const [offset, length] of [
        [18, 2],
        [2, 4],
        [0, 8],
        [12, 4],
        [19, 2],
        [24, 1],
        [200, 1],
      ] as const) {
        refused('admin-legacy.3', `reading ${length} bytes at ${offset} of the common configuration`, await read(offset, length));
        refused('admin-legacy.3', `writing ${length} bytes at ${offset} of the common configuration`, await write(offset, new Array<number>(length).fill(0)));
      }
      refused('admin-legacy.3', 'writing no bytes at 18', await write(18, []));

      const config = (offset: number, length: number): Promise<{ status: number; result: Uint8Array }> =>
        sriov.command(1, { opcode: ADMIN.LEGACY_DEVICE_READ, data: head(offset), result: length });
      const set = (offset: number, data: readonly number[]): Promise<{ status: number }> =>
        sriov.command(1, { opcode: ADMIN.LEGACY_DEVICE_WRITE, data: [...head(offset), ...data], result: 0 });
      const mac = [0x52, 0x54, 0x12, 0x34, 0x56, 0x9a];
      for (const [i, byte] of mac.entries()) s.check('admin-legacy.7', `status of writing byte ${i} of mac`, (await set(i, [byte])).status, OK);
      for (const [i, byte] of mac.entries()) s.check('admin-legacy.8', `byte ${i} of mac as it was written`, [...(await config(i, 1)).result], [byte]);
      const link = await config(6, 2);
      s.check('admin-legacy.8', 'status of reading status', link.status, OK);
      s.check('admin-legacy.2', 'bit 0 of status, link up', (link.result[0] ?? 0) & 1, 1);
      for (const [offset, length] of [
        [5, 2],
        [4, 4],
        [0, 8],
        [7, 2],
        [250, 1],
      ] as const) {
        refused('admin-legacy.4', `reading ${length} bytes at ${offset} of the device configuration`, await config(offset, length));
        refused('admin-legacy.4', `writing ${length} bytes at ${offset} of the device configuration`, await set(offset, new Array<number>(length).fill(0)));
      }
    },
  }),
  of({
    name: 'admin-legacy/driver',
    clauses: ['admin-legacy.5', 'admin-legacy.6', 'admin-legacy.8'],
    async run(b, s) {
      const sriov = await group(b);
      const legacy = await legacyMember(sriov, 1);
      await legacy.start();
      s.check('admin-legacy.5', 'a frame sent by a VF that was set up and notified through its owner', await legacy.net.transmit(plainFrame(1)), [
        plainFrame(1),
      ]);
      s.check('admin-legacy.5', 'a frame received by it', (await legacy.net.inject(plainFrame(2)))[0]?.bytes, plainFrame(2));
      s.check('admin-legacy.6', 'device_status', (await legacy.read('device_status')) & STATUS.DRIVER_OK, STATUS.DRIVER_OK);
      const seen = [...(await legacy.mac())];
      s.checkThat('admin-legacy.8', 'mac', seen.some((byte) => byte !== 0) && ((seen[0] ?? 1) & 1) === 0, 'a unicast address', seen);
      await legacy.reset();
      s.check('admin-legacy.6', 'device_status after a reset', await legacy.read('device_status'), 0);
      const other = await sriov.member(2);
      await other.start();
      s.check('admin-legacy.5', 'a frame sent by another VF, of modern ways', await other.net.transmit(plainFrame(3)), [plainFrame(3)]);
    },
  }),
  of({
    name: 'admin-legacy/notifications',
    clauses: ['admin-legacy.11', 'admin-legacy.13', 'admin-legacy.14', 'admin-legacy.15', 'admin-legacy.17'],
    async run(b, s) {
      const sriov = await group(b, [...FOUR, ADMIN.LEGACY_NOTIFY_INFO]);
      s.check('admin-legacy.17', 'VF BAR 0', await sriov.bar(0), 0);
      const entries = await notifyEntries(sriov, 1);
      s.check('admin-legacy.13', 'flags of the last entry', entries.at(-1)?.flags, 0);
      const good = valid(entries);
      s.ensure(good.length > 0, 'NOTIFY_INFO has no entry');
      for (const entry of good) {
        const { flags, bar, offset } = entry;
        s.check('admin-legacy.14', `BAR ${bar} of flags ${flags} is there`, bar >= 1 && bar <= 5 && (await implemented(b, sriov, entry)), true);
        s.check('admin-legacy.15', `offset ${offset} modulo 2`, offset % 2, 0);
      }
      const legacy = await legacyMember(sriov, 1);
      for (const [i, { flags, bar, offset }] of good.entries()) {
        await legacy.start();
        await legacy.net.addFrame(plainFrame(i));
        const queue = legacy.net.transmitQueue();
        await queue.ring.expose();
        await (flags === MEMBER ? legacy.session : s).barWrite(bar, offset, 2, queue.index);
        s.check('admin-legacy.11', `frames sent after queue 1 was notified at the address of entry ${i}`, await legacy.session.sent(), [plainFrame(i)]);
      }
      s.ensure(b.structure(CFG_TYPE.COMMON) !== undefined, 'the owner lost its structures');
    },
  }),
];
