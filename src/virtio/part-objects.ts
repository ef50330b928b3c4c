// Device parts resource objects and the capability that limits them (virtio 1.4 2.12.1.4.1, 2.12.1.4.2). The capability is the self group's, the objects are a member's: ids are unique
// among those of one member, limits hold for all members together. They are the owner's driver's: a reset of the owner ends them, a member's does not.

import { RestoreError } from '#core/saved';
import * as admin from './admin.ts';
import { type AdminData, type AdminOutcome, adminDone, adminFailed, adminInvalid } from './admin.ts';
import type { AdminObjects } from './admin-objects.ts';
import type { AdminCapability } from './admin-self.ts';
import { savedInteger, savedRecord } from './saved-control.ts';

const VIRTIO_DEV_PARTS_CAP = 0;
export const VIRTIO_RESOURCE_OBJ_DEV_PARTS = 0;
const PARTS_GET = 0;
const PARTS_SET = 1;
const OBJECT_BYTES = 8;
/** What a byte can say: enough for one of each kind for all VFs of one PF. */
const LIMIT = 255;

export type PartObject = 'get' | 'set';

export interface PartObjectsState {
  readonly get: number;
  readonly set: number;
  readonly objects: readonly { readonly member: number; readonly id: number; readonly kind: PartObject }[];
}

export class PartObjects {
  readonly capability: AdminCapability;
  /** The driver's capability: nothing until it says so. */
  #limits: Readonly<Record<PartObject, number>> = { get: 0, set: 0 };
  /** By member, by id. */
  readonly #members = new Map<number, Map<number, PartObject>>();

  constructor() {
    this.capability = {
      id: VIRTIO_DEV_PARTS_CAP,
      device: Uint8Array.of(LIMIT, LIMIT),
      set: (data) => {
        if (this.#count('get') + this.#count('set') > 0) return adminFailed(admin.VIRTIO_ADMIN_STATUS_EBUSY);
        this.#limits = { get: data.u8(0), set: data.u8(1) };
        return adminDone();
      },
    };
  }

  reset(): void {
    this.#limits = { get: 0, set: 0 };
    this.#members.clear();
  }

  forget(member: number): void {
    this.#members.delete(member);
  }

  #count(kind: PartObject): number {
    let count = 0;
    for (const objects of this.#members.values()) for (const each of objects.values()) if (each === kind) count++;
    return count;
  }

  find(member: number, id: number): PartObject | undefined {
    return this.#members.get(member)?.get(id);
  }

  /** Those of a member, for the object commands. */
  of(member: number): AdminObjects {
    const objects = this.#members.get(member) ?? new Map<number, PartObject>();
    const absent = (): AdminOutcome => adminFailed(admin.VIRTIO_ADMIN_STATUS_ENXIO);
    return {
      type: VIRTIO_RESOURCE_OBJ_DEV_PARTS,
      create: (id, data) => {
        if (objects.has(id)) return adminFailed(admin.VIRTIO_ADMIN_STATUS_EEXIST);
        return this.#put(member, objects, id, data);
      },
      modify: (id, data) => (objects.has(id) ? this.#put(member, objects, id, data) : absent()),
      query: (id) => {
        const kind = objects.get(id);
        if (kind === undefined) return absent();
        const result = new Uint8Array(OBJECT_BYTES);
        result[0] = kind === 'get' ? PARTS_GET : PARTS_SET;
        return adminDone(result);
      },
      destroy: (id) => {
        if (!objects.delete(id)) return absent();
        if (objects.size === 0) this.#members.delete(member);
        return adminDone();
      },
    };
  }

  #put(member: number, objects: Map<number, PartObject>, id: number, data: AdminData): AdminOutcome {
    const type = data.u8(0);
    if (type !== PARTS_GET && type !== PARTS_SET) return adminInvalid();
    const kind = type === PARTS_GET ? 'get' : 'set';
    if (objects.get(id) !== kind && this.#count(kind) >= this.#limits[kind]) return adminFailed(admin.VIRTIO_ADMIN_STATUS_ENOSPC);
    // Objects of both kinds share their ids.
    if (id >= this.#limits.get + this.#limits.set) return adminInvalid();
    objects.set(id, kind);
    this.#members.set(member, objects);
    return adminDone();
  }

  save(): PartObjectsState {
    const objects = [...this.#members].flatMap(([member, ids]) => [...ids].map(([id, kind]) => ({ member, id, kind })));
    return { ...this.#limits, objects };
  }

  /** Says it all again; this has nothing yet. @throws RestoreError */
  load(saved: unknown, members: number): void {
    const state = savedRecord(saved, 'device parts objects');
    this.#limits = { get: savedInteger(state.get, LIMIT, 'limit of objects'), set: savedInteger(state.set, LIMIT, 'limit of objects') };
    if (!Array.isArray(state.objects) || state.objects.length > 2 * LIMIT) throw new RestoreError('saved device parts objects are too many');
    for (const entry of state.objects as unknown[]) {
      const { member, id, kind } = savedRecord(entry, 'device parts object');
      const number = savedInteger(member, members, 'member');
      if (number === 0 || (kind !== 'get' && kind !== 'set')) throw new RestoreError('saved device parts object is none a driver could have made');
      const made = this.of(number).create(
        savedInteger(id, 0xffffffff, 'object id'),
        new admin.AdminData(Uint8Array.of(kind === 'get' ? PARTS_GET : PARTS_SET)),
      );
      if (made.status !== admin.VIRTIO_ADMIN_STATUS_OK) throw new RestoreError('saved device parts object is none a driver could have made');
    }
  }
}
