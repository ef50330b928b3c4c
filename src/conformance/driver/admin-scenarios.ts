// A driver's administration commands: the flow filter and its objects, virtual functions and their parts; and what it makes of answers that are short, refused, or not known to it.

import { ADMIN, ADMIN_STATUS, GROUP, QUALIFIER } from '../admin-bench.ts';
import { get16le, le32 } from '../bytes.ts';
import { NOTIFY_ENTRY_BYTES } from '../cases/admin-legacy.ts';

import { FF_CAP, FF_PARTIAL } from '../cases/flow-filter-bench.ts';
import { LEGACY } from '../legacy-bench.ts';
import type { DriverFilter, DriverMembers, DriverScenario } from './scenario.ts';
import type { Stage } from './stage.ts';

const WITH_QUEUE = { features: ['ADMIN_VQ'] } as const;
const PHYSICAL = { device: { vfs: 2 }, driver: { ...WITH_QUEUE, sriov: true } } as const;
/** Before the result. */
const HEAD = 8;
/** An opcode, a status and a qualifier that nobody has defined. */
const STRANGE = { opcode: 40, status: 999, qualifier: 77 } as const;
const capability = (data: Uint8Array): number => get16le(data, 0);
const LOCAL = [10, 0, 0, 1];

function filterOf(stage: Stage): DriverFilter | undefined {
  stage.start();
  return stage.driver.administration?.filter();
}

function membersOf(stage: Stage): DriverMembers | undefined {
  stage.start();
  return stage.driver.administration?.members(2);
}

/** Whether the driver uses the flow filter when each command of this kind is answered so. */
function answeredWith(stage: Stage, opcode: number, status: number, qualifier: number): boolean {
  stage.administered((seen, { bytes }) => {
    if (seen === opcode) bytes.set([status & 0xff, status >>> 8, qualifier, 0]);
  });
  const used = stage.driver.administration?.filter() !== undefined;
  stage.administered(undefined);
  return used;
}

