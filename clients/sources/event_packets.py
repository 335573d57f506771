"""Payloads of ``event_camera_msgs/EventPacket`` to events, as ``event_camera_codecs`` has them."""

from __future__ import annotations

import numpy as np

from clients.errors import RecordingError
from clients.sources.evt import Decoder, Evt2Decoder, Evt3Decoder, unwrap
from clients.sources.source import to_events
from models.events import EventBatch

# Their times are the camera's own; the others' are the messages'.
_WORDS: dict[str, type[Decoder]] = {"evt2": Evt2Decoder, "evt3": Evt3Decoder}


class PacketDecoder:
    """Decodes the packets of one topic, in the order in which they come: ``mono``, ``libcaer``, ``evt2``, ``evt3``.

    Parameters
    ----------
    name : str
        Of the topic or file, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._decoders: dict[str, Decoder] = {}
        self._shift_us: int | None = None

    def decode(
        self, encoding: str, data: bytes, *, time_base: int, is_bigendian: bool, stamp_us: int | None = None
    ) -> EventBatch:
        """The events of a packet, in microseconds; ``time_base`` is in nanoseconds.

        With the stamp of its message, a camera that counts by a clock of its own (``evt2``, ``evt3``) is taken to have
        seen the topic's first event then; without it, times are the camera's.

        Raises
        ------
        RecordingError
            If the packet has another encoding or byte order, or is cut short.
        """
        if is_bigendian:
            raise RecordingError("its packets are big-endian")
        if encoding in ("mono", "libcaer"):
            if len(data) % 8:
                raise RecordingError(f"a packet of {len(data)} bytes is cut short: an event has 8")
            return self._mono(data, time_base) if encoding == "mono" else self._libcaer(data, time_base)
        if encoding not in _WORDS:
            raise RecordingError(f"its packets are encoded as {encoding!r}; mono, libcaer, evt2 and evt3 can be read")
        if encoding not in self._decoders:
            self._decoders[encoding] = _WORDS[encoding]()
        events = self._decoders[encoding].decode(data)
        if stamp_us is None or not len(events):
            return events
        if self._shift_us is None:
            self._shift_us = stamp_us - int(events.t[0])
        return EventBatch(events.t + self._shift_us, events.x, events.y, events.p)

    def _mono(self, data: bytes, time_base: int) -> EventBatch:
        """Words of 64 bits: nanoseconds after ``time_base`` (32), x (16), y (15), polarity."""
        words = np.frombuffer(data, "<u8")
        t = (time_base + (words & 0xFFFFFFFF).astype(np.int64)) // 1000
        x, y, p = words >> 32 & 0xFFFF, words >> 48 & 0x7FFF, words >> 63
        return to_events(t, x.astype(np.int64), y.astype(np.int64), p.astype(np.int64), self._name)

    def _libcaer(self, data: bytes, time_base: int) -> EventBatch:
        """Words of 32 bits: polarity (bit 1), y (15), x (15); then microseconds (31) after ``time_base``."""
        words = np.frombuffer(data, "<u4").reshape(-1, 2).astype(np.int64)
        about, t = words[:, 0], unwrap(words[:, 1], -1, 1 << 31) + time_base // 1000
        return to_events(t, about >> 17, about >> 2 & 0x7FFF, about >> 1 & 1, self._name)
