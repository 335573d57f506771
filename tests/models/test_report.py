"""The results page: its numbers are those of cards and stored results, and its pictures can be read."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models import zoo
from models.architectures.edge import EdgeConfig, EdgeDeepLab, fold_batch_norm
from models.architectures.paper import PaperConfig, PaperNetwork, fold_bntt
from models.classes import DDD17_CLASSES, SegmentationClass
from models.coding import InputCoding
from models.datasets import voc2012
from models.errors import TrainingError
from models.events import EventBatch, SensorSize
from models.runtime.activity import LayerActivity, SpikeActivity
from models.runtime.protocol import FrameModel
from models.training import convert, energy, report, robustness
from models.training.evaluate import WINDOW_US, LabelledWindow, activity_report, camvid_events, confusion_report
from models.training.history import HISTORY
from models.training.report import Results, read_results, render, verdict

ROOT = Path(__file__).resolve().parents[2]
TINY = EdgeConfig(stem=4, stride4=4, stride8=8, pyramid=4, decoder=4, pyramid_rates=(1, 2))
TWIN = replace(TINY, spiking=False, input_channels=2 * HISTORY)
CURVE = [
    {"update": 100, "minutes": 4.0, "miou": 0.3011},
    {"update": 205, "minutes": 8.25, "miou": 0.4127},
    {"update": 310, "minutes": 12.0, "miou": 0.4004},
]


def scores(seed: int, classes: tuple[SegmentationClass, ...] = DDD17_CLASSES) -> dict[str, Any]:
    """Scores of an invented confusion matrix; classes 3 on of VOC2012 do not occur."""
    rng = np.random.default_rng(seed)
    matrix = rng.integers(1, 1000, (6, 6)) + np.diag(rng.integers(2000, 9000, 6))
    if len(classes) > 6:
        matrix = np.pad(matrix[:3, :3], (0, len(classes) - 3))
    layers = (LayerActivity("stem", 1000, 50 + seed, 3.5e7), LayerActivity("readout", 0, 0, 1e6 * seed))
    activity = SpikeActivity(layers, macs_ann=8e8, macs_analog=4e7)
    return confusion_report(matrix, classes) | activity_report([activity], WINDOW_US)


def card(seed: int, key: str = "stream", classes: tuple[SegmentationClass, ...] = DDD17_CLASSES) -> dict[str, Any]:
    """What export adds to a card, with invented scores."""
    return {
        "window_us": WINDOW_US,
        "classes": [{"id": c.id, "name": c.name, "color": list(c.color)} for c in classes],
        "parameters": 367116 + seed,
        "training": {
            "command": f"python -m models.training.train --seed {seed}",
            "settings": {"seed": 0, "minutes": 40.0, "updates": 0},
            "updates": 1000 + seed,
            "minutes": 40.1,
            "curve": CURVE,
            "material": {"training_pictures": {"CamVid train": 332}, "held_out_drives": ["ddd17:rec1", "ddd17:rec2"]},
            "machine": {"processor": "a processor", "cores": 2, "memory_gib": 24, "threads": 1},
        },
        "notes": ["Simulated: no real event recording was seen in training."],
        "evaluation": {
            "data": "VOC2012 val" if key == "frames" else "CamVid-events val",
            "command": f"python -m models.training.evaluate --model {seed}",
            key: scores(seed, classes),
            "ann_twin": {"what": "a twin", **scores(seed + 50, classes)},
        },
    }


def save_networks(folder: Path) -> None:
    """A zoo of tiny networks with random weights, under the names of the page's."""
    torch.manual_seed(0)
    for seed, (name, config) in enumerate({"edge-s": TINY, "edge-s-ann": TWIN, "edge-l": TINY}.items()):
        of_it = card(seed)
        if config.spiking:
            of_it["evaluation"]["reset_every_window"] = scores(seed + 20)
        zoo.save(name, config, fold_batch_norm(EdgeDeepLab(config).eval()), of_it, folder)
    for seed, (name, frames) in enumerate({"paper-deeplab": False, "paper-deeplab-voc": True}.items(), 10):
        classes = voc2012.CLASSES if frames else DDD17_CLASSES
        config = PaperConfig(classes=len(classes), input_channels=3 if frames else 2, steps=2)
        coding = InputCoding("frames" if frames else "events", "direct", "count", height=16, width=16)
        of_it = card(seed, "frames" if frames else "stream", classes)
        zoo.save_paper(name, config, coding, fold_bntt(PaperNetwork(config).eval()), classes, of_it, folder)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small networks gain nothing from more threads, and on a busy machine they lose much."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    save_networks(folder)
    return folder