export const ADMIN_SCENARIOS: readonly DriverScenario[] = [
  {
    name: 'driver/flow-filter',
    clauses: ['net-ff.27', 'net-ff.40', 'net-ff.41', 'caps.11', 'objs.19'],
    device: { pairs: 2 },
    driver: { ...WITH_QUEUE, pairs: 2 },
    run(stage) {
      const filter = filterOf(stage);
      if (!stage.check('net-ff.27', 'a flow filter that is there is used', filter !== undefined, true) || !filter) return;
      const http = { to: LOCAL, protocol: 'tcp', toPort: 80 } as const;
      const names = { version: 6, protocol: 'udp', toPort: 53 } as const;
      const arp = { etherType: 0x0806 } as const;
      const group = filter.group(1);
      const tcp = filter.classifier(http);
      const udp = filter.classifier(names);
      const link = filter.classifier(arp);
      const rules = [
        filter.rule({ group, classifier: tcp, priority: 3, match: http, queue: 1 }),
        filter.rule({ group, classifier: tcp, priority: 3, match: { ...http, toPort: 81 }, queue: 1 }),
        filter.rule({ group, classifier: udp, priority: 2, match: names, queue: 0 }),
        filter.rule({ group, classifier: link, priority: 1, match: arp, queue: 1 }),
      ];
      stage.check(
        'objs.19',
        'objects that were made',
        [group, tcp, udp, link, ...rules].every((id) => id >= 0),
        true,
      );
      // What others depend on stays; then it goes, from the rules up.
      stage.check('objs.16', 'a group and a classifier with rules taken away', [filter.removeGroup(group), filter.removeClassifier(tcp)], [false, false]);
      stage.check(
        'objs.17',
        'rules, then what they depend on, taken away',
        [...rules.map((id) => filter.removeRule(id)), filter.removeClassifier(tcp), filter.removeGroup(group)],
        Array(6).fill(true),
      );
      stage.check('objs.15', 'what was taken away taken away again', [filter.removeRule(rules[0] ?? 0), filter.removeGroup(group)], [false, false]);
      stage.check('net-ff.27', 'frames carried besides', stage.echoes(), true);
    },
  },
  {
    name: 'driver/flow-filter-full',
    clauses: ['objs.14', 'caps.12'],
    rings: 'any',
    driver: WITH_QUEUE,
    run(stage) {
      // The device says that it has room for two groups.
      stage.administered((opcode, { data, bytes }) => {
        if (opcode === ADMIN.CAP_GET && capability(data) === FF_CAP.RESOURCE) bytes.set(le32(2), HEAD);
      });
      const filter = filterOf(stage);
      stage.check(
        'objs.14',
        'groups made of two there is room for',
        [0, 1, 2].map((priority) => (filter?.group(priority) ?? -1) >= 0),
        [true, true, false],
      );
    },
  },
  {
    name: 'driver/flow-filter-of-whole-fields',
    clauses: ['net-ff.42'],
    rings: 'any',
    driver: WITH_QUEUE,
    run(stage) {
      // The device matches whole fields only.
      stage.administered((opcode, { data, bytes }) => {
        if (opcode !== ADMIN.CAP_GET || capability(data) !== FF_CAP.SELECTOR) return;
        for (let at = HEAD + 8, left = bytes[HEAD] ?? 0; left > 0 && at + 8 <= bytes.length; left--) {
          bytes[at + 1] = (bytes[at + 1] ?? 0) & ~FF_PARTIAL;
          at += 8 + (bytes[at + 4] ?? 0);
        }
      });
      const filter = filterOf(stage);
      const made = filter?.classifier({ from: LOCAL, protocol: 'udp', fromPort: 53 });
      stage.check('net-ff.42', 'a classifier of a device that matches whole fields', made, 0);
    },
  },
  {
    name: 'driver/commands-without-a-meaning',
    clauses: ['admin.29'],
    rings: 'any',
    driver: WITH_QUEUE,
    run(stage) {
      stage.administered((opcode, { bytes }) => {
        if (opcode === ADMIN.LIST_QUERY) bytes[HEAD + (STRANGE.opcode >>> 3)] = 1 << (STRANGE.opcode & 7);
      });
      stage.check('admin.29', 'a device with a command that is not known is used', filterOf(stage) !== undefined, true);
    },
  },
  {
    name: 'driver/commands-that-come-to-be',
    clauses: ['admin.20'],
    rings: 'any',
    driver: WITH_QUEUE,
    run(stage) {
      let early = true;
      stage.administered((opcode, { bytes }) => {
        if (opcode === ADMIN.LIST_QUERY && early) bytes.set([0x83, 0], HEAD);
      });
      const before = filterOf(stage);
      early = false;
      const after = stage.driver.administration?.filter();
      stage.check('admin.20', 'a flow filter used before and after its commands are reported', [before !== undefined, after !== undefined], [false, true]);
    },
  },
  {
    name: 'driver/short-answers',
    clauses: ['admin.51', 'admin.52'],
    rings: 'any',
    driver: WITH_QUEUE,
    run(stage) {
      // Behind the used length stands what the device would have said: commands on objects.
      stage.administered((opcode, { setLength }) => {
        if (opcode === ADMIN.LIST_QUERY) setLength(HEAD + 1);
      });
      const filter = filterOf(stage);
      const enabled = [...(stage.watched.rings.admin.enabled(GROUP.SELF) ?? [])];
      for (const clause of ['admin.51', 'admin.52'])
        stage.check(clause, 'commands enabled of those in the first byte of an answer of one byte', [enabled, filter], [[0, 1, 7], undefined]);
    },
  },
  {
    name: 'driver/answers-not-known',
    clauses: ['admin.33', 'admin.34', 'admin.54'],
    rings: 'any',
    driver: WITH_QUEUE,
    run(stage) {
      stage.start();
      const { EINVAL } = ADMIN_STATUS;
      const invalid = answeredWith(stage, ADMIN.CAP_ID_LIST, EINVAL, QUALIFIER.INVALID_COMMAND);
      stage.check('admin.33', 'a status that is not known is taken as EINVAL is', answeredWith(stage, ADMIN.CAP_ID_LIST, STRANGE.status, 0), invalid);
      stage.check(
        'admin.34',
        'a qualifier that is not known is taken as INVALID_COMMAND is',
        answeredWith(stage, ADMIN.CAP_ID_LIST, EINVAL, STRANGE.qualifier),
        invalid,
      );
      let busy = 3;
      stage.administered((opcode, { bytes }) => {
        if (opcode === ADMIN.CAP_ID_LIST && busy-- > 0) bytes.set([ADMIN_STATUS.EAGAIN, 0]);
      });
      stage.check('admin.54', 'a command that was answered with EAGAIN is carried out in the end', stage.driver.administration?.filter() !== undefined, true);
    },
  },
  {
    name: 'driver/virtual-functions',
    clauses: ['admin.14', 'sriov.2', 'sriov.3', 'sriov.9', 'sriov.D2', 'parts.31', 'parts.32', 'parts.34', 'parts.35'],
    ...PHYSICAL,
    run(stage) {
      const members = membersOf(stage);
      for (const clause of ['admin.14', 'sriov.3'])
        stage.check(
          clause,
          'virtual functions are there, and their group is open, whose commands are not those of the device itself',
          members !== undefined,
          true,
        );
      if (!members) return;
      members.stop(1);
      members.stop(2);
      const listed = members.countParts(1);
      stage.check('parts.35', 'parts taken of one member and set in another', members.copyParts(1, 2), listed);
      members.resume(2);
      members.resume(1);
    },
  },
  {
    name: 'driver/sriov-not-there',
    clauses: ['sriov.2'],
    rings: 'any',
    device: { offer: ['SR_IOV'] },
    driver: { sriov: true },
    run(stage) {
      stage.check('sriov.2', 'a device that offers SR_IOV without the capability carries frames', stage.start() && stage.echoes(), true);
    },
  },
  {
    name: 'driver/legacy-members',
    clauses: [
      'admin-legacy.16',
      'admin-legacy.18',
      'admin-legacy.19',
      'admin-legacy.20',
      'admin-legacy.22',
      'admin-legacy.23',
      'admin-legacy.24',
      'admin-legacy.25',
      'admin-legacy.26',
    ],
    ...PHYSICAL,
    run(stage) {
      const members = membersOf(stage);
      if (!members) return void stage.check('admin-legacy.19', 'the group is open', false, true);
      let wire: number[] = [];
      stage.watched.rings.onUsed.push((_queue, role, { pieces: [first] }) => {
        const { memory } = stage.watched.rings;
        if (role === 'admin' && first && memory.u16(first.address) === ADMIN.LEGACY_COMMON_WRITE)
          wire = [...memory.copy(first.address + 32, first.length - 32)];
      });
      const [at, size] = LEGACY.queue_select;
      members.legacyWrite(1, 'common', at, size, 1);
      stage.check('admin-legacy.18', 'bytes of 1, as it was written', wire, [1, 0]);
      stage.check('admin-legacy.18', 'the 1 that was written, read', members.legacyRead(1, 'common', at, size), 1);
      // The address, byte by byte.
      const mac = Array.from({ length: 6 }, (_, i) => members.legacyRead(1, 'device', i, 1));
      stage.check('admin-legacy.20', 'bytes of an address that are read', mac.every((byte) => byte < 256) && mac.some((byte) => byte !== 0), true);
      notifyAddresses(stage, members);
    },
  },
];

