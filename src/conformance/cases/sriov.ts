// Virtual functions (virtio 1.4 6, 2.12) and the group that they are.

import { ADMIN, ADMIN_STATUS, GROUP, outcome, QUALIFIER } from '../admin-bench.ts';
import type { Case } from '../case.ts';
import { FEATURE } from '../features.ts';
import { STATUS } from '../layout.ts';
import { SriovBench } from '../sriov-bench.ts';
import { plainFrame } from './frames.ts';

const { OK, EINVAL } = ADMIN_STATUS;
const NO_GROUP = [EINVAL, QUALIFIER.INVALID_GROUP];
const NO_MEMBER = [EINVAL, QUALIFIER.INVALID_MEMBER];

export const SRIOV_CASES: readonly Case[] = [
  {
    name: 'sriov/offered',
    clauses: ['sriov.5'],
    rings: 'any',
    model: 'sr-iov',
    async run(b, s) {
      if ((await SriovBench.find(b)) === undefined) s.skip('the device has no SR-IOV capability');
      s.check('sriov.5', 'SR_IOV offered beside an SR-IOV capability', b.offered.has(FEATURE.SR_IOV), true);
    },
  },
  {
    name: 'sriov/not-offered',
    clauses: ['sriov.6'],
    rings: 'any',
    async run(b, s) {
      if ((await SriovBench.find(b)) !== undefined) s.skip('the device has an SR-IOV capability');
      s.check('sriov.6', 'SR_IOV offered without an SR-IOV capability', b.offered.has(FEATURE.SR_IOV), false);
    },
  },
  {
    name: 'sriov/virtual-functions',
    clauses: ['sriov.1', 'sriov.4'],
    model: 'sr-iov',
    over: [['SR_IOV']],
    async run(b, s) {
      const sriov = await SriovBench.need(b);
      await b.start();
      for (const time of ['after the negotiation', 'again, after a reset without one']) {
        const key = time.startsWith('again') ? 'sriov.4' : 'sriov.1';
        await sriov.enable();
        for (const n of [1, 2]) {
          const vf = await sriov.member(n);
          s.checkThat(key, `structures of VF ${n}, enabled ${time}`, vf.structures.length >= 4, 'at least 4', vf.structures.length);
          if (vf.structures.length === 0) continue;
          await vf.start();
          s.check(key, `a frame sent by VF ${n}, enabled ${time}`, await vf.net.transmit(plainFrame(n)), [plainFrame(n)]);
          s.check(key, `a frame received by VF ${n}`, (await vf.net.inject(plainFrame(n + 8)))[0]?.bytes, plainFrame(n + 8));
        }
        await sriov.disable();
        await b.reset();
      }
    },
  },
  {
    name: 'sriov/no-group-without-capability',
    clauses: ['sriov.7'],
    over: [['ADMIN_VQ']],
    async run(b, s) {
      if ((await SriovBench.find(b)) !== undefined) s.skip('the device has an SR-IOV capability');
      await b.start();
      for (const opcode of [ADMIN.LIST_QUERY, ADMIN.LIST_USE, ADMIN.LEGACY_COMMON_READ, ADMIN.CREATE])
        s.check(
          'sriov.7',
          `outcome of opcode ${opcode} for the SR-IOV group`,
          outcome(await b.admin.command({ opcode, group: GROUP.SRIOV, member: 1 })),
          NO_GROUP,
        );
    },
  },
  {
    name: 'sriov/group',
    clauses: ['sriov.7', 'sriov.8', 'sriov.D1'],
    reading: 'a member identifier that a command does not use, as those of the lists, is not judged',
    model: 'sr-iov',
    over: [['ADMIN_VQ', 'SR_IOV']],
    async run(b, s) {
      const sriov = await SriovBench.need(b);
      await b.start();
      const list = async (): Promise<[number, number]> => outcome(await b.admin.command({ opcode: ADMIN.LIST_QUERY, group: GROUP.SRIOV }));
      for (const key of ['sriov.7', 'sriov.D1']) s.check(key, 'outcome of LIST_QUERY with VF Enable clear', await list(), NO_GROUP);
      await sriov.enable(1);
      const all = await sriov.open([]);
      s.check('sriov.D1', 'outcome of LIST_QUERY with VF Enable set', await list(), [OK, QUALIFIER.OK]);
      const opcode = [ADMIN.MODE_SET, ADMIN.LEGACY_COMMON_READ, ADMIN.CREATE].find((one) => all.has(one));
      if (opcode !== undefined)
        for (const member of [0, 2, 3, 0xffff_ffff]) {
          const reply = await sriov.command(member, { opcode, data: [0, 0, 0, 0, 0, 0, 0, 0], result: 1 });
          s.check('sriov.8', `outcome of opcode ${opcode} for member ${member} where NumVFs is 1`, outcome(reply), NO_MEMBER);
        }
      await sriov.disable();
      s.check('sriov.D1', 'outcome of LIST_QUERY with VF Enable clear again', await list(), NO_GROUP);
      if (opcode === undefined) s.skip('the group has no command that uses its member identifier');
    },
  },
  {
    name: 'sriov/groups-apart',
    clauses: ['admin.13'],
    model: 'sr-iov',
    over: [['ADMIN_VQ', 'SR_IOV']],
    async run(b, s) {
      const sriov = await SriovBench.need(b);
      await b.start();
      await sriov.enable();
      const group = (await b.admin.supported(GROUP.SRIOV)) ?? s.skip('the device has no SR-IOV group');
      const self = s.found(await b.admin.supported(), 'LIST_QUERY of the self group was refused');
      const other = [...group].find((opcode) => opcode > ADMIN.LIST_USE) ?? s.skip('the SR-IOV group has no commands but the lists');
      if (!self.has(ADMIN.CAP_ID_LIST)) s.skip('the self group has no command that changes nothing');
      s.ensure((await b.admin.use(group, GROUP.SRIOV)).status === OK, 'LIST_USE for the SR-IOV group was refused');
      const refused = [EINVAL, QUALIFIER.INVALID_OPCODE];
      s.check(
        'admin.13',
        'a command of the self group, only those of the other one being in use',
        outcome(await b.admin.command({ opcode: ADMIN.CAP_ID_LIST })),
        refused,
      );
      s.ensure((await b.admin.use(self)).status === OK, 'LIST_USE for the self group was refused');
      s.ensure((await b.admin.use([0, 1], GROUP.SRIOV)).status === OK, 'LIST_USE of the lists alone was refused');
      s.check(
        'admin.13',
        'status of a command of the self group, those of the other one being given up',
        (await b.admin.command({ opcode: ADMIN.CAP_ID_LIST })).status,
        OK,
      );
      s.check('admin.13', 'a command of the SR-IOV group, those of the self group being in use', outcome(await sriov.command(1, { opcode: other })), refused);
      s.ensure(((await b.get('device_status')) & STATUS.NEEDS_RESET) === 0, 'the device needs a reset');
    },
  },
];
