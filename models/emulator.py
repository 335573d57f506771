"""Frames to events: log-intensity contrast thresholds, as an event pixel applies them.

A pixel remembers the log intensity at its last event and fires ON or OFF each time the present one is a contrast
threshold above or below it (Lichtsteiner et al., JSSC 2008). Between two frames the log intensity is taken to be linear
in time, which gives every crossing an exact time stamp (ESIM, Rebecq et al., CoRL 2018). Thresholds differ from pixel
to pixel; background activity and a refractory period are modelled as in v2e (Hu et al., CVPRW 2021).

State goes in and comes out; nothing is mutated, and the same inputs give the same events.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.errors import EmulatorError
from models.events import EventBatch

FloatImage = NDArray[np.float32]
CountImage = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class EmulatorConfig:
    """Settings of a simulated event sensor.

    Attributes
    ----------
    contrast_on, contrast_off : float
        Nominal thresholds, as a change of the natural log of intensity.
    threshold_sigma : float
        Standard deviation of the thresholds over the pixels, in the same unit.
    refractory_us : int
        Time after an event in which the pixel's crossings are lost; background events come all the same.
    noise_rate_hz : float
        Background events of each pixel in a second, half of them ON.
    dark_level : float
        Intensity (of full scale 1) added before the log is taken; it hides contrast in the dark.
    most_crossings : int
        Most events of a pixel between two frames, as on a readout that is full; later ones are lost. 0: no limit.
    """

    contrast_on: float = 0.2
    contrast_off: float = 0.2
    threshold_sigma: float = 0.03
    refractory_us: int = 0
    noise_rate_hz: float = 0.1
    dark_level: float = 0.02
    most_crossings: int = 0

    def __post_init__(self) -> None:
        if min(self.contrast_on, self.contrast_off, self.dark_level) <= 0:
            raise EmulatorError("contrast_on, contrast_off and dark_level must be above 0")
        if min(self.threshold_sigma, self.refractory_us, self.noise_rate_hz, self.most_crossings) < 0:
            raise EmulatorError("threshold_sigma, refractory_us, noise_rate_hz and most_crossings must not be negative")


@dataclass(frozen=True, slots=True)
class EmulatorState:
    """What a simulated sensor remembers between two frames. Images are (H, W) float32.

    Attributes
    ----------
    t_us : int
        Time of the last frame.
    log_intensity, reference : array
        Log intensity at the last frame, and at the last event of each pixel.
    theta_on, theta_off : array
        Thresholds of each pixel.
    last_event_us : int64 array
        Time of each pixel's last event.
    seed, frames : int
        The noise of frame number ``frames`` is drawn from ``(seed, frames)``.
    """

    t_us: int
    log_intensity: FloatImage
    reference: FloatImage
    theta_on: FloatImage
    theta_off: FloatImage
    last_event_us: NDArray[np.int64]
    seed: int
    frames: int

    @property
    def nbytes(self) -> int:
        """Bytes of its images."""
        images = (self.log_intensity, self.reference, self.theta_on, self.theta_off, self.last_event_us)
        return sum(image.nbytes for image in images)


def log_intensity(frame: NDArray[np.generic], dark_level: float) -> FloatImage:
    """Natural log of a grey frame, uint8 or float in [0, 1]; shape (H, W).

    Raises
    ------
    EmulatorError
        If the frame is not two-dimensional, or holds values that are not finite.
    """
    if frame.ndim != 2:
        raise EmulatorError(f"a frame must be grey, of shape (height, width), got shape {frame.shape}")
    scaled = frame.astype(np.float32) * np.float32(1 / 255) if frame.dtype == np.uint8 else frame.astype(np.float32)
    if not np.isfinite(scaled).all():
        raise EmulatorError("the frame holds values that are not finite")
    return np.log(np.maximum(scaled, 0) + np.float32(dark_level))


def initial(frame: NDArray[np.generic], config: EmulatorConfig, *, t_us: int = 0, seed: int = 0) -> EmulatorState:
    """The state of a sensor that has looked at ``frame`` for a long time."""
    level = log_intensity(frame, config.dark_level)
    theta_on, theta_off = thresholds(level.shape, config, seed)
    long_ago = np.full(level.shape, np.iinfo(np.int64).min // 2, np.int64)
    return EmulatorState(t_us, level, level, theta_on, theta_off, long_ago, seed, 1)


def thresholds(shape: tuple[int, ...], config: EmulatorConfig, seed: int) -> tuple[FloatImage, FloatImage]:
    """The contrast thresholds ON and OFF of each pixel of a sensor (H, W): the same for the same seed."""
    rng = np.random.default_rng((seed, 0))
    lowest = np.float32(0.01)

    def spread(nominal: float) -> FloatImage:
        difference = rng.standard_normal(shape, dtype=np.float32) * np.float32(config.threshold_sigma)
        return np.asarray(np.maximum(np.float32(nominal) + difference, lowest))

    return spread(config.contrast_on), spread(config.contrast_off)


def crossings(
    reference: FloatImage, level: FloatImage, theta_on: FloatImage, theta_off: FloatImage, most: int = 0
) -> tuple[CountImage, CountImage, FloatImage]:
    """Count the thresholds that each pixel crosses on the way to a new log intensity.

    Returns
    -------
    n_on, n_off : int16 array, (H, W)
        At most ``most`` of each, unless that is 0; those beyond it are lost.
    reference : float32 array, (H, W)
        The log intensity at each pixel's last event after the change.
    """
    change = level - reference
    n_on = np.floor(np.maximum(change, 0) / theta_on)
    n_off = np.floor(np.maximum(-change, 0) / theta_off)
    after = reference + n_on * theta_on - n_off * theta_off
    limit = most or np.iinfo(np.int16).max
    return np.minimum(n_on, limit).astype(np.int16), np.minimum(n_off, limit).astype(np.int16), after


def emulate(
    state: EmulatorState, frame: NDArray[np.generic], t_us: int, config: EmulatorConfig
) -> tuple[EventBatch, EmulatorState]:
    """Events in (state.t_us, t_us] as the picture goes over into ``frame``.

    Parameters
    ----------
    state : EmulatorState
    frame : array, (H, W)
        Grey, uint8 or float in [0, 1].
    t_us : int
        Time of the frame in µs, after the state's.
    config : EmulatorConfig

    Returns
    -------
    events : EventBatch
        Ordered by time.
    state : EmulatorState

    Raises
    ------
    EmulatorError
        If the frame is of another size than the state, or time does not go on.
    """
    level = _next_level(state, frame, t_us, config)
    n_on, n_off, reference = crossings(state.reference, level, state.theta_on, state.theta_off, config.most_crossings)
    t_parts, where_parts, p_parts = [], [], []
    for polarity, counts, step in ((1, n_on, state.theta_on), (0, n_off, -state.theta_off)):
        t, where = _crossing_times(state, level, t_us, counts, step, config.refractory_us)
        t_parts.append(t)
        where_parts.append(where)
        p_parts.append(np.full(len(t), polarity, np.uint8))

    rng = np.random.default_rng((state.seed, state.frames))
    n_noise = int(rng.poisson(expected_noise(state, t_us, config)))
    t_parts.append(rng.integers(state.t_us + 1, t_us + 1, n_noise))
    where_parts.append(rng.integers(0, level.size, n_noise))
    p_parts.append(rng.integers(0, 2, n_noise, dtype=np.uint8))

    t_all, where_all, p_all = np.concatenate(t_parts), np.concatenate(where_parts), np.concatenate(p_parts)
    order = np.argsort(t_all, kind="stable")
    t_all, where_all = t_all[order], where_all[order]
    y, x = np.divmod(where_all, level.shape[1])
    last = state.last_event_us.copy()
    np.maximum.at(last.reshape(-1), where_all, t_all)
    events = EventBatch(t_all, x.astype(np.uint16), y.astype(np.uint16), p_all[order])
    return events, EmulatorState(
        t_us, level, reference, state.theta_on, state.theta_off, last, state.seed, state.frames + 1
    )


def expected_noise(state: EmulatorState, t_us: int, config: EmulatorConfig) -> float:
    """How many background events there are on average from the last frame to a time, in µs."""
    return config.noise_rate_hz * (t_us - state.t_us) * 1e-6 * state.log_intensity.size


def look_anew(state: EmulatorState, frame: NDArray[np.generic], t_us: int, config: EmulatorConfig) -> EmulatorState:
    """The state of a sensor that was away until ``t_us`` and has looked at ``frame`` since: nothing in between is seen.

    Raises
    ------
    EmulatorError
        As ``emulate``.
    """
    level = _next_level(state, frame, t_us, config)
    return replace(state, t_us=t_us, log_intensity=level, reference=level, frames=state.frames + 1)


def _next_level(state: EmulatorState, frame: NDArray[np.generic], t_us: int, config: EmulatorConfig) -> FloatImage:
    """The log intensity of a frame that comes after the state's."""
    level = log_intensity(frame, config.dark_level)
    if level.shape != state.log_intensity.shape:
        height, width = state.log_intensity.shape
        raise EmulatorError(f"the frame is {level.shape[1]}x{level.shape[0]}, the sensor is {width}x{height}")
    if t_us <= state.t_us:
        raise EmulatorError(f"frame time {t_us} µs is not after the last frame's, {state.t_us} µs")
    return level