/** The device's own first entry among some that make no sense, and another beyond the end of the list. */
function notifyAddresses(stage: Stage, members: DriverMembers): void {
  const [own] = members.notifyAddresses(1);
  if (!own) return void stage.check('admin-legacy.22', 'an address to notify at is found', false, true);
  const sane = (bytes: Uint8Array): Uint8Array => bytes.slice(HEAD, HEAD + NOTIFY_ENTRY_BYTES);
  const changed = (entry: Uint8Array, at: number, value: number): Uint8Array => {
    const copy = entry.slice();
    copy[at] = value;
    return copy;
  };
  const found = (clauses: readonly string[], what: string, lay: (entry: Uint8Array) => readonly Uint8Array[], expected: readonly number[]): void => {
    stage.administered((opcode, { bytes }) => {
      if (opcode !== ADMIN.LEGACY_NOTIFY_INFO) return;
      const entry = sane(bytes);
      bytes.fill(0, HEAD);
      for (const [i, one] of lay(entry).entries()) bytes.set(one, HEAD + NOTIFY_ENTRY_BYTES * i);
    });
    const offsets = members.notifyAddresses(1).map(({ offset }) => offset - own.offset);
    stage.administered(undefined);
    for (const clause of clauses) stage.check(clause, what, offsets, expected);
  };
  const end = new Uint8Array(NOTIFY_ENTRY_BYTES);
  const other = (entry: Uint8Array): Uint8Array => changed(entry, 8, (entry[8] as number) ^ 2);
  const beyond = own.offset ^ 2;
  // The owner's table of messages stands for a place of its own to notify at.
  const table = stage.watched.configByte(stage.watched.judge.places.msix + 4) & 7;
  const owners = Uint8Array.from({ length: NOTIFY_ENTRY_BYTES }, (_, i) => [1, table][i] ?? 0);
  found(['admin-legacy.16'], 'entries taken of a list with one in a BAR of the owner and one of the member', (entry) => [owners, entry], [0 - own.offset, 0]);
  found(['admin-legacy.22'], 'entries taken from before and behind the end of a list', (entry) => [entry, end, other(entry)], [0]);
  const skipped = (clause: string, what: string, spoil: (entry: Uint8Array) => Uint8Array): void =>
    found([clause, 'admin-legacy.26'], `entries taken of a list that begins with ${what}`, (entry) => [spoil(other(entry)), entry], [0]);
  skipped('admin-legacy.23', 'flags of neither kind', (entry) => changed(entry, 0, 3));
  skipped('admin-legacy.24', 'a BAR that is not there', (entry) => changed(entry, 1, 5));
  skipped('admin-legacy.25', 'an odd offset', (entry) => changed(entry, 8, beyond | 1));
  skipped('admin-legacy.25', 'an offset behind the BAR', (entry) => changed(entry, 14, 1));
}
