"""The results page: its numbers are those of cards and stored results."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from models.training.report.page import render
from models.training.report.results import Results, read_results
from models.training.report.sections.robustness import middle_point
from models.training.report.targets import TARGETS

ROOT = Path(__file__).resolve().parents[3]


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


def test_weights_of_fewer_bits_stand_beside_float32(results: Results) -> None:
    page = render(results)
    rows = results.stored["weights-edge-s"]["weights"]
    assert list(rows) == ["float32", "bfloat16", "int8"]
    assert rows["float32"]["labelled_pixels_changed"] == 0
    cost = rows["int8"]["miou"] - rows["float32"]["miou"]
    row = cells(page, "## Weights of fewer bits", "int8")
    assert row[1:4] == ["8", f"{rows['int8']['miou']:.4f}", f"{cost:+.4f}".replace("-", "−")]
    assert "`edge-l`: not measured yet. `python -m models.training.weights --model edge-l" in page


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
    assert f"| directly trained | 8 | {conversion['direct']['miou']:.3f} |" in section
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
    assert middle_point(contrast)["strength"] == 1.5, "the middle one changes nothing"
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
    assert page.count("not measured") == len(TARGETS)


def test_cards_without_newer_entries_are_told_with_gaps(results: Results) -> None:
    old = json.loads(json.dumps(results.cards["edge-s"]))
    for key in ("updates_in_all", "minutes_in_all", "curve", "material", "machine"):
        del old["training"][key]
    for part in ("stream", "ann_twin"):
        del old["evaluation"][part]["class_accuracy"]
    row = cells(render(results), "## What was scored on what", "`edge-s`")
    assert row[1:3] == ["CamVid train (332 pictures)", "ddd17:rec1, ddd17:rec2"]
    page = render(Results({"edge-s": old}, {}))
    assert cells(page, "### `edge-s`", "flat")[2] == "–"
    assert cells(page, "## What was scored on what", "`edge-s`")[6:8] == ["–", "–"]
    assert "The cards hold none." in page


def test_the_page_in_the_repository_is_what_its_results_make() -> None:
    page = ROOT / "docs" / "results.md"
    if not page.exists():
        pytest.skip("docs/results.md has not been written yet")
    assert page.read_text() == render(read_results(ROOT / "docs" / "results"))
    for file in re.findall(r"!\[.+?\]\((.+?)\)", page.read_text()):
        with Image.open(page.parent / file) as picture:
            picture.verify()
