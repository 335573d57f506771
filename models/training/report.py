"""Write ``docs/results.md``: tables, plots and masks from the cards of the zoo and the stored results.

    python -m models.training.report
    python -m models.training.report --rerun

No number is typed by hand: each comes from a card ``models/zoo/NAME.json`` or from a file of ``docs/results/``:
``conversion-NAME.json`` of ``models.training.convert``, ``robustness-NAME.json`` of ``models.training.robustness``,
``energy-NAME.json`` of ``models.training.energy``. Where a file is missing, the page names the command that makes it.
With ``--rerun`` all of them are made again first, each by the command that is stored in it. Masks are drawn anew where
the pictures are at hand (``SPIKESEG_DATA``); elsewhere the stored ones stay. What there is to say of expectations that
were not reached stands in ``docs/results/remarks.md``, and is taken over as it is.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import shlex
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image

from models import zoo
from models.classes import DDD17_CLASSES, UNLABELLED, SegmentationClass
from models.datasets import voc2012
from models.errors import DatasetNotFoundError, TrainingError
from models.events import EventBatch, SensorSize
from models.runtime.model import SegmentationModel
from models.runtime.protocol import FrameModel
from models.training import robustness
from models.training.evaluate import SENSOR, WINDOW_US, LabelledWindow, camvid_events
from models.training.robustness import ANN_LINE, SNN_LINE

Record = Mapping[str, Any]
Mask = NDArray[np.uint8]

DOCS = Path("docs")
RESULTS = "results"

STREAMING = ("edge-s", "edge-l")
EVENTS = (*STREAMING, "paper-deeplab", "paper-fcn")
FRAMES = ("paper-deeplab-voc",)
NETWORKS = EVENTS + FRAMES
CONVERTED = ("paper-deeplab", "paper-fcn", "edge-s")
SHOWN = ("edge-s", "edge-l", "edge-s-ann", "paper-deeplab")
SHOWN_COUNT = 4

MICRO, MILLI, MEGA = 1e-6, 1e-3, 1e6
NOTHING = "–"

# The styles of the robustness plots, and a third one beside them.
SPIKING: dict[str, Any] = SNN_LINE
TWIN: dict[str, Any] = ANN_LINE
DIRECT: dict[str, Any] = {"color": "#009e73", "marker": "^", "linestyle": ":"}
BARS = ("#0072b2", "#e69f00")
ON_COLOR, OFF_COLOR, SILENT_COLOR = (213, 94, 0), (0, 114, 178), (255, 255, 255)
WITHOUT_LABEL = (255, 255, 255)
DPI = 130


@dataclass(frozen=True, slots=True)
class Results:
    """All that the page is made of.

    Attributes
    ----------
    cards : mapping
        Cards of the zoo by network; those without scores are left out.
    stored : mapping
        What the files of ``docs/results`` hold, by name without suffix.
    remarks : str
        Text on expectations that were not reached, or nothing.
    """

    cards: Mapping[str, Record]
    stored: Mapping[str, Record]
    remarks: str = ""


def read_results(folder: Path, zoo_folder: Path = zoo.ZOO) -> Results:
    """The cards of a zoo, and the JSON files and remarks of a results folder."""
    cards = {name: json.loads((zoo_folder / f"{name}.json").read_text()) for name in zoo.names(zoo_folder)}
    remarks = folder / "remarks.md"
    return Results(
        {name: card for name, card in cards.items() if "evaluation" in card},
        {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))},
        remarks.read_text() if remarks.is_file() else "",
    )


# Measurements, and the commands that make them.


@dataclass(frozen=True, slots=True)
class Job:
    """A measurement of one network, kept in a file of its own.

    Attributes
    ----------
    kind : str
        What the file's name begins with.
    module : str
        Whose command makes it.
    network : str
    options : tuple of str
        Of the command, where none is stored; the output file is added.
    """

    kind: str
    module: str
    network: str
    options: tuple[str, ...]

    @property
    def stem(self) -> str:
        """Name of its file without the suffix."""
        return f"{self.kind}-{self.network}"

    def arguments(self, out: Path) -> list[str]:
        """The command's arguments for Python, from ``-m`` on."""
        return ["-m", self.module, *self.options, "--out", str(out)]


def conversion_job(name: str) -> Job:
    """Conversion of a network's twin, beside the network."""
    return Job("conversion", "models.training.convert", name, ("--model", name))


def robustness_job(name: str, networks: Collection[str]) -> Job:
    """Robustness of a streaming network; the first one's file holds the frame network's too, if there is one."""
    options = ["--model", name, *_with_twin("--twin", name, networks)]
    frames = [frame for frame in FRAMES if frame in networks] if name == STREAMING[0] else []
    for frame in frames[:1]:
        options += ["--frame-model", frame, *_with_twin("--frame-twin", frame, networks)]
    return Job("robustness", "models.training.robustness", name, tuple(options))


def energy_job(name: str, networks: Collection[str]) -> Job:
    """Operations and energy of a streaming network."""
    return Job("energy", "models.training.energy", name, ("--model", name, *_with_twin("--twin", name, networks)))


def _with_twin(option: str, name: str, networks: Collection[str]) -> list[str]:
    return [option, f"{name}-ann"] if f"{name}-ann" in networks else []


