// The playback clock: which part of a recording has been sent, and how far it may run ahead of the answers.
// It reads no clock and opens no connection; time comes in through `tick`, messages go out through an outlet.

import { firstAtOrAfter } from './protocol.js';

const CHUNK_US = 10_000;
const LEAD_WINDOWS = 3;
const LEAD_US = 100_000; // covers the round trip when windows are short
const LONGEST_TICK_MS = 250;
const RATE_MEMORY_MS = 1000;

/**
 * Where the player's messages go.
 *
 * @typedef {object} Outlet
 * @property {(from: number, to: number) => void} events events `from` ≤ i < `to` of the recording
 * @property {(time: number) => number} advance every event before `time` has been sent; returns the message's number
 * @property {() => void} reset
 */
export class Player {
  windowUs;
  playing = false;
  speed = 1;
  /** Streamed time per wall-clock time of late, 1 = real time. */
  rate = 1;

  #recording;
  #lead; // windows that may be unanswered at a time
  #outlet;
  #clock; // µs of the recording that playback has reached
  #sent; // µs up to which everything has been sent
  #next; // index of the first event not yet sent
  #unanswered = []; // number of each ADVANCE without an acknowledgement, oldest first
  #lastTick = null;

  /**
   * @param {import('./protocol.js').Recording} recording
   * @param {number} windowUs
   * @param {Outlet} outlet
   */
  constructor(recording, windowUs, outlet) {
    this.#recording = recording;
    this.windowUs = windowUs;
    this.#lead = Math.max(LEAD_WINDOWS, Math.ceil(LEAD_US / windowUs));
    this.#outlet = outlet;
    this.#goTo(this.start);
  }

  get start() {
    return this.#recording.t[0];
  }

  /** End of the recording's last window. */
  get end() {
    const { t } = this.#recording;
    return this.#windowEnd(t[t.length - 1]);
  }

  get position() {
    return this.#clock;
  }

  /** Whether playback waits for the server. */
  get slow() {
    return this.playing && this.rate < 0.93 * this.speed;
  }

  play() {
    this.playing = true;
    this.wake();
  }

  pause() {
    this.playing = false;
  }

  setSpeed(speed) {
    this.speed = speed;
    this.rate = speed;
  }

  /** Reset the session and go on from a time; the clock may go back across a reset. */
  seek(time) {
    this.#outlet.reset();
    this.#goTo(time);
  }

  /** Go on from a time in a session that has not seen an event yet. */
  begin(time) {
    this.#unanswered = [];
    this.#goTo(time);
    this.wake();
  }

  /** Count time from the next tick on, as after a break. */
  wake() {
    this.#lastTick = null;
    this.rate = this.speed;
  }

  /** Let time pass: send what has become due. */
  tick(nowMs) {
    const elapsed = this.#lastTick === null ? 0 : Math.min(nowMs - this.#lastTick, LONGEST_TICK_MS);
    this.#lastTick = nowMs;
    if (!this.playing || elapsed === 0) return;

    const before = this.#clock;
    const windowStart = Math.floor(this.#sent / this.windowUs) * this.windowUs;
    const horizon = Math.min(windowStart + (this.#lead - this.#unanswered.length) * this.windowUs, this.end);
    this.#clock = Math.max(before, Math.min(before + elapsed * 1000 * this.speed, horizon));
    this.#send();
    const rate = (this.#clock - before) / (elapsed * 1000);
    this.rate += (rate - this.rate) * (1 - Math.exp(-elapsed / RATE_MEMORY_MS));
    if (this.#clock >= this.end) this.seek(this.start);
  }

  /** The server has dealt with every message up to this one, and answered the windows that they closed. */
  onAck(sequence) {
    while (this.#unanswered.length && this.#unanswered[0] <= sequence) this.#unanswered.shift();
  }

  #goTo(time) {
    const { t } = this.#recording;
    const index = firstAtOrAfter(t, Math.floor(time / this.windowUs) * this.windowUs);
    this.#next = index < t.length ? index : 0;
    this.#clock = this.#sent = t[this.#next];
  }

  #windowEnd(time) {
    return (Math.floor(time / this.windowUs) + 1) * this.windowUs;
  }

  #send() {
    for (;;) {
      const windowEnd = this.#windowEnd(this.#sent);
      const cut = Math.min((Math.floor(this.#sent / CHUNK_US) + 1) * CHUNK_US, windowEnd);
      if (cut > this.#clock) return;
      const to = firstAtOrAfter(this.#recording.t, cut);
      if (to > this.#next) this.#outlet.events(this.#next, to);
      this.#next = to;
      this.#sent = cut;
      if (cut === windowEnd) this.#unanswered.push(this.#outlet.advance(cut));
    }
  }
}
