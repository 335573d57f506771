// Numbers to text.

const PREFIXES = [
  [1e12, 'T'],
  [1e9, 'G'],
  [1e6, 'M'],
  [1e3, 'k'],
  [1, ''],
  [1e-3, 'm'],
  [1e-6, 'µ'],
  [1e-9, 'n'],
  [1e-12, 'p'],
];
const SPACE = '\u202f'; // narrow, no break

/** Three significant digits and an SI prefix: 4.56 M, 56 n. */
export function si(value, unit = '') {
  if (!Number.isFinite(value)) return '–';
  if (value === 0) return unit ? `0${SPACE}${unit}` : '0';
  const size = Math.abs(value) * 1.0005; // what rounds up to 1000 takes the next prefix
  const [scale, prefix] = PREFIXES.find(([step]) => size >= step) ?? PREFIXES.at(-1);
  const suffix = prefix + unit;
  return digits(value / scale) + (suffix ? SPACE + suffix : '');
}

export function percent(share) {
  if (!Number.isFinite(share)) return '–';
  return `${digits(100 * share, share > 0 && share < 0.00995 ? 2 : 1)}${SPACE}%`;
}

export function milliseconds(value) {
  if (value >= 999.5) return `${digits(value / 1000, 1)}${SPACE}s`;
  return Number.isFinite(value) ? `${digits(value, 1)}${SPACE}ms` : '–';
}

/** A whole number with its thousands set apart. */
export function count(value) {
  return Number.isFinite(value) ? Math.round(value).toLocaleString('en').replaceAll(',', SPACE) : '–';
}

/** How many times one quantity is of another: 38×, 1.4×. */
export function ratio(value) {
  if (!Number.isFinite(value)) return '–';
  return `${value >= 10 ? count(value) : value.toFixed(1)}×`;
}

/** Microseconds as a clock: 0:03.93. */
export function clock(us) {
  const hundredths = Math.floor(us / 10_000);
  const minutes = Math.floor(hundredths / 6000);
  return `${minutes}:${((hundredths % 6000) / 100).toFixed(2).padStart(5, '0')}`;
}

function digits(value, most = 2) {
  const size = Math.abs(value);
  if (size >= 99.95) return value.toFixed(0);
  if (size >= 9.995) return value.toFixed(Math.min(most, 1));
  return value.toFixed(most);
}
