// Administration of a network device (virtio 1.4 2.12, 2.13): the commands of the self group, with the flow filter as what it administers, and their virtqueue. Saved state is said
// again to a filter that has nothing yet, so what a driver could not have set up cannot be restored.

import { RestoreError } from '#core/saved';
import { AdminCommands, adminReply } from '#virtio/admin';
import type { ObjectOpcodes } from '#virtio/admin-objects';
import { SelfGroup } from '#virtio/admin-self';
import { SriovGroup, type SriovGroupOptions } from '#virtio/admin-sriov';
import type { VirtioHost } from '#virtio/device';
import type { FlowRule } from '#virtio/flow-rules';
import { ChainReader } from '#virtio/net-control/chain-reader';
import { ChainWriter } from '#virtio/net-control/chain-writer';
import type { PartObjectsState } from '#virtio/part-objects';
import { savedInteger, savedRecord } from '#virtio/saved-control';
import type { VirtQueue } from '#virtio/virtqueue';
import { COMMAND_WAITS, CommandQueue } from './command-queue.ts';
import { FlowFilter, type FlowFilterLimits, type FlowFilterState, type FlowRecord } from './flow-filter.ts';

const MOST_OBJECTS = 64;
const LONGEST_RECORD = 1024;

export interface NetAdminOptions {
  /** undefined: none. */
  readonly flowFilter: FlowFilterLimits | undefined;
  readonly opcodes: ObjectOpcodes;
  /** Receive queues under the negotiated features. */
  readonly receiveQueues: () => number;
  /** Of a physical function: the group of its virtual functions. */
  readonly owner?: Omit<SriovGroupOptions, 'opcodes'>;
}

export interface NetAdminState {
  readonly used: readonly { readonly group: number; readonly opcodes: readonly number[] }[];
  readonly flow: FlowFilterState | null;
  /** Device parts objects of the virtual functions; null: there is no such group. */
  readonly parts: PartObjectsState | null;
}

export class NetAdmin {
  readonly #options: NetAdminOptions;
  readonly #commands: AdminCommands;
  readonly #flow: FlowFilter | undefined;
  readonly #members: SriovGroup | undefined;

