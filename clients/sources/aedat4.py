"""AEDAT4 files of iniVation's cameras."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clients.errors import RecordingError
from clients.sources.source import Source
from models.events import EventBatch
from service.wire.aedat4 import Aedat4Error, Aedat4Reader


class Aedat4Source(Source):
    """The events of an AEDAT4 file's first camera, in bounded memory, to the last one.

    The native parser runs in a process of its own, which a damaged file may crash.

    Raises
    ------
    RecordingError
        Here or while iterating: the file cannot be opened, is not AEDAT4, holds no events, is damaged or cut off.
    """

    format = "AEDAT4"

    def __init__(self, path: Path, *, ordered: bool = True) -> None:
        self._path = path
        self._reader: Aedat4Reader | None = self._open()
        super().__init__(str(path), self._reader.sensor, ordered=ordered)

    def close(self) -> None:
        """End the parser."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _read(self) -> Iterator[EventBatch]:
        reader, self._reader = self._reader or self._open(), None
        with reader:
            while True:
                try:
                    batch = next(reader)
                except StopIteration:
                    return
                except Aedat4Error as error:
                    raise RecordingError(f"{self._path}: {error}") from error
                yield batch

    def _open(self) -> Aedat4Reader:
        try:
            return Aedat4Reader(self._path)
        except OSError as error:
            raise RecordingError(f"{self._path}: {error.strerror or error}") from error
        except Aedat4Error as error:
            raise RecordingError(f"{self._path}: {error}") from error
