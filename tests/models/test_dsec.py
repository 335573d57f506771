"""DSEC-Semantic: event files read by the millisecond, rectification, windows that end at labels, classes."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.classes import DDD17_CLASSES
from models.datasets import dsec
from models.datasets.labels import class_ids
from models.errors import DatasetNotFoundError, EncodingError
from models.events import EventBatch, SensorSize

SEQUENCE = "zurich_city_13_a"
OFFSET = 50_000_000_000
TIMES = [OFFSET + t for t in (100_000, 150_000, 200_000, 350_000)]


def ms_index(t: NDArray[np.int64]) -> NDArray[np.uint64]:
    """For each whole millisecond the first event at or after it, as the data set's makers define it."""
    last = int(t[-1]) // 1000 if len(t) else 0
    return np.searchsorted(t, 1000 * np.arange(last + 1)).astype(np.uint64)


def write_events(path: Path, t: NDArray[np.int64]) -> None:
    """An events.h5 as it is published: Blosc with ZSTD, times from t_offset on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    columns = {
        "t": t.astype(np.uint32),
        "x": rng.integers(10, 630, len(t), dtype=np.uint16),
        "y": rng.integers(0, 430, len(t), dtype=np.uint16),
        "p": rng.integers(0, 2, len(t), dtype=np.uint8),
    }
    blosc = hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=hdf5plugin.Blosc.SHUFFLE)
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file.create_dataset(f"events/{name}", data=values, chunks=(500,), maxshape=(None,), **blosc)
        file.create_dataset("ms_to_idx", data=ms_index(t), chunks=True, **blosc)
        file.create_dataset("t_offset", data=np.int64(OFFSET))


def write_rectify_map(path: Path, dx: float = 0, dy: float = 0) -> None:
    x, y = np.meshgrid(np.arange(640, dtype=np.float32), np.arange(480, dtype=np.float32))
    with h5py.File(path, "w") as file:
        file["rectify_map"] = np.stack([x + dx, y + dy], axis=-1).astype(np.float32)


def write_labels(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for k in range(count):
        cv2.imwrite(str(folder / f"{k:06d}.png"), np.full((440, 640), k + 4, np.uint8))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A data root with one test sequence of four labels and an event every 100 us for 0.4 s."""
    base = tmp_path / "dsec" / "test" / SEQUENCE
    write_events(base / "events/left/events.h5", np.arange(0, 400_000, 100))
    write_rectify_map(base / "events/left/rectify_map.h5", dx=-2.4, dy=1.6)
    write_labels(base / "11classes", len(TIMES))
    (base / f"{SEQUENCE}_semantic_timestamps.txt").write_text("".join(f"{t}\n" for t in TIMES))
    return tmp_path


# --- event files


