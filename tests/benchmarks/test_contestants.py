"""Those who are held against ours compute what they are said to compute."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.contestants import STEPS, FromRest, Ours, SpikingJelly, pieces, unbinned
from benchmarks.sltnet import BINS, PeerError, SLTNet, fire, importable, voxel_grid
from benchmarks.twin_runtimes import RUNTIMES, SLIDES, TwinOn
from benchmarks.workload import windows_at
from models import zoo
from models.architectures.edge import class_mask
from models.events import EventBatch, SensorSize
from tests.service.harness import random_events

SENSOR = SensorSize(64, 48)


@pytest.fixture(scope="module")
def windows() -> list[EventBatch]:
    return windows_at(random_events(1, windows=1, per_window=20_000, sensor=SENSOR), 4e4, 2 * SLIDES + 4)


def test_spikingjelly_gives_our_masks(windows: list[EventBatch]) -> None:
    model = zoo.load("edge-s", backend="torch")
    ours, theirs = Ours(model, SENSOR), SpikingJelly(model, SENSOR, class_mask)
    for window in windows[:8]:
        torch.testing.assert_close(theirs.network(theirs.prepare(window)), ours.network(ours.prepare(window)))


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_twin_gives_the_same_logits_on_other_runtimes(name: str, windows: list[EventBatch]) -> None:
    if importlib.util.find_spec(RUNTIMES[name]) is None or importlib.util.find_spec("onnxscript") is None:
        pytest.skip(f"{name} is not installed: pip install -e '.[bench]'")
    model = zoo.load("edge-s-ann", backend="torch")
    ours, theirs = Ours(model, SENSOR), TwinOn(name, model, SENSOR, 1, class_mask)
    # So many that the history is moved back to its start more than once.
    for window in windows:
        expected = ours.network(ours.prepare(window))
        torch.testing.assert_close(theirs.network(theirs.prepare(window)), expected, atol=1e-4, rtol=1e-4)


def test_by_the_papers_protocol_each_answer_starts_from_rest(windows: list[EventBatch]) -> None:
    model = zoo.load("edge-s", backend="torch")
    rest = FromRest(model, SENSOR)
    first = rest.segment(windows[0])
    rest.segment(windows[1])
    assert (rest.segment(windows[0]) == first).all()
    carried = Ours(model, SENSOR)
    masks = [carried.segment(piece) for piece in pieces(windows[0])]
    assert len(masks) == STEPS
    assert (masks[-1] == first).all()


def test_unbinned_a_large_sensor_has_a_cell_for_each_pixel() -> None:
    model, large = zoo.load("edge-s", backend="torch"), SensorSize(700, 500)
    assert model.grid(large).factor == 2
    grid = unbinned(model, large).grid(large)
    assert (grid.width, grid.height) == (700, 500)


def test_a_voxel_grid_shares_each_event_between_the_bins_beside_it() -> None:
    t = np.array([0, 300, 1000], np.int64)
    at = np.array([1, 2, 3], np.uint16)
    grid = voxel_grid(EventBatch(t, at, at, np.array([1, 0, 1], np.uint8)), 8, 8)
    assert grid.shape == (BINS, 8, 8)
    # At 0, 1.2 and 4 of 0 … 4: 1 in bin 0; −0.8 and −0.2 in bins 1 and 2; 1 in bin 4.
    values = np.array([1, -0.8, -0.2, 1])
    expected = (values - values.mean()) / values.std()
    found = [grid[0, 1, 1], grid[1, 2, 2], grid[2, 2, 2], grid[4, 3, 3]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.count_nonzero(grid) == 4


def test_a_voxel_grid_of_nothing_is_zero() -> None:
    assert not voxel_grid(EventBatch.empty(), 8, 16).any()


def test_a_folder_that_is_no_clone_of_the_peer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="--peer-repo takes a clone of"):
        SLTNet(tmp_path, SENSOR, class_mask)


def test_modules_are_as_before_after_the_peer_is_imported(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "__init__.py").write_text("from timm.models.layers import trunc_normal_\n")
    before, path = set(sys.modules), list(sys.path)
    with importable(tmp_path):
        module = __import__("model")
        assert module.trunc_normal_ is torch.nn.init.trunc_normal_
    assert set(sys.modules) == before
    assert sys.path == path
    assert not (tmp_path / "model" / "__pycache__").exists()


def test_the_peers_neurons_fire_above_half_of_their_threshold() -> None:
    assert fire(torch.tensor([0.4, 0.5, 0.6])).tolist() == [0.0, 0.0, 1.0]


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="there is no C compiler")
def test_the_kernel_says_what_its_stages_took(windows: list[EventBatch]) -> None:
    model = zoo.load("edge-s", backend="event-driven")
    grid, state = model.grid(SENSOR), model.initial_state(SENSOR)
    spent: dict[str, int] = {}
    (row,) = model.runtime.answer([(state, windows[0], grid)], spent)
    (plain,) = model.runtime.answer([(state, windows[0], grid)])
    assert row.spike_counts == plain.spike_counts
    assert set(spent) == {"input", *state, "logits", "around"}
    assert all(ns >= 0 for ns in spent.values())
    assert sum(spent.values()) > 0
