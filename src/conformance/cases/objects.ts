// Capabilities and resource objects (virtio 1.4 2.12.1.3, 2.12.1.4), with the flow filter's as those a network device has.

import { ADMIN, ADMIN_STATUS, capHead, GROUP } from '../admin-bench.ts';
import type { Bench } from '../bench.ts';
import { le16 } from '../bytes.ts';
import type { Case } from '../case.ts';
import type { Session } from '../session.ts';
import {
  BY_SOURCE,
  CAP_COMMANDS,
  classifierBytes,
  FF_ACTION,
  FF_CAP,
  FF_OBJECT,
  type Limits,
  limitBytes,
  make,
  openFlowFilter,
  parseLimits,
  parseSelectors,
  ruleBytes,
  sourceKey,
} from './flow-filter-bench.ts';

const { OK, ENXIO, EBUSY, EEXIST, EINVAL, ENOSPC } = ADMIN_STATUS;
const { GROUP: GROUPS, CLASSIFIER, RULE } = FF_OBJECT;
const KINDS = ['groups', 'classifiers', 'rules', 'rulesPerGroup', 'lastPriority', 'selectors'] as const;
const NONE: Limits = { groups: 0, classifiers: 0, rules: 0, rulesPerGroup: 0, lastPriority: 0, selectors: 0 };

async function openCapabilities(b: Bench, s: Session): Promise<ReadonlySet<number>> {
  const all = s.found(await b.admin.supported(), 'LIST_QUERY of the self group was refused');
  if (!CAP_COMMANDS.some((opcode) => all.has(opcode))) s.skip('the device has no capabilities');
  await b.admin.open();
  return all;
}

const priorityOf = async (b: Bench, id: number): Promise<readonly number[]> => [...(await b.admin.query(GROUPS, id)).result.slice(0, 2)];

