"""One way to write any format, chosen by the file's name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from clients.errors import OutputError
from clients.extras import require
from clients.sources.evt import encode_dat, encode_evt2, encode_evt3
from models.events import EventBatch, SensorSize
from service.wire.aedat4 import Aedat4Error, Aedat4Writer

FORMATS = {
    ".aedat4": "AEDAT4",
    ".npz": "NumPy archive",
    ".raw": "Prophesee RAW, EVT 3.0",
    ".evt2.raw": "Prophesee RAW, EVT 2.0",
    ".dat": "Prophesee DAT",
    ".h5": "HDF5 in DSEC's layout",
}
"""What can be written, by the end of the file's name."""

_DSEC_CHUNK = 1 << 14


class EventWriter(ABC):
    """A recording that is being written; a context manager. It is whole once it has been closed.

    Attributes
    ----------
    events : int
        How many have been written.
    base_us : int
        What is taken off every time, since the format cannot hold times as late as the first one.
    """

    def __init__(self, path: Path, sensor: SensorSize) -> None:
        self.events = 0
        self.base_us = 0
        self._path = path
        self._sensor = sensor
        self._latest: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, events: EventBatch) -> None:
        """Write events that are not earlier than those before.

        Raises
        ------
        OutputError
            If times go back, an event lies outside the sensor, or the file cannot be written.
        """
        if not len(events):
            return
        if (self._latest is not None and int(events.t[0]) < self._latest) or (events.t[1:] < events.t[:-1]).any():
            raise OutputError(f"{self._path}: times go back, which no recording may")
        if int(events.x.max()) >= self._sensor.width or int(events.y.max()) >= self._sensor.height:
            raise OutputError(f"{self._path}: an event lies outside the {self._sensor} sensor")
        if self._latest is None:
            self.base_us = self._base(int(events.t[0]))
        self._latest = int(events.t[-1])
        self.events += len(events)
        if self.base_us:
            events = EventBatch(events.t - self.base_us, events.x, events.y, events.p)
        try:
            self._write(events)
        except OSError as error:
            raise OutputError(f"{self._path}: {error.strerror or error}") from error

    @abstractmethod
    def close(self) -> None:
        """Complete the file."""

    @abstractmethod
    def _write(self, events: EventBatch) -> None: ...

    def _base(self, _first_us: int) -> int:
        return 0


class _Aedat4(EventWriter):
    def __init__(self, path: Path, sensor: SensorSize) -> None:
        super().__init__(path, sensor)
        require("dv_processing", "writing AEDAT4", extra="clients")
        try:
            self._writer = Aedat4Writer(path, sensor)
        except Aedat4Error as error:
            raise OutputError(f"{path}: {error}") from error

    def close(self) -> None:
        self._writer.close()

    def _write(self, events: EventBatch) -> None:
        self._writer.write(events)


class _Npz(EventWriter):
    """Held in memory until it is closed, as the format wants it."""

    def __init__(self, path: Path, sensor: SensorSize) -> None:
        super().__init__(path, sensor)
        self._parts: list[EventBatch] = []
        self._closed = False

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        events = EventBatch.concatenate(self._parts)
        try:
            with self._path.open("wb") as file:
                np.savez_compressed(
                    file,
                    t=events.t,
                    x=events.x,
                    y=events.y,
                    p=events.p,
                    width=np.int64(self._sensor.width),
                    height=np.int64(self._sensor.height),
                )
        except OSError as error:
            raise OutputError(f"{self._path}: {error.strerror or error}") from error

    def _write(self, events: EventBatch) -> None:
        self._parts.append(events)


