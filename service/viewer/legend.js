// The classes with their colours and shares of the picture; each can be hidden.

import { percent } from './format.js';

export class Legend {
  #host;
  #onToggle;
  #rows = [];

  /**
   * @param {HTMLElement} host a list
   * @param {HTMLElement} buttons holds `[data-show=all]` and `[data-show=none]`
   * @param {(id: number, visible: boolean) => void} onToggle
   */
  constructor(host, buttons, onToggle) {
    this.#host = host;
    this.#onToggle = onToggle;
    for (const button of buttons.querySelectorAll('[data-show]')) {
      button.addEventListener('click', () => this.#showAll(button.dataset.show === 'all'));
    }
  }

  /** @param {(id: number) => boolean} isVisible */
  setClasses(classes, isVisible) {
    this.#rows = classes.map((item) => this.#makeRow(item, isVisible(item.id)));
    this.#host.replaceChildren(...this.#rows.map(({ item }) => item));
  }

  /** @param {(index: number) => number} share part of the picture, 0 to 1, by place in the list of classes */
  setShares(share) {
    for (const [index, { bar, output }] of this.#rows.entries()) {
      const part = share(index);
      bar.style.width = `${100 * (part || 0)}%`;
      output.textContent = percent(part);
    }
  }

  #showAll(visible) {
    for (const { id, box } of this.#rows) {
      if (box.checked === visible) continue;
      box.checked = visible;
      this.#onToggle(id, visible);
    }
  }

  #makeRow({ id, name, color }, visible) {
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
    return { id, item, box, bar, output };
  }
}
