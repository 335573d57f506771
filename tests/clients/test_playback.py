"""Playing a source: from where, how fast, how often."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from clients.errors import SourceError
from clients.sources import Source, at_pace, open_source, play
from models.events import EventBatch
from tests.clients.scenes import SENSOR, moving_bars, write_npz


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.time = 100.0
        self.slept = 0

    def now(self) -> float:
        """Seconds."""
        return self.time

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        assert seconds > 0
        self.slept += 1
        self.time += seconds


@pytest.fixture
def bars() -> EventBatch:
    return moving_bars(duration_us=100_000, start_us=7_000_000, step_us=20_000)


@pytest.fixture
def recording(bars: EventBatch, tmp_path: Path) -> Iterator[Source]:
    with open_source(write_npz(tmp_path / "bars.npz", bars)) as source:
        yield source


def times(batches: Iterator[EventBatch]) -> list[int]:
    return sorted({int(t) for batch in batches for t in batch.t})


def test_a_recording_plays_as_fast_as_it_is_asked_for(recording: Source, bars: EventBatch) -> None:
    chunks = list(play(recording, chunk_us=20_000))
    assert [int(chunk.t[0]) for chunk in chunks] == list(range(7_000_000, 7_100_000, 20_000))
    np.testing.assert_array_equal(EventBatch.concatenate(chunks).x, bars.x)


@pytest.mark.parametrize("speed", [0.5, 1.0, 4.0])
def test_a_recording_plays_at_a_pace(recording: Source, speed: float) -> None:
    clock = Clock()
    due = []
    for _ in play(recording, speed=speed, chunk_us=20_000, now=clock.now, sleep=clock.sleep):
        due.append(round(clock.time - 100.0, 6))  # noqa: PERF401 the clock moves with the loop
    assert due == [round(k * 0.02 / speed, 6) for k in range(1, 6)]


def test_who_is_late_is_not_made_later() -> None:
    clock = Clock()
    bars = moving_bars(duration_us=100_000, start_us=7_000_000, step_us=20_000)
    batches = [bars[slice(*np.searchsorted(bars.t, [t, t + 1]).tolist())] for t in (7_000_000, 7_020_000, 7_080_000)]
    found = []
    for batch in at_pace(iter(batches), 20_000, now=clock.now, sleep=clock.sleep):
        found.append((int(batch.t[0]), round(clock.time, 6)))
        clock.time += 0.03 if len(found) == 1 else 0
    # The second one was due while the first was being used.
    assert found == [(7_000_000, 100.02), (7_020_000, 100.05), (7_080_000, 100.1)]
    assert clock.slept == 2


def test_playing_begins_and_ends_where_it_is_told_to(recording: Source) -> None:
    assert times(play(recording, skip_us=20_001)) == [7_040_000, 7_060_000, 7_080_000]
    assert times(play(recording, skip_us=20_000, duration_us=40_000)) == [7_020_000, 7_040_000]
    assert times(play(recording, duration_us=1)) == [7_000_000]
    assert times(play(recording, skip_us=10**9)) == []


def test_rounds_follow_each_other_in_time(recording: Source, bars: EventBatch) -> None:
    found = EventBatch.concatenate(list(play(recording, loops=3)))
    assert len(found) == 3 * len(bars)
    assert (np.diff(found.t) >= 0).all()
    assert int(found.t[len(bars)]) == int(bars.t[-1]) + 1
    np.testing.assert_array_equal(found.x, np.tile(bars.x, 3))
    endless = play(recording, loops=None)
    assert len(list(islice(endless, 200))) == 200


def test_an_empty_recording_ends_however_often_it_is_played(tmp_path: Path) -> None:
    with open_source(write_npz(tmp_path / "none.npz", EventBatch.empty(), SENSOR)) as source:
        assert list(play(source, loops=None)) == []


@pytest.mark.parametrize(
    "wrong",
    [{"speed": 0}, {"speed": float("nan")}, {"skip_us": -1}, {"duration_us": 0}, {"loops": 0}, {"chunk_us": 0}],
)
def test_numbers_that_make_no_sense(recording: Source, wrong: dict[str, float]) -> None:
    with pytest.raises(SourceError):
        list(play(recording, **wrong))  # type: ignore[arg-type]


class Camera(Source):
    """A live source, of three packets."""

    format = "camera"
    live = True

    def _read(self) -> Iterator[EventBatch]:
        bars = moving_bars(duration_us=6_000, step_us=2_000)
        for first in range(0, len(bars), len(bars) // 3):
            yield bars[first : first + len(bars) // 3]
            yield EventBatch.empty()


def test_a_camera_keeps_its_own_pace() -> None:
    batches = list(play(Camera("camera", SENSOR), speed=0.001, loops=5, sleep=lambda _: pytest.fail("it waited")))
    assert [bool(len(batch)) for batch in batches] == [True, False] * 3
    ended = list(play(Camera("camera", SENSOR), duration_us=2_000))
    assert times(iter(ended)) == [5_000_000]