class Counted:
    """A stand-in for an HDF5 table that counts what is read from it."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values
        self.read = 0

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, part: Any) -> Any:
        found = self.values[part]
        self.read += np.size(found)
        return found


def table(t: list[int], offset: int = 0) -> dict[str, Any]:
    times = np.array(t, np.int64)
    n = len(t)
    return {
        "events/t": Counted(times.astype(np.uint32)),
        "events/x": Counted(np.arange(n, dtype=np.uint16)),
        "events/y": Counted(np.zeros(n, np.uint16)),
        "events/p": Counted(np.ones(n, np.uint8)),
        "ms_to_idx": Counted(ms_index(times)),
        "t_offset": np.array(offset),
    }


def test_the_index_is_that_of_the_makers_example() -> None:
    # The example in the official reader.
    times = np.array([0, 500, 2100, 5000, 5000, 7100, 7200, 7200, 8100, 9000])
    assert ms_index(times).tolist() == [0, 2, 2, 3, 3, 3, 5, 5, 8, 9]


@given(
    st.lists(st.integers(0, 900), min_size=1, max_size=60),
    st.integers(-3_000, 40_000),
    st.integers(1, 9_000),
    st.sampled_from([0, OFFSET]),
)
def test_a_window_holds_just_its_events(steps: list[int], start: int, length: int, offset: int) -> None:
    t = np.cumsum(steps).tolist()
    events = dsec.read_window(table(t, offset), offset + start, offset + start + length)
    slow = [(offset + time, k) for k, time in enumerate(t) if start <= time < start + length]
    assert list(zip(events.t.tolist(), events.x.tolist(), strict=True)) == slow


def test_no_more_is_read_than_the_windows_milliseconds() -> None:
    file = table(list(range(0, 1_000_000, 100)), OFFSET)
    events = dsec.read_window(file, OFFSET + 500_050, OFFSET + 550_000)
    # 50 ms of ten events each, of which the first lies before the window.
    assert len(events) == 499
    assert {name: file[name].read for name in ("events/t", "events/x", "ms_to_idx")} == {
        "events/t": 500,
        "events/x": 499,
        "ms_to_idx": 2,
    }


def test_event_files_are_read_through_blosc(tree: Path) -> None:
    path = tree / "dsec/test" / SEQUENCE / "events/left/events.h5"
    with dsec.open_events(path) as file:
        events = dsec.read_window(file, OFFSET + 1_000, OFFSET + 1_300)
        assert events.t.tolist() == [OFFSET + 1_000, OFFSET + 1_100, OFFSET + 1_200]
        assert events.x.tolist() == file["events/x"][10:13].tolist()
    assert [a.dtype for a in (events.t, events.x, events.y, events.p)] == [np.int64, np.uint16, np.uint16, np.uint8]


def test_a_missing_decompressor_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(DatasetNotFoundError, match="needs Blosc, which is not installed: pip install hdf5plugin"):
        next(dsec.labelled_windows(SEQUENCE, tree))


def test_a_damaged_event_file_is_told_with_the_time(tree: Path) -> None:
    path = tree / "dsec/test" / SEQUENCE / "events/left/events.h5"
    with h5py.File(path) as file:
        chunk = file["events/x"].id.get_chunk_info_by_coord((1500,))
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(data)
    stream = dsec.labelled_windows(SEQUENCE, tree)
    assert all(len(next(stream)[0]) == 500 for _ in range(2))
    with pytest.raises(EncodingError, match=r"events.h5: events of 50000150000 to 50000200000 us cannot be read"):
        next(stream)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="missing or not an HDF5 file"):
        dsec.open_events(tmp_path / "events.h5")
    write_rectify_map(tmp_path / "map.h5")
    with pytest.raises(DatasetNotFoundError, match="is not an event file of DSEC: it has no events/p"):
        dsec.open_events(tmp_path / "map.h5")
    write_events(tmp_path / "events.h5", np.arange(500))
    with pytest.raises(DatasetNotFoundError, match=r"has no rectify_map of \(480, 640, 2\)"):
        dsec.read_rectify_map(tmp_path / "events.h5")


# --- rectification


def test_events_go_to_the_nearest_rectified_pixel_or_out() -> None:
    place = np.array([[[0.4, 0.6], [2.6, 0.0]], [[-0.6, 0.0], [1.0, 2.5]]], np.float32)
    x, y = np.array([0, 1, 0, 1], np.uint16), np.array([0, 0, 1, 1], np.uint16)
    events = dsec.rectify(EventBatch(np.arange(4), x, y, np.ones(4, np.uint8)), place, SensorSize(4, 2))
    # (2.6, 0) is column 3; −0.6 rounds to −1 and 2.5 to 2, both outside of 4x2.
    assert list(zip(events.t.tolist(), events.x.tolist(), events.y.tolist(), strict=True)) == [(0, 0, 1), (1, 3, 0)]
    assert events.x.dtype == events.y.dtype == np.uint16
    assert len(dsec.rectify(EventBatch.empty(), place)) == 0
    with pytest.raises(EncodingError, match="outside the 2x2 sensor"):
        dsec.rectify(EventBatch(np.zeros(1, np.int64), np.array([2], np.uint16), y[:1], np.ones(1, np.uint8)), place)


# --- windows


def test_windows_end_at_labels_and_leave_no_gap() -> None:
    assert dsec.label_windows(np.array([100, 150, 260]), 50) == [
        (50, 100, 0),
        (100, 150, 1),
        (150, 205, None),
        (205, 260, 2),
    ]
    assert dsec.label_windows(np.empty(0, np.int64)) == []


@given(st.lists(st.integers(1, 300_000), min_size=1, max_size=20), st.integers(1_000, 100_000))
def test_every_label_has_one_window_and_every_time_one(steps: list[int], window_us: int) -> None:
    times = np.cumsum(steps)
    found = dsec.label_windows(times, window_us)
    assert [end for _, end, label in found if label is not None] == times.tolist()
    assert [label for *_, label in found if label is not None] == list(range(len(times)))
    assert all(end == start for (_, end, _), (start, _, _) in pairwise(found))
    assert all(start <= end <= start + 1.5 * window_us + 1 for start, end, _ in found)


def test_a_sequence_is_a_stream_with_labels(tree: Path) -> None:
    found = list(dsec.labelled_windows(SEQUENCE, tree))
    assert [(int(e.t[0]) - OFFSET, int(e.t[-1]) - OFFSET) for e, _ in found] == [
        (50_000, 99_900),
        (100_000, 149_900),
        (150_000, 199_900),
        (200_000, 249_900),
        (250_000, 299_900),
        (300_000, 349_900),
    ]
    # The labels' ids are 4 pole, 5 road, 6 sidewalk, 7 vegetation.
    names = [None if t is None else DDD17_CLASSES[int(t[0, 0])].name for _, t in found]
    assert names == ["object", "flat", "flat", None, None, "nature"]
    truth = found[0][1]
    assert truth is not None
    assert (truth.shape, truth.dtype) == ((440, 640), np.uint8)
    assert all(e.y.max() < 440 for e, _ in found)


def test_events_move_to_where_the_labels_are(tree: Path) -> None:
    def first_window(rectified: bool) -> EventBatch:
        return next(dsec.labelled_windows(SEQUENCE, tree, rectified=rectified))[0]

    raw, moved = first_window(False), first_window(True)
    assert moved.t.tolist() == raw.t.tolist()
    # −2.4 and +1.6 at the nearest pixel.
    assert moved.x.tolist() == [x - 2 for x in raw.x.tolist()]
    assert moved.y.tolist() == [y + 2 for y in raw.y.tolist()]


def test_ids_may_stay_as_stored_and_labels_be_chosen(tree: Path) -> None:
    found = [t for _, t in dsec.labelled_windows(SEQUENCE, tree, scored=slice(1, None, 2), classes="dsec")]
    assert [None if t is None else int(t.max()) for t in found] == [None, 5, None, None, None, 7]
    assert list(range(10))[dsec.PUBLISHED_LABELS] == [6, 8]


# --- layout


@pytest.mark.parametrize(
    ("labels", "times"),
    [
        ("semantic/left/11classes", f"semantic/left/{SEQUENCE}_semantic_timestamps.txt"),
        ("semantic/left/11classes/data", "semantic/timestamps.txt"),
        ("semantic/11classes/data", "semantic/semantic_timestamps.txt"),
    ],
)
def test_labels_may_stand_where_they_are_unpacked(tree: Path, labels: str, times: str) -> None:
    base = tree / "dsec/test" / SEQUENCE
    (base / labels).parent.mkdir(parents=True)
    (base / "11classes").rename(base / labels)
    (base / f"{SEQUENCE}_semantic_timestamps.txt").rename(base / times)
    sequence = dsec.find(SEQUENCE, tree)
    assert [path.name for path in sequence.labels] == ["000000.png", "000001.png", "000002.png", "000003.png"]
    assert sequence.times.tolist() == TIMES


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("11classes", "has no labels or times of labels"),
        (f"{SEQUENCE}_semantic_timestamps.txt", "has no labels or times of labels"),
        ("events/left/rectify_map.h5", "has no events/left/rectify_map.h5"),
        ("events", r"has no events/left. Expected:\n  dsec/"),
    ],
)
def test_absent_data_is_named_with_the_expected_tree(tree: Path, gone: str, message: str) -> None:
    (tree / "dsec/test" / SEQUENCE / gone).rename(tree / "elsewhere")
    with pytest.raises(DatasetNotFoundError, match=message):
        dsec.find(SEQUENCE, tree)


def test_labels_and_times_must_fit(tree: Path) -> None:
    path = tree / "dsec/test" / SEQUENCE / f"{SEQUENCE}_semantic_timestamps.txt"
    for text, message in (
        ("1\n2\n", "has 4 labels, but .* has 2 times"),
        ("1\n2\n2\n3\n", "the times do not rise"),
        ("1.5\n", "does not hold whole microseconds"),
    ):
        path.write_text(text)
        with pytest.raises(EncodingError, match=message):
            dsec.find(SEQUENCE, tree)


def test_labels_of_another_size_are_refused(tree: Path) -> None:
    path = tree / "dsec/test" / SEQUENCE / "11classes/000000.png"
    cv2.imwrite(str(path), np.zeros((480, 640), np.uint8))
    with pytest.raises(EncodingError, match=r"has the shape \(480, 640\), not \(440, 640\)"):
        dsec.read_labels(path)


# --- classes


def test_each_of_the_eleven_classes_is_one_of_ours() -> None:
    names = {c.name: DDD17_CLASSES[int(class_ids(dsec.SETS)[c.id])].name for c in dsec.CLASSES}
    assert names == {
        "background": "construction+sky",
        "building": "construction+sky",
        "fence": "construction+sky",
        "person": "human",
        "pole": "object",
        "road": "flat",
        "sidewalk": "flat",
        "vegetation": "nature",
        "car": "vehicle",
        "wall": "construction+sky",
        "traffic sign": "object",
    }
    assert set(class_ids(dsec.SETS)[11:].tolist()) == {255}


def test_the_official_split() -> None:
    assert dsec.split_of("zurich_city_00_a") == "train"
    assert dsec.split_of(SEQUENCE) == "test"
    with pytest.raises(DatasetNotFoundError, match="no sequence of DSEC-Semantic"):
        dsec.split_of("interlaken_00_a")
