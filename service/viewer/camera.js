// A camera of this machine: which there are, opening one, and its pictures as grey pixels.

/** A camera that cannot be used; the title says what is wrong, the message what can be done. */
export class CameraError extends Error {
  name = 'CameraError';

  constructor(title, message, options) {
    super(message, options);
    this.title = title;
  }
}

const FAILURES = {
  NotAllowedError: [
    'The browser does not let this page use the camera',
    'Permission was denied. Allow the camera for this page, by the symbol beside the address, and try again.',
  ],
  NotFoundError: ['There is no camera', 'Connect one and try again; recordings can be played without.'],
  NotReadableError: [
    'The camera cannot be read',
    'Another program may be using it, or the system keeps it from the browser.',
  ],
  OverconstrainedError: ['This camera is no longer there', 'Choose another one.'],
  SecurityError: ['The camera is switched off for this page', 'The browser’s settings or a policy forbid it.'],
};

/** Why there can be no camera at all, or null. */
export function cameraObstacle() {
  if (globalThis.isSecureContext === false || !navigator.mediaDevices?.getUserMedia) {
    return new CameraError(
      'The camera needs a secure address',
      `Browsers give cameras only to pages from https:// and from localhost, and this one is from ${location.origin}. ` +
        'Serve it over TLS, or forward the port: docs/browser.md says how.',
    );
  }
  return null;
}

/** Cameras as `{id, label}`; browsers keep the labels back until one has been allowed. */
export async function listCameras() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  return devices
    .filter(({ kind }) => kind === 'videoinput')
    .map(({ deviceId, label }, i) => ({ id: deviceId, label: label || `Camera ${i + 1}` }));
}

/**
 * Open a camera.
 *
 * @param {{deviceId: string, width: number, height: number, fps: number}} wanted size and rate are aims, not conditions
 * @returns {Promise<Camera>}
 * @throws {CameraError}
 */
export async function openCamera({ deviceId, width, height, fps }) {
  const obstacle = cameraObstacle();
  if (obstacle) throw obstacle;
  const video = { width: { ideal: width }, height: { ideal: height }, frameRate: { ideal: fps } };
  if (deviceId) video.deviceId = { exact: deviceId };
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video, audio: false });
  } catch (error) {
    const [title, detail] = FAILURES[error.name] ?? ['The camera could not be opened', error.message || error.name];
    throw new CameraError(title, detail, { cause: error });
  }
  const camera = new Camera(stream, width, height);
  await camera.start();
  return camera;
}

export class Camera {
  /** Called once when the camera goes away by itself. */
  onLost = null;

  #stream;
  #video = Object.assign(document.createElement('video'), { className: 'unseen', muted: true, playsInline: true });
  #canvas;
  #context;
  #fresh = false;
  #closed = false;

  constructor(stream, width, height) {
    this.#stream = stream;
    this.#canvas = new OffscreenCanvas(width, height);
    this.#context = this.#canvas.getContext('2d', { willReadFrequently: true });
    const [track] = stream.getVideoTracks();
    track.addEventListener('ended', () => !this.#closed && this.onLost?.());
  }

  get label() {
    return this.#stream.getVideoTracks()[0].label || 'Webcam';
  }

  /** Whether there is a picture that has not been taken yet. */
  get fresh() {
    return this.#fresh;
  }

  async start() {
    this.#video.srcObject = this.#stream;
    // Some browsers play nothing that is not in the page.
    document.body.append(this.#video);
    await this.#video.play();
    this.#watch();
  }

  /** The newest picture, cut to the aspect that is wanted. */
  take() {
    this.#fresh = false;
    const { width, height } = this.#canvas;
    const { videoWidth, videoHeight } = this.#video;
    const scale = Math.max(width / videoWidth, height / videoHeight);
    const [w, h] = [width / scale, height / scale];
    this.#context.drawImage(this.#video, (videoWidth - w) / 2, (videoHeight - h) / 2, w, h, 0, 0, width, height);
    return { width, height, grey: luma(this.#context.getImageData(0, 0, width, height).data) };
  }

  close() {
    this.#closed = true;
    for (const track of this.#stream.getTracks()) track.stop();
    this.#video.srcObject = null;
    this.#video.remove();
  }

  #watch() {
    if (this.#closed) return;
    // Browsers without it: a picture may be taken twice, which shows as one without events.
    const next = this.#video.requestVideoFrameCallback?.bind(this.#video) ?? requestAnimationFrame.bind(window);
    next(() => {
      this.#fresh = true;
      this.#watch();
    });
  }
}

/** Brightness by ITU-R BT.601 of RGBA pixels, in 8 bits of fraction. */
export function luma(rgba) {
  const grey = new Uint8Array(rgba.length / 4);
  for (let i = 0, at = 0; i < grey.length; i++, at += 4) {
    grey[i] = (77 * rgba[at] + 150 * rgba[at + 1] + 29 * rgba[at + 2] + 128) >> 8;
  }
  return grey;
}
