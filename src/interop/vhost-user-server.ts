// vhost-user back ends for network devices: each socket is a port of a segment that a worker thread serves, with the same loop that serves in-process guests. Control
// messages are handled on the calling thread. A socket outlives its front ends: when one goes, the port waits for the next.

import { createHash } from 'node:crypto';
import type { VhostNet } from '#backends/vhost-net';
import { VhostPool } from '#backends/vhost-pool';
import type { VhostSegment, VhostWorker } from '#backends/vhost-worker';
import type { PollOptions } from '#backends/worker-job';
import { BellLoop } from '#core/bell-loop';
import { setEventWriter } from '#core/interrupts';
import { Log } from '#core/log';
import { checkMac, checkMtu } from '#devices/virtio-net/config';
import type { PortStatistics } from '#net/counters';
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1 } from '#virtio/features';
import * as net from '#virtio/net-features';
import { EventPoll } from './event-poll.ts';
import type { SessionState } from './front-session.ts';
import { InteropError } from './interop-error.ts';
import { type Native, openNative } from './native.ts';
import { attachNetdevToWorker } from './netdev-port.ts';
import { SegmentCapture } from './segment-capture.ts';
import { Tap } from './tap.ts';
import { MOST_TURN_PORTS, TurnFile } from './turn-file.ts';
import { VHOST_F_LOG_ALL, VHOST_USER_F_PROTOCOL_FEATURES } from './vhost-user-protocol.ts';
import { VhostUserSocket } from './vhost-user-socket.ts';
import { type VringWatch, WatchedBackend } from './watched-backend.ts';

export interface VhostUserOptions {
  /** Paths of UNIX sockets, one for each device. */
  readonly sockets: readonly string[];
  /** 'switch': all sockets are ports of one learning switch. 'link': each two of them, in order, are joined by a direct link. Default: switch. */
  readonly topology?: 'switch' | 'link';
  /** TAP interfaces as further ports, behind the sockets: the host's network stack on the same switch, or at the other end of a link. Made if they are not there. */
  readonly taps?: readonly string[];
  /** Queue pairs that a front end may use, and queues of each TAP. Default 1. */
  readonly queuePairs?: number;
  /** Connect to sockets that front ends listen on (QEMU's server=on, DPDK's server=1), again and again, in place of listening. */
  readonly client?: boolean;
  /** MAC addresses, in the sockets' order, for drivers that take theirs from us (user-mode Linux does, QEMU and DPDK do not). Default: made from the path. */
  readonly macs?: readonly string[];
  /** Offers this MTU: 68 to 65535. */
  readonly mtu?: number;
  /** Offers kicks and calls by messages alone, which user-mode Linux's time-travel modes need; slower by far, and it takes them whenever they are offered. */
  readonly inBand?: boolean;
  /** Offers ACCESS_PLATFORM: addresses of a device behind the front end's IOMMU. A driver that takes it without one (user-mode Linux, DPDK) gets no memory. */
  readonly accessPlatform?: boolean;
  /** Offers HASH_REPORT: hashes of received frames in their headers, which get longer for it. */
  readonly hashReport?: boolean;
  /** Takes no memory that its owner could cut short, which would end this process: only files that are sealed, or may be (QEMU's memfd is; DPDK's and user-mode Linux's files cannot be). */
  readonly requireSeals?: boolean;
  /** Device feature bits not to offer. */
  readonly withoutFeatures?: readonly number[];
  /** Gets a pcapng file, piece by piece, of every frame that is sent, as on a wire. An interface for each switch or link. */
  readonly capture?: (chunk: Uint8Array) => void;
  /** How long the worker looks for work before it sleeps. */
  readonly poll?: PollOptions;
  /** Called for each socket: who is to be told of the rings of the driver there, if anyone. */
  readonly watch?: (path: string) => VringWatch;
  /** Connections come and go as traces, peers' errors as guest errors. */
  readonly log?: Log;
}

export interface VhostUserSocketStatistics {
  readonly path: string;
  /** What the front end that is connected has agreed on; undefined: none is. */
  readonly session: SessionState | undefined;
  /** Front ends so far. */
  readonly connections: number;
  /** Connections that ended because the peer broke the protocol. */
  readonly refused: number;
  readonly counters: PortStatistics;
  /** Of each ring: kicks that arrived, calls made, chains returned. */
  readonly rings: readonly { readonly kicks: number; readonly calls: number; readonly chains: number }[];
}

/** How long a front end may take to come back to a process that took over from a dead one. */
const RECONNECT_MS = 5000;

