// One session on the stream: hello, numbered messages, acknowledgements, and taking the session up again with its
// resume token when the connection drops. Every message is kept until the server has acknowledged it, or, while its state
// store is away, as long as there is room.

import { Code, FormatError, Kind, VERSION, encodeEnd, parseMessage } from './protocol.js';
import { subprotocols } from './token.js';

/** States of a connection. */
export const Link = Object.freeze({
  CONNECTING: 'connecting', // a socket is open or opening, no welcome yet
  LIVE: 'live', // welcome has come
  WAITING: 'waiting', // dropped; the next try is due at `retryAt`
  DORMANT: 'dormant', // dropped while nobody needs it; `eager = true` takes it up again
  CLOSED: 'closed', // ended for good
});

const FIRST_DELAY_MS = 250;
const LONGEST_DELAY_MS = 8000;
const SILENCE_MS = 20000;
/** So many bytes of messages are kept that are answered but not acknowledged: the server's state store is away. */
const MOST_KEPT_BYTES = 64 * 2 ** 20;

/** Closures after which trying again would not help. */
const FINAL_CODES = new Set([
  Code.ENDED,
  Code.MESSAGE_TOO_BIG,
  Code.HELLO,
  Code.REVOKED,
  Code.NOT_FOUND,
  Code.TAKEN_OVER,
  Code.TOO_LARGE,
  Code.UNUSABLE,
]);

/**
 * @typedef {object} Handlers
 * @property {(state: string) => void} onState
 * @property {(welcome: object, resumed: boolean) => void} onWelcome
 * @property {(result: {meta: object, mask: Uint8Array}) => void} onResult
 * @property {(sequence: number) => void} onAck every message up to this one has been answered
 * @property {(kept: boolean) => void} onKept false: an answered message that only this server has is no longer kept here;
 *   true: the server has everything for good again
 * @property {(end: {code: number, reason: string, problem: ?object, lost: boolean}) => void} onEnd the session cannot go on; `lost`: the
 *   server no longer knows it, so a new one may be started
 */
export class StreamConnection {
  /** Wall-clock time of the next try, in ms, while WAITING. */
  retryAt = 0;
  /** Why the last connection dropped: `{code, reason, problem}`, or null. */
  lastDrop = null;
  /** How often the session has been taken up again. */
  resumes = 0;

  #url;
  #hello;
  #handlers;
  #WebSocket;
  #socket = null;
  #state = Link.CLOSED;
  #token = null;
  #nextSequence = 1;
  #pending = []; // {sequence, buffer}, oldest first; what the server might still lose
  #pendingBytes = 0;
  #mostKeptBytes;
  #keeps = true; // whether all that the server might still lose is here
  #answered = 0; // number of the last message whose results are all here
  #turn = 1; // number of the message that this connection gives results for
  #windows = new Set(); // windows of the message after `#answered` that are here already
  #credit = 1;
  #problem = null;
  #tries = 0;
  #eager = true;
  #retryTimer = 0;
  #silenceTimer = 0;

  /**
   * @param {string|URL} url
   * @param {object} hello fields of the hello besides `type` and `version`
   * @param {Handlers} handlers
   * @param {{WebSocket?: typeof WebSocket, mostKeptBytes?: number}} [options]
   */
  constructor(url, hello, handlers, { WebSocket = globalThis.WebSocket, mostKeptBytes = MOST_KEPT_BYTES } = {}) {
    this.#mostKeptBytes = mostKeptBytes;
    this.#url = url;
    this.#hello = hello;
    this.#handlers = handlers;
    this.#WebSocket = WebSocket;
  }

  get state() {
    return this.#state;
  }

  get live() {
    return this.#state === Link.LIVE;
  }

  /** Failed tries since the server last answered anything. */
  get tries() {
    return this.#tries;
  }

  /** How many messages may be sent now; what is sent beyond that waits in the socket. */
  get credit() {
    return this.live && this.hasRoom ? this.#credit - this.unanswered : 0;
  }

  /** Bytes of the messages that are kept. */
  get keptBytes() {
    return this.#pendingBytes;
  }

  /** Whether there is room for more messages: what is not answered has a bound as well. */
  get hasRoom() {
    return this.#pendingBytes < 2 * this.#mostKeptBytes;
  }

  /** Messages that the server has not answered yet. */
  get unanswered() {
    return this.#nextSequence - 1 - this.#answered;
  }

