"""The noise filters of a stream in snapshots: their settings and what they remember, checked in every particular."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import FilterError
from models.events import SensorSize
from models.filters import NEVER, REASONS, FilterConfig, FilterState, HotPixelConfig, surface_shape
from service.streaming.windowing.documents import flag, integer, members, refusal
from service.streaming.windowing.errors import SnapshotError
from service.wire.events import MAX_TIME_US

Counts = tuple[int, ...]
"""Events that were dropped, by reason as in ``models.filters.REASONS``; empty for a stream without filters."""

_PREFIX = "filter."
_SURFACE = "surface"
NOTHING: Counts = (0,) * len(REASONS)


def add(one: Counts, other: Counts) -> Counts:
    """Both together."""
    return tuple(a + b for a, b in zip(one, other, strict=True)) if one and other else one or other


def config_to_json(config: FilterConfig) -> dict[str, Any]:
    """As plain values that ``config_from_json`` reads."""
    return asdict(config)


def config_from_json(document: object) -> FilterConfig:
    """Read what ``config_to_json`` made.

    Raises
    ------
    SnapshotError
        If it is anything else.
    """
    fields = members(document, "filter", ("hot_pixel", "refractory_us", "background_activity_us"))
    hot_pixel = None
    try:
        if fields["hot_pixel"] is not None:
            hot = members(fields["hot_pixel"], "hot_pixel", ("learn_us", "sigma", "min_rate_hz"))
            numbers = [_number(hot, name) for name in ("sigma", "min_rate_hz")]
            hot_pixel = HotPixelConfig(integer(hot, "learn_us", 1), *numbers)
        times = [integer(fields, name, 0) for name in ("refractory_us", "background_activity_us")]
        return FilterConfig(hot_pixel, *times)
    except FilterError as error:
        raise SnapshotError(f"the filter cannot be used: {error}") from None


def state_to_document(state: FilterState, dropped: Counts) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What the filters remember, as a document and arrays, and what they have dropped since the last window."""
    document = {"started": state.latest != NEVER, "since": state.since, "dropped": list(dropped)}
    arrays = {_PREFIX + name: array for name in _arrays(state.sensor) if (array := getattr(state, name)) is not None}
    return document, arrays


def state_from_document(
    start: FilterState, document: object, arrays: Mapping[str, object], horizon: int, latest: int
) -> tuple[FilterState, Counts]:
    """Read what ``state_to_document`` made, with the settings of ``start``.

    Parameters
    ----------
    start : FilterState
        As before the first event.
    document : dict
    arrays : mapping of str to array
        Those whose names begin as this module's do; they are copied.
    horizon : int
        Up to when the windows have received the stream, in microseconds.
    latest : int
        Latest time that any event had.

    Raises
    ------
    SnapshotError
        If it is not what such filters can have left.
    """
    fields = members(document, "filter", ("started", "since", "dropped"))
    dropped = fields["dropped"]
    if not isinstance(dropped, list) or len(dropped) != len(REASONS):
        raise refusal("dropped", f"must be a list of {len(REASONS)} counts")
    counts = tuple(integer({"dropped": count}, "dropped", 0) for count in dropped)
    config = start.config
    if not flag(fields, "started"):
        if fields["since"] is not None or arrays:
            raise refusal("filter", "has seen nothing, but remembers something")
        return start, counts
    since = None
    expected = {_SURFACE} if config.refractory_us or config.background_activity_us else set()
    if config.hot_pixel is not None:
        since = integer(fields, "since", 0, min(horizon, MAX_TIME_US))
        expected.add("hot" if _PREFIX + "hot" in arrays else "counts")
    elif fields["since"] is not None:
        raise refusal("since", "must be null without a filter of hot pixels")
    if set(arrays) != {_PREFIX + name for name in expected}:
        raise refusal("filter", f"needs the arrays {', '.join(sorted(_PREFIX + name for name in expected)) or 'none'}")
    found = {}
    for name in expected:
        most = {"hot": 1, "counts": 2**62}.get(name, latest)
        found[name] = _array(arrays[_PREFIX + name], name, start.sensor, most)
    return FilterState(config, start.sensor, min(horizon, latest), since, **found), counts


def is_of_filter(name: str) -> bool:
    """Whether an array of a stream is the filters'."""
    return name.startswith(_PREFIX)


def _arrays(sensor: SensorSize) -> dict[str, tuple[type[np.generic], tuple[int, int]]]:
    plain = (sensor.height, sensor.width)
    return {
        "counts": (np.int64, plain),
        "hot": (np.uint8, plain),
        _SURFACE: (np.int64, surface_shape(sensor)),
    }


def _array(found: object, name: str, sensor: SensorSize, most: int) -> NDArray[Any]:
    dtype, shape = _arrays(sensor)[name]
    if not isinstance(found, np.ndarray) or found.dtype != dtype or found.shape != shape:
        raise refusal(_PREFIX + name, f"must be an array of {dtype.__name__} {shape}")
    array = np.array(found)
    fits = (array <= most) & ((array >= 0) | ((array == NEVER) & (name == _SURFACE)))
    if not fits.all():
        raise refusal(_PREFIX + name, f"must lie between 0 and {most}")
    if name == _SURFACE:
        margin = array.copy()
        margin[1:-1, 1:-2] = NEVER
        if (margin != NEVER).any():
            raise refusal(_PREFIX + name, "has events in its margin")
    return array


def _number(document: Mapping[str, Any], name: str) -> float:
    value = document[name]
    if type(value) not in (int, float):
        raise refusal(name, "must be a number")
    return float(value)
