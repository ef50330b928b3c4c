// Group administration commands (virtio 1.4 2.12.1) and their queue (2.13), as far as any group has them: lists of commands, the order of checks, buffers of the wrong length.

import { ADMIN, ADMIN_FILLER, ADMIN_REPLY_HEAD, ADMIN_STATUS, GROUP, outcome, QUALIFIER } from '../admin-bench.ts';
import type { Bench } from '../bench.ts';
import { get16le } from '../bytes.ts';
import type { Case } from '../case.ts';
import { STATUS } from '../layout.ts';
import type { Session } from '../session.ts';
import { plainFrame } from './frames.ts';

const { OK, EINVAL } = ADMIN_STATUS;
/** Numbers that mean nothing, of a group and of a command. */
const NO_GROUP = 0x7777;
const NO_OPCODE = 0x7654;
const REFUSED_OPCODE = [EINVAL, QUALIFIER.INVALID_OPCODE];
const LISTS: readonly number[] = [ADMIN.LIST_QUERY, ADMIN.LIST_USE];

/** A command of the self group that needs no data and changes nothing, if there is one. */
async function harmless(b: Bench, s: Session): Promise<{ readonly all: ReadonlySet<number>; readonly opcode: number }> {
  const all = s.found(await b.admin.supported(), 'LIST_QUERY of the self group was refused');
  if (!all.has(ADMIN.CAP_ID_LIST)) s.skip('the self group has no command that changes nothing');
  return { all, opcode: ADMIN.CAP_ID_LIST };
}

