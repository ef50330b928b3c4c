// Judges a driver that uses the legacy interface of a transitional device (virtio 1.4 4.1.4.10, 2.7.2): registers in an I/O BAR, and queues of one piece. What it learns about queues it passes
// on to `DriverJudge`, as `PciJudge` does.

import { fromWords, LEGACY_BIT } from '../features.ts';
import { NET_CONFIG, STATUS } from '../layout.ts';
import { LEGACY, type LegacyField, legacyPlace } from '../legacy-bench.ts';
import type { DriverJudge } from './judge.ts';

const PAGE = 4096;
/** Where the vectors stand while MSI-X is on, and what is behind the registers otherwise. */
const VECTORS = 20;
const VECTORS_END = 24;
const CONFIG_BYTES = 64;
/** Registers, vectors and any configuration. */
export const LEGACY_BLOCK = VECTORS_END + CONFIG_BYTES;

/** The device, looked at without the driver's knowledge. */
export interface LegacyPeek {
  readonly msixOn: boolean;
  /** A byte of BAR 0. */
  port(offset: number): number;
}

export class LegacyJudge {
  readonly #rings: DriverJudge;
  readonly #peek: LegacyPeek;
  #offered: number | undefined;
  #accepted = 0;
  #select = 0;
  readonly #sizes = new Map<number, number>();
  /** Status as the driver last wrote it. */
  status = 0;
  /** The driver has used the interface. */
  used = false;

  constructor(rings: DriverJudge, peek: LegacyPeek) {
    this.#rings = rings;
    this.#peek = peek;
  }

  #check(clause: string, what: string, seen: unknown, expected: unknown): void {
    this.#rings.findings.check(clause, what, seen, expected);
  }

  /** The register, if it is one of that width; its configuration has no name. */
  #register(offset: number, size: number): LegacyField | undefined {
    this.used = true;
    const vectors = this.#peek.msixOn;
    const names = Object.keys(LEGACY) as LegacyField[];
    const name = names.find((field) => LEGACY[field][0] === offset && LEGACY[field][1] === size && (offset < VECTORS || vectors));
    if (offset < VECTORS) this.#check('legacy.41', `${size} bytes at ${offset}: a register of BAR 0`, name !== undefined, true);
    else
      this.#check(
        'legacy.44',
        `${size} bytes at ${offset}, MSI-X ${vectors ? 'on' : 'off'}: a vector, or configuration`,
        name !== undefined || !vectors || offset >= VECTORS_END,
        true,
      );
    return name;
  }

  read(offset: number, size: number, value: number): void {
    const name = this.#register(offset, size);
    if (name === 'device_features') this.#offered = value;
    if (name === 'queue_size') this.#sizes.set(this.#select, value);
  }

  /** Before it takes effect. */
  write(offset: number, size: number, value: number): void {
    const name = this.#register(offset, size);
    if (offset < VECTORS) this.#check('legacy.31', 'queue_size written', name === 'queue_size', false);
    switch (name) {
      case 'driver_features':
        this.#features(value);
        break;
      case 'queue_select':
        this.#select = value;
        break;
      case 'queue_address':
        this.#queue(value);
        break;
      case 'queue_notify':
        this.#notified(value);
        break;
      case 'device_status':
        this.#statusWritten(value);
        break;
      default:
    }
  }

  #features(value: number): void {
    const bit = (n: number): number => (value >>> n) & 1;
    if (this.#offered !== undefined && ((this.#offered >>> LEGACY_BIT.ANY_LAYOUT) & 1) === 1)
      this.#check('legacy.14', 'ANY_LAYOUT accepted, as it was offered', bit(LEGACY_BIT.ANY_LAYOUT), 1);
    this.#check('legacy.16', 'bit 30 accepted', bit(LEGACY_BIT.BAD_FEATURE), 0);
    this.#accepted = value;
  }

  #statusWritten(value: number): void {
    if (value === 0) {
      this.#rings.reset();
      this.#accepted = 0;
      this.#sizes.clear();
    } else this.#check('legacy.8', 'FEATURES_OK written to the legacy status', value & STATUS.FEATURES_OK, 0);
    if ((value & ~this.status & STATUS.DRIVER_OK) !== 0) {
      const at = this.#peek.msixOn ? VECTORS_END : VECTORS;
      this.#rings.configured(Uint8Array.from({ length: NET_CONFIG.rss_max_key_size[0] }, (_, i) => this.#peek.port(at + i)));
      this.#rings.started();
    }
    this.status = value;
  }

  #queue(page: number): void {
    if (page === 0) return void this.#rings.queueStopped(this.#select);
    const size = this.#sizes.get(this.#select);
    this.#check('legacy.31', `size of queue ${this.#select} read before its address was written`, size !== undefined, true);
    if (size === undefined || size === 0) return;
    // Feature bits hold once the first queue goes by them: there is no FEATURES_OK.
    this.#rings.negotiated(undefined, fromWords([this.#accepted]));
    const { descriptors, driver, device } = legacyPlace(page * PAGE, size);
    const length = device + 6 + 8 * size - descriptors;
    this.#check(
      'legacy.32',
      `queue ${this.#select}: memory for all of its ${length} bytes`,
      this.#rings.memory.view.bytes(descriptors, length) !== undefined,
      true,
    );
    this.#rings.queueEnabled(this.#select, { size, desc: descriptors, driver, device });
  }

  #notified(queue: number): void {
    this.#rings.notified(queue, queue, 2);
    const found = this.#rings.ring(queue)?.exposed ?? 0;
    this.#rings.findings.that(
      'legacy.34',
      `queue ${queue}: buffers in the available ring behind its descriptors, when it is notified`,
      found > 0,
      'some',
      found,
    );
  }
}
