// How all sessions are drawn: opacity of the masks, inputs on or off, blended or side by side.

import { EVENT_COLORS } from './render.js';
import { fill } from './stage.js';

const find = (id) => document.getElementById(id);

export class Display {
  #stages = find('stages');
  #opacity = find('opacity');
  #input = find('input-shown');
  #views = document.querySelectorAll('input[name=view]');

  constructor() {
    for (const [name, color] of Object.entries(EVENT_COLORS)) {
      document.documentElement.style.setProperty(`--event-${name}`, `rgb(${color.join(' ')})`);
    }
    this.#opacity.addEventListener('input', () => this.#applyOpacity());
    this.#applyOpacity();
    this.#input.addEventListener('change', () => this.#applyInput());
    for (const input of this.#views) input.addEventListener('change', () => this.#setView(input.value));
  }

  toggleView() {
    this.#setView(this.#stages.dataset.view === 'side' ? 'blended' : 'side');
  }

  toggleInput() {
    this.#input.checked = !this.#input.checked;
    this.#applyInput();
  }

  /** Name the input after the kind of source. */
  nameInput(kind) {
    find('input-name').textContent = kind === 'camera' ? 'Picture' : 'Events';
    find('event-key').hidden = kind === 'camera';
  }

  #setView(view) {
    this.#stages.dataset.view = view;
    this.#opacity.disabled = view === 'side';
    for (const input of this.#views) input.checked = input.value === view;
  }

  #applyInput() {
    this.#stages.dataset.input = this.#input.checked ? 'shown' : 'hidden';
  }

  #applyOpacity() {
    this.#stages.style.setProperty('--opacity', this.#opacity.value);
    fill(this.#opacity);
  }
}