export const OBJECT_CASES: readonly Case[] = [
  {
    name: 'caps/ids',
    clauses: ['caps.1', 'caps.8', 'caps.D1'],
    over: [['ADMIN_VQ']],
    async run(b, s) {
      await b.start();
      const all = await openCapabilities(b, s);
      s.check(
        'caps.1',
        'capability commands',
        CAP_COMMANDS.filter((opcode) => all.has(opcode)),
        CAP_COMMANDS,
      );
      const ids = await b.admin.capabilities();
      s.check(
        'caps.D1',
        'ids in the reserved range',
        [...ids].filter((id) => id >= 0x1000),
        [],
      );
      for (const id of ids)
        s.check('caps.1', `status of DEVICE_CAP_GET of capability ${id}`, (await b.admin.command({ opcode: ADMIN.CAP_GET, data: capHead(id) })).status, OK);
      const unlisted = [1, 0x7ff, 0xfff, 0x2000].filter((id) => !ids.has(id));
      for (const id of unlisted) {
        s.check('caps.8', `status of DEVICE_CAP_GET of capability ${id}`, (await b.admin.command({ opcode: ADMIN.CAP_GET, data: capHead(id) })).status, ENXIO);
        s.check('caps.8', `status of DRIVER_CAP_SET of capability ${id}`, (await b.admin.setCapability(id, [0, 0, 0, 0, 0, 0, 0, 0])).status, ENXIO);
      }
    },
  },
  {
    name: 'caps/self-group-only',
    clauses: ['caps.5', 'caps.6'],
    over: [['ADMIN_VQ']],
    async run(b, s) {
      await b.start();
      await openCapabilities(b, s);
      const sriov = await b.admin.supported(GROUP.SRIOV);
      if (sriov !== undefined) await b.admin.use(sriov, GROUP.SRIOV);
      for (const opcode of CAP_COMMANDS) {
        const { status } = await b.admin.command({ opcode, group: GROUP.SRIOV, member: 1, data: capHead(FF_CAP.RESOURCE) });
        s.check('caps.5', `status of opcode ${opcode} for the SR-IOV group`, status, EINVAL);
        s.check('caps.6', `status of opcode ${opcode} for the SR-IOV group`, status, EINVAL);
      }
    },
  },
  {
    name: 'caps/limits',
    clauses: ['caps.2', 'caps.3', 'caps.4', 'caps.9', 'caps.10'],
    over: [['ADMIN_VQ']],
    async run(b, s) {
      await b.start();
      await b.admin.open(CAP_COMMANDS);
      if (!(await b.admin.capabilities()).has(FF_CAP.RESOURCE)) s.skip('the device has no capability with limits');
      const unset = await b.admin.create(GROUPS, 0, le16(1));
      s.checkThat('caps.10', 'status of creating an object whose limit was not set', unset.status !== OK, 'not 0', unset.status);
      const device = parseLimits(await b.admin.capability(FF_CAP.RESOURCE));
      const setting = async (limits: Limits): Promise<number> => (await b.admin.setCapability(FF_CAP.RESOURCE, limitBytes(limits))).status;
      s.check('caps.2', "status of setting the device's limits", await setting(device), OK);
      for (const kind of KINDS) {
        s.check('caps.2', `status with ${kind} one less`, await setting({ ...device, [kind]: device[kind] - 1 }), OK);
        s.check('caps.2', `status with ${kind} 0`, await setting({ ...device, [kind]: 0 }), OK);
      }
      const over = await setting({ ...device, groups: device.groups + 1 });
      s.checkThat('caps.4', 'status with one group more than there can be', over === OK || over === EINVAL, 'OK or EINVAL', over);
      const selectors = parseSelectors(await b.admin.capability(FF_CAP.SELECTOR));
      const plain = selectors.map(({ type, mask }) => ({ type, mask }));
      for (const [what, value] of [
        ['all selectors and flags', classifierBytes(...selectors)],
        ['no flags', classifierBytes(...plain)],
        ['the first selector', classifierBytes(...selectors.slice(0, 1))],
        ['no selectors', classifierBytes()],
      ] as const)
        s.check('caps.3', `status of DRIVER_CAP_SET with ${what}`, (await b.admin.setCapability(FF_CAP.SELECTOR, value)).status, OK);

      await openFlowFilter(b, s);
      s.ensure((await b.admin.create(GROUPS, 0, le16(1))).status === OK, 'creating a group was refused');
      await b.start();
      await b.admin.open();
      const after = await b.admin.create(GROUPS, 0, le16(1));
      s.checkThat('caps.9', 'status of creating an object after a reset, no limit being set', after.status !== OK, 'not 0', after.status);
    },
  },
  {
    name: 'caps/busy',
    clauses: ['caps.7'],
    over: [['ADMIN_VQ']],
    async run(b, s) {
      await b.start();
      const limits = await openFlowFilter(b, s);
      await make(b, s, GROUPS, 0, le16(1));
      s.check('caps.7', 'status of setting all limits to 0 with a group', (await b.admin.setCapability(FF_CAP.RESOURCE, limitBytes(NONE))).status, EBUSY);
      s.ensure((await b.admin.destroy(GROUPS, 0)).status === OK, 'destroying the group was refused');
      s.ensure((await b.admin.setCapability(FF_CAP.RESOURCE, limitBytes(limits))).status === OK, 'setting limits without a group was refused');
    },
  },
  {
    name: 'objs/life',
    clauses: ['objs.1', 'objs.2', 'objs.5', 'objs.6', 'objs.10', 'objs.11', 'objs.12'],
    over: [['ADMIN_VQ']],
    async run(b, s) {
      await b.start();
      const { groups } = await openFlowFilter(b, s);
      if (groups < 4) s.skip(`the device has ${groups} flow filter groups`);
      const ids = [groups - 1, 0, 2];
      for (const [i, id] of ids.entries()) s.check('objs.6', `status of creating group ${id}`, (await b.admin.create(GROUPS, id, le16(10 + i))).status, OK);
      s.check('objs.1', 'status of creating group 0 again', (await b.admin.create(GROUPS, 0, le16(99))).status, EEXIST);
      for (const [i, id] of ids.entries()) s.check('objs.11', `priority of group ${id} as it was created`, await priorityOf(b, id), le16(10 + i));
      s.ensure((await b.admin.modify(GROUPS, 2, le16(0x1234))).status === OK, 'modifying a group was refused');
      s.check('objs.11', 'priority of group 2 as it was modified', await priorityOf(b, 2), le16(0x1234));
      const clash = await b.admin.modify(GROUPS, 2, le16(11));
      s.ensure(clash.status !== OK, "giving a group another one's priority was accepted");
      s.check('objs.10', 'priority of group 2 after a modification that failed', await priorityOf(b, 2), le16(0x1234));
      s.ensure((await b.admin.destroy(GROUPS, 0)).status === OK, 'destroying a group was refused');
      s.check('objs.2', 'status of querying a group that was destroyed', (await b.admin.query(GROUPS, 0)).status, ENXIO);
      s.check('objs.2', 'status of modifying it', (await b.admin.modify(GROUPS, 0, le16(77))).status, ENXIO);
      s.check('objs.2', 'status of destroying it', (await b.admin.destroy(GROUPS, 0)).status, ENXIO);
      s.check('objs.5', 'status of creating it again', (await b.admin.create(GROUPS, 0, le16(11))).status, OK);
      await b.start();
      await openFlowFilter(b, s);
      for (const id of ids) s.check('objs.12', `status of querying group ${id} after a reset`, (await b.admin.query(GROUPS, id)).status, ENXIO);
    },
  },
  {
    name: 'objs/limits',
    clauses: ['objs.3', 'objs.7', 'objs.8', 'objs.9', 'objs.D1', 'net-ff.5', 'net-ff.6'],
    over: [['ADMIN_VQ']],
    async run(b, s) {
      await b.start();
      const few = 3;
      const device = await openFlowFilter(b, s);
      if (device.groups < few || device.classifiers < few) s.skip('the device has fewer than 3 groups or classifiers');
      const limits = { ...device, groups: few, classifiers: few };
      s.ensure((await b.admin.setCapability(FF_CAP.RESOURCE, limitBytes(limits))).status === OK, 'setting smaller limits was refused');
      const classifier = classifierBytes(BY_SOURCE);
      for (let id = 0; id < few; id++) {
        const made = await b.admin.create(GROUPS, id, le16(id));
        s.check('objs.9', `status of creating group ${id} of ${few}`, made.status, OK);
        // virtio 1.4 2.12.1.4 (device MAY): something inside it may be used up before that.
        for (const key of ['objs.7', 'objs.8'])
          s.checkThat(key, `status of creating group ${id} of ${few}`, made.status === OK || made.status === ENOSPC, 'OK or ENOSPC', made.status);
        s.check('objs.9', `status of creating classifier ${id} of ${few}`, (await b.admin.create(CLASSIFIER, id, classifier)).status, OK);
      }
      for (const id of [few, 0xffff_fff0]) {
        const group = await b.admin.create(GROUPS, id, le16(50));
        s.checkThat('objs.D1', `status of creating group ${id} where the limit is ${few}`, group.status !== OK, 'not 0', group.status);
        s.check('objs.3', `status of creating group ${id}, all ${few} being there`, group.status, ENOSPC);
        s.check('net-ff.5', `status of creating group ${id}, all ${few} being there`, group.status, ENOSPC);
        const mask = await b.admin.create(CLASSIFIER, id, classifier);
        s.checkThat('objs.D1', `status of creating classifier ${id} where the limit is ${few}`, mask.status !== OK, 'not 0', mask.status);
        s.check('net-ff.6', `status of creating classifier ${id}, all ${few} being there`, mask.status, ENOSPC);
      }
    },
  },
  {
    name: 'objs/dependencies',
    clauses: ['objs.4', 'net-ff.7', 'net-ff.8'],
    over: [['ADMIN_VQ']],
    async run(b, s) {
      await b.start();
      await openFlowFilter(b, s);
      await make(b, s, GROUPS, 0, le16(1));
      await make(b, s, CLASSIFIER, 0, classifierBytes(BY_SOURCE));
      await make(b, s, RULE, 0, ruleBytes({ group: 0, classifier: 0, key: sourceKey(1), action: FF_ACTION.DROP }));
      s.check('objs.4', 'status of modifying a classifier that a rule needs', (await b.admin.modify(CLASSIFIER, 0, classifierBytes(BY_SOURCE))).status, EBUSY);
      s.check('net-ff.7', 'status of destroying a group with a rule', (await b.admin.destroy(GROUPS, 0)).status, EBUSY);
      s.check('net-ff.8', 'status of destroying a classifier that a rule needs', (await b.admin.destroy(CLASSIFIER, 0)).status, EBUSY);
      s.check('objs.4', 'status of destroying a classifier that a rule needs', (await b.admin.destroy(CLASSIFIER, 0)).status, EBUSY);
      s.ensure((await b.admin.destroy(RULE, 0)).status === OK, 'destroying the rule was refused');
      for (const type of [GROUPS, CLASSIFIER]) s.check('objs.4', 'status of destroying it once the rule is gone', (await b.admin.destroy(type, 0)).status, OK);
    },
  },
  {
    name: 'admin/queue-order',
    clauses: ['admin.43'],
    over: [['ADMIN_VQ']],
    async run(b, s) {
      await b.start();
      await openFlowFilter(b, s);
      const id = [...le16(GROUPS), 0, 0, 0, 0, 0, 0];
      const create = { opcode: ADMIN.CREATE, data: [...id, 0, 0, 0, 0, 0, 0, 0, 0, ...le16(5)], result: 0 };
      const destroy = { opcode: ADMIN.DESTROY, data: id, result: 0 };
      const added = [];
      for (const command of [destroy, create, create, destroy, create, destroy, destroy]) added.push(await b.admin.add(command));
      const { index, ring } = b.queue(await b.admin.index());
      await b.kick(index);
      const used = new Map((await ring.used()).map(({ token, length }) => [token, length]));
      const statuses: number[] = [];
      for (const { token, reply } of added) statuses.push((await b.admin.read(reply, used.get(token) ?? 0)).status);
      s.check('admin.43', 'statuses of destroy, create, create, destroy, create, destroy, destroy, made available at once', statuses, [
        ENXIO,
        OK,
        EEXIST,
        OK,
        OK,
        OK,
        ENXIO,
      ]);
    },
  },
];
