// Starts the page, and lets programs read what it shows.

import { Workspace } from './workspace.js';

const workspace = new Workspace();
const chosen = () => workspace.chosen?.session;

const describe = ({ session, number }) => ({
  number,
  state: session.state,
  trouble: session.trouble,
  source: session.feed?.name ?? null,
  kind: session.feed?.kind ?? null,
  model: session.model,
  windowsAnswered: session.windowsAnswered,
  kept: session.ring.length,
  keptBytes: session.ring.bytes,
  resumes: session.resumes,
  unanswered: session.unanswered,
  framesSent: session.feed?.sent ?? 0,
  framesDropped: session.feed?.dropped ?? 0,
});

// Of the chosen session, but for `sessions`, which has all.
Object.defineProperty(window, 'spikeseg', {
  value: Object.freeze({
    /** empty, loading, connecting, playing, behind, paused, reconnecting or ended */
    get state() {
      return chosen()?.state;
    },
    get windowsAnswered() {
      return chosen()?.windowsAnswered ?? 0;
    },
    /** Metadata of the newest result. */
    get lastResult() {
      return structuredClone(chosen()?.ring.last?.meta ?? null);
    },
    /** Metadata of the result that is drawn. */
    get shown() {
      return structuredClone(chosen()?.shown?.meta ?? null);
    },
    /** Pixels of each class in the mask that is drawn. */
    get maskClassCounts() {
      return { ...chosen()?.classCounts };
    },
    /** silent, saturated or empty, for each layer in the heat map. */
    get layerMarks() {
      return workspace.inspector.layerMarks;
    },
    get sessions() {
      return workspace.stages.map(describe);
    },
  }),
});

workspace.start();
