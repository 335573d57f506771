"""The README's examples run as they stand, and its figures are those that the repository's commands printed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.performance_page import NAMES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


def example(language: str, containing: str) -> str:
    """The one code block of a language that contains a text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    found = [block for block in blocks if containing in block]
    assert len(found) == 1
    return str(found[0])


def test_the_curl_example_writes_a_mask(server: str, tmp_path: Path) -> None:
    command = example("sh", "curl").replace(ADDRESS, server).replace("@service", f"@{ROOT}/service")
    subprocess.run(["bash", "-euc", command], cwd=tmp_path, check=True, timeout=300)
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.size == (346, 260)
        assert len(mask.getcolors() or []) >= 3


def test_the_python_example_prints_every_window(server: str) -> None:
    code = example("python", "from clients import Client").replace(ADDRESS, server)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, timeout=300, capture_output=True, text=True
    )
    lines = run.stdout.splitlines()
    assert [int(line.split()[0]) for line in lines] == list(range(len(lines)))
    assert len(lines) > 60
    assert all("(260, 346)" in line and "% of neurons fired" in line for line in lines)


def evaluation_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "models" / "zoo" / f"{name}.json").read_text())["evaluation"]
    return found


def test_the_scores_are_those_of_the_cards() -> None:
    small, large = evaluation_of("edge-s"), evaluation_of("edge-l")
    columns = [report[part] for report in (small, large) for part in ("stream", "ann_twin")]
    for name in small["stream"]["class_iou"]:
        row = " | ".join(f"{column['class_iou'][name]:.3f}" for column in columns)
        assert f"| {name} | {row} |" in README
    row = " | ".join(f"**{column['miou']:.3f}**" for column in columns)
    assert f"| **mIoU** | {row} |" in README
    for evaluation in (small, large):
        stream = evaluation["stream"]
        for figure in (
            f"| {evaluation['reset_every_window']['miou']:.3f} |",
            f"| {stream['firing_rate']:.1%} |",
            f"| {stream['sops_per_window'] / 1e6:.0f} M |",
            f"| {stream['macs_ann_per_window'] / 1e6:.0f} M |",
        ):
            assert figure in README


@pytest.mark.parametrize("name", ["paper-deeplab", "paper-fcn"])
def test_the_scores_of_the_papers_networks_are_those_of_their_cards(name: str) -> None:
    [row] = [line for line in README.splitlines() if line.startswith(f"| `{name}` |")]
    evaluation = evaluation_of(name)
    assert row.endswith(f"| {evaluation['stream']['miou']:.3f} | {evaluation['ann_twin']['miou']:.3f} |")


@pytest.mark.parametrize("window", ["10 ms", "20 ms", "33 ms", "50 ms"])
def test_the_timings_are_those_of_the_benchmark(window: str) -> None:
    report = json.loads((ROOT / "docs" / "first_light.json").read_text())
    served = report["served"][window]
    total = served["latency_ms"]["total"]
    row = f"| {window} | {total['p50']:.1f} | {total['p95']:.1f} | {total['p99']:.1f} | {served['windows_per_second']}"
    assert row in README
    assert report["machine"]["processor"] in README


def test_the_times_of_peers_are_those_of_the_benchmark() -> None:
    report = json.loads((ROOT / "docs" / "results" / "performance.json").read_text())
    medians = {each["contestant"]: each["window"]["p50_ms"] for each in report["head_to_head"] if each["threads"] == 2}
    rows = [f"| {NAMES[key]} | {ms:.1f} | {ms / medians['kernel']:.1f} |" for key, ms in medians.items()]
    assert len(rows) >= 10
    assert all(row in README for row in rows)
    assert report["machine"]["processor"] in README


def test_the_rates_of_events_are_those_of_the_benchmark() -> None:
    report = json.loads((ROOT / "docs" / "results" / "event_tensors.json").read_text())
    for sensor in report["sensors"]:
        rates = sensor["million_events_per_s"]
        for filters in ("no filter", "background activity", "all three filters"):
            assert re.search(rf"\b{rates[f'end to end, {filters}, C']['median']:.0f}\b", README)


def test_the_figures_of_many_streams_are_those_of_the_benchmark() -> None:
    report = json.loads((ROOT / "docs" / "results" / "many-streams.json").read_text())
    overhead = report["overhead"]
    for figure in (report["soak"]["windows"], overhead["total_ms"], overhead["bare_ms"], f"{overhead['ratio']:.2f}"):
        assert re.search(rf"\b{figure}\b", README)


def test_the_sustained_streams_are_those_of_the_benchmark() -> None:
    for sensor in json.loads((ROOT / "docs" / "results" / "load.json").read_text())["sustained"]:
        assert re.search(rf"\b{sensor['streams']}( streams)? of\s{sensor['sensor']}\b", README)


def test_the_damaged_files_are_those_of_the_benchmark() -> None:
    report = json.loads((ROOT / "docs" / "results" / "mutations.json").read_text())
    assert {kind["files"] for kind in report["kinds"].values()} == {10_000}
    assert len(report["kinds"]) == 7
