// What the suite is pointed at: one virtio-net device behind PCI, as a driver and the other end of the cable see it. Everything may answer at once or later, so that a
// device in this process, one behind a socket and one in a simulator are the same to the cases.

export type Awaitable<T> = T | Promise<T>;
export type AccessBytes = 1 | 2 | 4;

/** What a frame on the wire asks of its receiver, in the words of struct virtio_net_hdr (virtio 1.4 5.1.9). Absent: nothing, the frame is complete. */
export interface WireOffload {
  readonly flags?: number;
  readonly gsoType?: number;
  readonly headerLength?: number;
  readonly gsoSize?: number;
  readonly csumStart?: number;
  readonly csumOffset?: number;
  readonly outerTransport?: number;
  readonly innerNetwork?: number;
}

/** What someone with his hands on the device can do, if the target lets one. */
export interface Hands {
  /** Plugs or pulls the cable. */
  setLink?(up: boolean): Awaitable<void>;
  /** Asks the driver to announce itself, as after a migration. */
  announce?(): Awaitable<void>;
  /** Puts the device into an error it cannot recover from by itself. */
  breakDown?(): Awaitable<void>;
}

export interface Target {
  /** RAM the suite may fill, in the addresses the device uses: at least 8 MiB. */
  readonly ram: { readonly base: number; readonly size: number };
  /** What the wire can carry beside complete frames. Absent: nothing. */
  readonly wireOffloads?: boolean;
  /** Whether a message that is sent twice before it is taken counts as two. */
  readonly countsMessages: boolean;
  readonly hands?: Hands;
  /** Whether configuration space can be reached beyond its first 256 bytes. Absent: no. */
  readonly extendedConfig?: boolean;
  /** Virtual function `n`, from 1, as a device with a wire of its own; what is not its own (memory, time) is the physical function's. Its BARs are where the SR-IOV capability puts them. */
  readonly virtualFunction?: ((n: number) => Target) | undefined;
  /** The device's own configuration space. Offsets are naturally aligned. */
  configRead(offset: number, size: AccessBytes): Awaitable<number>;
  configWrite(offset: number, size: AccessBytes, value: number): Awaitable<void>;
  /** The device's BARs by number; the target has given them addresses. */
  barRead(bar: number, offset: number, size: AccessBytes): Awaitable<number>;
  barWrite(bar: number, offset: number, size: AccessBytes, value: number): Awaitable<void>;
  memoryRead(address: number, length: number): Awaitable<Uint8Array>;
  memoryWrite(address: number, bytes: Uint8Array): Awaitable<void>;
  /** What an MSI-X table entry is to hold for its message to be counted as number `n`, 0 to 63. */
  message(n: number): { readonly address: number; readonly data: number };
  /** Numbers of the messages that arrived since the last call, in order where the target knows it. */
  messages(): Awaitable<number[]>;
  /** The level of the device's INTx line. */
  intx(): Awaitable<boolean>;
  /** Puts a frame (Ethernet header to payload) on the wire, towards the device. Takes effect by the next `settle`. */
  send(frame: Uint8Array, offload?: WireOffload): Awaitable<void>;
  /** Frames the device has put on the wire since the last call. */
  sent(): Awaitable<Uint8Array[]>;
  /** Lets this much of the device's time pass, in nanoseconds. */
  advance(nanos: number): Awaitable<void>;
  /** Until the device has done all it can do without more time, buffers or frames; what it wrote and signalled can be seen. */
  settle(): Awaitable<void>;
  close(): Awaitable<void>;
}

/**
 * Devices that differ in what no driver can choose. Ordinary: offers all it has. notification-data: offers NOTIFICATION_DATA besides. transitional: has the legacy interface, too.
 * sr-iov: a physical function of two virtual ones, which are ordinary devices.
 * A target that has no such device opens its ordinary one, and cases skip what is not offered.
 */
export type Model = 'ordinary' | 'notification-data' | 'transitional' | 'sr-iov';

/** Opens a device in its power-on state, again and again. */
export interface TargetSource {
  /** As reports call it. */
  readonly name: string;
  open(model?: Model): Awaitable<Target>;
  close?(): Awaitable<void>;
}