def jobs(networks: Collection[str]) -> list[Job]:
    """The measurements that the page is made of, for those of its networks that there are."""
    streaming = [name for name in STREAMING if name in networks]
    return [
        *(conversion_job(name) for name in CONVERTED if {name, f"{name}-ann"} <= set(networks)),
        *(robustness_job(name, networks) for name in streaming),
        *(energy_job(name, networks) for name in streaming),
    ]


def job_command(job: Job, folder: Path, stored: Record | None = None) -> list[str]:
    """The command, for Python, that makes a measurement as it was made before.

    Parameters
    ----------
    job : Job
    folder : Path
        Where its file is to lie.
    stored : mapping, optional
        What the file held.

    Raises
    ------
    TrainingError
        If the stored command is another module's.
    """
    out = folder / f"{job.stem}.json"
    if stored is None or "command" not in stored:
        return job.arguments(out)
    interpreter, *arguments = shlex.split(stored["command"])
    if interpreter != "python" or arguments[:2] != ["-m", job.module]:
        raise TrainingError(f"{out}: its command is not one of {job.module}: {stored['command']}")
    if "--out" in arguments[:-1]:
        arguments[arguments.index("--out") + 1] = str(out)
        return arguments
    return [*arguments, "--out", str(out)]


def rerun(folder: Path, progress: Callable[[str], None] = lambda _: None) -> None:
    """Make every measurement again, for the networks of the zoo.

    Raises
    ------
    TrainingError
        If a command fails.
    """
    for job in jobs(zoo.names()):
        path = folder / f"{job.stem}.json"
        arguments = job_command(job, folder, json.loads(path.read_text()) if path.is_file() else None)
        progress(shlex.join(["python", *arguments]))
        code = subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=False).returncode
        if code:
            raise TrainingError(f"{shlex.join(['python', *arguments])} ended with status {code}")


# Expectations.


@dataclass(frozen=True, slots=True)
class Target:
    """What was expected of a network before it was trained.

    Attributes
    ----------
    network : str
    what : str
    measure : callable
        ``measure(results, network)``: the value to compare, or None if it was not measured.
    sense : "≥", "≤" or ">"
    bound : float
    share : bool
        Whether it is told in per cent.
    """

    network: str
    what: str
    measure: Callable[[Results, str], float | None]
    sense: Literal["≥", "≤", ">"]
    bound: float
    share: bool = False


def _miou(results: Results, name: str) -> float | None:
    return _score(results, name, "miou")


def _firing_rate(results: Results, name: str) -> float | None:
    return _score(results, name, "firing_rate")


def _over_twin(results: Results, name: str) -> float | None:
    return _difference(_miou(results, name), _of_twin(results, name, "miou"))


def _over_reset(results: Results, name: str) -> float | None:
    reset = results.cards.get(name, {}).get("evaluation", {}).get("reset_every_window", {})
    return _difference(_miou(results, name), reset.get("miou"))


def _over_converted(results: Results, name: str) -> float | None:
    stored = results.stored.get(f"conversion-{name}")
    if stored is None:
        return None
    equal = [point["miou"] for point in stored["converted"] if point["steps"] == stored["direct"]["steps"]]
    return _difference(stored["direct"]["miou"], equal[0] if equal else None)


TARGETS = (
    Target("edge-s", "mIoU", _miou, "≥", 0.50),
    Target("edge-l", "mIoU", _miou, "≥", 0.55),
    *(Target(name, "mIoU, less the twin's", _over_twin, "≥", -0.02) for name in STREAMING),
    *(Target(name, "mean firing rate", _firing_rate, "≤", 0.08, share=True) for name in STREAMING),
    *(Target(name, "mIoU with carried state, less that with reset", _over_reset, ">", 0.0) for name in STREAMING),
    *(
        Target(name, "mIoU of direct training, less that of conversion at equal steps", _over_converted, ">", 0.0)
        for name in CONVERTED
    ),
)


def verdict(value: float | None, sense: Literal["≥", "≤", ">"], bound: float, *, share: bool = False) -> str:
    """``reached``, ``not reached (by …)`` or ``not measured``."""
    if value is None or math.isnan(value):
        return "not measured"
    # Scores are stored with four decimals: what lies below is the subtraction's rounding.
    lacking = round(value - bound if sense == "≤" else bound - value, 6)
    if lacking < 0 or (lacking == 0 and sense != ">"):
        return "reached"
    if share:
        return f"not reached (by {100 * lacking:.2f} points)"
    return f"not reached (by {_number(lacking) if lacking >= 0.0005 else 'less than 0.001'})"


# Reading scores.


def _scores(card: Record) -> Record:
    evaluation: Record = card["evaluation"]
    scores: Record = evaluation["frames"] if "frames" in evaluation else evaluation["stream"]
    return scores


def _score(results: Results, name: str, key: str) -> float | None:
    return _scores(results.cards[name]).get(key) if name in results.cards else None


def _of_twin(results: Results, name: str, key: str) -> float | None:
    twin: Record = results.cards.get(name, {}).get("evaluation", {}).get("ann_twin", {})
    return twin.get(key)


