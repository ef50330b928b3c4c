// Administration of a network device (virtio 1.4 2.12, 2.13): the commands of the self group, with the flow filter as what it administers, and their virtqueue. Saved state is said
// again to a filter that has nothing yet, so what a driver could not have set up cannot be restored.

import { RestoreError } from '#core/saved';
import { ADMIN_READABLE_BYTES, AdminCommands, type AdminGroup, adminReply } from '#virtio/admin';
import { type ObjectOpcodes, SelfGroup } from '#virtio/admin-self';
import type { VirtioHost } from '#virtio/device';
import type { FlowRule } from '#virtio/flow-rules';
import { savedInteger, savedRecord } from '#virtio/saved-control';
import type { VirtQueue } from '#virtio/virtqueue';
import { ChainReader } from './chain-reader.ts';
import { ChainWriter } from './chain-writer.ts';
import { CommandQueue } from './command-queue.ts';
import { FlowFilter, type FlowFilterLimits, type FlowFilterState, type FlowRecord } from './flow-filter.ts';

const MOST_OBJECTS = 64;
const LONGEST_RECORD = 1024;

export interface NetAdminOptions {
  /** undefined: none. */
  readonly flowFilter: FlowFilterLimits | undefined;
  readonly opcodes: ObjectOpcodes;
  /** Receive queues under the negotiated features. */
  readonly receiveQueues: () => number;
  /** Groups besides the self group. */
  readonly groups?: readonly AdminGroup[];
}

export interface NetAdminState {
  readonly used: readonly { readonly group: number; readonly opcodes: readonly number[] }[];
  readonly flow: FlowFilterState | null;
}

export class NetAdmin {
  readonly #options: NetAdminOptions;
  readonly #commands: AdminCommands;
  readonly #flow: FlowFilter | undefined;

  constructor(options: NetAdminOptions) {
    this.#options = options;
    this.#flow = options.flowFilter && new FlowFilter(options.flowFilter, options.receiveQueues);
    const self = new SelfGroup(this.#flow?.capabilities ?? [], this.#flow?.objects ?? [], options.opcodes);
    this.#commands = new AdminCommands([self, ...(options.groups ?? [])]);
  }

  reset(): void {
    this.#commands.reset();
    this.#flow?.reset();
  }

  /** Runs a command: the readable part comes in, the writable part goes out. */
  execute(readable: Uint8Array): Uint8Array {
    return adminReply(this.#commands.execute(readable));
  }

  flowRules(): readonly FlowRule[] {
    return this.#flow?.compile() ?? [];
  }

  save(): NetAdminState {
    return { used: this.#commands.used, flow: this.#flow?.save() ?? null };
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

/** The administration virtqueue. */
export class AdminQueue extends CommandQueue {
  readonly #run: (readable: Uint8Array) => Uint8Array;
  readonly #log: VirtioHost['log'];
  readonly #reader: ChainReader;
  readonly #writer: ChainWriter;

  /** @param run executes a command, whose effect is in force when it returns; returns the device-writable part. */
  constructor(host: VirtioHost, maxSize: number, run: (readable: Uint8Array) => Uint8Array) {
    super('administration', host, maxSize, (queue) => this.#answer(queue));
    this.#run = run;
    this.#log = host.log;
    this.#reader = new ChainReader(this.segments);
    this.#writer = new ChainWriter(this.segments, host.memory);
  }

  // virtio 1.4 2.13.1 (device MUST): whatever the buffers' lengths, the command is run: short ones read as zeros and cut the answer, of long ones the rest is left alone.
  #answer(queue: VirtQueue): number {
    this.#reader.begin(queue.readableSegments, queue.readableBytes);
    this.#writer.begin(queue.readableSegments, queue.writableBytes);
    const readable = this.#reader.bytes(Math.min(this.#reader.remaining, ADMIN_READABLE_BYTES)) ?? new Uint8Array(0);
    const reply = this.#run(readable);
    if (((reply[0] as number) | (reply[1] as number)) !== 0) this.#log.guestError('administration command failed', { status: reply[0] as number });
    const count = Math.min(reply.length, this.#writer.remaining);
    for (let i = 0; i < count; i++) this.#writer.u8(reply[i] as number);
    return this.#writer.written;
  }
}
