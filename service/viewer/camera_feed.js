// A camera as the source of a session: its frames go to the server, which makes events of them. A frame that the server
// has no credit for, or that would only wait, is dropped here and counted.

import { openCamera } from './camera.js';
import { encodeFrame, encodeReset, frameBytes } from './protocol.js';

/** How many seconds of frames may be on the way; more would only make the answers older. */
const LEAD_S = 0.2;
const LEAST_LEAD = 2;
/** After so long away (a hidden page, a lost connection) the membranes begin at rest: the scene is another one. */
const GAP_MS = 1000;
const BEHIND_MS = 2000;

export class CameraFeed {
  kind = 'camera';
  /** A camera does not wait: when the view is paused, the stream goes on. */
  waits = false;
  sent = 0;
  dropped = 0;

  #camera;
  #format;
  #lead;
  #connection = null;
  #origin = null; // when the first frame was taken: time 0 of the stream
  #due = 0; // when the next frame is to be sent, or dropped
  #lastTick = null;
  #isBack = false; // after a gap
  #lastDropped = -Infinity;
  #sentTimes = []; // of the last second
  #waiting = []; // {t, at, picture} of frames whose windows have not all been answered, oldest first

  /**
   * @param {import('./camera.js').Camera} camera
   * @param {{deviceId: string, width: number, height: number, fps: number}} format
   */
  constructor(camera, format) {
    this.#camera = camera;
    this.#format = format;
    this.#lead = Math.max(LEAST_LEAD, Math.ceil(LEAD_S * format.fps));
  }

  /** Open a camera; see camera.js for how that can fail. */
  static async open(format) {
    return new CameraFeed(await openCamera(format), format);
  }

  set onLost(run) {
    this.#camera.onLost = run;
  }

  get name() {
    return this.#camera.label;
  }

  get width() {
    return this.#format.width;
  }

  get height() {
    return this.#format.height;
  }

  /**
   * What the hello says of this source. Were every window computed, a server that is too slow would fall behind further
   * with every frame; so it leaves out all but the newest that two frames span.
   */
  helloFor(windowUs) {
    const windows = Math.ceil((2 * 1e6) / this.#format.fps / windowUs);
    return { frames: {}, queue: { policy: 'drop-oldest', windows } };
  }

  get preview() {
    return null;
  }

  /** Whether frames were dropped lately. */
  get behind() {
    return performance.now() - this.#lastDropped < BEHIND_MS;
  }

  /** Frames and bytes sent in the last second. */
  get rate() {
    const since = performance.now() - 1000;
    this.#sentTimes = this.#sentTimes.filter((time) => time > since);
    return { frames: this.#sentTimes.length, bytes: this.#sentTimes.length * frameBytes(this.width, this.height) };
  }

  bytesOf(input) {
    return input.picture?.grey.length ?? 0;
  }

  connect(connection) {
    this.#connection = connection;
    this.#origin = null;
    this.#lastTick = null;
    this.#isBack = false;
    this.#waiting = [];
  }

  onWelcome() {}

  onAck() {}

  setPlaying() {}

  tick(nowMs) {
    this.#isBack ||= this.#lastTick !== null && nowMs - this.#lastTick > GAP_MS;
    this.#lastTick = nowMs;
    // A quarter of a frame early is near enough, or a camera at just this rate would lose every other one.
    const period = 1000 / this.#format.fps;
    if (!this.#camera.fresh || nowMs < this.#due - period / 4) return;
    this.#due = Math.max(this.#due + period, nowMs);
    if (this.#connection.credit < 1 || this.#connection.unanswered >= this.#lead) {
      this.dropped++;
      this.#lastDropped = nowMs;
      return;
    }
    this.#send(nowMs);
  }

  /** The newest picture within a window, and how long its answer took in ms. */
  inputOf({ t_end: end }, nowMs) {
    // The frame that ends the window comes at its end or later; the window is of what came before.
    const closing = this.#waiting.find(({ t }) => t >= end - 1);
    while (this.#waiting.length > 1 && this.#waiting[1].t < end) this.#waiting.shift();
    const shown = this.#waiting[0];
    return {
      input: { kind: 'picture', picture: shown?.picture ?? null },
      roundTrip: closing ? nowMs - closing.at : NaN,
    };
  }

  /** The same camera for another session. */
  again() {
    return CameraFeed.open(this.#format);
  }

  close() {
    this.#camera.close();
  }

  #send(nowMs) {
    if (this.#isBack && this.#origin !== null) {
      this.#connection.send(encodeReset);
      this.#waiting = [];
    }
    this.#isBack = false;
    this.#origin ??= nowMs;
    const picture = this.#camera.take();
    const t = Math.round((nowMs - this.#origin) * 1000);
    this.#connection.send((sequence) => encodeFrame(sequence, t, picture));
    this.#waiting.push({ t, at: nowMs, picture });
    this.sent++;
    this.#sentTimes.push(nowMs);
  }
}
