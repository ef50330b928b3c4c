// Faults of the administration queue, of capabilities and of resource objects.

import { ADMIN, ADMIN_FILLER, ADMIN_STATUS, QUALIFIER } from '#conformance/admin-bench';
import { type Mutation, mutation } from '../mutant.ts';
import { adminFault, answers, asks, DATA, get16, OBJECT_VALUE, put16, tells } from './admin-fault.ts';
import { usedEntry } from './rings.ts';

const { OK, ENXIO, EBUSY, EEXIST, EINVAL, ENOSPC } = ADMIN_STATUS;
/** A status there is not. */
const OTHER = 5;
/** Opcodes 0 and 1, and 7 to 13: what the device under test has for its self group. */
const EVERYTHING = [0x83, 0x3f];

/** Status `from` is told as `to`. */
const instead = (from: number, to: number): ReturnType<typeof answers> => answers((status) => (status === from ? to : undefined));

/** LIST_USE of a list with an opcode the device has not is said to fail, and these bytes are in use from then on. */
const takesBadLists = (list: readonly number[]): ReturnType<typeof adminFault> => {
  const bad = (bytes: Uint8Array): boolean => (bytes[DATA] as number) > 0x83 || (bytes[DATA] as number) === 0x87;
  return adminFault(() => ({
    asked({ opcode, bytes }) {
      if (opcode !== ADMIN.LIST_USE || bytes.length < DATA + 8 || !bad(bytes)) return;
      bytes.fill(0, DATA);
      bytes.set(list, DATA);
    },
    told(reply, { opcode, bytes }) {
      if (opcode === ADMIN.LIST_USE && bytes.length >= DATA + 8 && bad(bytes)) put16(reply, 0, EINVAL);
    },
  }));
};