  /** Whether a dropped connection is taken up again at once, or only when this is set. */
  set eager(value) {
    this.#eager = value;
    if (value && this.#state === Link.DORMANT) this.open();
    else if (!value && this.#state === Link.WAITING) this.#enter(Link.DORMANT);
  }

  open() {
    clearTimeout(this.#retryTimer);
    this.#problem = null;
    const url = new URL(this.#url, globalThis.location?.href);
    // Proxies choose the server by the session's name.
    url.searchParams.set('session', this.#token ? this.#token.split('.')[0] : randomName());
    const socket = new this.#WebSocket(url, subprotocols());
    socket.binaryType = 'arraybuffer';
    socket.onopen = () => {
      const subject = this.#token ? { resume: this.#token } : this.#hello;
      socket.send(JSON.stringify({ type: 'hello', version: VERSION, ...subject }));
    };
    socket.onmessage = (event) => {
      this.#listen();
      try {
        if (typeof event.data === 'string') this.#onText(JSON.parse(event.data));
        else this.#onBinary(event.data);
      } catch (error) {
        if (!(error instanceof FormatError) && !(error instanceof SyntaxError)) throw error;
        this.#finish(Code.UNUSABLE, '', { title: 'The answer of the server could not be read', detail: error.message });
      }
    };
    socket.onclose = (event) => this.#onClose(event.code, event.reason);
    this.#socket = socket;
    this.#enter(Link.CONNECTING);
    this.#listen();
  }

  /** Try again now instead of when the back-off is over. */
  retryNow() {
    if (this.#state === Link.WAITING || this.#state === Link.DORMANT) this.open();
  }

  /**
   * Send a message, at once or as soon as the connection is back.
   *
   * @param {(sequence: number) => ArrayBuffer} encode
   * @returns {number} the message's number
   */
  send(encode) {
    const sequence = this.#nextSequence++;
    const buffer = encode(sequence);
    this.#pending.push({ sequence, buffer });
    this.#pendingBytes += buffer.byteLength;
    if (this.live) this.#socket.send(buffer);
    return sequence;
  }

  /** End the session; nothing is reported any more. */
  close() {
    if (this.live) this.send(encodeEnd);
    this.#discardSocket();
    this.#enter(Link.CLOSED);
  }

  #enter(state) {
    clearTimeout(this.#retryTimer);
    if (state !== Link.CONNECTING && state !== Link.LIVE) clearTimeout(this.#silenceTimer);
    if (this.#state === state) return;
    this.#state = state;
    this.#handlers.onState(state);
  }

  #onText(message) {
    if (message.type === 'error') {
      this.#problem = message;
    } else if (message.type === 'welcome') {
      this.#onWelcome(message);
    }
  }

  #onWelcome(welcome) {
    const resumed = this.#token !== null;
    this.#token = welcome.resume;
    const next = this.#pending.length ? this.#pending[0].sequence : this.#nextSequence;
    if (resumed && next > welcome.next_sequence) {
      // The server remembers less than it has acknowledged, and what it lacks is no longer here.
      this.#finish(Code.NOT_FOUND, '', null, true);
      return;
    }
    this.#turn = next;
    this.#credit = welcome.credit ?? 1;
    if (resumed) this.resumes++;
    this.#enter(Link.LIVE);
    this.#handlers.onWelcome(welcome, resumed);
    // Everything without an acknowledgement goes out again, also what the server has seen: it answers again.
    for (const message of this.#pending) this.#socket.send(message.buffer);
  }

  #onBinary(buffer) {
    const message = parseMessage(buffer);
    if (message.kind === Kind.RESULT) {
      // A server that took the session up gives again what the one before it gave.
      if (this.#turn <= this.#answered || this.#windows.has(message.window)) return;
      this.#windows.add(message.window);
      this.#handlers.onResult(message);
    } else if (message.kind === Kind.ACK) {
      this.#tries = 0;
      this.#turn = Math.max(this.#turn, message.answered + 1);
      this.#forget(message.acked);
      this.#credit = message.credit ?? this.#credit;
      if (message.answered <= this.#answered) return;
      this.#answered = message.answered;
      this.#windows.clear();
      this.#handlers.onAck(message.answered);
    }
  }

  /** Let go of what the server has for good; and of what it has answered, oldest first, if that is too much to keep. */
  #forget(acked) {
    const answered = this.#turn - 1;
    let count = 0;
    for (const { sequence, buffer } of this.#pending) {
      const safe = sequence <= Math.min(acked, answered);
      if (!safe && (sequence > answered || this.#pendingBytes <= this.#mostKeptBytes)) break;
      this.#pendingBytes -= buffer.byteLength;
      count++;
      if (!safe) this.#tell(false);
    }
    this.#pending.splice(0, count);
    if (acked >= answered) this.#tell(true);
  }

  #tell(keeps) {
    if (keeps === this.#keeps) return;
    this.#keeps = keeps;
    this.#handlers.onKept(keeps);
  }

  #onClose(closeCode, reason) {
    const code = this.#problem?.code ?? closeCode;
    if (FINAL_CODES.has(code)) {
      this.#finish(code, reason, this.#problem, code === Code.NOT_FOUND && this.#token !== null);
    } else {
      this.#drop(code, reason);
    }
  }

  #drop(code, reason = '') {
    this.#discardSocket();
    this.lastDrop = { code, reason, problem: this.#problem };
    const delay = Math.min(FIRST_DELAY_MS * 2 ** this.#tries++, LONGEST_DELAY_MS) * (0.75 + 0.5 * Math.random());
    if (!this.#eager) {
      this.#enter(Link.DORMANT);
      return;
    }
    this.retryAt = Date.now() + delay;
    this.#enter(Link.WAITING);
    this.#retryTimer = setTimeout(() => this.open(), delay);
  }

  #finish(code, reason, problem, lost = false) {
    this.#discardSocket();
    this.#enter(Link.CLOSED);
    this.#handlers.onEnd({ code, reason, problem, lost });
  }

  /** A connection that owes us an answer and stays silent for long is as good as dropped. */
  #listen() {
    clearTimeout(this.#silenceTimer);
    this.#silenceTimer = setTimeout(() => {
      if (this.live && this.#answered === this.#nextSequence - 1) this.#listen();
      else this.#drop(Code.LOST);
    }, SILENCE_MS);
  }

  #discardSocket() {
    clearTimeout(this.#silenceTimer);
    clearTimeout(this.#retryTimer);
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }
}

/** A name for a session that nobody else has. */
function randomName() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
