"""Scores, and drives to score on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from models.errors import DatasetNotFoundError
from models.training import evaluate
from models.training.evaluate import SENSOR, WINDOW_US, camvid_events, confusion_report, find_drive
from models.training.metrics import class_accuracy, class_iou, confusion, mean_iou, pixel_accuracy


def test_metrics_from_a_confusion_matrix() -> None:
    truth = np.array([[0, 0, 1], [1, 255, 2]], np.uint8)
    predicted = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    matrix = confusion(truth, predicted, 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(class_iou(matrix), [1 / 3, 2 / 3, 0, np.nan])
    np.testing.assert_allclose(class_accuracy(matrix), [1 / 2, 1, 0, np.nan])
    assert mean_iou(matrix) == pytest.approx(1 / 3)
    assert pixel_accuracy(matrix) == pytest.approx(3 / 5)


def test_a_drive_becomes_windows_that_end_at_labelled_frames(data_tree: Path) -> None:
    windows = camvid_events(data_tree)
    assert [window.truth is not None for window in windows] == [False, True, False, True]
    assert [window.t_start for window in windows] == [k * WINDOW_US for k in range(4)]
    for window in windows:
        assert len(window.events) > 0
        assert window.t_start < window.events.t[0] <= window.events.t[-1] <= window.t_start + WINDOW_US
    assert windows[1].truth is not None
    assert windows[1].truth.shape == (SENSOR.height, SENSOR.width)


def test_a_report_holds_scores_by_class_and_the_matrix_they_come_from() -> None:
    matrix = np.diag([4, 3, 2, 1, 1, 1])
    matrix[0, 1] = 4
    report = confusion_report(matrix)
    assert report["class_iou"]["flat"] == 0.5
    assert report["class_accuracy"]["flat"] == 0.5
    assert report["confusion_matrix"] == matrix.tolist()
    matrix[5] = 0
    assert confusion_report(matrix)["class_accuracy"]["vehicle"] is None
    assert confusion_report(matrix)["class_iou"]["vehicle"] is None


def test_the_command_writes_what_it_prints(
    data_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPIKESEG_DATA", str(data_tree))
    out = tmp_path / "results" / "edge-s.json"
    monkeypatch.setattr(sys, "argv", ["evaluate", "--model", "edge-s", "--reset", "--out", str(out)])
    evaluate.main()
    report = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == report
    assert report["carry_state"] is False
    assert report["windows"] == 4
    assert report["latency_ms"]["p50"] > 0


def test_an_unknown_drive_is_answered_with_the_known_kinds() -> None:
    with pytest.raises(DatasetNotFoundError, match="expected camvid-events, ddd17:RECORDING or dsec:SEQUENCE"):
        find_drive("kitti")
