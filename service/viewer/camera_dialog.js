// Which camera, how large, how many frames: asked for before a camera is opened, and where it is said why there is none.

import { CameraFeed } from './camera_feed.js';
import { CameraError, cameraObstacle, listCameras } from './camera.js';
import { frameBytes } from './protocol.js';

const SIZES = ['320×240', '346×260', '480×360', '640×480', '320×180', '640×360'];
const RATES = [5, 10, 15, 20, 30];
const DEFAULT_RATE = 15;

const find = (id) => document.getElementById(id);

export class CameraDialog {
  #dialog = find('camera-dialog');
  #device = find('camera-device');
  #size = find('camera-size');
  #fps = find('camera-fps');
  #start = find('camera-start');
  #error = find('camera-error');
  #use = null;

  constructor() {
    this.#size.replaceChildren(...SIZES.map((text) => new Option(text, text)));
    this.#fps.replaceChildren(...RATES.map((rate) => new Option(`${rate} fps`, rate)));
    this.#fps.value = DEFAULT_RATE;
    for (const select of [this.#size, this.#fps]) select.addEventListener('change', () => this.#showRate());
    this.#start.addEventListener('click', () => this.#open());
    navigator.mediaDevices?.addEventListener?.('devicechange', () => this.#dialog.open && this.#listDevices());
  }

  /**
   * Ask, open, hand over.
   *
   * @param {(open: () => Promise<CameraFeed>) => Promise<?Error>} use returns why there is none
   */
  async show(use) {
    this.#use = use;
    this.#showRate();
    const obstacle = cameraObstacle();
    this.#start.disabled = obstacle !== null;
    this.#say(obstacle);
    this.#dialog.showModal();
    await this.#listDevices();
  }

  get #format() {
    const [width, height] = this.#size.value.split('×').map(Number);
    return { deviceId: this.#device.value, width, height, fps: Number(this.#fps.value) };
  }

  async #open() {
    const format = this.#format;
    this.#start.disabled = true;
    this.#say(null);
    const failure = await this.#use(async () => {
      const feed = await CameraFeed.open(format);
      if (this.#dialog.open) return feed;
      // Closed while the browser was asking.
      feed.close();
      throw new CameraError('Cancelled', 'The camera was not started.');
    });
    this.#start.disabled = false;
    if (failure) {
      this.#say(failure);
      if (!(failure instanceof CameraError)) console.error(failure);
      await this.#listDevices();
    } else {
      this.#dialog.close();
    }
  }

  async #listDevices() {
    const chosen = this.#device.value;
    const cameras = await listCameras();
    const options = cameras.length ? cameras : [{ id: '', label: 'No camera found' }];
    this.#device.replaceChildren(...options.map(({ id, label }) => new Option(label, id)));
    if (cameras.some(({ id }) => id === chosen)) this.#device.value = chosen;
  }

  #say(error) {
    this.#error.hidden = !error;
    this.#error.textContent = error ? `${error.title ?? 'The camera could not be opened'}. ${error.message}` : '';
  }

  #showRate() {
    const { width, height, fps } = this.#format;
    find('camera-rate').textContent = `${((frameBytes(width, height) * fps) / 1e6).toFixed(1)} MB/s to the server`;
  }
}
