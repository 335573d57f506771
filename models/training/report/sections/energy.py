"""Operations and energy: layer by layer, in joules, counted by others, and the time that a window takes."""

from __future__ import annotations

from models.training.report.jobs import energy_job
from models.training.report.markdown import (
    MEGA,
    MICRO,
    MILLI,
    NOTHING,
    code,
    in_unit,
    machine,
    number,
    percent,
    picture,
    table,
)
from models.training.report.networks import STREAMING
from models.training.report.results import Record, Results
from models.training.report.sections.measured import each_measured

LAYER_HEADER = (
    "layer",
    "operation",
    "firing rate",
    "inputs not zero",
    "dense, M",
    "padded SOPs, M",
    "effective SOPs, M",
    "twin's dense MACs, M",
    "twin's effective MACs, M",
)
ENERGY_HEADER = ("arithmetic", "counted", "µJ/window", "twin's µJ/window", "mJ/s", "twin's mJ/s", "twin / network")


def energy_section(results: Results) -> list[str]:
    """The section's lines."""
    lines = ["## Operations and energy", ""]
    if results.measured("energy", STREAMING):
        lines += [
            "*padded*: dense operations times the share of inputs that are not zero, with every multiply-accumulate of "
            "the first layer. *effective*: only what meets an input and a weight which are not zero, for the twin too.",
            "",
            *picture("Firing rate of each layer", "firing-rates.png"),
        ]
    jobs = (energy_job(name, results.cards) for name in STREAMING)
    return lines + each_measured(results, jobs, lambda _, stored: _energy(stored))


def _energy(stored: Record) -> list[str]:
    operations = ", ".join(
        f"{_arithmetic(key)} {1e12 * value['mac']:.3g} pJ for each MAC and {1e12 * value['ac']:.3g} pJ for each AC"
        for key, value in stored["joules_per_operation"].items()
    )
    return [
        f"### Operations of {code(stored['snn']['model'])}",
        "",
        f"{stored['data']}. Beside it: {stored['ann']['what']}.",
        "",
        *_layers(stored["snn"], stored["ann"]),
        *_joules(stored),
        f"An estimate, from {operations}: {stored['note']}.",
        "",
        *_counters(stored["counters"]["snn"]),
        *_latency(stored),
    ]


def _layers(snn: Record, ann: Record) -> list[str]:
    twins = {layer["name"]: layer for layer in ann["layers"]}
    rows = [
        [
            layer["name"],
            layer["operation"].upper(),
            percent(layer["firing_rate"]) if layer["neurons"] else NOTHING,
            percent(layer["input_density"]),
            *_operations(layer, layer["sops_effective"], twins.get(layer["name"], {})),
        ]
        for layer in snn["layers"]
    ]
    rate = percent(snn["per_window"]["firing_rate"])
    for what, firing_rate, per in (("**a window**", rate, "per_window"), ("**a second**", "", "per_second")):
        effective = snn[per]["effective_macs"] + snn[per]["effective_acs"]
        rows.append([what, "", firing_rate, "", *_operations(snn[per], effective, ann[per])])
    return table(LAYER_HEADER, rows, left=2)


def _operations(own: Record, effective: float, twin: Record) -> list[str]:
    """A network's operations and its twin's, in millions."""
    counts = (own["dense_macs"], own["sops_padded"], effective, twin.get("dense_macs"), twin.get("effective_macs"))
    return [in_unit(MEGA, count) for count in counts]


def _joules(stored: Record) -> list[str]:
    snn, ann = stored["snn"], stored["ann"]
    rows = [
        [
            _arithmetic(arithmetic),
            how,
            in_unit(MICRO, joules),
            in_unit(MICRO, _entry(ann["per_window"]["energy_j"], how, arithmetic)),
            in_unit(MILLI, snn["per_second"]["power_w"][how][arithmetic]),
            in_unit(MILLI, _entry(ann["per_second"]["power_w"], how, arithmetic)),
            number(_entry(stored["ann_over_snn_energy"], how, arithmetic), 2),
        ]
        for how, values in snn["per_window"]["energy_j"].items()
        for arithmetic, joules in values.items()
    ]
    return table(ENERGY_HEADER, rows, left=2)


def _entry(record: Record, how: str, arithmetic: str) -> float | None:
    value: float | None = record.get(how, {}).get(arithmetic)
    return value


def _arithmetic(key: str) -> str:
    return key.replace("_", " at ").replace("45nm", "45 nm")


def _counters(counted: Record) -> list[str]:
    same = counted["spikingjelly_synops_are_our_effective_acs"]
    text = (
        f"Counted by others over the first {counted['windows']} windows: SpikingJelly finds "
        f"{'exactly the same' if same else 'other'} effective accumulates"
    )
    if counted["neurobench"]:
        apart = counted["neurobench_minus_ours"]
        text += (
            f", NeuroBench's less ours are {apart['effective_acs']} accumulates and {apart['effective_macs']} "
            "multiply-accumulates"
        )
    return [f"{text}.", ""]


def _latency(stored: Record) -> list[str]:
    latency = stored["latency"]
    rows = [
        [code(stored[key]["model"]), *(number(latency[f"{key}_ms"][q]) for q in ("p50", "p95"))]
        for key in ("snn", "ann")
        if f"{key}_ms" in latency
    ]
    return [
        f"Measured time of a window on {machine(stored['machine'])} ({latency['note']}):",
        "",
        *table(["network", "p50, ms", "p95, ms"], rows),
    ]
