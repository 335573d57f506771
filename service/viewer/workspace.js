// Up to four sessions side by side, and the settings of the one that is chosen.

import { Banner } from './banner.js';
import { CameraDialog } from './camera_dialog.js';
import { Display } from './display.js';
import { bindDrop } from './drop.js';
import { count } from './format.js';
import { Inspector } from './inspector.js';
import { bindKeys } from './keys.js';
import { isRecording, parseRecording } from './protocol.js';
import { RecordingFeed } from './recording_feed.js';
import { ask, reason } from './server.js';
import { Stage } from './stage.js';

export const MOST_SESSIONS = 4;

const TICK_MS = 5;
const DRAW_MS = 125;
const TEXT_MS = 250;
const MANY_STEPS = 10;
const WINDOW_CHOICES_US = [10_000, 20_000, 33_333, 50_000];
const DEMO = 'Demo recording';

const find = (id) => document.getElementById(id);

export class Workspace {
  stages = [];
  chosen = null;

  #notice = new Banner(find('notice'));
  #inspector = new Inspector();
  #display = new Display();
  #cameraDialog = new CameraDialog();
  #demo = null; // the demo recording, once it has been asked for
  #file = find('file');
  #model = find('model');
  #window = find('window');

  start() {
    this.#bind();
    this.#makeStage();
    this.loadDemo();
    this.#loadModels();
    setInterval(() => this.#tick(performance.now()), TICK_MS);
    setInterval(() => this.#refreshText(), TEXT_MS);
    setInterval(() => requestAnimationFrame(() => this.#refreshDrawings()), DRAW_MS);
  }

  get inspector() {
    return this.#inspector;
  }

  // Sessions ----------------------------------------------------------------------------------------------------------

  /** Another session, with the same source as the chosen one. */
  async add() {
    if (this.stages.length >= MOST_SESSIONS) return;
    const feed = this.chosen.session.feed;
    const stage = this.#makeStage();
    if (!feed) {
      await this.loadDemo(stage);
      return;
    }
    const failure = await stage.session.load(feed.name, () => this.#watched(stage, feed.again()));
    if (failure) stage.say({ key: 'source', title: failure.title ?? 'The source cannot be used twice', detail: failure.message });
  }

  /** Close a session; the last one stays. */
  close(stage) {
    if (this.stages.length === 1) return;
    const at = this.stages.indexOf(stage);
    this.stages.splice(at, 1);
    stage.close();
    this.#number();
    this.choose(this.chosen === stage ? this.stages[Math.min(at, this.stages.length - 1)] : this.chosen);
    this.chosen.focus();
  }

  /** Show the settings and measurements of a session. */
  choose(stage) {
    const changed = this.chosen !== stage;
    this.chosen = stage;
    for (const each of this.stages) each.setChosen(each === stage, this.stages.length === 1);
    if (changed) this.#inspector.choose(stage);
    this.#showChoices();
  }

  #makeStage() {
    const paused = matchMedia('(prefers-reduced-motion: reduce)').matches;
    const stage = new Stage(find('stage'), paused, {
      onChoose: () => this.choose(stage),
      onClose: () => this.close(stage),
      onShow: () => {
        if (stage !== this.chosen) return;
        this.#inspector.markStale();
        if (stage.session.paused) this.#inspector.refreshText();
      },
      onWelcome: () => {
        if (stage !== this.chosen) return;
        this.#inspector.showClasses();
        this.#showChoices();
      },
    });
    this.stages.push(stage);
    find('stages').append(stage.element);
    this.#number();
    this.choose(stage);
    stage.refreshText();
    return stage;
  }

  #number() {
    this.stages.forEach((stage, i) => stage.setNumber(i + 1, this.stages.length === 1));
    find('stages').dataset.count = this.stages.length;
    find('add').disabled = this.stages.length >= MOST_SESSIONS;
  }

  // Sources -----------------------------------------------------------------------------------------------------------

  async loadDemo(stage = this.chosen) {
    this.#demo ??= ask('v1/recordings/demo').then(async (response) => parseRecording(await response.arrayBuffer()));
    const failure = await stage.session.load('the demo recording', async () => {
      try {
        return new RecordingFeed(DEMO, await this.#demo);
      } catch (error) {
        this.#demo = null;
        throw error;
      }
    });
    if (failure) {
      this.#sayUnreadable(stage, 'The demo recording could not be loaded', failure, [
        { label: 'Try again', run: () => this.loadDemo(stage) },
      ]);
    }
  }

  async loadFile(file, stage = this.chosen) {
    const failure = await stage.session.load(file.name, async () => {
      let bytes = await file.arrayBuffer();
      if (!isRecording(bytes)) {
        const headers = { 'Content-Type': 'application/vnd.aedat4' };
        bytes = await (await ask('v1/recordings', { method: 'POST', headers, body: bytes })).arrayBuffer();
      }
      return new RecordingFeed(file.name, parseRecording(bytes));
    });
    if (failure) this.#sayUnreadable(stage, `${file.name} could not be read`, failure);
  }

  #sayUnreadable(stage, title, error, actions = []) {
    const before = stage.session.feed;
    const choose = { label: before ? 'Choose another file' : 'Open a file', run: () => this.#openFile(stage) };
    stage.say({
      key: 'source',
      title,
      detail: `${reason(error)}${before ? ' The source before it goes on.' : ''}`,
      actions: [choose, ...actions],
    });
  }

  #openFile(stage = this.chosen) {
    this.choose(stage);
    this.#file.click();
  }

  #openCamera(stage = this.chosen) {
    this.#cameraDialog.show((open) => stage.session.load('the camera', () => this.#watched(stage, open())));
  }

