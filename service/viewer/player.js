// The playback clock: which part of a recording has been sent, and how far it may run ahead of the answers.
// It reads no clock and opens no connection; time comes in through `tick`, messages go out through an outlet.

import { firstAtOrAfter } from './protocol.js';

const CHUNK_US = 10_000;
const LEAD_WINDOWS = 3;
const LEAD_US = 150_000; // covers the round trip when windows are short
const LONGEST_TICK_MS = 250;
const RATE_MEMORY_MS = 1000;

/**
 * Where the player's messages go.
 *
 * @typedef {object} Outlet
 * @property {(from: number, to: number) => void} events events `from` ≤ i < `to` of the recording
 * @property {(time: number) => void} advance every event before `time` has been sent
 * @property {() => number} reset returns the message's number
 */
export class Player {
  windowUs;
  playing = false;
  speed = 1;
  /** Streamed time per wall-clock time of late, 1 = real time. */
  rate = 1;

  #recording;
  #leadUs;
  #outlet;
  #clock; // µs of the recording that playback has reached
  #sent; // µs up to which everything has been sent
  #next; // index of the first event not yet sent
  #origin; // windows of the sensor's clock before the session's window 0
  #answered; // µs up to which windows have been answered
  #reset = 0; // number of a RESET that is not acknowledged yet
  #lastTick = null;

  /**
   * @param {import('./protocol.js').Recording} recording
   * @param {number} windowUs
   * @param {Outlet} outlet
   */
  constructor(recording, windowUs, outlet) {
    this.#recording = recording;
    this.windowUs = windowUs;
    this.#leadUs = Math.max(LEAD_WINDOWS, Math.ceil(LEAD_US / windowUs)) * windowUs;
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
    this.#lastTick = null;
    this.rate = this.speed;
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
    this.#reset = this.#outlet.reset();
    this.#goTo(time);
  }

  /** Go on from a time in a session that has not seen an event yet. */
  begin(time) {
    this.#reset = 0;
    this.#goTo(time);
    this.#lastTick = null;
    this.rate = this.speed;
  }

  /** Let time pass: send what has become due. */
  tick(nowMs) {
    const elapsed = this.#lastTick === null ? 0 : Math.min(nowMs - this.#lastTick, LONGEST_TICK_MS);
    this.#lastTick = nowMs;
    if (!this.playing || elapsed === 0) return;

    const before = this.#clock;
    const horizon = Math.min(this.#answered + this.#leadUs, this.end);
    this.#clock = Math.max(before, Math.min(before + elapsed * 1000 * this.speed, horizon));
    this.#send();
    const rate = (this.#clock - before) / (elapsed * 1000);
    this.rate += (rate - this.rate) * (1 - Math.exp(-elapsed / RATE_MEMORY_MS));
    if (this.#clock >= this.end && this.#reset === 0) this.seek(this.start);
  }

  /** The server has dealt with every message up to this one. */
  onAck(sequence) {
    if (sequence >= this.#reset) this.#reset = 0;
  }

  /** A window has been answered. Answers from before a reset that is still on its way do not count. */
  onResult(endTime) {
    if (this.#reset === 0) this.#answered = Math.max(this.#answered, endTime);
  }

  /** A connection has been taken up again; answers that were lost on the way are not waited for. */
  onResume(nextSequence, nextWindow) {
    this.#lastTick = null;
    this.rate = this.speed;
    this.onAck(nextSequence - 1);
    if (this.#reset === 0) this.onResult((this.#origin + nextWindow) * this.windowUs);
  }

  #goTo(time) {
    const { t } = this.#recording;
    const index = firstAtOrAfter(t, Math.floor(time / this.windowUs) * this.windowUs);
    this.#next = index < t.length ? index : 0;
    this.#clock = this.#sent = t[this.#next];
    this.#origin = Math.floor(this.#sent / this.windowUs);
    this.#answered = this.#origin * this.windowUs;
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
      if (cut === windowEnd) this.#outlet.advance(cut);
    }
  }
}
