// Faults of virtual functions, of their group's commands, and of their parts.

import { ADMIN, ADMIN_STATUS, GROUP, QUALIFIER } from '#conformance/admin-bench';
import { METADATA, PART, PART_HEAD } from '#conformance/cases/parts-bench';
import { FEATURE } from '#conformance/features';
import { type Fault, type Mutation, mutation } from '../mutant.ts';
import { type Asked, adminFault, answers, asks, DATA, get16, put16, tells } from './admin-fault.ts';
import { offers, without } from './pci.ts';
import { neverUsed } from './rings.ts';

const { OK, ENOMEM, EINVAL, ENXIO } = ADMIN_STATUS;
const REPLY = 8;
const get32 = (bytes: Uint8Array, at: number): number => (get16(bytes, at) | (get16(bytes, at + 2) << 16)) >>> 0;

const config = (at: number, change: (value: number) => number): Fault => ({
  configRead: (_m, offset, _size, value) => (offset === at ? change(value) : value),
});

/** Of the SR-IOV group, these commands. */
const group =
  (...opcodes: readonly number[]) =>
  ({ opcode, group: type }: Asked): boolean =>
    type === GROUP.SRIOV && opcodes.includes(opcode);
const isGet = group(ADMIN.PARTS_GET);
const isSet = group(ADMIN.PARTS_SET);
const isMode = group(ADMIN.MODE_SET);
const stops = (command: Asked): boolean => isMode(command) && command.bytes[DATA] === 1;

const missing = (at: number, bit: number): ReturnType<typeof tells> =>
  tells((reply, command) => {
    if (group(ADMIN.LIST_QUERY)(command)) reply[REPLY + at] = (reply[REPLY + at] as number) & ~(1 << bit);
  });

/** Parts as PARTS_GET brings them: `change` is given the reply, where the part begins, and its type. */
function eachPart(reply: Uint8Array, change: (reply: Uint8Array, at: number, type: number) => void): void {
  for (let at = REPLY; at + PART_HEAD <= reply.length; ) {
    const type = get16(reply, at);
    // Behind the end lies what the suite had filled the buffer with.
    if (type < PART.DEV_FEATURES || type > PART.CVQ) break;
    const next = at + PART_HEAD + get32(reply, at + 12);
    change(reply, at, type);
    at = next;
  }
}

const parts = (change: (reply: Uint8Array, at: number, type: number) => void): ReturnType<typeof tells> =>
  tells((reply, command) => {
    if (isGet(command)) eachPart(reply, change);
  });

/** Something of the device after so many PARTS_SET. */
const afterSets = (count: number, change: (reply: Uint8Array) => void): ReturnType<typeof adminFault> =>
  adminFault(() => {
    let sets = 0;
    return {
      asked(command) {
        if (isSet(command)) sets++;
      },
      told(reply, command) {
        if (isGet(command) && sets >= count) change(reply);
      },
    };
  });

/** A fault that knows whether a member is stopped. */
function whileStopped(fault: (stopped: () => boolean) => Fault): () => Fault {
  return () => {
    let stopped = false;
    const { memoryWrite } = adminFault(() => ({
      asked(command) {
        if (isMode(command)) stopped = stops(command);
      },
    }))();
    return { ...(memoryWrite && { memoryWrite }), ...fault(() => stopped) };
  };
}

const FOUR = [ADMIN.LEGACY_COMMON_WRITE, ADMIN.LEGACY_COMMON_READ, ADMIN.LEGACY_DEVICE_WRITE, ADMIN.LEGACY_DEVICE_READ];

