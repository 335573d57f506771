"""The reorder buffer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.events import EventBatch
from service.errors import WindowOverflowError
from service.streaming.windowing.reorder import Reorder
from tests.service.harness import make_events, split
from tests.service.windowing.streams import Row, at, rows_of

ROWS = st.lists(st.integers(0, 120), min_size=1, max_size=60).map(
    lambda found: [(t, k, 0, 0) for k, t in enumerate(found)]
)


def expected(rows: list[Row], tolerance_us: int, floor: int) -> tuple[list[Row], int]:
    """What is left in order, and how many are late, one event after the other."""
    latest, kept = 0, []
    for row in rows:
        if row[0] >= max(floor, latest - tolerance_us):
            kept.append(row)
        latest = max(latest, row[0])
    return sorted(kept, key=lambda row: row[0]), len(rows) - len(kept)


@settings(deadline=None)
@given(ROWS, st.integers(1, 130), st.lists(st.integers(0, 60), max_size=8), st.integers(0, 40))
def test_it_sorts_and_counts_what_is_late(rows: list[Row], tolerance_us: int, cuts: list[int], floor: int) -> None:
    buffer = Reorder(tolerance_us, 1000)
    _, buffer = buffer.advance(floor)
    found: list[Row] = []
    late = 0
    for part in split(make_events(*rows), [min(cut, len(rows)) for cut in cuts]):
        if not len(part):
            continue
        release, buffer = buffer.push(part)
        found += rows_of(release.events)
        late += int(release.late[-1])
        assert buffer.final >= int(part.t.max()) - tolerance_us
        assert all(row[0] < buffer.final for row in found)
        assert all(part.t[0] >= buffer.final for part in buffer.held)
    rest, buffer = buffer.drain()
    assert (found + list(rows_of(rest)), late) == expected(rows, tolerance_us, floor)
    assert buffer.nbytes == 0


def test_an_event_waits_until_none_can_come_before_it() -> None:
    release, buffer = Reorder(10, 100).push(at(20, 15, 25))
    assert release.events.t.tolist() == []
    release, buffer = buffer.push(at(26))
    assert release.events.t.tolist() == [15]
    release, buffer = buffer.push(at(16, 15))
    assert release.late.tolist() == [0, 1]
    assert buffer.joined().t.tolist() == [16, 20, 25, 26]


def test_events_of_equal_time_stay_as_they_came() -> None:
    _, buffer = Reorder(10, 100).push(make_events((20, 0, 0, 0), (15, 1, 0, 0), (20, 2, 0, 0)))
    _, buffer = buffer.push(make_events((20, 3, 0, 0), (15, 4, 0, 0)))
    events, _ = buffer.drain()
    assert events.x.tolist() == [1, 4, 0, 2, 3]


def test_an_advance_releases_what_is_before_it() -> None:
    _, buffer = Reorder(100, 100).push(at(20, 15, 25))
    events, buffer = buffer.advance(20)
    assert events.t.tolist() == [15]
    release, buffer = buffer.push(at(19, 20))
    assert release.late.tolist() == [1, 1]
    assert buffer.joined().t.tolist() == [20, 20, 25]
    events, buffer = buffer.advance(7)
    assert (len(events), buffer.final) == (0, 20)


def test_it_holds_so_many_events_and_no_more() -> None:
    _, buffer = Reorder(100, 3).push(at(1, 2, 3))
    with pytest.raises(WindowOverflowError):
        buffer.push(at(4))
    release, buffer = buffer.push(at(500))
    assert len(release.events) == 3


def test_many_small_batches_are_kept_in_few_pieces() -> None:
    buffer = Reorder(2000, 10_000)
    rng = np.random.default_rng(0)
    released: list[EventBatch] = []
    for k in range(4000):
        t = 2000 + k + rng.integers(-1500, 1, rng.integers(1, 6))
        release, buffer = buffer.push(at(*t.tolist()))
        released.append(release.events)
        assert len(buffer.held) <= 15
        assert all(part.t.base is None or part.t.base.nbytes <= 2 * part.t.nbytes for part in buffer.held)
    t = EventBatch.concatenate(released).t
    assert (np.diff(t) >= 0).all()
    assert len(t) > 6000


def test_memory_of_released_events_is_let_go() -> None:
    _, buffer = Reorder(2000, 10_000).push(at(*range(1000)))
    for until_us in range(0, 1000, 7):
        _, buffer = buffer.advance(until_us)
        (part,) = buffer.held
        assert len(part) == 1000 - until_us
        assert part.t.base is None or part.t.base.nbytes <= 2 * part.t.nbytes
