"""What a stream is fed with: events and words about time, or frames."""

from __future__ import annotations

from dataclasses import dataclass

from clients.pictures import Picture
from models.events import EventBatch


@dataclass(frozen=True, slots=True)
class Advance:
    """Every event before a time has been sent: windows that end there are answered, though no event has come since.

    Attributes
    ----------
    until_us : int
        Microseconds of the sensor's clock.
    """

    until_us: int


@dataclass(frozen=True, slots=True)
class Flush:
    """Answer the open window now, if it holds events; later events of its time are then too early."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A frame of a camera, for a stream with ``StreamOptions(frames=…)``: everything up to its time has come.

    Attributes
    ----------
    t_us : int
        Microseconds, later than the frame before.
    picture : uint8 array (H, W) or (H, W, 3), or bytes
        Grey or RGB pixels, or a PNG, JPEG or WebP file; of the sensor's size. The service sees its brightness.
    """

    t_us: int
    picture: Picture


Item = EventBatch | Advance | Flush | Frame