def _difference(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _steps(card: Record) -> int:
    config = card["config"]
    return int(config.get("steps", 1)) if config.get("spiking", True) else 1


def _mode(card: Record) -> str:
    return "streaming" if card["format"] == zoo.FORMAT else "protocol"


def _there(results: Results, names: Iterable[str]) -> list[str]:
    return [name for name in names if name in results.cards]


# Markdown.


def _number(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    if value is None or math.isnan(value):
        return NOTHING
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def _percent(value: float | None, digits: int = 2) -> str:
    return NOTHING if value is None or math.isnan(value) else f"{100 * value:.{digits}f} %"


def _in(unit: float, value: float | None) -> str:
    return NOTHING if value is None else _number(value / unit)


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of a table whose first ``left`` columns are text and the others numbers."""
    rule = ["---" if k < left else "---:" for k in range(len(header))]
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)] + [""]


def _details(summary: str, lines: Sequence[str]) -> list[str]:
    return [f"<details><summary>{summary}</summary>", "", *lines, "</details>", ""]


def _picture(alt: str, file: str) -> list[str]:
    return [f"![{alt}]({RESULTS}/{file})", ""]


def _missing(job: Job, results: Results) -> list[str]:
    """The hint in place of a measurement that is not there."""
    needed = [job.network, f"{job.network}-ann"] if job.kind == "conversion" else [job.network]
    absent = [name for name in needed if name not in results.cards]
    if absent:
        return [f"`{job.network}`: nothing to measure, not in the zoo: {_code(absent)}.", ""]
    file = DOCS / RESULTS / f"{job.stem}.json"
    return [f"`{job.network}`: not measured yet. `{shlex.join(['python', *job.arguments(file)])}` makes {file}.", ""]


def _absent(results: Results, names: Iterable[str]) -> list[str]:
    absent = [name for name in names if name not in results.cards]
    return [f"Not in the zoo: {_code(absent)}.", ""] if absent else []


def _machine(machine: Record) -> str:
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    return f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {threads}"


# The page, section by section.


def render(results: Results) -> str:
    """The page as Markdown: it depends on the results alone."""
    lines = [
        "# Results",
        "",
        "Written by `python -m models.training.report` from the cards in `models/zoo/` and the JSON files in "
        "`docs/results/`; changes by hand are lost. `--rerun` makes the JSON files anew first.",
        "",
        *_what_was_scored(results),
        *_main_tables(results),
        *_classes(results),
        *_targets(results),
        *_conversion(results),
        *_robustness(results),
        *_energy(results),
        *_learning(results),
        *_masks(results),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _what_was_scored(results: Results) -> list[str]:
    names = [name for base in _there(results, NETWORKS) for name in (base, f"{base}-ann") if name in results.cards]
    cards = {name: results.cards[name] for name in names}
    lines = ["## What was scored on what", ""]
    if not cards:
        return [*lines, *_absent(results, NETWORKS)]
    for data, group in _grouped((card["evaluation"]["data"], name) for name, card in cards.items()):
        lines.append(f"- {data}: {_code(group)}")
    seeds = sorted({str(card["training"]["settings"]["seed"]) for card in cards.values()})
    lines += [
        "",
        f"Every figure is of one training run (seed {', '.join(seeds)}), and those of events are of one drive. How far "
        "another seed or another drive would move them was not measured.",
        "",
    ]
    rows = []
    for name, card in cards.items():
        training = card["training"]
        settings = training["settings"]
        machine = training.get("machine", settings.get("machine"))
        material = training.get("material", {})
        rows.append(
            [
                f"`{name}`",
                _material(material, "training"),
                _material(material, "held_out"),
                _machine(machine) if machine else NOTHING,
                f"{settings['seed']}",
                f"{settings['updates']} updates" if "minutes" not in settings else _budget(settings),
                f"{training.get('updates', settings.get('updates_done', NOTHING))}",
                _number(training.get("minutes"), 1),
                f"{_steps(card)}",
            ]
        )
    header = ["network", "trained on", "held out", "machine", "seed", "budget", "updates", "minutes", "steps"]
    lines += _table(header, rows, left=4)
    lines += ["Networks ending in `-ann` are the ANN twins. The cards say:", ""]
    for note, group in _grouped((note, name) for name, card in cards.items() for note in card.get("notes", [])):
        lines.append(f"- {note} ({_code(group)})")
    lines.append("")
    commands = [card[part]["command"] for part in ("training", "evaluation") for card in cards.values()]
    return lines + _details("Commands that trained and scored them", ["```sh", *commands, "```", ""])


def _grouped(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for text, name in pairs:
        groups.setdefault(text, []).append(name)
    return list(groups.items())


def _material(material: Record, use: str) -> str:
    """Pictures, with how many there are, or drives."""
    pictures = [f"{name} ({count} pictures)" for name, count in material.get(f"{use}_pictures", {}).items()]
    return ", ".join([*pictures, *material.get(f"{use}_drives", [])]) or NOTHING


def _budget(settings: Record) -> str:
    return f"{settings['updates']} updates" if settings["updates"] else f"{settings['minutes']:g} min"


def _main_tables(results: Results) -> list[str]:
    lines = ["## How well the networks see", "", "Networks of events:", ""]
    rows = [
        [
            f"`{name}`",
            _mode(results.cards[name]),
            *_main_row(results, name),
            _number(results.cards[name]["evaluation"].get("reset_every_window", {}).get("miou")),
        ]
        for name in _there(results, EVENTS)
    ]
    shared = ["parameters, M", "steps", "mIoU", "pixel accuracy", "firing rate"]
    twin = ["twin's mIoU", "difference"]
    header = ["network", "mode", *shared, "SOPs/window, M", *twin, "mIoU, reset every window"]
    lines += _table(header, rows, left=2) if rows else []
    lines += [
        "*streaming*: one step for each window, membranes carried on. *protocol*: T steps from rest for each window. "
        "Steps are those of one answer; firing rate: spikes for each neuron and step, mean over windows; SOPs: "
        "synaptic operations of all steps, padding counted in; difference: the network's mIoU less its twin's.",
        "",
        *_absent(results, EVENTS),
        "Networks of frames:",
        "",
    ]
    rows = [[f"`{name}`", *_main_row(results, name)] for name in _there(results, FRAMES)]
    lines += _table(["network", *shared, "SOPs/picture, M", *twin], rows) if rows else []
    return lines + _absent(results, FRAMES)


def _main_row(results: Results, name: str) -> list[str]:
    card = results.cards[name]
    scores = _scores(card)
    return [
        _in(MEGA, card["parameters"]),
        f"{_steps(card)}",
        f"**{_number(scores['miou'])}**",
        _number(scores["pixel_accuracy"]),
        _percent(scores["firing_rate"]),
        _in(MEGA, scores["sops_per_window"]),
        _number(_of_twin(results, name, "miou")),
        _number(_over_twin(results, name), signed=True),
    ]


def _classes(results: Results) -> list[str]:
    lines = ["## Class by class", ""]
    for name in _there(results, NETWORKS):
        card = results.cards[name]
        scores, twin = _scores(card), card["evaluation"].get("ann_twin", {})
        lines += [f"### `{name}`", ""]
        columns: list[Record] = [s.get(key, {}) for s in (scores, twin) for key in ("class_iou", "class_accuracy")]
        rows = [[c["name"], *(_number(column.get(c["name"])) for column in columns)] for c in card["classes"]]
        # Classes that are neither present nor predicted have no score.
        rows = [row for row in rows if set(row[1:]) != {NOTHING}]
        rows.append(
            [
                "**mean IoU, pixel accuracy**",
                *(f"**{_number(s.get(key))}**" for s in (scores, twin) for key in ("miou", "pixel_accuracy")),
            ]
        )
        lines += _table(["class", "IoU", "accuracy", "twin's IoU", "twin's accuracy"], rows)
        for named, part in ((name, scores), (f"{name}-ann", twin)):
            if "confusion_matrix" in part:
                lines += _confusion(named, part["confusion_matrix"], [c["name"] for c in card["classes"]])
    return lines + _absent(results, NETWORKS)


def _confusion(name: str, matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> list[str]:
    counts = np.asarray(matrix, np.int64)
    kept = [int(k) for k in np.flatnonzero(counts.sum(0) + counts.sum(1))]
    rows = []
    for k in kept:
        total = int(counts[k].sum())
        shares = [_number(100 * int(counts[k, j]) / total, 1) if total else NOTHING for j in kept]
        rows.append([classes[k], *shares])
    summary = f"Confusion matrix of <code>{name}</code>, % of the pixels of each true class"
    lines = _table(["truth \\ predicted", *(classes[k] for k in kept)], rows)
    return _details(summary, [*lines, "Pixel counts are in the card.", ""])


def _targets(results: Results) -> list[str]:
    rows = []
    for target in TARGETS:
        value = target.measure(results, target.network)
        tell: Callable[[float | None], str] = _percent if target.share else _number
        expected = f"{target.sense} {tell(target.bound)}"
        outcome = verdict(value, target.sense, target.bound, share=target.share)
        rows.append([f"`{target.network}`", target.what, outcome, expected, tell(value)])
    header = ["network", "what", "outcome", "expected", "measured"]
    lines = ["## Expected and reached", "", *_table(header, rows, left=3)]
    return lines + ([results.remarks.strip("\n"), ""] if results.remarks.strip() else [])


def _conversion(results: Results) -> list[str]:
    lines = [
        "## Direct training against conversion",
        "",
        "The ANN twin, its ReLUs turned into integrate-and-fire neurons with balanced thresholds, after so many time "
        "steps; beside it the twin itself and the directly trained network, on the same labelled windows.",
        "",
    ]
    found = _conversions(results)
    if found:
        lines += _picture("mIoU against time steps of converted networks", "conversion.png")
    for name in CONVERTED:
        stored = results.stored.get(f"conversion-{name}")
        if stored is None:
            lines += _missing(conversion_job(name), results)
            continue
        thresholds = stored["thresholds"]
        lines += [
            f"`{name}` on {stored['data']}; thresholds: percentile {thresholds['percentile']:g} by "
            f"{thresholds['scope']}, times {thresholds['scale']:g}:",
            "",
        ]
        direct, twin = stored["direct"], stored["twin"]
        rows = [
            ["directly trained", f"{direct['steps']}", _number(direct["miou"]), _percent(direct["firing_rate"])],
            ["ANN twin", NOTHING, _number(twin["miou"]), NOTHING],
            *(
                ["converted twin", f"{p['steps']}", _number(p["miou"]), _percent(p["firing_rate"])]
                for p in stored["converted"]
            ),
        ]
        lines += _table(["network", "steps", "mIoU", "firing rate"], rows)
    return lines


def _conversions(results: Results) -> dict[str, Record]:
    stored = {name: results.stored.get(f"conversion-{name}") for name in CONVERTED}
    return {name: record for name, record in stored.items() if record is not None}


def middle_point(perturbation: Record) -> Record:
    """Of a perturbation's points the one of the middle strength, or the next if that one changes nothing."""
    points = perturbation["points"]
    middle = len(points) // 2
    if points[middle]["strength"] == perturbation["nominal"]:
        middle += 1
    point: Record = points[middle]
    return point


def _robustness(results: Results) -> list[str]:
    lines = [
        "## When sensor or input are off",
        "",
        "mIoU at the middle of the strengths that were tried, and the share of the unperturbed mIoU that is kept; all "
        "strengths are in the plots and the JSON files. Network and twin see exactly the same events or pictures; an "
        "attack (FGSM) is by each network's own gradients.",
        "",
    ]
    for name in STREAMING:
        stored = results.stored.get(f"robustness-{name}")
        if stored is None:
            lines += _missing(robustness_job(name, results.cards), results)
        else:
            lines += _perturbed(f"robustness-{name}.png", stored)
    frames = _frame_robustness(results)
    if frames is None:
        absent = [name for name in FRAMES if name not in results.cards]
        if absent:
            lines += [f"Frames: nothing to measure, not in the zoo: {_code(absent)}.", ""]
        else:
            job = robustness_job(STREAMING[0], results.cards)
            command = shlex.join(["python", *job.arguments(DOCS / RESULTS / f"{job.stem}.json")])
            lines += [f"Frames: not measured yet. `{command}` measures them.", ""]
    else:
        lines += _perturbed("robustness-frames.png", frames)
    return lines


def _frame_robustness(results: Results) -> Record | None:
    """Robustness of the frame network, whichever file it is in."""
    parts = (record.get("frames") for stem, record in results.stored.items() if stem.startswith("robustness-"))
    return next((part for part in parts if part), None)


def _perturbed(picture: str, stored: Record) -> list[str]:
    models = stored["models"]
    beside = " and its twin" if models["ann"] else ""
    lines = [f"`{models['snn']}`{beside} on {stored['data']}:", ""]
    lines += _picture(f"mIoU of {models['snn']} against the strength of each perturbation", picture)
    rows = []
    for perturbation in stored["perturbations"]:
        point = middle_point(perturbation)
        (nominal,) = (p for p in perturbation["points"] if p["strength"] == perturbation["nominal"])
        values = [f"{point['strength']:.4g}"]
        for key in ("snn", "ann"):
            if point[key] is None:
                values += [NOTHING, NOTHING]
            else:
                base = nominal[key]["miou"]
                share = point[key]["miou"] / base if base else None
                values += [_number(point[key]["miou"]), _percent(share, 1)]
        rows.append([perturbation["name"].replace("_", " "), perturbation["axis"], *values])
    header = ["perturbation", "strength in", "strength", "mIoU", "kept", "twin's mIoU", "twin keeps"]
    return lines + _table(header, rows, left=2)


def _energy(results: Results) -> list[str]:
    lines = ["## Operations and energy", ""]
    found = _energies(results)
    if found:
        lines += [
            "*padded*: dense operations times the share of inputs that are not zero, with every multiply-accumulate of "
            "the first layer. *effective*: only what meets an input and a weight which are not zero, for the twin too.",
            "",
            *_picture("Firing rate of each layer", "firing-rates.png"),
        ]
    for name in STREAMING:
        stored = results.stored.get(f"energy-{name}")
        lines += _missing(energy_job(name, results.cards), results) if stored is None else _energy_of(stored)
    return lines


def _energies(results: Results) -> dict[str, Record]:
    stored = {name: results.stored.get(f"energy-{name}") for name in STREAMING}
    return {name: record for name, record in stored.items() if record is not None}


def _energy_of(stored: Record) -> list[str]:
    snn, ann = stored["snn"], stored["ann"]
    lines = [f"### Operations of `{snn['model']}`", "", f"{stored['data']}. Beside it: {ann['what']}.", ""]
    twins = {layer["name"]: layer for layer in ann["layers"]}
    rows = []
    for layer in snn["layers"]:
        twin = twins.get(layer["name"], {})
        rows.append(
            [
                layer["name"],
                layer["operation"].upper(),
                _percent(layer["firing_rate"]) if layer["neurons"] else NOTHING,
                _percent(layer["input_density"]),
                _in(MEGA, layer["dense_macs"]),
                _in(MEGA, layer["sops_padded"]),
                _in(MEGA, layer["sops_effective"]),
                _in(MEGA, twin.get("dense_macs")),
                _in(MEGA, twin.get("effective_macs")),
            ]
        )
    totals, twin_totals = snn["per_window"], ann["per_window"]
    seconds, twin_seconds = snn["per_second"], ann["per_second"]
    for what, own, others in (
        ("**a window**", totals, twin_totals),
        ("**a second**", seconds, twin_seconds),
    ):
        rows.append(
            [
                what,
                "",
                _percent(totals["firing_rate"]) if own is totals else "",
                "",
                _in(MEGA, own["dense_macs"]),
                _in(MEGA, own["sops_padded"]),
                _in(MEGA, own["effective_macs"] + own["effective_acs"]),
                _in(MEGA, others["dense_macs"]),
                _in(MEGA, others.get("effective_macs")),
            ]
        )
    header = ["layer", "operation", "firing rate", "inputs not zero", "dense, M", "padded SOPs, M", "effective SOPs, M"]
    lines += _table([*header, "twin's dense MACs, M", "twin's effective MACs, M"], rows, left=2)
    lines += _joules(stored)
    operations = ", ".join(
        f"{_arithmetic(key)} {1e12 * value['mac']:.3g} pJ for each MAC and {1e12 * value['ac']:.3g} pJ for each AC"
        for key, value in stored["joules_per_operation"].items()
    )
    lines += [f"An estimate, from {operations}: {stored['note']}.", ""]
    return lines + _counters(stored["counters"]) + _latency(stored)


def _joules(stored: Record) -> list[str]:
    snn, ann = stored["snn"], stored["ann"]
    rows = []
    for how, values in snn["per_window"]["energy_j"].items():
        for arithmetic, joules in values.items():
            rows.append(
                [
                    _arithmetic(arithmetic),
                    how,
                    _in(MICRO, joules),
                    _in(MICRO, ann["per_window"]["energy_j"].get(how, {}).get(arithmetic)),
                    _in(MILLI, snn["per_second"]["power_w"][how][arithmetic]),
                    _in(MILLI, ann["per_second"]["power_w"].get(how, {}).get(arithmetic)),
                    _number(stored["ann_over_snn_energy"].get(how, {}).get(arithmetic), 2),
                ]
            )
    header = ["arithmetic", "counted", "µJ/window", "twin's µJ/window", "mJ/s", "twin's mJ/s", "twin / network"]
    return _table(header, rows, left=2)


def _arithmetic(key: str) -> str:
    return key.replace("_", " at ").replace("45nm", "45 nm")


def _counters(counters: Record) -> list[str]:
    counted = counters["snn"]
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
        [f"`{stored[key]['model']}`", *(_number(latency[f"{key}_ms"][q]) for q in ("p50", "p95"))]
        for key in ("snn", "ann")
        if f"{key}_ms" in latency
    ]
    return [
        f"Measured time of a window on {_machine(stored['machine'])} ({latency['note']}):",
        "",
        *_table(["network", "p50, ms", "p95, ms"], rows),
    ]


def _curves(results: Results) -> dict[str, list[Record]]:
    names = [name for base in NETWORKS for name in (base, f"{base}-ann")]
    curves = {name: results.cards[name]["training"].get("curve") for name in _there(results, names)}
    return {name: curve for name, curve in curves.items() if curve}


def _learning(results: Results) -> list[str]:
    lines = ["## Learning curves", ""]
    curves = _curves(results)
    if not curves:
        return [*lines, "The cards hold none.", ""]
    rows = []
    for name, curve in curves.items():
        best = max(curve, key=lambda score: float(score["miou"]))
        cells = [f"{best['update']}", _number(best["minutes"], 1), _number(curve[-1]["miou"])]
        rows.append([f"`{name}`", f"{len(curve)}", _number(best["miou"]), *cells])
    return [
        *lines,
        "mIoU on the pictures that were held out from training, by which the checkpoint was chosen.",
        "",
        *_picture("Held-out mIoU over the minutes of training", "learning-curves.png"),
        *_table(["network", "scores", "best mIoU", "at update", "at minute", "last mIoU"], rows),
    ]


def _masks(results: Results) -> list[str]:
    lines = [
        "## Masks",
        "",
        "These pictures are drawn anew only where the data is at hand (`SPIKESEG_DATA`), and are kept elsewhere.",
        "",
    ]
    for stem in ("masks", "masks-frames"):
        shown = results.stored.get(stem)
        if shown is None:
            lines += [f"{stem}.png: not drawn yet. `python -m models.training.report` draws it.", ""]
            continue
        columns = ", ".join(shown["columns"])
        lines += [
            f"{shown['data']}; columns: {columns}; rows: {', '.join(shown['rows'])}. {shown['note']}",
            "",
            *_picture(f"Masks on {shown['data']}", f"{stem}.png"),
        ]
    return lines


# Plots.


def draw_plots(results: Results, folder: Path) -> None:
    """Draw every plot that the results allow into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if conversions := _conversions(results):
        _draw_conversion(conversions, folder / "conversion.png")
    sweeps = {f"robustness-{name}": results.stored.get(f"robustness-{name}") for name in STREAMING}
    sweeps["robustness-frames"] = _frame_robustness(results)
    for stem, stored in sweeps.items():
        if stored is not None:
            models = stored["models"]
            names = {"snn": f"spiking {models['snn']}", "ann": f"ANN twin {models['ann']}"}
            robustness.plot(stored["perturbations"], folder / f"{stem}.png", names)
            with Image.open(folder / f"{stem}.png") as picture:
                _write_small(picture.copy(), folder / f"{stem}.png")
    if energies := _energies(results):
        _draw_firing_rates(energies, folder / "firing-rates.png")
    if curves := _curves(results):
        _draw_curves(curves, folder / "learning-curves.png")


def _panels(count: int, width: float, height: float, score: str) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels of so many inches, at most three in a row, sharing an axis of scores."""
    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(width * columns, 4.5), height * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for panel in panels[count:]:
        panel.set_visible(False)
    for panel in panels[:count]:
        panel.grid(axis="y", color="0.92")
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    for row in grid:
        row[0].set_ylabel(score, fontsize=9)
    return figure, panels[:count]


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    entries: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(str(label), handle)
    figure.legend(
        entries.values(), entries.keys(), loc="outside upper center", ncols=len(entries), frameon=False, fontsize=9
    )


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
    _legend(figure, panels)
    _save(figure, path)


def _draw_curves(curves: Mapping[str, Sequence[Record]], path: Path) -> None:
    bases = list(dict.fromkeys(name.removesuffix("-ann") for name in curves))
    figure, panels = _panels(len(bases), 3.0, 2.3, "held-out mIoU")
    for panel, base in zip(panels, bases, strict=True):
        for name, label, style in ((base, "spiking", SPIKING), (f"{base}-ann", "ANN twin", TWIN)):
            if name in curves:
                minutes, values = ([score[key] for score in curves[name]] for key in ("minutes", "miou"))
                panel.plot(minutes, values, label=label, markersize=3.5, linewidth=1.5, **style)
        panel.set_title(base, fontsize=10)
        panel.set_xlabel("training, minutes", fontsize=9)
        panel.set_xlim(left=0)
    panels[0].set_ylim(0, 1.1 * max(float(score["miou"]) for curve in curves.values() for score in curve))
    _legend(figure, panels)
    _save(figure, path)


def _draw_firing_rates(energies: Mapping[str, Record], path: Path) -> None:
    rates = {
        name: {layer["name"]: 100 * layer["firing_rate"] for layer in stored["snn"]["layers"] if layer["neurons"]}
        for name, stored in energies.items()
    }
    layers = list(dict.fromkeys(layer for by_layer in rates.values() for layer in by_layer))
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    width = 0.8 / len(rates)
    for k, (name, by_layer) in enumerate(rates.items()):
        at = [layers.index(layer) + (k - (len(rates) - 1) / 2) * width for layer in by_layer]
        panel.bar(at, list(by_layer.values()), 0.92 * width, color=BARS[k % len(BARS)], label=name)
    target = next(100 * t.bound for t in TARGETS if t.share)
    panel.axhline(target, color="0.3", linestyle="--", linewidth=1, label=f"{target:g} %, expected of the mean")
    panel.set_xticks(range(len(layers)), layers, rotation=30, ha="right", rotation_mode="anchor")
    panel.set_ylabel("firing rate, %", fontsize=9)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=9)
    _legend(figure, [panel])
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI)
    with Image.open(buffer) as picture:
        _write_small(picture, path)


