// Puts the page together: recordings in, one session on the stream, pictures and numbers out.

import { Banner } from './banner.js';
import { History, LineChart, depthColors } from './charts.js';
import { Link, StreamConnection } from './connection.js';
import { clock, count, milliseconds, percent, ratio, si } from './format.js';
import { Legend } from './legend.js';
import { Player } from './player.js';
import {
  Code,
  FormatError,
  decodeMask,
  encodeAdvance,
  encodeEvents,
  encodeReset,
  eventsPerMessage,
  isRecording,
  parseRecording,
  preferredMaskEncoding,
} from './protocol.js';
import { EVENT_COLORS, EventLayer, MaskLayer, countClasses } from './render.js';
import { authorizedFetch } from './token.js';

const BASE = new URL('..', import.meta.url);
const TICK_MS = 5;
const DRAW_MS = 125;
const TEXT_MS = 250;
const RATE_SPAN_MS = 2000;
const TRIES_BEFORE_BANNER = 3;
const WINDOW_CHOICES_US = [10_000, 20_000, 33_333, 50_000];

const COLORS = { snn: '#5eead4', ann: '#f6ad6c', compute: '#8ab4ff', total: '#c9a9ff', round: '#94a3b8', mean: '#f1f5f9' };

const find = (id) => document.getElementById(id);
const page = {
  canvases: find('panes'),
  dropHint: find('drop-hint'),
  file: find('file'),
  inspect: find('inspect'),
  link: find('link'),
  linkText: find('link-text'),
  linkWait: find('link-wait'),
  message: find('message'),
  model: find('model'),
  opacity: find('opacity'),
  play: find('play'),
  position: find('position'),
  rate: find('rate'),
  source: find('source'),
  speed: find('speed'),
  time: find('time'),
  window: find('window'),
};
const banner = new Banner(find('banner'));
const eventLayer = new EventLayer(find('events'));
const maskLayer = new MaskLayer(find('mask'));
const legend = new Legend(find('classes'), (id, visible) => maskLayer.setVisible(id, visible));
const history = new History();
const charts = makeCharts();

let recording = null;
let recordingName = '';
let loading = true;
let loads = 0;
let player = null;
let connection = null;
let welcome = null;
let chosen = { model: null, windowUs: null }; // null: as the server thinks best
let wantsPlay = !matchMedia('(prefers-reduced-motion: reduce)').matches;
let speed = 1;
let windowsAnswered = 0;
let lastResult = null;
let maskClassCounts = {};
let decoding = Promise.resolve();
let advanceSent = new Map(); // end of a window → when the ADVANCE went out
let answerTimes = [];
let pointed = null;
let chartsAreOld = false;
let seeking = false;

Object.defineProperty(window, 'spikeseg', {
  value: Object.freeze({
    /** empty, loading, connecting, playing, paused, reconnecting or ended */
    get state() {
      return state();
    },
    get windowsAnswered() {
      return windowsAnswered;
    },
    get lastResult() {
      return structuredClone(lastResult);
    },
    get maskClassCounts() {
      return { ...maskClassCounts };
    },
  }),
});

function state() {
  if (!recording) return loading ? 'loading' : 'empty';
  switch (connection?.state) {
    case Link.LIVE:
      return player.playing ? 'playing' : 'paused';
    case Link.CONNECTING:
      return 'connecting';
    case Link.WAITING:
      return 'reconnecting';
    case Link.DORMANT:
      return 'paused';
    default:
      return 'ended';
  }
}

// Recordings ----------------------------------------------------------------------------------------------------------

const DEMO = 'Demo recording';

async function loadDemo() {
  await load(DEMO, async () => (await ask('v1/recordings/demo')).arrayBuffer());
}

async function loadFile(file) {
  await load(file.name, async () => {
    const bytes = await file.arrayBuffer();
    if (isRecording(bytes)) return bytes;
    const headers = { 'Content-Type': 'application/vnd.aedat4' };
    return (await ask('v1/recordings', { method: 'POST', headers, body: bytes })).arrayBuffer();
  });
}