@pytest.fixture(scope="module")
def stored(data_tree: Path, small_zoo: Path) -> dict[str, dict[str, Any]]:
    """Results of the true schemas: tiny networks measured over two labelled frames; those of frames are invented."""
    windows = camvid_events(data_tree)
    converted = convert.report(
        "edge-s", windows=windows, frames=2, checkpoints=(1, 2, 5), folder=small_zoo, root=data_tree
    )
    measured = energy.report("edge-s", "edge-s-ann", counter_windows=2, root=data_tree, folder=small_zoo)
    with pytest.MonkeyPatch.context() as patch:
        chosen = [p for p in robustness.PERTURBATIONS if p.name in ("dropped_events", "contrast_threshold")]
        patch.setattr(robustness, "PERTURBATIONS", chosen)
        perturbed = robustness.report("edge-s", "edge-s-ann", frames=1, root=data_tree, folder=small_zoo)
    points = [{"strength": k / 10, "snn": {"miou": round(0.31 - k / 20, 4)}, "ann": None} for k in range(5)]
    perturbed["frames"] = {
        "models": {"snn": "paper-deeplab-voc", "ann": None},
        "data": "VOC2012 val, 2 pictures at 16x16",
        "pictures": 2,
        "perturbations": [{"name": "gaussian_noise", "axis": "Gaussian noise σ", "nominal": 0, "points": points}],
    }
    return {"conversion-edge-s": converted, "energy-edge-s": measured, "robustness-edge-s": perturbed}


@pytest.fixture
def results(small_zoo: Path, stored: dict[str, dict[str, Any]], tmp_path: Path) -> Results:
    """Those cards and results, read from files."""
    for stem, record in stored.items():
        (tmp_path / f"{stem}.json").write_text(json.dumps(record))
    return read_results(tmp_path, small_zoo)


def cells(page: str, heading: str, first: str) -> list[str]:
    """The cells of the only table row below a heading (before the next of its level) that begins with ``first``."""
    level = heading.split(" ")[0]
    found = re.findall(rf"^{re.escape(heading)}$(.*?)(?=^#{{1,{len(level)}}} |\Z)", page, re.DOTALL | re.MULTILINE)
    assert len(found) == 1
    # Confusion matrices repeat the names of the classes.
    section = re.sub(r"<details>.*?</details>", "", found[0], flags=re.DOTALL)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    chosen = [row for row in rows if row[0] == first]
    assert len(chosen) == 1, (heading, first, len(chosen))
    return chosen[0]


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def test_the_main_tables_hold_the_numbers_of_the_cards(results: Results) -> None:
    page = render(results)
    evaluation = results.cards["edge-s"]["evaluation"]
    stream, twin = evaluation["stream"], evaluation["ann_twin"]
    row = cells(page, "## How well the networks see", "`edge-s`")
    assert row[1:6] == ["streaming", "0.367", "1", f"**{stream['miou']:.3f}**", f"{stream['pixel_accuracy']:.3f}"]
    assert row[6:8] == [f"{100 * stream['firing_rate']:.2f} %", f"{stream['sops_per_window'] / 1e6:.3f}"]
    assert row[8:10] == [f"{twin['miou']:.3f}", signed(stream["miou"] - twin["miou"])]
    assert row[10] == f"{evaluation['reset_every_window']['miou']:.3f}"
    paper = cells(page, "## How well the networks see", "`paper-deeplab`")
    assert (paper[1], paper[3], paper[10]) == ("protocol", "2", "–")
    frames = results.cards["paper-deeplab-voc"]["evaluation"]["frames"]
    row = cells(page, "## How well the networks see", "`paper-deeplab-voc`")
    assert row[2:4] == ["2", f"**{frames['miou']:.3f}**"]
    assert "Not in the zoo: `paper-fcn`." in page
    assert "one training run (seed 0), and those of events are of one drive" in page


