"""Recordings as batches of events, one for each stretch of time."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from clients.cutting import regroup
from clients.errors import RecordingError
from models.events import EventBatch, SensorSize
from service.wire.aedat4 import Aedat4Error, Aedat4Reader
from service.wire.errors import PacketError
from service.wire.events import check_events

_NPZ_MAGIC = b"PK"
_COLUMNS: dict[str, type[np.integer[Any]]] = {"t": np.int64, "x": np.uint16, "y": np.uint16, "p": np.uint8}


class EventChunks(Iterator[EventBatch]):
    """Events of a recording, in batches that each hold all events between two multiples of a time span.

    An iterator and a context manager. One that is left before its end should be closed.
    """

    def __init__(self, batches: Iterator[EventBatch], reader: Aedat4Reader | None = None) -> None:
        self._batches = batches
        self._reader = reader

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __next__(self) -> EventBatch:
        try:
            return next(self._batches)
        except Aedat4Error as error:
            raise RecordingError(str(error)) from error

    def close(self) -> None:
        """Let go of the file; there are no more events then."""
        self._batches = iter(())
        if self._reader is not None:
            self._reader.close()


def read_chunks(path: str | os.PathLike[str], chunk_us: int) -> tuple[SensorSize, EventChunks]:
    """Read a recording of either kind, AEDAT4 or npz, told apart by how it begins.

    Parameters, result and errors are those of :func:`read_aedat4_chunks` and :func:`read_npz_chunks`.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(len(_NPZ_MAGIC))
    except OSError as error:
        raise _unreadable(path, error) from error
    return read_npz_chunks(path, chunk_us) if head == _NPZ_MAGIC else read_aedat4_chunks(path, chunk_us)


def read_aedat4_chunks(path: str | os.PathLike[str], chunk_us: int) -> tuple[SensorSize, EventChunks]:
    """Read an AEDAT4 file piece by piece, in bounded memory.

    Parameters
    ----------
    path : str or path
    chunk_us : int
        Time that a batch spans, in microseconds; batches begin at its multiples, and none is empty.

    Returns
    -------
    sensor : SensorSize
        Of the file's first camera with events.
    chunks : EventChunks

    Raises
    ------
    RecordingError
        Here or while iterating: the file cannot be opened, is not AEDAT4, holds no events, or is damaged.
    """
    try:
        reader = Aedat4Reader(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    except Aedat4Error as error:
        raise RecordingError(str(error)) from error
    return reader.sensor, EventChunks(regroup(reader, chunk_us), reader)


def read_npz_chunks(path: str | os.PathLike[str], chunk_us: int) -> tuple[SensorSize, EventChunks]:
    """Read a NumPy archive of events.

    Parameters
    ----------
    path : str or path
        An ``.npz`` file with integer arrays ``t`` (µs, ordered), ``x``, ``y`` and ``p`` (0 or 1) of shape (N,), and
        the scalars ``width`` and ``height`` in pixels.
    chunk_us : int
        As for :func:`read_aedat4_chunks`.

    Returns
    -------
    sensor : SensorSize
    chunks : EventChunks

    Raises
    ------
    RecordingError
        If the file cannot be opened, is no such archive, or its events break a rule.
    """
    try:
        archive = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RecordingError(f"this is not a NumPy archive: {error}") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise RecordingError("this is a single NumPy array, not an archive (npz)")
    with closing(archive):
        sensor = SensorSize(_scalar(archive, "width"), _scalar(archive, "height"))
        columns = {name: _column(archive, name, dtype) for name, dtype in _COLUMNS.items()}
    try:
        events = EventBatch(**columns)
        check_events(events, sensor)
    except (ValueError, PacketError) as error:
        raise RecordingError(f"the archive's events cannot be used: {error}") from error
    return sensor, EventChunks(regroup([events], chunk_us))


def _array(archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray[Any, np.dtype[Any]]:
    try:
        values: np.ndarray[Any, np.dtype[Any]] = archive[name]
    except KeyError:
        raise RecordingError(f"the archive lacks {name!r}; it should hold t, x, y, p, width and height") from None
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise RecordingError(f"the archive's {name!r} cannot be read: {error}") from error
    if values.dtype.kind not in "iub":
        raise RecordingError(f"the archive's {name!r} is of {values.dtype}, not of integers")
    return values


def _scalar(archive: np.lib.npyio.NpzFile, name: str) -> int:
    values = _array(archive, name)
    if values.size != 1 or not 1 <= int(values.item()) <= 0xFFFF:
        raise RecordingError(f"the archive's {name!r} is not a size in pixels")
    return int(values.item())


def _column(archive: np.lib.npyio.NpzFile, name: str, dtype: type[np.integer[Any]]) -> Any:
    values = _array(archive, name)
    limits = np.iinfo(dtype)
    # Compared before the cast, which would wrap around.
    if values.size and not (int(values.min()) >= limits.min and int(values.max()) <= limits.max):
        raise RecordingError(f"the archive's {name!r} holds values that are not between {limits.min} and {limits.max}")
    return values.astype(dtype)


def _unreadable(path: str | os.PathLike[str], error: OSError) -> RecordingError:
    return RecordingError(f"{os.fspath(path)}: {error.strerror or error}")