/** Get a recording and play it; if another one is asked for meanwhile, that one counts. */
async function load(name, read) {
  const turn = ++loads;
  loading = true;
  say(`Loading ${name === DEMO ? 'the demo recording' : name}…`);
  let loaded = null;
  let failure = null;
  try {
    loaded = parseRecording(await read());
  } catch (error) {
    failure = error;
  }
  if (turn !== loads) return;
  loading = false;
  if (loaded) {
    recording = loaded;
    recordingName = name;
    banner.clear('recording');
    startSession(recording.t[0]);
  } else {
    showUnreadable(name, failure);
  }
  say(recording ? '' : 'No recording yet. Open an AEDAT4 file, or drop one here.');
}

function showUnreadable(name, error) {
  const chooseFile = { label: recording ? 'Choose another file' : 'Open a file', run: () => page.file.click() };
  banner.show({
    key: 'recording',
    title: name === DEMO ? 'The demo recording could not be loaded' : `${name} could not be read`,
    detail: `${reason(error)}${recording ? ' The recording before it plays on.' : ''}`,
    actions: name === DEMO ? [chooseFile, { label: 'Try again', run: loadDemo }] : [chooseFile],
  });
}

/** What went wrong at the server, in its own words. */
class ProblemError extends Error {}

async function ask(path, options) {
  let response;
  try {
    response = await authorizedFetch(new URL(path, BASE), options);
  } catch {
    throw new ProblemError('The server cannot be reached.');
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => null);
  const fields = (problem?.errors ?? []).map(({ field, message }) => `${field}: ${message}`);
  const said = [problem?.detail ?? problem?.title, ...fields].filter(Boolean).join(' ');
  throw new ProblemError(said || `The server answered ${response.status} ${response.statusText}.`);
}

function reason(error) {
  if (error instanceof ProblemError || error instanceof FormatError) return error.message;
  if (error instanceof DOMException) return 'The browser cannot read the file.';
  console.error(error);
  return 'Something unexpected went wrong; the console of the browser has the details.';
}

// Session -------------------------------------------------------------------------------------------------------------

function startSession(at) {
  connection?.close();
  history.clear();
  advanceSent.clear();
  answerTimes = [];
  chartsAreOld = true;
  const windowUs = chosen.windowUs ?? welcome?.window.us ?? WINDOW_CHOICES_US.at(-1);
  player = makePlayer(windowUs);
  player.begin(at);
  preview();

  const hello = {
    sensor: { width: recording.width, height: recording.height },
    mask: preferredMaskEncoding(),
    metrics: true,
    ...(chosen.model && { model: chosen.model }),
    ...(chosen.windowUs && { window: { us: chosen.windowUs } }),
  };
  const url = new URL('v1/stream', BASE);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  const session = new StreamConnection(url, hello, {
    onState: () => session === connection && onLinkState(),
    onWelcome,
    onAck: (sequence) => player.onAck(sequence),
    onResult: (result) => onResult(result, session),
    onEnd: onSessionEnd,
  });
  connection = session;
  connection.eager = wantsPlay && !document.hidden;
  connection.open();
  page.source.textContent = `${recordingName} · ${recording.width}×${recording.height}`;
  page.canvases.style.setProperty('--aspect', recording.width / recording.height);
}

function makePlayer(windowUs) {
  const made = new Player(recording, windowUs, {
    events(from, to) {
      const most = eventsPerMessage(welcome.max_message_bytes);
      for (let start = from; start < to; start += most) {
        const end = Math.min(start + most, to);
        connection.send((sequence) => encodeEvents(sequence, recording, start, end));
      }
    },
    advance(time) {
      advanceSent.set(time, performance.now());
      return connection.send((sequence) => encodeAdvance(sequence, time));
    },
    reset() {
      connection.send(encodeReset);
    },
  });
  made.setSpeed(speed);
  if (wantsPlay) made.play();
  return made;
}

