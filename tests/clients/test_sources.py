"""Recordings of both kinds, whole and damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.errors import RecordingError
from clients.sources import read_aedat4_chunks, read_chunks, read_npz_chunks
from models.events import EventBatch, SensorSize
from service.wire.aedat4 import write_aedat4
from tests.clients.scenes import SENSOR, moving_bars, write_npz

CHUNK_US = 10_000


@pytest.fixture(scope="module")
def bars() -> EventBatch:
    return moving_bars(duration_us=95_000)


def assert_chunks(chunks: list[EventBatch], events: EventBatch, chunk_us: int = CHUNK_US) -> None:
    """The events and nothing else, one chunk for each stretch of time."""
    joined = EventBatch.concatenate(chunks)
    for name in ("t", "x", "y", "p"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(events, name))
    slots = [(int(chunk.t[0]) // chunk_us, int(chunk.t[-1]) // chunk_us) for chunk in chunks]
    assert all(first == last for first, last in slots)
    assert len(set(slots)) == len(slots)


def test_aedat4(bars: EventBatch, tmp_path: Path) -> None:
    path = tmp_path / "bars.aedat4"
    write_aedat4(path, bars, SENSOR)
    sensor, chunks = read_aedat4_chunks(path, CHUNK_US)
    with chunks:
        assert sensor == SENSOR
        assert_chunks(list(chunks), bars)
    sensor, chunks = read_chunks(path, CHUNK_US)
    with chunks:
        assert len(next(chunks)) > 0
    # It is closed before its end.
    assert list(chunks) == []


def test_npz(bars: EventBatch, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "bars.npz", bars)
    for read in (read_npz_chunks, read_chunks):
        sensor, chunks = read(path, CHUNK_US)
        assert sensor == SENSOR
        assert_chunks(list(chunks), bars)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t": None}, "lacks 't'"),
        ({"width": None}, "lacks 'width'"),
        ({"width": 0}, "'width' is not a size"),
        ({"height": np.array([48, 48])}, "'height' is not a size"),
        ({"t": np.array([2.0, 3.0])}, "'t' is of float64, not of integers"),
        ({"t": np.array([3, 2])}, "earlier than"),
        ({"t": np.array([1, 2, 3])}, "equal length"),
        ({"x": np.array([-1, 0])}, "'x' holds values that are not between 0 and 65535"),
        ({"x": np.array([64, 0])}, "outside the 64x48 sensor"),
        ({"p": np.array([-1, 1])}, "'p' holds values"),
        ({"p": np.array([2, 1])}, "neither 0"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    two = np.array([0, 1])
    fields: dict[str, Any] = {"t": two, "x": two, "y": two, "p": two, "width": 64, "height": 48, **changes}
    path = tmp_path / "events.npz"
    np.savez(path, **{name: value for name, value in fields.items() if value is not None})
    with pytest.raises(RecordingError, match=message):
        read_npz_chunks(path, CHUNK_US)


@pytest.mark.parametrize("kind", ["empty", "text", "single array", "cut npz", "cut aedat4", "folder", "absent"])
def test_files_that_are_no_recordings(bars: EventBatch, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("not a recording\n")
        case "single array":
            with path.open("wb") as file:
                np.save(file, bars.t)
        case "cut npz":
            path.write_bytes(write_npz(tmp_path / "whole.npz", bars).read_bytes()[:1000])
        case "cut aedat4":
            whole = tmp_path / "whole.aedat4"
            write_aedat4(whole, bars, SENSOR)
            path.write_bytes(whole.read_bytes()[:200])
        case "folder":
            path.mkdir()
    with pytest.raises(RecordingError):
        list(read_chunks(path, CHUNK_US)[1])
    if kind == "single array":
        with pytest.raises(RecordingError, match="single NumPy array"):
            read_npz_chunks(path, CHUNK_US)


@pytest.mark.parametrize(
    ("name", "count", "size"),
    [
        ("dvxplorer_320x240_0.6s.aedat4", 111_954, SensorSize(320, 240)),
        ("davis346_lab_0.13s.aedat4", 117_667, SensorSize(346, 260)),
    ],
)
def test_real_recordings(recordings: Path, name: str, count: int, size: SensorSize) -> None:
    sensor, chunks = read_aedat4_chunks(recordings / name, 33_333)
    batches = list(chunks)
    assert sensor == size
    assert sum(map(len, batches)) == count
    assert_chunks(batches, EventBatch.concatenate(batches), 33_333)