class _Prophesee(EventWriter):
    def __init__(self, path: Path, sensor: SensorSize, encoding: str) -> None:
        super().__init__(path, sensor)
        limit = {"EVT2": 2048, "EVT3": 2048, "DAT": 16384}[encoding]
        if max(sensor.width, sensor.height) > limit:
            raise OutputError(f"{path}: {encoding} cannot hold coordinates of a {sensor} sensor")
        self._encoding = encoding
        self._state: int | None = None
        self._file = path.open("wb")
        if encoding == "DAT":
            header = (
                f"% Data file containing CD events.\n% Version 2\n% Width {sensor.width}\n% Height {sensor.height}\n"
            )
            self._file.write(header.encode() + bytes([0x0C, 8]))
        else:
            version = "2.0" if encoding == "EVT2" else "3.0"
            header = (
                f"% evt {version}\n% format {encoding};height={sensor.height};width={sensor.width}\n"
                f"% geometry {sensor.width}x{sensor.height}\n% end\n"
            )
            self._file.write(header.encode())

    def close(self) -> None:
        self._file.close()

    def _write(self, events: EventBatch) -> None:
        if self._encoding == "DAT":
            self._file.write(encode_dat(events))
            return
        encode = encode_evt2 if self._encoding == "EVT2" else encode_evt3
        data, self._state = encode(events, self._state)
        self._file.write(data)

    def _base(self, first_us: int) -> int:
        longest = {"EVT2": 1 << 34, "EVT3": 1 << 24, "DAT": 1 << 32}[self._encoding]
        return first_us if first_us >= longest else 0


class _Dsec(EventWriter):
    def __init__(self, path: Path, sensor: SensorSize) -> None:
        super().__init__(path, sensor)
        h5py = require("h5py", "writing HDF5")
        plugin = require("hdf5plugin", "writing HDF5")
        self._h5 = h5py.File(path, "w")
        self._h5.attrs.update(width=sensor.width, height=sensor.height)
        packed = {"maxshape": (None,), "chunks": (_DSEC_CHUNK,), **plugin.Blosc(cname="zstd")}
        self._columns = {
            name: self._h5.create_dataset(f"events/{name}", (0,), dtype, **packed)
            for name, dtype in (("t", "u4"), ("x", "u2"), ("y", "u2"), ("p", "u1"))
        }
        self._index: list[int] = []
        self._offset = 0

    def close(self) -> None:
        if not self._h5:
            return
        self._h5.create_dataset("t_offset", data=np.int64(self._offset))
        self._h5.create_dataset("ms_to_idx", data=np.array(self._index or [0], np.uint64))
        self._h5.close()

    def _write(self, events: EventBatch) -> None:
        first = self.events - len(events)
        if not first:
            self._offset = int(events.t[0])
        t = events.t - self._offset
        if int(t[-1]) >= 1 << 32:
            raise OutputError(f"{self._path}: DSEC's layout holds no more than 71 minutes")
        # The first event at or after each millisecond; the last one so far may not be known yet.
        known = len(self._index)
        marks = np.arange(known, int(t[-1]) // 1000 + 1) * 1000
        self._index += (first + np.searchsorted(t, marks)).tolist()
        for name, values in (("t", t), ("x", events.x), ("y", events.y), ("p", events.p)):
            column = self._columns[name]
            column.resize(self.events, axis=0)
            column[first:] = values


def open_writer(path: Path, sensor: SensorSize) -> EventWriter:
    """Begin a recording; an existing file is replaced.

    Parameters
    ----------
    path : Path
        Its end chooses the format, see ``FORMATS``.
    sensor : SensorSize

    Raises
    ------
    OutputError
        If the name's end is another, the format cannot hold such a sensor, or the file cannot be written.
    MissingExtraError
    """
    suffix = ".evt2.raw" if path.name.endswith(".evt2.raw") else path.suffix
    try:
        match suffix:
            case ".aedat4":
                return _Aedat4(path, sensor)
            case ".npz":
                return _Npz(path, sensor)
            case ".raw":
                return _Prophesee(path, sensor, "EVT3")
            case ".evt2.raw":
                return _Prophesee(path, sensor, "EVT2")
            case ".dat":
                return _Prophesee(path, sensor, "DAT")
            case ".h5" | ".hdf5":
                return _Dsec(path, sensor)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror or error}") from error
    known = ", ".join(f"{end} ({name})" for end, name in FORMATS.items())
    raise OutputError(f"{path}: the name should end in one of {known}")
