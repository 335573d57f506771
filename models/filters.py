"""Filters of sensor noise: pure functions from a state and events to the events that pass and the next state.

Three, in the order in which an event meets them; an event that one of them drops is not seen by those after it:

``hot_pixel``
    Drops all events of pixels that were far more active than the others during a warm-up.
``refractory``
    Drops an event that follows the last one that passed at its pixel too soon, as a longer refractory period of the
    sensor would.
``background_activity``
    Drops an event unless one of its eight neighbours has had one shortly before (T. Delbruck, "Frame-free dynamic
    digital vision", Proc. Intl. Symp. on Secure-Life Electronics, 2008): noise of the sensor is not correlated, edges
    are. It is the ``BackgroundActivityNoiseFilter`` of dv-processing.

How a stream is cut into calls never changes what passes. They are computed in C (``models/native/events.c``), or in
NumPy where there is no compiler, with the same results.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import BackendUnavailableError, FilterError
from models.events import EventBatch, SensorSize
from models.native.events import EventLibrary, event_library

Backend = Literal["c", "numpy"]

MAX_DURATION_US = 60_000_000
NEVER = -(2**62)
"""Stands in the maps for a pixel that has not fired."""

# Room around the map of background activity, so that no pixel is at its border: one line above and below; one column at
# the left, two at the right, because the C code reads four stamps at a time.
_ABOVE, _LEFT, _RIGHT = 1, 1, 2


class Verdict(IntEnum):
    """Why an event was dropped, if it was."""

    KEPT = 0
    HOT_PIXEL = 1
    REFRACTORY = 2
    BACKGROUND_ACTIVITY = 3


REASONS = ("hot_pixel", "refractory", "background_activity")
"""Names of the verdicts from 1 on."""


@dataclass(frozen=True, slots=True)
class HotPixelConfig:
    """Which pixels are hot.

    Those whose events during the warm-up are more than the mean over all pixels by ``sigma`` standard deviations, and
    come more often than ``min_rate_hz``.

    Attributes
    ----------
    learn_us : int
        Length of the warm-up in microseconds, from the first event on; during it, all events pass.
    sigma : float
    min_rate_hz : float
        Events a second of one pixel.

    Raises
    ------
    FilterError
        If ``learn_us`` does not lie between 1 and ``MAX_DURATION_US``, or another is negative or not finite.
    """

    learn_us: int = 1_000_000
    sigma: float = 10.0
    min_rate_hz: float = 100.0

    def __post_init__(self) -> None:
        if not 1 <= self.learn_us <= MAX_DURATION_US:
            raise FilterError(f"learn_us must lie between 1 and {MAX_DURATION_US}, not be {self.learn_us}")
        for name, value in (("sigma", self.sigma), ("min_rate_hz", self.min_rate_hz)):
            if not 0 <= value < math.inf:
                raise FilterError(f"{name} must be finite and not negative, not {value}")


@dataclass(frozen=True, slots=True)
class FilterConfig:
    """Which filters a stream goes through.

    Attributes
    ----------
    hot_pixel : HotPixelConfig or None
    refractory_us : int
        Time in microseconds for which a pixel gives no event after one that passed; 0 leaves the filter out.
    background_activity_us : int
        An event passes if a neighbour has had one less than so many microseconds before; 0 leaves the filter out.

    Raises
    ------
    FilterError
        If a time does not lie between 0 and ``MAX_DURATION_US``.
    """

    hot_pixel: HotPixelConfig | None = None
    refractory_us: int = 0
    background_activity_us: int = 0

    def __post_init__(self) -> None:
        for name in ("refractory_us", "background_activity_us"):
            if not 0 <= (value := getattr(self, name)) <= MAX_DURATION_US:
                raise FilterError(f"{name} must lie between 0 and {MAX_DURATION_US}, not be {value}")


@dataclass(frozen=True, slots=True, eq=False)
class FilterState:
    """What the filters remember of a stream; nobody changes its arrays.

    Attributes
    ----------
    config : FilterConfig
    sensor : SensorSize
    latest : int
        Time of the last event, in microseconds; no later one may be earlier.
    since : int or None
        When the warm-up began, in microseconds; None before the first event.
    counts : int64 array, (H, W), or None
        Events of each pixel in the warm-up; None when there is none.
    hot : uint8 array, (H, W), or None
        1 for hot pixels; None before they are known.
    surface : int64 array, (H + 2, W + 3), or None
        The time surface, in microseconds: when the last event of each pixel came that was dropped neither as hot nor as
        refractory. That is what both other filters need to know. It has a margin in which nothing ever fires, of one
        pixel, and of two at the right. None before the first event, or without both of these filters.
    """

    config: FilterConfig
    sensor: SensorSize
    latest: int = NEVER
    since: int | None = None
    counts: NDArray[np.int64] | None = None
    hot: NDArray[np.uint8] | None = None
    surface: NDArray[np.int64] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(a.nbytes for a in (self.counts, self.hot, self.surface) if a is not None)

    def at_rest(self) -> FilterState:
        """The state before the first event."""
        return FilterState(self.config, self.sensor)


@dataclass(frozen=True, slots=True, eq=False)
class Filtered:
    """What became of N events.

    Attributes
    ----------
    events : EventBatch
        Those that passed.
    state : FilterState
    verdicts : uint8 array, (N,)
        A ``Verdict`` for each.
    """

    events: EventBatch
    state: FilterState
    verdicts: NDArray[np.uint8]


def surface_shape(sensor: SensorSize) -> tuple[int, int]:
    """Shape of the time surface with its margin."""
    return sensor.height + 2 * _ABOVE, sensor.width + _LEFT + _RIGHT


def filter_events(state: FilterState, events: EventBatch, *, backend: Backend | None = None) -> Filtered:
    """Filter a piece of a stream.

    Each call copies the time surface, 0.7 MB at 346x260 and 7 MB at 1280x720: larger pieces are cheaper.

    Parameters
    ----------
    state : FilterState
        That after the piece before, or ``FilterState(config, sensor)``; it does not change.
    events : EventBatch
        Ordered by time, and not earlier than those before. After a restart of the sensor's clock, go on from
        ``state.at_rest()``.
    backend : "c" or "numpy", optional
        What computes it; C if it can be built, by default.

    Raises
    ------
    FilterError
        If times run back, or an event lies outside the sensor.
    BackendUnavailableError
        If C is asked for and there is no compiler.
    """
    n = len(events)
    if not n:
        return Filtered(events, state, np.empty(0, np.uint8))
    config, sensor = state.config, state.sensor
    _check(state, events)
    surface = None
    if config.refractory_us or config.background_activity_us:
        surface = np.full(surface_shape(sensor), NEVER) if state.surface is None else state.surface.copy()
    after, learned = _learn(state, events)
    after = replace(after, latest=int(events.t[-1]), surface=surface)
    passes = _choose(backend)
    # Up to where the hot pixels were learned, all pixels are as good as each other.
    pieces = [(events[:learned], replace(after, hot=state.hot)), (events[learned:], after)]
    found = [passes(piece, maps) for piece, maps in pieces if len(piece)]
    kept = EventBatch.concatenate([events for events, _ in found])
    return Filtered(kept, after, found[0][1] if len(found) == 1 else np.concatenate([why for _, why in found]))


def _check(state: FilterState, events: EventBatch) -> None:
    t, sensor = events.t, state.sensor
    if int(t[0]) < state.latest or (t[1:] < t[:-1]).any():
        raise FilterError("the times of events that are filtered must not run back")
    if int(events.x.max()) >= sensor.width or int(events.y.max()) >= sensor.height:
        raise FilterError(f"an event lies outside the {sensor} sensor")


def _learn(state: FilterState, events: EventBatch) -> tuple[FilterState, int]:
    """The state as far as it is of hot pixels, and how many of the events come before they are known."""
    config, sensor = state.config.hot_pixel, state.sensor
    if config is None or state.hot is not None:
        return state, 0
    since = int(events.t[0]) if state.since is None else state.since
    known = int(np.searchsorted(events.t, since + config.learn_us))
    part = events[:known]
    index = part.y.astype(np.int64) * sensor.width + part.x
    counts = np.bincount(index, minlength=sensor.width * sensor.height).reshape(sensor.height, sensor.width)
    if state.counts is not None:
        counts += state.counts
    if known == len(events):
        return replace(state, since=since, counts=counts), known
    return replace(state, since=since, counts=None, hot=hot_pixels(counts, config)), known


def hot_pixels(counts: NDArray[np.int64], config: HotPixelConfig) -> NDArray[np.uint8]:
    """Which pixels are hot, from the events of each in the warm-up.

    Parameters
    ----------
    counts : int64 array, (H, W)
    config : HotPixelConfig

    Returns
    -------
    uint8 array, (H, W)
        1 for those that are.
    """
    # From whole numbers, so that the last bit does not hang on the order of a sum; in halves, so that none overflows.
    bounded = np.minimum(counts, 2**31 - 1)
    products = bounded * bounded
    pixels, total = counts.size, int(bounded.sum())
    squares = (int((products >> 32).sum()) << 32) + int((products & 0xFFFFFFFF).sum())
    deviation = math.sqrt(pixels * squares - total * total) / pixels
    most = max(total / pixels + config.sigma * deviation, config.min_rate_hz * config.learn_us / 1e6)
    return (counts > most).astype(np.uint8)


def _in_c(library: EventLibrary, events: EventBatch, state: FilterState) -> tuple[EventBatch, NDArray[np.uint8]]:
    """The filters in one pass; the time surface of ``state`` is written to."""
    n = len(events)
    given = (
        np.ascontiguousarray(events.t, np.int64),
        np.ascontiguousarray(events.x, np.uint16),
        np.ascontiguousarray(events.y, np.uint16),
        np.ascontiguousarray(events.p, np.uint8),
    )
    kept = np.empty(n, np.int64), np.empty(n, np.uint16), np.empty(n, np.uint16), np.empty(n, np.uint8)
    verdicts = np.empty(n, np.uint8)
    count = library.filter(
        *(column.ctypes.data for column in given),
        n,
        state.sensor.width,
        _address(state.hot),
        _address(state.surface),
        state.config.refractory_us,
        state.config.background_activity_us,
        *(column.ctypes.data for column in kept),
        verdicts.ctypes.data,
    )
    return EventBatch(*kept)[:count], verdicts


def _address(array: NDArray[Any] | None) -> int | None:
    return None if array is None else array.ctypes.data


def _in_numpy(events: EventBatch, state: FilterState) -> tuple[EventBatch, NDArray[np.uint8]]:
    """The filters one after the other; the time surface of ``state`` is written to."""
    verdicts = np.zeros(len(events), np.uint8)
    if state.hot is not None:
        verdicts[state.hot[events.y, events.x] != 0] = Verdict.HOT_PIXEL
    if state.surface is not None:
        left = np.flatnonzero(verdicts == Verdict.KEPT)
        if state.config.refractory_us:
            rests = _is_refractory(_take(events, left), state.surface, state.config.refractory_us)
            verdicts[left[rests]] = Verdict.REFRACTORY
            left = left[~rests]
        alone = ~_is_supported(_take(events, left), state.surface, state.config.background_activity_us)
        if state.config.background_activity_us:
            verdicts[left[alone]] = Verdict.BACKGROUND_ACTIVITY
    return _take(events, np.flatnonzero(verdicts == Verdict.KEPT)), verdicts


def _pixels(events: EventBatch, pitch: int) -> NDArray[np.int64]:
    """Where the events' pixels are in a time surface."""
    return (events.y.astype(np.int64) + _ABOVE) * pitch + events.x + _LEFT


