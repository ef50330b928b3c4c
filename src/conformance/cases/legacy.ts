// Transitional devices (virtio 1.4 1.3.1, 4.1.4.10, and the legacy notes of all chapters), by their legacy interface. The suite is a guest of little-endian byte order.

import type { Bench } from '../bench.ts';
import { le16, le32 } from '../bytes.ts';
import type { Case } from '../case.ts';
import { ACK_OK, CTRL, HDR, PCI, STATUS } from '../layout.ts';
import { LegacyBench } from '../legacy-bench.ts';
import type { Session } from '../session.ts';
import { checksumHolds, MULTICAST, plainFrame, pseudoSum, put16, STRANGER, taggedFrame, udpFrame } from './frames.ts';

const UDP = 17;
const IO_SPACE = 1;
const NETWORK = 1;

async function legacy(b: Bench, s: Session): Promise<LegacyBench> {
  const bench = new LegacyBench(s, b.variant);
  await bench.open();
  return bench;
}

const bit = (word: number, at: number): number => (word >>> at) & 1;

/** A case of a transitional device, whose rings are split. */
const of = (test: Omit<Case, 'rings' | 'model' | 'run'> & { readonly run: (l: LegacyBench, s: Session, b: Bench) => Promise<void> }): Case => ({
  ...test,
  rings: 'any',
  model: 'transitional',
  run: async (b, s) => test.run(await legacy(b, s), s, b),
});

/** Whether a frame to this address is heard. */
async function hears(l: LegacyBench, number: number, destination: readonly number[], vid?: number): Promise<boolean> {
  const frame = vid === undefined ? plainFrame(number, destination) : taggedFrame(number, vid, destination);
  return (await l.net.inject(frame)).length === 1;
}

