"""Errors of the codecs.

WireError
 ├── PacketError   an event packet, or events in JSON, that cannot be read or written
 ├── MessageError  a binary message that is not framed as the protocol says
 ├── FrameError    a frame or picture that cannot be read or written
 ├── MaskError     a mask that cannot be encoded, or bytes that are not such a mask
 └── Aedat4Error   a file that cannot be read as an AEDAT4 recording (in :mod:`service.wire.aedat4`)
"""

from __future__ import annotations


class WireError(Exception):
    """Base of every error that the codecs raise on purpose.

    Parameters
    ----------
    message : str
        What is wrong, in words that the sender can act on.
    field : str, optional
        The field that is to blame, named as the wire contract names it.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class PacketError(WireError):
    """An event packet, or events in JSON, that cannot be read or written."""


class MessageError(WireError):
    """A binary message that is not framed as the protocol says."""


class FrameError(WireError):
    """A frame or picture that cannot be read or written."""


class MaskError(WireError):
    """A mask that cannot be encoded, or bytes that are not such a mask."""
