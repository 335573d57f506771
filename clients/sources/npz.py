"""NumPy archives of events: integer arrays ``t`` (µs), ``x``, ``y``, ``p``, and scalars ``width`` and ``height``."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from clients.errors import RecordingError
from clients.sources.source import Source
from models.events import EventBatch, SensorSize

MAGIC = b"PK"
_BATCH = 1 << 16
_COLUMNS: dict[str, type[np.integer[Any]]] = {"t": np.int64, "x": np.uint16, "y": np.uint16, "p": np.uint8}


class NpzSource(Source):
    """The events of an archive, which is held in memory.

    Raises
    ------
    RecordingError
        If the file cannot be opened, is no such archive, or (while iterating) its events break a rule.
    """

    format = "NPZ"

    def __init__(self, path: Path, *, sensor: SensorSize | None = None, ordered: bool = True) -> None:
        try:
            archive = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise RecordingError(f"{path}: this is not a NumPy archive: {error}") from error
        except OSError as error:
            raise RecordingError(f"{path}: {error.strerror or error}") from error
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise RecordingError(f"{path}: this is a single NumPy array, not an archive (npz)")
        try:
            with closing(archive):
                size = sensor or SensorSize(_scalar(archive, "width"), _scalar(archive, "height"))
                columns = {name: _column(archive, name, dtype) for name, dtype in _COLUMNS.items()}
            self._events = EventBatch(**columns)
        except (RecordingError, ValueError) as error:
            raise RecordingError(f"{path}: {error}") from error
        super().__init__(str(path), size, ordered=ordered)

    def _read(self) -> Iterator[EventBatch]:
        for first in range(0, len(self._events), _BATCH):
            yield self._events[first : first + _BATCH]


def _array(archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray[Any, np.dtype[Any]]:
    try:
        values: np.ndarray[Any, np.dtype[Any]] = archive[name]
    except KeyError:
        raise RecordingError(f"the archive lacks {name!r}; it should hold t, x, y, p, width and height") from None
    except (ValueError, EOFError, OSError, RuntimeError, MemoryError, zlib.error, zipfile.BadZipFile) as error:
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