def _is_refractory(events: EventBatch, surface: NDArray[np.int64], refractory_us: int) -> NDArray[np.bool_]:
    """Which events their pixels' refractory period drops; one depends on the one before it, so it takes a loop."""
    pixels = _pixels(events, surface.shape[1])
    last = dict(zip(pixels.tolist(), surface.reshape(-1)[pixels].tolist(), strict=True))
    found = np.zeros(len(events), np.bool_)
    for k, (pixel, t) in enumerate(zip(pixels.tolist(), events.t.tolist(), strict=True)):
        if t - last[pixel] < refractory_us:
            found[k] = True
        else:
            last[pixel] = t
    return found


def _is_supported(events: EventBatch, surface: NDArray[np.int64], duration_us: int) -> NDArray[np.bool_]:
    """Which events had one at a neighbour shortly before; all of them are written to the surface."""
    n, pitch, stamps = len(events), surface.shape[1], surface.reshape(-1)
    found = np.zeros(n, np.bool_)
    if not n:
        return found
    # Sorted by pixel and, within a pixel, by time, so that the last event of a pixel before any moment is found by
    # bisection; looked for in that same order, which goes through memory from one end to the other.
    order = np.sort(_pixels(events, pitch) * n + np.arange(n))
    pixels, moments = order // n, order % n
    t = events.t[moments]
    supported = np.zeros(n, np.bool_)
    for neighbour in (-pitch - 1, -pitch, -pitch + 1, -1, 1, pitch - 1, pitch, pitch + 1):
        after = np.searchsorted(order, order + neighbour * n)
        beside = pixels + neighbour
        here = (after > 0) & (pixels[after - 1] == beside)
        supported |= np.where(here, t[after - 1], stamps[beside]) > t - duration_us
    found[moments] = supported
    # Of several values for one place, the last one stays.
    stamps[pixels] = t
    return found


def _take(events: EventBatch, which: NDArray[np.int64]) -> EventBatch:
    return EventBatch(events.t[which], events.x[which], events.y[which], events.p[which])


def _choose(backend: Backend | None) -> Callable[[EventBatch, FilterState], tuple[EventBatch, NDArray[np.uint8]]]:
    library = None if backend == "numpy" else event_library()
    if library is not None:
        return partial(_in_c, library)
    if backend == "c":
        raise BackendUnavailableError("the filters in C cannot be built here; NumPy computes the same")
    return _in_numpy
