// Everything a driver sets up through the control queue, in one place: reception, steering, notification coalescing, and the statistics it reads there. Runs its commands, and says it to the
// policy words.

import type { FeatureSet } from '#virtio/features';
import type { FlowRule } from '#virtio/flow-rules';
import type { ChainReader } from '#virtio/net-control/chain-reader';
import type { ChainWriter } from '#virtio/net-control/chain-writer';
import { CoalescingState } from '#virtio/net-control/coalescing';
import { type CommandContext, runCommand } from '#virtio/net-control/control-commands';
import { ReceiveState } from '#virtio/net-control/receive-state';
import { ControlStatistics } from '#virtio/net-control/statistics';
import { type SteeringLimits, SteeringState } from '#virtio/net-control/steering-state';
import type { NetPolicy } from '#virtio/net-policy';
import { NetStatistics } from '#virtio/net-statistics';
import type { NetState } from './saved-net.ts';

/** What else the policy words hang on. */
export interface StationState {
  readonly features: FeatureSet;
  readonly mac: Uint8Array;
  readonly mtu: number;
  readonly linkUp: boolean;
  /** Receive queues that the driver has, a bit a pair. */
  readonly live: readonly [number, number];
  readonly flowRules: readonly FlowRule[];
  readonly active: boolean;
}

/** What of a command is not about the settings. */
export interface CommandSide extends Pick<CommandContext, 'features' | 'dataQueueEnabled' | 'allowsMac' | 'setMac' | 'announced'> {
  readonly dataQueues: number;
}

export class DriverSettings {
  readonly limits: SteeringLimits;
  readonly statistics: NetStatistics;
  readonly #receive = new ReceiveState();
  readonly #steering: SteeringState;
  readonly #coalescing: CoalescingState;
  readonly #commands = new ControlStatistics();

  constructor(limits: SteeringLimits) {
    this.limits = limits;
    this.statistics = new NetStatistics(2 * limits.pairs);
    this.#steering = new SteeringState(limits);
    this.#coalescing = new CoalescingState(2 * limits.pairs);
  }

  negotiated(features: FeatureSet): void {
    this.#receive.clear(features);
    this.#steering.clear(features);
  }

  reset(): void {
    this.#receive.clear();
    this.#steering.clear();
    this.#coalescing.clear();
    this.statistics.clear();
    this.#commands.clear();
  }

  /** The driver said which address it uses, other than by a command. */
  addressKnown(): void {
    this.#receive.addressKnown = true;
  }

  restartQueue(index: number): void {
    this.#coalescing.restartQueue(index);
  }

  /** @returns whether the command was carried out; what it changed is to be published before its buffer is used. */
  run(reader: ChainReader, reply: ChainWriter, { dataQueues, ...side }: CommandSide): boolean {
    this.#commands.commands++;
    const ok = runCommand(reader, reply, {
      ...side,
      state: this.#receive,
      steering: this.#steering,
      coalescing: this.#coalescing,
      statistics: { queues: this.statistics, control: this.#commands, dataQueues },
    });
    if (ok) this.#commands.succeeded++;
    return ok;
  }

  /** Call between turns. */
  publish(policy: NetPolicy, station: StationState): void {
    this.#coalescing.publish(policy);
    this.#receive.publish(policy, this.#steering, station);
  }

  save(): Pick<NetState, 'receive' | 'steering' | 'coalescing' | 'statistics'> {
    return {
      receive: this.#receive.save(),
      steering: this.#steering.save(),
      coalescing: this.#coalescing.save(),
      statistics: { queues: this.statistics.save(), commands: this.#commands.commands, succeeded: this.#commands.succeeded },
    };
  }

  /** `state` has been checked. */
  load(state: Pick<NetState, 'receive' | 'steering' | 'coalescing' | 'statistics'>, features: FeatureSet): void {
    this.#receive.load(state.receive);
    this.#steering.load(state.steering, features);
    this.#coalescing.load(state.coalescing);
    this.statistics.load(state.statistics.queues);
    this.#commands.commands = state.statistics.commands;
    this.#commands.succeeded = state.statistics.succeeded;
  }
}
