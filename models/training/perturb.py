"""Perturbed events and frames, for measuring what a network still sees: pure functions, every draw from a given seed.

Three places where a sensor can go wrong:

- between sensor and network, on the events of a window: :func:`add_noise`, :func:`drop_events`,
  :func:`add_hot_pixels`, :func:`flip_polarity`;
- in the pixels, by emulating the drive again with other settings: :func:`scale_contrast`, :func:`spread_thresholds`,
  :func:`low_light`, :func:`slow_pixels`;
- in a frame, for networks that see pictures: :func:`gaussian_noise`, :func:`salt_and_pepper`, :func:`dim`.

At strength zero (a share or rate of 0, a scale or gain of 1) each gives back what it was given. Events that come in
ordered by time go out ordered by time.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.emulator import EmulatorConfig
from models.events import EventBatch, SensorSize

Seed = int | tuple[int, ...]
"""What NumPy makes a generator from; give every window one of its own, such as ``(seed, number)``."""

Picture = NDArray[np.uint8]


def add_noise(
    events: EventBatch, sensor: SensorSize, start_us: int, end_us: int, rate_hz: float, seed: Seed
) -> EventBatch:
    """Add background activity: independent events all over the sensor, half of them ON.

    Parameters
    ----------
    events : EventBatch
        The events of (start_us, end_us], ordered by time.
    sensor : SensorSize
    start_us, end_us : int
        The window in µs, open at its start as the emulator's intervals are.
    rate_hz : float
        Mean number of added events of a pixel in a second (Poisson).
    seed : int or tuple of int

    Returns
    -------
    EventBatch

    Raises
    ------
    ValueError
        If the rate is negative, or the window ends before it starts.
    """
    pixels = np.arange(sensor.width * sensor.height)
    rng = np.random.default_rng(seed)
    extra = _poisson_events(pixels, sensor, start_us, end_us, rate_hz, rng)
    return _merge(events, replace(extra, p=rng.integers(0, 2, len(extra), dtype=np.uint8)))


def drop_events(events: EventBatch, share: float, seed: Seed) -> EventBatch:
    """Lose each event with probability ``share``.

    Raises
    ------
    ValueError
        If ``share`` is outside [0, 1].
    """
    _check_share(share)
    kept = np.random.default_rng(seed).random(len(events)) >= share
    return EventBatch(events.t[kept], events.x[kept], events.y[kept], events.p[kept])


def choose_hot_pixels(sensor: SensorSize, share: float, seed: Seed) -> NDArray[np.int64]:
    """Flat indexes (y · width + x) of the pixels that are hot, in ascending order: the same for a whole recording.

    A pixel that is hot at one share is hot at every larger one.

    Raises
    ------
    ValueError
        If ``share`` is outside [0, 1].
    """
    _check_share(share)
    draws = np.random.default_rng(seed).random(sensor.width * sensor.height)
    return np.flatnonzero(draws < share).astype(np.int64)


def add_hot_pixels(
    events: EventBatch,
    sensor: SensorSize,
    start_us: int,
    end_us: int,
    pixels: NDArray[np.int64],
    rate_hz: float,
    seed: Seed,
) -> EventBatch:
    """Add the ON events of pixels that fire by themselves, as leaky ones do (Nozaki and Delbruck, TED 2017).

    Parameters
    ----------
    events : EventBatch
        The events of (start_us, end_us], ordered by time.
    sensor : SensorSize
    start_us, end_us : int
        The window in µs, open at its start.
    pixels : int64 array
        As :func:`choose_hot_pixels` gives them.
    rate_hz : float
        Mean number of added events of each of them in a second (Poisson).
    seed : int or tuple of int

    Raises
    ------
    ValueError
        If the rate is negative, the window ends before it starts, or a pixel lies outside the sensor.
    """
    if len(pixels) and not 0 <= int(pixels.min()) <= int(pixels.max()) < sensor.width * sensor.height:
        raise ValueError(f"a hot pixel lies outside the {sensor} sensor")
    return _merge(events, _poisson_events(pixels, sensor, start_us, end_us, rate_hz, np.random.default_rng(seed)))


def flip_polarity(events: EventBatch, share: float, seed: Seed) -> EventBatch:
    """Turn ON into OFF and OFF into ON, each event with probability ``share``.

    Raises
    ------
    ValueError
        If ``share`` is outside [0, 1].
    """
    _check_share(share)
    flipped = np.random.default_rng(seed).random(len(events)) < share
    return replace(events, p=events.p ^ flipped.astype(np.uint8))


def scale_contrast(config: EmulatorConfig, scale: float) -> EmulatorConfig:
    """A sensor whose thresholds are all ``scale`` times the nominal: below 1 it is more sensitive.

    The spread over the pixels stays as it is.
    """
    return replace(config, contrast_on=config.contrast_on * scale, contrast_off=config.contrast_off * scale)


def spread_thresholds(config: EmulatorConfig, sigma: float) -> EmulatorConfig:
    """A sensor whose thresholds differ from pixel to pixel by ``sigma``, in natural-log units."""
    return replace(config, threshold_sigma=sigma)


def low_light(config: EmulatorConfig, gain: float) -> EmulatorConfig:
    """A sensor that looks at ``gain`` times the light, with 1 / ``gain`` times the background activity.

    No frame needs to be dimmed, so that nothing is lost to its 8 bits: as ln(gain · I + dark) is
    ln(I + dark / gain) + ln(gain), dimming makes the very events that a ``dark_level`` of ``dark / gain`` does. That
    the noise grows as the inverse of the light is an assumption; v2e (Hu et al., CVPRW 2021) too has more in the dark.

    Raises
    ------
    ValueError
        If ``gain`` is not above 0.
    """
    if gain <= 0:
        raise ValueError(f"gain must be above 0, got {gain}")
    return replace(config, dark_level=config.dark_level / gain, noise_rate_hz=config.noise_rate_hz / gain)


def slow_pixels(config: EmulatorConfig, refractory_us: int) -> EmulatorConfig:
    """A sensor whose pixels are blind for ``refractory_us`` after each event."""
    return replace(config, refractory_us=refractory_us)


def gaussian_noise(frame: Picture, sigma: float, seed: Seed) -> Picture:
    """Add normal noise of ``sigma`` of full scale to every value of an uint8 frame (H, W, 3), clipped to its range.

    Raises
    ------
    ValueError
        If ``sigma`` is negative.
    """
    if sigma < 0:
        raise ValueError(f"sigma must not be negative, got {sigma}")
    noise = np.random.default_rng(seed).standard_normal(frame.shape, dtype=np.float32) * np.float32(255 * sigma)
    return _to_uint8(frame + noise)


def salt_and_pepper(frame: Picture, share: float, seed: Seed) -> Picture:
    """Make a ``share`` of the pixels of an uint8 frame (H, W, 3) black or white, half of them each.

    Raises
    ------
    ValueError
        If ``share`` is outside [0, 1].
    """
    _check_share(share)
    rng = np.random.default_rng(seed)
    hit = rng.random(frame.shape[:2]) < share
    grain = np.where(rng.random(frame.shape[:2]) < 0.5, np.uint8(0), np.uint8(255))
    return np.where(hit[..., None], grain[..., None], frame)


def dim(frame: Picture, gain: float) -> Picture:
    """An uint8 frame at ``gain`` times its brightness, rounded to 8 bits, as a camera without gain control sees it.

    Raises
    ------
    ValueError
        If ``gain`` is negative.
    """
    if gain < 0:
        raise ValueError(f"gain must not be negative, got {gain}")
    return _to_uint8(frame * np.float32(gain))


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"a share must be within [0, 1], got {share}")


def _poisson_events(
    pixels: NDArray[np.int64], sensor: SensorSize, start_us: int, end_us: int, rate_hz: float, rng: np.random.Generator
) -> EventBatch:
    """ON events of some pixels, in no order of time."""
    if rate_hz < 0:
        raise ValueError(f"a rate must not be negative, got {rate_hz} Hz")
    if end_us < start_us:
        raise ValueError(f"the window ends at {end_us} µs, before its start at {start_us} µs")
    n = int(rng.poisson(rate_hz * (end_us - start_us) * 1e-6 * len(pixels)))
    if n == 0:
        return EventBatch.empty()
    t = rng.integers(start_us + 1, end_us + 1, n)
    y, x = np.divmod(pixels[rng.integers(0, len(pixels), n)], sensor.width)
    return EventBatch(t, x.astype(np.uint16), y.astype(np.uint16), np.ones(n, np.uint8))


def _merge(events: EventBatch, extra: EventBatch) -> EventBatch:
    whole = EventBatch.concatenate([events, extra])
    order = np.argsort(whole.t, kind="stable")
    return EventBatch(whole.t[order], whole.x[order], whole.y[order], whole.p[order])


def _to_uint8(values: NDArray[np.float32]) -> Picture:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
