// A recording as the source of a session: played at a speed, waiting for the server, and going back to its beginning.

import { Player } from './player.js';
import { encodeAdvance, encodeEvents, encodeReset, eventsPerMessage } from './protocol.js';

export class RecordingFeed {
  kind = 'recording';
  /** A recording can wait: when the view is paused, so is the playback. */
  waits = true;

  #recording;
  #speed = 1;
  #playing = false;
  #player = null;
  #connection = null;
  #mostEvents = 1;
  #advanceSent = new Map(); // end of a window → when the ADVANCE went out

  /**
   * @param {string} name
   * @param {import('./protocol.js').Recording} recording
   */
  constructor(name, recording) {
    this.name = name;
    this.#recording = recording;
  }

  get width() {
    return this.#recording.width;
  }

  get height() {
    return this.#recording.height;
  }

  /** What the hello says of this source. */
  helloFor() {
    return {};
  }

  get position() {
    return this.#player?.position ?? this.#recording.t[0];
  }

  get start() {
    return this.#recording.t[0];
  }

  get end() {
    return this.#player.end;
  }

  get rate() {
    return this.#player.rate;
  }

  get behind() {
    return this.#player?.slow ?? false;
  }

  /** Bytes of memory for an input that is kept; the recording is there anyway. */
  bytesOf() {
    return 0;
  }

  /** Use a connection from now on; `at` is where to begin. */
  connect(connection, windowUs, at = this.start) {
    this.#connection = connection;
    this.#advanceSent.clear();
    this.#makePlayer(windowUs, at);
  }

  onWelcome({ window, max_message_bytes: most }, resumed) {
    this.#mostEvents = eventsPerMessage(most);
    if (resumed) this.#player.wake();
    else this.#makePlayer(window.us, this.position);
  }

  onAck(sequence) {
    this.#player.onAck(sequence);
  }

  tick(nowMs) {
    if (this.#connection.hasRoom) this.#player.tick(nowMs);
  }

  setPlaying(playing) {
    this.#playing = playing;
    if (playing) this.#player?.play();
    else this.#player?.pause();
  }

  setSpeed(speed) {
    this.#speed = speed;
    this.#player?.setSpeed(speed);
  }

  /** Membranes to rest, and on from a time. */
  seek(time) {
    this.#player.seek(time);
  }

  /** The part of the recording that a window held, and how long its answer took in ms. */
  inputOf({ t_start: start, t_end: end }, nowMs) {
    const roundTrip = nowMs - (this.#advanceSent.get(end) ?? NaN);
    this.#advanceSent.delete(end);
    return { input: { kind: 'events', recording: this.#recording, start, end }, roundTrip };
  }

  /** What is to be seen before the first answer. */
  get preview() {
    const { windowUs, position } = this.#player;
    const start = Math.floor(position / windowUs) * windowUs;
    return { kind: 'events', recording: this.#recording, start, end: start + windowUs };
  }

  /** The same recording for another session. */
  async again() {
    return new RecordingFeed(this.name, this.#recording);
  }

  close() {}

  #makePlayer(windowUs, at) {
    this.#player = new Player(this.#recording, windowUs, {
      events: (from, to) => {
        for (let start = from; start < to; start += this.#mostEvents) {
          const end = Math.min(start + this.#mostEvents, to);
          this.#connection.send((sequence) => encodeEvents(sequence, this.#recording, start, end));
        }
      },
      advance: (time) => {
        this.#advanceSent.set(time, performance.now());
        return this.#connection.send((sequence) => encodeAdvance(sequence, time));
      },
      reset: () => this.#connection.send(encodeReset),
    });
    this.#player.setSpeed(this.#speed);
    this.#player.begin(at);
    if (this.#playing) this.#player.play();
  }
}