def test_classes_and_confusion_are_those_of_the_cards(results: Results) -> None:
    page = render(results)
    evaluation = results.cards["edge-s"]["evaluation"]
    for name in evaluation["stream"]["class_iou"]:
        parts = [
            evaluation[key][kind][name] for key in ("stream", "ann_twin") for kind in ("class_iou", "class_accuracy")
        ]
        assert cells(page, "### `edge-s`", name)[1:] == [f"{value:.3f}" for value in parts]
    row = evaluation["stream"]["confusion_matrix"][4]
    assert f"| human | {' | '.join(f'{100 * count / sum(row):.1f}' for count in row)} |" in page
    assert page.count("<details><summary>Confusion matrix of <code>edge-s-ann</code>") == 1
    voc = page.split("### `paper-deeplab-voc`")[1].split("\n## ")[0]
    assert "| bicycle |" in voc
    assert "bird" not in voc, "neither present nor predicted"
    assert "nan" not in page


@pytest.mark.parametrize(
    ("value", "sense", "bound", "expected"),
    [
        (0.512, "≥", 0.5, "reached"),
        (0.5, "≥", 0.5, "reached"),
        (0.469, "≥", 0.5, "not reached (by 0.031)"),
        (0.4998, "≥", 0.5, "not reached (by less than 0.001)"),
        (0.4575 - 0.4775, "≥", -0.02, "reached"),
        (0.08, "≤", 0.08, "reached"),
        (0.11, "≤", 0.08, "not reached (by 0.030)"),
        (0.001, ">", 0.0, "reached"),
        (0.0, ">", 0.0, "not reached (by less than 0.001)"),
        (-0.05, ">", 0.0, "not reached (by 0.050)"),
        (None, "≥", 0.5, "not measured"),
        (float("nan"), "≥", 0.5, "not measured"),
    ],
)
def test_an_expectation_is_reached_or_not(value: float | None, sense: Any, bound: float, expected: str) -> None:
    assert verdict(value, sense, bound) == expected


def test_a_share_lacks_points() -> None:
    assert verdict(0.0802, "≤", 0.08, share=True) == "not reached (by 0.02 points)"


def test_expectations_are_compared_with_cards_and_results(results: Results) -> None:
    def outcome(network: str, what: str) -> list[str]:
        rows = [line for line in render(results).splitlines() if line.startswith(f"| `{network}` | {what} |")]
        assert len(rows) == 1
        return [cell.strip() for cell in rows[0].strip("|").split("|")][2:]

    evaluation = results.cards["edge-s"]["evaluation"]
    stream = evaluation["stream"]
    assert outcome("edge-s", "mIoU")[1:] == ["≥ 0.500", f"{stream['miou']:.3f}"]
    assert outcome("edge-s", "mean firing rate")[2] == f"{100 * stream['firing_rate']:.2f} %"
    over = stream["miou"] - evaluation["ann_twin"]["miou"]
    assert outcome("edge-s", "mIoU, less the twin's") == [
        verdict(over, "≥", -0.02),
        "≥ −0.020",
        f"{over:.3f}".replace("-", "−"),
    ]
    over = stream["miou"] - evaluation["reset_every_window"]["miou"]
    assert outcome("edge-s", "mIoU with carried state, less that with reset")[0] == verdict(over, ">", 0)
    conversion = results.stored["conversion-edge-s"]
    over = conversion["direct"]["miou"] - conversion["converted"][0]["miou"]
    of_conversion = "mIoU of direct training, less that of conversion at equal steps"
    assert outcome("edge-s", of_conversion)[0] == verdict(over, ">", 0)
    assert outcome("paper-fcn", of_conversion) == ["not measured", "> 0.000", "–"]


def test_remarks_are_taken_over_as_they_are(results: Results, tmp_path: Path) -> None:
    text = "`object` stays low: *thin things*.\n\n- one | two\n"
    (tmp_path / "remarks.md").write_text(text)
    page = render(replace(results, remarks=text))
    expectations = page.split("## Expected and reached")[1].split("\n## ")[0]
    assert expectations.endswith(f"|\n\n{text}")
    assert read_results(tmp_path, tmp_path / "none").remarks == text


def test_conversion_is_told_step_by_step(results: Results) -> None:
    page = render(results)
    section = page.split("## Direct training against conversion")[1].split("\n## ")[0]
    conversion = results.stored["conversion-edge-s"]
    for point in conversion["converted"]:
        rate = f"{100 * point['firing_rate']:.2f} %"
        assert f"| converted twin | {point['steps']} | {point['miou']:.3f} | {rate} |" in section
    assert f"| directly trained | 1 | {conversion['direct']['miou']:.3f} |" in section
    assert f"| ANN twin | – | {conversion['twin']['miou']:.3f} | – |" in section


