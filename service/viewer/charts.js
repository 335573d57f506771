// Small line charts over the last windows: one canvas each, values in text beside it.

import { ink } from './theme.js';

/** How many windows a chart shows. */
export const HISTORY_LENGTH = 200;

const FONT = '10.5px system-ui, sans-serif';
const PADDING = { top: 6, right: 2, bottom: 4, left: 44 };

/**
 * One line of a chart.
 *
 * @typedef {object} Series
 * @property {string} label
 * @property {string} color its name in theme.js
 * @property {(sample: object) => number} value
 */

export class LineChart {
  #canvas;
  #context;
  #readouts;
  #summary;
  #series = [];
  #format;
  #logarithmic;
  #summarize;
  #top = 0;
  #width = 0;
  #height = 0;
  #drawn = [[], null];

  /**
   * @param {HTMLElement} host an empty figure
   * @param {object} options
   * @param {string} options.title
   * @param {string} options.hint what is measured, in a sentence
   * @param {(value: number) => string} options.format
   * @param {boolean} [options.logarithmic]
   * @param {(value: (series: number) => number) => string} [options.summarize] a headline from the series' values
   * @param {(fromRight: ?number) => void} options.onPoint the pointer is over the sample that many before the newest
   */
  constructor(host, { title, hint, format, logarithmic = false, summarize = null, onPoint }) {
    this.#format = format;
    this.#logarithmic = logarithmic;
    this.#summarize = summarize;

    const caption = document.createElement('figcaption');
    const heading = document.createElement('h3');
    heading.textContent = title;
    heading.title = hint;
    this.#summary = document.createElement('strong');
    caption.append(heading, this.#summary);
    this.#canvas = document.createElement('canvas');
    this.#canvas.setAttribute('role', 'img');
    this.#canvas.setAttribute('aria-label', `${title} over the last ${HISTORY_LENGTH} windows. ${hint}`);
    this.#readouts = document.createElement('ul');
    host.append(caption, this.#canvas, this.#readouts);

    this.#context = this.#canvas.getContext('2d');
    this.#canvas.addEventListener('pointermove', (event) => onPoint(this.#sampleAt(event.offsetX)));
    this.#canvas.addEventListener('pointerleave', () => onPoint(null));
    new ResizeObserver(() => this.#fit()).observe(this.#canvas);
    this.#fit();
  }

  /** @param {Series[]} series later ones are drawn on top */
  setSeries(series) {
    this.#series = series;
    this.#top = 0;
    this.#readouts.replaceChildren(
      ...series.map(({ label, color }) => {
        const item = document.createElement('li');
        const key = document.createElement('i');
        key.style.background = `var(--ink-${color})`;
        const name = document.createElement('span');
        name.textContent = label;
        item.append(key, name, document.createElement('output'));
        return item;
      }),
    );
  }

  /**
   * @param {object[]} samples
   * @param {?number} pointed how many before the newest sample the pointer is
   */
  draw(samples, pointed) {
    this.#drawn = [samples, pointed];
    const context = this.#context;
    context.clearRect(0, 0, this.#width, this.#height);
    if (!samples.length) return;
    const scale = this.#scale(samples);
    this.#drawGrid(scale);
    this.#drawMarks(samples);
    for (const series of this.#series) this.#drawLine(samples, series, scale);
    if (pointed !== null && pointed < samples.length) {
      context.fillStyle = ink().cursor;
      context.fillRect(Math.round(this.#x(pointed)), PADDING.top, 1, this.#height - PADDING.top - PADDING.bottom);
    }
  }

  /** Write values as text: those of one sample, or the mean of several. */
  describe(samples) {
    const mean = (i) => {
      const values = samples.map(this.#series[i].value).filter(Number.isFinite);
      return values.reduce((sum, value) => sum + value, 0) / values.length;
    };
    this.#readouts.querySelectorAll('output').forEach((output, i) => {
      output.textContent = this.#format(mean(i));
    });
    if (this.#summarize) this.#summary.textContent = samples.length ? this.#summarize(mean) : '';
  }

  #fit() {
    const ratio = window.devicePixelRatio || 1;
    this.#width = this.#canvas.clientWidth;
    this.#height = this.#canvas.clientHeight;
    this.#canvas.width = Math.round(this.#width * ratio);
    this.#canvas.height = Math.round(this.#height * ratio);
    this.#context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.draw(...this.#drawn);
  }

  #x(fromRight) {
    const span = this.#width - PADDING.left - PADDING.right - 1;
    return this.#width - PADDING.right - 1 - (fromRight / (HISTORY_LENGTH - 1)) * span;
  }

  #sampleAt(x) {
    const span = this.#width - PADDING.left - PADDING.right - 1;
    const fromRight = Math.round(((this.#width - PADDING.right - 1 - x) / span) * (HISTORY_LENGTH - 1));
    return fromRight < 0 || fromRight >= HISTORY_LENGTH ? null : fromRight;
  }

  /** Map values to pixels, with the values that get a line of their own. */
  #scale(samples) {
    const values = this.#series
      .flatMap(({ value }) => samples.map(value))
      .filter((value) => Number.isFinite(value) && (!this.#logarithmic || value > 0));
    const height = this.#height - PADDING.top - PADDING.bottom;
    const bottom = this.#height - PADDING.bottom;
    const largest = values.reduce((most, value) => Math.max(most, value), 0);
    if (this.#logarithmic) {
      const smallest = values.reduce((least, value) => Math.min(least, value), largest || 1);
      const low = Math.floor(Math.log10(smallest || 0.1));
      const high = Math.max(low + 1, Math.ceil(Math.log10(largest || 1)));
      const step = Math.ceil((high - low) / Math.max(1, Math.floor(height / 18)));
      const ticks = [];
      for (let power = low; power <= high; power += step) ticks.push(10 ** power);
      const y = (value) => bottom - ((Math.log10(Math.max(value, 10 ** low)) - low) / (high - low)) * height;
      return { y, ticks };
    }
    // The axis grows at once, and shrinks only when the lines would fill less than a third of it.
    const top = niceCeiling(largest);
    if (top > this.#top || largest < this.#top / 3) this.#top = top;
    const y = (value) => bottom - (value / this.#top) * height;
    return { y, ticks: height < 36 ? [0, this.#top] : [0, this.#top / 2, this.#top] };
  }

  #drawGrid({ y, ticks }) {
    const context = this.#context;
    context.font = FONT;
    context.textAlign = 'right';
    context.textBaseline = 'middle';
    for (const tick of ticks) {
      const at = Math.round(y(tick));
      context.fillStyle = ink().grid;
      context.fillRect(PADDING.left, at, this.#width - PADDING.left - PADDING.right, 1);
      context.fillStyle = ink().label;
      context.fillText(this.#format(tick).replace(/\.0+(?!\d)/, ''), PADDING.left - 6, Math.min(Math.max(at, 7), this.#height - 7));
    }
  }

  /** A dotted line where a session was reset. */
  #drawMarks(samples) {
    this.#context.fillStyle = ink().mark;
    samples.forEach((sample, i) => {
      if (!sample.first || i === 0) return;
      const x = Math.round(this.#x(samples.length - 1 - i));
      for (let y = PADDING.top; y < this.#height - PADDING.bottom; y += 4) this.#context.fillRect(x, y, 1, 2);
    });
  }

  #drawLine(samples, { color, value }, { y }) {
    const context = this.#context;
    context.beginPath();
    samples.forEach((sample, i) => {
      const at = value(sample);
      if (Number.isFinite(at)) context.lineTo(this.#x(samples.length - 1 - i), y(at));
    });
    context.strokeStyle = ink()[color];
    context.lineWidth = 1.75;
    context.lineJoin = 'round';
    context.stroke();
  }
}

/** The next round number at or above a value. */
export function niceCeiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value) * power;
}
