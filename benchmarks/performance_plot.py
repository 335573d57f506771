"""The report of :mod:`benchmarks.performance` as one picture of four panels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from benchmarks.performance_page import NAMES, keys_of
from models.training.report.pictures import new_figure, save

COLORS = {
    "kernel": "#0072b2",
    "kernel-binned": "#56b4e9",
    "torch": "#e69f00",
    "spikingjelly": "#d55e00",
    "twin-torch": "#009e73",
    "twin-onnxruntime": "#009e73",
    "twin-openvino": "#66c2a5",
    "rest-kernel": "#cc79a7",
    "rest-torch": "#cc79a7",
    "paper": "#cc79a7",
    "sltnet": "#777777",
}
MARKERS = {"kernel": "o", "kernel-binned": "D", "torch": "s", "twin-onnxruntime": "^", "twin-openvino": "v"}

Record = Mapping[str, Any]


def draw(report: Record, path: Path) -> None:
    """Draw the picture into a file."""
    figure = new_figure(11, 8)
    panels = figure.subplots(2, 2)
    _contestants(panels[0][0], report)
    _rates(panels[0][1], report)
    _sizes(panels[1][0], report)
    _streams(panels[1][1], report)
    save(figure, path)


def _plain(name: str) -> str:
    return name.replace("`", "")


def _contestants(panel: Axes, report: Record) -> None:
    most = max(row["threads"] for row in report["head_to_head"])
    found = {row["contestant"]: row["window"]["p50_ms"] for row in report["head_to_head"] if row["threads"] == most}
    keys = [key for key in reversed(NAMES) if key in found]
    values = [found[key] for key in keys]
    bars = panel.barh([_plain(NAMES[key]) for key in keys], values, color=[COLORS[key] for key in keys])
    told = [f"{value:.1f}" if value < 100 else f"{value:.0f}" for value in values]
    panel.bar_label(bars, told, padding=3, fontsize=8)
    panel.set_xscale("log")
    panel.set_xlim(1, 4 * max(values))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.tick_params(labelsize=8)
    rate = f"{report['rate'] / 1e6:g} M events/s"
    panel.set_title(f"a window of {report['window_us'] / 1000:g} ms at {rate}, {most} threads", fontsize=10)
    panel.set_xlabel("p50, ms (logarithmic)", fontsize=9)


def _rates(panel: Axes, report: Record) -> None:
    rows = report["rates"]
    for key in keys_of(rows):
        panel.plot(
            [row["rate"] for row in rows],
            [row[key]["p50_ms"] for row in rows],
            color=COLORS[key],
            marker=MARKERS.get(key, "."),
            label=_plain(NAMES[key]),
        )
    for row in rows:
        panel.annotate(
            f"{row['firing_rate']:.1%} fire",
            (row["rate"], row["kernel"]["p50_ms"]),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color=COLORS["kernel"],
        )
    panel.set_xscale("log")
    panel.set_xlim(rows[0]["rate"] / 2, rows[-1]["rate"] * 2)
    # Room for the legend above the lines.
    panel.set_ylim(0, 1.35 * max(row[key]["p50_ms"] for row in rows for key in keys_of([row])))
    panel.set_title("with the rate of events", fontsize=10)
    _labels(panel, "events a second", "p50, ms")


def _sizes(panel: Axes, report: Record) -> None:
    rows = report["sizes"]
    named = {
        "kernel": "kernel, every pixel",
        "torch": "PyTorch, every pixel",
        "kernel-binned": "kernel, as served (pixels joined)",
    }
    for key, name in named.items():
        with_it = [row for row in rows if key in row or key == "kernel-binned"]
        # What is not binned is served as it is.
        values = [row.get(key, row["kernel"])["p50_ms"] for row in with_it]
        style: dict[str, Any] = {"color": COLORS[key], "marker": MARKERS[key], "label": name}
        panel.plot([row["pixels"] for row in with_it], values, **style)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.minorticks_off()
    panel.set_xticks([row["pixels"] for row in rows], [row["sensor"] for row in rows], rotation=30, ha="right")
    low, high = panel.get_ylim()
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000) if low <= tick <= high]
    panel.set_yticks(ticks, [f"{tick}" for tick in ticks])
    panel.set_title("with the size of the sensor, events on each pixel alike", fontsize=10)
    _labels(panel, "", "p50, ms (logarithmic)")


def _streams(panel: Axes, report: Record) -> None:
    rows = report["streams"]
    numbers = [row["streams"] for row in rows]
    panel.plot(numbers, [row["p50_ms"] for row in rows], color="#0072b2", marker="o", label="p50")
    panel.plot(numbers, [row["p99_ms"] for row in rows], color="#0072b2", marker=".", linestyle=":", label="p99")
    panel.set_xscale("log")
    panel.minorticks_off()
    panel.set_xticks(numbers, [f"{number}" for number in numbers])
    panel.set_ylim(0, 1.15 * max(row["p99_ms"] for row in rows))
    for row in rows:
        panel.annotate(
            f"{row['windows_per_second']:.0f}/s",
            (row["streams"], row["p50_ms"]),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    panel.set_title(f"streams over one server on {report['cores']} cores; windows/s of all", fontsize=10)
    _labels(panel, "streams", "latency at the client, ms")


def _labels(panel: Axes, x: str, y: str) -> None:
    panel.set_xlabel(x, fontsize=9)
    panel.set_ylabel(y, fontsize=9)
    panel.tick_params(labelsize=8)
    panel.grid(visible=True, linewidth=0.4, alpha=0.6)
    panel.legend(fontsize=8, frameon=False)
