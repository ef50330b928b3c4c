// What the ports of an embedded switch are called: that is how a segment's ports and the switch's find each other.

export const PHYSICAL_FUNCTION = 'pf';

export function uplinkName(uplink: number): string {
  return `uplink${uplink}`;
}

export function functionName(vf: number): string {
  return `vf${vf}`;
}

/** The port that stands for another one in the host: what no rule fits comes out of it, and what is sent into it goes to that port. */
export function representorOf(port: string): string {
  return `${port}-rep`;
}
