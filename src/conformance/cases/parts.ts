// Device parts of virtual functions, and what a stopped one does (virtio 1.4 2.12.1.5, 2.15).

import { ADMIN_STATUS, GROUP, outcome } from '../admin-bench.ts';
import type { Bench } from '../bench.ts';
import { get32le, le16, le32 } from '../bytes.ts';
import type { Case } from '../case.ts';
import { FEATURE, type FeatureName } from '../features.ts';
import { COMMON, CTRL, PCI, STATUS } from '../layout.ts';
import type { Session } from '../session.ts';
import { SriovBench } from '../sriov-bench.ts';
import { plainFrame } from './frames.ts';
import { type DevicePart, METADATA, PART, PART_HEAD, PARTS_COMMANDS, PartsBench, parseParts } from './parts-bench.ts';

const { OK, ENOMEM } = ADMIN_STATUS;
/** In the order the specification lists them. */
const ORDER: readonly number[] = [PART.DEV_FEATURES, PART.DRV_FEATURES, PART.COMMON_CFG, PART.STATUS, PART.VQ_CFG, PART.VQ_NOTIFY];
const ABSENT: DevicePart = { type: 0x1fe, flags: 0, reserved: 0, selector: [0, 0, 0, 0, 0, 0, 0, 0], value: [] };
const EXPRESS_ID = 0x10;
const FLR = 0x8000;
const FLR_TIME = 1e8;

const headOf = ({ type, selector }: DevicePart): string => `${type.toString(16)}/${selector.join('.')}`;
const typesOf = (parts: readonly DevicePart[]): number[] => parts.map(({ type }) => type);
const indexOf = (part: DevicePart): number => (part.selector[0] ?? 0) | ((part.selector[1] ?? 0) << 8);

/** A VF in operation, and the objects for its parts. */
async function operating(b: Bench, s: Session, features: readonly FeatureName[] = []): Promise<{ readonly parts: PartsBench; readonly vf: Bench }> {
  const parts = await PartsBench.open(b, s);
  const vf = await parts.sriov.member(1);
  await vf.start({ features });
  s.ensure((await vf.net.transmit(plainFrame(1))).length === 1, 'the VF did not send a frame');
  return { parts, vf };
}

const of = (test: Pick<Case, 'name' | 'clauses' | 'reading'> & { readonly run: (b: Bench, s: Session) => Promise<void> }): Case => ({
  ...test,
  model: 'sr-iov',
  over: [['ADMIN_VQ', 'SR_IOV']],
});

/** A 16-bit field of the common configuration as a part. */
const common = (field: 'num_queues' | 'queue_select', value: number): DevicePart => ({
  type: PART.COMMON_CFG,
  flags: 0,
  reserved: 0,
  selector: [...le32(COMMON[field][0]), 0, 0, 0, 0],
  value: le16(value),
});

