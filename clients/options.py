"""How a stream is cut, timed and queued, beyond the length of its windows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class FrameOptions:
    """How the service turns frames into events: an emulated event sensor, whose memory is part of the session.

    The service's defaults where nothing is said; ``models/emulator.py`` has the model.

    Attributes
    ----------
    contrast_on, contrast_off : float, optional
        Thresholds, as a change of the natural log of intensity, 0.05 to 3.
    threshold_sigma : float, optional
        Their standard deviation over the pixels.
    refractory_us : int, optional
        Dead time of a pixel after an event, in microseconds.
    noise_rate_hz : float, optional
        Background events of each pixel in a second.
    seed : int, optional
        Of the thresholds' spread and the noise: the same frames with the same seed give the same masks.
    """

    contrast_on: float | None = None
    contrast_off: float | None = None
    threshold_sigma: float | None = None
    refractory_us: int | None = None
    noise_rate_hz: float | None = None
    seed: int | None = None

    def hello(self) -> dict[str, Any]:
        """The field of a hello that asks for this."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What a session is asked for; the service's defaults where nothing is said. docs/protocol.md explains each.

    Attributes
    ----------
    stride_us : int, optional
        Windows of time end every so many microseconds, and overlap if that is less than their length.
    window_events, stride_events : int, optional
        Windows of so many events, in place of a time, every so many events.
    gaps : str
        ``step`` answers windows without events like others; ``leak`` passes over them: membranes leak, nothing is
        computed or answered.
    reorder_us : int
        Events may come late by so many microseconds.
    wrap_bits : int, optional
        Bits of the sensor's clock, which overflows.
    on_restart : str
        If time goes back further: ``refuse`` the events, or take the sensor to have begun anew and ``reset``.
    queue : str
        When windows come faster than they are computed: ``wait``, ``drop-oldest`` or ``merge``.
    queue_windows : int, optional
        Windows that may wait if they are dropped or merged.
    deadline_ms : float, optional
        How long after its events have arrived a window's computation should begin, in milliseconds.
    filter_background_us : int
        Background activity is dropped: events without one at a neighbouring pixel within so many microseconds before; 0
        leaves it in.
    filter_refractory_us : int
        Events are dropped that follow another one of their pixel within so many microseconds.
    filter_hot : bool
        Pixels are silenced that are far more active than the others during the first second.
    lost_session : str
        If the service no longer has the session, as after a restart without a state store: ``raise``
        :class:`~clients.errors.UnknownSessionError`, or ``restart``: go on in a new session with the same numbers of
        windows, none lost. Its membranes are warmed up with the last events again, and so nearly what they were; the
        first result says so in ``skipped.restart``. Needs windows of time and times that do not run back.
    frames : FrameOptions, optional
        The stream takes :class:`~clients.items.Frame` in place of events, which the service makes of them.
    """

    stride_us: int | None = None
    window_events: int | None = None
    stride_events: int | None = None
    gaps: Literal["step", "leak"] = "step"
    reorder_us: int = 0
    wrap_bits: int | None = None
    on_restart: Literal["refuse", "reset"] = "refuse"
    queue: Literal["wait", "drop-oldest", "merge"] = "wait"
    queue_windows: int | None = None
    deadline_ms: float | None = None
    filter_background_us: int = 0
    filter_refractory_us: int = 0
    filter_hot: bool = False
    lost_session: Literal["raise", "restart"] = "raise"
    frames: FrameOptions | None = None

    @property
    def ordered(self) -> bool:
        """Whether times must not run back."""
        return not self.reorder_us and self.wrap_bits is None and self.on_restart == "refuse"

    @property
    def lossless(self) -> bool:
        """Whether every window is answered."""
        return self.queue == "wait"

    def hello(self, window_us: int | None) -> dict[str, Any]:
        """The fields of a hello that ask for this."""
        window = {
            "us": window_us,
            "stride_us": self.stride_us,
            "count": self.window_events,
            "stride": self.stride_events,
        }
        window = {name: value for name, value in window.items() if value is not None}
        time = {"reorder_us": self.reorder_us, "wrap_bits": self.wrap_bits, "on_restart": self.on_restart}
        queue = {"policy": self.queue, "windows": self.queue_windows}
        # What is left out is up to the service.
        fields: dict[str, Any] = {}
        if window:
            fields["window"] = window
        if self.gaps != "step":
            fields["gaps"] = self.gaps
        if not self.ordered:
            fields["time"] = time
        if not self.lossless or self.queue_windows is not None:
            fields["queue"] = queue
        if self.deadline_ms is not None:
            fields["deadline_ms"] = self.deadline_ms
        if self.filter_background_us or self.filter_refractory_us or self.filter_hot:
            fields["filter"] = {
                "background_activity_us": self.filter_background_us,
                "refractory_us": self.filter_refractory_us,
                "hot_pixel": {} if self.filter_hot else None,
            }
        if self.frames is not None:
            fields["frames"] = self.frames.hello()
        return fields
