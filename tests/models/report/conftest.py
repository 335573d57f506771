"""Cards with invented scores, a zoo of tiny networks, and results of the true schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import zoo
from models.architectures.edge import EdgeConfig, EdgeDeepLab, fold_batch_norm
from models.architectures.paper import PaperConfig, PaperNetwork, fold_bntt
from models.classes import DDD17_CLASSES, SegmentationClass
from models.coding import InputCoding
from models.datasets import voc2012
from models.runtime.activity import LayerActivity, SpikeActivity
from models.training import convert, energy, robustness, weights
from models.training.evaluate import WINDOW_US, activity_report, camvid_events, confusion_report
from models.training.history import HISTORY
from models.training.report.results import Results, read_results

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
            "updates_in_all": 1000 + seed,
            "minutes_in_all": 40.1,
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


@contextmanager
def single_thread() -> Iterator[None]:
    """Small networks gain nothing from more threads, and on a busy machine they lose much."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with single_thread():
        yield


@pytest.fixture(scope="session")
def small_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    save_networks(folder)
    return folder


@pytest.fixture(scope="session")
@single_thread()
def stored(data_tree: Path, small_zoo: Path) -> dict[str, dict[str, Any]]:
    """Results of the true schemas: tiny networks measured over two labelled frames; those of frames are invented."""
    windows = camvid_events(data_tree)
    converted = convert.report(
        "edge-s", windows=windows, frames=2, checkpoints=(1, 2, 5, 10), folder=small_zoo, root=data_tree
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
    rounded = weights.report("edge-s", windows, small_zoo)
    return {
        "conversion-edge-s": converted,
        "energy-edge-s": measured,
        "robustness-edge-s": perturbed,
        "weights-edge-s": rounded,
    }


@pytest.fixture
def results(small_zoo: Path, stored: dict[str, dict[str, Any]], tmp_path: Path) -> Results:
    """Those cards and results, read from files."""
    for stem, record in stored.items():
        (tmp_path / f"{stem}.json").write_text(json.dumps(record))
    return read_results(tmp_path, small_zoo)
