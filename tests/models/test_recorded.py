"""Training and scoring on labelled recordings: DDD17's own files, in small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from models import zoo
from models.architectures.edge import EdgeConfig
from models.architectures.paper import PaperNetwork, fold_bntt
from models.classes import DDD17_CLASSES
from models.coding import InputCoding
from models.datasets import ddd17
from models.encoding import InputGrid
from models.errors import TrainingError
from models.runtime.protocol import ProtocolModel
from models.training import stream_task
from models.training.checkpoint import load_run
from models.training.config import CropPhase, ProtocolData, StreamData, TrainConfig, make_config
from models.training.evaluate import evaluate_ddd17_frames, find_drive
from models.training.export import export
from models.training.recorded import RecordedChunks
from models.training.train import train
from tests.models.test_ddd17 import polarity_packet, write_recording

TRAIN, HELD_OUT = ddd17.TRAIN[0], ddd17.TRAIN[1]
TEST = ddd17.TEST[0]
WINDOWS = 14


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with three DDD17 recordings of 0.7 s, every second window labelled."""
    base = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, recording in (("train", TRAIN), ("train", HELD_OUT), ("test", TEST)):
        packets = []
        for k in range(WINDOWS + 1):
            t = np.sort(rng.integers(50_000 * k, 50_000 * (k + 1), 400)).tolist()
            xs, ys, ps = rng.integers(0, 346, 400), rng.integers(0, 260, 400), rng.integers(0, 2, 400)
            rows = zip(t, xs.tolist(), ys.tolist(), ps.tolist(), [1] * 400, strict=True)
            packets.append(polarity_packet(list(rows)))
        write_recording(base / "ddd17" / f"{recording}.hdf5", packets)
        folder = base / "ddd17" / "dataset_our_codification" / "labels" / split
        folder.mkdir(parents=True, exist_ok=True)
        for k in range(0, WINDOWS, 2):
            labels = np.repeat(np.array([0, 1, 3, 255], np.uint8), 50)[:, None].repeat(346, 1)
            cv2.imwrite(str(folder / f"{recording}_export_{k}.png"), labels)
    return base


def names(*recordings: str) -> tuple[str, ...]:
    return tuple(f"ddd17:{recording}" for recording in recordings)


def test_rows_walk_through_drives_and_start_from_rest_at_a_new_one(root: Path) -> None:
    drive = find_drive(f"ddd17:{TRAIN}", root)
    grid = InputGrid.for_sensor(drive.sensor, 346)
    chunks = iter(RecordedChunks([drive], grid, count_clip=4, chunk=4, batch=2, seed=(0,), most_skipped=0))
    first, second, third, fourth = (next(chunks) for _ in range(4))
    assert first.counts.shape == (4, 2, 2, 200, 346)
    assert first.labels.shape == (4, 2, 100, 173)
    # Labels stand where the recording has them, and are sets of one class.
    assert [bool(labels.any()) for labels in first.labels[:, 0]] == [True, False, True, False]
    assert sorted(np.unique(first.labels[0, 0])) == [0, 1, 2, 8]
    # They begin again when 14 windows have no whole chunk of 4 left.
    assert [chunk.fresh.tolist() for chunk in (first, second, third, fourth)] == [
        [True, True],
        [False, False],
        [False, False],
        [True, True],
    ]
    np.testing.assert_array_equal(fourth.counts, first.counts)
    assert (first.counts != second.counts).any()


def test_rows_begin_at_places_of_their_own(root: Path) -> None:
    drive = find_drive(f"ddd17:{TRAIN}", root)
    grid = InputGrid.for_sensor(drive.sensor, 346)
    chunk = next(iter(RecordedChunks([drive], grid, count_clip=4, chunk=2, batch=4, seed=(1,), most_skipped=10)))
    starts = {chunk.counts[:, row].tobytes() for row in range(4)}
    assert len(starts) > 1


def test_the_test_drive_cannot_be_trained_on(tmp_path: Path, root: Path) -> None:
    for drives, held_out in ((("camvid-events",), names(HELD_OUT)), (names(TRAIN), ("camvid-events",))):
        with pytest.raises(TrainingError, match="camvid-events is the test drive"):
            train(TrainConfig(stream=StreamData(drives=drives, held_out_drives=held_out)), tmp_path, root)


def test_what_cannot_be_trained_on_is_refused(root: Path, tmp_path: Path) -> None:
    drive = find_drive(f"ddd17:{TRAIN}", root)
    grid = InputGrid.for_sensor(drive.sensor, 346)
    with pytest.raises(TrainingError, match="shorter than a chunk of 20 windows"):
        next(iter(RecordedChunks([drive], grid, count_clip=4, chunk=20, batch=1, seed=(0,))))
    other = find_drive("dsec:zurich_city_13_a", root)
    with pytest.raises(TrainingError, match="must be of one sensor size"):
        RecordedChunks([drive, other], grid, count_clip=4, chunk=2, batch=1, seed=(0,))
    with pytest.raises(TrainingError, match="held_out_drives must name"):
        train(TrainConfig(stream=StreamData(drives=names(TRAIN))), tmp_path, root)


