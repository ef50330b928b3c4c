// How the 82576's physical function calls its driver (datasheet 7.3): with MSI-X a vector for each pair of queues and one for everything else; with MSI or the line one interrupt for all, whose causes ICR has. Either way what
// fired masks itself (EIAM, IAM) until polling has found the rings empty.

import type { GuestBus } from '#core/guest-bus';
import type { AdvancedPairs } from './advanced-pairs.ts';
import * as k from './igb-constants.ts';
import type { InterruptStyle } from './igb-options.ts';
import { IgbError, type IgbRegisters } from './igb-registers.ts';
import { Msi } from './msi.ts';
import { Msix, type VectorSpace } from './msix.ts';
import type { ConfigAccess } from './pci-config.ts';
import type { PciDevice } from './pci-enumerate.ts';

const { CAUSE, REG } = k;
/** MSI-X entry of everything that is no queue's, and of the first pair. */
const OTHER_VECTOR = 0;
export const FIRST_PAIR_VECTOR = 1;
const OTHER_CAUSES = CAUSE.LSC | CAUSE.VMMB | CAUSE.DOUTSYNC;
const QUEUE_CAUSES = CAUSE.TXDW | CAUSE.RXDW | CAUSE.RXDMT0;
const ALL_CAUSES = OTHER_CAUSES | QUEUE_CAUSES;

export interface IgbInterruptsParts {
  readonly bus: GuestBus;
  readonly config: ConfigAccess;
  readonly device: PciDevice;
  readonly vectors: VectorSpace;
  readonly registers: IgbRegisters;
  /** Undefined: the best there is. */
  readonly style: InterruptStyle | undefined;
  /** Causes other than queues', as ICR has them; all ones when the device is gone. */
  readonly onCauses: (causes: number) => void;
}

export class IgbInterrupts {
  readonly style: InterruptStyle;
  /** Of what is no queue's alone. */
  count = 0;
  readonly #parts: IgbInterruptsParts;
  readonly #msix: Msix | undefined;
  readonly #msi: Msi | undefined;
  #pairs: AdvancedPairs | undefined;

  /** @throws IgbError when the device has not what was asked for */
  constructor(parts: IgbInterruptsParts) {
    const { bus, config, device, vectors, style } = parts;
    this.#parts = parts;
    this.#msix = style === undefined || style === 'msix' ? Msix.find(bus, config, device, vectors) : undefined;
    if (style === 'msix' && !this.#msix) throw new IgbError('ERR_IGB_MSIX', 'the 82576 has no usable MSI-X capability');
    this.#msi = !this.#msix && style !== 'intx' ? Msi.find(bus, config, device, vectors) : undefined;
    if (style === 'msi' && !this.#msi) throw new IgbError('ERR_IGB_MSI', 'the 82576 has no MSI capability');
    this.style = this.#msix ? 'msix' : this.#msi ? 'msi' : 'intx';
  }

  /** Sets everything up with all causes off, for these pairs, of which pair i has queue `queueOf(i)`. @throws IgbError when the platform is out of vectors */
  start(pairs: AdvancedPairs, queueOf: (pair: number) => number, itr: number): void {
    const { registers } = this.#parts;
    this.#pairs = pairs;
    if (this.#msix) this.#startMessages(this.#msix, pairs, queueOf, itr);
    else {
      if (this.#msi && !this.#msi.enable(() => this.#onShared())) throw new IgbError('ERR_IGB_VECTORS', 'the platform is out of interrupt vectors');
      // 8.8.8: no Multiple_MSIX; ICR is cleared and IAM applied by a read that finds an interrupt, not by one for another device's on the same line.
      registers.write(REG.GPIE, 0);
      registers.write(REG.IAM, ALL_CAUSES);
      registers.write(REG.EIAC, 0);
      registers.write(REG.EIAM, 0);
      registers.write(REG.EITR, itr << k.EITR_SHIFT);
    }
  }

  /** 7.3: each vector clears its cause and masks itself as it fires (EIAC, EIAM). */
  #startMessages(msix: Msix, pairs: AdvancedPairs, queueOf: (pair: number) => number, itr: number): void {
    const { registers } = this.#parts;
    msix.begin();
    if (!msix.route(OTHER_VECTOR, () => this.#onOther())) throw new IgbError('ERR_IGB_VECTORS', 'the platform is out of interrupt vectors');
    pairs.route(msix);
    msix.finish();
    const mask = pairs.vectors | (1 << OTHER_VECTOR);
    registers.write(REG.GPIE, k.GPIE_NSICR | k.GPIE_MULTIPLE_MSIX | k.GPIE_EIAME | k.GPIE_PBA);
    registers.write(REG.EIAC, mask);
    registers.write(REG.EIAM, mask);
    registers.write(REG.IAM, 0);
    for (let i = 0; i < pairs.receive.length; i++) {
      const queue = queueOf(i);
      const entry = (FIRST_PAIR_VECTOR + i) | k.IVAR_VALID;
      const shift = queue < k.POOL_QUEUE_STEP ? 0 : 16;
      registers.change(REG.IVAR + 4 * (queue % k.POOL_QUEUE_STEP), (entry | (entry << 8)) << shift, 0xffff << shift);
      registers.write(REG.EITR + 4 * (FIRST_PAIR_VECTOR + i), itr << k.EITR_SHIFT);
    }
    registers.change(REG.IVAR_MISC, (OTHER_VECTOR | k.IVAR_VALID) << 8, 0xff00);
    registers.write(REG.EITR + 4 * OTHER_VECTOR, 0);
    registers.write(REG.IMS, OTHER_CAUSES);
  }

  /** Everything is set up: causes that are no queue's may come. Pairs are armed as polling finds them empty. */
  open(): void {
    const { registers } = this.#parts;
    if (this.#msix) registers.write(REG.EIMS, 1 << OTHER_VECTOR);
    else registers.write(REG.IMS, OTHER_CAUSES);
  }

  /** A pair was found empty: it may call again. Where all share an interrupt, when every one was; what came since is still in ICR. */
  arm(pair: number): void {
    const { registers } = this.#parts;
    if (this.#msix) registers.write(REG.EIMS, 1 << (FIRST_PAIR_VECTOR + pair));
    else if (this.#pairs?.scheduled === false) registers.write(REG.IMS, ALL_CAUSES);
  }

  #onOther(): void {
    this.count++;
    const { registers, onCauses } = this.#parts;
    const causes = registers.read(REG.ICR);
    onCauses(causes);
    if (causes !== 0xffff_ffff) registers.write(REG.EIMS, 1 << OTHER_VECTOR);
  }

  /** The line is up, perhaps another device's. */
  onLine(): void {
    this.#onShared();
  }

  /** One interrupt for all: reading ICR clears it and masks what IAM names. */
  #onShared(): void {
    const causes = this.#parts.registers.read(REG.ICR);
    if ((causes & CAUSE.INT_ASSERTED) === 0) return;
    const gone = causes === 0xffff_ffff;
    if (gone || (causes & OTHER_CAUSES) !== 0) {
      this.count++;
      this.#parts.onCauses(causes);
    }
    // Whatever it was, polling ends with everything allowed again.
    if (!gone) this.#pairs?.onShared((causes & QUEUE_CAUSES) !== 0);
  }

  /** Vectors go back to the CPU. Only after the device was reset, or its causes are off. */
  stop(): void {
    this.#msix?.disable();
    this.#msi?.disable();
    this.#pairs = undefined;
  }
}
