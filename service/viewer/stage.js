// A session as it is seen: picture and mask, what state it is in, and the controls of its time.

import { Banner } from './banner.js';
import { clock, count } from './format.js';
import { InputLayer, MaskLayer } from './render.js';
import { KEPT_BYTES } from './ring.js';
import { Session } from './session.js';

const LINK_TEXT = {
  empty: 'No source',
  loading: 'Loading',
  connecting: 'Connecting',
  playing: 'Live',
  behind: 'Behind',
  paused: 'Paused',
  reconnecting: 'Reconnecting',
  ended: 'Closed',
};
const MEGABYTE = 2 ** 20;

export class Stage {
  /** @type {HTMLElement} */
  element;
  session;
  maskLayer;
  number = 0;

  #inputLayer;
  #banner;
  #parts;
  #handlers;
  #seeking = false;

  /**
   * @param {HTMLTemplateElement} template
   * @param {boolean} paused
   * @param {{onChoose: () => void, onClose: () => void, onWelcome: () => void, onShow: () => void}} handlers
   */
  constructor(template, paused, handlers) {
    this.#handlers = handlers;
    this.element = template.content.cloneNode(true).firstElementChild;
    const find = (selector) => this.element.querySelector(selector);
    this.#parts = {
      choose: find('.choose'),
      close: find('.close'),
      frames: find('.frames'),
      frozen: find('.frozen'),
      history: find('.history'),
      inspect: find('.inspect'),
      kept: find('.kept'),
      link: find('.link'),
      linkNote: find('.link-note'),
      linkText: find('.link-text'),
      live: find('.live'),
      message: find('.message'),
      model: find('.model'),
      number: find('.choose b'),
      panes: find('.panes'),
      play: find('.play'),
      position: find('.position'),
      rate: find('.rate'),
      shownAt: find('.shown-at'),
      source: find('.source'),
      speed: find('.speed select'),
      time: find('.time'),
    };
    this.#banner = new Banner(find('.banner'));
    this.#inputLayer = new InputLayer(find('canvas.input'));
    this.maskLayer = new MaskLayer(find('canvas.mask'));
    this.session = new Session(
      {
        onShow: (entry, ids) => this.#onShow(entry, ids),
        onEmpty: (preview) => this.#onEmpty(preview),
        onWelcome: (welcome) => {
          this.maskLayer.setClasses(welcome.classes);
          handlers.onWelcome();
        },
        onChange: () => this.refreshText(),
        onWord: (word) => this.say(word),
        onWordOver: (key) => this.#banner.clear(key),
      },
      paused,
    );
    this.#bind();
  }

  /** Show that something is wrong, and what can be done. */
  say(word) {
    this.#banner.show(word);
  }

  silence(key) {
    this.#banner.clear(key);
  }

  setNumber(number, only) {
    this.number = number;
    this.#parts.number.textContent = number;
    this.element.setAttribute('aria-label', `Session ${number}`);
    this.#parts.close.setAttribute('aria-label', `Close session ${number}`);
    this.#parts.close.hidden = only;
  }

  setChosen(chosen, only) {
    this.element.classList.toggle('chosen', chosen && !only);
    this.#parts.choose.setAttribute('aria-pressed', chosen);
  }

  focus() {
    this.#parts.choose.focus();
  }

  close() {
    this.session.close();
    this.element.remove();
  }

  /** Everything that is written in words. */
  refreshText() {
    const { session } = this;
    const parts = this.#parts;
    const { state, feed, shown, ring, paused, loading, resumes } = session;
    this.element.dataset.source = feed?.kind ?? '';
    setText(parts.source, feed?.name ?? 'No source');
    setText(parts.model, feed ? [`${feed.width}×${feed.height}`, session.model].filter(Boolean).join(' · ') : '');
    // A camera streams on while the view is frozen.
    const link = state === 'paused' && feed?.waits === false && !document.hidden ? (feed.behind ? 'behind' : 'playing') : state;
    parts.link.dataset.state = link;
    setText(parts.linkText, LINK_TEXT[link]);
    parts.link.title = session.trouble;
    setText(parts.linkNote, this.#linkNote(link, resumes));
    setText(parts.message, this.#message(feed, loading, state));
    parts.message.hidden = !parts.message.textContent;
    parts.frozen.hidden = !paused || !shown;
    setText(parts.frozen, feed?.waits === false ? 'View paused, the camera streams on' : 'Paused');
    parts.play.setAttribute('aria-label', paused ? 'Play' : 'Pause');
    parts.play.dataset.playing = !paused;
    parts.live.disabled = !paused;
    parts.live.classList.toggle('on', !paused);
    parts.history.disabled = ring.length < 2;
    setText(parts.shownAt, shown ? this.#shownAt(shown) : '');
    const seconds = ring.length ? (ring.length * ring.last.us) / 1e6 : 0;
    const size = `${(ring.bytes / MEGABYTE).toFixed(1)} of ${KEPT_BYTES / MEGABYTE} MB`;
    setText(parts.kept, ring.length ? `Kept: ${seconds.toFixed(1)} s · ${size}` : '');
    if (feed?.kind === 'camera') {
      const { frames, bytes } = feed.rate;
      const left = session.windowsLeftOut ? ` · ${count(session.windowsLeftOut)} windows left out` : '';
      const flow = `${frames} frames/s · ${(bytes / 1e6).toFixed(1)} MB/s`;
      setText(parts.frames, `${flow} · ${count(feed.sent)} sent · ${count(feed.dropped)} dropped${left}`);
      parts.frames.classList.toggle('slow', feed.behind);
    } else if (feed) {
      setText(parts.rate, this.#rate(state, feed));
      parts.rate.classList.toggle('slow', state === 'behind');
    }
  }

  /** What need not follow every window: the sliders. */
  refreshDrawings() {
    const { ring, shown, paused, feed } = this.session;
    const { history, position } = this.#parts;
    history.max = Math.max(0, ring.length - 1);
    history.value = paused && shown && ring.length ? ring.indexOf(shown) : history.max;
    fill(history);
    if (shown) history.setAttribute('aria-valuetext', this.#shownAt(shown));
    if (feed?.kind === 'recording' && !this.#seeking) {
      const us = feed.position - feed.start;
      this.#showTime(us);
      position.value = Math.round((us / (feed.end - feed.start)) * position.max);
      fill(position);
    }
  }

  #onShow(entry, ids) {
    if (entry.input.kind === 'events') {
      this.#inputLayer.drawEvents(entry.input.recording, entry.input.start, entry.input.end);
    } else if (entry.input.picture) {
      this.#inputLayer.drawPicture(entry.input.picture);
    }
    this.maskLayer.draw(ids, entry.meta.mask.width, entry.meta.mask.height);
    if (this.session.paused) this.refreshText();
    this.#handlers.onShow();
  }

  #onEmpty(preview) {
    const { feed } = this.session;
    this.#parts.panes.style.setProperty('--aspect', feed.width / feed.height);
    if (preview) this.#inputLayer.drawEvents(preview.recording, preview.start, preview.end);
    else this.#inputLayer.clear();
    this.maskLayer.clear();
    this.refreshText();
  }

  #message(feed, loading, state) {
    if (loading) return `Loading ${loading}…`;
    if (state === 'ended') return `Closed: ${this.session.trouble}`;
    return feed ? '' : 'No source yet. Choose one above, or drop a recording here.';
  }

  #linkNote(state, resumes) {
    const { session } = this;
    if (state === 'reconnecting') return session.retryInSeconds > 1 ? `in ${session.retryInSeconds} s` : '';
    if (state === 'ended') return session.closeCode ? `code ${session.closeCode}` : '';
    const lag = session.feed?.waits ? `${session.feed.rate.toFixed(1)}× real time` : 'drops frames';
    return [state === 'behind' && lag, resumes && `resumed ${resumes}×`].filter(Boolean).join(' · ');
  }

  #shownAt(entry) {
    const { ring, feed, paused } = this.session;
    const at = `Window ${count(entry.meta.window)} · ${((entry.meta.t_end - (feed.start ?? 0)) / 1e6).toFixed(2)} s`;
    const back = ((ring.last.id - entry.id) * entry.us) / 1e6;
    return paused && back > 0 ? `${at} · ${back.toFixed(2)} s back` : at;
  }

  #rate(state, feed) {
    if (state !== 'playing' && state !== 'behind') return '';
    const rate = `${feed.rate.toFixed(1)}× real time`;
    return feed.behind ? `${rate} · answers lag` : rate;
  }

  #showTime(us) {
    const { feed } = this.session;
    setText(this.#parts.time, `${clock(us)} / ${clock(feed.end - feed.start)}`);
    this.#parts.position.setAttribute('aria-valuetext', `${(us / 1e6).toFixed(1)} seconds`);
  }

  #bind() {
    const { session } = this;
    const { choose, close, play, live, history, position, speed } = this.#parts;
    this.element.addEventListener('pointerdown', () => this.#handlers.onChoose());
    this.element.addEventListener('focusin', () => this.#handlers.onChoose());
    choose.addEventListener('click', () => this.#handlers.onChoose());
    close.addEventListener('click', () => this.#handlers.onClose());
    play.addEventListener('click', () => (session.paused ? session.resume() : session.pause()));
    live.addEventListener('click', () => session.resume());
    history.addEventListener('input', () => {
      fill(history);
      session.scrub(Number(history.value));
    });
    for (const button of this.element.querySelectorAll('.restart')) {
      button.addEventListener('click', () => session.restart());
    }
    const chosenTime = () =>
      session.feed.start + (position.value / position.max) * (session.feed.end - session.feed.start);
    position.addEventListener('input', () => {
      this.#seeking = true;
      fill(position);
      this.#showTime(chosenTime() - session.feed.start);
    });
    position.addEventListener('change', () => {
      this.#seeking = false;
      session.seek(chosenTime());
    });
    speed.addEventListener('change', () => session.setSpeed(Number(speed.value)));
    this.#bindInspect();
  }

  /** Name the class under the pointer. */
  #bindInspect() {
    const { inspect } = this.#parts;
    for (const canvas of this.element.querySelectorAll('canvas')) {
      canvas.addEventListener('pointermove', (event) => {
        const { welcome, feed } = this.session;
        const u = event.offsetX / canvas.clientWidth;
        const v = event.offsetY / canvas.clientHeight;
        const id = this.maskLayer.classAt(u, v);
        const name = welcome?.classes.find((item) => item.id === id)?.name;
        inspect.hidden = !name;
        if (name) inspect.textContent = `${name} · ${Math.floor(u * feed.width)}, ${Math.floor(v * feed.height)}`;
      });
      canvas.addEventListener('pointerleave', () => (inspect.hidden = true));
    }
  }
}

/** Colour a slider's track up to its thumb. */
export function fill(slider) {
  slider.style.setProperty('--fill', `${slider.max > 0 ? (100 * slider.value) / slider.max : 100}%`);
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