def _write_small(picture: Image.Image, path: Path) -> None:
    """Write a picture as a palette PNG: a plot has few colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


# Masks.


def spread(count: int, shown: int = SHOWN_COUNT) -> list[int]:
    """The middles of ``shown`` equal stretches of ``count`` things, each once."""
    return sorted({int((k + 0.5) * count / shown) for k in range(shown)} if count else set())


def event_picture(events: EventBatch, sensor: SensorSize) -> NDArray[np.uint8]:
    """Events on white, RGB (H, W, 3): ON in vermilion, OFF in blue, as their sum decides; a draw counts as ON."""
    balance = np.zeros((sensor.height, sensor.width), np.int64)
    seen = np.zeros((sensor.height, sensor.width), bool)
    np.add.at(balance, (events.y, events.x), np.where(events.p != 0, 1, -1))
    seen[events.y, events.x] = True
    picture = np.empty((sensor.height, sensor.width, 3), np.uint8)
    picture[:] = SILENT_COLOR
    picture[seen & (balance >= 0)] = ON_COLOR
    picture[seen & (balance < 0)] = OFF_COLOR
    return picture


def color_mask(mask: Mask, classes: Sequence[SegmentationClass]) -> NDArray[np.uint8]:
    """A mask in its classes' colours, RGB (H, W, 3); white where there is no class."""
    palette = np.empty((256, 3), np.uint8)
    palette[:] = WITHOUT_LABEL
    for c in classes:
        palette[c.id] = c.color
    colored: NDArray[np.uint8] = palette[mask]
    return colored


