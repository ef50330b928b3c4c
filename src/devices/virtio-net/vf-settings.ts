// What the host says of one virtual function (the `ip link set vf` model, and what of a virtio device it may differ in), before it is enabled or while it runs; checked, and as part of saved state.

import { RestoreError } from '#core/saved';
import type { VfPortSettings, VfVlan } from '#net/vf-ports';
import { VirtioOptionError } from '#virtio/device';
import { savedBoolean, savedInteger, savedRecord } from '#virtio/saved-control';
import { checkMac, checkMtu, checkSpeed, type LinkSpeed } from './config.ts';
import { NET_FEATURES, type NetFeatureName } from './features.ts';
import { checkQueuePairs } from './net-options.ts';
import { savedMac } from './saved-net.ts';

const MOST_RATE = 0xffff_ffff;

/** In force at once. */
interface VfRunning extends Omit<VfPortSettings, 'mac'> {
  /** Its permanent address. */
  readonly mac: Uint8Array;
  /** It was given to it: a VF that is not trusted then cannot change it. False: made up by default. */
  readonly assigned: boolean;
}

/** What a device is made with: in force when the VF is enabled the next time. */
export interface VfShape {
  readonly queuePairs: number;
  /** Features to leave out (false) or insist on (true). */
  readonly features: { readonly [name in NetFeatureName]?: boolean };
  /** null: MTU is not offered. */
  readonly mtu: number | null;
  /** null: SPEED_DUPLEX is not offered. */
  readonly speed: LinkSpeed | null;
}

export interface VfSettings extends VfRunning, VfShape {}

export interface VfChanges extends Partial<Omit<VfSettings, 'mac' | 'assigned' | 'vlan'>> {
  /** "52:54:00:12:34:56" or six bytes; unicast. */
  readonly mac?: Uint8Array | string;
  /** A number is an 802.1Q VLAN of priority 0; null or 0: none. */
  readonly vlan?: number | null | (Pick<VfVlan, 'id'> & Partial<VfVlan>);
}

export function defaultSettings(mac: Uint8Array, queuePairs: number, spoofCheck: boolean): VfSettings {
  return {
    mac,
    assigned: false,
    vlan: null,
    minRate: 0,
    maxRate: 0,
    linkState: 'auto',
    spoofCheck,
    trust: false,
    queuePairs,
    features: {},
    mtu: null,
    speed: null,
  };
}

/** The PF's address, made local and moved aside, and counted up. */
export function defaultVfMac(pf: Uint8Array, vf: number): Uint8Array {
  const mac = pf.slice();
  mac[0] = ((mac[0] as number) & ~1) | 2;
  mac[1] = (mac[1] as number) ^ 0x80;
  const low = (((mac[4] as number) << 8) | (mac[5] as number)) + vf + 1;
  mac[4] = (low >>> 8) & 0xff;
  mac[5] = low & 0xff;
  return mac;
}

function refuse(message: string): never {
  throw new VirtioOptionError('NICBOX_VF_SETTINGS', message);
}

