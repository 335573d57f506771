// Colours of what is drawn on canvases: taken from the style sheet, which follows the system's light or dark scheme.

const NAMES = ['grid', 'mark', 'cursor', 'label', 'snn', 'ann', 'compute', 'total', 'round', 'silent', 'saturated'];
const HEAT_STOPS = 4;

const dark = matchMedia('(prefers-color-scheme: dark)');
let read = null;

/** Colours by name; `heat` is a scale of 256 colours, from a rate of 0 to the top of the scale. */
export function ink() {
  if (read) return read;
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(`--ink-${name}`).trim();
  read = Object.fromEntries(NAMES.map((name) => [name, color(name)]));
  read.heat = heatScale(Array.from({ length: HEAT_STOPS }, (_, i) => hexColor(color(`heat-${i}`))));
  return read;
}

/** Call back when the colours have changed. */
export function onInkChange(run) {
  dark.addEventListener('change', () => {
    read = null;
    run();
  });
}

function heatScale(stops) {
  return Array.from({ length: 256 }, (_, i) => {
    const at = (i / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    const mixed = stops[low].map((value, c) => Math.round(value + (stops[low + 1][c] - value) * (at - low)));
    return `rgb(${mixed.join(' ')})`;
  });
}

function hexColor(text) {
  return [1, 3, 5].map((at) => Number.parseInt(text.slice(at, at + 2), 16));
}