def _crossing_times(
    state: EmulatorState, level: FloatImage, t_us: int, counts: CountImage, step: FloatImage, refractory_us: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Time and flat pixel index of each crossing of one polarity, less those that fall into the dead time."""
    where = np.flatnonzero(counts)
    n = counts.reshape(-1)[where].astype(np.int64)
    before = state.log_intensity.reshape(-1)[where].astype(np.float64)
    slope = level.reshape(-1)[where].astype(np.float64) - before
    theta = step.reshape(-1)[where].astype(np.float64)
    start = state.reference.reshape(-1)[where].astype(np.float64)

    pixel = np.repeat(np.arange(len(where)), n)
    k = np.arange(len(pixel)) - np.repeat(np.cumsum(n) - n, n) + 1
    part = (start[pixel] + k * theta[pixel] - before[pixel]) / slope[pixel]
    span = t_us - state.t_us
    # Rounding up keeps every event after the last frame, so that batches never overlap in time.
    t = state.t_us + np.clip(np.ceil(part * span), 1, span).astype(np.int64)
    if refractory_us > 0:
        # The crossings of one pixel are evenly spaced: of those after the dead time, every m-th survives.
        spacing = np.maximum(span * np.abs(theta / slope), 1e-9)
        stride = np.maximum(np.ceil(refractory_us / spacing), 1).astype(np.int64)
        alive = t >= state.last_event_us.reshape(-1)[where][pixel] + refractory_us
        first = np.full(len(where), np.iinfo(np.int64).max)
        np.minimum.at(first, pixel[alive], k[alive])
        keep = alive & ((k - first[pixel]) % stride[pixel] == 0)
        t, pixel = t[keep], pixel[keep]
    return t, where[pixel]
