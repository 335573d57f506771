"""The report of :mod:`benchmarks.performance` as a page and a plot; every figure on them is the report's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.training.report.markdown import NOTHING, table

PAGE = Path("docs/performance.md")
REPORT_NAME = Path("docs/results/performance.json")
ENOUGH_FOR_P99 = 100
BUSY = 0.05

Record = Mapping[str, Any]

NAMES = {
    "kernel": "`edge-s`, event-driven kernel",
    "torch": "`edge-s`, PyTorch, dense",
    "spikingjelly": "`edge-s`, SpikingJelly's modules",
    "twin-torch": "ANN twin, PyTorch",
    "twin-onnxruntime": "ANN twin, ONNX Runtime",
    "twin-openvino": "ANN twin, OpenVINO",
    "rest-kernel": "`edge-s`, 20 steps from rest, kernel",
    "rest-torch": "`edge-s`, 20 steps from rest, PyTorch",
    "paper": "the paper's network, 20 steps from rest, PyTorch",
    "sltnet": "SLTNet, PyTorch",
}

WHAT = {
    "kernel": "ours, as the service runs it; one step, membranes carried on; spikes and operations counted too",
    "torch": "ours with `SPIKESEG_BACKEND=torch`; the same, by dense convolutions",
    "spikingjelly": "the same weights in its modules, eager, batch norm folded, channels last, membranes kept",
    "twin-torch": "the same convolutions with ReLU, over the last eight windows at once; no membranes",
    "twin-onnxruntime": "the twin exported to ONNX for exactly this input, float32, all of the runtime's optimisations",
    "twin-openvino": "the same file, float32, latency hint, one stream",
    "rest-kernel": "the paper's protocol: T = 20 steps from rest for each answer, each with a twentieth of the events",
    "rest-torch": "the same, by dense convolutions",
    "paper": "Spiking-DeepLab of the paper over all pixels, T = 20, random weights (its cost does not hang on them)",
    "sltnet": "published network and weights (DDD17), five time bins, one step from rest, nothing carried on",
}

TARGETS: tuple[tuple[str, str | None, float], ...] = (
    ("`edge-s` on the kernel, p50 of a window, at most 10 ms", None, 10.0),
    ("times as fast as SpikingJelly with the same weights, at least 5", "spikingjelly", 5.0),
    ("times as fast as the paper's protocol on the same network, dense, at least 20", "rest-torch", 20.0),
    ("times as fast as the paper's protocol on the same network and kernel, at least 20", "rest-kernel", 20.0),
    ("times as fast as the paper's own network by its protocol, at least 20", "paper", 20.0),
    ("times as fast as SLTNet, at least 10", "sltnet", 10.0),
)


def write_page(report: Path) -> list[Path]:
    """Make plot and page of a report; for the default one docs/performance.md, else beside it. What was written."""
    from benchmarks.performance_plot import draw

    found = json.loads(report.read_text())
    picture = report.with_suffix(".png")
    page = PAGE if report == REPORT_NAME else report.with_suffix(".md")
    draw(found, picture)
    page.write_text(render(found))
    return [picture, page]


def render(report: Record) -> str:
    """The page, in Markdown."""
    most = max(row["threads"] for row in report["head_to_head"])
    lines = [
        "# Performance",
        "",
        "Written by `python -m benchmarks.performance` from [results/performance.json](results/performance.json); "
        "`--render` makes it anew. Nothing here is typed by hand.",
        "",
        *_caveat(report),
        *_setting(report),
        "![Contestants, event rate, resolution and streams](results/performance.png)",
        "",
        *_expected(report, most),
        *_contestants(report, most),
        *_reading(report, most),
        *_rates(report),
        *_floor(report),
        *_sizes(report),
        *_streams(report),
        *_caveats(),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _caveat(report: Record) -> list[str]:
    lines = []
    if report["quick"]:
        lines.append("**From a `--quick` run, a smoke test: the figures are worth nothing.**")
    others = report["share_of_cores_taken_by_others"]
    if others is not None and others > BUSY:
        lines.append(
            f"**Other programs took {others:.0%} of the cores during this run: times are too long, tails most of all; "
            "ratios, taken in turns, are nearer to the truth.**"
        )
    return [*lines, ""] if lines else []


def _setting(report: Record) -> list[str]:
    machine, recording = report["machine"], report["recording"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    others = report["share_of_cores_taken_by_others"]
    quiet = "" if others is None else f" Other programs took {others:.1%} of the cores meanwhile."
    natural = recording["events"] / recording["seconds"]
    return [
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB. {versions}. Seed "
        f"{report['seed']}. `{report['command']}`, {report['minutes']:.0f} minutes.{quiet}",
        "",
        f"The events are those of the demo recording (`{recording['name']}`: a rendered street through the emulator, "
        f"{recording['sensor']}, {_count(recording['events'])} events in {recording['seconds']:.1f} s, "
        f"{_count(natural)} a second), not of a camera. Other event rates are the same drive, slower or faster: "
        f"windows are cut by number, {_count(report['rate'] * report['window_us'] / 1e6)} events for "
        f"{_count(report['rate'])} events/s and {report['window_us'] / 1000:.0f} ms, and their times stretched to fit.",
        "",
        "Within a run everybody takes turns: a few windows each, round after round, in changing order. The first call "
        "of a turn and all before the stream has settled are not counted. Times are medians (p50) over all rounds.",
        "",
    ]


def _expected(report: Record, most: int) -> list[str]:
    rows = []
    medians = _medians(report, most)
    for what, key, bound in TARGETS:
        if key is None:
            value = medians["kernel"]
            rows.append([what, f"{value:.2f} ms", _verdict(value <= bound)])
        elif key in medians:
            value = medians[key] / medians["kernel"]
            rows.append([what, f"{value:.1f}", _verdict(value >= bound)])
        else:
            rows.append([what, NOTHING, report["absent"].get(key, "not run")])
    return [
        f"## What was aimed at, on {most} threads",
        "",
        *table(["aim", "measured", ""], rows),
        "On one kernel, 20 steps cannot take much longer than 20 windows, and each of them has a twentieth of the "
        "events and no mask to make: about 20 is the most that carrying the state on can save by itself.",
        "",
    ]


def _verdict(reached: bool) -> str:
    return "reached" if reached else "**missed**"


def _contestants(report: Record, most: int) -> list[str]:
    lines = [
        f"## A window of {report['window_us'] / 1000:.0f} ms at {_count(report['rate'])} events/s, "
        f"{report['recording']['sensor']}",
        "",
        "A window's time is from its events (arrays of x, y, polarity, time) to the mask (class ids of every pixel). "
        "Preparing the input, the network, upsampling and argmax are in it for everybody; decoding a file or a "
        "message, and encoding a mask, for nobody. *Network* is the network alone, its input ready, its output logits "
        "(ours then takes a tensor, a detour that the whole window spares, so that it may seem to take longer than the "
        "whole). Those that are not ours get good code around their network: counts by one `bincount`, a history that "
        "is not copied, and our C code for the mask.",
        "",
    ]
    for threads in sorted({row["threads"] for row in report["head_to_head"]}, reverse=True):
        lines += [f"### {_threads(threads)}", "", *_times(report, threads, absent=threads == most)]
    lines += ["### Who they are, and what a window is estimated at", "", *_costs(report)]
    return lines


def _times(report: Record, threads: int, *, absent: bool) -> list[str]:
    medians = _medians(report, threads)
    rows = []
    found = {row["contestant"]: row for row in report["head_to_head"] if row["threads"] == threads}
    for key, name in NAMES.items():
        if key not in found:
            if absent and key in report["absent"]:
                rows.append([name, *[NOTHING] * 5, report["absent"][key]])
            continue
        window, network = found[key]["window"], found[key].get("network")
        rows.append(
            [
                name,
                _ms(window["p50_ms"]),
                _tail(window),
                _ms(network["p50_ms"]) if network else NOTHING,
                f"{window['windows_per_second']:.1f}",
                f"{medians[key] / medians['kernel']:.1f}",
                f"{window['calls']}",
            ]
        )
    header = ["", "p50, ms", "p99, ms", "network p50, ms", "windows/s", "times the kernel's p50", "windows timed"]
    return table(header, rows)


def _costs(report: Record) -> list[str]:
    rows = []
    for key, name in NAMES.items():
        cost = report["costs"].get(key, {})
        macs, acs, joules = cost.get("macs", cost.get("dense_macs")), cost.get("acs"), cost.get("joules")
        rows.append([name, WHAT[key], _mega(macs), _mega(acs), _micro(joules)])
    lines = table(["", "what runs", "MAC, M", "AC, M", "energy, µJ"], rows, left=2)
    lines += [
        "Energy as the field estimates it: 4.6 pJ for a multiply-accumulate (MAC), 0.9 pJ for an accumulate (AC) that "
        "a spike causes (45 nm, fp32; Horowitz, ISSCC 2014). First layers that see counts multiply, every input, zero "
        "or not; layers that see spikes accumulate, dense operations times the share of inputs that are spikes "
        "([models/runtime/activity.py](../models/runtime/activity.py)). Memory traffic and neuron updates are not in "
        "it: it tells what special hardware might need, not what this processor drew, which nobody metered. That is "
        "why one network has the same energy whatever computes it. For SLTNet, convolutions "
        "whose input is all zeros and ones accumulate and the others multiply; attention is left out. The paper's "
        "network has random weights, whose spikes mean nothing: its dense operations stand under MAC.",
        "",
    ]
    if peer := report["about"].get("sltnet"):
        commit = f" (commit {peer['commit'][:12]})" if peer["commit"] else ""
        lines += [
            f"SLTNet{commit}: {peer['shim']}. Rows and columns are filled up with zeros to multiples of 8, and its "
            "early output, which training alone needs, is left out. Otherwise it runs as published.",
            "",
        ]
    checks = report["checks"]
    agreement = checks["share_of_equal_pixels"]
    shares = "; ".join(f"{pair}, {share:.2%} of pixels" for pair, share in agreement.items())
    lines += [
        f"Before anything is timed, masks of {checks['windows']} windows are compared: alike are, of {shares} (where a "
        "membrane comes within rounding of the threshold, one may fire and the other not).",
    ]
    if differences := checks["largest_difference_of_twin_logits"]:
        told = ", ".join(f"{value:g} on {name}" for name, value in differences.items())
        lines[-1] += (
            f" The twin's logits differ from PyTorch's by at most {told}; more than {checks['tolerance']:g} would have "
            "ended the run."
        )
    return [*lines, ""]


def _reading(report: Record, most: int) -> list[str]:
    medians, scores = _medians(report, most), report["scores"]
    lines: list[str] = []
    twins = {key: medians[key] for key in ("twin-onnxruntime", "twin-openvino") if key in medians}
    if twins:
        best = min(twins, key=lambda key: twins[key])
        network = {
            r["contestant"]: r["network"]["p50_ms"]
            for r in report["head_to_head"]
            if r["threads"] == most and "network" in r
        }
        lines += [
            f"**Against a good dense network.** The hardest contestant is not another spiking one but the ANN twin on "
            f"a runtime for inference: {_ms(medians[best])} ms a window ({NAMES[best]}; its network alone "
            f"{_ms(network[best])} ms), {medians[best] / medians['kernel']:.1f} times ours. By their cards its masks "
            f"have mIoU {scores['edge-s-ann']:.3f} and ours {scores['edge-s']:.3f} (CamVid-events val; without carried "
            f"membranes ours falls to {scores['reset_every_window']:.3f}). The twin needs no state but its last eight "
            "windows, and its time does not hang on what is seen.",
            "",
        ]
    lines += [
        "**Against SLTNet** only speed is compared: it was trained on other data (DDD17), and what it makes of this "
        "recording says nothing about it.",
        "",
    ]
    return lines


def _rates(report: Record) -> list[str]:
    ways = [key for key in NAMES if key in report["rates"][0]]
    rows = [
        [
            _power(row["rate"]),
            _count(row["events_per_window"]),
            f"{row['firing_rate']:.1%}",
            f"{row['sops'] / 1e6:.1f}",
            *(f"{_ms(row[way]['p50_ms'])} ({_tail(row[way])})" for way in ways),
        ]
        for row in report["rates"]
    ]
    header = ["events/s", "events", "firing rate", "SOPs, M", *(f"{NAMES[way]}: p50 (p99), ms" for way in ways)]
    first, last = report["rates"][0], report["rates"][-1]
    growth = last["rate"] / first["rate"]
    return [
        "## With the rate of events",
        "",
        *table(header, rows),
        f"{_count(growth)} times as many events cost the kernel "
        f"{last['kernel']['p50_ms'] / first['kernel']['p50_ms']:.2f} times the time: its work follows spikes, not "
        f"events, and {last['sops'] / first['sops']:.2f} times the synaptic operations are what those events cause. "
        "Counts are clipped at 4 for each pixel and polarity, and much of the firing does not come from events at all, "
        "as the next section shows.",
        "",
    ]


def _floor(report: Record) -> list[str]:
    # On one thread no stage ends while another thread is still at it.
    least, most = (pick(row["threads"] for row in report["stages"]) for pick in (min, max))
    found = {row["rate"]: dict(row["ms"]) for row in report["stages"] if row["threads"] == least}
    for spent in found.values():
        # As the rows add up: a median of sums has more of other programs in it than a sum of medians.
        spent["total"] = sum(value for stage, value in spent.items() if stage != "total")
    firing = {row["rate"]: row["firing_rate"] for row in report["stages"] if row["threads"] == least}
    [silent] = [row for row in report["without_spikes"] if row["threads"] == least]
    rates = list(found)
    named = {
        "input": "events to counts",
        "logits": "membranes of the readout to logits",
        "activity": "operations counted",
    }
    named |= {"around": "memory, tables, threads", "total": "**all**"}
    rows = [
        [
            named.get(stage, f"layer `{stage}`" if stage in silent["membranes_mb"] else stage),
            _ms(silent["layers_ms"].get(stage), 3),
            *(_ms(found[rate][stage], 3) for rate in rates),
            f"{silent['membranes_mb'][stage]:.2f}" if stage in silent["membranes_mb"] else NOTHING,
        ]
        for stage in found[rates[0]]
    ]
    rows.append(["firing rate", f"{0:.1%}", *(f"{firing[rate]:.1%}" for rate in rates), NOTHING])
    header = ["stage, ms", "no spike in", *(f"{_power(rate)} ev/s" for rate in rates), "membranes, MB"]
    layers = set(silent["membranes_mb"])
    totals = {row["rate"]: row["ms"]["total"] for row in report["stages"] if row["threads"] == most}
    nothing, usual = found[0.0], found[report["rate"]]
    kernel_part = sum(value for stage, value in nothing.items() if stage in layers)
    quiet_layers, copy = sum(silent["layers_ms"].values()), silent["copy_of_membranes_ms"]
    same_layers = sum(nothing[name] for name in silent["layers_ms"])
    size = sum(silent["membranes_mb"].values())
    return [
        f"## The floor: a window in which nothing happens, {_threads(least)}",
        "",
        *table(header, rows),
        f"On {_threads(most)} a window takes {_ms(totals[0.0])} ms without events and "
        f"{_ms(totals[report['rate']])} ms at {_count(report['rate'])} events/s, in the same run.",
        "",
        f"With no event at all a window still takes {_ms(nothing['total'])} ms, "
        f"{nothing['total'] / usual['total']:.0%} of what it takes at {_count(report['rate'])} events/s. "
        f"{_ms(kernel_part)} ms of it are the layers. A step leaks every membrane, adds the bias, compares with the "
        "threshold and writes the result, whether a spike came in or not: "
        f"{size:.1f} MB are read and as many written. A bare copy of them takes {_ms(copy, 2)} ms here, which is what "
        "memory asks of anybody who writes new membranes in every window. All layers but stem and readout, fed with no "
        f"spike at all (first column), take {_ms(quiet_layers, 2)} ms together: that is the neurons. In the silent "
        f"stream the same layers take {_ms(same_layers, 2)} ms, since biases make {firing[0.0]:.1%} of all neurons "
        f"fire with nothing to see ({firing[report['rate']]:.1%} at {_count(report['rate'])} events/s), and their "
        "spikes are computed like any others. So the floor is memory, neurons and spikes out of biases, not events. "
        "Silent pixels cannot be left out: their membranes get the bias in every window too, and may fire of it "
        "([architecture](architecture.md)). The floor would fall with membranes in half precision, or with training "
        "that keeps silent scenes silent.",
        "",
    ]


def _sizes(report: Record) -> list[str]:
    rows = []
    for row in report["sizes"]:
        binned = row.get("kernel-binned")
        rows.append(
            [
                row["sensor"],
                _count(row["events_per_window"]),
                f"{row['firing_rate']:.1%}",
                f"{row['state_mb']:.1f}",
                f"{_ms(row['kernel']['p50_ms'])} ({_tail(row['kernel'])})",
                f"{1e6 * row['kernel']['p50_ms'] / row['pixels']:.0f}",
                f"{_ms(row['torch']['p50_ms'])} ({_tail(row['torch'])})",
                f"{row['binned_grid']}: {_ms(binned['p50_ms'])} ({_tail(binned)})" if binned else "the same",
            ]
        )
    header = [
        "sensor",
        "events",
        "firing rate",
        "state, MB",
        "kernel, every pixel: p50 (p99), ms",
        "ns a pixel",
        "PyTorch, every pixel: p50 (p99), ms",
        "kernel, as served: p50 (p99), ms",
    ]
    return [
        "## With the size of the sensor",
        "",
        "Larger sensors see the same scene side by side, so that each pixel has as many events. The service joins "
        "pixels into cells, so that the longer side comes near to the 346 cells that the network was trained for; with "
        "a cell for every pixel the same weights run over more of them.",
        "",
        *table(header, rows),
    ]


def _streams(report: Record) -> list[str]:
    rows = [
        [f"{row['streams']}", f"{row['windows_per_second']:.1f}", _ms(row["p50_ms"]), _tail(row), f"{row['calls']}"]
        for row in report["streams"]
    ]
    return [
        "## With the number of streams",
        "",
        f"A real server process on {report['cores']} cores, WebSocket, and its clients on the same cores. Each stream "
        "sends its next window when the last one is answered; latency is what the client sees, from sending events to "
        "the decoded mask, so that here coding, sockets and queueing are in it. How many streams of a fixed rate a "
        "core keeps up with is measured by `python -m benchmarks.load`.",
        "",
        *table(["streams", "windows/s, all", "p50, ms", "p99, ms", "windows timed"], rows),
    ]


def _caveats() -> list[str]:
    return [
        "## What this does not say",
        "",
        "- The events are simulated; a camera's noise makes other spikes. Firing rates are given, so that the cost on "
        "another scene can be judged.",
        "- One processor. The kernel uses the widest vectors that it finds; ratios differ on others.",
        "- `edge-s` was trained on windows of 33 ms. Windows of 10 ms are measured for their time, not their masks.",
        "- Both runtimes can compute the twin in 8-bit integers or bfloat16, which may be faster still; it has not "
        "been trained or scored so.",
        "- A p99 is given from 100 windows on, and is a property of the machine as much as of the contestant.",
        "",
    ]


def _medians(report: Record, threads: int) -> dict[str, float]:
    return {r["contestant"]: r["window"]["p50_ms"] for r in report["head_to_head"] if r["threads"] == threads}


def _threads(number: int) -> str:
    return "1 thread" if number == 1 else f"{number} threads"


def _ms(value: float | None, digits: int = 1) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _tail(found: Record) -> str:
    return _ms(found["p99_ms"]) if found["calls"] >= ENOUGH_FOR_P99 else NOTHING


def _mega(value: float | None) -> str:
    return NOTHING if value is None else f"{value / 1e6:,.0f}".replace(",", " ")


def _micro(joules: float | None) -> str:
    return NOTHING if joules is None else f"{1e6 * joules:,.0f}".replace(",", " ")


def _count(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ")


def _power(rate: float) -> str:
    """A rate as a power of ten, if it is one."""
    digits = f"{rate:.0f}"
    return f"10^{len(digits) - 1}" if digits.strip("0") == "1" else digits


def keys_of(rows: Sequence[Record]) -> list[str]:
    """Contestants that some row has a time of, in the order of ``NAMES``."""
    return [key for key in NAMES if any(key in row for row in rows)]
