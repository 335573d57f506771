"""The event emulator, against crossings worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.emulator import EmulatorConfig, emulate, initial, log_intensity
from models.errors import EmulatorError

QUIET = EmulatorConfig(contrast_on=0.2, contrast_off=0.25, threshold_sigma=0, noise_rate_hz=0, dark_level=0.02)


def grey(*levels: float) -> np.ndarray:
    """A one-row frame whose log intensities are these."""
    return (np.exp(np.array([levels], np.float32)) - QUIET.dark_level).astype(np.float32)


def test_each_threshold_crossed_on_the_way_is_an_event_at_its_time() -> None:
    state = initial(grey(-1.0, -1.0, -1.0), QUIET, t_us=1000)
    events, state = emulate(state, grey(-0.5, -1.0, -1.6), 11_000, QUIET)
    # Pixel 0 climbs 0.5 in 10 ms: ON after 0.2 and 0.4. Pixel 2 falls 0.6: OFF after 0.25 and 0.5.
    np.testing.assert_allclose(events.t, [5000, 5167, 9000, 9334], atol=1)
    assert events.x.tolist() == [0, 2, 0, 2]
    assert events.p.tolist() == [1, 0, 1, 0]
    np.testing.assert_allclose(state.reference, [[-0.6, -1.0, -1.5]], atol=1e-5)


def test_what_is_left_below_the_threshold_is_remembered() -> None:
    state = initial(grey(-1.0), QUIET)
    first, state = emulate(state, grey(-0.85), 1000, QUIET)
    second, state = emulate(state, grey(-0.75), 2000, QUIET)
    assert len(first) == 0
    np.testing.assert_allclose(second.t, [1500], atol=1)


def test_state_and_frame_are_left_as_they_were_and_the_same_input_gives_the_same_events() -> None:
    config = EmulatorConfig(noise_rate_hz=50)
    rng = np.random.default_rng(0)
    frames = [rng.random((20, 30), dtype=np.float32) for _ in range(2)]
    state = initial(frames[0], config, seed=3)
    copies = [a.copy() for a in (state.reference, state.log_intensity, state.last_event_us, frames[1])]
    first, _ = emulate(state, frames[1], 10_000, config)
    second, _ = emulate(state, frames[1], 10_000, config)
    for now, then in zip((state.reference, state.log_intensity, state.last_event_us, frames[1]), copies, strict=True):
        np.testing.assert_array_equal(now, then)
    for name in ("t", "x", "y", "p"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 20_000), st.floats(0, 100))
def test_events_are_ordered_inside_the_interval_and_the_sensor(seed: int, refractory_us: int, noise: float) -> None:
    config = EmulatorConfig(refractory_us=refractory_us, noise_rate_hz=noise)
    rng = np.random.default_rng(seed)
    state = initial(rng.random((9, 13)), config, t_us=500, seed=seed)
    for t in (7_500, 40_000):
        start = state.t_us
        events, state = emulate(state, rng.random((9, 13)), t, config)
        assert (np.diff(events.t) >= 0).all()
        assert len(events) == 0 or (events.t[0] > start and events.t[-1] <= t)
        assert len(events) == 0 or (events.x.max() < 13 and events.y.max() < 9)


def test_a_pixel_stays_silent_in_its_refractory_period() -> None:
    config = EmulatorConfig(threshold_sigma=0, noise_rate_hz=0, refractory_us=2500)
    state = initial(grey(-3.0), config)
    events, state = emulate(state, grey(-1.0), 10_000, config)
    # Ten crossings, 1 ms apart: every third survives.
    assert (np.diff(events.t) >= 2500).all()
    assert len(events) == 4


def test_noise_comes_at_its_rate() -> None:
    config = EmulatorConfig(noise_rate_hz=5)
    frame = np.full((100, 100), 0.5, np.float32)
    events, _ = emulate(initial(frame, config), frame, 1_000_000, config)
    assert len(events) == pytest.approx(50_000, rel=0.05)
    assert events.p.mean() == pytest.approx(0.5, abs=0.02)


def test_noise_differs_from_frame_to_frame() -> None:
    config = EmulatorConfig(noise_rate_hz=5)
    frame = np.full((50, 50), 0.5, np.float32)
    first, state = emulate(initial(frame, config), frame, 100_000, config)
    second, _ = emulate(state, frame, 200_000, config)
    assert not np.array_equal(first.t, second.t - 100_000)


@pytest.mark.parametrize(
    ("frame", "t_us", "message"),
    [
        (np.zeros((4, 4, 3)), 10, "must be grey"),
        (np.full((4, 4), np.nan), 10, "not finite"),
        (np.zeros((4, 5)), 10, "the frame is 5x4, the sensor is 4x4"),
        (np.zeros((4, 4)), 0, "is not after"),
    ],
)
def test_unusable_frames_are_refused(frame: np.ndarray, t_us: int, message: str) -> None:
    state = initial(np.zeros((4, 4)), QUIET)
    with pytest.raises(EmulatorError, match=message):
        emulate(state, frame, t_us, QUIET)


def test_unusable_settings_are_refused() -> None:
    with pytest.raises(EmulatorError, match="above 0"):
        EmulatorConfig(contrast_on=0)


def test_bytes_and_floats_mean_the_same() -> None:
    bytes_ = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_allclose(log_intensity(bytes_, 0.02), log_intensity(bytes_ / 255, 0.02), atol=1e-5)
