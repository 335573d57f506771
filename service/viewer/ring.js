// The latest results of a session, so that one can go back to them: as many as fit into so many bytes.

/** Most bytes that a session keeps: masks as they came, and pictures of a camera. */
export const KEPT_BYTES = 48 * 2 ** 20;

/**
 * @template {{bytes: number, us: number}} Entry
 */
export class Ring {
  #entries = [];
  #bytes = 0;
  #limit;
  #nextId = 0;

  /** @param {number} limit in bytes */
  constructor(limit = KEPT_BYTES) {
    this.#limit = limit;
  }

  get length() {
    return this.#entries.length;
  }

  get bytes() {
    return this.#bytes;
  }

  get first() {
    return this.#entries[0] ?? null;
  }

  get last() {
    return this.#entries.at(-1) ?? null;
  }

  /** Add the newest; the oldest make room for it. */
  push(entry) {
    entry.id = this.#nextId++;
    this.#entries.push(entry);
    this.#bytes += entry.bytes;
    while (this.#bytes > this.#limit && this.#entries.length > 1) this.#bytes -= this.#entries.shift().bytes;
  }

  at(index) {
    return this.#entries[index] ?? null;
  }

  /** Place of an entry, counted from the oldest that is kept; one that has made room counts as the oldest. */
  indexOf(entry) {
    return Math.max(0, entry.id - this.#entries[0].id);
  }

  /** At most `n` entries that end with this one. */
  endingWith(entry, n) {
    const end = this.indexOf(entry) + 1;
    return this.#entries.slice(Math.max(0, end - n), end);
  }
}