export const ADMIN_MUTATIONS: readonly Mutation[] = [
  mutation(
    'LIST_QUERY is refused',
    ['admin.5', 'admin.25'],
    answers((_status, { opcode }) => (opcode === ADMIN.LIST_QUERY ? [EINVAL, QUALIFIER.INVALID_COMMAND] : undefined)),
  ),
  mutation(
    'LIST_USE is refused',
    ['admin.22', 'admin.23', 'admin.27'],
    answers((_status, { opcode }) => (opcode === ADMIN.LIST_USE ? [EINVAL, QUALIFIER.INVALID_FIELD] : undefined)),
  ),
  mutation(
    'part of a list is refused in a way of its own',
    ['admin.11', 'admin.12'],
    answers((_status, { opcode }) => (opcode === ADMIN.LIST_USE ? [OTHER, QUALIFIER.INVALID_COMMAND] : undefined)),
  ),
  mutation(
    'the list leaves out opcodes 0 and 1',
    ['admin.D1'],
    tells((reply, { opcode }) => {
      if (opcode === ADMIN.LIST_QUERY) reply[8] = (reply[8] as number) & ~3;
    }),
  ),
  mutation(
    'an opcode is gone after LIST_USE',
    ['admin.19', 'admin.21'],
    adminFault(() => {
      let used = false;
      return {
        told(reply, { opcode }) {
          if (opcode === ADMIN.LIST_USE) used = true;
          if (opcode === ADMIN.LIST_QUERY && used) reply[8] = (reply[8] as number) & 0x7f;
        },
      };
    }),
  ),
  mutation(
    'replies end in the middle of a word',
    ['admin.D2', 'admin.36', 'admin.41'],
    usedEntry((entry) => {
      entry.length += 3;
    }),
  ),
  mutation(
    'used lengths are of nothing that was written',
    ['admin.38'],
    usedEntry((entry) => {
      entry.length = 2000;
    }),
  ),
  mutation(
    'a qualifier beside OK',
    ['admin.D3', 'admin.27', 'admin.42'],
    answers((status) => (status === OK ? [OK, QUALIFIER.INVALID_COMMAND] : undefined)),
  ),
  mutation(
    'any group is the self group',
    ['admin.2', 'admin.D5'],
    asks(({ bytes }) => bytes.fill(0, 2, 4)),
  ),
  mutation(
    'a status of its own for what is not valid',
    ['admin.1', 'admin.15', 'admin.17', 'admin.18', 'admin.32', 'caps.4', 'caps.5', 'caps.6', 'net-ff.3', 'net-ff.4'],
    instead(EINVAL, OTHER),
  ),
  mutation(
    'one qualifier for everything',
    ['admin.3', 'admin.D5', 'admin.18', 'admin.35', 'net-ff.3'],
    answers((status) => (status === EINVAL ? [EINVAL, QUALIFIER.INVALID_COMMAND] : undefined)),
  ),
  mutation(
    'members are not looked at',
    ['admin.4'],
    asks(({ bytes }) => {
      if (bytes.length >= DATA) bytes.fill(0, 16, DATA);
    }),
  ),
  mutation(
    'what failed is told as done',
    ['admin.6', 'caps.7', 'caps.8', 'caps.9', 'caps.10', 'objs.1', 'objs.4', 'objs.D1', 'net-ff.9', 'net-ff.10', 'net-ff.11', 'net-ff.12', 'net-ff.13'],
    answers((status) => (status === OK ? undefined : [OK, QUALIFIER.OK])),
  ),
  mutation(
    'commands in use are never changed',
    ['admin.16'],
    asks(({ opcode, bytes }) => {
      if (opcode !== ADMIN.LIST_USE || bytes.length < DATA + 8) return;
      bytes.fill(0, DATA);
      bytes[DATA] = 3;
    }),
  ),
  mutation(
    'every command is in use',
    ['admin.17', 'admin.18', 'admin.32'],
    asks(({ opcode, bytes }) => {
      if (opcode === ADMIN.LIST_USE && bytes.length >= DATA + 8) bytes.set(EVERYTHING, DATA);
    }),
  ),
  mutation('a list that is refused locks everything', ['admin.7', 'admin.8'], takesBadLists([3])),
  mutation('a list that is refused is in use', ['admin.10'], takesBadLists(EVERYTHING)),
  mutation('a refused command is the end', ['admin.9'], {
    barRead: (_m, place, value) => (place.field === 'device_status' && (value & 4) !== 0 ? value | 0x40 : value),
  }),
  mutation(
    'buffers of other lengths are refused',
    ['admin.35', 'admin.36', 'admin.37', 'admin.40', 'admin.42', 'admin.46', 'admin.50'],
    adminFault(() => ({
      told(reply, { opcode, bytes }) {
        if (opcode === ADMIN.LIST_QUERY && (bytes.length !== DATA || reply.length === 8)) put16(reply, 0, EINVAL);
      },
    })),
  ),
  mutation(
    'the whole buffer is cleared',
    ['admin.38'],
    tells((reply) => {
      for (let i = 8; i < reply.length; i++) if (reply[i] === ADMIN_FILLER) reply[i] = 0;
    }),
  ),
  mutation(
    'the list is not written',
    ['admin.39'],
    tells((reply) => void reply.fill(ADMIN_FILLER, 8)),
  ),
  mutation(
    'status and qualifier are not written',
    ['admin.42'],
    tells((reply) => void reply.fill(ADMIN_FILLER, 0, 4)),
  ),
  mutation(
    'reserved bytes are written',
    ['admin.D4'],
    tells((reply) => void reply.fill(1, 4, 8)),
  ),
  // capabilities
  mutation(
    'capabilities cannot be set',
    ['caps.1'],
    tells((reply, { opcode }) => {
      if (opcode === ADMIN.LIST_QUERY) reply[9] = (reply[9] as number) & ~2;
    }),
  ),
  mutation('a capability with a reserved id', ['caps.D1'], () => {
    let last = -1;
    const { memoryWrite } = adminFault(() => ({
      asked({ opcode }) {
        last = opcode;
      },
    }))();
    // Behind the list lies what the suite had filled the buffer with.
    const { memoryRead } = usedEntry((entry) => {
      if (last === ADMIN.CAP_ID_LIST) entry.length = 528;
    });
    return { ...(memoryWrite && { memoryWrite }), ...(memoryRead && { memoryRead }) };
  }),
  mutation('what is not there is not valid', ['caps.8', 'objs.2', 'objs.12', 'admin.43'], instead(ENXIO, EINVAL)),
  mutation('what is busy is not valid', ['caps.7', 'objs.4', 'net-ff.7', 'net-ff.8'], instead(EBUSY, EINVAL)),
  mutation('what there is no room for is not valid', ['objs.3', 'net-ff.5', 'net-ff.6'], instead(ENOSPC, EINVAL)),
  mutation('what there is already is not valid', ['objs.1', 'admin.43'], instead(EEXIST, EINVAL)),
  mutation(
    'DRIVER_CAP_SET is refused',
    ['caps.2', 'caps.3'],
    answers((status, { opcode, bytes }) => (opcode === ADMIN.CAP_SET && !(bytes[DATA] === 1 && bytes.length > 300) && status === OK ? [EINVAL, 3] : undefined)),
  ),
  // objects
  mutation(
    'no object is created',
    ['objs.6', 'objs.7', 'objs.8', 'objs.9'],
    answers((status, { opcode }) => (opcode === ADMIN.CREATE && status === OK ? EINVAL : undefined)),
  ),
  mutation(
    'objects are not what was stored',
    ['objs.11', 'net-ff.2'],
    tells((reply, { opcode }) => {
      if (opcode === ADMIN.QUERY) reply.fill(0, 8, 16);
    }),
  ),
  mutation(
    'a modification that fails is half done',
    ['objs.10'],
    adminFault(() => {
      const clash = (bytes: Uint8Array): boolean => get16(bytes, OBJECT_VALUE) === 11;
      return {
        asked({ opcode, bytes }) {
          if (opcode === ADMIN.MODIFY && clash(bytes)) put16(bytes, OBJECT_VALUE, 0x55);
        },
        told(reply, { opcode, bytes }) {
          if (opcode === ADMIN.MODIFY && clash(bytes)) put16(reply, 0, EINVAL);
        },
      };
    }),
  ),
  mutation(
    'what was destroyed cannot be made again',
    ['objs.5'],
    adminFault(() => {
      let destroyed = false;
      return {
        told(reply, { opcode }) {
          if (opcode === ADMIN.DESTROY) destroyed = true;
          if (opcode === ADMIN.CREATE && destroyed) put16(reply, 0, EEXIST);
        },
      };
    }),
  ),
];
