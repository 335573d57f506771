// One session: a source, a connection, the results that are kept, and which of them is looked at. It draws nothing.

import { Link, StreamConnection } from './connection.js';
import { explainClose } from './closing.js';
import { sampleOf } from './measurements.js';
import { Code, decodeMask, preferredMaskEncoding } from './protocol.js';
import { Ring } from './ring.js';
import { ask, reason, streamUrl } from './server.js';

const FIRST_GUESS_US = 50_000;
const META_BYTES = 4096; // about what the metadata of a result take in memory
const TRIES_BEFORE_WORD = 3;
const RATE_SPAN_MS = 2000;

/**
 * A result that is kept.
 *
 * @typedef {object} Entry
 * @property {number} id counts up
 * @property {number} bytes
 * @property {object} meta
 * @property {Uint8Array} mask as it came, encoded
 * @property {object} input what the window held: `{kind: 'events', recording, start, end}` or `{kind: 'picture', picture}`
 * @property {object} sample the figures, see measurements.js
 *
 * @typedef {object} View
 * @property {(entry: Entry, ids: Uint8Array) => void} onShow a window is to be drawn
 * @property {(preview: ?object) => void} onEmpty there is no window to show; perhaps events that await one
 * @property {(welcome: object) => void} onWelcome a session has begun
 * @property {() => void} onChange something that is written in words has changed
 * @property {(word: object) => void} onWord something is wrong, see banner.js
 * @property {(key: string) => void} onWordOver
 */
export class Session {
  /** Results of this session's source, the latest ones. */
  ring = new Ring();
  welcome = null;
  windowsAnswered = 0;
  /** Windows that the server has left out because it was behind. */
  windowsLeftOut = 0;
  /** Pixels of each class in the window that is shown. */
  classCounts = {};
  /** What is being loaded, or null. */
  loading = null;

  #view;
  #feed = null;
  #connection = null;
  #chosen = { model: null, windowUs: null }; // null: as the server thinks best
  #paused;
  #shown = null; // the entry that is drawn
  #ended = null; // why the session cannot go on: `{code, words}`
  #drawing = false;
  #wanted = null; // the entry to be drawn next
  #answerTimes = [];
  #loads = 0;
  #speed = 1;

  /**
   * @param {View} view
   * @param {boolean} paused
   */
  constructor(view, paused) {
    this.#view = view;
    this.#paused = paused;
  }

  get feed() {
    return this.#feed;
  }

  get paused() {
    return this.#paused;
  }

  get shown() {
    return this.#shown;
  }

  /** Messages on their way. */
  get unanswered() {
    return this.#connection?.unanswered ?? 0;
  }

  get resumes() {
    return this.#connection?.resumes ?? 0;
  }

  /** Name of the model, of the session or chosen for it. */
  get model() {
    return this.#chosen.model ?? this.welcome?.model ?? null;
  }

  get windowUs() {
    return this.#chosen.windowUs ?? this.welcome?.window.us ?? FIRST_GUESS_US;
  }

