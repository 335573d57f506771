// The one place where the page says that something is wrong, and what can be done about it.

export class Banner {
  #host;
  #title;
  #detail;
  #actions;
  #key = null;

  /** @param {HTMLElement} host holds `.banner-title`, `.banner-detail` and `.banner-actions` */
  constructor(host) {
    this.#host = host;
    this.#title = host.querySelector('.banner-title');
    this.#detail = host.querySelector('.banner-detail');
    this.#actions = host.querySelector('.banner-actions');
  }

  /**
   * Show a message in place of the one before.
   *
   * @param {object} message
   * @param {string} message.key what it is about; `clear` with the same key takes it away
   * @param {string} message.title
   * @param {string} [message.detail]
   * @param {'error'|'notice'} [message.level]
   * @param {{label: string, run: () => void}[]} [message.actions] each also takes the message away
   */
  show({ key, title, detail = '', level = 'error', actions = [] }) {
    this.#key = key;
    this.#host.dataset.level = level;
    this.#title.textContent = title;
    this.#detail.textContent = detail;
    this.#actions.replaceChildren(
      ...[...actions, { label: 'Dismiss', run: () => {}, quiet: true }].map(({ label, run, quiet }) => {
        const button = document.createElement('button');
        button.type = 'button';
        button.textContent = label;
        button.classList.toggle('quiet', Boolean(quiet));
        button.addEventListener('click', () => {
          this.clear();
          run();
        });
        return button;
      }),
    );
    this.#host.hidden = false;
  }

  /** Take the message away; with a key, only if it is about that. */
  clear(key = this.#key) {
    if (key !== this.#key) return;
    this.#key = null;
    this.#host.hidden = true;
  }
}