def masks_along(model: SegmentationModel, windows: Sequence[LabelledWindow], shown: Sequence[int]) -> list[Mask]:
    """A network's masks of the windows ``shown``, its state carried up to each of them from the drive's start."""
    state = model.initial_state(SENSOR)
    masks = []
    for k, window in enumerate(windows[: max(shown) + 1]):
        # A network that carries nothing need not see the windows between.
        if k in shown or len(state):
            answer = model.segment(state, window.events, SENSOR)
            state = answer.state
            if k in shown:
                masks.append(answer.mask)
    return masks


def draw_event_masks(
    models: Sequence[SegmentationModel], windows: Sequence[LabelledWindow], folder: Path
) -> dict[str, Any]:
    """Draw events, truth and each network's masks of a few labelled windows: ``masks.png`` and ``masks.json``.

    Returns
    -------
    dict
        What the picture shows.
    """
    labelled = [k for k, window in enumerate(windows) if window.truth is not None]
    shown = [labelled[k] for k in spread(len(labelled))]
    columns = [f"{(windows[k].t_start + WINDOW_US) * MICRO:.2f} s" for k in shown]
    truths = [truth for k in shown if (truth := windows[k].truth) is not None]
    rows = {"events": [event_picture(windows[k].events, SENSOR) for k in shown]}
    rows["truth"] = [color_mask(truth, DDD17_CLASSES) for truth in truths]
    for model in models:
        rows[model.name] = [color_mask(mask, model.classes) for mask in masks_along(model, windows, shown)]
    legend = [("ON event", ON_COLOR), ("OFF event", OFF_COLOR), *((c.name, c.color) for c in DDD17_CLASSES)]
    _draw_grid(rows, columns, [*legend, ("without label", WITHOUT_LABEL)], folder / "masks.png")
    note = "Streaming networks carry their state from the drive's start up to each window."
    return _keep(folder / "masks.json", "CamVid-events `val`, time since the drive's start", columns, rows, note)


