// Faults of the flow filter.

import { ADMIN, ADMIN_STATUS } from '#conformance/admin-bench';
import { FF_ACTION, FF_OBJECT } from '#conformance/cases/flow-filter-bench';
import { type Mutation, mutation } from '../mutant.ts';
import { answers, asks, DATA, get16, OBJECT_ID, OBJECT_VALUE, put16, tells } from './admin-fault.ts';

/** In a rule. */
const GROUP_AT = OBJECT_VALUE;
const PRIORITY_AT = OBJECT_VALUE + 8;
const ACTION_AT = OBJECT_VALUE + 10;
const QUEUE_AT = OBJECT_VALUE + 12;

/** Objects of a type arrive otherwise than they were sent. */
const created = (type: number, change: (bytes: Uint8Array) => void): ReturnType<typeof asks> =>
  asks(({ opcode, bytes }) => {
    if (opcode === ADMIN.CREATE && get16(bytes, DATA) === type) change(bytes);
  });
const rules = (change: (bytes: Uint8Array) => void): ReturnType<typeof asks> => created(FF_OBJECT.RULE, change);

export const FLOW_FILTER_MUTATIONS: readonly Mutation[] = [
  mutation(
    'no action capability',
    ['net-ff.1'],
    tells((reply, { opcode }) => {
      if (opcode === ADMIN.CAP_ID_LIST) reply[8 + 0x100] = (reply[8 + 0x100] as number) & ~4;
    }),
  ),
  mutation(
    'objects cannot be modified',
    ['net-ff.2'],
    tells((reply, { opcode }) => {
      if (opcode === ADMIN.LIST_QUERY) reply[9] = (reply[9] as number) & ~0x10;
    }),
  ),
  mutation(
    'PARTIAL_MASK with whole fields is refused',
    ['net-ff.26'],
    answers((_status, { opcode, bytes }) =>
      opcode === ADMIN.CREATE && get16(bytes, DATA) === FF_OBJECT.CLASSIFIER && bytes[OBJECT_VALUE + 9] === 1 ? ADMIN_STATUS.EINVAL : undefined,
    ),
  ),
  mutation(
    'every rule drops',
    ['net-ff.15', 'net-ff.16', 'net-ff.17', 'net-ff.18', 'net-ff.19', 'net-ff.20', 'net-ff.23', 'net-ff.33'],
    rules((bytes) => {
      bytes[ACTION_AT] = FF_ACTION.DROP;
    }),
  ),
  mutation(
    'no rule drops',
    ['net-ff.20', 'net-ff.24'],
    rules((bytes) => {
      bytes[ACTION_AT] = FF_ACTION.DIRECT;
    }),
  ),
  mutation(
    'another rule counts as well',
    ['net-ff.15', 'net-ff.20'],
    rules((bytes) => {
      if (get16(bytes, OBJECT_ID) === 0) put16(bytes, QUEUE_AT, 2);
    }),
  ),
  mutation('frames come twice', ['net-ff.21'], () => {
    let again: Uint8Array | undefined;
    return {
      send(_m, frame, offload) {
        again = frame;
        return [frame, offload];
      },
      async settled(m) {
        if (again === undefined) return;
        const frame = again;
        again = undefined;
        await m.inner.send(frame);
        await m.inner.settle();
      },
    };
  }),
  mutation(
    'the group of the lowest priority comes first',
    ['net-ff.16', 'net-ff.17'],
    created(FF_OBJECT.GROUP, (bytes) => put16(bytes, OBJECT_VALUE, 1000 - get16(bytes, OBJECT_VALUE))),
  ),
  mutation(
    'the rule of the lowest priority comes first',
    ['net-ff.19'],
    rules((bytes) => {
      bytes[PRIORITY_AT] = 9 - (bytes[PRIORITY_AT] as number);
    }),
  ),
  mutation(
    'only the first group is tried',
    ['net-ff.18'],
    rules((bytes) => {
      if (get16(bytes, GROUP_AT) !== 1) bytes[bytes.length - 4] = 0xee;
    }),
  ),
  mutation('frames for a queue under reset go elsewhere', ['net-ff.14'], () => {
    let reset = false;
    return {
      barWrite(_m, place, value) {
        if (place.field === 'queue_reset') reset = true;
        return value;
      },
      send(_m, frame, offload) {
        if (reset) frame[11] = 0xee;
        return [frame, offload];
      },
    };
  }),
  mutation('the filter of addresses comes last', ['net-ff.24', 'net-ff.25'], () => {
    let promiscuous = false;
    return {
      memoryWrite(m, address, bytes) {
        if (m.spot(address)) return bytes;
        if (promiscuous && bytes.length === 1) bytes[0] = 1;
        promiscuous = bytes.length === 2 && bytes[0] === 0 && bytes[1] === 0;
        return bytes;
      },
    };
  }),
];
