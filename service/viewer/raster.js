// Firing rates as a heat map: a row for each layer, input on top, a column for each window, newest at the right.

import { HISTORY_LENGTH, niceCeiling } from './charts.js';
import { percent } from './format.js';
import { ink } from './theme.js';

/** Below this rate a layer is silent, above the other saturated; the dashboards have the same bounds. */
export const SILENT = 1e-4;
export const SATURATED = 0.6;

/** Windows over which a layer must be silent or saturated to be marked as such. */
const LEAST_WINDOWS = 20;
const FONT = '11px system-ui, sans-serif';
const PADDING = { top: 2, right: 2, bottom: 2, left: 124 };
const MARK_AT = 68; // where the word beside a layer's name begins
const TALLEST_ROW = 26;

export class Raster {
  #canvas;
  #context;
  #summary;
  #reading;
  #low;
  #high;
  #onPoint;
  #width = 0;
  #height = 0;
  #samples = [];
  #pointed = null;
  #names = [];
  #top = 0;
  #cell = null; // {layer, fromRight} that the pointer is at; by keyboard with the sample, which it moves along with

  /**
   * @param {HTMLElement} host a figure
   * @param {(fromRight: ?number) => void} onPoint the reading is at the window that many before the newest
   */
  constructor(host, onPoint) {
    this.#onPoint = onPoint;
    this.#canvas = host.querySelector('canvas');
    this.#summary = host.querySelector('strong');
    this.#reading = host.querySelector('.reading');
    [this.#low, this.#high] = host.querySelectorAll('.scale output');
    this.#context = this.#canvas.getContext('2d');
    this.#canvas.addEventListener('pointermove', (event) => this.#point(this.#cellAt(event.offsetX, event.offsetY)));
    this.#canvas.addEventListener('pointerleave', () => this.#point(null));
    this.#canvas.addEventListener('blur', () => {
      this.#reading.ariaLive = 'off';
      this.#point(null);
    });
    this.#canvas.addEventListener('focus', () => {
      if (!this.#canvas.matches(':focus-visible')) return;
      this.#reading.ariaLive = 'polite';
      this.#move(0, 0);
    });
    this.#canvas.addEventListener('keydown', (event) => this.#onKey(event));
    new ResizeObserver(() => this.#fit()).observe(this.#canvas);
    this.#fit();
  }

  /** Marks of the layers over the windows that are shown: `silent`, `saturated` or nothing. */
  get marks() {
    return this.#names.map((_, layer) => markOf(this.#samples, layer));
  }

  /**
   * @param {object[]} samples oldest first
   * @param {?number} pointed how many before the newest sample the marked window is
   */
  draw(samples, pointed) {
    this.#samples = samples;
    this.#pointed = pointed;
    this.#names = samples.at(-1)?.layers.map(({ name }) => name) ?? [];
    const largest = samples.reduce((most, sample) => Math.max(most, ...sample.layers.map(({ rate }) => rate)), 0);
    const top = Math.min(1, niceCeiling(largest || 0.01));
    // The scale grows at once, and shrinks only when the rates would fill less than a third of it.
    if (top > this.#top || largest < this.#top / 3) this.#top = top;
    this.#low.textContent = percent(samples.length ? 0 : NaN);
    this.#high.textContent = percent(samples.length ? this.#top : NaN);
    this.#follow();
    this.#summary.textContent = samples.length ? `${percent(samples.at(-1 - (pointed ?? 0))?.rate)} of all neurons` : '';
    this.#paint();
    this.#tell();
  }

  /** Keep the cell that the keyboard is at in its window while others come. */
  #follow() {
    if (!this.#cell?.sample) return;
    const at = this.#samples.indexOf(this.#cell.sample);
    const fromRight = at < 0 ? this.#samples.length - 1 : this.#samples.length - 1 - at;
    if (fromRight === this.#cell.fromRight) return;
    this.#cell.fromRight = fromRight;
    this.#onPoint(fromRight);
  }

  #paint() {
    const context = this.#context;
    context.clearRect(0, 0, this.#width, this.#height);
    const { heat, label, silent, saturated, cursor, mark } = ink();
    const rowHeight = this.#rowHeight();
    const columnWidth = this.#columnWidth();
    context.font = FONT;
    context.textBaseline = 'middle';
    for (const [layer, name] of this.#names.entries()) {
      const y = PADDING.top + layer * rowHeight;
      this.#samples.forEach((sample, i) => {
        const rate = sample.layers[layer]?.rate ?? NaN;
        if (!Number.isFinite(rate)) return;
        if (rate < SILENT) context.fillStyle = silent;
        else if (rate > SATURATED) context.fillStyle = saturated;
        else context.fillStyle = heat[Math.min(255, Math.round((rate / this.#top) * 255))];
        const x = this.#x(this.#samples.length - 1 - i);
        context.fillRect(x, y, columnWidth + 0.5, rowHeight - 1);
      });
      const word = markOf(this.#samples, layer);
      context.fillStyle = label;
      context.fillText(name, 0, y + rowHeight / 2);
      if (word) {
        context.fillStyle = word === 'silent' ? silent : saturated;
        context.fillText(`${word === 'silent' ? '○' : '▲'} ${word}`, MARK_AT, y + rowHeight / 2, PADDING.left - MARK_AT - 4);
      }
    }
    const bottom = PADDING.top + this.#names.length * rowHeight - 1;
    context.fillStyle = mark;
    this.#samples.forEach((sample, i) => {
      if (sample.first && i > 0) context.fillRect(Math.round(this.#x(this.#samples.length - 1 - i)) - 1, PADDING.top, 1, bottom);
    });
    const at = this.#cell?.fromRight ?? this.#pointed;
    if (at !== null && at < this.#samples.length) {
      context.strokeStyle = cursor;
      context.strokeRect(this.#x(at) - 0.5, PADDING.top - 0.5, columnWidth + 1, bottom);
    }
    if (this.#cell) {
      context.strokeStyle = cursor;
      context.lineWidth = 2;
      context.strokeRect(this.#x(at) - 1, PADDING.top + this.#cell.layer * rowHeight - 1, columnWidth + 2, rowHeight + 1);
      context.lineWidth = 1;
    }
  }

  /** Write what is under the pointer, or what there is to read. */
  #tell() {
    const sample = this.#cell && this.#samples.at(-1 - this.#cell.fromRight);
    const found = sample?.layers[this.#cell.layer];
    if (!found) {
      this.#say(this.#names.length ? 'Point at a cell, or focus and use the arrows, to read it.' : '');
      return;
    }
    const note = found.rate < SILENT ? ', silent' : found.rate > SATURATED ? ', saturated' : '';
    this.#say(`${found.name}, window ${sample.window}: ${percent(found.rate)} of ${found.neurons.toLocaleString('en')} neurons${note}`);
  }

  #say(text) {
    if (this.#reading.textContent !== text) this.#reading.textContent = text;
  }

  #point(cell) {
    this.#cell = cell;
    this.#onPoint(cell?.fromRight ?? null);
    this.#paint();
    this.#tell();
  }

  #onKey(event) {
    const step = { ArrowLeft: [0, 1], ArrowRight: [0, -1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    this.#move(...step);
  }

  #move(layers, windows) {
    if (!this.#names.length) return;
    const from = this.#cell ?? { layer: 0, fromRight: this.#pointed ?? 0 };
    const clamp = (value, most) => Math.min(Math.max(value, 0), most);
    const fromRight = clamp(from.fromRight + windows, this.#samples.length - 1);
    const layer = clamp(from.layer + layers, this.#names.length - 1);
    this.#point({ layer, fromRight, sample: this.#samples.at(-1 - fromRight) });
  }

  #cellAt(x, y) {
    const fromRight = Math.floor((this.#width - PADDING.right - x) / this.#columnWidth());
    const layer = Math.floor((y - PADDING.top) / this.#rowHeight());
    const inside = fromRight >= 0 && fromRight < this.#samples.length && layer >= 0 && layer < this.#names.length;
    return inside ? { layer, fromRight } : null;
  }

  #columnWidth() {
    return (this.#width - PADDING.left - PADDING.right) / HISTORY_LENGTH;
  }

  #rowHeight() {
    const room = this.#height - PADDING.top - PADDING.bottom;
    return Math.min(TALLEST_ROW, room / Math.max(1, this.#names.length));
  }

  #x(fromRight) {
    return this.#width - PADDING.right - (fromRight + 1) * this.#columnWidth();
  }

  #fit() {
    const ratio = window.devicePixelRatio || 1;
    this.#width = this.#canvas.clientWidth;
    this.#height = this.#canvas.clientHeight;
    this.#canvas.width = Math.round(this.#width * ratio);
    this.#canvas.height = Math.round(this.#height * ratio);
    this.#context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.#paint();
  }
}

/** What a layer has been in all of the last windows. */
function markOf(samples, layer) {
  const last = samples.slice(-LEAST_WINDOWS).map((sample) => sample.layers[layer]?.rate);
  if (last.length < LEAST_WINDOWS) return '';
  if (last.every((rate) => rate < SILENT)) return 'silent';
  return last.every((rate) => rate > SATURATED) ? 'saturated' : '';
}