export const ADMIN_CASES: readonly Case[] = [
  {
    name: 'admin/lists',
    clauses: ['admin.5', 'admin.19', 'admin.21', 'admin.22', 'admin.23', 'admin.25', 'admin.27', 'admin.D1', 'admin.D2', 'admin.D3'],
    over: [['ADMIN_VQ']],
    async run(b, s) {
      await b.start();
      const first = await b.admin.command({ opcode: ADMIN.LIST_QUERY });
      s.check('admin.5', 'status of LIST_QUERY of the self group', first.status, OK);
      s.check('admin.25', 'status of LIST_QUERY of the self group', first.status, OK);
      s.check('admin.D3', 'status_qualifier beside status OK', first.qualifier, QUALIFIER.OK);
      s.checkThat(
        'admin.D2',
        'length of the list in bytes',
        first.length >= 16 && first.length % 8 === 0,
        'whole 64-bit words, at least one',
        first.length - 8,
      );
      s.check('admin.D1', 'opcodes 0 and 1 in the list', (first.result[0] ?? 0) & 3, 3);
      const before = s.found(await b.admin.supported(), 'LIST_QUERY was refused');
      for (const time of ['first', 'second', 'third']) {
        const used = await b.admin.use(before);
        s.check('admin.27', `status and qualifier of the ${time} LIST_USE with all that is supported`, outcome(used), [OK, QUALIFIER.OK]);
      }
      const sriov = await b.admin.command({ opcode: ADMIN.LIST_QUERY, group: GROUP.SRIOV });
      s.checkThat(
        'admin.25',
        'status and qualifier of LIST_QUERY of the SR-IOV group',
        sriov.status === OK || (sriov.status === EINVAL && sriov.qualifier === QUALIFIER.INVALID_GROUP),
        'OK, or EINVAL and INVALID_GROUP',
        outcome(sriov),
      );
      const later = s.found(await b.admin.supported(), 'LIST_QUERY after LIST_USE was refused');
      s.check(
        'admin.19',
        'opcodes missing from a later list',
        [...before].filter((opcode) => !later.has(opcode)),
        [],
      );
      await b.start();
      const reset = s.found(await b.admin.supported(), 'LIST_QUERY after a reset was refused');
      s.check(
        'admin.21',
        'opcodes missing after a reset',
        [...before].filter((opcode) => !reset.has(opcode)),
        [],
      );
      const again = outcome(await b.admin.use(before));
      s.check('admin.22', 'status and qualifier of the same LIST_USE after a reset', again, [OK, QUALIFIER.OK]);
      s.check('admin.23', 'status and qualifier of the same LIST_USE after a reset', again, [OK, QUALIFIER.OK]);
    },
  },
  {
    name: 'admin/order-of-checks',
    clauses: ['admin.1', 'admin.2', 'admin.3', 'admin.4', 'admin.6', 'admin.D5'],
    over: [['ADMIN_VQ']],
    async run(b, s) {
      await b.start();
      const all = await b.admin.open();
      const group = await b.admin.command({ opcode: NO_OPCODE, group: NO_GROUP, member: 9 });
      s.check('admin.1', 'status for a group there is not', group.status, EINVAL);
      s.check('admin.2', 'qualifier for a group there is not, with a bad opcode and member', group.qualifier, QUALIFIER.INVALID_GROUP);
      const opcode = await b.admin.command({ opcode: NO_OPCODE, member: 9 });
      s.check('admin.1', 'status for an opcode there is not', opcode.status, EINVAL);
      s.check('admin.3', 'qualifier for an opcode there is not, with a bad member', opcode.qualifier, QUALIFIER.INVALID_OPCODE);
      s.check(
        'admin.D5',
        'qualifiers for bad group, opcode and member, and for bad opcode and member',
        [group.qualifier, opcode.qualifier],
        [QUALIFIER.INVALID_GROUP, QUALIFIER.INVALID_OPCODE],
      );
      s.check('admin.3', 'outcome for an opcode of the reserved half', outcome(await b.admin.command({ opcode: 0x8001 })), REFUSED_OPCODE);
      for (const reply of [group, opcode]) s.checkThat('admin.6', 'status of a command that failed', reply.status !== OK, 'not 0', reply.status);
      if (!all.has(ADMIN.CREATE)) s.skip('the self group has no command that uses its member identifier');
      const member = await b.admin.create(0x200, 0, [1, 0], { member: 9 });
      s.check('admin.1', 'status for a member of the self group there is not', member.status, EINVAL);
      s.check('admin.4', 'qualifier for a member of the self group there is not', member.qualifier, QUALIFIER.INVALID_MEMBER);
    },
  },
  {
    name: 'admin/commands-in-use',
    clauses: ['admin.11', 'admin.12', 'admin.15', 'admin.16', 'admin.17', 'admin.18', 'admin.32'],
    over: [['ADMIN_VQ']],
    async run(b, s) {
      await b.start();
      const { all, opcode } = await harmless(b, s);
      for (const other of [...all].filter((one) => !LISTS.includes(one)))
        s.check('admin.15', `outcome of opcode ${other} before LIST_USE`, outcome(await b.admin.command({ opcode: other })), REFUSED_OPCODE);
      // virtio 1.4 2.12.1 (device MAY): it can insist on commands that belong together.
      const few = await b.admin.use([...LISTS, opcode]);
      s.checkThat('admin.11', 'status of LIST_USE with part of the list', few.status === OK || few.status === EINVAL, 'OK or EINVAL', few.status);
      s.checkThat(
        'admin.12',
        'outcome of LIST_USE with part of the list',
        few.status === OK || few.qualifier === QUALIFIER.INVALID_FIELD,
        'OK, or the qualifier INVALID_FIELD',
        outcome(few),
      );
      if (few.status !== OK) s.skip('the device takes no list of its self group but the whole');
      s.check('admin.16', 'status of the command that is in use now', (await b.admin.command({ opcode })).status, OK);
      for (const other of [...all].filter((one) => !LISTS.includes(one) && one !== opcode)) {
        const refused = outcome(await b.admin.command({ opcode: other }));
        s.check('admin.17', `outcome of opcode ${other}, which is not in use`, refused, REFUSED_OPCODE);
        s.check('admin.18', `outcome of opcode ${other}, which is not in use`, refused, REFUSED_OPCODE);
      }
      s.ensure((await b.admin.use(LISTS)).status === OK, 'LIST_USE with opcodes 0 and 1 was refused');
      s.check('admin.16', 'outcome of the command that is no longer in use', outcome(await b.admin.command({ opcode })), REFUSED_OPCODE);
      s.ensure((await b.admin.use([opcode])).status === OK, 'LIST_USE without opcodes 0 and 1 was refused');
      s.check('admin.32', 'outcome of LIST_QUERY once locked out', outcome(await b.admin.command({ opcode: ADMIN.LIST_QUERY })), REFUSED_OPCODE);
      s.check('admin.32', 'outcome of LIST_USE once locked out', outcome(await b.admin.use(all)), REFUSED_OPCODE);
      s.check('admin.32', 'status of the command that is in use', (await b.admin.command({ opcode })).status, OK);
    },
  },
  {
    name: 'admin/refused-without-a-trace',
    clauses: ['admin.7', 'admin.8', 'admin.9', 'admin.10'],
    over: [['ADMIN_VQ']],
    async run(b, s) {
      await b.start();
      const { all, opcode } = await harmless(b, s);
      s.ensure((await b.admin.use([...LISTS, opcode])).status === OK, 'LIST_USE was refused');
      const before = await b.admin.command({ opcode });
      const unknown = [...Array(64).keys()].find((one) => !all.has(one)) as number;
      const bad = [
        await b.admin.command({ opcode: ADMIN.LIST_USE, group: NO_GROUP, data: [3, 0, 0, 0, 0, 0, 0, 0] }),
        await b.admin.command({ opcode: NO_OPCODE }),
        await b.admin.use([...all, unknown]),
      ];
      for (const reply of bad) s.ensure(reply.status !== OK, 'a bad command was accepted', outcome(reply));
      const after = await b.admin.command({ opcode });
      s.check('admin.7', 'status of a command in use after three refused commands', after.status, OK);
      s.check('admin.8', 'what it tells', after.result, before.result);
      for (const other of [...all].filter((one) => !LISTS.includes(one) && one !== opcode))
        s.check('admin.10', `outcome of opcode ${other}, still not in use`, outcome(await b.admin.command({ opcode: other })), REFUSED_OPCODE);
      s.check('admin.9', 'DEVICE_NEEDS_RESET', (await b.get('device_status')) & STATUS.NEEDS_RESET, 0);
      s.check('admin.9', 'a frame sent', await b.net.transmit(plainFrame(1)), [plainFrame(1)]);
    },
  },
  {
    name: 'admin/buffers',
    clauses: ['admin.35', 'admin.36', 'admin.37', 'admin.38', 'admin.39', 'admin.40', 'admin.41', 'admin.42', 'admin.46', 'admin.50', 'admin.D4'],
    over: [['ADMIN_VQ']],
    async run(b, s) {
      await b.start();
      const opcode = ADMIN.LIST_QUERY;
      const plain = await b.admin.command({ opcode });
      const written = plain.length;
      s.check('admin.41', 'used length modulo 8', written % 8, 0);
      s.checkThat(
        'admin.42',
        'status and qualifier',
        get16le(plain.bytes, 0) !== 0x5a5a && get16le(plain.bytes, 2) !== 0x5a5a,
        'written',
        plain.bytes.slice(0, 4),
      );
      s.check(
        'admin.38',
        'bytes behind the used length of a long buffer',
        plain.bytes.slice(written),
        new Uint8Array(Math.max(0, plain.bytes.length - written)).fill(ADMIN_FILLER),
      );
      s.checkThat('admin.38', 'used length in a buffer of 264 bytes', written < 264, 'that of the structure', written);
      s.check('admin.D4', 'reserved bytes of the reply', plain.bytes.slice(4, 8), new Uint8Array(4));
      s.check(
        'admin.39',
        'bytes of the list not written',
        plain.result.every((byte) => byte === ADMIN_FILLER),
        false,
      );
      const junk = await b.admin.command({ opcode, junk: true, member: 77 });
      s.check('admin.D4', 'status with reserved bytes and an unused member identifier set', junk.status, OK);

      const short = await b.admin.command({ opcode, readable: 8 });
      s.check('admin.35', 'status with 8 readable bytes', short.status, OK);
      s.check('admin.40', 'status with 8 readable bytes', short.status, OK);
      const bare = await b.admin.command({ opcode, writable: ADMIN_REPLY_HEAD });
      s.check('admin.36', 'status and used length with 8 writable bytes', [bare.status, bare.length], [OK, 8]);
      s.check('admin.50', 'status without command-specific parts', bare.status, OK);
      s.check('admin.42', 'status and qualifier in 8 writable bytes', outcome(bare), [OK, QUALIFIER.OK]);
      const exact = await b.admin.command({ opcode, writable: written });
      s.check('admin.39', 'used length in a buffer of the structure', exact.length, written);
      s.check('admin.36', 'the list in a buffer of the structure', exact.result, plain.result);
      const long = await b.admin.command({ opcode, data: new Array<number>(64).fill(0xff) });
      s.check('admin.37', 'status and list with 64 readable bytes too many', [long.status, long.result], [OK, plain.result]);
      s.check('admin.46', 'status with 64 readable bytes too many', long.status, OK);
      s.check('admin.40', 'status with 64 readable bytes too many', long.status, OK);
      // A list that is not there is a list of zeros: no command is in use any more.
      s.check('admin.40', 'status of LIST_USE without a list', (await b.admin.command({ opcode: ADMIN.LIST_USE })).status, OK);
      s.check('admin.35', 'outcome of LIST_QUERY after LIST_USE without a list', outcome(await b.admin.command({ opcode })), REFUSED_OPCODE);
    },
  },
];
