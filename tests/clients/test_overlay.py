"""Masks in colour with events on top."""

from __future__ import annotations

import numpy as np
import pytest

from clients.overlay import OFF_COLOR, ON_COLOR, color_mask, overlay
from models.classes import DDD17_CLASSES, UNLABELLED, SegmentationClass
from models.events import EventBatch
from tests.service.harness import make_events


def test_classes_have_their_colors() -> None:
    mask = np.array([[0, 1, 2], [3, 5, UNLABELLED]], np.uint8)
    picture = color_mask(mask)
    assert picture.shape == (2, 3, 3)
    assert picture.dtype == np.uint8
    for (row, column), item in np.ndenumerate(mask):
        color = (0, 0, 0) if item == UNLABELLED else DDD17_CLASSES[item].color
        assert tuple(picture[row, column]) == color
    red = SegmentationClass(3, "red", (255, 0, 0))
    assert tuple(color_mask(mask, [red])[1, 0]) == red.color


def test_a_pixel_shows_its_last_event() -> None:
    mask = np.zeros((4, 5), np.uint8)
    events = make_events((0, 1, 2, 0), (1, 1, 2, 1), (2, 4, 3, 1), (3, 4, 3, 0))
    before = mask.copy()
    picture = overlay(mask, events, opacity=0.5)
    assert tuple(picture[2, 1]) == ON_COLOR
    assert tuple(picture[3, 4]) == OFF_COLOR
    elsewhere = np.ones(mask.shape, bool)
    elsewhere[[2, 3], [1, 4]] = False
    assert (picture[elsewhere] == np.array([64, 32, 64])).all()
    np.testing.assert_array_equal(mask, before)


def test_a_frame_lies_behind_the_mask() -> None:
    mask = np.full((4, 6), 5, np.uint8)
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    wanted = np.rint(np.array(DDD17_CLASSES[5].color) * 0.5 + grey[..., None] * 0.5)
    for frame in (grey, np.repeat(grey[..., None], 3, axis=2)):
        picture = overlay(mask, make_events((0, 2, 1, 1)), opacity=0.5, frame=frame)
        assert tuple(picture[1, 2]) == ON_COLOR
        picture[1, 2] = wanted[1, 2]
        np.testing.assert_array_equal(picture, wanted)


def test_without_events() -> None:
    mask = np.full((2, 2), 4, np.uint8)
    np.testing.assert_array_equal(overlay(mask, EventBatch.empty(), opacity=1), color_mask(mask))


def test_what_cannot_be_drawn() -> None:
    mask = np.zeros((4, 5), np.uint8)
    for outside in ((0, 5, 0, 1), (0, 0, 4, 1)):
        with pytest.raises(ValueError, match="outside the 5x4 mask"):
            overlay(mask, make_events(outside))
    with pytest.raises(ValueError, match="a frame of 5x3 lies behind a 5x4 mask"):
        overlay(mask, EventBatch.empty(), frame=mask[:3])
    with pytest.raises(ValueError, match="opacity"):
        overlay(mask, EventBatch.empty(), opacity=1.5)