  /** empty, loading, connecting, playing, behind, paused, reconnecting or ended. */
  get state() {
    if (!this.#feed) return this.loading ? 'loading' : 'empty';
    switch (this.#connection.state) {
      case Link.LIVE:
        if (this.#paused) return 'paused';
        return this.#feed.behind ? 'behind' : 'playing';
      case Link.CONNECTING:
        return 'connecting';
      case Link.WAITING:
        return 'reconnecting';
      case Link.DORMANT:
        return 'paused';
      default:
        return 'ended';
    }
  }

  /** Why the connection is not there, in words; empty if it is. */
  get trouble() {
    if (this.#ended) return this.#ended.words;
    const drop = this.#connection?.lastDrop;
    return this.state === 'reconnecting' && drop ? explainClose(drop.code, drop.reason) : '';
  }

  /** Code that the session was closed with for good, or null. */
  get closeCode() {
    return this.#ended?.code ?? null;
  }

  /** Whole seconds until the next try to connect. */
  get retryInSeconds() {
    return this.state === 'reconnecting' ? Math.max(0, Math.ceil((this.#connection.retryAt - Date.now()) / 1000)) : 0;
  }

  /** Answers in a second, of late. */
  get windowsPerSecond() {
    const since = performance.now() - RATE_SPAN_MS;
    this.#answerTimes = this.#answerTimes.filter((time) => time > since);
    return this.#answerTimes.length / (RATE_SPAN_MS / 1000);
  }

  // Source ------------------------------------------------------------------------------------------------------------

  /**
   * Get a source and begin with it; if another one is asked for meanwhile, that one counts.
   *
   * @param {string} what is loaded, for the user to read
   * @param {() => Promise<object>} make
   * @returns {Promise<?Error>} why there is none
   */
  async load(what, make) {
    const turn = ++this.#loads;
    this.loading = what;
    this.#view.onChange();
    let feed = null;
    let failure = null;
    try {
      feed = await make();
    } catch (error) {
      failure = error;
    }
    if (turn !== this.#loads) {
      feed?.close();
      return null;
    }
    this.loading = null;
    if (feed) this.#begin(feed);
    this.#view.onChange();
    return failure;
  }

  #begin(feed) {
    this.#feed?.close();
    this.#feed = feed;
    if (!feed.waits) this.#paused = false;
    feed.setSpeed?.(this.#speed);
    feed.setPlaying(!this.#paused);
    this.#view.onWordOver();
    this.start();
  }

  // Connection --------------------------------------------------------------------------------------------------------

  /** Begin a new session with the source, from a time of it. */
  start(at = this.#feed.start) {
    this.#connection?.close();
    this.ring = new Ring();
    this.#shown = this.#wanted = null;
    this.#ended = null;
    this.windowsLeftOut = 0;
    this.#answerTimes = [];
    this.classCounts = {};
    this.#view.onWordOver('store');
    const feed = this.#feed;
    const { model, windowUs } = this.#chosen;
    const hello = {
      sensor: { width: feed.width, height: feed.height },
      mask: preferredMaskEncoding(),
      metrics: true,
      ...(model && { model }),
      ...(windowUs && { window: { us: windowUs } }),
      ...feed.helloFor(this.windowUs),
    };
    const mine = (run) => (...args) => connection === this.#connection && run(...args);
    const connection = new StreamConnection(streamUrl(), hello, {
      onState: mine(() => this.#onLinkState()),
      onWelcome: mine((welcome, resumed) => this.#onWelcome(welcome, resumed)),
      onAck: mine((sequence) => feed.onAck(sequence)),
      onKept: mine((kept) => this.#onKept(kept)),
      onResult: mine((result) => this.#onResult(result)),
      onEnd: mine((end) => this.#onEnd(end)),
    });
    this.#connection = connection;
    feed.connect(connection, this.windowUs, at);
    this.#view.onEmpty(feed.preview);
    this.#refreshEagerness();
    connection.open();
  }

  /** Begin again with another model or window. */
  choose(change) {
    this.#chosen = { ...this.#chosen, ...change };
    this.#view.onWordOver('session');
    if (this.#feed) this.start(this.#feed.position);
    this.#view.onChange();
  }

  retryNow() {
    this.#connection?.retryNow();
  }

  /** Let time pass: the source sends what is due. */
  tick(nowMs) {
    if (this.#connection?.live && !document.hidden) this.#feed.tick(nowMs);
  }

  /** The page has been hidden or shown. */
  onVisibility() {
    this.#refreshEagerness();
  }

  /** The page is left, perhaps to come back; or the session is given up for good. */
  suspend() {
    this.#connection?.close();
  }

  close() {
    this.#loads++;
    this.suspend();
    this.#feed?.close();
  }

  #refreshEagerness() {
    if (this.#connection) this.#connection.eager = !document.hidden && !(this.#paused && this.#feed.waits);
  }

  #onLinkState() {
    const { state, tries, lastDrop } = this.#connection;
    if (state === Link.WAITING && tries === TRIES_BEFORE_WORD) {
      // A browser does not say of a handshake that it was refused for want of a token; this asks for one then.
      ask('v1/models').catch(() => {});
      const full = lastDrop.code === Code.FULL;
      this.#view.onWord({
        key: 'link',
        title: full ? 'The server has no room for another session' : 'The server cannot be reached',
        detail: lastDrop.problem?.detail ?? `${sentence(explainClose(lastDrop.code, lastDrop.reason))} The page keeps trying, and goes on where it stopped.`,
        actions: [{ label: 'Try now', run: () => this.retryNow() }],
      });
    }
    this.#view.onChange();
  }

  #onWelcome(welcome, resumed) {
    this.#feed.onWelcome(welcome, resumed);
    this.welcome = welcome;
    if (!resumed) {
      this.#view.onEmpty(this.#feed.preview);
      this.#view.onWelcome(welcome);
    }
    this.#view.onWordOver('link');
    this.#view.onChange();
  }

  #onKept(kept) {
    if (kept) {
      this.#view.onWordOver('store');
      return;
    }
    this.#view.onWord({
      key: 'store',
      level: 'notice',
      title: 'The server cannot save the session at the moment',
      detail: 'It goes on, but more has been sent since than this page keeps: if the server is lost now, a new session begins.',
    });
  }

  #onEnd({ code, reason: said, problem, lost }) {
    if (lost) {
      this.start(this.#feed.position);
      this.#view.onWord({
        key: 'session',
        level: 'notice',
        title: 'A new session was started',
        detail: 'The server no longer knew the old one, so the membranes begin at rest.',
      });
      return;
    }
    this.#ended = { code, words: explainClose(code, said) };
    const again = { label: 'Start a new session', run: () => this.#startAllowed() };
    const noModel = code === Code.NOT_FOUND && this.#chosen.model;
    this.#fail(
      problem?.title ?? 'The server ended the session',
      [problem?.detail, this.#ended.words].filter(Boolean).map(sentence).join(' '),
      noModel ? { label: 'Use the default model', run: () => this.choose({ model: null }) } : again,
    );
    this.#view.onChange();
  }

  /** As `start`, once the server takes the token. */
  async #startAllowed() {
    await ask('v1/models').catch(() => {});
    this.start(this.#feed.position);
  }

  #fail(title, detail, action = { label: 'Start a new session', run: () => this.#startAllowed() }) {
    this.#view.onWord({ key: 'session', title, detail, actions: [action] });
  }

  // Results -----------------------------------------------------------------------------------------------------------

  #onResult({ meta, mask }) {
    const now = performance.now();
    const { input, roundTrip } = this.#feed.inputOf(meta, now);
    const bytes = mask.length + META_BYTES + this.#feed.bytesOf(input);
    this.ring.push({ meta, mask, input, bytes, us: meta.t_end - meta.t_start, sample: sampleOf(meta, roundTrip) });
    this.windowsAnswered++;
    this.windowsLeftOut += meta.skipped?.dropped ?? 0;
    this.#answerTimes.push(now);
    if (!this.#paused) this.#show(this.ring.last);
  }

  /** Draw an entry; if others are asked for meanwhile, the last of them comes next. */
  async #show(entry) {
    this.#wanted = entry;
    if (this.#drawing) return;
    this.#drawing = true;
    while (this.#wanted) {
      const [next, ring] = [this.#wanted, this.ring];
      try {
        const ids = await decodeMask(next.mask, next.meta.mask);
        // Unless the view has been frozen meanwhile, or another session has begun.
        if (this.#wanted && ring === this.ring) this.#draw(next, ids);
      } catch (error) {
        this.#fail('A mask could not be shown', reason(error));
      }
      if (this.#wanted === next) this.#wanted = null;
    }
    this.#drawing = false;
  }

  #draw(entry, ids) {
    this.#shown = entry;
    this.classCounts = countClasses(ids);
    this.#view.onShow(entry, ids);
  }

  // View --------------------------------------------------------------------------------------------------------------

  /** Freeze the view. A source that can wait is halted too; a camera streams on. */
  pause() {
    if (this.#paused) return;
    this.#paused = true;
    this.#wanted = null;
    this.#feed?.setPlaying(false);
    this.#refreshEagerness();
    this.#view.onChange();
  }

  /** Follow the newest window; a source that was halted goes on. */
  resume() {
    this.#paused = false;
    this.#feed?.setPlaying(true);
    if (this.#connection?.state === Link.CLOSED) this.start(this.#feed.position);
    else this.#refreshEagerness();
    if (this.ring.last) this.#show(this.ring.last);
    this.#view.onChange();
  }

  /** Pause and look at a kept window, by its place from the oldest one. */
  scrub(index) {
    const entry = this.ring.at(Math.min(Math.max(index, 0), this.ring.length - 1));
    if (!entry) return;
    this.pause();
    this.#show(entry);
  }

  /** Pause and go so many windows back or on. */
  step(windows) {
    const from = this.#wanted ?? this.#shown ?? this.ring.last;
    if (from) this.scrub(this.ring.indexOf(from) + windows);
  }

  /** Play recordings so many times as fast as they were made. */
  setSpeed(speed) {
    this.#speed = speed;
    this.#feed?.setSpeed?.(speed);
  }

  /** Membranes to rest, and on from a time of a recording. */
  seek(time) {
    if (!this.#feed?.waits) return;
    if (this.#connection.state === Link.CLOSED) this.start(time);
    else this.#feed.seek(time);
    this.#shown = this.#wanted = null;
    this.#view.onEmpty(this.#feed.preview);
  }

  /** Membranes to rest, from the beginning. */
  restart() {
    if (!this.#feed) return;
    if (this.#feed.waits) this.seek(this.#feed.start);
    else this.start();
  }
}

/** How many pixels each class has: `{id: pixels}`, classes that do not occur left out. */
function countClasses(ids) {
  const counts = new Uint32Array(256);
  for (const id of ids) counts[id]++;
  return Object.fromEntries([...counts.entries()].filter(([, pixels]) => pixels > 0));
}

function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}${text.endsWith('.') ? '' : '.'}`;
}
