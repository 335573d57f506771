"""AEDAT4 recordings to events and back, through dv-processing.

Files are parsed by :mod:`service.wire.aedat4_worker` in a short-lived process with bounded time and memory, because the
parser is native code that a damaged file can crash or hang. What comes back is checked here.

dv-processing is imported only by those who write a file, so that the service starts without it.
"""

from __future__ import annotations

import math
import os
import signal
import struct
import subprocess  # nosec B404
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

import numpy as np

from models.events import EventBatch, SensorSize
from service.wire.errors import WireError

MAGIC = b"#!AER-DAT4"
WORKER = Path(__file__).with_name("aedat4_worker.py")
MEMORY_BYTES = 2 << 30
"""Address space of the worker. Importing dv-processing alone takes a third of a gigabyte."""
OPEN_CPU_SECONDS = 2.0
OPEN_CPU_SECONDS_PER_BYTE = 2e-8
"""Processor time for opening a file, which may mean to walk through all of it."""
PACKET_CPU_SECONDS = 0.5
"""Processor time for unpacking one packet; it takes a millisecond."""
MAX_MESSAGE_BYTES = 1 << 20
WRITE_CHUNK = 65_536

_HEADER = struct.Struct("<cI")
_SIZE = struct.Struct("<ii")
_EVENT_BYTES = 13


class Aedat4Error(WireError):
    """A file that cannot be read as an AEDAT4 recording of events; the message says what is wrong with it."""


