// Segmentation in the guest's own software: what a device is asked for with TSO, USO, UFO and their form inside a UDP tunnel, done here byte by byte for a
// device without them, and to say what a receiver of the pieces has to find. Headers are copied for each piece and then put right.

import { fold, get16, get32, set16, set32, sumBytes } from './packets.ts';
import { NET_GSO_TCPV4, NET_GSO_TCPV6, NET_GSO_UDP } from './virtio-constants.ts';

/** A large frame and how it is to be cut; offsets from its start. */
export interface SegmentPlan {
  /** NET_GSO_* without tunnel and ECN bits. */
  readonly gsoType: number;
  /** Payload bytes of a piece. */
  readonly gsoSize: number;
  /** Innermost IP header, transport header and payload. */
  readonly network: number;
  readonly transport: number;
  readonly payload: number;
  /** Outer IP and UDP header of a tunnel; 0 and 0 without one. */
  readonly outerNetwork: number;
  readonly outerTransport: number;
}

const LONGEST = 65_536 + 256;
const TCP_FIN_PSH = 0x09;
const TCP_CWR = 0x80;

export class Segmenter {
  readonly #scratch = new Uint8Array(LONGEST);

  /**
   * Cuts the frame of `length` bytes at `at` and calls `each` with every piece (valid during the call), checksums filled in whatever they held. Returns how many
   * pieces there were; 0: the plan does not fit the frame.
   */
  cut(u8: Uint8Array, at: number, length: number, plan: SegmentPlan, each: (u8: Uint8Array, at: number, length: number) => void): number {
    if (!fits(u8, at, length, plan)) return 0;
    return plan.gsoType === NET_GSO_UDP ? this.#fragment(u8, at, length, plan, each) : this.#segment(u8, at, length, plan, each);
  }

  #segment(u8: Uint8Array, at: number, length: number, plan: SegmentPlan, each: (u8: Uint8Array, at: number, length: number) => void): number {
    const { gsoSize, payload, transport, network } = plan;
    const out = this.#scratch;
    const total = length - payload;
    const tcp = plan.gsoType === NET_GSO_TCPV4 || plan.gsoType === NET_GSO_TCPV6;
    const sequence = tcp ? get32(u8, at + transport + 4) : 0;
    let pieces = 0;
    for (let done = 0; done < total; done += gsoSize) {
      const part = Math.min(gsoSize, total - done);
      const size = payload + part;
      out.set(u8.subarray(at, at + payload), 0);
      out.set(u8.subarray(at + payload + done, at + payload + done + part), payload);
      const flags = transport + 13;
      if (tcp) {
        set32(out, transport + 4, (sequence + done) >>> 0);
        // RFC 3168 6.1.2: CWR on the first only; the end of the data belongs to the last.
        if (done > 0) out[flags] = (out[flags] as number) & ~TCP_CWR;
        if (done + part < total) out[flags] = (out[flags] as number) & ~TCP_FIN_PSH;
      } else set16(out, transport + 4, size - transport);
      finishNetwork(out, network, size, pieces);
      finishTransport(out, network, transport, size, tcp ? 16 : 6, true);
      if (plan.outerTransport > 0) {
        set16(out, plan.outerTransport + 4, size - plan.outerTransport);
        finishNetwork(out, plan.outerNetwork, size, pieces);
        finishTransport(out, plan.outerNetwork, plan.outerTransport, size, 6, get16(u8, at + plan.outerTransport + 6) !== 0);
      }
      each(out, 0, size);
      pieces++;
    }
    return pieces;
  }

  /** UFO: one datagram, its checksum over all of it, in IP fragments. */
  #fragment(u8: Uint8Array, at: number, length: number, plan: SegmentPlan, each: (u8: Uint8Array, at: number, length: number) => void): number {
    const { network, transport } = plan;
    const whole = u8.slice(at, at + length);
    finishNetwork(whole, network, length, 0);
    finishTransport(whole, network, transport, length, 6, true);
    const version = (whole[network] as number) >>> 4;
    const step = plan.gsoSize & ~7;
    if (step === 0) return 0;
    const out = this.#scratch;
    const total = length - transport;
    const head = version === 4 ? transport : transport + 8;
    let pieces = 0;
    for (let done = 0; done < total; done += step) {
      const part = Math.min(step, total - done);
      const more = done + part < total;
      out.set(whole.subarray(0, transport), 0);
      out.set(whole.subarray(transport + done, transport + done + part), head);
      if (version === 4) {
        set16(out, network + 6, (more ? 0x2000 : 0) | (done >>> 3));
        finishNetwork(out, network, head + part, 0);
      } else {
        // The fragment header goes behind the extension headers there are, which the last of them has to say.
        const last = lastNextHeader(out, network, transport);
        out[transport] = out[last] as number;
        out[transport + 1] = 0;
        set16(out, transport + 2, done | (more ? 1 : 0));
        set32(out, transport + 4, 0);
        out[last] = 44;
        finishNetwork(out, network, head + part, 0);
      }
      each(out, 0, head + part);
      pieces++;
    }
    return pieces;
  }
}

