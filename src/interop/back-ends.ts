// The back ends of one vhost-user front end, one after the other: connections made or waited for, and introductions. The first has to be fit and there in time; whoever owns them
// judges those that come after it.

import type { Log } from '#core/log';
import { EventPoll } from './event-poll.ts';
import { InteropError } from './interop-error.ts';
import { type Native, openNative } from './native.ts';
import { RequestChannel } from './request-channel.ts';
import { VhostUserDial } from './vhost-user-dial.ts';
import { introduce, type Peer } from './vhost-user-peer.ts';

export interface BackEndsOptions {
  readonly path: string;
  /** Wait for them to connect. */
  readonly listen: boolean;
  /** Milliseconds until the first one has to be there. */
  readonly patience: number;
  readonly log: Log;
  /** Why a back end will not do as the first. */
  readonly lacking: (peer: Peer) => string | undefined;
}

export interface BackEndsOwner {
  /** The next one has introduced itself. */
  adopt(channel: RequestChannel, peer: Peer): void;
  /** A connection ended, perhaps one that was never adopted: `next` is due. */
  lose(channel: RequestChannel, reason: string): void;
}

export class BackEnds {
  readonly native: Native;
  readonly poll: EventPoll;
  owner: BackEndsOwner | undefined;
  readonly #dial: VhostUserDial;

  /** Resolves with what `begin` makes of the first back end, which has said what it can do; it sets `owner`. @throws InteropError, and what `begin` throws */
  static first<T>(options: BackEndsOptions, begin: (back: BackEnds, channel: RequestChannel, peer: Peer) => T): Promise<T> {
    return new Promise((resolve, reject) => void new BackEnds(options, (back, channel, peer) => resolve(begin(back, channel, peer)), reject));
  }

  private constructor(
    { path, listen, patience, log, lacking }: BackEndsOptions,
    begin: (back: BackEnds, channel: RequestChannel, peer: Peer) => void,
    reject: (error: unknown) => void,
  ) {
    const native = openNative();
    const poll = new EventPoll(native);
    this.native = native;
    this.poll = poll;
    let reason = listen ? 'none has connected' : '';
    let channel: RequestChannel | undefined;
    const fail = (error: unknown): void => {
      clearTimeout(timer);
      channel?.close();
      this.close();
      reject(error);
    };
    const timer = setTimeout(
      () => fail(new InteropError('NICBOX_VHOST_USER_PEER', `no vhost-user back end at ${path} within ${patience} ms: ${reason || this.#dial.trouble}`)),
      patience,
    );
    this.#dial = new VhostUserDial({
      ...{ native, poll, path, listen, log },
      onConnection: (fd) => {
        const mine = new RequestChannel(native, poll, fd, (why) => {
          reason = why;
          if (this.owner !== undefined) this.owner.lose(mine, why);
          else this.next();
        });
        channel = mine;
        introduce(mine, (peer) => {
          if (this.owner !== undefined) {
            this.owner.adopt(mine, peer);
            return;
          }
          try {
            const lacks = lacking(peer);
            if (lacks !== undefined) throw new InteropError('NICBOX_VHOST_USER_PEER', `the vhost-user back end at ${path} ${lacks}`);
            begin(this, mine, peer);
            clearTimeout(timer);
          } catch (error) {
            fail(error);
          }
        });
      },
    });
    try {
      this.#dial.open();
    } catch (error) {
      fail(error);
    }
  }

  /** The connection there was is over: makes another. */
  next(): void {
    this.#dial.over();
  }

  close(): void {
    this.#dial.close();
    this.poll.close();
  }
}
