// The configuration generation (virtio 1.4 4.1.4.3.1, device MUST): differs once a field that changed had been read. Moving only then also keeps 256 changes in a row from bringing it
// back to a value that the driver saw before them.

export class ConfigGeneration {
  #value = 0;
  #readSinceChange = false;

  get value(): number {
    return this.#value;
  }

  /** The driver reads a field. */
  read(): void {
    this.#readSinceChange = true;
  }

  /** A field has changed. */
  moved(): void {
    if (!this.#readSinceChange) return;
    this.#readSinceChange = false;
    this.#value = (this.#value + 1) & 0xff;
  }

  /** Whatever was read before the save counts as read. */
  restore(value: number): void {
    this.#value = value;
    this.#readSinceChange = true;
  }
}