def test_robustness_is_told_at_the_middle_strength(results: Results) -> None:
    page = render(results)
    heading = "## When sensor or input are off"
    dropped, contrast = results.stored["robustness-edge-s"]["perturbations"]
    nominal, middle = dropped["points"][0], dropped["points"][2]
    row = cells(page, heading, "dropped events")
    assert row[2:4] == ["0.25", f"{middle['snn']['miou']:.3f}"]
    assert row[4] == f"{100 * middle['snn']['miou'] / nominal['snn']['miou']:.1f} %"
    assert row[5] == f"{middle['ann']['miou']:.3f}"
    assert report.middle_point(contrast)["strength"] == 1.5, "the middle one changes nothing"
    frames = cells(page, heading, "gaussian noise")
    assert frames[2:] == ["0.2", "0.210", f"{100 * 0.21 / 0.31:.1f} %", "–", "–"]


def test_energy_is_told_layer_by_layer(results: Results) -> None:
    page = render(results)
    heading = "### Operations of `edge-s`"
    measured = results.stored["energy-edge-s"]
    snn, ann = measured["snn"], measured["ann"]
    for layer, twin in zip(snn["layers"], ann["layers"], strict=True):
        row = cells(page, heading, layer["name"])
        assert row[2] == (f"{100 * layer['firing_rate']:.2f} %" if layer["neurons"] else "–")
        operations = [layer[key] for key in ("dense_macs", "sops_padded", "sops_effective")]
        assert row[4:7] == [f"{value / 1e6:.3f}" for value in operations]
        assert row[7:] == [f"{twin[key] / 1e6:.3f}" for key in ("dense_macs", "effective_macs")]
    assert cells(page, heading, "**a second**")[5] == f"{snn['per_second']['sops_padded'] / 1e6:.3f}"
    for how in ("padded", "effective"):
        joules, watts = snn["per_window"]["energy_j"][how]["int8_45nm"], snn["per_second"]["power_w"][how]["int8_45nm"]
        ratio = measured["ann_over_snn_energy"][how]["int8_45nm"]
        lines = [line for line in page.splitlines() if line.startswith(f"| int8 at 45 nm | {how} |")]
        assert len(lines) == 1
        told = [cell.strip() for cell in lines[0].strip("|").split("|")]
        assert (told[2], told[4]) == (f"{joules * 1e6:.3f}", f"{watts * 1e3:.3f}")
        assert told[6] == f"{ratio:.2f}"
    assert measured["note"] in page
    assert f"| `edge-s` | {measured['latency']['snn_ms']['p50']:.3f} |" in page


def test_learning_curves_name_the_best_score(results: Results) -> None:
    row = cells(render(results), "## Learning curves", "`edge-s`")
    assert row[1:] == ["3", "0.413", "205", "8.2", "0.400"]


def test_what_is_missing_is_told_with_the_command_that_makes_it(small_zoo: Path, tmp_path: Path) -> None:
    page = render(read_results(tmp_path, small_zoo))
    for command in (
        "python -m models.training.convert --model edge-s --out docs/results/conversion-edge-s.json",
        "python -m models.training.robustness --model edge-s --twin edge-s-ann --frame-model paper-deeplab-voc --out "
        "docs/results/robustness-edge-s.json",
        "python -m models.training.robustness --model edge-l --out docs/results/robustness-edge-l.json",
        "python -m models.training.energy --model edge-s --twin edge-s-ann --out docs/results/energy-edge-s.json",
    ):
        assert f"`{command}`" in page
    assert "`paper-deeplab`: nothing to measure, not in the zoo: `paper-deeplab-ann`." in page
    assert re.findall(r"!\[.+?\]\((.+?)\)", page) == ["results/learning-curves.png"], "the cards alone hold its numbers"
    assert "masks.png: not drawn yet" in page


def test_a_page_can_be_made_of_nothing(tmp_path: Path) -> None:
    page = render(read_results(tmp_path, tmp_path))
    assert "Not in the zoo: `edge-s`, `edge-l`, `paper-deeplab`, `paper-fcn`." in page
    assert page.count("not measured") == len(report.TARGETS)