export const SRIOV_MUTATIONS: readonly Mutation[] = [
  mutation('virtual functions without SR_IOV', ['sriov.5'], () => without(FEATURE.SR_IOV)),
  mutation('SR_IOV without virtual functions', ['sriov.6'], () => offers(1, (word) => word | (1 << (FEATURE.SR_IOV - 32)))),
  mutation('virtual functions send nothing', ['sriov.1', 'sriov.4', 'admin-legacy.5'], { sent: () => [] }),
  mutation(
    'one qualifier for groups and members that are not there',
    ['sriov.7', 'sriov.8', 'sriov.D1'],
    answers((status, command) => (command.group === GROUP.SRIOV && status === EINVAL ? [EINVAL, QUALIFIER.INVALID_COMMAND] : undefined)),
  ),
  mutation(
    'one list of commands in use for all groups',
    ['admin.13'],
    answers((_status, { opcode }) => (opcode === ADMIN.CAP_ID_LIST ? [OK, QUALIFIER.OK] : undefined)),
  ),
  // the legacy interface by commands
  mutation('legacy configuration cannot be read', ['admin-legacy.1', 'admin-legacy.12'], missing(0, ADMIN.LEGACY_DEVICE_READ)),
  mutation(
    'revision 0 beside legacy commands',
    ['admin-legacy.9'],
    config(8, () => 0),
  ),
  mutation(
    'a transitional id beside legacy commands',
    ['admin-legacy.10'],
    config(2, () => 0x1000),
  ),
  mutation('legacy notifications are lost', ['admin-legacy.11'], {
    barWrite: (_m, place, value) => (place.structure !== 'common' && place.size === 2 && value === 1 ? undefined : value),
  }),
  mutation(
    'a fourth entry that leads nowhere',
    ['admin-legacy.13', 'admin-legacy.14'],
    tells((reply, command) => {
      if (!group(ADMIN.LEGACY_NOTIFY_INFO)(command)) return;
      for (let entry = 0; entry < 4; entry++) {
        reply[REPLY + 16 * entry] = 2;
        reply[REPLY + 16 * entry + 1] = 0;
      }
    }),
  ),
  mutation(
    'an odd place for notifications',
    ['admin-legacy.15'],
    tells((reply, command) => {
      if (group(ADMIN.LEGACY_NOTIFY_INFO)(command)) reply[REPLY + 8] = (reply[REPLY + 8] as number) | 1;
    }),
  ),
  mutation('VF BAR 0 beside NOTIFY_INFO', ['admin-legacy.17'], () => {
    let at = -1;
    return {
      configRead(_m, offset, size, value) {
        if (offset >= 0x100 && size === 4 && (value & 0xffff) === 0x10) at = offset;
        return at >= 0 && offset === at + 0x24 ? 0xc : value;
      },
    };
  }),
  mutation(
    'legacy data in the other byte order',
    ['admin-legacy.2', 'admin-legacy.6'],
    tells((reply, command) => {
      if (group(ADMIN.LEGACY_COMMON_READ)(command)) reply.subarray(REPLY).reverse();
    }),
  ),
  mutation(
    'every legacy access is good',
    ['admin-legacy.3', 'admin-legacy.4'],
    answers((_status, command) => (group(...FOUR)(command) ? [OK, QUALIFIER.OK] : undefined)),
  ),
  mutation(
    'legacy writes are refused',
    ['admin-legacy.5', 'admin-legacy.7'],
    answers((_status, command) => (group(ADMIN.LEGACY_COMMON_WRITE, ADMIN.LEGACY_DEVICE_WRITE)(command) ? [EINVAL, QUALIFIER.INVALID_FIELD] : undefined)),
  ),
  mutation(
    'legacy reads bring zeros',
    ['admin-legacy.6', 'admin-legacy.8'],
    tells((reply, command) => {
      if (group(ADMIN.LEGACY_COMMON_READ, ADMIN.LEGACY_DEVICE_READ)(command)) reply.fill(0, REPLY);
    }),
  ),
  // parts
  mutation('members cannot be stopped', ['parts.1'], missing(2, ADMIN.MODE_SET - 16)),
  mutation('each PARTS_GET brings something else', ['parts.2'], () => {
    let times = 0;
    return parts((reply, at, type) => {
      if (type === PART.STATUS) reply[at + PART_HEAD] = (reply[at + PART_HEAD] as number) ^ (times++ << 4);
    })();
  }),
  mutation(
    'DEV_FEATURES is missing, something else in its place',
    ['parts.3', 'parts.25', 'parts.26', 'parts.28', 'parts.D7', 'parts.D10'],
    parts((reply, at, type) => {
      if (type === PART.DEV_FEATURES) put16(reply, at, PART.VQ_NOTIFY);
    }),
  ),
  mutation(
    'DRV_FEATURES is missing',
    ['parts.27', 'parts.D8'],
    parts((reply, at, type) => {
      if (type === PART.DRV_FEATURES) put16(reply, at, PART.VQ_NOTIFY);
    }),
  ),
  mutation(
    'DEV_FEATURES is not optional',
    ['parts.D10'],
    parts((reply, at, type) => {
      if (type === PART.DEV_FEATURES) reply[at + 2] = 0;
    }),
  ),
  mutation(
    'reserved bytes of parts are set',
    ['parts.D9'],
    parts((reply, at) => {
      reply[at + 3] = 1;
    }),
  ),
  mutation(
    'all parts VQ_CFG are of queue 0',
    ['parts.D11'],
    parts((reply, at, type) => {
      if (type === PART.VQ_CFG) put16(reply, at + 4, 0);
    }),
  ),
  mutation(
    'all parts of the control queue are of one command',
    ['parts.D12'],
    parts((reply, at, type) => {
      if (type === PART.CVQ) reply.fill(0, at + 4, at + 12);
    }),
  ),
  mutation(
    'parts that are not there are missed',
    ['parts.24', 'parts.D3'],
    tells((reply, command) => {
      // Type SELECTED, behind the object's header.
      if (!isGet(command) || command.bytes[DATA + 8] !== 0) return;
      reply.fill(0);
      put16(reply, 0, ENXIO);
    }),
  ),
  mutation(
    'METADATA_GET in too little room is not valid',
    ['parts.D1'],
    answers((status) => (status === ENOMEM ? EINVAL : undefined)),
  ),
  mutation(
    'METADATA_GET counts one too many',
    ['parts.D2'],
    tells((reply, command) => {
      if (group(ADMIN.PARTS_METADATA)(command) && command.bytes[DATA + 8] === METADATA.COUNT) reply[REPLY] = (reply[REPLY] as number) + 1;
    }),
  ),
  mutation(
    'METADATA_GET in too little room leaves a trace',
    ['admin.45'],
    adminFault(() => {
      let failed = false;
      return {
        told(reply, command) {
          if (get16(reply, 0) === ENOMEM) failed = true;
          if (failed && isGet(command)) reply.fill(0, REPLY);
        },
      };
    }),
  ),
  mutation(
    'every PARTS_SET is good',
    ['parts.4', 'parts.6'],
    answers((_status, command) => (isSet(command) ? [OK, QUALIFIER.OK] : undefined)),
  ),
  mutation(
    'PARTS_SET is refused',
    ['parts.5'],
    answers((_status, command) => (isSet(command) ? [EINVAL, QUALIFIER.INVALID_FIELD] : undefined)),
  ),
  mutation(
    'setting changes DEV_FEATURES',
    ['parts.7', 'parts.D5', 'parts.D6'],
    afterSets(2, (reply) =>
      eachPart(reply, (bytes, at, type) => {
        if (type === PART.DEV_FEATURES) bytes[at + PART_HEAD] = (bytes[at + PART_HEAD] as number) ^ 0x20;
      }),
    ),
  ),
  mutation('setting changes num_queues', ['parts.29', 'parts.30'], () => {
    let sets = 0;
    const { memoryWrite } = adminFault(() => ({
      asked(command) {
        if (isSet(command)) sets++;
      },
    }))();
    // The last but one of those for VF 1.
    return { ...(memoryWrite && { memoryWrite }), barRead: (_m, place, value) => (place.field === 'num_queues' && sets >= 8 ? value + 2 : value) };
  }),
  mutation(
    'parts for the second member are dropped',
    ['parts.D4'],
    asks((command) => {
      // Resumed, which is a good command and changes nothing yet.
      if (isSet(command) && command.bytes[16] === 2) command.bytes[0] = ADMIN.MODE_SET;
    }),
  ),
  mutation(
    'stopping does nothing',
    ['parts.8', 'parts.16', 'parts.17'],
    asks((command) => {
      if (isMode(command)) command.bytes[DATA] = 0;
    }),
  ),
  mutation('what was sent is not shown as used', ['parts.9', 'parts.10'], {
    // Commands have to come back.
    memoryRead: (m, address, bytes) => (m.spot(address)?.queue === 1 ? (neverUsed.memoryRead?.(m, address, bytes) ?? bytes) : bytes),
  }),
  mutation('what was notified for while stopped is lost', ['parts.11'], { sent: (_m, frames) => frames.filter((frame) => frame[15] !== 3) }),
  mutation(
    'a stopped member reads as all ones',
    ['parts.13'],
    whileStopped((stopped) => ({ configRead: (_m, offset, _size, value) => (stopped() && offset === 8 ? 0xffff_ffff : value) })),
  ),
  mutation(
    'configuration space of a stopped member cannot be written',
    ['parts.14'],
    whileStopped((stopped) => ({ configWrite: (_m, offset, _size, value) => (stopped() && offset === 4 ? undefined : value) })),
  ),
  mutation(
    'resuming is refused',
    ['parts.22'],
    answers((_status, command) => (isMode(command) && !stops(command) ? [EINVAL, QUALIFIER.INVALID_FIELD] : undefined)),
  ),
  mutation(
    'stopping is refused',
    ['parts.18', 'parts.19'],
    answers((_status, command) => (stops(command) ? [EINVAL, QUALIFIER.INVALID_FIELD] : undefined)),
  ),
  mutation(
    'stopping a second time is refused',
    ['parts.21'],
    adminFault(() => {
      let before = false;
      return {
        told(reply, command) {
          if (!isMode(command)) return;
          if (before && stops(command)) put16(reply, 0, EINVAL);
          before = stops(command);
        },
      };
    }),
  ),
  mutation(
    'parts outlive a reset',
    ['parts.23'],
    parts((reply, at, type) => {
      if (type === PART.STATUS) reply[at + PART_HEAD] = 0xf;
    }),
  ),
];
