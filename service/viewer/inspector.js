// Numbers, classes and charts of the session that is chosen.

import { HISTORY_LENGTH } from './charts.js';
import { count, milliseconds, si } from './format.js';
import { Legend } from './legend.js';
import { makeCharts } from './measurements.js';
import { Raster } from './raster.js';
import { onInkChange } from './theme.js';

const find = (id) => document.getElementById(id);

export class Inspector {
  #stage = null;
  #legend;
  #raster;
  #charts;
  #pointed = null; // how many windows before the newest the pointer is
  #end = null; // id of the newest window in the charts while the view is frozen
  #stale = true;

  constructor() {
    this.#legend = new Legend(find('classes'), find('show-classes'), (id, visible) =>
      this.#stage.maskLayer.setVisible(id, visible),
    );
    const onPoint = (fromRight) => {
      this.#pointed = fromRight;
      this.#stale = true;
      this.refreshText();
    };
    this.#raster = new Raster(find('raster'), onPoint);
    this.#charts = makeCharts(find, onPoint);
    onInkChange(() => (this.#stale = true));
  }

  /** Marks of the layers in the heat map, from the input down. */
  get layerMarks() {
    return this.#raster.marks;
  }

  /** Show another session. */
  choose(stage) {
    this.#stage = stage;
    this.#end = null;
    this.showClasses();
    this.markStale();
    this.refreshText();
  }

  showClasses() {
    const { maskLayer, session } = this.#stage;
    this.#legend.setClasses(session.welcome?.classes ?? [], (id) => maskLayer.isVisible(id));
  }

  /** Something has come that the charts do not show yet. */
  markStale() {
    this.#stale = true;
  }

  refreshText() {
    const { session } = this.#stage;
    const samples = this.#samples();
    const sum = (value) => samples.reduce((total, sample) => total + value(sample), 0);
    const mean = (value) => sum(value) / samples.length;
    const last = samples.at(-1);
    setText('n-window', last ? count(last.window) : '–');
    setText('n-time', last ? `${((last.end - (session.feed.start ?? 0)) / 1e6).toFixed(2)}\u202fs` : '–');
    setText('n-events', si(sum((s) => s.events) / (sum((s) => s.us) / 1e6)));
    const running = session.state === 'playing' || session.state === 'behind';
    setText('n-windows', running ? session.windowsPerSecond.toFixed(1) : '–');
    setText('n-ms', milliseconds(mean((s) => s.compute)));
    this.#legend.setShares((i) => mean((s) => s.shares[i]));
    for (const chart of this.#charts) chart.describe(samples);
  }

  refreshDrawings() {
    if (!this.#stale) return;
    this.#stale = false;
    const { samples, at } = this.#span();
    for (const chart of this.#charts) chart.draw(samples, this.#pointed ?? at);
    this.#raster.draw(samples, this.#pointed ?? at);
  }

  /** The windows that the charts show, and which of them, from the right, is the one in the picture (null: the newest). */
  #span() {
    const { ring, paused, shown } = this.#stage.session;
    const newest = ring.last;
    if (!newest) return { samples: [], at: null };
    let end = newest;
    if (paused && shown) {
      // The charts stand still, unless that would leave the window in the picture outside.
      const id = Math.min(Math.max(this.#end ?? newest.id, shown.id), shown.id + HISTORY_LENGTH - 1, newest.id);
      this.#end = id;
      end = ring.at(Math.max(0, id - ring.first.id));
    } else {
      this.#end = null;
    }
    const samples = ring.endingWith(end, HISTORY_LENGTH).map((entry) => entry.sample);
    return { samples, at: paused && shown ? Math.max(0, end.id - shown.id) : null };
  }

  /** What the numbers speak of: the window pointed at, the one in a frozen picture, or those of the last second. */
  #samples() {
    const { samples, at } = this.#span();
    const one = this.#pointed ?? at;
    if (one !== null) return samples.slice(samples.length - 1 - one, samples.length - one);
    const us = samples.at(-1)?.us ?? 0;
    return us ? samples.slice(-Math.max(1, Math.round(1e6 / us))) : [];
  }
}

function setText(id, text) {
  const element = find(id);
  if (element.textContent !== text) element.textContent = text;
}