  constructor(options: NetAdminOptions) {
    this.#options = options;
    this.#flow = options.flowFilter && new FlowFilter(options.flowFilter, options.receiveQueues);
    this.#members = options.owner && new SriovGroup({ ...options.owner, opcodes: options.opcodes });
    const capabilities = [...(this.#members ? [this.#members.objects.capability] : []), ...(this.#flow?.capabilities ?? [])];
    const self = new SelfGroup(capabilities, this.#flow?.objects ?? [], options.opcodes);
    this.#commands = new AdminCommands(this.#members ? [self, this.#members] : [self]);
  }

  /** No command reads further. */
  get readableBytes(): number {
    return this.#commands.readableBytes;
  }

  reset(): void {
    this.#commands.reset();
    this.#flow?.reset();
    this.#members?.objects.reset();
  }

  /** What was made for a function is not the next one's that has its number. */
  memberGone(id: number): void {
    this.#members?.objects.forget(id);
  }

  /** Runs a command: the readable part comes in, the writable part goes out. undefined: not yet. @param writable room for it */
  execute(readable: Uint8Array, writable: number): Uint8Array | undefined {
    const outcome = this.#commands.execute(readable, writable);
    return outcome && adminReply(outcome);
  }

  flowRules(): readonly FlowRule[] {
    return this.#flow?.compile() ?? [];
  }

  save(): NetAdminState {
    return { used: this.#commands.used, flow: this.#flow?.save() ?? null, parts: this.#members?.objects.save() ?? null };
  }

  /** A copy of this one with the saved state in it. @throws RestoreError */
  restored(saved: unknown, receiveQueues: number): NetAdmin {
    const state = savedRecord(saved, 'administration');
    // While it is checked, features are not negotiated yet; afterwards the device is asked again.
    let settled = false;
    const options = { ...this.#options, receiveQueues: () => (settled ? this.#options.receiveQueues() : receiveQueues) };
    const admin = new NetAdmin(options);
    for (const entry of savedList(state.used, 'lists of opcodes')) {
      const { group, opcodes } = savedRecord(entry, 'list of opcodes');
      const numbers = savedList(opcodes, 'opcodes').map((opcode) => savedInteger(opcode, 0xffff, 'opcode'));
      if (!admin.#commands.restoreUsed(savedInteger(group, 0xffff, 'group type'), numbers))
        throw new RestoreError('saved state uses commands this device does not have');
    }
    if (admin.#flow === undefined) {
      if (state.flow !== null) throw new RestoreError('saved state has a flow filter; this device has none');
    } else {
      const flow = savedRecord(state.flow, 'flow filter');
      const records = (name: string): FlowRecord[] => savedList(flow[name], name).map((record) => savedFlowRecord(record, name));
      const given = { capabilities: records('capabilities'), groups: records('groups'), classifiers: records('classifiers'), rules: records('rules') };
      if (!admin.#flow.load(given)) throw new RestoreError('saved flow filter is not one a driver could have set up');
    }
    if (admin.#members === undefined) {
      if (state.parts !== null) throw new RestoreError('saved state has device parts objects; this device has no virtual functions');
    } else admin.#members.objects.load(state.parts, this.#options.owner?.members.most ?? 0);
    settled = true;
    return admin;
  }
}

function savedList(value: unknown, what: string): readonly unknown[] {
  if (!Array.isArray(value) || value.length > MOST_OBJECTS) throw new RestoreError(`saved ${what} must be at most ${MOST_OBJECTS} entries`);
  return value;
}

function savedFlowRecord(value: unknown, what: string): FlowRecord {
  const { id, data } = savedRecord(value, what);
  if (!(data instanceof Uint8Array) || data.length > LONGEST_RECORD) throw new RestoreError(`saved ${what} must hold bytes`);
  return { id: savedInteger(id, 0xffffffff, what), data: data.slice() };
}

export interface AdminQueueOptions {
  /** Bytes of a command that are read at most. */
  readonly longest: number;
  /** Executes a command, whose effect is in force when it returns; returns the device-writable part, or undefined for one that is to be executed again later. */
  readonly run: (readable: Uint8Array, writable: number) => Uint8Array | undefined;
}

/** The administration virtqueue. */
export class AdminQueue extends CommandQueue {
  readonly #options: AdminQueueOptions;
  readonly #log: VirtioHost['log'];
  readonly #reader: ChainReader;
  readonly #writer: ChainWriter;
  #command: Uint8Array = new Uint8Array(0);

  constructor(host: VirtioHost, maxSize: number, options: AdminQueueOptions) {
    super('administration', host, maxSize, (queue) => this.#answer(queue));
    this.#options = options;
    this.#log = host.log;
    this.#reader = new ChainReader(this.segments);
    this.#writer = new ChainWriter(this.segments, host.memory);
  }

  // virtio 1.4 2.13.1 (device MUST): whatever the buffers' lengths, the command is run: short ones read as zeros and cut the answer, of long ones the rest is left alone.
  #answer(queue: VirtQueue): number {
    this.#reader.begin(queue.readableSegments, queue.readableBytes);
    this.#writer.begin(queue.readableSegments, queue.writableBytes);
    // A command that waits goes on as it was first read, whatever the driver has written over it meanwhile.
    if (!this.waiting) this.#command = this.#reader.bytes(Math.min(this.#reader.remaining, this.#options.longest)) ?? new Uint8Array(0);
    const reply = this.#options.run(this.#command, this.#writer.remaining);
    if (reply === undefined) return COMMAND_WAITS;
    if (((reply[0] as number) | (reply[1] as number)) !== 0) this.#log.guestError('administration command failed', { status: reply[0] as number });
    const count = Math.min(reply.length, this.#writer.remaining);
    for (let i = 0; i < count; i++) this.#writer.u8(reply[i] as number);
    return this.#writer.written;
  }
}
