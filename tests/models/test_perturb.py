"""Perturbations: order, sensor, seed and identity for whatever events, and numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.emulator import EmulatorConfig, emulate, initial
from models.events import EventBatch, SensorSize
from models.training import perturb

SENSOR = SensorSize(23, 17)
START, END = 1_000, 34_333
HOT_RATE = 2_000.0

Change = Callable[[EventBatch, float, int], EventBatch]


def hot(events: EventBatch, share: float, seed: int) -> EventBatch:
    pixels = perturb.choose_hot_pixels(SENSOR, share, seed)
    return perturb.add_hot_pixels(events, SENSOR, START, END, pixels, HOT_RATE, (seed, 1))


CHANGES: dict[str, Change] = {
    "noise": lambda events, s, seed: perturb.add_noise(events, SENSOR, START, END, 100 * s, seed),
    "dropped": perturb.drop_events,
    "hot": hot,
    "flipped": perturb.flip_polarity,
}
FRAME_CHANGES = {"gaussian": perturb.gaussian_noise, "salt": perturb.salt_and_pepper}


def window(n: int, seed: int) -> EventBatch:
    rng = np.random.default_rng(seed)
    return EventBatch(
        np.sort(rng.integers(START + 1, END + 1, n)),
        rng.integers(0, SENSOR.width, n).astype(np.uint16),
        rng.integers(0, SENSOR.height, n).astype(np.uint16),
        rng.integers(0, 2, n).astype(np.uint8),
    )


def columns(events: EventBatch) -> list[np.ndarray]:
    return [events.t, events.x, events.y, events.p]


def assert_same(first: EventBatch, second: EventBatch) -> None:
    for a, b in zip(columns(first), columns(second), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


@pytest.mark.parametrize("name", CHANGES)
@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 200), strength=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_events_stay_ordered_inside_and_what_went_in_is_left_alone(
    name: str, n: int, strength: float, seed: int
) -> None:
    events = window(n, seed)
    before = [column.copy() for column in columns(events)]
    changed = CHANGES[name](events, strength, seed)
    assert (np.diff(changed.t) >= 0).all()
    assert ((changed.t > START) & (changed.t <= END)).all()
    assert (changed.x < SENSOR.width).all()
    assert (changed.y < SENSOR.height).all()
    assert set(np.unique(changed.p)) <= {0, 1}
    for now, then in zip(columns(events), before, strict=True):
        np.testing.assert_array_equal(now, then)
    for column, given_column in zip(columns(changed), columns(events), strict=True):
        assert column.dtype == given_column.dtype
    assert_same(changed, CHANGES[name](events, strength, seed))


@pytest.mark.parametrize("name", CHANGES)
@settings(max_examples=20, deadline=None)
@given(n=st.integers(0, 100), seed=st.integers(0, 1000))
def test_strength_zero_changes_no_event(name: str, n: int, seed: int) -> None:
    events = window(n, seed)
    assert_same(CHANGES[name](events, 0.0, seed), events)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 200), st.integers(0, 1000))
def test_everything_can_be_dropped_and_flipping_all_twice_is_nothing(n: int, seed: int) -> None:
    events = window(n, seed)
    assert len(perturb.drop_events(events, 1.0, seed)) == 0
    assert_same(perturb.flip_polarity(perturb.flip_polarity(events, 1.0, seed), 1.0, seed + 1), events)


def test_rates_and_shares_are_what_they_say() -> None:
    events = window(20_000, 0)
    pixels = SENSOR.width * SENSOR.height
    seconds = (END - START) * 1e-6
    noise = perturb.add_noise(EventBatch.empty(), SENSOR, START, END, 500.0, 1)
    assert len(noise) == pytest.approx(500 * seconds * pixels, rel=0.05)
    assert noise.p.mean() == pytest.approx(0.5, abs=0.05)
    assert len(perturb.drop_events(events, 0.3, 1)) == pytest.approx(14_000, rel=0.02)
    assert (perturb.flip_polarity(events, 0.2, 1).p != events.p).mean() == pytest.approx(0.2, abs=0.01)
    large = SensorSize(346, 260)
    assert len(perturb.choose_hot_pixels(large, 0.05, 3)) == pytest.approx(0.05 * 346 * 260, rel=0.05)


def test_hot_pixels_stay_the_same_grow_with_the_share_and_fire_on() -> None:
    few, more = (perturb.choose_hot_pixels(SENSOR, share, 5) for share in (0.05, 0.2))
    assert set(few) < set(more)
    added = [perturb.add_hot_pixels(EventBatch.empty(), SENSOR, START, END, few, HOT_RATE, (5, k)) for k in range(2)]
    for events in added:
        assert set(events.y.astype(int) * SENSOR.width + events.x) == set(few)
        assert (events.p == 1).all()
        assert len(events) == pytest.approx(HOT_RATE * (END - START) * 1e-6 * len(few), rel=0.15)
    assert not np.array_equal(added[0].t[:5], added[1].t[:5]), "each window has draws of its own"


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: perturb.drop_events(EventBatch.empty(), 1.5, 0), "share must be within"),
        (lambda: perturb.flip_polarity(EventBatch.empty(), -0.1, 0), "share must be within"),
        (lambda: perturb.add_noise(EventBatch.empty(), SENSOR, 0, 1, -1.0, 0), "rate must not be negative"),
        (lambda: perturb.add_noise(EventBatch.empty(), SENSOR, 5, 1, 1.0, 0), "before its start"),
        (
            lambda: perturb.add_hot_pixels(EventBatch.empty(), SENSOR, 0, 1, np.array([23 * 17]), 1.0, 0),
            "outside the 23x17 sensor",
        ),
        (lambda: perturb.low_light(EmulatorConfig(), 0.0), "gain must be above 0"),
        (lambda: perturb.dim(np.zeros((2, 2, 3), np.uint8), -1.0), "gain must not be negative"),
        (lambda: perturb.gaussian_noise(np.zeros((2, 2, 3), np.uint8), -1.0, 0), "sigma must not be negative"),
    ],
)
def test_impossible_strengths_are_refused(act: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        act()


def test_an_unperturbed_sensor_is_the_nominal_one() -> None:
    nominal = EmulatorConfig()
    assert perturb.scale_contrast(nominal, 1.0) == nominal
    assert perturb.spread_thresholds(nominal, nominal.threshold_sigma) == nominal
    assert perturb.low_light(nominal, 1.0) == nominal
    assert perturb.slow_pixels(nominal, nominal.refractory_us) == nominal
    assert perturb.scale_contrast(nominal, 0.5).contrast_off == 0.1
    assert perturb.slow_pixels(nominal, 700).refractory_us == 700


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 1), st.integers(0, 1000))
def test_low_light_makes_the_events_of_dimmed_frames(gain: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (rng.random((9, 13)) for _ in range(2))
    config = EmulatorConfig(noise_rate_hz=0.0, threshold_sigma=0.0)
    dark = perturb.low_light(config, gain)
    expected, _ = emulate(initial(first * gain, config), second * gain, 10_000, config)
    events, _ = emulate(initial(first, dark), second, 10_000, dark)
    # A level may stand on a threshold to within rounding; that is an event more or less.
    assert abs(len(events) - len(expected)) <= 2
    if len(events) == len(expected):
        np.testing.assert_allclose(events.t, expected.t, atol=2)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(FRAME_CHANGES)), st.floats(0, 1), st.integers(0, 1000))
def test_frames_keep_shape_range_and_seed(name: str, strength: float, seed: int) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    before = frame.copy()
    changed = FRAME_CHANGES[name](frame, strength, seed)
    assert changed.shape == frame.shape
    assert changed.dtype == np.uint8
    np.testing.assert_array_equal(frame, before)
    np.testing.assert_array_equal(changed, FRAME_CHANGES[name](frame, strength, seed))
    np.testing.assert_array_equal(FRAME_CHANGES[name](frame, 0.0, seed), frame)
    np.testing.assert_array_equal(perturb.dim(frame, 1.0), frame)
    assert (perturb.dim(frame, strength) <= frame).all()


def test_salt_and_pepper_take_whole_pixels_half_and_half() -> None:
    frame = np.full((200, 200, 3), 90, np.uint8)
    changed = perturb.salt_and_pepper(frame, 0.2, 0)
    assert set(np.unique(changed)) == {0, 90, 255}
    hit = (changed != 90).any(-1)
    assert (changed[hit] == changed[hit][:, :1]).all()
    assert hit.mean() == pytest.approx(0.2, abs=0.02)
    assert (changed[hit] == 255).mean() == pytest.approx(0.5, abs=0.05)
