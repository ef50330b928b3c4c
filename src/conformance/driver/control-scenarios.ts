// A network driver's commands: with everything negotiated, with little, with queues in number, with hashes; and what it makes of a refusal.

import { udpFrame } from '../cases/frames.ts';
import { FEATURE } from '../features.ts';
import { ACK_ERR, CFG_TYPE } from '../layout.ts';
import type { DriverScenario } from './scenario.ts';
import type { Stage } from './stage.ts';

const OTHER = Uint8Array.of(0x52, 0x54, 0, 1, 2, 3);
const GROUP = Uint8Array.of(1, 0, 0x5e, 0, 0, 9);
const MODES = ['promiscuous', 'all-multicast', 'all-unicast', 'no-multicast', 'no-unicast', 'no-broadcast'] as const;

/** Asks for everything there is; says what was done. */
function commandAll(stage: Stage): Record<string, boolean> {
  const { control } = stage.driver;
  const done: Record<string, boolean> = {};
  for (const mode of MODES) done[mode] = control.receiveMode(mode, true) && control.receiveMode(mode, false);
  done.macTable = control.macTable([OTHER], [GROUP, GROUP]);
  done.macAddress = control.macAddress(OTHER);
  done.vlan = control.vlan(42, true) && control.vlan(42, false);
  done.offloads = control.offloads([FEATURE.GUEST_CSUM, FEATURE.GUEST_TSO4]);
  done.coalescing = control.coalescing('receive', 4, 50) && control.coalescing('transmit', 4, 50);
  done.queueCoalescing = control.queueCoalescing(0, 2, 10) && control.coalescingOf(0)?.maxPackets === 2;
  done.statistics = control.statistics(0) && control.statistics(1);
  stage.turns(3);
  return done;
}

const all = (names: Record<string, boolean>): string[] => Object.keys(names).filter((name) => !names[name]);
const COMMANDS = ['net-ctrl.20', 'net-ctrl.21', 'net-ctrl.26', 'net-ctrl.36', 'net-coal.2', 'net-coal.3'];

export const CONTROL_SCENARIOS: readonly DriverScenario[] = [
  {
    name: 'driver/commands',
    clauses: ['net-ctrl.27', ...COMMANDS],
    run(stage) {
      stage.start();
      stage.check('net-ctrl.20', 'commands that were not carried out', all(commandAll(stage)), []);
      stage.watched.rings.quiet();
      const at = stage.watched.addressOf(CFG_TYPE.DEVICE).structure;
      const mac = Array.from({ length: 6 }, (_, i) => stage.watched.rings.memory && stage.bus.mmioRead(at + i, 1));
      stage.check('net-ctrl.27', 'address of the device after the driver was given another', mac, [...OTHER]);
    },
  },
  {
    name: 'driver/commands-not-negotiated',
    clauses: COMMANDS,
    device: { withhold: ['CTRL_RX', 'CTRL_RX_EXTRA', 'CTRL_GUEST_OFFLOADS', 'NOTF_COAL', 'VQ_NOTF_COAL', 'RSS', 'RSS_CONTEXT', 'HASH_TUNNEL'] },
    run(stage) {
      stage.start();
      const done = commandAll(stage);
      const { control } = stage.driver;
      done.rss = control.rss();
      done.rssContext = control.rssContext(1);
      done.hashTunnels = control.hashTunnels(1);
      for (const clause of COMMANDS)
        stage.check(
          clause,
          'commands carried out without their features',
          Object.keys(done).filter((name) => done[name] && name !== 'vlan' && name !== 'statistics'),
          [],
        );
    },
  },
  {
    name: 'driver/queue-pairs',
    clauses: ['net-mq.8', 'net-mq.9', 'net-mq.10', 'net-mq.11', 'net-mq.12', 'net-rx.5'],
    device: { pairs: 4, withhold: ['RSS', 'RSS_CONTEXT'] },
    driver: { pairs: 4 },
    run(stage) {
      stage.start();
      // Flows the device has never seen go where it likes.
      stage.driver.echo();
      stage.check('net-mq.8', 'frames of 40 unknown flows carried over 4 pairs', stage.echoes(40), true);
      for (let queue = 0; queue < 4; queue++) stage.driver.send({ frame: udpFrame({ payload: 90 }), plain: true, queue });
      stage.turns(3);
    },
  },
  {
    name: 'driver/one-pair-of-four',
    clauses: ['net-mq.11'],
    device: { pairs: 4, withhold: ['RSS', 'RSS_CONTEXT'] },
    run(stage) {
      stage.start();
      stage.check('net-mq.11', 'frames carried over the first pair', stage.echoes(20), true);
    },
  },
  {
    name: 'driver/receive-side-scaling',
    clauses: ['net-rss.3', 'net-rss.4', 'net-rss.5', 'net-rss.6', 'net-rss.7', 'net-rss.14', 'net-rss.15', 'net-hash.9', 'net-hash.10', 'net-hash.11'],
    device: { pairs: 4 },
    driver: { pairs: 4, rss: true, tunnels: true, features: ['RSS', 'RSS_CONTEXT', 'HASH_TUNNEL', 'HASH_REPORT'] },
    run(stage) {
      // Kinds of hashes and tunnels that mean nothing are passed by.
      stage.answer(({ type, offset }, size, value) => (type === CFG_TYPE.DEVICE && offset === 24 && size === 4 ? (value | 0xff00_0000) >>> 0 : value));
      stage.start();
      stage.check('net-rss.3', 'frames carried with RSS', stage.echoes(40), true);
      const { control } = stage.driver;
      stage.check('net-rss.14', 'RSS contexts made', [control.rssContext(1), control.rssContext(4)], [true, true]);
      stage.check('net-rss.15', 'RSS context beyond the last one made', control.rssContext(5), false);
      stage.check('net-hash.11', 'tunnel types that mean nothing passed by', control.hashTunnels(~0), true);
      // Pairs are not changed while there are contexts.
      stage.check('net-rss.16', 'pairs changed while there are RSS contexts', control.pairs(2), false);
    },
  },
  {
    name: 'driver/hash-report',
    clauses: ['net-hash.13'],
    driver: { features: ['HASH_REPORT'] },
    device: { withhold: ['RSS', 'RSS_CONTEXT', 'HASH_TUNNEL'] },
    run(stage) {
      stage.start();
      stage.check('net-hash.13', 'frames carried with their hashes', stage.echoes(), true);
    },
  },
  {
    name: 'driver/coalescing-refused',
    clauses: ['net-coal.4', 'net-coal.11'],
    rings: 'any',
    run(stage) {
      stage.start();
      const { control } = stage.driver;
      control.queueCoalescing(0, 8, 100);
      // A rate that is none of what was asked for.
      for (let n = 0; n < 5; n++) {
        stage.interruptAll();
        stage.turn();
      }
      stage.check('net-coal.11', 'frames carried when interrupts come at another rate', stage.echoes(), true);
      stage.answered((bytes) => (bytes[0] = ACK_ERR));
      stage.check('net-coal.4', 'what a refused VQ_GET is taken to say', control.coalescingOf(0), undefined);
      stage.answered(undefined);
    },
  },
];
