"""How a stream is cut into windows, and what one message may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from models.filters import FilterConfig
from service.streaming.windowing.documents import integer, members, refusal, word
from service.streaming.windowing.errors import SnapshotError
from service.streaming.windowing.noise import config_from_json, config_to_json
from service.wire.events import MAX_TIME_US

Gaps = Literal["step", "leak"]
OnRestart = Literal["refuse", "reset"]

MIN_WRAP_BITS = 8
MAX_WRAP_BITS = 52


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """What one message may do.

    Attributes
    ----------
    windows : int
        Most windows that it may close.
    events : int
        Most events in one window, and most that wait in the reorder buffer.
    """

    windows: int
    events: int


@dataclass(frozen=True, slots=True)
class TimeWindows:
    """Windows of equal time.

    Attributes
    ----------
    us : int
        Length in microseconds.
    stride_us : int
        From the end of one window to the end of the next, in microseconds; at most ``us``. Windows end at its multiples
        on the sensor's clock, and overlap if it is shorter than ``us``.

    Raises
    ------
    ValueError
        If it is not so.
    """

    us: int
    stride_us: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride_us <= self.us <= MAX_TIME_US:
            raise ValueError(f"stride_us must lie between 1 and us = {self.us}, and us be at most {MAX_TIME_US}")

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"kind": "time", "us": self.us, "stride_us": self.stride_us}


@dataclass(frozen=True, slots=True)
class CountWindows:
    """Windows of equally many events.

    Attributes
    ----------
    count : int
        Events in a window.
    stride : int
        Events from the beginning of one window to that of the next; at most ``count``.

    Raises
    ------
    ValueError
        If it is not so.
    """

    count: int
    stride: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.count <= MAX_TIME_US:
            raise ValueError(f"stride must lie between 1 and count = {self.count}, and count be at most {MAX_TIME_US}")

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"kind": "count", "count": self.count, "stride": self.stride}


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """How a stream is read and cut into windows.

    Attributes
    ----------
    window : TimeWindows or CountWindows
    gaps : "step" or "leak"
        Whether windows of time without events are given ("step"), or only counted in the next window ("leak").
    reorder_us : int
        How late an event may come, in microseconds; with 0 the events must be ordered.
    wrap_bits : int or None
        Bits of the sensor's clock, which overflows; None if it does not.
    on_restart : "refuse" or "reset"
        What an earlier time than could come means: an error of the sender, or that the sensor's clock began anew.
    filter : FilterConfig or None
        What is done against the sensor's noise before windows are cut.

    Raises
    ------
    ValueError
        If ``reorder_us`` is negative or too large, or a quarter of the clock's range is shorter than it, or
        ``wrap_bits`` does not lie between ``MIN_WRAP_BITS`` and ``MAX_WRAP_BITS``.
    """

    window: TimeWindows | CountWindows
    gaps: Gaps = "step"
    reorder_us: int = 0
    wrap_bits: int | None = None
    on_restart: OnRestart = "refuse"
    filter: FilterConfig | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.reorder_us <= MAX_TIME_US:
            raise ValueError(f"reorder_us must lie between 0 and {MAX_TIME_US}")
        if self.wrap_bits is None:
            return
        if not MIN_WRAP_BITS <= self.wrap_bits <= MAX_WRAP_BITS:
            raise ValueError(f"wrap_bits must lie between {MIN_WRAP_BITS} and {MAX_WRAP_BITS}")
        # Later than that, an event from before an overflow could not be told from one after a long silence.
        if self.reorder_us > 1 << (self.wrap_bits - 2):
            raise ValueError(
                f"reorder_us must be at most {1 << (self.wrap_bits - 2)} for a clock of {self.wrap_bits} bits"
            )

    @property
    def ordered(self) -> bool:
        """Whether the events of a batch must be ordered by time."""
        return self.reorder_us == 0 and self.wrap_bits is None

    @property
    def disjoint(self) -> bool:
        """Whether each event is in one window only."""
        match self.window:
            case TimeWindows(us, stride_us):
                return us == stride_us
            case CountWindows(count, stride):
                return count == stride

    def to_json(self) -> dict[str, Any]:
        """As plain values that ``from_json`` reads; a filter only where there is one, for servers that know of none."""
        about = {
            "window": self.window.to_json(),
            "gaps": self.gaps,
            "reorder_us": self.reorder_us,
            "wrap_bits": self.wrap_bits,
            "on_restart": self.on_restart,
        }
        return about if self.filter is None else about | {"filter": config_to_json(self.filter)}

    @classmethod
    def from_json(cls, document: object) -> StreamConfig:
        """Read what ``to_json`` made.

        Raises
        ------
        SnapshotError
            If it is anything else.
        """
        names = ("window", "gaps", "reorder_us", "wrap_bits", "on_restart")
        filters = isinstance(document, dict) and "filter" in document
        fields = members(document, "config", (*names, "filter") if filters else names)
        gaps = word(fields, "gaps", get_args(Gaps))
        on_restart = word(fields, "on_restart", get_args(OnRestart))
        reorder_us = integer(fields, "reorder_us", 0)
        wrap_bits = None if fields["wrap_bits"] is None else integer(fields, "wrap_bits", MIN_WRAP_BITS, MAX_WRAP_BITS)
        filter = config_from_json(fields["filter"]) if filters else None
        try:
            window = _window_from_json(fields["window"])
            return cls(window, cast(Gaps, gaps), reorder_us, wrap_bits, cast(OnRestart, on_restart), filter)
        except ValueError as error:
            raise SnapshotError(f"the config cannot be used: {error}") from None


def _window_from_json(document: object) -> TimeWindows | CountWindows:
    if not isinstance(document, dict) or "kind" not in document:
        raise refusal("window", "must be an object with a kind")
    if word(document, "kind", ("time", "count")) == "time":
        fields = members(document, "window", ("kind", "us", "stride_us"))
        return TimeWindows(integer(fields, "us", 1), integer(fields, "stride_us", 1))
    fields = members(document, "window", ("kind", "count", "stride"))
    return CountWindows(integer(fields, "count", 1), integer(fields, "stride", 1))