  /** Have a camera that goes away say so. */
  async #watched(stage, opening) {
    const feed = await opening;
    if (feed.kind !== 'camera') return feed;
    feed.onLost = () =>
      stage.say({
        key: 'camera',
        title: 'The camera is gone',
        detail: 'It was disconnected, or the browser took it away. The session stays open.',
        actions: [{ label: 'Choose a camera', run: () => this.#openCamera(stage) }],
      });
    return feed;
  }

  // Settings ----------------------------------------------------------------------------------------------------------

  async #loadModels() {
    let models = [];
    try {
      ({ models } = await (await ask('v1/models')).json());
    } catch (error) {
      this.#notice.show({ key: 'models', title: 'The list of models could not be loaded', detail: reason(error) });
    }
    this.#model.replaceChildren(...models.map(({ name }) => new Option(name, name)));
    this.#window.replaceChildren(...WINDOW_CHOICES_US.map(windowOption));
    this.#showChoices();
  }

  /** Show what the chosen session has. */
  #showChoices() {
    const { session, number } = this.chosen;
    const { model, welcome, windowUs, feed } = session;
    find('chosen').textContent = `Session ${number}`;
    find('chosen').hidden = this.stages.length === 1;
    this.#display.nameInput(feed?.kind);
    if (!welcome) return;
    for (const [select, value, option] of [
      [this.#model, model, (name) => new Option(name, name)],
      [this.#window, String(windowUs), windowOption],
    ]) {
      if (![...select.options].some((item) => item.value === value)) select.add(option(value));
      select.value = value;
      select.disabled = false;
    }
  }

  #bind() {
    find('add').addEventListener('click', () => this.add());
    find('demo').addEventListener('click', () => this.loadDemo());
    find('open').addEventListener('click', () => this.#openFile());
    find('camera').addEventListener('click', () => this.#openCamera());
    this.#file.addEventListener('change', () => {
      if (this.#file.files.length) this.loadFile(this.#file.files[0]);
      this.#file.value = '';
    });
    this.#model.addEventListener('change', () => this.chosen.session.choose({ model: this.#model.value }));
    this.#window.addEventListener('change', () => this.chosen.session.choose({ windowUs: Number(this.#window.value) }));

    const session = () => this.chosen.session;
    const step = (windows) => (event) => session().step(event.shiftKey ? windows * MANY_STEPS : windows);
    bindKeys({
      ' ': () => (session().paused ? session().resume() : session().pause()),
      ArrowLeft: step(-1),
      ArrowRight: step(1),
      Home: () => session().scrub(0),
      End: () => session().scrub(Infinity),
      l: () => session().resume(),
      r: () => session().restart(),
      v: () => this.#display.toggleView(),
      e: () => this.#display.toggleInput(),
      o: () => this.#openFile(),
      c: () => this.#openCamera(),
      n: () => this.add(),
      ...Object.fromEntries(
        Array.from({ length: MOST_SESSIONS }, (_, i) => [String(i + 1), () => this.stages[i] && this.choose(this.stages[i])]),
      ),
    });
    bindDrop(find('drop-hint'), (file, target) => {
      const element = target.closest?.('.stage');
      this.loadFile(file, this.stages.find((stage) => stage.element === element));
    });

    const each = (run) => () => this.stages.forEach(({ session: one }) => run(one));
    document.addEventListener('visibilitychange', each((one) => one.onVisibility()));
    window.addEventListener('online', each((one) => one.retryNow()));
    window.addEventListener('pagehide', each((one) => one.suspend()));
    window.addEventListener('pageshow', (event) => event.persisted && each((one) => one.feed && one.start(one.feed.position))());
  }

  // Time --------------------------------------------------------------------------------------------------------------

  #tick(nowMs) {
    for (const stage of this.stages) {
      try {
        stage.session.tick(nowMs);
      } catch (error) {
        // The others go on.
        stage.session.suspend();
        stage.say({ key: 'session', title: 'The session was stopped', detail: reason(error) });
      }
    }
  }

  #refreshText() {
    for (const stage of this.stages) stage.refreshText();
    for (const kind of ['demo', 'open', 'camera']) find(kind).setAttribute('aria-pressed', this.#sourceButton() === kind);
    this.#inspector.refreshText();
  }

  /** Which of the buttons the chosen session's source came from. */
  #sourceButton() {
    const { feed } = this.chosen.session;
    if (!feed) return '';
    if (feed.kind === 'camera') return 'camera';
    return feed.name === DEMO ? 'demo' : 'open';
  }

  #refreshDrawings() {
    for (const stage of this.stages) stage.refreshDrawings();
    this.#inspector.refreshDrawings();
  }
}

function windowOption(us) {
  return new Option(`${Math.round(us / 100) / 10} ms · ${count(1e6 / us)} Hz`, us);
}