def test_cards_without_newer_entries_are_told_with_gaps(results: Results) -> None:
    old = json.loads(json.dumps(results.cards["edge-s"]))
    for key in ("updates", "minutes", "curve", "material", "machine"):
        del old["training"][key]
    for part in ("stream", "ann_twin"):
        del old["evaluation"][part]["class_accuracy"]
    row = cells(render(results), "## What was scored on what", "`edge-s`")
    assert row[1:3] == ["CamVid train (332 pictures)", "ddd17:rec1, ddd17:rec2"]
    page = render(Results({"edge-s": old}, {}))
    assert cells(page, "### `edge-s`", "flat")[2] == "–"
    assert cells(page, "## What was scored on what", "`edge-s`")[6:8] == ["–", "–"]
    assert "The cards hold none." in page


def test_pictures_are_written_and_linked(
    small_zoo: Path, stored: dict[str, dict[str, Any]], data_tree: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    for stem, record in stored.items():
        (folder / f"{stem}.json").write_text(json.dumps(record))
    kept = report.write_report(tmp_path, small_zoo, data_tree)
    assert len(kept) == 1
    assert kept[0].startswith("masks-frames.png is left as it is: VOC 2012 not found")
    page = (tmp_path / "results.md").read_text()
    linked = re.findall(r"!\[.+?\]\((.+?)\)", page)
    assert {Path(file).name for file in linked} == {
        "conversion.png",
        "robustness-edge-s.png",
        "robustness-frames.png",
        "firing-rates.png",
        "learning-curves.png",
        "masks.png",
    }
    for file in linked:
        with Image.open(tmp_path / file) as picture:
            assert picture.format == "PNG"
            assert picture.mode == "P"
            assert len(picture.convert("RGB").getcolors(1 << 20) or []) >= 3
        assert (tmp_path / file).stat().st_size < 400_000
    shown = json.loads((folder / "masks.json").read_text())
    assert shown["rows"] == ["events", "truth", "edge-s", "edge-l", "edge-s-ann", "paper-deeplab"]
    assert shown["columns"] == ["0.07 s", "0.13 s"]

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    report.write_report(tmp_path, small_zoo, data_tree)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert (tmp_path / "results.md").read_text() == page


def test_masks_stay_where_the_data_is_not(
    small_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_tree: Path
) -> None:
    report.draw_masks(tmp_path, small_zoo, data_tree)
    before = (tmp_path / "masks.png").read_bytes()
    monkeypatch.delenv("SPIKESEG_DATA", raising=False)
    kept = report.draw_masks(tmp_path, small_zoo)
    assert [line.split(" ")[0] for line in kept] == ["masks.png", "masks-frames.png"]
    assert (tmp_path / "masks.png").read_bytes() == before
    page = render(read_results(tmp_path, small_zoo))
    assert "![Masks on CamVid-events" in page
    assert "are kept elsewhere" in page


def test_state_is_carried_up_to_each_window_that_is_shown(small_zoo: Path, data_tree: Path) -> None:
    windows = camvid_events(data_tree)
    model = zoo.load("edge-s", small_zoo)
    state, masks = model.initial_state(report.SENSOR), []
    for window in windows:
        answer = model.segment(state, window.events, report.SENSOR)
        state = answer.state
        masks.append(answer.mask)
    for k, mask in zip((1, 3), report.masks_along(model, windows, [1, 3]), strict=True):
        np.testing.assert_array_equal(mask, masks[k])


def test_a_network_that_carries_nothing_sees_only_what_is_shown(small_zoo: Path) -> None:
    model = zoo.load_any("paper-deeplab", small_zoo)
    assert not isinstance(model, FrameModel)
    outside = EventBatch(
        np.zeros(1, np.int64), np.array([999], np.uint16), np.zeros(1, np.uint16), np.ones(1, np.uint8)
    )
    windows = [LabelledWindow(0, outside, None), LabelledWindow(WINDOW_US, EventBatch.empty(), None)]
    (mask,) = report.masks_along(model, windows, [1])
    assert mask.shape == (260, 346)


def test_masks_of_frames_show_no_picture(small_zoo: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.full((30, 40), 12, np.uint8)
    labels[:5] = 255
    pictures = [
        voc2012.Picture(f"2007_{k}", rng.integers(0, 256, (30, 40, 3), dtype=np.uint8), labels) for k in range(6)
    ]
    model = zoo.load("paper-deeplab-voc", small_zoo, expect=FrameModel)
    shown = report.draw_frame_masks([model], pictures, tmp_path)
    assert shown["rows"] == ["truth", "paper-deeplab-voc"]
    assert shown["columns"] == ["2007_0", "2007_2", "2007_3", "2007_5"]
    with Image.open(tmp_path / "masks-frames.png") as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20) or []}
    assert voc2012.CLASSES[12].color in colors


