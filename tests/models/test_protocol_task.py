"""What the paper's networks learn from: cells, crops, pictures varied, and whole small runs to the zoo."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models import zoo
from models.architectures import paper
from models.coding import InputCoding, cells_64
from models.events import EventBatch, SensorSize
from models.runtime import paper as paper_runtime
from models.runtime.protocol import FrameModel, ProtocolModel
from models.training import protocol_task
from models.training.checkpoint import load_run
from models.training.config import CropPhase, Loss, ProtocolData, TrainConfig
from models.training.export import export
from models.training.protocol_data import cells_of_counts, id_sets, vary_frame
from models.training.protocol_task import ProtocolTask
from models.training.train import train

EVENTS = ProtocolData(
    coding=InputCoding(code="direct", normalisation="count", height=16, width=16),
    steps=2,
    phases=(CropPhase(0.5, 8), CropPhase(0.5, 16)),
)
SMALL = TrainConfig(
    model="paper-deeplab", updates=2, batch=2, reports=2, loss=Loss(rate=0.0), protocol=EVENTS, learning_rate=1e-3
)


@pytest.fixture
def voc_tree(tmp_path: Path) -> Path:
    """A VOC2012 of a few random pictures, in the plain layout."""
    rng = np.random.default_rng(0)
    for split, count in (("train_aug", 3), ("val", 1)):
        for folder in ("JPEGImages", "SegmentationClassAug"):
            (tmp_path / "voc2012" / split / folder).mkdir(parents=True)
        for k in range(count):
            base = tmp_path / "voc2012" / split
            cv2.imwrite(str(base / "JPEGImages" / f"{k}.jpg"), rng.integers(0, 255, (40, 52, 3), dtype=np.uint8))
            labels = rng.choice(np.array([0, 8, 12, 255], np.uint8), (40, 52))
            cv2.imwrite(str(base / "SegmentationClassAug" / f"{k}.png"), labels)
    return tmp_path


@pytest.fixture(autouse=True)
def narrow_networks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The paper's graphs with few channels."""
    narrow = {kind: tuple(replace(layer, channels=4) for layer in layers) for kind, layers in paper.LAYERS.items()}
    with monkeypatch.context() as patch:
        patch.setattr(paper, "LAYERS", narrow)
        paper_runtime._geometry.cache_clear()
        yield
    paper_runtime._geometry.cache_clear()


def test_cells_of_counted_pixels_are_cells_of_events() -> None:
    rng = np.random.default_rng(0)
    sensor = SensorSize(35, 26)
    n = 500
    x, y = rng.integers(0, sensor.width, n), rng.integers(0, sensor.height, n)
    events = EventBatch(
        np.zeros(n, np.int64), x.astype(np.uint16), y.astype(np.uint16), rng.integers(0, 2, n, dtype=np.uint8)
    )
    counts = torch.zeros(2, sensor.height, sensor.width)
    counts.index_put_(
        (torch.from_numpy(events.p.astype(np.int64)), torch.from_numpy(y), torch.from_numpy(x)),
        torch.ones(n),
        accumulate=True,
    )
    np.testing.assert_array_equal(cells_of_counts(counts, 7, 9).numpy(), cells_64(events, sensor, 7, 9))


def test_ids_become_sets_of_one_class_and_void_the_empty_set() -> None:
    ids = torch.tensor([0, 3, 20, 255], dtype=torch.uint8)
    assert id_sets(ids).tolist() == [1, 8, 1 << 20, 0]


def test_picture_and_labels_are_varied_alike() -> None:
    rng = np.random.default_rng(3)
    labels = np.zeros((60, 80), np.uint8)
    labels[20:40, 20:60] = 5
    rgb = np.where(labels[..., None] == 5, np.uint8(200), np.uint8(30)).repeat(3, axis=2)
    coverage = []
    for _ in range(30):
        picture, varied = vary_frame(rng, rgb, labels, 48, 48)
        assert picture.shape == (48, 48, 3)
        # Off the blurred outline, a pixel is bright just where its label says so.
        inside = cv2.erode((varied == 5).astype(np.uint8), np.ones((7, 7))) > 0
        outside = cv2.erode((varied == 0).astype(np.uint8), np.ones((7, 7))) > 0
        assert (picture[inside] > 150).all()
        assert (picture[outside] < 80).all()
        coverage.append((varied == 5).mean())
    assert max(coverage) > 2 * min(coverage), "scales differ"


def test_samples_are_cropped_to_the_phase(data_tree: Path) -> None:
    task = ProtocolTask(SMALL, data_tree)
    with task.batches(0) as batches:
        samples = iter(batches)
        first = next(samples)
        assert first.x.shape == (1, 2, 2, 8, 8)
        assert first.labels.shape == (2, 8, 8)
        assert batches.advance(0.6)
        assert next(samples).x.shape == (1, 2, 2, 16, 16)


@pytest.mark.parametrize("code", ["poisson", "history"])
@pytest.mark.parametrize("model", ["paper-deeplab", "paper-fcn"])
def test_other_codings_train_too(code: str, model: str, data_tree: Path, tmp_path: Path) -> None:
    coding = replace(EVENTS.coding, code=code, normalisation="column")
    config = replace(SMALL, model=model, updates=1, reports=1, protocol=replace(EVENTS, coding=coding))
    assert 0 <= train(config, tmp_path, data_tree).miou <= 1


@pytest.mark.parametrize("model", ["paper-deeplab", "paper-fcn"])
def test_a_small_run_on_events_reaches_the_zoo(
    model: str, data_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIKESEG_DATA", str(data_tree))
    for twin in (False, True):
        train(replace(SMALL, model=model, twin=twin), tmp_path / str(twin))
    card = export("paper-x", tmp_path / "False", tmp_path / "True", folder=tmp_path)
    loaded = zoo.load("paper-x", tmp_path, expect=ProtocolModel)
    assert loaded.steps == 2
    assert loaded.card["evaluation"] == card["evaluation"]
    assert np.sum(card["evaluation"]["stream"]["confusion_matrix"]) > 0
    assert math.isfinite(card["evaluation"]["ann_twin"]["miou"])


def test_a_small_run_on_pictures_reaches_the_zoo(
    voc_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIKESEG_DATA", str(voc_tree))
    coding = replace(EVENTS.coding, source="frames")
    config = replace(SMALL, protocol=replace(EVENTS, coding=coding))
    for twin in (False, True):
        train(replace(config, twin=twin), tmp_path / str(twin))
    assert load_run(tmp_path / "False")[1]["data"]["held_out_pictures"] == {"VOC2012 train_aug": 1}
    export("voc-x", tmp_path / "False", tmp_path / "True", folder=tmp_path)
    loaded = zoo.load("voc-x", tmp_path, expect=FrameModel)
    scores = loaded.card["evaluation"]["frames"]
    assert set(scores["class_iou"]) >= {"background", "cat", "dog"}
    assert protocol_task.architecture(config).input_channels == 3