function onWelcome(message, resumed) {
  welcome = message;
  if (resumed) {
    player.wake();
  } else {
    const at = player.position;
    if (player.windowUs !== message.window.us) player = makePlayer(message.window.us);
    player.begin(at);
    preview();
    maskLayer.setClasses(message.classes);
    legend.setClasses(message.classes, (id) => maskLayer.isVisible(id));
    showChoices();
  }
  banner.clear('link');
}

function onResult({ meta, mask }, session) {
  const now = performance.now();
  const roundTrip = now - (advanceSent.get(meta.t_end) ?? NaN);
  advanceSent.delete(meta.t_end);
  // Masks are unpacked one after the other, so that they appear in the order of their windows.
  decoding = decoding.then(async () => {
    const ids = await decodeMask(mask, meta.mask);
    if (session !== connection) return;
    eventLayer.draw(recording, meta.t_start, meta.t_end);
    maskLayer.draw(ids, meta.mask.width, meta.mask.height);
    windowsAnswered++;
    lastResult = meta;
    maskClassCounts = countClasses(ids);
    answerTimes.push(now);
    addSample(meta, roundTrip);
  }).catch((error) => showFailure('A mask could not be shown', reason(error)));
}

function onLinkState() {
  if (connection.state === Link.WAITING && connection.tries === TRIES_BEFORE_BANNER) {
    const full = connection.lastDrop.code === Code.FULL;
    banner.show({
      key: 'link',
      title: full ? 'The server has no room for another session' : 'The server cannot be reached',
      detail: connection.lastDrop.problem?.detail ?? 'The page keeps trying, and goes on where it stopped.',
      actions: [{ label: 'Try now', run: () => connection.retryNow() }],
    });
  }
  refreshText();
}

function onSessionEnd({ code, problem, lost }) {
  if (lost) {
    startSession(player.position);
    banner.show({
      key: 'session',
      level: 'notice',
      title: 'A new session was started',
      detail: 'The server no longer knew the old one, so the membranes begin at rest.',
    });
    return;
  }
  const noModel = code === Code.NOT_FOUND && chosen.model;
  showFailure(
    problem?.title ?? 'The server ended the session',
    problem?.detail ?? `The connection was closed with code ${code}.`,
    noModel
      ? { label: 'Use the default model', run: () => choose({ model: null }) }
      : { label: 'Start a new session', run: () => startSession(player.position) },
  );
  refreshText();
}

function showFailure(title, detail, action = { label: 'Start a new session', run: () => startSession(player.position) }) {
  banner.show({ key: 'session', title, detail, actions: [action] });
}

function choose(change) {
  chosen = { ...chosen, ...change };
  banner.clear('session');
  if (recording) startSession(player.position);
}

// Controls ------------------------------------------------------------------------------------------------------------

function setPlaying(playing) {
  wantsPlay = playing;
  if (!player) return;
  if (playing) player.play();
  else player.pause();
  if (playing && connection.state === Link.CLOSED) startSession(player.position);
  else connection.eager = playing && !document.hidden;
  refreshText();
}

function seek(time) {
  if (!player) return;
  if (connection.state === Link.CLOSED) startSession(time);
  else player.seek(time);
  preview();
}

/** Show the events at the playback position while there is no mask for them. */
function preview() {
  const start = Math.floor(player.position / player.windowUs) * player.windowUs;
  eventLayer.draw(recording, start, start + player.windowUs);
  maskLayer.clear();
}

function setView(view) {
  page.canvases.dataset.view = view;
  page.opacity.disabled = view === 'side';
  for (const input of document.querySelectorAll('input[name=view]')) input.checked = input.value === view;
}

