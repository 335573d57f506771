"""Event sequences made from pictures: a camera on the move, things in front of it, state that carries on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.datasets import camvid, idd_lite
from models.datasets.stills import Still
from models.ego_motion import EgoMotion
from models.training.config import Phase
from models.training.prefetch import ChunkPrefetcher
from models.training.sequences import Mover, Pictures, SequenceBatches, SequenceConfig, Thing, paste


def test_a_camera_at_rest_looks_where_it_was_put() -> None:
    still = EgoMotion((10, 20), (100, 80), 0, 1, 1, 0, (0, 5, 0), 0, 200)
    y, x = np.mgrid[0:5, 0:7].astype(np.float32)
    map_x, map_y = still.maps(12.0, x, y)
    np.testing.assert_allclose(map_x, x + 10, atol=1e-4)
    np.testing.assert_allclose(map_y, y + 20, atol=1e-4)


def test_driving_forward_moves_the_picture_away_from_the_focus() -> None:
    drive = EgoMotion((0, 0), (50, 40), 0.02, 1, 1, 0, (0, 5, 0), 0, 100)
    x, y = np.array([[90.0]], np.float32), np.array([[70.0]], np.float32)
    map_x, map_y = drive.maps(5.0, x, y)
    # What is seen at (90, 70) was nearer to the focus before.
    assert 50 < map_x[0, 0] < 90
    assert 40 < map_y[0, 0] < 70


def test_sequences_carry_on_until_their_row_is_marked_fresh(data_tree: Path) -> None:
    config = SequenceConfig(height=48, width=64, chunk=3, chunks=(2, 3))
    pictures = Pictures([(camvid.load("train", data_tree), 0.5), (idd_lite.load(data_tree), 0.5)])
    batches = SequenceBatches(pictures, config, batch=3, count_clip=4, seed=1)
    fresh = []
    for _ in range(7):
        chunk = next(batches)
        assert chunk.counts.shape == (3, 3, 2, 48, 64)
        assert chunk.labels.shape == (3, 3, 24, 32)
        assert 0 <= chunk.counts.min() <= chunk.counts.max() <= 4
        fresh.append(chunk.fresh)
    assert fresh[0].all()
    starts = np.array(fresh).sum(0)
    assert (starts >= 2).all()
    assert (starts <= 5).all()


def test_a_pasted_thing_brings_its_label_along() -> None:
    thing = Thing(
        4, np.full((6, 4), 200, np.uint8), np.full((6, 4), 1 << 4, np.uint8), np.ones((6, 4), bool), 0.8, 0.5, 64
    )
    grey, labels = np.zeros((48, 64), np.uint8), np.full((48, 64), 1, np.uint8)
    for seed in range(10):
        pasted, pasted_labels = paste(np.random.default_rng(seed), grey, labels, [[thing]], 3)
        assert set(np.unique(pasted_labels)) <= {1, 1 << 4}
        np.testing.assert_array_equal(pasted == 200, pasted_labels == 1 << 4)
    assert not grey.any(), "the picture itself is left as it is"
    assert (pasted_labels == 1 << 4).any()


def test_the_same_seed_gives_the_same_sequences(data_tree: Path) -> None:
    pictures = Pictures([(camvid.load("train", data_tree), 1.0)])
    config = SequenceConfig(height=48, width=64, chunk=2)
    first, second = (SequenceBatches(pictures, config, 2, 4, seed=7) for _ in range(2))
    for _ in range(3):
        a, b = next(first), next(second)
        np.testing.assert_array_equal(a.counts, b.counts)
        np.testing.assert_array_equal(a.labels, b.labels)


def test_labels_show_the_end_of_their_window(data_tree: Path) -> None:
    config = SequenceConfig(height=48, width=64, chunk=4)
    batches = SequenceBatches(Pictures([(camvid.load("train", data_tree), 1.0)]), config, batch=1, count_clip=4, seed=3)
    labels, slot = next(batches).labels[:, 0], batches.slots[0]
    for k in range(config.chunk):
        np.testing.assert_array_equal(labels[k], batches._label(slot, k + 1.0))
    assert any((labels[k] != batches._label(slot, float(k))).any() for k in range(config.chunk))


def test_a_fault_while_making_chunks_reaches_the_trainer() -> None:
    with (
        ChunkPrefetcher(
            Pictures([([], 1.0)]), (Phase(1.0, 48, 64, (0.5, 1.0)),), SequenceConfig(), 1, 4, (0,)
        ) as chunks,
        pytest.raises(ValueError, match="high <= 0"),
    ):
        next(iter(chunks))


def test_a_mover_crosses_the_view_and_its_label_goes_with_it() -> None:
    thing = Thing(
        5, np.full((4, 6), 200, np.uint8), np.full((4, 6), 1 << 5, np.uint8), np.ones((4, 6), bool), 1, 0.5, 64
    )
    mover = Mover(thing, centre=(10.5, 11.5), velocity=(4.0, 0.0), scale=1.0, growth=0.0)
    for time in (0.0, 2.0):
        view, labels = np.zeros((24, 32), np.uint8), np.zeros((12, 16), np.uint8)
        mover.draw(view, thing.grey, time, 1, cv2.INTER_LINEAR)
        mover.draw(labels, thing.labels, time, 2, cv2.INTER_NEAREST)
        left = 8 + int(4 * time)
        assert (view[10:14, left : left + 6] == 200).all()
        assert (view > 0).sum() == 24
        # Each label stands for 2x2 pixels of the view.
        assert (labels[5:7, left // 2 : left // 2 + 3] == 1 << 5).all()
        assert (labels > 0).sum() == 6


def test_a_mover_grows_as_it_comes_near() -> None:
    thing = Thing(4, np.full((4, 4), 9, np.uint8), np.full((4, 4), 1 << 4, np.uint8), np.ones((4, 4), bool), 1, 0.5, 64)
    mover = Mover(thing, centre=(15.5, 15.5), velocity=(0.0, 0.0), scale=1.0, growth=float(np.log(2)))
    view = np.zeros((32, 32), np.uint8)
    mover.draw(view, thing.grey, 1.0, 1, cv2.INTER_LINEAR)
    assert (view > 0).sum() == 64


def test_hot_pixels_and_noise_fire_without_a_cause() -> None:
    flat = Still("flat", np.full((96, 128), 90, np.uint8), np.full((96, 128), 1, np.uint8))
    quiet = SequenceConfig(height=48, width=64, chunk=4, pastes=0, movers=0, noise_hz=0.0)
    noisy = replace(quiet, noise_hz=3.0, hot_pixels=0.01)
    silent, loud = (next(SequenceBatches(Pictures([([flat], 1.0)]), c, 4, 4, seed=0)) for c in (quiet, noisy))
    assert not silent.counts.any()
    fired = (loud.counts > 0).mean((0, 2))
    assert 0 < (fired > 0.4).mean() < 0.1, "a few pixels fire nearly always"
    assert 0.001 < loud.counts.mean() < 0.2
