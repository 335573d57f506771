"""*Spikes*: what the networks do and what it costs, beside an ANN with the same convolutions."""

from __future__ import annotations

from grafana_foundation_sdk.models.common import BigValueTextMode
from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.panels import (
    AMBER,
    GREEN,
    RED,
    bars,
    dashboard,
    heat,
    lines,
    number,
    query,
    rate,
    select,
    total,
)

_MODEL = 'model=~"$model"'
# Of prometheus/rules/alerts.yml.
_SILENT, _SATURATED = 1e-4, 0.6
_NOTE = "An estimate, not a measurement: memory traffic and membrane updates are not in it."


def build() -> Dashboard:
    """The dashboard."""
    windows = _sum("spikeseg_windows_total")
    sops, macs = _sum("spikeseg_synaptic_operations_total"), _sum("spikeseg_ann_multiply_accumulates_total")
    snn, ann = _sum("spikeseg_energy_estimate_joules_total"), _sum("spikeseg_ann_energy_estimate_joules_total")
    by_layer = f"{_sum('spikeseg_spikes_total', 'layer')} / {_sum('spikeseg_neuron_steps_total', 'layer')}"
    pixels = "spikeseg_class_pixels_total"
    by_class = f"{_sum(pixels, 'class')} / scalar({_sum(pixels)})"
    layers = select("instance_model_layer:spikeseg_firing_rate:ratio_rate5m", _MODEL)
    return dashboard(
        "spikeseg-spikes",
        "Spikeseg: Spikes",
        "Firing rates by layer, synaptic operations and estimated energy beside an ANN's, and what the masks show. "
        "Choose one model for figures by layer that belong together.",
        [
            "Now",
            number(
                "Firing rate",
                "Spikes for each neuron and time step, over all layers.",
                "percentunit",
                query(f"{_sum('spikeseg_spikes_total')} / {_sum('spikeseg_neuron_steps_total')}", "firing rate"),
                decimals=1,
            ),
            number(
                "SOPs of MACs",
                "Synaptic operations over the multiply-accumulates of an ANN with the same convolutions.",
                "percentunit",
                query(f"{sops} / {macs}", "SOPs of MACs"),
                decimals=1,
            ),
            number(
                "ANN energy over ours",
                f"How many times the energy an ANN with the same convolutions would take. {_NOTE}",
                "none",
                query(f"{ann} / {snn}", "times"),
                decimals=1,
            ),
            number(
                "Silent layers",
                "Layers that fire less than once in 10,000 neurons and steps, over 5 minutes.",
                "none",
                query(f"sum({layers} < bool {_SILENT})", "silent"),
                steps=((None, GREEN), (1, RED)),
            ),
            number(
                "Saturated layers",
                "Layers that fire in more than 60 % of neurons and steps, over 5 minutes.",
                "none",
                query(f"sum({layers} > bool {_SATURATED})", "saturated"),
                steps=((None, GREEN), (1, RED)),
            ),
            number(
                "Computed by",
                "Which networks have been used, and by what and with which weights each is computed.",
                "none",
                query(
                    f"max by (model, backend, weights, mode) ({select('spikeseg_model_info', _MODEL)})",
                    "{{model}}: {{backend}}, {{weights}}",
                ),
                text=BigValueTextMode.NAME,
            ),
            "Firing",
            heat(
                "Firing rate by layer",
                "Spikes for each neuron and step. A row that goes white has fallen silent, one that goes dark is "
                "saturated: a sign of a broken sensor or of a broken model.",
                "percentunit",
                query(by_layer, "{{layer}}"),
                width=16,
                buckets=False,
            ),
            bars(
                "Firing rate by layer, 5 min",
                "Red below 0.01 % (silent) and above 60 % (saturated), as the alerts have it.",
                "percentunit",
                query(f"avg by (layer) ({layers})", "{{layer}}"),
                steps=((None, RED), (_SILENT, GREEN), (0.4, AMBER), (_SATURATED, RED)),
                most=1,
            ),
            "Operations and energy",
            lines(
                "Operations for a window",
                "Synaptic operations of the network, and multiply-accumulates of an ANN with the same convolutions.",
                "short",
                query(f"{sops} / {windows}", "SOPs"),
                query(f"{macs} / {windows}", "MACs of an ANN"),
                log=True,
                width=6,
            ),
            lines(
                "SOPs by layer",
                "Synaptic operations in a second: where they are made.",
                "short",
                query(_sum("spikeseg_synaptic_operations_total", "layer"), "{{layer}}"),
                stack=True,
                width=6,
            ),
            lines(
                "Estimated energy for a window",
                f"4.6 pJ for a multiply-accumulate, 0.9 pJ for an accumulate (45 nm, fp32). {_NOTE}",
                "joule",
                query(f"{snn} / {windows}", "ours"),
                query(f"{ann} / {windows}", "ANN"),
                log=True,
                width=6,
            ),
            lines(
                "Estimated power",
                f"Estimated energy in a second, by model. {_NOTE}",
                "watt",
                query(_sum("spikeseg_energy_estimate_joules_total", "model"), "{{model}}"),
                query(_sum("spikeseg_ann_energy_estimate_joules_total", "model"), "ANN like {{model}}"),
                log=True,
                width=6,
            ),
            "Input and masks",
            lines(
                "Class pixel share",
                "Share of the masks' pixels that each class has.",
                "percentunit",
                query(by_class, "{{class}}"),
                stack=True,
                width=12,
            ),
            lines(
                "Events for a window",
                "How much the networks are shown.",
                "short",
                query(
                    f"{_sum('spikeseg_events_total', 'model')} / {_sum('spikeseg_windows_total', 'model')}", "{{model}}"
                ),
                width=12,
            ),
        ],
        by_model=True,
    )


def _sum(counter: str, by: str = "") -> str:
    return total(rate(counter, _MODEL), by)
