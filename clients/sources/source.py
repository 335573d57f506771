"""What every source of events is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from clients.errors import RecordingError
from models.events import EventBatch, SensorSize
from service.wire.errors import PacketError
from service.wire.events import check_events


class Source(ABC):
    """Batches of events; a context manager, and an iterable that begins anew each time unless it is ``live``.

    Batches are ordered by time, also from one to the next, and inside the sensor; they are of whatever length comes
    naturally, also empty: a live source gives one at least every 20 ms, so that nobody who waits for it waits for long.

    Attributes
    ----------
    format : str
        As a user knows it.
    live : bool
        Whether it is a camera, which cannot be asked to go back.
    name : str
        Path or address, for messages.
    sensor : SensorSize
    """

    format: ClassVar[str]
    live: ClassVar[bool] = False

    def __init__(self, name: str, sensor: SensorSize, *, ordered: bool = True) -> None:
        self.name = name
        self.sensor = sensor
        self._ordered = ordered

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[EventBatch]:
        return self.batches()

    def batches(self, skip_us: int = 0) -> Iterator[EventBatch]:
        """The events, from the beginning.

        Parameters
        ----------
        skip_us : int
            Events so long after the first one, in microseconds, are left out.

        Raises
        ------
        SourceError
            While iterating, if the events cannot be had or break a rule; the message says which.
        """
        batches = checked(self._read(), self.sensor, self.name, ordered=self._ordered)
        return skipped(batches, skip_us) if skip_us else batches

    def close(self) -> None:  # noqa: B027 most sources hold nothing open
        """Let go of whatever is held; harmless when that has been done."""

    @abstractmethod
    def _read(self) -> Iterator[EventBatch]:
        """The events as they are."""


def to_events(t: NDArray[Any], x: NDArray[Any], y: NDArray[Any], p: NDArray[Any], name: str) -> EventBatch:
    """A batch from columns of any types.

    Parameters
    ----------
    t : integer array, (N,)
        Microseconds.
    x, y : integer array, (N,)
    p : integer or bool array, (N,)
        ON where it is above 0.
    name : str
        For messages.

    Raises
    ------
    RecordingError
        If a coordinate is negative or too large; casting would have wrapped it around.
    """
    for axis, values in (("x", x), ("y", y)):
        if len(values) and not (int(values.min()) >= 0 and int(values.max()) <= 0xFFFF):
            at = int(np.argmax((values < 0) | (values > 0xFFFF)))
            raise RecordingError(f"{name}: event {at} of a batch has {axis} = {values[at]}, which is no coordinate")
    return EventBatch(
        t.astype(np.int64), x.astype(np.uint16), y.astype(np.uint16), (np.asarray(p) > 0).astype(np.uint8)
    )


def checked(batches: Iterable[EventBatch], sensor: SensorSize, name: str, *, ordered: bool) -> Iterator[EventBatch]:
    """Pass batches on as long as they keep to the rules.

    Raises
    ------
    RecordingError
        If an event lies outside the sensor, has no time that a stream can reach, or, if they should be ``ordered``, is
        earlier than the one before it.
    """
    latest = 0
    for batch in batches:
        if not len(batch):
            yield batch
            continue
        try:
            check_events(batch, sensor, ordered=ordered)
        except PacketError as error:
            raise RecordingError(f"{name}: {error}") from None
        if ordered:
            first = int(batch.t[0])
            if first < latest:
                raise RecordingError(f"{name}: times go back: an event of {first} µs comes after one of {latest} µs")
            latest = int(batch.t[-1])
        yield batch


def skipped(batches: Iterable[EventBatch], skip_us: int) -> Iterator[EventBatch]:
    """Leave out the events of the first microseconds after the first event."""
    begin: int | None = None
    for batch in batches:
        if len(batch) and begin is None:
            begin = int(batch.t[0]) + skip_us
        if not len(batch) or begin is None or int(batch.t[0]) >= begin:
            yield batch
        else:
            kept = batch[int(np.searchsorted(batch.t, begin)) :]
            if len(kept):
                yield kept
