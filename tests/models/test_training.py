"""Training: losses worked out by hand, sequences that carry state, and one whole small run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional

from models import zoo
from models.architectures.edge import EdgeConfig, EdgeDeepLab
from models.datasets import camvid, idd_lite
from models.ego_motion import EgoMotion
from models.training import train as training
from models.training.evaluate import SENSOR, WINDOW_US, camvid_events
from models.training.export import export
from models.training.history import HISTORY, History
from models.training.losses import dice, firing_rate_penalty, set_cross_entropy
from models.training.metrics import class_iou, confusion, mean_iou, pixel_accuracy
from models.training.prefetch import ChunkPrefetcher, Phase
from models.training.sequences import Chunk, SequenceBatches, SequenceConfig, Thing, paste
from models.training.train import (
    TrainConfig,
    Trainer,
    class_weights,
    evaluate_stream,
    start_rows_from_rest,
    update_average,
)

TINY = EdgeConfig(stem=4, stride4=4, stride8=8, pyramid=4, decoder=4, pyramid_rates=(1, 2))


def test_a_set_of_classes_is_judged_by_its_summed_probability() -> None:
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    logits = p.log()[None, :, None, None].expand(1, 4, 1, 3)
    labels = torch.tensor([[[0b0110, 0b1000, 0]]], dtype=torch.uint8)
    loss = set_cross_entropy(logits, labels, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    # The set {1, 2} weighs as its lightest class, 2; the last pixel is unlabelled.
    assert float(loss) == pytest.approx((2 * -math.log(0.5) + 4 * -math.log(0.4)) / 6)


def test_no_label_at_all_gives_no_gradient_and_no_nan() -> None:
    logits = torch.randn(2, 6, 3, 3, requires_grad=True)
    labels = torch.zeros(2, 3, 3, dtype=torch.uint8)
    loss = set_cross_entropy(logits, labels, torch.ones(6)) + dice(logits, labels)
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_dice_is_zero_for_a_certain_and_right_answer() -> None:
    labels = torch.tensor([[[1, 2], [2, 4]]], dtype=torch.uint8)
    right = torch.full((1, 3, 2, 2), -50.0)
    for y, x, c in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        right[0, c, y, x] = 50
    assert float(dice(right, labels)) == pytest.approx(0, abs=1e-6)
    assert float(dice(-right, labels)) > 0.6


def test_only_layers_above_the_target_rate_are_penalised() -> None:
    quiet, loud = torch.tensor([0.0, 0.0, 0.0, 0.2]), torch.tensor([0.0, 0.4, 0.0, 0.4])
    assert float(firing_rate_penalty([quiet, loud], target=0.1)) == pytest.approx((0 + 1.0**2) / 2)


def test_rare_classes_weigh_more_up_to_the_cap() -> None:
    assert class_weights((0.64, 0.16, 0.04, 0.0001), cap=6.0).tolist() == pytest.approx([1, 2, 4, 6])


def test_metrics_from_a_confusion_matrix() -> None:
    truth = np.array([[0, 0, 1], [1, 255, 2]], np.uint8)
    predicted = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    matrix = confusion(truth, predicted, 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(class_iou(matrix), [1 / 3, 2 / 3, 0, np.nan])
    assert mean_iou(matrix) == pytest.approx(1 / 3)
    assert pixel_accuracy(matrix) == pytest.approx(3 / 5)


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
    sources = [(camvid.load("train", data_tree), 0.5), (idd_lite.load(data_tree), 0.5)]
    batches = SequenceBatches(sources, config, batch=3, count_clip=4, seed=1)
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
        np.full((6, 4), 200, np.uint8), np.full((6, 4), 1 << 4, np.uint8), np.ones((6, 4), bool), 0.8, 0.5, 64
    )
    grey, labels = np.zeros((48, 64), np.uint8), np.full((48, 64), 1, np.uint8)
    for seed in range(10):
        pasted, pasted_labels = paste(np.random.default_rng(seed), grey, labels, [[thing]], 3)
        assert set(np.unique(pasted_labels)) <= {1, 1 << 4}
        np.testing.assert_array_equal(pasted == 200, pasted_labels == 1 << 4)
    assert not grey.any(), "the picture itself is left as it is"
    assert (pasted_labels == 1 << 4).any()


def test_the_same_seed_gives_the_same_sequences(data_tree: Path) -> None:
    sources = [(camvid.load("train", data_tree), 1.0)]
    config = SequenceConfig(height=48, width=64, chunk=2)
    first, second = (SequenceBatches(sources, config, 2, 4, seed=7) for _ in range(2))
    for _ in range(3):
        a, b = next(first), next(second)
        np.testing.assert_array_equal(a.counts, b.counts)
        np.testing.assert_array_equal(a.labels, b.labels)


def test_labels_show_the_end_of_their_window(data_tree: Path) -> None:
    config = SequenceConfig(height=48, width=64, chunk=4)
    batches = SequenceBatches([(camvid.load("train", data_tree), 1.0)], config, batch=1, count_clip=4, seed=3)
    labels, slot = next(batches).labels[:, 0], batches.slots[0]
    for k in range(config.chunk):
        np.testing.assert_array_equal(labels[k], batches._label(slot, k + 1.0))
    assert any((labels[k] != batches._label(slot, float(k))).any() for k in range(config.chunk))


@pytest.mark.parametrize(("fresh", "steps", "judged"), [(True, 2, False), (True, 3, True), (False, 2, True)])
def test_the_first_windows_after_a_reset_are_not_judged(fresh: bool, steps: int, judged: bool) -> None:
    torch.manual_seed(0)
    trainer = Trainer(TINY, TrainConfig(unjudged=2))
    counts = np.ones((steps, 1, 2, 24, 24), np.float32)
    losses = trainer.update(Chunk(counts, np.ones((steps, 1, 12, 12), np.uint8), np.array([fresh])), 0.0)
    assert (losses["cross_entropy"] > 0) == judged


def test_the_running_mean_keeps_its_share() -> None:
    average, network = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    average.weight.data.fill_(1.0)
    network.weight.data.fill_(5.0)
    update_average(average, network, 0.75)
    assert float(average.weight.detach()) == pytest.approx(2.0)


def test_fresh_rows_start_from_rest_and_the_others_carry_on() -> None:
    torch.manual_seed(0)
    network = EdgeDeepLab(TINY).eval()
    x = torch.randint(0, 3, (4, 2, 2, 24, 24)).float()
    with torch.no_grad():
        functional.reset_net(network)
        whole = network(x)
        functional.reset_net(network)
        network(x[:2])
        start_rows_from_rest(network, torch.tensor([True, False]))
        carried = network(x[2:])
        functional.reset_net(network)
        rested = network(x[2:])
    torch.testing.assert_close(carried[:, 1], whole[2:, 1])
    torch.testing.assert_close(carried[:, 0], rested[:, 0])


def test_the_twin_sees_the_windows_before_and_forgets_them_on_a_fresh_row() -> None:
    history = History()
    x = torch.arange(1, 5).float()[:, None, None, None, None].expand(4, 2, 2, 1, 1)
    first = history.stack(x)
    assert first.shape == (4, 2, 2 * HISTORY, 1, 1)
    assert first[3, 0, ::2, 0, 0].tolist() == [0, 0, 0, 0, 1, 2, 3, 4]
    later = history.stack(x[:1] + 4, torch.tensor([True, False]))
    assert later[0, 0, ::2, 0, 0].tolist() == [0, 0, 0, 0, 0, 0, 0, 5]
    assert later[0, 1, ::2, 0, 0].tolist() == [0, 0, 0, 1, 2, 3, 4, 5]


def test_a_fault_while_making_chunks_reaches_the_trainer() -> None:
    with (
        ChunkPrefetcher([([], 1.0)], (Phase(1.0, 48, 64, (0.5, 1.0)),), 1, 4, 0) as chunks,
        pytest.raises(ValueError, match="high <= 0"),
    ):
        next(iter(chunks))


def test_a_drive_becomes_windows_that_end_at_labelled_frames(data_tree: Path) -> None:
    windows = camvid_events(data_tree)
    assert [window.truth is not None for window in windows] == [False, True, False, True]
    assert [window.t_start for window in windows] == [k * WINDOW_US for k in range(4)]
    for window in windows:
        assert len(window.events) > 0
        assert window.t_start < window.events.t[0] <= window.events.t[-1] <= window.t_start + WINDOW_US
    assert windows[1].truth is not None
    assert windows[1].truth.shape == (SENSOR.height, SENSOR.width)


def test_a_whole_small_run_from_pictures_to_the_zoo(
    data_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIKESEG_DATA", str(data_tree))
    monkeypatch.setitem(training.CONFIGS, "edge-s", TINY)
    config = TrainConfig(updates=4, batch=2, phases=(Phase(0.5, 48, 64, (0.3, 0.5)), Phase(0.5, 64, 64, (0.3, 0.5))))
    for twin in (False, True):
        training.train("edge-s", twin, config, tmp_path / f"run-{twin}")
    log = [json.loads(line) for line in (tmp_path / "run-False" / "log.jsonl").read_text().splitlines()]
    assert [log[0]["update"], log[-1]["update"]] == [0, 4]
    assert math.isfinite(log[-1]["losses"]["cross_entropy"])

    card = export("edge-s", tmp_path / "run-False", tmp_path / "run-True", folder=tmp_path)
    model = zoo.load("edge-s", tmp_path)
    assert model.card["evaluation"] == card["evaluation"]
    assert set(card["evaluation"]["stream"]["class_iou"]) == {c.name for c in model.classes}
    network = EdgeDeepLab(TINY).eval()
    matrix, _ = evaluate_stream(network, camvid_events())
    assert not network.training, "scoring leaves the network's mode as it was"
    assert matrix.sum() == np.sum(card["evaluation"]["stream"]["confusion_matrix"])
