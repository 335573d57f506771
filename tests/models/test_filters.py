"""The noise filters: what each drops, held against plain Python and dv-processing, in C and in NumPy."""

from __future__ import annotations

import datetime
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.encoding import InputGrid, polarity_counts, polarity_counts_in_numpy
from models.errors import BackendUnavailableError, EncodingError, FilterError
from models.events import EventBatch, SensorSize
from models.filters import (
    NEVER,
    Backend,
    FilterConfig,
    FilterState,
    HotPixelConfig,
    Verdict,
    filter_events,
    hot_pixels,
    surface_shape,
)
from models.native import build, events

SENSOR = SensorSize(7, 5)
BACKENDS: list[Backend] = ["c", "numpy"]
ALL = FilterConfig(
    HotPixelConfig(learn_us=60, sigma=1.5, min_rate_hz=20_000), refractory_us=9, background_activity_us=15
)

Rows = list[tuple[int, int, int, int]]


def batch(rows: Rows) -> EventBatch:
    t, x, y, p = ([row[k] for row in rows] for k in range(4))
    return EventBatch(np.array(t, np.int64), np.array(x, np.uint16), np.array(y, np.uint16), np.array(p, np.uint8))


def rows_of(found: EventBatch) -> Rows:
    return list(zip(found.t.tolist(), found.x.tolist(), found.y.tolist(), found.p.tolist(), strict=True))


def reference(config: FilterConfig, sensor: SensorSize, rows: Rows) -> list[Verdict]:
    """One event after the other, as the filters are described."""
    since = rows[0][0] if rows else 0
    counts = {(x, y): 0 for x in range(sensor.width) for y in range(sensor.height)}
    hot: set[tuple[int, int]] | None = None
    passed: dict[tuple[int, int], int] = {}
    seen: dict[tuple[int, int], int] = {}
    verdicts = []
    for t, x, y, _ in rows:
        if config.hot_pixel is not None and hot is None:
            if t < since + config.hot_pixel.learn_us:
                counts[x, y] += 1
            else:
                mean = sum(counts.values()) / len(counts)
                spread = math.sqrt(sum((count - mean) ** 2 for count in counts.values()) / len(counts))
                usual = max(
                    mean + config.hot_pixel.sigma * spread,
                    config.hot_pixel.min_rate_hz * config.hot_pixel.learn_us / 1e6,
                )
                hot = {pixel for pixel, count in counts.items() if count > usual}
        if hot is not None and (x, y) in hot:
            verdicts.append(Verdict.HOT_PIXEL)
            continue
        if config.refractory_us:
            if (x, y) in passed and t - passed[x, y] < config.refractory_us:
                verdicts.append(Verdict.REFRACTORY)
                continue
            passed[x, y] = t
        if config.background_activity_us:
            near = [(x + i, y + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
            supported = any(pixel in seen and t - seen[pixel] < config.background_activity_us for pixel in near)
            seen[x, y] = t
            if not supported:
                verdicts.append(Verdict.BACKGROUND_ACTIVITY)
                continue
        verdicts.append(Verdict.KEPT)
    return verdicts


CONFIGS = st.builds(
    FilterConfig,
    st.none()
    | st.builds(
        HotPixelConfig,
        learn_us=st.integers(1, 120),
        sigma=st.sampled_from([0.0, 0.73, 1.9]),
        min_rate_hz=st.sampled_from([0.0, 31_000.0]),
    ),
    refractory_us=st.sampled_from([0, 1, 8, 30]),
    background_activity_us=st.sampled_from([0, 1, 12, 50]),
)


@st.composite
def streams(draw: st.DrawFn) -> Rows:
    """Events with many at the same pixels and times, and now and then a gap."""
    t = draw(st.sampled_from([0, 5, 2**40]))
    rows: Rows = []
    for _ in range(draw(st.integers(0, 60))):
        t += draw(st.sampled_from([0, 0, 1, 2, 3, 9, 40, 2**33]))
        x, y = draw(st.integers(0, SENSOR.width - 1)), draw(st.integers(0, SENSOR.height - 1))
        pixel = draw(st.sampled_from([(x, y), (2, 2), (3, 2), (SENSOR.width - 1, SENSOR.height - 1), (0, 0)]))
        rows.append((t, *pixel, draw(st.integers(0, 1))))
    return rows


def run(state: FilterState, rows: Rows, cuts: list[int], backend: Backend) -> tuple[Rows, list[int], FilterState]:
    """The events that pass, the verdicts, and the state, for a stream that is cut at these places."""
    kept: Rows = []
    verdicts: list[int] = []
    for begin, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        found = filter_events(state, batch(rows[begin:end]), backend=backend)
        state = found.state
        kept += rows_of(found.events)
        verdicts += found.verdicts.tolist()
    return kept, verdicts, state


def arrays(state: FilterState) -> dict[str, Any]:
    named = {name: getattr(state, name) for name in ("counts", "hot", "surface")}
    return {name: None if a is None else a.tolist() for name, a in named.items()}


@pytest.mark.parametrize("backend", BACKENDS)
@given(config=CONFIGS, rows=streams(), data=st.data())
@settings(max_examples=200, deadline=None)
def test_what_passes_is_what_plain_python_says_however_the_stream_is_cut(
    backend: Backend, config: FilterConfig, rows: Rows, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=6)))
    start = FilterState(config, SENSOR)
    kept, verdicts, state = run(start, rows, cuts, backend)
    assert verdicts == reference(config, SENSOR, rows)
    assert kept == [row for row, verdict in zip(rows, verdicts, strict=True) if verdict == Verdict.KEPT]
    _, _, whole = run(start, rows, [], backend)
    assert arrays(state) == arrays(whole)
    assert (state.latest, state.since) == (whole.latest, whole.since)


