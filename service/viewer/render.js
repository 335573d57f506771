// Draws what a window showed (events, or a camera's picture) and the mask that answers it, each on a canvas of its own
// at the sensor's resolution.
// The page lays the canvases over each other or side by side and scales them; nothing is drawn twice.

import { firstAtOrAfter } from './protocol.js';

/** Colours of the events, [r, g, b]; picked to stand apart from the Cityscapes palette and from each other. */
export const EVENT_COLORS = Object.freeze({ on: [255, 226, 176], off: [86, 180, 255] });

// Every picture is made pixel by pixel on the CPU, so that is where the canvases belong.
const CONTEXT = { willReadFrequently: true };

/** The greys as pixels. */
const GREYS = Uint32Array.from({ length: 256 }, (_, value) => word([value, value, value], 255));

/** Opacity of a pixel by how many events it had in the window. */
const EVENT_ALPHA = [0, 160, 205, 240, 255];

/** What the sensor saw: the events of a window, or the picture of a camera. */
export class InputLayer {
  #canvas;
  #context;
  #image = null;
  #pixels = null; // the image as one RGBA word per pixel
  #hits = null;
  #palette = [eventPalette(EVENT_COLORS.off), eventPalette(EVENT_COLORS.on)];

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext('2d', CONTEXT);
  }

  /** Draw the events of a recording in [start, end). */
  drawEvents(recording, start, end) {
    const { width, height, t, x, y, p } = recording;
    this.#fit(width, height);
    this.#pixels.fill(0);
    this.#hits.fill(0);
    const most = EVENT_ALPHA.length - 1;
    const last = firstAtOrAfter(t, end);
    for (let i = firstAtOrAfter(t, start); i < last; i++) {
      const at = y[i] * width + x[i];
      if (this.#hits[at] < most) this.#hits[at]++;
      this.#pixels[at] = this.#palette[p[i]][this.#hits[at]];
    }
    this.#context.putImageData(this.#image, 0, 0);
  }

  /** Draw a picture of grey pixels. */
  drawPicture({ width, height, grey }) {
    this.#fit(width, height);
    for (let i = 0; i < grey.length; i++) this.#pixels[i] = GREYS[grey[i]];
    this.#context.putImageData(this.#image, 0, 0);
  }

  clear() {
    this.#context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
  }

  #fit(width, height) {
    if (!resize(this.#canvas, width, height) && this.#image) return;
    this.#image = this.#context.createImageData(width, height);
    this.#pixels = new Uint32Array(this.#image.data.buffer);
    this.#hits = new Uint8Array(width * height);
  }
}

export class MaskLayer {
  #canvas;
  #context;
  #image = null;
  #pixels = null;
  #ids = null;
  #colors = new Uint32Array(256);
  #shown = new Uint32Array(256); // #colors, transparent where a class is hidden
  #hidden = new Set();

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext('2d', CONTEXT);
  }

  /** @param {{id: number, color: number[]}[]} classes ids without a class stay transparent */
  setClasses(classes) {
    this.#colors.fill(0);
    for (const { id, color } of classes) this.#colors[id] = word(color, 255);
    this.#update();
  }

  setVisible(id, visible) {
    if (visible) this.#hidden.delete(id);
    else this.#hidden.add(id);
    this.#update();
  }

  isVisible(id) {
    return !this.#hidden.has(id);
  }

  /** Show a mask: class ids, row by row. */
  draw(ids, width, height) {
    if (resize(this.#canvas, width, height) || !this.#image) {
      this.#image = this.#context.createImageData(width, height);
      this.#pixels = new Uint32Array(this.#image.data.buffer);
    }
    this.#ids = ids;
    this.#paint();
  }

  /** The class under a point of the mask (each coordinate from 0 to 1), or null. */
  classAt(u, v) {
    if (!this.#ids || u < 0 || v < 0 || u >= 1 || v >= 1) return null;
    const { width, height } = this.#canvas;
    return this.#ids[Math.floor(v * height) * width + Math.floor(u * width)];
  }

  clear() {
    this.#ids = null;
    this.#context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
  }

  #update() {
    this.#shown.set(this.#colors);
    for (const id of this.#hidden) this.#shown[id] = 0;
    if (this.#ids) this.#paint();
  }

  #paint() {
    for (let i = 0; i < this.#ids.length; i++) this.#pixels[i] = this.#shown[this.#ids[i]];
    this.#context.putImageData(this.#image, 0, 0);
  }
}

function eventPalette(color) {
  return Uint32Array.from(EVENT_ALPHA, (alpha) => word(color, alpha));
}

/** A colour as the 32-bit word that lies in an ImageData, whatever the machine's byte order. */
function word([r, g, b], alpha) {
  return new Uint32Array(Uint8Array.of(r, g, b, alpha).buffer)[0];
}

function resize(canvas, width, height) {
  if (canvas.width === width && canvas.height === height) return false;
  canvas.width = width;
  canvas.height = height;
  return true;
}
