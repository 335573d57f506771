"""HDF5 recordings: events in DSEC's layout, and DDD17's tables of camera packets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clients.errors import RecordingError
from clients.extras import require
from clients.sources.source import Source, checked, skipped, to_events
from models.errors import ModelsError
from models.events import EventBatch, SensorSize

MAGIC = b"\x89HDF\r\n\x1a\n"
_PURPOSE = "reading HDF5 recordings"
_BATCH = 1 << 17
_COLUMNS = ("events/t", "events/x", "events/y", "events/p")


def open_hdf5(path: Path, *, sensor: SensorSize | None = None, ordered: bool = True) -> Source:
    """The source for an HDF5 file, by what it holds.

    Raises
    ------
    RecordingError
        If it is damaged, or holds no events in a known layout.
    MissingExtraError
    """
    require("hdf5plugin", _PURPOSE)
    with _opened(path) as file:
        if all(name in file for name in _COLUMNS):
            return DsecSource(path, sensor=sensor, ordered=ordered)
        if "dvs/data" in file:
            return Ddd17Source(path, ordered=ordered)
        found = ", ".join(list(file)[:8]) or "nothing"
    raise RecordingError(
        f"{path} holds no events that can be read, but {found}; DSEC's layout (events/t, x, y, p) and DDD17's "
        "(dvs/data) are known"
    )


class DsecSource(Source):
    """Events in DSEC's layout (Gehrig et al., RA-L 2021): ``events/{t,x,y,p}``, ``ms_to_idx``, ``t_offset``.

    The sensor is DSEC's 640x480 unless the file has attributes ``width`` and ``height``.
    """

    format = "HDF5 (DSEC layout)"

    def __init__(self, path: Path, *, sensor: SensorSize | None = None, ordered: bool = True) -> None:
        self._path = path
        with _opened(path) as file:
            lengths = {len(file[name]) for name in _COLUMNS}
            if len(lengths) > 1:
                raise RecordingError(f"{path}: its columns t, x, y and p have different lengths: {sorted(lengths)}")
            if sensor is None:
                sensor = SensorSize(int(file.attrs.get("width", 640)), int(file.attrs.get("height", 480)))
        super().__init__(str(path), sensor, ordered=ordered)

    def batches(self, skip_us: int = 0) -> Iterator[EventBatch]:
        """See :meth:`Source.batches`; what is skipped is not read, if the file has its index."""
        batches = checked(self._from(skip_us), self.sensor, self.name, ordered=self._ordered)
        return skipped(batches, skip_us) if skip_us else batches

    def _read(self) -> Iterator[EventBatch]:
        return self._from(0)

    def _from(self, skip_us: int) -> Iterator[EventBatch]:
        with _opened(self._path) as file:
            offset = int(file["t_offset"][()]) if "t_offset" in file else 0
            columns = [file[name] for name in _COLUMNS]
            count = len(columns[0])
            first = _index(file, count, skip_us)
            if first and count:
                # What is skipped is counted from the first event.
                yield self._part(columns, slice(0, 1), offset)
            for start in range(first, count, _BATCH):
                yield self._part(columns, slice(start, min(start + _BATCH, count)), offset)

    def _part(self, columns: list[Any], part: slice, offset: int) -> EventBatch:
        t, x, y, p = (column[part] for column in columns)
        return to_events(t.astype("i8") + offset, x, y, p, self.name)


class Ddd17Source(Source):
    """The polarity events of a DDD17 recording (Binas et al., 2017), upright as in :mod:`models.datasets.ddd17`."""

    format = "HDF5 (DDD17)"

    def __init__(self, path: Path, *, ordered: bool = True) -> None:
        # The layout is written down once, beside the data sets.
        self._ddd17 = require("models.datasets.ddd17", "reading DDD17 recordings")
        self._path = path
        super().__init__(str(path), self._ddd17.SENSOR, ordered=ordered)

    def _read(self) -> Iterator[EventBatch]:
        try:
            yield from self._ddd17.read_recording(self._path)
        except ModelsError as error:
            raise RecordingError(str(error)) from error


def _index(file: Any, count: int, skip_us: int) -> int:
    """The first event that is not before so long after the first one, or one before it."""
    if not skip_us or not count or "ms_to_idx" not in file:
        return 0
    index = file["ms_to_idx"]
    ms = (int(file["events/t"][0]) + skip_us) // 1000
    return int(index[ms]) if ms < len(index) else count


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    h5py = require("h5py", _PURPOSE)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise RecordingError(f"{path} is cut off or damaged, or cannot be opened: {error}") from error
    with file:
        try:
            yield file
        # What the library raises at a damaged file.
        except (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError) as error:
            raise RecordingError(f"{path} is damaged: {' '.join(str(error).split())}") from error