/** @throws VirtioOptionError */
export function changeSettings(settings: VfSettings, changes: VfChanges, mostPairs: number): VfSettings {
  const { mac, vlan, ...others } = changes;
  const given = Object.fromEntries(Object.entries(others).filter(([, value]) => value !== undefined)) as Partial<VfSettings>;
  const next: VfSettings = {
    ...settings,
    ...given,
    ...(mac !== undefined && { mac: checkMac(mac), assigned: true }),
    ...(vlan !== undefined && { vlan: checkVlan(vlan) }),
  };
  for (const name of Object.keys(given)) if (!(name in settings)) refuse(`a virtual function has no ${name}; it has ${Object.keys(settings).join(', ')}`);
  for (const rate of [next.minRate, next.maxRate])
    if (!Number.isInteger(rate) || rate < 0 || rate > MOST_RATE) refuse(`rate ${rate}: give whole Mbit/s, 0 for none`);
  if (next.maxRate !== 0 && next.minRate > next.maxRate) refuse(`minRate ${next.minRate} is above maxRate ${next.maxRate}`);
  if (!['auto', 'enable', 'disable'].includes(next.linkState)) refuse(`linkState ${next.linkState}: give auto, enable or disable`);
  for (const name of ['spoofCheck', 'trust'] as const) if (typeof next[name] !== 'boolean') refuse(`${name}: give true or false`);
  checkQueuePairs(next.queuePairs, mostPairs);
  if (next.mtu !== null) checkMtu(next.mtu);
  if (next.speed !== null) checkSpeed(next.speed);
  for (const name of Object.keys(next.features)) if (!(name in NET_FEATURES)) refuse(`no feature is called ${name}`);
  if (next.features.ADMIN_VQ === true)
    refuse('a virtual function has no ADMIN_VQ: what its own administration queue sets up is in no device part, so that it could not be moved');
  return next;
}

function checkVlan(vlan: VfChanges['vlan']): VfVlan | null {
  if (vlan === null || vlan === undefined || vlan === 0) return null;
  const { id, priority = 0, protocol = '802.1Q' } = typeof vlan === 'number' ? { id: vlan } : vlan;
  if (!Number.isInteger(id) || id < 1 || id > 4094) refuse(`VLAN ${id}: give 1 to 4094, or 0 for none`);
  if (!Number.isInteger(priority) || priority < 0 || priority > 7) refuse(`VLAN priority ${priority}: give 0 to 7`);
  if (protocol !== '802.1Q' && protocol !== '802.1ad') refuse(`VLAN protocol ${String(protocol)}: give 802.1Q or 802.1ad`);
  return { id, priority, protocol };
}

/** Whether a device made with one has to be made anew for the other. */
export function sameShape(a: VfShape, b: VfShape): boolean {
  const features = (shape: VfShape): string =>
    Object.entries(shape.features)
      .filter(([, on]) => on !== undefined)
      .sort()
      .join();
  return (
    a.queuePairs === b.queuePairs && a.mtu === b.mtu && a.speed?.speed === b.speed?.speed && a.speed?.duplex === b.speed?.duplex && features(a) === features(b)
  );
}

/** @throws RestoreError */
export function savedSettings(value: unknown, mostPairs: number): VfSettings {
  const state = savedRecord(value, 'settings of a virtual function');
  const features = savedRecord(state.features, 'features of a virtual function');
  const vlan = state.vlan === null ? null : savedRecord(state.vlan, 'VLAN');
  const speed = state.speed === null ? null : savedRecord(state.speed, 'speed');
  const start = defaultSettings(savedMac(state.mac, 'address'), 1, false);
  try {
    const next = changeSettings(
      start,
      {
        mac: start.mac,
        vlan: vlan as VfChanges['vlan'] & object,
        minRate: savedInteger(state.minRate, MOST_RATE, 'rate'),
        maxRate: savedInteger(state.maxRate, MOST_RATE, 'rate'),
        linkState: state.linkState as VfSettings['linkState'],
        spoofCheck: savedBoolean(state.spoofCheck, 'spoof checking'),
        trust: savedBoolean(state.trust, 'trust'),
        queuePairs: savedInteger(state.queuePairs, mostPairs, 'queue pairs'),
        features: Object.fromEntries(Object.entries(features).map(([name, on]) => [name, savedBoolean(on, `feature ${name}`)])),
        mtu: state.mtu === null ? null : savedInteger(state.mtu, 0xffff, 'MTU'),
        speed: speed && ({ speed: speed.speed, duplex: speed.duplex } as LinkSpeed),
      },
      mostPairs,
    );
    return { ...next, assigned: savedBoolean(state.assigned, 'assignment of the address') };
  } catch (error) {
    if (error instanceof VirtioOptionError) throw new RestoreError(`saved settings of a virtual function cannot be: ${error.message}`);
    throw error;
  }
}
