"""Draws the dashboards from a Prometheus: what their panels ask, as pictures. Grafana itself takes no part.

python -m monitoring.render --prometheus http://localhost:9090 --minutes 30 --out docs
"""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from monitoring.queries import Prometheus, dashboard_names, filled, panels, read_dashboard

_COLUMNS = 24
_POINTS = 150
_WIDTH_IN, _ROW_IN, _DPI = 14.0, 0.27, 80
_COLORS = {"green": "#2f9e44", "orange": "#e8890c", "red": "#d6336c", "blue": "#1c7ed6", "transparent": "none"}
_LINES = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"),
    *("#aec7e8", "#ffbb78"),
)
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))
_NAMES = {"s": "s", "joule": "J", "watt": "W", "cps": "/s", "short": "", "none": ""}


@dataclass(frozen=True, slots=True)
class Span:
    """The time that is drawn.

    Attributes
    ----------
    start, end : float
        Seconds since 1970.
    rate_interval : str
        For ``$__rate_interval``.
    """

    start: float
    end: float
    rate_interval: str

    @property
    def step(self) -> float:
        """Seconds between two points."""
        return (self.end - self.start) / _POINTS

    def times(self) -> list[float]:
        """Its points, in seconds from its end."""
        return [self.start + k * self.step - self.end for k in range(_POINTS + 1)]


@dataclass(frozen=True, slots=True)
class Series:
    """A name, its labels, and values at the points of a span; NaN where there is none."""

    name: str
    labels: Mapping[str, str]
    values: list[float]

    @property
    def last(self) -> float:
        """The latest value."""
        return next((value for value in reversed(self.values) if math.isfinite(value)), math.nan)


def formatted(value: float, unit: str, decimals: int | None = None) -> str:
    """A value with its unit, about as Grafana has it."""
    if not math.isfinite(value):
        return "–"
    if decimals is not None and unit in ("percentunit", "none"):
        return f"{100 * value:,.{decimals}f} %" if unit == "percentunit" else f"{value:,.{decimals}f}"
    if unit == "percentunit":
        return f"{100 * value:.3g} %" if abs(value) < 10 else f"{100 * value:,.0f} %"
    if unit == "bytes":
        power = min(max(int(math.log(abs(value), 1024)), 0), 4) if value else 0
        return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
    name = _NAMES[unit]
    if unit == "s" and abs(value) >= 60:
        return f"{value / 60:.3g} min"
    gap = " " if name and name != "/s" else ""
    if unit == "none" or value == 0:
        return f"{value:.4g}{gap}{name}"
    factor, prefix = next(((f, p) for f, p in _PREFIXES if abs(value) >= f), _PREFIXES[-1])
    if not name or name == "/s":
        factor, prefix = (factor, prefix) if factor >= 1 else (1, "")
    return f"{value / factor:.3g}{gap}{prefix}{name}"


def ask(prometheus: Prometheus, panel: Mapping[str, Any], span: Span) -> list[Series]:
    """What all queries of a panel give over a span."""
    found: list[Series] = []
    for target in panel["targets"]:
        seconds = f"{math.ceil(span.end - span.start)}s"
        expression = filled(target["expr"], rate_interval=span.rate_interval, range=seconds)
        for series in prometheus.query_range(expression, span.start, span.end, span.step):
            values = {round((float(t) - span.start) / span.step): float(value) for t, value in series["values"]}
            row = [values.get(k, math.nan) for k in range(_POINTS + 1)]
            found.append(Series(_named(target["legendFormat"], series["metric"]), series["metric"], row))
    return found


def _named(legend: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda place: labels.get(place[1], ""), legend)


def draw_lines(axes: Axes, panel: Mapping[str, Any], series: Sequence[Series], span: Span) -> None:
    """Values over time."""
    axes.set_prop_cycle(color=_LINES)
    defaults = panel["fieldConfig"]["defaults"]
    custom, times = defaults["custom"], span.times()
    if custom.get("stacking", {}).get("mode") == "normal":
        rows = np.nan_to_num([each.values for each in series])
        axes.stackplot(times, rows, labels=[each.name for each in series], alpha=0.75, linewidth=0)
    else:
        for each in series:
            axes.plot(times, each.values, label=each.name, linewidth=1.2)
    if custom.get("scaleDistribution", {}).get("type") == "log":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    top = axes.get_ylim()[1]
    for mark in defaults.get("thresholds", {}).get("steps", []):
        color = _COLORS[mark["color"]]
        if custom.get("thresholdsStyle") and color != "none" and (mark["value"] or 0) < 20 * top:
            axes.axhline(mark["value"], color=color, linestyle="--", linewidth=0.9)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: formatted(value, defaults["unit"])))
    axes.set_xlim(times[0], 0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} s" if value else "now"))
    axes.grid(alpha=0.25)
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.1),
        ncols=min(len(series), 3 if len(series) < 5 else 6),
        fontsize=6,
        frameon=False,
        handlelength=1.0,
        columnspacing=1.0,
    )


