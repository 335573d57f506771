"""The benchmarks of load and soak see what they are to see."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load import STEPS, Conditions, most_streams, run_trial, summarise
from benchmarks.load_clients import Report
from benchmarks.many_streams import make_plans
from benchmarks.soak import MODELS, VISITS, SoakError, fit, learn, sample, server_process
from models.events import SensorSize
from tests.service.harness import running_server

SMALL = SensorSize(64, 48)
CONDITIONS = Conditions("edge-s", 20.0, 1.0, "0", "0", 2)


def test_paced_streams_are_answered_and_counted() -> None:
    with running_server(max_sessions=3) as url:
        found = run_trial(url, 3, SMALL, CONDITIONS)
        # One more than there is room for.
        crowded = run_trial(url, 4, SMALL, CONDITIONS)
    assert (found["answered"], found["lost"], found["repeated"], found["refused"]) == (60, 0, 0, {})
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"] <= found["latency_ms"]["max"]
    assert found["server"]["cores_used"] > 0
    assert found["client"]["cpu_share"] > 0
    assert (crowded["answered"], crowded["lost"]) == (60, 0)
    assert sum(crowded["refused"].values()) == 1
    assert set(crowded["refused"]) <= {"429", "4429"}
    assert not crowded["keeps_up"]


@given(st.integers(0, max(STEPS) + 5))
def test_the_most_streams_are_found(limit: int) -> None:
    tried: list[int] = []

    def attempt(streams: int) -> bool:
        tried.append(streams)
        return streams <= limit

    assert most_streams(attempt, STEPS) == min(limit, max(STEPS))
    assert len(tried) == len(set(tried))


@pytest.mark.parametrize(
    ("report", "keeps_up", "limited"),
    [
        (Report([0.02] * 100, [0.001] * 100, 100, cpu_share=0.2), True, False),
        (Report([0.02] * 90 + [0.2] * 10, [0.001] * 100, 100, cpu_share=0.2), False, False),
        (Report([0.02] * 99, [0.001] * 100, 99, lost=1, cpu_share=0.2), False, False),
        (Report([0.02] * 100, [0.001] * 100, 100, refused={"429": 1}, cpu_share=0.2), False, False),
        (Report([0.02] * 100, [0.001] * 100, 100, cpu_share=0.9), True, True),
        (Report([0.02] * 100, [0.001] * 90 + [0.05] * 10, 100, cpu_share=0.2), True, True),
    ],
)
def test_a_trial_is_judged(report: Report, keeps_up: bool, limited: bool) -> None:
    found = summarise([report], CONDITIONS)
    assert (found["keeps_up"], found["client_limited"]) == (keeps_up, limited)


def test_what_grows_is_told_from_what_is_flat() -> None:
    rng = np.random.default_rng(7)
    times = np.arange(0, 3600, 9.0)
    noise = rng.normal(0, 5, len(times))
    flat, growing, little = fit(times, 600 + noise), fit(times, 600 + times / 60 + noise), fit(times, times / 3600)
    assert flat.low < 0 < flat.high
    assert flat.is_flat(10)
    assert growing.low < 60 < growing.high
    assert not growing.is_flat(10)
    assert little.growth == pytest.approx(1, abs=0.01)
    assert little.is_flat(2)
    assert not little.is_flat(0.5)
    with pytest.raises(SoakError):
        fit([1.0, 2.0], [1.0, 1.0])


def test_every_kind_of_visit_checks_its_answers() -> None:
    [known, other] = learn(make_plans(2, MODELS[:1], [SMALL]))
    wrong = type(known)(known.plan, other.digests)
    assert all(a != b for a, b in pairwise(known.digests))
    with running_server(idle_seconds=1, reap_seconds=0.1) as url:
        for visit in VISITS:
            assert visit(url, known, random.Random(1)) > 0
            with pytest.raises(SoakError, match="otherwise than alone"):
                visit(url, wrong, random.Random(1))
        held = sample(url, server_process())
    assert held["threads"] > 1
    assert held["open_fds"] > 5