function bindControls() {
  find('open').addEventListener('click', () => page.file.click());
  page.file.addEventListener('change', () => {
    if (page.file.files.length) loadFile(page.file.files[0]);
    page.file.value = '';
  });
  page.play.addEventListener('click', () => setPlaying(!wantsPlay));
  find('restart').addEventListener('click', () => player && seek(player.start));
  page.speed.addEventListener('change', () => {
    speed = Number(page.speed.value);
    player?.setSpeed(speed);
  });
  page.model.addEventListener('change', () => choose({ model: page.model.value }));
  page.window.addEventListener('change', () => choose({ windowUs: Number(page.window.value) }));
  page.opacity.addEventListener('input', () => {
    page.canvases.style.setProperty('--opacity', page.opacity.value);
    fill(page.opacity);
  });
  fill(page.opacity);
  for (const input of document.querySelectorAll('input[name=view]')) {
    input.addEventListener('change', () => setView(input.value));
  }
  page.position.addEventListener('input', () => {
    seeking = true;
    fill(page.position);
    showTime(fromSlider() - player.start);
  });
  page.position.addEventListener('change', () => {
    seeking = false;
    seek(fromSlider());
  });
  bindKeys();
  bindDrop();
  bindInspect();

  document.addEventListener('visibilitychange', () => {
    if (connection) connection.eager = wantsPlay && !document.hidden;
  });
  window.addEventListener('online', () => connection?.retryNow());
  window.addEventListener('pagehide', () => connection?.close());
  window.addEventListener('pageshow', (event) => {
    if (event.persisted && recording) startSession(player.position);
  });
}

function bindKeys() {
  const keys = {
    ' ': () => setPlaying(!wantsPlay),
    r: () => player && seek(player.start),
    v: () => setView(page.canvases.dataset.view === 'side' ? 'blended' : 'side'),
    o: () => page.file.click(),
  };
  document.addEventListener('keydown', (event) => {
    const inControl = event.target.closest('input, select, button, a, summary');
    if (inControl || event.ctrlKey || event.metaKey || event.altKey) return;
    const run = keys[event.key.toLowerCase()];
    if (!run) return;
    event.preventDefault();
    run();
  });
}

function bindDrop() {
  let inside = 0;
  const show = (change) => {
    inside = Math.max(0, inside + change);
    page.dropHint.hidden = inside === 0;
  };
  const isFile = (event) => [...event.dataTransfer.types].includes('Files');
  document.addEventListener('dragenter', (event) => isFile(event) && show(1));
  document.addEventListener('dragleave', (event) => isFile(event) && show(-1));
  document.addEventListener('dragover', (event) => event.preventDefault());
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    inside = 0;
    show(0);
    if (event.dataTransfer.files.length) loadFile(event.dataTransfer.files[0]);
  });
}

/** Name the class under the pointer. */
function bindInspect() {
  for (const canvas of page.canvases.querySelectorAll('canvas')) {
    canvas.addEventListener('pointermove', (event) => {
      const u = event.offsetX / canvas.clientWidth;
      const v = event.offsetY / canvas.clientHeight;
      const id = maskLayer.classAt(u, v);
      const name = welcome?.classes.find((item) => item.id === id)?.name;
      page.inspect.hidden = !name;
      if (name) page.inspect.textContent = `${name} · ${Math.floor(u * recording.width)}, ${Math.floor(v * recording.height)}`;
    });
    canvas.addEventListener('pointerleave', () => (page.inspect.hidden = true));
  }
}

/** Colour a slider's track up to its thumb. */
function fill(slider) {
  slider.style.setProperty('--fill', `${(100 * slider.value) / slider.max}%`);
}

function fromSlider() {
  return player.start + (page.position.value / page.position.max) * (player.end - player.start);
}

async function loadModels() {
  let models = [];
  try {
    ({ models } = await (await ask('v1/models')).json());
  } catch (error) {
    banner.show({ key: 'models', title: 'The list of models could not be loaded', detail: reason(error) });
  }
  page.model.replaceChildren(...models.map(({ name }) => new Option(name, name)));
  page.window.replaceChildren(...WINDOW_CHOICES_US.map(windowOption));
  showChoices();
}