export const LEGACY_CASES: readonly Case[] = [
  {
    name: 'legacy/identity',
    clauses: ['legacy.37', 'legacy.38', 'legacy.39', 'legacy.40', 'legacy.49'],
    rings: 'any',
    model: 'transitional',
    async run(_b, s) {
      const device = await s.configRead(PCI.DEVICE_ID, 2);
      const revision = await s.configRead(PCI.REVISION, 1);
      const range = device >= 0x1000 && device <= 0x103f;
      if (!range && revision !== 0) s.skip('the device is not transitional');
      s.checkThat('legacy.39', 'device id', range, '0x1000 to 0x103f', device);
      s.check('legacy.37', 'revision id', revision, 0);
      s.check('legacy.38', 'subsystem id', await s.configRead(PCI.SUBSYSTEM_ID, 2), NETWORK);
      const bar = await s.configRead(PCI.BAR0, 4);
      for (const key of ['legacy.40', 'legacy.49']) s.check(key, 'BAR 0: I/O space', bar & 3, IO_SPACE);
    },
  },
  of({
    name: 'legacy/registers',
    clauses: ['legacy.D1', 'legacy.D2', 'legacy.13', 'legacy.15'],
    async run(l, s) {
      await l.reset();
      const features = await l.read('device_features');
      s.checkThat('legacy.D1', 'device features', features !== 0 && features !== 0xffff_ffff, 'some, not all', features);
      s.check('legacy.13', 'ANY_LAYOUT, bit 27', bit(features, 27), 1);
      await l.write('device_status', STATUS.ACKNOWLEDGE | STATUS.DRIVER);
      s.check('legacy.D1', 'device_status as it was written', await l.read('device_status'), STATUS.ACKNOWLEDGE | STATUS.DRIVER);
      await l.write('driver_features', 0xffff_ffff);
      const kept = bit(features, 30) & bit(await l.read('driver_features'), 30);
      s.check('legacy.15', 'bit 30 offered, and kept when all bits are written', kept, 0);
      // Bit 30 asks QEMU whether the driver takes whatever it is offered.
      const sound = (features & ~(1 << 30)) >>> 0;
      await l.write('driver_features', sound);
      s.check('legacy.D1', 'driver features as they were written', await l.read('driver_features'), sound);
      await l.write('queue_select', 1);
      s.check('legacy.D1', 'queue_select as it was written', await l.read('queue_select'), 1);
      const size = await l.read('queue_size');
      s.checkThat('legacy.D1', 'size of queue 1', size > 0 && size <= 32768 && (size & (size - 1)) === 0, 'a power of 2', size);
      await l.write('queue_size', size >>> 1);
      s.check('legacy.D2', 'queue_size after a smaller one was written', await l.read('queue_size'), size);
      await l.write('queue_address', 0x321);
      s.check('legacy.D2', 'queue_address as it was written', await l.read('queue_address'), 0x321);
      await l.write('queue_select', 0);
      s.check('legacy.D2', 'queue_address of another queue', await l.read('queue_address'), 0);
      await l.reset();
      await l.write('queue_select', 1);
      s.check('legacy.D2', 'queue_address of queue 1 after a reset', await l.read('queue_address'), 0);
      await l.start();
      await l.net.transmit(plainFrame(1));
      s.check('legacy.D1', 'bit 0 of the ISR after a frame was sent', (await l.read('isr')) & 1, 1);
      s.check('legacy.D1', 'the ISR once read', await l.read('isr'), 0);
    },
  }),
  of({
    name: 'legacy/configuration',
    clauses: ['legacy.42', 'legacy.43', 'legacy.45', 'legacy.54', 'legacy.D3', 'legacy.61', 'legacy.9'],
    async run(l, s) {
      await l.start({ before: 'features' });
      const mac = [0x52, 0x54, 0x12, 0x34, 0x56, 0x9a];
      for (const [i, byte] of mac.entries()) await l.writeConfig(i, 1, byte);
      const written = [...(await l.mac())];
      for (const key of ['legacy.9', 'legacy.D3', 'legacy.61']) s.check(key, 'mac as it was written, byte by byte, before features were chosen', written, mac);
      const bytes: number[] = [];
      for (let i = 0; i < 12; i++) bytes.push(await l.configBytes(i, 1));
      s.check('legacy.45', 'mac behind the header, MSI-X off', bytes.slice(0, 6), mac);
      for (const size of [2, 4] as const) {
        const seen: number[] = [];
        for (let at = 0; at < 12; at += size) {
          const value = await l.configBytes(at, size);
          for (let i = 0; i < size; i++) seen.push((value >>> (8 * i)) & 0xff);
        }
        for (const key of ['legacy.42', 'legacy.43']) s.check(key, `the first 12 bytes by accesses of ${size}`, seen, bytes);
      }
      await l.negotiate(['STATUS', 'CTRL_VQ', 'MQ']);
      s.check('legacy.54', 'status', (await l.config('status')) & 1, 1);
      const pairs = await l.config('max_virtqueue_pairs');
      s.checkThat('legacy.54', 'max_virtqueue_pairs', pairs >= 1 && pairs <= 128, '1 to 128', pairs);
      if (l.msix === undefined) s.skip('the device has no MSI-X');
      await l.setMsix(true);
      await l.write('config_vector', 1);
      s.check('legacy.45', 'config_vector at 20, MSI-X on', await l.read('config_vector'), 1);
      s.check('legacy.45', 'mac behind the longer header', [...(await l.mac())], mac);
      await l.setMsix(false);
      s.check('legacy.45', 'mac behind the header again', [...(await l.mac())], mac);
    },
  }),
  of({
    name: 'legacy/traffic',
    clauses: ['legacy.2', 'legacy.33', 'legacy.35', 'legacy.46', 'legacy.D4'],
    async run(l, s) {
      await l.start();
      const sent = await l.net.transmit(plainFrame(1));
      for (const key of ['legacy.2', 'legacy.33', 'legacy.35', 'legacy.D4']) s.check(key, 'a frame behind a header of 10 bytes', sent, [plainFrame(1)]);
      s.check('legacy.33', 'transmit buffers used', (await l.net.transmitQueue().ring.used()).length, 1);
      const [first] = await l.net.inject(plainFrame(2));
      for (const key of ['legacy.2', 'legacy.46', 'legacy.D4']) s.check(key, 'a frame received behind a header of 10 bytes', first?.bytes, plainFrame(2));
      s.check('legacy.35', 'used length of a frame of 64 bytes', first?.used[0]?.length, 74);
      await l.start({ features: ['MRG_RXBUF'], msix: true });
      const frame = plainFrame(3, undefined, 1000);
      s.check('legacy.46', 'a frame behind a header of 12 bytes, with MRG_RXBUF', await l.net.transmit(frame), [frame]);
      const [second] = await l.net.inject(frame);
      s.check('legacy.46', 'length and num_buffers of a frame received', [second?.bytes.length, second?.header.numBuffers], [1000, 1]);
      const messages = await l.messages();
      s.checkThat('legacy.2', 'messages for the frame received', messages.includes(l.vectorOf(0)), `${l.vectorOf(0)} among them`, messages);
    },
  }),
  of({
    name: 'legacy/early-queues',
    clauses: ['legacy.10'],
    async run(l, s) {
      await l.start({ before: 'DRIVER_OK' });
      await l.net.post(4, 2048);
      await l.net.addFrame(plainFrame(1));
      await l.kick(1);
      await l.write('device_status', STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.DRIVER_OK);
      await l.notify(l.queue(0));
      await l.notify(l.queue(1));
      s.check('legacy.10', 'a frame made available before DRIVER_OK', await s.sent(), [plainFrame(1)]);
      const [received] = await l.net.inject(plainFrame(2));
      s.check('legacy.10', 'a frame in a buffer made available before DRIVER_OK', received?.bytes, plainFrame(2));
    },
  }),
  of({
    name: 'legacy/header',
    clauses: ['legacy.56'],
    async run(l, s) {
      await l.start({ features: ['CSUM'] });
      const { bytes, layout } = udpFrame({ payload: 300 });
      const { network, transport } = layout;
      const frame = bytes.slice();
      put16(frame, transport + 6, pseudoSum(frame, network, transport, UDP));
      const [out] = await l.net.transmit(frame, { header: { flags: HDR.NEEDS_CSUM, csumStart: transport, csumOffset: 6 } });
      s.check('legacy.56', 'a frame whose checksum is left to the device: bytes that come out', out?.length, frame.length);
      s.check('legacy.56', 'its checksum', out !== undefined && checksumHolds(out, network, transport, UDP), true);
    },
  }),
  of({
    name: 'legacy/control',
    clauses: ['legacy.59', 'legacy.62', 'legacy.63', 'legacy.65', 'legacy.67'],
    async run(l, s) {
      await l.start({ features: ['MAC', 'STATUS', 'CTRL_VQ', 'CTRL_RX', 'CTRL_VLAN', 'MQ'], buffers: 16 });
      const { net } = l;
      await net.commanded(CTRL.RX, CTRL.PROMISC, [0]);
      const own = [...(await l.mac())];
      s.ensure(await hears(l, 1, own), 'a frame to the device did not arrive');
      s.ensure(!(await hears(l, 2, MULTICAST)), 'a multicast frame arrived');
      const tables = [...le32(1), ...STRANGER, ...le32(1), ...MULTICAST];
      s.check('legacy.59', 'ack of MAC_TABLE_SET with one address of each kind', (await net.command(CTRL.MAC, CTRL.TABLE_SET, tables)).ack, ACK_OK);
      s.check('legacy.59', 'frames to the addresses of both tables heard', [await hears(l, 3, STRANGER), await hears(l, 4, MULTICAST)], [true, true]);
      s.check('legacy.63', 'ack of VLAN_ADD of 0x102', (await net.command(CTRL.VLAN, CTRL.VLAN_ADD, le16(0x102))).ack, ACK_OK);
      s.check('legacy.63', 'frames of VLAN 0x102 and 0x201 heard', [await hears(l, 5, own, 0x102), await hears(l, 6, own, 0x201)], [true, false]);
      const other = [0x52, 0x54, 0x12, 0x34, 0x56, 0x9a];
      for (const [i, byte] of other.entries()) await l.writeConfig(i, 1, byte);
      s.check('legacy.62', 'a frame to the new address once its last byte is written', await hears(l, 7, other), true);
      const pairs = await l.config('max_virtqueue_pairs');
      s.check('legacy.65', `ack of VQ_PAIRS_SET to ${pairs}`, (await net.command(CTRL.MQ, CTRL.VQ_PAIRS_SET, le16(pairs))).ack, ACK_OK);
      await l.start({ features: ['CTRL_VQ', 'GUEST_CSUM', 'CTRL_GUEST_OFFLOADS'] });
      const offloads = (mask: number): number[] => [...le32(mask), 0, 0, 0, 0];
      s.check('legacy.67', 'ack of GUEST_OFFLOADS_SET to none', (await l.net.command(CTRL.OFFLOADS, CTRL.OFFLOADS_SET, offloads(0))).ack, ACK_OK);
      s.check('legacy.67', 'ack of GUEST_OFFLOADS_SET to GUEST_CSUM, bit 1', (await l.net.command(CTRL.OFFLOADS, CTRL.OFFLOADS_SET, offloads(2))).ack, ACK_OK);
      s.checkThat(
        'legacy.67',
        'ack with a bit not negotiated',
        (await l.net.command(CTRL.OFFLOADS, CTRL.OFFLOADS_SET, offloads(1 << 10))).ack !== ACK_OK,
        'not OK',
        0,
      );
    },
  }),
  of({
    name: 'legacy/notify-on-empty',
    clauses: ['legacy.11', 'legacy.12'],
    async run(l, s) {
      await l.reset();
      if (bit(await l.read('device_features'), 24) === 0) s.skip('not offered: NOTIFY_ON_EMPTY');
      await l.start({ before: 'features' });
      await l.write('driver_features', (1 << 24) | (1 << 27));
      await l.setMsix(true);
      for (const index of [0, 1]) await l.setUpLegacyQueue(index);
      await l.write('device_status', STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.DRIVER_OK);
      await l.net.transmitQueue().ring.setInterrupts('never');
      const sent = await l.net.transmit(plainFrame(1));
      s.check('legacy.11', 'a frame sent with NOTIFY_ON_EMPTY', sent, [plainFrame(1)]);
      s.check('legacy.12', 'messages, suppressed, once the transmit ring has run empty', await l.messages(), [l.vectorOf(1)]);
    },
  }),
];
