// What a guest asks of its e1000. Plain cloneable data; each of the four techniques of "Lightning fast networking in your virtual machine" that the driver takes part in is a
// field of its own.

/** Interrupt moderation, in the datasheet's own units (13.4.18, 13.4.30, 13.4.31, 13.4.44, 13.4.46); 0 turns each off. */
export interface E1000Moderation {
  /** ITR: least time between interrupts, in 256 ns. */
  readonly itr?: number;
  /** RDTR, RADV: wait for more frames after each one, and at most since the first, in 1.024 us. */
  readonly rdtr?: number;
  readonly radv?: number;
  /** TIDV, TADV: the same for transmitted frames; frames ask for it (IDE) when tidv is not 0. */
  readonly tidv?: number;
  readonly tadv?: number;
}

export interface E1000Options {
  /** Descriptors in each ring, a multiple of 8, 16 to 4096. Default 256. */
  readonly ringSize?: number;
  readonly moderation?: E1000Moderation;
  /** While a transmit interrupt is awaited the tail is only remembered; the interrupt writes it. */
  readonly sendCombining?: boolean;
  /** Use the shared block (CSB) of a device that has one. Default false. */
  readonly csb?: boolean;
  /** Frames of up to this many bytes of payload; beyond 1500 long packets are enabled. Default 1500. */
  readonly mtu?: number;
  readonly promiscuous?: boolean;
  /** VLAN ids to receive; tags are stripped and inserted by the device. Absent: tags are left alone. */
  readonly vlans?: readonly number[];
  /** Answer and send PAUSE frames. Default true. */
  readonly flowControl?: boolean;
  /** Looks in vain, for frames and (with the shared block) for room, before an interrupt is asked for. Default 0. */
  readonly busyPolls?: number;
}

const SMALLEST_RING = 16;
const LARGEST_RING = 4096;

/** @throws RangeError */
export function checkE1000Options(options: E1000Options): void {
  const { ringSize = 256, mtu = 1500, moderation = {}, vlans = [] } = options;
  if (!(Number.isInteger(ringSize) && ringSize >= SMALLEST_RING && ringSize <= LARGEST_RING && ringSize % 8 === 0))
    throw new RangeError(`ring size ${ringSize}: give a multiple of 8 from ${SMALLEST_RING} to ${LARGEST_RING}`);
  if (!(Number.isInteger(mtu) && mtu >= 68 && mtu <= 16110)) throw new RangeError(`mtu ${mtu}: give 68 to 16110`);
  for (const [name, value] of Object.entries(moderation))
    if (!(Number.isInteger(value) && value >= 0 && value <= 0xffff)) throw new RangeError(`${name} ${value}: give 0 to 65535`);
  for (const id of vlans) if (!(Number.isInteger(id) && id >= 0 && id <= 0xfff)) throw new RangeError(`VLAN id ${id}: give 0 to 4095`);
}
