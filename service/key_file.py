"""The file that the API keys stand in, read again when it changes."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from service.auth import ApiKey, KeyRecordError, KeyRing, read_keys, to_line

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
_MAX_BYTES = 4 << 20


class KeyFileError(ValueError):
    """A file of keys that cannot be used; the message says why."""


class KeyFile:
    """Keys that follow their file: it is looked at once a second, when somebody asks.

    A file that cannot be read any more changes nothing: the keys that were read last stay valid, and the log and
    ``problem`` say so.

    Parameters
    ----------
    path : Path
    clock : callable
        Seconds that only go forward.

    Attributes
    ----------
    problem : str or None
        Why the file could not be read the last time.

    Raises
    ------
    KeyFileError
        If the file cannot be read now.
    """

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.problem: str | None = None
        self._path = path
        self._clock = clock
        self._looked_at = clock()
        self._mark = _mark(path)
        self._ring = load_keys(path)
        if not self._ring.keys:
            logger.warning("the file of keys is empty: nobody is let in")

    @property
    def ring(self) -> KeyRing:
        """The keys as they are now."""
        if self._clock() - self._looked_at >= LOOK_SECONDS:
            self.look()
        return self._ring

    def look(self, *, force: bool = False) -> None:
        """Read the file if it has changed, or with ``force`` in any case."""
        self._looked_at = self._clock()
        mark = _mark(self._path)
        if mark == self._mark and not force:
            return
        self._mark = mark
        try:
            self._ring = load_keys(self._path)
        except KeyFileError as error:
            self.problem = str(error)
            logger.error("the keys have not been read again, those from before stay valid: %s", error)
        else:
            self.problem = None
            logger.info("the keys have been read again: there are %d", len(self._ring.keys))


def load_keys(path: Path) -> KeyRing:
    """Read a file of keys.

    Raises
    ------
    KeyFileError
        If it is not there, cannot be read, or a line of it is not in order.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise KeyFileError(f"{path} is larger than {_MAX_BYTES} bytes")
        return read_keys(data.decode())
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise KeyFileError(f"{path} is no text in UTF-8") from None
    except KeyRecordError as error:
        raise KeyFileError(f"{path}, {error}") from None


def add_key(path: Path, key: ApiKey) -> None:
    """Append a key; the file is made, readable for its owner alone, if need be.

    Raises
    ------
    KeyFileError
        If the file cannot be read or written.
    """
    lines = _lines(path) if path.exists() else []
    _write(path, [*lines, to_line(key)])


def remove_keys(path: Path, keys: KeyRing) -> None:
    """Take keys out of a file; comments stay.

    Raises
    ------
    KeyFileError
        If the file cannot be read or written.
    """
    _write(path, [line for line in _lines(path) if not _is_one_of(line, keys)])


def _is_one_of(line: str, keys: KeyRing) -> bool:
    return any(key in keys.keys for key in read_keys(line).keys)


def _lines(path: Path) -> list[str]:
    load_keys(path)
    return path.read_text().splitlines()


def _write(path: Path, lines: list[str]) -> None:
    """Replace the file in one step, so that nobody ever reads half of it."""
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w") as file:
                file.writelines(line + "\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(mode)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror or error}") from None


def _mark(path: Path) -> tuple[int, int, int] | None:
    """What tells one version of the file from the next."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
