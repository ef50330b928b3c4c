// Drivers whose administration commands are wrong.

import { ADMIN } from '#conformance/admin-bench';
import { FF_CAP, FF_OBJECT } from '#conformance/cases/flow-filter-bench';
import { FEATURE } from '#conformance/features';
import { SRIOV } from '#conformance/sriov-bench';
import { buffers, type DriverMutation, descriptors, FLAGS, features, found, notifications, put16, put32, u16, u32 } from './driver-fault.ts';

const FILTER = 'driver/flow-filter';
const VFS = 'driver/virtual-functions';
const MEMBERS = 'driver/legacy-members';
const ANSWERS = 'driver/answers-not-known';
/** Of a device with one pair of queues. */
const QUEUE = 3;
/** Before command_specific_data, and before the value of an object in it; before command_specific_result. */
const HEAD = 24;
const VALUE = HEAD + 16;
const RESULT = 8;
/** Selectors of a classifier over Ethernet, IPv4 and TCP; of the key of a rule, where its IPv4 and TCP begin. */
const SELECTOR = { ETH: VALUE + 8, IP: VALUE + 8 + 22, TRANSPORT: VALUE + 8 + 22 + 28 } as const;
const KEY = VALUE + 16;
const IN_KEY = { IP: KEY + 14, TRANSPORT: KEY + 34 } as const;
const KEY_OF_TCP = 54;
const ENTRY = 16;

const opcodeOf = (command: Uint8Array): number => (command[0] as number) | ((command[1] as number) << 8);
const typeOf = (command: Uint8Array): number => (command[HEAD] as number) | ((command[HEAD + 1] as number) << 8);

/** Commands of one opcode are changed; of one capability, or type of object. */
const commands = (
  name: string,
  breaks: readonly string[],
  opcode: number,
  change: (command: Uint8Array) => void,
  { type, scenario = FILTER }: { readonly type?: number; readonly scenario?: string } = {},
): DriverMutation =>
  buffers(
    name,
    breaks,
    'admin',
    (command) => (opcodeOf(command) === opcode && (type === undefined || typeOf(command) === type) ? change(command) : undefined),
    scenario,
  );

const sets =
  (at: number, ...bytes: readonly number[]) =>
  (command: Uint8Array): void => {
    if (at + bytes.length <= command.length) command.set(bytes, at);
  };

/** The three-selector classifiers, or rules of them. */
const deep =
  (change: (command: Uint8Array) => void) =>
  (command: Uint8Array): void => {
    if (command[VALUE] === 3 || command[VALUE + 9] === KEY_OF_TCP) change(command);
  };

/** Length of the nth piece of each command's buffer. */
const lengths = (name: string, breaks: readonly string[], n: number, change: (length: number, opcode: number) => number, scenario: string): DriverMutation =>
  descriptors(
    name,
    breaks,
    QUEUE,
    (stage, descriptor, { setup }) => {
      const indirect = (u16(stage, descriptor + 12) & FLAGS.INDIRECT) !== 0;
      const first = indirect ? u32(stage, descriptor) : descriptor;
      const at = n === 0 ? first : indirect ? first + 16 : setup.desc + 16 * u16(stage, descriptor + 14);
      put32(stage, at + 8, change(u32(stage, at + 8), u16(stage, u32(stage, first))));
    },
    scenario,
    'split',
  );

/** What is found in a list of addresses to notify at. */
const entries = (name: string, breaks: readonly string[], change: (list: Uint8Array) => void): DriverMutation =>
  found(name, breaks, 'admin', (answer) => (answer.length === RESULT + 4 * ENTRY ? change(answer.subarray(RESULT)) : undefined), MEMBERS);

const ONE_PAIR = 'driver/flow-filter-of-whole-fields';

