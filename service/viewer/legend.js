// The classes with their colours and shares of the picture; each can be switched off.

import { percent } from './format.js';

export class Legend {
  #host;
  #onToggle;
  #shares = []; // bar and number of each class

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
    this.#shares = [];
    this.#host.replaceChildren(...classes.map((item) => this.#row(item, isVisible(item.id))));
  }

  /** @param {(index: number) => number} share part of the picture, 0 to 1, by place in the list of classes */
  setShares(share) {
    for (const [index, { bar, output }] of this.#shares.entries()) {
      const part = share(index);
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
    this.#shares.push({ bar, output });
    return item;
  }
}
