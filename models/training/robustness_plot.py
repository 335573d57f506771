"""Plots of mIoU over the strength of perturbations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Colours that remain apart for the colour-blind (Okabe and Ito) and lines that do so in grey.
SNN_LINE, ANN_LINE = {"color": "#0072b2", "marker": "o"}, {"color": "#d55e00", "marker": "s", "linestyle": "--"}


def plot(results: Sequence[Mapping[str, Any]], path: Path, names: Mapping[str, str]) -> None:
    """Draw mIoU over strength, one small panel for each perturbation, and save it as a picture.

    Parameters
    ----------
    results : sequence of mapping
        As :func:`sweep` and :func:`frame_sweep` give them.
    path : Path
        The picture; its suffix tells the format.
    names : mapping of str
        Names of the networks, under ``snn`` and ``ann``, for the legend.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(4, len(results))
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.5 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    scores = [p[key]["miou"] for result in results for p in result["points"] for key in ("snn", "ann") if p[key]]
    for panel, result in zip(grid.flat, results, strict=False):
        strengths = [p["strength"] for p in result["points"]]
        panel.axvline(result["nominal"], color="0.8", linewidth=1, zorder=0)
        for key, style in (("snn", SNN_LINE), ("ann", ANN_LINE)):
            if all(p[key] for p in result["points"]):
                values = [p[key]["miou"] for p in result["points"]]
                panel.plot(strengths, values, label=names[key], markersize=4, linewidth=1.5, **style)
        if min(strengths) > 0 and max(strengths) >= 20 * min(strengths):
            panel.set_xscale("log")
        panel.set_title(result["name"].replace("_", " "), fontsize=10)
        panel.set_xlabel(result["axis"], fontsize=9)
        panel.set_ylim(0, 1.1 * max(scores))
        panel.grid(axis="y", color="0.92")
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    for row in grid:
        row[0].set_ylabel("mIoU", fontsize=9)
    for panel in grid.flat[len(results) :]:
        panel.set_visible(False)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
