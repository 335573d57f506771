"""Clocks of few bits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import TimeOrderError
from service.streaming.windowing.clock import Clock

SPAN = 256


def unwrapped(clock: Clock, raw: list[int], cuts: list[int]) -> list[int]:
    edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    found: list[int] = []
    for a, b in itertools.pairwise(edges):
        t, clock = clock.unwrap(np.array(raw[a:b], np.int64))
        found += t.tolist()
    return found


CUTS = st.lists(st.integers(0, 60), max_size=6)


@settings(deadline=None)
@given(st.integers(0, SPAN - 1), st.lists(st.integers(0, SPAN // 2 - 1), max_size=60), CUTS)
def test_overflows_are_undone(first: int, steps: list[int], cuts: list[int]) -> None:
    true = [first, *np.cumsum([first, *steps])[1:].tolist()]
    assert unwrapped(Clock(8, late=False), [t % SPAN for t in true], cuts) == true


@settings(deadline=None)
@given(
    st.integers(0, SPAN - 1),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, SPAN // 4)), min_size=1, max_size=60),
    CUTS,
)
def test_events_may_come_late_across_an_overflow(first: int, moves: list[tuple[int, int]], cuts: list[int]) -> None:
    latest, true = first, [first]
    for step, late in moves:
        latest += step
        true.append(latest - late)
    assert unwrapped(Clock(8, late=True), [t % SPAN for t in true], cuts) == true


@settings(deadline=None)
@given(st.lists(st.integers(0, SPAN - 1), max_size=60), CUTS, st.booleans())
def test_how_times_are_cut_does_not_matter(raw: list[int], cuts: list[int], late: bool) -> None:
    once = unwrapped(Clock(8, late=late), raw, [])
    assert unwrapped(Clock(8, late=late), raw, cuts) == once
    assert all(t % SPAN == told for t, told in zip(once, raw, strict=True))
    assert min(once, default=0) >= (-SPAN if late else 0)


def test_the_clock_of_a_camera() -> None:
    clock = Clock(32, late=False)
    t, clock = clock.unwrap(np.array([4_294_967_290, 4_294_967_295, 3, 3], np.int64))
    assert t.tolist() == [4_294_967_290, 4_294_967_295, 4_294_967_299, 4_294_967_299]
    t, clock = clock.unwrap(np.array([4_000_000_000, 5], np.int64))
    assert t.tolist() == [8_294_967_296, 8_589_934_597]
    assert (clock.turns, clock.last) == (2, 5)


def test_exactly_half_the_range_back_is_no_overflow() -> None:
    assert unwrapped(Clock(8, late=False), [200, 72], []) == [200, 72]
    assert unwrapped(Clock(8, late=False), [200, 71], []) == [200, 327]


def test_three_quarters_forward_are_an_event_from_before_the_overflow() -> None:
    assert unwrapped(Clock(8, late=True), [250, 5, 197, 6], []) == [250, 261, 197, 262]
    assert unwrapped(Clock(8, late=True), [250, 5, 196], []) == [250, 261, 452]
    assert unwrapped(Clock(8, late=False), [250, 5, 197], []) == [250, 261, 453]
    assert unwrapped(Clock(8, late=True), [5, 250, 6], []) == [5, -6, 6]


def test_times_that_do_not_fit() -> None:
    for wrong in (-1, 256, 2**40):
        with pytest.raises(TimeOrderError) as caught:
            Clock(8, late=True).unwrap(np.array([3, wrong], np.int64))
        assert caught.value.errors[0].field == "t"
    _, clock = Clock(52, late=False).unwrap(np.array([2**52 - 1, 0, 2**52 - 1], np.int64))
    with pytest.raises(TimeOrderError):
        clock.unwrap(np.array([0], np.int64))


def test_a_clock_that_runs_back_for_long_does_not_break() -> None:
    clock = Clock(52, late=True)
    for _ in range(20):
        t, clock = clock.unwrap(np.array([2**52 - 1, 2**51, 0] * 1000, np.int64))
        assert t.min() >= -(2**52)
