"""Plots of scores, robustness, firing rates and learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from models.training import robustness_plot
from models.training.report.networks import CONVERTED, STREAMING, TWIN_SUFFIX, twin_name
from models.training.report.pictures import new_figure, save, write_small
from models.training.report.results import Record, Results
from models.training.report.targets import TARGETS
from models.training.robustness_plot import ANN_LINE, SNN_LINE

# The styles of the robustness plots, and a third one beside them.
SPIKING: dict[str, Any] = SNN_LINE
TWIN: dict[str, Any] = ANN_LINE
DIRECT: dict[str, Any] = {"color": "#009e73", "marker": "^", "linestyle": ":"}
BARS = ("#0072b2", "#e69f00")


def draw_plots(results: Results, folder: Path) -> None:
    """Draw every plot that the results allow into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if conversions := results.measured("conversion", CONVERTED):
        _draw_conversion(conversions, folder / "conversion.png")
    for name, stored in results.measured("robustness", STREAMING).items():
        _draw_robustness(stored, folder / f"robustness-{name}.png")
    if frames := results.frame_robustness():
        _draw_robustness(frames, folder / "robustness-frames.png")
    if energies := results.measured("energy", STREAMING):
        _draw_firing_rates(energies, folder / "firing-rates.png")
    if curves := results.curves():
        _draw_curves(curves, folder / "learning-curves.png")


def _draw_conversion(conversions: Mapping[str, Record], path: Path) -> None:
    figure, panels = _panels(len(conversions), 3.2, 2.6, "mIoU")
    highest = 0.0
    for panel, (name, stored) in zip(panels, conversions.items(), strict=True):
        steps, values = ([p[key] for p in stored["converted"]] for key in ("steps", "miou"))
        direct, twin = stored["direct"], stored["twin"]["miou"]
        panel.axhline(twin, color=TWIN["color"], linestyle="--", linewidth=1.5, label="ANN twin")
        panel.axhline(direct["miou"], color=DIRECT["color"], linestyle=":", linewidth=1.2)
        panel.plot(steps, values, label="converted twin", markersize=4, linewidth=1.5, **SPIKING)
        panel.plot(direct["steps"], direct["miou"], label="directly trained", markersize=7, **DIRECT)
        panel.set_xscale("log")
        panel.set_xticks(steps, [f"{k}" for k in steps])
        panel.minorticks_off()
        panel.set_title(name, fontsize=10)
        panel.set_xlabel("time steps", fontsize=9)
        highest = max(highest, twin, direct["miou"], *values)
    panels[0].set_ylim(0, 1.1 * highest)
    _save_with_legend(figure, panels, path)


def _draw_robustness(stored: Record, path: Path) -> None:
    models = stored["models"]
    names = {"snn": f"spiking {models['snn']}", "ann": f"ANN twin {models['ann']}"}
    robustness_plot.plot(stored["perturbations"], path, names)
    with Image.open(path) as picture:
        write_small(picture.copy(), path)


def _draw_firing_rates(energies: Mapping[str, Record], path: Path) -> None:
    rates = {
        name: {layer["name"]: 100 * layer["firing_rate"] for layer in stored["snn"]["layers"] if layer["neurons"]}
        for name, stored in energies.items()
    }
    layers = list(dict.fromkeys(layer for by_layer in rates.values() for layer in by_layer))
    figure = new_figure(8, 2.8)
    panel = figure.subplots()
    width = 0.8 / len(rates)
    for k, (name, by_layer) in enumerate(rates.items()):
        at = [layers.index(layer) + (k - (len(rates) - 1) / 2) * width for layer in by_layer]
        panel.bar(at, list(by_layer.values()), 0.92 * width, color=BARS[k % len(BARS)], label=name)
    target = next(100 * t.bound for t in TARGETS if t.share)
    panel.axhline(target, color="0.3", linestyle="--", linewidth=1, label=f"{target:g} %, expected of the mean")
    panel.set_xticks(range(len(layers)), layers, rotation=30, ha="right", rotation_mode="anchor")
    panel.set_ylabel("firing rate, %", fontsize=9)
    _make_plain(panel, 9)
    _save_with_legend(figure, [panel], path)


def _draw_curves(curves: Mapping[str, Sequence[Record]], path: Path) -> None:
    bases = list(dict.fromkeys(name.removesuffix(TWIN_SUFFIX) for name in curves))
    figure, panels = _panels(len(bases), 3.0, 2.3, "held-out mIoU")
    for panel, base in zip(panels, bases, strict=True):
        for name, label, style in ((base, "spiking", SPIKING), (twin_name(base), "ANN twin", TWIN)):
            if name in curves:
                minutes, values = ([score[key] for score in curves[name]] for key in ("minutes", "miou"))
                panel.plot(minutes, values, label=label, markersize=3.5, linewidth=1.5, **style)
        panel.set_title(base, fontsize=10)
        panel.set_xlabel("training, minutes", fontsize=9)
        panel.set_xlim(left=0)
    panels[0].set_ylim(0, 1.1 * max(float(score["miou"]) for curve in curves.values() for score in curve))
    _save_with_legend(figure, panels, path)


def _panels(count: int, width: float, height: float, score: str) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels of so many inches, at most three in a row, sharing an axis of scores."""
    columns = min(3, count)
    rows = -(-count // columns)
    figure = new_figure(max(width * columns, 4.5), height * rows + 0.4)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for panel in panels[count:]:
        panel.set_visible(False)
    for panel in panels[:count]:
        panel.grid(axis="y", color="0.92")
        _make_plain(panel, 8)
    for row in grid:
        row[0].set_ylabel(score, fontsize=9)
    return figure, panels[:count]


def _make_plain(panel: Axes, label_size: int) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=label_size)


def _save_with_legend(figure: Figure, panels: Sequence[Axes], path: Path) -> None:
    """Write a figure, above it one legend for all its panels."""
    entries: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(str(label), handle)
    figure.legend(
        entries.values(), entries.keys(), loc="outside upper center", ncols=len(entries), frameon=False, fontsize=9
    )
    save(figure, path)
