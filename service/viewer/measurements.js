// What the charts and numbers show of a window.

import { milliseconds, ratio, si } from './format.js';
import { LineChart } from './charts.js';

/**
 * The figures of a result.
 *
 * @param {object} meta metadata of the result
 * @param {number} roundTrip ms from the end of the window to its mask in the page; NaN where unknown
 */
export function sampleOf(meta, roundTrip) {
  const { activity, latency_ms: latency } = meta;
  return {
    window: meta.window,
    first: meta.window === 0,
    end: meta.t_end,
    us: meta.t_end - meta.t_start,
    events: meta.events,
    shares: meta.class_share,
    rate: activity.firing_rate,
    // The readout has no neurons that fire.
    layers: activity.layers
      .filter((layer) => layer.neurons > 0)
      .map(({ name, neurons, firing_rate: rate }) => ({ name, neurons, rate })),
    sops: activity.sops,
    macs: activity.macs_ann,
    snn: activity.energy_estimate_j.snn,
    ann: activity.energy_estimate_j.ann,
    compute: latency.compute,
    total: latency.total,
    round: roundTrip,
  };
}

/**
 * @param {(id: string) => HTMLElement} find
 * @param {(fromRight: ?number) => void} onPoint
 * @returns {LineChart[]}
 */
export function makeCharts(find, onPoint) {
  const make = (id, options) => new LineChart(find(id), { onPoint, ...options });
  const operations = make('chart-operations', {
    title: 'Ops / window',
    hint: 'Synaptic operations that the spikes caused, against the multiply-accumulates of the same network without spikes.',
    format: (value) => si(value),
    logarithmic: true,
    summarize: (value) => compare(value(0), value(1), 'fewer'),
  });
  operations.setSeries([
    { label: 'dense MACs', color: 'ann', value: (sample) => sample.macs },
    { label: 'SOPs', color: 'snn', value: (sample) => sample.sops },
  ]);
  const energy = make('chart-energy', {
    title: 'Energy est. / window',
    hint: 'Arithmetic only, 45 nm: 4.6 pJ a multiply-accumulate, 0.9 pJ an accumulate. Memory traffic is not in it.',
    format: (value) => si(value, 'J'),
    logarithmic: true,
    summarize: (value) => compare(value(0), value(1), 'less'),
  });
  energy.setSeries([
    { label: 'dense ANN', color: 'ann', value: (sample) => sample.ann },
    { label: 'SNN', color: 'snn', value: (sample) => sample.snn },
  ]);
  const latency = make('chart-latency', {
    title: 'Latency',
    hint: 'Network alone; everything on the server; and from the end of a window to its mask in this page.',
    format: milliseconds,
    logarithmic: true,
  });
  latency.setSeries([
    { label: 'round trip', color: 'round', value: (sample) => sample.round },
    { label: 'total', color: 'total', value: (sample) => sample.total },
    { label: 'compute', color: 'compute', value: (sample) => sample.compute },
  ]);
  return [operations, energy, latency];
}

function compare(ann, snn, lower) {
  return ann > snn ? `${ratio(ann / snn)} ${lower}` : `${ratio(snn / ann)} more`;
}
