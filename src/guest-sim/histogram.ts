// A latency histogram: 16 linear steps in every power of two of nanoseconds, so within 6 per cent at any scale, with nothing allocated per sample.

const STEPS = 16;

export class Histogram {
  readonly #counts = new Float64Array(48 * STEPS);
  count = 0;
  max = 0;

  add(nanos: number): void {
    const value = nanos < 1 ? 1 : nanos;
    const power = Math.floor(Math.log2(value));
    const step = Math.floor((value / 2 ** power - 1) * STEPS);
    const at = Math.min(power * STEPS + step, this.#counts.length - 1);
    this.#counts[at] = (this.#counts[at] as number) + 1;
    this.count++;
    if (nanos > this.max) this.max = nanos;
  }

  /** Takes another's samples in. */
  merge(other: Histogram): void {
    for (let i = 0; i < this.#counts.length; i++) this.#counts[i] = (this.#counts[i] as number) + (other.#counts[i] as number);
    this.count += other.count;
    if (other.max > this.max) this.max = other.max;
  }

  /** Nanoseconds that `fraction` of the samples do not exceed; 0 when there are none. */
  quantile(fraction: number): number {
    if (this.count === 0) return 0;
    let left = Math.ceil(fraction * this.count);
    for (let i = 0; i < this.#counts.length; i++) {
      left -= this.#counts[i] as number;
      // The upper end of the step, but never more than was seen.
      if (left <= 0) return Math.min(this.max, 2 ** Math.floor(i / STEPS) * (1 + ((i % STEPS) + 1) / STEPS));
    }
    return this.max;
  }
}
