"""The commands that make the page's measurements."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.errors import TrainingError
from models.training import convert, energy, robustness, weights
from models.training.report import jobs

NETWORKS = ("edge-s", "edge-s-ann", "edge-l", "paper-deeplab", "paper-deeplab-ann", "paper-fcn", "paper-deeplab-voc")


def test_measurements_are_made_for_the_networks_that_there_are() -> None:
    assert [job.stem for job in jobs.jobs(NETWORKS)] == [
        "conversion-paper-deeplab",
        "conversion-edge-s",
        "robustness-edge-s",
        "robustness-edge-l",
        "energy-edge-s",
        "energy-edge-l",
        "weights-edge-s",
        "weights-edge-l",
    ]
    assert jobs.jobs([]) == []


def test_the_commands_of_measurements_have_known_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mains: dict[str, Callable[[], None]] = {m.__name__: m.main for m in (convert, robustness, energy, weights)}
    for job in jobs.jobs(NETWORKS):
        _, module, *options = jobs.job_command(job, tmp_path)
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

    monkeypatch.setattr(jobs.subprocess, "run", run)
    monkeypatch.setattr(jobs.zoo, "names", lambda: ("edge-s", "edge-s-ann"))
    with pytest.raises(TrainingError, match=r"python -m models.training.energy --model edge-s .* ended with status 1"):
        jobs.rerun(tmp_path)
    out = str(tmp_path / "robustness-edge-s.json")
    again = shlex.split(kept.replace("elsewhere.json", out))
    assert ran[0] == [sys.executable, "-m", "models.training.export", "--name", "edge-s", "--rescore"]
    assert ran[1][1:5] == ["-m", "models.training.convert", "--model", "edge-s"]
    assert ran[2] == [sys.executable, *again[1:]]
    assert ran[3][-2:] == ["--out", str(tmp_path / "energy-edge-s.json")]


def test_a_stored_command_of_something_else_is_not_run(tmp_path: Path) -> None:
    job = jobs.conversion_job("edge-s")
    for command in ("rm -rf x", "python -m models.training.energy --out x"):
        with pytest.raises(TrainingError, match=r"its command is not one of models\.training\.convert"):
            jobs.job_command(job, tmp_path, {"command": command})