def draw_frame_masks(models: Sequence[FrameModel], pictures: Sequence[voc2012.Picture], folder: Path) -> dict[str, Any]:
    """Draw truth and masks, but no pictures, of a few pictures: ``masks-frames.png`` and ``masks-frames.json``.

    Returns
    -------
    dict
        What the picture shows.
    """
    shown = [pictures[k] for k in spread(len(pictures))]
    masks = {"truth": [picture.labels for picture in shown]}
    for model in models:
        masks[model.name] = [model.segment_frame(picture.rgb).mask for picture in shown]
    rows = {name: [color_mask(mask, voc2012.CLASSES) for mask in row] for name, row in masks.items()}
    present = {int(i) for row in masks.values() for mask in row for i in np.unique(mask)}
    legend = [(c.name, c.color) for c in voc2012.CLASSES if c.id in present]
    if UNLABELLED in present:
        legend.append(("without label", WITHOUT_LABEL))
    columns = [picture.name for picture in shown]
    _draw_grid(rows, columns, legend, folder / "masks-frames.png")
    note = "The pictures themselves are not shown: their licences differ."
    return _keep(folder / "masks-frames.json", "VOC2012 `val`", columns, rows, note)


def _keep(path: Path, data: str, columns: Sequence[str], rows: Iterable[str], note: str) -> dict[str, Any]:
    shown = {"data": data, "columns": list(columns), "rows": list(rows), "note": note}
    path.write_text(json.dumps(shown, indent=1, ensure_ascii=False) + "\n")
    return shown