function windowOption(us) {
  return new Option(`${Math.round(us / 100) / 10} ms · ${count(1e6 / us)} Hz`, us);
}

/** Show what the server has settled on. */
function showChoices() {
  if (!welcome) return;
  for (const [select, value, option] of [
    [page.model, welcome.model, (name) => new Option(name, name)],
    [page.window, String(welcome.window.us), windowOption],
  ]) {
    if (![...select.options].some((item) => item.value === value)) select.add(option(value));
    select.value = value;
    select.disabled = false;
  }
}

// Measurements --------------------------------------------------------------------------------------------------------

function addSample(meta, roundTrip) {
  const { activity, latency_ms: latency } = meta;
  const firing = activity.layers.filter((layer) => layer.neurons > 0); // the readout has no neurons that fire
  history.push({
    first: meta.window === 0,
    us: meta.t_end - meta.t_start,
    events: meta.events,
    shares: meta.class_share,
    rate: activity.firing_rate,
    layers: firing.map((layer) => layer.firing_rate),
    sops: activity.sops,
    macs: activity.macs_ann,
    snn: activity.energy_estimate_j.snn,
    ann: activity.energy_estimate_j.ann,
    compute: latency.compute,
    total: latency.total,
    round: roundTrip,
  });
  if (firing.length !== charts.layers) nameLayers(firing);
  chartsAreOld = true;
}

function makeCharts() {
  const onPoint = (fromRight) => {
    pointed = fromRight;
    chartsAreOld = true;
    refreshText();
  };
  const make = (id, options) => new LineChart(find(id), { onPoint, ...options });
  const firing = make('chart-firing', {
    title: 'Firing rate',
    hint: 'Part of the neurons that fire in a window: the mean over the network, and each layer.',
    format: percent,
  });
  const operations = make('chart-operations', {
    title: 'Ops / window',
    hint: 'Synaptic operations that the spikes caused, against the multiply-accumulates of the same network without spikes.',
    format: (value) => si(value),
    logarithmic: true,
    summarize: (value) => compare(value(0), value(1), 'fewer'),
  });
  operations.setSeries([
    { label: 'MACs, dense pass', color: COLORS.ann, value: (sample) => sample.macs },
    { label: 'SOPs', color: COLORS.snn, value: (sample) => sample.sops },
  ]);
  const energy = make('chart-energy', {
    title: 'Energy est. / window',
    hint: 'Arithmetic only, 45 nm: 4.6 pJ a multiply-accumulate, 0.9 pJ an accumulate. Memory traffic is not in it.',
    format: (value) => si(value, 'J'),
    logarithmic: true,
    summarize: (value) => compare(value(0), value(1), 'less'),
  });
  energy.setSeries([
    { label: 'dense ANN', color: COLORS.ann, value: (sample) => sample.ann },
    { label: 'SNN', color: COLORS.snn, value: (sample) => sample.snn },
  ]);
  const latency = make('chart-latency', {
    title: 'Latency',
    hint: 'Network alone; everything on the server; and from the end of a window to its mask in this page.',
    format: milliseconds,
    logarithmic: true,
  });
  latency.setSeries([
    { label: 'round trip', color: COLORS.round, value: (sample) => sample.round },
    { label: 'total', color: COLORS.total, value: (sample) => sample.total },
    { label: 'compute', color: COLORS.compute, value: (sample) => sample.compute },
  ]);
  return { firing, all: [firing, operations, energy, latency], layers: -1 };
}

function compare(ann, snn, lower) {
  return ann > snn ? `${ratio(ann / snn)} ${lower}` : `${ratio(snn / ann)} more`;
}

