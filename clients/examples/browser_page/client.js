// Frames of a canvas to a spikeseg server, and its masks onto another: all that a page needs, without a library.
// docs/protocol.md describes the bytes. The address of the server stands in the page's own: ?server=http://127.0.0.1:8000

const WIDTH = 160;
const HEIGHT = 120;
const FRAME_MS = 50;
const [FRAME, RESULT, ACK] = [6, 129, 130];

const find = (id) => document.getElementById(id);
const picture = find('picture').getContext('2d', { willReadFrequently: true });
const maskContext = find('mask').getContext('2d');
const address = new URL('/v1/stream', new URLSearchParams(location.search).get('server') ?? 'http://127.0.0.1:8000');
address.protocol = address.protocol === 'https:' ? 'wss:' : 'ws:';

const socket = new WebSocket(address);
socket.binaryType = 'arraybuffer';
let classes = null; // with the welcome
let credit = 0;
let sent = 0;
let answered = 0;
let video = null;

socket.onopen = () => {
  const sensor = { width: WIDTH, height: HEIGHT };
  socket.send(JSON.stringify({ type: 'hello', version: 1, sensor, frames: {}, mask: 'raw', window: { us: 50_000 } }));
};
socket.onclose = ({ code, reason }) => (find('said').textContent = `closed with ${code} ${reason}`);
socket.onmessage = ({ data }) => {
  if (typeof data === 'string') onText(JSON.parse(data));
  else onBinary(data);
};

function onText(message) {
  if (message.type === 'error') console.warn(message.title, message.detail);
  if (message.type !== 'welcome') return;
  ({ classes, credit } = message);
  setInterval(sendFrame, FRAME_MS);
}

/** Take the picture, and send it if the server has credit for it; else it is dropped. */
function sendFrame() {
  const seconds = performance.now() / 1000;
  if (video) picture.drawImage(video, 0, 0, WIDTH, HEIGHT);
  else drawScene(seconds);
  if (socket.readyState !== WebSocket.OPEN || sent - answered >= Math.min(credit, 4)) return;
  const { data } = picture.getImageData(0, 0, WIDTH, HEIGHT);
  const view = new DataView(new ArrayBuffer(32 + WIDTH * HEIGHT));
  view.setUint8(0, FRAME);
  view.setUint32(4, 16 + WIDTH * HEIGHT, true); // bytes of payload
  view.setBigUint64(8, BigInt(++sent), true); // number of the message
  view.setBigInt64(16, BigInt(Math.round(seconds * 1e6)), true); // µs
  view.setUint16(24, WIDTH, true);
  view.setUint16(26, HEIGHT, true); // then encoding 0, grey
  for (let i = 0; i < WIDTH * HEIGHT; i++) {
    view.setUint8(32 + i, 0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2]);
  }
  socket.send(view.buffer);
}

function onBinary(buffer) {
  const view = new DataView(buffer);
  if (view.getUint8(0) === ACK) {
    answered = Number(view.getBigUint64(8, true));
  } else if (view.getUint8(0) === RESULT) {
    const length = view.getUint32(16, true);
    const meta = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 20, length)));
    drawMask(new Uint8Array(buffer, 20 + length), meta);
  }
}

function drawMask(ids, meta) {
  const image = maskContext.createImageData(WIDTH, HEIGHT);
  const colors = new Map(classes.map(({ id, color }) => [id, color]));
  ids.forEach((id, i) => image.data.set([...(colors.get(id) ?? [0, 0, 0]), 255], 4 * i));
  maskContext.putImageData(image, 0, 0);
  find('said').textContent = `window ${meta.window}: ${meta.events} events, ${(100 * meta.activity.firing_rate).toFixed(1)}% of neurons fired`;
}

/** A bright bar that moves over a dark ground. */
function drawScene(seconds) {
  picture.fillStyle = '#333';
  picture.fillRect(0, 0, WIDTH, HEIGHT);
  picture.fillStyle = '#eee';
  picture.fillRect(((seconds * 60) % (WIDTH + 20)) - 20, 30, 20, 60);
}

find('start').onclick = async () => {
  const found = Object.assign(document.createElement('video'), { muted: true, playsInline: true });
  try {
    found.srcObject = await navigator.mediaDevices.getUserMedia({ video: { width: WIDTH, height: HEIGHT } });
    await found.play();
    video = found;
  } catch (error) {
    find('said').textContent = `no webcam: ${error.message}`;
  }
};