def test_windows_are_spread_over_the_drive() -> None:
    assert report.spread(100) == [12, 37, 62, 87]
    assert report.spread(2) == [0, 1]
    assert report.spread(0) == []


def test_events_are_drawn_by_polarity() -> None:
    x, y = np.array([0, 1, 1, 1], np.uint16), np.array([0, 0, 0, 0], np.uint16)
    events = EventBatch(np.arange(4), x, y, np.array([1, 0, 0, 1], np.uint8))
    picture = report.event_picture(events, SensorSize(3, 1))
    assert picture[0].tolist() == [list(c) for c in (report.ON_COLOR, report.OFF_COLOR, report.SILENT_COLOR)]


NETWORKS = ("edge-s", "edge-s-ann", "edge-l", "paper-deeplab", "paper-deeplab-ann", "paper-fcn", "paper-deeplab-voc")


def test_measurements_are_made_for_the_networks_that_there_are() -> None:
    assert [job.stem for job in report.jobs(NETWORKS)] == [
        "conversion-paper-deeplab",
        "conversion-edge-s",
        "robustness-edge-s",
        "robustness-edge-l",
        "energy-edge-s",
        "energy-edge-l",
    ]
    assert report.jobs([]) == []


def test_the_commands_of_measurements_have_known_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mains: dict[str, Callable[[], None]] = {m.__name__: m.main for m in (convert, robustness, energy)}
    for job in report.jobs(NETWORKS):
        _, module, *options = report.job_command(job, tmp_path)
        # An option that there is not ends the command before it measures anything, and must be all that is refused.
        monkeypatch.setattr(sys, "argv", [module, *options, "--no-such-option"])
        with pytest.raises(SystemExit, match="2"):
            mains[module]()
        assert capsys.readouterr().err.endswith("error: unrecognized arguments: --no-such-option\n")


def test_a_rerun_keeps_the_stored_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = "python -m models.training.robustness --model edge-s --out elsewhere.json --seed 3 --plot 'a b.png'"
    (tmp_path / "robustness-edge-s.json").write_text(json.dumps({"command": kept}))
    ran: list[list[str]] = []

    def run(arguments: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        ran.append(arguments)
        return subprocess.CompletedProcess(arguments, int("models.training.energy" in arguments))

    monkeypatch.setattr(report.subprocess, "run", run)
    monkeypatch.setattr(report.zoo, "names", lambda: ("edge-s", "edge-s-ann"))
    with pytest.raises(TrainingError, match=r"python -m models.training.energy --model edge-s .* ended with status 1"):
        report.rerun(tmp_path)
    out = str(tmp_path / "robustness-edge-s.json")
    again = shlex.split(kept.replace("elsewhere.json", out))
    assert ran[1] == [sys.executable, *again[1:]]
    assert ran[0][1:5] == ["-m", "models.training.convert", "--model", "edge-s"]
    assert ran[2][-2:] == ["--out", str(tmp_path / "energy-edge-s.json")]


def test_a_stored_command_of_something_else_is_not_run(tmp_path: Path) -> None:
    job = report.conversion_job("edge-s")
    for command in ("rm -rf x", "python -m models.training.energy --out x"):
        with pytest.raises(TrainingError, match=r"its command is not one of models\.training\.convert"):
            report.job_command(job, tmp_path, {"command": command})


def test_the_page_in_the_repository_is_what_its_results_make() -> None:
    page = ROOT / "docs" / "results.md"
    if not page.exists():
        pytest.skip("docs/results.md has not been written yet")
    assert page.read_text() == render(read_results(ROOT / "docs" / "results"))
    for file in re.findall(r"!\[.+?\]\((.+?)\)", page.read_text()):
        with Image.open(page.parent / file) as picture:
            picture.verify()