@given(config=CONFIGS, rows=streams())
@settings(max_examples=100, deadline=None)
def test_c_and_numpy_remember_the_same(config: FilterConfig, rows: Rows) -> None:
    states = [run(FilterState(config, SENSOR), rows, [], backend)[2] for backend in BACKENDS]
    assert arrays(states[0]) == arrays(states[1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("instructions", build.instructions_here())
def test_a_dense_stream_of_a_whole_sensor_gives_the_same_with_every_instruction_set(
    backend: Backend, instructions: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = events.EventLibrary(build.build(events.SOURCE, instructions, tmp_path, "the library"))
    monkeypatch.setattr("models.filters.event_library", lambda: library)
    rng = np.random.default_rng(3)
    sensor, n = SensorSize(64, 48), 20_000
    t = np.sort(rng.integers(0, 400_000, n))
    x, y, p = (rng.integers(0, most, n) for most in (64, 48, 2))
    x[::9], y[::9] = 63, 47
    dense = EventBatch(t, x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8))
    config = FilterConfig(HotPixelConfig(100_000), refractory_us=500, background_activity_us=2_000)
    found = filter_events(FilterState(config, sensor), dense, backend=backend)
    expected = reference(config, sensor, rows_of(dense))
    assert found.verdicts.tolist() == expected
    assert set(expected) == set(Verdict)


@pytest.mark.parametrize("backend", BACKENDS)
def test_background_activity_is_what_dv_processing_drops(backend: Backend) -> None:
    dv = pytest.importorskip("dv_processing")
    rng = np.random.default_rng(1)
    n, sensor = 20_000, SensorSize(40, 30)
    # Not before the duration: dv-processing takes a pixel that has never fired for one that did at time 0.
    t = np.sort(rng.integers(10_000, 3_000_000, n))
    x, y, p = (rng.integers(0, most, n) for most in (40, 30, 2))
    store = dv.EventStore()
    for row in zip(t.tolist(), x.tolist(), y.tolist(), p.tolist(), strict=True):
        store.push_back(*row[:3], bool(row[3]))
    theirs = dv.noise.BackgroundActivityNoiseFilter((40, 30), datetime.timedelta(microseconds=2_000))
    theirs.accept(store)
    expected = [(e.timestamp(), e.x(), e.y(), int(e.polarity())) for e in theirs.generateEvents()]
    noisy = EventBatch(t, x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8))
    ours = filter_events(FilterState(FilterConfig(background_activity_us=2_000), sensor), noisy, backend=backend)
    assert rows_of(ours.events) == expected
    assert 0 < len(expected) < n


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pixel_that_is_hot_in_the_warm_up_is_silent_from_its_end_on(backend: Backend) -> None:
    rng = np.random.default_rng(2)
    sensor = SensorSize(64, 48)
    noise = [(int(t), int(x), int(y), 1) for t, x, y in rng.integers(0, (2_000_000, 64, 48), (20_000, 3))]
    hot = [(t, 11, 7, 0) for t in range(0, 2_000_000, 1_000)]
    rows = sorted(noise + hot)
    found = filter_events(FilterState(FilterConfig(HotPixelConfig()), sensor), batch(rows), backend=backend)
    at = [row[0] for row in rows_of(found.events) if row[1:3] == (11, 7)]
    assert max(at) < rows[0][0] + 1_000_000
    assert found.state.hot is not None
    assert np.argwhere(found.state.hot).tolist() == [[7, 11]]
    assert {row[:3] for row in noise} - {row[:3] for row in rows_of(found.events)} <= {(t, 11, 7) for t, *_ in noise}


def test_in_a_scene_without_outliers_no_pixel_is_hot() -> None:
    assert not hot_pixels(np.zeros((48, 64), np.int64), HotPixelConfig()).any()
    assert not hot_pixels(np.full((48, 64), 10_000), HotPixelConfig()).any()
    few = np.zeros((48, 64), np.int64)
    few[3, 4] = 5
    assert not hot_pixels(few, HotPixelConfig()).any()


def test_a_state_does_not_change_when_events_are_filtered() -> None:
    rows = [(k, k % 7, k % 5, 1) for k in range(90)]
    state = filter_events(FilterState(ALL, SENSOR), batch(rows[:40])).state
    before = arrays(state)
    once, again = (filter_events(state, batch(rows[40:])) for _ in range(2))
    assert arrays(state) == before
    assert rows_of(once.events) == rows_of(again.events)
    assert arrays(once.state) == arrays(again.state)


def test_at_rest_nothing_is_remembered() -> None:
    state = filter_events(FilterState(ALL, SENSOR), batch([(5, 1, 1, 1), (90, 1, 2, 1)])).state
    assert state.nbytes == 8 * math.prod(surface_shape(SENSOR)) + 35
    rest = state.at_rest()
    assert (rest.nbytes, rest.latest, rest.since) == (0, NEVER, None)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([(5, 0, 0, 0), (4, 0, 0, 0)], "must not run back"),
        ([(1, 0, 0, 0)], "must not run back"),
        ([(9, 7, 0, 0)], "outside the 7x5 sensor"),
        ([(9, 0, 5, 0)], "outside the 7x5 sensor"),
    ],
)
def test_events_that_cannot_be_filtered(rows: Rows, why: str) -> None:
    state = filter_events(FilterState(ALL, SENSOR), batch([(2, 0, 0, 0)])).state
    with pytest.raises(FilterError, match=why):
        filter_events(state, batch(rows))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: HotPixelConfig(learn_us=0), "learn_us"),
        (lambda: HotPixelConfig(sigma=math.inf), "sigma"),
        (lambda: HotPixelConfig(min_rate_hz=-1), "min_rate_hz"),
        (lambda: FilterConfig(refractory_us=-1), "refractory_us"),
        (lambda: FilterConfig(background_activity_us=10**9), "background_activity_us"),
    ],
)
def test_settings_that_cannot_be(make: Any, why: str) -> None:
    with pytest.raises(FilterError, match=why):
        make()