def draw_heat(axes: Axes, panel: Mapping[str, Any], series: Sequence[Series], span: Span) -> None:
    """Colours over time, a row for each series."""
    times, names = span.times(), [each.name for each in series]
    rows = np.nan_to_num([each.values for each in series])
    if panel["targets"][0].get("format") == "heatmap":
        order = sorted(range(len(series)), key=lambda k: float(series[k].labels["le"]))
        names = [names[k] for k in order]
        rows = np.diff(rows[order], axis=0, prepend=0)
        if len(used := np.flatnonzero(rows.sum(axis=1) > 0)):
            low, high = max(used[0] - 1, 0), min(used[-1] + 2, len(rows))
            rows, names = rows[low:high], names[low:high]
    edges = np.linspace(times[0], times[-1], len(times) + 1)
    image = axes.pcolormesh(
        edges, np.arange(len(rows) + 1), np.ma.masked_less_equal(rows, 0), cmap="Oranges", norm=PowerNorm(0.5, vmin=0)
    )
    axes.set_yticks(np.arange(len(rows)) + 0.5, names)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} s" if value else "now"))
    figure = axes.figure
    assert isinstance(figure, Figure)
    bar = figure.colorbar(image, ax=axes, pad=0.01, fraction=0.03)
    unit = panel["options"]["cellValues"]["unit"]
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: formatted(value, unit)))
    bar.ax.tick_params(labelsize=6)


def draw_number(axes: Axes, panel: Mapping[str, Any], series: Sequence[Series], _: Span) -> None:
    """One value, large; or the names of the series."""
    axes.set_axis_off()
    defaults, mode = panel["fieldConfig"]["defaults"], panel["options"]["textMode"]
    value = partial(formatted, unit=defaults["unit"], decimals=defaults.get("decimals"))
    texts = {
        "name": [each.name for each in series],
        "value_and_name": [f"{each.name}: {value(each.last)}" for each in series],
    }.get(mode, [value(each.last) for each in series])
    color = _color_of(series[0].last, defaults["thresholds"]["steps"])
    longest = max(map(len, texts))
    size = 20 if longest < 10 else min(10, 230 / longest)
    axes.text(0.5, 0.45, "\n".join(texts), ha="center", va="center", fontsize=size, color=color)


def draw_bars(axes: Axes, panel: Mapping[str, Any], series: Sequence[Series], _: Span) -> None:
    """A bar for each value, of now."""
    defaults = panel["fieldConfig"]["defaults"]
    steps = defaults["thresholds"]["steps"]
    values = [each.last for each in series]
    places = np.arange(len(series))[::-1]
    most = defaults.get("max", max(values))
    axes.barh(places, [most] * len(series), color="#0000000c", height=0.7)
    axes.barh(places, values, color=[_color_of(value, steps) for value in values], height=0.7)
    for place, value in zip(places, values, strict=True):
        axes.text(most, place, f"{formatted(value, defaults['unit'])} ", ha="right", va="center", fontsize=7)
    axes.set_yticks(places, [each.name for each in series])
    axes.set_xlim(0, most)
    axes.set_xticks([])


_DRAW: dict[str, Callable[[Axes, Mapping[str, Any], Sequence[Series], Span], None]] = {
    "timeseries": draw_lines,
    "heatmap": draw_heat,
    "stat": draw_number,
    "bargauge": draw_bars,
}


def draw_dashboard(dashboard: Mapping[str, Any], prometheus: Prometheus, span: Span) -> Figure:
    """A dashboard's panels where they stand on its grid."""
    height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in dashboard["panels"]) + 2
    figure = Figure(figsize=(_WIDTH_IN, height * _ROW_IN), dpi=_DPI, facecolor="#f4f5f5")
    note = "drawn from the panels' queries by monitoring/render.py, not by Grafana"
    figure.text(0.01, 1 - 0.9 / height, dashboard["title"], fontsize=13, weight="bold", va="center")
    figure.text(0.99, 1 - 0.9 / height, note, fontsize=8, color="gray", ha="right", va="center")
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            y = 1 - (panel["gridPos"]["y"] + 2.6) / height
            figure.text(0.01, y, panel["title"], fontsize=10, weight="bold", va="center")
    for panel in panels(dashboard):
        axes = _place(figure, panel["gridPos"], height)
        axes.set_title(panel["title"], fontsize=8.5, loc="left", pad=4)
        axes.tick_params(labelsize=6)
        axes.spines[["top", "right"]].set_visible(False)
        series = ask(prometheus, panel, span)
        if any(math.isfinite(each.last) for each in series):
            _DRAW[panel["type"]](axes, panel, series, span)
        else:
            axes.set_axis_off()
            axes.text(0.5, 0.5, "no data", ha="center", va="center", fontsize=9, color="gray")
    return figure


def _place(figure: Figure, place: Mapping[str, int], height: float) -> Axes:
    left, right = 1.1 / _COLUMNS, 0.3 / _COLUMNS
    below, above = (1.9, 1.3) if place["h"] > 4 else (0.2, 1.3)
    x, y, w, h = (place[key] for key in "xywh")
    return figure.add_axes(
        (
            x / _COLUMNS + left,
            1 - (y + 2 + h - below) / height,
            w / _COLUMNS - left - right,
            (h - below - above) / height,
        )
    )


def _color_of(value: float, steps: Sequence[Mapping[str, Any]]) -> str:
    color = "gray"
    for step in steps:
        if step["value"] is None or value >= step["value"]:
            color = _COLORS[step["color"]]
    return color


def render(prometheus: Prometheus, span: Span, folder: Path) -> list[Path]:
    """Draw all dashboards; the files made, ``monitoring-NAME.png``."""
    made = []
    for name in dashboard_names():
        path = folder / f"monitoring-{name}.png"
        draw_dashboard(read_dashboard(name), prometheus, span).savefig(path)
        made.append(path)
    return made


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", default="http://localhost:9090", help="its address")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long back")
    parser.add_argument("--rate-interval", default="20s", help="at least four times the scrape interval")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the pictures")
    args = parser.parse_args()
    end = time.time()
    for path in render(Prometheus(args.prometheus), Span(end - 60 * args.minutes, end, args.rate_interval), args.out):
        print(path)


if __name__ == "__main__":
    main()
