// What a network card's embedded switch is told of the port of a virtual function: the `ip link set vf` model. Whoever makes virtual functions calls `configure`; a switch implements it.

export interface VfVlan {
  /** 1 to 4094. */
  readonly id: number;
  /** Priority of tagged frames, 0 to 7. */
  readonly priority: number;
  readonly protocol: '802.1Q' | '802.1ad';
}

export interface VfPortSettings {
  /** The address the station has now: assigned to it, or set by its driver where it may. */
  readonly mac: Uint8Array;
  /** Frames from the port are tagged with it, and only frames tagged with it reach the port, untagged; null: frames pass as they are. */
  readonly vlan: VfVlan | null;
  /** Of what the port sends, in Mbit/s; 0: none is guaranteed, or there is no limit. */
  readonly minRate: number;
  readonly maxRate: number;
  /** auto: as the wire. */
  readonly linkState: 'auto' | 'enable' | 'disable';
  /** Frames from the port with another source address than `mac` are dropped. */
  readonly spoofCheck: boolean;
  /** The port may ask for more than its own: promiscuous mode, other addresses. */
  readonly trust: boolean;
}

export interface VfPorts {
  /** VF `vf` (from 0) came into being or was set otherwise; undefined: it is gone. On the machine's thread, inside the access that brought it about; must not throw. */
  configure(vf: number, settings: VfPortSettings | undefined): void;
}
