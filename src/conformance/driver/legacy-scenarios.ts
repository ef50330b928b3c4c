// A driver on the legacy interface of a transitional device, whole and without ANY_LAYOUT; and one that needs the structures of VIRTIO 1.x on a device that has none.

import { tcpFrame, udpFrame } from '../cases/frames.ts';
import { FEATURE, LEGACY_BIT } from '../features.ts';
import { NET_CONFIG, PCI, STATUS } from '../layout.ts';
import { LEGACY } from '../legacy-bench.ts';
import type { DriverScenario } from './scenario.ts';
import type { Stage } from './stage.ts';

const OLD = { rings: 'any', device: { transitional: true }, driver: { legacy: true } } as const;
const STATION = Uint8Array.of(0x52, 0x54, 0, 1, 2, 3);
const GROUP = Uint8Array.of(1, 0, 0x5e, 0, 0, 9);
const MAC = [0x52, 0x54, 0, 0xc0, 0xff, 0xee];
/** Behind the registers, while MSI-X is off. */
const CONFIG = 20;
/** No used length that means anything. */
const ODD_LENGTH = 0x1234;

/** Offers all but these bits. */
function withhold(stage: Stage, ...bits: readonly number[]): void {
  const less = bits.reduce((mask, bit) => mask | (1 << bit), 0);
  stage.answerPort((offset, _size, value) => (offset === LEGACY.device_features[0] ? value & ~less : value));
}

/** The commands that a legacy driver has, and which of them were not carried out. */
function refused(stage: Stage): string[] {
  const { control } = stage.driver;
  const done = {
    promiscuous: control.receiveMode('promiscuous', true) && control.receiveMode('promiscuous', false),
    macTable: control.macTable([STATION], [GROUP, GROUP]),
    macAddress: control.macAddress(Uint8Array.from(MAC)),
    vlan: control.vlan(42, true) && control.vlan(42, false),
    offloads: control.offloads([FEATURE.GUEST_CSUM]),
  };
  return Object.entries(done)
    .filter(([, carriedOut]) => !carriedOut)
    .map(([name]) => name);
}

export const LEGACY_SCENARIOS: readonly DriverScenario[] = [
  {
    ...OLD,
    name: 'driver/legacy',
    clauses: ['legacy.34', 'legacy.44', 'legacy.57', 'legacy.60', 'legacy.64', 'legacy.68'],
    run(stage) {
      const up = stage.start() && stage.running;
      stage.check('legacy.44', 'address of the device, behind its registers', up && [...stage.driver.mac], MAC);
      const works = up && stage.echoes(40);
      stage.check('legacy.34', 'frames carried over the legacy interface', works, true);
      if (!works) return;
      const { driver } = stage;
      const asked = [driver.send({ frame: udpFrame({ payload: 200 }) }), driver.send({ frame: tcpFrame({ payload: 5000 }), gsoSize: 1000 })];
      stage.turns(3);
      stage.check('legacy.57', 'frames whose checksums and cutting were left to the device', asked, [true, true]);
      // With MSI-X on by now, configuration lies elsewhere.
      stage.setLink(false);
      stage.turns(3);
      stage.check('legacy.44', 'link of a device that has lost it', driver.linkUp, false);
      stage.check('legacy.60', 'commands that were not carried out', refused(stage), []);
      driver.shutDown();
    },
  },
  {
    ...OLD,
    name: 'driver/legacy-without-msix',
    clauses: ['legacy.44'],
    driver: { legacy: true, interrupts: 'intx' },
    run(stage) {
      const works = stage.start() && stage.echoes();
      stage.check('legacy.44', 'frames carried, address of the device where the vectors are not', works && [...stage.driver.mac], MAC);
    },
  },
  {
    ...OLD,
    name: 'driver/legacy-queue-pairs',
    clauses: ['legacy.55', 'legacy.66'],
    device: { transitional: true, pairs: 4 },
    driver: { legacy: true, pairs: 4 },
    run(stage) {
      const works = stage.start() && stage.echoes(40);
      stage.check('legacy.66', 'frames carried over 4 pairs', works, true);
      stage.check('legacy.55', 'link of a device whose status is 1', works && stage.driver.linkUp, true);
    },
  },
  {
    ...OLD,
    name: 'driver/legacy-without-any-layout',
    clauses: ['legacy.69', 'legacy.70', 'legacy.71', 'legacy.72', 'legacy.73', 'legacy.74', 'legacy.75'],
    run(stage) {
      withhold(stage, LEGACY_BIT.ANY_LAYOUT);
      const works = stage.start() && stage.echoes();
      stage.check('legacy.69', 'frames carried in descriptors as they are wanted', works, true);
      if (works) stage.check('legacy.70', 'commands that were not carried out', refused(stage), []);
    },
  },
  {
    ...OLD,
    name: 'driver/legacy-odd-lengths',
    clauses: ['legacy.58'],
    run(stage) {
      stage.watched.rings.onUsed.push((_queue, role, _chain, lengthAt) => {
        if (role === 'transmit') stage.watched.rings.memory.view.bytes(lengthAt, 4)?.set([ODD_LENGTH & 0xff, ODD_LENGTH >>> 8, 0, 0]);
      });
      stage.answered((_bytes, setLength) => setLength(ODD_LENGTH));
      const works = stage.start() && stage.echoes();
      stage.check('legacy.58', 'frames carried, and commands refused, when lengths of sent frames and commands mean nothing', works && refused(stage), []);
    },
  },
  {
    ...OLD,
    name: 'driver/legacy-torn-configuration',
    clauses: ['legacy.7'],
    run(stage) {
      // While the address is read for the first time, it changes: its first half is the old one's.
      let reads = 0;
      stage.answerPort((offset, _size, value) => (offset >= CONFIG && offset < CONFIG + NET_CONFIG.status[0] && ++reads <= 3 ? 0xaa : value));
      stage.check('legacy.7', 'address of a driver that read while it changed', stage.start() && [...stage.driver.mac], MAC);
    },
  },
  {
    ...OLD,
    name: 'driver/legacy-bit-30',
    clauses: ['legacy.16'],
    run(stage) {
      stage.answerPort((offset, _size, value) => (offset === LEGACY.device_features[0] ? value | (1 << LEGACY_BIT.BAD_FEATURE) : value));
      stage.check('legacy.16', 'frames carried on a device that offers bit 30', stage.start() && stage.echoes(), true);
    },
  },
  {
    name: 'driver/no-capabilities',
    clauses: ['legacy.52', 'legacy.53'],
    rings: 'any',
    run(stage) {
      stage.provocation.config.set(PCI.CAPABILITIES, 0);
      const up = stage.start();
      stage.check('legacy.52', 'a driver that needs structures came up on a device without virtio capabilities', up, false);
      const begun = stage.watched.status & (STATUS.FEATURES_OK | STATUS.DRIVER_OK);
      stage.check('legacy.53', 'how it said so, and what it began', [stage.refused !== '', begun], [true, 0]);
    },
  },
];
