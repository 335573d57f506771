"""Ways of doing the same take turns, and what is counted is what is meant to be."""

from __future__ import annotations

from benchmarks.turns import COLD_S, Effort, Turn, Way, plan, summary, take_turns

EFFORT = Effort(seconds=10.0, rounds=20, most=300, least=5)


def test_a_fast_way_is_called_as_often_as_asked_for() -> None:
    assert plan(0.001, EFFORT) == Turn(every=1, calls=15, cold=1)


def test_a_slower_way_fills_its_share_of_time() -> None:
    assert plan(0.1, EFFORT) == Turn(every=1, calls=5, cold=1)


def test_a_slow_way_takes_part_in_some_rounds_and_has_no_cold_call() -> None:
    assert plan(1.0, EFFORT) == Turn(every=2, calls=1, cold=0)


def test_the_slowest_way_has_the_fewest_calls_that_are_allowed() -> None:
    assert plan(60.0, EFFORT) == Turn(every=4, calls=1, cold=0)
    assert COLD_S < 1.0


def test_first_calls_of_a_turn_are_not_counted_and_each_goes_first_in_turn() -> None:
    order: list[str] = []

    def way(name: str, cold: float, warm: float) -> Way:
        def call(_: int) -> float:
            seconds = warm if order and order[-1] == name else cold
            order.append(name)
            return seconds

        return call

    found = take_turns({"a": way("a", 0.19, 0.01), "b": way("b", 0.18, 0.02)}, Effort(1.0, 4, 20, 2))
    assert set(found["a"]) == {0.01}
    assert set(found["b"]) == {0.02}
    assert len(found["a"]) == len(found["b"]) == 20


def test_percentiles_are_in_milliseconds() -> None:
    assert summary([0.001] * 99 + [0.1]) == {
        "calls": 100,
        "p50_ms": 1.0,
        "p99_ms": 1.99,
        "windows_per_second": round(100 / 0.199, 1),
    }