class Aedat4Reader:
    """Events of an AEDAT4 file, in chunks, in bounded memory.

    A context manager and an iterator of :class:`~models.events.EventBatch`. If the file holds several cameras, the
    first one is read.

    Parameters
    ----------
    path : str or path
    timeout_s : float
        Longest wait for the size and for each chunk, in seconds.
    total_timeout_s : float
        Longest wait for all of them together.

    Attributes
    ----------
    sensor : SensorSize

    Raises
    ------
    OSError
        If the file cannot be opened.
    Aedat4Error
        Here or while iterating: the file is empty, is not AEDAT4, holds no events, is damaged or cut off, holds
        negative coordinates or ones outside its sensor, holds times that go back, or takes too long to parse.
    """

    sensor: SensorSize

    def __init__(
        self, path: str | os.PathLike[str], *, timeout_s: float = 30.0, total_timeout_s: float = math.inf
    ) -> None:
        source = Path(path)
        with source.open("rb") as file:
            _check_magic(file.read(16))
        self._timeout_s = timeout_s
        self._left_s = total_timeout_s
        self._last_t = -1
        self._done = False
        self._folder = tempfile.TemporaryDirectory(prefix="aedat4-")
        try:
            # dv-processing wants the suffix, whatever the file is called.
            link = Path(self._folder.name) / "recording.aedat4"
            link.symlink_to(source.resolve())
            open_seconds = OPEN_CPU_SECONDS + OPEN_CPU_SECONDS_PER_BYTE * source.stat().st_size
            limits = [str(MEMORY_BYTES), str(open_seconds), str(PACKET_CPU_SECONDS)]
            command = [sys.executable, "-P", str(WORKER), str(link), *limits]
            self._process = subprocess.Popen(  # nosec B603
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except BaseException:
            self._folder.cleanup()
            raise
        try:
            kind, payload = self._message()
            if kind != b"S" or len(payload) != _SIZE.size:
                raise self._broken()
            width, height = _SIZE.unpack(payload)
            if not (0 < width <= 0x7FFF and 0 < height <= 0x7FFF):
                raise Aedat4Error(f"the file gives its sensor a size of {width}x{height} pixels")
            self.sensor = SensorSize(width, height)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[EventBatch]:
        return self

    def __next__(self) -> EventBatch:
        if self._done:
            raise StopIteration
        try:
            kind, payload = self._message()
            if kind == b"Z":
                self.close()
                raise StopIteration
            if kind != b"E" or len(payload) % _EVENT_BYTES:
                raise self._broken()
            return self._events(payload)
        except Aedat4Error:
            self.close()
            raise

    def close(self) -> None:
        """End the worker; harmless when it has ended."""
        self._done = True
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._folder.cleanup()

    def _events(self, payload: bytes) -> EventBatch:
        n = len(payload) // _EVENT_BYTES
        t = np.frombuffer(payload, "<i8", n)
        x = np.frombuffer(payload, "<i2", n, offset=8 * n)
        y = np.frombuffer(payload, "<i2", n, offset=10 * n)
        p = np.frombuffer(payload, "i1", n, offset=12 * n)
        if n == 0:
            return EventBatch.empty()
        if x.min() < 0 or y.min() < 0:
            raise Aedat4Error("the file holds events with negative coordinates")
        if x.max() >= self.sensor.width or y.max() >= self.sensor.height:
            at = int(np.argmax((x >= self.sensor.width) | (y >= self.sensor.height)))
            raise Aedat4Error(
                f"the file holds an event at ({x[at]}, {y[at]}), outside of its sensor of {self.sensor} pixels"
            )
        if t[0] < 0:
            raise Aedat4Error("the file holds events with negative times")
        if t[0] < self._last_t or (t[1:] < t[:-1]).any():
            raise Aedat4Error("the file holds events whose times go back")
        self._last_t = int(t[-1])
        return EventBatch(t.astype(np.int64), x.astype(np.uint16), y.astype(np.uint16), (p != 0).astype(np.uint8))

    def _message(self) -> tuple[bytes, bytes]:
        """The worker's next message, waiting no longer than is allowed."""
        assert self._process.stdout is not None
        late = threading.Event()
        patience_s = min(self._timeout_s, self._left_s)

        def give_up() -> None:
            late.set()
            self._process.kill()

        begin = time.monotonic()
        clock = threading.Timer(max(patience_s, 0.0), give_up)
        clock.daemon = True
        clock.start()
        try:
            header = _read_exactly(self._process.stdout, _HEADER.size)
            kind, length = _HEADER.unpack(header) if header is not None else (b"", 0)
            ok = header is not None and length <= MAX_MESSAGE_BYTES
            payload = _read_exactly(self._process.stdout, length) if ok else None
        finally:
            clock.cancel()
            self._left_s -= time.monotonic() - begin
        if late.is_set():
            raise Aedat4Error("parsing the file took too long: it may be damaged, or too large for the time allowed")
        if payload is None:
            raise self._broken()
        if kind == b"X":
            raise Aedat4Error(_explain(payload.decode(errors="replace")))
        return kind, payload

    def _broken(self) -> Aedat4Error:
        """The worker ended, or said something that it should not."""
        self.close()
        if hasattr(signal, "SIGPROF") and self._process.returncode == -signal.SIGPROF:
            return Aedat4Error("parsing the file took too long: it is damaged")
        return Aedat4Error("the file is damaged: the AEDAT4 parser broke down on it")


def read_aedat4(data: bytes, *, timeout_s: float = 30.0, max_events: int = 50_000_000) -> tuple[EventBatch, SensorSize]:
    """Read an AEDAT4 file that is in memory.

    Parameters
    ----------
    data : bytes
        The whole file.
    timeout_s : float
        Longest time spent waiting for the parser, in seconds.
    max_events : int
        A file may unpack to hundreds of times its size; beyond this many events it is refused.

    Returns
    -------
    events : EventBatch
        Ordered by time.
    sensor : SensorSize

    Raises
    ------
    Aedat4Error
        As for :class:`Aedat4Reader`, or if there are more than ``max_events`` events.
    """
    _check_magic(data[:16])
    with tempfile.TemporaryDirectory(prefix="aedat4-") as folder:
        path = Path(folder) / "upload.aedat4"
        path.write_bytes(data)
        return read_aedat4_file(path, timeout_s=timeout_s, max_events=max_events)


def read_aedat4_file(
    path: str | os.PathLike[str], *, timeout_s: float = 30.0, max_events: int = 50_000_000
) -> tuple[EventBatch, SensorSize]:
    """Read a whole AEDAT4 file; parameters, result and errors are those of :func:`read_aedat4`.

    Raises
    ------
    OSError
        If the file cannot be opened.
    """
    chunks: list[EventBatch] = []
    count = 0
    with Aedat4Reader(path, timeout_s=timeout_s, total_timeout_s=timeout_s) as reader:
        for chunk in reader:
            count += len(chunk)
            if count > max_events:
                raise Aedat4Error(f"the file holds more than {max_events} events; read it in parts")
            chunks.append(chunk)
        return EventBatch.concatenate(chunks), reader.sensor


def write_aedat4(
    path: str | os.PathLike[str],
    events: EventBatch,
    sensor: SensorSize,
    *,
    compression: Literal["none", "lz4", "lz4_high", "zstd", "zstd_high"] = "lz4",
    camera: str = "spikeseg",
) -> None:
    """Write events as an AEDAT4 file.

    dv-processing takes events one at a time, a few million in a second.

    Parameters
    ----------
    path : str or path
        Must end in ``.aedat4``; an existing file is replaced.
    events : EventBatch
        Ordered by time.
    sensor : SensorSize
    compression : str
    camera : str
        Name of the camera, as readers will show it.

    Raises
    ------
    Aedat4Error
        If the suffix is another, times go back or are negative, or an event lies outside the sensor.
    OSError
        If the file cannot be written.
    """
    with Aedat4Writer(path, sensor, compression=compression, camera=camera) as writer:
        writer.write(events)


class Aedat4Writer:
    """An AEDAT4 file that is written piece by piece; a context manager. It is whole once it has been closed.

    The parameters and errors are those of :func:`write_aedat4`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        sensor: SensorSize,
        *,
        compression: Literal["none", "lz4", "lz4_high", "zstd", "zstd_high"] = "lz4",
        camera: str = "spikeseg",
    ) -> None:
        target = Path(path)
        if target.suffix != ".aedat4":
            raise Aedat4Error(f"the file name must end in .aedat4, got {target.name!r}")

        import dv_processing as dv

        # dv-processing reports a path that cannot be written in its own way; this does it in Python's.
        target.open("wb").close()
        kind = dv.CompressionType.__members__[compression.upper()]
        config = dv.io.MonoCameraWriter.EventOnlyConfig(camera, (sensor.width, sensor.height), kind)
        self._dv = dv
        self._writer = dv.io.MonoCameraWriter(str(target), config)
        self._sensor = sensor
        self._latest = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, events: EventBatch) -> None:
        """Write events that are not earlier than those before."""
        if not len(events):
            return
        if int(events.x.max()) >= self._sensor.width or int(events.y.max()) >= self._sensor.height:
            raise Aedat4Error(f"an event lies outside of the sensor of {self._sensor} pixels")
        if events.t[0] < self._latest or (events.t[1:] < events.t[:-1]).any():
            raise Aedat4Error("event times are negative or go back")
        self._latest = int(events.t[-1])
        for first in range(0, len(events), WRITE_CHUNK):
            part = events[first : first + WRITE_CHUNK]
            store = self._dv.EventStore()
            for event in zip(part.t.tolist(), part.x.tolist(), part.y.tolist(), (part.p != 0).tolist(), strict=True):
                store.push_back(event)
            self._writer.writeEvents(store)

    def close(self) -> None:
        """Complete the file; harmless when that has been done."""
        # It is completed when dv-processing's writer is destroyed.
        self._writer = None


def _check_magic(head: bytes) -> None:
    """Tell other files from AEDAT4 before any native code sees them."""
    if not head:
        raise Aedat4Error("the file is empty")
    if head.startswith(MAGIC):
        return
    if head.startswith(b"#!AER-DAT"):
        version = head[9:12].decode("ascii", errors="replace").strip()
        raise Aedat4Error(f"this is an AEDAT file of version {version}; only AEDAT4 can be read")
    raise Aedat4Error("this is not an AEDAT4 file: it does not begin with '#!AER-DAT4'")


def _explain(reason: str) -> str:
    """The parser's reason, put in words for those who only have the file."""
    lowered = reason.lower()
    if "truncated" in lowered or "endoffile" in lowered or "end-of-file" in lowered:
        return f"the file is cut off or damaged ({reason})"
    if reason.startswith(("there is no", "the file does not", "reading it takes")):
        return reason
    return f"the file is damaged ({reason})"


def _read_exactly(stream: IO[bytes], n: int) -> bytes | None:
    """The next ``n`` bytes, or None if the stream ends before."""
    data = stream.read(n)
    return data if len(data) == n else None
