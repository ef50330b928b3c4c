// What the steps of a frame's way take in the model of the SR-IOV experiment, and where each figure is from.

/** Nanoseconds each. */
export interface OffloadCosts {
  /** A guest's stack: from a process into a device, and from a device to a process. */
  readonly send: number;
  readonly receive: number;
  /** A byte copied between a process and its kernel, each way. */
  readonly userByte: number;
  /** A hop over a veth pair; a bridge. */
  readonly veth: number;
  readonly bridge: number;
  /** A virtio-net driver, for a frame that it sends and one that it takes. */
  readonly driverSend: number;
  readonly driverReceive: number;
  /** Taking an interrupt; a doorbell without an exit; what an access that leaves the guest takes. */
  readonly interrupt: number;
  readonly kick: number;
  readonly exit: number;
  /** What ringing a host's thread that sleeps takes from the guest; and how long a sleeping thread or processor takes to run. */
  readonly notify: number;
  readonly wake: number;
  /** The host's processor: a turn of vhost's, a frame through vhost, switch and vhost, a byte. */
  readonly hostTurn: number;
  readonly hostFrame: number;
  readonly hostByte: number;
  /** The NIC: a frame and a byte through its pipeline (the longer time counts), and from a doorbell until the frame is in its receiver's memory. */
  readonly nicFrame: number;
  readonly nicByte: number;
  readonly nicLatency: number;
}

export const DEFAULT_COSTS: OffloadCosts = {
  send: 235,
  receive: 375,
  userByte: 0.06,
  veth: 130,
  bridge: 150,
  driverSend: 150,
  driverReceive: 200,
  interrupt: 700,
  kick: 42,
  exit: 700,
  notify: 2000,
  wake: 5000,
  hostTurn: 500,
  hostFrame: 1300,
  hostByte: 0.12,
  nicFrame: 10,
  nicByte: 0.08,
  nicLatency: 1500,
};

/** docs/sriov.md has them at length. */
export const COST_SOURCES: Readonly<Record<keyof OffloadCosts, string>> = {
  send: 'measured, Linux 6.18',
  receive: 'measured, Linux 6.18',
  userByte: 'measured, Linux 6.18',
  veth: 'measured, Linux 6.18',
  bridge: 'measured, Linux 6.18',
  driverSend: "assumed: as a veth's hop",
  driverReceive: 'published: 4.8 Mpps of a core that drops behind a driver, CoNEXT 2018',
  interrupt: 'assumed: posted, without an exit',
  kick: 'measured here, docs/vdpa.md',
  exit: "published: Linux's commit 0c5f81dad46c",
  notify: 'assumed: an exit and a wake-up',
  wake: "published: a few microseconds, Linux's halt polling",
  hostTurn: 'assumed',
  hostFrame: 'measured, Linux 6.18: TAP, bridge, TAP',
  hostByte: 'measured, Linux 6.18: two copies',
  nicFrame: 'published: 100 Mpps to a host, ConnectX-6 Dx',
  nicByte: '100 Gbit/s',
  nicLatency: 'published: two reads across PCIe of 550 ns and a write, SIGCOMM 2018',
};
