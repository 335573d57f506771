"""Reading a snapshot's plain values and arrays; whatever is not as it should be is a SnapshotError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.events import EventBatch, SensorSize
from service.errors import FieldError
from service.streaming.windowing.errors import SnapshotError

LARGEST = 2**63 - 1

_COLUMNS: dict[str, type[np.generic]] = {"t": np.int64, "x": np.uint16, "y": np.uint16, "p": np.uint8}


def refusal(field: str, why: str) -> SnapshotError:
    """The error for a member; ``why`` goes on from its name."""
    message = f"{field} {why}"
    return SnapshotError(message, [FieldError(field, message)])


def members(value: object, name: str, expected: Sequence[str]) -> dict[str, Any]:
    """An object with exactly the ``expected`` members."""
    if not isinstance(value, dict) or set(value) != set(expected):
        raise refusal(name, f"must be an object with the members {', '.join(expected)}")
    return value


def integer(document: Mapping[str, Any], name: str, low: int, high: int = LARGEST) -> int:
    """A member that is an integer between ``low`` and ``high``; ``true`` is none."""
    value = document[name]
    if type(value) is not int or not low <= value <= high:
        raise refusal(name, f"must be an integer between {low} and {high}")
    return value


def flag(document: Mapping[str, Any], name: str) -> bool:
    """A member that is true or false."""
    value = document[name]
    if not isinstance(value, bool):
        raise refusal(name, "must be true or false")
    return value


def word(document: Mapping[str, Any], name: str, known: Sequence[str]) -> str:
    """A member that is one of the ``known`` words."""
    value = document[name]
    if not isinstance(value, str) or value not in known:
        raise refusal(name, f"must be one of {', '.join(known)}")
    return value


def array_names(prefix: str) -> list[str]:
    """Names of the arrays that ``events_to_arrays`` makes."""
    return [f"{prefix}.{column}" for column in _COLUMNS]


def events_to_arrays(events: EventBatch, prefix: str) -> dict[str, NDArray[Any]]:
    """Events as named arrays."""
    return {f"{prefix}.{column}": getattr(events, column) for column in _COLUMNS}


def events_from_arrays(
    arrays: Mapping[str, object], prefix: str, earliest: int, latest: int, most: int, sensor: SensorSize | None
) -> EventBatch:
    """Read what ``events_to_arrays`` made, into memory of its own.

    Parameters
    ----------
    arrays : mapping
        Holds the names of ``array_names(prefix)``.
    prefix : str
    earliest, latest : int
        Microseconds that the times must lie between, both included.
    most : int
        Most events.
    sensor : SensorSize or None
        What the events must lie inside of, if it is known.

    Raises
    ------
    SnapshotError
        For arrays of another type or of unequal length, times that are out of order or range, a polarity other than 0
        and 1, or an event outside the sensor.
    """
    columns: dict[str, NDArray[Any]] = {}
    for column, dtype in _COLUMNS.items():
        name = f"{prefix}.{column}"
        array = arrays[name]
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
            raise refusal(name, f"must be a one-dimensional array of {dtype.__name__}")
        columns[column] = np.array(array)
    if len({len(array) for array in columns.values()}) > 1:
        raise refusal(prefix, "must have as many times as coordinates and polarities")
    events = EventBatch(**columns)
    if len(events) > most:
        raise refusal(prefix, f"holds {len(events)} events, at most {most} are taken")
    if len(events):
        _check_values(events, prefix, earliest, latest, sensor)
    return events


def _check_values(events: EventBatch, prefix: str, earliest: int, latest: int, sensor: SensorSize | None) -> None:
    if (events.t[1:] < events.t[:-1]).any():
        raise refusal(f"{prefix}.t", "must be ordered by time")
    if events.t[0] < earliest or events.t[-1] > latest:
        raise refusal(f"{prefix}.t", f"must lie between {earliest} and {latest} µs")
    if events.p.max() > 1:
        raise refusal(f"{prefix}.p", "must be 0 or 1")
    if sensor is not None and (events.x.max() >= sensor.width or events.y.max() >= sensor.height):
        raise refusal(prefix, f"lies outside the {sensor} sensor")