export const PARTS_CASES: readonly Case[] = [
  of({
    name: 'parts/package',
    clauses: ['parts.1'],
    async run(b, s) {
      const sriov = await SriovBench.need(b);
      await b.start();
      await sriov.enable();
      const all = (await b.admin.supported(GROUP.SRIOV)) ?? s.skip('the device has no SR-IOV group');
      const has = PARTS_COMMANDS.filter((opcode) => all.has(opcode));
      if (has.length === 0) s.skip('the device has no device parts');
      s.check('parts.1', 'of the eight commands, those it has', has, PARTS_COMMANDS);
    },
  }),
  of({
    name: 'parts/metadata',
    clauses: ['parts.D1', 'parts.D2', 'parts.D9', 'admin.45'],
    reading: 'the one command that may fail for want of room: METADATA_GET, although 2.13.1 has no command fail over the length of a buffer',
    async run(b, s) {
      const { parts } = await operating(b, s);
      const size = get32le((await parts.metadata(METADATA.SIZE)).result, 0);
      const count = get32le((await parts.metadata(METADATA.COUNT)).result, 0);
      const list = await parts.metadata(METADATA.LIST);
      s.ensure(list.status === OK, 'the list of headers was refused', outcome(list));
      const heads = parseParts(list.result.subarray(8), false);
      s.check('parts.D2', 'count in the list, and headers in it', [get32le(list.result, 0), heads.length], [count, count]);
      const got = await parts.all();
      s.check('parts.D2', 'parts that PARTS_GET brings', got.map(headOf), heads.map(headOf));
      const bytes = got.reduce((sum, { value }) => sum + PART_HEAD + value.length, 0);
      s.checkThat('parts.D2', 'size of all parts', size >= bytes, `at least ${bytes}`, size);
      for (const [i, { reserved, type, selector, value }] of got.entries()) {
        s.check('parts.D9', `reserved byte of part ${i}`, reserved, 0);
        const unused =
          type === PART.VQ_CFG || type === PART.VQ_NOTIFY || type === PART.CVQ ? selector.slice(2) : type === PART.COMMON_CFG ? selector.slice(4) : selector;
        s.check(
          'parts.D9',
          `unused bytes of the selector of part ${i}, 0x${type.toString(16)}`,
          unused,
          unused.map(() => 0),
        );
        s.check('parts.D9', `length of part ${i}, 0x${type.toString(16)}, in the list`, heads[i]?.value.length, value.length);
      }
      const cramped = await parts.metadata(METADATA.LIST, 16);
      s.check('parts.D1', 'status of a list in 16 bytes', cramped.status, ENOMEM);
      s.check('admin.45', 'parts after that', (await parts.all()).map(headOf), heads.map(headOf));
      s.check('admin.45', 'status of the same list with room', (await parts.metadata(METADATA.LIST)).status, OK);
    },
  }),
  of({
    name: 'parts/get',
    clauses: ['parts.2', 'parts.3', 'parts.24', 'parts.25', 'parts.26', 'parts.27', 'parts.28', 'parts.D3', 'parts.D7', 'parts.D8', 'parts.D10', 'parts.D11'],
    reading: 'DEV_CFG and DRV_CFG parts are defined nowhere: the device type has those of the control queue',
    async run(b, s) {
      const { parts, vf } = await operating(b, s, ['CTRL_VQ', 'CTRL_RX']);
      await vf.net.commanded(CTRL.RX, CTRL.ALLMULTI, [1]);
      const all = await parts.all();
      s.check('parts.2', 'what a second PARTS_GET brings', await parts.all(), all);
      const places = typesOf(all).filter((type) => ORDER.includes(type));
      const sorted = [...places].sort((one, other) => ORDER.indexOf(one) - ORDER.indexOf(other));
      s.check('parts.3', 'common parts in order', places, sorted);
      const first = (type: number): number => typesOf(all).indexOf(type);
      const before = (key: string, earlier: number, later: number): void => {
        s.checkThat(
          key,
          `place of part 0x${later.toString(16)}`,
          first(earlier) >= 0 && first(earlier) < first(later),
          `behind part 0x${earlier.toString(16)}`,
          first(later),
        );
      };
      before('parts.25', PART.DEV_FEATURES, PART.DRV_FEATURES);
      before('parts.26', PART.DEV_FEATURES, PART.COMMON_CFG);
      before('parts.27', PART.DRV_FEATURES, PART.COMMON_CFG);
      if (first(PART.CVQ) >= 0) for (const key of ['parts.D7', 'parts.28']) before(key, PART.DEV_FEATURES, PART.CVQ);
      before('parts.D8', PART.DRV_FEATURES, PART.STATUS);
      const features = all.filter(({ type }) => type === PART.DEV_FEATURES);
      s.check(
        'parts.D10',
        'parts DEV_FEATURES, and their flags',
        features.map(({ flags }) => flags),
        [1],
      );
      const queues = all.filter(({ type }) => type === PART.VQ_CFG).map(indexOf);
      s.check(
        'parts.D11',
        'queues with two parts VQ_CFG',
        queues.filter((index, i) => queues.indexOf(index) !== i),
        [],
      );
      const status = all.find(({ type }) => type === PART.STATUS);
      s.ensure(((status?.value[0] ?? 0) & STATUS.DRIVER_OK) !== 0, 'the part of device_status does not show DRIVER_OK', status?.value);
      s.ensure(vf.queues.size > 0, 'the VF has no queues');
      const wanted = all.filter(({ type }) => type === PART.DRV_FEATURES || type === PART.STATUS);
      const selected = await parts.getSelected([wanted[0] as DevicePart, ABSENT, ...wanted.slice(1)]);
      s.check('parts.D3', 'status, with a part there is not among those selected', selected.status, OK);
      // virtio 1.4 2.12.1.5.5 (device MUST): DEV_FEATURES stands before DRV_FEATURES, asked for or not.
      const brought = typesOf(parseParts(selected.result)).filter((type) => type !== PART.DEV_FEATURES);
      for (const key of ['parts.D3', 'parts.24']) s.check(key, 'parts it brings, besides DEV_FEATURES', brought, typesOf(wanted));
    },
  }),
  of({
    name: 'parts/control-queue',
    clauses: ['parts.D12'],
    async run(b, s) {
      const parts = await PartsBench.open(b, s);
      const vf = await parts.sriov.member(1);
      vf.needs('CTRL_VQ', 'CTRL_RX', 'CTRL_VLAN');
      await vf.start({ features: ['CTRL_VQ', 'CTRL_RX', 'CTRL_VLAN'] });
      await vf.net.commanded(CTRL.RX, CTRL.ALLMULTI, [1]);
      for (const vid of [5, 0x102]) await vf.net.commanded(CTRL.VLAN, CTRL.VLAN_ADD, le16(vid));
      const found = (await parts.all()).filter(({ type }) => type === PART.CVQ);
      if (found.length === 0) s.skip('the device has no parts of the control queue');
      const heads = found.map(headOf);
      s.check(
        'parts.D12',
        'class and command of two parts',
        heads.filter((head, i) => heads.indexOf(head) !== i),
        [],
      );
      const all = found.find(({ selector }) => selector[0] === CTRL.RX && selector[1] === CTRL.ALLMULTI);
      s.check('parts.D12', 'value of ALLMULTI', all?.value[0], 1);
      const vlans = found.find(({ selector }) => selector[0] === CTRL.VLAN && selector[1] === CTRL.VLAN_ADD);
      s.checkThat('parts.D12', 'bytes of the VLAN table of two', (vlans?.value.length ?? 0) >= 4, 'at least 4', vlans?.value.length);
    },
  }),
  of({
    name: 'parts/set',
    clauses: ['parts.4', 'parts.5', 'parts.6', 'parts.7', 'parts.29', 'parts.30', 'parts.D4', 'parts.D5', 'parts.D6'],
    async run(b, s) {
      const { parts, vf } = await operating(b, s);
      const all = await parts.all();
      const running = await parts.set(all);
      s.checkThat('parts.4', 'status of PARTS_SET while the VF runs', running.status !== OK, 'not 0', running.status);
      await parts.stop();
      const stopped = await parts.all();
      for (const time of ['once', 'twice']) s.check('parts.5', `status of setting all parts ${time}`, (await parts.set(stopped)).status, OK);
      const some = stopped.filter(({ type }) => type === PART.DRV_FEATURES);
      s.check('parts.5', 'status of setting one of them', (await parts.set(some)).status, OK);
      const refused = async (key: string, what: string, list: readonly DevicePart[]): Promise<void> => {
        const { status } = await parts.set(list);
        s.checkThat(key, `status of setting ${what}`, status !== OK, 'not 0', status);
        s.check('parts.D5', `parts after setting ${what}`, await parts.all(), stopped);
      };
      const status = stopped.find(({ type }) => type === PART.STATUS) as DevicePart;
      await refused('parts.6', 'device_status of 3 bytes', [{ ...status, value: [...status.value, 0, 0] }]);
      const offered = stopped.find(({ type }) => type === PART.DEV_FEATURES) as DevicePart;
      const others = { ...offered, value: offered.value.map((byte, i) => (i === 0 ? byte ^ 0x20 : byte)) };
      await parts.set([others]);
      s.check('parts.D6', 'parts after DEV_FEATURES, optional, of another device were set', await parts.all(), stopped);
      s.check(
        'parts.7',
        'DEV_FEATURES after those of another device were set',
        (await parts.all()).find(({ type }) => type === PART.DEV_FEATURES)?.value,
        offered.value,
      );
      s.check('parts.7', 'status of DEV_FEATURES as they are', (await parts.set([offered])).status, OK);
      const queues = await vf.get('num_queues');
      await parts.set([common('num_queues', queues + 2)]);
      for (const key of ['parts.29', 'parts.30']) s.check(key, 'num_queues after another number was set', await vf.get('num_queues'), queues);
      s.check('parts.29', 'status of num_queues as it is', (await parts.set([common('num_queues', queues)])).status, OK);

      // What is taken from one VF is given to another, which comes up with it.
      const target = new PartsBench(parts.sriov, 2);
      await target.create();
      const twin = await parts.sriov.member(2);
      await target.stop();
      s.ensure((await target.set(stopped)).status === OK, 'parts of VF 1 were refused by VF 2');
      await target.resume();
      s.check('parts.D4', 'device_status of the VF that was given the parts', await twin.get('device_status'), await vf.get('device_status'));
      for (const index of [0, 1])
        for (const field of ['queue_size', 'queue_enable', 'queue_desc_lo', 'queue_driver_lo', 'queue_device_lo'] as const)
          s.check('parts.D4', `${field} of its queue ${index}`, await twin.getQueue(index, field), await vf.getQueue(index, field));
      await twin.set('driver_feature_select', 1);
      s.check('parts.D4', 'its VERSION_1', (await twin.get('driver_feature')) & 1, vf.features.has(FEATURE.VERSION_1) ? 1 : 0);
    },
  }),
  of({
    name: 'parts/stopped',
    clauses: ['parts.8', 'parts.9', 'parts.10', 'parts.11', 'parts.13', 'parts.14', 'parts.16', 'parts.17', 'parts.21', 'parts.22'],
    async run(b, s) {
      const { parts, vf } = await operating(b, s);
      s.check('parts.22', 'status of resuming a VF that runs', (await parts.mode(false)).status, OK);
      await vf.net.transmitQueue().ring.used();
      await vf.messages();
      const { session } = vf;
      // Ids of a VF read as all ones at any time (PCIe 9.3.4.1.1).
      const kind = await session.configRead(PCI.REVISION, 4);
      // Made available a moment before: done and told by the time the command is, or not begun.
      await vf.net.addFrame(plainFrame(2));
      const queue = vf.net.transmitQueue();
      await queue.ring.expose();
      await vf.notify(queue);
      await parts.stop();
      const sent = (await session.sent()).length;
      const used = (await queue.ring.used()).length;
      for (const key of ['parts.9', 'parts.10']) s.check(key, `transmit buffers used, ${sent} frames having been sent`, used, sent);
      s.check('parts.10', `messages, ${sent} frames having been sent`, await vf.messages(), sent === 0 ? [] : [vf.vectorOf(1)]);
      s.check('parts.21', 'status of stopping it again', (await parts.mode(true)).status, OK);
      await vf.net.addFrame(plainFrame(3));
      await queue.ring.expose();
      await vf.notify(queue);
      await session.send(plainFrame(4));
      await session.target.settle();
      const frames = (await session.sent()).length;
      const taken = [(await queue.ring.used()).length, (await vf.net.receiveQueue().ring.used()).length];
      for (const key of ['parts.8', 'parts.16']) s.check(key, 'frames sent and buffers used while stopped', [frames, ...taken], [0, 0, 0]);
      s.check('parts.17', 'messages while stopped', await vf.messages(), []);
      s.check('parts.13', 'revision and class read while stopped', await session.configRead(PCI.REVISION, 4), kind);
      s.checkThat('parts.13', 'num_queues read while stopped', (await vf.get('num_queues')) >= 2, 'at least 2', await vf.get('num_queues'));
      const command = await session.configRead(PCI.COMMAND, 2);
      await session.configWrite(PCI.COMMAND, 2, command & ~4);
      s.check('parts.14', 'Bus Master Enable, cleared while stopped', (await session.configRead(PCI.COMMAND, 2)) & 4, 0);
      await session.configWrite(PCI.COMMAND, 2, command);
      s.check('parts.14', 'command register as it was written while stopped', await session.configRead(PCI.COMMAND, 2), command);
      await parts.resume();
      await session.target.settle();
      s.check('parts.11', 'frames sent in all of those notified for, once resumed', sent + (await session.sent()).length, 2);
    },
  }),
  of({
    name: 'parts/after-a-reset',
    clauses: ['parts.18', 'parts.19', 'parts.23'],
    async run(b, s) {
      const { parts, vf } = await operating(b, s);
      const fresh = async (key: string, what: string): Promise<void> => {
        const all = await parts.all();
        s.check(key, `device_status among the parts after ${what}`, all.find(({ type }) => type === PART.STATUS)?.value[0], 0);
        const driver = all.find(({ type }) => type === PART.DRV_FEATURES);
        s.check(
          key,
          `driver features among them`,
          (driver?.value ?? []).every((byte) => byte === 0),
          true,
        );
        const enabled = all.filter(({ type, value }) => type === PART.VQ_CFG && ((value[4] ?? 0) | (value[5] ?? 0)) !== 0);
        s.check(key, 'queues enabled among them', enabled.length, 0);
      };
      await vf.set('device_status', 0);
      s.check('parts.19', 'status of MODE_SET right after a reset of the VF', (await parts.mode(true)).status, OK);
      s.check('parts.19', 'device_status of the VF after that', await vf.get('device_status'), 0);
      await parts.resume();
      await fresh('parts.23', 'a reset');
      await vf.start();
      const { session } = vf;
      let at = (await session.configRead(PCI.CAPABILITIES, 1)) & 0xfc;
      for (let n = 0; n < 48 && at >= 0x40 && (await session.configRead(at, 1)) !== EXPRESS_ID; n++) at = (await session.configRead(at + 1, 1)) & 0xfc;
      if (at < 0x40) s.skip('the VF has no PCI Express capability');
      await session.configWrite(at + 8, 2, (await session.configRead(at + 8, 2)) | FLR);
      s.check('parts.18', 'status of MODE_SET right after a function level reset', (await parts.mode(true)).status, OK);
      await parts.resume();
      await session.target.advance(FLR_TIME);
      await session.target.settle();
      await fresh('parts.23', 'a function level reset');
      // Its configuration space is new, too.
      await vf.discover();
      s.check('parts.18', 'device_status of the VF after it', await vf.get('device_status'), 0);
    },
  }),
];