function nameLayers(layers) {
  const colors = depthColors(layers.length);
  charts.layers = layers.length;
  charts.firing.setSeries([
    ...layers.map(({ name }, i) => ({ label: name, color: colors[i], minor: true, value: (sample) => sample.layers[i] })),
    { label: 'mean', color: COLORS.mean, value: (sample) => sample.rate },
  ]);
}

/** The samples that the numbers speak of: the one pointed at, or those of the last second. */
function recent() {
  if (pointed !== null) return history.samples.slice(-1 - pointed, history.samples.length - pointed);
  const us = history.samples.at(-1)?.us ?? 0;
  return us ? history.samples.slice(-Math.max(1, Math.round(1e6 / us))) : [];
}

function showTime(us) {
  setText(page.time, `${clock(us)} / ${clock(player.end - player.start)}`);
  page.position.setAttribute('aria-valuetext', `${(us / 1e6).toFixed(1)} seconds`);
}

const LINK_TEXT = {
  empty: 'No recording',
  loading: 'Loading',
  connecting: 'Connecting',
  playing: 'Live',
  paused: 'Paused',
  reconnecting: 'Reconnecting',
  ended: 'Session ended',
};

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function refreshText() {
  const now = state();
  page.link.dataset.state = now;
  setText(page.linkText, LINK_TEXT[now]);
  const wait = now === 'reconnecting' ? Math.ceil((connection.retryAt - Date.now()) / 1000) : 0;
  setText(page.linkWait, wait > 1 ? `in ${wait} s` : '');
  page.play.setAttribute('aria-label', wantsPlay ? 'Pause' : 'Play');
  page.play.dataset.playing = wantsPlay;
  if (!player) return;

  setText(page.rate, rateText(now));
  page.rate.classList.toggle('slow', now === 'playing' && player.slow);

  const samples = recent();
  const sum = (value) => samples.reduce((total, sample) => total + value(sample), 0);
  const mean = (value) => sum(value) / samples.length;
  const since = performance.now() - RATE_SPAN_MS;
  answerTimes = answerTimes.filter((time) => time > since);
  setText(find('n-window'), lastResult ? count(lastResult.window) : '–');
  setText(find('n-time'), lastResult ? `${((lastResult.t_end - player.start) / 1e6).toFixed(2)}\u202fs` : '–');
  setText(find('n-events'), si(sum((s) => s.events) / (sum((s) => s.us) / 1e6)));
  setText(find('n-windows'), player.playing ? (answerTimes.length / (RATE_SPAN_MS / 1000)).toFixed(1) : '–');
  setText(find('n-ms'), milliseconds(mean((s) => s.compute)));
  legend.setShares((i) => mean((s) => s.shares[i]));
  for (const chart of charts.all) chart.describe(samples);
}

function rateText(now) {
  if (now !== 'playing') return '';
  const rate = `${player.rate.toFixed(1)}× real time`;
  return player.slow ? `${rate} · answers lag` : rate;
}

function say(text) {
  page.message.textContent = text;
  page.message.hidden = !text;
  refreshText();
}

/** What need not follow every window: charts and the position. */
function refreshDrawings() {
  if (player && !seeking) {
    const us = player.position - player.start;
    showTime(us);
    page.position.value = Math.round((us / (player.end - player.start)) * page.position.max);
    fill(page.position);
  }
  if (!chartsAreOld) return;
  chartsAreOld = false;
  for (const chart of charts.all) chart.draw(history.samples, pointed);
}

// Start ---------------------------------------------------------------------------------------------------------------

for (const [name, color] of Object.entries(EVENT_COLORS)) {
  document.documentElement.style.setProperty(`--event-${name}`, `rgb(${color.join(' ')})`);
}
bindControls();
setInterval(() => {
  if (player && connection.live && !document.hidden) player.tick(performance.now());
}, TICK_MS);
setInterval(refreshText, TEXT_MS);
setInterval(() => requestAnimationFrame(refreshDrawings), DRAW_MS);
loadModels();
loadDemo();
