"""Recordings with small damages: each is read or refused in one line, whatever its library does about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clients.errors import SourceError
from clients.sources import open_source
from models.events import EventBatch
from service.wire.aedat4 import write_aedat4
from tests.clients.scenes import SENSOR, moving_bars, write_npz
from tests.clients.test_sources import write_bag, write_ddd17, write_dsec, write_expelliarmus, write_video
from tests.service.mutations import mutants

MUTANTS = 12
WRITERS: dict[str, Callable[[Path, EventBatch], object]] = {
    "bars.aedat4": lambda path, bars: write_aedat4(path, bars, SENSOR),
    "evt2.raw": lambda path, bars: write_expelliarmus(path, bars, "evt2"),
    "evt3.raw": lambda path, bars: write_expelliarmus(path, bars, "evt3"),
    "bars.dat": lambda path, bars: write_expelliarmus(path, bars, "dat"),
    "bars.npz": write_npz,
    "dsec.h5": write_dsec,
    "ddd17.hdf5": write_ddd17,
    "ros1.bag": lambda path, bars: write_bag(path, bars, version=1),
    "ros2.mcap": lambda path, bars: _only_file(write_bag(path.with_suffix(""), bars, version=2, mcap=True), path),
    "square.mp4": lambda path, _: write_video(path),
}


def _only_file(folder: Path, path: Path) -> None:
    """A bag of ROS 2 without its folder."""
    next(folder.glob("*.mcap")).rename(path)


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_damage_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path, moving_bars(duration_us=30_000, start_us=1_000))
    damaged = tmp_path / f"damaged_{name}"
    read, refused = 0, []
    for data in mutants([path.read_bytes()], MUTANTS, seed=11):
        damaged.write_bytes(data)
        try:
            with open_source(damaged, sensor=SENSOR) as source:
                sum(map(len, source))
            read += 1
        except SourceError as error:
            refused.append(error.message)
    assert all("\n" not in message and str(damaged) in message for message in refused)
    # Not every damage can be seen, nor does every one make a file useless.
    assert read < MUTANTS