/** Everything lies inside the frame and in order; nothing is read beyond it after this. */
function fits(u8: Uint8Array, at: number, length: number, plan: SegmentPlan): boolean {
  const { network, transport, payload, outerNetwork, outerTransport } = plan;
  if (length > LONGEST || plan.gsoSize < 1 || payload >= length) return false;
  const version = (u8[at + network] as number) >>> 4;
  if ((version !== 4 && version !== 6) || network < 14 || transport < network + (version === 4 ? 20 : 40) || payload < transport + 8) return false;
  if (plan.gsoType === NET_GSO_TCPV4 || plan.gsoType === NET_GSO_TCPV6) {
    if (payload < transport + 20) return false;
  }
  if (outerTransport === 0) return true;
  const outer = (u8[at + outerNetwork] as number) >>> 4;
  return (outer === 4 || outer === 6) && outerNetwork >= 14 && outerTransport >= outerNetwork + (outer === 4 ? 20 : 40) && network >= outerTransport + 8;
}

function finishNetwork(u8: Uint8Array, ip: number, size: number, piece: number): void {
  if ((u8[ip] as number) >>> 4 === 6) {
    set16(u8, ip + 4, size - ip - 40);
    return;
  }
  set16(u8, ip + 2, size - ip);
  set16(u8, ip + 4, (get16(u8, ip + 4) + piece) & 0xffff);
  set16(u8, ip + 10, 0);
  set16(u8, ip + 10, ~fold(sumBytes(u8, ip, ((u8[ip] as number) & 15) * 4)) & 0xffff);
}

function finishTransport(u8: Uint8Array, ip: number, transport: number, size: number, field: number, wanted: boolean): void {
  const at = transport + field;
  set16(u8, at, 0);
  if (!wanted) return;
  const value = ~fold(sumBytes(u8, transport, size - transport, pseudoSum(u8, ip, field === 16 ? 6 : 17, size - transport))) & 0xffff;
  set16(u8, at, value === 0 && field === 6 ? 0xffff : value);
}

/** Sum over the pseudo header of a transport packet of `length` bytes below the IP header at `ip`, unfolded. */
export function pseudoSum(u8: Uint8Array, ip: number, protocol: number, length: number): number {
  const addresses = (u8[ip] as number) >>> 4 === 4 ? sumBytes(u8, ip + 12, 8) : sumBytes(u8, ip + 8, 32);
  return addresses + protocol + length;
}

/** Where the byte is that names the header at `transport`. */
function lastNextHeader(u8: Uint8Array, ip: number, transport: number): number {
  let field = ip + 6;
  for (let at = ip + 40; at < transport; ) {
    field = at;
    at += 8 + (u8[at + 1] as number) * 8;
  }
  return field;
}