/** Running back ends. Made by `serveVhostUser`. */
export class VhostUserServer {
  readonly #pool: VhostPool;
  readonly #worker: VhostWorker;
  readonly #poll: EventPoll;
  readonly #bells: BellLoop;
  readonly #sockets: { readonly socket: VhostUserSocket; readonly backend: VhostNet }[] = [];
  readonly #tapPlaces: { readonly name: string; readonly segment: VhostSegment }[] = [];
  readonly #taps: { readonly tap: Tap; readonly detach: () => void }[] = [];
  readonly #log: Log;
  readonly #queuePairs: number;
  #turns: TurnFile | undefined;
  #capture: SegmentCapture | undefined;
  #closed: Promise<void> | undefined;

  /** @throws InteropError, RangeError */
  constructor(options: VhostUserOptions) {
    const { sockets, topology = 'switch', queuePairs = 1 } = options;
    checkOptions(options);
    this.#queuePairs = queuePairs;
    const native = openNative();
    setEventWriter((descriptor) => void native.events.writeEvent(descriptor));
    const log = (options.log ?? new Log()).child('vhost-user');
    this.#log = log;
    this.#poll = new EventPoll(native);
    this.#bells = new BellLoop();
    this.#pool = new VhostPool({ entry: new URL('./data-plane-worker.js', import.meta.url), ...(options.poll && { poll: options.poll }) });
    const turns = openTurns(native, options, log);
    this.#turns = turns;
    this.#worker = this.#pool.worker(turns?.journal);
    const { doorbell: relay } = this.#bells.doorbell(() => {
      for (const { socket } of this.#sockets) socket.relayCalls();
    });
    const platform = FeatureSet.of(...(options.accessPlatform === true ? [VIRTIO_F_ACCESS_PLATFORM] : []));
    const offered = offeredFeatures(queuePairs, options.mtu, options.hashReport ?? false)
      .or(platform)
      .without(FeatureSet.of(...(options.withoutFeatures ?? [])));
    const { mtu, inBand = false, client = false, requireSeals = false } = options;
    const shared = { native, poll: this.#poll, relay, offered, mtu, inBand, client, requireSeals };
    let segment = this.#worker.segment({ kind: topology });
    const segments = [segment];
    const place = (i: number): VhostSegment => {
      if (topology === 'link' && i > 0 && i % 2 === 0) {
        segment = this.#worker.segment({ kind: 'link' });
        segments.push(segment);
      }
      return segment;
    };
    sockets.forEach((path, i) => {
      const backend = place(i).port(path, queuePairs);
      const mac = options.macs?.[i] === undefined ? macFor(path) : checkMac(options.macs[i]);
      const left = turns?.port(i, backend.firstSlot, 2 * queuePairs);
      if (left?.left === true) this.#expect(backend);
      this.#sockets.push({
        backend,
        socket: new VhostUserSocket({
          ...shared,
          turns: left,
          path,
          backend: options.watch ? new WatchedBackend(backend, options.watch(path)) : backend,
          mac,
          log: log.child(`vhost-user ${path}`),
        }),
      });
    });
    options.taps?.forEach((name, i) => {
      this.#tapPlaces.push({ name, segment: place(sockets.length + i) });
    });
    if (options.capture !== undefined) this.#capture = new SegmentCapture(segments, this.#bells, options.capture);
  }

  /** Frames for a front end that reconnects, as others may have done already, wait for it. */
  #expect(backend: VhostNet): void {
    backend.expect(true);
    setTimeout(() => {
      backend.expect(false);
    }, RECONNECT_MS).unref();
  }

  /** Frames that were not captured because they came faster than they could be written. */
  get captureMissed(): number {
    return this.#capture?.missed ?? 0;
  }

  /** @throws InteropError when a socket cannot be made, or a TAP cannot be had; nothing is left then. */
  async open(): Promise<void> {
    try {
      for (const { name, segment } of this.#tapPlaces) {
        const tap = new Tap({ name, queues: this.#queuePairs, log: this.#log });
        this.#taps.push({ tap, detach: attachNetdevToWorker(segment, tap, this.#bells) });
      }
      for (const { socket } of this.#sockets) socket.open();
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  get statistics(): readonly VhostUserSocketStatistics[] {
    return this.#sockets.map(({ socket, backend }) => ({
      path: socket.path,
      session: socket.session,
      connections: socket.connections,
      refused: socket.refused,
      counters: backend.counters.snapshot(),
      rings: Array.from({ length: 2 * backend.maxQueuePairs }, (_, index) => {
        const { kicks, calls, chains } = backend.ringStatistics(index) ?? { kicks: 0, calls: 0, chains: 0 };
        return { kicks, calls, chains };
      }),
    }));
  }

  /** Transmit is what the host's network stack sent. */
  get taps(): readonly { readonly name: string; readonly counters: PortStatistics }[] {
    return this.#taps.map(({ tap }) => ({ name: tap.name, counters: tap.counters.snapshot() }));
  }

  /** The worker's own numbers: rounds, sleeps. */
  get worker(): VhostWorker['statistics'] {
    return this.#worker.statistics;
  }

  /** Kills the data plane's thread, as a crash would: for tests of survival. It goes on with another, and front ends see nothing of it. */
  kill(): Promise<void> {
    return this.#pool.kill();
  }

  /** Ends every connection, removes the sockets, stops the threads. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    await Promise.all(this.#sockets.map(({ socket }) => socket.close()));
    for (const { tap, detach } of this.#taps) {
      detach();
      tap.close();
    }
    this.#poll.close();
    // The worker first: what it has captured by then is in the rings.
    await this.#pool.close();
    this.#turns?.close();
    this.#capture?.close();
    this.#bells.close();
  }
}

/** Everything whose whole behaviour is here: what the data plane carries, and the control queue's commands. */
function offeredFeatures(queuePairs: number, mtu: number | undefined, hashReport: boolean): FeatureSet {
  const control = [net.VIRTIO_NET_F_CTRL_VQ, net.VIRTIO_NET_F_CTRL_RX, net.VIRTIO_NET_F_CTRL_VLAN, net.VIRTIO_NET_F_CTRL_RX_EXTRA];
  const commands = [net.VIRTIO_NET_F_CTRL_MAC_ADDR, net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, ...(queuePairs > 1 ? [net.VIRTIO_NET_F_MQ] : [])];
  const config = [net.VIRTIO_NET_F_MAC, net.VIRTIO_NET_F_STATUS, ...(mtu === undefined ? [] : [net.VIRTIO_NET_F_MTU])];
  const all = FeatureSet.of(VIRTIO_F_VERSION_1, VHOST_USER_F_PROTOCOL_FEATURES, VHOST_F_LOG_ALL, ...control, ...commands, ...config).or(
    net.NET_DATA_PLANE_FEATURES,
  );
  // The protocol's feature words end at bit 63. Spreading needs queues; reports make every header longer, and are for who asks.
  const rss = queuePairs > 1 ? [] : [net.VIRTIO_NET_F_RSS, ...(hashReport ? [] : [net.VIRTIO_NET_F_HASH_TUNNEL])];
  return all.without(FeatureSet.of(net.VIRTIO_NET_F_RSS_CONTEXT, ...rss, ...(hashReport ? [] : [net.VIRTIO_NET_F_HASH_REPORT])));
}

/** Beside the first socket. Without it, what a killed process had committed and not carried out is lost or repeated, and nothing else changes. */
function openTurns(native: Native, { sockets, topology, queuePairs }: VhostUserOptions, log: Log): TurnFile | undefined {
  if (sockets.length > MOST_TURN_PORTS) return undefined;
  const file = TurnFile.open(native, `${sockets[0]}.turns`, JSON.stringify([sockets, topology, queuePairs]));
  if (typeof file !== 'string') return file;
  log.trace(`no record of turns: ${file}`);
  return undefined;
}

/** The same for a path every time, locally administered. */
function macFor(path: string): Uint8Array {
  const hash = createHash('sha256').update(path).digest();
  return Uint8Array.from([0x52, 0x54, 0x00, ...hash.subarray(0, 3)]);
}

function checkOptions({ sockets, taps = [], topology, queuePairs = 1, mtu, macs }: VhostUserOptions): void {
  const wrong = (message: string): never => {
    throw new InteropError('NICBOX_VHOST_USER_OPTION', message);
  };
  if (sockets.length === 0) wrong('give at least one socket path');
  if (new Set(sockets).size !== sockets.length) wrong('each socket path may be given once');
  if (new Set(taps).size !== taps.length) wrong('each TAP may be given once');
  const ends = sockets.length + taps.length;
  if (topology === 'link' && ends % 2 !== 0)
    wrong(`${ends} ${taps.length > 0 ? 'sockets and TAPs' : 'sockets'} cannot be joined in pairs: give an even number, or use a switch`);
  if (!Number.isInteger(queuePairs) || queuePairs < 1 || queuePairs > 64) wrong(`queue pairs ${queuePairs}: 1 to 64`);
  if (macs !== undefined && macs.length > sockets.length) wrong(`${macs.length} MAC addresses for ${sockets.length} sockets`);
  if (mtu !== undefined) checkMtu(mtu);
}

/** Starts vhost-user back ends for network devices; resolves when every socket listens (client mode: tries to connect). @throws InteropError */
export async function serveVhostUser(options: VhostUserOptions): Promise<VhostUserServer> {
  const server = new VhostUserServer(options);
  await server.open();
  return server;
}