def _draw_grid(
    rows: Mapping[str, Sequence[NDArray[np.uint8]]],
    columns: Sequence[str],
    legend: Sequence[tuple[str, tuple[int, int, int]]],
    path: Path,
) -> None:
    """Draw named rows of RGB pictures under named columns, with a legend of colours."""
    figure = Figure(figsize=(2.05 * len(columns) + 0.2, 1.56 * len(rows) + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, (name, pictures) in zip(grid, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=9)
        for panel, picture in zip(line, pictures, strict=True):
            panel.imshow(picture, interpolation="nearest")
            panel.set_xticks([])
            panel.set_yticks([])
            panel.spines[:].set_color("0.6")
    for panel, title in zip(grid[0], columns, strict=True):
        panel.set_title(title, fontsize=9)
    patches = [
        Patch(facecolor=f"#{bytes(color).hex()}", edgecolor="0.5", linewidth=0.5, label=name) for name, color in legend
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    _save(figure, path)


def draw_masks(folder: Path, zoo_folder: Path = zoo.ZOO, root: Path | None = None) -> list[str]:
    """Draw the masks anew for which the data and a network are at hand; what was not drawn is told, a line each."""
    folder.mkdir(parents=True, exist_ok=True)
    known = zoo.names(zoo_folder)
    kept = []
    models: list[Any] = [zoo.load_any(name, zoo_folder) for name in SHOWN if name in known]
    try:
        if models:
            draw_event_masks(models, camvid_events(root), folder)
    except DatasetNotFoundError as error:
        kept.append(f"masks.png is left as it is: {error}")
    frames = [name for base in FRAMES for name in (base, f"{base}-ann") if name in known]
    try:
        if frames:
            pictures = voc2012.load("val", root)
            draw_frame_masks([zoo.load(name, zoo_folder, expect=FrameModel) for name in frames], pictures, folder)
    except DatasetNotFoundError as error:
        kept.append(f"masks-frames.png is left as it is: {error}")
    return kept


def write_report(docs: Path = DOCS, zoo_folder: Path = zoo.ZOO, root: Path | None = None) -> list[str]:
    """Write ``results.md`` and its pictures into a folder, from ``results/`` in it and the cards of a zoo.

    Parameters
    ----------
    docs : Path
    zoo_folder : Path
        Folder of trained networks.
    root : Path, optional
        Data root, for the masks.

    Returns
    -------
    list of str
        What was left as it was, a line each.
    """
    folder = docs / RESULTS
    kept = draw_masks(folder, zoo_folder, root)
    results = read_results(folder, zoo_folder)
    draw_plots(results, folder)
    (docs / "results.md").write_text(render(results))
    return kept


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rerun", action="store_true", help="make every JSON file again first; takes hours")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of results.md and results/")
    args = parser.parse_args()
    if args.rerun:
        rerun(args.docs / RESULTS, lambda line: print(line, flush=True))
    for line in write_report(args.docs):
        print(line)


if __name__ == "__main__":
    main()
