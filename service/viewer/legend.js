// The classes with their colours and shares of the picture; each can be switched off.

import { percent } from './format.js';

export class Legend {
  #host;
  #onToggle;
  #rows = new Map();

  /**
   * @param {HTMLElement} host a list
   * @param {(id: number, visible: boolean) => void} onToggle
   */
  constructor(host, onToggle) {
    this.#host = host;
    this.#onToggle = onToggle;
  }

  /** @param {(id: number) => boolean} isVisible */
  setClasses(classes, isVisible) {
    this.#rows.clear();
    this.#host.replaceChildren(...classes.map((item) => this.#row(item, isVisible(item.id))));
  }

  /** @param {(id: number) => number} share part of the picture, 0 to 1 */
  setShares(share) {
    for (const [id, { bar, output }] of this.#rows) {
      const part = share(id);
      bar.style.width = `${100 * (part || 0)}%`;
      output.textContent = percent(part);
    }
  }

  #row({ id, name, color }, visible) {
    const item = document.createElement('li');
    const label = document.createElement('label');
    const box = document.createElement('input');
    box.type = 'checkbox';
    box.checked = visible;
    box.addEventListener('change', () => this.#onToggle(id, box.checked));
    const swatch = document.createElement('i');
    swatch.style.background = `rgb(${color.join(' ')})`;
    const text = document.createElement('span');
    text.textContent = name;
    const output = document.createElement('output');
    label.append(box, swatch, text, output);

    const meter = document.createElement('div');
    meter.className = 'share';
    const bar = document.createElement('div');
    bar.style.background = `rgb(${color.join(' ')})`;
    meter.append(bar);
    item.append(label, meter);
    this.#rows.set(id, { bar, output });
    return item;
  }
}
