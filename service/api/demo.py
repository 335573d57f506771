"""The bundled demo recording, as event packets."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from service.errors import RecordingNotFoundError
from service.streaming.engine import Engine
from service.wire.errors import WireError
from service.wire.events import encode_packets

logger = logging.getLogger(__name__)


def recording_to_packets(data: bytes) -> bytes:
    """An AEDAT4 file as event packets, one after the other.

    Raises
    ------
    WireError
        If the file cannot be read.
    """
    # Imported here, so that the service starts without dv-processing.
    from service.wire.aedat4 import read_aedat4

    events, sensor = read_aedat4(data)
    return b"".join(encode_packets(events, sensor))


class DemoRecording:
    """Reads the recording when it is first asked for, and keeps its packets."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self._path = path
        self._engine = engine
        self._packets: bytes | None = None
        self._lock = asyncio.Lock()

    async def packets(self) -> bytes:
        """The recording as event packets.

        Raises
        ------
        RecordingNotFoundError
            If it is not on this machine, or cannot be read.
        """
        async with self._lock:
            if self._packets is None:
                try:
                    self._packets = await self._engine.offload_slow(_read, self._path)
                except (OSError, WireError) as error:
                    logger.error("demo recording %s: %s", self._path, error)
                    raise RecordingNotFoundError("this server has no demo recording") from error
            return self._packets


def _read(path: Path) -> bytes:
    return recording_to_packets(path.read_bytes())
