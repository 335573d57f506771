"""Recordings that are written are read back, by this project and by the formats' own libraries."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from expelliarmus import Wizard

from clients.errors import OutputError
from clients.sources import open_source
from clients.writers import FORMATS, open_writer
from models.datasets import dsec
from models.events import EventBatch, SensorSize
from tests.clients.scenes import SENSOR, moving_bars

SUFFIXES = sorted(FORMATS)


def written(path: Path, events: EventBatch, sensor: SensorSize = SENSOR, pieces: int = 7) -> int:
    """Write events in pieces; what was taken off their times."""
    with open_writer(path, sensor) as writer:
        for first in range(0, len(events), len(events) // pieces + 1):
            writer.write(events[first : first + len(events) // pieces + 1])
            writer.write(EventBatch.empty())
        assert writer.events == len(events)
    return writer.base_us


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str) -> None:
    events, path = moving_bars(duration_us=50_000, start_us=3_000), tmp_path / f"bars{suffix}"
    assert written(path, events) == 0
    with open_source(path) as source:
        assert source.sensor == SENSOR
        found = EventBatch.concatenate(list(source))
    for name in ("t", "x", "y", "p"):
        np.testing.assert_array_equal(getattr(found, name), getattr(events, name), err_msg=name)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_times_since_1970_are_kept_or_counted_from_the_first(tmp_path: Path, suffix: str) -> None:
    start = 1_700_000_000_000_000
    events, path = moving_bars(duration_us=20_000, start_us=start), tmp_path / f"bars{suffix}"
    base = written(path, events)
    assert base == (start if suffix in (".raw", ".evt2.raw", ".dat") else 0)
    with open_source(path) as source:
        np.testing.assert_array_equal(EventBatch.concatenate(list(source)).t + base, events.t)


def test_other_readers_agree(tmp_path: Path) -> None:
    events = moving_bars(duration_us=50_000, start_us=3_000)
    for suffix, kind in ((".evt2.raw", "evt2"), (".dat", "dat")):
        written(tmp_path / f"bars{suffix}", events)
        theirs = Wizard(kind).read(tmp_path / f"bars{suffix}")
        for name in ("t", "x", "y", "p"):
            np.testing.assert_array_equal(theirs[name], getattr(events, name), err_msg=suffix)
    written(tmp_path / "bars.h5", events)
    with dsec.open_events(tmp_path / "bars.h5") as file:
        part = dsec.read_window(file, 20_000, 30_000)
    inside = slice(*np.searchsorted(events.t, (20_000, 30_000)).tolist())
    np.testing.assert_array_equal(part.t, events.t[inside])
    np.testing.assert_array_equal(part.x, events.x[inside])
    written(tmp_path / "bars.npz", events)
    with np.load(tmp_path / "bars.npz") as archive:
        assert sorted(archive.files) == ["height", "p", "t", "width", "x", "y"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_recording_of_nothing_is_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"none{suffix}"
    with open_writer(path, SENSOR) as writer:
        writer.close()
    if suffix == ".aedat4":
        return
    with open_source(path) as source:
        assert sum(map(len, source)) == 0


def test_what_cannot_be_written(tmp_path: Path) -> None:
    events = moving_bars(duration_us=20_000)
    with open_writer(tmp_path / "bars.npz", SENSOR) as writer:
        writer.write(events)
        with pytest.raises(OutputError, match="times go back"):
            writer.write(events)
    with open_writer(tmp_path / "bars.raw", SensorSize(10, 10)) as writer, pytest.raises(OutputError, match="outside"):
        writer.write(events)
    with pytest.raises(OutputError, match=r"should end in one of \.aedat4"):
        open_writer(tmp_path / "bars.txt", SENSOR)
    with pytest.raises(OutputError, match="cannot hold coordinates of a 4000x3000 sensor"):
        open_writer(tmp_path / "bars.raw", SensorSize(4000, 3000))
    for suffix in SUFFIXES:
        with (
            pytest.raises(OutputError, match="No such file"),
            open_writer(tmp_path / "none" / f"bars{suffix}", SENSOR) as writer,
        ):
            writer.write(events)


def test_the_index_of_dsec_is_that_of_its_documentation(tmp_path: Path) -> None:
    events = moving_bars(duration_us=50_000, start_us=3_000)
    written(tmp_path / "bars.h5", events)
    with h5py.File(tmp_path / "bars.h5") as file:
        t, index = file["events/t"][()], file["ms_to_idx"][()]
        assert int(file["t_offset"][()]) == 3_000
    for ms, first in enumerate(index.tolist()):
        assert t[first] >= ms * 1000
        assert first == 0 or t[first - 1] < ms * 1000