def test_a_streaming_network_learns_from_recordings(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIKESEG_DATA", str(root))
    tiny = EdgeConfig(stem=4, stride4=4, stride8=8, pyramid=4, decoder=4, pyramid_rates=(1, 2), readout_scale=2)
    monkeypatch.setitem(stream_task.ARCHITECTURES, "edge-s", tiny)
    stream = StreamData(drives=names(TRAIN), held_out_drives=names(HELD_OUT), chunk=4)
    config = TrainConfig(updates=2, batch=2, reports=1, stream=stream)
    for twin in (False, True):
        train(replace(config, twin=twin), tmp_path / str(twin))
    assert load_run(tmp_path / "False")[1]["data"]["training_drives"] == list(names(TRAIN))
    card = export("x", tmp_path / "False", tmp_path / "True", tmp_path, data=f"ddd17:{TEST}")
    model = zoo.load("x", tmp_path)
    assert (model.window_us, model.card["sensor"]) == (50_000, {"width": 346, "height": 200})
    assert np.sum(card["evaluation"]["stream"]["confusion_matrix"]) == 7 * 150 * 346
    assert card["evaluation"]["command"].endswith(f"--model x --data ddd17:{TEST}")


def test_a_paper_network_learns_from_recordings(root: Path, tmp_path: Path) -> None:
    data = ProtocolData(drives=names(TRAIN), held_out_drives=names(HELD_OUT), steps=1)
    config = TrainConfig(model="paper-deeplab", updates=1, batch=1, reports=1, protocol=data)
    assert 0 <= train(config, tmp_path, root).miou <= 1


@pytest.fixture
def frames_root(tmp_path: Path) -> Path:
    """Ev-SegNet's tensors and labels of a few windows of DDD17."""
    rng = np.random.default_rng(0)
    for split, recording, count in (("train", TRAIN, 4), ("test", TEST, 3)):
        base = tmp_path / "ddd17" / "dataset_our_codification"
        for kind in ("events", "labels"):
            (base / kind / split).mkdir(parents=True)
        for k in range(count):
            tensor = rng.uniform(-1, 1, (200, 346, 6)).astype(np.float32)
            np.save(base / "events" / split / f"{recording}_export_{k}.npy", tensor)
            labels = rng.integers(0, 6, (200, 346), dtype=np.uint8)
            cv2.imwrite(str(base / "labels" / split / f"{recording}_export_{k}.png"), labels)
    return tmp_path


def test_a_paper_network_learns_from_evsegnets_frames_and_is_scored_on_them(frames_root: Path, tmp_path: Path) -> None:
    coding = InputCoding(code="direct", normalisation="column", height=16, width=16)
    data = ProtocolData(coding=coding, steps=1, phases=(CropPhase(1.0, 16),), ddd17_frames=True)
    config = TrainConfig(model="paper-deeplab", updates=1, batch=2, reports=1, protocol=data)
    score = train(config, tmp_path / "run", frames_root)
    assert np.sum(score.report["confusion_matrix"]) == 200 * 346
    network, run = load_run(tmp_path / "run")
    assert run["data"]["held_out_drives"] == ["the last 1 of them"]
    assert isinstance(network, PaperNetwork)
    about = {"window_us": run["data"]["window_us"]}
    zoo.save_paper("ddd17", network.config, coding, fold_bntt(network), DDD17_CLASSES, about, tmp_path)
    model = zoo.load("ddd17", tmp_path, expect=ProtocolModel)
    report = evaluate_ddd17_frames(model, ddd17.load("test", frames_root))
    assert (report["windows"], report["labelled_pixels"]) == (3, 3 * 200 * 346)


def test_cells_of_evsegnets_tensors_are_means_with_off_first() -> None:
    tensor = np.full((4, 4, 6), -1, np.float32)
    tensor[:2, :2, 0] = 1.0
    tensor[2:, 2:, 1] = 0.0
    cells = ddd17.paper_cells(tensor, 2, 2)
    np.testing.assert_allclose(cells, [[[0, 0], [0, 0.5]], [[1, 0], [0, 0]]])


def test_frames_ask_for_the_papers_normalisation() -> None:
    with pytest.raises(TrainingError, match="ddd17_frames asks for coding of events with normalisation column"):
        make_config({"protocol": {"ddd17_frames": True}})
