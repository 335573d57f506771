"""The pictures of masks: what is drawn, and of which windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models import zoo
from models.datasets import voc2012
from models.events import EventBatch, SensorSize
from models.runtime.protocol import FrameModel
from models.training.evaluate import SENSOR, WINDOW_US, LabelledWindow, camvid_events
from models.training.report.colors import OFF_COLOR, ON_COLOR, SILENT_COLOR, event_picture
from models.training.report.masks import draw_frame_masks, draw_masks, masks_along, spread
from models.training.report.page import render
from models.training.report.results import read_results


def test_masks_stay_where_the_data_is_not(
    small_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_tree: Path
) -> None:
    draw_masks(tmp_path, small_zoo, data_tree)
    before = (tmp_path / "masks.png").read_bytes()
    monkeypatch.delenv("SPIKESEG_DATA", raising=False)
    kept = draw_masks(tmp_path, small_zoo)
    assert [line.split(" ")[0] for line in kept] == ["masks.png", "masks-frames.png"]
    assert (tmp_path / "masks.png").read_bytes() == before
    page = render(read_results(tmp_path, small_zoo))
    assert "![Masks on CamVid-events" in page
    assert "are kept elsewhere" in page


def test_state_is_carried_up_to_each_window_that_is_shown(small_zoo: Path, data_tree: Path) -> None:
    windows = camvid_events(data_tree)
    model = zoo.load("edge-s", small_zoo)
    state, masks = model.initial_state(SENSOR), []
    for window in windows:
        answer = model.segment(state, window.events, SENSOR)
        state = answer.state
        masks.append(answer.mask)
    for k, mask in zip((1, 3), masks_along(model, windows, [1, 3]), strict=True):
        np.testing.assert_array_equal(mask, masks[k])


def test_a_network_that_carries_nothing_sees_only_what_is_shown(small_zoo: Path) -> None:
    model = zoo.load_any("paper-deeplab", small_zoo)
    assert not isinstance(model, FrameModel)
    outside = EventBatch(
        np.zeros(1, np.int64), np.array([999], np.uint16), np.zeros(1, np.uint16), np.ones(1, np.uint8)
    )
    windows = [LabelledWindow(0, outside, None), LabelledWindow(WINDOW_US, EventBatch.empty(), None)]
    (mask,) = masks_along(model, windows, [1])
    assert mask.shape == (260, 346)


def test_masks_of_frames_show_no_picture(small_zoo: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.full((30, 40), 12, np.uint8)
    labels[:5] = 255
    pictures = [
        voc2012.Picture(f"2007_{k}", rng.integers(0, 256, (30, 40, 3), dtype=np.uint8), labels) for k in range(6)
    ]
    model = zoo.load("paper-deeplab-voc", small_zoo, expect=FrameModel)
    shown = draw_frame_masks([model], pictures, tmp_path)
    assert shown["rows"] == ["truth", "paper-deeplab-voc"]
    assert shown["columns"] == ["2007_0", "2007_2", "2007_3", "2007_5"]
    with Image.open(tmp_path / "masks-frames.png") as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20) or []}
    assert voc2012.CLASSES[12].color in colors


def test_windows_are_spread_over_the_drive() -> None:
    assert spread(100) == [12, 37, 62, 87]
    assert spread(2) == [0, 1]
    assert spread(0) == []


def test_events_are_drawn_by_polarity() -> None:
    x, y = np.array([0, 1, 1, 1], np.uint16), np.array([0, 0, 0, 0], np.uint16)
    events = EventBatch(np.arange(4), x, y, np.array([1, 0, 0, 1], np.uint8))
    picture = event_picture(events, SensorSize(3, 1))
    assert picture[0].tolist() == [list(c) for c in (ON_COLOR, OFF_COLOR, SILENT_COLOR)]