@pytest.fixture
def without_compiler(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(events, "BESIDE", tmp_path / "none")
    events._load.cache_clear()
    yield
    events._load.cache_clear()


@pytest.mark.usefixtures("without_compiler")
def test_without_a_compiler_numpy_filters_and_counts() -> None:
    rows = [(k, k % 7, k % 5, 1) for k in range(90)]
    state = FilterState(replace(ALL, hot_pixel=None), SENSOR)
    assert filter_events(state, batch(rows)).verdicts.tolist() == reference(state.config, SENSOR, rows)
    with pytest.raises(BackendUnavailableError, match="cannot be built"):
        filter_events(state, batch(rows), backend="c")
    grid = InputGrid(SENSOR, 2)
    np.testing.assert_array_equal(
        polarity_counts(batch(rows), grid, 3), polarity_counts_in_numpy(batch(rows), grid, 3), strict=True
    )


@given(rows=streams(), factor=st.integers(1, 9), clip=st.integers(0, 4))
@settings(max_examples=100, deadline=None)
def test_counts_in_c_are_those_of_numpy(rows: Rows, factor: int, clip: int) -> None:
    grid = InputGrid(SENSOR, factor)
    found, expected = (count(batch(rows), grid, clip) for count in (polarity_counts, polarity_counts_in_numpy))
    np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize("factor", [3, 7, 185, 32768, 65535])
def test_every_coordinate_falls_into_its_cell(factor: int) -> None:
    sensor = SensorSize(65535, 1)
    x = np.arange(65535, dtype=np.uint16)
    row = EventBatch(np.zeros(len(x), np.int64), x, np.zeros_like(x), np.ones(len(x), np.uint8))
    grid = InputGrid(sensor, factor)
    np.testing.assert_array_equal(
        polarity_counts(row, grid, 10**6), polarity_counts_in_numpy(row, grid, 10**6), strict=True
    )


@pytest.mark.parametrize("count", [polarity_counts, polarity_counts_in_numpy])
def test_events_outside_the_sensor_are_not_counted(count: Any) -> None:
    for row in ((0, 7, 0, 0), (0, 0, 5, 1)):
        with pytest.raises(EncodingError, match="outside the 7x5 sensor"):
            count(batch([row]), InputGrid(SENSOR, 1), 3)