export const ADMIN_FAULTS: readonly DriverMutation[] = [
  lengths('sends commands of odd lengths', ['admin.48'], 0, (length) => length + 4, ONE_PAIR),
  lengths('cuts commands short', ['admin.47'], 0, () => HEAD, ONE_PAIR),
  lengths('sends commands of no length', ['admin.49'], 0, () => 0, ONE_PAIR),
  commands('does not say which commands it uses', ['admin.26', 'admin.31'], ADMIN.LIST_USE, sets(0, ADMIN.LIST_QUERY)),
  commands('uses commands that were not reported', ['admin.29', 'admin.30'], ADMIN.LIST_USE, sets(HEAD + 5, 1)),
  descriptors(
    'says which commands it uses twice at once',
    ['admin.28'],
    QUEUE,
    (stage, descriptor, { setup, next }) => {
      const indirect = (u16(stage, descriptor + 12) & FLAGS.INDIRECT) !== 0;
      const { desc, driver, size } = setup;
      const index = u16(stage, driver + 2);
      if (u16(stage, u32(stage, indirect ? u32(stage, descriptor) : descriptor)) !== ADMIN.LIST_USE || ((index - next) & 0xffff) !== 1) return;
      for (let at = 0; at < 16; at += 4) put32(stage, desc + 16 * (size - 1) + at, u32(stage, descriptor + at));
      put16(stage, driver + 4 + 2 * (index % size), size - 1);
      put16(stage, driver + 2, index + 1);
    },
    ONE_PAIR,
    'split',
  ),
  found('takes a status it does not know for success', ['admin.33'], 'admin', (answer) => (answer[1] === 3 ? answer.set([0, 0]) : undefined), ANSWERS),
  found('takes a qualifier it does not know for success', ['admin.34'], 'admin', (answer) => (answer[2] === 77 ? answer.set([0, 0]) : undefined), ANSWERS),
  found('does not try again', ['admin.54'], 'admin', (answer) => (answer[0] === 11 ? answer.set([22, 0]) : undefined), ANSWERS),
  {
    name: 'keeps to the commands that were reported first',
    breaks: ['admin.20'],
    scenario: 'driver/commands-that-come-to-be',
    fault: () => {
      let first: number | undefined;
      return {
        used: (role, { pieces }, _lengthAt, stage) => {
          const [command, answer] = pieces;
          if (role !== 'admin' || !command || !answer || u16(stage, command.address) !== ADMIN.LIST_QUERY) return;
          first ??= u16(stage, answer.address + RESULT);
          put16(stage, answer.address + RESULT, first);
        },
      };
    },
  },
  found(
    'goes by more than the device wrote',
    ['admin.51', 'admin.52'],
    'admin',
    (answer, lengthAt, stage) => (u32(stage, lengthAt) === RESULT + 1 ? put32(stage, lengthAt, answer.length) : undefined),
    'driver/short-answers',
  ),
  // ---- capabilities ----
  commands('does not set its capabilities', ['caps.11', 'objs.19', 'net-ff.27'], ADMIN.CAP_SET, sets(0, ADMIN.CAP_GET)),
  commands("sets a limit above the device's", ['caps.12'], ADMIN.CAP_SET, sets(HEAD + 8 + 3, 0xff), { type: FF_CAP.RESOURCE }),
  commands('sets a flag the device does not have', ['caps.13'], ADMIN.CAP_SET, sets(HEAD + 8 + 8 + 1, 0xff), { type: FF_CAP.SELECTOR }),
  commands('sets an action the device does not have', ['caps.14'], ADMIN.CAP_SET, sets(HEAD + 8 + 8, 99), { type: FF_CAP.ACTION }),
  commands(
    'disables a capability while it has objects',
    ['caps.15', 'objs.18'],
    ADMIN.CREATE,
    (command) => {
      command.fill(0, HEAD);
      command.set([ADMIN.CAP_SET, 0]);
      command.set([FF_CAP.RESOURCE & 0xff, FF_CAP.RESOURCE >>> 8], HEAD);
    },
    { type: FF_OBJECT.RULE },
  ),
  // ---- objects ----
  commands('makes an object twice', ['objs.13'], ADMIN.CREATE, sets(HEAD + 4, 0), { type: FF_OBJECT.CLASSIFIER }),
  commands('makes more objects than it said', ['objs.14'], ADMIN.CAP_SET, sets(HEAD + 8, 1), { type: FF_CAP.RESOURCE, scenario: 'driver/flow-filter-full' }),
  commands('takes an object away twice', ['objs.15'], ADMIN.DESTROY, sets(HEAD + 4, 0), { type: FF_OBJECT.RULE }),
  commands('takes a group away that has rules', ['objs.16', 'objs.17', 'net-ff.28', 'net-ff.29'], ADMIN.DESTROY, sets(HEAD, 0, 2, 0, 0, 0), {
    type: FF_OBJECT.RULE,
  }),
  commands('takes a classifier away that rules use', ['net-ff.30', 'net-ff.31'], ADMIN.DESTROY, sets(HEAD, 1, 2, 0, 0, 0), { type: FF_OBJECT.RULE }),
  // ---- the flow filter ----
  commands('gives rules for the same frames one priority', ['net-ff.32', 'net-ff.34'], ADMIN.CREATE, deep(sets(IN_KEY.TRANSPORT + 2, 0, 80)), {
    type: FF_OBJECT.RULE,
  }),
  commands('begins a classifier with IPv4', ['net-ff.35'], ADMIN.CREATE, sets(SELECTOR.ETH, 2), { type: FF_OBJECT.CLASSIFIER }),
  commands('has TCP follow Ethernet', ['net-ff.36'], ADMIN.CREATE, deep(sets(SELECTOR.IP, 4)), { type: FF_OBJECT.CLASSIFIER }),
  commands('has IPv4 follow IPv4', ['net-ff.37'], ADMIN.CREATE, deep(sets(SELECTOR.TRANSPORT, 2)), { type: FF_OBJECT.CLASSIFIER }),
  commands('does not look at the EtherType before IP', ['net-ff.38'], ADMIN.CREATE, deep(sets(SELECTOR.ETH + 8 + 12, 0, 0)), { type: FF_OBJECT.CLASSIFIER }),
  commands('does not look at the protocol before TCP', ['net-ff.39'], ADMIN.CREATE, deep(sets(SELECTOR.IP + 8 + 9, 0)), { type: FF_OBJECT.CLASSIFIER }),
  commands('wants another EtherType before IPv4', ['net-ff.40'], ADMIN.CREATE, deep(sets(KEY + 12, 0x86, 0xdd)), { type: FF_OBJECT.RULE }),
  commands('wants another protocol before TCP', ['net-ff.41'], ADMIN.CREATE, deep(sets(IN_KEY.IP + 9, 1)), { type: FF_OBJECT.RULE }),
  commands('looks at half of an address', ['net-ff.42'], ADMIN.CREATE, sets(SELECTOR.IP + 8 + 12, 0, 0), { type: FF_OBJECT.CLASSIFIER, scenario: ONE_PAIR }),
  // ---- virtual functions ----
  commands(
    'takes the commands of one group for those of another',
    ['admin.14'],
    ADMIN.LIST_USE,
    (command) => {
      if (command[2] === 1) command[HEAD] = (command[HEAD] as number) | (1 << ADMIN.CAP_ID_LIST);
    },
    { scenario: VFS },
  ),
  features('takes SR_IOV of a device that has no virtual functions', ['sriov.2'], { accept: FEATURE.SR_IOV }, 'driver/sriov-not-there'),
  features('enables virtual functions unasked', ['sriov.3'], { refuse: FEATURE.SR_IOV }, VFS),
  notifications(
    'disables virtual functions while a command is on its way',
    ['sriov.9'],
    ({ address, size, value }, forward, stage) => {
      const { watched } = stage;
      // Commands for members come once they are there.
      const at = sriovAt((offset) => watched.mmioRead(watched.configSpace + offset, 4));
      if (value === QUEUE && watched.rings.admin.enabled(1)) forward(watched.configSpace + at + SRIOV.CONTROL, 2, 0);
      forward(address, size, value);
    },
    VFS,
  ),
  commands('names a member there is not', ['sriov.D2'], ADMIN.MODE_SET, sets(16, 9), { scenario: VFS }),
  commands('sets parts of a member that runs', ['parts.31'], ADMIN.MODE_SET, sets(HEAD, 0), { scenario: VFS }),
  commands('sets parts out of order', ['parts.32'], ADMIN.PARTS_SET, sets(HEAD + 8, 0xff), { scenario: VFS }),
  lengths(
    'has little room for what parts there are',
    ['parts.34'],
    1,
    (length, opcode) => (opcode === ADMIN.PARTS_METADATA ? Math.min(length, 32) : length),
    VFS,
  ),
  lengths('has little room for parts', ['parts.35'], 1, (length, opcode) => (opcode === ADMIN.PARTS_GET ? 64 : length), VFS),
  // ---- legacy registers of members ----
  commands('writes numbers the other way round', ['admin-legacy.18'], ADMIN.LEGACY_COMMON_WRITE, (command) => void command.subarray(HEAD + 8).reverse(), {
    scenario: MEMBERS,
  }),
  commands('reads across registers', ['admin-legacy.19'], ADMIN.LEGACY_COMMON_READ, sets(HEAD, 13), { scenario: MEMBERS }),
  commands('reads parts of fields', ['admin-legacy.20'], ADMIN.LEGACY_DEVICE_READ, sets(HEAD, 7), { scenario: MEMBERS }),
  entries('goes on behind the end of a list', ['admin-legacy.22'], (list) => {
    if (list[ENTRY] === 0 && list[2 * ENTRY] !== 0) list[ENTRY] = 3;
  }),
  entries('knows the addresses of members only', ['admin-legacy.16'], (list) => {
    if (list[0] === 1) list[0] = 3;
  }),
  entries('takes addresses of no kind', ['admin-legacy.23', 'admin-legacy.26'], (list) => {
    if (list[0] === 3) list[0] = list[ENTRY] as number;
  }),
  entries('takes addresses in BARs there are not', ['admin-legacy.24', 'admin-legacy.26'], (list) => {
    if (list[1] === 5) list[1] = list[ENTRY + 1] as number;
  }),
  entries('takes odd addresses', ['admin-legacy.25', 'admin-legacy.26'], (list) => {
    list[8] = (list[8] as number) & ~1;
  }),
];

function sriovAt(read: (offset: number) => number): number {
  let at = 0x100;
  while (at >= 0x100 && (read(at) & 0xffff) !== SRIOV.ID) at = read(at) >>> 20;
  return at;
}
